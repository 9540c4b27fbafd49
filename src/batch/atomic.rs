//! The open batch of the lock-free core: one word that many reserve in, copies side by side, and exactly one who publishes it.
//!
//! Kafka encodes each record under its partition's lock. Here an appender *reserves* a place by one CAS of the [`Word`](super::word::Word), *copies* its record there beside the
//! others, and *commits*: by withdrawing its [announcement](super::announced), or, if it is counted, by taking itself out of the count of writers. *Sealing* sets one bit. Whoever makes the word say "sealed, and nobody is counted" *publishes* the batch: one
//! thread, since after the seal writers only become fewer. Who takes what is published looks for announcements first, and leaves it until they are withdrawn.
//!
//! Source: Kafka's `MemoryRecordsBuilder` for sizes and limits (BATCH-01 to BATCH-10); the protocol is that of log buffers with a count of writers.
//!
//! # State
//! | word | means | left by |
//! |---|---|---|
//! | open, w writers | takes records | CAS of `reserve`: longer, w + 1 unless it is announced, perhaps sealed at once; `fetch_sub` of a counted commit: w - 1; `fetch_or` of `seal` |
//! | sealed, w > 0 | takes none, w counted copies under way | `fetch_sub` of a commit; the last of them publishes |
//! | sealed, 0 | finished but for announced copies, owned by whoever made it so | never |
//!
//! # Invariants
//! - **BATCH-A** A place `[offset, offset + size)` belongs to the one whose CAS reserved it, until its commit. Places do not overlap: each begins where the word before the CAS ended.
//! - **BATCH-B** After SEALED no place is reserved, and the writers only become fewer. So exactly one exchange makes the word "sealed, 0": that thread publishes.
//! - **BATCH-C** Whoever has a place keeps the batch from being taken: from being published, if it is counted, from being taken by whom it is published to otherwise (ANN-B). So it lives until the commit. After its commit nobody touches the batch by
//!   that right, unless it has published, or is about to since its own exchange has finished it.
//! - **BATCH-D** `content` is taken once, by whom the batch was published to, when nobody announces it (ANN-B), or before it was ever shared. All copies, futures, callbacks happened before that.
//! - **BATCH-E** What `begin` wrote - the first record, its timestamp, the limit - is never written again once the batch is shared.
//!
//! # Linearization points
//! A record is in the batch from the CAS that reserved its place; its index is its place in the word's order. The batch takes no more from the exchange that set SEALED.
//!
//! # The races that look dangerous
//! - *A reservation against the seal*: one word. Reserved first: the sealer finds a writer, who publishes, or whoever takes the batch finds it announced. Sealed first: the CAS fails, and the record goes elsewhere.
//! - *Two commits after the seal*: one of them is last in the word's order, finds one writer and publishes; the other finds two.
//! - *Sealed twice*: only who finds SEALED clear and no writer publishes.
//! - *A panic in the copy*: the [`Reservation`] is dropped without its commit. It marks the batch as failed and commits all the same: the batch is failed as a whole.
//!
//! # Orderings
//! A counted commit releases what was copied; the exchange that publishes acquires. All other exchanges of the word lie between them in its order and hand the release on, whatever their own
//! ordering, since they are read-modify-writes: so a counted reservation needs none. An announced one releases the announcement by its exchange, and what was copied by its withdrawal (ANN-B).
//!
//! # Progress
//! `reserve`: lock-free; who loses the exchange backs off for some microseconds, for the throughput of all. `seal`, commit: wait-free. Nobody waits for a copier but the batch itself.

#![cfg_attr(not(any(crossbeam_loom, unlatched_shuttle)), allow(unreachable_pub, reason = "open to the models"))]

mod futures;
mod many;
mod owned;

use std::fmt;
use std::ptr::NonNull;

use futures::Tally;
pub use many::Run;
pub use owned::Filled;

