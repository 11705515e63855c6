//! What only SQS has: leases that run out, text bodies, and no connection.

use std::time::{Duration, Instant};

use asya_transport::{ContentType, Delivery, Event, Op, Outcome, QueueSpec, Settlement, Tag, Transport as _};

use crate::client::{Client, WATCHDOG};
use crate::proxy::Proxy;
use crate::server::{Server, VISIBILITY, config, fresh_prefix};

const SERVER: Server = Server::ELASTICMQ;

/// A client that has declared a queue of its own and consumes it.
fn consumer(config: asya_transport::sqs::SqsConfig) -> (Client, String) {
    let mut client = Client::connected(config);
    let queue = format!("{}work", fresh_prefix());
    let dead_letter = format!("{queue}-dlq");
    let dead_letter = Some(dead_letter.as_str());
    client.submit(Op::Declare(QueueSpec { queue: &queue, dead_letter, delivery_limit: 100, consumer_timeout: None }));
    assert_eq!(client.next(), Event::Declared { queue: queue.clone(), differs: None });
    client.submit(Op::Consume { queue: &queue, window: 10 });
    (client, queue)
}

/// Waits until a queue holds `ready` messages, of which `held` are somebody's.
fn wait_depth(client: &mut Client, queue: &str, expected: (u64, u64)) {
    let start = Instant::now();
    loop {
        client.submit(Op::Depth { queue });
        match client.next() {
            Event::Depth { ready, unsettled, .. } if (ready, unsettled) == (expected.0, Some(expected.1)) => return,
            Event::Depth { .. } => {}
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() < WATCHDOG, "{queue} never held {expected:?}");
        client.quiet(Duration::from_millis(20));
    }
}

#[test]
fn an_extended_lease_holds_a_message_beyond_its_timeout() {
    let (mut holder, queue) = consumer(SERVER.config());
    holder.publish(&queue, 0, ContentType::Json, b"{}");
    assert_eq!(holder.outcomes(1), [Outcome::Confirmed]);
    let (delivery, _) = holder.delivered();
    let mut other = Client::connected(SERVER.config());
    other.submit(Op::Consume { queue: &queue, window: 10 });
    let start = Instant::now();
    while start.elapsed() < 3 * VISIBILITY {
        holder.extend(delivery.tag, VISIBILITY);
        holder.quiet(VISIBILITY / 8);
        other.quiet(VISIBILITY / 8);
    }
    holder.settle(delivery, Settlement::Ack);
    wait_depth(&mut holder, &queue, (0, 0));
}

#[test]
fn a_lease_that_is_not_extended_is_somebody_elses_and_told() {
    let (mut holder, queue) = consumer(SERVER.config());
    holder.publish(&queue, 0, ContentType::Json, b"{}");
    assert_eq!(holder.outcomes(1), [Outcome::Confirmed]);
    let (mine, _) = holder.delivered();
    holder.submit(Op::Cancel);
    assert_eq!(holder.next(), Event::Canceled { asked: true });
    let mut other = Client::connected(SERVER.config());
    other.submit(Op::Consume { queue: &queue, window: 10 });
    let (theirs, _) = other.delivered();
    assert!(theirs.redelivery.redelivered);
    assert!(matches!(holder.next(), Event::SettleFailed { tag, .. } if tag == mine.tag));
    // What is void settles nothing: the message is still theirs.
    holder.settle(mine, Settlement::Ack);
    holder.quiet(Duration::from_millis(200));
    wait_depth(&mut holder, &queue, (0, 1));
    other.settle(theirs, Settlement::Ack);
    other.until("the settlement", |client| client.transport.flushed());
    wait_depth(&mut holder, &queue, (0, 0));
}

#[test]
fn refused_characters_come_back_equal() {
    let (mut client, queue) = consumer(SERVER.config());
    let escaped = (b"[\"\xEF\xBF\xBE\xEF\xBF\xBF\"]".to_vec(), b"[\"\\ufffe\\uffff\"]".to_vec());
    let same = |bytes: &[u8]| (bytes.to_vec(), bytes.to_vec());
    let bodies = [
        escaped,
        same("[\"\u{7F}\u{85}\u{FFFD}\u{10FFFF}\"]\r\n\t".as_bytes()),
        same(b"[\"\x01\"]"),
        same(b"\xEF\xBF\xBE"),
        same(b"\xFF\x00not text"),
        same(b""),
        same(b" "),
    ];
    for (sent, expected) in bodies {
        client.publish(&queue, 0, ContentType::Json, &sent);
        assert_eq!(client.outcomes(1), [Outcome::Confirmed], "{sent:?}");
        let (delivery, came) = client.delivered();
        assert_eq!((came, delivery.content_type), (expected, ContentType::Json));
        client.settle(delivery, Settlement::Ack);
    }
}

