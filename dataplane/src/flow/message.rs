//! The states of a message: its delivery, itself, and what it has produced.

use std::rc::Rc;
use std::time::Duration;

use asya_envelope::{ErrorInfo, Head, Payload};
use asya_transport::{ContentType, Part, Settlement, Slot, Tag};

use super::{DeliveryId, MessageId, OutputId, Time, WorkerId};
use crate::slab::Slab;

/// One delivery of the broker: one or more messages that are settled together, after the last.
#[derive(Debug)]
pub struct Delivery {
    /// `None` once its connection is lost: nothing to settle any more.
    pub tag: Option<Tag>,
    /// Where its body lies; `None` once nothing will read it again, though the delivery is still known.
    pub slot: Option<Slot>,
    /// Length of the body in bytes.
    pub len: u64,
    /// Members not yet finished.
    pub open: u32,
    /// All its members, open or not.
    pub members: u32,
    /// What becomes of it after its last member: what the neediest of them asks for ([`Delivery::need`]).
    pub how: Settlement,
    /// When it arrived, or came again.
    pub arrived: Time,
}

impl Delivery {
    /// A member needs this to become of the delivery. Giving it up outweighs giving it back, which outweighs an ack:
    /// other members may come twice, and none is lost.
    pub fn need(&mut self, how: Settlement) {
        self.how = match (self.how, how) {
            (Settlement::Reject, _) | (_, Settlement::Reject) => Settlement::Reject,
            (Settlement::Requeue, _) | (_, Settlement::Requeue) => Settlement::Requeue,
            (Settlement::Ack, Settlement::Ack) => Settlement::Ack,
        };
    }
}

/// Where a message is.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// Decoded, not given to any worker.
    Waiting,
    /// Given to a worker; it may have results on their way already.
    Running(Running),
    /// Its handler has ended; its results are on their way.
    Publishing,
    /// Everything it produced is confirmed, but its delivery was lost: a redelivery adopts it until then.
    Finished {
        /// When it is forgotten.
        until: Time,
    },
}

/// A call that was given to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// To whom.
    pub worker: WorkerId,
    /// When it was cancelled for its time, if it was.
    pub cancelled: Option<Time>,
}

/// One message in flight.
#[derive(Debug)]
pub struct Message {
    /// The delivery that it belongs to.
    pub delivery: DeliveryId,
    /// Where it is.
    pub state: State,
    /// Its head as it arrived.
    pub head: Head,
    /// Its payload, within the body (or within `rebuilt`).
    pub payload: Payload,
    /// A slot of its own, when the payload had to be rebuilt from base64.
    pub rebuilt: Option<Slot>,
    /// How it arrived.
    pub content_type: ContentType,
    /// It runs alone.
    pub suspect: bool,
    /// Times that it killed its worker alone, including those told by its head.
    pub crashes: u32,
    /// Results so far: the index of the next child.
    pub children: u32,
    /// Publishes not yet confirmed.
    pub unconfirmed: u32,
    /// Why it will fail once its handler has ended, though that may go well.
    pub doomed: Option<(&'static str, ErrorInfo)>,
    /// How it ended, once it has.
    pub ending: Ending,
    /// When it arrived.
    pub arrived: Time,
    /// From when on it is of no use any more.
    pub deadline: Option<Time>,
}

/// How a message ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Not yet.
    Open,
    /// Its results are on.
    Success,
    /// Its handler ended it without a result.
    Empty,
    /// It was consumed by an end actor.
    Consumed,
    /// It is in the failure sink.
    Error,
    /// It is in the failure sink because its deadline passed.
    Expired,
    /// It is in the actor's own queue again, to be run again.
    Retried,
    /// It is in the actor's own queue again, because its time has not come.
    Delayed,
    /// Its attempts are used up, and it goes on where its policy says.
    Routed,
}

/// For whom a publish is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The next actor.
    Next,
    /// The success sink.
    Sink,
    /// The failure sink.
    Sump,
    /// Whoever waits for an answer: best effort.
    Reply,
    /// The actor's own queue: run it again, with its charge written down.
    Again,
    /// The actor that its retry policy names for what has used up its attempts.
    Recovery,
}

/// One publish that is not yet confirmed.
#[derive(Debug)]
pub struct Publication {
    /// What it was made for.
    pub message: MessageId,
    /// For whom.
    pub purpose: Purpose,
    /// Full name of the target queue.
    pub queue: Rc<str>,
    /// How the body is encoded.
    pub content_type: ContentType,
    /// The message's id.
    pub id: String,
    /// Prefix and suffix of the body, one after the other.
    pub frame: Vec<u8>,
    /// Where in `frame` the suffix begins.
    pub split: usize,
    /// The payload.
    pub parts: Vec<Part>,
    /// The result that the parts lie in, if any.
    pub output: Option<OutputId>,
    /// Length of the whole body in bytes.
    pub bytes: u64,
    /// The broker is to deliver it no sooner.
    pub delay: Option<Duration>,
    /// Tries so far.
    pub tries: u32,
    /// When it was last handed to the transport; for the latency of confirms.
    pub sent: Time,
}

/// Everything in flight.
#[derive(Debug, Default)]
pub struct Flight {
    /// Messages.
    pub messages: Slab<Message>,
    /// Deliveries.
    pub deliveries: Slab<Delivery>,
    /// Publishes.
    pub publications: Slab<Publication>,
}
