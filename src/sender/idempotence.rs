//! Idempotence: which id, epoch and sequence a batch goes out with, which may go at all, and what an answer says of the others. Plain data, no I/O.
//!
//! A broker that leads a partition remembers, of each producer id, the epoch and the latest five batches with their sequences. A batch of that epoch is written if it follows the
//! latest, is known as a duplicate if it is among the five, and is OUT_OF_ORDER otherwise; a higher epoch begins at 0. Of an id that it does not know, it takes any sequence.
//!
//! # The window
//! [`Partition::window`] holds the batches of one id and epoch from the oldest that has not ended on, in the order of their sequences, which is that of their drains. Kafka keeps a sorted set of batches in flight
//! and compares sequences; here the place in the window is the order, so that a wrap-around is nothing special (GAP-26).
//!
//! | the batch is | which means | left by |
//! |---|---|---|
//! | `Away` | drained, and with the transport | an answer, or the end of its time |
//! | `Home` | queued again, with its stamp | a drain; the loss of its stamp |
//! | `Ended` | its records are over, and its sequences were written, or may have been | its leaving, when all before it have left |
//!
//! `doubt`: an attempt ended without an answer that says whether it was written. Such a batch keeps its stamp, whatever happens, until an answer tells: only with the same stamp can the broker.
//!
//! # Invariants
//! - **IDEM-A** A batch loses its stamp only if no attempt with it can have been written: it is `Home` and not in doubt. So nothing is written twice.
//! - **IDEM-B** A window has at most [`WINDOW`] batches, ended ones in the midst included, when one more is stamped; until the first batch of an epoch is acknowledged, none. So whatever is sent again is still among the
//!   five that the broker remembers (Kafka counts what is in flight, GAP-33, and can slide past a batch that keeps being lost), and what comes second is not taken in place of the first by a broker that does not know
//!   the producer yet. Parts of a batch that was split stand in the window beyond that number: they go one by one.
//! - **IDEM-C** A batch with a stamp goes only if all before it in the window have ended (IDEM-08). A new one goes only behind batches of the same id and epoch (IDEM-09).
//! - **IDEM-D** A gap - a sequence that was not written and never will be - ends the epoch for its partition: nothing new is stamped, whatever can lose its stamp does, and when the window is empty the
//!   partition begins again at 0 with a higher epoch. Its batches keep their order, since they go back by their ranks.
//! - **IDEM-E** A batch with a stamp whose records are not over is in its partition's window. So an answer speaks of nothing but its own batch, and one for what is not there any more changes nothing (IDEM-16). Asserted at each answer in builds
//!   with debug assertions, which the simulation has.
//!
//! # Where Kafka differs
//! It rewrites the sequences of batches in flight at once, wherever they are; should one of them have been written before, it is written again. Here a batch that is with the transport is
//! the transport's, and comes home first.
//!
//! Source: Kafka's `TransactionManager`, `TxnPartitionMap`, `TxnPartitionEntry`; IDEM-01 to IDEM-17 without transactions.

use std::collections::VecDeque;

use crate::accumulator::DrainGate;
use crate::batch::SealedBatch;
use crate::broker::{ErrorCode, Fate, ProducerIdAndEpoch};
use crate::error::TopicPartition;
use crate::primitive::table::Table;
use crate::record::{ProducerState, decrement_sequence, increment_sequence, sequence_is_after};

/// Batches of a partition whose sequences a broker remembers (IDEM-07).
pub const WINDOW: usize = 5;

/// The producer id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    Needed,
    Asked,
    Known(ProducerIdAndEpoch),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Away,
    Home,
    Ended { in_doubt: bool },
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    batch: u64,
    base: i32,
    records: u32,
    place: Place,
    doubt: bool,
}

impl Entry {
    fn has_ended(&self) -> bool {
        matches!(self.place, Place::Ended { .. })
    }

    fn last(&self) -> i32 {
        increment_sequence(self.base, self.records.saturating_sub(1))
    }
}

/// What is known of one partition (IDEM-03).
#[derive(Debug, Default)]
struct Partition {
    /// Id and epoch of the window; `None`: the next batch begins at 0.
    producer: Option<ProducerIdAndEpoch>,
    next: i32,
    /// The highest sequence that was acknowledged (IDEM-06).
    acked: Option<i32>,
    window: VecDeque<Entry>,
    /// IDEM-D: there is a gap.
    gap: bool,
}

