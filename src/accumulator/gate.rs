//! What a sender lets be drained: asked partition by partition, told of each batch that goes.
//!
//! Source: Kafka's `RecordAccumulator.shouldStopDrainBatchesForPartition`; ACC-29, ACC-31, IDEM-09.

use crate::batch::SealedBatch;
use crate::error::TopicPartition;

/// A sender's say in what is drained. Both methods are called on the sender's thread, perhaps under a partition's lock: they must not come back to the accumulator.
pub trait DrainGate {
    /// Whether the head of `topic_partition` may go now: a sealed batch, or `None` for one that still takes records. Asked also when nodes are looked for: a partition that is refused makes
    /// none ready.
    fn admits(&mut self, topic_partition: &TopicPartition, head: Option<&SealedBatch>) -> bool;

    /// `batch` goes. Called before it is closed, so that it can be stamped.
    fn drained(&mut self, batch: &mut SealedBatch);
}

/// The gate that is open.
#[derive(Debug, Clone, Copy)]
pub struct NoGate;

impl DrainGate for NoGate {
    fn admits(&mut self, _: &TopicPartition, _: Option<&SealedBatch>) -> bool {
        true
    }

    fn drained(&mut self, _: &mut SealedBatch) {}
}
