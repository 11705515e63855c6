//! Output of a client: its own bytes, and parts that lie in the caller's memory.
//!
//! Takes frames and parts in order, gives gathered pieces. Never blocks, never copies a part.

use std::collections::VecDeque;

use crate::embedded::wire::{self, frame};
use crate::{Part, Piece};

/// Pieces of one write; the number in [`crate::Memory::write_gathered`]'s contract.
const PIECES_MAX: usize = 1024;

/// Written bytes in the buffer from which on it is moved together.
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
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes in memory of this side; parts are not counted.
    pub(super) fn len(&self) -> usize {
        self.buffer.len() - self.start
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
        match self.segments.back_mut() {
            Some(Segment::Bytes(len)) => *len += added,
            _ if added == 0 => {}
            _ => self.segments.push_back(Segment::Bytes(added)),
        }
    }

    pub(super) fn part(&mut self, part: Part) {
        if part.len > 0 {
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
        }
        if self.segments.is_empty() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start >= COMPACT_FROM {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }
}
