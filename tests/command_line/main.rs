//! The program from outside: what it prints, with which status it ends, and what it leaves on the disk.
//!
//! Every test runs the built program. Nothing is timed: where a test waits, it waits for a condition.

#![cfg(unix)]

mod bench;
mod compare;
mod damage;
mod faults;
mod produce;
mod refusals;
mod signals;
#[cfg(feature = "testing")]
mod simulate;
mod support;
