//! What really happened in a run, and the rules that it must keep.
//!
//! Takes what the simulated broker, runtime and run see; gives broken rules. It never looks into the core. The rules for
//! what is published and given to workers are in `rules`, those for what is acknowledged and left at the end in `outcomes`.

mod outcomes;
mod rules;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use asya_dataplane::flow::WorkerId;
use asya_dataplane::retry::Policy;
use asya_dataplane::stamp;
use asya_envelope::{Head, names};
use asya_transport::{ContentType, Settlement, Slot, Tag, Token};

use super::body::{Opened, heads, name_of, open};
use super::clock::Clock;
use super::fault::Fault;
use super::plan::Mix;
use super::scenario::{RECOVERY, WALL};

/// A publish may not be tried again sooner than this after it was last submitted, in nanoseconds.
pub const BACKOFF: u64 = 100_000_000;

/// A message that is handed back more often than this goes round in a hot loop.
const MOST_REQUEUES: u32 = 200;

/// A message that was put into a queue, as far as the rules care.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    id: String,
    hop: u32,
    attempt: u32,
    reason: String,
}

impl Seen {
    /// The hop at which it failed: that before it, once its policy has sent it elsewhere.
    fn hop_failed(&self, head: &Head) -> u32 {
        if self.reason == "PolicyRouted" { head.route.hop().saturating_sub(1) } else { self.hop }
    }
}

/// Under which name a message is known. A copy of what went on may fail, and then has the id and hop of its successor.
fn known_as(head: &Head) -> Step {
    let recovered = head.route.curr == RECOVERY || head.route.prev.iter().any(|actor| actor == RECOVERY);
    known_by(&head.id, head.route.hop(), recovered)
}

fn known_by(id: &str, hop: u32, recovered: bool) -> Step {
    (if recovered { format!("{id} recovered") } else { id.to_owned() }, hop)
}

/// What a head says of when it may run.
fn times(head: &Head) -> (Option<u64>, Option<u64>) {
    let deadline = head.status.as_ref().and_then(|status| stamp::parse(status.deadline_at.as_deref()?));
    let not_before = head.headers.get_str(names::HEADER_NOT_BEFORE).and_then(|text| stamp::parse(&text));
    (not_before, deadline)
}

/// A message as it first came up: whatever is made of it later has this head and payload.
#[derive(Debug)]
struct Known {
    head: Head,
    section: Vec<u8>,
}

/// From which queue a delivery came, and its body.
type Delivered = (String, Rc<[u8]>);

/// A message at one step of its route.
type Step = (String, u32);

#[derive(Debug, Default)]
struct Inner {
    violations: Vec<String>,
    faults: BTreeMap<Fault, u64>,
    /// Everything ever enqueued, by queue.
    enqueued: BTreeMap<String, Vec<Seen>>,
    index: BTreeMap<(String, String, u32), u32>,
    known: BTreeMap<Step, Known>,
    /// Deliveries not yet settled, by holder.
    open: BTreeMap<(u64, Tag), Delivered>,
    settled: BTreeSet<(u64, Tag)>,
    requeues: BTreeMap<Step, u32>,
    /// Acknowledged because they had come into their queue again, by attempt.
    came_back: BTreeMap<(String, u32, u32), usize>,
    open_tokens: BTreeSet<(u64, u64)>,
    /// When a publish was last submitted, by process and token.
    submitted: BTreeMap<(u64, u64), u64>,
    /// Messages that ran alone when their worker died, and how often.
    died_alone: BTreeMap<Step, u32>,
    /// Attempts of messages that ended with an error, or were ended for their time.
    failed: BTreeMap<Step, u32>,
    /// When an attempt of a message first failed, on the wall clock.
    failed_at: BTreeMap<(String, u32, u32), u64>,
    /// When each step was first begun, on the wall clock.
    first_begun: BTreeMap<Step, u64>,
    /// Calls that were begun, by actor.
    begun: BTreeMap<(String, Step), u32>,
    /// Messages that an end actor's handler has returned for.
    consumed: BTreeSet<Step>,
    /// Messages that the broker has doubled.
    doubled: BTreeSet<Step>,
    /// Which of the broker's messages lies in a slot, by process.
    placed: BTreeMap<(u64, u32), u64>,
    garbage: Vec<Rc<[u8]>>,
    /// Bodies that are no envelope and are in the failure sink, whole.
    refused: BTreeSet<Vec<u8>>,
    states: BTreeSet<String>,
    story: Vec<(u64, String)>,
}

