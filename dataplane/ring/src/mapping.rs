//! One mapping of a memfd, by bounds-checked offsets.
//!
//! Takes a length; gives raw, checked access to that many zeroed bytes. Blocks on nothing but page faults. Fails only
//! when it is made (no memory for page tables, no descriptors left). Under miri, which has no memfd, the same bytes
//! lie on the heap.

use std::io;
#[cfg(not(miri))]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
#[cfg(miri)]
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

#[cfg(not(miri))]
use rustix::fs::{MemfdFlags, SealFlags};
#[cfg(not(miri))]
use rustix::mm::{MapFlags, ProtFlags};

/// How a process may touch a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// What keeps the bytes alive.
#[cfg(not(miri))]
type Backing = OwnedFd;
#[cfg(miri)]
type Backing = Arc<heap::Heap>;

/// A mapping of `len` bytes at `base`, both fixed for its whole life.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    access: Access,
    backing: Backing,
}

// SAFETY: a `Mapping` is an address, a length and a descriptor. It has no thread affinity; what may be done at the
// address is the contract of the unsafe functions below, which do not depend on the thread either.
unsafe impl Send for Mapping {}
// SAFETY: as above. Through a shared `Mapping` bytes are only reached by the unsafe functions below, whose callers
// promise that no reference to the same bytes is live; they use atomic accesses, so that they may race each other.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Whether `[offset, offset + len)` lies inside, and where it begins.
    pub(crate) fn at(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        if end > self.len as u64 {
            return None;
        }
        // SAFETY: `offset` ≤ `self.len` (just checked), and `[base, base + self.len)` is one mapping, made by `mmap`
        // or by the allocator, neither of which hands out more than `isize::MAX` bytes.
        Some(unsafe { self.base.add(offset as usize) })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// Copies `len` bytes out, each read exactly once.
    ///
    /// The bytes may change meanwhile: another process can write them. Relaxed atomic loads make that a question of
    /// *which* bytes come out and not of undefined behaviour: the compiler may neither read twice nor assume that a
    /// byte keeps its value, and any bytes are a valid `u8` or `u64`. Order against the other process comes from the
    /// doorbell's system call (partner: `Bell::ring` there, `Bell::take` here), never from these loads.
    ///
    /// # Safety
    /// `dst` is valid for writes of `len` bytes and does not overlap the mapping; no `&mut` to the bytes read is live
    /// in this process, and no thread of this process writes them without atomics meanwhile.
    pub(crate) unsafe fn load(&self, offset: u64, len: u64, dst: *mut u8) -> Option<()> {
        let src = self.at(offset, len)?.as_ptr();
        let len = len as usize;
        let head = src.align_offset(8).min(len);
        let words = (len - head) / 8;
        for i in (0..head).chain(head + words * 8..len) {
            // SAFETY: `i < len`, inside both ranges (`at`, and the caller's word for `dst`); a `u8` is always aligned.
            unsafe { dst.add(i).write(AtomicU8::from_ptr(src.add(i)).load(Ordering::Relaxed)) };
        }
        for word in 0..words {
            let i = head + word * 8;
            // SAFETY: `i + 8 ≤ len`, inside both ranges; `src + head` is 8-aligned by `align_offset`, and the write is
            // unaligned because nothing is known of `dst`.
            unsafe {
                let value = AtomicU64::from_ptr(src.add(i).cast()).load(Ordering::Relaxed);
                dst.add(i).cast::<u64>().write_unaligned(value);
            }
        }
        Some(())
    }

    /// Copies `bytes` in. Same reasoning as [`Mapping::load`]; the partner is the reader's `Bell::take`.
    ///
    /// # Safety
    /// No reference to the bytes written is live in this process, and no thread of it reads or writes them without
    /// atomics meanwhile.
    pub(crate) unsafe fn store(&self, offset: u64, bytes: &[u8]) -> Option<()> {
        if self.access == Access::Read {
            return None;
        }
        let dst = self.at(offset, bytes.len() as u64)?.as_ptr();
        let len = bytes.len();
        let head = dst.align_offset(8).min(len);
        let words = (len - head) / 8;
        for i in (0..head).chain(head + words * 8..len) {
            // SAFETY: `i < len`, inside the mapping (`at`), which is writable (checked above).
            unsafe { AtomicU8::from_ptr(dst.add(i)).store(bytes[i], Ordering::Relaxed) };
        }
        for (word, chunk) in bytes[head..].chunks_exact(8).enumerate() {
            let mut value = [0; 8];
            value.copy_from_slice(chunk);
            // SAFETY: `head + word * 8 + 8 ≤ len`, inside the writable mapping; 8-aligned by `align_offset`.
            unsafe {
                let word = AtomicU64::from_ptr(dst.add(head + word * 8).cast());
                word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
            }
        }
        Some(())
    }
}

