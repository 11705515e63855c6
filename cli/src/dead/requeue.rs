//! `asya dead requeue`.
//!
//! Takes a choice; publishes each chosen message again and takes it out of where it was once the broker has the new one.
//! Blocks on the broker with a bounded number of messages unconfirmed, and on the answer of a person where all is sent.
//! On failure: an account of what was sent; the rest is where it was.

use super::again::{Again, Way};
use super::choice::Chosen;
use super::tally::Tally;
use super::{Source, all_dead_letters, say_where, sources};
use crate::args::DeadRequeue;
use crate::broker::{self, Target};
use crate::client::{Message, unpublished};
use crate::error::Error;
use crate::out;
use crate::send::{self, plural};
use crate::walk::{Step, Walk};
use asya_transport::{Tag, Token};
use indicatif::ProgressBar;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::SystemTime;

/// Messages published and not yet confirmed: enough to fill a broker's group commits.
const UNCONFIRMED_MAX: usize = 512;
/// Bytes of them, which the connection may hold until the broker has taken them.
const UNCONFIRMED_BYTES_MAX: usize = 64 << 20;

/// Sends what failed again.
pub async fn requeue(args: &DeadRequeue) -> Result<(), Error> {
    let chosen = Chosen::by(&args.choice).with_ids(&args.ids);
    if chosen.is_all() && !args.all {
        return Err(Error::Usage(
            "what is to be sent again? Name IDs, --actor, --reason or --error, or say --all\n  = `asya dead` lists what \
             failed; --dry-run only shows what would be sent"
                .to_owned(),
        ));
    }
    let to = args.to.as_deref().map(send::route).transpose()?.unwrap_or_default();
    let target = broker::target(&args.place)?;
    if !to.is_empty() {
        send::check_route(&mut broker::connect(&target).await?, &target, &to, "").await?;
    }
    let sources = sources(&target, &chosen).await?;
    if chosen.is_all() && !args.yes && !args.dry_run && !confirmed(&target).await? {
        return Err(Error::Failed("nothing was sent".to_owned()));
    }
    let now_ms = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
    let way = Way { namespace: target.namespace.clone(), to, raw: args.raw, now_ms };
    let mut requeue = Requeue {
        target: &target,
        args,
        chosen,
        way,
        left: args.limit.unwrap_or(u64::MAX),
        there: BTreeMap::new(),
        tally: Tally::default(),
        interrupted: false,
    };
    let mut outcome = Ok(());
    for source in &sources {
        if outcome.is_ok() && requeue.left > 0 && !requeue.interrupted {
            outcome = requeue.all_of(source).await;
        }
    }
    say_where(&target, &requeue.chosen);
    requeue.tally.lines(args.dry_run).iter().for_each(|line| out::note(line));
    outcome?;
    requeue.end()
}

/// Asks a person, where there is one.
async fn confirmed(target: &Target) -> Result<bool, Error> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(true);
    }
    let mut count = 0;
    let mut client = broker::connect(target).await?;
    for source in std::iter::once(Source::sump(target)?).chain(all_dead_letters(target, &[]).await?) {
        count += client.depth(&source.queue).await?.map_or(0, |depth| depth.ready);
    }
    if count == 0 {
        return Ok(true);
    }
    out::note(&format!("send {count} {} again? [y/N]", plural(count, "message")));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Error::system("the answer cannot be read"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A message that was published and that the broker has not confirmed.
struct Open {
    tag: Tag,
    id: String,
    actor: String,
    bytes: usize,
    was_late: bool,
}

struct Requeue<'a> {
    target: &'a Target,
    args: &'a DeadRequeue,
    chosen: Chosen,
    way: Way,
    /// Messages that may still be chosen.
    left: u64,
    /// Queues that were looked for, and whether they are there.
    there: BTreeMap<String, bool>,
    tally: Tally,
    interrupted: bool,
}

