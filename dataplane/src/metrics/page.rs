//! The table of metrics as text, for `docs/METRICS.md`.

use std::fmt::Write;

use super::family::{FAMILIES, Family};
use super::labels::{
    DeathReason, Direction, FailureReason, Label, MessageType, ProcessedStatus, PublishOutcome, Region, ReleaseReason,
    RuntimeErrorType, Stage,
};
use super::render::full_name;

/// All metrics as Markdown tables: those of the existing Asya, then ours.
pub fn markdown() -> String {
    let mut out = String::new();
    for (title, contract) in [("Metrics that the existing Asya has", true), ("Metrics of this data plane", false)] {
        let _ = writeln!(out, "### {title}\n\n| metric | kind | labels | what it tells |\n| --- | --- | --- | --- |");
        for family in FAMILIES.iter().filter(|family| family.contract == contract) {
            let name = full_name("asya_actor", family);
            let labels: Vec<_> = family.labels.iter().map(|label| describe(family, label)).collect();
            let _ = writeln!(out, "| `{name}` | {} | {} | {} |", family.kind.as_str(), labels.join("; "), family.help);
        }
        out.push('\n');
    }
    out
}

/// A label, with its values where they are known beforehand.
fn describe(family: &Family, label: &str) -> String {
    let values = match (family.name, label) {
        ("messages_processed_total", "status") => names::<ProcessedStatus>(),
        ("messages_sent_total", "message_type") => names::<MessageType>(),
        ("messages_failed_total", "reason") => names::<FailureReason>(),
        ("runtime_errors_total", "error_type") => names::<RuntimeErrorType>(),
        ("batches_released_total", "reason") => names::<ReleaseReason>(),
        ("worker_deaths_total", "reason") => names::<DeathReason>(),
        (_, "direction") => names::<Direction>(),
        (_, "stage") => names::<Stage>(),
        (_, "outcome") => names::<PublishOutcome>(),
        (_, "region") => names::<Region>(),
        _ => return format!("`{label}`"),
    };
    format!("`{label}`: {values}")
}

fn names<L: Label>() -> String {
    L::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", ")
}
