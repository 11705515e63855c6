//! A plain client of SQS for the yardstick and for filling and emptying queues: the SDK as it comes, in batches of ten.
//!
//! Takes an endpoint, gives calls whose every entry is checked. Blocks on the server. A failed entry ends the benchmark.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, Message, MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry,
};
use aws_smithy_http_client::tls;

use crate::Error;

/// Entries of one call.
pub const BATCH: usize = 10;
/// Bytes of one call: bodies, and what stands beside them.
const CALL_BYTES: usize = 1 << 20;
/// Set aside for what stands beside a body, in bytes.
const BESIDE: usize = 512;
/// The attribute with the content type.
pub const CONTENT_TYPE: &str = "asya-content-type";

/// One message to send.
pub struct Outgoing {
    /// Its text.
    pub text: String,
    /// The value of [`CONTENT_TYPE`].
    pub content_type: String,
}

/// A client.
#[derive(Clone)]
pub struct Sqs(Client);

impl Sqs {
    /// A client of a server that takes any key.
    pub fn new(endpoint: &str) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let config = aws_sdk_sqs::config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "benchmark"))
            .http_client(http)
            .endpoint_url(endpoint);
        Self(Client::from_conf(config.build()))
    }

    /// Makes a queue and gives its address.
    pub async fn declare(&self, queue: &str) -> Result<String, Error> {
        let made = self.0.create_queue().queue_name(queue).send().await.map_err(failed)?;
        made.queue_url.ok_or_else(|| failed("a queue without an address"))
    }

    /// Removes a queue and what it holds.
    pub async fn delete(&self, url: &str) -> Result<(), Error> {
        self.0.delete_queue().queue_url(url).send().await.map(drop).map_err(failed)
    }

    /// Messages that wait in a queue.
    pub async fn depth(&self, url: &str) -> Result<u64, Error> {
        let name = QueueAttributeName::ApproximateNumberOfMessages;
        let asked = self.0.get_queue_attributes().queue_url(url).attribute_names(name.clone());
        let answer = asked.send().await.map_err(failed)?;
        let number = answer.attributes().and_then(|all| all.get(&name)).and_then(|text| text.parse().ok());
        number.ok_or_else(|| failed("a depth that is no number"))
    }

    /// Up to ten messages; none when none has come within `wait`.
    pub async fn receive(&self, url: &str, wait: Duration) -> Result<Vec<Message>, Error> {
        let asked = self.0.receive_message().queue_url(url).max_number_of_messages(BATCH as i32);
        let asked = asked.wait_time_seconds(wait.as_secs() as i32).message_attribute_names("All");
        asked.send().await.map(|answer| answer.messages.unwrap_or_default()).map_err(failed)
    }

    /// Sends at most ten messages, in as many calls as their bytes need.
    pub async fn send(&self, url: &str, messages: Vec<Outgoing>) -> Result<(), Error> {
        let (mut entries, mut bytes) = (Vec::with_capacity(BATCH), 0);
        for (at, message) in messages.into_iter().enumerate() {
            let len = message.text.len() + BESIDE;
            if bytes + len > CALL_BYTES {
                self.send_batch(url, std::mem::take(&mut entries)).await?;
                bytes = 0;
            }
            bytes += len;
            let content_type = MessageAttributeValue::builder().data_type("String").string_value(message.content_type);
            let entry = SendMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .message_body(message.text)
                .message_attributes(CONTENT_TYPE, content_type.build().map_err(failed)?);
            entries.push(entry.build().map_err(failed)?);
        }
        self.send_batch(url, entries).await
    }

    async fn send_batch(&self, url: &str, entries: Vec<SendMessageBatchRequestEntry>) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let count = entries.len();
        let answer = self.0.send_message_batch().queue_url(url).set_entries(Some(entries)).send().await;
        let answer = answer.map_err(failed)?;
        let whole = answer.failed().is_empty() && answer.successful().len() == count;
        if whole { Ok(()) } else { Err(failed(answer.failed())) }
    }

    /// Deletes at most ten messages.
    pub async fn settle(&self, url: &str, receipts: Vec<String>) -> Result<(), Error> {
        let entry = |(at, receipt): (usize, String)| {
            DeleteMessageBatchRequestEntry::builder().id(at.to_string()).receipt_handle(receipt).build()
        };
        let entries = receipts.into_iter().enumerate().map(entry).collect::<Result<_, _>>().map_err(failed)?;
        let answer = self.0.delete_message_batch().queue_url(url).set_entries(Some(entries)).send().await;
        let answer = answer.map_err(failed)?;
        if answer.failed().is_empty() { Ok(()) } else { Err(failed(answer.failed())) }
    }
}

fn failed(error: impl std::fmt::Debug) -> Error {
    Error::Stuck { what: format!("the SQS server: {error:?}"), log: String::new() }
}
