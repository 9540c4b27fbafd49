//! The free lists: buffers of one size in a table of slots, and stacks over that table, without a lock.
//!
//! A slot is one buffer's place for as long as the pool has that buffer: it travels with the lease, so that to take a buffer is one exchange, and to give it back is one. A
//! stack can be **shut**: who shuts it has all that was on it, and from then on nothing can be pushed until somebody opens it again.
//!
//! Source: R. K. Treiber, "Systems Programming: Coping with Parallelism" (1986); tags against reuse as in IBM's System/370 Principles of Operation.
//!
//! # State
//! Head word of a stack: `{ SHUT 1 | tag 39 | top 24 }`; `top` is a slot's number plus one, 0 for empty. Link of a slot: `{ depth 32 | next 32 }`, how many slots there are from it
//! down to the bottom, and the one below, plus one.
//!
//! | word | left by |
//! |---|---|
//! | a head | CAS, which adds 1 to the tag each time, also where nothing else changes |
//! | a slot's link | a plain store by whoever is about to push it |
//! | a slot's memory | whoever makes a buffer for it, or breaks one up |
//!
//! # Invariants
//! - **SLOT-A** A slot is on one stack, or in the hands of one thread, or with one lease; only its holder touches its memory, and its link but for reading.
//! - **SLOT-B** A tag does not come twice while somebody holds a stale head: that would take 2^39 exchanges inside one operation, nine minutes at 10^9 a second.
//! - **SLOT-C** A slot on `idle` has no buffer, every other has one of the poolable size. A buffer with a slot is freed through its slot.
//! - **SLOT-D** A stack that is shut is empty.
//! - **SLOT-E** The link of a slot on a stack does not change: what was read of it under a head is so, if the head still is.
//!
//! # The race that looks dangerous
//! ABA: a pop reads top = A and A's next = B, and is stopped; others pop A and B and push A again. Its CAS would make B, which somebody owns, the top. But each of
//! their exchanges has changed the tag, so the CAS fails. Reading A's link meanwhile is harmless: it is an atomic, in a table that lives as long as the pool.
//!
//! # Linearization points, progress
//! The successful CAS of the head; an empty pop: its load of the head. Lock-free: a CAS fails because another succeeded.

use std::fmt;
use std::ptr::NonNull;

use crossbeam_utils::CachePadded;

use super::Buffer;
use crate::primitive::atomic::AtomicU64;
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::primitive::cell::UnsafeCell;
use crate::primitive::step;

const TOP_BITS: u32 = 24;
const TOP_MASK: u64 = (1 << TOP_BITS) - 1;
const SHUT: u64 = 1 << 63;

/// Buffers that a pool recycles at most; further ones go back to the machine.
const MAX_SLOTS: u64 = 1 << 18;

/// A slot in somebody's hands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

impl Slot {
    /// What a lease notes of it: never 0.
    pub(super) fn mark(&self) -> usize {
        self.0 as usize + 1
    }
}

/// Slots in somebody's hands, the first linked to the next and so on.
#[derive(Debug)]
pub(super) struct Chain {
    top: u32,
    pub(super) count: u32,
    /// Whether its links are what they were on a stack of these and no others.
    whole: bool,
}

/// The links of the slots. A reference to it, as one to a head, may outlive, in the call that is its last, what it refers to: all of it is atomics.
pub(super) type Table = [AtomicU64];

/// A head word as somebody has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head(u64);

impl Head {
    /// The slot on top.
    fn top(self) -> Option<u32> {
        ((self.0 & TOP_MASK) as u32).checked_sub(1)
    }

    /// The next head: the slot numbered `top - 1` on it, or none.
    fn with_top(self, top: u64) -> Self {
        let tag = (self.0 & !SHUT & !TOP_MASK).wrapping_add(1 << TOP_BITS) & !SHUT;
        Self(tag | top)
    }

    pub(super) fn is_shut(self) -> bool {
        self.0 & SHUT != 0
    }
}

fn link(depth: u64, next: u64) -> u64 {
    depth << 32 | next
}

fn depth_of(link: u64) -> u64 {
    link >> 32
}

fn next_of(link: u64) -> u64 {
    link & u64::from(u32::MAX)
}

