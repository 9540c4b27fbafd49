//! The work that benches do, written once for every implementation: what `unlatched bench` and criterion run.
//!
//! Part of the program, not of the library's public surface: nothing here is covered by its version number.
//!
//! # Words
//! A *suite* measures one part; it has *scenarios*; a scenario has *implementations*. A *cell* is a scenario at a number of threads (and a size of record). A *run* is one
//! implementation in one cell, once; a *round* is a run of each implementation of a cell, one after the other, so that what the machine does meanwhile meets all of them.
//!
//! # How a run is measured
//! - **By time.** A run lasts a given time, not a given number of operations: with a number, a fast implementation does all of a thread's work within one slice of the scheduler, so
//!   that threads hardly meet, and a thread that was favoured leaves the others alone at the end. Every thread works until the time is up; operations are counted.
//! - **Closed loop**, `p*_ns`: each k-th operation is timed by itself (a reading of the clock costs as much as an operation: percentiles below 100 ns are mostly clock).
//! - **On a schedule**, `open_p*_ns`, in a pass of its own: each thread has a fixed instant for each of its operations, and the time counts from there, so that an operation that was begun late
//!   because the one before it hung is not forgiven. The schedule is the same for every implementation. With more threads than processors this shows the scheduler's slices, whoever runs.
//! - **CPU time** of the process around the closed loop, helpers of the scenario included.
//! - A percentile that lies beyond the samples - p99.99 of fewer than ten thousand - is null.
//!
//! # What counts
//! Ratios of a round, one implementation by another, and the median of them over the rounds (see [`verdict`]); absolute figures drift with the machine. A twin is never given work that the other side does not do.

mod append;
mod bare;
mod drain;
mod fill;
mod load;
pub mod machine;
mod map;
mod pool;
pub mod rows;
mod sender;
pub mod verdict;

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

use verdict::Comparison;

/// Threads of a cell, unless its scenario says otherwise.
pub const THREADS: &[usize] = &[1, 2, 4, 8, 16];

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every scenario and every number of threads, little time for each; of the sizes of a record the middle one only.
    Quick,
    /// All.
    Full,
}

impl Mode {
    /// As rows have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }

    /// Rounds, unless told otherwise.
    #[must_use]
    pub fn rounds(self) -> u32 {
        match self {
            Self::Quick => 3,
            Self::Full => 5,
        }
    }

    /// Time of a run's closed loop, unless told otherwise.
    #[must_use]
    pub fn run(self) -> Duration {
        match self {
            Self::Quick => Duration::from_millis(50),
            Self::Full => Duration::from_millis(160),
        }
    }

    /// Whole-pool requests of scenario `whale`, over all rounds.
    #[must_use]
    pub fn tries(self) -> u32 {
        match self {
            Self::Quick => 90,
            Self::Full => 1_000,
        }
    }
}

/// What one run is to do.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Threads.
    pub threads: usize,
    /// Operations of a thread: the run ends when one has done them.
    pub ops: u64,
    /// Time of the closed loop: the run ends when it is over.
    pub time: Duration,
    /// Time of the pass on a schedule, if one is wanted.
    pub open: Option<Duration>,
    /// Whole-pool requests (`whale`), which then end the run.
    pub tries: u32,
}

impl Task {
    /// Measures by operations, for whoever wants it so: `ops` of one thread end the run.
    #[must_use]
    pub fn of_ops(threads: usize, ops: u64) -> Self {
        Self { threads, ops, time: Duration::MAX, open: None, tries: 10 }
    }
}

/// What one run has brought.
#[derive(Debug)]
pub struct Run {
    /// From the start of the first operation to the end of the last.
    pub elapsed: Duration,
    /// Operations of all threads.
    pub ops: u64,
    /// CPU time of the process.
    pub cpu: Duration,
    /// Nanoseconds of each timed operation.
    pub latency: Histogram<u64>,
    /// Nanoseconds from the intended start of each operation on the schedule.
    pub open: Option<Histogram<u64>>,
    /// What the scenario adds to the row.
    pub extra: Map<String, Value>,
}

impl Run {
    /// Operations a second.
    #[must_use]
    pub fn ops_per_s(&self) -> f64 {
        self.ops as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// An implementation of a scenario.
pub struct Impl {
    /// As rows have it.
    pub name: &'static str,
    /// Runs it.
    pub run: Box<dyn Fn(&Task) -> Run>,
}

impl fmt::Debug for Impl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Impl").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One kind of work.
#[derive(Debug)]
pub struct Scenario {
    /// As rows have it.
    pub name: &'static str,
    /// Numbers of threads.
    pub threads: &'static [usize],
    /// Whether other numbers of threads than these make sense.
    pub any_threads: bool,
    /// Partitions, where there are any.
    pub partitions: Option<usize>,
    /// Bytes of a record, where there are records.
    pub record_bytes: Option<usize>,
    /// Whether it is too long to be run more than once: one round, and nothing to warm up.
    pub once: bool,
    /// Implementations, in the order in which they take turns.
    pub impls: Vec<Impl>,
    /// Which of them are compared, and what is expected.
    pub comparisons: Vec<Comparison>,
}

/// What measures one part.
#[derive(Clone, Copy)]
pub struct Suite {
    /// As the command line has it.
    pub name: &'static str,
    /// What it measures, in half a line.
    pub about: &'static str,
    /// Its scenarios.
    pub scenarios: fn(Mode) -> Vec<Scenario>,
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Every suite.
pub const SUITES: &[Suite] = &[
    Suite { name: "pool", about: "allocate and free, ample memory and scarce", scenarios: pool::scenarios },
    Suite {
        name: "append",
        about: "records into one, some or many partitions while one thread drains",
        scenarios: append::scenarios,
    },
    Suite { name: "map", about: "partitions looked up and created", scenarios: map::scenarios },
    Suite {
        name: "drain",
        about: "ready, drain and complete, few of many partitions with data",
        scenarios: drain::scenarios,
    },
    Suite {
        name: "sender",
        about: "the whole of the sender for a batch, few of many partitions with data",
        scenarios: sender::scenarios,
    },
];

/// The suite of this name.
#[must_use]
pub fn suite(name: &str) -> Option<&'static Suite> {
    SUITES.iter().find(|suite| suite.name == name)
}
