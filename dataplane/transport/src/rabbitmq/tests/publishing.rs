//! Confirms, returns and refusals.

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, connection};

use super::client::Client;
use super::server::{Manners, Server};
use crate::api::{Event, Outcome, Transport};
use crate::rabbitmq::handshake::Role;

fn refused() -> Outcome {
    Outcome::Refused("the queue is full or not available".into())
}

#[test]
fn confirms_come_in_any_order_alone_or_together() {
    let server = Server::new(Manners::default());
    let mut client = Client::connected(server.config());
    (1..=7).for_each(|token| client.publish(token * 10, b"body"));
    client.flush();
    let sequences: Vec<_> = server.next_publishes(7).into_iter().map(|(_, sequence, _)| sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6, 7]);
    server.confirm(3, false);
    assert_eq!(client.published(), (30, Outcome::Confirmed));
    server.confirm(4, true);
    assert_eq!(client.published(), (10, Outcome::Confirmed));
    assert_eq!(client.published(), (20, Outcome::Confirmed));
    assert_eq!(client.published(), (40, Outcome::Confirmed));
    server.refuse(7, false);
    assert_eq!(client.published(), (70, refused()));
    server.refuse(6, true);
    assert_eq!(client.published(), (50, refused()));
    assert_eq!(client.published(), (60, refused()));
    // Confirming once more, or what never was, answers nothing.
    server.confirm(7, false);
    server.confirm(99, true);
    client.publish(80, b"");
    client.flush();
    server.next_publishes(1);
    server.confirm(0, true);
    assert_eq!(client.published(), (80, Outcome::Confirmed));
}

#[test]
fn a_return_belongs_to_the_publish_that_it_numbers() {
    let server = Server::new(Manners::default());
    let mut client = Client::connected(server.config());
    (1..=4).for_each(|token| client.publish(token, b"body"));
    client.flush();
    server.next_publishes(4);
    server.give_back(3, &[7; 5000]);
    server.give_back(99, b"of nobody");
    server.give_back(2, b"");
    server.confirm(2, true);
    assert_eq!(client.published(), (1, Outcome::Confirmed));
    assert_eq!(client.published(), (2, Outcome::Unroutable));
    server.confirm(4, false);
    server.confirm(3, false);
    assert_eq!(client.published(), (4, Outcome::Confirmed));
    assert_eq!(client.published(), (3, Outcome::Unroutable));
}

#[test]
fn bodies_are_cut_to_the_frame_size_that_was_agreed_on() {
    for (version, proposed, wished, payload) in [
        ("3.10.8", 4096, 131_072, 4088),
        ("3.10.8", 131_072, 8192, 8184),
        ("3.10.8", 0, 5000, 4992),
        ("4.3.0", 131_072, 5000, 8184),
    ] {
        let server = Server::new(Manners { version, frame_max: proposed, ..Manners::default() });
        let mut config = server.config();
        config.frame_max = wished;
        let mut client = Client::connected(config);
        client.publish(1, &vec![1; 2 * payload + 1]);
        client.publish(2, &vec![1; payload]);
        client.publish(3, b"");
        client.flush();
        let lengths: Vec<_> = server.next_publishes(3).into_iter().map(|(_, _, lengths)| lengths).collect();
        assert_eq!(lengths, [vec![payload, payload, 1], vec![payload], vec![]]);
    }
}

#[test]
fn a_limit_is_learnt_from_a_refusal() {
    let server = Server::new(Manners::default());
    let mut client = Client::connected(server.config());
    assert_eq!(client.transport.limits().max_message_bytes, None);
    client.publish(1, &[1; 100]);
    client.publish(2, &[1; 2000]);
    client.flush();
    server.next_publishes(2);
    let text = "PRECONDITION_FAILED - message size 2000 is larger than configured max size 1000";
    server.close_channel(Role::Publish, 406, text);
    assert_eq!(client.published(), (1, Outcome::Lost));
    assert_eq!(client.published(), (2, Outcome::TooLarge(1000)));
    assert_eq!(client.transport.limits().max_message_bytes, Some(1000));
    client.publish(3, &[1; 1001]);
    assert_eq!(client.published(), (3, Outcome::TooLarge(1000)));
    // The publishing connection comes back by itself, and without a word.
    client.quiet_until(|| server.accepted() == 3);
    loop {
        client.publish(4, &[1; 1000]);
        client.flush();
        match client.published_or_confirmed(&server) {
            Outcome::Lost => client.wait_quietly(std::time::Duration::from_millis(5)),
            outcome => break assert_eq!(outcome, Outcome::Confirmed),
        }
    }
}

#[test]
fn blocking_is_told_and_ends_with_its_connection() {
    let server = Server::new(Manners::default());
    let mut client = Client::connected(server.config());
    let method = |method| AMQPFrame::Method(0, AMQPClass::Connection(method));
    let blocked = method(connection::AMQPMethod::Blocked(connection::Blocked { reason: "low on memory".into() }));
    let unblocked = method(connection::AMQPMethod::Unblocked(connection::Unblocked {}));
    server.send(Role::Publish, &blocked);
    assert_eq!(client.next(), Event::Blocked(true));
    server.send(Role::Publish, &unblocked);
    assert_eq!(client.next(), Event::Blocked(false));
    server.send(Role::Publish, &blocked);
    assert_eq!(client.next(), Event::Blocked(true));
    server.cut(Role::Publish);
    assert_eq!(client.next(), Event::Blocked(false));
}