impl Partition {
    fn find(&mut self, batch: u64) -> Option<&mut Entry> {
        self.window.iter_mut().find(|entry| entry.batch == batch)
    }

    /// The first that has not ended.
    fn first(&self) -> Option<&Entry> {
        self.window.iter().find(|entry| !entry.has_ended())
    }

    fn is_unresolved(&self) -> bool {
        self.window.iter().any(|entry| matches!(entry.place, Place::Ended { in_doubt: true }))
    }

    /// A batch of the window is over.
    fn end(&mut self, batch: u64, fate: Fate) {
        let Some(at) = self.window.iter().position(|entry| entry.batch == batch) else { return };
        let entry = &mut self.window[at];
        let in_doubt = fate != Fate::Written && (entry.doubt || fate == Fate::Unknown);
        entry.place = Place::Ended { in_doubt };
        let last = entry.last();
        match fate {
            Fate::Written => {
                if self.acked.is_none_or(|acked| sequence_is_after(last, acked)) {
                    self.acked = Some(last);
                }
                // It follows them, so they were written, what was in doubt included (IDEM-14).
                for before in self.window.iter_mut().take(at).filter(|before| before.has_ended()) {
                    before.place = Place::Ended { in_doubt: false };
                }
            }
            // To a broker that does not know us whatever comes first is the first: so nobody could tell, and what comes behind must not go. That can only be parts of one that was split.
            _ if in_doubt => self.gap |= self.acked.is_none(),
            _ => self.gap = true,
        }
        self.slide();
    }

    /// Lets go of what has ended, as far as that is known.
    fn slide(&mut self) {
        while self.window.front().is_some_and(|front| front.place == Place::Ended { in_doubt: false }) {
            self.window.pop_front();
        }
        if self.first().is_none() {
            // Nobody is left who could tell (IDEM-14).
            self.gap |= self.is_unresolved();
            self.window.clear();
        }
    }
}

/// The state of an idempotent producer. See the module's head.
#[derive(Debug)]
pub struct Idempotence {
    id: Id,
    partitions: Table<TopicPartition, Partition>,
    /// Partitions in which a gap was found, and that have not begun again.
    gaps: Vec<TopicPartition>,
    fatal: Option<ErrorCode>,
}

impl Default for Idempotence {
    fn default() -> Self {
        Self { id: Id::Needed, partitions: Table::default(), gaps: Vec::new(), fatal: None }
    }
}

impl Idempotence {
    /// Id and epoch now, if there are any.
    pub fn producer(&self) -> Option<ProducerIdAndEpoch> {
        match self.id {
            Id::Known(producer) => Some(producer),
            Id::Needed | Id::Asked => None,
        }
    }

    /// What the producer has died of, if it has (IDEM-17).
    pub fn fatal(&self) -> Option<ErrorCode> {
        self.fatal
    }

    /// Whether an id is to be asked for (IDEM-02).
    pub fn needs_id(&self) -> bool {
        self.id == Id::Needed && self.fatal.is_none()
    }

    /// It was asked for.
    pub fn asked(&mut self) {
        self.id = Id::Asked;
    }

    /// It came, or did not. An id that nobody waits for is not taken.
    pub fn received(&mut self, id: Result<ProducerIdAndEpoch, ErrorCode>) {
        if self.id == Id::Asked {
            self.id = id.map_or(Id::Needed, Id::Known);
        }
    }

    /// The producer cannot go on.
    pub fn fail(&mut self, code: ErrorCode) {
        self.fatal.get_or_insert(code);
    }

    /// The sequence that the partition's next new batch would get (IDEM-05).
    pub fn next_sequence(&self, topic_partition: &TopicPartition) -> i32 {
        self.partitions.get(topic_partition).map_or(0, |partition| partition.next)
    }

    /// As if all sequences before `sequence` had been acknowledged: for tests of what comes after two thousand million records (GAP-26). Of a partition with nothing in its window.
    #[doc(hidden)]
    pub fn skip_to(&mut self, topic_partition: &TopicPartition, sequence: i32) {
        if let Some(partition) = self.partitions.get_mut(topic_partition).filter(|one| one.window.is_empty()) {
            (partition.next, partition.acked) = (sequence, Some(decrement_sequence(sequence, 1)));
        }
    }

