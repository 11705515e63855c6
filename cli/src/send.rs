//! `asya send ROUTE INPUT…`.
//!
//! Takes inputs; publishes each as one message and, on request, prints the results. Blocks on the broker with a bounded
//! number of messages unconfirmed. On failure: how many messages are safe, and which one was not.

use crate::args::Send;
use crate::broker::{self, Target};
use crate::client::{ANSWER_MAX, Client, Presence, unpublished};
use crate::error::Error;
use crate::input::Inputs;
use crate::message::{Outgoing, Received, encode, read};
use crate::out;
use crate::retry::Backoff;
use asya_envelope::names::{HEADER_REPLY_TO, queue_name};
use asya_envelope::{Head, Headers, Phase, Route, ids};
use asya_transport::{Event, Outcome, Settlement, Token};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::time::Duration;
use tokio::time::Instant;

/// Messages published and not yet confirmed: enough to fill a broker's group commits.
const UNCONFIRMED_MAX: usize = 512;
/// Bytes of them, which are kept until they are safe.
const UNCONFIRMED_BYTES_MAX: usize = 64 << 20;
/// What a sidecar takes where nothing else is known: the default of `ASYA_MAX_MESSAGE_BYTES`.
const BODY_BYTES_DEFAULT: u64 = 64 << 20;
/// Results held at once while they are printed.
const RESULTS_WINDOW: u32 = 256;

/// Sends everything, and waits for results where asked.
pub async fn send(args: &Send) -> Result<(), Error> {
    let route = route(&args.route)?;
    let headers = headers(&args.headers)?;
    let inputs = Inputs::open(&args.inputs)?;
    let target = broker::target(&args.place)?;
    let mut client = broker::connect(&target).await?;
    if !args.unchecked {
        check_route(&mut client, &target, &route, ", or send anyway with --unchecked").await?;
    }
    let results = if args.wait { Some(Results::open(&target, args, inputs.count).await?) } else { None };
    let reply_queue = results.as_ref().map(|results| results.queue.clone());
    let sender = Sender::new(client, &target, route, headers, reply_queue.as_deref(), args, inputs.count)?;
    let outcome = tokio::select! {
        outcome = send_and_wait(sender, inputs, results, args) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Error::Failed("interrupted; what was sent stays on its way".to_owned())),
    };
    let Some(reply_queue) = reply_queue else { return outcome };
    // However it ended: nobody else would ever read it.
    let dropped = broker::drop_queue(&target, &reply_queue).await;
    outcome.and(dropped)
}

async fn send_and_wait(sender: Sender, inputs: Inputs, results: Option<Results>, args: &Send) -> Result<(), Error> {
    let bar = sender.bar.clone();
    match results {
        None => {
            let sent = sender.run(inputs).await?;
            bar.finish_and_clear();
            out::note(&format!("sent {sent} {} to {}", plural(sent, "message"), args.route));
            Ok(())
        }
        Some(results) => {
            // Results are printed while the rest is sent, so that the reply queue never grows long.
            let sending = async { sender.run(inputs).await.map(drop) };
            let both = tokio::try_join!(sending, results.run(bar.clone()));
            bar.finish_and_clear();
            both.map(drop)
        }
    }
}

/// `1 message`, `2 messages`.
pub fn plural(count: u64, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// Reads a route.
pub fn route(text: &str) -> Result<Vec<String>, Error> {
    let actors: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
    for actor in &actors {
        asya_manifest::names::check_actor(actor).map_err(|why| {
            Error::Usage(format!(
                "the route {text:?} names {actor:?}: {why}\n  = a route is actors with commas between: a,b,c"
            ))
        })?;
    }
    Ok(actors)
}

fn headers(pairs: &[String]) -> Result<Headers, Error> {
    let mut headers = Headers::default();
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Error::Usage(format!("the header {pair:?} is not KEY=VALUE")));
        };
        if serde_json::from_str::<&serde_json::value::RawValue>(value).is_ok() {
            headers.set(key, value).map_err(|e| Error::Usage(format!("the header {pair:?}: {e}")))?;
        } else {
            headers.set_str(key, value);
        }
    }
    Ok(headers)
}

