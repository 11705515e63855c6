//! What simulated workers do as time passes: they begin calls, give results one by one, end, crash and lie.

use std::time::Duration;

use asya_dataplane::flow::{CallEnd, Death, Output, OutputId, Role, WorkerEvent, WorkerId};
use asya_dataplane::slab::Key;
use asya_envelope::{ErrorInfo, Payload};
use asya_transport::Part;

use super::{Process, Running, SimRim};
use crate::simulation::fault::Fault;
use crate::simulation::plan::{Plan, result_payload};

impl SimRim {
    /// Everything that has happened until now.
    pub(super) fn advance(&mut self) {
        let now = self.clock.now();
        for index in 0..self.shape.workers {
            let at = usize::from(index);
            if let Process::Starting { at: when, id } = self.workers[at].process
                && when <= now
            {
                if now < self.broken_until {
                    self.fail_to_load(id);
                    continue;
                }
                self.workers[at].process = Process::Ready(id);
                self.pending.push(WorkerEvent::Ready {
                    worker: id,
                    concurrency: self.shape.concurrency,
                    batch: self.shape.batch,
                    cancellable: self.shape.cancellable,
                });
            }
            if let Some((when, death)) = self.workers[at].kill
                && when <= now
            {
                self.die(index, death);
            }
            self.run(index, now);
        }
    }

    fn fail_to_load(&mut self, id: WorkerId) {
        let error = raised("ImportError");
        let worker = &mut self.workers[usize::from(id.index)];
        worker.process = Process::Absent;
        worker.fruitless += 1;
        worker.died_at = self.clock.now();
        self.pending.push(WorkerEvent::Broken { worker: id, error });
        self.pending.push(WorkerEvent::Died { worker: id, death: Death::Crashed });
    }

    fn run(&mut self, index: u16, now: u64) {
        let at = usize::from(index);
        let Process::Ready(id) = self.workers[at].process else { return };
        loop {
            let width = self.width(&self.workers[at]);
            self.begin(at, width, now);
            if self.give_due(id, width, now) {
                continue;
            }
            let ready = self.workers[at].calls.iter().take(width).position(|c| {
                let ended = c.started.is_some_and(|s| s + c.took <= now);
                ended && c.stalled.is_none() && (c.plan != Plan::Hang || c.cancelled)
            });
            // A batch ends as one: when its slowest member does.
            let batch = self.shape.batch > 0 && width > 0;
            let batch_done = || {
                self.workers[at]
                    .calls
                    .iter()
                    .take(width)
                    .all(|c| c.started.is_some_and(|s| s + c.took <= now) && (c.plan != Plan::Hang || c.cancelled))
            };
            if batch && !self.workers[at].calls.is_empty() && !batch_done() {
                // A member that kills the process does so when its own time comes.
                let crashing = self.workers[at].calls.iter().take(width).any(|c| {
                    !c.cancelled
                        && matches!(c.plan, Plan::GiveThenCrash(_))
                        && c.started.is_some_and(|s| s + c.took <= now)
                });
                if crashing {
                    self.ledger.fault(Fault::HandlerCrashed);
                    self.die(index, Death::Crashed);
                }
                return;
            }
            let Some(position) = ready else { return };
            let Some(mut call) = self.workers[at].calls.remove(position) else { return };
            if matches!(call.plan, Plan::GiveThenCrash(_)) && !call.cancelled {
                self.give(id, &mut call);
                self.ledger.fault(Fault::HandlerCrashed);
                self.workers[at].calls.insert(position, call);
                self.die(index, Death::Crashed);
                return;
            }
            self.end(id, call);
        }
    }

    fn begin(&mut self, at: usize, width: usize, now: u64) {
        let heads = self.workers[at].calls.iter_mut().take(width);
        for call in heads.filter(|c| c.heard && c.started.is_none()) {
            call.started = Some(now);
            self.ledger.begun(&self.actor, &call.id, call.hop);
        }
    }

