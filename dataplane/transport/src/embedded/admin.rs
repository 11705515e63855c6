//! What tools do with a broker: look into its queues without consuming, and change what is in them.
//!
//! Takes calls, gives answers; each call blocks until the broker has answered, [`ADMIN_TIME_MAX`] at most. Changes are
//! answered once they are durable. Any error leaves the connection unusable; make a new one.
//!
//! Heads of the frames (see `wire`): `LIST` nothing; `BROWSE` after `u64`, limit `u32`, largest body `u64`, queue;
//! `REMOVE` id `u64`, queue; `MOVE` id `u64`, queue, target; `PURGE`, `DELETE` queue; `KEEP` messages `u64`, bytes
//! `u64`, queue; `PAUSE` `u8`; `DISCONNECT`, `STOP` nothing. All are answered by any number of `INFO` or `MESSAGE` and
//! then `DONE` with a count, or by `ERROR` with a reason.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::Keep;
use super::limits::ADMIN_TIME_MAX;
use super::wire::{self, Fields, HEADER, Header, Malformed, frame, outcome};
use crate::{ContentType, Outcome};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The socket: there is no broker, or it went away.
    #[error("the broker cannot be reached: {0}")]
    Io(#[from] io::Error),
    /// The broker, in its own words.
    #[error("{0}")]
    Broker(String),
    /// The other side speaks another protocol.
    #[error("not a broker of this version: {0}")]
    Protocol(#[from] Malformed),
}

/// A queue, as it is now, and counts since the broker started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueInfo {
    /// Full name.
    pub name: String,
    /// Where rejected messages go.
    pub dead_letter: Option<String>,
    /// Losses after which a message is dead-lettered; 0 = never.
    pub delivery_limit: u32,
    /// What it keeps at most.
    pub keep: Option<Keep>,
    /// Messages that wait.
    pub ready: u64,
    /// Messages that are delivered and not settled.
    pub held: u64,
    /// Messages whose time has not come.
    pub delayed: u64,
    /// Bytes of all bodies.
    pub bytes: u64,
    /// Connections that consume.
    pub consumers: u64,
    /// Messages that came in.
    pub published: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Deliveries that were acknowledged.
    pub acknowledged: u64,
    /// Deliveries that were given back.
    pub requeued: u64,
    /// Deliveries that ended with their client lost.
    pub lost: u64,
    /// Messages that went to the dead-letter queue.
    pub dead_lettered: u64,
    /// Messages that were removed by a tool, or because the queue keeps no more.
    pub forgotten: u64,
    /// Publishes that were refused.
    pub refused: u64,
}

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits.
    Ready,
    /// Its time has not come.
    Delayed,
    /// It is delivered and not settled.
    Held,
}

/// A message that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Browsed {
    /// The broker's number of it, rising with the time of publishing.
    pub id: u64,
    /// Where it stands.
    pub standing: Standing,
    /// How the body is encoded.
    pub content_type: ContentType,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Deliveries that ended with their client lost.
    pub lost: u32,
    /// Unix time in ms of its publishing.
    pub published_ms: u64,
    /// Unix time in ms before which it is not delivered; 0 = at once.
    pub due_ms: u64,
    /// The publisher's id of it.
    pub message_id: String,
    /// Length of the body in bytes.
    pub len: u64,
    /// The body, where it is no longer than was asked for.
    pub body: Option<Vec<u8>>,
}

/// A connection for tools.
#[derive(Debug)]
pub struct EmbeddedAdmin {
    stream: UnixStream,
    next_token: u64,
}

impl EmbeddedAdmin {
    /// Connects to the broker that listens on `socket`.
    pub fn connect(socket: &Path) -> Result<Self, AdminError> {
        Self::over(UnixStream::connect(socket)?)
    }

    pub(super) fn over(stream: UnixStream) -> Result<Self, AdminError> {
        stream.set_read_timeout(Some(ADMIN_TIME_MAX))?;
        stream.set_write_timeout(Some(ADMIN_TIME_MAX))?;
        let mut admin = Self { stream, next_token: 1 };
        let mut hello = Vec::new();
        frame(&mut hello, wire::HELLO, 0, |head| {
            head.u32(wire::MAGIC);
            head.u16(wire::VERSION);
        });
        admin.stream.write_all(&hello)?;
        Ok(admin)
    }

