//! The broker without its sockets: what each frame does to queues and sessions.
//!
//! Takes frames by session and the time; gives replies and deliveries in each session's [`Out`]. Blocks only in
//! [`Core::commit`], on the store. Nothing that a publish or a tool asked for is answered before that commit. When it
//! fails, publishes are refused, and everything else is kept and written once the store is open again.
//!
//! A turn is: [`Core::serve`] for all that was read, [`Core::commit`], [`Core::dispatch`].

mod out;
mod publishing;
mod queue;
mod session;
mod tools;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::limits::{DISK_CHECK_EVERY, QUEUE_NAME_BYTES_MAX, QUEUES_MAX, STORE_REOPEN_EVERY};
use super::store::{Change, Loaded, OpenError, Put, QueueRecord, Store};
use super::wire::{self, Fields, Malformed, frame};
use super::{Keep, Options};
pub(super) use out::{Chunk, Out};
pub(super) use publishing::{Refused, Upload};
use queue::{Message, Queue};
use session::Session;

/// Names a connection.
pub(super) type SessionId = usize;

/// A publish that waits for the commit of its turn.
struct Staged {
    session: SessionId,
    token: u64,
    queue: u32,
    message: Message,
    due: Option<Instant>,
}

/// The whole state of a broker.
pub(super) struct Core {
    options: Options,
    store: Store,
    queues: HashMap<u32, Queue>,
    names: HashMap<String, u32>,
    sessions: HashMap<SessionId, Session>,
    /// Delayed messages by the time at which they become ready: queue by (time, message).
    due: BTreeMap<(Instant, u64), u32>,
    /// Queues that may have something to deliver.
    stirred: BTreeSet<u32>,
    puts: Vec<Put>,
    staged: Vec<Staged>,
    changes: Vec<Change>,
    /// Replies that wait for the commit of their turn.
    replies: Vec<(SessionId, Vec<u8>)>,
    next_queue: u32,
    next_seq: u64,
    cached_bytes: u64,
    /// Why publishes are refused; what sessions were told.
    blocked: Option<String>,
    paused: bool,
    reopen_at: Option<Instant>,
    pub(super) stopping: bool,
}

