//! The free list: buffers of one size, last in, first out, without a lock.
//!
//! Two Treiber stacks over one table of slots: `full` holds the slots with a buffer, `idle` those without. A push takes an idle slot, lays the buffer in it, and
//! puts the slot on `full`; a pop goes the other way. A slot that a thread has taken off a stack is that thread's alone.
//!
//! Source: R. K. Treiber, "Systems Programming: Coping with Parallelism" (1986); tags against reuse as in IBM's System/370 Principles of Operation.
//!
//! # State
//! Head word of a stack: `{ tag 40 | top 24 }`; `top` is a slot's number plus one, 0 for empty.
//!
//! | word | left by |
//! |---|---|
//! | a head | CAS, which adds 1 to the tag each time |
//! | a slot's `next` | a plain store by whoever is about to push it |
//!
//! # Invariants
//! - **FREE-A** A slot is on one stack, or in the hands of the one thread that took it off; only that thread touches its buffer.
//! - **FREE-B** A tag does not come twice while somebody holds a stale head: that would take 2^40 exchanges inside one pop, ten minutes at 10^9 a second.
//! - **FREE-C** A slot on `full` has a buffer, one on `idle` has none.
//!
//! # The race that looks dangerous
//! ABA: a pop reads top = A and A's next = B, and is stopped; others pop A and B and push A again. Its CAS would make B, which somebody owns, the top. But each of
//! their exchanges has changed the tag, so the CAS fails. Reading A's `next` meanwhile is harmless: it is an atomic, in a table that lives as long as the list.
//!
//! # Linearization points, progress
//! The successful CAS on `full`; an empty pop: its load of the head. Lock-free: a CAS fails because another succeeded.

use std::fmt;

use super::Buffer;
use crate::primitive::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use crate::primitive::cell::UnsafeCell;
use crate::primitive::step;

const TOP_BITS: u32 = 24;
const TOP_MASK: u64 = (1 << TOP_BITS) - 1;

/// Buffers that a list keeps at most; more go back to the machine.
const MAX_SLOTS: u64 = 1 << 16;

struct Slot {
    /// The slot below on the same stack, plus one; 0 for the bottom.
    next: AtomicU32,
    buffer: UnsafeCell<Option<Buffer>>,
}

struct Stack(AtomicU64);

pub(super) struct FreeList {
    slots: Box<[Slot]>,
    full: Stack,
    idle: Stack,
    /// Slots on `full`, and those being pushed and popped now: never less than are on it.
    count: AtomicUsize,
}

// SAFETY: FREE-A says who accesses a slot's cell; buffers are `Send`.
unsafe impl Send for FreeList {}
// SAFETY: as above.
unsafe impl Sync for FreeList {}

impl Stack {
    fn pop(&self, slots: &[Slot], at: &'static str) -> Option<usize> {
        // Acquire pairs with the Release half of the push that made this head: its slot's `next` and buffer are seen. An older head fails the CAS.
        let mut head = self.0.load(Acquire);
        loop {
            let top = (head & TOP_MASK).checked_sub(1)? as usize;
            // Relaxed: ordered by the Acquire of the head that it belongs to; if the slot has moved on, the CAS fails by the tag.
            let next = u64::from(slots[top].next.load(Relaxed));
            let after = ((head >> TOP_BITS).wrapping_add(1) << TOP_BITS) | next;
            step(at);
            // Relaxed: the tag makes it the very head that was loaded. The next pop reads through our exchange, as through any, what the pushes before it
            // released. Acquire on failure: as the load.
            match self.0.compare_exchange_weak(head, after, Relaxed, Acquire) {
                Ok(_) => return Some(top),
                Err(now) => head = now,
            }
        }
    }

