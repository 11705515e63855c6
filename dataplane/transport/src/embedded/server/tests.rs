//! The broker on its socket, spoken to byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tempfile::TempDir;

use super::{Broker, RunningBroker};
use crate::embedded::wire::{self, Fields, HEADER, Header, frame, outcome};
use crate::embedded::{EmbeddedAdmin, Options};

/// Longest wait for bytes that must come.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Larger than what is taken into memory, and than a body of the test's broker may be.
const LARGE: usize = 3 << 20;
const TOO_LARGE: usize = 5 << 20;
const BODY_MAX: u64 = 4 << 20;

/// A connection that has greeted.
struct Raw {
    stream: UnixStream,
}

impl Raw {
    fn connect(broker: &RunningBroker) -> Self {
        let stream = UnixStream::connect(broker.socket()).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        stream.set_write_timeout(Some(WATCHDOG)).unwrap();
        let mut raw = Self { stream };
        let mut hello = Vec::new();
        frame(&mut hello, wire::HELLO, 0, |head| {
            head.u32(wire::MAGIC);
            head.u16(wire::VERSION);
        });
        raw.stream.write_all(&hello).unwrap();
        assert_eq!(raw.answer().0, wire::WELCOME);
        raw
    }

    fn begin_publish(&mut self, token: u64, queue: &str, len: usize) {
        let mut bytes = Vec::new();
        frame(&mut bytes, wire::PUBLISH, len as u64, |head| {
            head.u64(token);
            head.u64(0);
            head.u8(0);
            head.name(queue);
            head.name("id");
        });
        self.stream.write_all(&bytes).unwrap();
    }

    fn send(&mut self, len: usize) {
        self.stream.write_all(&vec![b'x'; len]).unwrap();
    }

    /// The next frame: its kind and head.
    fn answer(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).unwrap();
        let header = Header::read(&header).unwrap().unwrap();
        let mut head = vec![0; header.head];
        self.stream.read_exact(&mut head).unwrap();
        (header.kind, head)
    }

    /// The token and outcome of the answer to a publish.
    fn published(&mut self) -> (u64, u8) {
        let (kind, head) = self.answer();
        assert_eq!(kind, wire::PUBLISHED);
        let mut fields = Fields(&head);
        (fields.u64().unwrap(), fields.u8().unwrap())
    }

    fn has_answer(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let came = self.stream.read(&mut [0; 1]);
        self.stream.set_nonblocking(false).unwrap();
        match came {
            Ok(count) => count > 0,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }
}

/// Waits until the broker has read, and would have answered, what was sent before: another connection, made later, is
/// answered in no earlier turn, and its second question in a later one.
fn turns_pass(admin: &mut EmbeddedAdmin) {
    for _ in 0..2 {
        admin.queues().unwrap();
    }
}

/// Until its body has come, the client still writes it from memory that the answer would free.
#[test]
fn a_refusal_of_a_large_body_follows_the_whole_body() {
    let dir = TempDir::new().unwrap();
    let options = Options {
        fsync: false,
        disk_free_min: 0,
        message_bytes_max: BODY_MAX,
        queue_messages_max: 1,
        ..Options::default()
    };
    let broker = Broker::spawn(dir.path(), options, &dir.path().join("socket")).unwrap();
    let mut raw = Raw::connect(&broker);
    let mut admin = EmbeddedAdmin::connect(broker.socket()).unwrap();
    for queue in ["full", "empty"] {
        admin.declare(queue, None, 0).unwrap();
    }
    raw.begin_publish(1, "full", 1);
    raw.send(1);
    assert_eq!(raw.published(), (1, outcome::CONFIRMED));

    let cases = [
        ("too large", "empty", TOO_LARGE, outcome::TOO_LARGE),
        ("no such queue", "nowhere", LARGE, outcome::UNROUTABLE),
        ("a full queue", "full", LARGE, outcome::REFUSED),
        ("paused", "empty", LARGE, outcome::REFUSED),
        ("no place for its file", "empty", LARGE, outcome::REFUSED),
    ];
    for (token, (why, queue, len, refusal)) in (2..).zip(cases) {
        let bodies = dir.path().join("bodies");
        if why == "paused" {
            admin.pause_publishing(true).unwrap();
            assert_eq!(raw.answer().0, wire::BLOCKED);
        }
        if why == "no place for its file" {
            std::fs::remove_dir_all(&bodies).unwrap();
        }
        raw.begin_publish(token, queue, len);
        for part in [0, len / 2, len - len / 2 - 1] {
            raw.send(part);
            turns_pass(&mut admin);
            assert!(!raw.has_answer(), "{why}: answered before the body was over");
        }
        raw.send(1);
        assert_eq!(raw.published(), (token, refusal), "{why}");
        if why == "paused" {
            admin.pause_publishing(false).unwrap();
            assert_eq!(raw.answer().0, wire::BLOCKED);
        }
        if why == "no place for its file" {
            std::fs::create_dir(&bodies).unwrap();
        }
    }
    // What was skipped were those bodies and nothing else.
    raw.begin_publish(100, "empty", LARGE);
    raw.send(LARGE);
    assert_eq!(raw.published(), (100, outcome::CONFIRMED));
    broker.stop().unwrap();
}
