//! A body of hundreds of megabytes passes through a broker that has not that much memory.

use asya_transport::conformance::{Client, HeapMemory, drive};
use asya_transport::embedded::{EmbeddedTransport, socket_path};
use asya_transport::{Body, ContentType, Event, Op, Outcome, Publish, Settlement, Token, Transport};
use tempfile::TempDir;

use crate::harness::{Process, Start, WATCHDOG, runtime};

const LEN: usize = 300 << 20;

/// Far below one body.
const MEMORY_MAX: u64 = 96 << 20;

#[test]
fn a_large_body_is_never_in_the_brokers_memory() {
    let dir = TempDir::new().unwrap();
    let start = Start { fsync: false, message_bytes_max: LEN as u64 + 100, ..Start::default() };
    let process = Process::start(dir.path(), start);
    process.admin().declare("work", None, 0).unwrap();
    let runtime = runtime();
    let mut memory = HeapMemory::new(1 << 30, 1 << 30);
    let body: Vec<u8> = (0..LEN).map(|at| (at / 4096 % 251) as u8).collect();
    let part = memory.put(&body);
    let transport = EmbeddedTransport::new(socket_path(dir.path()));
    let mut clients = [Client { transport, memory, events: Vec::new(), ledger: Default::default() }];
    clients[0].transport.submit(Op::Consume { queue: "work", window: 1 });
    let mut confirmed = false;
    let delivery = loop {
        drive(&runtime, &mut clients, WATCHDOG);
        let events = std::mem::take(&mut clients[0].events);
        assert!(!events.is_empty(), "nothing happens");
        let mut delivered = None;
        for event in events {
            match event {
                Event::Connected { .. } => clients[0].transport.submit(Op::Publish(Publish {
                    token: Token(1),
                    queue: "work",
                    content_type: ContentType::Native,
                    message_id: "large",
                    body: Body { prefix: b"head", parts: &[part], suffix: b"tail" },
                    delay: None,
                })),
                Event::Published { outcome: Outcome::Confirmed, .. } => confirmed = true,
                Event::Delivered(delivery) => delivered = Some(delivery),
                other => panic!("{other:?}"),
            }
        }
        if let Some(delivery) = delivered {
            break delivery;
        }
    };
    let came = clients[0].memory.slot(delivery.slot).unwrap();
    assert_eq!((&came[..4], &came[4 + LEN..]), (&b"head"[..], &b"tail"[..]));
    assert!(came[4..4 + LEN] == body[..], "the body came back different");
    clients[0].transport.submit(Op::Settle { tag: delivery.tag, how: Settlement::Ack });
    let peak = process.peak_memory();
    assert!(peak < MEMORY_MAX, "the broker had {} MiB of memory", peak >> 20);
    println!("confirmed first: {confirmed}; the broker's peak was {} MiB", peak >> 20);
}
