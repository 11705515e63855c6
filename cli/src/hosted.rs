//! The broker inside `asya run`, and what only it can do.
//!
//! Takes a folder and a socket; gives a broker on a thread of its own, until it is stopped. Blocks on opening its store,
//! and on short calls over its socket. On failure: why, and what is in the way.

use crate::error::Error;
use asya_transport::Transport;
use asya_transport::embedded::{Broker, EmbeddedAdmin, EmbeddedTransport, Keep, Options, QueueInfo, RunningBroker};
use std::path::Path;

/// Bytes that a sink keeps, whatever the number of its messages: a laptop's disk is not a store of results.
const KEEP_BYTES: u64 = 2 << 30;

/// A running broker. Dropped, it stops.
pub struct Hosted(RunningBroker);

impl Hosted {
    /// Opens the store and listens. What a dead broker left in the socket's place is taken away.
    pub fn start(store: &Path, socket: &Path, fsync: bool) -> Result<Self, Error> {
        let options = Options { fsync, ..Options::default() };
        let broker = Broker::spawn(store, options, socket).map_err(|why| broken(socket, why))?;
        Ok(Self(broker))
    }

    /// Has queues forget their oldest messages beyond a number.
    pub fn keep(&self, queues: &[String], messages: u64) -> Result<(), Error> {
        let mut admin = admin(self.0.socket())?;
        for queue in queues {
            let keep = Keep { messages, bytes: KEEP_BYTES };
            admin.keep(queue, Some(keep)).map_err(|why| broken(self.0.socket(), why))?;
        }
        Ok(())
    }

    /// Stops it; what was confirmed is in its store.
    pub fn stop(self) -> Result<(), Error> {
        let socket = self.0.socket().to_owned();
        self.0.stop().map_err(|why| broken(&socket, why))
    }
}

/// A client for messages.
pub fn client(socket: &Path) -> Box<dyn Transport> {
    Box::new(EmbeddedTransport::new(socket))
}

/// Deletes a queue and all that is in it.
pub fn drop_queue(socket: &Path, queue: &str) -> Result<(), Error> {
    admin(socket)?.delete(queue).map(drop).map_err(|why| broken(socket, why))
}

/// Every queue there is.
pub fn queues(socket: &Path) -> Result<Vec<QueueInfo>, Error> {
    admin(socket)?.queues().map_err(|why| broken(socket, why))
}

fn admin(socket: &Path) -> Result<EmbeddedAdmin, Error> {
    EmbeddedAdmin::connect(socket).map_err(|why| broken(socket, why))
}

fn broken(socket: &Path, why: impl std::fmt::Display) -> Error {
    Error::Broker { place: socket.display().to_string(), why: why.to_string() }
}
