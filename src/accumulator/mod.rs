//! The accumulator: open batches by partition on one side, batches ready to be sent on the other.
//!
//! Two faces. Any number of *appenders* call [`Accumulator::append`] through a shared reference. One *sender* owns the [`SenderView`] and is the only
//! one to look which partitions are ready, to drain them, to put batches back, to expire and to abort them: `&mut` shows that no sharing is possible
//! there.
//!
//! Source: Kafka's `RecordAccumulator`; ACC-01 to ACC-48.

mod appender;
mod backlog;
mod backoff;
mod books;
mod gate;
mod in_progress;
mod lane;
mod lockfree;
mod opener;
mod owned;
mod ready;
mod view;

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

pub use appender::LockFreeAppender;
pub(crate) use backlog::Backlog;
pub use backoff::Backoff;
pub use gate::{DrainGate, NoGate};
pub use lane::{Lane, LaneHandle};
pub use lockfree::LockFreeAccumulator;
pub use view::LockFreeView;

use crate::batch::{OffPoolSnapshot, RecordFuture, Reply, SealedBatch, Watch, Whole};
use crate::broker::{Cluster, NodeId};
use crate::error::{AppendError, FlushError, IllegalState, SendError, TopicPartition};
use crate::pool::PoolSnapshot;
use crate::primitive::clock::{Clock, Instant, SharedClock};
use crate::primitive::parker::Parker;
use crate::record::codec::Compression;
use crate::record::{Record, validate_record};

/// What an accumulator needs to know. Names and defaults are Kafka's (CFG-01 to CFG-09, CFG-15, CFG-16).
#[derive(Debug, Clone)]
pub struct AccumulatorConfig {
    /// `buffer.memory`: bytes of the pool.
    pub buffer_memory: u64,
    /// `batch.size`: bytes of a batch, and of a pooled buffer. 0 acts as 1: a batch then has what the bound of its first record leaves room for,
    /// so nearly every record gets one of its own.
    pub batch_size: usize,
    /// `compression.type` and `compression.<type>.level` (CFG-15, CFG-16).
    pub compression: Compression,
    /// `linger.ms`: how long a batch waits for company.
    pub linger: Duration,
    /// `retry.backoff.ms` and `retry.backoff.max.ms`.
    pub backoff: Backoff,
    /// `delivery.timeout.ms`: from a batch's creation to its result.
    pub delivery_timeout: Duration,
    /// Seed of the backoff's jitter, so that a run can be replayed.
    pub seed: u64,
}

impl Default for AccumulatorConfig {
    fn default() -> Self {
        Self {
            buffer_memory: 32 << 20,
            batch_size: 16 << 10,
            compression: Compression::NONE,
            linger: Duration::from_millis(5),
            backoff: Backoff::default(),
            delivery_timeout: Duration::from_secs(120),
            seed: 0x756e_6c61_7463_6865,
        }
    }
}

/// An accepted record (ACC-06).
#[derive(Debug)]
#[must_use = "whoever appends must wake the sender if `batch_is_full` or `new_batch`"]
pub struct Appended {
    /// Its future, if one was asked for.
    pub future: Option<RecordFuture>,
    /// Whether its partition has a batch that can go without waiting for linger.
    pub batch_is_full: bool,
    /// Whether it opened a batch.
    pub new_batch: bool,
    /// Bytes that it added: the whole batch's for a new one, its own otherwise.
    pub bytes: usize,
}

impl Appended {
    /// Whether the sender has something to learn (ACC-06).
    #[inline]
    pub fn must_wake_sender(&self) -> bool {
        self.batch_is_full || self.new_batch
    }
}

/// What came of [`Accumulator::append_many`].
#[derive(Debug, Default)]
#[must_use = "not all may be accepted; and whoever appends must wake the sender if `batch_is_full` or `new_batch`"]
pub struct AppendedMany {
    /// How many records were accepted: the first so many of those given.
    pub accepted: usize,
    /// Their futures, in their order, if they were asked for.
    pub futures: Vec<RecordFuture>,
    /// Why the next record was not accepted; of those behind it none was tried. `None` if all were accepted.
    pub refused: Option<AppendError>,
    /// As [`Appended::batch_is_full`], after any of them.
    pub batch_is_full: bool,
    /// Whether any of them opened a batch.
    pub new_batch: bool,
    /// Bytes that they added, as in [`Appended::bytes`].
    pub bytes: usize,
}

