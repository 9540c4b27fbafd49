//! The lease: memory that is owned by one value and goes back by itself.
//!
//! Law L2 by type: a lease cannot be cloned, and dropping it is the one way in which its bytes return. It moves with the
//! batch into the request, so the memory is back only after the transport has let go of it (GAP-15), and it cannot be returned twice or to
//! the wrong pool (GAP-08).
//!
//! A lease clones nothing pool-wide: no reference count of the pool is touched when it is made or dropped. The pool
//! counts its leases where it keeps its books anyway, and says at each release whether that was the last.
//!
//! # Invariants
//! - **LEASE-1** A `Buffer` is the only owner of its `capacity` bytes at `ptr`; all of them are initialised. It was
//!   allocated by [`Buffer::zeroed`] and is freed by [`Buffer::free`], once.
//! - **LEASE-2** The pool behind `Lease::pool` lives at least until the lease's bytes are booked as given back. Its owner keeps this
//!   by freeing a pool only when its handle is gone *and* no lease is out, both decided in one place of its own. From there on another may free it:
//!   so a buffer goes back by a [`WayBack`], which has the pool's address and no reference.
//! - **LEASE-3** A [`WayBack`] answers [`Released::Last`] to exactly one caller, after which nobody else reaches the pool; that caller frees
//!   it. `Lease::pool` came from `Box::into_raw`; if `Last` is never answered, it may also be from `Arc::into_raw`, or a static.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment of every buffer: what the allocator gives without extra cost.
const ALIGN: usize = 16;

/// Memory in the hands of a pool: owned, initialised, not freed by itself.
#[derive(Debug)]
pub struct Buffer {
    ptr: NonNull<u8>,
    capacity: usize,
}

// SAFETY: LEASE-1, a buffer is the only owner of plain bytes.
unsafe impl Send for Buffer {}
// SAFETY: LEASE-1, and a shared buffer gives out nothing but its address and size.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `capacity` zero bytes, or `None` if the machine has none left.
    pub fn zeroed(capacity: usize) -> Option<Self> {
        let layout = Layout::from_size_align(capacity, ALIGN).ok()?;
        let ptr = if capacity == 0 {
            NonNull::dangling()
        } else {
            // SAFETY: LEASE-1; the layout's size is not zero.
            NonNull::new(unsafe { alloc_zeroed(layout) })?
        };
        Some(Self { ptr, capacity })
    }

    /// The buffer of a pool's own table.
    ///
    /// # Safety
    /// LEASE-1: `memory` is that of a buffer of `capacity` bytes made by [`Buffer::zeroed`], and nobody else's.
    pub(super) unsafe fn of_slot(memory: NonNull<u8>, capacity: usize) -> Self {
        Self { ptr: memory, capacity }
    }

    pub(super) fn memory(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Bytes in it.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Gives the memory back to the machine.
    pub fn free(self) {
        if self.capacity != 0 {
            // SAFETY: LEASE-1: allocated by `zeroed` with this very layout, which was valid there, and owned by `self`.
            unsafe { dealloc(self.ptr.as_ptr(), Layout::from_size_align_unchecked(self.capacity, ALIGN)) }
        }
    }
}

/// What a pool says when a buffer has come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The pool lives on.
    More,
    /// The handle is gone and this was the last lease: the caller frees the pool.
    Last,
}

/// Who takes buffers back.
///
/// # Safety
/// An implementation keeps LEASE-2 and LEASE-3 of this module for every lease made with [`Lease::new`].
pub unsafe trait Release: Send + Sync {
    /// How a pool of this kind takes buffers back.
    fn way_back(&self) -> WayBack;
}

/// Takes back, for the pool at the address, a buffer: what was charged for it is its capacity (POOL-14, POOL-15).
///
/// A function and not a method: the pool may be freed by another while this runs, as soon as it has booked the bytes, which a reference that lives as long as the
/// call must not see; and it may be freed in here, which a pointer made of a shared reference must not do.
///
/// # Safety
/// The address is that of a live lease's pool, as the lease was made with, and of the kind that has given this function; buffer and note are that lease's, which is used up by this.
pub type WayBack = unsafe fn(NonNull<()>, Buffer, usize) -> Released;

/// No pool: what is outside of every pool.
struct Outside;

// SAFETY: LEASE-2: it is a static. LEASE-3: it never answers `Last`.
unsafe impl Release for Outside {
    fn way_back(&self) -> WayBack {
        /// # Safety
        /// As [`WayBack`].
        unsafe fn free(_: NonNull<()>, buffer: Buffer, _: usize) -> Released {
            buffer.free();
            Released::More
        }
        free
    }
}

static OUTSIDE: Outside = Outside;

