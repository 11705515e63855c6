//! The simulated runtime and memory: workers that run plans, die, hang and lie, over slots that are poisoned once freed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::task::Context;
use std::time::Duration;

use asya_dataplane::drive::{Call, Rim};
use asya_dataplane::flow::{CallEnd, Death, MessageId, Output, OutputId, Store, WorkerEvent, WorkerId};
use asya_dataplane::slab::Key;
use asya_envelope::{ErrorInfo, Payload};
use asya_transport::{Memory, Part, Piece, Room, Slot};

use super::clock::Clock;
use super::ledger::{Fault, Ledger};
use super::plan::{Plan, result_payload};
use super::random::{Random, hash};

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
    given: u32,
    cancelled: bool,
}

impl Running {
    /// When it ends by itself, if it does.
    fn due(&self) -> Option<u64> {
        let ends = self.plan != Plan::Hang || self.cancelled;
        self.started.filter(|_| ends).map(|started| started + self.took)
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
}

/// The simulated rim of one sidecar.
pub struct SimRim {
    actor: String,
    shape: Shape,
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
    lie: bool,
    drained: bool,
}

impl SimRim {
    /// A runtime whose workers are about to start.
    pub fn new(actor: &str, shape: Shape, clock: Clock, ledger: Ledger, random: Random) -> Self {
        let mut rim = Self {
            actor: actor.to_owned(),
            shape,
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
        let index = (self.random.next() % u64::from(self.shape.workers)) as u16;
        if matches!(self.workers[usize::from(index)].process, Process::Ready(_)) {
            self.ledger.fault(Fault::WorkerKilled);
            self.die(index, Death::Crashed);
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

    /// The next time a worker speaks it also speaks of calls that it was never given.
    pub fn lie(&mut self) {
        self.lie = true;
    }

    /// Whether the drain was told to have ended.
    pub fn drained_told(&self) -> bool {
        self.drained
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
        let calls = std::mem::take(&mut worker.calls);
        // What ran alone is what was first, alone; those behind had not begun.
        if let Some(first) = calls.front()
            && first.alone
        {
            self.ledger.died_alone(&first.id, first.hop);
        }
        self.ledger.tell(|| format!("{}: worker {id:?} died ({death:?}) with {} calls", self.actor, calls.len()));
        self.pending.push(WorkerEvent::Died { worker: id, death });
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
                    let running = || worker.calls.iter().take(self.width(worker));
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
                    }
                }
            }
        }
        if !self.pending.is_empty() {
            at(self.clock.now());
        }
        next
    }

    fn advance(&mut self) {
        let now = self.clock.now();
        for index in 0..self.shape.workers {
            let at = usize::from(index);
            if let Process::Starting { at: when, id } = self.workers[at].process
                && when <= now
            {
                self.workers[at].process = Process::Ready(id);
                self.pending.push(WorkerEvent::Ready {
                    worker: id,
                    concurrency: self.shape.concurrency,
                    batch: self.shape.batch,
                    cancellable: self.shape.cancellable,
                });
            }
            if let Some((when, death)) = self.workers[at].kill
                && when <= now
            {
                self.die(index, death);
            }
            self.run(index, now);
        }
    }