impl AppendedMany {
    /// As [`Appended::must_wake_sender`]. May be so although nothing was accepted: a batch without room for the first record was closed.
    #[inline]
    pub fn must_wake_sender(&self) -> bool {
        self.batch_is_full || self.new_batch
    }

    /// Has `more` append the first ones of what is left, at least one of them, until all are accepted or one is not.
    pub(crate) fn of<'r>(
        records: &[Record<'r>],
        mut more: impl FnMut(&[Record<'r>], &mut Self) -> Result<(), AppendError>,
    ) -> Self {
        let valid = records.iter().take_while(|record| validate_record(record).is_ok()).count();
        let mut done = Self::default();
        while done.accepted < valid {
            if let Err(error) = more(&records[done.accepted..valid], &mut done) {
                done.refused = Some(error);
                return done;
            }
        }
        done.refused = records.get(valid).and_then(|record| validate_record(record).err()).map(AppendError::from);
        done
    }

    /// Counts a record more.
    pub(crate) fn add(&mut self, appended: Appended) {
        self.accepted += 1;
        self.futures.extend(appended.future);
        self.batch_is_full |= appended.batch_is_full;
        self.new_batch |= appended.new_batch;
        self.bytes += appended.bytes;
    }
}

/// What [`SenderView::ready`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadyCheck {
    /// Nodes with something to send, each once, in the order found.
    pub nodes: Vec<NodeId>,
    /// When to look again if nothing happens before; `None` for never (ACC-22).
    pub next_check: Option<Duration>,
    /// Topics with data whose leader is not known (ACC-19).
    pub unknown_leader_topics: Vec<Arc<str>>,
}

/// Batches for one node.
#[derive(Debug)]
pub struct Drained {
    /// Where they go.
    pub node: NodeId,
    /// At most one per partition (ACC-25); may be empty (ACC-32).
    pub batches: Vec<SealedBatch>,
}

/// The appenders' face.
///
/// **Dropping without a close.** The accumulator is shared between its owners and the sender's view, so that its owners can let go of it at any time: what was accepted is drained as ever, and appenders go on. Who drops the
/// *view* closes it: nobody would drain any more, so every unfinished record is aborted, its callback called, its memory returned ([`SenderView`]). An [`Appender`] that is dropped hands over what it has open. Handles of partitions may be kept
/// for longer than all of them; they hold no batch and no memory of the pool.
pub trait Accumulator: fmt::Debug + Send + Sync + Sized + 'static {
    /// How result tables call the core.
    const NAME: &'static str;

    /// A partition, looked up once. Cheap to clone, valid while the accumulator lives.
    type Partition: Clone + Send + Sync;

    /// An owner of lanes.
    type Appender: Appender<Partition = Self::Partition>;

    /// The sender's face.
    type View: SenderView;

    /// An accumulator and its only sender's view.
    fn new(config: AccumulatorConfig, clock: SharedClock) -> (Arc<Self>, Self::View);

    /// The handle of a partition, which is created on first use.
    fn partition(&self, topic_partition: &TopicPartition) -> Self::Partition;

    /// Appends `record`, waiting at most `max_block` for memory; inside a callback, or the waker of a record's future, not at all (GAP-20). Key and value are not copied before their place is there (ACC-03).
    ///
    /// The record's timestamp is the caller's; the clock is read once per batch (ACC-05).
    ///
    /// Linearization point: the record is accepted where its encoding ends under the partition's lock (the twin) or its reservation succeeds.
    /// Order: if an append to a partition has returned before another begins, its record stands first in the log (L6, ACC-47).
    ///
    /// # Errors
    /// [`AppendError`]; no trace of the record is left, and its callback is not called.
    ///
    /// # Panics
    /// If `partition` is the handle of another accumulator: its record would go there, and be counted here.
    fn append(
        &self,
        partition: &Self::Partition,
        record: &Record<'_>,
        reply: Reply,
        max_block: Duration,
    ) -> Result<Appended, AppendError>;

