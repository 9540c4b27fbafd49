//! Appends in progress: those that may have memory in hand and no batch for it (ACC-01). A forced close sleeps until there are none (GAP-19).
//!
//! One word: twice the number of appends, and a bit that says that the closer sleeps. So the last append that leaves finds the bit in the same exchange that makes the number zero, and
//! nobody else needs to look.
//!
//! An append counts itself before it asks for memory and is counted out when it has none in hand, or has begun to copy: a thread that is stopped in a copy is not waited for (L7).
//! An append that the closer does not see counted has not had memory before the pool was closed, and will not get any: the pool's word comes between its count and the closer's look.

use crate::primitive::atomic::AtomicUsize;
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use crate::primitive::parker::{Parker, ThreadParker};
use crate::primitive::step;

const SLEEPS: usize = 1;
const ONE: usize = 2;

/// The count.
pub(super) struct InProgress {
    word: AtomicUsize,
    closer: ThreadParker,
}

/// One append that is counted; its drop counts it out.
pub(super) struct Append<'a>(&'a InProgress);

impl InProgress {
    pub(super) fn new() -> Self {
        Self { word: AtomicUsize::new(0), closer: ThreadParker::new() }
    }

    /// Counts an append in.
    pub(super) fn begin(&self) -> Append<'_> {
        // Relaxed: it is released by the exchange of the pool's word that follows it; see the module's head.
        self.word.fetch_add(ONE, Relaxed);
        Append(self)
    }

    /// Sleeps until no append is counted. One thread at a time.
    pub(super) fn await_none(&self) {
        // AcqRel: an end that comes later finds the bit; what ended before is seen.
        let mut word = self.word.fetch_or(SLEEPS, AcqRel);
        while word >= ONE {
            step("in-progress.sleep");
            self.closer.park();
            // Acquire pairs with the Release half of each end: what those appends gave back is seen.
            word = self.word.load(Acquire);
        }
        // Relaxed: nobody sleeps any more. One who reads the bit all the same wakes nobody.
        self.word.fetch_and(!SLEEPS, Relaxed);
    }
}

impl Drop for Append<'_> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `await_none`. Acquire: what the closer wrote before its bit is seen by whoever wakes it: its parker.
        if self.0.word.fetch_sub(ONE, AcqRel) == ONE | SLEEPS {
            self.0.closer.unpark();
        }
    }
}
