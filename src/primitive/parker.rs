//! Parking: one thread sleeps until another gives it a token.
//!
//! A [`Parker`] holds at most one token. [`Parker::unpark`] puts it there; [`Parker::park`] takes it, sleeping until it is
//! there. Everything written before `unpark` is visible after the `park` that takes its token. One thread parks at a
//! time; any number may unpark. The crate never uses `std::thread::park`: its token belongs to the thread and is shared with
//! every other user, and under loom it hides hand-off bugs.
//!
//! # States of `WordParker`
//!
//! | state | means | left by |
//! |---|---|---|
//! | `EMPTY` | no token, nobody sleeps | `unpark` -> `NOTIFIED`; `park` -> `PARKED` |
//! | `PARKED` | no token, the parking thread holds or has released the mutex on its way to sleep | `unpark` -> `NOTIFIED`; timeout -> `EMPTY` |
//! | `NOTIFIED` | a token is there | `park` -> `EMPTY` |
//!
//! The race that looks dangerous: `unpark` finds `PARKED` and notifies before the sleeper waits. It cannot be lost: the sleeper
//! sets `PARKED` with the mutex held and gives the mutex up only by waiting, and `unpark` takes the mutex before it notifies.

use std::sync::PoisonError;
use std::time::Duration;

use super::imp::atomic::AtomicU8;
use super::imp::atomic::Ordering::{Acquire, Relaxed, Release};
use super::imp::sync::{Condvar, Deadline, Mutex};

/// A token that a thread can sleep for.
pub trait Parker: Send + Sync + 'static {
    /// A parker without a token.
    fn new() -> Self;

    /// Takes the token, sleeping until it is there.
    fn park(&self);

    /// Takes the token, sleeping at most `timeout`; whether it was taken.
    ///
    /// A token that arrives together with the end of the timeout is taken. Under loom and shuttle the end of the
    /// timeout is a choice of the checker.
    fn park_timeout(&self, timeout: Duration) -> bool;

    /// Puts the token there and wakes the sleeper. Wait-free but for the sleeper's own few instructions under the mutex.
    fn unpark(&self);
}

/// The parker of the build: [`WordParker`], or under a checker the checker's own.
#[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
pub type ThreadParker = WordParker;

#[cfg(any(crossbeam_loom, unlatched_shuttle))]
pub use super::model::ThreadParker;

const EMPTY: u8 = 0;
const PARKED: u8 = 1;
const NOTIFIED: u8 = 2;

/// The parker of real threads: a word, a mutex and a condition variable.
///
/// Under loom and shuttle it is itself under test: it stands on their atomics, mutex and condition variable there, and
/// everything else parks on [`ThreadParker`].
#[derive(Debug)]
pub struct WordParker {
    state: AtomicU8,
    lock: Mutex<()>,
    sleeper: Condvar,
    /// What the tasks of a simulation park on: they must not stop the thread that they share.
    #[cfg(all(feature = "testing", not(any(crossbeam_loom, unlatched_shuttle))))]
    task: super::sim::SimParker,
}

impl WordParker {
    /// Takes a token if one is there.
    fn take(&self) -> bool {
        // Acquire on success pairs with the Release swap in `unpark`: token seen, then what was written before it is
        // seen; token not seen, nothing is read. Relaxed on failure: nothing is concluded.
        self.state.compare_exchange(NOTIFIED, EMPTY, Acquire, Relaxed).is_ok()
    }

    fn sleep(&self, deadline: Option<Deadline>) -> bool {
        if self.take() {
            return true;
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: the word is only marked; should `unpark` have come first the CAS fails and `take` acquires. Should
        // it come after, it finds PARKED and must pass the mutex that we hold, which orders it behind our wait.
        if self.state.compare_exchange(EMPTY, PARKED, Relaxed, Relaxed).is_err() {
            return self.take();
        }
        loop {
            guard = match deadline.map(Deadline::left) {
                Some(None) => {
                    // Acquire pairs with `unpark`'s Release: if its swap came first we read NOTIFIED and take the token
                    // after all; if ours came first it finds EMPTY and leaves a token for the next `park`.
                    return self.state.swap(EMPTY, Acquire) == NOTIFIED;
                }
                Some(Some(left)) => self.sleeper.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.sleeper.wait(guard).unwrap_or_else(PoisonError::into_inner),
            };
            if self.take() {
                return true;
            }
        }
    }
}

impl Parker for WordParker {
    fn new() -> Self {
        Self {
            state: AtomicU8::new(EMPTY),
            lock: Mutex::new(()),
            sleeper: Condvar::new(),
            #[cfg(all(feature = "testing", not(any(crossbeam_loom, unlatched_shuttle))))]
            task: Parker::new(),
        }
    }

    fn park(&self) {
        #[cfg(all(feature = "testing", not(any(crossbeam_loom, unlatched_shuttle))))]
        if super::sim::is_task() {
            return self.task.park();
        }
        self.sleep(None);
    }

    fn park_timeout(&self, timeout: Duration) -> bool {
        #[cfg(all(feature = "testing", not(any(crossbeam_loom, unlatched_shuttle))))]
        if super::sim::is_task() {
            return self.task.park_timeout(timeout);
        }
        if timeout.is_zero() {
            return self.take();
        }
        self.sleep(Deadline::after(timeout))
    }

    fn unpark(&self) {
        #[cfg(all(feature = "testing", not(any(crossbeam_loom, unlatched_shuttle))))]
        if super::sim::is_task() {
            return self.task.unpark();
        }
        // Release pairs with the Acquire in `take` and at the timeout. A swap and not a test: each unpark must be a
        // release that the taker of the token can read, also where a token was there already.
        if self.state.swap(NOTIFIED, Release) == PARKED {
            // The sleeper holds this mutex from PARKED until it waits: having held it, we notify a waiter.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.sleeper.notify_one();
        }
    }
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::{Parker, ThreadParker};

    #[test]
    fn token_before_park_is_kept_and_only_one() {
        let parker = ThreadParker::new();
        parker.unpark();
        parker.unpark();
        parker.park();
        assert!(!parker.park_timeout(Duration::from_millis(1)));
    }

    #[test]
    fn timeout_is_not_early_and_leaves_no_trace() {
        let parker = ThreadParker::new();
        let start = Instant::now();
        assert!(!parker.park_timeout(Duration::from_millis(20)));
        assert!(start.elapsed() >= Duration::from_millis(20));
        parker.unpark();
        assert!(parker.park_timeout(Duration::ZERO));
    }

    #[test]
    fn hand_over_many_tokens() {
        let (there, back) = (Arc::new(ThreadParker::new()), Arc::new(ThreadParker::new()));
        let other = std::thread::spawn({
            let (there, back) = (there.clone(), back.clone());
            move || {
                for _ in 0..2_000 {
                    there.park();
                    back.unpark();
                }
            }
        });
        for _ in 0..2_000 {
            there.unpark();
            assert!(back.park_timeout(Duration::from_secs(30)), "a token was lost");
        }
        other.join().unwrap();
    }
}
