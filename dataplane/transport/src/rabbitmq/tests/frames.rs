//! Any frames in any order, straight into the two state machines: they may refuse, and must not lose count.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::amqp::content::ContentHeader;
use crate::amqp::frame::Frame;
use crate::amqp::method::{Close, Method};
use crate::amqp::outbox::Outbox;
use crate::api::{Body, ContentType, Event, Memory, Publish, Settlement, Token};
use crate::conformance::HeapMemory;
use crate::rabbitmq::consumer::{Consumer, Wanted};
use crate::rabbitmq::ladder::{Ladder, RUNGS, Rung};
use crate::rabbitmq::link::Frames;
use crate::rabbitmq::publisher::Publisher;
use crate::rabbitmq::topology::{Job, Spec, Topology};
use crate::rabbitmq::version::Version;

const BODY: [u8; 64] = [9; 64];

fn method() -> impl Strategy<Value = Method<'static>> {
    prop_oneof![
        4 => (1..40_u64, any::<bool>())
            .prop_map(|(delivery_tag, redelivered)| Method::Deliver { delivery_tag, redelivered }),
        2 => (0..40_u64, any::<bool>()).prop_map(|(delivery_tag, multiple)| Method::Ack { delivery_tag, multiple }),
        1 => (0..40_u64, any::<bool>()).prop_map(|(delivery_tag, multiple)| Method::Nack { delivery_tag, multiple }),
        1 => Just(Method::Return { code: 312, text: b"NO_ROUTE" }),
        2 => Just(Method::ConsumeOk { consumer_tag: b"asya-1" }),
        1 => Just(Method::QosOk),
        1 => any::<bool>().prop_map(|nowait| Method::Cancel { consumer_tag: b"asya-1", nowait }),
        2 => Just(Method::CancelOk { consumer_tag: b"asya-1" }),
        1 => any::<bool>().prop_map(|active| Method::ChannelFlow { active }),
        1 => Just(Method::QueueDeclareOk { queue: b"q", messages: 3, consumers: 0 }),
        1 => Just(Method::QueueBindOk),
        1 => Just(Method::ChannelOpenOk),
        1 => prop_oneof![Just(404), Just(406), Just(403)]
            .prop_map(|code| Method::ChannelClose(Close { code, text: b"no" })),
        1 => Just(Method::ConnectionBlocked { reason: b"memory" }),
        1 => Just(Method::ConnectionUnblocked),
        1 => Just(Method::Other { id: 1 }),
    ]
}

fn frame() -> impl Strategy<Value = Frame<'static>> {
    let channel = || prop_oneof![1 => Just(0), 8 => Just(1), 2 => Just(2)];
    prop_oneof![
        6 => (channel(), method()).prop_map(|(channel, method)| Frame::Method { channel, method }),
        4 => (channel(), 0..100_u64).prop_map(|(channel, body_len)| {
            Frame::Header { channel, header: ContentHeader { body_len, ..ContentHeader::default() } }
        }),
        4 => (channel(), 1..64_usize).prop_map(|(channel, len)| Frame::Body { channel, bytes: &BODY[..len] }),
        1 => Just(Frame::Heartbeat),
    ]
}

/// Something that happens to a consumer.
#[derive(Clone, Debug)]
enum Act {
    Frame(Frame<'static>),
    /// A delivery as a broker sends it: announced, then its header, then its body in two pieces.
    Delivery(u64),
    Want(u16),
    Cancel,
    Settle(u64, Settlement),
    Room(u64),
    Flush,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => frame().prop_map(Act::Frame),
        6 => (0..64_u64).prop_map(Act::Delivery),
        1 => (1..5_u16).prop_map(Act::Want),
        1 => Just(Act::Cancel),
        3 => (1..40_u64, prop_oneof![Just(Settlement::Ack), Just(Settlement::Requeue), Just(Settlement::Reject)])
            .prop_map(|(number, how)| Act::Settle(number, how)),
        1 => (0..200_u64).prop_map(Act::Room),
        1 => Just(Act::Flush),
    ]
}

/// The frames of one act.
fn frames(act: &Act, next: &mut u64) -> Vec<Frame<'static>> {
    match *act {
        Act::Frame(frame) => vec![frame],
        Act::Delivery(len) => {
            *next += 1;
            let method = Method::Deliver { delivery_tag: *next, redelivered: false };
            let header = ContentHeader { body_len: len, ..ContentHeader::default() };
            let half = len as usize / 2;
            let bodies = [&BODY[..half], &BODY[half..len as usize]].into_iter().filter(|bytes| !bytes.is_empty());
            [Frame::Method { channel: 1, method }, Frame::Header { channel: 1, header }]
                .into_iter()
                .chain(bodies.map(|bytes| Frame::Body { channel: 1, bytes }))
                .collect()
        }
        _ => Vec::new(),
    }
}

