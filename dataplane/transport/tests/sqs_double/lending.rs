//! Leases: settling and extending, each entry by itself.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use asya_transport::sqs::SqsConfig;
use asya_transport::{Delivery, Event, Op, Settlement, Transport as _};

use crate::client::Client;
use crate::double::{Answer, Double, fail};

const BATCHES: [&str; 2] = ["DeleteMessageBatch", "ChangeMessageVisibilityBatch"];

/// A client that holds `count` messages of `double`.
fn holding(double: &Double, config: SqsConfig, count: usize) -> (Client, Vec<Delivery>) {
    let mut client = Client::connected(config);
    client.submit(Op::Consume { queue: "q", window: 100 });
    double.put(0..count);
    let held = (0..count).map(|_| client.delivered().0).collect();
    (client, held)
}

/// Receipts of every entry of calls of this kind, in their order.
fn receipts(double: &Double, op: &str) -> Vec<String> {
    let entries = double.calls(op).into_iter().flat_map(|call| call.entries().to_vec());
    entries.map(|entry| entry["ReceiptHandle"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_fails_for_now_is_settled_again_and_nothing_else_is() {
    for (op, how) in BATCHES.into_iter().zip([Settlement::Ack, Settlement::Requeue]) {
        let first = AtomicBool::new(true);
        let double = Double::new(move |call| {
            (call.op == op && first.swap(false, Ordering::SeqCst)).then(|| {
                Answer::Ok(fail(call, |at| match at {
                    2 => Some(("RequestThrottled", "slower", true)),
                    5 => Some(("InternalError", "whatever", false)),
                    _ => None,
                }))
            })
        });
        let (mut client, held) = holding(&double, double.config(), 8);
        held.into_iter().for_each(|delivery| client.settle(delivery, how));
        client.until("all to be settled", |client| client.transport.flushed());
        let asked = receipts(&double, op);
        assert_eq!(asked.len(), 10, "{how:?}: {asked:?}");
        assert_eq!(asked[8..], [asked[2].clone(), asked[5].clone()], "{how:?}");
        client.quiet(Duration::from_millis(50));
    }
}

#[test]
fn a_receipt_that_is_void_is_told_once() {
    let double = Double::new(|call| {
        (call.op == "DeleteMessageBatch").then(|| {
            Answer::Ok(fail(call, |at| (at == 1).then_some(("ReceiptHandleIsInvalid", "it has expired", true))))
        })
    });
    let (mut client, held) = holding(&double, double.config(), 3);
    let expected = held[1].tag;
    held.into_iter().for_each(|delivery| client.settle(delivery, Settlement::Ack));
    assert!(matches!(client.next(), Event::SettleFailed { tag, .. } if tag == expected));
    client.until("all to be settled", |client| client.transport.flushed());
    client.quiet(Duration::from_millis(50));
    assert_eq!(receipts(&double, "DeleteMessageBatch").len(), 3);
}

#[test]
fn whole_calls_that_fail_are_made_again() {
    for op in BATCHES {
        let turn = AtomicUsize::new(0);
        let double = Double::new(move |call| {
            let turn = if call.op == op { turn.fetch_add(1, Ordering::SeqCst) } else { usize::MAX };
            match turn {
                0 => Some(Answer::Error(503, "ServiceUnavailable")),
                1 => Some(Answer::Close),
                2 => Some(Answer::Error(500, "InternalError")),
                _ => None,
            }
        });
        let (mut client, held) = holding(&double, double.config(), 2);
        let how = if op == BATCHES[0] { Settlement::Ack } else { Settlement::Requeue };
        held.into_iter().for_each(|delivery| client.settle(delivery, how));
        client.until("all to be settled", |client| client.transport.flushed());
        assert_eq!(double.calls(op).len(), 4);
        client.quiet(Duration::from_millis(50));
    }
}

#[test]
fn extensions_are_batched_and_each_is_told_apart() {
    let double = Double::new(|call| {
        (call.op == "ChangeMessageVisibilityBatch")
            .then(|| Answer::Ok(fail(call, |at| (at == 3).then_some(("MessageNotInflight", "it is nobody's", true)))))
    });
    let (mut client, held) = holding(&double, double.config(), 7);
    for delivery in &held {
        client.extend(delivery.tag, Duration::from_millis(61_500));
    }
    assert!(matches!(client.next(), Event::SettleFailed { tag, .. } if tag == held[3].tag));
    let calls = double.calls("ChangeMessageVisibilityBatch");
    assert_eq!(calls.len(), 1);
    assert!(calls[0].entries().iter().all(|entry| entry["VisibilityTimeout"] == 62), "{calls:?}");
    // The one that is void can be settled no more; the others can.
    held.into_iter().for_each(|delivery| client.settle(delivery, Settlement::Ack));
    client.until("all to be settled", |client| client.transport.flushed());
    assert_eq!(receipts(&double, "DeleteMessageBatch").len(), 6);
}

#[test]
fn giving_back_never_overtakes_an_extension() {
    let (gate, held_up) = (Arc::new((Mutex::new(false), Condvar::new())), Arc::new(AtomicUsize::new(0)));
    let (opened, counted) = (Arc::clone(&gate), Arc::clone(&held_up));
    let double = Double::new(move |call| {
        if call.op == "ChangeMessageVisibilityBatch" && call.entries()[0]["VisibilityTimeout"] != 0 {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(opened.1.wait_while(opened.0.lock().unwrap(), |open| !*open).unwrap());
        }
        None
    });
    let (mut client, held) = holding(&double, double.config(), 1);
    client.extend(held[0].tag, Duration::from_secs(60));
    client.until("the extension to be under way", |_| held_up.load(Ordering::SeqCst) == 1);
    client.settle(held[0], Settlement::Requeue);
    client.quiet(Duration::from_millis(200));
    assert_eq!(double.calls("ChangeMessageVisibilityBatch").len(), 1, "the extension would win");
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    client.until("it to be given back", |client| client.transport.flushed());
    assert_eq!(double.calls("ChangeMessageVisibilityBatch")[1].entries()[0]["VisibilityTimeout"], 0);
}

#[test]
fn a_lease_that_runs_out_is_told_and_settled_no_more() {
    let double = Double::new(|_| None);
    let config = SqsConfig { visibility_timeout: Duration::from_secs(1), ..double.config() };
    let (mut client, held) = holding(&double, config, 2);
    client.extend(held[1].tag, Duration::from_secs(60));
    assert!(matches!(client.next(), Event::SettleFailed { tag, .. } if tag == held[0].tag));
    held.into_iter().for_each(|delivery| client.settle(delivery, Settlement::Ack));
    client.until("the other to be settled", |client| client.transport.flushed());
    assert_eq!(receipts(&double, "DeleteMessageBatch").len(), 1);
    client.quiet(Duration::from_millis(50));
}

#[test]
fn a_settlement_is_given_up_when_its_lease_is_over() {
    let double =
        Double::new(|call| (call.op == "DeleteMessageBatch").then_some(Answer::Error(503, "ServiceUnavailable")));
    let config = SqsConfig { visibility_timeout: Duration::from_secs(2), ..double.config() };
    let (mut client, held) = holding(&double, config, 1);
    client.settle(held[0], Settlement::Ack);
    assert!(matches!(client.next(), Event::SettleFailed { tag, .. } if tag == held[0].tag));
    assert!(client.transport.flushed() && double.calls("DeleteMessageBatch").len() > 2);
}
