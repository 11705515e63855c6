//! One run of each thing that is measured: queues filled, processes started, watched, ended, and what arrived checked.
//!
//! Takes a broker and programs, gives a [`Run`]. Blocks for the length of the run. A run in which a message is lost,
//! doubled or changed is an error and no figure.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use asya_envelope::Route;
use asya_envelope::names::queue_name;

use crate::Error;
use crate::actor::{ACTOR, Address, Json, NAMESPACE, NEXT, Programs};
use crate::broker::Broker;
use crate::handoff::Handoff;
use crate::measure::{self, Run};
use crate::message::Kind;
use crate::process::{Process, memory_kib};

/// Messages of the run in which the handler takes 5 ms: about five seconds.
const SLOW_MESSAGES: u64 = 1_000;
/// Between two looks where a moment is wanted and not a rate.
const CLOSE_LOOK: Duration = Duration::from_millis(1);
/// Between two looks where looking itself would take the processor from the handler.
const DISTANT_LOOK: Duration = Duration::from_millis(250);

/// Calls of one handoff measurement.
const HANDOFFS: u64 = 20_000;

/// The handoff alone, with a runtime of its own: microseconds of a round trip with one call at a time, and calls a second
/// with `DEEP` of them open.
pub async fn handoff(programs: &Programs, kind: Kind, json: Json) -> Result<(f64, f64), Error> {
    const DEEP: u16 = 64;
    let folder = tempfile::tempdir().map_err(Error::system("no temporary folder"))?;
    let mut handoff = Handoff::listen(folder.path(), DEEP)?;
    let _runtime = programs.runtime("hop.add_one", json, folder.path())?;
    handoff.ready().await?;
    let count = if kind == Kind::Blob1M { HANDOFFS / 10 } else { HANDOFFS };
    handoff.trips(kind, count / 10, usize::from(DEEP)).await?;
    let alone = handoff.trips(kind, count, 1).await?;
    let deep = handoff.trips(kind, count, usize::from(DEEP)).await?;
    Ok((alone.took.as_secs_f64() * 1e6 / alone.count as f64, deep.count as f64 / deep.took.as_secs_f64()))
}

/// What is measured on one broker.
pub struct Suite {
    /// The programs.
    pub programs: Programs,
    /// The broker.
    pub broker: Broker,
    /// Where the measured processes find it.
    pub address: Address,
    /// The broker's own process; its whole family is weighed.
    pub broker_pid: u32,
    /// For logs and sockets.
    pub folder: PathBuf,
}

/// What stands between the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// Nothing but the broker's client.
    Forwarder,
    /// Sidecar and Python.
    Actor(Json),
}

impl Suite {
    /// Moves `count` messages through a forwarder or an actor, and checks each.
    pub async fn run(&self, kind: Kind, count: u64, between: Between) -> Result<Run, Error> {
        let (from, to) = (queue(ACTOR), queue(NEXT));
        self.fill(kind, count, &from, &to).await?;
        let started = Instant::now();
        let (mut processes, added) = match between {
            Between::Forwarder => (self.programs.forwarder(&self.address, &from, &to, &self.folder)?, 0),
            Between::Actor(json) => (self.programs.actor(&self.address, "hop.add_one", json, &self.folder, &[])?, 1),
        };
        let run = self.watch(count, &to, &mut processes, started, None).await?;
        drop(processes);
        self.broker.empty(&to, kind, count, added).await?;
        self.broker.delete(&from).await?;
        self.broker.delete(&to).await?;
        Ok(run)
    }

    /// The share of time in which a handler of 5 ms is busy, while messages wait.
    pub async fn busy_share(&self) -> Result<f64, Error> {
        let (from, to) = (queue(ACTOR), queue(NEXT));
        let times = self.folder.join("times");
        let _ = fs::remove_file(&times);
        self.fill(Kind::Json1K, SLOW_MESSAGES, &from, &to).await?;
        let extra = [("BENCH_TIMES", times.display().to_string())];
        let mut processes =
            self.programs.actor(&self.address, "hop.five_milliseconds", Json::Orjson, &self.folder, &extra)?;
        self.watch(SLOW_MESSAGES, &to, &mut processes, Instant::now(), Some(DISTANT_LOOK)).await?;
        drop(processes);
        self.broker.empty(&to, Kind::Json1K, SLOW_MESSAGES, 1).await?;
        self.broker.delete(&from).await?;
        self.broker.delete(&to).await?;
        let bytes = fs::read(&times).map_err(Error::system("the handler wrote no times"))?;
        Ok(share(&bytes))
    }

    /// From the start of sidecar and runtime to the first message in the next queue, in milliseconds, and the sidecar's
    /// memory when it then has nothing to do (all, and anonymous alone), in KiB.
    pub async fn first_message(&self) -> Result<(f64, (u64, u64)), Error> {
        let (from, to) = (queue(ACTOR), queue(NEXT));
        self.fill(Kind::Json1K, 1, &from, &to).await?;
        let started = Instant::now();
        let mut processes = self.programs.actor(&self.address, "hop.add_one", Json::Orjson, &self.folder, &[])?;
        let run = self.watch(1, &to, &mut processes, started, Some(CLOSE_LOOK)).await?;
        let memory = processes.first().map(|sidecar| memory_kib(sidecar.pid())).unwrap_or_default();
        drop(processes);
        self.broker.delete(&from).await?;
        self.broker.delete(&to).await?;
        Ok((run.first_message.as_secs_f64() * 1e3, memory))
    }

    async fn fill(&self, kind: Kind, count: u64, from: &str, to: &str) -> Result<(), Error> {
        let route = Route { prev: Vec::new(), curr: ACTOR.to_owned(), next: vec![NEXT.to_owned()] };
        self.broker.declare(from).await?;
        self.broker.declare(to).await?;
        self.broker.fill(from, kind, count, &route).await
    }

    async fn watch(
        &self,
        count: u64,
        to: &str,
        processes: &mut [Process],
        started: Instant,
        look_every: Option<Duration>,
    ) -> Result<Run, Error> {
        let broker = [("broker", self.broker_pid)];
        measure::watch(|| self.broker.depth(to), count, processes, &broker, started, look_every).await
    }
}

fn queue(actor: &str) -> String {
    queue_name(NAMESPACE, actor).unwrap_or_default()
}

/// Busy time over time, from begin and end of every call; the first twentieth is the start and is left out.
fn share(bytes: &[u8]) -> f64 {
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0.0, |chunk| f64::from_le_bytes(*chunk));
    let calls: Vec<(f64, f64)> = bytes.chunks_exact(16).map(|call| (number(call), number(&call[8..]))).collect();
    let calls = calls.get(calls.len() / 20..).unwrap_or_default();
    let busy: f64 = calls.iter().map(|(begin, end)| end - begin).sum();
    match (calls.first(), calls.last()) {
        (Some((begin, _)), Some((_, end))) if end > begin => busy / (end - begin),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_handler_that_waits_half_the_time_is_half_busy() {
        let call = |number: u32| [f64::from(number), f64::from(number) + 0.5].map(f64::to_le_bytes).concat();
        let calls: Vec<u8> = (0..1000).flat_map(call).collect();
        assert!((share(&calls) - 0.5).abs() < 0.001);
    }
}
