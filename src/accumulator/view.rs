//! The sender's face of the lock-free accumulator: plain collections, fed from the ready stack and the books.
//!
//! Source: Kafka's `RecordAccumulator` (`ready`, `drain`, `reenqueue`, `expiredBatches`, `abortBatches`, `abortIncompleteBatches`) for what it must do. Kafka looks at every partition on each
//! pass, under its lock (GAP-31); here a pass looks at partitions that have something queued.
//!
//! # How it learns of batches
//! [`LockFreeView::absorb`] takes the ready stack, then walks the books down to where it was the last time. A batch that was entered and not opened yet is kept aside and looked at again. Batches
//! stand in their queue's *line* by their numbers, which rise along a lane; the first of them is taken when it is finished and the one that it follows was taken (LANE-B). So a batch that was finished before
//! an earlier one waits for that one, and for nothing else (L6, L7). The one that it follows may not be known yet: it was entered behind the walk, and is found by the next. It is known which one is
//! missing, so it need not be known why.
//!
//! # What stands where
//! | the batch | is in |
//! |---|---|
//! | entered, not known to be open | `pending` |
//! | open, or sealed with a copy under way, or finished before an earlier one | its queue's `line`, and the deadlines |
//! | taken, or put back | its queue's `ready`, and the deadlines |
//! | drained | with the sender; `unfinished` until it is struck out |
//! | published, and somebody may be at work on it (ANN-B) | where it stood, as if it came later with the ready stack; and in `unsettled`, which is looked at again at each pass |
//! | ended while somebody copied into it | nowhere; its content comes with the ready stack, and is dropped |
//!
//! It never waits for an appender. A batch with a copy under way is skipped; where its time is up, or all is aborted, its records end at once and its memory comes when the copier leaves.

mod deadlines;
mod owned;
mod queues;

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::books::{self, Node, mark};
use super::lockfree::LockFreeAccumulator;
use super::{Accumulator, DrainGate, Drained, ReadyCheck, SenderView};
use crate::batch::{Compressor, FinalState, SealedBatch, Watch, Whole, insert, reset_some, split};
use crate::broker::{Cluster, Leader, NodeId};
use crate::error::{IllegalState, SendError, TopicPartition};
use crate::partition_map::PartitionMap;
use crate::pool::BufferPool;
use crate::primitive::clock::Instant;
use crate::primitive::random::Random;
use crate::primitive::table::{Set, Table};
use crate::primitive::{epoch, step};
use deadlines::Deadlines;
use owned::Owners;
use queues::{Place, Queues};

/// Batches that are over and may stay linked, beside as many as are not.
const FEW: usize = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 0 } else { 64 };

/// The lock-free sender's face.
pub struct LockFreeView {
    accumulator: Arc<LockFreeAccumulator>,
    /// The batch at which the last walk through the books began.
    seen: Option<NonNull<Node>>,
    pending: Vec<NonNull<Node>>,
    /// Empty but while it looks: for what has come off the ready stack, and was found open.
    finished: Vec<NonNull<Node>>,
    /// Published, and announced by those, a bit for each, who were asked to tell when they are done.
    unsettled: Vec<(NonNull<Node>, u64)>,
    opened: Vec<NonNull<Node>>,
    queues: Queues,
    owners: Owners,
    /// What is queued, by its age, and the place of its queue.
    deadlines: Deadlines,
    /// Open or drained and not struck out, by number.
    unfinished: Table<u64, NonNull<Node>>,
    /// Batches that are over and still linked, now and after the last sweep.
    over: usize,
    stayed: usize,
    muted: Set<TopicPartition>,
    drain_index: Table<NodeId, usize>,
    next_expiry: Option<Instant>,
    /// Batches that have come off the ready stack.
    came: u64,
    /// Batches that stand ready in all queues.
    ready: usize,
    /// Records whose time was up while somebody copied into their batch, since the sender asked.
    ended_early: u32,
    /// Compresses what is drained, if anything does.
    compressor: Option<Compressor>,
    random: Random,
}

