//! The lock-free pool: stripes for the common road, one word for the budget and the line, grants that anybody can finish.
//!
//! # What is where
//! - **Stripes**: each thread has one, shared with few others or none. A buffer on a stripe *is* its bytes: to take it, or to put it back, is one exchange of that stripe's word, and
//!   nothing else is touched.
//! - [`Word`](super::word::Word): all bytes that nobody holds and that are on no stripe; whether somebody waits; and the flags. A buffer kept *warm* beside the word
//!   ([`Slots`](super::stack::Slots)) has no bytes of its own: it is memory, not budget. It is kept *before* its bytes are credited and taken *after* they are debited.
//! - [`Line`](super::line): who waits. A waiter holds nothing while it waits (GAP-04): its bytes stay in the word until they suffice for all of it, so a wait that fails has
//!   nothing to give back.
//!
//! # An allocation
//! 1. Of the poolable size: off the own stripe. The common road ends here.
//! 2. Else off another stripe that has more than one, some at once, the rest onto the own stripe; else out of the word, if nobody waits or few enough have been let past the first in line; else
//!    off another stripe, also the last one. Other sizes come out of the word, and bring buffers from stripes there if it has too little.
//! 3. Else a try fails - having seen that there was too little at one instant - and who will wait **joins**: links himself to the line, says so in the word, *shuts every stripe* and brings what was on
//!    them to the word, and looks (`help`).
//!
//! # A release
//! Of a buffer with a slot: onto the own stripe. Found shut: if the word says that nobody waits and nothing is closed, the exchange opens the stripe with the buffer on it; else the buffer is kept
//! warm, its bytes are credited to the word, and whoever did so looks (`help`) if somebody waits. Other sizes: to the word.
//!
//! # `help`
//! Looks at the first in line and does the one step that the words call for:
//!
//! | first in line | GRANT | step |
//! |---|---|---|
//! | WAITING | no | bytes suffice: set GRANT; or only wake it, if a few may still be let past it and the bytes are for it alone. Else leave |
//! | WAITING | yes | CAS the waiter to GRANTED |
//! | GRANTED | yes | wake it, then debit and clear GRANT: its turn is over |
//! | GRANTED | no | its turn is over: move the front past it |
//! | CANCELLED | | clear GRANT: its turn is over; move the front past it |
//! | nobody | | the word says that nobody waits |
//!
//! The waiter's state is read before the word, and the front again after it; so is the state of one that waited, before GRANT is set for it or it is woken: its whole turn may have come and gone.
//!
//! # Order (L4, GAP-01)
//! Waiters are served in the order in which they joined the line. A newcomer may be served before one who waits: at most [`PoolOptions::overtaking`] times while that one is the first in line. With 0,
//! nobody is. A waiter has *arrived* when it has shut the last stripe; who takes from a stripe not shut yet overtakes an arrival, no waiter. When one who waits could be served and is not granted
//! at once, it has been woken, and takes its memory when it runs, unless somebody overtook it: so memory does not lie idle while a sleeper wakes up. What suffices for the second in line as well is
//! granted at once: one release wakes all that it can serve (GAP-03).
//!
//! # Invariants
//! - **POOL-A** available in the word + poolable bytes for each buffer on a stripe + charged + in hand = total. In hand is what a thread inside an operation has taken off a stripe and
//!   not brought to another or to the word yet: one buffer, or a chain of at most [`TAKEN_AT_ONCE`], or what was on a stripe that it shut.
//! - **POOL-B** While GRANT is set nothing but the end of that turn debits: so bytes that sufficed still do.
//! - **POOL-C** A waiter's final state decides the one exchange that ends its turn. A helper that is late by then fails: the word's `seq` has moved on.
//! - **POOL-D** A waiter is woken before its turn ends.
//! - **POOL-F** While a waiter is the first in line, GRANT is its own. GRANT is set only by who saw it first, and waiting, after reading the word, whose exchange then found the word unchanged, and
//!   the front moves only after an exchange that ends the turn. So GRANTED, and later a word without GRANT while it is still the first, is a turn that is over.
//! - **POOL-G** Who makes a new buffer has, after its debit, seen an instant at which the buffers kept warm held no more than was available. Buffers are kept before their credit and
//!   taken after their debit, so whatever others do after that instant but making buffers themselves keeps it so: the pool's memory never exceeds the total (L10).
//! - **POOL-H** Once a waiter has arrived, and until its turn is over, every stripe is shut: it shut them after it had said in the word that it waits, and a stripe is opened only by an exchange
//!   of the head that was read *before* a word in which nobody waited. So every release is an exchange of the word.
//! - **POOL-I** While CALLED is said and the word noted beside it has the same `seq`, everybody whom the noted bytes could serve was woken after his last look: that word was read before the wakes and is noted after them, and
//!   whoever looks, joins or gives up changes `seq`.
//! - **POOL-E** The core is freed by whoever makes `GONE && available == total` true, one exchange of the word; and not before everybody is unpinned who was pinned then. Who touches the
//!   core after his exchange is pinned since before it; who is not has no reference by then but to the word, and frees by the address that came from `Arc::into_raw`. Who wakes others meanwhile has a count of his own, and is not pinned. The handle shuts the stripes
//!   after setting GONE, which opens them no more: so all bytes come to the word.
//!
//! # Linearization points
//! Of the poolable size at once, and its release: the exchange of the stripe. Else a grant at once, and a release: the exchange of the word. A grant to a waiter: the exchange that ends its turn. A
//! failed try: the load of the word between two looks at the stripes that found none of them changed, or a word in which somebody was before it.
//!
//! # The races that look dangerous
//! - *A release against one who joins, on a stripe*: same word. Pushed before the stripe is shut, the buffer is gathered by who shuts it; after that, the push fails, and the release goes to the
//!   pool's word, where the joiner has said before that it waits.
//! - *One who opens a stripe against one who joins*: it read the head of a shut stripe, then a word in which nobody waited. If it read the head that the joiner's own shutting made, or a later one, it
//!   has acquired what the joiner did before, and its word says that somebody waits. If it read an older head, its exchange fails: shutting changes the tag, also of a stripe that is shut.
//! - *A release between a joiner's link and its exchange of the word*: the releaser sees nobody waiting, and leaves. The joiner's exchange reads from the release or a later one, so its own look
//!   sees the bytes. The other way round the releaser's exchange reads from the joiner's, and sees the link.
//! - *Nobody waits, says a helper, while somebody joins*: it reads the word, and then finds the line still empty. If that word had said that this one joined, the link would be seen. If it
//!   had not, the joiner's exchange comes after it, changes `seq`, and the helper's fails; or comes after the helper's and says again that somebody waits.
//! - *A release against a cancel at the front*: the releaser finds one waiting who needs more than there is, and leaves; that one gives up, and behind it stands one who could be
//!   served. Each makes an exchange of the word and then looks: the releaser at the state, the waiter at the word. Whose exchange is the later one sees what the other did before its own.
//! - *Timeout against grant*: one CAS on the waiter's state. A waiter whose time is up helps once more and looks; then it cancels; if that fails it has its memory, and takes it (GAP-06). One whose
//!   cancel succeeds helps: behind it may stand one who can be served.
//! - *A helper that is stopped*: everything that it would do is in the words, and the next one does it. Its own exchange then fails, unless after just 2^20 changes of `seq`, or a multiple, every other
//!   field is as it was too.
//! - *A helper that is stopped while the pool goes away*: it is pinned (POOL-E).
//!
//! # Progress
//! `allocate` without waiting, and `release`: lock-free. A thread stopped inside an operation keeps what it has in hand (POOL-A); one stopped anywhere in joining holds up nobody. A wait: blocks by
//! back-pressure only. `close`: lock-free, but for the wakes.

