//! `asya queues` and `asya status`.
//!
//! Takes a broker or a data folder; prints what waits and what runs. Blocks on the broker and on metrics pages, bounded.
//! On failure: what to start first.

use crate::args::{Queues, Status};
use crate::broker::{self, Target};
use crate::error::Error;
use crate::home::{BrokerAt, Home};
use crate::hosted;
use crate::out;
use crate::run::Counts;
use crate::scrape::{self, show_seconds};
use crate::table::Table;
use asya_envelope::names::{DEAD_LETTER_SUFFIX, SINK, SUMP, dead_letter, queue_name, queue_prefix};
use asya_manifest::problem::nearest;
use asya_transport::rabbitmq::delay_queues;
use std::path::Path;

/// One line of the table.
struct Row {
    /// What the queue belongs to, where that can be told.
    actor: Option<String>,
    queue: String,
    ready: Option<u64>,
    unsettled: Option<u64>,
    delayed: Option<u64>,
    dead: Option<u64>,
}

/// Prints a line for each queue.
pub async fn queues(args: &Queues) -> Result<(), Error> {
    let target = broker::target(&args.place)?;
    let rows = rows(&target, &args.actors).await?;
    let absent: Vec<String> = rows
        .iter()
        .filter(|row| row.ready.is_none())
        .filter_map(|row| Some((row.actor.as_ref().filter(|actor| args.actors.contains(actor))?, &row.queue)))
        .map(|(actor, queue)| absent(&target, actor, queue))
        .collect();
    show(args, rows)?;
    if absent.is_empty() { Ok(()) } else { Err(Error::Failed(absent.join("\nerror: "))) }
}

/// Says that an actor's queue is not there, and what is.
pub fn absent(target: &Target, actor: &str, queue: &str) -> String {
    let mut why = format!("there is no queue {queue} at {}", target.broker);
    if let Some(meant) = nearest(actor, target.actors.iter().map(String::as_str)) {
        why.push_str(&format!("\n  = did you mean: {meant}"));
    }
    if !target.actors.is_empty() {
        why.push_str(&format!("\n  = running here: {}", target.actors.join(", ")));
    }
    why
}

fn show(args: &Queues, rows: Vec<Row>) -> Result<(), Error> {
    if args.json {
        let rows: Vec<serde_json::Value> = rows
            .into_iter()
            .map(|r| {
                serde_json::json!({
                    "actor": r.actor, "queue": r.queue, "ready": r.ready, "unsettled": r.unsettled,
                    "delayed": r.delayed, "dead": r.dead,
                })
            })
            .collect();
        return out::line(&serde_json::Value::from(rows).to_string());
    }
    let mut table = Table::new(["QUEUE", "READY", "UNSETTLED", "DELAYED", "DEAD"]);
    for row in rows {
        table.row([row.queue, number(row.ready), number(row.unsettled), number(row.delayed), number(row.dead)]);
    }
    out::print(&table.to_string())
}

/// What the broker gave up of one actor's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetters {
    /// The actor.
    pub actor: String,
    /// Its queue.
    pub queue: String,
    /// How many there are.
    pub count: u64,
}

/// Actors of whose messages the broker itself gave some up: of those that run here and those that are `asked` for; the
/// embedded broker tells all.
pub async fn dead(target: &Target, asked: &[String]) -> Result<Vec<DeadLetters>, Error> {
    let prefix = queue_prefix(&target.namespace);
    let rows = rows(target, asked).await?.into_iter();
    let dead = rows.filter_map(|row| {
        let count = row.dead.filter(|count| *count > 0)?;
        let actor = row.actor.or_else(|| row.queue.strip_prefix(&prefix).map(str::to_owned))?;
        Some(DeadLetters { actor, queue: row.queue, count })
    });
    Ok(dead.collect())
}

async fn rows(target: &Target, asked: &[String]) -> Result<Vec<Row>, Error> {
    match &target.broker {
        BrokerAt::Embedded(socket) => all_of(socket, target, asked),
        BrokerAt::RabbitMq(_) | BrokerAt::Sqs { .. } => asked_for(target, asked).await,
    }
}

/// The actors that are known or named, and both sinks, each queue once.
fn known(target: &Target, asked: &[String]) -> Result<Vec<(String, String)>, Error> {
    let mut names = Vec::new();
    for actor in target.actors.iter().chain(asked).map(String::as_str).chain([SINK, SUMP]) {
        let queue = queue_name(&target.namespace, actor).map_err(|e| Error::Usage(e.to_string()))?;
        if !names.iter().any(|(_, known)| *known == queue) {
            names.push((actor.to_owned(), queue));
        }
    }
    Ok(names)
}

