//! Waits that grow.
//!
//! Takes a first and a longest wait; gives the next one, or the advice to give up. Blocks on nothing.

use std::time::Duration;

/// Waits between tries: doubling, bounded in length and number.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    tries: u32,
}

/// Tries without one success before giving up: with waits of two seconds, about ten minutes.
const TRIES_MAX: u32 = 300;

impl Backoff {
    /// A fresh one.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, tries: 0 }
    }

    /// How long to wait now; `None` when it is time to give up.
    pub fn next(&mut self) -> Option<Duration> {
        if self.tries >= TRIES_MAX {
            return None;
        }
        // Sixteen doublings pass any longest wait that anybody gives.
        let wait = self.first.saturating_mul(1 << self.tries.min(16)).min(self.longest);
        self.tries += 1;
        Some(wait)
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_end() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let waits: Vec<u128> = backoff_waits(&mut backoff, 4);
        assert_eq!(waits, [100, 200, 350, 350]);
        backoff.reset();
        assert_eq!(backoff_waits(&mut backoff, 1), [100]);
        while backoff.next().is_some() {}
        assert_eq!(backoff.tries, TRIES_MAX);
    }

    fn backoff_waits(backoff: &mut Backoff, n: usize) -> Vec<u128> {
        (0..n).map(|_| backoff.next().unwrap().as_millis()).collect()
    }
}
