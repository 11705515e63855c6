//! The broker: queues, connections, and a clock that is moved by hand.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;
use std::time::Duration;

use super::Fault;
use crate::{ContentType, Event, Outcome, Redelivery, Settlement, Token};

#[derive(Clone)]
pub(super) struct Spec {
    pub(super) queue: String,
    pub(super) dead_letter: Option<String>,
    pub(super) delivery_limit: u32,
}

#[derive(Clone)]
pub(super) enum Request {
    Declare(Spec),
    Consume { queue: String, window: u32 },
    Cancel,
    Publish { token: Token, queue: String, message: Message, delay: Option<Duration>, id_len: usize },
    Settle { number: u64, how: Settlement },
    Extend { number: u64 },
    Depth(String),
}

#[derive(Clone)]
pub(super) struct Message {
    pub(super) body: Vec<u8>,
    pub(super) content_type: ContentType,
    pub(super) redelivery: Redelivery,
    pub(super) durable: bool,
}

#[derive(Default)]
struct Queue {
    dead_letter: Option<String>,
    delivery_limit: u32,
    ready: VecDeque<Message>,
    delayed: Vec<(Duration, Message)>,
}

#[derive(Default)]
pub(super) struct Connection {
    pub(super) alive: bool,
    pub(super) waker: Option<Waker>,
    pub(super) inbox: VecDeque<Request>,
    pub(super) answers: VecDeque<Event>,
    pub(super) deliveries: VecDeque<(u64, Message)>,
    consume: Option<(String, u32)>,
    canceled: bool,
    held: BTreeMap<u64, (String, Message)>,
    next_number: u64,
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) blocked: bool,
    pub(super) connections: BTreeMap<u32, Connection>,
    pub(super) timers: Vec<(Duration, Waker)>,
    fault: Option<Fault>,
    queues: BTreeMap<String, Queue>,
    acknowledged: Vec<(String, Message)>,
    published: u64,
}

/// The limit on bodies that [`crate::Transport::limits`] tells.
pub(super) const BODY_MAX: u64 = 4 << 20;

