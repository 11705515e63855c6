//! Goes through a queue without losing its order or a message.
//!
//! Takes a queue; gives its messages, the oldest first, each once, and takes for each the word what becomes of it: it is
//! acknowledged, or held until the end and then goes back. Blocks on the broker, each wait with a bound. On failure: an
//! error; what was not acknowledged goes back with the connection.
//!
//! What goes back comes again at once, before what was never seen. So all of it is held until the walk ends, and brokers
//! bound what one consumer holds: when a consumer is full, another one goes on behind it.

use crate::broker::{self, Target};
use crate::client::{ANSWER_MAX, Client, Message};
use crate::error::Error;
use asya_transport::{ContentType, Delivery, Event, Outcome, Settlement, Tag, Token};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Deliveries that one consumer holds: AMQP allows 65,535, and one leader of RabbitMQ keeps an index of all of them.
const PAGE: u64 = 20_000;
/// Deliveries that come at once where they are acknowledged one after the other.
const TAKE_WINDOW: u64 = 1_000;
/// The broker says how many there are; they come within milliseconds. When none comes for this long, others took them.
const IDLE_MAX: Duration = Duration::from_secs(2);

/// One consumer and what it holds.
struct Page {
    client: Client,
    held: Vec<Tag>,
}

/// What has happened on the way.
pub enum Step {
    /// A message, which must be acknowledged or held.
    Message(Message),
    /// What a publish came to.
    Published(Token, Outcome),
    /// An acknowledgement did not take: its message is still there.
    StillThere,
}

/// A walk through a queue.
pub struct Walk {
    target: Target,
    queue: String,
    window: u64,
    /// Those that are full.
    full: Vec<Page>,
    /// The one that takes more.
    page: Page,
    waiting: VecDeque<Delivery>,
    /// Messages to look at.
    left: u64,
    /// How many there were at the start.
    there: u64,
    publishing: u64,
    /// Delivered, and neither acknowledged nor held.
    open: Vec<Tag>,
    extend_at: Instant,
    broken: bool,
}

impl Walk {
    /// Begins; looks at `most` messages, and at none that came later. With `take`, most of them are acknowledged at once.
    /// `None` when there is no such queue.
    pub async fn open(target: &Target, queue: &str, most: u64, take: bool) -> Result<Option<Self>, Error> {
        Self::open_with(target, queue, most, if take { TAKE_WINDOW } else { PAGE }).await
    }

    async fn open_with(target: &Target, queue: &str, most: u64, window_max: u64) -> Result<Option<Self>, Error> {
        let mut client = broker::connect(target).await?;
        let Some(depth) = client.depth(queue).await? else { return Ok(None) };
        let left = most.min(depth.ready);
        let window = left.min(window_max);
        consume(&mut client, queue, window);
        Ok(Some(Self {
            target: target.clone(),
            queue: queue.to_owned(),
            window,
            full: Vec::new(),
            page: Page { client, held: Vec::new() },
            waiting: VecDeque::new(),
            left,
            there: depth.ready,
            publishing: 0,
            open: Vec::new(),
            extend_at: Instant::now(),
            broken: false,
        }))
    }

    /// How many messages there were at the start.
    pub fn there(&self) -> u64 {
        self.there
    }

    /// The next step; `None` when all was seen, or, without `look`, when no publish is open.
    pub async fn next(&mut self, look: bool) -> Result<Option<Step>, Error> {
        let step = self.step(look).await;
        self.broken |= step.is_err();
        step
    }

    async fn step(&mut self, look: bool) -> Result<Option<Step>, Error> {
        loop {
            if look && self.left > 0 {
                if let Some(message) = self.take_waiting() {
                    return Ok(Some(Step::Message(message)));
                }
                self.turn_the_page().await?;
            } else if self.publishing == 0 {
                return Ok(None);
            }
            let patience = if self.publishing > 0 { ANSWER_MAX } else { IDLE_MAX };
            let deadline = Instant::now() + patience;
            match self.event_before(deadline).await {
                Some(Event::Delivered(delivery)) => self.waiting.push_back(delivery),
                Some(Event::Published { token, outcome }) => {
                    self.publishing -= 1;
                    return Ok(Some(Step::Published(token, outcome)));
                }
                Some(Event::SettleFailed { tag, .. }) if self.forget(tag) => {}
                Some(Event::SettleFailed { .. }) => return Ok(Some(Step::StillThere)),
                Some(Event::Fatal { why }) => return Err(self.error(why)),
                Some(Event::Lost { why, .. }) => return Err(self.error(format!("the connection was lost: {why}"))),
                Some(_) => {}
                None if self.publishing > 0 => {
                    return Err(self.error(format!("no answer within {} s", ANSWER_MAX.as_secs())));
                }
                None => return Ok(None),
            }
        }
    }

