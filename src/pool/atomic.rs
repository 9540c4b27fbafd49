//! The lock-free pool: one word for the budget and the line, a free list beside it, grants that anybody can finish.
//!
//! # What is where
//! - [`Word`](super::word::Word): available bytes, how many wait, whose turn it is, and the flags. All bytes that nobody holds are here, also those of the buffers on the free list: the list
//!   is memory kept warm, not budget.
//! - [`FreeList`](super::free_list): buffers of the poolable size. A buffer is pushed *before* its bytes are credited and popped *after* they are debited, so whoever has debited finds one
//!   if there is one to spare.
//! - [`Line`](super::line): who waits. A waiter holds nothing while it waits (GAP-04): its bytes stay in the word until they suffice for all of it, so a wait that fails has
//!   nothing to give back.
//!
//! # An allocation
//! One CAS of the word: if nobody waits and the bytes suffice, debit; else, if the caller will wait, count one more waiter. Newcomers never overtake (GAP-01, bound 0).
//! A try (no waiting) that finds others before it *helps* once and looks again before it fails. Who will wait has made its node, and is pinned, before it counts itself.
//! A waiter then *links* itself, makes one more exchange of the word, and looks (`help`).
//!
//! # A release
//! Nobody waits: one CAS of the word, after which the pool is not touched again. Somebody waits: pinned, credit, then `help`.
//!
//! # `help`
//! Looks at the first in line and does the one step that the words call for:
//!
//! | turn | waiter | GRANT | step |
//! |---|---|---|---|
//! | the one after the first's | | | move the line's front |
//! | the first's | WAITING | no | bytes suffice: set GRANT; else leave |
//! | the first's | WAITING | yes | CAS the waiter to GRANTED |
//! | the first's | GRANTED | yes | wake it, then debit, clear GRANT, next turn, one waiter less |
//! | the first's | CANCELLED | | clear GRANT, next turn, one waiter less |
//!
//! # Invariants
//! - **POOL-A** available + charged = total, at every value of the word; the debit of a grant and the end of its turn are one exchange.
//! - **POOL-B** While waiters are counted only a grant debits, and while GRANT is set nothing but that turn's end does: so bytes that sufficed still do.
//! - **POOL-C** A waiter's final state decides the one exchange that ends its turn. A helper that is late by then fails: the turn in the word has moved on.
//! - **POOL-D** A waiter is woken before its turn ends, so a counted waiter may still need its wake-up and an uncounted one does not.
//! - **POOL-F** While a waiter is the first in line, the turn is its own or, once that is over, the next: a turn is ended only by who saw its waiter first, and the front is moved only by who
//!   saw the turn of the first over. So a word that was read between two looks that found the same first (pinned, so it is the same) is about that waiter.
//! - **POOL-G** Who makes a new buffer has, after its debit, seen an instant at which the buffers on the free list held no more than was available. Pushes come before their credit and
//!   pops after their debit, so whatever others do after that instant but making buffers themselves keeps it so: the pool's memory never exceeds the total (L10).
//! - **POOL-E** The core is freed by whoever makes `GONE && available == total` true, one exchange; and not before everybody is unpinned who was pinned then. Who touches the
//!   core after his exchange is pinned since before it; who is not has no reference by then but to the word, and frees by the address that came from the box.
//!
//! # Linearization points
//! A grant at once, and a release: the CAS of the word. A grant to a waiter: the exchange that ends its turn. A failed try: the load of the word in which it found too little,
//! or somebody before it.
//!
//! # The races that look dangerous
//! - *A release between a waiter's count and its link*: the releaser sees a waiter counted, finds nobody linked, and leaves. The waiter's exchange after its link reads
//!   from the release or a later one, so its own look sees the bytes. The other way round the releaser's exchange reads from the waiter's, and sees the link.
//! - *A release against a cancel at the front*: the releaser finds one waiting who needs more than there is, and leaves; that one gives up, and behind it stands one who could be
//!   served. Each makes an exchange of the word and then looks: the releaser at the state, the waiter at the word. Whose exchange is the later one sees what the other did before its own.
//! - *Timeout against grant*: one CAS on the waiter's state. A waiter whose time is up helps once more and looks; then it cancels; if that fails it has its memory, and takes it (GAP-06). One whose cancel succeeds helps: behind it may stand
//!   one who can be served.
//! - *A helper that is stopped*: everything that it would do is in the words, and the next one does it. Before it has read the word, or before it moves the front: POOL-F, whatever turns
//!   passed; the CAS of the front fails if it has moved. Between its word and its exchange: the exchange fails, unless after just 2^17 turns, or a multiple, every other field is as it was too.
//! - *A helper that is stopped while the pool goes away*: it is pinned (POOL-E).
//!
//! # Progress
//! `allocate` without waiting, and `release`: lock-free; a try fails while somebody is stopped between its count and its link. A wait: blocks by back-pressure only. `close`: wait-free but for the wakes.

