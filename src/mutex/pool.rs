//! The twin's pool: one lock, a FIFO of waiters, Kafka's way of gathering.
//!
//! Source: Kafka's `BufferPool`, methods `allocate`, `freeUp`, `deallocate`, `close`. A waiter sleeps on a parker of its own where Kafka
//! has a `Condition`. A signal is a token, chosen under the lock and given after it, so none is lost between a waiter's look and its sleep.
//!
//! # What is where
//! Under the lock: `unallocated` bytes, the free list, the FIFO of waiters, and the books: bytes `leased` and bytes `reserved` by waiters.
//! Law L1 at every unlock: `unallocated + free list x poolable + leased + reserved = total`.
//!
//! # Who lives how long
//! - **MPOOL-1** [`PoolCore`] is freed by whoever makes `leases == 0 && handle_gone` true under the lock: the handle's drop or the last lease's.
//!   Both look and change under the lock, so exactly one of them finds it true.
//! - **MPOOL-2** Nobody touches the core after having made MPOOL-1's condition possible but for the end of his own unlock: both mutexes end
//!   it with the store that lets the next holder in, and a wake by address that reads no memory.
//!
//! # Linearization points
//! A grant: where the bytes are booked under the lock. A release: likewise. A failed try: the same critical section in which it found too little.

use std::collections::VecDeque;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use crate::pool::{Buffer, BufferPool, Lease, PoolError, PoolSnapshot, Release, Released, WayBack};
use crate::primitive::clock::{Instant, SharedClock};
use crate::primitive::lock::{LockFamily, Mutex};
use crate::primitive::parker::Parker;
use crate::primitive::step;

/// The twin's pool: the handle. Dropping it closes nothing; leases may come back later.
pub struct MutexPool<F: LockFamily>(NonNull<PoolCore<F>>);

// SAFETY: the handle is a reference to a `Sync` core that lives by MPOOL-1.
unsafe impl<F: LockFamily> Send for MutexPool<F> {}
// SAFETY: as above.
unsafe impl<F: LockFamily> Sync for MutexPool<F> {}

/// What the handle and the leases share.
pub struct PoolCore<F: LockFamily> {
    total: u64,
    poolable: usize,
    clock: SharedClock,
    state: F::Mutex<State<F::Parker>>,
}

struct State<P> {
    unallocated: u64,
    free: VecDeque<Buffer>,
    /// First come, first served. A satisfied waiter leaves before it wakes its successor (POOL-12).
    waiters: VecDeque<Arc<P>>,
    leases: usize,
    leased: u64,
    reserved: u64,
    closed: bool,
    handle_gone: bool,
    wait_time: Duration,
    exhausted: u64,
}

/// The lock, held.
type Held<'a, F> =
    <<F as LockFamily>::Mutex<State<<F as LockFamily>::Parker>> as Mutex<State<<F as LockFamily>::Parker>>>::Guard<'a>;

impl<P: Parker> State<P> {
    fn pooled(&self, poolable: usize) -> u64 {
        // 64 bits: Kafka's product of two ints overflows at 2 GiB (GAP-07).
        self.free.len() as u64 * poolable as u64
    }

    /// Breaks pooled buffers up, latest first, until `size` bytes are unallocated or none is left (POOL-04). Kafka's `freeUp`.
    fn free_up(&mut self, size: u64, evicted: &mut Vec<Buffer>) {
        while self.unallocated < size {
            let Some(buffer) = self.free.pop_back() else { break };
            self.unallocated += buffer.capacity() as u64;
            evicted.push(buffer);
        }
    }

    /// The head waiter, to be woken after the unlock.
    #[inline]
    fn head(&self) -> Option<Arc<P>> {
        self.waiters.front().cloned()
    }

    /// The head waiter if any memory is left: wake-ups chain one by one (POOL-11).
    #[inline]
    fn next_in_chain(&self) -> Option<Arc<P>> {
        if self.unallocated > 0 || !self.free.is_empty() { self.head() } else { None }
    }

    #[inline]
    fn lease(&mut self, size: usize) {
        self.leases += 1;
        self.leased += size as u64;
    }

    #[inline]
    fn end_lease(&mut self, charged: usize) {
        self.leases -= 1;
        self.leased -= charged as u64;
    }
}

/// Wakes whoever an unlock owes a look. The signal is a token: it keeps until the waiter comes to sleep.
#[inline]
fn wake<P: Parker>(waiter: Option<Arc<P>>) {
    if let Some(waiter) = waiter {
        step("pool.wake");
        waiter.unpark();
    }
}

/// Buffers broken up under the lock, given back to the machine after it.
#[derive(Default)]
struct Evicted(Vec<Buffer>);

impl Drop for Evicted {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Buffer::free);
    }
}

