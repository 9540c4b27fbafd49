//! The lock-free accumulator: the appenders' face.
//!
//! Source: Kafka's `RecordAccumulator` (`append`, `beginFlush`, `awaitFlushCompletion`, `close`) for what it must do.
//!
//! # What is where
//! - A [`Lane`](super::lane) for each partition, in the map: its tail is the batch that takes records.
//! - The [`Books`](super::books) of unfinished batches: entered by whoever opens one, struck out by the sender.
//! - The [`Ready`](super::ready) stack: finished batches on their way to the sender.
//! - [`Announcements`] of who is at work on which batch; what was published when the sender was gone, and is announced still, is in `left`.
//! - [`OwnedLane`](super::owned)s of [`LockFreeAppender`]s, whose batches stand in the same books and go to the same stack.
//! - What only the sender needs is in [`LockFreeView`](super::view::LockFreeView), in plain collections.
//!
//! # An append
//! 1. Load the lane's tail, announce that batch, find it there once more, reserve a place in it by one CAS, copy, withdraw the announcement: one exchange, and plain stores to a word of the thread's own
//!    ([`Announcements`]). A thread without such a word: pinned, load the tail and reserve; unpinned, copy, commit by one subtraction.
//! 2. No room, or no batch: let the sender catch up if it is far behind ([`Backlog`]); take memory from the pool, unpinned, as long as the caller will wait; look at the tail once more (ACC-04); else make a batch with the record in it, enter it in the
//!    books, and open it by a CAS of the tail. Who loses that race has found an open batch.
//!
//!    Of those who find no room one at a time does so: [`Openers`](super::opener).
//! 3. Several records at once: as many as there is room for by one announcement and one CAS (counted: one CAS and one subtraction); where there is none, the next one by itself, as above.
//!
//! # Linearization points
//! A record is accepted where its place is reserved, or where its batch comes into the tail.
//! A close takes effect for a lane where it seals the lane's last batch, and is over for all when it returns: from the closing of the books on no batch can be entered, the walk that follows finds every
//! lane that has or may still get an open batch, and closes it (ACC-48). Nothing is counted per record.
//!
//! # Progress
//! `append`: lock-free but for the wait for memory. `close`, `begin_flush`, `has_undrained`, `has_incomplete`: wait-free but for the length of the books. `await_flush` waits for what it is asked to.

use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::appender::LockFreeAppender;
use super::books::{self, Books, Entry, Node};
use super::in_progress::InProgress;
use super::lane::{Lane, LaneHandle, Tail};
use super::ready::Ready;
use super::view::LockFreeView;
use super::{Accumulator, AccumulatorConfig, Appended, AppendedMany, Backlog, await_all};
use crate::batch::{
    Announcements, AtomicBatch, Claim, Full, OffPool, OffPoolSnapshot, Publish, Refusal, Reply, Run, Slot, Watch,
    contain, may_wait, refuse_in_callback,
};
use crate::error::{AppendError, FlushError, TopicPartition};
use crate::partition_map::{PartitionMap, SegmentedMap};
use crate::pool::{AtomicPool, BufferPool, Lease, PoolSnapshot};
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use crate::primitive::atomic::{AtomicPtr, AtomicU64, AtomicUsize};
use crate::primitive::back_off::BackOff;
use crate::primitive::clock::{Instant, SharedClock};
use crate::primitive::parker::ThreadParker;
use crate::primitive::{epoch, step};
use crate::record::{Record, batch_size_upper_bound, valid_payload_size};

/// The lock-free accumulator.
pub struct LockFreeAccumulator {
    /// Shared with the lanes, which their handles may keep for longer than this lives, so that no two accumulators have the same.
    pub(super) identity: Arc<()>,
    pub(super) config: AccumulatorConfig,
    pub(super) clock: SharedClock,
    pub(super) pool: AtomicPool,
    pub(super) map: SegmentedMap<Lane>,
    pub(super) books: Books,
    pub(super) ready: Ready,
    pub(super) announcements: Announcements,
    /// What was published when the sender was gone, and somebody may still copy into.
    left: Ready,
    pub(super) in_progress: InProgress,
    pub(super) off_pool: Arc<OffPool>,
    flushes: AtomicUsize,
    pub(super) last_id: AtomicU64,
    /// Batches that were published, and of those the ones that have left the sender's queues: read by whoever opens.
    published: CachePadded<AtomicU64>,
    drained: CachePadded<AtomicU64>,
    backlog: Backlog,
    /// Lanes that appenders have of their own.
    pub(super) owned_lanes: AtomicUsize,
    /// Whom to wake when an append has something to tell and no answer to say it by, or null: see [`Accumulator::wake_sender_by`].
    short: AtomicPtr<Waker>,
}