// SAFETY: the nodes are `Sync`; BOOKS-B: it is this view that retires them.
unsafe impl Send for LockFreeView {}

/// A batch that the view knows.
///
/// # Safety
/// BOOKS-B: only the view retires batches, and forgets them then.
unsafe fn known<'a>(node: NonNull<Node>) -> &'a Node {
    // SAFETY: the caller's promise.
    unsafe { node.as_ref() }
}

/// A batch, or its node if somebody still copies into it.
type TakenOut = Result<SealedBatch, NonNull<Node>>;

impl LockFreeView {
    pub(super) fn new(accumulator: Arc<LockFreeAccumulator>) -> Self {
        Self {
            random: Random::seeded(accumulator.config.seed),
            compressor: Compressor::new(accumulator.config.compression, &accumulator.off_pool),
            accumulator,
            seen: None,
            pending: Vec::new(),
            finished: Vec::new(),
            unsettled: Vec::new(),
            opened: Vec::new(),
            queues: Queues::default(),
            owners: Owners::default(),
            deadlines: Deadlines::default(),
            unfinished: Table::default(),
            over: 0,
            stayed: 0,
            muted: Set::default(),
            drain_index: Table::default(),
            next_expiry: None,
            came: 0,
            ready: 0,
            ended_early: 0,
        }
    }

    /// Brings the collections up to date.
    fn absorb(&mut self) {
        let mut finished = std::mem::take(&mut self.finished);
        self.accumulator.ready.take(&mut finished);
        self.came += finished.len() as u64;
        finished.retain(|node| self.settles(*node));
        self.settle_again(&mut finished);
        for node in &finished {
            // SAFETY: `known`.
            unsafe { known(*node) }.extra.mark(mark::PUBLISHED);
        }
        self.look_at_books();
        step("view.look");
        self.look_at_pending();
        for node in finished.drain(..) {
            // SAFETY: `known`.
            let node = unsafe { known(node) };
            if node.extra.is_marked(mark::ENDED_EARLY) {
                drop(self.take(node));
            } else {
                self.advance_with(node);
            }
        }
        self.finished = finished;
        self.advance_behind();
        self.sweep();
    }

    /// Tells those who open batches how many stand ready.
    fn tell_ready(&self) {
        debug_assert_eq!(self.ready, self.queues.iter().map(|(_, queue)| queue.ready.len()).sum::<usize>());
        self.accumulator.has_ready(self.came, self.ready);
    }

    /// Whether nobody is at work any more on `node`, which was published to us; else it is asked for, and comes with a wake (ANN-C).
    fn settles(&mut self, node: NonNull<Node>) -> bool {
        // SAFETY: `known`.
        let at = unsafe { known(node) };
        // What has an owner is nobody else's to announce.
        let asked = if at.extra.own.is_some() { 0 } else { self.accumulator.announcements.ask(at) };
        if asked != 0 {
            self.unsettled.push((node, asked));
        }
        asked == 0
    }

    /// Adds to `settled` of what somebody was at work on that which nobody is any more.
    fn settle_again(&mut self, settled: &mut Vec<NonNull<Node>>) {
        let announcements = &self.accumulator.announcements;
        let settles = |(node, asked): &mut (NonNull<Node>, u64)| {
            // SAFETY: `known`.
            *asked = announcements.asked(unsafe { known(*node) }, *asked);
            *asked == 0
        };
        settled.extend(self.unsettled.extract_if(.., settles).map(|(node, _)| node));
    }

