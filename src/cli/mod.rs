//! The command line: what it accepts, where its records come from, and what it does with them.
//!
//! Part of the program, not of the library's public surface: nothing here is covered by its version number.
pub mod args;
mod bench;
pub mod check;
mod child;
mod compare;
mod consume;
mod faults;
pub mod input;
mod log_dir;
mod produce;
mod report;
#[cfg(feature = "testing")]
mod simulate;
mod stop;
mod whole_file;

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use args::{Command, Tuning};

use crate::accumulator::AccumulatorConfig;
use crate::producer::ProducerConfig;
use crate::record::codec::DEFAULT_LIMIT;
use crate::record::{BATCH_OVERHEAD, MAX_RECORD_OVERHEAD};

/// Status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Runs the program.
pub fn main() -> ExitCode {
    if let Some(status) = child::main_if_child() {
        return status;
    }
    let command = match args::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(exit) => {
            // A closed standard output or error cannot be told of anywhere.
            match exit.status {
                0 => drop(writeln!(io::stdout(), "{}", exit.text.trim_end())),
                _ => note(format_args!("{}", exit.text.trim_end())),
            }
            return ExitCode::from(exit.status);
        }
    };
    log_to_standard_error(command.log_level());
    let done = match command {
        Command::Compare(args) => compare::run(&args),
        Command::Produce(args) => produce::run(&args),
        Command::Consume(args) => consume::run(&args),
        Command::Bench(args) => bench::run(&args),
        #[cfg(feature = "testing")]
        Command::Simulate(args) => simulate::run(&args),
    };
    done.unwrap_or_else(|error| {
        note(format_args!("error: {}", told(&error)));
        ExitCode::FAILURE
    })
}

impl Command {
    /// What is logged, unless told otherwise. What a simulation warns of is what it is for.
    fn log_level(&self) -> tracing::Level {
        match self {
            #[cfg(feature = "testing")]
            Self::Simulate(_) => tracing::Level::ERROR,
            _ => tracing::Level::WARN,
        }
    }
}

/// An error and its causes in one line. Some say their cause themselves; it is not said twice.
fn told(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// A line on standard error. Where that is closed there is nobody to tell.
fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether what was written to standard output can be read by anybody. A reader that has seen enough, such as `head`, is
/// no failure.
fn has_reader(written: io::Result<()>) -> io::Result<bool> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}

/// What is of `level` or worse goes to standard error, or what `RUST_LOG` names instead.
fn log_to_standard_error(level: tracing::Level) {
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(level);
    let colours = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_max_level(level).with_target(false).without_time().with_ansi(colours);
    lines.with_writer(io::stderr).init();
}

/// A producer's configuration. A retry needs time behind a long linger, too.
fn producer_config(tuning: &Tuning) -> anyhow::Result<ProducerConfig> {
    let accumulator = AccumulatorConfig {
        buffer_memory: tuning.buffer_memory,
        batch_size: tuning.batch_size,
        compression: tuning.compression_type,
        linger: Duration::from_millis(tuning.linger_ms.into()),
        ..AccumulatorConfig::default()
    };
    let mut config = ProducerConfig { accumulator, ..ProducerConfig::default() };
    config.sender.delivery_timeout =
        config.sender.delivery_timeout.max(config.accumulator.linger + config.sender.request_timeout);
    config.validate()?;
    Ok(config)
}

/// What the broker lets a batch have uncompressed: where it is larger than usual, it may still become a sixteenth by its codec.
fn max_uncompressed_bytes(tuning: &Tuning) -> usize {
    DEFAULT_LIMIT.max(tuning.batch_size.saturating_mul(16))
}

/// The longest line and key together, in bytes, that the largest record has room for: less what the format needs around
/// them (FMT-26), with the lengths of key, value and headers at their longest.
fn max_line(config: &ProducerConfig) -> usize {
    const LENGTHS: usize = 5 + 5 + 1;
    let buffer_memory = usize::try_from(config.accumulator.buffer_memory).unwrap_or(usize::MAX);
    let room = config.sender.max_request_size.min(buffer_memory);
    room.saturating_sub(BATCH_OVERHEAD + MAX_RECORD_OVERHEAD + LENGTHS)
}

/// Calls a function that is generic over the accumulator with that of a core that is named at run time.
macro_rules! with_core {
    ($core:expr, $function:ident($($argument:expr),*)) => {
        match $core {
            $crate::cli::args::Core::Mutex => $function::<$crate::mutex::StdAccumulator>($($argument),*),
            $crate::cli::args::Core::MutexParkingLot => $function::<$crate::mutex::ParkingLotAccumulator>($($argument),*),
            $crate::cli::args::Core::Lockfree => $function::<$crate::accumulator::LockFreeAccumulator>($($argument),*),
        }
    };
}
use with_core;
