//! The pool's one word: who waits, whose turn it is, and how many bytes are available.
//!
//! `{ seq 20 | CLOSED 1 | GONE 1 | GRANT 1 | CALLED 1 | WAITING 1 | available 39 }`. Everything that must be decided together stands together, so that the
//! modification order of one word decides it and no fence is needed.
//!
//! - `available` counts *granules*: single bytes below 512 GiB, above that the least power of two with which the total fits into 39 bits. A charge is rounded up to whole
//!   granules.
//! - `seq` changes whenever somebody joins the line, one who stands there looks or gives up, a turn ends, or the line is found empty. So whoever exchanges the word knows that none of it happened since he read it,
//!   unless just 2^20 of such, or a multiple, did, and every other field is as it was too.

use std::fmt;

const AVAILABLE_BITS: u32 = 39;
const SEQ_BITS: u32 = 20;

const AVAILABLE_MASK: u64 = (1 << AVAILABLE_BITS) - 1;
/// What is added for the next `seq`. The topmost field: it wraps by itself.
pub(super) const SEQ_ONE: u64 = 1 << (u64::BITS - SEQ_BITS);

/// Somebody may stand in line: all bytes but those in hand are here, and the stripes are shut.
const WAITING: u64 = 1 << AVAILABLE_BITS;
/// Whoever could be served was woken, as the note beside the word says, if it is of this `seq`: see [`Word::all_called`].
const CALLED: u64 = WAITING << 1;
/// The first in line is to have its memory; nobody else may debit.
const GRANT: u64 = CALLED << 1;
/// The handle is gone: nobody can ask any more.
pub(super) const GONE: u64 = GRANT << 1;
/// Closed for new requests.
pub(super) const CLOSED: u64 = GONE << 1;

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

    pub(super) fn waiting(self) -> bool {
        self.0 & WAITING != 0
    }

    pub(super) fn closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    pub(super) fn granting(self) -> bool {
        self.0 & GRANT != 0
    }

    /// See `CALLED`.
    pub(super) fn called(self) -> bool {
        self.0 & CALLED != 0
    }

    pub(super) fn gone(self) -> bool {
        self.0 & GONE != 0
    }

    /// Whether a released buffer may stay with a stripe.
    pub(super) fn quiet(self) -> bool {
        self.0 & (WAITING | GONE | CLOSED) == 0
    }

    fn debit(self, granules: u64) -> Self {
        debug_assert!(granules <= self.available());
        Self(self.0 - granules)
    }

    fn next(self) -> Self {
        Self(self.0.wrapping_add(SEQ_ONE))
    }

    /// What one who comes makes of it by taking `granules`: one who may, past others or because nobody waits. `None` if there is too little, or it is granted to another.
    pub(super) fn taken(self, granules: u64) -> Option<Self> {
        (self.available() >= granules && !self.granting()).then(|| self.debit(granules))
    }

    /// Somebody has joined the line.
    pub(super) fn joined(self) -> Self {
        Self(self.0 | WAITING).next()
    }

    /// One who stands in line looks.
    pub(super) fn looked(self) -> Self {
        Self(self.0 & !CALLED).next()
    }

    /// Who can be served was woken.
    pub(super) fn call(self) -> Self {
        Self(self.0 | CALLED)
    }

    /// Whether everybody whom this word's bytes could serve was woken, and has yet to look. The note is a word for which that was done after it had been read: what was true of it is so of each word with
    /// its `seq` and no more bytes, whoever noted it, and however late.
    pub(super) fn all_called(self, noted: Self) -> bool {
        self.called() && self.0 / SEQ_ONE == noted.0 / SEQ_ONE && self.available() <= noted.available()
    }

    pub(super) fn grant(self) -> Self {
        Self(self.0 | GRANT)
    }

    /// The turn of the first in line is over: it has its memory.
    pub(super) fn served(self, granules: u64) -> Self {
        debug_assert!(self.granting());
        Self(self.debit(granules).0 & !(GRANT | CALLED)).next()
    }

    /// The turn of the first in line is over: it did not want its memory any more.
    pub(super) fn skipped(self) -> Self {
        Self(self.0 & !(GRANT | CALLED)).next()
    }

    /// Nobody stands in line.
    pub(super) fn rested(self) -> Self {
        debug_assert!(!self.granting());
        Self(self.0 & !(WAITING | CALLED)).next()
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Word")
            .field("available", &self.available())
            .field("waiting", &self.waiting())
            .field("called", &self.called())
            .field("granting", &self.granting())
            .field("seq", &(self.0 / SEQ_ONE))
            .field("closed", &self.closed())
            .field("gone", &self.gone())
            .finish()
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
        let mut word = Word::new(AVAILABLE_MASK).joined();
        for seq in 1..=1u64 << SEQ_BITS {
            assert_eq!(word.0 / SEQ_ONE, seq % (1 << SEQ_BITS), "and round");
            assert_eq!((word.available(), word.waiting()), (AVAILABLE_MASK, true));
            word = if seq % 2 == 0 { word.grant().served(0) } else { word.grant().skipped() };
            assert!(!word.granting());
        }
        for flag in [GONE, GRANT, CALLED, CLOSED, WAITING] {
            assert_eq!((Word(flag).available(), Word(flag).0 / SEQ_ONE), (0, 0));
        }
        assert_eq!(AVAILABLE_MASK | WAITING | CALLED | GRANT | GONE | CLOSED, SEQ_ONE - 1, "and nothing is left over");
    }

    #[test]
    fn what_is_granted_is_nobody_elses() {
        let word = Word::new(10).joined();
        assert_eq!(word.taken(10).map(Word::available), Some(0));
        assert_eq!((word.taken(11), word.grant().taken(1)), (None, None));
        assert_eq!(word.grant().served(4).taken(6).map(Word::available), Some(0));
        assert!(!word.grant().skipped().rested().waiting());
    }

    #[test]
    fn a_note_is_of_one_seq() {
        let noted = Word::new(5).joined();
        let (more, fewer) = (Word(noted.0 + 1), noted.taken(2).expect("there is enough"));
        assert!(!noted.all_called(noted), "it does not say so");
        assert_eq!([noted, fewer, more].map(|word| word.call().all_called(noted)), [true, true, false]);
        assert!(noted.grant().call().all_called(noted), "of the same line");
        for other in [fewer.joined(), fewer.looked(), fewer.grant().served(0), fewer.skipped(), Word(fewer.0 + SEQ_ONE)]
        {
            assert!(!other.call().all_called(noted), "{other:?}");
        }
    }

    #[test]
    fn granules_hold_every_total() {
        for total in [0, 1, AVAILABLE_MASK, AVAILABLE_MASK + 1, 1 << 50, u64::MAX] {
            let granularity = Granularity::of(total);
            assert!(granularity.within(total) <= AVAILABLE_MASK);
            assert!(granularity.bytes(granularity.within(total)) <= total.max(1));
        }
        let fine = Granularity::of(AVAILABLE_MASK);
        assert_eq!((fine.around(0), fine.around(1), fine.around(100)), (1, 1, 100), "to the byte");
        let coarse = Granularity::of(4 << AVAILABLE_BITS);
        assert_eq!((coarse.around(1), coarse.around(8), coarse.around(9)), (1, 1, 2));
    }
}
