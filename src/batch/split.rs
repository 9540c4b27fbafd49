//! Splitting a batch that is too large for its broker (BATCH-23, GAP-16, GAP-17).
//!
//! The records are read again and written into parts, outside of the pool; the memory of the batch goes back. What it owes its records stays where it is: its futures and callbacks are those of
//! the [`Whole`], which is settled when the last of its parts has ended, each record with what its part ended with. So nothing is chained to anything, whoever waits for the batch - a
//! future, a flush, the books - waits for its parts without knowing of them, and each callback runs once, in the order of the records. Kafka chains each future to a new one and ends the old result
//! at once, so that a flush misses the parts (GAP-16), and chains grow with each split.
//!
//! A part that is too large again is split as any batch: it is then a whole to its own parts. Each has at most half of its whole's bytes, or one record, so that ends after at most 31 rounds.
//!
//! # Invariant
//! **SPLIT-A** Each part reports its end once: its completion settles once, if only by its drop. The report of the last one settles the whole, unless an abort was first.

use std::fmt;
use std::sync::Arc;

use super::completion::{Completer, Completion, FinalState, Watch};
use super::off_pool::OffPool;
use super::sealed::{Contents, Grown, SealedBatch};
use crate::error::TopicPartition;
use crate::pool::Lease;
use crate::primitive::clock::Instant;
use crate::primitive::lock::{Mutex, StdMutex};
use crate::record::codec::Decoder;
use crate::record::{
    BATCH_OVERHEAD, Codec, DecodedRecord, Header, Record, RecordBatch, batch_size_upper_bound, encode_record,
    record_size,
};

/// A batch that was split, for its parts. Cheap to clone.
#[derive(Clone)]
pub struct Whole(Arc<Inner>);

struct Inner {
    /// What stands in the books: this batch, or the one that it is itself a part of, and so on.
    booked: (u64, Watch),
    completion: Completion,
    parts: StdMutex<Parts>,
}

#[derive(Default)]
struct Parts {
    /// Index of the first record of each, and its result.
    results: Vec<(u32, Watch)>,
    /// How many have not ended.
    left: usize,
}

impl Whole {
    /// The number in the books of what is to be struck out when this is done.
    pub fn id(&self) -> u64 {
        self.0.booked.0
    }

    /// Whether what stands in the books is over: nobody waits for this part any more.
    pub fn is_done(&self) -> bool {
        self.0.booked.1.is_done()
    }

    /// A part has ended. By SPLIT-A.
    fn ended(&self) {
        let mut parts = self.0.parts.lock();
        parts.left -= 1;
        if parts.left > 0 {
            return;
        }
        let results = std::mem::take(&mut parts.results);
        // The records' callbacks run below.
        drop(parts);
        let has = |kind| results.iter().any(|(_, part)| part.final_state() == Some(kind));
        let kind = match () {
            () if has(FinalState::Failed) => FinalState::Failed,
            () if has(FinalState::Aborted) => FinalState::Aborted,
            () => FinalState::Succeeded,
        };
        // Not ours to settle if it was aborted meanwhile.
        let _ = self.0.completion.complete_by_parts(kind, results);
    }
}

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Whole").field(&self.id()).finish()
    }
}

/// A part while it is filled.
struct Part {
    first: u32,
    bytes: Vec<u8>,
    records: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    max_record_size: usize,
}

impl Part {
    fn new(first: u32, timestamp: i64) -> Self {
        Self {
            first,
            bytes: vec![0; BATCH_OVERHEAD],
            records: 0,
            base_timestamp: timestamp,
            max_timestamp: timestamp,
            max_record_size: 0,
        }
    }

    /// Takes `record` if it is the first, or stays within `target` bytes of records.
    fn take(&mut self, record: &Record<'_>, target: usize) -> bool {
        let delta = record.timestamp.wrapping_sub(self.base_timestamp);
        let size = record_size(self.records, delta, record);
        let at = self.bytes.len();
        if self.records > 0 && at - BATCH_OVERHEAD + size > target {
            return false;
        }
        self.bytes.resize(at + size, 0);
        encode_record(&mut self.bytes[at..], self.records, delta, record);
        self.records += 1;
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        self.max_record_size = self.max_record_size.max(batch_size_upper_bound(record));
        true
    }

