//! Plays seeds of the simulation: `simulate [--seeds N] [--from SEED]`, or `simulate --seed SEED [--message ID]` for one
//! seed's story. A seed that panics or never ends breaks a rule like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use asya_tests::simulation::fault::{FAULTS, Fault};
use asya_tests::simulation::run::{Outcome, run};
use asya_tests::simulation::states::STATES;
use clap::Parser;

/// A seed that takes longer than this never ends: the slowest takes a thousandth of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Plays seeds of the deterministic simulation and checks its rules after every event.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to play.
    #[arg(long, default_value_t = 3_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Play this seed alone and print what happened.
    #[arg(long)]
    seed: Option<u64>,
    /// Print only lines of the story that name this message.
    #[arg(long)]
    message: Option<String>,
    /// Stop at the first broken rule.
    #[arg(long)]
    first: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => story(seed, arguments.message.as_deref()),
        None => many(&arguments),
    }
}

fn story(seed: u64, message: Option<&str>) -> ExitCode {
    let outcome = run(seed, true);
    for line in outcome.story.iter().filter(|line| message.is_none_or(|id| line.contains(id))) {
        println!("{line}");
    }
    println!("seed {seed}: {} messages, faults {:?}", outcome.messages, outcome.faults);
    for violation in &outcome.violations {
        println!("violation: {violation}");
    }
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays a seed; a panic of the core is told as a broken rule.
fn attempt(seed: u64) -> Outcome {
    catch_unwind(|| run(seed, false)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default();
        Outcome { violations: vec![format!("panic: {text}")], ..Outcome::default() }
    })
}

/// Ends the process, with a report, when a seed never ends.
fn watch(current: &'static AtomicU64) {
    std::thread::spawn(move || {
        loop {
            let before = current.load(Ordering::Relaxed);
            std::thread::sleep(PATIENCE);
            if current.load(Ordering::Relaxed) == before {
                println!("seed {before}: never ends");
                println!("{}", serde_json::json!({ "violations": 1, "first_violation": before }));
                std::process::exit(1);
            }
        }
    });
}

fn many(arguments: &Arguments) -> ExitCode {
    static CURRENT: AtomicU64 = AtomicU64::new(0);
    watch(&CURRENT);
    let mut faults: BTreeMap<Fault, u64> = FAULTS.into_iter().map(|f| (f, 0)).collect();
    let mut states = BTreeSet::new();
    let (mut messages, mut violations, mut played) = (0, 0, 0);
    let mut first = None;
    for seed in arguments.from..arguments.from + arguments.seeds {
        CURRENT.store(seed, Ordering::Relaxed);
        let outcome = attempt(seed);
        played += 1;
        messages += outcome.messages;
        states.extend(outcome.states);
        for (fault, count) in outcome.faults {
            *faults.entry(fault).or_insert(0) += count;
        }
        if !outcome.violations.is_empty() {
            violations += 1;
            first.get_or_insert(seed);
            println!("seed {seed}: {}", outcome.violations.join("; "));
            if arguments.first {
                break;
            }
        }
    }
    let reached = STATES.iter().filter(|s| states.contains(**s)).count();
    for state in STATES.iter().filter(|s| !states.contains(**s)) {
        println!("state not reached: {state}");
    }
    let faults: serde_json::Map<_, _> = faults.iter().map(|(f, n)| (format!("{f:?}"), (*n).into())).collect();
    let report = serde_json::json!({
        "seeds": played,
        "messages": messages,
        "faults": faults,
        "states_reached": reached,
        "states": STATES.len(),
        "violations": violations,
        "first_violation": first,
    });
    println!("{report}");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