/// Ends a flush, whatever happens.
struct Flushing<'a>(&'a AtomicUsize);

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        // Relaxed: the counter only makes batches sendable earlier; a sender that reads it late or early is right either way.
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Publish<Entry> for LockFreeAccumulator {
    fn publish(&self, node: NonNull<Node>) {
        if Backlog::COUNTS {
            // Relaxed: a figure, see `Backlog`.
            self.published.fetch_add(1, Relaxed);
        }
        if !self.ready.push(node) {
            // The sender is gone, and has ended all that was not published (READY-A).
            self.leave(node);
        }
    }

    fn withdrawn(&self) {
        self.settle_left();
    }

    fn abandoned(&self) {
        self.wake_sender();
    }
}

impl LockFreeAccumulator {
    pub(super) fn batch_size(&self) -> usize {
        self.config.batch_size.max(1)
    }

    /// A number for a batch, higher than those given before.
    pub(super) fn next_id(&self) -> u64 {
        // Relaxed: for one to be opened it need only be higher than that of the batch in its lane's tail, which its opener has acquired.
        self.last_id.fetch_add(1, Relaxed) + 1
    }

    /// By the sender, which has taken so many batches off the ready stack since ever, and has so many ready: those that it has sealed itself, and what was put back, are among these.
    pub(super) fn has_ready(&self, taken: u64, ready: usize) {
        if Backlog::COUNTS {
            // Relaxed: a figure, see `Backlog`.
            self.drained.store(taken.wrapping_sub(ready as u64), Relaxed);
        }
    }

    /// Before memory is taken for a batch, with nothing in hand: lets the sender catch up.
    pub(super) fn let_catch_up(&self, max_block: Duration) {
        // Relaxed, both: figures, see `Backlog`. The one may be older than the other.
        let ready = || {
            let drained = self.drained.load(Relaxed);
            self.published.load(Relaxed).wrapping_sub(drained).cast_signed().max(0).cast_unsigned()
        };
        // What this call has published before nobody may have told yet.
        self.backlog.let_catch_up(max_block, ready, || self.wake_sender());
    }

    /// Lets go of `node`, which was published when the sender was gone: now, or when nobody is at work on it any more.
    pub(super) fn leave(&self, node: NonNull<Node>) {
        let left = self.left.push(node);
        debug_assert!(left, "it is never closed");
        self.settle_left();
    }

    /// Lets go of what was left and nobody is at work on any more. Of the rest those who are will come here.
    fn settle_left(&self) {
        let mut nodes = Vec::new();
        loop {
            self.left.take(&mut nodes);
            let mut again = false;
            for node in nodes.drain(..) {
                // SAFETY: published, and not taken: it is in the books.
                let at = unsafe { node.as_ref() };
                if self.announcements.is_announced(at) {
                    // Put down before it is asked for: whoever is asked finds it here.
                    self.left.push(node);
                    again |= self.announcements.ask(at) == 0;
                    continue;
                }
                // SAFETY: BATCH-D: published, taken from the stack by us, and nobody copies (ANN-B).
                drop(unsafe { at.take(at.extra.lane.topic_partition().clone(), at.extra.id()) });
            }
            if !again {
                return;
            }
        }
    }

    /// Tells that an announcement was withdrawn which somebody has asked about: at once, since the caller may be stopped before it comes to say so (L7).
    #[cold]
    fn tell(&self, published: &mut bool) {
        *published = true;
        self.withdrawn();
        self.wake_sender();
    }

