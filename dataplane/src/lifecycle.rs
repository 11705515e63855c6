//! Whether the actor consumes, pauses or drains.
//!
//! Takes what bears on it (a worker is ready, none has been for too long, the order to drain, the broker's word that
//! consuming has stopped), gives the step to take. Pure.

use crate::flow::Time;

/// Where the actor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not consuming: no worker is ready.
    Idle,
    /// Consuming.
    Consuming,
    /// Asked the broker to stop, for want of a worker.
    Pausing,
    /// Asked the broker to stop, for good.
    Stopping {
        /// By then everything is handed back.
        deadline: Time,
    },
    /// The broker has stopped; what is left finishes.
    Draining {
        /// By then everything is handed back.
        deadline: Time,
    },
    /// Nothing is left.
    Drained,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start consuming.
    Consume,
    /// Stop consuming.
    Cancel,
    /// Hand back what has not begun.
    HandBack,
}

impl Phase {
    /// A worker is ready.
    pub fn worker_ready(&mut self) -> Option<Step> {
        if *self != Self::Idle {
            return None;
        }
        *self = Self::Consuming;
        Some(Step::Consume)
    }

    /// No worker has been ready for too long.
    pub fn not_ready(&mut self) -> Option<Step> {
        if *self != Self::Consuming {
            return None;
        }
        *self = Self::Pausing;
        Some(Step::Cancel)
    }

    /// The order to drain. A second one may bring the deadline forward.
    pub fn drain(&mut self, by: Time) -> Option<Step> {
        match self {
            Self::Stopping { deadline } | Self::Draining { deadline } => {
                *deadline = by.min(*deadline);
                None
            }
            Self::Drained => None,
            Self::Idle => {
                *self = Self::Draining { deadline: by };
                Some(Step::HandBack)
            }
            // Whether or not a cancel is on its way already, one more does no harm.
            Self::Consuming | Self::Pausing => {
                *self = Self::Stopping { deadline: by };
                Some(Step::Cancel)
            }
        }
    }

    /// The broker delivers no more: it said so, or its connection is lost.
    pub fn stopped(&mut self) -> Option<Step> {
        match *self {
            Self::Pausing => {
                *self = Self::Idle;
                Some(Step::HandBack)
            }
            Self::Stopping { deadline } => {
                *self = Self::Draining { deadline };
                Some(Step::HandBack)
            }
            _ => None,
        }
    }

    /// By when everything is handed back, if the actor drains.
    pub fn deadline(self) -> Option<Time> {
        match self {
            Self::Stopping { deadline } | Self::Draining { deadline } => Some(deadline),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_cancels_before_it_hands_back() {
        let mut phase = Phase::Idle;
        assert_eq!(phase.worker_ready(), Some(Step::Consume));
        assert_eq!(phase.drain(Time(9)), Some(Step::Cancel));
        assert_eq!(phase.drain(Time(5)), None);
        assert_eq!(phase.deadline(), Some(Time(5)));
        assert_eq!(phase.worker_ready(), None);
        assert_eq!(phase.stopped(), Some(Step::HandBack));
        assert_eq!(phase, Phase::Draining { deadline: Time(5) });
    }

    #[test]
    fn a_pause_ends_when_a_worker_is_back() {
        let mut phase = Phase::Consuming;
        assert_eq!(phase.not_ready(), Some(Step::Cancel));
        assert_eq!(phase.worker_ready(), None);
        assert_eq!(phase.stopped(), Some(Step::HandBack));
        assert_eq!(phase.worker_ready(), Some(Step::Consume));
    }
}
