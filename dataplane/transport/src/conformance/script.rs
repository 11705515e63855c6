//! What a case is written in: clients, and the few verbs that it needs of them.
//!
//! Takes a [`Harness`]; gives a [`Script`] whose verbs submit operations and wait for conditions. Blocks in
//! [`Script::wait`] only, under [`WATCHDOG`]. Every event passes through the client's [`Ledger`], which fails the case
//! when a promise is broken that holds at all times.

mod ledger;
mod message;

use std::time::Duration;

use super::{Failure, Harness, HeapMemory, ensure};
use crate::{Event, Op, Outcome, Publish, QueueSpec, Redelivery, Settlement, Tag, Token, Transport};

pub use ledger::{Held, Ledger};
pub use message::Message;

/// Longest wait for one condition, in the harness's time: far above anything seen on a loaded machine.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// Delivery limit of every queue that is declared without saying so: out of reach.
const LIMIT_FAR_AWAY: u32 = 100;

/// Room for everything that a case may hold at once.
const BUDGET: u64 = 256 << 20;

/// Largest body that a client takes where a case does not say otherwise.
const LARGEST: u64 = 128 << 20;

/// A transport with its memory, what it has just said, and what it has said so far.
pub struct Client<T> {
    /// The transport under test.
    pub transport: T,
    /// Where its bodies arrive and its parts lie.
    pub memory: HeapMemory,
    /// What [`Harness::step`] collected; emptied by the script after each step.
    pub events: Vec<Event>,
    /// What has happened to this client.
    pub ledger: Ledger,
}

/// One case in progress. Clients are named by the index that [`Script::client`] returns.
pub struct Script<'h, H: Harness> {
    /// For what only the harness can do.
    pub harness: &'h mut H,
    /// The clients, in the order of their making.
    pub clients: Vec<Client<H::T>>,
    prefix: String,
    next_token: u64,
}

impl<'h, H: Harness> Script<'h, H> {
    /// A script without clients.
    pub fn new(harness: &'h mut H) -> Self {
        let prefix = harness.fresh_prefix();
        Self { harness, clients: Vec::new(), prefix, next_token: 1 }
    }

    /// The full name of this case's queue `word`.
    pub fn queue(&self, word: &str) -> String {
        format!("{}{word}", self.prefix)
    }

    /// A new client, connected.
    pub fn client(&mut self) -> Result<usize, Failure> {
        let client = self.unconnected_client();
        self.wait("the client to connect", |s| Ok(s.ledger(client).connected))?;
        Ok(client)
    }

    /// A new client, as the harness makes it.
    pub fn unconnected_client(&mut self) -> usize {
        let transport = self.harness.connect();
        let memory = HeapMemory::new(BUDGET, LARGEST);
        self.clients.push(Client { transport, memory, events: Vec::new(), ledger: Ledger::default() });
        self.clients.len() - 1
    }

    /// What has happened to a client.
    pub fn ledger(&self, client: usize) -> &Ledger {
        &self.clients[client].ledger
    }

    /// Kills the client that was made last.
    pub fn crash_last(&mut self) {
        if let Some(client) = self.clients.pop() {
            self.harness.crash(client);
        }
    }

    /// Two clients and a queue with its dead-letter queue: the first client consumes with `window`, the second one
    /// publishes. Returns (consumer, publisher, queue).
    pub fn pair(&mut self, window: u32) -> Result<(usize, usize, String), Failure> {
        let publisher = self.client()?;
        let queue = self.queue("work");
        self.declare(publisher, &queue, LIMIT_FAR_AWAY)?;
        let consumer = self.client()?;
        self.consume(consumer, &queue, window);
        Ok((consumer, publisher, queue))
    }

    /// Submits the declaration of `queue` and its dead-letter queue.
    pub fn submit_declare(&mut self, client: usize, queue: &str, delivery_limit: u32) {
        let dead = dead_letter(queue);
        self.clients[client].transport.submit(Op::Declare(QueueSpec {
            queue,
            dead_letter: Some(&dead),
            delivery_limit,
            consumer_timeout: None,
        }));
    }

