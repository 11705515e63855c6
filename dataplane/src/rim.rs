//! The rim towards the runtime: shared memory, worker processes, and the socket on which they are agreed upon.
//!
//! Takes calls for workers, gives what became of them. Never blocks. A worker that dies, hangs up or lies ends as one
//! `Died`, after everything that it had still said; a supervisor that goes is waited for.

mod memory;
mod packet;
mod peer;
mod seat;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use asya_ring::CallLimits;
use asya_ring::socket::Listener;
use asya_transport::{Memory, Part, Piece, Room, Slot};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::drive::{Call, Rim};
use crate::flow::{Death, MessageId, OutputId, Store, WorkerEvent, WorkerId};
use memory::{SharedMemory, Sizes};
use packet::{Alive, FromPeer, ToPeer, VERSION};
use peer::{Packet, Peer};
use seat::{Hello, Seat};
use worker::Attached;

/// Calls ahead of those that run, per worker: what the core gives at most, rounded up.
const AHEAD: u32 = 64;

/// Ended calls of one worker whose input is still viewed; beyond it the worker is given nothing.
const MAX_PINNED: u32 = 256;

/// A process that hung up gets so long to end by itself.
const UNDEAD: Duration = Duration::from_secs(2);

/// A worker that keeps so much old input that it can be given nothing gets so long to let go of it.
const WEDGED: Duration = Duration::from_secs(5);

/// Peers that have not said who they are: more than this at once is a flood, and the oldest is dropped.
const MAX_STRANGERS: usize = 64;

/// What the rim needs to know.
#[derive(Clone, Debug)]
pub struct RimSettings {
    /// Worker processes.
    pub workers: u16,
    /// Calls that run at once on one worker, as configured.
    pub concurrency: u16,
    /// Payloads of one call, as configured; 0 = no batches.
    pub batch: u16,
    /// Largest body and largest result, in bytes.
    pub max_message_bytes: u64,
    /// Bodies held at once, in bytes.
    pub memory_bytes: u64,
    /// Deliveries held at once.
    pub max_window: u32,
    /// Time of one call; zero = no limit.
    pub timeout: Duration,
}

/// The supervisor that is connected.
struct Supervisor {
    peer: Peer,
    pid: u32,
}

/// The rim over real shared memory.
pub struct SharedRim {
    settings: RimSettings,
    memory: SharedMemory,
    listener: AsyncFd<Listener>,
    supervisor: Option<Supervisor>,
    /// The last second supervisor, which dials again and again: it is told of once.
    refused: u32,
    strangers: Vec<Peer>,
    seats: Vec<Seat>,
    /// Events that arose outside a poll.
    pending: Vec<WorkerEvent>,
}

impl SharedRim {
    /// Makes the memory and listens at `socket`. Must run inside a tokio runtime.
    pub fn bind(settings: RimSettings, socket: &Path) -> io::Result<Self> {
        let at_once = u32::from(settings.concurrency.max(1)).max(u32::from(settings.batch) * 2);
        let limits = CallLimits {
            max_calls: at_once + AHEAD,
            max_pinned: MAX_PINNED,
            max_result_bytes: settings.max_message_bytes,
        };
        let memory = SharedMemory::create(Sizes {
            max_message: settings.max_message_bytes,
            budget: settings.memory_bytes,
            contexts: u64::from(limits.max_calls) * u64::from(settings.workers) * asya_ring::PAGE + (4 << 20),
            workers: settings.workers,
            window: settings.max_window,
            concurrency: settings.concurrency.max(1),
            limits,
        })?;
        let listener = watch(Listener::bind(socket)?)?;
        let seats = (0..settings.workers).map(|_| Seat::default()).collect();
        Ok(Self {
            settings,
            memory,
            listener,
            supervisor: None,
            refused: 0,
            strangers: Vec::new(),
            seats,
            pending: Vec::new(),
        })
    }

    /// The shared memory, for metrics.
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// Whether the runtime's JSON library is the standard one, once a worker has told.
    pub fn json_stdlib(&self) -> Option<bool> {
        self.seats.iter().find_map(|s| s.attached.as_ref()?.json_stdlib)
    }

