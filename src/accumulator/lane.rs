//! The lane: a partition's place in the lock-free core. One word says which batch takes records.
//!
//! | `tail` | means | left by |
//! |---|---|---|
//! | null | no batch was ever opened here | CAS to the first |
//! | a batch | the one opened last; it takes records until its own word says sealed, and stays here when it was sent | CAS to the next batch, when it is sealed; the sender's CAS to its number, when it is over and nothing has come since |
//! | a number, tagged EMPTIED | the batch of that number was the last, and is over | CAS to the next batch |
//! | any of them, tagged CLOSED | nothing is opened here any more | never |
//!
//! # Invariants
//! - **LANE-A** A batch comes into the tail once, with its first record in it, numbered higher than all that were there before; it leaves it once, sealed.
//! - **LANE-B** A batch follows the one that it replaces: its `after` says which. The sender takes the batches of a lane in that order. A tail that was left never comes back, null neither, and a number stands there once (of 61 bits; where pointers have 32, of 29: an opener would have to be stopped for that many batches): so a CAS that
//!   succeeds replaces what its caller has looked at.
//! - **LANE-C** The batch in the tail is not retired: the next one to be opened lets it go, or the sender, which empties the tail of a lane where a batch was over at two sweeps. Whoever reads the tail has announced the batch and found it there once more, or is pinned, and keeps the batch by that until it has a place in it, which then keeps it (BATCH-C).
//!
//! # Why order holds (L6)
//! Let an append return before another to the same lane begins. In one batch: reservations are ordered by its word, and the later one reads a word not older than the earlier one's. In two: the tail
//! that the later one reads is not older than the one that the earlier one read, and batches are drained in the order in which they came into the tail.
//!
//! # The race that looks dangerous
//! *Two openers*, which there are if one was stopped ([`super::opener`]): both have memory, both find the tail sealed. One CAS succeeds; the other finds an open batch, takes a place there, voids its own and gives its memory back. *An opener against the close*: one
//! word; closed first, the CAS fails and the record is refused; opened first, the closer finds the batch in the tail and seals it. *An opener against the sender that empties the tail*: one word; emptied first, the opener's CAS fails, and it looks again and
//! finds that it follows nothing, since that batch was taken; opened first, the sender's CAS fails, and the batch was let go by the opener.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::books::Node;
use super::opener::Openers;
use crate::batch::Slot;
use crate::error::TopicPartition;
use crate::partition_map::PartitionHandle;
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicI64, AtomicU64, AtomicUsize};
use crate::primitive::epoch::{self, Atomic, Guard, Shared};
use crate::primitive::step;

/// Tags of the tail.
const CLOSED: usize = 1;
const EMPTIED: usize = 2;
/// Bits of an address that are free for tags, and the place of a number beside them.
const TAG_BITS: u32 = align_of::<Node>().trailing_zeros();
const _: () = assert!(align_of::<Node>() > CLOSED | EMPTIED, "room for the tags");

/// No place among the sender's queues.
const NOWHERE: usize = usize::MAX;

/// A partition of the lock-free core.
pub struct Lane {
    /// Its accumulator's `identity`.
    owner: Arc<()>,
    topic_partition: TopicPartition,
    tail: Atomic<Node>,
    /// Who opens the next batch.
    pub(super) openers: Openers,
    /// Batches opened here and not drained: a figure, which may lag behind and fall below zero for a moment.
    queued: AtomicI64,
    /// The number of the batch that the sender took last. Its own.
    taken: AtomicU64,
    /// Where the sender keeps what is queued of it. Its own.
    kept_at: AtomicUsize,
}

/// The handle of a partition of the lock-free core.
pub type LaneHandle = PartitionHandle<Lane>;

/// What a look at the tail finds.
pub(super) enum Tail<'g> {
    Closed,
    Empty,
    Batch(&'g Node),
}

