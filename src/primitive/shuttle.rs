//! The shuttle half of the switch: [`super::std`]'s names on shuttle's types.
//!
//! Shuttle schedules; it knows no weak memory (every access counts as `SeqCst`) and no races on cells. Loom does, and
//! misses schedules: so the same models run under both.

pub use shuttle::sync::Arc;
pub use shuttle::thread_local;

/// Atomics and fences.
pub mod atomic {
    pub use shuttle::sync::atomic::fence;
    pub use std::sync::atomic::Ordering;

    crate::primitive::model::checked_atomics!(shuttle::sync::atomic);
}

/// Cells: plain ones, since shuttle checks no races.
#[path = "cell.rs"]
pub mod cell;

/// Spin hints.
pub mod hint {
    /// One yield, which also tells the scheduler to prefer the others.
    pub fn spin_loop() {
        shuttle::thread::yield_now();
    }
}

/// Threads, as far as the core and its models need them.
pub mod thread {
    pub use crate::primitive::model::{ordinal, parallelism, slot};
    pub use shuttle::thread::{Builder, JoinHandle, panicking, sleep, spawn, yield_now};
}

/// What the parkers sleep on.
pub(super) mod sync {
    use std::sync::PoisonError;

    pub(in super::super) use crate::primitive::model::Deadline;
    pub(in super::super) use shuttle::sync::{Condvar, Mutex};

    /// `loom::sync::Notify` on a mutex and a condition variable: one notification is kept, one waiter takes it.
    #[derive(Debug)]
    pub(in super::super) struct Notify {
        notified: Mutex<bool>,
        waiter: Condvar,
    }

    impl Notify {
        pub(in super::super) fn new() -> Self {
            Self { notified: Mutex::new(false), waiter: Condvar::new() }
        }

        pub(in super::super) fn notify(&self) {
            *self.notified.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.waiter.notify_one();
        }

        pub(in super::super) fn wait(&self) {
            let mut notified = self.notified.lock().unwrap_or_else(PoisonError::into_inner);
            while !std::mem::take(&mut *notified) {
                notified = self.waiter.wait(notified).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// The lock behind [`super::lock::StdLock`].
pub(super) type RawMutex<T> = shuttle::sync::Mutex<T>;
pub(super) type RawGuard<'a, T> = shuttle::sync::MutexGuard<'a, T>;

/// A bit of the schedule's own random numbers.
pub(super) fn coin() -> bool {
    use shuttle::rand::RngCore;
    shuttle::rand::thread_rng().next_u64() & 1 == 1
}

/// Lets the scheduler choose: for crossbeam-epoch's atomics, which shuttle does not know.
pub(super) fn scheduling_point() {
    // One for each model: models run side by side on threads of the harness, and shuttle's atomics are for the coroutines of one thread.
    std::thread_local! {
        static POINT: shuttle::sync::atomic::AtomicBool = const { shuttle::sync::atomic::AtomicBool::new(false) };
    }
    // SeqCst: shuttle knows no other; the value is never looked at.
    POINT.with(|point| point.load(std::sync::atomic::Ordering::SeqCst));
}

/// Shuttle knows no leaks.
pub(super) type Track = ();

pub(super) fn track() -> Track {}
