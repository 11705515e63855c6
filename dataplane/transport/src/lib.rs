//! Bytes in and out: every broker behind one small, poll-based trait.
//!
//! A [`Transport`] takes operations ([`Transport::submit`]), writes them out once a turn ([`Transport::flush`]) and
//! gives what has happened since ([`Transport::poll`]). It never blocks and owns no thread of its own on the message
//! path. It knows nothing of envelopes: a body is bytes with a content type.
//!
//! One transport consumes one queue and publishes to any. Time is read only inside a transport (heartbeats, backoff),
//! so the simulated broker of the test suite implements the same trait on a seeded clock.

#[cfg(feature = "rabbitmq")]
pub mod amqp;
pub mod api;
#[cfg(any(feature = "rabbitmq", feature = "sqs"))]
mod backoff;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "sqs")]
pub mod sqs;

pub use api::*;
