//! A batch that one thread fills alone.
//!
//! To everybody else it looks like one that is sealed and that somebody still copies into: nobody reserves in it, and nobody takes it by its word. It is its owner's - with plain stores, no exchange - until it
//! is published, or taken from him; when that may be is decided elsewhere (OWNED-B, in the accumulator's `owned`), by an exchange that orders all of the owner's stores before the taker's loads.
//!
//! - **BATCH-F** While a batch is owned, its owner alone writes its word and its maxima, counts futures (BATCH-G), and copies into it. Everybody may read the word, which is a figure then.

use super::super::word::WRITER;
use super::{AtomicBatch, Word};
use crate::batch::{RecordFuture, Reply};
use crate::primitive::atomic::Ordering::Relaxed;
use crate::primitive::{prefetch, step};
use crate::record::{Record, encode_record_sized};

/// What came of [`AtomicBatch::fill`].
#[derive(Debug)]
pub enum Filled {
    /// The record is in.
    In {
        /// Its future, if one was asked for.
        future: Option<RecordFuture>,
        /// Its bytes.
        bytes: usize,
        /// Whether the batch is full with it.
        fills: bool,
    },
    /// There is no room.
    Full,
    /// The batch was ended meanwhile. Its callback is still in the reply, and the record is not in.
    Ended,
}

impl<X> AtomicBatch<X> {
    /// Makes it one that its creator alone fills (BATCH-F). It has a record and is not shared yet. Whether it is full already.
    pub fn own(&mut self) -> bool {
        let word = self.load();
        debug_assert!(word.count() > 0, "begun before it was shared (BATCH-E)");
        self.store(word);
        word.sealed()
    }

    fn store(&self, word: Word) {
        // Relaxed: BATCH-F: only the owner writes it; what hands the batch over releases it.
        self.word.store(word.seal().0 | WRITER, Relaxed);
    }

    /// Appends `record`, whose [`Record::payload_size`] is `payload`, with plain stores.
    ///
    /// # Safety
    /// BATCH-F: the caller owns the batch, and nobody can take it from him during the call.
    #[inline(always)]
    pub unsafe fn fill(&self, record: &Record<'_>, payload: usize, reply: &mut Reply) -> Filled {
        let word = self.load().without_writers();
        let (place, room) = self.measure(word, record.timestamp, payload);
        if !room {
            return Filled::Full;
        }
        step("batch.fill");
        self.witness.write(place.index);
        // SAFETY: BATCH-F: nobody else writes; the place lies within the memory, since only the first record may reach beyond the limit.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().add(place.offset), place.size) };
        prefetch::ahead_of(self.memory.as_ptr(), self.write_limit, place.offset, place.size);
        encode_record_sized(memory, place.body, place.index, place.timestamp_delta, record);
        if let Some(callback) = reply.callback.take()
            && let Err(callback) = self.callbacks.push(place.index, record.timestamp, callback)
        {
            reply.callback = Some(callback);
            return Filled::Ended;
        }
        // Relaxed, both: BATCH-F.
        if self.max_timestamp.load(Relaxed) < record.timestamp {
            // Relaxed: BATCH-F.
            self.max_timestamp.store(record.timestamp, Relaxed);
        }
        // Relaxed: BATCH-F.
        if self.max_payload.load(Relaxed) < payload {
            // Relaxed: BATCH-F.
            self.max_payload.store(payload, Relaxed);
        }
        self.store(Word::new(place.index + 1, place.offset + place.size));
        // SAFETY: BATCH-G: the owner has all of them.
        let own = || unsafe { self.future_in(Some(0), place.index, record.timestamp) };
        let future = if reply.future { Some(own()) } else { None };
        Filled::In { future, bytes: place.size, fills: place.fills }
    }

    /// Notes that a copy into it has panicked: it will be failed as a whole.
    pub fn fail(&self) {
        // Relaxed: what hands the batch over releases it.
        self.failed.store(true, Relaxed);
    }
}
