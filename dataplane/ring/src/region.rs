//! The two kinds of shared region.
//!
//! | | [`InputRegion`] | [`OutputRegion`] |
//! | --- | --- | --- |
//! | how many | one per actor | one per worker and generation |
//! | who writes it | this process alone: the kernel refuses everybody else | this process and the worker |
//! | what is offered | slices, under the borrow rules of one owner | copies and raw ranges, never a reference |
//! | memory given back | when it is dropped (see [`InputRegion`]) | [`OutputRegion::punch`] |
//!
//! Each begins with rings, which these types never touch: [`Link`](crate::Link) does. Making one fails when the system
//! is out of descriptors or address space; nothing blocks but page faults.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::completion::{Parts, ResultEntry, Violation};
use crate::gather::Raw;
use crate::ledger::CallLimits;
use crate::mapping::Mapping;
use crate::wire::{ENTRY_BYTES, Extent, MAX_PARTS, PART_BYTES, Part, PartRegion};
use crate::{Arena, PAGE};

/// A range that does not lie inside the part of a region that it was asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {offset} are out of range")]
pub struct OutOfRange {
    /// Where.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

impl From<Extent> for OutOfRange {
    fn from(extent: Extent) -> Self {
        Self { offset: extent.offset, len: extent.len }
    }
}

impl From<OutOfRange> for io::Error {
    fn from(error: OutOfRange) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// The input memory of an actor: the submission ring of each worker, then the slots.
///
/// Workers map it read-only. The seal that keeps them from writing (`FUTURE_WRITE`) also keeps everyone from punching
/// holes, so what was once touched stays until the region is dropped. Give it an [`Arena`] whose space is its budget
/// and that keeps everything warm ([`InputRegion::arena`] does).
pub struct InputRegion {
    mapping: Arc<Mapping>,
    limits: CallLimits,
    slots: Extent,
    rings: Arc<RingPool>,
}

impl InputRegion {
    /// A region with `rings` submission rings (the most workers that are attached together) for the given limits, and
    /// `slot_bytes` of slots, rounded up to whole pages.
    pub fn create(rings: u32, limits: CallLimits, slot_bytes: u64) -> io::Result<Self> {
        check(limits)?;
        let ring_bytes = (u64::from(limits.submit_entries()) * ENTRY_BYTES).next_multiple_of(PAGE);
        let start = ring_bytes * u64::from(rings);
        let slots = Extent { offset: start, len: whole_pages(slot_bytes)? };
        let len = slots.end().ok_or(io::ErrorKind::InvalidInput)?;
        #[cfg(not(miri))]
        let mapping = {
            use rustix::fs::SealFlags;
            let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
            Mapping::create("asya-input", len, seals)?
        };
        #[cfg(miri)]
        let mapping = Mapping::create(len)?;
        let free = (0..rings).rev().map(|ring| u64::from(ring) * ring_bytes).collect();
        Ok(Self { mapping: Arc::new(mapping), limits, slots, rings: Arc::new(RingPool(Mutex::new(free))) })
    }

    /// Bytes of the whole region.
    pub fn bytes(&self) -> u64 {
        self.mapping.len()
    }

    /// Where slots may lie.
    pub fn slots(&self) -> Extent {
        self.slots
    }

    /// What its rings are made for.
    pub fn limits(&self) -> CallLimits {
        self.limits
    }

    /// An arena over the slots, with the given number of small ones.
    pub fn arena(&self, small_bytes: u64, small_slots: u32) -> Arena {
        let config = crate::ArenaConfig {
            space: self.slots,
            small_bytes,
            small_slots,
            budget_bytes: self.slots.len,
            warm_bytes: u64::MAX,
        };
        Arena::new(config)
    }

    /// The bytes of a range of slots.
    pub fn slice(&self, extent: Extent) -> Result<&[u8], OutOfRange> {
        let (start, len) = self.slot(extent)?;
        // SAFETY: the range lies inside the mapping. Nobody writes it while `&self` is borrowed: in this process,
        // writers of slots need `&mut self` (`slice_mut`, `prefault`), and the rings, which `Link` writes, end where
        // `self.slots` begins; other processes cannot, because the memfd was sealed against every writable mapping
        // and write after this one. The bytes start as zeros, so they are initialised.
        Ok(unsafe { std::slice::from_raw_parts(start, len) })
    }

