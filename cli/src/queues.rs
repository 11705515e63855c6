//! `asya queues` and `asya status`.
//!
//! Takes a broker or a data folder; prints what waits and what runs. Blocks on the broker and on metrics pages, bounded.
//! On failure: what to start first.

use crate::args::{Queues, Status};
use crate::broker;
use crate::client::{Client, Depth};
use crate::error::Error;
use crate::home::Home;
use crate::run::Counts;
use crate::scrape::{self, show_seconds};
use crate::table::Table;
use asya_envelope::names::{SINK, SUMP, dead_letter, queue_name};

/// Prints a line for each queue.
pub async fn queues(args: &Queues) -> Result<(), Error> {
    let target = broker::target(&args.place)?;
    let mut client = broker::connect(&target).await?;
    let mut actors = target.actors.clone();
    actors.extend(args.actors.iter().cloned());
    actors.extend([SINK, SUMP].map(str::to_owned));
    let mut seen = Vec::new();
    let mut table = Table::new(["QUEUE", "READY", "UNSETTLED", "DEAD"]);
    let mut rows = Vec::new();
    for actor in actors {
        let queue = queue_name(&target.namespace, &actor).map_err(|e| Error::Usage(e.to_string()))?;
        if seen.contains(&queue) {
            continue;
        }
        let depth = client.depth(&queue).await?;
        let dead = ready(&mut client, &dead_letter(&queue)).await?;
        table.row([queue.clone(), number(depth.map(|d| d.ready)), number(unsettled(depth)), number(dead)]);
        rows.push(serde_json::json!({
            "actor": actor, "queue": queue, "ready": depth.map(|d| d.ready), "unsettled": unsettled(depth), "dead": dead,
        }));
        seen.push(queue);
    }
    if args.json {
        println!("{}", serde_json::Value::from(rows));
    } else {
        print!("{table}");
    }
    Ok(())
}

async fn ready(client: &mut Client, queue: &str) -> Result<Option<u64>, Error> {
    Ok(client.depth(queue).await?.map(|depth| depth.ready))
}

fn unsettled(depth: Option<Depth>) -> Option<u64> {
    depth.and_then(|d| d.unsettled)
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
    for actor in record.actors {
        let page = scrape::get(&actor.metrics, "/metrics").await.filter(|(status, _)| *status == 200);
        let ready = scrape::get(&actor.metrics, "/readyz").await.is_some_and(|(status, _)| status == 200);
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
            "actor": actor.name, "queue": actor.queue, "metrics": actor.metrics, "ready": ready,
            "processed": count(|c| c.processed), "failed": count(|c| c.failed), "in_flight": count(|c| c.active),
            "p50_seconds": quantile(0.5), "p99_seconds": quantile(0.99),
        }));
    }
    if args.json {
        let broker = record.broker.to_string();
        println!("{}", serde_json::json!({"namespace": record.namespace, "broker": broker, "actors": rows}));
    } else {
        print!("{table}");
    }
    Ok(())
}
