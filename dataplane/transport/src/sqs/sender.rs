//! Messages on their way to queues.
//!
//! Takes publishes, gives each its one answer. Never blocks. What is published in one turn for one queue leaves in
//! batches of up to ten messages and 1 MiB together; several batches are on their way at once, to one queue too. A
//! body is made text only when its batch leaves, so that what waits costs no more than its head.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::MessageAttributeValue;

use super::body::{self, ATTRIBUTES_BYTES, MESSAGE_BYTES_MAX, body_limit};
use super::calls::{BATCH, Calls, Entry};
use super::queues::{Queues, is_name};
use super::trouble::{Answer, Trouble};
use crate::api::{ContentType, Event, Memory, Outcome, Part, Publish, Token};

/// Batches on their way at once. SQS answers in about 10 ms, so this is some 16,000 messages a second; each may hold
/// 1 MiB of text, and a connection.
const OPEN_MAX: usize = 16;
/// The longest delay of SQS.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(900);

/// For whom a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// The caller.
    Caller(Token),
    /// This transport: the delivery of this number was rejected, and is deleted once its copy is safe.
    Rejected(u64),
}

/// What is to be sent.
#[derive(Debug)]
enum Load {
    /// A publish whose body is still in memory.
    Raw { content_type: ContentType, id: Option<String>, head: Vec<u8>, split: usize, parts: Vec<Part>, delay: u32 },
    /// Text that did not fit in the last batch, or has arrived as such.
    Text(Entry),
}

/// Messages for one queue, in the order of their submission; never empty.
type Outbox = VecDeque<(For, Load)>;

/// What waits for a call, and what is on its way. As many as the caller has open, which it bounds itself.
#[derive(Debug, Default)]
pub(super) struct Sender {
    outboxes: BTreeMap<String, Outbox>,
    /// Batches on their way: to which queue, and for whom.
    open: BTreeMap<u64, (String, Vec<For>)>,
    /// Calls whose answers nobody waits for any more.
    orphans: usize,
    next_call: u64,
    /// The queue that was sent to last.
    turn: String,
    /// The most that one batch may hold, once SQS has taken less than it says.
    batch_bytes_max: Option<u64>,
}

/// A message of this transport's own that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forwarded {
    pub(super) number: u64,
    pub(super) answer: Answer,
}

impl Sender {
    /// Takes a publish. What can be told at once is answered at once.
    pub(super) fn publish(&mut self, publish: Publish<'_>, queues: &Queues, events: &mut Vec<Event>) {
        let Publish { token, queue, content_type, message_id, body, delay } = publish;
        let delay = delay.unwrap_or_default();
        if delay > DELAY_MAX || delay.subsec_nanos() > 0 {
            let outcome = Outcome::Unsupported("delay a message by anything but whole seconds, up to 900");
            return events.push(Event::Published { token, outcome });
        }
        if !is_name(queue) {
            return events.push(Event::Published { token, outcome: Outcome::Unroutable });
        }
        let limit = queues.message_bytes_max(queue);
        let native = content_type == ContentType::Native;
        let most = if native { body_limit(limit) } else { limit.saturating_sub(ATTRIBUTES_BYTES) };
        if body.len() > most {
            return events.push(Event::Published { token, outcome: Outcome::TooLarge(body_limit(limit)) });
        }
        let load = Load::Raw {
            content_type,
            id: body::message_id(message_id),
            head: [body.prefix, body.suffix].concat(),
            split: body.prefix.len(),
            parts: body.parts.to_vec(),
            delay: delay.as_secs() as u32,
        };
        self.outbox(queue).push_back((For::Caller(token), load));
    }

    /// Sends a message on as it arrived.
    pub(super) fn forward(&mut self, queue: &str, number: u64, entry: Entry) {
        self.outbox(queue).push_back((For::Rejected(number), Load::Text(entry)));
    }

