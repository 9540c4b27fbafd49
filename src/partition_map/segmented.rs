//! The lock-free map: a table of topics that only grows, and per topic an array that grows by segments and never moves.
//!
//! Kafka's `CopyOnWriteMap` copies everything for each new partition, under a lock. Here a new partition costs one compare-exchange in its
//! place, however many there are (GAP-11), and so does a new topic but for the growth of its table. Nothing is taken out but by `clear`, and nothing is freed before the map is: so a read is loads and nothing else.
//!
//! Source: Kafka's `CopyOnWriteMap` for what it must do (MAP-01 to MAP-08); the segmented array is Dechev, Pirkelbauer and Stroustrup, "Lock-free dynamically
//! resizable arrays" (2006), without the resizing of what is there.
//!
//! # What is where
//! - `topics`: a [`GrowTable`] from name to [`Topic`]; its states and races are told there.
//! - A topic's `segments`: pointers to arrays of slots, null until first needed. Segment `k` has `FIRST << k` slots, so partition numbers below [`DENSE`] have a
//!   slot of their own, and no slot ever moves.
//! - A slot: null, then for good a counted reference to its entry.
//! - `sparse`: a [`GrowTable`] for numbers that no topic has in earnest, negative ones among them: they must not cost memory for all below them.
//!
//! | word | states | left by |
//! |---|---|---|
//! | `topics`, `sparse` | see [`grow`](super::grow) | |
//! | segment | null -> array | CAS by the first who needs it; a loser frees its own |
//! | slot | null -> entry | CAS by the winner of an insert; losers take the winner's |
//!
//! # Invariants
//! - **MAP-A** A topic that was found lives as long as the map, cleared or not (GROW-D).
//! - **MAP-B** A segment's pointer and a slot's leave null once and never change after that, until the topic is dropped. So what they point to lives as long as the topic.
//! - **MAP-C** A slot's pointer owns one count of its entry's `Arc`, which the drop of the topic gives back; so does one in `sparse` (GROW-D).
//! - **MAP-D** An entry is whole before the CAS that publishes it.
//!
//! # Linearization points
//! A read: its load of the slot (or of the first null on the way to it); where a table ends the way, see there, also for the order of several. In a topic that was cleared meanwhile: just before the clear, whether it finds the entry or not. An insert: the CAS of the slot that succeeds; for a loser, the load that finds the winner's.
//! A walk: its load of the root of `topics` in the second of the two passes that found the same entries. None of them had been cleared by then, since they were found once more; entries only come
//! where nothing is cleared, so what both passes saw was all there was: whatever was there at that load was in the array loaded, or, by the loads that come after it, is in the arrays of `sparse` and in the slots.
//!
//! Tables that grow between or during passes change nothing in this. What is in an array is in all that follow it up to the next clear, since no slot changes any more when the root leaves the array for a larger one (GROW-C): a pass that loads the larger one misses nothing,
//! and one that has the smaller one still has all that was there when it loaded the root. A larger array may have the topics in another order: then the passes differ and the walk goes round once more.
//!
//! # The races that look dangerous
//! A walk against a clear: one pass finds two entries; then all are cleared, and two others come while the second pass goes on, a third between them. It finds two as well: but they are
//! not the same (and no address comes twice, since what was cleared stays).
//!
//! A walk reads slot 3 as null and slot 5 as taken, while 3 was taken before 5: no instant had 5 alone. The second pass reads 3 again and finds one more, so the
//! walk goes round once more. Each round more means that an insert succeeded meanwhile, or a growth, which an insert needed.
//!
//! A late insert against a clear: who has found its topic before the clear puts its entry into a topic that was cleared. It has begun before the clear ended, so it comes before it; nobody who loads the root of `topics` later finds it.
//!
//! # Progress
//! `get`, `with`: wait-free: four loads of what others write, one more for each name that stands in another's place. `get_or_create`: lock-free, wait-free once segment and topic exist, of a number with a slot: one CAS, nothing is tried again.
//! `for_each`, `len`, `clear`: lock-free.

use std::fmt;
use std::hash::Hasher;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use rustc_hash::FxHasher;