    fn accept(&mut self, cx: &mut Context<'_>) {
        loop {
            let Poll::Ready(Ok(mut guard)) = self.listener.poll_read_ready(cx) else { return };
            match self.listener.get_ref().accept().and_then(Peer::new) {
                Ok(peer) => {
                    if self.strangers.len() >= MAX_STRANGERS {
                        self.strangers.remove(0);
                    }
                    self.strangers.push(peer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => {
                    tracing::warn!(%error, "a peer of the runtime could not be accepted");
                    guard.clear_ready();
                }
            }
        }
    }

    fn poll_strangers(&mut self, cx: &mut Context<'_>) {
        let mut at = 0;
        while at < self.strangers.len() {
            match self.strangers[at].poll(cx) {
                Poll::Pending => at += 1,
                Poll::Ready(packet) => {
                    let peer = self.strangers.remove(at);
                    self.introduced(peer, packet, cx);
                }
            }
        }
    }

    fn introduced(&mut self, peer: Peer, packet: Packet, cx: &mut Context<'_>) {
        match packet {
            Packet::Said(FromPeer::Supervisor { version, pid, python, workers }) if version == VERSION => {
                // The one before may be gone, and not have been seen to go.
                self.poll_supervisor(cx);
                if let Some(other) = &self.supervisor {
                    let other = other.pid;
                    if std::mem::replace(&mut self.refused, pid) != pid {
                        tracing::error!(
                            pid,
                            other,
                            "a second runtime dialled, and is refused: another one is attached"
                        );
                    }
                    refuse(&peer, format!("another runtime (pid {other}) is attached"), true);
                    return;
                }
                tracing::info!(python, pid, "the runtime is here");
                self.welcome_supervisor(Supervisor { peer, pid }, &workers);
            }
            Packet::Said(FromPeer::Worker { version, worker, generation, pid }) if version == VERSION => {
                self.attach(peer, Hello { index: worker, generation, pid });
            }
            Packet::Said(FromPeer::Supervisor { version, .. } | FromPeer::Worker { version, .. }) => {
                tracing::error!(version, wanted = VERSION, "the runtime speaks another version: update both together");
                refuse(&peer, format!("version {version}, wanted {VERSION}"), false);
            }
            Packet::End => {}
            Packet::Said(said) => tracing::warn!(?said, "a peer did not say who it is, and was dropped"),
            Packet::Garbage(why) => tracing::warn!(why, "a peer could not be understood, and was dropped"),
        }
    }

    fn welcome_supervisor(&mut self, supervisor: Supervisor, alive: &[Alive]) {
        for index in 0..self.seats.len() as u16 {
            let pid = alive.iter().find(|w| w.worker == index).map(|w| w.pid);
            let seat = &mut self.seats[usize::from(index)];
            // A worker that an earlier supervisor left behind is no longer anybody's to kill.
            if seat.attached.is_some() && pid != Some(seat.pid) {
                self.bury(index, Death::Detached);
            }
            self.seats[usize::from(index)].supervised(pid);
        }
        let generations = self.seats.iter().map(|s| s.generation).collect();
        let start = ToPeer::Start { workers: self.settings.workers, generations };
        if let Err(error) = supervisor.peer.send(&start, &[]) {
            tracing::warn!(%error, "the supervisor did not take its orders");
            return;
        }
        self.supervisor = Some(supervisor);
        for index in 0..self.seats.len() as u16 {
            // An earlier supervisor connection may have been lost before it heard this.
            if self.seats[usize::from(index)].killed.is_some() {
                self.order_kill(index);
            }
            if let Some((peer, hello)) = self.seats[usize::from(index)].early.take() {
                self.attach(peer, hello);
            }
        }
    }

    /// A worker says who it is.
    fn attach(&mut self, peer: Peer, hello: Hello) {
        let index = hello.index;
        let Some(seat) = self.seats.get_mut(usize::from(index)) else {
            refuse(&peer, format!("no worker {index} is wanted"), false);
            return;
        };
        if self.supervisor.is_none() && seat.is_unknown(hello) {
            seat.early = Some((peer, hello));
            return;
        }
        if let Some(why) = seat.refusal(hello) {
            tracing::warn!(worker = index, why, "a worker was refused");
            refuse(&peer, why, false);
            return;
        }
        let id = seat.id(index);
        let attached = Attached::new(id, &mut self.memory, self.settings.timeout).and_then(|attached| {
            let packet = ToPeer::attach(index, id.generation, attached.link().geometry());
            match peer.send(&packet, &attached.link().descriptors()) {
                Ok(()) => Ok(attached),
                Err(error) => {
                    // Nobody has heard of it, so it has nothing to say.
                    attached.bury(&mut self.memory, &mut Vec::new());
                    Err(error)
                }
            }
        });
        match attached {
            Ok(attached) => {
                seat.attached = Some(attached);
                (seat.peer, seat.pid, seat.kept) = (Some(peer), hello.pid, None);
                seat.running = true;
            }
            Err(error) => {
                tracing::error!(%error, worker = index, "a worker could not be attached");
                refuse(&peer, error.to_string(), false);
            }
        }
    }

    fn poll_supervisor(&mut self, cx: &mut Context<'_>) {
        while let Some(supervisor) = &mut self.supervisor {
            match supervisor.peer.poll(cx) {
                Poll::Pending => return,
                Poll::Ready(Packet::Said(FromPeer::Drain {})) => self.pending.push(WorkerEvent::DrainAsked),
                Poll::Ready(Packet::Said(FromPeer::Died { worker, generation, exit_code, signal, oom })) => {
                    tracing::warn!(worker, generation, ?exit_code, ?signal, ?oom, "a worker process has ended");
                    self.reaped(worker, generation, cx);
                }
                Poll::Ready(Packet::End) => {
                    tracing::warn!("the runtime's supervisor is gone; waiting for it to come back");
                    self.supervisor = None;
                }
                Poll::Ready(Packet::Said(said)) => {
                    tracing::error!(?said, "the supervisor said what it may not, and was dropped");
                    self.supervisor = None;
                }
                Poll::Ready(Packet::Garbage(why)) => {
                    tracing::error!(why, "the supervisor could not be understood, and was dropped");
                    self.supervisor = None;
                }
            }
        }
    }

    fn reaped(&mut self, index: u16, generation: u32, cx: &mut Context<'_>) {
        let due = |rim: &Self| rim.seats.get(usize::from(index)).is_some_and(|s| s.generation == generation);
        // A process that was killed has a successor already.
        if !due(self) {
            return;
        }
        // Its last packet may say why.
        self.poll_worker(index, cx);
        if due(self) {
            self.bury(index, Death::Crashed);
        }
        if due(self) {
            self.seats[usize::from(index)].running = false;
            self.restart_if_due(index);
        }
    }

    fn poll_worker(&mut self, index: u16, cx: &mut Context<'_>) {
        let seat = &mut self.seats[usize::from(index)];
        if let Some(attached) = &mut seat.attached
            && let Err(error) = attached.poll(cx, &mut self.memory, &mut self.pending)
        {
            tracing::error!(worker = index, %error, "a worker broke the rules of the ring and is killed");
            self.kill_process(index, Death::Corrupt);
            self.bury(index, Death::Corrupt);
            return;
        }
        while let Some(peer) = &mut self.seats[usize::from(index)].peer {
            match peer.poll(cx) {
                Poll::Pending => return,
                Poll::Ready(Packet::Said(FromPeer::Ready { concurrency, batch, kind })) => {
                    let worker = self.seats[usize::from(index)].id(index);
                    let limits = self.memory.input().limits();
                    // The rings were made for what was configured; a handler that could do more does that much.
                    let most = u16::try_from(limits.max_calls - AHEAD).unwrap_or(u16::MAX);
                    let event = WorkerEvent::Ready {
                        worker,
                        concurrency: concurrency.clamp(1, most),
                        batch: batch.min(most),
                        cancellable: kind.starts_with("async"),
                    };
                    self.pending.push(event);
                }
                Poll::Ready(Packet::Said(FromPeer::Failed { error })) => {
                    let worker = self.seats[usize::from(index)].id(index);
                    self.pending.push(WorkerEvent::Broken { worker, error: error.into_info() });
                }
                Poll::Ready(Packet::End) => self.bury(index, Death::Crashed),
                Poll::Ready(Packet::Said(said)) => {
                    tracing::error!(worker = index, ?said, "a worker said what it may not, and is killed");
                    self.kill_process(index, Death::Corrupt);
                    self.bury(index, Death::Corrupt);
                }
                Poll::Ready(Packet::Garbage(why)) => {
                    tracing::error!(worker = index, why, "a worker could not be understood, and is killed");
                    self.kill_process(index, Death::Corrupt);
                    self.bury(index, Death::Corrupt);
                }
            }
        }
    }

    /// Asks the supervisor to kill the process of this seat, which also starts its replacement.
    fn kill_process(&mut self, index: u16, death: Death) {
        let seat = &mut self.seats[usize::from(index)];
        if seat.killed.is_some() {
            return;
        }
        seat.killed = Some(death);
        self.order_kill(index);
    }

    fn order_kill(&mut self, index: u16) {
        let seat = &self.seats[usize::from(index)];
        let reason = match seat.killed.unwrap_or(Death::Crashed) {
            Death::TimedOut => "timeout",
            Death::Corrupt => "corrupt",
            Death::Crashed | Death::Detached => "lost",
        };
        let generation = seat.generation;
        let packet = ToPeer::Kill { worker: index, generation, next_generation: generation + 1, reason };
        self.tell_supervisor(&packet);
    }

    /// A worker is gone: its last words, then its death, once.
    fn bury(&mut self, index: u16, death: Death) {
        let seat = &mut self.seats[usize::from(index)];
        if seat.told {
            return;
        }
        let worker = seat.id(index);
        let death = seat.killed.unwrap_or(death);
        (seat.told, seat.peer, seat.hung_up) = (true, None, Some(Instant::now()));
        if let Some(attached) = seat.attached.take() {
            attached.bury(&mut self.memory, &mut self.pending);
        }
        if seat.killed.is_some() {
            seat.next_process();
        }
        self.pending.push(WorkerEvent::Died { worker, death });
    }

    fn restart_if_due(&mut self, index: u16) {
        let seat = &mut self.seats[usize::from(index)];
        if !seat.wanted || seat.running {
            return;
        }
        seat.next_process();
        let packet = ToPeer::Restart { worker: index, generation: seat.generation };
        self.tell_supervisor(&packet);
    }

    /// A process that hung up and does not die is killed: nothing else would ever start its replacement.
    fn kill_the_undead(&mut self, index: u16) {
        let seat = &mut self.seats[usize::from(index)];
        if !seat.running || seat.hung_up.is_none_or(|at| at.elapsed() < UNDEAD) {
            return;
        }
        tracing::warn!(worker = index, "a worker hung up and did not end; it is killed");
        self.kill_process(index, Death::Detached);
        self.seats[usize::from(index)].next_process();
    }

    /// A worker that is so full of views of old input that it can be given nothing is replaced.
    fn replace_the_wedged(&mut self, index: u16) {
        let seat = &mut self.seats[usize::from(index)];
        if !seat.attached.as_ref().is_some_and(Attached::is_wedged) || seat.killed.is_some() {
            seat.wedged = None;
            return;
        }
        if seat.wedged.get_or_insert_with(Instant::now).elapsed() >= WEDGED {
            tracing::error!(
                worker = index,
                "the handler keeps views of the input of {MAX_PINNED} calls or more, so its worker is replaced: copy what outlives a call"
            );
            self.kill_process(index, Death::Detached);
        }
    }

    fn tell_supervisor(&mut self, packet: &ToPeer) {
        // Without a supervisor there is nothing to do: the next one is told to start everything.
        if let Some(supervisor) = &self.supervisor
            && let Err(error) = supervisor.peer.send(packet, &[])
        {
            tracing::error!(%error, "the supervisor does not take its orders, and was dropped");
            self.supervisor = None;
        }
    }
}

/// Tells a peer that it is not wanted. It hears that before the end of file that follows.
fn refuse(peer: &Peer, why: String, retry: bool) {
    peer.send(&ToPeer::Refused { why, retry }, &[]).ok();
}

/// Tells the reactor to watch a descriptor for reading.
#[expect(
    deprecated,
    reason = "its successor is an unsafe function, for types that could close the descriptor early; \
                               the three that are watched here own theirs, and this crate has no unsafe code"
)]
fn watch<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, Interest::READABLE)
}