    /// Moves batches that were opened meanwhile to their lines.
    fn look_at_pending(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let guard = epoch::pin();
        let mut opened = std::mem::take(&mut self.opened);
        let over = &mut self.over;
        self.pending.retain(|node| {
            // SAFETY: `known`.
            let at = unsafe { known(*node) };
            if at.extra.is_void() {
                at.extra.mark(mark::OVER);
                *over += 1;
                return false;
            }
            let open = books::is_open(at, &guard);
            if open {
                opened.push(*node);
            }
            !open
        });
        drop(guard);
        for node in opened.drain(..) {
            // SAFETY: `known`.
            let at = unsafe { known(node) };
            at.extra.opened();
            let (id, kept_at) = (at.extra.id(), self.queues.of(&at.extra.lane));
            self.unfinished.insert(id, node);
            self.deadlines.insert(at.created(), id, kept_at);
            if at.extra.own.is_some() {
                self.enter_owned(at, kept_at);
                continue;
            }
            let line = &mut self.queues[kept_at].line;
            // SAFETY: `known`.
            let place = line.partition_point(|other| unsafe { known(*other) }.extra.id() < id);
            line.insert(place, node);
        }
        self.opened = opened;
    }

    /// Takes note of batches entered since the last time.
    fn look_at_books(&mut self) {
        let guard = epoch::pin();
        let before = self.pending.len();
        let mut head = None;
        for node in self.accumulator.books.walk(&guard) {
            let node = NonNull::from(node);
            head = head.or(Some(node));
            if self.seen == Some(node) {
                break;
            }
            self.pending.push(node);
        }
        // The first ones first.
        self.pending[before..].reverse();
        self.seen = head;
    }

    /// Takes the content of `node`, which was published to us; and whether a copy into it had panicked.
    fn take(&mut self, node: &Node) -> (SealedBatch, bool) {
        let lane = &node.extra.lane;
        node.extra.mark(mark::TAKEN);
        self.over += usize::from(node.extra.is_marked(mark::STRUCK));
        // SAFETY: BATCH-D: published to the sender, or finished by it.
        unsafe { node.take(lane.topic_partition().clone(), node.extra.id()) }
    }

    /// Takes from the front of the line at `at` what is finished and in its turn.
    fn advance(&mut self, at: usize) {
        loop {
            let queue = &mut self.queues[at];
            let Some(front) = queue.line.front() else { return };
            // SAFETY: `known`.
            let node = unsafe { known(*front) };
            let entry = &node.extra;
            if !queue.lane.has_taken(entry.after())
                || !(entry.is_marked(mark::PUBLISHED) || entry.is_marked(mark::GONE))
            {
                return;
            }
            queue.line.pop_front();
            entry.mark(mark::OUT);
            queue.lane.took(entry.id());
            if !entry.is_marked(mark::GONE) {
                self.take_to_queue(node, at);
            }
        }
    }

    /// Takes `node`, whose turn it is, and puts it behind what is ready at `at`.
    fn take_to_queue(&mut self, node: &Node, at: usize) {
        let (batch, failed) = self.take(node);
        if !failed {
            self.queues[at].ready.push_back(batch);
            self.ready += 1;
            return;
        }
        self.leaves(node);
        self.fail_panicked(batch);
    }

    fn fail_panicked(&mut self, batch: SealedBatch) {
        let topic_partition = batch.topic_partition();
        tracing::error!(%topic_partition, "an append panicked while it copied its record: its batch is aborted");
        let _ = batch.completion().abort(SendError::Aborted { reason: "an append to its batch panicked" });
        let _ = self.deallocate(batch);
    }

    /// `node` does not stand in its queue any more.
    fn leaves(&mut self, node: &Node) {
        self.deadlines.remove(node.created(), node.extra.id());
        node.extra.queued(false);
        node.extra.lane.left();
    }

    /// A batch has left `ready`.
    fn left(&mut self, batch: &SealedBatch) {
        self.ready -= 1;
        match self.unfinished.get(&batch.id()) {
            // SAFETY: `known`.
            Some(node) => self.leaves(unsafe { known(*node) }),
            None => {
                let kept_at = self.deadlines.remove(batch.created(), batch.id());
                let (Some(whole), Some(kept_at)) = (batch.whole(), kept_at) else { return };
                let queue = &self.queues[kept_at];
                queue.lane.left();
                let queued = queue.ready.iter().filter_map(SealedBatch::whole).any(|other| other.id() == whole.id());
                if let Some(node) = self.unfinished.get(&whole.id()) {
                    // SAFETY: `known`.
                    unsafe { known(*node) }.extra.queued(queued);
                }
            }
        }
    }

