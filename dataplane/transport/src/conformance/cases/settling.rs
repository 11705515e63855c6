//! A settlement does what it says to the delivery that it names, and to no other.

use std::time::Duration;

use crate::conformance::script::{Message, dead_letter, ensure_first_time, ensure_same_messages};
use crate::conformance::{Failure, Harness, Script, Verdict, ensure};
use crate::{Op, Settlement, Transport};

pub(super) fn ack_removes<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (_, publisher, queue) = s.pair(10)?;
    s.crash_last();
    let consumer = s.client()?;
    s.consume(consumer, &queue, 10);
    s.publish_confirmed(publisher, &queue, &Message::some(1, 10))?;
    s.drain(consumer, 10)?;
    s.wait_depth(publisher, &queue, 0, 0)?;
    s.quiet()?;
    s.crash_last();
    let again = s.client()?;
    s.consume(again, &queue, 10);
    s.quiet()?;
    ensure!(s.ledger(again).held.is_empty(), "an acknowledged message came again");
    s.finish()
}

pub(super) fn settling_out_of_order_settles_the_right_ones<H: Harness>(h: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(h);
    let (consumer, publisher, queue) = s.pair(30)?;
    let messages = Message::some(1, 30);
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 30)?;
    let tags: Vec<_> = s.ledger(consumer).held.iter().map(|held| held.tag).collect();
    // A scattered prefix and suffix, so that no run of tags can be settled as one.
    for at in [29, 3, 0, 1, 2, 17, 16, 9, 25] {
        s.settle(consumer, tags[at], Settlement::Ack)?;
    }
    s.wait_depth(publisher, &queue, 0, 21)?;
    s.quiet()?;
    let left: Vec<Vec<u8>> = s.ledger(consumer).held.iter().map(|held| held.body.clone()).collect();
    s.crash_last();
    let again = s.client()?;
    s.consume(again, &queue, 100);
    s.hold(again, 21)?;
    s.quiet()?;
    let mut came: Vec<_> = s.settle_all(again, Settlement::Ack)?.into_iter().map(|held| held.body).collect();
    let mut left = left;
    came.sort();
    left.sort();
    ensure!(came == left, "the {} that came again are not the 21 that were unsettled", came.len());
    s.finish()
}

pub(super) fn requeue_brings_it_back_redelivered<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(1)?;
    let message = Message::small(1);
    s.publish_confirmed(publisher, &queue, std::slice::from_ref(&message))?;
    s.hold(consumer, 1)?;
    ensure_first_time(s.ledger(consumer).held[0].redelivery)?;
    let first = s.settle_all(consumer, Settlement::Requeue)?;
    s.hold(consumer, 1)?;
    let again = s.settle_all(consumer, Settlement::Ack)?;
    ensure_same_messages(&again, &[message])?;
    ensure!(again[0].redelivery.redelivered, "a requeued message does not say that it was delivered before");
    let lost = again[0].redelivery.lost;
    ensure!(lost.is_none_or(|lost| lost == 0), "a requeue was charged as {lost:?} losses");
    ensure!(again[0].tag != first[0].tag, "a tag was used twice");
    s.wait_depth(publisher, &queue, 0, 0)?;
    s.finish()
}

pub(super) fn reject_dead_letters<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(10)?;
    let messages = Message::some(1, 6);
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 6)?;
    let tags: Vec<_> = s.ledger(consumer).held.iter().map(|held| held.tag).collect();
    let mut rejected = Vec::new();
    for (at, tag) in tags.into_iter().enumerate() {
        let held = s.settle(consumer, tag, if at % 2 == 0 { Settlement::Reject } else { Settlement::Ack })?;
        rejected.extend((at % 2 == 0).then_some(held.body));
    }
    let reader = s.client()?;
    s.consume(reader, &dead_letter(&queue), 10);
    let dead = s.drain(reader, 3)?;
    let rejected: Vec<_> = messages.into_iter().filter(|message| rejected.contains(&message.body())).collect();
    ensure_same_messages(&dead, &rejected)?;
    s.wait_depth(publisher, &queue, 0, 0)?;
    s.finish()
}

