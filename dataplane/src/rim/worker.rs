//! One attached worker: its rings, the calls that are open on it, and the room for their results.
//!
//! Takes calls, gives what became of them. A call that does not fit now waits here; nothing blocks. What the worker
//! writes that cannot be true ends it ([`Corrupt`]).

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use asya_envelope::{ErrorInfo, Payload};
use asya_ring::{Bell, Completion, Extent, Last, Link, Part as RingPart, PartRegion, PollError, PushError, Submission};
use asya_transport::{Part, Slot};
use tokio::io::unix::AsyncFd;

use super::memory::{INPUT, SMALL_ROOM, SharedMemory};
use super::packet::RaisedError;
use crate::drive::Call;
use crate::flow::{CallEnd, MessageId, Output, WorkerEvent, WorkerId};

/// The worker wrote what cannot be true, or its doorbell broke: it is to be killed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct Corrupt(#[from] PollError);

/// What is kept of an open call.
struct Open {
    message: MessageId,
    slot: Slot,
    context: Option<Extent>,
}

/// A call as it is written into the ring, with what it holds.
struct Waiting {
    message: MessageId,
    call: asya_ring::Call,
    slot: Slot,
    context: Vec<u8>,
}

/// A request for room.
struct Wanted {
    call: u64,
    bytes: u64,
    /// The core knows that the call stands still for it.
    told: bool,
}

/// One attached worker.
pub(super) struct Attached {
    id: WorkerId,
    link: Link,
    bell: AsyncFd<Bell>,
    output: u32,
    open: HashMap<u64, Open>,
    pinned: HashMap<u64, Slot>,
    /// Names the next call. Each has a name of its own: a message that runs here again may still be pinned by its last
    /// call.
    next_call: u64,
    /// Calls for which the ring or the arena has no place now.
    backlog: VecDeque<Waiting>,
    /// Requests for room that wait for results to leave, oldest first.
    rooms: VecDeque<Wanted>,
    /// Size of room that a result is likely to need: falls slowly, rises at once.
    likely: u64,
    timeout_ms: u32,
    /// It wrote what cannot be true: what it wrote after that is not taken.
    lied: bool,
    completions: Vec<Completion>,
    parts: Vec<RingPart>,
    /// Whether the worker's JSON library is the standard one, once a result has told.
    pub(super) json_stdlib: Option<bool>,
}

impl Attached {
    /// Makes rings and output memory for a worker.
    pub(super) fn new(id: WorkerId, memory: &mut SharedMemory, timeout: Duration) -> io::Result<Self> {
        let output = memory.add_output()?;
        let linked = (|| {
            let region = memory.region(output).ok_or(io::ErrorKind::NotFound)?;
            let link = Link::new(memory.input(), region)?;
            let bell = super::watch(link.completion_bell()?)?;
            Ok::<_, io::Error>((link, bell))
        })();
        let (link, bell) = linked.inspect_err(|_| memory.retire(output))?;
        Ok(Self {
            id,
            link,
            bell,
            output,
            open: HashMap::new(),
            pinned: HashMap::new(),
            next_call: 1,
            backlog: VecDeque::new(),
            rooms: VecDeque::new(),
            likely: 0,
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            lied: false,
            completions: Vec::new(),
            parts: Vec::new(),
            json_stdlib: None,
        })
    }

    /// Its name.
    pub(super) fn id(&self) -> WorkerId {
        self.id
    }

    /// Its rings, for the packet that hands them over.
    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Hands it a call.
    pub(super) fn submit(&mut self, memory: &mut SharedMemory, call: Call<'_>, events: &mut Vec<WorkerEvent>) {
        let Some(body) = memory.place(call.slot) else { return };
        let mut context = Vec::with_capacity(512);
        asya_envelope::context_json(&call.message.head, &mut context);
        let payload = call.message.payload;
        let waiting = Waiting {
            message: call.id,
            call: asya_ring::Call {
                call: self.next_call,
                more: call.more,
                alone: call.alone,
                blobs: payload.blobs,
                payload: Extent { offset: body.offset + payload.offset, len: payload.len },
                document_len: payload.document_len,
                timeout_ms: self.timeout_ms,
                ..asya_ring::Call::default()
            },
            slot: call.slot,
            context,
        };
        self.next_call += 1;
        // In order: the core reasons about what runs from the order in which it handed calls over.
        self.backlog.push_back(waiting);
        self.push_backlog(memory, events);
    }

