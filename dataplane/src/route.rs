//! Route: where a result goes, and under which head.
//!
//! Takes the head of a message and what became of it, gives the head to publish. Pure: it neither blocks nor fails,
//! but for a handler that set a route or headers of the wrong shape, which is that message's error.

use asya_envelope::{ErrorInfo, Head, Headers, Phase, Status, ids, names};
use serde::Deserialize;

use crate::flow::reason;

/// A head to publish and the actor that it is for; no actor = the route has ended.
#[derive(Debug)]
pub struct Onward {
    /// The head.
    pub head: Head,
    /// The next actor's name.
    pub to: Option<String>,
}

/// What a handler may change, as RING.md section 5 has it.
#[derive(Debug, Default, Deserialize)]
struct Meta<'a> {
    next: Option<Vec<String>>,
    #[serde(borrow)]
    headers: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow)]
    status: Option<&'a serde_json::value::RawValue>,
}

/// A handler set something that is no route, headers or status.
#[derive(Debug, thiserror::Error)]
#[error("the handler set a malformed {what}: {why}")]
pub struct MetaError {
    what: &'static str,
    why: String,
}

impl MetaError {
    /// As the error of a message.
    pub fn into_info(self) -> ErrorInfo {
        ErrorInfo {
            message: self.to_string(),
            error_type: "asya.ProtocolError".into(),
            mro: vec!["Exception".into()],
            traceback: None,
        }
    }
}

/// The head of the result with this index.
pub fn onward(head: &Head, meta: &[u8], index: u32, stamp: &str) -> Result<Onward, MetaError> {
    let mut next = Head {
        id: ids::child_id(&head.id, head.route.hop(), index),
        parent_id: if index == 0 { head.parent_id.clone() } else { Some(head.id.clone()) },
        namespace: head.namespace.clone(),
        route: head.route.shifted(),
        shape: head.shape,
        headers: head.headers.clone(),
        status: None,
        extensions: head.extensions.clone(),
    };
    let mut status = head.status.clone();
    if !meta.is_empty() {
        let meta: Meta<'_> =
            serde_json::from_slice(meta).map_err(|e| MetaError { what: "message", why: e.to_string() })?;
        if let Some(mut names) = meta.next {
            next.route.curr = if names.is_empty() { String::new() } else { names.remove(0) };
            next.route.next = names;
        }
        if let Some(headers) = meta.headers {
            next.headers =
                Headers::from_json(headers.get()).map_err(|e| MetaError { what: "headers", why: e.to_string() })?;
        }
        if let Some(raw) = meta.status {
            status = Some(
                asya_envelope::parse_status(raw.get()).map_err(|e| MetaError { what: "status", why: e.to_string() })?,
            );
        }
    }
    if is_retry(head) {
        forget_attempts(&mut next.headers);
    }
    let to = (!next.route.curr.is_empty()).then(|| next.route.curr.clone());
    let (phase, why, actor) = match &to {
        Some(actor) => (Phase::Pending, None, actor.clone()),
        None => (Phase::Succeeded, Some(reason::COMPLETED), names::SINK.to_owned()),
    };
    // The attempts that one actor's policy gives are no other's.
    next.status = Some(Status { max_attempts: 0, ..stamped(status, phase, why, actor, stamp) });
    Ok(Onward { head: next, to })
}

/// The head of a message that its handler ended without a result: for the success sink, its route as it was.
pub fn ended(head: &Head, stamp: &str) -> Head {
    let mut head = without_attempts(head);
    let actor = head.route.curr.clone();
    head.status = Some(stamped(head.status.take(), Phase::Succeeded, Some(reason::COMPLETED), actor, stamp));
    head
}

/// The head of a message that failed here: for the failure sink, headers and route as they were.
pub fn failed(head: &Head, actor: &str, why: &'static str, error: ErrorInfo, stamp: &str) -> Head {
    let mut head = without_attempts(head);
    let attempt = attempt(&head, actor);
    let mut status = stamped(head.status.take(), Phase::Failed, Some(why), actor.to_owned(), stamp);
    status.attempt = attempt;
    status.error = Some(error);
    head.status = Some(status);
    head
}

/// The head of a message that is to run here again, with one more charge: it has killed its worker so many times.
pub fn charged(head: &Head, actor: &str, crashes: u32, stamp: &str) -> Head {
    let mut head = returned(head, actor, Some(reason::WORKER_CRASHED), 1, stamp);
    set_number(&mut head.headers, names::HEADER_CRASHES, crashes);
    head
}

/// When a message that has failed runs again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// When its first attempt began, in milliseconds since the Unix epoch.
    pub first_ms: u64,
    /// When the next one is due, likewise.
    pub due_ms: u64,
    /// Attempts that its policy gives it.
    pub attempts_max: u32,
}

