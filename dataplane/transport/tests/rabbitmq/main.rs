//! The RabbitMQ transport against real brokers, 3.10, 4.0 and 4.3.
//!
//! Needs brokers: `tests/servers/with-brokers.sh 3.10 4.0 4.3 --tls -- cargo test -p asya-transport --features
//! broker-tests --test rabbitmq` starts them and tells where they are. Without them every test here fails and says so: a suite that is
//! skipped looks like one that passed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod broker;
mod client;
mod conformance;
mod delays;
mod oracle;
mod proxy;
mod specific;
mod tls;
