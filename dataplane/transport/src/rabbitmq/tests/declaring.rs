//! Queues: what is asked, in which order, and what is made of the answers.

use std::sync::{Arc, Mutex};

use amq_protocol::protocol::queue::Declare;
use amq_protocol::types::AMQPValue;

use super::client::Client;
use super::server::{Manners, Server};
use crate::api::{Event, Op};
use crate::rabbitmq::Compatibility;

type Log = Arc<Mutex<Vec<Declare>>>;

/// Answers declares by `answer` and writes them down.
fn manners(
    version: &'static str,
    answer: impl Fn(&Declare) -> Result<u32, (u16, &'static str)> + Send + Sync + 'static,
) -> (Manners, Log) {
    let log = Log::default();
    let into = Arc::clone(&log);
    let declare = Arc::new(move |declare: &Declare| {
        into.lock().unwrap().push(declare.clone());
        answer(declare)
    });
    (Manners { version, declare, ..Manners::default() }, log)
}

const NOT_FOUND: Result<u32, (u16, &str)> = Err((404, "NOT_FOUND - no queue"));

fn named(log: &Log) -> Vec<(String, bool)> {
    log.lock().unwrap().iter().map(|declare| (declare.queue.to_string(), declare.passive)).collect()
}

fn pairs(expected: &[(&str, bool)]) -> Vec<(String, bool)> {
    expected.iter().map(|(name, passive)| ((*name).to_owned(), *passive)).collect()
}

#[test]
fn what_is_not_there_is_made_dead_letter_queue_first() {
    let (manners, log) = manners("4.3.0", |declare| if declare.passive { NOT_FOUND } else { Ok(0) });
    let server = Server::new(manners);
    let mut client = Client::connected(server.config());
    client.declare("q", Some("q-dlq"));
    assert_eq!(client.next(), Event::Declared { queue: "q".into(), differs: None });
    assert_eq!(named(&log), pairs(&[("q-dlq", true), ("q-dlq", false), ("q", true), ("q", false)]));
}

#[test]
fn arguments_are_what_each_version_takes() {
    let text = |text: &str| AMQPValue::LongString(text.into());
    for (version, limit_of_dead, timeout) in
        [("3.10.8", None, false), ("3.13.0", None, true), ("4.3.0", Some(-1), true)]
    {
        let (manners, log) = manners(version, |declare| if declare.passive { NOT_FOUND } else { Ok(0) });
        let server = Server::new(manners);
        let mut client = Client::connected(server.config());
        client.declare("q", Some("q-dlq"));
        assert!(matches!(client.next(), Event::Declared { .. }));
        let made: Vec<_> = log.lock().unwrap().iter().filter(|declare| !declare.passive).cloned().collect();
        let [dead, queue] = &made[..] else { panic!("{made:?}") };
        assert!(dead.durable && queue.durable && !queue.exclusive && !queue.auto_delete);
        let argument = |declare: &Declare, name: &str| declare.arguments.inner().get(name).cloned();
        assert_eq!(argument(dead, "x-queue-type"), Some(text("quorum")));
        assert_eq!(argument(dead, "x-dead-letter-exchange"), None);
        assert_eq!(argument(dead, "x-delivery-limit"), limit_of_dead.map(AMQPValue::LongLongInt), "{version}");
        assert_eq!(argument(queue, "x-queue-type"), Some(text("quorum")));
        assert_eq!(argument(queue, "x-overflow"), Some(text("reject-publish")));
        assert_eq!(argument(queue, "x-dead-letter-exchange"), Some(text("")));
        assert_eq!(argument(queue, "x-dead-letter-routing-key"), Some(text("q-dlq")));
        assert_eq!(argument(queue, "x-dead-letter-strategy"), Some(text("at-least-once")));
        assert_eq!(argument(queue, "x-delivery-limit"), Some(AMQPValue::LongLongInt(100)));
        assert_eq!(argument(queue, "x-consumer-timeout"), timeout.then_some(AMQPValue::LongLongInt(7000)));
    }
}

#[test]
fn what_is_there_is_used_and_its_difference_told_once() {
    let (manners, log) = manners("4.3.0", |declare| match (declare.passive, declare.queue.as_str()) {
        (false, "q") => Err((406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type'")),
        (false, "q-dlq") => Err((403, "ACCESS_REFUSED")),
        _ => Ok(0),
    });
    let server = Server::new(manners);
    let mut client = Client::connected(server.config());
    client.declare("q", Some("q-dlq"));
    let Event::Declared { queue, differs: Some(differs) } = client.next() else { panic!() };
    assert_eq!(queue, "q");
    assert!(differs.contains("q-dlq is used as it is, uncompared: ACCESS_REFUSED"), "{differs}");
    assert!(differs.contains("q is used as it is: PRECONDITION_FAILED - inequivalent arg"), "{differs}");
    assert_eq!(named(&log), pairs(&[("q-dlq", true), ("q-dlq", false), ("q", true), ("q", false)]));
    // The channel that was closed over it is open again.
    client.declare("other", None);
    assert_eq!(client.next(), Event::Declared { queue: "other".into(), differs: None });
}

#[test]
fn what_cannot_be_made_is_told_and_not_tried_again() {
    let (manners, log) = manners("3.10.0", |declare| match declare.passive {
        true => NOT_FOUND,
        false => Err((403, "ACCESS_REFUSED - no leave to configure")),
    });
    let server = Server::new(manners);
    let mut client = Client::connected(server.config());
    client.declare("q", None);
    let Event::DeclareFailed { queue, why } = client.next() else { panic!() };
    assert_eq!(queue, "q");
    assert!(why.contains("no leave to configure"), "{why}");
    client.declare("q", Some("dead"));
    let Event::DeclareFailed { queue, why } = client.next() else { panic!() };
    assert_eq!(queue, "q");
    assert!(why.contains("dead-letter queue dead") && why.contains("no leave to configure"), "{why}");
    assert_eq!(named(&log), pairs(&[("q", true), ("q", false), ("dead", true), ("dead", false)]));
}

#[test]
fn depths_are_asked_without_harm() {
    let (manners, _) = manners("4.3.0", |declare| if declare.queue.as_str() == "q" { Ok(42) } else { NOT_FOUND });
    let server = Server::new(manners);
    let mut client = Client::new(server.config());
    client.submit(Op::Depth { queue: "q" });
    assert_eq!(client.next(), Event::DeclareFailed { queue: "q".into(), why: "not connected".into() });
    assert_eq!(client.next(), Event::Connected { epoch: 1 });
    ["q", "missing", "q"].into_iter().for_each(|queue| client.submit(Op::Depth { queue }));
    assert_eq!(client.next(), Event::Depth { queue: "q".into(), ready: 42, unsettled: None });
    assert!(matches!(client.next(), Event::DeclareFailed { queue, .. } if queue == "missing"));
    assert_eq!(client.next(), Event::Depth { queue: "q".into(), ready: 42, unsettled: None });
}

#[test]
fn queues_are_bound_by_bare_name_on_request() {
    use amq_protocol::frame::AMQPFrame;
    use amq_protocol::protocol::{AMQPClass, exchange, queue};

    let server = Server::new(Manners::default());
    let mut config = server.config();
    config.compatibility = Some(Compatibility { exchange: "asya".into(), prefix: "asya-ns-".into() });
    let mut client = Client::connected(config);
    client.declare("asya-ns-step", None);
    client.declare("other", None);
    assert_eq!(client.next(), Event::Declared { queue: "asya-ns-step".into(), differs: None });
    assert_eq!(client.next(), Event::Declared { queue: "other".into(), differs: None });
    let mut bound = Vec::new();
    let mut exchanges = Vec::new();
    loop {
        match server.next_of(crate::rabbitmq::handshake::Role::Publish) {
            AMQPFrame::Method(_, AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare))) => {
                exchanges.push((declare.exchange.to_string(), declare.kind.to_string(), declare.durable));
            }
            AMQPFrame::Method(_, AMQPClass::Queue(queue::AMQPMethod::Bind(bind))) => {
                bound.push([bind.queue.to_string(), bind.exchange.to_string(), bind.routing_key.to_string()]);
            }
            AMQPFrame::Method(_, AMQPClass::Queue(queue::AMQPMethod::Declare(last)))
                if last.queue.as_str() == "other" && !last.passive =>
            {
                break;
            }
            _ => {}
        }
    }
    assert_eq!(exchanges, [("asya".to_owned(), "topic".to_owned(), true)]);
    assert_eq!(bound, [["asya-ns-step", "asya", "step"]]);
}