    fn seal(self, of: &Original, id: u64, whole: &Whole, off_pool: &Arc<OffPool>) -> SealedBatch {
        let mut completer = Completer::new(of.topic_partition.clone());
        let (len, report) = (self.bytes.len(), whole.clone());
        completer.on_completion(0, self.base_timestamp, Box::new(move |_| report.ended()));
        let completion = completer.close();
        whole.0.parts.lock().results.push((self.first, completion.watch()));
        let held = Some(off_pool.hold(len));
        let contents = Contents {
            topic_partition: of.topic_partition.clone(),
            lease: Lease::outside(),
            grown: Some(Grown { bytes: self.bytes.into_boxed_slice(), held }),
            len,
            codec: Codec::None,
            uncompressed: len,
            record_count: self.records,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            max_record_size: self.max_record_size,
            created: of.created,
            id,
            completion,
        };
        SealedBatch::part(contents, (of.origin.0, of.origin.1 + self.first), whole.clone())
    }
}

/// What parts take over from their whole.
struct Original {
    topic_partition: TopicPartition,
    created: Instant,
    origin: (u64, u32),
}

/// Splits `batch` into parts of at most `batch_size` bytes and at most half of its records' bytes, uncompressed; a part has one record at least (GAP-17). They have no attempts, no stamp, and no header
/// yet, and take their numbers from `next_id`.
///
/// # Errors
/// The batch, untouched, if there is nothing to split: it has fewer than two records, is not closed, or cannot be read (BATCH-25).
pub(crate) fn split(
    batch: SealedBatch,
    batch_size: usize,
    off_pool: &Arc<OffPool>,
    mut next_id: impl FnMut() -> u64,
) -> Result<Vec<SealedBatch>, Box<SealedBatch>> {
    let Some(parts) = refill(&batch, batch_size) else { return Err(Box::new(batch)) };
    let of =
        Original { topic_partition: batch.topic_partition().clone(), created: batch.created(), origin: batch.origin };
    let booked = match batch.whole() {
        Some(whole) => whole.0.booked.clone(),
        None => (batch.id(), batch.completion().watch()),
    };
    // Its memory goes back here.
    let Contents { completion, .. } = batch.contents;
    let left = Parts { results: Vec::with_capacity(parts.len()), left: parts.len() };
    let whole = Whole(Arc::new(Inner { booked, completion, parts: Mutex::new(left) }));
    Ok(parts.into_iter().map(|part| part.seal(&of, next_id(), &whole, off_pool)).collect())
}

/// The records of `batch`, written into parts; `None` if it cannot be split.
fn refill(batch: &SealedBatch, batch_size: usize) -> Option<Vec<Part>> {
    if batch.record_count() < 2 || !batch.is_closed() {
        return None;
    }
    let records_size = batch.uncompressed_size() - BATCH_OVERHEAD;
    let target = batch_size.saturating_sub(BATCH_OVERHEAD).min(records_size / 2);
    let (read, _) = RecordBatch::parse(batch.as_bytes()).ok().filter(|(_, rest)| rest.is_empty())?;
    let mut image = Vec::new();
    let records = match read.codec() {
        Codec::None => read.records(),
        _ => read.decompress(&mut Decoder::default(), records_size, &mut image).ok()?,
    };
    let mut parts: Vec<Part> = Vec::new();
    for (index, record) in (0..).zip(records) {
        let DecodedRecord { timestamp, key, value, headers, .. } = record.ok()?;
        let headers: Vec<Header<'_>> = headers.iter().collect();
        let record = Record { timestamp, key, value, headers: &headers };
        if !parts.last_mut().is_some_and(|part| part.take(&record, target)) {
            let mut part = Part::new(index, timestamp);
            part.take(&record, target);
            parts.push(part);
        }
    }
    Some(parts)
}