use super::PartitionMap;
use super::grow::{GrowTable, Node};
use crate::batch::contain;
use crate::error::TopicPartition;
use crate::primitive::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crate::primitive::atomic::{AtomicPtr, fence};
use crate::primitive::step;

/// Slots in a topic's first segment.
const FIRST: usize = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 1 } else { 8 };
/// Segments of a topic.
const SEGMENTS: usize = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 2 } else { 14 };
/// Partition numbers from 0 up to this one have slots: 131 064.
const DENSE: usize = FIRST * ((1 << SEGMENTS) - 1);

struct Entry<V> {
    topic_partition: TopicPartition,
    value: ManuallyDrop<V>,
}

impl<V> Drop for Entry<V> {
    fn drop(&mut self) {
        // Foreign code, which runs in whoever lets go last: its panic is not to end there.
        // SAFETY: the field is not touched again: this is its drop.
        contain("the destructor of a map's value", || unsafe { ManuallyDrop::drop(&mut self.value) });
    }
}

impl<V: Send + Sync> Node for Entry<V> {
    fn hash(&self) -> u64 {
        hash_of_number(self.topic_partition.partition)
    }
}

type Slot<V> = AtomicPtr<Entry<V>>;

struct Topic<V: Send + Sync> {
    name: Arc<str>,
    /// Of the name.
    hash: u64,
    segments: [AtomicPtr<Slot<V>>; SEGMENTS],
    sparse: GrowTable<Entry<V>>,
}

impl<V: Send + Sync> Node for Topic<V> {
    fn hash(&self) -> u64 {
        self.hash
    }
}

/// The lock-free partition map.
pub struct SegmentedMap<V: Send + Sync + 'static> {
    topics: GrowTable<Topic<V>>,
}

/// The same in every run: a walk meets the entries in the same order, so that a simulation can be replayed.
#[inline]
fn hash_of_name(name: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(name.as_bytes());
    hasher.finish()
}

#[inline]
fn hash_of_number(number: i32) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_i32(number);
    hasher.finish()
}

/// The segment of a dense number, and its place there.
const fn place(number: usize) -> (usize, usize) {
    // Segment k begins at FIRST * (2^k - 1).
    let segment = (number / FIRST + 1).ilog2() as usize;
    (segment, number - FIRST * ((1 << segment) - 1))
}

const fn slots(segment: usize) -> usize {
    FIRST << segment
}

impl<V: Send + Sync> Topic<V> {
    fn new(name: Arc<str>, hash: u64) -> Self {
        let segments = std::array::from_fn(|_| AtomicPtr::new(std::ptr::null_mut()));
        Self { name, hash, segments, sparse: GrowTable::new() }
    }

    /// The slots of a segment, if it is there.
    #[inline]
    fn segment(&self, segment: usize) -> Option<&[Slot<V>]> {
        // Acquire pairs with the Release CAS in `segment_or_new`: not null, the slots are seen initialised; null, there is nothing to find yet.
        let slots_of = self.segments[segment].load(Acquire);
        // SAFETY: MAP-B: not null, it points to an array of just this many slots, which lives as long as the topic.
        (!slots_of.is_null()).then(|| unsafe { std::slice::from_raw_parts(slots_of, slots(segment)) })
    }

    #[cold]
    fn segment_or_new(&self, segment: usize) -> &[Slot<V>] {
        let fresh: Box<[Slot<V>]> = (0..slots(segment)).map(|_| AtomicPtr::new(std::ptr::null_mut())).collect();
        let fresh = Box::into_raw(fresh);
        step("map.segment");
        // Release on success pairs with the Acquire load in `segment`. Failed: another was first, and `segment` below loads it with Acquire.
        let ours = self.segments[segment].compare_exchange(std::ptr::null_mut(), fresh.cast(), Release, Relaxed);
        if ours.is_err() {
            // SAFETY: it was never published, so it is ours alone, and its slots are null.
            drop(unsafe { Box::from_raw(fresh) });
        }
        self.segment(segment).expect("it was there, or is now (MAP-B)")
    }