    /// Appends `records` to one partition, in their order, as if each were given to [`Accumulator::append`] after the one before it, until all are accepted or one is not. Batches are the same as then; what is saved is
    /// done once for all of them that fit one batch: its look-up, a reservation, a commit (the twin: one section of its lock). They stand side by side in that batch; over several batches others' records may stand between.
    ///
    /// `futures` asks for a future of each; a record that is to have a callback is appended by itself. Each batch that has to be opened waits at most `max_block` for memory.
    ///
    /// **What is not accepted** is told, not lost: [`AppendedMany::accepted`] says how many were, [`AppendedMany::refused`] why the next one was not; that one and those behind it left no trace, and can be given again.
    ///
    /// Linearization point: of each record as in [`Accumulator::append`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use unlatched::accumulator::{Accumulator, AccumulatorConfig, LockFreeAccumulator};
    /// use unlatched::error::TopicPartition;
    /// use unlatched::primitive::clock::SystemClock;
    /// use unlatched::record::Record;
    ///
    /// let (accumulator, _view) = LockFreeAccumulator::new(AccumulatorConfig::default(), SystemClock::shared());
    /// let partition = accumulator.partition(&TopicPartition::new("flights", 0));
    /// let records = [&b"EWR to IAH"[..], b"LGA to IAH", b"JFK to MIA"]
    ///     .map(|value| Record { timestamp: 0, value: Some(value), ..Record::default() });
    /// let appended = accumulator.append_many(&partition, &records, true, Duration::from_secs(1));
    /// assert_eq!((appended.accepted, appended.futures.len()), (3, 3));
    /// if let Some(error) = appended.refused {
    ///     eprintln!("{error}; to be given again: {:?}", &records[appended.accepted..]);
    /// }
    /// ```
    ///
    /// # Panics
    /// If `partition` is the handle of another accumulator.
    fn append_many(
        &self,
        partition: &Self::Partition,
        records: &[Record<'_>],
        futures: bool,
        max_block: Duration,
    ) -> AppendedMany;

    /// An appender, which fills batches of its own where it has enough to put into them.
    fn appender(self: &Arc<Self>) -> Self::Appender;

    /// Makes everything sendable at once, until [`Accumulator::await_flush`] (ACC-41). Flushes may overlap. The caller wakes the sender.
    fn begin_flush(&self);

    /// Whether a flush is in progress.
    fn flush_in_progress(&self) -> bool;

    /// Waits until every batch that is unfinished now has completed; ends the flush, whatever happens (ACC-41).
    ///
    /// # Errors
    /// [`FlushError::TimedOut`]; [`FlushError::InCallback`] at once inside a callback.
    fn await_flush(&self, timeout: Option<Duration>) -> Result<(), FlushError>;

    /// Refuses further appends and closes the pool; what is queued becomes sendable (ACC-45). Idempotent. When this has returned, no record can
    /// be accepted that a look of the sender begun afterwards does not see (ACC-48).
    fn close(&self);

    /// Whether it is closed.
    fn is_closed(&self) -> bool;

    /// Whether some partition has a batch that was not drained (ACC-46).
    fn has_undrained(&self) -> bool;

    /// Whether some batch has not been finished, in flight included (ACC-46).
    fn has_incomplete(&self) -> bool;

    /// The pool's figures.
    fn pool(&self) -> PoolSnapshot;

    /// Memory that its batches take outside of the pool: with a codec, its contexts, scratch, and what has outgrown its lease (BATCH-07). Without one, none.
    fn off_pool(&self) -> OffPoolSnapshot;

    /// Has `waker` woken when the sender is to look and no answer of an append can say so: one begins to wait for memory, so that part-filled batches go at once (ACC-21); or one ends in an error,
    /// or is not over yet, and has finished a batch or left one that the sender waits for. The first one given counts. Whoever wraps an accumulator hands it on: a sender that sleeps for as long as
    /// nothing wakes it would not hear of such a batch.
    ///
    /// Kafka's sender learns of short memory at its next pass; so does the twin's, which has nothing else to tell and ignores this.
    fn wake_sender_by(&self, waker: Waker);
}

/// An owner of lanes: appends like [`Accumulator::append`], from one place at a time, and faster.
///
/// Where it fills batches it gets a lane of its own, into which nobody else appends; elsewhere, and always with little traffic, its records go to the partition's shared lane. It can be given from thread to thread, so
/// a task can take it along, and costs nothing while it is not used.
///
/// **Order is kept within an appender, and only there**: what one appender has appended to a partition stands in the log in the order of its calls (L6). Between two appenders, or an appender and
/// [`Accumulator::append`], nothing is promised, whoever came first.
///
/// Dropping it loses nothing: its open batches go like full ones, without waiting for linger. It may outlive the sender: its records are refused then.
///
/// ```
/// use std::time::Duration;
/// use unlatched::accumulator::{Accumulator, AccumulatorConfig, Appender, LockFreeAccumulator};
/// use unlatched::batch::Reply;
/// use unlatched::error::TopicPartition;
/// use unlatched::primitive::clock::SystemClock;
/// use unlatched::record::Record;
///
/// let (accumulator, _view) = LockFreeAccumulator::new(AccumulatorConfig::default(), SystemClock::shared());
/// let partition = accumulator.partition(&TopicPartition::new("flights", 0));
/// let mut appender = accumulator.appender();
/// let record = Record { timestamp: 0, value: Some(b"EWR to IAH"), ..Record::default() };
/// let appended = appender.append(&partition, &record, Reply::FUTURE, Duration::from_secs(1))?;
/// assert!(appended.new_batch);
/// # Ok::<(), unlatched::error::AppendError>(())
/// ```
pub trait Appender: fmt::Debug + Send + 'static {
    /// As the accumulator's.
    type Partition;

