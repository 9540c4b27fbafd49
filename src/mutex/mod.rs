//! The twin: Kafka's own algorithm, on mutexes.
//!
//! Kafka's producer core as its authors wrote it - one lock around the pool, a copy-on-write map, a lock around each
//! partition's deque - with no handicap, behind the same traits as the lock-free core. It is the oracle that says what each part must do, and
//! the opponent that a lock-free design has to beat. Generic over the lock: [`StdLock`] is the standard library's, [`ParkingLot`] is
//! `parking_lot`'s, which is the one to beat.
//!
//! Where it departs from Kafka, and why, is listed in `papers/kafka-map.md`: nothing that would slow it down.

mod accumulator;
mod appender;
mod batch;
mod codec;
mod partition_map;
mod pool;

pub use accumulator::{MutexAccumulator, MutexPartition, MutexView};
pub use appender::MutexAppender;
pub use batch::MutexBatch;
pub use partition_map::CopyOnWriteMap;
pub use pool::{MutexPool, PoolCore};

use crate::primitive::lock::{ParkingLot, StdLock};

/// The pool on the standard library's mutex.
pub type StdPool = MutexPool<StdLock>;
/// The pool on `parking_lot`'s mutex.
pub type ParkingLotPool = MutexPool<ParkingLot>;
/// The accumulator on the standard library's mutex.
pub type StdAccumulator = MutexAccumulator<StdLock>;
/// The accumulator on `parking_lot`'s mutex.
pub type ParkingLotAccumulator = MutexAccumulator<ParkingLot>;
