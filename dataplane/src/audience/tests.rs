//! That every fact ends up in a number, and every trouble in a reason.

use std::collections::BTreeSet;

use asya_envelope::ErrorInfo;
use asya_transport::Token;

use super::*;
use crate::flow::WorkerId;
use crate::metrics::{Identity, Reader};

fn watcher() -> (Watcher, Reader, Arc<Health>) {
    let (metrics, reader) = Metrics::new("asya_actor", &Identity { actor: "echo".into(), transport: "rabbitmq" });
    let health = Arc::new(Health::default());
    (Watcher::new(metrics, Arc::clone(&health), "x-sink", "x-sump"), reader, health)
}

/// Series that are not zero, without their values; of histograms only the count.
fn moved(reader: &Reader) -> BTreeSet<String> {
    let text = reader.render();
    let samples = text.lines().filter(|line| line.starts_with("asya_actor_")).filter(|line| !line.ends_with(" 0"));
    let names = samples.map(|line| line.rsplit_once(' ').unwrap().0.trim_start_matches("asya_actor_").to_owned());
    names
        .filter(|name| !name.contains("_bucket{") && !name.contains("_sum{") && !name.starts_with("build_info"))
        .collect()
}

/// What one call moves.
fn moved_by(act: impl FnOnce(&mut Watcher)) -> Vec<String> {
    let (mut watcher, reader, _) = watcher();
    act(&mut watcher);
    moved(&reader).into_iter().collect()
}

fn moved_by_fact(observation: Observation) -> Vec<String> {
    moved_by(|watcher| watcher.observe(&observation))
}

