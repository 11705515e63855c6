//! The yardstick for the embedded broker: a forwarder over its own client, with the guarantees of a sidecar and no runtime.
//!
//! Takes messages from one queue and publishes them to another, straight from where they lie. A message is acknowledged
//! only after its successor is confirmed. Blocks on the broker alone; ends with an error on any failure.

use std::path::PathBuf;
use std::process::ExitCode;

use asya_bench::Error;
use asya_bench::courier::{Courier, Moved, moved};
use asya_bench::heap::Heap;
use asya_transport::embedded::EmbeddedTransport;
use asya_transport::{Delivery, Memory, Settlement};
use clap::Parser;

/// Deliveries held at once, as in the forwarder for RabbitMQ.
const WINDOW: u32 = 1024;

/// Forwards every message of one queue to another.
#[derive(Parser)]
struct Arguments {
    /// The broker's socket.
    #[arg(long)]
    socket: PathBuf,
    /// The queue to take from.
    #[arg(long)]
    from: String,
    /// The queue to give to.
    #[arg(long)]
    to: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match forward(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embedded_forwarder: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn forward(arguments: Arguments) -> Result<(), Error> {
    let mut courier = Courier::connect(EmbeddedTransport::new(&arguments.socket)).await?;
    courier.consume(&arguments.from, WINDOW);
    // A publish is named by the slot of its body, which stays taken until it is confirmed.
    let mut open: Vec<Option<Delivery>> = Vec::new();
    loop {
        courier.events().await?;
        while let Some(event) = courier.arrived() {
            match moved(event)? {
                Moved::Came(delivery) => {
                    let token = delivery.slot.0 as usize;
                    if open.len() <= token {
                        open.resize(token + 1, None);
                    }
                    let part = [Heap::whole(delivery.slot, delivery.len)];
                    courier.publish(token as u64, &arguments.to, delivery.content_type, "", &[], &part);
                    if let Some(place) = open.get_mut(token) {
                        *place = Some(delivery);
                    }
                }
                Moved::Confirmed(token) => {
                    if let Some(delivery) = open.get_mut(token as usize).and_then(Option::take) {
                        courier.settle(delivery.tag, Settlement::Ack);
                        courier.heap.release(delivery.slot);
                    }
                }
            }
        }
    }
}
