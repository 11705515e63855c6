//! The promises of [`crate::api`], as a suite that every transport passes: real brokers, the embedded one, simulated
//! ones.
//!
//! Takes a [`Harness`], which makes clients of one kind of transport, drives them in real or simulated time, and can
//! hurt their broker. Gives a verdict per case. Blocks only inside [`Harness::step`], each wait under a watchdog.
//! On a broken promise a case ends with a [`Failure`] that says which.
//!
//! A case is a script over `submit`, `flush` and `poll`; what must hold in *every* case (a publish is answered exactly
//! once, no tag is given twice, the window is kept, nothing arrives after a cancel, …) is checked by the
//! [`script::Ledger`] on every event. `doubles` holds a reference transport with one broken rule at a time; a test
//! shows that the suite catches each, and that each case has caught something.
//!
//! To instantiate it: implement [`Harness`], then `conformance_suite!(MyHarness::new())` in a test file, or loop over
//! [`cases`] where one broker serves all of them.

mod cases;
#[cfg(test)]
mod doubles;
mod drive;
mod memory;
pub mod script;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use crate::Transport;

pub use cases::{Case, cases};
pub use drive::drive;
pub use memory::HeapMemory;
pub use script::{Client, Script};

/// A place where transports of one kind can be made, driven and hurt.
pub trait Harness {
    /// The kind of transport.
    type T: Transport;

    /// What this broker can do, and what can be done to it.
    fn capabilities(&self) -> Capabilities;

    /// The beginning of queue names that nothing has used before. The suite appends short words to it.
    fn fresh_prefix(&mut self) -> String;

    /// A new client. It need not be connected yet.
    fn connect(&mut self) -> Self::T;

    /// Flushes and polls each client once; as long as no client has an event, waits until the waker of one is woken
    /// and does that again; gives up after `max` of [`Harness::now`]'s time. ([`drive()`] does this on tokio.)
    ///
    /// Nothing but a wake leads to a second poll within a step: that is how a transport that forgets to arrange for
    /// one is caught.
    fn step(&mut self, clients: &mut [Client<Self::T>], max: Duration);

    /// A clock, real or simulated, from any start.
    fn now(&self) -> Duration;

    /// How long to look on before believing that nothing more happens. Never used to wait for something.
    fn quiet(&self) -> Duration {
        Duration::from_millis(150)
    }

    /// Ends a client as a crash would: nothing is said to the broker.
    fn crash(&mut self, client: Client<Self::T>) {
        drop(client);
    }

    /// Breaks the connections of every client, as a network would. Only where [`Capabilities::can_break`].
    fn break_connections(&mut self) {}

    /// Kills the broker and starts it again on its data. Only where [`Capabilities::can_restart`].
    fn restart_broker(&mut self) {}

    /// Deletes a queue behind the clients' backs. Only where [`Capabilities::can_delete`].
    fn delete_queue(&mut self, queue: &str) {
        let _ = queue;
    }

    /// Makes the broker unable to take publishes (or able again). Only where [`Capabilities::can_block`].
    fn block(&mut self, blocked: bool) {
        let _ = blocked;
    }
}

/// What a broker can do, and what its [`Harness`] can do to it.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// Messages of one publisher come to one consumer in their order.
    pub keeps_order: bool,
    /// [`crate::Redelivery::lost`] is told.
    pub counts_lost: bool,
    /// Requeues count towards the delivery limit.
    pub limit_counts_requeues: bool,
    /// Lost connections count towards the delivery limit.
    pub limit_counts_lost: bool,
    /// The largest body, in bytes, that the suite sends.
    pub max_body: u64,
    /// [`Harness::break_connections`] works.
    pub can_break: bool,
    /// [`Harness::restart_broker`] works.
    pub can_restart: bool,
    /// [`Harness::delete_queue`] works.
    pub can_delete: bool,
    /// [`Harness::block`] works.
    pub can_block: bool,
}

/// A promise that was not kept, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// How a case ended when no promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything held.
    Passed,
    /// This broker or harness cannot do what the case needs.
    Skipped(&'static str),
}

/// Runs the case called `name`.
pub fn run_case<H: Harness>(harness: &mut H, name: &str) -> Result<Verdict, Failure> {
    match cases::<H>().into_iter().find(|case| case.name == name) {
        Some(case) => (case.run)(harness),
        None => Err(Failure(format!("there is no case called {name}"))),
    }
}

/// Fails the case unless `$held`.
macro_rules! ensure {
    ($held:expr, $($why:tt)+) => {
        if !$held {
            return Err($crate::conformance::Failure(format!($($why)+)));
        }
    };
}
use ensure;
