//! A transport with its memory, driven until something has happened.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use asya_transport::conformance::HeapMemory;
use asya_transport::rabbitmq::{RabbitMq, RabbitMqConfig};
use asya_transport::{
    Body, ContentType, Delivery, Event, Op, Outcome, Publish, QueueSpec, Settlement, Token, Transport,
};
use tokio::runtime::{Builder, Runtime};

/// How long an event is waited for before the test fails.
const WATCHDOG: Duration = Duration::from_secs(60);

pub struct Client {
    pub transport: RabbitMq,
    pub memory: HeapMemory,
    pub runtime: Runtime,
    events: Vec<Event>,
}

impl Client {
    pub fn new(config: RabbitMqConfig) -> Self {
        Self {
            transport: RabbitMq::new(config),
            memory: HeapMemory::new(64 << 20, 32 << 20),
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
            events: Vec::new(),
        }
    }

    pub fn connected(config: RabbitMqConfig) -> Self {
        let mut client = Self::new(config);
        assert_eq!(client.next(), Event::Connected { epoch: 1 });
        client
    }

    pub fn submit(&mut self, op: Op<'_>) {
        self.transport.submit(op);
    }

    pub fn declare(&mut self, queue: &str) -> Option<String> {
        let dead_letter = format!("{queue}-dlq");
        let spec = QueueSpec { queue, dead_letter: Some(&dead_letter), delivery_limit: 100, consumer_timeout: None };
        self.submit(Op::Declare(spec));
        match self.next() {
            Event::Declared { queue: declared, differs } if declared == queue => differs,
            other => panic!("{other:?}"),
        }
    }

    pub fn publish(&mut self, queue: &str, token: u64, bytes: &[u8]) {
        self.publish_delayed(queue, token, bytes, None);
    }

    pub fn publish_delayed(&mut self, queue: &str, token: u64, bytes: &[u8], delay: Option<Duration>) {
        let parts = [self.memory.put(bytes)];
        let body = Body { prefix: b"", parts: &parts, suffix: b"" };
        let content_type = ContentType::Native;
        let message_id = "an-id";
        self.submit(Op::Publish(Publish { token: Token(token), queue, content_type, message_id, body, delay }));
    }

    pub fn publish_confirmed(&mut self, queue: &str, bytes: &[u8]) {
        self.publish(queue, 7, bytes);
        let mut others = Vec::new();
        loop {
            match self.next() {
                Event::Published { token, outcome } => {
                    assert_eq!((token, outcome), (Token(7), Outcome::Confirmed));
                    break;
                }
                other => others.push(other),
            }
        }
        self.events.splice(0..0, others);
    }

    /// The outcome of one publish; nothing else may happen meanwhile.
    pub fn published(&mut self, token: u64) -> Outcome {
        match self.next() {
            Event::Published { token: of, outcome } if of == Token(token) => outcome,
            other => panic!("{other:?}"),
        }
    }

    pub fn delivered(&mut self) -> (Delivery, Vec<u8>) {
        match self.next() {
            Event::Delivered(delivery) => (delivery, self.memory.slot(delivery.slot).unwrap().to_vec()),
            other => panic!("{other:?}"),
        }
    }

    /// Settles a delivery and frees its memory.
    pub fn settle(&mut self, delivery: Delivery, how: Settlement) {
        use asya_transport::Memory as _;
        self.submit(Op::Settle { tag: delivery.tag, how });
        self.memory.release(delivery.slot);
    }

    pub fn next(&mut self) -> Event {
        self.next_within(WATCHDOG).expect("an event")
    }

    pub fn next_within(&mut self, limit: Duration) -> Option<Event> {
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

    /// Asks for a queue's depth until it is `ready`.
    pub fn wait_depth(&mut self, queue: &str, ready: u64) {
        let start = Instant::now();
        loop {
            self.submit(Op::Depth { queue });
            match self.next() {
                Event::Depth { ready: is, .. } if is == ready => return,
                Event::Depth { .. } => {}
                other => panic!("{other:?}"),
            }
            assert!(start.elapsed() < WATCHDOG, "{queue} never held {ready}");
            assert_eq!(self.next_within(Duration::from_millis(20)), None);
        }
    }
}