    /// The highest sequence that was acknowledged in the partition's epoch (IDEM-06).
    pub fn last_acked_sequence(&self, topic_partition: &TopicPartition) -> Option<i32> {
        self.partitions.get(topic_partition).and_then(|partition| partition.acked)
    }

    /// Whether new batches of the partition wait until it is known what became of one that has ended (IDEM-13).
    pub fn is_unresolved(&self, topic_partition: &TopicPartition) -> bool {
        self.partitions.get(topic_partition).is_some_and(Partition::is_unresolved)
    }

    /// Batches of the partition's window that have not ended.
    pub fn unfinished(&self, topic_partition: &TopicPartition) -> usize {
        let partition = self.partitions.get(topic_partition);
        partition.map_or(0, |partition| partition.window.iter().filter(|entry| !entry.has_ended()).count())
    }

    fn of(&mut self, batch: &SealedBatch) -> Option<&mut Partition> {
        self.partitions.get_mut(batch.topic_partition())
    }

    /// A batch that was drained, and not sent after all, since its time was up. If the drain has stamped it, nothing has come behind it.
    pub fn not_sent(&mut self, batch: &SealedBatch) {
        let Some(partition) = self.of(batch) else { return };
        match partition.window.back() {
            Some(last) if last.batch == batch.id() && batch.attempts() == 0 && !last.doubt => {
                partition.next = last.base;
                partition.window.pop_back();
                partition.slide();
            }
            _ => self.ended(batch.topic_partition(), batch.id(), Fate::NotWritten),
        }
    }

    /// Whether the batch is in its partition's window.
    pub fn knows(&self, batch: &SealedBatch) -> bool {
        let partition = self.partitions.get(batch.topic_partition());
        partition.is_some_and(|partition| partition.window.iter().any(|entry| entry.batch == batch.id()))
    }

    /// Whether an earlier attempt of a batch may have been written.
    pub fn is_in_doubt(&mut self, batch: &SealedBatch) -> bool {
        let id = batch.id();
        self.of(batch).and_then(|partition| partition.find(id)).is_some_and(|entry| entry.doubt)
    }

    /// Takes in that a batch is to be sent again, after `code`, which has left it to `fate`. If that shows a gap, it may lose its stamp in its queue (IDEM-10, IDEM-12).
    pub fn requeue(&mut self, batch: &SealedBatch, code: ErrorCode, fate: Fate, log_start_offset: i64) {
        let id = batch.id();
        let Some(partition) = self.of(batch) else { return };
        let is_next = partition.first().is_some_and(|first| first.batch == id);
        let Some(entry) = partition.find(id) else { return };
        entry.place = Place::Home;
        match code {
            // The broker has looked for it, and not found it.
            ErrorCode::OutOfOrderSequenceNumber => entry.doubt = false,
            _ => entry.doubt |= fate == Fate::Unknown,
        }
        partition.gap |= match code {
            // What comes before it was written, or never will be: so something is missing.
            ErrorCode::OutOfOrderSequenceNumber => is_next,
            // The broker has forgotten us. Kafka asks as well whether the batch was reset since it was sent; here a batch that is away is not.
            ErrorCode::UnknownProducerId => log_start_offset >= 0,
            _ => false,
        };
        if partition.gap {
            self.note_gap(batch.topic_partition());
        }
    }

    /// Takes a batch out of the window if it can lose its stamp (IDEM-A). Whether it did.
    pub fn may_lose_stamp(&mut self, batch: &SealedBatch) -> bool {
        let id = batch.id();
        let Some(partition) = self.of(batch).filter(|partition| partition.gap) else { return false };
        let free = |entry: &Entry| entry.batch == id && entry.place == Place::Home && !entry.doubt;
        let Some(at) = partition.window.iter().position(free) else { return false };
        partition.window.remove(at);
        partition.slide();
        true
    }

