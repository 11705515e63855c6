//! Amazon SQS, and servers that speak its JSON protocol, by AWS's SDK.
//!
//! Takes operations and gives events as [`crate::api`] says. Never blocks: [`Transport::flush`] and [`Transport::poll`]
//! start calls, which run as tasks of the caller's current-thread tokio runtime while it waits; their answers are taken
//! in `poll`. Every kind of call is bounded (polls 20, batches sent 16, deletions and visibility changes 8 each, questions
//! about queues 4 each): each open call is a connection, and more of them would only be throttled.
//!
//! **There is no connection.** What is held is held by leases, which outlive any. So the loss of a network voids no tag:
//! when nobody has answered for five seconds, open publishes are answered [`Outcome::Lost`] and [`Event::Lost`] names
//! epoch 0, which nothing belongs to; a probe is sent, with backoff, and [`Event::Connected`] follows when it is answered
//! and what was declared is declared. Tags of before stay good for as long as their leases last. A single call that fails
//! is only that. [`Event::Fatal`] comes only before the first `Connected` or the first receipt: credentials that have
//! worked will work again, and handlers may be running for hours on what they opened.
//!
//! **Leases.** A lease lasts for the visibility timeout from when its call was sent, or from when it was extended. The
//! caller extends ([`Op::Extend`]); [`Transport::limits`] tells it of three quarters of the visibility timeout, so that
//! the way of a call is within the rest. A lease that runs out is told as [`Event::SettleFailed`].
//!
//! What SQS does not do: keep an order, count lost deliveries apart from those that were given back, delay by less than
//! a second, tell when a dead-letter queue is missing. A rejected message is given back and, when it comes again, sent
//! to the dead-letter queue and deleted: its text was not kept, and SQS has no word for it.

pub mod body;
mod calls;
mod config;
mod consumer;
mod leases;
mod queues;
mod sender;
mod trouble;

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use aws_sdk_sqs::Client;
use tokio::time::{Instant, Sleep, sleep_until};

pub use config::{Keys, SqsConfig, VISIBILITY_MAX, WAIT_MAX};

use crate::api::{Delays, Event, Lease, Limits, Memory, Op, Outcome, Transport};
use crate::backoff::Backoff;
use calls::{Calls, Done};
use consumer::Consumer;
use queues::Queues;
use sender::Sender;
use trouble::{Answer, Trouble};

/// How long calls may fail unanswered, one after the other, before SQS counts as unreachable: longer than a network takes
/// to find another way, shorter than a lease should be.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(5);

/// Whether anybody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Nobody, so far: asked again at this time.
    Down(Instant),
    /// Being asked.
    Probing,
    /// Somebody; what is remembered is being declared.
    Greeting,
    /// Somebody.
    Up,
    /// A person has to act.
    Ended,
}

/// One queue consumed and any published to, on SQS.
pub struct Sqs {
    config: Arc<SqsConfig>,
    client: Option<Client>,
    link: Link,
    epoch: u32,
    /// Since when nobody has answered, where the last call failed so.
    silent_since: Option<Instant>,
    backoff: Backoff,
    calls: Calls,
    queues: Queues,
    sender: Sender,
    consumer: Consumer,
    /// What happened outside of `poll`.
    events: Vec<Event>,
    /// Whoever polled last: to be woken when something happens outside of `poll`.
    waker: Option<Waker>,
    /// Fires when something is due.
    timer: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for Sqs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqs").field("config", &self.config).field("link", &self.link).finish_non_exhaustive()
    }
}

impl Sqs {
    /// Looks for SQS at the first poll, which is to be made, as all that follow, within a tokio runtime.
    pub fn new(config: SqsConfig) -> Self {
        let now = Instant::now();
        Self {
            config: Arc::new(config),
            client: None,
            link: Link::Down(now),
            epoch: 0,
            silent_since: None,
            backoff: Backoff::new(),
            calls: Calls::default(),
            queues: Queues::default(),
            sender: Sender::default(),
            consumer: Consumer::new(now),
            events: Vec::new(),
            waker: None,
            timer: None,
        }
    }