/// How many slots are on a stack that has this head; so, if it still has.
fn depth(table: &Table, head: Head) -> u64 {
    // Acquire pairs with the Release stores of links: one that was written since belongs to a slot that was taken off this stack before, so who reads it does not find the old head again.
    head.top().map_or(0, |top| depth_of(table[top as usize].load(Acquire)))
}

/// A stack of slots.
pub(super) struct Stack(AtomicU64);

impl Stack {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(super) fn head(&self) -> Head {
        // Acquire pairs with the Release of each exchange up to this head: the links of what is on it are seen, and what was done before it was shut.
        Head(self.0.load(Acquire))
    }

    /// Takes the slot on top.
    #[inline]
    pub(super) fn pop(&self, table: &Table, at: &'static str) -> Option<Slot> {
        // Acquire pairs with the Release half of the push that made this head: its slot's link and memory are seen. An older head fails the CAS.
        let mut head = self.head();
        loop {
            let top = head.top()?;
            // Relaxed: ordered by the Acquire of the head that it belongs to; if the slot has moved on, the CAS fails by the tag.
            let next = next_of(table[top as usize].load(Relaxed));
            step(at);
            // The tag makes it the very head that was loaded. Release pairs with the Acquire of heads: who finds it gone from here sees a slot that we have put elsewhere before, so that whoever
            // looks at several stacks does not find all of them empty while one never was. Acquire on failure: as the load.
            match self.0.compare_exchange_weak(head.0, head.with_top(next).0, Release, Acquire) {
                Ok(_) => return Some(Slot(top)),
                Err(now) => head = Head(now),
            }
        }
    }

    /// Takes slots off the top: half of them, but no more than `most`, and none if there are no more than `leave`.
    pub(super) fn pop_some(&self, table: &Table, most: u64, leave: u64, at: &'static str) -> Option<Chain> {
        let mut head = self.head();
        loop {
            let top = head.top()?;
            // Relaxed: as in `pop`; all that is read below is so if the CAS succeeds (SLOT-E).
            let mut link = table[top as usize].load(Relaxed);
            let depth = depth_of(link);
            if depth <= leave {
                return None;
            }
            let (mut count, wanted) = (1, most.min(depth.div_ceil(2)));
            while count < wanted && next_of(link) != 0 {
                // Relaxed: as above.
                link = table[next_of(link) as usize - 1].load(Relaxed);
                count += 1;
            }
            step(at);
            // Release, Acquire on failure: as in `pop`.
            match self.0.compare_exchange_weak(head.0, head.with_top(next_of(link)).0, Release, Acquire) {
                Ok(_) => return Some(Chain { top, count: count as u32, whole: false }),
                Err(now) => head = Head(now),
            }
        }
    }

    /// Puts a slot on top, unless the stack is shut: then the head that says so, and nothing was touched.
    #[inline]
    pub(super) fn push(&self, table: &Table, slot: &Slot, at: &'static str) -> Result<(), Head> {
        // Acquire: as in `head`; one who finds it shut goes by what was done before.
        let mut head = self.head();
        loop {
            if head.is_shut() {
                return Err(head);
            }
            match self.exchange_for(table, head, slot, at) {
                Ok(()) => return Ok(()),
                Err(now) => head = now,
            }
        }
    }

    /// Opens the stack with the slot on it, if its head is still the one seen, shut and all.
    pub(super) fn open(&self, table: &Table, seen: Head, slot: &Slot) -> bool {
        debug_assert!(seen.is_shut() && seen.top().is_none(), "SLOT-D");
        self.exchange_for(table, seen, slot, "stack.open").is_ok()
    }

    #[inline]
    fn exchange_for(&self, table: &Table, head: Head, slot: &Slot, at: &'static str) -> Result<(), Head> {
        // Ours until the CAS, which releases it to whoever pops. Release: for `depth`.
        table[slot.0 as usize].store(link(depth(table, head) + 1, head.0 & TOP_MASK), Release);
        step(at);
        // Release pairs with the Acquire of heads: link and memory are seen by who takes the slot, and so are those of the pushes below us, through our exchange.
        // If another exchange comes first, ours fails. Acquire on failure: as the load of a head. Not to be touched after it: the pool may be gone (POOL-E).
        match self.0.compare_exchange(head.0, head.with_top(slot.mark() as u64).0, Release, Acquire) {
            Ok(_) => Ok(()),
            Err(now) => Err(Head(now)),
        }
    }

