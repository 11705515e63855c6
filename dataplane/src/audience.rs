//! Tells metrics, health and people what the core and the broker say.
//!
//! Takes facts and reports, gives numbers and log lines. Runs on the data thread: a fact costs a few stores; what may
//! repeat is logged once a while. Failures of it are nobody's: there is nothing here that can fail.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asya_transport::{Event, Outcome};
use tracing::{error, info, warn};

use crate::admin::Health;
use crate::drive::Audience;
use crate::flow::{Death, Ending, Observation, Purpose, Release, Report, reason};
use crate::logging::RateLimited;
use crate::metrics::{
    DeathReason, Destination, FailureReason, MessageType, Metrics, ProcessedStatus, PublishOutcome, Region,
    ReleaseReason, RuntimeErrorType, Stage,
};

#[cfg(test)]
mod tests;

/// Lines of one kind about messages: enough to see what goes wrong, too few to slow the data thread down.
const MESSAGE_LINE_EVERY: Duration = Duration::from_millis(100);
/// Lines of one kind about queues and the broker, which stay wrong for long.
const BROKER_LINE_EVERY: Duration = Duration::from_secs(10);
/// The `destination_queue` of answers: each has a queue of its own, of which there is no end.
const REPLY_DESTINATION: &str = "reply";

/// Metrics, health and logs of one sidecar.
#[derive(Debug)]
pub struct Watcher {
    metrics: Metrics,
    health: Arc<Health>,
    /// Bare names, which is what dashboards know the sinks by.
    sink: String,
    sump: String,
    /// What was sent to before, the latest first.
    known: Vec<(Purpose, Rc<str>, Destination)>,
    connected_before: bool,
    /// Why the broker, or the handler, makes work impossible.
    broker_problem: Option<String>,
    handler_problem: Option<String>,
    lines: Lines,
}

/// How often what is logged.
#[derive(Debug)]
struct Lines {
    failed: RateLimited,
    oversize: RateLimited,
    settle_failed: RateLimited,
    retried: RateLimited,
    bad_deadline: RateLimited,
    lease_ended: RateLimited,
    unroutable: RateLimited,
    not_ready: RateLimited,
    declare_failed: RateLimited,
}

/// Levels as they are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Messages decoded and not given to a worker.
    pub waiting: u64,
    /// Messages that a worker has.
    pub running: u64,
    /// Messages whose results are on their way.
    pub publishing: u64,
    /// Messages kept for a redelivery.
    pub finished: u64,
    /// Bodies that are still arriving.
    pub arriving: u64,
    /// Bytes of input memory in use, and those that may be.
    pub input_bytes: (u64, u64),
    /// Bytes of output memory in use, and those that may be.
    pub output_bytes: (u64, u64),
    /// Inputs that a handler still holds.
    pub pinned_slots: u64,
    /// Workers whose handler is loaded.
    pub workers_ready: u32,
}

impl Watcher {
    /// Puts them together. `sink` and `sump` are names of actors.
    pub fn new(metrics: Metrics, health: Arc<Health>, sink: &str, sump: &str) -> Self {
        let message = RateLimited::new(MESSAGE_LINE_EVERY);
        let broker = RateLimited::new(BROKER_LINE_EVERY);
        Self {
            metrics,
            health,
            sink: sink.to_owned(),
            sump: sump.to_owned(),
            known: Vec::new(),
            connected_before: false,
            broker_problem: None,
            handler_problem: None,
            lines: Lines {
                failed: message.clone(),
                oversize: message.clone(),
                retried: message.clone(),
                bad_deadline: message.clone(),
                lease_ended: message.clone(),
                settle_failed: message,
                unroutable: broker.clone(),
                not_ready: broker.clone(),
                declare_failed: broker,
            },
        }
    }

    /// The data thread turns. To be called at each turn, and at least once a second.
    pub fn turn(&self, now: Instant) {
        self.metrics.turns.inc();
        self.health.beat(now);
    }

