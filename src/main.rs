//! The command line of Unlatched. Everything it does is in the library's `cli` module.

use std::process::ExitCode;

fn main() -> ExitCode {
    unlatched::cli::main()
}
