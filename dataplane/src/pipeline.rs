//! The path of a message: the only file that names every stage.
//!
//! ```text
//! Delivered ─► intake ─► handoff ─► route ─► publish ─► settle ─► Settle
//! ```
//! Takes events, gives effects, in pure synchronous code: the same that runs against real brokers and in the
//! simulation. After each batch of events the rim sends one [`Event::Tick`], which is when waiting messages are given
//! to workers: what was ready in the same turn travels together.

mod failure;
mod handback;
#[cfg(test)]
mod tests;
mod time;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use asya_envelope::{ErrorInfo, names};
use asya_transport::{self as transport, Settlement, Tag};

use crate::flow::{
    Delivery, DeliveryId, Effect, Effects, Ending, Event, Flight, Message, MessageId, Now, Observation, Report,
    Settings, State, Store, Time, reason,
};
use crate::handoff::Handoff;
use crate::intake::window::Window;
use crate::intake::{self, Intaken, Portion};
use crate::lifecycle::{Phase, Step};
use crate::publish::{Publishing, Verdict};
use crate::route;
use crate::settle::{self, finished::Finished, leases::Leases, orphans::Orphans};
use crate::stamp::Stamp;

/// Messages by where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Decoded, not given to a worker.
    pub waiting: usize,
    /// Given to a worker.
    pub running: usize,
    /// Their results are on their way.
    pub publishing: usize,
    /// Done, but for a redelivery that may come.
    pub finished: usize,
    /// Publishes (not messages) that wait to be tried again.
    pub parked: usize,
}

/// The core: everything that is decided about a message.
#[derive(Debug)]
pub struct Pipeline {
    settings: Settings,
    flight: Flight,
    phase: Phase,
    window: Window,
    handoff: Handoff,
    publishing: Publishing,
    orphans: Orphans,
    leases: Leases,
    finished: Finished,
    /// Messages whose use ends at a time, by that time. Those of messages that are gone are swept out in time.
    deadlines: BTreeSet<(Time, MessageId)>,
    /// Messages that wait for their time: what is tried again in a moment, and what an end actor, which has nowhere to send it,
    /// runs again later.
    postponed: BTreeSet<(Time, MessageId)>,
    /// Deliveries for which there was no room, and when they go back. Bounded by the window.
    returning: VecDeque<(Time, Tag)>,
    queues: BTreeMap<String, Rc<str>>,
    stamp: Stamp,
}

impl Pipeline {
    /// A core at rest: no worker, no connection.
    pub fn new(settings: Settings, now: Now) -> Self {
        Self {
            window: Window::new(settings.max_window),
            handoff: Handoff::new(settings.workers, now.mono),
            finished: Finished::new(settings.remembered),
            settings,
            flight: Flight::default(),
            phase: Phase::Idle,
            publishing: Publishing::default(),
            orphans: Orphans::default(),
            leases: Leases::default(),
            deadlines: BTreeSet::new(),
            postponed: BTreeSet::new(),
            returning: VecDeque::new(),
            queues: BTreeMap::new(),
            stamp: Stamp::default(),
        }
    }

    /// Everything in flight, for the rim to read what effects name.
    pub fn flight(&self) -> &Flight {
        &self.flight
    }

    /// What the core was told of its actor.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether the actor consumes, pauses or drains.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether any worker is ready.
    pub fn ready(&self) -> bool {
        self.handoff.ready()
    }

    /// Workers whose handler is loaded.
    pub fn ready_workers(&self) -> u32 {
        self.handoff.ready_workers()
    }

    /// Messages by where they are.
    pub fn stages(&self) -> Stages {
        let waiting = self.handoff.waiting() + self.postponed.len();
        let (running, finished) = (self.handoff.running(), self.orphans.waiting());
        let publishing = self.flight.messages.len().saturating_sub(waiting + running + finished);
        Stages { waiting, running, publishing, finished, parked: self.publishing.parked() }
    }

