//! Messages that the suite sends: bytes that no other message has.
//!
//! Takes a seed and lengths, gives the same bytes for the same ones. Never blocks, cannot fail.

use std::time::Duration;

use crate::ContentType;

/// One message to publish.
#[derive(Clone, Debug)]
pub struct Message {
    /// Bytes before the parts.
    pub prefix: Vec<u8>,
    /// Bytes that lie in regions of memory.
    pub parts: Vec<Vec<u8>>,
    /// Bytes after the parts.
    pub suffix: Vec<u8>,
    /// How the body is said to be encoded.
    pub content_type: ContentType,
    /// The message's id.
    pub id: String,
    /// Not before.
    pub delay: Option<Duration>,
}

impl Message {
    /// A body that is one part of `len` bytes.
    pub fn of(seed: u64, len: usize) -> Self {
        Self::made_of(seed, 0, &[len], 0)
    }

    /// A small body in three pieces, as an envelope is.
    pub fn small(seed: u64) -> Self {
        Self::made_of(seed, 40, &[100], 30)
    }

    /// `count` small ones.
    pub fn some(seed: u64, count: u64) -> Vec<Self> {
        (0..count).map(|index| Self::small(seed * 10_000 + index)).collect()
    }

    /// A body of a prefix, parts and a suffix of these lengths.
    pub fn made_of(seed: u64, prefix: usize, parts: &[usize], suffix: usize) -> Self {
        let mut bytes = Bytes(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        Self {
            prefix: bytes.take(prefix),
            parts: parts.iter().map(|&len| bytes.take(len)).collect(),
            suffix: bytes.take(suffix),
            content_type: if seed.is_multiple_of(2) { ContentType::Json } else { ContentType::Native },
            id: format!("message-{seed}"),
            delay: None,
        }
    }

    /// The same, not to be delivered before `delay` is over.
    pub fn delayed(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// The whole body.
    pub fn body(&self) -> Vec<u8> {
        let mut body = self.prefix.clone();
        self.parts.iter().for_each(|part| body.extend_from_slice(part));
        body.extend_from_slice(&self.suffix);
        body
    }
}

/// A small xorshift generator: incompressible bytes without a dependency.
struct Bytes(u64);

impl Bytes {
    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            out.extend_from_slice(&self.0.to_le_bytes());
        }
        out.truncate(len);
        out
    }
}
