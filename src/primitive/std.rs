//! The plain half of the switch: `std`, with loom's shape of a cell.

pub use std::sync::Arc;
pub use std::thread_local;

/// Atomics and fences.
///
/// The types are new ones around std's, so that clippy's `disallowed-types` can tell an atomic that came through the switch from one that did
/// not.
pub mod atomic {
    pub use std::sync::atomic::Ordering;

    macro_rules! switched {
        ($($name:ident $(<$parameter:ident>)? of $value:ty;)*) => {$(
            /// std's atomic of this name.
            #[derive(Debug)]
            #[repr(transparent)]
            pub struct $name $(<$parameter>)? (std::sync::atomic::$name $(<$parameter>)?);

            impl $(<$parameter>)? $name $(<$parameter>)? {
                /// An atomic holding `value`.
                pub const fn new(value: $value) -> Self {
                    Self(std::sync::atomic::$name::new(value))
                }
            }

            impl $(<$parameter>)? std::ops::Deref for $name $(<$parameter>)? {
                type Target = std::sync::atomic::$name $(<$parameter>)?;

                #[inline(always)]
                fn deref(&self) -> &Self::Target {
                    &self.0
                }
            }
        )*};
    }

    switched! {
        AtomicBool of bool;
        AtomicI64 of i64;
        AtomicPtr<T> of *mut T;
        AtomicU8 of u8;
        AtomicU32 of u32;
        AtomicU64 of u64;
        AtomicUsize of usize;
    }

    /// A fence; see [`std::sync::atomic::fence`].
    #[inline(always)]
    pub fn fence(order: Ordering) {
        std::sync::atomic::fence(order);
    }
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