#[cfg(any(crossbeam_loom, unlatched_shuttle))]
mod hand;

use std::fmt;
use std::ptr::NonNull;
use std::time::Duration;

#[cfg(any(crossbeam_loom, unlatched_shuttle))]
pub use hand::Hand;

use super::free_list::FreeList;
use super::line::{Line, Place, Progress, Waiter};
use super::word::{CLOSED, GONE, Granularity, MAX_WAITERS, Ticket, Word};
use super::{Buffer, BufferPool, Lease, PoolError, PoolSnapshot, Release, Released, WayBack};
use crate::batch::contain;
use crate::primitive::atomic::Ordering::{self, AcqRel, Acquire, Relaxed};
use crate::primitive::atomic::{AtomicU64, AtomicUsize};
use crate::primitive::clock::SharedClock;
use crate::primitive::epoch;
use crate::primitive::parker::Parker;
use crate::primitive::step;

/// The lock-free pool: the handle. Dropping it closes nothing; leases may come back later.
pub struct AtomicPool(NonNull<AtomicPoolCore>);

// SAFETY: the handle is a reference to a `Sync` core that lives by POOL-E.
unsafe impl Send for AtomicPool {}
// SAFETY: as above.
unsafe impl Sync for AtomicPool {}

/// What the handle and the leases share.
pub struct AtomicPoolCore {
    word: AtomicU64,
    line: Line,
    free: FreeList,
    total: u64,
    poolable: usize,
    granularity: Granularity,
    clock: SharedClock,
    /// Waiters counted in the word that do not stand in line: not linked yet, or cancelled, or about to be.
    absent: AtomicUsize,
    /// Nanoseconds.
    wait_time: AtomicU64,
    exhausted: AtomicU64,
}

/// A waiter's place in the line. Should a panic end the wait, its drop gives up what that has come to.
struct Turn<'a> {
    core: &'a AtomicPoolCore,
    waiter: std::sync::Arc<Waiter>,
    over: bool,
}

/// What a caller makes before it counts itself as one who waits.
struct Prepared {
    waiter: std::sync::Arc<Waiter>,
    place: Place,
    pinned: epoch::Guard,
}

impl Prepared {
    fn new(granules: u64) -> Self {
        let waiter = Waiter::new(granules);
        let place = Place::of(waiter.clone());
        Self { waiter, place, pinned: pinned() }
    }
}

impl Turn<'_> {
    /// Ends a wait that is granted: finishes the turn, if nobody has.
    fn take(&mut self) {
        // When `help` returns the turn is over: the first in line would be this waiter, granted, and it does not leave that undone.
        self.core.help();
        self.over = true;
    }

    /// Ends a wait that is not wanted any more; `false` if it was granted before.
    fn cancel(&self) -> bool {
        // Relaxed: a figure. Before the cancel, so that it never falls below zero.
        self.core.absent.fetch_add(1, Relaxed);
        let cancelled = self.waiter.cancel();
        if cancelled {
            step("pool.cancelled");
            // AcqRel: see the second race at the module's head. An exchange that changes nothing, for its place in the word's order.
            self.core.word.fetch_add(0, AcqRel);
            // Whoever stands behind may be served now.
            self.core.help();
        } else {
            // Relaxed: a figure.
            self.core.absent.fetch_sub(1, Relaxed);
        }
        cancelled
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.over && !self.cancel() {
            self.core.help();
            // SAFETY: ours by the grant, and the handle lives: we are called through it.
            unsafe { AtomicPoolCore::credit(NonNull::from(self.core), self.waiter.need) };
        }
    }
}