impl Core {
    pub(super) fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let (store, loaded) = Store::open(dir, options.fsync)?;
        let mut core = Self {
            options,
            store,
            queues: HashMap::new(),
            names: HashMap::new(),
            sessions: HashMap::new(),
            due: BTreeMap::new(),
            stirred: BTreeSet::new(),
            puts: Vec::new(),
            staged: Vec::new(),
            changes: Vec::new(),
            replies: Vec::new(),
            next_queue: 1,
            next_seq: 1,
            cached_bytes: 0,
            blocked: None,
            paused: false,
            reopen_at: None,
            stopping: false,
        };
        core.load(loaded);
        Ok(core)
    }

    fn load(&mut self, loaded: Loaded) {
        for (id, record) in loaded.queues {
            self.next_queue = self.next_queue.max(id + 1);
            self.names.insert(record.name.clone(), id);
            self.queues.insert(id, Queue::new(record));
        }
        let (now, now_ms) = (Instant::now(), unix_ms());
        for (seq, head) in loaded.messages {
            self.next_seq = self.next_seq.max(seq + 1);
            let queue_id = head.queue;
            let Some(queue) = self.queues.get_mut(&queue_id) else {
                // Published in the turn that deleted its queue, and the broker ended before the next one.
                self.changes.push(Change::Remove { seq, in_file: head.in_file });
                continue;
            };
            let wait_ms = head.due_ms.saturating_sub(now_ms);
            let mut message = Message::stored(seq, head);
            message.redelivered = !loaded.clean || message.lost > 0;
            queue.count_in(message.len);
            if wait_ms > 0 {
                let due = now + std::time::Duration::from_millis(wait_ms);
                self.due.insert((due, seq), queue_id);
                queue.delayed.insert(seq, (due, message));
            } else {
                queue.ready.insert(seq, message);
            }
        }
    }

    /// A connection has come.
    pub(super) fn attach(&mut self, id: SessionId) {
        self.sessions.insert(id, Session::default());
    }

    /// A connection has gone: what it held goes back, one loss the more.
    pub(super) fn detach(&mut self, id: SessionId) {
        self.stop_consuming(id);
        let Some(session) = self.sessions.remove(&id) else { return };
        for (_, held) in session.held {
            let mut message = held.message;
            message.redelivered = true;
            message.lost += 1;
            let Some(queue) = self.queues.get_mut(&held.queue) else { continue };
            queue.counters.lost += 1;
            let limit = queue.record.delivery_limit;
            if limit > 0 && message.lost >= limit {
                self.dead_letter(held.queue, message);
            } else {
                self.changes.push(Change::Head { seq: message.seq, head: message.head(held.queue) });
                self.give_back(held.queue, message);
            }
        }
    }

    /// What waits to be written to a connection, if it is still there.
    pub(super) fn out(&mut self, id: SessionId) -> Option<&mut Out> {
        self.sessions.get_mut(&id).map(|session| &mut session.out)
    }

    /// Whether a tool asked for this connection to be ended.
    pub(super) fn is_expelled(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_none_or(|session| session.expelled)
    }

    /// A connection's socket took something: its consumer may take more.
    pub(super) fn drained(&mut self, id: SessionId) {
        if let Some(consumer) = self.sessions.get(&id).and_then(|session| session.consumer.as_ref()) {
            self.stirred.insert(consumer.queue);
        }
    }

    /// Does what a frame asks for. `body` is whole.
    pub(super) fn serve(
        &mut self,
        id: SessionId,
        kind: u8,
        head: &[u8],
        body: &[u8],
        now: Instant,
    ) -> Result<(), Malformed> {
        let greeted = self.sessions.get(&id).is_some_and(|session| session.greeted);
        if greeted == (kind == wire::HELLO) {
            return Err(Malformed("a connection begins with one HELLO"));
        }
        let mut fields = Fields(head);
        match kind {
            wire::PUBLISH => self.publish(id, head, body, now)?,
            wire::SETTLE => self.settle(id, fields.u8()?, fields.u64()?)?,
            wire::HELLO => self.greet(id, fields)?,
            wire::DECLARE => self.declare(id, fields)?,
            wire::CONSUME => {
                let window = fields.u32()?;
                self.consume(id, window, fields.name()?);
            }
            wire::CANCEL => {
                self.stop_consuming(id);
                self.reply(id, wire::CANCELED, |head| head.u8(1));
            }
            wire::DEPTH => self.depth(id, fields.name()?),
            _ => self.serve_tool(id, kind, fields)?,
        }
        Ok(())
    }

    fn greet(&mut self, id: SessionId, mut fields: Fields<'_>) -> Result<(), Malformed> {
        if fields.u32()? != wire::MAGIC {
            return Err(Malformed("not a client of this broker"));
        }
        // A client of another version is told ours, and goes by itself.
        let max = self.options.message_bytes_max;
        if fields.u16()? == wire::VERSION
            && let Some(session) = self.sessions.get_mut(&id)
        {
            session.greeted = true;
        }
        self.reply(id, wire::WELCOME, |head| {
            head.u16(wire::VERSION);
            head.u64(max);
        });
        if self.blocked.is_some() {
            self.reply(id, wire::BLOCKED, |head| head.u8(1));
        }
        Ok(())
    }

    fn declare(&mut self, id: SessionId, mut fields: Fields<'_>) -> Result<(), Malformed> {
        let (limit, quiet) = (fields.u32()?, fields.u8()? != 0);
        let (name, dead_letter) = (fields.name()?, fields.name()?);
        let dead_letter = Some(dead_letter).filter(|dead| !dead.is_empty());
        // The dead-letter queue first: nothing may point at what is not there. A queue that exists keeps its own.
        let existing = self.names.get(name).and_then(|id| self.queues.get(id));
        let target = existing.map_or(dead_letter.map(str::to_owned), |queue| queue.record.dead_letter.clone());
        let made = match target.map(|dead| self.ensure_queue(&dead, None, 0)) {
            Some(Err(why)) => Err(why),
            _ => self.ensure_queue(name, dead_letter, limit),
        };
        if quiet {
            return Ok(());
        }
        let mut reply = Vec::new();
        match made {
            Ok(queue) => {
                let differs = self.queues.get(&queue).and_then(|queue| queue.record.differs(dead_letter, limit));
                frame(&mut reply, wire::DECLARED, 0, |head| {
                    head.name(name);
                    head.name(differs.as_deref().unwrap_or_default());
                });
            }
            Err(why) => frame(&mut reply, wire::FAILED, 0, |head| {
                head.name(name);
                head.name(&why);
            }),
        }
        self.replies.push((id, reply));
        Ok(())
    }

    /// The queue of this name, made when it is not there.
    fn ensure_queue(&mut self, name: &str, dead_letter: Option<&str>, limit: u32) -> Result<u32, String> {
        if let Some(id) = self.names.get(name) {
            return Ok(*id);
        }
        if name.is_empty() || name.len() > QUEUE_NAME_BYTES_MAX {
            return Err(format!("a queue's name has 1 to {QUEUE_NAME_BYTES_MAX} bytes, not {}", name.len()));
        }
        if self.queues.len() >= QUEUES_MAX {
            return Err(format!("there are {QUEUES_MAX} queues already"));
        }
        let id = self.next_queue;
        self.next_queue += 1;
        let record = QueueRecord {
            name: name.to_owned(),
            dead_letter: dead_letter.map(str::to_owned),
            delivery_limit: limit,
            keep: None,
        };
        self.changes.push(Change::Queue { id, record: record.clone() });
        self.names.insert(name.to_owned(), id);
        self.queues.insert(id, Queue::new(record));
        Ok(id)
    }

    fn depth(&mut self, id: SessionId, name: &str) {
        match self.names.get(name).and_then(|queue| self.queues.get(queue)) {
            Some(queue) => {
                let (ready, held) = (queue.ready.len() as u64, queue.held);
                self.reply(id, wire::DEPTH_IS, |head| {
                    head.u64(ready);
                    head.u64(held);
                    head.name(name);
                });
            }
            None => self.reply(id, wire::FAILED, |head| {
                head.name(name);
                head.name("there is no such queue");
            }),
        }
    }

    /// Replies at once: for what needs no commit.
    fn reply(&mut self, id: SessionId, kind: u8, write: impl FnOnce(&mut wire::Head<'_>)) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.out.frame(kind, 0, write);
        }
    }

    /// Makes the turn's changes durable, applies its publishes and answers them. `Some`: how it failed.
    pub(super) fn commit(&mut self, now: Instant) {
        if !self.store.is_open() {
            self.reopen(now);
        }
        let result = self.store.commit(&mut self.puts, &mut self.changes);
        if let Err(error) = &result {
            if self.reopen_at.is_none() {
                tracing::error!(%error, "the broker's store failed; publishes are refused until it is back");
            }
            self.reopen_at.get_or_insert(now + STORE_REOPEN_EVERY);
            self.puts.clear();
        }
        for staged in std::mem::take(&mut self.staged) {
            match &result {
                Ok(()) => self.apply(staged),
                Err(error) => self.take_back(staged, &error.to_string()),
            }
        }
        for (id, reply) in self.replies.drain(..) {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.out.bytes(&reply);
            }
        }
        self.tell_blocked(now);
    }

    fn reopen(&mut self, now: Instant) {
        if self.reopen_at.is_some_and(|at| at > now) {
            return;
        }
        let mut known: HashSet<u64> = HashSet::new();
        for queue in self.queues.values() {
            known.extend(queue.ready.keys().chain(queue.delayed.keys()));
        }
        for session in self.sessions.values() {
            known.extend(session.held.values().map(|held| held.message.seq));
        }
        match self.store.reopen(|seq| known.contains(&seq)) {
            Ok(()) => {
                tracing::info!("the broker's store is back");
                self.reopen_at = None;
                self.stirred.extend(self.queues.keys());
            }
            Err(error) => {
                tracing::warn!(%error, "the broker's store is still failing");
                self.reopen_at = Some(now + STORE_REOPEN_EVERY);
            }
        }
    }

    /// Why publishes are refused now.
    fn refusal(&mut self, now: Instant) -> Option<String> {
        if self.paused {
            return Some("publishing is paused".into());
        }
        if !self.store.is_open() {
            return Some("the broker's store has failed; see its log".into());
        }
        let (free, min) = (self.store.disk_free(now), self.options.disk_free_min);
        (free < min).then(|| format!("the broker's disk is full: {free} bytes are free, {min} must stay"))
    }

    fn tell_blocked(&mut self, now: Instant) {
        let refusal = self.refusal(now);
        if refusal.is_some() != self.blocked.is_some() {
            match &refusal {
                Some(why) => tracing::warn!(why, "publishes are refused"),
                None => tracing::info!("publishes are taken again"),
            }
            for session in self.sessions.values_mut().filter(|session| session.greeted) {
                session.out.frame(wire::BLOCKED, 0, |head| head.u8(u8::from(refusal.is_some())));
            }
        }
        self.blocked = refusal;
    }

    /// Whether there is something to do that no socket will wake anybody for.
    pub(super) fn has_work(&self) -> bool {
        !self.stirred.is_empty() || (self.store.is_open() && !self.changes.is_empty())
    }

    /// Whether a large body is synced before it is confirmed.
    pub(super) fn fsync(&self) -> bool {
        self.options.fsync
    }

    /// When something is due without anybody asking.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let delayed = self.due.keys().next().map(|(due, _)| *due);
        let disk = self.blocked.as_ref().map(|_| now + DISK_CHECK_EVERY);
        delayed.into_iter().chain(disk).chain(self.reopen_at).min()
    }

    /// Moves what is due from delayed to ready.
    pub(super) fn ripen(&mut self, now: Instant) {
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, seq), queue_id) = entry.remove_entry();
            if let Some(queue) = self.queues.get_mut(&queue_id)
                && let Some((_, message)) = queue.delayed.remove(&seq)
            {
                queue.ready.insert(seq, message);
                self.stirred.insert(queue_id);
            }
        }
    }

    /// Says goodbye to the store. What is still held was delivered and not settled, so the next process must not
    /// take its queues for untouched.
    pub(super) fn close(mut self) {
        let held = self.sessions.values().any(|session| !session.held.is_empty());
        if let Err(error) = self.store.commit(&mut self.puts, &mut self.changes) {
            tracing::error!(%error, "the last changes could not be stored");
        } else if !held && let Err(error) = self.store.close() {
            tracing::warn!(%error, "the broker's store was not closed cleanly");
        }
    }

    #[cfg(test)]
    pub(super) fn store(&mut self) -> &mut Store {
        &mut self.store
    }
}

/// Unix time in ms.
fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

#[cfg(test)]
mod tests;
