//! Delays without a plug-in: a ladder of queues in which messages wait, one for each delay.
//!
//! Takes a publish and its [`Rung`]; says what must be there first (as [`Job`]s), holds the publish until it is, and gives
//! it back. Never blocks. A rung that cannot be had refuses what waits for it; a target that is not there makes it
//! unroutable. What is held is bounded by what the caller leaves unanswered.
//!
//! A rung is a fanout exchange and one queue with one time to live, so that nothing waits behind a longer delay. A message
//! is published to the exchange with the name of its *target* as the routing key. When its time is over the queue
//! dead-letters it to the default exchange under the key that it came with, which brings it home: at least once, so that
//! it leaves the rung only when its target has it. Messages whose target has been deleted meanwhile stay in the rung and
//! are tried again by the broker; docs/adr/delays-on-rabbitmq.md says what that can cost.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use super::topology::Job;
use super::version::Version;
use crate::amqp::wire::Field;
use crate::api::{Body, ContentType, Event, Outcome, Part, Publish, Token};

/// What [`crate::Publish::delay`] may be.
pub const RUNGS: [Duration; 10] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(2 * 60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(60 * 60),
];

/// Ends the name of every rung. No actor's name ends with it, so no actor's queue is ever taken for a rung.
const SUFFIX: &str = "-delay";

/// Targets that are remembered to be there (names): far more than one sidecar has.
const TARGETS_MAX: usize = 1024;

/// The queues of the ladder whose names begin with `prefix` (see [`super::RabbitMqConfig::delay_prefix`]), each with its
/// delay. They are made when they are first needed.
pub fn delay_queues(prefix: &str) -> impl Iterator<Item = (Duration, String)> {
    RUNGS.into_iter().map(move |delay| (delay, Rung(delay).name(prefix)))
}

/// One delay of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rung(Duration);

impl Rung {
    pub(crate) fn of(delay: Duration) -> Option<Self> {
        RUNGS.contains(&delay).then_some(Self(delay))
    }

    /// The name of its exchange and of its queue.
    pub(crate) fn name(self, prefix: &str) -> String {
        match self.0.as_secs() {
            seconds @ 0..60 => format!("{prefix}{seconds}s{SUFFIX}"),
            seconds => format!("{prefix}{}m{SUFFIX}", seconds / 60),
        }
    }

    /// What its queue is declared with. It has no dead-letter routing key: each message's own is kept.
    pub(crate) fn arguments(self, version: Version) -> Vec<(&'static str, Field<'static>)> {
        let mut arguments = vec![
            ("x-queue-type", Field::Text("quorum")),
            ("x-overflow", Field::Text("reject-publish")),
            ("x-message-ttl", Field::Int(self.0.as_millis() as i64)),
            ("x-dead-letter-exchange", Field::Text("")),
            ("x-dead-letter-strategy", Field::Text("at-least-once")),
        ];
        // Somebody who looks into it and puts back what they saw must not send it home early.
        if version.default_delivery_limit() {
            arguments.push(("x-delivery-limit", Field::Int(-1)));
        }
        arguments
    }
}

/// Whether something is there, on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asked,
    There,
}

/// What a [`Job`] of the ladder has found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The rung is there, unless there is a reason.
    Rung { rung: Rung, failed: Option<String> },
    /// Whether this queue is there.
    Target { queue: String, there: bool },
}

/// A publish that is held.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) rung: Rung,
    token: Token,
    queue: String,
    content_type: ContentType,
    message_id: String,
    prefix: Vec<u8>,
    parts: Vec<Part>,
    suffix: Vec<u8>,
}

impl Held {
    pub(crate) fn message(&self) -> Publish<'_> {
        Publish {
            token: self.token,
            queue: &self.queue,
            content_type: self.content_type,
            message_id: &self.message_id,
            body: Body { prefix: &self.prefix, parts: &self.parts, suffix: &self.suffix },
            delay: Some(self.rung.0),
        }
    }
}

/// See the module. Lives as long as its connection.
#[derive(Debug)]
pub(crate) struct Ladder {
    prefix: String,
    rungs: BTreeMap<Rung, State>,
    targets: BTreeMap<String, State>,
    /// In the order of submission.
    held: Vec<Held>,
}

impl Ladder {
    pub(crate) const fn new(prefix: String) -> Self {
        Self { prefix, rungs: BTreeMap::new(), targets: BTreeMap::new(), held: Vec::new() }
    }

    /// The exchange to publish to.
    pub(crate) fn exchange(&self, rung: Rung) -> String {
        rung.name(&self.prefix)
    }

    /// Whether a message for `queue` may be published to `rung` at once. What was held for the same two has left by then.
    pub(crate) fn is_there(&self, rung: Rung, queue: &str) -> bool {
        self.rungs.get(&rung) == Some(&State::There) && self.targets.get(queue) == Some(&State::There)
    }

    /// Keeps a publish until its rung and its target are there. Gives what nobody has asked for yet.
    pub(crate) fn hold(&mut self, message: &Publish<'_>, rung: Rung) -> Vec<Job> {
        self.held.push(Held {
            rung,
            token: message.token,
            queue: message.queue.to_owned(),
            content_type: message.content_type,
            message_id: message.message_id.to_owned(),
            prefix: message.body.prefix.to_vec(),
            parts: message.body.parts.to_vec(),
            suffix: message.body.suffix.to_vec(),
        });
        let mut jobs = Vec::new();
        self.ask(rung, message.queue, &mut jobs);
        jobs
    }

