//! A lane of one's own: one appender fills its batches with plain stores, and the sender takes what has waited long enough all the same.
//!
//! An appender that keeps filling batches gets a lane for that partition ([`super::appender`] says when). Per record nothing shared is changed: the owner announces that it writes, looks whether the sender
//! has asked for the batch, copies, takes the announcement back, looks again. Both looks are at words of this lane that hardly ever change. Per batch there are two exchanges of the lane's word: open, seal.
//!
//! # State
//! `word` holds a number n, of batches of this lane sealed so far, and three flags:
//!
//! | word | means | left by |
//! |---|---|---|
//! | n | nothing is open | owner's CAS to HAS_BATCH(n), when it opens; sender's CAS to RETIRED(n), when it has drained n batches |
//! | HAS_BATCH(n) | the owner fills batch n | CAS to n + 1: the owner's, when it seals, or the sender's, when it takes the batch |
//! | RETIRED(n) | given up: the owner goes back to the shared lane | never |
//! | CLOSED beside any of them | nothing is opened here any more | never |
//!
//! `asked`, written by the sender and the close: everything below it is asked for. `writing`, written by the owner: it is at work on its batch.
//!
//! # The handshake
//! | owner, for each record | sender, for a batch that is due |
//! |---|---|
//! | `writing = 1`; light barrier; look at `asked` | `asked = n + 1`; heavy barrier; look at `writing` |
//! | asked: `writing = 0`, seal, go on with a new batch | 0: CAS to n + 1, and the batch is its |
//! | not asked: copy; `writing = 0`; light barrier; look at `asked` again: asked: seal | 1: go away: the owner will find that it was asked |
//!
//! # Invariants
//! - **OWNED-A** One word decides who hands batch n over: the CAS from HAS_BATCH(n) succeeds once. Who has lost it never touches that batch again. The number makes an exchange for n fail at every later batch.
//! - **OWNED-B** The owner touches an open batch only between `writing = 1` with an `asked` that does not ask for it, and `writing = 0`. The sender takes it only after it has asked, passed the heavy barrier, and found `writing` 0.
//!   By the barriers, an announcement that it did not see comes before a look that finds the asking: so nobody writes what is taken, nor after that.
//! - **OWNED-C** No record joins a batch after the sender has asked for it and passed the barrier, but the one that was under way then, or, of several at once, those of that call that the batch still has room for.
//! - **OWNED-D** The batch in `node` is in the books, and read only by who has found HAS_BATCH in the word and is the sender, who retires batches, or pinned.
//! - **OWNED-E** RETIRED comes only when all n batches were moved behind those of the shared lane that they follow, into the queue that is drained. So what the owner appends to the shared lane after that stands behind them (L6).
//! - **OWNED-F** The first batch of a lane names the batch of the shared lane that it must follow, which was sealed by then; later ones follow by their numbers.
//!
//! # The races that look dangerous
//! - *Asking against the last look*: the owner has looked the second time before it was asked, and appends no more. Then it has stored `writing = 0` before that look, and the sender finds it (OWNED-B) and takes the batch. The other way round the look finds the asking.
//! - *Sealing against taking*: OWNED-A.
//! - *Retiring against opening*: one word.
//! - *Close*: the books refuse new batches first (BOOKS), then each lane of a batch that was entered gets CLOSED: a batch entered and not opened yet is refused there. Then it is asked for, so that the next append of the owner seals it, and is refused.
//!
//! # Linearization points
//! A record is accepted at its owner's `writing = 0`, several at once all together; it is in the batch that the word names then. Opening, sealing, taking, retiring, closing: the exchange.
//!
//! # Progress
//! All wait-free: each exchange is tried again only if CLOSED came in between, which happens once. The sender never waits for the owner (L7): one that is stopped while it writes keeps its own batch from being
//! taken, and what follows it in this lane.

use std::fmt;
use std::ptr::NonNull;

use crossbeam_utils::CachePadded;

use super::books::Node;
use super::lane::LaneHandle;
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};
use crate::primitive::barrier::Barrier;
use crate::primitive::step;

const CLOSED: u64 = 1;
const RETIRED: u64 = 2;
const HAS_BATCH: u64 = 4;
const ONE: u64 = 8;