use super::announced::Slot;
use super::callbacks::Callbacks;
use super::word::{MAX_COUNT, MAX_WRITERS, SEALED, WRITER, Word};
use super::{
    Callback, Completer, Contents, FinalState, Grown, OpenBatch, Placed, RecordFuture, Reply, SealedBatch, Watch,
};
use crate::error::{SendError, TopicPartition};
use crate::pool::Lease;
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};
use crate::primitive::back_off::BackOff;
use crate::primitive::cell::UnsafeCell;
use crate::primitive::clock::Instant;
use crate::primitive::witness::Witness;
use crate::primitive::{prefetch, step};
use crate::record::{
    BATCH_OVERHEAD, Codec, MAX_RECORD_OVERHEAD, NO_TIMESTAMP, Record, body_size, encode_record_sized,
    record_size_for_body,
};

/// What is taken out of a batch when it ends.
struct Content {
    lease: Lease,
    /// The bytes, where the first record outgrew the lease (BATCH-07).
    grown: Option<Grown>,
    completer: Completer,
}

/// A batch that many fill at once. `X` is what its owner keeps beside it.
pub struct AtomicBatch<X> {
    word: AtomicU64,
    /// Where the bytes are: in `content`, which is not looked at while records are copied.
    memory: NonNull<u8>,
    write_limit: usize,
    base_timestamp: i64,
    max_timestamp: AtomicI64,
    max_payload: AtomicUsize,
    /// Whether a copy panicked.
    failed: AtomicBool,
    callbacks: Callbacks,
    /// Futures that were made without an exchange.
    tally: Tally,
    content: UnsafeCell<Option<Content>>,
    witness: Witness,
    created: Instant,
    /// The owner's.
    pub extra: X,
}

// SAFETY: the bytes behind `memory` belong to `content`, which is `Send`; BATCH-A and BATCH-D say who accesses them and when.
unsafe impl<X: Send> Send for AtomicBatch<X> {}
// SAFETY: as above; the tally's cells are one thread's each (BATCH-G). Of the completer, which is not `Sync`, only methods of `&self` are called while the batch is shared; they touch its atomics, but for an early end, which is one thread's (COMP-3).
unsafe impl<X: Send + Sync> Sync for AtomicBatch<X> {}

/// Who gets a batch that is finished.
pub trait Publish<X> {
    /// Takes over `batch`, which is sealed and which nobody copies into who was counted. It is the caller's (BATCH-B); before its content is taken, announced copies are looked for.
    fn publish(&self, batch: NonNull<AtomicBatch<X>>);

    /// The calling thread has withdrawn an announcement, and was asked to tell.
    fn withdrawn(&self) {}

    /// A place was dropped without its commit, and with that a batch published, or withdrawn from though somebody has asked to be told: nobody else says so.
    fn abandoned(&self) {}
}

/// A place that a record has in a batch.
#[derive(Debug, Clone, Copy)]
struct Place {
    index: u32,
    offset: usize,
    size: usize,
    body: usize,
    timestamp_delta: i64,
    /// Whether the batch is full with it.
    fills: bool,
}

/// There is no place, and there will be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Whether it was this call that finished the batch: then the caller must publish it.
    pub finished: bool,
}

/// Why an announced reservation has not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no place, and there will be none.
    Full(Full),
    /// Another has changed the word: there may be a place.
    Lost,
}

/// What one exchange came to that has reserved nothing.
enum Failed {
    Full(Full),
    Lost(Word),
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Full(full) => Self::Full(full),
            Failed::Lost(_) => Self::Lost,
        }
    }
}

impl<X> AtomicBatch<X> {
    /// An empty batch in `lease`, not shared yet. `extra` gets a reference to its result.
    pub fn new(
        topic_partition: TopicPartition,
        lease: Lease,
        created: Instant,
        extra: impl FnOnce(Watch) -> X,
    ) -> Self {
        prefetch::first_of(lease.as_ptr().as_ptr(), lease.len());
        let mut completer = Completer::new(topic_partition);
        let extra = extra(completer.watch());
        Self {
            word: AtomicU64::new(Word::new(0, BATCH_OVERHEAD).0),
            memory: lease.as_ptr(),
            write_limit: lease.len().min(i32::MAX as usize),
            base_timestamp: NO_TIMESTAMP,
            max_timestamp: AtomicI64::new(NO_TIMESTAMP),
            max_payload: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            callbacks: Callbacks::new(),
            tally: Tally::new(),
            content: UnsafeCell::new(Some(Content { lease, grown: None, completer })),
            witness: Witness::default(),
            created,
            extra,
        }
    }