impl World {
    pub(super) fn new(fault: Option<Fault>) -> Self {
        Self {
            now: Duration::ZERO,
            blocked: false,
            connections: BTreeMap::new(),
            timers: Vec::new(),
            fault,
            queues: BTreeMap::new(),
            acknowledged: Vec::new(),
            published: 0,
        }
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Moves the clock to the next thing that is due, or to `deadline`. Whether something was due.
    pub(super) fn pass_time(&mut self, deadline: Duration) -> bool {
        let delayed = self.queues.values().flat_map(|queue| queue.delayed.iter().map(|(at, _)| *at));
        let next = self.timers.iter().map(|(at, _)| *at).chain(delayed).min();
        let Some(next) = next.filter(|next| *next <= deadline) else {
            self.now = deadline;
            return false;
        };
        self.now = self.now.max(next);
        for (_, waker) in self.timers.extract_if(.., |(at, _)| *at <= self.now) {
            waker.wake();
        }
        self.run();
        true
    }

    /// Does everything that can be done now.
    pub(super) fn run(&mut self) {
        let clients: Vec<u32> = self.connections.keys().copied().collect();
        for client in &clients {
            while let Some(request) = self.next_request(*client) {
                self.serve(*client, request);
            }
        }
        for queue in self.queues.values_mut() {
            for (_, message) in queue.delayed.extract_if(.., |(at, _)| *at <= self.now) {
                queue.ready.push_back(message);
            }
        }
        clients.iter().for_each(|client| self.deliver(*client));
        let silent = self.has(Fault::NeverWakes);
        for connection in self.connections.values_mut() {
            let news = !connection.answers.is_empty() || !connection.deliveries.is_empty();
            if news
                && !silent
                && let Some(waker) = connection.waker.take()
            {
                waker.wake();
            }
        }
    }

    fn next_request(&mut self, client: u32) -> Option<Request> {
        let connection = self.connections.get_mut(&client).filter(|connection| connection.alive)?;
        let held_up = self.blocked && matches!(connection.inbox.front(), Some(Request::Publish { .. }));
        if held_up && self.fault != Some(Fault::ConfirmsWhileBlocked) {
            return None;
        }
        connection.inbox.pop_front()
    }

    fn serve(&mut self, client: u32, request: Request) {
        let answer = match request {
            Request::Declare(spec) => Some(self.declare(spec)),
            Request::Consume { queue, window } => {
                self.consume(client, queue, window);
                None
            }
            Request::Cancel => {
                self.cancel(client);
                Some(Event::Canceled { asked: true })
            }
            Request::Publish { token, queue, message, delay, id_len } => {
                self.publish(&queue, message, delay, id_len).map(|outcome| Event::Published { token, outcome })
            }
            Request::Settle { number, how } => {
                self.settle(client, number, how);
                None
            }
            Request::Extend { number } => {
                if self.has(Fault::ExtendGivesBack) {
                    self.settle(client, number, Settlement::Requeue);
                }
                None
            }
            Request::Depth(queue) => Some(self.depth(queue)),
        };
        let twice = self.has(Fault::AnswersTwice) && self.published % 100 == 99;
        let Some(connection) = self.connections.get_mut(&client) else { return };
        if let Some(answer) = answer {
            if twice && matches!(answer, Event::Published { .. }) {
                connection.answers.push_back(answer.clone());
            }
            connection.answers.push_back(answer);
        }
    }

    fn declare(&mut self, spec: Spec) -> Event {
        if !self.has(Fault::DeclaresNothing) {
            if let Some(dead) = spec.dead_letter.clone().filter(|_| !self.has(Fault::DeclaresNoDeadLetters)) {
                self.queues.entry(dead).or_insert_with(|| Queue { delivery_limit: u32::MAX, ..Queue::default() });
            }
            let purge = self.has(Fault::RedeclaringPurges);
            let queue = self.queues.entry(spec.queue.clone()).or_insert_with(|| Queue {
                dead_letter: spec.dead_letter,
                delivery_limit: spec.delivery_limit,
                ..Queue::default()
            });
            if purge {
                queue.ready.clear();
            }
        }
        Event::Declared { queue: spec.queue, differs: None }
    }

    fn consume(&mut self, client: u32, queue: String, window: u32) {
        let keep_window = self.has(Fault::IgnoresWindowChange);
        let for_ever = self.has(Fault::CancelIsForEver);
        let Some(connection) = self.connections.get_mut(&client) else { return };
        if for_ever && connection.canceled {
            return;
        }
        match &mut connection.consume {
            Some(_) if keep_window => {}
            consume => *consume = Some((queue, window)),
        }
    }

    fn cancel(&mut self, client: u32) {
        let deaf = self.has(Fault::DeliversAfterCancel);
        let give_back = self.has(Fault::CancelGivesBack);
        let wait = self.has(Fault::CancelWaitsForRoom);
        let Some(connection) = self.connections.get_mut(&client) else { return };
        connection.canceled = true;
        if !deaf {
            connection.consume = None;
        }
        // What is on its way goes back, so that nothing follows the answer.
        if wait {
            return;
        }
        let on_the_way: Vec<u64> = connection.deliveries.drain(..).map(|(number, _)| number).collect();
        let back = if give_back { connection.held.keys().copied().collect() } else { on_the_way };
        for number in back {
            self.settle(client, number, Settlement::Requeue);
        }
    }

    fn publish(
        &mut self,
        queue: &str,
        mut message: Message,
        delay: Option<Duration>,
        id_len: usize,
    ) -> Option<Outcome> {
        self.published += 1;
        if self.has(Fault::ForgetsAnAnswer) && self.published.is_multiple_of(500) {
            return None;
        }
        if !self.queues.contains_key(queue) {
            return match self.fault {
                Some(Fault::ConfirmsUnroutable) => Some(Outcome::Confirmed),
                Some(Fault::SwallowsUnroutable) => None,
                _ => Some(Outcome::Unroutable),
            };
        }
        if self.blocked || (self.has(Fault::DropsLongIds) && id_len > 255) {
            return Some(Outcome::Confirmed);
        }
        if self.has(Fault::CorruptsLargeBodies) && message.body.len() > 65_536 {
            message.body[65_535] ^= 1;
        }
        if self.has(Fault::ForgetsContentType) {
            message.content_type = ContentType::Json;
        }
        message.durable = !self.has(Fault::ConfirmsBeforeDurable);
        let (early, reorders) = (self.has(Fault::DelaysTooLittle), self.has(Fault::Reorders));
        if let Some(queue) = self.queues.get_mut(queue) {
            match delay {
                Some(delay) => queue.delayed.push((self.now + if early { delay / 2 } else { delay }, message)),
                None if reorders => queue.ready.push_front(message),
                None => queue.ready.push_back(message),
            }
        }
        Some(Outcome::Confirmed)
    }

    fn settle(&mut self, client: u32, number: u64, how: Settlement) {
        let Some(connection) = self.connections.get_mut(&client) else { return };
        if self.fault == Some(Fault::AckIsMultiple) && how == Settlement::Ack {
            connection.held.retain(|held, _| *held >= number);
        }
        if self.fault == Some(Fault::AckDoesNothing) && how == Settlement::Ack {
            return;
        }
        let Some((queue, mut message)) = connection.held.remove(&number) else { return };
        match how {
            Settlement::Ack if self.has(Fault::AckIsNotDurable) => self.acknowledged.push((queue, message)),
            Settlement::Ack => {}
            Settlement::Requeue if self.has(Fault::RequeueLoses) => {}
            Settlement::Requeue => {
                message.redelivery.redelivered = !self.has(Fault::RequeueUnmarked);
                self.put_back(&queue, message);
            }
            Settlement::Reject => self.dead_letter(&queue, message),
        }
    }

    fn put_back(&mut self, queue: &str, message: Message) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.ready.push_front(message);
        }
    }

    fn dead_letter(&mut self, queue: &str, message: Message) {
        let target = self.queues.get(queue).and_then(|queue| queue.dead_letter.clone());
        if !self.has(Fault::RejectDrops)
            && let Some(target) = target.and_then(|target| self.queues.get_mut(&target))
        {
            target.ready.push_back(message);
        }
    }

    fn depth(&self, queue: String) -> Event {
        let Some(found) = self.queues.get(&queue) else {
            if self.has(Fault::MissingHasDepth) {
                return Event::Depth { queue, ready: 0, unsettled: None };
            }
            return Event::DeclareFailed { queue, why: "there is no such queue".into() };
        };
        let held = self.connections.values().flat_map(|c| c.held.values()).filter(|(name, _)| *name == queue).count();
        let ready = found.ready.len() + if self.has(Fault::DepthCountsHeld) { held } else { 0 };
        Event::Depth { queue, ready: ready as u64, unsettled: Some(held as u64) }
    }

    fn deliver(&mut self, client: u32) {
        let (no_window, to_all) = (self.has(Fault::IgnoresWindow), self.has(Fault::DeliversToAll));
        let Some(connection) = self.connections.get_mut(&client).filter(|connection| connection.alive) else { return };
        let Some((name, window)) = connection.consume.clone() else { return };
        let Some(queue) = self.queues.get_mut(&name) else { return };
        let mut copies = Vec::new();
        while no_window || connection.held.len() < window as usize {
            let Some(message) = queue.ready.pop_front() else { break };
            connection.next_number += 1;
            connection.held.insert(connection.next_number, (name.clone(), message.clone()));
            copies.push(message.clone());
            connection.deliveries.push_back((connection.next_number, message));
        }
        if to_all {
            let others = self.connections.iter_mut().filter(|(other, _)| **other != client).map(|(_, other)| other);
            for other in others.filter(|other| other.consume.as_ref().is_some_and(|(queue, _)| *queue == name)) {
                for message in &copies {
                    other.next_number += 1;
                    other.held.insert(other.next_number, (name.clone(), message.clone()));
                    other.deliveries.push_back((other.next_number, message.clone()));
                }
            }
        }
    }

    /// What a lost connection held goes back, charged.
    pub(super) fn lose(&mut self, client: u32) {
        let Some(mut connection) = self.connections.remove(&client) else { return };
        if let Some(waker) = connection.waker.take() {
            waker.wake();
        }
        for (_, (queue, mut message)) in connection.held.into_iter().rev() {
            if self.has(Fault::CrashLosesHeld) {
                continue;
            }
            if !self.has(Fault::CountsNoLosses) {
                message.redelivery.lost = message.redelivery.lost.map(|lost| lost + 1);
            }
            message.redelivery.redelivered = !self.has(Fault::CrashUnmarked);
            let limit = self.queues.get(&queue).map_or(u32::MAX, |queue| queue.delivery_limit);
            let over = message.redelivery.lost.is_some_and(|lost| lost >= limit);
            if over && !self.has(Fault::IgnoresLimit) {
                self.dead_letter(&queue, message);
            } else {
                self.put_back(&queue, message);
            }
        }
    }

    pub(super) fn break_connections(&mut self) {
        let clients: Vec<u32> = self.connections.keys().copied().collect();
        clients.into_iter().for_each(|client| self.lose(client));
    }

    pub(super) fn restart(&mut self) {
        self.break_connections();
        for (queue, message) in std::mem::take(&mut self.acknowledged) {
            self.put_back(&queue, message);
        }
        for queue in self.queues.values_mut() {
            queue.ready.retain(|message| message.durable);
        }
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.queues.remove(name);
        for connection in self.connections.values_mut() {
            if connection.consume.take_if(|(queue, _)| queue == name).is_some() {
                connection.held.clear();
                connection.answers.push_back(Event::Canceled { asked: false });
            }
        }
    }
}