    /// Puts the slots of a chain on top, in its order, unless the stack is shut.
    pub(super) fn push_chain(&self, table: &Table, mut chain: Chain, at: &'static str) -> Result<(), Chain> {
        let mut head = self.head();
        loop {
            if head.is_shut() {
                return Err(chain);
            }
            if !(chain.whole && head.top().is_none()) {
                chain.whole = false;
                let (base, mut at) = (depth(table, head), u64::from(chain.top) + 1);
                for depth in (1..=u64::from(chain.count)).rev() {
                    let own = &table[at as usize - 1];
                    // Relaxed: ours until the CAS. Release: for `depth`.
                    let next = if depth == 1 { head.0 & TOP_MASK } else { next_of(own.load(Relaxed)) };
                    own.store(link(base + depth, next), Release);
                    at = next;
                }
            }
            step(at);
            // Release, Acquire on failure: as in `exchange_for`.
            match self.0.compare_exchange(head.0, head.with_top(u64::from(chain.top) + 1).0, Release, Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => head = Head(now),
            }
        }
    }

    /// Shuts the stack, and has what was on it. Changes the tag also of one that is shut: whoever was about to open it, having looked at the pool's word before, fails.
    pub(super) fn shut(&self, table: &Table) -> Option<Chain> {
        let mut head = self.head();
        loop {
            step("stack.shut");
            // Acquire: as `head`, for what was on it. Release pairs with the Acquire of heads: who finds it shut sees what was done before.
            match self.0.compare_exchange(head.0, head.with_top(0).0 | SHUT, AcqRel, Acquire) {
                Ok(_) => break,
                Err(now) => head = Head(now),
            }
        }
        let count = depth(table, head) as u32;
        head.top().map(|top| Chain { top, count, whole: true })
    }
}

/// The stack of the thread of that number, of a power of two of them.
fn of(stacks: &[CachePadded<Stack>], thread: usize) -> &Stack {
    &stacks[thread & (stacks.len() - 1)]
}

/// The slots, and the stacks of theirs that are no stripes.
pub(super) struct Slots {
    /// Close together: those that one thread takes and gives back one after the other share lines, and with no other thread's, see `idle`.
    links: Box<Table>,
    /// Apart from the links: they hardly ever change.
    memory: Box<[UnsafeCell<Option<NonNull<u8>>>]>,
    /// Bytes of a buffer.
    size: usize,
    /// Slots with a buffer whose bytes are in the pool's word: memory kept warm, not budget. A thread keeps them on its own, numbered as its stripe, and takes those of others when it has none.
    warm: Box<[CachePadded<Stack>]>,
    /// Slots without a buffer: a thread has its own, numbered as its stripe, and takes those of others when they are used up.
    idle: Box<[CachePadded<Stack>]>,
}

