//! The check by identity: is the record at the place that its future reported the one that was sent?
//!
//! A [`Checker`] is shown every batch that the broker accepted, as it reads in the log. A sender's thread, once a record's future says where
//! the record stands, *claims* that place: the record there must be byte for byte what was sent, nobody may have claimed it before, and a thread's claims must
//! rise within each partition. What is left unclaimed at the end was written without being acknowledged to anybody: a duplicate.
//!
//! Compressed batches are decompressed for it. State: one batch is kept until its last record is claimed, so memory follows what is in flight, plus threads x partitions for the order.

use std::collections::VecDeque;
use std::sync::Arc;

use crc_fast::{CrcAlgorithm, Digest};
use parking_lot::Mutex;

use crate::primitive::atomic::Ordering::{AcqRel, Relaxed};
use crate::primitive::atomic::{AtomicU32, AtomicU64};
use crate::record::codec::Decoder;
use crate::record::{Codec, DecodeError, RecordBatch};

/// Where a key or a value lies in its batch; `None` for null.
type Place = Option<(u32, u32)>;

/// A batch as it reads in the log.
#[derive(Debug)]
struct Arrived {
    base_offset: i64,
    bytes: Vec<u8>,
    /// Key and value of each record.
    places: Vec<(Place, Place)>,
    /// A bit for each record.
    claimed: Vec<AtomicU64>,
    unclaimed: AtomicU32,
}

impl Arrived {
    fn read(base_offset: i64, bytes: &[u8], decoder: &Mutex<Decoder>) -> Result<Self, DecodeError> {
        let (batch, _) = RecordBatch::parse(bytes)?;
        let mut space = Vec::new();
        // The broker has decompressed it before, within its limit.
        batch.decompress(&mut decoder.lock(), usize::MAX, &mut space)?;
        let bytes = if batch.codec() == Codec::None { bytes.to_vec() } else { space };
        let place = |field: Option<&[u8]>| {
            field.map(|field| {
                let at = field.as_ptr().addr() - bytes.as_ptr().addr();
                (at as u32, field.len() as u32)
            })
        };
        let mut places = Vec::new();
        for record in batch.records_in(&bytes) {
            let record = record?;
            places.push((place(record.key), place(record.value)));
        }
        let words = places.len().div_ceil(64);
        Ok(Self {
            base_offset,
            claimed: (0..words).map(|_| AtomicU64::new(0)).collect(),
            unclaimed: AtomicU32::new(places.len() as u32),
            places,
            bytes,
        })
    }

    fn index(&self, offset: i64) -> Option<usize> {
        let index = usize::try_from(offset.checked_sub(self.base_offset)?).ok()?;
        (index < self.places.len()).then_some(index)
    }

    fn field(&self, place: Place) -> Option<&[u8]> {
        place.map(|(at, len)| &self.bytes[at as usize..][..len as usize])
    }
}

#[derive(Debug, Default)]
struct Partition {
    batches: VecDeque<Arc<Arrived>>,
    next_offset: Option<i64>,
    read_back: u64,
    overlapping: u64,
    missing: u64,
    unreadable: u64,
    digest: Option<Digest>,
}

/// What was found wrong, and how much was right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Records found where their future said, byte for byte.
    pub found: u64,
    /// Accepted records that were not: lost, altered, or failed.
    pub lost: u64,
    /// Records in the log that nobody claimed, or that were claimed twice.
    pub duplicated: u64,
    /// Records that stand before an earlier one of the same thread.
    pub reordered: u64,
    /// Records read back from the log.
    pub read_back: u64,
}

impl Verdict {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.found += other.found;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.read_back += other.read_back;
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        (self.lost, self.duplicated, self.reordered) == (0, 0, 0)
    }
}

/// Keeps what the log says until it is claimed. Shared by the broker, who shows, and the senders' threads, who claim.
#[derive(Debug)]
pub struct Checker {
    partitions: Vec<Mutex<Partition>>,
    decoder: Mutex<Decoder>,
}

impl Checker {
    /// A checker of `partitions` partitions. With `digest` it also keeps a checksum of all bytes of each, to be compared with what is stored.
    pub fn new(partitions: i32, digest: bool) -> Self {
        let partition =
            || Partition { digest: digest.then(|| Digest::new(CrcAlgorithm::Crc64Nvme)), ..Partition::default() };
        Self { partitions: (0..partitions).map(|_| Mutex::new(partition())).collect(), decoder: Mutex::default() }
    }