    fn load(&self) -> Word {
        // Relaxed: whatever is concluded from it is confirmed by an exchange, or is a figure.
        Word(self.word.load(Relaxed))
    }

    /// Whether it takes no more.
    pub fn is_sealed(&self) -> bool {
        self.load().sealed()
    }

    /// Bytes taken, the header's room included.
    pub fn len(&self) -> usize {
        self.load().length()
    }

    /// Records in it, those being copied included.
    pub fn count(&self) -> u32 {
        self.load().count()
    }

    /// When it was opened.
    pub fn created(&self) -> Instant {
        self.created
    }

    /// The place of a record of `payload` bytes in a batch that has come to `word`, if there is room.
    fn place(&self, word: Word, timestamp: i64, payload: usize) -> Option<Place> {
        let (place, room) = self.measure(word, timestamp, payload);
        room.then_some(place)
    }

    /// The place that a record would have, and whether there is room. Not an option, which would pass through memory.
    #[inline(always)]
    fn measure(&self, word: Word, timestamp: i64, payload: usize) -> (Place, bool) {
        let (index, offset) = (word.count(), word.length());
        let timestamp_delta = if index == 0 { 0 } else { timestamp.wrapping_sub(self.base_timestamp) };
        let body = body_size(index, timestamp_delta, payload);
        let size = record_size_for_body(body);
        let room = index == 0 || offset + size <= self.write_limit && index < MAX_COUNT && word.writers() < MAX_WRITERS;
        let fills = offset + size >= self.write_limit;
        (Place { index, offset, size, body, timestamp_delta, fills }, room)
    }

    /// Puts the first record in, before the batch is shared. It always fits: if it outgrows the lease, the bytes lie outside of the pool (BATCH-02, BATCH-07). A batch that it
    /// fills is sealed, and the caller's to publish.
    pub fn begin(&mut self, record: &Record<'_>, callback: Option<Callback>) -> usize {
        let payload = record.payload_size();
        debug_assert_eq!(self.count(), 0);
        let Some(place) = self.place(self.load(), record.timestamp, payload) else {
            unreachable!("an empty batch takes any record (BATCH-02)")
        };
        let end = place.offset + place.size;
        self.base_timestamp = record.timestamp;
        // SAFETY: BATCH-D: not shared yet.
        let memory = self.content.with_mut(|content| unsafe {
            let content = (*content).as_mut().expect("not taken before it was shared");
            if end > self.write_limit {
                content.grown = Some(Grown { bytes: vec![0; end].into_boxed_slice(), held: None });
            }
            let memory: &mut [u8] = match &mut content.grown {
                Some(grown) => &mut grown.bytes,
                None => &mut content.lease,
            };
            encode_record_sized(&mut memory[place.offset..], place.body, 0, 0, record);
            NonNull::from(memory).cast()
        });
        self.memory = memory;
        self.witness.write(0);
        let word = Word::new(1, end);
        // Relaxed: not shared yet; what shares the batch releases all of this (BATCH-E).
        self.word.store(if place.fills { word.seal() } else { word }.0, Relaxed);
        self.max_timestamp.store(NO_TIMESTAMP.max(record.timestamp), Relaxed);
        self.max_payload.store(payload, Relaxed);
        if let Some(callback) = callback {
            let kept = self.callbacks.push(0, record.timestamp, callback);
            debug_assert!(kept.is_ok(), "not closed before it was shared");
        }
        place.size
    }