    /// The entry of a slot, if there is one.
    #[inline]
    fn entry(slot: &Slot<V>) -> Option<NonNull<Entry<V>>> {
        // Acquire pairs with the Release CAS in `get_or_create`: not null, the entry is seen whole (MAP-D, MAP-08); null, it is not there yet.
        NonNull::new(slot.load(Acquire))
    }

    /// A further count of an entry that stands in a slot, or in `sparse`.
    ///
    /// # Safety
    /// It stands in this topic.
    #[inline]
    unsafe fn counted(&self, entry: NonNull<Entry<V>>) -> Arc<Entry<V>> {
        let entry = entry.as_ptr().cast_const();
        // SAFETY: MAP-C: it came from `Arc::into_raw`, as the pointer that it is, and the count of where it stands is not given back while the topic is borrowed.
        unsafe {
            Arc::increment_strong_count(entry);
            Arc::from_raw(entry)
        }
    }

    #[inline]
    fn find(&self, number: i32) -> Option<NonNull<Entry<V>>> {
        match usize::try_from(number) {
            Ok(number) if number < DENSE => {
                let (segment, at) = place(number);
                Self::entry(&self.segment(segment)?[at])
            }
            _ => self.sparse.find(hash_of_number(number), Self::is(number)),
        }
    }

    /// Whether an entry is that of a number.
    #[inline]
    fn is(number: i32) -> impl Fn(&Entry<V>) -> bool {
        move |entry| entry.topic_partition.partition == number
    }

    fn get_or_create(&self, topic_partition: &TopicPartition, make: impl FnOnce() -> V) -> Arc<Entry<V>> {
        let number = topic_partition.partition;
        // Whole before it is published (MAP-D), and made while nothing is held (L8).
        let new = || Arc::new(Entry { topic_partition: topic_partition.clone(), value: ManuallyDrop::new(make()) });
        let dense = usize::try_from(number).ok().filter(|number| *number < DENSE);
        let Some(dense) = dense else {
            let entry = self.sparse.find_or_insert(hash_of_number(number), Self::is(number), new);
            // SAFETY: it stands there.
            return unsafe { self.counted(entry) };
        };
        let (segment, at) = place(dense);
        let slot = &self.segment(segment).unwrap_or_else(|| self.segment_or_new(segment))[at];
        if let Some(found) = Self::entry(slot) {
            // SAFETY: it stands there.
            return unsafe { self.counted(found) };
        }
        let entry = new();
        let published = Arc::into_raw(Arc::clone(&entry));
        step("map.insert");
        // Release on success pairs with the Acquire load in `entry`. Failed: Acquire, since the winner's entry is handed out.
        match slot.compare_exchange(std::ptr::null_mut(), published.cast_mut(), Release, Acquire) {
            Ok(_) => entry,
            Err(winner) => {
                // SAFETY: the count that was for the slot, which did not take it.
                drop(unsafe { Arc::from_raw(published) });
                let winner = NonNull::new(winner).expect("or the exchange would have succeeded");
                // SAFETY: it stands there.
                unsafe { self.counted(winner) }
            }
        }
    }

    /// One pass: every entry found, in the order of numbers.
    fn collect<'m>(&'m self, found: &mut Vec<&'m Entry<V>>) {
        for segment in 0..SEGMENTS {
            // A later segment may be there without an earlier one.
            let entries = self.segment(segment).unwrap_or_default().iter().filter_map(Self::entry);
            // SAFETY: MAP-B and MAP-C: it lives as long as the topic, which is borrowed.
            found.extend(entries.map(|entry| unsafe { entry.as_ref() }));
        }
        let at = found.len();
        found.extend(self.sparse.nodes());
        found[at..].sort_by_key(|entry| entry.topic_partition.partition);
    }
}

impl<V: Send + Sync> Drop for Topic<V> {
    fn drop(&mut self) {
        for (segment, pointer) in self.segments.iter().enumerate() {
            // Relaxed: `&mut self`: the last reference is gone, and what took it away ordered every other access before.
            let slots_of = pointer.load(Relaxed);
            if slots_of.is_null() {
                continue;
            }
            // SAFETY: MAP-B: this many slots, from a box, and nobody else is left.
            let slots_of = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(slots_of, slots(segment))) };
            for slot in &slots_of {
                // Relaxed: as above.
                let entry = slot.load(Relaxed);
                if !entry.is_null() {
                    // SAFETY: MAP-C: the slot's own count.
                    drop(unsafe { Arc::from_raw(entry) });
                }
            }
        }
    }
}

