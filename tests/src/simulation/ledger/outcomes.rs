//! The rules for what is acknowledged, and for what is there at the end.

use std::collections::BTreeSet;

use asya_envelope::{Head, names};

use super::{Ledger, Seen, times};
use crate::simulation::body::{open_any, portions};
use crate::simulation::plan::Plan;
use crate::simulation::scenario::RECOVERY;

/// Steps that the routes of one run can have before they count as endless.
const MOST_STEPS: u32 = 1_000_000;

/// Steps of the ladder that the longest delay of a run needs.
const MOST_STEPS_OF_A_DELAY: u32 = 12;

/// A message that came before its time is acknowledged once its copy is confirmed: at most so much later, in milliseconds.
const EARLY_MS: u64 = 60_000;

impl Ledger {
    /// Nothing is acknowledged before everything that it produced is in the broker.
    pub(super) fn check_acknowledged(&self, queue: &str, body: &[u8]) {
        let bundled = portions(body).count() > 1;
        portions(body).for_each(|body| self.check_ack(queue, body, bundled));
    }

    fn check_ack(&self, queue: &str, body: &[u8], bundled: bool) {
        let Some(opened) = open_any(body) else {
            if !self.inner.borrow().refused.contains(body) {
                self.violation("a body that is no envelope was acknowledged and is in no sink".into());
            }
            return;
        };
        let head = opened.head;
        let (id, hop) = (&head.id, head.route.hop());
        // A member that was handed back is in the queue again, on its own.
        if bundled && self.enqueued(queue, id, hop) > 1 {
            return;
        }
        let missing = if queue == self.stage.sink { self.not_consumed(&head) } else { self.missing_outcome(&head) };
        if let Some(missing) = missing.filter(|_| !self.came_back(queue, &head)) {
            self.violation(format!("{id} hop {hop} acknowledged in {queue} before {missing}"));
        }
    }

    /// Whether a message came into its queue again under suspicion, or because its time had not come: one copy for each that
    /// is acknowledged for it.
    fn came_back(&self, queue: &str, head: &Head) -> bool {
        let mut inner = self.inner.borrow_mut();
        let (id, hop) = (head.id.clone(), head.route.hop());
        let early = times(head).0.is_some_and(|at| at > self.wall_ms() - EARLY_MS);
        let attempt = head.status.as_ref().map_or(1, |status| status.attempt);
        let again =
            |s: &&Seen| s.id == id && s.hop == hop && (s.reason == "Suspected" || (early && s.attempt == attempt));
        let copies = inner.enqueued.get(queue).map_or(0, |all| all.iter().filter(again).count());
        let used = inner.came_back.entry((format!("{id} in {queue}"), hop, attempt)).or_insert(0);
        *used += 1;
        *used <= copies
    }

    /// Whether a message came into its queue again with more attempts than this head tells of.
    fn again(&self, queue: &str, head: &Head, actor: &str) -> bool {
        let attempt = head.status.as_ref().filter(|s| s.actor == actor).map_or(1, |s| s.attempt);
        let later = |s: &Seen| s.id == head.id && s.hop == head.route.hop() && s.attempt > attempt;
        self.inner.borrow().enqueued.get(queue).is_some_and(|all| all.iter().any(later))
    }

    /// What a message in an end actor's queue still lacks to be done with.
    fn not_consumed(&self, head: &Head) -> Option<String> {
        let consumed = self.inner.borrow().consumed.contains(&(head.id.clone(), head.route.hop()));
        (!consumed && !self.again(&self.stage.sink, head, names::SINK)).then(|| "its handler had returned".to_owned())
    }

    /// What a message at this head's hop still lacks to be done with; `None` = nothing.
    fn missing_outcome(&self, head: &Head) -> Option<String> {
        let (id, hop) = (&head.id, head.route.hop());
        let stage = &self.stage;
        if self.enqueued(&stage.sump, id, hop) > 0 {
            return None;
        }
        let Some(own) = stage.queues.get(&head.route.curr) else {
            return Some("its mistake was in the failure sink".into());
        };
        if self.again(own, head, &head.route.curr) {
            return None;
        }
        let plan = Plan::of(stage.seed, stage.mix, &head.route.curr, id, hop);
        if plan == Plan::Give(0) {
            return (self.enqueued(&stage.sink, id, hop) == 0).then(|| "its end was in the sink".to_owned());
        }
        let recovery = stage.queues.get(RECOVERY).filter(|_| head.route.curr != RECOVERY);
        if recovery.is_some_and(|queue| self.enqueued(queue, id, hop + 1) > 0) {
            return None;
        }
        if !plan.succeeds() {
            return Some(format!("its failure ({plan:?}) was in the failure sink"));
        }
        (0..plan.results()).find_map(|index| {
            let child = plan.child(head, index);
            let target = match child.route.curr.as_str() {
                "" => &stage.sink,
                actor => stage.queues.get(actor)?,
            };
            (self.enqueued(target, &child.id, hop + 1) == 0).then(|| format!("child {index} was in {target}"))
        })
    }