    /// Pushes a slot that is the caller's.
    fn push(&self, slots: &[Slot], slot: usize, at: &'static str) {
        // Relaxed: it is ours; the CAS below releases what follows.
        let mut head = self.0.load(Relaxed);
        loop {
            // Relaxed: ours until the CAS, which releases it to whoever pops.
            slots[slot].next.store((head & TOP_MASK) as u32, Relaxed);
            let after = ((head >> TOP_BITS).wrapping_add(1) << TOP_BITS) | (slot as u64 + 1);
            step(at);
            // Release pairs with the Acquire in `pop`: `next` and buffer are seen by who takes the slot, and so are those of the pushes below us, through our exchange.
            // If another exchange comes first, ours fails and is tried on the new head.
            match self.0.compare_exchange_weak(head, after, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

impl FreeList {
    /// For at most `buffers` buffers.
    pub(super) fn new(buffers: u64) -> Self {
        let count = buffers.min(MAX_SLOTS) as u32;
        // All idle, each on top of the one after it.
        let slots = (1..=count).map(|number| Slot {
            next: AtomicU32::new(if number == count { 0 } else { number + 1 }),
            buffer: UnsafeCell::new(None),
        });
        Self {
            slots: slots.collect(),
            full: Stack(AtomicU64::new(0)),
            idle: Stack(AtomicU64::new(u64::from(count > 0))),
            count: AtomicUsize::new(0),
        }
    }

    /// The buffer pushed last, if there is one.
    pub(super) fn pop(&self) -> Option<Buffer> {
        let slot = self.full.pop(&self.slots, "free-list.pop")?;
        // Release pairs with the Acquire in `len_and`: who counts without it sees the head that we took it off; who has not seen that counts it still.
        self.count.fetch_sub(1, Release);
        // SAFETY: FREE-A: our CAS took the slot off its stack.
        let buffer = self.slots[slot].buffer.with_mut(|cell| unsafe { (*cell).take() });
        self.idle.push(&self.slots, slot, "free-list.give-slot");
        debug_assert!(buffer.is_some(), "FREE-C");
        buffer
    }

    /// Keeps `buffer`, or gives it back if every slot is taken.
    pub(super) fn push(&self, buffer: Buffer) -> Result<(), Buffer> {
        let Some(slot) = self.idle.pop(&self.slots, "free-list.take-slot") else { return Err(buffer) };
        // SAFETY: FREE-A: our CAS took the slot off its stack.
        self.slots[slot].buffer.with_mut(|cell| unsafe { *cell = Some(buffer) });
        // Relaxed: the push below releases it: who sees the head with this buffer counts it. Before the push, so that it never counts too few.
        self.count.fetch_add(1, Relaxed);
        self.full.push(&self.slots, slot, "free-list.push");
        Ok(())
    }

    /// Frees every buffer.
    pub(super) fn drain(&self) {
        while let Some(buffer) = self.pop() {
            buffer.free();
        }
    }

    /// At least as many buffers as it keeps, and what `look` has found, both of one instant: no buffer was pushed or popped from before the one until after
    /// the other. Lock-free: it looks again only if one was.
    pub(super) fn len_and<T>(&self, look: impl Fn() -> T) -> (usize, T) {
        let head = || {
            // Acquire pairs with the Release of each push up to this head: all of them are counted below. And with the word whose credit came after a push, or the count
            // that came after a pop, already read, no head from before it is read.
            self.full.0.load(Acquire)
        };
        let mut before = head();
        loop {
            // Acquire pairs with the Release in `pop`: a buffer that is not counted any more was popped off a head that we see below.
            let count = self.count.load(Acquire);
            let found = look();
            step("free-list.looked");
            let now = head();
            if now == before {
                return (count, found);
            }
            before = now;
        }
    }

    /// How many buffers it keeps; of an instant only while nobody pushes or pops.
    pub(super) fn len(&self) -> usize {
        // Relaxed: a figure.
        self.count.load(Relaxed)
    }
}

impl Drop for FreeList {
    fn drop(&mut self) {
        self.drain();
    }
}

impl fmt::Debug for FreeList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FreeList").field("len", &self.len()).field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn last_in_first_out_and_full_is_full() {
        let list = FreeList::new(2);
        assert!(list.pop().is_none());
        for size in [1, 2] {
            assert!(list.push(Buffer::zeroed(size).unwrap()).is_ok());
        }
        let third = list.push(Buffer::zeroed(3).unwrap()).unwrap_err();
        assert_eq!((third.capacity(), list.len()), (3, 2));
        third.free();
        for size in [2, 1] {
            let buffer = list.pop().unwrap();
            assert_eq!(buffer.capacity(), size);
            buffer.free();
        }
        assert!(list.pop().is_none());
        assert!(FreeList::new(0).push(Buffer::zeroed(1).unwrap()).map_err(Buffer::free).is_err());
    }
}
