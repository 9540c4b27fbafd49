//! The models under loom: `cargo loom`, or `cargo loom <part of a name>`.
//!
//! The feature `loom` brings loom; `--cfg crossbeam_loom` is what turns the crate's atomics into loom's. A run with the
//! feature and without the cfg (an exported RUSTFLAGS does that) would check nothing: it fails.

#[cfg(crossbeam_loom)]
mod models;
#[cfg(crossbeam_loom)]
mod runner;

/// How many models there are.
#[cfg(crossbeam_loom)]
const MODELS: usize = 156;

#[cfg(crossbeam_loom)]
fn main() -> std::process::ExitCode {
    runner::main(models::models(), MODELS)
}

#[cfg(not(crossbeam_loom))]
fn main() {
    panic!(
        "feature `loom` without `--cfg crossbeam_loom`: nothing would be checked. Unset RUSTFLAGS, run `cargo loom`"
    );
}
