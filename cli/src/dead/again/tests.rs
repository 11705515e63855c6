use super::*;
use crate::message::{Content, encode, read};
use asya_envelope::names::SUMP;
use asya_envelope::{DecodeError, ErrorInfo, failure_of_unparsable};
use asya_transport::Tag;

const NOW_MS: u64 = 1_767_225_600_000;

fn way(to: &[&str], raw: bool) -> Way {
    let to = to.iter().map(|&actor| actor.to_owned()).collect();
    Way { namespace: "ns".into(), to, raw, now_ms: NOW_MS }
}

fn sump() -> Source {
    Source { queue: "asya-ns-x-sump".into(), owner: None }
}

fn dead_letters(actor: &str) -> Source {
    Source::of(actor.into(), format!("asya-ns-{actor}"))
}

fn message(content_type: ContentType, body: Vec<u8>) -> Message {
    Message { tag: Tag { epoch: 1, number: 1 }, content_type, body }
}

/// What a sidecar sends to the failure sink.
fn failed_at(curr: &str, deadline: Option<&str>) -> Head {
    let route = Route { prev: vec!["first".into()], curr: curr.into(), next: vec!["last".into()] };
    let mut head = Head::new("id-1", route);
    head.headers.set_str("tenant", "t");
    head.extensions.push(("trace".into(), "[1]".into()));
    head.status = Some(Status {
        phase: Phase::Failed,
        reason: Some("RuntimeError".into()),
        actor: "work".into(),
        attempt: 3,
        max_attempts: 3,
        created_at: "2025-01-01T00:00:00Z".into(),
        updated_at: "2025-01-01T00:00:09Z".into(),
        deadline_at: deadline.map(str::to_owned),
        error: Some(ErrorInfo { error_type: "KeyError".into(), ..ErrorInfo::default() }),
    });
    head
}

fn document(text: &str) -> Content {
    Content::Json(text.as_bytes().to_vec())
}

fn sent(head: &Head, content: Content, source: &Source, way: &Way) -> (Again, crate::message::Received) {
    let out = encode(head, content);
    let again = way.again(source, &message(out.content_type, out.body)).unwrap();
    let received = read(&again.body, again.content_type).unwrap();
    (again, received)
}

#[test]
fn a_failure_goes_to_where_it_failed_as_if_it_had_just_come() {
    let head = failed_at("work", Some("2099-01-01T00:00:00Z"));
    let (again, received) = sent(&head, document(r#"{"x": 1e2}"#), &sump(), &way(&[], false));
    assert_eq!((again.actor.as_str(), again.queue.as_str(), again.was_late), ("work", "asya-ns-work", false));
    assert_eq!(received.document, r#"{"x": 1e2}"#);
    let fresh = Status {
        phase: Phase::Pending,
        reason: None,
        attempt: 1,
        max_attempts: 0,
        updated_at: "2026-01-01T00:00:00Z".into(),
        error: None,
        ..head.status.clone().unwrap()
    };
    assert_eq!(received.head, Head { status: Some(fresh), ..head });
}

#[test]
fn a_deadline_that_has_passed_is_dropped_and_one_that_is_none_is_kept() {
    let (again, received) =
        sent(&failed_at("work", Some("2025-12-31T23:59:59Z")), document("1"), &sump(), &way(&[], false));
    assert!(again.was_late);
    assert_eq!(received.head.status.unwrap().deadline_at, None);
    let (again, received) = sent(&failed_at("work", Some("soon")), document("1"), &sump(), &way(&[], false));
    assert!(!again.was_late);
    assert_eq!(received.head.status.unwrap().deadline_at.as_deref(), Some("soon"));
}

#[test]
fn binary_parts_stay_byte_for_byte_in_both_encodings() {
    let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let native = encode(&failed_at("work", None), Content::Blob { name: "f".into(), bytes });
    let inline = read(&native.body, native.content_type).unwrap().envelope;
    for (content_type, body) in [(ContentType::Native, native.body), (ContentType::Json, inline.into_bytes())] {
        let again = way(&[], false).again(&sump(), &message(content_type, body.clone())).unwrap();
        assert_eq!(again.content_type, content_type);
        let (before, after) = (read(&body, content_type).unwrap(), read(&again.body, content_type).unwrap());
        let payload = |envelope: &str| {
            let envelope: serde_json::Value = serde_json::from_str(envelope).unwrap();
            (envelope["payload"].clone(), envelope["blobs"].clone())
        };
        assert_eq!(after.blobs, [10_000]);
        assert_eq!(payload(&before.envelope), payload(&after.envelope));
    }
}

#[test]
fn another_route_can_be_named_and_must_be_where_none_is_left() {
    let (again, received) = sent(&failed_at("work", None), document("1"), &sump(), &way(&["b", "c"], false));
    assert_eq!((again.actor.as_str(), again.queue.as_str()), ("b", "asya-ns-b"));
    assert_eq!(received.head.route, Route { prev: vec!["first".into()], curr: "b".into(), next: vec!["c".into()] });
    assert_eq!(received.head.status.unwrap().actor, "b");
    for curr in [SUMP, "error-end"] {
        let out = encode(&failed_at(curr, None), document("1"));
        let message = message(out.content_type, out.body);
        assert!(way(&[], false).again(&sump(), &message).unwrap_err().contains("--to ACTOR"));
        assert_eq!(way(&["b"], false).again(&sump(), &message).unwrap().actor, "b");
    }
}

#[test]
fn what_the_broker_gave_up_goes_back_as_it_is() {
    let out = encode(&failed_at("work", Some("2025-01-01T00:00:00Z")), document("1"));
    let message = message(out.content_type, out.body.clone());
    let expected = as_it_is("work".into(), "asya-ns-work".into(), ContentType::Json, out.body);
    assert_eq!(way(&[], false).again(&dead_letters("work"), &message), Ok(expected));
    assert_eq!(way(&["b"], false).again(&dead_letters("work"), &message).unwrap().actor, "b");
    // What the broker gave up of the failure sink is a failure like the others.
    let again = way(&[], false).again(&dead_letters(SUMP), &message).unwrap();
    assert_eq!((again.actor.as_str(), again.was_late), ("work", true));
}

#[test]
fn a_body_that_cannot_be_read_is_sent_only_when_asked_for() {
    let garbage = message(ContentType::Json, b"\xff{".to_vec());
    for source in [sump(), dead_letters("work"), dead_letters(SUMP)] {
        assert!(way(&["b"], false).again(&source, &garbage).unwrap_err().contains("--raw"));
        let again = way(&["b"], true).again(&source, &garbage).unwrap();
        assert_eq!((again.queue.as_str(), again.body.as_slice()), ("asya-ns-b", garbage.body.as_slice()));
    }
    assert_eq!(way(&[], true).again(&dead_letters("work"), &garbage).unwrap().queue, "asya-ns-work");
    assert!(way(&[], true).again(&sump(), &garbage).unwrap_err().contains("--raw --to ACTOR"));
}

#[test]
fn a_body_that_an_actor_could_not_read_goes_back_as_it_came() {
    let original = b"\x00\xffnot an envelope".to_vec();
    let (head, payload) = failure_of_unparsable(&original, Encoding::Native, "work", &DecodeError::EmptyId, "now");
    let out = encode(&head, Content::Json(payload));
    let message = message(out.content_type, out.body);
    assert!(way(&[], false).again(&sump(), &message).unwrap_err().contains("work could not read its body; --raw"));
    let expected = as_it_is("work".into(), "asya-ns-work".into(), ContentType::Native, original);
    assert_eq!(way(&[], true).again(&sump(), &message), Ok(expected));
}
