//! What every test of the suite stands on: the cores, the macro that runs a test on each of them, and a clock that a test can
//! watch. Threads that may get stuck are in [`crate::threads`].

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use unlatched::accumulator::{Accumulator, LockFreeAccumulator};
use unlatched::batch::{OpenBatch, OwnedBatch};
use unlatched::mutex::{CopyOnWriteMap, MutexAccumulator, MutexBatch, MutexPool};
use unlatched::partition_map::{PartitionMap, SegmentedMap};
use unlatched::pool::{AtomicPool, BufferPool, Lease};
use unlatched::primitive::atomic::AtomicUsize;
use unlatched::primitive::atomic::Ordering::SeqCst;
use unlatched::primitive::clock::{Clock, Instant, ManualClock, SharedClock, SystemClock};
use unlatched::primitive::lock::{LockFamily, ParkingLot, StdLock};

pub(crate) use crate::threads::{GLANCE, Gate, LONG, PATIENCE, Stopwatch, Worker, eventually, lock};

/// The parts of one core, behind the traits that all cores share.
pub(crate) trait Core: 'static {
    /// As in result tables, and in `deviations.rs`.
    const NAME: &'static str;
    /// Whether a snapshot of the pool shows one instant, also while others use the pool. If not, the books are looked at when the
    /// pool is at rest.
    const SNAPSHOT_IS_ONE_INSTANT: bool;
    type Pool: BufferPool;
    type Map<V: Send + Sync + 'static>: PartitionMap<V>;
    type Batch: OpenBatch;
    type Accumulator: Accumulator;
}

/// The twin on one kind of lock.
pub(crate) struct Twin<F>(PhantomData<F>);

impl<F: LockFamily> Core for Twin<F> {
    const NAME: &'static str = F::NAME;
    const SNAPSHOT_IS_ONE_INSTANT: bool = true;
    type Pool = MutexPool<F>;
    type Map<V: Send + Sync + 'static> = CopyOnWriteMap<V, F>;
    type Batch = MutexBatch;
    type Accumulator = MutexAccumulator<F>;
}

/// The lock-free core.
pub(crate) struct LockFree;

impl Core for LockFree {
    const NAME: &'static str = "lockfree";
    const SNAPSHOT_IS_ONE_INSTANT: bool = false;
    type Pool = AtomicPool;
    type Map<V: Send + Sync + 'static> = SegmentedMap<V>;
    type Batch = OwnedBatch;
    type Accumulator = LockFreeAccumulator;
}

pub(crate) type StdTwin = Twin<StdLock>;
pub(crate) type ParkingLotTwin = Twin<ParkingLot>;

/// The names of all cores.
pub(crate) const CORES: &[&str] = &[StdTwin::NAME, ParkingLotTwin::NAME, LockFree::NAME];

/// Makes of each generic function `fn name<C: Core>()` a test per core, `<core>::<name>`, and of their names the list `TESTS`.
///
/// A function that is missing from the list is dead code, which this binary denies. A new core is one more line here.
macro_rules! on_every_core {
    ($($name:ident,)*) => {
        /// The tests of this file, which `catalogue.rs` holds against the scope.
        pub(crate) const TESTS: &[&str] = &[$(stringify!($name)),*];
        on_every_core!(@core mutex, StdTwin: $($name)*);
        on_every_core!(@core mutex_parking_lot, ParkingLotTwin: $($name)*);
        on_every_core!(@core lockfree, LockFree: $($name)*);
    };
    (@core $module:ident, $core:ident: $($name:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$name::<crate::support::$core>();
                }
            )*
        }
    };
}
pub(crate) use on_every_core;

/// What a wait may take beyond its time on a busy machine, and still be called "soon after".
pub(crate) const SOON: Duration = Duration::from_secs(5);

pub(crate) type LeaseOf<C> = Lease<<<C as Core>::Pool as BufferPool>::Owner>;

type Action = Box<dyn FnOnce() + Send>;

