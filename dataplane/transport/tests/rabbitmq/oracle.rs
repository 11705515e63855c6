//! `lapin`, a client by others, at the other end: it reads what the transport publishes, and the transport what it
//! does.

use asya_transport::{ContentType, Event, Op, Settlement};
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel, Connection};

use crate::broker::{Broker, fresh_prefix};
use crate::client::Client;

async fn channel(broker: Broker) -> (Connection, Channel) {
    let connection = Connection::connect(&broker.config().to_url(), Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Lengths around the sizes of frames and buffers.
const LENGTHS: [usize; 9] = [0, 1, 1000, 4096, 65_536, 131_064, 131_065, 262_128, 1_000_000];

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 253) as u8).collect()
}

fn others_read_what_is_published(broker: Broker) {
    let _lease = broker.share();
    let queue = format!("{}work", fresh_prefix());
    let mut client = Client::connected(broker.config());
    client.declare(&queue);
    for len in LENGTHS {
        client.publish_confirmed(&queue, &body(len));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_connection, channel) = channel(broker).await;
        for (number, len) in LENGTHS.into_iter().enumerate() {
            let options = BasicGetOptions { no_ack: true };
            let message = channel.basic_get(queue.as_str().into(), options).await.unwrap().unwrap();
            assert!(message.data == body(len), "{len} bytes came back different");
            let properties = &message.properties;
            let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
            assert_eq!(text(properties.content_type()).as_deref(), Some(ContentType::Native.as_str()));
            assert_eq!(text(properties.message_id()).as_deref(), Some("an-id"));
            assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
            let headers = properties.headers().as_ref().unwrap().inner();
            assert_eq!(headers.get("x-asya-seq"), Some(&AMQPValue::LongLongInt(number as i64 + 1)));
            assert_eq!(message.exchange.as_str(), "");
            assert_eq!(message.routing_key.as_str(), queue);
        }
    });
}

fn what_others_publish_is_read(broker: Broker) {
    let _lease = broker.share();
    let queue = format!("{}work", fresh_prefix());
    let mut client = Client::connected(broker.config());
    client.declare(&queue);
    client.submit(Op::Consume { queue: &queue, window: 100 });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_connection, channel) = channel(broker).await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let mut headers = FieldTable::default();
        headers.insert("nested".into(), AMQPValue::FieldTable(FieldTable::default()));
        headers.insert("list".into(), AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::Void; 3])));
        headers.insert("a double".into(), AMQPValue::Double(1.5));
        headers.insert("a small number".into(), AMQPValue::ShortInt(-5));
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("identity".into())
            .with_headers(headers)
            .with_correlation_id("c".into())
            .with_reply_to("r".into())
            .with_timestamp(1)
            .with_type("t".into())
            .with_app_id("a".into());
        let native = BasicProperties::default().with_content_type(ContentType::Native.as_str().into());
        for len in LENGTHS {
            for properties in [properties.clone(), native.clone(), BasicProperties::default()] {
                let options = BasicPublishOptions { mandatory: true, ..Default::default() };
                let publish =
                    channel.basic_publish("".into(), queue.as_str().into(), options, &body(len), properties).await;
                assert!(publish.unwrap().await.unwrap().is_ack());
            }
        }
    });
    for len in LENGTHS {
        for content_type in [ContentType::Json, ContentType::Native, ContentType::Json] {
            let Event::Delivered(delivery) = client.next() else { panic!() };
            assert_eq!((delivery.len, delivery.content_type), (len as u64, content_type));
            assert!(client.memory.slot(delivery.slot) == Some(&body(len)[..]), "{len} bytes came back different");
            client.settle(delivery, Settlement::Ack);
        }
    }
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

both_versions! { others_read_what_is_published, what_others_publish_is_read, }
