//! The word of an open batch: how far it is filled, by how many records, how many of them are still being copied, and whether it takes more.
//!
//! ```text
//! 63       52..62    32..51   0..31
//! SEALED | writers | count  | length
//! ```
//!
//! Plain arithmetic; who may do what when is in [`super::atomic`].

/// The batch takes no more records. Never cleared.
pub(super) const SEALED: u64 = 1 << 63;
/// One record that is being copied, of those that are counted.
pub(super) const WRITER: u64 = 1 << 52;

const WRITERS: u64 = (1 << 11) - 1;
const COUNT_SHIFT: u32 = 32;
const COUNT: u64 = (1 << 20) - 1;

/// Records that a batch can have.
pub(super) const MAX_COUNT: u32 = COUNT as u32;
/// Records that can be in the copying at once.
pub(super) const MAX_WRITERS: u32 = WRITERS as u32;

/// A value of the word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    /// A batch of `count` records in `length` bytes that nobody copies into.
    pub(super) const fn new(count: u32, length: usize) -> Self {
        debug_assert!(length <= u32::MAX as usize && count <= MAX_COUNT);
        Self((count as u64) << COUNT_SHIFT | length as u64)
    }

    pub(super) const fn sealed(self) -> bool {
        self.0 & SEALED != 0
    }

    pub(super) const fn writers(self) -> u32 {
        ((self.0 / WRITER) & WRITERS) as u32
    }

    pub(super) const fn count(self) -> u32 {
        ((self.0 >> COUNT_SHIFT) & COUNT) as u32
    }

    /// Bytes taken, the header's room included.
    pub(super) const fn length(self) -> usize {
        self.0 as u32 as usize
    }

    /// With one record more, of `size` bytes.
    pub(super) const fn with(self, size: usize) -> Self {
        Self(self.0 + (1 << COUNT_SHIFT) + size as u64)
    }

    /// With one more who copies and is counted.
    pub(super) const fn copied_by_one_more(self) -> Self {
        Self(self.0 + WRITER)
    }

    pub(super) const fn seal(self) -> Self {
        Self(self.0 | SEALED)
    }

    /// How far it is filled, and nothing else.
    pub(super) const fn without_writers(self) -> Self {
        Self(self.0 & (WRITER - 1))
    }
}

impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Word")
            .field("sealed", &self.sealed())
            .field("writers", &self.writers())
            .field("count", &self.count())
            .field("length", &self.length())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other_at_their_limits() {
        let word = Word::new(MAX_COUNT - 1, i32::MAX as usize - 7).with(7).copied_by_one_more();
        assert_eq!(
            (word.sealed(), word.writers(), word.count(), word.length()),
            (false, 1, MAX_COUNT, i32::MAX as usize)
        );
        let busy = Word(word.0 + WRITER * u64::from(MAX_WRITERS - 1)).seal();
        assert_eq!((busy.sealed(), busy.writers(), busy.count()), (true, MAX_WRITERS, MAX_COUNT));
        assert_eq!(Word(busy.0 - WRITER * u64::from(MAX_WRITERS)), Word::new(MAX_COUNT, i32::MAX as usize).seal());
    }
}