    /// A lease that ran out while its message was held is none to give back.
    fn forget(&mut self, tag: Tag) -> bool {
        let held = self.full.iter_mut().chain([&mut self.page]).find_map(|page| {
            let at = page.held.iter().position(|held| *held == tag)?;
            Some(page.held.swap_remove(at))
        });
        held.is_some()
    }

    fn error(&self, why: String) -> Error {
        Error::Broker { place: self.target.broker.to_string(), why }
    }

    fn take_waiting(&mut self) -> Option<Message> {
        let delivery = self.waiting.pop_front()?;
        let message = self.page.client.take(delivery);
        self.left -= 1;
        self.open.push(message.tag);
        Some(message)
    }

    /// Where a consumer holds all that it may, nothing more comes to it.
    async fn turn_the_page(&mut self) -> Result<(), Error> {
        if self.page.held.len() as u64 >= self.window {
            self.page.client.cancel().await?;
            let mut client = broker::connect(&self.target).await?;
            consume(&mut client, &self.queue, self.window);
            self.full.push(std::mem::replace(&mut self.page, Page { client, held: Vec::new() }));
        }
        Ok(())
    }

    /// The next event of any connection: each needs its turn, or the broker takes it for dead.
    async fn event_before(&mut self, deadline: Instant) -> Option<Event> {
        loop {
            let lease = self.page.client.lease();
            if let Some(lease) = lease.filter(|_| Instant::now() >= self.extend_at) {
                self.extend_all(lease);
            }
            let until = if lease.is_some() { deadline.min(self.extend_at) } else { deadline };
            let event = timeout_at(until, poll_fn(|cx| self.poll_event(cx))).await;
            if let Ok(event) = event {
                return Some(event);
            }
            if Instant::now() >= deadline {
                return None;
            }
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let pages = self.full.iter_mut().chain([&mut self.page]);
        pages.map(|page| page.client.poll_event(cx)).find(Poll::is_ready).unwrap_or(Poll::Pending)
    }

    /// Twice in each lease, so that one that is late does no harm.
    fn extend_all(&mut self, lease: Duration) {
        self.extend_at = Instant::now() + lease / 2;
        for page in self.full.iter_mut().chain([&mut self.page]) {
            page.held.iter().for_each(|tag| page.client.extend(*tag, lease));
        }
        let on_its_way = self.waiting.iter().map(|delivery| delivery.tag).chain(self.open.iter().copied());
        on_its_way.for_each(|tag| self.page.client.extend(tag, lease));
    }

    /// Publishes to a queue.
    pub fn publish(&mut self, queue: &str, content_type: ContentType, id: &str, body: &[u8]) -> Token {
        self.publishing += 1;
        self.page.client.publish(queue, content_type, id, body)
    }

    /// Whether there is a queue of this name.
    pub async fn has(&mut self, queue: &str) -> Result<bool, Error> {
        let depth = self.page.client.depth(queue).await;
        self.broken |= depth.is_err();
        depth.map(|depth| depth.is_some())
    }

    /// A message is done with.
    pub fn acknowledge(&mut self, tag: Tag) {
        self.open.retain(|open| *open != tag);
        self.page.client.settle(tag, Settlement::Ack);
    }

    /// A message is to go back when the walk ends.
    pub fn hold(&mut self, tag: Tag) {
        self.open.retain(|open| *open != tag);
        self.page.held.push(tag);
    }

    /// Ends: everything that was not acknowledged goes back, in its order as far as the broker keeps it. Gives
    /// how many acknowledgements did not take.
    pub async fn close(mut self) -> Result<u64, Error> {
        // A connection that failed has given everything back by itself.
        if self.broken {
            return Ok(0);
        }
        if self.window == 0 {
            return Ok(0);
        }
        // First, or what goes back would come again at once.
        self.page.client.cancel().await?;
        self.page.held.append(&mut self.open);
        for delivery in self.waiting.drain(..) {
            self.page.client.discard(delivery.slot);
            self.page.held.push(delivery.tag);
        }
        let mut void = 0;
        for mut page in self.full.into_iter().chain([self.page]) {
            page.held.sort_unstable();
            void += page.client.give_back(&self.queue, page.held).await?.len() as u64;
        }
        Ok(void)
    }
}

/// An empty queue is not consumed from at all.
fn consume(client: &mut Client, queue: &str, window: u64) {
    if let Some(window) = u32::try_from(window).ok().filter(|window| *window > 0) {
        client.consume(queue, window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::BrokerAt;
    use crate::hosted::Hosted;
    use std::collections::BTreeMap;
    use std::path::Path;

    const QUEUE: &str = "asya-default-x-sump";

    /// A broker of this test's own, with so many messages in one queue.
    async fn with_messages(folder: &Path, count: u64) -> (Hosted, Target) {
        let socket = folder.join("socket");
        let hosted = Hosted::start(&folder.join("store"), &socket, false).unwrap();
        let broker = BrokerAt::Embedded(socket);
        let target =
            Target { namespace: "default".into(), broker, actors: Vec::new(), message_bytes_max: BTreeMap::new() };
        let mut client = broker::connect(&target).await.unwrap();
        client.declare(QUEUE, None).await.unwrap();
        client.declare("other", None).await.unwrap();
        for number in 0..count {
            client.publish(QUEUE, ContentType::Json, "id", number.to_string().as_bytes());
        }
        let mut confirmed = 0;
        while confirmed < count {
            let event = client.event_before(Instant::now() + ANSWER_MAX).await.unwrap();
            confirmed += u64::from(matches!(event, Event::Published { outcome: Outcome::Confirmed, .. }));
        }
        (hosted, target)
    }

    /// Walks to the end, acknowledges those that `take` says after they were published elsewhere; gives all, in order.
    async fn walked(target: &Target, window: u64, take: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut walk = Walk::open_with(target, QUEUE, u64::MAX, window).await.unwrap().unwrap();
        let mut seen = Vec::new();
        let mut sent = BTreeMap::new();
        while let Some(step) = walk.next(true).await.unwrap() {
            match step {
                Step::Message(message) => {
                    let number = std::str::from_utf8(&message.body).unwrap().parse().unwrap();
                    seen.push(number);
                    if take(number) {
                        sent.insert(walk.publish("other", message.content_type, "id", &message.body), message.tag);
                    } else {
                        walk.hold(message.tag);
                    }
                }
                Step::Published(token, outcome) => {
                    assert_eq!(outcome, Outcome::Confirmed);
                    walk.acknowledge(sent.remove(&token).unwrap());
                }
                Step::StillThere => panic!("an acknowledgement did not take"),
            }
        }
        assert!(sent.is_empty());
        assert_eq!(walk.close().await.unwrap(), 0);
        seen
    }

    #[test]
    fn each_message_is_seen_once_and_what_stays_keeps_its_order() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let (hosted, target) = with_messages(folder.path(), 50).await;
            // Many consumers, one behind the other: four messages fill each.
            let seen = walked(&target, 4, |number| number % 5 == 1).await;
            assert_eq!(seen, (0..50).collect::<Vec<u64>>());
            let rest: Vec<u64> = (0..50).filter(|number| number % 5 != 1).collect();
            assert_eq!(walked(&target, PAGE, |_| false).await, rest);
            assert_eq!(walked(&target, 7, |_| true).await, rest);
            assert_eq!(walked(&target, 7, |_| true).await, Vec::<u64>::new());
            let mut client = broker::connect(&target).await.unwrap();
            assert_eq!(client.depth("other").await.unwrap().unwrap().ready, 50);
            assert!(Walk::open(&target, "absent", 1, true).await.unwrap().is_none());
            drop(client);
            hosted.stop().unwrap();
        });
    }

    #[test]
    fn a_walk_that_ends_early_gives_back_what_it_has_not_looked_at() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let (hosted, target) = with_messages(folder.path(), 10).await;
            let mut walk = Walk::open(&target, QUEUE, u64::MAX, false).await.unwrap().unwrap();
            let Some(Step::Message(message)) = walk.next(true).await.unwrap() else { panic!("no message") };
            assert_eq!(message.body, b"0");
            walk.close().await.unwrap();
            assert_eq!(walked(&target, PAGE, |_| false).await, (0..10).collect::<Vec<u64>>());
            hosted.stop().unwrap();
        });
    }
}
