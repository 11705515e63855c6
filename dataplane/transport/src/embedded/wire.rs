//! The frames between the embedded broker and its clients.
//!
//! Takes values, gives bytes, and back. Never blocks. Bytes that are no frame give [`Malformed`], which ends the
//! connection.
//!
//! A frame is a header of eight bytes, a head and a body; numbers are little-endian, names are a `u16` of length and
//! UTF-8:
//!
//! ```text
//! body: u32 | head: u16 | kind: u8 | 0: u8 || head … || body …
//! ```
//!
//! | from | kind | head | body |
//! | --- | --- | --- | --- |
//! | client | `HELLO` | magic `u32`, version `u16` | |
//! | broker | `WELCOME` | version `u16`, largest body `u64` | |
//! | client | `DECLARE` | delivery limit `u32`, quiet `u8`, queue, dead-letter queue or "" | |
//! | broker | `DECLARED`, `FAILED` | queue, what differs or why | |
//! | client | `CONSUME` | window `u32`, queue | |
//! | client | `CANCEL` | | |
//! | broker | `CANCELED` | asked `u8` | |
//! | client | `PUBLISH` | token `u64`, delay in ms `u64`, content type `u8`, queue, message id | bytes |
//! | broker | `PUBLISHED` | token `u64`, outcome `u8`, number `u64`, why | |
//! | broker | `DELIVER` | number `u64`, content type `u8`, redelivered `u8`, losses `u32` | bytes |
//! | client | `SETTLE` | how `u8`, number `u64` | |
//! | client | `DEPTH` | queue | |
//! | broker | `DEPTH_IS` | ready `u64`, held `u64`, queue | |
//! | broker | `BLOCKED` | blocked `u8` | |
//! | tool | `LIST`, `BROWSE`, `REMOVE`, `MOVE`, `PURGE`, `DELETE`, `KEEP`, `DISCONNECT`, `PAUSE`, `STOP` | see `admin` | |
//! | broker | `INFO`, `MESSAGE`, `DONE`, `ERROR` | see `admin` | bytes of a message |
//!
//! A `PUBLISHED` follows the last byte of its `PUBLISH`, a refusal too: it lets the client use the body's memory again.
//! An earlier one ends the connection.

use super::limits::{FRAME_HEAD_BYTES_MAX, REASON_BYTES_MAX};
use crate::ContentType;

/// First word of a `HELLO`.
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"ASYA");

/// Version of these frames; the other side must speak the same one.
pub(super) const VERSION: u16 = 1;

/// Bytes of a header.
pub(super) const HEADER: usize = 8;

macro_rules! kinds {
    ($($name:ident = $value:literal,)*) => { $(pub(in crate::embedded) const $name: u8 = $value;)* };
}

kinds! {
    HELLO = 1, DECLARE = 2, CONSUME = 3, CANCEL = 4, PUBLISH = 5, SETTLE = 6, DEPTH = 7,
    LIST = 20, BROWSE = 21, REMOVE = 22, MOVE = 23, PURGE = 24, DELETE = 25, KEEP = 26, DISCONNECT = 27, PAUSE = 28,
    STOP = 29,
    WELCOME = 64, DECLARED = 65, FAILED = 66, CANCELED = 67, PUBLISHED = 68, DELIVER = 69, DEPTH_IS = 70, BLOCKED = 71,
    INFO = 80, MESSAGE = 81, DONE = 82, ERROR = 83,
}

/// Outcomes in a `PUBLISHED`.
pub(super) mod outcome {
    kinds! { CONFIRMED = 0, UNROUTABLE = 1, REFUSED = 2, TOO_LARGE = 3, }
}

/// Settlements in a `SETTLE`.
pub(super) mod settle {
    kinds! { ACK = 0, REQUEUE = 1, REJECT = 2, }
}

/// Bytes that are no frame of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame: {0}")]
pub struct Malformed(pub(super) &'static str);

/// What comes before a frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) head: usize,
    pub(super) body: u64,
}

impl Header {
    /// Reads the header at the beginning of `bytes`; `None` when it is not complete.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some((bytes, _)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [b0, b1, b2, b3, h0, h1, kind, zero] = *bytes;
        let head = usize::from(u16::from_le_bytes([h0, h1]));
        if zero != 0 || head > FRAME_HEAD_BYTES_MAX {
            return Err(Malformed("not a header"));
        }
        Ok(Some(Self { kind, head, body: u64::from(u32::from_le_bytes([b0, b1, b2, b3])) }))
    }
}

/// Appends a header and the head that `write` makes, for a body of `body` bytes that follows.
pub(super) fn frame(out: &mut Vec<u8>, kind: u8, body: u64, write: impl FnOnce(&mut Head<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    write(&mut Head(out));
    let head = (out.len() - start - HEADER) as u16;
    let body = u32::try_from(body).unwrap_or(u32::MAX).to_le_bytes();
    let header = [body[0], body[1], body[2], body[3], head.to_le_bytes()[0], head.to_le_bytes()[1], kind, 0];
    if let Some(place) = out.get_mut(start..start + HEADER) {
        place.copy_from_slice(&header);
    }
}

/// Appends the fields of a head.
pub(super) struct Head<'a>(&'a mut Vec<u8>);

impl Head<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A name, cut at a character boundary within [`REASON_BYTES_MAX`].
    pub(super) fn name(&mut self, name: &str) {
        let name = cut(name, REASON_BYTES_MAX);
        self.u16(name.len() as u16);
        self.0.extend_from_slice(name.as_bytes());
    }

    pub(super) fn content_type(&mut self, content_type: ContentType) {
        self.u8(content_type_byte(content_type));
    }
}

/// The longest beginning of `text` within `max` bytes that ends with a whole character.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

pub(super) fn content_type_byte(content_type: ContentType) -> u8 {
    match content_type {
        ContentType::Json => 0,
        ContentType::Native => 1,
    }
}

pub(super) fn content_type_of(byte: u8) -> Result<ContentType, Malformed> {
    match byte {
        0 => Ok(ContentType::Json),
        1 => Ok(ContentType::Native),
        _ => Err(Malformed("unknown content type")),
    }
}

/// Reads the fields of a head.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (value, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("a head ends early"))?;
        self.0 = rest;
        Ok(*value)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(super) fn name(&mut self) -> Result<&'a str, Malformed> {
        let len = usize::from(self.u16()?);
        let (name, rest) = self.0.split_at_checked(len).ok_or(Malformed("a name ends early"))?;
        self.0 = rest;
        std::str::from_utf8(name).map_err(|_| Malformed("a name is not UTF-8"))
    }

    pub(super) fn content_type(&mut self) -> Result<ContentType, Malformed> {
        content_type_of(self.u8()?)
    }
}
