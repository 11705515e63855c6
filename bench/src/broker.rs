//! Fills, watches and empties the queues that a measured process stands between.
//!
//! Takes messages and queue names. Blocks on the broker. Every failure ends the benchmark.

mod embedded;
mod rabbitmq;
mod sqs;

pub use embedded::Embedded;
pub use rabbitmq::RabbitMq;
pub use sqs::Sqs;

use asya_envelope::Route;

use crate::Error;
use crate::message::Kind;

/// A connection to one of the brokers.
pub enum Broker {
    /// RabbitMQ.
    RabbitMq(RabbitMq),
    /// The broker inside `asya run`.
    Embedded(Embedded),
    /// SQS.
    Sqs(Sqs),
}

impl Broker {
    /// Makes a queue, as a sidecar would.
    pub async fn declare(&self, queue: &str) -> Result<(), Error> {
        match self {
            Self::RabbitMq(broker) => broker.declare(queue).await,
            Self::Embedded(broker) => broker.declare(queue).await,
            Self::Sqs(broker) => broker.declare(queue).await,
        }
    }

    /// Removes what a queue holds, and the queue where the broker can.
    pub async fn delete(&self, queue: &str) -> Result<(), Error> {
        match self {
            Self::RabbitMq(broker) => broker.delete(queue).await,
            Self::Embedded(broker) => broker.delete(queue),
            Self::Sqs(broker) => broker.delete(queue).await,
        }
    }

    /// Messages that wait in a queue.
    pub async fn depth(&self, queue: &str) -> Result<u64, Error> {
        match self {
            Self::RabbitMq(broker) => broker.depth(queue).await,
            Self::Embedded(broker) => broker.depth(queue).await,
            Self::Sqs(broker) => broker.depth(queue).await,
        }
    }

    /// Publishes messages `0..count`, all confirmed.
    pub async fn fill(&self, queue: &str, kind: Kind, count: u64, route: &Route) -> Result<(), Error> {
        match self {
            Self::RabbitMq(broker) => broker.fill(queue, kind, count, route).await,
            Self::Embedded(broker) => broker.fill(queue, kind, count, route).await,
            Self::Sqs(broker) => broker.fill(queue, kind, count, route).await,
        }
    }

    /// Takes all messages out of a queue and checks each; an error when one is missing, changed or there twice.
    pub async fn empty(&self, queue: &str, kind: Kind, count: u64, added: u64) -> Result<(), Error> {
        match self {
            Self::RabbitMq(broker) => broker.empty(queue, kind, count, added).await,
            Self::Embedded(broker) => broker.empty(queue, kind, count, added).await,
            Self::Sqs(broker) => broker.empty(queue, kind, count, added).await,
        }
    }
}

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