    /// A place for `record`, whose payload has `payload` bytes, or [`Full`]: then the batch is sealed. `publish` gets the batch if the place turns out to be the last that is committed.
    ///
    /// Linearization point: the CAS. Lock-free.
    ///
    /// # Errors
    /// [`Full`]: go elsewhere. Publish the batch first if it says so.
    #[inline]
    pub fn reserve<'p, P: Publish<X>>(
        &self,
        record: &Record<'_>,
        payload: usize,
        publish: &'p P,
    ) -> Result<Reservation<'p, X, P>, Full> {
        Ok(self.claim(record, payload)?.hold(publish))
    }

    /// As [`AtomicBatch::reserve`], as plain data.
    ///
    /// # Errors
    /// As that.
    #[inline]
    pub fn claim<'s>(&self, record: &Record<'_>, payload: usize) -> Result<Claim<'s, X>, Full> {
        let mut back_off = BackOff::default();
        let mut word = self.load();
        debug_assert!(word.count() > 0, "begun before it was shared (BATCH-E)");
        loop {
            match self.try_reserve(word, record, payload, None) {
                Ok(claim) => return Ok(claim),
                Err(Failed::Full(full)) => return Err(full),
                Err(Failed::Lost(now)) => word = if back_off.wait() { self.load() } else { now },
            }
        }
    }

    /// [`AtomicBatch::reserve`] by one exchange at most, without being counted: by a thread that has announced this batch in `slot`, and withdraws it if it gets no place; else the place does.
    ///
    /// Linearization point: the CAS. Wait-free.
    ///
    /// # Errors
    /// No place, or another's exchange.
    ///
    /// # Safety
    /// ANN-A: `slot` is the calling thread's, and says this batch.
    #[inline(always)]
    pub unsafe fn reserve_announced<'s>(
        &self,
        record: &Record<'_>,
        payload: usize,
        slot: &'s Slot,
    ) -> Result<Claim<'s, X>, Refusal> {
        Ok(self.try_reserve(self.load(), record, payload, Some(slot))?)
    }

    #[inline(always)]
    fn try_reserve<'s>(
        &self,
        word: Word,
        record: &Record<'_>,
        payload: usize,
        slot: Option<&'s Slot>,
    ) -> Result<Claim<'s, X>, Failed> {
        if word.sealed() {
            return Err(Failed::Full(Full { finished: false }));
        }
        let (place, room) = self.measure(word, record.timestamp, payload);
        if !room {
            return Err(Failed::Full(Full { finished: self.seal() }));
        }
        let finishes = self.exchange(word, word.with(place.size), place.fills, slot)?;
        Ok(Claim { batch: NonNull::from(self), place, payload, slot, finishes })
    }

    /// Puts the word from `word` to `to`, sealed if that `fills` the batch: by the same exchange. The caller's copy is counted, unless he has announced it in `slot`. Whether it is his to publish when he is done.
    #[inline(always)]
    fn exchange(&self, word: Word, to: Word, fills: bool, slot: Option<&Slot>) -> Result<bool, Failed> {
        let to = if slot.is_some() { to } else { to.copied_by_one_more() };
        let to = if fills { to.seal() } else { to };
        step("batch.reserve");
        // Release pairs with the Acquire of whoever has sealed it, or asks whether it is announced: he finds the announcement, or what came later in its slot (ANN-B). Who is counted needs none, see the module's head. Of two reservations, and of a reservation and a seal, the second in the word's order fails and looks again.
        match self.word.compare_exchange_weak(word.0, to.0, Release, Relaxed) {
            Ok(_) => Ok(slot.is_some() && fills && word.writers() == 0),
            Err(now) => Err(Failed::Lost(Word(now))),
        }
    }

    /// Orders what follows behind every reservation so far.
    pub(super) fn acquire(&self) {
        // Acquire pairs with the Release of every reservation: each exchange since hands it on. See `Announcements::is_announced`.
        self.word.load(Acquire);
    }

    /// Ends appending. Whether it was this call that finished the batch: then it is the caller's, to publish or to take. Wait-free.
    pub fn seal(&self) -> bool {
        step("batch.seal");
        // Acquire pairs with the Release of every commit so far: if nobody is counted any more, the batch is ours, with all that those copied. If somebody does, nothing
        // is read: the last of them publishes. It releases nothing of its own.
        let before = Word(self.word.fetch_or(SEALED, Acquire));
        !before.sealed() && before.writers() == 0
    }

    /// A future for the record that `begin` put in, before the batch is shared.
    pub fn first_future(&mut self) -> RecordFuture {
        let timestamp = self.base_timestamp;
        // SAFETY: BATCH-D: not shared yet.
        let content = self.content.with_mut(|content| unsafe { (*content).as_mut() });
        content.expect("not taken before it was shared").completer.future(0, timestamp)
    }

    /// A future for the record `index`, counted in `cell`, or by an exchange if there is none or it is full.
    ///
    /// # Safety
    /// BATCH-G: the caller has that cell.
    #[inline]
    unsafe fn future_in(&self, cell: Option<usize>, index: u32, timestamp: i64) -> RecordFuture {
        // SAFETY: the caller's promise.
        if cell.is_some_and(|cell| unsafe { self.tally.count(cell) }) {
            // SAFETY: BATCH-G: it was counted.
            return self.completer(|completer| unsafe { completer.future_beside(index, timestamp) });
        }
        self.completer(|completer| completer.future_of_many(index, timestamp))
    }

    fn completer<R>(&self, with: impl FnOnce(&Completer) -> R) -> R {
        // SAFETY: BATCH-D: the caller has a place, or the batch is its own, so nobody takes the content meanwhile.
        self.content.with(|content| with(&unsafe { &*content }.as_ref().expect("not taken yet").completer))
    }

    /// Fails or aborts its records although somebody still copies into it, and runs their callbacks. What is in the copying hears of it when it brings its callback, or by its future.
    /// The memory stays with the batch, which is published by the last of the copiers.
    ///
    /// # Safety
    /// The batch is sealed and not finished, and only one thread ends it: whoever it will be published to.
    pub unsafe fn end_early(&self, kind: FinalState, error: SendError) {
        let callbacks = self.callbacks.close();
        // SAFETY: COMP-3 by the caller's promise.
        self.completer(|completer| unsafe { completer.end_early(kind, error, callbacks) });
    }

    /// Takes what it holds; whether a copy into it had panicked, too.
    ///
    /// # Safety
    /// BATCH-D: it was published to the caller, or was never shared.
    pub unsafe fn take(&self, topic_partition: TopicPartition, id: u64) -> (SealedBatch, bool) {
        let word = self.load();
        self.witness.read(word.count());
        // SAFETY: BATCH-D, by the caller's promise.
        let content = self.content.with_mut(|content| unsafe { (*content).take() });
        let Content { lease, grown, mut completer } = content.expect("a batch is taken once (BATCH-D)");
        // SAFETY: BATCH-G: after all copies (BATCH-D).
        completer.issued_beside(unsafe { self.tally.sum() });
        // Whoever gave one has committed since.
        for (index, timestamp, callback) in self.callbacks.take() {
            completer.on_completion(index, timestamp, callback);
        }
        // Relaxed, all three: written before commits, which happened before the batch was taken (BATCH-D).
        let (max_timestamp, max_payload) = (self.max_timestamp.load(Relaxed), self.max_payload.load(Relaxed));
        let failed = self.failed.load(Relaxed);
        let batch = SealedBatch::new(Contents {
            topic_partition,
            lease,
            grown,
            len: word.length(),
            codec: Codec::None,
            uncompressed: word.length(),
            record_count: word.count(),
            base_timestamp: self.base_timestamp,
            max_timestamp,
            // As a batch with that record alone (FMT-26).
            max_record_size: if word.count() == 0 { 0 } else { BATCH_OVERHEAD + MAX_RECORD_OVERHEAD + max_payload },
            created: self.created,
            id,
            completion: completer.close(),
        });
        (batch, failed)
    }

    /// Takes back the callback that `begin` was given, of a batch that nobody else has appended to.
    pub fn withdraw_callback(&self) -> Option<Callback> {
        self.callbacks.close().pop().map(|(.., callback)| callback)
    }
}

