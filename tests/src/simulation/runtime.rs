//! The simulated runtime and memory: workers that run plans, die, hang and lie, over slots that are poisoned once freed.

mod memory;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::task::Context;
use std::time::Duration;

use asya_dataplane::drive::{Call, Rim};
use asya_dataplane::flow::{Death, MessageId, OutputId, Role, Store, WorkerEvent, WorkerId};
use asya_dataplane::stamp;
use asya_transport::Slot;

use super::clock::Clock;
use super::fault::Fault;
use super::ledger::{Handed, Ledger};
use super::plan::Plan;
use super::random::{Random, hash};
use super::scenario::{Place, WALL};

/// From then on an end actor's handler returns, whatever its plan was: nothing else would ever end. In nanoseconds.
const END_WELL: u64 = 20_000_000_000;

/// How much sooner or later than it should a call may be stopped for its time, in nanoseconds: the core hears of a call's
/// beginning and end only when it looks, and a kill takes some milliseconds.
const SLACK: u64 = 20_000_000;

/// A worker that has died twice without ending a call is not started sooner than this, in nanoseconds.
const RESTART: u64 = 100_000_000;

/// How this runtime is set up.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Worker processes.
    pub workers: u16,
    /// Calls that run at once.
    pub concurrency: u16,
    /// Payloads of one call; 0 = no batches.
    pub batch: u16,
    /// Whether calls can be cancelled.
    pub cancellable: bool,
    /// Handler time, in nanoseconds, from and to.
    pub speed: (u64, u64),
    /// Bytes of bodies that fit.
    pub budget: u64,
    /// Largest body.
    pub max_message: u64,
    /// Results that there is room for.
    pub results: usize,
}

struct Running {
    call: MessageId,
    id: String,
    hop: u32,
    plan: Plan,
    alone: bool,
    more: bool,
    group: u64,
    took: u64,
    started: Option<u64>,
    /// Since when it stands still, because there is no room for its next result.
    stalled: Option<u64>,
    given: u32,
    meta: Vec<u8>,
    /// Where its payload lies.
    slot: Slot,
    /// The broker's number of the delivery that it came from.
    number: Option<u64>,
    /// The bell was rung since it was handed over: its worker knows of it.
    heard: bool,
    cancelled: bool,
    /// When it is of no use any more, in simulated nanoseconds.
    deadline: Option<u64>,
    /// Which attempt it is, from 1.
    attempt: u32,
}

/// The deadline of a head, in simulated nanoseconds.
fn status_deadline(head: &asya_envelope::Head) -> Option<u64> {
    let wall_ms = stamp::parse(head.status.as_ref()?.deadline_at.as_deref()?)?;
    Some(wall_ms.saturating_sub(WALL) * 1_000_000)
}

impl Running {
    fn copy(&self) -> Self {
        Self { id: self.id.clone(), meta: self.meta.clone(), ..*self }
    }

    /// When it ends by itself, if it does.
    fn due(&self) -> Option<u64> {
        let ends = (self.plan != Plan::Hang || self.cancelled) && self.stalled.is_none();
        self.started.filter(|_| ends).map(|started| started + self.took)
    }

    /// When it gives its next result, if one is left. Results come one by one, spread over its time.
    fn next_result(&self) -> Option<u64> {
        if self.stalled.is_some() {
            return None;
        }
        let results = u64::from(self.plan.results());
        let share = self.took * (u64::from(self.given) + 1) / (results + 1);
        self.started.filter(|_| u64::from(self.given) < results).map(|started| started + share)
    }
}

enum Process {
    Absent,
    Starting { at: u64, id: WorkerId },
    Ready(WorkerId),
}

struct Worker {
    process: Process,
    generation: u32,
    calls: VecDeque<Running>,
    groups: u64,
    kill: Option<(u64, Death)>,
    /// Deaths in a row without a call that ended, and when the last was.
    fruitless: u32,
    died_at: u64,
}