    fn run(&mut self, index: u16, now: u64) {
        let at = usize::from(index);
        let Process::Ready(id) = self.workers[at].process else { return };
        loop {
            let width = self.width(&self.workers[at]);
            for call in self.workers[at].calls.iter_mut().take(width) {
                call.started.get_or_insert(now);
            }
            let ready = self.workers[at].calls.iter().take(width).position(|c| {
                let ended = c.started.is_some_and(|s| s + c.took <= now);
                ended && (c.plan != Plan::Hang || c.cancelled)
            });
            // A batch ends as one: when its slowest member does.
            let batch = self.shape.batch > 0 && width > 0;
            let batch_done = || {
                self.workers[at]
                    .calls
                    .iter()
                    .take(width)
                    .all(|c| c.started.is_some_and(|s| s + c.took <= now) && (c.plan != Plan::Hang || c.cancelled))
            };
            if batch && !self.workers[at].calls.is_empty() && !batch_done() {
                // A member that kills the process does so when its own time comes.
                let crashing =
                    self.workers[at].calls.iter().take(width).any(|c| {
                        matches!(c.plan, Plan::GiveThenCrash(_)) && c.started.is_some_and(|s| s + c.took <= now)
                    });
                if crashing {
                    self.ledger.fault(Fault::HandlerCrashed);
                    self.die(index, Death::Crashed);
                }
                return;
            }
            let Some(position) = ready else { return };
            let Some(mut call) = self.workers[at].calls.remove(position) else { return };
            if matches!(call.plan, Plan::GiveThenCrash(_)) {
                self.give(id, &mut call);
                self.ledger.fault(Fault::HandlerCrashed);
                self.workers[at].calls.insert(position, call);
                self.die(index, Death::Crashed);
                return;
            }
            self.end(id, call);
        }
    }

    fn give(&mut self, worker: WorkerId, call: &mut Running) {
        while call.given < call.plan.results() {
            let bytes = result_payload(&call.id, call.hop, call.given, call.plan == Plan::Big);
            self.next_output += 1;
            let len = bytes.len() as u64;
            let part = Part { region: (self.next_output as u32) * 2 + 1, offset: 0, len };
            self.outputs.insert(self.next_output, bytes);
            let payload = Payload { offset: 0, document_len: len, len, blobs: 0 };
            let id = OutputId(self.next_output);
            let output = Output { id, parts: vec![part], payload, meta: Vec::new() };
            self.pending.push(WorkerEvent::Result { worker, call: call.call, output });
            call.given += 1;
        }
    }

    fn end(&mut self, worker: WorkerId, mut call: Running) {
        if std::mem::take(&mut self.lie) {
            self.ledger.fault(Fault::Lie);
            let stranger = Key::from_u64(self.random.next());
            let elapsed = Duration::from_nanos(1);
            self.pending.push(WorkerEvent::Ended { worker, call: stranger, end: CallEnd::Done, elapsed });
            let mut ghost = Running { call: stranger, given: 0, plan: Plan::Give(1), ..copy(&call) };
            self.give(worker, &mut ghost);
        }
        self.give(worker, &mut call);
        let error = |kind: &str| ErrorInfo {
            message: "simulated".into(),
            error_type: kind.into(),
            mro: vec!["Exception".into()],
            traceback: Some("…".into()),
        };
        let end = match call.plan {
            Plan::GiveThenFail(_) => CallEnd::Failed { error: error("ValueError"), unparsable: false },
            Plan::Hang => {
                self.ledger.fault(Fault::HandlerHung);
                CallEnd::Failed { error: error("CancelledError"), unparsable: false }
            }
            _ => CallEnd::Done,
        };
        let elapsed = Duration::from_nanos(call.took);
        self.pending.push(WorkerEvent::Ended { worker, call: call.call, end, elapsed });
    }
}