    /// Partitions for which it has a lane of its own now, as far as it knows.
    fn lanes(&self) -> usize;

    /// As [`Accumulator::append`]. Linearization point: as there, or where the owner takes back the announcement of its work.
    ///
    /// # Errors
    /// [`AppendError`]; no trace of the record is left, and its callback is not called.
    ///
    /// # Panics
    /// If `partition` is the handle of another accumulator.
    fn append(
        &mut self,
        partition: &Self::Partition,
        record: &Record<'_>,
        reply: Reply,
        max_block: Duration,
    ) -> Result<Appended, AppendError>;

    /// As [`Accumulator::append_many`], with this appender's order. In a lane of its own the owner announces its work once for all that fit the batch.
    ///
    /// # Panics
    /// If `partition` is the handle of another accumulator.
    fn append_many(
        &mut self,
        partition: &Self::Partition,
        records: &[Record<'_>],
        futures: bool,
        max_block: Duration,
    ) -> AppendedMany;
}

/// The sender's face: one owner.
///
/// Dropping it ends the accumulator: nobody will ever drain again, so it is closed and every unfinished batch is aborted (GAP-21).
pub trait SenderView: fmt::Debug + Send + 'static {
    /// Whether batches expire in the order of their deadlines, wherever they are (GAP-28), or the queued ones before those in flight, as Kafka does.
    const BY_DEADLINE: bool = false;

    /// Which nodes can be sent to now (ACC-18 to ACC-23), by partitions whose head `gate` admits.
    fn ready_through(&mut self, cluster: &Cluster, now: Instant, gate: &mut dyn DrainGate) -> ReadyCheck;

    /// [`SenderView::ready_through`] no gate.
    fn ready(&mut self, cluster: &Cluster, now: Instant) -> ReadyCheck {
        self.ready_through(cluster, now, &mut NoGate)
    }

    /// Takes batches for `nodes`: per node at most `max_size` bytes but at least one batch, per partition at most one batch, closed and
    /// checksummed (ACC-25 to ACC-32). Where the core compresses what is sealed, it does so here, and `max_size` bounds compressed bytes.
    ///
    /// `gate` is asked for each partition's head. One that it refuses is skipped (GAP-22); in the twin it ends its node's turn, as in Kafka (ACC-29).
    fn drain_through(
        &mut self,
        cluster: &Cluster,
        nodes: &[NodeId],
        max_size: usize,
        now: Instant,
        gate: &mut dyn DrainGate,
    ) -> Vec<Drained>;

    /// [`SenderView::drain_through`] no gate.
    fn drain(&mut self, cluster: &Cluster, nodes: &[NodeId], max_size: usize, now: Instant) -> Vec<Drained> {
        self.drain_through(cluster, nodes, max_size, now, &mut NoGate)
    }

    /// Puts a batch back for another attempt (BATCH-20): at the head of its partition (ACC-34) or, if it is [ordered](SealedBatch::is_ordered), by its rank (ACC-35).
    fn reenqueue(&mut self, batch: SealedBatch, now: Instant);

    /// Takes the stamp from those queued batches of a partition for which `reset` says so, and puts them where their rank is then (IDEM-12).
    fn reset_producer_state(&mut self, topic_partition: &TopicPartition, reset: &mut dyn FnMut(&SealedBatch) -> bool);

