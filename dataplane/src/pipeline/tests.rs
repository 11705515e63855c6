//! The core alone, event by event, over memory that is a list of vectors.

use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use asya_transport::{
    ContentType, Delays, Memory, Outcome, Part, Piece, Redelivery, Room, Settlement, Slot, Tag, Token,
};

use super::*;
use crate::flow::{CallEnd, Death, Emit, PublicationId, Role, WorkerEvent, WorkerId};
use crate::retry::Resiliency;

mod time;

/// Bodies, and how many bytes may still be reserved.
#[derive(Default)]
struct Bodies {
    slots: Vec<Option<Vec<u8>>>,
    room: u64,
}

impl Bodies {
    fn put(&mut self, body: &[u8]) -> Slot {
        self.slots.push(Some(body.to_vec()));
        Slot(self.slots.len() as u32 - 1)
    }

    fn held(&self) -> usize {
        self.slots.iter().flatten().count()
    }
}

impl Memory for Bodies {
    fn reserve(&mut self, len: u64) -> Room {
        if len > self.room { Room::Later } else { Room::Granted(self.put(&vec![0; len as usize])) }
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        self.slots[slot.0 as usize].as_mut().unwrap()
    }

    fn release(&mut self, slot: Slot) {
        assert!(self.slots[slot.0 as usize].take().is_some(), "{slot:?} is released once");
    }

    fn copy_part(&self, _: Part, _: &mut Vec<u8>) {}

    fn write_gathered(&self, _: BorrowedFd<'_>, _: &[Piece<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Store for Bodies {
    fn slot(&self, slot: Slot) -> &[u8] {
        self.slots[slot.0 as usize].as_ref().unwrap()
    }

    fn part(&self, slot: Slot, offset: u64, len: u64) -> Part {
        Part { region: slot.0, offset, len }
    }
}

fn settings(role: Role) -> Settings {
    Settings {
        namespace: "ns".into(),
        actor: "a".into(),
        queue: Rc::from("asya-ns-a"),
        sink: Rc::from("asya-ns-x-sink"),
        sump: Rc::from("asya-ns-x-sump"),
        role,
        emit: Emit::AsArrived,
        timeout: Duration::ZERO,
        workers: 1,
        max_window: 8,
        batch_bytes: 1 << 20,
        batch_wait: Duration::ZERO,
        crash_limit: 3,
        unroutable_tries: 3,
        backoff: Duration::from_secs(1),
        backoff_cap: Duration::from_secs(30),
        ready_grace: Duration::from_secs(10),
        cancel_grace: Duration::from_secs(2),
        orphan_ttl: Duration::from_secs(30),
        resiliency: Resiliency::default(),
        delays: Delays::Any,
        lease: None,
        remembered: 0,
    }
}

struct Core {
    pipeline: Pipeline,
    bodies: Bodies,
    now: Now,
    deliveries: u64,
}

impl Core {
    fn new(role: Role) -> Self {
        Self::with(settings(role))
    }
    fn with(settings: Settings) -> Self {
        let pipeline = Pipeline::new(settings, Now::default());
        Self { pipeline, bodies: Bodies::default(), now: Now::default(), deliveries: 0 }
    }

