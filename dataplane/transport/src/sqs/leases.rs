//! What is held, until when, and how it is let go.
//!
//! Takes receipts, settlements and extensions; gives batches of calls, and what did not take. Never blocks. A lease
//! counts from when the call that began or extended it was *sent*, which is before SQS counts. One that runs out is
//! void at once: somebody else may have the message by then, and settling it would be settling theirs.
//!
//! A settlement is asked again, with growing pauses, for as long as its lease lasts; what cannot be deleted by then
//! comes again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use aws_sdk_sqs::Client;
use tokio::time::Instant;

use super::calls::{BATCH, Calls, whole_seconds};
use super::config::VISIBILITY_MAX;
use super::trouble::{Answer, Trouble};
use crate::api::{Event, Tag};
use crate::backoff::Backoff;

/// Calls of each kind (deleting, changing) that are open at once: with ten entries in each and some 10 ms for an answer
/// this is 8,000 a second, on 8 connections.
const OPEN_MAX: usize = 8;

/// One message that is this transport's for a while.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    /// To settle it by.
    pub(super) receipt: String,
    /// SQS's own name of it.
    pub(super) message: String,
    /// When the call was sent that brought it.
    pub(super) received: Instant,
    /// When it is nobody's again.
    pub(super) until: Instant,
    /// The epoch in which the caller was given it, once that has happened.
    pub(super) given: Option<u32>,
}

/// How a lease is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The message is deleted.
    Delete,
    /// It is anybody's at once.
    GiveBack,
}

impl Lease {
    /// That it is void, for a caller who was given it.
    fn void(&self, number: u64, why: impl Into<String>) -> Option<Event> {
        let tag = Tag { epoch: self.given?, number };
        Some(Event::SettleFailed { tag, why: why.into() })
    }
}