    /// Shows a batch of the log. Batches of one partition come in the log's order.
    pub fn show(&self, partition: i32, base_offset: i64, bytes: &[u8]) {
        let Some(of) = usize::try_from(partition).ok().and_then(|index| self.partitions.get(index)) else { return };
        // Read outside of the lock, so that claims go on.
        let arrived = Arrived::read(base_offset, bytes, &self.decoder);
        let mut of = of.lock();
        if let Some(digest) = &mut of.digest {
            digest.update(bytes);
        }
        let arrived = match arrived {
            Ok(arrived) => arrived,
            Err(error) => {
                tracing::error!(%error, partition, base_offset, "the log holds a batch that cannot be read");
                of.unreadable += 1;
                return;
            }
        };
        let count = arrived.places.len() as i64;
        of.read_back += count as u64;
        match of.next_offset {
            Some(next) if base_offset < next => of.overlapping += count as u64,
            Some(next) => of.missing += (base_offset - next) as u64,
            None => {}
        }
        of.next_offset = Some(base_offset + count);
        if count > 0 {
            of.batches.push_back(Arc::new(arrived));
        }
    }

    /// A claimer for one sender's thread.
    pub fn claimer(self: &Arc<Self>) -> Claimer {
        let lines = self.partitions.len();
        Claimer {
            checker: Arc::clone(self),
            batches: vec![None; lines],
            last: vec![i64::MIN; lines],
            verdict: Verdict::default(),
        }
    }

    /// What the checker itself has to say, once all is claimed and shown.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        for partition in &self.partitions {
            let partition = partition.lock();
            // Relaxed: the claimers have ended; their threads were joined.
            let unclaimed: u64 = partition.batches.iter().map(|batch| u64::from(batch.unclaimed.load(Relaxed))).sum();
            verdict.duplicated += unclaimed + partition.overlapping;
            verdict.lost += partition.missing + partition.unreadable;
            verdict.read_back += partition.read_back;
        }
        verdict
    }

    /// The checksum of all bytes shown of a partition, if it was asked for.
    pub fn digest(&self, partition: i32) -> Option<u64> {
        let of = usize::try_from(partition).ok().and_then(|index| self.partitions.get(index))?;
        of.lock().digest.as_ref().map(Digest::finalize)
    }

    fn find(&self, partition: usize, offset: i64) -> Option<Arc<Arrived>> {
        let of = self.partitions.get(partition)?.lock();
        let at = of.batches.partition_point(|batch| batch.base_offset + (batch.places.len() as i64) <= offset);
        of.batches.get(at).filter(|batch| batch.index(offset).is_some()).cloned()
    }

    fn drop_claimed(&self, partition: usize) {
        let Some(of) = self.partitions.get(partition) else { return };
        let mut of = of.lock();
        // Relaxed: a batch whose last claim is not seen yet goes with a later one.
        while of.batches.front().is_some_and(|batch| batch.unclaimed.load(Relaxed) == 0) {
            of.batches.pop_front();
        }
    }
}

/// One sender's thread's side: what it claims, and in which order.
#[derive(Debug)]
pub struct Claimer {
    checker: Arc<Checker>,
    /// The batch of the latest claim in each partition: the next is mostly in the same.
    batches: Vec<Option<Arc<Arrived>>>,
    /// The latest offset claimed in each partition.
    last: Vec<i64>,
    verdict: Verdict,
}

impl Claimer {
    /// Claims that the record at `offset` has this key and value.
    pub fn claim(&mut self, partition: i32, offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        let Some(partition) = usize::try_from(partition).ok().filter(|index| *index < self.batches.len()) else {
            self.verdict.lost += 1;
            return;
        };
        if offset <= self.last[partition] {
            self.verdict.reordered += 1;
        }
        self.last[partition] = self.last[partition].max(offset);
        let cached = self.batches[partition].as_ref().and_then(|batch| batch.index(offset));
        if cached.is_none() {
            self.batches[partition] = self.checker.find(partition, offset);
        }
        let Some((batch, index)) =
            self.batches[partition].as_ref().and_then(|batch| batch.index(offset).map(|index| (batch, index)))
        else {
            self.verdict.lost += 1;
            return;
        };
        let (at_key, at_value) = batch.places[index];
        if batch.field(at_key) != key || batch.field(at_value) != value {
            self.verdict.lost += 1;
            return;
        }
        // Relaxed: the bit's own order decides who was first.
        if batch.claimed[index / 64].fetch_or(1 << (index % 64), Relaxed) & (1 << (index % 64)) != 0 {
            self.verdict.duplicated += 1;
            return;
        }
        self.verdict.found += 1;
        // AcqRel: the last claim of a batch comes after every other's.
        if batch.unclaimed.fetch_sub(1, AcqRel) == 1 {
            self.batches[partition] = None;
            self.checker.drop_claimed(partition);
        }
    }

    /// Counts an accepted record that was not acknowledged.
    pub fn failed(&mut self) {
        self.verdict.lost += 1;
    }

    /// What was claimed.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BATCH_OVERHEAD, HeaderSpec, Record, assign_offset, encode_record, write_batch_header};

