//! The publishing connection: publishes out, confirms and returns in; and queues declared, through [`Topology`].
//!
//! Takes publishes and frames (as a [`Frames`]); gives exactly one [`Event::Published`] each, and [`Event::Blocked`].
//! Never blocks. A return says nothing of which publish it was but what that publish carries, so each carries its
//! number; the confirm that follows a return is the end of it, as unroutable. What is to be delayed goes through a
//! [`Ladder`], and may have to wait there until its rung is declared; everything else passes it.

use super::handshake::{CHANNEL, TOPOLOGY_CHANNEL};
use super::ladder::{Ladder, Rung};
use super::link::{Frames, LinkError};
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
    /// Where it waits, when it is delayed.
    rung: Option<Rung>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// The number of the last publish: the broker counts along.
    sequence: u64,
    frame_max: u32,
    open: Ordered<Open>,
    /// A return whose header comes next.
    returning: bool,
    blocked: bool,
    pub(crate) topology: Topology,
    ladder: Ladder,
}

impl Publisher {
    pub(crate) fn new(frame_max: u32, topology: Topology, ladder: Ladder) -> Self {
        Self { sequence: 0, frame_max, open: Ordered::default(), returning: false, blocked: false, topology, ladder }
    }

    /// Puts a message into the outbox of its connection, unless it has to wait until its rung is there.
    pub(crate) fn publish(&mut self, message: &Publish<'_>, rung: Option<Rung>, out: &mut Outbox) {
        match rung {
            Some(rung) if !self.ladder.is_there(rung, message.queue) => {
                for job in self.ladder.hold(message, rung) {
                    self.topology.add(job, out);
                }
            }
            _ => self.send(message, rung, out),
        }
    }

    fn send(&mut self, message: &Publish<'_>, rung: Option<Rung>, out: &mut Outbox) {
        self.sequence += 1;
        let exchange = rung.map(|rung| self.ladder.exchange(rung)).unwrap_or_default();
        encode::publish(out, CHANNEL, self.frame_max, self.sequence, &exchange, message);
        let open = Open { token: message.token, len: message.body.len(), returned: false, rung };
        self.open.push(self.sequence, open);
    }

    /// Something is known of the ladder: goes on with what waited for it.
    fn advance(&mut self, out: &mut Outbox) {
        let (leave, jobs) = self.ladder.advance();
        for held in leave {
            self.send(&held.message(), Some(held.rung), out);
        }
        for job in jobs {
            self.topology.add(job, out);
        }
    }

    /// Whether a publish waits for anything but the socket.
    pub(crate) fn is_holding(&self) -> bool {
        self.ladder.is_holding()
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
        self.ladder.end(events);
        if self.blocked {
            events.push(Event::Blocked(false));
        }
        self.topology
    }

    fn method(&mut self, method: &Method<'_>, out: &mut Outbox, events: &mut Vec<Event>) -> Result<(), LinkError> {
        match *method {
            Method::Ack { delivery_tag, multiple } => self.confirm(delivery_tag, multiple, true, out, events),
            Method::Nack { delivery_tag, multiple } => self.confirm(delivery_tag, multiple, false, out, events),
            Method::Return { .. } => self.returning = true,
            Method::ChannelFlow { active } => out.own(|out| encode::flow_ok(out, CHANNEL, active)),
            Method::ChannelClose(close) => {
                return Err(LinkError::ChannelClosed { code: close.code, why: close.describe() });
            }
            _ => return Err(LinkError::Unexpected("on the channel of publishes")),
        }
        Ok(())
    }

    fn confirm(&mut self, number: u64, multiple: bool, taken: bool, out: &mut Outbox, events: &mut Vec<Event>) {
        let mut missing = None;
        let answer = |open: Open| {
            let outcome = match (taken, open.returned, open.rung) {
                (_, true, None) => Outcome::Unroutable,
                // Its target may well be there.
                (_, true, Some(rung)) => {
                    missing = Some(rung);
                    Outcome::Refused("the queue for this delay was gone; it is made again".to_owned())
                }
                (true, false, _) => Outcome::Confirmed,
                (false, false, _) => Outcome::Refused("the queue is full or not available".to_owned()),
            };
            events.push(Event::Published { token: open.token, outcome });
        };
        if multiple {
            // 0 stands for all, see the specification of `basic.ack`.
            let last = if number == 0 { u64::MAX } else { number };
            self.open.take_through(last, answer);
        } else {
            self.open.take(number).map(answer);
        }
        if let Some(rung) = missing {
            self.ladder.forget(rung);
            self.advance(out);
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
            Frame::Method { channel: TOPOLOGY_CHANNEL, method } => {
                if let Some(found) = self.topology.method(&method, out, events)? {
                    self.ladder.found(found, events);
                    self.advance(out);
                }
            }
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