/// What a run is about: where messages go and what handlers do.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The seed of handlers' plans.
    pub seed: u64,
    /// How handlers behave.
    pub mix: Mix,
    /// Deaths alone after which a message fails.
    pub crash_limit: u32,
    /// Largest body that the broker takes from a sidecar, in bytes.
    pub limit: u64,
    /// Queue of the success sink.
    pub sink: String,
    /// Queue of the failure sink.
    pub sump: String,
    /// Queue for answers.
    pub replies: String,
    /// What is tried again, and how often.
    pub policy: Option<Policy>,
    /// Whether an end actor consumes the success sink.
    pub consumed: bool,
    /// Queue names by actor.
    pub queues: BTreeMap<String, String>,
}

/// A handle on the ledger.
#[derive(Clone, Debug)]
pub struct Ledger {
    stage: Rc<Stage>,
    clock: Clock,
    inner: Rc<RefCell<Inner>>,
    record: bool,
}

/// A call as a worker is given it.
#[derive(Debug)]
pub struct Handed<'a> {
    /// To whom.
    pub worker: WorkerId,
    /// Its head.
    pub head: &'a Head,
    /// Its payload section, as the worker reads it.
    pub section: &'a [u8],
    /// Calls of other batches that are open there.
    pub others: usize,
    /// It is not to run after its deadline.
    pub expires: bool,
    /// It runs alone.
    pub alone: bool,
    /// Something there runs alone.
    pub alone_there: bool,
    /// Most calls that it may be given.
    pub most: usize,
    /// The broker's message that it came from already runs in this process.
    pub running: bool,
}

impl Ledger {
    /// An empty ledger. With `record`, it also keeps the story of every message.
    pub fn new(stage: Stage, clock: Clock, record: bool) -> Self {
        Self { stage: Rc::new(stage), clock, inner: Rc::default(), record }
    }

    /// What the run is about.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// A rule was broken.
    pub fn violation(&self, text: String) {
        self.tell(|| format!("VIOLATION {text}"));
        let mut inner = self.inner.borrow_mut();
        // The first few say enough.
        if inner.violations.len() < 20 {
            inner.violations.push(text);
        }
    }

    /// A fault was injected.
    pub fn fault(&self, fault: Fault) {
        *self.inner.borrow_mut().faults.entry(fault).or_insert(0) += 1;
        self.tell(|| format!("fault {fault:?}"));
    }

    /// The run reached a state worth reaching.
    pub fn state(&self, name: &str) {
        let mut inner = self.inner.borrow_mut();
        if !inner.states.contains(name) {
            inner.states.insert(name.to_owned());
        }
    }