    /// The records of the batch numbered `id` are over, and this is known of its sequences.
    pub fn ended(&mut self, topic_partition: &TopicPartition, id: u64, fate: Fate) {
        let Some(partition) = self.partitions.get_mut(topic_partition) else { return };
        partition.end(id, fate);
        if partition.gap {
            self.note_gap(topic_partition);
        }
    }

    /// A batch was split: its parts take its sequences, in order (BATCH-24). In a gap they lose them in their queue, as others do.
    pub fn split(&mut self, topic_partition: &TopicPartition, id: u64, parts: &mut [SealedBatch]) {
        let Some(partition) = self.partitions.get_mut(topic_partition) else { return };
        let Some(at) = partition.window.iter().position(|entry| entry.batch == id) else { return };
        let (Some(mut entry), Some(producer)) = (partition.window.remove(at), partition.producer) else { return };
        entry.place = Place::Home;
        for (at, part) in (at..).zip(parts) {
            entry = Entry { batch: part.id(), records: part.record_count(), ..entry };
            stamp(part, producer, entry.base);
            partition.window.insert(at, entry);
            entry.base = increment_sequence(entry.base, entry.records);
        }
    }

    fn note_gap(&mut self, topic_partition: &TopicPartition) {
        if !self.gaps.contains(topic_partition) {
            self.gaps.push(topic_partition.clone());
        }
    }

    /// Partitions in which batches may lose their stamps: the sender goes through their queues (IDEM-12).
    pub fn gaps(&self) -> &[TopicPartition] {
        &self.gaps
    }

    /// Lets partitions begin again whose windows are empty, raising the epoch if they are of this one (IDEM-15). At the last epoch the id is given up.
    pub fn bump(&mut self) {
        let mut gaps = std::mem::take(&mut self.gaps);
        gaps.retain(|topic_partition| {
            let Some(partition) = self.partitions.get_mut(topic_partition) else { return false };
            if !partition.window.is_empty() {
                return true;
            }
            if let Id::Known(producer) = self.id
                && partition.producer == Some(producer)
            {
                self.id = match producer.epoch.checked_add(1) {
                    Some(epoch) => Id::Known(ProducerIdAndEpoch { epoch, ..producer }),
                    None => Id::Needed,
                };
            }
            *partition = Partition::default();
            false
        });
        self.gaps = gaps;
    }
}

fn stamp(batch: &mut SealedBatch, producer: ProducerIdAndEpoch, base_sequence: i32) {
    let ProducerIdAndEpoch { id, epoch } = producer;
    let state = ProducerState { id, epoch, base_sequence, transactional: false };
    batch.set_producer_state(state).expect("what has no stamp is not closed");
}

impl DrainGate for Idempotence {
    /// IDEM-09, without transactions.
    fn admits(&mut self, topic_partition: &TopicPartition, head: Option<&SealedBatch>) -> bool {
        let (Id::Known(producer), None) = (self.id, self.fatal) else { return false };
        let Some(partition) = self.partitions.get(topic_partition) else { return true };
        if let Some(head) = head.filter(|head| head.has_sequence()) {
            // One that the window does not know is of an id that is gone: nothing speaks for it.
            return partition.first().is_some_and(|first| first.batch == head.id());
        }
        let full = match partition.acked {
            Some(_) => partition.window.len() >= WINDOW,
            None => !partition.window.is_empty(),
        };
        let stale = partition.producer != Some(producer) && !partition.window.is_empty();
        !(full || stale || partition.gap || partition.is_unresolved())
    }

    /// Stamps a batch at its first drain (ACC-31, IDEM-04).
    fn drained(&mut self, batch: &mut SealedBatch) {
        let Id::Known(producer) = self.id else { return };
        let partition = self.partitions.entry(batch.topic_partition().clone()).or_default();
        if batch.has_sequence() {
            if let Some(entry) = partition.find(batch.id()) {
                entry.place = Place::Away;
            }
            return;
        }
        if partition.producer != Some(producer) {
            // All that was sent under another id or epoch is over (IDEM-15).
            *partition = Partition { producer: Some(producer), ..Partition::default() };
        }
        let (base, records) = (partition.next, batch.record_count());
        stamp(batch, producer, base);
        partition.next = increment_sequence(base, records);
        let entry = Entry { batch: batch.id(), base, records, place: Place::Away, doubt: false };
        partition.window.push_back(entry);
    }
}
