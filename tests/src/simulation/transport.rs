//! The simulated broker's client: the `Transport` that simulated sidecars drive, with every fault a connection has.
//!
//! Bodies are read from memory only when they are "written out", some time after they were submitted, so that memory
//! which is reused too early shows as a garbled message.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use asya_transport::{
    ContentType, Delays, Delivery, Event, Lease, Limits, Memory, Op, Outcome, Part, Redelivery, Room, Settlement, Tag,
    Token, Transport,
};

use super::body::portions;
use super::broker::{Rules, Shared};
use super::fault::Fault;
use super::ledger::Ledger;
use super::random::Random;

/// Latency of one step between sidecar and broker, in nanoseconds.
const STEP: (u64, u64) = (50_000, 3_000_000);
/// How long a cut connection stays away, in nanoseconds: mostly moments, sometimes longer than any handler may run.
const OUTAGES: [u64; 4] = [1_000_000, 1_000_000, 100_000_000, 6_000_000_000];

/// How unreliable the connections of one run are: one in so many operations goes wrong; 0 = none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unreliable {
    /// A confirm is negative.
    pub refuse: u64,
    /// A settlement fails (SQS: per-entry failure).
    pub settle: u64,
    /// A message is delivered twice.
    pub duplicate: u64,
}

/// The delays that a broker of these rules knows.
pub fn delays(rules: Rules) -> Delays {
    const LADDER: &[Duration] = &[Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5)];
    match rules {
        Rules::RabbitMq310 => Delays::Any,
        Rules::RabbitMq43 => Delays::Ladder(LADDER),
        Rules::Sqs => Delays::UpTo { unit: Duration::from_secs(1), longest: Duration::from_secs(6) },
    }
}

struct Open {
    token: Token,
    queue: String,
    content_type: ContentType,
    prefix: Vec<u8>,
    parts: Vec<Part>,
    suffix: Vec<u8>,
    delay: u64,
    /// When the bytes leave.
    written: u64,
}

/// What was submitted and not flushed.
enum Buffered {
    Consume(u32),
    Cancel,
    Publish(Open),
    Settle(Tag, Settlement),
    Extend(Tag, u64),
}

enum Later {
    Published(Token, Outcome),
    Canceled,
}

/// One sidecar's transport.
pub struct SimTransport {
    world: Shared,
    ledger: Ledger,
    random: Random,
    unreliable: Unreliable,
    /// Names this consumer at the broker.
    holder: u64,
    process: u64,
    queue: String,
    epoch: u32,
    connected: bool,
    /// The publishing connection is away until then, while the other lives.
    no_publishing_until: u64,
    reconnect_at: u64,
    window: u32,
    consuming: bool,
    tags: u64,
    unsettled: BTreeSet<u64>,
    /// What leaves with the next flush.
    buffered: Vec<Buffered>,
    outgoing: Vec<Open>,
    later: BTreeMap<(u64, u64), Later>,
    steps: u64,
    next_delivery: u64,
    /// There was no room when it last asked.
    short: bool,
    lost: Vec<Event>,
}

impl SimTransport {
    /// A transport that will connect at the next poll.
    pub fn new(
        world: Shared,
        ledger: Ledger,
        mut random: Random,
        unreliable: Unreliable,
        process: u64,
        queue: &str,
    ) -> Self {
        let reconnect_at = world.borrow().clock.now() + random.between(STEP.0, STEP.1);
        Self {
            world,
            ledger,
            random,
            unreliable,
            holder: process << 32,
            process,
            queue: queue.to_owned(),
            epoch: 0,
            connected: false,
            no_publishing_until: 0,
            reconnect_at,
            window: 0,
            consuming: false,
            tags: 0,
            unsettled: BTreeSet::new(),
            buffered: Vec::new(),
            outgoing: Vec::new(),
            later: BTreeMap::new(),
            steps: 0,
            next_delivery: 0,
            short: false,
            lost: Vec::new(),
        }
    }

    fn now(&self) -> u64 {
        self.world.borrow().clock.now()
    }

    fn step(&mut self) -> u64 {
        self.now() + self.random.between(STEP.0, STEP.1)
    }

    fn at(&mut self, when: u64, what: Later) {
        self.steps += 1;
        self.later.insert((when, self.steps), what);
    }

    fn holder(&self) -> u64 {
        self.holder | u64::from(self.epoch)
    }

    /// The consumer of this transport, as the broker knows it now.
    pub fn held(&self) -> usize {
        self.world.borrow().held_by(self.holder())
    }

