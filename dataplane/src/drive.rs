//! One turn of the data thread: gather what is ready, decide, carry out, flush.
//!
//! Takes a transport and a rim (memory and workers), real or simulated; gives whether the drain has ended. Never
//! blocks: the caller sleeps between turns until something is ready or [`Sidecar::next_timer`] is due.

use std::task::Context;

use asya_transport::{Op, Transport};

use crate::flow::{
    Death, Effect, Effects, Event, Message, MessageId, Now, Observation, OutputId, Report, Store, Time, WorkerEvent,
    WorkerId,
};
use crate::pipeline::Pipeline;
use crate::publish::as_publish;

/// One message as a worker is given it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Its name.
    pub id: MessageId,
    /// Head and payload.
    pub message: &'a Message,
    /// Where its payload lies.
    pub slot: asya_transport::Slot,
    /// The next call to this worker belongs to the same batch.
    pub more: bool,
    /// Nothing else runs beside it.
    pub alone: bool,
}

/// The runtime and the memory that it shares with the transport.
pub trait Rim: Store {
    /// Hands a call to a worker.
    fn submit(&mut self, worker: WorkerId, call: Call<'_>);
    /// Cancels a call that can be.
    fn cancel(&mut self, worker: WorkerId, call: MessageId);
    /// Kills a worker.
    fn kill(&mut self, worker: WorkerId, death: Death);
    /// Starts the replacement of a dead worker.
    fn start(&mut self, index: u16);
    /// Takes a result's memory back.
    fn release_output(&mut self, output: OutputId);
    /// Tells the runtime that the drain has ended.
    fn drained(&mut self);
    /// Rings for everything that was handed over.
    fn ring(&mut self);
    /// Appends everything that has happened and arranges for `cx` to be woken when there is more.
    fn poll_workers(&mut self, cx: &mut Context<'_>, events: &mut Vec<WorkerEvent>);
}

/// Who wants to know: metrics and logs.
pub trait Audience {
    /// A fact for metrics.
    fn observe(&mut self, observation: &Observation);
    /// A report for people.
    fn report(&mut self, report: &Report);
    /// What the transport says of itself, before the core hears it.
    fn broker(&mut self, event: &asya_transport::Event);
}

/// The core with its rim.
pub struct Sidecar<T, R, A> {
    pipeline: Pipeline,
    transport: T,
    rim: R,
    audience: A,
    fx: Effects,
    broker_events: Vec<asya_transport::Event>,
    worker_events: Vec<WorkerEvent>,
    drained: bool,
    drain_asked: bool,
    fatal: Option<String>,
}

impl<T: Transport, R: Rim, A: Audience> Sidecar<T, R, A> {
    /// Puts them together.
    pub fn new(pipeline: Pipeline, transport: T, rim: R, audience: A) -> Self {
        Self {
            pipeline,
            transport,
            rim,
            audience,
            fx: Effects::default(),
            broker_events: Vec::new(),
            worker_events: Vec::new(),
            drained: false,
            drain_asked: false,
            fatal: None,
        }
    }

    /// The core.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The transport.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// The rim.
    pub fn rim(&mut self) -> &mut R {
        &mut self.rim
    }

    /// Transport and rim, for faults that need both.
    pub fn parts(&mut self) -> (&mut T, &mut R) {
        (&mut self.transport, &mut self.rim)
    }

    /// Metrics and logs.
    pub fn audience(&mut self) -> &mut A {
        &mut self.audience
    }

    /// Whether the drain has ended: everything is settled or handed back, and written out once flushed.
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// Takes leave of the broker: the process ends after it.
    pub fn leave(&mut self) {
        self.transport.leave(&mut self.rim);
    }

    /// Whether the runtime has asked for a drain since the last time this was asked.
    pub fn take_drain_asked(&mut self) -> bool {
        std::mem::take(&mut self.drain_asked)
    }

    /// Why the broker will never take this sidecar, if it has said so.
    pub fn fatal(&self) -> Option<&str> {
        self.fatal.as_deref()
    }

    /// When a turn is due, if nothing else happens before.
    pub fn next_timer(&self) -> Option<Time> {
        self.pipeline.next_timer()
    }

    /// Begins a drain.
    pub fn drain(&mut self, deadline: Time, now: Now) {
        self.handle(Event::Drain { deadline }, now);
    }

    /// One turn. Gives whether anything had happened.
    pub fn turn(&mut self, cx: &mut Context<'_>, now: Now) -> bool {
        let mut broker = std::mem::take(&mut self.broker_events);
        let mut workers = std::mem::take(&mut self.worker_events);
        self.transport.poll(cx, &mut self.rim, &mut broker);
        self.rim.poll_workers(cx, &mut workers);
        let anything = !broker.is_empty() || !workers.is_empty();
        for event in broker.drain(..) {
            self.audience.broker(&event);
            if let asya_transport::Event::Fatal { why } = &event {
                self.fatal = Some(why.clone());
            }
            self.handle(Event::Broker(event), now);
        }
        for event in workers.drain(..) {
            self.drain_asked |= event == WorkerEvent::DrainAsked;
            self.handle(Event::Worker(event), now);
        }
        self.broker_events = broker;
        self.worker_events = workers;
        self.handle(Event::Tick, now);
        self.rim.ring();
        self.transport.flush(&mut self.rim);
        anything
    }

    fn handle(&mut self, event: Event, now: Now) {
        self.pipeline.handle(event, now, &mut self.rim, &mut self.fx);
        let mut fx = std::mem::take(&mut self.fx);
        for effect in fx.effects.drain(..) {
            self.carry_out(effect);
        }
        for observation in fx.observations.drain(..) {
            self.audience.observe(&observation);
        }
        self.fx = fx;
    }

    fn carry_out(&mut self, effect: Effect) {
        let flight = self.pipeline.flight();
        match effect {
            Effect::Consume { window } => {
                self.transport.submit(Op::Consume { queue: &self.pipeline.settings().queue, window });
            }
            Effect::Cancel => self.transport.submit(Op::Cancel),
            Effect::Submit { worker, call, more, alone } => {
                if let Some(message) = flight.messages.get(call)
                    && let Some(delivery) = flight.deliveries.get(message.delivery)
                    && let Some(slot) = message.rebuilt.or(delivery.slot)
                {
                    self.rim.submit(worker, Call { id: call, message, slot, more, alone });
                }
            }
            Effect::CancelCall { worker, call } => self.rim.cancel(worker, call),
            Effect::Kill { worker, death } => self.rim.kill(worker, death),
            Effect::Start { index } => self.rim.start(index),
            Effect::Publish(id) => {
                if let Some(publication) = flight.publications.get(id) {
                    self.transport.submit(Op::Publish(as_publish(id, publication)));
                }
            }
            Effect::Settle { tag, how } => self.transport.submit(Op::Settle { tag, how }),
            Effect::Extend { tag, by } => self.transport.submit(Op::Extend { tag, by }),
            Effect::ReleaseSlot(slot) => self.rim.release(slot),
            Effect::ReleaseOutput(output) => self.rim.release_output(output),
            Effect::Drained => {
                self.drained = true;
                self.rim.drained();
            }
            Effect::Report(report) => self.audience.report(&report),
        }
    }
}
