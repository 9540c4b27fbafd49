//! The loom half of the switch: [`super::std`]'s names on loom's types.
//!
//! Loom 0.7.2 sees what goes through these names and nothing else. What it does not do by itself is in [`super::model`]: weak
//! compare-exchanges that fail without a reason, timeouts, and a parker that hides no hand-off bug.

pub use loom::sync::Arc;
pub use loom::thread_local;

/// Atomics and fences.
pub mod atomic {
    pub use loom::sync::atomic::fence;
    pub use std::sync::atomic::Ordering;

    crate::primitive::model::checked_atomics!(loom::sync::atomic);

    /// Has the end of an atomic be checked as a write: every access to it must come before, or its memory was freed too early. Loom's `AtomicBool` cannot.
    macro_rules! checked_to_the_end {
        ($($name:ident $(<$param:ident>)?),*) => {$(
            impl$(<$param>)? Drop for $name$(<$param>)? {
                fn drop(&mut self) {
                    if !std::thread::panicking() {
                        self.0.with_mut(|_| ());
                    }
                }
            }
        )*};
    }
    checked_to_the_end!(AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, AtomicPtr<T>);
}

/// Cells whose every access is checked.
pub mod cell {
    pub use loom::cell::UnsafeCell;
}

/// Spin hints.
pub mod hint {
    /// One yield: loom explores the others before it comes back.
    pub fn spin_loop() {
        loom::thread::yield_now();
    }
}

/// Threads, as far as the core and its models need them.
pub mod thread {
    pub use crate::primitive::model::{ordinal, parallelism, slot};
    pub use loom::thread::{Builder, JoinHandle, spawn, yield_now};
    pub use std::thread::panicking;

    /// A model has no time: one yield.
    pub fn sleep(_: std::time::Duration) {
        yield_now();
    }
}

/// What the parkers sleep on.
pub(super) mod sync {
    pub(in super::super) use crate::primitive::model::Deadline;
    pub(in super::super) use loom::sync::{Condvar, Mutex, Notify};
}

/// The lock behind [`super::lock::StdLock`].
pub(super) type RawMutex<T> = loom::sync::Mutex<T>;
pub(super) type RawGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

/// What loom reports if it is never dropped.
pub(super) type Track = loom::alloc::Track<()>;

pub(super) fn track() -> Track {
    loom::alloc::Track::new(())
}

/// Loom draws no random numbers: choices are races.
pub(super) fn coin() -> bool {
    false
}

/// Loom's own atomics are scheduling points, crossbeam-epoch's too.
pub(super) fn scheduling_point() {}
