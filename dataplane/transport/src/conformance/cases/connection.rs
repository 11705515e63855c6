//! A lost connection is told in the right order, and everything resumes by itself.

use crate::conformance::script::{Message, ensure_same_messages};
use crate::conformance::{Failure, Harness, Script, Verdict, ensure};
use crate::{Op, Outcome, Settlement, Transport};

const CANNOT_BREAK: Verdict = Verdict::Skipped("connections cannot be broken");

pub(super) fn publishing_before_connecting_is_lost<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(10)?;
    let early = s.unconnected_client();
    let token = s.publish(early, &queue, &Message::small(1));
    let outcome = s.outcome(early, token)?;
    ensure!(outcome == Outcome::Lost, "a publish before the first connection ended as {outcome:?}");
    s.wait("the client to connect", |s| Ok(s.ledger(early).connected))?;
    let message = Message::small(2);
    s.publish_confirmed(publisher, &queue, std::slice::from_ref(&message))?;
    let came = s.drain(consumer, 1)?;
    ensure_same_messages(&came, &[message])?;
    s.finish()
}

pub(super) fn declaring_before_connecting_is_remembered<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let publisher = s.client()?;
    let queue = s.queue("work");
    let early = s.unconnected_client();
    s.submit_declare(early, &queue, 100);
    s.consume(early, &queue, 10);
    s.wait("the client to connect", |s| Ok(s.ledger(early).connected))?;
    s.wait("the declaration to be answered", |s| Ok(!s.ledger(early).declared.is_empty()))?;
    let message = Message::small(1);
    s.publish_confirmed(publisher, &queue, std::slice::from_ref(&message))?;
    let came = s.drain(early, 1)?;
    ensure_same_messages(&came, &[message])?;
    s.finish()
}

/// That no `Lost` comes before the answers is checked by the ledger.
pub(super) fn a_broken_connection_answers_open_publishes_first<H: Harness>(h: &mut H) -> Result<Verdict, Failure> {
    if !h.capabilities().can_break {
        return Ok(CANNOT_BREAK);
    }
    let mut s = Script::new(h);
    let client = s.client()?;
    let queue = s.queue("work");
    s.declare(client, &queue, 100)?;
    let tokens: Vec<_> = (0..50).map(|seed| s.publish(client, &queue, &Message::of(seed, 20_000))).collect();
    s.harness.break_connections();
    s.wait("the loss to be told", |s| Ok(s.ledger(client).losses >= 1))?;
    for token in tokens {
        let outcome = s.outcome(client, token)?;
        ensure!(outcome == Outcome::Lost, "a publish written after its connection broke ended as {outcome:?}");
    }
    s.wait("the connection to come back", |s| Ok(s.ledger(client).connected))?;
    s.publish_confirmed(client, &queue, &Message::some(9, 3))?;
    s.finish()
}

pub(super) fn publishing_while_disconnected_is_lost<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    if !harness.capabilities().can_break {
        return Ok(CANNOT_BREAK);
    }
    let mut s = Script::new(harness);
    let client = s.client()?;
    let queue = s.queue("work");
    s.declare(client, &queue, 100)?;
    s.harness.break_connections();
    let mut token = None;
    s.wait("the loss to be told", |s| {
        let told = s.ledger(client).losses >= 1;
        if told && !s.ledger(client).connected {
            token = Some(s.publish(client, &queue, &Message::small(1)));
        }
        Ok(told)
    })?;
    if let Some(token) = token {
        let outcome = s.outcome(client, token)?;
        ensure!(outcome == Outcome::Lost, "a publish without a connection ended as {outcome:?}");
    }
    s.wait("the connection to come back", |s| Ok(s.ledger(client).connected))?;
    s.publish_confirmed(client, &queue, &[Message::small(2)])?;
    s.wait_depth(client, &queue, 1, 0)?;
    s.finish()
}