fn copy(call: &Running) -> Running {
    Running { id: call.id.clone(), ..*call }
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
        // What a worker would read is what was sent, not a slot that was freed meanwhile.
        let payload = call.message.payload;
        let bytes = self.slot(call.slot);
        let range = payload.offset as usize..(payload.offset + payload.len) as usize;
        if !bytes.get(range).is_some_and(|b| b.starts_with(b"{\"")) {
            self.ledger.violation(format!("{id} was handed over with a garbled payload"));
        }
        let plan = Plan::of(self.ledger.stage().seed, self.ledger.stage().mix, &self.actor, &id, hop);
        let (low, high) = self.shape.speed;
        let took = low + hash(self.ledger.stage().seed ^ 1, &format!("{}/{id}", self.actor)) % (high - low + 1);
        let worker_state = &mut self.workers[at];
        let alone_there = worker_state.calls.iter().any(|c| c.alone);
        let most = match self.shape.batch {
            0 => usize::from(self.shape.concurrency) + 64,
            batch => usize::from(batch) * 2,
        };
        let others = worker_state.calls.iter().filter(|c| !c.more || c.group != worker_state.groups).count();
        let joins = worker_state.calls.back().is_some_and(|c| c.more);
        self.ledger.handed(worker, if joins { 0 } else { others }, call.alone, alone_there, most);
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
            given: 0,
            cancelled: false,
        };
        worker_state.calls.push_back(running);
        let size = worker_state.calls.iter().filter(|c| c.group == group).count();
        if self.shape.batch > 0 && size > usize::from(self.shape.batch) {
            self.ledger.violation(format!("a batch of {size}, of at most {}", self.shape.batch));
        }
    }

    fn cancel(&mut self, worker: WorkerId, call: MessageId) {
        let now = self.clock.now();
        for running in &mut self.workers[usize::from(worker.index)].calls {
            if running.call == call && running.plan == Plan::Hang {
                running.cancelled = true;
                running.took = now - running.started.unwrap_or(now);
            }
        }
    }

    fn kill(&mut self, worker: WorkerId, death: Death) {
        let when = self.clock.now() + self.random.between(100_000, 5_000_000);
        let target = &mut self.workers[usize::from(worker.index)];
        if matches!(target.process, Process::Ready(id) if id == worker) {
            target.kill = Some((when, death));
            self.ledger.fault(Fault::HandlerHung);
        }
    }

    fn start(&mut self, index: u16) {
        if matches!(self.workers[usize::from(index)].process, Process::Absent) {
            self.spawn(index);
        }
    }

    fn release_output(&mut self, output: OutputId) {
        if self.outputs.remove(&output.0).is_none() {
            self.ledger.violation(format!("{output:?} released twice"));
        }
    }

    fn drained(&mut self) {
        self.drained = true;
    }

    fn ring(&mut self) {}

    fn poll_workers(&mut self, _: &mut Context<'_>, events: &mut Vec<WorkerEvent>) {
        self.advance();
        events.append(&mut self.pending);
    }
}

impl Memory for SimRim {
    fn reserve(&mut self, len: u64) -> Room {
        if len > self.shape.max_message {
            return Room::TooLarge;
        }
        if self.used + len > self.shape.budget {
            return Room::Later;
        }
        self.used += len;
        let bytes = vec![0; len as usize];
        match self.slots.iter().position(|(live, _)| !live) {
            Some(index) => {
                self.slots[index] = (true, bytes);
                Room::Granted(Slot(index as u32))
            }
            None => {
                self.slots.push((true, bytes));
                Room::Granted(Slot(self.slots.len() as u32 - 1))
            }
        }
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        &mut self.slots[slot.0 as usize].1
    }

    fn release(&mut self, slot: Slot) {
        let (live, bytes) = &mut self.slots[slot.0 as usize];
        if !*live {
            self.ledger.violation(format!("{slot:?} released twice"));
            return;
        }
        *live = false;
        self.used -= bytes.len() as u64;
        // Whoever still reads it reads this.
        bytes.fill(0xdd);
    }

    fn copy_part(&self, part: Part, out: &mut Vec<u8>) {
        let index = u64::from(part.region / 2);
        let range = part.offset as usize..(part.offset + part.len) as usize;
        let bytes = if part.region.is_multiple_of(2) {
            self.slots.get(index as usize).map(|(_, bytes)| bytes)
        } else {
            self.outputs.get(&index)
        };
        match bytes.and_then(|b| b.get(range)) {
            Some(bytes) => out.extend_from_slice(bytes),
            None => out.resize(out.len() + part.len as usize, 0xdd),
        }
    }

    fn write_gathered(&self, _: BorrowedFd<'_>, _: &[Piece<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Store for SimRim {
    fn slot(&self, slot: Slot) -> &[u8] {
        self.slots.get(slot.0 as usize).map_or(&[], |(_, bytes)| bytes)
    }

    fn part(&self, slot: Slot, offset: u64, len: u64) -> Part {
        Part { region: slot.0 * 2, offset, len }
    }
}
