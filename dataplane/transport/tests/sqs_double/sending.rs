//! Batches of messages: what becomes of each, whatever becomes of the others.

use std::sync::atomic::{AtomicUsize, Ordering};

use asya_transport::sqs::body::{MESSAGE_BYTES_MAX, body_limit};
use asya_transport::{ContentType, Event, Outcome, Token};
use serde_json::json;

use crate::client::Client;
use crate::double::{Answer, Call, Double, fail, succeed};

/// Publishes `count` small messages in one turn; gives their outcomes.
fn publish(client: &mut Client, count: u64) -> Vec<Outcome> {
    (0..count).for_each(|token| client.publish("q", token, ContentType::Json, b"{}"));
    client.outcomes(count)
}

/// A server that answers the sending of batches as `answer` says.
fn sending(answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Double {
    Double::new(move |call| (call.op == "SendMessageBatch").then(|| answer(call)))
}

#[test]
fn every_entry_has_its_own_outcome() {
    let double = sending(|call| {
        let mut answer = fail(call, |at| match at {
            1 => Some(("RequestThrottled", "slower", true)),
            2 => Some(("InternalError", "whatever", false)),
            3 => Some(("InvalidParameterValue", "Reason: Message must be shorter than 262144 bytes.", true)),
            4 => Some(("InvalidMessageContents", "characters", true)),
            5 => Some(("AWS.SimpleQueueService.NonExistentQueue", "gone", true)),
            _ => None,
        });
        // The seventh is in no list.
        answer["Successful"].as_array_mut().unwrap().retain(|entry| entry["Id"] != "6");
        Answer::Ok(answer)
    });
    let mut client = Client::connected(double.config());
    let outcomes = publish(&mut client, 10);
    assert_eq!(outcomes[1], Outcome::Refused("RequestThrottled: slower".into()));
    assert_eq!(outcomes[2], Outcome::Lost);
    assert_eq!(outcomes[3], Outcome::TooLarge(body_limit(262_144)));
    assert!(matches!(outcomes[4], Outcome::Unsupported(_)));
    assert_eq!(outcomes[5], Outcome::Unroutable);
    assert_eq!(outcomes[6], Outcome::Lost);
    for at in [0, 7, 8, 9] {
        assert_eq!(outcomes[at], Outcome::Confirmed);
    }
    assert_eq!(double.calls("SendMessageBatch").len(), 1, "what is published in one turn leaves together");
}

#[test]
fn a_call_that_fails_as_a_whole_fails_each_of_its_entries() {
    let turn = AtomicUsize::new(0);
    let double = sending(move |call| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::Error(400, "RequestThrottled"),
        1 => Answer::Error(503, "ServiceUnavailable"),
        2 => Answer::Error(500, "InternalError"),
        3 => Answer::Close,
        4 => Answer::Error(400, "QueueDoesNotExist"),
        5 => Answer::Error(400, "AccessDenied"),
        _ => Answer::Ok(succeed(call)),
    });
    let mut client = Client::connected(double.config());
    for expected in ["Refused", "Refused", "Lost", "Lost", "Unroutable", "Refused", "Confirmed"] {
        for outcome in publish(&mut client, 3) {
            assert!(format!("{outcome:?}").starts_with(expected), "{outcome:?} is not {expected}");
        }
    }
    let asked = double.calls("GetQueueUrl").iter().filter(|call| call.body["QueueName"] == "q").count();
    assert_eq!(asked, 2, "an address is asked for once, and again when its queue was missing");
}

#[test]
fn a_call_without_an_answer_is_lost() {
    let double = sending(|_| Answer::Hang);
    let mut client = Client::connected(double.config());
    assert_eq!(publish(&mut client, 1), [Outcome::Lost]);
}

#[test]
fn a_queue_whose_address_cannot_be_told_is_not_unroutable() {
    let double = Double::new(|call| {
        (call.op == "GetQueueUrl" && call.body["QueueName"] == "q").then_some(Answer::Error(400, "RequestThrottled"))
    });
    let mut client = Client::connected(double.config());
    assert!(matches!(publish(&mut client, 1)[0], Outcome::Refused(_)));
}

