//! The buffer pool: a byte budget, a free list, waiters, and the lease.
//!
//! A producer's memory is one number, `buffer.memory`. An appender that needs room for a batch asks the pool and gets a
//! [`Lease`], an owned buffer; when the last owner of the lease drops it - the transport, after the batch was sent - the bytes
//! are back. Who asks while nothing is left waits, first come first served, at most `max.block.ms`.
//!
//! [`BufferPool`] is what both cores implement: the twin in [`crate::mutex`], the lock-free core behind the same trait.
//! Source: Kafka's `BufferPool`; behaviour by id in `papers/catalogue.md`, POOL-01 to POOL-26.

mod atomic;
mod lease;
mod line;
mod stack;
#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests;
mod waker;
mod word;

use std::fmt;
use std::time::Duration;

pub use atomic::{Allocate, AtomicPool, AtomicPoolCore};
#[cfg(any(crossbeam_loom, unlatched_shuttle))]
#[doc(hidden)]
pub use atomic::{ChainInHand, Hand, HandOnWaker, InHand, Stacks, Stander};
pub use lease::{Buffer, Lease, Release, Released, WayBack};

use crate::primitive::clock::{Instant, SharedClock};
use crate::primitive::thread;

/// How the lock-free pool orders those who ask, and on how much it spreads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// How many allocations that begin while somebody waits may be served before the first in line; counted anew for the next one. 0: none, first
    /// come first served to the letter. More keeps memory in use while a sleeper wakes up, which otherwise costs a switch of threads for each buffer; see `papers/pool.md`.
    pub overtaking: u32,
    /// Stripes among which buffers of the poolable size are spread, a power of two. Each thread has one; threads that share one contend for it, and whoever begins to wait visits all.
    pub stripes: usize,
}

impl PoolOptions {
    /// First come, first served to the letter.
    pub fn strict() -> Self {
        Self { overtaking: 0, ..Self::default() }
    }
}

impl Default for PoolOptions {
    /// Overtaking up to 256 times, and four stripes for each thread that can run at once, at most 64.
    fn default() -> Self {
        Self { overtaking: 256, stripes: (4 * thread::parallelism()).next_power_of_two().min(64) }
    }
}

/// Why the pool gave no memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The request can never be met (POOL-02).
    #[error(
        "a buffer of {requested} bytes can never be had from a pool of {total} bytes: raise buffer.memory or send smaller records"
    )]
    TooLarge {
        /// Bytes asked for.
        requested: usize,
        /// Bytes that the pool has in all.
        total: u64,
    },
    /// Not enough memory came free in time (POOL-09). Kafka's `BufferExhaustedException`; retriable.
    #[error(
        "buffer memory exhausted: {requested} bytes did not come free within {max_block:?} ({available} available): the broker takes \
         less than is sent; raise buffer.memory or max.block.ms, or send less"
    )]
    Exhausted {
        /// Bytes asked for.
        requested: usize,
        /// Bytes available when the wait ended.
        available: u64,
        /// How long the caller was ready to wait.
        max_block: Duration,
    },
    /// The pool was closed before or while waiting (POOL-19).
    #[error("the producer was closed while memory was being allocated")]
    Closed,
    /// Every place in the line of waiters is taken. A caller whose time was up before its turn came keeps its place until then: so behind one who waits long for
    /// much, many short waits fill the line though few callers wait.
    #[error(
        "all {limit} places in the line for memory are taken, by callers who wait and by those whose time was up before their turn came: \
         send from fewer threads or tasks, or raise buffer.memory or max.block.ms"
    )]
    TooManyWaiters {
        /// How many places there are.
        limit: usize,
    },
    /// The machine had no memory although the budget had (POOL-18); the reservation was given back.
    #[error(
        "the machine has no {requested} bytes of memory left, though buffer.memory allows them: lower buffer.memory"
    )]
    OutOfMemory {
        /// Bytes asked for.
        requested: usize,
    },
}

/// The pool's figures at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolSnapshot {
    /// All bytes of the pool.
    pub total: u64,
    /// Bytes neither pooled, leased nor reserved.
    pub unallocated: u64,
    /// Bytes in buffers on the free list.
    pub pooled: u64,
    /// Bytes charged to leases.
    pub leased: u64,
    /// Bytes that waiters hold for a grant not yet complete.
    pub reserved: u64,
    /// Callers blocked now (POOL-22).
    pub queued: usize,
    /// Time spent waiting in all, of every waiter, failed waits included (POOL-25).
    pub wait_time: Duration,
    /// Waits that ended without memory (POOL-09).
    pub exhausted: u64,
}

impl PoolSnapshot {
    /// Law L1: every byte is in exactly one place.
    pub fn is_conserved(&self) -> bool {
        self.unallocated + self.pooled + self.leased + self.reserved == self.total
    }

    /// Bytes that an allocation could have (POOL-21).
    pub fn available(&self) -> u64 {
        self.unallocated + self.pooled
    }
}

/// A byte budget that hands out buffers.
///
/// The value is the pool's handle. Leases outlive it: the pool's memory goes when the handle and every lease are gone.
pub trait BufferPool: fmt::Debug + Send + Sync + Sized + 'static {
    /// Who takes buffers back.
    type Owner: Release;

    /// A pool of `total` bytes whose recycled buffers have `poolable` bytes each. Allocates no buffer (POOL-01).
    fn new(total: u64, poolable: usize, clock: SharedClock) -> Self;

    /// A buffer of exactly `size` bytes, waiting at most `max_block` for memory (zero: try once, POOL-13).
    ///
    /// A recycled buffer still holds its former bytes (POOL-05).
    ///
    /// # Errors
    /// [`PoolError`].
    fn allocate(&self, size: usize, max_block: Duration) -> Result<Lease<Self::Owner>, PoolError>;

    /// What the pool's clock shows, by which its waits are timed.
    fn now(&self) -> Instant;

    /// [`BufferPool::allocate`] without waiting (POOL-13).
    ///
    /// # Errors
    /// [`PoolError`]; [`PoolError::Exhausted`] if there was too little at one instant, or somebody was before the caller.
    fn try_allocate(&self, size: usize) -> Result<Lease<Self::Owner>, PoolError> {
        self.allocate(size, Duration::ZERO)
    }

    /// [`BufferPool::allocate`], waiting until `deadline` at the latest. A deadline that is over is a try.
    ///
    /// # Errors
    /// [`PoolError`].
    fn allocate_until(&self, size: usize, deadline: Instant) -> Result<Lease<Self::Owner>, PoolError> {
        self.allocate(size, deadline.saturating_since(self.now()))
    }

    /// Callers blocked now (POOL-22).
    fn queued(&self) -> usize;

    /// The pool's figures, all of one instant where the implementation can read them so (the twin can).
    fn snapshot(&self) -> PoolSnapshot;

    /// All bytes of the pool.
    fn total(&self) -> u64;

    /// Size of a recycled buffer in bytes.
    fn poolable(&self) -> usize;

    /// Fails waiters and later requests with [`PoolError::Closed`]; leases may still come back (POOL-19). Idempotent.
    fn close(&self);

    /// Bytes that an allocation could have (POOL-21).
    fn available(&self) -> u64 {
        self.snapshot().available()
    }
}
