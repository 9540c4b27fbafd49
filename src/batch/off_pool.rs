//! Memory that batches take outside of the pool: contexts of codecs, scratch, and what has outgrown its lease (BATCH-07).
//!
//! The pool's budget does not know of it, so it is counted here: how much there is now, and how much there ever was at once. Whoever holds such memory keeps a [`Held`] beside it,
//! whose drop counts it out; so nothing is forgotten on any way that a batch may go.

use std::sync::Arc;

use crate::primitive::atomic::AtomicU64;
use crate::primitive::atomic::Ordering::Relaxed;

/// Counts the bytes outside of one accumulator's pool.
#[derive(Debug)]
pub struct OffPool {
    now: AtomicU64,
    peak: AtomicU64,
}

/// [`OffPool`] read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OffPoolSnapshot {
    /// Bytes held now.
    pub bytes: u64,
    /// The most that were ever held at once.
    pub peak: u64,
}

impl OffPool {
    /// Counts from zero.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { now: AtomicU64::new(0), peak: AtomicU64::new(0) })
    }

    /// Counts `bytes` in, until the result is dropped.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        let mut held = Held { of: Arc::clone(self), bytes: 0 };
        held.set(bytes);
        held
    }

    /// The figures now.
    pub fn snapshot(&self) -> OffPoolSnapshot {
        // Relaxed, both: figures that order nothing; the peak may be one step behind.
        OffPoolSnapshot { bytes: self.now.load(Relaxed), peak: self.peak.load(Relaxed) }
    }
}

/// Bytes that are counted in.
#[derive(Debug)]
pub struct Held {
    of: Arc<OffPool>,
    bytes: u64,
}

impl Held {
    /// It is `bytes` now.
    pub fn set(&mut self, bytes: usize) {
        let (before, bytes) = (std::mem::replace(&mut self.bytes, bytes as u64), bytes as u64);
        // Relaxed, all: figures that order nothing. Of two that count at once, each adds to what the other has left, and the later sees the sum of both: so the peak misses none.
        if bytes > before {
            let more = bytes - before;
            let now = self.of.now.fetch_add(more, Relaxed) + more;
            // Relaxed: as above.
            self.of.peak.fetch_max(now, Relaxed);
        } else if bytes < before {
            // Relaxed: as above.
            self.of.now.fetch_sub(before - bytes, Relaxed);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_07_what_is_held_is_counted_until_it_is_dropped_and_the_peak_stays() {
        let off_pool = OffPool::new();
        let figures = |bytes, peak| assert_eq!(off_pool.snapshot(), OffPoolSnapshot { bytes, peak });
        let mut one = off_pool.hold(100);
        let other = off_pool.hold(50);
        figures(150, 150);
        one.set(20);
        figures(70, 150);
        one.set(110);
        figures(160, 160);
        drop(other);
        drop(one);
        figures(0, 160);
    }
}