    fn push_backlog(&mut self, memory: &mut SharedMemory, events: &mut Vec<WorkerEvent>) {
        while let Some(mut next) = self.backlog.pop_front() {
            match self.push(memory, &mut next) {
                Ok(()) => {}
                // Something is open, here or on another worker, whose end makes place.
                Err(PushError::Full) if self.link.open_calls() > 0 || memory.contexts() > 0 => {
                    self.backlog.push_front(next);
                    return;
                }
                Err(PushError::Pinned) => {
                    self.backlog.push_front(next);
                    return;
                }
                Err(error) => events.push(WorkerEvent::Ended {
                    worker: self.id,
                    call: next.message,
                    end: CallEnd::Failed {
                        error: crate::pipeline::error_info(
                            "asya.HandoffError",
                            format!("{} bytes of headers cannot be handed over: {error}", next.context.len()),
                        ),
                        unparsable: false,
                        retry_after: None,
                    },
                    elapsed: Duration::ZERO,
                }),
            }
        }
    }

    fn push(&mut self, memory: &mut SharedMemory, next: &mut Waiting) -> Result<(), PushError> {
        if self.link.open_calls() >= self.link.limits().max_calls {
            return Err(PushError::Full);
        }
        let Some((context, own)) = memory.write_context(next.slot, &next.context) else {
            return Err(PushError::Full);
        };
        next.call.context = context;
        let wanted = self.likely.max(SMALL_ROOM);
        next.call.room = memory.room(self.output, wanted, false);
        match self.link.push(&Submission::Call(next.call)) {
            Ok(()) => {
                self.open.insert(next.call.call, Open { message: next.message, slot: next.slot, context: own });
                Ok(())
            }
            Err(error) => {
                memory.free_context(next.slot, own);
                if let Some(room) = next.call.room {
                    memory.free_room(self.output, room);
                }
                Err(error)
            }
        }
    }

    /// Whether nothing runs though something waits: so many views of old input live that no call may begin.
    pub(super) fn is_wedged(&self) -> bool {
        !self.backlog.is_empty() && self.link.open_calls() == 0 && self.link.pinned_calls() > 0
    }

    /// Cancels a call.
    pub(super) fn cancel(&mut self, message: MessageId) {
        // It may have ended meanwhile.
        if let Some((&call, _)) = self.open.iter().find(|(_, open)| open.message == message) {
            self.link.push(&Submission::Cancel { call }).ok();
        }
    }

    /// Rings for everything that was pushed.
    pub(super) fn ring(&mut self) -> Result<(), Corrupt> {
        Ok(self.link.ring()?)
    }

    /// Answers requests for room that can be answered now; tells which calls stand still for theirs, and which go on.
    pub(super) fn grant(&mut self, memory: &mut SharedMemory, events: &mut Vec<WorkerEvent>) {
        let limit = self.link.limits().max_result_bytes;
        while let Some(&Wanted { call, bytes, told }) = self.rooms.front() {
            let answer = if bytes > limit {
                Submission::Refuse { call, limit }
            } else if let Some(room) = memory.room(self.output, bytes.max(1), true) {
                Submission::Grant { call, room }
            } else {
                return self.tell_stalled(events);
            };
            self.rooms.pop_front();
            if let Some(open) = self.open.get(&call).filter(|_| told) {
                events.push(WorkerEvent::Resumed { worker: self.id, call: open.message });
            }
            if let (Err(_), Submission::Grant { room, .. }) = (self.link.push(&answer), answer) {
                memory.free_room(self.output, room);
            }
        }
    }

    fn tell_stalled(&mut self, events: &mut Vec<WorkerEvent>) {
        for wanted in self.rooms.iter_mut().filter(|wanted| !wanted.told) {
            wanted.told = true;
            if let Some(open) = self.open.get(&wanted.call) {
                events.push(WorkerEvent::Stalled { worker: self.id, call: open.message });
            }
        }
    }

