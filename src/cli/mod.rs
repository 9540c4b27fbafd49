//! The command line: what it accepts, and where its records come from.
//!
//! Part of the program, not of the library's public surface: nothing here is covered by its version number.
pub mod args;
pub mod input;
