//! What a sender has done, readable from other threads.

use std::time::Duration;

use crate::batch::SealedBatch;
use crate::primitive::atomic::AtomicU64;
use crate::primitive::atomic::Ordering::Relaxed;

/// Counters of one sender, which alone writes them. A reader gets each of them as of some moment, not all of one moment.
#[derive(Debug, Default)]
pub struct SenderStats {
    requests: Counter,
    batches: Counter,
    bytes: Counter,
    charged: Counter,
    ratios: Counter,
    records: Counter,
    completed: Counter,
    failed: Counter,
    retried: Counter,
    splits: Counter,
    batch_size_max: Counter,
    queue_time: Counter,
    queue_time_max: Counter,
    record_size_sum: Counter,
    record_size_max: Counter,
    in_flight: Counter,
    answers: Counter,
    latency: Counter,
    latency_max: Counter,
    throttle: Counter,
    throttle_max: Counter,
}

/// [`SenderStats`] read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SenderSnapshot {
    /// Requests submitted.
    pub requests: u64,
    /// Batches submitted, retries counted again.
    pub batches: u64,
    /// Bytes of those batches on the wire.
    pub bytes: u64,
    /// Bytes of the pool charged for them.
    pub charged: u64,
    /// Sum of the compression ratios of those batches (BATCH-06), in millionths.
    pub ratios_ppm: u64,
    /// Records in them.
    pub records: u64,
    /// Records acknowledged.
    pub completed: u64,
    /// Records failed.
    pub failed: u64,
    /// Records in batches that were put back for another attempt (MET-04).
    pub retried: u64,
    /// `batch-split-total`: batches that were too large and sent in parts (MET-04).
    pub splits: u64,
    /// `batch-size-max`: bytes on the wire of the largest batch (MET-03).
    pub batch_size_max: u64,
    /// Sum over batches of the time from opening to drain, in nanoseconds; a retry counts again (MET-03).
    pub queue_time_ns: u64,
    /// `record-queue-time-max`, in nanoseconds.
    pub queue_time_max_ns: u64,
    /// Sum over batches of the largest upper bound of a record's size in it, in bytes (MET-03).
    pub record_size_sum: u64,
    /// `record-size-max`: the largest of those.
    pub record_size_max: u64,
    /// `requests-in-flight` now (MET-05).
    pub requests_in_flight: u64,
    /// Requests that a node answered.
    pub answers: u64,
    /// Sum over those of the time from submission to the handling of the answer, in nanoseconds (MET-05).
    pub latency_ns: u64,
    /// `request-latency-max`, in nanoseconds.
    pub latency_max_ns: u64,
    /// Sum of `throttle_time_ms` over answers, in nanoseconds (MET-05).
    pub throttle_ns: u64,
    /// `produce-throttle-time-max`, in nanoseconds.
    pub throttle_max_ns: u64,
}

fn mean(sum: u64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum as f64 / count as f64 }
}

impl SenderSnapshot {
    /// `records-per-request-avg` (MET-03), over requests that have something in them (GAP-30).
    pub fn records_per_request(&self) -> f64 {
        mean(self.records, self.requests)
    }

    /// `batch-size-avg`, in bytes (MET-03).
    pub fn batch_size_avg(&self) -> f64 {
        mean(self.bytes, self.batches)
    }

    /// `record-size-avg`, in bytes (MET-03).
    pub fn record_size_avg(&self) -> f64 {
        mean(self.record_size_sum, self.batches)
    }

    /// `record-queue-time-avg` (MET-03).
    pub fn queue_time_avg(&self) -> Duration {
        Duration::from_nanos(mean(self.queue_time_ns, self.batches) as u64)
    }

    /// `request-latency-avg` (MET-05).
    pub fn latency_avg(&self) -> Duration {
        Duration::from_nanos(mean(self.latency_ns, self.answers) as u64)
    }

