//! The entries of one ring, by number.
//!
//! Takes an entry's number and words; gives its words. Plain memory: order comes from the [`Bell`](crate::Bell) alone.
//! Cannot fail: that the ring lies inside its region is checked when the cells are made.

#[cfg(not(loom))]
pub(crate) use memory::Cells;
#[cfg(loom)]
pub(crate) use model::Cells;

#[cfg(not(loom))]
mod memory {
    use std::ptr::NonNull;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

    use crate::mapping::{Access, Mapping};
    use crate::wire::{ENTRY_BYTES, Words};

    /// A ring inside a mapping.
    pub(crate) struct Cells {
        base: NonNull<u8>,
        mask: u64,
        /// Keeps `base` mapped.
        mapping: Arc<Mapping>,
    }

    // SAFETY: `base` points into `mapping`, which is `Send` and `Sync`, and is only used by the methods below.
    unsafe impl Send for Cells {}

    impl Cells {
        /// The ring of `entries` (a power of two) entries at `offset`; `None` when it does not fit the mapping.
        ///
        /// # Safety
        /// No Rust reference is ever made to these bytes through any owner of the mapping.
        pub(crate) unsafe fn new(mapping: Arc<Mapping>, offset: u64, entries: u32) -> Option<Self> {
            if !entries.is_power_of_two() || !offset.is_multiple_of(ENTRY_BYTES) {
                return None;
            }
            let base = mapping.at(offset, u64::from(entries) * ENTRY_BYTES)?;
            Some(Self { base, mask: u64::from(entries) - 1, mapping })
        }

        pub(crate) fn entries(&self) -> u64 {
            self.mask + 1
        }

        fn word(&self, n: u64, i: usize) -> &AtomicU64 {
            let at = (n & self.mask) * ENTRY_BYTES + i as u64 * 8;
            // SAFETY: `n & mask < entries` and `i < 16` (the only callers loop over `Words`), so the word lies inside
            // the ring, which `new` found inside the mapping. It is 8-aligned: mappings are page-aligned, the ring's
            // offset is a multiple of 128. No plain reference to it exists (contract of `new`), so the only accesses
            // from this process are atomic. `self.mapping` keeps it mapped for as long as the borrow lives.
            unsafe { AtomicU64::from_ptr(self.base.add(at as usize).as_ptr().cast()) }
        }

        /// Copies entry `n` out, each word once. Relaxed: the partner is the writer's `Bell::ring`.
        pub(crate) fn read(&self, n: u64) -> Words {
            std::array::from_fn(|i| u64::from_le(self.word(n, i).load(Ordering::Relaxed)))
        }

        /// Writes entry `n`, its sequence last, so that a writer killed on the way leaves an entry that does not look
        /// whole. Relaxed: the partner is the reader's `Bell::take`; the fence keeps the compiler from moving the
        /// sequence forward, and a killed thread has retired its stores in program order.
        pub(crate) fn write(&self, n: u64, words: &Words) {
            debug_assert!(self.mapping.access() == Access::Write);
            for (i, word) in words.iter().enumerate().skip(1) {
                self.word(n, i).store(word.to_le(), Ordering::Relaxed);
            }
            compiler_fence(Ordering::Release);
            self.word(n, 0).store(words[0].to_le(), Ordering::Relaxed);
        }
    }
}

#[cfg(loom)]
mod model {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    use crate::wire::Words;

    /// A ring of plain cells: loom reports any two accesses that the bell does not order.
    #[derive(Clone)]
    pub(crate) struct Cells(Arc<Vec<UnsafeCell<Words>>>);

    impl Cells {
        pub(crate) fn new(entries: usize) -> Self {
            Self(Arc::new((0..entries).map(|_| UnsafeCell::new([0; 16])).collect()))
        }

        pub(crate) fn entries(&self) -> u64 {
            self.0.len() as u64
        }

        pub(crate) fn read(&self, n: u64) -> Words {
            let cell = &self.0[(n % self.entries()) as usize];
            // SAFETY: loom checks that no write runs beside this read; that is what the model is for.
            cell.with(|words| unsafe { *words })
        }

        pub(crate) fn write(&self, n: u64, words: &Words) {
            let cell = &self.0[(n % self.entries()) as usize];
            // SAFETY: loom checks that no other access runs beside this write.
            cell.with_mut(|into| unsafe { *into = *words });
        }
    }
}
