//! How much a piece of code allocates at most, libraries in C included: this file's `malloc` and its kin stand in front of the C library's and count. Rust's allocator is the
//! system's, so it counts too. Where the C library is not glibc nothing is counted, and every peak is 0.
//!
//! All of a process is counted: measure on one thread, while the others rest.

use unlatched::primitive::atomic::AtomicUsize;
use unlatched::primitive::atomic::Ordering::Relaxed;

// Relaxed: plain sums, read by whoever measures, alone.
/// Bytes allocated now, as the C library rounds them.
static NOW: AtomicUsize = AtomicUsize::new(0);
/// The most since it was set back.
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Whether anything is counted here.
pub(crate) const COUNTS: bool = cfg!(all(target_os = "linux", target_env = "gnu"));

/// What `body` gives, and the most bytes that were allocated beyond those before.
pub(crate) fn peak<T>(body: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let out = body();
    (out, PEAK.load(Relaxed).saturating_sub(before))
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod counting {
    use std::ffi::{c_int, c_void};

    use super::{NOW, PEAK, Relaxed};

    unsafe extern "C" {
        fn __libc_malloc(size: usize) -> *mut c_void;
        fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
        fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
        fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
        fn __libc_free(old: *mut c_void);
        fn malloc_usable_size(block: *mut c_void) -> usize;
    }

    fn add(block: *mut c_void) -> *mut c_void {
        if !block.is_null() {
            // SAFETY: the C library has just given the block out.
            let size = unsafe { malloc_usable_size(block) };
            PEAK.fetch_max(NOW.fetch_add(size, Relaxed) + size, Relaxed);
        }
        block
    }

    fn sub(block: *mut c_void) {
        if !block.is_null() {
            // SAFETY: the caller gives back a block that is still its own.
            let size = unsafe { malloc_usable_size(block) };
            NOW.fetch_sub(size, Relaxed);
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn malloc(size: usize) -> *mut c_void {
        // SAFETY: any size may be asked for.
        add(unsafe { __libc_malloc(size) })
    }

    #[unsafe(no_mangle)]
    extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
        // SAFETY: any size may be asked for.
        add(unsafe { __libc_calloc(count, size) })
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
        sub(old);
        // SAFETY: the caller's promise on `old` is passed on.
        let new = unsafe { __libc_realloc(old, size) };
        if new.is_null() && size > 0 {
            add(old);
        }
        add(new)
    }

    #[unsafe(no_mangle)]
    extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
        // SAFETY: any size may be asked for; a bad alignment is an error, not a fault.
        add(unsafe { __libc_memalign(align, size) })
    }

    #[unsafe(no_mangle)]
    extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
        memalign(align, size)
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
        let block = memalign(align, size);
        if block.is_null() {
            return 12; // ENOMEM
        }
        // SAFETY: the caller gives a place for one pointer.
        unsafe { out.write(block) };
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn free(old: *mut c_void) {
        sub(old);
        // SAFETY: the caller's promise on `old` is passed on.
        unsafe { __libc_free(old) }
    }
}
