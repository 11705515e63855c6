//! Keeps the sinks of the embedded broker bounded.
//!
//! Takes the sinks' queues and how much to keep; removes the oldest messages beyond that. Blocks on the broker, bounded.
//! On failure: the broker's error, told once; the sinks then only grow.

use crate::broker::{self, Target};
use crate::client::Client;
use crate::error::Error;
use asya_transport::{Event, Settlement};
use std::time::Duration;
use tokio::time::Instant;

/// Messages removed in one go, so that one turn stays short.
const TURN_MAX: u64 = 5_000;
/// Messages held at once while they are removed.
const WINDOW: u32 = 1_000;
/// Others may have taken what the broker counted: then nothing comes, and the next turn counts again.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Removes what is beyond the bound.
pub struct Trim {
    target: Target,
    queues: Vec<String>,
    keep: u64,
}

impl Trim {
    /// Of these queues, to this many messages each.
    pub fn new(target: Target, queues: Vec<String>, keep: u64) -> Self {
        Self { target, queues, keep }
    }

    /// One turn.
    pub async fn turn(&mut self, client: &mut Client) -> Result<(), Error> {
        for queue in &self.queues {
            let ready = client.depth(queue).await.ok().flatten().map_or(0, |depth| depth.ready);
            if ready > self.keep {
                remove(&self.target, queue, (ready - self.keep).min(TURN_MAX)).await?;
            }
        }
        Ok(())
    }
}

async fn remove(target: &Target, queue: &str, mut count: u64) -> Result<(), Error> {
    let mut client = broker::connect(target).await?;
    // Never more in flight than are to go: the rest must not leave its place.
    client.consume(queue, u32::try_from(count).unwrap_or(WINDOW).min(WINDOW));
    while count > 0 {
        match client.event_before(Instant::now() + WAIT_MAX).await {
            Some(Event::Delivered(delivery)) => {
                client.discard(delivery.slot);
                client.settle(delivery.tag, Settlement::Ack);
                count -= 1;
            }
            Some(_) => {}
            None => break,
        }
    }
    client.give_back(queue, []).await
}
