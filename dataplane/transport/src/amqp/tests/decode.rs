//! What the decoder makes of bytes that the other implementation wrote, cut anywhere, and of bytes that nobody wrote.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame};
use amq_protocol::protocol::{AMQPClass, basic, channel, connection, queue};
use amq_protocol::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use proptest::collection::vec;
use proptest::prelude::*;

use super::written;
use crate::amqp::content::ContentHeader;
use crate::amqp::frame::{Decoder, Frame, FrameError};
use crate::amqp::input::Input;
use crate::amqp::method::Method;
use crate::amqp::wire::{Value, WireError};

const FRAME_MAX: u32 = 4096;

/// A frame as the decoder gave it, with nothing borrowed.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Deliver { channel: u16, number: u64, redelivered: bool },
    Confirm { channel: u16, number: u64, multiple: bool, ack: bool },
    Return { channel: u16, code: u16, text: Vec<u8> },
    Closed { channel: u16, code: u16, text: Vec<u8> },
    Other(String),
    Header { channel: u16, len: u64, content_type: Vec<u8>, count: Option<i64> },
    Body { channel: u16, bytes: Vec<u8> },
    Heartbeat,
}

fn seen(frame: Frame<'_>) -> Seen {
    match frame {
        Frame::Method { channel, method } => match method {
            Method::Deliver { delivery_tag, redelivered } => {
                Seen::Deliver { channel, number: delivery_tag, redelivered }
            }
            Method::Ack { delivery_tag, multiple } => {
                Seen::Confirm { channel, number: delivery_tag, multiple, ack: true }
            }
            Method::Nack { delivery_tag, multiple } => {
                Seen::Confirm { channel, number: delivery_tag, multiple, ack: false }
            }
            Method::Return { code, text } => Seen::Return { channel, code, text: text.to_vec() },
            Method::ChannelClose(close) | Method::ConnectionClose(close) => {
                Seen::Closed { channel, code: close.code, text: close.text.to_vec() }
            }
            other => Seen::Other(format!("{channel}: {other:?}")),
        },
        Frame::Header { channel, header } => Seen::Header {
            channel,
            len: header.body_len,
            content_type: header.content_type.to_vec(),
            count: match header.headers.get("x-delivery-count") {
                Some(Value::Int(count)) => Some(count),
                _ => None,
            },
        },
        Frame::Body { channel, bytes } => Seen::Body { channel, bytes: bytes.to_vec() },
        Frame::Heartbeat => Seen::Heartbeat,
    }
}

/// Feeds `bytes` in the given chunks through a buffer as a connection has one; neighbouring pieces of one body become
/// one. With `direct`, a body is read past the decoder where it can be.
fn decode(bytes: &[u8], chunks: &[usize], direct: bool) -> Result<Vec<Seen>, FrameError> {
    let mut decoder = Decoder::new(FRAME_MAX);
    let mut input = Input::new(2 * FRAME_MAX as usize);
    let mut frames: Vec<Seen> = Vec::new();
    let mut left = bytes;
    let mut sizes = chunks.iter().copied().cycle();
    let body_of = |frames: &mut Vec<Seen>, channel, bytes: &[u8]| match frames.last_mut() {
        Some(Seen::Body { channel: open, bytes: so_far }) if *open == channel => so_far.extend_from_slice(bytes),
        _ => frames.push(Seen::Body { channel, bytes: bytes.to_vec() }),
    };
    loop {
        loop {
            let (used, frame) = decoder.next(input.unread())?;
            assert!(used <= input.unread().len());
            let more = frame.is_some();
            match frame.map(seen) {
                Some(Seen::Body { channel, bytes }) => body_of(&mut frames, channel, &bytes),
                frame => frames.extend(frame),
            }
            input.consume(used);
            if !more {
                break;
            }
        }
        if left.is_empty() {
            return Ok(frames);
        }
        let size = sizes.next().unwrap_or(1).clamp(1, left.len());
        if direct && let Some((channel, ahead @ 1..)) = decoder.open_body() {
            let ahead = size.min(ahead as usize);
            body_of(&mut frames, channel, &left[..ahead]);
            decoder.body_read(ahead as u32);
            left = &left[ahead..];
        } else {
            let space = input.space(size);
            let taken = space.len().min(size);
            space[..taken].copy_from_slice(&left[..taken]);
            input.filled(taken);
            left = &left[taken..];
        }
    }
}

