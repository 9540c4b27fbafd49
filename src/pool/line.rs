//! The line of waiters: first come, first served, and every step of a turn can be finished by whoever meets it.
//!
//! A Michael-Scott queue. Whether the first in line is being granted its memory stands in the pool's [`Word`](super::word::Word), not here; that its turn is over shows in both
//! together: it is granted, and the word grants nobody. So the front may lag behind, and is brought up by whoever finds it so.
//!
//! Source: M. Michael and M. Scott, "Simple, Fast, and Practical Non-Blocking and Blocking Concurrent Queue Algorithms" (PODC 1996).
//!
//! A waiter is a thread or a task: [`Signal`] is what wakes it.
//!
//! # State of a waiter
//! | state | means | left by |
//! |---|---|---|
//! | `WAITING` | in the line | CAS to `GRANTED` by a helper while the word says GRANT; CAS to `CANCELLED` by the waiter |
//! | `GRANTED` | has its memory, or will once the word is debited | never |
//! | `CANCELLED` | does not want it any more | never |
//!
//! # Invariants
//! - **LINE-A** `head` and `tail` are never null; `head` is a node whose turn is over (at first one that never had a turn), and the waiters in line come after it.
//! - **LINE-B** A node is linked once, behind the last, and keeps its place until the front has passed it.
//! - **LINE-C** A node is retired by whoever moved `head` past it, once, after `tail` has left it: nobody who pins later reaches it.

use std::fmt;
use std::sync::Arc;

use super::waker::TaskWaker;
use crate::primitive::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicU8, AtomicU32, AtomicUsize};
use crate::primitive::epoch::{Atomic, Guard, Owned, Shared};
use crate::primitive::parker::{Parker, ThreadParker};
use crate::primitive::step;

const WAITING: u8 = 0;
const GRANTED: u8 = 1;
const CANCELLED: u8 = 2;

const NOT_YET: u8 = 0;
const STANDS: u8 = 1;
const STOOD: u8 = 2;

/// Where a waiter's wait has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Waiting,
    Granted,
    Cancelled,
}

/// What wakes one who waits.
pub(super) enum Signal {
    Thread(ThreadParker),
    Task(TaskWaker),
}

/// One who waits.
pub(super) struct Waiter {
    /// Granules.
    pub(super) need: u64,
    state: AtomicU8,
    /// Where the figure of those who wait has this one: not yet, in it, or not any more.
    figure: AtomicU8,
    /// How many were let past it while it was the first in line, and those who are about to try.
    passes: AtomicU32,
    pub(super) signal: Signal,
}

impl Waiter {
    /// A thread that will park.
    pub(super) fn thread(need: u64) -> Arc<Self> {
        Self::new(need, Signal::Thread(ThreadParker::new()))
    }

    /// A task that will be polled.
    pub(super) fn task(need: u64) -> Arc<Self> {
        Self::new(need, Signal::Task(TaskWaker::new()))
    }

    fn new(need: u64, signal: Signal) -> Arc<Self> {
        Arc::new(Self {
            need,
            state: AtomicU8::new(WAITING),
            figure: AtomicU8::new(NOT_YET),
            passes: AtomicU32::new(0),
            signal,
        })
    }

