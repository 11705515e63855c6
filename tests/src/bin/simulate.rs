//! Plays seeds of the simulation: `simulate [--seeds N] [--from SEED]`, or `simulate --seed SEED [--message ID]` for one
//! seed's story.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use asya_tests::simulation::ledger::{FAULTS, Fault};
use asya_tests::simulation::run::{STATES, run};
use clap::Parser;

/// Plays seeds of the deterministic simulation and checks its rules after every event.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to play.
    #[arg(long, default_value_t = 2_000)]
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

fn many(arguments: &Arguments) -> ExitCode {
    let mut faults: BTreeMap<Fault, u64> = FAULTS.into_iter().map(|f| (f, 0)).collect();
    let mut states = BTreeSet::new();
    let (mut messages, mut violations, mut played) = (0, 0, 0);
    for seed in arguments.from..arguments.from + arguments.seeds {
        let outcome = run(seed, false);
        played += 1;
        messages += outcome.messages;
        states.extend(outcome.states);
        for (fault, count) in outcome.faults {
            *faults.entry(fault).or_insert(0) += count;
        }
        if !outcome.violations.is_empty() {
            violations += 1;
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
    });
    println!("{report}");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
