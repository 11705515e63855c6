//! A publish gets one answer, and the answer is true.

use std::time::Duration;

use crate::conformance::script::{Message, ensure_first_time, ensure_same_messages};
use crate::conformance::{Failure, Harness, Script, Verdict, ensure};
use crate::{ContentType, Delays, Outcome, Settlement, Transport};

pub(super) fn bodies_arrive_byte_for_byte<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let largest = harness.capabilities().max_body.min(8 << 20) as usize;
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(100)?;
    let mut messages = Vec::new();
    for (seed, len) in [0, 1, 7, 4096, 65_535, 131_072, 200_000, 1 << 20, largest].into_iter().enumerate() {
        if len <= largest {
            messages.push(Message::of(seed as u64, len));
        }
    }
    messages.push(Message::made_of(20, 300, &[1, 0, 5000, 17], 60));
    messages.push(Message::made_of(21, 0, &[], 10));
    messages.push(Message::made_of(22, 10, &[], 0));
    messages.push(Message::made_of(23, 5, &[130_000.min(largest / 2), 100], 70_000.min(largest / 4)));
    s.publish_confirmed(publisher, &queue, &messages)?;
    let came = s.drain(consumer, messages.len())?;
    ensure_same_messages(&came, &messages)?;
    for held in &came {
        ensure_first_time(held.redelivery)?;
    }
    s.finish()
}

pub(super) fn content_type_is_kept<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(10)?;
    for content_type in [ContentType::Native, ContentType::Json] {
        let message = Message { content_type, ..Message::small(1) };
        s.publish_confirmed(publisher, &queue, std::slice::from_ref(&message))?;
        let came = s.drain(consumer, 1)?;
        ensure_same_messages(&came, &[message])?;
    }
    s.finish()
}

/// The ledger overwrites a publish's parts as soon as it is answered, as their next user would.
pub(super) fn parts_may_be_reused_once_answered<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(10)?;
    let first: Vec<_> = (0..20).map(|seed| Message::of(seed, 3000)).collect();
    let second: Vec<_> = (20..40).map(|seed| Message::of(seed, 3000)).collect();
    s.publish_confirmed(publisher, &queue, &first)?;
    s.publish_confirmed(publisher, &queue, &second)?;
    let came = s.drain(consumer, 40)?;
    ensure_same_messages(&came, &[first, second].concat())?;
    s.finish()
}

pub(super) fn unroutable_is_told_apart_from_confirmed<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(100)?;
    let nowhere = s.queue("nowhere");
    let good = Message::some(1, 20);
    let mut tokens = Vec::new();
    for (index, message) in good.iter().enumerate() {
        tokens.push((s.publish(publisher, &queue, message), Outcome::Confirmed));
        let bad = Message::of(500 + index as u64, 10 + index * 100);
        tokens.push((s.publish(publisher, &nowhere, &bad), Outcome::Unroutable));
    }
    for (token, expected) in tokens {
        let outcome = s.outcome(publisher, token)?;
        ensure!(outcome == expected, "a publish that should be {expected:?} was {outcome:?}");
    }
    let came = s.drain(consumer, good.len())?;
    ensure_same_messages(&came, &good)?;
    s.finish()
}

pub(super) fn a_thousand_open_publishes_are_each_answered_once<H: Harness>(h: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(h);
    let (consumer, publisher, queue) = s.pair(200)?;
    let messages = Message::some(1, 1000);
    let tokens: Vec<_> = messages.iter().map(|message| s.publish(publisher, &queue, message)).collect();
    ensure!(s.ledger(publisher).open.len() == 1000, "publishes were answered before they were flushed");
    for token in tokens {
        let outcome = s.outcome(publisher, token)?;
        ensure!(outcome == Outcome::Confirmed, "one of a thousand ended as {outcome:?}");
    }
    let came = s.drain(consumer, 1000)?;
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

/// Largest limit of a broker that the suite tries to exceed.
const LIMIT_TRIED_MAX: u64 = 64 << 20;

pub(super) fn too_large_is_told<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(10)?;
    let Some(limit) = s.clients[publisher].transport.limits().max_message_bytes else {
        return Ok(Verdict::Skipped("no limit is known"));
    };
    if limit > LIMIT_TRIED_MAX {
        return Ok(Verdict::Skipped("the limit is too large to be tried"));
    }
    let before = Message::small(1);
    let after = Message::small(2);
    s.publish_confirmed(publisher, &queue, std::slice::from_ref(&before))?;
    let over = s.publish(publisher, &queue, &Message::made_of(3, 1, &[limit as usize], 0));
    let outcome = s.outcome(publisher, over)?;
    ensure!(outcome == Outcome::TooLarge(limit), "one byte over {limit} ended as {outcome:?}");
    s.publish_confirmed(publisher, &queue, std::slice::from_ref(&after))?;
    let came = s.drain(consumer, 2)?;
    ensure_same_messages(&came, &[before, after])?;
    ensure!(s.ledger(publisher).losses == 0, "a body over the limit cost the connection");
    s.finish()
}

