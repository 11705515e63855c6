//! What really happened in a run, and the rules that it must keep.
//!
//! Written by the simulated broker, runtime and run; it never looks into the core. The rules were frozen before the
//! first planted bug was chosen.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use asya_dataplane::flow::WorkerId;
use asya_envelope::{Encoding, Head, PayloadIn};
use asya_transport::{ContentType, Settlement, Tag, Token};

use super::clock::Clock;
use super::plan::{Mix, Plan};

/// Everything that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Both connections cut.
    Cut,
    /// The publishing connection cut.
    CutPublisher,
    /// The consuming connection cut.
    CutConsumer,
    /// The broker ended the consumer.
    CancelByBroker,
    /// A negative confirm.
    Refused,
    /// A settlement that failed.
    SettleFailed,
    /// A lease that ran out before its settlement.
    LeaseLost,
    /// A message that came twice.
    Duplicate,
    /// No memory for a body.
    NoRoom,
    /// A body above the configured maximum.
    Oversize,
    /// A body that is no envelope.
    Garbage,
    /// A message for another actor.
    Misrouted,
    /// A queue that was away for a while.
    MissingQueue,
    /// A worker killed from outside.
    WorkerKilled,
    /// A handler that killed its worker.
    HandlerCrashed,
    /// A handler that was killed for its time.
    HandlerHung,
    /// A worker that spoke of calls that it was never given.
    Lie,
    /// The whole runtime away for a while.
    RuntimeGone,
    /// A sidecar killed.
    SidecarKilled,
    /// A sidecar drained and replaced.
    Drained,
}

/// All kinds, for the report.
pub const FAULTS: [Fault; 20] = [
    Fault::Cut,
    Fault::CutPublisher,
    Fault::CutConsumer,
    Fault::CancelByBroker,
    Fault::Refused,
    Fault::SettleFailed,
    Fault::LeaseLost,
    Fault::Duplicate,
    Fault::NoRoom,
    Fault::Oversize,
    Fault::Garbage,
    Fault::Misrouted,
    Fault::MissingQueue,
    Fault::WorkerKilled,
    Fault::HandlerCrashed,
    Fault::HandlerHung,
    Fault::Lie,
    Fault::RuntimeGone,
    Fault::SidecarKilled,
    Fault::Drained,
];

/// A message that was put into a queue, as far as the rules care.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    id: String,
    hop: u32,
    attempt: u32,
    reason: String,
}

#[derive(Debug, Default)]
struct Inner {
    violations: Vec<String>,
    faults: BTreeMap<Fault, u64>,
    /// Everything ever enqueued, by queue.
    enqueued: BTreeMap<String, Vec<Seen>>,
    index: BTreeMap<(String, String, u32), u32>,
    open: BTreeMap<(u64, Tag), Rc<[u8]>>,
    settled: BTreeSet<(u64, Tag)>,
    requeues: BTreeMap<(String, u32), u32>,
    open_tokens: BTreeSet<(u64, u64)>,
    /// Messages that ran alone when their worker died, and how often.
    died_alone: BTreeMap<(String, u32), u32>,
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
    /// Queue of the success sink.
    pub sink: String,
    /// Queue of the failure sink.
    pub sump: String,
    /// Actor names by queue.
    pub actors: BTreeMap<String, String>,
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

    /// Injected faults.
    pub fn faults(&self) -> BTreeMap<Fault, u64> {
        self.inner.borrow().faults.clone()
    }

    /// States reached.
    pub fn states(&self) -> BTreeSet<String> {
        self.inner.borrow().states.clone()
    }

    /// A body that is no envelope was sent.
    pub fn garbage(&self, body: Rc<[u8]>) {
        self.inner.borrow_mut().garbage.push(body);
    }

    /// A delivery was handed to a consumer.
    pub fn delivered(&self, holder: u64, tag: Tag, body: &Rc<[u8]>) {
        self.tell(|| format!("delivered {} to {holder:x} as {tag:?}", name_of(body)));
        self.inner.borrow_mut().open.insert((holder, tag), Rc::clone(body));
    }