/// Asks for every batch.
const ALL: u64 = u64::MAX;
/// The sender does not know the lane.
const UNKNOWN: usize = usize::MAX;

/// What a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing is open; so many were sealed.
    Empty(u64),
    /// The batch of this number is open.
    Open(u64),
    /// It was given up.
    Retired,
}

/// Why a batch is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The lane was given up: go to the shared one.
    Retired,
    /// The accumulator is closed.
    Closed,
}

/// A lane that one appender owns. What both sides see of it.
pub(super) struct OwnedLane {
    pub(super) lane: LaneHandle,
    barrier: Barrier,
    /// Where the sender keeps what it knows of the lane. Its own.
    known_as: AtomicUsize,
    /// Whether it is one of the lanes that are counted.
    counted: AtomicBool,
    /// Changed a few times for a batch.
    word: CachePadded<AtomicU64>,
    /// The batch that is open, if the word says that one is.
    node: AtomicPtr<Node>,
    /// Stored by the owner for each record, and read by nobody else but a sender that has asked.
    writing: CachePadded<AtomicBool>,
    /// Read by the owner for each record, and hardly ever written.
    asked: CachePadded<AtomicU64>,
}

impl OwnedLane {
    pub(super) fn new(lane: LaneHandle) -> Self {
        Self {
            lane,
            barrier: Barrier::get(),
            known_as: AtomicUsize::new(UNKNOWN),
            counted: AtomicBool::new(true),
            word: CachePadded::new(AtomicU64::new(0)),
            node: AtomicPtr::new(std::ptr::null_mut()),
            writing: CachePadded::new(AtomicBool::new(false)),
            asked: CachePadded::new(AtomicU64::new(0)),
        }
    }

    fn state(word: u64) -> State {
        match word & (RETIRED | HAS_BATCH) {
            0 => State::Empty(word / ONE),
            HAS_BATCH => State::Open(word / ONE),
            _ => State::Retired,
        }
    }

    /// What the word says now.
    pub(super) fn look(&self) -> State {
        // Acquire pairs with the Release of the exchange that made it so: what was done before that is seen.
        Self::state(self.word.load(Acquire))
    }

    // The owner's side.

    /// Opens `node`, which is in the books and has its first record, as batch `n`. The owner is at work on it then, and must [`OwnedLane::end`] that.
    pub(super) fn open(&self, n: u64, node: NonNull<Node>) -> Result<(), Refused> {
        // Relaxed: whoever finds the batch open finds this by the exchange below, and does not take it before `end`.
        self.writing.store(true, Relaxed);
        // Release pairs with the Acquire in `holds`: who finds another batch here sees that the one before it was opened (BOOKS-C).
        self.node.store(node.as_ptr(), Release);
        step("owned.open");
        // Release pairs with the Acquire in `look`: who finds the batch finds it whole. Acquire: see `look`. Retired or closed first, it fails.
        match self.word.compare_exchange(n * ONE, (n * ONE) | HAS_BATCH, AcqRel, Acquire) {
            Ok(_) => Ok(()),
            Err(word) => {
                self.stop();
                Err(if word & CLOSED != 0 { Refused::Closed } else { Refused::Retired })
            }
        }
    }

    /// Announces that the owner works on batch `n`. `false` if that was asked for: then it does not, and has to seal it.
    #[inline(always)]
    pub(super) fn begin(&self, n: u64) -> bool {
        // Relaxed, both: ordered by the barrier between them, whose other side is in `ask`: either we see the asking here, or whoever asks sees our announcement.
        self.writing.store(true, Relaxed);
        self.barrier.light();
        step("owned.begin");
        // Relaxed: see above.
        if self.asked.load(Relaxed) <= n {
            return true;
        }
        self.stop();
        false
    }

    /// Ends what [`OwnedLane::begin`] has begun. Whether batch `n` was asked for meanwhile: then the owner has to seal it.
    #[inline(always)]
    pub(super) fn end(&self, n: u64) -> bool {
        self.stop();
        self.barrier.light();
        step("owned.end");
        // Relaxed: the barrier's other side is in `ask`: either we see the asking, or whoever asks sees that we are done, and takes the batch.
        self.asked.load(Relaxed) > n
    }

