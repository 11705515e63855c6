//! Output of a client: its own bytes, and parts that lie in the caller's memory.
//!
//! Takes frames and parts in order, gives gathered pieces. Never blocks, never copies a part. Its size is bounded by what
//! its user leaves unanswered: open publishes, and settlements of what is held. However much that is, it waits for the
//! broker.

use std::collections::VecDeque;

use crate::embedded::limits::CLIENT_OUT_BYTES_KEPT;
use crate::embedded::wire::{self, frame};
use crate::{Part, Piece};

/// Pieces of one write; the number in [`crate::Memory::write_gathered`]'s contract.
const PIECES_MAX: usize = 1024;

/// Written bytes in the buffer from which on it may be moved together.
const COMPACT_FROM: usize = 1 << 20;

enum Segment {
    /// So many bytes of the buffer.
    Bytes(usize),
    Part(Part),
}

/// Output that waits.
#[derive(Default)]
pub(super) struct Outbox {
    buffer: Vec<u8>,
    /// Bytes of the buffer that are written.
    start: usize,
    segments: VecDeque<Segment>,
    /// Bytes of the whole connection, parts included.
    appended: u64,
    written: u64,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Where the output ends now, in bytes since the connection's beginning.
    pub(super) fn end(&self) -> u64 {
        self.appended
    }

    /// How far it is written, in the same count.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn frame(&mut self, kind: u8, body: u64, write: impl FnOnce(&mut wire::Head<'_>)) {
        let before = self.buffer.len();
        frame(&mut self.buffer, kind, body, write);
        self.count(self.buffer.len() - before);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.count(bytes.len());
    }

    fn count(&mut self, added: usize) {
        self.appended += added as u64;
        match self.segments.back_mut() {
            Some(Segment::Bytes(len)) => *len += added,
            _ if added == 0 => {}
            _ => self.segments.push_back(Segment::Bytes(added)),
        }
    }

    pub(super) fn part(&mut self, part: Part) {
        if part.len > 0 {
            self.appended += part.len;
            self.segments.push_back(Segment::Part(part));
        }
    }

    /// The first pieces.
    pub(super) fn pieces(&self) -> Vec<Piece<'_>> {
        let mut at = self.start;
        let pieces = self.segments.iter().take(PIECES_MAX).map(|segment| match segment {
            Segment::Bytes(len) => {
                let bytes = self.buffer.get(at..at + len).unwrap_or_default();
                at += len;
                Piece::Bytes(bytes)
            }
            Segment::Part(part) => Piece::Part(*part),
        });
        pieces.collect()
    }

    /// `count` bytes of the pieces are written.
    pub(super) fn wrote(&mut self, mut count: usize) {
        while count > 0 {
            let Some(segment) = self.segments.front_mut() else { break };
            let taken = match segment {
                Segment::Bytes(len) => {
                    let taken = count.min(*len);
                    *len -= taken;
                    self.start += taken;
                    if *len == 0 {
                        self.segments.pop_front();
                    }
                    taken
                }
                Segment::Part(part) => {
                    let taken = usize::try_from(part.len).map_or(count, |len| count.min(len));
                    part.offset += taken as u64;
                    part.len -= taken as u64;
                    if part.len == 0 {
                        self.segments.pop_front();
                    }
                    taken
                }
            };
            count -= taken;
            self.written += taken as u64;
        }
        if self.segments.is_empty() {
            self.buffer.clear();
            self.buffer.shrink_to(CLIENT_OUT_BYTES_KEPT);
            self.start = 0;
        } else if self.start >= COMPACT_FROM && self.start * 2 > self.buffer.len() {
            // Less than was written is moved, so that a long queue costs no more a byte than a short one.
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }
}
