//! The pool's one word: who waits, whose turn it is, and how many bytes are available.
//!
//! `{ CLOSED 1 | GRANT 1 | GONE 1 | waiters 14 | turn 17 | available 30 }`. Everything that must be decided together stands together, so that the modification order of
//! one word decides it and no fence is needed.
//!
//! `available` counts *granules*: single bytes below 1 GiB, above that the least power of two with which the total fits into 30 bits. A charge is rounded up to whole
//! granules.

use std::fmt;

const AVAILABLE_BITS: u32 = 30;
const TURN_BITS: u32 = 17;
const WAITERS_BITS: u32 = 14;

const TURN_ONE: u64 = 1 << AVAILABLE_BITS;
const WAITER_ONE: u64 = 1 << (AVAILABLE_BITS + TURN_BITS);
const AVAILABLE_MASK: u64 = TURN_ONE - 1;
const TURN_MASK: u64 = (1 << TURN_BITS) - 1;
const WAITERS_MASK: u64 = (1 << WAITERS_BITS) - 1;

/// The handle is gone: nobody can ask any more.
pub(super) const GONE: u64 = 1 << 61;
/// The head waiter is to have its memory; nobody else may debit.
const GRANT: u64 = 1 << 62;
/// Closed for new requests.
pub(super) const CLOSED: u64 = 1 << 63;

/// The most that can wait at once.
pub(super) const MAX_WAITERS: usize = WAITERS_MASK as usize;

/// A value of the word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    pub(super) fn new(available: u64) -> Self {
        debug_assert!(available <= AVAILABLE_MASK);
        Self(available)
    }

    pub(super) fn available(self) -> u64 {
        self.0 & AVAILABLE_MASK
    }

    pub(super) fn waiters(self) -> usize {
        (self.0 >> (AVAILABLE_BITS + TURN_BITS) & WAITERS_MASK) as usize
    }

    pub(super) fn turn(self) -> Ticket {
        Ticket((self.0 >> AVAILABLE_BITS & TURN_MASK) as u32)
    }

    pub(super) fn closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    pub(super) fn granting(self) -> bool {
        self.0 & GRANT != 0
    }

    pub(super) fn gone(self) -> bool {
        self.0 & GONE != 0
    }

    pub(super) fn debit(self, granules: u64) -> Self {
        debug_assert!(granules <= self.available());
        Self(self.0 - granules)
    }

    pub(super) fn one_more_waiter(self) -> Self {
        debug_assert!(self.waiters() < MAX_WAITERS);
        Self(self.0 + WAITER_ONE)
    }

    pub(super) fn grant(self) -> Self {
        Self(self.0 | GRANT)
    }

    /// The turn of the head waiter is over.
    pub(super) fn next_turn(self) -> Self {
        debug_assert!(self.waiters() > 0);
        let turn = TURN_MASK << AVAILABLE_BITS;
        let next = self.0.wrapping_add(TURN_ONE) & turn;
        Self((self.0 & !(turn | GRANT) | next) - WAITER_ONE)
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Word")
            .field("available", &self.available())
            .field("turn", &self.turn())
            .field("waiters", &self.waiters())
            .field("granting", &self.granting())
            .field("closed", &self.closed())
            .field("gone", &self.gone())
            .finish()
    }
}

/// A waiter's number in the line. Wraps round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(pub(super) u32);

impl Ticket {
    pub(super) fn next(self) -> Self {
        Self((self.0 + 1) & TURN_MASK as u32)
    }

    /// The one whose next is `ticket`.
    pub(super) fn before(ticket: Self) -> Self {
        Self(ticket.0.wrapping_sub(1) & TURN_MASK as u32)
    }
}

/// How bytes become granules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granularity {
    shift: u32,
}

impl Granularity {
    /// The finest with which `total` bytes fit.
    pub(super) fn of(total: u64) -> Self {
        let mut shift = 0;
        while total >> shift > AVAILABLE_MASK {
            shift += 1;
        }
        Self { shift }
    }

    /// Whole granules in a total of `bytes`. At least one: of a pool of no bytes somebody may have an empty lease.
    pub(super) fn within(self, bytes: u64) -> u64 {
        (bytes >> self.shift).max(1)
    }

    /// Granules that `bytes` take: for what is charged. At least one, so that a lease always shows.
    pub(super) fn around(self, bytes: u64) -> u64 {
        (bytes >> self.shift).saturating_add(u64::from(bytes & ((1 << self.shift) - 1) != 0)).max(1)
    }

    pub(super) fn bytes(self, granules: u64) -> u64 {
        granules << self.shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        let mut word = Word::new(AVAILABLE_MASK);
        for turn in 0..=TURN_MASK {
            assert_eq!(word.turn(), Ticket(turn as u32));
            word = word.one_more_waiter().one_more_waiter().grant();
            assert_eq!((word.waiters(), word.granting(), word.available()), (2, true, AVAILABLE_MASK));
            let next = Ticket(turn as u32).next();
            word = word.next_turn();
            assert_eq!((word.turn(), word.waiters(), word.granting()), (next, 1, false));
            word = Word(word.0 - WAITER_ONE);
        }
        assert_eq!(word.turn(), Ticket(0), "and round");
        for flag in [GONE, GRANT, CLOSED] {
            assert_eq!(Word(flag).waiters() + Word(flag).available() as usize, 0);
        }
    }

    #[test]
    fn granules_hold_every_total() {
        for total in [0, 1, AVAILABLE_MASK, AVAILABLE_MASK + 1, 1 << 40, u64::MAX] {
            let granularity = Granularity::of(total);
            assert!(granularity.within(total) <= AVAILABLE_MASK);
            assert!(granularity.bytes(granularity.within(total)) <= total.max(1));
        }
        let fine = Granularity::of(1 << 20);
        assert_eq!((fine.around(0), fine.around(1), fine.around(100)), (1, 1, 100));
        let coarse = Granularity::of(4 << 30);
        assert_eq!((coarse.around(1), coarse.around(8), coarse.around(9)), (1, 1, 2));
    }
}
