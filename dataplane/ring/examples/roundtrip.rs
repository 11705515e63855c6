//! What handing messages to a Python process and back costs: `cargo run --release -p asya-ring --example roundtrip`.
//!
//! One link to `tests/echo_worker.py` (standard library only, no decoding, no checking). A round is: push a batch, ring
//! once, wait for the doorbell, take completions until all are back. Payloads lie in their slots already and results
//! stay where they are, as in the sidecar, so what is measured is the hand-over and, where it says so, Python's copy.

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use asya_ring::socket::Listener;
use asya_ring::{Arena, ArenaConfig, Call, Completion, Extent, InputRegion, Link, OutputRegion, Submission};
use common::{Echo, Mode, Sidecar, readable};

/// How long each line is measured for.
const SPAN: Duration = Duration::from_secs(2);

fn main() -> io::Result<()> {
    // The worker inherits its environment from this process, which gets it by starting itself again.
    if std::env::var_os("ECHO_UNCHECKED").is_none() {
        let status = std::process::Command::new(std::env::current_exe()?).env("ECHO_UNCHECKED", "1").status()?;
        std::process::exit(status.code().unwrap_or(1));
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("asya-sidecar.sock");
    let listener = Listener::bind(&path)?;
    let _echo = Echo::start(&path, 1, None);
    let mut sidecar = Sidecar::new(64, 128 << 20);
    let _socket = sidecar.attach(&listener, 1, r#""generation": 1"#).ok_or(io::ErrorKind::UnexpectedEof)?;

    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:>8} {:>6} {:<8} {:>10} {:>10} {:>12}",
        "bytes", "batch", "result", "median µs", "p99 µs", "messages/s"
    )?;
    for len in [1 << 10, 1 << 20] {
        for batch in [1, 16] {
            for (name, mode) in [("copied", Mode::One), ("in place", Mode::Parts)] {
                let mut bench = Bench::new(&mut sidecar, len, batch, mode);
                let (median, p99, rate) = bench.run(&mut sidecar.link, &sidecar.output);
                bench.end(&mut sidecar);
                writeln!(out, "{len:>8} {batch:>6} {name:<8} {median:>10.1} {p99:>10.1} {rate:>12.0}")?;
            }
        }
    }
    Ok(())
}

/// A batch of calls with slots and rooms of their own, used again and again.
struct Bench {
    calls: Vec<Call>,
    slots: Vec<Extent>,
    completions: Vec<Completion>,
}

impl Bench {
    fn new(sidecar: &mut Sidecar, len: u64, batch: usize, mode: Mode) -> Self {
        let mut rooms = Arena::new(ArenaConfig {
            space: sidecar.output.rooms(),
            small_bytes: 4096,
            small_slots: 64,
            budget_bytes: u64::MAX,
            warm_bytes: u64::MAX,
        });
        let (mut calls, mut slots) = (Vec::new(), Vec::new());
        for call in 0..batch as u64 {
            let slot = sidecar.arena.alloc(len + 8).expect("room");
            fill(&mut sidecar.input, slot, mode);
            calls.push(Call {
                call,
                payload: Extent { offset: slot.offset + 8, len },
                document_len: len,
                context: Extent { offset: slot.offset, len: 8 },
                room: rooms.alloc(len.max(4096)),
                ..Call::default()
            });
            slots.push(slot);
        }
        Self { calls, slots, completions: Vec::new() }
    }

    /// Median and 99th percentile of a round in microseconds, and messages a second.
    fn run(&mut self, link: &mut Link, output: &OutputRegion) -> (f64, f64, f64) {
        // The first rounds touch every page.
        for _ in 0..50 {
            self.round(link, output);
        }
        let mut rounds = Vec::new();
        let started = Instant::now();
        while started.elapsed() < SPAN {
            let round = Instant::now();
            self.round(link, output);
            rounds.push(round.elapsed());
        }
        let rate = (rounds.len() * self.calls.len()) as f64 / started.elapsed().as_secs_f64();
        rounds.sort_unstable();
        let micros = |at: usize| rounds[at].as_secs_f64() * 1e6;
        (micros(rounds.len() / 2), micros(rounds.len() * 99 / 100), rate)
    }

    fn round(&mut self, link: &mut Link, output: &OutputRegion) {
        for call in &self.calls {
            link.push(&Submission::Call(*call)).expect("fewer calls than allowed");
        }
        link.ring().expect("ring");
        let mut left = self.calls.len();
        let mut parts = Vec::new();
        while left > 0 {
            assert!(readable(link.as_fd()), "the worker hangs");
            link.poll(&mut self.completions).expect("an honest worker");
            for completion in self.completions.drain(..) {
                if let Completion::Result(result) = completion {
                    parts.clear();
                    output.parts(&result, &mut parts).expect("valid");
                    left -= 1;
                }
            }
        }
    }

    fn end(self, sidecar: &mut Sidecar) {
        for slot in self.slots {
            sidecar.arena.free(slot).expect("allocated");
        }
    }
}

fn fill(input: &mut InputRegion, slot: Extent, mode: Mode) {
    let bytes = input.slice_mut(slot).expect("a slot");
    bytes.fill(b'x');
    bytes[..8].fill(0);
    bytes[4] = mode as u8;
}
