//! Retry policies and the rules that choose among them, as the manifest's `resiliency` writes them.
//!
//! Takes JSON, gives typed values or what is wrong. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::value;

/// Policies by name.
pub type Policies = BTreeMap<String, Policy>;

/// The name of the policy that holds where no rule matches.
pub const DEFAULT_POLICY: &str = "default";

/// When a failed message is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Attempts in all, the first included.
    pub attempts_max: u32,
    /// How delays grow.
    pub backoff: Backoff,
    /// The first delay.
    pub initial_delay: Duration,
    /// No delay is longer.
    pub interval_max: Duration,
    /// No attempt begins later than this after the first; `None` = no such bound.
    pub duration_max: Option<Duration>,
    /// Whether delays are spread at random.
    pub jitter: bool,
    /// Where the message goes, in order, once its attempts are used up; empty = to the sump.
    pub on_exhausted: Vec<String>,
}

/// How the delays of a policy grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// Always the same.
    Constant,
    /// n times the first.
    Linear,
    /// Doubled each time.
    Exponential,
}

/// Which errors fall under which policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Names of error types, of the error itself or of an ancestor; a bare name also matches a qualified one.
    pub errors: Vec<String>,
    /// Name of the policy.
    pub policy: String,
}

/// Policies and rules that agree with each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resiliency {
    policies: Policies,
    rules: Vec<Rule>,
}

impl Resiliency {
    /// Joins policies and rules; a rule that names a policy that is not there is the caller's to have reported.
    pub(super) fn new(policies: Policies, rules: Vec<Rule>) -> Self {
        Self { policies, rules }
    }

    /// The policy for an error of type `error_type` with the ancestors `mro`; `None` = it is not tried again.
    pub fn policy_for(&self, error_type: &str, mro: &[String]) -> Option<&Policy> {
        let types = || std::iter::once(error_type).chain(mro.iter().map(String::as_str));
        let rule = self.rules.iter().find(|rule| rule.errors.iter().any(|named| types().any(|t| is_named(t, named))));
        self.policies.get(rule.map_or(DEFAULT_POLICY, |rule| rule.policy.as_str()))
    }

    /// Whether nothing is ever tried again.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }
}

fn is_named(error_type: &str, named: &str) -> bool {
    error_type == named || (!named.contains('.') && error_type.rsplit('.').next() == Some(named))
}

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
