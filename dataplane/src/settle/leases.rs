//! Leases: deliveries that the broker lends for a time, extended while their messages are here.
//!
//! Takes deliveries as they arrive, gives extensions in time, and at last those that cannot be held any longer. Waiting
//! messages are extended like running ones. Never blocks. An extension that comes too late is the transport's to tell.

use std::collections::BTreeSet;
use std::time::Duration;

use asya_transport::Lease;

use crate::flow::{DeliveryId, Effect, Effects, Flight, Observation, Time};

/// A lease is extended once this part of it is over: what does not get through at once has as long again.
const PART: u32 = 2;

/// A delivery is let go so long before the broker's longest time is over: what is on its way to be settled still can be.
const MARGIN: Duration = Duration::from_secs(60);

/// So few leases of deliveries that are gone are not worth a sweep.
const FEW: usize = 64;

/// The leases of all deliveries that are held.
#[derive(Debug, Default)]
pub struct Leases {
    due: BTreeSet<(Time, DeliveryId)>,
}

impl Leases {
    /// A delivery has arrived.
    pub fn hold(&mut self, lease: Lease, id: DeliveryId, now: Time) {
        self.due.insert((now.after(lease.lasts / PART), id));
    }

    /// Extends what is due; gives what cannot be held any longer.
    pub fn tick(&mut self, lease: Lease, flight: &Flight, fx: &mut Effects, now: Time) -> Vec<DeliveryId> {
        if self.due.len() > 2 * flight.deliveries.len() + FEW {
            self.due.retain(|&(_, id)| flight.deliveries.get(id).is_some());
        }
        let mut ended = Vec::new();
        while let Some(&(due, id)) = self.due.first()
            && due <= now
        {
            self.due.pop_first();
            let Some(delivery) = flight.deliveries.get(id) else { continue };
            let Some(tag) = delivery.tag else { continue };
            let margin = MARGIN.min(lease.longest / 4);
            let end = delivery.arrived.after(lease.longest.saturating_sub(margin));
            if end <= now {
                ended.push(id);
                continue;
            }
            let by = lease.lasts.min(end.since(now) + margin);
            fx.push(Effect::Extend { tag, by });
            fx.observe(Observation::LeaseExtended);
            self.due.insert((now.after(by / PART).min(end), id));
        }
        ended
    }

    /// A delivery that was lost has come again.
    pub fn hold_again(&mut self, lease: Lease, id: DeliveryId, now: Time) {
        self.due.retain(|&(_, held)| held != id);
        self.hold(lease, id, now);
    }

    /// When [`Leases::tick`] has something to do.
    pub fn next_timer(&self) -> Option<Time> {
        self.due.first().map(|&(due, _)| due)
    }
}