    /// Tells the levels. To be called once a turn at most.
    pub fn levels(&mut self, levels: &Levels) {
        let metrics = &self.metrics;
        for (stage, messages) in [
            (Stage::Intake, levels.arriving),
            (Stage::Waiting, levels.waiting),
            (Stage::Running, levels.running),
            (Stage::Publishing, levels.publishing),
            (Stage::Finished, levels.finished),
        ] {
            metrics.stage.of(stage).set_u64(messages);
        }
        metrics.active.set_u64(levels.waiting + levels.running + levels.publishing);
        for (region, (used, capacity)) in [(Region::Input, levels.input_bytes), (Region::Output, levels.output_bytes)] {
            metrics.arena_used.of(region).set_u64(used);
            metrics.arena_capacity.of(region).set_u64(capacity);
        }
        metrics.pinned_slots.set_u64(levels.pinned_slots);
        metrics.workers_ready.set(i64::from(levels.workers_ready));
        self.health.set_ready_workers(levels.workers_ready);
        if levels.workers_ready > 0 && self.handler_problem.take().is_some() {
            self.tell_problems();
        }
    }

    /// A drain has begun.
    pub fn draining(&self) {
        self.health.set_draining();
    }

    fn tell_problems(&self) {
        let problems: Vec<_> = self.broker_problem.iter().chain(&self.handler_problem).map(String::as_str).collect();
        self.health.set_problem(Some(problems.join("\n")).filter(|text| !text.is_empty()));
    }

    /// The handle of a destination; nearly always that of the message before.
    fn destination(&mut self, purpose: Purpose, queue: &Rc<str>) -> Destination {
        let is_same = |known: &(Purpose, Rc<str>, Destination)| known.0 == purpose && known.1 == *queue;
        if let Some(at) = self.known.iter().position(is_same) {
            self.known.swap(0, at);
            return self.known[0].2;
        }
        let (shown, message_type): (&str, _) = match purpose {
            Purpose::Next => (queue, MessageType::Routing),
            Purpose::Again => (queue, MessageType::Retry),
            Purpose::Sink => (&self.sink, MessageType::Sink),
            Purpose::Sump => (&self.sump, MessageType::Sump),
            Purpose::Recovery => (queue, MessageType::OnExhausted),
            Purpose::Reply => (REPLY_DESTINATION, MessageType::Reply),
        };
        let destination = self.metrics.destination(shown, message_type);
        // Routes and reply queues have no end: what is not kept here costs a look-up in an ordered map.
        if purpose != Purpose::Reply && self.known.len() < crate::metrics::DESTINATIONS_MAX {
            self.known.push((purpose, Rc::clone(queue), destination));
        }
        destination
    }
}

impl Audience for Watcher {
    fn observe(&mut self, observation: &Observation) {
        let metrics = &self.metrics;
        match observation {
            Observation::Received { bytes, messages } => {
                metrics.received.add(u64::from(*messages));
                metrics.received_bytes.record_units(*bytes);
            }
            Observation::HandedOver { waited } => metrics.receive.record(*waited),
            // Failures are counted for each message, by `Failed`.
            Observation::Ran { elapsed, messages, failed: _ } => {
                metrics.execution.record(*elapsed);
                metrics.handler_busy.add(*elapsed);
                metrics.batch_items.record_units(u64::from(*messages));
            }
            Observation::Processed { ending, took } => {
                if let Some(status) = status(*ending) {
                    metrics.processed.inc(status);
                    metrics.processing.record(*took);
                }
            }
            Observation::Sent { purpose, queue, took, bytes } => {
                let destination = self.destination(*purpose, queue);
                self.metrics.sent(destination, *took, *bytes);
            }
            Observation::Failed(why) => {
                metrics.failed.inc(failure(why));
                if let Some(error_type) = runtime_error(why) {
                    metrics.runtime_errors.inc(error_type);
                }
            }
            Observation::BatchReleased { why, messages: _ } => metrics.batches.inc(match why {
                Release::Full => ReleaseReason::Items,
                Release::Bytes => ReleaseReason::Bytes,
                Release::Age => ReleaseReason::Age,
                Release::Alone => ReleaseReason::Alone,
            }),
            Observation::WorkerDied(death) => metrics.worker_deaths.inc(match death {
                Death::Crashed => DeathReason::Crashed,
                Death::TimedOut => DeathReason::Timeout,
                Death::Corrupt => DeathReason::Corrupt,
                Death::Detached => DeathReason::Detached,
            }),
            Observation::Suspects(messages) => metrics.suspects.add(u64::from(*messages)),
            Observation::Adopted => metrics.adopted.inc(),
            Observation::Deduplicated => metrics.processed.inc(ProcessedStatus::Duplicate),
            Observation::LeaseExtended => metrics.lease_extensions.inc(),
            Observation::LeaseLost => metrics.leases_lost.inc(),
            Observation::HandedBack => metrics.handed_back.inc(),
            Observation::PublishRetried => metrics.publish_retries.inc(),
            Observation::Window(window) => metrics.window.set(i64::from(*window)),
        }
    }

