//! The models under shuttle: `cargo shuttle`, or `cargo shuttle <part of a name>`.
//!
//! Shuttle visits the schedules that loom may miss; it knows no weak memory, so a few models are loom's alone. Crowds are shuttle's alone.

#[cfg(all(unlatched_shuttle, not(crossbeam_loom)))]
mod crowd;
#[cfg(all(unlatched_shuttle, not(crossbeam_loom)))]
mod models;
#[cfg(all(unlatched_shuttle, not(crossbeam_loom)))]
mod runner;

/// How many models there are, crowds included.
#[cfg(all(unlatched_shuttle, not(crossbeam_loom)))]
const MODELS: usize = 160;

#[cfg(all(unlatched_shuttle, not(crossbeam_loom)))]
fn main() -> std::process::ExitCode {
    runner::main(models::models().into_iter().chain(crowd::models()).collect(), MODELS)
}

#[cfg(not(all(unlatched_shuttle, not(crossbeam_loom))))]
fn main() {
    panic!(
        "feature `shuttle` without `--cfg unlatched_shuttle`: nothing would be checked. Unset RUSTFLAGS, run `cargo shuttle`"
    );
}
