//! Who has which bytes of a region: an allocator that the sidecar alone uses.
//!
//! Takes lengths; gives [`Extent`]s that never overlap. Pure: it touches no memory. Says `None` when the budget or the
//! space is used up (free something and ask again), and detects a free of what is not allocated.
//!
//! Small slots are a class of their own, reused last in, first out, so that a steady stream of small messages stays in
//! the same few cache and TLB lines. Everything larger is a run of pages, best fit, coalesced when freed. Freed pages
//! stay backed by memory (*warm*) and are preferred, because a page that was given back costs a fault of about 1.5 µs
//! when it is used again; what is warm beyond [`ArenaConfig::warm_bytes`] is handed out by [`Arena::next_punch`].

use std::collections::{BTreeMap, BTreeSet};

use crate::PAGE;
use crate::wire::Extent;

/// The shape of an [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaConfig {
    /// The bytes to give out. May be much larger than the budget where they can be hole-punched: address space is
    /// free, and room to choose from is what keeps very large requests possible after fragmentation.
    pub space: Extent,
    /// Bytes of a small slot, rounded up to whole pages.
    pub small_bytes: u64,
    /// Small slots, at the start of the space. At most half of the space becomes small slots.
    pub small_slots: u32,
    /// The most bytes allocated at once.
    pub budget_bytes: u64,
    /// Freed bytes that stay backed by memory. `u64::MAX`: all of them.
    pub warm_bytes: u64,
}

/// A free of something that is not allocated: a bug of the caller's, or a lie of a worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {offset} are not allocated")]
pub struct NotAllocated {
    /// Where.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

/// The allocator. See the module's documentation.
#[derive(Debug)]
pub struct Arena {
    small: SmallSlots,
    /// Free pages outside the small slots.
    free: ExtentSet,
    /// Those of them that are backed by memory.
    warm: ExtentSet,
    /// Allocated runs of pages, by offset.
    live: BTreeMap<u64, u64>,
    runs: Extent,
    used_bytes: u64,
    budget_bytes: u64,
    warm_bytes: u64,
}

impl Arena {
    /// An arena with everything free and nothing warm.
    pub fn new(config: ArenaConfig) -> Self {
        let start = config.space.offset.next_multiple_of(PAGE);
        let end = config.space.end().unwrap_or(u64::MAX) / PAGE * PAGE;
        let bytes = end.saturating_sub(start);
        let slot_bytes = config.small_bytes.max(1).next_multiple_of(PAGE);
        let slots = u64::from(config.small_slots).min(bytes / 2 / slot_bytes) as u32;
        let small = SmallSlots::new(start, slot_bytes, slots);
        let small_end = start + u64::from(slots) * slot_bytes;
        let runs = Extent { offset: small_end, len: end.saturating_sub(small_end) };
        let mut free = ExtentSet::default();
        free.insert(runs);
        Self {
            small,
            free,
            warm: ExtentSet::default(),
            live: BTreeMap::new(),
            runs,
            used_bytes: 0,
            budget_bytes: config.budget_bytes,
            warm_bytes: config.warm_bytes,
        }
    }

    /// Room for `len` bytes (0 is taken for 1), or `None` when there is none now. The extent starts at a page and may
    /// be longer than what was asked for.
    pub fn alloc(&mut self, len: u64) -> Option<Extent> {
        let left = self.budget_bytes - self.used_bytes;
        if len <= self.small.slot_bytes
            && self.small.slot_bytes <= left
            && let Some(slot) = self.small.take()
        {
            self.used_bytes += slot.len;
            return Some(slot);
        }
        let len = len.max(1).checked_next_multiple_of(PAGE)?;
        if len > left {
            return None;
        }
        let offset = self.warm.best_fit(len).or_else(|| self.free.best_fit(len))?;
        let extent = Extent { offset, len };
        self.free.remove(extent);
        self.warm.remove(extent);
        self.live.insert(offset, len);
        self.used_bytes += len;
        Some(extent)
    }

    /// Takes back exactly what [`Arena::alloc`] gave.
    pub fn free(&mut self, extent: Extent) -> Result<(), NotAllocated> {
        if !self.small.give(extent) {
            if self.live.get(&extent.offset) != Some(&extent.len) {
                return Err(NotAllocated { offset: extent.offset, len: extent.len });
            }
            self.live.remove(&extent.offset);
            self.free.insert(extent);
            self.warm.insert(extent);
        }
        self.used_bytes -= extent.len;
        Ok(())
    }

    /// A free range whose memory is to be given back *before* the next [`Arena::alloc`]. Call until `None`, after
    /// frees. Takes the highest warm pages, as allocation prefers the lowest of equally good ones.
    pub fn next_punch(&mut self) -> Option<Extent> {
        let excess = self.warm.total.checked_sub(self.warm_bytes).filter(|&bytes| bytes > 0)?;
        let top = self.warm.last()?;
        let len = top.len.min(excess.next_multiple_of(PAGE));
        let punch = Extent { offset: top.offset + top.len - len, len };
        self.warm.remove(punch);
        Some(punch)
    }

    /// Whether `len` bytes can be had when everything else is free.
    pub fn fits_ever(&self, len: u64) -> bool {
        let small = len <= self.small.slot_bytes && self.small.count > 0 && self.small.slot_bytes <= self.budget_bytes;
        let run = len.max(1).checked_next_multiple_of(PAGE);
        small || run.is_some_and(|run| run <= self.budget_bytes && run <= self.runs.len)
    }

    /// Bytes allocated now, rounded up as they are.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// The most that may be allocated at once.
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Freed bytes, outside the small slots, that are still backed by memory.
    pub fn warm_bytes(&self) -> u64 {
        self.warm.total
    }