    /// Wakes it. A task's waker is foreign code: not to be called while pinned (L8).
    pub(super) fn wake(&self) {
        match &self.signal {
            Signal::Thread(parker) => parker.unpark(),
            Signal::Task(waker) => waker.wake(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        // Acquire pairs with the Release CASes below: a grant seen, what the granter saw before it is seen. An older state is as good: whoever acts on
        // it does so by a CAS.
        match self.state.load(Acquire) {
            WAITING => Progress::Waiting,
            GRANTED => Progress::Granted,
            _ => Progress::Cancelled,
        }
    }

    /// Counts it into `standing`, unless its turn is over by now.
    pub(super) fn arrive(&self, standing: &AtomicUsize) {
        // Relaxed, all of this and of `leave`: a figure. Added before it is said, and taken away only by who has read that it was: so it never falls below zero.
        standing.fetch_add(1, Relaxed);
        if self.figure.compare_exchange(NOT_YET, STANDS, Relaxed, Relaxed).is_err() {
            standing.fetch_sub(1, Relaxed);
        }
    }

    /// Its turn is over: counts it out of `standing`, if it was in.
    pub(super) fn leave(&self, standing: &AtomicUsize) {
        // Relaxed: as in `arrive`.
        if self.figure.swap(STOOD, Relaxed) == STANDS {
            standing.fetch_sub(1, Relaxed);
        }
    }

    /// Whether one more may be let past it, of at most `bound`.
    pub(super) fn may_be_passed(&self, bound: u32) -> bool {
        // Relaxed: who passes counts himself; an old value here makes a helper wake where it could grant, or the other way round.
        self.passes.load(Relaxed) < bound
    }

    /// Counts one who is about to pass; whether he may.
    pub(super) fn count_pass(&self, bound: u32) -> bool {
        // Relaxed, both: an exchange of this word alone decides who is counted within the bound.
        let may = self.passes.fetch_add(1, Relaxed) < bound;
        if !may {
            self.uncount_pass();
        }
        may
    }

    /// He did not pass.
    pub(super) fn uncount_pass(&self) {
        // Relaxed: as in `count_pass`. What it says too much until then lets others wait who need not.
        self.passes.fetch_sub(1, Relaxed);
    }

    /// Grants, if it still waits.
    pub(super) fn grant(&self) {
        step("pool.grant");
        // Release pairs with the Acquire in `progress`; of grant and cancel the first in this word's order stands; the other finds it.
        let _ = self.state.compare_exchange(WAITING, GRANTED, Release, Relaxed);
    }

    /// Cancels; `false` if it was granted before.
    pub(super) fn cancel(&self) -> bool {
        step("pool.cancel");
        // As in `grant`; Relaxed on failure: who finds the grant reads it again, by `progress`.
        self.state.compare_exchange(WAITING, CANCELLED, Release, Relaxed).is_ok()
    }
}

struct Node {
    /// `None` in the node that the line began with.
    waiter: Option<Arc<Waiter>>,
    next: Atomic<Node>,
}

/// A waiter's place in the line, not linked yet.
pub(super) struct Place(Owned<Node>);

impl Place {
    pub(super) fn of(waiter: Arc<Waiter>) -> Self {
        Self(Owned::new(Node { waiter: Some(waiter), next: Atomic::null() }))
    }
}

pub(super) struct Line {
    head: Atomic<Node>,
    tail: Atomic<Node>,
}

impl Line {
    /// An empty line.
    pub(super) fn new() -> Self {
        let line = Self { head: Atomic::null(), tail: Atomic::null() };
        let node = Owned::new(Node { waiter: None, next: Atomic::null() });
        // SAFETY: not shared yet.
        let node = node.into_shared(unsafe { crate::primitive::epoch::unprotected() });
        // Relaxed: not shared yet; whoever shares the line releases it.
        line.head.store(node, Relaxed);
        line.tail.store(node, Relaxed);
        line
    }

    /// Puts a waiter at the end. Lock-free; allocates nothing.
    pub(super) fn join(&self, Place(mut node): Place, guard: &Guard) {
        loop {
            // Acquire pairs with the Release of the exchange that made it the tail: the node is seen whole.
            let tail = self.tail.load(Acquire, guard);
            // SAFETY: LINE-A and LINE-C: not null, and kept by our pin.
            let last = unsafe { tail.deref() };
            // Acquire pairs with the Release of the link below.
            let next = last.next.load(Acquire, guard);
            if !next.is_null() {
                self.move_tail(tail, next, guard);
                continue;
            }
            step("pool.link");
            // Release pairs with the Acquire loads of `next`: who finds the node sees it whole. Failed: somebody else has linked; nothing is read from it here.
            match last.next.compare_exchange(Shared::null(), node, Release, Relaxed, guard) {
                Ok(linked) => {
                    self.move_tail(tail, linked, guard);
                    return;
                }
                Err(error) => node = error.new,
            }
        }
    }

    fn move_tail(&self, from: Shared<'_, Node>, to: Shared<'_, Node>, guard: &Guard) {
        // Release: whoever loads `to` from here sees the node as we have seen it. Failed: somebody else has moved it.
        let _ = self.tail.compare_exchange(from, to, Release, Relaxed, guard);
    }

    /// The front: what comes before the first in line, and that one, if there is one.
    pub(super) fn front<'g>(&self, guard: &'g Guard) -> Front<'g> {
        // Acquire pairs with the Release in `pass`.
        let before = self.head.load(Acquire, guard);
        // SAFETY: LINE-A and LINE-C.
        // Acquire pairs with the Release of the link.
        let first = unsafe { before.deref() }.next.load(Acquire, guard);
        Front { before, first }
    }