mod future;
#[cfg(any(crossbeam_loom, unlatched_shuttle))]
mod hand;
mod wait;

use std::fmt;
use std::ptr::NonNull;
use std::time::Duration;

use crossbeam_utils::CachePadded;

pub use future::Allocate;
#[cfg(any(crossbeam_loom, unlatched_shuttle))]
pub use hand::{ChainInHand, Hand, HandOnWaker, InHand, Stacks, Stander};
#[cfg(test)]
pub(crate) use wait::MAX_WAITERS;
use wait::Prepared;

use super::line::Line;
use super::stack::{Chain, Head, Slot, Slots, Stack};
use super::word::{CLOSED, GONE, Granularity, Word};
use super::{Buffer, BufferPool, Lease, PoolError, PoolOptions, PoolSnapshot, Release, Released, WayBack};
use crate::batch::contain;
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use crate::primitive::atomic::{AtomicU64, AtomicUsize};
use crate::primitive::clock::{Instant, SharedClock};
use crate::primitive::{Arc, epoch, step, thread};

/// Buffers that are taken off another's stripe at once, at most.
const TAKEN_AT_ONCE: u64 = 16;

/// The lock-free pool: the handle. Dropping it closes nothing; leases may come back later.
pub struct AtomicPool(NonNull<AtomicPoolCore>);

