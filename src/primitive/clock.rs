//! Time: monotonic instants for waiting, wall-clock milliseconds for records.
//!
//! The core never reads a clock per record (a reading costs as much as the append): a record's timestamp is an argument,
//! and batches are dated by an [`Instant`] read once per batch. Whoever needs time gets a [`SharedClock`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point of monotonic time: nanoseconds since the clock's own origin. Not comparable between clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);

    /// The instant `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if `earlier` is later (a clock before creation is not expiry: BATCH-19).
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// `self + duration`, or `None` beyond the clock's range (about 584 years).
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        u64::try_from(duration.as_nanos()).ok().and_then(|nanos| self.0.checked_add(nanos)).map(Self)
    }

    /// `self + duration`, or the end of the clock's range.
    pub fn saturating_add(self, duration: Duration) -> Self {
        self.checked_add(duration).unwrap_or(Self(u64::MAX))
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Monotonic time now.
    fn now(&self) -> Instant;

    /// Milliseconds since 1970-01-01 UTC now, as Kafka's records carry them.
    fn unix_millis(&self) -> i64;
}

/// A clock that many own.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    origin: std::time::Instant,
}

impl SystemClock {
    /// A clock whose origin is now.
    pub fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// The same, to be shared.
    pub fn shared() -> SharedClock {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn unix_millis(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// A clock that stands still until it is told to move: for tests and virtual time.
///
/// Under loom and shuttle too it stands on an atomic of `std`, which neither sees: a reading is no scheduling point, and
/// moving the clock orders nothing for the checker. A timeout there is a race of its own (`primitive::model`).
#[derive(Debug, Default)]
pub struct ManualClock {
    nanos: AtomicU64,
    wall_offset_millis: u64,
}

impl ManualClock {
    /// A clock at its origin, whose wall clock starts at `unix_millis`.
    pub fn at(unix_millis: u64) -> Arc<Self> {
        Arc::new(Self { nanos: AtomicU64::new(0), wall_offset_millis: unix_millis })
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        // Release pairs with the Acquire load in `now`: who sees the later time also sees what was done before the move;
        // who reads first sees the earlier time.
        self.nanos.fetch_add(nanos, Release);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        // Acquire: see `advance`.
        Instant(self.nanos.load(Acquire))
    }

    fn unix_millis(&self) -> i64 {
        let millis = self.wall_offset_millis.saturating_add(self.now().as_nanos() / 1_000_000);
        i64::try_from(millis).unwrap_or(i64::MAX)
    }
}

#[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
pub use ticking::TickingClock;

#[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
mod ticking {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    use super::SharedClock;
    use crate::primitive::parker::{Parker, ThreadParker};

    /// Wall-clock milliseconds that a thread of its own refreshes each millisecond: a reading is one relaxed load.
    ///
    /// For the timestamps of records, where a clock reading per record (25 to 28 ns) would cost more than the append. A
    /// reading is at most about a millisecond old, plus what the operating system delays the refreshing thread. Not there
    /// under loom and shuttle: a model has no real threads.
    #[derive(Debug)]
    pub struct TickingClock {
        shared: Arc<Ticker>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    #[derive(Debug)]
    struct Ticker {
        millis: AtomicU64,
        stop: ThreadParker,
    }

    impl TickingClock {
        /// How often the reading is refreshed.
        pub const TICK: Duration = Duration::from_millis(1);

        /// Starts the refreshing thread, which ends when this value is dropped.
        ///
        /// # Errors
        /// The operating system's, if it has no thread to give.
        pub fn start(clock: SharedClock) -> std::io::Result<Self> {
            let read = move || u64::try_from(clock.unix_millis()).unwrap_or(0);
            let shared = Arc::new(Ticker { millis: AtomicU64::new(read()), stop: Parker::new() });
            let ticker = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("unlatched-clock".into()).spawn(move || {
                while !ticker.stop.park_timeout(Self::TICK) {
                    // Relaxed: the number orders nothing; a reader gets this tick or the one before.
                    ticker.millis.store(read(), Relaxed);
                }
            })?;
            Ok(Self { shared, thread: Some(thread) })
        }

        /// Milliseconds since 1970-01-01 UTC, as of the last tick.
        #[inline]
        pub fn unix_millis(&self) -> i64 {
            // Relaxed: see the store.
            self.shared.millis.load(Relaxed) as i64
        }
    }

    impl Drop for TickingClock {
        fn drop(&mut self) {
            self.shared.stop.unpark();
            if let Some(thread) = self.thread.take() {
                // The thread runs no foreign code; its panic, were there one, was printed by the panic hook.
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_saturate_in_both_directions() {
        let (early, late) = (Instant::from_nanos(5), Instant::from_nanos(12));
        assert_eq!(late.saturating_since(early), Duration::from_nanos(7));
        assert_eq!(early.saturating_since(late), Duration::ZERO);
        assert_eq!(late.checked_add(Duration::MAX), None);
        assert_eq!(late.saturating_add(Duration::MAX).as_nanos(), u64::MAX);
    }

    #[test]
    fn manual_clock_moves_only_when_told() {
        let clock = ManualClock::at(1_000);
        assert_eq!((clock.now(), clock.unix_millis()), (Instant::ZERO, 1_000));
        clock.advance(Duration::from_millis(3));
        assert_eq!((clock.now().as_nanos(), clock.unix_millis()), (3_000_000, 1_003));
    }

    #[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
    #[test]
    fn ticking_clock_follows_the_wall_clock() {
        let clock = SystemClock::shared();
        let ticking = TickingClock::start(clock.clone()).unwrap();
        let deadline = clock.now().saturating_add(Duration::from_secs(10));
        let first = ticking.unix_millis();
        while ticking.unix_millis() == first {
            assert!(clock.now() < deadline, "the clock stands still");
            std::thread::yield_now();
        }
        assert!((clock.unix_millis() - ticking.unix_millis()).abs() < 5_000);
    }
}
