//! Turns runs into rows: medians with their spread, as JSON for machines and as a table for people. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::measure::Run;

/// A median with its spread.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figure {
    /// Of all rounds.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All of them, in the order of the rounds.
    pub rounds: Vec<f64>,
}

impl Figure {
    /// Of these rounds, rounded to what can be told apart.
    pub fn of(rounds: impl IntoIterator<Item = f64>) -> Self {
        let rounds: Vec<f64> = rounds.into_iter().map(round).collect();
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { at(middle) } else { round((at(middle.saturating_sub(1)) + at(middle)) / 2.0) };
        Self { median, min: at(0), max: at(sorted.len().saturating_sub(1)), rounds }
    }
}

/// Four significant digits.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// One line of the report: a hop, with the forwarder that ran in turns with it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// `rabbitmq` or `embedded`.
    pub transport: String,
    /// The broker and its version.
    pub broker: String,
    /// Bytes of the document or the blob.
    pub payload_bytes: usize,
    /// `json` or `binary`.
    pub payload_kind: &'static str,
    /// What Python read and wrote JSON with.
    pub json_library: &'static str,
    /// Messages of one run.
    pub messages: u64,
    /// Messages a second through broker, sidecar, Python, sidecar, broker.
    pub hop_per_s: Figure,
    /// Messages a second through the raw forwarder.
    pub forwarder_per_s: Figure,
    /// Hop over forwarder, round by round.
    pub ratio: Figure,
    /// Processor microseconds a message during the hop.
    pub cpu_us: BTreeMap<String, Figure>,
    /// Processor microseconds a message during the forwarder's run.
    pub forwarder_cpu_us: BTreeMap<String, Figure>,
    /// Most resident memory of the sidecar, KiB.
    pub sidecar_rss_kib: Figure,
}

/// A figure that is no hop.
#[derive(Clone, Debug, Serialize)]
pub struct Extra {
    /// What was measured.
    pub name: String,
    /// `rabbitmq`, `embedded` or `none`.
    pub transport: String,
    /// In what.
    pub unit: &'static str,
    /// The figure.
    pub value: Figure,
}

/// Processor times of several runs, by process.
pub fn cpu(runs: &[Run]) -> BTreeMap<String, Figure> {
    let names: std::collections::BTreeSet<&String> = runs.iter().flat_map(|run| run.cpu_us.keys()).collect();
    let of = |name: &String| Figure::of(runs.iter().filter_map(|run| run.cpu_us.get(name).copied()));
    names.into_iter().map(|name| (name.clone(), of(name))).collect()
}

/// The table for people.
pub fn markdown(machine: &str, rows: &[Row], extras: &[Extra]) -> String {
    let mut text = format!("{machine}\n\n");
    text.push_str(
        "| transport | payload | JSON by | hop msg/s | forwarder msg/s | ratio | CPU µs a message: hop | forwarder |\n",
    );
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for row in rows {
        let _ = writeln!(
            text,
            "| {} | {} KiB {} | {} | {} | {} | {} | {} | {} |",
            row.broker,
            row.payload_bytes / 1024,
            row.payload_kind,
            row.json_library,
            spread(&row.hop_per_s),
            spread(&row.forwarder_per_s),
            spread(&row.ratio),
            shares(&row.cpu_us),
            shares(&row.forwarder_cpu_us),
        );
    }
    text.push_str("\n| what | transport | value |\n| --- | --- | --- |\n");
    for extra in extras {
        let _ = writeln!(text, "| {} | {} | {} {} |", extra.name, extra.transport, spread(&extra.value), extra.unit);
    }
    text
}

fn spread(figure: &Figure) -> String {
    if figure.rounds.len() == 1 {
        format!("{}", figure.median)
    } else {
        format!("{} ({}–{})", figure.median, figure.min, figure.max)
    }
}

fn shares(figures: &BTreeMap<String, Figure>) -> String {
    let parts: Vec<_> = figures.iter().map(|(name, figure)| format!("{name} {}", figure.median)).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_with_its_spread() {
        let figure = Figure::of([3.0, 1.0, 200_049.0, 2.0]);
        assert_eq!((figure.median, figure.min, figure.max), (2.5, 1.0, 200_000.0));
        assert_eq!(Figure::of([]).median, 0.0);
    }
}
