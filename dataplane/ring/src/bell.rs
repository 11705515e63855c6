//! The doorbell: a counter in the kernel whose value is the number of new entries.
//!
//! Takes a count to add; gives the count that was added since it was last asked. Never blocks (see [`Bell::take`]).
//! Adding fails only when the peer has filled the counter, which no honest peer does.
//!
//! It is the only thing that orders memory between the two sides: entries are plain bytes, written before
//! [`Bell::ring`] and read after [`Bell::take`]. Both run under the kernel's lock on the counter; under loom the
//! counter is an atomic with the least order that this needs.

use std::io;

#[cfg(not(loom))]
pub use kernel::Bell;
#[cfg(loom)]
pub use model::Bell;

#[cfg(not(loom))]
mod kernel {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

    use rustix::event::EventfdFlags;
    use rustix::io::Errno;

    use super::io;

    /// An eventfd, non-blocking, not a semaphore.
    #[derive(Debug)]
    pub struct Bell(OwnedFd);

    impl Bell {
        /// A new bell that nobody has rung.
        pub fn new() -> io::Result<Self> {
            Ok(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        }

        /// A bell that a peer made.
        pub fn from_fd(fd: OwnedFd) -> Self {
            Self(fd)
        }

        /// The same bell under a second descriptor, for a reactor that wants to own one.
        pub fn try_clone(&self) -> io::Result<Self> {
            Ok(Self(self.0.try_clone()?))
        }

        /// Adds `count` entries. [`io::ErrorKind::WouldBlock`] when the counter is full.
        pub fn ring(&self, count: u64) -> io::Result<()> {
            loop {
                match rustix::io::write(&self.0, &count.to_ne_bytes()) {
                    Err(Errno::INTR) => {}
                    other => return other.map(|_| ()).map_err(io::Error::from),
                }
            }
        }

        /// How many entries were added since the last call; 0 when none.
        ///
        /// Asks for no waiting in the call itself: the peer shares the descriptor's flags and could make it blocking.
        pub fn take(&self) -> io::Result<u64> {
            let mut count = [0; 8];
            loop {
                match read_now(&self.0, &mut count) {
                    Ok(8) => return Ok(u64::from_ne_bytes(count)),
                    Ok(_) | Err(Errno::AGAIN) => return Ok(0),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    #[cfg(not(miri))]
    fn read_now(fd: &OwnedFd, into: &mut [u8; 8]) -> Result<usize, Errno> {
        use rustix::io::ReadWriteFlags;
        // An offset of −1 is "no offset": a plain read with flags.
        match rustix::io::preadv2(fd, &mut [io::IoSliceMut::new(into)], u64::MAX, ReadWriteFlags::NOWAIT) {
            // Kernels before 5.8 know the flag for files only.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => rustix::io::read(fd, into),
            other => other,
        }
    }

    #[cfg(miri)]
    fn read_now(fd: &OwnedFd, into: &mut [u8; 8]) -> Result<usize, Errno> {
        rustix::io::read(fd, into)
    }

    impl AsFd for Bell {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl AsRawFd for Bell {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }
    }
}

#[cfg(loom)]
mod model {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64, Ordering};

    use super::io;

    /// The counter alone.
    #[derive(Debug)]
    pub struct Bell(Arc<AtomicU64>);

    impl Bell {
        /// A new bell that nobody has rung.
        pub fn new() -> io::Result<Self> {
            Ok(Self(Arc::new(AtomicU64::new(0))))
        }

        /// The same bell.
        pub fn try_clone(&self) -> io::Result<Self> {
            Ok(Self(Arc::clone(&self.0)))
        }

        /// Release: what was written before is visible to the [`Bell::take`] that sees this count.
        pub fn ring(&self, count: u64) -> io::Result<()> {
            self.0.fetch_add(count, Ordering::Release);
            Ok(())
        }

        /// Acquire: partner of the release in [`Bell::ring`].
        pub fn take(&self) -> io::Result<u64> {
            Ok(self.0.swap(0, Ordering::Acquire))
        }
    }
}
