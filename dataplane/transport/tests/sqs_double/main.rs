//! The SQS transport against a server that fails as it is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, outside of test functions")]

#[path = "../sqs/client.rs"]
mod client;
mod double;
mod lending;
mod network;
mod receiving;
mod sending;