    /// All queues, by name.
    pub fn queues(&mut self) -> Result<Vec<QueueInfo>, AdminError> {
        self.send(wire::LIST, |_| {})?;
        let mut queues = Vec::new();
        self.until_done(|kind, head, _| {
            if kind == wire::INFO {
                queues.push(read_info(Fields(head))?);
            }
            Ok(())
        })?;
        Ok(queues)
    }

    /// Up to `limit` messages of a queue whose id is above `after`, oldest first, with bodies of up to `body_max`
    /// bytes. May give fewer than there are: go on after the last one until none comes.
    pub fn browse(&mut self, queue: &str, after: u64, limit: u32, body_max: u64) -> Result<Vec<Browsed>, AdminError> {
        self.send(wire::BROWSE, |head| {
            head.u64(after);
            head.u32(limit);
            head.u64(body_max);
            head.name(queue);
        })?;
        let mut messages = Vec::new();
        self.until_done(|kind, head, body| {
            if kind == wire::MESSAGE {
                messages.push(read_message(Fields(head), body)?);
            }
            Ok(())
        })?;
        Ok(messages)
    }

    /// One message of a queue, with its body, if it is there.
    pub fn get(&mut self, queue: &str, id: u64) -> Result<Option<Browsed>, AdminError> {
        let first = self.browse(queue, id.saturating_sub(1), 1, u64::MAX)?.pop();
        Ok(first.filter(|message| message.id == id))
    }

    /// Removes a message that is not held. Whether it was there.
    pub fn remove(&mut self, queue: &str, id: u64) -> Result<bool, AdminError> {
        self.call(wire::REMOVE, |head| {
            head.u64(id);
            head.name(queue);
        })
        .map(|count| count > 0)
    }

    /// Moves a message that is not held to another queue, at once and untouched. Whether it was there.
    pub fn requeue(&mut self, queue: &str, id: u64, target: &str) -> Result<bool, AdminError> {
        self.call(wire::MOVE, |head| {
            head.u64(id);
            head.name(queue);
            head.name(target);
        })
        .map(|count| count > 0)
    }

    /// Removes all messages that are not held. How many.
    pub fn purge(&mut self, queue: &str) -> Result<u64, AdminError> {
        self.call(wire::PURGE, |head| head.name(queue))
    }

    /// Deletes a queue with all its messages, held ones included. How many.
    pub fn delete(&mut self, queue: &str) -> Result<u64, AdminError> {
        self.call(wire::DELETE, |head| head.name(queue))
    }

    /// Has a queue forget its oldest waiting messages beyond these bounds, or none any more; makes it if need be.
    pub fn keep(&mut self, queue: &str, keep: Option<Keep>) -> Result<(), AdminError> {
        let keep = keep.unwrap_or(Keep { messages: u64::MAX, bytes: u64::MAX });
        self.call(wire::KEEP, |head| {
            head.u64(keep.messages);
            head.u64(keep.bytes);
            head.name(queue);
        })
        .map(|_| ())
    }

    /// Has a queue, with the queue that takes what it gives up. What exists is used as it is.
    pub fn declare(
        &mut self,
        queue: &str,
        dead_letter: Option<&str>,
        delivery_limit: u32,
    ) -> Result<Option<String>, AdminError> {
        self.send(wire::DECLARE, |head| {
            head.u32(delivery_limit);
            head.u8(0);
            head.name(queue);
            head.name(dead_letter.unwrap_or_default());
        })?;
        loop {
            let (kind, head, _) = self.read()?;
            let mut fields = Fields(&head);
            if kind == wire::DECLARED || kind == wire::FAILED {
                fields.name()?;
                let text = fields.name()?.to_owned();
                return match kind {
                    wire::FAILED => Err(AdminError::Broker(text)),
                    _ => Ok(Some(text).filter(|text| !text.is_empty())),
                };
            }
        }
    }

    /// Publishes one message and waits for its answer.
    pub fn publish(
        &mut self,
        queue: &str,
        content_type: ContentType,
        message_id: &str,
        body: &[u8],
    ) -> Result<Outcome, AdminError> {
        let token = self.next_token;
        self.next_token += 1;
        let mut out = Vec::new();
        frame(&mut out, wire::PUBLISH, body.len() as u64, |head| {
            head.u64(token);
            head.u64(0);
            head.content_type(content_type);
            head.name(queue);
            head.name(wire::cut(message_id, super::limits::MESSAGE_ID_BYTES_MAX));
        });
        self.stream.write_all(&out)?;
        self.stream.write_all(body)?;
        loop {
            let (kind, head, _) = self.read()?;
            if kind == wire::PUBLISHED {
                let mut fields = Fields(&head);
                fields.u64()?;
                let (outcome, number) = (fields.u8()?, fields.u64()?);
                return Ok(match outcome {
                    outcome::CONFIRMED => Outcome::Confirmed,
                    outcome::UNROUTABLE => Outcome::Unroutable,
                    outcome::TOO_LARGE => Outcome::TooLarge(number),
                    _ => Outcome::Refused(fields.name()?.to_owned()),
                });
            }
        }
    }

