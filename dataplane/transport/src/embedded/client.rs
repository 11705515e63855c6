//! The client of the embedded broker: [`Transport`] over its Unix socket.
//!
//! Takes operations, gives events. Never blocks. Two connections, so that a consumer without room for bodies holds up
//! no confirm: one publishes, declares and asks; the other consumes and settles. They live and die together: when
//! either breaks, both are made anew after a short, growing wait, what was remembered is declared again and consuming
//! resumes. To be polled inside a tokio runtime with I/O and time.

mod intake;
mod outbox;
mod pipe;

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Sleep;

use super::limits::{CONSUME_AGAIN_AFTER, HANDSHAKE_TIME_MAX, QUEUE_NAME_BYTES_MAX, RECONNECT_WAITS};
use super::wire::{self, Fields, outcome};
use crate::{Event, Limits, Memory, Op, Outcome, Publish, QueueSpec, Settlement, Token, Transport};
use intake::Intake;
use pipe::Pipe;

/// A transport to the broker that listens on a Unix socket.
pub struct EmbeddedTransport {
    socket: PathBuf,
    state: State,
    epoch: u32,
    next_wait: Duration,
    declares: Vec<Spec>,
    consume: Option<(String, u32)>,
    max_message_bytes: Option<u64>,
    /// What happened outside of `poll`.
    events: Vec<Event>,
}

/// A remembered declaration.
struct Spec {
    queue: String,
    dead_letter: String,
    delivery_limit: u32,
}

/// Both connections, once they are there.
type Connecting = Pin<Box<dyn Future<Output = io::Result<(UnixStream, UnixStream)>> + Send>>;

enum State {
    /// Not begun: timers need a runtime, and `new` may be called outside of it.
    New,
    Waiting(Pin<Box<Sleep>>),
    Connecting(Connecting),
    /// Connected, and not everything that was remembered is answered.
    Greeting(Box<Session>, Pin<Box<Sleep>>),
    Up(Box<Session>),
    /// A person has to act.
    Ended,
}

/// Both connections, and what is asked over them.
struct Session {
    publisher: Pipe,
    consumer: Pipe,
    intake: Intake,
    open: BTreeSet<u64>,
    depths: VecDeque<String>,
    /// Answers that are missing before the session is up.
    greetings: usize,
    declares: usize,
    canceling: bool,
    consume_again: Option<Pin<Box<Sleep>>>,
}

