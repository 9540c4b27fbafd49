//! What the command line accepts.
//!
//! [`parse`] turns arguments into a [`Command`] whose parts fit together, or into an [`Exit`]: the text to print and the
//! status to exit with. Whatever is wrong is said in one line.
//!
//! `unlatched` alone is `unlatched compare`: every core on the bundled sample.

mod values;

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::bench::{Mode, Suite, suite};
use crate::broker::Acks;
use crate::record::codec::Compression;

use super::faults::{self, FaultRate};
use super::input::{Column, Header, Options, Records, Source};
pub use values::{CORES, Core, CoreChoice, CoreError, CoreInfo, TopicError, find_core, validate_topic};

/// How long a core is measured where neither a file, nor a number of records, nor a time is given.
pub const SAMPLE_SECONDS: f64 = 2.0;

/// The memory path of Apache Kafka's producer: compare its cores, or use it.
///
/// Without a command, `unlatched` compares all cores on a bundled sample of 4,000 flights.
#[derive(Debug, Parser)]
#[command(name = "unlatched", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

/// A command, checked.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum Command {
    /// Run the same records through several cores and show who is faster, and at what price.
    Compare(CompareArgs),
    /// Send each line of a file or of standard input to a topic, as one record.
    ///
    /// Every line is sent as it is, without its newline. With one partition, `consume` gives back the same lines, byte
    /// for byte; a last line without a newline gains one.
    Produce(ProduceArgs),
    /// Print the records of a topic, one a line.
    ///
    /// Prints the values only. Records of one partition come in the order in which they were sent; partitions come one
    /// after the other.
    Consume(ConsumeArgs),
    /// Measure parts of the path, each implementation beside the others.
    ///
    /// Rounds are interleaved, what counts is the median of a round's ratios. Ends with a table of rates and one of verdicts; a missed floor fails nothing.
    Bench(BenchArgs),
    /// Run accumulators and sender against a cluster that goes wrong, on virtual time, one seed per history.
    ///
    /// Latencies, lost and late answers, disconnects, leader moves, restarts, every error code, too little memory, appenders stopped in the midst of a copy: all drawn by the seed. Each history is checked at its end:
    /// every accepted record completed once, what was acknowledged is in the log, in order and once where that is promised, and all memory came back. A failing seed is made small and printed, and the status is 1.
    #[cfg(feature = "testing")]
    Simulate(SimulateArgs),
}

/// What `simulate` is told.
#[cfg(feature = "testing")]
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct SimulateArgs {
    /// The seeds, from A up to B, without B.
    #[arg(long, value_name = "A..B", default_value = "0..10000", value_parser = values::seeds)]
    pub seeds: std::ops::Range<u64>,
    /// The core to run: lockfree, mutex (Kafka's own algorithm on simulated locks), or all.
    #[arg(long, value_name = "CORE", default_value = "all", value_parser = ["lockfree", "mutex", "all"])]
    pub core: String,
    /// Write all figures to this file, as JSON.
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// Leave these out of each history: numbers of items and ranges of them, as a failing seed is printed.
    #[arg(long, value_name = "N,N-M", value_parser = values::numbers, default_value = "")]
    pub without: std::collections::BTreeSet<usize>,
    /// Number of threads that run histories, 1 to 1024. Default: one for each processor.
    #[arg(long, value_name = "T", value_parser = values::threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// Sizes and times of a producer, as in Kafka's configuration.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct Tuning {
    /// Size of a batch (batch.size); a plain number is bytes, or use KiB, MiB, GiB (1024), kB, MB, GB (1000).
    #[arg(long, value_name = "SIZE", default_value = "16KiB", value_parser = values::batch_size)]
    pub batch_size: usize,
    /// How long an open batch waits for more records (linger.ms), in milliseconds.
    #[arg(long, value_name = "MS", default_value = "5", value_parser = values::linger_ms, allow_negative_numbers = true)]
    pub linger_ms: u32,
    /// Memory for records that are not yet sent (buffer.memory); units as for --batch-size.
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = values::buffer_memory)]
    pub buffer_memory: u64,
    /// Codec of the batches (compression.type): none, gzip, snappy, lz4 or zstd, and :LEVEL if need be.
    ///
    /// Levels: gzip 1 to 9, lz4 1 to 17 (default 9), zstd -131072 to 22 (default 3); snappy has none.
    #[arg(long, value_name = "CODEC[:LEVEL]", default_value = "none")]
    #[serde(with = "values::compression")]
    pub compression_type: Compression,
}

