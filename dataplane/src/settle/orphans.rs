//! Messages whose delivery was lost with its connection while they were in work.
//!
//! They run on; the broker delivers them again. Takes such messages, gives the one that a redelivery finds still here,
//! so that its handler does not run twice. What no redelivery asks for (another pod has it) is forgotten after a while.

use std::collections::{BTreeMap, BTreeSet};

use asya_envelope::Head;

use crate::flow::{Effect, Effects, Flight, MessageId, State, Time};

/// What makes two deliveries the same work: id, hop and attempt. A message that was published again with a charge is
/// other work than the delivery that it came from, though the two may be on their way together.
type Identity = (String, u32, u32);

/// The orphans.
#[derive(Debug, Default)]
pub struct Orphans {
    by_identity: BTreeMap<Identity, MessageId>,
    finished: BTreeSet<(Time, MessageId)>,
}

fn identity(head: &Head) -> Identity {
    (head.id.clone(), head.route.hop(), head.status.as_ref().map_or(1, |status| status.attempt))
}

impl Orphans {
    /// Keeps a message for its redelivery.
    pub fn keep(&mut self, flight: &Flight, id: MessageId) {
        if let Some(message) = flight.messages.get(id) {
            self.by_identity.insert(identity(&message.head), id);
        }
    }

    /// A kept message has finished: it is forgotten at `until`. Its body goes at once: with the byte budget full of bodies
    /// that nobody will read, the redelivery that is to adopt it would find no room.
    pub fn finished(&mut self, flight: &mut Flight, fx: &mut Effects, id: MessageId, until: Time) {
        let Some(message) = flight.messages.get_mut(id) else { return };
        message.state = State::Finished { until };
        self.finished.insert((until, id));
        let body = flight.deliveries.get_mut(message.delivery).and_then(|delivery| delivery.slot.take());
        fx.effects.extend(message.rebuilt.take().into_iter().chain(body).map(Effect::ReleaseSlot));
    }

    /// The message that this head's redelivery finds still here.
    pub fn adopt(&mut self, flight: &Flight, head: &Head) -> Option<MessageId> {
        if self.by_identity.is_empty() {
            return None;
        }
        let id = self.by_identity.remove(&identity(head))?;
        if let State::Finished { until } = flight.messages.get(id)?.state {
            self.finished.remove(&(until, id));
        }
        Some(id)
    }

    /// Forgets what was finished long enough ago.
    pub fn tick(&mut self, flight: &mut Flight, fx: &mut Effects, now: Time) {
        while let Some(&(until, id)) = self.finished.first() {
            if until > now {
                return;
            }
            self.finished.pop_first();
            self.forget(flight, fx, id);
        }
    }

    /// Drops a message whose redelivery is not waited for.
    pub fn forget(&mut self, flight: &mut Flight, fx: &mut Effects, id: MessageId) {
        if let Some(message) = flight.messages.get(id) {
            let identity = identity(&message.head);
            if self.by_identity.get(&identity) == Some(&id) {
                self.by_identity.remove(&identity);
            }
        }
        super::finish(flight, fx, id);
    }

    /// Messages that are done but for a redelivery that may come.
    pub fn waiting(&self) -> usize {
        self.finished.len()
    }

    /// When [`Orphans::tick`] has something to do.
    pub fn next_timer(&self) -> Option<Time> {
        self.finished.first().map(|&(until, _)| until)
    }
}
