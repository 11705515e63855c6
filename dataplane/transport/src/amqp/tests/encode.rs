//! What the other implementation reads of the frames that are written here.

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use proptest::collection::vec;
use proptest::prelude::*;

use super::read;
use crate::amqp::encode::{self, SEQUENCE_HEADER};
use crate::amqp::id;
use crate::amqp::outbox::Outbox;
use crate::amqp::tests::pieces::{FakeMemory, flat};
use crate::amqp::wire::Field;
use crate::api::{Body, ContentType, Publish, Token};

fn one(write: impl FnOnce(&mut Vec<u8>)) -> AMQPFrame {
    let mut out = Vec::new();
    write(&mut out);
    let mut frames = read(&out);
    assert_eq!(frames.len(), 1);
    frames.remove(0)
}

fn method(channel: u16, write: impl FnOnce(&mut Vec<u8>)) -> AMQPClass {
    match one(write) {
        AMQPFrame::Method(of, class) if of == channel => class,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connection_methods() {
    let properties = [("a", Field::Text("b")), ("capabilities", Field::Table(&[("c", Field::Bool(true))]))];
    let start_ok = method(0, |out| encode::start_ok(out, &properties, "us", "pässword"));
    let AMQPClass::Connection(connection::AMQPMethod::StartOk(start_ok)) = start_ok else { panic!("{start_ok:?}") };
    assert_eq!(start_ok.mechanism.as_str(), "PLAIN");
    assert_eq!(start_ok.response.as_bytes(), "\0us\0pässword".as_bytes());
    assert_eq!(start_ok.locale.as_str(), "en_US");
    let fields = start_ok.client_properties.inner();
    assert_eq!(fields.get("a"), Some(&AMQPValue::LongString("b".into())));
    let Some(AMQPValue::FieldTable(nested)) = fields.get("capabilities") else { panic!("{fields:?}") };
    assert_eq!(nested.inner().get("c"), Some(&AMQPValue::Boolean(true)));

    let expected = connection::TuneOk { channel_max: 7, frame_max: 4096, heartbeat: 10 };
    let tune_ok = method(0, |out| encode::tune_ok(out, 7, 4096, 10));
    assert_eq!(tune_ok, AMQPClass::Connection(connection::AMQPMethod::TuneOk(expected)));

    let expected = connection::Open { virtual_host: "/v".into() };
    let open = method(0, |out| encode::open(out, "/v"));
    assert_eq!(open, AMQPClass::Connection(connection::AMQPMethod::Open(expected)));

    let close_ok = method(0, |out| encode::bare(out, 0, id::CONNECTION_CLOSE_OK));
    assert_eq!(close_ok, AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})));
    assert_eq!(one(encode::heartbeat), AMQPFrame::Heartbeat);
}

#[test]
fn channel_and_topology_methods() {
    let open = method(3, |out| encode::channel_open(out, 3));
    assert_eq!(open, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})));
    let close_ok = method(3, |out| encode::bare(out, 3, id::CHANNEL_CLOSE_OK));
    assert_eq!(close_ok, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
    let flow_ok = method(3, |out| encode::flow_ok(out, 3, true));
    assert_eq!(flow_ok, AMQPClass::Channel(channel::AMQPMethod::FlowOk(channel::FlowOk { active: true })));
    let select = method(3, |out| encode::confirm_select(out, 3));
    assert_eq!(select, AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false })));

    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(-1));
    let expected = |passive, durable, arguments| {
        AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: "q".into(),
            passive,
            durable,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments,
        }))
    };
    let fields = [("x-queue-type", Field::Text("quorum")), ("x-delivery-limit", Field::Int(-1))];
    assert_eq!(method(2, |out| encode::declare(out, 2, "q", &fields)), expected(false, true, arguments));
    assert_eq!(method(2, |out| encode::declare_passive(out, 2, "q")), expected(true, false, FieldTable::default()));

    let declared = method(2, |out| encode::exchange_declare(out, 2, "asya", "topic"));
    let expected = exchange::Declare {
        exchange: "asya".into(),
        kind: "topic".into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    assert_eq!(declared, AMQPClass::Exchange(exchange::AMQPMethod::Declare(expected)));
    let bound = method(2, |out| encode::bind(out, 2, "q", "asya", "k"));
    let expected = queue::Bind {
        queue: "q".into(),
        exchange: "asya".into(),
        routing_key: "k".into(),
        nowait: false,
        arguments: FieldTable::default(),
    };
    assert_eq!(bound, AMQPClass::Queue(queue::AMQPMethod::Bind(expected)));
}

