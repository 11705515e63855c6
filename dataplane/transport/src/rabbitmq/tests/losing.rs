//! Losing connections: what is said, in which order, and how it goes on.

use std::time::Duration;

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, channel};

use super::client::Client;
use super::server::{Manners, Server, connection_close, deliver, header, written};
use crate::api::{Event, Op, Outcome};
use crate::rabbitmq::handshake::Role;

#[test]
fn a_lost_session_answers_everything_before_it_is_told_and_then_resumes() {
    let server = Server::new(Manners { answer_cancel: false, ..Manners::default() });
    let mut client = Client::new(server.config());
    client.consume(3);
    assert_eq!(client.next(), Event::Connected { epoch: 1 });
    client.publish(1, b"open");
    client.submit(Op::Cancel);
    client.consume(4);
    client.flush();
    server.next_publishes(1);
    server.send(Role::Consume, &connection_close(320, "CONNECTION_FORCED - broker forced connection closure"));
    assert_eq!(client.published(), (1, Outcome::Lost));
    assert_eq!(client.next(), Event::Canceled { asked: true });
    let (epoch, why) = client.lost();
    assert_eq!(epoch, 1);
    assert!(why.contains("CONNECTION_FORCED"), "{why}");
    client.publish(2, b"in between");
    assert_eq!(client.published(), (2, Outcome::Lost));
    assert_eq!(client.next(), Event::Connected { epoch: 2 });
    server.deliver(1, b"a");
    assert_eq!(client.delivered().0.tag.epoch, 2);
    client.publish(3, b"after");
    client.flush();
    server.next_publishes(1);
    server.confirm(1, false);
    assert_eq!(client.published(), (3, Outcome::Confirmed));
}

#[test]
fn losing_the_publishing_connection_leaves_the_session() {
    let server = Server::new(Manners::default());
    let mut client = Client::new(server.config());
    client.consume(3);
    assert_eq!(client.next(), Event::Connected { epoch: 1 });
    client.publish(1, b"open");
    client.flush();
    server.next_publishes(1);
    client.submit(Op::Depth { queue: "q" });
    server.cut(Role::Publish);
    let mut lost = Vec::new();
    while !lost.contains(&Event::Published { token: crate::api::Token(1), outcome: Outcome::Lost }) {
        lost.push(client.next());
    }
    server.deliver(1, b"a");
    loop {
        match client.next() {
            Event::Delivered(delivery) => break assert_eq!(delivery.tag.epoch, 1),
            other => assert!(matches!(other, Event::Depth { .. } | Event::DeclareFailed { .. }), "{other:?}"),
        }
    }
    client.quiet_until(|| server.accepted() == 3);
}

#[test]
fn a_closed_channel_is_a_lost_session() {
    let server = Server::new(Manners::default());
    let mut client = Client::new(server.config());
    client.consume(3);
    assert_eq!(client.next(), Event::Connected { epoch: 1 });
    server.close_channel(Role::Consume, 406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out");
    let (epoch, why) = client.lost();
    assert_eq!(epoch, 1);
    assert!(why.contains("timed out"), "{why}");
    assert_eq!(client.next(), Event::Connected { epoch: 2 });
}

#[test]
fn a_delivery_that_was_arriving_gives_its_slot_back() {
    let server = Server::new(Manners::default());
    let mut client = Client::new(server.config());
    client.consume(3);
    assert_eq!(client.next(), Event::Connected { epoch: 1 });
    server.send(Role::Consume, &deliver(1, false));
    server.send(Role::Consume, &header(100_000, Default::default()));
    server.send(Role::Consume, &AMQPFrame::Body(1, vec![1; 50_000]));
    while client.memory.slots_out() == 0 {
        client.wait_quietly(Duration::from_millis(5));
    }
    server.cut(Role::Consume);
    assert_eq!(client.lost().0, 1);
    assert_eq!((client.memory.slots_out(), client.memory.misuses()), (0, 0));
}

#[test]
fn broken_protocol_ends_the_connection() {
    let deliver = |number| written(&deliver(number, false));
    let head = |len| written(&header(len, Default::default()));
    let body = |len| written(&AMQPFrame::Body(1, vec![0; len]));
    let elsewhere =
        written(&AMQPFrame::Method(7, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))));
    for (broken, expected) in [
        ([deliver(1), head(3), body(4)].concat(), "a body longer than its header says"),
        ([deliver(1), deliver(2)].concat(), "a method in the middle of a delivery"),
        (head(3), "a content header without a delivery"),
        (body(3), "a body without a header"),
        (elsewhere, "on a channel that is not open"),
        (b"nonsense".to_vec(), "unknown type"),
        (b"AMQP\x00\x00\x09\x01".to_vec(), "does not speak AMQP 0-9-1"),
        (vec![1, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF], "a frame of 4294967295 bytes"),
    ] {
        let server = Server::new(Manners::default());
        let mut client = Client::new(server.config());
        client.consume(3);
        assert_eq!(client.next(), Event::Connected { epoch: 1 });
        server.send_bytes(Role::Consume, &broken);
        let (epoch, why) = client.lost();
        assert_eq!(epoch, 1);
        assert!(why.contains(expected), "{why}");
        assert_eq!(client.memory.slots_out(), 0);
        assert_eq!(client.next(), Event::Connected { epoch: 2 });
    }
}

#[test]
fn silence_is_noticed() {
    let server = Server::new(Manners { heartbeat: 1, ..Manners::default() });
    let mut client = Client::connected(server.config());
    // The server sends no heartbeat at all.
    let (epoch, why) = client.lost();
    assert_eq!(epoch, 1);
    assert!(why.contains("silent"), "{why}");
}

#[test]
fn without_room_heartbeats_go_on_and_silence_is_nobodys_fault() {
    let server = Server::new(Manners { heartbeat: 1, ..Manners::default() });
    let mut client = Client::new(server.config());
    client.consume(3);
    assert_eq!(client.next(), Event::Connected { epoch: 1 });
    client.memory.set_budget(0);
    server.deliver(1, b"no room for this");
    let mut beats = 0;
    let start = std::time::Instant::now();
    // Twice the time after which silence would be noticed.
    while beats < 8 {
        assert!(start.elapsed() < Duration::from_secs(30));
        server.send(Role::Publish, &AMQPFrame::Heartbeat);
        client.wait_quietly(Duration::from_millis(100));
        while let Some((role, frame)) = server.try_next() {
            beats += u32::from(role == Role::Consume && frame == AMQPFrame::Heartbeat);
        }
    }
    client.memory.set_budget(1000);
    assert_eq!(client.delivered().1, b"no room for this");
}
