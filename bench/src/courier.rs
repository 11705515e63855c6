//! A transport of the project's own, as a client: submits operations and awaits what has happened.
//!
//! Takes a [`Transport`], gives its events one by one. Blocks on the broker. A lost connection is an error here, because a
//! benchmark that was disturbed says nothing.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use asya_transport::{
    Body, ContentType, Delivery, Event, Op, Outcome, Part, Publish, QueueSpec, Settlement, Tag, Token, Transport,
};

use crate::Error;
use crate::heap::Heap;

/// A broker that is started beside its client listens by then.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A client over a transport.
pub struct Courier<T> {
    transport: T,
    /// Where bodies lie.
    pub heap: Heap,
    /// A lost connection is an event like others.
    through_losses: bool,
    events: VecDeque<Event>,
    buffer: Vec<Event>,
}

impl<T: Transport> Courier<T> {
    /// Waits until the broker has answered.
    pub async fn connect(transport: T) -> Result<Self, Error> {
        let mut courier = Self {
            transport,
            heap: Heap::default(),
            through_losses: false,
            events: VecDeque::new(),
            buffer: Vec::new(),
        };
        let deadline = Instant::now() + CONNECT_WITHIN;
        loop {
            match courier.event().await {
                Ok(Event::Connected { .. }) => return Ok(courier),
                Ok(other) => return Err(unexpected(&other)),
                // The broker may be starting just now; the transport tries again by itself.
                Err(_) if Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// From now on a lost connection is an event and no error; the transport connects again by itself.
    pub fn through_losses(mut self) -> Self {
        self.through_losses = true;
        self
    }

    /// Has a queue with its dead-letter queue.
    pub async fn declare(&mut self, queue: &str) -> Result<(), Error> {
        let dead = asya_envelope::names::dead_letter(queue);
        for (queue, dead_letter) in [(dead.as_str(), None), (queue, Some(dead.as_str()))] {
            let spec = QueueSpec { queue, dead_letter, delivery_limit: 100, consumer_timeout: None };
            self.transport.submit(Op::Declare(spec));
            match self.event().await? {
                Event::Declared { .. } => {}
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    /// Messages that wait in a queue.
    pub async fn depth(&mut self, queue: &str) -> Result<u64, Error> {
        self.transport.submit(Op::Depth { queue });
        loop {
            match self.event().await? {
                Event::Depth { ready, .. } => return Ok(ready),
                Event::Blocked(_) => {}
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Starts consuming.
    pub fn consume(&mut self, queue: &str, window: u32) {
        self.transport.submit(Op::Consume { queue, window });
    }

    /// Stops consuming, and gives back what is still on its way.
    pub async fn cancel(&mut self) -> Result<(), Error> {
        self.transport.submit(Op::Cancel);
        loop {
            match self.event().await? {
                Event::Canceled { .. } => return Ok(()),
                Event::Delivered(delivery) => self.settle(delivery.tag, Settlement::Requeue),
                Event::Blocked(_) => {}
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Publishes; answered by [`Event::Published`].
    pub fn publish(
        &mut self,
        token: u64,
        queue: &str,
        content_type: ContentType,
        id: &str,
        bytes: &[u8],
        parts: &[Part],
    ) {
        let body = Body { prefix: bytes, parts, suffix: &[] };
        let token = Token(token);
        self.transport.submit(Op::Publish(Publish { token, queue, content_type, message_id: id, body, delay: None }));
    }

    /// Settles a delivery.
    pub fn settle(&mut self, tag: Tag, how: Settlement) {
        self.transport.submit(Op::Settle { tag, how });
    }

    /// Writes out what was submitted.
    pub fn flush(&mut self) {
        self.transport.flush(&mut self.heap);
    }

    /// The next event.
    pub async fn event(&mut self) -> Result<Event, Error> {
        if self.events.is_empty() {
            self.events().await?;
        }
        self.events.pop_front().ok_or_else(|| unexpected("no event"))
    }

    /// Waits until something has happened; all of it then comes from [`Self::arrived`].
    pub async fn events(&mut self) -> Result<(), Error> {
        self.flush();
        let (transport, heap, buffer) = (&mut self.transport, &mut self.heap, &mut self.buffer);
        poll_fn(|cx| {
            transport.poll(cx, heap, buffer);
            if buffer.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        for event in self.buffer.drain(..) {
            let disturbed = matches!(event, Event::Lost { .. }) && !self.through_losses;
            if disturbed || matches!(event, Event::Fatal { .. }) {
                return Err(unexpected(&event));
            }
            self.events.push_back(event);
        }
        Ok(())
    }

    /// The next event that is already here.
    pub fn arrived(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

/// The delivery in an event, or the publish that is confirmed by it; anything else is an error.
pub enum Moved {
    /// A message has come.
    Came(Delivery),
    /// A publish is confirmed.
    Confirmed(u64),
}

/// Reads an event of a consumer that publishes.
pub fn moved(event: Event) -> Result<Moved, Error> {
    match event {
        Event::Delivered(delivery) => Ok(Moved::Came(delivery)),
        Event::Published { token, outcome: Outcome::Confirmed } => Ok(Moved::Confirmed(token.0)),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(what: impl std::fmt::Debug) -> Error {
    Error::Stuck { what: format!("the broker's client: {what:?}"), log: String::new() }
}
