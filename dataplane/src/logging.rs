//! Log lines, on standard error.
//!
//! Takes the configured filter and format, gives a subscriber for the whole process. Writing to standard error blocks
//! when its reader is slow, so nothing is logged for each message, and what may repeat goes through a [`RateLimited`].

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing::subscriber::SetGlobalDefaultError;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::config::{Log, LogFormat};

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::captured;

/// Sends what this process logs to standard error from now on. Fails when something else was installed before.
pub fn init(log: &Log) -> Result<(), SetGlobalDefaultError> {
    tracing::subscriber::set_global_default(subscriber(log, io::stderr, io::stderr().is_terminal()))
}

/// A subscriber that writes to `writer`; colours only where people look.
fn subscriber<W>(log: &Log, writer: W, colours: bool) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = Targets::new().with_default(log.filter.level).with_targets(log.filter.targets.iter().cloned());
    Registry::default().with(lines(log.format, writer, colours).with_filter(filter))
}

fn lines<S, W>(format: LogFormat, writer: W, colours: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    match format {
        LogFormat::Plain => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_ansi(false).boxed(),
    }
}

/// Lets a repeated warning through once a while, and tells how many it kept back.
///
/// ```
/// # use std::time::{Duration, Instant};
/// # use asya_dataplane::logging::RateLimited;
/// let mut blocked = RateLimited::new(Duration::from_secs(10));
/// if let Some(kept_back) = blocked.admit(Instant::now()) {
///     tracing::warn!(kept_back, "the broker takes no publishes");
/// }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimited {
    every: Duration,
    last: Option<Instant>,
    kept_back: u64,
}

impl RateLimited {
    /// Lets one through at first, and one each time that `every` has passed since.
    pub const fn new(every: Duration) -> Self {
        Self { every, last: None, kept_back: 0 }
    }

    /// Asks to log once more. `Some` = do so, and this many were kept back since the last.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            self.kept_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.kept_back))
    }
}
