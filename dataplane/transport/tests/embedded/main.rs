//! The embedded transport against its broker, each broker a process of its own that can be killed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, outside of test functions")]

mod conformance;
mod disk;
mod flushing;
mod harness;
mod kill;
mod large;
mod pressure;
mod tools;