    fn report(&mut self, report: &Report) {
        let now = Instant::now();
        match report {
            Report::Failed { id, reason, message } => {
                if let Some(more_like_it) = self.lines.failed.admit(now).map(others) {
                    warn!(id, reason, message, more_like_it, "a message failed");
                }
            }
            Report::Unroutable { queue, tries } => {
                if let Some(more_like_it) = self.lines.unroutable.admit(now).map(others) {
                    warn!(queue, tries, more_like_it, "a queue that messages are routed to does not exist");
                }
            }
            Report::WorkerDied { worker, death, suspects } => {
                let (index, generation) = (worker.index, worker.generation);
                let run_again_alone = others(u64::from(*suspects));
                warn!(worker = index, generation, ?death, run_again_alone, "a worker died");
            }
            Report::HandlerBroken { error: raised } => {
                let traceback = raised.traceback.as_deref().unwrap_or_default();
                error!(error = raised.error_type, message = raised.message, traceback, "the handler cannot be loaded");
                let problem = format!("the handler cannot be loaded: {}: {}", raised.error_type, raised.message);
                self.handler_problem = Some(problem);
                self.tell_problems();
            }
            Report::NotReady => {
                if let Some(more_like_it) = self.lines.not_ready.admit(now).map(others) {
                    warn!(
                        more_like_it,
                        "no worker has been ready for too long; what was taken goes back to the broker"
                    );
                }
            }
            Report::Oversize { len } => {
                if let Some(more_like_it) = self.lines.oversize.admit(now).map(others) {
                    warn!(
                        bytes = len,
                        more_like_it,
                        "a message is larger than ASYA_MAX_MESSAGE_BYTES (raise that, and ASYA_MEMORY_BYTES to twice as much); it is in the dead-letter queue"
                    );
                }
            }
            Report::ConnectionLost { why } => warn!(why, "the connection to the broker was lost"),
            Report::Retried { id, attempt, delay, message } => {
                if let Some(more_like_it) = self.lines.retried.admit(now).map(others) {
                    warn!(id, attempt, ?delay, message, more_like_it, "a handler failed; the message is tried again");
                }
            }
            Report::BadDeadline { id, text } => {
                if let Some(more_like_it) = self.lines.bad_deadline.admit(now).map(others) {
                    warn!(
                        id,
                        deadline_at = text,
                        more_like_it,
                        "a message's deadline is no RFC 3339 time; it runs without one"
                    );
                }
            }
            Report::LeaseEnded { id } => {
                if let Some(more_like_it) = self.lines.lease_ended.admit(now).map(others) {
                    warn!(
                        id,
                        more_like_it,
                        "a message was held for as long as the broker allows; the broker delivers it again"
                    );
                }
            }
            Report::SettleFailed { why } => {
                self.metrics.settle_failures.inc();
                if let Some(more_like_it) = self.lines.settle_failed.admit(now).map(others) {
                    warn!(why, more_like_it, "a delivery could not be settled and comes again");
                }
            }
        }
    }