    /// Gives the next result that is due, if one is and there is room for it. Those of a batch come with its end.
    fn give_due(&mut self, worker: WorkerId, width: usize, now: u64) -> bool {
        let room = self.has_room();
        if room {
            self.resume(worker, now);
        }
        let calls = &mut self.workers[usize::from(worker.index)].calls;
        let due = |c: &Running| c.next_result().is_some_and(|due| due <= now);
        let Some(place) = calls.iter().take(width).position(due).filter(|_| self.shape.batch == 0) else {
            return false;
        };
        if !room {
            // It cannot give now; the others may.
            let call = &mut calls[place];
            call.stalled = Some(now);
            self.ledger.fault(Fault::Stalled);
            self.pending.push(WorkerEvent::Stalled { worker, call: call.call });
            return true;
        }
        let Some(mut call) = calls.remove(place) else { return false };
        self.give_one(worker, &mut call);
        self.workers[usize::from(worker.index)].calls.insert(place, call);
        true
    }

    /// What stood still goes on, and has lost no time.
    fn resume(&mut self, worker: WorkerId, now: u64) {
        for call in &mut self.workers[usize::from(worker.index)].calls {
            let Some(since) = call.stalled.take() else { continue };
            call.started = call.started.map(|started| started + (now - since));
            self.pending.push(WorkerEvent::Resumed { worker, call: call.call });
        }
    }

    fn give(&mut self, worker: WorkerId, call: &mut Running) {
        while call.given < call.plan.results() {
            self.give_one(worker, call);
        }
    }

    fn give_one(&mut self, worker: WorkerId, call: &mut Running) {
        let bytes = result_payload(&call.id, call.hop, call.given, call.plan == Plan::Big);
        self.next_output += 1;
        let len = bytes.len() as u64;
        let part = Part { region: (self.next_output as u32) * 2 + 1, offset: 0, len };
        self.outputs.insert(self.next_output, bytes);
        let payload = Payload { offset: 0, document_len: len, len, blobs: 0 };
        let id = OutputId(self.next_output);
        let output = Output { id, parts: vec![part], payload, meta: call.meta.clone() };
        self.pending.push(WorkerEvent::Result { worker, call: call.call, output });
        call.given += 1;
    }

    fn end(&mut self, worker: WorkerId, mut call: Running) {
        if std::mem::take(&mut self.lie) {
            self.ledger.fault(Fault::Lie);
            // A call of nobody, or one that another worker runs.
            let elsewhere = self.workers.iter().filter(|w| !matches!(w.process, Process::Ready(id) if id == worker));
            let other = elsewhere.flat_map(|w| &w.calls).map(|c| c.call).next();
            let stranger = other.unwrap_or_else(|| Key::from_u64(self.random.number()));
            let elapsed = Duration::from_nanos(1);
            self.pending.push(WorkerEvent::Ended { worker, call: stranger, end: CallEnd::Done, elapsed });
            let mut ghost = Running { call: stranger, given: 0, plan: Plan::Give(1), ..call.copy() };
            self.give(worker, &mut ghost);
        }
        if !call.cancelled {
            self.give(worker, &mut call);
        }
        self.workers[usize::from(worker.index)].fruitless = 0;
        let end = match call.plan {
            Plan::GiveThenFail(_) if !call.cancelled => {
                CallEnd::Failed { error: raised("ValueError"), unparsable: false, retry_after: None }
            }
            _ if call.cancelled => {
                if call.plan == Plan::Hang {
                    self.ledger.fault(Fault::HandlerHung);
                }
                CallEnd::Failed { error: raised("CancelledError"), unparsable: false, retry_after: None }
            }
            _ => CallEnd::Done,
        };
        if end != CallEnd::Done {
            self.ledger.failed(&call.id, call.hop, call.attempt);
        }
        if self.role == Role::End && end == CallEnd::Done {
            self.ledger.consumed(&call.id, call.hop);
        }
        let elapsed = Duration::from_nanos(call.took);
        self.pending.push(WorkerEvent::Ended { worker, call: call.call, end, elapsed });
    }
}

fn raised(kind: &str) -> ErrorInfo {
    ErrorInfo {
        message: "simulated".into(),
        error_type: kind.into(),
        mro: vec!["Exception".into()],
        traceback: Some("…".into()),
    }
}
