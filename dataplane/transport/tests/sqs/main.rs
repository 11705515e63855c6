//! The SQS transport against real servers of its API: those that `tests/servers/with-brokers.sh --sqs` starts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, outside of test functions")]

mod client;
mod conformance;
#[path = "../rabbitmq/proxy.rs"]
mod proxy;
mod server;
mod specific;
