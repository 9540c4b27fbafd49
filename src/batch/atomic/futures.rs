//! Futures of a batch that cost no exchange where they are made: counted in plain cells, one for each thread.
//!
//! A future is a reference to the batch's result ([`super::super::completion`]), and the references that an open batch may give out were all taken when it was made: it need only be known in the end how many it has given. Where one thread
//! makes them that is a plain count. Where many do, each that has a [`Slot`](crate::batch::Slot) counts in the cell of that slot, for as long as it has the batch announced; whoever takes the batch adds the cells up. Who has no cell - a thread that has not announced the batch, or whose slot is beyond the cells - or
//! finds it full adds to the count of references itself, by an exchange.
//!
//! - **BATCH-G** Who counts in a cell has it alone: the owner of a batch that is owned; or the thread whose slot it is, between the reservation of a place that it has announced and the withdrawal. Whoever takes the content, or drops it, comes after all of
//!   them: it has acquired the owner's hand-over, or the withdrawals (ANN-B), or is the one who made the batch and has not shared it. A slot's next thread comes after what the one before has counted.
//!
//! Cells are few, since each batch has them; and small, so that they fill half a cache line.

use crate::primitive::cell::UnsafeCell;

/// Threads that have a cell: those of the first slots.
const CELLS: usize = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 1 } else { 16 };

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
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{AtomicBatch, Filled};
    use super::*;
    use crate::batch::{RecordFuture, Reply};
    use crate::error::TopicPartition;
    use crate::pool::{AtomicPool, BufferPool};
    use crate::primitive::clock::{Instant, ManualClock};
    use crate::record::Record;

    const RECORD: Record<'static> = Record { timestamp: 7, key: None, value: Some(b"x"), headers: &[] };

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

    /// A batch of one owner, of more records than a cell counts, and their futures. The topic's name counts one for its result.
    fn full() -> (Arc<str>, AtomicBatch<()>, Vec<RecordFuture>) {
        let topic = Arc::<str>::from("t");
        let pool = AtomicPool::new(1 << 20, 1 << 20, ManualClock::at(0));
        let lease = pool.allocate(1 << 20, Duration::ZERO).expect("there is enough").erase();
        let of = TopicPartition::new(Arc::clone(&topic), 0);
        let mut batch = AtomicBatch::new(of, lease, Instant::ZERO, |_| ());
        batch.begin(&RECORD, None);
        let mut futures = vec![batch.first_future()];
        batch.own();
        while futures.len() < usize::from(u16::MAX) + 100 {
            // SAFETY: BATCH-F: it was never shared.
            let filled =
                unsafe { batch.fill(&RECORD, RECORD.payload_size(), &mut Reply { future: true, callback: None }) };
            let Filled::In { future, .. } = filled else { panic!("there is room: {filled:?}") };
            futures.extend(future);
        }
        (topic, batch, futures)
    }

    /// Drops them where nothing is kept of them.
    fn let_go(futures: Vec<RecordFuture>) {
        std::thread::spawn(move || drop(futures)).join().expect("it does not panic");
    }

    fn lives(topic: &Arc<str>) -> bool {
        Arc::strong_count(topic) > 1
    }

    #[test]
    fn more_futures_than_a_cell_counts_are_all_counted() {
        let (topic, batch, mut futures) = full();
        let last = futures.pop().expect("many");
        let records = futures.len() as i64;
        let_go(futures);
        // SAFETY: BATCH-D: it was never shared.
        let (sealed, failed) = unsafe { batch.take(TopicPartition::new("other", 0), 1) };
        assert!(!failed);
        assert_eq!(sealed.completion().complete(40, None), Ok(true));
        drop((sealed, batch));
        assert!(lives(&topic));
        assert_eq!(last.try_result().and_then(Result::ok).map(|at| at.offset), Some(40 + records));
        let_go(vec![last]);
        assert!(!lives(&topic));
    }

    #[test]
    fn futures_of_a_batch_that_nobody_took_are_counted() {
        let (topic, batch, mut futures) = full();
        let last = futures.pop().expect("many");
        let_go(futures);
        drop(batch);
        assert!(lives(&topic));
        assert!(last.try_result().is_some_and(|ended| ended.is_err()), "it was aborted");
        let_go(vec![last]);
        assert!(!lives(&topic));
    }
}
