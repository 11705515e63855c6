//! Both ends of the rings and the arenas against an oracle of plain queues: everything arrives once, in order and
//! unchanged, whatever the order in which both sides write, ring and read.
//!
//! Runs under miri too, with fewer cases: `README.md` has the command.

#![cfg(not(loom))]

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;

use asya_ring::peer::Peer;
use asya_ring::wire::{RawCompletion, completion_flag, completion_kind};
use asya_ring::{
    Arena, ArenaConfig, Call, CallLimits, Completion, Extent, InputRegion, Link, OutputRegion, PushError, Submission,
};
use proptest::prelude::*;

/// One thing that either side does. Numbers pick among what is there, modulo how many there are.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Call { len: u16, room: bool },
    Cancel { n: u8 },
    Answer { n: u8, grant: bool },
    RingSubmissions,
    Poll,
    Take,
    Work { n: u8, act: Act },
    Unpin { n: u8 },
    RingCompletions,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Result { last: bool, pin: bool },
    Done { pin: bool },
    Error { meta: bool },
    Ask,
}

/// Bytes of the largest payload: under miri each byte costs a microsecond and more.
const LARGEST: u64 = if cfg!(miri) { 150 } else { 9_000 };

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let act = prop_oneof![
        4 => (any::<bool>(), any::<bool>()).prop_map(|(last, pin)| Act::Result { last, pin: pin && last }),
        1 => any::<bool>().prop_map(|pin| Act::Done { pin }),
        1 => any::<bool>().prop_map(|meta| Act::Error { meta }),
        3 => Just(Act::Ask),
    ];
    let operation = prop_oneof![
        5 => (0..LARGEST as u16, any::<bool>()).prop_map(|(len, room)| Operation::Call { len, room }),
        1 => any::<u8>().prop_map(|n| Operation::Cancel { n }),
        3 => (any::<u8>(), prop::bool::weighted(0.9)).prop_map(|(n, grant)| Operation::Answer { n, grant }),
        4 => Just(Operation::RingSubmissions),
        4 => Just(Operation::Poll),
        4 => Just(Operation::Take),
        8 => (any::<u8>(), act).prop_map(|(n, act)| Operation::Work { n, act }),
        2 => any::<u8>().prop_map(|n| Operation::Unpin { n }),
        4 => Just(Operation::RingCompletions),
    ];
    proptest::collection::vec(operation, 1..if cfg!(miri) { 30 } else { 800 })
}

/// A call as the worker sees it.
struct Running {
    room: Option<Extent>,
    asked: bool,
}

struct Model {
    input: InputRegion,
    arena: Arena,
    output: OutputRegion,
    rooms: Arena,
    link: Link,
    peer: Peer,
    next_call: u64,
    /// Slots of calls that are open or pinned, as the sidecar sees it.
    slots: BTreeMap<u64, Extent>,
    /// Calls that wait for the sidecar's answer, as the sidecar sees it.
    asking: Vec<u64>,
    open: u32,
    pinned: u32,
    /// What was written and not yet read; the first `rung_*` of it have been announced.
    submitted: VecDeque<Submission>,
    rung_submitted: usize,
    posted: VecDeque<RawCompletion>,
    rung_posted: usize,
    running: BTreeMap<u64, Running>,
    /// Ended with views, as the worker sees it.
    viewing: Vec<u64>,
    canceled: Vec<u64>,
}

fn pattern(call: u64) -> u8 {
    (call as u8).wrapping_mul(31).wrapping_add(7)
}

