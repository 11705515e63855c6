//! The consuming connection: deliveries in, settlements out, and the life of the consumer.
//!
//! Takes frames (as a [`Frames`]) and the caller's wishes; gives [`Event::Delivered`], [`Event::Oversize`],
//! [`Event::Canceled`], and [`Event::Connected`] before the first of them. Never blocks. When there is no room for a
//! body it is [`Frames::paused`] until there is. A frame that may not come now is a [`LinkError`].

use tokio::time::Instant;

use super::handshake::CHANNEL;
use super::link::{Frames, LinkError};
use super::ordered::Ordered;
use super::topology::Spec;
use super::version::Version;
use crate::amqp::content::ContentHeader;
use crate::amqp::frame::Frame;
use crate::amqp::method::Method;
use crate::amqp::outbox::Outbox;
use crate::amqp::wire::{Field, Value};
use crate::amqp::{encode, id};
use crate::api::{ContentType, Delivery, Event, Memory, Redelivery, Room, Settlement, Slot, Tag};
use crate::backoff::Backoff;

/// What to consume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) queue: String,
    pub(crate) window: u16,
}

/// Where the consumer is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// There is none.
    Idle,
    /// Asked for, not confirmed.
    Starting(Wanted),
    /// Deliveries come.
    Running(Wanted),
    /// A cancel is under way; deliveries come until it is confirmed.
    Canceling,
    /// The broker took it away; try again at this time.
    Taken(Instant),
    /// Having its queue declared again before it starts again.
    Redeclaring,
}