    /// Handles an event and the tick that follows it.
    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        for event in [event, Event::Tick] {
            let mut fx = Effects::default();
            self.pipeline.handle(event, self.now, &mut self.bodies, &mut fx);
            for effect in &fx.effects {
                if let Effect::ReleaseSlot(slot) = effect {
                    self.bodies.release(*slot);
                }
            }
            effects.append(&mut fx.effects);
        }
        effects
    }

    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now.mono = self.now.mono.after(time);
        self.handle(Event::Tick)
    }

    fn worker(&mut self, event: WorkerEvent) -> Vec<Effect> {
        self.handle(Event::Worker(event))
    }

    fn ready(&mut self, worker: WorkerId) -> Vec<Effect> {
        self.worker(WorkerEvent::Ready { worker, concurrency: 1, batch: 0, cancellable: false })
    }

    fn deliver(&mut self, body: &str) -> (Tag, Vec<Effect>) {
        self.deliveries += 1;
        let tag = Tag { epoch: 1, number: self.deliveries };
        let delivery = transport::Delivery {
            tag,
            slot: self.bodies.put(body.as_bytes()),
            len: body.len() as u64,
            content_type: ContentType::Json,
            redelivery: Redelivery::default(),
        };
        (tag, self.handle(Event::Broker(transport::Event::Delivered(delivery))))
    }

    /// What a publish says around its payload.
    fn frame(&self, id: PublicationId) -> String {
        self.pipeline.flight.publications.get(id).map(|p| String::from_utf8_lossy(&p.frame).into_owned()).unwrap()
    }

    fn confirm(&mut self, id: PublicationId) -> Vec<Effect> {
        let token = Token(id.as_u64());
        self.handle(Event::Broker(transport::Event::Published { token, outcome: Outcome::Confirmed }))
    }

    /// Tells the end of a call and gives what follows.
    fn fail(&mut self, worker: WorkerId, call: MessageId) -> Vec<Effect> {
        let end =
            CallEnd::Failed { error: error_info("ValueError", "no".into()), unparsable: false, retry_after: None };
        self.worker(WorkerEvent::Ended { worker, call, end, elapsed: Duration::from_secs(1) })
    }
}

const FIRST: WorkerId = WorkerId { index: 0, generation: 1 };
const SECOND: WorkerId = WorkerId { index: 0, generation: 2 };
const PLAIN: &str = r#"{"id":"m","route":{"prev":[],"curr":"a","next":[]},"payload":{}}"#;
const BLOB: &str = r#"{"id":"m","route":{"prev":[],"curr":"a","next":[]},"payload":{"$asya.blob":0},"blobs":[{"dtype":"raw","shape":[5],"data":"aGVsbG8="}]}"#;

fn published(effects: &[Effect]) -> Vec<PublicationId> {
    effects.iter().filter_map(|e| if let Effect::Publish(id) = e { Some(*id) } else { None }).collect()
}

fn submitted(effects: &[Effect]) -> Vec<(MessageId, bool)> {
    let call = |e: &Effect| match e {
        Effect::Submit { call, alone, .. } => Some((*call, *alone)),
        _ => None,
    };
    effects.iter().filter_map(call).collect()
}

fn settled(effects: &[Effect]) -> Vec<(Tag, Settlement)> {
    let settled = |e: &Effect| match e {
        Effect::Settle { tag, how } => Some((*tag, *how)),
        _ => None,
    };
    effects.iter().filter_map(settled).collect()
}

#[test]
fn what_there_is_no_room_for_goes_back_after_a_pause() {
    let mut core = Core::new(Role::Regular);
    core.ready(FIRST);
    let (tag, effects) = core.deliver(BLOB);
    assert_eq!((settled(&effects), core.bodies.held()), (vec![], 0), "its body goes at once, the delivery later");
    assert_eq!(core.pipeline.next_timer(), Some(core.now.mono.after(Duration::from_secs(1))));
    assert_eq!(settled(&core.pass(Duration::from_secs(1))), [(tag, Settlement::Requeue)]);
    assert_eq!(core.pipeline.next_timer(), None);
}

#[test]
fn a_drain_does_not_wait_for_that_pause() {
    let mut core = Core::new(Role::Regular);
    core.ready(FIRST);
    let (tag, _) = core.deliver(BLOB);
    core.handle(Event::Drain { deadline: Time(u64::MAX - 1) });
    let effects = core.handle(Event::Broker(transport::Event::Canceled { asked: true }));
    assert_eq!(settled(&effects), [(tag, Settlement::Requeue)]);
    assert!(effects.contains(&Effect::Drained));
    assert_eq!(core.pipeline.next_timer(), None, "nothing is due any more");
}

