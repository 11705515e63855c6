//! What was confirmed, and what was acknowledged, outlives the broker's process.

use crate::conformance::script::{Message, ensure_same_messages};
use crate::conformance::{Failure, Harness, Script, Verdict};

const CANNOT_RESTART: Verdict = Verdict::Skipped("the broker cannot be restarted");

pub(super) fn confirmed_survives_the_broker<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    if !harness.capabilities().can_restart {
        return Ok(CANNOT_RESTART);
    }
    let large = harness.capabilities().max_body.min(3 << 20) as usize;
    let mut s = Script::new(harness);
    let publisher = s.client()?;
    let queue = s.queue("work");
    s.declare(publisher, &queue, 100)?;
    let mut messages = Message::some(1, 100);
    messages.push(Message::of(2, large));
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.harness.restart_broker();
    s.wait("the publisher to be back", |s| Ok(s.ledger(publisher).losses >= 1 && s.ledger(publisher).connected))?;
    let consumer = s.client()?;
    s.consume(consumer, &queue, 50);
    let came = s.drain(consumer, messages.len())?;
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

pub(super) fn acknowledged_stays_gone<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    if !harness.capabilities().can_restart {
        return Ok(CANNOT_RESTART);
    }
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(50)?;
    let done = Message::some(1, 30);
    let left = Message::some(2, 10);
    s.publish_confirmed(publisher, &queue, &done)?;
    s.drain(consumer, 30)?;
    s.wait_depth(publisher, &queue, 0, 0)?;
    s.quiet()?;
    s.crash_last();
    s.publish_confirmed(publisher, &queue, &left)?;
    s.harness.restart_broker();
    s.wait("the publisher to be back", |s| Ok(s.ledger(publisher).losses >= 1 && s.ledger(publisher).connected))?;
    let again = s.client()?;
    s.consume(again, &queue, 50);
    let came = s.drain(again, 10)?;
    ensure_same_messages(&came, &left)?;
    s.finish()
}
