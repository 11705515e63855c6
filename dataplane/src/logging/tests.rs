//! What is written, and how often.

use std::sync::{Arc, Mutex};

use super::*;
use crate::config::LogFilter;
use tracing::level_filters::LevelFilter;

/// Keeps what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines, plain and from INFO on, that `act` leaves behind.
pub(crate) fn captured(act: impl FnOnce()) -> String {
    let filter = LogFilter { level: LevelFilter::INFO, targets: Vec::new() };
    captured_with(&Log { filter, format: LogFormat::Plain }, act)
}

fn captured_with(log: &Log, act: impl FnOnce()) -> String {
    let kept = Kept::default();
    let writer = kept.clone();
    tracing::subscriber::with_default(subscriber(log, move || writer.clone(), false), act);
    let bytes = kept.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// What two levels of two targets leave behind.
fn logged(format: LogFormat, level: LevelFilter, targets: &[(&str, LevelFilter)]) -> String {
    let targets = targets.iter().map(|(target, level)| ((*target).to_owned(), *level)).collect();
    captured_with(&Log { filter: LogFilter { level, targets }, format }, || {
        tracing::info!(target: "asya_transport::amqp", attempt = 3, "connected");
        tracing::debug!(target: "asya_transport::amqp", "frame");
        tracing::warn!(target: "asya_dataplane", queue = "asya-default-echo", "queue differs");
        tracing::debug!(target: "asya_dataplane", "turn");
    })
}

#[test]
fn plain_lines_are_for_people() {
    let text = logged(LogFormat::Plain, LevelFilter::INFO, &[]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].ends_with("INFO asya_transport::amqp: connected attempt=3"), "{text}");
    assert!(lines[1].ends_with("WARN asya_dataplane: queue differs queue=\"asya-default-echo\""), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours where nobody looks");
}

#[test]
fn json_lines_are_flat_objects() {
    let text = logged(LogFormat::Json, LevelFilter::WARN, &[]);
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert_eq!(lines[0]["level"], "WARN");
    assert_eq!(lines[0]["target"], "asya_dataplane");
    assert_eq!(lines[0]["message"], "queue differs");
    assert_eq!(lines[0]["queue"], "asya-default-echo");
    assert!(lines[0]["timestamp"].is_string());
}

#[test]
fn targets_have_levels_of_their_own() {
    let quiet = [("asya_transport", LevelFilter::DEBUG)];
    assert_eq!(logged(LogFormat::Plain, LevelFilter::ERROR, &quiet).lines().count(), 2);
    let loud = [("asya_transport", LevelFilter::OFF)];
    assert_eq!(logged(LogFormat::Plain, LevelFilter::DEBUG, &loud).lines().count(), 2);
    assert_eq!(logged(LogFormat::Plain, LevelFilter::OFF, &[]), "");
}

#[test]
fn a_repeated_warning_comes_once_a_while_with_its_count() {
    let start = Instant::now();
    let after = |ms| start + Duration::from_millis(ms);
    let mut limited = RateLimited::new(Duration::from_secs(1));
    assert_eq!(limited.admit(start), Some(0));
    assert_eq!(limited.admit(after(1)), None);
    assert_eq!(limited.admit(after(999)), None);
    assert_eq!(limited.admit(after(1_000)), Some(2));
    assert_eq!(limited.admit(after(1_001)), None);
    assert_eq!(limited.admit(after(9_000)), Some(1));
    // A clock read earlier than the last is as good as the last.
    assert_eq!(limited.admit(start), None);
}
