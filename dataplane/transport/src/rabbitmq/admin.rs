//! Looking into and after a broker's queues, for tools: never on the message path.
//!
//! Takes a [`RabbitMqConfig`]; gives one future a question, over `lapin`, except that declaring goes through the
//! transport itself so that queues have one recipe. Waits for the broker. Whatever fails is an [`AdminError`] that says
//! at what.

use std::future::poll_fn;
use std::io;
use std::os::fd::BorrowedFd;
use std::task::Poll;

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};

use super::{RabbitMq, RabbitMqConfig};
use crate::api::{ContentType, Event, Memory, Op, Part, Piece, QueueSpec, Room, Slot, Transport};

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The broker cannot be reached, or lets nobody in.
    #[error("cannot connect to {address}: {why}")]
    Connect {
        /// Where.
        address: String,
        /// Why not.
        why: String,
    },
    /// The broker refused.
    #[error("{doing} {queue}: {source}")]
    Refused {
        /// What was asked for.
        doing: &'static str,
        /// Of which queue.
        queue: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// The queue could not be declared.
    #[error("declaring {queue}: {why}")]
    Declare {
        /// Which.
        queue: String,
        /// The broker's answer.
        why: String,
    },
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Messages waiting.
    pub messages: u64,
    /// Consumers.
    pub consumers: u64,
}

/// A message that was taken from a queue and not settled: dropped, it goes back once the [`Admin`] is.
#[derive(Debug)]
pub struct Got {
    /// The body.
    pub body: Vec<u8>,
    /// How it is encoded.
    pub content_type: ContentType,
    /// The message's id, where it has one.
    pub message_id: Option<String>,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Messages behind it.
    pub behind: u64,
    message: BasicGetMessage,
}

/// A connection for questions.
#[derive(Debug)]
pub struct Admin {
    connection: Connection,
    /// For messages, which can only be settled where they came from.
    channel: Channel,
}

impl Admin {
    /// Connects.
    pub async fn connect(config: &RabbitMqConfig) -> Result<Self, AdminError> {
        let failed = |why: String| AdminError::Connect { address: config.address(), why };
        let mut url = config.to_url();
        url.push_str(&format!("?connection_timeout={}", config.connect_timeout.as_millis()));
        let tls = tls(config).map_err(|e| failed(e.to_string()))?;
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} (admin)", config.connection_name).as_str().into());
        let runtime = lapin::runtime::default_runtime().map_err(|e| failed(e.to_string()))?;
        let connection =
            Connection::connect_with_config(&url, properties, tls, runtime).await.map_err(|e| failed(e.to_string()))?;
        let channel = connection.create_channel().await.map_err(|e| failed(e.to_string()))?;
        Ok(Self { connection, channel })
    }

    /// What a queue holds; `None` when there is no such queue.
    pub async fn depth(&self, queue: &str) -> Result<Option<Depth>, AdminError> {
        let refused = |source| AdminError::Refused { doing: "looking at", queue: queue.to_owned(), source };
        // A refusal closes the channel, so each question has its own.
        let channel = self.connection.create_channel().await.map_err(refused)?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let depth = match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
            Ok(found) => {
                Some(Depth { messages: u64::from(found.message_count()), consumers: u64::from(found.consumer_count()) })
            }
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        channel.close(200, "done".into()).await.map_err(refused)?;
        Ok(depth)
    }

    /// Deletes a queue with all it holds. Gives the number of messages that it held (0 when there is no such queue).
    pub async fn delete(&self, queue: &str) -> Result<u64, AdminError> {
        let refused = |source| AdminError::Refused { doing: "deleting", queue: queue.to_owned(), source };
        let channel = self.connection.create_channel().await.map_err(refused)?;
        let held = channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map_err(refused)?;
        channel.close(200, "done".into()).await.map_err(refused)?;
        Ok(u64::from(held))
    }

    /// Empties a queue. Gives the number of messages that it held.
    pub async fn purge(&self, queue: &str) -> Result<u64, AdminError> {
        let refused = |source| AdminError::Refused { doing: "emptying", queue: queue.to_owned(), source };
        let channel = self.connection.create_channel().await.map_err(refused)?;
        let held = channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.map_err(refused)?;
        channel.close(200, "done".into()).await.map_err(refused)?;
        Ok(u64::from(held))
    }

    /// Takes the next message of a queue, where there is one.
    pub async fn get(&self, queue: &str) -> Result<Option<Got>, AdminError> {
        let refused = |source| AdminError::Refused { doing: "reading", queue: queue.to_owned(), source };
        let message = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.map_err(refused)?;
        Ok(message.map(|mut message| {
            let properties = &message.properties;
            let content_type = properties.content_type().as_ref().map_or(&b""[..], |name| name.as_str().as_bytes());
            Got {
                content_type: ContentType::from_wire(content_type),
                message_id: properties.message_id().as_ref().map(ToString::to_string),
                redelivered: message.redelivered,
                behind: u64::from(message.message_count),
                body: std::mem::take(&mut message.delivery.data),
                message,
            }
        }))
    }
}

