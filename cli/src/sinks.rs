//! `asya results` and `asya failed`: what the two sinks hold.
//!
//! Takes a sink; prints its messages, the oldest first, and leaves them there unless told to take them. Blocks on the
//! broker. On failure: an error, and everything that was looked at goes back.

use crate::args::{Failed, Results};
use crate::broker::{self, Target};
use crate::client::Message;
use crate::dead::{self, Source};
use crate::error::Error;
use crate::message::read;
use crate::out;
use crate::send::plural;
use crate::table::Table;
use crate::walk::{Step, Walk};
use asya_envelope::names::{SINK, queue_name};

/// Prints what reached the end of its route.
pub async fn results(args: &Results) -> Result<(), Error> {
    let mut count = 0_u64;
    let target = broker::target(&args.place)?;
    let queue = queue_name(&target.namespace, SINK).map_err(|e| Error::Usage(e.to_string()))?;
    let there = look(&target, &queue, args.limit, args.take, |message| {
        count += 1;
        match read(&message.body, message.content_type) {
            Ok(message) if args.envelopes => out::line(&message.envelope)?,
            Ok(message) => out::line(&format!("{}  {}", message.head.id, message.document))?,
            Err(why) => out::line(&format!("(cannot be read: {why})"))?,
        }
        Ok(true)
    })
    .await?;
    if count == 0 && !args.envelopes {
        out::note("nothing has reached the end of its route");
    }
    say_more(count, there.unwrap_or(0));
    Ok(())
}

/// Prints what failed.
pub async fn failed(args: &Failed) -> Result<(), Error> {
    let target = broker::target(&args.place)?;
    let source = match &args.dead {
        Some(actor) => Source::dead_letters(&target, actor)?,
        None => Source::sump(&target)?,
    };
    if let Some(id) = &args.show {
        let mut sources = vec![source];
        if args.dead.is_none() {
            sources.extend(dead::all_dead_letters(&target, &[]).await?);
        }
        return dead::show(&target, &sources, std::slice::from_ref(id)).await;
    }
    let mut table = Table::new(["ID", "ACTOR", "ATTEMPT", "ERROR", "MESSAGE"]);
    let mut count = 0_u64;
    let there = look(&target, &source.queue, args.limit, args.take, |message| {
        count += 1;
        if args.envelopes {
            match read(&message.body, message.content_type) {
                Ok(message) => out::line(&message.envelope)?,
                Err(why) => out::note(&format!("(cannot be read: {why})")),
            }
        } else {
            table.row(source.failure(message).short_row());
        }
        Ok(true)
    })
    .await?;
    let there = match (there, &args.dead) {
        (None, Some(actor)) => return Err(Error::Failed(crate::queues::absent(&target, actor, &source.queue))),
        // Nothing has ever come to this sink.
        (there, _) => there.unwrap_or(0),
    };
    if args.envelopes {
        say_more(count, there);
        return Ok(());
    }
    if count == 0 {
        out::note(if args.dead.is_some() { "the broker has given up nothing of it" } else { "nothing has failed" });
    } else {
        out::print(&table.to_string())?;
        say_more(count, there);
        let dead = args.dead.as_ref().map_or(String::new(), |actor| format!("--dead {actor} "));
        out::note(&format!(
            "`asya failed {dead}--show ID` shows one with its traceback, `asya dead requeue` sends it again"
        ));
    }
    if args.dead.is_none() {
        for dead in crate::queues::dead(&target, &[]).await? {
            let (actor, count, messages) = (&dead.actor, dead.count, plural(dead.count, "message"));
            out::note(&format!(
                "the broker itself gave up {count} {messages} of {actor}: `asya failed --dead {actor}` shows them"
            ));
        }
    }
    Ok(())
}

/// How many more there are than were shown.
pub fn say_more(shown: u64, there: u64) {
    if shown < there {
        out::note(&format!("{shown} of {there} shown; --limit N shows more"));
    }
}

/// Goes through a queue until `see` has enough; gives how many messages there were, `None` when there is no such queue.
/// What `see` could not show goes back, even of what is taken.
pub async fn look(
    target: &Target,
    queue: &str,
    most: u64,
    take: bool,
    mut see: impl FnMut(&Message) -> Result<bool, Error>,
) -> Result<Option<u64>, Error> {
    let Some(mut walk) = Walk::open(target, queue, most, take).await? else { return Ok(None) };
    let mut wants_more = Ok(true);
    while let Ok(true) = wants_more {
        match walk.next(true).await? {
            Some(Step::Message(message)) => {
                wants_more = see(&message);
                if take && wants_more.is_ok() {
                    walk.acknowledge(message.tag);
                } else {
                    walk.hold(message.tag);
                }
            }
            Some(_) => {}
            None => break,
        }
    }
    let there = walk.there();
    walk.close().await?;
    wants_more.map(|_| Some(there))
}
