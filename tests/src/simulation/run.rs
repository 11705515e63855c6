//! One run: sidecars, broker, runtimes and faults, on a clock that jumps from event to event.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::task::{Context, Waker};

use asya_dataplane::drive::{Audience, Sidecar};
use asya_dataplane::flow::{Ending, Now, Observation, Report, State, Time};
use asya_dataplane::lifecycle::Phase;
use asya_dataplane::pipeline::Pipeline;

use super::broker::{Shared, World};
use super::clock::Clock;
use super::ledger::{Fault, Ledger};
use super::random::Random;
use super::runtime::SimRim;
use super::scenario::{Place, Scenario};
use super::transport::SimTransport;

/// A run that takes longer than this, in simulated nanoseconds, is stuck.
const LIMIT: u64 = 3_600_000_000_000;

/// Turns at one moment before the run counts as a hot loop.
const HOT: u32 = 10_000;

/// Grace period of a drain, in simulated nanoseconds.
const GRACE: u64 = 30_000_000_000;

/// Wall clock at the start of each run, in milliseconds since the epoch: any fixed moment.
const WALL: u64 = 1_800_000_000_000;

/// States that the runs are expected to reach together.
pub const STATES: [&str; 34] = [
    "bundle",
    "waiting",
    "running",
    "publishing",
    "finished-orphan",
    "orphan-running",
    "orphan-publishing",
    "suspect-waiting",
    "suspect-running",
    "cancelled",
    "doomed",
    "unconfirmed-while-waiting",
    "parked",
    "phase-idle",
    "phase-consuming",
    "phase-pausing",
    "phase-stopping",
    "phase-draining",
    "phase-drained",
    "ended-success",
    "ended-empty",
    "ended-error",
    "ended-retried",
    "adopted",
    "handed-back",
    "worker-died",
    "batch-full",
    "batch-bytes",
    "batch-age",
    "batch-alone",
    "publish-retried",
    "window-changed",
    "report-unroutable",
    "report-not-ready",
];

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Broken rules.
    pub violations: Vec<String>,
    /// Messages that were put into queues.
    pub messages: u64,
    /// Faults injected.
    pub faults: BTreeMap<Fault, u64>,
    /// States reached.
    pub states: BTreeSet<String>,
    /// The story, when it was asked for.
    pub story: Vec<String>,
}

struct Notes(Ledger, String);

impl Audience for Notes {
    fn observe(&mut self, observation: &Observation) {
        self.0.tell(|| format!("{}: {observation:?}", self.1));
        let state = match observation {
            Observation::Processed { ending, .. } => match ending {
                Ending::Success => "ended-success",
                Ending::Empty => "ended-empty",
                Ending::Error => "ended-error",
                Ending::Retried => "ended-retried",
                Ending::Open | Ending::Consumed => return,
            },
            Observation::Adopted => "adopted",
            Observation::HandedBack => "handed-back",
            Observation::WorkerDied(_) => "worker-died",
            Observation::BatchReleased { why, .. } => match why {
                asya_dataplane::flow::Release::Full => "batch-full",
                asya_dataplane::flow::Release::Bytes => "batch-bytes",
                asya_dataplane::flow::Release::Age => "batch-age",
                asya_dataplane::flow::Release::Alone => "batch-alone",
            },
            Observation::PublishRetried => "publish-retried",
            Observation::Window(_) => "window-changed",
            _ => return,
        };
        self.0.state(state);
    }

    fn report(&mut self, report: &Report) {
        self.0.tell(|| format!("{}: {report:?}", self.1));
        match report {
            Report::Unroutable { .. } => self.0.state("report-unroutable"),
            Report::NotReady => self.0.state("report-not-ready"),
            _ => {}
        }
    }

    fn broker(&mut self, _: &asya_transport::Event) {}
}

type SimSidecar = Sidecar<SimTransport, SimRim, Notes>;

struct Node {
    place: Place,
    sidecar: Option<SimSidecar>,
    /// When a replacement starts.
    start_at: u64,
    drain_by: Option<u64>,
}

struct Run {
    clock: Clock,
    random: Random,
    world: Shared,
    ledger: Ledger,
    scenario: Scenario,
    nodes: Vec<Node>,
    holders: u64,
    restore: BTreeMap<u64, String>,
}