    /// The bytes of a range of slots, to write.
    pub fn slice_mut(&mut self, extent: Extent) -> Result<&mut [u8], OutOfRange> {
        let (start, len) = self.slot(extent)?;
        // SAFETY: as for `slice`; and `&mut self` is the only way to any byte of the slots in this process, so this
        // is the only reference to them while it lives. (`Raw` ranges borrow `&self`.) Other processes may read them
        // meanwhile, through mappings of their own, which is theirs to order: they learn of a slot by the doorbell.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, len) })
    }

    /// A range of slots for a gathered write.
    pub fn raw(&self, extent: Extent) -> Result<Raw<'_>, OutOfRange> {
        let (start, len) = self.slot(extent)?;
        Ok(Raw::new(start, len, &self.mapping))
    }

    /// Backs a range of slots with memory now.
    pub fn prefault(&mut self, extent: Extent) -> Result<(), OutOfRange> {
        self.slot(extent)?;
        // SAFETY: `&mut self`: no slice of a slot is live.
        unsafe { self.mapping.populate(extent.offset, extent.len) }.ok_or_else(|| extent.into())
    }

    /// Bytes that are backed by memory now.
    #[cfg(not(miri))]
    pub fn resident_bytes(&self) -> io::Result<u64> {
        self.mapping.resident()
    }