/// The delivery that is arriving.
#[derive(Clone, Copy, Debug)]
enum Arrival {
    None,
    /// Announced; its header comes next.
    Announced {
        number: u64,
        redelivered: bool,
    },
    /// Its header is here, room for its body is not.
    Waiting(Announced),
    /// Its body is coming in.
    Filling {
        announced: Announced,
        slot: Slot,
        filled: u64,
    },
    /// Its body is coming in and kept nowhere.
    Skipping {
        left: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Announced {
    number: u64,
    len: u64,
    content_type: ContentType,
    redelivery: Redelivery,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Consumer {
    /// What deliveries of this connection carry.
    epoch: u32,
    version: Version,
    /// Whether the session has begun, and whether it may: everything else is ready.
    begun: bool,
    may_begin: bool,
    phase: Phase,
    wanted: Option<Wanted>,
    consumer_timeout_ms: Option<i64>,
    /// Cancels that wait for their answer.
    asked_to_cancel: u32,
    /// Each consumer has a new tag; this many were used.
    consumers: u32,
    retry: Backoff,
    arrival: Arrival,
    held: Ordered<()>,
    /// Acknowledged in this turn.
    acked: Vec<u64>,
    /// Something was settled that no `basic.qos` has followed.
    settled: bool,
    /// Each `basic.qos` that waits for its answer.
    unanswered: u32,
}

impl Consumer {
    pub(crate) fn new(epoch: u32, version: Version, wanted: Option<Wanted>) -> Self {
        Self {
            epoch,
            version,
            begun: false,
            may_begin: false,
            phase: Phase::Idle,
            wanted,
            consumer_timeout_ms: None,
            asked_to_cancel: 0,
            consumers: 0,
            retry: Backoff::new(),
            arrival: Arrival::None,
            held: Ordered::default(),
            acked: Vec::new(),
            settled: false,
            unanswered: 0,
        }
    }

    /// Everything else is ready: begin, with a consumer where one is wanted.
    pub(crate) fn allow_begin(&mut self, out: &mut Outbox, events: &mut Vec<Event>) {
        self.may_begin = true;
        self.reconcile(out);
        if self.phase == Phase::Idle {
            self.begin(events);
        }
    }

    /// Whether [`Event::Connected`] was said.
    pub(crate) const fn has_begun(&self) -> bool {
        self.begun
    }

    fn begin(&mut self, events: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.begun, true) {
            events.push(Event::Connected { epoch: self.epoch });
        }
    }

    /// Consume this from now on; its queue's consumer timeout goes with it.
    pub(crate) fn want(&mut self, wanted: Wanted, spec: Option<&Spec>, out: &mut Outbox) {
        self.set_timeout(spec);
        self.wanted = Some(wanted);
        self.reconcile(out);
    }

    pub(crate) fn set_timeout(&mut self, spec: Option<&Spec>) {
        self.consumer_timeout_ms = spec.and_then(|spec| spec.consumer_timeout_ms);
    }

    /// Consume nothing from now on.
    pub(crate) fn cancel(&mut self, out: &mut Outbox, events: &mut Vec<Event>) {
        self.wanted = None;
        match self.phase {
            Phase::Idle | Phase::Taken(_) | Phase::Redeclaring => {
                self.phase = Phase::Idle;
                events.push(Event::Canceled { asked: true });
            }
            Phase::Starting(_) | Phase::Running(_) | Phase::Canceling => self.asked_to_cancel += 1,
        }
        self.reconcile(out);
    }

    /// Takes one step from what is the case towards what is wanted.
    fn reconcile(&mut self, out: &mut Outbox) {
        match (&self.phase, &self.wanted) {
            (Phase::Idle, Some(wanted)) if self.may_begin => {
                self.consumers += 1;
                let tag = consumer_tag(self.consumers);
                let timeout = self.consumer_timeout_ms.filter(|_| self.version.consumer_timeout());
                let arguments = timeout.map(|t| [("x-consumer-timeout", Field::Int(t))]);
                out.own(|out| {
                    encode::qos(out, CHANNEL, wanted.window);
                    let arguments = arguments.as_ref().map_or(&[][..], |a| &a[..]);
                    encode::consume(out, CHANNEL, &wanted.queue, &tag, arguments);
                });
                self.unanswered += 1;
                self.phase = Phase::Starting(wanted.clone());
            }
            (Phase::Running(running), wanted) if self.asked_to_cancel > 0 || wanted.as_ref() != Some(running) => {
                // `basic.qos` does not reach a running consumer of a quorum queue: a new window is a new consumer.
                out.own(|out| encode::cancel(out, CHANNEL, &consumer_tag(self.consumers)));
                self.phase = Phase::Canceling;
            }
            _ => {}
        }
    }

    /// Settles a delivery of this connection. One that is not held is left alone.
    pub(crate) fn settle(&mut self, number: u64, how: Settlement, out: &mut Outbox) {
        if self.held.take(number).is_none() {
            return;
        }
        self.settled = true;
        match how {
            Settlement::Ack => self.acked.push(number),
            Settlement::Requeue => out.own(|out| encode::requeue(out, CHANNEL, number)),
            Settlement::Reject => out.own(|out| encode::reject(out, CHANNEL, number)),
        }
    }

    /// Writes what was settled in this turn.
    ///
    /// Where nothing more is to be consumed, the connection may soon be closed, and the broker forgets what it has
    /// received and not yet looked at when that happens. The answer to a `basic.qos` says that it has.
    pub(crate) fn write_settlements(&mut self, out: &mut Outbox) {
        self.write_acks(out);
        if self.wanted.is_none() && std::mem::take(&mut self.settled) {
            out.own(|out| encode::qos(out, CHANNEL, 1));
            self.unanswered += 1;
        }
    }

    /// Puts this turn's acknowledgements into as few frames as their order allows: below the lowest delivery that is
    /// still held, one frame covers all.
    fn write_acks(&mut self, out: &mut Outbox) {
        if self.acked.is_empty() {
            return;
        }
        let lowest_held = self.held.lowest().unwrap_or(u64::MAX);
        let covered = self.acked.iter().copied().filter(|number| *number < lowest_held);
        let count = covered.clone().count();
        let last_covered = covered.max();
        out.own(|out| {
            if let Some(last) = last_covered {
                encode::ack(out, CHANNEL, last, count > 1);
            }
            for &number in self.acked.iter().filter(|number| **number > lowest_held) {
                encode::ack(out, CHANNEL, number, false);
            }
        });
        self.acked.clear();
    }

    /// Whether every acknowledgement is in the outbox; where nothing more is to be consumed, whether the broker has seen
    /// all that was settled.
    pub(crate) const fn is_settled(&self) -> bool {
        self.acked.is_empty() && (self.wanted.is_some() || (!self.settled && self.unanswered == 0))
    }

    /// Asks again for the room that was not there.
    pub(crate) fn resume(&mut self, memory: &mut dyn Memory, out: &mut Outbox, events: &mut Vec<Event>) {
        if let Arrival::Waiting(announced) = self.arrival {
            self.make_room(announced, memory, out, events);
        }
    }

    /// When its queue, which the broker took away, is to be declared again.
    pub(crate) const fn redeclare_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Taken(at) => Some(at),
            _ => None,
        }
    }