    #[inline(always)]
    fn stop(&self) {
        // Release pairs with the Acquire in `is_writing`: who finds us done sees what we have written.
        self.writing.store(false, Release);
    }

    /// Batch `n` becomes the caller's, to publish or to take (OWNED-A); `false` if it is the other side's. The owner seals with it, and the sender takes if [`OwnedLane::is_writing`] says no.
    pub(super) fn hand_over(&self, n: u64) -> bool {
        step("owned.hand-over");
        let mut word = (n * ONE) | HAS_BATCH;
        loop {
            // AcqRel: the owner's stores to the batch are behind us, by its program or by `is_writing`; who finds the next number sees that we have the batch.
            match self.word.compare_exchange(word, (word + ONE) & !HAS_BATCH, AcqRel, Relaxed) {
                Ok(_) => return true,
                // Closed meanwhile: carried over.
                Err(now) if now == (n * ONE) | HAS_BATCH | CLOSED && now != word => word = now,
                Err(_) => return false,
            }
        }
    }

    // The sender's side, and the close's.

    /// Asks for batch `n` and all before it. The heavy barrier must follow, one for as many lanes as there are.
    pub(super) fn ask(&self, n: u64) {
        step("owned.ask");
        // Relaxed: see `begin` and `end`. A maximum, since the close asks as well.
        self.asked.fetch_max(n + 1, Relaxed);
    }

    /// Whether the owner is at work on a batch, to be asked after `ask` and the barrier.
    pub(super) fn is_writing(&self) -> bool {
        step("owned.is-writing");
        // Acquire pairs with the Release in `stop`.
        self.writing.load(Acquire)
    }

    /// The batch that is open. `None` if the word says that none is.
    pub(super) fn open_batch(&self) -> Option<(u64, NonNull<Node>)> {
        let State::Open(n) = self.look() else { return None };
        // Acquire: as in `holds`. Not older than batch `n`: it was stored before the word that we have acquired.
        Some((n, NonNull::new(self.node.load(Acquire))?))
    }

    /// Whether `node` is the batch that is open, as far as one look can tell: one that is not open any more has its stage noted (BOOKS-C).
    pub(super) fn holds(&self, node: &Node) -> bool {
        // Acquire pairs with the Release in `open`.
        matches!(self.look(), State::Open(_)) && std::ptr::eq(self.node.load(Acquire), node)
    }

    /// Gives the lane up, if nothing is open and `n` batches were sealed, all of which the caller has moved (OWNED-E). Whether it did.
    pub(super) fn retire(&self, n: u64) -> bool {
        step("owned.retire");
        // Release pairs with the Acquire in `open`: the owner goes to the shared lane after what we have moved. Opened first, or closed, it fails.
        self.word.compare_exchange(n * ONE, (n * ONE) | RETIRED, AcqRel, Relaxed).is_ok()
    }

    /// Nothing is opened here from now on, and what is open is asked for.
    pub(super) fn close(&self) {
        step("owned.close");
        // AcqRel: who opened before is found by the walk that follows, or is asked; who comes later finds the mark.
        self.word.fetch_or(CLOSED, AcqRel);
        // Relaxed: an append that begins after the close has returned sees it by what brought it behind the close; the sender asks by itself, with a barrier.
        self.asked.store(ALL, Relaxed);
    }

    /// Whether it was counted until now, and is the caller's to count no more.
    pub(super) fn leave(&self) -> bool {
        // Relaxed: a figure; of the owner and the sender one finds it set.
        self.counted.swap(false, Relaxed)
    }

    /// Where the sender keeps what it knows of the lane, if it knows it.
    pub(super) fn known_as(&self) -> Option<usize> {
        // Relaxed: the sender's own.
        Some(self.known_as.load(Relaxed)).filter(|at| *at != UNKNOWN)
    }

    /// By the sender.
    pub(super) fn be_known_as(&self, at: Option<usize>) {
        // Relaxed: the sender's own.
        self.known_as.store(at.unwrap_or(UNKNOWN), Relaxed);
    }
}

impl fmt::Debug for OwnedLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedLane").field("lane", &self.lane).field("state", &self.look()).finish_non_exhaustive()
    }
}