/// Every actor of the route must have a queue: a message to nowhere would only fail later, far from who sent it.
pub async fn check_route(client: &mut Client, target: &Target, route: &[String], or_else: &str) -> Result<(), Error> {
    for actor in route {
        let queue = queue_name(&target.namespace, actor).map_err(|e| Error::Usage(e.to_string()))?;
        if client.depth(&queue).await?.is_some() {
            continue;
        }
        let absent = crate::queues::absent(target, actor, &queue);
        return Err(Error::Usage(format!(
            "the route names {actor:?}, and {absent}\n  = run that actor first{or_else}"
        )));
    }
    Ok(())
}

/// A progress bar on standard error, where a person sees it.
pub fn bar(count: u64, what: &'static str) -> ProgressBar {
    if count < 2 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}  {per_sec}  {eta} left");
    ProgressBar::new(count).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
}

/// One message that the broker does not have for sure yet.
struct Open {
    id: String,
    label: String,
    out: Outgoing,
}

struct Sender {
    client: Client,
    queue: String,
    head: Head,
    id: Option<String>,
    count: u64,
    open: BTreeMap<Token, Open>,
    open_bytes: usize,
    journal: Option<BufWriter<File>>,
    confirmed: u64,
    backoff: Backoff,
    bar: ProgressBar,
    /// Whoever waits for results says by itself that the broker is gone.
    presence: Option<Presence>,
    /// The largest body that the first actor takes.
    body_bytes_max: u64,
    /// Whether a message counts on the bar when it is sent, and not when it is answered.
    counts: bool,
}

impl Sender {
    fn new(
        client: Client,
        target: &Target,
        route: Vec<String>,
        mut headers: Headers,
        reply_queue: Option<&str>,
        args: &Send,
        count: u64,
    ) -> Result<Self, Error> {
        if let Some(queue) = reply_queue {
            headers.set_str(HEADER_REPLY_TO, queue);
        }
        let mut actors = route.into_iter();
        let curr = actors.next().unwrap_or_default();
        let body_bytes_max = target.message_bytes_max.get(&curr).copied().unwrap_or(BODY_BYTES_DEFAULT);
        let queue = queue_name(&target.namespace, &curr).map_err(|e| Error::Usage(e.to_string()))?;
        let head = Head {
            namespace: Some(target.namespace.clone()),
            headers,
            ..Head::new("", Route { prev: Vec::new(), curr, next: actors.collect() })
        };
        let journal = match &args.journal {
            Some(path) => Some(BufWriter::new(File::create(path).map_err(Error::file(path))?)),
            None => None,
        };
        Ok(Self {
            client,
            queue,
            head,
            id: args.id.clone(),
            count,
            open: BTreeMap::new(),
            open_bytes: 0,
            journal,
            confirmed: 0,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
            bar: bar(count, if args.wait { "sent and answered" } else { "sent" }),
            body_bytes_max,
            presence: (!args.wait).then(Presence::default),
            counts: !args.wait,
        })
    }

    /// Publishes everything and waits until all of it is safe.
    async fn run(mut self, inputs: Inputs) -> Result<u64, Error> {
        for (number, input) in inputs.messages().enumerate() {
            let input = input?;
            let id = self.id_of(number);
            self.head.id.clone_from(&id);
            let out = encode(&self.head, input.content);
            if let Some(limit) = self.client.message_bytes_max().filter(|limit| out.body.len() as u64 > *limit) {
                return Err(self.stopped(&input.label, &format!("it is larger than the broker's {limit} bytes")));
            }
            if out.body.len() as u64 > self.body_bytes_max {
                self.warn_of_size(&input.label, out.body.len());
            }
            while self.open.len() >= UNCONFIRMED_MAX || self.open_bytes >= UNCONFIRMED_BYTES_MAX {
                self.turn().await?;
            }
            self.publish(Open { id, label: input.label, out });
        }
        while !self.open.is_empty() {
            self.turn().await?;
        }
        if let Some(journal) = &mut self.journal {
            journal.flush().map_err(Error::system("the journal cannot be written"))?;
        }
        Ok(self.confirmed)
    }

