//! One worker as the core sees it: what it was given, in order, and which of that it can be running.
//!
//! A worker begins calls in the order in which it was given them, so what runs is the head of the list: as many as it
//! runs at once, or its first batch.

use std::collections::VecDeque;
use std::time::Duration;

use crate::flow::{Effect, Effects, Flight, MessageId, Observation, Running, Settings, State, Time, WorkerId};

/// Whether a worker is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// No process, or one that has not loaded its handler yet.
    Absent {
        /// When to ask for a replacement; `None` once asked.
        restart: Option<Time>,
    },
    /// It takes calls.
    Ready(WorkerId),
    /// It was killed; its death is not yet told.
    Dying(WorkerId),
}

/// One call that was given to the worker.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The message.
    pub message: MessageId,
    /// Calls of one batch share it.
    pub group: u64,
    /// Calls in that batch.
    pub group_size: u32,
    /// The deadline of its message, and as much later as it has stood still. That of a member of a batch does not end the
    /// others' work.
    pub deadline: Option<Time>,
    /// When it came to the head of the list, and as much later as it has stood still since.
    pub started: Option<Time>,
    /// Since when it stands still.
    pub stalled: Option<Time>,
    /// How long it has stood still in all.
    pub stood_still: Duration,
    /// Its time was up, and it was asked to end.
    pub cancelled: bool,
    /// It is a suspect that runs alone.
    pub alone: bool,
}

impl Call {
    /// When its time is up: that of the actor, or less where its deadline is nearer. `None` = never, or it has not begun.
    pub fn until(&self, settings: &Settings) -> Option<Time> {
        let started = self.started?;
        let timeout = (!settings.timeout.is_zero()).then(|| started.after(settings.timeout));
        timeout.into_iter().chain(self.deadline).min()
    }
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Whether it is there.
    pub state: WorkerState,
    /// Calls that run at once.
    pub concurrency: u16,
    /// Most payloads of one call; 0 = no batches.
    pub batch: u16,
    /// Whether a running call can be cancelled.
    pub cancellable: bool,
    /// What it was given, in order.
    pub open: VecDeque<Call>,
    /// It is to run a suspect alone once it has finished.
    pub reserved: bool,
    /// Deaths in a row without a call that ended.
    pub fruitless: u32,
    groups: u64,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            state: WorkerState::Absent { restart: None },
            concurrency: 1,
            batch: 0,
            cancellable: false,
            open: VecDeque::new(),
            reserved: false,
            fruitless: 0,
            groups: 0,
        }
    }
}

impl Worker {
    /// One that has just loaded its handler, after so many fruitless deaths of its predecessors.
    pub fn ready(id: WorkerId, concurrency: u16, batch: u16, cancellable: bool, fruitless: u32) -> Self {
        let concurrency = concurrency.max(1);
        Self { state: WorkerState::Ready(id), concurrency, batch, cancellable, fruitless, ..Self::default() }
    }

    /// Its name, when it is there.
    pub fn id(&self) -> Option<WorkerId> {
        match self.state {
            WorkerState::Ready(id) | WorkerState::Dying(id) => Some(id),
            WorkerState::Absent { .. } => None,
        }
    }

    /// Whether it takes calls.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, WorkerState::Ready(_))
    }

    /// Whether it runs a suspect.
    pub fn runs_alone(&self) -> bool {
        self.open.front().is_some_and(|c| c.alone)
    }

    /// How many calls at the head of the list can be running.
    pub fn running_width(&self) -> usize {
        match self.open.front() {
            Some(first) if self.batch > 0 => self.open.iter().take_while(|c| c.group == first.group).count(),
            _ => usize::from(self.concurrency),
        }
    }

    /// Whether it may be given more, with so many calls ahead of those that run.
    pub fn has_room(&self, ahead: u32) -> bool {
        if self.batch > 0 {
            let waiting = self.open.len() - self.running_width().min(self.open.len());
            return self.open.is_empty() || (waiting == 0 && ahead > 0);
        }
        self.open.len() < usize::from(self.concurrency) + ahead as usize
    }

    /// Gives it these calls, as one batch when it takes batches.
    pub fn submit(&mut self, flight: &mut Flight, fx: &mut Effects, now: Time, group: &[MessageId], alone: bool) {
        let WorkerState::Ready(id) = self.state else { return };
        let deadline = match group {
            [single] if self.batch == 0 || self.open.is_empty() => {
                flight.messages.get(*single).and_then(|message| message.deadline)
            }
            _ => None,
        };
        self.groups += 1;
        for (at, &message) in group.iter().enumerate() {
            if let Some(record) = flight.messages.get_mut(message) {
                record.state = State::Running(Running { worker: id, cancelled: None });
                fx.observe(Observation::HandedOver { waited: now.since(record.arrived) });
            }
            self.open.push_back(Call {
                message,
                group: self.groups,
                group_size: group.len() as u32,
                deadline,
                started: None,
                stalled: None,
                stood_still: Duration::ZERO,
                cancelled: false,
                alone,
            });
            fx.push(Effect::Submit { worker: id, call: message, more: at + 1 < group.len(), alone });
        }
        self.start_heads(now);
    }

    /// Notes that the calls at the head of the list have begun.
    pub fn start_heads(&mut self, now: Time) {
        let width = self.running_width();
        for call in self.open.iter_mut().take(width) {
            call.started.get_or_insert(now);
        }
    }

    /// The time of a call stands still, and that of its whole batch with it: the others wait behind it.
    pub fn stall(&mut self, message: MessageId, now: Time) {
        for call in self.together_with(message) {
            call.stalled.get_or_insert(now);
        }
    }

    /// It goes on.
    pub fn resume(&mut self, message: MessageId, now: Time) {
        for call in self.together_with(message) {
            let Some(since) = call.stalled.take() else { continue };
            let stood_still = now.since(since);
            call.stood_still += stood_still;
            call.started = call.started.map(|started| started.after(stood_still));
            call.deadline = call.deadline.map(|deadline| deadline.after(stood_still));
        }
    }

    /// The calls of the group that this message runs in.
    fn together_with(&mut self, message: MessageId) -> impl Iterator<Item = &mut Call> {
        let group = self.open.iter().find(|call| call.message == message).map(|call| call.group);
        self.open.iter_mut().filter(move |call| Some(call.group) == group)
    }

    /// When it needs attention: a deadline or a restart.
    pub fn next_timer(&self, settings: &Settings) -> Option<Time> {
        match self.state {
            WorkerState::Absent { restart } => restart,
            WorkerState::Dying(_) => None,
            WorkerState::Ready(_) => self
                .open
                .iter()
                .take(self.running_width())
                .filter(|c| c.stalled.is_none())
                .filter_map(|c| {
                    let grace = if c.cancelled { settings.cancel_grace } else { Duration::ZERO };
                    c.until(settings).map(|until| until.after(grace))
                })
                .min(),
        }
    }
}
