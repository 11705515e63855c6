//! A [`Memory`] on the heap, with a budget.
//!
//! Takes requests for room; gives slots while their sum stays within the budget. Never blocks. What is asked of it
//! wrongly (a slot that is not there, a part out of range) it counts in [`HeapMemory::misuses`], and the suite fails
//! on it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use crate::{Memory, Part, Piece, Room, Slot};

/// Most pieces of one gathered write that are looked at; the number in [`Memory::write_gathered`]'s contract.
const PIECES_MAX: usize = 1024;

/// Input slots and output regions on the heap.
#[derive(Debug)]
pub struct HeapMemory {
    budget: u64,
    largest: u64,
    slots: BTreeMap<u32, Vec<u8>>,
    next_slot: u32,
    regions: BTreeMap<u32, Vec<u8>>,
    next_region: u32,
    refused: u64,
    misuses: Cell<u64>,
}

impl HeapMemory {
    /// Grants at most `budget` bytes at a time, and never more than `largest` for one body.
    pub fn new(budget: u64, largest: u64) -> Self {
        Self {
            budget,
            largest,
            slots: BTreeMap::new(),
            next_slot: 0,
            regions: BTreeMap::new(),
            next_region: 0,
            refused: 0,
            misuses: Cell::new(0),
        }
    }

    /// Bytes of all slots that are out.
    pub fn used(&self) -> u64 {
        self.slots.values().map(|slot| slot.len() as u64).sum()
    }

    /// Slots that are out.
    pub fn slots_out(&self) -> usize {
        self.slots.len()
    }

    /// How often room was asked for and answered with [`Room::Later`].
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Requests that named a slot or a range that does not exist.
    pub fn misuses(&self) -> u64 {
        self.misuses.get()
    }

    /// Changes the budget; what is out stays out.
    pub fn set_budget(&mut self, budget: u64) {
        self.budget = budget;
    }

    /// The bytes of a slot.
    pub fn slot(&self, slot: Slot) -> Option<&[u8]> {
        self.slots.get(&slot.0).map(Vec::as_slice)
    }

    /// A region of its own for `bytes`, which do not start at its beginning.
    pub fn put(&mut self, bytes: &[u8]) -> Part {
        const LEAD: usize = 24;
        let region = self.next_region;
        self.next_region += 1;
        let mut stored = vec![0xA5; LEAD];
        stored.extend_from_slice(bytes);
        self.regions.insert(region, stored);
        Part { region, offset: LEAD as u64, len: bytes.len() as u64 }
    }

    /// Overwrites a part, as its next user would, once its publish is answered.
    pub fn reuse(&mut self, part: Part) {
        if let Some(region) = self.regions.get_mut(&part.region) {
            region.fill(0xEE);
        }
    }

    fn part(&self, part: Part) -> &[u8] {
        let range = usize::try_from(part.offset).ok().zip(usize::try_from(part.offset.saturating_add(part.len)).ok());
        let bytes = self.regions.get(&part.region).zip(range).and_then(|(bytes, (from, to))| bytes.get(from..to));
        bytes.unwrap_or_else(|| {
            self.misuses.set(self.misuses.get() + 1);
            &[]
        })
    }
}

impl Memory for HeapMemory {
    fn reserve(&mut self, len: u64) -> Room {
        if len > self.largest {
            return Room::TooLarge;
        }
        if self.used() + len > self.budget {
            self.refused += 1;
            return Room::Later;
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        self.slots.insert(slot, vec![0; usize::try_from(len).unwrap_or(usize::MAX)]);
        Room::Granted(Slot(slot))
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        match self.slots.get_mut(&slot.0) {
            Some(bytes) => bytes,
            None => {
                self.misuses.set(self.misuses.get() + 1);
                &mut []
            }
        }
    }

    fn release(&mut self, slot: Slot) {
        if self.slots.remove(&slot.0).is_none() {
            self.misuses.set(self.misuses.get() + 1);
        }
    }

    fn copy_part(&self, part: Part, out: &mut Vec<u8>) {
        out.extend_from_slice(self.part(part));
    }

    fn write_gathered(&self, socket: BorrowedFd<'_>, pieces: &[Piece<'_>]) -> io::Result<usize> {
        let slices: Vec<IoSlice<'_>> = pieces
            .iter()
            .take(PIECES_MAX)
            .map(|piece| match piece {
                Piece::Bytes(bytes) => IoSlice::new(bytes),
                Piece::Part(part) => IoSlice::new(self.part(*part)),
            })
            .collect();
        Ok(rustix::io::writev(socket, &slices)?)
    }
}
