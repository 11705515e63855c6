//! Numbered things that are open, in the order of their numbers: unsettled deliveries, unconfirmed publishes.
//!
//! Takes numbers that only grow; gives an entry back once. Never blocks. Its memory is bounded by twice the open
//! entries: what was taken out of the middle leaves a hole, and holes are closed when they are the majority.

use std::collections::VecDeque;

/// Holes below this count are not worth closing (entries).
const HOLES_KEPT: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ordered<T> {
    /// Sorted by number; the first entry is never a hole.
    entries: VecDeque<(u64, Option<T>)>,
    open: usize,
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), open: 0 }
    }
}

impl<T> Ordered<T> {
    /// Opens `number`, which must be larger than all before it. What is not is dropped: a peer that counts backwards
    /// gets no second entry under one number.
    pub(crate) fn push(&mut self, number: u64, value: T) {
        if self.entries.back().is_none_or(|(last, _)| *last < number) {
            self.entries.push_back((number, Some(value)));
            self.open += 1;
        }
    }

    /// The lowest open number.
    pub(crate) fn lowest(&self) -> Option<u64> {
        self.entries.front().map(|(number, _)| *number)
    }

    fn index(&self, number: u64) -> Option<usize> {
        let (first, _) = self.entries.front()?;
        if *first == number {
            return Some(0);
        }
        self.entries.binary_search_by_key(&number, |(number, _)| *number).ok()
    }

    /// Looks at an open one.
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let index = self.index(number)?;
        self.entries.get_mut(index)?.1.as_mut()
    }

    /// Closes one.
    pub(crate) fn take(&mut self, number: u64) -> Option<T> {
        let index = self.index(number)?;
        let taken = self.entries.get_mut(index)?.1.take()?;
        self.open -= 1;
        if index == 0 {
            self.trim();
        } else if self.entries.len() > 2 * self.open + HOLES_KEPT {
            self.entries.retain(|(_, value)| value.is_some());
        }
        Some(taken)
    }

    /// Closes all up to and including `last`, in order.
    pub(crate) fn take_through(&mut self, last: u64, mut each: impl FnMut(T)) {
        while let Some((number, _)) = self.entries.front()
            && *number <= last
        {
            if let Some((_, Some(value))) = self.entries.pop_front() {
                self.open -= 1;
                each(value);
            }
        }
        self.trim();
    }

    fn trim(&mut self) {
        while let Some((_, None)) = self.entries.front() {
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_map_with_bounded_memory(acts in proptest::collection::vec((0..5_u8, any::<u16>()), 1..2000)) {
            let mut ordered = Ordered::default();
            let mut model = BTreeMap::new();
            let mut next = 0;
            for (act, pick) in acts {
                // Sometimes an open number, sometimes one that is not.
                let number = model.keys().nth(usize::from(pick) % (model.len() + 1)).copied();
                let number = number.unwrap_or_else(|| u64::from(pick));
                match act {
                    0 | 1 => {
                        next += 1 + u64::from(pick % 3);
                        ordered.push(next, pick);
                        model.insert(next, pick);
                    }
                    2 => prop_assert_eq!(ordered.take(number), model.remove(&number)),
                    3 => prop_assert_eq!(ordered.get_mut(number), model.get_mut(&number)),
                    _ => {
                        let mut taken = Vec::new();
                        ordered.take_through(number, |value| taken.push(value));
                        let rest = model.split_off(&(number + 1));
                        prop_assert_eq!(taken, model.values().copied().collect::<Vec<_>>());
                        model = rest;
                    }
                }
                prop_assert_eq!(ordered.lowest(), model.keys().next().copied());
                prop_assert!(ordered.entries.len() <= 2 * model.len() + HOLES_KEPT + 1);
            }
        }
    }

    #[test]
    fn a_number_that_does_not_grow_is_dropped() {
        let mut ordered = Ordered::default();
        ordered.push(5, 'a');
        ordered.push(5, 'b');
        ordered.push(4, 'c');
        assert_eq!((ordered.take(5), ordered.take(5), ordered.take(4)), (Some('a'), None, None));
    }
}
