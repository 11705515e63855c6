//! What a seed stands for: a pipeline, its settings, its messages, and what is broken when.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use asya_dataplane::flow::{Emit, Role, Settings};
use asya_dataplane::retry::{Backoff, DEFAULT_POLICY, Policy, Resiliency};
use asya_dataplane::stamp::precise;
use asya_envelope::{Encoding, Head, Headers, Payload, Phase, Route, RouteShape, Status, blob, bundle, names};
use asya_transport::{ContentType, Delays, Lease};

use super::broker::Rules;
use super::fault::Fault;
use super::ledger::Stage;
use super::plan::{ABSENT, Mix};
use super::random::Random;
use super::runtime::Shape;
use super::transport::{Unreliable, delays};

const NAMESPACE: &str = "sim";

/// Wall clock at the start of each run, in milliseconds since the epoch: any fixed moment.
pub const WALL: u64 = 1_800_000_000_000;

/// What is sent as one delivery: a message, or a bundle of them.
#[derive(Debug)]
pub struct Input {
    /// When, in nanoseconds.
    pub at: u64,
    /// To which queue.
    pub queue: String,
    /// The messages.
    pub parts: Vec<Single>,
}

impl Input {
    /// The body, and how it is encoded.
    pub fn body(&self) -> (Rc<[u8]>, ContentType) {
        match self.parts.as_slice() {
            [single] => (Rc::clone(&single.body), single.content_type),
            parts => {
                let members = parts.iter().map(|p| (encoding(p.content_type), p.body.as_ref()));
                (bundle::join(members).into(), ContentType::Native)
            }
        }
    }
}

fn encoding(content_type: ContentType) -> Encoding {
    if content_type == ContentType::Native { Encoding::Native } else { Encoding::Json }
}

/// One message to send.
#[derive(Debug)]
pub struct Single {
    /// Its body.
    pub body: Rc<[u8]>,
    /// How it is encoded.
    pub content_type: ContentType,
    /// Its head; `None` when it is no envelope, or for nobody.
    pub head: Option<Head>,
    /// What is wrong with it.
    pub fault: Option<Fault>,
}

/// One sidecar's place: an actor, of which several replicas may run.
#[derive(Clone, Debug)]
pub struct Place {
    /// The actor.
    pub actor: String,
    /// What its core is told.
    pub settings: Settings,
    /// What its runtime is like.
    pub shape: Shape,
}

/// A run.
#[derive(Debug)]
pub struct Scenario {
    /// Whose rules the broker follows.
    pub rules: Rules,
    /// Where messages go.
    pub stage: Stage,
    /// The sidecars.
    pub places: Vec<Place>,
    /// The messages.
    pub inputs: Vec<Input>,
    /// What is broken when, in nanoseconds, in order.
    pub faults: Vec<(u64, Fault)>,
    /// What goes wrong all the time.
    pub unreliable: Unreliable,
    /// SQS: how long a lease lasts, and for how long it can be extended, in nanoseconds.
    pub lease: (u64, u64),
}

/// Largest bodies that a broker takes, in bytes: enough, or so few that a message which fits no longer does once it has
/// failed, with its error.
pub const LIMITS: [u64; 4] = [64 * 1024, 64 * 1024, 64 * 1024, MAX_MESSAGE];

/// Bytes that a sidecar may add to a body: status and error, at most.
pub const ADDED: u64 = 1_000;

/// Largest body that a sidecar takes in, in bytes.
pub const MAX_MESSAGE: u64 = 3_000;

/// Most messages of one bundle.
pub const BUNDLE: usize = 5;

/// One in so many seeds breaks nothing at all, so that exactly-once can be checked there.
const TAME: u64 = 6;