fn short(max: usize) -> impl Strategy<Value = String> {
    "[ -~]*".prop_map(move |text| text.chars().take(max).collect())
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<f32>().prop_map(AMQPValue::Float),
        any::<f64>().prop_map(AMQPValue::Double),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        short(40).prop_map(|text| AMQPValue::LongString(LongString::from(text))),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| AMQPValue::FieldArray(FieldArray::from(values))),
            vec((short(20), inner), 0..4).prop_map(|fields| AMQPValue::FieldTable(table(fields))),
        ]
    })
}

fn table(fields: Vec<(String, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert(name.into(), value);
    }
    table
}

/// A frame and what is to be seen of it.
fn frame() -> impl Strategy<Value = (AMQPFrame, Option<Seen>)> {
    let method = |channel, class| AMQPFrame::Method(channel, class);
    prop_oneof![
        (1..9_u16, any::<u64>(), any::<bool>(), short(30), short(30)).prop_map(
            move |(channel, number, redelivered, tag, key)| {
                let deliver = basic::Deliver {
                    consumer_tag: tag.into(),
                    delivery_tag: number,
                    redelivered,
                    exchange: "".into(),
                    routing_key: key.into(),
                };
                let class = AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver));
                (method(channel, class), Some(Seen::Deliver { channel, number, redelivered }))
            }
        ),
        (1..9_u16, any::<u64>(), any::<bool>(), any::<bool>()).prop_map(move |(channel, number, multiple, ack)| {
            let class = AMQPClass::Basic(if ack {
                basic::AMQPMethod::Ack(basic::Ack { delivery_tag: number, multiple })
            } else {
                basic::AMQPMethod::Nack(basic::Nack { delivery_tag: number, multiple, requeue: false })
            });
            (method(channel, class), Some(Seen::Confirm { channel, number, multiple, ack }))
        }),
        (1..9_u16, any::<u16>(), short(60), short(30)).prop_map(move |(channel, code, text, key)| {
            let class = AMQPClass::Basic(basic::AMQPMethod::Return(basic::Return {
                reply_code: code,
                reply_text: text.as_str().into(),
                exchange: "".into(),
                routing_key: key.into(),
            }));
            (method(channel, class), Some(Seen::Return { channel, code, text: text.into_bytes() }))
        }),
        (1..9_u16, any::<u16>(), short(60)).prop_map(move |(channel, code, text)| {
            let class = AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
                reply_code: code,
                reply_text: text.as_str().into(),
                class_id: 60,
                method_id: 40,
            }));
            (method(channel, class), Some(Seen::Closed { channel, code, text: text.into_bytes() }))
        }),
        (any::<u16>(), short(60)).prop_map(move |(code, text)| {
            let class = AMQPClass::Connection(connection::AMQPMethod::Close(connection::Close {
                reply_code: code,
                reply_text: text.as_str().into(),
                class_id: 0,
                method_id: 0,
            }));
            (method(0, class), Some(Seen::Closed { channel: 0, code, text: text.into_bytes() }))
        }),
        (short(30), any::<u32>(), any::<u32>()).prop_map(move |(name, messages, consumers)| {
            let class = AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk {
                queue: name.as_str().into(),
                message_count: messages,
                consumer_count: consumers,
            }));
            let seen = Method::QueueDeclareOk { queue: name.as_bytes(), messages, consumers };
            (method(2, class), Some(Seen::Other(format!("2: {seen:?}"))))
        }),
        (1..9_u16, any::<u64>(), short(40), vec((short(20), value()), 0..6), any::<Option<u32>>(), any::<u8>())
            .prop_map(|(channel, len, content_type, fields, count, mode)| {
                let mut headers = table(fields);
                if let Some(count) = count {
                    headers.insert("x-delivery-count".into(), AMQPValue::LongUInt(count));
                }
                let properties = basic::AMQPProperties::default()
                    .with_content_type(ShortString::from(content_type.as_str()))
                    .with_content_encoding("identity".into())
                    .with_headers(headers)
                    .with_delivery_mode(mode)
                    .with_message_id("id".into())
                    .with_timestamp(5);
                let header = AMQPContentHeader { class_id: 60, body_size: len, properties };
                let seen =
                    Seen::Header { channel, len, content_type: content_type.into_bytes(), count: count.map(i64::from) };
                (AMQPFrame::Header(channel, header), Some(seen))
            }),
        (1..9_u16, vec(any::<u8>(), 0..3000)).prop_map(|(channel, bytes)| {
            let seen = (!bytes.is_empty()).then(|| Seen::Body { channel, bytes: bytes.clone() });
            (AMQPFrame::Body(channel, bytes), seen)
        }),
        Just((AMQPFrame::Heartbeat, Some(Seen::Heartbeat))),
    ]
}

