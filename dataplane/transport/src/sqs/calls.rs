//! Calls to SQS that are under way, as tasks of the caller's runtime.
//!
//! Takes what to ask, gives a [`Done`] for each when it has ended. Never blocks: the tasks run between the turns of
//! whoever polls. Each call ends, by the time limits of the client. How many are open is bounded by those who ask.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::config::SqsConfig;
use super::queues::{Found, Made, Spec};
use super::trouble::{Answer, Trouble};

/// Entries that SQS takes in one call, and messages that it gives.
pub(super) const BATCH: usize = 10;

/// One call that has ended.
#[derive(Debug)]
pub(super) enum Done {
    /// Somebody is there, or not. The client was made on the way.
    Probed { client: Client, answer: Answer },
    /// A queue was declared.
    Declared { spec: Spec, result: Result<Made, Trouble> },
    /// A queue's address was asked for.
    Resolved { queue: String, result: Result<Found, Trouble> },
    /// A queue's depth was asked for: visible, and not visible.
    Counted { queue: String, result: Result<(u64, u64), Trouble> },
    /// Messages came; `asked` is how many at most, since `since`.
    Received { asked: u32, since: Instant, result: Result<Vec<Message>, Trouble> },
    /// A batch was sent; the answers are in its order.
    Sent { call: u64, result: Result<Vec<Answer>, Trouble> },
    /// Messages were deleted; the answers are in the order of `numbers`.
    Deleted { numbers: Vec<u64>, result: Result<Vec<Answer>, Trouble> },
    /// Visibility timeouts were set (seconds), since `since`; the answers are in the order of `changes`.
    Changed { changes: Vec<(u64, u32)>, since: Instant, result: Result<Vec<Answer>, Trouble> },
}

impl Done {
    /// What is known of SQS now: whether it has answered at all, or why not.
    pub(super) fn heard(&self) -> Answer {
        let trouble = match self {
            Self::Probed { answer, .. } => answer.as_ref().err(),
            Self::Declared { result, .. } => result.as_ref().err(),
            Self::Resolved { result, .. } => result.as_ref().err(),
            Self::Counted { result, .. } => result.as_ref().err(),
            Self::Received { result, .. } => result.as_ref().err(),
            Self::Sent { result, .. } | Self::Deleted { result, .. } | Self::Changed { result, .. } => {
                result.as_ref().err()
            }
        };
        trouble.filter(|trouble| !trouble.is_answer()).map_or(Ok(()), |trouble| Err(trouble.clone()))
    }
}

/// The calls that are open.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: JoinSet<Done>,
}

/// One entry of a batch to send.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) attributes: Vec<(String, MessageAttributeValue)>,
    pub(super) delay_seconds: u32,
}

