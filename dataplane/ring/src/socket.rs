//! The control socket: packets of at most 64 KiB with descriptors attached, over `SOCK_SEQPACKET`.
//!
//! Takes and gives whole packets. Never blocks: what cannot be done now is [`io::ErrorKind::WouldBlock`], for a
//! reactor to wait on. A packet that is too large or carries too many descriptors is an error that names it, and its
//! descriptors are closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// The largest packet, in bytes: section 1 of `docs/RING.md`.
pub const MAX_PACKET: usize = 65_536;
/// The most descriptors in one packet: those of `attach`.
pub const MAX_DESCRIPTORS: usize = 5;

/// A listening socket, whose file goes when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, for everybody. A socket that a dead process left there is replaced; one that somebody
    /// answers at is [`io::ErrorKind::AddrInUse`].
    pub fn bind(path: &Path) -> io::Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
            if Socket::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        let socket = new_socket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        // A supervisor and its workers; those that find it full try again.
        rustix::net::listen(&socket, 128)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// The next peer.
    pub fn accept(&self) -> io::Result<Socket> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        Ok(Socket(rustix::net::accept_with(&self.socket, flags)?))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may be gone already, with its folder.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// What [`Socket::recv`] took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A packet of this many bytes.
    Packet(usize),
    /// The peer is gone.
    End,
}

/// One connection.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Dials a listener. [`io::ErrorKind::NotFound`] or [`io::ErrorKind::ConnectionRefused`] while there is none.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = new_socket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    /// A connected pair, for tests.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Sends one packet whole, or nothing.
    pub fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if packet.is_empty() || packet.len() > MAX_PACKET || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a packet that may be sent"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::io::retry_on_intr(|| rustix::net::sendmsg(&self.0, &[IoSlice::new(packet)], &mut control, flags))?;
        Ok(())
    }

    /// Takes one packet into `packet` (which is cleared and never grows past [`MAX_PACKET`]) and appends its
    /// descriptors, close-on-exec, to `descriptors`.
    pub fn recv(&self, packet: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> io::Result<Received> {
        packet.clear();
        packet.resize(MAX_PACKET, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(packet)], &mut control, flags)
        });
        let received = match received {
            Ok(received) => received,
            Err(error) => {
                packet.clear();
                // A peer that was killed with packets of ours unread.
                return if error == rustix::io::Errno::CONNRESET { Ok(Received::End) } else { Err(error.into()) };
            }
        };
        packet.truncate(received.bytes);
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            // Dropping `control` closes what it took.
            return Err(excess());
        }
        let before = descriptors.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        // Padding lets the kernel fit one more than was asked for.
        if descriptors.len() - before > MAX_DESCRIPTORS {
            descriptors.truncate(before);
            return Err(excess());
        }
        Ok(if received.bytes == 0 { Received::End } else { Received::Packet(received.bytes) })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn excess() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a packet too large, or with too many descriptors")
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}