/// Pins. A pin may destroy what others have retired, which is foreign code, not of this pool even: where it panics, nothing that is owed here is to be lost with it.
fn pinned() -> epoch::Guard {
    loop {
        if let Some(guard) = contain("the destructor of something retired", epoch::pin) {
            return guard;
        }
    }
}

/// The one way in which the word changes by comparison. `Err`: what it is now.
fn exchange(word: &AtomicU64, from: Word, to: Word, at: &'static str) -> Result<(), Word> {
    step(at);
    // AcqRel: every exchange reads from the one before it and is read by the one after it, so what was done before one is seen after a later one: pushed buffers,
    // linked waiters. Relaxed on failure: on the value found nothing but another exchange is built.
    word.compare_exchange(from.0, to.0, AcqRel, Relaxed).map(drop).map_err(Word)
}

impl AtomicPoolCore {
    fn load(&self) -> Word {
        // Acquire pairs with the Release half of every exchange of the word. A stale value fails the CAS that is built on it.
        Word(self.word.load(Acquire))
    }

    fn exchange(&self, from: Word, to: Word, at: &'static str) -> Result<(), Word> {
        exchange(&self.word, from, to, at)
    }

    /// Books `size` bytes, waiting at most `max_block`.
    fn reserve(
        &self,
        size: usize,
        granules: u64,
        max_block: Duration,
        waiting: impl FnOnce(),
    ) -> Result<(), PoolError> {
        let mut word = self.load();
        let mut helped = false;
        let mut prepared = None;
        loop {
            let to = if word.closed() {
                return Err(PoolError::Closed);
            } else if word.waiters() == 0 && word.available() >= granules {
                word.debit(granules)
            } else if max_block.is_zero() && word.waiters() > 0 && !helped {
                // Those before it may be gone, or served by now, and who is to end their turns may be stopped.
                helped = true;
                self.help();
                word = self.load();
                continue;
            } else if max_block.is_zero() {
                return Err(self.exhausted(size, word, max_block));
            } else if word.waiters() == MAX_WAITERS {
                return Err(PoolError::TooManyWaiters { limit: MAX_WAITERS });
            } else {
                word.one_more_waiter()
            };
            let waits = to.waiters() > word.waiters();
            if waits {
                // All that could hold it up or fail between its count and its link, where it is in everybody's way.
                prepared.get_or_insert_with(|| Prepared::new(granules));
                // Relaxed: a figure. Before the count, so that nobody is taken to stand in line who does not.
                self.absent.fetch_add(1, Relaxed);
            }
            match self.exchange(word, to, "pool.reserve") {
                Ok(()) => {
                    return match prepared.filter(|_| waits) {
                        Some(prepared) => self.wait(size, prepared, max_block, waiting),
                        None => Ok(()),
                    };
                }
                Err(now) => word = now,
            }
            if waits {
                // Relaxed: a figure.
                self.absent.fetch_sub(1, Relaxed);
            }
        }
    }

    fn exhausted(&self, size: usize, word: Word, max_block: Duration) -> PoolError {
        // Relaxed: a figure.
        self.exhausted.fetch_add(1, Relaxed);
        PoolError::Exhausted { requested: size, available: self.bytes_available(word), max_block }
    }