    /// Where the small slots lie: the range worth backing with memory before the first message.
    pub fn small_slots(&self) -> Extent {
        Extent { offset: self.small.start, len: u64::from(self.small.count) * self.small.slot_bytes }
    }

    /// What must always hold; panics otherwise. For tests.
    #[doc(hidden)]
    pub fn check(&self) {
        self.free.check();
        self.warm.check();
        let live: u64 = self.live.values().sum();
        assert_eq!(self.free.total + live, self.runs.len, "every page is free or allocated");
        assert_eq!(live + self.small.used() * self.small.slot_bytes, self.used_bytes);
        assert!(self.used_bytes <= self.budget_bytes);
        for (&offset, &len) in &self.warm.by_offset {
            assert!(self.free.covers(Extent { offset, len }), "what is warm is free");
        }
        for (&offset, &len) in &self.live {
            assert!(!self.free.touches(Extent { offset, len }), "what is allocated is not free");
        }
    }
}

/// Slots of one size.
#[derive(Debug)]
struct SmallSlots {
    start: u64,
    slot_bytes: u64,
    count: u32,
    /// Free slots, the last freed on top.
    stack: Vec<u32>,
    taken: Vec<bool>,
}

impl SmallSlots {
    fn new(start: u64, slot_bytes: u64, count: u32) -> Self {
        Self { start, slot_bytes, count, stack: (0..count).rev().collect(), taken: vec![false; count as usize] }
    }

    fn take(&mut self) -> Option<Extent> {
        let slot = self.stack.pop()?;
        self.taken[slot as usize] = true;
        Some(Extent { offset: self.start + u64::from(slot) * self.slot_bytes, len: self.slot_bytes })
    }

    /// Whether it was one of these, and taken.
    fn give(&mut self, extent: Extent) -> bool {
        let Some(at) = extent.offset.checked_sub(self.start) else { return false };
        let slot = at / self.slot_bytes;
        if slot >= u64::from(self.count) || !at.is_multiple_of(self.slot_bytes) || extent.len != self.slot_bytes {
            return false;
        }
        let was_taken = std::mem::replace(&mut self.taken[slot as usize], false);
        if was_taken {
            self.stack.push(slot as u32);
        }
        was_taken
    }

    fn used(&self) -> u64 {
        u64::from(self.count) - self.stack.len() as u64
    }
}

/// A set of bytes as maximal runs, found by place and by size.
#[derive(Debug, Default)]
struct ExtentSet {
    by_offset: BTreeMap<u64, u64>,
    /// (length, offset)
    by_size: BTreeSet<(u64, u64)>,
    total: u64,
}

impl ExtentSet {
    /// Adds bytes of which none is in the set.
    fn insert(&mut self, extent: Extent) {
        if extent.len == 0 {
            return;
        }
        let Extent { mut offset, mut len } = extent;
        if let Some((&before, &before_len)) = self.by_offset.range(..offset).next_back()
            && before + before_len == offset
        {
            self.drop_run(before, before_len);
            offset = before;
            len += before_len;
        }
        if let Some(&after_len) = self.by_offset.get(&(offset + len)) {
            self.drop_run(offset + len, after_len);
            len += after_len;
        }
        self.add_run(offset, len);
    }

    /// Removes those of these bytes that are in the set.
    fn remove(&mut self, extent: Extent) {
        let end = extent.offset + extent.len;
        // The last run that begins before `end` is the last that can overlap; then walk down.
        while let Some((&run, &run_len)) = self.by_offset.range(..end).next_back() {
            let run_end = run + run_len;
            if run_end <= extent.offset {
                break;
            }
            self.drop_run(run, run_len);
            if run_end > end {
                self.add_run(end, run_end - end);
            }
            if run < extent.offset {
                self.add_run(run, extent.offset - run);
                break;
            }
        }
    }

    /// Where the smallest run that holds `len` begins; of equals the lowest.
    fn best_fit(&self, len: u64) -> Option<u64> {
        self.by_size.range((len, 0)..).next().map(|&(_, offset)| offset)
    }

    fn last(&self) -> Option<Extent> {
        self.by_offset.last_key_value().map(|(&offset, &len)| Extent { offset, len })
    }

    fn add_run(&mut self, offset: u64, len: u64) {
        self.by_offset.insert(offset, len);
        self.by_size.insert((len, offset));
        self.total += len;
    }

    fn drop_run(&mut self, offset: u64, len: u64) {
        self.by_offset.remove(&offset);
        self.by_size.remove(&(len, offset));
        self.total -= len;
    }

    fn covers(&self, extent: Extent) -> bool {
        let run = self.by_offset.range(..=extent.offset).next_back();
        run.is_some_and(|(&offset, &len)| Extent { offset, len }.contains(extent))
    }

    fn touches(&self, extent: Extent) -> bool {
        let before = self.by_offset.range(..extent.offset + extent.len).next_back();
        before.is_some_and(|(&offset, &len)| offset + len > extent.offset)
    }

    fn check(&self) {
        assert_eq!(self.by_offset.len(), self.by_size.len());
        assert_eq!(self.by_offset.values().sum::<u64>(), self.total);
        let mut last_end = None;
        for (&offset, &len) in &self.by_offset {
            assert!(len > 0 && self.by_size.contains(&(len, offset)));
            assert!(last_end.is_none_or(|end| end < offset), "runs are apart, or they would be one");
            last_end = Some(offset + len);
        }
    }
}

#[cfg(test)]
#[path = "arena_tests.rs"]
mod tests;
