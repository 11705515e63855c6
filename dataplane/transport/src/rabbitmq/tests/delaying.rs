//! Delayed publishes: what is asked for first, what waits for it, and what becomes of both when it goes wrong.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::queue::Declare;
use amq_protocol::protocol::{AMQPClass, basic, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldArray, FieldTable};

use super::client::Client;
use super::server::{Manners, Server};
use crate::api::{ContentType, Delays, Event, Op, Outcome, Redelivery, Transport};
use crate::rabbitmq::RUNGS;
use crate::rabbitmq::handshake::Role;

const NOT_FOUND: (u16, &str) = (404, "NOT_FOUND - no queue");
const DIFFERENT: (u16, &str) = (406, "PRECONDITION_FAILED - inequivalent arg");

type Answer = Result<u32, (u16, &'static str)>;

/// A server whose queues are there, but for rungs that nobody has made yet.
fn manners(version: &'static str) -> Manners {
    let made = Mutex::new(Vec::new());
    let declare = move |declare: &Declare| -> Answer {
        let mut made = made.lock().unwrap();
        if !declare.passive {
            made.push(declare.queue.clone());
        }
        if declare.queue.as_str().ends_with("-delay") && !made.contains(&declare.queue) {
            return Err(NOT_FOUND);
        }
        Ok(0)
    };
    Manners { version, declare: Arc::new(declare), ..Manners::default() }
}

/// A step that the server has seen on the publishing connection.
#[derive(Debug, PartialEq)]
enum Seen {
    Made(String),
    Exchange(String, String),
    Bound(String, String),
    /// To which exchange, with which key.
    Published(String, String),
}

fn made(name: &str) -> Seen {
    Seen::Made(name.into())
}

fn fanout(name: &str) -> Seen {
    Seen::Exchange(name.into(), "fanout".into())
}

fn bound(name: &str) -> Seen {
    Seen::Bound(name.into(), name.into())
}

fn published(exchange: &str, key: &str) -> Seen {
    Seen::Published(exchange.into(), key.into())
}

/// What a frame changes, if anything.
fn step(frame: &AMQPFrame) -> Option<Seen> {
    let AMQPFrame::Method(_, class) = frame else { return None };
    Some(match class {
        AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) if !declare.passive => {
            Seen::Made(declare.queue.to_string())
        }
        AMQPClass::Queue(queue::AMQPMethod::Bind(bind)) => {
            Seen::Bound(bind.queue.to_string(), bind.exchange.to_string())
        }
        AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)) => {
            assert!(declare.durable && !declare.auto_delete);
            Seen::Exchange(declare.exchange.to_string(), declare.kind.to_string())
        }
        AMQPClass::Basic(basic::AMQPMethod::Publish(publish)) => {
            assert!(publish.mandatory);
            Seen::Published(publish.exchange.to_string(), publish.routing_key.to_string())
        }
        _ => return None,
    })
}

const RUNG: &str = "asya-default-1s-delay";

/// Goes on until the server has seen `count` steps.
fn drive_to(client: &mut Client, server: &Server, count: usize) -> Vec<Seen> {
    client.flush();
    let mut all = Vec::new();
    while all.len() < count {
        client.wait_quietly(std::time::Duration::from_millis(5));
        while all.len() < count
            && let Some((role, frame)) = server.try_next()
        {
            if role == Role::Publish {
                all.extend(step(&frame));
            }
        }
    }
    all
}

#[test]
fn a_rung_is_made_once_and_only_what_needs_it_waits() {
    let server = Server::new(manners("4.3.0"));
    let mut client = Client::connected(server.config());
    assert_eq!(client.transport.limits().delays, Delays::Ladder(&RUNGS));
    client.publish_delayed("q", 1, 1);
    client.publish(2, b"now");
    client.publish_delayed("q", 3, 1);
    assert!(!client.transport.flushed());
    let expected = [
        // Not held back by what waits.
        published("", "q"),
        made(RUNG),
        fanout(RUNG),
        bound(RUNG),
        published(RUNG, "q"),
        published(RUNG, "q"),
    ];
    assert_eq!(drive_to(&mut client, &server, 6), expected);
    // The second time it is there; another target is only looked for; another rung is made.
    client.publish_delayed("q", 4, 1);
    client.publish_delayed("other", 5, 1);
    client.publish_delayed("q", 6, 300);
    let other = "asya-default-5m-delay";
    let expected = [
        published(RUNG, "q"),
        published(RUNG, "other"),
        made(other),
        fanout(other),
        bound(other),
        published(other, "q"),
    ];
    let mut came = drive_to(&mut client, &server, 6);
    // The first rung's publishes do not wait for the second rung.
    assert!(came.iter().position(|s| *s == published(RUNG, "other")) < came.iter().position(|s| *s == bound(other)));
    came.sort_by_key(|seen| expected.iter().position(|other| other == seen));
    assert_eq!(came, expected);
    server.confirm(6, true);
    for token in [2, 1, 3, 4, 5, 6] {
        assert_eq!(client.published(), (token, Outcome::Confirmed));
    }
    assert!(client.transport.flushed());
}

