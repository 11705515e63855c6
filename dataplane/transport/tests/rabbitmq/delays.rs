//! The ladder of delays: nothing is lost in it, nothing leaves it early, and what is done to it behind our back is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use asya_transport::rabbitmq::admin::Admin;
use asya_transport::rabbitmq::{RabbitMqConfig, delay_queues};
use asya_transport::{ContentType, Event, Op, Outcome, Redelivery, Settlement};
use lapin::options::{BasicGetOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};

use crate::broker::{Broker, fresh_prefix};
use crate::client::Client;

const SECOND: Duration = Duration::from_secs(1);

/// How long what must come is waited for.
const WATCHDOG: Duration = Duration::from_secs(120);

/// A configuration with a ladder that no other test uses, and the name of a queue.
fn fresh(broker: Broker) -> (RabbitMqConfig, String) {
    let prefix = fresh_prefix();
    let queue = format!("{prefix}work");
    (RabbitMqConfig { delay_prefix: prefix, ..broker.config() }, queue)
}

/// The name of a rung.
fn rung(config: &RabbitMqConfig, seconds: u64) -> String {
    let delay = Duration::from_secs(seconds);
    delay_queues(&config.delay_prefix).find(|(of, _)| *of == delay).map(|(_, name)| name).unwrap()
}

/// Does something to the broker as somebody else would.
fn behind_our_back<T>(config: &RabbitMqConfig, act: impl AsyncFnOnce(&Channel) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = Connection::connect(&config.to_url(), Default::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        act(&channel).await
    })
}

fn delete_queue(config: &RabbitMqConfig, queue: &str) {
    behind_our_back(config, async |channel| {
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    });
}

/// A client that consumes `queue`, which is declared.
fn consuming(config: &RabbitMqConfig, queue: &str) -> Client {
    let mut client = Client::connected(config.clone());
    client.declare(queue);
    client.submit(Op::Consume { queue, window: 1000 });
    client
}

