//! Both connections together: what is remembered, what is lost, in which order it is said.
//!
//! Takes operations; gives events in the order that [`crate::api`] promises. Never blocks. On the loss of a connection
//! it answers what was open, says so, and opens it again after a while; on a refusal that only a person can mend it stops.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::NAME_MAX;
use super::backoff::Backoff;
use super::config::RabbitMqConfig;
use super::consumer::{Consumer, Wanted};
use super::handshake::{OpenError, Opened, Role, open};
use super::link::{Link, LinkError};
use super::publisher::Publisher;
use super::topology::{Job, Spec, Topology};
use crate::api::{Event, Memory, Op, Outcome, Publish, QueueSpec};

type Opening = Pin<Box<dyn Future<Output = Result<Opened, OpenError>> + Send>>;

/// One connection and what is open on it.
enum Side<T> {
    /// To be opened at this time.
    Down(Instant),
    /// Being opened.
    Opening(Opening),
    /// Open.
    Up(Box<(Link, T)>),
    /// Never to be opened again.
    Stopped,
}

impl<T> Side<T> {
    fn up(&mut self) -> Option<(&mut Link, &mut T)> {
        match self {
            Self::Up(up) => Some((&mut up.0, &mut up.1)),
            _ => None,
        }
    }

    const fn is_up(&self) -> bool {
        matches!(self, Self::Up(_))
    }
}

impl<T> fmt::Debug for Side<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down(_) => "Down",
            Self::Opening(_) => "Opening",
            Self::Up(_) => "Up",
            Self::Stopped => "Stopped",
        })
    }
}

/// A declare that is remembered.
#[derive(Debug)]
struct Remembered {
    spec: Spec,
    /// Whether its answer is still owed.
    owed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    config: Arc<RabbitMqConfig>,
    consuming: Side<Consumer>,
    publishing: Side<Publisher>,
    retry_consuming: Backoff,
    retry_publishing: Backoff,
    /// What was declared, in order; one entry a queue name.
    declares: Vec<Remembered>,
    wanted: Option<Wanted>,
    /// The epoch of the last session that began, and whether it still lasts.
    epoch: u32,
    connected: bool,
    /// Why nothing will ever be connected.
    fatal: Option<String>,
    /// What happened outside of a poll.
    ready: Vec<Event>,
    /// A connection that failed outside of a poll.
    failed: Option<(Role, LinkError)>,
    /// The broker's limit on a message (bytes), where it is known.
    message_limit: Option<u64>,
}

impl Session {
    pub(crate) fn new(config: Arc<RabbitMqConfig>) -> Self {
        let now = Instant::now();
        Self {
            message_limit: config.max_message_bytes,
            config,
            consuming: Side::Down(now),
            publishing: Side::Down(now),
            retry_consuming: Backoff::new(),
            retry_publishing: Backoff::new(),
            declares: Vec::new(),
            wanted: None,
            epoch: 0,
            connected: false,
            fatal: None,
            ready: Vec::new(),
            failed: None,
        }
    }

    pub(crate) const fn message_limit(&self) -> Option<u64> {
        self.message_limit
    }

    pub(crate) fn submit(&mut self, op: Op<'_>) {
        match op {
            Op::Publish(message) => self.publish(&message),
            Op::Settle { tag, how } => {
                if tag.epoch == self.epoch
                    && let Some((link, consumer)) = self.consuming.up()
                {
                    consumer.settle(tag.number, how, &mut link.out);
                }
            }
            // A delivery is kept for as long as the consumer timeout says.
            Op::Extend { .. } => {}
            Op::Declare(spec) => self.declare(&spec),
            Op::Consume { queue, window } => {
                let wanted = Wanted { queue: queue.to_owned(), window: window.clamp(1, 65_535) as u16 };
                self.wanted = Some(wanted.clone());
                let spec = self.declares.iter().map(|d| &d.spec).find(|spec| spec.queue == queue);
                if let Some((link, consumer)) = self.consuming.up() {
                    consumer.want(wanted, spec, &mut link.out);
                }
            }
            Op::Cancel => {
                self.wanted = None;
                match self.consuming.up() {
                    Some((link, consumer)) => consumer.cancel(&mut link.out, &mut self.ready),
                    None => self.ready.push(Event::Canceled { asked: true }),
                }
            }
            Op::Depth { queue } => self.depth(queue),
        }
    }

