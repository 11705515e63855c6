//! The embedded broker's side of [`super`].

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use asya_envelope::{Encoding, Route};
use asya_transport::embedded::{EmbeddedAdmin, EmbeddedTransport};
use asya_transport::{ContentType, Memory, Settlement};

use super::Tally;
use crate::Error;
use crate::courier::{Courier, Moved, moved};
use crate::message::Kind;

/// Publishes that are open at once while a queue is filled.
const OPEN: u64 = 512;
/// And bytes in them: the broker writes a large body to a file of its own before it takes the next.
const OPEN_BYTES: u64 = 16 << 20;
/// Deliveries held while a queue is emptied.
const WINDOW: u32 = 256;

/// A connection for filling, watching and emptying queues.
pub struct Embedded {
    socket: PathBuf,
    courier: tokio::sync::Mutex<Courier<EmbeddedTransport>>,
    admin: RefCell<EmbeddedAdmin>,
}

impl Embedded {
    /// Connects.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        let courier = Courier::connect(EmbeddedTransport::new(socket)).await?;
        let admin = EmbeddedAdmin::connect(socket).map_err(failed)?;
        Ok(Self { socket: socket.to_owned(), courier: tokio::sync::Mutex::new(courier), admin: RefCell::new(admin) })
    }

    /// Makes a queue.
    pub async fn declare(&self, queue: &str) -> Result<(), Error> {
        self.courier.lock().await.declare(queue).await
    }

    /// Removes a queue and what it holds.
    pub fn delete(&self, queue: &str) -> Result<(), Error> {
        self.admin.borrow_mut().delete(queue).map(drop).map_err(failed)
    }

    /// Messages that wait in a queue.
    pub async fn depth(&self, queue: &str) -> Result<u64, Error> {
        self.courier.lock().await.depth(queue).await
    }

    /// Publishes messages `0..count`, all confirmed.
    pub async fn fill(&self, queue: &str, kind: Kind, count: u64, route: &Route) -> Result<(), Error> {
        let mut courier = self.courier.lock().await;
        let content_type = match kind.encoding() {
            Encoding::Json => ContentType::Json,
            Encoding::Native => ContentType::Native,
        };
        let (mut sent, mut confirmed) = (0, 0);
        while confirmed < count {
            while sent < count && sent - confirmed < OPEN.min(OPEN_BYTES / kind.payload_bytes() as u64) {
                courier.publish(sent, queue, content_type, &format!("m-{sent}"), &kind.body(sent, route), &[]);
                sent += 1;
            }
            courier.events().await?;
            while let Some(event) = courier.arrived() {
                match moved(event)? {
                    Moved::Confirmed(_) => confirmed += 1,
                    Moved::Came(delivery) => courier.settle(delivery.tag, Settlement::Requeue),
                }
            }
        }
        Ok(())
    }

    /// Takes all messages out of a queue and checks each; an error when one is missing, changed or there twice.
    pub async fn empty(&self, queue: &str, kind: Kind, count: u64, added: u64) -> Result<(), Error> {
        // A connection of its own: a transport consumes one queue for as long as it lives.
        let mut courier = Courier::connect(EmbeddedTransport::new(&self.socket)).await?;
        courier.consume(queue, WINDOW);
        let mut tally = Tally::new(count);
        while !tally.complete() {
            courier.events().await?;
            while let Some(event) = courier.arrived() {
                if let Moved::Came(delivery) = moved(event)? {
                    tally.take(kind, courier.heap.slot(delivery.slot), added)?;
                    courier.heap.release(delivery.slot);
                    courier.settle(delivery.tag, Settlement::Ack);
                }
            }
        }
        tally.verdict()?;
        courier.cancel().await
    }
}

fn failed(error: asya_transport::embedded::AdminError) -> Error {
    Error::Stuck { what: format!("the embedded broker: {error}"), log: String::new() }
}
