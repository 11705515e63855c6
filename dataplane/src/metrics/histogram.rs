//! Distributions in fixed buckets.
//!
//! Takes values, gives counts by bucket. Recording is two array look-ups and two stores: it never allocates, locks or
//! blocks. Buckets never change, so histograms of all pods and versions add up.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::cell::{bump, nanos};

/// Where the bounds of buckets lie.
pub trait Scale: Send + Sync + std::fmt::Debug + 'static {
    /// Upper bounds, inclusive, ascending, in whole units.
    const BOUNDS: &'static [u64];
    /// Units in one of what is exposed (a billion nanoseconds in a second).
    const UNITS: f64;

    /// The bucket of a value: the first bound that is not below it, or `BOUNDS.len()` where all are.
    fn bucket(value: u64) -> usize;
}

/// Times, from 1 µs to 2 min: seven bounds a decade, so that a quantile is right to a quarter even for microseconds, and
/// each bound that the existing Asya has is among them.
#[derive(Debug)]
pub struct Times;

/// Bounds of one decade, in tenths of its start.
const DECADE: [u64; 7] = [10, 15, 20, 25, 35, 50, 75];
/// Decades: from 1 µs to 10 s.
const DECADES: usize = 7;
/// Bounds above the decades.
const SECONDS_ABOVE: [u64; 8] = [10, 15, 20, 30, 45, 60, 90, 120];
const TIMES: usize = DECADES * DECADE.len() + SECONDS_ABOVE.len();

const TIME_BOUNDS: [u64; TIMES] = {
    let mut bounds = [0; TIMES];
    let mut tenth_ns = 100;
    let mut at = 0;
    while at < DECADES * DECADE.len() {
        bounds[at] = DECADE[at % DECADE.len()] * tenth_ns;
        at += 1;
        if at % DECADE.len() == 0 {
            tenth_ns *= 10;
        }
    }
    let mut above = 0;
    while above < SECONDS_ABOVE.len() {
        bounds[at + above] = SECONDS_ABOVE[above] * 1_000_000_000;
        above += 1;
    }
    bounds
};

/// Each power of two is cut in eight cells. A cell is at most an eighth wider than its start, and neighbouring bounds
/// are a quarter apart, so at most one bound lies within a cell.
const CELL_BITS: u32 = 3;
/// The last bound is below 2^37 ns.
const TOP_BIT: u32 = 36;
const CELLS: usize = ((TOP_BIT - CELL_BITS + 2) << CELL_BITS) as usize;

/// The cell of a value that is below 2^37.
const fn cell_of(value: u64) -> usize {
    if value < 1 << CELL_BITS {
        return value as usize;
    }
    let octave = 63 - value.leading_zeros();
    let within = (value >> (octave - CELL_BITS)) & ((1 << CELL_BITS) - 1);
    ((octave - CELL_BITS + 1) << CELL_BITS) as usize + within as usize
}

/// For each cell the bucket of its smallest value.
const BUCKET_OF_CELL: [u8; CELLS] = {
    let mut buckets = [0; CELLS];
    let mut cell = 0;
    let mut bucket = 0;
    while cell < CELLS {
        let smallest = if cell < 1 << CELL_BITS {
            cell as u64
        } else {
            let octave = (cell >> CELL_BITS) as u32 + CELL_BITS - 1;
            let within = (cell & ((1 << CELL_BITS) - 1)) as u64;
            (1 << octave) + (within << (octave - CELL_BITS))
        };
        while bucket < TIMES && TIME_BOUNDS[bucket] < smallest {
            bucket += 1;
        }
        buckets[cell] = bucket as u8;
        cell += 1;
    }
    buckets
};

impl Scale for Times {
    const BOUNDS: &'static [u64] = &TIME_BOUNDS;
    const UNITS: f64 = 1e9;

    fn bucket(value: u64) -> usize {
        let bucket = usize::from(BUCKET_OF_CELL[cell_of(value.min((1 << (TOP_BIT + 1)) - 1))]);
        match TIME_BOUNDS.get(bucket) {
            Some(&bound) if value > bound => bucket + 1,
            _ => bucket,
        }
    }
}

/// Sizes of messages, as the existing Asya has them: from 100 bytes, by tens.
#[derive(Debug)]
pub struct Sizes;

impl Scale for Sizes {
    const BOUNDS: &'static [u64] = &[100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];
    const UNITS: f64 = 1.0;

    fn bucket(value: u64) -> usize {
        Self::BOUNDS.partition_point(|&bound| bound < value)
    }
}

/// Small numbers, by powers of two.
#[derive(Debug)]
pub struct Items;

impl Scale for Items {
    const BOUNDS: &'static [u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096];
    const UNITS: f64 = 1.0;

    fn bucket(value: u64) -> usize {
        Self::BOUNDS.partition_point(|&bound| bound < value)
    }
}

/// A distribution of values. Its one writer is `Send`, not `Sync`, not `Clone`.
#[derive(Debug)]
pub struct Histogram<S: Scale> {
    cells: Arc<Cells<S>>,
    single_writer: PhantomData<std::cell::Cell<()>>,
}

/// What both sides share.
#[derive(Debug)]
struct Cells<S> {
    /// One a bound, and one for what is above all of them.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    scale: PhantomData<S>,
}

impl<S: Scale> Default for Histogram<S> {
    fn default() -> Self {
        let buckets = (0..=S::BOUNDS.len()).map(|_| AtomicU64::new(0)).collect();
        let cells = Arc::new(Cells { buckets, sum: AtomicU64::new(0), scale: PhantomData });
        Self { cells, single_writer: PhantomData }
    }
}

impl<S: Scale> Histogram<S> {
    /// Records one value.
    pub fn record_units(&self, value: u64) {
        if let Some(bucket) = self.cells.buckets.get(S::bucket(value)) {
            bump(bucket, 1);
        }
        bump(&self.cells.sum, value);
    }

    pub(super) fn reading(&self) -> super::cell::Reading {
        super::cell::Reading::Distribution(Arc::clone(&self.cells) as Arc<dyn Distribution>)
    }
}

impl Histogram<Times> {
    /// Records one duration.
    pub fn record(&self, duration: Duration) {
        self.record_units(nanos(duration));
    }
}

/// What a reader sees of a histogram.
pub(super) trait Distribution: Send + Sync {
    /// Upper bounds, in what is exposed.
    fn bounds(&self) -> Vec<f64>;
    /// Counts by bucket, not cumulated; one more than bounds.
    fn counts(&self) -> Vec<u64>;
    /// Sum of all values, in what is exposed.
    fn sum(&self) -> f64;
}

impl<S: Scale> Distribution for Cells<S> {
    fn bounds(&self) -> Vec<f64> {
        S::BOUNDS.iter().map(|&bound| bound as f64 / S::UNITS).collect()
    }

    fn counts(&self) -> Vec<u64> {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect()
    }

    fn sum(&self) -> f64 {
        self.sum.load(Relaxed) as f64 / S::UNITS
    }
}
