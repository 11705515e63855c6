//! The frames that this client sends.
//!
//! Takes the arguments of a call; appends its frames to an [`Outbox`] or a `Vec`. Never blocks and cannot fail: names
//! longer than the protocol's 255 bytes are refused by the caller, message ids are cut.

use super::content::flag;
use super::outbox::Outbox;
use super::wire::{Field, put_short_str, put_table, put_u16, put_u32, put_u64};
use super::{FRAME_END, FRAME_OVERHEAD, frame_type, id};
use crate::api::{Part, Publish};

/// A publish carries its number in this header, because a return says nothing else about which it was.
pub const SEQUENCE_HEADER: &str = "x-asya-seq";

const PERSISTENT: u8 = 2;
const CLASS_BASIC: u16 = 60;
/// `basic.publish`: bit 0, mandatory.
const MANDATORY: u8 = 1;

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    put_u16(out, channel);
    let len_at = out.len();
    put_u32(out, 0);
    payload(out);
    let len = (out.len() - len_at - 4) as u32;
    out[len_at..len_at + 4].copy_from_slice(&len.to_be_bytes());
    out.push(FRAME_END);
}

/// A method frame with the arguments that `arguments` writes.
pub fn method(out: &mut Vec<u8>, channel: u16, id: u32, arguments: impl FnOnce(&mut Vec<u8>)) {
    frame(out, frame_type::METHOD, channel, |out| {
        put_u32(out, id);
        arguments(out);
    });
}

/// A sign of life.
pub fn heartbeat(out: &mut Vec<u8>) {
    frame(out, frame_type::HEARTBEAT, 0, |_| {});
}