    fn publish(&mut self, message: &Publish<'_>) {
        let outcome = match (self.connected, self.publishing.up()) {
            _ if message.delay.is_some_and(|delay| !delay.is_zero()) => Outcome::Unsupported("delayed messages"),
            _ if message.queue.len() > NAME_MAX => Outcome::Unsupported("queue names of more than 255 bytes"),
            _ if self.message_limit.is_some_and(|limit| message.body.len() > limit) => {
                Outcome::TooLarge(self.message_limit.unwrap_or_default())
            }
            (true, Some((link, publisher))) => return publisher.publish(message, link),
            _ => Outcome::Lost,
        };
        self.ready.push(Event::Published { token: message.token, outcome });
    }

    fn declare(&mut self, spec: &QueueSpec<'_>) {
        let queue = spec.queue;
        if queue.len() > NAME_MAX || spec.dead_letter.is_some_and(|name| name.len() > NAME_MAX) {
            let why = "queue names have at most 255 bytes".to_owned();
            return self.ready.push(Event::DeclareFailed { queue: queue.to_owned(), why });
        }
        if let Some(why) = &self.fatal {
            return self.ready.push(Event::DeclareFailed { queue: queue.to_owned(), why: why.clone() });
        }
        let spec = Spec::from(spec);
        let remembered = match self.declares.iter_mut().find(|d| d.spec.queue == queue) {
            Some(remembered) => {
                remembered.spec = spec;
                remembered
            }
            None => self.declares.push_mut(Remembered { spec, owed: true }),
        };
        match self.consuming.up() {
            Some((link, consumer)) => {
                remembered.owed = false;
                let job = Job::Declare { spec: remembered.spec.clone(), answer: true };
                consumer.topology.add(job, &mut link.out);
            }
            None => remembered.owed = true,
        }
    }

    fn depth(&mut self, queue: &str) {
        let why = match self.consuming.up() {
            _ if queue.len() > NAME_MAX => "queue names have at most 255 bytes".to_owned(),
            Some((link, consumer)) => {
                return consumer.topology.add(Job::Depth { queue: queue.to_owned() }, &mut link.out);
            }
            None => self.fatal.clone().unwrap_or_else(|| "not connected".to_owned()),
        };
        self.ready.push(Event::DeclareFailed { queue: queue.to_owned(), why });
    }

    pub(crate) fn flush(&mut self, memory: &mut dyn Memory) {
        if let Some((link, _)) = self.publishing.up()
            && let Err(error) = link.flush(memory)
        {
            self.failed.get_or_insert((Role::Publish, error));
        }
        if let Some((link, consumer)) = self.consuming.up() {
            consumer.write_acks(&mut link.out);
            if let Err(error) = link.flush(memory) {
                self.failed = Some((Role::Consume, error));
            }
        }
    }

