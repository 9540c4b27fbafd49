//! Bytes that many write at once, each a part of its own, made visible to a checker.
//!
//! A batch's memory is filled through a raw pointer, which no checker sees. A [`Witness`] stands beside it: whoever writes the part numbered `n` says so, and whoever reads
//! the whole says so. Under loom each part is a cell, so that a read that is not ordered behind a write is found; in a plain build it is nothing.

#[cfg(crossbeam_loom)]
use super::cell::UnsafeCell;

/// Parts that a model can use.
#[cfg(crossbeam_loom)]
const PARTS: usize = 4;

/// The stand-in for the bytes.
#[derive(Debug, Default)]
pub struct Witness {
    #[cfg(crossbeam_loom)]
    parts: [UnsafeCell<()>; PARTS],
}

// SAFETY: the cells hold nothing; loom checks each access.
#[cfg(crossbeam_loom)]
unsafe impl Sync for Witness {}

impl Witness {
    /// The part numbered `part` is being written.
    #[inline(always)]
    pub fn write(&self, part: u32) {
        #[cfg(crossbeam_loom)]
        self.parts[part as usize].with_mut(|_| ());
        let _ = part;
    }

    /// The first `parts` are being read.
    #[inline(always)]
    pub fn read(&self, parts: u32) {
        #[cfg(crossbeam_loom)]
        self.parts[..parts as usize].iter().for_each(|part| part.with(|_| ()));
        let _ = parts;
    }
}
