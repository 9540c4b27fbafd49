//! The books of unfinished batches: a list that everybody puts batches on, and only the sender strikes them from.
//!
//! Kafka keeps its `IncompleteBatches` under a lock that every new and every finished batch takes, and that a flush copies it under (GAP-32). Here a batch is entered by one CAS before
//! it can take records, and the sender unlinks it when it is over. Whoever walks the list - a flush, a look whether anything is left, a close - is pinned meanwhile, and waits for nobody.
//!
//! # Why a batch is entered before it is opened
//! A batch that takes records and is not in the books could be missed: by a flush that begins after one of its records was accepted, by the close, by the sender. So the
//! order is: enter, then open by a CAS of the lane's tail. One that does not come to be opened is marked void, and struck out by the sender.
//!
//! **The close is the same word.** [`Books::close`] tags the head: from then on nothing can be entered, so no batch can be opened but those in the list, whose lanes the closer then closes
//! one by one. That is what makes the last look of a graceful close the last (ACC-48), also for partitions that appear during it.
//!
//! # State
//! | word | means | left by |
//! |---|---|---|
//! | `head` | the batch entered last | CAS of `enter` |
//! | `head`, tagged CLOSED | the same; nothing is entered any more | never |
//! | a batch's `next` | the one entered before it | the sender's store, when it unlinks that one |
//!
//! | `stage` of a batch | means | left by |
//! |---|---|---|
//! | `ENTERED` | in the books; opened if its lane's tail says so | CAS to `OPENED` by whoever has seen it in the tail and is about to take it out of there, or by its creator; store of `VOID` by its creator |
//! | `OPENED` | it takes or has taken records, and was not drained | the sender's store of `DRAINED` |
//! | `DRAINED` | with the sender or a broker, or over | the sender's store of `OPENED`, at a re-enqueue |
//! | `VOID` | it was never opened and never will be; its content is gone | never |
//!
//! # Invariants
//! - **BOOKS-A** A batch is entered once, and from then on changes hands only by its word and its stage. Only the sender unlinks, and never the one at the head: so `head` is changed by `enter` and
//!   `close` only, and a `next` by one thread.
//! - **BOOKS-B** A batch is retired by the sender, once, after it was unlinked, and not before it was taken (or is void), it has left its lane's tail, and it was struck out,
//!   and was in nobody's announcement after that (ANN-D). Whoever still looks at it is pinned since before it was unlinked.
//! - **BOOKS-C** A batch is opened, if it is, after it was entered; and it is `OPENED` before it leaves its lane's tail. So who sees a tail that came later sees the stage.
//!
//! # Linearization points
//! Entering: its CAS. A walk shows every batch that was entered before its load of the head and was not unlinked by then.
//!
//! # Progress
//! `enter`: lock-free. Walking: wait-free but for the length of the list. `close`: wait-free. `sweep`: wait-free, the sender's.

use std::ptr::NonNull;
use std::sync::Arc;

use super::lane::LaneHandle;
use super::owned::OwnedLane;
use crate::batch::{Announced, Announcements, AtomicBatch, Watch};
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicPtr, AtomicU8, AtomicU64};
use crate::primitive::epoch::{Atomic, Guard, Owned, Shared};
use crate::primitive::step;
use crate::primitive::witness::Witness;

/// Tag of the head: nothing is entered any more.
const CLOSED: usize = 1;

const ENTERED: u8 = 0;
const OPENED: u8 = 1;
const DRAINED: u8 = 2;
const VOID: u8 = 3;

/// A batch as the books keep it.
pub(super) type Node = AtomicBatch<Entry>;

/// What stands in the books beside a batch.
pub(super) struct Entry {
    pub(super) lane: LaneHandle,
    /// The lane that it is opened in, if that is an appender's own.
    pub(super) own: Option<Arc<OwnedLane>>,
    pub(super) watch: Watch,
    /// Its number: rises along a lane. Written before the batch is opened.
    id: AtomicU64,
    /// The number of the batch before it in its lane that had not been taken when it was opened; 0 for none. Likewise.
    after: AtomicU64,
    stage: AtomicU8,
    /// The sender's own.
    marks: AtomicU8,
    next: Atomic<Node>,
    /// The batch below it on the ready stack.
    pub(super) next_ready: AtomicPtr<Node>,
    /// Read by whoever reaches the batch by a shared word, written by its end: so that a checker finds an end that is not ordered behind them.
    reached: Witness,
    /// The same of those who reach it by an announcement, written when the sender lets go of it.
    kept: Witness,
}

/// What the sender knows of a batch and nobody else needs to.
pub(super) mod mark {
    /// It has come off the ready stack.
    pub(in super::super) const PUBLISHED: u8 = 1;
    /// Its content was taken.
    pub(in super::super) const TAKEN: u8 = 2;
    /// It was struck out.
    pub(in super::super) const STRUCK: u8 = 4;
    /// It was ended while somebody still copied into it.
    pub(in super::super) const ENDED_EARLY: u8 = 8;
    /// It does not stand in its queue any more.
    pub(in super::super) const GONE: u8 = 16;
    /// It has left its line.
    pub(in super::super) const OUT: u8 = 32;
    /// It was over and in its lane's tail at a sweep.
    pub(in super::super) const STAYED: u8 = 64;
    /// It has left its lane, and was over by then.
    pub(in super::super) const LEFT: u8 = 128;
    /// Nothing of it is left to do.
    pub(in super::super) const OVER: u8 = TAKEN | STRUCK | OUT;
}

