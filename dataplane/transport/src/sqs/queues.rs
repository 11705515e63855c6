//! Queues by name: their addresses, and the making of those that are declared.
//!
//! Takes names and declarations, gives addresses and answers. Never blocks. What is declared is remembered and made
//! again when it is found missing. A queue that is there is used as it is; in what it differs is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::ProvideErrorMetadata as _;
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use tokio::time::{Instant, sleep_until};

use super::body::MESSAGE_BYTES_MAX;
use super::calls::{Calls, Done, url_of};
use super::config::SqsConfig;
use super::trouble::Trouble;
use crate::api::{Event, QueueSpec};
use crate::backoff::Backoff;

/// Calls of each kind here that are open at once: a start declares three queues; more would only be throttled.
const OPEN_MAX: usize = 4;
/// Addresses that are kept. A handler that makes up names must not make this grow without end.
const KNOWN_MAX: usize = 4096;
/// SQS refuses a name for a minute after its queue was deleted; a declaration waits for that, and a little longer.
const DECLARE_TIME_MAX: Duration = Duration::from_secs(75);
/// How long a queue keeps what nobody takes: the longest that SQS allows, 14 days.
const RETENTION: &str = "1209600";

/// A declaration that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) queue: String,
    pub(super) dead_letter: Option<String>,
    pub(super) delivery_limit: u32,
}

/// A queue that is there.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) url: String,
    pub(super) dead_letter_url: Option<String>,
    /// Where it dead-letters to.
    pub(super) dead_letter: Option<String>,
    pub(super) differs: Option<String>,
    /// The largest message that it takes, where it says so.
    pub(super) message_bytes_max: Option<u64>,
}

/// A queue that was looked for.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) url: String,
    /// Where it dead-letters to, if that was asked for.
    pub(super) dead_letter: Option<Option<String>>,
}

/// What is known of queues.
#[derive(Debug, Default)]
pub(super) struct Queues {
    remembered: Vec<Spec>,
    known: BTreeMap<String, Arc<str>>,
    /// Where queues dead-letter to, of those that were declared or are consumed.
    dead_letters: BTreeMap<String, Option<String>>,
    /// Largest messages of the queues that were declared.
    sizes: BTreeMap<String, u64>,
    /// To be declared: bounded by what is remembered.
    to_declare: VecDeque<Spec>,
    /// Being declared.
    declaring: Vec<Spec>,
    /// Names, and whether their dead-letter queue is asked for too.
    to_resolve: VecDeque<(String, bool)>,
    /// Waiting to be resolved, or being resolved.
    resolving: BTreeSet<String>,
    resolves: usize,
    /// To be counted: bounded by those who ask.
    to_count: VecDeque<String>,
    counting: usize,
}

/// Whether SQS can have a queue of this name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=80).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

impl Queues {
    /// Remembers a declaration and has it done.
    pub(super) fn declare(&mut self, spec: QueueSpec<'_>) {
        let spec = Spec {
            queue: spec.queue.to_owned(),
            dead_letter: spec.dead_letter.map(str::to_owned),
            delivery_limit: spec.delivery_limit,
        };
        self.remembered.retain(|known| known.queue != spec.queue);
        self.remembered.push(spec.clone());
        self.to_declare.push_back(spec);
    }

    /// Does everything again that is remembered.
    pub(super) fn declare_all(&mut self) {
        self.to_declare = self.remembered.iter().cloned().collect();
    }

    /// Does one declaration again. Whether it is remembered.
    pub(super) fn declare_again(&mut self, queue: &str) -> bool {
        let Some(spec) = self.remembered.iter().find(|spec| spec.queue == queue) else { return false };
        if !self.to_declare.contains(spec) && !self.declaring.contains(spec) {
            self.to_declare.push_back(spec.clone());
        }
        true
    }

    /// Whether every declaration is answered.
    pub(super) fn all_declared(&self) -> bool {
        self.to_declare.is_empty() && self.declaring.is_empty()
    }

    /// A name to probe with: one that permissions are likely to allow.
    pub(super) fn probe_name(&self) -> &str {
        self.remembered.last().map_or("asya", |spec| &spec.queue)
    }

    /// The address of a queue, if it is known.
    pub(super) fn url(&self, queue: &str) -> Option<Arc<str>> {
        self.known.get(queue).cloned()
    }

    /// Asks for the address of a queue, unless that is being asked already.
    pub(super) fn resolve(&mut self, queue: &str) {
        if self.resolving.insert(queue.to_owned()) {
            self.to_resolve.push_back((queue.to_owned(), false));
        }
    }

