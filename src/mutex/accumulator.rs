//! The twin's accumulator: a lock around each partition's deque, held by appenders while they encode and by the sender while it looks.
//!
//! Source: Kafka's `RecordAccumulator` (`append`, `ready`, `drain`, `reenqueue`, `expiredBatches`, `beginFlush`, `awaitFlushCompletion`,
//! `abortBatches`, `abortIncompleteBatches`, `close`) and `IncompleteBatches`.
//!
//! # What is where
//! A partition's [`Queue`] is under its own lock: batches closed for appends, oldest first, then the open one. The books of unfinished batches are
//! under a lock of their own (GAP-32). What only the sender needs is in [`MutexView`], without a lock.
//!
//! # What is not Kafka's
//! Whoever needs a new batch lets the sender catch up first, if that is far behind ([`Backlog`]), as in the lock-free core: it has nothing to do with locks.
//!
//! # Why no record slips in after a graceful close (ACC-48)
//! An append tests `closed` and pushes in one critical section of its queue. `close` stores `closed` before it returns, and the sender's last look takes
//! every queue's lock after that. So an append whose section comes before the look is seen by it, and one that comes after finds `closed`.
//!
//! # Appends in progress (ACC-01)
//! A forced close repeats its abort while an append may still push. Kafka counts every append in and out of one shared atomic; here only those count
//! themselves that leave the lock without having appended, before they leave it. One that has not taken the lock yet will find `closed`. So nothing is counted
//! per record, and nothing escapes.

mod view;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crossbeam_utils::CachePadded;

pub use view::MutexView;

use super::appender::MutexAppender;
use super::batch::MutexBatch;
use super::codec::{Codecs, Estimate};
use super::partition_map::{CopyOnWriteMap, EntryHandle};
use super::pool::MutexPool;
use crate::accumulator::{Accumulator, AccumulatorConfig, Appended, AppendedMany, Backlog, await_all};
use crate::batch::{OffPoolSnapshot, OpenBatch, Reply, SealedBatch, Watch, may_wait, refuse_in_callback};
use crate::error::{AppendError, FlushError, IllegalState, SendError, TopicPartition};
use crate::partition_map::PartitionMap;
use crate::pool::{BufferPool, PoolSnapshot};
use crate::primitive::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use crate::primitive::clock::{Instant, SharedClock};
use crate::primitive::lock::{LockFamily, Mutex};
use crate::primitive::{step, thread};
use crate::record::{BATCH_OVERHEAD, Record, batch_size_upper_bound, valid_payload_size};

/// Batches of a partition, oldest first.
pub(super) struct Queue<F: LockFamily> {
    sealed: VecDeque<SealedBatch>,
    open: Option<MutexBatch>,
    /// In the queue that is the partition's own: those of its appenders. Under this lock, so that a look that does not find one comes before it.
    lanes: Vec<Arc<F::Mutex<Queue<F>>>>,
    /// Whose turn it is among them.
    turn: usize,
}

impl<F: LockFamily> Queue<F> {
    fn new() -> Self {
        Self { sealed: VecDeque::new(), open: None, lanes: Vec::new(), turn: 0 }
    }

    fn len(&self) -> usize {
        self.sealed.len() + usize::from(self.open.is_some())
    }

    /// Appends to the tail, or closes the tail for appends if it has no room (ACC-02). Takes the callback out of `reply` if it has appended.
    #[inline]
    fn try_append(
        &mut self,
        record: &Record<'_>,
        payload: usize,
        reply: &mut Reply,
        accumulator: &MutexAccumulator<F>,
    ) -> Option<Appended> {
        let open = self.open.as_mut()?;
        let Some(bytes) = open.place(record, payload, reply) else {
            self.seal_tail(accumulator);
            return None;
        };
        let batch_is_full = !self.sealed.is_empty() || open.is_full();
        let future = open.future_of_last(reply, record.timestamp);
        Some(Appended { future, batch_is_full, new_batch: false, bytes })
    }

