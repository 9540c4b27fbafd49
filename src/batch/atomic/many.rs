//! Several records by one reservation: those of a run that fit lie side by side, and are copied and committed as one.
//!
//! The word counts a run as so many records and, unless it is announced, *one* writer: everything that [`super`] says of a place holds for a run of them. Where the CAS fails the run is measured anew, since the records' sizes depend on their indices.

use std::ptr::NonNull;

use super::{AtomicBatch, Claim, Failed, Full, Place, Publish, Refusal, Reservation, Word};
use crate::batch::RecordFuture;
use crate::batch::announced::Slot;
use crate::primitive::back_off::BackOff;
use crate::record::Record;

/// Places for the first records of a run. Like a [`Reservation`]: dropped without a [`Run::write`] that came to its end, it fails the batch.
#[derive(Debug)]
pub struct Run<'p, X, P: Publish<X>> {
    /// That of the first record, then of each that is written.
    place: Reservation<'p, X, P>,
    records: u32,
    bytes: usize,
    fills: bool,
}

impl<X> AtomicBatch<X> {
    /// The first place, and the word with as many of `records` as there is room for; `None` for none.
    fn run(&self, word: Word, records: &[Record<'_>]) -> Option<(Place, Word, bool)> {
        let mut first = None;
        let mut to = word;
        for record in records {
            let Some(place) = self.place(to, record.timestamp, record.payload_size()) else { break };
            to = to.with(place.size);
            first.get_or_insert(place);
            if place.fills {
                return Some((first?, to, true));
            }
        }
        Some((first?, to, false))
    }

    /// Places for the first of `records`, as many as there is room for, or [`Full`]: then the batch is sealed. There is at least one record.
    ///
    /// Linearization point: the CAS. Lock-free.
    ///
    /// # Errors
    /// As [`AtomicBatch::reserve`].
    pub fn reserve_run<'p, P: Publish<X>>(
        &self,
        records: &[Record<'_>],
        publish: &'p P,
    ) -> Result<Run<'p, X, P>, Full> {
        debug_assert!(!records.is_empty());
        let mut back_off = BackOff::default();
        let mut word = self.load();
        loop {
            match self.try_reserve_run(word, records, None, publish) {
                Ok(run) => return Ok(run),
                Err(Failed::Full(full)) => return Err(full),
                Err(Failed::Lost(now)) => word = if back_off.wait() { self.load() } else { now },
            }
        }
    }

    /// [`AtomicBatch::reserve_run`] as [`AtomicBatch::reserve_announced`] is.
    ///
    /// # Errors
    /// As that.
    ///
    /// # Safety
    /// As that.
    pub unsafe fn reserve_run_announced<'p, P: Publish<X>>(
        &self,
        records: &[Record<'_>],
        slot: &'p Slot,
        publish: &'p P,
    ) -> Result<Run<'p, X, P>, Refusal> {
        Ok(self.try_reserve_run(self.load(), records, Some(slot), publish)?)
    }

    fn try_reserve_run<'p, P: Publish<X>>(
        &self,
        word: Word,
        records: &[Record<'_>],
        slot: Option<&'p Slot>,
        publish: &'p P,
    ) -> Result<Run<'p, X, P>, Failed> {
        if word.sealed() {
            return Err(Failed::Full(Full { finished: false }));
        }
        let Some((place, with, fills)) = self.run(word, records) else {
            return Err(Failed::Full(Full { finished: self.seal() }));
        };
        let finishes = self.exchange(word, with, fills, slot)?;
        let claim = Claim { batch: NonNull::from(self), place, payload: 0, slot, finishes };
        Ok(Run {
            place: claim.hold(publish),
            records: with.count() - word.count(),
            bytes: with.length() - word.length(),
            fills,
        })
    }
}

impl<X, P: Publish<X>> Run<'_, X, P> {
    /// Records that have a place.
    pub fn records(&self) -> usize {
        self.records as usize
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the batch is full with them.
    pub fn fills(&self) -> bool {
        self.fills
    }

    /// Copies `records`, which must be those that have a place, and adds their futures to `futures`, if they are wanted.
    pub fn write(&mut self, records: &[Record<'_>], mut futures: Option<&mut Vec<RecordFuture>>) {
        debug_assert_eq!(records.len(), self.records());
        let first = self.place.claim.place;
        let mut word = Word::new(first.index, first.offset);
        for record in records {
            let payload = record.payload_size();
            // As it was measured: that depends on the index, the offset and the record alone.
            let Some(place) = self.place.batch().place(word, record.timestamp, payload) else {
                unreachable!("a place was reserved for it")
            };
            word = word.with(place.size);
            (self.place.claim.place, self.place.claim.payload, self.place.written) = (place, payload, false);
            self.place.write(record);
            if let Some(futures) = &mut futures {
                futures.push(self.place.future(record.timestamp));
            }
        }
    }

    /// As [`Reservation::commit`].
    pub fn commit(self) -> bool {
        self.place.commit()
    }
}
