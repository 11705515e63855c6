//! A failure, for people and for scripts.
//!
//! Takes what a failed message says of itself; gives it as a row, a line, JSON, or in whole. Blocks on nothing; cannot fail.

use crate::message::Received;
use asya_envelope::{ErrorInfo, Head, Phase};

/// The reason of what the broker itself gave up: it writes none.
pub const DEAD_LETTERED: &str = "DeadLettered";

/// What can be told of a failed message without its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Its id; empty where its body had none to tell.
    pub id: String,
    /// Where it failed.
    pub actor: String,
    /// Why, in one word.
    pub reason: String,
    /// At which attempt, where it says so.
    pub attempt: Option<u32>,
    /// What went wrong, where somebody wrote that down.
    pub error: Option<ErrorInfo>,
    /// When, RFC 3339.
    pub at: Option<String>,
}

impl Failure {
    /// Of a message in the failure sink.
    pub fn of(head: &Head) -> Self {
        let Some(status) = &head.status else {
            return Self { id: head.id.clone(), actor: head.route.curr.clone(), ..Self::default() };
        };
        Self {
            id: head.id.clone(),
            actor: status.actor.clone(),
            reason: status.reason.clone().unwrap_or_default(),
            attempt: Some(status.attempt),
            error: status.error.clone(),
            at: Some(status.updated_at.clone()),
        }
    }

    /// Of a message of this actor that the broker gave up.
    pub fn dead_letter(actor: &str, head: &Head) -> Self {
        let attempt = head.status.as_ref().filter(|status| status.actor == actor).map(|status| status.attempt);
        let (actor, reason) = (actor.to_owned(), DEAD_LETTERED.to_owned());
        Self { id: head.id.clone(), actor, reason, attempt, error: None, at: None }
    }

    /// Of a body that says nothing.
    pub fn unreadable(actor: &str, reason: &str, why: String) -> Self {
        let error = ErrorInfo { message: why, error_type: "unreadable".to_owned(), ..ErrorInfo::default() };
        Self { actor: actor.to_owned(), reason: reason.to_owned(), error: Some(error), ..Self::default() }
    }

    /// The id, or what stands for none.
    pub fn shown_id(&self) -> &str {
        if self.id.is_empty() { "-" } else { &self.id }
    }

    /// Id, actor, reason, attempt, error, message.
    pub fn row(&self) -> [String; 6] {
        let [id, actor, attempt, ..] = self.short_row();
        let error = self.error.as_ref();
        let error_type = error.map_or("-", |error| &error.error_type).to_owned();
        [id, actor, self.reason.clone(), attempt, error_type, first_line(error.map_or("", |error| &error.message))]
    }

    /// Id, actor, attempt, error or else the reason, message.
    pub fn short_row(&self) -> [String; 5] {
        let error = self.error.as_ref();
        [
            self.shown_id().to_owned(),
            if self.actor.is_empty() { "-".to_owned() } else { self.actor.clone() },
            self.attempt.map_or_else(|| "-".to_owned(), |attempt| attempt.to_string()),
            error.map_or(&self.reason, |error| &error.error_type).clone(),
            first_line(error.map_or("", |error| &error.message)),
        ]
    }

    /// For scripts.
    pub fn json(&self, queue: &str) -> serde_json::Value {
        let error = self.error.as_ref();
        serde_json::json!({
            "id": self.id, "actor": self.actor, "reason": self.reason, "attempt": self.attempt, "at": self.at,
            "error": error.map(|error| &error.error_type), "message": error.map(|error| &error.message), "queue": queue,
        })
    }
}

/// Bounded, so that a table stays one.
fn first_line(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() > CHARS_MAX {
        format!("{}…", line.chars().take(CHARS_MAX - 1).collect::<String>())
    } else {
        line.to_owned()
    }
}

/// One failure in one line.
pub fn one_line(head: &Head) -> String {
    let [id, actor, _, error, text] = Failure::of(head).short_row();
    format!("{id} failed at {actor}: {error}: {text}")
}

/// One failure with everything that is known of it.
pub fn whole(message: &Received) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<9} {value}\n"));
    let head = &message.head;
    line("id", &head.id);
    if let Some(parent) = &head.parent_id {
        line("parent", parent);
    }
    let mut route = head.route.prev.clone();
    route.push(head.route.curr.clone());
    route.extend(head.route.next.iter().cloned());
    line("route", &route.join(" → "));
    if let Some(status) = &head.status {
        line("actor", &status.actor);
        let phase = if status.phase == Phase::Failed { "" } else { status.phase.as_str() };
        line("reason", format!("{} {phase}", status.reason.as_deref().unwrap_or_default()).trim());
        line("attempt", &format!("{} of {}", status.attempt, status.max_attempts.max(status.attempt)));
        line("at", &status.updated_at);
        if let Some(error) = &status.error {
            line("error", &format!("{}: {}", error.error_type, error.message));
        }
    }
    if !head.headers.is_empty() {
        line("headers", head.headers.as_json());
    }
    line("payload", &message.document);
    if !message.blobs.is_empty() {
        let sizes: Vec<String> = message.blobs.iter().map(|len| format!("{len} bytes")).collect();
        line("binary", &sizes.join(", "));
    }
    if let Some(traceback) = head.status.as_ref().and_then(|s| s.error.as_ref()).and_then(|e| e.traceback.as_ref()) {
        text.push('\n');
        text.push_str(traceback.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use asya_envelope::{Route, Status};

    fn message() -> Received {
        let error = ErrorInfo {
            message: "no field 'x'\nsecond line".into(),
            error_type: "KeyError".into(),
            mro: vec![],
            traceback: Some("Traceback (most recent call last):\n  File \"h.py\"\nKeyError: 'x'\n".into()),
        };
        let status = Status {
            phase: Phase::Failed,
            reason: Some("RuntimeError".into()),
            actor: "work".into(),
            attempt: 2,
            max_attempts: 3,
            created_at: "2026-01-01T00:00:00Z".into(),
            updated_at: "2026-01-01T00:00:01Z".into(),
            deadline_at: None,
            error: Some(error),
        };
        let route = Route { prev: vec!["first".into()], curr: "work".into(), next: vec!["last".into()] };
        let head = Head { status: Some(status), ..Head::new("id-1", route) };
        Received { head, document: "{\"a\":1}".into(), blobs: vec![64], envelope: String::new() }
    }

    #[test]
    fn a_failure_in_one_line_and_in_whole() {
        assert_eq!(one_line(&message().head), "id-1 failed at work: KeyError: no field 'x'");
        assert_eq!(
            whole(&message()),
            "id        id-1\nroute     first → work → last\nactor     work\nreason    RuntimeError\nattempt   2 of 3\n\
             at        2026-01-01T00:00:01Z\nerror     KeyError: no field 'x'\nsecond line\npayload   {\"a\":1}\n\
             binary    64 bytes\n\nTraceback (most recent call last):\n  File \"h.py\"\nKeyError: 'x'\n"
        );
    }
}
