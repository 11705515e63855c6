//! The memory of a simulated sidecar: slots and results, each of which is poisoned once it is given back.

use std::io;
use std::os::fd::BorrowedFd;

use asya_dataplane::flow::Store;
use asya_transport::{Memory, Part, Piece, Room, Slot};

use super::SimRim;

impl Memory for SimRim {
    fn reserve(&mut self, len: u64) -> Room {
        if len > self.shape.max_message {
            return Room::TooLarge;
        }
        if self.used + len > self.shape.budget {
            return Room::Later;
        }
        self.used += len;
        let bytes = vec![0; len as usize];
        match self.slots.iter().position(|(live, _)| !live) {
            Some(index) => {
                self.slots[index] = (true, bytes);
                Room::Granted(Slot(index as u32))
            }
            None => {
                self.slots.push((true, bytes));
                Room::Granted(Slot(self.slots.len() as u32 - 1))
            }
        }
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        &mut self.slots[slot.0 as usize].1
    }

    fn release(&mut self, slot: Slot) {
        let (live, bytes) = &mut self.slots[slot.0 as usize];
        if !*live {
            self.ledger.violation(format!("{slot:?} released twice"));
            return;
        }
        if let Some(call) = self.workers.iter().flat_map(|w| &w.calls).find(|c| c.slot == slot) {
            self.ledger.violation(format!("{slot:?} is given back while {} still reads it", call.id));
        }
        *live = false;
        self.ledger.vacated(self.process, slot);
        self.used -= bytes.len() as u64;
        // Whoever still reads it reads this.
        bytes.fill(0xdd);
    }

    fn copy_part(&self, part: Part, out: &mut Vec<u8>) {
        let index = u64::from(part.region / 2);
        let range = part.offset as usize..(part.offset + part.len) as usize;
        let bytes = if part.region.is_multiple_of(2) {
            self.slots.get(index as usize).map(|(_, bytes)| bytes)
        } else {
            self.outputs.get(&index)
        };
        match bytes.and_then(|b| b.get(range)) {
            Some(bytes) => out.extend_from_slice(bytes),
            None => out.resize(out.len() + part.len as usize, 0xdd),
        }
    }

    fn write_gathered(&self, _: BorrowedFd<'_>, _: &[Piece<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Store for SimRim {
    fn slot(&self, slot: Slot) -> &[u8] {
        self.slots.get(slot.0 as usize).map_or(&[], |(_, bytes)| bytes)
    }

    fn part(&self, slot: Slot, offset: u64, len: u64) -> Part {
        Part { region: slot.0 * 2, offset, len }
    }
}