    /// Takes the answer of one call.
    fn take(&mut self, done: Done, now: Instant) {
        self.heard(done.heard(), now);
        match done {
            Done::Probed { client, answer } => self.probed(client, answer, now),
            Done::Declared { spec, result } => {
                if result.is_err() {
                    self.consumer.unresolved(&spec.queue, now);
                }
                self.queues.declared(&spec, result, &mut self.events);
            }
            Done::Resolved { queue, result } => {
                if let Err(trouble) = self.queues.resolved(&queue, result, &mut self.events) {
                    self.consumer.unresolved(&queue, now);
                    for forwarded in self.sender.unresolved(&queue, &trouble, &mut self.events) {
                        self.consumer.forwarded(forwarded, &mut self.queues);
                    }
                }
            }
            Done::Counted { queue, result } => self.queues.counted(queue, result, &mut self.events),
            Done::Received { asked, since, result } => {
                let (config, queues, sender) = (&self.config, &mut self.queues, &mut self.sender);
                let received =
                    self.consumer.received(asked, since, result, config, queues, sender, now, &mut self.events);
                match received {
                    Err(Trouble::Denied(why) | Trouble::Credentials(why)) if !self.consumer.permitted => self.end(why),
                    Err(trouble) => tracing::debug!(%trouble, "receiving failed; it is tried again"),
                    Ok(()) => {}
                }
            }
            Done::Sent { call, result } => {
                for forwarded in self.sender.sent(call, result, &mut self.queues, &mut self.events) {
                    self.consumer.forwarded(forwarded, &mut self.queues);
                }
            }
            Done::Deleted { numbers, result } => self.consumer.deleted(&numbers, result, now, &mut self.events),
            Done::Changed { changes, since, result } => {
                self.consumer.changed(&changes, since, result, now, &mut self.events);
            }
        }
    }

    /// Notes whether SQS answers.
    fn heard(&mut self, heard: Answer, now: Instant) {
        match heard {
            Ok(()) => self.silent_since = None,
            Err(trouble) => {
                let since = *self.silent_since.get_or_insert(now);
                if matches!(self.link, Link::Greeting | Link::Up) && now >= since + UNREACHABLE_AFTER {
                    self.lose(trouble.to_string(), now);
                }
            }
        }
    }

    fn probed(&mut self, client: Client, answer: Answer, now: Instant) {
        self.client = Some(client);
        match answer {
            Ok(()) => {
                self.backoff.works(now);
                self.link = Link::Greeting;
                self.queues.declare_all();
            }
            Err(Trouble::Credentials(why)) if self.epoch == 0 => self.end(why),
            Err(trouble) => self.lose(trouble.to_string(), now),
        }
    }

    /// Nobody answers.
    fn lose(&mut self, why: String, now: Instant) {
        self.link = Link::Down(self.backoff.failed(now));
        for forwarded in self.sender.lose_all(&why, &mut self.events) {
            self.consumer.forwarded(forwarded, &mut self.queues);
        }
        self.queues.fail_counts(&why, &mut self.events);
        self.events.push(Event::Lost { epoch: 0, why });
    }

    fn end(&mut self, why: String) {
        self.link = Link::Ended;
        self.sender.lose_all(&why, &mut self.events);
        let why = format!(
            "SQS does not let this process in (credentials come from the environment, a profile, the pod or the machine): {why}"
        );
        self.events.push(Event::Fatal { why });
    }

    /// Starts whatever may start now.
    fn start(&mut self, memory: &mut dyn Memory, now: Instant) {
        self.consumer.end_leases(now, &mut self.events);
        if let Link::Down(at) = self.link
            && at <= now
        {
            self.link = Link::Probing;
            let queue = self.queues.probe_name().to_owned();
            self.calls.probe(self.client.clone(), Arc::clone(&self.config), queue);
        }
        let Some(client) = self.client.as_ref().filter(|_| matches!(self.link, Link::Greeting | Link::Up)) else {
            return;
        };
        self.queues.start(client, &self.config, &mut self.calls, &mut self.events);
        if self.link == Link::Greeting && self.queues.all_declared() {
            self.link = Link::Up;
            self.epoch += 1;
            self.events.push(Event::Connected { epoch: self.epoch });
        }
        if self.link == Link::Up {
            let (queues, calls, events) = (&mut self.queues, &mut self.calls, &mut self.events);
            self.consumer.start(client, &self.config, queues, calls, memory, self.epoch, now, events);
            self.sender.start(client, queues, calls, memory, events);
            // The address of a queue that somebody wants may have to be asked for.
            queues.start(client, &self.config, calls, events);
        }
    }

