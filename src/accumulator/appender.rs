//! An appender of the lock-free core: which of its records go to lanes of its own, and how it comes there and back.
//!
//! # When
//! An appender begins on the shared lane of each partition. It earns a lane where it has filled [`EARN`] batches by itself in less time than they would have been allowed to linger; it gets it when the batch in the shared lane's
//! tail is over, nobody waits for memory, the pool has room, and not too much of the pool is in owned lanes already. So a partition with little traffic never has one: batches, fill and memory are those of one lane. The sender takes
//! it back (RETIRED, see [`super::owned`]) where a batch was not filled in its time, nothing was opened for the time of linger, or memory ran out while it was part-filled. What is counted for that are the appender's own plain numbers.
//!
//! # Order over a change of lane (L6)
//! - *Shared to owned*: the appender's records lie in the batch that is in the shared tail, or before it. That batch is sealed; the first own one names it, and the sender moves it only behind that (OWNED-F).
//! - *Owned to shared*: only by RETIRED, which the sender sets when it has moved all that was in the lane (OWNED-E).
//!
//! # What it costs
//! Per record: two plain stores and two loads for the handshake, the copy, and a few stores to the batch's own numbers. No exchange, no pin, no reading of the clock; a future is a plain count. Per batch: its memory, an entry in the books, two
//! exchanges of the lane's word, one of the stage, one push; and, while the sender is far behind, two yields ([`Backlog`](super::Backlog)).
//!
//! # Limits
//! [`SLOTS`] partitions of an appender are looked after at a time, and none is pushed out that has a lane. Owned lanes together have at most half of the pool's bytes in open batches. A lane that was taken back counts for neither from
//! then on, though its owner may never come to know.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::books::{Entry, Node};
use super::lane::{Lane, LaneHandle, Tail};
use super::lockfree::LockFreeAccumulator;
use super::owned::{OwnedLane, Refused, State};
use super::{Accumulator, Appended, AppendedMany, Appender};
use crate::batch::{AtomicBatch, Filled, Publish, Reply, may_wait};
use crate::error::{AppendError, TopicPartition};
use crate::pool::BufferPool;
use crate::primitive::atomic::Ordering::Relaxed;
use crate::primitive::clock::Instant;
use crate::primitive::{epoch, step};
use crate::record::{Record, batch_size_upper_bound, valid_payload_size};

/// Batches that an appender fills by itself to earn a lane.
const EARN: u32 = 2;
/// For judging whether a lane is worth its while, no linger is shorter than this.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);
/// Partitions that an appender looks after.
const SLOTS: usize = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 2 } else { 256 };
/// Slots at which a partition can be.
const PROBES: usize = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 2 } else { 8 };

/// What an appender knows of a partition.
struct Slot {
    /// The partition's address; 0 for none. Kept alive by the lane, if there is one; without a lane it is a mere hint.
    partition: usize,
    /// Bytes that the appender has put into the shared lane since then.
    bytes: usize,
    since: Instant,
    /// Whether it has earned a lane.
    earned: bool,
    own: Option<Own>,
}

impl Slot {
    /// Whether there is a lane that was not taken back.
    fn has_lane(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.lane.look() != State::Retired)
    }
}

/// A lane, from its owner's side.
struct Own {
    lane: Arc<OwnedLane>,
    /// The batch of the shared lane that the first batch follows, by its number; 0 for none.
    after: u64,
    /// Batches that were sealed.
    n: u64,
    /// Batch `n`, if it is open as far as the owner knows.
    open: Option<NonNull<Node>>,
}

/// An owner of lanes. [`Accumulator::appender`] makes it.
pub struct LockFreeAppender {
    accumulator: Arc<LockFreeAccumulator>,
    slots: Box<[Slot; SLOTS]>,
    _not_sync: PhantomData<Cell<()>>,
}

// SAFETY: the batches that its lanes have open are `Sync`, and the owner is whoever has the appender (BATCH-F).
unsafe impl Send for LockFreeAppender {}

/// Announced work on an open batch; its drop ends it. One that was not finished marks the batch as failed, and has it asked for.
struct Work<'a> {
    own: &'a OwnedLane,
    n: u64,
    node: &'a Node,
}