impl<X> Drop for AtomicBatch<X> {
    fn drop(&mut self) {
        // SAFETY: BATCH-D: nobody else is left.
        let content = self.content.with_mut(|content| unsafe { (*content).take() });
        // It was never taken.
        if let Some(mut content) = content {
            // SAFETY: BATCH-G: as above.
            content.completer.issued_beside(unsafe { self.tally.sum() });
        }
    }
}

impl<X> fmt::Debug for AtomicBatch<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtomicBatch")
            .field("word", &self.load())
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

/// A place that was reserved, as plain data: whoever has it owes it a [`Claim::hold`], with nothing in between that could panic.
///
/// It is handed on where a [`Reservation`] would be, since a move of what was written a moment ago in smaller pieces stalls for as long as half an append.
#[must_use]
pub struct Claim<'s, X> {
    /// Alive until our commit (BATCH-C).
    batch: NonNull<AtomicBatch<X>>,
    place: Place,
    payload: usize,
    /// Where the copy is announced, if it is not counted.
    slot: Option<&'s Slot>,
    /// Whether an announced one has sealed the batch, and nobody is counted: it is ours to publish.
    finishes: bool,
}

impl<'s, X> Claim<'s, X> {
    /// The place, to be written. `publish` gets the batch if it turns out to be the last that is committed.
    #[inline(always)]
    pub fn hold<P: Publish<X>>(self, publish: &'s P) -> Reservation<'s, X, P> {
        Reservation { claim: self, publish, written: false }
    }
}

/// A place in an open batch, to be written and committed. Dropping it commits too; without a [`Reservation::write`] that came to its end, the batch is then failed as a whole.
///
/// It holds no pin and no lock: a thread that stops here delays this batch, and what must follow it, alone (L7).
pub struct Reservation<'p, X, P: Publish<X>> {
    claim: Claim<'p, X>,
    publish: &'p P,
    written: bool,
}

