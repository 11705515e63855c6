//! What the RabbitMQ transport costs by itself: every message of one queue goes to another, beside `lapin` doing the
//! same.
//!
//! `forward compare URL MESSAGES BYTES ROUNDS [BROKER_PID]` takes turns: per round a queue is filled, then emptied into
//! another once by each client, in a process of its own; it prints messages per second and CPU per message of the
//! client (and of the broker, given a process whose children are it). A message is acknowledged only after its
//! successor is confirmed and was not returned. Any loss, and any refusal, ends it with an error.

use std::collections::VecDeque;
use std::error::Error;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::process::Command;
use std::task::Poll;
use std::time::Instant;

use asya_transport::rabbitmq::{RabbitMq, RabbitMqConfig};
use asya_transport::{
    Body, ContentType, Event, Memory, Op, Outcome, Part, Piece, Publish, QueueSpec, Room, Settlement, Slot, Tag, Token,
    Transport,
};
use futures_lite::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::{BasicProperties, Confirmation, Connection};

/// Deliveries held at once, by either client.
const WINDOW: u16 = 1024;

type Outcomes = Result<(), Box<dyn Error>>;

fn main() -> Outcomes {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match words[..] {
        ["compare", url, messages, bytes, rounds] => compare(url, messages, bytes, rounds.parse()?, None),
        ["compare", url, messages, bytes, rounds, pid] => compare(url, messages, bytes, rounds.parse()?, Some(pid)),
        ["fill", url, queue, messages, bytes] => runtime.block_on(fill(url, queue, messages.parse()?, bytes.parse()?)),
        ["ours", url, from, to, messages, bytes] => {
            runtime.block_on(measured(messages, forward(url, from, to, messages.parse()?, bytes.parse()?)))
        }
        ["lapin", url, from, to, messages, _] => {
            runtime.block_on(measured(messages, forward_by_lapin(url, from, to, messages.parse()?)))
        }
        _ => Err("forward compare URL MESSAGES BYTES ROUNDS [BROKER_PID]".into()),
    }
}

fn compare(url: &str, messages: &str, bytes: &str, rounds: u32, broker: Option<&str>) -> Outcomes {
    let own = std::env::current_exe()?;
    let run = |words: &[&str]| -> Result<String, Box<dyn Error>> {
        let output = Command::new(&own).args(words).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    };
    for round in 1..=rounds {
        let queues = [1, 2, 3].map(|n| format!("forward-{}-{round}-{n}", std::process::id()));
        run(&["fill", url, &queues[0], messages, bytes])?;
        // Each starts first in every other round.
        let order = if round % 2 == 1 { ["ours", "lapin"] } else { ["lapin", "ours"] };
        for (at, client) in order.into_iter().enumerate() {
            let before = broker.map(cpu_of_children).transpose()?;
            let said = run(&[client, url, &queues[at], &queues[at + 1], messages, bytes])?;
            let after = broker.map(cpu_of_children).transpose()?;
            let spent = before.zip(after).map_or(String::new(), |(before, after)| {
                format!(", broker {:.1} us", (after - before) * 1e6 / messages.parse::<f64>().unwrap_or(f64::NAN))
            });
            println!("round {round}: {client:>5} {}{spent}", said.trim_end());
        }
    }
    Ok(())
}

/// Runs it and prints what it took.
async fn measured(messages: &str, run: impl Future<Output = Outcomes>) -> Outcomes {
    let (start, before) = (Instant::now(), cpu_seconds("self")?);
    run.await?;
    let (wall, spent) = (start.elapsed().as_secs_f64(), cpu_seconds("self")? - before);
    let messages: f64 = messages.parse()?;
    println!("{:.0} msg/s, client {:.2} us", messages / wall, spent * 1e6 / messages);
    Ok(())
}

/// CPU seconds of a process: user and system, from the clock of 100 Hz that /proc has.
fn cpu_seconds(pid: &str) -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / 100.0)
}

/// The same of a process and all its descendants.
fn cpu_of_children(pid: &str) -> Result<f64, Box<dyn Error>> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    children.split_whitespace().try_fold(cpu_seconds(pid)?, |sum, child| Ok(sum + cpu_of_children(child)?))
}

/// Slots of one size in one region, and a result that is its input.
struct Slots {
    bytes: Vec<u8>,
    size: usize,
    free: Vec<u32>,
}

impl Slots {
    fn new(size: usize) -> Self {
        let count = usize::from(WINDOW).min((256 << 20) / size.max(1)).max(2);
        Self { bytes: vec![0; size * count], size, free: (0..count as u32).collect() }
    }

    fn part(&self, slot: Slot, len: u64) -> Part {
        Part { region: 0, offset: slot.0 as u64 * self.size as u64, len }
    }

    fn bytes(&self, part: Part) -> &[u8] {
        &self.bytes[part.offset as usize..(part.offset + part.len) as usize]
    }
}

impl Memory for Slots {
    fn reserve(&mut self, len: u64) -> Room {
        if len > self.size as u64 {
            return Room::TooLarge;
        }
        self.free.pop().map_or(Room::Later, |slot| Room::Granted(Slot(slot)))
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        let start = slot.0 as usize * self.size;
        &mut self.bytes[start..start + self.size]
    }

    fn release(&mut self, slot: Slot) {
        self.free.push(slot.0);
    }

    fn copy_part(&self, part: Part, out: &mut Vec<u8>) {
        out.extend_from_slice(self.bytes(part));
    }

    fn write_gathered(&self, socket: BorrowedFd<'_>, pieces: &[Piece<'_>]) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); 1024];
        let count = pieces.len().min(slices.len());
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = match piece {
                Piece::Bytes(bytes) => IoSlice::new(bytes),
                Piece::Part(part) => IoSlice::new(self.bytes(*part)),
            };
        }
        Ok(rustix::io::writev(socket, &slices[..count])?)
    }
}

