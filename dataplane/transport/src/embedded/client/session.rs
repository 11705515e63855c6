//! Both connections of a client while they live, and what is asked over them.
//!
//! Takes frames of the broker, gives events. Never blocks. What ends it is an [`End`]; the transport makes a new one.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::Context;

use tokio::net::UnixStream;
use tokio::time::Sleep;

use super::intake::Intake;
use super::pipe::Pipe;
use super::silence::Silence;
use crate::embedded::limits::CONSUME_AGAIN_AFTER;
use crate::embedded::wire::{self, Fields, outcome};
use crate::{Event, Memory, Outcome, Token};

/// A remembered declaration.
pub(super) struct Spec {
    pub(super) queue: String,
    pub(super) dead_letter: String,
    pub(super) delivery_limit: u32,
}

/// Both connections, and what is asked over them.
pub(super) struct Session {
    pub(super) publisher: Pipe,
    pub(super) consumer: Pipe,
    pub(super) intake: Intake,
    /// Publishes without an answer: where in the publisher's output each ends.
    pub(super) open: BTreeMap<u64, u64>,
    pub(super) depths: VecDeque<String>,
    /// Answers that are missing before the session is up.
    greetings: usize,
    pub(super) declares: usize,
    pub(super) canceling: bool,
    /// Whether the broker has said that it takes no publishes.
    pub(super) blocked: bool,
    pub(super) consume_again: Option<Pin<Box<Sleep>>>,
    silence: Silence,
}

/// The end of a session.
pub(super) enum End {
    Lost(String),
    Fatal(String),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<wire::Malformed> for End {
    fn from(error: wire::Malformed) -> Self {
        Self::Lost(error.to_string())
    }
}

impl Spec {
    pub(super) fn submit(&self, pipe: &mut Pipe, quiet: bool) {
        pipe.out.frame(wire::DECLARE, 0, |head| {
            head.u32(self.delivery_limit);
            head.u8(u8::from(quiet));
            head.name(&self.queue);
            head.name(&self.dead_letter);
        });
    }
}

impl Session {
    /// Greets over both connections. `declares` answers are missing until the session is up.
    pub(super) fn new(publisher: UnixStream, consumer: UnixStream, declares: usize) -> Self {
        let mut session = Self {
            publisher: Pipe::new(publisher),
            consumer: Pipe::new(consumer),
            intake: Intake::default(),
            open: BTreeMap::new(),
            depths: VecDeque::new(),
            greetings: 2,
            declares,
            canceling: false,
            blocked: false,
            consume_again: None,
            silence: Silence::default(),
        };
        for pipe in [&mut session.publisher, &mut session.consumer] {
            pipe.out.frame(wire::HELLO, 0, |head| {
                head.u32(wire::MAGIC);
                head.u16(wire::VERSION);
            });
        }
        session
    }

    /// Whether everything has been handed to the kernel.
    pub(super) fn is_flushed(&self) -> bool {
        self.publisher.out.is_empty() && self.consumer.out.is_empty()
    }

    /// Whether the broker has something to take or to answer.
    fn owes(&self) -> bool {
        !self.is_flushed() || !self.open.is_empty() || !self.depths.is_empty() || self.canceling
    }

    /// Consumes over the consumer's connection, where the queue is declared too: between two connections there is no
    /// order.
    pub(super) fn consume(&mut self, declares: &[Spec], consume: &Option<(String, u32)>) {
        declares.iter().for_each(|spec| spec.submit(&mut self.consumer, true));
        if let Some((queue, window)) = consume {
            self.submit_consume(queue, *window);
        }
    }

    pub(super) fn submit_consume(&mut self, queue: &str, window: u32) {
        self.consumer.out.frame(wire::CONSUME, 0, |head| {
            head.u32(window);
            head.name(queue);
        });
    }

