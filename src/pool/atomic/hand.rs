//! A hand in the pool, for models: a line whose waiters are no threads, since a checker can afford few.

use std::sync::Arc;

use super::wait::Turn;
use super::{AcqRel, AtomicPool, AtomicPoolCore, Relaxed};
use crate::pool::line::{Place, Waiter};
use crate::pool::{BufferPool, PoolOptions};
use crate::primitive::clock::SharedClock;
use crate::primitive::epoch;

/// A strict pool whose bytes are all charged, and who stands in its line.
#[allow(missing_debug_implementations)]
pub struct Hand {
    pool: AtomicPool,
    waiters: Vec<Arc<Waiter>>,
}

impl Hand {
    /// A pool of `total` bytes, all of them charged, and waiters for `needs`, in line in this order.
    ///
    /// # Panics
    /// Never: nobody else is there.
    pub fn new(total: u64, needs: &[u64], clock: SharedClock) -> Self {
        let pool = AtomicPool::with_options(total, usize::MAX, clock, PoolOptions { overtaking: 0, stripes: 1 });
        let core = pool.core();
        // AcqRel: as in `exchange`.
        core.word.fetch_sub(total, AcqRel);
        let line_up = |need: &u64| {
            let waiter = Waiter::thread(*need);
            core.line.join(Place::of(waiter.clone()), &epoch::pin());
            let word = core.load();
            core.exchange(word, word.joined(), "").expect("nobody else is there");
            waiter
        };
        let waiters = needs.iter().map(line_up).collect();
        core.shut_stripes();
        Self { pool, waiters }
    }

    /// Gives bytes back.
    pub fn credit(&self, bytes: u64) {
        // SAFETY: charged in `new`, and the handle lives.
        unsafe { AtomicPoolCore::credit(self.pool.0, bytes) };
    }

    /// Ends the wait of one whose time is up; `false` if it was granted before.
    pub fn give_up(&self, waiter: usize) -> bool {
        let mut turn = Turn::new(self.pool.core(), self.waiters[waiter].clone());
        let cancelled = turn.cancel();
        // What it was granted is not this hand's to give back.
        turn.over = true;
        cancelled
    }

    /// Bytes available, whether somebody waits, and where each wait has come to.
    pub fn look(&self) -> (u64, bool, String) {
        let word = self.pool.core().load();
        let all: Vec<_> = self.waiters.iter().map(|waiter| format!("{:?}", waiter.progress())).collect();
        (word.available(), word.waiting(), all.join(" "))
    }

    /// The end: all bytes are back, whoever had them, so that the pool goes.
    pub fn give_all_back(&self) {
        let core: &AtomicPoolCore = self.pool.core();
        let mut word = core.load();
        word.0 += core.total - word.available();
        // Relaxed: everybody else is joined.
        core.word.store(word.0, Relaxed);
    }
}
