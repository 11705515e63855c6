//! Receiving one queue.
//!
//! Takes the window, settlements and extensions; gives deliveries. Never blocks.
//!
//! **Credit.** What is asked for (the most that open polls may bring), what is held and what waits for room never
//! exceed the window together, so no lease is taken that nobody has room for. A poll asks for ten messages or for the
//! credit that is left. When it comes back full another one is opened beside it, up to a bound; when it comes back empty
//! one long poll is left, whose cost is three calls a minute.
//!
//! **Room.** A body for which memory has no room waits here as text. It holds credit, its lease is kept, and polling
//! stops until it is delivered.
//!
//! **Canceling.** An open long poll cannot be taken back: SQS does not say what it does with a message for a caller that
//! has hung up. So a cancel ends no call. It is answered at once, and what an open poll brings later is given back. Only
//! the end of the process cuts a poll off; [`LINGER`] is how long [`super::Sqs::flushed`] waits for it before.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName as SystemAttribute};
use tokio::time::Instant;

use super::body::{self, Arrived};
use super::calls::{BATCH, Calls, Entry};
use super::config::SqsConfig;
use super::leases::{End, Lease, Leases};
use super::queues::Queues;
use super::sender::{Forwarded, Sender};
use super::trouble::{Answer, Trouble};
use crate::api::{ContentType, Delivery, Event, Memory, Redelivery, Room, Settlement, Tag};
use crate::backoff::Backoff;

/// Polls that are open at once: at ten messages in about 10 ms each, some 20,000 a second, on as many connections.
const POLLS_MAX: usize = 20;
/// Bytes that open polls should bring together, were all as large as the last: what comes is text on the heap, beside the
/// memory that bodies are delivered in, and waits there when that is full. So polls for large messages are few.
const TEXT_BYTES: usize = 16 << 20;
/// How long after a cancel a process should not end, if it can help it: a poll that brings anything does so within
/// this time, and one that does not is waiting for messages to come. One that comes to it after the process has ended
/// is delayed by the visibility timeout.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// Messages to be dead-lettered that are looked for at once. The oldest is forgotten beyond that: it arrives again and
/// is rejected again.
const CONDEMNED_MAX: usize = 1024;

/// A message without room in memory.
#[derive(Debug)]
struct Waiting {
    number: u64,
    content_type: ContentType,
    body: Arrived,
    redelivered: bool,
}

/// Everything about the queue that is consumed.
#[derive(Debug)]
pub(super) struct Consumer {
    queue: Option<String>,
    window: usize,
    /// Set while nothing is to be received: since when.
    canceled: Option<Instant>,
    leases: Leases,
    waiting: VecDeque<Waiting>,
    polls: usize,
    /// What open polls may bring.
    asked: usize,
    /// Polls that may be open.
    polls_wanted: usize,
    backoff: Backoff,
    retry_at: Option<Instant>,
    /// Whether the caller was told that the queue is gone.
    told_missing: bool,
    /// Whether messages were ever received, or could have been.
    pub(super) permitted: bool,
    /// SQS's names of rejected messages, the oldest first. Where a rejected message was given back, its text was gone
    /// (it lay in memory that its receiver owned); when it comes again it goes to the dead-letter queue instead.
    condemned: VecDeque<String>,
    /// Deliveries on their way to the dead-letter queue.
    forwarding: BTreeSet<u64>,
}

