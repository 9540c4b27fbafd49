//! What a sender has done, readable from other threads.

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
}

impl SenderSnapshot {
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

    fn get(&self) -> u64 {
        // Relaxed: see `add`.
        self.0.load(Relaxed)
    }
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
        }
    }
}
