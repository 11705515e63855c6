//! Fills, watches and empties the queues that a measured process stands between.
//!
//! Takes messages and queue names. Blocks on the broker. Every failure ends the benchmark.

mod rabbitmq;

pub use rabbitmq::RabbitMq;

use crate::Error;
use crate::message::Kind;

/// Counts what arrives, each message once.
pub struct Tally {
    seen: Vec<bool>,
    arrived: u64,
    again: u64,
}

impl Tally {
    /// For messages 0 to `sent` − 1.
    pub fn new(sent: u64) -> Self {
        Self { seen: vec![false; sent as usize], arrived: 0, again: 0 }
    }

    /// Checks one body and counts it.
    pub fn take(&mut self, kind: Kind, body: &[u8], added: u64) -> Result<(), Error> {
        let number = kind.check(body, added)?;
        match self.seen.get_mut(number as usize) {
            Some(seen) if !*seen => {
                *seen = true;
                self.arrived += 1;
            }
            Some(_) => self.again += 1,
            None => return Err(Error::Wrong { id: format!("m-{number}"), why: "it was never sent".to_owned() }),
        }
        Ok(())
    }

    /// Whether every message has arrived.
    pub fn complete(&self) -> bool {
        self.arrived == self.seen.len() as u64
    }

    /// An error unless every message has arrived exactly once.
    pub fn verdict(&self) -> Result<(), Error> {
        if self.complete() && self.again == 0 {
            return Ok(());
        }
        Err(Error::Count { sent: self.seen.len() as u64, arrived: self.arrived, again: self.again })
    }
}
