//! The twin's codecs: Kafka's way, a stream that is written while records are appended, under the partition's lock.
//!
//! A batch's room is judged by what its records will take compressed, which is not known before the stream ends: so it is estimated, by the ratio that the topic's latest batches had (BATCH-03,
//! BATCH-05). Where the estimate was too good, the stream outgrows the lease, into memory outside of the pool (BATCH-07), which [`OffPool`] counts.
//!
//! Kafka makes a context for each batch and frees it with the batch. Here up to [`IDLE`] of them are kept for the next batches, since making one may cost more than filling a batch: the twin is to be slowed down by
//! nothing but its algorithm. Kafka's estimates are one map for the whole process (GAP-34); here they are the accumulator's own, and atomic.
//!
//! Source: Kafka's `MemoryRecordsBuilder`, `CompressionRatioEstimator`, `ByteBufferOutputStream`.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use super::batch::MutexBatch;
use crate::batch::{Grown, Held, OffPool, SealedBatch};
use crate::pool::Lease;
use crate::primitive::atomic::AtomicU32;
use crate::primitive::atomic::Ordering::Relaxed;
use crate::primitive::lock::{LockFamily, Mutex};
use crate::record::codec::{Compression, Encoder};

/// Contexts that are kept for the next batches.
const IDLE: usize = 16;
/// How much larger than estimated a batch is taken to become. Kafka: `MemoryRecordsBuilder.COMPRESSION_RATE_ESTIMATION_FACTOR`.
const ESTIMATION_FACTOR: f32 = 1.05;
/// How far an estimate moves at least where a batch was worse. Kafka: `COMPRESSION_RATIO_DETERIORATE_STEP`.
const DETERIORATE_STEP: f32 = 0.05;
/// How far an estimate moves at most where a batch was better. Kafka: `COMPRESSION_RATIO_IMPROVING_STEP`.
const IMPROVING_STEP: f32 = 0.005;
/// By how much memory outside of the pool grows at least. Kafka: `ByteBufferOutputStream.REALLOCATION_FACTOR`.
const REALLOCATION_FACTOR: f32 = 1.1;

/// The ratio that a topic's batches are expected to have, by the accumulator's codec (BATCH-05).
#[derive(Debug)]
pub(super) struct Estimate(AtomicU32);

impl Estimate {
    fn new() -> Self {
        Self(AtomicU32::new(1.0_f32.to_bits()))
    }

    pub(super) fn get(&self) -> f32 {
        // Relaxed: a number that orders nothing; an older one is an estimate as good.
        f32::from_bits(self.0.load(Relaxed))
    }

    /// A batch was closed with the ratio `observed`. By the sender alone.
    pub(super) fn observe(&self, observed: f32) {
        let estimate = self.get();
        let next = if observed > estimate {
            (estimate + DETERIORATE_STEP).max(observed)
        } else {
            (estimate - IMPROVING_STEP).max(observed)
        };
        self.reset(next);
    }

    /// It is `ratio` from now on. By the sender alone.
    pub(super) fn reset(&self, ratio: f32) {
        // Relaxed: as in `get`. A plain store: only the sender writes.
        self.0.store(ratio.to_bits(), Relaxed);
    }
}

/// A context, and room for the record that goes through it.
pub(super) struct Stream {
    encoder: Encoder,
    record: Vec<u8>,
    held: Held,
}

impl Stream {
    fn count(&mut self) {
        self.held.set(self.encoder.memory() + self.record.capacity());
    }
}

/// The stream of an open batch.
pub(super) struct Packed {
    stream: Stream,
    /// Bytes in the batch's memory, the header's room included.
    written: usize,
    /// As estimated when the batch was opened.
    ratio: f32,
    off_pool: Arc<OffPool>,
}

impl Packed {
    /// Bytes that `records` bytes of records are expected to take (BATCH-03), header excluded.
    pub(super) fn estimate(&self, records: usize) -> usize {
        (records as f32 * self.ratio * ESTIMATION_FACTOR) as usize
    }

    /// Has `encode` write a record of `size` bytes, and compresses it into the batch.
    pub(super) fn append(
        &mut self,
        lease: &mut Lease,
        grown: &mut Option<Grown>,
        size: usize,
        encode: impl FnOnce(&mut [u8]) -> usize,
    ) {
        self.stream.record.resize(size, 0);
        let _ = encode(&mut self.stream.record);
        let mut out = Out { lease, grown, written: &mut self.written, off_pool: &self.off_pool };
        self.stream.encoder.write(&self.stream.record, &mut out).expect("it takes any number of bytes");
    }