impl Drop for Work<'_> {
    #[cold]
    fn drop(&mut self) {
        self.node.fail();
        self.own.ask(self.n);
        self.own.end(self.n);
    }
}

impl Own {
    /// Appends to the open batch. `None`: there is none, or it was handed over.
    #[inline(always)]
    fn append(
        &mut self,
        accumulator: &LockFreeAccumulator,
        record: &Record<'_>,
        payload: usize,
        reply: &mut Reply,
    ) -> Option<Appended> {
        let node = self.open?;
        if !self.lane.begin(self.n) {
            self.seal(accumulator);
            return None;
        }
        // SAFETY: OWNED-B: announced, and not asked for: nobody takes it before `end`.
        let node = unsafe { node.as_ref() };
        let work = Work { own: &self.lane, n: self.n, node };
        // SAFETY: as above (BATCH-F).
        let filled = unsafe { node.fill(record, payload, reply) };
        std::mem::forget(work);
        let asked = self.lane.end(self.n);
        match filled {
            Filled::In { future, bytes, fills } => {
                if asked || fills {
                    self.seal(accumulator);
                }
                Some(Appended { future, batch_is_full: asked || fills, new_batch: false, bytes })
            }
            Filled::Full | Filled::Ended => {
                self.seal(accumulator);
                None
            }
        }
    }

    /// Appends the first of `records`, as many as the open batch has room for, under one announcement: perhaps none.
    fn append_run(
        &mut self,
        accumulator: &LockFreeAccumulator,
        records: &[Record<'_>],
        futures: bool,
        done: &mut AppendedMany,
    ) {
        let Some(node) = self.open else { return };
        let mut over = !self.lane.begin(self.n);
        if !over {
            // SAFETY: OWNED-B: as in `append`.
            let node = unsafe { node.as_ref() };
            let work = Work { own: &self.lane, n: self.n, node };
            for record in records {
                let mut reply = Reply { future: futures, callback: None };
                // SAFETY: as above (BATCH-F).
                let filled = unsafe { node.fill(record, record.payload_size(), &mut reply) };
                let Filled::In { future, bytes, fills } = filled else {
                    over = true;
                    break;
                };
                done.add(Appended { future, batch_is_full: fills, new_batch: false, bytes });
                over = fills;
                if over {
                    break;
                }
            }
            std::mem::forget(work);
            over |= self.lane.end(self.n);
        }
        if over {
            done.batch_is_full = true;
            self.seal(accumulator);
        }
    }

    /// Ends the open batch: hands it over, unless the sender has taken it.
    #[cold]
    fn seal(&mut self, accumulator: &LockFreeAccumulator) {
        let Some(node) = self.open.take() else { return };
        if self.lane.hand_over(self.n) {
            // Ours, and nobody copies (OWNED-A).
            accumulator.publish(node);
        }
        self.n += 1;
    }
}

/// A lane that is counted and may come to be used.
struct Granted<'a> {
    accumulator: &'a LockFreeAccumulator,
    lane: Option<Arc<OwnedLane>>,
}

impl Granted<'_> {
    fn keep(mut self) {
        self.lane = None;
    }
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        self.lane.iter().for_each(|lane| self.accumulator.leave_lane(lane));
    }
}

impl LockFreeAccumulator {
    /// Counts one more owned lane, if that leaves room for others.
    fn take_lane(&self) -> bool {
        let total = self.pool.total();
        // Relaxed: a figure, which bounds how many there are because each is counted before it is used.
        let lanes = self.owned_lanes.fetch_add(1, Relaxed) as u64 + 1;
        let taken = self.pool.queued() == 0
            && lanes.saturating_mul(self.batch_size() as u64) <= total / 2
            && self.pool.available() >= total / 16;
        if !taken {
            // Relaxed: as above.
            self.owned_lanes.fetch_sub(1, Relaxed);
        }
        taken
    }

    /// Counts `lane` no more, if it still is: whoever ends it first, its owner or the sender, who may be long before him.
    pub(super) fn leave_lane(&self, lane: &OwnedLane) {
        if lane.leave() {
            // Relaxed: as in `take_lane`.
            self.owned_lanes.fetch_sub(1, Relaxed);
        }
    }

