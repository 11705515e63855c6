//! Deliveries, settlements, and the life of a consumer.

use std::sync::Arc;

use amq_protocol::protocol::basic;
use amq_protocol::types::{AMQPValue, FieldTable};

use super::client::Client;
use super::server::{Manners, Server, deliver, header};
use crate::api::{Event, Op, Redelivery, Settlement, Tag};
use crate::rabbitmq::handshake::Role;

fn running(server: &Server, window: u32) -> Client {
    let mut client = Client::new(server.config());
    client.consume(window);
    assert_eq!(client.next(), Event::Connected { epoch: 1 });
    assert!(matches!(server.next_basic(), basic::AMQPMethod::Qos(qos) if u32::from(qos.prefetch_count) == window));
    assert!(matches!(server.next_basic(), basic::AMQPMethod::Consume(c) if c.consumer_tag.as_str() == "asya-1"));
    client
}

fn settle(client: &mut Client, number: u64, how: Settlement) {
    client.submit(Op::Settle { tag: Tag { epoch: 1, number }, how });
}

fn ack(number: u64, multiple: bool) -> basic::AMQPMethod {
    basic::AMQPMethod::Ack(basic::Ack { delivery_tag: number, multiple })
}

#[test]
fn one_ack_covers_what_its_order_allows() {
    let server = Server::new(Manners::default());
    let mut client = running(&server, 100);
    for number in 1..=10 {
        server.deliver(number, &[number as u8]);
        assert_eq!(client.delivered().1, [number as u8]);
    }
    [2, 1, 3, 5, 7].into_iter().for_each(|number| settle(&mut client, number, Settlement::Ack));
    client.flush();
    assert_eq!(server.next_basic(), ack(3, true));
    assert_eq!(server.next_basic(), ack(5, false));
    assert_eq!(server.next_basic(), ack(7, false));
    // What goes back is written first, for an ack may cover it; twice is once; a tag of another epoch is void.
    settle(&mut client, 6, Settlement::Ack);
    settle(&mut client, 4, Settlement::Requeue);
    settle(&mut client, 4, Settlement::Ack);
    settle(&mut client, 3, Settlement::Ack);
    client.submit(Op::Settle { tag: Tag { epoch: 2, number: 8 }, how: Settlement::Ack });
    client.flush();
    let nack = basic::Nack { delivery_tag: 4, multiple: false, requeue: true };
    assert_eq!(server.next_basic(), basic::AMQPMethod::Nack(nack));
    assert_eq!(server.next_basic(), ack(6, false));
    settle(&mut client, 8, Settlement::Reject);
    settle(&mut client, 10, Settlement::Ack);
    settle(&mut client, 9, Settlement::Ack);
    client.flush();
    let reject = basic::Reject { delivery_tag: 8, requeue: false };
    assert_eq!(server.next_basic(), basic::AMQPMethod::Reject(reject));
    assert_eq!(server.next_basic(), ack(10, true));
}

#[test]
fn a_new_window_is_a_new_consumer_and_what_is_held_stays_held() {
    let server = Server::new(Manners { answer_cancel: false, ..Manners::default() });
    let mut client = running(&server, 1);
    server.deliver(1, b"a");
    client.delivered();
    client.consume(8);
    client.flush();
    let basic::AMQPMethod::Cancel(cancel) = server.next_basic() else { panic!() };
    assert_eq!(cancel.consumer_tag.as_str(), "asya-1");
    // What the broker had sent before it saw the cancel is as good as any other.
    server.deliver(2, b"b");
    client.delivered();
    let cancel_ok = basic::CancelOk { consumer_tag: "asya-1".into() };
    server.send_basic(Role::Consume, basic::AMQPMethod::CancelOk(cancel_ok));
    settle(&mut client, 1, Settlement::Ack);
    client.flush();
    assert_eq!(server.next_basic(), ack(1, false));
    client.wait_quietly(std::time::Duration::from_millis(5));
    server.deliver(3, b"c");
    client.delivered();
    assert!(matches!(server.next_basic(), basic::AMQPMethod::Qos(qos) if qos.prefetch_count == 8));
    assert!(matches!(server.next_basic(), basic::AMQPMethod::Consume(c) if c.consumer_tag.as_str() == "asya-2"));
    settle(&mut client, 2, Settlement::Ack);
    client.flush();
    assert_eq!(server.next_basic(), ack(2, false));
}

#[test]
fn a_cancel_is_answered_once_whatever_the_consumer_is_doing() {
    let server = Server::new(Manners::default());
    let mut client = Client::new(server.config());
    client.submit(Op::Cancel);
    assert_eq!(client.next(), Event::Canceled { asked: true });
    assert_eq!(client.next(), Event::Connected { epoch: 1 });
    client.submit(Op::Cancel);
    assert_eq!(client.next(), Event::Canceled { asked: true });
    client.consume(5);
    client.submit(Op::Cancel);
    assert_eq!(client.next(), Event::Canceled { asked: true });
    client.consume(5);
    client.consume(6);
    client.submit(Op::Cancel);
    client.consume(7);
    assert_eq!(client.next(), Event::Canceled { asked: true });
    server.deliver(1, b"a");
    client.delivered();
}

