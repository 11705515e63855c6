//! The memory in which bodies arrive and from which results leave.
//!
//! Takes lengths, gives slots of the one input region; takes a worker's results, gives ranges that the transport can
//! write out. Never blocks: without room it says so. A slot of which views live in a worker is freed only once the last
//! of them is gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use asya_ring::{Arena, CallLimits, Extent, InputRegion, OutputRegion, PAGE, Piece as RingPiece};
use asya_transport::{Memory as TransportMemory, Part, Piece, Room, Slot};

use crate::flow::{OutputId, Store};

/// [`Part::region`] of the input region; outputs are numbered from 1.
pub(super) const INPUT: u32 = 0;

/// Bytes of a small input slot: a page holds a kilobyte of payload, its head and its context.
const SMALL_SLOT: u64 = PAGE;

/// Small slots that are backed by memory from the start, so that the first messages do not pay for page faults.
const PREFAULTED: u64 = 512;

/// Bytes of a small room for a result. Only the pages that a result touches cost memory.
pub(super) const SMALL_ROOM: u64 = 2 * PAGE;

/// Freed result memory of a worker that stays backed: below it, a steady stream of large results pays no page faults.
const WARM_OUTPUT: u64 = 32 << 20;

/// Address space of an output region as a multiple of its budget: room to choose from after fragmentation.
const SPARSE: u64 = 4;

/// Sizes, all in bytes unless named otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Largest body taken in.
    pub max_message: u64,
    /// Bodies held at once.
    pub budget: u64,
    /// Contexts of open calls, beyond the budget.
    pub contexts: u64,
    /// Workers, whose results have a budget of their own each.
    pub workers: u16,
    /// Deliveries held at once, a number.
    pub window: u32,
    /// Calls that run at once on one worker, a number.
    pub concurrency: u16,
    /// What may be open on one worker.
    pub limits: CallLimits,
}

#[derive(Debug)]
struct Body {
    extent: Extent,
    len: u64,
    pins: u32,
    released: bool,
    /// A context lies behind it. One at most: the messages of a bundle share a body.
    lodger: bool,
}

/// One worker's output region and who has which part of it.
struct Output {
    region: OutputRegion,
    arena: Arena,
    /// Results that the core still holds.
    held: u32,
    /// Its worker is gone: dropped with the last result.
    retired: bool,
}

/// Input region, output regions, and who has which bytes of them.
pub struct SharedMemory {
    sizes: Sizes,
    input: InputRegion,
    arena: Arena,
    bodies: Vec<Option<Body>>,
    free: Vec<u32>,
    outputs: Vec<Option<Output>>,
    results: HashMap<u64, (u32, Extent)>,
    next_result: u64,
    /// Contexts that have a place of their own.
    contexts: usize,
}

impl SharedMemory {
    /// Makes the input region.
    pub fn create(sizes: Sizes) -> io::Result<Self> {
        // One ring more for each worker: a replacement attaches while the old link is still being buried.
        let rings = u32::from(sizes.workers) * 2;
        let slots = u64::from(sizes.window) * 2;
        // Each body wastes at most a page, which the budget must not pay for.
        let bytes = sizes.budget + sizes.contexts + slots * SMALL_SLOT;
        let mut input = InputRegion::create(rings, sizes.limits, bytes)?;
        let arena = input.arena(SMALL_SLOT, u32::try_from(slots).unwrap_or(u32::MAX));
        let small = arena.small_slots();
        let prefault = Extent { offset: small.offset, len: small.len.min(PREFAULTED * SMALL_SLOT) };
        input.prefault(prefault)?;
        Ok(Self {
            sizes,
            input,
            arena,
            bodies: Vec::new(),
            free: Vec::new(),
            outputs: Vec::new(),
            results: HashMap::new(),
            next_result: 0,
            contexts: 0,
        })
    }

    /// The input region, for links.
    pub(super) fn input(&self) -> &InputRegion {
        &self.input
    }

    /// Bytes allocated in the input region, and those that bodies may have.
    pub fn input_bytes(&self) -> (u64, u64) {
        (self.arena.used_bytes(), self.sizes.budget)
    }

    /// Bytes allocated for results, and those that may be, of all workers.
    pub fn output_bytes(&self) -> (u64, u64) {
        let sum = |(used, most), o: &Output| (used + o.arena.used_bytes(), most + o.arena.budget_bytes());
        self.outputs.iter().flatten().fold((0, 0), sum)
    }

    /// Slots that are kept only because a worker still has views of them.
    pub fn pinned_slots(&self) -> usize {
        self.bodies.iter().flatten().filter(|b| b.released).count()
    }

    fn body(&self, slot: Slot) -> Option<&Body> {
        self.bodies.get(slot.0 as usize)?.as_ref()
    }

    /// Where a slot's bytes lie in the input region.
    pub(super) fn place(&self, slot: Slot) -> Option<Extent> {
        self.body(slot).map(|b| Extent { offset: b.extent.offset, len: b.len })
    }