/// Runs a seed. With `record`, keeps the story.
pub fn run(seed: u64, record: bool) -> Outcome {
    let clock = Clock::default();
    let scenario = Scenario::new(seed);
    let ledger = Ledger::new(scenario.stage.clone(), clock.clone(), record);
    let mut world = World::new(scenario.rules, clock.clone(), scenario.lease);
    for queue in scenario.stage.queues.values().chain([&scenario.stage.sink, &scenario.stage.sump]) {
        world.declare(queue);
    }
    let nodes = scenario
        .places
        .iter()
        .map(|place| Node { place: place.clone(), sidecar: None, start_at: 0, drain_by: None })
        .collect();
    let mut run = Run {
        clock,
        random: Random::new(seed ^ 0x5eed),
        world: Rc::new(RefCell::new(world)),
        ledger,
        scenario,
        nodes,
        holders: 0,
        restore: BTreeMap::new(),
    };
    run.play();
    Outcome {
        violations: run.ledger.violations(),
        messages: run.ledger.messages(),
        faults: run.ledger.faults(),
        states: run.ledger.states(),
        story: run.ledger.story(),
    }
}

impl Run {
    fn now(&self) -> Now {
        let mono = self.clock.now();
        Now { mono: Time(mono), wall_ms: WALL + mono / 1_000_000 }
    }

    fn play(&mut self) {
        let mut inputs = std::mem::take(&mut self.scenario.inputs);
        inputs.sort_by_key(|input| input.at);
        let parts = inputs.iter().flat_map(|i| &i.parts);
        let roots: Vec<_> = parts.filter_map(|p| p.head.clone().filter(|_| p.fault.is_none())).collect();
        let mut inputs = inputs.into_iter().peekable();
        let mut faults = std::mem::take(&mut self.scenario.faults).into_iter().peekable();
        let mut same = (0, 0_u32);
        loop {
            let now = self.clock.now();
            while let Some(input) = inputs.next_if(|i| i.at <= now) {
                self.send(input);
            }
            while let Some((_, fault)) = faults.next_if(|(at, _)| *at <= now) {
                self.inject(fault);
            }
            self.restore_queues();
            self.world.borrow_mut().tick();
            self.start_nodes();
            self.turns();
            if !self.ledger.violations().is_empty() {
                return;
            }
            let quiet = inputs.peek().is_none() && faults.peek().is_none();
            if quiet && self.idle() {
                break;
            }
            if now > LIMIT {
                let where_it_is = self.describe();
                self.ledger.violation(format!("stuck: {where_it_is}"));
                return;
            }
            let wakes = [inputs.peek().map(|i| i.at), faults.peek().map(|&(at, _)| at), self.next_timer()];
            let Some(next) = wakes.into_iter().flatten().min() else {
                let where_it_is = self.describe();
                self.ledger.violation(format!("nothing will ever happen again: {where_it_is}"));
                return;
            };
            // Two turns in the same moment are normal; thousands are a loop that never sleeps.
            same = if next <= same.0 { (same.0, same.1 + 1) } else { (next, 0) };
            if same.1 > HOT {
                let where_it_is = self.describe();
                self.ledger.violation(format!("a loop that never sleeps: {where_it_is}"));
                return;
            }
            self.clock.advance_to(next);
        }
        self.finish(&roots);
    }

    fn send(&mut self, input: super::scenario::Input) {
        for part in &input.parts {
            match part.fault {
                None => self.ledger.published(&input.queue, &part.body, part.content_type),
                Some(fault) => self.ledger.fault(fault),
            }
            if part.fault == Some(Fault::Garbage) {
                self.ledger.garbage(Rc::clone(&part.body));
            }
        }
        if input.parts.len() > 1 {
            self.ledger.state("bundle");
        }
        let (body, content_type) = input.body();
        self.world.borrow_mut().put(&input.queue, body, content_type);
    }

    fn start_nodes(&mut self) {
        let now = self.now();
        for index in 0..self.nodes.len() {
            if self.nodes[index].sidecar.is_some() || self.nodes[index].start_at > now.mono.0 {
                continue;
            }
            self.holders += 1;
            let place = &self.nodes[index].place;
            let (world, ledger) = (Rc::clone(&self.world), self.ledger.clone());
            let (seed_a, seed_b) = (self.random.fork(), self.random.fork());
            let unreliable = self.scenario.unreliable;
            let mut transport =
                SimTransport::new(world, ledger.clone(), seed_a, unreliable, self.holders, &place.settings.queue);
            transport.number_tokens(self.holders);
            let rim = SimRim::new(&place.actor, place.shape, self.clock.clone(), ledger.clone(), seed_b);
            let notes = Notes(ledger, format!("{}#{}", place.actor, self.holders));
            let pipeline = Pipeline::new(place.settings.clone(), now);
            self.nodes[index].sidecar = Some(Sidecar::new(pipeline, transport, rim, notes));
        }
    }

