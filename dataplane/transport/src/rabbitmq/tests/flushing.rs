//! When everything that was submitted is with the kernel.

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, connection};

use super::client::Client;
use super::server::{Manners, Server};
use crate::api::{Event, Op, Outcome, Settlement, Tag, Transport};
use crate::rabbitmq::handshake::Role;

#[test]
fn what_is_submitted_is_flushed_once_the_kernel_has_it() {
    let server = Server::new(Manners::default());
    let mut client = Client::connected(server.config());
    client.consume(8);
    assert!(!client.transport.flushed(), "the wish for a consumer waits");
    client.flush();
    assert!(client.transport.flushed());
    client.publish(1, b"body");
    assert!(!client.transport.flushed(), "a publish waits");
    client.flush();
    assert!(client.transport.flushed());
    server.next_publishes(1);
    server.confirm(1, false);
    assert_eq!(client.published(), (1, Outcome::Confirmed));
    server.deliver(1, b"body");
    let (delivery, _) = client.delivered();
    client.submit(Op::Settle { tag: delivery.tag, how: Settlement::Ack });
    assert!(!client.transport.flushed(), "an acknowledgement waits to be put together with others");
    client.flush();
    assert!(client.transport.flushed());
}

#[test]
fn what_is_settled_after_a_cancel_is_flushed_once_the_broker_has_seen_it() {
    let server = Server::new(Manners::default());
    let mut client = Client::connected(server.config());
    client.consume(8);
    client.flush();
    for number in 1..=2 {
        server.deliver(number, b"body");
        client.delivered();
    }
    client.submit(Op::Cancel);
    assert_eq!(client.next(), Event::Canceled { asked: true });
    for (number, how) in [(1, Settlement::Ack), (2, Settlement::Requeue)] {
        client.submit(Op::Settle { tag: Tag { epoch: 1, number }, how });
        assert!(!client.transport.flushed(), "{how:?} waits");
        client.flush();
        assert!(!client.transport.flushed(), "the broker has not said that it saw {how:?}");
        client.quiet_until_flushed();
    }
}

#[test]
fn a_lost_connection_leaves_nothing_to_flush() {
    let server = Server::new(Manners::default());
    let mut client = Client::connected(server.config());
    client.publish(1, b"body");
    server.cut(Role::Consume);
    assert_eq!(client.published(), (1, Outcome::Lost));
    assert_eq!(client.lost().0, 1);
    assert!(client.transport.flushed());
}

#[test]
fn who_leaves_says_so_on_both_connections() {
    let server = Server::new(Manners::default());
    let mut client = Client::connected(server.config());
    client.leave();
    for role in [Role::Publish, Role::Consume] {
        let frame = server.next_of(role);
        let AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close))) = frame else {
            panic!("{frame:?}")
        };
        assert_eq!((close.reply_code, close.class_id, close.method_id), (200, 0, 0));
    }
    assert!(!client.transport.flushed(), "the broker has not answered");
    let close_ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
    for role in [Role::Publish, Role::Consume] {
        server.send(role, &AMQPFrame::Method(0, AMQPClass::Connection(close_ok.clone())));
    }
    client.quiet_until_flushed();
}
