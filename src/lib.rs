//! Unlatched.
pub mod accumulator;
pub mod batch;
pub mod broker;
pub mod error;
pub mod mutex;
pub mod partition_map;
pub mod pool;
pub mod primitive;
pub mod record;
pub mod sender;
