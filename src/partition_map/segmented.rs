//! The lock-free map: a table of topics that is replaced as a whole, and per topic an array that grows by segments and never moves.
//!
//! Kafka's `CopyOnWriteMap` copies everything for each new partition, under a lock. Here a new partition costs one compare-exchange in its
//! place, however many there are (GAP-11); only a new *topic* copies a table, that of the topics.
//!
//! Source: Kafka's `CopyOnWriteMap` for what it must do (MAP-01 to MAP-08); the segmented array is Dechev, Pirkelbauer and Stroustrup, "Lock-free dynamically
//! resizable arrays" (2006), without the resizing of what is there.
//!
//! # What is where
//! - `topics`: an epoch-reclaimed table from name to [`Topic`]. A writer copies it, adds a topic, and exchanges the pointer.
//! - A topic's `segments`: pointers to arrays of slots, null until first needed. Segment `k` has `FIRST << k` slots, so partition numbers below [`DENSE`] have a
//!   slot of their own, and no slot ever moves.
//! - A slot: null, then for good a counted reference to its entry.
//! - `sparse`: a copy-on-write table for numbers that no topic has in earnest, negative ones among them: they must not cost memory for all below them.
//!
//! | word | states | left by |
//! |---|---|---|
//! | `topics`, `sparse` | a table, never changed once published | CAS to a copy with one entry more; `clear` swaps in an empty one |
//! | segment | null -> array | CAS by the first who needs it; a loser frees its own |
//! | slot | null -> entry | CAS by the winner of an insert; losers take the winner's |
//!
//! # Invariants
//! - **MAP-A** A published table never changes; it is retired once, by whoever took its pointer out of the word, and is not reached by who pins later.
//! - **MAP-B** A segment's pointer and a slot's leave null once and never change after that, until the topic is dropped. So what they point to lives as long as the topic.
//! - **MAP-C** A slot's pointer owns one count of its entry's `Arc`, which the drop of the topic gives back.
//! - **MAP-D** An entry is whole before the CAS that publishes it.
//!
//! # Linearization points
//! A read: its load of the slot (or of the first null on the way to it). An insert: the CAS of the slot that succeeds; for a loser, the load that finds the winner's.
//! A walk: its load of `topics` in the second of the two passes that found the same entries. None of them had been cleared by then, since they were found once more; entries only come
//! where nothing is cleared, so what both passes saw was all there was.
//!
//! # The races that look dangerous
//! A walk against a clear: one pass finds two entries; then all are cleared, and two others come while the second pass goes on, a third between them. It finds two as well: but they are
//! not the same (and no address comes twice, since the first pass still counts what it found).
//!
//! A walk reads slot 3 as null and slot 5 as taken, while 3 was taken before 5: no instant had 5 alone. The second pass reads 3 again and finds one more, so the
//! walk goes round once more. Each round more means that an insert succeeded meanwhile.
//!
//! # Progress
//! `get`, `with`: wait-free, one pin and three loads. `get_or_create`: lock-free, wait-free once segment and topic exist: one CAS, nothing is tried again.
//! `for_each`, `len`: lock-free.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use super::PartitionMap;
use crate::batch::contain;
use crate::error::TopicPartition;
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crate::primitive::atomic::{AtomicPtr, fence};
use crate::primitive::epoch::{self, Atomic, Guard, Owned};
use crate::primitive::{step, table};

/// Slots in a topic's first segment.
const FIRST: usize = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 1 } else { 8 };
/// Segments of a topic.
const SEGMENTS: usize = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 2 } else { 14 };
/// Partition numbers from 0 up to this one have slots: 131 064.
const DENSE: usize = FIRST * ((1 << SEGMENTS) - 1);

type Table<K, V> = table::Table<K, Arc<V>>;

struct Entry<V> {
    topic_partition: TopicPartition,
    value: ManuallyDrop<V>,
}

impl<V> Drop for Entry<V> {
    fn drop(&mut self) {
        // Foreign code, which may run in anybody's pin: its panic is not to end there.
        // SAFETY: the field is not touched again: this is its drop.
        contain("the destructor of a map's value", || unsafe { ManuallyDrop::drop(&mut self.value) });
    }
}

type Slot<V> = AtomicPtr<Entry<V>>;

struct Topic<V> {
    segments: [AtomicPtr<Slot<V>>; SEGMENTS],
    sparse: Atomic<Table<i32, Entry<V>>>,
}

/// The lock-free partition map.
pub struct SegmentedMap<V: Send + Sync + 'static> {
    topics: Atomic<Table<Arc<str>, Topic<V>>>,
}

