//! Whether the sidecar lives and can work, as the data thread says and the admin thread reads.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The data thread is held for dead when it has not turned for so long. Nothing that it does may block, so a tenth of
/// this would already be a fault; a machine that is short of memory or processor is given the rest.
pub const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(10);

/// Shared by the data thread, which writes, and the admin thread, which reads. Every word stands for itself, so relaxed
/// order is enough.
#[derive(Debug)]
pub struct Health {
    /// What `beat_ms` counts from.
    origin: Instant,
    /// When the data thread turned last, in milliseconds from `origin`.
    beat_ms: AtomicU64,
    connected: AtomicBool,
    ready_workers: AtomicU32,
    draining: AtomicBool,
    /// Why work is impossible until a person acts.
    problem: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl Health {
    /// The state of a sidecar that starts `now`: alive, not ready.
    pub fn new(now: Instant) -> Self {
        Self {
            origin: now,
            beat_ms: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            ready_workers: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            problem: Mutex::new(None),
        }
    }

    /// The data thread turns. To be called at least once a second, so also when nothing happens.
    pub fn beat(&self, now: Instant) {
        self.beat_ms.store(self.millis(now), Relaxed);
    }

    /// Whether the broker is connected.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Relaxed);
    }

    /// How many workers have loaded the handler.
    pub fn set_ready_workers(&self, workers: u32) {
        self.ready_workers.store(workers, Relaxed);
    }

    /// A drain has begun; there is no way back.
    pub fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Why work is impossible until a person acts, in words; `None` = it is possible.
    pub fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Whether the data thread lives; else since when it does not turn, in words.
    pub fn alive(&self, now: Instant) -> Result<(), String> {
        let age = Duration::from_millis(self.millis(now).saturating_sub(self.beat_ms.load(Relaxed)));
        if age <= HEARTBEAT_AGE_MAX {
            return Ok(());
        }
        Err(format!("the data thread has not turned for {} s", age.as_secs()))
    }

    /// Why the sidecar is not ready, in words; nothing when it is.
    pub fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.load(Relaxed) {
            reasons.push("draining".to_owned());
        }
        if !self.connected.load(Relaxed) {
            reasons.push("the broker is not connected".to_owned());
        }
        if self.ready_workers.load(Relaxed) == 0 {
            reasons.push("no worker is ready".to_owned());
        }
        reasons.extend(self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone());
        reasons
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }
}
