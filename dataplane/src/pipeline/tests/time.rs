//! What the clock makes of a message: another attempt, a deadline, a lease, a copy.

use asya_transport::Lease;

use super::*;
use crate::retry::{Backoff, DEFAULT_POLICY, Policy};

const WALL: u64 = 1_795_521_600_000; // 2026-11-24T12:00:00Z

fn policy() -> Policy {
    Policy {
        attempts_max: 3,
        backoff: Backoff::Constant,
        initial_delay: Duration::from_secs(5),
        interval_max: Duration::from_secs(300),
        duration_max: None,
        jitter: false,
        on_exhausted: Vec::new(),
    }
}

fn resilient(policy: Policy) -> Settings {
    let resiliency = Resiliency::new([(DEFAULT_POLICY.to_owned(), policy)].into(), Vec::new());
    Settings { resiliency, ..settings(Role::Regular) }
}

fn at_noon(settings: Settings) -> Core {
    let mut core = Core::with(settings);
    core.now.wall_ms = WALL;
    core.ready(FIRST);
    core
}

fn with_status(headers: &str, status: &str) -> String {
    let status = format!(r#"{{{status},"actor":"a","max_attempts":3,"created_at":"","updated_at":""}}"#);
    PLAIN.replacen('{', &format!(r#"{{"headers":{{{headers}}},"status":{status},"#), 1)
}

/// The message on this attempt.
fn again(attempt: u32, headers: &str) -> String {
    with_status(headers, &format!(r#""phase":"retrying","reason":"RuntimeError","attempt":{attempt}"#))
}

fn due_by(deadline: &str) -> String {
    with_status("", &format!(r#""phase":"pending","attempt":1,"deadline_at":"{deadline}""#))
}

/// The one publish among these effects: what it says around its payload, its queue, its delay.
fn one_published(core: &Core, effects: &[Effect]) -> (PublicationId, String, String, Option<Duration>) {
    let [id] = published(effects)[..] else { panic!("{effects:?}") };
    let publication = core.pipeline.flight.publications.get(id).unwrap();
    (id, core.frame(id), publication.queue.to_string(), publication.delay)
}

fn one_submitted(effects: &[Effect]) -> MessageId {
    let [(call, _)] = submitted(effects)[..] else { panic!("{effects:?}") };
    call
}

/// Delivers, runs and fails a message, and gives what follows.
fn fail_one(core: &mut Core, body: &str) -> (Tag, Vec<Effect>) {
    let (tag, effects) = core.deliver(body);
    (tag, core.fail(FIRST, one_submitted(&effects)))
}

fn end(core: &mut Core, call: MessageId) -> Vec<Effect> {
    core.worker(WorkerEvent::Ended { worker: FIRST, call, end: CallEnd::Done, elapsed: Duration::ZERO })
}

fn ensure_parts(frame: &str, parts: &[&str]) {
    for part in parts {
        assert!(frame.contains(part), "{part} in {frame}");
    }
}

#[test]
fn case_73_without_a_policy_an_error_is_final() {
    let mut core = at_noon(settings(Role::Regular));
    let (_, effects) = fail_one(&mut core, PLAIN);
    let (_, frame, queue, _) = one_published(&core, &effects);
    assert_eq!(queue, "asya-ns-x-sump");
    ensure_parts(&frame, &[r#""reason":"RuntimeError""#, r#""attempt":1"#]);
}

#[test]
fn case_76_a_failed_message_goes_to_its_own_queue_with_its_delay() {
    let mut core = at_noon(resilient(policy()));
    let (tag, effects) = fail_one(&mut core, PLAIN);
    let (id, frame, queue, delay) = one_published(&core, &effects);
    assert_eq!((queue.as_str(), delay), ("asya-ns-a", Some(Duration::from_secs(5))));
    ensure_parts(
        &frame,
        &[
            r#""phase":"retrying""#,
            r#""attempt":2"#,
            r#""max_attempts":3"#,
            r#""curr":"a""#,
            r#""x-asya-first-attempt":"2026-11-24T11:59:59.000Z""#,
            r#""x-asya-not-before":"2026-11-24T12:00:05.000Z""#,
        ],
    );
    assert_eq!(settled(&effects), [], "not before its copy is safe");
    assert_eq!(settled(&core.confirm(id)), [(tag, Settlement::Ack)]);
}

#[test]
fn case_74_the_last_attempt_fails_with_its_error() {
    let mut core = at_noon(resilient(policy()));
    let headers = r#""x-asya-first-attempt":"2026-11-24T11:59:00.000Z","mine":1"#;
    let (_, effects) = fail_one(&mut core, &again(3, headers));
    let (_, frame, queue, _) = one_published(&core, &effects);
    assert_eq!(queue, "asya-ns-x-sump");
    let parts = [r#""reason":"PolicyExhausted""#, r#""attempt":3"#, r#""max_attempts":3"#, r#""type":"ValueError""#];
    ensure_parts(&frame, &parts);
    assert!(frame.contains(r#""mine":1"#) && !frame.contains("x-asya-first-attempt"), "{frame}");
}

#[test]
fn case_83_what_is_exhausted_really_goes_where_its_policy_says() {
    let mut core = at_noon(resilient(Policy { on_exhausted: vec!["recovery".into(), "b".into()], ..policy() }));
    let (tag, effects) = fail_one(&mut core, &again(3, ""));
    let (id, frame, queue, _) = one_published(&core, &effects);
    assert_eq!(queue, "asya-ns-recovery");
    ensure_parts(
        &frame,
        &[
            r#""prev":["a"]"#,
            r#""curr":"recovery""#,
            r#""next":["b"]"#,
            r#""phase":"failed""#,
            r#""reason":"PolicyRouted""#,
            r#""type":"ValueError""#,
        ],
    );
    assert_eq!(settled(&core.confirm(id)), [(tag, Settlement::Ack)]);
}

#[test]
fn what_is_due_soon_waits_here_and_what_is_due_later_in_the_broker() {
    let mut core = at_noon(resilient(policy()));
    let (_, effects) = core.deliver(&again(2, r#""x-asya-not-before":"2026-11-24T12:00:00.700Z""#));
    assert_eq!((submitted(&effects).len(), published(&effects).len()), (0, 0));
    assert_eq!(submitted(&core.pass(Duration::from_millis(699))), []);
    let effects = core.pass(Duration::from_millis(1));
    end(&mut core, one_submitted(&effects));
    let (tag, effects) = core.deliver(&again(2, r#""x-asya-not-before":"2026-11-24T13:00:00Z""#));
    let (id, frame, queue, delay) = one_published(&core, &effects);
    assert_eq!((queue.as_str(), delay), ("asya-ns-a", Some(Duration::from_secs(3600))));
    ensure_parts(&frame, &[r#""attempt":2"#]);
    assert_eq!(settled(&core.confirm(id)), [(tag, Settlement::Ack)]);
}

#[test]
fn a_long_delay_is_a_chain_of_what_the_transport_knows() {
    const LADDER: &[Duration] = &[Duration::from_secs(1), Duration::from_secs(600)];
    let mut core = at_noon(Settings { delays: Delays::Ladder(LADDER), ..resilient(policy()) });
    let (_, effects) = core.deliver(PLAIN);
    let call = one_submitted(&effects);
    let error = error_info("asya.Retry", "later".into());
    let end = CallEnd::Failed { error, unparsable: false, retry_after: Some(Duration::from_secs(3600)) };
    let effects = core.worker(WorkerEvent::Ended { worker: FIRST, call, end, elapsed: Duration::ZERO });
    let (_, frame, _, delay) = one_published(&core, &effects);
    assert_eq!(delay, Some(Duration::from_secs(600)));
    ensure_parts(&frame, &[r#""x-asya-not-before":"2026-11-24T13:00:00.000Z""#]);
}

#[test]
fn deaths_are_counted_apart_from_other_attempts() {
    let mut core = at_noon(settings(Role::Regular));
    // Alone from the start, because it has killed a worker before; its other attempts were errors.
    let (_, effects) = core.deliver(&again(7, r#""x-asya-crashes":1"#));
    assert!(matches!(submitted(&effects)[..], [(_, true)]), "{effects:?}");
    let effects = core.worker(WorkerEvent::Died { worker: FIRST, death: Death::Crashed });
    let (_, frame, queue, _) = one_published(&core, &effects);
    assert_eq!(queue, "asya-ns-a");
    ensure_parts(&frame, &[r#""x-asya-crashes":2"#, r#""attempt":8"#]);
}

#[test]
fn an_expired_message_is_not_run() {
    let mut core = at_noon(resilient(policy()));
    let (_, effects) = core.deliver(&due_by("2026-11-24T12:00:00Z"));
    let (_, frame, queue, _) = one_published(&core, &effects);
    assert_eq!((submitted(&effects).len(), queue.as_str()), (0, "asya-ns-x-sump"));
    ensure_parts(&frame, &[r#""reason":"DeadlineExceeded""#]);
}

#[test]
fn what_waits_past_its_deadline_is_not_run() {
    let mut core = at_noon(resilient(policy()));
    let (_, effects) = core.deliver(PLAIN);
    let running = one_submitted(&effects);
    let (_, effects) = core.deliver(&due_by("2026-11-24T12:00:02Z"));
    assert_eq!(submitted(&effects), []);
    let effects = core.pass(Duration::from_secs(2));
    ensure_parts(&one_published(&core, &effects).1, &["DeadlineExceeded"]);
    assert_eq!(submitted(&end(&mut core, running)), [], "it is not given to a worker later");
}

#[test]
fn case_87_a_deadline_before_the_timeout_ends_the_call() {
    let mut core = at_noon(Settings { timeout: Duration::from_secs(30), ..resilient(policy()) });
    core.deliver(&due_by("2026-11-24T12:00:05Z"));
    let kill = Effect::Kill { worker: FIRST, death: Death::TimedOut };
    assert!(!core.pass(Duration::from_millis(4_999)).contains(&kill));
    assert!(core.pass(Duration::from_millis(1)).contains(&kill));
    let effects = core.worker(WorkerEvent::Died { worker: FIRST, death: Death::TimedOut });
    let (_, frame, queue, _) = one_published(&core, &effects);
    assert_eq!(queue, "asya-ns-x-sump");
    ensure_parts(&frame, &[r#""reason":"DeadlineExceeded""#]);
}

#[test]
fn a_deadline_that_is_none_is_reported_and_an_end_actor_has_none() {
    let mut core = at_noon(resilient(policy()));
    let (_, effects) = core.deliver(&due_by("tomorrow"));
    let report = Report::BadDeadline { id: "m".into(), text: "tomorrow".into() };
    assert!(effects.contains(&Effect::Report(report)) && submitted(&effects).len() == 1, "{effects:?}");
    let mut sink = at_noon(settings(Role::End));
    assert_eq!(submitted(&sink.deliver(&due_by("2026-11-24T11:00:00Z")).1).len(), 1);
}

#[test]
fn a_timeout_is_tried_again_under_its_policy() {
    let timeout = Duration::from_secs(3);
    let mut core = at_noon(Settings { timeout, ..resilient(policy()) });
    core.deliver(PLAIN);
    core.pass(timeout);
    let effects = core.worker(WorkerEvent::Died { worker: FIRST, death: Death::TimedOut });
    let (_, frame, queue, _) = one_published(&core, &effects);
    assert_eq!(queue, "asya-ns-a");
    ensure_parts(&frame, &[r#""reason":"Timeout""#, r#""attempt":2"#]);
}

fn leased() -> Core {
    let lease = Lease { lasts: Duration::from_secs(60), longest: Duration::from_secs(600) };
    at_noon(Settings { lease: Some(lease), ..settings(Role::Regular) })
}

fn extended(effects: &[Effect]) -> Vec<(Tag, u64)> {
    let extended = |e: &Effect| match e {
        Effect::Extend { tag, by } => Some((*tag, by.as_secs())),
        _ => None,
    };
    effects.iter().filter_map(extended).collect()
}

#[test]
fn leases_of_what_runs_and_of_what_waits_are_extended() {
    let mut core = leased();
    let (running, effects) = core.deliver(PLAIN);
    let call = one_submitted(&effects);
    let (waiting, _) = core.deliver(&PLAIN.replace("\"m\"", "\"n\""));
    assert_eq!(extended(&core.pass(Duration::from_secs(29))), []);
    assert_eq!(extended(&core.pass(Duration::from_secs(1))), [(running, 60), (waiting, 60)]);
    let effects = end(&mut core, call);
    core.confirm(published(&effects)[0]);
    assert_eq!(extended(&core.pass(Duration::from_secs(30))), [(waiting, 60)], "what is settled is not extended");
}

#[test]
fn a_lease_ends_with_the_brokers_longest_time() {
    let mut core = leased();
    core.deliver(PLAIN);
    let (waiting, _) = core.deliver(&PLAIN.replace("\"m\"", "\"n\""));
    let (mut total, mut effects) = (0, Vec::new());
    while settled(&effects).is_empty() {
        effects = core.pass(Duration::from_secs(30));
        total += 30;
        for (_, by) in extended(&effects) {
            assert!(total + by <= 600, "{by} s at {total} s");
        }
    }
    assert_eq!(settled(&effects), [(waiting, Settlement::Requeue)], "what has not begun goes back");
    assert_eq!(total, 540);
    let (_, effects) = core.deliver(PLAIN);
    assert_eq!(submitted(&effects), [], "what runs, runs on, and its redelivery finds it");
}

#[test]
fn a_lease_that_is_lost_while_the_handler_runs_is_adopted_by_its_redelivery() {
    let mut core = leased();
    let (tag, effects) = core.deliver(PLAIN);
    let call = one_submitted(&effects);
    core.handle(Event::Broker(transport::Event::SettleFailed { tag, why: "expired".into() }));
    let effects = end(&mut core, call);
    let effects = core.confirm(published(&effects)[0]);
    assert_eq!(settled(&effects), [], "there is nothing to settle");
    let (again, effects) = core.deliver(PLAIN);
    assert_eq!((submitted(&effects).len(), settled(&effects)), (0, vec![(again, Settlement::Ack)]));
}

#[test]
fn a_copy_of_what_was_finished_does_not_run_again() {
    let mut core = at_noon(Settings { remembered: 10, ..settings(Role::Regular) });
    let (_, effects) = core.deliver(PLAIN);
    let call = one_submitted(&effects);
    let (_, effects) = core.deliver(PLAIN);
    assert_eq!(settled(&effects), [], "nothing is finished yet");
    let effects = end(&mut core, call);
    core.confirm(published(&effects)[0]);
    let (copy, effects) = core.deliver(PLAIN);
    assert_eq!(settled(&effects), [(copy, Settlement::Ack)]);
    assert_eq!(core.bodies.held(), 1, "only that of the early copy, which runs");
}

#[test]
fn what_failed_may_come_again_though_copies_are_dropped() {
    let mut core = at_noon(Settings { remembered: 10, ..settings(Role::Regular) });
    let (_, effects) = fail_one(&mut core, PLAIN);
    core.confirm(published(&effects)[0]);
    assert_eq!(submitted(&core.deliver(PLAIN).1).len(), 1);
}

fn yield_one(core: &mut Core, call: MessageId, next: &str, index: u64) -> Vec<Effect> {
    let output = crate::flow::Output {
        id: crate::flow::OutputId(index),
        parts: vec![],
        payload: asya_envelope::Payload { offset: 0, document_len: 0, len: 0, blobs: 0 },
        meta: format!(r#"{{"next":["{next}"]}}"#).into_bytes(),
    };
    core.worker(WorkerEvent::Result { worker: FIRST, call, output })
}

fn unroutable(core: &mut Core, id: PublicationId) -> Vec<Effect> {
    let token = Token(id.as_u64());
    core.handle(Event::Broker(transport::Event::Published { token, outcome: Outcome::Unroutable }))
}

#[test]
fn deadlines_of_what_is_gone_are_not_kept() {
    let mut core = at_noon(settings(Role::Regular));
    for _ in 0..1000 {
        let (_, effects) = core.deliver(&due_by("2026-11-25T12:00:00Z"));
        let effects = end(&mut core, one_submitted(&effects));
        core.confirm(published(&effects)[0]);
    }
    assert_eq!(core.pipeline.flight.messages.len(), 0);
    assert!(core.pipeline.deadlines.len() < 100, "{}", core.pipeline.deadlines.len());
}

#[test]
fn a_result_given_up_does_not_fail_what_is_to_be_tried_again() {
    let mut core = at_noon(resilient(policy()));
    let (_, effects) = core.deliver(PLAIN);
    let call = one_submitted(&effects);
    let child = published(&yield_one(&mut core, call, "missing", 7))[0];
    unroutable(&mut core, child);
    let again = published(&core.fail(FIRST, call))[0];
    assert_eq!(settled(&core.confirm(again)), []);
    let mut all = vec![];
    for _ in 0..5 {
        core.pass(Duration::from_secs(31));
        all.extend(unroutable(&mut core, child));
    }
    let queues: Vec<String> = published(&all)
        .into_iter()
        .map(|id| core.pipeline.flight.publications.get(id).unwrap().queue.to_string())
        .collect();
    assert_eq!(queues, Vec::<String>::new(), "its retry is on its way");
}

#[test]
fn what_is_routed_after_it_gave_results_is_no_copy_of_them() {
    let mut core = at_noon(resilient(Policy { on_exhausted: vec!["r".into()], attempts_max: 1, ..policy() }));
    let (_, effects) = core.deliver(PLAIN);
    let call = one_submitted(&effects);
    let child = published(&yield_one(&mut core, call, "b", 7))[0];
    let child = core.frame(child);
    let recovery = published(&core.fail(FIRST, call))[0];
    let recovery = core.frame(recovery);
    assert!(child.contains(r#""id":"m""#) && !recovery.contains(r#""id":"m""#), "{recovery}");
    assert!(recovery.contains(r#""parent_id":"m""#), "{recovery}");
}

#[test]
fn what_failed_and_is_sent_again_begins_anew() {
    let mut core = at_noon(resilient(policy()));
    let resent = with_status("", r#""phase":"failed","reason":"PolicyExhausted","attempt":3"#);
    let (_, effects) = fail_one(&mut core, &resent);
    let (_, _, queue, _) = one_published(&core, &effects);
    assert_eq!(queue, "asya-ns-a", "three attempts anew");
}

#[test]
fn a_lease_that_ends_keeps_the_body_of_open_publishes() {
    let lease = Lease { lasts: Duration::from_secs(60), longest: Duration::from_secs(600) };
    let mut core = at_noon(Settings {
        lease: Some(lease),
        workers: 2,
        ready_grace: Duration::from_secs(9999),
        ..settings(Role::Regular)
    });
    let (_, effects) = core.deliver(PLAIN);
    let call = one_submitted(&effects);
    let child = published(&yield_one(&mut core, call, "b", 7))[0];
    core.worker(WorkerEvent::Died { worker: FIRST, death: Death::Detached });
    let mut effects = vec![];
    for _ in 0..20 {
        effects.extend(core.pass(Duration::from_secs(30)));
    }
    let open = core.pipeline.flight.publications.get(child).is_some();
    let released = effects.iter().any(|e| matches!(e, Effect::ReleaseSlot(_)));
    assert!(!(open && released), "its body is gone, and its result, which may lie in it, is not sent yet");
}

#[test]
fn what_has_a_deadline_is_not_given_ahead_of_a_busy_worker() {
    let mut core = at_noon(resilient(policy()));
    // Fast at first.
    let (_, effects) = core.deliver(PLAIN);
    let effects = core.worker(WorkerEvent::Ended {
        worker: FIRST,
        call: one_submitted(&effects),
        end: CallEnd::Done,
        elapsed: Duration::from_micros(10),
    });
    core.confirm(published(&effects)[0]);
    let (_, effects) = core.deliver(PLAIN);
    let slow = one_submitted(&effects);
    let (_, effects) = core.deliver(&due_by("2026-11-24T12:00:02Z").replace("\"m\"", "\"n\""));
    assert_eq!(submitted(&effects), [], "nobody knows when it would begin");
    core.pass(Duration::from_secs(10));
    let effects = end(&mut core, slow);
    let killed = effects.iter().any(|e| matches!(e, Effect::Kill { .. }));
    assert!(!killed, "a healthy worker is killed for a call that it has not begun");
}

#[test]
fn a_cancelled_call_fails_as_a_timeout() {
    let timeout = Duration::from_secs(3);
    let once = Policy { attempts_max: 1, ..policy() };
    let rules = vec![crate::retry::Rule { errors: vec!["TimeoutError".into()], policy: "t".into() }];
    let resiliency = Resiliency::new([("t".to_owned(), policy()), (DEFAULT_POLICY.to_owned(), once)].into(), rules);
    let mut core = at_noon(Settings { timeout, resiliency, ..settings(Role::Regular) });
    let (_, effects) = core.deliver(PLAIN);
    let call = one_submitted(&effects);
    core.pass(timeout);
    let error = ErrorInfo { error_type: "asyncio.exceptions.CancelledError".into(), ..error_info("", String::new()) };
    let end = CallEnd::Failed { error, unparsable: false, retry_after: None };
    let effects = core.worker(WorkerEvent::Ended { worker: FIRST, call, end, elapsed: timeout });
    let (_, frame, queue, _) = one_published(&core, &effects);
    assert_eq!(queue, "asya-ns-a", "{frame}");
}

#[test]
fn a_delay_of_a_second_waits_in_the_broker() {
    let mut core =
        at_noon(Settings { max_window: 1, ..resilient(Policy { initial_delay: Duration::from_secs(1), ..policy() }) });
    let (_, effects) = fail_one(&mut core, PLAIN);
    let (_, frame, _, delay) = one_published(&core, &effects);
    assert_eq!(delay, Some(Duration::from_secs(1)), "{frame}");
}