/// What `compare` is told.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct CompareArgs {
    /// A CSV file; each line behind its header is one record. Absent: the bundled sample.
    ///
    /// A newline always ends a record, also within quotes.
    #[arg(value_name = "FILE", value_parser = PathBufValueParser::new().try_map(values::repeatable_file))]
    pub file: Option<PathBuf>,
    /// Number of records a core gets; the file is repeated as often as it takes. A number, or one with k, M, G.
    ///
    /// Default: the file once; with neither a FILE nor --seconds, the sample for 2 seconds a core.
    #[arg(long, value_name = "N", value_parser = values::count, conflicts_with = "seconds", allow_negative_numbers = true)]
    pub records: Option<NonZeroU64>,
    /// Time a core gets, in seconds; the file is repeated as often as it takes.
    #[arg(long, value_name = "S", value_parser = values::seconds, allow_negative_numbers = true)]
    pub seconds: Option<f64>,
    /// Number of appending threads, 1 to 1024. Default: one for each processor.
    #[arg(long, value_name = "T", value_parser = values::threads, allow_negative_numbers = true)]
    pub threads: Option<usize>,
    /// Number of partitions of the topic, 1 to 100000.
    #[arg(long, value_name = "P", default_value = "6", value_parser = values::partitions, allow_negative_numbers = true)]
    pub partitions: i32,
    /// Column that is the key: its name in the header, or its number from 1. Default: no key.
    ///
    /// The partition follows from the key. Records without a key go round all partitions; so do those whose field is
    /// empty or missing.
    #[arg(long, value_name = "C")]
    pub key_column: Option<Column>,
    /// The first line is a record, not a header.
    #[arg(long)]
    pub no_header: bool,
    /// The cores to run.
    #[arg(long, value_name = "CORE", default_value = "all", value_parser = values::core_choice, help = values::core_help(true), long_help = values::core_long_help(true))]
    pub core: CoreChoice,
    /// Number of times each core is run, 1 to 1000; the cores take turns.
    #[arg(long, value_name = "R", default_value = "3", value_parser = values::rounds, allow_negative_numbers = true)]
    pub rounds: u32,
    /// Write all figures to this file, as JSON.
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// What the sender talks to. Default: dir if --log-dir is given, else drop.
    #[arg(long, value_name = "BROKER")]
    pub broker: Option<Broker>,
    /// Directory of the embedded broker's logs.
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Who must have written a record before it is acknowledged: all or 1. With all the producer is idempotent.
    #[arg(long, value_name = "ACKS", default_value = "all", value_parser = values::acks, allow_negative_numbers = true)]
    #[serde(with = "values::acks_text")]
    pub acks: Acks,
    /// What the broker does wrong, such as slow,disconnect=0.1
    #[arg(long, value_name = "KIND[=RATE],...", value_delimiter = ',', long_help = faults::help())]
    pub faults: Vec<FaultRate>,
    /// Seed of what is drawn for --faults: the n-th request meets the same. A core's rounds have the seeds N, N + 1, ...
    #[arg(long, value_name = "N", default_value = "0", requires = "faults")]
    pub seed: u64,
    /// Sizes and times.
    #[command(flatten)]
    pub tuning: Tuning,
}

/// What the sender of `compare` talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Broker {
    /// An embedded broker that keeps all records in memory: as much of it as there are records.
    Memory,
    /// An embedded broker that checks and acknowledges the records, shows them to the check, and drops them.
    Drop,
    /// An embedded broker that writes the records to --log-dir.
    Dir,
}

/// How much of the input a core gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// All of it, once.
    Once,
    /// This number of records.
    Records(u64),
    /// As many records as it takes in this time.
    Time(Duration),
}

/// What `produce` is told.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct ProduceArgs {
    /// The file to send; - is standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
    /// Topic to send to: 1 to 249 of the characters a-z A-Z 0-9 . _ -
    #[arg(long, value_name = "T", value_parser = values::topic)]
    pub topic: String,
    /// Number of partitions of the topic, 1 to 100000. A topic that has more keeps and uses them.
    #[arg(long, value_name = "P", default_value = "1", value_parser = values::partitions, allow_negative_numbers = true)]
    pub partitions: i32,
    /// Column that is the key: its number from 1, or its name in the first line. Default: no key.
    ///
    /// The key is sent beside the line, which stays whole. A first line with names is sent like any other; see
    /// --skip-header.
    #[arg(long, value_name = "C")]
    pub key_column: Option<Column>,
    /// Do not send the first line.
    #[arg(long)]
    pub skip_header: bool,
    /// The core to send with.
    #[arg(long, value_name = "CORE", default_value_t = values::first_core(), value_parser = values::one_core, help = values::core_help(false), long_help = values::core_long_help(false))]
    pub core: Core,
    /// Directory of the embedded broker's logs, for `consume` to read. Default: the records are checked, acknowledged
    /// and dropped.
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Sizes and times.
    #[command(flatten)]
    pub tuning: Tuning,
}

