//! Two real processes: this one and a Python worker, millions of messages of 0 to 1 MiB, every byte checked on both
//! sides. `ASYA_RING_MESSAGES` sets how many.

#![cfg(not(any(loom, miri)))]

mod common;

use std::os::fd::AsFd;
use std::time::Instant;

use asya_ring::socket::Listener;
use common::{Echo, Mode, Random, RoomFor, Sidecar, report, wait_either};

#[test]
fn python_echoes_every_byte() {
    let messages: u64 = std::env::var("ASYA_RING_MESSAGES").map_or(50_000, |n| n.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("asya-sidecar.sock");
    let listener = Listener::bind(&path).expect("bind");
    let _echo = Echo::start(&path, 7, None);
    let mut sidecar = Sidecar::new(64, 64 << 20);
    let socket = sidecar.attach(&listener, 7, r#""generation": 7"#).expect("attach");

    let mut random = Random(0x0a57_a000_0000_0001);
    let (mut sent, mut empty, mut erring, mut pinning) = (0, 0, 0, 0);
    let started = Instant::now();
    let mut next = None;
    while sent < messages || !sidecar.idle() {
        while sent < messages {
            let (len, mode, room) = next.take().unwrap_or_else(|| pick(&mut random));
            if !sidecar.call(len, random.next(), mode, room) {
                // Full: the same call again once something has ended.
                next = Some((len, mode, room));
                break;
            }
            sent += 1;
            empty += u64::from(len == 0);
            erring += u64::from(mode == Mode::Error && len > 0);
            pinning += u64::from(mode == Mode::Pinned && len > 0);
            if random.below(16) == 0 {
                sidecar.cancel_one();
            }
        }
        sidecar.link.ring().expect("ring");
        if sidecar.idle() {
            break;
        }
        let (ended, rung) = wait_either(socket.as_fd(), sidecar.link.as_fd());
        assert!(!ended, "the worker is gone");
        if rung {
            sidecar.pump().expect("an honest worker");
        }
    }

    let counts = sidecar.counts;
    assert_eq!((counts.done, counts.errors, counts.unpinned), (empty, erring, pinning));
    assert!(counts.results >= messages - empty - erring);
    assert_eq!((sidecar.arena.used_bytes(), sidecar.rooms.used_bytes()), (0, 0), "everything was freed");
    let seconds = started.elapsed().as_secs_f64();
    report(&format!(
        "stress: {messages} calls, {} completions ({} requests for room), {} MiB, every byte checked, {seconds:.1} s",
        counts.entries,
        counts.rooms,
        counts.bytes >> 20
    ));
}

/// Mostly small, some large; each kind of answer, with room at hand or not.
fn pick(random: &mut Random) -> (u64, Mode, RoomFor) {
    let len = match random.below(256) {
        0 => random.below((1 << 20) + 1),
        1..4 => random.below(65_536),
        4..8 => 0,
        _ => random.below(2_000),
    };
    let mode = match random.below(16) {
        0 => Mode::Parts,
        1 => Mode::Two,
        2 => Mode::Error,
        3 => Mode::Pinned,
        _ => Mode::One,
    };
    let room = match random.below(16) {
        0 => RoomFor::Nothing,
        1 => RoomFor::OnePage,
        _ => RoomFor::Result,
    };
    (len, mode, room)
}
