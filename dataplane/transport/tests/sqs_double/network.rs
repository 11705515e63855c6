//! Whether anybody answers, and whether they let us in.

use std::time::Duration;

use asya_transport::{ContentType, Event, Op, Outcome, Settlement, Token, Transport as _};

use crate::client::Client;
use crate::double::{Answer, Double};

#[test]
fn refused_credentials_are_fatal_at_the_start() {
    let double = Double::new(|_| Some(Answer::Error(403, "InvalidClientTokenId")));
    let mut client = Client::new(double.config());
    assert!(matches!(client.next(), Event::Fatal { why } if why.contains("InvalidClientTokenId")));
    client.quiet(Duration::from_millis(500));
    assert_eq!(double.calls("GetQueueUrl").len(), 1, "there is no use in asking again");
}

#[test]
fn an_actor_that_may_not_receive_says_so_at_its_first_try_and_bears_with_it_later() {
    let double = Double::new(|call| (call.op == "ReceiveMessage").then_some(Answer::Error(403, "AccessDenied")));
    let mut client = Client::connected(double.config());
    client.submit(Op::Consume { queue: "q", window: 10 });
    assert!(matches!(client.next(), Event::Fatal { .. }));

    let turn = std::sync::atomic::AtomicUsize::new(0);
    let double = Double::new(move |call| {
        let turn = if call.op == "ReceiveMessage" { turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst) } else { 0 };
        (turn == 1).then_some(Answer::Error(403, "AccessDenied"))
    });
    let mut client = Client::connected(double.config());
    client.submit(Op::Consume { queue: "q", window: 10 });
    double.put(["first"]);
    client.delivered();
    double.put(["second"]);
    client.delivered();
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for() {
    let double = Double::new(|_| None);
    let (port, config) = (double.port, double.config());
    drop(double);
    let mut client = Client::new(config);
    client.publish("q", 0, ContentType::Json, b"{}");
    assert_eq!(client.next(), Event::Published { token: Token(0), outcome: Outcome::Lost });
    assert!(matches!(client.next(), Event::Lost { epoch: 0, .. }));
    let _double = Double::on(port, |_| None);
    loop {
        match client.next() {
            Event::Lost { epoch: 0, .. } => {}
            Event::Connected { epoch: 1 } => break,
            other => panic!("{other:?}"),
        }
    }
}

/// Leases outlive an outage: what is held stays held, and is settled afterwards.
#[test]
fn an_outage_is_told_and_voids_no_tag() {
    let double = Double::new(|_| None);
    let port = double.port;
    let mut client = Client::connected(double.config());
    client.submit(Op::Consume { queue: "q", window: 10 });
    double.put(["before"]);
    let (before, _) = client.delivered();
    drop(double);
    client.publish("q", 0, ContentType::Json, b"{}");
    assert_eq!(client.outcomes(1), [Outcome::Lost]);
    assert!(matches!(client.next(), Event::Lost { epoch: 0, .. }));
    // No time is lost on what cannot be.
    client.publish("q", 0, ContentType::Json, b"{}");
    assert_eq!(client.outcomes(1), [Outcome::Lost]);
    client.submit(Op::Depth { queue: "q" });
    assert!(matches!(client.next(), Event::DeclareFailed { .. }));
    client.settle(before, Settlement::Ack);

    let double = Double::on(port, |_| None);
    double.put(["after"]);
    let (mut connected, mut after) = (false, None);
    while after.is_none() {
        match client.next() {
            Event::Lost { epoch: 0, .. } => {}
            Event::Connected { epoch: 2 } => connected = true,
            Event::Delivered(delivery) => after = Some(delivery),
            other => panic!("{other:?}"),
        }
    }
    assert!(connected && after.is_some_and(|after| after.tag.epoch == 2 && after.tag.number > before.tag.number));
    client.until("the settlement", |client| client.transport.flushed());
    let deleted = double.calls("DeleteMessageBatch");
    assert_eq!(deleted.len(), 1);
    assert_eq!(deleted[0].entries()[0]["ReceiptHandle"], "receipt of before");
}
