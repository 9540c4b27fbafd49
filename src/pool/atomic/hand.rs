//! Hands in the pool and its parts, for models: a line whose waiters are no threads, since a checker can afford few; a stack, a waker by itself. They call what ships, and preset states.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use super::wait::{Prepared, Turn};
use super::{AcqRel, AtomicPool, AtomicPoolCore, Relaxed};
use crate::pool::PoolOptions;
use crate::pool::line::{Progress, Signal, Waiter};
use crate::pool::stack::{Chain, Slot, Slots, Stack};
use crate::pool::waker::TaskWaker;
use crate::primitive::clock::SharedClock;
use crate::primitive::parker::Parker;

/// A pool, its word and its line.
#[allow(missing_debug_implementations)]
pub struct Hand(AtomicPool);

/// One who stands in line: a thread that need not be there.
pub struct Stander(Arc<Waiter>);

impl fmt::Debug for Stander {
    /// Where its wait has come to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.progress().fmt(f)
    }
}

impl Hand {
    /// A hand in a new pool.
    pub fn new(total: u64, poolable: usize, options: PoolOptions, clock: SharedClock) -> Self {
        Self(AtomicPool::with_options(total, poolable, clock, options))
    }

    /// The pool.
    pub fn pool(&self) -> &AtomicPool {
        &self.0
    }

    /// Charges bytes, of those that are available.
    pub fn charge(&self, bytes: u64) {
        // AcqRel: as in `exchange`.
        self.0.core().word.fetch_sub(bytes, AcqRel);
    }

    /// Gives bytes back, as a release does.
    pub fn credit(&self, bytes: u64) {
        // SAFETY: charged to nobody else, and the handle lives.
        unsafe { AtomicPoolCore::credit(self.0.0, bytes) };
    }

    /// Joins the line, and looks.
    ///
    /// # Panics
    /// If the line is full.
    pub fn join(&self, need: u64) -> Stander {
        let mut turn = self.0.core().join(Prepared::thread(need)).expect("there is room");
        turn.over = true;
        Stander(turn.waiter.clone())
    }

    /// Looks as one who stands in line does when it is woken; whether it has its bytes now.
    pub fn look(&self, stander: &Stander) -> bool {
        let core = self.0.core();
        core.look_in_line(&stander.0);
        let mut turn = Turn::new(core, stander.0.clone());
        let served = turn.is_served();
        turn.over = true;
        served
    }

    /// Sleeps until it was woken, and looks, until it has its bytes.
    pub fn wait(&self, stander: &Stander) {
        while !self.look(stander) {
            self.parker(stander).park();
        }
    }

    /// Whether it was woken since it last was asked.
    pub fn was_woken(&self, stander: &Stander) -> bool {
        self.parker(stander).park_timeout(std::time::Duration::ZERO)
    }

    fn parker<'a>(&self, stander: &'a Stander) -> &'a impl Parker {
        let Signal::Thread(parker) = &stander.0.signal else { unreachable!("it joined as a thread") };
        parker
    }

    /// Ends the wait of one whose time is up; `false` if it was granted before: then it is left to it.
    pub fn give_up(&self, stander: &Stander) -> bool {
        let mut turn = Turn::new(self.0.core(), stander.0.clone());
        let cancelled = turn.cancel();
        turn.over = true;
        cancelled
    }

    /// Drops its place in the line, as a task does that drops its future.
    pub fn drop_turn(&self, stander: &Stander) {
        drop(Turn::new(self.0.core(), stander.0.clone()));
    }

    /// Takes bytes past the first in line; whether it did.
    pub fn overtake(&self, bytes: u64) -> bool {
        self.0.core().overtake(bytes)
    }

    /// How often it was passed.
    pub fn passes(&self, stander: &Stander) -> u32 {
        (0..).find(|passes| stander.0.may_be_passed(passes + 1)).unwrap_or(u32::MAX)
    }

    /// Counts somebody who has passed it.
    pub fn count_pass(&self, stander: &Stander) {
        stander.0.count_pass(u32::MAX);
    }

    /// Whether it waits.
    pub fn is_waiting(&self, stander: &Stander) -> bool {
        stander.0.progress() == Progress::Waiting
    }

    /// Bytes in the word.
    pub fn in_word(&self) -> u64 {
        self.0.core().load().available()
    }

    /// Whether the word says that somebody waits, and that it was called.
    pub fn says(&self) -> (bool, bool) {
        let word = self.0.core().load();
        (word.waiting(), word.called())
    }

    /// Whether every stripe is shut.
    pub fn is_shut(&self) -> bool {
        self.0.core().stripes.iter().all(|stripe| stripe.head().is_shut())
    }

    /// How many buffers are kept warm, and how many are on stripes.
    pub fn buffers(&self) -> (u64, u64) {
        let core = self.0.core();
        (core.slots.warm(), core.heads().1)
    }

    /// The end: all bytes are in the word, whoever had them, so that the pool goes.
    pub fn give_all_back(&self) {
        let core = self.0.core();
        core.shut_stripes();
        let mut word = core.load();
        word.0 += core.total - word.available();
        // Relaxed: everybody else is joined.
        core.word.store(word.0, Relaxed);
    }
}

