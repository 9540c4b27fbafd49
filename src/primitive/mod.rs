//! The one switch between std, loom and shuttle.
//!
//! Every atomic, checked cell, counted pointer, lock, parker, clock and random number of the crate comes from here, and
//! nothing else in the crate names `std::sync::atomic`, `std::thread::park`, a system clock or `loom` (clippy's
//! `disallowed-*` lists say so). So one build flag turns the shipping types into the types that a model checker sees:
//!
//! | build | atomics, cells, `Arc`, lock | parker | epoch |
//! |---|---|---|---|
//! | plain | `std` | [`parker::WordParker`]: a word, a mutex, a condition variable | crossbeam-epoch |
//! | `--cfg crossbeam_loom` and feature `loom` | `loom` | `loom::sync::Notify` | crossbeam-epoch under loom, or the stand-in |
//! | `--cfg unlatched_shuttle` and feature `shuttle` | `shuttle` | shuttle's condition variable | the stand-in |
//! | `--cfg unlatched_count` | `std`, counted | as plain | crossbeam-epoch |
//!
//! One thing no checker sees is taken from the kernel where it has it: [`barrier`].
//!
//! Under either checker `model` holds what they lack: timeouts and weak compare-exchanges that fail without a reason.
//!
//! The cfg flips the code; the feature only brings the dependency. Both are needed, so that our atomics and
//! crossbeam-epoch's can never be half-switched.
//!
//! Beside that compile-time switch stand three traits that a *run* can replace: [`lock::LockFamily`] (which lock the mutex twin
//! uses, and its parker) and [`clock::Clock`]. The deterministic scheduler (`sim`, feature `testing`) implements them for one
//! thread, so that a run replays from its seed.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub(crate) mod back_off;
pub mod barrier;
pub mod clock;
pub mod epoch;
pub mod lock;
#[cfg(any(crossbeam_loom, unlatched_shuttle))]
#[doc(hidden)]
pub mod model;
pub mod parker;
pub(crate) mod prefetch;
pub mod random;
#[cfg(feature = "testing")]
pub mod sim;
mod step;
pub mod table;
pub mod witness;

pub use step::{Step, step};
#[cfg(any(test, feature = "testing"))]
pub use step::{Stop, stop_here};

#[cfg(crossbeam_loom)]
#[path = "loom.rs"]
mod imp;
#[cfg(all(unlatched_shuttle, not(crossbeam_loom)))]
#[path = "shuttle.rs"]
mod imp;
#[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
#[path = "std.rs"]
mod imp;

pub use imp::{Arc, atomic, cell, hint, thread, thread_local};