/// The embedded broker tells all of its queues.
fn all_of(socket: &Path, target: &Target, asked: &[String]) -> Result<Vec<Row>, Error> {
    let mut infos = hosted::queues(socket)?;
    let mut rows = Vec::new();
    for (actor, queue) in known(target, asked)? {
        let info = infos.iter().position(|info| info.name == queue).map(|at| infos.remove(at));
        rows.push((Some(actor), queue, info));
    }
    let dead: Vec<(String, u64)> = infos
        .iter()
        .filter(|info| info.name.ends_with(DEAD_LETTER_SUFFIX))
        .map(|info| (info.name.clone(), info.ready))
        .collect();
    let others = infos.into_iter().filter(|info| !info.name.ends_with(DEAD_LETTER_SUFFIX));
    rows.extend(others.map(|info| (None, info.name.clone(), Some(info))));
    Ok(rows
        .into_iter()
        .map(|(actor, queue, info)| Row {
            actor,
            ready: info.as_ref().map(|i| i.ready),
            unsettled: info.as_ref().map(|i| i.held),
            delayed: info.as_ref().map(|i| i.delayed),
            dead: dead.iter().find(|(name, _)| *name == dead_letter(&queue)).map(|(_, ready)| *ready),
            queue,
        })
        .collect())
}

/// RabbitMQ is asked for each queue by its name: listing them would need its management plug-in.
async fn asked_for(target: &Target, asked: &[String]) -> Result<Vec<Row>, Error> {
    let mut client = broker::connect(target).await?;
    let mut rows = Vec::new();
    for (actor, queue) in known(target, asked)? {
        let depth = client.depth(&queue).await?;
        let dead = client.depth(&dead_letter(&queue)).await?;
        rows.push(Row {
            actor: Some(actor),
            queue,
            ready: depth.map(|d| d.ready),
            unsettled: depth.and_then(|d| d.unsettled),
            delayed: None,
            dead: dead.map(|d| d.ready),
        });
    }
    // What waits for a retry has queues of its own there, one for each delay; most are empty, or were never needed.
    for (_, queue) in delay_queues(&queue_prefix(&target.namespace)) {
        let waiting = client.depth(&queue).await?.map(|d| d.ready).filter(|count| *count > 0);
        if waiting.is_some() {
            rows.push(Row { actor: None, queue, ready: None, unsettled: None, delayed: waiting, dead: None });
        }
    }
    Ok(rows)
}

/// A queue that is not there has no number.
fn number(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), |n| n.to_string())
}

/// Prints a line for each running actor, from its sidecar's metrics since it started.
pub async fn status(args: &Status) -> Result<(), Error> {
    let home = Home::new(args.data.as_deref());
    let record = home.record().filter(|_| home.is_taken()).ok_or_else(|| Error::NoBroker(home.dir().to_owned()))?;
    let mut table = Table::new(["ACTOR", "READY", "PROCESSED", "FAILED", "IN FLIGHT", "P50", "P99", "METRICS"]);
    let mut rows = Vec::new();
    let mut reasons = String::new();
    for actor in record.actors {
        let page = scrape::get(&actor.metrics, "/metrics").await.filter(|(status, _)| *status == 200);
        let ready = scrape::get(&actor.metrics, "/readyz").await.is_some_and(|(status, _)| status == 200);
        let unloadable = actor.unloadable.filter(|_| !ready);
        if let Some(why) = &unloadable {
            reasons.push_str(&format!("{}: the handler cannot be loaded: {why}\n", actor.name));
        }
        let counts = page.map(|(_, page)| Counts::of(&scrape::parse(&page)));
        let count = |pick: fn(&Counts) -> f64| counts.as_ref().map(|c| pick(c) as u64);
        let quantile = |q: f64| counts.as_ref().and_then(|c| c.duration.quantile(q));
        table.row([
            actor.name.clone(),
            if ready { "yes" } else { "no" }.to_owned(),
            number(count(|c| c.processed)),
            number(count(|c| c.failed)),
            number(count(|c| c.active)),
            show_seconds(quantile(0.5)),
            show_seconds(quantile(0.99)),
            format!("http://{}/metrics", actor.metrics),
        ]);
        rows.push(serde_json::json!({
            "actor": actor.name, "queue": actor.queue, "metrics": actor.metrics, "ready": ready, "unloadable": unloadable,
            "processed": count(|c| c.processed), "failed": count(|c| c.failed), "in_flight": count(|c| c.active),
            "p50_seconds": quantile(0.5), "p99_seconds": quantile(0.99),
        }));
    }
    if args.json {
        let broker = record.broker.to_string();
        let status = serde_json::json!({"namespace": record.namespace, "broker": broker, "actors": rows});
        out::line(&status.to_string())
    } else {
        out::print(&format!("{table}{reasons}"))
    }
}
