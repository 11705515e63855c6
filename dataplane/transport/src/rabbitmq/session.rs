//! Both connections together: what is remembered, what is lost, in which order it is said.
//!
//! Takes operations; gives events in the order that [`crate::api`] promises. Never blocks. On the loss of a connection
//! it answers what was open, says so, and opens it again after a while; on a refusal that only a person can mend it
//! stops.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::NAME_MAX;
use super::config::RabbitMqConfig;
use super::consumer::{Consumer, Wanted, refuses_timeout};
use super::handshake::{OpenError, Opened, Role, open};
use super::ladder::{Ladder, Rung};
use super::link::{Frames as _, Link, LinkError};
use super::publisher::Publisher;
use super::topology::{Job, Spec, Topology};
use crate::amqp::encode;
use crate::api::{Event, Memory, Op, Outcome, Publish, QueueSpec};
use crate::backoff::Backoff;

/// `reply-code` of a close that has no cause (AMQP 0-9-1, 1.2 "Constants").
const REPLY_SUCCESS: u16 = 200;

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

    const fn retry_at(&self) -> Option<Instant> {
        match self {
            Self::Down(at) => Some(*at),
            _ => None,
        }
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
    /// The wanted queue takes no timeout of a consumer: the broker's own holds.
    timeout_refused: bool,
    /// The epoch of the last session that began, and whether it still lasts.
    epoch: u32,
    connected: bool,
    /// The connections were told to end.
    leaving: bool,
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
            timeout_refused: false,
            epoch: 0,
            connected: false,
            leaving: false,
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
                let refused = self.timeout_refused;
                let spec = self.declares.iter().map(|d| &d.spec).find(|spec| spec.queue == queue && !refused);
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
        let rung = message.delay.map(Rung::of);
        let name_len = |rung: Rung| rung.name(&self.config.delay_prefix).len();
        let outcome = match (self.connected, self.publishing.up()) {
            _ if rung == Some(None) => Outcome::Unsupported("delays between the steps of the ladder"),
            _ if rung.flatten().is_some_and(|rung| name_len(rung) > NAME_MAX) => {
                Outcome::Unsupported("delays, with a delay_prefix that makes names of more than 255 bytes")
            }
            _ if message.queue.len() > NAME_MAX => Outcome::Unsupported("queue names of more than 255 bytes"),
            _ if self.message_limit.is_some_and(|limit| message.body.len() > limit) => {
                Outcome::TooLarge(self.message_limit.unwrap_or_default())
            }
            (true, Some((link, publisher))) => return publisher.publish(message, rung.flatten(), &mut link.out),
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
        match self.publishing.up() {
            Some((link, publisher)) => {
                remembered.owed = false;
                let job = Job::Declare { spec: remembered.spec.clone(), answer: true };
                publisher.topology.add(job, &mut link.out);
            }
            None => remembered.owed = true,
        }
    }

    fn depth(&mut self, queue: &str) {
        let why = match self.publishing.up() {
            _ if queue.len() > NAME_MAX => "queue names have at most 255 bytes".to_owned(),
            Some((link, publisher)) => {
                return publisher.topology.add(Job::Depth { queue: queue.to_owned() }, &mut link.out);
            }
            None => self.fatal.clone().unwrap_or_else(|| "not connected".to_owned()),
        };
        self.ready.push(Event::DeclareFailed { queue: queue.to_owned(), why });
    }

    /// Whether everything that was submitted has been handed to the kernel. What a lost connection would have carried
    /// is not waited for: it was answered, or its delivery is void.
    pub(crate) fn is_flushed(&self) -> bool {
        if self.leaving {
            return !self.publishing.is_up() && !self.consuming.is_up();
        }
        let published = match &self.publishing {
            Side::Up(up) => up.0.is_flushed() && !up.1.is_holding(),
            _ => true,
        };
        published
            && match &self.consuming {
                Side::Up(up) => up.1.is_settled() && up.0.is_flushed(),
                _ => true,
            }
    }

    /// Without this the broker logs that its client has vanished. Its answer is waited for: a socket that is closed while
    /// something lies unread in it is reset, and what was written to it last is lost.
    pub(crate) fn leave(&mut self, memory: &mut dyn Memory) {
        self.leaving = true;
        let farewell = |out: &mut Vec<u8>| encode::close(out, REPLY_SUCCESS, "done");
        match self.publishing.up() {
            Some((link, _)) => link.out.own(farewell),
            None => self.publishing = Side::Stopped,
        }
        match self.consuming.up() {
            Some((link, _)) => link.out.own(farewell),
            None => self.consuming = Side::Stopped,
        }
        self.flush(memory);
    }

    pub(crate) fn flush(&mut self, memory: &mut dyn Memory) {
        if let Some((link, _)) = self.publishing.up()
            && let Err(error) = link.flush(memory)
        {
            self.failed.get_or_insert((Role::Publish, error));
        }
        if let Some((link, consumer)) = self.consuming.up() {
            consumer.write_settlements(&mut link.out);
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
        let publishing = self.read_publishing(cx, now, memory, events);
        self.after_declaring(now, events);
        let consuming = self.read_consuming(cx, now, memory, events);
        self.note_begun(now);
        self.write_all(cx, now, memory, events);
        let retries = [self.consuming.retry_at(), self.publishing.retry_at()];
        // One that is past waits for the publishing connection, whose opening is a poll of its own.
        let redeclare = self.consuming.up().and_then(|(_, c)| c.redeclare_at()).filter(|at| *at > now);
        retries.into_iter().chain([publishing, consuming, redeclare]).flatten().min()
    }

    /// What was answered in this poll leaves in this poll.
    fn write_all(&mut self, cx: &mut Context<'_>, now: Instant, memory: &mut dyn Memory, events: &mut Vec<Event>) {
        if let Some(Err(error)) = self.publishing.up().map(|(link, _)| link.poll_write(cx, memory)) {
            self.lose_publishing(now, &error, events);
        }
        if let Some(Err(error)) = self.consuming.up().map(|(link, _)| link.poll_write(cx, memory)) {
            self.lose_consuming(now, error.to_string(), memory, events);
        }
    }

    fn open_publishing(&mut self, cx: &mut Context<'_>, now: Instant, events: &mut Vec<Event>) {
        match poll_opening(&mut self.publishing, &self.config, Role::Publish, cx, now) {
            None => {}
            Some(Ok(Opened { version, .. })) if self.config.takes_back_too_soon(version) => {
                self.stop(self.config.too_short(), events);
            }
            Some(Ok(opened)) => {
                self.retry_publishing.works(now);
                self.opened_publishing(opened);
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

    /// Whatever is remembered is declared again: what happened in the meantime is not known.
    fn opened_publishing(&mut self, opened: Opened) {
        let Opened { mut link, version } = opened;
        let mut topology = Topology::new(version, self.config.compatibility.clone());
        for remembered in &mut self.declares {
            let answer = std::mem::take(&mut remembered.owed);
            topology.add(Job::Declare { spec: remembered.spec.clone(), answer }, &mut link.out);
        }
        let publisher = Publisher::new(link.frame_max, topology, Ladder::new(self.config.delay_prefix.clone()));
        self.publishing = Side::Up(Box::new((link, publisher)));
    }

    fn opened_consuming(&mut self, opened: Opened) {
        // The epoch begins with the event that says so; nothing is delivered before.
        let mut consumer = Consumer::new(self.epoch + 1, opened.version, self.wanted.clone());
        consumer.set_timeout(self.wanted_spec().filter(|_| !self.timeout_refused));
        self.consuming = Side::Up(Box::new((opened.link, consumer)));
    }

    /// What the queue that is to be consumed was declared as.
    fn wanted_spec(&self) -> Option<&Spec> {
        let wanted = self.wanted.as_ref()?;
        self.declares.iter().map(|d| &d.spec).find(|spec| spec.queue == wanted.queue)
    }

    /// Once everything is declared: begins a session, or lets a consumer whose queue was taken away start again.
    fn after_declaring(&mut self, now: Instant, events: &mut Vec<Event>) {
        let Some((publishing, publisher)) = self.publishing.up() else {
            return;
        };
        let wanted = self.wanted.as_ref().map(|wanted| wanted.queue.as_str());
        let Some((link, consumer)) = self.consuming.up() else {
            return;
        };
        if consumer.redeclare_at().is_some_and(|at| at <= now) {
            consumer.redeclaring();
            let spec = self.declares.iter().map(|d| &d.spec).find(|spec| Some(spec.queue.as_str()) == wanted);
            if let Some(spec) = spec {
                let job = Job::Declare { spec: spec.clone(), answer: false };
                publisher.topology.add(job, &mut publishing.out);
            }
        }
        if publisher.topology.is_idle() {
            consumer.redeclared(&mut link.out);
            if !self.connected {
                consumer.allow_begin(&mut link.out, events);
            }
        }
    }

    /// Takes note of a session that has begun.
    fn note_begun(&mut self, now: Instant) {
        if !self.connected && self.consuming.up().is_some_and(|(_, consumer)| consumer.has_begun()) {
            self.epoch += 1;
            self.connected = true;
            self.retry_consuming.works(now);
        }
    }

    fn read_publishing(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Option<Instant> {
        let (link, publisher) = self.publishing.up()?;
        match link.read(cx, publisher, memory, events).and_then(|()| link.tick(now, false)) {
            Ok(due) => due,
            Err(error) => {
                self.lose_publishing(now, &error, events);
                None
            }
        }
    }

    fn read_consuming(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Option<Instant> {
        let (link, consumer) = self.consuming.up()?;
        consumer.resume(memory, &mut link.out, events);
        match link.read(cx, consumer, memory, events).and_then(|()| link.tick(now, consumer.paused())) {
            Ok(due) => due,
            Err(error) => {
                self.note_begun(now);
                self.lose_consuming(now, error.to_string(), memory, events);
                None
            }
        }
    }

    fn lose_publishing(&mut self, now: Instant, error: &LinkError, events: &mut Vec<Event>) {
        if self.leaving {
            self.publishing = Side::Stopped;
            return;
        }
        let again = self.retry_publishing.failed(now);
        let Side::Up(up) = std::mem::replace(&mut self.publishing, Side::Down(again)) else {
            return;
        };
        tracing::warn!(%error, "lost the publishing connection");
        let refused = refused_length(error);
        if refused.is_some() {
            self.message_limit = refused;
        }
        let topology = up.1.end(refused, events);
        self.unfinished(topology, &error.to_string(), events);
    }

    /// Ends the session: the publishing connection with it, so that no publish is open when the loss is said.
    fn lose_consuming(&mut self, now: Instant, why: String, memory: &mut dyn Memory, events: &mut Vec<Event>) {
        if self.leaving {
            self.consuming = Side::Stopped;
            return;
        }
        let again = self.retry_consuming.failed(now);
        let Side::Up(up) = std::mem::replace(&mut self.consuming, Side::Down(again)) else {
            return;
        };
        tracing::warn!(error = %why, "lost the consuming connection");
        self.timeout_refused |= refuses_timeout(&why);
        if self.publishing.is_up()
            && let Side::Up(up) = std::mem::replace(&mut self.publishing, Side::Down(again))
        {
            let topology = up.1.end(None, events);
            self.unfinished(topology, &why, events);
        }
        up.1.end(memory, events);
        let epoch = if std::mem::take(&mut self.connected) { self.epoch } else { 0 };
        events.push(Event::Lost { epoch, why });
    }

    /// What was to be declared is, on the next connection; what was asked is answered.
    fn unfinished(&mut self, topology: Topology, why: &str, events: &mut Vec<Event>) {
        for job in topology.into_unfinished() {
            match job {
                // What waited for these is answered.
                Job::Rung { .. } | Job::Find { .. } => {}
                Job::Depth { queue } => events.push(Event::DeclareFailed { queue, why: why.to_owned() }),
                Job::Declare { spec, answer } => {
                    if let Some(remembered) = self.declares.iter_mut().find(|d| d.spec.queue == spec.queue) {
                        remembered.owed |= answer;
                    }
                }
            }
        }
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