    pub(super) fn poll_greeting(
        &mut self,
        cx: &mut Context<'_>,
        memory: &dyn Memory,
        events: &mut Vec<Event>,
        max_message_bytes: &mut Option<u64>,
    ) -> Result<bool, End> {
        for is_publisher in [true, false] {
            let pipe = if is_publisher { &mut self.publisher } else { &mut self.consumer };
            pipe.write(memory)?;
            pipe.register_write(cx)?;
            loop {
                while let Some((kind, head)) = pipe.frame()? {
                    let mut fields = Fields(head);
                    match kind {
                        wire::WELCOME => {
                            let version = fields.u16()?;
                            if version != wire::VERSION {
                                let ours = wire::VERSION;
                                return Err(End::Fatal(format!(
                                    "the broker speaks version {version} and this program {ours}: use the same program for both"
                                )));
                            }
                            *max_message_bytes = Some(fields.u64()?);
                            self.greetings = self.greetings.saturating_sub(1);
                        }
                        wire::DECLARED | wire::FAILED => {
                            self.declares = self.declares.saturating_sub(1);
                            events.push(declared(kind, fields)?);
                        }
                        wire::BLOCKED if is_publisher => {
                            self.blocked = fields.u8()? != 0;
                            events.push(Event::Blocked(self.blocked));
                        }
                        wire::BLOCKED => {}
                        _ => return Err(wire::Malformed("an answer that nobody asked for").into()),
                    }
                }
                if !pipe.fill(cx)? {
                    break;
                }
            }
        }
        Ok(self.greetings == 0 && self.declares == 0)
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        epoch: u32,
        declares: &[Spec],
        consume: &Option<(String, u32)>,
        memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Result<(), End> {
        self.read_answers(cx, events)?;
        let canceling = &mut self.canceling;
        if self.intake.read(cx, &mut self.consumer, epoch, canceling, memory, events)? {
            self.consume_again = Some(Box::pin(tokio::time::sleep(CONSUME_AGAIN_AFTER)));
        }
        if let Some(sleep) = &mut self.consume_again
            && sleep.as_mut().poll(cx).is_ready()
        {
            self.consume_again = None;
            self.consume(declares, consume);
        }
        for pipe in [&mut self.publisher, &mut self.consumer] {
            pipe.write(memory)?;
            pipe.register_write(cx)?;
        }
        // After the reads and writes of this poll: what could move has moved.
        let moved = self.publisher.moved() + self.consumer.moved();
        match self.silence.is_too_long(cx, self.owes(), moved) {
            true => Err(End::Lost("the broker shows no sign of life".into())),
            false => Ok(()),
        }
    }

    fn read_answers(&mut self, cx: &mut Context<'_>, events: &mut Vec<Event>) -> Result<(), End> {
        let written = self.publisher.out.written();
        loop {
            while let Some((kind, head)) = self.publisher.frame()? {
                let mut fields = Fields(head);
                match kind {
                    wire::PUBLISHED => {
                        let token = fields.u64()?;
                        let outcome = published(fields)?;
                        match self.open.get(&token) {
                            // Passed on, it would free memory that is still to be written. Open as it is, the publish
                            // ends with its connection, which takes the rest of its output along.
                            Some(end) if *end > written => {
                                return Err(wire::Malformed("an answer to what is not written yet").into());
                            }
                            Some(_) => {
                                self.open.remove(&token);
                                events.push(Event::Published { token: Token(token), outcome });
                            }
                            None => {}
                        }
                    }
                    wire::DEPTH_IS => {
                        let (ready, unsettled) = (fields.u64()?, Some(fields.u64()?));
                        self.depths.pop_front();
                        events.push(Event::Depth { queue: fields.name()?.to_owned(), ready, unsettled });
                    }
                    wire::DECLARED | wire::FAILED => {
                        let event = declared(kind, fields)?;
                        if let Event::DeclareFailed { queue, .. } = &event
                            && let Some(at) = self.depths.iter().position(|asked| asked == queue)
                        {
                            self.depths.remove(at);
                        }
                        events.push(event);
                    }
                    wire::BLOCKED => {
                        self.blocked = fields.u8()? != 0;
                        events.push(Event::Blocked(self.blocked));
                    }
                    _ => return Err(wire::Malformed("an answer that nobody asked for").into()),
                }
            }
            if !self.publisher.fill(cx)? {
                return Ok(());
            }
        }
    }
}

fn declared(kind: u8, mut fields: Fields<'_>) -> Result<Event, wire::Malformed> {
    let (queue, text) = (fields.name()?.to_owned(), fields.name()?.to_owned());
    Ok(match kind {
        wire::FAILED => Event::DeclareFailed { queue, why: text },
        _ => Event::Declared { queue, differs: Some(text).filter(|text| !text.is_empty()) },
    })
}

fn published(mut fields: Fields<'_>) -> Result<Outcome, wire::Malformed> {
    let (kind, number) = (fields.u8()?, fields.u64()?);
    Ok(match kind {
        outcome::CONFIRMED => Outcome::Confirmed,
        outcome::UNROUTABLE => Outcome::Unroutable,
        outcome::TOO_LARGE => Outcome::TooLarge(number),
        outcome::REFUSED => Outcome::Refused(fields.name()?.to_owned()),
        _ => return Err(wire::Malformed("unknown outcome")),
    })
}
