//! A batch that takes no more records: what the accumulator hands to the sender, the sender to the broker, and the broker back.
//!
//! A [`SealedBatch`] owns its memory and its result. It moves into the request and comes back with the response, so its memory can return
//! to the pool only after the transport has let go of it (L2, GAP-15); if it is dropped on the way, its records are aborted (L5).
//! Both cores make this very type, so the sender, the brokers and their tests exist once.
//!
//! Source: the closed half of Kafka's `MemoryRecordsBuilder` and `ProducerBatch`; BATCH-08, BATCH-19 to BATCH-26.

use std::collections::VecDeque;
use std::time::Duration;

use super::completion::Completion;
use super::compressor::Compressor;
use super::off_pool::Held;
use super::split::Whole;
use crate::error::{IllegalState, TopicPartition};
use crate::pool::Lease;
use crate::primitive::clock::Instant;
use crate::record::{
    BATCH_OVERHEAD, Codec, HeaderSpec, NO_SEQUENCE, ProducerState, ProducerStateError, increment_sequence,
    sequence_is_after, write_batch_header,
};

/// Bytes of a batch that have outgrown its lease, which then only stands for the charge (BATCH-07).
#[derive(Debug)]
pub struct Grown {
    /// The batch.
    pub bytes: Box<[u8]>,
    /// Counts them, if anybody does.
    pub held: Option<Held>,
}

/// What an open batch knows when it is sealed.
#[derive(Debug)]
pub struct Contents {
    /// Where it goes.
    pub topic_partition: TopicPartition,
    /// Its memory as charged to the pool.
    pub lease: Lease,
    /// Its bytes if they outgrew the lease.
    pub grown: Option<Grown>,
    /// Bytes used, the header's room included.
    pub len: usize,
    /// How its records are compressed.
    pub codec: Codec,
    /// Bytes that it would use uncompressed, the header's room included.
    pub uncompressed: usize,
    /// Records in it.
    pub record_count: u32,
    /// Timestamp of the first record (FMT-08).
    pub base_timestamp: i64,
    /// Largest timestamp (FMT-09).
    pub max_timestamp: i64,
    /// Largest upper bound of one of its records (BATCH-10): [`batch_size_upper_bound`](crate::record::batch_size_upper_bound), in bytes.
    pub max_record_size: usize,
    /// When it was opened.
    pub created: Instant,
    /// Its number in the accumulator's books of unfinished batches.
    pub id: u64,
    /// Its result.
    pub completion: Completion,
}

/// A batch's place among those of its partition that are put back in order (ACC-35): what has a sequence first, in the order of those; the others in the order in which they were opened.
pub type Rank = (bool, u64, u32);

/// A batch closed for appends.
#[derive(Debug)]
pub struct SealedBatch {
    pub(super) contents: Contents,
    producer: ProducerState,
    /// Its stamp was taken away since it was closed last (BATCH-26).
    sequence_was_reset: bool,
    /// It had a sequence once, or is a part: it is put back in its place, not at the head.
    ordered: bool,
    /// The number of the batch that its records were appended to, and how many stood before them there.
    pub(super) origin: (u64, u32),
    /// What it is a part of.
    whole: Option<Whole>,
    closed: bool,
    /// Whether it was tried to compress its records once they were all there.
    compressed: bool,
    attempts: u32,
    retry: bool,
    last_attempt: Instant,
    drained: Option<Instant>,
    backoff: Duration,
    leader_epoch: Option<i32>,
    attempts_when_leader_changed: u32,
}

impl SealedBatch {
    /// Seals `contents`.
    pub fn new(contents: Contents) -> Self {
        Self {
            last_attempt: contents.created,
            origin: (contents.id, 0),
            contents,
            producer: ProducerState::NONE,
            sequence_was_reset: false,
            ordered: false,
            whole: None,
            closed: false,
            compressed: false,
            attempts: 0,
            retry: false,
            drained: None,
            backoff: Duration::ZERO,
            leader_epoch: None,
            attempts_when_leader_changed: 0,
        }
    }

    /// A part of `whole`: of a batch that was split. Its records are those behind `origin`.
    pub(super) fn part(contents: Contents, origin: (u64, u32), whole: Whole) -> Self {
        Self { origin, ordered: true, whole: Some(whole), ..Self::new(contents) }
    }

