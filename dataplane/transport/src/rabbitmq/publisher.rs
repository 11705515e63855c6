//! The publishing connection: publishes out, confirms and returns in; and queues declared, through [`Topology`].
//!
//! Takes publishes and frames (as a [`Frames`]); gives exactly one [`Event::Published`] each, and [`Event::Blocked`].
//! Never blocks. A return says nothing of which publish it was but what that publish carries, so each carries its
//! number; the confirm that follows a return is the end of it, as unroutable.

use super::handshake::{CHANNEL, TOPOLOGY_CHANNEL};
use super::link::{Frames, Link, LinkError};
use super::ordered::Ordered;
use super::topology::Topology;
use crate::amqp::encode::SEQUENCE_HEADER;
use crate::amqp::frame::Frame;
use crate::amqp::method::Method;
use crate::amqp::outbox::Outbox;
use crate::amqp::wire::Value;
use crate::amqp::{encode, id};
use crate::api::{Event, Memory, Outcome, Publish, Token};

/// A publish without its confirm.
#[derive(Clone, Copy, Debug)]
struct Open {
    token: Token,
    len: u64,
    returned: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// The number of the last publish: the broker counts along.
    sequence: u64,
    open: Ordered<Open>,
    /// A return whose header comes next.
    returning: bool,
    blocked: bool,
    pub(crate) topology: Topology,
}

impl Publisher {
    pub(crate) fn new(topology: Topology) -> Self {
        Self { sequence: 0, open: Ordered::default(), returning: false, blocked: false, topology }
    }

    /// Puts a message into the outbox of its connection.
    pub(crate) fn publish(&mut self, message: &Publish<'_>, link: &mut Link) {
        self.sequence += 1;
        encode::publish(&mut link.out, CHANNEL, link.frame_max, self.sequence, message);
        self.open.push(self.sequence, Open { token: message.token, len: message.body.len(), returned: false });
    }

    /// The connection is lost: answers every publish that is open, those longer than `limit` as too large.
    pub(crate) fn end(mut self, limit: Option<u64>, events: &mut Vec<Event>) -> Topology {
        self.open.take_through(u64::MAX, |open| {
            let outcome = match limit {
                Some(limit) if open.len > limit => Outcome::TooLarge(limit),
                _ => Outcome::Lost,
            };
            events.push(Event::Published { token: open.token, outcome });
        });
        if self.blocked {
            events.push(Event::Blocked(false));
        }
        self.topology
    }

    fn method(&mut self, method: &Method<'_>, out: &mut Outbox, events: &mut Vec<Event>) -> Result<(), LinkError> {
        match *method {
            Method::Ack { delivery_tag, multiple } => self.confirm(delivery_tag, multiple, true, events),
            Method::Nack { delivery_tag, multiple } => self.confirm(delivery_tag, multiple, false, events),
            Method::Return { .. } => self.returning = true,
            Method::ChannelFlow { active } => out.own(|out| encode::flow_ok(out, CHANNEL, active)),
            Method::ChannelClose(close) => {
                return Err(LinkError::ChannelClosed { code: close.code, why: close.describe() });
            }
            _ => return Err(LinkError::Unexpected("on the channel of publishes")),
        }
        Ok(())
    }

    fn confirm(&mut self, number: u64, multiple: bool, taken: bool, events: &mut Vec<Event>) {
        let mut answer = |open: Open| {
            let outcome = match (taken, open.returned) {
                (_, true) => Outcome::Unroutable,
                (true, false) => Outcome::Confirmed,
                (false, false) => Outcome::Refused("the queue is full or not available".to_owned()),
            };
            events.push(Event::Published { token: open.token, outcome });
        };
        if multiple {
            // 0 stands for all, see the specification of `basic.ack`.
            let last = if number == 0 { u64::MAX } else { number };
            self.open.take_through(last, answer);
        } else if let Some(open) = self.open.take(number) {
            answer(open);
        }
    }
}

impl Frames for Publisher {
    fn frame(
        &mut self,
        frame: Frame<'_>,
        out: &mut Outbox,
        _memory: &mut dyn Memory,
        events: &mut Vec<Event>,
    ) -> Result<(), LinkError> {
        match frame {
            Frame::Method { channel: CHANNEL, method } => return self.method(&method, out, events),
            Frame::Method { channel: TOPOLOGY_CHANNEL, method } => return self.topology.method(&method, out, events),
            Frame::Header { channel: CHANNEL, header } if self.returning => {
                self.returning = false;
                if let Some(Value::Int(number)) = header.headers.get(SEQUENCE_HEADER)
                    && let Some(open) = self.open.get_mut(number as u64)
                {
                    open.returned = true;
                }
            }
            // The body of a return.
            Frame::Body { channel: CHANNEL, .. } | Frame::Heartbeat => {}
            Frame::Method { channel: 0, method: Method::ConnectionBlocked { .. } } => {
                self.blocked = true;
                events.push(Event::Blocked(true));
            }
            Frame::Method { channel: 0, method: Method::ConnectionUnblocked } => {
                self.blocked = false;
                events.push(Event::Blocked(false));
            }
            Frame::Method { channel: 0, method: Method::ConnectionClose(close) } => {
                out.own(|out| encode::bare(out, 0, id::CONNECTION_CLOSE_OK));
                return Err(LinkError::Closed { code: close.code, why: close.describe() });
            }
            _ => return Err(LinkError::Unexpected("on the publishing connection")),
        }
        Ok(())
    }

    fn paused(&self) -> bool {
        false
    }

    fn body_target<'m>(&self, _channel: u16, _memory: &'m mut dyn Memory) -> Option<&'m mut [u8]> {
        None
    }

    fn body_read(&mut self, _len: usize, _events: &mut Vec<Event>) {}
}
