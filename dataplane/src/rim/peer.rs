//! One connection of the control socket: whole packets in and out, without blocking.

use std::io;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

use asya_ring::socket::{Received, Socket};
use tokio::io::unix::AsyncFd;

use super::packet::{FromPeer, ToPeer};

/// What came.
#[derive(Debug)]
pub(super) enum Packet {
    /// A packet.
    Said(FromPeer),
    /// One that could not be read, for the log: the peer is dropped.
    Garbage(String),
    /// The peer is gone.
    End,
}

/// One peer.
pub(super) struct Peer {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl Peer {
    /// Registers an accepted socket with the reactor.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self { socket: super::watch(socket)?, buffer: Vec::new() })
    }

    /// Sends a packet. The peer reads all the time, so a full buffer means that it hangs: it is dropped by the caller.
    pub(super) fn send(&self, packet: &ToPeer, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = serde_json::to_vec(packet)?;
        self.socket.get_ref().send(&packet, descriptors)
    }

    /// The next packet, if there is one; else `cx` is woken when there is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Packet> {
        loop {
            let mut guard = match self.socket.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(guard)) => guard,
                Poll::Ready(Err(error)) => return Poll::Ready(Packet::Garbage(error.to_string())),
            };
            // A peer has no descriptors to give; what it attaches is closed again.
            let mut descriptors = Vec::new();
            match self.socket.get_ref().recv(&mut self.buffer, &mut descriptors) {
                Ok(Received::End) => return Poll::Ready(Packet::End),
                Ok(Received::Packet(_)) => {
                    return Poll::Ready(match serde_json::from_slice(&self.buffer) {
                        Ok(packet) => Packet::Said(packet),
                        Err(error) => Packet::Garbage(error.to_string()),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Poll::Ready(Packet::Garbage(error.to_string())),
            }
        }
    }
}