    /// A publish was submitted: its token may not be open.
    pub fn submitted(&self, process: u64, token: Token) {
        if !self.inner.borrow_mut().open_tokens.insert((process, token.0)) {
            self.violation(format!("publish {token:?} submitted while it is open"));
        }
    }

    /// A publish was answered.
    pub fn answered(&self, process: u64, token: Token) {
        self.inner.borrow_mut().open_tokens.remove(&(process, token.0));
    }

    /// A message was put into a queue.
    pub fn published(&self, queue: &str, body: &Rc<[u8]>, content_type: ContentType) {
        self.tell(|| format!("published {} to {queue}", name_of(body)));
        let Some((head, payload)) = open(body, content_type) else {
            // A version that is not known yet is forwarded byte for byte.
            if self.inner.borrow().garbage.contains(body) {
                self.inner.borrow_mut().refused.insert(body.to_vec());
            } else {
                self.violation(format!("a garbled message was published to {queue}: {}", name_of(body)));
            }
            return;
        };
        self.check_payload(queue, &head, &payload);
        if head.id.is_empty()
            && let Ok(document) = serde_json::from_slice::<serde_json::Value>(&payload)
            && let Some(original) = document["original_body"].as_str()
        {
            self.inner.borrow_mut().refused.insert(original.as_bytes().to_vec());
        }
        let (attempt, reason) =
            head.status.as_ref().map_or((1, String::new()), |s| (s.attempt, s.reason.clone().unwrap_or_default()));
        let seen = Seen { id: head.id.clone(), hop: head.route.hop(), attempt, reason };
        self.check_reason(queue, &head, &seen);
        let mut inner = self.inner.borrow_mut();
        *inner.index.entry((queue.to_owned(), seen.id.clone(), seen.hop)).or_insert(0) += 1;
        inner.enqueued.entry(queue.to_owned()).or_default().push(seen);
    }

