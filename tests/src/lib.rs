//! Suites that cross crates.

pub mod simulation;
