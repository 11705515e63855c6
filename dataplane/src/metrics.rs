//! What the sidecar counts and measures.
//!
//! The data thread owns [`Metrics`] and writes it: a handful of plain stores a message, no lock, no allocation and no
//! look-up of labels. Whoever has a [`Reader`] may at any time read it as text; neither waits for the other. There is no
//! global registry: two sidecars in one process count apart.

use std::collections::BTreeMap;
use std::sync::Arc;

mod cell;
mod family;
mod histogram;
mod labels;
mod page;
mod process;
mod registry;
mod render;
#[cfg(test)]
mod tests;

pub use cell::{Counter, Gauge, TimeCounter};
pub use family::{FAMILIES, Family, FamilyKind};
pub use histogram::{Histogram, Items, Scale, Sizes, Times};
pub use labels::{
    CounterBy, DeathReason, Direction, FailureReason, GaugeBy, Label, MessageType, ProcessedStatus, PublishOutcome,
    Region, ReleaseReason, RuntimeErrorType, Stage,
};
pub use page::markdown;
pub use render::CONTENT_TYPE;

use cell::Reading;
use registry::Registry;

/// Queues that have series of their own; a route can name any number of them, and what comes later is counted under
/// [`OTHER_DESTINATION`]. Each has some 70 series, so that one pod never exposes more than some 5,000.
pub const DESTINATIONS_MAX: usize = 64;
/// The `destination_queue` of what has no series of its own.
pub const OTHER_DESTINATION: &str = "other";

/// Whose metrics these are: values of labels that never change.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the actor: the label `queue`.
    pub actor: String,
    /// Name of the transport.
    pub transport: &'static str,
}

/// Names a destination; given by [`Metrics::destination`] and valid for those metrics only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination(usize);

/// The writing side. `Send`, but not `Sync` and not `Clone`: one thread writes.
#[derive(Debug)]
pub struct Metrics {
    /// Messages taken from the actor's queue.
    pub received: Counter,
    /// Messages done with.
    pub processed: CounterBy<ProcessedStatus>,
    /// Failures of messages.
    pub failed: CounterBy<FailureReason>,
    /// Failures that the handler caused.
    pub runtime_errors: CounterBy<RuntimeErrorType>,
    /// From arrival until everything produced is confirmed.
    pub processing: Histogram<Times>,
    /// One call of the handler.
    pub execution: Histogram<Times>,
    /// From having a body until its envelope is read.
    pub receive: Histogram<Times>,
    /// Sizes of bodies taken in.
    pub received_bytes: Histogram<Sizes>,
    /// Sizes of bodies sent on.
    pub sent_bytes: Histogram<Sizes>,
    /// Messages in flight.
    pub active: Gauge,
    /// Messages in flight, by where they are.
    pub stage: GaugeBy<Stage>,
    /// Deliveries that the broker may have given out at once.
    pub window: Gauge,
    /// Shared memory in use.
    pub arena_used: GaugeBy<Region>,
    /// Shared memory that may be in use.
    pub arena_capacity: GaugeBy<Region>,
    /// Inputs that a handler still holds.
    pub pinned_slots: Gauge,
    /// Time that calls ran.
    pub handler_busy: TimeCounter,
    /// Calls given to workers.
    pub batches: CounterBy<ReleaseReason>,
    /// Messages in one call.
    pub batch_items: Histogram<Items>,
    /// Workers whose handler is loaded.
    pub workers_ready: Gauge,
    /// Workers that died.
    pub worker_deaths: CounterBy<DeathReason>,
    /// Messages that run again alone.
    pub suspects: Counter,
    /// Redeliveries whose message was still here.
    pub adopted: Counter,
    /// Deliveries given back untouched.
    pub handed_back: Counter,
    /// Answers of the broker to publishes.
    pub publish_outcomes: CounterBy<PublishOutcome>,
    /// Publishes tried again.
    pub publish_retries: Counter,
    /// Deliveries that could not be settled.
    pub settle_failures: Counter,
    /// Leases extended.
    pub lease_extensions: Counter,
    /// Leases that ended too soon.
    pub leases_lost: Counter,
    /// 1 while the broker is connected.
    pub broker_connected: Gauge,
    /// 1 while the broker takes no publishes.
    pub broker_blocked: Gauge,
    /// Connections made after the first.
    pub reconnects: Counter,
    /// Turns of the data thread.
    pub turns: Counter,