    /// Declares `queue` with its dead-letter queue and waits for the answer. Returns what differs.
    pub fn declare(&mut self, client: usize, queue: &str, delivery_limit: u32) -> Result<Option<String>, Failure> {
        let before = self.ledger(client).declared.len();
        self.submit_declare(client, queue, delivery_limit);
        let mut answer = None;
        self.wait("a declaration to be answered", |s| {
            let ledger = s.ledger(client);
            ensure!(ledger.failed.iter().all(|(name, _)| name != queue), "declaring {queue} failed");
            answer = ledger.declared.iter().skip(before).find(|(name, _)| name == queue).cloned();
            Ok(answer.is_some())
        })?;
        Ok(answer.and_then(|(_, differs)| differs))
    }

    /// Starts consuming, or changes the window.
    pub fn consume(&mut self, client: usize, queue: &str, window: u32) {
        let client = &mut self.clients[client];
        client.transport.submit(Op::Consume { queue, window });
        client.ledger.consuming(window);
    }

    /// Submits one publish.
    pub fn publish(&mut self, client: usize, queue: &str, message: &Message) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        let client = &mut self.clients[client];
        let parts: Vec<_> = message.parts.iter().map(|bytes| client.memory.put(bytes)).collect();
        client.ledger.open.insert(token.0, parts.clone());
        client.transport.submit(Op::Publish(Publish {
            token,
            queue,
            content_type: message.content_type,
            message_id: &message.id,
            body: crate::Body { prefix: &message.prefix, parts: &parts, suffix: &message.suffix },
            delay: message.delay,
        }));
        token
    }

    /// Waits for the answer to one publish.
    pub fn outcome(&mut self, client: usize, token: Token) -> Result<Outcome, Failure> {
        self.wait("a publish to be answered", |s| Ok(s.ledger(client).answered.contains_key(&token.0)))?;
        self.ledger(client).answered.get(&token.0).cloned().ok_or_else(|| Failure("a publish without an answer".into()))
    }

    /// Publishes all of `messages` and waits until each is confirmed.
    pub fn publish_confirmed(&mut self, client: usize, queue: &str, messages: &[Message]) -> Result<(), Failure> {
        let tokens: Vec<_> = messages.iter().map(|message| self.publish(client, queue, message)).collect();
        for token in tokens {
            let outcome = self.outcome(client, token)?;
            ensure!(outcome == Outcome::Confirmed, "a publish to {queue}, which exists, ended as {outcome:?}");
        }
        Ok(())
    }

    /// Settles a delivery that `client` holds and frees its memory.
    pub fn settle(&mut self, client: usize, tag: Tag, how: Settlement) -> Result<Held, Failure> {
        let client = &mut self.clients[client];
        client.transport.submit(Op::Settle { tag, how });
        let held = client.ledger.settle(tag)?;
        held.free(&mut client.memory);
        Ok(held)
    }

    /// Settles everything that `client` holds, oldest first. Returns it.
    pub fn settle_all(&mut self, client: usize, how: Settlement) -> Result<Vec<Held>, Failure> {
        let tags: Vec<Tag> = self.ledger(client).held.iter().map(|held| held.tag).collect();
        tags.into_iter().map(|tag| self.settle(client, tag, how)).collect()
    }

    /// Waits until `client` holds `count` deliveries.
    pub fn hold(&mut self, client: usize, count: usize) -> Result<(), Failure> {
        self.wait(&format!("{count} deliveries to be held"), |s| Ok(s.ledger(client).held.len() >= count))
    }

    /// Receives and acknowledges until `count` messages have come. Returns them in their order.
    pub fn drain(&mut self, client: usize, count: usize) -> Result<Vec<Held>, Failure> {
        let mut taken = Vec::new();
        self.wait(&format!("{count} messages to come"), |s| {
            taken.append(&mut s.settle_all(client, Settlement::Ack)?);
            Ok(taken.len() >= count)
        })?;
        ensure!(taken.len() == count, "{} messages came where there were {count}", taken.len());
        Ok(taken)
    }

    /// Asks for a depth until it is (`ready`, `unsettled`); a broker that does not tell `unsettled` is not asked it.
    pub fn wait_depth(&mut self, client: usize, queue: &str, ready: u64, unsettled: u64) -> Result<(), Failure> {
        let deadline = self.harness.now() + WATCHDOG;
        loop {
            let before = self.ledger(client).depths.len();
            self.clients[client].transport.submit(Op::Depth { queue });
            self.wait("a depth to be told", |s| Ok(s.ledger(client).depths.len() > before))?;
            let (is_ready, is_unsettled) = self.ledger(client).depths.last().copied().unwrap_or_default();
            if is_ready == ready && is_unsettled.is_none_or(|is| is == unsettled) {
                return Ok(());
            }
            ensure!(
                self.harness.now() < deadline,
                "{queue} holds {is_ready} ready, {is_unsettled:?} unsettled, and not {ready} and {unsettled}"
            );
            // Depths may lag behind on real brokers: no more than a few dozen questions a second.
            self.look_on(Duration::from_millis(20))?;
        }
    }

    /// Waits, under the watchdog, until `done`.
    pub fn wait(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let deadline = self.harness.now() + WATCHDOG;
        loop {
            if done(self)? {
                return Ok(());
            }
            let now = self.harness.now();
            if now >= deadline {
                let state: Vec<String> = self.clients.iter().map(|client| client.ledger.summary()).collect();
                return Err(Failure(format!("waited too long for {what}; clients: {}", state.join("; "))));
            }
            self.step(deadline - now)?;
        }
    }

    /// Watches for a while in which nothing need happen, so that what must not happen is given the time to.
    pub fn quiet(&mut self) -> Result<(), Failure> {
        self.look_on(self.harness.quiet())
    }

    /// Watches for `time`, whatever happens: for conditions that no event announces, asked again in between.
    pub fn look_on(&mut self, time: Duration) -> Result<(), Failure> {
        let end = self.harness.now() + time;
        loop {
            let now = self.harness.now();
            if now >= end {
                return Ok(());
            }
            self.step(end - now)?;
        }
    }

    fn step(&mut self, max: Duration) -> Result<(), Failure> {
        self.harness.step(&mut self.clients, max);
        self.absorb()
    }

    fn absorb(&mut self) -> Result<(), Failure> {
        for client in &mut self.clients {
            for event in std::mem::take(&mut client.events) {
                client.ledger.take(event, &mut client.memory)?;
            }
            ensure!(client.memory.misuses() == 0, "memory was asked for a slot or range that does not exist");
        }
        Ok(())
    }

    /// Ends a case: looks on for a while, then checks that every slot of memory is either held or given back.
    pub fn finish(mut self) -> Result<super::Verdict, Failure> {
        self.quiet()?;
        for client in &self.clients {
            let (out, held) = (client.memory.slots_out(), client.ledger.slots_held());
            ensure!(out == held, "{out} slots of memory are out, though {held} are held");
        }
        Ok(super::Verdict::Passed)
    }
}