// SAFETY: the handle is a reference to a `Sync` core that lives by POOL-E.
unsafe impl Send for AtomicPool {}
// SAFETY: as above.
unsafe impl Sync for AtomicPool {}

/// What the handle and the leases share.
pub struct AtomicPoolCore {
    stripes: Box<[CachePadded<Stack>]>,
    slots: Slots,
    poolable: usize,
    word: CachePadded<AtomicU64>,
    /// A word out of which everybody who could be served was woken: written before CALLED is said.
    called: AtomicU64,
    line: Line,
    total: u64,
    granularity: Granularity,
    overtaking: u32,
    clock: SharedClock,
    /// Nodes in the line, of those who gave up and were not passed yet as well.
    places: AtomicUsize,
    /// Waiters that have arrived and whose turn is not over.
    standing: AtomicUsize,
    /// Nanoseconds.
    wait_time: AtomicU64,
    exhausted: AtomicU64,
}

/// Where memory was found.
enum Found {
    /// A buffer, its bytes with it.
    Slot(Slot),
    /// Bytes of the word: the buffer is still to be had.
    Budget,
}

/// What a look for memory has come to.
enum Look {
    Found(Found),
    /// There is too little, or somebody is before us: as this word says.
    Short(Word),
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
    // AcqRel: every exchange reads from the one before it and is read by the one after it, so what was done before one is seen after a later one: kept buffers,
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

    /// The calling thread's stripe.
    #[inline]
    fn own(&self) -> &Stack {
        // A power of two.
        &self.stripes[thread::ordinal() & (self.stripes.len() - 1)]
    }

    /// What a charge of `size` bytes, at most the total, takes of the word.
    fn granules(&self, size: usize) -> u64 {
        // The last granule of a total that is no multiple stands for what is behind it as well.
        self.granularity.around(size as u64).min(self.granularity.within(self.total))
    }

    /// Of all that the pool has.
    fn all(&self) -> u64 {
        self.granularity.within(self.total)
    }

    /// Looks for `granules`, for a buffer of the poolable size or of another, everywhere but on the own stripe.
    fn look(&self, granules: u64, poolable: bool) -> Look {
        let mut helped = false;
        loop {
            let word = self.load();
            // Not somebody's last one while the word has bytes: it would only have to take ours.
            if poolable
                && word.quiet()
                && let Some(slot) = self.take_from_others(1)
            {
                return Look::Found(Found::Slot(slot));
            }
            if word.closed() {
                return Look::Short(word);
            }
            if word.waiting() {
                if self.overtake(granules) {
                    return Look::Found(Found::Budget);
                }
                if helped {
                    return Look::Short(word);
                }
                // Those before it may be gone, or served by now, and who is to end their turns may be stopped; or who joins has not shut the stripes yet, and what they need is there.
                helped = true;
                self.shut_what_is_open();
                self.help(None);
                continue;
            }
            if let Some(to) = word.taken(granules) {
                if self.exchange(word, to, "pool.reserve").is_ok() {
                    return Look::Found(Found::Budget);
                }
                continue;
            }
            if poolable {
                if let Some(slot) = self.take_from_others(0) {
                    return Look::Found(Found::Slot(slot));
                }
            } else if self.gather(granules - word.available()) {
                continue;
            }
            if let Some(word) = self.short_of(granules) {
                return Look::Short(word);
            }
        }
    }

