//! A simulated broker: queues under the rules of RabbitMQ 3.10, RabbitMQ 4.3 or SQS, shared by all simulated sidecars.
//!
//! It is driven by the simulated clock alone. What it keeps survives everything but an acknowledgement.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use asya_transport::{ContentType, Settlement};

use super::clock::Clock;

/// Whose rules hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Requeued deliveries do not count; nothing limits them.
    RabbitMq310,
    /// A lost consumer counts towards the delivery limit, a requeue does not.
    RabbitMq43,
    /// Deliveries are leases that run out; every receive counts; settlements can fail one by one.
    Sqs,
}

/// One message in a queue.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its number, given by the broker.
    pub number: u64,
    /// Its body.
    pub body: Rc<[u8]>,
    /// How it is encoded.
    pub content_type: ContentType,
    /// Deliveries that ended with their consumer lost (or, on SQS, ran out).
    pub lost: u32,
    /// It was delivered before.
    pub redelivered: bool,
}

/// One queue.
#[derive(Debug, Default)]
pub struct Queue {
    /// Messages to deliver.
    pub ready: VecDeque<Kept>,
    /// Messages that the broker gave up, with why.
    pub dead: Vec<Kept>,
}

/// A held delivery.
#[derive(Debug)]
struct Held {
    queue: String,
    kept: Kept,
    /// SQS: when the lease runs out.
    until: u64,
}

/// The broker's state.
#[derive(Debug)]
pub struct World {
    /// Whose rules hold.
    pub rules: Rules,
    /// The simulated clock.
    pub clock: Clock,
    queues: BTreeMap<String, Queue>,
    missing: BTreeSet<String>,
    held: BTreeMap<(u64, u64), Held>,
    numbers: u64,
    /// Every message that was ever put into a queue, by queue: what was really published.
    pub history: BTreeMap<String, Vec<Rc<[u8]>>>,
    /// SQS: how long a lease lasts.
    pub lease: u64,
    /// Deliveries that the broker counts before it gives up.
    pub delivery_limit: u32,
}

/// A handle on the broker.
pub type Shared = Rc<RefCell<World>>;

impl World {
    /// An empty broker.
    pub fn new(rules: Rules, clock: Clock, lease: u64) -> Self {
        Self {
            rules,
            clock,
            queues: BTreeMap::new(),
            missing: BTreeSet::new(),
            held: BTreeMap::new(),
            numbers: 0,
            history: BTreeMap::new(),
            lease,
            delivery_limit: 100,
        }
    }

    /// Makes a queue, unless it is there.
    pub fn declare(&mut self, queue: &str) {
        if !self.missing.contains(queue) {
            self.queues.entry(queue.to_owned()).or_default();
        }
    }

    /// Hides a queue from publishers, or brings it back; what is in it stays.
    pub fn set_missing(&mut self, queue: &str, missing: bool) {
        if missing {
            self.missing.insert(queue.to_owned());
        } else {
            self.missing.remove(queue);
        }
    }

    /// Puts a message into a queue. False when there is no such queue.
    pub fn publish(&mut self, queue: &str, body: Rc<[u8]>, content_type: ContentType) -> bool {
        !self.missing.contains(queue) && self.put(queue, body, content_type)
    }

    /// Puts a message into a queue even while it is hidden: what the sender had put there before.
    pub fn put(&mut self, queue: &str, body: Rc<[u8]>, content_type: ContentType) -> bool {
        let Some(target) = self.queues.get_mut(queue) else { return false };
        self.numbers += 1;
        target.ready.push_back(Kept {
            number: self.numbers,
            body: Rc::clone(&body),
            content_type,
            lost: 0,
            redelivered: false,
        });
        self.history.entry(queue.to_owned()).or_default().push(body);
        true
    }

    /// Hands the next message of a queue to a consumer. `holder` and `tag` name the delivery.
    pub fn take(&mut self, queue: &str, holder: u64, tag: u64) -> Option<Kept> {
        let mut kept = self.queues.get_mut(queue)?.ready.pop_front()?;
        let told = kept.clone();
        if self.rules == Rules::Sqs {
            kept.lost += 1;
        }
        let until = if self.rules == Rules::Sqs { self.clock.now() + self.lease } else { u64::MAX };
        self.held.insert((holder, tag), Held { queue: queue.to_owned(), kept, until });
        Some(told)
    }

    /// Settles a held delivery. False when it is not held any more.
    pub fn settle(&mut self, holder: u64, tag: u64, how: Settlement) -> bool {
        let Some(Held { queue, mut kept, .. }) = self.held.remove(&(holder, tag)) else { return false };
        let Some(target) = self.queues.get_mut(&queue) else { return false };
        kept.redelivered = true;
        match how {
            Settlement::Ack => {}
            // On RabbitMQ a requeued message goes back near its old place; on SQS anywhere.
            Settlement::Requeue => target.ready.push_front(kept),
            Settlement::Reject => target.dead.push(kept),
        }
        true
    }

    /// A consumer's connection is lost: what it held is delivered again.
    pub fn lose(&mut self, holder: u64) {
        // SQS knows no connections: leases run out by themselves.
        if self.rules == Rules::Sqs {
            return;
        }
        let tags: Vec<_> = self.held.range((holder, 0)..=(holder, u64::MAX)).map(|(&key, _)| key).collect();
        for key in tags.into_iter().rev() {
            self.give_back(key);
        }
    }

    /// Takes back leases that have run out.
    pub fn tick(&mut self) {
        let now = self.clock.now();
        let due: Vec<_> = self.held.iter().filter(|(_, h)| h.until <= now).map(|(&key, _)| key).collect();
        for key in due {
            self.give_back(key);
        }
    }

    fn give_back(&mut self, key: (u64, u64)) {
        let Some(Held { queue, mut kept, .. }) = self.held.remove(&key) else { return };
        let Some(target) = self.queues.get_mut(&queue) else { return };
        kept.redelivered = true;
        if self.rules == Rules::RabbitMq43 {
            kept.lost += 1;
        }
        if kept.lost > self.delivery_limit {
            target.dead.push(kept);
        } else {
            target.ready.push_front(kept);
        }
    }

    /// When a lease runs out next.
    pub fn next_timer(&self) -> Option<u64> {
        self.held.values().map(|h| h.until).filter(|&until| until != u64::MAX).min()
    }

    /// A queue.
    pub fn queue(&self, name: &str) -> Option<&Queue> {
        self.queues.get(name)
    }

    /// Deliveries that are held, of all consumers.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Deliveries that one consumer holds.
    pub fn held_by(&self, holder: u64) -> usize {
        self.held.range((holder, 0)..=(holder, u64::MAX)).count()
    }

    /// The message of a held delivery.
    pub fn held_body(&self, holder: u64, tag: u64) -> Option<Rc<[u8]>> {
        self.held.get(&(holder, tag)).map(|h| Rc::clone(&h.kept.body))
    }

    /// Messages in queues, ready or held, sinks excepted.
    pub fn unfinished(&self, sinks: &[&str]) -> usize {
        let ready: usize =
            self.queues.iter().filter(|(name, _)| !sinks.contains(&name.as_str())).map(|(_, q)| q.ready.len()).sum();
        ready + self.held.len()
    }
}