#[test]
fn many_large_messages_of_one_turn_arrive() {
    let (mut client, queue) = consumer(SERVER.config());
    for token in 0..20 {
        client.publish(&queue, token, ContentType::Native, &vec![token as u8; 300_000]);
    }
    assert!(client.outcomes(20).iter().all(|outcome| *outcome == Outcome::Confirmed));
    let mut came: Vec<u8> = (0..20)
        .map(|_| {
            let (delivery, body) = client.delivered();
            assert!(body.len() == 300_000 && body.iter().all(|byte| *byte == body[0]));
            client.settle(delivery, Settlement::Ack);
            body[0]
        })
        .collect();
    came.sort_unstable();
    assert!(came.into_iter().eq(0..20));
}

/// A cut connection fails the calls that were on it, and no more than that.
#[test]
fn cut_connections_lose_no_message() {
    let (host, port) = SERVER.address();
    let proxy = Proxy::new(&host, port);
    let (mut client, queue) = consumer(config("127.0.0.1", proxy.port));
    let (mut confirmed, mut came) = (0, 0_u64);
    while confirmed < 60 {
        (0..10).for_each(|token| client.publish(&queue, token, ContentType::Json, b"{}"));
        proxy.cut();
        let outcomes = client.outcomes(10);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Confirmed | Outcome::Lost)), "{outcomes:?}");
        confirmed += outcomes.iter().filter(|outcome| **outcome == Outcome::Confirmed).count() as u64;
        // Once without a cut, so that something is confirmed each time.
        client.publish(&queue, 0, ContentType::Json, b"{}");
        confirmed += u64::from(client.outcomes(1) == [Outcome::Confirmed]);
    }
    while came < confirmed {
        match client.next() {
            Event::Delivered(delivery) => {
                client.settle(delivery, Settlement::Ack);
                came += 1;
            }
            // A deletion whose answer was lost, or a message whose delivery was.
            Event::SettleFailed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    // What was lost may have arrived, and may come late: until nothing is left.
    let start = Instant::now();
    loop {
        client.submit(Op::Depth { queue: &queue });
        match client.next() {
            Event::Depth { ready: 0, unsettled: Some(0), .. } => break,
            Event::Delivered(delivery) => client.settle(delivery, Settlement::Ack),
            Event::Depth { .. } | Event::SettleFailed { .. } | Event::DeclareFailed { .. } => {}
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() < WATCHDOG, "the queue is never empty");
    }
}

/// A network that carries nothing, without a word: calls end by their own time limit.
#[test]
fn a_stalled_network_is_told_and_what_is_held_is_settled_afterwards() {
    let (host, port) = SERVER.address();
    let proxy = Proxy::new(&host, port);
    let long = Duration::from_secs(120);
    let through = asya_transport::sqs::SqsConfig { visibility_timeout: long, ..config("127.0.0.1", proxy.port) };
    let (mut client, queue) = consumer(through);
    client.publish(&queue, 0, ContentType::Json, b"{}");
    assert_eq!(client.outcomes(1), [Outcome::Confirmed]);
    let (held, _): (Delivery, _) = client.delivered();
    proxy.stall(true);
    client.publish(&queue, 0, ContentType::Json, b"{}");
    assert_eq!(client.outcomes(1), [Outcome::Lost]);
    while !matches!(client.next(), Event::Lost { epoch: 0, .. }) {}
    proxy.stall(false);
    while client.next() != (Event::Connected { epoch: 2 }) {}
    assert_eq!(held.tag, Tag { epoch: 1, number: held.tag.number });
    client.settle(held, Settlement::Ack);
    client.submit(Op::Cancel);
    client.until("the settlement", |client| client.transport.flushed());
    let mut other = Client::connected(SERVER.config());
    // The one that was lost may have arrived all the same, and a poll that was given up may have taken it.
    let start = Instant::now();
    loop {
        other.submit(Op::Depth { queue: &queue });
        match other.next() {
            Event::Depth { ready, unsettled: Some(unsettled), .. } if ready + unsettled <= 1 => break,
            Event::Depth { .. } => {}
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() < WATCHDOG, "what was held is not settled");
    }
}