/// The dead-letter queue that the suite gives to `queue`.
pub fn dead_letter(queue: &str) -> String {
    format!("{queue}-dlq")
}

/// Whether `held` are exactly `messages`, in any order.
pub fn ensure_same_messages(held: &[Held], messages: &[Message]) -> Result<(), Failure> {
    let mut came: Vec<_> = held.iter().map(|held| (held.content_type.as_str(), &held.body)).collect();
    let bodies: Vec<Vec<u8>> = messages.iter().map(Message::body).collect();
    let mut sent: Vec<_> = messages.iter().zip(&bodies).map(|(m, body)| (m.content_type.as_str(), body)).collect();
    came.sort();
    sent.sort();
    ensure!(came.len() == sent.len(), "{} messages came where {} were sent", came.len(), sent.len());
    for (came, sent) in came.iter().zip(&sent) {
        ensure!(came.0 == sent.0, "a content type became {}", came.0);
        ensure!(came.1 == sent.1, "a body of {} bytes came back different ({} bytes)", sent.1.len(), came.1.len());
    }
    Ok(())
}

/// What a first delivery says of its past.
pub fn ensure_first_time(redelivery: Redelivery) -> Result<(), Failure> {
    ensure!(!redelivery.redelivered, "a first delivery says that it was delivered before");
    ensure!(redelivery.lost.is_none_or(|lost| lost == 0), "a first delivery says that it was lost before");
    Ok(())
}