    fn outbox(&mut self, queue: &str) -> &mut Outbox {
        // Nearly always there: no name is copied for a look.
        if !self.outboxes.contains_key(queue) {
            self.outboxes.insert(queue.to_owned(), Outbox::new());
        }
        self.outboxes.entry(queue.to_owned()).or_default()
    }

    /// Whether nothing waits and nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.outboxes.is_empty() && self.open.is_empty()
    }

    /// Starts as many batches as may leave.
    pub(super) fn start(
        &mut self,
        client: &Client,
        queues: &mut Queues,
        calls: &mut Calls,
        memory: &dyn Memory,
        events: &mut Vec<Event>,
    ) {
        while self.open.len() + self.orphans < OPEN_MAX {
            let Some((queue, url)) = self.next_queue(queues) else { return };
            let Some(outbox) = self.outboxes.get_mut(&queue) else { return };
            let most = self.batch_bytes_max.unwrap_or(MESSAGE_BYTES_MAX);
            let (whom, entries) = batch(outbox, queues.message_bytes_max(&queue), most, memory, events);
            if outbox.is_empty() {
                self.outboxes.remove(&queue);
            }
            self.turn.clone_from(&queue);
            if !entries.is_empty() {
                self.next_call += 1;
                calls.send(client, &url, self.next_call, entries);
                self.open.insert(self.next_call, (queue, whom));
            }
        }
    }

    /// The next queue to send to, with its address: each in its turn, so that none waits behind another's backlog. Asks
    /// for addresses that are missing.
    fn next_queue(&self, queues: &mut Queues) -> Option<(String, Arc<str>)> {
        let after = self.outboxes.range::<str, _>((Bound::Excluded(self.turn.as_str()), Bound::Unbounded));
        let before = self.outboxes.range::<str, _>((Bound::Unbounded, Bound::Included(self.turn.as_str())));
        after.chain(before).find_map(|(queue, _)| {
            let url = queues.url(queue);
            if url.is_none() {
                queues.resolve(queue);
            }
            Some((queue.clone(), url?))
        })
    }

    /// A batch is answered. Gives what became of this transport's own messages.
    pub(super) fn sent(
        &mut self,
        call: u64,
        result: Result<Vec<Answer>, Trouble>,
        queues: &mut Queues,
        events: &mut Vec<Event>,
    ) -> Vec<Forwarded> {
        let Some((queue, whom)) = self.open.remove(&call) else {
            self.orphans -= 1;
            return Vec::new();
        };
        if result == Err(Trouble::NoQueue) {
            queues.forget(&queue);
        }
        if let Err(Trouble::BatchTooLarge(told)) = result
            && whom.len() > 1
        {
            let most = self.batch_bytes_max.unwrap_or(MESSAGE_BYTES_MAX);
            self.batch_bytes_max = Some(told.filter(|told| *told < most).unwrap_or(most / 2));
            tracing::warn!(
                bytes = self.batch_bytes_max,
                "SQS takes less in one batch than it says: batches are smaller from now"
            );
            let again = Trouble::Later(Trouble::BatchTooLarge(told).to_string());
            return whom.into_iter().filter_map(|whom| tell(whom, Err(again.clone()), 0, events)).collect();
        }
        let limit = queues.message_bytes_max(&queue);
        match result {
            Ok(answers) => {
                whom.into_iter().zip(answers).filter_map(|(whom, answer)| tell(whom, answer, limit, events)).collect()
            }
            Err(trouble) => {
                whom.into_iter().filter_map(|whom| tell(whom, Err(trouble.clone()), limit, events)).collect()
            }
        }
    }

    /// A queue has no address: all that waits for it is answered.
    pub(super) fn unresolved(&mut self, queue: &str, trouble: &Trouble, events: &mut Vec<Event>) -> Vec<Forwarded> {
        let waiting = self.outboxes.remove(queue).unwrap_or_default();
        waiting.into_iter().filter_map(|(whom, _)| tell(whom, Err(trouble.clone()), 0, events)).collect()
    }

    /// Nobody answers any more: everything is answered as lost, whatever becomes of it.
    pub(super) fn lose_all(&mut self, why: &str, events: &mut Vec<Event>) -> Vec<Forwarded> {
        let open = std::mem::take(&mut self.open);
        self.orphans += open.len();
        let open = open.into_values().flat_map(|(_, whom)| whom);
        let waiting = std::mem::take(&mut self.outboxes).into_values().flatten().map(|(whom, _)| whom);
        let lost = || Err(Trouble::Unreachable(why.to_owned()));
        open.chain(waiting).filter_map(|whom| tell(whom, lost(), 0, events)).collect()
    }
}

