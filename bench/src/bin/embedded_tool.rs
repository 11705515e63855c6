//! Sends to and reads from the embedded broker, for suites that are written in another language.
//!
//! `send` takes lines `ID<tab>BODY` and prints each id once the broker has the message; after a lost connection it sends
//! again what was not confirmed, and says `again ID` first; what the broker declines (its disk is full) it offers again. `read` prints the body of every message of a queue, a line each,
//! and then acknowledges it. `hold` takes every message of a queue and settles none; it says `holding` first. A number on its
//! input makes it take no more and give back all but so many, the oldest, the last one first; then it says `gave N`. `depth` prints how many wait. Blocks until its input
//! ends (`send`) or it is killed (`read`, `hold`).

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use asya_bench::Error;
use asya_bench::courier::Courier;
use asya_transport::embedded::EmbeddedTransport;
use asya_transport::{ContentType, Event, Memory, Outcome, Settlement};
use clap::{Parser, Subcommand};
use tokio::sync::mpsc;

/// Publishes that are open at once, and lines that are read ahead.
const OPEN: usize = 64;
/// What was declined is offered again after this: a full disk takes a person, or a test.
const OFFER_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Deliveries held while a queue is read.
const WINDOW: u32 = 64;
/// Deliveries held for good: more than any suite has on its way.
const HELD: u32 = 10_000;

/// Sends to and reads from the embedded broker.
#[derive(Parser)]
struct Arguments {
    /// The broker's socket.
    #[arg(long)]
    socket: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Publish the lines of standard input.
    Send { queue: String },
    /// Print what comes.
    Read { queue: String },
    /// Take what comes and settle nothing.
    Hold { queue: String },
    /// Print how many messages wait.
    Depth { queue: String },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = async {
        let courier = Courier::connect(EmbeddedTransport::new(&arguments.socket)).await?;
        match arguments.verb {
            Verb::Send { queue } => send(courier.through_losses(), &queue).await,
            Verb::Read { queue } => read(courier.through_losses(), &queue).await,
            Verb::Hold { queue } => hold(courier.through_losses(), &queue).await,
            Verb::Depth { queue } => depth(courier, &queue).await,
        }
    };
    match done.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embedded_tool: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn send(mut courier: Courier<EmbeddedTransport>, queue: &str) -> Result<(), Error> {
    let mut lines = input();
    let mut open: BTreeMap<u64, String> = BTreeMap::new();
    let (mut next, mut ended) = (0, false);
    let (mut again, mut declined) = (Vec::new(), Vec::new());
    while !(ended && open.is_empty()) {
        tokio::select! {
            line = lines.recv(), if !ended && open.len() < OPEN => match line {
                Some(line) => {
                    publish(&mut courier, next, queue, &line);
                    open.insert(next, line);
                    next += 1;
                }
                None => ended = true,
            },
            () = tokio::time::sleep(OFFER_AGAIN_AFTER), if !declined.is_empty() => {
                for token in declined.drain(..) {
                    publish(&mut courier, token, queue, open.get(&token).map(String::as_str).unwrap_or_default());
                }
            }
            happened = courier.events() => happened?,
        }
        while let Some(event) = courier.arrived() {
            match event {
                Event::Published { token, outcome: Outcome::Confirmed } => {
                    say(id_of(open.remove(&token.0).as_deref().unwrap_or_default()))?;
                }
                Event::Published { token, outcome: Outcome::Refused(_) } => declined.push(token.0),
                Event::Published { token, .. } => again.push(token.0),
                Event::Connected { .. } => {
                    for token in again.drain(..) {
                        let line = open.get(&token).map(String::as_str).unwrap_or_default();
                        say(&format!("again {}", id_of(line)))?;
                        publish(&mut courier, token, queue, line);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

async fn read(mut courier: Courier<EmbeddedTransport>, queue: &str) -> Result<(), Error> {
    courier.consume(queue, WINDOW);
    loop {
        courier.events().await?;
        while let Some(event) = courier.arrived() {
            if let Event::Delivered(delivery) = event {
                say(&String::from_utf8_lossy(courier.heap.slot(delivery.slot)))?;
                courier.heap.release(delivery.slot);
                courier.settle(delivery.tag, Settlement::Ack);
            }
        }
    }
}

async fn hold(mut courier: Courier<EmbeddedTransport>, queue: &str) -> Result<(), Error> {
    let mut numbers = input();
    let mut held = Vec::new();
    courier.consume(queue, HELD);
    say("holding")?;
    loop {
        tokio::select! {
            Some(number) = numbers.recv() => {
                let most = number.parse().unwrap_or(usize::MAX);
                courier.cancel().await?;
                let back = held.split_off(most.min(held.len()));
                for tag in back.iter().rev() {
                    courier.settle(*tag, Settlement::Requeue);
                }
                courier.flush();
                say(&format!("gave {}", back.len()))?;
            }
            happened = courier.events() => happened?,
        }
        while let Some(event) = courier.arrived() {
            match event {
                Event::Delivered(delivery) => {
                    courier.heap.release(delivery.slot);
                    held.push(delivery.tag);
                }
                Event::Lost { .. } => held.clear(),
                _ => {}
            }
        }
    }
}

async fn depth(mut courier: Courier<EmbeddedTransport>, queue: &str) -> Result<(), Error> {
    say(&courier.depth(queue).await?.to_string())
}

fn publish(courier: &mut Courier<EmbeddedTransport>, token: u64, queue: &str, line: &str) {
    let body = line.split_once('\t').map_or("", |(_, body)| body);
    courier.publish(token, queue, ContentType::Json, id_of(line), body.as_bytes(), &[]);
}

fn id_of(line: &str) -> &str {
    line.split_once('\t').map_or(line, |(id, _)| id)
}

/// The lines of standard input, read by a thread of its own: it blocks.
fn input() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(OPEN);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn say(line: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(Error::system("cannot write"))
}