    /// Deliveries that the sidecar has not settled.
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// Whether publishes are on their way to the broker, or their confirms back.
    pub fn publishing(&self) -> bool {
        !self.outgoing.is_empty() || self.later.values().any(|later| matches!(later, Later::Published(..)))
    }

    /// Cuts the connections, as the network does: what was under way may or may not have arrived.
    pub fn cut(&mut self, memory: &mut dyn Memory, publisher: bool, consumer: bool) {
        if !self.connected {
            return;
        }
        if publisher {
            for open in std::mem::take(&mut self.outgoing) {
                if self.random.one_in(2) {
                    self.enqueue(&open, memory);
                }
                self.lost.push(Event::Published { token: open.token, outcome: Outcome::Lost });
            }
            let later = std::mem::take(&mut self.later);
            for (key, what) in later {
                match what {
                    Later::Published(token, _) => {
                        self.lost.push(Event::Published { token, outcome: Outcome::Lost });
                    }
                    other => drop(self.later.insert(key, other)),
                }
            }
        }
        if consumer {
            self.world.borrow_mut().lose(self.holder());
            self.unsettled.clear();
            self.later.retain(|_, what| !matches!(what, Later::Canceled));
            self.lost.push(Event::Lost { epoch: self.epoch, why: "cut".into() });
            self.connected = false;
            self.reconnect_at = self.step() + self.random.pick(&OUTAGES);
        } else {
            self.lost.push(Event::Lost { epoch: 0, why: "publisher cut".into() });
            self.no_publishing_until = self.now() + self.random.pick(&OUTAGES);
        }
    }

    /// The process is gone: its connections with it, and nobody hears of it.
    pub fn vanish(&mut self, memory: &mut dyn Memory) {
        for open in std::mem::take(&mut self.outgoing) {
            if self.random.one_in(2) {
                self.enqueue(&open, memory);
            }
        }
        self.world.borrow_mut().lose(self.holder());
    }

    /// The broker ends the consumer; it comes back by itself.
    pub fn cancel_by_broker(&mut self) {
        if self.connected && self.consuming {
            self.lost.push(Event::Canceled { asked: false });
            self.next_delivery = self.step() + 5_000_000;
        }
    }

    fn enqueue(&mut self, open: &Open, memory: &mut dyn Memory) -> Outcome {
        let mut body = open.prefix.clone();
        for part in &open.parts {
            memory.copy_part(*part, &mut body);
        }
        body.extend_from_slice(&open.suffix);
        let limit = self.ledger.stage().limit;
        if body.len() as u64 > limit {
            return Outcome::TooLarge(limit);
        }
        let body: Rc<[u8]> = body.into();
        if !self.world.borrow_mut().publish(&open.queue, Rc::clone(&body), open.content_type, open.delay) {
            return Outcome::Unroutable;
        }
        self.ledger.published(&open.queue, &body, open.content_type);
        Outcome::Confirmed
    }

