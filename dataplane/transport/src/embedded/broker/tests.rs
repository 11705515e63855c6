//! The broker without sockets: a store that fails, bounds, what tools do.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::Core;
use crate::embedded::store::Fault;
use crate::embedded::wire::{self, Fields, HEADER, Header, frame, outcome};
use crate::embedded::{Keep, Options};

/// A session of the core, and what it was told.
struct Bench {
    core: Core,
    now: Instant,
}

const ME: usize = 0;

impl Bench {
    fn open(dir: &TempDir, options: Options) -> Self {
        let mut core = Core::open(dir.path(), options).unwrap();
        core.attach(ME);
        let mut bench = Self { core, now: Instant::now() };
        bench.send(wire::HELLO, &[], |head| {
            head.u32(wire::MAGIC);
            head.u16(wire::VERSION);
        });
        bench.send(wire::DECLARE, &[], |head| {
            head.u32(3);
            head.u8(0);
            head.name("work");
            head.name("work-dlq");
        });
        bench.turn();
        bench
    }

    fn send(&mut self, kind: u8, body: &[u8], write: impl FnOnce(&mut wire::Head<'_>)) {
        let mut bytes = Vec::new();
        frame(&mut bytes, kind, body.len() as u64, write);
        self.core.serve(ME, kind, &bytes[HEADER..], body, self.now).unwrap();
    }

    fn publish(&mut self, token: u64, body: &[u8]) {
        self.send(wire::PUBLISH, body, |head| {
            head.u64(token);
            head.u64(0);
            head.u8(0);
            head.name("work");
            head.name("id");
        });
    }

    fn consume(&mut self, window: u32) {
        self.send(wire::CONSUME, &[], |head| {
            head.u32(window);
            head.name("work");
        });
    }

    /// A turn, and all that it told: kind, head and body of each frame.
    fn turn(&mut self) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
        self.core.commit(self.now);
        self.core.dispatch();
        let out = self.core.out(ME).unwrap();
        let mut bytes: Vec<u8> = out.slices().flatten().copied().collect();
        out.wrote(bytes.len());
        assert!(out.is_empty());
        let mut frames = Vec::new();
        while let Some(header) = Header::read(&bytes).unwrap() {
            let body = bytes.split_off(HEADER + header.head);
            let (body, rest) = body.split_at(header.body as usize);
            frames.push((header.kind, bytes.split_off(HEADER), body.to_vec()));
            bytes = rest.to_vec();
        }
        frames
    }

    /// Outcomes of publishes and bodies of deliveries of one turn.
    fn told(&mut self) -> (Vec<(u64, u8)>, Vec<Vec<u8>>) {
        let (mut outcomes, mut bodies) = (Vec::new(), Vec::new());
        for (kind, head, body) in self.turn() {
            let mut fields = Fields(&head);
            match kind {
                wire::PUBLISHED => outcomes.push((fields.u64().unwrap(), fields.u8().unwrap())),
                wire::DELIVER => bodies.push(body),
                _ => {}
            }
        }
        (outcomes, bodies)
    }

    fn later(&mut self) {
        self.now += Duration::from_secs(10);
    }
}

fn bodies(bodies: &[&str]) -> Vec<Vec<u8>> {
    bodies.iter().map(|body| body.as_bytes().to_vec()).collect()
}

/// A commit that fails refuses its publishes, keeps its acknowledgements for later, and delivers nothing that it
/// refused, whether or not it was written.
#[test]
fn a_failing_store_refuses_and_loses_nothing() {
    for fault in [Fault::BeforeWriting, Fault::AfterWriting] {
        let dir = TempDir::new().unwrap();
        let mut bench = Bench::open(&dir, Options { disk_free_min: 0, ..Options::default() });
        bench.consume(1);
        bench.publish(1, b"one");
        bench.publish(2, b"two");
        assert_eq!(bench.told(), (vec![(1, outcome::CONFIRMED), (2, outcome::CONFIRMED)], bodies(&["one"])));

        bench.core.store().fault = Some(fault);
        bench.publish(3, b"three");
        bench.send(wire::SETTLE, &[], |head| {
            head.u8(wire::settle::ACK);
            head.u64(1);
        });
        let (outcomes, _) = bench.told();
        assert_eq!(outcomes, [(3, outcome::REFUSED)], "{fault:?}");
        bench.publish(4, b"four");
        assert_eq!(bench.told().0, [(4, outcome::REFUSED)], "while the store is away");
        bench.later();
        bench.publish(5, b"five");
        assert_eq!(bench.told().0, [(5, outcome::REFUSED)], "while it cannot be opened again");

        bench.core.store().fault = None;
        bench.later();
        bench.told();
        bench.publish(6, b"six");
        let (outcomes, mut came) = bench.told();
        assert_eq!(outcomes, [(6, outcome::CONFIRMED)]);
        bench.consume(10);
        came.extend(bench.told().1);
        // "two" may have been delivered from memory while the store was away; it is not delivered twice.
        came.retain(|body| body != b"two");
        assert_eq!(came, bodies(&["six"]), "{fault:?}");

        drop(bench);
        let mut bench = Bench::open(&dir, Options { disk_free_min: 0, ..Options::default() });
        bench.consume(10);
        assert_eq!(bench.told().1, bodies(&["two", "six"]), "{fault:?}: after a restart");
    }
}

