//! The client of the simulated broker.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use super::Fault;
use super::world::{BODY_MAX, Connection, Message, Request, Spec, World};
use crate::{
    Delays, Delivery, Event, Limits, Memory, Op, Outcome, Part, Publish, Redelivery, Room, Tag, Token, Transport,
};

/// How long a client waits before it connects, and connects again.
const CONNECTING: Duration = Duration::from_millis(10);

/// A publish whose parts have not been read yet.
struct Unread {
    token: Token,
    queue: String,
    message: Message,
    parts: Vec<Part>,
    suffix: Vec<u8>,
    delay: Option<Duration>,
    id_len: usize,
}

pub(crate) struct Reference {
    world: Rc<RefCell<World>>,
    id: u32,
    epoch: u32,
    connected: bool,
    connect_at: Duration,
    declares: Vec<Spec>,
    consume: Option<(String, u32)>,
    consumed: Option<(String, u32)>,
    requests: Vec<Request>,
    unread: Vec<Unread>,
    open: BTreeSet<Token>,
    events: VecDeque<Event>,
}

impl Reference {
    pub(super) fn new(world: Rc<RefCell<World>>) -> Self {
        let id = world.borrow().connections.keys().next_back().map_or(1, |last| last + 1);
        let connect_at = world.borrow().now + CONNECTING;
        world.borrow_mut().connections.insert(id, Connection::default());
        Self {
            world,
            id,
            epoch: 0,
            connected: false,
            connect_at,
            declares: Vec::new(),
            consume: None,
            consumed: None,
            requests: Vec::new(),
            unread: Vec::new(),
            open: BTreeSet::new(),
            events: VecDeque::new(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.world.borrow().has(fault)
    }

    fn publish(&mut self, publish: Publish<'_>) {
        let Publish { token, queue, content_type, message_id, body, delay } = publish;
        let outcome = if !self.connected {
            if self.has(Fault::ForgetsEarlyPublishes) {
                return;
            }
            Outcome::Lost
        } else if body.len() > BODY_MAX && !self.has(Fault::TakesTooLarge) {
            Outcome::TooLarge(BODY_MAX)
        } else {
            let redelivery = Redelivery { redelivered: false, lost: Some(0) };
            self.open.insert(token);
            self.unread.push(Unread {
                token,
                queue: queue.to_owned(),
                message: Message { body: body.prefix.to_vec(), content_type, redelivery, durable: true },
                parts: body.parts.to_vec(),
                suffix: if self.has(Fault::DropsSuffix) { Vec::new() } else { body.suffix.to_vec() },
                delay,
                id_len: message_id.len(),
            });
            return;
        };
        self.events.push_back(Event::Published { token, outcome });
    }

    fn connect(&mut self) {
        self.connected = true;
        if self.epoch == 0 || !self.has(Fault::ReusesEpochs) {
            self.epoch += 1;
        }
        let mut connection = Connection::default();
        connection.alive = true;
        connection.inbox.extend(self.declares.iter().cloned().map(Request::Declare));
        let resume = match self.epoch {
            0 | 1 => self.consume.clone(),
            _ if self.has(Fault::ForgetsToConsume) => None,
            _ if self.has(Fault::ConsumesUnasked) => self.consumed.clone(),
            _ => self.consume.clone(),
        };
        connection.inbox.extend(resume.map(|(queue, window)| Request::Consume { queue, window }));
        self.world.borrow_mut().connections.insert(self.id, connection);
        self.events.push_back(Event::Connected { epoch: self.epoch });
    }

    fn lost(&mut self) {
        self.connected = false;
        self.connect_at = self.world.borrow().now + CONNECTING;
        if self.has(Fault::NeverReconnects) {
            self.connect_at = Duration::MAX;
        }
        self.requests.clear();
        self.unread.clear();
        let lost = Event::Lost { epoch: self.epoch, why: "the connection broke".into() };
        let open = std::mem::take(&mut self.open);
        let answers = open.into_iter().map(|token| Event::Published { token, outcome: Outcome::Lost });
        if self.has(Fault::TellsLossFirst) {
            self.events.push_back(lost);
            self.events.extend(answers);
        } else {
            self.events.extend(answers);
            self.events.push_back(lost);
        }
    }

    fn take_answers(&mut self) {
        let world = Rc::clone(&self.world);
        let mut world = world.borrow_mut();
        let Some(connection) = world.connections.get_mut(&self.id) else { return };
        while let Some(answer) = connection.answers.pop_front() {
            if let Event::Published { token, .. } = &answer {
                self.open.remove(token);
            }
            if answer == (Event::Canceled { asked: false }) {
                connection.inbox.extend(self.declares.iter().cloned().map(Request::Declare));
                let again = self.consume.clone();
                connection.inbox.extend(again.map(|(queue, window)| Request::Consume { queue, window }));
            }
            self.events.push_back(answer);
        }
    }

    fn take_deliveries(&mut self, memory: &mut dyn Memory) {
        let world = Rc::clone(&self.world);
        let mut world = world.borrow_mut();
        let (drops, skips) = (world.has(Fault::NoRoomDrops), world.has(Fault::SkipsOversize));
        let leaks = world.has(Fault::LeaksRoom);
        let Some(connection) = world.connections.get_mut(&self.id) else { return };
        while let Some((number, message)) = connection.deliveries.front() {
            let tag = Tag { epoch: self.epoch, number: *number };
            let len = message.body.len() as u64;
            match memory.reserve(len) {
                Room::Granted(slot) => {
                    memory.slot_mut(slot).copy_from_slice(&message.body);
                    self.events.push_back(Event::Delivered(Delivery {
                        tag,
                        slot,
                        len,
                        content_type: message.content_type,
                        redelivery: message.redelivery,
                    }));
                }
                Room::Later if drops => {}
                Room::Later => return,
                Room::TooLarge if skips => {}
                Room::TooLarge => {
                    if leaks {
                        let _ = memory.reserve(1);
                    }
                    self.events.push_back(Event::Oversize { tag, len });
                }
            }
            connection.deliveries.pop_front();
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.world.borrow_mut().lose(self.id);
    }
}

impl Transport for Reference {
    fn submit(&mut self, op: Op<'_>) {
        match op {
            Op::Declare(spec) => {
                let spec = Spec {
                    queue: spec.queue.to_owned(),
                    dead_letter: spec.dead_letter.map(str::to_owned),
                    delivery_limit: spec.delivery_limit,
                };
                self.requests.push(Request::Declare(spec.clone()));
                let kept = self.connected || !self.has(Fault::ForgetsEarlyDeclares);
                if kept && !self.has(Fault::NeverDeclaresAgain) {
                    self.declares.push(spec);
                }
            }
            Op::Consume { queue, window } => {
                self.consume = Some((queue.to_owned(), window));
                self.consumed.clone_from(&self.consume);
                self.requests.push(Request::Consume { queue: queue.to_owned(), window });
            }
            Op::Cancel => {
                self.consume = None;
                self.requests.push(Request::Cancel);
            }
            Op::Publish(publish) => self.publish(publish),
            Op::Settle { tag, how } => {
                if tag.epoch == self.epoch || self.has(Fault::HonoursVoidTags) {
                    self.requests.push(Request::Settle { number: tag.number, how });
                }
            }
            Op::Extend { tag, .. } => self.requests.push(Request::Extend { number: tag.number }),
            Op::Depth { queue } => self.requests.push(Request::Depth(queue.to_owned())),
        }
        if !self.connected {
            // Declarations and consuming are remembered, publishes answered; the rest has no connection to act on.
            self.requests.clear();
        }
    }

    fn flush(&mut self, memory: &mut dyn Memory) {
        if !self.connected {
            return;
        }
        let late = self.has(Fault::ReadsPartsLate);
        let corrupt_from = if late { self.unread.len() / 2 } else { usize::MAX };
        for (index, mut unread) in std::mem::take(&mut self.unread).into_iter().enumerate() {
            if index >= corrupt_from {
                // Answered now, read at the next flush: by then the parts are somebody else's.
                self.events.push_back(Event::Published { token: unread.token, outcome: Outcome::Confirmed });
                self.open.remove(&unread.token);
                self.unread.push(unread);
                continue;
            }
            unread.parts.iter().for_each(|part| memory.copy_part(*part, &mut unread.message.body));
            unread.message.body.append(&mut unread.suffix);
            let Unread { token, queue, message, delay, id_len, .. } = unread;
            self.requests.push(Request::Publish { token, queue, message, delay, id_len });
        }
        if let Some(connection) = self.world.borrow_mut().connections.get_mut(&self.id) {
            connection.inbox.extend(self.requests.drain(..));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, memory: &mut dyn Memory, events: &mut Vec<Event>) {
        let alive = self.world.borrow().connections.get(&self.id).is_some_and(|connection| connection.alive);
        if self.connected && !alive {
            self.lost();
        } else if !self.connected && self.world.borrow().now >= self.connect_at {
            self.connect();
        } else if self.connected {
            self.take_deliveries(memory);
            let stalled = self.world.borrow().connections.get(&self.id).is_some_and(|c| !c.deliveries.is_empty());
            let waits = self.has(Fault::NoRoomStallsAnswers) || self.has(Fault::CancelWaitsForRoom);
            if !(stalled && waits) {
                self.take_answers();
            }
        }
        let mut world = self.world.borrow_mut();
        if !self.connected && self.connect_at != Duration::MAX {
            world.timers.push((self.connect_at, cx.waker().clone()));
        }
        if let Some(connection) = world.connections.get_mut(&self.id) {
            connection.waker = Some(cx.waker().clone());
        }
        events.extend(self.events.drain(..));
    }

    fn limits(&self) -> Limits {
        Limits { max_message_bytes: Some(BODY_MAX), delays: Delays::Any, lease: None }
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}
