//! A transport with its memory, driven until something has happened.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use asya_transport::conformance::HeapMemory;
use asya_transport::sqs::{Sqs, SqsConfig};
use asya_transport::{
    Body, ContentType, Delivery, Event, Memory as _, Op, Outcome, Publish, Settlement, Tag, Token, Transport,
};
use tokio::runtime::{Builder, Runtime};

/// How long an event is waited for before the test fails.
pub const WATCHDOG: Duration = Duration::from_secs(60);

pub struct Client {
    pub transport: Sqs,
    pub memory: HeapMemory,
    runtime: Runtime,
    events: Vec<Event>,
}

impl Client {
    pub fn new(config: SqsConfig) -> Self {
        Self {
            transport: Sqs::new(config),
            memory: HeapMemory::new(64 << 20, 32 << 20),
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
            events: Vec::new(),
        }
    }

    pub fn connected(config: SqsConfig) -> Self {
        let mut client = Self::new(config);
        assert_eq!(client.next(), Event::Connected { epoch: 1 });
        client
    }

    pub fn submit(&mut self, op: Op<'_>) {
        self.transport.submit(op);
    }

    pub fn publish(&mut self, queue: &str, token: u64, content_type: ContentType, bytes: &[u8]) {
        let parts = [self.memory.put(bytes)];
        let body = Body { prefix: b"", parts: &parts, suffix: b"" };
        let message_id = "an-id";
        self.submit(Op::Publish(Publish { token: Token(token), queue, content_type, message_id, body, delay: None }));
    }

    /// The outcomes of publishes 0 to `count`; whatever else happens meanwhile is kept.
    pub fn outcomes(&mut self, count: u64) -> Vec<Outcome> {
        let (mut others, mut outcomes) = (Vec::new(), vec![None; count as usize]);
        while outcomes.iter().any(Option::is_none) {
            match self.next() {
                Event::Published { token, outcome } => {
                    assert!(outcomes[token.0 as usize].replace(outcome).is_none(), "{token:?} was answered twice");
                }
                other => others.push(other),
            }
        }
        self.events.splice(0..0, others);
        outcomes.into_iter().flatten().collect()
    }

    pub fn delivered(&mut self) -> (Delivery, Vec<u8>) {
        match self.next() {
            Event::Delivered(delivery) => (delivery, self.memory.slot(delivery.slot).unwrap().to_vec()),
            other => panic!("{other:?}"),
        }
    }

    /// Settles a delivery and frees its memory.
    pub fn settle(&mut self, delivery: Delivery, how: Settlement) {
        self.submit(Op::Settle { tag: delivery.tag, how });
        self.memory.release(delivery.slot);
    }

    pub fn extend(&mut self, tag: Tag, by: Duration) {
        self.submit(Op::Extend { tag, by });
    }

    pub fn next(&mut self) -> Event {
        self.next_within(WATCHDOG).expect("an event")
    }

    /// The next event, if there is one within `limit`.
    pub fn next_within(&mut self, limit: Duration) -> Option<Event> {
        if self.events.is_empty() {
            self.turn(limit);
        }
        if self.events.is_empty() { None } else { Some(self.events.remove(0)) }
    }

    /// Turns until `done`, which something outside has to bring about.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < WATCHDOG, "waited too long for {what}");
            let mut others = std::mem::take(&mut self.events);
            self.turn(Duration::from_millis(20));
            others.append(&mut self.events);
            self.events = others;
        }
    }

    /// Turns for as long as this takes or until it has an event, and asserts that there is none.
    pub fn quiet(&mut self, time: Duration) {
        assert_eq!(self.next_within(time), None);
    }

    fn turn(&mut self, limit: Duration) {
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
}