    /// A buffer off another's stripe that has more than `leave`, and some more for the own one.
    fn take_from_others(&self, leave: u64) -> Option<Slot> {
        let own = thread::ordinal();
        let other = |further: usize| &self.stripes[(own + further) & (self.stripes.len() - 1)];
        let chain = (0..self.stripes.len())
            .find_map(|further| other(further).pop_some(self.slots.table(), TAKEN_AT_ONCE, leave, "pool.take"))?;
        let (slot, rest) = self.slots.split(chain);
        if let Some(rest) = rest
            && let Err(rest) = self.own().push_chain(self.slots.table(), rest, "pool.put")
        {
            self.bring(rest);
        }
        Some(slot)
    }

    /// Brings buffers from the stripes to the word, until it has `granules` more or they are empty. Whether there were any.
    fn gather(&self, granules: u64) -> bool {
        let (mut missing, mut any) = (granules, false);
        for stripe in &self.stripes {
            while missing > 0 {
                let wanted = missing.div_ceil(self.granules(self.poolable));
                let Some(chain) = stripe.pop_some(self.slots.table(), wanted, 0, "pool.gather") else { break };
                missing = missing.saturating_sub(self.bring(chain));
                any = true;
            }
        }
        any
    }

    /// Brings buffers from a stripe to the word: kept before their bytes are credited. How many granules they are.
    fn bring(&self, chain: Chain) -> u64 {
        let granules = u64::from(chain.count) * self.granules(self.poolable);
        self.slots.keep(chain, thread::ordinal());
        self.give(granules);
        granules
    }

    /// Gives granules back to the word, while the handle lives: for who was called through it.
    fn give(&self, granules: u64) {
        step("pool.give");
        // AcqRel: as in `exchange`.
        if Word(self.word.fetch_add(granules, AcqRel)).waiting() {
            self.help(None);
        }
    }

    /// Shuts every stripe, and brings what was on them to the word (POOL-H).
    fn shut_stripes(&self) {
        for stripe in &self.stripes {
            if let Some(chain) = stripe.shut(self.slots.table()) {
                self.bring(chain);
            }
        }
    }

    /// Does for one who is stopped in joining what keeps others from what is on the stripes. Whoever joins does it himself, all of it: this is no substitute (POOL-H).
    fn shut_what_is_open(&self) {
        for stripe in self.stripes.iter().filter(|stripe| !stripe.head().is_shut()) {
            if let Some(chain) = stripe.shut(self.slots.table()) {
                self.bring(chain);
            }
        }
    }

    /// The heads of the stripes, and how many buffers are on them; so, if the heads still are.
    fn heads(&self) -> (Vec<Head>, u64) {
        let heads: Vec<_> = self.stripes.iter().map(|stripe| stripe.head()).collect();
        let buffers = heads.iter().map(|head| self.slots.depth(*head)).sum();
        (heads, buffers)
    }

    /// The word and the buffers on the stripes, both of one instant. Lock-free: it looks again only if a stripe has changed.
    fn at_one_instant(&self) -> (Word, u64) {
        loop {
            let (heads, buffers) = self.heads();
            let word = self.load();
            step("pool.looked");
            if self.stripes.iter().zip(&heads).all(|(stripe, head)| stripe.head() == *head) {
                return (word, buffers);
            }
        }
    }

    /// A word at whose instant there was too little for one who comes, if this is such an instant (L4: a failed try was true).
    fn short_of(&self, granules: u64) -> Option<Word> {
        let (word, buffers) = self.at_one_instant();
        (word.available() + buffers * self.granules(self.poolable) < granules).then_some(word)
    }

    fn exhausted(&self, size: usize, max_block: Duration) -> PoolError {
        // Relaxed: a figure.
        self.exhausted.fetch_add(1, Relaxed);
        PoolError::Exhausted { requested: size, available: self.snapshot().available(), max_block }
    }