impl Entry {
    pub(super) fn new(lane: LaneHandle, watch: Watch) -> Self {
        Self {
            lane,
            own: None,
            watch,
            id: AtomicU64::new(0),
            after: AtomicU64::new(0),
            stage: AtomicU8::new(ENTERED),
            marks: AtomicU8::new(0),
            next: Atomic::null(),
            next_ready: AtomicPtr::new(std::ptr::null_mut()),
            reached: Witness::default(),
            kept: Witness::default(),
        }
    }

    /// Of a batch that is to be opened in `own`.
    pub(super) fn owned(own: &Arc<OwnedLane>, watch: Watch) -> Self {
        let mut entry = Self::new(own.lane.clone(), watch);
        entry.own = Some(Arc::clone(own));
        entry
    }

    /// To be called by whoever has reached the batch by a shared word.
    #[inline(always)]
    pub(super) fn reached(&self) {
        self.reached.read(1);
    }

    /// To be called by whoever has reached the batch by an announcement.
    #[inline(always)]
    pub(super) fn kept(&self) {
        self.kept.read(1);
    }

    /// Numbers the batch, for the CAS that is to open it.
    pub(super) fn number(&self, id: u64, after: u64) {
        // Relaxed, both: the CAS releases them; read by who has found the batch open.
        self.id.store(id, Relaxed);
        self.after.store(after, Relaxed);
    }

    pub(super) fn id(&self) -> u64 {
        // Relaxed: see `number`.
        self.id.load(Relaxed)
    }

    pub(super) fn after(&self) -> u64 {
        // Relaxed: see `number`.
        self.after.load(Relaxed)
    }

    /// Notes that it is open: before it leaves its lane's tail, and by its creator.
    pub(super) fn opened(&self) {
        step("books.opened");
        // Release: whoever reads it sees the number. Not a store: the sender may have drained it meanwhile. Relaxed on failure: it was noted by another.
        let _ = self.stage.compare_exchange(ENTERED, OPENED, Release, Relaxed);
    }

    /// Notes that it will never be opened. Its creator's last act on it.
    pub(super) fn void(&self) {
        // Release pairs with the Acquire in `stage`: the sender, who retires it, comes after all that its creator did.
        self.stage.store(VOID, Release);
    }

    fn stage(&self) -> u8 {
        // Acquire pairs with the Release of whoever noted it. An older stage: the tail says the same (BOOKS-C), or the next look does.
        self.stage.load(Acquire)
    }

    pub(super) fn is_void(&self) -> bool {
        self.stage() == VOID
    }

    /// By the sender: whether it stands in its queue.
    pub(super) fn queued(&self, queued: bool) {
        // Release: whoever sees it drained sees what was drained before. By the sender alone once it is open.
        self.stage.store(if queued { OPENED } else { DRAINED }, Release);
    }

    /// By the sender.
    pub(super) fn mark(&self, mark: u8) {
        // Relaxed, both: the sender's own.
        self.marks.store(self.marks.load(Relaxed) | mark, Relaxed);
    }

    /// By the sender: whether all of `mark` are set.
    pub(super) fn is_marked(&self, mark: u8) -> bool {
        // Relaxed: the sender's own.
        self.marks.load(Relaxed) & mark == mark
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.reached.write(0);
    }
}

/// Whether `node` is the batch that its lane has open: in the shared lane's tail, or in the word of an owned one.
fn is_in_lane(node: &Node, guard: &Guard) -> bool {
    match &node.extra.own {
        None => node.extra.lane.has_in_tail(node, guard),
        Some(own) => own.holds(node),
    }
}

/// By the sender: whether `node`, which is over, has left its lane; if it is still there since the last sweep, it is taken out.
fn leaves_lane(node: &Node, guard: &Guard) -> bool {
    if !is_in_lane(node, guard) {
        return true;
    }
    let stayed = node.extra.is_marked(mark::STAYED);
    node.extra.mark(mark::STAYED);
    stayed && node.extra.lane.empty(node, guard)
}

/// Whether `node` was opened, and perhaps drained.
pub(super) fn is_open(node: &Node, guard: &Guard) -> bool {
    // The tail before the stage: if it was opened and has left the tail, the stage says so by then (BOOKS-C).
    let in_tail = is_in_lane(node, guard);
    in_tail || matches!(node.extra.stage(), OPENED | DRAINED)
}

/// Whether `node` was opened and not drained.
pub(super) fn is_undrained(node: &Node, guard: &Guard) -> bool {
    // As in `is_open`.
    let in_tail = is_in_lane(node, guard);
    match node.extra.stage() {
        ENTERED => in_tail,
        stage => stage == OPENED,
    }
}