#[test]
fn a_lost_delivery_that_was_to_go_back_is_forgotten() {
    let mut core = Core::new(Role::Regular);
    core.ready(FIRST);
    core.deliver(BLOB);
    core.handle(Event::Broker(transport::Event::Lost { epoch: 1, why: String::new() }));
    assert_eq!(settled(&core.pass(Duration::from_secs(1))), []);
}

#[test]
fn a_finished_orphan_keeps_no_body_and_is_adopted_all_the_same() {
    let mut core = Core::new(Role::Regular);
    core.ready(FIRST);
    let (_, effects) = core.deliver(PLAIN);
    let [(call, false)] = submitted(&effects)[..] else { panic!("{effects:?}") };
    core.handle(Event::Broker(transport::Event::Lost { epoch: 1, why: String::new() }));
    let effects = core.fail(FIRST, call);
    let publish = effects.iter().find_map(|e| if let Effect::Publish(id) = e { Some(*id) } else { None }).unwrap();
    assert_eq!(core.bodies.held(), 1, "it is still read");
    let token = Token(publish.as_u64());
    core.handle(Event::Broker(transport::Event::Published { token, outcome: Outcome::Confirmed }));
    assert_eq!(core.bodies.held(), 0);
    let (tag, effects) = core.deliver(PLAIN);
    assert_eq!(settled(&effects), [(tag, Settlement::Ack)]);
    assert_eq!(core.bodies.held(), 0);
}

#[test]
fn a_worker_that_says_ready_twice_keeps_its_calls() {
    let mut core = Core::new(Role::Regular);
    core.ready(FIRST);
    let (_, effects) = core.deliver(PLAIN);
    let [(call, false)] = submitted(&effects)[..] else { panic!("{effects:?}") };
    core.ready(FIRST);
    let effects = core.fail(FIRST, call);
    assert!(effects.iter().any(|e| matches!(e, Effect::Publish(_))), "{effects:?}");
}

