//! The two buffers against their models.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::amqp::input::Input;
use crate::amqp::outbox::Outbox;
use crate::api::{Memory, Part, Piece, Room, Slot};

/// Parts only.
#[derive(Debug, Default)]
pub(super) struct FakeMemory(Vec<u8>);

impl FakeMemory {
    pub(super) fn put(&mut self, bytes: &[u8]) -> Part {
        let offset = self.0.len() as u64;
        self.0.extend_from_slice(bytes);
        Part { region: 0, offset, len: bytes.len() as u64 }
    }

    pub(super) fn bytes(&self, part: Part) -> &[u8] {
        &self.0[part.offset as usize..(part.offset + part.len) as usize]
    }
}

impl Memory for FakeMemory {
    fn reserve(&mut self, _len: u64) -> Room {
        Room::Later
    }
    fn slot_mut(&mut self, _slot: Slot) -> &mut [u8] {
        &mut []
    }
    fn release(&mut self, _slot: Slot) {}
    fn copy_part(&self, part: Part, out: &mut Vec<u8>) {
        out.extend_from_slice(self.bytes(part));
    }
    fn write_gathered(&self, _socket: BorrowedFd<'_>, _pieces: &[Piece<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Everything in an outbox, in order.
pub(super) fn flat(out: &Outbox, memory: &FakeMemory) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in out.gather(usize::MAX) {
        match piece {
            Piece::Bytes(own) => bytes.extend_from_slice(own),
            Piece::Part(part) => bytes.extend_from_slice(memory.bytes(part)),
        }
    }
    bytes
}

#[derive(Clone, Debug)]
enum Act {
    Own(Vec<u8>),
    Part(Vec<u8>),
    Written(usize),
    Take(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        vec(any::<u8>(), 0..40_000).prop_map(Act::Own),
        vec(any::<u8>(), 0..2000).prop_map(Act::Part),
        (0..60_000_usize).prop_map(Act::Written),
        (0..3000_usize).prop_map(Act::Take),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_outbox_gives_what_it_was_given_in_order(acts in vec(act(), 1..40)) {
        let mut memory = FakeMemory::default();
        let mut out = Outbox::default();
        let mut model: VecDeque<u8> = VecDeque::new();
        for act in acts {
            match act {
                Act::Own(bytes) => {
                    out.own(|own| own.extend_from_slice(&bytes));
                    model.extend(bytes);
                }
                Act::Part(bytes) => {
                    out.part(memory.put(&bytes));
                    model.extend(bytes);
                }
                Act::Written(len) => {
                    let len = len.min(model.len());
                    out.written(len);
                    model.drain(..len);
                }
                Act::Take(len) => {
                    let mut taken = Vec::new();
                    out.take(len, &memory, &mut taken);
                    prop_assert!(taken.len() >= len.min(model.len()));
                    let len = taken.len();
                    prop_assert_eq!(taken, model.drain(..len).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(out.is_empty(), model.is_empty());
        }
        prop_assert_eq!(flat(&out, &memory), model.iter().copied().collect::<Vec<_>>());
    }

    #[test]
    fn an_input_gives_what_it_was_given_in_order(acts in vec((any::<bool>(), 0..80_usize), 1..60)) {
        let mut input = Input::new(100);
        let mut model: VecDeque<u8> = VecDeque::new();
        let mut next = 0_u8;
        for (read, len) in acts {
            if read {
                let space = input.space(len);
                prop_assert!(space.len() == len || space.len() + model.len() == 100);
                let taken = space.len();
                for byte in space {
                    *byte = next;
                    model.push_back(next);
                    next = next.wrapping_add(1);
                }
                input.filled(taken);
            } else {
                let len = len.min(model.len());
                input.consume(len);
                model.drain(..len);
            }
            prop_assert_eq!(input.unread(), model.make_contiguous());
            prop_assert_eq!(input.is_empty(), model.is_empty());
        }
    }
}
