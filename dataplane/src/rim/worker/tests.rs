//! One attached worker whose process is played by the test.

use std::future::poll_fn;

use asya_envelope::Head;
use asya_ring::CallLimits;
use asya_ring::peer::Peer;
use asya_ring::wire::{RawCompletion, completion_flag, completion_kind};
use asya_transport::{ContentType, Memory as _, Room};

use super::super::memory::Sizes;
use super::*;
use crate::flow::{Ending, Message, State, Time};
use crate::slab::{Key, Slab};

const WATCHDOG: Duration = Duration::from_secs(30);
const MAX_RESULT: u64 = 1 << 16;

struct Bench {
    memory: SharedMemory,
    attached: Attached,
    peer: Peer,
    messages: Slab<Message>,
    events: Vec<WorkerEvent>,
}

impl Bench {
    fn new() -> Self {
        let mut memory = SharedMemory::create(Sizes {
            max_message: MAX_RESULT,
            budget: 1 << 20,
            contexts: 1 << 16,
            workers: 1,
            window: 4,
            concurrency: 1,
            limits: CallLimits { max_calls: 4, max_pinned: 4, max_result_bytes: MAX_RESULT },
        })
        .unwrap();
        let attached = Attached::new(WorkerId { index: 0, generation: 1 }, &mut memory, Duration::ZERO).unwrap();
        let peer = Peer::beside(attached.link()).unwrap();
        Self { memory, attached, peer, messages: Slab::default(), events: Vec::new() }
    }

    fn message(&mut self) -> (MessageId, Slot) {
        let Room::Granted(slot) = self.memory.reserve(2) else { panic!("there is room") };
        self.memory.slot_mut(slot).copy_from_slice(b"{}");
        let delivery = Key::from_u64(1);
        let id = self.messages.insert(Message {
            delivery,
            state: State::Waiting,
            head: Head::default(),
            payload: Payload { offset: 0, document_len: 2, len: 2, blobs: 0 },
            rebuilt: None,
            content_type: ContentType::Json,
            suspect: false,
            crashes: 0,
            children: 0,
            unconfirmed: 0,
            doomed: None,
            ending: Ending::Open,
            arrived: Time(0),
            deadline: None,
        });
        (id, slot)
    }

    /// Hands a message over and gives the call as the worker sees it.
    fn submit(&mut self, (id, slot): (MessageId, Slot)) -> asya_ring::Call {
        let message = self.messages.get(id).unwrap();
        let call = Call { id, message, slot, more: false, alone: false };
        self.attached.submit(&mut self.memory, call, &mut self.events);
        match self.heard()[..] {
            [Submission::Call(call)] => call,
            ref other => panic!("{other:?}"),
        }
    }

    fn heard(&mut self) -> Vec<Submission> {
        self.attached.ring().unwrap();
        let mut submissions = Vec::new();
        self.peer.take(&mut submissions).unwrap();
        submissions
    }

    fn say(&mut self, completion: RawCompletion) {
        self.peer.post(&completion);
        self.peer.ring().unwrap();
    }

    /// Polls until this holds, or until the worker is found to lie.
    async fn until(&mut self, mut holds: impl FnMut(&mut Self) -> bool) -> Result<(), Corrupt> {
        let polling = poll_fn(|cx| {
            let polled = self.attached.poll(cx, &mut self.memory, &mut self.events);
            if polled.is_err() || holds(self) { Poll::Ready(polled) } else { Poll::Pending }
        });
        tokio::time::timeout(WATCHDOG, polling).await.unwrap()
    }
}

fn with_bench<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { test(Bench::new()).await });
}

#[test]
fn a_message_runs_again_while_its_last_call_still_pins_it() {
    with_bench(|mut bench| async move {
        let message = bench.message();
        let first = bench.submit(message);
        let (kind, flags) = (completion_kind::ERROR, completion_flag::PINNED);
        bench.say(RawCompletion { kind, flags, call: first.call, ..RawCompletion::default() });
        bench.until(|b| !b.events.is_empty()).await.unwrap();
        assert!(matches!(bench.events[..], [WorkerEvent::Ended { call, .. }] if call == message.0));
        let second = bench.submit(message);
        assert_ne!(first.call, second.call);
        assert_eq!(bench.events.len(), 1, "it was not refused");
    });
}

#[test]
fn a_request_for_room_beyond_all_bounds_is_refused_and_forgotten() {
    with_bench(|mut bench| async move {
        let message = bench.message();
        let call = bench.submit(message);
        let room = call.room.unwrap();
        bench.say(RawCompletion {
            kind: completion_kind::ROOM,
            call: call.call,
            document_len: u64::MAX,
            room_offset: room.offset,
            room_len: room.len,
            ..RawCompletion::default()
        });
        let mut answer = Vec::new();
        bench
            .until(|b| {
                answer = b.heard();
                !answer.is_empty()
            })
            .await
            .unwrap();
        assert_eq!(answer, [Submission::Refuse { call: call.call, limit: MAX_RESULT }]);
        let next = bench.message();
        assert!(bench.submit(next).room.is_some(), "the next call has its room beforehand, as ever");
    });
}

#[test]
fn a_call_that_finds_no_room_is_said_to_stand_still_until_it_does() {
    with_bench(|mut bench| async move {
        let message = bench.message();
        let call = bench.submit(message);
        let room = call.room.unwrap();
        let mut taken = Vec::new();
        for len in [MAX_RESULT, 4096, 64] {
            while let Some(room) = bench.memory.room(bench.attached.output, len, true) {
                taken.push(room);
            }
        }
        bench.say(RawCompletion {
            kind: completion_kind::ROOM,
            call: call.call,
            document_len: MAX_RESULT,
            room_offset: room.offset,
            room_len: room.len,
            ..RawCompletion::default()
        });
        bench.until(|b| !b.events.is_empty()).await.unwrap();
        let worker = bench.attached.id();
        assert_eq!(bench.events, [WorkerEvent::Stalled { worker, call: message.0 }]);
        for room in taken {
            bench.memory.free_room(bench.attached.output, room);
        }
        bench.events.clear();
        bench.attached.grant(&mut bench.memory, &mut bench.events);
        assert_eq!(bench.events, [WorkerEvent::Resumed { worker, call: message.0 }]);
        assert!(matches!(bench.heard()[..], [Submission::Grant { .. }]));
    });
}

#[test]
fn nothing_is_taken_from_a_worker_after_its_lie() {
    with_bench(|mut bench| async move {
        let message = bench.message();
        let call = bench.submit(message);
        let room = call.room.unwrap();
        bench.say(RawCompletion {
            kind: completion_kind::RESULT,
            call: call.call,
            document_len: 5,
            payload_len: 5,
            // All zeros: a part without a byte, where five are claimed.
            parts: 1,
            parts_offset: room.offset,
            room_offset: room.offset,
            room_len: room.len,
            ..RawCompletion::default()
        });
        bench.until(|_| false).await.unwrap_err();
        // Were this believed, the message would be done with, its result lost.
        bench.peer.post(&RawCompletion { kind: completion_kind::DONE, call: call.call, ..RawCompletion::default() });
        bench.attached.bury(&mut bench.memory, &mut bench.events);
        assert_eq!(bench.events, []);
    });
}