/// Stacks by themselves, with their slots.
#[allow(missing_debug_implementations)]
pub struct Stacks {
    slots: Slots,
    stacks: Vec<Stack>,
}

/// A slot in somebody's hands.
#[derive(Debug)]
pub struct InHand(Slot);

/// Some of them.
#[derive(Debug)]
pub struct ChainInHand(Chain);

impl Stacks {
    /// So many stacks, and slots for them.
    pub fn new(slots: u64, stacks: usize) -> Self {
        Self { slots: Slots::new(slots, 1, 1), stacks: (0..stacks).map(|_| Stack::new()).collect() }
    }

    /// A slot with a new buffer.
    ///
    /// # Panics
    /// If there is none left.
    pub fn make(&self) -> InHand {
        self.try_make().expect("a slot is left")
    }

    /// A slot with a new buffer, if there is one left.
    ///
    /// # Panics
    /// If the machine has no byte left.
    pub fn try_make(&self) -> Option<InHand> {
        let (buffer, mark) = self.slots.make(0).expect("the machine has a byte");
        if mark == 0 {
            buffer.free();
            return None;
        }
        // SAFETY: just made, and ours; `Buffer` does not free itself.
        Some(InHand(unsafe { Slots::slot(mark) }))
    }

    /// Gives a slot back. Its number.
    pub fn break_up(&self, InHand(slot): InHand) -> usize {
        let mark = slot.mark();
        self.slots.break_up(slot, 0);
        mark
    }

    /// Looks into a slot's memory, as who leases its buffer does.
    pub fn touch(&self, InHand(slot): &InHand) -> usize {
        assert!(self.slots.buffer(slot).capacity() > 0, "a model's buffers have bytes");
        slot.mark()
    }

    /// As the stack's own.
    pub fn pop(&self, stack: usize) -> Option<InHand> {
        self.stacks[stack].pop(self.slots.table(), "").map(InHand)
    }

    /// Whether it was not shut.
    pub fn push(&self, stack: usize, InHand(slot): &InHand) -> bool {
        self.stacks[stack].push(self.slots.table(), slot, "").is_ok()
    }

    /// As the stack's own.
    pub fn pop_some(&self, stack: usize, most: u64, leave: u64) -> Option<ChainInHand> {
        self.stacks[stack].pop_some(self.slots.table(), most, leave, "").map(ChainInHand)
    }

    /// As the stack's own.
    ///
    /// # Errors
    /// The chain, if it is shut.
    pub fn push_chain(&self, stack: usize, ChainInHand(chain): ChainInHand) -> Result<(), ChainInHand> {
        self.stacks[stack].push_chain(self.slots.table(), chain, "").map_err(ChainInHand)
    }

    /// As the stack's own.
    pub fn shut(&self, stack: usize) -> Option<ChainInHand> {
        self.stacks[stack].shut(self.slots.table()).map(ChainInHand)
    }

    /// The slots of a chain, from the top.
    pub fn slots(&self, ChainInHand(chain): ChainInHand) -> Vec<InHand> {
        let (mut slots, mut left) = (Vec::new(), Some(chain));
        while let Some(chain) = left {
            let (slot, rest) = self.slots.split(chain);
            slots.push(InHand(slot));
            left = rest;
        }
        slots
    }

    /// Empties a stack. What was on it, from the top; and that its depth was told right all along.
    ///
    /// # Panics
    /// If it was not.
    pub fn empty(&self, stack: usize) -> Vec<InHand> {
        let stack = &self.stacks[stack];
        let depth = self.slots.depth(stack.head());
        let mut all = Vec::new();
        while let Some(slot) = stack.pop(self.slots.table(), "") {
            all.push(InHand(slot));
            assert_eq!(self.slots.depth(stack.head()) + all.len() as u64, depth, "{all:?}");
        }
        assert_eq!(all.len() as u64, depth, "{all:?}");
        all
    }
}

/// A task's waker by itself.
#[allow(missing_debug_implementations)]
pub struct HandOnWaker(TaskWaker);

impl HandOnWaker {
    /// Nobody is in it.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(TaskWaker::new())
    }

    /// As its own.
    pub fn register(&self, waker: Waker) {
        self.0.register(waker);
    }

    /// As its own.
    pub fn wake(&self) {
        self.0.wake();
    }
}
