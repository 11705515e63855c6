//! The yardstick on SQS: a raw forwarder over the SDK, with the guarantees and the batching of a sidecar and no runtime.
//!
//! Takes messages from one queue and sends them to another: so many receivers at once, each of which takes up to ten, sends
//! them in one call, reads the result of every entry, and deletes the ten in one call. A message is deleted only after its
//! successor is taken. Blocks on the server alone; on any failure it ends with an error, and leases bring back the rest.

use std::process::ExitCode;
use std::time::Duration;

use asya_bench::Error;
use asya_bench::sqs::{CONTENT_TYPE, Outgoing, Sqs};
use clap::Parser;

/// Forwards every message of one SQS queue to another.
#[derive(Parser)]
struct Arguments {
    /// The server.
    #[arg(long)]
    endpoint: String,
    /// The queue to take from.
    #[arg(long)]
    from: String,
    /// The queue to give to.
    #[arg(long)]
    to: String,
    /// Receivers at once: as many as a sidecar has.
    #[arg(long, default_value_t = 20)]
    receivers: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match forward(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sqs_forwarder: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn forward(arguments: Arguments) -> Result<(), Error> {
    let sqs = Sqs::new(&arguments.endpoint);
    let (from, to) = (sqs.declare(&arguments.from).await?, sqs.declare(&arguments.to).await?);
    let mut receivers = tokio::task::JoinSet::new();
    for _ in 0..arguments.receivers {
        receivers.spawn(receive(sqs.clone(), from.clone(), to.clone()));
    }
    while let Some(ended) = receivers.join_next().await {
        ended.unwrap_or_else(|_| Err(Error::Stuck { what: "a receiver".to_owned(), log: String::new() }))?;
    }
    Ok(())
}

async fn receive(sqs: Sqs, from: String, to: String) -> Result<(), Error> {
    loop {
        let messages = sqs.receive(&from, Duration::from_secs(1)).await?;
        if messages.is_empty() {
            continue;
        }
        let (mut outgoing, mut receipts) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
        for message in messages {
            let attribute = message.message_attributes.as_ref().and_then(|all| all.get(CONTENT_TYPE));
            let content_type = attribute.and_then(|value| value.string_value.clone()).unwrap_or_default();
            outgoing.push(Outgoing { text: message.body.unwrap_or_default(), content_type });
            receipts.extend(message.receipt_handle);
        }
        sqs.send(&to, outgoing).await?;
        sqs.settle(&from, receipts).await?;
    }
}
