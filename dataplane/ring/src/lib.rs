//! Shared memory between the sidecar and its Python workers: `docs/RING.md` in Rust.
//!
//! | takes | gives |
//! | --- | --- |
//! | sizes | [`InputRegion`] (one per actor) and [`OutputRegion`] (one per worker and generation) |
//! | lengths | [`Extent`]s of these regions, from an [`Arena`] |
//! | [`Submission`]s | entries in the worker's submission ring, and one doorbell for all of them |
//! | the worker's doorbell | [`Completion`]s whose every range was checked, or a [`Violation`] |
//! | pieces | one gathered write, straight from where they lie |
//!
//! Nothing here blocks: descriptors are non-blocking and meant for the caller's reactor. A worker that lies costs
//! itself its process ([`Violation`]), never the sidecar: each word that it can write is copied out once and then
//! checked, and no reference is ever made to memory that it can write.
//!
//! # How it is checked
//!
//! `dataplane/ring/README.md` lists the commands: model tests against an oracle, loom, miri, fuzzed peer words, and
//! stress and kills against a real Python process.

// The one crate of the workspace with unsafe code: mapping memory, handing ranges of it to the kernel, and reading
// bytes that another process may be writing cannot be said in safe Rust. Each block says why it holds.
#![allow(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
// Under loom the rings run over model cells, and what maps memory is compiled but not used.
#![cfg_attr(loom, allow(dead_code))]

mod arena;
mod bell;
mod cells;
mod completion;
mod gather;
mod ledger;
mod link;
mod mapping;
pub mod peer;
mod region;
pub mod socket;
pub mod wire;

pub use arena::{Arena, ArenaConfig, NotAllocated};
pub use bell::Bell;
pub use completion::{Completion, Last, Parts, ResultEntry, Violation};
pub use gather::{MAX_PIECES, Piece, Raw, write_gathered};
pub use ledger::{CallLimits, PushError};
pub use link::{Geometry, Link, PollError};
pub use region::{InputRegion, OutOfRange, OutputRegion};
pub use wire::{Call, Extent, Part, PartRegion, Submission};

/// Regions, rings and extents are multiples of this many bytes.
pub const PAGE: u64 = 4096;

#[cfg(all(test, loom))]
mod loom_tests;