impl Rim for SharedRim {
    fn submit(&mut self, worker: WorkerId, call: Call<'_>) {
        let seat = self.seats.get_mut(usize::from(worker.index));
        if let Some(attached) = seat.and_then(|s| s.attached.as_mut()).filter(|a| a.id() == worker) {
            attached.submit(&mut self.memory, call, &mut self.pending);
        }
    }

    fn cancel(&mut self, worker: WorkerId, call: MessageId) {
        let seat = self.seats.get_mut(usize::from(worker.index));
        if let Some(attached) = seat.and_then(|s| s.attached.as_mut()).filter(|a| a.id() == worker) {
            attached.cancel(call);
        }
    }

    fn kill(&mut self, worker: WorkerId, death: Death) {
        if self.seats.get(usize::from(worker.index)).is_some_and(|s| s.id(worker.index) == worker) {
            self.kill_process(worker.index, death);
        }
    }

    fn start(&mut self, index: u16) {
        let Some(seat) = self.seats.get_mut(usize::from(index)) else { return };
        // The replacement of what was killed is under way already.
        if seat.told {
            seat.wanted = true;
            self.restart_if_due(index);
        }
    }

    fn release_output(&mut self, output: OutputId) {
        self.memory.release_result(output);
        // Whoever waits for room is answered before the next doorbell.
        for attached in self.seats.iter_mut().filter_map(|s| s.attached.as_mut()) {
            attached.grant(&mut self.memory, &mut self.pending);
        }
    }

