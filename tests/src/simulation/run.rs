//! One run: sidecars, broker, runtimes and faults, on a clock that jumps from event to event.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::task::{Context, Waker};

use asya_dataplane::drive::Sidecar;
use asya_dataplane::flow::{Now, Time};
use asya_dataplane::lifecycle::Phase;
use asya_dataplane::pipeline::Pipeline;

use super::body::{heads, open};
use super::broker::{Rules, Shared, World};
use super::clock::Clock;
use super::fault::Fault;
use super::ledger::Ledger;
use super::random::Random;
use super::runtime::SimRim;
use super::scenario::{ADDED, MAX_MESSAGE, Place, Scenario, WALL};
use super::states::{Notes, SimSidecar, note_states};
use super::transport::SimTransport;

/// A run that takes longer than this, in simulated nanoseconds, is stuck.
const LIMIT: u64 = 3_600_000_000_000;

/// Turns at one moment before the run counts as a hot loop.
const HOT: u32 = 10_000;

/// Grace periods of drains, in simulated nanoseconds: longer and shorter than what runs may take.
const GRACES: [u64; 4] = [0, 300_000_000, 5_000_000_000, 30_000_000_000];

/// After its drain a sidecar goes on so long, at most, to write out what is left, in simulated nanoseconds.
const FLUSH: u64 = 1_000_000_000;

/// A fault that is aimed at a moment of work waits for one so long, in simulated nanoseconds.
const AIM: u64 = 3_000_000_000;

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

struct Node {
    place: Place,
    sidecar: Option<SimSidecar>,
    /// When a replacement starts.
    start_at: u64,
    drain_by: Option<u64>,
    /// Its drain has ended; by then it is gone.
    gone_by: Option<u64>,
}

impl Node {
    fn remove(&mut self, start_at: u64) {
        self.sidecar = None;
        (self.drain_by, self.gone_by) = (None, None);
        self.start_at = start_at;
    }
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
    /// Faults that wait for a moment of work: until when, what, on which node.
    aimed: Vec<(u64, Fault, usize)>,
}

