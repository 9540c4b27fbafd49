//! The simulated mutex and parker.
//!
//! Both work on any thread as long as nobody has to wait: a test may build a core before the run and look at it after. To wait,
//! one must be a task; anywhere else there is nobody to wait for, and the call panics.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{self, PoisonError, TryLockError};
use std::time::Duration;

use super::{RUNNING, State, TaskId, here, pass};
use crate::primitive::Step;
use crate::primitive::lock::{LockFamily, Mutex};
use crate::primitive::parker::Parker;

/// The locks of the deterministic scheduler.
#[derive(Debug, Clone, Copy)]
pub struct Simulated;

impl LockFamily for Simulated {
    const NAME: &'static str = "mutex-simulated";
    type Mutex<T: Send> = SimMutex<T>;
    type Parker = SimParker;
}

impl TaskId {
    /// The calling task.
    fn current() -> Option<Self> {
        here().map(|(kernel, index)| Self { sim: kernel.number, index })
    }

    /// Puts the calling task, which must be this one, to sleep.
    fn sleep(self, at: Step, until: Option<crate::primitive::clock::Instant>) {
        let (kernel, index) = here().expect("the calling task");
        debug_assert_eq!(Self { sim: kernel.number, index }, self);
        kernel.suspend(index, State::Asleep { until }, at);
    }

    fn wake(self) {
        let woken = RUNNING.with(|running| {
            let running = running.borrow();
            let kernel = running.as_ref().filter(|kernel| kernel.number == self.sim);
            kernel.map(|kernel| kernel.inner.borrow_mut().wake(self.index)).is_some()
        });
        assert!(
            woken || std::thread::panicking(),
            "a task of a simulation is woken from outside of its run: only its own tasks may do that"
        );
    }
}

/// [`Simulated`]'s mutex. Locking is a scheduling point before and after; who gets it next is left to the seed.
pub struct SimMutex<T> {
    /// Never waited for: only tried.
    value: sync::Mutex<T>,
    /// Who sleeps for it. Held for a few instructions, between scheduling points.
    waiters: sync::Mutex<Vec<TaskId>>,
}

impl<T> fmt::Debug for SimMutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimMutex").field("waiters", &self.waiters).finish_non_exhaustive()
    }
}

impl<T> SimMutex<T> {
    fn try_lock(&self) -> Option<SimGuard<'_, T>> {
        let held = match self.value.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(SimGuard { mutex: self, held: Some(held) })
    }
}

// SAFETY: `value` is a mutex; the guard's drop unlocks it last, after it has taken the list of those who wait.
unsafe impl<T: Send> Mutex<T> for SimMutex<T> {
    type Guard<'a>
        = SimGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self { value: sync::Mutex::new(value), waiters: sync::Mutex::default() }
    }

    /// # Panics
    /// If it is held and the caller is no task of a simulation.
    fn lock(&self) -> Self::Guard<'_> {
        pass("mutex.lock");
        let guard = loop {
            if let Some(guard) = self.try_lock() {
                break guard;
            }
            let task = TaskId::current()
                .expect("a simulated mutex is held by a task, and locked outside of one: there is nobody to wait for");
            self.waiters.lock().unwrap_or_else(PoisonError::into_inner).push(task);
            task.sleep("mutex.wait", None);
        };
        pass("mutex.held");
        guard
    }
}

/// A held [`SimMutex`]. Dropping it wakes all who sleep for it; the seed chooses among them.
#[derive(Debug)]
pub struct SimGuard<'a, T> {
    mutex: &'a SimMutex<T>,
    /// `None` only while it is dropped.
    held: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Deref for SimGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("held until dropped")
    }
}

impl<T> DerefMut for SimGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("held until dropped")
    }
}

impl<T> Drop for SimGuard<'_, T> {
    fn drop(&mut self) {
        // Before the unlock, after which the mutex may be gone. No task runs in between, and nobody else may wait.
        let waiters = std::mem::take(&mut *self.mutex.waiters.lock().unwrap_or_else(PoisonError::into_inner));
        self.held = None;
        waiters.into_iter().for_each(TaskId::wake);
    }
}

/// [`Simulated`]'s parker: its timeouts are exact, in virtual time.
#[derive(Debug)]
pub struct SimParker {
    // Relaxed throughout: tasks share one thread.
    token: AtomicBool,
    sleeper: sync::Mutex<Option<TaskId>>,
}

impl SimParker {
    fn take(&self) -> bool {
        // Relaxed: tasks share one thread.
        self.token.swap(false, Relaxed)
    }

    fn sleep(&self, timeout: Option<Duration>) -> bool {
        pass("parker.park");
        if self.take() {
            return true;
        }
        if timeout == Some(Duration::ZERO) {
            return false;
        }
        let (kernel, index) =
            here().expect("a simulated parker parks outside of a simulation's task: who would wake it?");
        let task = TaskId { sim: kernel.number, index };
        // A timeout beyond the clock's range is none.
        let deadline = timeout.and_then(|timeout| kernel.clock_now().checked_add(timeout));
        loop {
            *self.sleeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
            task.sleep(if deadline.is_some() { "parker.park_timeout" } else { "parker.park" }, deadline);
            // The token first: one that comes together with the end of the timeout is taken.
            if self.take() {
                return true;
            }
            if deadline.is_some_and(|deadline| kernel.clock_now() >= deadline) {
                *self.sleeper.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return false;
            }
        }
    }
}

impl Parker for SimParker {
    fn new() -> Self {
        Self { token: AtomicBool::new(false), sleeper: sync::Mutex::default() }
    }

    /// # Panics
    /// If no token is there and the caller is no task of a simulation.
    fn park(&self) {
        self.sleep(None);
    }

    /// # Panics
    /// If no token is there, `timeout` is not zero, and the caller is no task of a simulation.
    fn park_timeout(&self, timeout: Duration) -> bool {
        self.sleep(Some(timeout))
    }

    /// # Panics
    /// If a task sleeps here whose simulation does not run on the calling thread.
    fn unpark(&self) {
        pass("parker.unpark");
        self.token.store(true, Relaxed);
        let sleeper = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}
