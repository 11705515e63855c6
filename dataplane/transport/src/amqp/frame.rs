//! Finds frames in a stream of bytes, in place.
//!
//! Takes the bytes that are there; gives the next frame and how many bytes it used up, or nothing when more must be
//! read first. Method and header frames are given whole; a body frame is given in whatever chunks are there, so that
//! the rest of it can be read from the socket straight to where it belongs ([`Decoder::open_body`]). Never blocks.
//! After an error the stream is unusable.

use super::content::ContentHeader;
use super::method::Method;
use super::wire::WireError;
use super::{FRAME_END, FRAME_HEADER_LEN, FRAME_OVERHEAD, frame_type};

/// Why a stream of bytes is not one of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Larger than what was agreed on.
    #[error("a frame of {len} bytes where at most {max} were agreed on")]
    TooLarge {
        /// Payload bytes that it announced.
        len: u32,
        /// Payload bytes that it may have.
        max: u32,
    },
    /// The end octet is something else.
    #[error("a frame does not end where it said that it would")]
    NoEnd,
    /// A type that does not exist.
    #[error("a frame of unknown type {0}")]
    UnknownType(u8),
    /// The peer speaks another version of the protocol.
    #[error("the peer does not speak AMQP 0-9-1")]
    OtherProtocol,
    /// What it carries cannot be read.
    #[error(transparent)]
    Malformed(#[from] WireError),
}

/// A frame, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A method.
    Method {
        /// 0 for the connection itself.
        channel: u16,
        /// The method.
        method: Method<'a>,
    },
    /// The header of a content.
    Header {
        /// The channel.
        channel: u16,
        /// The header.
        header: ContentHeader<'a>,
    },
    /// The next bytes of a body: all or some of a body frame, never none.
    Body {
        /// The channel.
        channel: u16,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A sign of life.
    Heartbeat,
}

/// Where in the stream it is.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Bytes that a payload may have.
    payload_max: u32,
    /// The body frame that it is in the middle of.
    body: Option<OpenBody>,
}

#[derive(Clone, Copy, Debug)]
struct OpenBody {
    channel: u16,
    /// Bytes before the end octet.
    left: u32,
}

impl Decoder {
    /// At the start of a stream whose frames have at most `frame_max` bytes in all.
    pub fn new(frame_max: u32) -> Self {
        let mut decoder = Self { payload_max: 0, body: None };
        decoder.set_frame_max(frame_max);
        decoder
    }

    /// Frames have at most `frame_max` bytes from now on.
    pub fn set_frame_max(&mut self, frame_max: u32) {
        self.payload_max = frame_max.saturating_sub(FRAME_OVERHEAD as u32);
    }

    /// The channel of the body frame that it is in the middle of, and how many bytes of it come next on the wire.
    pub fn open_body(&self) -> Option<(u16, u32)> {
        self.body.map(|body| (body.channel, body.left))
    }

    /// That many bytes of the open body frame were read past this decoder.
    pub fn body_read(&mut self, len: u32) {
        if let Some(body) = &mut self.body {
            body.left = body.left.saturating_sub(len);
        }
    }

    /// The next frame at the start of `input`, and how many bytes of `input` are used up by it. When there is no whole
    /// frame the count may still be above zero (the end of a body frame).
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Frame<'a>>), FrameError> {
        let mut used = 0;
        loop {
            if let Some(body) = self.body {
                match self.in_body(body, &input[used..])? {
                    (taken, Some(frame)) => return Ok((used + taken, Some(frame))),
                    (0, None) => return Ok((used, None)),
                    (taken, None) => used += taken,
                }
            }
            let rest = &input[used..];
            let Some(head) = rest.first_chunk::<FRAME_HEADER_LEN>() else {
                return Ok((used, None));
            };
            let [kind, channel_hi, channel_lo, len @ ..] = *head;
            let channel = u16::from_be_bytes([channel_hi, channel_lo]);
            let len = u32::from_be_bytes(len);
            if kind == b'A' && rest.starts_with(b"AMQP") {
                return Err(FrameError::OtherProtocol);
            }
            if !matches!(kind, frame_type::METHOD | frame_type::HEADER | frame_type::BODY | frame_type::HEARTBEAT) {
                return Err(FrameError::UnknownType(kind));
            }
            if len > self.payload_max {
                return Err(FrameError::TooLarge { len, max: self.payload_max });
            }
            if kind == frame_type::BODY {
                self.body = Some(OpenBody { channel, left: len });
                used += FRAME_HEADER_LEN;
                continue;
            }
            let end = FRAME_HEADER_LEN + len as usize;
            let Some(&last) = rest.get(end) else {
                return Ok((used, None));
            };
            if last != FRAME_END {
                return Err(FrameError::NoEnd);
            }
            let payload = &rest[FRAME_HEADER_LEN..end];
            let frame = match kind {
                frame_type::METHOD => Frame::Method { channel, method: Method::decode(payload)? },
                frame_type::HEADER => Frame::Header { channel, header: ContentHeader::decode(payload)? },
                _ => Frame::Heartbeat,
            };
            return Ok((used + end + 1, Some(frame)));
        }
    }

    /// In the middle of a body frame: its next bytes, or its end.
    fn in_body<'a>(&mut self, body: OpenBody, input: &'a [u8]) -> Result<(usize, Option<Frame<'a>>), FrameError> {
        let here = input.len().min(body.left as usize);
        let left = body.left - here as u32;
        let mut taken = here;
        self.body = Some(OpenBody { left, ..body });
        if left == 0
            && let Some(&last) = input.get(here)
        {
            if last == FRAME_END {
                taken += 1;
                self.body = None;
            } else if here == 0 {
                // Bytes before it are given first, as they are when the end comes later.
                return Err(FrameError::NoEnd);
            }
        }
        let frame = (here > 0).then_some(Frame::Body { channel: body.channel, bytes: &input[..here] });
        Ok((taken, frame))
    }
}