/// The end of a session.
enum End {
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

impl EmbeddedTransport {
    /// A client of the broker that listens, or will listen, on `socket`.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        Self {
            socket: socket.as_ref().to_owned(),
            state: State::New,
            epoch: 0,
            next_wait: RECONNECT_WAITS.0,
            declares: Vec::new(),
            consume: None,
            max_message_bytes: None,
            events: Vec::new(),
        }
    }

    fn session(&mut self) -> Option<&mut Session> {
        match &mut self.state {
            State::Up(session) => Some(session),
            _ => None,
        }
    }

    fn declare(&mut self, spec: QueueSpec<'_>) {
        let spec = Spec {
            queue: spec.queue.to_owned(),
            dead_letter: spec.dead_letter.unwrap_or_default().to_owned(),
            delivery_limit: spec.delivery_limit,
        };
        match &mut self.state {
            State::Up(session) => {
                spec.submit(&mut session.publisher, false);
                spec.submit(&mut session.consumer, true);
            }
            State::Greeting(session, _) => {
                spec.submit(&mut session.publisher, false);
                session.declares += 1;
            }
            _ => {}
        }
        self.declares.retain(|known| known.queue != spec.queue);
        self.declares.push(spec);
    }

    fn publish(&mut self, publish: Publish<'_>) {
        let Publish { token, queue, content_type, message_id, body, delay } = publish;
        let max = self.max_message_bytes.unwrap_or(u64::MAX);
        let outcome = match self.session() {
            None => Outcome::Lost,
            Some(_) if body.len() > max => Outcome::TooLarge(max),
            Some(_) if queue.len() > QUEUE_NAME_BYTES_MAX => Outcome::Unroutable,
            Some(session) => {
                session.open.insert(token.0);
                // Rounded up, so that nothing is early.
                let delay_ms = delay.map_or(0, |delay| delay.as_nanos().div_ceil(1_000_000) as u64);
                let out = &mut session.publisher.out;
                out.frame(wire::PUBLISH, body.len(), |head| {
                    head.u64(token.0);
                    head.u64(delay_ms);
                    head.content_type(content_type);
                    head.name(queue);
                    head.name(wire::cut(message_id, super::limits::MESSAGE_ID_BYTES_MAX));
                });
                out.bytes(body.prefix);
                body.parts.iter().for_each(|part| out.part(*part));
                out.bytes(body.suffix);
                return;
            }
        };
        self.events.push(Event::Published { token, outcome });
    }

    fn cancel(&mut self) {
        self.consume = None;
        match self.session() {
            Some(session) => {
                session.canceling = true;
                session.consume_again = None;
                session.consumer.out.frame(wire::CANCEL, 0, |_| {});
            }
            // Nothing is consumed without a connection.
            None => self.events.push(Event::Canceled { asked: true }),
        }
    }

    fn depth(&mut self, queue: &str) {
        let why = match self.session() {
            None => "there is no connection to the broker",
            Some(_) if queue.len() > QUEUE_NAME_BYTES_MAX => "its name is too long",
            Some(session) => {
                session.depths.push_back(queue.to_owned());
                return session.publisher.out.frame(wire::DEPTH, 0, |head| head.name(queue));
            }
        };
        self.events.push(Event::DeclareFailed { queue: queue.to_owned(), why: why.to_owned() });
    }

    /// Does what the state allows. Whether it is another one now, which may allow more.
    fn advance(&mut self, cx: &mut Context<'_>, memory: &mut dyn Memory, events: &mut Vec<Event>) -> bool {
        match &mut self.state {
            State::New => {
                self.connect();
                true
            }
            State::Waiting(sleep) => {
                if sleep.as_mut().poll(cx).is_pending() {
                    return false;
                }
                self.connect();
                true
            }
            State::Connecting(connecting) => match connecting.as_mut().poll(cx) {
                Poll::Pending => false,
                Poll::Ready(Ok(streams)) => {
                    self.greet(streams);
                    true
                }
                Poll::Ready(Err(error)) => {
                    let why = format!("no broker at {}: {error}", self.socket.display());
                    events.push(Event::Lost { epoch: 0, why });
                    self.wait();
                    true
                }
            },
            State::Greeting(session, deadline) => {
                let polled = session.poll_greeting(cx, memory, events, &mut self.max_message_bytes);
                match polled {
                    Ok(true) => {
                        self.up(events);
                        true
                    }
                    Ok(false) if deadline.as_mut().poll(cx).is_ready() => {
                        self.lose(End::Lost("the broker does not answer".into()), 0, memory, events);
                        true
                    }
                    Ok(false) => false,
                    Err(end) => {
                        self.lose(end, 0, memory, events);
                        true
                    }
                }
            }
            State::Up(session) => match session.poll(cx, self.epoch, &self.declares, &self.consume, memory, events) {
                Ok(()) => false,
                Err(end) => {
                    self.lose(end, self.epoch, memory, events);
                    true
                }
            },
            State::Ended => false,
        }
    }

    fn connect(&mut self) {
        let socket = self.socket.clone();
        self.state = State::Connecting(Box::pin(async move {
            Ok((UnixStream::connect(&socket).await?, UnixStream::connect(&socket).await?))
        }));
    }

    fn wait(&mut self) {
        self.state = State::Waiting(Box::pin(tokio::time::sleep(self.next_wait)));
        self.next_wait = (self.next_wait * 2).min(RECONNECT_WAITS.1);
    }

    fn greet(&mut self, (publisher, consumer): (UnixStream, UnixStream)) {
        let mut session = Session {
            publisher: Pipe::new(publisher),
            consumer: Pipe::new(consumer),
            intake: Intake::default(),
            open: BTreeSet::new(),
            depths: VecDeque::new(),
            greetings: 2,
            declares: self.declares.len(),
            canceling: false,
            consume_again: None,
        };
        for pipe in [&mut session.publisher, &mut session.consumer] {
            pipe.out.frame(wire::HELLO, 0, |head| {
                head.u32(wire::MAGIC);
                head.u16(wire::VERSION);
            });
        }
        self.declares.iter().for_each(|spec| spec.submit(&mut session.publisher, false));
        self.state = State::Greeting(Box::new(session), Box::pin(tokio::time::sleep(HANDSHAKE_TIME_MAX)));
    }

    fn up(&mut self, events: &mut Vec<Event>) {
        let State::Greeting(mut session, _) = std::mem::replace(&mut self.state, State::Ended) else { return };
        session.consume(&self.declares, &self.consume);
        self.epoch += 1;
        self.next_wait = RECONNECT_WAITS.0;
        self.state = State::Up(session);
        events.push(Event::Connected { epoch: self.epoch });
    }

    fn lose(&mut self, end: End, epoch: u32, memory: &mut dyn Memory, events: &mut Vec<Event>) {
        let state = std::mem::replace(&mut self.state, State::Ended);
        if let State::Greeting(mut session, _) | State::Up(mut session) = state {
            session.intake.abandon(memory);
            for token in std::mem::take(&mut session.open) {
                events.push(Event::Published { token: Token(token), outcome: Outcome::Lost });
            }
            for queue in std::mem::take(&mut session.depths) {
                events.push(Event::DeclareFailed { queue, why: "the connection was lost".into() });
            }
            let why = match &end {
                End::Lost(why) | End::Fatal(why) => why.clone(),
            };
            events.push(Event::Lost { epoch, why });
            if session.canceling {
                events.push(Event::Canceled { asked: true });
            }
        }
        match end {
            End::Lost(_) => self.wait(),
            End::Fatal(why) => events.push(Event::Fatal { why }),
        }
    }
}

