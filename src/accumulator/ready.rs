//! The ready stack: batches that are finished and not yet known to the sender. Everybody pushes, the sender takes all at once.
//!
//! | `head` | means | left by |
//! |---|---|---|
//! | a batch or null | finished batches, the last one first | CAS of a push; the sender's swap |
//! | `CLOSED` | the sender is gone | never |
//!
//! **READY-A** A batch is pushed once, by whoever has finished it (BATCH-B), and is the stack's until a swap takes it. A push that finds CLOSED keeps the batch: it is the pusher's to end.
//!
//! The order on the stack is not the order of a lane: a batch may be finished before one that was opened earlier. The sender sorts that out by their numbers.
//!
//! `push`: lock-free. `take`, `close`: wait-free.

use std::ptr::{self, NonNull};

use super::books::Node;
use crate::primitive::atomic::AtomicPtr;
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::primitive::step;

/// The stack.
pub(super) struct Ready(AtomicPtr<Node>);

/// The mark after which nothing is taken from here.
fn closed() -> *mut Node {
    ptr::without_provenance_mut(1)
}

impl Ready {
    pub(super) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Hands a finished batch to the sender; `false` if that is gone: then the batch stays the caller's (READY-A).
    pub(super) fn push(&self, node: NonNull<Node>) -> bool {
        // Relaxed: the CAS decides; the batch below is not looked at. Acquire on finding the mark: the sender's end is behind us then.
        let mut head = self.0.load(Acquire);
        while head != closed() {
            // SAFETY: READY-A: it is ours, and lives until it was taken from here.
            let entry = unsafe { &node.as_ref().extra };
            // Relaxed: the CAS releases it.
            entry.next_ready.store(head, Relaxed);
            step("ready.push");
            // Release pairs with the Acquire of the sender's swap: it sees the batch with all that was copied into it and counted; for what is announced it looks afterwards. Should the swap come first, the CAS fails and the next round begins
            // a new stack.
            match self.0.compare_exchange_weak(head, node.as_ptr(), Release, Acquire) {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
        false
    }

    /// Takes all into `taken`, which is empty, in the order in which they were pushed. The sender's.
    pub(super) fn take(&self, taken: &mut Vec<NonNull<Node>>) {
        // Relaxed: a look whether there is anything; what is pushed later comes with a wake.
        let head = self.0.load(Relaxed);
        if head.is_null() || head == closed() {
            return;
        }
        // Acquire pairs with the Release of every push below the head: each is a read-modify-write that hands the earlier ones on.
        self.collect(self.0.swap(ptr::null_mut(), Acquire), taken);
    }

    /// Takes all; later pushes keep their batches. The sender's last act.
    pub(super) fn close(&self) -> Vec<NonNull<Node>> {
        step("ready.close");
        // Acquire: as in `take`. Release: who finds the mark sees what the sender has ended before.
        let mut taken = Vec::new();
        self.collect(self.0.swap(closed(), AcqRel), &mut taken);
        taken
    }

    fn collect(&self, mut head: *mut Node, taken: &mut Vec<NonNull<Node>>) {
        while let Some(node) = NonNull::new(head).filter(|_| head != closed()) {
            taken.push(node);
            // SAFETY: READY-A: the swap made it ours.
            // Relaxed: ordered by the swap.
            head = unsafe { node.as_ref() }.extra.next_ready.load(Relaxed);
        }
        taken.reverse();
    }
}