impl Got {
    /// Takes it out of its queue for good.
    pub async fn ack(self) -> Result<(), AdminError> {
        let queue = self.message.routing_key.to_string();
        let acked = self.message.ack(BasicAckOptions::default()).await;
        acked.map(drop).map_err(|source| AdminError::Refused { doing: "taking from", queue, source })
    }

    /// Puts it back.
    pub async fn requeue(self) -> Result<(), AdminError> {
        let queue = self.message.routing_key.to_string();
        let put = self.message.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await;
        put.map(drop).map_err(|source| AdminError::Refused { doing: "putting back into", queue, source })
    }
}

/// Has a queue and its dead-letter queue. Gives what differs from what was asked for, where it was there already.
pub async fn declare(config: RabbitMqConfig, spec: QueueSpec<'_>) -> Result<Option<String>, AdminError> {
    let address = config.address();
    let mut transport = RabbitMq::new(config);
    transport.submit(Op::Declare(spec));
    let mut events = Vec::new();
    poll_fn(|cx| {
        transport.flush(&mut NoMemory);
        transport.poll(cx, &mut NoMemory, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Declared { differs, .. } => return Poll::Ready(Ok(differs)),
                Event::DeclareFailed { queue, why } => return Poll::Ready(Err(AdminError::Declare { queue, why })),
                Event::Lost { why, .. } | Event::Fatal { why } => {
                    return Poll::Ready(Err(AdminError::Connect { address: address.clone(), why }));
                }
                _ => {}
            }
        }
        Poll::Pending
    })
    .await
}

/// For a transport that moves no message.
struct NoMemory;

impl Memory for NoMemory {
    fn reserve(&mut self, _len: u64) -> Room {
        Room::Later
    }

    fn slot_mut(&mut self, _slot: Slot) -> &mut [u8] {
        &mut []
    }

    fn release(&mut self, _slot: Slot) {}

    fn copy_part(&self, _part: Part, _out: &mut Vec<u8>) {}

    fn write_gathered(&self, socket: BorrowedFd<'_>, pieces: &[Piece<'_>]) -> io::Result<usize> {
        let own = pieces.iter().find_map(|piece| match piece {
            Piece::Bytes(bytes) => Some(*bytes),
            Piece::Part(_) => None,
        });
        own.map_or(Ok(0), |bytes| Ok(rustix::io::write(socket, bytes)?))
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(e) if e.get_id() == 404)
}

fn tls(config: &RabbitMqConfig) -> io::Result<OwnedTLSConfig> {
    let Some(tls) = &config.tls else {
        return Ok(OwnedTLSConfig::default());
    };
    let cert_chain = tls.ca_file.as_ref().map(std::fs::read_to_string).transpose()?;
    let identity = match &tls.identity {
        None => None,
        Some((certificate, key)) => {
            Some(OwnedIdentity::PKCS8 { pem: std::fs::read(certificate)?, key: std::fs::read(key)? })
        }
    };
    Ok(OwnedTLSConfig { identity, cert_chain })
}