impl Model {
    fn new(max_calls: u32, max_pinned: u32) -> Self {
        let limits = CallLimits { max_calls, max_pinned, max_result_bytes: 1 << 20 };
        let input = InputRegion::create(1, limits, 128 << 10).expect("input");
        let output = OutputRegion::create(limits, 256 << 10).expect("output");
        let link = Link::new(&input, &output).expect("link");
        let peer = Peer::beside(&link).expect("peer");
        let rooms = Arena::new(ArenaConfig {
            space: output.rooms(),
            small_bytes: 4096,
            small_slots: 4,
            budget_bytes: 128 << 10,
            warm_bytes: 16 << 10,
        });
        Self {
            arena: input.arena(4096, 4),
            input,
            output,
            rooms,
            link,
            peer,
            next_call: 0x1234_5678_0000_0000,
            slots: BTreeMap::new(),
            asking: Vec::new(),
            open: 0,
            pinned: 0,
            submitted: VecDeque::new(),
            rung_submitted: 0,
            posted: VecDeque::new(),
            rung_posted: 0,
            running: BTreeMap::new(),
            viewing: Vec::new(),
            canceled: Vec::new(),
        }
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Call { len, room } => self.call(u64::from(len), room),
            Operation::Cancel { n } => {
                let open: Vec<u64> = self.slots.keys().copied().collect();
                if let Some(&call) = pick(&open, n) {
                    let pushed = self.link.push(&Submission::Cancel { call });
                    // Known to be pinned: ended.
                    if pushed == Ok(()) && !self.canceled.contains(&call) {
                        self.canceled.push(call);
                        self.submitted.push_back(Submission::Cancel { call });
                    }
                }
            }
            Operation::Answer { n, grant } => self.answer(n, grant),
            Operation::RingSubmissions => {
                self.link.ring().expect("ring");
                self.rung_submitted = self.submitted.len();
            }
            Operation::Poll => self.poll(),
            Operation::Take => self.take(),
            Operation::Work { n, act } => self.work(n, act),
            Operation::Unpin { n } => {
                if !self.viewing.is_empty() {
                    let call = self.viewing.swap_remove(usize::from(n) % self.viewing.len());
                    self.post(RawCompletion { kind: completion_kind::UNPINNED, call, ..RawCompletion::default() });
                }
            }
            Operation::RingCompletions => {
                self.peer.ring().expect("ring");
                self.rung_posted = self.posted.len();
            }
        }
        assert_eq!((self.link.open_calls(), self.link.pinned_calls()), (self.open, self.pinned));
    }

    fn call(&mut self, len: u64, room: bool) {
        let Some(slot) = self.arena.alloc(len) else { return };
        let room = room.then(|| self.rooms.alloc(len + 1)).flatten();
        let payload = Extent { offset: slot.offset, len };
        let call = self.next_call;
        self.input.slice_mut(payload).expect("a slot").fill(pattern(call));
        let submission = Submission::Call(Call { call, payload, document_len: len, room, ..Call::default() });
        let limits = self.link.limits();
        let pushed = self.link.push(&submission);
        match pushed {
            Ok(()) => {
                self.next_call += 1;
                self.open += 1;
                self.slots.insert(call, slot);
                self.submitted.push_back(submission);
            }
            Err(why) => {
                match why {
                    PushError::Full => assert_eq!(self.open, limits.max_calls),
                    PushError::Pinned => {
                        assert!(4 * (self.open + 1) + self.pinned > limits.complete_entries());
                    }
                    PushError::Duplicate | PushError::NotOpen | PushError::NotAsked | PushError::Range => {
                        assert_eq!(pushed, Ok(()), "nothing is wrong with the call");
                    }
                }
                self.arena.free(slot).expect("just allocated");
                self.free_room(room);
            }
        }
    }

    fn answer(&mut self, n: u8, grant: bool) {
        if self.asking.is_empty() {
            return;
        }
        let at = usize::from(n) % self.asking.len();
        let call = self.asking[at];
        let answer = if grant {
            let Some(room) = self.rooms.alloc(5_000) else { return };
            Submission::Grant { call, room }
        } else {
            Submission::Refuse { call, limit: 1 }
        };
        self.link.push(&answer).expect("an answer always fits");
        self.asking.swap_remove(at);
        self.submitted.push_back(answer);
    }

    /// The worker takes exactly what was announced.
    fn take(&mut self) {
        let mut taken = Vec::new();
        let count = self.peer.take(&mut taken).expect("an honest sidecar");
        assert_eq!(count as usize, self.rung_submitted);
        for submission in taken {
            assert_eq!(Some(submission), self.submitted.pop_front());
            match submission {
                Submission::Call(call) => {
                    let mut bytes = Vec::new();
                    self.peer.read(call.payload, &mut bytes).expect("in range");
                    assert!(bytes.len() as u64 == call.payload.len && bytes.iter().all(|&b| b == pattern(call.call)));
                    self.running.insert(call.call, Running { room: call.room, asked: false });
                }
                Submission::Grant { call, room } => {
                    // A call that ended meanwhile has no use for it.
                    if let Some(running) = self.running.get_mut(&call) {
                        *running = Running { room: Some(room), asked: false };
                    }
                }
                Submission::Refuse { call, .. } => {
                    if let Some(running) = self.running.get_mut(&call) {
                        running.asked = false;
                    }
                }
                Submission::Cancel { .. } => {}
            }
        }
        self.rung_submitted = 0;
    }

    /// The worker goes on with one of its calls, as far as the rules let it.
    fn work(&mut self, n: u8, act: Act) {
        let calls: Vec<u64> = self.running.keys().copied().collect();
        let Some(&call) = pick(&calls, n) else { return };
        let running = self.running.get_mut(&call).expect("picked");
        let mut raw = RawCompletion { call, elapsed_ns: call, ..RawCompletion::default() };
        let mut pin = false;
        let mut ends = true;
        match act {
            Act::Result { last, pin: pins } => {
                let Some(room) = running.room.take() else { return };
                let len = room.len.min(LARGEST / 3);
                self.peer.write(room.offset, &vec![pattern(call); len as usize]).expect("in range");
                raw.kind = completion_kind::RESULT;
                raw.flags = if last { completion_flag::LAST } else { 0 };
                (raw.document_offset, raw.document_len, raw.payload_len) = (room.offset, len, len);
                (raw.room_offset, raw.room_len) = (room.offset, room.len);
                (pin, ends) = (pins, last);
            }
            Act::Done { pin: pins } => {
                raw.kind = completion_kind::DONE;
                pin = pins;
            }
            Act::Error { meta } => {
                raw.kind = completion_kind::ERROR;
                if meta && let Some(room) = running.room.take() {
                    self.peer.write(room.offset, b"{}").expect("in range");
                    (raw.meta_offset, raw.meta_len) = (room.offset, 2);
                    (raw.room_offset, raw.room_len) = (room.offset, room.len);
                }
            }
            Act::Ask => {
                if running.asked {
                    return;
                }
                running.asked = true;
                raw.kind = completion_kind::ROOM;
                raw.document_len = 5_000;
                if let Some(room) = running.room.take() {
                    (raw.room_offset, raw.room_len) = (room.offset, room.len);
                }
                ends = false;
            }
        }
        if ends {
            self.running.remove(&call);
        }
        if pin {
            raw.flags |= completion_flag::PINNED;
            self.viewing.push(call);
        }
        self.post(raw);
    }

    fn post(&mut self, raw: RawCompletion) {
        self.peer.post(&raw);
        self.posted.push_back(raw);
    }

    /// The sidecar takes exactly what was announced.
    fn poll(&mut self) {
        let mut completions = Vec::new();
        let count = self.link.poll(&mut completions).expect("an honest worker");
        assert_eq!(count as usize, self.rung_posted);
        self.rung_posted = 0;
        self.check(completions);
    }

    fn check(&mut self, completions: Vec<Completion>) {
        for completion in completions {
            let raw = self.posted.pop_front().expect("was posted");
            match completion {
                Completion::Result(result) => {
                    assert_eq!((raw.kind, raw.call, raw.payload_len), (1, result.call, result.payload_len));
                    let mut parts = Vec::new();
                    self.output.parts(&result, &mut parts).expect("one part");
                    let mut bytes = Vec::new();
                    self.output.copy_out(parts[0].extent, &mut bytes).expect("in range");
                    assert_eq!(bytes.len() as u64, raw.payload_len);
                    assert!(bytes.iter().all(|&byte| byte == pattern(result.call)));
                    self.free_room(Some(result.room));
                    if let Some(last) = result.last {
                        self.end(result.call, last);
                    }
                }
                Completion::Done { call, last } => {
                    assert_eq!((raw.kind, raw.call), (2, call));
                    self.end(call, last);
                }
                Completion::Error { call, last, meta, room } => {
                    assert_eq!((raw.kind, raw.call, raw.meta_len > 0), (3, call, meta.is_some()));
                    self.free_room(room);
                    self.end(call, last);
                }
                Completion::Room { call, wanted, returned } => {
                    assert_eq!((raw.kind, raw.call, raw.document_len), (4, call, wanted));
                    self.free_room(returned);
                    self.asking.push(call);
                }
                Completion::Unpinned { call } => {
                    assert_eq!((raw.kind, raw.call), (5, call));
                    self.pinned -= 1;
                    let slot = self.slots.remove(&call).expect("kept while pinned");
                    self.arena.free(slot).expect("allocated");
                }
            }
        }
    }

    fn end(&mut self, call: u64, last: asya_ring::Last) {
        assert_eq!(last.elapsed_ns, call);
        self.open -= 1;
        self.asking.retain(|&asking| asking != call);
        self.free_room(last.unused);
        if last.pinned {
            self.pinned += 1;
        } else {
            let slot = self.slots.remove(&call).expect("open");
            self.arena.free(slot).expect("allocated");
        }
    }

    fn free_room(&mut self, room: Option<Extent>) {
        if let Some(room) = room {
            self.rooms.free(room).expect("each room is given back once");
            while let Some(hole) = self.rooms.next_punch() {
                self.output.punch(hole).expect("punch");
            }
        }
    }

    /// The worker dies: what it had written arrives, announced or not, and nothing else. Returns how many entries.
    fn die(mut self) -> u64 {
        let mut completions = Vec::new();
        self.link.salvage(&mut completions).expect("an honest worker");
        assert_eq!(completions.len(), self.posted.len());
        self.check(completions);
        assert_eq!(self.link.salvage(&mut Vec::new()).expect("nothing more"), 0);
        // Every room is where it should be: with an open call, or free.
        self.rooms.check();
        self.arena.check();
        self.next_call & 0xffff_ffff
    }
}

