//! Asking for cache lines before they are written.
//!
//! A buffer that the pool gives out was read last by whoever sent what it held, so each of its lines lies in another processor's cache, and the first store to it waits until it was handed over: 20 to 200 ns, for each 64 bytes. A few such stores lie in
//! the store buffer meanwhile; but an exchange - a lock's, or a reservation's - waits for all of them. Asked for early enough, the lines come while other records are encoded.
//!
//! A hint: it changes nothing but the time, and may name addresses that are nobody's. Both cores give it where they encode. On processors other than x86-64 and aarch64 it is nothing.

/// Bytes between what is written and what is asked for: a dozen records of a hundred bytes, in whose time a line comes from afar.
const AHEAD: usize = 1_024;
const LINE: usize = 64;

/// About to write `len` bytes at `at`: asks for the lines as many bytes further on as are written in the meantime.
#[inline(always)]
pub(crate) fn ahead_of(at: *const u8, len: usize) {
    ask_for(at.wrapping_add(AHEAD), len);
}

/// About to begin to write at `at`: asks for the lines that [`ahead_of`] does not.
#[inline]
pub(crate) fn first_of(at: *const u8) {
    ask_for(at, AHEAD);
}

#[inline(always)]
fn ask_for(at: *const u8, len: usize) {
    for line in (0..len).step_by(LINE) {
        ask_for_line(at.wrapping_add(line));
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
