//! How many deliveries to hold: enough that the next batch is always here, never more than a few handler-times of work.
//!
//! By Little's law the window is rate × time in the system. The rate is what the workers can do (slots ÷ handler time);
//! the time is `HOLD` of waiting plus what publishes take to be confirmed. The window moves in powers of two, because
//! on RabbitMQ a change means consuming anew, and only after the wish has stood for `SETTLE`.

use std::time::Duration;

use crate::flow::Time;

/// Work to hold beyond what is running: covers the broker's round trip on a busy machine.
const HOLD: Duration = Duration::from_millis(20);

/// A wish for another window must stand so long before it is followed.
const SETTLE: Duration = Duration::from_millis(100);

/// The window of one consumer.
#[derive(Debug)]
pub struct Window {
    current: u32,
    max: u32,
    wish: Option<(u32, Time)>,
    confirm_ns: f64,
}

impl Window {
    /// Starts at one batch per worker, as long as nothing is known of the handler.
    pub fn new(max: u32) -> Self {
        Self { current: 1, max: max.max(1), wish: None, confirm_ns: 0.0 }
    }

    /// Deliveries to hold now.
    pub fn current(&self) -> u32 {
        self.current
    }

    /// A publish took so long to be confirmed.
    pub fn confirmed(&mut self, took: Duration) {
        self.confirm_ns += (took.as_nanos() as f64 - self.confirm_ns) / 16.0;
    }

    /// Starts (again) with what `width` calls can run at once; gives the window.
    pub fn start(&mut self, width: u32) -> u32 {
        self.current = self.current.max(width.next_power_of_two()).min(self.max);
        self.wish = None;
        self.current
    }

    /// Looks again; gives the new window when it has changed.
    ///
    /// `width` = messages that all workers together run at once; `per_message` = handler time of one.
    pub fn adapt(&mut self, now: Time, width: u32, per_message: Option<Duration>) -> Option<u32> {
        let needed = self.needed(width, per_message);
        // Shrinking waits for a factor of four, so that a noisy handler does not make the window swing.
        let change = needed > self.current || needed * 4 <= self.current;
        if !change {
            self.wish = None;
            return None;
        }
        match self.wish {
            Some((_, since)) if now.since(since) >= SETTLE => {
                self.wish = None;
                self.current = needed;
                Some(needed)
            }
            Some((wish, _)) if (wish > self.current) == (needed > self.current) => None,
            _ => {
                self.wish = Some((needed, now));
                None
            }
        }
    }

    fn needed(&self, width: u32, per_message: Option<Duration>) -> u32 {
        let floor = width.max(1);
        let Some(per_message) = per_message else {
            return floor.next_power_of_two().min(self.max);
        };
        let handler_ns = per_message.as_nanos().max(1) as f64;
        let hold_ns = HOLD.as_nanos() as f64 + self.confirm_ns;
        // One batch running and one waiting, whatever the handler's speed.
        let needed = f64::from(floor) * (hold_ns / handler_ns + 2.0);
        let needed = needed.min(f64::from(self.max)) as u32;
        needed.next_power_of_two().min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(window: &mut Window, per_message: Duration) -> u32 {
        let mut now = Time(0);
        for _ in 0..100 {
            now = now.after(SETTLE);
            window.adapt(now, 1, Some(per_message));
        }
        window.current()
    }

    #[test]
    fn a_slow_handler_is_given_one_call_and_the_next() {
        let mut window = Window::new(1024);
        assert_eq!(window.start(1), 1);
        assert_eq!(settled(&mut window, Duration::from_secs(10)), 2);
    }

    #[test]
    fn a_fast_handler_is_given_the_most() {
        let mut window = Window::new(1024);
        window.start(1);
        assert_eq!(settled(&mut window, Duration::from_micros(8)), 1024);
    }

    #[test]
    fn the_window_shrinks_when_the_handler_becomes_slow() {
        let mut window = Window::new(1024);
        window.start(1);
        settled(&mut window, Duration::from_micros(8));
        assert_eq!(settled(&mut window, Duration::from_secs(1)), 2);
    }

    #[test]
    fn noise_within_a_factor_of_two_changes_nothing() {
        let mut window = Window::new(1024);
        window.start(1);
        let there = settled(&mut window, Duration::from_millis(5));
        assert_eq!(settled(&mut window, Duration::from_millis(9)), there);
        assert_eq!(settled(&mut window, Duration::from_millis(5)), there);
    }
}