impl Lane {
    pub(super) fn new(owner: Arc<()>, topic_partition: TopicPartition) -> Self {
        Self {
            owner,
            topic_partition,
            tail: Atomic::null(),
            openers: Openers::new(),
            queued: AtomicI64::new(0),
            taken: AtomicU64::new(0),
            kept_at: AtomicUsize::new(NOWHERE),
        }
    }

    pub(super) fn belongs_to(&self, owner: &Arc<()>) -> bool {
        Arc::ptr_eq(&self.owner, owner)
    }

    pub(super) fn topic_partition(&self) -> &TopicPartition {
        &self.topic_partition
    }

    /// The tail, and the word of it that [`Lane::open`] compares with.
    #[inline]
    pub(super) fn tail<'g>(&self, guard: &'g Guard) -> (Tail<'g>, Shared<'g, Node>) {
        // Acquire pairs with the Release of the CAS that opened the batch: it is seen whole. An older tail is one that is sealed, or was taken: the CAS on it fails.
        let tail = self.tail.load(Acquire, guard);
        // SAFETY: LANE-C: pinned since before the load.
        let batch = unsafe { Self::batch(tail) };
        if let Some(batch) = batch {
            batch.extra.reached();
        }
        match batch {
            // A closed tail's batch takes records until it is sealed, which is the close's next step: they come before the close.
            Some(batch) => (Tail::Batch(batch), tail),
            None if Self::is_closed(tail) => (Tail::Closed, tail),
            None => (Tail::Empty, tail),
        }
    }

    /// The batch in the tail, announced in `slot`: so it is kept until that is withdrawn (ANN-D). `None`: there is none, or only the one at `full`, and nothing is announced. `told` is called where an announcement was withdrawn, and somebody has asked to be told.
    #[inline(always)]
    pub(super) fn announce(&self, slot: &Slot, full: usize, mut told: impl FnMut()) -> Option<NonNull<Node>> {
        // SAFETY: addresses are loaded, and looked behind only when they are announced.
        let guard = unsafe { epoch::unprotected() };
        // Relaxed: an address to announce; nothing behind it is looked at before the second look.
        let mut tail = self.tail.load(Relaxed, guard);
        loop {
            let batch = NonNull::new(tail.with_tag(0).as_raw().cast_mut()).filter(|_| tail.tag() & EMPTIED == 0)?;
            if batch.addr().get() == full {
                return None;
            }
            slot.announce(batch.addr().get());
            step("lane.announced");
            // Acquire, as in `tail`. If it is the same as before, or closed since, the batch had not left the tail when we had announced it, and it is kept; if it is another one now, that is next.
            let now = self.tail.load(Acquire, guard);
            // Not a number that looks like the address.
            if now.tag() & EMPTIED == 0 && now.with_tag(0) == tail.with_tag(0) {
                // The same address; but it may be that of another batch since the first look, so by the pointer of the second.
                let batch = NonNull::new(now.with_tag(0).as_raw().cast_mut())?;
                // SAFETY: ANN-D.
                unsafe { batch.as_ref() }.extra.kept();
                return Some(batch);
            }
            if slot.withdraw() {
                told();
            }
            tail = now;
        }
    }

    pub(super) fn is_closed(tail: Shared<'_, Node>) -> bool {
        tail.tag() & CLOSED != 0
    }

    /// The batch that `tail` says.
    ///
    /// # Safety
    /// LANE-C: it was loaded by a caller that has been pinned since before.
    unsafe fn batch<'g>(tail: Shared<'g, Node>) -> Option<&'g Node> {
        if tail.tag() & EMPTIED != 0 {
            return None;
        }
        // SAFETY: the caller's promise.
        unsafe { tail.with_tag(0).as_ref() }
    }

    pub(super) fn has_in_tail(&self, node: &Node, guard: &Guard) -> bool {
        // Acquire: see `tail`.
        let tail = self.tail.load(Acquire, guard);
        tail.tag() & EMPTIED == 0 && tail.with_tag(0).as_raw() == std::ptr::from_ref(node)
    }

    /// Puts `node` into the tail in place of `before`, which is null, a number, or sealed. Whether it did.
    pub(super) fn open(&self, before: Shared<'_, Node>, node: NonNull<Node>, guard: &Guard) -> bool {
        // SAFETY: LANE-C, as in `tail`.
        if let Some(before) = unsafe { Self::batch(before) } {
            // It is about to leave the tail (BOOKS-C).
            before.extra.opened();
        }
        step("lane.open");
        let after = Shared::from(node.as_ptr().cast_const());
        // Release pairs with the Acquire in `tail`: whoever finds the batch finds it whole, first record included. Acquire: our numbers rise above those of the batch that we replace. If
        // another opener or the close was first, the CAS fails.
        let opened = self.tail.compare_exchange(before, after, AcqRel, Relaxed, guard).is_ok();
        if opened {
            // Relaxed: a figure.
            self.queued.fetch_add(1, Relaxed);
        }
        opened
    }

    /// By the sender: takes `node`, which is over, out of the tail, if it is still there and the lane is not closed. Whether it did.
    pub(super) fn empty(&self, node: &Node, guard: &Guard) -> bool {
        let last = Shared::from(std::ptr::from_ref(node));
        let number = std::ptr::without_provenance::<Node>((node.extra.id() as usize) << TAG_BITS);
        step("lane.empty");
        // Release pairs with the Acquire in `tail`: who finds the number finds the batch's stage noted (BOOKS-C). That the next one is numbered higher follows from the opening of this one, whose release this exchange hands on. If another
        // was opened first, or the lane closed, the CAS fails.
        self.tail.compare_exchange(last, Shared::from(number).with_tag(EMPTIED), Release, Relaxed, guard).is_ok()
    }

    /// Nothing is opened here from now on. The batch in the tail is the caller's to seal.
    pub(super) fn close<'g>(&self, guard: &'g Guard) -> Option<&'g Node> {
        step("lane.close");
        // AcqRel: whoever opened before is found here; whoever comes later finds the tag.
        let tail = self.tail.fetch_or(CLOSED, AcqRel, guard);
        // SAFETY: LANE-C, as in `tail`.
        unsafe { Self::batch(tail) }
    }

    /// Batches that are queued here, the one being filled included.
    #[inline]
    pub(super) fn queued(&self) -> i64 {
        // Relaxed: a figure.
        self.queued.load(Relaxed)
    }

    /// One more is queued: it was put back, or opened in a lane that somebody owns.
    pub(super) fn came_back(&self) {
        // Relaxed: a figure.
        self.queued.fetch_add(1, Relaxed);
    }

    /// One less is queued.
    pub(super) fn left(&self) {
        // Relaxed: a figure.
        self.queued.fetch_sub(1, Relaxed);
    }

    /// The sender has taken the batch numbered `id`: it may take what follows that.
    pub(super) fn took(&self, id: u64) {
        // Relaxed, both: the sender's own.
        debug_assert!(self.taken.load(Relaxed) < id, "LANE-A: numbers rise along a lane");
        self.taken.store(id, Relaxed);
    }

    /// Whether the sender has taken the batch numbered `id`.
    pub(super) fn has_taken(&self, id: u64) -> bool {
        // Relaxed: the sender's own.
        self.taken.load(Relaxed) >= id
    }

    /// Where the sender keeps what is queued of it, if anything is.
    pub(super) fn kept_at(&self) -> Option<usize> {
        // Relaxed: the sender's own.
        Some(self.kept_at.load(Relaxed)).filter(|at| *at != NOWHERE)
    }

    /// By the sender.
    pub(super) fn keep_at(&self, at: Option<usize>) {
        // Relaxed: the sender's own.
        self.kept_at.store(at.unwrap_or(NOWHERE), Relaxed);
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lane").field(&self.topic_partition).finish()
    }
}
