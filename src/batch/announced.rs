//! Who is at work on which batch: a word of its own for each thread, so that a copy is committed, and a batch kept, without an exchange.
//!
//! A thread that is about to append to a shared batch stores the batch's address in its own slot, makes sure that the batch is still the one that takes records, reserves its place by one CAS of the batch's word, copies, and
//! stores 0. Nobody else writes there, so that is all: no pin that keeps the batch from being freed, and no second exchange that says that the copy is over. Who needs to know - the sender, before it takes a
//! batch that is sealed, and before it frees one; when it is gone, whoever withdraws - reads the slots that were ever used.
//!
//! The announcements are hazard pointers (M. M. Michael, IEEE TPDS 2004) with the fence on the other side (P. E. McKenney and others, `membarrier`, as in Folly and liburcu), which also say that a copy is under way. Light and heavy barrier: [`crate::primitive::barrier`].
//!
//! # State
//! A slot belongs to the thread of its number, while that lives ([`thread::slot`]). A thread without a number, or one in which a callback's destructor appends while the thread has a batch announced, appends by the counted way: pinned, with itself in the word as one who copies. So does whoever
//! opens a batch.
//!
//! | `batch` of a slot | means | left by |
//! |---|---|---|
//! | 0 | its thread is at work on no batch | its thread's store of an address: it *announces* |
//! | an address | its thread is about to reserve there, or copies there, or has found the batch full | its thread's store of 0: it *withdraws* |
//!
//! | `asked` | means | left by |
//! |---|---|---|
//! | false | nobody waits for what is announced | the store of whoever takes what is published, having found the batch announced |
//! | true | who withdraws is to say so | its thread's store, when it has withdrawn: the answer |
//!
//! # Invariants
//! - **ANN-A** Only its thread changes `batch`. It reserves a place in a batch only between announcing and withdrawing it, by an exchange that releases the announcement; its copy lies before the withdrawal.
//! - **ANN-B** Who has acquired the word of a batch that is sealed, and then finds it in no slot, has all that was copied by announcement, and nobody will copy more: a place that was reserved is released by the word, so the
//!   look finds that announcement or what the thread stored later. One that finds the batch announced may be wrong about it: its thread may only be about to find the batch sealed.
//! - **ANN-C** Who has found the batch announced, has set `asked` there, has passed the heavy barrier, and still finds both, will be told: a withdrawal that he does not see lies before a light barrier behind which `asked` is found. If he
//!   finds the batch and no `asked`, its thread has withdrawn since he looked first, and has announced it once more: it has no place there.
//! - **ANN-D** A batch that has left the tail, once and for good, and that is in no slot after a heavy barrier since, is reached by no announcement any more: a thread whose announcement he does not see reads the tail behind the barrier, and finds another.
//! - **ANN-E** Only those can have a place in a batch that is sealed who announce it at the first look after that. So those who were found then are asked once, and only of them it is waited until they have withdrawn.
//!
//! # The races that look dangerous
//! - *Sealed while somebody is about to reserve*: the word decides. Reserved first, the announcement is seen (ANN-B). Sealed first, the reservation fails; he may be seen all the same, and withdraws soon.
//! - *Withdrawn while it is asked*: ANN-C: either the asker sees it, or the thread does.
//! - *Announced while it is freed*: ANN-D: the thread looks at the tail once more after it has announced.
//! - *Asked, withdrawn, and announced by another meanwhile*: that one was not asked and will not tell; nor has he a place (ANN-E). So only those who were asked are looked at once more.
//! - *Asked of one batch, answered for another*: `asked` is the slot's. An announcement releases the answers that were given before it, so who has found the new one has his flag behind them.
//! - *An answer to somebody else, under way when it is asked*: it may take back the flag that was just set, and the same batch be announced once more. The asker finds no flag (ANN-C), and waits for nothing.
//!
//! # Progress
//! All wait-free. A thread that is stopped after it has announced a batch keeps its memory; and if that is sealed then, delays it and what must follow it, as one that is stopped in its copy does (L7). (One that is stopped between its look at the tail and its announcement may come to name another batch, at the same
//! address.)

#![cfg_attr(not(any(crossbeam_loom, unlatched_shuttle)), allow(unreachable_pub, reason = "open to the models"))]

use crossbeam_utils::CachePadded;

use super::AtomicBatch;
use crate::primitive::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicBool, AtomicUsize};
use crate::primitive::barrier::Barrier;
use crate::primitive::thread;

