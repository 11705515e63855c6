//! The broker on its socket: turns over all connections, one thread.
//!
//! Takes a listener; gives each connection its replies and deliveries. Each turn reads what has come (bounded a
//! connection), commits once, and writes once to each connection that has something. Blocks on the store's commit. A
//! connection that sends nonsense or breaks is ended, and what it held goes back.

mod link;

use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::Sleep;

use super::admin::{AdminError, EmbeddedAdmin};
use super::broker::{Core, SessionId};
use super::limits::CONNECTIONS_MAX;
use super::{OpenError, Options};
use link::Link;

/// Turns after which other tasks of the same runtime get theirs.
const TURNS_PER_POLL: u32 = 8;

/// Why a broker does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The socket.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread or its runtime.
    #[error("cannot start the broker's thread: {0}")]
    Thread(#[source] io::Error),
}

/// An open broker.
pub struct Broker {
    core: Core,
    adopted: Vec<StdStream>,
}

impl Broker {
    /// Opens or creates the store in `dir`. Fails when another broker has it open.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        Ok(Self { core: Core::open(dir, options)?, adopted: Vec::new() })
    }

    /// A connection of this process, for looking into and changing queues. Its calls block: use it on another thread
    /// than the one that serves.
    pub fn admin(&mut self) -> Result<EmbeddedAdmin, AdminError> {
        let (ours, theirs) = StdStream::pair()?;
        self.adopted.push(ours);
        EmbeddedAdmin::over(theirs)
    }

    /// Serves until a tool asks it to stop. To be awaited on a current-thread runtime with I/O and time.
    pub async fn serve(self, listener: StdListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let mut server = Server {
            core: self.core,
            listener: UnixListener::from_std(listener)?,
            links: Vec::new(),
            next_id: 0,
            timer: None,
        };
        for stream in self.adopted {
            stream.set_nonblocking(true)?;
            server.take(UnixStream::from_std(stream)?);
        }
        poll_fn(|cx| server.turns(cx)).await;
        server.core.close();
        Ok(())
    }

    /// Opens `dir`, listens on `socket` (for its owner only) and serves on a thread of its own.
    pub fn spawn(dir: &Path, options: Options, socket: &Path) -> Result<RunningBroker, ServeError> {
        let mut broker = Self::open(dir, options)?;
        let listen = |source| ServeError::Listen { path: socket.to_owned(), source };
        // The store is locked, so whoever left a socket here is gone.
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(listen(error)),
            _ => {}
        }
        let listener = StdListener::bind(socket).map_err(listen)?;
        std::fs::set_permissions(socket, PermissionsExt::from_mode(0o600)).map_err(listen)?;
        let (ours, theirs) = StdStream::pair().map_err(ServeError::Thread)?;
        broker.adopted.push(ours);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Thread)?;
        let thread = std::thread::Builder::new()
            .name("asya-broker".into())
            .spawn(move || runtime.block_on(broker.serve(listener)))
            .map_err(ServeError::Thread)?;
        Ok(RunningBroker { socket: socket.to_owned(), stop: Some(theirs), thread: Some(thread) })
    }
}

/// A broker on a thread of its own. Dropped, it stops: everything that was confirmed is in its store.
pub struct RunningBroker {
    socket: PathBuf,
    stop: Option<StdStream>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl RunningBroker {
    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stops it and waits for its end.
    pub fn stop(mut self) -> Result<(), AdminError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), AdminError> {
        if let Some(stop) = self.stop.take() {
            EmbeddedAdmin::over(stop)?.stop()?;
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(served)) => Ok(served?),
            Some(Err(_)) => Err(AdminError::Broker("the broker's thread panicked".into())),
            None => Ok(()),
        }
    }
}

impl Drop for RunningBroker {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "the broker did not stop as it should");
        }
    }
}

struct Server {
    core: Core,
    listener: UnixListener,
    links: Vec<(SessionId, Link)>,
    next_id: SessionId,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Server {
    fn turns(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURNS_PER_POLL {
            let busy = self.turn(cx);
            if self.core.stopping {
                return Poll::Ready(());
            }
            if !busy && self.wait_for_due(cx) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One turn. Whether another one would find something to do.
    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        let mut busy = self.accept(cx);
        self.core.ripen(now);
        let mut ended = Vec::new();
        for (id, link) in &mut self.links {
            match link.read(cx, &mut self.core, *id, now) {
                Ok(more) => busy |= more,
                Err(_) => ended.push(*id),
            }
        }
        self.end(&ended);
        self.core.commit(now);
        self.core.dispatch();
        ended.clear();
        for (id, link) in &mut self.links {
            let written = link.write(cx, &mut self.core, *id);
            if self.core.is_expelled(*id) || written.is_err() {
                ended.push(*id);
            }
            busy |= written.is_ok_and(|more| more);
        }
        self.end(&ended);
        busy || self.core.has_work()
    }

    fn accept(&mut self, cx: &mut Context<'_>) -> bool {
        let mut accepted = false;
        while self.links.len() < CONNECTIONS_MAX {
            match self.listener.poll_accept(cx) {
                Poll::Ready(Ok((stream, _))) => {
                    self.take(stream);
                    accepted = true;
                }
                Poll::Ready(Err(error)) => {
                    // Out of descriptors, most likely: whoever closes one makes room for the next.
                    tracing::warn!(%error, "a connection could not be accepted");
                    break;
                }
                Poll::Pending => break,
            }
        }
        accepted
    }

    fn take(&mut self, stream: UnixStream) {
        self.core.attach(self.next_id);
        self.links.push((self.next_id, Link::new(stream)));
        self.next_id += 1;
    }

    fn end(&mut self, ids: &[SessionId]) {
        for id in ids {
            self.core.detach(*id);
        }
        for (_, link) in self.links.extract_if(.., |(id, _)| ids.contains(id)) {
            link.abandon(&mut self.core);
        }
    }

    /// Arranges to be woken when something is due. Whether there is nothing due yet.
    fn wait_for_due(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(due) = self.core.next_due(Instant::now()) else {
            self.timer = None;
            return true;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
        if timer.deadline().into_std() != due {
            timer.as_mut().reset(due.into());
        }
        timer.as_mut().poll(cx).is_pending()
    }
}

#[cfg(test)]
mod tests;
