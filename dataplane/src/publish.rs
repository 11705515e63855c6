//! Publish: from a head and a payload to a confirmed message.
//!
//! Takes publishes, gives their confirms. Waits on the broker for as long as it takes: a publish that was refused, lost
//! or had no queue is tried again with growing pauses, its delivery unsettled all the while. Gives up, so that the
//! failure sink can have the message, only where trying again is useless or a queue stays missing.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use asya_envelope::{Head, Payload};
use asya_transport::{Body, ContentType, Outcome, Part, Publish, Token};

use crate::flow::{
    Effect, Effects, Flight, MessageId, Now, Observation, OutputId, Publication, PublicationId, Purpose, Report,
    Settings, Time, reason,
};
use crate::slab::Key;

/// A buffer that has grown beyond this (bytes) is not kept: few heads need it, and many such would be a leak.
const SPARE_BYTES: usize = 16 << 10;

/// A payload to publish, wherever it lies.
#[derive(Debug)]
pub struct Load {
    /// Its layout.
    pub payload: Payload,
    /// Where it lies.
    pub parts: Vec<Part>,
    /// The result that it lies in, released once confirmed.
    pub output: Option<OutputId>,
}

/// What became of a publish, where the pipeline has something to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is safe (or best effort was made).
    Done(MessageId),
    /// It never will be: the message failed, for this reason.
    GivenUp {
        /// The message that it was made for.
        message: MessageId,
        /// For whom it was.
        purpose: Purpose,
        /// One of [`reason`].
        why: &'static str,
        /// For people.
        text: String,
    },
}

/// What a publish is made for.
#[derive(Debug)]
pub struct Address {
    /// The message that it was made for.
    pub message: MessageId,
    /// For whom it is.
    pub purpose: Purpose,
    /// Full name of the target queue.
    pub queue: Rc<str>,
    /// The broker is to deliver it no sooner.
    pub delay: Option<Duration>,
}

/// The publishes that wait to be tried again, by when.
#[derive(Debug, Default)]
pub struct Publishing {
    parked: BTreeSet<(Time, PublicationId)>,
    /// Results that more than one open publish lies in, and how many more.
    shared: BTreeMap<OutputId, u32>,
    /// Buffers of confirmed publishes, used again: as many as were ever in flight at once, of [`SPARE_BYTES`] at most.
    spare: Vec<Vec<u8>>,
}

impl Publishing {
    /// Sends a head with its payload, in the encoding of `like`; blobs force the native one.
    pub fn send(
        &mut self,
        flight: &mut Flight,
        fx: &mut Effects,
        now: Now,
        to: Address,
        head: &Head,
        like: ContentType,
        load: Load,
    ) {
        let mut frame = self.buffer();
        let native = like == ContentType::Native || load.payload.blobs > 0;
        let split = if native {
            asya_envelope::encode_native(head, load.payload, &mut frame);
            0
        } else {
            let mut suffix = self.buffer();
            asya_envelope::encode_json(head, &mut frame, &mut suffix);
            let split = frame.len();
            frame.extend_from_slice(&suffix);
            self.recycle(suffix);
            split
        };
        let content_type = if native { ContentType::Native } else { ContentType::Json };
        let body = Framed { content_type, id: head.id.clone(), frame, split, parts: load.parts, output: load.output };
        self.start(flight, fx, now, to, body);
    }

    /// Sends a head with a document that lies in no shared memory.
    pub fn send_document(
        &mut self,
        flight: &mut Flight,
        fx: &mut Effects,
        now: Now,
        to: Address,
        head: &Head,
        document: &[u8],
    ) {
        let mut frame = self.buffer();
        let mut suffix = self.buffer();
        asya_envelope::encode_json(head, &mut frame, &mut suffix);
        frame.extend_from_slice(document);
        let split = frame.len();
        frame.extend_from_slice(&suffix);
        self.recycle(suffix);
        let id = head.id.clone();
        let body = Framed { content_type: ContentType::Json, id, frame, split, parts: Vec::new(), output: None };
        self.start(flight, fx, now, to, body);
    }

    /// Sends a body byte for byte: one that this version cannot read.
    pub fn send_untouched(
        &mut self,
        flight: &mut Flight,
        fx: &mut Effects,
        now: Now,
        to: Address,
        content_type: ContentType,
        body: Part,
    ) {
        let frame = self.buffer();
        let body = Framed { content_type, id: String::new(), frame, split: 0, parts: vec![body], output: None };
        self.start(flight, fx, now, to, body);
    }

    /// Notes that one more publish lies in this result.
    pub fn share(&mut self, output: OutputId) {
        *self.shared.entry(output).or_insert(0) += 1;
    }

    fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    #[cfg(test)]
    pub(crate) fn spare_bytes(&self) -> usize {
        self.spare.iter().map(Vec::capacity).sum()
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= SPARE_BYTES {
            self.spare.push(buffer);
        }
    }

