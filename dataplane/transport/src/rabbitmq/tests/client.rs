//! A transport with its memory, driven until something has happened.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::super::handshake::Role;
use super::super::{RabbitMq, RabbitMqConfig};
use crate::api::{Body, ContentType, Delivery, Event, Op, Outcome, Publish, QueueSpec, Token, Transport};
use crate::conformance::HeapMemory;

/// How long an event is waited for before the test fails.
const WATCHDOG: Duration = Duration::from_secs(30);

pub(super) struct Client {
    pub transport: RabbitMq,
    pub memory: HeapMemory,
    runtime: Runtime,
    events: Vec<Event>,
}

impl Client {
    pub(super) fn new(config: RabbitMqConfig) -> Self {
        Self {
            transport: RabbitMq::new(config),
            memory: HeapMemory::new(64 << 20, 32 << 20),
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
            events: Vec::new(),
        }
    }

    pub(super) fn connected(config: RabbitMqConfig) -> Self {
        let mut client = Self::new(config);
        assert_eq!(client.next(), Event::Connected { epoch: 1 });
        client
    }

    pub(super) fn submit(&mut self, op: Op<'_>) {
        self.transport.submit(op);
    }

    pub(super) fn consume(&mut self, window: u32) {
        self.submit(Op::Consume { queue: "q", window });
    }

    pub(super) fn publish(&mut self, token: u64, bytes: &[u8]) {
        self.publish_to("q", token, bytes, None);
    }

    /// Not before `seconds` have passed.
    pub(super) fn publish_delayed(&mut self, queue: &str, token: u64, seconds: u64) {
        self.publish_to(queue, token, b"later", Some(Duration::from_secs(seconds)));
    }

    pub(super) fn publish_to(&mut self, queue: &str, token: u64, bytes: &[u8], delay: Option<Duration>) {
        let parts = [self.memory.put(bytes)];
        let body = Body { prefix: b"", parts: &parts, suffix: b"" };
        let (content_type, message_id) = (ContentType::Json, "id");
        let publish = Publish { token: Token(token), queue, content_type, message_id, body, delay };
        self.submit(Op::Publish(publish));
    }

    pub(super) fn declare(&mut self, queue: &str, dead_letter: Option<&str>) {
        let consumer_timeout = Some(Duration::from_secs(7));
        self.submit(Op::Declare(QueueSpec { queue, dead_letter, delivery_limit: 100, consumer_timeout }));
    }

    /// Writes what was submitted, and no more.
    pub(super) fn flush(&mut self) {
        self.runtime.block_on(async { self.transport.flush(&mut self.memory) });
    }

    pub(super) fn leave(&mut self) {
        self.runtime.block_on(async { self.transport.leave(&mut self.memory) });
    }

    /// The next event.
    pub(super) fn next(&mut self) -> Event {
        self.next_within(WATCHDOG).expect("an event")
    }

    /// Drives until `done`, which looks at something else; no event may happen.
    pub(super) fn quiet_until(&mut self, mut done: impl FnMut() -> bool) {
        let start = std::time::Instant::now();
        while !done() {
            assert!(start.elapsed() < WATCHDOG, "waited too long");
            assert_eq!(self.next_within(Duration::from_millis(10)), None);
        }
    }

    /// Drives until the process could end; no event may happen.
    pub(super) fn quiet_until_flushed(&mut self) {
        let start = std::time::Instant::now();
        while !self.transport.flushed() {
            assert!(start.elapsed() < WATCHDOG, "waited too long");
            self.wait_quietly(Duration::from_millis(10));
        }
    }

    /// Drives for a while in which nothing may happen.
    pub(super) fn wait_quietly(&mut self, time: Duration) {
        assert_eq!(self.next_within(time), None);
    }

    fn next_within(&mut self, limit: Duration) -> Option<Event> {
        if self.events.is_empty() {
            let (transport, memory, events) = (&mut self.transport, &mut self.memory, &mut self.events);
            self.runtime.block_on(async {
                let happened = poll_fn(|cx| {
                    transport.flush(memory);
                    transport.poll(cx, memory, events);
                    if events.is_empty() { Poll::Pending } else { Poll::Ready(()) }
                });
                // Running out of time is an answer.
                let _ = tokio::time::timeout(limit, happened).await;
            });
        }
        if self.events.is_empty() { None } else { Some(self.events.remove(0)) }
    }

    pub(super) fn delivered(&mut self) -> (Delivery, Vec<u8>) {
        match self.next() {
            Event::Delivered(delivery) => (delivery, self.memory.slot(delivery.slot).unwrap().to_vec()),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn published(&mut self) -> (u64, Outcome) {
        match self.next() {
            Event::Published { token, outcome } => (token.0, outcome),
            other => panic!("{other:?}"),
        }
    }

    /// The outcome of the one open publish, which `server` confirms when its header arrives.
    pub(super) fn published_or_confirmed(&mut self, server: &super::server::Server) -> Outcome {
        loop {
            match self.next_within(Duration::from_millis(5)) {
                Some(Event::Published { outcome, .. }) => return outcome,
                None => {}
                other => panic!("{other:?}"),
            }
            while let Some((role, frame)) = server.try_next() {
                if role == Role::Publish && frame.is_header() {
                    server.confirm(1, false);
                }
            }
        }
    }

    pub(super) fn lost(&mut self) -> (u32, String) {
        match self.next() {
            Event::Lost { epoch, why } => (epoch, why),
            other => panic!("{other:?}"),
        }
    }
}