    /// Closes the open batch for appends.
    fn seal_tail(&mut self, accumulator: &MutexAccumulator<F>) {
        if let Some(open) = self.open.take() {
            self.sealed.push_back(accumulator.codecs.seal(open));
            accumulator.came();
        }
    }

    /// Takes the head. If that is the open batch, it takes no more appends, and is to be sealed: outside of the lock, since a codec may have much to end (ACC-31).
    fn pop(&mut self, accumulator: &MutexAccumulator<F>) -> Option<Head> {
        let Some(sealed) = self.sealed.pop_front() else { return self.open.take().map(Head::Open) };
        accumulator.left(1);
        Some(Head::Sealed(sealed))
    }

    fn head_created(&self) -> Option<Instant> {
        self.sealed.front().map(SealedBatch::created).or(self.open.as_ref().map(OpenBatch::created))
    }

    fn head_size(&self) -> usize {
        match (self.sealed.front(), &self.open) {
            (Some(sealed), _) => sealed.size(),
            (None, Some(open)) => open.estimated_size(),
            (None, None) => 0,
        }
    }
}

/// What was taken out of a queue.
enum Head {
    Sealed(SealedBatch),
    Open(MutexBatch),
}

impl Head {
    fn seal<F: LockFamily>(self, codecs: &Codecs<F>) -> SealedBatch {
        match self {
            Head::Sealed(batch) => batch,
            Head::Open(batch) => codecs.seal(batch),
        }
    }
}

/// A partition: its lock and what is under it.
pub struct Partition<F: LockFamily> {
    /// Its accumulator's `identity`.
    owner: Arc<()>,
    pub(super) topic_partition: TopicPartition,
    estimate: Arc<Estimate>,
    queue: F::Mutex<Queue<F>>,
}

impl<F: LockFamily> Partition<F> {
    /// Calls `with` with the partition's own queue, then with each appender's.
    fn each(&self, mut with: impl FnMut(&mut Queue<F>)) {
        let mut queue = self.queue.lock();
        with(&mut queue);
        // Still under the queue's lock: a lane that ends puts what it has into the queue, which was looked at before (ACC-48).
        queue.lanes.iter().for_each(|lane| with(&mut lane.lock()));
    }

    /// A queue for an appender.
    pub(super) fn add_lane(&self) -> Arc<F::Mutex<Queue<F>>> {
        let lane = Arc::new(Mutex::new(Queue::new()));
        self.queue.lock().lanes.push(Arc::clone(&lane));
        lane
    }
}

/// The handle of a partition of the twin.
pub type MutexPartition<F> = EntryHandle<Partition<F>>;

/// The twin's accumulator.
pub struct MutexAccumulator<F: LockFamily> {
    /// Shared with the partitions, which their handles may keep for longer than this lives, so that no two accumulators have the same.
    identity: Arc<()>,
    config: AccumulatorConfig,
    clock: SharedClock,
    pool: MutexPool<F>,
    map: CopyOnWriteMap<Partition<F>, F>,
    codecs: Codecs<F>,
    closed: AtomicBool,
    flushes: AtomicUsize,
    /// Appends that have left their queue's lock to get memory and may still push.
    appending: AtomicUsize,
    next_id: AtomicU64,
    /// Batches that stand in queues, closed for appends.
    ready: CachePadded<AtomicU64>,
    backlog: Backlog,
    /// By number, so in the order in which they were opened: that is the order of an abort.
    incomplete: F::Mutex<BTreeMap<u64, Watch>>,
}

/// Counts one append in progress; its drop counts it out.
struct Appending<'a>(&'a AtomicUsize);

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        // Release pairs with the Acquire load in `abort_incomplete`: if it reads our end, it also sees what we pushed or gave back; if it reads the
        // count before, it goes round again.
        self.0.fetch_sub(1, Release);
    }
}

/// Ends a flush, whatever happens.
struct Flushing<'a>(&'a AtomicUsize);

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        // Relaxed: the counter only makes batches sendable earlier; a sender that reads it late or early is right either way.
        self.0.fetch_sub(1, Relaxed);
    }
}

