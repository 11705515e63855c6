//! The suite that every transport passes, on all versions.

use std::time::{Duration, Instant};

use asya_transport::conformance::{Capabilities, Client, Harness, Verdict, drive, run_case};
use asya_transport::rabbitmq::RabbitMq;
use asya_transport::rabbitmq::admin::Admin;
use tokio::runtime::Runtime;

use crate::broker::{Broker, Lease, fresh_prefix};
use crate::proxy::Proxy;

/// Cases that hurt the broker itself, and so have it for themselves.
const ALONE: [&str; 3] = ["a_blocked_broker_loses_nothing", "confirmed_survives_the_broker", "acknowledged_stays_gone"];

struct RealBroker {
    broker: Broker,
    _lease: Lease,
    alone: bool,
    proxy: Proxy,
    runtime: Runtime,
    start: Instant,
}

impl RealBroker {
    fn new(broker: Broker, case: &str) -> Self {
        let alone = ALONE.contains(&case);
        let lease = if alone { broker.own() } else { broker.share() };
        let config = broker.config();
        Self {
            broker,
            _lease: lease,
            alone,
            proxy: Proxy::new(&config.host, config.port),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            start: Instant::now(),
        }
    }
}

impl Harness for RealBroker {
    type T = RabbitMq;

    fn capabilities(&self) -> Capabilities {
        let uncounted = self.broker.version == Broker::V4_3.version;
        Capabilities {
            keeps_order: true,
            counts_lost: uncounted,
            limit_counts_requeues: !uncounted,
            limit_counts_lost: true,
            max_body: 16 << 20,
            can_break: true,
            can_restart: self.alone,
            can_delete: true,
            can_block: self.alone,
        }
    }

    fn fresh_prefix(&mut self) -> String {
        fresh_prefix()
    }

    fn connect(&mut self) -> RabbitMq {
        let mut config = self.broker.config();
        config.host = "127.0.0.1".to_owned();
        config.port = self.proxy.port;
        RabbitMq::new(config)
    }

    fn step(&mut self, clients: &mut [Client<RabbitMq>], max: Duration) {
        drive(&self.runtime, clients, max);
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn break_connections(&mut self) {
        self.proxy.cut();
    }

    fn restart_broker(&mut self) {
        self.broker.restart();
    }

    fn delete_queue(&mut self, queue: &str) {
        let config = self.broker.config();
        self.runtime.block_on(async { Admin::connect(&config).await.unwrap().delete(queue).await.unwrap() });
    }

    fn block(&mut self, blocked: bool) {
        let watermark = if blocked { "0.0000001" } else { "0.4" };
        self.broker.ctl(&["set_vm_memory_high_watermark", watermark]);
    }
}

fn run(broker: Broker, case: &str) {
    match run_case(&mut RealBroker::new(broker, case), case) {
        Ok(Verdict::Passed) => {}
        Ok(Verdict::Skipped(why)) => eprintln!("skipped: {why}"),
        Err(failure) => panic!("{failure}"),
    }
}

macro_rules! all_versions {
    ($($group:ident: $name:ident,)*) => {
        mod v3_10 {
            $(#[test] fn $name() { super::run(crate::broker::Broker::V3_10, stringify!($name)); })*
        }
        mod v4_0 {
            $(#[test] fn $name() { super::run(crate::broker::Broker::V4_0, stringify!($name)); })*
        }
        mod v4_3 {
            $(#[test] fn $name() { super::run(crate::broker::Broker::V4_3, stringify!($name)); })*
        }
    };
}

asya_transport::conformance_list!(all_versions,);