    fn broker(&mut self, event: &Event) {
        match event {
            Event::Published { outcome, .. } => self.metrics.publish_outcomes.inc(outcome_label(outcome)),
            Event::Connected { epoch } => {
                info!(epoch, "connected to the broker");
                if std::mem::replace(&mut self.connected_before, true) {
                    self.metrics.reconnects.inc();
                }
                self.connected(true);
                if self.broker_problem.take().is_some() {
                    self.tell_problems();
                }
            }
            Event::Lost { .. } => self.connected(false),
            Event::Fatal { why } => {
                error!(why, "the broker cannot be used until this is put right");
                self.connected(false);
                self.broker_problem = Some(why.clone());
                self.tell_problems();
            }
            Event::Blocked(blocked) => {
                self.metrics.broker_blocked.set(i64::from(*blocked));
                match blocked {
                    true => warn!("the broker takes no messages for now, for want of memory or disk"),
                    false => info!("the broker takes messages again"),
                }
            }
            Event::Canceled { asked: false } => warn!("the broker ended the consumer; consuming starts again"),
            Event::Declared { queue, differs: Some(differs) } => {
                warn!(queue, differs, "a queue that exists is used as it is");
            }
            Event::DeclareFailed { queue, why } => {
                if let Some(more_like_it) = self.lines.declare_failed.admit(Instant::now()).map(others) {
                    warn!(queue, why, more_like_it, "a queue is not there and could not be made");
                }
            }
            Event::Delivered(_)
            | Event::Oversize { .. }
            | Event::Canceled { asked: true }
            | Event::SettleFailed { .. }
            | Event::Declared { differs: None, .. }
            | Event::Depth { .. } => {}
        }
    }
}

impl Watcher {
    fn connected(&self, connected: bool) {
        self.metrics.broker_connected.set(i64::from(connected));
        self.health.set_connected(connected);
    }
}

const fn status(ending: Ending) -> Option<ProcessedStatus> {
    match ending {
        Ending::Open => None,
        Ending::Success => Some(ProcessedStatus::Success),
        Ending::Empty => Some(ProcessedStatus::EmptyResponse),
        Ending::Consumed => Some(ProcessedStatus::EndConsumed),
        Ending::Error => Some(ProcessedStatus::Error),
        Ending::Expired => Some(ProcessedStatus::SlaExpired),
        Ending::Retried => Some(ProcessedStatus::Retried),
        Ending::Delayed => Some(ProcessedStatus::Delayed),
        Ending::Routed => Some(ProcessedStatus::PolicyRouted),
    }
}

fn failure(why: &str) -> FailureReason {
    match why {
        reason::PARSE_ERROR => FailureReason::ParseError,
        reason::ROUTE_MISMATCH => FailureReason::RouteMismatch,
        reason::RUNTIME_ERROR => FailureReason::RuntimeError,
        reason::TIMEOUT => FailureReason::Timeout,
        reason::UNROUTABLE => FailureReason::RoutingError,
        reason::TOO_LARGE => FailureReason::TooLarge,
        reason::WORKER_CRASHED => FailureReason::WorkerCrashed,
        reason::DEADLINE_EXCEEDED => FailureReason::SlaTimeout,
        reason::POLICY_EXHAUSTED | reason::POLICY_ROUTED => FailureReason::PolicyExhausted,
        _ => FailureReason::Other,
    }
}

fn runtime_error(why: &str) -> Option<RuntimeErrorType> {
    match why {
        reason::RUNTIME_ERROR => Some(RuntimeErrorType::ExecutionError),
        reason::TIMEOUT => Some(RuntimeErrorType::Timeout),
        reason::WORKER_CRASHED => Some(RuntimeErrorType::Crash),
        _ => None,
    }
}

const fn outcome_label(outcome: &Outcome) -> PublishOutcome {
    match outcome {
        Outcome::Confirmed => PublishOutcome::Confirmed,
        Outcome::Unroutable => PublishOutcome::Unroutable,
        Outcome::Refused(_) => PublishOutcome::Refused,
        Outcome::Lost => PublishOutcome::Lost,
        Outcome::TooLarge(_) => PublishOutcome::TooLarge,
        Outcome::Unsupported(_) => PublishOutcome::Unsupported,
    }
}

/// How many others a line stands for; nothing where it stands for itself alone.
fn others(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}