    /// Puts a batch back into its queue, by its rank if it is ordered. What stands in the books for a part is the batch that was split: while one of its parts is queued, so is that.
    fn put_back(&mut self, batch: SealedBatch) {
        let booked = batch.whole().map_or(batch.id(), Whole::id);
        let lane = match self.unfinished.get(&booked) {
            Some(node) => {
                // SAFETY: `known`.
                let entry = &unsafe { known(*node) }.extra;
                entry.queued(true);
                entry.lane.clone()
            }
            None => self.accumulator.partition(batch.topic_partition()),
        };
        lane.came_back();
        let kept_at = self.queues.of(&lane);
        self.deadlines.insert(batch.created(), batch.id(), kept_at);
        insert(&mut self.queues[kept_at].ready, batch);
        self.ready += 1;
    }

    /// Unlinks what is over, once that is worth a walk.
    fn sweep(&mut self) {
        if self.over - self.stayed <= FEW + self.unfinished.len() {
            return;
        }
        let seen = self.seen;
        let guard = epoch::pin();
        let is_over = |node: &Node| node.extra.is_marked(mark::OVER) && seen != Some(NonNull::from(node));
        // SAFETY: BOOKS-A: we are the sender. BOOKS-B: taken and struck out; we know it no more, since it left `unfinished` and its line.
        self.over -= unsafe { self.accumulator.books.sweep(&self.accumulator.announcements, &guard, is_over) };
        self.stayed = self.over;
    }

    /// The wait that `batch` still has to respect, if it is a retry (ACC-23). Drawn once, when it was put back (GAP-23).
    fn backoff(batch: &SealedBatch, now: Instant) -> Option<Duration> {
        if batch.attempts() == 0 || batch.leader_changed_for_retry() {
            return None;
        }
        let backoff = batch.backoff();
        (batch.waited(now) < backoff).then_some(backoff)
    }

    fn drain_node(
        &mut self,
        cluster: &Cluster,
        node: NodeId,
        places: &[Place],
        max_size: usize,
        now: Instant,
        gate: &mut dyn DrainGate,
    ) -> Vec<SealedBatch> {
        /// Batches for which there is room from the first: full ones, in a request of a MiB.
        const MANY: usize = 64;
        let partitions = cluster.led_by(node);
        if partitions.is_empty() {
            return Vec::new();
        }
        let mut batches = Vec::with_capacity(places.len().min(MANY));
        let mut size = 0;
        let start = self.drain_index.get(&node).map_or(0, |index| index % partitions.len());
        // As if each partition were examined in turn: a pass that comes round ends before its start, one that stops at a partition starts there again (ACC-26).
        self.drain_index.insert(node, (start + partitions.len() - 1) % partitions.len());
        let (before, behind) = places.split_at(places.partition_point(|place| place.index < start));
        for &Place { index, leader, at } in behind.iter().chain(before) {
            let topic_partition = &partitions[index];
            if self.muted.contains(topic_partition) {
                continue;
            }
            // Skipped: what others wait for is no matter of this one (GAP-22).
            if !gate.admits(topic_partition, self.queues[at].ready.front()) {
                continue;
            }
            let fits = |head_size| batches.is_empty() || size + head_size <= max_size;
            match self.head_size(at, leader.epoch, now) {
                None => continue,
                // With a codec only its compressed size can tell.
                Some(head_size) if !fits(head_size) && self.compressor.is_none() => {
                    self.drain_index.insert(node, index);
                    break;
                }
                Some(_) => self.seal_head(at),
            }
            // An open batch may have grown until it was sealed, and may have a copy under way.
            let queue = &mut self.queues[at];
            let Some(head) = queue.ready.front_mut() else { continue };
            if let Some(compressor) = &mut self.compressor {
                head.compress(compressor);
            }
            if !fits(head.size()) {
                self.drain_index.insert(node, index);
                break;
            }
            let Some(mut batch) = queue.ready.pop_front() else { continue };
            self.left(&batch);
            batch.see_leader_epoch(leader.epoch);
            gate.drained(&mut batch);
            if let Err(error) = batch.close() {
                // Not reachable while gates stamp with ids that a broker gave; were it, the batch must not be lost in silence.
                tracing::error!(%error, %topic_partition, "a drained batch could not be closed; its records are aborted");
                let _ = self.deallocate(batch);
                continue;
            }
            size += batch.size();
            batch.drained(now);
            batches.push(batch);
        }
        batches
    }

