//! The trait that every broker implements, and the values that cross it.

use std::io;
use std::os::fd::BorrowedFd;
use std::task::Context;
use std::time::Duration;

/// Names one delivery for as long as the transport lives. A tag of an epoch that was [`Event::Lost`] is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// Counts the consuming connections of this transport, from 1.
    pub epoch: u32,
    /// The broker's own number within that connection.
    pub number: u64,
}

/// Names one publish. Chosen by the caller, who never gives the same one to two publishes that are open together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Names one reserved slot of input memory. Given out and understood by the [`Memory`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// How a body is encoded: an AMQP content type, an SQS message attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentType {
    /// `application/json`; also what a delivery without a content type is taken for.
    Json,
    /// `application/vnd.asya.native`.
    Native,
}

impl ContentType {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Native => "application/vnd.asya.native",
        }
    }

    /// Reads the name on the wire; anything unknown is taken for JSON, whose decoder then reports what it found.
    pub fn from_wire(name: &[u8]) -> Self {
        if name == Self::Native.as_str().as_bytes() { Self::Native } else { Self::Json }
    }
}

/// A range of memory that lives outside the transport: an input slot, or a result that a worker wrote.
///
/// The caller keeps it readable and unreused until the publish that names it has its [`Event::Published`]. Its bytes
/// may change under the reader (another process can write them), so no `&[u8]` of it is ever made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which mapping: understood by the [`Memory`] alone.
    pub region: u32,
    /// Bytes from the start of the region.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// One piece of a gathered write.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Bytes of the transport's own, such as frame headers.
    Bytes(&'a [u8]),
    /// A range that only the [`Memory`] can reach.
    Part(Part),
}

/// A body to publish: `prefix`, then each part in order, then `suffix`.
///
/// `prefix` and `suffix` are copied at [`Transport::submit`]; parts are not, see [`Part`].
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    /// Bytes before the payload (the head of a JSON envelope).
    pub prefix: &'a [u8],
    /// The payload.
    pub parts: &'a [Part],
    /// Bytes after the payload (the rest of a JSON envelope; the head and trailer of a native one).
    pub suffix: &'a [u8],
}

impl Body<'_> {
    /// Length of the whole body in bytes.
    pub fn len(&self) -> u64 {
        self.prefix.len() as u64 + self.parts.iter().map(|p| p.len).sum::<u64>() + self.suffix.len() as u64
    }

    /// Whether the body has no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One message to publish. Always persistent, always mandatory, always confirmed.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// Comes back in [`Event::Published`].
    pub token: Token,
    /// Full name of the target queue.
    pub queue: &'a str,
    /// How the body is encoded.
    pub content_type: ContentType,
    /// The message's id, for people who look at the broker. At most 255 bytes are kept.
    pub message_id: &'a str,
    /// The body.
    pub body: Body<'a>,
    /// Deliver no earlier than this from now: a step of [`Limits::delays`]. Any other delay is refused with
    /// [`Outcome::Unsupported`].
    pub delay: Option<Duration>,
}

/// What becomes of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done with: everything that it produced is confirmed.
    Ack,
    /// Given back untouched, to be delivered again to anyone, uncharged.
    Requeue,
    /// Given up: to the queue's dead-letter queue.
    Reject,
}

/// A queue to have. What exists is used as it is and never deleted (a difference is reported, not corrected).
#[derive(Clone, Copy, Debug)]
pub struct QueueSpec<'a> {
    /// Full name.
    pub queue: &'a str,
    /// Full name of the queue that takes what the broker gives up; declared before `queue`. `None` for a queue that
    /// is itself a dead-letter queue.
    pub dead_letter: Option<&'a str>,
    /// The broker dead-letters a message after this many deliveries that it counts (a backstop).
    pub delivery_limit: u32,
    /// How long a delivery may stay unsettled before the broker may take it back; `None` = the broker's default.
    pub consumer_timeout: Option<Duration>,
}