fn raised() -> ErrorInfo {
    ErrorInfo {
        message: "no module named torch".into(),
        error_type: "ModuleNotFoundError".into(),
        mro: vec![],
        traceback: None,
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn every_fact_is_counted() {
    assert_eq!(
        moved_by_fact(Observation::Received { bytes: 10, messages: 2 }),
        [
            r#"envelope_size_bytes_count{direction="received"}"#,
            r#"messages_received_total{queue="echo",transport="rabbitmq"}"#,
        ]
    );
    assert_eq!(
        moved_by_fact(Observation::HandedOver { waited: MS }),
        [r#"queue_receive_duration_seconds_count{queue="echo",transport="rabbitmq"}"#]
    );
    assert_eq!(
        moved_by_fact(Observation::Ran { elapsed: MS, messages: 4, failed: true }),
        [
            r#"batch_items_count{queue="echo"}"#,
            r#"handler_busy_seconds_total{queue="echo"}"#,
            r#"runtime_execution_duration_seconds_count{queue="echo"}"#,
        ]
    );
    assert_eq!(moved_by_fact(Observation::Suspects(3)), ["suspects_total"]);
    assert_eq!(moved_by_fact(Observation::Adopted), ["adopted_total"]);
    assert_eq!(moved_by_fact(Observation::HandedBack), ["handed_back_total"]);
    assert_eq!(moved_by_fact(Observation::PublishRetried), ["publish_retries_total"]);
    assert_eq!(moved_by_fact(Observation::Window(8)), ["window_messages"]);
}

#[test]
fn every_ending_has_a_status() {
    assert_eq!(moved_by_fact(Observation::Processed { ending: Ending::Open, took: MS }), [""; 0]);
    for (ending, status) in [
        (Ending::Success, "success"),
        (Ending::Empty, "empty_response"),
        (Ending::Consumed, "end_consumed"),
        (Ending::Error, "error"),
        (Ending::Retried, "retried"),
    ] {
        assert_eq!(
            moved_by_fact(Observation::Processed { ending, took: MS }),
            [
                format!(r#"messages_processed_total{{queue="echo",status="{status}"}}"#),
                r#"processing_duration_seconds_count{queue="echo"}"#.to_owned(),
            ]
        );
    }
}

#[test]
fn destinations_are_named_as_dashboards_know_them() {
    let queue = |name: &str| Rc::<str>::from(name);
    for (purpose, full, destination, message_type) in [
        (Purpose::Next, "asya-default-next", "asya-default-next", "routing"),
        (Purpose::Again, "asya-default-echo", "asya-default-echo", "retry"),
        (Purpose::Sink, "asya-default-x-sink", "x-sink", "sink"),
        (Purpose::Sump, "asya-default-x-sump", "x-sump", "sump"),
        (Purpose::Reply, "reply-1234", "reply", "reply"),
    ] {
        let sent = Observation::Sent { purpose, queue: queue(full), took: MS, bytes: 7 };
        assert_eq!(
            moved_by_fact(sent),
            [
                r#"envelope_size_bytes_count{direction="sent"}"#.to_owned(),
                format!(r#"messages_sent_total{{destination_queue="{destination}",message_type="{message_type}"}}"#),
                format!(
                    r#"queue_send_duration_seconds_count{{destination_queue="{destination}",transport="rabbitmq"}}"#
                ),
            ]
        );
    }

    // Turn and turn about, and more queues than are kept.
    let (mut watcher, reader, _) = watcher();
    for round in 0..3 {
        for n in 0..200 {
            let purpose = if n % 2 == 0 { Purpose::Next } else { Purpose::Reply };
            let sent = Observation::Sent { purpose, queue: queue(&format!("q{n}")), took: MS, bytes: 1 };
            watcher.observe(&sent);
        }
        let text = reader.render();
        let of =
            |series: &str| text.lines().find_map(|line| line.strip_prefix(series)).map(str::trim).map(str::to_owned);
        let count = Some(format!("{}", round + 1));
        assert_eq!(of(r#"asya_actor_messages_sent_total{destination_queue="q2",message_type="routing"}"#), count);
        let replies = Some(format!("{}", 100 * (round + 1)));
        assert_eq!(of(r#"asya_actor_messages_sent_total{destination_queue="reply",message_type="reply"}"#), replies);
    }
}

#[test]
fn every_failure_has_a_reason() {
    for (why, label, error_type) in [
        (reason::PARSE_ERROR, "parse_error", None),
        (reason::ROUTE_MISMATCH, "route_mismatch", None),
        (reason::RUNTIME_ERROR, "runtime_error", Some("execution_error")),
        (reason::TIMEOUT, "timeout", Some("timeout")),
        (reason::UNROUTABLE, "routing_error", None),
        (reason::TOO_LARGE, "too_large", None),
        (reason::WORKER_CRASHED, "worker_crashed", Some("crash")),
        ("Unheard", "other", None),
    ] {
        let failed = format!(r#"messages_failed_total{{queue="echo",reason="{label}"}}"#);
        let error = error_type.map(|t| format!(r#"runtime_errors_total{{queue="echo",error_type="{t}"}}"#));
        assert_eq!(moved_by_fact(Observation::Failed(why)), [failed].into_iter().chain(error).collect::<Vec<_>>());
    }
}

#[test]
fn batches_deaths_and_outcomes_have_labels() {
    for (why, label) in
        [(Release::Full, "items"), (Release::Bytes, "bytes"), (Release::Age, "age"), (Release::Alone, "alone")]
    {
        assert_eq!(
            moved_by_fact(Observation::BatchReleased { why, messages: 1 }),
            [format!(r#"batches_released_total{{queue="echo",reason="{label}"}}"#)]
        );
    }
    for (death, label) in [
        (Death::Crashed, "crashed"),
        (Death::TimedOut, "timeout"),
        (Death::Corrupt, "corrupt"),
        (Death::Detached, "detached"),
    ] {
        assert_eq!(
            moved_by_fact(Observation::WorkerDied(death)),
            [format!(r#"worker_deaths_total{{reason="{label}"}}"#)]
        );
    }
    for (outcome, label) in [
        (Outcome::Confirmed, "confirmed"),
        (Outcome::Unroutable, "unroutable"),
        (Outcome::Refused("full".into()), "refused"),
        (Outcome::Lost, "lost"),
        (Outcome::TooLarge(1), "too_large"),
        (Outcome::Unsupported("delay"), "unsupported"),
    ] {
        assert_eq!(
            moved_by(|watcher| watcher.broker(&Event::Published { token: Token(1), outcome })),
            [format!(r#"publish_outcomes_total{{outcome="{label}"}}"#)]
        );
    }
    assert_eq!(
        moved_by(|watcher| watcher.report(&Report::SettleFailed { why: "gone".into() })),
        ["settle_failures_total"]
    );
}

#[test]
fn levels_are_told() {
    let levels = Levels {
        waiting: 1,
        running: 2,
        publishing: 3,
        finished: 4,
        arriving: 5,
        input_bytes: (6, 7),
        output_bytes: (8, 9),
        pinned_slots: 10,
        workers_ready: 11,
    };
    let (mut watcher, reader, _) = watcher();
    watcher.levels(&levels);
    watcher.turn(Instant::now());
    let text = reader.render();
    for line in [
        r#"stage_messages{stage="intake"} 5"#,
        r#"stage_messages{stage="waiting"} 1"#,
        r#"stage_messages{stage="running"} 2"#,
        r#"stage_messages{stage="publishing"} 3"#,
        r#"stage_messages{stage="finished"} 4"#,
        "active_messages 6",
        r#"arena_used_bytes{region="input"} 6"#,
        r#"arena_capacity_bytes{region="input"} 7"#,
        r#"arena_used_bytes{region="output"} 8"#,
        r#"arena_capacity_bytes{region="output"} 9"#,
        "pinned_slots 10",
        "workers_ready 11",
        "turns_total 1",
    ] {
        assert!(text.contains(&format!("asya_actor_{line}\n")), "{line}");
    }
    // What is in flight falls back to zero.
    watcher.levels(&Levels::default());
    assert!(reader.render().contains("asya_actor_active_messages 0\n"));
}

#[test]
fn readiness_follows_broker_and_workers() {
    let (mut watcher, reader, health) = watcher();
    let one_worker = Levels { workers_ready: 1, ..Levels::default() };
    assert_eq!(health.unready(), ["the broker is not connected", "no worker is ready"]);
    watcher.broker(&Event::Connected { epoch: 1 });
    watcher.levels(&one_worker);
    assert_eq!(health.unready(), [""; 0]);
    assert!(reader.render().contains("asya_actor_broker_connected{transport=\"rabbitmq\"} 1\n"));

    watcher.broker(&Event::Lost { epoch: 1, why: "reset".into() });
    assert_eq!(health.unready(), ["the broker is not connected"]);
    assert!(reader.render().contains("asya_actor_reconnects_total{transport=\"rabbitmq\"} 0\n"));
    watcher.broker(&Event::Fatal { why: "the password is refused".into() });
    assert_eq!(health.unready(), ["the broker is not connected", "the password is refused"]);
    watcher.broker(&Event::Connected { epoch: 2 });
    assert_eq!(health.unready(), [""; 0]);
    assert!(reader.render().contains("asya_actor_reconnects_total{transport=\"rabbitmq\"} 1\n"));

    watcher.broker(&Event::Blocked(true));
    assert!(reader.render().contains("asya_actor_broker_blocked{transport=\"rabbitmq\"} 1\n"));
    assert_eq!(health.unready(), [""; 0], "a broker that is full is not this pod's fault");

    watcher.levels(&Levels::default());
    watcher.report(&Report::HandlerBroken { error: raised() });
    let why = "the handler cannot be loaded: ModuleNotFoundError: no module named torch";
    assert_eq!(health.unready(), ["no worker is ready", why]);
    watcher.levels(&one_worker);
    assert_eq!(health.unready(), [""; 0]);
    watcher.draining();
    assert_eq!(health.unready(), ["draining"]);
}

#[test]
fn reports_are_logged_and_floods_are_not() {
    let flood = || {
        let (mut watcher, _, _) = watcher();
        let worker = WorkerId { index: 3, generation: 7 };
        watcher.report(&Report::WorkerDied { worker, death: Death::Crashed, suspects: 2 });
        watcher.report(&Report::Oversize { len: 1 << 30 });
        watcher.report(&Report::ConnectionLost { why: "reset".into() });
        watcher.report(&Report::NotReady);
        watcher.broker(&Event::Declared { queue: "q".into(), differs: Some("it is classic".into()) });
        watcher.broker(&Event::Canceled { asked: false });
        for tries in 0..10_000 {
            watcher.report(&Report::Unroutable { queue: "asya-default-nowhere".into(), tries });
            watcher.broker(&Event::DeclareFailed { queue: "q".into(), why: "no permission".into() });
        }
    };
    let text = crate::logging::captured(flood);
    for line in [
        "a worker died worker=3 generation=7 death=Crashed run_again_alone=2",
        "dead-letter queue bytes=1073741824",
        "the connection to the broker was lost why=\"reset\"",
        "no worker has been ready for too long",
        "a queue that exists is used as it is queue=\"q\" differs=\"it is classic\"",
        "the broker ended the consumer",
        "does not exist queue=\"asya-default-nowhere\" tries=0",
        "could not be made queue=\"q\" why=\"no permission\"",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    // Ten thousand tries take less than the ten seconds after which the next line may come, many times over; were the
    // machine a hundred times slower, there would still be few.
    assert!(text.lines().count() < 100, "{}", text.lines().count());
}