/// One turn of the loop that a sidecar has: what was submitted goes out, what has happened comes in.
async fn turn(transport: &mut RabbitMq, memory: &mut Slots, events: &mut Vec<Event>) {
    poll_fn(|cx| {
        transport.flush(memory);
        transport.poll(cx, memory, events);
        if events.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

fn publish<'a>(token: u64, queue: &'a str, parts: &'a [Part]) -> Op<'a> {
    let body = Body { prefix: b"", parts, suffix: b"" };
    let (content_type, message_id) = (ContentType::Json, "0b0b6a6c-2f7c-4c57-9a53-3f0a0b2d6c11");
    Op::Publish(Publish { token: Token(token), queue, content_type, message_id, body, delay: None })
}

fn declare(queue: &str) -> Op<'_> {
    Op::Declare(QueueSpec { queue, dead_letter: None, delivery_limit: 100, consumer_timeout: None })
}

async fn fill(url: &str, queue: &str, messages: u64, bytes: usize) -> Outcomes {
    let mut transport = RabbitMq::new(RabbitMqConfig::from_url(url)?);
    let mut memory = Slots::new(bytes);
    transport.submit(declare(queue));
    let parts = [memory.part(Slot(0), bytes as u64)];
    let (mut sent, mut confirmed) = (0, 0);
    let mut events = Vec::new();
    while confirmed < messages {
        turn(&mut transport, &mut memory, &mut events).await;
        let mut credit = 0;
        for event in events.drain(..) {
            match event {
                Event::Connected { .. } => credit += 256,
                Event::Published { outcome: Outcome::Confirmed, .. } => {
                    confirmed += 1;
                    credit += 1;
                }
                Event::Declared { .. } | Event::Blocked(_) => {}
                other => return Err(format!("{other:?}").into()),
            }
        }
        while credit > 0 && sent < messages {
            transport.submit(publish(sent, queue, &parts));
            sent += 1;
            credit -= 1;
        }
    }
    Ok(())
}

async fn forward(url: &str, from: &str, to: &str, messages: u64, bytes: usize) -> Outcomes {
    let mut transport = RabbitMq::new(RabbitMqConfig::from_url(url)?);
    let mut memory = Slots::new(bytes);
    transport.submit(declare(to));
    transport.submit(Op::Consume { queue: from, window: u32::from(WINDOW) });
    let mut open: VecDeque<Option<(Tag, Slot)>> = VecDeque::new();
    let (mut sent, mut first, mut done) = (0, 0, 0);
    let mut events = Vec::new();
    while done < messages {
        turn(&mut transport, &mut memory, &mut events).await;
        for event in events.drain(..) {
            match event {
                Event::Delivered(delivery) => {
                    let parts = [memory.part(delivery.slot, delivery.len)];
                    transport.submit(publish(sent, to, &parts));
                    open.push_back(Some((delivery.tag, delivery.slot)));
                    sent += 1;
                }
                Event::Published { token, outcome: Outcome::Confirmed } => {
                    let settled = open.get_mut((token.0 - first) as usize).and_then(Option::take);
                    let (tag, slot) = settled.ok_or("confirmed twice")?;
                    transport.submit(Op::Settle { tag, how: Settlement::Ack });
                    memory.release(slot);
                    done += 1;
                    while let Some(None) = open.front() {
                        open.pop_front();
                        first += 1;
                    }
                }
                Event::Connected { .. } | Event::Declared { .. } | Event::Blocked(_) => {}
                other => return Err(format!("{other:?}").into()),
            }
        }
    }
    // The last acknowledgements.
    transport.flush(&mut memory);
    Ok(())
}

/// The same with `lapin`: two connections, pipelined confirms, one multiple-ack for each run of them.
async fn forward_by_lapin(url: &str, from: &str, to: &str, messages: u64) -> Outcomes {
    asya_transport::rabbitmq::admin::declare(
        RabbitMqConfig::from_url(url)?,
        QueueSpec { queue: to, dead_letter: None, delivery_limit: 100, consumer_timeout: None },
    )
    .await?;
    let consuming = Connection::connect(url, Default::default()).await?;
    let publishing = Connection::connect(url, Default::default()).await?;
    let (intake, outlet) = (consuming.create_channel().await?, publishing.create_channel().await?);
    intake.basic_qos(WINDOW, BasicQosOptions::default()).await?;
    outlet.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = intake.basic_consume(from.into(), "forward".into(), options, Default::default()).await?;
    let (sender, mut receiver) = tokio::sync::mpsc::channel(usize::from(WINDOW));
    let publish = async {
        for _ in 0..messages {
            let delivery = consumer.next().await.ok_or("the consumer ended")??;
            let properties =
                BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let confirm = outlet.basic_publish("".into(), to.into(), options, &delivery.data, properties).await?;
            sender.send((delivery.delivery_tag, confirm)).await?;
        }
        drop(sender);
        Ok::<(), Box<dyn Error>>(())
    };
    let settle = async {
        let mut batch = Vec::new();
        while receiver.recv_many(&mut batch, usize::from(WINDOW) / 4).await > 0 {
            let mut last = 0;
            for (tag, confirm) in batch.drain(..) {
                match confirm.await? {
                    Confirmation::Ack(None) => last = tag,
                    other => return Err(format!("{other:?}").into()),
                }
            }
            intake.basic_ack(last, BasicAckOptions { multiple: true }).await?;
        }
        Ok(())
    };
    tokio::try_join!(publish, settle)?;
    consuming.close(200, "done".into()).await?;
    publishing.close(200, "done".into()).await?;
    Ok(())
}