    /// Where it goes.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.contents.topic_partition
    }

    /// The batch that it is a part of, if that was split. Parts do not stand in the books: it does, until the last of them has ended.
    pub fn whole(&self) -> Option<&Whole> {
        self.whole.as_ref()
    }

    /// Its number in the accumulator's books.
    pub fn id(&self) -> u64 {
        self.contents.id
    }

    /// Records in it.
    pub fn record_count(&self) -> u32 {
        self.contents.record_count
    }

    /// Bytes on the wire, header included. Zero records make zero bytes (BATCH-09).
    pub fn size(&self) -> usize {
        if self.contents.record_count == 0 { 0 } else { self.contents.len }
    }

    /// Bytes charged to the pool for it.
    pub fn charged(&self) -> usize {
        self.contents.lease.charged()
    }

    /// Largest upper bound of one of its records, in bytes (BATCH-10).
    pub fn max_record_size(&self) -> usize {
        self.contents.max_record_size
    }

    /// Largest timestamp in it, in milliseconds.
    pub fn max_timestamp(&self) -> i64 {
        self.contents.max_timestamp
    }

    /// When it was opened. Never changes (BATCH-19).
    pub fn created(&self) -> Instant {
        self.contents.created
    }

    /// Its result.
    pub fn completion(&self) -> &Completion {
        &self.contents.completion
    }

    /// Bytes that it would have uncompressed, header included.
    pub fn uncompressed_size(&self) -> usize {
        if self.contents.record_count == 0 { 0 } else { self.contents.uncompressed }
    }

    /// How its records are compressed: what the header says, or will say.
    pub fn codec(&self) -> Codec {
        self.contents.codec
    }

    /// Bytes of its records as they are by bytes of its records uncompressed, the header on neither side (BATCH-06). 1 for no records.
    pub fn compression_ratio(&self) -> f64 {
        match self.contents.uncompressed - BATCH_OVERHEAD {
            0 => 1.0,
            uncompressed => self.records_size() as f64 / uncompressed as f64,
        }
    }

    /// Compresses its records in their place, if that makes them smaller; otherwise they stay as they are, and the header will say so. Once: a batch that was closed, tried
    /// before, or compressed while it was filled is left alone.
    pub fn compress(&mut self, compressor: &mut Compressor) {
        if self.closed || self.compressed || self.contents.codec != Codec::None || self.contents.record_count == 0 {
            return;
        }
        self.compressed = true;
        let len = self.contents.len;
        if let Some((packed, codec)) = compressor.compress(&mut self.memory()[BATCH_OVERHEAD..len]) {
            self.contents.len = BATCH_OVERHEAD + packed;
            self.contents.codec = codec;
        }
    }

    /// Producer id, epoch and base sequence to be written at the close.
    ///
    /// # Errors
    /// [`IllegalState`] once it is closed (BATCH-26).
    pub fn set_producer_state(&mut self, producer: ProducerState) -> Result<(), IllegalState> {
        if self.closed {
            return Err(IllegalState("the batch is closed: its producer state is under the checksum"));
        }
        self.ordered |= producer.base_sequence != NO_SEQUENCE;
        self.producer = producer;
        Ok(())
    }

    /// Takes producer id, epoch and sequence away, with the header that holds them, so that others can be set (BATCH-26). Only if it is certain that it was not written with these.
    pub fn reset_producer_state(&mut self) {
        self.sequence_was_reset |= self.has_sequence();
        self.producer = ProducerState::NONE;
        self.closed = false;
    }

    /// Whether its stamp was taken away since it was closed last (BATCH-26).
    pub fn sequence_was_reset(&self) -> bool {
        self.sequence_was_reset
    }

    /// Producer id, epoch and base sequence as set.
    pub fn producer_state(&self) -> ProducerState {
        self.producer
    }

    /// Whether it has a sequence (ACC-31): it was drained by an idempotent producer.
    pub fn has_sequence(&self) -> bool {
        self.producer.base_sequence != NO_SEQUENCE
    }

    /// The sequence of its last record, if it has any (FMT-23).
    pub fn last_sequence(&self) -> Option<i32> {
        let more = self.contents.record_count.saturating_sub(1);
        self.has_sequence().then(|| increment_sequence(self.producer.base_sequence, more))
    }

    /// Its place among those of its partition that are put back in order.
    pub fn rank(&self) -> Rank {
        (!self.has_sequence(), self.origin.0, self.origin.1)
    }

    /// Whether it is put back by its [`SealedBatch::rank`] (ACC-35), and not at the head (ACC-34): it had a sequence once, or is a part.
    pub fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Writes header and checksum. Closing again does nothing (BATCH-08).
    ///
    /// # Errors
    /// [`ProducerStateError`] if the producer state breaks FMT-24.
    pub fn close(&mut self) -> Result<(), ProducerStateError> {
        if self.closed {
            return Ok(());
        }
        if self.contents.record_count > 0 {
            let spec = HeaderSpec {
                base_timestamp: self.contents.base_timestamp,
                max_timestamp: self.contents.max_timestamp,
                records_count: self.contents.record_count,
                producer: self.producer,
                codec: self.contents.codec,
            };
            let len = self.contents.len;
            write_batch_header(&mut self.memory()[..len], &spec)?;
        }
        self.closed = true;
        self.sequence_was_reset = false;
        Ok(())
    }

    fn memory(&mut self) -> &mut [u8] {
        match &mut self.contents.grown {
            Some(grown) => &mut grown.bytes,
            None => &mut self.contents.lease,
        }
    }

    /// Whether header and checksum are written.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The batch as it goes over the wire.
    ///
    /// # Panics
    /// If it is not closed.
    pub fn as_bytes(&self) -> &[u8] {
        assert!(self.closed, "a batch has no bytes before it is closed");
        let memory = self.contents.grown.as_ref().map_or(&*self.contents.lease, |grown| &grown.bytes);
        &memory[..self.size()]
    }

    /// Bytes of the records alone, in use behind the header's room.
    pub fn records_size(&self) -> usize {
        self.contents.len - BATCH_OVERHEAD
    }

    /// Times it was sent and came back with a retriable error.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether it was ever put back (BATCH-20). For good.
    pub fn in_retry(&self) -> bool {
        self.retry
    }

    /// Puts it back for another attempt, not before `backoff` has passed (BATCH-20).
    pub fn reenqueued(&mut self, now: Instant, backoff: Duration) {
        self.attempts = self.attempts.saturating_add(1);
        self.last_attempt = self.last_attempt.max(now);
        self.retry = true;
        self.backoff = backoff;
    }

    /// The wait before its next attempt, as drawn when it was put back.
    pub fn backoff(&self) -> Duration {
        self.backoff
    }

    /// Time since the last attempt, or since creation before the first (BATCH-20).
    pub fn waited(&self, now: Instant) -> Duration {
        now.saturating_since(self.last_attempt)
    }

    /// Whether its delivery timeout has passed (BATCH-19).
    pub fn has_expired(&self, timeout: Duration, now: Instant) -> bool {
        now.saturating_since(self.contents.created) >= timeout
    }

    /// Adopts a leader epoch that is known and newer than the one known so far (BATCH-22).
    pub fn see_leader_epoch(&mut self, epoch: Option<i32>) {
        if epoch > self.leader_epoch {
            self.leader_epoch = epoch;
            self.attempts_when_leader_changed = self.attempts;
        }
    }

    /// Whether a newer leader was seen since the latest failed attempt: then there is nothing to back off from (BATCH-22, ACC-23).
    pub fn leader_changed_for_retry(&self) -> bool {
        self.attempts > 0 && self.attempts == self.attempts_when_leader_changed
    }

    /// Notes that it was drained; the latest drain counts (BATCH-21).
    pub fn drained(&mut self, now: Instant) {
        self.drained = Some(self.drained.map_or(now, |before| before.max(now)));
    }

    /// Time between creation and the latest drain (BATCH-21).
    pub fn queue_time(&self) -> Option<Duration> {
        self.drained.map(|at| at.saturating_since(self.contents.created))
    }
}