/// A waiter's turn, from joining the FIFO to leaving it. Its drop is POOL-10: whatever ends the wait, a panic included, the partial
/// reservation goes back as plain bytes, the waiter leaves, and the wake-up goes on.
struct Turn<'a, F: LockFamily> {
    core: &'a PoolCore<F>,
    parker: Arc<F::Parker>,
    reserved: u64,
    over: bool,
}

impl<F: LockFamily> Turn<'_, F> {
    /// Leaves the FIFO under the lock that the caller holds; the drop then only lets go of the parker.
    fn leave(&mut self, state: &mut State<F::Parker>) {
        self.strike(state);
        self.over = true;
    }

    fn strike(&self, state: &mut State<F::Parker>) {
        state.unallocated += self.reserved;
        state.reserved -= self.reserved;
        state.waiters.retain(|other| !Arc::ptr_eq(other, &self.parker));
    }
}

impl<F: LockFamily> Drop for Turn<'_, F> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut state = self.core.state.lock();
        self.strike(&mut state);
        let next = state.next_in_chain();
        drop(state);
        wake(next);
    }
}

impl<F: LockFamily> PoolCore<F> {
    /// Books `size` bytes where no recycled buffer fits; one after all, if waiting has brought it.
    #[cold]
    fn reserve<'a>(
        &'a self,
        mut state: Held<'a, F>,
        size: usize,
        max_block: Duration,
    ) -> Result<Option<Buffer>, PoolError> {
        // Memory is freed after the unlock, which the end of this function is not later than.
        let mut evicted = Evicted::default();
        let mut turn = None;
        let wanted = size as u64;
        let mut granted = None;
        if state.closed {
            drop(state);
            return Err(PoolError::Closed);
        } else if state.unallocated + state.pooled(self.poolable) >= wanted {
            state.free_up(wanted, &mut evicted.0);
            state.unallocated -= wanted;
        } else {
            let parker = Arc::new(F::Parker::new());
            state.waiters.push_back(Arc::clone(&parker));
            drop(state);
            let turn = turn.insert(Turn { core: self, parker, reserved: 0, over: false });
            (granted, state) = self.await_turn(turn, size, max_block, &mut evicted.0)?;
        }
        state.lease(size);
        let next = state.next_in_chain();
        drop(state);
        wake(next);
        Ok(granted)
    }

    /// Waits as `turn` until `size` bytes are gathered (POOL-07). Comes back with the lock held and the turn over; or without, and the turn's drop is to give back.
    fn await_turn<'a>(
        &'a self,
        turn: &mut Turn<'a, F>,
        size: usize,
        max_block: Duration,
        evicted: &mut Vec<Buffer>,
    ) -> Result<(Option<Buffer>, Held<'a, F>), PoolError> {
        let wanted = size as u64;
        let mut left = max_block;
        loop {
            step("pool.wait");
            let start = self.clock.now();
            let signalled = turn.parker.park_timeout(left);
            let waited = self.clock.now().saturating_since(start);
            left = left.saturating_sub(waited);

            let mut state = self.state.lock();
            state.wait_time += waited;
            if state.closed {
                // Before the look at the time: close wins a tie (POOL-20).
                drop(state);
                return Err(PoolError::Closed);
            }
            if !signalled {
                state.exhausted += 1;
                // As others see it once this turn's reservation is back.
                let available = state.unallocated + state.pooled(self.poolable) + turn.reserved;
                drop(state);
                return Err(PoolError::Exhausted { requested: size, available, max_block });
            }
            if turn.reserved == 0
                && size == self.poolable
                && let Some(buffer) = state.free.pop_front()
            {
                turn.leave(&mut state);
                return Ok((Some(buffer), state));
            }
            state.free_up(wanted - turn.reserved, evicted);
            let got = state.unallocated.min(wanted - turn.reserved);
            state.unallocated -= got;
            state.reserved += got;
            turn.reserved += got;
            if turn.reserved == wanted {
                state.reserved -= wanted;
                turn.reserved = 0;
                turn.leave(&mut state);
                return Ok((None, state));
            }
        }
    }

    /// Takes back what does not go on the free list; `None` for memory that was never made (POOL-18).
    #[cold]
    fn credit(&self, mut state: Held<'_, F>, buffer: Option<Buffer>, charged: usize) -> Released {
        state.unallocated += charged as u64;
        // One release wakes the head only, whatever came back (POOL-16).
        let head = state.head();
        let last = state.handle_gone && state.leases == 0;
        drop(state);
        wake(head);
        if let Some(buffer) = buffer {
            buffer.free();
        }
        if last { Released::Last } else { Released::More }
    }
}