    /// Bytes of what could be drained next of the queue at `at`, if there is anything.
    fn head_size(&mut self, at: usize, leader_epoch: Option<i32>, now: Instant) -> Option<usize> {
        let queue = &mut self.queues[at];
        if let Some(head) = queue.ready.front_mut() {
            head.see_leader_epoch(leader_epoch);
            return Self::backoff(head, now).is_none().then(|| head.size());
        }
        // SAFETY: `known`.
        let open = unsafe { known(*queue.line.front()?) };
        (queue.lane.has_taken(open.extra.after()) && !open.is_sealed()).then(|| open.len())
    }

    /// Makes the head of the queue at `at` ready, sealing it if it is open. If somebody still copies into it, it comes with the ready stack.
    fn seal_head(&mut self, at: usize) {
        let queue = &self.queues[at];
        let Some(&node) = queue.line.front().filter(|_| queue.ready.is_empty()) else { return };
        // SAFETY: `known`.
        let open = unsafe { known(node) };
        if open.seal() && self.settles(node) {
            open.extra.mark(mark::PUBLISHED);
            self.advance(at);
        }
    }

    /// Takes the batch numbered `id` out of the queue at `kept_at`, wherever it stands there. If somebody still copies into it: its node.
    fn take_out(&mut self, kept_at: usize, id: u64) -> Option<TakenOut> {
        if let Some(taken) = self.take_out_owned(id) {
            return Some(taken);
        }
        let queue = &mut self.queues[kept_at];
        if let Some(at) = queue.ready.iter().position(|batch| batch.id() == id) {
            let batch = queue.ready.remove(at)?;
            self.left(&batch);
            return Some(Ok(batch));
        }
        // SAFETY: `known`.
        let of = |node: NonNull<Node>| unsafe { known(node) };
        let node = queue.line.iter().copied().find(|node| of(*node).extra.id() == id)?;
        let at = of(node);
        let finished = at.seal() && self.settles(node) || at.extra.is_marked(mark::PUBLISHED);
        let taken = self.take_gone(node, finished);
        // What stands behind it may be in its turn now.
        self.advance(kept_at);
        Some(taken)
    }

    /// Takes what stands in a line and is to go before its turn, if it is `finished`; else its node.
    fn take_gone(&mut self, node: NonNull<Node>, finished: bool) -> TakenOut {
        // SAFETY: `known`.
        let at = unsafe { known(node) };
        at.extra.mark(mark::GONE);
        self.leaves(at);
        if !finished {
            at.extra.mark(mark::ENDED_EARLY);
            return Err(node);
        }
        Ok(self.take(at).0)
    }

    /// Ends the records of a batch that somebody still copies into. Its memory comes with the ready stack.
    fn end_early(&mut self, node: NonNull<Node>, kind: FinalState, error: SendError) {
        // SAFETY: `known`.
        let at = unsafe { known(node) };
        // SAFETY: it is sealed and not finished, or its content comes to us; and only we end what was not published.
        unsafe { at.end_early(kind, error) }
        let _ = self.strike_out(at.extra.id());
    }
}

impl SenderView for LockFreeView {
    const BY_DEADLINE: bool = true;