#[test]
fn consuming_methods() {
    let basic = |method| AMQPClass::Basic(method);
    let qos = method(1, |out| encode::qos(out, 1, 300));
    assert_eq!(qos, basic(basic::AMQPMethod::Qos(basic::Qos { prefetch_count: 300, global: false })));
    let mut arguments = FieldTable::default();
    arguments.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(5));
    let consume = method(1, |out| encode::consume(out, 1, "q", "tag", &[("x-consumer-timeout", Field::Int(5))]));
    let expected = basic::Consume {
        queue: "q".into(),
        consumer_tag: "tag".into(),
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments,
    };
    assert_eq!(consume, basic(basic::AMQPMethod::Consume(expected)));
    let cancel = method(1, |out| encode::cancel(out, 1, "tag"));
    let expected = basic::Cancel { consumer_tag: "tag".into(), nowait: false };
    assert_eq!(cancel, basic(basic::AMQPMethod::Cancel(expected)));
    let cancel_ok = method(1, |out| encode::cancel_ok(out, 1, b"tag"));
    let expected = basic::CancelOk { consumer_tag: "tag".into() };
    assert_eq!(cancel_ok, basic(basic::AMQPMethod::CancelOk(expected)));
    let ack = method(1, |out| encode::ack(out, 1, u64::MAX, true));
    assert_eq!(ack, basic(basic::AMQPMethod::Ack(basic::Ack { delivery_tag: u64::MAX, multiple: true })));
    let nack = method(1, |out| encode::requeue(out, 1, 7));
    let expected = basic::Nack { delivery_tag: 7, multiple: false, requeue: true };
    assert_eq!(nack, basic(basic::AMQPMethod::Nack(expected)));
    let reject = method(1, |out| encode::reject(out, 1, 7));
    assert_eq!(reject, basic(basic::AMQPMethod::Reject(basic::Reject { delivery_tag: 7, requeue: false })));
}

proptest! {
    #[test]
    fn a_publish_is_read_back_whole(
        prefix in vec(any::<u8>(), 0..9000),
        parts in vec(vec(any::<u8>(), 0..9000), 0..4),
        suffix in vec(any::<u8>(), 0..9000),
        id in "\\PC{0,300}",
        sequence in 1..u64::MAX / 2,
        native in any::<bool>(),
        exchange in "[a-z0-9-]{0,255}",
    ) {
        const FRAME_MAX: u32 = 4096;
        let mut memory = FakeMemory::default();
        let parts: Vec<_> = parts.iter().map(|bytes| memory.put(bytes)).collect();
        let body = Body { prefix: &prefix, parts: &parts, suffix: &suffix };
        let content_type = if native { ContentType::Native } else { ContentType::Json };
        let token = Token(1);
        let message = Publish { token, queue: "to", content_type, message_id: &id, body, delay: None };
        let mut out = Outbox::default();
        encode::publish(&mut out, 1, FRAME_MAX, sequence, &exchange, &message);
        let bytes = flat(&out, &memory);
        let mut whole = prefix.clone();
        parts.iter().for_each(|part| whole.extend_from_slice(memory.bytes(*part)));
        whole.extend_from_slice(&suffix);

        let mut frames = read(&bytes).into_iter();
        let (exchange, routing_key) = (exchange.into(), "to".into());
        let publish = basic::Publish { exchange, routing_key, mandatory: true, immediate: false };
        let publish = AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Publish(publish)));
        prop_assert_eq!(frames.next(), Some(publish));
        let Some(AMQPFrame::Header(1, header)) = frames.next() else { panic!("no header") };
        prop_assert_eq!(header.body_size, whole.len() as u64);
        let properties = &header.properties;
        prop_assert_eq!(properties.content_type().as_ref().unwrap().as_str(), content_type.as_str());
        prop_assert_eq!(properties.delivery_mode(), &Some(2));
        let kept = properties.message_id().as_ref().unwrap().as_str();
        prop_assert!(id.starts_with(kept) && kept.len() + 4 > id.len().min(255));
        let headers = properties.headers().as_ref().unwrap().inner();
        prop_assert_eq!(headers.get(SEQUENCE_HEADER), Some(&AMQPValue::LongLongInt(sequence as i64)));
        let mut came = Vec::new();
        for frame in frames {
            let AMQPFrame::Body(1, bytes) = frame else { panic!("no body") };
            prop_assert!(!bytes.is_empty() && bytes.len() + 8 <= FRAME_MAX as usize);
            came.extend_from_slice(&bytes);
        }
        prop_assert_eq!(came, whole);
    }
}
