//! Handoff: from waiting messages to running calls, and back when a worker dies.
//!
//! Takes messages, gives `Submit`s, bound to a worker as late as possible. Messages wait here for a free worker, for a
//! batch to fill, or, as suspects, for a worker to run alone on. When a worker dies, what ran becomes a suspect and what
//! had not begun goes back, uncharged; only what dies alone is charged.

pub mod worker;

use std::collections::VecDeque;
use std::time::Duration;

use crate::flow::{
    Death, Effect, Effects, Flight, MessageId, Now, Observation, Release, Running, Settings, State, Time, WorkerId,
};
use worker::{Worker, WorkerState};

/// Calls that are given ahead of a busy worker cover this much of its time, so that it never waits for a doorbell.
const AHEAD: Duration = Duration::from_millis(1);

/// A handler this slow is given nothing ahead: the doorbell's latency is lost in its own.
const SLOW: Duration = Duration::from_millis(50);

/// Most calls ahead: beyond this, batching gains nothing and a crash disturbs more.
const MOST_AHEAD: u32 = 64;

/// First pause before a worker that dies without finishing anything is started again; doubles up to [`RESTART_CAP`].
const RESTART: Duration = Duration::from_millis(100);

/// Longest such pause.
const RESTART_CAP: Duration = Duration::from_secs(10);

/// Longest such pause after a death in the middle of a call: the message bears the blame and goes, so that deaths of this
/// kind come to an end by themselves, and what waits behind it is not to pay.
const RESTART_CAP_IN_CALL: Duration = Duration::from_secs(1);

/// What became of the messages of a dead worker.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Blame {
    /// Ran, each in a call of its own, when their deadline passed: they fail.
    pub timed_out: Vec<MessageId>,
    /// Ran alone: they are charged.
    pub charged: Vec<MessageId>,
    /// Ran beside others: they run again alone.
    pub suspects: u32,
}

/// What the clock says of a call that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InTime {
    /// It ended by itself.
    Yes,
    /// It was cancelled for its time.
    No,
    /// Its batch was cancelled: which member took the time is not known.
    Unclear,
}

/// The waiting messages and the workers.
#[derive(Debug)]
pub struct Handoff {
    waiting: VecDeque<MessageId>,
    suspects: VecDeque<MessageId>,
    workers: Vec<Worker>,
    /// Handler time of one call (for batches: of a whole batch), smoothed; `None` until one has ended.
    per_call_ns: Option<f64>,
    /// Since when no worker has been ready.
    unready_since: Time,
}

impl Handoff {
    /// `count` workers, none of them there yet.
    pub fn new(count: u16, now: Time) -> Self {
        Self {
            waiting: VecDeque::new(),
            suspects: VecDeque::new(),
            workers: (0..count).map(|_| Worker::default()).collect(),
            per_call_ns: None,
            unready_since: now,
        }
    }

    /// Takes a message that waits.
    pub fn wait(&mut self, id: MessageId, suspect: bool) {
        if suspect { self.suspects.push_back(id) } else { self.waiting.push_back(id) }
    }

    /// Takes one message out, if it waits.
    pub fn forget(&mut self, id: MessageId) {
        self.waiting.retain(|&waiting| waiting != id);
        self.suspects.retain(|&waiting| waiting != id);
    }

