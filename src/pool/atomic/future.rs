//! Waiting as a task: the same line, the same turns, a waker in place of a parker.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::wait::{Prepared, Turn};
use super::{AtomicPool, AtomicPoolCore, Found, Look};
use crate::pool::line::{Signal, Waiter};
use crate::pool::{Lease, PoolError};
use crate::primitive::clock::Instant;

/// An allocation that a task waits for: [`AtomicPool::allocate_async`].
#[must_use = "futures do nothing unless polled"]
pub struct Allocate<'a> {
    pool: &'a AtomicPool,
    size: usize,
    state: State<'a>,
}

enum State<'a> {
    /// Not polled yet.
    Begun,
    /// In line since then.
    Waiting(Turn<'a>, Instant),
    Over,
}

impl<'a> Allocate<'a> {
    pub(super) fn new(pool: &'a AtomicPool, size: usize) -> Self {
        Self { pool, size, state: State::Begun }
    }

    fn begin(&mut self, context: &Context<'_>) -> Poll<Result<Found, PoolError>> {
        let core = self.pool.core();
        let granules = self.pool.granules_of(self.size)?;
        if self.size == core.poolable
            && let Some(slot) = core.own().pop(core.slots.table(), "pool.pop")
        {
            return Poll::Ready(Ok(Found::Slot(slot)));
        }
        match core.look(granules, self.size == core.poolable) {
            Look::Found(found) => return Poll::Ready(Ok(found)),
            Look::Short(word) if word.closed() => return Poll::Ready(Err(PoolError::Closed)),
            Look::Short(_) => {}
        }
        let waiter = Waiter::task(granules);
        let Signal::Task(waker) = &waiter.signal else { unreachable!("a task waits as one") };
        // Before it can be granted anything.
        waker.register(context.waker().clone());
        let turn = core.join(Prepared::new(waiter))?;
        self.state = State::Waiting(turn, core.clock.now());
        self.go_on(core)
    }

    /// Where the wait has come to. The waker is registered.
    fn go_on(&mut self, core: &AtomicPoolCore) -> Poll<Result<Found, PoolError>> {
        let State::Waiting(turn, since) = &mut self.state else { unreachable!("it waits") };
        loop {
            core.look_in_line(&turn.waiter);
            // Before the turn is over: the clock is foreign, and while it is not, a panic gives up what there is.
            let waited = core.clock.now().saturating_since(*since);
            if turn.is_served() {
                core.count_wait(waited);
                return Poll::Ready(Ok(Found::Budget));
            }
            if !core.load().closed() {
                return Poll::Pending;
            }
            if turn.cancel() {
                core.count_wait(waited);
                return Poll::Ready(Err(PoolError::Closed));
            }
            // It was granted meanwhile.
        }
    }
}

impl Future for Allocate<'_> {
    type Output = Result<Lease<AtomicPoolCore>, PoolError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let found = match &self.state {
            State::Begun => self.begin(context),
            State::Waiting(turn, _) => {
                if let Signal::Task(waker) = &turn.waiter.signal {
                    // Before the look that follows.
                    waker.register(context.waker().clone());
                }
                let core = self.pool.core();
                self.go_on(core)
            }
            State::Over => panic!("polled after it was ready"),
        };
        let found = std::task::ready!(found);
        self.state = State::Over;
        Poll::Ready(found.and_then(|found| self.pool.lease_found(found, self.size)))
    }
}

impl fmt::Debug for Allocate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Begun => "begun",
            State::Waiting(..) => "waiting",
            State::Over => "over",
        };
        f.debug_struct("Allocate").field("size", &self.size).field("state", &state).finish_non_exhaustive()
    }
}