impl<V: Send + Sync + 'static> SegmentedMap<V> {
    /// Whether a topic is that of a name: nearly always the hash tells.
    #[inline]
    fn is(hash: u64, name: &str) -> impl Fn(&Topic<V>) -> bool {
        move |topic| topic.hash == hash && *topic.name == *name
    }

    /// The topic, and its entry of that number.
    #[inline]
    fn find(&self, topic: &str, partition: i32) -> Option<(&Topic<V>, NonNull<Entry<V>>)> {
        let hash = hash_of_name(topic);
        // SAFETY: MAP-A.
        let topic = unsafe { self.topics.find(hash, Self::is(hash, topic))?.as_ref() };
        Some((topic, topic.find(partition)?))
    }

    /// Every entry of one instant, topic by topic.
    fn entries(&self) -> Vec<&Entry<V>> {
        let pass = || {
            let mut found = Vec::new();
            for topic in self.topics.nodes() {
                topic.collect(&mut found);
            }
            found
        };
        let mut before = pass();
        loop {
            step("map.walk");
            // SeqCst: pairs with this fence in another walk. Of the two the later one's second pass sees what the earlier one's first pass saw, by the same root or a later one, which has it too (GROW-C); so of two inserts not each walk
            // takes another for the first.
            fence(SeqCst);
            let now = pass();
            // The same entries, and not as many: after a clear others may have come in their place.
            if now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| std::ptr::eq(*now, *before)) {
                return now;
            }
            before = now;
        }
    }
}

impl<V: Send + Sync + 'static> Default for SegmentedMap<V> {
    fn default() -> Self {
        Self { topics: GrowTable::new() }
    }
}

/// An entry of the lock-free map, kept: whoever has it skips the map.
pub struct PartitionHandle<V>(Arc<Entry<V>>);

impl<V> Clone for PartitionHandle<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V> std::ops::Deref for PartitionHandle<V> {
    type Target = V;

    #[inline]
    fn deref(&self) -> &V {
        &self.0.value
    }
}

impl<V: Send + Sync + 'static> PartitionMap<V> for SegmentedMap<V> {
    type Handle = PartitionHandle<V>;

    #[inline]
    fn with<R>(&self, topic: &str, partition: i32, read: impl FnOnce(&V) -> R) -> Option<R> {
        // SAFETY: MAP-A, MAP-C: it lives as long as the map.
        self.find(topic, partition).map(|(_, entry)| read(unsafe { &entry.as_ref().value }))
    }

    #[inline]
    fn get(&self, topic: &str, partition: i32) -> Option<PartitionHandle<V>> {
        // SAFETY: it was found there.
        self.find(topic, partition).map(|(topic, entry)| PartitionHandle(unsafe { topic.counted(entry) }))
    }

    fn get_or_create(&self, topic_partition: &TopicPartition, make: impl FnOnce() -> V) -> PartitionHandle<V> {
        let name = &topic_partition.topic;
        let hash = hash_of_name(name);
        let new = || Arc::new(Topic::new(name.clone(), hash));
        // SAFETY: MAP-A.
        let topic = unsafe { self.topics.find_or_insert(hash, Self::is(hash, name), new).as_ref() };
        PartitionHandle(topic.get_or_create(topic_partition, make))
    }

    fn for_each(&self, mut visit: impl FnMut(&TopicPartition, &V)) {
        // Nothing is held: what `visit` does is its own affair (L8).
        for entry in self.entries() {
            visit(&entry.topic_partition, &entry.value);
        }
    }

    fn len(&self) -> usize {
        self.entries().len()
    }

    /// What was cleared stays in memory until the map's end.
    fn clear(&self) {
        self.topics.clear();
    }
}

