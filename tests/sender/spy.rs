//! A core that notes what its sender does to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use unlatched::accumulator::{
    Accumulator, AccumulatorConfig, Appended, AppendedMany, DrainGate, Drained, ReadyCheck, SenderView,
};
use unlatched::batch::{OffPoolSnapshot, Reply, SealedBatch};
use unlatched::broker::{Cluster, NodeId};
use unlatched::error::{AppendError, FlushError, IllegalState, SendError, TopicPartition};
use unlatched::pool::PoolSnapshot;
use unlatched::primitive::clock::{Instant, SharedClock};
use unlatched::record::Record;

use crate::support::{Log, lock};

/// Of each batch that the sender was given: how often it was struck out of the books.
type Books = Arc<Mutex<BTreeMap<u64, u32>>>;

/// `A`, watched. The sender gets its batches from it, and a test its log.
#[derive(Debug)]
pub(crate) struct Spy<A> {
    core: Arc<A>,
    log: Log,
    books: Books,
}

impl<A> Spy<A> {
    pub(crate) fn log(&self) -> Log {
        self.log.clone()
    }

    /// Batches that the sender was given and did not strike out, by number.
    pub(crate) fn left_in_the_books(&self) -> Vec<u64> {
        lock(&self.books).iter().filter(|(_, struck)| **struck == 0).map(|(id, _)| *id).collect()
    }
}

impl<A: Accumulator> Accumulator for Spy<A> {
    const NAME: &'static str = A::NAME;
    type Partition = A::Partition;
    type Appender = A::Appender;
    type View = SpyView<A::View>;

    fn new(config: AccumulatorConfig, clock: SharedClock) -> (Arc<Self>, Self::View) {
        let (core, view) = A::new(config, clock);
        let (log, books) = (Log::default(), Books::default());
        let view = SpyView { view, log: log.clone(), books: books.clone() };
        (Arc::new(Self { core, log, books }), view)
    }

    fn partition(&self, topic_partition: &TopicPartition) -> A::Partition {
        self.core.partition(topic_partition)
    }

    fn appender(self: &Arc<Self>) -> A::Appender {
        self.core.appender()
    }

    fn append(
        &self,
        partition: &A::Partition,
        record: &Record<'_>,
        reply: Reply,
        max_block: Duration,
    ) -> Result<Appended, AppendError> {
        self.core.append(partition, record, reply, max_block)
    }

    fn append_many(
        &self,
        partition: &A::Partition,
        records: &[Record<'_>],
        futures: bool,
        max_block: Duration,
    ) -> AppendedMany {
        self.core.append_many(partition, records, futures, max_block)
    }

    fn begin_flush(&self) {
        self.core.begin_flush();
    }

    fn flush_in_progress(&self) -> bool {
        self.core.flush_in_progress()
    }

    fn await_flush(&self, timeout: Option<Duration>) -> Result<(), FlushError> {
        self.core.await_flush(timeout)
    }

    fn close(&self) {
        self.core.close();
    }

    fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    fn has_undrained(&self) -> bool {
        self.core.has_undrained()
    }

    fn has_incomplete(&self) -> bool {
        self.core.has_incomplete()
    }

    fn pool(&self) -> PoolSnapshot {
        self.core.pool()
    }

    fn off_pool(&self) -> OffPoolSnapshot {
        self.core.off_pool()
    }

    fn wake_sender_by(&self, waker: Waker) {
        self.core.wake_sender_by(waker);
    }
}

/// Its sender's face. Steps are noted under the name of the method, partitions by number.
#[derive(Debug)]
pub(crate) struct SpyView<V> {
    view: V,
    log: Log,
    books: Books,
}

impl<V> SpyView<V> {
    fn given(&self, batch: &SealedBatch) {
        if batch.whole().is_none() {
            lock(&self.books).entry(batch.id()).or_insert(0);
        }
    }
}

impl<V: SenderView> SenderView for SpyView<V> {
    const BY_DEADLINE: bool = V::BY_DEADLINE;

    fn ready_through(&mut self, cluster: &Cluster, now: Instant, gate: &mut dyn DrainGate) -> ReadyCheck {
        self.log.note("ready");
        self.view.ready_through(cluster, now, gate)
    }

    fn drain_through(
        &mut self,
        cluster: &Cluster,
        nodes: &[NodeId],
        max_size: usize,
        now: Instant,
        gate: &mut dyn DrainGate,
    ) -> Vec<Drained> {
        let names: Vec<_> = nodes.iter().map(|node| node.0).collect();
        self.log.note(format!("drain {names:?}"));
        let drained = self.view.drain_through(cluster, nodes, max_size, now, gate);
        drained.iter().flat_map(|drained| &drained.batches).for_each(|batch| self.given(batch));
        drained
    }

    fn reset_producer_state(&mut self, topic_partition: &TopicPartition, reset: &mut dyn FnMut(&SealedBatch) -> bool) {
        self.view.reset_producer_state(topic_partition, reset);
    }

    fn split(&mut self, batch: SealedBatch) -> Result<Vec<SealedBatch>, Box<SealedBatch>> {
        self.view.split(batch)
    }

    fn enqueue(&mut self, part: SealedBatch) {
        self.log.note(format!("enqueue {}", part.topic_partition().partition));
        self.view.enqueue(part);
    }

    fn reenqueue(&mut self, batch: SealedBatch, now: Instant) {
        self.log.note(format!("reenqueue {}", batch.topic_partition().partition));
        self.view.reenqueue(batch, now);
    }

    fn expired(&mut self, now: Instant) -> Vec<SealedBatch> {
        self.log.note("expired");
        let expired = self.view.expired(now);
        expired.iter().for_each(|batch| self.given(batch));
        expired
    }

    fn expired_early(&mut self) -> u32 {
        self.view.expired_early()
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.view.next_expiry()
    }

    fn mute(&mut self, topic_partition: &TopicPartition) {
        self.log.note(format!("mute {}", topic_partition.partition));
        self.view.mute(topic_partition);
    }

    fn unmute(&mut self, topic_partition: &TopicPartition) {
        self.log.note(format!("unmute {}", topic_partition.partition));
        self.view.unmute(topic_partition);
    }

    fn is_muted(&self, topic_partition: &TopicPartition) -> bool {
        self.view.is_muted(topic_partition)
    }

    fn strike_out(&mut self, id: u64) -> Result<(), IllegalState> {
        let struck = self.view.strike_out(id);
        if struck.is_ok() {
            self.log.note("strike out");
            let count = lock(&self.books).entry(id).or_insert(0).checked_add(1);
            assert_eq!(count, Some(1), "batch {id} was given to the sender, and is struck out once");
            lock(&self.books).insert(id, 1);
        }
        struck
    }

    fn abort_all(&mut self, error: &SendError) {
        self.view.abort_all(error);
    }

    fn abort_incomplete(&mut self, error: &SendError) {
        self.log.note("abort");
        self.view.abort_incomplete(error);
    }
}