    /// Splits a closed batch that was too large (BATCH-23, ACC-36). Its memory goes back; its records complete when all of its parts have ended. The parts are the caller's to
    /// [`SenderView::enqueue`].
    ///
    /// # Errors
    /// The batch, if there is nothing to split (BATCH-25).
    fn split(&mut self, batch: SealedBatch) -> Result<Vec<SealedBatch>, Box<SealedBatch>>;

    /// Queues a part of a batch that was split, by its rank. Not an attempt: nothing is waited for.
    fn enqueue(&mut self, part: SealedBatch);

    /// Takes the batches whose delivery timeout has passed, for the caller to fail (ACC-38). Muted or not, leader or not.
    fn expired(&mut self, now: Instant) -> Vec<SealedBatch>;

    /// Records that [`SenderView::expired`] has failed by itself since this was asked last, for the caller to count: their batch cannot be handed over yet, since
    /// somebody still copies into it.
    fn expired_early(&mut self) -> u32 {
        0
    }

    /// When the next queued batch will expire, as of the last [`SenderView::expired`] (ACC-39).
    fn next_expiry(&self) -> Option<Instant>;

    /// Keeps a partition from being ready and drained (ACC-33).
    fn mute(&mut self, topic_partition: &TopicPartition);

    /// Ends that.
    fn unmute(&mut self, topic_partition: &TopicPartition);

    /// Whether it is muted.
    fn is_muted(&self, topic_partition: &TopicPartition) -> bool;

    /// Strikes the batch numbered `id` out of the books of unfinished batches. Its memory comes back when the batch is dropped, wherever it is.
    ///
    /// # Errors
    /// [`IllegalState`] if it is not in the books: it was ended before (ACC-40).
    fn strike_out(&mut self, id: u64) -> Result<(), IllegalState>;

    /// Ends a settled batch: strikes it out of the books, then returns its memory (ACC-40). Of a batch that was split the last part does so.
    ///
    /// # Errors
    /// As [`SenderView::strike_out`]; the memory is returned all the same.
    fn deallocate(&mut self, batch: SealedBatch) -> Result<(), IllegalState> {
        let struck = self.strike_out_with(batch.id(), batch.whole());
        drop(batch);
        struck
    }

    /// Strikes out the batch numbered `id` or, if it is a part of `whole`, that, once it is done.
    ///
    /// # Errors
    /// As [`SenderView::strike_out`].
    fn strike_out_with(&mut self, id: u64, whole: Option<&Whole>) -> Result<(), IllegalState> {
        match whole {
            None => self.strike_out(id),
            Some(whole) => {
                if whole.is_done() {
                    // An abort, or another part, may have been here before.
                    let _ = self.strike_out(whole.id());
                }
                Ok(())
            }
        }
    }

    /// Aborts every unfinished batch, drained or not (ACC-42). The memory of drained ones comes back when the transport lets go of them.
    fn abort_all(&mut self, error: &SendError);

    /// The end of a forced close: [`SenderView::abort_all`] until no append is in progress, then once more, then empties the map (ACC-44).
    /// The accumulator must be closed.
    fn abort_incomplete(&mut self, error: &SendError);
}

/// Waits until each of `unfinished` has completed: the second half of a flush.
pub(crate) fn await_all<P: Parker>(
    unfinished: &[Watch],
    timeout: Option<Duration>,
    clock: &dyn Clock,
) -> Result<(), FlushError> {
    let deadline = timeout.map(|timeout| clock.now().saturating_add(timeout));
    for watch in unfinished {
        let left = deadline.map(|deadline| (deadline.saturating_since(clock.now()), clock));
        if !watch.wait::<P>(left) {
            return Err(FlushError::TimedOut(timeout.unwrap_or_default()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_any_of_many_has_done_is_told() {
        let records = [Record { timestamp: 0, value: Some(b"x"), ..Record::default() }; 3];
        let mut steps = [(true, false), (false, true), (false, false)].into_iter();
        let done = AppendedMany::of(&records, |_, done| {
            let (batch_is_full, new_batch) = steps.next().expect("one for each record");
            done.add(Appended { future: None, batch_is_full, new_batch, bytes: 5 });
            Ok(())
        });
        assert_eq!((done.accepted, done.bytes, done.refused), (3, 15, None));
        assert!(done.batch_is_full && done.new_batch);
    }
}
