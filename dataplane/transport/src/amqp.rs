//! AMQP 0-9-1 as bytes: a frame codec that parses in place and encodes into gathered pieces.
//!
//! Takes bytes that a socket gave ([`frame::Decoder`]) and calls that a client makes ([`encode`]); gives borrowed
//! frames and an [`outbox::Outbox`] of pieces to write. Never blocks, knows no socket and no clock, and allocates
//! nothing per frame. What it does not understand is an error ([`wire::WireError`], [`frame::FrameError`]) on which
//! the connection has to be given up: framing cannot be found again.
//!
//! Only what this client needs is understood: of the content header the properties that it reads, of the methods those
//! that a RabbitMQ broker sends to it. Anything else is skipped by its length.

pub mod content;
pub mod encode;
pub mod frame;
pub mod input;
pub mod method;
pub mod outbox;
#[cfg(test)]
mod tests;
pub mod wire;

/// What a client says first.
pub const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// The last byte of every frame.
pub const FRAME_END: u8 = 0xCE;
/// Bytes before a frame's payload: type, channel, length.
pub const FRAME_HEADER_LEN: usize = 7;
/// Bytes of a frame beside its payload.
pub const FRAME_OVERHEAD: usize = FRAME_HEADER_LEN + 1;
/// No peer may ask for smaller frames than this (bytes).
pub const FRAME_MIN_SIZE: u32 = 4096;

/// The types of frame.
pub mod frame_type {
    /// A method.
    pub const METHOD: u8 = 1;
    /// The header of a content.
    pub const HEADER: u8 = 2;
    /// A piece of a content's body.
    pub const BODY: u8 = 3;
    /// Nothing but a sign of life.
    pub const HEARTBEAT: u8 = 8;
}

/// Method numbers: the class in the upper half, the method in the lower.
#[allow(missing_docs, reason = "the names are the specification's own")]
pub mod id {
    pub const CONNECTION_START: u32 = method(10, 10);
    pub const CONNECTION_START_OK: u32 = method(10, 11);
    pub const CONNECTION_TUNE: u32 = method(10, 30);
    pub const CONNECTION_TUNE_OK: u32 = method(10, 31);
    pub const CONNECTION_OPEN: u32 = method(10, 40);
    pub const CONNECTION_OPEN_OK: u32 = method(10, 41);
    pub const CONNECTION_CLOSE: u32 = method(10, 50);
    pub const CONNECTION_CLOSE_OK: u32 = method(10, 51);
    pub const CONNECTION_BLOCKED: u32 = method(10, 60);
    pub const CONNECTION_UNBLOCKED: u32 = method(10, 61);
    pub const CHANNEL_OPEN: u32 = method(20, 10);
    pub const CHANNEL_OPEN_OK: u32 = method(20, 11);
    pub const CHANNEL_FLOW: u32 = method(20, 20);
    pub const CHANNEL_FLOW_OK: u32 = method(20, 21);
    pub const CHANNEL_CLOSE: u32 = method(20, 40);
    pub const CHANNEL_CLOSE_OK: u32 = method(20, 41);
    pub const EXCHANGE_DECLARE: u32 = method(40, 10);
    pub const EXCHANGE_DECLARE_OK: u32 = method(40, 11);
    pub const QUEUE_DECLARE: u32 = method(50, 10);
    pub const QUEUE_DECLARE_OK: u32 = method(50, 11);
    pub const QUEUE_BIND: u32 = method(50, 20);
    pub const QUEUE_BIND_OK: u32 = method(50, 21);
    pub const BASIC_QOS: u32 = method(60, 10);
    pub const BASIC_QOS_OK: u32 = method(60, 11);
    pub const BASIC_CONSUME: u32 = method(60, 20);
    pub const BASIC_CONSUME_OK: u32 = method(60, 21);
    pub const BASIC_CANCEL: u32 = method(60, 30);
    pub const BASIC_CANCEL_OK: u32 = method(60, 31);
    pub const BASIC_PUBLISH: u32 = method(60, 40);
    pub const BASIC_RETURN: u32 = method(60, 50);
    pub const BASIC_DELIVER: u32 = method(60, 60);
    pub const BASIC_ACK: u32 = method(60, 80);
    pub const BASIC_REJECT: u32 = method(60, 90);
    pub const BASIC_NACK: u32 = method(60, 120);
    pub const CONFIRM_SELECT: u32 = method(85, 10);
    pub const CONFIRM_SELECT_OK: u32 = method(85, 11);

    const fn method(class: u16, method: u16) -> u32 {
        (class as u32) << 16 | method as u32
    }
}