    /// Waits in line. The caller has counted itself.
    fn wait(
        &self,
        size: usize,
        Prepared { waiter, place, pinned }: Prepared,
        max_block: Duration,
        waiting: impl FnOnce(),
    ) -> Result<(), PoolError> {
        self.line.join(place, &pinned);
        drop(pinned);
        // Relaxed: a figure. From here on it stands in line, and nobody who comes later is served before it (L4).
        self.absent.fetch_sub(1, Relaxed);
        step("pool.joined");
        // Release: see the first race at the module's head; the look that follows acquires. An exchange that changes nothing, for its place in the word's order.
        self.word.fetch_add(0, Ordering::Release);
        let mut turn = Turn { core: self, waiter, over: false };
        self.help();
        if turn.waiter.progress() == Progress::Waiting {
            waiting();
        }
        let mut left = max_block;
        loop {
            if turn.waiter.progress() == Progress::Granted {
                turn.take();
                return Ok(());
            }
            // Close before the time (POOL-20).
            let closed = self.load().closed();
            if left.is_zero() && !closed {
                // The last look (GAP-06): whoever has brought the bytes may be stopped before its own.
                self.help();
                if turn.waiter.progress() == Progress::Granted {
                    continue;
                }
            }
            if closed || left.is_zero() {
                if !turn.cancel() {
                    // It was granted meanwhile.
                    continue;
                }
                turn.over = true;
                return Err(if closed { PoolError::Closed } else { self.exhausted(size, self.load(), max_block) });
            }
            step("pool.wait");
            let start = self.clock.now();
            let signalled = turn.waiter.parker.park_timeout(left);
            let waited = self.clock.now().saturating_since(start);
            // Relaxed: a figure.
            self.wait_time.fetch_add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), Relaxed);
            left = if signalled { left.saturating_sub(waited) } else { Duration::ZERO };
        }
    }

    /// Does whatever the words call for at the front of the line, until they call for nothing.
    fn help(&self) {
        loop {
            let guard = pinned();
            // The line before the word, and again after it: what stands in the word is then said of this waiter, however long this thread was stopped in between (POOL-F).
            let first = self.line.first(&guard);
            step("pool.help");
            let word = self.load();
            if word.waiters() == 0 {
                return;
            }
            // Nobody: counted and not yet linked, it looks for itself once it is.
            let Some(first) = first else { return };
            if !self.line.is_first(&first, &guard) {
                continue;
            }
            if first.ticket != word.turn() {
                debug_assert!(first.ticket.next() == word.turn(), "POOL-F");
                self.line.pass(&first, &guard);
                continue;
            }
            let waiter = first.waiter();
            // A failed exchange: somebody else has done a step. The next round sees.
            let _ = match waiter.progress() {
                Progress::Waiting if word.granting() => {
                    waiter.grant();
                    Ok(())
                }
                Progress::Waiting if word.available() < waiter.need => return,
                Progress::Waiting => self.exchange(word, word.grant(), "pool.set-grant"),
                Progress::Cancelled => self.exchange(word, word.next_turn(), "pool.skip").map(|()| {
                    // Relaxed: a figure.
                    self.absent.fetch_sub(1, Relaxed);
                }),
                // Else the word is older than the grant.
                Progress::Granted if word.granting() => {
                    step("pool.wake");
                    // Before the turn ends (POOL-D). More than one helper may do so: a token more harms nobody.
                    waiter.parker.unpark();
                    self.exchange(word, word.debit(waiter.need).next_turn(), "pool.end-turn")
                }
                Progress::Granted => Ok(()),
            };
        }
    }

    /// Gives granules back. Whether these were the last of a pool whose handle is gone: then the caller frees it.
    ///
    /// # Safety
    /// The granules are charged, to the caller; or the handle lives. So the core does, until the exchange (POOL-E).
    unsafe fn credit(this: NonNull<Self>, granules: u64) -> bool {
        let (word, all) = {
            // SAFETY: the caller's promise.
            let core = unsafe { this.as_ref() };
            (&raw const core.word, core.granularity.within(core.total))
        };
        // SAFETY: as above. A reference to the word and nothing else: an atomic's may outlive, in the call that is its last, what it refers to.
        let word = unsafe { &*word };
        // Acquire: as in `load`.
        let mut now = Word(word.load(Acquire));
        while now.waiters() == 0 {
            let to = Word(now.0 + granules);
            match exchange(word, now, to, "pool.credit") {
                // Nobody waits, so nobody has to be looked for; POOL-E: the core may be gone from here on.
                Ok(()) => return to.gone() && to.available() == all,
                Err(other) => now = other,
            }
        }
        // POOL-E: pinned since before the exchange.
        let _pinned = pinned();
        step("pool.credit");
        // AcqRel: as in `exchange`.
        let before = Word(word.fetch_add(granules, AcqRel));
        if before.waiters() > 0 {
            // SAFETY: POOL-E: we are pinned.
            unsafe { this.as_ref() }.help();
        }
        before.gone() && before.available() + granules == all
    }

    /// The way back of this pool's leases.
    ///
    /// # Safety
    /// As [`WayBack`]'s.
    unsafe fn take_back(pool: NonNull<()>, buffer: Buffer, charged: usize) -> Released {
        let this = pool.cast::<Self>();
        let granules = {
            // SAFETY: POOL-E: what is charged to the lease is not available.
            let core = unsafe { this.as_ref() };
            // After the handle is gone nobody can ask again: memory need not be kept. One that goes meanwhile only makes the pooling useless.
            let kept = if charged == core.poolable && buffer.capacity() == charged && !core.load().gone() {
                core.free.push(buffer)
            } else {
                Err(buffer)
            };
            // Before the credit: memory that was not freed yet must not be promised to others.
            kept.unwrap_or_else(Buffer::free);
            core.granules(charged)
        };
        // SAFETY: the lease's own.
        if unsafe { Self::credit(this, granules) } {
            // SAFETY: our exchange made the condition true; the address is the box's own.
            unsafe { retire(this) }
        }
        Released::More
    }

    /// Breaks up buffers of the free list until what they hold is available (L10): what was debited is about to be made anew.
    fn make_room(&self) {
        // With none at all at one instant it does not matter what was available then.
        while self.free.len() > 0 {
            // A release in between would make it look as if there were room: its bytes available, its buffer not counted (POOL-G).
            let (kept, word) = self.free.len_and(|| self.load());
            if kept as u64 * self.poolable as u64 <= self.bytes_available(word) {
                return;
            }
            let Some(buffer) = self.free.pop() else { return };
            buffer.free();
        }
    }

    /// What a charge of `size` bytes, at most the total, takes of the word.
    fn granules(&self, size: usize) -> u64 {
        // The last granule of a total that is no multiple stands for what is behind it as well.
        self.granularity.around(size as u64).min(self.granularity.within(self.total))
    }

    fn bytes_available(&self, word: Word) -> u64 {
        // What is behind the last granule is with whoever has that one, and available when everything is: so that what is said to be available can be had.
        let all = word.available() == self.granularity.within(self.total);
        if all { self.total } else { self.granularity.bytes(word.available()) }
    }

    fn buffer(&self, size: usize) -> Option<Buffer> {
        let recycled = if size == self.poolable { self.free.pop() } else { None };
        recycled.or_else(|| {
            self.make_room();
            Buffer::zeroed(size)
        })
    }
}