impl Requeue<'_> {
    async fn all_of(&mut self, source: &Source) -> Result<(), Error> {
        let Some(mut walk) = Walk::open(self.target, &source.queue, u64::MAX, false).await? else { return Ok(()) };
        let bar = send::bar(walk.there(), "looked at");
        let walked = self.walk(source, &mut walk, &bar).await;
        bar.finish_and_clear();
        let closed = walk.close().await;
        walked?;
        self.tally.still_there(closed?);
        Ok(())
    }

    async fn walk(&mut self, source: &Source, walk: &mut Walk, bar: &ProgressBar) -> Result<(), Error> {
        let mut open: BTreeMap<Token, Open> = BTreeMap::new();
        let mut open_bytes = 0;
        loop {
            let room = open.len() < UNCONFIRMED_MAX && open_bytes < UNCONFIRMED_BYTES_MAX;
            match self.step(walk, room && self.left > 0 && !self.interrupted).await? {
                Some(Step::Message(message)) => {
                    bar.inc(1);
                    match self.take(source, walk, &message).await? {
                        Some((id, again)) => {
                            let (bytes, was_late) = (again.body.len(), again.was_late);
                            let token = walk.publish(&again.queue, again.content_type, &id, &again.body);
                            open_bytes += bytes;
                            open.insert(token, Open { tag: message.tag, id, actor: again.actor, bytes, was_late });
                        }
                        None => walk.hold(message.tag),
                    }
                }
                Some(Step::Published(token, outcome)) => {
                    let Some(Open { tag, id, actor, bytes, was_late }) = open.remove(&token) else { continue };
                    open_bytes -= bytes;
                    match unpublished(&outcome) {
                        None => {
                            walk.acknowledge(tag);
                            self.tally.sent(&actor, was_late);
                            bar.set_message(format!("looked at, {} sent", self.tally.count()));
                        }
                        Some(why) => {
                            walk.hold(tag);
                            self.tally.refused(&id, format!("{actor} did not get it: {why}"));
                        }
                    }
                }
                Some(Step::StillThere) => self.tally.still_there(1),
                None => return Ok(()),
            }
        }
    }

    /// The next step. On Ctrl-C nothing more is chosen, and what is under way is awaited; on a second one, not even that.
    async fn step(&mut self, walk: &mut Walk, look: bool) -> Result<Option<Step>, Error> {
        let step = walk.next(look);
        tokio::pin!(step);
        loop {
            tokio::select! {
                step = &mut step => return step,
                _ = tokio::signal::ctrl_c() => {
                    if self.interrupted {
                        return Err(Error::Failed("interrupted; what was not confirmed may be in both places".to_owned()));
                    }
                    self.interrupted = true;
                }
            }
        }
    }

    /// What is to be published for a message, if it is chosen and can be sent.
    async fn take(
        &mut self,
        source: &Source,
        walk: &mut Walk,
        message: &Message,
    ) -> Result<Option<(String, Again)>, Error> {
        let failure = source.failure(message);
        if self.interrupted || !self.chosen.is(&failure) {
            return Ok(None);
        }
        self.left -= 1;
        self.tally.chosen(&failure.id, &self.args.ids);
        let again = match self.way.again(source, message) {
            Ok(again) => again,
            Err(why) => {
                self.tally.refused(&failure.id, why);
                return Ok(None);
            }
        };
        if !self.is_there(walk, &again.queue).await? {
            self.tally.refused(&failure.id, format!("{} has no queue {}", again.actor, again.queue));
            return Ok(None);
        }
        if self.args.dry_run {
            out::line(&format!("{}  {} → {}", failure.shown_id(), failure.actor, again.actor))?;
            self.tally.sent(&again.actor, again.was_late);
            return Ok(None);
        }
        Ok(Some((failure.id, again)))
    }

    async fn is_there(&mut self, walk: &mut Walk, queue: &str) -> Result<bool, Error> {
        if let Some(there) = self.there.get(queue) {
            return Ok(*there);
        }
        let there = walk.has(queue).await?;
        self.there.insert(queue.to_owned(), there);
        Ok(there)
    }

    /// Whether everything that was asked for has happened.
    fn end(&self) -> Result<(), Error> {
        if self.interrupted {
            return Err(Error::Failed("interrupted; what is not told as sent is where it was".to_owned()));
        }
        let missing = self.tally.missing(&self.args.ids);
        if !missing.is_empty() && self.left > 0 {
            let ids: Vec<String> = missing.iter().map(|id| format!("{id:?}")).collect();
            return Err(Error::Failed(format!(
                "no failed message has the id {}\n  = ids must be whole; `asya dead` lists them",
                ids.join(", ")
            )));
        }
        match self.tally.refused_count() {
            0 => Ok(()),
            count => Err(Error::Failed(format!("{count} {} could not be sent again", plural(count, "message")))),
        }
    }
}
