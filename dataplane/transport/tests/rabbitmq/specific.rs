//! What only RabbitMQ does.

use std::collections::BTreeSet;
use std::time::Duration;

use asya_transport::rabbitmq::admin::{self, Admin, Depth};
use asya_transport::rabbitmq::{Compatibility, Password};
use asya_transport::{ContentType, Event, Op, Outcome, QueueSpec, Redelivery, Settlement, Token, Transport};

use crate::broker::{Broker, fresh_prefix};
use crate::client::Client;
use crate::proxy::Proxy;

fn queue() -> String {
    format!("{}work", fresh_prefix())
}

fn connections_closed_by_the_broker(broker: Broker) {
    let _lease = broker.own();
    let queue = queue();
    let mut client = Client::connected(broker.config());
    client.declare(&queue);
    client.submit(Op::Consume { queue: &queue, window: 10 });
    client.publish_confirmed(&queue, b"one");
    let (first, _) = client.delivered();
    assert_eq!(first.redelivery, Redelivery { redelivered: false, lost: Some(0) });
    broker.ctl(&["close_all_connections", "maintenance"]);
    let Event::Lost { epoch: 1, why } = client.next() else { panic!() };
    assert!(why.contains("maintenance") || why.contains("dropped") || why.contains("reset"), "{why}");
    // Settled by a void tag: nothing happens, and it comes again.
    client.settle(first, Settlement::Ack);
    loop {
        match client.next() {
            Event::Lost { epoch: 0, .. } => {}
            other => break assert_eq!(other, Event::Connected { epoch: 2 }),
        }
    }
    let (again, body) = client.delivered();
    assert_eq!((again.tag.epoch, body.as_slice()), (2, &b"one"[..]));
    let lost = if broker.version == "4.3" { Some(1) } else { None };
    assert_eq!(again.redelivery, Redelivery { redelivered: true, lost });
}

fn a_network_that_goes_silent(broker: Broker) {
    let _lease = broker.share();
    let mut config = broker.config();
    let proxy = Proxy::new(&config.host, config.port);
    config.host = "127.0.0.1".into();
    config.port = proxy.port;
    config.heartbeat = Duration::from_secs(1);
    let mut client = Client::connected(config);
    // The broker's heartbeats keep it up.
    assert_eq!(client.next_within(Duration::from_secs(4)), None);
    proxy.stall(true);
    let Event::Lost { epoch: 1, why } = client.next() else { panic!() };
    assert!(why.contains("silent"), "{why}");
    proxy.cut();
    proxy.stall(false);
    loop {
        match client.next() {
            Event::Lost { epoch: 0, .. } => {}
            other => break assert_eq!(other, Event::Connected { epoch: 2 }),
        }
    }
}

fn small_frames(broker: Broker) {
    let _lease = broker.share();
    let queue = queue();
    let mut config = broker.config();
    config.frame_max = 4096;
    let mut client = Client::connected(config);
    client.declare(&queue);
    client.submit(Op::Consume { queue: &queue, window: 10 });
    // From 4.1 on, 8192 is the least.
    for len in [0, 1, 4087, 4088, 4089, 8176, 8177, 8184, 8185, 300_000] {
        let body: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        client.publish(&queue, 1, &body);
        let mut came = None;
        let mut confirmed = false;
        while came.is_none() || !confirmed {
            match client.next() {
                Event::Delivered(delivery) => came = Some(delivery),
                Event::Published { outcome: Outcome::Confirmed, .. } => confirmed = true,
                other => panic!("{other:?}"),
            }
        }
        let delivery = came.unwrap();
        assert_eq!(client.memory.slot(delivery.slot), Some(&body[..]));
        client.settle(delivery, Settlement::Ack);
    }
}