    /// Gives granules back to the word. Whether these were the last of a pool whose handle is gone: then the caller frees it.
    ///
    /// # Safety
    /// The granules are the caller's, charged or in hand, so the core lives until the exchange (POOL-E); the address is from `Arc::into_raw`.
    unsafe fn credit(this: NonNull<Self>, granules: u64) -> bool {
        let (word, called, all) = {
            // SAFETY: the caller's promise.
            let core = unsafe { this.as_ref() };
            (&raw const *core.word, &core.called, core.all())
        };
        // SAFETY: as above. A reference to the word and nothing else: an atomic's may outlive, in the call that is its last, what it refers to.
        let word = unsafe { &*word };
        // Acquire: as in `load`.
        let mut now = Word(word.load(Acquire));
        loop {
            let to = Word(now.0 + granules);
            // Relaxed: that one was written which the exchange that said CALLED has released, or a later one; of whatever word that was, it is true of ours if it has our `seq`, and is not asked if
            // it has not (POOL-I).
            if now.waiting() && !to.all_called(Word(called.load(Relaxed))) {
                break;
            }
            match exchange(word, now, to, "pool.credit") {
                // Nobody waits, or whoever can be served was woken and has yet to look (POOL-I), so nobody has to be looked for; POOL-E: the core may be gone from here on.
                Ok(()) => return to.gone() && to.available() == all,
                Err(other) => now = other,
            }
        }
        // POOL-E: pinned since before the exchange.
        let pin = pinned();
        step("pool.credit");
        // AcqRel: as in `exchange`.
        let before = Word(word.fetch_add(granules, AcqRel));
        if before.waiting() {
            // Not pinned while it wakes (L8): the core is kept by a count of its own meanwhile.
            // SAFETY: POOL-E: we are pinned, so the count of the pool's own is not given up yet; the address is from `Arc::into_raw`.
            let core = unsafe { Self::count(this) };
            drop(pin);
            core.help(None);
            // The clock's destructor is foreign.
            contain("the destructor of a pool's clock", || drop(core));
        }
        before.gone() && before.available() + granules == all
    }

    /// A count that keeps the core.
    ///
    /// # Safety
    /// The count of the pool's own is not given up yet, or not dropped because the caller is pinned since before (POOL-E); the address is from `Arc::into_raw`.
    unsafe fn count(this: NonNull<Self>) -> Arc<Self> {
        // SAFETY: the caller's promise.
        unsafe {
            Arc::increment_strong_count(this.as_ptr().cast_const());
            Arc::from_raw(this.as_ptr().cast_const())
        }
    }

    /// The way back of this pool's leases.
    ///
    /// # Safety
    /// As [`WayBack`]'s.
    #[inline]
    unsafe fn take_back(pool: NonNull<()>, buffer: Buffer, mark: usize) -> Released {
        let this = pool.cast::<Self>();
        if mark != 0 {
            // SAFETY: POOL-E: what is charged to the lease is not back. The references are to what may outlive, in the call that is its last, what it refers to: cells and atomics.
            let (own, table) = unsafe { (this.as_ref().own(), this.as_ref().slots.table()) };
            // SAFETY: the lease's own.
            let slot = unsafe { Slots::slot(mark) };
            if own.push(table, &slot, "pool.release").is_ok() {
                // POOL-E: the core may be gone from here on.
                return Released::More;
            }
            // SAFETY: the lease's own.
            return unsafe { Self::take_back_among_waiters(this, slot) };
        }
        // SAFETY: POOL-E: what is charged to the lease is not available.
        let granules = unsafe { this.as_ref() }.granules(buffer.capacity());
        // Before the credit: memory that was not freed yet must not be promised to others.
        buffer.free();
        // SAFETY: the lease's own.
        unsafe { Self::credit_and_retire(this, granules) }
    }

    /// A buffer comes back, and the own stripe was shut.
    ///
    /// # Safety
    /// The slot is that of a lease of this pool, used up by this.
    #[cold]
    unsafe fn take_back_among_waiters(this: NonNull<Self>, slot: Slot) -> Released {
        let granules = {
            // SAFETY: POOL-E: what is charged to the lease is not back, until the exchange that opens the stripe, or the credit below.
            let core = unsafe { this.as_ref() };
            loop {
                // The stripe before the word: see the second race at the module's head.
                let seen = core.own().head();
                let word = core.load();
                step("pool.open");
                if word.gone() {
                    // Nobody can ask again: memory need not be kept.
                    core.slots.break_up(slot, thread::ordinal());
                    break;
                }
                if !word.quiet() {
                    core.slots.keep_one(&slot, thread::ordinal());
                    break;
                }
                let back = if seen.is_shut() {
                    core.own().open(core.slots.table(), seen, &slot)
                } else {
                    core.own().push(core.slots.table(), &slot, "pool.release").is_ok()
                };
                if back {
                    return Released::More;
                }
            }
            core.granules(core.poolable)
        };
        // SAFETY: the lease's own.
        unsafe { Self::credit_and_retire(this, granules) }
    }

