//! RabbitMQ's side of [`super`]: `lapin` before and after a run; during it only a queue's depth is asked for, so that the
//! measured process and the broker have the machine to themselves.

use std::collections::VecDeque;
use std::time::Duration;

use asya_envelope::Route;
use futures_lite::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, PublisherConfirm};

use super::Tally;
use crate::Error;
use crate::message::Kind;

/// Publishes that are open at once while a queue is filled.
const OPEN: usize = 512;
/// Deliveries held while a queue is emptied; acknowledged by halves.
const WINDOW: u16 = 256;

/// A connection for filling, watching and emptying queues.
pub struct RabbitMq {
    connection: Connection,
    watch: Channel,
}

impl RabbitMq {
    /// Connects.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let watch = connection.create_channel().await?;
        Ok(Self { connection, watch })
    }

    /// Makes a quorum queue, as a sidecar would.
    pub async fn declare(&self, queue: &str) -> Result<(), Error> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        self.watch.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await?;
        Ok(())
    }

    /// Removes a queue and what it holds.
    pub async fn delete(&self, queue: &str) -> Result<(), Error> {
        self.watch.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }

    /// Messages that wait in a queue.
    pub async fn depth(&self, queue: &str) -> Result<u64, Error> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let found = self.watch.queue_declare(queue.into(), options, FieldTable::default()).await?;
        Ok(u64::from(found.message_count()))
    }

    /// Publishes messages `0..count`, all confirmed.
    pub async fn fill(&self, queue: &str, kind: Kind, count: u64, route: &Route) -> Result<(), Error> {
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut open: VecDeque<PublisherConfirm> = VecDeque::with_capacity(OPEN);
        for number in 0..count {
            if open.len() == OPEN
                && let Some(oldest) = open.pop_front()
            {
                confirmed(oldest).await?;
            }
            let properties = BasicProperties::default()
                .with_content_type(kind.encoding().content_type().into())
                .with_delivery_mode(2)
                .with_message_id(format!("m-{number}").into());
            let body = kind.body(number, route);
            open.push_back(channel.basic_publish("".into(), queue.into(), options, &body, properties).await?);
        }
        for rest in open {
            confirmed(rest).await?;
        }
        channel.close(200, "filled".into()).await?;
        Ok(())
    }

    /// Takes all messages out of a queue and checks each; an error when one is missing, changed or there twice.
    pub async fn empty(&self, queue: &str, kind: Kind, count: u64, added: u64) -> Result<(), Error> {
        let channel = self.connection.create_channel().await?;
        channel.basic_qos(WINDOW, BasicQosOptions::default()).await?;
        let mut consumer = channel
            .basic_consume(queue.into(), "collector".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await?;
        let mut tally = Tally::new(count);
        let mut unacknowledged = 0;
        while !tally.complete() {
            let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await else {
                break;
            };
            let delivery = delivery?;
            tally.take(kind, &delivery.data, added)?;
            unacknowledged += 1;
            if unacknowledged == WINDOW / 2 || tally.complete() {
                unacknowledged = 0;
                channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
            }
        }
        tally.verdict()?;
        channel.close(200, "emptied".into()).await?;
        Ok(())
    }
}

async fn confirmed(confirm: PublisherConfirm) -> Result<(), Error> {
    match confirm.await? {
        lapin::Confirmation::Ack(None) => Ok(()),
        other => Err(Error::Wrong { id: "?".to_owned(), why: format!("the broker did not take it: {other:?}") }),
    }
}
