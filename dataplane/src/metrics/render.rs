//! Series as text, in the exposition format of Prometheus, version 0.0.4.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use super::cell::Reading;
use super::family::{FAMILIES, Family};
use super::histogram::Distribution;
use super::registry::Series;

/// The content type of what `render` gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes all series by family.
pub(super) fn render(prefix: &str, all: &[Series]) -> String {
    let mut out = String::with_capacity(64 << 10);
    for family in FAMILIES {
        let mut members = all.iter().filter(|series| series.family.name == family.name).peekable();
        if members.peek().is_none() {
            continue;
        }
        let name = full_name(prefix, family);
        let _ = writeln!(out, "# HELP {name} {}", family.help);
        let _ = writeln!(out, "# TYPE {name} {}", family.kind.as_str());
        for series in members {
            match &series.reading {
                Reading::Count(cell) => sample(&mut out, &name, &series.labels, cell.load(Relaxed)),
                Reading::Level(cell) => sample(&mut out, &name, &series.labels, cell.load(Relaxed)),
                Reading::Nanos(cell) => sample(&mut out, &name, &series.labels, cell.load(Relaxed) as f64 / 1e9),
                Reading::Sampled(ask) => {
                    if let Some(value) = ask() {
                        sample(&mut out, &name, &series.labels, value);
                    }
                }
                Reading::Distribution(cells) => distribution(&mut out, &name, &series.labels, cells.as_ref()),
            }
        }
    }
    out
}

/// The name as it is exposed. What every process has is named alike everywhere, without the prefix.
pub(super) fn full_name(prefix: &str, family: &Family) -> String {
    if family.name.starts_with("process_") { family.name.to_owned() } else { format!("{prefix}_{}", family.name) }
}

fn sample(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ =
        if labels.is_empty() { writeln!(out, "{name} {value}") } else { writeln!(out, "{name}{{{labels}}} {value}") };
}

fn distribution(out: &mut String, name: &str, labels: &str, cells: &dyn Distribution) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut bounds = cells.bounds().into_iter();
    let mut total = 0;
    for count in cells.counts() {
        total += count;
        let le = bounds.next().map_or_else(|| "+Inf".to_owned(), le);
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {total}");
    }
    sample(out, &format!("{name}_sum"), labels, cells.sum());
    // The buckets' total rather than a count of its own, so that the two always agree.
    sample(out, &format!("{name}_count"), labels, total);
}

/// A bound as the Go client writes it, which is what series of the existing Asya are labelled with: shortest digits,
/// with an exponent below 0.0001 and from a million on.
pub(super) fn le(bound: f64) -> String {
    if (1e-4..1e6).contains(&bound) {
        return bound.to_string();
    }
    let text = format!("{bound:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}
