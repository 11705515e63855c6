//! TLS: only a broker that proves who it is, and the same bytes through it.

use asya_transport::rabbitmq::RabbitMqConfig;
use asya_transport::rabbitmq::admin::Admin;
use asya_transport::{Event, Op, Settlement};

use crate::broker::{Broker, fresh_prefix};
use crate::client::Client;

fn trusting(broker: Broker, ca_file: &str) -> RabbitMqConfig {
    RabbitMqConfig::from_url(&format!("{}?cacertfile={ca_file}", broker.tls_url())).unwrap()
}

fn bodies_go_through_unchanged(broker: Broker) {
    let _lease = broker.share();
    let queue = format!("{}work", fresh_prefix());
    let mut client = Client::connected(trusting(broker, &Broker::ca_file()));
    client.declare(&queue);
    let lengths = [0, 1, 1000, 16_384, 70_000, 131_065, 3_000_000];
    for (token, len) in lengths.into_iter().enumerate() {
        let body: Vec<u8> = (0..len).map(|at| (at % 241) as u8).collect();
        client.publish(&queue, token as u64, &body);
    }
    client.submit(Op::Consume { queue: &queue, window: 100 });
    let (mut confirmed, mut came) = (0, 0);
    while confirmed < lengths.len() || came < lengths.len() {
        match client.next() {
            Event::Published { outcome, .. } => {
                assert_eq!(outcome, asya_transport::Outcome::Confirmed);
                confirmed += 1;
            }
            Event::Delivered(delivery) => {
                let body = client.memory.slot(delivery.slot).unwrap();
                assert_eq!(body.len(), lengths[came]);
                assert!(body.iter().enumerate().all(|(at, byte)| *byte == (at % 241) as u8));
                came += 1;
                client.settle(delivery, Settlement::Ack);
            }
            other => panic!("{other:?}"),
        }
    }
    client.wait_depth(&queue, 0);
}

fn a_stranger_is_not_trusted(broker: Broker) {
    let _lease = broker.share();
    let folder = tempfile::tempdir().unwrap();
    let other_ca = folder.path().join("ca.pem");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&other_ca, params.self_signed(&key).unwrap().pem()).unwrap();
    let refused = |config| match Client::new(config).next() {
        Event::Lost { epoch: 0, why } => why,
        other => panic!("{other:?}"),
    };
    let why = refused(trusting(broker, other_ca.to_str().unwrap()));
    assert!(why.contains("invalid peer certificate"), "{why}");
    let mut renamed = trusting(broker, &Broker::ca_file());
    renamed.tls.as_mut().unwrap().server_name = Some("someone.else".into());
    let why = refused(renamed);
    assert!(why.contains("someone.else") || why.contains("not valid for name"), "{why}");
    let why = refused(trusting(broker, "/nowhere/ca.pem"));
    assert!(why.contains("/nowhere/ca.pem"), "{why}");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let why = refused(trusting(broker, empty.to_str().unwrap()));
    assert!(why.contains("empty.pem"), "{why}");
}

fn tools_use_it_too(broker: Broker) {
    let _lease = broker.share();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = trusting(broker, &Broker::ca_file());
    let depth =
        runtime.block_on(async { Admin::connect(&config).await.unwrap().depth("no such queue").await.unwrap() });
    assert_eq!(depth, None);
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

both_versions! { bodies_go_through_unchanged, a_stranger_is_not_trusted, tools_use_it_too, }
