//! The RabbitMQ transport against real brokers, 3.10 and 4.3.
//!
//! Needs brokers: `tests/servers/with-brokers.sh --tls -- cargo test -p asya-transport --features broker-tests --test rabbitmq`
//! starts them and tells where they are. Without them every test here fails and says so: a suite that is skipped
//! looks like one that passed.

mod broker;
mod conformance;
mod proxy;
