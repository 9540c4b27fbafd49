//! Unlatched.
pub mod record;
