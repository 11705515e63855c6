//! A simulated broker: queues under the rules of RabbitMQ 3.10, RabbitMQ 4.3 or SQS, shared by all simulated sidecars.
//!
//! It is driven by the simulated clock alone. What it keeps survives everything but an acknowledgement.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use asya_transport::{ContentType, Settlement};

use super::clock::Clock;

/// A sidecar may let a delivery go so long before it can be extended no further, in nanoseconds; less where that is short.
const LET_GO: u64 = 60_000_000_000;

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
    /// SQS: when it can be extended no further.
    longest: u64,
    /// SQS: whoever holds it is gone, or was told that it could not be extended: it may run out.
    excused: bool,
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
    /// Messages that wait for their time, by it.
    delayed: BTreeMap<(u64, u64), (String, Kept)>,
    numbers: u64,
    /// Every message that was ever put into a queue, by queue: what was really published.
    pub history: BTreeMap<String, Vec<Rc<[u8]>>>,
    /// SQS: how long a lease lasts, and for how long it can be extended.
    pub lease: (u64, u64),
    /// SQS: messages whose lease runs out though its extension was answered well: nobody can tell, so that they may run beside
    /// themselves.
    pub untold: BTreeSet<u64>,
    /// SQS: their deliveries, and until when their holder takes them for extended.
    seeming: BTreeMap<(u64, u64), u64>,
    /// SQS: leases that ran out though whoever held them was there: the numbers of their messages.
    pub let_run_out: Vec<u64>,
    /// Deliveries that the broker counts before it gives up.
    pub delivery_limit: u32,
}

/// A handle on the broker.
pub type Shared = Rc<RefCell<World>>;

impl World {
    /// An empty broker.
    pub fn new(rules: Rules, clock: Clock, lease: (u64, u64)) -> Self {
        Self {
            rules,
            clock,
            queues: BTreeMap::new(),
            missing: BTreeSet::new(),
            held: BTreeMap::new(),
            delayed: BTreeMap::new(),
            let_run_out: Vec::new(),
            untold: BTreeSet::new(),
            seeming: BTreeMap::new(),
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

    /// Puts a message into a queue, to be delivered after `delay`. False when there is no such queue.
    pub fn publish(&mut self, queue: &str, body: Rc<[u8]>, content_type: ContentType, delay: u64) -> bool {
        if self.missing.contains(queue) || !self.put(queue, body, content_type) {
            return false;
        }
        if delay > 0
            && let Some(kept) = self.queues.get_mut(queue).and_then(|target| target.ready.pop_back())
        {
            self.delayed.insert((self.clock.now() + delay, kept.number), (queue.to_owned(), kept));
        }
        true
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
        let now = self.clock.now();
        let ends = |after: u64| if self.rules == Rules::Sqs { now + after } else { u64::MAX };
        let (until, longest) = (ends(self.lease.0), ends(self.lease.1));
        self.held.insert((holder, tag), Held { queue: queue.to_owned(), kept, until, longest, excused: false });
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

    /// Extends a lease from now. False when it is not held any more, or would be held for too long.
    pub fn extend(&mut self, holder: u64, tag: u64, by: u64) -> bool {
        let until = self.clock.now() + by;
        match self.held.get_mut(&(holder, tag)) {
            Some(held) if until <= held.longest => {
                held.until = until;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Whether a delivery is held; or its holder has reason to think so.
    pub fn seems_held(&self, holder: u64, tag: u64) -> bool {
        let seems = || self.seeming.get(&(holder, tag)).is_some_and(|&until| until > self.clock.now());
        self.held.contains_key(&(holder, tag)) || seems()
    }

    /// An extension has no effect, and its holder does not know.
    pub fn forget_extension(&mut self, holder: u64, tag: u64, by: u64) {
        let until = self.clock.now() + by;
        if let Some(held) = self.held.get_mut(&(holder, tag)) {
            held.excused = true;
            self.untold.insert(held.kept.number);
            self.seeming.insert((holder, tag), until);
        }
    }

    /// A lease may run out: its holder knows.
    pub fn excuse(&mut self, holder: u64, tag: u64) {
        if let Some(held) = self.held.get_mut(&(holder, tag)) {
            held.excused = true;
        }
    }

    /// A consumer's connection is lost: what it held is delivered again.
    pub fn lose(&mut self, holder: u64) {
        let tags: Vec<_> = self.held.range((holder, 0)..=(holder, u64::MAX)).map(|(&key, _)| key).collect();
        // SQS knows no connections: leases run out by themselves.
        if self.rules == Rules::Sqs {
            tags.into_iter().for_each(|(holder, tag)| self.excuse(holder, tag));
            return;
        }
        for key in tags.into_iter().rev() {
            self.give_back(key);
        }
    }

    /// Delivers what is due, and takes back leases that have run out.
    pub fn tick(&mut self) {
        let now = self.clock.now();
        while let Some(entry) = self.delayed.first_entry()
            && entry.key().0 <= now
        {
            let (queue, kept) = entry.remove();
            self.queues.entry(queue).or_default().ready.push_back(kept);
        }
        let due: Vec<_> = self.held.iter().filter(|(_, h)| h.until <= now).map(|(&key, _)| key).collect();
        for key in due {
            // Shortly before its longest time is over a delivery is let go by design.
            let margin = LET_GO.min(self.lease.1 / 4);
            if let Some(held) = self.held.get(&key).filter(|held| !held.excused && now + margin < held.longest) {
                self.let_run_out.push(held.kept.number);
            }
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

    /// When a lease runs out, or a message is due, next.
    pub fn next_timer(&self) -> Option<u64> {
        let leases = self.held.values().map(|h| h.until).filter(|&until| until != u64::MAX);
        let seeming = self.seeming.values().copied().filter(|&until| until > self.clock.now());
        leases.chain(seeming).chain(self.delayed.keys().next().map(|&(due, _)| due)).min()
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
        ready + self.held.len() + self.delayed.len()
    }
}