    /// Its queue is being declared again.
    pub(crate) fn redeclaring(&mut self) {
        self.phase = Phase::Redeclaring;
    }

    /// Whatever was to be declared is.
    pub(crate) fn redeclared(&mut self, out: &mut Outbox) {
        if self.phase == Phase::Redeclaring {
            self.phase = Phase::Idle;
            self.reconcile(out);
        }
    }

    /// The connection is lost: gives back the slot of a delivery that was arriving, answers what was asked.
    pub(crate) fn end(self, memory: &mut dyn Memory, events: &mut Vec<Event>) {
        if let Arrival::Filling { slot, .. } = self.arrival {
            memory.release(slot);
        }
        events.extend((0..self.asked_to_cancel).map(|_| Event::Canceled { asked: true }));
    }

    fn method(&mut self, method: &Method<'_>, out: &mut Outbox, events: &mut Vec<Event>) -> Result<(), LinkError> {
        match *method {
            Method::Deliver { delivery_tag, redelivered } => {
                self.arrival = Arrival::Announced { number: delivery_tag, redelivered };
            }
            Method::QosOk => self.unanswered = self.unanswered.saturating_sub(1),
            Method::ConsumeOk { .. } => {
                if let Phase::Starting(wanted) = &self.phase {
                    self.phase = Phase::Running(wanted.clone());
                    self.retry.works(Instant::now());
                }
                self.begin(events);
                self.reconcile(out);
            }
            Method::CancelOk { .. } => {
                self.phase = Phase::Idle;
                events.extend((0..self.asked_to_cancel).map(|_| Event::Canceled { asked: true }));
                self.asked_to_cancel = 0;
                self.reconcile(out);
            }
            Method::Cancel { consumer_tag, nowait } => {
                if !nowait {
                    out.own(|out| encode::cancel_ok(out, CHANNEL, consumer_tag));
                }
                // One that crosses our own cancel needs no answer: that cancel has its own.
                if matches!(self.phase, Phase::Starting(_) | Phase::Running(_)) {
                    self.phase = Phase::Taken(self.retry.failed(Instant::now()));
                    events.push(Event::Canceled { asked: false });
                    events.extend((0..self.asked_to_cancel).map(|_| Event::Canceled { asked: true }));
                    self.asked_to_cancel = 0;
                    if self.wanted.is_none() {
                        self.phase = Phase::Idle;
                    }
                }
            }
            Method::ChannelFlow { active } => out.own(|out| encode::flow_ok(out, CHANNEL, active)),
            Method::ChannelClose(close) => {
                let why = close.describe();
                // The queue cannot be consumed: said apart, because a reconnect says the same for other reasons.
                if let Phase::Starting(wanted) = &self.phase
                    && !refuses_timeout(&why)
                {
                    events.push(Event::DeclareFailed { queue: wanted.queue.clone(), why: why.clone() });
                }
                return Err(LinkError::ChannelClosed { code: close.code, why });
            }
            _ => return Err(LinkError::Unexpected("on the channel of deliveries")),
        }
        Ok(())
    }

    fn header(
        &mut self,
        header: &ContentHeader<'_>,
        memory: &mut dyn Memory,
        out: &mut Outbox,
        events: &mut Vec<Event>,
    ) -> Result<(), LinkError> {
        let Arrival::Announced { number, redelivered } = self.arrival else {
            return Err(LinkError::Unexpected("a content header without a delivery"));
        };
        let announced = Announced {
            number,
            len: header.body_len,
            content_type: ContentType::from_wire(header.content_type),
            redelivery: Redelivery { redelivered, lost: self.lost(redelivered, header) },
        };
        self.make_room(announced, memory, out, events);
        Ok(())
    }

    /// How many consumers were lost with this message, where the broker's count means that.
    fn lost(&self, redelivered: bool, header: &ContentHeader<'_>) -> Option<u32> {
        if !redelivered {
            return Some(0);
        }
        if !self.version.requeue_uncounted() {
            return None;
        }
        match header.headers.get("x-delivery-count") {
            Some(Value::Int(count)) => u32::try_from(count).ok(),
            _ => Some(0),
        }
    }

