//! `asya results` and `asya failed`: what the two sinks hold.
//!
//! Takes a sink; prints its messages, the oldest first, and leaves them there unless told to take them. Blocks on the
//! broker. On failure: an error, and everything that was looked at goes back.

use crate::args::{Failed, Results};
use crate::broker::{self, Target};
use crate::error::Error;
use crate::message::{Received, read};
use crate::out;
use crate::send::plural;
use crate::table::Table;
use asya_envelope::Phase;
use asya_envelope::names::{SINK, SUMP, dead_letter, queue_name};
use asya_transport::{Event, Settlement, Tag};
use std::time::Duration;
use tokio::time::Instant;

/// Messages looked at in one command without being taken: they are all held at once, so that none is seen twice.
const LOOK_MAX: u64 = 10_000;
/// Messages held at once while they are taken.
const TAKE_WINDOW: u32 = 1_000;
/// The broker says how many there are; they come within milliseconds. When none comes for this long, others took them.
const IDLE_MAX: Duration = Duration::from_secs(2);

/// Prints what reached the end of its route.
pub async fn results(args: &Results) -> Result<(), Error> {
    let mut count = 0_u64;
    let target = broker::target(&args.place)?;
    let there = walk(&target, Queue::Of(SINK), args.limit, args.take, |message| {
        count += 1;
        match message {
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
    say_more(count, there);
    Ok(())
}

/// Prints what failed.
pub async fn failed(args: &Failed) -> Result<(), Error> {
    let target = broker::target(&args.place)?;
    if let Some(id) = &args.show {
        return show(&target, args, id).await;
    }
    let mut table = Table::new(["ID", "ACTOR", "ATTEMPT", "ERROR", "MESSAGE"]);
    let mut count = 0_u64;
    let there = walk(&target, of(args), args.limit, args.take, |message| {
        count += 1;
        match message {
            Ok(message) if args.envelopes => out::line(&message.envelope)?,
            Ok(message) => table.row(row(message)),
            Err(why) => table.row(["-", "-", "-", "unreadable", why].map(str::to_owned)),
        }
        Ok(true)
    })
    .await?;
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
        out::note(&format!("`asya failed {dead}--show ID` shows one with its traceback"));
    }
    if args.dead.is_none() {
        for (actor, count) in crate::queues::dead(&target).await? {
            let messages = plural(count, "message");
            out::note(&format!(
                "the broker itself gave up {count} {messages} of {actor}: `asya failed --dead {actor}` shows them"
            ));
        }
    }
    Ok(())
}

/// How many more there are than were shown.
fn say_more(shown: u64, there: u64) {
    if shown < there {
        out::note(&format!("{shown} of {there} shown; --limit N shows more"));
    }
}

/// Shows the one message, from the sink or, where it is not there, from what the broker gave up.
async fn show(target: &Target, args: &Failed, id: &str) -> Result<(), Error> {
    if show_from(target, of(args), id).await? {
        return Ok(());
    }
    if args.dead.is_none() {
        for (actor, _) in crate::queues::dead(target).await? {
            if show_from(target, Queue::DeadOf(&actor), id).await? {
                return Ok(());
            }
        }
    }
    Err(Error::Failed(format!("no failed message has an id that begins with {id:?}\n  = `asya failed` lists them")))
}

async fn show_from(target: &Target, queue: Queue<'_>, id: &str) -> Result<bool, Error> {
    let mut shown = false;
    walk(target, queue, LOOK_MAX, false, |message| {
        match message {
            Ok(message) if message.head.id.starts_with(id) => {
                out::print(&whole(message))?;
                shown = true;
            }
            _ => {}
        }
        Ok(!shown)
    })
    .await?;
    Ok(shown)
}

/// A queue to look into.
#[derive(Clone, Copy)]
enum Queue<'a> {
    /// An actor's.
    Of(&'a str),
    /// What the broker gave up of an actor's.
    DeadOf(&'a str),
}

fn of(args: &Failed) -> Queue<'_> {
    args.dead.as_deref().map_or(Queue::Of(SUMP), Queue::DeadOf)
}

/// Goes through a queue until `see` has enough; gives how many messages there were. What `see` could not show goes back,
/// even of what is taken.
async fn walk(
    target: &Target,
    queue: Queue<'_>,
    limit: u64,
    take: bool,
    mut see: impl FnMut(Result<&Received, &str>) -> Result<bool, Error>,
) -> Result<u64, Error> {
    let (Queue::Of(actor) | Queue::DeadOf(actor)) = queue;
    let own = queue_name(&target.namespace, actor).map_err(|e| Error::Usage(e.to_string()))?;
    let is_dead = matches!(queue, Queue::DeadOf(_));
    let queue = if is_dead { dead_letter(&own) } else { own };
    let mut client = broker::connect(target).await?;
    let depth = match client.depth(&queue).await? {
        Some(depth) => depth,
        None if is_dead => return Err(Error::Failed(crate::queues::absent(target, actor, &queue))),
        // Nothing has ever come to this sink.
        None => return Ok(0),
    };
    let most = if take { limit } else { limit.min(LOOK_MAX) }.min(depth.ready);
    if most == 0 {
        return Ok(0);
    }
    let window = if take { most.min(TAKE_WINDOW.into()) } else { most };
    client.consume(&queue, u32::try_from(window).unwrap_or(TAKE_WINDOW));
    let mut held: Vec<Tag> = Vec::new();
    let mut left = most;
    let mut wants_more = Ok(true);
    while left > 0 && matches!(wants_more, Ok(true)) {
        match client.event_before(Instant::now() + IDLE_MAX).await {
            Some(Event::Delivered(delivery)) => {
                let message = client.take(delivery);
                let content = read(&message.body, message.content_type);
                wants_more =
                    see(content.as_ref().map_err(ToString::to_string).as_ref().map_err(String::as_str).copied());
                left -= 1;
                if take && wants_more.is_ok() {
                    client.settle(message.tag, Settlement::Ack);
                } else {
                    held.push(message.tag);
                }
            }
            Some(Event::Fatal { why }) => return Err(Error::Broker { place: target.broker.to_string(), why }),
            Some(_) => {}
            None => break,
        }
    }
    client.give_back(&queue, held).await?;
    wants_more.map(|_| depth.ready)
}

fn row(message: &Received) -> [String; 5] {
    let head = &message.head;
    let error = head.status.as_ref().and_then(|s| s.error.as_ref());
    let reason = head.status.as_ref().and_then(|s| s.reason.clone()).unwrap_or_default();
    [
        head.id.clone(),
        actor(message).to_owned(),
        head.status.as_ref().map_or(String::new(), |s| s.attempt.to_string()),
        error.map_or(reason, |e| e.error_type.clone()),
        first_line(error.map_or("", |e| e.message.as_str())),
    ]
}

fn actor(message: &Received) -> &str {
    message.head.status.as_ref().map_or("", |s| s.actor.as_str())
}

/// Bounded, so that a table stays one.
fn first_line(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() > CHARS_MAX {
        format!("{}…", line.chars().take(CHARS_MAX - 1).collect::<String>())
    } else {
        line.to_owned()
    }
}

/// One failure in one line.
pub fn one_line(message: &Received) -> String {
    let [id, actor, _, error, text] = row(message);
    format!("{id} failed at {actor}: {error}: {text}")
}

/// One failure with everything that is known of it.
fn whole(message: &Received) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<9} {value}\n"));
    let head = &message.head;
    line("id", &head.id);
    if let Some(parent) = &head.parent_id {
        line("parent", parent);
    }
    let mut route = head.route.prev.clone();
    route.push(head.route.curr.clone());
    route.extend(head.route.next.iter().cloned());
    line("route", &route.join(" → "));
    if let Some(status) = &head.status {
        line("actor", &status.actor);
        let phase = if status.phase == Phase::Failed { "" } else { status.phase.as_str() };
        line("reason", format!("{} {phase}", status.reason.as_deref().unwrap_or_default()).trim());
        line("attempt", &format!("{} of {}", status.attempt, status.max_attempts.max(status.attempt)));
        line("at", &status.updated_at);
        if let Some(error) = &status.error {
            line("error", &format!("{}: {}", error.error_type, error.message));
        }
    }
    if !head.headers.is_empty() {
        line("headers", head.headers.as_json());
    }
    line("payload", &message.document);
    if !message.blobs.is_empty() {
        let sizes: Vec<String> = message.blobs.iter().map(|len| format!("{len} bytes")).collect();
        line("binary", &sizes.join(", "));
    }
    if let Some(traceback) = head.status.as_ref().and_then(|s| s.error.as_ref()).and_then(|e| e.traceback.as_ref()) {
        text.push('\n');
        text.push_str(traceback.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use asya_envelope::{ErrorInfo, Head, Route, Status};

    fn message() -> Received {
        let error = ErrorInfo {
            message: "no field 'x'\nsecond line".into(),
            error_type: "KeyError".into(),
            mro: vec![],
            traceback: Some("Traceback (most recent call last):\n  File \"h.py\"\nKeyError: 'x'\n".into()),
        };
        let status = Status {
            phase: Phase::Failed,
            reason: Some("RuntimeError".into()),
            actor: "work".into(),
            attempt: 2,
            max_attempts: 3,
            created_at: "2026-01-01T00:00:00Z".into(),
            updated_at: "2026-01-01T00:00:01Z".into(),
            deadline_at: None,
            error: Some(error),
        };
        let route = Route { prev: vec!["first".into()], curr: "work".into(), next: vec!["last".into()] };
        let head = Head { status: Some(status), ..Head::new("id-1", route) };
        Received { head, document: "{\"a\":1}".into(), blobs: vec![64], envelope: String::new() }
    }

    #[test]
    fn a_failure_in_one_line_and_in_whole() {
        assert_eq!(one_line(&message()), "id-1 failed at work: KeyError: no field 'x'");
        assert_eq!(
            whole(&message()),
            "id        id-1\nroute     first → work → last\nactor     work\nreason    RuntimeError\nattempt   2 of 3\n\
             at        2026-01-01T00:00:01Z\nerror     KeyError: no field 'x'\nsecond line\npayload   {\"a\":1}\n\
             binary    64 bytes\n\nTraceback (most recent call last):\n  File \"h.py\"\nKeyError: 'x'\n"
        );
    }
}
