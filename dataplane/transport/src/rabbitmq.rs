//! RabbitMQ, 3.10 and later, over AMQP 0-9-1 with a client of our own.
//!
//! Takes operations and gives events as [`crate::api`] says. Two connections: one consumes and settles, the other
//! publishes and declares, so that a broker that holds back publishers never delays deliveries or acknowledgements.
//! Both live in the caller's thread: nothing is spawned, everything happens inside [`Transport::poll`] and
//! [`Transport::flush`], on a tokio runtime with timers and sockets (the current-thread one will do).
//!
//! A *session* is both connections. It begins ([`Event::Connected`]) when both are open, everything remembered is
//! declared and, where wanted, the consumer runs. Losing the consuming connection ends it ([`Event::Lost`]); losing
//! only the publishing one costs the open publishes and that connection alone. Either is opened again after 0.1 to 30
//! seconds, longer each time. A refusal on a channel of the hot path ends its connection too: one way back for every
//! loss.
//!
//! What a queue is declared as is written at `topology`: quorum, durable, dead-lettering at least once, refusing when
//! full. How a message is delayed is written at `ladder`.

#[cfg(feature = "admin")]
pub mod admin;
pub mod config;
mod consumer;
mod handshake;
mod ladder;
mod link;
mod ordered;
mod publisher;
mod session;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod topology;
mod version;

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

pub use config::{Compatibility, ConfigError, Password, RabbitMqConfig, TlsConfig};
pub use ladder::{RUNGS, delay_queues};
use session::Session;

use crate::api::{Delays, Event, Limits, Memory, Op, Transport};

/// A queue name of the protocol has at most this many bytes.
const NAME_MAX: usize = 255;

/// One queue consumed and any published to, on one RabbitMQ.
pub struct RabbitMq {
    session: Session,
    /// Fires when something is due; armed for `due` or earlier.
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl std::fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitMq").field("session", &self.session).finish_non_exhaustive()
    }
}

impl RabbitMq {
    /// Connects at the first poll.
    pub fn new(config: RabbitMqConfig) -> Self {
        Self { session: Session::new(Arc::new(config)), timer: None }
    }

    /// Arranges for a wake at `due`. A timer that fires early only costs a look, so one that is armed for earlier
    /// stays.
    fn arm(&mut self, cx: &mut Context<'_>, due: Instant) {
        let (armed, sleep) = self.timer.get_or_insert_with(|| (due, Box::pin(sleep_until(due))));
        if due < *armed || sleep.is_elapsed() {
            *armed = due;
            sleep.as_mut().reset(due);
        }
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

impl Transport for RabbitMq {
    fn submit(&mut self, op: Op<'_>) {
        self.session.submit(op);
    }

    fn flush(&mut self, memory: &mut dyn Memory) {
        self.session.flush(memory);
    }

    fn poll(&mut self, cx: &mut Context<'_>, memory: &mut dyn Memory, events: &mut Vec<Event>) {
        let due = self.session.poll(cx, memory, events);
        // Without anything due there is still a look now and then, so that the timer need not be taken apart.
        self.arm(cx, due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600)));
    }

    fn flushed(&self) -> bool {
        self.session.is_flushed()
    }

    fn leave(&mut self, memory: &mut dyn Memory) {
        self.session.leave(memory);
    }

    fn limits(&self) -> Limits {
        Limits { max_message_bytes: self.session.message_limit(), delays: Delays::Ladder(&RUNGS), lease: None }
    }

    fn name(&self) -> &'static str {
        "rabbitmq"
    }
}
