//! The suite that every transport passes, on servers of SQS's API.

use std::time::{Duration, Instant};

use asya_transport::conformance::{Capabilities, Client, Harness, Verdict, drive, run_case};
use asya_transport::sqs::Sqs;
use asya_transport::{Op, Transport};
use tokio::runtime::Runtime;

use crate::server::{Server, VISIBILITY, fresh_prefix};

/// What SQS cannot do, by the case that is skipped for it, and where AWS says so. A case that is skipped and not in this
/// list fails.
const CANNOT: &[(&str, &str)] = &[
    ("order_is_kept", "standard queues keep no order: SQSDeveloperGuide/standard-queues.html"),
    (
        "a_blocked_broker_loses_nothing",
        "SQS has no state in which it takes no messages: SQSDeveloperGuide/sqs-quotas.html",
    ),
    ("losses_are_counted", "ApproximateReceiveCount counts every receipt alike: APIReference/API_ReceiveMessage.html"),
    // What becomes of a client without a network is shown in `network.rs`.
    ("a_broken_connection_answers_open_publishes_first", REQUESTS),
    ("publishing_while_disconnected_is_lost", REQUESTS),
    ("unsettled_come_back_after_a_broken_connection", REQUESTS),
    ("a_void_tag_settles_nothing", REQUESTS),
    ("consuming_resumes_after_a_broken_connection", REQUESTS),
    ("a_canceled_consumer_stays_canceled_after_a_broken_connection", REQUESTS),
    // Durability is AWS's: the servers of these tests keep everything in memory.
    ("confirmed_survives_the_broker", DURABLE),
    ("acknowledged_stays_gone", DURABLE),
];

/// Beginning of the pages below: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/>.
const REQUESTS: &str =
    "SQS is used by requests, a lease outlives any connection: SQSDeveloperGuide/sqs-visibility-timeout.html";
const DURABLE: &str = "SQS keeps each message on several servers: SQSDeveloperGuide/sqs-data-protection.html";

struct RealServer {
    server: Server,
    runtime: Runtime,
    start: Instant,
    kept: Instant,
}

impl RealServer {
    fn new(server: Server) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { server, runtime, start: Instant::now(), kept: Instant::now() }
    }
}

impl Harness for RealServer {
    type T = Sqs;

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            keeps_order: false,
            counts_lost: false,
            limit_counts_requeues: true,
            limit_counts_lost: true,
            max_body: asya_transport::sqs::body::body_limit(asya_transport::sqs::body::MESSAGE_BYTES_MAX),
            can_break: false,
            can_restart: false,
            can_delete: true,
            can_block: false,
        }
    }

    fn fresh_prefix(&mut self) -> String {
        fresh_prefix()
    }

    fn connect(&mut self) -> Sqs {
        Sqs::new(self.server.config())
    }

    /// Keeps what is held, as a core does, so that a slow machine changes nothing.
    fn step(&mut self, clients: &mut [Client<Sqs>], max: Duration) {
        let beat = VISIBILITY / 4;
        let holds = clients.iter().any(|client| !client.ledger.held.is_empty());
        if holds && self.kept.elapsed() >= beat {
            self.kept = Instant::now();
            for client in clients.iter_mut() {
                for held in &client.ledger.held {
                    client.transport.submit(Op::Extend { tag: held.tag, by: VISIBILITY });
                }
            }
        }
        drive(&self.runtime, clients, if holds { max.min(beat) } else { max });
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn delete_queue(&mut self, queue: &str) {
        self.runtime.block_on(async {
            let client = self.server.client();
            let url = client.get_queue_url().queue_name(queue).send().await.unwrap().queue_url.unwrap();
            client.delete_queue().queue_url(url).send().await.unwrap();
        });
    }
}

fn run(server: Server, case: &str) {
    match run_case(&mut RealServer::new(server), case) {
        Ok(Verdict::Passed) => {}
        Ok(Verdict::Skipped(why)) => {
            let cited = CANNOT.iter().find(|(name, _)| *name == case);
            let (_, cited) = cited.unwrap_or_else(|| panic!("skipped without a reason of SQS: {why}"));
            eprintln!("skipped: {why} ({cited})");
        }
        Err(failure) => panic!("{failure}"),
    }
}

macro_rules! on_each {
    ($($group:ident: $name:ident,)*) => {
        mod elasticmq {
            $(#[test] fn $name() { super::run(crate::server::Server::ELASTICMQ, stringify!($name)); })*
        }
        mod ministack {
            $(#[test] fn $name() { super::run(crate::server::Server::MINISTACK, stringify!($name)); })*
        }
    };
}

asya_transport::conformance_list!(on_each,);
