//! No more is delivered than was asked for and than there is room for; nothing gets lost on the way.

use crate::conformance::script::{Message, dead_letter, ensure_same_messages};
use crate::conformance::{Failure, Harness, Script, Verdict, ensure};
use crate::{Op, Settlement, Transport};

pub(super) fn window_is_kept<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(4)?;
    s.publish_confirmed(publisher, &queue, &Message::some(1, 20))?;
    s.hold(consumer, 4)?;
    s.quiet()?;
    ensure!(s.ledger(consumer).held.len() == 4, "a window of 4 holds {}", s.ledger(consumer).held.len());
    let tag = s.ledger(consumer).held[1].tag;
    s.settle(consumer, tag, Settlement::Ack)?;
    s.hold(consumer, 4)?;
    s.quiet()?;
    s.drain(consumer, 19)?;
    s.finish()
}

pub(super) fn window_can_change_while_consuming<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(2)?;
    let messages = Message::some(1, 40);
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 2)?;
    s.consume(consumer, &queue, 6);
    s.hold(consumer, 6)?;
    s.quiet()?;
    s.consume(consumer, &queue, 3);
    s.quiet()?;
    let mut taken = 0;
    // All that came under the larger window goes; from then on the smaller one holds.
    s.wait("the larger window to be settled", |s| {
        let tags: Vec<_> = s.ledger(consumer).held.iter().map(|held| held.tag).collect();
        for tag in tags {
            s.settle(consumer, tag, Settlement::Ack)?;
            taken += 1;
        }
        Ok(taken >= 6)
    })?;
    s.hold(consumer, 3)?;
    s.quiet()?;
    let held = s.ledger(consumer).held.len();
    ensure!(held == 3, "a window of 3 holds {held}");
    let came = s.drain(consumer, messages.len() - taken)?;
    ensure!(came.len() + taken == 40, "messages were lost while the window changed");
    s.finish()
}

pub(super) fn order_is_kept<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    if !harness.capabilities().keeps_order {
        return Ok(Verdict::Skipped("the broker keeps no order"));
    }
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(10)?;
    let messages = Message::some(1, 200);
    s.publish_confirmed(publisher, &queue, &messages)?;
    let came = s.drain(consumer, 200)?;
    for (at, (came, sent)) in came.iter().zip(&messages).enumerate() {
        ensure!(came.body == sent.body(), "message {at} did not come in its order");
    }
    s.finish()
}

pub(super) fn two_consumers_share_a_queue<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (one, publisher, queue) = s.pair(5)?;
    let two = s.client()?;
    s.consume(two, &queue, 5);
    let messages = Message::some(1, 10);
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.wait("both to hold everything together", |s| Ok(s.ledger(one).held.len() + s.ledger(two).held.len() >= 10))?;
    s.quiet()?;
    let mut came = s.settle_all(one, Settlement::Ack)?;
    came.append(&mut s.settle_all(two, Settlement::Ack)?);
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

pub(super) fn cancel_stops_deliveries_and_keeps_what_is_held<H: Harness>(h: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(h);
    let (consumer, publisher, queue) = s.pair(4)?;
    let messages = Message::some(1, 8);
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 4)?;
    cancel(&mut s, consumer)?;
    ensure!(s.ledger(consumer).held.len() == 4, "what was held did not stay held");
    let held: Vec<_> = s.ledger(consumer).held.iter().map(|held| held.body.clone()).collect();
    s.publish_confirmed(publisher, &queue, &Message::some(2, 2))?;
    s.quiet()?;
    let came = s.settle_all(consumer, Settlement::Ack)?;
    ensure!(came.iter().map(|held| &held.body).eq(&held), "what was held did not stay what it was");
    s.quiet()?;
    s.wait_depth(publisher, &queue, 6, 0)?;
    s.finish()
}

pub(super) fn canceled_deliveries_can_be_handed_back<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(4)?;
    let messages = Message::some(1, 6);
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 4)?;
    cancel(&mut s, consumer)?;
    let other = s.client()?;
    s.consume(other, &queue, 10);
    s.hold(other, 2)?;
    s.quiet()?;
    ensure!(s.ledger(other).held.len() == 2, "what is held went to somebody else");
    s.settle_all(consumer, Settlement::Requeue)?;
    s.hold(other, 6)?;
    let came = s.settle_all(other, Settlement::Ack)?;
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

pub(super) fn consuming_can_begin_again_after_cancel<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(3)?;
    let messages = Message::some(1, 9);
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 3)?;
    cancel(&mut s, consumer)?;
    let mut came = s.settle_all(consumer, Settlement::Ack)?;
    s.consume(consumer, &queue, 3);
    came.append(&mut s.drain(consumer, 6)?);
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