    fn slot(&self, extent: Extent) -> Result<(*mut u8, usize), OutOfRange> {
        if !self.slots.contains(extent) {
            return Err(extent.into());
        }
        let start = self.mapping.at(extent.offset, extent.len).ok_or(OutOfRange::from(extent))?;
        Ok((start.as_ptr(), extent.len as usize))
    }

    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// A submission ring that no live [`Link`](crate::Link) uses.
    pub(crate) fn lease_ring(&self) -> Option<RingLease> {
        let offset = self.rings.lock().pop()?;
        Some(RingLease { offset, pool: Arc::clone(&self.rings) })
    }
}

/// Offsets of the rings that are free.
struct RingPool(Mutex<Vec<u64>>);

impl RingPool {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        // A push or pop leaves the list whole, so a panic elsewhere while it was locked changes nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sole right to write one submission ring; back in the pool when dropped.
pub(crate) struct RingLease {
    pub(crate) offset: u64,
    pool: Arc<RingPool>,
}

impl Drop for RingLease {
    fn drop(&mut self) {
        self.pool.lock().push(self.offset);
    }
}

/// The output memory of one worker in one generation: its completion ring, then room for results.
///
/// The worker can write it at any time, so no reference to it is ever made. Never reused for another worker: keep it
/// until the worker's socket is closed and all that it produced has left, then drop it.
pub struct OutputRegion {
    mapping: Arc<Mapping>,
    limits: CallLimits,
    rooms: Extent,
}

impl OutputRegion {
    /// A region for a worker with the given limits and `room_bytes` for results, rounded up to whole pages. It costs
    /// memory only where it is touched: make it several times as large as the budget of its arena.
    pub fn create(limits: CallLimits, room_bytes: u64) -> io::Result<Self> {
        check(limits)?;
        let start = (u64::from(limits.complete_entries()) * ENTRY_BYTES).next_multiple_of(PAGE);
        let rooms = Extent { offset: start, len: whole_pages(room_bytes)? };
        let len = rooms.end().ok_or(io::ErrorKind::InvalidInput)?;
        #[cfg(not(miri))]
        let mapping = {
            use rustix::fs::SealFlags;
            Mapping::create("asya-output", len, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?
        };
        #[cfg(miri)]
        let mapping = Mapping::create(len)?;
        Ok(Self { mapping: Arc::new(mapping), limits, rooms })
    }

    /// Bytes of the whole region.
    pub fn bytes(&self) -> u64 {
        self.mapping.len()
    }

    /// Where rooms may lie.
    pub fn rooms(&self) -> Extent {
        self.rooms
    }

    /// What its ring is made for.
    pub fn limits(&self) -> CallLimits {
        self.limits
    }

    /// Appends a copy of a range to `out`, each byte read once. Whether the worker writes them meanwhile decides
    /// which bytes come out, and nothing else.
    pub fn copy_out(&self, extent: Extent, out: &mut Vec<u8>) -> Result<(), OutOfRange> {
        // Checked before memory is reserved for it.
        if !self.rooms.contains(extent) {
            return Err(extent.into());
        }
        let len = extent.len as usize;
        out.reserve(len);
        let spare = out.spare_capacity_mut();
        // SAFETY: `spare` holds at least `len` bytes of this process's own heap. No reference to the output region
        // exists in this process, and this process never writes rooms.
        unsafe { self.mapping.load(extent.offset, extent.len, spare.as_mut_ptr().cast()) }
            .ok_or(OutOfRange::from(extent))?;
        // SAFETY: `load` has written exactly `len` bytes after the first `out.len()`.
        unsafe { out.set_len(out.len() + len) };
        Ok(())
    }

    /// Appends the parts of a result to `parts`, in order (one, when it lies in one piece). The list is copied out
    /// once and checked: parts of the output lie inside the result's room, parts of the input inside the payload of
    /// its call, and together they are as long as the result.
    pub fn parts(&self, result: &ResultEntry, parts: &mut Vec<Part>) -> Result<(), Violation> {
        let (list, count, input) = match result.parts {
            Parts::Whole(extent) => {
                parts.push(Part { region: PartRegion::Output, extent });
                return Ok(());
            }
            Parts::List { list, count, input } => (list, count, input),
        };
        let invalid = Violation::Parts(count);
        if count > MAX_PARTS || list.len != u64::from(count) * PART_BYTES || !self.rooms.contains(list) {
            return Err(invalid);
        }
        let mut bytes = [0; MAX_PARTS as usize * PART_BYTES as usize];
        // SAFETY: `bytes` holds `list.len` bytes (checked), and is this function's own. As in `copy_out`, no
        // reference to the region exists in this process, and it writes no room.
        unsafe { self.mapping.load(list.offset, list.len, bytes.as_mut_ptr()) }.ok_or(invalid)?;
        let (entries, _) = bytes.as_chunks::<{ PART_BYTES as usize }>();
        let start = parts.len();
        let mut total = Some(0_u64);
        for entry in &entries[..count as usize] {
            let part = Part::decode(entry).filter(|part| match part.region {
                PartRegion::Output => result.room.contains(part.extent),
                PartRegion::Input => input.contains(part.extent),
            });
            total = total.zip(part).and_then(|(total, part)| total.checked_add(part.extent.len));
            parts.extend(part);
        }
        if total == Some(result.payload_len) {
            return Ok(());
        }
        parts.truncate(start);
        Err(invalid)
    }

    /// A range of rooms for a gathered write.
    pub fn raw(&self, extent: Extent) -> Result<Raw<'_>, OutOfRange> {
        if !self.rooms.contains(extent) {
            return Err(extent.into());
        }
        let start = self.mapping.at(extent.offset, extent.len).ok_or(OutOfRange::from(extent))?;
        Ok(Raw::new(start.as_ptr(), extent.len as usize, &self.mapping))
    }

    /// Backs a range of rooms with memory now.
    pub fn prefault(&self, extent: Extent) -> Result<(), OutOfRange> {
        if !self.rooms.contains(extent) {
            return Err(extent.into());
        }
        // SAFETY: no reference to the region is ever made.
        unsafe { self.mapping.populate(extent.offset, extent.len) }.ok_or_else(|| extent.into())
    }

    /// Gives the memory behind free rooms back to the system: what [`Arena::next_punch`] names.
    pub fn punch(&self, extent: Extent) -> io::Result<()> {
        if !self.rooms.contains(extent) {
            return Err(OutOfRange::from(extent).into());
        }
        self.mapping.punch(extent.offset, extent.len)
    }

    /// Bytes that are backed by memory now.
    #[cfg(not(miri))]
    pub fn resident_bytes(&self) -> io::Result<u64> {
        self.mapping.resident()
    }

    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

fn check(limits: CallLimits) -> io::Result<()> {
    if limits.is_valid() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "limits out of range")) }
}

fn whole_pages(bytes: u64) -> io::Result<u64> {
    bytes.checked_next_multiple_of(PAGE).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