    /// The broker takes it, and the sidecar will not: the broker then gives it up.
    fn warn_of_size(&self, label: &str, len: usize) {
        let (max, actor) = (self.body_bytes_max, &self.head.route.curr);
        self.bar.suspend(|| {
            out::note(&format!(
                "warning: {label} is a message of {len} bytes, and {actor} takes {max} at most; it will be in \
                 `asya failed --dead {actor}`\n  = raise ASYA_MAX_MESSAGE_BYTES in its manifest (spec.sidecar.env), and \
                 ASYA_MEMORY_BYTES to twice as much or more"
            ));
        });
    }

    fn id_of(&self, number: usize) -> String {
        match &self.id {
            Some(id) if self.count == 1 => id.clone(),
            Some(id) => format!("{id}-{number}"),
            None => ids::new_id(),
        }
    }

    fn publish(&mut self, open: Open) {
        self.open_bytes += open.out.body.len();
        let token = self.client.publish(&self.queue, open.out.content_type, &open.id, &open.out.body);
        self.open.insert(token, open);
    }

    /// Takes the next event.
    async fn turn(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + ANSWER_MAX;
        let event = self.client.event_before(deadline).await;
        if let Some(said) = event.as_ref().and_then(|e| self.presence.as_mut()?.said(e, deadline)) {
            self.bar.suspend(|| out::note(&said));
        }
        match event {
            Some(Event::Published { token, outcome }) => self.published(token, &outcome).await,
            Some(Event::Fatal { why }) => Err(self.stopped("", &why)),
            Some(_) => Ok(()),
            None => Err(self.stopped("", &format!("the broker did not answer for {} s", ANSWER_MAX.as_secs()))),
        }
    }

    async fn published(&mut self, token: Token, outcome: &Outcome) -> Result<(), Error> {
        let Some(open) = self.open.remove(&token) else { return Ok(()) };
        self.open_bytes -= open.out.body.len();
        match outcome {
            Outcome::Confirmed => {
                self.confirmed += 1;
                self.backoff.reset();
                if self.counts {
                    self.bar.inc(1);
                }
                self.note(&open)
            }
            // The same id again: if the first one did arrive, readers can tell the copy.
            Outcome::Lost | Outcome::Refused(_) => match self.backoff.next() {
                Some(wait) => {
                    tokio::time::sleep(wait).await;
                    self.publish(open);
                    Ok(())
                }
                None => Err(self.stopped(&open.label, &unpublished(outcome).unwrap_or_default())),
            },
            _ => Err(self.stopped(&open.label, &unpublished(outcome).unwrap_or_default())),
        }
    }

    fn note(&mut self, open: &Open) -> Result<(), Error> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let line = serde_json::json!({"id": open.id, "input": open.label});
        writeln!(journal, "{line}").map_err(Error::system("the journal cannot be written"))
    }

    fn stopped(&mut self, label: &str, why: &str) -> Error {
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.flush()
        {
            out::note(&format!("the journal cannot be written: {error}"));
        }
        self.bar.finish_and_clear();
        let input = if label.is_empty() { String::new() } else { format!(" at input {label}") };
        let (confirmed, count) = (self.confirmed, self.count);
        Error::Failed(format!(
            "stopped{input}: {why}\n  = {confirmed} of {count} {} safely sent",
            if count == 1 { "is" } else { "are" }
        ))
    }
}

/// Where the results arrive.
struct Results {
    client: Client,
    queue: String,
    expect: u64,
    /// Without `--expect`, each message counts once: when its own id, which only the first of a fan-out has, is answered.
    own_only: bool,
    /// Ids of all results so far: delivery is at least once, and copies are left out.
    seen: BTreeSet<String>,
    idle_max: Duration,
    envelopes: bool,
}

