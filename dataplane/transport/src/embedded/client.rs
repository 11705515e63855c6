//! The client of the embedded broker: [`Transport`] over its Unix socket.
//!
//! Takes operations, gives events. Never blocks. Two connections, so that a consumer without room for bodies holds up
//! no confirm: one publishes, declares and asks; the other consumes and settles. They live and die together: when
//! either breaks, both are made anew after a short, growing wait, what was remembered is declared again and consuming
//! resumes. To be polled inside a tokio runtime with I/O and time.

mod intake;
mod outbox;
mod pipe;
mod session;
mod silence;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Sleep;

use super::limits::{HANDSHAKE_TIME_MAX, QUEUE_NAME_BYTES_MAX, RECONNECT_WAITS};
use super::wire;
use crate::{Delays, Event, Limits, Memory, Op, Outcome, Publish, QueueSpec, Settlement, Token, Transport};
use session::{End, Session, Spec};

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
                session.open.insert(token.0, out.end());
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
        let mut session = Session::new(publisher, consumer, self.declares.len());
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
            for (token, _) in std::mem::take(&mut session.open) {
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
            if session.blocked {
                // The next broker says anew whether it is blocked, and says nothing when it is not.
                events.push(Event::Blocked(false));
            }
        }
        match end {
            End::Lost(_) => self.wait(),
            End::Fatal(why) => events.push(Event::Fatal { why }),
        }
    }
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

    fn flushed(&self) -> bool {
        match &self.state {
            State::Up(session) => session.is_flushed(),
            // What a lost connection would have carried was answered, or its delivery is void.
            _ => true,
        }
    }

    fn limits(&self) -> Limits {
        Limits { max_message_bytes: self.max_message_bytes, delays: Delays::Any, lease: None }
    }

    fn name(&self) -> &'static str {
        "embedded"
    }
}

#[cfg(test)]
#[cfg(feature = "conformance")]
mod tests;
