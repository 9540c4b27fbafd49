//! Epoch-based reclamation: crossbeam-epoch.

pub use crossbeam_epoch::{Atomic, Guard, Owned, Shared, pin};
