//! Work: what workers say, and what it makes of messages.
//!
//! Takes the events of workers, gives publishes of results, failures, other attempts and charges. Pure: it never blocks. What a
//! worker says of a call that it does not run changes nothing.

use std::rc::Rc;
use std::time::Duration;

use asya_envelope::names;

use super::{Pipeline, failure, named};
use crate::flow::{
    CallEnd, Death, Effect, Effects, Ending, Message, MessageId, Now, Observation, Output, Purpose, Report, Role,
    Running, State, Store, WorkerEvent, WorkerId, reason,
};
use crate::handoff::InTime;
use crate::publish::{Address, Load};
use crate::route::{self, Onward};

impl Pipeline {
    pub(super) fn on_worker(&mut self, event: WorkerEvent, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        match event {
            WorkerEvent::Ready { worker, concurrency, batch, cancellable } => {
                self.handoff.on_ready(worker, concurrency, batch, cancellable);
            }
            WorkerEvent::Result { worker, call, output } => self.on_result(worker, call, output, now, fx),
            WorkerEvent::Ended { worker, call, end, elapsed } => {
                let failed = matches!(end, CallEnd::Failed { .. });
                match self.handoff.on_ended(&self.settings, fx, now, worker, call, elapsed, failed) {
                    None => {}
                    Some(InTime::Unclear) => self.run_alone(call, fx),
                    Some(in_time) => self.on_ended(call, end, in_time, elapsed, now, store, fx),
                }
            }
            WorkerEvent::Stalled { worker, call } => self.handoff.on_stalled(worker, call, now),
            WorkerEvent::Resumed { worker, call } => self.handoff.on_resumed(worker, call, now),
            WorkerEvent::Died { worker, death } => self.on_died(worker, death, now, store, fx),
            WorkerEvent::Broken { error, .. } => fx.push(Effect::Report(Report::HandlerBroken { error })),
            // The rim turns it into `Drain` with a deadline.
            WorkerEvent::DrainAsked => {}
        }
    }

    fn on_result(&mut self, worker: WorkerId, call: MessageId, output: Output, now: Now, fx: &mut Effects) {
        let runs_here = |m: &&mut Message| matches!(m.state, State::Running(Running { worker: w, .. }) if w == worker);
        let message = self.flight.messages.get_mut(call).filter(runs_here);
        let Some(message) = message.filter(|_| self.settings.role == Role::Regular) else {
            fx.push(Effect::ReleaseOutput(output.id));
            return;
        };
        let index = message.children;
        message.children += 1;
        let onward = route::onward(&message.head, &output.meta, index, self.stamp.at(now.wall_ms));
        let target = onward.map_err(|e| (reason::RUNTIME_ERROR, e.into_info())).and_then(|onward| {
            let queue = match &onward.to {
                None => Rc::clone(&self.settings.sink),
                Some(actor) => named(&mut self.queues, &self.settings.namespace, actor)
                    .map_err(|text| (reason::UNROUTABLE, failure::plain("asya.Unroutable", text)))?,
            };
            Ok((onward, queue))
        });
        let (Onward { head, to }, queue) = match target {
            Ok(target) => target,
            Err(doom) => {
                message.doomed = Some(doom);
                fx.push(Effect::ReleaseOutput(output.id));
                return;
            }
        };
        let like = message.content_type;
        let purpose = if to.is_some() { Purpose::Next } else { Purpose::Sink };
        let reply = if to.is_none() { head.headers.get_str(names::HEADER_REPLY_TO) } else { None };
        let Output { id, parts, payload, .. } = output;
        if let Some(reply) = reply {
            self.publishing.share(id);
            let to = Address { message: call, purpose: Purpose::Reply, queue: Rc::from(reply), delay: None };
            let load = Load { payload, parts: parts.clone(), output: Some(id) };
            self.publishing.send(&mut self.flight, fx, now, to, &head, like, load);
        }
        let to = Address { message: call, purpose, queue, delay: None };
        let load = Load { payload, parts, output: Some(id) };
        self.publishing.send(&mut self.flight, fx, now, to, &head, like, load);
    }

    fn on_ended(
        &mut self,
        id: MessageId,
        end: CallEnd,
        in_time: InTime,
        elapsed: Duration,
        now: Now,
        store: &mut dyn Store,
        fx: &mut Effects,
    ) {
        let Some(message) = self.flight.messages.get_mut(id) else { return };
        message.state = State::Publishing;
        let doomed = message.doomed.take();
        match (end, doomed) {
            (CallEnd::Failed { error, .. }, _) if in_time == InTime::No => {
                self.out_of_time(id, Some(error), now, store, fx);
            }
            (CallEnd::Failed { error, unparsable: true, .. }, _) => {
                self.fail(id, reason::PARSE_ERROR, error, now, store, fx);
            }
            (CallEnd::Failed { error, retry_after, .. }, _) => {
                self.retry_or_fail(id, reason::RUNTIME_ERROR, error, retry_after, elapsed, now, store, fx);
            }
            (CallEnd::Done, Some((why, error))) => self.fail(id, why, error, now, store, fx),
            (CallEnd::Done, None) if self.settings.role == Role::End => {
                message.ending = Ending::Consumed;
                self.finish_if_confirmed(id, now, fx);
            }
            (CallEnd::Done, None) if message.children > 0 => {
                message.ending = Ending::Success;
                self.finish_if_confirmed(id, now, fx);
            }
            (CallEnd::Done, None) => {
                message.ending = Ending::Empty;
                let head = route::ended(&message.head, self.stamp.at(now.wall_ms));
                self.send_original(id, Purpose::Sink, &head, now, store, fx);
            }
        }
    }

    /// A member of a batch that ran out of time is suspected of it: alone it shows.
    fn run_alone(&mut self, id: MessageId, fx: &mut Effects) {
        let Some(message) = self.flight.messages.get_mut(id) else { return };
        message.state = State::Waiting;
        message.suspect = true;
        message.children = 0;
        message.doomed = None;
        fx.observe(Observation::Suspects(1));
        self.handoff.wait(id, true);
        self.watch_deadlines();
        self.drop_lost(fx);
    }

    fn on_died(&mut self, worker: WorkerId, death: Death, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        let blame = self.handoff.on_died(&mut self.flight, now, worker, death);
        fx.observe(Observation::WorkerDied(death));
        fx.observe(Observation::Suspects(blame.suspects));
        fx.push(Effect::Report(Report::WorkerDied { worker, death, suspects: blame.suspects }));
        for id in blame.timed_out {
            self.out_of_time(id, None, now, store, fx);
        }
        for id in blame.charged {
            self.charge(id, now, store, fx);
        }
        self.watch_deadlines();
        self.drop_lost(fx);
    }
}