pub(super) fn long_ids_do_no_harm<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(10)?;
    let ids = [String::new(), "i".repeat(255), "i".repeat(5000), "\u{20AC}".repeat(90), "\u{1F980}".repeat(64)];
    let messages: Vec<_> =
        ids.into_iter().enumerate().map(|(seed, id)| Message { id, ..Message::small(seed as u64) }).collect();
    s.publish_confirmed(publisher, &queue, &messages)?;
    let came = s.drain(consumer, messages.len())?;
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

pub(super) fn large_and_small_bodies_mix<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let large = harness.capabilities().max_body.min(6 << 20) as usize;
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(5)?;
    let mut messages = Vec::new();
    for seed in 0..30 {
        let len = if seed % 7 == 3 { large } else { 200 };
        messages.push(Message::made_of(seed, 64, &[len / 2, len / 4], 64));
    }
    s.publish_confirmed(publisher, &queue, &messages)?;
    let came = s.drain(consumer, messages.len())?;
    ensure_same_messages(&came, &messages)?;
    s.finish()
}

pub(super) fn delay_is_never_early<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    const WANTED_MS: [u64; 3] = [1500, 300, 700];
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(10)?;
    let delays = s.clients[publisher].transport.limits().delays;
    if delays == Delays::Ladder(&[]) {
        let token = s.publish(publisher, &queue, &Message::small(1).delayed(Duration::from_millis(1)));
        let outcome = s.outcome(publisher, token)?;
        ensure!(matches!(outcome, Outcome::Unsupported(_)), "a delay that is not supported ended as {outcome:?}");
        return s.finish();
    }
    let asked = WANTED_MS.map(|ms| delays.step(Duration::from_millis(ms)));
    let messages: Vec<_> = asked.iter().zip(1..).map(|(delay, seed)| Message::small(seed).delayed(*delay)).collect();
    let started = s.harness.now();
    s.publish_confirmed(publisher, &queue, &messages)?;
    let mut came = Vec::new();
    s.wait("the delayed messages to come", |s| {
        let waited = s.harness.now() - started;
        came.extend(s.settle_all(consumer, Settlement::Ack)?.into_iter().map(|held| (held, waited)));
        Ok(came.len() >= messages.len())
    })?;
    for (message, delay) in messages.iter().zip(asked) {
        let body = message.body();
        let Some((held, waited)) = came.iter().find(|(held, _)| held.body == body) else {
            return Err(Failure(format!("the message delayed by {delay:?} came back different or twice")));
        };
        ensure!(*waited >= delay, "{delay:?} became {waited:?}");
        ensure!(held.content_type == message.content_type, "a delay made it {:?}", held.content_type);
        ensure_first_time(held.redelivery)?;
    }
    let between = Duration::from_millis(1500);
    if delays.step(between) != between {
        let token = s.publish(publisher, &queue, &Message::small(4).delayed(between));
        let outcome = s.outcome(publisher, token)?;
        ensure!(matches!(outcome, Outcome::Unsupported(_)), "a delay that is no step ended as {outcome:?}");
    }
    s.finish()
}

pub(super) fn a_delay_on_the_way_to_nowhere_is_told<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(10)?;
    let delays = s.clients[publisher].transport.limits().delays;
    if delays == Delays::Ladder(&[]) {
        return Ok(Verdict::Skipped("there are no delays"));
    }
    let delay = delays.step(Duration::from_secs(1));
    let missing = s.queue("missing");
    // A queue that is declared later is found then.
    for seed in [1, 2] {
        let token = s.publish(publisher, &missing, &Message::small(seed).delayed(delay));
        let outcome = s.outcome(publisher, token)?;
        ensure!(outcome == Outcome::Unroutable, "a delayed publish to nowhere ended as {outcome:?}");
    }
    let late = Message::small(3).delayed(delay);
    s.publish_confirmed(publisher, &queue, std::slice::from_ref(&late))?;
    let came = s.drain(consumer, 1)?;
    ensure_same_messages(&came, &[late])?;
    s.declare(publisher, &missing, 100)?;
    s.publish_confirmed(publisher, &missing, &[Message::small(4).delayed(delay)])?;
    s.wait_depth(publisher, &missing, 1, 0)?;
    s.finish()
}

pub(super) fn a_blocked_broker_loses_nothing<H: Harness>(harness: &mut H) -> Result<Verdict, Failure> {
    if !harness.capabilities().can_block {
        return Ok(Verdict::Skipped("the broker cannot be blocked"));
    }
    let mut s = Script::new(harness);
    let (consumer, publisher, queue) = s.pair(100)?;
    let messages = Message::some(1, 20);
    s.harness.block(true);
    let tokens: Vec<_> = messages.iter().map(|message| s.publish(publisher, &queue, message)).collect();
    s.quiet()?;
    s.harness.block(false);
    let mut expected = Vec::new();
    for (token, message) in tokens.into_iter().zip(messages) {
        match s.outcome(publisher, token)? {
            Outcome::Confirmed => expected.push(message),
            Outcome::Refused(_) => {}
            other => return Err(Failure(format!("a publish to a blocked broker ended as {other:?}"))),
        }
    }
    let last = Message::small(7);
    s.wait("the broker to be unblocked", |s| Ok(!s.ledger(publisher).blocked))?;
    s.publish_confirmed(publisher, &queue, std::slice::from_ref(&last))?;
    expected.push(last);
    let came = s.drain(consumer, expected.len())?;
    ensure_same_messages(&came, &expected)?;
    s.finish()
}
