//! What the commands print.
//!
//! Takes text; writes it to standard output or standard error. Blocks on the reader of either. On failure: a closed
//! standard output is an [`Error`] that ends the command quietly, as `… | head -1` wants it; what cannot be said on
//! standard error is dropped, because there is nowhere left to say so.

use crate::error::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;

/// Prints text as it is.
pub fn print(text: &str) -> Result<(), Error> {
    write(&mut std::io::stdout().lock(), text)
}

/// Prints a line.
pub fn line(text: &str) -> Result<(), Error> {
    print(&format!("{text}\n"))
}

/// Says a line on standard error.
pub fn note(text: &str) {
    // One write, so that lines of several processes do not mix.
    drop(std::io::stderr().lock().write_all(format!("{text}\n").as_bytes()));
}

/// Whether nobody reads standard output any more, seen without writing to it.
pub fn is_closed() -> bool {
    reader_is_gone(&std::io::stdout())
}

fn reader_is_gone(stream: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // An error tells nothing; a write will.
    poll(&mut polled, Some(&at_once)).is_ok_and(|_| polled.iter().any(|fd| fd.revents().contains(PollFlags::ERR)))
}

fn write(stream: &mut impl Write, text: &str) -> Result<(), Error> {
    stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).map_err(|source| match source.kind() {
        ErrorKind::BrokenPipe => Error::Closed,
        _ => Error::System { what: "standard output cannot be written".to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_told_from_a_full_disk() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        write(&mut writer, "read\n").unwrap();
        assert!(!reader_is_gone(&writer));
        drop(reader);
        assert!(reader_is_gone(&writer));
        assert!(matches!(write(&mut writer, "unread\n"), Err(Error::Closed)));
        let mut full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let why = write(&mut full, "x").unwrap_err().to_string();
        assert!(why.starts_with("standard output cannot be written: No space left"), "{why}");
    }
}