    /// A place for a call's context: behind the body when its slot has room and nobody else's context there, else on
    /// its own. The second value, and the slot, are to be given back by [`SharedMemory::free_context`].
    pub(super) fn write_context(&mut self, slot: Slot, context: &[u8]) -> Option<(Extent, Option<Extent>)> {
        let len = context.len() as u64;
        let body = self.bodies.get_mut(slot.0 as usize)?.as_mut()?;
        let behind = body.len.next_multiple_of(8);
        let (target, own) = if behind + len <= body.extent.len && body.pins == 0 && !body.lodger {
            body.lodger = true;
            (Extent { offset: body.extent.offset + behind, len }, None)
        } else {
            let extent = self.arena.alloc(len)?;
            self.contexts += 1;
            (Extent { offset: extent.offset, len }, Some(extent))
        };
        self.input.slice_mut(target).ok()?.copy_from_slice(context);
        Some((target, own))
    }

    /// Takes a context's place back: its own, or the one behind this body.
    pub(super) fn free_context(&mut self, slot: Slot, own: Option<Extent>) {
        if let Some(extent) = own {
            self.arena.free(extent).ok();
            self.contexts -= 1;
        } else if let Some(body) = self.bodies.get_mut(slot.0 as usize).and_then(Option::as_mut) {
            body.lodger = false;
        }
    }

    /// Contexts whose end makes room for others.
    pub(super) fn contexts(&self) -> usize {
        self.contexts
    }

    /// A worker has views of this slot that outlive its call.
    pub(super) fn pin(&mut self, slot: Slot) {
        if let Some(body) = self.bodies.get_mut(slot.0 as usize).and_then(Option::as_mut) {
            body.pins += 1;
        }
    }

    /// The last view of one pin is gone.
    pub(super) fn unpin(&mut self, slot: Slot) {
        let Some(body) = self.bodies.get_mut(slot.0 as usize).and_then(Option::as_mut) else { return };
        body.pins = body.pins.saturating_sub(1);
        if body.released && body.pins == 0 {
            self.free_body(slot);
        }
    }

    fn free_body(&mut self, slot: Slot) {
        if let Some(body) = self.bodies.get_mut(slot.0 as usize).and_then(Option::take) {
            self.arena.free(body.extent).ok();
            self.free.push(slot.0);
        }
    }

    /// A fresh output region for a worker: its number, and what to link it with.
    pub(super) fn add_output(&mut self) -> io::Result<u32> {
        let max = self.sizes.limits.max_result_bytes;
        // One largest result per concurrent call in reserve: so a call that needs it never waits for calls behind it.
        let budget = self.sizes.budget + max * (u64::from(self.sizes.concurrency) + 1);
        let region = OutputRegion::create(self.sizes.limits, budget * SPARSE)?;
        let arena = Arena::new(asya_ring::ArenaConfig {
            space: region.rooms(),
            small_bytes: SMALL_ROOM,
            small_slots: self.sizes.window * 2,
            budget_bytes: budget,
            warm_bytes: WARM_OUTPUT,
        });
        let output = Output { region, arena, held: 0, retired: false };
        let index = match self.outputs.iter().position(Option::is_none) {
            Some(index) => {
                self.outputs[index] = Some(output);
                index
            }
            None => {
                self.outputs.push(Some(output));
                self.outputs.len() - 1
            }
        };
        Ok(index as u32 + 1)
    }

    fn output(&self, number: u32) -> Option<&Output> {
        self.outputs.get((number as usize).checked_sub(1)?)?.as_ref()
    }

    fn output_mut(&mut self, number: u32) -> Option<&mut Output> {
        self.outputs.get_mut((number as usize).checked_sub(1)?)?.as_mut()
    }

    /// The region of this number.
    pub(super) fn region(&self, number: u32) -> Option<&OutputRegion> {
        self.output(number).map(|o| &o.region)
    }

    /// Room for a result. Without `reserve`, the reserve for calls that ask is left alone.
    pub(super) fn room(&mut self, number: u32, len: u64, reserve: bool) -> Option<Extent> {
        let kept =
            if reserve { 0 } else { self.sizes.limits.max_result_bytes * (u64::from(self.sizes.concurrency) + 1) };
        let output = self.output_mut(number)?;
        if output.arena.used_bytes() + len + kept > output.arena.budget_bytes() {
            return None;
        }
        output.arena.alloc(len)
    }

    /// Takes room back.
    pub(super) fn free_room(&mut self, number: u32, room: Extent) {
        let Some(output) = self.output_mut(number) else { return };
        output.arena.free(room).ok();
        while let Some(cold) = output.arena.next_punch() {
            // Without it the memory stays backed, which costs memory and nothing else.
            if output.region.punch(cold).is_err() {
                break;
            }
        }
    }

    /// Keeps a result until it is released.
    pub(super) fn hold(&mut self, number: u32, room: Extent) -> OutputId {
        if let Some(output) = self.output_mut(number) {
            output.held += 1;
        }
        self.next_result += 1;
        self.results.insert(self.next_result, (number, room));
        OutputId(self.next_result)
    }