/// Threads that have a slot. Others go the counted way.
const SLOTS: usize = if cfg!(any(crossbeam_loom, unlatched_shuttle)) { 2 } else { 64 };
const _: () = assert!(SLOTS <= u64::BITS as usize, "a bit for each in `ask`");
/// No batch.
const NONE: usize = 0;

/// A thread's slot.
#[derive(Debug)]
pub struct Slot {
    number: usize,
    batch: AtomicUsize,
    asked: AtomicBool,
    /// Whether the slots up to it are looked at. Its thread's.
    known: AtomicBool,
    barrier: Barrier,
}

impl Slot {
    /// Its thread's number.
    #[inline(always)]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Announces the batch at `address`. It is safe to reach only if it is found once more where it was found, after this.
    #[inline(always)]
    pub fn announce(&self, address: usize) {
        // Release pairs with the Acquire in `Announcements::announcing`: who finds another batch here has what was copied into the one before, and who finds this one has the answer that was given before it. (That it was announced is released by the reservation.)
        self.batch.store(address, Release);
        // Between the announcement and the second look at the tail: pairs with the heavy one in `Announcements::now` (ANN-D).
        self.barrier.light();
    }

    /// Withdraws the announcement. Whether somebody has asked to be told.
    #[inline(always)]
    pub fn withdraw(&self) -> bool {
        // Release pairs with the Acquire in `Announcements::is_announced`: who does not find the batch here any more has what was copied (ANN-B).
        self.batch.store(NONE, Release);
        // Between the withdrawal and the look whether it was asked: pairs with the heavy one in `Announcements::ask` (ANN-C).
        self.barrier.light();
        // Relaxed: it only says that there is somebody to tell. What he has put down before he asked is found behind the barrier; or he finds us withdrawn behind his.
        let asked = self.asked.load(Relaxed);
        if asked {
            // Release pairs with the Acquire in `Announcements::asked`: who finds the answer has what was copied.
            self.asked.store(false, Release);
        }
        asked
    }
}

/// The slots of all threads.
#[derive(Debug)]
pub struct Announcements {
    slots: Box<[CachePadded<Slot>]>,
    /// How many of them were ever used, from the first on.
    used: AtomicUsize,
    barrier: Barrier,
}

/// What was announced at one time.
#[derive(Debug, Default)]
pub struct Announced(Vec<usize>);

impl Announced {
    /// Whether `batch` was announced.
    pub fn contains<X>(&self, batch: &AtomicBatch<X>) -> bool {
        self.0.contains(&address(batch))
    }
}

#[inline(always)]
fn address<X>(batch: &AtomicBatch<X>) -> usize {
    std::ptr::from_ref(batch).addr()
}

impl Default for Announcements {
    fn default() -> Self {
        Self::with(SLOTS)
    }
}

impl Announcements {
    fn with(slots: usize) -> Self {
        let barrier = Barrier::get();
        let slot = |number| {
            let (asked, known) = (AtomicBool::new(false), AtomicBool::new(false));
            CachePadded::new(Slot { number, batch: AtomicUsize::new(NONE), asked, known, barrier })
        };
        Self { slots: (0..slots).map(slot).collect(), used: AtomicUsize::new(0), barrier }
    }

    /// The calling thread's slot, if it has one that is free.
    #[inline(always)]
    pub fn own(&self) -> Option<&Slot> {
        let at = thread::slot()?;
        let slot = self.slots.get(at)?;
        // Relaxed: the thread's own.
        if !slot.known.load(Relaxed) {
            self.make_known(at);
        }
        // Relaxed: as above.
        (slot.batch.load(Relaxed) == NONE).then_some(&**slot)
    }

    #[cold]
    fn make_known(&self, at: usize) {
        // Relaxed: found by whoever finds the announcement that follows, by the same release and the same barriers.
        self.used.fetch_max(at + 1, Relaxed);
        // Relaxed: the thread's own.
        self.slots[at].known.store(true, Relaxed);
    }

    /// Those that can hold an announcement.
    fn used(&self) -> &[CachePadded<Slot>] {
        // Relaxed: see `make_known`.
        &self.slots[..self.used.load(Relaxed)]
    }

    fn announcing(&self, address: usize) -> impl Iterator<Item = (usize, &Slot)> {
        // Acquire pairs with the Release of a withdrawal, and of the announcement after it (ANN-B).
        self.used().iter().map(|slot| &**slot).enumerate().filter(move |(_, slot)| slot.batch.load(Acquire) == address)
    }

