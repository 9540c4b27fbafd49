//! What is queued, by its age: a line in which nearly everything enters at the end and leaves near the front.
//!
//! An entry that leaves in the midst is marked, and goes when it comes to an end of the line; should more than half of them be marked, all of those go at once. So the line is never longer than twice what is queued, and a few.
//! With a tree in its place the sender costs a twentieth more for a batch (papers/sender.md).

use std::collections::VecDeque;

use crate::primitive::clock::Instant;

/// Marked ones that may stay beside as many as are not.
const FEW: usize = 32;

#[derive(Clone, Copy)]
struct Entry {
    key: (Instant, u64),
    /// The place of its queue; `None` if it has left.
    at: Option<usize>,
}

/// Batches by the time at which they were opened, then by their numbers.
#[derive(Default)]
pub(super) struct Deadlines {
    /// Sorted. What stands at an end is not marked.
    line: VecDeque<Entry>,
    marked: usize,
}

impl Deadlines {
    /// A batch is queued at the place `at`.
    pub(super) fn insert(&mut self, created: Instant, id: u64, at: usize) {
        let entry = Entry { key: (created, id), at: Some(at) };
        if self.line.back().is_none_or(|last| last.key < entry.key) {
            self.line.push_back(entry);
            return;
        }
        match self.line.binary_search_by_key(&entry.key, |other| other.key) {
            // It was here before, and is marked.
            Ok(place) => {
                self.marked -= usize::from(self.line[place].at.is_none());
                self.line[place] = entry;
            }
            Err(place) => self.line.insert(place, entry),
        }
    }

    /// It is not queued any more. Where it was, if it was.
    pub(super) fn remove(&mut self, created: Instant, id: u64) -> Option<usize> {
        let place = self.line.binary_search_by_key(&(created, id), |entry| entry.key).ok()?;
        let at = self.line[place].at.take()?;
        self.marked += 1;
        while self.line.front().is_some_and(|first| first.at.is_none()) {
            self.line.pop_front();
            self.marked -= 1;
        }
        while self.line.back().is_some_and(|last| last.at.is_none()) {
            self.line.pop_back();
            self.marked -= 1;
        }
        if self.marked > FEW + self.line.len() / 2 {
            self.line.retain(|entry| entry.at.is_some());
            self.marked = 0;
        }
        Some(at)
    }

    /// The oldest one: when it was opened, its number, and the place of its queue.
    pub(super) fn first(&self) -> Option<(Instant, u64, usize)> {
        let first = self.line.front()?;
        Some((first.key.0, first.key.1, first.at?))
    }
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::primitive::random::Random;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn as_a_tree_and_never_much_longer() {
        let mut random = Random::seeded(7);
        let (mut deadlines, mut tree) = (Deadlines::default(), BTreeMap::new());
        let mut gone = Vec::new();
        for id in 0..20_000 {
            // Most rise; some come back that have left.
            let key = match gone.len() {
                len if len > 0 && random.below(4) == 0 => gone.swap_remove(random.below(len as u64) as usize),
                _ => (at(id / 3 + random.below(5)), id),
            };
            deadlines.insert(key.0, key.1, id as usize);
            tree.insert(key, id as usize);
            // As many leave as come, mostly the oldest; now and then nearly all.
            let leave = if id % 997 == 0 { tree.len() } else { random.below(3) as usize };
            for _ in 0..leave {
                let far = if random.below(8) == 0 { tree.len() } else { 3.min(tree.len()) };
                let Some(key) = tree.keys().nth(random.below(far.max(1) as u64) as usize).copied() else { break };
                assert_eq!(deadlines.remove(key.0, key.1), tree.remove(&key));
                gone.push(key);
            }
            let first = tree.first_key_value().map(|((created, id), at)| (*created, *id, *at));
            assert_eq!(deadlines.first(), first);
            assert!(deadlines.line.len() <= 2 * tree.len() + 2 * FEW, "{} for {}", deadlines.line.len(), tree.len());
            assert_eq!(deadlines.marked, deadlines.line.iter().filter(|entry| entry.at.is_none()).count());
        }
    }

    #[test]
    fn one_that_stays_keeps_no_more_than_a_few_that_have_left() {
        let mut deadlines = Deadlines::default();
        for id in 0..10_000 {
            deadlines.insert(at(id), id, 0);
            // The first one stays, and there is always a younger one behind what leaves.
            if id > 1 {
                assert_eq!(deadlines.remove(at(id - 1), id - 1), Some(0));
            }
            assert!(deadlines.line.len() <= 2 * 2 + 2 * FEW, "{}", deadlines.line.len());
        }
        assert_eq!(deadlines.first(), Some((at(0), 0, 0)));
    }

    #[test]
    fn what_is_not_there_is_not_removed() {
        let mut deadlines = Deadlines::default();
        deadlines.insert(at(2), 1, 10);
        assert_eq!(deadlines.remove(at(2), 2), None);
        assert_eq!(deadlines.remove(at(1), 1), None);
        assert_eq!(deadlines.remove(at(2), 1), Some(10));
        assert_eq!(deadlines.remove(at(2), 1), None);
        assert_eq!(deadlines.first(), None);
    }
}
