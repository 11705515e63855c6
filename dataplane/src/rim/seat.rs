//! What the rim knows of one index: the process that is there or under way, and who may attach as it.
//!
//! Takes what supervisor and workers say. Never blocks, never fails.

use std::time::Instant;

use super::peer::Peer;
use super::worker::Attached;
use crate::flow::{Death, WorkerId};

/// A worker's first packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hello {
    pub(super) index: u16,
    /// 0: it kept its handler while the sidecar was replaced.
    pub(super) generation: u32,
    pub(super) pid: u32,
}

/// The process of one index.
#[derive(Default)]
pub(super) struct Seat {
    /// Of the process that is there or under way.
    pub(super) generation: u32,
    pub(super) attached: Option<Attached>,
    pub(super) peer: Option<Peer>,
    /// Process number of what is attached, as it says.
    pub(super) pid: u32,
    /// The process that kept its handler and may attach again, as the supervisor says.
    pub(super) kept: Option<u32>,
    /// One that wants to attach again before a supervisor was there to say whether it may.
    pub(super) early: Option<(Peer, Hello)>,
    /// It was killed for this, and the supervisor starts its replacement by itself.
    pub(super) killed: Option<Death>,
    /// The supervisor runs it, as far as it has told.
    pub(super) running: bool,
    /// The core has heard of its death.
    pub(super) told: bool,
    /// The core wants a replacement.
    pub(super) wanted: bool,
    /// It hung up, and the supervisor has not told its death yet.
    pub(super) hung_up: Option<Instant>,
    /// Since when nothing runs on it though something waits.
    pub(super) wedged: Option<Instant>,
}

impl Seat {
    pub(super) fn id(&self, index: u16) -> WorkerId {
        WorkerId { index, generation: self.generation }
    }

    /// The supervisor was told to run the next process.
    pub(super) fn next_process(&mut self) {
        self.generation += 1;
        *self = Self { generation: self.generation, running: true, early: self.early.take(), ..Self::default() };
    }

    /// A supervisor has come that runs this process here, or none.
    pub(super) fn supervised(&mut self, pid: Option<u32>) {
        if self.attached.is_none() {
            self.next_process();
            self.kept = pid;
        }
    }

    /// Only the supervisor can say whether it may attach.
    pub(super) fn is_unknown(&self, hello: Hello) -> bool {
        hello.generation == 0 && self.attached.is_none() && self.kept != Some(hello.pid)
    }

    /// Why it may not attach.
    pub(super) fn refusal(&self, hello: Hello) -> Option<String> {
        let Hello { index, generation, pid } = hello;
        if self.attached.is_some() {
            return Some(format!("worker {index} is attached already, as process {}; this is process {pid}", self.pid));
        }
        if self.is_unknown(hello) {
            return Some(format!(
                "the runtime does not say that process {pid} is its worker {index} and kept its handler"
            ));
        }
        if generation != 0 && generation != self.generation {
            return Some(format!("generation {generation} of worker {index} is stale; {} is due", self.generation));
        }
        None
    }
}