/// What a caller asks of a transport.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// Have this queue. Answered by [`Event::Declared`] or [`Event::DeclareFailed`]. Remembered, and done again after
    /// a reconnect, before consuming resumes.
    Declare(QueueSpec<'a>),
    /// Start consuming `queue`, holding at most `window` unsettled deliveries; on a running consumer, change its
    /// window (deliveries that are already held stay valid, so the sum may exceed a smaller window for a while).
    /// Remembered, and done again after a reconnect.
    Consume {
        /// Full name of the queue; the same in every call.
        queue: &'a str,
        /// Deliveries, 1 to 65,535.
        window: u32,
    },
    /// Stop consuming. Answered by [`Event::Canceled`], after which no delivery arrives until the next `Consume`.
    /// What is held stays held. The answer does not wait for room: what is on its way and finds none is given back by
    /// the transport, since a caller that drains hands back, and so makes room, only after the answer.
    Cancel,
    /// Publish one message. Answered by exactly one [`Event::Published`].
    Publish(Publish<'a>),
    /// Settle one delivery, exactly once. A void tag is ignored.
    Settle {
        /// The delivery.
        tag: Tag,
        /// What becomes of it.
        how: Settlement,
    },
    /// Keep the delivery for this much longer from now (brokers with leases; elsewhere a no-op).
    Extend {
        /// The delivery.
        tag: Tag,
        /// From now.
        by: Duration,
    },
    /// Ask how many messages a queue holds. Answered by [`Event::Depth`] or [`Event::DeclareFailed`].
    Depth {
        /// Full name.
        queue: &'a str,
    },
}

/// What a transport says about how often a delivery was tried before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redelivery {
    /// The broker says that this message may have been delivered before.
    pub redelivered: bool,
    /// How many earlier deliveries ended with their consumer's connection (or lease) lost, where the broker counts.
    pub lost: Option<u32>,
}

/// One delivery. Its body lies in `slot`, complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// To settle it by.
    pub tag: Tag,
    /// Where its body is. Owned by the receiver of the event, who releases it.
    pub slot: Slot,
    /// Length of the body in bytes.
    pub len: u64,
    /// How the body is encoded.
    pub content_type: ContentType,
    /// Whether it has been here before.
    pub redelivery: Redelivery,
}

/// How a publish ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it, safely.
    Confirmed,
    /// There is no such queue. The message is nowhere.
    Unroutable,
    /// The broker declined for now (a negative confirm, a full queue). The message is nowhere.
    Refused(String),
    /// The connection was lost first: the message may or may not have arrived.
    Lost,
    /// Larger than the broker takes; trying again is useless. The limit in bytes.
    TooLarge(u64),
    /// The transport cannot do what was asked (a delay); trying again is useless.
    Unsupported(&'static str),
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Connected: what was remembered is declared, and consuming, where asked for, has begun.
    Connected {
        /// The epoch that deliveries will carry from now on.
        epoch: u32,
    },
    /// A connection was lost. Every open publish has had its [`Outcome::Lost`] before this, and every tag of `epoch`
    /// is void. The transport reconnects by itself, with backoff.
    Lost {
        /// The epoch that ended; 0 when none had begun, and where leases outlive the loss: then no tag is void.
        epoch: u32,
        /// For people.
        why: String,
    },
    /// Reconnecting is useless until a person acts (credentials refused, unknown virtual host).
    Fatal {
        /// For people: what to do.
        why: String,
    },
    /// A message, whole.
    Delivered(Delivery),
    /// A message larger than [`Memory::reserve`] will ever grant; its body was skipped without touching memory. The
    /// receiver settles it.
    Oversize {
        /// To settle it by.
        tag: Tag,
        /// Length of its body in bytes.
        len: u64,
    },
    /// Consuming has stopped: the answer to [`Op::Cancel`], or (`asked` false) the broker's own doing, after which
    /// the transport re-declares and consumes again by itself.
    Canceled {
        /// Whether it answers an [`Op::Cancel`].
        asked: bool,
    },
    /// How a publish ended.
    Published {
        /// Which.
        token: Token,
        /// How.
        outcome: Outcome,
    },
    /// A settlement or an extension did not take, or a lease ran out: the tag is void, and the delivery will come again
    /// (or, when it was an acknowledgement that arrived too late, may have been delivered to somebody else meanwhile).
    SettleFailed {
        /// Which.
        tag: Tag,
        /// For people.
        why: String,
    },
    /// The queue is there.
    Declared {
        /// Full name.
        queue: String,
        /// In what it differs from what was asked for, for people; `None` when it does not.
        differs: Option<String>,
    },
    /// The queue is not there and could not be made, or its depth could not be told.
    DeclareFailed {
        /// Full name.
        queue: String,
        /// For people.
        why: String,
    },
    /// The broker has stopped (or resumed) taking publishes, for want of memory or disk.
    Blocked(bool),
    /// What a queue holds.
    Depth {
        /// Full name.
        queue: String,
        /// Messages waiting.
        ready: u64,
        /// Messages delivered and unsettled, where the broker tells.
        unsettled: Option<u64>,
    },
}