    /// Asks for the address and the dead-letter queue of a queue, unless that is being asked already.
    pub(super) fn resolve_to_consume(&mut self, queue: &str) {
        if self.resolving.insert(queue.to_owned()) {
            self.to_resolve.push_back((queue.to_owned(), true));
        }
    }

    /// The queue turned out not to be there.
    pub(super) fn forget(&mut self, queue: &str) {
        self.known.remove(queue);
    }

    /// Asks how many messages a queue holds.
    pub(super) fn count(&mut self, queue: &str) {
        self.to_count.push_back(queue.to_owned());
    }

    /// The dead-letter queue of a queue, which may have none; `None` while that is not known.
    pub(super) fn dead_letter(&self, queue: &str) -> Option<Option<&str>> {
        self.dead_letters.get(queue).map(Option::as_deref)
    }

    /// The largest message that a queue takes, as far as it is known.
    pub(super) fn message_bytes_max(&self, queue: &str) -> u64 {
        self.sizes.get(queue).copied().unwrap_or(MESSAGE_BYTES_MAX)
    }

    /// The largest message that each queue takes, as far as it is known.
    pub(super) fn least_message_bytes_max(&self) -> u64 {
        self.sizes.values().copied().min().unwrap_or(MESSAGE_BYTES_MAX)
    }

    /// Starts what is due.
    pub(super) fn start(
        &mut self,
        client: &Client,
        config: &Arc<SqsConfig>,
        calls: &mut Calls,
        events: &mut Vec<Event>,
    ) {
        while self.declaring.len() < OPEN_MAX
            && let Some(spec) = self.to_declare.pop_front()
        {
            if !std::iter::once(&spec.queue).chain(&spec.dead_letter).all(|name| is_name(name)) {
                let why = "SQS takes names of 1 to 80 letters, digits, hyphens and underscores".to_owned();
                events.push(Event::DeclareFailed { queue: spec.queue, why });
                continue;
            }
            self.declaring.push(spec.clone());
            let (client, config) = (client.clone(), Arc::clone(config));
            calls.start(async move {
                let result = declare_patiently(&client, &config, &spec).await;
                Done::Declared { spec, result }
            });
        }
        while self.resolves < OPEN_MAX
            && let Some((queue, to_consume)) = self.to_resolve.pop_front()
        {
            self.resolves += 1;
            let client = client.clone();
            calls.start(async move {
                let result = find(&client, &queue, to_consume).await;
                Done::Resolved { queue, result }
            });
        }
        self.start_counting(client, calls, events);
    }

    fn start_counting(&mut self, client: &Client, calls: &mut Calls, events: &mut Vec<Event>) {
        let mut waiting = VecDeque::new();
        while self.counting < OPEN_MAX
            && let Some(queue) = self.to_count.pop_front()
        {
            if let Some(url) = self.url(&queue) {
                self.counting += 1;
                calls.count(client, queue, &url);
            } else if is_name(&queue) {
                self.resolve(&queue);
                waiting.push_back(queue);
            } else {
                events.push(Event::DeclareFailed { queue, why: Trouble::NoQueue.to_string() });
            }
        }
        waiting.append(&mut self.to_count);
        self.to_count = waiting;
    }

    /// Answers every question for a depth, when nobody can be asked.
    pub(super) fn fail_counts(&mut self, why: &str, events: &mut Vec<Event>) {
        let failed = |queue| Event::DeclareFailed { queue, why: why.to_owned() };
        events.extend(self.to_count.drain(..).map(failed));
    }

    /// A declaration is answered.
    pub(super) fn declared(&mut self, spec: &Spec, result: Result<Made, Trouble>, events: &mut Vec<Event>) {
        if let Some(at) = self.declaring.iter().position(|declaring| declaring == spec) {
            self.declaring.swap_remove(at);
        }
        let queue = spec.queue.clone();
        match result {
            Ok(made) => {
                self.know(&queue, &made.url);
                if let (Some(name), Some(url)) = (&spec.dead_letter, &made.dead_letter_url) {
                    self.know(name, url);
                }
                self.dead_letters.insert(queue.clone(), made.dead_letter.or_else(|| spec.dead_letter.clone()));
                self.sizes.insert(queue.clone(), made.message_bytes_max.unwrap_or(MESSAGE_BYTES_MAX));
                events.push(Event::Declared { queue, differs: made.differs });
            }
            Err(trouble) => events.push(Event::DeclareFailed { queue, why: trouble.to_string() }),
        }
    }

