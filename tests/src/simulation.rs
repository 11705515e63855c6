//! The deterministic simulation: the shipped core and drive loop over a simulated broker, runtime, memory and clock.
//!
//! A seed decides everything: pipeline, settings, messages, handlers and what is broken when. [`run::run`] plays one; the
//! `simulate` program plays thousands and replays any of them with its story. docs/SIMULATION.md has the rules.

pub mod body;
pub mod broker;
pub mod clock;
pub mod fault;
pub mod ledger;
pub mod plan;
pub mod random;
pub mod run;
pub mod runtime;
pub mod scenario;
pub mod states;
pub mod transport;

#[cfg(test)]
mod tests;