    /// # Safety
    /// As [`AtomicPoolCore::credit`]; the address is the pool's own.
    unsafe fn credit_and_retire(this: NonNull<Self>, granules: u64) -> Released {
        // SAFETY: the caller's promise.
        if unsafe { Self::credit(this, granules) } {
            // SAFETY: our exchange made the condition true; the address is the pool's own.
            unsafe { retire(this) }
        }
        Released::More
    }

    /// Breaks up warm buffers until what they hold is available (L10): what was debited is about to be made anew.
    fn make_room(&self) {
        loop {
            // A release in between would make it look as if there were room: its bytes available, its buffer not counted (POOL-G). So it is with none at all: where one is kept on a stack that was
            // looked at and one taken from a stack that was not, there never was an instant with none.
            let (warm, word) = self.slots.warm_and(|| self.load());
            if warm * self.poolable as u64 <= self.bytes_available(word) {
                return;
            }
            if let Some(slot) = self.slots.take_warm(thread::ordinal()) {
                self.slots.break_up(slot, thread::ordinal());
            }
        }
    }

    fn bytes_available(&self, word: Word) -> u64 {
        // What is behind the last granule is with whoever has that one, and available when everything is: so that what is said to be available can be had.
        if word.available() == self.all() { self.total } else { self.granularity.bytes(word.available()) }
    }

    /// A buffer for bytes that were debited, and its slot's mark, or 0.
    fn buffer(&self, size: usize) -> Option<(Buffer, usize)> {
        if size == self.poolable {
            if let Some(slot) = self.slots.take_warm(thread::ordinal()) {
                return Some((self.slots.buffer(&slot), slot.mark()));
            }
            self.make_room();
            return self.slots.make(thread::ordinal());
        }
        self.make_room();
        Some((Buffer::zeroed(size)?, 0))
    }

    fn snapshot(&self) -> PoolSnapshot {
        let (word, buffers) = self.at_one_instant();
        let granules = word.available() + buffers * self.granules(self.poolable);
        // What is behind the last granule is with whoever has that one, and available when everything is: so that what is said to be available can be had.
        let available = if granules == self.all() { self.total } else { self.granularity.bytes(granules) };
        let pooled = ((buffers + self.slots.warm()) * self.poolable as u64).min(available);
        PoolSnapshot {
            total: self.total,
            unallocated: available - pooled,
            pooled,
            leased: self.total - available,
            reserved: 0,
            queued: self.queued(),
            // Relaxed: figures.
            wait_time: Duration::from_nanos(self.wait_time.load(Relaxed)),
            exhausted: self.exhausted.load(Relaxed),
        }
    }

    fn queued(&self) -> usize {
        // Relaxed: a figure.
        self.standing.load(Relaxed)
    }
}