#[test]
fn a_rung_keeps_each_messages_own_way_home() {
    for (version, limit) in [("3.10.8", None), ("4.0.5", Some(-1)), ("4.3.0", Some(-1))] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        let inner = manners(version);
        let declare = Arc::clone(&inner.declare);
        let declare = Arc::new(move |asked: &Declare| {
            into.lock().unwrap().push(asked.clone());
            declare(asked)
        });
        let server = Server::new(Manners { declare, ..inner });
        let mut config = server.config();
        config.delay_prefix = "asya-ns-".into();
        let mut client = Client::connected(config);
        client.publish_delayed("q", 1, 60);
        let name = "asya-ns-1m-delay";
        assert_eq!(drive_to(&mut client, &server, 4), [made(name), fanout(name), bound(name), published(name, "q")]);
        let seen = seen.lock().unwrap();
        let [rung] = &seen.iter().filter(|declare| !declare.passive).collect::<Vec<_>>()[..] else {
            panic!("{seen:?}")
        };
        assert!(rung.durable && !rung.exclusive && !rung.auto_delete);
        let text = |text: &str| AMQPValue::LongString(text.into());
        let mut expected = FieldTable::default();
        expected.insert("x-queue-type".into(), text("quorum"));
        expected.insert("x-overflow".into(), text("reject-publish"));
        expected.insert("x-message-ttl".into(), AMQPValue::LongLongInt(60_000));
        expected.insert("x-dead-letter-exchange".into(), text(""));
        expected.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        if let Some(limit) = limit {
            expected.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(limit));
        }
        assert_eq!(rung.arguments, expected, "{version}");
    }
}

#[test]
fn what_is_there_is_used_as_it_is() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let declare = Arc::new(move |declare: &Declare| -> Answer {
        *count.lock().unwrap() += 1;
        if declare.passive { Ok(0) } else { Err(DIFFERENT) }
    });
    let server = Server::new(Manners { declare, refuse_exchange: Some(DIFFERENT), ..Manners::default() });
    let mut client = Client::connected(server.config());
    client.publish_delayed("q", 1, 1);
    // The binding that followed the refused exchange is made again.
    assert_eq!(drive_to(&mut client, &server, 2), [bound(RUNG), published(RUNG, "q")]);
    client.publish_delayed("q", 2, 1);
    assert_eq!(drive_to(&mut client, &server, 1), [published(RUNG, "q")]);
    server.confirm(2, true);
    assert_eq!((client.published(), client.published()), ((1, Outcome::Confirmed), (2, Outcome::Confirmed)));
    assert_eq!(*asked.lock().unwrap(), 3, "asked, compared, and the target");
}

#[test]
fn a_missing_target_is_unroutable_and_looked_for_again() {
    let there = Arc::new(Mutex::new(false));
    let look = Arc::clone(&there);
    let declare = Arc::new(move |declare: &Declare| -> Answer {
        if declare.queue.as_str() == "missing" && !*look.lock().unwrap() { Err(NOT_FOUND) } else { Ok(0) }
    });
    let server = Server::new(Manners { declare, ..Manners::default() });
    let mut client = Client::connected(server.config());
    client.publish_delayed("missing", 1, 1);
    client.publish_delayed("missing", 2, 5);
    client.publish_delayed("q", 3, 5);
    assert_eq!(client.published(), (1, Outcome::Unroutable));
    assert_eq!(client.published(), (2, Outcome::Unroutable));
    client.publish_delayed("missing", 4, 1);
    assert_eq!(client.published(), (4, Outcome::Unroutable));
    *there.lock().unwrap() = true;
    client.publish_delayed("missing", 5, 1);
    let mut left = Vec::new();
    while left.len() < 2 {
        client.wait_quietly(std::time::Duration::from_millis(5));
        while let Some((_, frame)) = server.try_next() {
            left.extend(step(&frame).filter(|seen| matches!(seen, Seen::Published(..))));
        }
    }
    assert_eq!(left, [published("asya-default-5s-delay", "q"), published(RUNG, "missing")]);
}

#[test]
fn a_rung_that_cannot_be_had_refuses_and_is_tried_again() {
    let refuses = Arc::new(Mutex::new(true));
    let look = Arc::clone(&refuses);
    let declare = Arc::new(move |declare: &Declare| -> Answer {
        match declare.queue.as_str() {
            RUNG if declare.passive => Err(NOT_FOUND),
            RUNG if *look.lock().unwrap() => Err((403, "ACCESS_REFUSED - no leave to configure")),
            _ => Ok(0),
        }
    });
    let server = Server::new(Manners { declare, ..Manners::default() });
    let mut client = Client::connected(server.config());
    client.publish_delayed("q", 1, 1);
    client.publish_delayed("other", 2, 1);
    for token in [1, 2] {
        let (of, Outcome::Refused(why)) = client.published() else { panic!() };
        assert_eq!(of, token);
        assert!(why.contains(RUNG) && why.contains("no leave to configure"), "{why}");
    }
    *refuses.lock().unwrap() = false;
    client.publish_delayed("q", 3, 1);
    let seen = drive_to(&mut client, &server, 4);
    assert_eq!(seen, [made(RUNG), fanout(RUNG), bound(RUNG), published(RUNG, "q")]);
}