    /// Arranges for a wake at `due`.
    fn arm(&mut self, cx: &mut Context<'_>, due: Instant) {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due || timer.is_elapsed() {
            timer.as_mut().reset(due);
        }
        if timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

/// Deletes a queue and what it holds; one that is not there is no error.
///
/// # Errors
/// What SQS says, for people.
pub async fn delete_queue(config: &SqsConfig, queue: &str) -> Result<(), String> {
    let client = config.client().await;
    let url = match client.get_queue_url().queue_name(queue).send().await {
        Ok(found) => found.queue_url.unwrap_or_default(),
        Err(error) if error.as_service_error().is_some_and(|e| e.is_queue_does_not_exist()) => return Ok(()),
        Err(error) => return Err(aws_sdk_sqs::error::DisplayErrorContext(error).to_string()),
    };
    let deleted = client.delete_queue().queue_url(url).send().await;
    deleted.map(drop).map_err(|error| aws_sdk_sqs::error::DisplayErrorContext(error).to_string())
}

impl Transport for Sqs {
    fn submit(&mut self, op: Op<'_>) {
        let now = Instant::now();
        match op {
            Op::Declare(spec) => self.queues.declare(spec),
            Op::Consume { queue, window } => self.consumer.consume(queue, window),
            Op::Cancel => {
                self.consumer.cancel(now);
                self.events.push(Event::Canceled { asked: true });
            }
            Op::Publish(publish) if self.link == Link::Up => {
                self.sender.publish(publish, &self.queues, &mut self.events);
            }
            Op::Publish(publish) => {
                self.events.push(Event::Published { token: publish.token, outcome: Outcome::Lost });
            }
            Op::Settle { tag, how } => self.consumer.settle(tag.number, how),
            Op::Extend { tag, by } => self.consumer.extend(tag.number, by, now),
            Op::Depth { queue } if self.link == Link::Up => self.queues.count(queue),
            Op::Depth { queue } => {
                let why = "SQS does not answer".to_owned();
                self.events.push(Event::DeclareFailed { queue: queue.to_owned(), why });
            }
        }
    }

    fn flush(&mut self, memory: &mut dyn Memory) {
        self.start(memory, Instant::now());
        if !self.events.is_empty()
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, memory: &mut dyn Memory, events: &mut Vec<Event>) {
        self.waker = Some(cx.waker().clone());
        let now = Instant::now();
        while let Some(done) = self.calls.poll(cx) {
            self.take(done, now);
        }
        self.start(memory, now);
        events.append(&mut self.events);
        let link = match self.link {
            Link::Down(at) => Some(at),
            _ => None,
        };
        // What was due by now was done, or waits for something else.
        let due = self.consumer.due(&self.config).into_iter().chain(link).filter(|due| *due > now).min();
        // Without anything due there is still a look now and then, so that the timer need not be taken apart.
        self.arm(cx, due.unwrap_or(now + Duration::from_secs(3600)));
    }

    fn flushed(&self) -> bool {
        self.sender.is_idle() && self.consumer.is_idle(Instant::now())
    }

    fn limits(&self) -> Limits {
        Limits {
            max_message_bytes: Some(body::body_limit(self.queues.least_message_bytes_max())),
            delays: Delays::UpTo { unit: Duration::from_secs(1), longest: sender::DELAY_MAX },
            lease: Some(Lease {
                lasts: self.config.visibility_timeout - self.config.slack(),
                longest: VISIBILITY_MAX - self.config.slack(),
            }),
        }
    }

    fn name(&self) -> &'static str {
        "sqs"
    }
}