    /// Ends the stream: the bytes in the batch's memory, and the context.
    pub(super) fn finish(mut self, lease: &mut Lease, grown: &mut Option<Grown>) -> (usize, Stream) {
        let mut out = Out { lease, grown, written: &mut self.written, off_pool: &self.off_pool };
        self.stream.encoder.finish(&mut out).expect("it takes any number of bytes");
        self.stream.count();
        (self.written, self.stream)
    }

    /// The context, of a stream that nothing was written to.
    pub(super) fn give_up(mut self) -> Stream {
        self.stream.encoder.reset();
        self.stream
    }

    /// Counts the context's memory, which it takes with its first record.
    pub(super) fn count(&mut self) {
        self.stream.count();
    }
}

/// A batch's memory as the stream fills it: the lease, and what takes its place once it is too small.
struct Out<'a> {
    lease: &'a mut Lease,
    grown: &'a mut Option<Grown>,
    written: &'a mut usize,
    off_pool: &'a Arc<OffPool>,
}

impl Out<'_> {
    fn memory(&mut self) -> &mut [u8] {
        match self.grown {
            Some(grown) => &mut grown.bytes,
            None => self.lease,
        }
    }

    #[cold]
    fn grow(&mut self, needed: usize) {
        let limit = self.memory().len();
        let len = needed.max((limit as f32 * REALLOCATION_FACTOR) as usize);
        let held = self.off_pool.hold(len);
        let mut bytes = vec![0; len].into_boxed_slice();
        let written = *self.written;
        bytes[..written].copy_from_slice(&self.memory()[..written]);
        *self.grown = Some(Grown { bytes, held: Some(held) });
    }
}

impl Write for Out<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (at, end) = (*self.written, *self.written + bytes.len());
        if end > self.memory().len() {
            self.grow(end);
        }
        self.memory()[at..end].copy_from_slice(bytes);
        *self.written = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an accumulator's batches share of its codec.
pub(super) struct Codecs<F: LockFamily> {
    compression: Compression,
    idle: F::Mutex<Vec<Stream>>,
    estimates: F::Mutex<HashMap<Arc<str>, Arc<Estimate>>>,
    off_pool: Arc<OffPool>,
}

impl<F: LockFamily> Codecs<F> {
    pub(super) fn new(compression: Compression) -> Self {
        let off_pool = OffPool::new();
        Self { compression, idle: Mutex::new(Vec::new()), estimates: Mutex::new(HashMap::new()), off_pool }
    }

    pub(super) fn compression(&self) -> Compression {
        self.compression
    }

    pub(super) fn off_pool(&self) -> &Arc<OffPool> {
        &self.off_pool
    }

    /// A topic's estimate, which all of its partitions share.
    pub(super) fn estimate(&self, topic: &Arc<str>) -> Arc<Estimate> {
        let mut estimates = self.estimates.lock();
        let estimate = estimates.entry(Arc::clone(topic)).or_insert_with(|| Arc::new(Estimate::new()));
        Arc::clone(estimate)
    }

    /// A stream for a batch that begins with `header` bytes of something else; `None` without a codec.
    pub(super) fn open(&self, estimate: &Estimate, header: usize) -> Option<Box<Packed>> {
        if self.compression.is_none() {
            return None;
        }
        let idle = self.idle.lock().pop();
        let stream = match idle {
            Some(stream) => stream,
            None => {
                let encoder = Encoder::new(self.compression)?;
                let held = self.off_pool.hold(encoder.memory());
                Stream { encoder, record: Vec::new(), held }
            }
        };
        let off_pool = Arc::clone(&self.off_pool);
        Some(Box::new(Packed { stream, written: header, ratio: estimate.get(), off_pool }))
    }

    /// Closes `open` for appends: ends its stream (BATCH-08), and keeps the context for the next batch.
    pub(super) fn seal(&self, open: MutexBatch) -> SealedBatch {
        let (sealed, stream) = open.finish();
        if let Some(stream) = stream {
            let mut idle = self.idle.lock();
            if idle.len() < IDLE {
                idle.push(stream);
            }
        }
        sealed
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed")
            .field("encoder", &self.stream.encoder)
            .field("written", &self.written)
            .field("ratio", &self.ratio)
            .finish_non_exhaustive()
    }
}