#[test]
fn a_full_queue_refuses_and_takes_again_once_there_is_room() {
    let dir = TempDir::new().unwrap();
    let options = Options { queue_messages_max: 2, queue_bytes_max: 100, disk_free_min: 0, ..Options::default() };
    let mut bench = Bench::open(&dir, options);
    bench.publish(1, b"one");
    bench.publish(2, b"two");
    bench.publish(3, b"three");
    let confirmed = outcome::CONFIRMED;
    let (mut outcomes, _) = bench.told();
    outcomes.sort();
    assert_eq!(outcomes, [(1, confirmed), (2, confirmed), (3, outcome::REFUSED)]);
    bench.consume(1);
    bench.told();
    bench.send(wire::SETTLE, &[], |head| {
        head.u8(wire::settle::ACK);
        head.u64(1);
    });
    bench.told();
    bench.publish(4, &[0; 99]);
    bench.publish(5, &[0; 20]);
    let (mut outcomes, _) = bench.told();
    outcomes.sort();
    assert_eq!(outcomes, [(4, outcome::REFUSED), (5, confirmed)], "bytes are bounded too");
}

#[test]
fn a_full_disk_refuses() {
    let dir = TempDir::new().unwrap();
    let mut bench = Bench::open(&dir, Options { disk_free_min: u64::MAX, ..Options::default() });
    bench.publish(1, b"one");
    let told = bench.turn();
    let refused = told.iter().find(|(kind, ..)| *kind == wire::PUBLISHED).unwrap();
    assert_eq!(refused.1[8], outcome::REFUSED);
    assert!(String::from_utf8_lossy(&refused.1).contains("disk is full"));
}

#[test]
fn a_queue_that_keeps_so_many_forgets_the_oldest() {
    let dir = TempDir::new().unwrap();
    let options = Options { queue_messages_max: 2, disk_free_min: 0, ..Options::default() };
    let mut bench = Bench::open(&dir, options.clone());
    bench.core.keep("work", Keep { messages: 3, bytes: 1000 }).unwrap();
    for token in 1..=5 {
        bench.publish(token, format!("body {token}").as_bytes());
        assert_eq!(bench.told().0, [(token, outcome::CONFIRMED)], "a queue that forgets is never full");
    }
    bench.told();
    drop(bench);
    let mut bench = Bench::open(&dir, options);
    bench.publish(6, &[b'x'; 998]);
    bench.told();
    bench.consume(10);
    assert_eq!(bench.told().1, [[b'x'; 998]], "bytes are bounded too, and the bound is remembered");
}

#[test]
fn a_frame_before_the_greeting_ends_the_connection() {
    let dir = TempDir::new().unwrap();
    let mut bench = Bench::open(&dir, Options::default());
    bench.core.attach(1);
    assert!(bench.core.serve(1, wire::LIST, &[], &[], bench.now).is_err());
    assert!(bench.core.serve(ME, wire::HELLO, &[], &[], bench.now).is_err());
}

proptest::proptest! {
    // Each case opens a store, so few cases of many frames each.
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(12))]

    /// No head makes the broker panic.
    #[test]
    fn any_head_is_served_or_refused(frames in proptest::collection::vec(any_frame(), 200)) {
        let dir = TempDir::new().unwrap();
        let mut bench = Bench::open(&dir, Options { fsync: false, disk_free_min: 0, ..Options::default() });
        bench.publish(1, b"one");
        for (kind, head) in frames {
            let _ = bench.core.serve(ME, kind, &head, b"body", bench.now);
            bench.core.commit(bench.now);
            bench.core.dispatch();
        }
    }
}

/// A kind, and a head of bytes or of small words, which are more often meaningful.
fn any_frame() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let bytes = vec(any::<u8>(), 0..80);
    let words = vec(0..6_u16, 0..12).prop_map(|words| words.into_iter().flat_map(u16::to_le_bytes).collect());
    (0..100_u8, prop_oneof![bytes, words])
}
