//! The callbacks of a batch that many fill: a stack that everybody pushes onto and one takes whole.
//!
//! | `head` | means | left by |
//! |---|---|---|
//! | a node or null | callbacks, last pushed first | CAS to a node in front of it; the swap of `close`, or of a `take` that finds any |
//! | `CLOSED` | taken; no more are kept | never |
//!
//! A callback is pushed before its record is committed. So whoever takes the batch when nobody copies any more has them all; who ends the batch while somebody still does
//! leaves it to this word whose callback was in time.
//!
//! **CALLBACKS-A** A node is the stack's from the CAS that pushed it until the swap of `close`, whose caller frees the whole chain. After a `take` nobody pushes: whoever had a place has committed (BATCH-C).

use std::ptr;

use super::Callback;
use crate::primitive::atomic::AtomicPtr;
use crate::primitive::atomic::Ordering::{AcqRel, Relaxed, Release};
use crate::primitive::step;

struct Node {
    index: u32,
    timestamp: i64,
    callback: Callback,
    next: *mut Node,
}

/// The mark after which no callback is kept.
fn closed() -> *mut Node {
    ptr::without_provenance_mut(1)
}

/// The stack.
pub(super) struct Callbacks(AtomicPtr<Node>);

// SAFETY: CALLBACKS-A: a node has one owner at a time, and callbacks are `Send`.
unsafe impl Send for Callbacks {}
// SAFETY: as above.
unsafe impl Sync for Callbacks {}

impl Callbacks {
    pub(super) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Keeps `callback` for the record `index`, or gives it back if the batch was ended. Lock-free.
    pub(super) fn push(&self, index: u32, timestamp: i64, callback: Callback) -> Result<(), Callback> {
        // Relaxed: the CAS decides; nothing is read through it.
        let mut head = self.0.load(Relaxed);
        let node = Box::into_raw(Box::new(Node { index, timestamp, callback, next: ptr::null_mut() }));
        loop {
            if head == closed() {
                // SAFETY: CALLBACKS-A: never pushed, so it is ours.
                return Err(unsafe { Box::from_raw(node) }.callback);
            }
            // SAFETY: as above: not pushed yet.
            unsafe { (*node).next = head };
            step("callbacks.push");
            // Release pairs with the Acquire half of the swap in `close`: if ours is first, the taker sees the node whole. If the swap is first, we find the mark.
            match self.0.compare_exchange_weak(head, node, Release, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => head = now,
            }
        }
    }

    /// Takes what there is, by the records' order; what comes later is not kept. Wait-free but for its length.
    pub(super) fn close(&self) -> Vec<(u32, i64, Callback)> {
        // Acquire pairs with the Release in `push`. Release: whoever finds the mark sees what was done before it.
        let mut head = self.0.swap(closed(), AcqRel);
        let mut taken = Vec::new();
        while !head.is_null() && head != closed() {
            // SAFETY: CALLBACKS-A: the swap took the chain, and its nodes came from boxes.
            let node = unsafe { Box::from_raw(head) };
            head = node.next;
            taken.push((node.index, node.timestamp, node.callback));
        }
        taken.sort_by_key(|(index, ..)| *index);
        taken
    }

    /// The same once nobody can push any more, without an exchange if there is none.
    pub(super) fn take(&self) -> Vec<(u32, i64, Callback)> {
        // Relaxed: the last push is behind the caller, or it could not know that it was the last.
        let head = self.0.load(Relaxed);
        if head.is_null() || head == closed() { Vec::new() } else { self.close() }
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        drop(self.take());
    }
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn callbacks_come_in_the_order_of_records_and_none_after_the_close() {
        let callbacks = Callbacks::new();
        for index in [2, 0, 1] {
            assert!(callbacks.push(index, 7, Box::new(|_| ())).is_ok());
        }
        let taken: Vec<u32> = callbacks.close().into_iter().map(|(index, ..)| index).collect();
        assert_eq!(taken, [0, 1, 2]);
        assert!(callbacks.push(3, 7, Box::new(|_| ())).is_err());
        assert!(callbacks.close().is_empty());
    }
}
