//! Declaring queues and asking for their depth, on a channel of their own.
//!
//! Takes [`Job`]s; gives [`Event::Declared`], [`Event::DeclareFailed`] and [`Event::Depth`], and to the ladder of delays
//! what it has [`Found`]. One request is under way at a time. Never blocks. A refusal closes the channel, which is opened again for the next request; every job ends
//! after a fixed number of requests, so a refusal is never repeated in a loop.
//!
//! To have a queue means: ask whether it is there (a passive declare). If it is, declare it as it should be, which
//! changes nothing and is refused with the first difference in words. If it is not, that same declare makes it. The
//! dead-letter queue comes first, so that nothing ever points at a queue that is not there.

use std::collections::VecDeque;

use super::handshake::TOPOLOGY_CHANNEL;
use super::ladder::{Found, Rung};
use super::version::Version;
use super::{config::Compatibility, link::LinkError};
use crate::amqp::method::Method;
use crate::amqp::outbox::Outbox;
use crate::amqp::wire::Field;
use crate::amqp::{encode, id};
use crate::api::{Event, QueueSpec};

const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;

/// A [`QueueSpec`] of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) queue: String,
    pub(crate) dead_letter: Option<String>,
    pub(crate) delivery_limit: u32,
    pub(crate) consumer_timeout_ms: Option<i64>,
}