impl<F: LockFamily> MutexAccumulator<F> {
    fn batch_size(&self) -> usize {
        self.config.batch_size.max(1)
    }

    /// That `partition` is one of ours.
    #[inline]
    pub(super) fn check(&self, partition: &Partition<F>) {
        assert!(Arc::ptr_eq(&partition.owner, &self.identity), "a partition's handle was given to another accumulator");
    }

    /// Appends a valid record, whose payload has `payload` bytes, to a queue of `partition`: its own, or an appender's.
    #[inline]
    pub(super) fn append_to(
        &self,
        lane: &F::Mutex<Queue<F>>,
        partition: &Partition<F>,
        record: &Record<'_>,
        payload: usize,
        mut reply: Reply,
        max_block: Duration,
    ) -> Result<Appended, AppendError> {
        let mut queue = lane.lock();
        // Acquire pairs with the Release store in `close`. Read true: refused. Read false: this section of the lock comes before the sender's
        // last look, which takes this lock after the store; so the look sees what we push.
        if self.closed.load(Acquire) {
            return Err(AppendError::Closed);
        }
        if let Some(appended) = queue.try_append(record, payload, &mut reply, self) {
            return Ok(appended);
        }
        // Relaxed: the queue's lock, which we hold, orders it: whoever takes the lock after us sees the count, and `abort_incomplete` takes every
        // queue's lock before it reads it.
        self.appending.fetch_add(1, Relaxed);
        let _appending = Appending(&self.appending);
        drop(queue);
        self.append_to_new_batch(lane, partition, record, reply, max_block)
    }