/// What `consume` is told.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ConsumeArgs {
    /// Topic to read.
    #[arg(long, value_name = "T", value_parser = values::topic)]
    pub topic: String,
    /// Directory of the embedded broker's logs.
    #[arg(long, value_name = "DIR")]
    pub log_dir: PathBuf,
    /// The one partition to read, from 0. Default: all, one after the other.
    #[arg(long, value_name = "P", value_parser = values::partition, allow_negative_numbers = true)]
    pub partition: Option<i32>,
}

/// What `bench` is told.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct BenchArgs {
    /// Suite to run; may be given several times.
    #[arg(long, value_name = "NAME", required = true, value_parser = values::suite(), long_help = values::suite_help())]
    pub suite: Vec<String>,
    /// Every scenario and number of threads, but little time for each: under a minute a suite.
    #[arg(long)]
    pub quick: bool,
    /// Write a line of JSON for the machine, for each run and for each comparison to this file, as they come; what it held is lost.
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// Only these scenarios.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub scenario: Vec<String>,
    /// Only these numbers of threads, 1 to 1024. Scenarios that take any number are run with these.
    #[arg(long, value_name = "N", num_args = 1.., value_parser = values::threads, allow_negative_numbers = true)]
    pub threads: Vec<usize>,
    /// Only these implementations.
    #[arg(long = "impl", value_name = "NAME", num_args = 1..)]
    pub implementation: Vec<String>,
    /// Number of times each implementation is run in a cell, 1 to 1000; they take turns. Default: 5, or 3 if --quick.
    #[arg(long, value_name = "R", value_parser = values::rounds, allow_negative_numbers = true)]
    pub rounds: Option<u32>,
    /// Time of one run in seconds, without its pass on a schedule. Default: 0.16, or 0.05 if --quick.
    #[arg(long, value_name = "S", value_parser = values::seconds, allow_negative_numbers = true)]
    pub run_seconds: Option<f64>,
}

impl BenchArgs {
    /// The suites, each once, in the order in which they were asked for.
    pub fn suites(&self) -> impl Iterator<Item = &'static Suite> {
        let again = |at: usize| self.suite[..at].contains(&self.suite[at]);
        self.suite.iter().enumerate().filter(move |(at, _)| !again(*at)).filter_map(|(_, name)| suite(name))
    }

    /// That what is asked for by name is there.
    fn check(&self) -> Result<(), String> {
        let scenarios: Vec<_> = self.suites().flat_map(|suite| (suite.scenarios)(Mode::Full)).collect();
        let known = |what: &str, asked: &[String], names: Vec<&str>| {
            let mut known: Vec<&str> = Vec::new();
            names.into_iter().for_each(|name| {
                if !known.contains(&name) {
                    known.push(name);
                }
            });
            match asked.iter().find(|name| !known.contains(&name.as_str())) {
                Some(name) => {
                    let name: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
                    Err(format!("no {what} {name:?} in {}; there are {}", self.suite.join(", "), known.join(", ")))
                }
                None => Ok(()),
            }
        };
        known("scenario", &self.scenario, scenarios.iter().map(|scenario| scenario.name).collect())?;
        let impls = scenarios.iter().flat_map(|scenario| scenario.impls.iter().map(|one| one.name)).collect();
        known("implementation", &self.implementation, impls)
    }
}

impl Default for CompareArgs {
    /// What `unlatched compare` without arguments means.
    fn default() -> Self {
        match Cli::try_parse_from(["unlatched", "compare"]) {
            Ok(Cli { command: Some(Command::Compare(args)) }) => args,
            other => unreachable!("compare needs no arguments: {other:?}"),
        }
    }
}

impl CompareArgs {
    /// How much of the input a core gets.
    #[must_use]
    pub fn amount(&self) -> Amount {
        match (self.records, self.seconds) {
            (Some(records), _) => Amount::Records(records.get()),
            (None, Some(seconds)) => Amount::Time(Duration::from_secs_f64(seconds)),
            (None, None) if self.file.is_none() => Amount::Time(Duration::from_secs_f64(SAMPLE_SECONDS)),
            (None, None) => Amount::Once,
        }
    }

    /// The number of appending threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// What the sender talks to.
    #[must_use]
    pub fn broker(&self) -> Broker {
        self.broker.unwrap_or(if self.log_dir.is_some() { Broker::Dir } else { Broker::Drop })
    }

