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
    let to = (!next.route.curr.is_empty()).then(|| next.route.curr.clone());
    let (phase, why, actor) = match &to {
        Some(actor) => (Phase::Pending, None, actor.clone()),
        None => (Phase::Succeeded, Some(reason::COMPLETED), names::SINK.to_owned()),
    };
    next.status = Some(stamped(status, phase, why, actor, stamp));
    Ok(Onward { head: next, to })
}

/// The head of a message that its handler ended without a result: for the success sink, its route as it was.
pub fn ended(head: &Head, stamp: &str) -> Head {
    let mut head = head.clone();
    let actor = head.route.curr.clone();
    head.status = Some(stamped(head.status.take(), Phase::Succeeded, Some(reason::COMPLETED), actor, stamp));
    head
}

/// The head of a message that failed here: for the failure sink, headers and route as they were.
pub fn failed(head: &Head, actor: &str, why: &'static str, error: ErrorInfo, stamp: &str) -> Head {
    let mut head = head.clone();
    let attempt = attempt(&head, actor);
    let mut status = stamped(head.status.take(), Phase::Failed, Some(why), actor.to_owned(), stamp);
    status.attempt = attempt;
    status.error = Some(error);
    head.status = Some(status);
    head
}

/// The head of a message that is to run here again, with one more charge.
pub fn again(head: &Head, actor: &str, why: &'static str, stamp: &str) -> Head {
    returned(head, actor, Some(why), 1, stamp)
}

/// The head of a message that is to run here again, uncharged; under suspicion, alone.
pub fn back(head: &Head, actor: &str, suspected: bool, stamp: &str) -> Head {
    returned(head, actor, suspected.then_some(reason::SUSPECTED), 0, stamp)
}

fn returned(head: &Head, actor: &str, why: Option<&'static str>, charges: u32, stamp: &str) -> Head {
    let mut head = head.clone();
    let attempt = attempt(&head, actor) + charges;
    let mut status = stamped(head.status.take(), Phase::Retrying, why, actor.to_owned(), stamp);
    status.attempt = attempt;
    head.status = Some(status);
    head
}

/// The status of a message that came without one: its sender has left it to the first actor.
pub fn first_seen(actor: &str, stamp: &str) -> Status {
    stamped(None, Phase::Pending, None, actor.to_owned(), stamp)
}

/// Which attempt at this actor a message is on, from 1. A status that another actor wrote says nothing about it.
fn attempt(head: &Head, actor: &str) -> u32 {
    head.status.as_ref().filter(|s| s.actor == actor).map_or(1, |s| s.attempt.max(1))
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
