//! Polls: how many there are, what they may bring, and what becomes of it after a cancel.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asya_transport::{Event, Op, Settlement, Transport as _};
use serde_json::json;

use crate::client::Client;
use crate::double::{Answer, Call, Double, succeed};

/// A service with messages without end that counts what could be held of them.
#[derive(Default)]
struct Endless {
    /// What open polls may bring.
    asked: usize,
    polls: usize,
    /// Given out, and not deleted.
    out: BTreeSet<String>,
    given: usize,
    most_polls: usize,
    most_out: usize,
}

fn endless(left: usize) -> (Double, Arc<Mutex<Endless>>) {
    let counts = Arc::new(Mutex::new(Endless::default()));
    let shared = Arc::clone(&counts);
    let double = Double::new(move |call| match call.op.as_str() {
        "ReceiveMessage" => {
            let most = call.body["MaxNumberOfMessages"].as_u64().unwrap() as usize;
            {
                let mut counts = shared.lock().unwrap();
                counts.asked += most;
                counts.polls += 1;
                counts.most_polls = counts.most_polls.max(counts.polls);
                counts.most_out = counts.most_out.max(counts.asked + counts.out.len());
            }
            // As long as SQS takes, so that polls overlap.
            std::thread::sleep(Duration::from_millis(5));
            let mut counts = shared.lock().unwrap();
            let messages: Vec<_> = (0..most.min(left - counts.given))
                .map(|_| {
                    counts.given += 1;
                    let receipt = format!("receipt-{}", counts.given);
                    counts.out.insert(receipt.clone());
                    json!({"MessageId": receipt, "ReceiptHandle": receipt, "Body": "{}",
                           "Attributes": {"ApproximateReceiveCount": "1"}})
                })
                .collect();
            counts.asked -= most;
            counts.polls -= 1;
            Some(Answer::Ok(json!({"Messages": messages})))
        }
        "DeleteMessageBatch" => {
            let mut counts = shared.lock().unwrap();
            for entry in call.entries() {
                assert!(counts.out.remove(entry["ReceiptHandle"].as_str().unwrap()), "{entry} was deleted twice");
            }
            Some(Answer::Ok(succeed(call)))
        }
        _ => None,
    });
    (double, counts)
}

#[test]
fn credit_is_never_exceeded_and_polls_grow_with_the_load() {
    const WINDOW: usize = 64;
    const MESSAGES: usize = 3_000;
    let (double, counts) = endless(MESSAGES);
    let mut client = Client::connected(double.config());
    client.submit(Op::Consume { queue: "q", window: WINDOW as u32 });
    let mut held = Vec::new();
    for came in 1..=MESSAGES {
        held.push(client.delivered().0);
        assert!(held.len() <= WINDOW);
        // Sometimes one by one, sometimes many at once.
        if held.len() > came % WINDOW {
            for delivery in held.drain(..) {
                client.settle(delivery, Settlement::Ack);
            }
        }
    }
    held.into_iter().for_each(|delivery| client.settle(delivery, Settlement::Ack));
    client.until("all to be deleted", |_| counts.lock().unwrap().out.is_empty());
    let counts = counts.lock().unwrap();
    assert!(counts.most_polls > 1, "there never was a second poll");
    // What is being deleted holds no credit, but there is a bound to that too: one window.
    assert!(counts.most_out <= 2 * WINDOW, "{} could be out in a window of {WINDOW}", counts.most_out);
}

#[test]
fn what_is_unsettled_and_what_is_asked_for_fit_the_window() {
    const WINDOW: usize = 25;
    let (double, counts) = endless(1_000);
    let mut client = Client::connected(double.config());
    client.submit(Op::Consume { queue: "q", window: WINDOW as u32 });
    for _ in 0..WINDOW {
        client.delivered();
    }
    client.quiet(Duration::from_millis(200));
    let counts = counts.lock().unwrap();
    assert_eq!((counts.most_out, counts.given, counts.polls), (WINDOW, WINDOW, 0));
}

#[test]
fn one_poll_is_left_when_nothing_comes() {
    let double = Double::new(|_| None);
    let mut client = Client::connected(double.config());
    client.submit(Op::Consume { queue: "q", window: 500 });
    double.put(0..200);
    for _ in 0..200 {
        let (delivery, _) = client.delivered();
        client.settle(delivery, Settlement::Ack);
    }
    client.until("one poll to be left", |_| double.receiving() == 1);
    let before = double.calls("ReceiveMessage").len();
    client.until("it to be followed by others", |_| {
        assert!(double.receiving() <= 1, "there is more than one poll though nothing comes");
        double.calls("ReceiveMessage").len() >= before + 2
    });
}

fn given_back(double: &Double) -> Vec<Call> {
    let back = |call: &Call| call.entries().iter().all(|entry| entry["VisibilityTimeout"] == 0);
    double.calls("ChangeMessageVisibilityBatch").into_iter().filter(back).collect()
}

