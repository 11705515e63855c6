//! What travels between the stages: events in, effects out, and the states of a message.
//!
//! Stages share this file and never import one another. Nothing here does I/O, reads a clock or draws a random number.

mod effect;
mod event;
mod message;
pub mod reason;

use std::rc::Rc;
use std::time::Duration;

use asya_transport::{Delays, Lease, Memory, Part, Slot};

use crate::retry::Resiliency;
use crate::slab::Key;

pub use effect::{Effect, Effects, Observation, Release, Report};
pub use event::{CallEnd, Death, Event, Output, OutputId, WorkerEvent};
pub use message::{Delivery, Ending, Flight, Message, Publication, Purpose, Running, State};

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
    /// What is tried again, and when.
    pub resiliency: Resiliency,
    /// The delays that the transport can give a message.
    pub delays: Delays,
    /// How long the broker lets a delivery be held, where it does so for a time only.
    pub lease: Option<Lease>,
    /// Finished messages that are remembered, so that a copy does not run again; 0 = none.
    pub remembered: usize,
}

/// The rim's memory as the core sees it: the transport's view plus reading.
pub trait Store: Memory {
    /// The bytes of a slot. Only this process can write them.
    fn slot(&self, slot: Slot) -> &[u8];

    /// A range of a slot, for a publish.
    fn part(&self, slot: Slot, offset: u64, len: u64) -> Part;
}
