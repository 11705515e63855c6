//! What is to be written to a socket, in order: bytes of our own, and parts of memory that is not ours.
//!
//! Takes frames from [`super::encode`]; gives pieces for a gathered write and is told how much of them was taken. Own
//! bytes share one buffer that is reused; neighbouring ones are one piece. Never blocks. Its size is bounded by what
//! its user leaves unanswered: publishes without a confirm and settlements of what is held.

use std::collections::VecDeque;

use crate::api::{Memory, Part, Piece};

/// Used-up own bytes are only moved away once there are this many: 64 KiB, so that the move is rare.
const COMPACT_FROM: usize = 64 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Own bytes, those before `head` written.
    own: Vec<u8>,
    head: usize,
    queue: VecDeque<Queued>,
}

#[derive(Clone, Copy, Debug)]
enum Queued {
    /// That many own bytes.
    Own(usize),
    Part(Part),
}

impl Outbox {
    /// Whether everything is written.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Appends own bytes.
    pub fn own(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.own.len();
        write(&mut self.own);
        let len = self.own.len() - before;
        match self.queue.back_mut() {
            _ if len == 0 => {}
            Some(Queued::Own(last)) => *last += len,
            _ => self.queue.push_back(Queued::Own(len)),
        }
    }

    /// Appends a part, which stays where it is until it is written.
    pub fn part(&mut self, part: Part) {
        if part.len > 0 {
            self.queue.push_back(Queued::Part(part));
        }
    }

    /// The first pieces, at most `max` of them.
    pub fn gather(&self, max: usize) -> Vec<Piece<'_>> {
        let mut pieces = Vec::with_capacity(self.queue.len().min(max));
        let mut at = self.head;
        for queued in self.queue.iter().take(max) {
            pieces.push(match *queued {
                Queued::Own(len) => {
                    let from = at;
                    at += len;
                    Piece::Bytes(&self.own[from..at])
                }
                Queued::Part(part) => Piece::Part(part),
            });
        }
        pieces
    }

    /// The first `len` bytes are written.
    pub fn written(&mut self, mut len: usize) {
        while len > 0 {
            match self.queue.front_mut() {
                Some(Queued::Own(own)) => {
                    let taken = len.min(*own);
                    *own -= taken;
                    self.head += taken;
                    len -= taken;
                    if *own > 0 {
                        return;
                    }
                }
                Some(Queued::Part(part)) => {
                    let taken = part.len.min(len as u64);
                    part.offset += taken;
                    part.len -= taken;
                    len -= taken as usize;
                    if part.len > 0 {
                        return;
                    }
                }
                None => break,
            }
            self.queue.pop_front();
        }
        if self.queue.is_empty() {
            self.own.clear();
            self.head = 0;
        } else if self.head >= COMPACT_FROM && self.head * 2 > self.own.len() {
            self.own.drain(..self.head);
            self.head = 0;
        }
    }

    /// Moves at least the next `len` bytes, or all, into `out`: for writers that must transform them. Whole pieces
    /// are moved, except that a part is cut at `len`.
    pub fn take(&mut self, len: usize, memory: &dyn Memory, out: &mut Vec<u8>) {
        let end = out.len() + len;
        while out.len() < end {
            let room = end - out.len();
            let taken = match self.queue.front() {
                Some(Queued::Own(own)) => {
                    out.extend_from_slice(&self.own[self.head..self.head + own]);
                    *own
                }
                Some(Queued::Part(part)) => {
                    let taken = part.len.min(room as u64);
                    memory.copy_part(Part { len: taken, ..*part }, out);
                    taken as usize
                }
                None => return,
            };
            self.written(taken);
        }
    }
}
