//! Label values that are known beforehand: each is an index, never looked up.

use super::cell::{Counter, Gauge};

/// An enum that is a label's value.
pub trait Label: Copy + 'static {
    /// All values, in order of their index.
    const ALL: &'static [Self];

    /// Its index in `ALL`.
    fn index(self) -> usize;

    /// Its name.
    fn as_str(self) -> &'static str;
}

macro_rules! label {
    ($(#[$doc:meta])* $enum:ident { $($(#[$vdoc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum { $($(#[$vdoc])* $variant,)* }

        impl Label for $enum {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

label! {
    /// How a message ended at this actor. `paused` and what begins with `preflight_` belong to what is yet to come and stay
    /// at zero.
    ProcessedStatus {
        /// Its results are on.
        Success = "success",
        /// Its handler ended it without a result.
        EmptyResponse = "empty_response",
        /// It ended here, at a sink or sump.
        EndConsumed = "end_consumed",
        /// It is in the sump.
        Error = "error",
        /// It is in this actor's own queue again.
        Retried = "retried",
        /// It waits in this actor's own queue for its time.
        Delayed = "delayed",
        /// It had been finished here before.
        Duplicate = "duplicate",
        /// Its policy sent it elsewhere.
        PolicyRouted = "policy_routed",
        /// It waits for a person.
        Paused = "paused",
        /// Its deadline had passed.
        SlaExpired = "sla_expired",
        /// It was cancelled before it ran.
        PreflightCanceled = "preflight_canceled",
        /// It was paused before it ran.
        PreflightPaused = "preflight_paused",
    }
}

label! {
    /// Where a message was sent, by role.
    MessageType {
        /// To the next actor.
        Routing = "routing",
        /// To the sink.
        Sink = "sink",
        /// To the sump.
        Sump = "sump",
        /// Where its policy says.
        OnExhausted = "on_exhausted",
        /// To this actor's own queue, to run again.
        Retry = "retry",
        /// To whoever waits for an answer.
        Reply = "reply",
    }
}

label! {
    /// Why a message failed. `retry_send_failed` stays at zero: what is to be tried again is sent until the broker has it.
    FailureReason {
        /// Its body is no envelope.
        ParseError = "parse_error",
        /// Its envelope lacks what it needs.
        ValidationError = "validation_error",
        /// It is for another actor or namespace.
        RouteMismatch = "route_mismatch",
        /// Its handler raised.
        RuntimeError = "runtime_error",
        /// Its next queue does not exist.
        RoutingError = "routing_error",
        /// The sump did not take it; it is tried again for ever.
        ErrorQueueSendFailed = "error_queue_send_failed",
        /// Its attempts are used up.
        PolicyExhausted = "policy_exhausted",
        /// It could not be sent to be tried again.
        RetrySendFailed = "retry_send_failed",
        /// Its deadline passed, before its handler ran or while it did.
        SlaTimeout = "sla_timeout",
        /// Its handler ran past its time.
        Timeout = "timeout",
        /// It kills its worker even when it runs alone.
        WorkerCrashed = "worker_crashed",
        /// It, or its result, is larger than is allowed.
        TooLarge = "too_large",
        /// Something that has no name here.
        Other = "other",
    }
}

label! {
    /// What the handler did wrong.
    RuntimeErrorType {
        /// It raised.
        ExecutionError = "execution_error",
        /// It ran past its time.
        Timeout = "timeout",
        /// It killed its worker when it ran alone.
        Crash = "crash",
    }
}

label! {
    /// Which way a message went.
    Direction {
        /// Taken in.
        Received = "received",
        /// Sent on.
        Sent = "sent",
    }
}

label! {
    /// Where a message in flight is.
    Stage {
        /// Its body is still arriving, or waits to be decoded.
        Intake = "intake",
        /// It is decoded and waits for a worker.
        Waiting = "waiting",
        /// A worker has it.
        Running = "running",
        /// Its results are on their way.
        Publishing = "publishing",
        /// It is settled, or its delivery was lost, and its result is kept for a redelivery.
        Finished = "finished",
    }
}

label! {
    /// Why a batch was released.
    ReleaseReason {
        /// It had as many items as the handler takes.
        Items = "items",
        /// It had as many bytes as allowed.
        Bytes = "bytes",
        /// Its oldest item had waited long enough, or a worker was free and nothing else was there.
        Age = "age",
        /// Its item runs alone.
        Alone = "alone",
    }
}

label! {
    /// Why a worker died.
    DeathReason {
        /// By itself: a crash, an exit, out of memory.
        Crashed = "crashed",
        /// Killed: a call passed its deadline.
        Timeout = "timeout",
        /// Killed: it wrote nonsense into its rings.
        Corrupt = "corrupt",
        /// The runtime as a whole is gone.
        Detached = "detached",
    }
}

label! {
    /// How the broker answered a publish.
    PublishOutcome {
        /// It has it.
        Confirmed = "confirmed",
        /// There is no such queue.
        Unroutable = "unroutable",
        /// It declined for now.
        Refused = "refused",
        /// The connection was lost first.
        Lost = "lost",
        /// It takes nothing so large.
        TooLarge = "too_large",
        /// The transport cannot do what was asked.
        Unsupported = "unsupported",
    }
}

label! {
    /// Which shared memory.
    Region {
        /// Bodies of messages.
        Input = "input",
        /// Results of handlers.
        Output = "output",
    }
}

/// One counter for each value of a label.
#[derive(Debug)]
pub struct CounterBy<L> {
    counters: Box<[Counter]>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label> Default for CounterBy<L> {
    fn default() -> Self {
        Self { counters: L::ALL.iter().map(|_| Counter::default()).collect(), label: std::marker::PhantomData }
    }
}

impl<L: Label> CounterBy<L> {
    /// The counter of one value.
    pub fn of(&self, value: L) -> &Counter {
        &self.counters[value.index()]
    }

    /// Counts one more.
    pub fn inc(&self, value: L) {
        self.of(value).inc();
    }
}

/// One gauge for each value of a label.
#[derive(Debug)]
pub struct GaugeBy<L> {
    gauges: Box<[Gauge]>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label> Default for GaugeBy<L> {
    fn default() -> Self {
        Self { gauges: L::ALL.iter().map(|_| Gauge::default()).collect(), label: std::marker::PhantomData }
    }
}

impl<L: Label> GaugeBy<L> {
    /// The gauge of one value.
    pub fn of(&self, value: L) -> &Gauge {
        &self.gauges[value.index()]
    }
}
