//! The sidecar: five stages around a core without I/O.
//!
//! [`pipeline`] decides, in pure synchronous code, over the events and effects of [`flow`]; [`drive`] turns between it
//! and the rim: a broker ([`asya_transport`]) and the runtime's workers.

pub mod admin;
pub mod audience;
pub mod config;
pub mod drive;
pub mod flow;
pub mod handoff;
pub mod intake;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod pipeline;
pub mod publish;
pub mod retry;
pub mod rim;
pub mod route;
pub mod settle;
mod sidecar;
pub mod slab;
pub mod stamp;

pub use sidecar::run_from_env;