    /// When a [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_timer(&self) -> Option<Time> {
        let unready = match self.phase {
            Phase::Consuming => self.handoff.unready_since().map(|at| at.after(self.settings.ready_grace)),
            // Nothing is acted on any more.
            Phase::Drained => return None,
            phase => phase.deadline(),
        };
        let returning = self.returning.front().map(|&(due, _)| due);
        let postponed = self.postponed.first().map(|&(due, _)| due);
        let handoff = self.handoff.next_timer(&self.settings, &self.flight);
        let deadline = self.deadlines.first().map(|&(due, _)| due);
        let stages =
            [handoff, self.publishing.next_timer(), self.orphans.next_timer(), self.leases.next_timer(), deadline];
        stages.into_iter().chain([unready, postponed, returning]).flatten().min()
    }

    /// Handles one event. The effects are to be carried out, in order, before the next event is handled.
    pub fn handle(&mut self, event: Event, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        match event {
            Event::Broker(event) => self.on_broker(event, now, store, fx),
            Event::Worker(event) => self.on_worker(event, now, store, fx),
            Event::Drain { deadline } => {
                let step = self.phase.drain(deadline);
                self.step(step, now, store, fx);
            }
            Event::Tick => self.tick(now, store, fx),
        }
    }

    fn on_broker(&mut self, event: transport::Event, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        match event {
            transport::Event::Delivered(delivery) => self.on_delivered(delivery, now, store, fx),
            transport::Event::Published { token, outcome } => {
                let sent = self.flight.publications.get(crate::slab::Key::from_u64(token.0)).map(|p| p.sent);
                if outcome == transport::Outcome::Confirmed
                    && let Some(sent) = sent
                {
                    self.window.confirmed(now.mono.since(sent));
                }
                let verdict = self.publishing.heard(&self.settings, &mut self.flight, fx, now, token, outcome);
                self.on_verdict(verdict, now, store, fx);
            }
            transport::Event::Oversize { tag, len } => {
                fx.push(Effect::Report(Report::Oversize { len }));
                fx.observe(Observation::Failed(reason::TOO_LARGE));
                fx.push(Effect::Settle { tag, how: Settlement::Reject });
            }
            transport::Event::Lost { epoch, why } => {
                fx.push(Effect::Report(Report::ConnectionLost { why }));
                self.on_lost(epoch, fx);
                let step = self.phase.stopped();
                self.step(step, now, store, fx);
            }
            transport::Event::Canceled { asked: true } => {
                let step = self.phase.stopped();
                self.step(step, now, store, fx);
            }
            transport::Event::SettleFailed { tag, why } => {
                fx.push(Effect::Report(Report::SettleFailed { why }));
                self.lose_lease(tag, fx);
            }
            transport::Event::Connected { .. }
            | transport::Event::Fatal { .. }
            | transport::Event::Canceled { asked: false }
            | transport::Event::Declared { .. }
            | transport::Event::DeclareFailed { .. }
            | transport::Event::Blocked(_)
            | transport::Event::Depth { .. } => {}
        }
    }

    fn on_delivered(&mut self, delivered: transport::Delivery, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        let transport::Delivery { tag, slot, len, content_type, redelivery } = delivered;
        let lost_before = redelivery.lost.is_some_and(|lost| lost > 0);
        let portions = intake::portions(store, Portion { slot, offset: 0, len, content_type });
        let members = portions.len() as u32;
        fx.observe(Observation::Received { bytes: len, messages: members });
        let mut delivery = None;
        for portion in portions {
            let intaken = intake::decode(&self.settings, store, portion, lost_before);
            if members == 1
                && let Ok(intaken) = &intaken
                && let Some(id) = self.orphans.adopt(&self.flight, &intaken.head)
            {
                fx.observe(Observation::Adopted);
                fx.push(Effect::ReleaseSlot(slot));
                if let Some(rebuilt) = intaken.rebuilt {
                    fx.push(Effect::ReleaseSlot(rebuilt));
                }
                self.adopt(id, tag, now, fx);
                return;
            }
            let copy = intaken.as_ref().is_ok_and(|intaken| self.finished.knows(&intaken.head));
            let first = delivery.is_none();
            let delivery = *delivery.get_or_insert_with(|| {
                self.flight.deliveries.insert(Delivery {
                    tag: Some(tag),
                    slot: Some(slot),
                    len,
                    open: members,
                    members,
                    how: Settlement::Ack,
                    arrived: now.mono,
                })
            });
            if first && let Some(lease) = self.settings.lease {
                self.leases.hold(lease, delivery, now.mono);
            }
            match intaken {
                Ok(intaken) if copy => {
                    fx.observe(Observation::Deduplicated);
                    fx.effects.extend(intaken.rebuilt.map(Effect::ReleaseSlot));
                    settle::member_done(&mut self.flight, fx, delivery);
                }
                Ok(intaken) => self.admit(delivery, portion, intaken, now, store, fx),
                Err(refusal) => self.refuse(delivery, portion, refusal, now, store, fx),
            }
        }
    }

    fn admit(
        &mut self,
        delivery: DeliveryId,
        portion: Portion,
        intaken: Intaken,
        now: Now,
        store: &mut dyn Store,
        fx: &mut Effects,
    ) {
        let Intaken { mut head, payload, rebuilt, suspect, crashes, misrouted, not_before_ms } = intaken;
        let deadline = self.deadline_of(&head, now, fx);
        head.status.get_or_insert_with(|| route::first_seen(&self.settings.actor, self.stamp.at(now.wall_ms)));
        let content_type = match self.settings.emit {
            crate::flow::Emit::Native => transport::ContentType::Native,
            crate::flow::Emit::Json => transport::ContentType::Json,
            crate::flow::Emit::AsArrived => portion.content_type,
        };
        let id = self.flight.messages.insert(Message {
            delivery,
            state: State::Waiting,
            head,
            payload,
            rebuilt,
            content_type,
            suspect,
            crashes,
            children: 0,
            unconfirmed: 0,
            doomed: None,
            ending: Ending::Open,
            arrived: now.mono,
            deadline,
        });
        if let Some(text) = misrouted {
            self.fail(id, reason::ROUTE_MISMATCH, failure::plain("asya.RouteMismatch", text), now, store, fx);
            return;
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
        match not_before_ms.filter(|&due| due > now.wall_ms) {
            Some(due) => self.wait_for(id, Duration::from_millis(due - now.wall_ms), now, store, fx),
            None => self.handoff.wait(id, suspect),
        }
    }

    /// A redelivery found its message still here: that one's end settles it.
    fn adopt(&mut self, id: MessageId, tag: Tag, now: Now, fx: &mut Effects) {
        let Some(message) = self.flight.messages.get(id) else { return };
        if let Some(delivery) = self.flight.deliveries.get_mut(message.delivery) {
            delivery.tag = Some(tag);
            delivery.arrived = now.mono;
            if let Some(lease) = self.settings.lease {
                self.leases.hold_again(lease, message.delivery, now.mono);
            }
        }
        if let State::Finished { .. } = message.state {
            self.finish(id, now, fx);
        }
    }

    fn on_lost(&mut self, epoch: u32, fx: &mut Effects) {
        self.returning.retain(|(_, tag)| tag.epoch != epoch);
        for id in self.flight.deliveries.keys() {
            if let Some(delivery) = self.flight.deliveries.get_mut(id)
                && delivery.tag.is_some_and(|tag| tag.epoch == epoch)
            {
                delivery.tag = None;
            }
        }
        self.keep_orphans(fx);
    }

    /// Keeps what is in work though its delivery is lost, for its redelivery, and drops what has not begun.
    fn keep_orphans(&mut self, fx: &mut Effects) {
        for id in self.flight.messages.keys() {
            let Some(message) = self.flight.messages.get(id) else { continue };
            let lost = self.flight.deliveries.get(message.delivery).is_some_and(|d| d.tag.is_none() && d.members == 1);
            if lost && !matches!(message.state, State::Finished { .. }) {
                self.orphans.keep(&self.flight, id);
            }
        }
        self.drop_lost(fx);
    }

    /// Drops what waits though its delivery is lost: the broker has it again, and it has not begun here.
    fn drop_lost(&mut self, fx: &mut Effects) {
        for id in self.flight.messages.keys() {
            let Some(message) = self.flight.messages.get(id) else { continue };
            let lost = self.flight.deliveries.get(message.delivery).is_some_and(|d| d.tag.is_none());
            if lost && message.state == State::Waiting && message.unconfirmed == 0 {
                self.orphans.forget(&mut self.flight, fx, id);
            }
        }
    }

    fn on_verdict(&mut self, verdict: Option<Verdict>, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        match verdict {
            None => {}
            Some(Verdict::Done(id)) => self.finish_if_confirmed(id, now, fx),
            Some(Verdict::GivenUp { message, purpose, why, text }) => {
                self.give_up(message, purpose, why, text, now, store, fx);
            }
        }
    }

    /// A message is done with once its handler has ended and everything that it produced is confirmed.
    fn finish_if_confirmed(&mut self, id: MessageId, now: Now, fx: &mut Effects) {
        let Some(message) = self.flight.messages.get(id) else { return };
        if message.state != State::Publishing || message.unconfirmed > 0 {
            return;
        }
        let orphan = self.flight.deliveries.get(message.delivery).is_some_and(|d| d.tag.is_none() && d.members == 1);
        if orphan {
            self.remember(id);
            self.orphans.finished(&mut self.flight, fx, id, now.mono.after(self.settings.orphan_ttl));
        } else {
            self.finish(id, now, fx);
        }
    }

    /// Notes a message that is done with, so that a copy of it does not run. What failed may be sent again.
    fn remember(&mut self, id: MessageId) {
        if let Some(message) = self.flight.messages.get(id)
            && matches!(message.ending, Ending::Success | Ending::Empty | Ending::Consumed)
        {
            self.finished.remember(&message.head);
        }
    }

    fn finish(&mut self, id: MessageId, now: Now, fx: &mut Effects) {
        if let Some(message) = self.flight.messages.get(id)
            && message.ending != Ending::Open
        {
            let took = now.mono.since(message.arrived);
            fx.observe(Observation::Processed { ending: message.ending, took });
        }
        self.remember(id);
        settle::finish(&mut self.flight, fx, id);
    }

    fn step(&mut self, step: Option<Step>, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        match step {
            None => {}
            Some(Step::Consume) => {
                let window = self.window.start(self.handoff.width());
                fx.observe(Observation::Window(window));
                fx.push(Effect::Consume { window });
            }
            Some(Step::Cancel) => fx.push(Effect::Cancel),
            Some(Step::HandBack) => self.hand_back(now, store, fx),
        }
    }

    fn tick(&mut self, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        if self.phase == Phase::Drained {
            return;
        }
        if matches!(self.phase, Phase::Draining { .. }) {
            // Whatever has come to wait since the drain began: it does not begin any more.
            self.hand_back(now, store, fx);
        }
        self.hand_back_returning(now.mono, fx);
        self.publishing.tick(&mut self.flight, fx, now);
        self.orphans.tick(&mut self.flight, fx, now.mono);
        self.extend_leases(now, store, fx);
        self.expire_waiting(now, store, fx);
        self.handoff.expire(&self.settings, &mut self.flight, fx, now);
        self.handoff.restart(fx, now);
        while let Some(&(due, id)) = self.postponed.first() {
            if due > now.mono {
                break;
            }
            self.postponed.pop_first();
            let suspect = self.flight.messages.get(id).is_some_and(|m| m.suspect);
            self.handoff.wait(id, suspect);
        }
        if let Some(since) = self.handoff.unready_since() {
            if now.mono >= since.after(self.settings.ready_grace)
                && let Some(step) = self.phase.not_ready()
            {
                fx.push(Effect::Report(Report::NotReady));
                self.step(Some(step), now, store, fx);
            }
        } else {
            let step = self.phase.worker_ready();
            self.step(step, now, store, fx);
        }
        if self.phase == Phase::Consuming
            && let Some(window) = self.window.adapt(now.mono, self.handoff.width(), self.handoff.per_call())
        {
            fx.observe(Observation::Window(window));
            fx.push(Effect::Consume { window });
        }
        self.handoff.assign(&self.settings, &mut self.flight, fx, now);
        self.drain_if_done(now, fx);
    }
}

/// The full name of an actor's queue, made once per actor. Bounded by the actors that routes name here.
fn named(queues: &mut BTreeMap<String, Rc<str>>, namespace: &str, actor: &str) -> Result<Rc<str>, String> {
    if let Some(queue) = queues.get(actor) {
        return Ok(Rc::clone(queue));
    }
    let queue: Rc<str> = names::queue_name(namespace, actor).map_err(|e| e.to_string())?.into();
    // A handler that makes up names must not make this grow without end.
    if queues.len() >= 4096 {
        queues.clear();
    }
    queues.insert(actor.to_owned(), Rc::clone(&queue));
    Ok(queue)
}

/// The error of a message that no handler raised.
pub(crate) fn error_info(error_type: &str, message: String) -> ErrorInfo {
    ErrorInfo { message, error_type: error_type.to_owned(), mro: Vec::new(), traceback: None }
}
