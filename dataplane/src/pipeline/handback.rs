//! Handing back: from what has not begun to the broker, and from a drain to its end.
//!
//! Takes what waits when consuming has stopped, gives settlements, and copies of what a settlement cannot carry: a member
//! of a bundle, a suspicion. Never blocks. What is not handed back by the deadline of a drain goes back as it is.

use asya_transport::Settlement;

use super::Pipeline;
use crate::flow::{Delivery, Effect, Effects, Ending, MessageId, Now, Observation, Purpose, State, Store, Time};
use crate::lifecycle::Phase;
use crate::route;

impl Pipeline {
    /// Gives back what has not begun: the broker delivers no more, so nothing given back comes straight in again.
    pub(super) fn hand_back(&mut self, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        self.hand_back_returning(Time(u64::MAX), fx);
        let postponed = std::mem::take(&mut self.postponed).into_iter().map(|(_, id)| id);
        let waiting: Vec<MessageId> = self.handoff.take_waiting().into_iter().chain(postponed).collect();
        for id in waiting {
            self.give_back(id, now, store, fx);
        }
    }

    /// Gives back one message, which waits nowhere any more.
    pub(super) fn give_back(&mut self, id: MessageId, now: Now, store: &mut dyn Store, fx: &mut Effects) {
        let Some(message) = self.flight.messages.get_mut(id) else { return };
        let Some(delivery) = self.flight.deliveries.get_mut(message.delivery) else { return };
        message.state = State::Publishing;
        // What is under suspicion without a charge takes that along: whoever takes it on runs it alone. Forgotten here,
        // it would kill a worker that takes long to start again and again, and never be charged.
        // Where the delivery is lost the broker has it again, and a copy would be one too many.
        let suspected = message.suspect && message.crashes == 0 && delivery.tag.is_some();
        if delivery.members == 1 && !suspected {
            delivery.need(Settlement::Requeue);
            self.finish_if_confirmed(id, now, fx);
        } else {
            message.ending = Ending::Retried;
            let stamp = self.stamp.at(now.wall_ms);
            let head = route::back(&message.head, &self.settings.actor, suspected, stamp);
            self.send_original(id, Purpose::Again, &head, now, store, fx);
        }
    }

    /// Gives back what there was no room for and has waited long enough.
    pub(super) fn hand_back_returning(&mut self, by: Time, fx: &mut Effects) {
        while let Some(&(due, tag)) = self.returning.front()
            && due <= by
        {
            self.returning.pop_front();
            fx.push(Effect::Settle { tag, how: Settlement::Requeue });
            fx.observe(Observation::HandedBack);
        }
    }

    pub(super) fn drain_if_done(&mut self, now: Now, fx: &mut Effects) {
        let Some(deadline) = self.phase.deadline() else { return };
        let held = |d: &Delivery| d.tag.is_some();
        let idle = !self.flight.deliveries.iter().any(|(_, d)| held(d)) && self.flight.publications.is_empty();
        if now.mono >= deadline {
            self.hand_back_returning(Time(u64::MAX), fx);
            // Slots and results stay: the transport may still be reading them, and the process is about to end.
            for id in self.flight.deliveries.keys() {
                if let Some(tag) = self.flight.deliveries.get_mut(id).and_then(|d| d.tag.take()) {
                    fx.push(Effect::Settle { tag, how: Settlement::Requeue });
                    fx.observe(Observation::HandedBack);
                }
            }
        } else if !(idle && matches!(self.phase, Phase::Draining { .. })) {
            return;
        }
        self.phase = Phase::Drained;
        fx.push(Effect::Drained);
    }
}
