//! One connection to a broker for the short-lived commands.
//!
//! Takes operations of the [`Transport`] trait and turns its events into answers that can be awaited. Blocks on the
//! broker, each wait with a bound. On failure: an [`Error`] that says what to do next.

use crate::error::Error;
use crate::memory::HeapMemory;
use asya_transport::{
    Body, ContentType, Event, Op, Outcome, Publish, QueueSpec, Settlement, Slot, Tag, Token, Transport,
};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a broker may take to answer one question. Brokers answer in milliseconds; half a minute leaves room for a
/// leader election.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long a broker may take to let a command in. It may be starting just now; a person is waiting.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// The broker dead-letters after this many counted deliveries: the same backstop as the sidecars ask for.
const DELIVERY_LIMIT: u32 = 100;

/// A message, copied out of the broker's memory.
#[derive(Debug)]
pub struct Message {
    /// To settle it by.
    pub tag: Tag,
    /// How the body is encoded.
    pub content_type: ContentType,
    /// The body.
    pub body: Vec<u8>,
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Messages waiting.
    pub ready: u64,
    /// Messages delivered and unsettled, where the broker tells.
    pub unsettled: Option<u64>,
}

/// A connection.
pub struct Client {
    transport: Box<dyn Transport>,
    memory: HeapMemory,
    events: VecDeque<Event>,
    next_token: u64,
    /// Where the broker is, for messages.
    place: String,
}

impl Client {
    /// Waits until the broker has answered.
    pub async fn connect(transport: Box<dyn Transport>, place: String) -> Result<Self, Error> {
        let mut client =
            Self { transport, memory: HeapMemory::default(), events: VecDeque::new(), next_token: 0, place };
        let deadline = Instant::now() + CONNECT_MAX;
        let mut last = None;
        loop {
            match client.event_before(deadline).await {
                Some(Event::Connected { .. }) => return Ok(client),
                Some(Event::Fatal { why }) => return Err(Error::Broker { place: client.place, why }),
                Some(Event::Lost { why, .. }) => last = Some(why),
                Some(_) => {}
                None => {
                    let why = last.unwrap_or_else(|| format!("no answer within {} s", CONNECT_MAX.as_secs()));
                    return Err(Error::Broker { place: client.place, why });
                }
            }
        }
    }

    /// The largest body that the broker takes, where it tells.
    pub fn message_bytes_max(&self) -> Option<u64> {
        self.transport.limits().max_message_bytes
    }

    /// The next event; `None` when the deadline passes first.
    pub async fn event_before(&mut self, deadline: Instant) -> Option<Event> {
        timeout_at(deadline, self.event()).await.ok()
    }

    /// The next event.
    pub async fn event(&mut self) -> Event {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// The next event, for whoever waits for several connections at once.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        self.turn(cx);
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn turn(&mut self, cx: &mut Context<'_>) {
        self.transport.flush(&mut self.memory);
        let mut events = Vec::new();
        self.transport.poll(cx, &mut self.memory, &mut events);
        self.events.extend(events);
    }

    /// Waits for the one event that `pick` takes; others that come meanwhile are kept for later, in order.
    async fn answer<T>(&mut self, mut pick: impl FnMut(&Event) -> Option<T>) -> Result<T, Error> {
        let deadline = Instant::now() + ANSWER_MAX;
        let mut kept = VecDeque::new();
        let answer = loop {
            match self.event_before(deadline).await {
                Some(Event::Fatal { why }) => break Err(why),
                Some(event) => match pick(&event) {
                    Some(answer) => break Ok(answer),
                    None => kept.push_back(event),
                },
                None => break Err(format!("no answer within {} s", ANSWER_MAX.as_secs())),
            }
        };
        kept.append(&mut self.events);
        self.events = kept;
        answer.map_err(|why| Error::Broker { place: self.place.clone(), why })
    }

    /// Has a queue, and its dead-letter queue where it is to have one.
    pub async fn declare(&mut self, queue: &str, dead_letter: Option<&str>) -> Result<(), Error> {
        let spec = QueueSpec { queue, dead_letter, delivery_limit: DELIVERY_LIMIT, consumer_timeout: None };
        self.transport.submit(Op::Declare(spec));
        let answer = self
            .answer(|event| match event {
                Event::Declared { queue: declared, .. } if declared == queue => Some(Ok(())),
                Event::DeclareFailed { queue: failed, why } if failed == queue => Some(Err(why.clone())),
                _ => None,
            })
            .await?;
        answer.map_err(|why| Error::Queue { queue: queue.to_owned(), why })
    }

    /// What a queue holds; `None` when there is no such queue.
    pub async fn depth(&mut self, queue: &str) -> Result<Option<Depth>, Error> {
        self.transport.submit(Op::Depth { queue });
        self.answer(|event| match event {
            Event::Depth { queue: told, ready, unsettled } if told == queue => {
                Some(Some(Depth { ready: *ready, unsettled: *unsettled }))
            }
            Event::DeclareFailed { queue: failed, .. } if failed == queue => Some(None),
            _ => None,
        })
        .await
    }

    /// Starts consuming.
    pub fn consume(&mut self, queue: &str, window: u32) {
        self.transport.submit(Op::Consume { queue, window });
    }

    /// Stops consuming and waits until nothing more can arrive. What arrived meanwhile is kept.
    pub async fn cancel(&mut self) -> Result<(), Error> {
        self.transport.submit(Op::Cancel);
        self.answer(|event| matches!(event, Event::Canceled { asked: true }).then_some(())).await
    }

    /// Publishes one message; the answer is an [`Event::Published`] with this token.
    pub fn publish(&mut self, queue: &str, content_type: ContentType, message_id: &str, body: &[u8]) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.transport.submit(Op::Publish(Publish {
            token,
            queue,
            content_type,
            message_id,
            body: Body { prefix: body, parts: &[], suffix: &[] },
            delay: None,
        }));
        token
    }