    fn write_out(&mut self, memory: &mut dyn Memory) {
        let now = self.now();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.outgoing).into_iter().partition(|open| open.written <= now);
        self.outgoing = later;
        for open in due {
            let refuse = self.unreliable.refuse > 0 && self.random.one_in(self.unreliable.refuse);
            let outcome = if refuse {
                self.ledger.fault(Fault::Refused);
                Outcome::Refused("simulated".into())
            } else {
                self.enqueue(&open, memory)
            };
            // Confirms come out of order.
            let when = self.step();
            self.at(when, Later::Published(open.token, outcome));
        }
    }

    fn settle(&mut self, tag: Tag, how: Settlement) {
        if tag.epoch != self.epoch || !self.connected {
            return;
        }
        self.ledger.settled(self.holder(), tag, how, self.unsettled.remove(&tag.number));
        let fails = self.unreliable.settle > 0 && self.random.one_in(self.unreliable.settle);
        if fails && self.world.borrow().rules == Rules::Sqs {
            self.ledger.fault(Fault::SettleFailed);
            self.world.borrow_mut().excuse(self.holder(), tag.number);
            self.lost.push(Event::SettleFailed { tag, why: "simulated".into() });
        } else if !self.world.borrow_mut().settle(self.holder(), tag.number, how) {
            self.ledger.fault(Fault::LeaseLost);
            self.lost.push(Event::SettleFailed { tag, why: "the lease had run out".into() });
        }
    }

    fn extend(&mut self, tag: Tag, by: u64) {
        if tag.epoch != self.epoch || !self.connected {
            return;
        }
        if !self.unsettled.contains(&tag.number) {
            self.ledger.violation(format!("{tag:?} was extended after it was settled"));
        }
        let fails = self.unreliable.settle > 0 && self.random.one_in(self.unreliable.settle);
        if fails && self.random.one_in(2) {
            // It is answered well and has no effect, as when the answer to an earlier one overtakes it.
            return self.world.borrow_mut().forget_extension(self.holder(), tag.number, by);
        } else if fails {
            self.ledger.fault(Fault::ExtendFailed);
        } else if self.world.borrow_mut().extend(self.holder(), tag.number, by) {
            return;
        } else {
            self.ledger.fault(Fault::LeaseLost);
        }
        // The broker delivers it again when its lease runs out.
        self.world.borrow_mut().excuse(self.holder(), tag.number);
        self.unsettled.remove(&tag.number);
        self.ledger.given_up(self.holder(), tag);
        self.lost.push(Event::SettleFailed { tag, why: "it could not be extended".into() });
    }

    /// A client of SQS knows when a lease is over that it has not extended.
    fn tell_ended_leases(&mut self, events: &mut Vec<Event>) {
        if self.world.borrow().rules != Rules::Sqs {
            return;
        }
        let ended = |&number: &u64| !self.world.borrow().seems_held(self.holder(), number);
        for number in self.unsettled.iter().copied().filter(ended).collect::<Vec<_>>() {
            let tag = Tag { epoch: self.epoch, number };
            self.unsettled.remove(&number);
            self.ledger.given_up(self.holder(), tag);
            events.push(Event::SettleFailed { tag, why: "its lease is over".into() });
        }
    }

    /// The delay of a publish, which has to be one that this broker knows.
    fn checked_delay(&self, delay: Option<Duration>) -> u64 {
        let delay = delay.unwrap_or_default();
        if self.limits().delays.step(delay) != delay && !delay.is_zero() {
            self.ledger.violation(format!("a delay of {delay:?}, which the broker does not know"));
        }
        delay.as_nanos() as u64
    }

    fn deliver(&mut self, memory: &mut dyn Memory, events: &mut Vec<Event>) {
        let now = self.now();
        if !self.connected || !self.consuming || now < self.next_delivery {
            return;
        }
        while self.unsettled.len() < self.window as usize {
            let len = {
                let world = self.world.borrow();
                let Some(next) = world.queue(&self.queue).and_then(|q| q.ready.front()) else { return };
                next.body.len() as u64
            };
            let room = memory.reserve(len);
            if room == Room::Later {
                // One shortage counts once, however often it is asked for room.
                if !std::mem::replace(&mut self.short, true) {
                    self.ledger.fault(Fault::NoRoom);
                }
                self.next_delivery = now + 1_000_000;
                return;
            }
            self.short = false;
            self.tags += 1;
            let taken = self.world.borrow_mut().take(&self.queue, self.holder(), self.tags);
            let Some(kept) = taken else { return };
            let tag = Tag { epoch: self.epoch, number: self.tags };
            self.unsettled.insert(self.tags);
            self.ledger.delivered(&self.queue, self.holder(), tag, &kept.body);
            match room {
                Room::Granted(slot) => {
                    // What runs is told by its number, but for members of a bundle, which share one. And a lease that runs
                    // out is delivered again while its message runs: nobody can tell.
                    if !self.world.borrow().untold.contains(&kept.number) && portions(&kept.body).count() == 1 {
                        self.ledger.placed(self.process, slot, kept.number);
                    }
                    memory.slot_mut(slot).copy_from_slice(&kept.body);
                    let redelivery = Redelivery {
                        redelivered: kept.redelivered,
                        lost: (self.world.borrow().rules != Rules::RabbitMq310).then_some(kept.lost),
                    };
                    let content_type = kept.content_type;
                    events.push(Event::Delivered(Delivery { tag, slot, len, content_type, redelivery }));
                }
                _ => {
                    self.ledger.fault(Fault::Oversize);
                    events.push(Event::Oversize { tag, len });
                }
            }
            if self.unreliable.duplicate > 0 && self.random.one_in(self.unreliable.duplicate) {
                self.ledger.fault(Fault::Duplicate);
                self.ledger.doubled(&kept.body);
                let mut world = self.world.borrow_mut();
                world.put(&self.queue, Rc::clone(&kept.body), kept.content_type);
            }
        }
    }

    /// When something happens here next.
    pub fn next_timer(&self) -> Option<u64> {
        let reconnect = (!self.connected).then_some(self.reconnect_at);
        let written = self.outgoing.iter().map(|o| o.written).min();
        let later = self.later.keys().next().map(|&(when, _)| when);
        let now = self.now();
        let more = self.connected
            && self.consuming
            && self.unsettled.len() < self.window as usize
            && self.world.borrow().queue(&self.queue).is_some_and(|q| !q.ready.is_empty());
        let delivery = more.then_some(self.next_delivery.max(now + 1));
        let lost = (!self.lost.is_empty()).then_some(now);
        [reconnect, written, later, delivery, lost].into_iter().flatten().min()
    }
}