    fn batch(base_offset: i64, values: &[&str]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let mut len = BATCH_OVERHEAD;
        for (index, value) in (0..).zip(values) {
            let record = Record { value: Some(value.as_bytes()), ..Record::default() };
            len += encode_record(&mut bytes[len..], index, 0, &record);
        }
        bytes.truncate(len);
        let spec = HeaderSpec { records_count: values.len() as u32, ..HeaderSpec::default() };
        write_batch_header(&mut bytes, &spec).unwrap();
        assign_offset(&mut bytes, base_offset, 0);
        bytes
    }

    fn shown(batches: &[(i64, &[&str])]) -> Arc<Checker> {
        let checker = Arc::new(Checker::new(1, false));
        for (offset, values) in batches {
            checker.show(0, *offset, &batch(*offset, values));
        }
        checker
    }

    fn total(checker: &Checker, claimers: &[&Claimer]) -> Verdict {
        let mut verdict = checker.verdict();
        claimers.iter().for_each(|claimer| verdict.add(&claimer.verdict()));
        verdict
    }

    #[test]
    fn all_claimed_in_order_is_clean_and_keeps_nothing() {
        let checker = shown(&[(0, &["a", "b"]), (2, &["c"])]);
        let mut claimer = checker.claimer();
        for (offset, value) in ["a", "b", "c"].iter().enumerate() {
            claimer.claim(0, offset as i64, None, Some(value.as_bytes()));
        }
        let verdict = total(&checker, &[&claimer]);
        assert_eq!(verdict, Verdict { found: 3, read_back: 3, ..Verdict::default() });
        assert!(verdict.is_clean());
        assert!(checker.partitions[0].lock().batches.is_empty());
    }

    #[test]
    fn a_record_that_is_another_is_lost_though_the_count_is_right() {
        let checker = shown(&[(0, &["a", "x"])]);
        let mut claimer = checker.claimer();
        claimer.claim(0, 0, None, Some(b"a"));
        claimer.claim(0, 1, None, Some(b"b"));
        let verdict = total(&checker, &[&claimer]);
        assert_eq!((verdict.found, verdict.lost, verdict.duplicated), (1, 1, 1));
    }

    #[test]
    fn null_and_empty_are_not_the_same() {
        let checker = shown(&[(0, &[""])]);
        let mut claimer = checker.claimer();
        claimer.claim(0, 0, None, None);
        assert_eq!(claimer.verdict().lost, 1);
        claimer.claim(0, 0, Some(b""), Some(b""));
        assert_eq!(claimer.verdict().lost, 2);
    }

    #[test]
    fn what_nobody_claims_is_a_duplicate() {
        let checker = shown(&[(0, &["a"]), (1, &["a"])]);
        let mut claimer = checker.claimer();
        claimer.claim(0, 1, None, Some(b"a"));
        assert_eq!(total(&checker, &[&claimer]).duplicated, 1);
    }

    #[test]
    fn two_futures_with_one_place_are_a_duplicate() {
        let checker = shown(&[(0, &["a", "a"])]);
        let (mut one, mut two) = (checker.claimer(), checker.claimer());
        one.claim(0, 0, None, Some(b"a"));
        two.claim(0, 0, None, Some(b"a"));
        let verdict = total(&checker, &[&one, &two]);
        // The second claim, and the record that nobody claimed.
        assert_eq!((verdict.found, verdict.duplicated), (1, 2));
    }

    #[test]
    fn claims_that_fall_are_out_of_order() {
        let checker = shown(&[(0, &["a", "b"])]);
        let mut claimer = checker.claimer();
        claimer.claim(0, 1, None, Some(b"b"));
        claimer.claim(0, 0, None, Some(b"a"));
        let verdict = total(&checker, &[&claimer]);
        assert_eq!((verdict.found, verdict.reordered, verdict.lost), (2, 1, 0));
    }

    #[test]
    fn offsets_that_skip_or_overlap_and_places_outside_are_found() {
        let checker = shown(&[(0, &["a"]), (3, &["b"]), (3, &["b"])]);
        let mut claimer = checker.claimer();
        claimer.claim(0, 9, None, Some(b"a"));
        claimer.claim(7, 0, None, Some(b"a"));
        claimer.failed();
        let verdict = total(&checker, &[&claimer]);
        assert_eq!(verdict.lost, 2 + 3);
        assert_eq!(verdict.duplicated, 3 + 1);
    }

    #[test]
    fn digest_follows_every_byte() {
        let digest = |values: &[&str]| {
            let checker = Checker::new(1, true);
            checker.show(0, 0, &batch(0, values));
            checker.digest(0).unwrap()
        };
        assert_eq!(digest(&["a", "b"]), digest(&["a", "b"]));
        assert_ne!(digest(&["a", "b"]), digest(&["a", "c"]));
    }
}
