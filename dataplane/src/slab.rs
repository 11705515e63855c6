//! Fixed-size records under keys that are never mistaken for a later tenant of the same place.
//!
//! Takes a record, gives a [`Key`]; never blocks; a stale key finds nothing.

use std::marker::PhantomData;

/// Names one record of type `T`. Generations make a key of a removed record find nothing.
pub struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.as_u64() == other.as_u64()
    }
}

impl<T> Eq for Key<T> {}

impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_u64().cmp(&other.as_u64())
    }
}

impl<T> std::fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

impl<T> Key<T> {
    /// One number for the wire: generation above, index below.
    pub fn as_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The inverse of [`Key::as_u64`]; any number is a key, and one that was never given out finds nothing.
    pub fn from_u64(number: u64) -> Self {
        Self { index: number as u32, generation: (number >> 32) as u32, of: PhantomData }
    }
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    record: Option<T>,
}

/// The records. Places are reused, last freed first, so a steady load touches the same memory.
#[derive(Debug)]
pub struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Keeps a record.
    pub fn insert(&mut self, record: T) -> Key<T> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.places.push(Place { generation: 0, record: None });
                (self.places.len() - 1) as u32
            }
        };
        let place = &mut self.places[index as usize];
        // Odd while occupied: generation 0 is never given out, so the number 0 names nothing.
        place.generation = place.generation.wrapping_add(1);
        place.record = Some(record);
        Key { index, generation: place.generation, of: PhantomData }
    }

    /// The record, unless it is gone.
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        self.places.get(key.index as usize).filter(|p| p.generation == key.generation)?.record.as_ref()
    }

    /// The record, unless it is gone.
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        self.places.get_mut(key.index as usize).filter(|p| p.generation == key.generation)?.record.as_mut()
    }

    /// Takes the record out; its key finds nothing from now on.
    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        let place = self.places.get_mut(key.index as usize).filter(|p| p.generation == key.generation)?;
        let record = place.record.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(record)
    }

    /// How many records are kept.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether no record is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All records with their keys, by place.
    pub fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let key = Key { index: index as u32, generation: place.generation, of: PhantomData };
            place.record.as_ref().map(|record| (key, record))
        })
    }

    /// The keys of all records, by place.
    pub fn keys(&self) -> Vec<Key<T>> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing_even_when_its_place_is_taken_again() {
        let mut slab = Slab::default();
        let first = slab.insert("a");
        assert_eq!(slab.remove(first), Some("a"));
        let second = slab.insert("b");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"b"));
        assert_eq!(slab.len(), 1);
        assert_eq!(Key::from_u64(second.as_u64()), second);
        assert_eq!(slab.get(Key::from_u64(0)), None);
    }
}