    fn ready_through(&mut self, cluster: &Cluster, now: Instant, gate: &mut dyn DrainGate) -> ReadyCheck {
        self.absorb();
        let accumulator = &self.accumulator;
        let linger = accumulator.config.linger;
        let hurry = accumulator.pool.queued() > 0 || accumulator.is_closed() || accumulator.flush_in_progress();
        let next_check = self.look_at_owned(cluster, now);
        let mut check = ReadyCheck { next_check, ..ReadyCheck::default() };
        let muted = &self.muted;
        self.queues.retain_used(|queue| {
            let topic_partition = queue.lane.topic_partition();
            let leader = cluster.leader(topic_partition);
            if let (Some(leader), Some(head)) = (leader, queue.ready.front_mut()) {
                head.see_leader_epoch(leader.epoch);
            }
            let Some(Leader { node, .. }) = leader else {
                if !check.unknown_leader_topics.contains(&topic_partition.topic) {
                    check.unknown_leader_topics.push(topic_partition.topic.clone());
                }
                return;
            };
            if check.nodes.contains(&node)
                || muted.contains(topic_partition)
                || !gate.admits(topic_partition, queue.ready.front())
            {
                return;
            }
            let (waited, backoff, full) = match (queue.ready.front(), queue.line.front()) {
                // A batch closed for appends counts as full (BATCH-04).
                (Some(head), _) => (head.waited(now), Self::backoff(head, now), true),
                (None, Some(open)) => {
                    // SAFETY: `known`.
                    let open = unsafe { known(*open) };
                    if open.is_sealed() {
                        // Finished soon, by who copies into it or is about to publish it: that brings a wake.
                        return;
                    }
                    (now.saturating_since(open.created()), None, false)
                }
                (None, None) => return,
            };
            let target = backoff.unwrap_or(linger);
            if (full || waited >= target || hurry) && backoff.is_none() {
                check.nodes.push(node);
            } else {
                let left = target.saturating_sub(waited);
                check.next_check = Some(check.next_check.map_or(left, |so_far| so_far.min(left)));
            }
        });
        check
    }

    fn drain_through(
        &mut self,
        cluster: &Cluster,
        nodes: &[NodeId],
        max_size: usize,
        now: Instant,
        gate: &mut dyn DrainGate,
    ) -> Vec<Drained> {
        self.absorb();
        let places = self.queues.places(cluster);
        let of_node = |node| {
            let led_from = places.partition_point(|place| place.leader.node < node);
            let led = places[led_from..].partition_point(|place| place.leader.node == node);
            &places[led_from..led_from + led]
        };
        let drained = nodes
            .iter()
            .map(|&node| Drained { node, batches: self.drain_node(cluster, node, of_node(node), max_size, now, gate) })
            .collect();
        self.tell_ready();
        drained
    }

    fn reenqueue(&mut self, mut batch: SealedBatch, now: Instant) {
        let backoff = self.accumulator.config.backoff.after(batch.attempts(), &mut self.random);
        batch.reenqueued(now, backoff);
        self.put_back(batch);
    }

    fn reset_producer_state(&mut self, topic_partition: &TopicPartition, reset: &mut dyn FnMut(&SealedBatch) -> bool) {
        let lane = self.accumulator.map.get(&topic_partition.topic, topic_partition.partition);
        if let Some(at) = lane.and_then(|lane| lane.kept_at()) {
            reset_some(&mut self.queues[at].ready, reset);
        }
    }

    fn split(&mut self, batch: SealedBatch) -> Result<Vec<SealedBatch>, Box<SealedBatch>> {
        let accumulator = &self.accumulator;
        split(batch, accumulator.config.batch_size, &accumulator.off_pool, || accumulator.next_id())
    }

    fn enqueue(&mut self, part: SealedBatch) {
        self.put_back(part);
    }

    fn expired(&mut self, now: Instant) -> Vec<SealedBatch> {
        self.absorb();
        let timeout = self.accumulator.config.delivery_timeout;
        let mut expired = Vec::new();
        while let Some((created, id, kept_at)) = self.deadlines.first() {
            let age = now.saturating_since(created);
            if age < timeout {
                break;
            }
            match self.take_out(kept_at, id) {
                Some(Ok(batch)) => expired.push(batch),
                Some(Err(node)) => {
                    // SAFETY: `known`.
                    let records = unsafe { known(node) }.count();
                    self.ended_early = self.ended_early.saturating_add(records);
                    let topic_partition = self.queues[kept_at].lane.topic_partition().clone();
                    let error = SendError::DeliveryTimeout { topic_partition, records, age, timeout };
                    self.end_early(node, FinalState::Failed, error);
                }
                None => drop(self.deadlines.remove(created, id)),
            }
        }
        // Overflow is no expiry (ACC-39).
        self.next_expiry = self.deadlines.first().and_then(|(created, ..)| created.checked_add(timeout));
        self.tell_ready();
        expired
    }