    /// Settles one delivery.
    pub fn settle(&mut self, tag: Tag, how: Settlement) {
        self.transport.submit(Op::Settle { tag, how });
    }

    /// Takes the body of a delivery out of the broker's memory.
    pub fn take(&mut self, delivery: asya_transport::Delivery) -> Message {
        let mut body = self.memory.take(delivery.slot);
        body.truncate(usize::try_from(delivery.len).unwrap_or(usize::MAX));
        Message { tag: delivery.tag, content_type: delivery.content_type, body }
    }

    /// Gives the body of a delivery up.
    pub fn discard(&mut self, slot: Slot) {
        drop(self.memory.take(slot));
    }

    /// How long a delivery is this client's unless it is extended, where the broker takes it back at all.
    pub fn lease(&self) -> Option<Duration> {
        self.transport.limits().lease.map(|lease| lease.lasts)
    }

    /// Keeps a delivery for this much longer.
    pub fn extend(&mut self, tag: Tag, by: Duration) {
        self.transport.submit(Op::Extend { tag, by });
    }

    async fn flushed(&mut self) -> Result<(), Error> {
        let flushed = poll_fn(|cx| {
            self.turn(cx);
            if self.transport.flushed() { Poll::Ready(()) } else { Poll::Pending }
        });
        let in_time = timeout_at(Instant::now() + ANSWER_MAX, flushed).await;
        in_time.map_err(|_| {
            let why = format!("it did not take what goes back within {} s", ANSWER_MAX.as_secs());
            Error::Broker { place: self.place.clone(), why }
        })
    }

    /// After [`Client::cancel`]: `held`, in this order, and what was on its way go back. All settlements have left when
    /// this is done, and the client is of no more use. Gives those of earlier acknowledgements that did not take.
    pub async fn give_back(&mut self, queue: &str, mut held: Vec<Tag>) -> Result<Vec<Tag>, Error> {
        let mut void = Vec::new();
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Delivered(delivery) => {
                    self.discard(delivery.slot);
                    held.push(delivery.tag);
                }
                Event::SettleFailed { tag, .. } => void.push(tag),
                _ => {}
            }
        }
        for tag in &held {
            self.settle(*tag, Settlement::Requeue);
        }
        // A question that brokers with one connection answer after everything before it.
        self.depth(queue).await?;
        self.flushed().await?;
        // Without a farewell RabbitMQ may forget acknowledgements that it has read and not yet passed on to the queue.
        self.transport.leave(&mut self.memory);
        self.flushed().await?;
        void.extend(self.events.drain(..).filter_map(|event| match event {
            Event::SettleFailed { tag, .. } => Some(tag),
            _ => None,
        }));
        held.sort_unstable();
        void.retain(|tag| held.binary_search(tag).is_err());
        Ok(void)
    }
}

/// Tells a person, once each time, that the broker is gone and that it is back.
#[derive(Debug, Default)]
pub struct Presence {
    gone: bool,
}

impl Presence {
    /// What to say of this event; `deadline` is when the waiting ends.
    pub fn said(&mut self, event: &Event, deadline: Instant) -> Option<String> {
        match event {
            Event::Lost { .. } if !self.gone => {
                self.gone = true;
                let left = deadline.saturating_duration_since(Instant::now()).as_secs_f64().round();
                Some(format!("the broker is gone; waiting for it to come back ({left} s left)"))
            }
            Event::Connected { .. } if self.gone => {
                self.gone = false;
                Some("the broker is back".to_owned())
            }
            _ => None,
        }
    }
}

/// What a publish came to, for people; `None` when it is safe.
pub fn unpublished(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Confirmed => None,
        Outcome::Unroutable => Some("there is no such queue".to_owned()),
        Outcome::Refused(why) => Some(format!("the broker declined: {why}")),
        Outcome::Lost => Some("the connection was lost first".to_owned()),
        Outcome::TooLarge(limit) => Some(format!("it is larger than the broker's {limit} bytes")),
        Outcome::Unsupported(what) => Some(format!("the broker cannot {what}")),
    }
}
