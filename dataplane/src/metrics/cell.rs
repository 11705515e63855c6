//! Numbers that one thread writes and any thread reads.
//!
//! A writer is `Send` but neither `Sync` nor `Clone`: there is exactly one, so that adding is a relaxed load and a
//! relaxed store, and never a locked instruction. A reader sees each number whole, and at most one update late; several
//! numbers read together may be of slightly different moments, as in any scrape.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Takes `Sync` away: see the module's documentation.
type SingleWriter = PhantomData<Cell<()>>;

/// Adds to a cell that only this thread writes.
pub(super) fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
}

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter {
    cell: Arc<AtomicU64>,
    single_writer: SingleWriter,
}

impl Counter {
    /// Counts `by` more.
    pub fn add(&self, by: u64) {
        bump(&self.cell, by);
    }

    /// Counts one more.
    pub fn inc(&self) {
        self.add(1);
    }

    pub(super) fn reading(&self) -> Reading {
        Reading::Count(Arc::clone(&self.cell))
    }
}

/// A time that only grows.
#[derive(Debug, Default)]
pub struct TimeCounter {
    nanos: Arc<AtomicU64>,
    single_writer: SingleWriter,
}

impl TimeCounter {
    /// Counts `by` more.
    pub fn add(&self, by: Duration) {
        bump(&self.nanos, nanos(by));
    }

    pub(super) fn reading(&self) -> Reading {
        Reading::Nanos(Arc::clone(&self.nanos))
    }
}

/// A level that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge {
    cell: Arc<AtomicI64>,
    single_writer: SingleWriter,
}

impl Gauge {
    /// Sets the level.
    pub fn set(&self, level: i64) {
        self.cell.store(level, Relaxed);
    }

    /// Sets the level; one that is beyond counting reads as the largest.
    pub fn set_u64(&self, level: u64) {
        self.set(i64::try_from(level).unwrap_or(i64::MAX));
    }

    pub(super) fn reading(&self) -> Reading {
        Reading::Level(Arc::clone(&self.cell))
    }
}

/// The reading side of one series.
#[derive(Clone)]
pub(super) enum Reading {
    Count(Arc<AtomicU64>),
    Nanos(Arc<AtomicU64>),
    Level(Arc<AtomicI64>),
    Distribution(Arc<dyn super::histogram::Distribution>),
    /// Asked for at each scrape; `None` leaves the sample out.
    Sampled(fn() -> Option<f64>),
}

/// A duration in nanoseconds; one of more than 584 years reads as that.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
