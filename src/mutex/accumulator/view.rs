//! The twin's sender's face: what it finds in the partitions' queues, each under its lock, in turn.
//!
//! Source: Kafka's `RecordAccumulator` (`ready`, `drain`, `drainBatchesForOneNode`, `reenqueue`, `splitAndReenqueue`, `expiredBatches`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Head, MutexAccumulator, Partition, Queue};
use crate::accumulator::{Accumulator, AccumulatorConfig, DrainGate, Drained, ReadyCheck, SenderView};
use crate::batch::{Compressor, OpenBatch, SealedBatch, insert, reset_some, split};
use crate::broker::{Cluster, Leader, NodeId};
use crate::error::{IllegalState, SendError, TopicPartition};
use crate::partition_map::PartitionMap;
use crate::pool::BufferPool;
use crate::primitive::atomic::Ordering::Relaxed;
use crate::primitive::clock::Instant;
use crate::primitive::lock::{LockFamily, Mutex};
use crate::primitive::random::Random;
use crate::primitive::table::{Set, Table};
use crate::record::Codec;

/// The twin's sender's face: what Kafka keeps in sender-only fields of the accumulator.
pub struct MutexView<F: LockFamily> {
    accumulator: Arc<MutexAccumulator<F>>,
    muted: Set<TopicPartition>,
    drain_index: Table<NodeId, usize>,
    next_expiry: Option<Instant>,
    random: Random,
}

/// What a look under a queue's lock brings (ACC-18).
struct Look {
    waited: Duration,
    backoff: Option<Duration>,
    full: bool,
}

impl<F: LockFamily> MutexView<F> {
    pub(super) fn new(accumulator: Arc<MutexAccumulator<F>>) -> Self {
        Self {
            random: Random::seeded(accumulator.config.seed),
            accumulator,
            muted: Set::default(),
            drain_index: Table::default(),
            next_expiry: None,
        }
    }

    /// The wait that `batch` still has to respect, if it is a retry (ACC-23). Drawn anew at each look, as Kafka does (GAP-23).
    fn backoff(config: &AccumulatorConfig, random: &mut Random, batch: &SealedBatch, now: Instant) -> Option<Duration> {
        if batch.attempts() == 0 || batch.leader_changed_for_retry() {
            return None;
        }
        let backoff = config.backoff.after(batch.attempts() - 1, random);
        (batch.waited(now) < backoff).then_some(backoff)
    }

    fn look(&mut self, queue: &mut Queue<F>, leader: Option<Leader>, now: Instant) -> Option<Look> {
        if let Some(head) = queue.sealed.front_mut() {
            head.see_leader_epoch(leader.and_then(|leader| leader.epoch));
            let backoff = Self::backoff(&self.accumulator.config, &mut self.random, head, now);
            // A batch closed for appends counts as full (BATCH-04), which one in front of another always is.
            return Some(Look { waited: head.waited(now), backoff, full: true });
        }
        let open = queue.open.as_ref()?;
        let waited = now.saturating_since(open.created());
        Some(Look { waited, backoff: None, full: open.is_full() })
    }
}

impl<F: LockFamily> SenderView for MutexView<F> {
    fn ready_through(&mut self, cluster: &Cluster, now: Instant, gate: &mut dyn DrainGate) -> ReadyCheck {
        let accumulator = Arc::clone(&self.accumulator);
        let hurry = accumulator.pool.queued() > 0 || accumulator.is_closed() || accumulator.flush_in_progress();
        let mut check = ReadyCheck::default();
        accumulator.map.for_each(|topic_partition, partition| {
            let leader = cluster.leader(topic_partition);
            let mut queue = partition.queue.lock();
            let mut head = self.look(&mut queue, leader, now);
            // Kafka asks only at the drain, and so looks again and again at a node whose one head it refuses.
            let mut admitted = head.is_some() && gate.admits(topic_partition, queue.sealed.front());
            let lanes = queue.lanes.clone();
            drop(queue);
            // Judged outside of the locks.
            for at in 0..=lanes.len() {
                if at > 0 {
                    let mut queue = lanes[at - 1].lock();
                    head = self.look(&mut queue, leader, now);
                    admitted = head.is_some() && gate.admits(topic_partition, queue.sealed.front());
                }
                let Some(Look { waited, backoff, full }) = head.take() else { continue };
                let Some(Leader { node, .. }) = leader else {
                    if !check.unknown_leader_topics.contains(&topic_partition.topic) {
                        check.unknown_leader_topics.push(topic_partition.topic.clone());
                    }
                    return;
                };
                if check.nodes.contains(&node) || self.muted.contains(topic_partition) {
                    return;
                }
                if !admitted {
                    // Of the partition's own queue: what appenders have is behind it.
                    if at == 0 {
                        return;
                    }
                    continue;
                }
                let target = backoff.unwrap_or(accumulator.config.linger);
                let sendable = full || waited >= target || hurry;
                if sendable && backoff.is_none() {
                    check.nodes.push(node);
                } else {
                    let left = target.saturating_sub(waited);
                    check.next_check = Some(check.next_check.map_or(left, |so_far| so_far.min(left)));
                }
                if backoff.is_some() {
                    // A retry, for which what appenders have waits as well.
                    return;
                }
            }
        });
        check
    }

