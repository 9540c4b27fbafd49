//! Locks by family, so that the mutex twin is written once and runs on several.
//!
//! A [`LockFamily`] names a mutex and the parker that goes with it. The twin is generic over it: [`StdLock`] is the standard
//! library's mutex, [`ParkingLot`] is `parking_lot`'s (three times faster under contention: it spins, yields, and lets
//! threads barge), and the deterministic scheduler brings a family of its own.

use std::fmt;
use std::ops::DerefMut;

use super::imp;
use super::parker::{Parker, ThreadParker};

/// A mutual-exclusion lock around a value.
///
/// A panic inside the critical section does not poison it: the twin's critical sections run no user code, and a
/// caller of a poisoned lock could do nothing but panic too.
///
/// # Safety
/// - Between `lock` and the drop of its guard no other guard of the mutex exists, and the sections are ordered one after the other.
/// - From the moment at which the drop of a guard lets another holder in, it does not touch the mutex's memory again: that holder may be the one who frees it. (A
///   wake by address, which reads no memory, is allowed.)
pub unsafe trait Mutex<T>: Send + Sync {
    /// What a holder holds; dropping it unlocks.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a;

    /// An unlocked mutex holding `value`.
    fn new(value: T) -> Self;

    /// Locks, waiting for the holder if there is one. Blocking, no timeout, no fairness promised.
    fn lock(&self) -> Self::Guard<'_>;
}

/// A kind of lock, and the parker that its waiters sleep on.
pub trait LockFamily: Send + Sync + fmt::Debug + 'static {
    /// How result tables call a core built on this family, as in `mutex-parking-lot`.
    const NAME: &'static str;
    /// The mutex.
    type Mutex<T: Send>: Mutex<T>;
    /// The parker.
    type Parker: Parker;
}

/// The standard library's mutex.
#[derive(Debug, Clone, Copy)]
pub struct StdLock;

/// [`StdLock`]'s mutex: `std::sync::Mutex` that ignores poison (loom's or shuttle's under their cfg).
#[derive(Debug)]
pub struct StdMutex<T>(imp::RawMutex<T>);

// SAFETY: a mutex; std's unlock ends with one exchange of its word and a wake by address. (Under a checker memory outlives the execution.)
unsafe impl<T: Send> Mutex<T> for StdMutex<T> {
    type Guard<'a>
        = imp::RawGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self(imp::RawMutex::new(value))
    }

    #[inline]
    fn lock(&self) -> Self::Guard<'_> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl LockFamily for StdLock {
    const NAME: &'static str = "mutex";
    type Mutex<T: Send> = StdMutex<T>;
    type Parker = ThreadParker;
}

/// `parking_lot`'s mutex. Invisible to loom and shuttle: never part of a model.
#[derive(Debug, Clone, Copy)]
pub struct ParkingLot;

// SAFETY: a mutex; its unlock ends with one exchange of its word, or, where somebody is parked, with the store of it under the lock of parking_lot's own table.
unsafe impl<T: Send> Mutex<T> for parking_lot::Mutex<T> {
    type Guard<'a>
        = parking_lot::MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        parking_lot::Mutex::new(value)
    }

    #[inline]
    fn lock(&self) -> Self::Guard<'_> {
        parking_lot::Mutex::lock(self)
    }
}

impl LockFamily for ParkingLot {
    const NAME: &'static str = "mutex-parking-lot";
    type Mutex<T: Send> = parking_lot::Mutex<T>;
    type Parker = ThreadParker;
}