impl Transport for SimTransport {
    fn submit(&mut self, op: Op<'_>) {
        match op {
            Op::Declare(spec) => self.world.borrow_mut().declare(spec.queue),
            Op::Consume { window, .. } => self.buffered.push(Buffered::Consume(window)),
            Op::Cancel => self.buffered.push(Buffered::Cancel),
            Op::Publish(publish) => {
                self.ledger.submitted(self.process, publish.token);
                self.buffered.push(Buffered::Publish(Open {
                    token: publish.token,
                    queue: publish.queue.to_owned(),
                    content_type: publish.content_type,
                    prefix: publish.body.prefix.to_vec(),
                    parts: publish.body.parts.to_vec(),
                    suffix: publish.body.suffix.to_vec(),
                    delay: self.checked_delay(publish.delay),
                    written: 0,
                }));
            }
            Op::Settle { tag, how } => self.buffered.push(Buffered::Settle(tag, how)),
            Op::Extend { tag, by } => self.buffered.push(Buffered::Extend(tag, by.as_nanos() as u64)),
            Op::Depth { .. } => {}
        }
    }

    fn flush(&mut self, memory: &mut dyn Memory) {
        for op in std::mem::take(&mut self.buffered) {
            match op {
                Buffered::Consume(window) => {
                    self.window = window;
                    self.consuming = true;
                    self.next_delivery = self.step();
                }
                Buffered::Cancel => {
                    self.consuming = false;
                    if self.connected {
                        let when = self.step();
                        self.at(when, Later::Canceled);
                    } else {
                        self.lost.push(Event::Canceled { asked: true });
                    }
                }
                Buffered::Publish(open) if self.connected && self.now() >= self.no_publishing_until => {
                    let written = self.step();
                    self.outgoing.push(Open { written, ..open });
                }
                Buffered::Publish(open) => {
                    self.lost.push(Event::Published { token: open.token, outcome: Outcome::Lost });
                }
                Buffered::Settle(tag, how) => self.settle(tag, how),
                Buffered::Extend(tag, by) => self.extend(tag, by),
            }
        }
        self.write_out(memory);
    }

    fn poll(&mut self, _: &mut Context<'_>, memory: &mut dyn Memory, events: &mut Vec<Event>) {
        events.append(&mut self.lost);
        let now = self.now();
        if !self.connected && now >= self.reconnect_at {
            self.connected = true;
            self.epoch += 1;
            self.unsettled.clear();
            events.push(Event::Connected { epoch: self.epoch });
            self.next_delivery = self.step();
        }
        self.tell_ended_leases(events);
        self.write_out(memory);
        while let Some((&(when, step), _)) = self.later.first_key_value() {
            if when > now {
                break;
            }
            match self.later.remove(&(when, step)) {
                Some(Later::Published(token, outcome)) => {
                    events.push(Event::Published { token, outcome });
                }
                Some(Later::Canceled) => events.push(Event::Canceled { asked: true }),
                None => {}
            }
        }
        for event in events.iter() {
            if let Event::Published { token, outcome } = event {
                self.ledger.answered(self.process, *token, *outcome == Outcome::Confirmed);
            }
        }
        self.deliver(memory, events);
    }

    fn flushed(&self) -> bool {
        self.outgoing.is_empty() && self.buffered.is_empty()
    }

    fn limits(&self) -> Limits {
        let world = self.world.borrow();
        let lease = |(lasts, longest): (u64, u64)| Lease {
            lasts: Duration::from_nanos(lasts),
            longest: Duration::from_nanos(longest),
        };
        Limits {
            max_message_bytes: Some(self.ledger.stage().limit),
            delays: delays(world.rules),
            lease: (world.rules == Rules::Sqs).then(|| lease(world.lease)),
        }
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}
