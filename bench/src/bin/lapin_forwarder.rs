//! The yardstick: the fastest honest forwarder that `lapin` allows, with the guarantees of a sidecar and no runtime.
//!
//! Takes messages from one quorum queue and publishes them to another: two connections, a prefetch of 1,024, mandatory
//! and persistent publishes, pipelined confirms, and one multiple-ack for what was confirmed in order. A message is
//! acknowledged only after the broker has confirmed its successor and not returned it. Blocks on the broker alone;
//! on any failure it ends with an error, and the broker delivers again what was not acknowledged.

use std::process::ExitCode;

use clap::Parser;
use futures_lite::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, PublisherConfirm};
use tokio::sync::mpsc;

/// Deliveries held at once: published measurements see no gain from windows beyond about 1,000. Others were not tried here.
const WINDOW: u16 = 1024;

/// Forwards every message of one RabbitMQ queue to another.
#[derive(Parser)]
struct Arguments {
    /// amqp://…
    #[arg(long)]
    url: String,
    /// The queue to take from.
    #[arg(long)]
    from: String,
    /// The queue to give to.
    #[arg(long)]
    to: String,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the broker connection failed: {0}")]
    Broker(#[from] lapin::Error),
    #[error("the broker refused or returned a message")]
    Undelivered,
    #[error("the other half of the forwarder has ended")]
    HalfGone,
}

/// A delivery whose successor is on its way.
struct Pending {
    tag: u64,
    confirm: PublisherConfirm,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match forward(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lapin_forwarder: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn forward(arguments: Arguments) -> Result<(), Error> {
    let consuming = Connection::connect(&arguments.url, ConnectionProperties::default()).await?;
    let publishing = Connection::connect(&arguments.url, ConnectionProperties::default()).await?;
    let intake = consuming.create_channel().await?;
    let outlet = publishing.create_channel().await?;
    intake.basic_qos(WINDOW, BasicQosOptions::default()).await?;
    outlet.confirm_select(ConfirmSelectOptions::default()).await?;
    let consumer = intake
        .basic_consume(
            arguments.from.as_str().into(),
            "forwarder".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    // As many as the window holds: neither half ever waits for room.
    let (sender, receiver) = mpsc::channel(usize::from(WINDOW));
    tokio::try_join!(publish(consumer, outlet, arguments.to, sender), settle(intake, receiver)).map(|_| ())
}

/// Publishes each delivery as it comes.
async fn publish(
    mut consumer: Consumer,
    outlet: Channel,
    queue: String,
    pending: mpsc::Sender<Pending>,
) -> Result<(), Error> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let properties: BasicProperties = delivery.properties.with_delivery_mode(2);
        let confirm =
            outlet.basic_publish("".into(), queue.as_str().into(), options, &delivery.data, properties).await?;
        let next = Pending { tag: delivery.delivery_tag, confirm };
        pending.send(next).await.map_err(|_| Error::HalfGone)?;
    }
    Ok(())
}

/// Awaits the confirms in the order of the deliveries, and acknowledges each run of them with one frame.
async fn settle(intake: Channel, mut pending: mpsc::Receiver<Pending>) -> Result<(), Error> {
    let mut batch = Vec::with_capacity(usize::from(WINDOW));
    while pending.recv_many(&mut batch, usize::from(WINDOW) / 4).await > 0 {
        let mut last = 0;
        for Pending { tag, confirm } in batch.drain(..) {
            match confirm.await? {
                Confirmation::Ack(None) => last = tag,
                _ => return Err(Error::Undelivered),
            }
        }
        intake.basic_ack(last, BasicAckOptions { multiple: true }).await?;
    }
    Ok(())
}
