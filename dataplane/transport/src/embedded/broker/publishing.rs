//! Taking messages in: what is refused, what is staged for the commit, what happens after it.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fjall::Slice;

use super::{Core, Message, Put, SessionId, Staged, unix_ms};
use crate::ContentType;
use crate::embedded::limits::{CACHED_BYTES_MAX, MESSAGE_ID_BYTES_MAX};
use crate::embedded::store::Change;
use crate::embedded::wire::{self, Fields, Malformed, cut, outcome};

/// Stands for every delay that no clock can hold.
const FAR_AWAY: Duration = Duration::from_secs(1 << 32);

/// The head of a `PUBLISH`.
struct Request<'a> {
    token: u64,
    delay_ms: u64,
    content_type: ContentType,
    queue: &'a str,
    id: &'a str,
}

impl<'a> Request<'a> {
    fn read(head: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(head);
        Ok(Self {
            token: fields.u64()?,
            delay_ms: fields.u64()?,
            content_type: fields.content_type()?,
            queue: fields.name()?,
            id: fields.name()?,
        })
    }
}

/// Why a message is not taken.
struct Refusal(u8, u64, String);

/// A refusal that is still to be told: not before the last byte of the body has come, since until then the client
/// writes it from memory that the answer lets it use again.
pub(in crate::embedded) struct Refused {
    session: SessionId,
    token: u64,
    refusal: Refusal,
}

/// A large body on its way into its file.
pub(in crate::embedded) struct Upload {
    session: SessionId,
    token: u64,
    queue: u32,
    message: Message,
    delay: Duration,
    file: File,
    dir: PathBuf,
    left: u64,
}

impl Upload {
    /// Bytes that have not come yet.
    pub(in crate::embedded) fn left(&self) -> u64 {
        self.left
    }

    pub(in crate::embedded) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.left -= bytes.len() as u64;
        Ok(())
    }

    /// What brings the file to the disk, its name included. To be run where blocking harms nobody.
    pub(in crate::embedded) fn sync(&self) -> io::Result<impl FnOnce() -> io::Result<()> + Send + 'static> {
        let (file, dir) = (self.file.try_clone()?, File::open(&self.dir)?);
        Ok(move || file.sync_all().and_then(|()| dir.sync_all()))
    }
}

impl Core {
    pub(super) fn publish(&mut self, id: SessionId, head: &[u8], body: &[u8], now: Instant) -> Result<(), Malformed> {
        let request = Request::read(head)?;
        match self.accept(&request, body.len() as u64, now) {
            Err(refusal) => self.refuse(id, request.token, &refusal),
            Ok(queue) => {
                let mut message = self.message(&request, body.len() as u64, false);
                let body = Slice::from(body);
                message.body = Some(body.clone());
                self.stage(id, request.token, queue, message, Duration::from_millis(request.delay_ms), Some(body));
            }
        }
        Ok(())
    }

    /// Begins to take a body of `len` bytes into a file. Where it is refused, its bytes are to be skipped, and then the
    /// refusal to be told.
    pub(in crate::embedded) fn begin_upload(
        &mut self,
        id: SessionId,
        head: &[u8],
        len: u64,
        now: Instant,
    ) -> Result<Result<Upload, Refused>, Malformed> {
        if !self.sessions.get(&id).is_some_and(|session| session.greeted) {
            return Err(Malformed("a connection begins with one HELLO"));
        }
        let request = Request::read(head)?;
        let accepted = self.accept(&request, len, now).and_then(|queue| {
            let message = self.message(&request, len, true);
            let path = self.store.body_path(message.seq);
            let file = File::create(&path);
            let file = file.map_err(|error| Refusal(outcome::REFUSED, 0, format!("no file for a body: {error}")))?;
            Ok(Upload {
                session: id,
                token: request.token,
                queue,
                message,
                delay: Duration::from_millis(request.delay_ms),
                file,
                dir: path.parent().map(Path::to_owned).unwrap_or_default(),
                left: len,
            })
        });
        Ok(accepted.map_err(|refusal| Refused { session: id, token: request.token, refusal }))
    }

    /// The body is whole and, where that is asked for, on the disk.
    pub(in crate::embedded) fn finish_upload(&mut self, upload: Upload) {
        let Upload { session, token, queue, message, delay, .. } = upload;
        match self.check_queue(queue, message.len) {
            Ok(()) => self.stage(session, token, queue, message, delay, None),
            Err(refusal) => {
                self.store.delete_body(message.seq);
                self.refuse(session, token, &refusal);
            }
        }
    }

    /// The body did not come, or could not be stored.
    pub(in crate::embedded) fn abort_upload(&mut self, upload: Upload, why: &dyn Display) -> Refused {
        self.store.delete_body(upload.message.seq);
        let refusal = Refusal(outcome::REFUSED, 0, format!("a body could not be stored: {why}"));
        Refused { session: upload.session, token: upload.token, refusal }
    }

    /// The body has been skipped, or is whole.
    pub(in crate::embedded) fn tell_refused(&mut self, refused: &Refused) {
        self.refuse(refused.session, refused.token, &refused.refusal);
    }