    /// Where the records come from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.file.as_deref().map_or_else(Source::sample, Source::file)
    }

    /// How the records are read; `max_line` is the longest record in bytes.
    #[must_use]
    pub fn options(&self, max_line: usize) -> Options {
        Options {
            header: if self.no_header { Header::Absent } else { Header::Skipped },
            key: self.key_column.clone(),
            records: match self.amount() {
                Amount::Once => Records::Once,
                Amount::Records(records) => Records::Exactly(records),
                Amount::Time(_) => Records::Endless,
            },
            threads: self.threads(),
            ..Options::csv(max_line)
        }
    }

    fn check(&self) -> Result<(), String> {
        match (self.acks, self.faults.is_empty()) {
            (Acks::None, true) => {
                return Err("--acks 0: without offsets in answers nothing can be found again".to_owned());
            }
            (Acks::None, false) => {
                return Err(
                    "--faults with --acks 0: what a faulty broker loses is lost, and nobody hears of it".to_owned()
                );
            }
            (Acks::Leader, false) => {
                return Err("--faults with --acks 1: only --acks all is idempotent, so that nothing is written twice"
                    .to_owned());
            }
            (Acks::Leader, true) | (Acks::All, _) => {}
        }
        let kinds = || self.faults.iter().map(|fault| fault.kind);
        if let Some((_, twice)) = kinds().enumerate().find(|(at, kind)| kinds().take(*at).any(|one| one == *kind)) {
            return Err(format!("--faults has {twice} twice"));
        }
        match (self.broker, &self.log_dir) {
            (Some(Broker::Dir), None) => Err("--broker dir needs --log-dir DIR".to_owned()),
            (Some(Broker::Memory | Broker::Drop), Some(_)) => {
                Err("--log-dir is for --broker dir; leave one of the two away".to_owned())
            }
            _ => check_name(self.key_column.as_ref(), self.no_header),
        }
    }
}

impl ProduceArgs {
    /// Where the records come from.
    #[must_use]
    pub fn source(&self) -> Source {
        if self.file == Path::new("-") { Source::stdin() } else { Source::file(&self.file) }
    }

    /// How the records are read; `max_line` is the longest record in bytes.
    #[must_use]
    pub fn options(&self, max_line: usize) -> Options {
        let header = match &self.key_column {
            _ if self.skip_header => Header::Skipped,
            // The first line tells which columns there are, also where it is a record like any other.
            Some(_) => Header::Kept,
            None => Header::Absent,
        };
        Options { header, key: self.key_column.clone(), ..Options::lines(max_line) }
    }
}

fn check_name(column: Option<&Column>, no_header: bool) -> Result<(), String> {
    match column {
        Some(Column::Name(name)) if no_header => {
            Err(format!("--key-column {name:?} is a name, and --no-header says that there are none: give a number"))
        }
        _ => Ok(()),
    }
}

/// Why there is no command to run: a text to print, and the status to exit with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// What to print: help or version, or one line that says what is wrong.
    pub text: String,
    /// 0 for help and version, which belong on standard output; 2 for what is wrong, which belongs on standard error.
    pub status: u8,
}

/// Reads the arguments; the first one is the program's name.
///
/// # Errors
///
/// If there is nothing to run: help or the version is asked for, or something is wrong.
pub fn parse<I, A>(args: I) -> Result<Command, Exit>
where
    I: IntoIterator<Item = A>,
    A: Into<OsString> + Clone,
{
    let cli = Cli::try_parse_from(args).map_err(|error| exit(&error))?;
    let command = cli.command.unwrap_or_else(|| Command::Compare(CompareArgs::default()));
    let checked = match &command {
        Command::Compare(args) => args.check(),
        Command::Bench(args) => args.check(),
        Command::Produce(_) | Command::Consume(_) => Ok(()),
        #[cfg(feature = "testing")]
        Command::Simulate(_) => Ok(()),
    };
    checked.map_err(|text| Exit { text: format!("error: {text}"), status: 2 })?;
    Ok(command)
}

/// The command line's definition, for completions, manual pages and further commands.
#[must_use]
pub fn definition() -> clap::Command {
    Cli::command()
}

fn exit(error: &clap::Error) -> Exit {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit { text, status: 0 },
        _ => Exit { text: one_line(error, &text), status: 2 },
    }
}

/// A message of clap's as one line: without usage and hints at `--help`, which are more lines than the message.
fn one_line(error: &clap::Error, text: &str) -> String {
    let told = text.split("\n\nUsage:").next().unwrap_or(text);
    let told = told.split("\n\nFor more information").next().unwrap_or(told);
    let mut line = told.split_whitespace().collect::<Vec<_>>().join(" ").replace(" tip: ", "; ");
    // What the user typed may hold anything; clap prints it as it is.
    line.retain(|c| !c.is_control());
    if let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand) {
        line.push_str(&match &**name {
            #[cfg(not(feature = "testing"))]
            "simulate" => " (it is there when built with --features testing)".to_owned(),
            _ => format!(" (for a file: unlatched compare {name})"),
        });
    } else if error.kind() == ErrorKind::UnknownArgument && text.contains("[COMMAND]") {
        line.push_str(" in front of a command (unlatched compare takes options)");
    }
    line
}

#[cfg(test)]
#[path = "args/tests.rs"]
mod tests;