    /// Whether the front, found under this pin, is the front still, and empty if it was.
    pub(super) fn is_front(&self, front: &Front<'_>, guard: &Guard) -> bool {
        // Relaxed, both: nothing is read through them; pinned, no address comes twice. Whoever has read a word that came after the front moved, or after somebody who was linked
        // had joined, reads it so: that word's Acquire is behind the CAS in `pass`, and behind the link. What has changed since changes nothing of what that word said.
        self.head.load(Relaxed, guard) == front.before
            // SAFETY: LINE-A and LINE-C.
            && (!front.first.is_null() || unsafe { front.before.deref() }.next.load(Relaxed, guard).is_null())
    }

    /// Who waits, from the first on, as far as `granules` suffice for all of them; one more than `most` says that there are more.
    pub(super) fn who_fit(&self, front: &Front<'_>, mut granules: u64, most: usize, guard: &Guard) -> Vec<Arc<Waiter>> {
        let (mut fit, mut node) = (Vec::new(), front.first);
        // SAFETY: LINE-C: what hangs behind a node that was not retired when it was loaded under this pin is kept by it.
        while let Some(waiter) = unsafe { node.as_ref() }.and_then(|node| node.waiter.as_ref()) {
            if waiter.progress() == Progress::Waiting {
                let Some(rest) = granules.checked_sub(waiter.need) else { break };
                granules = rest;
                fit.push(Arc::clone(waiter));
                if fit.len() > most {
                    break;
                }
            }
            // SAFETY: as above.
            // Acquire: as in `front`.
            node = unsafe { node.deref() }.next.load(Acquire, guard);
        }
        fit
    }

    /// Moves the front past the first, whose turn is over. Whether it was this call that did.
    pub(super) fn pass(&self, front: &Front<'_>, guard: &Guard) -> bool {
        // Relaxed: it is only compared. Whoever made `before` the head saw the tail no earlier than there, and we see no older tail than he (Acquire in `front`).
        if self.tail.load(Relaxed, guard) == front.before {
            // LINE-C: the tail must not stay on what is about to be retired.
            self.move_tail(front.before, front.first, guard);
        }
        step("pool.pass");
        // Release pairs with the Acquire in `front`: the node is seen whole. Failed: somebody else has moved it, and retires.
        let moved = self.head.compare_exchange(front.before, front.first, Release, Relaxed, guard).is_ok();
        if moved {
            // SAFETY: LINE-C: our CAS moved the head past it, and the tail has left it: it stood on it at most until the line above.
            unsafe { guard.defer_destroy(front.before) }
        }
        moved
    }

    /// Everybody in line now.
    pub(super) fn all(&self, guard: &Guard) -> Vec<Arc<Waiter>> {
        let mut all = Vec::new();
        // Acquire throughout: as in `front`.
        let mut node = self.head.load(Acquire, guard);
        // SAFETY: LINE-A and LINE-C: what hangs behind a node that was not retired when it was loaded under this pin is kept by it.
        while let Some(at) = unsafe { node.as_ref() } {
            all.extend(at.waiter.clone());
            node = at.next.load(Acquire, guard);
        }
        all
    }
}

/// The front of the line, as found.
pub(super) struct Front<'g> {
    before: Shared<'g, Node>,
    first: Shared<'g, Node>,
}

impl<'g> Front<'g> {
    /// The first in line.
    pub(super) fn waiter(&self) -> Option<&'g Arc<Waiter>> {
        // SAFETY: LINE-C: behind `before`, which was not retired when it was loaded under this pin, so neither was this.
        let first = unsafe { self.first.as_ref() }?;
        Some(
            first
                .waiter
                .as_ref()
                .expect("only the node that the line began with has none, and nothing comes before it"),
        )
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: nobody else is left.
        let guard = unsafe { crate::primitive::epoch::unprotected() };
        // Relaxed: as above.
        let mut node = self.head.load(Relaxed, guard);
        while !node.is_null() {
            // SAFETY: LINE-C: not retired, since the head has not moved past it.
            let owned = unsafe { node.into_owned() };
            node = owned.next.load(Relaxed, guard);
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}
