//! What a lying worker can write, given to a sidecar: the body of both the property test and the fuzz target.
//!
//! Whatever the words, out comes a [`Violation`] or completions whose every range lies where it may.

use asya_ring::peer::Peer;
use asya_ring::wire::{RawCompletion, Words};
use asya_ring::{
    Call, CallLimits, Completion, Extent, InputRegion, Link, OutputRegion, Part, PartRegion, Parts, PollError,
    Submission, Violation,
};

const LIMITS: CallLimits = CallLimits { max_calls: 4, max_pinned: 4, max_result_bytes: 20_000 };

/// Calls that are open at the start, two of them with a room.
const CALLS: [u64; 4] = [0, 1, 2, u64::MAX];

/// One thing that a lying worker does.
#[derive(Clone, Debug)]
pub enum Lie {
    /// Any words under any sequence.
    Words(Words),
    /// Any words under the sequence that is due.
    InSequence(Words),
    /// Fields that are nearly right: offsets from the start of the call's room, the room's own place when asked for.
    /// Announced at once, or with a later one.
    Near { raw: RawCompletion, name_room: bool, ring: bool },
    /// Bytes into the output, at this offset from the start of the rooms.
    Bytes(u16, [u8; 48]),
    /// A doorbell that counts wrongly.
    Ring(u64),
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub completions: u64,
    pub violation: Option<Violation>,
}

pub fn run(lies: &[Lie]) -> Outcome {
    let input = InputRegion::create(1, LIMITS, 64 << 10).expect("input");
    let output = OutputRegion::create(LIMITS, 64 << 10).expect("output");
    let mut link = Link::new(&input, &output).expect("link");
    let mut peer = Peer::beside(&link).expect("peer");
    let slots = input.slots();
    let rooms = output.rooms();
    let mut room_of = [None; 4];
    for (n, &call) in CALLS.iter().enumerate() {
        let payload = Extent { offset: slots.offset + n as u64 * 8192, len: 5_000 };
        room_of[n] = (n % 2 == 0).then_some(Extent { offset: rooms.offset + n as u64 * 8192, len: 8192 });
        let submission = Call { call, payload, document_len: 5_000, room: room_of[n], ..Call::default() };
        link.push(&Submission::Call(submission)).expect("room for four");
    }
    link.ring().expect("ring");

    let mut sequence = 0_u64;
    let mut outcome = Outcome::default();
    for lie in lies {
        let mut announce = true;
        match lie {
            Lie::Words(words) => peer.post_words(words),
            Lie::InSequence(words) => {
                let mut words = *words;
                words[0] = sequence + 1;
                peer.post_words(&words);
            }
            Lie::Near { raw, name_room, ring } => {
                let n = (raw.call % 4) as usize;
                let room = room_of[n].unwrap_or_default();
                let mut raw = RawCompletion { call: CALLS[n], ..*raw };
                raw.document_offset = raw.document_offset.wrapping_add(room.offset);
                raw.parts_offset = raw.parts_offset.wrapping_add(room.offset);
                raw.meta_offset = raw.meta_offset.wrapping_add(room.offset);
                if *name_room {
                    (raw.room_offset, raw.room_len) = (room.offset, room.len);
                }
                peer.post_words(&raw.encode(sequence + 1));
                announce = *ring;
            }
            Lie::Bytes(at, bytes) => {
                // The last few bytes of the region refuse it.
                let _ = peer.write(rooms.offset + u64::from(*at), bytes);
                continue;
            }
            Lie::Ring(count) => {
                // A counter that is full refuses it.
                let _ = peer.ring_lie(*count);
                sequence = sequence.wrapping_sub(1);
            }
        }
        sequence = sequence.wrapping_add(1);
        if !announce {
            continue;
        }
        let _ = peer.ring();
        let mut completions = Vec::new();
        let polled = link.poll(&mut completions);
        for completion in completions {
            outcome.completions += 1;
            check(&completion, &output, &room_of);
            follow(&completion, &mut link, &mut room_of, rooms);
        }
        match polled {
            Ok(_) => {}
            Err(PollError::Violation(violation)) => {
                outcome.violation = Some(violation);
                // It stays broken, and salvaging does not make it whole.
                assert!(matches!(link.poll(&mut Vec::new()), Err(PollError::Violation(again)) if again == violation));
                assert!(link.salvage(&mut Vec::new()).is_err());
                return outcome;
            }
            Err(PollError::Io(error)) => unreachable!("doorbells work: {error}"),
        }
    }
    outcome
}

fn slot_of(call: u64) -> usize {
    CALLS.iter().position(|&known| known == call).expect("only calls that were made come out")
}

/// Goes on as an honest sidecar does: rooms that come back are gone, and who asks gets one.
fn follow(completion: &Completion, link: &mut Link, room_of: &mut [Option<Extent>; 4], rooms: Extent) {
    match *completion {
        Completion::Result(result) => room_of[slot_of(result.call)] = None,
        Completion::Error { call, .. } | Completion::Done { call, .. } => room_of[slot_of(call)] = None,
        Completion::Room { call, .. } => {
            let n = slot_of(call);
            let room = Extent { offset: rooms.offset + n as u64 * 8192, len: 8192 };
            room_of[n] = None;
            // It may have ended in the same breath.
            if link.push(&Submission::Grant { call, room }).is_ok() {
                room_of[n] = Some(room);
                link.ring().expect("ring");
            }
        }
        Completion::Unpinned { .. } => {}
    }
}

fn check(completion: &Completion, output: &OutputRegion, rooms: &[Option<Extent>; 4]) {
    let room_of = |call: u64| rooms[slot_of(call)];
    match completion {
        Completion::Result(result) => {
            assert_eq!(room_of(result.call), Some(result.room));
            assert!(result.document_len > 0 && result.document_len <= result.payload_len);
            assert!(result.payload_len <= LIMITS.max_result_bytes);
            if let Some(meta) = result.meta {
                assert!(result.room.contains(meta));
                output.copy_out(meta, &mut Vec::new()).expect("in range");
            }
            let mut parts = Vec::new();
            if output.parts(result, &mut parts).is_err() {
                assert!(parts.is_empty());
                return;
            }
            assert_eq!(parts.iter().map(|part| part.extent.len).sum::<u64>(), result.payload_len);
            for Part { region, extent } in parts {
                match region {
                    PartRegion::Output => {
                        assert!(result.room.contains(extent));
                        output.copy_out(extent, &mut Vec::new()).expect("in range");
                        assert_eq!(output.raw(extent).expect("in range").len() as u64, extent.len);
                    }
                    PartRegion::Input => {
                        assert!(matches!(result.parts, Parts::List { input, .. } if input.contains(extent)));
                    }
                }
            }
        }
        Completion::Error { call, last, meta, room } => {
            assert!(room.is_none() || *room == room_of(*call));
            if let Some(meta) = meta {
                assert!(room.expect("meta lies in a room").contains(*meta));
            }
            assert!(last.unused.is_none() || room.is_none());
        }
        Completion::Room { call, returned, .. } => assert!(returned.is_none() || *returned == room_of(*call)),
        Completion::Done { call, .. } | Completion::Unpinned { call } => assert!(CALLS.contains(call)),
    }
}
