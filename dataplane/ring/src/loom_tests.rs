//! The doorbell protocol under every interleaving that loom can find: entries are plain cells, the counter is the only
//! thing that orders them. Any read or write of an entry that the counter does not order is reported by loom.
//!
//! Each test says how many executions ran. `README.md` has the command.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use loom::thread;

use crate::bell::Bell;
use crate::cells::Cells;
use crate::completion::Completion;
use crate::ledger::{CallLimits, Ledger};
use crate::link::Link;
use crate::peer::Peer;
use crate::wire::{Call, Extent, RawCompletion, Submission, completion_flag, completion_kind};

const SLOTS: Extent = Extent { offset: 0, len: 1 << 20 };
const ROOM: Extent = Extent { offset: 4096, len: 4096 };

/// A link and its peer over rings of the given sizes, and another link's worth of calls.
fn ends(submit_entries: usize, complete_entries: usize, max_calls: u32) -> (Link, Peer) {
    let (submit, complete) = (Cells::new(submit_entries), Cells::new(complete_entries));
    let (submit_bell, complete_bell) = (Bell::new().expect("bell"), Bell::new().expect("bell"));
    let limits = CallLimits { max_calls, max_pinned: 0, max_result_bytes: 4096 };
    let peer = Peer::over(
        (submit.clone(), submit_bell.try_clone().expect("bell")),
        (complete.clone(), complete_bell.try_clone().expect("bell")),
    );
    let link = Link::over((submit, submit_bell), (complete, complete_bell), Ledger::new(limits, SLOTS, SLOTS));
    (link, peer)
}

fn call(call: u64) -> Submission {
    Submission::Call(Call { call, ..Call::default() })
}

fn done(call: u64) -> RawCompletion {
    RawCompletion { kind: completion_kind::DONE, flags: completion_flag::LAST, call, ..RawCompletion::default() }
}

/// Runs a model and says how many executions it took.
fn explore(name: &str, preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    static EXECUTIONS: AtomicU64 = AtomicU64::new(0);
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    EXECUTIONS.store(0, Ordering::Relaxed);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        EXECUTIONS.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let executions = EXECUTIONS.load(Ordering::Relaxed);
    let bound = preemptions.map_or("any number of".to_owned(), |n| format!("at most {n}"));
    // Past the harness's capture: a model that did not run must be seen not to have run.
    let _ = writeln!(std::io::stderr(), "asya-ring: loom: {name}: {executions} executions, {bound} preemptions");
    assert!(executions > 1, "the model has something to interleave");
}

fn take_one(peer: &mut Peer, into: &mut Vec<Submission>) {
    while peer.take(into).expect("an honest sidecar") == 0 {
        thread::yield_now();
    }
}

fn poll_some(link: &mut Link, into: &mut Vec<Completion>) {
    while link.poll(into).expect("an honest worker") == 0 {
        thread::yield_now();
    }
}

#[test]
fn loom_entries_arrive_whole_and_in_order() {
    explore("entries in one direction", None, || {
        let (mut link, mut peer) = ends(4, 1, 4);
        let worker = thread::spawn(move || {
            let mut taken = Vec::new();
            while taken.len() < 3 {
                take_one(&mut peer, &mut taken);
            }
            assert_eq!(taken, [call(10), call(11), call(12)]);
        });
        // One alone, then two under one ring.
        link.push(&call(10)).expect("room");
        link.ring().expect("ring");
        link.push(&call(11)).expect("room");
        link.push(&call(12)).expect("room");
        link.ring().expect("ring");
        worker.join().expect("worker");
    });
}

#[test]
fn loom_entries_are_reused_only_once_consumed() {
    explore("rings of one and two entries, three times round", None, || {
        let (mut link, mut peer) = ends(1, 2, 1);
        let worker = thread::spawn(move || {
            let mut taken = Vec::new();
            for n in 0..3 {
                take_one(&mut peer, &mut taken);
                assert_eq!(taken[n], call(n as u64));
                peer.post(&done(n as u64));
                peer.ring().expect("ring");
            }
        });
        let mut completions = Vec::new();
        for n in 0..3 {
            link.push(&call(n)).expect("the one before has ended");
            link.ring().expect("ring");
            poll_some(&mut link, &mut completions);
            assert!(matches!(completions.pop(), Some(Completion::Done { call, .. }) if call == n));
        }
        worker.join().expect("worker");
    });
}

