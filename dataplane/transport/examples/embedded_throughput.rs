//! Messages per second through the embedded broker, on this machine and disk.
//!
//! Takes a directory for the store (its disk is what is measured) and, optionally, seconds per figure; prints a table.
//! One publisher with a bounded number of open publishes, one consumer that acknowledges each delivery, both on one
//! thread; the broker on another.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use asya_transport::conformance::{Client, HeapMemory, drive};
use asya_transport::embedded::{Broker, EmbeddedTransport, Options};
use asya_transport::{
    Body, ContentType, Event, Memory, Op, Outcome, Part, Publish, QueueSpec, Settlement, Tag, Token, Transport,
};
use tokio::runtime::Runtime;

const QUEUE: &str = "asya-bench-work";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("usage: embedded_throughput DIR [SECONDS]")?);
    let seconds = Duration::from_secs(args.next().map_or(Ok(3), |seconds| seconds.parse())?);
    println!("| body | fsync | open | msg/s | broker µs/msg | client µs/msg | one at a time |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for fsync in [true, false] {
        for (len, open) in [(1 << 10, 256), (1 << 10, 2048), (64 << 10, 64), (1 << 20, 16), (16 << 20, 4)] {
            let run = run(&dir, fsync, len, open, seconds)?;
            let alone = self::run(&dir, fsync, len, 1, seconds / 3)?;
            println!(
                "| {} KiB | {} | {open} | {:.0} | {:.1} | {:.1} | {:.0} µs |",
                len >> 10,
                if fsync { "on" } else { "off" },
                run.per_second,
                run.broker_us,
                run.client_us,
                1e6 / alone.per_second,
            );
        }
    }
    Ok(())
}

struct Figures {
    per_second: f64,
    broker_us: f64,
    client_us: f64,
}

fn run(dir: &Path, fsync: bool, len: usize, open: usize, time: Duration) -> Result<Figures, Failure> {
    let dir = dir.join(format!("throughput-{}", std::process::id()));
    let options = Options { fsync, disk_free_min: 0, ..Options::default() };
    std::fs::create_dir_all(&dir)?;
    let broker = Broker::spawn(&dir, options, &dir.join("socket"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut bench = Bench::new(&runtime, broker.socket(), len);
    bench.flow(open, Duration::from_millis(500))?;
    let (broker_ns, client_ns) = (cpu_ns("asya-broker")?, cpu_ns("embedded_throug")?);
    let begun = Instant::now();
    let count = bench.flow(open, time)?;
    let took = begun.elapsed();
    let (broker_ns, client_ns) = (cpu_ns("asya-broker")? - broker_ns, cpu_ns("embedded_throug")? - client_ns);
    drop(bench);
    broker.stop()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(Figures {
        per_second: count as f64 / took.as_secs_f64(),
        broker_us: broker_ns as f64 / 1e3 / count as f64,
        client_us: client_ns as f64 / 1e3 / count as f64,
    })
}

/// Nanoseconds on a processor of this process's threads of a name.
fn cpu_ns(name: &str) -> Result<u64, Failure> {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.trim() == name {
            let times = std::fs::read_to_string(task.join("schedstat"))?;
            sum += times.split(' ').next().ok_or("no times")?.parse::<u64>()?;
        }
    }
    Ok(sum)
}

struct Bench<'a> {
    runtime: &'a Runtime,
    clients: [Client<EmbeddedTransport>; 1],
    part: Part,
    next_token: u64,
    open: usize,
}

impl<'a> Bench<'a> {
    fn new(runtime: &'a Runtime, socket: &Path, len: usize) -> Self {
        let transport = EmbeddedTransport::new(socket);
        let mut memory = HeapMemory::new(1 << 30, 512 << 20);
        let part = memory.put(&vec![7; len]);
        let client = Client { transport, memory, events: Vec::new(), ledger: Default::default() };
        let mut bench = Self { runtime, clients: [client], part, next_token: 1, open: 0 };
        let transport = &mut bench.clients[0].transport;
        let spec = QueueSpec { queue: QUEUE, dead_letter: None, delivery_limit: 100, consumer_timeout: None };
        transport.submit(Op::Declare(spec));
        transport.submit(Op::Consume { queue: QUEUE, window: 4096 });
        bench
    }

    /// Keeps `open` messages on their way for `time`, then waits for those that still are. How many arrived.
    fn flow(&mut self, open: usize, time: Duration) -> Result<u64, Failure> {
        let end = Instant::now() + time;
        let mut arrived = 0;
        let mut connected = self.next_token > 1;
        loop {
            let more = Instant::now() < end;
            while more && connected && self.open < open {
                self.publish();
            }
            if !more && self.open == 0 {
                return Ok(arrived);
            }
            drive(self.runtime, &mut self.clients, Duration::from_secs(10));
            for event in std::mem::take(&mut self.clients[0].events) {
                match event {
                    Event::Connected { .. } => connected = true,
                    Event::Delivered(delivery) => {
                        self.clients[0].memory.release(delivery.slot);
                        self.settle(delivery.tag);
                        arrived += 1;
                    }
                    Event::Published { outcome: Outcome::Confirmed, .. } | Event::Declared { .. } => {}
                    other => return Err(format!("{other:?}").into()),
                }
            }
            if !connected && Instant::now() > end + Duration::from_secs(10) {
                return Err("the broker does not answer".into());
            }
        }
    }

    fn publish(&mut self) {
        self.open += 1;
        let token = Token(self.next_token);
        self.next_token += 1;
        self.clients[0].transport.submit(Op::Publish(Publish {
            token,
            queue: QUEUE,
            content_type: ContentType::Native,
            message_id: "00000000-0000-0000-0000-000000000000",
            body: Body { prefix: b"a head", parts: &[self.part], suffix: b"" },
            delay: None,
        }));
    }

    fn settle(&mut self, tag: Tag) {
        self.open -= 1;
        self.clients[0].transport.submit(Op::Settle { tag, how: Settlement::Ack });
    }
}