    /// One line of the story.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if self.record {
            self.inner.borrow_mut().story.push((self.clock.now(), line()));
        }
    }

    /// The story so far, a line each.
    pub fn story(&self) -> Vec<String> {
        let lines = &self.inner.borrow().story;
        lines.iter().map(|(at, line)| format!("{:>12.6} s  {line}", *at as f64 / 1e9)).collect()
    }

    /// Broken rules.
    pub fn violations(&self) -> Vec<String> {
        self.inner.borrow().violations.clone()
    }

    /// Whether a rule was broken.
    pub fn broken(&self) -> bool {
        !self.inner.borrow().violations.is_empty()
    }

    /// Injected faults.
    pub fn faults(&self) -> BTreeMap<Fault, u64> {
        self.inner.borrow().faults.clone()
    }

    /// Whether a fault of this kind was injected.
    fn had(&self, fault: Fault) -> bool {
        self.inner.borrow().faults.contains_key(&fault)
    }

    /// Whether nothing was broken. Memory that runs short is no fault of anybody.
    fn clean(&self) -> bool {
        self.inner.borrow().faults.keys().all(|&fault| fault == Fault::NoRoom)
    }

    /// States reached.
    pub fn states(&self) -> BTreeSet<String> {
        self.inner.borrow().states.clone()
    }

    /// A message is about to be sent that is known whatever becomes of it.
    pub fn known(&self, head: &Head, section: &[u8]) {
        let known = Known { head: head.clone(), section: section.to_vec() };
        self.inner.borrow_mut().known.entry(known_as(head)).or_insert(known);
    }

    /// A body that is no envelope was sent.
    pub fn garbage(&self, body: Rc<[u8]>) {
        self.inner.borrow_mut().garbage.push(body);
    }

    /// The broker has doubled a message.
    pub fn doubled(&self, body: &[u8]) {
        let steps = heads(body).into_iter().map(|head| (head.id.clone(), head.route.hop()));
        self.inner.borrow_mut().doubled.extend(steps);
    }

    /// A delivery was handed to a consumer.
    pub fn delivered(&self, queue: &str, holder: u64, tag: Tag, body: &Rc<[u8]>) {
        self.tell(|| format!("delivered {} to {holder:x} as {tag:?}", name_of(body)));
        self.inner.borrow_mut().open.insert((holder, tag), (queue.to_owned(), Rc::clone(body)));
    }

    /// The broker's message of this number lies in a slot of a process.
    pub fn placed(&self, process: u64, slot: Slot, number: u64) {
        self.inner.borrow_mut().placed.insert((process, slot.0), number);
    }

    /// Which of the broker's messages lies in a slot.
    pub fn number_in(&self, process: u64, slot: Slot) -> Option<u64> {
        self.inner.borrow().placed.get(&(process, slot.0)).copied()
    }

    /// A slot of a process is free.
    pub fn vacated(&self, process: u64, slot: Slot) {
        self.inner.borrow_mut().placed.remove(&(process, slot.0));
    }

    /// A publish was submitted: its token may not be open, and it is not tried again at once.
    pub fn submitted(&self, process: u64, token: Token) {
        let key = (process, token.0);
        let now = self.clock.now();
        if !self.inner.borrow_mut().open_tokens.insert(key) {
            self.violation(format!("publish {token:?} submitted while it is open"));
        }
        let before = self.inner.borrow_mut().submitted.insert(key, now);
        if let Some(before) = before.filter(|&before| now < before + BACKOFF) {
            self.violation(format!("publish {token:?} tried again after {} ns", now - before));
        }
    }

    /// A publish was answered; `done` = it will not be tried again.
    pub fn answered(&self, process: u64, token: Token, done: bool) {
        let mut inner = self.inner.borrow_mut();
        inner.open_tokens.remove(&(process, token.0));
        if done {
            inner.submitted.remove(&(process, token.0));
        }
    }

    /// A message was put into a queue.
    pub fn published(&self, queue: &str, body: &Rc<[u8]>, content_type: ContentType) {
        self.tell(|| format!("published {} to {queue}", name_of(body)));
        let Some(opened) = open(body, content_type) else {
            // A version that is not known yet is forwarded byte for byte.
            if self.inner.borrow().garbage.contains(body) {
                self.inner.borrow_mut().refused.insert(body.to_vec());
            } else {
                self.violation(format!("a garbled message was published to {queue}: {}", name_of(body)));
            }
            return;
        };
        let Opened { head, .. } = &opened;
        if head.id.is_empty() {
            return self.check_unparsable(queue, &opened);
        }
        self.check_published(queue, &opened);
        let (attempt, reason) =
            head.status.as_ref().map_or((1, String::new()), |s| (s.attempt, s.reason.clone().unwrap_or_default()));
        let seen = Seen { id: head.id.clone(), hop: head.route.hop(), attempt, reason };
        self.check_reason(queue, &opened, &seen);
        let mut inner = self.inner.borrow_mut();
        *inner.index.entry((queue.to_owned(), seen.id.clone(), seen.hop)).or_insert(0) += 1;
        inner.enqueued.entry(queue.to_owned()).or_default().push(seen);
    }

    /// A delivery was settled.
    pub fn settled(&self, holder: u64, tag: Tag, how: Settlement, known: bool) {
        let delivery = self.inner.borrow_mut().open.remove(&(holder, tag));
        let name = delivery.as_ref().map_or_else(String::new, |(_, body)| name_of(body));
        self.tell(|| format!("settled {name} {tag:?} {how:?}"));
        if !known || !self.inner.borrow_mut().settled.insert((holder, tag)) {
            self.violation(format!("{tag:?} settled twice, or never delivered ({how:?})"));
            return;
        }
        let Some((queue, body)) = delivery else { return };
        match how {
            Settlement::Ack => self.check_acknowledged(&queue, &body),
            Settlement::Requeue => {
                if let Some(head) = heads(&body).into_iter().next() {
                    let times = {
                        let mut inner = self.inner.borrow_mut();
                        let count = inner.requeues.entry((head.id.clone(), head.route.hop())).or_insert(0);
                        *count += 1;
                        *count
                    };
                    if times > MOST_REQUEUES {
                        self.violation(format!("{} was handed back {times} times: a hot loop", head.id));
                    }
                }
            }
            Settlement::Reject => {}
        }
    }

    /// A worker died by itself while it ran this message alone.
    pub fn died_alone(&self, id: &str, hop: u32) {
        *self.inner.borrow_mut().died_alone.entry((id.to_owned(), hop)).or_insert(0) += 1;
    }

    /// An attempt of a message ended with an error, or was ended for its time.
    pub fn failed(&self, id: &str, hop: u32, attempt: u32) {
        let now = self.wall_ms();
        let mut inner = self.inner.borrow_mut();
        *inner.failed.entry((id.to_owned(), hop)).or_insert(0) += 1;
        inner.failed_at.entry((id.to_owned(), hop, attempt)).or_insert(now);
    }

    /// A delivery is not the sidecar's any more, and it knows.
    pub fn given_up(&self, holder: u64, tag: Tag) {
        self.inner.borrow_mut().open.remove(&(holder, tag));
    }

    /// The wall clock, in milliseconds since the epoch.
    fn wall_ms(&self) -> u64 {
        WALL + self.clock.now() / 1_000_000
    }

    /// The handler of an end actor has returned.
    pub fn consumed(&self, id: &str, hop: u32) {
        self.inner.borrow_mut().consumed.insert((id.to_owned(), hop));
    }

    fn enqueued(&self, queue: &str, id: &str, hop: u32) -> u32 {
        self.inner.borrow().index.get(&(queue.to_owned(), id.to_owned(), hop)).copied().unwrap_or(0)
    }

    /// Most attempts that a step has where nothing is broken. What raises after it gave results gives them with each attempt, and
    /// its successors run as often.
    fn most_attempts(&self) -> u32 {
        match &self.stage.policy {
            None => 1,
            Some(_) if self.stage.mix.partly => u32::MAX,
            Some(policy) => policy.attempts_max,
        }
    }

    fn failures(&self, id: &str, hop: u32) -> u32 {
        self.inner.borrow().failed.get(&(id.to_owned(), hop)).copied().unwrap_or(0)
    }

    fn deaths_alone(&self, id: &str, hop: u32) -> u32 {
        self.inner.borrow().died_alone.get(&(id.to_owned(), hop)).copied().unwrap_or(0)
    }

    /// Messages that were put into queues in all.
    pub fn messages(&self) -> u64 {
        self.inner.borrow().enqueued.values().map(|v| v.len() as u64).sum()
    }
}
