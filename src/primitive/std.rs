//! The plain half of the switch: `std`, with loom's shape of a cell.

pub use std::sync::Arc;
pub use std::thread_local;

/// Atomics and fences.
pub mod atomic {
    pub use std::sync::atomic::{
        AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

/// Cells whose every access is checked under loom.
pub mod cell {
    /// `std::cell::UnsafeCell` with loom's interface, so that one source serves both.
    #[derive(Debug)]
    #[repr(transparent)]
    pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        /// A cell holding `value`.
        pub const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        /// Calls `f` with a pointer for reading. Dereferencing it is the caller's obligation: no write may overlap.
        #[inline(always)]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        /// Calls `f` with a pointer for writing. Dereferencing it is the caller's obligation: no other access may overlap.
        #[inline(always)]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }

        /// The value, given up by its only owner.
        pub fn into_inner(self) -> T {
            self.0.into_inner()
        }
    }
}

/// Spin hints.
pub mod hint {
    pub use std::hint::spin_loop;
}

/// Threads, as far as the core and its models need them.
pub mod thread {
    pub use std::thread::{Builder, JoinHandle, panicking, sleep, spawn, yield_now};
}

/// The lock behind [`super::lock::StdLock`].
pub(super) type RawMutex<T> = std::sync::Mutex<T>;
pub(super) type RawGuard<'a, T> = std::sync::MutexGuard<'a, T>;
