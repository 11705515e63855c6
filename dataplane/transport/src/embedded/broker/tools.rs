//! What tools ask for: looking into queues, and changing what is in them. The frames are described in `admin`.

use std::fs::File;

use super::session::Body;
use super::{Change, Core, Keep, Message, Out, SessionId};
use crate::embedded::limits::OUT_BYTES_HIGH;
use crate::embedded::wire::{self, Fields, Malformed, frame};

/// Messages that one `BROWSE` shows at most.
const BROWSE_MAX: u32 = 10_000;

impl Core {
    pub(super) fn serve_tool(&mut self, id: SessionId, kind: u8, mut fields: Fields<'_>) -> Result<(), Malformed> {
        match kind {
            wire::LIST => self.list(id),
            wire::BROWSE => {
                let (after, limit, bytes_max) = (fields.u64()?, fields.u32()?, fields.u64()?);
                self.browse(id, fields.name()?, after, limit.min(BROWSE_MAX), bytes_max);
            }
            wire::REMOVE => {
                let seq = fields.u64()?;
                let done = self.take_out(fields.name()?, seq).map(|(queue_id, message)| {
                    self.discard(queue_id, &message);
                });
                self.done(id, u64::from(done.is_some()));
            }
            wire::MOVE => {
                let seq = fields.u64()?;
                let (from, to) = (fields.name()?, fields.name()?);
                self.move_message(id, seq, from, to);
            }
            wire::PURGE => {
                let count = self.purge(fields.name()?);
                self.done_or_error(id, count);
            }
            wire::DELETE => {
                let count = self.delete(fields.name()?);
                self.done_or_error(id, count);
            }
            wire::KEEP => {
                let keep = Keep { messages: fields.u64()?, bytes: fields.u64()? };
                let kept = self.keep(fields.name()?, keep);
                self.done_or_error(id, kept);
            }
            wire::DISCONNECT => {
                let others = self.sessions.iter_mut().filter(|(other, _)| **other != id);
                let count = others.map(|(_, session)| session.expelled = true).count();
                self.done(id, count as u64);
            }
            wire::PAUSE => {
                self.paused = fields.u8()? != 0;
                self.done(id, 1);
            }
            wire::STOP => {
                self.stopping = true;
                self.done(id, 1);
            }
            _ => return Err(Malformed("unknown kind of frame")),
        }
        Ok(())
    }

    fn done(&mut self, id: SessionId, count: u64) {
        self.done_or_error(id, Ok(count));
    }

    fn done_or_error(&mut self, id: SessionId, count: Result<u64, String>) {
        let mut reply = Vec::new();
        match count {
            Ok(count) => frame(&mut reply, wire::DONE, 0, |head| head.u64(count)),
            Err(why) => frame(&mut reply, wire::ERROR, 0, |head| head.name(&why)),
        }
        self.replies.push((id, reply));
    }

    fn list(&mut self, id: SessionId) {
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort();
        let mut replies = Vec::new();
        for queue in names.iter().filter_map(|(_, id)| self.queues.get(id)) {
            frame(&mut replies, wire::INFO, 0, |head| {
                let keep = queue.record.keep.unwrap_or(Keep { messages: u64::MAX, bytes: u64::MAX });
                let counters = queue.counters;
                for number in [
                    queue.ready.len() as u64,
                    queue.held,
                    queue.delayed.len() as u64,
                    queue.bytes,
                    queue.consumers.len() as u64,
                    counters.published,
                    counters.delivered,
                    counters.acknowledged,
                    counters.requeued,
                    counters.lost,
                    counters.dead_lettered,
                    counters.forgotten,
                    counters.refused,
                    keep.messages,
                    keep.bytes,
                    u64::from(queue.record.delivery_limit),
                ] {
                    head.u64(number);
                }
                head.name(&queue.record.name);
                head.name(queue.record.dead_letter.as_deref().unwrap_or_default());
            });
        }
        let count = names.len() as u64;
        self.replies.push((id, replies));
        self.done(id, count);
    }

    /// Shows what waits, is delayed or is held after a sequence number, oldest first, until enough is shown or the
    /// connection has enough to carry.
    fn browse(&mut self, id: SessionId, name: &str, after: u64, limit: u32, bytes_max: u64) {
        let Some(queue_id) = self.names.get(name).copied() else {
            return self.done_or_error(id, Err(format!("there is no queue {name}")));
        };
        let Some(queue) = self.queues.get(&queue_id) else { return };
        let from = after.saturating_add(1);
        let ready = queue.ready.range(from..).map(|(seq, message)| (*seq, message, 0_u8));
        let delayed = queue.delayed.range(from..).map(|(seq, (_, message))| (*seq, message, 1));
        let held = self.sessions.values().flat_map(|session| session.held.values());
        let held = held.filter(|held| held.queue == queue_id && held.message.seq >= from);
        let held = held.map(|held| (held.message.seq, &held.message, 2));
        let limit = limit as usize;
        let mut shown: Vec<_> = ready.take(limit).chain(delayed.take(limit)).chain(held).collect();
        shown.sort_by_key(|(seq, ..)| *seq);
        shown.truncate(limit);
        let shown: Vec<_> = shown.into_iter().map(|(_, message, state)| (message, state)).collect();
        let mut out = Out::default();
        let mut count = 0;
        for (message, state) in shown {
            let body = if message.len <= bytes_max { self.read_body(message) } else { Body::None };
            show(&mut out, message, state, body);
            count += 1;
            if out.len() > OUT_BYTES_HIGH || out.has_file() {
                break;
            }
        }
        out.frame(wire::DONE, 0, |head| head.u64(count));
        if let Some(session) = self.sessions.get_mut(&id) {
            session.out.append(out);
        }
    }