    /// Appends valid records to a queue of `partition`, in one section of its lock as many as the open batch has room for; if it has none, one of them.
    pub(super) fn append_run_to(
        &self,
        lane: &F::Mutex<Queue<F>>,
        partition: &Partition<F>,
        records: &[Record<'_>],
        futures: bool,
        max_block: Duration,
        done: &mut AppendedMany,
    ) -> Result<(), AppendError> {
        let reply = || Reply { future: futures, callback: None };
        let before = done.accepted;
        let mut queue = lane.lock();
        // Acquire: see `append_to`.
        if self.closed.load(Acquire) {
            return Err(AppendError::Closed);
        }
        for record in records {
            let Some(appended) = queue.try_append(record, record.payload_size(), &mut reply(), self) else {
                break;
            };
            done.add(appended);
        }
        drop(queue);
        if done.accepted == before {
            done.add(self.append_to(lane, partition, &records[0], records[0].payload_size(), reply(), max_block)?);
        }
        Ok(())
    }

    /// Ends an appender's queue: what is in it goes to the partition's own.
    pub(super) fn end_lane(&self, partition: &Partition<F>, lane: &Arc<F::Mutex<Queue<F>>>) {
        let mut queue = partition.queue.lock();
        let mut own = lane.lock();
        own.seal_tail(self);
        // In front of the open batch, behind what was put back.
        queue.sealed.append(&mut own.sealed);
        queue.lanes.retain(|other| !Arc::ptr_eq(other, lane));
    }

    /// ACC-03 and ACC-04: memory without the lock, then the lock and the second look.
    #[cold]
    fn append_to_new_batch(
        &self,
        queue: &F::Mutex<Queue<F>>,
        partition: &Partition<F>,
        record: &Record<'_>,
        mut reply: Reply,
        max_block: Duration,
    ) -> Result<Appended, AppendError> {
        // Counted in by then, as while it waits for memory: a forced close goes round once more.
        // Relaxed: a figure, see `Backlog`.
        self.backlog.let_catch_up(max_block, || self.ready.load(Relaxed), || ());
        let size = self.batch_size().max(batch_size_upper_bound(record));
        step("accumulator.allocate");
        // Dropped, if not used, after the lock and before the append is counted out.
        let lease = self.pool.allocate(size, may_wait(max_block))?.erase();
        let now = self.clock.now();
        step("accumulator.second-look");
        let mut queue = queue.lock();
        // Acquire: see `append`.
        if self.closed.load(Acquire) {
            drop(queue);
            return Err(AppendError::Closed);
        }
        if let Some(appended) = queue.try_append(record, record.payload_size(), &mut reply, self) {
            drop(queue);
            return Ok(appended);
        }
        // Relaxed: the number need only be its own.
        let id = self.next_id.fetch_add(1, Relaxed);
        let (codec, packed) =
            (self.codecs.compression().codec(), self.codecs.open(&partition.estimate, BATCH_OVERHEAD));
        let mut batch = MutexBatch::open_with(partition.topic_partition.clone(), id, lease, now, codec, packed);
        self.incomplete.lock().insert(id, batch.watch());
        let Some(_) = batch.place(record, record.payload_size(), &mut reply) else {
            unreachable!("an empty batch takes any record (BATCH-02)")
        };
        let future = batch.future_of_last(&reply, record.timestamp);
        let bytes = batch.estimated_size();
        let batch_is_full = !queue.sealed.is_empty() || batch.is_full();
        queue.open = Some(batch);
        Ok(Appended { future, batch_is_full, new_batch: true, bytes })
    }

    /// One more stands ready.
    fn came(&self) {
        if Backlog::COUNTS {
            // Relaxed: a figure, see `Backlog`.
            self.ready.fetch_add(1, Relaxed);
        }
    }

    /// So many of those have left their queue.
    fn left(&self, batches: usize) {
        if Backlog::COUNTS {
            // Relaxed: as in `came`.
            let before = self.ready.fetch_sub(batches as u64, Relaxed);
            debug_assert!(before >= batches as u64, "each has come before");
        }
    }

    fn strike_out(&self, id: u64) -> Result<(), IllegalState> {
        match self.incomplete.lock().remove(&id) {
            Some(_) => Ok(()),
            None => Err(IllegalState("the batch is not among the unfinished ones: it was ended before")),
        }
    }

    /// ACC-42.
    fn abort_all(&self, error: &SendError) {
        // Before the queues: whatever is booked by now is in its queue when we come to that, or was drained, and stays with the sender, who is us. So
        // what is pushed behind us - by a callback that runs here, say - is left whole, and never ended while it still stands in its queue.
        let mut doomed: BTreeMap<u64, (Watch, Option<SealedBatch>)> =
            self.incomplete.lock().iter().map(|(id, watch)| (*id, (watch.clone(), None))).collect();
        self.map.for_each(|_, partition| {
            partition.each(|queue| {
                queue.seal_tail(self);
                self.left(queue.sealed.len());
                for batch in queue.sealed.drain(..) {
                    doomed.insert(batch.id(), (batch.completion().watch(), Some(batch)));
                }
            });
        });
        // Outside of every lock: callbacks run here, in the order in which their batches were opened, in flight or not. The memory of what is in flight
        // comes back from the transport.
        for (id, (watch, batch)) in doomed {
            // Settled already, by a transport that dropped it: as good.
            if watch.abort(error.clone()) || watch.is_done() {
                let _ = self.strike_out(id);
            }
            drop(batch);
        }
    }

    /// ACC-44. Kafka spins here, and so does the twin (GAP-19).
    fn abort_incomplete(&self, error: &SendError) {
        loop {
            self.abort_all(error);
            // Acquire pairs with the Release in `Appending::drop`. An append that we do not see counted has not left its queue's lock yet, and
            // will find `closed`; see the module's head.
            if self.appending.load(Acquire) == 0 {
                break;
            }
            thread::yield_now();
        }
        self.abort_all(error);
        self.map.clear();
    }
}

impl<F: LockFamily> Accumulator for MutexAccumulator<F> {
    const NAME: &'static str = F::NAME;
    type Partition = MutexPartition<F>;
    type Appender = MutexAppender<F>;
    type View = MutexView<F>;

