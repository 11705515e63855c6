//! kill -9 of the broker, again and again, under traffic: what was confirmed is delivered, at least once.

use std::collections::BTreeMap;

use asya_transport::conformance::script::{Held, Message};
use asya_transport::conformance::{Harness, Script};
use asya_transport::{ContentType, Outcome, Settlement, Tag};

use crate::harness::EmbeddedHarness;

const ROUNDS: u64 = 15;
const PER_ROUND: u64 = 400;
const WINDOW: u32 = 50;

/// Lengths cover a body in the tree, one shared with it, and one in a file of its own.
fn message(index: u64) -> Message {
    let len = match index % 100 {
        7 => 3 << 20,
        11 | 13 => 100_000,
        _ => 300,
    };
    Message { content_type: ContentType::Native, ..Message::made_of(index, 20, &[len], 10) }
}

/// What was sent and what came of it.
#[derive(Default)]
struct Journal {
    sent: BTreeMap<Vec<u8>, Sent>,
}

#[derive(Default)]
struct Sent {
    token: u64,
    deliveries: u32,
}

impl Journal {
    fn received(&mut self, held: &Held) {
        let sent = self.sent.get_mut(&held.body).expect("a body came that was never sent");
        sent.deliveries += 1;
    }
}

#[test]
fn what_was_confirmed_survives_kill_nine_and_comes_at_least_once() {
    let mut harness = EmbeddedHarness::new();
    let mut s = Script::new(&mut harness);
    let (consumer, publisher, queue) = s.pair(WINDOW).unwrap();
    let mut journal = Journal::default();
    for round in 0..ROUNDS {
        for index in round * PER_ROUND..(round + 1) * PER_ROUND {
            let message = message(index);
            let token = s.publish(publisher, &queue, &message).0;
            journal.sent.insert(message.body(), Sent { token, deliveries: 0 });
        }
        // Another moment in each round, from the first answers to the last; and one delivery at least that the kill voids.
        let enough = s.ledger(publisher).answered.len() + (1 + round * PER_ROUND / ROUNDS) as usize;
        s.wait("some answers", |s| {
            let held: Vec<Tag> = s.ledger(consumer).held.iter().map(|held| held.tag).collect();
            let Some((_, earlier)) = held.split_last() else { return Ok(false) };
            for tag in earlier {
                journal.received(&s.settle(consumer, *tag, Settlement::Ack)?);
            }
            Ok(s.ledger(publisher).answered.len() >= enough)
        })
        .unwrap();
        let (before, void) = (s.ledger(publisher).connects, s.ledger(consumer).void.len());
        s.harness.restart_broker();
        s.wait("both clients to be back", |s| {
            let back = |client: usize| s.ledger(client).connects > before && s.ledger(client).connected;
            Ok(back(consumer) && back(publisher))
        })
        .unwrap();
        let lost: Vec<Held> = s.ledger(consumer).void[void..].to_vec();
        lost.iter().for_each(|held| journal.received(held));
    }
    s.wait("every confirmed message to come", |s| {
        for held in s.settle_all(consumer, Settlement::Ack)? {
            journal.received(&held);
        }
        let answered = &s.ledger(publisher).answered;
        let confirmed = |sent: &Sent| answered.get(&sent.token) == Some(&Outcome::Confirmed);
        Ok(journal.sent.values().all(|sent| sent.deliveries > 0 || !confirmed(sent)))
    })
    .unwrap();
    s.quiet().unwrap();
    for held in s.settle_all(consumer, Settlement::Ack).unwrap() {
        journal.received(&held);
    }
    s.wait_depth(publisher, &queue, 0, 0).unwrap();

    let answered = &s.ledger(publisher).answered;
    assert_eq!(answered.len() as u64, ROUNDS * PER_ROUND, "each publish has one answer");
    let count = |outcome: &Outcome| answered.values().filter(|is| *is == outcome).count();
    let (confirmed, lost) = (count(&Outcome::Confirmed), count(&Outcome::Lost));
    assert_eq!(confirmed + lost, answered.len(), "only these two answers are true");
    let duplicates: u32 = journal.sent.values().map(|sent| sent.deliveries.saturating_sub(1)).sum();
    assert!(u64::from(duplicates) <= ROUNDS * u64::from(WINDOW), "{duplicates} more deliveries than kills explain");
    println!("{ROUNDS} kills: {confirmed} confirmed, {lost} lost with their connection, {duplicates} duplicates");
    assert!(lost > 0 && duplicates > 0, "no kill hit anything");
}