    /// Whether somebody is, or may be, at work on `batch`, which is sealed (ANN-B).
    pub fn is_announced<X>(&self, batch: &AtomicBatch<X>) -> bool {
        batch.acquire();
        self.announcing(address(batch)).next().is_some()
    }

    /// Asks those who are at work on `batch`, which is sealed, to tell when they are not any more: [`Slot::withdraw`] says so to them. Who they are, a bit for each: 0 for nobody (ANN-C).
    pub fn ask<X>(&self, batch: &AtomicBatch<X>) -> u64 {
        batch.acquire();
        let mut found = 0;
        for (at, slot) in self.announcing(address(batch)) {
            // Relaxed: the barrier below puts it before our second look; what is found by who reads it early, see `withdraw`.
            slot.asked.store(true, Relaxed);
            found |= 1 << at;
        }
        if found == 0 {
            return 0;
        }
        // Pairs with the light one in `withdraw` (ANN-C).
        self.barrier.heavy();
        self.asked(batch, found)
    }

    /// Which of those who were `asked` of `batch` have not withdrawn since (ANN-E).
    pub fn asked<X>(&self, batch: &AtomicBatch<X>, asked: u64) -> u64 {
        let still = |(at, slot): (usize, &Slot)| {
            // Acquire pairs with the Release in `withdraw`: if it was answered, we have what was copied.
            if asked & 1 << at != 0 && slot.asked.load(Acquire) { 1 << at } else { 0 }
        };
        self.announcing(address(batch)).map(still).sum()
    }

    /// What is announced now, of what had left the tail before (ANN-D).
    pub fn now(&self) -> Announced {
        // Pairs with the light one in `announce`.
        self.barrier.heavy();
        // Acquire: who frees a batch that is not here any more comes after all that was done with it.
        Announced(self.used().iter().map(|slot| slot.batch.load(Acquire)).filter(|at| *at != NONE).collect())
    }
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::TopicPartition;
    use crate::pool::{AtomicPool, BufferPool};
    use crate::primitive::clock::{Instant, ManualClock};

    fn batch() -> AtomicBatch<()> {
        let pool = AtomicPool::new(1 << 10, 1 << 10, ManualClock::at(0));
        let lease = pool.allocate(100, Duration::ZERO).expect("there is enough").erase();
        AtomicBatch::new(TopicPartition::new("t", 0), lease, Instant::ZERO, |_| ())
    }

    #[test]
    fn a_number_is_one_threads_while_that_lives_and_then_anothers() {
        let own = thread::slot().expect("it does not end");
        assert_eq!(thread::slot(), Some(own));
        // More than there are slots, one after the other: each has a number that is free.
        let numbers: Vec<_> = (0..4 * SLOTS)
            .map(|_| std::thread::spawn(|| thread::slot().expect("it does not end")).join().expect("it does not panic"))
            .collect();
        assert!(numbers.iter().all(|number| *number != own), "it is ours");
        // Tests beside this one take numbers, too.
        let distinct: std::collections::BTreeSet<_> = numbers.iter().collect();
        assert!(distinct.len() < numbers.len() / 2, "they are given again: {distinct:?}");
    }

    #[test]
    fn who_has_announced_a_batch_has_no_slot_for_another() {
        // However many tests run beside this one.
        let (announcements, batch) = (Announcements::with(1 << 12), batch());
        let slot = announcements.own().expect("there are enough");
        slot.announce(address(&batch));
        assert!(announcements.own().is_none(), "he goes the counted way");
        assert!(announcements.now().contains(&batch));
        assert!(!slot.withdraw(), "nobody has asked");
        assert!(announcements.own().is_some());
        assert!(!announcements.now().contains(&batch));
    }

    #[test]
    fn who_was_asked_is_told_of_once_and_waited_for_until_then() {
        let (announcements, batch) = (Announcements::default(), batch());
        // Whatever number this thread has.
        announcements.make_known(0);
        let slot = &announcements.slots[0];
        assert_eq!(announcements.ask(&batch), 0, "nobody is at work on it");
        slot.announce(address(&batch));
        let asked = announcements.ask(&batch);
        assert_eq!(asked.count_ones(), 1);
        assert_eq!(announcements.asked(&batch, asked), asked);
        assert!(slot.withdraw(), "he tells");
        assert_eq!(announcements.asked(&batch, asked), 0);
        // The same batch once more: he was not asked of that, and has no place.
        slot.announce(address(&batch));
        assert_eq!(announcements.asked(&batch, asked), 0);
        assert!(!slot.withdraw(), "he has told");
    }
}