#[test]
fn a_runtime_that_is_gone_as_a_whole_charges_what_ran_alone_and_nothing_else() {
    let mut core = Core::new(Role::Regular);
    core.ready(FIRST);
    core.deliver(PLAIN);
    let effects = core.worker(WorkerEvent::Died { worker: FIRST, death: Death::Detached });
    assert_eq!(published(&effects), [], "it may have been any of its company");
    let effects = core.ready(SECOND);
    assert!(matches!(submitted(&effects)[..], [(_, true)]), "it runs alone: {effects:?}");
    // Out of memory, say: the kernel ends the whole container.
    let effects = core.worker(WorkerEvent::Died { worker: SECOND, death: Death::Detached });
    let [charge] = published(&effects)[..] else { panic!("{effects:?}") };
    let frame = core.frame(charge);
    assert!(frame.contains(r#""attempt":2"#) && frame.contains(r#""x-asya-crashes":1"#), "{frame}");
}

#[test]
fn what_is_handed_back_under_suspicion_is_still_suspected_where_it_comes_next() {
    let mut core = Core::new(Role::Regular);
    core.ready(FIRST);
    let (tag, _) = core.deliver(PLAIN);
    core.worker(WorkerEvent::Died { worker: FIRST, death: Death::Crashed });
    // Its replacement takes longer to load than messages are kept for.
    assert!(core.pass(Duration::from_secs(10)).contains(&Effect::Cancel));
    let effects = core.handle(Event::Broker(transport::Event::Canceled { asked: true }));
    let [publish] = published(&effects)[..] else { panic!("{effects:?}") };
    let frame = core.pipeline.flight.publications.get(publish).map(|p| String::from_utf8_lossy(&p.frame).into_owned());
    let effects = core.handle(Event::Broker(transport::Event::Published {
        token: Token(publish.as_u64()),
        outcome: Outcome::Confirmed,
    }));
    assert_eq!(settled(&effects), [(tag, Settlement::Ack)]);
    let frame = frame.unwrap();
    assert!(frame.contains(r#""reason":"Suspected""#) && frame.contains(r#""attempt":1"#), "{frame}");
    core.ready(SECOND);
    let status = r#"{"phase":"retrying","reason":"Suspected","actor":"a","attempt":1,"max_attempts":0,"created_at":"","updated_at":""}"#;
    let (_, effects) = core.deliver(&PLAIN.replacen('{', &format!(r#"{{"status":{status},"#), 1));
    assert!(matches!(submitted(&effects)[..], [(_, true)]), "it runs alone: {effects:?}");
}

#[test]
fn a_worker_that_died_in_a_call_is_soon_there_again_however_often() {
    let mut core = Core::new(Role::Regular);
    for generation in 1..12 {
        let worker = WorkerId { index: 0, generation };
        core.ready(worker);
        core.deliver(PLAIN);
        let mut effects = core.worker(WorkerEvent::Died { worker, death: Death::Crashed });
        effects.extend(core.pass(Duration::from_secs(1)));
        assert!(effects.contains(&Effect::Start { index: 0 }), "after {generation} deaths");
    }
}

#[test]
fn a_worker_that_is_detached_in_a_call_again_and_again_is_started_more_and_more_seldom() {
    let mut core = Core::new(Role::Regular);
    for generation in 1..12 {
        let worker = WorkerId { index: 0, generation };
        core.ready(worker);
        core.deliver(PLAIN);
        core.worker(WorkerEvent::Died { worker, death: Death::Detached });
        core.pass(Duration::from_secs(10));
    }
    let worker = WorkerId { index: 0, generation: 12 };
    core.ready(worker);
    core.worker(WorkerEvent::Died { worker, death: Death::Detached });
    let start = Effect::Start { index: 0 };
    assert!(!core.pass(Duration::from_millis(9_999)).contains(&start));
    assert!(core.pass(Duration::from_millis(1)).contains(&start));
}

#[test]
fn a_call_that_the_worker_itself_ended_for_its_time_has_timed_out() {
    for (timeout, reason) in [(1, reason::TIMEOUT), (2, reason::RUNTIME_ERROR), (0, reason::RUNTIME_ERROR)] {
        let mut core = Core::new(Role::Regular);
        core.pipeline.settings.timeout = Duration::from_secs(timeout);
        core.ready(FIRST);
        let (_, effects) = core.deliver(PLAIN);
        let [(call, false)] = submitted(&effects)[..] else { panic!("{effects:?}") };
        let effects = core.fail(FIRST, call);
        let told = effects.iter().find_map(|e| match e {
            Effect::Report(Report::Failed { reason, .. }) => Some(*reason),
            _ => None,
        });
        assert_eq!(told, Some(reason), "a failure after 1 s of {timeout} s");
    }
}

#[test]
fn a_call_that_waits_for_room_while_the_broker_takes_nothing_does_not_time_out() {
    let mut core = Core::new(Role::Regular);
    core.pipeline.settings.timeout = Duration::from_secs(2);
    core.ready(FIRST);
    let (_, effects) = core.deliver(PLAIN);
    let [(call, false)] = submitted(&effects)[..] else { panic!("{effects:?}") };
    core.pass(Duration::from_secs(1));
    core.worker(WorkerEvent::Stalled { worker: FIRST, call });
    assert_eq!(core.pipeline.next_timer(), None, "nothing is due");
    assert_eq!(core.pass(Duration::from_secs(60)), []);
    core.worker(WorkerEvent::Resumed { worker: FIRST, call });
    assert_eq!(core.pass(Duration::from_millis(999)), []);
    let effects = core.pass(Duration::from_millis(1));
    let kill = Effect::Kill { worker: FIRST, death: Death::TimedOut };
    assert!(effects.contains(&kill), "its own two seconds are over: {effects:?}");
}

#[test]
fn what_a_call_stood_still_is_no_time_that_it_took() {
    let mut core = Core::new(Role::Regular);
    core.pipeline.settings.timeout = Duration::from_secs(1);
    core.ready(FIRST);
    let (_, effects) = core.deliver(PLAIN);
    let [(call, false)] = submitted(&effects)[..] else { panic!("{effects:?}") };
    core.worker(WorkerEvent::Stalled { worker: FIRST, call });
    core.pass(Duration::from_millis(500));
    core.worker(WorkerEvent::Resumed { worker: FIRST, call });
    let effects = core.fail(FIRST, call);
    let failed = |e: &Effect| matches!(e, Effect::Report(Report::Failed { reason: reason::RUNTIME_ERROR, .. }));
    assert!(effects.iter().any(failed), "a second as the worker tells it, half of it standing still: {effects:?}");
}

#[test]
fn a_cancelled_call_that_fails_without_a_word_is_told_why() {
    let mut core = Core::new(Role::Regular);
    core.pipeline.settings.timeout = Duration::from_secs(1);
    core.ready(FIRST);
    let (_, effects) = core.deliver(PLAIN);
    let [(call, false)] = submitted(&effects)[..] else { panic!("{effects:?}") };
    let end =
        CallEnd::Failed { error: error_info("CancelledError", String::new()), unparsable: false, retry_after: None };
    let elapsed = Duration::from_secs(1);
    let effects = core.worker(WorkerEvent::Ended { worker: FIRST, call, end, elapsed });
    let why = "TimeoutError: the handler ran longer than 1s and was cancelled";
    assert!(effects.iter().any(|e| matches!(e, Effect::Report(Report::Failed { message, .. }) if message == why)));
}

#[test]
fn a_message_without_a_status_has_one_when_its_handler_sees_it() {
    let mut core = Core::new(Role::Regular);
    core.ready(FIRST);
    let (_, effects) = core.deliver(PLAIN);
    let [(call, false)] = submitted(&effects)[..] else { panic!("{effects:?}") };
    let status = core.pipeline.flight.messages.get(call).and_then(|m| m.head.status.clone()).unwrap();
    assert_eq!((status.attempt, status.actor.as_str(), status.error), (1, "a", None));
    assert!(!status.created_at.is_empty());
}

#[test]
fn a_drain_hands_back_what_an_end_actor_would_run_again_later() {
    let mut core = Core::new(Role::End);
    core.ready(FIRST);
    let (tag, effects) = core.deliver(PLAIN);
    let [(call, _)] = submitted(&effects)[..] else { panic!("{effects:?}") };
    core.handle(Event::Drain { deadline: Time(u64::MAX - 1) });
    core.handle(Event::Broker(transport::Event::Canceled { asked: true }));
    let effects = core.fail(FIRST, call);
    assert_eq!(settled(&effects), [(tag, Settlement::Requeue)]);
    assert!(effects.contains(&Effect::Drained));
}

#[test]
fn a_suspect_of_an_end_actor_runs_alone_again_after_its_pause() {
    let mut core = Core::new(Role::End);
    core.ready(FIRST);
    core.deliver(PLAIN);
    core.worker(WorkerEvent::Died { worker: FIRST, death: Death::Crashed });
    let effects = core.ready(SECOND);
    let [(call, true)] = submitted(&effects)[..] else { panic!("{effects:?}") };
    core.fail(SECOND, call);
    assert_eq!(submitted(&core.pass(Duration::from_secs(30))), [(call, true)]);
}

#[test]
fn the_buffer_of_an_uncommonly_large_head_is_not_kept() {
    let mut core = Core::new(Role::Regular);
    core.ready(FIRST);
    let broken = format!("{{\"id\":\"m\",\"note\":\"{}\"", "x".repeat(1 << 20));
    let (_, effects) = core.deliver(&broken);
    let [id] = effects
        .iter()
        .filter_map(|e| if let Effect::Publish(id) = e { Some(*id) } else { None })
        .collect::<Vec<_>>()[..]
    else {
        panic!("{effects:?}")
    };
    assert!(core.pipeline.flight.publications.get(id).is_some_and(|p| p.frame.len() > 1 << 20));
    core.handle(Event::Broker(transport::Event::Published { token: Token(id.as_u64()), outcome: Outcome::Confirmed }));
    assert!(core.pipeline.publishing.spare_bytes() < 1 << 20);
}