/// Frees what is pooled, and `core` once nobody is pinned who is pinned now.
///
/// # Safety
/// POOL-E: the caller has made the condition true. The address came from the box, not from a reference.
unsafe fn retire(core: NonNull<AtomicPoolCore>) {
    struct Sendable(NonNull<AtomicPoolCore>);
    // SAFETY: the core is `Send`, and it moves whole.
    unsafe impl Send for Sendable {}
    // SAFETY: POOL-E: only we were told to free it, and have not yet.
    // The buffers go now, the rest when the epoch does: nobody else touches the list. Who pushed has credited after it, and all is credited; who pops has a handle.
    unsafe { core.as_ref() }.free.drain();
    let core = Sendable(core);
    let guard = pinned();
    guard.defer(move || {
        let Sendable(core) = { core };
        // SAFETY: POOL-E; it came from a box.
        let core = unsafe { Box::from_raw(core.as_ptr()) };
        // The clock's destructor is foreign, and this runs in anybody's pin.
        contain("the destructor of a pool's clock", || drop(core));
    });
    contain("the destructor of something retired", || epoch::settle(guard));
}

// SAFETY: LEASE-2 is POOL-E. LEASE-3: `Last` is never answered, since the core is retired here.
unsafe impl Release for AtomicPoolCore {
    #[inline]
    fn way_back(&self) -> WayBack {
        Self::take_back
    }
}