    fn drain_through(
        &mut self,
        cluster: &Cluster,
        nodes: &[NodeId],
        max_size: usize,
        now: Instant,
        gate: &mut dyn DrainGate,
    ) -> Vec<Drained> {
        nodes
            .iter()
            .map(|node| Drained { node: *node, batches: self.drain_node(cluster, *node, max_size, now, gate) })
            .collect()
    }

    fn reenqueue(&mut self, mut batch: SealedBatch, now: Instant) {
        batch.reenqueued(now, Duration::ZERO);
        self.enqueue(batch);
    }

    fn reset_producer_state(&mut self, topic_partition: &TopicPartition, reset: &mut dyn FnMut(&SealedBatch) -> bool) {
        if let Some(partition) = self.accumulator.map.get(&topic_partition.topic, topic_partition.partition) {
            reset_some(&mut partition.queue.lock().sealed, reset);
        }
    }

    fn split(&mut self, batch: SealedBatch) -> Result<Vec<SealedBatch>, Box<SealedBatch>> {
        let accumulator = &self.accumulator;
        let off_pool = accumulator.codecs.off_pool();
        let (at, ratio, codec) = (batch.topic_partition().clone(), batch.compression_ratio(), batch.codec());
        // Relaxed: the number need only be its own.
        let next_id = || accumulator.next_id.fetch_add(1, Relaxed);
        let mut parts = split(batch, accumulator.config.batch_size, off_pool, next_id)?;
        if codec != Codec::None {
            // The estimate was too good (ACC-36).
            accumulator.partition(&at).estimate.reset((ratio as f32).max(1.0));
            if let Some(mut compressor) = Compressor::new(accumulator.config.compression, off_pool) {
                parts.iter_mut().for_each(|part| part.compress(&mut compressor));
            }
        }
        Ok(parts)
    }

    fn enqueue(&mut self, part: SealedBatch) {
        let partition = self.accumulator.partition(part.topic_partition());
        self.accumulator.came();
        insert(&mut partition.queue.lock().sealed, part);
    }

    fn expired(&mut self, now: Instant) -> Vec<SealedBatch> {
        let timeout = self.accumulator.config.delivery_timeout;
        let mut expired = Vec::new();
        let mut next: Option<Instant> = None;
        self.accumulator.map.for_each(|_, partition| {
            partition.each(|queue| {
                while let Some(created) = queue.head_created() {
                    if now.saturating_since(created) < timeout {
                        // Overflow is no expiry (ACC-39).
                        let expiry = created.checked_add(timeout);
                        next = [next, expiry].into_iter().flatten().min();
                        break;
                    }
                    expired.extend(queue.pop(&self.accumulator).map(|head| head.seal(&self.accumulator.codecs)));
                }
            });
        });
        self.next_expiry = next;
        expired
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.next_expiry
    }

    fn mute(&mut self, topic_partition: &TopicPartition) {
        self.muted.insert(topic_partition.clone());
    }

    fn unmute(&mut self, topic_partition: &TopicPartition) {
        self.muted.remove(topic_partition);
    }

    fn is_muted(&self, topic_partition: &TopicPartition) -> bool {
        self.muted.contains(topic_partition)
    }

    fn strike_out(&mut self, id: u64) -> Result<(), IllegalState> {
        self.accumulator.strike_out(id)
    }

    fn abort_all(&mut self, error: &SendError) {
        self.accumulator.abort_all(error);
    }

    fn abort_incomplete(&mut self, error: &SendError) {
        self.accumulator.abort_incomplete(error);
    }
}

