//! The twin's open batch: plain fields, filled under its partition's lock; with a codec, by a stream that is written as records come ([`super::codec`]).
//!
//! Source: Kafka's `MemoryRecordsBuilder` (`hasRoomFor`, `appendDefaultRecord`, `isFull`, `closeForRecordAppends`) and `ProducerBatch.tryAppend`.

use super::codec::{Packed, Stream};
use crate::batch::{Completer, Contents, Grown, OpenBatch, Placed, RecordFuture, Reply, SealedBatch, Watch};
use crate::error::TopicPartition;
use crate::pool::Lease;
use crate::primitive::clock::Instant;
use crate::primitive::prefetch;
use crate::record::{
    BATCH_OVERHEAD, Codec, MAX_RECORD_OVERHEAD, NO_TIMESTAMP, Record, body_size, encode_record_sized,
    record_size_for_body,
};

/// A batch that takes records, owned by whoever holds its partition's lock.
#[derive(Debug)]
pub struct MutexBatch {
    topic_partition: TopicPartition,
    id: u64,
    lease: Lease,
    grown: Option<Grown>,
    /// Compresses the records on their way into memory, if anything does.
    packed: Option<Box<Packed>>,
    codec: Codec,
    /// Bytes that the lease had at the opening (BATCH-01), as far as a batch's 32-bit length reaches. A record takes 7 at least, so their count fits too.
    write_limit: usize,
    /// Bytes uncompressed, the header's room included.
    len: usize,
    record_count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    max_payload: usize,
    created: Instant,
    completer: Completer,
}

/// What a record will take in a batch.
struct Fit {
    timestamp_delta: i64,
    body: usize,
    size: usize,
}

impl MutexBatch {
    #[inline]
    fn fit(&self, timestamp: i64, payload: usize) -> Fit {
        let timestamp_delta = if self.record_count == 0 { 0 } else { timestamp.wrapping_sub(self.base_timestamp) };
        let body = body_size(self.record_count, timestamp_delta, payload);
        Fit { timestamp_delta, body, size: record_size_for_body(body) }
    }

    /// An empty batch in `lease` whose records go through `packed`, which is `codec`'s, if there is one.
    pub(super) fn open_with(
        topic_partition: TopicPartition,
        id: u64,
        lease: Lease,
        created: Instant,
        codec: Codec,
        packed: Option<Box<Packed>>,
    ) -> Self {
        Self { codec, packed, ..Self::open(topic_partition, id, lease, created) }
    }

    /// BATCH-02. The new record counts uncompressed, as in Kafka; and uncompressed, too, all of it must fit a 32-bit length, for whoever decompresses it.
    #[inline]
    fn fits(&self, size: usize) -> bool {
        if self.record_count == 0 {
            return true;
        }
        match &self.packed {
            None => self.len + size <= self.write_limit,
            Some(_) => self.estimated_size() + size <= self.write_limit && self.len + size <= i32::MAX as usize,
        }
    }

    /// Appends `record`, whose payload has `payload` bytes, and takes the callback out of `reply`, if there is room. Its bytes.
    ///
    /// Its future is [`MutexBatch::future_of_last`]'s, made where it is to lie: handed up from here it would be read in larger pieces than it was written in a moment ago, and that stalls for a quarter of an append.
    #[inline]
    pub(super) fn place(&mut self, record: &Record<'_>, payload: usize, reply: &mut Reply) -> Option<usize> {
        let Fit { timestamp_delta, body, size } = self.fit(record.timestamp, payload);
        if !self.fits(size) {
            return None;
        }
        let index = self.record_count;
        if index == 0 {
            self.begin(record, size);
        }
        let encode = |memory: &mut [u8]| encode_record_sized(memory, body, index, timestamp_delta, record);
        match (&mut self.packed, &mut self.grown) {
            (Some(packed), grown) => {
                packed.append(&mut self.lease, grown, size, encode);
                if index == 0 {
                    packed.count();
                }
            }
            (None, Some(grown)) => _ = encode(&mut grown.bytes[self.len..]),
            (None, None) => {
                prefetch::ahead_of(self.lease.as_ptr().as_ptr(), self.lease.len(), self.len, size);
                encode(&mut self.lease[self.len..]);
            }
        }
        self.len += size;
        self.record_count = index + 1;
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        self.max_payload = self.max_payload.max(payload);
        if let Some(callback) = reply.callback.take() {
            self.completer.on_completion(index, record.timestamp, callback);
        }
        Some(size)
    }