/// Answers one message; gives it back where it is this transport's own.
fn tell(whom: For, answer: Answer, limit: u64, events: &mut Vec<Event>) -> Option<Forwarded> {
    match whom {
        For::Rejected(number) => Some(Forwarded { number, answer }),
        For::Caller(token) => {
            let outcome = answer.map_or_else(|trouble| outcome(trouble, limit), |()| Outcome::Confirmed);
            events.push(Event::Published { token, outcome });
            None
        }
    }
}

fn outcome(trouble: Trouble, limit: u64) -> Outcome {
    match trouble {
        Trouble::NoQueue => Outcome::Unroutable,
        Trouble::TooLarge(told) | Trouble::BatchTooLarge(told) => Outcome::TooLarge(body_limit(told.unwrap_or(limit))),
        Trouble::Unreachable(_) | Trouble::Unclear(_) => Outcome::Lost,
        Trouble::Later(why) | Trouble::Credentials(why) | Trouble::Denied(why) => Outcome::Refused(why),
        Trouble::Refused(why) | Trouble::Void(why) => {
            tracing::warn!(why, "SQS refuses a message for what it is");
            Outcome::Unsupported("send what SQS refuses")
        }
    }
}

/// Takes a batch out of an outbox: at most ten messages, none with more than `largest` bytes, and no more than `most`
/// bytes together, unless it is one message.
fn batch(
    outbox: &mut Outbox,
    largest: u64,
    most: u64,
    memory: &dyn Memory,
    events: &mut Vec<Event>,
) -> (Vec<For>, Vec<Entry>) {
    let (mut whom, mut entries, mut bytes) = (Vec::new(), Vec::new(), 0);
    while entries.len() < BATCH
        && let Some((one, load)) = outbox.pop_front()
    {
        let entry = match load {
            Load::Text(entry) => entry,
            Load::Raw { content_type, id, head, split, parts, delay } => {
                let (prefix, suffix) = head.split_at(split);
                let room = largest.saturating_sub(ATTRIBUTES_BYTES);
                let encoded = body::encode(content_type, assemble(prefix, &parts, suffix, memory), room);
                // JSON that has to go as base64.
                if encoded.text.len() as u64 > room {
                    let answer = Err(Trouble::TooLarge(Some(largest)));
                    tell(one, answer, largest, events);
                    continue;
                }
                entry(encoded, content_type, id, delay)
            }
        };
        let size = size_of(&entry);
        if bytes + size > most && !entries.is_empty() {
            outbox.push_front((one, Load::Text(entry)));
            break;
        }
        bytes += size;
        whom.push(one);
        entries.push(entry);
    }
    (whom, entries)
}

fn assemble(prefix: &[u8], parts: &[Part], suffix: &[u8], memory: &dyn Memory) -> Vec<u8> {
    // Bounded by the largest message: see `publish`.
    let len = parts.iter().map(|part| part.len as usize).sum::<usize>() + prefix.len() + suffix.len();
    let mut body = Vec::with_capacity(len);
    body.extend_from_slice(prefix);
    parts.iter().for_each(|part| memory.copy_part(*part, &mut body));
    body.extend_from_slice(suffix);
    body
}

fn entry(encoded: body::Encoded, content_type: ContentType, id: Option<String>, delay_seconds: u32) -> Entry {
    let mut attributes = vec![(body::CONTENT_TYPE.to_owned(), text_attribute(content_type.as_str()))];
    attributes.extend(encoded.encoding.map(|encoding| (body::ENCODING.to_owned(), text_attribute(encoding))));
    attributes.extend(id.map(|id| (body::MESSAGE_ID.to_owned(), text_attribute(&id))));
    Entry {
        text: encoded.text,
        attributes: attributes.into_iter().filter_map(|(k, v)| Some((k, v?))).collect(),
        delay_seconds,
    }
}