// SAFETY: LEASE-2 and LEASE-3 are MPOOL-1 and MPOOL-2.
unsafe impl<F: LockFamily> Release for PoolCore<F> {
    #[inline]
    fn way_back(&self) -> WayBack {
        // SAFETY: `WayBack` and MPOOL-1.
        |pool, buffer, _| unsafe { pool.cast::<Self>().as_ref() }.release(buffer)
    }
}

impl<F: LockFamily> PoolCore<F> {
    #[inline]
    fn release(&self, buffer: Buffer) -> Released {
        let charged = buffer.capacity();
        let mut state = self.state.lock();
        state.end_lease(charged);
        // POOL-14. After the handle is gone nobody can ask again: memory need not be kept.
        if charged == self.poolable && !state.handle_gone {
            state.free.push_back(buffer);
            // As in `credit`.
            let head = state.head();
            drop(state);
            wake(head);
            return Released::More;
        }
        self.credit(state, Some(buffer), charged)
    }
}

impl<F: LockFamily> MutexPool<F> {
    fn core(&self) -> &PoolCore<F> {
        // SAFETY: MPOOL-1: the handle is not gone.
        unsafe { self.0.as_ref() }
    }
}

impl<F: LockFamily> BufferPool for MutexPool<F> {
    type Owner = PoolCore<F>;

    fn new(total: u64, poolable: usize, clock: SharedClock) -> Self {
        let state = State {
            unallocated: total,
            free: VecDeque::new(),
            waiters: VecDeque::new(),
            leases: 0,
            leased: 0,
            reserved: 0,
            closed: false,
            handle_gone: false,
            wait_time: Duration::ZERO,
            exhausted: 0,
        };
        let core = Box::new(PoolCore { total, poolable, clock, state: Mutex::new(state) });
        Self(NonNull::from(Box::leak(core)))
    }

    #[inline]
    fn allocate(&self, size: usize, max_block: Duration) -> Result<Lease<PoolCore<F>>, PoolError> {
        let core = self.core();
        if size as u64 > core.total {
            return Err(PoolError::TooLarge { requested: size, total: core.total });
        }
        let mut state = core.state.lock();
        // POOL-03.
        if size == core.poolable
            && !state.closed
            && let Some(buffer) = state.free.pop_front()
        {
            state.lease(size);
            let next = state.next_in_chain();
            drop(state);
            wake(next);
            // SAFETY: as below.
            return Ok(unsafe { Lease::new(buffer, 0, self.0) });
        }
        let buffer = match core.reserve(state, size, max_block)? {
            Some(buffer) => buffer,
            // Outside of the lock (POOL-04).
            None => match Buffer::zeroed(size) {
                Some(buffer) => buffer,
                None => {
                    let mut state = core.state.lock();
                    state.end_lease(size);
                    core.credit(state, None, size);
                    return Err(PoolError::OutOfMemory { requested: size });
                }
            },
        };
        // SAFETY: the core came from a box and has booked the lease; MPOOL-1 and MPOOL-2.
        Ok(unsafe { Lease::new(buffer, 0, self.0) })
    }

    fn now(&self) -> Instant {
        self.core().clock.now()
    }

    fn queued(&self) -> usize {
        self.core().state.lock().waiters.len()
    }

    fn snapshot(&self) -> PoolSnapshot {
        let core = self.core();
        let state = core.state.lock();
        PoolSnapshot {
            total: core.total,
            unallocated: state.unallocated,
            pooled: state.pooled(core.poolable),
            leased: state.leased,
            reserved: state.reserved,
            queued: state.waiters.len(),
            wait_time: state.wait_time,
            exhausted: state.exhausted,
        }
    }

    fn total(&self) -> u64 {
        self.core().total
    }

    fn poolable(&self) -> usize {
        self.core().poolable
    }

    fn close(&self) {
        let mut state = self.core().state.lock();
        state.closed = true;
        let waiters: Vec<_> = state.waiters.iter().cloned().collect();
        drop(state);
        waiters.into_iter().for_each(|waiter| wake(Some(waiter)));
    }
}

impl<F: LockFamily> Drop for MutexPool<F> {
    fn drop(&mut self) {
        let mut state = self.core().state.lock();
        state.handle_gone = true;
        let last = state.leases == 0;
        drop(state);
        if last {
            // SAFETY: MPOOL-1: we made the condition true, so nobody else frees it; from a box.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

impl<F: LockFamily> Drop for PoolCore<F> {
    fn drop(&mut self) {
        std::mem::take(&mut self.state.lock().free).into_iter().for_each(Buffer::free);
    }
}

impl<F: LockFamily> fmt::Debug for MutexPool<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MutexPool").field(&self.snapshot()).finish()
    }
}

impl<F: LockFamily> fmt::Debug for PoolCore<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolCore").field("total", &self.total).finish_non_exhaustive()
    }
}
