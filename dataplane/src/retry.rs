//! Retry: whether a message whose handler failed runs again, when, and where it goes when it does not.
//!
//! Takes the error and what the message says of its earlier attempts, gives a decision. Pure: time and chance come from the
//! caller (jitter is a function of the message and its attempt, so that a replay decides the same).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use asya_envelope::ErrorInfo;
use serde::Deserialize;

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

impl Policy {
    /// The pause after the attempt of this number, from 1, before chance spreads it.
    pub fn delay(&self, attempt: u32) -> Duration {
        let nth = attempt.max(1);
        let factor = match self.backoff {
            Backoff::Constant => 1,
            Backoff::Linear => nth,
            Backoff::Exponential => 1_u32.checked_shl(nth - 1).unwrap_or(u32::MAX),
        };
        self.initial_delay.saturating_mul(factor).min(self.interval_max)
    }
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
    pub fn new(policies: Policies, rules: Vec<Rule>) -> Self {
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

    /// What becomes of a message whose handler failed with this error.
    pub fn decide(&self, error: &ErrorInfo, past: &Past<'_>, retry_after: Option<Duration>) -> Decision<'_> {
        let Some(policy) = self.policy_for(&error.error_type, &error.mro) else { return Decision::Final };
        let delay = retry_after.unwrap_or_else(|| {
            let delay = policy.delay(past.attempt);
            if policy.jitter { spread(delay, past) } else { delay }
        });
        let begins = past.now_ms.saturating_add(millis(delay));
        let too_late = policy.duration_max.is_some_and(|max| begins > past.first_ms.saturating_add(millis(max)))
            || past.deadline_ms.is_some_and(|deadline| begins >= deadline);
        if past.attempt >= policy.attempts_max || too_late {
            Decision::Exhausted(policy)
        } else {
            Decision::Again { delay, policy }
        }
    }
}

/// What is known of a message's attempts at this actor. Times are milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// The message's id.
    pub id: &'a str,
    /// The attempt that has failed, from 1.
    pub attempt: u32,
    /// When the first one began.
    pub first_ms: u64,
    /// Now.
    pub now_ms: u64,
    /// When it is of no use any more.
    pub deadline_ms: Option<u64>,
}

/// What becomes of a message whose handler failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// No policy is for this error: it is final.
    Final,
    /// It runs again after this pause.
    Again {
        /// The pause.
        delay: Duration,
        /// By which policy.
        policy: &'a Policy,
    },
    /// It has had all the attempts, or all the time, that this policy gives.
    Exhausted(&'a Policy),
}

/// Whether a name of an error class, with its module or without, means this one.
pub fn is_named(error_type: &str, named: &str) -> bool {
    error_type == named || (!named.contains('.') && error_type.rsplit('.').next() == Some(named))
}

/// Spreads a pause evenly over [0.5, 1.5) of itself, so that what failed together does not come again together.
fn spread(delay: Duration, past: &Past<'_>) -> Duration {
    let mut hasher = DefaultHasher::new();
    (past.id, past.attempt, past.first_ms).hash(&mut hasher);
    let share = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
    delay.mul_f64(0.5 + share)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
