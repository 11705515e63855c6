//! What is exposed, and that it is what dashboards were made for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::histogram::Scale;
use super::render::le;
use super::*;

mod promtool;

fn metrics() -> (Metrics, Reader) {
    Metrics::new("asya_actor", &Identity { actor: "echo".into(), transport: "rabbitmq" })
}

/// The samples of an exposition, by series.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples: Vec<_> = lines.map(|line| line.rsplit_once(' ').unwrap()).collect();
    let count = samples.len();
    let by_name: BTreeMap<_, _> = samples.into_iter().map(|(name, value)| (name, value.parse().unwrap())).collect();
    assert_eq!(by_name.len(), count, "a series is exposed twice");
    by_name
}

/// Names and labels that dashboards and alerts of the existing Asya use.
const CONTRACT: [&str; 29] = [
    r#"asya_actor_messages_received_total{queue="echo",transport="rabbitmq"}"#,
    r#"asya_actor_messages_processed_total{queue="echo",status="success"}"#,
    r#"asya_actor_messages_processed_total{queue="echo",status="empty_response"}"#,
    r#"asya_actor_messages_processed_total{queue="echo",status="end_consumed"}"#,
    r#"asya_actor_messages_processed_total{queue="echo",status="error"}"#,
    r#"asya_actor_messages_processed_total{queue="echo",status="retried"}"#,
    r#"asya_actor_messages_sent_total{destination_queue="asya-default-next",message_type="routing"}"#,
    r#"asya_actor_messages_sent_total{destination_queue="x-sink",message_type="sink"}"#,
    r#"asya_actor_messages_sent_total{destination_queue="x-sump",message_type="sump"}"#,
    r#"asya_actor_messages_failed_total{queue="echo",reason="parse_error"}"#,
    r#"asya_actor_messages_failed_total{queue="echo",reason="validation_error"}"#,
    r#"asya_actor_messages_failed_total{queue="echo",reason="route_mismatch"}"#,
    r#"asya_actor_messages_failed_total{queue="echo",reason="runtime_error"}"#,
    r#"asya_actor_messages_failed_total{queue="echo",reason="routing_error"}"#,
    r#"asya_actor_messages_failed_total{queue="echo",reason="error_queue_send_failed"}"#,
    r#"asya_actor_processing_duration_seconds_bucket{queue="echo",le="0.005"}"#,
    r#"asya_actor_processing_duration_seconds_bucket{queue="echo",le="0.25"}"#,
    r#"asya_actor_processing_duration_seconds_bucket{queue="echo",le="1"}"#,
    r#"asya_actor_processing_duration_seconds_bucket{queue="echo",le="120"}"#,
    r#"asya_actor_processing_duration_seconds_count{queue="echo"}"#,
    r#"asya_actor_runtime_execution_duration_seconds_sum{queue="echo"}"#,
    r#"asya_actor_queue_receive_duration_seconds_bucket{queue="echo",transport="rabbitmq",le="0.001"}"#,
    r#"asya_actor_queue_receive_duration_seconds_bucket{queue="echo",transport="rabbitmq",le="10"}"#,
    r#"asya_actor_queue_send_duration_seconds_bucket{destination_queue="x-sink",transport="rabbitmq",le="5"}"#,
    r#"asya_actor_envelope_size_bytes_bucket{direction="received",le="100"}"#,
    r#"asya_actor_envelope_size_bytes_bucket{direction="sent",le="1e+06"}"#,
    r#"asya_actor_envelope_size_bytes_count{direction="sent"}"#,
    "asya_actor_active_messages",
    r#"asya_actor_runtime_errors_total{queue="echo",error_type="execution_error"}"#,
];

#[test]
fn what_dashboards_were_made_for_is_there() {
    let (mut metrics, reader) = metrics();
    metrics.destination("asya-default-next", MessageType::Routing);
    metrics.destination("x-sink", MessageType::Sink);
    metrics.destination("x-sump", MessageType::Sump);
    let text = reader.render();
    let samples = samples(&text);
    for series in CONTRACT {
        assert_eq!(samples.get(series), Some(&0.0), "{series}");
    }
}

#[test]
fn every_family_is_exposed_with_its_labels_and_help() {
    let (mut metrics, reader) = metrics();
    metrics.destination("q", MessageType::Routing);
    let text = reader.render();
    for family in FAMILIES {
        let name = render::full_name("asya_actor", family);
        assert!(text.contains(&format!("# HELP {name} {}\n", family.help)), "{name}");
        assert!(text.contains(&format!("# TYPE {name} {}\n", family.kind.as_str())), "{name}");
        let with_labels = text.lines().find(|line| line.starts_with(&name)).unwrap();
        for label in family.labels {
            assert!(with_labels.contains(&format!("{label}=\"")), "{with_labels} lacks {label}");
        }
        assert_eq!(family.kind == FamilyKind::Counter, family.name.ends_with("_total"), "{name}");
    }
    let names: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(names.len(), FAMILIES.len());
}