    /// What `reserve` reserves in the batch in the tail, announced in `slot`. `published` becomes true if the sender is to be woken. A batch at `full` is not announced, and one that is found full comes to stand there: so that who waits for the
    /// next one to be opened does not delay it. (Should another come to lie at the same address, it is found by whoever opens, who looks at the tail without this.)
    #[inline(always)]
    fn announced<'a, R>(
        &'a self,
        slot: &'a Slot,
        lane: &Lane,
        published: &mut bool,
        full: &mut usize,
        reserve: impl Fn(&Node) -> Result<R, Refusal>,
    ) -> Option<R> {
        let mut back_off = BackOff::default();
        loop {
            let node = lane.announce(slot, *full, || self.tell(published));
            // SAFETY: ANN-D: announced, and found in the tail after that.
            match reserve(unsafe { node?.as_ref() }) {
                Ok(place) => return Some(place),
                Err(refusal) => {
                    if slot.withdraw() {
                        self.tell(published);
                    }
                    match refusal {
                        Refusal::Full(found) => {
                            let node = node?;
                            *full = node.addr().get();
                            self.publish_full(node, found, published);
                            return None;
                        }
                        Refusal::Lost => back_off.wait(),
                    };
                }
            }
        }
    }

    /// A place in the batch in the tail for `record`, whose payload has `payload` bytes, if there is one with room (ACC-02). It keeps the batch (BATCH-C), so nobody is pinned while he copies (L7, L8).
    #[inline(always)]
    pub(super) fn reserve(
        &self,
        lane: &Lane,
        record: &Record<'_>,
        payload: usize,
        published: &mut bool,
        full: &mut usize,
    ) -> Option<Claim<'_, Entry>> {
        match self.announcements.own() {
            Some(slot) => {
                self.announced(slot, lane, published, full, |batch| {
                    // SAFETY: ANN-A: `announced` has announced it there.
                    unsafe { batch.reserve_announced(record, payload, slot) }
                })
            }
            None => self.reserve_counted(lane, record, payload, published),
        }
    }

    /// Appends to the batch in the tail, if it has room, and was not ended before the copy was over: then the callback is still in `reply`. One branch for each way, so that nothing of the announced one passes through memory.
    #[inline(always)]
    pub(super) fn append_to_tail(
        &self,
        lane: &Lane,
        record: &Record<'_>,
        payload: usize,
        reply: &mut Reply,
        published: &mut bool,
    ) -> Option<Appended> {
        let Some(slot) = self.announcements.own() else {
            return self.append_to_tail_counted(lane, record, payload, reply, published);
        };
        let place = self.announced(slot, lane, published, &mut 0, |batch| {
            // SAFETY: ANN-A: `announced` has announced it there.
            unsafe { batch.reserve_announced(record, payload, slot) }
        })?;
        self.fill(lane, place, record, reply, published)
    }

    #[cold]
    fn append_to_tail_counted(
        &self,
        lane: &Lane,
        record: &Record<'_>,
        payload: usize,
        reply: &mut Reply,
        published: &mut bool,
    ) -> Option<Appended> {
        let place = self.reserve_counted(lane, record, payload, published)?;
        self.fill(lane, place, record, reply, published)
    }

    /// [`LockFreeAccumulator::reserve`] by a thread that cannot announce.
    #[cold]
    fn reserve_counted(
        &self,
        lane: &Lane,
        record: &Record<'_>,
        payload: usize,
        published: &mut bool,
    ) -> Option<Claim<'_, Entry>> {
        let guard = epoch::pin();
        let (Tail::Batch(batch), _) = lane.tail(&guard) else { return None };
        let node = NonNull::from(batch);
        let full = match batch.claim(record, payload) {
            Ok(place) => return Some(place),
            Err(full) => full,
        };
        drop(guard);
        self.publish_full(node, full, published);
        None
    }

    /// Copies `record` to its place and commits. `None` if the batch was ended meanwhile: then the callback is still in `reply`, and the record not accepted.
    #[inline(always)]
    pub(super) fn fill(
        &self,
        lane: &Lane,
        place: Claim<'_, Entry>,
        record: &Record<'_>,
        reply: &mut Reply,
        published: &mut bool,
    ) -> Option<Appended> {
        let mut place = place.hold(self);
        place.write(record);
        if let Some(callback) = reply.callback.take()
            && let Err(callback) = place.on_completion(record.timestamp, callback)
        {
            *published |= place.commit();
            reply.callback = Some(callback);
            return None;
        }
        let future = reply.future.then(|| place.future(record.timestamp));
        let (bytes, fills) = (place.bytes(), place.fills());
        *published |= place.commit();
        Some(Appended { future, batch_is_full: *published || fills || lane.queued() > 1, new_batch: false, bytes })
    }

    /// ACC-03 and ACC-04: memory, then the second look. `None`: the batch that the record went to was ended meanwhile.
    #[cold]
    fn append_to_new_batch(
        &self,
        lane: &LaneHandle,
        record: &Record<'_>,
        reply: &mut Reply,
        published: &mut bool,
        max_block: Duration,
    ) -> Result<Option<Appended>, AppendError> {
        if self.is_closed() {
            return Err(AppendError::Closed);
        }
        self.let_catch_up(max_block);
        let size = self.batch_size().max(batch_size_upper_bound(record));
        let (payload, mut full) = (record.payload_size(), 0);
        let mut turn = match lane.openers.turn(|| self.reserve(lane, record, payload, published, &mut full)) {
            Ok(turn) => turn,
            Err(place) => return Ok(self.fill(lane, place, record, reply, published)),
        };
        let in_progress = self.in_progress.begin();
        step("accumulator.allocate");
        let waits = || {
            // Who waits for memory has none that others could miss, and may wait for long.
            turn = None;
            self.wake_sender();
        };
        // Dropped, if not used, before the append is counted out.
        let lease = self.pool.allocate_telling(size, may_wait(max_block), waits)?.erase();
        let now = self.clock.now();
        step("accumulator.second-look");
        if self.is_closed() {
            return Err(AppendError::Closed);
        }
        if let Some(place) = self.reserve(lane, record, payload, published, &mut full) {
            let place = place.hold(self);
            // Before the copy: a thread that is stopped there keeps no memory from others, and no forced close waiting (L7).
            drop(lease);
            drop(turn);
            drop(in_progress);
            return Ok(self.fill(lane, place.claim(), record, reply, published));
        }
        drop(in_progress);
        let appended = self.open(lane, record, reply, lease, now, published);
        drop(turn);
        appended
    }

    /// Appends the first of `records`, as many as the batch in the tail has room for, by one reservation: perhaps none.
    pub(super) fn append_run(&self, lane: &Lane, records: &[Record<'_>], futures: bool, done: &mut AppendedMany) {
        let (mut published, mut full) = (false, 0);
        let run = match self.announcements.own() {
            Some(slot) => self.announced(slot, lane, &mut published, &mut full, |batch| {
                // SAFETY: ANN-A: as in `reserve`.
                unsafe { batch.reserve_run_announced(records, slot, self) }
            }),
            None => self.reserve_run_counted(lane, records, &mut published),
        };
        done.batch_is_full |= published;
        let Some(mut run) = run else { return };
        let (count, bytes, fills) = (run.records(), run.bytes(), run.fills());
        run.write(&records[..count], futures.then_some(&mut done.futures));
        let published = run.commit();
        done.accepted += count;
        done.bytes += bytes;
        done.batch_is_full |= published || fills || lane.queued() > 1;
    }

    /// As [`LockFreeAccumulator::reserve_counted`].
    #[cold]
    fn reserve_run_counted(
        &self,
        lane: &Lane,
        records: &[Record<'_>],
        published: &mut bool,
    ) -> Option<Run<'_, Entry, Self>> {
        let guard = epoch::pin();
        let (Tail::Batch(batch), _) = lane.tail(&guard) else { return None };
        let node = NonNull::from(batch);
        let full = match batch.reserve_run(records, self) {
            Ok(run) => return Some(run),
            Err(full) => full,
        };
        drop(guard);
        self.publish_full(node, full, published);
        None
    }

    /// Publishes `node`, which was found full, if that finished it.
    fn publish_full(&self, node: NonNull<Node>, full: Full, published: &mut bool) {
        if full.finished {
            // Ours (BATCH-B), so it lives.
            self.publish(node);
            *published = true;
        }
    }

    /// Opens a batch with `record` in it, or appends to one that another has opened meanwhile.
    fn open(
        &self,
        lane: &LaneHandle,
        record: &Record<'_>,
        reply: &mut Reply,
        lease: Lease,
        now: Instant,
        published: &mut bool,
    ) -> Result<Option<Appended>, AppendError> {
        let topic_partition = lane.topic_partition();
        let entry = |watch| Entry::new(lane.clone(), watch);
        let mut batch = Box::new(AtomicBatch::new(topic_partition.clone(), lease, now, entry));
        batch.begin(record, reply.callback.take());
        let (bytes, is_full) = (batch.len(), batch.is_sealed());
        let future = reply.future.then(|| batch.first_future());
        let mut guard = epoch::pin();
        let node = match self.books.enter(batch, &guard) {
            Ok(node) => node,
            Err(batch) => {
                drop(guard);
                // Its callback and its future with it, unheard: the record was not accepted.
                drop(batch);
                return Err(AppendError::Closed);
            }
        };
        // SAFETY: BOOKS-B: it is not open and not void, so the sender leaves it alone; from the CAS on we are pinned since before.
        let own = unsafe { node.as_ref() };
        loop {
            let (tail, word) = lane.tail(&guard);
            if Lane::is_closed(word) {
                drop(guard);
                drop(self.void(own));
                return Err(AppendError::Closed);
            }
            let mut after = 0;
            if let Tail::Batch(current) = tail {
                let current_node = NonNull::from(current);
                match current.reserve(record, record.payload_size(), self) {
                    Ok(place) => {
                        drop(guard);
                        reply.callback = self.void(own);
                        return Ok(self.fill(lane, place.claim(), record, reply, published));
                    }
                    Err(full) if full.finished => {
                        // Its callbacks may run if the sender is gone: not while we are pinned.
                        drop(guard);
                        self.publish(current_node);
                        *published = true;
                        guard = epoch::pin();
                        continue;
                    }
                    Err(_) => after = current.extra.id(),
                }
            }
            own.extra.number(self.next_id(), after);
            if lane.open(word, node, &guard) {
                own.extra.opened();
                break;
            }
        }
        drop(guard);
        if is_full {
            // Born sealed, with nobody copying: it is ours to publish (BATCH-B).
            self.publish(node);
        }
        Ok(Some(Appended { future, batch_is_full: is_full || lane.queued() > 1, new_batch: true, bytes }))
    }

    /// Ends a batch that was entered and not opened; its callback back.
    pub(super) fn void(&self, node: &Node) -> Option<crate::batch::Callback> {
        let callback = node.withdraw_callback();
        // SAFETY: BATCH-D: it was never open.
        drop(unsafe { node.take(node.extra.lane.topic_partition().clone(), 0) });
        // The sender may retire it from the store on: pinned until we have let go of it.
        let _pinned = epoch::pin();
        node.extra.void();
        callback
    }

    /// An append begins to wait for memory, so what is part-filled should go at once (ACC-21); or it has published a batch and has no other way to say so.
    #[cold]
    pub(super) fn wake_sender(&self) {
        // Acquire pairs with the Release of the exchange in `wake_sender_by`.
        let waker = self.short.load(Acquire);
        // SAFETY: set once, freed with the accumulator.
        if let Some(waker) = unsafe { waker.as_ref() } {
            contain("the sender's waker", || waker.wake_by_ref());
        }
    }

    /// What everybody who is pinned finds in the books.
    fn any(&self, found: impl Fn(&Node, &epoch::Guard) -> bool) -> bool {
        let guard = epoch::pin();
        self.books.walk(&guard).any(|node| found(node, &guard))
    }
}