#[test]
fn without_room_nothing_is_read_and_a_cancel_still_ends() {
    let server = Server::new(Manners { answer_cancel: false, ..Manners::default() });
    let mut client = running(&server, 10);
    client.memory.set_budget(10);
    server.deliver(1, &[1; 10]);
    let (first, _) = client.delivered();
    server.deliver(2, &[2; 10]);
    server.deliver(3, &[3; 9]);
    let refused = client.memory.refused();
    client.wait_quietly(std::time::Duration::from_millis(5));
    assert!(client.memory.refused() > refused || client.memory.refused() > 0);
    client.submit(Op::Cancel);
    client.flush();
    assert!(matches!(server.next_basic(), basic::AMQPMethod::Cancel(_)));
    let cancel_ok = basic::CancelOk { consumer_tag: "asya-1".into() };
    server.send_basic(Role::Consume, basic::AMQPMethod::CancelOk(cancel_ok));
    // What found no room goes back to the queue, uncharged, and was never seen.
    assert_eq!(client.next(), Event::Canceled { asked: true });
    for number in [2, 3] {
        let nack = basic::Nack { delivery_tag: number, multiple: false, requeue: true };
        assert_eq!(server.next_basic(), basic::AMQPMethod::Nack(nack));
    }
    settle(&mut client, first.tag.number, Settlement::Ack);
    client.flush();
    assert_eq!(server.next_basic(), ack(1, false));
}

#[test]
fn a_body_beyond_the_largest_is_skipped_without_touching_memory() {
    let server = Server::new(Manners::default());
    let mut client = running(&server, 10);
    server.send(Role::Consume, &deliver(1, false));
    let len = (32 << 20) + 1;
    server.send(Role::Consume, &header(len, FieldTable::default()));
    assert_eq!(client.next(), Event::Oversize { tag: Tag { epoch: 1, number: 1 }, len });
    assert_eq!(client.memory.slots_out(), 0);
    let piece = vec![7; 100_000];
    for start in (0..len).step_by(piece.len()) {
        let piece = &piece[..piece.len().min((len - start) as usize)];
        server.send(Role::Consume, &amq_protocol::frame::AMQPFrame::Body(1, piece.to_vec()));
        client.wait_quietly(std::time::Duration::from_millis(5));
    }
    server.deliver(2, b"small");
    assert_eq!(client.delivered().1, b"small");
    settle(&mut client, 1, Settlement::Reject);
    client.flush();
    assert!(matches!(server.next_basic(), basic::AMQPMethod::Reject(_)));
}

#[test]
fn a_taken_consumer_declares_and_consumes_again() {
    let server = Server::new(Manners::default());
    let mut client = running(&server, 3);
    client.declare("q", None);
    assert!(matches!(client.next(), Event::Declared { .. }));
    let cancel = basic::Cancel { consumer_tag: "asya-1".into(), nowait: true };
    server.send_basic(Role::Consume, basic::AMQPMethod::Cancel(cancel));
    assert_eq!(client.next(), Event::Canceled { asked: false });
    let declares = Arc::new(std::sync::Mutex::new(0));
    let count = Arc::clone(&declares);
    server.set_manners(|manners| {
        manners.declare = Arc::new(move |_| {
            *count.lock().unwrap() += 1;
            Ok(0)
        });
    });
    client.quiet_until(|| *declares.lock().unwrap() == 2);
    server.deliver(1, b"after");
    client.delivered();
    loop {
        match server.next_basic() {
            basic::AMQPMethod::Consume(consume) => break assert_eq!(consume.consumer_tag.as_str(), "asya-2"),
            other => assert!(matches!(other, basic::AMQPMethod::Qos(_)), "{other:?}"),
        }
    }
}

#[test]
fn what_a_broker_counts_depends_on_its_version() {
    let mut counted = FieldTable::default();
    counted.insert("x-delivery-count".into(), AMQPValue::LongLongInt(2));
    for (version, lost) in [("3.10.8", None), ("4.0.5", None), ("4.3.0", Some(2))] {
        let server = Server::new(Manners { version, ..Manners::default() });
        let mut client = running(&server, 10);
        server.deliver(1, b"new");
        let first = Redelivery { redelivered: false, lost: Some(0) };
        assert_eq!(client.delivered().0.redelivery, first, "{version}");
        server.deliver_with(2, b"old", true, counted.clone());
        assert_eq!(client.delivered().0.redelivery, Redelivery { redelivered: true, lost }, "{version}");
        server.deliver_with(3, b"given back", true, FieldTable::default());
        let lost = lost.map(|_| 0);
        assert_eq!(client.delivered().0.redelivery, Redelivery { redelivered: true, lost }, "{version}");
    }
}
