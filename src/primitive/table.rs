//! Hash tables of what the crate itself has put there: by a hash that is quick on short names, and without a random seed, so that a walk meets the entries in the same order in each run and a simulation
//! replays. Both cores use it, for one hash of a topic's name costs as much as the rest of a look-up.
//!
//! Keys are topics, partitions and nodes of the producer's own application, or of its cluster's metadata: nobody is expected to choose them so that they collide.

/// A map.
pub type Table<K, V> = std::collections::HashMap<K, V, rustc_hash::FxBuildHasher>;

/// A set.
pub type Set<K> = std::collections::HashSet<K, rustc_hash::FxBuildHasher>;