#[test]
fn batches_never_exceed_what_sqs_takes() {
    let double = sending(|call| Answer::Ok(succeed(call)));
    let mut client = Client::connected(double.config());
    let count = 120;
    for token in 0..count {
        let kind = if token % 2 == 0 { ContentType::Json } else { ContentType::Native };
        let len = if token % 9 == 0 { 700_000 } else { (token * 7919) % 150_000 };
        client.publish("q", token, kind, &vec![b'7'; len as usize]);
    }
    assert!(client.outcomes(count).iter().all(|outcome| *outcome == Outcome::Confirmed));
    let mut sent = 0;
    for call in double.calls("SendMessageBatch") {
        let size = |entry: &serde_json::Value| {
            let attributes = entry["MessageAttributes"].as_object().unwrap();
            let attribute = |(name, value): (&String, &serde_json::Value)| {
                name.len() + value["DataType"].as_str().unwrap().len() + value["StringValue"].as_str().unwrap().len()
            };
            entry["MessageBody"].as_str().unwrap().len() + attributes.iter().map(attribute).sum::<usize>()
        };
        assert!(call.entries().len() <= 10);
        assert!(call.entries().iter().map(size).sum::<usize>() as u64 <= MESSAGE_BYTES_MAX);
        sent += call.entries().len() as u64;
    }
    assert_eq!(sent, count);
}

#[test]
fn batches_shrink_where_the_server_takes_less() {
    let double = sending(|call| {
        let bytes: usize = call.entries().iter().map(|entry| entry["MessageBody"].as_str().unwrap().len()).sum();
        if bytes > 262_144 { Answer::Error(400, "BatchRequestTooLong") } else { Answer::Ok(succeed(call)) }
    });
    let mut client = Client::connected(double.config());
    for round in 0.. {
        assert!(round < 10, "batches do not shrink");
        (0..10).for_each(|token| client.publish("q", token, ContentType::Json, &vec![b'7'; 60_000]));
        let outcomes = client.outcomes(10);
        assert!(outcomes.iter().all(|o| matches!(o, Outcome::Confirmed | Outcome::Refused(_))), "{outcomes:?}");
        if outcomes.iter().all(|outcome| *outcome == Outcome::Confirmed) {
            break;
        }
    }
    // One message alone that is too large is just that.
    client.publish("q", 0, ContentType::Json, &vec![b'7'; 300_000]);
    assert!(matches!(client.outcomes(1)[0], Outcome::TooLarge(_)));
}

#[test]
fn a_queue_that_takes_less_is_known_by_its_declaration() {
    let double = Double::new(|call| {
        let arn = "arn:aws:sqs:us-east-1:000000000000:q-dlq";
        let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":100}}"#);
        let attributes = json!({"QueueArn": arn, "RedrivePolicy": policy, "MaximumMessageSize": "262144"});
        (call.op == "GetQueueAttributes").then(|| Answer::Ok(json!({"Attributes": attributes})))
    });
    let mut client = Client::connected(double.config());
    let spec = asya_transport::QueueSpec {
        queue: "q",
        dead_letter: Some("q-dlq"),
        delivery_limit: 100,
        consumer_timeout: None,
    };
    client.submit(asya_transport::Op::Declare(spec));
    let differs = Some("MaximumMessageSize is 262144".to_owned());
    assert_eq!(client.next(), Event::Declared { queue: "q".to_owned(), differs });
    use asya_transport::Transport as _;
    let limit = body_limit(262_144);
    assert_eq!(client.transport.limits().max_message_bytes, Some(limit));
    client.publish("q", 0, ContentType::Native, &vec![0; limit as usize]);
    client.publish("q", 1, ContentType::Native, &vec![0; limit as usize + 1]);
    assert_eq!(client.next(), Event::Published { token: Token(1), outcome: Outcome::TooLarge(limit) });
    assert_eq!(client.next(), Event::Published { token: Token(0), outcome: Outcome::Confirmed });
}