    /// Messages that wait, suspects included.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.suspects.len()
    }

    /// Takes every waiting message out.
    pub fn take_waiting(&mut self) -> Vec<MessageId> {
        self.suspects.drain(..).chain(self.waiting.drain(..)).collect()
    }

    /// Calls that were given to workers and have not ended.
    pub fn running(&self) -> usize {
        self.workers.iter().map(|w| w.open.len()).sum()
    }

    /// Whether any worker is ready.
    pub fn ready(&self) -> bool {
        self.workers.iter().any(Worker::is_ready)
    }

    /// How many workers are ready.
    pub fn ready_workers(&self) -> u32 {
        self.workers.iter().filter(|w| w.is_ready()).count() as u32
    }

    /// Since when no worker has been ready, if none is.
    pub fn unready_since(&self) -> Option<Time> {
        (!self.ready()).then_some(self.unready_since)
    }

    /// Messages that all ready workers together run at once.
    pub fn width(&self) -> u32 {
        self.workers.iter().filter(|w| w.is_ready()).map(|w| u32::from(w.concurrency.max(w.batch))).sum()
    }

    /// Handler time of one call, smoothed.
    pub fn per_call(&self) -> Option<Duration> {
        self.per_call_ns.map(|ns| Duration::from_nanos(ns as u64))
    }

    /// A worker has loaded its handler.
    pub fn on_ready(&mut self, id: WorkerId, concurrency: u16, batch: u16, cancellable: bool) {
        let Some(worker) = self.workers.get_mut(usize::from(id.index)) else { return };
        // Said twice, it would be taken for a new process, and what is open on this one would be forgotten.
        if worker.id() == Some(id) {
            return;
        }
        *worker = Worker::ready(id, concurrency, batch, cancellable, worker.fruitless);
    }

    /// Whether this call is open on this very worker.
    pub fn is_open(&self, id: WorkerId, call: MessageId) -> bool {
        self.worker(id).is_some_and(|w| w.open.iter().any(|c| c.message == call))
    }

    fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(usize::from(id.index)).filter(|w| w.id() == Some(id))
    }

    /// A call has ended; gives whether it did so in time, or `None` when it was not open.
    ///
    /// A worker that can cancel keeps the time too, and may end a call before the order to do so reaches it.
    pub fn on_ended(
        &mut self,
        settings: &Settings,
        fx: &mut Effects,
        now: Now,
        id: WorkerId,
        call: MessageId,
        elapsed: Duration,
        failed: bool,
    ) -> Option<InTime> {
        let worker = self.workers.get_mut(usize::from(id.index)).filter(|w| w.id() == Some(id))?;
        let at = worker.open.iter().position(|c| c.message == call)?;
        let ended = worker.open.remove(at)?;
        worker.fruitless = 0;
        // The members of a batch all tell the time of the whole: it is counted once, with the last.
        let last = !worker.open.iter().any(|c| c.group == ended.group);
        if last {
            let took = elapsed.as_nanos() as f64;
            let smooth = self.per_call_ns.map_or(took, |old| old + (took - old) / 8.0);
            self.per_call_ns = Some(smooth.max(1.0));
            fx.observe(Observation::Ran { elapsed, messages: ended.group_size, failed });
        }
        worker.start_heads(now.mono);
        let ran = elapsed.saturating_sub(ended.stood_still);
        let overran = ended.cancelled
            || (!settings.timeout.is_zero() && ran >= settings.timeout)
            || ended.deadline.is_some_and(|deadline| now.mono >= deadline);
        Some(match (overran && failed, ended.group_size) {
            (false, _) => InTime::Yes,
            (true, 1) => InTime::No,
            (true, _) => InTime::Unclear,
        })
    }

    /// A call waits for the room that its result needs: while the broker takes nothing, that is nobody's fault.
    pub fn on_stalled(&mut self, id: WorkerId, call: MessageId, now: Now) {
        if let Some(worker) = self.workers.get_mut(usize::from(id.index)).filter(|w| w.id() == Some(id)) {
            worker.stall(call, now.mono);
        }
    }

    /// It has its room.
    pub fn on_resumed(&mut self, id: WorkerId, call: MessageId, now: Now) {
        if let Some(worker) = self.workers.get_mut(usize::from(id.index)).filter(|w| w.id() == Some(id)) {
            worker.resume(call, now.mono);
        }
    }

    /// Gives waiting messages to workers that can begin them soon.
    pub fn assign(&mut self, settings: &Settings, flight: &mut Flight, fx: &mut Effects, now: Now) {
        self.assign_suspects(flight, fx, now);
        while !self.waiting.is_empty() {
            let Some(index) = self.least_loaded() else { return };
            let submitted = if self.workers[index].batch > 0 {
                self.submit_batch(settings, flight, fx, now, index)
            } else {
                self.submit_one(flight, fx, now, index)
            };
            if !submitted {
                return;
            }
        }
    }

    fn assign_suspects(&mut self, flight: &mut Flight, fx: &mut Effects, now: Now) {
        while let Some(&suspect) = self.suspects.front() {
            if flight.messages.get(suspect).is_none() {
                self.suspects.pop_front();
                continue;
            }
            // The worker with the least to finish is fed no more until it has run this one alone.
            let chosen = self
                .workers
                .iter_mut()
                .filter(|w| w.is_ready() && !w.runs_alone())
                .min_by_key(|w| (!w.reserved, w.open.len()));
            let Some(worker) = chosen else { return };
            worker.reserved = true;
            if !worker.open.is_empty() {
                return;
            }
            self.suspects.pop_front();
            worker.reserved = false;
            worker.submit(flight, fx, now.mono, &[suspect], true);
            if worker.batch > 0 {
                fx.observe(Observation::BatchReleased { why: Release::Alone, messages: 1 });
            }
        }
        for worker in &mut self.workers {
            worker.reserved = false;
        }
    }

    /// The ready worker that most deserves the next message, if any may have it.
    fn least_loaded(&self) -> Option<usize> {
        let ahead = |worker: &Worker| match self.per_call_ns {
            // Unknown speed: one at a time, until one has ended.
            None => 0,
            Some(ns) if ns >= SLOW.as_nanos() as f64 => 0,
            Some(ns) => {
                let calls = AHEAD.as_nanos() as f64 * f64::from(worker.concurrency) / ns;
                (calls.ceil() as u32).clamp(1, MOST_AHEAD)
            }
        };
        self.workers
            .iter()
            .enumerate()
            .filter(|(_, w)| w.is_ready() && !w.reserved && !w.runs_alone() && w.has_room(ahead(w)))
            .min_by_key(|(_, w)| w.open.len())
            .map(|(index, _)| index)
    }

    fn submit_one(&mut self, flight: &mut Flight, fx: &mut Effects, now: Now, index: usize) -> bool {
        let Some(&id) = self.waiting.front() else { return false };
        // Nobody knows how long it would lie ahead of a busy worker; what has a deadline is given when it can begin.
        let hurried = flight.messages.get(id).is_some_and(|message| message.deadline.is_some());
        if hurried && !self.workers[index].has_room(0) {
            return false;
        }
        self.waiting.pop_front();
        if flight.messages.get(id).is_some() {
            self.workers[index].submit(flight, fx, now.mono, &[id], false);
        }
        true
    }

    fn submit_batch(
        &mut self,
        settings: &Settings,
        flight: &mut Flight,
        fx: &mut Effects,
        now: Now,
        index: usize,
    ) -> bool {
        self.waiting.retain(|&id| flight.messages.get(id).is_some());
        let worker = &self.workers[index];
        let mut size = 0;
        let mut bytes = 0;
        let mut why = None;
        for message in self.waiting.iter().filter_map(|&id| flight.messages.get(id)) {
            if size > 0 && bytes + message.payload.len > settings.batch_bytes {
                why = Some(Release::Bytes);
                break;
            }
            size += 1;
            bytes += message.payload.len;
            if size == usize::from(worker.batch) {
                why = Some(Release::Full);
                break;
            }
        }
        // A worker that is busy is only given a batch that cannot grow; one that is idle also takes what has waited.
        let aged = || {
            let oldest = self.waiting.front().and_then(|&id| flight.messages.get(id))?;
            (worker.open.is_empty() && now.mono.since(oldest.arrived) >= settings.batch_wait).then_some(Release::Age)
        };
        let Some(why) = why.or_else(aged) else { return false };
        let group: Vec<MessageId> = self.waiting.drain(..size).collect();
        fx.observe(Observation::BatchReleased { why, messages: size as u32 });
        self.workers[index].submit(flight, fx, now.mono, &group, false);
        true
    }

    /// Acts on calls that have run out of time.
    pub fn expire(&mut self, settings: &Settings, flight: &mut Flight, fx: &mut Effects, now: Now) {
        for worker in &mut self.workers {
            let WorkerState::Ready(id) = worker.state else { continue };
            let width = worker.running_width();
            let mut kill = false;
            for call in worker.open.iter_mut().take(width).filter(|call| call.stalled.is_none()) {
                let Some(until) = call.until(settings) else { continue };
                if !call.cancelled && now.mono >= until {
                    call.cancelled = true;
                    if let Some(message) = flight.messages.get_mut(call.message) {
                        message.state = State::Running(Running { worker: id, cancelled: Some(now.mono) });
                    }
                    if worker.cancellable {
                        fx.push(Effect::CancelCall { worker: id, call: call.message });
                    } else {
                        kill = true;
                    }
                } else if call.cancelled && now.mono >= until.after(settings.cancel_grace) {
                    kill = true;
                }
            }
            if kill {
                worker.state = WorkerState::Dying(id);
                fx.push(Effect::Kill { worker: id, death: Death::TimedOut });
            }
        }
    }

    /// A worker is gone: sorts its calls by what they had to do with it.
    pub fn on_died(&mut self, flight: &mut Flight, now: Now, id: WorkerId, death: Death) -> Blame {
        let mut blame = Blame::default();
        let Some(worker) = self.workers.get_mut(usize::from(id.index)) else { return blame };
        if worker.id().is_some_and(|current| current != id) {
            return blame;
        }
        let width = worker.running_width();
        let calls = std::mem::take(&mut worker.open);
        // A runtime that is gone as a whole takes longer to come back than a worker, whoever is to blame.
        let blameless = calls.is_empty() || death == Death::Detached;
        let cap = if blameless { RESTART_CAP } else { RESTART_CAP_IN_CALL };
        let pause = match worker.fruitless {
            0 => Duration::ZERO,
            n => RESTART.saturating_mul(1 << (n - 1).min(10)).min(cap),
        };
        worker.fruitless += 1;
        worker.reserved = false;
        worker.state = WorkerState::Absent { restart: Some(now.mono.after(pause)) };
        for (at, call) in calls.iter().enumerate().rev() {
            let Some(message) = flight.messages.get_mut(call.message) else { continue };
            message.state = State::Waiting;
            // Children have the same ids when they come again, and what doomed them may not.
            message.children = 0;
            message.doomed = None;
            if at >= width {
                self.waiting.push_front(call.message);
            } else if death == Death::TimedOut && call.cancelled && call.group_size == 1 {
                blame.timed_out.push(call.message);
            } else if call.alone && death != Death::TimedOut {
                blame.charged.push(call.message);
            } else {
                blame.suspects += 1;
                message.suspect = true;
                self.suspects.push_front(call.message);
            }
        }
        if !self.ready() {
            self.unready_since = now.mono;
        }
        blame
    }

    /// Starts replacements that are due.
    pub fn restart(&mut self, fx: &mut Effects, now: Now) {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            if let WorkerState::Absent { restart: Some(due) } = worker.state
                && due <= now.mono
            {
                worker.state = WorkerState::Absent { restart: None };
                fx.push(Effect::Start { index: index as u16 });
            }
        }
    }

    /// When something is due here.
    pub fn next_timer(&self, settings: &Settings, flight: &Flight) -> Option<Time> {
        let workers = self.workers.iter().filter_map(|w| w.next_timer(settings));
        let batch = self
            .waiting
            .front()
            .filter(|_| self.workers.iter().any(|w| w.batch > 0 && w.is_ready() && w.open.is_empty()))
            .and_then(|&id| flight.messages.get(id))
            .map(|m| m.arrived.after(settings.batch_wait));
        workers.chain(batch).min()
    }
}