proptest! {
    #[test]
    fn a_consumer_never_loses_count(acts in vec(act(), 1..80)) {
        let mut memory = HeapMemory::new(150, 80);
        let mut out = Outbox::default();
        let mut events = Vec::new();
        let mut consumer =
            Consumer::new(1, Version::parse(b"4.3.0"), Some(Wanted { queue: "q".into(), window: 3 }));
        consumer.allow_begin(&mut out, &mut events);
        let mut waiting = Vec::new();
        let (mut next, mut cancels) = (0, 0);
        'acts: for act in acts {
            waiting.extend(frames(&act, &mut next));
            match act {
                Act::Want(window) => consumer.want(Wanted { queue: "q".into(), window }, None, &mut out),
                Act::Cancel => {
                    cancels += 1;
                    consumer.cancel(&mut out, &mut events);
                }
                Act::Settle(number, how) => consumer.settle(number, how, &mut out),
                Act::Room(budget) => memory.set_budget(budget),
                Act::Flush => consumer.write_settlements(&mut out),
                Act::Frame(_) | Act::Delivery(_) => {}
            }
            consumer.resume(&mut memory, &mut out, &mut events);
            while !consumer.paused() && !waiting.is_empty() {
                if consumer.frame(waiting.remove(0), &mut out, &mut memory, &mut events).is_err() {
                    break 'acts;
                }
            }
        }
        let mut told = BTreeSet::new();
        for event in &events {
            match event {
                Event::Delivered(delivery) => {
                    prop_assert!(told.insert(delivery.tag.number) || delivery.tag.number <= 40, "delivered twice");
                    prop_assert_eq!(memory.slot(delivery.slot).map(<[u8]>::len), Some(delivery.len as usize));
                    memory.release(delivery.slot);
                }
                Event::Canceled { asked: true } => cancels -= 1,
                _ => {}
            }
        }
        // Everything else is given back, and every cancel answered once.
        let mut last = Vec::new();
        consumer.end(&mut memory, &mut last);
        cancels -= last.len() as i32;
        prop_assert_eq!((memory.slots_out(), memory.misuses(), cancels), (0, 0, 0));
    }

    #[test]
    fn a_publishing_connection_never_loses_count(
        frames in vec(frame(), 1..80),
        jobs in 0..6_usize,
        publishes in vec((any::<bool>(), 0..3_usize, 0..3_u8), 0..20),
    ) {
        let mut memory = HeapMemory::new(0, 0);
        let mut out = Outbox::default();
        let mut events = Vec::new();
        let topology = Topology::new(Version::parse(b"4.3.0"), None);
        let mut publisher = Publisher::new(4096, topology, Ladder::new("asya-".into()));
        let spec = |number: usize| Spec {
            queue: format!("q{number}"),
            dead_letter: number.is_multiple_of(2).then(|| "dead".to_owned()),
            delivery_limit: 100,
            consumer_timeout_ms: None,
        };
        for number in 0..jobs {
            publisher.topology.add(Job::Declare { spec: spec(number), answer: true }, &mut out);
            publisher.topology.add(Job::Depth { queue: format!("q{number}") }, &mut out);
        }
        for (token, (delayed, rung, queue)) in publishes.iter().enumerate() {
            let rung = delayed.then(|| Rung::of(RUNGS[*rung])).flatten();
            let queue = format!("to-{queue}");
            let body = Body { prefix: b"a", parts: &[], suffix: b"b" };
            let (token, content_type) = (Token(token as u64), ContentType::Json);
            let message = Publish { token, queue: &queue, content_type, message_id: "", body, delay: None };
            publisher.publish(&message, rung, &mut out);
        }
        for frame in frames {
            if publisher.frame(frame, &mut out, &mut memory, &mut events).is_err() {
                break;
            }
        }
        let answers = |event: &&Event| {
            matches!(event, Event::Declared { .. } | Event::DeclareFailed { .. } | Event::Depth { .. })
        };
        let answered = events.iter().filter(answers).count();
        let asked = |job: &Job| matches!(job, Job::Declare { .. } | Job::Depth { .. });
        let unfinished = publisher.end(None, &mut events).into_unfinished().filter(asked).count();
        prop_assert_eq!(answered + unfinished, 2 * jobs);
        let mut published: Vec<_> = events
            .iter()
            .filter_map(|event| if let Event::Published { token, .. } = event { Some(token.0) } else { None })
            .collect();
        published.sort_unstable();
        prop_assert_eq!(published, (0..publishes.len() as u64).collect::<Vec<_>>());
    }
}