/// 24 bodies of 16 MiB, all allowed to be in flight, into room for three.
fn large_bodies_stay_in_their_budget(broker: Broker) {
    const LEN: usize = 16 << 20;
    let _lease = broker.share();
    let queue = queue();
    let mut publisher = Client::connected(broker.config());
    publisher.declare(&queue);
    for number in 0..24_u8 {
        publisher.publish_confirmed(&queue, &vec![number; LEN]);
    }
    let mut client = Client::new(broker.config());
    client.memory.set_budget(3 * LEN as u64 + 1000);
    client.submit(Op::Consume { queue: &queue, window: 256 });
    assert_eq!(client.next(), Event::Connected { epoch: 1 });
    let mut held = Vec::new();
    let mut seen = BTreeSet::new();
    while seen.len() < 24 {
        while held.len() < 3 && seen.len() + held.len() < 24 {
            let Event::Delivered(delivery) = client.next() else { panic!() };
            assert!(client.memory.used() <= 3 * LEN as u64);
            held.push(delivery);
        }
        let delivery = held.remove(0);
        let body = client.memory.slot(delivery.slot).unwrap();
        assert!(body.len() == LEN && body.iter().all(|byte| *byte == body[0]));
        assert!(seen.insert(body[0]));
        client.settle(delivery, Settlement::Ack);
    }
    assert!(client.memory.refused() > 0);
    client.wait_depth(&queue, 0);
}

fn a_different_queue_is_used_as_it_is(broker: Broker) {
    let _lease = broker.share();
    let queue = queue();
    let config = broker.config();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connection = lapin::Connection::connect(&config.to_url(), Default::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue.as_str().into(), options, Default::default()).await.unwrap();
    });
    let mut client = Client::connected(config);
    let differs = client.declare(&queue).expect("it differs");
    assert!(differs.contains("used as it is") && differs.contains("inequivalent arg"), "{differs}");
    client.submit(Op::Consume { queue: &queue, window: 10 });
    client.publish_confirmed(&queue, b"all the same");
    assert_eq!(client.delivered().1, b"all the same");
    // Its dead-letter queue was made, and is the same the second time.
    let dead_letter = format!("{queue}-dlq");
    let spec = QueueSpec { queue: &dead_letter, dead_letter: None, delivery_limit: 100, consumer_timeout: None };
    client.submit(Op::Declare(spec));
    assert_eq!(client.next(), Event::Declared { queue: dead_letter, differs: None });
}

fn nobody_gets_in_with_a_wrong_password(broker: Broker) {
    let _lease = broker.share();
    let mut config = broker.config();
    config.password = Password::new("wrong".into());
    let Event::Fatal { why } = Client::new(config).next() else { panic!() };
    assert!(why.contains("check the user name and the password"), "{why}");
    let mut config = broker.config();
    config.vhost = "nowhere".into();
    let Event::Fatal { why } = Client::new(config).next() else { panic!() };
    assert!(why.contains("check that the virtual host exists"), "{why}");
}

fn larger_than_the_broker_takes(broker: Broker) {
    let _lease = broker.share();
    let queue = queue();
    let mut client = Client::connected(broker.config());
    client.declare(&queue);
    // 4.3 takes 16 MiB by default, 3.10 takes 128.
    let limit = if broker.version == "4.3" { 16 << 20 } else { 128 << 20 };
    client.publish(&queue, 1, &vec![1; limit + 1]);
    assert_eq!(client.next(), Event::Published { token: Token(1), outcome: Outcome::TooLarge(limit as u64) });
    assert_eq!(client.transport.limits().max_message_bytes, Some(limit as u64));
}

fn bound_by_bare_name(broker: Broker) {
    let _lease = broker.share();
    let prefix = fresh_prefix();
    let queue = format!("{prefix}step");
    let mut config = broker.config();
    let exchange = format!("{prefix}exchange");
    config.compatibility = Some(Compatibility { exchange: exchange.clone(), prefix });
    let mut client = Client::connected(config.clone());
    assert_eq!(client.declare(&queue), None);
    client.submit(Op::Consume { queue: &queue, window: 1 });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connection = lapin::Connection::connect(&config.to_url(), Default::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let published = channel.basic_publish(
            exchange.as_str().into(),
            "step".into(),
            Default::default(),
            b"from the existing Asya",
            Default::default(),
        );
        published.await.unwrap();
        connection.close(200, "".into()).await.unwrap();
    });
    let (delivery, body) = client.delivered();
    assert_eq!((delivery.content_type, body.as_slice()), (ContentType::Json, &b"from the existing Asya"[..]));
}