fn text_attribute(value: &str) -> Option<MessageAttributeValue> {
    MessageAttributeValue::builder().data_type("String").string_value(value).build().ok()
}

/// What SQS counts of a message: its text, and names, types and values of its attributes.
fn size_of(entry: &Entry) -> u64 {
    let attribute = |(name, value): &(String, MessageAttributeValue)| {
        let text = value.string_value().map_or(0, str::len);
        let binary = value.binary_value().map_or(0, |blob| blob.as_ref().len());
        name.len() + value.data_type().len() + text + binary
    };
    (entry.text.len() + entry.attributes.iter().map(attribute).sum::<usize>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::HeapMemory;

    fn raw(memory: &mut HeapMemory, token: u64, content_type: ContentType, len: usize) -> (For, Load) {
        let parts = vec![memory.put(&vec![b'x'; len])];
        let load =
            Load::Raw { content_type, id: Some("i".repeat(255)), head: b"[]".to_vec(), split: 1, parts, delay: 0 };
        (For::Caller(Token(token)), load)
    }

    /// The sizes of the batches that leave, and what is told meanwhile.
    fn batches(mut outbox: Outbox, memory: &HeapMemory) -> (Vec<Vec<u64>>, Vec<Event>) {
        let (mut sizes, mut events) = (Vec::new(), Vec::new());
        while !outbox.is_empty() {
            let (whom, entries) = batch(&mut outbox, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX, memory, &mut events);
            assert_eq!(whom.len(), entries.len());
            sizes.push(entries.iter().map(size_of).collect());
        }
        (sizes, events)
    }

    #[test]
    fn a_batch_has_ten_messages_and_a_mebibyte_at_most() {
        let mut memory = HeapMemory::new(0, 0);
        let lens = (0..200).map(|at| if at % 7 == 0 { 700_000 } else { (at * 7919) % 150_000 });
        let outbox = lens.zip(0..).map(|(len, token)| {
            let kind = if token % 2 == 0 { ContentType::Json } else { ContentType::Native };
            raw(&mut memory, token, kind, len)
        });
        let (batches, events) = batches(outbox.collect(), &memory);
        assert_eq!(events, []);
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 200);
        assert!(batches.iter().all(|batch| batch.len() <= BATCH && batch.iter().sum::<u64>() <= MESSAGE_BYTES_MAX));
        let joined =
            |pair: &[Vec<u64>]| pair[0].len() < BATCH && pair[0].iter().sum::<u64>() + pair[1][0] <= MESSAGE_BYTES_MAX;
        assert!(!batches.windows(2).any(joined), "a batch left with room for the next message");
    }

    #[test]
    fn the_largest_fits_and_one_byte_more_is_told() {
        let mut memory = HeapMemory::new(0, 0);
        let limit = body_limit(MESSAGE_BYTES_MAX);
        let outbox = [(1, limit), (2, limit + 1), (3, 2 * MESSAGE_BYTES_MAX)];
        let outbox = outbox.map(|(token, len)| raw(&mut memory, token, ContentType::Native, len as usize - 2));
        let (batches, events) = batches(outbox.into(), &memory);
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 1);
        let told = |token| Event::Published { token: Token(token), outcome: Outcome::TooLarge(limit) };
        assert_eq!(events, [told(2), told(3)]);
    }

    #[test]
    fn attributes_never_exceed_what_is_set_aside() {
        let longest = body::Encoded { text: String::new(), encoding: Some(body::BASE64) };
        let entry = entry(longest, ContentType::Native, Some("i".repeat(255)), 0);
        assert_eq!(entry.attributes.len(), 3);
        assert!(size_of(&entry) <= ATTRIBUTES_BYTES);
    }
}
