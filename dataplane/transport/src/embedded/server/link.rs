//! One connection of the broker: frames in, bytes out.
//!
//! Takes the socket's bytes, gives whole frames to the core; large bodies go straight into their file. Takes the
//! session's output, gives it to the socket: gathered, or from file to socket within the kernel. Never blocks on the
//! socket. Any error ends the connection.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::embedded::broker::{Chunk, Core, Refused, SessionId, Upload};
use crate::embedded::limits::{INLINE_BODY_BYTES_MAX, OUT_BYTES_MAX, TURN_FILE_BYTES_MAX, TURN_READ_BYTES_MAX};
use crate::embedded::wire::{self, HEADER, Header};

/// Size of an input buffer until a larger frame comes.
const BUFFER_BYTES: usize = 64 << 10;

/// Size of an input buffer while a body goes to its file.
const UPLOAD_BUFFER_BYTES: usize = 256 << 10;

/// Large bodies of one connection that are on their way to the disk at a time: what a disk takes together costs
/// little more than one.
const SYNCS_MAX: usize = 8;

/// Slices of one write.
const SLICES_MAX: usize = 64;

enum State {
    /// The next byte begins a frame.
    Frames,
    /// A refused body. It is answered once it is over: until then the client reads it from memory that the answer frees.
    Skipping { left: u64, then: Box<Refused> },
    /// A large body.
    Uploading(Box<Upload>),
}

/// A large body that is whole, and on its way to the disk.
type Sync = (Box<Upload>, JoinHandle<io::Result<()>>);

/// One connection.
pub(super) struct Link {
    stream: UnixStream,
    input: Vec<u8>,
    start: usize,
    end: usize,
    state: State,
    syncs: Vec<Sync>,
}

