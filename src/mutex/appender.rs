//! Appenders of the twin: a deque of one's own for each partition, under a lock of its own.
//!
//! The simplest thing that takes contention away: nobody but the owner and the sender takes that lock. What it gains over the shared deque is what lanes win; what the lock-free core's appenders gain over it is what
//! lock-freedom wins. Unlike those, it does not adapt: an appender fills its own batches from its first record on, also where that makes batches that are part-filled.
//!
//! Order within an appender (L6): all its records for a partition go through one deque, and what is put back for another attempt goes to the front of the partition's, which is drained first.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::accumulator::{MutexAccumulator, MutexPartition, Partition, Queue};
use crate::accumulator::{Appended, AppendedMany, Appender};
use crate::batch::Reply;
use crate::error::AppendError;
use crate::primitive::lock::LockFamily;
use crate::record::{Record, valid_payload_size};

/// Deques by the addresses of their partitions, which their handles keep alive.
type Lanes<F> =
    HashMap<usize, (MutexPartition<F>, Arc<<F as LockFamily>::Mutex<Queue<F>>>), BuildHasherDefault<Address>>;

/// Addresses are as good as their own hash, but for the bits that they all have.
#[derive(Default)]
struct Address(u64);

impl Hasher for Address {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("addresses only")
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// An owner of deques.
pub struct MutexAppender<F: LockFamily> {
    accumulator: Arc<MutexAccumulator<F>>,
    lanes: Lanes<F>,
}

impl<F: LockFamily> MutexAppender<F> {
    pub(super) fn new(accumulator: &Arc<MutexAccumulator<F>>) -> Self {
        Self { accumulator: Arc::clone(accumulator), lanes: HashMap::default() }
    }
}

impl<F: LockFamily> Appender for MutexAppender<F> {
    type Partition = MutexPartition<F>;

    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    #[inline]
    fn append(
        &mut self,
        partition: &MutexPartition<F>,
        record: &Record<'_>,
        reply: Reply,
        max_block: Duration,
    ) -> Result<Appended, AppendError> {
        self.accumulator.check(partition);
        let payload = valid_payload_size(record)?;
        let address = std::ptr::from_ref::<Partition<F>>(partition).addr();
        let (_, queue) = self.lanes.entry(address).or_insert_with(|| (partition.clone(), partition.add_lane()));
        self.accumulator.append_to(queue, partition, record, payload, reply, max_block)
    }

    fn append_many(
        &mut self,
        partition: &MutexPartition<F>,
        records: &[Record<'_>],
        futures: bool,
        max_block: Duration,
    ) -> AppendedMany {
        self.accumulator.check(partition);
        let address = std::ptr::from_ref::<Partition<F>>(partition).addr();
        AppendedMany::of(records, |rest, done| {
            // Not before there is a record for it.
            let (_, queue) = self.lanes.entry(address).or_insert_with(|| (partition.clone(), partition.add_lane()));
            self.accumulator.append_run_to(queue, partition, rest, futures, max_block, done)
        })
    }
}

impl<F: LockFamily> Drop for MutexAppender<F> {
    fn drop(&mut self) {
        // Not in the order of addresses: a history replays.
        let mut lanes: Vec<_> = self.lanes.values().collect();
        lanes.sort_unstable_by(|(a, _), (b, _)| a.topic_partition.cmp(&b.topic_partition));
        for (partition, queue) in lanes {
            self.accumulator.end_lane(partition, queue);
        }
    }
}

impl<F: LockFamily> fmt::Debug for MutexAppender<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexAppender").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}
