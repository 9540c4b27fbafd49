//! Futures of a batch that cost no exchange where they are made: counted in plain cells, one for each thread.
//!
//! A future is a reference to the batch's result ([`super::super::completion`]), and the references that an open batch may give out were all taken when it was made: it need only be known in the end how many it has given. Where one thread
//! makes them that is a plain count. Where many do, each that has a [`Slot`](crate::batch::Slot) counts in the cell of that slot, for as long as it has the batch announced; whoever takes the batch adds the cells up. A thread without a slot, or with one
//! beyond the cells, adds to the count of references itself, by an exchange.
//!
//! - **BATCH-G** Who counts in a cell has it alone: the owner of a batch that is owned; or the thread whose slot it is, between the reservation of a place that it has announced and the withdrawal. Whoever takes the content, or drops it, comes after all of
//!   them: it has acquired the owner's hand-over, or the withdrawals (ANN-B). A slot's next thread comes after what the one before has counted.
//!
//! Cells are few, since each batch has them; and small, so that they fill half a cache line.

use crate::primitive::cell::UnsafeCell;

/// Threads that have a cell: those of the first slots.
const CELLS: usize = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 2 } else { 16 };

/// How many futures were made without an exchange.
#[derive(Debug)]
pub(super) struct Tally([UnsafeCell<u16>; CELLS]);

impl Tally {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| UnsafeCell::new(0)))
    }

    /// Counts one more in the cell of slot `at`. `false`, and nothing is counted, if there is none, or it is full.
    ///
    /// # Safety
    /// BATCH-G: the caller has that cell.
    #[inline]
    pub(super) unsafe fn count(&self, at: usize) -> bool {
        let Some(cell) = self.0.get(at) else { return false };
        cell.with_mut(|cell| {
            // SAFETY: BATCH-G, by the caller's promise.
            let cell = unsafe { &mut *cell };
            let more = cell.checked_add(1);
            *cell = more.unwrap_or(*cell);
            more.is_some()
        })
    }

    /// Of all cells.
    ///
    /// # Safety
    /// BATCH-G: the caller comes after whoever has counted, and nobody will count more.
    pub(super) unsafe fn sum(&self) -> usize {
        // SAFETY: BATCH-G, by the caller's promise.
        self.0.iter().map(|cell| usize::from(cell.with(|cell| unsafe { *cell }))).sum()
    }
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_in_its_cell_is_not_counted() {
        let tally = Tally::new();
        // SAFETY: BATCH-G: one thread.
        let count = |at| unsafe { tally.count(at) };
        assert!(!count(CELLS), "a slot without a cell");
        assert!((0..u16::MAX).all(|_| count(CELLS - 1)));
        assert!(!count(CELLS - 1), "it is full");
        assert!(count(0), "another is not");
        // SAFETY: as above.
        assert_eq!(unsafe { tally.sum() }, usize::from(u16::MAX) + 1);
    }
}