    fn drained(&mut self) {
        self.tell_supervisor(&ToPeer::Drained {});
    }

    fn ring(&mut self) {
        for index in 0..self.seats.len() as u16 {
            let rung = self.seats[usize::from(index)].attached.as_mut().map_or(Ok(()), Attached::ring);
            if let Err(error) = rung {
                tracing::error!(worker = index, %error, "a worker's doorbell is broken, and the worker is killed");
                self.kill_process(index, Death::Corrupt);
                self.bury(index, Death::Corrupt);
            }
        }
    }

    fn poll_workers(&mut self, cx: &mut Context<'_>, events: &mut Vec<WorkerEvent>) {
        self.accept(cx);
        self.poll_strangers(cx);
        self.poll_supervisor(cx);
        for index in 0..self.seats.len() as u16 {
            self.poll_worker(index, cx);
            self.kill_the_undead(index);
            self.replace_the_wedged(index);
        }
        events.append(&mut self.pending);
    }
}

impl Memory for SharedRim {
    fn reserve(&mut self, len: u64) -> Room {
        self.memory.reserve(len)
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        self.memory.slot_mut(slot)
    }

    fn release(&mut self, slot: Slot) {
        self.memory.release(slot);
    }

    fn copy_part(&self, part: Part, out: &mut Vec<u8>) {
        self.memory.copy_part(part, out);
    }

    fn write_gathered(&self, socket: BorrowedFd<'_>, pieces: &[Piece<'_>]) -> io::Result<usize> {
        self.memory.write_gathered(socket, pieces)
    }
}

impl Store for SharedRim {
    fn slot(&self, slot: Slot) -> &[u8] {
        self.memory.slot(slot)
    }

    fn part(&self, slot: Slot, offset: u64, len: u64) -> Part {
        self.memory.part(slot, offset, len)
    }
}
