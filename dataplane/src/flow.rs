//! What travels between the stages: events in, effects out, and the states of a message.
//!
//! Stages share this file and never import one another. Nothing here does I/O, reads a clock or draws a random number.

use std::rc::Rc;
use std::time::Duration;

use asya_envelope::{ErrorInfo, Head, Payload};
use asya_transport::{ContentType, Memory, Part, Settlement, Slot, Tag};

use crate::slab::{Key, Slab};

/// A moment on a monotonic clock, in nanoseconds from an origin that never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// This moment, later by `by`.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it was not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What the clocks say as one event is handled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// For durations and deadlines of this process.
    pub mono: Time,
    /// For time stamps in envelopes: milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// Names one message in flight.
pub type MessageId = Key<Message>;
/// Names one delivery in flight.
pub type DeliveryId = Key<Delivery>;
/// Names one publish that is not yet confirmed.
pub type PublicationId = Key<Publication>;

/// One process of the runtime. A replacement has the same index and another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    /// 0 to N − 1.
    pub index: u16,
    /// Grows with every start.
    pub generation: u32,
}

/// Names a result in a worker's output memory; given back by [`Effect::ReleaseOutput`].
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
    /// Hand a message to a worker. The rim reads the rest from [`Message`].
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
    /// Publish (again). The rim reads the rest from [`Publication`].
    Publish(PublicationId),
    /// Settle a delivery.
    Settle {
        /// Which.
        tag: Tag,
        /// How.
        how: Settlement,
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
        /// One of [`reason`].
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
    /// A delivery could not be settled and will come again.
    SettleFailed {
        /// Why.
        why: String,
    },
}

/// The reasons in `status.reason`.
pub mod reason {
    /// The route ended well, or the handler ended it.
    pub const COMPLETED: &str = "Completed";
    /// The handler raised.
    pub const RUNTIME_ERROR: &str = "RuntimeError";
    /// The handler ran past its time.
    pub const TIMEOUT: &str = "Timeout";
    /// The body is no envelope.
    pub const PARSE_ERROR: &str = "ParseError";
    /// The message is for another actor or namespace.
    pub const ROUTE_MISMATCH: &str = "RouteMismatch";
    /// Its next queue does not exist.
    pub const UNROUTABLE: &str = "Unroutable";
    /// Its result is larger than the broker takes.
    pub const TOO_LARGE: &str = "MessageTooLarge";
    /// It ran beside others when their worker died, and has not run alone since: wherever it goes on, it is to.
    pub const SUSPECTED: &str = "Suspected";
    /// It kills its worker even when it runs alone.
    pub const WORKER_CRASHED: &str = "WorkerCrashed";
}

/// What the actor does with what its handler returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends results on along the route.
    Regular,
    /// Ends routes: takes any message, sends nothing.
    End,
}

/// Which encoding messages leave in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// As the message arrived; native when there are blobs.
    AsArrived,
    /// Always JSON, but for messages with blobs.
    Json,
    /// Always native.
    Native,
}

/// What the core needs to know of its actor.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The actor's namespace.
    pub namespace: String,
    /// The actor's name.
    pub actor: String,
    /// Full name of the actor's queue.
    pub queue: Rc<str>,
    /// Full name of the success sink's queue.
    pub sink: Rc<str>,
    /// Full name of the failure sink's queue.
    pub sump: Rc<str>,
    /// What the actor does with results.
    pub role: Role,
    /// Which encoding messages leave in.
    pub emit: Emit,
    /// How long one call may run; zero = no limit.
    pub timeout: Duration,
    /// Worker processes, at least 1.
    pub workers: u16,
    /// Most deliveries held at once.
    pub max_window: u32,
    /// A batch is released at this many payload bytes, even when it is not full.
    pub batch_bytes: u64,
    /// A batch that is not full waits so long for company.
    pub batch_wait: Duration,
    /// A message that kills its worker so many times alone goes to the failure sink.
    pub crash_limit: u32,
    /// A message to a queue that does not exist goes to the failure sink after so many tries.
    pub unroutable_tries: u32,
    /// Pause before the second try of a publish; doubles with each further one up to [`Settings::backoff_cap`].
    pub backoff: Duration,
    /// Longest pause between tries.
    pub backoff_cap: Duration,
    /// With no ready worker for so long, what is held goes back and consuming stops.
    pub ready_grace: Duration,
    /// A cancelled call that has not ended after so long costs its worker.
    pub cancel_grace: Duration,
    /// How long the result of a message whose delivery was lost waits to be adopted by its redelivery.
    pub orphan_ttl: Duration,
}

/// The rim's memory as the core sees it: the transport's view plus reading.
pub trait Store: Memory {
    /// The bytes of a slot. Only this process can write them.
    fn slot(&self, slot: Slot) -> &[u8];