    fn read_body(&self, message: &Message) -> Body {
        if let Some(body) = &message.body {
            return Body::Bytes(body.clone());
        }
        if message.in_file {
            return File::open(self.store.body_path(message.seq)).map_or(Body::None, Body::File);
        }
        self.store.body(message.seq).ok().flatten().map_or(Body::None, Body::Bytes)
    }

    /// Takes a waiting or delayed message out of its queue, in memory.
    fn take_out(&mut self, name: &str, seq: u64) -> Option<(u32, Message)> {
        let queue_id = *self.names.get(name)?;
        let queue = self.queues.get_mut(&queue_id)?;
        let mut message = match queue.ready.remove(&seq) {
            Some(message) => message,
            None => {
                let (due, message) = queue.delayed.remove(&seq)?;
                self.due.remove(&(due, seq));
                message
            }
        };
        queue.count_out(message.len);
        if message.body.take().is_some() {
            self.cached_bytes -= message.len;
        }
        Some((queue_id, message))
    }

    fn discard(&mut self, queue_id: u32, message: &Message) {
        if let Some(queue) = self.queues.get_mut(&queue_id) {
            queue.counters.forgotten += 1;
        }
        self.changes.push(Change::Remove { seq: message.seq, in_file: message.in_file });
    }

    fn move_message(&mut self, id: SessionId, seq: u64, from: &str, to: &str) {
        let Some(target_id) = self.names.get(to).copied() else {
            return self.done_or_error(id, Err(format!("there is no queue {to}")));
        };
        let Some((_, mut message)) = self.take_out(from, seq) else {
            return self.done(id, 0);
        };
        message.lost = 0;
        message.redelivered = false;
        message.due_ms = 0;
        self.changes.push(Change::Head { seq, head: message.head(target_id) });
        if let Some(target) = self.queues.get_mut(&target_id) {
            target.count_in(message.len);
            target.counters.published += 1;
            target.ready.insert(seq, message);
            self.stirred.insert(target_id);
        }
        self.forget_oldest(target_id);
        self.done(id, 1);
    }

    fn purge(&mut self, name: &str) -> Result<u64, String> {
        let queue_id = self.names.get(name).ok_or_else(|| format!("there is no queue {name}"))?;
        let queue = self.queues.get(queue_id).ok_or_else(|| format!("there is no queue {name}"))?;
        let waiting: Vec<u64> = queue.ready.keys().chain(queue.delayed.keys()).copied().collect();
        for seq in &waiting {
            if let Some((queue_id, message)) = self.take_out(name, *seq) {
                self.discard(queue_id, &message);
            }
        }
        Ok(waiting.len() as u64)
    }

    fn delete(&mut self, name: &str) -> Result<u64, String> {
        let purged = self.purge(name)?;
        let Some(queue_id) = self.names.remove(name) else { return Ok(0) };
        let Some(queue) = self.queues.remove(&queue_id) else { return Ok(0) };
        for consumer in queue.consumers {
            if let Some(session) = self.sessions.get_mut(&consumer) {
                session.consumer = None;
                session.out.frame(wire::CANCELED, 0, |head| head.u8(0));
            }
        }
        let mut held = 0;
        for session in self.sessions.values_mut() {
            for (_, gone) in session.held.extract_if(.., |_, held| held.queue == queue_id) {
                let (seq, in_file) = (gone.message.seq, gone.message.in_file);
                self.changes.push(Change::Remove { seq, in_file });
                held += 1;
            }
        }
        self.changes.push(Change::DropQueue { id: queue_id });
        Ok(purged + held)
    }

    pub(super) fn keep(&mut self, name: &str, keep: Keep) -> Result<u64, String> {
        let queue_id = self.ensure_queue(name, None, 0)?;
        if let Some(queue) = self.queues.get_mut(&queue_id) {
            let bounded = keep.messages != u64::MAX || keep.bytes != u64::MAX;
            queue.record.keep = bounded.then_some(keep);
            self.changes.push(Change::Queue { id: queue_id, record: queue.record.clone() });
        }
        self.forget_oldest(queue_id);
        Ok(1)
    }
}

fn show(out: &mut Out, message: &Message, state: u8, body: Body) {
    let len = match body {
        Body::None => 0,
        Body::Bytes(_) | Body::File(_) => message.len,
    };
    out.frame(wire::MESSAGE, len, |head| {
        head.u64(message.seq);
        head.u8(state);
        head.content_type(message.content_type);
        head.u8(u8::from(message.redelivered));
        head.u8(u8::from(!matches!(body, Body::None)));
        head.u32(message.lost);
        head.u64(message.published_ms);
        head.u64(message.due_ms);
        head.u64(message.len);
        head.name(&message.id);
    });
    body.append_to(out, message.len);
}
