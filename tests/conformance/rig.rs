//! An accumulator with its clock and its cluster, and what tests do with them.

use std::sync::Arc;
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, Appended, Backoff, ReadyCheck, SenderView};
use unlatched::batch::{RecordFuture, RecordResult, Reply, SealedBatch};
use unlatched::broker::{Cluster, Leader, NodeId};
use unlatched::error::AppendError;
use unlatched::primitive::clock::{Instant, ManualClock, SharedClock};
use unlatched::record::{BATCH_OVERHEAD, Record, batch_size_upper_bound, record_size};

use crate::batch::{TOPIC, millis, tp, value};
use crate::support::{Core, LONG, WatchedClock, Worker};

/// `batch.size` of these tests.
pub(crate) const BATCH: usize = 256;

/// The node that leads everything, unless a test has a cluster of its own.
pub(crate) const NODE: NodeId = NodeId(0);

/// Partitions that it leads.
pub(crate) const PARTITIONS: i32 = 8;

pub(crate) type View<C> = <<C as Core>::Accumulator as Accumulator>::View;
pub(crate) type PartitionOf<C> = <<C as Core>::Accumulator as Accumulator>::Partition;

/// Room for ten batches, ten milliseconds of linger, a second to deliver.
pub(crate) fn config() -> AccumulatorConfig {
    AccumulatorConfig {
        buffer_memory: 10 * BATCH as u64,
        batch_size: BATCH,
        linger: millis(10),
        backoff: Backoff { initial: millis(100), max: millis(1_000) },
        delivery_timeout: millis(1_000),
        seed: 1,
        ..AccumulatorConfig::default()
    }
}

/// The largest value for which the pool is asked for no more than [`BATCH`] bytes. Its record leaves only a few bytes of the batch free, since the
/// bound counts more than the record takes.
pub(crate) fn largest() -> Vec<u8> {
    let mut content = vec![7; BATCH];
    while batch_size_upper_bound(&value(&content)) > BATCH {
        content.pop();
    }
    content
}

/// What fills, behind [`largest`], a batch of [`BATCH`] bytes to the byte.
pub(crate) fn rest() -> Vec<u8> {
    let left = BATCH - BATCH_OVERHEAD - record_size(0, 0, &value(&largest()));
    vec![7; left - record_size(1, 0, &value(&[]))]
}

pub(crate) struct Rig<C: Core> {
    pub(crate) clock: Arc<WatchedClock>,
    pub(crate) time: Arc<ManualClock>,
    pub(crate) accumulator: Arc<C::Accumulator>,
    pub(crate) view: View<C>,
    pub(crate) cluster: Cluster,
}