    /// The question for an address is answered; gives the trouble where it is not known now.
    pub(super) fn resolved(
        &mut self,
        queue: &str,
        result: Result<Found, Trouble>,
        events: &mut Vec<Event>,
    ) -> Result<(), Trouble> {
        self.resolves -= 1;
        self.resolving.remove(queue);
        match result {
            Ok(found) => {
                self.know(queue, &found.url);
                self.dead_letters.extend(found.dead_letter.map(|name| (queue.to_owned(), name)));
                Ok(())
            }
            Err(trouble) => {
                let why = trouble.to_string();
                let asked = self.to_count.len();
                self.to_count.retain(|name| name != queue);
                for _ in self.to_count.len()..asked {
                    events.push(Event::DeclareFailed { queue: queue.to_owned(), why: why.clone() });
                }
                Err(trouble)
            }
        }
    }

    /// The question for a depth is answered.
    pub(super) fn counted(&mut self, queue: String, result: Result<(u64, u64), Trouble>, events: &mut Vec<Event>) {
        self.counting -= 1;
        if result == Err(Trouble::NoQueue) {
            self.forget(&queue);
        }
        events.push(match result {
            Ok((ready, unsettled)) => Event::Depth { queue, ready, unsettled: Some(unsettled) },
            Err(trouble) => Event::DeclareFailed { queue, why: trouble.to_string() },
        });
    }

    fn know(&mut self, queue: &str, url: &str) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(queue.to_owned(), url.into());
    }
}

async fn find(client: &Client, queue: &str, to_consume: bool) -> Result<Found, Trouble> {
    let url = url_of(client.get_queue_url().queue_name(queue).send().await)?;
    let dead_letter = match to_consume {
        true => Some(dead_letter_of(&attributes_of(client, &url).await?)),
        false => None,
    };
    Ok(Found { url, dead_letter })
}

/// Declares a queue, again and again while SQS asks for patience.
async fn declare_patiently(client: &Client, config: &SqsConfig, spec: &Spec) -> Result<Made, Trouble> {
    let until = Instant::now() + DECLARE_TIME_MAX;
    let mut backoff = Backoff::new();
    loop {
        match declare(client, config, spec).await {
            Err(Trouble::Later(why)) => {
                let again = backoff.failed(Instant::now());
                if again >= until {
                    return Err(Trouble::Later(why));
                }
                tracing::debug!(queue = spec.queue, why, "SQS asks to declare later");
                sleep_until(again).await;
            }
            result => return result,
        }
    }
}

/// The dead-letter queue first: a target is there before what points at it.
async fn declare(client: &Client, config: &SqsConfig, spec: &Spec) -> Result<Made, Trouble> {
    let mut attributes = vec![
        (Attribute::MessageRetentionPeriod, RETENTION.to_owned()),
        (Attribute::MaximumMessageSize, MESSAGE_BYTES_MAX.to_string()),
        (Attribute::VisibilityTimeout, config.visibility_timeout.as_secs().to_string()),
    ];
    let mut dead_letter_url = None;
    if let Some(name) = &spec.dead_letter {
        let (url, _) = have(client, config, name, &attributes).await?;
        let arn = attributes_of(client, &url).await?.remove(&Attribute::QueueArn);
        let arn = arn.ok_or_else(|| Trouble::Unclear(format!("the queue {name} has no ARN")))?;
        dead_letter_url = Some(url);
        // The count is a number: SQS takes text as well, servers like it do not.
        let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":{}}}"#, spec.delivery_limit);
        attributes.push((Attribute::RedrivePolicy, policy));
    }
    let (url, made) = have(client, config, &spec.queue, &attributes).await?;
    let found = attributes_of(client, &url).await?;
    let message_bytes_max = found.get(&Attribute::MaximumMessageSize).and_then(|text| text.parse().ok());
    let differs = (!made).then(|| differences(&attributes, &found)).filter(|text| !text.is_empty());
    let dead_letter = dead_letter_of(&found);
    Ok(Made { url, dead_letter_url, dead_letter, differs, message_bytes_max })
}

/// The address of a queue, which is made where it is not there; and whether it was made.
async fn have(
    client: &Client,
    config: &SqsConfig,
    name: &str,
    attributes: &[(Attribute, String)],
) -> Result<(String, bool), Trouble> {
    match url_of(client.get_queue_url().queue_name(name).send().await) {
        Ok(url) => return Ok((url, false)),
        Err(Trouble::NoQueue) => {}
        Err(trouble) => return Err(trouble),
    }
    let mut call = client.create_queue().queue_name(name).set_attributes(Some(attributes.iter().cloned().collect()));
    for (key, value) in &config.tags {
        call = call.tags(key, value);
    }
    if let Some(actor) = config.actor_prefix.as_deref().and_then(|prefix| name.strip_prefix(prefix)) {
        call = call.tags("asya.sh/actor", actor.strip_suffix("-dlq").unwrap_or(actor));
    }
    match call.send().await {
        Ok(made) => {
            let url = made.queue_url.ok_or_else(|| Trouble::Unclear("an answer without an address".to_owned()))?;
            Ok((url, true))
        }
        // Somebody else was faster, and made it differently: that one is used.
        Err(error)
            if error
                .code()
                .is_some_and(|code| code.ends_with("QueueNameExists") || code.ends_with("QueueAlreadyExists")) =>
        {
            Ok((url_of(client.get_queue_url().queue_name(name).send().await)?, false))
        }
        Err(error) => Err(error.into()),
    }
}

