//! Times one run: from the moment when a twentieth of the messages has passed to the moment when all have.
//!
//! The first part is left out, because it holds the start of the processes. During the run nothing else happens than
//! asking how deep the last queue is. Blocks until the run is over; a run that stands still is an error.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use crate::Error;
use crate::process::{self, Process};

/// Between two looks at the last queue. Coarse, so that looking costs nothing; fine against runs of seconds.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Nothing has arrived for so long: the run has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one run has shown.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Messages a second.
    pub per_second: f64,
    /// Processor time a message, in microseconds, by process.
    pub cpu_us: BTreeMap<String, f64>,
    /// Most memory of the process named `sidecar` that was seen: all, and anonymous alone, in KiB.
    pub sidecar_kib: (u64, u64),
    /// From the start of the measured processes to the first message in the last queue.
    pub first_message: Duration,
}

/// Whose processor time is counted: a name, and the process whose whole family it is.
pub type Weighed = (&'static str, u32);

/// Watches `depth` grow to `count`.
pub async fn watch<F>(
    depth: impl Fn() -> F,
    count: u64,
    processes: &mut [Process],
    others: &[Weighed],
    started: Instant,
    look_every: Option<Duration>,
) -> Result<Run, Error>
where
    F: Future<Output = Result<u64, Error>>,
{
    let mut run = Run::default();
    let mut begin: Option<(Instant, u64, Scales)> = None;
    let mut moved = (0, Instant::now());
    loop {
        let now = depth().await?;
        let at = Instant::now();
        if now > 0 && run.first_message.is_zero() {
            run.first_message = at - started;
        }
        if now > moved.0 {
            moved = (now, at);
        }
        if begin.is_none() && now > 0 && now >= count / 20 {
            begin = Some((at, now, Scales::of(processes, others)));
        }
        for process in processes.iter().filter(|process| process.name == "sidecar") {
            let (all, anonymous) = process::memory_kib(process.pid());
            run.sidecar_kib = (run.sidecar_kib.0.max(all), run.sidecar_kib.1.max(anonymous));
        }
        if now >= count
            && let Some((since, before, scales)) = begin
        {
            let messages = (count - before.min(count)) as f64;
            run.per_second = messages / (at - since).as_secs_f64();
            run.cpu_us =
                scales.used().into_iter().map(|(name, used)| (name, used.as_secs_f64() * 1e6 / messages)).collect();
            return Ok(run);
        }
        for process in processes.iter_mut() {
            process.check()?;
        }
        if moved.1.elapsed() > PATIENCE {
            let how = format!("has moved {} of {count} messages and then none for {PATIENCE:?}", moved.0);
            let last = processes.first().map(|process| process.stuck(&how));
            return Err(last.unwrap_or(Error::Count { sent: count, arrived: moved.0, again: 0 }));
        }
        tokio::time::sleep(look_every.unwrap_or(LOOK_EVERY)).await;
    }
}

/// Processor times at one moment.
struct Scales(Vec<(String, Vec<u32>, Duration)>);

impl Scales {
    fn of(processes: &[Process], others: &[Weighed]) -> Self {
        let measured = processes.iter().map(|process| (process.name, process.pid()));
        let weigh = |(name, pid): Weighed| {
            let family = process::family(pid);
            let used = process::cpu(&family);
            (name.to_owned(), family, used)
        };
        Self(measured.chain(others.iter().copied()).map(weigh).collect())
    }

    /// What each has used since.
    fn used(self) -> impl IntoIterator<Item = (String, Duration)> {
        self.0.into_iter().map(|(name, family, before)| (name, process::cpu(&family).saturating_sub(before)))
    }
}
