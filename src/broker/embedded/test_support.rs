//! Batches for tests.

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::time::Duration;

use crate::batch::{Completer, Contents, RecordFuture, SealedBatch};
use crate::broker::{Acks, NodeId, ProduceRequest};
use crate::error::TopicPartition;
use crate::pool::{Buffer, Lease, Release, Released};
use crate::primitive::clock::Instant;
use crate::record::{
    BATCH_OVERHEAD, HeaderSpec, Record, batch_size_upper_bound, encode_record, record_size, write_batch_header,
};

/// A pool without a budget that is never freed.
struct Heap;

// SAFETY: LEASE-2 and LEASE-3: the only `Heap` is leaked, so it outlives every lease, and nobody is told to free it.
unsafe impl Release for Heap {
    fn release(&self, buffer: Buffer, _charged: usize) -> Released {
        buffer.free();
        Released::More
    }
}

fn lease(size: usize) -> Lease {
    static HEAP: OnceLock<&'static Heap> = OnceLock::new();
    let heap = *HEAP.get_or_init(|| Box::leak(Box::new(Heap)));
    // SAFETY: LEASE-2 and LEASE-3 as above; the pointer is that of a leaked box.
    unsafe { Lease::new(Buffer::zeroed(size).expect("memory"), size, NonNull::from(heap)) }.erase()
}

/// The bytes of a batch whose records have these values, stamped with 1 000, 1 001, ...
pub(super) fn bytes(values: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0; BATCH_OVERHEAD];
    for (index, value) in (0..).zip(values) {
        let record = record(index, value);
        let at = bytes.len();
        bytes.resize(at + record_size(index, i64::from(index), &record), 0);
        encode_record(&mut bytes[at..], index, i64::from(index), &record);
    }
    write_batch_header(&mut bytes, &spec(values.len())).expect("no producer state");
    bytes
}

fn record(index: u32, value: &str) -> Record<'_> {
    Record { timestamp: 1_000 + i64::from(index), key: None, value: Some(value.as_bytes()), headers: &[] }
}

pub(super) fn spec(records: usize) -> HeaderSpec {
    let records_count = u32::try_from(records).expect("few records");
    HeaderSpec {
        base_timestamp: 1_000,
        max_timestamp: 999 + i64::from(records_count),
        records_count,
        ..HeaderSpec::default()
    }
}

/// A closed batch and its first record's future.
pub(super) fn sealed(topic_partition: &TopicPartition, values: &[&str]) -> (SealedBatch, RecordFuture) {
    let bytes = bytes(values);
    let mut completer = Completer::new(topic_partition.clone());
    let future = completer.future(0, 1_000);
    let mut lease = lease(bytes.len());
    lease.copy_from_slice(&bytes);
    let spec = spec(values.len());
    let mut batch = SealedBatch::new(Contents {
        topic_partition: topic_partition.clone(),
        lease,
        grown: None,
        len: bytes.len(),
        record_count: spec.records_count,
        base_timestamp: spec.base_timestamp,
        max_timestamp: spec.max_timestamp,
        max_record_size: values.iter().map(|value| batch_size_upper_bound(&record(0, value))).max().unwrap_or(0),
        created: Instant::ZERO,
        id: 0,
        completion: completer.close(),
    });
    batch.close().expect("no producer state");
    (batch, future)
}

/// A request with one batch of one record each for `partitions`, to node 0.
pub(super) fn request(id: u64, partitions: &[&TopicPartition]) -> ProduceRequest {
    ProduceRequest {
        id,
        node: NodeId(0),
        acks: Acks::All,
        timeout: Duration::from_secs(30),
        batches: partitions.iter().map(|at| sealed(at, &[&format!("value {id}")]).0).collect(),
    }
}