    destinations: Vec<DestinationSeries>,
    /// Indices into `destinations`, by queue and type.
    by_name: BTreeMap<(String, usize), usize>,
    /// Indices of the histograms of queues, which all types of message to a queue share.
    send_by_name: BTreeMap<String, usize>,
    send: Vec<Histogram<Times>>,
    transport: &'static str,
    registry: Arc<Registry>,
}

#[derive(Debug)]
struct DestinationSeries {
    sent: Counter,
    /// Index into `send`.
    send: usize,
}

impl Metrics {
    /// All metrics at zero, and the way to read them. `prefix` begins every name.
    pub fn new(prefix: &str, identity: &Identity) -> (Self, Reader) {
        let registry = Arc::new(Registry::default());
        let metrics = Self::unregistered(identity.transport, Arc::clone(&registry));
        metrics.register(identity);
        (metrics, Reader { prefix: Arc::from(prefix), registry })
    }

    fn unregistered(transport: &'static str, registry: Arc<Registry>) -> Self {
        Self {
            received: Counter::default(),
            processed: CounterBy::default(),
            failed: CounterBy::default(),
            runtime_errors: CounterBy::default(),
            processing: Histogram::default(),
            execution: Histogram::default(),
            receive: Histogram::default(),
            received_bytes: Histogram::default(),
            sent_bytes: Histogram::default(),
            active: Gauge::default(),
            stage: GaugeBy::default(),
            window: Gauge::default(),
            arena_used: GaugeBy::default(),
            arena_capacity: GaugeBy::default(),
            pinned_slots: Gauge::default(),
            handler_busy: TimeCounter::default(),
            batches: CounterBy::default(),
            batch_items: Histogram::default(),
            workers_ready: Gauge::default(),
            worker_deaths: CounterBy::default(),
            suspects: Counter::default(),
            adopted: Counter::default(),
            handed_back: Counter::default(),
            publish_outcomes: CounterBy::default(),
            publish_retries: Counter::default(),
            settle_failures: Counter::default(),
            lease_extensions: Counter::default(),
            leases_lost: Counter::default(),
            broker_connected: Gauge::default(),
            broker_blocked: Gauge::default(),
            reconnects: Counter::default(),
            turns: Counter::default(),
            destinations: Vec::new(),
            by_name: BTreeMap::new(),
            send_by_name: BTreeMap::new(),
            send: Vec::new(),
            transport,
            registry,
        }
    }