impl Link {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, input: vec![0; BUFFER_BYTES], start: 0, end: 0, state: State::Frames, syncs: Vec::new() }
    }

    /// Reads and serves what has come, up to a turn's share. Whether there may be more.
    pub(super) fn read(
        &mut self,
        cx: &mut Context<'_>,
        core: &mut Core,
        id: SessionId,
        now: Instant,
    ) -> io::Result<bool> {
        let mut read = 0;
        loop {
            self.finish_syncs(cx, core)?;
            self.serve(core, id, now)?;
            if self.syncs.len() >= SYNCS_MAX || core.out(id).is_none_or(|out| out.len() > OUT_BYTES_MAX) {
                return self.finish_syncs(cx, core);
            }
            if read >= TURN_READ_BYTES_MAX {
                return Ok(true);
            }
            self.make_room();
            if self.stream.poll_read_ready(cx)?.is_pending() {
                return Ok(read > 0);
            }
            let room = self.input.get_mut(self.end..).unwrap_or_default();
            match self.stream.try_read(room) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.end += count;
                    read += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn available(&self) -> &[u8] {
        self.input.get(self.start..self.end).unwrap_or_default()
    }

    /// Makes the buffer large enough for the frame that has begun.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let wanted = match &self.state {
            State::Uploading(_) => UPLOAD_BUFFER_BYTES,
            _ => match Header::read(self.available()) {
                Ok(Some(header)) if header.body <= INLINE_BODY_BYTES_MAX => HEADER + header.head + header.body as usize,
                _ => BUFFER_BYTES,
            },
        };
        if wanted > self.input.len() - self.start || self.end == self.input.len() {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if wanted > self.input.len() {
            self.input.resize(wanted, 0);
        }
    }

    /// Serves what is in the buffer, as far as it is whole.
    fn serve(&mut self, core: &mut Core, id: SessionId, now: Instant) -> io::Result<()> {
        while self.syncs.len() < SYNCS_MAX {
            match std::mem::replace(&mut self.state, State::Frames) {
                State::Frames => {
                    if !self.serve_frame(core, id, now)? {
                        return Ok(());
                    }
                }
                State::Skipping { left, then } => {
                    let skipped = left.min(self.available().len() as u64);
                    self.start += skipped as usize;
                    if left > skipped {
                        self.state = State::Skipping { left: left - skipped, then };
                        return Ok(());
                    }
                    core.tell_refused(&then);
                }
                State::Uploading(upload) => {
                    if !self.upload(core, upload) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the large bodies that are on the disk now. Whether there were any.
    fn finish_syncs(&mut self, cx: &mut Context<'_>, core: &mut Core) -> io::Result<bool> {
        let before = self.syncs.len();
        for (upload, mut sync) in std::mem::take(&mut self.syncs) {
            match Pin::new(&mut sync).poll(cx) {
                Poll::Pending => self.syncs.push((upload, sync)),
                Poll::Ready(Ok(Ok(()))) => core.finish_upload(*upload),
                Poll::Ready(Ok(Err(error))) => refuse_whole(core, *upload, &error),
                Poll::Ready(Err(error)) => {
                    refuse_whole(core, *upload, &error);
                    return Err(io::Error::other(error));
                }
            }
        }
        Ok(self.syncs.len() < before)
    }

    /// Serves one frame, or begins with a large body. Whether there was enough of it.
    fn serve_frame(&mut self, core: &mut Core, id: SessionId, now: Instant) -> io::Result<bool> {
        let Some(header) = Header::read(self.available()).map_err(io::Error::other)? else { return Ok(false) };
        let large = header.body > INLINE_BODY_BYTES_MAX;
        if large && header.kind != wire::PUBLISH {
            return Err(io::Error::other("a large frame that is no message"));
        }
        let needed = HEADER + header.head + if large { 0 } else { header.body as usize };
        let Some(frame) = self.available().get(..needed) else { return Ok(false) };
        let (head, body) = frame.split_at(HEADER + header.head);
        let head = head.get(HEADER..).unwrap_or_default();
        if large {
            self.state = match core.begin_upload(id, head, header.body, now).map_err(io::Error::other)? {
                Ok(upload) => State::Uploading(Box::new(upload)),
                Err(refused) => State::Skipping { left: header.body, then: Box::new(refused) },
            };
        } else {
            core.serve(id, header.kind, head, body, now).map_err(io::Error::other)?;
        }
        self.start += needed;
        Ok(true)
    }

    /// Moves what has come of a large body into its file. Whether something follows it.
    fn upload(&mut self, core: &mut Core, mut upload: Box<Upload>) -> bool {
        let count = upload.left().min(self.available().len() as u64);
        let written = upload.write(self.available().get(..count as usize).unwrap_or_default());
        self.start += count as usize;
        if let Err(error) = written {
            let left = upload.left().saturating_sub(count);
            self.state = State::Skipping { left, then: Box::new(core.abort_upload(*upload, &error)) };
            return true;
        }
        if upload.left() > 0 {
            self.state = State::Uploading(upload);
            return false;
        }
        if !core.fsync() {
            core.finish_upload(*upload);
            return true;
        }
        match upload.sync() {
            // Up to hundreds of megabytes: on another thread, so that nobody else waits for it.
            Ok(sync) => self.syncs.push((upload, tokio::task::spawn_blocking(sync))),
            Err(error) => refuse_whole(core, *upload, &error),
        }
        true
    }

    /// Gives up what the connection had begun.
    pub(super) fn abandon(self, core: &mut Core) {
        let unsynced = self.syncs.into_iter().map(|(upload, _)| upload);
        let unfinished = match self.state {
            State::Uploading(upload) => Some(upload),
            State::Frames | State::Skipping { .. } => None,
        };
        for upload in unsynced.chain(unfinished) {
            // Nobody is left to be told.
            let _ = core.abort_upload(*upload, &"the connection broke");
        }
    }

    /// Writes what waits, as far as the socket takes it. Whether it may take more.
    pub(super) fn write(&mut self, cx: &mut Context<'_>, core: &mut Core, id: SessionId) -> io::Result<bool> {
        let mut file_bytes = 0;
        let mut wrote = false;
        let more = loop {
            let Some(out) = core.out(id).filter(|out| !out.is_empty()) else { break false };
            if file_bytes >= TURN_FILE_BYTES_MAX {
                break true;
            }
            if self.stream.poll_write_ready(cx)?.is_pending() {
                break false;
            }
            let result = if let Some(Chunk::File { file, offset, left }) = out.front_mut() {
                let result = self.stream.try_io(Interest::WRITABLE, || {
                    Ok(rustix::fs::sendfile(&self.stream, &*file, Some(offset), *left as usize)?)
                });
                if let Ok(count) = result {
                    if count == 0 {
                        return Err(io::Error::other("a body file is shorter than it was"));
                    }
                    *left -= count as u64;
                    file_bytes += count as u64;
                    out.end_file();
                }
                result
            } else {
                let slices: Vec<IoSlice<'_>> = out.slices().take(SLICES_MAX).map(IoSlice::new).collect();
                let result = self.stream.try_write_vectored(&slices);
                if let Ok(count) = result {
                    out.wrote(count);
                }
                result
            };
            match result {
                Ok(_) => wrote = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        };
        if wrote {
            core.drained(id);
        }
        Ok(more)
    }
}

/// Refuses a body that has come as a whole.
fn refuse_whole(core: &mut Core, upload: Upload, why: &dyn std::fmt::Display) {
    let refused = core.abort_upload(upload, why);
    core.tell_refused(&refused);
}
