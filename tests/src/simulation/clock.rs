//! The simulated clock: nanoseconds that pass only when the run says so.

use std::cell::Cell;
use std::rc::Rc;

/// A handle on the clock.
#[derive(Clone, Debug, Default)]
pub struct Clock(Rc<Cell<u64>>);

impl Clock {
    /// Now, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.0.get()
    }

    /// Moves on; never back.
    pub fn advance_to(&self, to: u64) {
        self.0.set(self.0.get().max(to));
    }
}