/// Loads a table.
fn snapshot<'g, K, T>(table: &Atomic<Table<K, T>>, guard: &'g Guard) -> &'g Table<K, T> {
    // Acquire pairs with the Release CAS in `find_or_insert` and of the swap in `clear`: the new table seen, it is seen whole (MAP-D); the
    // old one seen, it is whole too.
    let table = table.load(Acquire, guard);
    // SAFETY: MAP-A: never null, and we are pinned since before the load.
    unsafe { table.deref() }
}

/// What `find` gets of the table, else `make`'s pair added to it by a copy. Lock-free: a CAS fails because another succeeded.
fn find_or_insert<K, T>(
    table: &Atomic<Table<K, T>>,
    find: impl Fn(&Table<K, T>) -> Option<Arc<T>>,
    make: impl FnOnce() -> (K, T),
) -> Arc<T>
where
    K: std::hash::Hash + Eq + Clone,
{
    let look = || {
        let guard = epoch::pin();
        find(snapshot(table, &guard))
    };
    if let Some(found) = look() {
        return found;
    }
    // Not pinned while foreign code runs (L8).
    let (key, candidate) = make();
    let candidate = Arc::new(candidate);
    loop {
        let guard = epoch::pin();
        // Acquire: see `snapshot`.
        let current = table.load(Acquire, &guard);
        // SAFETY: MAP-A, as in `snapshot`.
        let entries = unsafe { current.deref() };
        if let Some(found) = find(entries) {
            return found;
        }
        let mut copy = entries.clone();
        copy.insert(key.clone(), Arc::clone(&candidate));
        step("map.table");
        // Release on success pairs with the Acquire loads here and in `snapshot`: whoever sees the copy sees it whole, the candidate included. If another
        // table came first, the CAS fails, and the next round loads it (Acquire there, so Relaxed here): while we are pinned no address comes twice.
        match table.compare_exchange(current, Owned::new(copy), Release, Relaxed, &guard) {
            Ok(_) => {
                // SAFETY: MAP-A: our CAS took it out of the word.
                unsafe { guard.defer_destroy(current) }
                return candidate;
            }
            Err(_) => continue,
        }
    }
}

/// Drops a table at the end of the word that holds it.
fn drop_table<K, T>(table: &mut Atomic<Table<K, T>>) {
    let table = std::mem::replace(table, Atomic::null());
    // SAFETY: MAP-A: not null; `&mut`: nobody else can reach it.
    drop(unsafe { table.into_owned() });
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

impl<V: Send + Sync + 'static> Topic<V> {
    fn new() -> Self {
        Self {
            segments: std::array::from_fn(|_| AtomicPtr::new(std::ptr::null_mut())),
            sparse: Atomic::new(Table::default()),
        }
    }

    /// The slots of a segment, if it is there.
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
    fn entry(slot: &Slot<V>) -> Option<&Entry<V>> {
        // Acquire pairs with the Release CAS in `get_or_create`: not null, the entry is seen whole (MAP-D, MAP-08); null, it is not there yet.
        let entry = slot.load(Acquire);
        // SAFETY: MAP-B and MAP-C: the slot's count keeps it as long as the topic, which outlives the borrow of its slot.
        unsafe { entry.as_ref() }
    }

    /// A further count of an entry that stands in a slot.
    fn counted(entry: &Entry<V>) -> Arc<Entry<V>> {
        let entry: *const Entry<V> = entry;
        // SAFETY: MAP-C: it came from `Arc::into_raw`, and the slot's own count is not given back while the topic is borrowed.
        unsafe {
            Arc::increment_strong_count(entry);
            Arc::from_raw(entry)
        }
    }

    fn find<'g>(&'g self, number: i32, guard: &'g Guard) -> Option<&'g Entry<V>> {
        match usize::try_from(number) {
            Ok(number) if number < DENSE => {
                let (segment, at) = place(number);
                Self::entry(&self.segment(segment)?[at])
            }
            _ => snapshot(&self.sparse, guard).get(&number).map(|entry| &**entry),
        }
    }

    fn get_or_create(&self, topic_partition: &TopicPartition, make: impl FnOnce() -> V) -> Arc<Entry<V>> {
        let number = topic_partition.partition;
        let new = |value: V| Entry { topic_partition: topic_partition.clone(), value: ManuallyDrop::new(value) };
        let dense = usize::try_from(number).ok().filter(|number| *number < DENSE);
        let Some(dense) = dense else {
            return find_or_insert(&self.sparse, |table| table.get(&number).cloned(), || (number, new(make())));
        };
        let (segment, at) = place(dense);
        let slot = &self.segment(segment).unwrap_or_else(|| self.segment_or_new(segment))[at];
        if let Some(found) = Self::entry(slot) {
            return Self::counted(found);
        }
        // Whole before it is published (MAP-D), and built while nothing is pinned or held (L8).
        let entry = Arc::new(new(make()));
        let published = Arc::into_raw(Arc::clone(&entry));
        step("map.insert");
        // Release on success pairs with the Acquire load in `entry`. Failed: Acquire, since the winner's entry is handed out.
        match slot.compare_exchange(std::ptr::null_mut(), published.cast_mut(), Release, Acquire) {
            Ok(_) => entry,
            Err(winner) => {
                // SAFETY: the count that was for the slot, which did not take it.
                drop(unsafe { Arc::from_raw(published) });
                // SAFETY: MAP-B: not null, or the CAS would have succeeded.
                Self::counted(unsafe { &*winner })
            }
        }
    }

    /// One pass: every entry found, in the order of numbers.
    fn collect(&self, guard: &Guard, found: &mut Vec<Arc<Entry<V>>>) {
        for segment in 0..SEGMENTS {
            // A later segment may be there without an earlier one.
            for slot in self.segment(segment).unwrap_or_default() {
                found.extend(Self::entry(slot).map(Self::counted));
            }
        }
        let at = found.len();
        found.extend(snapshot(&self.sparse, guard).values().cloned());
        found[at..].sort_by_key(|entry| entry.topic_partition.partition);
    }
}