/// The exchange is there, its queue is not: the broker gives the message back.
#[test]
fn a_rung_that_is_gone_is_made_again() {
    let server = Server::new(manners("4.3.0"));
    let mut client = Client::connected(server.config());
    (1..=3).for_each(|token| client.publish_delayed("q", token, 1));
    drive_to(&mut client, &server, 6);
    server.set_manners(|manners| *manners = self::manners("4.3.0"));
    server.give_back(2, b"later");
    server.confirm(3, true);
    assert_eq!(client.published(), (1, Outcome::Confirmed));
    let (2, Outcome::Refused(why)) = client.published() else { panic!() };
    assert!(why.contains("gone"), "{why}");
    assert_eq!(client.published(), (3, Outcome::Confirmed));
    client.publish_delayed("q", 4, 1);
    let seen = drive_to(&mut client, &server, 4);
    assert_eq!(seen, [made(RUNG), fanout(RUNG), bound(RUNG), published(RUNG, "q")]);
    server.confirm(4, false);
    assert_eq!(client.published(), (4, Outcome::Confirmed));
}

#[test]
fn what_is_not_a_rung_is_not_a_delay() {
    let server = Server::new(Manners::default());
    let mut config = server.config();
    config.delay_prefix = "long".repeat(62);
    let mut client = Client::connected(config);
    for seconds in [0, 3, 3601] {
        client.publish_delayed("q", seconds, seconds);
        let (_, Outcome::Unsupported(why)) = client.published() else { panic!() };
        assert!(why.contains("the ladder"), "{why}");
    }
    client.publish_delayed("q", 1, 1);
    let (1, Outcome::Unsupported(why)) = client.published() else { panic!() };
    assert!(why.contains("delay_prefix"), "{why}");
}

#[test]
fn what_waits_is_lost_with_its_connection_and_rungs_are_made_on_the_next() {
    let server = Server::new(Manners::default());
    // Questions wait until the test lets them go.
    let (gate, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    server.set_manners(|manners| {
        manners.declare = Arc::new(move |_| {
            // The test has let go.
            let _ = wait.lock().unwrap().recv();
            Ok(0)
        });
    });
    let mut client = Client::connected(server.config());
    client.publish_delayed("q", 1, 1);
    client.publish_delayed("q", 2, 5);
    client.flush();
    client.wait_quietly(std::time::Duration::from_millis(20));
    assert!(!client.transport.flushed());
    server.cut(Role::Publish);
    assert_eq!(client.published(), (1, Outcome::Lost));
    assert_eq!(client.published(), (2, Outcome::Lost));
    drop(gate);
    client.quiet_until(|| server.accepted() == 3);
    loop {
        client.publish_delayed("q", 3, 1);
        client.flush();
        match client.published_or_confirmed(&server) {
            Outcome::Lost => client.wait_quietly(std::time::Duration::from_millis(5)),
            outcome => break assert_eq!(outcome, Outcome::Confirmed),
        }
    }
}

/// What a message brings home from its rung, as 4.3 writes it, is as good as nothing.
#[test]
fn a_message_from_a_rung_is_a_first_delivery() {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut death = FieldTable::default();
    death.insert("count".into(), AMQPValue::LongLongInt(1));
    death.insert("reason".into(), text("expired"));
    death.insert("queue".into(), text(RUNG));
    death.insert("time".into(), AMQPValue::Timestamp(1_790_000_000));
    death.insert("exchange".into(), text(RUNG));
    death.insert("routing-keys".into(), AMQPValue::FieldArray(FieldArray::from(vec![text("q")])));
    let deaths = vec![AMQPValue::FieldTable(death); 3];
    let mut headers = FieldTable::default();
    headers.insert("x-asya-seq".into(), AMQPValue::LongLongInt(7));
    headers.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::from(deaths)));
    for header in ["x-first-death-exchange", "x-first-death-queue", "x-first-death-reason", "x-last-death-reason"] {
        headers.insert(header.into(), text("expired"));
    }
    for version in ["3.10.8", "4.0.5", "4.3.0"] {
        let server = Server::new(Manners { version, ..Manners::default() });
        let mut client = Client::new(server.config());
        client.consume(10);
        assert_eq!(client.next(), Event::Connected { epoch: 1 });
        server.deliver_with(1, b"body", false, headers.clone());
        let (delivery, body) = client.delivered();
        assert_eq!((delivery.content_type, &body[..]), (ContentType::Json, &b"body"[..]));
        assert_eq!(delivery.redelivery, Redelivery { redelivered: false, lost: Some(0) });
        // Its first delivery was lost: what counts is what the queue counts, wherever in the table it stands.
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(1));
        server.deliver_with(2, b"body", true, headers.clone());
        let lost = (version == "4.3.0").then_some(1);
        assert_eq!(client.delivered().0.redelivery, Redelivery { redelivered: true, lost });
        client.submit(Op::Cancel);
        assert_eq!(client.next(), Event::Canceled { asked: true });
    }
}
