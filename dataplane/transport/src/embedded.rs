//! The broker inside `asya run`, and its client: nothing to install, the same promises as the others.
//!
//! ```text
//!  EmbeddedTransport ─┐                    ┌─ queues in memory: what waits, what is held, what is delayed
//!  EmbeddedTransport ─┼─ Unix socket ─ server ─ broker ─┤
//!  EmbeddedAdmin ─────┘    (wire)    one thread         └─ store on disk: one group commit a turn
//! ```
//!
//! [`Broker::open`] takes a directory, [`Broker::serve`] a listener; [`Broker::spawn`] does both on a thread of its
//! own. [`EmbeddedTransport`] is a client of it that implements [`crate::Transport`], [`EmbeddedAdmin`] one for tools:
//! it looks into queues without consuming, removes, moves, purges, publishes.
//!
//! **What is safe when.** A publish is confirmed after the commit of its turn, and with [`Options::fsync`] (the
//! default) after that commit is on the disk; without it, what was confirmed survives a killed process and may not
//! survive a power cut. Acknowledgements are written in the same commits, and are not waited for: after a power cut an
//! acknowledged message may come again. A delivery whose client is lost goes back, counted; after as many losses as
//! the queue's delivery limit it goes to the dead-letter queue. A requeue is not counted.
//!
//! **What is bounded.** Bodies above [`limits::INLINE_BODY_BYTES_MAX`] live in files of their own and are never in
//! memory as a whole. Queues are bounded in messages and bytes; a full queue or disk refuses publishes, and takes
//! nothing that it would lose. A queue with a [`Keep`] forgets its oldest messages instead.

mod admin;
mod broker;
mod client;
pub mod limits;
mod server;
mod store;
mod wire;

use std::path::PathBuf;

pub use admin::{AdminError, Browsed, EmbeddedAdmin, QueueInfo, Standing};
pub use client::EmbeddedTransport;
pub use server::{Broker, RunningBroker, ServeError};
pub use store::OpenError;

/// How a broker is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Wait for the disk before confirming. Off: confirmed messages survive a killed process, not a power cut.
    pub fsync: bool,
    /// Largest body, in bytes.
    pub message_bytes_max: u64,
    /// Most messages in one queue, held and delayed ones included; more are refused.
    pub queue_messages_max: u64,
    /// Most bytes of bodies in one queue; more are refused.
    pub queue_bytes_max: u64,
    /// Bytes that stay free on the disk: below it publishes are refused. The store needs some of it for itself.
    pub disk_free_min: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fsync: true,
            message_bytes_max: limits::MESSAGE_BYTES_MAX,
            queue_messages_max: limits::QUEUE_MESSAGES_MAX,
            queue_bytes_max: limits::QUEUE_BYTES_MAX,
            disk_free_min: limits::DISK_FREE_MIN,
        }
    }
}

/// What a queue keeps at most: beyond either bound its oldest waiting messages are forgotten. For sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Messages.
    pub messages: u64,
    /// Bytes of bodies.
    pub bytes: u64,
}

/// Where the broker of a data directory listens.
pub fn socket_path(dir: &std::path::Path) -> PathBuf {
    dir.join("broker.sock")
}