/// Everything that is held, and everything that is being let go.
#[derive(Debug)]
pub(super) struct Leases {
    /// Bounded by the window.
    held: BTreeMap<u64, Lease>,
    /// The ends of what is held, in their order.
    ends: BTreeSet<(Instant, u64)>,
    /// What is held, by SQS's name.
    numbers: BTreeMap<String, u64>,
    /// Let go, and not answered. Receiving stops when these are many (see [`super::consumer`]).
    letting_go: BTreeMap<u64, (Lease, End)>,
    to_delete: VecDeque<u64>,
    to_give_back: VecDeque<u64>,
    /// By how many seconds: bounded by what is held.
    to_extend: BTreeMap<u64, u32>,
    /// Numbers whose visibility is being changed: the next change of one waits, because two calls may overtake.
    changing: BTreeSet<u64>,
    deletes: usize,
    changes: usize,
    last: u64,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self {
            held: BTreeMap::new(),
            ends: BTreeSet::new(),
            numbers: BTreeMap::new(),
            letting_go: BTreeMap::new(),
            to_delete: VecDeque::new(),
            to_give_back: VecDeque::new(),
            to_extend: BTreeMap::new(),
            changing: BTreeSet::new(),
            deletes: 0,
            changes: 0,
            last: 0,
            backoff: Backoff::new(),
            retry_at: None,
        }
    }

    /// Messages that are held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Messages that are being let go.
    pub(super) fn letting_go(&self) -> usize {
        self.letting_go.len()
    }

    /// What is held under this number.
    pub(super) fn get(&self, number: u64) -> Option<&Lease> {
        self.held.get(&number)
    }

    /// Holds a message, under a new number. Where it is held already, that older receipt is worth nothing any more.
    pub(super) fn hold(&mut self, lease: Lease, events: &mut Vec<Event>) -> u64 {
        if let Some(older) = self.numbers.get(&lease.message).copied() {
            events.extend(self.remove(older).and_then(|lease| lease.void(older, "it was delivered again")));
        }
        self.last += 1;
        self.numbers.insert(lease.message.clone(), self.last);
        self.ends.insert((lease.until, self.last));
        self.held.insert(self.last, lease);
        self.last
    }

    /// The caller is given what is held under this number.
    pub(super) fn give(&mut self, number: u64, epoch: u32) {
        if let Some(lease) = self.held.get_mut(&number) {
            lease.given = Some(epoch);
        }
    }

    /// Takes a lease away without a word to SQS.
    fn remove(&mut self, number: u64) -> Option<Lease> {
        let lease = self.held.remove(&number)?;
        self.ends.remove(&(lease.until, number));
        self.numbers.remove(&lease.message);
        self.to_extend.remove(&number);
        Some(lease)
    }

    /// Lets a message go. Whether it was held.
    pub(super) fn let_go(&mut self, number: u64, end: End) -> bool {
        let Some(lease) = self.remove(number) else { return false };
        self.letting_go.insert(number, (lease, end));
        match end {
            End::Delete => self.to_delete.push_back(number),
            End::GiveBack => self.to_give_back.push_back(number),
        }
        true
    }

    /// Keeps a message for `by` from now, or for as long as SQS allows. A void number is ignored.
    pub(super) fn extend(&mut self, number: u64, by: Duration, now: Instant) {
        let Some(lease) = self.held.get(&number) else { return };
        // SQS refuses what exceeds twelve hours in all by a second.
        let most = (lease.received + VISIBILITY_MAX).saturating_duration_since(now).as_secs().saturating_sub(1);
        let seconds = whole_seconds(by).clamp(1, u32::MAX).min(u32::try_from(most).unwrap_or(u32::MAX));
        if seconds > 0 {
            self.to_extend.insert(number, seconds);
        }
    }

    /// Whether an extension is on its way.
    pub(super) fn is_extending(&self, number: u64) -> bool {
        self.to_extend.contains_key(&number) || self.changing.contains(&number)
    }

    /// Takes away what has run out. Whether anything had.
    pub(super) fn run_out(&mut self, now: Instant, events: &mut Vec<Event>) -> bool {
        let before = self.held.len();
        while let Some(&(until, number)) = self.ends.first()
            && until <= now
        {
            events.extend(self.remove(number).and_then(|lease| lease.void(number, "its visibility timeout ran out")));
        }
        self.held.len() < before
    }

    /// When something is due, if nothing else happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        let end = self.ends.first().map(|&(until, _)| until);
        self.retry_at.into_iter().chain(end).min()
    }

    /// Starts the calls that are due.
    pub(super) fn start(&mut self, client: &Client, url: &str, calls: &mut Calls, now: Instant) {
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        while self.deletes < OPEN_MAX && !self.to_delete.is_empty() {
            let numbers = self.to_delete.drain(..self.to_delete.len().min(BATCH));
            let receipt = |number| self.letting_go.get(&number).map(|(lease, _)| (number, lease.receipt.clone()));
            calls.delete(client, url, numbers.filter_map(receipt).collect());
            self.deletes += 1;
        }
        while self.changes < OPEN_MAX {
            let batch = self.next_changes();
            if batch.is_empty() {
                break;
            }
            self.changing.extend(batch.iter().map(|(number, ..)| *number));
            calls.change(client, url, batch);
            self.changes += 1;
        }
    }

    /// What goes back first, since somebody may wait for it; then what is extended.
    fn next_changes(&mut self) -> Vec<(u64, String, u32)> {
        let mut batch = Vec::new();
        let mut later = VecDeque::new();
        while batch.len() < BATCH
            && let Some(number) = self.to_give_back.pop_front()
        {
            if self.changing.contains(&number) {
                later.push_back(number);
            } else if let Some((lease, _)) = self.letting_go.get(&number) {
                batch.push((number, lease.receipt.clone(), 0));
            }
        }
        later.append(&mut self.to_give_back);
        self.to_give_back = later;
        let free: Vec<u64> = self
            .to_extend
            .keys()
            .copied()
            .filter(|number| !self.changing.contains(number))
            .take(BATCH - batch.len())
            .collect();
        for number in free {
            if let (Some(seconds), Some(lease)) = (self.to_extend.remove(&number), self.held.get(&number)) {
                batch.push((number, lease.receipt.clone(), seconds));
            }
        }
        batch
    }

    /// Deletions are answered.
    pub(super) fn deleted(
        &mut self,
        numbers: &[u64],
        result: Result<Vec<Answer>, Trouble>,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        self.deletes -= 1;
        let answers = each(result, numbers.len());
        self.note(&answers, now);
        let failed =
            numbers.iter().zip(answers).filter_map(|(number, answer)| self.let_go_answered(*number, answer, now));
        events.extend(failed);
    }

    /// Changes are answered.
    pub(super) fn changed(
        &mut self,
        changes: &[(u64, u32)],
        since: Instant,
        result: Result<Vec<Answer>, Trouble>,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        self.changes -= 1;
        let answers = each(result, changes.len());
        self.note(&answers, now);
        for (&(number, seconds), answer) in changes.iter().zip(answers) {
            self.changing.remove(&number);
            if seconds == 0 {
                events.extend(self.let_go_answered(number, answer, now));
            } else if self.held.contains_key(&number) {
                events.extend(self.extended(number, seconds, since, answer, now));
            }
        }
    }

    fn extended(&mut self, number: u64, seconds: u32, since: Instant, answer: Answer, now: Instant) -> Option<Event> {
        match answer {
            Ok(()) => {
                let lease = self.held.get_mut(&number)?;
                self.ends.remove(&(lease.until, number));
                lease.until = since + Duration::from_secs(seconds.into());
                self.ends.insert((lease.until, number));
                None
            }
            Err(trouble) if trouble.may_pass() => {
                // For less, by now; what is asked for meanwhile counts more.
                let left = seconds.saturating_sub(whole_seconds(now - since)).max(1);
                self.to_extend.entry(number).or_insert(left);
                None
            }
            Err(trouble) => self.remove(number)?.void(number, format!("it could not be kept: {trouble}")),
        }
    }

    fn let_go_answered(&mut self, number: u64, answer: Answer, now: Instant) -> Option<Event> {
        let (lease, end) = self.letting_go.get(&number)?;
        match answer {
            Err(trouble) if trouble.may_pass() && now < lease.until => {
                match end {
                    End::Delete => self.to_delete.push_back(number),
                    End::GiveBack => self.to_give_back.push_back(number),
                }
                return None;
            }
            // With its queue the message is gone too.
            Err(trouble) if *end == End::Delete && trouble != Trouble::NoQueue => {
                let (lease, _) = self.letting_go.remove(&number)?;
                return lease.void(number, format!("it could not be deleted: {trouble}"));
            }
            // What could not be given back has come back by itself.
            Ok(()) | Err(_) => {}
        }
        self.letting_go.remove(&number);
        None
    }

    /// Slows down when SQS asks for it.
    fn note(&mut self, answers: &[Answer], now: Instant) {
        if answers.iter().any(|answer| answer.as_ref().is_err_and(Trouble::may_pass)) {
            self.retry_at = Some(self.backoff.failed(now));
        } else {
            self.backoff.works(now);
        }
    }
}

/// One answer for each entry.
fn each(result: Result<Vec<Answer>, Trouble>, count: usize) -> Vec<Answer> {
    result.unwrap_or_else(|trouble| vec![Err(trouble); count])
}
