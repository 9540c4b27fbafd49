//! std's atomics, counting how often they are exchanged, and how often by another thread than the time before (builds with `--cfg unlatched_count` only).
//!
//! An exchange of a word that another thread exchanged or stored last has to fetch its line from wherever that thread ran: that is what contention costs. What is counted is per word: two words on one line, and what
//! crossbeam-epoch and locks do within themselves, are not seen. `cargo contended` prints the pool's table.

pub use std::sync::atomic::Ordering;

use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;

use super::thread::ordinal;

/// Exchanges of the calling thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exchanges {
    /// All, those included that failed.
    pub all: u64,
    /// Of words that another thread wrote last.
    pub contended: u64,
}

std::thread_local! {
    static COUNTED: Cell<Exchanges> = const { Cell::new(Exchanges { all: 0, contended: 0 }) };
}

/// What the calling thread has counted so far.
pub fn exchanges() -> Exchanges {
    COUNTED.get()
}

/// Nobody has written yet.
const NOBODY: usize = usize::MAX;

/// Who wrote a word last.
#[derive(Debug)]
struct Last(std::sync::atomic::AtomicUsize);

impl Last {
    const fn new() -> Self {
        Self(std::sync::atomic::AtomicUsize::new(NOBODY))
    }

    fn write(&self) -> bool {
        // Relaxed: a figure.
        let own = ordinal();
        let last = self.0.load(Relaxed);
        if last != own {
            // Relaxed: as above.
            self.0.store(own, Relaxed);
        }
        last != own && last != NOBODY
    }

    fn exchange(&self) {
        let Exchanges { all, contended } = COUNTED.get();
        COUNTED.set(Exchanges { all: all + 1, contended: contended + u64::from(self.write()) });
    }
}

macro_rules! counted {
    ($($name:ident $(<$parameter:ident>)? of $value:ty: $($method:ident)*;)*) => {$(
        /// std's atomic of this name, counted.
        #[derive(Debug)]
        pub struct $name $(<$parameter>)? (std::sync::atomic::$name $(<$parameter>)?, Last);

        impl $(<$parameter>)? $name $(<$parameter>)? {
            /// An atomic holding `value`.
            pub const fn new(value: $value) -> Self {
                Self(std::sync::atomic::$name::new(value), Last::new())
            }

            /// See std's.
            pub fn store(&self, value: $value, order: Ordering) {
                self.1.write();
                self.0.store(value, order);
            }

            $(
                /// See std's.
                pub fn $method(&self, value: $value, order: Ordering) -> $value {
                    self.1.exchange();
                    self.0.$method(value, order)
                }
            )*

            /// See std's.
            ///
            /// # Errors
            /// The value found.
            pub fn compare_exchange(&self, current: $value, new: $value, success: Ordering, failure: Ordering) -> Result<$value, $value> {
                self.1.exchange();
                self.0.compare_exchange(current, new, success, failure)
            }

            /// See std's.
            ///
            /// # Errors
            /// The value found.
            pub fn compare_exchange_weak(&self, current: $value, new: $value, success: Ordering, failure: Ordering) -> Result<$value, $value> {
                self.1.exchange();
                self.0.compare_exchange_weak(current, new, success, failure)
            }
        }

        impl $(<$parameter>)? std::ops::Deref for $name $(<$parameter>)? {
            type Target = std::sync::atomic::$name $(<$parameter>)?;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }
    )*};
}

counted! {
    AtomicBool of bool: swap fetch_or fetch_and;
    AtomicI64 of i64: swap fetch_add fetch_sub fetch_max;
    AtomicPtr<T> of *mut T: swap;
    AtomicU8 of u8: swap fetch_add fetch_sub fetch_or fetch_and;
    AtomicU32 of u32: swap fetch_add fetch_sub fetch_or fetch_and fetch_max;
    AtomicU64 of u64: swap fetch_add fetch_sub fetch_or fetch_and fetch_max;
    AtomicUsize of usize: swap fetch_add fetch_sub fetch_or fetch_and fetch_max;
}

/// A fence; see [`std::sync::atomic::fence`].
pub fn fence(order: Ordering) {
    std::sync::atomic::fence(order);
}
