//! How single values are read.

use std::time::Duration;

use super::super::near::nearest;
use super::super::value::{Value, allowed, bytes, duration, parse, show_bytes, show_duration};
use super::super::{Kind, Listen, TABLE};

#[test]
fn durations() {
    let ms = Duration::from_millis;
    for (text, value) in [
        ("5m", ms(300_000)),
        ("1h30m", ms(5_400_000)),
        ("250ms", ms(250)),
        ("1.5s", ms(1_500)),
        ("1m0.5s", ms(60_500)),
        ("300", ms(300_000)),
        ("0.25", ms(250)),
        ("0", ms(0)),
        ("10us", Duration::from_micros(10)),
        ("10µs", Duration::from_micros(10)),
        ("7ns", Duration::from_nanos(7)),
    ] {
        assert_eq!(duration(text), Ok(value), "{text}");
    }
    for text in ["5 m", "m", "5x", "1h30", "-5s", "..s", "1.2.3s", "five", "99999999999999999999h", "5M", "inf", "NaN"]
    {
        assert!(duration(text).is_err(), "{text}");
    }
    for value in [ms(0), ms(1), ms(999), ms(1_000), ms(90_000), ms(60_000), ms(7_200_000)] {
        assert_eq!(duration(&show_duration(value)), Ok(value));
    }
}

#[test]
fn sizes() {
    for (text, value) in [
        ("0", 0),
        ("1048576", 1 << 20),
        ("10B", 10),
        ("64MiB", 64 << 20),
        ("64Mi", 64 << 20),
        ("64 MiB", 64 << 20),
        ("2GiB", 2 << 30),
        ("1TiB", 1 << 40),
        ("3KiB", 3 << 10),
        ("5MB", 5_000_000),
        ("5M", 5_000_000),
        ("2k", 2_000),
    ] {
        assert_eq!(bytes(text), Ok(value), "{text}");
    }
    for text in ["", "MiB", "1.5GiB", "-1", "64mib", "64m", "99999999999999TiB", "99999999999999999999"] {
        assert!(bytes(text).is_err(), "{text}");
    }
    for value in [0, 1, 1_000, 1 << 10, 3 << 20, 5 << 30, (1 << 30) + 1] {
        assert_eq!(bytes(&show_bytes(value)), Ok(value));
    }
}

#[test]
fn labels() {
    for text in ["a", "text-infer", "0", &"a".repeat(63)] {
        assert!(matches!(parse(Kind::Label, text), Ok(Value::Text(read)) if read == text), "{text}");
        assert!(asya_envelope::names::queue_name(text, text).is_ok(), "{text}");
    }
    for text in ["A", "a.b", "a_b", "-a", "a-", "a/b", "é", &"a".repeat(64), "x-dlq", "x-delay"] {
        assert!(parse(Kind::Label, text).is_err(), "{text}");
        assert!(asya_envelope::names::queue_name("default", text).is_err(), "{text}");
    }
}

#[test]
fn listening_addresses() {
    let read = |text| match parse(Kind::Listen, text) {
        Ok(Value::Listen(listen)) => listen,
        other => panic!("{text}: {other:?}"),
    };
    let at = |host: &str, port| Some(Listen { host: host.to_owned(), port });
    assert_eq!(read(":8080"), at("", 8080));
    assert_eq!(read("127.0.0.1:0"), at("127.0.0.1", 0));
    assert_eq!(read("[::1]:9"), at("::1", 9));
    assert_eq!(read("localhost:80"), at("localhost", 80));
    assert_eq!(read("off"), None);
    for text in ["8080", "host", ":", ":http", ":65536", "::1:80"] {
        assert!(parse(Kind::Listen, text).is_err(), "{text}");
    }
    for text in [":8080", "[::1]:9", "localhost:80"] {
        assert_eq!(read(text).unwrap().to_string(), text);
    }
}

#[test]
fn metric_prefixes_and_log_filters() {
    assert!(parse(Kind::MetricPrefix, "asya_actor").is_ok());
    for text in ["9bad", "a-b", "a:b"] {
        assert!(parse(Kind::MetricPrefix, text).is_err(), "{text}");
    }
    for text in ["INFO", "Warning", "critical", "off", "info, a=trace ,b::c=off"] {
        assert!(parse(Kind::LogFilter, text).is_ok(), "{text}");
    }
    for text in ["loud", "info,debug", "a=loud", "=info", "info,=debug", "info,"] {
        assert!(parse(Kind::LogFilter, text).is_err(), "{text}");
    }
}

#[test]
fn every_kind_says_what_it_allows() {
    for var in TABLE {
        assert!(!allowed(var.kind).is_empty(), "{}", var.name);
    }
}

#[test]
fn what_was_meant() {
    let names = ["ASYA_WORKERS", "ASYA_BATCH_SIZE", "json"];
    assert_eq!(nearest("ASYA_WORKER", names.into_iter()), Some("ASYA_WORKERS"));
    assert_eq!(nearest("ASYA_BACTH_SIZE", names.into_iter()), Some("ASYA_BATCH_SIZE"));
    assert_eq!(nearest("jsno", names.into_iter()), Some("json"));
    assert_eq!(nearest("ASYA_UNRELATED_THING", names.into_iter()), None);
}