    /// The future of the record that was appended last, whose own time is `timestamp`, if `reply` asks for it.
    #[inline]
    pub(super) fn future_of_last(&mut self, reply: &Reply, timestamp: i64) -> Option<RecordFuture> {
        reply.future.then(|| self.completer.future(self.record_count - 1, timestamp))
    }

    /// The first record gives the base timestamp (FMT-08). When it outgrows the lease, its bytes lie outside of the pool, and the lease stands for the
    /// charge (BATCH-07).
    #[cold]
    fn begin(&mut self, record: &Record<'_>, size: usize) {
        self.base_timestamp = record.timestamp;
        if self.packed.is_none() && self.len + size > self.write_limit {
            self.grown = Some(Grown { bytes: vec![0; self.len + size].into_boxed_slice(), held: None });
        }
    }

    /// Ends appending; also gives back the context that it compressed with.
    pub(super) fn finish(mut self) -> (SealedBatch, Option<Stream>) {
        let (len, stream) = match self.packed.take() {
            None => (self.len, None),
            Some(packed) if self.record_count == 0 => (self.len, Some(packed.give_up())),
            Some(packed) => {
                let (len, stream) = packed.finish(&mut self.lease, &mut self.grown);
                (len, Some(stream))
            }
        };
        let sealed = SealedBatch::new(Contents {
            topic_partition: self.topic_partition,
            lease: self.lease,
            grown: self.grown,
            len,
            codec: self.codec,
            uncompressed: self.len,
            record_count: self.record_count,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            // As a batch with that record alone (FMT-26).
            max_record_size: if self.record_count == 0 {
                0
            } else {
                BATCH_OVERHEAD + MAX_RECORD_OVERHEAD + self.max_payload
            },
            created: self.created,
            id: self.id,
            completion: self.completer.close(),
        });
        (sealed, stream)
    }
}

impl OpenBatch for MutexBatch {
    fn open(topic_partition: TopicPartition, id: u64, lease: Lease, created: Instant) -> Self {
        prefetch::first_of(lease.as_ptr().as_ptr(), lease.len());
        Self {
            completer: Completer::new(topic_partition.clone()),
            topic_partition,
            id,
            grown: None,
            packed: None,
            codec: Codec::None,
            write_limit: lease.len().min(i32::MAX as usize),
            lease,
            len: BATCH_OVERHEAD,
            record_count: 0,
            base_timestamp: NO_TIMESTAMP,
            max_timestamp: NO_TIMESTAMP,
            max_payload: 0,
            created,
        }
    }

    fn try_append(&mut self, record: &Record<'_>, mut reply: Reply) -> Result<Placed, Reply> {
        match self.place(record, record.payload_size(), &mut reply) {
            Some(bytes) => Ok(Placed { future: self.future_of_last(&reply, record.timestamp), bytes }),
            None => Err(reply),
        }
    }

    fn has_room_for(&self, record: &Record<'_>) -> bool {
        self.fits(self.fit(record.timestamp, record.payload_size()).size)
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.record_count > 0 && self.write_limit <= self.estimated_size()
    }

    #[inline]
    fn estimated_size(&self) -> usize {
        match &self.packed {
            None => self.len,
            Some(packed) => BATCH_OVERHEAD + packed.estimate(self.len - BATCH_OVERHEAD),
        }
    }

    fn record_count(&self) -> u32 {
        self.record_count
    }

    fn created(&self) -> Instant {
        self.created
    }

    fn watch(&mut self) -> Watch {
        self.completer.watch()
    }

    fn seal(self) -> SealedBatch {
        self.finish().0
    }
}