impl<C: Core> Rig<C> {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: AccumulatorConfig) -> Self {
        let (clock, time) = WatchedClock::manual();
        let (accumulator, view) = C::Accumulator::new(config, clock.clone() as SharedClock);
        Self { clock, time, accumulator, view, cluster: Cluster::single_node(NODE, [(TOPIC, PARTITIONS)]) }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.look()
    }

    pub(crate) fn pass(&self, milliseconds: u64) {
        self.time.advance(millis(milliseconds));
    }

    pub(crate) fn partition(&self, partition: i32) -> PartitionOf<C> {
        self.accumulator.partition(&tp(partition))
    }

    /// Appends without waiting for memory.
    pub(crate) fn try_push(&self, partition: i32, content: &[u8], reply: Reply) -> Result<Appended, AppendError> {
        self.accumulator.append(&self.partition(partition), &value(content), reply, Duration::ZERO)
    }

    #[track_caller]
    pub(crate) fn append(&self, partition: i32, content: &[u8]) -> Appended {
        self.try_push(partition, content, Reply::IGNORE).expect("it is accepted")
    }

    /// As [`Rig::append`], for those who do not ask what came of it.
    #[track_caller]
    pub(crate) fn push(&self, partition: i32, content: &[u8]) {
        drop(self.append(partition, content));
    }

    /// Fills a batch of [`BATCH`] bytes, to the byte, where the partition has no open one.
    #[track_caller]
    pub(crate) fn fill(&self, partition: i32) {
        self.push(partition, &largest());
        self.push(partition, &rest());
    }

    #[track_caller]
    pub(crate) fn push_future(&self, partition: i32, content: &[u8]) -> RecordFuture {
        self.try_push(partition, content, Reply::FUTURE).expect("it is accepted").future.expect("it was asked for")
    }

    #[track_caller]
    pub(crate) fn push_callback(
        &self,
        partition: i32,
        content: &[u8],
        callback: impl FnOnce(RecordResult) + Send + 'static,
    ) {
        drop(self.try_push(partition, content, Reply::callback(callback)).expect("it is accepted"));
    }

    /// A thread that appends and waits for memory as long as it takes.
    pub(crate) fn appender(&self, partition: i32, content: &[u8]) -> Worker<Result<Appended, AppendError>> {
        let (accumulator, partition) = (self.accumulator.clone(), self.partition(partition));
        let content = content.to_vec();
        Worker::start(move || accumulator.append(&partition, &value(&content), Reply::FUTURE, LONG))
    }

    pub(crate) fn ready(&mut self) -> ReadyCheck {
        self.view.ready(&self.cluster, self.clock.look())
    }

    pub(crate) fn is_ready(&mut self) -> bool {
        self.ready().nodes == [NODE]
    }

    /// Drains [`NODE`], ready or not, up to `max_size` bytes.
    pub(crate) fn drain_up_to(&mut self, max_size: usize) -> Vec<SealedBatch> {
        self.drain_node(NODE, max_size)
    }

    pub(crate) fn drain_node(&mut self, node: NodeId, max_size: usize) -> Vec<SealedBatch> {
        let mut drained = self.view.drain(&self.cluster, &[node], max_size, self.clock.look());
        assert_eq!(drained.len(), 1);
        let drained = drained.remove(0);
        assert_eq!(drained.node, node);
        drained.batches
    }

    pub(crate) fn drain(&mut self) -> Vec<SealedBatch> {
        self.drain_up_to(usize::MAX)
    }

    /// The one batch that can be drained.
    #[track_caller]
    pub(crate) fn drain_one(&mut self) -> SealedBatch {
        let mut batches = self.drain();
        assert_eq!(batches.len(), 1, "{batches:?}");
        batches.remove(0)
    }

    /// The broker has it, at offset 0.
    #[track_caller]
    pub(crate) fn acknowledge(&mut self, batch: SealedBatch) {
        assert_eq!(batch.completion().complete(0, None), Ok(true));
        self.view.deallocate(batch).expect("it is in the books");
    }

    #[track_caller]
    pub(crate) fn acknowledge_all(&mut self) {
        for batch in self.drain() {
            self.acknowledge(batch);
        }
    }

    pub(crate) fn reenqueue(&mut self, batch: SealedBatch) {
        let now = self.clock.look();
        self.view.reenqueue(batch, now);
    }

    pub(crate) fn expired(&mut self) -> Vec<SealedBatch> {
        let now = self.clock.look();
        self.view.expired(now)
    }
}

/// The partitions of these batches, in order.
pub(crate) fn partitions(batches: &[SealedBatch]) -> Vec<i32> {
    batches.iter().map(|batch| batch.topic_partition().partition).collect()
}

/// The values in these batches, in order.
#[track_caller]
pub(crate) fn values<'a>(batches: impl IntoIterator<Item = &'a SealedBatch>) -> Vec<String> {
    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    batches
        .into_iter()
        .flat_map(|batch| crate::batch::read(batch.as_bytes()))
        .map(|record| text(record.value))
        .collect()
}

/// A cluster of [`TOPIC`] whose partitions have these leaders.
pub(crate) fn led_by(nodes: &[Option<i32>]) -> Cluster {
    led_since(nodes, Some(0))
}

/// The same, since this epoch.
pub(crate) fn led_since(nodes: &[Option<i32>], epoch: Option<i32>) -> Cluster {
    let leader = |node: &Option<i32>| node.map(|node| Leader { node: NodeId(node), epoch });
    Cluster::new([(TOPIC.into(), nodes.iter().map(leader).collect())])
}

/// A record without a value is as small as it gets.
pub(crate) const NOTHING: Record<'static> = Record { timestamp: 0, key: None, value: None, headers: &[] };
