//! The loom half of the switch.