    fn expired_early(&mut self) -> u32 {
        std::mem::take(&mut self.ended_early)
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.next_expiry
    }

    fn mute(&mut self, topic_partition: &TopicPartition) {
        self.muted.insert(topic_partition.clone());
    }

    fn unmute(&mut self, topic_partition: &TopicPartition) {
        self.muted.remove(topic_partition);
    }

    fn is_muted(&self, topic_partition: &TopicPartition) -> bool {
        self.muted.contains(topic_partition)
    }

    fn strike_out(&mut self, id: u64) -> Result<(), IllegalState> {
        let Some(node) = self.unfinished.remove(&id) else {
            return Err(IllegalState("the batch is not among the unfinished ones: it was ended before"));
        };
        // SAFETY: `known`.
        let entry = &unsafe { known(node) }.extra;
        entry.mark(mark::STRUCK);
        self.over += usize::from(entry.is_marked(mark::TAKEN));
        Ok(())
    }

    fn abort_all(&mut self, error: &SendError) {
        self.absorb();
        // All that is known now, and no more: what comes during the callbacks is left whole.
        let mut known_now: Vec<(u64, NonNull<Node>)> = self.unfinished.iter().map(|(id, node)| (*id, *node)).collect();
        known_now.sort_unstable_by_key(|(id, _)| *id);
        let mut doomed: Vec<(u64, Watch, Option<TakenOut>)> = Vec::new();
        // Parts of what was split stand in no books: what does is aborted below, and nobody would send them for it.
        let is_part = |batch: &&SealedBatch| batch.whole().is_some();
        let parts =
            self.queues.iter().flat_map(|(at, queue)| queue.ready.iter().filter(is_part).map(move |part| (at, part)));
        let parts: Vec<_> = parts.map(|(at, part)| (at, part.id(), part.completion().watch())).collect();
        for (id, node) in known_now {
            // SAFETY: `known`.
            let entry = &unsafe { known(node) }.extra;
            let taken = entry.lane.kept_at().and_then(|at| self.take_out(at, id));
            doomed.push((id, entry.watch.clone(), taken));
        }
        for (at, id, watch) in parts {
            doomed.push((id, watch, self.take_out(at, id)));
        }
        // In the order in which they were opened, in flight or not. The memory of what is in flight comes back from the transport.
        for (id, watch, taken) in doomed {
            match taken {
                Some(Err(node)) => self.end_early(node, FinalState::Aborted, error.clone()),
                Some(Ok(batch)) => {
                    let _ = batch.completion().abort(error.clone());
                    let _ = self.deallocate(batch);
                }
                // Settled already, by a transport that dropped it: as good.
                None => {
                    if watch.abort(error.clone()) || watch.is_done() {
                        let _ = self.strike_out(id);
                    }
                }
            }
        }
        self.tell_ready();
    }

    fn abort_incomplete(&mut self, error: &SendError) {
        self.abort_all(error);
        self.accumulator.in_progress.await_none();
        // What they have left. Nothing is opened any more, so after this nothing is unfinished but copies under way.
        self.abort_all(error);
        let unsettled = self.unsettled.drain(..).map(|(node, _)| node);
        for node in self.accumulator.ready.close().into_iter().chain(unsettled) {
            self.accumulator.leave(node);
        }
        self.accumulator.map.clear();
    }
}

impl Drop for LockFreeView {
    fn drop(&mut self) {
        self.accumulator.close();
        self.abort_incomplete(&SendError::Aborted { reason: "its sender has ended" });
    }
}

impl fmt::Debug for LockFreeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockFreeView").field("muted", &self.muted).finish_non_exhaustive()
    }
}
