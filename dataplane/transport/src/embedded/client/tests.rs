//! The client against brokers that misbehave, or are slow, or dead: played by the test.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{UnixListener, UnixStream};

use crate::conformance::HeapMemory;
use crate::embedded::EmbeddedTransport;
use crate::embedded::limits::BROKER_SILENCE_MAX;
use crate::embedded::wire::{self, HEADER, Header, frame, outcome};
use crate::{Body, ContentType, Event, Op, Outcome, Part, Publish, Token, Transport};

/// More than a socket takes at once.
const LEN: usize = 8 << 20;

/// A client, and the broker's ends of its connections.
struct Bench {
    transport: EmbeddedTransport,
    memory: HeapMemory,
    events: Vec<Event>,
    publisher: UnixStream,
    consumer: UnixStream,
    _dir: TempDir,
}

impl Bench {
    async fn connected() -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let (mut transport, mut memory) = (EmbeddedTransport::new(&socket), HeapMemory::new(1 << 20, 1 << 20));
        let mut events = Vec::new();
        let connecting = poll_fn(|cx| {
            transport.poll(cx, &mut memory, &mut events);
            if events.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        });
        let greeting = async {
            let (mut publisher, mut consumer) =
                (listener.accept().await.unwrap().0, listener.accept().await.unwrap().0);
            for stream in [&mut publisher, &mut consumer] {
                assert_eq!(read_head(stream).await.kind, wire::HELLO);
                answer(stream, wire::WELCOME, |head| {
                    head.u16(wire::VERSION);
                    head.u64(1 << 30);
                })
                .await;
            }
            (publisher, consumer)
        };
        let (_, (publisher, consumer)) = tokio::join!(connecting, greeting);
        assert_eq!(events, [Event::Connected { epoch: 1 }]);
        events.clear();
        Self { transport, memory, events, publisher, consumer, _dir: dir }
    }

    fn publish(&mut self, token: u64, part: Part) {
        self.transport.submit(Op::Publish(Publish {
            token: Token(token),
            queue: "work",
            content_type: ContentType::Native,
            message_id: "id",
            body: Body { prefix: b"", parts: &[part], suffix: b"" },
            delay: None,
        }));
        self.transport.flush(&mut self.memory);
    }

    /// One poll, and what the client says in it.
    async fn poll(&mut self) -> Vec<Event> {
        poll_fn(|cx| {
            self.transport.poll(cx, &mut self.memory, &mut self.events);
            Poll::Ready(())
        })
        .await;
        // The runtime looks for sockets that have become ready.
        tokio::task::yield_now().await;
        std::mem::take(&mut self.events)
    }

    /// Reads what the client publishes, while it is polled and says nothing.
    async fn read(&mut self, into: &mut [u8]) -> usize {
        let mut into = ReadBuf::new(into);
        poll_fn(|cx| {
            self.transport.poll(cx, &mut self.memory, &mut self.events);
            assert_eq!(self.events, []);
            Pin::new(&mut self.publisher).poll_read(cx, &mut into)
        })
        .await
        .unwrap();
        into.filled().len()
    }

    /// Polls until the client says something.
    async fn told(&mut self) -> Vec<Event> {
        poll_fn(|cx| {
            self.transport.poll(cx, &mut self.memory, &mut self.events);
            if self.events.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        std::mem::take(&mut self.events)
    }
}

/// Reads a frame but for its body.
async fn read_head(stream: &mut UnixStream) -> Header {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await.unwrap();
    let header = Header::read(&header).unwrap().unwrap();
    stream.read_exact(&mut vec![0; header.head]).await.unwrap();
    header
}

async fn answer(stream: &mut UnixStream, kind: u8, write: impl FnOnce(&mut wire::Head<'_>)) {
    let mut bytes = Vec::new();
    frame(&mut bytes, kind, 0, write);
    stream.write_all(&bytes).await.unwrap();
}

async fn published(stream: &mut UnixStream, token: u64, outcome: u8) {
    answer(stream, wire::PUBLISHED, |head| {
        head.u64(token);
        head.u8(outcome);
        head.u64(0);
        head.name("");
    })
    .await;
}

fn lost(token: u64) -> Event {
    Event::Published { token: Token(token), outcome: Outcome::Lost }
}

/// The broker refuses before the body has come. Whatever the owner is told, from then on its memory is not read.
#[tokio::test]
async fn an_answer_before_the_body_is_written_frees_no_memory_that_is_still_to_be_written() {
    let mut bench = Bench::connected().await;
    let body = vec![7; LEN];
    let (first, second) = (bench.memory.put(&body), bench.memory.put(&body));
    bench.publish(1, first);
    bench.publish(2, second);
    assert_eq!(read_head(&mut bench.publisher).await.body, LEN as u64);
    published(&mut bench.publisher, 1, outcome::REFUSED).await;
    let events = bench.told().await;
    let [first_lost, second_lost, Event::Lost { epoch: 1, why }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((first_lost, second_lost), (&lost(1), &lost(2)));
    assert!(why.contains("not written yet"), "{why}");
    bench.memory.reuse(first);
    bench.memory.reuse(second);
    let mut rest = Vec::new();
    bench.publisher.read_to_end(&mut rest).await.unwrap();
    assert!(!rest.is_empty() && rest.len() < LEN, "{} bytes came", rest.len());
    assert!(rest.iter().all(|byte| *byte == 7), "bytes of the memory's next user were sent");
}

#[tokio::test]
async fn an_answer_to_what_is_written_is_told_while_later_publishes_still_wait() {
    let mut bench = Bench::connected().await;
    let (small, large) = (bench.memory.put(b"small"), bench.memory.put(&vec![7; LEN]));
    bench.publish(1, small);
    bench.publish(2, large);
    published(&mut bench.publisher, 1, outcome::UNROUTABLE).await;
    assert_eq!(bench.told().await, [Event::Published { token: Token(1), outcome: Outcome::Unroutable }]);
    assert!(!bench.transport.flushed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_broker_is_waited_for_as_long_as_bytes_move() {
    let mut bench = Bench::connected().await;
    let part = bench.memory.put(&vec![7; LEN]);
    bench.publish(1, part);
    let header = read_head(&mut bench.publisher).await;
    // Little at a time, and seldom.
    let mut left = header.body as usize;
    let mut piece = vec![0; LEN / 16];
    while left > 0 {
        tokio::time::advance(BROKER_SILENCE_MAX * 9 / 10).await;
        left -= bench.read(&mut piece).await;
    }
    // All is taken, and the broker says something, though not that the publish is safe.
    for blocked in [true, false, true] {
        tokio::time::advance(BROKER_SILENCE_MAX * 9 / 10).await;
        answer(&mut bench.publisher, wire::BLOCKED, |head| head.u8(u8::from(blocked))).await;
        assert_eq!(bench.told().await, [Event::Blocked(blocked)]);
    }
    published(&mut bench.publisher, 1, outcome::CONFIRMED).await;
    assert_eq!(bench.told().await, [Event::Published { token: Token(1), outcome: Outcome::Confirmed }]);
    // Who is owed nothing waits for nothing.
    tokio::time::advance(BROKER_SILENCE_MAX * 9).await;
    assert_eq!(bench.poll().await, []);
    tokio::time::advance(BROKER_SILENCE_MAX * 9).await;
    assert_eq!(bench.poll().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_takes_and_says_nothing_is_taken_for_dead() {
    for len in [LEN, 10] {
        let mut bench = Bench::connected().await;
        let part = bench.memory.put(&vec![7; len]);
        bench.publish(1, part);
        assert_eq!(bench.transport.flushed(), len == 10);
        let begun = tokio::time::Instant::now();
        let events = tokio::time::timeout(3 * BROKER_SILENCE_MAX, bench.told()).await.expect("it is waited for");
        let [publish, Event::Lost { epoch: 1, why }] = &events[..] else { panic!("{events:?}") };
        assert_eq!((publish, &why[..]), (&lost(1), "the broker shows no sign of life"));
        assert!(begun.elapsed() >= BROKER_SILENCE_MAX, "too early");
        drop(bench.consumer);
    }
}