#[test]
fn what_is_written_is_read() {
    let (mut metrics, reader) = metrics();
    metrics.received.add(3);
    metrics.processed.inc(ProcessedStatus::EndConsumed);
    metrics.active.set(7);
    metrics.stage.of(Stage::Running).set_u64(4);
    metrics.arena_used.of(Region::Output).set_u64(u64::MAX);
    metrics.handler_busy.add(Duration::from_micros(1_500));
    metrics.execution.record(Duration::from_micros(3));
    metrics.execution.record(Duration::from_secs(500));
    metrics.received_bytes.record_units(101);
    metrics.batch_items.record_units(16);
    let next = metrics.destination("next", MessageType::Routing);
    metrics.sent(next, Duration::from_micros(40), 2_000);

    let text = reader.render();
    let samples = samples(&text);
    let at = |series: &str| samples.get(series).copied();
    assert_eq!(at(r#"asya_actor_messages_received_total{queue="echo",transport="rabbitmq"}"#), Some(3.0));
    assert_eq!(at(r#"asya_actor_messages_processed_total{queue="echo",status="end_consumed"}"#), Some(1.0));
    assert_eq!(at("asya_actor_active_messages"), Some(7.0));
    assert_eq!(at(r#"asya_actor_stage_messages{stage="running"}"#), Some(4.0));
    assert_eq!(at(r#"asya_actor_arena_used_bytes{region="output"}"#), Some(i64::MAX as f64));
    assert_eq!(at(r#"asya_actor_handler_busy_seconds_total{queue="echo"}"#), Some(0.0015));
    let execution = |rest: &str| at(&format!("asya_actor_runtime_execution_duration_seconds{rest}"));
    assert_eq!(execution(r#"_bucket{queue="echo",le="2.5e-06"}"#), Some(0.0));
    assert_eq!(execution(r#"_bucket{queue="echo",le="3.5e-06"}"#), Some(1.0));
    assert_eq!(execution(r#"_bucket{queue="echo",le="120"}"#), Some(1.0));
    assert_eq!(execution(r#"_bucket{queue="echo",le="+Inf"}"#), Some(2.0));
    assert_eq!(execution(r#"_count{queue="echo"}"#), Some(2.0));
    assert_eq!(execution(r#"_sum{queue="echo"}"#), Some(500.000003));
    assert_eq!(at(r#"asya_actor_envelope_size_bytes_bucket{direction="received",le="100"}"#), Some(0.0));
    assert_eq!(at(r#"asya_actor_envelope_size_bytes_bucket{direction="received",le="1000"}"#), Some(1.0));
    assert_eq!(at(r#"asya_actor_envelope_size_bytes_sum{direction="sent"}"#), Some(2_000.0));
    assert_eq!(at(r#"asya_actor_batch_items_bucket{queue="echo",le="16"}"#), Some(1.0));
    assert_eq!(at(r#"asya_actor_messages_sent_total{destination_queue="next",message_type="routing"}"#), Some(1.0));
    let send =
        r#"asya_actor_queue_send_duration_seconds_bucket{destination_queue="next",transport="rabbitmq",le="5e-05"}"#;
    assert_eq!(at(send), Some(1.0));
    assert!(at("process_cpu_seconds_total").is_some_and(|seconds| seconds > 0.0));
    assert!(at("process_resident_memory_bytes").is_some_and(|bytes| bytes > 100_000.0));
    assert!(at("process_open_fds").is_some_and(|fds| fds >= 3.0));
    assert_eq!(at(&format!(r#"asya_actor_build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION"))), Some(1.0));
}

#[test]
fn another_thread_reads_while_one_writes() {
    let (metrics, reader) = metrics();
    let (written, seen) = std::sync::mpsc::sync_channel(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..1_000 {
                metrics.received.inc();
                metrics.processing.record(Duration::from_millis(1));
            }
            written.send(()).unwrap();
        });
        seen.recv().unwrap();
        let text = reader.render();
        let samples = samples(&text);
        assert_eq!(samples[r#"asya_actor_messages_received_total{queue="echo",transport="rabbitmq"}"#], 1_000.0);
        assert_eq!(samples[r#"asya_actor_processing_duration_seconds_bucket{queue="echo",le="0.001"}"#], 1_000.0);
    });
}

#[test]
fn destinations_are_found_again_and_bounded() {
    let (mut metrics, reader) = metrics();
    let first = metrics.destination("q0", MessageType::Routing);
    assert_eq!(metrics.destination("q0", MessageType::Routing), first);
    let as_sink = metrics.destination("q0", MessageType::Sink);
    assert_ne!(as_sink, first);
    for n in 0..10 * DESTINATIONS_MAX {
        let destination = metrics.destination(&format!("q{n}"), MessageType::Routing);
        metrics.sent(destination, Duration::ZERO, 1);
    }
    // What is known stays known.
    assert_eq!(metrics.destination("q0", MessageType::Sink), as_sink);
    let text = reader.render();
    let samples = samples(&text);
    let sent = samples.keys().filter(|series| series.starts_with("asya_actor_messages_sent_total")).count();
    assert_eq!(sent, DESTINATIONS_MAX + 2, "each queue, one of them with two types, and all others");
    let other = r#"asya_actor_messages_sent_total{destination_queue="other",message_type="routing"}"#;
    assert_eq!(samples[other], (9 * DESTINATIONS_MAX) as f64);
    // Both types share the histogram of the queue.
    let durations = samples.keys().filter(|s| s.starts_with("asya_actor_queue_send_duration_seconds_count")).count();
    assert_eq!(durations, DESTINATIONS_MAX + 1);
}

#[test]
fn label_values_are_escaped() {
    let (mut metrics, reader) = metrics();
    metrics.destination("a\"b\\c\nd", MessageType::Reply);
    let escaped = r#"messages_sent_total{destination_queue="a\"b\\c\nd",message_type="reply"} 0"#;
    assert!(reader.render().contains(escaped));
}

/// The bucket as it is defined: the first bound that is not below the value.
fn bucket_by_definition<S: Scale>(value: u64) -> usize {
    S::BOUNDS.iter().position(|&bound| value <= bound).unwrap_or(S::BOUNDS.len())
}

#[test]
fn times_fall_in_the_right_bucket() {
    let bounds = Times::BOUNDS.iter().copied();
    let near = bounds.flat_map(|bound| [bound - 1, bound, bound + 1]);
    // A walk over all magnitudes, in steps that meet no bound by design.
    let walk = std::iter::successors(Some(0_u64), |v| Some(v + v / 97 + 1)).take_while(|v| *v < 1 << 40);
    for value in near.chain(walk).chain([u64::MAX, u64::MAX - 1]) {
        assert_eq!(Times::bucket(value), bucket_by_definition::<Times>(value), "{value} ns");
    }
}

#[test]
fn sizes_and_items_fall_in_the_right_bucket() {
    for bound in Sizes::BOUNDS.iter().chain(Items::BOUNDS) {
        for value in [bound - 1, *bound, bound + 1] {
            assert_eq!(Sizes::bucket(value), bucket_by_definition::<Sizes>(value));
            assert_eq!(Items::bucket(value), bucket_by_definition::<Items>(value));
        }
    }
}

#[test]
fn bounds_ascend_and_include_those_of_the_existing_asya() {
    let exposed: Vec<String> = Times::BOUNDS.iter().map(|&ns| le(ns as f64 / 1e9)).collect();
    assert!(Times::BOUNDS.is_sorted_by(|a, b| a < b));
    assert_eq!(exposed.first().map(String::as_str), Some("1e-06"));
    let old =
        ["0.001", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "30", "60", "120"];
    for bound in old {
        assert!(exposed.iter().any(|e| e == bound), "{bound} is not among {exposed:?}");
    }
    // Neighbours lie at least a quarter apart, which the index of cells relies on.
    assert!(Times::BOUNDS.windows(2).all(|pair| pair[0] * 5 <= pair[1] * 4));
}

#[test]
fn bounds_are_written_as_go_writes_them() {
    for (bound, text) in [
        (1e-6, "1e-06"),
        (1.5e-6, "1.5e-06"),
        (7.5e-5, "7.5e-05"),
        (1e-4, "0.0001"),
        (0.025, "0.025"),
        (1.0, "1"),
        (120.0, "120"),
        (100_000.0, "100000"),
        (1e6, "1e+06"),
        (1e9, "1e+09"),
        (1e12, "1e+12"),
    ] {
        assert_eq!(le(bound), text);
    }
}

#[test]
fn the_page_is_generated_from_the_table() {
    crate::config::check_generated("METRICS.md", &markdown());
}