    /// `compression-rate-avg`: mean over batches of the bytes of their records as sent by those uncompressed (MET-03); 1 without a codec, and where nothing was sent.
    pub fn compression_rate(&self) -> f64 {
        if self.batches == 0 { 1.0 } else { self.ratios_ppm as f64 / 1e6 / self.batches as f64 }
    }

    /// How full the batches were when they went: bytes on the wire by bytes charged, 0 to 1.
    pub fn fill(&self) -> f64 {
        if self.charged == 0 { 0.0 } else { self.bytes as f64 / self.charged as f64 }
    }
}

#[derive(Debug)]
struct Counter(AtomicU64);

impl Default for Counter {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Counter {
    fn add(&self, count: u64) {
        // Relaxed, and no read-modify-write: there is one writer, and the number orders nothing.
        self.0.store(self.0.load(Relaxed) + count, Relaxed);
    }

    fn set(&self, value: u64) {
        // Relaxed: as in `add`.
        self.0.store(value, Relaxed);
    }

    fn raise(&self, value: u64) {
        self.set(self.get().max(value));
    }

    fn get(&self) -> u64 {
        // Relaxed: see `add`.
        self.0.load(Relaxed)
    }
}

/// Counts a time.
fn timed(sum: &Counter, max: &Counter, time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    sum.set(sum.get().saturating_add(nanos));
    max.raise(nanos);
}

impl SenderStats {
    pub(super) fn sent(&self, batches: &[SealedBatch]) {
        let sum = |of: fn(&SealedBatch) -> u64| batches.iter().map(of).sum();
        self.requests.add(1);
        self.batches.add(batches.len() as u64);
        self.bytes.add(sum(|batch| batch.size() as u64));
        self.charged.add(sum(|batch| batch.charged() as u64));
        self.ratios.add(sum(|batch| (batch.compression_ratio() * 1e6).round() as u64));
        self.records.add(sum(|batch| u64::from(batch.record_count())));
        self.record_size_sum.add(sum(|batch| batch.max_record_size() as u64));
        for batch in batches {
            self.batch_size_max.raise(batch.size() as u64);
            self.record_size_max.raise(batch.max_record_size() as u64);
            timed(&self.queue_time, &self.queue_time_max, batch.queue_time().unwrap_or_default());
        }
    }

    pub(super) fn split(&self) {
        self.splits.add(1);
    }

    pub(super) fn in_flight(&self, requests: usize) {
        self.in_flight.set(requests as u64);
    }

    pub(super) fn answered(&self, after: Duration) {
        self.answers.add(1);
        timed(&self.latency, &self.latency_max, after);
    }

    pub(super) fn throttled(&self, throttle: Duration) {
        timed(&self.throttle, &self.throttle_max, throttle);
    }

    pub(super) fn completed(&self, records: u32) {
        self.completed.add(u64::from(records));
    }

    pub(super) fn failed(&self, records: u32) {
        self.failed.add(u64::from(records));
    }

    pub(super) fn retried(&self, records: u32) {
        self.retried.add(u64::from(records));
    }

    /// The counters now.
    pub fn snapshot(&self) -> SenderSnapshot {
        SenderSnapshot {
            requests: self.requests.get(),
            batches: self.batches.get(),
            bytes: self.bytes.get(),
            charged: self.charged.get(),
            ratios_ppm: self.ratios.get(),
            records: self.records.get(),
            completed: self.completed.get(),
            failed: self.failed.get(),
            retried: self.retried.get(),
            splits: self.splits.get(),
            batch_size_max: self.batch_size_max.get(),
            queue_time_ns: self.queue_time.get(),
            queue_time_max_ns: self.queue_time_max.get(),
            record_size_sum: self.record_size_sum.get(),
            record_size_max: self.record_size_max.get(),
            requests_in_flight: self.in_flight.get(),
            answers: self.answers.get(),
            latency_ns: self.latency.get(),
            latency_max_ns: self.latency_max.get(),
            throttle_ns: self.throttle.get(),
            throttle_max_ns: self.throttle_max.get(),
        }
    }
}