/// Neighbouring bodies of one channel cannot be told apart once their pieces are joined.
fn joined(frames: Vec<Seen>) -> Vec<Seen> {
    let mut joined: Vec<Seen> = Vec::new();
    for frame in frames {
        match (joined.last_mut(), frame) {
            (Some(Seen::Body { channel, bytes }), Seen::Body { channel: of, bytes: more }) if *channel == of => {
                bytes.extend_from_slice(&more);
            }
            (_, frame) => joined.push(frame),
        }
    }
    joined
}

proptest! {
    #[test]
    fn what_others_write_is_read_however_it_is_cut(
        frames in vec(frame(), 1..12),
        chunks in vec(1..700_usize, 1..8),
        direct in any::<bool>(),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(frame, _)| written(frame)).collect();
        let expected = joined(frames.into_iter().filter_map(|(_, seen)| seen).collect());
        prop_assert_eq!(decode(&bytes, &chunks, direct), Ok(expected));
    }

    #[test]
    fn a_cut_at_every_byte_changes_nothing(frames in vec(frame(), 1..4)) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(frame, _)| written(frame)).collect();
        let whole = decode(&bytes, &[bytes.len()], false);
        prop_assert_eq!(decode(&bytes, &[1], false), whole.clone());
        for cut in (1..bytes.len()).step_by(1 + bytes.len() / 200) {
            prop_assert_eq!(decode(&bytes, &[cut, bytes.len()], cut % 2 == 0), whole.clone());
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..600), chunks in vec(1..50_usize, 1..4)) {
        // Any verdict will do, as long as there is one and it does not depend on the cuts.
        prop_assert_eq!(decode(&bytes, &chunks, false), decode(&bytes, &[bytes.len().max(1)], false));
    }

    #[test]
    fn no_damage_does_harm(frames in vec(frame(), 1..4), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes: Vec<u8> = frames.iter().flat_map(|(frame, _)| written(frame)).collect();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        prop_assert_eq!(decode(&bytes, &[3], false), decode(&bytes, &[bytes.len()], false));
    }

    #[test]
    fn method_and_header_payloads_of_any_kind_do_no_harm(payload in vec(any::<u8>(), 0..200), id in 0..200_u32) {
        let mut with_id = ((id / 10 * 10) << 16 | (id % 10 * 10)).to_be_bytes().to_vec();
        with_id.extend_from_slice(&payload);
        for bytes in [&payload, &with_id] {
            // Both may fail; neither may do worse.
            let _ = Method::decode(bytes);
            if let Ok(header) = ContentHeader::decode(bytes) {
                let _ = header.headers.entries().count();
            }
        }
    }
}

#[test]
fn each_way_to_be_malformed_is_told_apart() {
    let error = |bytes: &[u8]| decode(bytes, &[64], false).unwrap_err();
    let heartbeat = written(&AMQPFrame::Heartbeat);
    assert_eq!(error(b"AMQP\x00\x00\x09\x01"), FrameError::OtherProtocol);
    assert_eq!(error(&[1, 0, 0, 0, 0, 0x10, 0]), FrameError::TooLarge { len: 4096, max: 4088 });
    assert_eq!(error(&[8, 0, 0, 0, 0, 0, 0, 0xCD]), FrameError::NoEnd);
    assert_eq!(error(&[3, 0, 1, 0, 0, 0, 1, 7, 0xCD]), FrameError::NoEnd);
    assert_eq!(error(&[4, 0, 0, 0, 0, 0, 0, 0xCE]), FrameError::UnknownType(4));
    let ends_early = [&[1, 0, 1, 0, 0, 0, 5, 0, 60, 0, 80, 1, 0xCE][..], &heartbeat].concat();
    assert_eq!(error(&ends_early), FrameError::Malformed(WireError::Short("basic.ack")));
}

#[test]
fn a_table_with_an_unknown_type_ends_there() {
    let header =
        [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 9][..], b"\x01at\x01\x01bZ\x00\x00"].concat();
    let header = ContentHeader::decode(&header).unwrap();
    assert_eq!(header.headers.get("a"), Some(Value::Bool(true)));
    assert_eq!(header.headers.get("b"), None);
    assert_eq!(header.headers.entries().last(), Some(Err(WireError::UnknownType(b'Z'))));
}

/// AMQP 0-9-1, 4.2.6.1. `amq-protocol` takes the second word for the first property.
#[test]
fn a_second_word_of_flags_is_no_property() {
    let header = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0x80, 0x01, 0x04, 0x06][..], b"\x04json"].concat();
    let header = ContentHeader::decode(&header).unwrap();
    assert_eq!((header.body_len, header.content_type), (9, &b"json"[..]));
}