fn pick<T>(from: &[T], n: u8) -> Option<&T> {
    from.get(usize::from(n) % from.len().max(1))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_sides_agree_with_plain_queues(max_calls in 1..6_u32, max_pinned in 0..20_u32, operations in operations()) {
        let mut model = Model::new(max_calls, max_pinned);
        for &operation in &operations {
            model.apply(operation);
        }
        model.die();
    }
}

/// Rings of 32 entries go round thousands of times without one entry lost or read twice.
#[test]
fn a_long_life_wraps_both_rings() {
    let rounds = if cfg!(miri) { 8 } else { 4_000 };
    let mut model = Model::new(3, 0);
    for n in 0..rounds {
        let n = (n % 251) as u8;
        for operation in [
            Operation::Call { len: 100, room: true },
            Operation::Call { len: LARGEST as u16 / 2, room: false },
            Operation::Cancel { n },
            Operation::RingSubmissions,
            Operation::Take,
            Operation::Work { n: 1, act: Act::Ask },
            Operation::Work { n: 0, act: Act::Result { last: true, pin: n.is_multiple_of(3) } },
            Operation::RingCompletions,
            Operation::Poll,
            Operation::Answer { n, grant: true },
            Operation::RingSubmissions,
            Operation::Take,
            Operation::Work { n: 0, act: Act::Result { last: true, pin: false } },
            Operation::Unpin { n },
            Operation::RingCompletions,
            Operation::Poll,
        ] {
            model.apply(operation);
        }
    }
    let calls = model.die();
    let _ = writeln!(std::io::stderr(), "asya-ring: model: {calls} calls through rings of 32 entries");
    assert!(calls >= rounds, "calls went through in every round");
}
