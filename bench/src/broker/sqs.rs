//! SQS's side of [`super`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use asya_envelope::{Encoding, Route};
use base64_simd::STANDARD;
use tokio::task::JoinSet;

use super::Tally;
use crate::Error;
use crate::message::Kind;
use crate::sqs::{BATCH, CONTENT_TYPE, Outgoing, Sqs as Client};

/// Calls that are open at once while a queue is filled or emptied.
const OPEN: usize = 16;
/// Nothing has come for so long: nothing will.
const SILENCE: Duration = Duration::from_secs(30);

/// A client for filling, watching and emptying queues.
pub struct Sqs {
    client: Client,
    urls: RefCell<BTreeMap<String, String>>,
}

impl Sqs {
    /// A client of this server.
    pub fn new(endpoint: &str) -> Self {
        Self { client: Client::new(endpoint), urls: RefCell::default() }
    }

    /// Makes a queue.
    pub async fn declare(&self, queue: &str) -> Result<(), Error> {
        let url = self.client.declare(queue).await?;
        self.urls.borrow_mut().insert(queue.to_owned(), url);
        Ok(())
    }

    fn url(&self, queue: &str) -> String {
        self.urls.borrow().get(queue).cloned().unwrap_or_default()
    }

    /// Removes a queue and what it holds.
    pub async fn delete(&self, queue: &str) -> Result<(), Error> {
        self.client.delete(&self.url(queue)).await
    }

    /// Messages that wait in a queue.
    pub async fn depth(&self, queue: &str) -> Result<u64, Error> {
        self.client.depth(&self.url(queue)).await
    }

    /// Sends messages `0..count`, each taken.
    pub async fn fill(&self, queue: &str, kind: Kind, count: u64, route: &Route) -> Result<(), Error> {
        let url = self.url(queue);
        let mut calls = JoinSet::new();
        for first in (0..count).step_by(BATCH) {
            let outgoing = (first..count.min(first + BATCH as u64)).map(|number| {
                let body = kind.body(number, route);
                let text = match kind.encoding() {
                    Encoding::Json => String::from_utf8(body).unwrap_or_default(),
                    Encoding::Native => STANDARD.encode_to_string(body),
                };
                Outgoing { text, content_type: kind.encoding().content_type().to_owned() }
            });
            let (client, url, outgoing) = (self.client.clone(), url.clone(), outgoing.collect());
            calls.spawn(async move { client.send(&url, outgoing).await });
            if calls.len() == OPEN {
                ended(calls.join_next().await)?;
            }
        }
        while !calls.is_empty() {
            ended(calls.join_next().await)?;
        }
        Ok(())
    }

    /// Takes all messages out of a queue and checks each; an error when one is missing, changed or there twice.
    pub async fn empty(&self, queue: &str, kind: Kind, count: u64, added: u64) -> Result<(), Error> {
        let url = self.url(queue);
        let mut tally = Tally::new(count);
        let mut last = Instant::now();
        let mut calls = JoinSet::new();
        while !tally.complete() && last.elapsed() < SILENCE {
            while calls.len() < OPEN {
                let (client, url) = (self.client.clone(), url.clone());
                calls.spawn(async move { take(&client, &url).await });
            }
            for (content_type, text) in ended(calls.join_next().await)? {
                last = Instant::now();
                let native = content_type == Encoding::Native.content_type();
                let body = if native { STANDARD.decode_to_vec(&text).unwrap_or_default() } else { text.into_bytes() };
                tally.take(kind, &body, added)?;
            }
        }
        tally.verdict()
    }
}

/// Takes up to ten messages out of a queue: the content type and text of each.
async fn take(client: &Client, url: &str) -> Result<Vec<(String, String)>, Error> {
    let messages = client.receive(url, Duration::from_secs(1)).await?;
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let receipts = messages.iter().filter_map(|message| message.receipt_handle.clone()).collect();
    client.settle(url, receipts).await?;
    let content = |message: aws_sdk_sqs::types::Message| {
        let attribute = message.message_attributes.as_ref().and_then(|all| all.get(CONTENT_TYPE));
        let content_type = attribute.and_then(|value| value.string_value.clone()).unwrap_or_default();
        (content_type, message.body.unwrap_or_default())
    };
    Ok(messages.into_iter().map(content).collect())
}

fn ended<T>(call: Option<Result<Result<T, Error>, tokio::task::JoinError>>) -> Result<T, Error> {
    let gone = || Error::Stuck { what: "a call to the SQS server".to_owned(), log: String::new() };
    call.and_then(Result::ok).unwrap_or_else(|| Err(gone()))
}