/// The books.
pub(super) struct Books {
    head: Atomic<Node>,
}

impl Books {
    pub(super) fn new() -> Self {
        Self { head: Atomic::null() }
    }

    /// Enters a batch, or gives it back if the books are closed. Where it is now.
    pub(super) fn enter(&self, node: Box<Node>, guard: &Guard) -> Result<NonNull<Node>, Box<Node>> {
        // Acquire, here and on failure: whoever finds the mark sees what the closer did before it.
        let mut head = self.head.load(Acquire, guard);
        let node = Box::into_raw(node);
        loop {
            if head.tag() == CLOSED {
                // SAFETY: it came from a box, and was not entered.
                return Err(unsafe { Box::from_raw(node) });
            }
            // SAFETY: not entered yet, so ours.
            let entry = unsafe { &(*node).extra };
            // Relaxed: the CAS releases it.
            entry.next.store(head, Relaxed);
            step("books.enter");
            // Release pairs with the Acquire of whoever walks: it sees the batch whole. If another was entered first, or the books were closed, the CAS fails and looks again.
            match self.head.compare_exchange(head, Shared::from(node.cast_const()), AcqRel, Acquire, guard) {
                // SAFETY: from a box.
                Ok(_) => return Ok(unsafe { NonNull::new_unchecked(node) }),
                Err(failed) => head = failed.current,
            }
        }
    }

    /// Nothing is entered from now on.
    pub(super) fn close(&self, guard: &Guard) {
        step("books.close");
        // AcqRel: who finds the mark sees what was done before; who entered before is found by the walk that follows.
        self.head.fetch_or(CLOSED, AcqRel, guard);
    }

    pub(super) fn is_closed(&self, guard: &Guard) -> bool {
        // Acquire: who finds the mark sees what the closer did before it; who does not will find it when it enters.
        self.head.load(Acquire, guard).tag() == CLOSED
    }

    /// Everything entered, the latest first.
    pub(super) fn walk<'g>(&self, guard: &'g Guard) -> Walk<'g> {
        // Acquire pairs with the Release in `enter`.
        Walk { at: self.head.load(Acquire, guard), guard }
    }

    /// Unlinks and retires what is `over`, but for the batch entered last, those that came into their lanes' tails since the last sweep but one, and what somebody has announced. How many.
    ///
    /// # Safety
    /// BOOKS-A: the caller is the sender; BOOKS-B holds for all that is `over`.
    pub(super) unsafe fn sweep(
        &self,
        announcements: &Announcements,
        guard: &Guard,
        over: impl Fn(&Node) -> bool,
    ) -> usize {
        let (mut any, mut shared) = (false, false);
        for node in self.walk(guard).skip(1) {
            // Out of the tail it is so for good (LANE-B).
            if over(node) && leaves_lane(node, guard) {
                node.extra.mark(mark::LEFT);
                any = true;
                // A void one and an owner's were never to be announced.
                shared |= node.extra.own.is_none() && !node.extra.is_void();
            }
        }
        if !any {
            return 0;
        }
        // After the last of them has left.
        let announced = if shared { announcements.now() } else { Announced::default() };
        let mut swept = 0;
        let mut walk = self.walk(guard);
        let Some(mut stays) = walk.next() else { return 0 };
        for node in walk {
            if !node.extra.is_marked(mark::LEFT) || announced.contains(node) {
                stays = node;
                continue;
            }
            node.extra.kept.write(0);
            // Relaxed: only we write the link of what is linked (BOOKS-A), and `enter` wrote it before we found the batch.
            let behind = node.extra.next.load(Relaxed, guard);
            // Release: who walks past `stays` reaches what is behind through this store; we have it by our own walk.
            stays.extra.next.store(behind, Release);
            swept += 1;
            // SAFETY: BOOKS-B, by the caller's promise: it is out of reach for whoever pins from now on, and by ANN-D for whoever announces.
            unsafe { guard.defer_destroy(Shared::from(std::ptr::from_ref(node))) }
        }
        swept
    }
}

/// A walk through the books.
pub(super) struct Walk<'g> {
    at: Shared<'g, Node>,
    guard: &'g Guard,
}

impl<'g> Iterator for Walk<'g> {
    type Item = &'g Node;

    fn next(&mut self) -> Option<&'g Node> {
        // SAFETY: BOOKS-B: reached from the head while pinned, so not freed before the guard ends.
        let node = unsafe { self.at.with_tag(0).as_ref() }?;
        node.extra.reached();
        // Acquire pairs with the Release of `enter` and of `sweep`.
        self.at = node.extra.next.load(Acquire, self.guard);
        Some(node)
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        // SAFETY: `&mut`: nobody else is left.
        let guard = unsafe { crate::primitive::epoch::unprotected() };
        // Relaxed: as above.
        let mut at = self.head.load(Relaxed, guard).with_tag(0);
        while !at.is_null() {
            // SAFETY: BOOKS-B: what is still linked was not retired; it came from a box.
            let node: Owned<Node> = unsafe { at.into_owned() };
            // Relaxed: as above.
            at = node.extra.next.load(Relaxed, guard).with_tag(0);
        }
    }
}
