//! Time: another attempt later, deadlines, and leases.
//!
//! Takes messages that failed, wait or are lent for a time, gives what the clock makes of them. Pure: it never blocks. What has
//! no other attempt fails.

use std::rc::Rc;
use std::time::Duration;

use asya_envelope::{ErrorInfo, Head};
use asya_transport::Tag;

use super::failure::plain;
use super::{Pipeline, named};
use crate::flow::{
    DeliveryId, Effect, Effects, Ending, MessageId, Now, Observation, Purpose, Report, Role, State, Store, Time, reason,
};
use crate::publish::Address;
use crate::retry::{Decision, Past};
use crate::route;

/// What is due sooner than this waits here rather than in the broker: its time is kept to the millisecond, and the place that it
/// takes in the window is soon free.
const SOON: Duration = Duration::from_secs(1);

/// Whether an error is only that a task was cancelled.
fn is_cancellation(error: &ErrorInfo) -> bool {
    error.error_type.rsplit('.').next() == Some("CancelledError")
}

/// So few deadlines of messages that are gone are not worth a sweep.
const FEW: usize = 64;

impl Pipeline {
    /// A handler failed after it `ran` for so long: the message runs again if its policy says so.
    pub(super) fn retry_or_fail(
        &mut self,
        id: MessageId,
        why: &'static str,
        error: ErrorInfo,
        retry_after: Option<Duration>,
        ran: Duration,
        now: Now,
        store: &mut dyn Store,
        fx: &mut Effects,
    ) {
        let Some(message) = self.flight.messages.get_mut(id) else { return };
        if self.settings.role == Role::End {
            return self.fail(id, why, error, now, store, fx);
        }
        let actor = &self.settings.actor;
        let began_ms = now.wall_ms.saturating_sub(ran.as_millis() as u64);
        let past = Past {
            id: &message.head.id,
            attempt: route::attempt(&message.head, actor),
            first_ms: route::first_attempt_ms(&message.head).unwrap_or(began_ms),
            now_ms: now.wall_ms,
            deadline_ms: route::deadline_ms(&message.head).and_then(Result::ok),
        };
        match self.settings.resiliency.decide(&error, &past, retry_after) {
            Decision::Final => self.fail(id, why, error, now, store, fx),
            Decision::Again { delay, policy } => {
                fx.push(Effect::Report(Report::Retried {
                    id: message.head.id.clone(),
                    attempt: past.attempt,
                    delay,
                    message: format!("{}: {}", error.error_type, error.message),
                }));
                message.state = State::Publishing;
                message.ending = Ending::Retried;
                let due_ms = now.wall_ms.saturating_add(delay.as_millis() as u64);
                let retry = route::Retry { first_ms: past.first_ms, due_ms, attempts_max: policy.attempts_max };
                let head = route::retried(&message.head, actor, why, retry, self.stamp.at(now.wall_ms));
                self.send_later(id, &head, delay, now, store, fx);
            }
            Decision::Exhausted(policy) => {
                let attempts_max = policy.attempts_max;
                let Some(first) = policy.on_exhausted.first() else {
                    if let Some(status) = &mut message.head.status {
                        status.max_attempts = attempts_max;
                    }
                    return self.fail(id, reason::POLICY_EXHAUSTED, error, now, store, fx);
                };
                match named(&mut self.queues, &self.settings.namespace, first) {
                    Err(text) => self.fail(id, reason::UNROUTABLE, plain("asya.Unroutable", text), now, store, fx),
                    Ok(queue) => {
                        fx.observe(Observation::Failed(reason::POLICY_ROUTED));
                        let stamp = self.stamp.at(now.wall_ms);
                        message.state = State::Publishing;
                        message.ending = Ending::Routed;
                        let to = &policy.on_exhausted;
                        let spent = route::Spent { error, attempts_max, children: message.children };
                        let head = route::recovered(&message.head, actor, spent, to, stamp);
                        let to = Address { message: id, purpose: Purpose::Recovery, queue, delay: None };
                        self.send_original_to(to, &head, now, store, fx);
                    }
                }
            }
        }
    }

    /// A call's time was up. `error` is what the handler raised as it was cancelled; `None` = its worker was killed.
    pub(super) fn out_of_time(
        &mut self,
        id: MessageId,
        error: Option<ErrorInfo>,
        now: Now,
        store: &mut dyn Store,
        fx: &mut Effects,
    ) {
        let Some(message) = self.flight.messages.get(id) else { return };
        if message.deadline.is_some_and(|deadline| deadline <= now.mono) {
            return self.expire(id, "while its handler ran", now, store, fx);
        }
        let end = if error.is_some() { "was cancelled" } else { "its worker was killed" };
        let text = format!("the handler ran longer than {:?} and {end}", self.settings.timeout);
        let error = match error {
            // What a cancelled task raises says nothing of why, and rules are about timeouts.
            Some(error) if !is_cancellation(&error) => error,
            error => ErrorInfo {
                mro: vec!["OSError".into(), "Exception".into()],
                traceback: error.and_then(|error| error.traceback),
                ..plain("TimeoutError", text)
            },
        };
        self.retry_or_fail(id, reason::TIMEOUT, error, None, self.settings.timeout, now, store, fx);
    }