    /// Takes what it has said since the last time.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        memory: &mut SharedMemory,
        events: &mut Vec<WorkerEvent>,
    ) -> Result<(), Corrupt> {
        loop {
            let mut guard = match self.bell.poll_read_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(guard)) => guard,
                Poll::Ready(Err(error)) => return Err(PollError::Io(error).into()),
            };
            let mut completions = std::mem::take(&mut self.completions);
            let polled = self.link.poll(&mut completions);
            // The counter is zero now; the next ring makes the descriptor ready again.
            guard.clear_ready();
            let taken = self.take(&mut completions, memory, events);
            self.completions = completions;
            self.lied = taken.is_err() || polled.is_err();
            taken?;
            // On until the reactor has nothing more: only then has it taken note of whom to wake.
            polled?;
        }
        self.grant(memory, events);
        self.push_backlog(memory, events);
        Ok(())
    }

    /// The worker is gone: takes what it had finished, then gives everything back that it held.
    pub(super) fn bury(mut self, memory: &mut SharedMemory, events: &mut Vec<WorkerEvent>) {
        if !self.lied {
            let mut completions = Vec::new();
            // What came before a violation is still true.
            self.link.salvage(&mut completions).ok();
            self.take(&mut completions, memory, events).ok();
        }
        for open in self.open.into_values() {
            memory.free_context(open.slot, open.context);
        }
        for slot in self.pinned.into_values() {
            memory.unpin(slot);
        }
        memory.retire(self.output);
    }

    fn take(
        &mut self,
        completions: &mut Vec<Completion>,
        memory: &mut SharedMemory,
        events: &mut Vec<WorkerEvent>,
    ) -> Result<(), Corrupt> {
        for completion in completions.drain(..) {
            match completion {
                Completion::Result(entry) => {
                    self.json_stdlib.get_or_insert(entry.json_stdlib);
                    self.likely = (self.likely - self.likely / 64).max(likely_room(entry.payload_len));
                    self.result(entry, memory, events)?;
                }
                Completion::Done { call, last } => self.ended(call, last, CallEnd::Done, memory, events),
                Completion::Error { call, last, meta, room } => {
                    let end = self.error(meta, memory);
                    if let Some(room) = room {
                        memory.free_room(self.output, room);
                    }
                    self.ended(call, last, end, memory, events);
                }
                Completion::Room { call, wanted, returned } => {
                    if let Some(room) = returned {
                        memory.free_room(self.output, room);
                    }
                    // What is refused anyway says nothing of the results to come.
                    if wanted <= self.link.limits().max_result_bytes {
                        self.likely = self.likely.max(likely_room(wanted));
                    }
                    self.rooms.push_back(Wanted { call, bytes: wanted, told: false });
                }
                Completion::Unpinned { call } => {
                    if let Some(slot) = self.pinned.remove(&call) {
                        memory.unpin(slot);
                    }
                }
            }
        }
        Ok(())
    }

    fn result(
        &mut self,
        entry: asya_ring::ResultEntry,
        memory: &mut SharedMemory,
        events: &mut Vec<WorkerEvent>,
    ) -> Result<(), Corrupt> {
        self.parts.clear();
        let mut meta = Vec::new();
        if let Some(region) = memory.region(self.output) {
            region.parts(&entry, &mut self.parts).map_err(PollError::Violation)?;
            if let Some(extent) = entry.meta {
                region.copy_out(extent, &mut meta).ok();
            }
        }
        let parts = self.parts.iter().map(|part| Part {
            region: match part.region {
                PartRegion::Input => INPUT,
                PartRegion::Output => self.output,
            },
            offset: part.extent.offset,
            len: part.extent.len,
        });
        let payload =
            Payload { offset: 0, document_len: entry.document_len, len: entry.payload_len, blobs: entry.blobs };
        let output = Output { id: memory.hold(self.output, entry.room), parts: parts.collect(), payload, meta };
        // The ring has checked that it is open.
        match self.open.get(&entry.call) {
            Some(open) => events.push(WorkerEvent::Result { worker: self.id, call: open.message, output }),
            None => memory.release_result(output.id),
        }
        if let Some(last) = entry.last {
            self.ended(entry.call, last, CallEnd::Done, memory, events);
        }
        Ok(())
    }

    fn error(&self, meta: Option<Extent>, memory: &SharedMemory) -> CallEnd {
        let mut text = Vec::new();
        if let (Some(extent), Some(region)) = (meta, memory.region(self.output)) {
            region.copy_out(extent, &mut text).ok();
        }
        match serde_json::from_slice::<RaisedError>(&text) {
            Ok(raised) => {
                let (unparsable, retry_after) = (raised.is_unparsable(), raised.retry_after());
                CallEnd::Failed { error: raised.into_info(), unparsable, retry_after }
            }
            Err(_) => CallEnd::Failed {
                error: ErrorInfo {
                    message: "the handler failed, and its error could not be told".into(),
                    error_type: "asya.UnknownError".into(),
                    mro: Vec::new(),
                    traceback: None,
                },
                unparsable: false,
                retry_after: None,
            },
        }
    }

    fn ended(&mut self, call: u64, last: Last, end: CallEnd, memory: &mut SharedMemory, events: &mut Vec<WorkerEvent>) {
        if let Some(room) = last.unused {
            memory.free_room(self.output, room);
        }
        let asked = self.rooms.iter().position(|wanted| wanted.call == call).and_then(|at| self.rooms.remove(at));
        let Some(open) = self.open.remove(&call) else { return };
        if asked.is_some_and(|wanted| wanted.told) {
            events.push(WorkerEvent::Resumed { worker: self.id, call: open.message });
        }
        memory.free_context(open.slot, open.context);
        if last.pinned {
            memory.pin(open.slot);
            self.pinned.insert(call, open.slot);
        }
        let elapsed = Duration::from_nanos(last.elapsed_ns);
        events.push(WorkerEvent::Ended { worker: self.id, call: open.message, end, elapsed });
    }
}

/// Room for a result like this one, with some to spare.
fn likely_room(len: u64) -> u64 {
    len + len / 8 + 1024
}
