//! Who opens the next batch of a shared lane: one of those who found the last one full. The others wait a little, and append to what it opens (GAP-13).
//!
//! Without this, each of N appenders that find a batch full takes memory for the next one, and N - 1 give it back: for a moment the pool looks emptier than it is (eight simulated appenders took 199 times memory for 46 batches). With it **a lane has at most one reservation beyond its
//! open batch, and one more for each opener that is stopped**; openers that wait for memory do not count, since they hold none.
//!
//! # State
//! | word | means | left by |
//! |---|---|---|
//! | even | nobody opens | CAS to word + 1 by whoever takes the turn |
//! | odd | somebody opens | CAS to word + 1 by its owner: done, or about to wait for memory; CAS to word + 2 by whoever has waited for long enough: the turn is taken from one who seems to be stopped |
//!
//! The number rises, so a late CAS of one whose turn was taken changes nothing.
//!
//! # It decides nothing
//! Who opens is decided by the CAS of the lane's tail, as if there were no turns: two openers are right, only wasteful. So every ordering here is relaxed, and under a checker nobody waits and there are no turns: each interleaving with
//! them is one of those without them, some of it left out.
//!
//! # Progress
//! Lock-free: a wait is bounded by [`PATIENCE`] looks for each opener that is stopped. Nobody waits pinned, nor for memory, nor with memory in hand.

use crate::primitive::atomic::AtomicU64;
use crate::primitive::atomic::Ordering::Relaxed;
use crate::primitive::{hint, thread};

/// Looks at the tail before an opener is taken for stopped. To open takes about a microsecond: the first looks spin, the others give the processor away, which an opener that has lost it then has.
const PATIENCE: u32 = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 0 } else { 300 };
/// Looks that spin.
const SPINS: u32 = 50;

/// The turns of a lane.
pub(super) struct Openers(AtomicU64);

/// A turn; its drop ends it.
pub(super) struct Turn<'a> {
    of: &'a Openers,
    word: u64,
}

impl Openers {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn exchange(&self, word: u64, to: u64) -> bool {
        // Relaxed: it decides nothing, see the module's head. Another was first: the caller looks again.
        self.0.compare_exchange(word, to, Relaxed, Relaxed).is_ok()
    }

    /// A turn, or what `found` found in the lane while another had it. `None`: under a checker.
    pub(super) fn turn<R>(&self, mut found: impl FnMut() -> Option<R>) -> Result<Option<Turn<'_>>, R> {
        let (mut of, mut looks) = (0, 0);
        while PATIENCE > 0 {
            // Relaxed: as in `exchange`.
            let word = self.0.load(Relaxed);
            if word != of {
                (of, looks) = (word, 0);
            }
            let is_free = word.is_multiple_of(2);
            if is_free || looks == PATIENCE {
                let own = if is_free { word + 1 } else { word + 2 };
                if self.exchange(word, own) {
                    let turn = Turn { of: self, word: own };
                    // Somebody may have opened since the caller's own look.
                    return found().map_or(Ok(Some(turn)), Err);
                }
                continue;
            }
            if looks < SPINS {
                hint::spin_loop()
            } else {
                thread::yield_now()
            }
            looks += 1;
            if let Some(found) = found() {
                return Err(found);
            }
        }
        Ok(None)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // It may have been taken.
        let _ = self.of.exchange(self.word, self.word + 1);
    }
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use super::*;

    impl Openers {
        fn are_idle(&self) -> bool {
            // Relaxed: one thread.
            self.0.load(Relaxed).is_multiple_of(2)
        }
    }

    #[test]
    fn a_turn_is_one_threads_until_it_ends_or_seems_stopped() {
        let openers = Openers::new();
        let nothing = || None::<()>;
        let first = openers.turn(nothing).unwrap().unwrap();
        let mut looks = 0;
        let second = openers.turn(|| {
            looks += 1;
            None::<()>
        });
        assert_eq!(looks, PATIENCE + 1, "it has waited for the first one, and looked once more");
        drop(first);
        // The first one's end, which comes late, does not end the second one's.
        assert_eq!(openers.turn(|| Some(7)).err(), Some(7), "found while the second one has the turn");
        drop(second);
        assert!(openers.are_idle());
    }

    #[test]
    fn who_finds_something_takes_no_turn() {
        let openers = Openers::new();
        assert_eq!(openers.turn(|| Some(3)).err(), Some(3));
        assert!(openers.are_idle(), "nobody opens");
    }
}
