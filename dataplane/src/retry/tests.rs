use super::*;

fn policy(backoff: Backoff, initial: u64, max: u64) -> Policy {
    Policy {
        attempts_max: 3,
        backoff,
        initial_delay: Duration::from_secs(initial),
        interval_max: Duration::from_secs(max),
        duration_max: None,
        jitter: false,
        on_exhausted: Vec::new(),
    }
}

fn delays(policy: &Policy, count: u32) -> Vec<u64> {
    (1..=count).map(|attempt| policy.delay(attempt).as_secs()).collect()
}

fn past(attempt: u32) -> Past<'static> {
    Past { id: "m", attempt, first_ms: 0, now_ms: 0, deadline_ms: None }
}

fn raised(error_type: &str, mro: &[&str]) -> ErrorInfo {
    let mro = mro.iter().map(|&name| name.to_owned()).collect();
    ErrorInfo { message: String::new(), error_type: error_type.to_owned(), mro, traceback: None }
}

fn with_default(policy: Policy) -> Resiliency {
    Resiliency::new([(DEFAULT_POLICY.to_owned(), policy)].into(), Vec::new())
}

#[test]
fn case_77_delays_grow_as_their_policy_says() {
    let exponential = policy(Backoff::Exponential, 1, 300);
    assert_eq!(delays(&exponential, 5), [1, 2, 4, 8, 16]);
    assert_eq!(exponential.delay(10), Duration::from_secs(300));
    assert_eq!(exponential.delay(u32::MAX), Duration::from_secs(300));
    assert_eq!(delays(&policy(Backoff::Linear, 2, 300), 5), [2, 4, 6, 8, 10]);
    assert_eq!(delays(&policy(Backoff::Constant, 3, 300), 5), [3, 3, 3, 3, 3]);
    assert_eq!(policy(Backoff::Exponential, 1, 10).delay(5), Duration::from_secs(10));
}

#[test]
fn case_78_jitter_spreads_over_half_to_one_and_a_half() {
    let resiliency = with_default(Policy { jitter: true, attempts_max: 1000, ..policy(Backoff::Constant, 10, 300) });
    let error = raised("ValueError", &[]);
    let all: Vec<f64> = (1..1000)
        .map(|attempt| match resiliency.decide(&error, &past(attempt), None) {
            Decision::Again { delay, .. } => delay.as_secs_f64(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(all.iter().all(|delay| (5.0..15.0).contains(delay)));
    let (least, most) = all.iter().fold((f64::MAX, 0.0_f64), |(low, high), &d| (low.min(d), high.max(d)));
    assert!(least < 5.5 && most > 14.5, "{least} to {most}");
    let none = with_default(Policy { jitter: true, ..policy(Backoff::Constant, 0, 300) });
    assert!(matches!(none.decide(&error, &past(1), None), Decision::Again { delay: Duration::ZERO, .. }));
}

#[test]
fn case_80_a_rule_names_an_ancestor() {
    let once = Policy { attempts_max: 1, ..policy(Backoff::Constant, 1, 1) };
    let policies = [("once".to_owned(), once), (DEFAULT_POLICY.to_owned(), policy(Backoff::Constant, 1, 1))].into();
    let rules = vec![Rule { errors: vec!["Exception".into()], policy: "once".into() }];
    let resiliency = Resiliency::new(policies, rules);
    let error = raised("MemoryError", &["Exception"]);
    assert!(
        matches!(resiliency.decide(&error, &past(1), None), Decision::Exhausted(policy) if policy.attempts_max == 1)
    );
    assert!(matches!(resiliency.decide(&raised("SystemExit", &[]), &past(1), None), Decision::Again { .. }));
}

#[test]
fn case_81_no_attempt_begins_after_the_longest_duration() {
    let ten_minutes = Policy { duration_max: Some(Duration::from_secs(600)), ..policy(Backoff::Constant, 1, 1) };
    let resiliency = with_default(ten_minutes);
    let late = Past { first_ms: 0, now_ms: 660_000, ..past(1) };
    assert!(matches!(resiliency.decide(&raised("E", &[]), &late, None), Decision::Exhausted(_)));
    let in_time = Past { first_ms: 100_000, now_ms: 660_000, ..past(1) };
    assert!(matches!(resiliency.decide(&raised("E", &[]), &in_time, None), Decision::Again { .. }));
}

#[test]
fn attempts_end_with_the_last_one() {
    let resiliency = with_default(policy(Backoff::Constant, 1, 1));
    assert!(matches!(resiliency.decide(&raised("E", &[]), &past(2), None), Decision::Again { .. }));
    assert!(matches!(resiliency.decide(&raised("E", &[]), &past(3), None), Decision::Exhausted(_)));
    assert_eq!(Resiliency::default().decide(&raised("E", &[]), &past(1), None), Decision::Final);
}

#[test]
fn a_handler_that_says_when_is_heard() {
    let resiliency = with_default(policy(Backoff::Constant, 1, 1));
    let wanted = Duration::from_secs(3600);
    let decision = resiliency.decide(&raised("asya.Retry", &[]), &past(1), Some(wanted));
    assert!(matches!(decision, Decision::Again { delay, .. } if delay == wanted));
}

#[test]
fn what_would_begin_after_its_deadline_does_not_begin() {
    let resiliency = with_default(policy(Backoff::Constant, 5, 5));
    let short = Past { deadline_ms: Some(5_000), ..past(1) };
    assert!(matches!(resiliency.decide(&raised("E", &[]), &short, None), Decision::Exhausted(_)));
    let long = Past { deadline_ms: Some(5_001), ..past(1) };
    assert!(matches!(resiliency.decide(&raised("E", &[]), &long, None), Decision::Again { .. }));
}