impl Results {
    async fn open(target: &Target, args: &Send, count: u64) -> Result<Self, Error> {
        let unique = ids::new_id();
        let name = format!("reply-{}", unique.get(..8).unwrap_or(&unique));
        let queue = queue_name(&target.namespace, &name).map_err(|e| Error::Usage(e.to_string()))?;
        let mut client = broker::connect(target).await?;
        client.declare(&queue, None).await?;
        client.consume(&queue, RESULTS_WINDOW);
        let idle_max = args.timeout.0;
        let (expect, own_only) = args.expect.map_or((count, true), |expect| (expect, false));
        Ok(Self { client, queue, expect, own_only, seen: BTreeSet::new(), idle_max, envelopes: args.envelopes })
    }

    /// Prints results until all are there.
    async fn run(mut self, bar: ProgressBar) -> Result<(), Error> {
        let mut got = 0_u64;
        let mut failed = 0_u64;
        let mut presence = Presence::default();
        // Only a result moves it: a broker that stays away tells so again and again.
        let mut deadline = Instant::now() + self.idle_max;
        while got < self.expect {
            let event = self.client.event_before(deadline).await;
            if let Some(said) = event.as_ref().and_then(|e| presence.said(e, deadline)) {
                bar.suspend(|| out::note(&said));
            }
            let delivery = match event {
                Some(Event::Delivered(delivery)) => delivery,
                Some(Event::Fatal { why }) => return Err(Error::Failed(format!("the results cannot be read: {why}"))),
                Some(_) => continue,
                None => {
                    let waited = asya_manifest::units::GoDuration(self.idle_max);
                    let failures = if failed == 0 { String::new() } else { format!(" ({failed} of them failed)") };
                    return Err(Error::Failed(format!(
                        "{got} of {} results came{failures}, and none for {waited}\n  = `asya status`, `asya failed` and `asya queues` show where messages are and why",
                        self.expect
                    )));
                }
            };
            let message = self.client.take(delivery);
            let result = read(&message.body, message.content_type)
                .map_err(|e| Error::Failed(format!("a result cannot be read: {e}")))?;
            self.client.settle(message.tag, Settlement::Ack);
            if !self.seen.insert(result.head.id.clone()) {
                continue;
            }
            let counts = !self.own_only || result.head.parent_id.is_none();
            bar.suspend(|| print(&result, self.envelopes))?;
            failed += u64::from(counts && is_failed(&result));
            got += u64::from(counts);
            bar.inc(u64::from(counts));
            deadline = Instant::now() + self.idle_max;
        }
        match failed {
            0 => Ok(()),
            _ => Err(Error::Failed(format!("{failed} of {got} failed\n  = `asya failed` shows them"))),
        }
    }
}

fn is_failed(result: &Received) -> bool {
    result.head.status.as_ref().is_some_and(|s| s.phase == Phase::Failed)
}

fn print(result: &Received, envelopes: bool) -> Result<(), Error> {
    if envelopes {
        out::line(&result.envelope)
    } else if is_failed(result) {
        out::note(&crate::failure::one_line(&result.head));
        Ok(())
    } else {
        out::line(&result.document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_a_list_of_actors() {
        assert_eq!(route("a, b-c,d").unwrap(), ["a", "b-c", "d"]);
        let why = route("a,,b").unwrap_err().to_string();
        assert!(why.contains("names \"\": it is empty") && why.contains("a,b,c"), "{why}");
        assert!(route("A").is_err());
    }

    #[test]
    fn a_header_is_json_where_it_can_be() {
        let pairs = ["n=1".to_owned(), "t=plain text".into(), "o={\"a\":1}".into(), "e=".into()];
        assert_eq!(headers(&pairs).unwrap().as_json(), r#"{"n":1,"t":"plain text","o":{"a":1},"e":""}"#);
        assert!(headers(&["novalue".to_owned()]).is_err() && headers(&["=x".to_owned()]).is_err());
    }
}