    /// The number of the batch in the shared lane's tail, which takes no more; 0 for none. `None` if it takes records.
    fn shared_end(&self, lane: &Lane) -> Option<u64> {
        let guard = epoch::pin();
        match lane.tail(&guard).0 {
            Tail::Batch(batch) => batch.is_sealed().then(|| batch.extra.id()),
            Tail::Empty | Tail::Closed => Some(0),
        }
    }

    /// Opens a batch in `own` with `record` in it. `None` if the lane was given up.
    #[cold]
    fn open_owned(
        &self,
        own: &mut Own,
        record: &Record<'_>,
        reply: &mut Reply,
        max_block: Duration,
    ) -> Result<Option<Appended>, AppendError> {
        if self.is_closed() {
            return Err(AppendError::Closed);
        }
        let size = self.batch_size().max(batch_size_upper_bound(record));
        self.let_catch_up(max_block);
        // Perhaps meanwhile.
        if own.lane.look() == State::Retired {
            return Ok(None);
        }
        let in_progress = self.in_progress.begin();
        step("appender.allocate");
        let lease = self.pool.allocate_telling(size, may_wait(max_block), || self.wake_sender())?.erase();
        let now = self.clock.now();
        drop(in_progress);
        let lane = &own.lane.lane;
        let entry = |watch| Entry::owned(&own.lane, watch);
        let mut batch = Box::new(AtomicBatch::new(lane.topic_partition().clone(), lease, now, entry));
        batch.begin(record, reply.callback.take());
        let (bytes, is_full) = (batch.len(), batch.own());
        // Relaxed: it need only be its own, and higher than those before it in the lane, which are ours.
        batch.extra.number(self.last_id.fetch_add(1, Relaxed) + 1, if own.n == 0 { own.after } else { 0 });
        let future = reply.future.then(|| batch.first_future());
        let guard = epoch::pin();
        let entered = self.books.enter(batch, &guard);
        drop(guard);
        let node = match entered {
            Ok(node) => node,
            Err(batch) => {
                drop(batch);
                return Err(AppendError::Closed);
            }
        };
        // SAFETY: BOOKS-B: it is not open and not void, so the sender leaves it alone.
        let refused = own.lane.open(own.n, node).map_err(|refused| (refused, unsafe { node.as_ref() }));
        if let Err((refused, node)) = refused {
            reply.callback = self.void(node);
            drop(future);
            return match refused {
                Refused::Closed => Err(AppendError::Closed),
                Refused::Retired => Ok(None),
            };
        }
        own.open = Some(node);
        // SAFETY: OWNED-B: opening it was announcing work on it.
        unsafe { node.as_ref() }.extra.opened();
        if own.lane.end(own.n) || is_full {
            own.seal(self);
        }
        own.lane.lane.came_back();
        Ok(Some(Appended { future, batch_is_full: is_full || own.open.is_none(), new_batch: true, bytes }))
    }
}

impl LockFreeAppender {
    pub(super) fn new(accumulator: &Arc<LockFreeAccumulator>) -> Self {
        let slot = || Slot { partition: 0, bytes: 0, since: Instant::ZERO, earned: false, own: None };
        Self {
            accumulator: Arc::clone(accumulator),
            slots: Box::new(std::array::from_fn(|_| slot())),
            _not_sync: PhantomData,
        }
    }

    #[inline(always)]
    fn address(partition: &LaneHandle) -> usize {
        std::ptr::from_ref::<Lane>(partition).addr()
    }

