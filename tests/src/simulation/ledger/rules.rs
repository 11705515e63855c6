//! The rules for what is published and for what a worker is given.

use asya_envelope::{Head, Phase};

use super::{Handed, Ledger, Seen};
use crate::simulation::body::Opened;
use crate::simulation::fault::Fault;
use crate::simulation::plan::{Plan, parent_of};
use crate::simulation::scenario::ADDED;

impl Ledger {
    /// A message is published whole: it is one that is known, or the result that a known one has to give.
    pub(super) fn check_published(&self, queue: &str, opened: &Opened) {
        let Opened { head, section, .. } = opened;
        let step = (head.id.clone(), head.route.hop());
        let stands = match self.inner.borrow().known.get(&step) {
            Some(known) => self.difference(&known.head, head).or((known.section != *section).then_some("payload")),
            None => self.check_result(opened),
        };
        if let Some(what) = stands {
            let start = String::from_utf8_lossy(&section[..section.len().min(60)]).into_owned();
            self.violation(format!("{} in {queue} has another {what} than it has to: {start}", head.id));
            return;
        }
        self.known(head, section);
        if let Some(wrong) = self.misplaced(queue, head) {
            self.violation(format!("{} hop {} is in {queue} {wrong}", head.id, head.route.hop()));
        }
    }