/// The head of a message whose handler failed and that is to run here again.
pub fn retried(head: &Head, actor: &str, why: &'static str, retry: Retry, stamp: &str) -> Head {
    let mut head = returned(head, actor, Some(why), 1, stamp);
    if let Some(status) = &mut head.status {
        status.max_attempts = retry.attempts_max;
    }
    head.headers.set_str(names::HEADER_FIRST_ATTEMPT, &crate::stamp::precise(retry.first_ms));
    head.headers.set_str(names::HEADER_NOT_BEFORE, &crate::stamp::precise(retry.due_ms));
    head
}

/// What a message has behind it that has used up its attempts.
#[derive(Debug)]
pub struct Spent {
    /// The last error.
    pub error: ErrorInfo,
    /// Attempts that its policy gave it.
    pub attempts_max: u32,
    /// Results that the last attempt gave before it failed.
    pub children: u32,
}

/// The head of a message that failed here for good and goes on to these actors, the first of them now. It is one more
/// successor of the message, after the results that it has given: with none, it keeps the id.
pub fn recovered(head: &Head, actor: &str, spent: Spent, to: &[String], stamp: &str) -> Head {
    let mut next = failed(head, actor, reason::POLICY_ROUTED, spent.error, stamp);
    if let Some(status) = &mut next.status {
        status.max_attempts = spent.attempts_max;
    }
    if spent.children > 0 {
        next.id = ids::child_id(&head.id, head.route.hop(), spent.children);
        next.parent_id = Some(head.id.clone());
    }
    let here = std::mem::take(&mut next.route.curr);
    next.route.prev.push(here);
    let mut to = to.iter().cloned();
    next.route.curr = to.next().unwrap_or_default();
    next.route.next = to.collect();
    next
}

/// When a message's first attempt at its actor began, in milliseconds since the Unix epoch, if it is not on its first.
pub fn first_attempt_ms(head: &Head) -> Option<u64> {
    let again = is_retry(head).then(|| head.headers.get_str(names::HEADER_FIRST_ATTEMPT))?;
    crate::stamp::parse(&again?)
}

/// From when on a message is of no use any more, in milliseconds since the Unix epoch; or the text that stands there and is
/// no time stamp.
pub fn deadline_ms(head: &Head) -> Option<Result<u64, &str>> {
    let text = head.status.as_ref()?.deadline_at.as_deref()?;
    Some(crate::stamp::parse(text).ok_or(text))
}

/// Whether a head says that it is here for another attempt.
pub fn is_retry(head: &Head) -> bool {
    head.status.as_ref().is_some_and(|status| status.phase == Phase::Retrying)
}

/// What a head says of its attempts at this actor is of no use anywhere else.
fn without_attempts(head: &Head) -> Head {
    let mut head = head.clone();
    if is_retry(&head) {
        forget_attempts(&mut head.headers);
    }
    head
}

fn forget_attempts(headers: &mut Headers) {
    for name in [names::HEADER_FIRST_ATTEMPT, names::HEADER_NOT_BEFORE, names::HEADER_CRASHES] {
        headers.remove(name);
    }
}

fn set_number(headers: &mut Headers, name: &str, number: u32) {
    // A number is JSON, so that this cannot fail.
    headers.set(name, &number.to_string()).ok();
}

/// The head of a message that is to run here again, uncharged; under suspicion, alone.
pub fn back(head: &Head, actor: &str, suspected: bool, stamp: &str) -> Head {
    returned(head, actor, suspected.then_some(reason::SUSPECTED), 0, stamp)
}

fn returned(head: &Head, actor: &str, why: Option<&'static str>, charges: u32, stamp: &str) -> Head {
    let mut head = head.clone();
    let attempt = attempt(&head, actor).saturating_add(charges);
    let mut status = stamped(head.status.take(), Phase::Retrying, why, actor.to_owned(), stamp);
    status.attempt = attempt;
    head.status = Some(status);
    head
}

/// The status of a message that came without one: its sender has left it to the first actor.
pub fn first_seen(actor: &str, stamp: &str) -> Status {
    stamped(None, Phase::Pending, None, actor.to_owned(), stamp)
}

/// Which attempt at this actor a message is on, from 1. A status that another actor wrote, or
/// that does not say that it is to be tried again, says nothing about it: what failed and is sent again begins anew.
pub fn attempt(head: &Head, actor: &str) -> u32 {
    let again = |status: &&Status| status.actor == actor && status.phase == Phase::Retrying;
    head.status.as_ref().filter(again).map_or(1, |status| status.attempt.max(1))
}

fn stamped(old: Option<Status>, phase: Phase, why: Option<&str>, actor: String, stamp: &str) -> Status {
    let (created_at, deadline_at, max_attempts) = match old {
        Some(old) => (old.created_at, old.deadline_at, old.max_attempts),
        None => (stamp.to_owned(), None, 0),
    };
    Status {
        phase,
        reason: why.map(str::to_owned),
        actor,
        attempt: 1,
        max_attempts,
        created_at,
        updated_at: stamp.to_owned(),
        deadline_at,
        error: None,
    }
}
