//! Asking for cache lines before they are written.
//!
//! A buffer that the pool gives out was read last by whoever sent what it held, so each of its lines lies in another processor's cache, and the first store to it waits until it was handed over: 20 to 200 ns, for each 64 bytes. A few such stores lie in
//! the store buffer meanwhile; but an exchange - a lock's, or a reservation's - waits for all of them. Asked for early enough, the lines come while other records are encoded.
//!
//! A hint: it changes nothing but the time. It stays within the buffer, since the next one may be somebody else's to write. Both cores give it where they encode. On processors other than x86-64 and aarch64 it is nothing.

/// Bytes between what is written and what is asked for: a dozen records of a hundred bytes, in whose time a line comes from afar.
const AHEAD: usize = 1_024;
const LINE: usize = 64;

/// About to write `len` bytes at `at`, in a buffer of `size` bytes at `buffer`: asks for the lines as many bytes further on as are written in the meantime.
#[inline(always)]
pub(crate) fn ahead_of(buffer: *const u8, size: usize, at: usize, len: usize) {
    let from = at + AHEAD;
    ask_for(buffer, from, (from + len.min(AHEAD)).min(size));
}

/// About to begin to write at the front of a buffer of `size` bytes: asks for the lines that [`ahead_of`] does not.
#[inline]
pub(crate) fn first_of(buffer: *const u8, size: usize) {
    ask_for(buffer, 0, size.min(AHEAD));
}

#[inline(always)]
fn ask_for(buffer: *const u8, from: usize, to: usize) {
    let mut at = from;
    while at < to {
        ask_for_line(buffer.wrapping_add(at));
        at += LINE;
    }
}

#[inline(always)]
fn ask_for_line(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint, which neither reads nor writes, and does not fault.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    let _ = at;
}
