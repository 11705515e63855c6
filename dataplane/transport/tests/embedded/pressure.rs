//! More at once than a broker takes at once.

use std::collections::BTreeSet;

use asya_transport::conformance::{Client, HeapMemory, drive};
use asya_transport::embedded::{EmbeddedTransport, Keep, socket_path};
use asya_transport::{Body, ContentType, Event, Op, Outcome, Publish, Token, Transport};
use tempfile::TempDir;

use crate::harness::{Process, Start, WATCHDOG, runtime};

const PUBLISHES: u64 = 512;
const LEN: usize = 1 << 20;

/// Bodies of the client's own, which it copies and keeps, and bodies that lie with the caller.
#[test]
fn half_a_gigabyte_of_open_publishes_waits_for_the_broker() {
    let dir = TempDir::new().unwrap();
    let process = Process::start(dir.path(), Start { fsync: false, ..Start::default() });
    // The queue forgets them, so that the disk need not hold them.
    process.admin().keep("work", Some(Keep { messages: 1, bytes: LEN as u64 })).unwrap();
    let runtime = runtime();
    let bytes = vec![b'x'; LEN];
    for copied in [true, false] {
        let mut memory = HeapMemory::new(0, 0);
        let parts = [memory.put(&bytes)];
        let body = if copied {
            Body { prefix: &bytes, parts: &[], suffix: b"" }
        } else {
            Body { prefix: b"", parts: &parts, suffix: b"" }
        };
        let transport = EmbeddedTransport::new(socket_path(dir.path()));
        let mut clients = [Client { transport, memory, events: Vec::new(), ledger: Default::default() }];
        drive(&runtime, &mut clients, WATCHDOG);
        assert_eq!(std::mem::take(&mut clients[0].events), [Event::Connected { epoch: 1 }]);
        let mut open = BTreeSet::new();
        for token in 0..PUBLISHES {
            open.insert(token);
            clients[0].transport.submit(Op::Publish(Publish {
                token: Token(token),
                queue: "work",
                content_type: ContentType::Native,
                message_id: "one of many",
                body,
                delay: None,
            }));
        }
        while !open.is_empty() {
            drive(&runtime, &mut clients, WATCHDOG);
            let events = std::mem::take(&mut clients[0].events);
            assert!(!events.is_empty(), "nothing happens; {} publishes are open", open.len());
            for event in events {
                match event {
                    Event::Published { token, outcome: Outcome::Confirmed } => assert!(open.remove(&token.0)),
                    other => panic!("copied: {copied}: {other:?}"),
                }
            }
        }
        assert!(clients[0].transport.flushed());
    }
}