impl Scenario {
    /// The run of this seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut later = random.fork();
        let rules = random.pick(&[Rules::RabbitMq310, Rules::RabbitMq43, Rules::RabbitMq43, Rules::Sqs]);
        let tame = random.one_in(TAME);
        let names: Vec<String> =
            ["prepare", "infer", "report"].into_iter().take(random.between(1, 3) as usize).map(str::to_owned).collect();
        let mut queues: BTreeMap<String, String> = names.iter().map(|name| (name.clone(), queue(name))).collect();
        let policy = later.one_in(2).then(|| policy(&mut later));
        let recovers = policy.as_ref().is_some_and(|policy| policy.on_exhausted == [RECOVERY]);
        if recovers {
            queues.insert(RECOVERY.to_owned(), queue(RECOVERY));
        }
        let mix = if tame { Mix::TAME } else { Mix::WILD };
        let mix = Mix {
            flaky: if policy.is_some() { 60 } else { 0 },
            partly: policy.is_none() || (!tame && !recovers && later.one_in(2)),
            ..mix
        };
        let crash_limit = random.between(1, 3) as u32;
        let stage = Stage {
            seed,
            mix,
            crash_limit,
            limit: if tame { LIMITS[0] } else { random.pick(&LIMITS) },
            sink: queue(names::SINK),
            sump: queue(names::SUMP),
            replies: queue("replies"),
            policy: policy.clone(),
            consumed: random.one_in(4),
            queues,
        };
        let mut places = Vec::new();
        for name in &names {
            let mut place = place(&mut random, name, &stage);
            place.settings.resiliency = resiliency(policy.clone());
            place.settings.remembered = later.pick(&[0, 0, 5, 100]);
            for _ in 0..if random.one_in(4) { 2 } else { 1 } {
                places.push(place.clone());
            }
        }
        if stage.consumed {
            let mut end = place(&mut random, names::SINK, &stage);
            end.settings.role = Role::End;
            places.push(end);
        }
        if recovers {
            // Whatever fails there, fails for good: nothing would end otherwise.
            places.push(place(&mut later, RECOVERY, &stage));
        }
        // A route may come back to an actor.
        let route: Vec<String> = match random.between(0, 3) {
            0 => names.iter().chain(&names).cloned().collect(),
            1 => names.iter().flat_map(|name| [name, name]).cloned().collect(),
            _ => names,
        };
        let inputs = inputs(&mut random, &mut later, &route, tame);
        let faults = if tame { Vec::new() } else { faults(&mut random) };
        let unreliable = if tame {
            Unreliable::default()
        } else {
            Unreliable {
                refuse: random.pick(&[0, 0, 20, 200]),
                settle: random.pick(&[0, 50]),
                duplicate: random.pick(&[0, 0, 100]),
            }
        };
        // Long enough for the slowest honest wait, or so short that some run out; in any case short enough that a dead
        // consumer's messages come back in the run.
        let lease =
            if tame || random.one_in(2) { 120_000_000_000 } else { random.between(1_000_000_000, 8_000_000_000) };
        let longest = if tame { 43_200_000_000_000 } else { lease * later.pick(&[1, 3, 3, 1000]) };
        for place in &mut places {
            let limits =
                |lasts, longest| Lease { lasts: Duration::from_nanos(lasts), longest: Duration::from_nanos(longest) };
            place.settings.lease = (rules == Rules::Sqs).then(|| limits(lease, longest));
            place.settings.delays = delays(rules);
        }
        Self { rules, stage, places, inputs, faults, unreliable, lease: (lease, longest) }
    }
}

/// Where a policy may send what has used up its attempts.
pub const RECOVERY: &str = "recovery";

fn policy(random: &mut Random) -> Policy {
    Policy {
        attempts_max: random.between(1, 4) as u32,
        backoff: random.pick(&[Backoff::Constant, Backoff::Linear, Backoff::Exponential]),
        initial_delay: Duration::from_millis(random.pick(&[0, 10, 900, 1_500, 4_000])),
        interval_max: Duration::from_secs(random.pick(&[1, 12])),
        duration_max: random.one_in(4).then(|| Duration::from_secs(random.between(1, 10))),
        jitter: random.one_in(2),
        on_exhausted: random
            .pick(&[&[][..], &[], &[], &[RECOVERY], &[RECOVERY], &[ABSENT]])
            .iter()
            .map(|&name| name.to_owned())
            .collect(),
    }
}

fn resiliency(policy: Option<Policy>) -> Resiliency {
    Resiliency::new(policy.into_iter().map(|policy| (DEFAULT_POLICY.to_owned(), policy)).collect(), Vec::new())
}