impl Calls {
    /// The next call that has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Option<Done> {
        match self.open.poll_join_next(cx) {
            Poll::Ready(Some(Ok(done))) => Some(done),
            Poll::Ready(Some(Err(error))) => {
                // Nothing aborts a task but the end of the set: this is a panic, which is the whole thread's.
                std::panic::resume_unwind(error.into_panic())
            }
            Poll::Ready(None) | Poll::Pending => None,
        }
    }

    pub(super) fn start(&mut self, call: impl Future<Output = Done> + Send + 'static) {
        self.open.spawn(call);
    }

    /// Whether anybody is there, by asking for the address of `queue`, which need not exist. Needs no more permission
    /// than any use of SQS does.
    pub(super) fn probe(&mut self, client: Option<Client>, config: Arc<SqsConfig>, queue: String) {
        self.start(async move {
            let client = match client {
                Some(client) => client,
                None => config.client().await,
            };
            let asked = client.get_queue_url().queue_name(queue).send().await;
            let answer = match asked.map_err(Trouble::from) {
                Err(trouble @ (Trouble::Unreachable(_) | Trouble::Unclear(_) | Trouble::Credentials(_))) => {
                    Err(trouble)
                }
                Ok(_) | Err(_) => Ok(()),
            };
            Done::Probed { client, answer }
        });
    }

    pub(super) fn count(&mut self, client: &Client, queue: String, url: &str) {
        use QueueAttributeName::{
            ApproximateNumberOfMessages as Visible, ApproximateNumberOfMessagesNotVisible as Not,
        };
        let call = client.get_queue_attributes().queue_url(url).attribute_names(Visible).attribute_names(Not);
        self.start(async move {
            let number = |all: &std::collections::HashMap<_, String>, name| {
                all.get(&name).and_then(|text| text.parse().ok()).unwrap_or(0)
            };
            let result = call.send().await.map_err(Trouble::from).map(|answer| {
                let all = answer.attributes.unwrap_or_default();
                (number(&all, Visible), number(&all, Not))
            });
            Done::Counted { queue, result }
        });
    }

    pub(super) fn receive(&mut self, client: &Client, config: &SqsConfig, url: &str, asked: u32) {
        let wait = config.wait;
        let call = client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(asked as i32)
            .wait_time_seconds(wait.as_secs() as i32)
            .visibility_timeout(config.visibility_timeout.as_secs() as i32)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_attribute_names("All")
            .customize()
            .config_override(Builder::new().timeout_config(SqsConfig::timeouts(wait)));
        self.start(async move {
            // Leases count from here, which is before SQS counts.
            let since = Instant::now();
            let result = call.send().await.map_err(Trouble::from);
            Done::Received { asked, since, result: result.map(|answer| answer.messages.unwrap_or_default()) }
        });
    }

    pub(super) fn send(&mut self, client: &Client, url: &str, call: u64, entries: Vec<Entry>) {
        let count = entries.len();
        let entries = entries.into_iter().enumerate().map(|(at, entry)| {
            let attributes = (!entry.attributes.is_empty()).then(|| entry.attributes.into_iter().collect());
            SendMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .message_body(entry.text)
                .set_message_attributes(attributes)
                .set_delay_seconds((entry.delay_seconds > 0).then_some(entry.delay_seconds as i32))
                .build()
        });
        let entries: Result<Vec<_>, _> = entries.collect();
        let request = client.send_message_batch().queue_url(url);
        self.start(async move {
            let result = match entries {
                Err(error) => Err(Trouble::Refused(error.to_string())),
                Ok(entries) => request.set_entries(Some(entries)).send().await.map_err(Trouble::from).map(|answer| {
                    answers(count, answer.successful.iter().map(|entry| entry.id.as_str()), &answer.failed)
                }),
            };
            Done::Sent { call, result }
        });
    }

    pub(super) fn delete(&mut self, client: &Client, url: &str, receipts: Vec<(u64, String)>) {
        let (numbers, receipts): (Vec<_>, Vec<_>) = receipts.into_iter().unzip();
        let entries = receipts.into_iter().enumerate().map(|(at, receipt)| {
            DeleteMessageBatchRequestEntry::builder().id(at.to_string()).receipt_handle(receipt).build()
        });
        let entries: Result<Vec<_>, _> = entries.collect();
        let request = client.delete_message_batch().queue_url(url);
        self.start(async move {
            let result = match entries {
                Err(error) => Err(Trouble::Refused(error.to_string())),
                Ok(entries) => request.set_entries(Some(entries)).send().await.map_err(Trouble::from).map(|answer| {
                    answers(numbers.len(), answer.successful.iter().map(|entry| entry.id.as_str()), &answer.failed)
                }),
            };
            Done::Deleted { numbers, result }
        });
    }

    /// Sets visibility timeouts: receipts, with their number and the seconds from now.
    pub(super) fn change(&mut self, client: &Client, url: &str, receipts: Vec<(u64, String, u32)>) {
        let entries = receipts.iter().enumerate().map(|(at, (_, receipt, seconds))| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(at.to_string())
                .receipt_handle(receipt)
                .visibility_timeout(*seconds as i32)
                .build()
        });
        let entries: Result<Vec<_>, _> = entries.collect();
        let changes: Vec<(u64, u32)> = receipts.iter().map(|(number, _, seconds)| (*number, *seconds)).collect();
        let request = client.change_message_visibility_batch().queue_url(url);
        self.start(async move {
            let since = Instant::now();
            let result = match entries {
                Err(error) => Err(Trouble::Refused(error.to_string())),
                Ok(entries) => request.set_entries(Some(entries)).send().await.map_err(Trouble::from).map(|answer| {
                    answers(changes.len(), answer.successful.iter().map(|entry| entry.id.as_str()), &answer.failed)
                }),
            };
            Done::Changed { changes, since, result }
        });
    }
}

/// The address in an answer.
pub(super) fn url_of<E>(
    asked: Result<
        aws_sdk_sqs::operation::get_queue_url::GetQueueUrlOutput,
        aws_sdk_sqs::error::SdkError<E, aws_sdk_sqs::config::http::HttpResponse>,
    >,
) -> Result<String, Trouble>
where
    E: aws_sdk_sqs::error::ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    asked.map_err(Trouble::from)?.queue_url.ok_or_else(|| Trouble::Unclear("an answer without an address".to_owned()))
}

/// What became of each entry of a batch. One that no answer names may or may not have been done.
fn answers<'a>(count: usize, done: impl Iterator<Item = &'a str>, failed: &[BatchResultErrorEntry]) -> Vec<Answer> {
    let done: BTreeMap<&str, Answer> = done
        .map(|id| (id, Ok(())))
        .chain(failed.iter().map(|entry| (entry.id(), Err(Trouble::of_entry(entry)))))
        .collect();
    let unanswered = || Err(Trouble::Unclear("SQS did not say what became of it".to_owned()));
    (0..count).map(|at| done.get(at.to_string().as_str()).cloned().unwrap_or_else(unanswered)).collect()
}

/// Seconds of a time limit of SQS, never shorter than `time`.
pub(super) fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}