enum When {
    /// At this reading by this thread, counted from 1.
    Read(ThreadId, usize),
    /// At the first reading at this time or later, whoever reads.
    Time(Instant),
}

/// A clock that counts who reads it and can do something in the middle of a reading: so a test gets a hand between two steps of a
/// thread, wherever the code reads the time. Readings happen outside of every lock.
pub(crate) struct WatchedClock {
    time: SharedClock,
    reads: Mutex<HashMap<ThreadId, usize>>,
    actions: Mutex<Vec<(When, Action)>>,
}

impl WatchedClock {
    pub(crate) fn new(time: SharedClock) -> Arc<Self> {
        Arc::new(Self { time, reads: Mutex::default(), actions: Mutex::default() })
    }

    /// Real time.
    pub(crate) fn system() -> Arc<Self> {
        Self::new(SystemClock::shared())
    }

    /// Time that only the test moves.
    pub(crate) fn manual() -> (Arc<Self>, Arc<ManualClock>) {
        let time = ManualClock::at(0);
        (Self::new(time.clone()), time)
    }

    /// Times that `thread` has read the clock.
    pub(crate) fn reads_of(&self, thread: ThreadId) -> usize {
        lock(&self.reads).get(&thread).copied().unwrap_or(0)
    }

    /// Does `action` when the calling thread reads the clock for the `nth` time from now, counted from 1.
    pub(crate) fn at_my_read(&self, nth: usize, action: impl FnOnce() + Send + 'static) {
        let me = std::thread::current().id();
        let at = self.reads_of(me) + nth;
        lock(&self.actions).push((When::Read(me, at), Box::new(action)));
    }

    /// Does `action` at the first reading that shows `time` or later.
    pub(crate) fn at_time(&self, time: Instant, action: impl FnOnce() + Send + 'static) {
        lock(&self.actions).push((When::Time(time), Box::new(action)));
    }

    /// The time, without a reading.
    pub(crate) fn look(&self) -> Instant {
        self.time.now()
    }
}

impl Clock for WatchedClock {
    fn now(&self) -> Instant {
        let me = std::thread::current().id();
        let count = self.reads_of(me) + 1;
        let now = self.time.now();
        let due = {
            let mut actions = lock(&self.actions);
            let is_due = |when: &When| match when {
                When::Read(thread, nth) => *thread == me && *nth == count,
                When::Time(time) => now >= *time,
            };
            actions.iter().position(|(when, _)| is_due(when)).map(|at| actions.swap_remove(at).1)
        };
        if let Some(action) = due {
            action();
        }
        let now = self.time.now();
        // Counted once it is done: whoever sees the count and moves time then does not move this reading.
        lock(&self.reads).insert(me, count);
        now
    }

    fn unix_millis(&self) -> i64 {
        self.time.unix_millis()
    }
}

impl fmt::Debug for WatchedClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedClock").field("time", &self.time).finish_non_exhaustive()
    }
}

/// The allocator of this process: the system's, which counts what it has out of a few sizes that only a test asks for.
pub(crate) struct Marked;

/// The sizes that are counted begin here.
const MARKED: usize = 77_777;
static LIVE: [AtomicUsize; 32] = [const { AtomicUsize::new(0) }; 32];

#[global_allocator]
static ALLOCATOR: Marked = Marked;

impl Marked {
    /// A counted size, by the name of a core: no two names are as long as each other.
    pub(crate) fn size(core: &str) -> usize {
        MARKED + core.len()
    }

    /// Allocations of this size that are not freed.
    pub(crate) fn live(size: usize) -> usize {
        LIVE[size - MARKED].load(SeqCst)
    }

    fn counter(layout: Layout) -> Option<&'static AtomicUsize> {
        LIVE.get(layout.size().checked_sub(MARKED)?)
    }
}

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Marked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(live) = Self::counter(layout) {
            live.fetch_add(1, SeqCst);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let Some(live) = Self::counter(layout) {
            live.fetch_add(1, SeqCst);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if let Some(live) = Self::counter(layout) {
            live.fetch_sub(1, SeqCst);
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}