fn tools_see_what_is_there(broker: Broker) {
    let _lease = broker.share();
    let queue = queue();
    let mut client = Client::connected(broker.config());
    client.declare(&queue);
    client.publish_confirmed(&queue, b"first");
    client.publish_confirmed(&queue, b"second");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tools = Admin::connect(&broker.config()).await.unwrap();
        assert_eq!(tools.depth("no such queue").await.unwrap(), None);
        assert_eq!(tools.depth(&queue).await.unwrap(), Some(Depth { messages: 2, consumers: 0 }));
        let got = tools.get(&queue).await.unwrap().unwrap();
        assert_eq!((got.body.as_slice(), got.content_type, got.behind), (&b"first"[..], ContentType::Native, 1));
        assert_eq!((got.message_id.as_deref(), got.redelivered), (Some("an-id"), false));
        got.requeue().await.unwrap();
        let mut bodies = BTreeSet::new();
        for _ in 0..2 {
            let got = tools.get(&queue).await.unwrap().unwrap();
            bodies.insert(got.body.clone());
            got.ack().await.unwrap();
        }
        assert_eq!(bodies, BTreeSet::from([b"first".to_vec(), b"second".to_vec()]));
        assert!(tools.get(&queue).await.unwrap().is_none());
        let dead_letter = format!("{queue}-dlq");
        let spec =
            QueueSpec { queue: &queue, dead_letter: Some(&dead_letter), delivery_limit: 100, consumer_timeout: None };
        assert_eq!(admin::declare(broker.config(), spec).await.unwrap(), None);
        let other = QueueSpec { delivery_limit: 7, ..spec };
        let differs = admin::declare(broker.config(), other).await.unwrap().unwrap();
        assert!(differs.contains("x-delivery-limit"), "{differs}");
        assert_eq!(tools.purge(&queue).await.unwrap(), 0);
        assert_eq!(tools.delete(&queue).await.unwrap(), 0);
        assert_eq!(tools.depth(&queue).await.unwrap(), None);
    });
}

/// Only 4.3 watches each consumer's own timeout: it takes the consumer away and keeps the channel.
#[test]
fn a_delivery_kept_for_too_long_comes_again() {
    let broker = Broker::V4_3;
    let _lease = broker.share();
    let queue = queue();
    let mut client = Client::connected(broker.config());
    let consumer_timeout = Some(Duration::from_secs(2));
    client.submit(Op::Declare(QueueSpec { queue: &queue, dead_letter: None, delivery_limit: 100, consumer_timeout }));
    assert_eq!(client.next(), Event::Declared { queue: queue.clone(), differs: None });
    client.submit(Op::Consume { queue: &queue, window: 10 });
    client.publish_confirmed(&queue, b"slow");
    let (first, _) = client.delivered();
    assert_eq!(client.next(), Event::Canceled { asked: false });
    let (again, body) = client.delivered();
    assert!(again.redelivery.redelivered && body == b"slow" && again.tag != first.tag);
    // The late settlement of the first does no harm.
    client.settle(first, Settlement::Ack);
    client.settle(again, Settlement::Ack);
    client.wait_depth(&queue, 0);
}

macro_rules! both_versions {
    ($($name:ident,)*) => {
        mod v3_10 {
            $(#[test] fn $name() { super::$name(crate::broker::Broker::V3_10); })*
        }
        mod v4_3 {
            $(#[test] fn $name() { super::$name(crate::broker::Broker::V4_3); })*
        }
    };
}

both_versions! {
    connections_closed_by_the_broker,
    a_network_that_goes_silent,
    small_frames,
    large_bodies_stay_in_their_budget,
    a_different_queue_is_used_as_it_is,
    nobody_gets_in_with_a_wrong_password,
    larger_than_the_broker_takes,
    bound_by_bare_name,
    tools_see_what_is_there,
}