/// The simulated rim of one sidecar.
pub struct SimRim {
    actor: String,
    role: Role,
    shape: Shape,
    /// When a call has to end, and how long after that its worker, in nanoseconds.
    timeout: (u64, u64),
    process: u64,
    clock: Clock,
    ledger: Ledger,
    random: Random,
    workers: Vec<Worker>,
    slots: Vec<(bool, Vec<u8>)>,
    used: u64,
    outputs: BTreeMap<u64, Vec<u8>>,
    next_output: u64,
    pending: Vec<WorkerEvent>,
    away_until: u64,
    broken_until: u64,
    lie: bool,
    drained: bool,
}

impl SimRim {
    /// A runtime whose workers are about to start.
    pub fn new(place: &Place, process: u64, clock: Clock, ledger: Ledger, random: Random) -> Self {
        let shape = place.shape;
        let nanos = |duration: Duration| duration.as_nanos() as u64;
        let mut rim = Self {
            actor: place.actor.clone(),
            role: place.settings.role,
            shape,
            timeout: (nanos(place.settings.timeout), nanos(place.settings.cancel_grace)),
            process,
            clock,
            ledger,
            random,
            workers: Vec::new(),
            slots: Vec::new(),
            used: 0,
            outputs: BTreeMap::new(),
            next_output: 0,
            pending: Vec::new(),
            away_until: 0,
            broken_until: 0,
            lie: false,
            drained: false,
        };
        for index in 0..shape.workers {
            rim.workers.push(Worker {
                process: Process::Absent,
                generation: 0,
                calls: VecDeque::new(),
                groups: 0,
                kill: None,
                fruitless: 0,
                died_at: 0,
            });
            rim.spawn(index);
        }
        rim
    }

    fn spawn(&mut self, index: u16) {
        let at = self.clock.now().max(self.away_until) + self.random.between(1_000_000, 200_000_000);
        let worker = &mut self.workers[usize::from(index)];
        worker.generation += 1;
        worker.process = Process::Starting { at, id: WorkerId { index, generation: worker.generation } };
    }

    /// Kills a worker from outside.
    pub fn kill_one(&mut self) {
        let index = (self.random.number() % u64::from(self.shape.workers)) as u16;
        if matches!(self.workers[usize::from(index)].process, Process::Ready(_)) {
            self.ledger.fault(Fault::WorkerKilled);
            let death = self.random.pick(&[Death::Crashed, Death::Crashed, Death::Corrupt]);
            self.die(index, death);
        }
    }

    /// The whole runtime is gone until then.
    pub fn go_away(&mut self, until: u64) {
        self.ledger.fault(Fault::RuntimeGone);
        self.away_until = until;
        for index in 0..self.shape.workers {
            if matches!(self.workers[usize::from(index)].process, Process::Ready(_)) {
                self.die(index, Death::Detached);
            }
        }
    }

    /// The handler cannot be loaded until then. A worker dies of it.
    pub fn break_handler(&mut self, until: u64) {
        self.broken_until = until;
        self.die(0, Death::Crashed);
    }

    /// The next time a worker speaks it also speaks of calls that it was never given.
    pub fn lie(&mut self) {
        self.lie = true;
    }

    /// Whether the drain was told to have ended.
    pub fn drained_told(&self) -> bool {
        self.drained
    }

    /// Calls that are open.
    pub fn open(&self) -> usize {
        self.workers.iter().map(|w| w.calls.len()).sum()
    }

    /// Memory that is still held: slots and results.
    pub fn held(&self) -> (usize, usize) {
        (self.slots.iter().filter(|(live, _)| *live).count(), self.outputs.len())
    }

    /// Bytes of bodies held.
    pub fn used(&self) -> u64 {
        self.used
    }

