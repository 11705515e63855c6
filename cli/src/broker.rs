//! Which broker a command talks to, and how.
//!
//! Takes what the command line says and what the data folder records; gives connections. Blocks on connecting, bounded.
//! On failure: what to start or to name.

use crate::args::Place;
use crate::client::Client;
use crate::error::Error;
use crate::home::{BrokerAt, Home, Record};
use crate::hosted;
use asya_envelope::names::{SINK, SUMP, dead_letter, queue_name};
use asya_transport::Transport;
use asya_transport::rabbitmq::admin::Admin;
use asya_transport::rabbitmq::{RabbitMq, RabbitMqConfig};
use asya_transport::sqs::{Sqs, SqsConfig};
use std::collections::BTreeMap;

/// A broker and what is known of its use.
#[derive(Clone, Debug)]
pub struct Target {
    /// In the names of queues.
    pub namespace: String,
    /// Where it is.
    pub broker: BrokerAt,
    /// Actors that run there, as far as is known here.
    pub actors: Vec<String>,
    /// The largest message that each of them takes, as far as is known here.
    pub message_bytes_max: BTreeMap<String, u64>,
}

fn limits(record: &Record) -> BTreeMap<String, u64> {
    record.actors.iter().filter_map(|at| Some((at.name.clone(), at.message_bytes_max?))).collect()
}

/// Finds the broker: the one that was named, or the one of the `asya run` of the data folder.
pub fn target(place: &Place) -> Result<Target, Error> {
    let home = Home::new(place.data.as_deref());
    let record = home.record().filter(|_| home.is_taken());
    let namespace =
        |recorded: Option<String>| place.namespace.clone().or(recorded).unwrap_or_else(|| "default".to_owned());
    match (&place.transport, record) {
        (Some(url), record) => {
            let broker = at(url)?;
            // What runs here is of use only when it runs on that broker.
            let record = record.filter(|record| record.broker == broker);
            let actors = record.iter().flat_map(|r| r.actors.iter().map(|a| a.name.clone())).collect();
            let message_bytes_max = record.as_ref().map(limits).unwrap_or_default();
            Ok(Target { namespace: namespace(record.map(|r| r.namespace)), broker, actors, message_bytes_max })
        }
        (None, Some(record)) => {
            let message_bytes_max = limits(&record);
            let actors = record.actors.into_iter().map(|a| a.name).collect();
            let broker = record.broker;
            Ok(Target { namespace: namespace(Some(record.namespace)), broker, actors, message_bytes_max })
        }
        (None, None) => Err(Error::NoBroker(home.dir().to_owned())),
    }
}

/// Reads an address, before anything is started with it.
pub fn at(url: &str) -> Result<BrokerAt, Error> {
    let help = "write amqp://user:password@host:5672/vhost (amqps:// for TLS), sqs://REGION, or sqs+http://host:port";
    let usage = |why: &dyn std::fmt::Display| Error::Usage(format!("--transport: {why}\n  = {help}"));
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let region = || set("ASYA_AWS_REGION").or_else(|| set("AWS_REGION")).unwrap_or_else(|| "us-east-1".to_owned());
    match url.split_once("://") {
        Some(("sqs", given)) => {
            let is_region = given.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            match (given.is_empty(), is_region) {
                (true, _) => Ok(BrokerAt::Sqs { region: region(), endpoint: None }),
                (false, true) => Ok(BrokerAt::Sqs { region: given.to_owned(), endpoint: None }),
                (false, false) => Err(usage(&format!("{given:?} is no AWS region"))),
            }
        }
        Some(("sqs+http" | "sqs+https", place)) if !place.is_empty() => {
            let endpoint = url.strip_prefix("sqs+").map(str::to_owned);
            Ok(BrokerAt::Sqs { region: region(), endpoint })
        }
        _ => match RabbitMqConfig::from_url(url) {
            Ok(_) => Ok(BrokerAt::RabbitMq(url.to_owned())),
            Err(why) => Err(usage(&why)),
        },
    }
}