impl AsRef<[u8]> for SealedBatch {
    /// [`SealedBatch::as_bytes`]: a batch can be the owner of a `bytes::Bytes`.
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Puts a batch back into a queue of its partition: at the head (ACC-34) or, if it is ordered, before the first one of a higher rank (ACC-35).
pub(crate) fn insert(queue: &mut VecDeque<SealedBatch>, batch: SealedBatch) {
    // By sequences, not by ids: of several lanes the batch opened first need not be the one drained first. All stamps in a queue are of one epoch (IDEM-09).
    let behind = |other: &SealedBatch| match (other.has_sequence(), batch.has_sequence()) {
        (true, true) => sequence_is_after(other.producer.base_sequence, batch.producer.base_sequence),
        _ => other.rank() > batch.rank(),
    };
    let at = if batch.is_ordered() { queue.iter().position(behind).unwrap_or(queue.len()) } else { 0 };
    queue.insert(at, batch);
}

/// Takes the stamp from those of a queue for which `reset` says so, and puts each where its rank is then (IDEM-12).
pub(crate) fn reset_some(queue: &mut VecDeque<SealedBatch>, reset: &mut dyn FnMut(&SealedBatch) -> bool) {
    let stamped = queue.iter().take_while(|batch| batch.has_sequence()).count();
    for at in (0..stamped).rev() {
        if reset(&queue[at])
            && let Some(mut batch) = queue.remove(at)
        {
            batch.reset_producer_state();
            insert(queue, batch);
        }
    }
}
