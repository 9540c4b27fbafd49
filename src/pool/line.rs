//! The line of waiters: first come, first served, and every step of a turn can be finished by whoever meets it.
//!
//! A Michael-Scott queue whose nodes carry tickets. Whose turn it is stands in the pool's [`Word`](super::word::Word), not here: the queue only tells who has that
//! ticket. So the front of the queue may lag behind the turn, and is brought up by whoever finds it so.
//!
//! Source: M. Michael and M. Scott, "Simple, Fast, and Practical Non-Blocking and Blocking Concurrent Queue Algorithms" (PODC 1996).
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
//! - **LINE-B** A node's ticket is its predecessor's next, written before the node is linked and never after.
//! - **LINE-C** A node is retired by whoever moved `head` past it, once, after `tail` has left it: nobody who pins later reaches it.

use std::fmt;
use std::sync::Arc;

use super::word::Ticket;
use crate::primitive::atomic::AtomicU8;
use crate::primitive::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::cell::UnsafeCell;
use crate::primitive::epoch::{Atomic, Guard, Owned, Shared};
use crate::primitive::parker::{Parker, ThreadParker};
use crate::primitive::step;

const WAITING: u8 = 0;
const GRANTED: u8 = 1;
const CANCELLED: u8 = 2;

/// Where a waiter's wait has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Waiting,
    Granted,
    Cancelled,
}

/// One who waits.
pub(super) struct Waiter {
    /// Granules.
    pub(super) need: u64,
    state: AtomicU8,
    pub(super) parker: ThreadParker,
}

impl Waiter {
    pub(super) fn new(need: u64) -> Arc<Self> {
        Arc::new(Self { need, state: AtomicU8::new(WAITING), parker: ThreadParker::new() })
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
    /// In a cell, so that a model sees who reads it unordered.
    ticket: UnsafeCell<Ticket>,
    /// `None` in the node that the line began with.
    waiter: Option<Arc<Waiter>>,
    next: Atomic<Node>,
}

/// A waiter's place in the line, not linked yet.
pub(super) struct Place(Owned<Node>);

impl Place {
    pub(super) fn of(waiter: Arc<Waiter>) -> Self {
        Self(Owned::new(Node::new(Ticket(0), Some(waiter))))
    }
}

// SAFETY: LINE-B says who writes the cell, and when; the rest is immutable or atomic.
unsafe impl Send for Node {}
// SAFETY: as above.
unsafe impl Sync for Node {}

impl Node {
    fn new(ticket: Ticket, waiter: Option<Arc<Waiter>>) -> Self {
        Self { ticket: UnsafeCell::new(ticket), waiter, next: Atomic::null() }
    }

    /// The ticket of a node that is linked.
    fn ticket(&self) -> Ticket {
        // SAFETY: LINE-B: never written once it is linked.
        self.ticket.with(|ticket| unsafe { *ticket })
    }
}

pub(super) struct Line {
    head: Atomic<Node>,
    tail: Atomic<Node>,
}

impl Line {
    /// An empty line, whose first waiter will have the ticket `first`.
    pub(super) fn new(before_first: Ticket) -> Self {
        let line = Self { head: Atomic::null(), tail: Atomic::null() };
        let node = Owned::new(Node::new(before_first, None));
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
            // SAFETY: LINE-B: not linked yet, so ours alone.
            node.ticket.with_mut(|ticket| unsafe { *ticket = last.ticket().next() });
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

    /// The first in line, if there is one, for [`Line::pass`] as well.
    pub(super) fn first<'g>(&self, guard: &'g Guard) -> Option<First<'g>> {
        // Acquire pairs with the Release in `pass`.
        let before = self.head.load(Acquire, guard);
        // SAFETY: LINE-A and LINE-C.
        // Acquire pairs with the Release of the link.
        let node = unsafe { before.deref() }.next.load(Acquire, guard);
        // SAFETY: LINE-C: behind `before`, which was not retired when we loaded it under this pin, so neither was this.
        unsafe { node.as_ref() }.map(|first| {
            // SAFETY: as above.
            debug_assert!(unsafe { before.deref() }.ticket().next() == first.ticket(), "LINE-B");
            First { before, node, ticket: first.ticket(), waiter: first.waiter.as_ref() }
        })
    }

    /// Whether `first`, found under this pin, is the first still.
    pub(super) fn is_first(&self, first: &First<'_>, guard: &Guard) -> bool {
        // Relaxed: nothing is read through it; pinned, no address comes twice. Whoever has read a word that came after the front moved reads it moved: that word's
        // Acquire is behind the CAS in `pass`. One that has moved since changes nothing of what that word said.
        self.head.load(Relaxed, guard) == first.before
    }

    /// Moves the front past `first`, whose turn is over.
    pub(super) fn pass(&self, first: &First<'_>, guard: &Guard) {
        // Relaxed: it is only compared. Whoever made `before` the head saw the tail no earlier than there, and we see no older tail than he (Acquire in `first`).
        if self.tail.load(Relaxed, guard) == first.before {
            // LINE-C: the tail must not stay on what is about to be retired.
            self.move_tail(first.before, first.node, guard);
        }
        step("pool.pass");
        // Release pairs with the Acquire in `first`: the node is seen whole. Failed: somebody else has moved it, and retires.
        if self.head.compare_exchange(first.before, first.node, Release, Relaxed, guard).is_ok() {
            // SAFETY: LINE-C: our CAS moved the head past it, and the tail has left it: it stood on it at most until the line above.
            unsafe { guard.defer_destroy(first.before) }
        }
    }

    /// Everybody in line now.
    pub(super) fn all(&self, guard: &Guard) -> Vec<Arc<Waiter>> {
        let (mut all, mut before) = (Vec::new(), None);
        // Acquire throughout: as in `first`.
        let mut node = self.head.load(Acquire, guard);
        // SAFETY: LINE-A and LINE-C: what hangs behind a node that was not retired when it was loaded under this pin is kept by it.
        while let Some(at) = unsafe { node.as_ref() } {
            debug_assert!(before.is_none_or(|before: Ticket| before.next() == at.ticket()), "LINE-B");
            before = Some(at.ticket());
            all.extend(at.waiter.clone());
            node = at.next.load(Acquire, guard);
        }
        all
    }
}

/// The first in line, as found.
pub(super) struct First<'g> {
    before: Shared<'g, Node>,
    node: Shared<'g, Node>,
    pub(super) ticket: Ticket,
    waiter: Option<&'g Arc<Waiter>>,
}

impl<'g> First<'g> {
    pub(super) fn waiter(&self) -> &'g Arc<Waiter> {
        self.waiter.expect("only the node that the line began with has none, and nothing comes before it")
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