    /// At the end: every message that was sent has an outcome at every hop; without faults, exactly one.
    pub fn check_outcomes(&self, roots: &[Head], dead: &BTreeSet<(String, u32)>) {
        let clean = self.clean();
        let mut work: Vec<Head> = roots.to_vec();
        let mut steps = 0_u32;
        while let Some(head) = work.pop() {
            steps += 1;
            let (id, hop) = (&head.id, head.route.hop());
            if dead.contains(&(id.clone(), hop)) {
                continue;
            }
            if let Some(missing) = self.missing_outcome(&head) {
                self.violation(format!("{id} hop {hop} at {} was lost: not {missing}", head.route.curr));
                continue;
            }
            let (failed, plan) = (
                self.enqueued(&self.stage.sump, id, hop),
                Plan::of(self.stage.seed, self.stage.mix, &head.route.curr, id, hop),
            );
            if clean {
                self.check_once(&head, failed, plan);
            }
            if failed > 0 {
                continue;
            }
            let recovery = self.stage.queues.get(RECOVERY).filter(|_| head.route.curr != RECOVERY);
            if recovery.is_some_and(|queue| self.enqueued(queue, id, hop + 1) > 0) {
                let mut route = head.route.shifted();
                (route.curr, route.next) = (RECOVERY.to_owned(), Vec::new());
                work.push(Head { route, ..head.clone() });
                continue;
            }
            let children = (0..plan.results()).map(|index| plan.child(&head, index));
            work.extend(children.filter(|child| !child.route.curr.is_empty()));
            if steps > MOST_STEPS {
                self.violation("a route without end".into());
                return;
            }
        }
        self.check_consumed(dead);
    }

    /// Nothing was broken: each step came once, ended once, and was answered once if it was the last.
    fn check_once(&self, head: &Head, failed: u32, plan: Plan) {
        let (id, hop) = (&head.id, head.route.hop());
        let stage = &self.stage;
        let own = stage.queues.get(&head.route.curr).map_or(0, |queue| self.enqueued(queue, id, hop));
        // Each attempt comes, and waits in several steps for its time.
        let again = match self.most_attempts() {
            1 => 1,
            most => most.saturating_mul(MOST_STEPS_OF_A_DELAY),
        };
        if own > again || (failed > 1 && again < u32::MAX) {
            self.violation(format!("{id} hop {hop} came {own} times, failed {failed} times, and nothing was broken"));
        }
        let asks = head.headers.get_str(names::HEADER_REPLY_TO).is_some_and(|queue| queue == stage.replies);
        if !asks {
            return;
        }
        let answer = |id: &str, hop: u32| {
            let answers = self.enqueued(&stage.replies, id, hop);
            if answers != 1 {
                self.violation(format!("{id} hop {hop} was answered {answers} times, and nothing was broken"));
            }
        };
        if failed > 0 || plan == Plan::Give(0) {
            return answer(id, hop);
        }
        if self.stage.queues.get(RECOVERY).is_some_and(|queue| self.enqueued(queue, id, hop + 1) > 0) {
            return;
        }
        let children = (0..plan.results()).map(|index| plan.child(head, index));
        children.filter(|child| child.route.curr.is_empty()).for_each(|child| answer(&child.id, hop + 1));
    }

    /// An end actor has consumed all that came to it.
    fn check_consumed(&self, dead: &BTreeSet<(String, u32)>) {
        if !self.stage.consumed {
            return;
        }
        let inner = self.inner.borrow();
        let all = inner.enqueued.get(&self.stage.sink).into_iter().flatten().map(|s| (s.id.clone(), s.hop));
        let lost: Vec<_> = all.filter(|step| !inner.consumed.contains(step) && !dead.contains(step)).take(3).collect();
        drop(inner);
        for (id, hop) in lost {
            self.violation(format!("{id} hop {hop} came to the end actor and was never consumed"));
        }
    }
}
