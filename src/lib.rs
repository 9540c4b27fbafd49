//! Unlatched.
pub mod primitive;
pub mod record;
