//! How fast a message passes through an actor, beside a raw forwarder that gives the same guarantees.
//!
//! `message` makes and checks what travels, `actor` starts what is measured, `broker` fills, watches and empties queues, `process` runs and weighs what
//! is measured, `measure` times one run, `suite` does one run, `report` turns runs into rows. The binaries put them together.

pub mod actor;
pub mod broker;
pub mod courier;
pub mod handoff;
pub mod heap;
pub mod measure;
pub mod message;
pub mod process;
pub mod report;
pub mod sqs;
pub mod suite;

/// What ends a benchmark.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker's connection failed or it refused something.
    #[error("the broker: {0}")]
    Broker(#[from] lapin::Error),
    /// A message was not what it had to be.
    #[error("message {id}: {why}")]
    Wrong {
        /// Which, as far as it is known.
        id: String,
        /// What was found.
        why: String,
    },
    /// Messages are missing, or there are more than were sent.
    #[error("{sent} messages were sent and {arrived} different ones arrived, {again} of them more than once")]
    Count {
        /// How many were put into the first queue.
        sent: u64,
        /// How many different ones the last queue held.
        arrived: u64,
        /// How many came more than once.
        again: u64,
    },
    /// A measured process ended or stood still.
    #[error("{what}; the end of its log:\n{log}")]
    Stuck {
        /// Which, and how.
        what: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// The operating system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl Error {
    /// Adds what was being done to an error of the operating system.
    pub fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what: what.into(), source }
    }
}