impl Accumulator for LockFreeAccumulator {
    const NAME: &'static str = "lockfree";
    type Partition = LaneHandle;
    type Appender = LockFreeAppender;
    type View = LockFreeView;

    fn new(config: AccumulatorConfig, clock: SharedClock) -> (Arc<Self>, LockFreeView) {
        let accumulator = Arc::new(Self {
            identity: Arc::new(()),
            pool: BufferPool::new(config.buffer_memory, config.batch_size.max(1), clock.clone()),
            clock,
            map: SegmentedMap::default(),
            books: Books::new(),
            ready: Ready::new(),
            announcements: Announcements::default(),
            left: Ready::new(),
            in_progress: InProgress::new(),
            off_pool: OffPool::new(),
            flushes: AtomicUsize::new(0),
            last_id: AtomicU64::new(0),
            published: CachePadded::new(AtomicU64::new(0)),
            drained: CachePadded::new(AtomicU64::new(0)),
            backlog: Backlog::new(config.batch_size, config.buffer_memory),
            owned_lanes: AtomicUsize::new(0),
            short: AtomicPtr::new(ptr::null_mut()),
            config,
        });
        let view = LockFreeView::new(Arc::clone(&accumulator));
        (accumulator, view)
    }

    fn partition(&self, topic_partition: &TopicPartition) -> LaneHandle {
        self.map.get_or_create(topic_partition, || Lane::new(Arc::clone(&self.identity), topic_partition.clone()))
    }

