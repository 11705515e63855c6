//! `asya dead`: what failed, wherever it is.
//!
//! Takes a choice; lists, shows, or sends again. Two kinds of places hold failures: the failure sink, and each actor's
//! dead-letter queue. Blocks on the broker. On failure: an error; nothing is lost, what was looked at goes back.

mod again;
mod choice;
mod requeue;
mod tally;

use crate::args::{Dead, DeadCommand, DeadList};
use crate::broker::{self, Target};
use crate::client::Message;
use crate::error::Error;
use crate::failure::{self, DEAD_LETTERED, Failure};
use crate::message::{read, read_head};
use crate::out;
use crate::sinks::{look, say_more};
use crate::table::Table;
use asya_envelope::names::{SUMP, dead_letter, queue_name};
use choice::Chosen;
use std::collections::BTreeMap;

/// Rows of a table where no number is given: what fits on a screen.
const ROWS: u64 = 20;

/// A queue of what failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its full name.
    pub queue: String,
    /// Of a dead-letter queue: the actor that it belongs to, and that actor's queue.
    pub owner: Option<(String, String)>,
}

impl Source {
    /// The failure sink.
    pub fn sump(target: &Target) -> Result<Self, Error> {
        let queue = queue_name(&target.namespace, SUMP).map_err(|e| Error::Usage(e.to_string()))?;
        Ok(Self { queue, owner: None })
    }

    /// What the broker gave up of an actor's messages.
    pub fn dead_letters(target: &Target, actor: &str) -> Result<Self, Error> {
        let queue = queue_name(&target.namespace, actor).map_err(|e| Error::Usage(e.to_string()))?;
        Ok(Self::of(actor.to_owned(), queue))
    }

    fn of(actor: String, queue: String) -> Self {
        Self { queue: dead_letter(&queue), owner: Some((actor, queue)) }
    }

    /// Whether its messages are those that sidecars sent to the failure sink; also what the broker gave up of these.
    fn is_sump(&self) -> bool {
        self.owner.as_ref().is_none_or(|(actor, _)| actor == SUMP)
    }

    /// What one of its messages says.
    pub fn failure(&self, message: &Message) -> Failure {
        let head = read_head(&message.body, message.content_type);
        match (head, &self.owner) {
            (Ok(head), Some((actor, _))) if !self.is_sump() => Failure::dead_letter(actor, &head),
            (Ok(head), _) => Failure::of(&head),
            (Err(why), Some((actor, _))) => Failure::unreadable(actor, DEAD_LETTERED, why.to_string()),
            (Err(why), None) => Failure::unreadable("", "", why.to_string()),
        }
    }
}

/// Dead-letter queues that hold something: of the actors that are known and asked for.
pub async fn all_dead_letters(target: &Target, asked: &[String]) -> Result<Vec<Source>, Error> {
    let dead = crate::queues::dead(target, asked).await?;
    Ok(dead.into_iter().map(|dead| Source::of(dead.actor, dead.queue)).collect())
}

/// Every place where something may be that is chosen.
async fn sources(target: &Target, chosen: &Chosen) -> Result<Vec<Source>, Error> {
    let mut sources = vec![Source::sump(target)?];
    let dead = all_dead_letters(target, chosen.actors()).await?;
    // Failures that the sink could not keep may be of any actor.
    sources.extend(dead.into_iter().filter(|source| {
        source.is_sump() || source.owner.as_ref().is_none_or(|(actor, _)| chosen.may_be_dead_letter_of(actor))
    }));
    Ok(sources)
}

/// Does what the command says.
pub async fn dead(args: &Dead) -> Result<(), Error> {
    match &args.command {
        None => list(&args.list).await,
        Some(DeadCommand::List(args)) => list(args).await,
        Some(DeadCommand::Show(args)) => {
            let target = broker::target(&args.place)?;
            let mut sources = vec![Source::sump(&target)?];
            sources.extend(all_dead_letters(&target, &args.actors).await?);
            show(&target, &sources, &args.ids).await
        }
        Some(DeadCommand::Requeue(args)) => requeue::requeue(args).await,
    }
}

async fn list(args: &DeadList) -> Result<(), Error> {
    let target = broker::target(&args.place)?;
    let chosen = Chosen::by(&args.choice);
    let limit = args.limit.unwrap_or(if args.json { u64::MAX } else { ROWS });
    let mut table = Table::new(["ID", "ACTOR", "REASON", "ATTEMPT", "ERROR", "MESSAGE"]);
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut shown = 0_u64;
    for source in sources(&target, &chosen).await? {
        look(&target, &source.queue, u64::MAX, false, |message| {
            let failure = source.failure(message);
            if !chosen.is(&failure) {
                return Ok(true);
            }
            if shown < limit {
                shown += 1;
                if args.json {
                    out::line(&failure.json(&source.queue).to_string())?;
                } else {
                    table.row(failure.row());
                }
            }
            *counts.entry((failure.actor, failure.reason)).or_default() += 1;
            Ok(true)
        })
        .await?;
    }
    let count: u64 = counts.values().sum();
    say_where(&target, &chosen);
    if args.json {
        say_more(shown, count);
        return Ok(());
    }
    if count == 0 {
        out::note(if chosen.is_all() { "nothing has failed" } else { "nothing of that has failed" });
        return Ok(());
    }
    let mut summary = Table::new(["ACTOR", "REASON", "COUNT"]);
    for ((actor, reason), count) in counts {
        let named = |name: String| if name.is_empty() { "-".to_owned() } else { name };
        summary.row([named(actor), named(reason), count.to_string()]);
    }
    out::print(&format!("{table}\n{summary}"))?;
    say_more(shown, count);
    out::note(
        "`asya dead show ID` shows one with its traceback, `asya dead requeue --dry-run …` what can be sent again",
    );
    Ok(())
}

/// A broker that cannot list its queues is asked only for those whose names are known here.
fn say_where(target: &Target, chosen: &Chosen) {
    if target.actors.is_empty() && chosen.actors().is_empty() {
        out::note("no actor is known here: name those whose dead-letter queues are to be looked into, --actor ACTOR");
    }
}

/// Shows the first message with each of these ids.
pub async fn show(target: &Target, sources: &[Source], ids: &[String]) -> Result<(), Error> {
    let mut missing: Vec<&String> = ids.iter().collect();
    let mut first = true;
    for source in sources {
        if missing.is_empty() {
            break;
        }
        look(target, &source.queue, u64::MAX, false, |message| {
            let id = source.failure(message).id;
            let asked = missing.len();
            missing.retain(|prefix| !id.starts_with(*prefix));
            if missing.len() < asked
                && let Ok(message) = read(&message.body, message.content_type)
            {
                let gap = if std::mem::take(&mut first) { "" } else { "\n" };
                out::print(&format!("{gap}{}", failure::whole(&message)))?;
            }
            Ok(!missing.is_empty())
        })
        .await?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = missing.iter().map(|id| format!("{id:?}")).collect();
    let missing = missing.join(", ");
    Err(Error::Failed(format!("no failed message has an id that begins with {missing}\n  = `asya dead` lists them")))
}