#[test]
fn loom_room_is_asked_for_and_granted() {
    explore("a call, a request for room, a cancellation, a grant, a result", None, || {
        let (mut link, mut peer) = ends(4, 2, 1);
        let worker = thread::spawn(move || {
            let mut taken = Vec::new();
            take_one(&mut peer, &mut taken);
            let ask = RawCompletion { kind: completion_kind::ROOM, call: 1, document_len: 9, ..Default::default() };
            peer.post(&ask);
            peer.ring().expect("ring");
            while !taken.contains(&Submission::Grant { call: 1, room: ROOM }) {
                take_one(&mut peer, &mut taken);
            }
            peer.post(&RawCompletion {
                kind: completion_kind::RESULT,
                flags: completion_flag::LAST,
                call: 1,
                document_offset: ROOM.offset,
                document_len: 9,
                payload_len: 9,
                room_offset: ROOM.offset,
                room_len: ROOM.len,
                ..Default::default()
            });
            peer.ring().expect("ring");
        });
        let mut completions = Vec::new();
        link.push(&call(1)).expect("room");
        link.ring().expect("ring");
        link.push(&Submission::Cancel { call: 1 }).expect("open");
        link.ring().expect("ring");
        poll_some(&mut link, &mut completions);
        link.push(&Submission::Grant { call: 1, room: ROOM }).expect("asked");
        link.ring().expect("ring");
        while completions.len() < 2 {
            poll_some(&mut link, &mut completions);
        }
        assert!(matches!(completions[1], Completion::Result(result) if result.room == ROOM));
        worker.join().expect("worker");
    });
}

#[test]
fn loom_two_calls_in_flight() {
    explore("two calls in flight, five calls in all", Some(4), || {
        let (mut link, mut peer) = ends(4, 2, 2);
        let worker = thread::spawn(move || {
            let mut taken = Vec::new();
            let mut answered = 0;
            while answered < 5 {
                take_one(&mut peer, &mut taken);
                for submission in taken.drain(..) {
                    assert_eq!(submission, call(answered));
                    peer.post(&done(answered));
                    answered += 1;
                }
                peer.ring().expect("ring");
            }
        });
        let (mut pushed, mut ended) = (0, 0);
        let mut completions = Vec::new();
        while ended < 5 {
            while pushed < 5 && link.push(&call(pushed)).is_ok() {
                pushed += 1;
            }
            link.ring().expect("ring");
            poll_some(&mut link, &mut completions);
            for completion in completions.drain(..) {
                assert!(matches!(completion, Completion::Done { call, .. } if call == ended));
                ended += 1;
            }
        }
        worker.join().expect("worker");
    });
}

/// The model can tell: a bell rung before its entry is written is found out.
#[test]
#[should_panic(expected = "Causality violation")]
fn loom_finds_a_bell_that_is_rung_too_early() {
    loom::model(|| {
        let (cells, bell) = (Cells::new(1), Bell::new().expect("bell"));
        let (theirs, rung) = (cells.clone(), bell.try_clone().expect("bell"));
        let reader = thread::spawn(move || {
            if rung.take().expect("bell") == 1 {
                theirs.read(0);
            }
        });
        bell.ring(1).expect("bell");
        cells.write(0, &[1; 16]);
        reader.join().expect("reader");
    });
}

/// The model can tell: an entry that is overwritten while it may not have been read is found out.
#[test]
#[should_panic(expected = "Causality violation")]
fn loom_finds_an_entry_that_is_reused_too_early() {
    loom::model(|| {
        let (mut link, mut peer) = ends(1, 2, 2);
        let worker = thread::spawn(move || {
            let _ = peer.take(&mut Vec::new());
        });
        // Two calls are open at once in a ring of one.
        link.push(&call(0)).expect("room");
        link.ring().expect("ring");
        link.push(&call(1)).expect("room");
        worker.join().expect("worker");
    });
}