/// A drain cancels first and hands back after the answer; were the answer to wait for room, and room for what is
/// handed back, neither would come.
pub(super) fn cancel_is_answered_without_room<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    const LEN: usize = 100_000;
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(6)?;
    s.clients[consumer].memory.set_budget(2 * LEN as u64);
    let messages: Vec<_> = (0..6).map(|seed| Message::of(seed, LEN)).collect();
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 2)?;
    s.quiet()?;
    cancel(&mut s, consumer)?;
    let other = s.client()?;
    s.consume(other, &queue, 10);
    s.hold(other, 4)?;
    ensure!(s.ledger(consumer).held.len() == 2, "what was held did not stay held");
    s.settle_all(consumer, Settlement::Requeue)?;
    s.hold(other, 6)?;
    let came = s.settle_all(other, Settlement::Ack)?;
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

pub(super) fn no_room_stops_reading_and_loses_nothing<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    const LEN: usize = 100_000;
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(16)?;
    s.clients[consumer].memory.set_budget(3 * LEN as u64 + 100);
    let messages: Vec<_> = (0..16).map(|seed| Message::of(seed, LEN)).collect();
    s.publish_confirmed(publisher, &queue, &messages)?;
    let mut came = Vec::new();
    while came.len() < messages.len() {
        s.hold(consumer, (messages.len() - came.len()).min(3))?;
        s.quiet()?;
        let used = s.clients[consumer].memory.used();
        ensure!(used <= 3 * LEN as u64 + 100, "{used} bytes are out");
        let tag = s.ledger(consumer).held[0].tag;
        came.push(s.settle(consumer, tag, Settlement::Ack)?);
    }
    ensure!(s.clients[consumer].memory.refused() > 0, "room was never asked for in vain");
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

pub(super) fn no_room_does_not_stop_publishing<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    const LEN: usize = 300_000;
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(16)?;
    s.clients[consumer].memory.set_budget(LEN as u64);
    let messages: Vec<_> = (0..6).map(|seed| Message::of(seed, LEN)).collect();
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 1)?;
    s.quiet()?;
    let elsewhere = s.queue("elsewhere");
    s.declare(consumer, &elsewhere, 100)?;
    s.publish_confirmed(consumer, &elsewhere, &Message::some(9, 50))?;
    ensure!(s.ledger(consumer).held.len() == 1, "something came without room");
    let came = s.drain(consumer, 6)?;
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

pub(super) fn oversize_is_told_and_can_be_rejected<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    const LARGEST: usize = 50_000;
    let huge = harness.capabilities().max_body.min(20 * LARGEST as u64);
    let mut s = Script::new(harness);
    let publisher = s.client()?;
    let queue = s.queue("work");
    s.declare(publisher, &queue, 100)?;
    let consumer = s.client()?;
    s.clients[consumer].memory = crate::conformance::HeapMemory::new(1 << 20, LARGEST as u64);
    let messages = [
        Message::of(1, 100),
        Message::of(2, LARGEST + 1),
        Message::of(3, LARGEST),
        Message::of(4, huge as usize),
        Message::of(5, 100),
    ];
    s.consume(consumer, &queue, 10);
    s.publish_confirmed(publisher, &queue, &messages)?;
    s.hold(consumer, 5)?;
    let (over, within): (Vec<_>, Vec<_>) = s.ledger(consumer).held.clone().into_iter().partition(|h| h.slot.is_none());
    let mut lens: Vec<u64> = over.iter().map(|held| held.len).collect();
    lens.sort_unstable();
    ensure!(lens == [LARGEST as u64 + 1, huge], "oversize were told as {lens:?}");
    ensure!(within.len() == 3, "{} bodies fit where 3 do", within.len());
    for held in &over {
        s.settle(consumer, held.tag, Settlement::Reject)?;
    }
    let came = s.settle_all(consumer, Settlement::Ack)?;
    ensure_same_messages(&came, &[messages[0].clone(), messages[2].clone(), messages[4].clone()])?;
    let reader = s.client()?;
    s.consume(reader, &dead_letter(&queue), 10);
    let dead = s.drain(reader, 2)?;
    ensure_same_messages(&dead, &[messages[1].clone(), messages[3].clone()])?;
    s.finish()
}

fn cancel<H: Harness>(s: &mut Script<'_, H>, consumer: usize) -> Result<(), Failure> {
    let before = s.ledger(consumer).cancels;
    s.clients[consumer].transport.submit(Op::Cancel);
    s.wait("the cancel to be answered", |s| Ok(s.ledger(consumer).cancels > before))
}
