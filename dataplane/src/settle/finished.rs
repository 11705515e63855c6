//! Finished messages, remembered so that a copy of one does not run again.
//!
//! Takes messages as they are settled (never as they are received, and never what is to be tried again), gives whether a
//! delivery is a copy of one. A bounded window: the oldest is forgotten first. What another pod has finished is not known here.

use std::collections::{BTreeSet, VecDeque};

use asya_envelope::Head;

/// The messages that were finished last, by id and hop.
#[derive(Debug)]
pub struct Finished {
    most: usize,
    order: VecDeque<(String, u32)>,
    known: BTreeSet<(String, u32)>,
}

impl Finished {
    /// Remembers at most so many.
    pub fn new(most: usize) -> Self {
        Self { most, order: VecDeque::new(), known: BTreeSet::new() }
    }

    /// A message is done with.
    pub fn remember(&mut self, head: &Head) {
        if self.most == 0 {
            return;
        }
        let step = (head.id.clone(), head.route.hop());
        if !self.known.insert(step.clone()) {
            return;
        }
        self.order.push_back(step);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Whether a message was done with before.
    pub fn knows(&self, head: &Head) -> bool {
        self.most > 0 && self.known.contains(&(head.id.clone(), head.route.hop()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(id: &str, hops: usize) -> Head {
        let mut head = Head { id: id.to_owned(), ..Head::default() };
        head.route.prev = vec!["a".to_owned(); hops];
        head
    }

    #[test]
    fn a_message_is_known_by_id_and_hop() {
        let mut finished = Finished::new(10);
        finished.remember(&head("m", 1));
        assert!(finished.knows(&head("m", 1)) && !finished.knows(&head("m", 2)) && !finished.knows(&head("n", 1)));
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut finished = Finished::new(2);
        for id in ["a", "b", "a", "c"] {
            finished.remember(&head(id, 0));
        }
        assert!(!finished.knows(&head("a", 0)) && finished.knows(&head("b", 0)) && finished.knows(&head("c", 0)));
        let mut none = Finished::new(0);
        none.remember(&head("a", 0));
        assert!(!none.knows(&head("a", 0)));
    }
}
