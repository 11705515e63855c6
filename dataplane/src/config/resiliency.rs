//! Retry policies and the rules that choose among them, as the manifest's `resiliency` writes them.
//!
//! Takes JSON, gives typed values or what is wrong. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::value;
use crate::retry::{Backoff, Policies, Policy, Rule};

/// A policy as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PolicyText {
    #[serde(default = "attempts_default")]
    max_attempts: u32,
    #[serde(default = "backoff_default")]
    backoff: Backoff,
    initial_delay: Option<DurationText>,
    max_interval: Option<DurationText>,
    max_duration: Option<DurationText>,
    #[serde(default)]
    jitter: bool,
    #[serde(default, alias = "thenRoute")]
    on_exhausted: Vec<String>,
}

/// A length of time as it is written: text, or a number of seconds.
#[derive(Deserialize)]
#[serde(untagged)]
enum DurationText {
    Text(String),
    Seconds(f64),
}

const fn attempts_default() -> u32 {
    3
}

const fn backoff_default() -> Backoff {
    Backoff::Exponential
}

const INITIAL_DELAY_DEFAULT: Duration = Duration::from_secs(1);
const INTERVAL_MAX_DEFAULT: Duration = Duration::from_secs(300);

/// Reads policies.
pub(super) fn policies(text: &str) -> Result<Policies, String> {
    let written: BTreeMap<String, PolicyText> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    written.into_iter().map(|(name, text)| policy(&name, text).map(|policy| (name, policy))).collect()
}

fn policy(name: &str, text: PolicyText) -> Result<Policy, String> {
    if text.max_attempts == 0 {
        return Err(format!("{name}.maxAttempts is 0, but a message is always tried once"));
    }
    let duration = |field: &str, text: Option<DurationText>| {
        match text {
            None => Ok(None),
            Some(DurationText::Text(text)) => value::duration(&text).map(Some),
            Some(DurationText::Seconds(seconds)) => {
                Duration::try_from_secs_f64(seconds).map(Some).map_err(|e| e.to_string())
            }
        }
        .map_err(|problem| format!("{name}.{field}: {problem}"))
    };
    if let Some(actor) = text.on_exhausted.iter().find(|actor| value::label(actor).is_err()) {
        return Err(format!("{name}.onExhausted names {actor:?}, and no actor can have that name"));
    }
    Ok(Policy {
        attempts_max: text.max_attempts,
        backoff: text.backoff,
        initial_delay: duration("initialDelay", text.initial_delay)?.unwrap_or(INITIAL_DELAY_DEFAULT),
        interval_max: duration("maxInterval", text.max_interval)?.unwrap_or(INTERVAL_MAX_DEFAULT),
        duration_max: duration("maxDuration", text.max_duration)?,
        jitter: text.jitter,
        on_exhausted: text.on_exhausted,
    })
}

/// Reads rules.
pub(super) fn rules(text: &str) -> Result<Vec<Rule>, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}
