//! The states that runs are expected to reach, and the audience that notes them.

use asya_dataplane::drive::{Audience, Sidecar};
use asya_dataplane::flow::{Ending, Observation, Report, State};
use asya_dataplane::lifecycle::Phase;

use super::ledger::Ledger;
use super::runtime::SimRim;
use super::transport::SimTransport;

/// States that the runs are expected to reach together.
pub const STATES: [&str; 47] = [
    "bundle",
    "waiting",
    "running",
    "publishing",
    "finished-orphan",
    "orphan-running",
    "orphan-publishing",
    "suspect-waiting",
    "suspect-running",
    "cancelled",
    "doomed",
    "unconfirmed-while-waiting",
    "parked",
    "phase-idle",
    "phase-consuming",
    "phase-pausing",
    "phase-stopping",
    "phase-draining",
    "phase-drained",
    "ended-success",
    "ended-empty",
    "ended-error",
    "ended-retried",
    "ended-consumed",
    "ended-delayed",
    "ended-routed",
    "ended-expired",
    "deduplicated",
    "lease-extended",
    "lease-lost",
    "lease-ended",
    "bad-deadline",
    "rebuilt",
    "too-large-to-fail",
    "given-up-by-the-broker",
    "drained-while-publishing",
    "adopted",
    "handed-back",
    "worker-died",
    "batch-full",
    "batch-bytes",
    "batch-age",
    "batch-alone",
    "publish-retried",
    "window-changed",
    "report-unroutable",
    "report-not-ready",
];

/// One simulated sidecar.
pub type SimSidecar = Sidecar<SimTransport, SimRim, Notes>;

/// What one sidecar says of itself, for the ledger; with its name.
pub struct Notes(pub Ledger, pub String);

impl Audience for Notes {
    fn observe(&mut self, observation: &Observation) {
        self.0.tell(|| format!("{}: {observation:?}", self.1));
        let state = match observation {
            Observation::Processed { ending, .. } => match ending {
                Ending::Success => "ended-success",
                Ending::Empty => "ended-empty",
                Ending::Error => "ended-error",
                Ending::Retried => "ended-retried",
                Ending::Delayed => "ended-delayed",
                Ending::Routed => "ended-routed",
                Ending::Expired => "ended-expired",
                Ending::Consumed => "ended-consumed",
                Ending::Open => return,
            },
            Observation::Deduplicated => "deduplicated",
            Observation::LeaseExtended => "lease-extended",
            Observation::LeaseLost => "lease-lost",
            Observation::Adopted => "adopted",
            Observation::HandedBack => "handed-back",
            Observation::WorkerDied(_) => "worker-died",
            Observation::BatchReleased { why, .. } => match why {
                asya_dataplane::flow::Release::Full => "batch-full",
                asya_dataplane::flow::Release::Bytes => "batch-bytes",
                asya_dataplane::flow::Release::Age => "batch-age",
                asya_dataplane::flow::Release::Alone => "batch-alone",
            },
            Observation::PublishRetried => "publish-retried",
            Observation::Window(_) => "window-changed",
            _ => return,
        };
        self.0.state(state);
    }

    fn report(&mut self, report: &Report) {
        self.0.tell(|| format!("{}: {report:?}", self.1));
        match report {
            Report::Unroutable { .. } => self.0.state("report-unroutable"),
            Report::LeaseEnded { .. } => self.0.state("lease-ended"),
            Report::BadDeadline { .. } => self.0.state("bad-deadline"),
            Report::NotReady => self.0.state("report-not-ready"),
            _ => {}
        }
    }

    fn broker(&mut self, _: &asya_transport::Event) {}
}

/// Notes the states that a sidecar is in.
pub fn note_states(sidecar: &SimSidecar, ledger: &Ledger) {
    let pipeline = sidecar.pipeline();
    ledger.state(match pipeline.phase() {
        Phase::Idle => "phase-idle",
        Phase::Consuming => "phase-consuming",
        Phase::Pausing => "phase-pausing",
        Phase::Stopping { .. } => "phase-stopping",
        Phase::Draining { .. } => "phase-draining",
        Phase::Drained => "phase-drained",
    });
    for (_, message) in pipeline.flight().messages.iter() {
        let lost = pipeline.flight().deliveries.get(message.delivery).is_some_and(|d| d.tag.is_none());
        match &message.state {
            State::Waiting => {
                ledger.state(if message.suspect { "suspect-waiting" } else { "waiting" });
                if message.unconfirmed > 0 {
                    ledger.state("unconfirmed-while-waiting");
                }
            }
            State::Running(running) => {
                ledger.state(if message.suspect { "suspect-running" } else { "running" });
                if lost {
                    ledger.state("orphan-running");
                }
                if running.cancelled.is_some() {
                    ledger.state("cancelled");
                }
            }
            State::Publishing => {
                ledger.state("publishing");
                if lost {
                    ledger.state("orphan-publishing");
                }
            }
            State::Finished { .. } => ledger.state("finished-orphan"),
        }
        if message.rebuilt.is_some() {
            ledger.state("rebuilt");
        }
        if message.doomed.is_some() {
            ledger.state("doomed");
        }
    }
    if pipeline.phase() == Phase::Drained && !pipeline.flight().publications.is_empty() {
        ledger.state("drained-while-publishing");
    }
    if pipeline.stages().parked > 0 {
        ledger.state("parked");
    }
}