    /// Does everything that can be done now. Gives the time at which something is due.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Option<Instant> {
        events.append(&mut self.ready);
        let now = Instant::now();
        match self.failed.take() {
            Some((Role::Consume, error)) => self.lose_consuming(now, error.to_string(), memory, events),
            Some((Role::Publish, error)) => self.lose_publishing(now, &error, events),
            None => {}
        }
        self.open_publishing(cx, now, events);
        self.open_consuming(cx, now, events);
        let publishing = self.poll_publishing(cx, now, memory, events);
        let consuming = self.poll_consuming(cx, now, memory, events);
        self.begin(events);
        // What was answered in this poll (a topology's next request) leaves in this poll.
        let written = self.consuming.up().map(|(link, _)| link.poll_write(cx, memory));
        if let Some(Err(error)) = written {
            self.lose_consuming(now, error.to_string(), memory, events);
        }
        let waits = [self.consuming_due(), self.publishing_due()];
        // A connection that failed during this poll is due at its retry, not at what its link had said before.
        waits.into_iter().chain([publishing, consuming]).flatten().min()
    }

    const fn consuming_due(&self) -> Option<Instant> {
        match self.consuming {
            Side::Down(at) => Some(at),
            _ => None,
        }
    }

    const fn publishing_due(&self) -> Option<Instant> {
        match self.publishing {
            Side::Down(at) => Some(at),
            _ => None,
        }
    }

    fn open_publishing(&mut self, cx: &mut Context<'_>, now: Instant, events: &mut Vec<Event>) {
        match poll_opening(&mut self.publishing, &self.config, Role::Publish, cx, now) {
            None => {}
            Some(Ok(opened)) => {
                self.retry_publishing.works(now);
                self.publishing = Side::Up(Box::new((opened.link, Publisher::default())));
            }
            Some(Err(OpenError::Refused(why))) => self.stop(why, events),
            Some(Err(error)) => {
                tracing::warn!(%error, "no publishing connection");
                self.publishing = Side::Down(self.retry_publishing.failed(now));
                // Without the other connection, its own failure says it.
                if !self.connected && self.consuming.is_up() {
                    events.push(Event::Lost { epoch: 0, why: error.to_string() });
                }
            }
        }
    }

    fn open_consuming(&mut self, cx: &mut Context<'_>, now: Instant, events: &mut Vec<Event>) {
        match poll_opening(&mut self.consuming, &self.config, Role::Consume, cx, now) {
            None => {}
            Some(Ok(opened)) => self.opened_consuming(opened),
            Some(Err(OpenError::Refused(why))) => self.stop(why, events),
            Some(Err(error)) => {
                tracing::warn!(%error, "no consuming connection");
                self.consuming = Side::Down(self.retry_consuming.failed(now));
                events.push(Event::Lost { epoch: 0, why: error.to_string() });
            }
        }
    }

    fn opened_consuming(&mut self, opened: Opened) {
        let Opened { mut link, version } = opened;
        let topology = Topology::new(version, self.config.compatibility.clone());
        // Its epoch begins with the event that says so; nothing is delivered before.
        let mut consumer = Consumer::new(self.epoch + 1, version, topology, self.wanted.clone());
        for remembered in &mut self.declares {
            let answer = std::mem::take(&mut remembered.owed);
            consumer.topology.add(Job::Declare { spec: remembered.spec.clone(), answer }, &mut link.out);
        }
        let spec = self.declares.iter().map(|d| &d.spec);
        consumer.set_timeout(self.wanted.as_ref().and_then(|w| spec.into_iter().find(|s| s.queue == w.queue)));
        self.consuming = Side::Up(Box::new((link, consumer)));
    }

    /// Begins a session once everything is ready.
    fn begin(&mut self, events: &mut Vec<Event>) {
        if self.connected || !self.publishing.is_up() {
            return;
        }
        let Some((link, consumer)) = self.consuming.up() else {
            return;
        };
        if consumer.topology.is_idle() {
            consumer.allow_start(&mut link.out);
        }
        if consumer.is_settled() && consumer.topology.is_idle() {
            self.epoch += 1;
            self.connected = true;
            self.retry_consuming.works(Instant::now());
            events.push(Event::Connected { epoch: self.epoch });
        }
    }

    fn poll_publishing(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Option<Instant> {
        let (link, publisher) = self.publishing.up()?;
        let polled = link
            .read(cx, publisher, memory, events)
            .and_then(|()| link.tick(now, false))
            .and_then(|due| link.poll_write(cx, memory).map(|()| due));
        match polled {
            Ok(due) => due,
            Err(error) => {
                self.lose_publishing(now, &error, events);
                None
            }
        }
    }

    fn poll_consuming(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Option<Instant> {
        let wanted = self.wanted.as_ref().map(|wanted| wanted.queue.as_str());
        let spec = self.declares.iter().map(|d| &d.spec).find(|spec| Some(spec.queue.as_str()) == wanted);
        let (link, consumer) = self.consuming.up()?;
        consumer.resume(memory, &mut link.out, events);
        let retry = consumer.tick(now, spec, &mut link.out);
        let polled = link.read(cx, consumer, memory, events).and_then(|()| {
            use super::link::Frames as _;
            link.tick(now, consumer.paused())
        });
        match polled {
            Ok(due) => due.into_iter().chain(retry).min(),
            Err(error) => {
                self.lose_consuming(now, error.to_string(), memory, events);
                None
            }
        }
    }

    fn lose_publishing(&mut self, now: Instant, error: &LinkError, events: &mut Vec<Event>) {
        let again = self.retry_publishing.failed(now);
        let Side::Up(up) = std::mem::replace(&mut self.publishing, Side::Down(again)) else {
            return;
        };
        tracing::warn!(%error, "lost the publishing connection");
        let refused = refused_length(error);
        if refused.is_some() {
            self.message_limit = refused;
        }
        up.1.end(refused, events);
    }

    /// Ends the session: the publishing connection with it, so that no publish is open when the loss is said.
    fn lose_consuming(&mut self, now: Instant, why: String, memory: &mut dyn Memory, events: &mut Vec<Event>) {
        let again = self.retry_consuming.failed(now);
        let Side::Up(up) = std::mem::replace(&mut self.consuming, Side::Down(again)) else {
            return;
        };
        tracing::warn!(error = %why, "lost the consuming connection");
        if let Side::Up(up) = std::mem::replace(&mut self.publishing, Side::Down(again)) {
            up.1.end(None, events);
        }
        for job in up.1.end(memory, events).into_unfinished() {
            match job {
                Job::Depth { queue } => events.push(Event::DeclareFailed { queue, why: why.clone() }),
                Job::Declare { spec, answer } => {
                    if let Some(remembered) = self.declares.iter_mut().find(|d| d.spec.queue == spec.queue) {
                        remembered.owed |= answer;
                    }
                }
            }
        }
        let epoch = if std::mem::take(&mut self.connected) { self.epoch } else { 0 };
        events.push(Event::Lost { epoch, why });
    }

    /// Nothing will ever be connected.
    fn stop(&mut self, why: String, events: &mut Vec<Event>) {
        if self.fatal.is_some() {
            return;
        }
        tracing::error!(%why, "refused");
        if !self.connected {
            self.consuming = Side::Stopped;
        }
        self.publishing = Side::Stopped;
        for remembered in &mut self.declares {
            if std::mem::take(&mut remembered.owed) {
                events.push(Event::DeclareFailed { queue: remembered.spec.queue.clone(), why: why.clone() });
            }
        }
        events.push(Event::Fatal { why: why.clone() });
        self.fatal = Some(why);
    }
}

/// Opens a connection that is down and due, and looks whether one that is being opened is.
fn poll_opening<T>(
    side: &mut Side<T>,
    config: &Arc<RabbitMqConfig>,
    role: Role,
    cx: &mut Context<'_>,
    now: Instant,
) -> Option<Result<Opened, OpenError>> {
    if let Side::Down(at) = side
        && *at <= now
    {
        *side = Side::Opening(Box::pin(open(Arc::clone(config), role)));
    }
    let Side::Opening(opening) = side else {
        return None;
    };
    match opening.as_mut().poll(cx) {
        Poll::Ready(opened) => Some(opened),
        Poll::Pending => None,
    }
}

/// The limit that a message was over, where that is why the channel was closed.
fn refused_length(error: &LinkError) -> Option<u64> {
    let LinkError::ChannelClosed { why, .. } = error else {
        return None;
    };
    // "message size 20000000 is larger than configured max size 16777216"
    let (_, limit) = why.split_once("max size ")?;
    limit[..limit.find(|c: char| !c.is_ascii_digit()).unwrap_or(limit.len())].parse().ok()
}
