//! When to try again.
//!
//! Takes successes and failures with their time; gives the time of the next attempt. Never blocks.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// The first wait: long enough not to be a storm, short enough not to be noticed.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait: a broker that is back is used again within this time.
const LONGEST: Duration = Duration::from_secs(30);
/// What lasted this long counts as a success; what broke sooner goes on where the waits had got to.
const LASTED: Duration = Duration::from_secs(10);

/// Exponential, from 100 ms to 30 s, each wait cut by up to half at random so that clients of one broker spread out.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    since: Option<Instant>,
    random: RandomState,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { failures: 0, since: None, random: RandomState::new() }
    }

    /// It works, from `now` or longer.
    pub(crate) fn works(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// It failed at `now`: when to try again.
    pub(crate) fn failed(&mut self, now: Instant) -> Instant {
        if self.since.take().is_some_and(|since| now.duration_since(since) >= LASTED) {
            self.failures = 0;
        }
        let whole = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let cut = self.random.hash_one(self.failures) % 512;
        now + whole.mul_f64(1.0 - cut as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_no_further() {
        let mut backoff = Backoff::new();
        let now = Instant::now();
        let mut last = Duration::ZERO;
        for attempt in 0..40 {
            let wait = backoff.failed(now) - now;
            assert!(wait >= FIRST / 2 && wait <= LONGEST, "attempt {attempt} waits {wait:?}");
            last = wait;
        }
        assert!(last >= LONGEST / 2);
    }

    #[test]
    fn only_what_lasted_starts_over() {
        let mut backoff = Backoff::new();
        let now = Instant::now();
        for _ in 0..10 {
            backoff.failed(now);
        }
        backoff.works(now);
        assert!(backoff.failed(now + LASTED / 2) - (now + LASTED / 2) >= LONGEST / 2);
        backoff.works(now);
        assert!(backoff.failed(now + LASTED) - (now + LASTED) <= FIRST);
    }
}
