//! What a connection consumes and holds: consuming, delivering, settling.

use std::collections::BTreeMap;
use std::fs::File;

use super::{Core, Message, Out, SessionId};
use crate::embedded::limits::OUT_BYTES_HIGH;
use crate::embedded::store::Change;
use crate::embedded::wire::{self, Malformed};

/// One connection.
#[derive(Default)]
pub(super) struct Session {
    pub(super) out: Out,
    pub(super) greeted: bool,
    pub(super) expelled: bool,
    pub(super) consumer: Option<Consumer>,
    pub(super) held: BTreeMap<u64, Held>,
    last_number: u64,
}

/// A session's wish for deliveries.
pub(super) struct Consumer {
    pub(super) queue: u32,
    window: usize,
}

/// A delivery that is not settled.
pub(super) struct Held {
    pub(super) queue: u32,
    pub(super) message: Message,
}

impl Session {
    fn has_room(&self) -> bool {
        let window = self.consumer.as_ref().map_or(0, |consumer| consumer.window);
        self.held.len() < window && self.out.len() < OUT_BYTES_HIGH && !self.out.has_file()
    }
}

impl Core {
    pub(super) fn consume(&mut self, id: SessionId, window: u32, name: &str) {
        let Some(queue_id) = self.names.get(name).copied() else {
            self.stop_consuming(id);
            return self.reply(id, wire::CANCELED, |head| head.u8(0));
        };
        let before =
            self.sessions.get(&id).and_then(|session| session.consumer.as_ref()).map(|consumer| consumer.queue);
        if before.is_some_and(|before| before != queue_id) {
            self.stop_consuming(id);
        }
        let Some(queue) = self.queues.get_mut(&queue_id) else { return };
        if before != Some(queue_id) {
            queue.consumers.push_back(id);
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.consumer = Some(Consumer { queue: queue_id, window: window as usize });
        }
        self.stirred.insert(queue_id);
    }

    pub(super) fn stop_consuming(&mut self, id: SessionId) {
        let consumer = self.sessions.get_mut(&id).and_then(|session| session.consumer.take());
        if let Some(queue) = consumer.and_then(|consumer| self.queues.get_mut(&consumer.queue)) {
            queue.consumers.retain(|consumer| *consumer != id);
        }
    }

    /// Hands what is ready to whoever has room, in turns.
    pub(in crate::embedded) fn dispatch(&mut self) {
        for queue in std::mem::take(&mut self.stirred) {
            while self.deliver_one(queue) {}
        }
    }

    fn deliver_one(&mut self, queue_id: u32) -> bool {
        let Some(queue) = self.queues.get_mut(&queue_id) else { return false };
        if queue.ready.is_empty() {
            return false;
        }
        let sessions = &mut self.sessions;
        let at = queue.consumers.iter().position(|id| sessions.get(id).is_some_and(Session::has_room));
        let Some(id) = at.and_then(|at| queue.consumers.remove(at)) else { return false };
        queue.consumers.push_back(id);
        let (Some((_, mut message)), Some(session)) = (queue.ready.pop_first(), sessions.get_mut(&id)) else {
            return false;
        };
        let body = match message.body.take() {
            Some(body) => {
                self.cached_bytes -= message.len;
                Body::Bytes(body)
            }
            None if message.in_file => match File::open(self.store.body_path(message.seq)) {
                Ok(file) => Body::File(file),
                Err(error) => return skip(&message, &error),
            },
            None => match self.store.body(message.seq) {
                Ok(Some(body)) => Body::Bytes(body),
                Ok(None) => return skip(&message, &"it is not in the store"),
                Err(_) => {
                    // The store is closed; it stirs every queue when it is back.
                    queue.ready.insert(message.seq, message);
                    return false;
                }
            },
        };
        session.last_number += 1;
        let number = session.last_number;
        session.out.frame(wire::DELIVER, message.len, |head| {
            head.u64(number);
            head.content_type(message.content_type);
            head.u8(u8::from(message.redelivered));
            head.u32(message.lost);
        });
        body.append_to(&mut session.out, message.len);
        session.held.insert(number, Held { queue: queue_id, message });
        queue.held += 1;
        queue.counters.delivered += 1;
        true
    }

    pub(super) fn settle(&mut self, id: SessionId, how: u8, number: u64) -> Result<(), Malformed> {
        let Some(held) = self.sessions.get_mut(&id).and_then(|session| session.held.remove(&number)) else {
            return Ok(());
        };
        let Held { queue: queue_id, mut message } = held;
        self.stirred.insert(queue_id);
        let Some(queue) = self.queues.get_mut(&queue_id) else { return Ok(()) };
        match how {
            wire::settle::ACK => {
                queue.held -= 1;
                queue.counters.acknowledged += 1;
                queue.count_out(message.len);
                self.changes.push(Change::Remove { seq: message.seq, in_file: message.in_file });
            }
            wire::settle::REQUEUE => {
                queue.counters.requeued += 1;
                message.redelivered = true;
                self.give_back(queue_id, message);
            }
            wire::settle::REJECT => self.dead_letter(queue_id, message),
            _ => return Err(Malformed("unknown settlement")),
        }
        Ok(())
    }

    /// A held message waits again, where it stood.
    pub(super) fn give_back(&mut self, queue_id: u32, message: Message) {
        if let Some(queue) = self.queues.get_mut(&queue_id) {
            queue.held -= 1;
            queue.ready.insert(message.seq, message);
            self.stirred.insert(queue_id);
        }
    }

    /// A held message goes to the dead-letter queue; where the queue has none, it is gone.
    pub(super) fn dead_letter(&mut self, queue_id: u32, mut message: Message) {
        let Some(queue) = self.queues.get_mut(&queue_id) else { return };
        queue.held -= 1;
        queue.counters.dead_lettered += 1;
        queue.count_out(message.len);
        let target = queue.record.dead_letter.clone();
        let target = target.and_then(|target| self.ensure_queue(&target, None, 0).ok());
        let Some((target_id, target)) = target.and_then(|id| self.queues.get_mut(&id).map(|queue| (id, queue))) else {
            self.changes.push(Change::Remove { seq: message.seq, in_file: message.in_file });
            return;
        };
        message.redelivered = false;
        message.lost = 0;
        message.due_ms = 0;
        self.changes.push(Change::Head { seq: message.seq, head: message.head(target_id) });
        target.count_in(message.len);
        target.counters.published += 1;
        target.ready.insert(message.seq, message);
        self.stirred.insert(target_id);
        self.forget_oldest(target_id);
    }
}

/// A body as it is had.
pub(super) enum Body {
    None,
    Bytes(fjall::Slice),
    File(File),
}

impl Body {
    pub(super) fn append_to(self, out: &mut Out, len: u64) {
        match self {
            Self::None => {}
            Self::Bytes(body) => out.body(body),
            Self::File(file) => out.file(file, len),
        }
    }
}

/// A message whose body cannot be had stays in the store, for a person to look at, and out of everybody's way.
fn skip(message: &Message, why: &dyn std::fmt::Display) -> bool {
    tracing::error!(seq = message.seq, id = %message.id, %why, "a message's body cannot be read; it is passed over");
    true
}