    fn ask(&mut self, rung: Rung, queue: &str, jobs: &mut Vec<Job>) {
        if let Entry::Vacant(unknown) = self.rungs.entry(rung) {
            unknown.insert(State::Asked);
            jobs.push(Job::Rung { rung, name: rung.name(&self.prefix) });
        }
        if !self.targets.contains_key(queue) {
            if self.targets.len() >= TARGETS_MAX {
                self.targets.retain(|_, state| *state == State::Asked);
            }
            self.targets.insert(queue.to_owned(), State::Asked);
            jobs.push(Job::Find { queue: queue.to_owned() });
        }
    }

    /// Takes an answer; what it makes hopeless is answered.
    pub(crate) fn found(&mut self, found: Found, events: &mut Vec<Event>) {
        match found {
            Found::Rung { rung, failed: None } => {
                self.rungs.insert(rung, State::There);
            }
            Found::Target { queue, there: true } => {
                self.targets.insert(queue, State::There);
            }
            Found::Rung { rung, failed: Some(why) } => {
                self.rungs.remove(&rung);
                let why = format!("{}: {why}", rung.name(&self.prefix));
                self.give_up(|held| held.rung == rung, &Outcome::Refused(why), events);
            }
            Found::Target { queue, there: false } => {
                self.targets.remove(&queue);
                self.give_up(|held| held.queue == queue, &Outcome::Unroutable, events);
            }
        }
    }

    /// A rung has turned out not to be there: the next publish has it made again.
    pub(crate) fn forget(&mut self, rung: Rung) {
        self.rungs.remove(&rung);
    }

    fn give_up(&mut self, hopeless: impl Fn(&Held) -> bool, outcome: &Outcome, events: &mut Vec<Event>) {
        let given_up = self.held.extract_if(.., |held| hopeless(held));
        events.extend(given_up.map(|held| Event::Published { token: held.token, outcome: outcome.clone() }));
    }

    /// What may leave now, in order; and what those that stay need and nobody has asked for.
    pub(crate) fn advance(&mut self) -> (Vec<Held>, Vec<Job>) {
        let (leave, stay): (Vec<Held>, Vec<Held>) =
            std::mem::take(&mut self.held).into_iter().partition(|held| self.is_there(held.rung, &held.queue));
        let mut jobs = Vec::new();
        for held in &stay {
            self.ask(held.rung, &held.queue, &mut jobs);
        }
        self.held = stay;
        (leave, jobs)
    }

    /// Whether anything is held.
    pub(crate) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// The connection is lost.
    pub(crate) fn end(mut self, events: &mut Vec<Event>) {
        self.give_up(|_| true, &Outcome::Lost, events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_delay() {
        let names: Vec<_> = delay_queues("asya-ns-").map(|(_, name)| name).collect();
        let expected = ["1s", "2s", "5s", "10s", "30s", "1m", "2m", "5m", "15m", "60m"];
        assert_eq!(names, expected.map(|rung| format!("asya-ns-{rung}-delay")));
        assert!(RUNGS.is_sorted());
    }

    #[test]
    fn only_a_rung_is_a_delay() {
        assert_eq!(Rung::of(Duration::from_secs(5)), Some(Rung(Duration::from_secs(5))));
        for not in [Duration::ZERO, Duration::from_millis(1500), Duration::from_secs(3), Duration::MAX] {
            assert_eq!(Rung::of(not), None);
        }
    }

    fn message(token: u64, queue: &str) -> Publish<'_> {
        let body = Body { prefix: b"", parts: &[], suffix: b"" };
        Publish { token: Token(token), queue, content_type: ContentType::Json, message_id: "", body, delay: None }
    }

    /// Memory of targets is bounded, and forgetting one that is still waited for only means asking again.
    #[test]
    fn targets_are_forgotten_rather_than_gathered() {
        let rung = Rung(RUNGS[0]);
        let mut ladder = Ladder::new("p-".into());
        let mut events = Vec::new();
        assert_eq!(ladder.hold(&message(0, "waits"), rung).len(), 2);
        ladder.found(Found::Target { queue: "waits".into(), there: true }, &mut events);
        for number in 0..3 * TARGETS_MAX as u64 {
            let queue = format!("q{number}");
            assert_eq!(ladder.hold(&message(number + 1, &queue), rung).len(), 1);
            ladder.found(Found::Target { queue, there: true }, &mut events);
            assert!(ladder.targets.len() <= TARGETS_MAX);
        }
        ladder.found(Found::Rung { rung, failed: None }, &mut events);
        let mut left = Vec::new();
        loop {
            let (leave, jobs) = ladder.advance();
            left.extend(leave.into_iter().map(|held| held.token.0));
            if jobs.is_empty() {
                break;
            }
            for job in jobs {
                let Job::Find { queue } = job else { panic!("{job:?}") };
                ladder.found(Found::Target { queue, there: true }, &mut events);
            }
        }
        left.sort_unstable();
        assert_eq!(left, (0..=3 * TARGETS_MAX as u64).collect::<Vec<_>>());
        assert!(events.is_empty() && !ladder.is_holding());
    }
}