// SAFETY: SLOT-A says who touches the cells; plain bytes are behind them.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// For at most `buffers` buffers of `size` bytes, and threads on so many stripes, a power of two.
    pub(super) fn new(buffers: u64, size: usize, stripes: usize) -> Self {
        let count = buffers.min(MAX_SLOTS);
        let begin = |stripe: u64| count * stripe / stripes as u64;
        let mut links = Vec::with_capacity(count as usize);
        let idle = (0..stripes as u64).map(|stripe| {
            let own = begin(stripe)..begin(stripe + 1);
            // Each on top of the one before it.
            links.extend(
                (1..)
                    .zip(own.clone())
                    .map(|(depth, slot)| AtomicU64::new(link(depth, if depth == 1 { 0 } else { slot }))),
            );
            CachePadded::new(Stack(AtomicU64::new(if own.is_empty() { 0 } else { own.end })))
        });
        let idle = idle.collect();
        let warm = (0..stripes).map(|_| CachePadded::new(Stack::new())).collect();
        let memory = (0..count).map(|_| UnsafeCell::new(None)).collect();
        Self { links: links.into(), memory, size, warm, idle }
    }

    /// What stacks stand on.
    #[inline]
    pub(super) fn table(&self) -> &Table {
        &self.links
    }

    /// How many slots are on a stack that has this head; so, if it still has.
    pub(super) fn depth(&self, head: Head) -> u64 {
        depth(&self.links, head)
    }

    /// The slot that a lease's note names.
    ///
    /// # Safety
    /// The note is that of a lease of this pool, used up by the caller: the slot is his (SLOT-A).
    pub(super) unsafe fn slot(mark: usize) -> Slot {
        Slot((mark - 1) as u32)
    }

    /// The buffer of a slot that has one.
    #[inline]
    pub(super) fn buffer(&self, slot: &Slot) -> Buffer {
        // SAFETY: SLOT-A: the slot is the caller's.
        let memory = self.memory[slot.0 as usize].with(|memory| unsafe { *memory });
        // SAFETY: SLOT-C: it is from `Buffer::zeroed(self.size)`, and nobody else's. LEASE-1.
        unsafe { Buffer::of_slot(memory.expect("SLOT-C"), self.size) }
    }

    /// A new buffer, zeroed, for the thread of that number, and its slot's mark; 0 for none, if none is left. `None` if the machine has no memory.
    pub(super) fn make(&self, thread: usize) -> Option<(Buffer, usize)> {
        let mut idle = (thread..).take(self.idle.len()).map(|of_whom| of(&self.idle, of_whom));
        let Some(slot) = idle.find_map(|idle| idle.pop(&self.links, "slots.take-idle")) else {
            return Some((Buffer::zeroed(self.size)?, 0));
        };
        match Buffer::zeroed(self.size) {
            Some(buffer) => {
                // SAFETY: SLOT-A: our exchange took it off its stack.
                self.memory[slot.0 as usize].with_mut(|memory| unsafe { *memory = Some(buffer.memory()) });
                Some((buffer, slot.mark()))
            }
            None => {
                self.rest(&slot, thread);
                None
            }
        }
    }

    fn rest(&self, slot: &Slot, thread: usize) {
        let never_shut = of(&self.idle, thread).push(&self.links, slot, "slots.give-idle");
        debug_assert!(never_shut.is_ok());
    }

    /// Gives a slot's memory back to the machine. The slot is for the thread of that number to take again.
    pub(super) fn break_up(&self, slot: Slot, thread: usize) {
        self.buffer(&slot).free();
        // SAFETY: SLOT-A: the slot is the caller's.
        self.memory[slot.0 as usize].with_mut(|memory| unsafe { *memory = None });
        self.rest(&slot, thread);
    }

    /// Keeps the buffers of these slots warm, for the thread of that number first. Their bytes are not in the pool's word yet.
    pub(super) fn keep(&self, chain: Chain, thread: usize) {
        let never_shut = of(&self.warm, thread).push_chain(&self.links, chain, "slots.keep");
        debug_assert!(never_shut.is_ok());
    }

    /// The same for one.
    pub(super) fn keep_one(&self, slot: &Slot, thread: usize) {
        let never_shut = of(&self.warm, thread).push(&self.links, slot, "slots.keep");
        debug_assert!(never_shut.is_ok());
    }

    /// The buffer that the thread of that number has kept last, or another's, if there is one.
    pub(super) fn take_warm(&self, thread: usize) -> Option<Slot> {
        (thread..).take(self.warm.len()).find_map(|of_whom| of(&self.warm, of_whom).pop(&self.links, "slots.take-warm"))
    }

    /// How many buffers are kept warm; so, if nobody keeps or takes one meanwhile.
    pub(super) fn warm(&self) -> u64 {
        self.warm.iter().map(|stack| self.depth(stack.head())).sum()
    }

    /// How many buffers are kept warm, and what `look` has found, both of one instant: none was kept or taken from before the one until after the other. Lock-free: it
    /// looks again only if one was.
    pub(super) fn warm_and<T>(&self, look: impl Fn() -> T) -> (u64, T) {
        let heads = || self.warm.iter().map(|stack| stack.head()).collect::<Vec<_>>();
        let mut before = heads();
        loop {
            let count = before.iter().map(|head| self.depth(*head)).sum();
            let found = look();
            step("slots.looked");
            let now = heads();
            if now == before {
                return (count, found);
            }
            before = now;
        }
    }

    /// The first slot of a chain, and the others.
    pub(super) fn split(&self, Chain { top, count, .. }: Chain) -> (Slot, Option<Chain>) {
        // Relaxed: ours.
        let next = next_of(self.links[top as usize].load(Relaxed)) as u32;
        (Slot(top), (count > 1).then(|| Chain { top: next - 1, count: count - 1, whole: false }))
    }

    /// Frees the buffers kept warm.
    pub(super) fn drain(&self) {
        while let Some(slot) = self.take_warm(0) {
            self.break_up(slot, 0);
        }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.drain();
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("warm", &self.warm()).field("slots", &self.links.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use super::*;

    fn made(slots: &Slots) -> Slot {
        let (_, mark) = slots.make(0).unwrap();
        // SAFETY: just made, and ours; `Buffer` does not free itself.
        unsafe { Slots::slot(mark) }
    }

    #[test]
    fn last_in_first_out_and_a_shut_stack_takes_nothing() {
        let (slots, stack) = (Slots::new(4, 8, 2), Stack::new());
        assert!(stack.pop(slots.table(), "").is_none());
        let all: Vec<Slot> = (0..4).map(|_| made(&slots)).collect();
        let (beyond, mark) = slots.make(0).unwrap();
        assert_eq!(mark, 0, "no slot is left");
        beyond.free();
        for (slot, depth) in all.iter().zip(1..) {
            assert!(stack.push(slots.table(), slot, "").is_ok());
            assert_eq!(slots.depth(stack.head()), depth);
        }
        assert_eq!(stack.pop(slots.table(), "").as_ref(), all.last());
        let seen = stack.head();
        let chain = stack.shut(slots.table()).unwrap();
        assert_eq!((chain.count, slots.depth(stack.head())), (3, 0));
        let shut = stack.push(slots.table(), &all[3], "").unwrap_err();
        assert!(shut.is_shut() && shut == stack.head() && shut != seen);
        // Shut again: whoever has seen it before cannot open it.
        assert!(stack.shut(slots.table()).is_none());
        assert!(!stack.open(slots.table(), shut, &all[3]));
        assert!(stack.open(slots.table(), stack.head(), &all[3]));
        assert_eq!(slots.depth(stack.head()), 1);
        // Onto one that has something: depths and links follow.
        stack.push_chain(slots.table(), chain, "").unwrap();
        assert_eq!(slots.depth(stack.head()), 4);
        for (slot, depth) in [2, 1, 0, 3].into_iter().zip((0..4).rev()) {
            assert_eq!(stack.pop(slots.table(), ""), Some(Slot(all[slot].0)));
            assert_eq!(slots.depth(stack.head()), depth);
        }
        all.into_iter().for_each(|slot| slots.break_up(slot, 0));
        assert_eq!((0..4).map(|_| made(&slots)).map(|slot| slots.break_up(slot, 0)).count(), 4);
    }

    #[test]
    fn half_is_taken_and_no_more_than_asked() {
        let (slots, stack) = (Slots::new(8, 8, 2), Stack::new());
        for _ in 0..8 {
            stack.push(slots.table(), &made(&slots), "").unwrap();
        }
        let three = stack.pop_some(slots.table(), 3, 0, "").unwrap();
        assert_eq!((three.count, slots.depth(stack.head())), (3, 5));
        let (first, rest) = slots.split(three);
        let rest = rest.unwrap();
        assert_eq!(rest.count, 2);
        slots.keep(rest, 0);
        assert_eq!(slots.warm(), 2);
        let half = stack.pop_some(slots.table(), 100, 0, "").unwrap();
        assert_eq!((half.count, slots.depth(stack.head())), (3, 2));
        assert!(stack.pop_some(slots.table(), 100, 2, "").is_none(), "they are to be left");
        slots.keep(half, 1);
        let one = stack.pop_some(slots.table(), 100, 1, "").unwrap();
        assert_eq!(one.count, 1);
        let (last, none) = slots.split(one);
        assert!(none.is_none());
        [first, last].into_iter().for_each(|slot| slots.break_up(slot, 0));
        while let Some(slot) = stack.pop(slots.table(), "") {
            slots.break_up(slot, 0);
        }
        assert_eq!(slots.warm(), 5);
        slots.drain();
        assert_eq!(slots.warm(), 0);
    }
}
