//! Each rule broken alone: what the ledger must refuse, next to what it must take.

use super::*;
use crate::wire::{completion_flag::*, completion_kind::*};

const LIMITS: CallLimits = CallLimits { max_calls: 2, max_pinned: 0, max_result_bytes: 5_000 };
const SLOTS: Extent = Extent { offset: 4096, len: 16384 };
const ROOMS: Extent = Extent { offset: 8192, len: 65536 };
const ROOM: Extent = Extent { offset: 12288, len: 8192 };
const INPUT: Extent = Extent { offset: 4096, len: 300 };

fn call(call: u64) -> Submission {
    Submission::Call(Call { call, payload: INPUT, document_len: 300, room: Some(ROOM), ..Call::default() })
}

/// A ledger with call 1 open, which holds [`ROOM`].
fn ledger() -> Ledger {
    let mut ledger = Ledger::new(LIMITS, SLOTS, ROOMS);
    assert_eq!(ledger.admit(&call(1)), Ok(Some(0)));
    ledger
}

/// A result that is as it should be.
fn result() -> RawCompletion {
    RawCompletion {
        kind: RESULT,
        flags: LAST,
        call: 1,
        document_offset: ROOM.offset,
        document_len: 100,
        payload_len: 100,
        meta_len: 10,
        meta_offset: ROOM.offset + 100,
        elapsed_ns: 5,
        room_offset: ROOM.offset,
        room_len: ROOM.len,
        ..RawCompletion::default()
    }
}

fn with_blobs() -> RawCompletion {
    RawCompletion { blobs: 2, payload_len: 128 + 2 * 128, ..result() }
}

fn with_parts() -> RawCompletion {
    RawCompletion { parts: 3, parts_offset: ROOM.offset + 200, document_offset: u64::MAX, ..result() }
}

fn ask() -> RawCompletion {
    RawCompletion { kind: ROOM_KIND, flags: 0, document_len: 9_000, ..result() }
}

const ROOM_KIND: u16 = crate::wire::completion_kind::ROOM;

#[test]
fn what_is_as_it_should_be_is_taken() {
    let last = Some(Last { elapsed_ns: 5, pinned: false, unused: None });
    let whole = Extent { offset: ROOM.offset, len: 100 };
    let entry = ResultEntry {
        call: 1,
        last,
        blobs: 0,
        document_len: 100,
        payload_len: 100,
        parts: Parts::Whole(whole),
        meta: Some(Extent { offset: ROOM.offset + 100, len: 10 }),
        room: ROOM,
        json_stdlib: false,
    };
    assert_eq!(ledger().accept(&result()), Ok(Completion::Result(entry)));
    assert!(ledger().accept(&with_blobs()).is_ok());
    let list = Extent { offset: ROOM.offset + 200, len: 72 };
    let parts = Parts::List { list, count: 3, input: INPUT };
    assert_eq!(ledger().accept(&with_parts()), Ok(Completion::Result(ResultEntry { parts, ..entry })));
    let done = RawCompletion { kind: DONE, flags: 0, ..result() };
    let unused = Last { elapsed_ns: 5, pinned: false, unused: Some(ROOM) };
    assert_eq!(ledger().accept(&done), Ok(Completion::Done { call: 1, last: unused }));
    let bare = RawCompletion { kind: ERROR, meta_len: 0, room_len: 0, ..result() };
    let error = Completion::Error { call: 1, last: unused, meta: None, room: None };
    assert_eq!(ledger().accept(&bare), Ok(error));
    assert_eq!(ledger().accept(&ask()), Ok(Completion::Room { call: 1, wanted: 9_000, returned: Some(ROOM) }));
}