    fn die(&mut self, index: u16, death: Death) {
        let worker = &mut self.workers[usize::from(index)];
        let Process::Ready(id) = worker.process else { return };
        worker.process = Process::Absent;
        worker.kill = None;
        worker.fruitless += 1;
        worker.died_at = self.clock.now();
        let calls = std::mem::take(&mut worker.calls);
        // What ran alone is what was first, alone; those behind had not begun.
        if let Some(first) = calls.front()
            && first.alone
            && death != Death::TimedOut
        {
            self.ledger.died_alone(&first.id, first.hop);
        }
        if death == Death::TimedOut {
            calls.iter().for_each(|call| self.ledger.failed(&call.id, call.hop, call.attempt));
        }
        self.ledger.tell(|| format!("{}: worker {id:?} died ({death:?}) with {} calls", self.actor, calls.len()));
        let overdue = self.clock.now().saturating_sub(self.timeout.0 + self.timeout.1 + SLACK);
        let timed = calls.iter().filter(|c| c.stalled.is_none());
        for call in timed.filter(|c| c.started.is_some_and(|s| s < overdue) && overdue > 0) {
            self.ledger.violation(format!("{} was let run past its time", call.id));
        }
        self.pending.push(WorkerEvent::Died { worker: id, death });
    }

    fn has_room(&self) -> bool {
        self.outputs.len() < self.shape.results
    }

    fn width(&self, worker: &Worker) -> usize {
        match worker.calls.front() {
            Some(first) if self.shape.batch > 0 => worker.calls.iter().take_while(|c| c.group == first.group).count(),
            _ => usize::from(self.shape.concurrency),
        }
    }

    /// When a worker has something to do next.
    pub fn next_timer(&self) -> Option<u64> {
        let mut next: Option<u64> = None;
        let mut at = |when: u64| next = Some(next.map_or(when, |n| n.min(when)));
        for worker in &self.workers {
            match worker.process {
                Process::Absent => {}
                Process::Starting { at: when, .. } => at(when),
                Process::Ready(_) => {
                    if let Some((when, _)) = worker.kill {
                        at(when);
                    }
                    if self.has_room() && worker.calls.iter().any(|c| c.stalled.is_some()) {
                        at(self.clock.now());
                    }
                    let running = || worker.calls.iter().take(self.width(worker)).filter(|c| c.heard);
                    if running().any(|c| c.started.is_none()) {
                        at(self.clock.now());
                    } else if self.shape.batch > 0 {
                        // A batch ends with its slowest member, unless one kills the process before.
                        let crash =
                            running().filter(|c| matches!(c.plan, Plan::GiveThenCrash(_))).filter_map(Running::due);
                        let all = running().map(Running::due).max_by_key(|due| due.unwrap_or(u64::MAX));
                        if let Some(when) = crash.min().or(all.flatten()) {
                            at(when);
                        }
                    } else {
                        running().filter_map(Running::due).for_each(&mut at);
                        running().filter_map(Running::next_result).for_each(&mut at);
                    }
                }
            }
        }
        if !self.pending.is_empty() {
            at(self.clock.now());
        }
        next
    }
}