/// Runs a seed. With `record`, keeps the story.
pub fn run(seed: u64, record: bool) -> Outcome {
    let clock = Clock::default();
    let scenario = Scenario::new(seed);
    let ledger = Ledger::new(scenario.stage.clone(), clock.clone(), record);
    let mut world = World::new(scenario.rules, clock.clone(), scenario.lease);
    let ends = [&scenario.stage.sink, &scenario.stage.sump, &scenario.stage.replies];
    for queue in scenario.stage.queues.values().chain(ends) {
        world.declare(queue);
    }
    let nodes = scenario
        .places
        .iter()
        .map(|place| Node { place: place.clone(), sidecar: None, start_at: 0, drain_by: None, gone_by: None })
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
        aimed: Vec::new(),
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
                self.aim(fault);
            }
            self.strike();
            self.restore_queues();
            self.world.borrow_mut().tick();
            for number in std::mem::take(&mut self.world.borrow_mut().let_run_out) {
                self.ledger.violation(format!("the lease of message {number} was let run out while it was held"));
            }
            self.start_nodes();
            self.turns();
            if self.ledger.broken() {
                return;
            }
            let quiet = inputs.peek().is_none() && faults.peek().is_none() && self.aimed.is_empty();
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
            if let Some(fault) = part.fault {
                self.ledger.fault(fault);
            }
            if let Some(opened) = open(&part.body, part.content_type) {
                self.ledger.known(&opened.head, &opened.section);
                self.ledger.published(&input.queue, &part.body, part.content_type);
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
            let queue = &place.settings.queue;
            let transport = SimTransport::new(world, ledger.clone(), seed_a, unreliable, self.holders, queue);
            let rim = SimRim::new(place, self.holders, self.clock.clone(), ledger.clone(), seed_b);
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
                self.end_drain(index);
            } else if node.drain_by.is_some_and(|by| now.mono.0 > by + FLUSH) {
                self.ledger.violation(format!("{} did not drain within its grace period", node.place.actor));
            } else if matches!(sidecar.pipeline().phase(), Phase::Draining { .. })
                && sidecar.transport().unsettled() == 0
                && sidecar.pipeline().flight().publications.is_empty()
            {
                self.ledger.violation(format!("{} has nothing left, and drains on", node.place.actor));
            }
        }
    }

    /// A drain has ended. The process goes on until what it submitted last is written out, then it is gone.
    fn end_drain(&mut self, index: usize) {
        let now = self.clock.now();
        let node = &mut self.nodes[index];
        let Some(sidecar) = &mut node.sidecar else { return };
        if node.gone_by.is_none() {
            let held = sidecar.transport().held();
            if held > 0 && self.scenario.rules != Rules::Sqs {
                self.ledger.violation(format!("{} drained while it held {held}", node.place.actor));
            }
            if !sidecar.rim().drained_told() {
                self.ledger.violation("the runtime was not told that the drain ended".into());
            }
        }
        let by = *node.gone_by.get_or_insert(now + FLUSH);
        let (transport, rim) = sidecar.parts();
        if !transport.publishing() || now >= by {
            transport.vanish(rim);
            node.remove(now + self.random.between(0, 2_000_000_000));
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

    /// Half of the faults strike at once, the others at the next moment when there is something to hit.
    fn aim(&mut self, fault: Fault) {
        let index = (self.random.number() % self.nodes.len() as u64) as usize;
        let patience = if self.random.one_in(2) { AIM } else { 0 };
        self.aimed.push((self.clock.now() + patience, fault, index));
    }

    /// Injects the aimed faults that have something to hit, or have waited long enough for it.
    fn strike(&mut self) {
        let now = self.clock.now();
        for (until, fault, index) in std::mem::take(&mut self.aimed) {
            let busy = self.nodes[index].sidecar.as_mut().is_some_and(|sidecar| match fault {
                Fault::WorkerKilled | Fault::RuntimeGone | Fault::HandlerBroken => sidecar.rim().open() > 0,
                _ => sidecar.transport().publishing(),
            });
            if busy || until <= now {
                self.inject(fault, index);
            } else {
                self.aimed.push((until, fault, index));
            }
        }
    }

    fn inject(&mut self, fault: Fault, index: usize) {
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
            Fault::HandlerBroken => rim.break_handler(now.mono.0 + soon),
            Fault::SidecarKilled => {
                transport.vanish(rim);
                node.remove(now.mono.0 + later);
            }
            Fault::Drained => {
                let by = now.mono.0 + self.random.pick(&GRACES);
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
                [core, transport.next_timer(), rim.next_timer(), node.gone_by].into_iter().flatten().min()
            }
        });
        let aimed = self.aimed.iter().map(|&(until, ..)| until).min();
        nodes.chain(world).chain(restore).chain(aimed).min()
    }

    fn idle(&mut self) -> bool {
        let stage = &self.scenario.stage;
        let all = [stage.sump.as_str(), stage.replies.as_str(), stage.sink.as_str()];
        let sinks = if stage.consumed { &all[..2] } else { &all[..] };
        self.world.borrow().unfinished(sinks) == 0
            && self.nodes.iter_mut().all(|node| match &mut node.sidecar {
                None => true,
                Some(sidecar) => {
                    let flight = sidecar.pipeline().flight();
                    flight.publications.is_empty()
                        && flight.messages.is_empty()
                        && node.drain_by.is_none()
                        && node.gone_by.is_none()
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
        for queue in self.scenario.stage.queues.values().chain([&self.scenario.stage.sink]) {
            for kept in self.world.borrow().queue(queue).map(|q| q.dead.clone()).unwrap_or_default() {
                for head in heads(&kept.body) {
                    let len = kept.body.len() as u64;
                    if len > MAX_MESSAGE || kept.lost > 100 {
                        self.ledger.state("given-up-by-the-broker");
                    } else if len + ADDED > self.scenario.stage.limit {
                        self.ledger.state("too-large-to-fail");
                    } else {
                        self.ledger.violation(format!("{} is in the dead-letter queue", head.id));
                    }
                    dead.insert((head.id.clone(), head.route.hop()));
                }
            }
        }
        self.ledger.check_outcomes(roots, &dead);
    }
}
