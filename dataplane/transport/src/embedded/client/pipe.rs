//! One connection of a client: a socket with its output and a read buffer.
//!
//! Takes frames to write, gives whole frames that were read. Never blocks.

use std::io;
use std::os::fd::AsFd;
use std::task::Context;

use tokio::io::Interest;
use tokio::net::UnixStream;

use super::outbox::Outbox;
use crate::Memory;
use crate::embedded::limits::{CLIENT_BUFFER_BYTES, CLIENT_READS_PER_POLL, FRAME_HEAD_BYTES_MAX};
use crate::embedded::wire::{self, HEADER, Header, Malformed};

/// One connection.
pub(super) struct Pipe {
    stream: UnixStream,
    pub(super) out: Outbox,
    input: Vec<u8>,
    start: usize,
    end: usize,
    reads: u32,
    /// Bytes read since the connection's beginning.
    read: u64,
}

impl Pipe {
    pub(super) fn new(stream: UnixStream) -> Self {
        let input = vec![0; CLIENT_BUFFER_BYTES];
        Self { stream, out: Outbox::default(), input, start: 0, end: 0, reads: 0, read: 0 }
    }

    /// Bytes that have moved, in either direction, since the connection's beginning.
    pub(super) fn moved(&self) -> u64 {
        self.read + self.out.written()
    }

    pub(super) fn settle(&mut self, how: u8, number: u64) {
        self.out.frame(wire::SETTLE, 0, |head| {
            head.u8(how);
            head.u64(number);
        });
    }

    /// Bytes that were read and not taken.
    pub(super) fn available(&self) -> &[u8] {
        self.input.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn take(&mut self, count: usize) {
        self.start += count;
    }

    /// The header and head of the frame that is next, when they are there; they stay until [`Pipe::take`].
    pub(super) fn peek(&self) -> Result<Option<(Header, &[u8])>, Malformed> {
        let available = self.available();
        let Some(header) = Header::read(available)? else { return Ok(None) };
        Ok(available.get(HEADER..HEADER + header.head).map(|head| (header, head)))
    }

    /// Takes the next frame, which must have no body.
    pub(super) fn frame(&mut self) -> Result<Option<(u8, &[u8])>, Malformed> {
        let Some((header, _)) = self.peek()? else { return Ok(None) };
        if header.body != 0 {
            return Err(Malformed("a body where none belongs"));
        }
        let from = self.start + HEADER;
        self.start = from + header.head;
        Ok(self.input.get(from..self.start).map(|head| (header.kind, head)))
    }

    /// Reads more into the buffer. Whether anything came; if not, `cx` will be woken when it does.
    pub(super) fn fill(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.input.len() - self.start < HEADER + FRAME_HEAD_BYTES_MAX {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut input = std::mem::take(&mut self.input);
        let read = self.read_into(cx, input.get_mut(self.end..).unwrap_or_default());
        self.input = input;
        let count = read?;
        self.end += count;
        Ok(count > 0)
    }

    /// Reads into memory of the caller, which is not empty. 0: nothing is there now, and `cx` will be woken.
    pub(super) fn read_into(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> io::Result<usize> {
        if self.reads >= CLIENT_READS_PER_POLL {
            // The others of this thread first; then again.
            self.reads = 0;
            cx.waker().wake_by_ref();
            return Ok(0);
        }
        while self.stream.poll_read_ready(cx)?.is_ready() {
            match self.stream.try_read(into) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker closed the connection")),
                Ok(count) => {
                    self.reads += 1;
                    self.read += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.reads = 0;
        Ok(0)
    }

    /// Writes what the socket takes now.
    pub(super) fn write(&mut self, memory: &dyn Memory) -> io::Result<()> {
        while !self.out.is_empty() {
            let pieces = self.out.pieces();
            let wrote = self.stream.try_io(Interest::WRITABLE, || memory.write_gathered(self.stream.as_fd(), &pieces));
            match wrote {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.out.wrote(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Arranges for `cx` to be woken when the socket takes what waits.
    pub(super) fn register_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.out.is_empty() && self.stream.poll_write_ready(cx)?.is_ready() {
            // Not even tried since the socket was last full, or written by `poll` only once it can be again.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }
}
