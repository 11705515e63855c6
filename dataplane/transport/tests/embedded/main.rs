//! The embedded transport against its broker, each broker a process of its own that can be killed.

mod conformance;
mod harness;