    fn start(&mut self, flight: &mut Flight, fx: &mut Effects, now: Now, to: Address, body: Framed) {
        if let Some(message) = flight.messages.get_mut(to.message) {
            message.unconfirmed += 1;
        }
        let bytes = body.frame.len() as u64 + body.parts.iter().map(|p| p.len).sum::<u64>();
        fx.push(Effect::Publish(flight.publications.insert(Publication {
            message: to.message,
            purpose: to.purpose,
            queue: to.queue,
            content_type: body.content_type,
            id: body.id,
            frame: body.frame,
            split: body.split,
            parts: body.parts,
            output: body.output,
            bytes,
            delay: to.delay,
            tries: 1,
            sent: now.mono,
        })));
    }

    /// Hears how a publish ended.
    pub fn heard(
        &mut self,
        settings: &Settings,
        flight: &mut Flight,
        fx: &mut Effects,
        now: Now,
        token: Token,
        outcome: Outcome,
    ) -> Option<Verdict> {
        let id = Key::from_u64(token.0);
        let publication = flight.publications.get_mut(id)?;
        let (why, text) = match outcome {
            Outcome::Confirmed => {
                fx.observe(Observation::Sent {
                    purpose: publication.purpose,
                    queue: Rc::clone(&publication.queue),
                    took: now.mono.since(publication.sent),
                    bytes: publication.bytes,
                });
                return self.close(flight, fx, id).map(Verdict::Done);
            }
            // Nobody may be waiting any more: an answer is worth one try.
            _ if publication.purpose == Purpose::Reply => return self.close(flight, fx, id).map(Verdict::Done),
            Outcome::Unroutable => {
                fx.push(Effect::Report(Report::Unroutable {
                    queue: publication.queue.to_string(),
                    tries: publication.tries,
                }));
                let keep_trying = matches!(publication.purpose, Purpose::Sump | Purpose::Sink | Purpose::Again);
                if keep_trying || publication.tries < settings.unroutable_tries {
                    self.park(settings, publication, id, fx, now);
                    return None;
                }
                (reason::UNROUTABLE, format!("no queue {:?} after {} tries", publication.queue, publication.tries))
            }
            Outcome::Refused(_) | Outcome::Lost => {
                self.park(settings, publication, id, fx, now);
                return None;
            }
            Outcome::TooLarge(limit) => {
                let Publication { bytes, queue, .. } = publication;
                (reason::TOO_LARGE, format!("{bytes} bytes for {queue:?}: the broker takes {limit} at most"))
            }
            Outcome::Unsupported(what) => (reason::UNROUTABLE, format!("the transport cannot {what}")),
        };
        let purpose = publication.purpose;
        self.close(flight, fx, id).map(|message| Verdict::GivenUp { message, purpose, why, text })
    }

    fn park(
        &mut self,
        settings: &Settings,
        publication: &mut Publication,
        id: PublicationId,
        fx: &mut Effects,
        now: Now,
    ) {
        let pause = settings.backoff.saturating_mul(1 << (publication.tries - 1).min(16)).min(settings.backoff_cap);
        publication.tries = publication.tries.saturating_add(1);
        fx.observe(Observation::PublishRetried);
        self.parked.insert((now.mono.after(pause), id));
    }

    fn close(&mut self, flight: &mut Flight, fx: &mut Effects, id: PublicationId) -> Option<MessageId> {
        let publication = flight.publications.remove(id)?;
        if let Some(output) = publication.output {
            match self.shared.get_mut(&output) {
                Some(1) => drop(self.shared.remove(&output)),
                Some(more) => *more -= 1,
                None => fx.push(Effect::ReleaseOutput(output)),
            }
        }
        self.recycle(publication.frame);
        let message = flight.messages.get_mut(publication.message)?;
        message.unconfirmed -= 1;
        Some(publication.message)
    }

    /// Tries again what is due.
    pub fn tick(&mut self, flight: &mut Flight, fx: &mut Effects, now: Now) {
        while let Some(&(due, id)) = self.parked.first() {
            if due > now.mono {
                return;
            }
            self.parked.pop_first();
            if let Some(publication) = flight.publications.get_mut(id) {
                publication.sent = now.mono;
                fx.push(Effect::Publish(id));
            }
        }
    }

    /// When [`Publishing::tick`] has something to do.
    pub fn next_timer(&self) -> Option<Time> {
        self.parked.first().map(|&(due, _)| due)
    }

    /// Publishes that wait to be tried again.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }
}

/// A body that is ready to go.
struct Framed {
    content_type: ContentType,
    id: String,
    frame: Vec<u8>,
    split: usize,
    parts: Vec<Part>,
    output: Option<OutputId>,
}

/// A publication as the transport wants it.
pub fn as_publish(id: PublicationId, publication: &Publication) -> Publish<'_> {
    let (prefix, suffix) = publication.frame.split_at(publication.split);
    Publish {
        token: Token(id.as_u64()),
        queue: &publication.queue,
        content_type: publication.content_type,
        message_id: &publication.id,
        body: Body { prefix, parts: &publication.parts, suffix },
        delay: publication.delay,
    }
}