impl From<&QueueSpec<'_>> for Spec {
    fn from(spec: &QueueSpec<'_>) -> Self {
        Self {
            queue: spec.queue.to_owned(),
            dead_letter: spec.dead_letter.map(str::to_owned),
            delivery_limit: spec.delivery_limit,
            consumer_timeout_ms: spec.consumer_timeout.map(|t| i64::try_from(t.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

/// Something to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Have this queue, and say so when `answer`; a failure is always said.
    Declare { spec: Spec, answer: bool },
    /// How deep is it?
    Depth { queue: String },
    /// Have this rung of the ladder: a queue and an exchange of this name, bound. The answer is a [`Found`].
    Rung { rung: Rung, name: String },
    /// Is it there? The answer is a [`Found`].
    Find { queue: String },
}

/// The job under way.
#[derive(Debug)]
struct Running {
    job: Job,
    step: Step,
    differs: Option<String>,
}

/// The request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Is it there? (the dead-letter queue first)
    Ask { dead_letter: bool },
    /// It is: is it as it should be?
    Compare { dead_letter: bool },
    /// It is not: make it.
    Make { dead_letter: bool },
    /// Bind it: for publishers of the existing Asya, or a rung's to its exchange, which is declared first.
    Bind,
    /// The rung's exchange is there and different: bind to it as it is.
    BindAsItIs,
    /// How deep is it? Is it there?
    Depth,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Topology {
    version: Version,
    compatibility: Option<Compatibility>,
    waiting: VecDeque<Job>,
    running: Option<Running>,
}

impl Topology {
    pub(crate) fn new(version: Version, compatibility: Option<Compatibility>) -> Self {
        Self { version, compatibility, waiting: VecDeque::new(), running: None }
    }

    /// Whether everything is done.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// Does this after what is already to be done.
    pub(crate) fn add(&mut self, job: Job, out: &mut Outbox) {
        self.waiting.push_back(job);
        self.start(out);
    }

    /// What is not done, when the connection is lost.
    pub(crate) fn into_unfinished(self) -> impl Iterator<Item = Job> {
        self.running.map(|running| running.job).into_iter().chain(self.waiting)
    }

    fn start(&mut self, out: &mut Outbox) {
        if self.running.is_some() {
            return;
        }
        let Some(job) = self.waiting.pop_front() else {
            return;
        };
        let step = match &job {
            Job::Declare { spec, .. } => Step::Ask { dead_letter: spec.dead_letter.is_some() },
            Job::Rung { .. } => Step::Ask { dead_letter: false },
            Job::Depth { .. } | Job::Find { .. } => Step::Depth,
        };
        let running = Running { job, step, differs: None };
        self.request(&running, out);
        self.running = Some(running);
    }

    fn request(&self, running: &Running, out: &mut Outbox) {
        out.own(|out| match (&running.job, running.step) {
            (Job::Depth { queue } | Job::Find { queue }, _) | (Job::Rung { name: queue, .. }, Step::Ask { .. }) => {
                encode::declare_passive(out, TOPOLOGY_CHANNEL, queue);
            }
            (Job::Rung { rung, name }, Step::Compare { .. } | Step::Make { .. }) => {
                encode::declare(out, TOPOLOGY_CHANNEL, name, &rung.arguments(self.version));
            }
            (Job::Rung { name, .. }, step) => {
                if step == Step::Bind {
                    encode::exchange_declare(out, TOPOLOGY_CHANNEL, name, "fanout");
                }
                encode::bind(out, TOPOLOGY_CHANNEL, name, name, "");
            }
            (Job::Declare { spec, .. }, Step::Ask { dead_letter }) => {
                encode::declare_passive(out, TOPOLOGY_CHANNEL, spec.target(dead_letter));
            }
            (Job::Declare { spec, .. }, Step::Compare { dead_letter } | Step::Make { dead_letter }) => {
                let arguments = spec.arguments(dead_letter, self.version);
                encode::declare(out, TOPOLOGY_CHANNEL, spec.target(dead_letter), &arguments);
            }
            (Job::Declare { spec, .. }, Step::Bind | Step::BindAsItIs | Step::Depth) => {
                if let Some((exchange, key)) = self.binding(&spec.queue) {
                    encode::exchange_declare(out, TOPOLOGY_CHANNEL, exchange, "topic");
                    encode::bind(out, TOPOLOGY_CHANNEL, &spec.queue, exchange, key);
                }
            }
        });
    }

    fn binding<'a>(&'a self, queue: &'a str) -> Option<(&'a str, &'a str)> {
        let compatibility = self.compatibility.as_ref()?;
        let key = queue.strip_prefix(compatibility.prefix.as_str())?;
        Some((&compatibility.exchange, key))
    }

    /// Takes a method of the topology channel.
    pub(crate) fn method(
        &mut self,
        method: &Method<'_>,
        out: &mut Outbox,
        events: &mut Vec<Event>,
    ) -> Result<Option<Found>, LinkError> {
        let answer = match *method {
            Method::ChannelOpenOk | Method::ExchangeDeclareOk => return Ok(None),
            Method::QueueDeclareOk { messages, .. } => Ok(u64::from(messages)),
            Method::QueueBindOk => Ok(0),
            Method::ChannelClose(close) => {
                // What follows is ordered behind these, so there is nothing to wait for.
                out.own(|out| {
                    encode::bare(out, TOPOLOGY_CHANNEL, id::CHANNEL_CLOSE_OK);
                    encode::channel_open(out, TOPOLOGY_CHANNEL);
                });
                Err((close.code, close.describe()))
            }
            _ => return Err(LinkError::Unexpected("on the channel of declarations")),
        };
        let Some(mut running) = self.running.take() else {
            return if answer.is_ok() { Err(LinkError::Unexpected("an answer without a request")) } else { Ok(None) };
        };
        match self.next_step(&mut running, answer) {
            Next::Request(step) => {
                running.step = step;
                self.request(&running, out);
                self.running = Some(running);
            }
            Next::Done(event) => {
                events.extend(event);
                self.start(out);
            }
            Next::Found(found) => {
                self.start(out);
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn next_step(&self, running: &mut Running, answer: Answer) -> Next {
        let (spec, told) = match &running.job {
            Job::Declare { spec, answer } => (spec, answer),
            Job::Depth { queue } => {
                let queue = queue.clone();
                return Next::Done(Some(match answer {
                    Ok(ready) => Event::Depth { queue, ready, unsettled: None },
                    Err((_, why)) => Event::DeclareFailed { queue, why },
                }));
            }
            // What may not be looked at may be there.
            Job::Find { queue } => {
                let there = !matches!(answer, Err((NOT_FOUND, _)));
                return Next::Found(Found::Target { queue: queue.clone(), there });
            }
            Job::Rung { rung, name } => return next_step_of_rung(*rung, name, running.step, answer),
        };
        match (running.step, answer) {
            (Step::Ask { dead_letter }, Ok(_)) => Next::Request(Step::Compare { dead_letter }),
            (Step::Ask { dead_letter }, Err((NOT_FOUND, _))) => Next::Request(Step::Make { dead_letter }),
            (Step::Compare { dead_letter }, Err((code, why))) => {
                let target = spec.target(dead_letter);
                let difference = if code == PRECONDITION_FAILED {
                    format!("{target} is used as it is: {why}")
                } else {
                    format!("{target} is used as it is, uncompared: {why}")
                };
                running.differs = Some(match running.differs.take() {
                    None => difference,
                    Some(before) => format!("{before}; {difference}"),
                });
                self.after(spec, dead_letter, *told, running.differs.clone())
            }
            (Step::Compare { dead_letter } | Step::Make { dead_letter }, Ok(_)) => {
                self.after(spec, dead_letter, *told, running.differs.clone())
            }
            (Step::Bind | Step::BindAsItIs | Step::Depth, Ok(_)) => done(spec, *told, running.differs.clone()),
            (Step::Ask { dead_letter } | Step::Make { dead_letter }, Err((_, why))) => {
                let why = if dead_letter { format!("dead-letter queue {}: {why}", spec.target(true)) } else { why };
                Next::Done(Some(Event::DeclareFailed { queue: spec.queue.clone(), why }))
            }
            (Step::Bind | Step::BindAsItIs | Step::Depth, Err((_, why))) => {
                let why = format!("cannot be bound for compatibility: {why}");
                Next::Done(Some(Event::DeclareFailed { queue: spec.queue.clone(), why }))
            }
        }
    }

    /// After one of the two queues is there.
    fn after(&self, spec: &Spec, dead_letter: bool, told: bool, differs: Option<String>) -> Next {
        if dead_letter {
            Next::Request(Step::Ask { dead_letter: false })
        } else if self.binding(&spec.queue).is_some() {
            Next::Request(Step::Bind)
        } else {
            done(spec, told, differs)
        }
    }
}

/// What a request came to: a number of messages, or a reply code and a reason.
type Answer = Result<u64, (u16, String)>;

enum Next {
    Request(Step),
    Done(Option<Event>),
    Found(Found),
}

fn next_step_of_rung(rung: Rung, name: &str, step: Step, answer: Answer) -> Next {
    match (step, answer) {
        (Step::Ask { dead_letter }, Ok(_)) => Next::Request(Step::Compare { dead_letter }),
        (Step::Ask { dead_letter }, Err((NOT_FOUND, _))) => Next::Request(Step::Make { dead_letter }),
        (Step::Compare { .. }, Err((_, why))) => {
            tracing::warn!(queue = %name, %why, "the queue for this delay is used as it is");
            Next::Request(Step::Bind)
        }
        (Step::Compare { .. } | Step::Make { .. }, Ok(_)) => Next::Request(Step::Bind),
        (Step::Bind, Err((PRECONDITION_FAILED, why))) => {
            tracing::warn!(exchange = %name, %why, "the exchange for this delay is used as it is");
            Next::Request(Step::BindAsItIs)
        }
        (_, answer) => Next::Found(Found::Rung { rung, failed: answer.err().map(|(_, why)| why) }),
    }
}

fn done(spec: &Spec, told: bool, differs: Option<String>) -> Next {
    Next::Done(told.then(|| Event::Declared { queue: spec.queue.clone(), differs }))
}

impl Spec {
    fn target(&self, dead_letter: bool) -> &str {
        match &self.dead_letter {
            Some(name) if dead_letter => name,
            _ => &self.queue,
        }
    }

    /// Always quorum, and nothing is ever dropped: what dead-letters does so at least once, which needs a queue that
    /// refuses rather than forgets when it is full; what does not must not be limited, for the broker would drop what
    /// it gives up (https://www.rabbitmq.com/docs/quorum-queues#dead-lettering).
    fn arguments(&self, dead_letter: bool, version: Version) -> Vec<(&'static str, Field<'_>)> {
        let mut arguments =
            vec![("x-queue-type", Field::Text("quorum")), ("x-overflow", Field::Text("reject-publish"))];
        match &self.dead_letter {
            Some(name) if !dead_letter => {
                arguments.push(("x-dead-letter-exchange", Field::Text("")));
                arguments.push(("x-dead-letter-routing-key", Field::Text(name)));
                arguments.push(("x-dead-letter-strategy", Field::Text("at-least-once")));
                arguments.push(("x-delivery-limit", Field::Int(i64::from(self.delivery_limit))));
            }
            _ if version.default_delivery_limit() => arguments.push(("x-delivery-limit", Field::Int(-1))),
            _ => {}
        }
        if let Some(timeout) = self.consumer_timeout_ms
            && !dead_letter
            && version.queue_consumer_timeout()
        {
            arguments.push(("x-consumer-timeout", Field::Int(timeout)));
        }
        arguments
    }
}
