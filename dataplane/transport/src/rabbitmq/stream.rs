//! A socket to the broker, with or without TLS.
//!
//! Takes and gives bytes without ever blocking; errors are those of the socket. Without TLS a write gathers its pieces
//! straight from where they lie, and a read may go to two places at once; with TLS the bytes have to be transformed,
//! so they are copied once.

use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::amqp::outbox::Outbox;
use crate::api::Memory;

/// Pieces in one gathered write: what the kernel takes (`UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;
/// Gathered writes in one turn: then the other work of the turn has its chance.
const WRITES_PER_TURN: usize = 16;
/// Plaintext that is encrypted at once (bytes): four records of TLS.
const TLS_CHUNK: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls {
        stream: Box<TlsStream<TcpStream>>,
        /// Plaintext on its way into the cipher, from `at`.
        plaintext: Vec<u8>,
        at: usize,
    },
}

/// How far a write got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Everything.
    All,
    /// As far as the socket takes it for now.
    Full,
    /// As far as one turn goes; the socket takes more.
    Turn,
}

impl Stream {
    pub(crate) const fn plain(tcp: TcpStream) -> Self {
        Self::Plain(tcp)
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls { stream: Box::new(stream), plaintext: Vec::new(), at: 0 }
    }

    /// What the kernel says has happened to the connection, for while nothing is read from it.
    pub(crate) fn broken(&self) -> Option<io::Error> {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls { stream, .. } => stream.get_ref().0,
        };
        tcp.take_error().ok().flatten()
    }

    /// Reads once. 0 bytes: the peer has closed.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(into);
        match self {
            Self::Plain(tcp) => ready!(Pin::new(tcp).poll_read(cx, &mut into))?,
            Self::Tls { stream, .. } => ready!(Pin::new(stream).poll_read(cx, &mut into))?,
        }
        Poll::Ready(Ok(into.filled().len()))
    }

    /// Reads once, into `first` and what is left over into `second` (TLS: into `first` only).
    pub(crate) fn poll_read_two(
        &mut self,
        cx: &mut Context<'_>,
        first: &mut [u8],
        second: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self::Plain(tcp) = self else {
            return self.poll_read(cx, first);
        };
        let mut both = [IoSliceMut::new(first), IoSliceMut::new(second)];
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            match tcp.try_read_vectored(&mut both) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Writes what the socket takes, and arranges for a wake when it takes more only where that was said already.
    pub(crate) fn write(&mut self, out: &mut Outbox, memory: &dyn Memory) -> io::Result<Written> {
        match self {
            Self::Plain(tcp) => write_plain(tcp, out, memory),
            // The waker is set again by the poll that follows every flush before the caller sleeps.
            Self::Tls { stream, plaintext, at } => {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                write_tls(stream, plaintext, at, &mut cx, out, memory)
            }
        }
    }

    /// Whether everything that was taken out of an outbox has been handed to the kernel.
    pub(crate) fn is_flushed(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Tls { stream, plaintext, at } => *at == plaintext.len() && !stream.get_ref().1.wants_write(),
        }
    }

    /// What [`Stream::write`] does, arranging for a wake.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Outbox,
        memory: &dyn Memory,
    ) -> io::Result<Written> {
        match self {
            Self::Plain(tcp) => {
                while !out.is_empty() {
                    match tcp.poll_write_ready(cx) {
                        Poll::Pending => return Ok(Written::Full),
                        Poll::Ready(ready) => ready?,
                    }
                    match write_plain(tcp, out, memory)? {
                        // The readiness was stale: ask for a new one.
                        Written::Full => {}
                        other => return Ok(other),
                    }
                }
                Ok(Written::All)
            }
            Self::Tls { stream, plaintext, at } => write_tls(stream, plaintext, at, cx, out, memory),
        }
    }
}

fn write_plain(tcp: &TcpStream, out: &mut Outbox, memory: &dyn Memory) -> io::Result<Written> {
    for _ in 0..WRITES_PER_TURN {
        if out.is_empty() {
            return Ok(Written::All);
        }
        let pieces = out.gather(PIECES_MAX);
        let written = match tcp.try_io(Interest::WRITABLE, || memory.write_gathered(tcp.as_fd(), &pieces)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Full),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        drop(pieces);
        out.written(written);
    }
    Ok(if out.is_empty() { Written::All } else { Written::Turn })
}

fn write_tls(
    stream: &mut TlsStream<TcpStream>,
    plaintext: &mut Vec<u8>,
    at: &mut usize,
    cx: &mut Context<'_>,
    out: &mut Outbox,
    memory: &dyn Memory,
) -> io::Result<Written> {
    let mut stream = Pin::new(stream);
    for _ in 0..WRITES_PER_TURN {
        if *at == plaintext.len() {
            plaintext.clear();
            *at = 0;
            out.take(TLS_CHUNK, memory, plaintext);
        }
        if plaintext.is_empty() {
            return match stream.poll_flush(cx)? {
                Poll::Ready(()) => Ok(Written::All),
                Poll::Pending => Ok(Written::Full),
            };
        }
        match stream.as_mut().poll_write(cx, &plaintext[*at..])? {
            Poll::Pending => return Ok(Written::Full),
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => *at += written,
        }
    }
    Ok(Written::Turn)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_connection_that_is_not_read_shows_that_it_is_broken() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (theirs, _) = listener.accept().await.unwrap();
            theirs.try_write(b"what is never read").unwrap();
            let stream = Stream::plain(ours);
            assert!(stream.broken().is_none());
            // Closed without a farewell: the peer is sent a reset.
            theirs.set_zero_linger().unwrap();
            drop(theirs);
            let broken = async {
                loop {
                    if let Some(error) = stream.broken() {
                        return error;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let error = tokio::time::timeout(Duration::from_secs(30), broken).await.unwrap();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
    }
}
