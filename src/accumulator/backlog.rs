//! Says whether the sender is far behind; whoever opens a batch then lets it catch up. For both cores: Kafka has nothing like it.
//!
//! Appenders that are faster than the sender fill the pool sooner or later. From then on each batch is written into memory that was last used a whole pool ago, so that it comes from beyond the processors' caches, for
//! the appender and once more for the sender; and each append that opens one waits in line. The same appenders, a few batches ahead of the sender, write into what was just sent. They get no more sent than the sender sends
//! in either case; what they save is the time that memory takes, on both sides (papers/accumulator.md, "Letting the sender catch up").
//!
//! So while more batches stand ready than a sixteenth of the pool holds, eight at least, whoever is about to take memory for another one gives the processor away twice, and looks again each time. **It decides nothing**: nobody waits for anything, what it goes by may be a
//! moment old, and every ordering here is relaxed. Nor does it ask why they stand there. Where the sender waits for its broker, or cannot send them at all - no leader, a muted partition, a backoff - each batch that is opened costs
//! [`PATIENCE`] yields for nothing: system calls, or a turn of those who can run, if there are such. It is done with nothing in hand: no memory, no lock, no pin.
//!
//! # What counts as ready
//! In the lock-free core what was published (finished and pushed on the ready stack) and what stood in the sender's queues at its last look or drain; in the twin what was closed for appends. Neither counts a batch that is still filled: where many partitions have a few records each, those are
//! many, and whoever yields for them makes them smaller. Batches that are larger than `batch.size` count as one.

use std::time::Duration;

use crate::batch::may_wait;
use crate::primitive::thread;

/// The part of the pool that may stand ready before appenders let the sender catch up. Of Kafka's 32 MiB: two requests of its largest.
const PART: u64 = 16;
/// Batches that may stand ready, however large they are.
const FEWEST: u64 = 8;
/// How often an appender gives the processor away for one batch. Under a checker it does not: nothing depends on it.
const PATIENCE: u32 = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 0 } else { 2 };
/// Whoever may wait for less than this does not give the processor away either.
const SHORT: Duration = Duration::from_millis(1);

/// What is allowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backlog {
    /// Batches.
    allowed: u64,
}

impl Backlog {
    /// Whether what is ready needs to be counted.
    pub(crate) const COUNTS: bool = PATIENCE > 0;

    /// For batches of `batch_size` bytes out of a pool of `total`.
    pub(crate) fn new(batch_size: usize, total: u64) -> Self {
        Self { allowed: (total / PART / batch_size.max(1) as u64).max(FEWEST) }
    }

    /// Lets the sender catch up, if it is so far behind with `ready` batches, and the caller may wait for memory `at_most` so long: in a callback, which may run on the sender's own thread, not at all (GAP-20).
    /// `tell`: the sender may be asleep, and what the caller's own call has finished not told yet. (In the twin it learns of that at its next pass, as in Kafka.)
    pub(crate) fn let_catch_up(self, at_most: Duration, ready: impl Fn() -> u64, tell: impl FnOnce()) {
        if Self::COUNTS && ready() > self.allowed && may_wait(at_most) >= SHORT {
            tell();
            self.give_way(ready, thread::yield_now);
        }
    }

    fn give_way(self, ready: impl Fn() -> u64, mut yield_once: impl FnMut()) {
        for _ in 0..PATIENCE {
            yield_once();
            if ready() <= self.allowed {
                return;
            }
        }
    }
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// How often somebody gives way who finds `ready`, of which one is taken each time that he does.
    fn times(backlog: Backlog, ready: u64) -> u32 {
        let (ready, times) = (Cell::new(ready), Cell::new(0));
        backlog.give_way(
            || ready.get(),
            || {
                ready.set(ready.get() - 1);
                times.set(times.get() + 1);
            },
        );
        times.get()
    }

    #[test]
    fn who_gives_way_looks_each_time_and_does_not_do_it_for_long() {
        let backlog = Backlog::new(16 << 10, 32 << 20);
        assert_eq!(times(backlog, 129), 1, "then it is a sixteenth");
        assert_eq!(times(backlog, 1_000), 2, "the sender may be waiting for its broker");
    }

    #[test]
    fn the_sender_is_told_where_it_is_behind_and_only_there() {
        let backlog = Backlog::new(16 << 10, 32 << 20);
        let told = |ready, at_most| {
            let told = Cell::new(false);
            backlog.let_catch_up(at_most, || ready, || told.set(true));
            told.get()
        };
        assert!(!told(128, SHORT), "a sixteenth");
        assert!(told(129, SHORT));
        assert!(!told(129, SHORT - Duration::from_nanos(1)), "he may hardly wait");
    }

    #[test]
    fn a_sixteenth_of_the_pool_may_stand_ready_and_a_few_batches_however_large() {
        assert_eq!(Backlog::new(16 << 10, 2 << 30).allowed, 8_192);
        assert_eq!(Backlog::new(1 << 20, 32 << 20).allowed, 8);
        assert_eq!(Backlog::new(0, 32 << 20).allowed, 2 << 20, "as if it were 1");
    }
}
