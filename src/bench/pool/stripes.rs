//! The sharded opponent: four deques, each with a share of the bytes, each under a `parking_lot` mutex of its own.
//!
//! A thread takes from the stripe of its number and gives back to it; where that has too little, it looks at the others in turn. The lock is held for the deque's operation, never while memory is made or freed.
//!
//! What it is not: a pool. Nobody can wait; a request is served by one stripe or not at all, so whole-pool requests fail, and a try may fail although there is enough in all; figures cannot be read at one instant. It says what
//! sharding brings by itself, and it has the run's own number of the thread for nothing.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use super::impls::Pool;
use crate::bench::bare::BATCH;
use crate::bench::load::this_thread;

/// Stripes.
const STRIPES: usize = 4;

pub(super) struct StripedPool([CachePadded<Mutex<Stripe>>; STRIPES]);

struct Stripe {
    /// Bytes that no buffer has.
    bytes: u64,
    /// The latest is taken first: it is the warmest.
    free: VecDeque<Vec<u8>>,
}

/// A buffer, given back by drop.
pub(super) struct StripedLease<'p> {
    bytes: Vec<u8>,
    pool: &'p StripedPool,
}

/// What a stripe has for a request.
enum Share {
    Buffer(Vec<u8>),
    Bytes,
}

impl Stripe {
    #[inline]
    fn take(&mut self, size: usize, evicted: &mut Vec<Vec<u8>>) -> Option<Share> {
        if size == BATCH
            && let Some(buffer) = self.free.pop_back()
        {
            return Some(Share::Buffer(buffer));
        }
        if self.bytes + (self.free.len() * BATCH) as u64 >= size as u64 {
            while self.bytes < size as u64 {
                self.bytes += BATCH as u64;
                evicted.extend(self.free.pop_front());
            }
            self.bytes -= size as u64;
            return Some(Share::Bytes);
        }
        None
    }
}

/// How often all stripes are asked before memory is taken to be used up.
const ROUNDS: usize = 1_000;

impl StripedPool {
    pub(super) fn new(total: u64) -> Self {
        let stripe = || Stripe { bytes: total / STRIPES as u64, free: VecDeque::new() };
        Self(std::array::from_fn(|_| CachePadded::new(Mutex::new(stripe()))))
    }
}

impl Pool for StripedPool {
    type Taken<'p> = StripedLease<'p>;

    #[inline]
    fn take(&self, size: usize, _: Duration) -> StripedLease<'_> {
        let mut evicted = Vec::new();
        let own = this_thread();
        // The stripes are read one after another, so memory may hop behind the reader: a round that finds nothing proves nothing, and there is ample memory.
        for stripe in 0..ROUNDS * STRIPES {
            let share = self.0[(own + stripe) % STRIPES].lock().take(size, &mut evicted);
            let bytes = match share {
                Some(Share::Buffer(buffer)) => buffer,
                Some(Share::Bytes) => vec![0; size],
                None => continue,
            };
            return StripedLease { bytes, pool: self };
        }
        panic!("no stripe has {size} bytes, in {ROUNDS} rounds: this pool is for ample memory only");
    }

    fn is_there(_: &StripedLease<'_>) -> bool {
        true
    }

    #[inline]
    fn bytes<'a>(taken: &'a mut StripedLease<'_>) -> &'a mut [u8] {
        &mut taken.bytes
    }
}

impl Drop for StripedLease<'_> {
    #[inline]
    fn drop(&mut self) {
        let stripe = &self.pool.0[this_thread() % STRIPES];
        let bytes = mem::take(&mut self.bytes);
        if bytes.len() == BATCH {
            stripe.lock().free.push_back(bytes);
        } else {
            let size = bytes.len() as u64;
            // Before its bytes are promised to others.
            drop(bytes);
            stripe.lock().bytes += size;
        }
    }
}
