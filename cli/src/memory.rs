//! Plain heap memory for bodies, for the commands that have no arena.
//!
//! Takes requests for room; gives slots. Blocks on nothing. On failure: [`Room::Later`] while too much is held.

use asya_transport::{Memory, Part, Piece, Room, Slot};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

/// Bytes held at once. A command holds a window of deliveries while it prints them; beyond this it stops reading.
const BYTES_MAX: u64 = 256 << 20;

/// Heap slots.
#[derive(Debug, Default)]
pub struct HeapMemory {
    slots: BTreeMap<u32, Vec<u8>>,
    held: u64,
    next: u32,
    /// What [`Memory::slot_mut`] gives for a slot that nobody was granted.
    none: [u8; 0],
}

impl HeapMemory {
    /// Takes a slot's bytes and frees it.
    pub fn take(&mut self, slot: Slot) -> Vec<u8> {
        let body = self.slots.remove(&slot.0).unwrap_or_default();
        self.held -= body.len() as u64;
        body
    }
}

impl Memory for HeapMemory {
    fn reserve(&mut self, len: u64) -> Room {
        let Ok(bytes) = usize::try_from(len) else { return Room::TooLarge };
        // One message of any size is let in when nothing is held: nobody would ever see it otherwise.
        if self.held > 0 && self.held.saturating_add(len) > BYTES_MAX {
            return Room::Later;
        }
        while self.slots.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        self.slots.insert(self.next, vec![0; bytes]);
        self.held += len;
        Room::Granted(Slot(self.next))
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        self.slots.get_mut(&slot.0).map_or(&mut self.none, Vec::as_mut_slice)
    }

    fn release(&mut self, slot: Slot) {
        drop(self.take(slot));
    }

    fn copy_part(&self, _: Part, _: &mut Vec<u8>) {
        // Bodies of these commands have no parts: all of them is prefix, which the transport copies.
    }

    fn write_gathered(&self, socket: BorrowedFd<'_>, pieces: &[Piece<'_>]) -> io::Result<usize> {
        let slices: Vec<IoSlice<'_>> = pieces
            .iter()
            .take(1024)
            .filter_map(|piece| match piece {
                Piece::Bytes(bytes) => Some(IoSlice::new(bytes)),
                Piece::Part(_) => None,
            })
            .collect();
        Ok(rustix::io::writev(socket, &slices)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(room: Room) -> Slot {
        match room {
            Room::Granted(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_held_is_bounded_but_one_message_always_fits() {
        let mut memory = HeapMemory::default();
        let large = granted(memory.reserve(BYTES_MAX + 1));
        assert_eq!(memory.reserve(1), Room::Later);
        memory.release(large);
        let one = granted(memory.reserve(3));
        memory.slot_mut(one).copy_from_slice(b"abc");
        let two = granted(memory.reserve(0));
        assert_ne!(one, two);
        assert_eq!(memory.take(one), b"abc");
        assert_eq!(memory.take(two), b"");
        assert_eq!(memory.held, 0);
    }
}
