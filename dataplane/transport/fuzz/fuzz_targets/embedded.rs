//! Any bytes on the embedded broker's socket, from either side: the broker ends the connection or answers and lives on for others,
//! and its clients, the sidecar's and the tools', end with an error or go on.
#![no_main]

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::task::Poll;
use std::time::Duration;

use asya_transport::conformance::HeapMemory;
use asya_transport::embedded::{Broker, EmbeddedAdmin, EmbeddedTransport, Options, RunningBroker};
use asya_transport::{Event, Memory, Op, QueueSpec, Transport};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The beginning of every conversation, so that what comes after it is reached.
const HELLO: [u8; 14] = [0, 0, 0, 0, 6, 0, 1, 0, b'A', b'S', b'Y', b'A', 1, 0];
const WELCOME: [u8; 18] = [0, 0, 0, 0, 10, 0, 64, 0, 1, 0, 0, 0, 16, 0, 0, 0, 0, 0];
/// Whoever waits for longer than this has been forgotten.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    folder: TempDir,
    _broker: RunningBroker,
    runtime: Runtime,
}

impl World {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let options = Options {
            fsync: false,
            message_bytes_max: 1 << 20,
            queue_messages_max: 1000,
            queue_bytes_max: 8 << 20,
            disk_free_min: 0,
        };
        let broker = Broker::spawn(&folder.path().join("store"), options, &folder.path().join("broker.sock"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self { _broker: broker.expect("a broker"), runtime: runtime.expect("a runtime"), folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("broker.sock")
    }
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// As a client that says this to the broker. Stop (29) would end it for all.
fn to_the_broker(bytes: &[u8]) {
    let mut stream = UnixStream::connect(WORLD.socket()).expect("the broker listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    // It may hang up at any moment.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(!matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "the broker is silent");
    }
    let mut admin = EmbeddedAdmin::connect(&WORLD.socket()).expect("the broker listens");
    for queue in admin.queues().expect("the broker answers") {
        admin.delete(&queue.name).expect("a queue can be deleted");
    }
}

/// A broker that says this to whoever comes.
fn from_a_broker(bytes: Vec<u8>, connections: usize) -> (TempDir, PathBuf, std::thread::JoinHandle<()>) {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("broker.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let thread = std::thread::spawn(move || {
        for _ in 0..connections {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _ = stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write));
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    (folder, socket, thread)
}

fn to_a_tool(bytes: Vec<u8>) {
    let (_folder, socket, thread) = from_a_broker(bytes, 1);
    if let Ok(mut admin) = EmbeddedAdmin::connect(&socket) {
        let _ = admin.queues().and_then(|_| admin.browse("q", 0, 10, 1 << 20)).and_then(|_| admin.declare("q", None, 1));
    }
    thread.join().expect("the broker ends");
}

fn to_a_sidecar(bytes: Vec<u8>) {
    let (folder, socket, thread) = from_a_broker(bytes, 1);
    WORLD.runtime.block_on(async {
        let mut transport = EmbeddedTransport::new(&socket);
        let mut memory = HeapMemory::new(1 << 20, 1 << 16);
        let spec = QueueSpec { queue: "q", dead_letter: None, delivery_limit: 100, consumer_timeout: None };
        transport.submit(Op::Declare(spec));
        transport.submit(Op::Consume { queue: "q", window: 8 });
        let mut events = Vec::new();
        let lost = poll_fn(|cx| {
            transport.flush(&mut memory);
            transport.poll(cx, &mut memory, &mut events);
            let mut lost = false;
            for event in events.drain(..) {
                match event {
                    Event::Delivered(delivery) => memory.release(delivery.slot),
                    Event::Lost { .. } | Event::Fatal { .. } => lost = true,
                    _ => {}
                }
            }
            if lost { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(PATIENCE, lost).await.expect("the end of the connection is told");
        drop(transport);
        assert_eq!((memory.misuses(), memory.slots_out()), (0, 0));
    });
    drop(folder);
    thread.join().expect("the broker ends");
}

fuzz_target!(|input: &[u8]| {
    let Some((&who, bytes)) = input.split_first() else { return };
    let with = |greeting: &[u8]| [if who & 4 == 0 { greeting } else { &[] }, bytes].concat();
    match who & 3 {
        0 | 1 if !stops(bytes) => to_the_broker(&with(&HELLO)),
        2 => to_a_tool(with(&WELCOME)),
        3 => to_a_sidecar(with(&WELCOME)),
        _ => {}
    }
});

/// Whether a frame of these bytes might be the order to stop, which ends a broker as it should.
fn stops(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == [29, 0])
}
