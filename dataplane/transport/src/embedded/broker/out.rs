//! What waits to be written to one connection, in order.
//!
//! Takes frames and bodies, gives gathered slices. Never blocks. Small things are copied together; large bodies are
//! shared with the store or read from their file, so that none is in memory twice.

use std::collections::VecDeque;
use std::fs::File;

use fjall::Slice;

use crate::embedded::wire::{self, frame};

/// Bodies from this size on are shared rather than copied: a copy of less costs less than a piece of its own.
const SHARE_FROM: usize = 16 << 10;

/// Bytes after which a new buffer is begun, so that written ones are given back.
const BUFFER_BYTES: usize = 128 << 10;

/// One stretch of output.
pub(in crate::embedded) enum Chunk {
    Bytes(Vec<u8>),
    Shared(Slice),
    File { file: File, offset: u64, left: u64 },
}

/// Output that waits.
#[derive(Default)]
pub(in crate::embedded) struct Out {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are written already.
    written: usize,
    /// Bytes in memory; files are not counted.
    len: usize,
}

impl Out {
    pub(in crate::embedded) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes that wait in memory.
    pub(in crate::embedded) fn len(&self) -> usize {
        self.len
    }

    /// Whether a file waits.
    pub(in crate::embedded) fn has_file(&self) -> bool {
        self.chunks.iter().any(|chunk| matches!(chunk, Chunk::File { .. }))
    }

    /// Appends other output.
    pub(in crate::embedded) fn append(&mut self, mut other: Self) {
        self.len += other.len;
        self.chunks.append(&mut other.chunks);
    }

    pub(in crate::embedded) fn frame(&mut self, kind: u8, body: u64, write: impl FnOnce(&mut wire::Head<'_>)) {
        self.write(|out| frame(out, kind, body, write));
    }

    pub(in crate::embedded) fn bytes(&mut self, bytes: &[u8]) {
        self.write(|out| out.extend_from_slice(bytes));
    }

    pub(in crate::embedded) fn body(&mut self, body: Slice) {
        if body.len() < SHARE_FROM {
            self.bytes(&body);
        } else {
            self.len += body.len();
            self.chunks.push_back(Chunk::Shared(body));
        }
    }

    pub(in crate::embedded) fn file(&mut self, file: File, len: u64) {
        self.chunks.push_back(Chunk::File { file, offset: 0, left: len });
    }

    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.chunks.back(), Some(Chunk::Bytes(bytes)) if bytes.len() < BUFFER_BYTES) {
            self.chunks.push_back(Chunk::Bytes(Vec::new()));
        }
        if let Some(Chunk::Bytes(bytes)) = self.chunks.back_mut() {
            let before = bytes.len();
            write(bytes);
            self.len += bytes.len() - before;
        }
    }

    /// The slices before the first file.
    pub(in crate::embedded) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let in_memory = self.chunks.iter().map_while(|chunk| match chunk {
            Chunk::Bytes(bytes) => Some(bytes.as_slice()),
            Chunk::Shared(slice) => Some(&**slice),
            Chunk::File { .. } => None,
        });
        in_memory
            .enumerate()
            .map(|(at, bytes)| if at == 0 { bytes.get(self.written..).unwrap_or_default() } else { bytes })
    }

    /// The first chunk.
    pub(in crate::embedded) fn front_mut(&mut self) -> Option<&mut Chunk> {
        self.chunks.front_mut()
    }

    /// `count` bytes of [`Out::slices`] are written.
    pub(in crate::embedded) fn wrote(&mut self, count: usize) {
        self.len -= count;
        let mut count = self.written + count;
        while let Some(Chunk::Bytes(_) | Chunk::Shared(_)) = self.chunks.front() {
            let len = self.slices_front_len();
            if count < len {
                break;
            }
            count -= len;
            self.chunks.pop_front();
        }
        self.written = count;
    }

    fn slices_front_len(&self) -> usize {
        match self.chunks.front() {
            Some(Chunk::Bytes(bytes)) => bytes.len(),
            Some(Chunk::Shared(slice)) => slice.len(),
            _ => 0,
        }
    }

    /// Drops the first chunk when it is a file that is written.
    pub(in crate::embedded) fn end_file(&mut self) {
        if matches!(self.chunks.front(), Some(Chunk::File { left: 0, .. })) {
            self.chunks.pop_front();
        }
    }
}