pub(super) fn unsettled_come_back_after_a_broken_connection<H: Harness>(h: &mut H) -> Result<Verdict, Failure> {
    if !h.capabilities().can_break {
        return Ok(CANNOT_BREAK);
    }
    let mut s = Script::new(h);
    let (consumer, publisher, queue) = s.pair(10)?;
    let messages: Vec<_> = (0..12).map(|seed| Message::of(seed, 100_000)).collect();
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 10)?;
    s.harness.break_connections();
    s.wait("the connection to be lost and to come back", |s| {
        Ok(s.ledger(consumer).losses >= 1 && s.ledger(consumer).connected)
    })?;
    s.hold(consumer, 10)?;
    let redelivered = s.ledger(consumer).held.iter().filter(|held| held.redelivery.redelivered).count();
    ensure!(redelivered >= 8, "only {redelivered} of 10 say that they were delivered before");
    let came = s.drain(consumer, 12)?;
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

pub(super) fn a_void_tag_settles_nothing<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    if !harness.capabilities().can_break {
        return Ok(CANNOT_BREAK);
    }
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(5)?;
    let messages = Message::some(1, 5);
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 5)?;
    s.harness.break_connections();
    s.wait("the connection to be lost", |s| Ok(s.ledger(consumer).losses >= 1))?;
    settle_void(&mut s, consumer);
    s.wait("the connection to come back", |s| Ok(s.ledger(consumer).connected))?;
    s.hold(consumer, 5)?;
    settle_void(&mut s, consumer);
    s.quiet()?;
    // Had a void tag settled anything, a crash would bring back fewer.
    s.crash_last();
    let again = s.client()?;
    s.consume(again, &queue, 10);
    let came = s.drain(again, 5)?;
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

fn settle_void<H: Harness>(s: &mut Script<'_, H>, consumer: usize) {
    let void: Vec<_> = s.ledger(consumer).void.iter().map(|held| held.tag).collect();
    for tag in void {
        s.clients[consumer].transport.submit(Op::Settle { tag, how: Settlement::Ack });
    }
}

pub(super) fn consuming_resumes_after_a_broken_connection<H: Harness>(h: &mut H) -> Result<Verdict, Failure> {
    if !h.capabilities().can_break {
        return Ok(CANNOT_BREAK);
    }
    let mut s = Script::new(h);
    let (consumer, publisher, queue) = s.pair(3)?;
    for round in 0..3 {
        let losses = s.ledger(consumer).losses;
        let messages = Message::some(round, 6);
        s.wait("the publisher to be connected", |s| Ok(s.ledger(publisher).connected))?;
        s.publish_confirmed(publisher, &queue, &messages)?;
        let came = s.drain(consumer, 6)?;
        ensure_same_messages(&came, &messages)?;
        s.wait_depth(publisher, &queue, 0, 0)?;
        s.harness.break_connections();
        s.wait("both connections to be lost and to come back", |s| {
            let back = |client: usize| s.ledger(client).losses > losses && s.ledger(client).connected;
            Ok(back(consumer) && back(publisher))
        })?;
    }
    s.finish()
}

pub(super) fn a_canceled_consumer_stays_canceled_after_a_broken_connection<H: Harness>(
    harness: &mut H,
) -> Result<Verdict, Failure> {
    if !harness.capabilities().can_break {
        return Ok(CANNOT_BREAK);
    }
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(2)?;
    s.clients[consumer].transport.submit(Op::Cancel);
    s.wait("the cancel to be answered", |s| Ok(s.ledger(consumer).cancels == 1))?;
    s.harness.break_connections();
    s.wait("both connections to be lost and to come back", |s| {
        let back = |client: usize| s.ledger(client).losses >= 1 && s.ledger(client).connected;
        Ok(back(consumer) && back(publisher))
    })?;
    s.publish_confirmed(publisher, &queue, &Message::some(1, 2))?;
    // A delivery to the canceled consumer fails the case in the ledger.
    s.quiet()?;
    s.consume(consumer, &queue, 2);
    s.drain(consumer, 2)?;
    s.finish()
}