impl<'p, X, P: Publish<X>> Reservation<'p, X, P> {
    fn batch(&self) -> &AtomicBatch<X> {
        // SAFETY: BATCH-C: we have not committed.
        unsafe { self.claim.batch.as_ref() }
    }

    /// Bytes of the record.
    pub fn bytes(&self) -> usize {
        self.claim.place.size
    }

    /// Whether the batch is full with it.
    pub fn fills(&self) -> bool {
        self.claim.place.fills
    }

    /// The place as plain data again.
    pub fn claim(self) -> Claim<'p, X> {
        let this = std::mem::ManuallyDrop::new(self);
        let &Claim { batch, place, payload, slot, finishes } = &this.claim;
        Claim { batch, place, payload, slot, finishes }
    }

    /// Copies `record`, which must be the one that the place was reserved for.
    #[inline]
    pub fn write(&mut self, record: &Record<'_>) {
        let Place { index, offset, size, body, timestamp_delta, .. } = self.claim.place;
        step("batch.copy");
        self.batch().witness.write(index);
        // SAFETY: BATCH-A: these bytes are ours, and lie within the memory: only the first record may reach beyond the limit.
        let place = unsafe { std::slice::from_raw_parts_mut(self.batch().memory.as_ptr().add(offset), size) };
        let batch = self.batch();
        prefetch::ahead_of(batch.memory.as_ptr(), batch.write_limit, offset, size);
        encode_record_sized(place, body, index, timestamp_delta, record);
        // Relaxed: our commit releases it. A maximum that another has raised meanwhile stays.
        if batch.max_timestamp.load(Relaxed) < record.timestamp {
            // Relaxed: as above.
            batch.max_timestamp.fetch_max(record.timestamp, Relaxed);
        }
        let payload = self.claim.payload;
        // Relaxed: as above.
        if batch.max_payload.load(Relaxed) < payload {
            // Relaxed: as above.
            batch.max_payload.fetch_max(payload, Relaxed);
        }
        self.written = true;
    }

    /// Has `callback` called with the record's result.
    ///
    /// # Errors
    /// `callback`, if the batch was ended meanwhile: then the record is not accepted, and can go elsewhere.
    pub fn on_completion(&self, timestamp: i64, callback: Callback) -> Result<(), Callback> {
        self.batch().callbacks.push(self.claim.place.index, timestamp, callback)
    }

    /// A future of the record, whose own time is `timestamp`.
    pub fn future(&self, timestamp: i64) -> RecordFuture {
        let cell = self.claim.slot.map(Slot::number);
        // SAFETY: BATCH-G: who has announced the batch and has a place in it has the cell of his slot. Neither leaves his thread.
        unsafe { self.batch().future_in(cell, self.claim.place.index, timestamp) }
    }

    /// Ends the copying. Whether this published the batch, or somebody has asked to be told of it. Wait-free, but for what publishing costs.
    #[inline]
    pub fn commit(self) -> bool {
        let mut this = std::mem::ManuallyDrop::new(self);
        this.leave()
    }

    #[inline(always)]
    fn leave(&mut self) -> bool {
        if !self.written {
            // Relaxed: the commit below releases it.
            self.batch().failed.store(true, Relaxed);
        }
        step("batch.commit");
        let &Claim { batch, slot, finishes, .. } = &self.claim;
        if let Some(slot) = slot {
            let told = slot.withdraw();
            if finishes {
                // Sealed by us with nobody counted, so ours (BATCH-B). Other announced ones are looked for by whoever takes it.
                self.publish.publish(batch);
            }
            if told {
                self.publish.withdrawn();
            }
            return finishes || told;
        }
        // Release pairs with the Acquire of whoever finishes the batch: what we copied is seen by whom it is published to. Acquire: if that is us, we have what all
        // the others copied. Nobody touches the batch after this, unless it is the last (BATCH-C).
        let before = Word(self.batch().word.fetch_sub(WRITER, AcqRel));
        let last = before.sealed() && before.writers() == 1;
        if last {
            self.publish.publish(batch);
        }
        last
    }
}

