//! The small values: routes, headers, names, ids, the failure message.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod strategies;

use std::collections::BTreeMap;

use asya_envelope::{
    Decoded, Encoding, Head, Headers, Phase, Route, RouteShape, decode, encode_json, escape_json,
    failure_of_unparsable, ids, names, original_of_unparsable, parse_status,
};
use proptest::prelude::*;
use serde_json::Value;

fn list(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_route_shifts_to_its_end_and_stays_there() {
    let start = Route { prev: vec![], curr: "a".to_owned(), next: list(&["b"]) };
    let second = start.shifted();
    assert_eq!(second, Route { prev: list(&["a"]), curr: "b".to_owned(), next: vec![] });
    assert_eq!((start.hop(), second.hop()), (0, 1));
    let end = second.shifted();
    assert_eq!(end, Route { prev: list(&["a", "b"]), curr: String::new(), next: vec![] });
    assert_eq!(end.shifted(), end);
}

#[test]
fn headers_keep_order_and_what_they_do_not_know() {
    let mut headers = Headers::from_json("\n{ \"a\" : 1, \"b\":{\"c\":[ ]} ,\"\\u0061\":2 }\t").unwrap();
    assert_eq!(headers.get("a"), Some("2"), "the last of two counts");
    assert_eq!(headers.get("b"), Some("{\"c\":[ ]}"));
    assert_eq!(headers.get("c"), None);
    headers.set("a", " [3] ").unwrap();
    assert_eq!(headers.as_json(), "{\"a\":[3],\"b\":{\"c\":[ ]}}");
    headers.set_str("d\"", "x\ny");
    assert_eq!(headers.get_str("d\"").as_deref(), Some("x\ny"));
    assert_eq!(headers.get_str("a"), None, "not a string");
    assert!(headers.set("e", "1,\"f\":2").is_err());
    assert!(headers.remove("b"));
    assert!(!headers.remove("b"));
    assert_eq!(headers.as_json(), "{\"a\":[3],\"d\\\"\":\"x\\ny\"}");
    assert!(headers.remove("a") && headers.remove("d\"") && headers.is_empty());
    assert_eq!(headers, Headers::default());
    for wrong in ["[]", "1", "", "{", "{}x", "{\"a\"}"] {
        assert!(Headers::from_json(wrong).is_err(), "{wrong}");
    }
}

#[derive(Clone, Debug)]
enum Change {
    Set(String, String),
    SetStr(String, String),
    Remove(String),
}

fn change() -> impl Strategy<Value = Change> {
    let key = || proptest::sample::select(vec!["a", "b", "é\"", ""]).prop_map(str::to_owned);
    prop_oneof![
        (key(), strategies::document()).prop_map(|(key, raw)| Change::Set(key, raw)),
        (key(), strategies::text()).prop_map(|(key, text)| Change::SetStr(key, text)),
        key().prop_map(Change::Remove),
    ]
}

proptest! {
    /// Headers against a map.
    #[test]
    fn headers_are_a_map(changes in prop::collection::vec(change(), 0..12)) {
        let mut headers = Headers::default();
        let mut map: BTreeMap<String, Value> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Set(key, raw) => {
                    headers.set(&key, &raw).unwrap();
                    map.insert(key, serde_json::from_str(&raw).unwrap());
                }
                Change::SetStr(key, text) => {
                    headers.set_str(&key, &text);
                    map.insert(key, Value::from(text));
                }
                Change::Remove(key) => prop_assert_eq!(headers.remove(&key), map.remove(&key).is_some()),
            }
            let seen: BTreeMap<String, Value> = serde_json::from_str(headers.as_json()).unwrap();
            prop_assert_eq!(&seen, &map);
            prop_assert_eq!(headers.iter().count(), map.len());
            prop_assert_eq!(headers.is_empty(), map.is_empty());
            for (key, value) in &map {
                prop_assert_eq!(headers.get_str(key), value.as_str().map(str::to_owned));
            }
        }
    }

    #[test]
    fn strings_are_escaped_as_json_has_it(text in any::<String>()) {
        let mut out = Vec::new();
        escape_json(&text, &mut out);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }

    #[test]
    fn queue_names_fit_everywhere(namespace in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", actor in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") {
        prop_assume!(!actor.ends_with("-dlq") && !actor.ends_with("-delay"));
        let queue = names::queue_name(&namespace, &actor).unwrap();
        prop_assert!(queue.len() <= names::MAX_BASE_NAME && names::dead_letter(&queue).len() <= names::MAX_QUEUE_NAME);
        prop_assert!(queue.starts_with("asya-") && !queue.contains('.'));
        prop_assert!(!queue.ends_with('-'));
        // Cut or not, another actor has another queue.
        let other = format!("{}{}", &actor[..actor.len() - 1], if actor.ends_with('0') { '1' } else { '0' });
        prop_assert_ne!(names::queue_name(&namespace, &other).unwrap(), queue);
    }

    /// The whole of a body that cannot be read is in the message about it.
    #[test]
    fn nothing_of_an_unparsable_body_is_lost(body in prop_oneof![prop::collection::vec(any::<u8>(), 0..400), strategies::text().prop_map(String::into_bytes)]) {
        let Err(error) = decode(&body, Encoding::Json) else { return Ok(()) };
        let (head, payload) = failure_of_unparsable(&body, Encoding::Json, "echo", &error, "2026-11-24T08:00:00Z");
        prop_assert!(payload.len() <= body.len() * 4 / 3 + 600);
        let value: Value = serde_json::from_slice(&payload).unwrap();
        prop_assert_eq!(original_of_unparsable(&payload), Some((body, Encoding::Json)));
        prop_assert_eq!(value["error"].as_str(), Some("msg_parsing_error"));
        prop_assert_eq!(value["details"]["type"].as_str(), Some(error.name()));

        let mut message = Vec::new();
        let mut suffix = Vec::new();
        encode_json(&head, &mut message, &mut suffix);
        message.extend_from_slice(&payload);
        message.extend_from_slice(&suffix);
        let Decoded { head: reread, .. } = decode(&message, Encoding::Json).unwrap();
        prop_assert_eq!(reread, head);
    }
}

