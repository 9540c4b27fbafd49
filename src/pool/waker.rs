//! A task's waker in a place that one task writes and anybody may wake.
//!
//! Source: the state machine of `AtomicWaker` in futures-rs and tokio, written anew on this crate's atomics, so that models see it.
//!
//! # States
//! | state | means | left by |
//! |---|---|---|
//! | `IDLE` | nobody is in the cell | `register` -> `REGISTERING`; `wake` -> `WAKING` |
//! | `REGISTERING` | the task writes the cell | the task -> `IDLE`; a wake adds `WAKING` |
//! | `WAKING` | a waking thread takes the waker out | that thread -> `IDLE` |
//! | both | a wake came while the task wrote | the task -> `IDLE`, and it wakes itself |
//!
//! # Invariants
//! - **WAKER-A** Only who has made `IDLE` into `REGISTERING` or `WAKING` touches the cell, until he makes it `IDLE` again. One task registers at a time (`&mut` of its future).
//!
//! # The race that looks dangerous
//! *A wake while the task registers*: if the waker's exchange comes first, the task finds it when it is done, and wakes itself; if the task's comes first, the waker finds `IDLE` and takes what was
//! registered. *A wake that finds another at work*: that one took the waker after this wake's caller had published what there is to be seen, or the task registers again and looks after it:
//! whoever registers looks *after* that.
//!
//! # Progress
//! `register` and `wake`: wait-free but for the foreign code of wakers.

use std::task::Waker;

use crate::batch::contain;
use crate::primitive::atomic::AtomicU8;
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Release};
use crate::primitive::cell::UnsafeCell;
use crate::primitive::step;

const IDLE: u8 = 0;
const REGISTERING: u8 = 1;
const WAKING: u8 = 2;

pub(super) struct TaskWaker {
    state: AtomicU8,
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: WAKER-A; wakers are `Send` and `Sync`.
unsafe impl Send for TaskWaker {}
// SAFETY: as above.
unsafe impl Sync for TaskWaker {}

/// Wakers are foreign code, also when they are dropped.
fn wake(waker: Waker) {
    contain("the waker of a task that waits for memory", move || waker.wake());
}

impl TaskWaker {
    pub(super) fn new() -> Self {
        Self { state: AtomicU8::new(IDLE), waker: UnsafeCell::new(None) }
    }

    /// Has wakes from now on reach this waker. Whoever registers looks for what it waits for afterwards.
    pub(super) fn register(&self, waker: Waker) {
        step("pool.register");
        // Acquire pairs with the Release that made it IDLE: the cell is ours. Found WAKING: somebody takes the former waker out, for a wake that began before this one was
        // registered; the look that follows may come too early for that, so the task is to be polled again.
        if self.state.compare_exchange(IDLE, REGISTERING, Acquire, Acquire).is_err() {
            return wake(waker);
        }
        // SAFETY: WAKER-A.
        let former = self.waker.with_mut(|cell| unsafe { (*cell).replace(waker) });
        step("pool.registered");
        // Release pairs with the Acquire of who comes into the cell next. AcqRel: where a wake came meanwhile, what it published is seen by the poll that we ask for.
        if self.state.compare_exchange(REGISTERING, IDLE, AcqRel, Acquire).is_err() {
            // SAFETY: WAKER-A: who added WAKING left the cell to us.
            let own = self.waker.with_mut(|cell| unsafe { (*cell).take() });
            // As above.
            self.state.swap(IDLE, AcqRel);
            own.into_iter().for_each(wake);
        }
        contain("the drop of a waker", || drop(former));
    }

    /// Wakes the task, if a waker is there.
    pub(super) fn wake(&self) {
        self.take().into_iter().for_each(wake);
    }

    /// Drops the waker, if one is there: the task does not wait any more, and what is left of it may be destroyed in anybody's pin.
    pub(super) fn clear(&self) {
        let waker = self.take();
        contain("the drop of a waker", || drop(waker));
    }

    fn take(&self) -> Option<Waker> {
        // Acquire: the cell is ours if it was IDLE. Release: what was published before is seen by the task that finds WAKING when it has registered.
        if self.state.fetch_or(WAKING, AcqRel) != IDLE {
            return None;
        }
        // SAFETY: WAKER-A.
        let waker = self.waker.with_mut(|cell| unsafe { (*cell).take() });
        step("pool.woken");
        // Release pairs with the Acquire in `register`: the cell is whole.
        self.state.fetch_and(!WAKING, Release);
        waker
    }
}