fn sqs(region: &str, endpoint: Option<&str>) -> SqsConfig {
    SqsConfig { region: region.to_owned(), endpoint: endpoint.map(str::to_owned), ..SqsConfig::default() }
}

/// Connects.
pub async fn connect(target: &Target) -> Result<Client, Error> {
    let transport: Box<dyn Transport> = match &target.broker {
        BrokerAt::Embedded(socket) => hosted::client(socket),
        BrokerAt::RabbitMq(url) => {
            let mut config = RabbitMqConfig::from_url(url).map_err(|why| Error::Usage(why.to_string()))?;
            config.connection_name = "asya command".to_owned();
            Box::new(RabbitMq::new(config))
        }
        BrokerAt::Sqs { region, endpoint } => Box::new(Sqs::new(sqs(region, endpoint.as_deref()))),
    };
    Client::connect(transport, target.broker.to_string()).await
}

/// Has the queues of these actors and both sinks, each with its dead-letter queue. Gives the sinks' names.
pub async fn declare(client: &mut Client, namespace: &str, queues: &[&str]) -> Result<Vec<String>, Error> {
    let sink = |actor| queue_name(namespace, actor).map_err(|e| Error::Usage(e.to_string()));
    let sinks = vec![sink(SINK)?, sink(SUMP)?];
    for queue in queues.iter().copied().chain(sinks.iter().map(String::as_str)) {
        client.declare(queue, Some(&dead_letter(queue))).await?;
    }
    Ok(sinks)
}

/// How many deliveries of each actor are unsettled, where the broker tells.
pub async fn unsettled(target: &Target) -> Vec<(String, u64)> {
    let Ok(mut client) = connect(target).await else { return Vec::new() };
    let mut counts = Vec::new();
    for actor in &target.actors {
        let Ok(queue) = queue_name(&target.namespace, actor) else { continue };
        if let Ok(Some(depth)) = client.depth(&queue).await {
            counts.push((actor.clone(), depth.unsettled.unwrap_or(0)));
        }
    }
    counts
}

/// Deletes a queue of this command's own.
pub async fn drop_queue(target: &Target, queue: &str) -> Result<(), Error> {
    match &target.broker {
        BrokerAt::Embedded(socket) => hosted::drop_queue(socket, queue),
        BrokerAt::RabbitMq(url) => {
            let failed = |why: String| Error::Queue { queue: queue.to_owned(), why };
            let config = RabbitMqConfig::from_url(url).map_err(|why| Error::Usage(why.to_string()))?;
            let admin = Admin::connect(&config).await.map_err(|why| failed(why.to_string()))?;
            admin.delete(queue).await.map(drop).map_err(|why| failed(why.to_string()))
        }
        BrokerAt::Sqs { region, endpoint } => {
            asya_transport::sqs::delete_queue(&sqs(region, endpoint.as_deref()), queue)
                .await
                .map_err(|why| Error::Queue { queue: queue.to_owned(), why })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_which_broker() {
        let sqs = |region: &str, endpoint: Option<&str>| BrokerAt::Sqs {
            region: region.to_owned(),
            endpoint: endpoint.map(str::to_owned),
        };
        assert_eq!(at("amqp://h:1/v").ok(), Some(BrokerAt::RabbitMq("amqp://h:1/v".into())));
        assert_eq!(at("sqs://eu-west-1").ok(), Some(sqs("eu-west-1", None)));
        for (url, endpoint) in
            [("sqs+http://127.0.0.1:9324", "http://127.0.0.1:9324"), ("sqs+https://s/x", "https://s/x")]
        {
            match at(url) {
                Ok(BrokerAt::Sqs { endpoint: Some(found), .. }) => assert_eq!(found, endpoint),
                other => panic!("{url}: {other:?}"),
            }
            assert_eq!(at(url).unwrap().to_string(), url);
        }
        for url in ["sqs://not/a region", "sqs+http://", "http://h", "redis://h"] {
            let why = at(url).unwrap_err().to_string();
            assert!(why.contains("--transport:") && why.contains("sqs://REGION"), "{url}: {why}");
        }
    }
}
