//! What the suite asks of a pool, and the pools.

use std::cell::Cell;
use std::time::Duration;

use crate::bench::bare::{BATCH, BareLease, BarePool};
use crate::mutex::{ParkingLotPool, StdPool};
use crate::pool::{AtomicPool, BufferPool, Lease, PoolError, PoolOptions};
use crate::primitive::clock::{Clock, Instant, SharedClock, SystemClock};
use crate::primitive::{Arc, thread_local};

/// The pool as it comes.
pub(super) fn lockfree(total: u64, clock: SharedClock) -> AtomicPool {
    AtomicPool::new(total, BATCH, clock)
}

/// The pool in which nobody overtakes one who waits.
pub(super) fn lockfree_strict(total: u64, clock: SharedClock) -> AtomicPool {
    AtomicPool::with_options(total, BATCH, clock, PoolOptions::strict())
}

/// How many allocations that begin while one is the first in line may be served before it, as the pool promises.
pub(super) fn lockfree_bound() -> u64 {
    u64::from(PoolOptions::default().overtaking)
}

/// The twin on std's lock.
pub(super) fn twin_std(total: u64, clock: SharedClock) -> StdPool {
    StdPool::new(total, BATCH, clock)
}

/// The twin on parking_lot's.
pub(super) fn twin_parking_lot(total: u64, clock: SharedClock) -> ParkingLotPool {
    ParkingLotPool::new(total, BATCH, clock)
}

/// What gives buffers and takes them back.
pub(super) trait Pool: Send + Sync {
    /// What an allocation brings, refusals included, as the pool returns it. Its drop gives the memory back.
    type Taken<'p>: Send
    where
        Self: 'p;

    /// A buffer of `size` bytes, waiting at most `max_block`.
    fn take(&self, size: usize, max_block: Duration) -> Self::Taken<'_>;

    /// Whether there is a buffer.
    fn is_there(taken: &Self::Taken<'_>) -> bool;

    /// The buffer.
    fn bytes<'a>(taken: &'a mut Self::Taken<'_>) -> &'a mut [u8];
}

impl<B: BufferPool> Pool for B {
    type Taken<'p> = Result<Lease<B::Owner>, PoolError>;

    #[inline]
    fn take(&self, size: usize, max_block: Duration) -> Self::Taken<'_> {
        self.allocate(size, max_block)
    }

    #[inline]
    fn is_there(taken: &Self::Taken<'_>) -> bool {
        taken.is_ok()
    }

    #[inline]
    fn bytes<'a>(taken: &'a mut Self::Taken<'_>) -> &'a mut [u8] {
        match taken {
            Ok(lease) => lease,
            Err(error) => panic!("there is memory, or will be in time: {error}"),
        }
    }
}

impl Pool for BarePool {
    type Taken<'p> = BareLease<'p>;

    #[inline]
    fn take(&self, size: usize, _: Duration) -> BareLease<'_> {
        debug_assert_eq!(size, BATCH);
        self.allocate()
    }

    fn is_there(_: &BareLease<'_>) -> bool {
        true
    }

    #[inline]
    fn bytes<'a>(taken: &'a mut BareLease<'_>) -> &'a mut [u8] {
        &mut taken.bytes
    }
}

thread_local! {
    static READINGS: Cell<u64> = const { Cell::new(0) };
}

/// The machine's clock, which counts how often each thread has read it: pools do so around a sleep and at no other time.
#[derive(Debug, Default)]
pub(super) struct SleepClock(SystemClock);

impl SleepClock {
    pub(super) fn shared() -> SharedClock {
        Arc::new(Self::default())
    }

    /// How often this thread has read a clock of this kind.
    #[inline]
    pub(super) fn readings() -> u64 {
        READINGS.get()
    }
}

impl Clock for SleepClock {
    fn now(&self) -> Instant {
        READINGS.set(READINGS.get() + 1);
        self.0.now()
    }

    fn unix_millis(&self) -> i64 {
        self.0.unix_millis()
    }
}