    /// Ends every other connection. How many. Clients connect again by themselves.
    pub fn disconnect_others(&mut self) -> Result<u64, AdminError> {
        self.call(wire::DISCONNECT, |_| {})
    }

    /// Refuses publishes from now on, or takes them again.
    pub fn pause_publishing(&mut self, paused: bool) -> Result<(), AdminError> {
        self.call(wire::PAUSE, |head| head.u8(u8::from(paused))).map(|_| ())
    }

    /// Stops the broker.
    pub fn stop(mut self) -> Result<(), AdminError> {
        self.call(wire::STOP, |_| {}).map(|_| ())
    }

    fn call(&mut self, kind: u8, write: impl FnOnce(&mut wire::Head<'_>)) -> Result<u64, AdminError> {
        self.send(kind, write)?;
        self.until_done(|_, _, _| Ok(()))
    }

    fn send(&mut self, kind: u8, write: impl FnOnce(&mut wire::Head<'_>)) -> Result<(), AdminError> {
        let mut out = Vec::new();
        frame(&mut out, kind, 0, write);
        Ok(self.stream.write_all(&out)?)
    }

    fn until_done(
        &mut self,
        mut take: impl FnMut(u8, &[u8], Vec<u8>) -> Result<(), AdminError>,
    ) -> Result<u64, AdminError> {
        loop {
            let (kind, head, body) = self.read()?;
            match kind {
                wire::DONE => return Ok(Fields(&head).u64()?),
                wire::ERROR => return Err(AdminError::Broker(Fields(&head).name()?.to_owned())),
                _ => take(kind, &head, body)?,
            }
        }
    }

    fn read(&mut self) -> Result<(u8, Vec<u8>, Vec<u8>), AdminError> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header)?;
        let header = Header::read(&header)?.ok_or(Malformed("a header is cut short"))?;
        let mut head = vec![0; header.head];
        self.stream.read_exact(&mut head)?;
        // Grows with what comes, and not with what a header of nonsense announces.
        let mut body = Vec::new();
        if (&mut self.stream).take(header.body).read_to_end(&mut body)? as u64 != header.body {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if header.kind == wire::WELCOME && Fields(&head).u16()? != wire::VERSION {
            return Err(Malformed("the broker speaks another version").into());
        }
        Ok((header.kind, head, body))
    }
}

fn read_info(mut fields: Fields<'_>) -> Result<QueueInfo, Malformed> {
    let mut info = QueueInfo {
        ready: fields.u64()?,
        held: fields.u64()?,
        delayed: fields.u64()?,
        bytes: fields.u64()?,
        consumers: fields.u64()?,
        published: fields.u64()?,
        delivered: fields.u64()?,
        acknowledged: fields.u64()?,
        requeued: fields.u64()?,
        lost: fields.u64()?,
        dead_lettered: fields.u64()?,
        forgotten: fields.u64()?,
        refused: fields.u64()?,
        ..QueueInfo::default()
    };
    let keep = Keep { messages: fields.u64()?, bytes: fields.u64()? };
    info.keep = Some(keep).filter(|keep| keep.messages != u64::MAX || keep.bytes != u64::MAX);
    info.delivery_limit = fields.u64()? as u32;
    info.name = fields.name()?.to_owned();
    info.dead_letter = Some(fields.name()?.to_owned()).filter(|name| !name.is_empty());
    Ok(info)
}

fn read_message(mut fields: Fields<'_>, body: Vec<u8>) -> Result<Browsed, Malformed> {
    let id = fields.u64()?;
    let standing = match fields.u8()? {
        0 => Standing::Ready,
        1 => Standing::Delayed,
        _ => Standing::Held,
    };
    let content_type = fields.content_type()?;
    let (redelivered, has_body) = (fields.u8()? != 0, fields.u8()? != 0);
    Ok(Browsed {
        id,
        standing,
        content_type,
        redelivered,
        lost: fields.u32()?,
        published_ms: fields.u64()?,
        due_ms: fields.u64()?,
        len: fields.u64()?,
        message_id: fields.name()?.to_owned(),
        body: has_body.then_some(body),
    })
}