impl AtomicPool {
    fn core(&self) -> &AtomicPoolCore {
        // SAFETY: POOL-E: the handle is not gone.
        unsafe { self.0.as_ref() }
    }

    /// [`BufferPool::allocate`] that calls `waiting` once the caller stands in line and before it sleeps: whoever can free memory may want to know (ACC-21). Not pinned.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn allocate_telling(
        &self,
        size: usize,
        max_block: Duration,
        waiting: impl FnOnce(),
    ) -> Result<Lease<AtomicPoolCore>, PoolError> {
        let core = self.core();
        if size as u64 > core.total {
            return Err(PoolError::TooLarge { requested: size, total: core.total });
        }
        let granules = core.granules(size);
        core.reserve(size, granules, max_block, waiting)?;
        let Some(buffer) = core.buffer(size) else {
            // SAFETY: `reserve` has charged them, and the handle lives.
            unsafe { AtomicPoolCore::credit(self.0, granules) };
            return Err(PoolError::OutOfMemory { requested: size });
        };
        // SAFETY: the core came from a box and the word counts the lease's granules, at least one; POOL-E.
        Ok(unsafe { Lease::new(buffer, size, self.0) })
    }
}

impl BufferPool for AtomicPool {
    type Owner = AtomicPoolCore;

    fn new(total: u64, poolable: usize, clock: SharedClock) -> Self {
        let granularity = Granularity::of(total);
        let word = Word::new(granularity.within(total));
        let core = Box::new(AtomicPoolCore {
            word: AtomicU64::new(word.0),
            line: Line::new(Ticket::before(word.turn())),
            free: FreeList::new(total / (poolable as u64).max(1)),
            total,
            poolable,
            granularity,
            clock,
            absent: AtomicUsize::new(0),
            wait_time: AtomicU64::new(0),
            exhausted: AtomicU64::new(0),
        });
        Self(NonNull::from(Box::leak(core)))
    }

    fn allocate(&self, size: usize, max_block: Duration) -> Result<Lease<AtomicPoolCore>, PoolError> {
        self.allocate_telling(size, max_block, || ())
    }

    fn queued(&self) -> usize {
        let core = self.core();
        // Relaxed: a figure.
        core.load().waiters().saturating_sub(core.absent.load(Relaxed))
    }

    fn snapshot(&self) -> PoolSnapshot {
        let core = self.core();
        let available = core.bytes_available(core.load());
        let pooled = (core.free.len() as u64 * core.poolable as u64).min(available);
        PoolSnapshot {
            total: core.total,
            unallocated: available - pooled,
            pooled,
            leased: core.total - available,
            reserved: 0,
            queued: self.queued(),
            // Relaxed: figures.
            wait_time: Duration::from_nanos(core.wait_time.load(Relaxed)),
            exhausted: core.exhausted.load(Relaxed),
        }
    }

    fn total(&self) -> u64 {
        self.core().total
    }

    fn poolable(&self) -> usize {
        self.core().poolable
    }

    fn close(&self) {
        let core = self.core();
        step("pool.close");
        // Acquire: who was linked before is seen below and woken; who links later makes its exchange after ours, and sees CLOSED. Nothing is published but the flag.
        core.word.fetch_or(CLOSED, Acquire);
        let waiters = core.line.all(&pinned());
        waiters.iter().for_each(|waiter| waiter.parker.unpark());
    }
}

impl Drop for AtomicPool {
    fn drop(&mut self) {
        let core = self.core();
        let total = core.granularity.within(core.total);
        // AcqRel: as in `AtomicPoolCore::exchange`.
        let before = Word(core.word.fetch_or(GONE, AcqRel));
        if before.available() == total {
            // SAFETY: POOL-E: our exchange made the condition true.
            unsafe { retire(self.0) }
        }
    }
}

impl fmt::Debug for AtomicPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AtomicPool").field(&self.snapshot()).finish()
    }
}

impl fmt::Debug for AtomicPoolCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtomicPoolCore").field("word", &self.load()).field("free", &self.free).finish_non_exhaustive()
    }
}