impl Spec {
    fn submit(&self, pipe: &mut Pipe, quiet: bool) {
        pipe.out.frame(wire::DECLARE, 0, |head| {
            head.u32(self.delivery_limit);
            head.u8(u8::from(quiet));
            head.name(&self.queue);
            head.name(&self.dead_letter);
        });
    }
}

impl Session {
    /// Consumes over the consumer's connection, where the queue is declared too: between two connections there is no
    /// order.
    fn consume(&mut self, declares: &[Spec], consume: &Option<(String, u32)>) {
        declares.iter().for_each(|spec| spec.submit(&mut self.consumer, true));
        if let Some((queue, window)) = consume {
            self.submit_consume(queue, *window);
        }
    }

    fn submit_consume(&mut self, queue: &str, window: u32) {
        self.consumer.out.frame(wire::CONSUME, 0, |head| {
            head.u32(window);
            head.name(queue);
        });
    }

    fn poll_greeting(
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
                        wire::BLOCKED if is_publisher => events.push(Event::Blocked(fields.u8()? != 0)),
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

    fn poll(
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
        Ok(())
    }

    fn read_answers(&mut self, cx: &mut Context<'_>, events: &mut Vec<Event>) -> Result<(), End> {
        loop {
            while let Some((kind, head)) = self.publisher.frame()? {
                let mut fields = Fields(head);
                match kind {
                    wire::PUBLISHED => {
                        let token = fields.u64()?;
                        if self.open.remove(&token) {
                            let outcome = published(fields)?;
                            events.push(Event::Published { token: Token(token), outcome });
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
                    wire::BLOCKED => events.push(Event::Blocked(fields.u8()? != 0)),
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

impl Transport for EmbeddedTransport {
    fn submit(&mut self, op: Op<'_>) {
        match op {
            Op::Declare(spec) => self.declare(spec),
            Op::Consume { queue, window } => {
                if let Some(session) = self.session() {
                    session.submit_consume(queue, window);
                }
                self.consume = Some((queue.to_owned(), window));
            }
            Op::Cancel => self.cancel(),
            Op::Publish(publish) => self.publish(publish),
            Op::Settle { tag, how } => {
                let how = match how {
                    Settlement::Ack => wire::settle::ACK,
                    Settlement::Requeue => wire::settle::REQUEUE,
                    Settlement::Reject => wire::settle::REJECT,
                };
                let epoch = self.epoch;
                if let Some(session) = self.session().filter(|_| tag.epoch == epoch) {
                    session.consumer.settle(how, tag.number);
                }
            }
            // Deliveries are held as long as their connection lives.
            Op::Extend { .. } => {}
            Op::Depth { queue } => self.depth(queue),
        }
    }

    fn flush(&mut self, memory: &mut dyn Memory) {
        if let Some(session) = self.session() {
            // What goes wrong here is seen, and told, at the next poll.
            let _ = session.consumer.write(memory);
            let _ = session.publisher.write(memory);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, memory: &mut dyn Memory, events: &mut Vec<Event>) {
        events.append(&mut self.events);
        while self.advance(cx, memory, events) {}
    }

    fn limits(&self) -> Limits {
        Limits { max_message_bytes: self.max_message_bytes, delay: true }
    }

    fn name(&self) -> &'static str {
        "embedded"
    }
}
