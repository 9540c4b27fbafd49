//! The front of the producer: what happens to a record before it is appended.
pub mod partitioner;