impl<X, P: Publish<X>> Drop for Reservation<'_, X, P> {
    #[cold]
    fn drop(&mut self) {
        if self.leave() {
            self.publish.abandoned();
        }
    }
}

impl<X> fmt::Debug for Claim<'_, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("place", &self.place).finish_non_exhaustive()
    }
}

impl<X, P: Publish<X>> fmt::Debug for Reservation<'_, X, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("place", &self.claim.place).finish_non_exhaustive()
    }
}

/// An [`AtomicBatch`] in one pair of hands: what the traits' tests and the benches drive.
#[derive(Debug)]
pub struct OwnedBatch(AtomicBatch<(TopicPartition, u64, Watch)>);

impl Drop for OwnedBatch {
    /// An open batch that is dropped aborts its records, callbacks included (L5).
    fn drop(&mut self) {
        // SAFETY: BATCH-D: never shared.
        if self.0.content.with(|content| unsafe { (*content).is_some() }) {
            let (topic_partition, id, _) = self.0.extra.clone();
            // SAFETY: as above.
            drop(unsafe { self.0.take(topic_partition, id) });
        }
    }
}

/// Its owner has it at hand anyway.
struct Nobody;

impl<X> Publish<X> for Nobody {
    fn publish(&self, _: NonNull<AtomicBatch<X>>) {}
}

impl OpenBatch for OwnedBatch {
    fn open(topic_partition: TopicPartition, id: u64, lease: Lease, created: Instant) -> Self {
        let extra = |watch| (topic_partition.clone(), id, watch);
        Self(AtomicBatch::new(topic_partition.clone(), lease, created, extra))
    }

    fn try_append(&mut self, record: &Record<'_>, mut reply: Reply) -> Result<Placed, Reply> {
        if self.0.count() == 0 {
            let bytes = self.0.begin(record, reply.callback.take());
            return Ok(Placed { future: reply.future.then(|| self.0.first_future()), bytes });
        }
        if !self.has_room_for(record) {
            return Err(reply);
        }
        let Ok(mut place) = self.0.reserve(record, record.payload_size(), &Nobody) else { return Err(reply) };
        place.write(record);
        if let Some(callback) = reply.callback.take() {
            let kept = place.on_completion(record.timestamp, callback);
            debug_assert!(kept.is_ok(), "nobody else ends it");
        }
        let placed = Placed { future: reply.future.then(|| place.future(record.timestamp)), bytes: place.bytes() };
        place.commit();
        Ok(placed)
    }

    fn has_room_for(&self, record: &Record<'_>) -> bool {
        let word = self.0.load();
        !word.sealed() && self.0.place(word, record.timestamp, record.payload_size()).is_some()
    }

    fn is_full(&self) -> bool {
        self.0.count() > 0 && self.0.write_limit <= self.0.len()
    }

    fn estimated_size(&self) -> usize {
        self.0.len()
    }

    fn record_count(&self) -> u32 {
        self.0.count()
    }

    fn created(&self) -> Instant {
        self.0.created()
    }

    fn watch(&mut self) -> Watch {
        self.0.extra.2.clone()
    }

    fn seal(self) -> SealedBatch {
        let (topic_partition, id, _) = self.0.extra.clone();
        // SAFETY: BATCH-D: it was never shared.
        unsafe { self.0.take(topic_partition, id) }.0
    }
}
