//! Which series there are, for the reading side.
//!
//! A series is added when the sidecar starts or sends to a queue for the first time, never for each message. The lock
//! is held for as long as it takes to add one or to copy the list of a few hundred, never while text is made.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use super::cell::Reading;
use super::family::Family;

/// All series.
#[derive(Default)]
pub(super) struct Registry {
    series: Mutex<Vec<Series>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

/// One series.
#[derive(Clone)]
pub(super) struct Series {
    pub(super) family: &'static Family,
    /// `a="b",c="d"`, escaped; empty when there are none.
    pub(super) labels: String,
    pub(super) reading: Reading,
}

impl Registry {
    /// Adds a series with the values of its family's labels, in order.
    pub(super) fn add(&self, family: &'static Family, values: &[&str], reading: Reading) {
        debug_assert_eq!(values.len(), family.labels.len(), "{}", family.name);
        let series = Series { family, labels: labels(family, values), reading };
        self.series.lock().unwrap_or_else(PoisonError::into_inner).push(series);
    }

    /// All series, in the order in which they were added.
    pub(super) fn series(&self) -> Vec<Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn labels(family: &Family, values: &[&str]) -> String {
    let mut out = String::new();
    for (name, value) in family.labels.iter().zip(values) {
        let comma = if out.is_empty() { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{comma}{name}=\"{value}\"");
    }
    out
}
