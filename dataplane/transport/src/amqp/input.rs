//! The buffer between a socket and the decoder.
//!
//! Takes what a read put into [`Input::space`]; gives what is not used up yet ([`Input::unread`]). Never blocks. It
//! never grows: it holds one whole frame of the agreed size and the start of the next.

/// A fixed buffer with a window of unread bytes.
#[derive(Debug)]
pub struct Input {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    /// An empty one of `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), start: 0, end: 0 }
    }

    /// What was read and not used up.
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Whether nothing is unread.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The first `len` unread bytes are used up.
    pub fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room to read into, at most `max` bytes of it; empty only when the buffer is full of unread bytes.
    pub fn space(&mut self, max: usize) -> &mut [u8] {
        if self.start > 0 && self.bytes.len() - self.end < max {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let end = self.bytes.len().min(self.end.saturating_add(max));
        &mut self.bytes[self.end..end]
    }

    /// The first `len` bytes of [`Input::space`] were filled.
    pub fn filled(&mut self, len: usize) {
        self.end = (self.end + len).min(self.bytes.len());
    }
}