/// `connection.start-ok` with the PLAIN mechanism.
pub fn start_ok(out: &mut Vec<u8>, properties: &[(&str, Field<'_>)], user: &str, password: &str) {
    method(out, 0, id::CONNECTION_START_OK, |out| {
        put_table(out, properties);
        put_short_str(out, "PLAIN");
        let len = 2 + user.len() + password.len();
        put_u32(out, len as u32);
        out.push(0);
        out.extend_from_slice(user.as_bytes());
        out.push(0);
        out.extend_from_slice(password.as_bytes());
        put_short_str(out, "en_US");
    });
}

/// `connection.tune-ok`.
pub fn tune_ok(out: &mut Vec<u8>, channel_max: u16, frame_max: u32, heartbeat_s: u16) {
    method(out, 0, id::CONNECTION_TUNE_OK, |out| {
        put_u16(out, channel_max);
        put_u32(out, frame_max);
        put_u16(out, heartbeat_s);
    });
}

/// `connection.open`.
pub fn open(out: &mut Vec<u8>, vhost: &str) {
    method(out, 0, id::CONNECTION_OPEN, |out| {
        put_short_str(out, vhost);
        out.extend_from_slice(&[0, 0]);
    });
}

/// `channel.open`.
pub fn channel_open(out: &mut Vec<u8>, channel: u16) {
    method(out, channel, id::CHANNEL_OPEN, |out| out.push(0));
}

/// A method without arguments, such as `channel.close-ok`.
pub fn bare(out: &mut Vec<u8>, channel: u16, id: u32) {
    method(out, channel, id, |_| {});
}

/// `channel.flow-ok`.
pub fn flow_ok(out: &mut Vec<u8>, channel: u16, active: bool) {
    method(out, channel, id::CHANNEL_FLOW_OK, |out| out.push(u8::from(active)));
}

/// `confirm.select`.
pub fn confirm_select(out: &mut Vec<u8>, channel: u16) {
    method(out, channel, id::CONFIRM_SELECT, |out| out.push(0));
}

/// `queue.declare`, passive: is it there?
pub fn declare_passive(out: &mut Vec<u8>, channel: u16, queue: &str) {
    declare_with(out, channel, queue, 0b0_0001, &[]);
}

/// `queue.declare` of a durable queue.
pub fn declare(out: &mut Vec<u8>, channel: u16, queue: &str, arguments: &[(&str, Field<'_>)]) {
    declare_with(out, channel, queue, 0b0_0010, arguments);
}

fn declare_with(out: &mut Vec<u8>, channel: u16, queue: &str, bits: u8, arguments: &[(&str, Field<'_>)]) {
    method(out, channel, id::QUEUE_DECLARE, |out| {
        put_u16(out, 0);
        put_short_str(out, queue);
        out.push(bits);
        put_table(out, arguments);
    });
}

/// `exchange.declare` of a durable exchange of this kind (`topic`, `fanout`).
pub fn exchange_declare(out: &mut Vec<u8>, channel: u16, exchange: &str, kind: &str) {
    method(out, channel, id::EXCHANGE_DECLARE, |out| {
        put_u16(out, 0);
        put_short_str(out, exchange);
        put_short_str(out, kind);
        out.push(0b0_0010);
        put_table(out, &[]);
    });
}

/// `queue.bind`.
pub fn bind(out: &mut Vec<u8>, channel: u16, queue: &str, exchange: &str, key: &str) {
    method(out, channel, id::QUEUE_BIND, |out| {
        put_u16(out, 0);
        put_short_str(out, queue);
        put_short_str(out, exchange);
        put_short_str(out, key);
        out.push(0);
        put_table(out, &[]);
    });
}

/// `basic.qos` for the consumers that come after it.
pub fn qos(out: &mut Vec<u8>, channel: u16, prefetch: u16) {
    method(out, channel, id::BASIC_QOS, |out| {
        put_u32(out, 0);
        put_u16(out, prefetch);
        out.push(0);
    });
}

/// `basic.consume` with acknowledgements.
pub fn consume(out: &mut Vec<u8>, channel: u16, queue: &str, consumer_tag: &str, arguments: &[(&str, Field<'_>)]) {
    method(out, channel, id::BASIC_CONSUME, |out| {
        put_u16(out, 0);
        put_short_str(out, queue);
        put_short_str(out, consumer_tag);
        out.push(0);
        put_table(out, arguments);
    });
}

/// `basic.cancel`.
pub fn cancel(out: &mut Vec<u8>, channel: u16, consumer_tag: &str) {
    method(out, channel, id::BASIC_CANCEL, |out| {
        put_short_str(out, consumer_tag);
        out.push(0);
    });
}

/// `basic.cancel-ok`: the answer to a broker that waits for one.
pub fn cancel_ok(out: &mut Vec<u8>, channel: u16, consumer_tag: &[u8]) {
    method(out, channel, id::BASIC_CANCEL_OK, |out| {
        out.push(consumer_tag.len() as u8);
        out.extend_from_slice(consumer_tag);
    });
}

/// `basic.ack`: of one delivery, or of it and all before it.
pub fn ack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    method(out, channel, id::BASIC_ACK, |out| {
        put_u64(out, delivery_tag);
        out.push(u8::from(multiple));
    });
}

/// `basic.nack` of one delivery, which goes back to the queue.
pub fn requeue(out: &mut Vec<u8>, channel: u16, delivery_tag: u64) {
    method(out, channel, id::BASIC_NACK, |out| {
        put_u64(out, delivery_tag);
        out.push(0b10);
    });
}

/// `basic.reject` of one delivery, which goes to the dead-letter queue.
pub fn reject(out: &mut Vec<u8>, channel: u16, delivery_tag: u64) {
    method(out, channel, id::BASIC_REJECT, |out| {
        put_u64(out, delivery_tag);
        out.push(0);
    });
}

/// `basic.publish` to an exchange (`""` is the default one), the message's queue as the key: persistent, mandatory,
/// numbered `sequence` for a return. Parts of the body stay where they are.
pub fn publish(out: &mut Outbox, channel: u16, frame_max: u32, sequence: u64, exchange: &str, message: &Publish<'_>) {
    let total = message.body.len();
    out.own(|out| {
        method(out, channel, id::BASIC_PUBLISH, |out| {
            put_u16(out, 0);
            put_short_str(out, exchange);
            put_short_str(out, message.queue);
            out.push(MANDATORY);
        });
        frame(out, frame_type::HEADER, channel, |out| {
            put_u16(out, CLASS_BASIC);
            put_u16(out, 0);
            put_u64(out, total);
            put_u16(out, flag::CONTENT_TYPE | flag::HEADERS | flag::DELIVERY_MODE | flag::MESSAGE_ID);
            put_short_str(out, message.content_type.as_str());
            put_table(out, &[(SEQUENCE_HEADER, Field::Int(sequence as i64))]);
            out.push(PERSISTENT);
            put_short_str(out, message.message_id);
        });
    });
    let mut frames = BodyFrames { out, channel, payload_max: frame_max as u64 - FRAME_OVERHEAD as u64, total, open: 0 };
    frames.bytes(message.body.prefix);
    for part in message.body.parts {
        frames.part(*part);
    }
    frames.bytes(message.body.suffix);
}

/// Cuts a body into frames wherever the boundaries fall.
struct BodyFrames<'a> {
    out: &'a mut Outbox,
    channel: u16,
    payload_max: u64,
    /// Bytes of the body that are not yet in a frame.
    total: u64,
    /// Bytes that the open frame still takes.
    open: u64,
}

impl BodyFrames<'_> {
    fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.room().min(bytes.len() as u64);
            let (now, rest) = bytes.split_at(taken as usize);
            self.out.own(|out| out.extend_from_slice(now));
            bytes = rest;
            self.took(taken);
        }
    }

    fn part(&mut self, mut part: Part) {
        while part.len > 0 {
            let taken = self.room().min(part.len);
            self.out.part(Part { len: taken, ..part });
            part.offset += taken;
            part.len -= taken;
            self.took(taken);
        }
    }

    fn room(&mut self) -> u64 {
        if self.open == 0 {
            self.open = self.total.min(self.payload_max);
            let (channel, len) = (self.channel, self.open as u32);
            self.out.own(|out| {
                out.push(frame_type::BODY);
                put_u16(out, channel);
                put_u32(out, len);
            });
        }
        self.open
    }

    fn took(&mut self, len: u64) {
        self.open -= len;
        self.total -= len;
        if self.open == 0 {
            self.out.own(|out| out.push(FRAME_END));
        }
    }
}

/// `connection.close`, politely.
pub fn close(out: &mut Vec<u8>, code: u16, text: &str) {
    method(out, 0, id::CONNECTION_CLOSE, |out| {
        put_u16(out, code);
        put_short_str(out, text);
        put_u32(out, 0);
    });
}
