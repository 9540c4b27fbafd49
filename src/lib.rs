//! Unlatched.
pub mod accumulator;
pub mod batch;
pub mod broker;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod error;
pub mod mutex;
pub mod partition_map;
pub mod pool;
pub mod primitive;
#[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
pub mod producer;
pub mod record;
pub mod sender;
