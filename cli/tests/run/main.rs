//! `asya run` and the commands beside it, with real processes.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod dead;
mod embedded;
#[cfg(feature = "broker-tests")]
mod rabbitmq;