/// Takes what comes until `count` different bodies are here; gives when each came first.
fn collect(client: &mut Client, count: usize) -> BTreeMap<Vec<u8>, Instant> {
    let start = Instant::now();
    let mut came = BTreeMap::new();
    while came.len() < count {
        assert!(start.elapsed() < WATCHDOG, "{} of {count} came", came.len());
        match client.next() {
            Event::Delivered(delivery) => {
                let body = client.memory.slot(delivery.slot).unwrap().to_vec();
                came.entry(body).or_insert_with(Instant::now);
                client.settle(delivery, Settlement::Ack);
            }
            Event::Lost { .. } | Event::Connected { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    came
}

fn properties_survive(broker: Broker) {
    let _lease = broker.share();
    let (config, queue) = fresh(broker);
    let mut client = Client::connected(config.clone());
    client.declare(&queue);
    client.publish(&queue, 1, b"straight");
    assert_eq!(client.published(1), Outcome::Confirmed);
    client.publish_delayed(&queue, 2, b"delayed", Some(SECOND));
    assert_eq!(client.published(2), Outcome::Confirmed);
    client.wait_depth(&queue, 2);
    behind_our_back(&config, async |channel| {
        let mut seen = Vec::new();
        for body in ["straight", "delayed"] {
            let message =
                channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await.unwrap().unwrap();
            assert_eq!(message.data, body.as_bytes());
            assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("", queue.as_str()));
            assert!(!message.redelivered);
            let mut headers = message.properties.headers().clone().unwrap().inner().clone();
            assert_eq!(headers.remove("x-asya-seq"), Some(AMQPValue::LongLongInt(seen.len() as i64 + 1)));
            // What the broker notes for people; a first delivery has no count, or none but zero.
            headers.remove("x-delivery-count");
            let deaths = headers.keys().filter(|name| name.as_str().contains("death")).count();
            assert_eq!((deaths == headers.len(), deaths > 0), (true, body == "delayed"), "{headers:?}");
            seen.push(message.properties.clone().with_headers(FieldTable::default()));
        }
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[1].content_type().as_ref().unwrap().as_str(), ContentType::Native.as_str());
        assert_eq!(seen[1].message_id().as_ref().unwrap().as_str(), "an-id");
        assert_eq!(*seen[1].delivery_mode(), Some(2));
    });
}

/// Delivered once from a rung it is new; lost with its consumer it has been lost once, however it came.
fn a_message_from_a_rung_counts_from_nothing(broker: Broker) {
    let _lease = broker.share();
    let (config, queue) = fresh(broker);
    let mut client = consuming(&config, &queue);
    client.publish_delayed(&queue, 1, b"later", Some(SECOND));
    assert_eq!(client.published(1), Outcome::Confirmed);
    let (delivery, body) = client.delivered();
    assert_eq!((body.as_slice(), delivery.content_type), (&b"later"[..], ContentType::Native));
    assert_eq!(delivery.redelivery, Redelivery { redelivered: false, lost: Some(0) });
    drop(client);
    let mut client = consuming(&config, &queue);
    let (delivery, _) = client.delivered();
    let lost = (broker.version == "4.3").then_some(1);
    assert_eq!(delivery.redelivery, Redelivery { redelivered: true, lost });
    client.settle(delivery, Settlement::Ack);
    client.wait_depth(&queue, 0);
}

/// Prints how late messages are: one by one, and 2,000 at once.
fn a_burst_loses_none_and_none_is_early(broker: Broker) {
    const ONE_BY_ONE: u64 = 100;
    const BURST: u64 = 2000;
    let _lease = broker.share();
    let (config, queue) = fresh(broker);
    let mut client = consuming(&config, &queue);
    for (what, numbers) in [("one by one", 0..ONE_BY_ONE), ("burst", ONE_BY_ONE..ONE_BY_ONE + BURST)] {
        let mut sent = BTreeMap::new();
        let mut confirmed = BTreeMap::new();
        let mut came = BTreeMap::new();
        let count = numbers.end - numbers.start;
        for number in numbers {
            sent.insert(number, Instant::now());
            client.publish_delayed(&queue, number, &number.to_be_bytes(), Some(SECOND));
            while what == "one by one" && !confirmed.contains_key(&number) {
                take(&mut client, &mut confirmed, &mut came);
            }
        }
        while came.len() < count as usize || confirmed.len() < count as usize {
            take(&mut client, &mut confirmed, &mut came);
        }
        let early: Vec<_> = came.iter().filter(|(number, at)| **at < sent[number] + SECOND).collect();
        assert!(early.is_empty(), "{} of {count} were early: {early:?}", early.len());
        let mut late: Vec<_> =
            came.iter().map(|(number, at)| *at - confirmed[number].min(*at - SECOND) - SECOND).collect();
        late.sort_unstable();
        let version = broker.version;
        let (median, most) = (late[late.len() / 2], late[late.len() - 1]);
        println!(
            "RabbitMQ {version}, {count} {what}: {median:?} late in the middle, {most:?} at most (after the confirm)"
        );
    }
    assert_eq!(client.next_within(Duration::from_millis(100)), None, "one came twice");
    client.wait_depth(&rung(&config, 1), 0);
}

/// Takes one event: a confirm, or a delivery of a number that has not come yet.
fn take(client: &mut Client, confirmed: &mut BTreeMap<u64, Instant>, came: &mut BTreeMap<u64, Instant>) {
    match client.next_within(WATCHDOG).expect("a confirm or a delivery") {
        Event::Published { token, outcome } => {
            assert_eq!(outcome, Outcome::Confirmed);
            confirmed.insert(token.0, Instant::now());
        }
        Event::Delivered(delivery) => {
            let number = u64::from_be_bytes(client.memory.slot(delivery.slot).unwrap().try_into().unwrap());
            assert_eq!(delivery.redelivery, Redelivery { redelivered: false, lost: Some(0) });
            assert_eq!(came.insert(number, Instant::now()), None, "{number} came twice");
            client.settle(delivery, Settlement::Ack);
        }
        other => panic!("{other:?}"),
    }
}

fn a_short_delay_does_not_wait_for_a_long_one(broker: Broker) {
    let _lease = broker.share();
    let (config, queue) = fresh(broker);
    let mut client = consuming(&config, &queue);
    // Long ones first, and long ones last.
    for (token, seconds) in [(1, 5), (2, 2), (3, 1), (4, 2), (5, 1), (6, 5)] {
        client.publish_delayed(&queue, token, &[seconds], Some(Duration::from_secs(u64::from(seconds))));
    }
    let mut order = Vec::new();
    while order.len() < 6 {
        match client.next() {
            Event::Published { outcome, .. } => assert_eq!(outcome, Outcome::Confirmed),
            Event::Delivered(delivery) => {
                order.push(client.memory.slot(delivery.slot).unwrap()[0]);
                client.settle(delivery, Settlement::Ack);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(order, [1, 1, 2, 2, 5, 5]);
}

fn what_waits_survives_the_broker(broker: Broker) {
    const COUNT: u64 = 200;
    let delay = Duration::from_secs(10);
    let _lease = broker.own();
    let (config, queue) = fresh(broker);
    let mut client = consuming(&config, &queue);
    for number in 0..COUNT {
        client.publish_delayed(&queue, number, &number.to_be_bytes(), Some(delay));
    }
    for number in 0..COUNT {
        assert_eq!(client.published(number), Outcome::Confirmed);
    }
    let confirmed = Instant::now();
    broker.restart();
    let came = collect(&mut client, COUNT as usize);
    let expected: BTreeSet<_> = (0..COUNT).map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(came.keys().cloned().collect::<BTreeSet<_>>(), expected);
    let first = came.values().min().unwrap().duration_since(confirmed);
    // They were confirmed at different times, all before `confirmed`, and none more than a second before.
    assert!(first > delay - SECOND, "early: after {first:?}");
    // A publishing connection that is made anew has the rung made anew, too.
    loop {
        client.publish_delayed(&queue, 1, b"after", Some(SECOND));
        match client.next() {
            Event::Published { outcome: Outcome::Confirmed, .. } => break,
            Event::Published { outcome: Outcome::Lost | Outcome::Refused(_), .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(collect(&mut client, 1).contains_key(&b"after"[..]));
}

fn a_deleted_rung_is_made_again(broker: Broker) {
    let _lease = broker.share();
    let (config, queue) = fresh(broker);
    let mut client = consuming(&config, &queue);
    client.publish_delayed(&queue, 1, b"first", Some(SECOND));
    assert_eq!(client.published(1), Outcome::Confirmed);
    assert!(collect(&mut client, 1).contains_key(&b"first"[..]));

    let name = rung(&config, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Admin::connect(&config).await.unwrap().delete(&name).await.unwrap() });
    client.publish_delayed(&queue, 2, b"nowhere", Some(SECOND));
    let Outcome::Refused(why) = client.published(2) else { panic!() };
    assert!(why.contains("gone"), "{why}");
    client.publish_delayed(&queue, 3, b"second", Some(SECOND));
    assert_eq!(client.published(3), Outcome::Confirmed);
    assert!(collect(&mut client, 1).contains_key(&b"second"[..]));

    // Without its exchange the broker closes the channel: the connection is lost, and what was open on it.
    behind_our_back(&config, async |channel| {
        channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    });
    client.publish_delayed(&queue, 4, b"nowhere either", Some(SECOND));
    assert_eq!(client.published(4), Outcome::Lost);
    loop {
        client.publish_delayed(&queue, 5, b"third", Some(SECOND));
        match client.published(5) {
            Outcome::Lost => assert_eq!(client.next_within(Duration::from_millis(20)), None),
            outcome => break assert_eq!(outcome, Outcome::Confirmed),
        }
    }
    assert!(collect(&mut client, 1).contains_key(&b"third"[..]));
}

/// A queue that somebody else made for a rung is used as it is: here one that holds little.
fn a_full_rung_refuses(broker: Broker) {
    const MOST: u64 = 1000;
    let _lease = broker.share();
    let (config, queue) = fresh(broker);
    let name = rung(&config, 1);
    behind_our_back(&config, async |channel| {
        let mut arguments = FieldTable::default();
        for (key, value) in [
            ("x-queue-type", "quorum"),
            ("x-overflow", "reject-publish"),
            ("x-dead-letter-exchange", ""),
            ("x-dead-letter-strategy", "at-least-once"),
        ] {
            arguments.insert(key.into(), AMQPValue::LongString(value.into()));
        }
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(1000));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(5));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(name.as_str().into(), options, arguments).await.unwrap();
    });
    let mut client = Client::connected(config.clone());
    client.declare(&queue);
    // What is confirmed before the queue has noticed that it is full is its own affair.
    (0..MOST).for_each(|number| client.publish_delayed(&queue, number, &number.to_be_bytes(), Some(SECOND)));
    let mut taken = BTreeSet::new();
    for _ in 0..MOST {
        match client.next() {
            Event::Published { token, outcome: Outcome::Confirmed } => {
                taken.insert(token.0.to_be_bytes().to_vec());
            }
            Event::Published { outcome, .. } => {
                assert_eq!(outcome, Outcome::Refused("the queue is full or not available".into()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((5..MOST as usize).contains(&taken.len()), "{} were taken", taken.len());
    client.submit(Op::Consume { queue: &queue, window: 1000 });
    assert_eq!(collect(&mut client, taken.len()).into_keys().collect::<BTreeSet<_>>(), taken);
    assert_eq!(client.next_within(Duration::from_millis(100)), None, "a message that was refused came");
}

/// While this lives, the broker tries a target that was missing again after a second; else after three minutes.
struct Impatience(Broker);

impl Impatience {
    fn new(broker: Broker) -> Self {
        Self::set(broker, 1000);
        Self(broker)
    }

    /// In milliseconds; for rungs that are made from now on.
    fn set(broker: Broker, timeout: u32) {
        let set = format!("application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, {timeout}).");
        broker.ctl(&["eval", &set]);
    }
}

impl Drop for Impatience {
    fn drop(&mut self) {
        Self::set(self.0, 180_000);
    }
}

/// A message whose target was deleted while it waited stays in its rung, and finds the target once that is back.
fn a_deleted_target_loses_nothing(broker: Broker) {
    let _lease = broker.own();
    let (config, gone) = fresh(broker);
    let (_, there) = fresh(broker);
    let _impatience = Impatience::new(broker);
    let mut client = consuming(&config, &there);
    client.declare(&gone);
    for number in 0..10 {
        client.publish_delayed(&gone, number, &[number as u8], Some(SECOND));
        assert_eq!(client.published(number), Outcome::Confirmed);
    }
    delete_queue(&config, &gone);
    // Those that come behind get past them: the broker has up to 32 under way.
    client.publish_delayed(&there, 10, b"behind", Some(SECOND));
    assert_eq!(client.published(10), Outcome::Confirmed);
    assert!(collect(&mut client, 1).contains_key(&b"behind"[..]));
    let mut other = Client::connected(config.clone());
    other.publish_delayed(&gone, 1, b"x", Some(SECOND));
    assert_eq!(other.published(1), Outcome::Unroutable);
    let mut back = consuming(&config, &gone);
    let came: BTreeSet<_> = collect(&mut back, 10).into_keys().collect();
    assert_eq!(came, (0..10_u8).map(|number| vec![number]).collect());
}

macro_rules! all_versions {
    ($($name:ident,)*) => {
        mod v3_10 {
            $(#[test] fn $name() { super::$name(crate::broker::Broker::V3_10); })*
        }
        mod v4_0 {
            $(#[test] fn $name() { super::$name(crate::broker::Broker::V4_0); })*
        }
        mod v4_3 {
            $(#[test] fn $name() { super::$name(crate::broker::Broker::V4_3); })*
        }
    };
}

all_versions! {
    properties_survive,
    a_message_from_a_rung_counts_from_nothing,
    a_burst_loses_none_and_none_is_early,
    a_short_delay_does_not_wait_for_a_long_one,
    what_waits_survives_the_broker,
    a_deleted_rung_is_made_again,
    a_full_rung_refuses,
    a_deleted_target_loses_nothing,
}