fn queue(actor: &str) -> String {
    names::queue_name(NAMESPACE, actor).unwrap_or_else(|e| unreachable!("{actor}: {e}"))
}

fn place(random: &mut Random, actor: &str, stage: &Stage) -> Place {
    let workers = random.between(1, 3) as u16;
    let batch = random.pick(&[0, 0, 2, 8]);
    let concurrency = if batch > 0 { 1 } else { random.pick(&[1, 1, 4]) };
    let speed = random.pick(&[(5_000, 50_000), (500_000, 5_000_000), (20_000_000, 300_000_000)]);
    let shape = Shape {
        workers,
        concurrency,
        batch,
        cancellable: (concurrency > 1 || batch > 0) && random.one_in(2),
        speed,
        budget: random.pick(&[4_000, 40_000, 4_000_000]),
        max_message: MAX_MESSAGE,
        results: random.pick(&[4, 40, 4_000]),
    };
    let settings = Settings {
        namespace: NAMESPACE.into(),
        actor: actor.into(),
        queue: queue(actor).into(),
        sink: stage.sink.as_str().into(),
        sump: stage.sump.as_str().into(),
        role: Role::Regular,
        emit: random.pick(&[Emit::AsArrived, Emit::AsArrived, Emit::Native]),
        timeout: Duration::from_secs(2),
        workers,
        max_window: random.pick(&[2, 16, 64, 256]),
        batch_bytes: random.pick(&[500, 1 << 20]),
        batch_wait: Duration::from_millis(random.pick(&[0, 0, 50])),
        crash_limit: stage.crash_limit,
        unroutable_tries: 4,
        backoff: Duration::from_millis(100),
        backoff_cap: Duration::from_secs(5),
        ready_grace: Duration::from_secs(10),
        cancel_grace: Duration::from_secs(1),
        orphan_ttl: Duration::from_secs(30),
        resiliency: Resiliency::default(),
        delays: Delays::Any,
        lease: None,
        remembered: 0,
    };
    Place { actor: actor.into(), settings, shape }
}

fn inputs(random: &mut Random, later: &mut Random, route: &[String], tame: bool) -> Vec<Input> {
    let count = random.between(10, 150);
    let spread = random.pick(&[1_000_000, 2_000_000_000, 20_000_000_000]);
    let first = route.first().cloned().unwrap_or_default();
    let largest = random.pick(&[1, 1, BUNDLE as u64]);
    let mut inputs: Vec<Input> = Vec::new();
    let mut n = 0;
    while n < count {
        let size = random.between(1, largest).min(count - n);
        // Some are of no use after a while: before they are run, as they run, or long after.
        let deadlines = (0..size).map(|_| later.one_in(8).then(|| later.between(0, 6_000))).collect::<Vec<_>>();
        let at = random.between(0, spread);
        let due = |n: &u64| {
            let text = |after| if after % 9 == 8 { "soon".to_owned() } else { precise(WALL + at / 1_000_000 + after) };
            deadlines[*n as usize].map(text)
        };
        let parts = (0..size).map(|i| single(random, n + i, route, tame, size > 1, due(&i))).collect();
        inputs.push(Input { at, queue: queue(&first), parts });
        n += size;
    }
    inputs
}