    /// A result is no longer needed.
    pub(super) fn release_result(&mut self, id: OutputId) {
        let Some((number, room)) = self.results.remove(&id.0) else { return };
        self.free_room(number, room);
        if let Some(output) = self.output_mut(number) {
            output.held -= 1;
            self.drop_if_unused(number);
        }
    }

    /// The worker of this region is gone: the region goes with its last result.
    pub(super) fn retire(&mut self, number: u32) {
        if let Some(output) = self.output_mut(number) {
            output.retired = true;
            self.drop_if_unused(number);
        }
    }

    fn drop_if_unused(&mut self, number: u32) {
        if self.output(number).is_some_and(|o| o.retired && o.held == 0) {
            self.outputs[number as usize - 1] = None;
        }
    }

    fn ring_piece<'a>(&'a self, piece: &Piece<'a>) -> io::Result<RingPiece<'a>> {
        Ok(match piece {
            Piece::Bytes(bytes) => RingPiece::Bytes(bytes),
            Piece::Part(part) => {
                let extent = Extent { offset: part.offset, len: part.len };
                RingPiece::Raw(match part.region {
                    INPUT => self.input.raw(extent)?,
                    number => self.region(number).ok_or(io::ErrorKind::InvalidInput)?.raw(extent)?,
                })
            }
        })
    }
}

impl TransportMemory for SharedMemory {
    fn reserve(&mut self, len: u64) -> Room {
        if len > self.sizes.max_message {
            return Room::TooLarge;
        }
        if self.arena.used_bytes() + len > self.sizes.budget {
            return Room::Later;
        }
        let Some(extent) = self.arena.alloc(len) else { return Room::Later };
        let body = Some(Body { extent, len, pins: 0, released: false, lodger: false });
        let index = match self.free.pop() {
            Some(index) => {
                self.bodies[index as usize] = body;
                index
            }
            None => {
                self.bodies.push(body);
                (self.bodies.len() - 1) as u32
            }
        };
        Room::Granted(Slot(index))
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        match self.place(slot) {
            Some(extent) => self.input.slice_mut(extent).unwrap_or_default(),
            None => &mut [],
        }
    }

    fn release(&mut self, slot: Slot) {
        let Some(body) = self.bodies.get_mut(slot.0 as usize).and_then(Option::as_mut) else { return };
        body.released = true;
        if body.pins == 0 {
            self.free_body(slot);
        }
    }

    fn copy_part(&self, part: Part, out: &mut Vec<u8>) {
        let extent = Extent { offset: part.offset, len: part.len };
        if part.region == INPUT {
            out.extend_from_slice(self.input.slice(extent).unwrap_or_default());
        } else if let Some(region) = self.region(part.region) {
            region.copy_out(extent, out).ok();
        }
    }

    fn write_gathered(&self, socket: BorrowedFd<'_>, pieces: &[Piece<'_>]) -> io::Result<usize> {
        // Ranges were checked when the result was taken, so a bad one is a bug here. It ends the gathering, and is an
        // error once it comes first.
        if let Some(first) = pieces.first() {
            self.ring_piece(first)?;
        }
        asya_ring::write_gathered(socket, pieces.iter().map_while(|p| self.ring_piece(p).ok()))
    }
}

impl Store for SharedMemory {
    fn slot(&self, slot: Slot) -> &[u8] {
        self.place(slot).and_then(|extent| self.input.slice(extent).ok()).unwrap_or_default()
    }

    fn part(&self, slot: Slot, offset: u64, len: u64) -> Part {
        let start = self.place(slot).map_or(0, |extent| extent.offset);
        Part { region: INPUT, offset: start + offset, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> SharedMemory {
        let sizes = Sizes {
            max_message: 1 << 16,
            budget: 1 << 20,
            contexts: 1 << 16,
            workers: 1,
            window: 4,
            concurrency: 1,
            limits: CallLimits { max_calls: 4, max_pinned: 4, max_result_bytes: 1 << 16 },
        };
        SharedMemory::create(sizes).unwrap()
    }

    #[test]
    fn messages_that_share_a_body_have_a_place_each_for_their_contexts() {
        let mut memory = memory();
        let Room::Granted(slot) = memory.reserve(100) else { panic!("there is room") };
        let (first, own) = memory.write_context(slot, b"first").unwrap();
        assert_eq!(own, None, "behind the body");
        let (second, own) = memory.write_context(slot, b"other").unwrap();
        assert_eq!(memory.input.slice(first).unwrap(), b"first");
        assert_eq!(memory.input.slice(second).unwrap(), b"other");
        memory.free_context(slot, own);
        assert_eq!(memory.contexts(), 0);
        memory.free_context(slot, None);
        assert_eq!(memory.write_context(slot, b"third").unwrap(), (first, None), "its place is free again");
    }
}