    /// Where a partition is looked for first.
    #[inline(always)]
    fn first(address: usize) -> usize {
        // Fibonacci: addresses differ in their middle bits.
        ((address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
    }

    /// The slot of a partition.
    #[inline(always)]
    fn find(&self, address: usize) -> Option<usize> {
        let first = Self::first(address);
        if self.slots[first % SLOTS].partition == address {
            return Some(first % SLOTS);
        }
        self.find_from(address, first)
    }

    #[inline(never)]
    fn find_from(&self, address: usize, first: usize) -> Option<usize> {
        (1..PROBES).map(|probe| (first + probe) % SLOTS).find(|at| self.slots[*at].partition == address)
    }

    /// A slot for a partition that has none: an empty one, or one that is not used for a lane, or for one that was taken back. `None` if all are.
    #[cold]
    fn take_slot(&mut self, address: usize) -> Option<usize> {
        let first = Self::first(address);
        let mut free = (0..PROBES).map(|probe| (first + probe) % SLOTS).filter(|at| !self.slots[*at].has_lane());
        let at = free.clone().find(|at| self.slots[*at].partition == 0).or_else(|| free.next())?;
        // All that was in it is behind those of the shared lane (OWNED-E): nothing has to be remembered of it.
        self.give_up(at);
        // Since ever: the first count is thrown away.
        self.slots[at] = Slot { partition: address, bytes: 0, since: Instant::ZERO, earned: false, own: None };
        Some(at)
    }

    /// What the open batch does not take: a new one, or the shared lane.
    #[cold]
    fn append_elsewhere(
        &mut self,
        at: Option<usize>,
        partition: &LaneHandle,
        record: &Record<'_>,
        mut reply: Reply,
        max_block: Duration,
    ) -> Result<Appended, AppendError> {
        let accumulator = &*self.accumulator;
        let address = Self::address(partition);
        if let Some(at) = at
            && let Some(own) = &mut self.slots[at].own
        {
            match accumulator.open_owned(own, record, &mut reply, max_block) {
                Ok(Some(appended)) => return Ok(appended),
                Ok(None) => self.give_up(at),
                Err(error) => {
                    // A batch may have been handed over before.
                    accumulator.wake_sender();
                    return Err(error);
                }
            }
        }
        let Some(at) = at.or_else(|| self.take_slot(address)) else {
            return self.accumulator.append(partition, record, reply, max_block);
        };
        if self.slots[at].earned {
            assert!(
                partition.belongs_to(&self.accumulator.identity),
                "a partition's handle was given to another accumulator"
            );
            if let Some(result) = self.change_over(at, partition, record, &mut reply, max_block) {
                return result;
            }
        }
        let appended = self.accumulator.append(partition, record, reply, max_block)?;
        self.count(at, appended.bytes);
        Ok(appended)
    }

    /// Appends the first of `records` to what is open: in the lane of its own, or in the shared one if no other is earned. Perhaps none.
    fn append_run(&mut self, partition: &LaneHandle, records: &[Record<'_>], futures: bool, done: &mut AppendedMany) {
        let Some(at) = self.find(Self::address(partition)) else { return };
        let slot = &mut self.slots[at];
        if let Some(own) = &mut slot.own {
            return own.append_run(&self.accumulator, records, futures, done);
        }
        if !slot.earned && partition.belongs_to(&self.accumulator.identity) {
            let before = done.bytes;
            self.accumulator.append_run(partition, records, futures, done);
            self.count(at, done.bytes - before);
        }
    }

    /// Takes note of what went to the shared lane.
    fn count(&mut self, at: usize, bytes: usize) {
        let slot = &mut self.slots[at];
        slot.bytes += bytes;
        if slot.bytes >= self.accumulator.batch_size().saturating_mul(EARN as usize) {
            let now = self.accumulator.clock.now();
            let linger = self.accumulator.config.linger.max(SHORTEST);
            slot.earned = now.saturating_since(slot.since) <= linger.saturating_mul(EARN);
            (slot.since, slot.bytes) = (now, 0);
        }
    }

    /// Fills up the batch in the shared lane's tail; if that is over, goes to a lane of its own, if there is room for one. `None`: to be appended to the shared lane.
    #[cold]
    fn change_over(
        &mut self,
        at: usize,
        partition: &LaneHandle,
        record: &Record<'_>,
        reply: &mut Reply,
        max_block: Duration,
    ) -> Option<Result<Appended, AppendError>> {
        let accumulator = &*self.accumulator;
        let mut published = false;
        let payload = record.payload_size();
        if let Some(appended) = accumulator.append_to_tail(partition, record, payload, reply, &mut published) {
            return Some(Ok(appended));
        }
        let after = accumulator.shared_end(partition);
        let mut appended = Ok(None);
        if let Some(after) = after
            && accumulator.take_lane()
        {
            let lane = Arc::new(OwnedLane::new(partition.clone()));
            // Counted no more if it does not come to be used, be it by a panic of foreign code.
            let granted = Granted { accumulator, lane: Some(Arc::clone(&lane)) };
            let mut own = Own { lane, after, n: 0, open: None };
            appended = accumulator.open_owned(&mut own, record, reply, max_block);
            if let Ok(Some(_)) = appended {
                granted.keep();
                self.slots[at].own = Some(own);
            }
        }
        self.slots[at].earned = false;
        match appended {
            Ok(None) => {
                if published {
                    accumulator.wake_sender();
                }
                None
            }
            Ok(Some(mut appended)) => {
                appended.batch_is_full |= published;
                Some(Ok(appended))
            }
            Err(error) => {
                accumulator.wake_sender();
                Some(Err(error))
            }
        }
    }

    /// Lets go of a lane.
    fn give_up(&mut self, at: usize) {
        if let Some(mut own) = self.slots[at].own.take() {
            own.seal(&self.accumulator);
            self.accumulator.leave_lane(&own.lane);
        }
        let slot = &mut self.slots[at];
        (slot.bytes, slot.since, slot.earned) = (0, Instant::ZERO, false);
    }
}

impl Appender for LockFreeAppender {
    type Partition = LaneHandle;

    fn lanes(&self) -> usize {
        self.slots.iter().filter(|slot| slot.own.is_some()).count()
    }

    #[inline]
    fn append(
        &mut self,
        partition: &LaneHandle,
        record: &Record<'_>,
        mut reply: Reply,
        max_block: Duration,
    ) -> Result<Appended, AppendError> {
        let payload = valid_payload_size(record)?;
        let at = self.find(Self::address(partition));
        if let Some(at) = at
            && let Some(own) = &mut self.slots[at].own
            && let Some(appended) = own.append(&self.accumulator, record, payload, &mut reply)
        {
            return Ok(appended);
        }
        self.append_elsewhere(at, partition, record, reply, max_block)
    }

    fn append_many(
        &mut self,
        partition: &LaneHandle,
        records: &[Record<'_>],
        futures: bool,
        max_block: Duration,
    ) -> AppendedMany {
        AppendedMany::of(records, |rest, done| {
            let before = done.accepted;
            self.append_run(partition, rest, futures, done);
            if done.accepted == before {
                done.add(self.append(partition, &rest[0], Reply { future: futures, callback: None }, max_block)?);
            }
            Ok(())
        })
    }
}

impl Drop for LockFreeAppender {
    /// Hands over what is open, as if it were full.
    fn drop(&mut self) {
        let lane = |at: &usize| self.slots[*at].own.as_ref().map(|own| own.lane.lane.topic_partition().clone());
        let mut owned: Vec<(TopicPartition, usize)> =
            (0..self.slots.len()).filter_map(|at| lane(&at).map(|lane| (lane, at))).collect();
        // Not by slots, which follow addresses: a history replays.
        owned.sort_unstable();
        for (_, at) in &owned {
            self.give_up(*at);
        }
        if !owned.is_empty() {
            self.accumulator.wake_sender();
        }
    }
}

impl fmt::Debug for LockFreeAppender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockFreeAppender").field("lanes", &self.lanes()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::accumulator::{AccumulatorConfig, LockFreeView, SenderView};
    use crate::broker::{Cluster, NodeId};
    use crate::error::TopicPartition;
    use crate::pool::PoolError;
    use crate::primitive::atomic::AtomicBool;
    use crate::primitive::clock::{Clock, SharedClock, SystemClock};

    const BATCH: usize = 256;

    struct Scene {
        accumulator: Arc<LockFreeAccumulator>,
        view: LockFreeView,
        cluster: Cluster,
    }

    impl Scene {
        fn new(batches: usize) -> Self {
            let config = AccumulatorConfig {
                buffer_memory: (batches * BATCH) as u64,
                batch_size: BATCH,
                linger: Duration::from_secs(3_600),
                ..AccumulatorConfig::default()
            };
            let (accumulator, view) = LockFreeAccumulator::new(config, SystemClock::shared());
            Self { accumulator, view, cluster: Cluster::single_node(NodeId(0), [("t", 2 * SLOTS as i32)]) }
        }

        /// Appends enough to earn a lane twice; whether it had one, as a number.
        fn fill(&mut self, appender: &mut LockFreeAppender) -> usize {
            self.fill_partition(appender, 0)
        }

        fn fill_partition(&mut self, appender: &mut LockFreeAppender, number: i32) -> usize {
            let partition = self.accumulator.partition(&TopicPartition::new("t", number));
            let record = Record { timestamp: 7, value: Some(&[b'x'; 30]), ..Record::default() };
            let mut most = 0;
            for _ in 0..100 {
                let appended = appender.append(&partition, &record, Reply::IGNORE, Duration::ZERO);
                assert!(appended.is_ok(), "{appended:?}");
                let at = appender.find(LockFreeAppender::address(&partition));
                most = most.max(usize::from(at.is_some_and(|at| appender.slots[at].own.is_some())));
                self.pass(self.accumulator.clock.now());
            }
            most
        }

        /// A round of the sender.
        fn pass(&mut self, now: Instant) {
            let ready = self.view.ready(&self.cluster, now);
            for batch in
                self.view.drain(&self.cluster, &ready.nodes, usize::MAX, now).into_iter().flat_map(|of| of.batches)
            {
                batch.completion().complete(0, None).expect("completed once");
                self.view.deallocate(batch).expect("in the books");
            }
        }

        /// Time passes in which nobody appends: what is open goes, and lanes are given up.
        fn grow_idle(&mut self) {
            for lingers in 1..=3 {
                self.pass(self.accumulator.clock.now().saturating_add(Duration::from_secs(3_601 * lingers)));
            }
        }
    }

    fn owned_lanes(accumulator: &LockFreeAccumulator) -> usize {
        // Relaxed: one thread, as for the rest of these tests.
        accumulator.owned_lanes.load(Relaxed)
    }

    #[test]
    fn an_owner_without_memory_waits_for_as_long_as_he_may_and_takes_what_comes() {
        let mut scene = Scene::new(64);
        let accumulator = Arc::clone(&scene.accumulator);
        let mut appender = accumulator.appender();
        assert_eq!(scene.fill(&mut appender), 1);
        let partition = accumulator.partition(&TopicPartition::new("t", 0));
        let value = [b'x'; BATCH / 2];
        let record = Record { timestamp: 7, value: Some(&value), ..Record::default() };
        let all = accumulator.pool.available() as usize;
        let held = accumulator.pool.allocate(all, Duration::ZERO).expect("it is all there");
        // Fills up what is open; then there is no memory.
        let mut append = |max_block| appender.append(&partition, &record, Reply::IGNORE, max_block);
        while append(Duration::ZERO).is_ok() {}
        let began = accumulator.clock.now();
        let error = append(Duration::from_millis(60)).map(drop).expect_err("nobody frees any");
        let asked = Duration::from_millis(60);
        assert!(matches!(error, AppendError::Pool(PoolError::Exhausted { max_block, .. }) if max_block == asked));
        let waited = accumulator.clock.now().saturating_since(began);
        assert!(waited >= Duration::from_millis(60) && waited < Duration::from_secs(20), "{waited:?}");
        drop(held);
        assert!(append(Duration::ZERO).is_ok(), "there is room");
    }

    #[test]
    fn no_lane_is_granted_while_somebody_waits_for_memory() {
        let mut scene = Scene::new(64);
        let accumulator = Arc::clone(&scene.accumulator);
        let mut appender = accumulator.appender();
        let held = accumulator.pool.allocate(BATCH, Duration::ZERO).expect("it is all there");
        {
            let mut whole = pin!(accumulator.pool.allocate_async(64 * BATCH));
            assert!(whole.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(scene.fill(&mut appender), 0);
        }
        assert_eq!(scene.fill(&mut appender), 1, "nobody waits any more");
        drop(held);
    }

    #[test]
    fn no_lane_is_granted_where_the_pool_has_no_room_for_it() {
        let mut scene = Scene::new(64);
        let accumulator = Arc::clone(&scene.accumulator);
        let mut appender = accumulator.appender();
        // All but three batches, less than a sixteenth of the pool.
        let held = accumulator.pool.allocate(61 * BATCH, Duration::ZERO).expect("it is all there");
        assert_eq!(scene.fill(&mut appender), 0);
        drop(held);
        assert_eq!(scene.fill(&mut appender), 1, "there is room");
    }

    #[test]
    fn a_lane_that_was_given_up_is_in_nobodys_way() {
        let mut scene = Scene::new(4);
        let accumulator = Arc::clone(&scene.accumulator);
        // More, one after the other, than may have one at once; each stays, and appends no more.
        let appenders: Vec<_> = (0..5)
            .map(|number| {
                let mut appender = accumulator.appender();
                assert_eq!(scene.fill(&mut appender), 1, "appender {number}");
                if number % 2 == 0 {
                    // What a flush has taken costs no lane: that goes later, with nothing open.
                    accumulator.begin_flush();
                    scene.pass(accumulator.clock.now());
                    accumulator.await_flush(Some(Duration::ZERO)).expect("all was acknowledged");
                    assert_eq!(owned_lanes(&accumulator), 1, "appender {number}");
                }
                scene.grow_idle();
                appender
            })
            .collect();
        assert_eq!(owned_lanes(&accumulator), 0);
        drop(appenders);
        assert_eq!(owned_lanes(&accumulator), 0, "counted once");
    }

    #[test]
    fn partitions_that_have_gone_quiet_are_in_no_others_way() {
        let mut scene = Scene::new(64);
        let accumulator = Arc::clone(&scene.accumulator);
        let mut appender = accumulator.appender();
        for number in 0..2 * SLOTS as i32 {
            assert_eq!(scene.fill_partition(&mut appender, number), 1, "partition {number}");
            scene.grow_idle();
        }
    }

    /// A clock that panics when it is told to.
    #[derive(Debug)]
    struct Failing(SystemClock, AtomicBool);

    impl Clock for Failing {
        fn now(&self) -> Instant {
            // Relaxed: one thread.
            assert!(!self.1.load(Relaxed), "on purpose: a clock");
            self.0.now()
        }

        fn unix_millis(&self) -> i64 {
            self.0.unix_millis()
        }
    }

    #[test]
    fn a_lane_whose_opening_panics_is_not_counted() {
        let clock = Arc::new(Failing(SystemClock::new(), AtomicBool::new(false)));
        let config = AccumulatorConfig { batch_size: BATCH, linger: Duration::from_secs(3_600), ..Default::default() };
        let (accumulator, view) = LockFreeAccumulator::new(config, Arc::clone(&clock) as SharedClock);
        let partition = accumulator.partition(&TopicPartition::new("t", 0));
        let mut appender = accumulator.appender();
        let record = Record { timestamp: 7, value: Some(&[b'x'; 30]), ..Record::default() };
        let mut append = || appender.append(&partition, &record, Reply::IGNORE, Duration::ZERO).map(drop);
        // Two batches and one record: it has earned a lane, and the third batch is to be filled up before that.
        while accumulator.pool().leased < 3 * BATCH as u64 {
            assert_eq!(append(), Ok(()));
        }
        // Relaxed: one thread.
        clock.1.store(true, Relaxed);
        let panics = (0..50).filter(|_| catch_unwind(AssertUnwindSafe(&mut append)).is_err()).count();
        assert!(panics > 40, "{panics}");
        assert_eq!((owned_lanes(&accumulator), accumulator.pool().leased), (0, 3 * BATCH as u64));
        // Relaxed: as above.
        clock.1.store(false, Relaxed);
        assert_eq!(append(), Ok(()));
        assert_eq!(owned_lanes(&accumulator), 1, "it was earned all along");
        drop((appender, view));
        assert_eq!(owned_lanes(&accumulator), 0);
    }

    #[test]
    fn owned_lanes_together_have_at_most_half_of_the_pool() {
        let mut scene = Scene::new(4);
        let accumulator = Arc::clone(&scene.accumulator);
        let mut appenders = [(); 4].map(|()| accumulator.appender());
        let lanes: usize = appenders.iter_mut().map(|appender| scene.fill(appender)).sum();
        assert_eq!(lanes, 2);
        drop(appenders);
        assert_eq!(owned_lanes(&accumulator), 0);
    }
}
