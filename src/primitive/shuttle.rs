//! The shuttle half of the switch.