    /// A message that waits for another attempt, in the broker or, if it is due soon, here.
    pub(super) fn wait_for(
        &mut self,
        id: MessageId,
        delay: Duration,
        now: Now,
        store: &mut dyn Store,
        fx: &mut Effects,
    ) {
        if delay < SOON {
            self.postponed.insert((now.mono.after(delay), id));
            return;
        }
        let Some(message) = self.flight.messages.get_mut(id) else { return };
        message.state = State::Publishing;
        message.ending = Ending::Delayed;
        let head = message.head.clone();
        self.send_later(id, &head, delay, now, store, fx);
    }

    fn send_later(
        &mut self,
        id: MessageId,
        head: &Head,
        delay: Duration,
        now: Now,
        store: &mut dyn Store,
        fx: &mut Effects,
    ) {
        // What is due soon waits where it is received: no broker keeps time so finely.
        let delay = (delay >= SOON).then(|| self.settings.delays.step(delay));
        let queue = Rc::clone(&self.settings.queue);
        let to = Address { message: id, purpose: Purpose::Again, queue, delay };
        self.send_original_to(to, head, now, store, fx);
    }

    /// The deadline of a message that is taken in. An end actor takes what is late, too.
    pub(super) fn deadline_of(&self, head: &Head, now: Now, fx: &mut Effects) -> Option<Time> {
        match route::deadline_ms(head)? {
            _ if self.settings.role == Role::End => None,
            Ok(deadline_ms) => Some(now.mono.after(Duration::from_millis(deadline_ms.saturating_sub(now.wall_ms)))),
            Err(text) => {
                fx.push(Effect::Report(Report::BadDeadline { id: head.id.clone(), text: text.to_owned() }));
                None
            }
        }
    }

    /// Looks again at the deadlines of what waits: some of it ran when they passed, and has come back since.
    pub(super) fn watch_deadlines(&mut self) {
        let waiting = self.flight.messages.iter().filter(|(_, message)| message.state == State::Waiting);
        self.deadlines.extend(waiting.filter_map(|(id, message)| Some((message.deadline?, id))));
    }

    /// Fails what has waited past its deadline.
    pub(super) fn expire_waiting(&mut self, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        // Deadlines of what is gone are swept out once they are the greater part: a day is a long time to keep them.
        if self.deadlines.len() > 2 * self.flight.messages.len() + FEW {
            self.deadlines.retain(|&(_, id)| self.flight.messages.get(id).is_some());
        }
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now.mono
        {
            self.deadlines.pop_first();
            let waits = self.flight.messages.get(id).is_some_and(|message| message.state == State::Waiting);
            if waits {
                self.handoff.forget(id);
                self.postponed.retain(|&(_, postponed)| postponed != id);
                self.expire(id, "before its handler ran", now, store, fx);
            }
        }
    }

    fn expire(&mut self, id: MessageId, when: &str, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        let Some(message) = self.flight.messages.get(id) else { return };
        let status = message.head.status.as_ref();
        let deadline = status.and_then(|status| status.deadline_at.as_deref()).unwrap_or_default();
        let error = plain("asya.DeadlineExceeded", format!("its deadline, {deadline}, passed {when}"));
        self.fail(id, reason::DEADLINE_EXCEEDED, error, now, store, fx);
    }

    /// Extends leases that are due. What cannot be held any longer goes back if it has not begun; what runs, runs on, and the
    /// broker delivers it to somebody else.
    pub(super) fn extend_leases(&mut self, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        let Some(lease) = self.settings.lease else { return };
        for id in self.leases.tick(lease, &self.flight, fx, now.mono) {
            let members = || self.flight.messages.iter().filter(move |(_, message)| message.delivery == id);
            if let Some((_, message)) = members().next() {
                fx.push(Effect::Report(Report::LeaseEnded { id: message.head.id.clone() }));
            }
            let waiting: Vec<MessageId> =
                members().filter(|(_, message)| message.state == State::Waiting).map(|(id, _)| id).collect();
            let single = self.flight.deliveries.get(id).is_some_and(|delivery| delivery.members == 1);
            if single && let [message] = waiting[..] {
                self.handoff.forget(message);
                self.postponed.retain(|&(_, postponed)| postponed != message);
                self.give_back(message, now, store, fx);
            } else {
                self.lose(id, fx);
            }
        }
    }

    /// A tag is void though its connection lives: if its delivery is still here, the broker has it again.
    pub(super) fn lose_lease(&mut self, tag: Tag, fx: &mut Effects) {
        let held = self.flight.deliveries.iter().find(|(_, delivery)| delivery.tag == Some(tag)).map(|(id, _)| id);
        if let Some(id) = held {
            self.lose(id, fx);
        }
    }

    fn lose(&mut self, id: DeliveryId, fx: &mut Effects) {
        fx.observe(Observation::LeaseLost);
        if let Some(delivery) = self.flight.deliveries.get_mut(id) {
            delivery.tag = None;
        }
        self.keep_orphans(fx);
    }
}