/// What a partition had to be drained.
#[allow(clippy::large_enum_variant, reason = "it is moved once")]
enum Taken {
    Head(Head),
    Nothing,
    /// Something, for which there is no room in this request.
    NoRoom,
    /// Something that the gate refuses.
    Refused,
}

impl<F: LockFamily> MutexView<F> {
    /// Takes the head of a partition's queue; if there is none, of the appenders' queues by turns: a closed batch first, an open one if its time has come.
    fn take_head(
        &mut self,
        topic_partition: &TopicPartition,
        partition: &Partition<F>,
        leader: Option<Leader>,
        room: Option<usize>,
        now: Instant,
        gate: &mut dyn DrainGate,
    ) -> Taken {
        let accumulator = Arc::clone(&self.accumulator);
        let mut pop = |queue: &mut Queue<F>| {
            if room.is_some_and(|room| queue.head_size() > room) {
                return Taken::NoRoom;
            }
            if !gate.admits(topic_partition, queue.sealed.front()) {
                return Taken::Refused;
            }
            queue.pop(&accumulator).map_or(Taken::Nothing, Taken::Head)
        };
        let mut queue = partition.queue.lock();
        if let Some(head) = self.look(&mut queue, leader, now) {
            return if head.backoff.is_some() { Taken::Nothing } else { pop(&mut queue) };
        }
        if queue.lanes.is_empty() {
            return Taken::Nothing;
        }
        queue.turn = (queue.turn + 1) % queue.lanes.len();
        let (lanes, turn) = (queue.lanes.clone(), queue.turn);
        drop(queue);
        let hurry = accumulator.pool.queued() > 0 || accumulator.is_closed() || accumulator.flush_in_progress();
        for closed in [true, false] {
            for lane in lanes[turn..].iter().chain(&lanes[..turn]) {
                let mut queue = lane.lock();
                let Some(head) = self.look(&mut queue, leader, now) else { continue };
                if head.full || !closed && (hurry || head.waited >= accumulator.config.linger) {
                    return pop(&mut queue);
                }
            }
        }
        Taken::Nothing
    }

    fn drain_node(
        &mut self,
        cluster: &Cluster,
        node: NodeId,
        max_size: usize,
        now: Instant,
        gate: &mut dyn DrainGate,
    ) -> Vec<SealedBatch> {
        let mut batches = Vec::new();
        let mut size = 0;
        let partitions = cluster.led_by(node);
        if partitions.is_empty() {
            return batches;
        }
        let start = self.drain_index.get(&node).map_or(0, |index| index % partitions.len());
        for index in (start..partitions.len()).chain(0..start) {
            // Each partition as it is examined: a pass that stops here starts here again (ACC-26).
            self.drain_index.insert(node, index);
            let topic_partition = &partitions[index];
            if self.muted.contains(topic_partition) {
                continue;
            }
            let Some(partition) = self.accumulator.map.get(&topic_partition.topic, topic_partition.partition) else {
                continue;
            };
            let leader = cluster.leader(topic_partition);
            let room = (!batches.is_empty()).then(|| max_size.saturating_sub(size));
            let head = match self.take_head(topic_partition, &partition, leader, room, now, gate) {
                Taken::Head(head) => head,
                Taken::Nothing => continue,
                // As in Kafka, a refused head ends the turn of its node: the others wait for this one (ACC-29, GAP-22).
                Taken::NoRoom | Taken::Refused => break,
            };
            let mut batch = head.seal(&self.accumulator.codecs);
            batch.see_leader_epoch(leader.and_then(|leader| leader.epoch));
            gate.drained(&mut batch);
            if let Err(error) = batch.close() {
                // Not reachable while gates stamp with ids that a broker gave; were it, the batch must not be lost in silence.
                tracing::error!(%error, %topic_partition, "a drained batch could not be closed; its records are aborted");
                let _ = self.deallocate(batch);
                continue;
            }
            // At each drain, retries included, as in Kafka (BATCH-05).
            if batch.codec() != Codec::None {
                partition.estimate.observe(batch.compression_ratio() as f32);
            }
            size += batch.size();
            batch.drained(now);
            batches.push(batch);
        }
        batches
    }
}

impl<F: LockFamily> Drop for MutexView<F> {
    fn drop(&mut self) {
        self.accumulator.close();
        self.accumulator.abort_incomplete(&SendError::Aborted { reason: "its sender has ended" });
    }
}

impl<F: LockFamily> fmt::Debug for MutexView<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexView").field("muted", &self.muted).finish_non_exhaustive()
    }
}
