//! The twin's partition map: copy on write, one level for topics and one for a topic's partitions.
//!
//! Source: Kafka's `CopyOnWriteMap` and `RecordAccumulator.topicInfoMap`. A read is one acquire load of an immutable table under
//! an epoch pin, which stands for the garbage collector that Kafka's read relies on; writers are serialised by one lock per map, copy the table,
//! and publish the copy (MAP-01, MAP-02).
//!
//! # Invariants
//! - **CMAP-1** `table` is never null, and a published table is never changed.
//! - **CMAP-2** A table is retired by the writer that replaced it, once, under the writers' lock, after it can no longer be loaded.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use crate::error::TopicPartition;
use crate::partition_map::PartitionMap;
use crate::primitive::atomic::Ordering::{AcqRel, Acquire};
use crate::primitive::epoch::{self, Atomic, Guard, Owned};
use crate::primitive::lock::{LockFamily, Mutex};
use crate::primitive::table;

type Topics<V, F> = CopyOnWrite<Arc<str>, Topic<V, F>, F>;

/// Hashed without a random seed: a walk meets the entries in the same order in every run, so that a simulation can be replayed.
type Table<K, V> = table::Table<K, Arc<V>>;

/// One level: an immutable table, replaced as a whole.
struct CopyOnWrite<K, V, F: LockFamily> {
    table: Atomic<Table<K, V>>,
    writers: F::Mutex<()>,
}

struct Topic<V, F: LockFamily> {
    partitions: CopyOnWrite<i32, Entry<V>, F>,
}

struct Entry<V> {
    topic_partition: TopicPartition,
    value: V,
}

impl<K, V, F> CopyOnWrite<K, V, F>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
    F: LockFamily,
{
    fn new() -> Self {
        Self { table: Atomic::new(Table::default()), writers: Mutex::new(()) }
    }

    fn snapshot<'g>(&self, guard: &'g Guard) -> &'g Table<K, V> {
        // Acquire pairs with the Release half of the swap in `replace`: the new table seen, its entries are seen whole (MAP-08); the old one seen, it is
        // whole too, and the pin keeps it.
        let table = self.table.load(Acquire, guard);
        // SAFETY: CMAP-1: not null; CMAP-2: retired only after it was replaced, and we are pinned since before the load.
        unsafe { table.deref() }
    }

    /// What `key` maps to, made with `make` if there is nothing. `make` runs outside of the lock and may be for nothing (MAP-04).
    fn get_or_insert<Q>(&self, key: &Q, make: impl FnOnce() -> (K, V)) -> Arc<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let guard = epoch::pin();
        if let Some(found) = self.snapshot(&guard).get(key) {
            return Arc::clone(found);
        }
        // Never pinned while foreign code runs or a lock is waited for (L8).
        drop(guard);
        let (key, value) = make();
        let candidate = Arc::new(value);
        let _writing = self.writers.lock();
        let guard = epoch::pin();
        let table = self.snapshot(&guard);
        if let Some(found) = table.get(key.borrow()) {
            return Arc::clone(found);
        }
        let mut copy = table.clone();
        copy.insert(key, Arc::clone(&candidate));
        self.replace(copy, &guard);
        candidate
    }

    /// Publishes `table`. The caller holds the writers' lock.
    fn replace(&self, table: Table<K, V>, guard: &Guard) {
        // Release pairs with the Acquire load in `snapshot`. The Acquire half of the swap is not needed for the old table, which the lock's last
        // holder published, but crossbeam's swap hands it out and we are to retire it: taken for plainness, a write is rare.
        let old = self.table.swap(Owned::new(table), AcqRel, guard);
        // SAFETY: CMAP-2: we replaced it under the lock; nobody can load it any more.
        unsafe { guard.defer_destroy(old) }
    }

    fn clear(&self) {
        let guard = epoch::pin();
        {
            let _writing = self.writers.lock();
            self.replace(Table::default(), &guard);
        }
        // It holds every entry: it is not to wait for this thread's next pins, of which there may be none.
        epoch::settle(guard);
    }
}

impl<K, V, F: LockFamily> Drop for CopyOnWrite<K, V, F> {
    fn drop(&mut self) {
        let table = std::mem::replace(&mut self.table, Atomic::null());
        // SAFETY: CMAP-1: not null; `&mut self`: nobody else can reach it.
        drop(unsafe { table.into_owned() });
    }
}

/// The twin's partition map.
pub struct CopyOnWriteMap<V: Send + Sync + 'static, F: LockFamily>(Topics<V, F>);

impl<V: Send + Sync + 'static, F: LockFamily> Default for CopyOnWriteMap<V, F> {
    fn default() -> Self {
        Self(CopyOnWrite::new())
    }
}

impl<V: Send + Sync + 'static, F: LockFamily> CopyOnWriteMap<V, F> {
    fn find<'g>(&self, topic: &str, partition: i32, guard: &'g Guard) -> Option<&'g Arc<Entry<V>>> {
        let topic = self.0.snapshot(guard).get(topic)?;
        // The topic is kept by the table that the guard keeps.
        let table = topic.partitions.snapshot(guard);
        table.get(&partition)
    }
}

/// An entry of the twin's map, kept.
pub struct EntryHandle<V>(Arc<Entry<V>>);

impl<V> Clone for EntryHandle<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V> std::ops::Deref for EntryHandle<V> {
    type Target = V;

    #[inline]
    fn deref(&self) -> &V {
        &self.0.value
    }
}

impl<V: Send + Sync + 'static, F: LockFamily> PartitionMap<V> for CopyOnWriteMap<V, F> {
    type Handle = EntryHandle<V>;

    fn with<R>(&self, topic: &str, partition: i32, read: impl FnOnce(&V) -> R) -> Option<R> {
        let guard = epoch::pin();
        self.find(topic, partition, &guard).map(|entry| read(&entry.value))
    }

    fn get(&self, topic: &str, partition: i32) -> Option<EntryHandle<V>> {
        let guard = epoch::pin();
        self.find(topic, partition, &guard).cloned().map(EntryHandle)
    }

    fn get_or_create(&self, topic_partition: &TopicPartition, make: impl FnOnce() -> V) -> EntryHandle<V> {
        let new_topic = || (topic_partition.topic.clone(), Topic { partitions: CopyOnWrite::new() });
        let topic = self.0.get_or_insert(&*topic_partition.topic, new_topic);
        let new_entry = || {
            let entry = Entry { topic_partition: topic_partition.clone(), value: make() };
            (topic_partition.partition, entry)
        };
        EntryHandle(topic.partitions.get_or_insert(&topic_partition.partition, new_entry))
    }

    fn for_each(&self, mut visit: impl FnMut(&TopicPartition, &V)) {
        let entries: Vec<Arc<Entry<V>>> = {
            let guard = epoch::pin();
            let topics = self.0.snapshot(&guard);
            topics.values().flat_map(|topic| topic.partitions.snapshot(&guard).values().cloned()).collect()
        };
        // Unpinned: what `visit` does is its own affair (L8).
        for entry in entries {
            visit(&entry.topic_partition, &entry.value);
        }
    }

    fn len(&self) -> usize {
        let guard = epoch::pin();
        self.0.snapshot(&guard).values().map(|topic| topic.partitions.snapshot(&guard).len()).sum()
    }

    fn clear(&self) {
        self.0.clear();
    }
}

impl<V: Send + Sync + 'static, F: LockFamily> fmt::Debug for CopyOnWriteMap<V, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyOnWriteMap").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<V> fmt::Debug for EntryHandle<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EntryHandle").field(&self.0.topic_partition).finish()
    }
}