    /// A range of a slot, for a publish.
    fn part(&self, slot: Slot, offset: u64, len: u64) -> Part;
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
    /// A delivery was handed back.
    HandedBack,
    /// A publish is tried again.
    PublishRetried,
    /// The window changed.
    Window(u32),
}

/// How a message ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Not yet.
    Open,
    /// Its results are on.
    Success,
    /// Its handler ended it without a result.
    Empty,
    /// It was consumed by an end actor.
    Consumed,
    /// It is in the failure sink.
    Error,
    /// It is in the actor's own queue again, with its charge written down.
    Retried,
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

/// One delivery of the broker: one or more messages that are settled together, after the last.
#[derive(Debug)]
pub struct Delivery {
    /// `None` once its connection is lost: nothing to settle any more.
    pub tag: Option<Tag>,
    /// Where its body lies; `None` once nothing will read it again, though the delivery is still known.
    pub slot: Option<Slot>,
    /// Length of the body in bytes.
    pub len: u64,
    /// Members not yet finished.
    pub open: u32,
    /// All its members, open or not.
    pub members: u32,
    /// What becomes of it after its last member: what the neediest of them asks for ([`Delivery::need`]).
    pub how: Settlement,
    /// When it arrived.
    pub arrived: Time,
}

impl Delivery {
    /// A member needs this to become of the delivery. Giving it up outweighs giving it back, which outweighs an ack:
    /// other members may come twice, and none is lost.
    pub fn need(&mut self, how: Settlement) {
        self.how = match (self.how, how) {
            (Settlement::Reject, _) | (_, Settlement::Reject) => Settlement::Reject,
            (Settlement::Requeue, _) | (_, Settlement::Requeue) => Settlement::Requeue,
            (Settlement::Ack, Settlement::Ack) => Settlement::Ack,
        };
    }
}

/// Where a message is.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// Decoded, not given to any worker.
    Waiting,
    /// Given to a worker; it may have results on their way already.
    Running(Running),
    /// Its handler has ended; its results are on their way.
    Publishing,
    /// Everything it produced is confirmed, but its delivery was lost: a redelivery adopts it until then.
    Finished {
        /// When it is forgotten.
        until: Time,
    },
}

/// A call that was given to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// To whom.
    pub worker: WorkerId,
    /// When it was cancelled for its time, if it was.
    pub cancelled: Option<Time>,
}

/// One message in flight.
#[derive(Debug)]
pub struct Message {
    /// The delivery that it belongs to.
    pub delivery: DeliveryId,
    /// Where it is.
    pub state: State,
    /// Its head as it arrived.
    pub head: Head,
    /// Its payload, within the body (or within `rebuilt`).
    pub payload: Payload,
    /// A slot of its own, when the payload had to be rebuilt from base64.
    pub rebuilt: Option<Slot>,
    /// How it arrived.
    pub content_type: ContentType,
    /// It runs alone.
    pub suspect: bool,
    /// Times that it killed its worker alone, including those told by its head.
    pub crashes: u32,
    /// Results so far: the index of the next child.
    pub children: u32,
    /// Publishes not yet confirmed.
    pub unconfirmed: u32,
    /// Why it will fail once its handler has ended, though that may go well.
    pub doomed: Option<(&'static str, ErrorInfo)>,
    /// How it ended, once it has.
    pub ending: Ending,
    /// When it arrived.
    pub arrived: Time,
}

/// For whom a publish is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The next actor.
    Next,
    /// The success sink.
    Sink,
    /// The failure sink.
    Sump,
    /// Whoever waits for an answer: best effort.
    Reply,
    /// The actor's own queue: run it again, with its charge written down.
    Again,
}

/// One publish that is not yet confirmed.
#[derive(Debug)]
pub struct Publication {
    /// What it was made for.
    pub message: MessageId,
    /// For whom.
    pub purpose: Purpose,
    /// Full name of the target queue.
    pub queue: Rc<str>,
    /// How the body is encoded.
    pub content_type: ContentType,
    /// The message's id.
    pub id: String,
    /// Prefix and suffix of the body, one after the other.
    pub frame: Vec<u8>,
    /// Where in `frame` the suffix begins.
    pub split: usize,
    /// The payload.
    pub parts: Vec<Part>,
    /// The result that the parts lie in, if any.
    pub output: Option<OutputId>,
    /// Length of the whole body in bytes.
    pub bytes: u64,
    /// Tries so far.
    pub tries: u32,
    /// When it was last handed to the transport; for the latency of confirms.
    pub sent: Time,
}

/// Everything in flight.
#[derive(Debug, Default)]
pub struct Flight {
    /// Messages.
    pub messages: Slab<Message>,
    /// Deliveries.
    pub deliveries: Slab<Delivery>,
    /// Publishes.
    pub publications: Slab<Publication>,
}
