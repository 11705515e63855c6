//! The rules for what is published and for what a worker is given.

use asya_dataplane::retry::Policy;
use asya_dataplane::stamp;
use asya_envelope::{Head, Headers, Phase, Route, names};

use super::{Handed, Ledger, Seen, known_as, known_by, times};
use crate::simulation::body::Opened;
use crate::simulation::fault::Fault;
use crate::simulation::plan::{ABSENT, Plan, parent_of};
use crate::simulation::scenario::{ADDED, RECOVERY};

/// Clocks of the core tick in milliseconds, and it hears of time only when it looks.
const TICK_MS: u64 = 25;

/// Headers without what only says how often a message was tried.
fn without_attempts(head: &Head) -> Headers {
    let mut headers = head.headers.clone();
    for name in [names::HEADER_FIRST_ATTEMPT, names::HEADER_NOT_BEFORE, names::HEADER_CRASHES] {
        headers.remove(name);
    }
    headers
}

/// Deaths alone that a head tells of.
fn crashes(head: &Head) -> u32 {
    head.headers.get(names::HEADER_CRASHES).and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Ledger {
    /// A message is published whole: it is one that is known, or the result that a known one has to give.
    pub(super) fn check_published(&self, queue: &str, opened: &Opened) {
        let Opened { head, section, .. } = opened;
        let step = known_as(head);
        let stands = match self.inner.borrow().known.get(&step) {
            Some(known) => self.difference(&known.head, head).or((known.section != *section).then_some("payload")),
            None if head.route.curr == RECOVERY => self.check_recovered(opened),
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
        let recovered = opened.head.route.prev.iter().any(|actor| actor == RECOVERY);
        let Some(parent) = inner.known.get(&known_by(&from, hop, recovered)) else { return Some("parent") };
        let plan = Plan::of(self.stage.seed, self.stage.mix, &parent.head.route.curr, &parent.head.id, hop);
        if index >= plan.results() {
            return Some("index");
        }
        let child = plan.child(&parent.head, index);
        self.difference(&Head { status: parent.head.status.clone(), ..child }, &opened.head)
    }

    /// What of a message that has used up its attempts is not as its policy has it.
    fn check_recovered(&self, opened: &Opened) -> Option<&'static str> {
        let Opened { head, section, .. } = opened;
        let inner = self.inner.borrow();
        let Some(hop) = head.route.hop().checked_sub(1) else { return Some("past") };
        let Some(failed) = inner.known.get(&(head.id.clone(), hop)) else { return Some("past") };
        let expected = Head {
            route: Route { prev: head.route.prev.clone(), curr: RECOVERY.to_owned(), next: Vec::new() },
            ..failed.head.clone()
        };
        let came_by = head.route.prev.last() != Some(&failed.head.route.curr);
        self.difference(&expected, head)
            .or((failed.section != *section).then_some("payload"))
            .or(came_by.then_some("past"))
    }

    /// In what two heads differ, status and the way that a route is written aside.
    fn difference(&self, expected: &Head, head: &Head) -> Option<&'static str> {
        let differs = [
            (expected.id != head.id, "id"),
            (expected.parent_id != head.parent_id, "parent"),
            (expected.namespace != head.namespace, "namespace"),
            (expected.route != head.route, "route"),
            (expected.headers != without_attempts(head), "headers"),
            (times(expected).1 != times(head).1, "deadline"),
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
        } else if head.route.curr == RECOVERY && phase == Some(Phase::Failed) {
            own == Some(queue)
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
        let (hop, actor) = if head.route.curr == RECOVERY && seen.reason == "PolicyRouted" {
            (seen.hop.saturating_sub(1), head.route.prev.last().map_or("", String::as_str))
        } else {
            (seen.hop, head.route.curr.as_str())
        };
        let (deaths, failures) = (self.deaths_alone(&seen.id, hop), self.failures(&seen.id, hop));
        let policy = self.stage.policy.as_ref().filter(|_| actor != RECOVERY);
        if head.status.as_ref().is_some_and(|s| s.phase == Phase::Failed) {
            let plan = Plan::of(self.stage.seed, self.stage.mix, actor, &seen.id, hop);
            let raises = matches!(plan, Plan::GiveThenFail(_) | Plan::FailThenGive(_) | Plan::Hang);
            let deadline = times(head).1;
            match seen.reason.as_str() {
                "RuntimeError" if plan == Plan::Malformed => {}
                "RuntimeError" if policy.is_none() && raises => {}
                "Timeout" if policy.is_none() && plan == Plan::Hang => {}
                "PolicyExhausted" | "PolicyRouted"
                    if raises && policy.is_some_and(|p| self.exhausted(p, head, seen)) => {}
                "DeadlineExceeded" if deadline.is_some_and(|at| at <= self.wall_ms() + TICK_MS) => {}
                // Alone, nobody can tell a worker that was killed from outside from one that its message killed.
                "WorkerCrashed" if deaths >= self.stage.crash_limit => {}
                "Unroutable"
                    if raises
                        && policy.is_some_and(|p| p.on_exhausted == [ABSENT] && self.exhausted(p, head, seen)) => {}
                "Unroutable" if matches!(plan, Plan::Nowhere | Plan::Absent) || self.had(Fault::MissingQueue) => {}
                "MessageTooLarge" if plan == Plan::Big || section.len() as u64 + ADDED > self.stage.limit => {}
                "RouteMismatch" if self.had(Fault::Misrouted) && !self.stage.queues.contains_key(&head.route.curr) => {}
                other => innocent(&format!("{other} after {deaths} deaths alone")),
            }
            if head.status.as_ref().is_none_or(|s| s.error.is_none()) {
                self.violation(format!("{} in {queue} failed without an error", seen.id));
            }
        } else if seen.attempt > 1 + deaths + failures {
            innocent(&format!("attempt {} after {deaths} deaths alone and {failures} failures", seen.attempt));
        } else if seen.reason == "WorkerCrashed" && crashes(head) >= self.stage.crash_limit {
            self.violation(format!("{} is in {queue} after {} deaths: one too many", seen.id, crashes(head)));
        } else if crashes(head) > deaths {
            innocent(&format!("{} deaths, of which {deaths} alone", crashes(head)));
        } else if matches!(seen.reason.as_str(), "RuntimeError" | "Timeout")
            && policy.is_none_or(|policy| seen.attempt > policy.attempts_max)
        {
            self.violation(format!("{} is in {queue} for attempt {}: one too many", seen.id, seen.attempt));
        } else if let Some(policy) = policy.filter(|_| matches!(seen.reason.as_str(), "RuntimeError" | "Timeout")) {
            self.check_due(policy, head, seen);
        }
    }

    /// The next attempt is due neither sooner after the one that failed than the policy says, nor too long after the first.
    fn check_due(&self, policy: &Policy, head: &Head, seen: &Seen) {
        let name = &seen.id;
        let Some(due) = times(head).0 else {
            return self.violation(format!("{name} is to be tried again at no time"));
        };
        let before = seen.attempt.saturating_sub(1);
        let failed_at = self.inner.borrow().failed_at.get(&(name.clone(), seen.hop, before)).copied();
        let pause = policy.delay(before).mul_f64(if policy.jitter { 0.5 } else { 1.0 }).as_millis() as u64;
        if failed_at.is_some_and(|at| due + TICK_MS < at + pause) {
            self.violation(format!("{name} is due sooner after its attempt {before} than its policy says"));
        }
        let first = head.headers.get_str(names::HEADER_FIRST_ATTEMPT).and_then(|text| stamp::parse(&text));
        let latest = first.zip(policy.duration_max).map(|(first, max)| first + max.as_millis() as u64 + TICK_MS);
        if latest.is_some_and(|latest| due > latest) {
            self.violation(format!("{name} is due later after its first attempt than its policy says"));
        }
    }

    /// Whether a policy gives a message no more attempts: by their number, or because the next would begin too late.
    fn exhausted(&self, policy: &Policy, head: &Head, seen: &Seen) -> bool {
        let spread = if policy.jitter { 1.5 } else { 1.0 };
        let latest = policy.delay(seen.attempt).mul_f64(spread).as_millis() as u64;
        let over_time = policy.duration_max.is_some_and(|max| {
            let since = self.inner.borrow().first_begun.get(&(seen.id.clone(), seen.hop_failed(head))).copied();
            since.is_none_or(|since| self.wall_ms() + latest + TICK_MS > since + max.as_millis() as u64)
        });
        let too_late = times(head).1.is_some_and(|at| self.wall_ms() + latest + TICK_MS >= at);
        seen.attempt >= policy.attempts_max || over_time || too_late
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
        let (not_before, deadline) = times(head);
        if self.wall_ms() < not_before.unwrap_or(0) {
            self.violation(format!("{id} hop {hop} was handed over before its time"));
        }
        if call.expires && deadline.is_some_and(|at| self.wall_ms() > at + TICK_MS) {
            self.violation(format!("{id} hop {hop} was handed over after its deadline"));
        }
        let charged = head.status.as_ref().is_some_and(|s| s.reason.as_deref() == Some("WorkerCrashed"));
        if charged && !call.alone {
            self.violation(format!("{id} has killed a worker before, and was not given to run alone"));
        }
        let step = (id.clone(), hop);
        let (whole, copies) = {
            let inner = self.inner.borrow();
            let whole = inner.known.get(&known_as(head)).is_some_and(|known| known.section == *section);
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
        let wall_ms = self.wall_ms();
        let times = {
            let mut inner = self.inner.borrow_mut();
            inner.first_begun.entry((id.to_owned(), hop)).or_insert(wall_ms);
            let times = inner.begun.entry((actor.to_owned(), (id.to_owned(), hop))).or_insert(0);
            *times += 1;
            *times
        };
        let most = self.most_attempts();
        if times > most && self.clean() && self.stage.queues.contains_key(actor) {
            self.violation(format!("{id} hop {hop} ran {times} times, and nothing was broken"));
        }
    }
}
