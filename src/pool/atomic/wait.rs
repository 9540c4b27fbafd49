//! The slow road: joining the line, waiting, and finishing whatever step of a grant the words call for. The protocol stands at the head of [`super`].

use std::sync::Arc;
use std::time::Duration;

use super::{AcqRel, AtomicPoolCore, PoolError, Relaxed, pinned};
use crate::pool::line::{Place, Progress, Signal, Waiter};
use crate::pool::word::SEQ_ONE;
use crate::primitive::epoch;
use crate::primitive::parker::Parker;
use crate::primitive::step;

/// The most that can stand in line at once, those included who gave up and were not passed yet.
pub(crate) const MAX_WAITERS: usize = 1 << 18;

/// Waiters that one look wakes, where it does not grant them what is theirs; if there is enough for more, it grants.
const WOKEN_AT_ONCE: usize = 8;

/// What a caller makes before it joins the line: all that could fail or hold it up.
pub(super) struct Prepared {
    waiter: Arc<Waiter>,
    place: Place,
    pinned: epoch::Guard,
}

impl Prepared {
    pub(super) fn thread(granules: u64) -> Self {
        Self::new(Waiter::thread(granules))
    }

    pub(super) fn new(waiter: Arc<Waiter>) -> Self {
        let place = Place::of(waiter.clone());
        Self { waiter, place, pinned: pinned() }
    }
}

/// A waiter's place in the line. Should a panic end the wait, or a task drop its future, its drop gives up what that has come to.
pub(super) struct Turn<'a> {
    core: &'a AtomicPoolCore,
    pub(super) waiter: Arc<Waiter>,
    pub(super) over: bool,
}

impl<'a> Turn<'a> {
    pub(super) fn new(core: &'a AtomicPoolCore, waiter: Arc<Waiter>) -> Self {
        Self { core, waiter, over: false }
    }

    /// Whether the wait is over with what it asked for: then the bytes are the caller's.
    pub(super) fn is_served(&mut self) -> bool {
        if self.waiter.progress() != Progress::Granted {
            return false;
        }
        // When `help` returns the turn is over: the first in line would be this waiter, granted, and it does not leave that undone.
        self.core.help(Some(&self.waiter));
        self.over = true;
        true
    }

    /// Ends a wait that is not wanted any more; `false` if it was granted before.
    pub(super) fn cancel(&mut self) -> bool {
        if !self.waiter.cancel() {
            return false;
        }
        self.over = true;
        self.waiter.leave(&self.core.standing);
        step("pool.cancelled");
        // AcqRel: see the fifth race at the head of `super`. And what was noted of who was called is of another line now (POOL-I): a release that went by that note came before this, and is seen below.
        self.core.word.fetch_add(SEQ_ONE, AcqRel);
        // Whoever stands behind may be served now.
        self.core.help(None);
        true
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.over && !self.cancel() {
            self.core.help(Some(&self.waiter));
            // Ours by the grant.
            self.core.give(self.waiter.need);
        }
        if let Signal::Task(waker) = &self.waiter.signal {
            waker.clear();
        }
    }
}