#[test]
fn what_an_open_poll_brings_after_a_cancel_is_given_back() {
    let double = Double::new(|_| None);
    let mut client =
        Client::connected(asya_transport::sqs::SqsConfig { wait: Duration::from_secs(20), ..double.config() });
    client.submit(Op::Consume { queue: "q", window: 10 });
    client.until("a poll", |_| double.calls("ReceiveMessage").len() == 1);
    client.submit(Op::Cancel);
    assert_eq!(client.next(), Event::Canceled { asked: true });
    assert!(!client.transport.flushed(), "the poll may still bring something");
    double.put(0..3);
    client.until("all to be given back", |client| given_back(&double).len() == 1 && client.transport.flushed());
    assert_eq!(given_back(&double)[0].entries().len(), 3);
    assert_eq!(double.calls("ReceiveMessage").len(), 1);

    // Consuming again goes on where it was.
    client.submit(Op::Consume { queue: "q", window: 10 });
    double.put(["again"]);
    assert_eq!(client.delivered().1, b"body of again");
}

#[test]
fn an_idle_poll_does_not_hold_up_the_end_for_long() {
    let double = Double::new(|_| None);
    let mut client =
        Client::connected(asya_transport::sqs::SqsConfig { wait: Duration::from_secs(20), ..double.config() });
    client.submit(Op::Consume { queue: "q", window: 10 });
    client.until("a poll", |_| double.calls("ReceiveMessage").len() == 1);
    client.submit(Op::Cancel);
    assert_eq!(client.next(), Event::Canceled { asked: true });
    let start = std::time::Instant::now();
    client.until("the end", |client| client.transport.flushed());
    assert!(start.elapsed() < Duration::from_secs(15), "a cancel waited for a long poll");
}

#[test]
fn what_waits_for_room_is_kept_and_given_back_by_a_cancel() {
    let double = Double::new(|_| None);
    let config = asya_transport::sqs::SqsConfig { visibility_timeout: Duration::from_secs(2), ..double.config() };
    let mut client = Client::connected(config);
    client.memory.set_budget(20);
    client.submit(Op::Consume { queue: "q", window: 10 });
    double.put(["first", "second", "third"]);
    let (first, _) = client.delivered();
    client.extend(first.tag, Duration::from_secs(60));
    let extended = |receipt: &str| {
        double
            .calls("ChangeMessageVisibilityBatch")
            .iter()
            .flat_map(|call| call.entries().to_vec())
            .any(|entry| entry["ReceiptHandle"] == receipt && entry["VisibilityTimeout"] == 2)
    };
    client.until("the leases of what waits to be kept", |_| {
        extended("receipt of second") && extended("receipt of third")
    });
    client.submit(Op::Cancel);
    assert_eq!(client.next(), Event::Canceled { asked: true });
    client.until("what waits to be given back", |_| given_back(&double).iter().any(|call| call.entries().len() == 2));
    client.settle(first, Settlement::Ack);
    client.until("the settlement", |client| client.transport.flushed());
}

#[test]
fn a_message_that_comes_again_while_it_is_held_voids_its_older_tag() {
    let double = Double::new(|_| None);
    let mut client = Client::connected(double.config());
    client.submit(Op::Consume { queue: "q", window: 10 });
    let receipt = |receipt: &str, count: &str| json!({"MessageId": "m", "ReceiptHandle": receipt, "Body": "{}", "Attributes": {"ApproximateReceiveCount": count}});
    double.put_messages([receipt("older", "1")]);
    let (older, _) = client.delivered();
    assert!(!older.redelivery.redelivered);
    double.put_messages([receipt("newer", "2")]);
    let expected = |event| matches!(event, Event::SettleFailed { tag, .. } if tag == older.tag);
    assert!(expected(client.next()));
    let (newer, _) = client.delivered();
    assert!(newer.redelivery.redelivered && newer.redelivery.lost.is_none());
    client.settle(older, Settlement::Ack);
    client.settle(newer, Settlement::Ack);
    client.until("the newer one to be deleted", |_| double.calls("DeleteMessageBatch").len() == 1);
    let deleted = double.calls("DeleteMessageBatch")[0].entries().to_vec();
    assert_eq!(deleted.len(), 1);
    assert_eq!(deleted[0]["ReceiptHandle"], "newer");
}

#[test]
fn a_rejected_message_goes_to_the_dead_letter_queue_as_it_came() {
    let double = Double::new(|_| None);
    let mut client = Client::connected(double.config());
    client.submit(Op::Consume { queue: "q", window: 1 });
    let message = json!({"MessageId": "m", "ReceiptHandle": "r", "Body": "any text", "Attributes": {"ApproximateReceiveCount": "1"},
        "MessageAttributes": {"foreign": {"DataType": "Number", "StringValue": "7"}}});
    double.put_messages([message.clone()]);
    let (delivery, _) = client.delivered();
    client.settle(delivery, Settlement::Reject);
    client.until("it to be given back", |_| given_back(&double).len() == 1);
    double.put_messages([message]);
    client.until("it to be deleted", |_| double.calls("DeleteMessageBatch").len() == 1);
    let sent = double.calls("SendMessageBatch");
    assert_eq!((sent.len(), sent[0].queue()), (1, "q-dlq"));
    assert_eq!(sent[0].entries()[0]["MessageBody"], "any text");
    assert_eq!(
        sent[0].entries()[0]["MessageAttributes"],
        json!({"foreign": {"DataType": "Number", "StringValue": "7"}})
    );
    client.quiet(Duration::from_millis(100));
}
