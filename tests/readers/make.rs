//! Batches as the shipping code makes them, on each core: sealed by its accumulator, or, where a producer id is to be stamped in, by its open batch; then
//! written to a log directory by the embedded broker, which checks each.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, LockFreeAccumulator, SenderView};
use unlatched::batch::{OpenBatch, OwnedBatch, Reply, SealedBatch};
use unlatched::broker::embedded::{EmbeddedBroker, Storage};
use unlatched::broker::{Cluster, ErrorCode, NodeId};
use unlatched::error::TopicPartition;
use unlatched::mutex::{MutexBatch, StdAccumulator, StdPool};
use unlatched::pool::{AtomicPool, BufferPool};
use unlatched::primitive::clock::{Instant, ManualClock, SharedClock};
use unlatched::record::{BatchHeader, Codec, HeaderSpec, ProducerState, write_batch_header};

use crate::matrix::Case;

/// The topic of the matrix, and the file of its only partition in a log directory.
pub(crate) const TOPIC: &str = "matrix";
pub(crate) const LOG: &str = "matrix-0/00000000000000000000.log";

/// Room for the largest case.
const BATCH_SIZE: usize = 1 << 20;

/// The parts of a core that make batches.
pub(crate) trait Core {
    type Pool: BufferPool;
    type Batch: OpenBatch;
    type Accumulator: Accumulator;
}

pub(crate) struct LockFree;

impl Core for LockFree {
    type Pool = AtomicPool;
    type Batch = OwnedBatch;
    type Accumulator = LockFreeAccumulator;
}

pub(crate) struct Mutex;

impl Core for Mutex {
    type Pool = StdPool;
    type Batch = MutexBatch;
    type Accumulator = StdAccumulator;
}

fn topic_partition() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

/// The batch of `case` as it goes over the wire.
pub(crate) fn batch<C: Core>(case: &Case) -> Vec<u8> {
    if case.producer == ProducerState::NONE {
        return by_accumulator::<C::Accumulator>(case);
    }
    if case.codec() == Codec::None {
        return by_batch::<C>(case);
    }
    // No accumulator stamps producer states yet; what stamps one before a retry does it here.
    let mut batch = by_accumulator::<C::Accumulator>(case);
    let header = BatchHeader::from_bytes(batch.first_chunk().expect("a header"));
    let spec = HeaderSpec {
        base_timestamp: header.base_timestamp,
        max_timestamp: header.max_timestamp,
        records_count: case.rows.len() as u32,
        producer: case.producer,
        codec: header.attributes.codec().expect("a codec"),
    };
    write_batch_header(&mut batch, &spec).expect("a good producer state");
    batch
}

fn by_accumulator<A: Accumulator>(case: &Case) -> Vec<u8> {
    let clock: SharedClock = ManualClock::at(0);
    let config = AccumulatorConfig {
        buffer_memory: 8 << 20,
        batch_size: BATCH_SIZE,
        compression: case.compression,
        ..AccumulatorConfig::default()
    };
    let (accumulator, mut view) = A::new(config, Arc::clone(&clock));
    let partition = accumulator.partition(&topic_partition());
    for row in &case.rows {
        row.with_record(|record| {
            let appended = accumulator.append(&partition, record, Reply::IGNORE, Duration::ZERO);
            drop(appended.expect("there is memory"));
        });
    }
    accumulator.begin_flush();
    let node = NodeId(0);
    let mut drained = view.drain(&Cluster::single_node(node, [(TOPIC, 1)]), &[node], usize::MAX, clock.now());
    let batch = drained.pop().and_then(|mut drained| drained.batches.pop()).expect("a batch");
    assert_eq!(batch.record_count() as usize, case.rows.len(), "{}: all records in one batch", case.name);
    let bytes = batch.as_bytes().to_vec();
    batch.completion().complete(0, None).expect("nobody else settles it");
    view.deallocate(batch).expect("it is in the books");
    bytes
}

fn by_batch<C: Core>(case: &Case) -> Vec<u8> {
    let pool = C::Pool::new(BATCH_SIZE as u64, BATCH_SIZE, ManualClock::at(0));
    let lease = pool.allocate(BATCH_SIZE, Duration::ZERO).expect("a fresh pool has memory").erase();
    let mut batch = C::Batch::open(topic_partition(), 0, lease, Instant::ZERO);
    for row in &case.rows {
        row.with_record(|record| drop(batch.try_append(record, Reply::IGNORE).expect("there is room")));
    }
    let mut batch: SealedBatch = batch.seal();
    batch.set_producer_state(case.producer).expect("it is not closed");
    batch.close().expect("a good producer state");
    batch.as_bytes().to_vec()
}

/// The same, as a log has it: one batch behind the other, with their offsets.
pub(crate) fn log<C: Core>(directory: &Path, cases: &[Case]) -> Vec<u8> {
    let broker = EmbeddedBroker::builder().storage(Storage::directory(directory)).open().expect("an empty directory");
    broker.create_topic(TOPIC, 1).expect("a new topic");
    for case in cases {
        // Many have the same producer and sequence, and each is to be written.
        broker.forget_producers(&topic_partition()).expect("a partition that is there");
        let answer = broker.produce(NodeId(0), &topic_partition(), &batch::<C>(case));
        assert_eq!(answer.error, ErrorCode::None, "{}: {:?}", case.name, answer.message);
    }
    broker.sync().expect("a good disk");
    std::fs::read(directory.join(LOG)).expect("its log")
}