/// A valid entry, with one thing wrong, and the check that must notice.
type Broken = (&'static str, RawCompletion, fn(&Violation) -> bool);

fn broken() -> Vec<Broken> {
    let outside = |v: &Violation| matches!(v, Violation::Outside { .. });
    let lengths = |v: &Violation| matches!(v, Violation::Lengths { .. });
    let room = |v: &Violation| matches!(v, Violation::Room { .. });
    let flags = |v: &Violation| matches!(v, Violation::Flags { .. });
    let kind = |v: &Violation| matches!(v, Violation::Kind(_));
    let parts = |v: &Violation| matches!(v, Violation::Parts(_));
    let no_call = |v: &Violation| matches!(v, Violation::Call(_));
    vec![
        ("kind 0", RawCompletion { kind: 0, ..result() }, kind),
        ("kind 6", RawCompletion { kind: 6, ..result() }, kind),
        ("unknown flag", RawCompletion { flags: LAST | 8, ..result() }, flags),
        ("pinned before the end", RawCompletion { flags: PINNED, ..result() }, flags),
        ("a request for room that ends", RawCompletion { flags: LAST, ..ask() }, flags),
        ("another call", RawCompletion { call: 2, ..result() }, no_call),
        ("unpinned while open", RawCompletion { kind: UNPINNED, flags: 0, ..result() }, no_call),
        ("another room", RawCompletion { room_offset: ROOM.offset + 4096, ..result() }, room),
        ("a longer room", RawCompletion { room_len: ROOM.len + 1, ..result() }, room),
        ("asks and keeps its room", RawCompletion { room_len: 0, ..ask() }, room),
        ("a result without its room", RawCompletion { room_len: 0, meta_len: 0, ..result() }, outside),
        ("payload before the room", RawCompletion { document_offset: ROOM.offset - 1, ..result() }, outside),
        ("payload past the room", RawCompletion { document_offset: ROOM.offset + ROOM.len - 99, ..result() }, outside),
        ("payload past 64 bits", RawCompletion { document_offset: u64::MAX - 50, ..result() }, outside),
        ("meta past the room", RawCompletion { meta_offset: ROOM.offset + ROOM.len - 9, ..result() }, outside),
        ("meta past 64 bits", RawCompletion { meta_offset: u64::MAX, ..result() }, outside),
        ("a longer meta", RawCompletion { meta_len: u32::MAX, ..result() }, outside),
        ("parts past the room", RawCompletion { parts_offset: ROOM.offset + ROOM.len - 64, ..with_parts() }, outside),
        ("parts not aligned", RawCompletion { parts_offset: ROOM.offset + 4, ..with_parts() }, outside),
        ("too many parts", RawCompletion { parts: MAX_PARTS + 1, ..with_parts() }, parts),
        ("an empty document", RawCompletion { document_len: 0, payload_len: 0, ..result() }, lengths),
        ("a document longer than all", RawCompletion { document_len: 101, ..result() }, lengths),
        ("a document shorter than all", RawCompletion { document_len: 99, ..result() }, lengths),
        ("larger than allowed", RawCompletion { document_len: 5_001, payload_len: 5_001, ..result() }, lengths),
        ("no place for the table", RawCompletion { payload_len: 128 + 255, ..with_blobs() }, lengths),
        ("a table past 64 bits", RawCompletion { document_len: u64::MAX, ..with_blobs() }, lengths),
        ("blobs not aligned", RawCompletion { document_offset: ROOM.offset + 8, ..with_blobs() }, outside),
    ]
}

#[test]
fn each_rule_broken_alone_is_noticed() {
    for (what, raw, expected) in broken() {
        let mut ledger = ledger();
        let before = (ledger.open(), ledger.pinned(), ledger.unconsumed());
        let violation = ledger.accept(&raw).expect_err(what);
        assert!(expected(&violation), "{what}: {violation:?}");
        assert_eq!((ledger.open(), ledger.pinned(), ledger.unconsumed()), before, "{what} changed nothing");
    }
}

#[test]
fn one_request_for_room_at_a_time_and_one_answer() {
    let mut ledger = ledger();
    let grant = Submission::Grant { call: 1, room: ROOM };
    assert_eq!(ledger.admit(&grant), Err(PushError::NotAsked));
    ledger.accept(&ask()).expect("may ask");
    let again = RawCompletion { room_len: 0, ..ask() };
    assert_eq!(ledger.accept(&again), Err(Violation::AskedTwice(1)));
    assert_eq!(ledger.admit(&grant), Ok(Some(1)));
    assert_eq!(ledger.admit(&grant), Err(PushError::NotAsked));
    assert_eq!(ledger.unconsumed(), 1, "the call was consumed, the answer may not be");
    ledger.accept(&RawCompletion { flags: 0, ..result() }).expect("uses the room");
    assert_eq!(ledger.unconsumed(), 0);
    ledger.accept(&again).expect("asks for the next result");
    assert_eq!(ledger.admit(&Submission::Refuse { call: 1, limit: 5_000 }), Ok(Some(2)));
}

#[test]
fn a_call_that_ends_without_its_answer_leaves_the_room_to_free() {
    let mut ledger = ledger();
    ledger.accept(&ask()).expect("may ask");
    ledger.admit(&Submission::Grant { call: 1, room: ROOM }).expect("asked");
    let bare = RawCompletion { kind: ERROR, meta_len: 0, room_len: 0, ..result() };
    match ledger.accept(&bare) {
        Ok(Completion::Error { last: Last { unused: Some(room), .. }, room: None, .. }) => assert_eq!(room, ROOM),
        other => panic!("{other:?}"),
    }
    assert_eq!(ledger.unconsumed(), 1, "nothing shows that the grant was read");
}

#[test]
fn what_may_not_be_submitted_is_refused_without_a_trace() {
    let mut ledger = ledger();
    assert_eq!(ledger.admit(&call(1)), Err(PushError::Duplicate));
    assert_eq!(ledger.admit(&Submission::Cancel { call: 9 }), Err(PushError::NotOpen));
    assert_eq!(ledger.admit(&Submission::Refuse { call: 9, limit: 0 }), Err(PushError::NotOpen));
    let Submission::Call(good) = call(2) else { unreachable!("made so above") };
    let end = SLOTS.offset + SLOTS.len;
    for bad in [
        Call { payload: Extent { offset: 0, len: 300 }, ..good },
        Call { payload: Extent { offset: end - 299, len: 300 }, ..good },
        Call { context: Extent { offset: end, len: 1 }, ..good },
        Call { document_len: 301, ..good },
        Call { blobs: 1, payload: Extent { offset: 4097, len: 300 }, ..good },
        Call { room: Some(Extent { offset: ROOMS.offset + 64, len: 64 }), ..good },
        Call { room: Some(Extent { offset: 4096, len: 64 }), ..good },
        Call { room: Some(Extent { offset: ROOMS.offset, len: 0 }), ..good },
    ] {
        assert_eq!(ledger.admit(&Submission::Call(bad)), Err(PushError::Range), "{bad:?}");
    }
    assert_eq!(ledger.admit(&call(2)), Ok(Some(1)));
    assert_eq!(ledger.admit(&call(3)), Err(PushError::Full));
    assert_eq!(ledger.admit(&Submission::Cancel { call: 2 }), Ok(Some(2)));
    assert_eq!(ledger.admit(&Submission::Cancel { call: 2 }), Ok(None), "one cancellation is enough");
}

#[test]
fn what_stays_pinned_is_bounded() {
    let mut ledger = Ledger::new(LIMITS, SLOTS, ROOMS);
    let most = u64::from(LIMITS.complete_entries()) - 4;
    for n in 0..=most {
        ledger.admit(&call(n)).expect("room");
        let pin = RawCompletion { kind: DONE, flags: LAST | PINNED, call: n, ..RawCompletion::default() };
        assert!(matches!(ledger.accept(&pin), Ok(Completion::Done { last: Last { pinned: true, .. }, .. })));
    }
    assert_eq!(ledger.admit(&call(most + 1)), Err(PushError::Pinned));
    assert_eq!(ledger.admit(&call(0)), Err(PushError::Pinned));
    let unpin = RawCompletion { kind: UNPINNED, call: 0, ..RawCompletion::default() };
    assert_eq!(ledger.accept(&unpin), Ok(Completion::Unpinned { call: 0 }));
    assert_eq!(ledger.accept(&unpin), Err(Violation::Call(0)), "once");
    assert_eq!(ledger.admit(&call(1)), Err(PushError::Duplicate), "pinned still");
    assert!(ledger.admit(&call(0)).is_ok());
}