async fn attributes_of(client: &Client, url: &str) -> Result<std::collections::HashMap<Attribute, String>, Trouble> {
    let asked = client.get_queue_attributes().queue_url(url).attribute_names(Attribute::All).send().await;
    Ok(asked.map_err(Trouble::from)?.attributes.unwrap_or_default())
}

/// The name of the queue that a queue dead-letters to: the last part of its ARN.
fn dead_letter_of(found: &std::collections::HashMap<Attribute, String>) -> Option<String> {
    let (arn, _) = policy(found.get(&Attribute::RedrivePolicy)?);
    arn?.rsplit(':').next().map(str::to_owned)
}

/// In what a queue differs from what was asked for. What a server does not tell does not differ, but for the policy: a
/// queue without one dead-letters nothing. The visibility timeout does not matter: each receipt asks for its own.
fn differences(wanted: &[(Attribute, String)], found: &std::collections::HashMap<Attribute, String>) -> String {
    let mut differs = Vec::new();
    for (name, wanted) in wanted {
        let found = found.get(name);
        match name {
            Attribute::VisibilityTimeout => {}
            Attribute::RedrivePolicy => {
                let (wanted, found) = (policy(wanted), found.map(|text| policy(text)).unwrap_or_default());
                if wanted != found {
                    let (target, count) = found;
                    differs.push(match target {
                        Some(target) => format!("it dead-letters to {target} after {}", count.unwrap_or_default()),
                        None => "it has no dead-letter queue".to_owned(),
                    });
                }
            }
            _ => differs.extend(found.filter(|found| *found != wanted).map(|found| format!("{name} is {found}"))),
        }
    }
    differs.join("; ")
}

/// Target and count of a redrive policy, from its JSON: a flat object of two members, in any order.
fn policy(text: &str) -> (Option<String>, Option<u64>) {
    let member = |name: &str| {
        let rest = text.split_once(&format!("\"{name}\""))?.1.trim_start().strip_prefix(':')?.trim_start();
        let rest = rest.strip_prefix('"').unwrap_or(rest);
        Some(rest.split(['"', ',', '}']).next()?.trim().to_owned())
    };
    (member("deadLetterTargetArn"), member("maxReceiveCount").and_then(|count| count.parse().ok()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn policies_are_read_however_they_are_written() {
        let expected = (Some("arn:aws:sqs:x:1:q-dlq".to_owned()), Some(100));
        assert_eq!(policy(r#"{"deadLetterTargetArn":"arn:aws:sqs:x:1:q-dlq","maxReceiveCount":100}"#), expected);
        assert_eq!(
            policy(r#"{ "maxReceiveCount" : "100", "deadLetterTargetArn" : "arn:aws:sqs:x:1:q-dlq" }"#),
            expected
        );
        assert_eq!(policy("junk"), (None, None));
    }

    #[test]
    fn only_what_is_told_differs_and_a_missing_policy() {
        let wanted = [
            (Attribute::MaximumMessageSize, "1048576".to_owned()),
            (Attribute::VisibilityTimeout, "90".to_owned()),
            (Attribute::RedrivePolicy, r#"{"deadLetterTargetArn":"a","maxReceiveCount":100}"#.to_owned()),
        ];
        let same = HashMap::from(wanted.clone());
        assert_eq!(differences(&wanted, &same), "");
        assert_eq!(differences(&wanted, &HashMap::new()), "it has no dead-letter queue");
        let other = HashMap::from([
            (Attribute::MaximumMessageSize, "262144".to_owned()),
            (Attribute::VisibilityTimeout, "30".to_owned()),
            (Attribute::RedrivePolicy, r#"{"deadLetterTargetArn":"a","maxReceiveCount":3}"#.to_owned()),
        ]);
        assert_eq!(differences(&wanted, &other), "MaximumMessageSize is 262144; it dead-letters to a after 3");
    }

    #[test]
    fn names_are_those_of_sqs() {
        assert!(is_name("asya-ns_1-Actor") && is_name(&"a".repeat(80)));
        assert!(!is_name("") && !is_name("a.b") && !is_name(&"a".repeat(81)) && !is_name("\u{E9}"));
    }
}
