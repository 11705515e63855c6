//! A queue that was asked for is there, with its dead-letter queue, and its depth is true.

use std::time::Duration;

use crate::conformance::script::{Message, WATCHDOG, dead_letter, ensure_same_messages};
use crate::conformance::{Failure, Harness, Script, Verdict, ensure};
use crate::{Op, Outcome, Transport};

pub(super) fn a_declared_queue_is_there<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let client = s.client()?;
    let queue = s.queue("work");
    let differs = s.declare(client, &queue, 100)?;
    ensure!(differs.is_none(), "a new queue differs from what was asked for: {differs:?}");
    s.wait_depth(client, &queue, 0, 0)?;
    s.publish_confirmed(client, &queue, &[Message::small(1)])?;
    s.wait_depth(client, &queue, 1, 0)?;
    s.finish()
}

pub(super) fn a_dead_letter_queue_is_declared_with_its_queue<H: Harness>(h: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(h);
    let client = s.client()?;
    let queue = s.queue("work");
    s.declare(client, &queue, 100)?;
    s.publish_confirmed(client, &dead_letter(&queue), &[Message::small(1)])?;
    s.wait_depth(client, &dead_letter(&queue), 1, 0)?;
    s.finish()
}

pub(super) fn redeclaring_uses_what_is_there<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let first = s.client()?;
    let queue = s.queue("work");
    s.declare(first, &queue, 50)?;
    let messages = Message::some(1, 5);
    s.publish_confirmed(first, &queue, &messages)?;
    let second = s.client()?;
    s.declare(second, &queue, 60)?;
    s.declare(second, &queue, 50)?;
    s.consume(second, &queue, 10);
    let came = s.drain(second, 5)?;
    ensure_same_messages(&came, &messages)?;
    ensure!(s.ledger(second).losses == 0, "declaring what is there cost the connection");
    s.finish()
}

pub(super) fn depth_counts_what_waits_and_what_is_held<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(2)?;
    s.publish_confirmed(publisher, &queue, &Message::some(1, 7))?;
    s.hold(consumer, 2)?;
    s.wait_depth(publisher, &queue, 5, 2)?;
    s.drain(consumer, 7)?;
    s.wait_depth(publisher, &queue, 0, 0)?;
    s.finish()
}

pub(super) fn depth_of_a_missing_queue_fails<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let client = s.client()?;
    let queue = s.queue("nowhere");
    s.clients[client].transport.submit(Op::Depth { queue: &queue });
    s.wait("the depth to be answered", |s| Ok(s.ledger(client).failed.iter().any(|(name, _)| *name == queue)))?;
    ensure!(s.ledger(client).depths.is_empty(), "a queue that is not there has a depth");
    ensure!(s.ledger(client).losses == 0, "asking for a missing queue cost the connection");
    s.finish()
}

pub(super) fn a_deleted_queue_is_declared_and_consumed_again<H: Harness>(h: &mut H) -> Result<Verdict, Failure> {
    if !h.capabilities().can_delete {
        return Ok(Verdict::Skipped("queues cannot be deleted"));
    }
    let mut s = Script::new(h);
    let publisher = s.client()?;
    let queue = s.queue("work");
    let consumer = s.client()?;
    s.declare(consumer, &queue, 100)?;
    s.consume(consumer, &queue, 10);
    s.publish_confirmed(publisher, &queue, &[Message::small(1)])?;
    s.drain(consumer, 1)?;
    s.harness.delete_queue(&queue);
    s.wait("the consumer to be told", |s| Ok(s.ledger(consumer).cancels_unasked == 1))?;
    // Both come back by themselves; until then the queue is not there and a publish says so.
    let message = Message::small(2);
    let deadline = s.harness.now() + WATCHDOG;
    loop {
        let token = s.publish(publisher, &queue, &message);
        if s.outcome(publisher, token)? == Outcome::Confirmed {
            break;
        }
        ensure!(s.harness.now() < deadline, "the queue was not declared again");
        s.look_on(Duration::from_millis(20))?;
    }
    let came = s.drain(consumer, 1)?;
    ensure_same_messages(&came, &[message])?;
    s.finish()
}
