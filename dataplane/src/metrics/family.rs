//! The table of metrics: names, labels and meanings.
//!
//! Takes nothing, gives [`FAMILIES`]. What is exposed and `docs/METRICS.md` both come from it.

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// Only grows.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts by bucket.
    Histogram,
}

impl FamilyKind {
    /// Its name in the exposition format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Metrics of one name.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Name, without the prefix.
    pub name: &'static str,
    /// What kind of numbers it has.
    pub kind: FamilyKind,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
    /// Whether the existing Asya has it too.
    pub contract: bool,
}

macro_rules! families {
    ($($ident:ident = $contract:literal $kind:ident $name:literal $labels:expr, $help:expr;)*) => {
        $(pub(super) static $ident: Family = Family {
            name: $name, kind: FamilyKind::$kind, labels: &$labels, help: $help, contract: $contract,
        };)*

        /// Every family, in the order of the page.
        pub static FAMILIES: &[&Family] = &[$(&$ident),*];
    };
}

families! {
    RECEIVED = true Counter "messages_received_total" ["queue", "transport"],
        "Messages taken from the actor's queue.";
    PROCESSED = true Counter "messages_processed_total" ["queue", "status"],
        "Messages done with, by how they ended.";
    SENT = true Counter "messages_sent_total" ["destination_queue", "message_type"],
        "Messages sent and confirmed by the broker.";
    FAILED = true Counter "messages_failed_total" ["queue", "reason"],
        "Failures of messages, by reason.";
    RUNTIME_ERRORS = true Counter "runtime_errors_total" ["queue", "error_type"],
        "Failures that the handler caused.";
    PROCESSING = true Histogram "processing_duration_seconds" ["queue"],
        "From the arrival of a message until everything that it produced was confirmed.";
    EXECUTION = true Histogram "runtime_execution_duration_seconds" ["queue"],
        "How long one call of the handler ran; a batch is one call.";
    RECEIVE = true Histogram "queue_receive_duration_seconds" ["queue", "transport"],
        "From having the body of a message until it was handed to a worker: its wait in the sidecar.";
    SEND = true Histogram "queue_send_duration_seconds" ["destination_queue", "transport"],
        "From handing a message to the transport until the broker confirmed it.";
    SIZE = true Histogram "envelope_size_bytes" ["direction"],
        "Sizes of message bodies.";
    ACTIVE = true Gauge "active_messages" [],
        "Messages in flight, wherever they are.";

    STAGE = false Gauge "stage_messages" ["stage"],
        "Messages in flight, by where they are.";
    WINDOW = false Gauge "window_messages" [],
        "Deliveries that the broker may have given out at once.";
    ARENA_USED = false Gauge "arena_used_bytes" ["region"],
        "Shared memory in use.";
    ARENA_CAPACITY = false Gauge "arena_capacity_bytes" ["region"],
        "Shared memory that may be in use.";
    PINNED = false Gauge "pinned_slots" [],
        "Inputs that a handler still holds views of after its call.";
    BUSY = false Counter "handler_busy_seconds_total" ["queue"],
        "Time that calls of the handler ran, added up over calls that ran at once.";
    BATCHES = false Counter "batches_released_total" ["queue", "reason"],
        "Calls that were given to workers, by why they were released then.";
    BATCH_ITEMS = false Histogram "batch_items" ["queue"],
        "Messages in one call of the handler.";
    WORKERS_READY = false Gauge "workers_ready" [],
        "Workers whose handler is loaded.";
    DEATHS = false Counter "worker_deaths_total" ["reason"],
        "Workers that died.";
    SUSPECTS = false Counter "suspects_total" [],
        "Messages that were running when a worker died, and run again alone.";
    ADOPTED = false Counter "adopted_total" [],
        "Redeliveries whose message was still here, and was not run again.";
    HANDED_BACK = false Counter "handed_back_total" [],
        "Deliveries given back to the broker untouched.";
    PUBLISH_OUTCOMES = false Counter "publish_outcomes_total" ["outcome"],
        "Answers of the broker to publishes.";
    PUBLISH_RETRIES = false Counter "publish_retries_total" [],
        "Publishes tried again.";
    SETTLE_FAILURES = false Counter "settle_failures_total" [],
        "Deliveries that could not be settled, and come again.";
    LEASE_EXTENSIONS = false Counter "lease_extensions_total" [],
        "Times that the lease of a delivery was extended.";
    LEASES_LOST = false Counter "leases_lost_total" [],
        "Leases that ended while their message was still here: it comes again.";
    CONNECTED = false Gauge "broker_connected" ["transport"],
        "Whether the broker is connected.";
    BLOCKED = false Gauge "broker_blocked" ["transport"],
        "Whether the broker takes no publishes for now.";
    RECONNECTS = false Counter "reconnects_total" ["transport"],
        "Connections made after the first.";
    TURNS = false Counter "turns_total" [],
        "Turns of the data thread.";
    CPU = false Counter "process_cpu_seconds_total" [],
        "Processor time of the sidecar.";
    MEMORY = false Gauge "process_resident_memory_bytes" [],
        "Resident memory of the sidecar, shared memory included.";
    FDS = false Gauge "process_open_fds" [],
        "Open file descriptors of the sidecar.";
    BUILD = false Gauge "build_info" ["version"],
        "Always 1; the label tells the version.";
}
