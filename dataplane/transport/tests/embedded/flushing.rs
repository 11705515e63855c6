//! When everything that was submitted is with the kernel.

use std::future::poll_fn;
use std::task::Poll;

use asya_transport::conformance::HeapMemory;
use asya_transport::embedded::{Broker, EmbeddedTransport, Options};
use asya_transport::{Event, Op, QueueSpec, Transport};
use tempfile::TempDir;

use crate::harness::{WATCHDOG, runtime};

#[test]
fn what_is_submitted_is_flushed_once_the_kernel_has_it() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("socket");
    let options = Options { fsync: false, disk_free_min: 0, ..Options::default() };
    let broker = Broker::spawn(dir.path(), options, &socket).unwrap();
    runtime().block_on(async {
        let (mut memory, mut events) = (HeapMemory::new(1 << 20, 1 << 16), Vec::new());
        let mut transport = EmbeddedTransport::new(&socket);
        assert!(transport.flushed(), "nothing can be lost before there is a connection");
        let connected = poll_fn(|cx| {
            transport.flush(&mut memory);
            transport.poll(cx, &mut memory, &mut events);
            if events.contains(&Event::Connected { epoch: 1 }) { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(WATCHDOG, connected).await.unwrap();
        let spec = QueueSpec { queue: "q", dead_letter: None, delivery_limit: 3, consumer_timeout: None };
        for op in [Op::Declare(spec), Op::Depth { queue: "q" }, Op::Consume { queue: "q", window: 1 }, Op::Cancel] {
            transport.submit(op);
            assert!(!transport.flushed(), "{op:?} waits");
            transport.flush(&mut memory);
            assert!(transport.flushed(), "{op:?} is with the kernel");
        }
    });
    broker.stop().unwrap();
}
