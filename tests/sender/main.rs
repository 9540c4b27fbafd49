//! The sender, by the ids of `papers/catalogue.md`, on every core.
//!
//! The broker is a script ([`script`]) and time stands still until a test moves it; each pass is run by hand on the test's own thread ([`rig`]), so
//! nothing here depends on a scheduler. Only the tests of the running sender ([`endings`]) have threads. What the sender does to its accumulator is
//! noted by a wrapper around the core ([`spy`]), together with what it asks of the broker and with the records' callbacks, in one log.

// A test that is missing from its file's list would be dead code, and never run.
#![deny(dead_code)]

mod answers;
mod endings;
mod expiry;
mod idempotence;
mod order;
mod passes;
mod rig;
mod script;
mod split;
mod spy;
mod support;
#[path = "../common/threads.rs"]
#[allow(dead_code, reason = "other suites use more of it")]
mod threads;