/// Frees what is pooled, and `core` once nobody is pinned who is pinned now.
///
/// # Safety
/// POOL-E: the caller has made the condition true. The address came from `Arc::into_raw`, not from a reference.
unsafe fn retire(core: NonNull<AtomicPoolCore>) {
    struct Sendable(NonNull<AtomicPoolCore>);
    // SAFETY: the core is `Send`, and it moves whole.
    unsafe impl Send for Sendable {}
    // SAFETY: POOL-E: only we were told to free it, and have not yet.
    // The buffers go now, the rest when the epoch does: nobody else touches the slots. Who kept one has credited after it, and all is credited; who takes one has a handle.
    unsafe { core.as_ref() }.slots.drain();
    let core = Sendable(core);
    let guard = pinned();
    guard.defer(move || {
        let Sendable(core) = { core };
        // SAFETY: POOL-E: the pool's own count; it came from `Arc::into_raw`.
        let core = unsafe { Arc::from_raw(core.as_ptr().cast_const()) };
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
    /// A pool as [`BufferPool::new`] makes it, with options of its own.
    ///
    /// # Panics
    /// If an option is out of its range.
    pub fn with_options(total: u64, poolable: usize, clock: SharedClock, options: PoolOptions) -> Self {
        let PoolOptions { overtaking, stripes } = options;
        assert!(stripes.is_power_of_two(), "the number of stripes is a power of two");
        let granularity = Granularity::of(total);
        let core = Arc::new(AtomicPoolCore {
            stripes: (0..stripes).map(|_| CachePadded::new(Stack::new())).collect(),
            slots: Slots::new(total / (poolable as u64).max(1), poolable, stripes),
            poolable,
            word: CachePadded::new(AtomicU64::new(Word::new(granularity.within(total)).0)),
            called: AtomicU64::new(0),
            line: Line::new(),
            total,
            granularity,
            overtaking,
            clock,
            places: AtomicUsize::new(0),
            standing: AtomicUsize::new(0),
            wait_time: AtomicU64::new(0),
            exhausted: AtomicU64::new(0),
        });
        // The count of the pool's own, given up by `retire`.
        Self(NonNull::new(Arc::into_raw(core).cast_mut()).expect("an address of something is not null"))
    }

    /// Buffers on stripes and kept warm, while nobody else does anything.
    #[cfg(test)]
    pub(super) fn buffers_kept(&self) -> u64 {
        self.core().heads().1 + self.core().slots.warm()
    }

    fn core(&self) -> &AtomicPoolCore {
        // SAFETY: POOL-E: the handle is not gone.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn lease(&self, buffer: Buffer, mark: usize) -> Lease<AtomicPoolCore> {
        // SAFETY: the core came from `Arc::into_raw`; the lease's bytes, at least one granule, are neither in the word nor on a stripe; POOL-E.
        unsafe { Lease::new(buffer, mark, self.0) }
    }

    /// The lease on what was found.
    fn lease_found(&self, found: Found, size: usize) -> Result<Lease<AtomicPoolCore>, PoolError> {
        let core = self.core();
        let buffer = match found {
            Found::Slot(slot) => Some((core.slots.buffer(&slot), slot.mark())),
            Found::Budget => core.buffer(size),
        };
        let Some((buffer, mark)) = buffer else {
            core.give(core.granules(size));
            return Err(PoolError::OutOfMemory { requested: size });
        };
        Ok(self.lease(buffer, mark))
    }

    /// [`BufferPool::allocate`] that calls `waiting` once the caller stands in line and before it sleeps: whoever can free memory may want to know (ACC-21). Not pinned.
    ///
    /// # Errors
    /// [`PoolError`].
    #[inline]
    pub fn allocate_telling(
        &self,
        size: usize,
        max_block: Duration,
        waiting: impl FnOnce(),
    ) -> Result<Lease<AtomicPoolCore>, PoolError> {
        let core = self.core();
        if size == core.poolable
            && let Some(slot) = core.own().pop(core.slots.table(), "pool.pop")
        {
            return Ok(self.lease(core.slots.buffer(&slot), slot.mark()));
        }
        self.allocate_elsewhere(size, max_block, waiting)
    }

    #[cold]
    fn allocate_elsewhere(
        &self,
        size: usize,
        max_block: Duration,
        waiting: impl FnOnce(),
    ) -> Result<Lease<AtomicPoolCore>, PoolError> {
        let (core, granules) = (self.core(), self.granules_of(size)?);
        let found = match core.look(granules, size == core.poolable) {
            Look::Found(found) => found,
            Look::Short(word) if word.closed() => return Err(PoolError::Closed),
            Look::Short(_) if max_block.is_zero() => return Err(core.exhausted(size, max_block)),
            Look::Short(_) => {
                core.wait(size, Prepared::thread(granules), max_block, waiting)?;
                Found::Budget
            }
        };
        self.lease_found(found, size)
    }

    /// What a request takes of the word, if it can ever be met (POOL-02).
    fn granules_of(&self, size: usize) -> Result<u64, PoolError> {
        let core = self.core();
        if size as u64 > core.total {
            return Err(PoolError::TooLarge { requested: size, total: core.total });
        }
        Ok(core.granules(size))
    }

    /// A buffer of exactly `size` bytes, for a task: where a thread would wait, the future does. The stated order and everything else is as with
    /// [`BufferPool::allocate`], in one line with threads.
    ///
    /// Any executor will do. There is no time limit: whoever wants one drops the future when the time is up. It may be dropped at any point: what it was granted goes to the
    /// next in line, and nobody's wake-up is lost.
    ///
    /// # Errors
    /// [`PoolError`], but for [`PoolError::Exhausted`].
    ///
    /// ```
    /// use std::pin::pin;
    /// use std::task::{Context, Poll, Waker};
    /// use std::time::Duration;
    /// use unlatched::pool::{AtomicPool, BufferPool};
    /// use unlatched::primitive::clock::SystemClock;
    ///
    /// let pool = AtomicPool::new(1 << 14, 1 << 14, SystemClock::shared());
    /// let held = pool.allocate(1 << 14, Duration::ZERO)?;
    /// let mut lease = pin!(pool.allocate_async(1 << 14));
    /// let mut context = Context::from_waker(Waker::noop());
    /// assert!(lease.as_mut().poll(&mut context).is_pending());
    /// drop(held);
    /// assert!(matches!(lease.as_mut().poll(&mut context), Poll::Ready(Ok(lease)) if lease.len() == 1 << 14));
    /// # Ok::<(), unlatched::pool::PoolError>(())
    /// ```
    pub fn allocate_async(&self, size: usize) -> Allocate<'_> {
        Allocate::new(self, size)
    }
}

impl BufferPool for AtomicPool {
    type Owner = AtomicPoolCore;

    fn new(total: u64, poolable: usize, clock: SharedClock) -> Self {
        Self::with_options(total, poolable, clock, PoolOptions::default())
    }

    #[inline]
    fn allocate(&self, size: usize, max_block: Duration) -> Result<Lease<AtomicPoolCore>, PoolError> {
        self.allocate_telling(size, max_block, || ())
    }

    fn now(&self) -> Instant {
        self.core().clock.now()
    }

    fn queued(&self) -> usize {
        self.core().queued()
    }

    fn snapshot(&self) -> PoolSnapshot {
        self.core().snapshot()
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
        // No Release: the stripes order it, which both we and whoever joins shut after our exchanges of the word, each by one of the stripe. Whose comes later there has acquired what the other did: we see who is
        // linked, and wake it below; or it sees CLOSED, and goes. And who finds a stripe shut by us sees it too.
        // Acquire: who has debited the word before this may never have touched a stripe; what he did before that is seen by whoever has closed: that he counted himself (the accumulator's `in_progress`).
        core.word.fetch_or(CLOSED, Acquire);
        // The common road does not look at the word.
        core.shut_stripes();
        let waiters = core.line.all(&pinned());
        waiters.iter().for_each(|waiter| waiter.wake());
    }
}

impl Drop for AtomicPool {
    fn drop(&mut self) {
        // POOL-E: from the exchange on, whoever brings the last bytes gives up the pool's own count.
        // SAFETY: the handle is not gone, so that count is not given up.
        let core = unsafe { AtomicPoolCore::count(self.0) };
        // AcqRel: as in `exchange`; and who finds a stripe shut by us sees it.
        let before = Word(core.word.fetch_or(GONE, AcqRel));
        let mut last = before.available() == core.all();
        for stripe in &core.stripes {
            // The last bytes: nothing is on the other stripes, and nobody is left who could put something there.
            if last {
                break;
            }
            if let Some(chain) = stripe.shut(core.slots.table()) {
                let granules = u64::from(chain.count) * core.granules(core.poolable);
                core.slots.keep(chain, thread::ordinal());
                // SAFETY: the bytes are in our hands.
                last = unsafe { AtomicPoolCore::credit(self.0, granules) };
            }
        }
        if last {
            // SAFETY: POOL-E: our exchange made the condition true.
            unsafe { retire(self.0) }
        }
        // The clock's destructor is foreign.
        contain("the destructor of a pool's clock", || drop(core));
    }
}

impl fmt::Debug for AtomicPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AtomicPool").field(&self.snapshot()).finish()
    }
}

impl fmt::Debug for AtomicPoolCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtomicPoolCore").field("word", &self.load()).field("slots", &self.slots).finish_non_exhaustive()
    }
}
