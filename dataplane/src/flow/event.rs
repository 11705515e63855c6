//! What happens to the core: the broker's events and what workers say.

use std::time::Duration;

use asya_envelope::{ErrorInfo, Payload};
use asya_transport::Part;

use super::{MessageId, Time, WorkerId};

/// Names a result in a worker's output memory; given back by [`super::Effect::ReleaseOutput`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputId(pub u64);

/// A result as the rim has checked it: ranges inside memory that stays put until it is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// To give it back.
    pub id: OutputId,
    /// The payload section, in order.
    pub parts: Vec<Part>,
    /// Its layout; `offset` is 0.
    pub payload: Payload,
    /// What the handler changed (RING.md, section 5); empty when nothing.
    pub meta: Vec<u8>,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// The handler returned; all its results were given before.
    Done,
    /// The handler failed.
    Failed {
        /// What the handler raised.
        error: ErrorInfo,
        /// The payload was not JSON after all, rather than the handler failing.
        unparsable: bool,
        /// When the handler wants to be asked again, if it said so.
        retry_after: Option<Duration>,
    },
}

/// Why a worker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// By itself: a crash, an exit, out of memory.
    Crashed,
    /// Killed on request, for a call that passed its deadline.
    TimedOut,
    /// Killed on request, for what it wrote into the rings.
    Corrupt,
    /// The runtime as a whole is gone (its socket closed); the worker may still live, detached.
    Detached,
}

/// What a worker, or the runtime as a whole, says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerEvent {
    /// The handler is loaded.
    Ready {
        /// Who.
        worker: WorkerId,
        /// Calls that run at once, at least 1.
        concurrency: u16,
        /// 0 = one payload a call; else the most payloads that one call takes.
        batch: u16,
        /// Whether a running call can be cancelled.
        cancellable: bool,
    },
    /// One result of a call; more may follow.
    Result {
        /// Who.
        worker: WorkerId,
        /// Of which message.
        call: MessageId,
        /// What.
        output: Output,
    },
    /// A call has ended. Always after its results.
    Ended {
        /// Who.
        worker: WorkerId,
        /// Of which message.
        call: MessageId,
        /// How.
        end: CallEnd,
        /// How long the handler ran (for a batch: the whole batch).
        elapsed: Duration,
    },
    /// A call stands still until results before it have left: its time stands still with it.
    Stalled {
        /// Who.
        worker: WorkerId,
        /// Of which message.
        call: MessageId,
    },
    /// It goes on.
    Resumed {
        /// Who.
        worker: WorkerId,
        /// Of which message.
        call: MessageId,
    },
    /// The process is gone, and everything that it had still said was given before.
    Died {
        /// Who.
        worker: WorkerId,
        /// Why.
        death: Death,
    },
    /// The handler cannot be loaded. The worker is gone; a `Died` follows.
    Broken {
        /// Who.
        worker: WorkerId,
        /// What was raised.
        error: ErrorInfo,
    },
    /// The runtime got the signal to end first.
    DrainAsked,
}

/// What happens to the core.
#[derive(Clone, Debug)]
pub enum Event {
    /// The broker.
    Broker(asya_transport::Event),
    /// The runtime.
    Worker(WorkerEvent),
    /// Time has passed. Also implied by every other event.
    Tick,
    /// Stop intake, finish or hand back, settle; by `deadline` everything left is handed back.
    Drain {
        /// The latest moment.
        deadline: Time,
    },
}
