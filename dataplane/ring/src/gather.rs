//! One gathered write to a socket, straight from shared memory.
//!
//! Takes pieces that are slices of this process or raw ranges of regions; gives the number of bytes that the socket
//! took. Never blocks and never raises SIGPIPE; a full socket is [`io::ErrorKind::WouldBlock`].

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::mapping::Mapping;

/// The most pieces that one write takes (`IOV_MAX`).
pub const MAX_PIECES: usize = 1024;

/// A range of a region, for the kernel to read. Its bytes may change at any time, so it offers no access to them.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    start: *const u8,
    len: usize,
    region: PhantomData<&'a Mapping>,
}

impl<'a> Raw<'a> {
    /// `[start, start + len)` has been checked to lie inside `region`.
    pub(crate) fn new(start: *const u8, len: usize, _region: &'a Mapping) -> Self {
        Self { start, len, region: PhantomData }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The range without its first `count` bytes (without all, when it is shorter): what is left after a short write.
    #[must_use]
    pub fn skip(self, count: usize) -> Self {
        let count = count.min(self.len);
        Self { start: self.start.wrapping_add(count), len: self.len - count, region: self.region }
    }
}

/// One piece of a gathered write.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Bytes of this process.
    Bytes(&'a [u8]),
    /// A range of a region.
    Raw(Raw<'a>),
}

/// Writes at most the first [`MAX_PIECES`] pieces to a socket and returns the number of bytes that it took.
pub fn write_gathered<'a>(socket: BorrowedFd<'_>, pieces: impl IntoIterator<Item = Piece<'a>>) -> io::Result<usize> {
    let mut iovecs = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_PIECES];
    let mut count = 0;
    for (iovec, piece) in iovecs.iter_mut().zip(pieces) {
        let (start, len) = match piece {
            Piece::Bytes(bytes) => (bytes.as_ptr(), bytes.len()),
            Piece::Raw(raw) => (raw.start, raw.len),
        };
        iovec.write(libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len });
        count += 1;
    }
    // SAFETY: `msghdr` is plain data for which all zeros is a valid value (no name, no control data).
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr().cast();
    message.msg_iovlen = count as _;
    loop {
        // SAFETY: `message` names the first `count` iovecs, all of them written above. Each names memory that the
        // kernel only reads: a slice borrowed for `'a`, or a range of a mapping borrowed for `'a`, so both are mapped
        // until this returns. That another process may write the latter meanwhile is between it and the kernel; no
        // reference to it is made here. The descriptor is open for as long as it is borrowed.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
        if let Ok(sent) = usize::try_from(sent) {
            return Ok(sent);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