impl Rim for SimRim {
    fn submit(&mut self, worker: WorkerId, call: Call<'_>) {
        let at = usize::from(worker.index);
        if !matches!(self.workers[at].process, Process::Ready(id) if id == worker) {
            self.ledger.violation(format!("a call was handed to {worker:?}, which is not there"));
            return;
        }
        let head = &call.message.head;
        let (id, hop) = (head.id.clone(), head.route.hop());
        let stage = self.ledger.stage();
        let mut plan = Plan::of(stage.seed, stage.mix, &self.actor, &id, hop);
        if self.role == Role::End && self.clock.now() >= END_WELL {
            plan = Plan::Give(0);
        }
        let status = head.status.as_ref().filter(|status| status.actor == self.actor);
        let attempt = status.map_or(1, |status| status.attempt);
        if let Plan::FailThenGive(times) = plan {
            plan = if attempt <= times { Plan::GiveThenFail(0) } else { Plan::Give(1) };
        }
        let deadline = status_deadline(head).filter(|_| self.role == Role::Regular);
        let (low, high) = self.shape.speed;
        let took = low + hash(stage.seed ^ 1, &format!("{}/{id}", self.actor)) % (high - low + 1);
        let number = self.ledger.number_in(self.process, call.slot);
        let same = |c: &Running| number.is_some() && c.number == number;
        let running = self.workers.iter().flat_map(|w| &w.calls).any(same);
        let worker_state = &self.workers[at];
        let joins = worker_state.calls.back().is_some_and(|c| c.more);
        // What a worker would read is what was sent, not a slot that was freed meanwhile.
        let payload = call.message.payload;
        let range = payload.offset as usize..(payload.offset + payload.len) as usize;
        let others = worker_state.calls.iter().filter(|c| !c.more || c.group != worker_state.groups).count();
        self.ledger.handed(&Handed {
            worker,
            head,
            section: self.slot(call.slot).get(range).unwrap_or_default(),
            others: if joins { 0 } else { others },
            expires: self.role == Role::Regular,
            alone: call.alone,
            alone_there: worker_state.calls.iter().any(|c| c.alone),
            most: match self.shape.batch {
                0 => usize::from(self.shape.concurrency) + 64,
                batch => usize::from(batch) * 2,
            },
            running,
        });
        let meta = plan.meta(head);
        let worker_state = &mut self.workers[at];
        if !joins {
            worker_state.groups += 1;
        }
        let group = worker_state.groups;
        let running = Running {
            call: call.id,
            id,
            hop,
            plan,
            alone: call.alone,
            more: call.more,
            group,
            took,
            started: None,
            stalled: None,
            given: 0,
            meta,
            slot: call.slot,
            number,
            heard: false,
            cancelled: false,
            deadline,
            attempt,
        };
        worker_state.calls.push_back(running);
        let size = worker_state.calls.iter().filter(|c| c.group == group).count();
        if self.shape.batch > 0 && size > usize::from(self.shape.batch) {
            self.ledger.violation(format!("a batch of {size}, of at most {}", self.shape.batch));
        }
    }

    fn cancel(&mut self, worker: WorkerId, call: MessageId) {
        let now = self.clock.now();
        let calls = &mut self.workers[usize::from(worker.index)].calls;
        let Some(group) = calls.iter().find(|c| c.call == call).map(|c| c.group) else { return };
        // A batch is one call of the handler: it is cancelled as a whole.
        for running in calls.iter_mut().filter(|c| c.group == group && !c.cancelled) {
            let hangs = running.plan == Plan::Hang;
            if self.shape.batch > 0 || hangs {
                running.cancelled = true;
                running.took = now - running.started.unwrap_or(now);
            }
        }
    }

    fn kill(&mut self, worker: WorkerId, death: Death) {
        let when = self.clock.now() + self.random.between(100_000, 5_000_000);
        let target = &mut self.workers[usize::from(worker.index)];
        if matches!(target.process, Process::Ready(id) if id == worker) {
            let by = self.clock.now() + SLACK;
            let due = |c: &Running| {
                let single = target.calls.iter().filter(|other| other.group == c.group).count() == 1;
                let late = single && c.deadline.is_some_and(|at| at <= by);
                let over = late || c.started.is_some_and(|s| s + self.timeout.0 <= by);
                c.stalled.is_none() && over
            };
            if !target.calls.iter().any(due) {
                self.ledger.violation(format!("{worker:?} was killed before its time"));
            }
            target.kill = Some((when, death));
            self.ledger.fault(Fault::HandlerHung);
        }
    }

    fn start(&mut self, index: u16) {
        let worker = &self.workers[usize::from(index)];
        if !matches!(worker.process, Process::Absent) {
            return;
        }
        if worker.fruitless > 1 && self.clock.now() < worker.died_at + RESTART {
            let times = worker.fruitless;
            self.ledger.violation(format!("worker {index} is started at once after {times} deaths in a row"));
        }
        self.spawn(index);
    }

    fn release_output(&mut self, output: OutputId) {
        if self.outputs.remove(&output.0).is_none() {
            self.ledger.violation(format!("{output:?} released twice"));
        }
    }

    fn drained(&mut self) {
        self.drained = true;
    }

    fn ring(&mut self) {
        self.workers.iter_mut().flat_map(|w| &mut w.calls).for_each(|call| call.heard = true);
    }

    fn poll_workers(&mut self, _: &mut Context<'_>, events: &mut Vec<WorkerEvent>) {
        self.advance();
        events.append(&mut self.pending);
    }
}
