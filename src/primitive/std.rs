//! The plain half of the switch: `std`.

pub use std::sync::Arc;
pub use std::thread_local;

/// Atomics and fences, counted.
#[cfg(unlatched_count)]
#[path = "counted.rs"]
pub mod atomic;

/// Atomics and fences.
///
/// The types are new ones around std's, so that clippy's `disallowed-types` can tell an atomic that came through the switch from one that did
/// not.
#[cfg(not(unlatched_count))]
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
#[path = "cell.rs"]
pub mod cell;

/// Spin hints.
pub mod hint {
    #[cfg(not(feature = "testing"))]
    pub use std::hint::spin_loop;

    /// A spin hint; inside a simulation, a scheduling point.
    #[cfg(feature = "testing")]
    #[inline]
    pub fn spin_loop() {
        if !crate::primitive::sim::pass("spin") {
            std::hint::spin_loop();
        }
    }
}

/// Threads, as far as the core and its models need them.
pub mod thread {
    #[cfg(not(feature = "testing"))]
    pub use std::thread::yield_now;
    pub use std::thread::{Builder, JoinHandle, panicking, sleep, spawn};

    /// The calling thread's number: threads are numbered in the order in which they first ask. A task of a simulation has a number of its own.
    #[inline]
    pub fn ordinal() -> usize {
        #[cfg(feature = "testing")]
        if let Some(task) = crate::primitive::sim::task() {
            return task;
        }
        use std::cell::Cell;
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

        const NONE: usize = usize::MAX;
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        std::thread_local! {
            static OWN: Cell<usize> = const { Cell::new(NONE) };
        }
        let own = OWN.get();
        if own != NONE {
            return own;
        }
        // Relaxed: numbers need only differ.
        OWN.set(NEXT.fetch_add(1, Relaxed));
        OWN.get()
    }

    /// A number that the calling thread has alone while it lives, as low as it can be: those of threads that have ended are given again, and what their threads did with them comes before. A task of a simulation has its own, and must share nothing with
    /// threads beside it: plain data rests on it (BATCH-G). `None`: the thread is at its end.
    #[inline(always)]
    pub fn slot() -> Option<usize> {
        #[cfg(feature = "testing")]
        if let Some(task) = crate::primitive::sim::task() {
            return Some(task);
        }
        slots::own()
    }

    mod slots {
        use std::cell::Cell;
        use std::cmp::Reverse;
        use std::collections::BinaryHeap;
        use std::sync::{Mutex, PoisonError};

        const NONE: usize = usize::MAX;
        const ENDED: usize = usize::MAX - 1;

        /// Numbers that were given back, and the lowest that was never given.
        static FREE: Mutex<(BinaryHeap<Reverse<usize>>, usize)> = Mutex::new((BinaryHeap::new(), 0));

        std::thread_local! {
            static OWN: Cell<usize> = const { Cell::new(NONE) };
            static GIVES_BACK: GivesBack = const { GivesBack };
        }

        struct GivesBack;

        impl Drop for GivesBack {
            fn drop(&mut self) {
                let own = OWN.replace(ENDED);
                FREE.lock().unwrap_or_else(PoisonError::into_inner).0.push(Reverse(own));
            }
        }

        #[inline(always)]
        pub(super) fn own() -> Option<usize> {
            match OWN.get() {
                NONE => take(),
                ENDED => None,
                own => Some(own),
            }
        }

        #[cold]
        #[inline(never)]
        fn take() -> Option<usize> {
            // Its destructor gives the number back; where that cannot be any more, none is taken.
            GIVES_BACK.try_with(|_| ()).ok()?;
            let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
            let own = free.0.pop().map_or_else(
                || {
                    free.1 += 1;
                    free.1 - 1
                },
                |Reverse(own)| own,
            );
            OWN.set(own);
            Some(own)
        }
    }

    /// How many threads can run at once, as far as the system tells.
    pub fn parallelism() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Gives the processor away; inside a simulation, a little of its time, since whoever yields in a loop waits for what only time may bring.
    #[cfg(feature = "testing")]
    #[inline]
    pub fn yield_now() {
        if !crate::primitive::sim::give_way() {
            std::thread::yield_now();
        }
    }
}

/// What [`super::parker::WordParker`] sleeps on.
pub(super) mod sync {
    use std::time::{Duration, Instant};

    pub(in super::super) use std::sync::{Condvar, Mutex};

    /// The end of a timed sleep.
    #[derive(Debug, Clone, Copy)]
    pub(in super::super) struct Deadline(Instant);

    impl Deadline {
        /// `timeout` from now; `None` beyond the clock's range, which is no deadline.
        pub(in super::super) fn after(timeout: Duration) -> Option<Self> {
            Instant::now().checked_add(timeout).map(Self)
        }

        /// What is left to sleep; `None` once it is over.
        pub(in super::super) fn left(self) -> Option<Duration> {
            self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        }
    }
}

/// The lock behind [`super::lock::StdLock`].
pub(super) type RawMutex<T> = std::sync::Mutex<T>;
pub(super) type RawGuard<'a, T> = std::sync::MutexGuard<'a, T>;
