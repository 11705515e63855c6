//! One connection after its handshake: reading, writing, heartbeats.
//!
//! Takes frames to send in its [`Outbox`]; hands each frame that arrives to a [`Frames`]. Never blocks. On any
//! [`LinkError`] the connection is to be dropped; what was open on it is the owner's to answer for.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::stream::{Stream, Written};
use super::tls::TlsError;
use crate::amqp::FRAME_OVERHEAD;
use crate::amqp::encode;
use crate::amqp::frame::{Decoder, Frame, FrameError};
use crate::amqp::input::Input;
use crate::amqp::outbox::Outbox;
use crate::api::{Event, Memory};

/// Bytes asked for in one read: some sixty messages of 1 KiB, and little enough to be copied once by larger ones.
pub(super) const READ_MAX: usize = 64 * 1024;
/// Bytes asked for while bodies are large: their beginning is copied, the rest is read straight into its slot.
const READ_BEFORE_LARGE: usize = 8 * 1024;
/// A body of at least this many bytes is large: the copy that is saved costs more than the second read.
const LARGE_FROM: u64 = 32 * 1024;
/// Reads in one turn: then the other work of the turn has its chance.
const READS_PER_TURN: usize = 16;
/// A body frame with at least this many bytes to come is read straight into its slot (bytes); below, a second read
/// costs more than the copy.
const DIRECT_FROM: u32 = 4096;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the broker dropped the connection")]
    Eof,
    #[error("the broker closed the connection: {why}")]
    Closed { code: u16, why: String },
    #[error("the broker closed the channel: {why}")]
    ChannelClosed { code: u16, why: String },
    #[error("the broker was silent for {0:?}")]
    Silent(Duration),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the broker sent what it may not send now: {0}")]
    Unexpected(&'static str),
}

/// Who takes the frames of a connection.
pub(crate) trait Frames {
    /// Takes one frame, and may answer it.
    fn frame(
        &mut self,
        frame: Frame<'_>,
        out: &mut Outbox,
        memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Result<(), LinkError>;

    /// Whether it takes no frame now.
    fn paused(&self) -> bool;

    /// Where the next bytes of the open body of `channel` belong, if they are kept.
    fn body_target<'m>(&self, channel: u16, memory: &'m mut dyn Memory) -> Option<&'m mut [u8]>;

    /// That many bytes were read to the start of [`Frames::body_target`].
    fn body_read(&mut self, len: usize, events: &mut Vec<Event>);
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    stream: Stream,
    input: Input,
    decoder: Decoder,
    pub(crate) out: Outbox,
    pub(crate) frame_max: u32,
    /// Bytes to ask for in the next read: the next body is taken to be like the last.
    read_max: usize,
    heartbeat: Option<Duration>,
    last_read: Instant,
    last_write: Instant,
}

impl Link {
    pub(crate) fn new(stream: Stream, input: Input, decoder: Decoder, frame_max: u32, heartbeat: Duration) -> Self {
        let now = Instant::now();
        Self {
            stream,
            input,
            decoder,
            out: Outbox::default(),
            frame_max,
            read_max: READ_MAX,
            heartbeat: (!heartbeat.is_zero()).then_some(heartbeat),
            last_read: now,
            last_write: now,
        }
    }

    /// Hands out every frame that is there, or as many as one turn takes, and arranges for a wake when there are more.
    pub(crate) fn read(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut impl Frames,
        memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Result<(), LinkError> {
        for _ in 0..READS_PER_TURN {
            self.decode(frames, memory, events)?;
            if frames.paused() {
                // What is not read does not show that it is broken.
                return self.stream.broken().map_or(Ok(()), |error| Err(error.into()));
            }
            let direct = match self.decoder.open_body() {
                Some((channel, left)) if left >= DIRECT_FROM => {
                    frames.body_target(channel, memory).map(|target| (left as usize, target))
                }
                _ => None,
            };
            let read = if let Some((left, target)) = direct {
                // The few bytes between this body frame and the next come along.
                let end = left.min(target.len());
                let Poll::Ready(read) =
                    self.stream.poll_read_two(cx, &mut target[..end], self.input.space(FRAME_OVERHEAD))
                else {
                    return Ok(());
                };
                let read = read?;
                let body = read.min(end);
                self.decoder.body_read(body as u32);
                self.input.filled(read - body);
                frames.body_read(body, events);
                read
            } else {
                let Poll::Ready(read) = self.stream.poll_read(cx, self.input.space(self.read_max)) else {
                    return Ok(());
                };
                let read = read?;
                self.input.filled(read);
                read
            };
            if read == 0 {
                return Err(LinkError::Eof);
            }
            self.last_read = Instant::now();
        }
        self.decode(frames, memory, events)?;
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn decode(
        &mut self,
        frames: &mut impl Frames,
        memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Result<(), LinkError> {
        while !frames.paused() {
            let (used, frame) = self.decoder.next(self.input.unread())?;
            let more = frame.is_some();
            if let Some(frame) = frame {
                if let Frame::Header { header, .. } = &frame {
                    self.read_max = if header.body_len < LARGE_FROM { READ_MAX } else { READ_BEFORE_LARGE };
                }
                frames.frame(frame, &mut self.out, memory, events)?;
            }
            self.input.consume(used);
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Whether everything has been handed to the kernel.
    pub(crate) fn is_flushed(&self) -> bool {
        self.out.is_empty() && self.stream.is_flushed()
    }

    /// Writes what the socket takes now.
    pub(crate) fn flush(&mut self, memory: &dyn Memory) -> Result<(), LinkError> {
        if !self.out.is_empty() {
            self.stream.write(&mut self.out, memory)?;
            self.last_write = Instant::now();
        }
        Ok(())
    }

    /// Writes what the socket takes now, and arranges for a wake when it takes more.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, memory: &dyn Memory) -> Result<(), LinkError> {
        if self.out.is_empty() && matches!(self.stream, Stream::Plain(_)) {
            return Ok(());
        }
        if self.stream.poll_write(cx, &mut self.out, memory)? == Written::Turn {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Gives a sign of life when one is due, and expects the peer's unless `paused`. Gives the time at which to be
    /// called again.
    pub(crate) fn tick(&mut self, now: Instant, paused: bool) -> Result<Option<Instant>, LinkError> {
        let Some(heartbeat) = self.heartbeat else {
            return Ok(None);
        };
        if paused {
            // What the peer sends lies unread in the socket: its silence could not be told.
            self.last_read = now;
        }
        let silent = now.saturating_duration_since(self.last_read);
        if silent >= heartbeat * 2 {
            return Err(LinkError::Silent(silent));
        }
        if now.saturating_duration_since(self.last_write) >= heartbeat / 2 {
            // Anything that is written shows life; behind an outbox that is stuck, a heartbeat would only pile up.
            if self.out.is_empty() {
                self.out.own(encode::heartbeat);
            }
            self.last_write = now;
        }
        Ok(Some((self.last_write + heartbeat / 2).min(self.last_read + heartbeat * 2)))
    }
}
