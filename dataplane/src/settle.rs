//! Settle: from finished messages to a settled delivery.
//!
//! Takes messages whose every product is confirmed, gives one settlement per delivery, after its last member. Never
//! blocks. A delivery whose connection was lost is not settled at all: the broker has it again.

pub mod finished;
pub mod leases;
pub mod orphans;

use asya_transport::Settlement;

use crate::flow::{Delivery, DeliveryId, Effect, Effects, Flight, MessageId, Observation};

/// Removes a finished message; settles its delivery when it was the last.
pub fn finish(flight: &mut Flight, fx: &mut Effects, id: MessageId) {
    let Some(message) = flight.messages.remove(id) else { return };
    if let Some(slot) = message.rebuilt {
        fx.push(Effect::ReleaseSlot(slot));
    }
    member_done(flight, fx, message.delivery);
}

/// Counts one member of a delivery as done.
pub fn member_done(flight: &mut Flight, fx: &mut Effects, id: DeliveryId) {
    let Some(delivery) = flight.deliveries.get_mut(id) else { return };
    delivery.open -= 1;
    if delivery.open > 0 {
        return;
    }
    let how = delivery.how;
    close(flight, fx, id, how);
}

/// Settles a delivery, whatever its members say.
pub fn close(flight: &mut Flight, fx: &mut Effects, id: DeliveryId, how: Settlement) {
    let Some(Delivery { tag, slot, .. }) = flight.deliveries.remove(id) else { return };
    if let Some(tag) = tag {
        fx.push(Effect::Settle { tag, how });
        if how == Settlement::Requeue {
            fx.observe(Observation::HandedBack);
        }
    }
    fx.effects.extend(slot.map(Effect::ReleaseSlot));
}