impl AtomicPoolCore {
    /// Joins the line. From its return on nobody who comes later is served before it, but as [`PoolOptions::overtaking`](crate::pool::PoolOptions::overtaking) allows (L4).
    pub(super) fn join(&self, Prepared { waiter, place, pinned }: Prepared) -> Result<Turn<'_>, PoolError> {
        // Relaxed: a figure; its limit is kept to the one.
        if self.places.fetch_add(1, Relaxed) >= MAX_WAITERS {
            self.places.fetch_sub(1, Relaxed);
            return Err(PoolError::TooManyWaiters { limit: MAX_WAITERS });
        }
        self.line.join(place, &pinned);
        drop(pinned);
        let turn = Turn::new(self, waiter);
        let mut word = self.load();
        while let Err(now) = self.exchange(word, word.joined(), "pool.join") {
            word = now;
        }
        self.shut_stripes();
        turn.waiter.arrive(&self.standing);
        step("pool.joined");
        self.look_in_line(&turn.waiter);
        Ok(turn)
    }

    /// The look of one who stands in line: what comes back after it is to be called out again.
    pub(super) fn look_in_line(&self, own: &Arc<Waiter>) {
        let mut word = self.load();
        // Each look changes the word, so that nobody says after it that who looked was woken since (POOL-I).
        while let Err(now) = self.exchange(word, word.looked(), "pool.look") {
            word = now;
        }
        self.help(Some(own));
    }

    /// Waits in line, as a thread.
    pub(super) fn wait(
        &self,
        size: usize,
        prepared: Prepared,
        max_block: Duration,
        waiting: impl FnOnce(),
    ) -> Result<(), PoolError> {
        let mut turn = self.join(prepared)?;
        let waiter = turn.waiter.clone();
        let Signal::Thread(parker) = &waiter.signal else { unreachable!("a thread waits as one") };
        if waiter.progress() == Progress::Waiting {
            waiting();
        }
        let mut left = max_block;
        loop {
            if turn.is_served() {
                return Ok(());
            }
            // Close before the time (POOL-20).
            let closed = self.load().closed();
            if !closed {
                // What came back since may be there for the first in line to take, or for us. Also the last look (GAP-06): whoever has brought the bytes may be stopped before its own.
                self.look_in_line(&waiter);
                if turn.is_served() {
                    return Ok(());
                }
            }
            if closed || left.is_zero() {
                if !turn.cancel() {
                    // It was granted meanwhile.
                    continue;
                }
                return Err(if closed { PoolError::Closed } else { self.exhausted(size, max_block) });
            }
            step("pool.wait");
            let start = self.clock.now();
            let signalled = parker.park_timeout(left);
            let waited = self.clock.now().saturating_since(start);
            self.count_wait(waited);
            left = if signalled { left.saturating_sub(waited) } else { Duration::ZERO };
        }
    }

    /// Takes `granules` past the first in line, if few enough have done so: the exchange of the word says that it still was the first then, since `seq` has not changed.
    pub(super) fn overtake(&self, granules: u64) -> bool {
        loop {
            let guard = pinned();
            let front = self.line.front(&guard);
            let Some(first) = front.waiter() else { return false };
            let mut word = self.load();
            if word.closed() || !first.may_be_passed(self.overtaking) || word.taken(granules).is_none() {
                return false;
            }
            if !first.count_pass(self.overtaking) {
                return false;
            }
            while word.waiting() && self.line.is_front(&front, &guard) {
                // Closed, or too little now; or its turn is over, and whoever is first then is not to be passed on its account. (That it is still the front only says whether to count at the next one
                // instead: the word was read before the state, so a turn that was over by then says so here.)
                let may = !word.closed() && first.progress() == Progress::Waiting;
                let Some(to) = word.taken(granules).filter(|_| may) else {
                    first.uncount_pass();
                    return false;
                };
                match self.exchange(word, to, "pool.overtake") {
                    Ok(()) => return true,
                    Err(_) => word = self.load(),
                }
            }
            first.uncount_pass();
            if !word.waiting() {
                return false;
            }
        }
    }

    pub(super) fn count_wait(&self, waited: Duration) {
        // Relaxed: a figure.
        self.wait_time.fetch_add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Does whatever the words call for at the front of the line, until they call for nothing.
    ///
    /// `own`: the caller's place in the line. It runs, so if it can be served it is, and those before it are granted what is theirs; others are woken, and take it when they run.
    pub(super) fn help(&self, own: Option<&Arc<Waiter>>) {
        // Who was woken here and whose turn is to be ended.
        let mut woken: Option<Arc<Waiter>> = None;
        loop {
            let guard = pinned();
            // The line before the word, and again after it: what stands in the word is then said of this waiter, however long this thread was stopped in between (POOL-F).
            let front = self.line.front(&guard);
            let first = front.waiter();
            let progress = first.map(|first| first.progress());
            step("pool.help");
            let word = self.load();
            if !word.waiting() {
                return;
            }
            if !self.line.is_front(&front, &guard) {
                continue;
            }
            let (Some(first), Some(progress)) = (first, progress) else {
                // A failed exchange here and below: somebody else has done a step. The next round sees.
                let _ = self.exchange(word, word.rested(), "pool.rest");
                continue;
            };
            match progress {
                Progress::Waiting if word.granting() => first.grant(),
                // Its state was read before the word: a whole turn of it may have come and gone in between, and the front not have moved. One that waits still waited when the word was as it
                // was read, for a turn changes the word (POOL-F).
                Progress::Waiting if first.progress() != Progress::Waiting => {}
                Progress::Waiting => {
                    let fit = self.line.who_fit(&front, word.available(), WOKEN_AT_ONCE, &guard);
                    if fit.is_empty() {
                        return;
                    }
                    let for_own = own.is_some_and(|own| fit.iter().any(|waiter| Arc::ptr_eq(waiter, own)));
                    if first.may_be_passed(self.overtaking) && !for_own && fit.len() <= WOKEN_AT_ONCE {
                        drop(guard);
                        step("pool.wake");
                        fit.iter().for_each(|waiter| waiter.wake());
                        // Relaxed: released by the exchange to whoever reads CALLED. Should another's note come after it, that one is as true, or of another `seq`: then who releases looks.
                        self.called.store(word.0, Relaxed);
                        // After the wakes: who is stopped in between has promised nothing. Failed: somebody has looked, or there is more, or less; nothing is promised.
                        let _ = self.exchange(word, word.call(), "pool.call");
                        return;
                    }
                    let _ = self.exchange(word, word.grant(), "pool.set-grant");
                }
                Progress::Granted if word.granting() => {
                    if !woken.as_ref().is_some_and(|woken| Arc::ptr_eq(woken, first)) {
                        // Before the turn ends (POOL-D), and not pinned. More than one helper may do so: a wake more harms nobody.
                        let first = woken.insert(first.clone()).clone();
                        drop(guard);
                        step("pool.wake");
                        first.wake();
                        continue;
                    }
                    if self.exchange(word, word.served(first.need), "pool.end-turn").is_ok() {
                        first.leave(&self.standing);
                    }
                }
                Progress::Granted => self.pass(&front, &guard),
                Progress::Cancelled => {
                    if self.exchange(word, word.skipped(), "pool.skip").is_ok() {
                        self.pass(&front, &guard);
                    }
                }
            }
        }
    }

    fn pass(&self, front: &crate::pool::line::Front<'_>, guard: &epoch::Guard) {
        if self.line.pass(front, guard) {
            // Relaxed: a figure.
            self.places.fetch_sub(1, Relaxed);
        }
    }
}
