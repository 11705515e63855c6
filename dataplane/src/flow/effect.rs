//! What the core wants done, and what people and metrics should hear of.

use std::rc::Rc;
use std::time::Duration;

use asya_envelope::ErrorInfo;
use asya_transport::{Settlement, Slot, Tag};

use super::{Death, Ending, MessageId, OutputId, PublicationId, Purpose, WorkerId};

/// What the core wants done, in this order, before the next event is handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Consume the actor's queue, holding at most so many deliveries.
    Consume {
        /// Deliveries.
        window: u32,
    },
    /// Stop consuming; answered by `Canceled`.
    Cancel,
    /// Hand a message to a worker. The rim reads the rest from [`super::Message`].
    Submit {
        /// To whom.
        worker: WorkerId,
        /// Which message.
        call: MessageId,
        /// The next `Submit` to this worker belongs to the same batch.
        more: bool,
        /// Nothing else runs beside it.
        alone: bool,
    },
    /// Cancel a call that can be.
    CancelCall {
        /// Where it runs.
        worker: WorkerId,
        /// Which.
        call: MessageId,
    },
    /// Kill a worker; its `Died` follows.
    Kill {
        /// Which.
        worker: WorkerId,
        /// Why.
        death: Death,
    },
    /// Start a replacement for the dead worker of this index.
    Start {
        /// 0 to N − 1.
        index: u16,
    },
    /// Publish (again). The rim reads the rest from [`super::Publication`].
    Publish(PublicationId),
    /// Settle a delivery.
    Settle {
        /// Which.
        tag: Tag,
        /// How.
        how: Settlement,
    },
    /// Keep a delivery's lease for so long from now.
    Extend {
        /// Which.
        tag: Tag,
        /// How long.
        by: Duration,
    },
    /// A body is no longer needed.
    ReleaseSlot(Slot),
    /// A result is no longer needed.
    ReleaseOutput(OutputId),
    /// A drain has ended: everything is settled or handed back.
    Drained,
    /// For people, once per event of its kind.
    Report(Report),
}

/// What people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A message went to the failure sink.
    Failed {
        /// Its id.
        id: String,
        /// One of [`super::reason`].
        reason: &'static str,
        /// What went wrong.
        message: String,
    },
    /// A target queue does not exist.
    Unroutable {
        /// Full name.
        queue: String,
        /// Tries so far.
        tries: u32,
    },
    /// A worker died; so many messages run again alone.
    WorkerDied {
        /// Which.
        worker: WorkerId,
        /// Why.
        death: Death,
        /// Messages that were running.
        suspects: u32,
    },
    /// The handler cannot be loaded.
    HandlerBroken {
        /// What was raised.
        error: ErrorInfo,
    },
    /// No worker has been ready for too long: what is held goes back.
    NotReady,
    /// A body was larger than the configured maximum; the broker's dead-letter queue has it.
    Oversize {
        /// Bytes.
        len: u64,
    },
    /// The connection was lost.
    ConnectionLost {
        /// Why.
        why: String,
    },
    /// A message's handler failed, and it runs again later.
    Retried {
        /// Its id.
        id: String,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// When it runs again.
        delay: Duration,
        /// What went wrong.
        message: String,
    },
    /// A message's deadline is no time stamp: it runs without one.
    BadDeadline {
        /// Its id.
        id: String,
        /// What stands there.
        text: String,
    },
    /// A delivery is held for as long as the broker allows: it comes again, to anyone, while its message is still here.
    LeaseEnded {
        /// Its message's id.
        id: String,
    },
    /// A delivery could not be settled and will come again.
    SettleFailed {
        /// Why.
        why: String,
    },
}

/// What the stages add to while they handle one event: work for the rim, and what metrics want to know.
#[derive(Debug, Default)]
pub struct Effects {
    /// In order.
    pub effects: Vec<Effect>,
    /// In order.
    pub observations: Vec<Observation>,
}

impl Effects {
    /// Adds work for the rim.
    pub fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Adds a fact for metrics.
    pub fn observe(&mut self, observation: Observation) {
        self.observations.push(observation);
    }
}

/// Facts for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A delivery arrived, of so many bytes and messages.
    Received {
        /// Length of the body.
        bytes: u64,
        /// Messages in it.
        messages: u32,
    },
    /// A message was handed to a worker, so long after its body was here.
    HandedOver {
        /// How long it had waited.
        waited: Duration,
    },
    /// A call ended.
    Ran {
        /// How long the handler ran.
        elapsed: Duration,
        /// Messages that shared it.
        messages: u32,
        /// Whether it failed.
        failed: bool,
    },
    /// A message is done with.
    Processed {
        /// How it ended.
        ending: Ending,
        /// From its arrival until everything that it produced was confirmed.
        took: Duration,
    },
    /// A publish was confirmed.
    Sent {
        /// For whom.
        purpose: Purpose,
        /// Full name of the queue.
        queue: Rc<str>,
        /// From handing it to the transport until its confirm.
        took: Duration,
        /// Length of its body.
        bytes: u64,
    },
    /// A message went to the failure sink, or a step failed.
    Failed(&'static str),
    /// A batch was released.
    BatchReleased {
        /// Why then.
        why: Release,
        /// Messages in it.
        messages: u32,
    },
    /// A worker died.
    WorkerDied(Death),
    /// Messages that run again alone.
    Suspects(u32),
    /// A redelivery found its message still here.
    Adopted,
    /// A message that was finished here before came again, and was not run.
    Deduplicated,
    /// A lease was extended.
    LeaseExtended,
    /// A lease ran out, or was lost, while its message was still here.
    LeaseLost,
    /// A delivery was handed back.
    HandedBack,
    /// A publish is tried again.
    PublishRetried,
    /// The window changed.
    Window(u32),
}

/// Why a batch was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It had as many items as the handler takes.
    Full,
    /// It had as many bytes as allowed.
    Bytes,
    /// Its oldest item had waited long enough.
    Age,
    /// Its item runs alone.
    Alone,
}
