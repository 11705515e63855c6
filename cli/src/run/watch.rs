//! Looks at queues and sidecars once a second.
//!
//! Takes where they are; gives what to show of each, and ends when everything has been idle, where asked. Blocks on the
//! broker and on metrics pages, both bounded. On failure: what did not answer is unknown until the next look.

use super::progress::{Counts, Look, Shown};
use crate::client::Client;
use crate::error::Error;
use crate::scrape;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Between looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Idle looks in a row before "idle" is believed: a message between two queues is in neither for a moment.
const IDLE_LOOKS: u32 = 3;

/// What to watch.
pub struct Watch {
    /// Name, queue and metrics address of each actor.
    pub actors: Vec<(String, String, String)>,
    /// To ask for depths.
    pub client: Client,
    /// Whether to end when everything is idle.
    pub until_idle: bool,
}

impl Watch {
    /// Looks until idle, or for ever.
    pub async fn run(&mut self, shown: mpsc::Sender<(String, Shown)>) -> Result<(), Error> {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: BTreeMap<String, (Instant, Look)> = BTreeMap::new();
        let mut idle = 0;
        loop {
            ticks.tick().await;
            let looks = self.look().await;
            let now = Instant::now();
            let mut all_idle = true;
            for (actor, look) in looks {
                all_idle &= is_idle(&look);
                let (since, old) = before.remove(&actor).unwrap_or((now - PERIOD, Look::default()));
                drop(shown.send((actor.clone(), Shown::between(&old, &look, now - since))).await);
                before.insert(actor, (now, look));
            }
            idle = if all_idle { idle + 1 } else { 0 };
            if self.until_idle && idle >= IDLE_LOOKS {
                return Ok(());
            }
        }
    }

    async fn look(&mut self) -> Vec<(String, Look)> {
        let mut pages = JoinSet::new();
        for (actor, _, metrics) in &self.actors {
            let (actor, metrics) = (actor.clone(), metrics.clone());
            pages.spawn(async move { (actor, scrape::get(&metrics, "/metrics").await) });
        }
        let mut counts = BTreeMap::new();
        while let Some(page) = pages.join_next().await {
            if let Ok((actor, Some((200, page)))) = page {
                counts.insert(actor, Counts::of(&scrape::parse(&page)));
            }
        }
        let mut looks = Vec::new();
        for (actor, queue, _) in &self.actors {
            let depth = self.client.depth(queue).await.ok().flatten();
            looks.push((actor.clone(), Look { depth, counts: counts.remove(actor) }));
        }
        looks
    }
}

/// Whether nothing waits and nothing runs, as far as both sides tell. An actor that has not told yet is not idle.
fn is_idle(look: &Look) -> bool {
    let empty = look.depth.is_some_and(|d| d.ready == 0 && d.unsettled.unwrap_or(0) == 0);
    empty && look.counts.as_ref().is_some_and(|c| c.active == 0.0)
}