impl<V> Drop for Topic<V> {
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
        drop_table(&mut self.sparse);
    }
}

impl<V: Send + Sync + 'static> SegmentedMap<V> {
    fn find<'g>(&'g self, topic: &str, partition: i32, guard: &'g Guard) -> Option<&'g Entry<V>> {
        snapshot(&self.topics, guard).get(topic)?.find(partition, guard)
    }

    /// Every entry of one instant, topic by topic.
    fn entries(&self) -> Vec<Arc<Entry<V>>> {
        let pass = || {
            let guard = epoch::pin();
            let mut found = Vec::new();
            for topic in snapshot(&self.topics, &guard).values() {
                topic.collect(&guard, &mut found);
            }
            found
        };
        let mut before = pass();
        loop {
            step("map.walk");
            // SeqCst: pairs with this fence in another walk. Of the two the later one's second pass sees what the earlier one's first pass saw; so of two inserts not each walk
            // takes another for the first. (A pin has such a fence, but not if the caller is pinned already.)
            fence(SeqCst);
            let now = pass();
            // The same entries, and not as many: after a clear others may have come in their place.
            if now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| Arc::ptr_eq(now, before)) {
                return now;
            }
            before = now;
        }
    }
}

impl<V: Send + Sync + 'static> Default for SegmentedMap<V> {
    fn default() -> Self {
        Self { topics: Atomic::new(Table::default()) }
    }
}

impl<V: Send + Sync + 'static> Drop for SegmentedMap<V> {
    fn drop(&mut self) {
        drop_table(&mut self.topics);
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

    fn with<R>(&self, topic: &str, partition: i32, read: impl FnOnce(&V) -> R) -> Option<R> {
        let guard = epoch::pin();
        self.find(topic, partition, &guard).map(|entry| read(&entry.value))
    }

    fn get(&self, topic: &str, partition: i32) -> Option<PartitionHandle<V>> {
        let guard = epoch::pin();
        self.find(topic, partition, &guard).map(|entry| PartitionHandle(Topic::counted(entry)))
    }

    fn get_or_create(&self, topic_partition: &TopicPartition, make: impl FnOnce() -> V) -> PartitionHandle<V> {
        let name = &topic_partition.topic;
        let topic = find_or_insert(&self.topics, |table| table.get(&**name).cloned(), || (name.clone(), Topic::new()));
        PartitionHandle(topic.get_or_create(topic_partition, make))
    }

    fn for_each(&self, mut visit: impl FnMut(&TopicPartition, &V)) {
        // Unpinned: what `visit` does is its own affair (L8).
        for entry in self.entries() {
            visit(&entry.topic_partition, &entry.value);
        }
    }

    fn len(&self) -> usize {
        self.entries().len()
    }

    fn clear(&self) {
        let guard = epoch::pin();
        // Release pairs with the Acquire loads in `snapshot`. Acquire: the old table is retired through what this returns.
        let old = self.topics.swap(Owned::new(Table::default()), AcqRel, &guard);
        // SAFETY: MAP-A: the swap took it out of the word.
        unsafe { guard.defer_destroy(old) }
        // It holds every entry: it is not to wait for this thread's next pins, of which there may be none.
        contain("the destructor of something retired", || epoch::settle(guard));
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
}