    fn make_room(&mut self, announced: Announced, memory: &mut dyn Memory, out: &mut Outbox, events: &mut Vec<Event>) {
        let Announced { number, len, .. } = announced;
        match memory.reserve(len) {
            Room::Granted(slot) => {
                self.held.push(number, ());
                self.arrival = Arrival::Filling { announced, slot, filled: 0 };
                self.deliver_when_full(events);
            }
            // The cancel's answer lies behind this body, and room may only come after it: what would have been handed
            // back anyway goes back now.
            Room::Later if self.phase == Phase::Canceling && self.asked_to_cancel > 0 => {
                out.own(|out| encode::requeue(out, CHANNEL, number));
                self.skip(len);
            }
            Room::Later => self.arrival = Arrival::Waiting(announced),
            Room::TooLarge => {
                self.held.push(number, ());
                events.push(Event::Oversize { tag: self.tag(number), len });
                self.skip(len);
            }
        }
    }

    fn skip(&mut self, left: u64) {
        self.arrival = if left == 0 { Arrival::None } else { Arrival::Skipping { left } };
    }

    const fn tag(&self, number: u64) -> Tag {
        Tag { epoch: self.epoch, number }
    }

    fn deliver_when_full(&mut self, events: &mut Vec<Event>) {
        if let Arrival::Filling { announced, slot, filled } = self.arrival
            && filled == announced.len
        {
            events.push(Event::Delivered(Delivery {
                tag: self.tag(announced.number),
                slot,
                len: announced.len,
                content_type: announced.content_type,
                redelivery: announced.redelivery,
            }));
            self.arrival = Arrival::None;
        }
    }

    fn body(&mut self, bytes: &[u8], memory: &mut dyn Memory, events: &mut Vec<Event>) -> Result<(), LinkError> {
        match &mut self.arrival {
            Arrival::Filling { announced, slot, filled } => {
                let end = *filled + bytes.len() as u64;
                if end > announced.len {
                    return Err(LinkError::Unexpected("a body longer than its header says"));
                }
                memory.slot_mut(*slot)[*filled as usize..end as usize].copy_from_slice(bytes);
                *filled = end;
                self.deliver_when_full(events);
            }
            Arrival::Skipping { left } => match left.checked_sub(bytes.len() as u64) {
                None => return Err(LinkError::Unexpected("a body longer than its header says")),
                Some(left) => self.skip(left),
            },
            _ => return Err(LinkError::Unexpected("a body without a header")),
        }
        Ok(())
    }
}

/// Whether a channel was closed because this kind of queue (an existing classic one) takes no timeout of a consumer.
pub(crate) fn refuses_timeout(why: &str) -> bool {
    why.contains("x-consumer-timeout")
}

fn consumer_tag(number: u32) -> String {
    format!("asya-{number}")
}

impl Frames for Consumer {
    fn frame(
        &mut self,
        frame: Frame<'_>,
        out: &mut Outbox,
        memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Result<(), LinkError> {
        match frame {
            Frame::Method { channel: CHANNEL, method } => {
                if !matches!(self.arrival, Arrival::None) {
                    return Err(LinkError::Unexpected("a method in the middle of a delivery"));
                }
                self.method(&method, out, events)
            }
            Frame::Header { channel: CHANNEL, header } => self.header(&header, memory, out, events),
            Frame::Body { channel: CHANNEL, bytes } => self.body(bytes, memory, events),
            Frame::Method { channel: 0, method: Method::ConnectionClose(close) } => {
                out.own(|out| encode::bare(out, 0, id::CONNECTION_CLOSE_OK));
                Err(LinkError::Closed { code: close.code, why: close.describe() })
            }
            // Only publishing is blocked.
            Frame::Method { channel: 0, method: Method::ConnectionBlocked { .. } | Method::ConnectionUnblocked }
            | Frame::Heartbeat => Ok(()),
            _ => Err(LinkError::Unexpected("on a channel that is not open")),
        }
    }

    fn paused(&self) -> bool {
        matches!(self.arrival, Arrival::Waiting(_))
    }

    fn body_target<'m>(&self, channel: u16, memory: &'m mut dyn Memory) -> Option<&'m mut [u8]> {
        match self.arrival {
            Arrival::Filling { slot, filled, .. } if channel == CHANNEL => {
                memory.slot_mut(slot).get_mut(filled as usize..)
            }
            _ => None,
        }
    }

    fn body_read(&mut self, len: usize, events: &mut Vec<Event>) {
        if let Arrival::Filling { filled, .. } = &mut self.arrival {
            *filled += len as u64;
            self.deliver_when_full(events);
        }
    }
}
