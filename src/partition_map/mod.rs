//! The partition map: topic and partition number to that partition's queue.
//!
//! Appenders look a partition up before each append unless they keep its handle, so a read must cost next to nothing and never wait for a
//! writer (MAP-01). Entries never move and never vanish while the producer runs (MAP-06): whoever keeps a handle skips the map.
//!
//! Source: Kafka's `CopyOnWriteMap` and `RecordAccumulator.topicInfoMap`; MAP-01 to MAP-08.

mod grow;
mod segmented;

use std::fmt;
use std::ops::Deref;

pub use segmented::{PartitionHandle, SegmentedMap};

use crate::error::TopicPartition;

/// A map from topic and partition to a `V` that never moves.
///
/// An insert happens before every read that returns it (MAP-08). Where an operation takes effect is each map's own affair.
pub trait PartitionMap<V: Send + Sync + 'static>: fmt::Debug + Send + Sync + Default + 'static {
    /// Keeps an entry reachable without the map.
    type Handle: Deref<Target = V> + Clone + Send + Sync;

    /// Calls `read` with the entry, if there is one. No lock (MAP-01). `read` is to be short, not to wait, and no code of strangers (L8), since the twin is pinned meanwhile;
    /// whoever wants more takes a handle.
    fn with<R>(&self, topic: &str, partition: i32, read: impl FnOnce(&V) -> R) -> Option<R>;

    /// A handle on the entry, if there is one.
    fn get(&self, topic: &str, partition: i32) -> Option<Self::Handle>;

    /// A handle on the entry, made with `make` if there is none. Racing callers all get the same entry (MAP-03, MAP-04), unless a clear comes between them.
    fn get_or_create(&self, topic_partition: &TopicPartition, make: impl FnOnce() -> V) -> Self::Handle;

    /// Calls `visit` for every entry of one snapshot: what is inserted while it visits is not seen (MAP-07).
    fn for_each(&self, visit: impl FnMut(&TopicPartition, &V));

    /// Entries now.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Empties the map: the last act of a forced close (MAP-06). What was in it may stay in memory until the map's end.
    fn clear(&self);
}