fn single(
    random: &mut Random,
    n: u64,
    route: &[String],
    tame: bool,
    bundled: bool,
    deadline: Option<String>,
) -> Single {
    let first = route.first().cloned().unwrap_or_default();
    let mut head = Head::new(
        format!("m{n}"),
        Route { prev: Vec::new(), curr: first.clone(), next: route.iter().skip(1).cloned().collect() },
    );
    head.headers = Headers::from_json(&format!(r#"{{"trace":"t{n}"}}"#)).unwrap_or_default();
    head.status = deadline.map(|deadline| Status {
        phase: Phase::Pending,
        reason: None,
        actor: first.clone(),
        attempt: 1,
        max_attempts: 0,
        created_at: precise(WALL),
        updated_at: precise(WALL),
        deadline_at: Some(deadline),
        error: None,
    });
    // Some wait for an answer, some of those no longer.
    if random.one_in(6) {
        let to = if random.one_in(4) { "nobody-waits" } else { "replies" };
        head.headers.set_str(names::HEADER_REPLY_TO, &queue(to));
    }
    if random.one_in(6) {
        head.extensions.push(("note".into(), format!(r#"{{"n":{n}}}"#)));
    }
    if random.one_in(8) {
        head.shape = RouteShape::Actors;
    }
    let wrong = if tame { 0 } else { random.between(0, 60) };
    // Too large to take in, or too large once it has failed.
    let large = match wrong {
        3 => 3_000,
        4..=6 => 2_450,
        _ => 0,
    };
    let filler = "y".repeat(random.between(0, 300) as usize + large);
    if wrong == 2 {
        head.route.curr = "somebody-else".into();
    }
    let document = format!(r#"{{"root":{n},"filler":"{filler}"}}"#);
    let native = random.one_in(3);
    let mut body = Vec::new();
    // In a native body blobs are bytes; in a JSON body they are base64, which the sidecar has to rebuild. A
    // member of a bundle that finds no room for that is published again, so that it comes twice.
    if large == 0 && random.one_in(6) && (native || !(tame && bundled)) {
        let (section, payload) = with_blob(&document, &vec![n as u8; random.between(1, 200) as usize]);
        if native {
            body.extend_from_slice(&section);
            asya_envelope::encode_native(&head, payload, &mut body);
        } else {
            asya_envelope::encode_json_with_blobs(&head, &section, payload, &mut body)
                .unwrap_or_else(|e| unreachable!("{e}"));
        }
    } else if native {
        body.extend_from_slice(document.as_bytes());
        let len = document.len() as u64;
        asya_envelope::encode_native(&head, Payload { offset: 0, document_len: len, len, blobs: 0 }, &mut body);
    } else {
        let mut suffix = Vec::new();
        asya_envelope::encode_json(&head, &mut body, &mut suffix);
        body.extend_from_slice(document.as_bytes());
        body.extend_from_slice(&suffix);
    }
    let (mut content_type, mut fault) = (if native { ContentType::Native } else { ContentType::Json }, None);
    match wrong {
        1 => {
            (body, content_type, fault) =
                (format!("no envelope {n}").into_bytes(), ContentType::Json, Some(Fault::Garbage));
        }
        2 => fault = Some(Fault::Misrouted),
        3 => fault = Some(Fault::Oversize),
        _ => {}
    }
    let head = (!matches!(fault, Some(Fault::Garbage | Fault::Oversize))).then_some(head);
    Single { body: body.into(), content_type, head, fault }
}

/// A section of a document and one blob.
fn with_blob(document: &str, bytes: &[u8]) -> (Vec<u8>, Payload) {
    let (document_len, len) = (document.len() as u64, bytes.len() as u64);
    let table = blob::table_range(document_len, 1).unwrap_or_default();
    let (offsets, end) = blob::place(document_len, [len].into_iter()).unwrap_or_default();
    let info = blob::BlobInfo { dtype: blob::RAW.into(), shape: vec![len], offset: offsets[0], len };
    let mut entry = [0; blob::ENTRY_LEN];
    blob::write_entry(&mut entry, &info);
    let mut section = document.as_bytes().to_vec();
    section.resize(end as usize, 0);
    section[table.start as usize..table.end as usize].copy_from_slice(&entry);
    section[info.offset as usize..].copy_from_slice(bytes);
    (section, Payload { offset: 0, document_len, len: end, blobs: 1 })
}

fn faults(random: &mut Random) -> Vec<(u64, Fault)> {
    let kinds = [
        Fault::Cut,
        Fault::CutPublisher,
        Fault::CutConsumer,
        Fault::CancelByBroker,
        Fault::MissingQueue,
        Fault::WorkerKilled,
        Fault::WorkerKilled,
        Fault::HandlerBroken,
        Fault::Lie,
        Fault::RuntimeGone,
        Fault::SidecarKilled,
        Fault::Drained,
    ];
    let count = random.between(0, 12);
    let mut faults: Vec<_> =
        (0..count).map(|_| (random.between(1_000_000, 25_000_000_000), random.pick(&kinds))).collect();
    faults.sort();
    faults
}