    fn turns(&mut self) {
        let now = self.now();
        let mut cx = Context::from_waker(Waker::noop());
        for index in 0..self.nodes.len() {
            let Some(sidecar) = &mut self.nodes[index].sidecar else { continue };
            sidecar.turn(&mut cx, now);
            note_states(sidecar, &self.ledger);
            self.check_bounds(index);
            let node = &mut self.nodes[index];
            let Some(sidecar) = &mut node.sidecar else { continue };
            if sidecar.drained() {
                let held = sidecar.transport().held();
                let sqs = self.scenario.rules == super::broker::Rules::Sqs;
                if held > 0 && !sqs {
                    self.ledger.violation(format!("{} drained while it held {held}", node.place.actor));
                }
                if !sidecar.rim().drained_told() {
                    self.ledger.violation("the runtime was not told that the drain ended".into());
                }
                let (transport, rim) = sidecar.parts();
                transport.vanish(rim);
                node.sidecar = None;
                node.drain_by = None;
                node.start_at = now.mono.0 + self.random.between(0, 2_000_000_000);
            } else if node.drain_by.is_some_and(|by| now.mono.0 > by + 1_000_000_000) {
                self.ledger.violation(format!("{} did not drain within its grace period", node.place.actor));
            }
        }
    }

    /// Bounds on messages and bytes hold at every moment.
    fn check_bounds(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(sidecar) = &mut node.sidecar else { return };
        let window = node.place.settings.max_window as usize;
        let (held, used) = (sidecar.transport().unsettled(), sidecar.rim().used());
        if held > window * 2 {
            self.ledger.violation(format!("{} holds {held} deliveries, its window is {window}", node.place.actor));
        }
        if used > node.place.shape.budget {
            self.ledger.violation(format!("{} holds {used} bytes", node.place.actor));
        }
        let flight = sidecar.pipeline().flight();
        let orphans = flight.deliveries.iter().filter(|(_, d)| d.tag.is_none()).map(|(_, d)| d.members as usize);
        if flight.messages.len() > window * 2 * super::scenario::BUNDLE + orphans.sum::<usize>() {
            self.ledger.violation(format!("{} messages in flight, window {window}", flight.messages.len()));
        }
        for (id, message) in flight.messages.iter() {
            let unconfirmed = flight.publications.iter().filter(|(_, p)| p.message == id).count();
            if message.unconfirmed as usize != unconfirmed {
                let told = message.unconfirmed;
                self.ledger.violation(format!("{} counts {told} publishes, has {unconfirmed}", message.head.id));
            }
        }
    }

    fn inject(&mut self, fault: Fault) {
        let index = (self.random.next() % self.nodes.len() as u64) as usize;
        let now = self.now();
        let (later, soon) = (self.random.between(0, 3_000_000_000), self.random.between(0, 20_000_000_000));
        if fault == Fault::MissingQueue {
            let queues: Vec<String> = self.scenario.stage.queues.values().cloned().collect();
            let queue = queues[index % queues.len()].clone();
            self.ledger.fault(fault);
            self.world.borrow_mut().set_missing(&queue, true);
            self.restore.insert(now.mono.0 + soon, queue);
            return;
        }
        let node = &mut self.nodes[index];
        let Some(sidecar) = &mut node.sidecar else { return };
        let (transport, rim) = sidecar.parts();
        match fault {
            Fault::Cut => transport.cut(rim, true, true),
            Fault::CutPublisher => transport.cut(rim, true, false),
            Fault::CutConsumer => transport.cut(rim, false, true),
            Fault::CancelByBroker => transport.cancel_by_broker(),
            Fault::WorkerKilled => return rim.kill_one(),
            Fault::Lie => return rim.lie(),
            Fault::RuntimeGone => return rim.go_away(now.mono.0 + soon),
            Fault::SidecarKilled => {
                transport.vanish(rim);
                node.sidecar = None;
                node.drain_by = None;
                node.start_at = now.mono.0 + later;
            }
            Fault::Drained => {
                let by = now.mono.0 + GRACE;
                sidecar.drain(Time(by), now);
                node.drain_by.get_or_insert(by);
            }
            _ => return,
        }
        self.ledger.fault(fault);
    }

    fn restore_queues(&mut self) {
        let now = self.clock.now();
        while let Some(entry) = self.restore.first_entry() {
            if *entry.key() > now {
                return;
            }
            let queue = entry.remove();
            self.world.borrow_mut().set_missing(&queue, false);
        }
    }