/// Text that would be longer with its escapes than in base64 goes as base64.
#[test]
fn a_failure_message_stays_short() {
    for (body, encoding, most) in [("\u{1}".repeat(3000), "base64", 4400), ("x\"y".repeat(1000), "utf-8", 4400)] {
        let error = decode(body.as_bytes(), Encoding::Json).unwrap_err();
        let (_, payload) = failure_of_unparsable(body.as_bytes(), Encoding::Json, "echo", &error, "");
        let value: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(value["original_body_encoding"], encoding);
        assert!(payload.len() < most, "{}", payload.len());
    }
}

#[test]
fn a_failure_message_has_no_id_and_keeps_the_headers() {
    let body =
        br#"{"id":"order-1","headers":{"x-asya-reply-to":"q"},"route":{"actors":["a"],"current":7},"payload":1}"#;
    let error = decode(body, Encoding::Json).unwrap_err();
    let (head, _) = failure_of_unparsable(body, Encoding::Json, "echo", &error, "2026-11-24T08:00:00Z");
    assert_eq!(head.id, "");
    assert_eq!(head.route, Route { curr: names::SUMP.to_owned(), ..Route::default() });
    assert_eq!(head.shape, RouteShape::Curr);
    assert_eq!(head.headers.get_str(names::HEADER_REPLY_TO).as_deref(), Some("q"));
    let status = head.status.unwrap();
    assert_eq!((status.phase, status.reason.as_deref()), (Phase::Failed, Some(names::reason::PARSE_ERROR)));
    assert_eq!(status.error.unwrap().error_type, "current_out_of_bounds");
    // A native body is not searched for headers, even if its document looks as if it had some.
    let (head, payload) = failure_of_unparsable(body, Encoding::Native, "echo", &error, "");
    assert!(head.headers.is_empty());
    assert_eq!(original_of_unparsable(&payload), Some((body.to_vec(), Encoding::Native)));
    for other in ["1", "{}", r#"{"original_body":"x","original_body_encoding":"utf-16"}"#] {
        assert_eq!(original_of_unparsable(other.as_bytes()), None);
    }
}

#[test]
fn ids_are_a_function_of_their_origin() {
    assert_eq!(ids::child_id("p", 3, 0), "p");
    let children: std::collections::BTreeSet<String> = (1..50).map(|index| ids::child_id("p", 3, index)).collect();
    assert_eq!(children.len(), 49);
    assert_eq!(ids::child_id("p", 3, 1), ids::child_id("p", 3, 1));
    assert_ne!(ids::child_id("p", 3, 1), ids::child_id("p", 4, 1));
    assert_ne!(ids::child_id("p:1", 2, 3), ids::child_id("p", 1, 23));
    assert_ne!(ids::new_id(), ids::new_id());
}

#[test]
fn system_actors_are_known_by_both_names() {
    for actor in ["x-sink", "x-sump", "happy-end", "error-end"] {
        assert!(names::is_system_actor(actor));
    }
    assert!(!names::is_system_actor("echo"));
    assert_eq!(names::queue_name("demo", "happy-end"), names::queue_name("demo", "x-sink"));
}

#[test]
fn a_status_is_read_on_its_own() {
    let status = parse_status(" {\"phase\":\"paused\",\"attempt\":3,\"mine\":[1]} ").unwrap();
    assert_eq!((status.phase, status.attempt), (Phase::Paused, 3));
    for (wrong, error) in [
        ("null", "wrong_type"),
        ("{}", "missing_field"),
        ("{\"phase\":\"x\"}", "unknown_phase"),
        ("", "not_json"),
        ("{\"phase\":\"paused\"}}", "trailing_bytes"),
    ] {
        assert_eq!(parse_status(wrong).unwrap_err().name(), error, "{wrong}");
    }
}

/// Heads that callers could build but no body may say.
#[test]
fn a_head_is_checked_as_bodies_are() {
    let good = Head::new("i", Route { curr: "a".to_owned(), ..Route::default() });
    assert_eq!(good.check(), Ok(()));
    let extension = |name: &str| Head { extensions: vec![(name.to_owned(), "1".to_owned())], ..good.clone() };
    for (head, error) in [
        (Head { id: String::new(), ..good.clone() }, "empty_id"),
        (Head { route: Route { next: list(&["b"]), ..Route::default() }, ..good.clone() }, "route_gap"),
        (Head { route: Route::default(), shape: RouteShape::Actors, ..good.clone() }, "empty_route"),
        (extension("id"), "reserved_field"),
        (extension("route.next"), "reserved_field"),
        (extension("status.phase"), "reserved_field"),
    ] {
        assert_eq!(head.check().unwrap_err().name(), error);
    }
    assert_eq!(extension("route.weight").check(), Ok(()));
}
