//! Regions and links in one process: what may be reached, what comes out, and two threads at both ends.
//!
//! Runs under miri too, which checks every pointer and looks for races: `README.md` has the command.

#![cfg(not(loom))]

use std::io::Write;
use std::thread;

use asya_ring::peer::Peer;
use asya_ring::wire::{RawCompletion, completion_flag, completion_kind};
use asya_ring::{
    Call, CallLimits, Completion, Extent, InputRegion, Link, OutOfRange, OutputRegion, Part, PartRegion, Submission,
    Violation,
};

const LIMITS: CallLimits = CallLimits { max_calls: 3, max_pinned: 0, max_result_bytes: 1 << 20 };

fn regions() -> (InputRegion, OutputRegion) {
    let input = InputRegion::create(2, LIMITS, 32 << 10).expect("input");
    (input, OutputRegion::create(LIMITS, 32 << 10).expect("output"))
}

#[test]
fn slots_are_reached_and_nothing_else() {
    let (mut input, output) = regions();
    let slots = input.slots();
    assert_eq!(slots.offset, 2 * 4096, "a ring of 32 entries is one page");
    let end = slots.offset + slots.len;
    for bad in [(0, 1), (slots.offset - 1, 2), (end - 1, 2), (end, 1), (u64::MAX, 1), (slots.offset, u64::MAX)] {
        let extent = Extent { offset: bad.0, len: bad.1 };
        assert_eq!(input.slice(extent), Err(OutOfRange { offset: bad.0, len: bad.1 }));
        assert!(input.slice_mut(extent).is_err() && input.raw(extent).is_err() && input.prefault(extent).is_err());
    }
    let rooms = output.rooms();
    for bad in [(0, 1), (rooms.offset - 1, 1), (rooms.offset + rooms.len, 1), (u64::MAX, 2)] {
        let extent = Extent { offset: bad.0, len: bad.1 };
        assert!(output.copy_out(extent, &mut Vec::new()).is_err() && output.raw(extent).is_err());
        assert!(output.punch(extent).is_err() && output.prefault(extent).is_err());
    }
    let (a, b) = (Extent { offset: slots.offset, len: 5_000 }, Extent { offset: slots.offset + 5_000, len: 10 });
    input.slice_mut(a).expect("slot").fill(1);
    input.slice_mut(b).expect("slot").fill(2);
    input.prefault(slots).expect("slots");
    assert!(input.slice(a).expect("slot").iter().all(|&byte| byte == 1), "backing memory changes no byte");
    assert_eq!(input.slice(b).expect("slot"), [2; 10]);
    assert_eq!(input.slice(Extent { offset: end, len: 0 }), Ok(&[][..]));
}

#[test]
fn copies_are_right_at_every_alignment() {
    let (input, output) = regions();
    let link = Link::new(&input, &output).expect("link");
    let mut peer = Peer::beside(&link).expect("peer");
    let rooms = output.rooms();
    let bytes: Vec<u8> = (0..64).map(|n: u8| n.wrapping_mul(37) ^ 0x5a).collect();
    let mut copies = 0;
    for at in 0..9 {
        for len in (0..20).chain([31, 40]) {
            peer.write(rooms.offset + at, &bytes[..len]).expect("in range");
            peer.write(rooms.offset + at + len as u64, &[0xee]).expect("in range");
            let mut copy = vec![0xff; at as usize % 3];
            output.copy_out(Extent { offset: rooms.offset + at, len: len as u64 + 1 }, &mut copy).expect("in range");
            let (before, after) = copy.split_at(at as usize % 3);
            assert!(before.iter().all(|&byte| byte == 0xff), "appended");
            assert_eq!(after.split_last(), Some((&0xee, &bytes[..len])));
            copies += 1;
        }
    }
    let _ = writeln!(std::io::stderr(), "asya-ring: memory: {copies} copies");
}

#[test]
fn each_ring_has_one_link_at_a_time() {
    let (input, output) = regions();
    let first = Link::new(&input, &output).expect("ring 0");
    let second = Link::new(&input, &output).expect("ring 1");
    assert_ne!(first.geometry().submit_offset, second.geometry().submit_offset);
    assert!(Link::new(&input, &output).is_err(), "two rings, two links");
    let offset = first.geometry().submit_offset;
    drop(first);
    assert_eq!(Link::new(&input, &output).expect("free again").geometry().submit_offset, offset);
    assert!(InputRegion::create(1, CallLimits { max_calls: 0, ..LIMITS }, 4096).is_err());
    assert!(OutputRegion::create(CallLimits { max_pinned: (1 << 20) + 1, ..LIMITS }, 4096).is_err());
    let other = OutputRegion::create(CallLimits { max_calls: 64, ..LIMITS }, 4096).expect("output");
    drop(second);
    assert!(Link::new(&input, &other).is_err(), "made for other limits");
}