    /// A published payload is either a result of a known plan or what came in.
    fn check_payload(&self, queue: &str, head: &Head, payload: &[u8]) {
        let original = payload.starts_with(br#"{"root":"#) || payload.starts_with(br#"{"from":"#);
        let refused = payload.starts_with(br#"{"error":"msg_parsing_error""#);
        if !original && !refused {
            let start = String::from_utf8_lossy(&payload[..payload.len().min(60)]).into_owned();
            self.violation(format!("{} in {queue} has a garbled payload: {start}", head.id));
        }
        if head.headers.get_str("trace").is_none() && !head.id.is_empty() {
            self.violation(format!("{} in {queue} lost its headers", head.id));
        }
    }

    /// A message fails only for what it did.
    fn check_reason(&self, queue: &str, head: &Head, seen: &Seen) {
        let innocent = |what: &str| self.violation(format!("{} failed with {what}, of which it is innocent", seen.id));
        let plan = Plan::of(self.stage.seed, self.stage.mix, &head.route.curr, &seen.id, seen.hop);
        if queue == self.stage.sump {
            let faults = self.faults();
            let had = |fault| faults.get(&fault).is_some_and(|&n| n > 0);
            match seen.reason.as_str() {
                "RuntimeError" if matches!(plan, Plan::GiveThenFail(_)) => {}
                "Timeout" if plan == Plan::Hang => {}
                // Alone, nobody can tell a worker that was killed from outside from one that its message killed.
                "WorkerCrashed" => {
                    let died = self.deaths_alone(seen);
                    if died < self.stage.crash_limit {
                        self.violation(format!("{} was given up after {died} deaths alone", seen.id));
                    }
                }
                "Unroutable" if had(Fault::MissingQueue) => {}
                "MessageTooLarge" if plan == Plan::Big => {}
                "ParseError" if seen.id.is_empty() && had(Fault::Garbage) => {}
                "RouteMismatch" if had(Fault::Misrouted) => {}
                other => innocent(other),
            }
            if head.status.as_ref().is_none_or(|s| s.error.is_none()) {
                self.violation(format!("{} failed without an error", seen.id));
            }
        } else if seen.attempt > 1 + self.deaths_alone(seen) {
            innocent("a charge");
        }
    }

    fn deaths_alone(&self, seen: &Seen) -> u32 {
        self.inner.borrow().died_alone.get(&(seen.id.clone(), seen.hop)).copied().unwrap_or(0)
    }

    /// A delivery was settled.
    pub fn settled(&self, holder: u64, tag: Tag, how: Settlement, known: bool) {
        let body = self.inner.borrow_mut().open.remove(&(holder, tag));
        let name = body.as_ref().map_or_else(String::new, name_of);
        self.tell(|| format!("settled {name} {tag:?} {how:?}"));
        if !known || !self.inner.borrow_mut().settled.insert((holder, tag)) {
            self.violation(format!("{tag:?} settled twice, or never delivered ({how:?})"));
            return;
        }
        let Some(body) = body else { return };
        match how {
            Settlement::Ack => {
                let bundled = portions(&body).count() > 1;
                portions(&body).for_each(|body| self.check_ack(body, bundled));
            }
            Settlement::Requeue => {
                if let Some(head) = heads(&body).into_iter().next() {
                    let key = (head.id.clone(), head.route.hop());
                    let times = {
                        let mut inner = self.inner.borrow_mut();
                        let count = inner.requeues.entry(key).or_insert(0);
                        *count += 1;
                        *count
                    };
                    if times > 200 {
                        self.violation(format!("{} was handed back {times} times: a hot loop", head.id));
                    }
                }
            }
            Settlement::Reject => {}
        }
    }

    /// Nothing is acknowledged before everything that it produced is in the broker.
    fn check_ack(&self, body: &[u8], bundled: bool) {
        let Some((head, _)) = open_any(body) else {
            if !self.inner.borrow().refused.contains(&body.to_vec()) {
                self.violation("a body that is no envelope was acknowledged and is in no sink".into());
            }
            return;
        };
        // A member that was handed back is in the queue again, on its own.
        let own = self.stage.queues.get(&head.route.curr);
        if bundled && own.is_some_and(|own| self.enqueued(own, &head.id, head.route.hop()) > 1) {
            return;
        }
        if let Some(missing) = self.missing_outcome(&head) {
            self.violation(format!("{} acknowledged at {} before {missing}", head.id, head.route.curr));
        }
    }

    /// What a message at this head's hop still lacks to be done with; `None` = nothing.
    fn missing_outcome(&self, head: &Head) -> Option<String> {
        let (id, hop) = (&head.id, head.route.hop());
        let stage = &self.stage;
        if self.enqueued(&stage.sump, id, hop) > 0 {
            return None;
        }
        let plan = Plan::of(stage.seed, stage.mix, &head.route.curr, id, hop);
        let own = stage.queues.get(&head.route.curr)?;
        let again = {
            let inner = self.inner.borrow();
            let attempt = head.status.as_ref().filter(|s| s.actor == head.route.curr).map_or(1, |s| s.attempt);
            let later = |s: &&Seen| s.id == *id && s.hop == hop && s.attempt > attempt;
            inner.enqueued.get(own).is_some_and(|all| all.iter().any(|s| later(&s)))
        };
        if again {
            return None;
        }
        match plan {
            Plan::Give(0) => (self.enqueued(&stage.sink, id, hop) == 0).then(|| "its end was in the sink".to_owned()),
            Plan::Give(n) => {
                let target = match head.route.next.first() {
                    None => stage.sink.clone(),
                    Some(actor) => stage.queues.get(actor).cloned().unwrap_or_else(|| actor.clone()),
                };
                (0..n).find_map(|index| {
                    let child = asya_envelope::ids::child_id(id, hop, index);
                    (self.enqueued(&target, &child, hop + 1) == 0)
                        .then(|| format!("child {index} of {n} was in {target}"))
                })
            }
            other => Some(format!("its failure ({other:?}) was in the failure sink")),
        }
    }

    fn enqueued(&self, queue: &str, id: &str, hop: u32) -> u32 {
        self.inner.borrow().index.get(&(queue.to_owned(), id.to_owned(), hop)).copied().unwrap_or(0)
    }

    /// A call was handed to a worker; `others` = calls that are open there, `alone_there` = one of them runs alone.
    pub fn handed(&self, worker: WorkerId, others: usize, alone: bool, alone_there: bool, most: usize) {
        if (alone && others > 0) || alone_there {
            self.violation(format!("{worker:?} was given a call beside one that runs alone"));
        }
        if others >= most {
            self.violation(format!("{worker:?} was given more than {most} calls"));
        }
    }

    /// A worker died while it ran this message alone.
    pub fn died_alone(&self, id: &str, hop: u32) {
        *self.inner.borrow_mut().died_alone.entry((id.to_owned(), hop)).or_insert(0) += 1;
    }

    /// At the end: every message that was sent has an outcome at every hop; without faults, exactly one.
    pub fn check_outcomes(&self, roots: &[Head], dead: &BTreeSet<(String, u32)>) {
        let clean = self.faults().iter().all(|(fault, &n)| n == 0 || *fault == Fault::NoRoom);
        let mut work: Vec<Head> = roots.to_vec();
        let mut steps = 0_u32;
        while let Some(head) = work.pop() {
            steps += 1;
            let (id, hop) = (head.id.clone(), head.route.hop());
            if dead.contains(&(id.clone(), hop)) {
                continue;
            }
            if let Some(missing) = self.missing_outcome(&head) {
                let again = self.stage.queues.get(&head.route.curr).is_some_and(|own| self.enqueued(own, &id, hop) > 0);
                self.violation(format!("{id} hop {hop} at {} was lost: not {missing} ({again})", head.route.curr));
                continue;
            }
            if self.enqueued(&self.stage.sump, &id, hop) > 0 {
                continue;
            }
            let plan = Plan::of(self.stage.seed, self.stage.mix, &head.route.curr, &id, hop);
            if clean {
                let own = self.stage.queues.get(&head.route.curr).map_or(0, |q| self.enqueued(q, &id, hop));
                if own > 1 {
                    self.violation(format!("{id} hop {hop} came {own} times, and nothing was broken"));
                }
            }
            for index in 0..plan.results() {
                let route = head.route.shifted();
                if !route.curr.is_empty() {
                    work.push(Head { id: asya_envelope::ids::child_id(&id, hop, index), route, ..head.clone() });
                }
            }
            if steps > 1_000_000 {
                self.violation("a route without end".into());
                return;
            }
        }
    }

    /// Messages that were put into queues in all.
    pub fn messages(&self) -> u64 {
        self.inner.borrow().enqueued.values().map(|v| v.len() as u64).sum()
    }
}

/// The bodies in a body: one, or those of a bundle.
fn portions(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let members = asya_envelope::bundle::split(body).and_then(Result::ok);
    let whole = members.is_none().then_some(body);
    let of = |m: asya_envelope::bundle::Member| &body[m.offset as usize..(m.offset + m.len) as usize];
    members.unwrap_or_default().into_iter().map(of).chain(whole)
}

/// The heads of the messages in a body.
pub fn heads(body: &[u8]) -> Vec<Head> {
    portions(body).filter_map(|body| Some(open_any(body)?.0)).collect()
}

fn open_any(body: &[u8]) -> Option<(Head, Vec<u8>)> {
    open(body, ContentType::Json).or_else(|| open(body, ContentType::Native))
}

fn open(body: &[u8], content_type: ContentType) -> Option<(Head, Vec<u8>)> {
    let encoding = if content_type == ContentType::Native { Encoding::Native } else { Encoding::Json };
    let decoded = asya_envelope::decode(body, encoding).ok()?;
    let PayloadIn::InPlace(payload) = decoded.payload else { return None };
    let range = payload.offset as usize..(payload.offset + payload.len) as usize;
    Some((decoded.head, body[range].to_vec()))
}

fn name_of(body: &Rc<[u8]>) -> String {
    let name = |body: &[u8]| match open_any(body) {
        Some((head, _)) => format!("{} hop {} at {:?}", head.id, head.route.hop(), head.route.curr),
        None => format!("garbage of {} bytes", body.len()),
    };
    portions(body).map(name).collect::<Vec<_>>().join(" + ")
}
