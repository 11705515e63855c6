//! Queues and messages in memory. What waits is ordered by sequence number, so that what is given back stands where
//! it stood.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use fjall::Slice;

use super::SessionId;
use crate::ContentType;
use crate::embedded::store::{QueueRecord, StoredHead};

/// A message without its body, or with it while that is cached.
pub(super) struct Message {
    pub(super) seq: u64,
    pub(super) len: u64,
    pub(super) content_type: ContentType,
    pub(super) in_file: bool,
    pub(super) redelivered: bool,
    pub(super) lost: u32,
    pub(super) due_ms: u64,
    pub(super) published_ms: u64,
    pub(super) id: Box<str>,
    pub(super) body: Option<Slice>,
}

impl Message {
    pub(super) fn stored(seq: u64, head: StoredHead) -> Self {
        Self {
            seq,
            len: head.len,
            content_type: head.content_type,
            in_file: head.in_file,
            redelivered: false,
            lost: head.lost,
            due_ms: head.due_ms,
            published_ms: head.published_ms,
            id: head.id,
            body: None,
        }
    }

    pub(super) fn head(&self, queue: u32) -> StoredHead {
        StoredHead {
            queue,
            content_type: self.content_type,
            in_file: self.in_file,
            lost: self.lost,
            due_ms: self.due_ms,
            published_ms: self.published_ms,
            len: self.len,
            id: self.id.clone(),
        }
    }
}

/// Counts of what has happened to a queue since the broker started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) acknowledged: u64,
    pub(super) requeued: u64,
    pub(super) lost: u64,
    pub(super) dead_lettered: u64,
    pub(super) forgotten: u64,
    pub(super) refused: u64,
}

/// One queue.
pub(super) struct Queue {
    pub(super) record: QueueRecord,
    pub(super) ready: BTreeMap<u64, Message>,
    pub(super) delayed: BTreeMap<u64, (Instant, Message)>,
    /// Whose turn it is, first.
    pub(super) consumers: VecDeque<SessionId>,
    pub(super) held: u64,
    /// Messages in it: ready, delayed, held, and staged.
    pub(super) messages: u64,
    /// Bytes of their bodies.
    pub(super) bytes: u64,
    pub(super) counters: Counters,
}

impl Queue {
    pub(super) fn new(record: QueueRecord) -> Self {
        Self {
            record,
            ready: BTreeMap::new(),
            delayed: BTreeMap::new(),
            consumers: VecDeque::new(),
            held: 0,
            messages: 0,
            bytes: 0,
            counters: Counters::default(),
        }
    }

    pub(super) fn count_in(&mut self, len: u64) {
        self.messages += 1;
        self.bytes += len;
    }

    pub(super) fn count_out(&mut self, len: u64) {
        self.messages -= 1;
        self.bytes -= len;
    }
}

impl QueueRecord {
    /// In what this queue is not what was asked for.
    pub(super) fn differs(&self, dead_letter: Option<&str>, limit: u32) -> Option<String> {
        if self.dead_letter.as_deref() != dead_letter {
            let is = self.dead_letter.as_deref().unwrap_or("nowhere");
            return Some(format!("it dead-letters to {is}, not to {}", dead_letter.unwrap_or("nowhere")));
        }
        (self.delivery_limit != limit).then(|| format!("its delivery limit is {}, not {limit}", self.delivery_limit))
    }
}
