//! Plain memory for bodies, for programs that have no arena: a slot is a vector, and a part is a range of one.
//!
//! Takes requests for room, gives slots. Never blocks. Bounded by whoever uses it, through the windows that it asks for.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use asya_transport::{Memory, Part, Piece, Room, Slot};

/// Slots on the heap.
#[derive(Default)]
pub struct Heap {
    slots: BTreeMap<u32, Vec<u8>>,
    next: u32,
    /// What a slot has that nobody was granted.
    none: [u8; 0],
}

impl Heap {
    /// The bytes of a slot.
    pub fn slot(&self, slot: Slot) -> &[u8] {
        self.slots.get(&slot.0).map_or(&[], Vec::as_slice)
    }

    /// All of a slot, to publish it.
    pub fn whole(slot: Slot, len: u64) -> Part {
        Part { region: slot.0, offset: 0, len }
    }

    fn part(&self, part: Part) -> &[u8] {
        let range = part.offset as usize..part.offset.saturating_add(part.len) as usize;
        self.slot(Slot(part.region)).get(range).unwrap_or_default()
    }
}

impl Memory for Heap {
    fn reserve(&mut self, len: u64) -> Room {
        while self.slots.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        self.slots.insert(self.next, vec![0; len as usize]);
        Room::Granted(Slot(self.next))
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        self.slots.get_mut(&slot.0).map_or(&mut self.none, Vec::as_mut_slice)
    }

    fn release(&mut self, slot: Slot) {
        self.slots.remove(&slot.0);
    }

    fn copy_part(&self, part: Part, out: &mut Vec<u8>) {
        out.extend_from_slice(self.part(part));
    }

    fn write_gathered(&self, socket: BorrowedFd<'_>, pieces: &[Piece<'_>]) -> io::Result<usize> {
        let slices = pieces.iter().take(1024).map(|piece| match piece {
            Piece::Bytes(bytes) => IoSlice::new(bytes),
            Piece::Part(part) => IoSlice::new(self.part(*part)),
        });
        Ok(rustix::io::writev(socket, &slices.collect::<Vec<_>>())?)
    }
}