pub(super) fn extending_keeps_the_delivery<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(2)?;
    let messages = Message::some(1, 1);
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 1)?;
    let tag = s.ledger(consumer).held[0].tag;
    s.clients[consumer].transport.submit(Op::Extend { tag, by: Duration::from_secs(60) });
    s.quiet()?;
    ensure!(s.ledger(consumer).held.len() == 1, "an extended delivery came twice");
    s.settle_all(consumer, Settlement::Ack)?;
    s.wait_depth(publisher, &queue, 0, 0)?;
    s.finish()
}

pub(super) fn unsettled_come_back_after_a_crash<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(5)?;
    let messages = Message::some(1, 8);
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 5)?;
    s.crash_last();
    let again = s.client()?;
    s.consume(again, &queue, 20);
    s.hold(again, 8)?;
    s.quiet()?;
    let came = s.settle_all(again, Settlement::Ack)?;
    ensure_same_messages(&came, &messages)?;
    let redelivered = came.iter().filter(|held| held.redelivery.redelivered).count();
    ensure!(redelivered >= 5, "{redelivered} of 5 lost deliveries say that they were delivered before");
    s.finish()
}

pub(super) fn losses_are_counted<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    if !harness.capabilities().counts_lost {
        return Ok(Verdict::Skipped("losses are not counted"));
    }
    let mut s = Script::new(harness);
    let publisher = s.client()?;
    let queue = s.queue("work");
    s.declare(publisher, &queue, 100)?;
    s.publish_confirmed(publisher, &queue, &[Message::small(1)])?;
    for round in 0..4 {
        let consumer = s.client()?;
        s.consume(consumer, &queue, 1);
        s.hold(consumer, 1)?;
        let lost = s.ledger(consumer).held[0].redelivery.lost;
        ensure!(lost == Some(round), "after {round} losses {lost:?} are told");
        s.crash_last();
    }
    s.finish()
}

/// Delivery limit of the queue in the case below.
const LIMIT: u32 = 3;

/// Deliveries after which the message must be dead-lettered: brokers differ by one or two in what they count.
const DELIVERIES_MAX: u32 = LIMIT + 3;

pub(super) fn the_delivery_limit_dead_letters<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let capabilities = harness.capabilities();
    if !capabilities.limit_counts_lost && !capabilities.limit_counts_requeues {
        return Ok(Verdict::Skipped("the broker counts nothing towards a delivery limit"));
    }
    let mut s = Script::new(harness);
    let publisher = s.client()?;
    let queue = s.queue("work");
    s.declare(publisher, &queue, LIMIT)?;
    let reader = s.client()?;
    s.consume(reader, &dead_letter(&queue), 10);
    let message = Message::small(1);
    s.publish_confirmed(publisher, &queue, std::slice::from_ref(&message))?;
    let mut deliveries = 0;
    loop {
        let consumer = s.client()?;
        s.consume(consumer, &queue, 1);
        s.wait("a delivery or its end", |s| {
            Ok(!s.ledger(consumer).held.is_empty() || !s.ledger(reader).held.is_empty())
        })?;
        if !s.ledger(reader).held.is_empty() {
            break;
        }
        deliveries += 1;
        ensure!(deliveries <= DELIVERIES_MAX, "delivered {deliveries} times with a limit of {LIMIT}");
        if !capabilities.limit_counts_lost {
            s.settle_all(consumer, Settlement::Requeue)?;
            s.quiet()?;
        }
        s.crash_last();
    }
    ensure!(deliveries >= LIMIT, "dead-lettered after {deliveries} deliveries with a limit of {LIMIT}");
    let dead = s.settle_all(reader, Settlement::Ack)?;
    ensure_same_messages(&dead, &[message])?;
    s.wait_depth(publisher, &queue, 0, 0)?;
    s.finish()
}
