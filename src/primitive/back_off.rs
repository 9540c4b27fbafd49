//! Exponential back-off: who has lost an exchange to another leaves the line to that one for a while, twice as long each time (T. E. Anderson, "The performance of spin lock alternatives", IEEE TPDS 1990).
//!
//! Two processors that go on at once take the line from each other for every exchange; one that has it alone does many in the time of one handover. What that brings, and what it costs in the tail: `papers/accumulator.md`, "The shared lane".

/// How long the next wait is.
#[derive(Debug)]
#[cfg_attr(any(crossbeam_loom, unlatched_shuttle), allow(dead_code, reason = "a checker's threads do not wait"))]
pub(crate) struct BackOff {
    spins: u32,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { spins: FIRST }
    }
}

/// Spin hints of the first wait, and of the longest: 12 and 50 microseconds where a hint takes 24 ns.
const FIRST: u32 = 512;
#[cfg_attr(any(crossbeam_loom, unlatched_shuttle), allow(dead_code, reason = "as above"))]
const LONGEST: u32 = 2_048;

impl BackOff {
    /// Waits; whether it did. In a simulation it is a scheduling point; under a checker nothing, since the exchange that was lost was one.
    #[cold]
    pub(crate) fn wait(&mut self) -> bool {
        #[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
        {
            #[cfg(feature = "testing")]
            if super::sim::pass("back-off") {
                return true;
            }
            for _ in 0..self.spins {
                std::hint::spin_loop();
            }
            self.spins = (2 * self.spins).min(LONGEST);
        }
        cfg!(not(any(crossbeam_loom, unlatched_shuttle)))
    }
}