    fn accept(&mut self, request: &Request<'_>, len: u64, now: Instant) -> Result<u32, Refusal> {
        if len > self.options.message_bytes_max {
            return Err(Refusal(outcome::TOO_LARGE, self.options.message_bytes_max, String::new()));
        }
        let Some(queue) = self.names.get(request.queue).copied() else {
            return Err(Refusal(outcome::UNROUTABLE, 0, String::new()));
        };
        let refused = self.refusal(now).map(|why| Refusal(outcome::REFUSED, 0, why));
        let checked = refused.map_or(Ok(()), Err).and_then(|()| self.check_queue(queue, len));
        if checked.is_err()
            && let Some(queue) = self.queues.get_mut(&queue)
        {
            queue.counters.refused += 1;
        }
        checked.map(|()| {
            self.store.expect_bytes(len);
            queue
        })
    }

    fn check_queue(&self, queue: u32, len: u64) -> Result<(), Refusal> {
        let Some(queue) = self.queues.get(&queue) else {
            return Err(Refusal(outcome::UNROUTABLE, 0, String::new()));
        };
        let (messages_max, bytes_max) = (self.options.queue_messages_max, self.options.queue_bytes_max);
        // A queue that forgets makes its own room.
        let full = queue.messages >= messages_max || queue.bytes.saturating_add(len) > bytes_max;
        if full && queue.record.keep.is_none() {
            let why = format!(
                "{} is full: {} messages of {messages_max}, {} bytes of {bytes_max}",
                queue.record.name, queue.messages, queue.bytes
            );
            return Err(Refusal(outcome::REFUSED, 0, why));
        }
        Ok(())
    }

    fn message(&mut self, request: &Request<'_>, len: u64, in_file: bool) -> Message {
        let seq = self.next_seq;
        self.next_seq += 1;
        let published_ms = unix_ms();
        Message {
            seq,
            len,
            content_type: request.content_type,
            in_file,
            redelivered: false,
            lost: 0,
            // One more than asked for, because the time of publishing was rounded down.
            due_ms: if request.delay_ms == 0 { 0 } else { (published_ms + 1).saturating_add(request.delay_ms) },
            published_ms,
            id: cut(request.id, MESSAGE_ID_BYTES_MAX).into(),
            body: None,
        }
    }

    fn stage(
        &mut self,
        session: SessionId,
        token: u64,
        queue: u32,
        message: Message,
        delay: Duration,
        body: Option<Slice>,
    ) {
        // Counted from here and not from the turn's beginning, which may lie before the request: never early.
        let due = (!delay.is_zero()).then(|| {
            let now = Instant::now();
            now.checked_add(delay).unwrap_or(now + FAR_AWAY)
        });
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.count_in(message.len);
        }
        self.puts.push(Put { seq: message.seq, head: message.head(queue), body });
        self.staged.push(Staged { session, token, queue, message, due });
    }

    /// A staged publish is safe.
    pub(super) fn apply(&mut self, staged: Staged) {
        let Staged { session, token, queue: queue_id, mut message, due } = staged;
        self.published(session, token, &Refusal(outcome::CONFIRMED, 0, String::new()));
        let Some(queue) = self.queues.get_mut(&queue_id) else {
            // Deleted in the same turn, with everything in it.
            self.changes.push(Change::Remove { seq: message.seq, in_file: message.in_file });
            return;
        };
        queue.counters.published += 1;
        if message.body.is_some() {
            if self.cached_bytes + message.len > CACHED_BYTES_MAX {
                message.body = None;
            } else {
                self.cached_bytes += message.len;
            }
        }
        match due {
            Some(due) => {
                self.due.insert((due, message.seq), queue_id);
                queue.delayed.insert(message.seq, (due, message));
            }
            None => {
                queue.ready.insert(message.seq, message);
                self.stirred.insert(queue_id);
            }
        }
        self.forget_oldest(queue_id);
    }

    /// A staged publish could not be stored.
    pub(super) fn take_back(&mut self, staged: Staged, why: &str) {
        if let Some(queue) = self.queues.get_mut(&staged.queue) {
            queue.count_out(staged.message.len);
            queue.counters.refused += 1;
        }
        if staged.message.in_file {
            self.store.delete_body(staged.message.seq);
        }
        self.refuse(staged.session, staged.token, &Refusal(outcome::REFUSED, 0, why.to_owned()));
    }

    /// Forgets the oldest waiting messages of a queue that keeps no more than so many.
    pub(super) fn forget_oldest(&mut self, queue_id: u32) {
        let Some(queue) = self.queues.get_mut(&queue_id) else { return };
        let Some(keep) = queue.record.keep else { return };
        while queue.messages > keep.messages || queue.bytes > keep.bytes {
            let Some((seq, message)) = queue.ready.pop_first() else { break };
            if message.body.is_some() {
                self.cached_bytes -= message.len;
            }
            queue.count_out(message.len);
            queue.counters.forgotten += 1;
            self.changes.push(Change::Remove { seq, in_file: message.in_file });
        }
    }

    fn refuse(&mut self, id: SessionId, token: u64, refusal: &Refusal) {
        self.published(id, token, refusal);
    }

    fn published(&mut self, id: SessionId, token: u64, Refusal(outcome, number, why): &Refusal) {
        self.reply(id, wire::PUBLISHED, |head| {
            head.u64(token);
            head.u8(*outcome);
            head.u64(*number);
            head.name(why);
        });
    }
}