    fn register(&self, identity: &Identity) {
        let (queue, transport) = (identity.actor.as_str(), identity.transport);
        let one = |family, values: &[&str], reading: Reading| self.registry.add(family, values, reading);
        one(&family::RECEIVED, &[queue, transport], self.received.reading());
        one(&family::PROCESSING, &[queue], self.processing.reading());
        one(&family::EXECUTION, &[queue], self.execution.reading());
        one(&family::RECEIVE, &[queue, transport], self.receive.reading());
        one(&family::SIZE, &[Direction::Received.as_str()], self.received_bytes.reading());
        one(&family::SIZE, &[Direction::Sent.as_str()], self.sent_bytes.reading());
        one(&family::ACTIVE, &[], self.active.reading());
        one(&family::WINDOW, &[], self.window.reading());
        one(&family::PINNED, &[], self.pinned_slots.reading());
        one(&family::BUSY, &[queue], self.handler_busy.reading());
        one(&family::BATCH_ITEMS, &[queue], self.batch_items.reading());
        one(&family::WORKERS_READY, &[], self.workers_ready.reading());
        one(&family::SUSPECTS, &[], self.suspects.reading());
        one(&family::ADOPTED, &[], self.adopted.reading());
        one(&family::HANDED_BACK, &[], self.handed_back.reading());
        one(&family::PUBLISH_RETRIES, &[], self.publish_retries.reading());
        one(&family::SETTLE_FAILURES, &[], self.settle_failures.reading());
        one(&family::LEASE_EXTENSIONS, &[], self.lease_extensions.reading());
        one(&family::LEASES_LOST, &[], self.leases_lost.reading());
        one(&family::CONNECTED, &[transport], self.broker_connected.reading());
        one(&family::BLOCKED, &[transport], self.broker_blocked.reading());
        one(&family::RECONNECTS, &[transport], self.reconnects.reading());
        one(&family::TURNS, &[], self.turns.reading());
        one(&family::CPU, &[], Reading::Sampled(process::cpu_seconds));
        one(&family::MEMORY, &[], Reading::Sampled(process::resident_bytes));
        one(&family::FDS, &[], Reading::Sampled(process::open_fds));
        one(&family::BUILD, &[env!("CARGO_PKG_VERSION")], Reading::Sampled(|| Some(1.0)));
        self.counters(&family::PROCESSED, Some(queue), &self.processed);
        self.counters(&family::FAILED, Some(queue), &self.failed);
        self.counters(&family::RUNTIME_ERRORS, Some(queue), &self.runtime_errors);
        self.counters(&family::BATCHES, Some(queue), &self.batches);
        self.counters(&family::DEATHS, None, &self.worker_deaths);
        self.counters(&family::PUBLISH_OUTCOMES, None, &self.publish_outcomes);
        self.gauges(&family::STAGE, &self.stage);
        self.gauges(&family::ARENA_USED, &self.arena_used);
        self.gauges(&family::ARENA_CAPACITY, &self.arena_capacity);
    }

    fn counters<L: Label>(&self, family: &'static Family, queue: Option<&str>, by: &CounterBy<L>) {
        for value in L::ALL {
            let values: Vec<_> = queue.into_iter().chain([value.as_str()]).collect();
            self.registry.add(family, &values, by.of(*value).reading());
        }
    }

    fn gauges<L: Label>(&self, family: &'static Family, by: &GaugeBy<L>) {
        for value in L::ALL {
            self.registry.add(family, &[value.as_str()], by.of(*value).reading());
        }
    }

    /// The handle for messages of one type to one queue, named as it should be shown. Made on first use; to be kept by
    /// the caller, since finding it again takes a look-up. Beyond [`DESTINATIONS_MAX`], all share one.
    pub fn destination(&mut self, queue: &str, message_type: MessageType) -> Destination {
        let queue = match self.send_by_name.len() < DESTINATIONS_MAX || self.send_by_name.contains_key(queue) {
            true => queue,
            false => OTHER_DESTINATION,
        };
        let key = (queue.to_owned(), message_type.index());
        if let Some(&index) = self.by_name.get(&key) {
            return Destination(index);
        }
        let send = match self.send_by_name.get(queue) {
            Some(&send) => send,
            None => {
                let histogram = Histogram::default();
                self.registry.add(&family::SEND, &[queue, self.transport], histogram.reading());
                self.send.push(histogram);
                self.send_by_name.insert(queue.to_owned(), self.send.len() - 1);
                self.send.len() - 1
            }
        };
        let sent = Counter::default();
        self.registry.add(&family::SENT, &[queue, message_type.as_str()], sent.reading());
        self.destinations.push(DestinationSeries { sent, send });
        let index = self.destinations.len() - 1;
        self.by_name.insert(key, index);
        Destination(index)
    }

    /// Records one message sent and confirmed.
    pub fn sent(&self, destination: Destination, took: std::time::Duration, bytes: u64) {
        if let Some(series) = self.destinations.get(destination.0) {
            series.sent.inc();
            if let Some(send) = self.send.get(series.send) {
                send.record(took);
            }
        }
        self.sent_bytes.record_units(bytes);
    }
}

/// The reading side.
#[derive(Clone, Debug)]
pub struct Reader {
    prefix: Arc<str>,
    registry: Arc<Registry>,
}

impl Reader {
    /// Everything as text, of type [`CONTENT_TYPE`]. Reads a few small files of `/proc`.
    pub fn render(&self) -> String {
        render::render(&self.prefix, &self.registry.series())
    }
}