    /// What of a result is not as its parent's plan has it.
    fn check_result(&self, opened: &Opened) -> Option<&'static str> {
        let Some((from, hop, index)) = parent_of(opened.document()) else { return Some("payload") };
        let inner = self.inner.borrow();
        let Some(parent) = inner.known.get(&(from, hop)) else { return Some("parent") };
        let plan = Plan::of(self.stage.seed, self.stage.mix, &parent.head.route.curr, &parent.head.id, hop);
        if index >= plan.results() {
            return Some("index");
        }
        self.difference(&plan.child(&parent.head, index), &opened.head)
    }

    /// In what two heads differ, status and the way that a route is written aside.
    fn difference(&self, expected: &Head, head: &Head) -> Option<&'static str> {
        let differs = [
            (expected.id != head.id, "id"),
            (expected.parent_id != head.parent_id, "parent"),
            (expected.namespace != head.namespace, "namespace"),
            (expected.route != head.route, "route"),
            (expected.headers != head.headers, "headers"),
            (expected.extensions != head.extensions, "extensions"),
        ];
        differs.into_iter().find_map(|(differs, what)| differs.then_some(what))
    }

    /// What is wrong with a message being in this queue, in the phase that its status tells.
    fn misplaced(&self, queue: &str, head: &Head) -> Option<String> {
        let stage = &self.stage;
        let phase = head.status.as_ref().map(|s| s.phase);
        let ended = matches!(phase, Some(Phase::Succeeded | Phase::Failed));
        let own = stage.queues.get(&head.route.curr).map(String::as_str);
        let right = if queue == stage.replies {
            ended
        } else if queue == stage.sump {
            phase == Some(Phase::Failed)
        } else if queue == stage.sink {
            phase == Some(Phase::Succeeded) || (stage.consumed && phase == Some(Phase::Retrying))
        } else {
            // What finds no room is published again before anybody looks for whom it is.
            let nobodys = own.is_none() && self.had(Fault::Misrouted);
            (own == Some(queue) || nobodys) && matches!(phase, None | Some(Phase::Pending | Phase::Retrying))
        };
        (!right).then(|| format!("as {phase:?} for {:?}", head.route.curr))
    }

    /// What stands in the failure sink for a body that is no envelope holds that body.
    pub(super) fn check_unparsable(&self, queue: &str, opened: &Opened) {
        let document: serde_json::Value = serde_json::from_slice(opened.document()).unwrap_or_default();
        let reason = opened.head.status.as_ref().and_then(|s| s.reason.as_deref());
        match document["original_body"].as_str() {
            Some(original) if queue == self.stage.sump && reason == Some("ParseError") && self.had(Fault::Garbage) => {
                self.inner.borrow_mut().refused.insert(original.as_bytes().to_vec());
            }
            _ => self.violation(format!("a message without an id in {queue}: {document}")),
        }
    }

    /// A message fails only for what it did.
    pub(super) fn check_reason(&self, queue: &str, opened: &Opened, seen: &Seen) {
        let Opened { head, section, .. } = opened;
        let innocent = |what: &str| self.violation(format!("{} failed with {what}, of which it is innocent", seen.id));
        let deaths = self.deaths_alone(&seen.id, seen.hop);
        if head.status.as_ref().is_some_and(|s| s.phase == Phase::Failed) {
            let plan = Plan::of(self.stage.seed, self.stage.mix, &head.route.curr, &seen.id, seen.hop);
            match seen.reason.as_str() {
                "RuntimeError" if matches!(plan, Plan::GiveThenFail(_) | Plan::Malformed) => {}
                "Timeout" if plan == Plan::Hang => {}
                // Alone, nobody can tell a worker that was killed from outside from one that its message killed.
                "WorkerCrashed" if deaths >= self.stage.crash_limit => {}
                "Unroutable" if matches!(plan, Plan::Nowhere | Plan::Absent) || self.had(Fault::MissingQueue) => {}
                "MessageTooLarge" if plan == Plan::Big || section.len() as u64 + ADDED > self.stage.limit => {}
                "RouteMismatch" if self.had(Fault::Misrouted) && !self.stage.queues.contains_key(&head.route.curr) => {}
                other => innocent(&format!("{other} after {deaths} deaths alone")),
            }
            if head.status.as_ref().is_none_or(|s| s.error.is_none()) {
                self.violation(format!("{} in {queue} failed without an error", seen.id));
            }
        } else if seen.attempt > 1 + deaths {
            innocent(&format!("attempt {} after {deaths} deaths alone", seen.attempt));
        } else if seen.attempt > self.stage.crash_limit {
            self.violation(format!("{} is in {queue} for attempt {}: one too many", seen.id, seen.attempt));
        }
    }

    /// A call was handed to a worker: what was sent, alone if it is to run alone, and not beside itself.
    pub fn handed(&self, call: &Handed<'_>) {
        let Handed { worker, head, section, .. } = call;
        let (id, hop) = (&head.id, head.route.hop());
        if (call.alone && call.others > 0) || call.alone_there {
            self.violation(format!("{worker:?} was given {id} beside one that runs alone, or to run alone"));
        }
        if call.others >= call.most {
            self.violation(format!("{worker:?} was given more than {} calls", call.most));
        }
        let charged = head.status.as_ref().is_some_and(|s| s.reason.as_deref() == Some("WorkerCrashed"));
        if charged && !call.alone {
            self.violation(format!("{id} has killed a worker before, and was not given to run alone"));
        }
        let step = (id.clone(), hop);
        let (whole, copies) = {
            let inner = self.inner.borrow();
            let whole = inner.known.get(&step).is_some_and(|known| known.section == *section);
            (whole, inner.doubled.contains(&step))
        };
        if !whole {
            self.violation(format!("{id} was handed over with a garbled payload"));
        }
        let own = self.stage.queues.get(&head.route.curr).map_or(0, |own| self.enqueued(own, id, hop));
        if call.running && !copies && own == 1 {
            self.violation(format!("{id} hop {hop} came again and runs beside itself"));
        }
    }

    /// A handler has begun. Where nothing is broken, it begins once; that of an end actor, until it does not fail.
    pub fn begun(&self, actor: &str, id: &str, hop: u32) {
        let times = {
            let mut inner = self.inner.borrow_mut();
            let times = inner.begun.entry((actor.to_owned(), (id.to_owned(), hop))).or_insert(0);
            *times += 1;
            *times
        };
        if times > 1 && self.clean() && self.stage.queues.contains_key(actor) {
            self.violation(format!("{id} hop {hop} ran {times} times, and nothing was broken"));
        }
    }
}
