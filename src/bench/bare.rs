//! Little more than a lock: a `parking_lot` mutex around a deque of vectors, and a copy. No format, no futures, no budget, no waiting.
//!
//! For small records and for buffers as such it is the least that such a thing costs. Of large records it is not: its few vectors go to and fro between the appender's processor and the drainer's, while a pool's, taken in turn,
//! have long left both.

use std::collections::VecDeque;
use std::mem;

use parking_lot::Mutex;

/// What a batch or a buffer holds, in bytes.
pub(super) const BATCH: usize = 16 << 10;

/// Appends by copying; full vectors are taken from the front and come back empty.
#[derive(Default)]
pub(super) struct BareAppend {
    queue: Mutex<VecDeque<Vec<u8>>>,
    spare: Mutex<Vec<Vec<u8>>>,
}

impl BareAppend {
    #[inline]
    pub(super) fn append(&self, record: &[u8]) {
        let mut queue = self.queue.lock();
        match queue.back_mut() {
            Some(tail) if tail.len() + record.len() <= BATCH => tail.extend_from_slice(record),
            _ => {
                let mut fresh = self.spare.lock().pop().unwrap_or_else(|| Vec::with_capacity(BATCH));
                fresh.extend_from_slice(record);
                queue.push_back(fresh);
            }
        }
    }

    /// Takes a full vector.
    pub(super) fn pop(&self) -> Option<Vec<u8>> {
        let mut queue = self.queue.lock();
        if queue.len() > 1 { queue.pop_front() } else { None }
    }

    pub(super) fn give_back(&self, mut vector: Vec<u8>) {
        vector.clear();
        self.spare.lock().push(vector);
    }
}

/// Buffers from a deque under one lock.
#[derive(Default)]
pub(super) struct BarePool(Mutex<VecDeque<Vec<u8>>>);

/// A buffer of [`BarePool`], given back by drop.
pub(super) struct BareLease<'p> {
    pub(super) bytes: Vec<u8>,
    pool: &'p BarePool,
}

impl BarePool {
    #[inline]
    pub(super) fn allocate(&self) -> BareLease<'_> {
        let recycled = self.0.lock().pop_front();
        BareLease { bytes: recycled.unwrap_or_else(|| vec![0; BATCH]), pool: self }
    }
}

impl Drop for BareLease<'_> {
    #[inline]
    fn drop(&mut self) {
        self.pool.0.lock().push_back(mem::take(&mut self.bytes));
    }
}