#[cfg(not(miri))]
impl Mapping {
    /// A new memfd of `len` zeroed bytes, none of them backed by memory yet, mapped for writing and then sealed. A
    /// mapping that exists keeps its rights when `FUTURE_WRITE` is sealed.
    pub(crate) fn create(name: &str, len: u64, seals: SealFlags) -> io::Result<Self> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, len)?;
        let mapping = Self::map(fd, len, Access::Write)?;
        rustix::fs::fcntl_add_seals(&mapping.backing, seals)?;
        Ok(mapping)
    }

    /// Maps a memfd that a peer made. Refused unless it is long enough and can never shrink: a mapping past the end
    /// of its file is a SIGBUS.
    pub(crate) fn open(fd: OwnedFd, len: u64, access: Access) -> io::Result<Self> {
        let size = rustix::fs::fstat(&fd)?.st_size;
        let fixed = rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK);
        if !fixed || u64::try_from(size).is_ok_and(|size| size < len) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a sealed memfd of the size that was said"));
        }
        Self::map(fd, len, access)
    }

    /// The same bytes at a second address, as another process would see them.
    pub(crate) fn again(&self, access: Access) -> io::Result<Self> {
        Self::map(self.backing.try_clone()?, self.len(), access)
    }

    fn map(fd: OwnedFd, len: u64, access: Access) -> io::Result<Self> {
        let size = usize::try_from(len).ok().filter(|&size| size > 0 && size <= isize::MAX as usize);
        let size = size.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let rights = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: the address is left to the kernel, so no existing mapping is replaced. The file cannot shrink
        // (`create` seals it, `open` checks), so every byte stays accessible for as long as it is mapped.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), size, rights, MapFlags::SHARED | MapFlags::NORESERVE, &fd, 0)
        }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { base, len: size, access, backing: fd })
    }

    /// Backs a range with memory now, so that no message pays for the page faults.
    ///
    /// # Safety
    /// No reference to the bytes is live in this process.
    pub(crate) unsafe fn populate(&self, offset: u64, len: u64) -> Option<()> {
        let start = self.at(offset, len)?;
        if self.access == Access::Read {
            return None;
        }
        // SAFETY: the range lies inside this writable mapping; populating changes no byte.
        let advised =
            unsafe { rustix::mm::madvise(start.as_ptr().cast(), len as usize, rustix::mm::Advice::LinuxPopulateWrite) };
        if advised.is_err() {
            // Kernels before 5.14: touch a byte of every page.
            for at in (offset..offset + len).step_by(crate::PAGE as usize) {
                // SAFETY: `at` lies inside the range checked above; adding zero changes no byte.
                unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(at as usize)).fetch_add(0, Ordering::Relaxed) };
            }
        }
        Some(())
    }

    /// Gives the memory behind a range back to the system; it reads as zeros afterwards.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.backing, how, offset, len)?)
    }

    /// Bytes that are backed by memory now.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        Ok(u64::try_from(rustix::fs::fstat(&self.backing)?.st_blocks).unwrap_or(0) * 512)
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.backing.as_fd()
    }
}

#[cfg(not(miri))]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped, unmapped once. Slices and raw ranges borrow the owner of this mapping,
        // so none outlives it. Failure would leave it mapped, which is harmless.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(miri)]
mod heap {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr::NonNull;

    /// Page-aligned zeroed bytes, which several mappings share.
    pub(crate) struct Heap {
        pub(crate) base: NonNull<u8>,
        layout: Layout,
    }

    // SAFETY: an address and a layout; see `Mapping`.
    unsafe impl Send for Heap {}
    // SAFETY: an address and a layout; see `Mapping`.
    unsafe impl Sync for Heap {}

    impl Heap {
        pub(crate) fn new(len: usize) -> Option<Self> {
            let layout = Layout::from_size_align(len, crate::PAGE as usize).ok().filter(|l| l.size() > 0)?;
            // SAFETY: the layout's size is not zero.
            let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
            Some(Self { base, layout })
        }
    }

    impl Drop for Heap {
        fn drop(&mut self) {
            // SAFETY: allocated by `new` with this layout, freed once.
            unsafe { dealloc(self.base.as_ptr(), self.layout) };
        }
    }
}

#[cfg(miri)]
impl Mapping {
    pub(crate) fn create(len: u64) -> io::Result<Self> {
        let heap = heap::Heap::new(len as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base: heap.base, len: len as usize, access: Access::Write, backing: Arc::new(heap) })
    }

    pub(crate) fn again(&self, access: Access) -> io::Result<Self> {
        Ok(Self { base: self.base, len: self.len, access, backing: Arc::clone(&self.backing) })
    }

    /// # Safety
    /// As the real one; here there is nothing to do.
    pub(crate) unsafe fn populate(&self, offset: u64, len: u64) -> Option<()> {
        self.at(offset, len).map(|_| ())
    }

    pub(crate) fn punch(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