    fn new(config: AccumulatorConfig, clock: SharedClock) -> (Arc<Self>, MutexView<F>) {
        let accumulator = Arc::new(Self {
            identity: Arc::new(()),
            pool: BufferPool::new(config.buffer_memory, config.batch_size.max(1), clock.clone()),
            clock,
            map: CopyOnWriteMap::default(),
            codecs: Codecs::new(config.compression),
            closed: AtomicBool::new(false),
            flushes: AtomicUsize::new(0),
            appending: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            ready: CachePadded::new(AtomicU64::new(0)),
            backlog: Backlog::new(config.batch_size, config.buffer_memory),
            incomplete: Mutex::new(BTreeMap::new()),
            config,
        });
        let view = MutexView::new(Arc::clone(&accumulator));
        (accumulator, view)
    }

    fn partition(&self, topic_partition: &TopicPartition) -> MutexPartition<F> {
        self.map.get_or_create(topic_partition, || Partition {
            owner: Arc::clone(&self.identity),
            topic_partition: topic_partition.clone(),
            estimate: self.codecs.estimate(&topic_partition.topic),
            queue: Mutex::new(Queue::new()),
        })
    }

    fn appender(self: &Arc<Self>) -> MutexAppender<F> {
        MutexAppender::new(self)
    }

    #[inline]
    fn append(
        &self,
        partition: &MutexPartition<F>,
        record: &Record<'_>,
        reply: Reply,
        max_block: Duration,
    ) -> Result<Appended, AppendError> {
        self.check(partition);
        let payload = valid_payload_size(record)?;
        self.append_to(&partition.queue, partition, record, payload, reply, max_block)
    }

    fn append_many(
        &self,
        partition: &MutexPartition<F>,
        records: &[Record<'_>],
        futures: bool,
        max_block: Duration,
    ) -> AppendedMany {
        self.check(partition);
        AppendedMany::of(records, |rest, done| {
            self.append_run_to(&partition.queue, partition, rest, futures, max_block, done)
        })
    }

    fn begin_flush(&self) {
        // Relaxed: see `Flushing`. The wake-up of the sender, which the caller owes, orders it.
        self.flushes.fetch_add(1, Relaxed);
    }

    fn flush_in_progress(&self) -> bool {
        // Relaxed: see `Flushing`.
        self.flushes.load(Relaxed) > 0
    }

    fn await_flush(&self, timeout: Option<Duration>) -> Result<(), FlushError> {
        let _flushing = Flushing(&self.flushes);
        refuse_in_callback()?;
        let unfinished: Vec<Watch> = self.incomplete.lock().values().cloned().collect();
        await_all::<F::Parker>(&unfinished, timeout, &*self.clock)
    }

    fn close(&self) {
        // Release pairs with the Acquire loads in `append`; see the module's head.
        self.closed.store(true, Release);
        self.pool.close();
    }

    fn is_closed(&self) -> bool {
        // Acquire: as in `append`.
        self.closed.load(Acquire)
    }

    fn has_undrained(&self) -> bool {
        let mut any = false;
        self.map.for_each(|_, partition| partition.each(|queue| any = any || queue.len() > 0));
        any
    }

    fn has_incomplete(&self) -> bool {
        // One that has ended may still stand in the books: the sender, who strikes it out, is about to, or the transport has dropped it. Looking is
        // everybody's, striking out is not.
        self.incomplete.lock().values().any(|watch| !watch.is_done())
    }

    fn pool(&self) -> PoolSnapshot {
        self.pool.snapshot()
    }

    fn off_pool(&self) -> OffPoolSnapshot {
        self.codecs.off_pool().snapshot()
    }

    /// Ignored: what its appends do they do under the partition's lock, and their answers say so.
    fn wake_sender_by(&self, _: Waker) {}
}

impl<F: LockFamily> fmt::Debug for MutexAccumulator<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(F::NAME).field("pool", &self.pool).field("partitions", &self.map.len()).finish_non_exhaustive()
    }
}

impl<F: LockFamily> fmt::Debug for Partition<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Partition").field(&self.topic_partition).finish()
    }
}