/// An owned buffer of a pool, given back by drop.
///
/// `Lease<P>` knows its pool's type; [`Lease::erase`] forgets it, at no cost, so that batches and requests need no type
/// parameter. It is what `bytes::Bytes::from_owner` wants:
///
/// ```
/// use std::time::Duration;
/// use unlatched::mutex::StdPool;
/// use unlatched::pool::BufferPool;
/// use unlatched::primitive::clock::SystemClock;
///
/// let pool = StdPool::new(1 << 20, 1 << 14, SystemClock::shared());
/// let lease = pool.allocate(1 << 14, Duration::ZERO)?;
/// let bytes = bytes::Bytes::from_owner(lease);
/// assert_eq!(pool.available(), (1 << 20) - (1 << 14));
/// drop(bytes);
/// assert_eq!(pool.available(), 1 << 20);
/// # Ok::<(), unlatched::pool::PoolError>(())
/// ```
pub struct Lease<P: Release + ?Sized + 'static = dyn Release> {
    buffer: ManuallyDrop<Buffer>,
    /// The pool's own note about the buffer.
    note: usize,
    pool: NonNull<P>,
}

// SAFETY: LEASE-1 for the bytes; the pool is `Sync` (supertrait of `Release`) and lives by LEASE-2.
unsafe impl<P: Release + ?Sized> Send for Lease<P> {}
// SAFETY: a shared lease gives out shared bytes only.
unsafe impl<P: Release + ?Sized> Sync for Lease<P> {}

impl<P: Release + 'static> Lease<P> {
    /// A lease on `buffer`, whose capacity is what `pool`'s budget was charged with. `note` comes back with it.
    ///
    /// # Safety
    /// `pool` came from `Box::into_raw` (LEASE-3), has counted this lease, and keeps LEASE-2 and LEASE-3 for it.
    #[inline]
    pub unsafe fn new(buffer: Buffer, note: usize, pool: NonNull<P>) -> Self {
        Self { buffer: ManuallyDrop::new(buffer), note, pool }
    }

    /// The same lease, its pool's type forgotten.
    #[inline]
    pub fn erase(self) -> Lease {
        let this = ManuallyDrop::new(self);
        let Buffer { ptr, capacity } = *this.buffer;
        let pool: NonNull<dyn Release> = this.pool;
        Lease { buffer: ManuallyDrop::new(Buffer { ptr, capacity }), note: this.note, pool }
    }
}

impl Lease {
    /// No bytes, of no pool, charged to nobody: for a batch whose memory is outside of the pool (ACC-37).
    pub fn outside() -> Self {
        let none = Buffer { ptr: NonNull::dangling(), capacity: 0 };
        // SAFETY: LEASE-1: no bytes. LEASE-2 and LEASE-3: see `Outside`.
        unsafe { Lease::new(none, 0, NonNull::from(&OUTSIDE)) }.erase()
    }
}

impl<P: Release + ?Sized> Lease<P> {
    /// Bytes of the budget that this lease is charged with.
    pub fn charged(&self) -> usize {
        self.buffer.capacity
    }

    /// Where the bytes lie.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.buffer.ptr
    }
}

impl<P: Release + ?Sized> Deref for Lease<P> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: LEASE-1: ours, initialised, `capacity` bytes; shared for as long as `self` is.
        unsafe { std::slice::from_raw_parts(self.buffer.ptr.as_ptr(), self.buffer.capacity) }
    }
}

impl<P: Release + ?Sized> DerefMut for Lease<P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: LEASE-1: ours, initialised, `capacity` bytes; exclusive for as long as `self` is.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.ptr.as_ptr(), self.buffer.capacity) }
    }
}

impl<P: Release + ?Sized> AsRef<[u8]> for Lease<P> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<P: Release + ?Sized> AsMut<[u8]> for Lease<P> {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl<P: Release + ?Sized> fmt::Debug for Lease<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("capacity", &self.buffer.capacity).finish_non_exhaustive()
    }
}

impl<P: Release + ?Sized> Drop for Lease<P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the field is not touched again: this is its drop.
        let buffer = unsafe { ManuallyDrop::take(&mut self.buffer) };
        // SAFETY: LEASE-2: our bytes are not back. The reference ends with this line.
        let take_back = unsafe { self.pool.as_ref() }.way_back();
        // SAFETY: as `WayBack` asks: this lease's, once, since this is its drop.
        let released = unsafe { take_back(self.pool.cast(), buffer, self.note) };
        if released == Released::Last {
            // SAFETY: LEASE-3: told to exactly one caller, from `Box::into_raw`, nobody else reaches it.
            drop(unsafe { Box::from_raw(self.pool.as_ptr()) });
        }
    }
}