/// The answer to a request for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The caller owns this slot until it hands it on in [`Event::Delivered`] or releases it.
    Granted(Slot),
    /// None now: stop reading from the consuming socket and ask again at the next poll.
    Later,
    /// Never: larger than the configured maximum.
    TooLarge,
}

/// The memory in which bodies arrive and from which results leave. Implemented at the rim, over the shared arena.
pub trait Memory {
    /// Room for a body of `len` bytes (0 is allowed).
    fn reserve(&mut self, len: u64) -> Room;

    /// The slot's bytes, as long as what was asked for. Only this process can write them.
    fn slot_mut(&mut self, slot: Slot) -> &mut [u8];

    /// Gives a slot back that was not handed on.
    fn release(&mut self, slot: Slot);

    /// Appends the bytes of a part to `out`: for transports that must transform them (TLS, base64).
    fn copy_part(&self, part: Part, out: &mut Vec<u8>);

    /// One gathered, non-blocking write of at most the first 1,024 pieces, straight from where they lie. Returns the
    /// number of bytes taken.
    fn write_gathered(&self, socket: BorrowedFd<'_>, pieces: &[Piece<'_>]) -> io::Result<usize>;
}

/// The delays that a transport can give a message in one go. A longer one is a chain: the receiver looks whether its time
/// has come, and delays it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delays {
    /// Any.
    Any,
    /// Whole multiples of `unit`, up to `longest`.
    UpTo {
        /// The finest step.
        unit: Duration,
        /// The longest delay, a multiple of `unit`.
        longest: Duration,
    },
    /// These alone, in rising order.
    Ladder(&'static [Duration]),
}

impl Delays {
    /// The delay to ask for when a message is to wait for `wanted`: never so short that it would be early where one step is
    /// enough, and never longer than needed where several are. What is left after it is asked for anew.
    pub fn step(self, wanted: Duration) -> Duration {
        match self {
            Self::Any => wanted,
            Self::UpTo { unit, longest } => {
                let units = wanted.as_nanos().div_ceil(unit.as_nanos().max(1));
                u32::try_from(units).ok().and_then(|units| unit.checked_mul(units)).unwrap_or(longest).min(longest)
            }
            Self::Ladder(rungs) => {
                let shortest = rungs.first().copied().unwrap_or(wanted);
                rungs.iter().rev().copied().find(|rung| *rung <= wanted).unwrap_or(shortest)
            }
        }
    }
}

/// How long a delivery is the receiver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// From the delivery, and from each [`Op::Extend`] unless that says otherwise.
    pub lasts: Duration,
    /// From the delivery, whatever extends it. Then the broker delivers it to somebody else.
    pub longest: Duration,
}

/// What a transport can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest body that the broker takes, in bytes, where it is known.
    pub max_message_bytes: Option<u64>,
    /// What [`Publish::delay`] may be.
    pub delays: Delays,
    /// Set where a delivery is lost unless it is extended in time; elsewhere it is held for as long as the connection.
    pub lease: Option<Lease>,
}

/// A broker. See the module's documentation for the rhythm of the calls.
pub trait Transport {
    /// Takes one operation. Never blocks and never fails: what goes wrong comes back as an event. What is submitted
    /// before the first [`Event::Connected`] or while the connection is lost is remembered (declares, consume) or
    /// answered with [`Outcome::Lost`] (publishes).
    fn submit(&mut self, op: Op<'_>);

    /// Writes out what was submitted: at most a few system calls per socket. What the socket does not take now is
    /// kept and goes out from [`Transport::poll`] once it can.
    fn flush(&mut self, memory: &mut dyn Memory);

    /// Appends everything that has happened and arranges for `cx` to be woken when there is more.
    fn poll(&mut self, cx: &mut Context<'_>, memory: &mut dyn Memory, events: &mut Vec<Event>);

    /// Whether everything that was submitted has been handed to the kernel, and, once consuming has been canceled, whether
    /// the broker has seen every settlement: then the process may end without losing its last ones.
    fn flushed(&self) -> bool {
        true
    }

    /// Takes leave of the broker where its protocol has a word for that, so that it need not take the end of this process
    /// for an accident. Comes last, once all is [`Transport::flushed`], and has happened once that says so again.
    fn leave(&mut self, memory: &mut dyn Memory) {
        let _ = memory;
    }

    /// What this broker can do, as far as it is known.
    fn limits(&self) -> Limits;

    /// A short name for metrics: `rabbitmq`, `sqs`, `embedded`.
    fn name(&self) -> &'static str;
}