    fn appender(self: &Arc<Self>) -> LockFreeAppender {
        LockFreeAppender::new(self)
    }

    #[inline]
    fn append(
        &self,
        partition: &LaneHandle,
        record: &Record<'_>,
        mut reply: Reply,
        max_block: Duration,
    ) -> Result<Appended, AppendError> {
        assert!(partition.belongs_to(&self.identity), "a partition's handle was given to another accumulator");
        let payload = valid_payload_size(record)?;
        let mut published = false;
        loop {
            if let Some(appended) = self.append_to_tail(partition, record, payload, &mut reply, &mut published) {
                return Ok(appended);
            }
            // Again, with its time in full, only if a batch expired or was aborted while the record was being copied into it.
            match self.append_to_new_batch(partition, record, &mut reply, &mut published, max_block) {
                Ok(Some(appended)) => return Ok(appended),
                Ok(None) => {}
                Err(error) => {
                    if published {
                        self.wake_sender();
                    }
                    return Err(error);
                }
            }
        }
    }

    fn append_many(
        &self,
        partition: &LaneHandle,
        records: &[Record<'_>],
        futures: bool,
        max_block: Duration,
    ) -> AppendedMany {
        assert!(partition.belongs_to(&self.identity), "a partition's handle was given to another accumulator");
        AppendedMany::of(records, |rest, done| {
            let before = done.accepted;
            self.append_run(partition, rest, futures, done);
            if done.accepted == before {
                done.add(self.append(partition, &rest[0], Reply { future: futures, callback: None }, max_block)?);
            }
            Ok(())
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
        let unfinished: Vec<Watch> = {
            let guard = epoch::pin();
            let open =
                self.books.walk(&guard).filter(|node| books::is_open(node, &guard) && !node.extra.watch.is_done());
            open.map(|node| node.extra.watch.clone()).collect()
        };
        await_all::<ThreadParker>(&unfinished, timeout, &*self.clock)
    }

    fn close(&self) {
        self.pool.close();
        let mut finished = Vec::new();
        {
            let guard = epoch::pin();
            self.books.close(&guard);
            for node in self.books.walk(&guard) {
                if let Some(own) = &node.extra.own {
                    own.close();
                    continue;
                }
                finished.extend(node.extra.lane.close(&guard).filter(|tail| tail.seal()).map(NonNull::from));
            }
        }
        // Each is ours (BATCH-B), so it lives.
        finished.into_iter().for_each(|node| self.publish(node));
    }

    fn is_closed(&self) -> bool {
        self.books.is_closed(&epoch::pin())
    }

    fn has_undrained(&self) -> bool {
        self.any(books::is_undrained)
    }

    fn has_incomplete(&self) -> bool {
        self.any(|node, guard| books::is_open(node, guard) && !node.extra.watch.is_done())
    }

    fn pool(&self) -> PoolSnapshot {
        self.pool.snapshot()
    }

    fn off_pool(&self) -> OffPoolSnapshot {
        self.off_pool.snapshot()
    }

    fn wake_sender_by(&self, waker: Waker) {
        let waker = Box::into_raw(Box::new(waker));
        // Release pairs with the Acquire in `wake_sender`. The first one stays.
        if self.short.compare_exchange(ptr::null_mut(), waker, AcqRel, Relaxed).is_err() {
            // SAFETY: it came from a box and was not published.
            drop(unsafe { Box::from_raw(waker) });
        }
    }
}

impl Drop for LockFreeAccumulator {
    fn drop(&mut self) {
        // Relaxed: `&mut`.
        let waker = self.short.load(Relaxed);
        if !waker.is_null() {
            // SAFETY: from a box, and nobody else is left.
            drop(unsafe { Box::from_raw(waker) });
        }
    }
}

impl fmt::Debug for LockFreeAccumulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("lockfree")
            .field("pool", &self.pool)
            .field("partitions", &self.map.len())
            .finish_non_exhaustive()
    }
}
