//! Batches and requests for tests.

use std::time::Duration;

use crate::batch::{OpenBatch, RecordFuture, Reply, SealedBatch};
use crate::broker::{Acks, NodeId, ProduceRequest};
use crate::error::TopicPartition;
use crate::mutex::{MutexBatch, StdPool};
use crate::pool::BufferPool;
use crate::primitive::clock::{Instant, SystemClock};
use crate::record::codec::{Compression, Encoder};
use crate::record::{Attributes, BATCH_OVERHEAD, BatchHeader, Codec, LENGTH_END, Record, crc32c};

/// A closed batch of records with these values, stamped with 1 000, 1 001, ...; and its first record's future.
pub(super) fn sealed(topic_partition: &TopicPartition, values: &[&str]) -> (SealedBatch, RecordFuture) {
    let pool = StdPool::new(1 << 20, 1 << 16, SystemClock::shared());
    let lease = pool.allocate(1 << 16, Duration::ZERO).expect("a fresh pool has memory").erase();
    let mut batch = MutexBatch::open(topic_partition.clone(), 0, lease, Instant::ZERO);
    let mut first = None;
    for (timestamp, value) in (1_000..).zip(values) {
        let record = Record { timestamp, key: None, value: Some(value.as_bytes()), headers: &[] };
        let placed = batch.try_append(&record, Reply::FUTURE).expect("there is room");
        first = first.or(placed.future);
    }
    let mut batch = batch.seal();
    batch.close().expect("no producer state");
    (batch, first.expect("at least one value"))
}

/// The bytes of such a batch.
pub(super) fn bytes(values: &[&str]) -> Vec<u8> {
    sealed(&TopicPartition::new("t", 0), values).0.as_bytes().to_vec()
}

/// Such a batch with its header changed and the CRC made good again.
pub(super) fn with_header(mut bytes: Vec<u8>, change: impl FnOnce(&mut BatchHeader)) -> Vec<u8> {
    let mut header = BatchHeader::from_bytes(bytes.first_chunk().expect("a header"));
    change(&mut header);
    bytes[..BATCH_OVERHEAD].copy_from_slice(&header.to_bytes());
    mend(bytes)
}

/// The same batch, its records compressed with `codec`.
pub(super) fn compressed(codec: Codec, bytes: Vec<u8>) -> Vec<u8> {
    let mut out = bytes[..BATCH_OVERHEAD].to_vec();
    let mut encoder = Encoder::new(Compression::new(codec)).expect("a codec");
    encoder
        .write(&bytes[BATCH_OVERHEAD..], &mut out)
        .and_then(|()| encoder.finish(&mut out))
        .expect("a vector takes it");
    with_length(with_header(out, |header| header.attributes = with_bit(header.attributes, u16::from(codec.id()))))
}

/// The batch that `bytes` begin with, made to reach to their end.
pub(super) fn with_length(bytes: Vec<u8>) -> Vec<u8> {
    let length = (bytes.len() - LENGTH_END) as i32;
    with_header(bytes, |header| header.batch_length = length)
}

/// Makes the CRC good again.
pub(super) fn mend(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The attributes with `bit` set.
pub(super) fn with_bit(attributes: Attributes, bit: u16) -> Attributes {
    Attributes::from_bits(attributes.bits() | bit)
}

/// A request to node 0 with one batch of one record for each of `partitions`, and a timeout of 30 s.
pub(super) fn request(id: u64, partitions: &[&TopicPartition]) -> ProduceRequest {
    ProduceRequest {
        id,
        node: NodeId(0),
        acks: Acks::All,
        timeout: Duration::from_secs(30),
        batches: partitions.iter().map(|at| sealed(at, &[&format!("value {id}")]).0).collect(),
    }
}