impl<V: Send + Sync + 'static> fmt::Debug for SegmentedMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentedMap").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<V> fmt::Debug for PartitionHandle<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PartitionHandle").field(&self.0.topic_partition).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dense_number_has_a_place_of_its_own() {
        let mut next = (0, 0);
        for number in 0..DENSE {
            assert_eq!(place(number), next, "{number}");
            next = if next.1 + 1 == slots(next.0) { (next.0 + 1, 0) } else { (next.0, next.1 + 1) };
        }
        assert_eq!(next, (SEGMENTS, 0));
    }

    #[test]
    fn numbers_that_no_topic_has_cost_no_memory_for_those_below() {
        let map = SegmentedMap::default();
        let odd = [i32::MIN, -1, 0, 7, 8, DENSE as i32 - 1, DENSE as i32, i32::MAX];
        for partition in odd {
            assert_eq!(*map.get_or_create(&TopicPartition::new("t", partition), || partition), partition);
        }
        for partition in odd {
            assert_eq!(map.with("t", partition, |value| *value), Some(partition));
            assert_eq!(*map.get_or_create(&TopicPartition::new("t", partition), || 1), partition);
        }
        assert_eq!(map.with("t", 9, |_| ()), None);
        assert_eq!(map.len(), odd.len());
    }

    #[test]
    fn two_topics_of_one_hash_are_two() {
        let names = ["03aaeha003aaeha0", "M_DIz.wKM_DIz.wK"]
            .map(|middle| format!("d9n81wdg90hqrl4dunlatched-topic-{middle}0123456789abcdef"));
        if cfg!(target_pointer_width = "64") {
            assert_eq!(hash_of_name(&names[0]), hash_of_name(&names[1]));
        }
        let map = SegmentedMap::default();
        let made =
            names.each_ref().map(|name| map.get_or_create(&TopicPartition::new(name.as_str(), 0), || name.clone()));
        assert_ne!(*made[0], *made[1]);
        assert!(names.iter().all(|name| map.with(name, 0, String::clone).as_ref() == Some(name)));
    }

    #[test]
    fn topics_that_are_numbered_do_not_crowd() {
        let names = ["topic-", "t", "com.example.flights.arrivals.", ""];
        for (prefix, topics) in
            names.into_iter().flat_map(|prefix| [10, 100, 1_000, 10_000].map(|topics| (prefix, topics)))
        {
            let map = SegmentedMap::default();
            let names: Vec<String> = (0..topics).map(|number| format!("{prefix}{number}")).collect();
            for name in &names {
                map.get_or_create(&TopicPartition::new(name.as_str(), 0), || 0);
            }
            let (mut looked_at, mut longest) = (0, 0);
            for name in &names {
                let looks = std::cell::Cell::new(0);
                let hash = hash_of_name(name);
                let is = |topic: &Topic<i32>| {
                    looks.set(looks.get() + 1);
                    *topic.name == **name
                };
                assert!(map.topics.find(hash, is).is_some());
                (looked_at, longest) = (looked_at + looks.get(), longest.max(looks.get()));
            }
            // At three quarters full two and a half are usual.
            assert!(
                looked_at <= 3 * topics && longest <= 200,
                "{prefix}0 to {prefix}{topics}: {looked_at}, {longest} at most"
            );
        }
    }

    #[test]
    fn numbers_without_a_slot_do_not_crowd() {
        let map = SegmentedMap::default();
        let numbers =
            (-5_000..0).chain(DENSE as i32..DENSE as i32 + 5_000).chain((1..1_000).map(|n| i32::MIN + (n << 12)));
        for partition in numbers.clone() {
            map.get_or_create(&TopicPartition::new("t", partition), || 0);
        }
        let topic = map.topics.nodes().next().expect("it is there");
        let looks = std::cell::Cell::new(0);
        for partition in numbers.clone() {
            let is = |entry: &Entry<i32>| {
                looks.set(looks.get() + 1);
                entry.topic_partition.partition == partition
            };
            assert!(topic.sparse.find(hash_of_number(partition), is).is_some());
        }
        assert!(looks.get() <= 3 * numbers.count(), "{}", looks.get());
    }
}
