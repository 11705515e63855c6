//! Any bytes as what a lying worker does. The body is `tests/common/words.rs`, which the property test runs too.

#![no_main]

#[path = "../../tests/common/words.rs"]
mod words;

use asya_ring::wire::{RawCompletion, Words};
use libfuzzer_sys::fuzz_target;
use words::Lie;

/// Takes numbers off the input; zeros when it is used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let len = N.min(self.0.len());
        taken[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        taken
    }

    fn small(&mut self) -> u64 {
        u64::from(u16::from_le_bytes(self.take()))
    }

    fn words(&mut self) -> Words {
        std::array::from_fn(|_| u64::from_le_bytes(self.take()))
    }

    fn near(&mut self) -> Lie {
        let [kind, flags, blobs, call, parts, turns] = self.take();
        let raw = RawCompletion {
            kind: kind.into(),
            flags: flags.into(),
            blobs: blobs.into(),
            call: call.into(),
            parts: parts.into(),
            document_offset: self.small(),
            document_len: self.small(),
            payload_len: self.small(),
            parts_offset: self.small(),
            meta_len: self.small() as u32,
            meta_offset: self.small(),
            elapsed_ns: 1,
            room_offset: self.small(),
            room_len: self.small(),
        };
        Lie::Near { raw, name_room: turns & 1 == 0, ring: turns & 2 == 0 }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let mut lies = Vec::new();
    while !bytes.0.is_empty() && lies.len() < 64 {
        lies.push(match bytes.take::<1>()[0] % 8 {
            0 => Lie::Words(bytes.words()),
            1 => Lie::InSequence(bytes.words()),
            2 => Lie::Bytes(bytes.small() as u16, bytes.take()),
            3 => Lie::Ring(u64::from_le_bytes(bytes.take())),
            _ => bytes.near(),
        });
    }
    words::run(&lies);
});
