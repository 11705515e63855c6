//! What a seed stands for: a pipeline, its settings, its messages, and what is broken when.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use asya_dataplane::flow::{Emit, Role, Settings};
use asya_envelope::{Encoding, Head, Headers, Payload, Route, RouteShape, bundle, names};
use asya_transport::ContentType;

use super::broker::Rules;
use super::ledger::{Fault, Stage};
use super::plan::Mix;
use super::random::Random;
use super::runtime::Shape;
use super::transport::Unreliable;

const NAMESPACE: &str = "sim";

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
    /// SQS: how long a lease lasts, in nanoseconds.
    pub lease: u64,
}

/// Most messages of one bundle.
pub const BUNDLE: usize = 5;

/// One in so many seeds breaks nothing at all, so that exactly-once can be checked there.
const TAME: u64 = 6;

impl Scenario {
    /// The run of this seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let rules = random.pick(&[Rules::RabbitMq310, Rules::RabbitMq43, Rules::RabbitMq43, Rules::Sqs]);
        let tame = random.one_in(TAME);
        let names: Vec<String> =
            ["prepare", "infer", "report"].into_iter().take(random.between(1, 3) as usize).map(str::to_owned).collect();
        let queues: BTreeMap<String, String> = names.iter().map(|name| (name.clone(), queue(name))).collect();
        let mix = if tame { Mix::TAME } else { Mix::WILD };
        let crash_limit = random.between(1, 3) as u32;
        let stage = Stage {
            seed,
            mix,
            crash_limit,
            sink: queue(names::SINK),
            sump: queue(names::SUMP),
            actors: queues.iter().map(|(actor, queue)| (queue.clone(), actor.clone())).collect(),
            queues,
        };
        let mut places = Vec::new();
        for name in &names {
            let place = place(&mut random, name, &stage);
            for _ in 0..if random.one_in(4) { 2 } else { 1 } {
                places.push(place.clone());
            }
        }
        let inputs = inputs(&mut random, &names, tame);
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
        // Long enough for the slowest honest wait, short enough that a dead consumer's messages come back in the run.
        let lease = 120_000_000_000;
        Self { rules, stage, places, inputs, faults, unreliable, lease }
    }
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
        cancellable: concurrency > 1 && random.one_in(2),
        speed,
        budget: random.pick(&[4_000, 40_000, 4_000_000]),
        max_message: 3_000,
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
    };
    Place { actor: actor.into(), settings, shape }
}

fn inputs(random: &mut Random, names: &[String], tame: bool) -> Vec<Input> {
    let count = random.between(10, 150);
    let spread = random.pick(&[1_000_000, 2_000_000_000, 20_000_000_000]);
    let first = names.first().cloned().unwrap_or_default();
    let largest = random.pick(&[1, 1, BUNDLE as u64]);
    let mut inputs: Vec<Input> = Vec::new();
    let mut n = 0;
    while n < count {
        let size = random.between(1, largest).min(count - n);
        let parts = (n..n + size).map(|n| single(random, n, names, tame)).collect();
        inputs.push(Input { at: random.between(0, spread), queue: queue(&first), parts });
        n += size;
    }
    inputs
}

fn single(random: &mut Random, n: u64, names: &[String], tame: bool) -> Single {
    let first = names.first().cloned().unwrap_or_default();
    let mut head = Head::new(
        format!("m{n}"),
        Route { prev: Vec::new(), curr: first.clone(), next: names.iter().skip(1).cloned().collect() },
    );
    head.headers = Headers::from_json(r#"{"trace":"t"}"#).unwrap_or_default();
    if random.one_in(8) {
        head.shape = RouteShape::Actors;
    }
    let wrong = if tame { 0 } else { random.between(0, 60) };
    let filler = "y".repeat(random.between(0, 300) as usize + if wrong == 3 { 3_000 } else { 0 });
    if wrong == 2 {
        head.route.curr = "somebody-else".into();
    }
    let document = format!(r#"{{"root":{n},"filler":"{filler}"}}"#);
    let native = random.one_in(3);
    let mut body = Vec::new();
    if native {
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

fn faults(random: &mut Random) -> Vec<(u64, Fault)> {
    let kinds = [
        Fault::Cut,
        Fault::CutPublisher,
        Fault::CutConsumer,
        Fault::CancelByBroker,
        Fault::MissingQueue,
        Fault::WorkerKilled,
        Fault::WorkerKilled,
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