    fn next_timer(&mut self) -> Option<u64> {
        let world = self.world.borrow().next_timer();
        let restore = self.restore.keys().next().copied();
        let nodes = self.nodes.iter_mut().filter_map(|node| match &mut node.sidecar {
            None => Some(node.start_at),
            Some(sidecar) => {
                let core = sidecar.next_timer().map(|t| t.0);
                let (transport, rim) = sidecar.parts();
                [core, transport.next_timer(), rim.next_timer()].into_iter().flatten().min()
            }
        });
        nodes.chain(world).chain(restore).min()
    }

    fn idle(&mut self) -> bool {
        let stage = &self.scenario.stage;
        let sinks = [stage.sink.as_str(), stage.sump.as_str()];
        self.world.borrow().unfinished(&sinks) == 0
            && self.nodes.iter_mut().all(|node| match &mut node.sidecar {
                None => true,
                Some(sidecar) => {
                    let flight = sidecar.pipeline().flight();
                    flight.publications.is_empty() && flight.messages.is_empty() && node.drain_by.is_none()
                }
            })
    }

    fn describe(&mut self) -> String {
        let mut text = format!("{:?} held {}; ", self.scenario.rules, self.world.borrow().held());
        for node in &mut self.nodes {
            if let Some(sidecar) = &mut node.sidecar {
                let flight = sidecar.pipeline().flight();
                let states: Vec<_> = flight.messages.iter().take(5).map(|(_, m)| (&m.head.id, &m.state)).collect();
                let line = format!(
                    "{} {:?} stages {:?} {states:?}; ",
                    node.place.actor,
                    sidecar.pipeline().phase(),
                    sidecar.pipeline().stages()
                );
                text.push_str(&line);
            }
        }
        text
    }

    /// Nothing is under way: every credit is back, and every message has its outcome.
    fn finish(&mut self, roots: &[asya_envelope::Head]) {
        for node in &mut self.nodes {
            let Some(sidecar) = &mut node.sidecar else { continue };
            let (slots, outputs) = sidecar.rim().held();
            let flight = sidecar.pipeline().flight();
            let deliveries = flight.deliveries.len();
            if slots + outputs + deliveries > 0 {
                self.ledger.violation(format!(
                    "{} is idle and still holds {slots} slots, {outputs} results, {deliveries} deliveries",
                    node.place.actor
                ));
            }
        }
        let mut dead = BTreeSet::new();
        for queue in self.scenario.stage.queues.values() {
            for kept in self.world.borrow().queue(queue).map(|q| q.dead.clone()).unwrap_or_default() {
                for head in super::ledger::heads(&kept.body) {
                    if kept.body.len() <= 3_000 && kept.lost <= 100 {
                        self.ledger.violation(format!("{} is in the dead-letter queue", head.id));
                    }
                    dead.insert((head.id.clone(), head.route.hop()));
                }
            }
        }
        self.ledger.check_outcomes(roots, &dead);
    }
}

fn note_states(sidecar: &SimSidecar, ledger: &Ledger) {
    let pipeline = sidecar.pipeline();
    ledger.state(match pipeline.phase() {
        Phase::Idle => "phase-idle",
        Phase::Consuming => "phase-consuming",
        Phase::Pausing => "phase-pausing",
        Phase::Stopping { .. } => "phase-stopping",
        Phase::Draining { .. } => "phase-draining",
        Phase::Drained => "phase-drained",
    });
    for (_, message) in pipeline.flight().messages.iter() {
        let lost = pipeline.flight().deliveries.get(message.delivery).is_some_and(|d| d.tag.is_none());
        match &message.state {
            State::Waiting => {
                ledger.state(if message.suspect { "suspect-waiting" } else { "waiting" });
                if message.unconfirmed > 0 {
                    ledger.state("unconfirmed-while-waiting");
                }
            }
            State::Running(running) => {
                ledger.state(if message.suspect { "suspect-running" } else { "running" });
                if lost {
                    ledger.state("orphan-running");
                }
                if running.cancelled.is_some() {
                    ledger.state("cancelled");
                }
            }
            State::Publishing => {
                ledger.state("publishing");
                if lost {
                    ledger.state("orphan-publishing");
                }
            }
            State::Finished { .. } => ledger.state("finished-orphan"),
        }
        if message.doomed.is_some() {
            ledger.state("doomed");
        }
    }
    if pipeline.stages().parked > 0 {
        ledger.state("parked");
    }
}