impl Consumer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            queue: None,
            window: 0,
            canceled: Some(now),
            leases: Leases::new(),
            waiting: VecDeque::new(),
            polls: 0,
            asked: 0,
            polls_wanted: 1,
            backoff: Backoff::new(),
            retry_at: None,
            told_missing: false,
            permitted: false,
            condemned: VecDeque::new(),
            forwarding: BTreeSet::new(),
        }
    }

    pub(super) fn consume(&mut self, queue: &str, window: u32) {
        self.queue = Some(queue.to_owned());
        self.window = window as usize;
        self.canceled = None;
    }

    /// Stops receiving. What waits for room is given back.
    pub(super) fn cancel(&mut self, now: Instant) {
        self.canceled.get_or_insert(now);
        for waiting in self.waiting.drain(..) {
            self.leases.let_go(waiting.number, End::GiveBack);
        }
    }

    /// Settles a delivery; a void number is ignored.
    pub(super) fn settle(&mut self, number: u64, how: Settlement) {
        match how {
            Settlement::Ack => drop(self.leases.let_go(number, End::Delete)),
            Settlement::Requeue => drop(self.leases.let_go(number, End::GiveBack)),
            Settlement::Reject => {
                self.condemn(number);
                self.leases.let_go(number, End::GiveBack);
            }
        }
    }

    /// Sends a held message to the dead-letter queue when it comes again.
    fn condemn(&mut self, number: u64) {
        self.condemned.extend(self.leases.get(number).map(|lease| lease.message.clone()));
        if self.condemned.len() > CONDEMNED_MAX {
            self.condemned.pop_front();
        }
    }

    pub(super) fn extend(&mut self, number: u64, by: Duration, now: Instant) {
        self.leases.extend(number, by, now);
    }

    /// Whether everything is settled, and no poll is likely to bring anything any more.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let lingers = self.canceled.is_some_and(|at| self.polls > 0 && now < at + LINGER);
        self.leases.letting_go() == 0 && self.forwarding.is_empty() && !lingers
    }

    /// When something is due, if nothing else happens before.
    pub(super) fn due(&self, config: &SqsConfig) -> Option<Instant> {
        let linger = self.canceled.filter(|_| self.polls > 0).map(|at| at + LINGER).filter(|at| *at > Instant::now());
        let half = config.visibility_timeout / 2;
        let leases = self.waiting.iter().filter(|waiting| !self.leases.is_extending(waiting.number));
        let keep = leases.filter_map(|waiting| self.leases.get(waiting.number)).map(|lease| lease.until - half).min();
        let retry = self.retry_at.filter(|_| self.canceled.is_none());
        [linger, keep, retry, self.leases.due()].into_iter().flatten().min()
    }

    /// Does what is due: delivers what has room now, keeps and ends leases, settles, polls.
    pub(super) fn start(
        &mut self,
        client: &Client,
        config: &SqsConfig,
        queues: &mut Queues,
        calls: &mut Calls,
        memory: &mut dyn Memory,
        epoch: u32,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        self.deliver(config, memory, epoch, now, events);
        let Some(queue) = self.queue.clone() else { return };
        let Some(url) = queues.url(&queue).filter(|_| queues.dead_letter(&queue).is_some()) else {
            let waiting = self.retry_at.is_some_and(|at| now < at);
            let needed = self.canceled.is_none() || self.leases.letting_go() > 0;
            if needed && !waiting && !queues.declare_again(&queue) {
                queues.resolve_to_consume(&queue);
            }
            return;
        };
        self.leases.start(client, &url, calls, now);
        self.poll(client, config, &url, calls, now);
    }

    fn poll(&mut self, client: &Client, config: &SqsConfig, url: &Arc<str>, calls: &mut Calls, now: Instant) {
        let pausing = self.canceled.is_some() || self.retry_at.is_some_and(|at| now < at);
        // What is let go holds no credit, or each message would wait for the settlement of one before. But it is
        // bounded too: by a window, for which a slow server is given two batches at least.
        if pausing || !self.waiting.is_empty() || self.leases.letting_go() >= self.window.max(2 * BATCH) {
            return;
        }
        while self.polls < self.polls_wanted {
            let credit = self.window.saturating_sub(self.leases.held() + self.asked);
            // One poll asks for whatever there is. More of them only for full batches: each costs the same.
            if credit == 0 || (self.polls > 0 && credit < BATCH) {
                return;
            }
            let asked = credit.min(BATCH);
            calls.receive(client, config, url, asked as u32);
            self.polls += 1;
            self.asked += asked;
        }
    }

    /// A poll has ended.
    pub(super) fn received(
        &mut self,
        asked: u32,
        since: Instant,
        result: Result<Vec<Message>, Trouble>,
        config: &SqsConfig,
        queues: &mut Queues,
        sender: &mut Sender,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<(), Trouble> {
        self.polls -= 1;
        self.asked -= asked as usize;
        let messages = match result {
            Ok(messages) => messages,
            Err(trouble) => {
                self.polls_wanted = 1;
                self.retry_at = Some(self.backoff.failed(now));
                if trouble == Trouble::NoQueue {
                    self.missing(queues, events);
                    self.retry_at = None;
                }
                return Err(trouble);
            }
        };
        self.permitted = true;
        self.told_missing = false;
        self.retry_at = None;
        self.backoff.works(now);
        let bytes: usize = messages.iter().filter_map(|message| message.body.as_ref()).map(String::len).sum();
        let most = (TEXT_BYTES / bytes.max(1)).clamp(1, POLLS_MAX);
        self.polls_wanted = match messages.len() {
            0 => 1,
            full if full >= asked as usize => (self.polls_wanted + 1).min(most),
            _ => self.polls_wanted.min(most),
        };
        let until = since + config.visibility_timeout;
        for message in messages {
            self.arrived(message, since, until, queues, sender, events);
        }
        Ok(())
    }

    /// The queue is not there: it is declared again, and consumed again once it is.
    pub(super) fn missing(&mut self, queues: &mut Queues, events: &mut Vec<Event>) {
        let Some(queue) = &self.queue else { return };
        queues.forget(queue);
        if self.canceled.is_none() && !std::mem::replace(&mut self.told_missing, true) {
            events.push(Event::Canceled { asked: false });
        }
    }

    /// The queue could not be found or made for now.
    pub(super) fn unresolved(&mut self, queue: &str, now: Instant) {
        if self.queue.as_deref() == Some(queue) {
            self.retry_at = Some(self.backoff.failed(now));
        }
    }

    fn arrived(
        &mut self,
        message: Message,
        received: Instant,
        until: Instant,
        queues: &Queues,
        sender: &mut Sender,
        events: &mut Vec<Event>,
    ) {
        let (Some(receipt), Some(text)) = (message.receipt_handle, message.body) else {
            return tracing::warn!("SQS gave a message without a receipt or a body; it is left where it is");
        };
        let mut attributes = message.message_attributes.unwrap_or_default();
        let id = message.message_id.unwrap_or_else(|| receipt.clone());
        let lease = Lease { receipt, message: id.clone(), received, until, given: None };
        let number = self.leases.hold(lease, events);
        self.drop_void();
        if self.canceled.is_some() {
            self.leases.let_go(number, End::GiveBack);
            return;
        }
        if let Some(at) = self.condemned.iter().position(|condemned| *condemned == id) {
            self.condemned.remove(at);
            let Some(dead_letter) = self.queue.as_deref().and_then(|queue| queues.dead_letter(queue)).flatten() else {
                // Nothing is dropped: it comes again when its lease is over, which is pause enough.
                tracing::warn!(
                    queue = self.queue,
                    "a message was rejected, and there is no dead-letter queue to take it"
                );
                return self.condemn(number);
            };
            self.forwarding.insert(number);
            let entry = Entry { text, attributes: attributes.drain().collect(), delay_seconds: 0 };
            return sender.forward(dead_letter, number, entry);
        }
        let attribute = |name| attributes.get(name).and_then(|value| value.string_value());
        let content_type =
            attribute(body::CONTENT_TYPE).map_or(ContentType::Json, |name| ContentType::from_wire(name.as_bytes()));
        let body = Arrived::new(content_type, attribute(body::ENCODING), text);
        let count = message.attributes.as_ref().and_then(|all| all.get(&SystemAttribute::ApproximateReceiveCount));
        let redelivered = count.is_some_and(|count| count != "1");
        self.waiting.push_back(Waiting { number, content_type, body, redelivered });
    }

    /// Delivers what there is room for, in the order in which it came.
    fn deliver(
        &mut self,
        config: &SqsConfig,
        memory: &mut dyn Memory,
        epoch: u32,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        while let Some(Waiting { number, content_type, body, redelivered }) = self.waiting.front() {
            let tag = Tag { epoch, number: *number };
            let len = body.len() as u64;
            match memory.reserve(len) {
                Room::Later => break,
                Room::TooLarge => events.push(Event::Oversize { tag, len }),
                Room::Granted(slot) => {
                    // Its base64 was checked when it came.
                    let written = body.write(memory.slot_mut(slot));
                    debug_assert!(written, "a slot of another length than was asked for");
                    let redelivery = Redelivery { redelivered: *redelivered, lost: None };
                    let content_type = *content_type;
                    events.push(Event::Delivered(Delivery { tag, slot, len, content_type, redelivery }));
                }
            }
            // Whoever holds it counts from now.
            let spent = self.leases.get(*number).map_or(Duration::ZERO, |lease| {
                config.visibility_timeout.saturating_sub(lease.until.saturating_duration_since(now))
            });
            if spent > config.slack() {
                self.leases.extend(*number, config.visibility_timeout, now);
            }
            self.leases.give(*number, epoch);
            self.waiting.pop_front();
        }
        let half = config.visibility_timeout / 2;
        for Waiting { number, .. } in &self.waiting {
            let left = self.leases.get(*number).map(|lease| lease.until.saturating_duration_since(now));
            if left.is_some_and(|left| left <= half) && !self.leases.is_extending(*number) {
                self.leases.extend(*number, config.visibility_timeout, now);
            }
        }
    }

    /// Tells of leases that have run out.
    pub(super) fn end_leases(&mut self, now: Instant, events: &mut Vec<Event>) {
        if self.leases.run_out(now, events) {
            self.drop_void();
        }
    }

    /// Drops what waits for room though it is not held any more.
    fn drop_void(&mut self) {
        self.waiting.retain(|waiting| self.leases.get(waiting.number).is_some());
    }

    /// Deletions are answered.
    pub(super) fn deleted(
        &mut self,
        numbers: &[u64],
        result: Result<Vec<Answer>, Trouble>,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        self.leases.deleted(numbers, result, now, events);
    }

    /// Changes of visibility are answered.
    pub(super) fn changed(
        &mut self,
        changes: &[(u64, u32)],
        since: Instant,
        result: Result<Vec<Answer>, Trouble>,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        self.leases.changed(changes, since, result, now, events);
        self.drop_void();
    }

    /// A copy for the dead-letter queue is safe, or not: then the message comes again when its lease is over, which is
    /// pause enough, and is tried again.
    pub(super) fn forwarded(&mut self, forwarded: Forwarded, queues: &mut Queues) {
        let Forwarded { number, answer } = forwarded;
        self.forwarding.remove(&number);
        match answer {
            Ok(()) => drop(self.leases.let_go(number, End::Delete)),
            Err(trouble) => {
                tracing::warn!(%trouble, "a rejected message could not be dead-lettered; it comes again");
                if let Some(queue) = self.queue.as_deref().filter(|_| trouble == Trouble::NoQueue) {
                    queues.declare_again(queue);
                }
                self.condemn(number);
            }
        }
    }
}