#[test]
fn parts_are_checked_against_room_and_input() {
    let (mut input, output) = regions();
    let (slots, rooms) = (input.slots(), output.rooms());
    input.slice_mut(Extent { offset: slots.offset, len: 100 }).expect("slot").fill(9);
    let room = Extent { offset: rooms.offset, len: 4096 };
    let given = Extent { offset: slots.offset, len: 100 };
    let theirs = |offset, len| Part { region: PartRegion::Input, extent: Extent { offset, len } };
    let ours = |offset, len| Part { region: PartRegion::Output, extent: Extent { offset, len } };
    let good = [theirs(slots.offset, 60), ours(rooms.offset + 512, 30), theirs(slots.offset + 90, 10)];
    let cases = [
        (good, true),
        ([good[0], good[1], theirs(slots.offset + 91, 10)], false),
        ([theirs(slots.offset - 1, 60), good[1], good[2]], false),
        ([good[0], ours(rooms.offset + 4096 - 29, 30), good[2]], false),
        ([good[0], ours(0, 30), good[2]], false),
        ([good[0], good[1], theirs(slots.offset, 9)], false),
        ([theirs(0, u64::MAX), good[1], good[2]], false),
    ];
    for (parts, valid) in cases {
        let mut link = Link::new(&input, &output).expect("link");
        let mut peer = Peer::beside(&link).expect("peer");
        let call = Call { call: 5, payload: given, document_len: 100, room: Some(room), ..Call::default() };
        link.push(&Submission::Call(call)).expect("room");
        for (n, part) in parts.iter().enumerate() {
            peer.write(rooms.offset + n as u64 * 24, &part.encode()).expect("in range");
        }
        peer.post(&RawCompletion {
            kind: completion_kind::RESULT,
            flags: completion_flag::LAST,
            call: 5,
            document_len: 100,
            payload_len: 100,
            parts_offset: rooms.offset,
            parts: 3,
            room_offset: room.offset,
            room_len: room.len,
            ..Default::default()
        });
        peer.ring().expect("ring");
        let mut completions = Vec::new();
        link.poll(&mut completions).expect("the entry itself is right");
        let [Completion::Result(result)] = completions[..] else { panic!("{completions:?}") };
        let mut read = vec![good[0]];
        if valid {
            output.parts(&result, &mut read).expect("valid");
            assert_eq!(read[1..], parts);
        } else {
            assert_eq!(output.parts(&result, &mut read), Err(Violation::Parts(3)), "{parts:?}");
            assert_eq!(read, [good[0]], "nothing of it is left");
        }
    }
}

/// Both ends in threads of their own: no lock, no order but the doorbells'.
#[test]
fn two_threads_exchange_everything() {
    let calls: u64 = if cfg!(miri) { 30 } else { 20_000 };
    let (mut input, output) = regions();
    let (slots, rooms) = (input.slots(), output.rooms());
    let mut link = Link::new(&input, &output).expect("link");
    let mut peer = Peer::beside(&link).expect("peer");
    let room = |call: u64| Extent { offset: rooms.offset + call % 3 * 4096, len: 4096 };

    let worker = thread::spawn(move || {
        let (mut taken, mut bytes, mut answered) = (Vec::new(), Vec::new(), 0);
        while answered < calls {
            if peer.take(&mut taken).expect("an honest sidecar") == 0 {
                thread::yield_now();
            }
            for submission in taken.drain(..) {
                let Submission::Call(call) = submission else { panic!("{submission:?}") };
                bytes.clear();
                peer.read(call.payload, &mut bytes).expect("in range");
                let room = call.room.expect("given");
                peer.write(room.offset, &bytes).expect("in range");
                peer.post(&RawCompletion {
                    kind: completion_kind::RESULT,
                    flags: completion_flag::LAST,
                    call: call.call,
                    document_offset: room.offset,
                    document_len: bytes.len() as u64,
                    payload_len: bytes.len() as u64,
                    room_offset: room.offset,
                    room_len: room.len,
                    ..Default::default()
                });
                answered += 1;
            }
            peer.ring().expect("ring");
        }
    });

    let (mut pushed, mut ended) = (0, 0);
    let (mut completions, mut bytes) = (Vec::new(), Vec::new());
    while ended < calls {
        while pushed < calls && link.open_calls() < 3 {
            let payload = Extent { offset: slots.offset + pushed % 3 * 64, len: 1 + pushed % 60 };
            input.slice_mut(payload).expect("slot").fill(pushed as u8);
            let (call, document_len) = (pushed, payload.len);
            let call = Call { call, payload, document_len, room: Some(room(pushed)), ..Call::default() };
            link.push(&Submission::Call(call)).expect("fewer than three are open");
            pushed += 1;
        }
        link.ring().expect("ring");
        if link.poll(&mut completions).expect("an honest worker") == 0 {
            thread::yield_now();
        }
        for completion in completions.drain(..) {
            let Completion::Result(result) = completion else { panic!("{completion:?}") };
            assert_eq!((result.call, result.payload_len), (ended, 1 + ended % 60));
            bytes.clear();
            output.copy_out(Extent { len: result.payload_len, ..result.room }, &mut bytes).expect("in range");
            assert!(bytes.iter().all(|&byte| byte == ended as u8));
            ended += 1;
        }
    }
    worker.join().expect("worker");
    let _ = writeln!(std::io::stderr(), "asya-ring: memory: {calls} calls between two threads");
}
