//! Which cells are measured, in which order, and the rows that come of it.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Map, Value};

use super::machine::Meter;
use super::{Impl, Mode, Run, Scenario, Suite, Task};

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How much.
    pub mode: Mode,
    /// Rounds of each cell.
    pub rounds: u32,
    /// Time of a run's closed loop; the pass on a schedule has a third of it.
    pub run: Duration,
    /// Scenarios; empty: all.
    pub scenarios: Vec<String>,
    /// Numbers of threads; empty: each scenario's own.
    pub threads: Vec<usize>,
    /// Implementations; empty: all.
    pub impls: Vec<String>,
}

/// A scenario at a number of threads.
#[derive(Debug)]
pub struct Cell<'a> {
    /// The suite's name.
    pub suite: &'static str,
    /// The scenario.
    pub scenario: &'a Scenario,
    /// Threads.
    pub threads: usize,
    /// Those of the scenario's implementations that are run.
    pub impls: Vec<&'a Impl>,
}

impl Plan {
    /// The cells of `suite`, of whose scenarios these are, in order.
    #[must_use]
    pub fn cells<'a>(&self, suite: &Suite, scenarios: &'a [Scenario]) -> Vec<Cell<'a>> {
        let chosen = |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
        let mut cells = Vec::new();
        for scenario in scenarios.iter().filter(|scenario| chosen(&self.scenarios, scenario.name)) {
            let threads: Vec<usize> = match (self.threads.is_empty(), scenario.any_threads) {
                (true, _) => scenario.threads.to_vec(),
                (false, true) => self.threads.clone(),
                (false, false) => {
                    scenario.threads.iter().copied().filter(|threads| self.threads.contains(threads)).collect()
                }
            };
            for threads in threads {
                let impls: Vec<&Impl> = scenario.impls.iter().filter(|one| chosen(&self.impls, one.name)).collect();
                if !impls.is_empty() {
                    cells.push(Cell { suite: suite.name, scenario, threads, impls });
                }
            }
        }
        cells
    }

    /// Runs a cell: each implementation once to warm up, then round after round, and calls `row` with each row. Stops between two runs when `go_on` says no; it is told who is next. Gives back the share of
    /// the processors that other programs had meanwhile, where the system tells.
    pub fn measure(
        &self,
        cell: &Cell<'_>,
        mut go_on: impl FnMut(&'static str, u32) -> bool,
        mut row: impl FnMut(Row),
    ) -> Option<f64> {
        let meter = Meter::start();
        let tries = self.mode.tries().div_ceil(self.rounds);
        let task = Task { threads: cell.threads, ops: u64::MAX, time: self.run, open: Some(self.run / 3), tries };
        for round in 0..=self.rounds {
            for one in &cell.impls {
                if !go_on(one.name, round) {
                    return meter.others();
                }
                if round == 0 {
                    (one.run)(&Task { time: self.run / 4, open: None, tries: tries.min(5), ..task });
                } else {
                    row(self.row(cell, one, round, (one.run)(&task)));
                }
            }
        }
        meter.others()
    }

    fn row(&self, cell: &Cell<'_>, one: &Impl, round: u32, run: Run) -> Row {
        let at = |quantile| quantile_of(&run.latency, quantile);
        let open_at = |quantile| run.open.as_ref().and_then(|open| quantile_of(open, quantile));
        Row {
            suite: cell.suite,
            scenario: cell.scenario.name,
            name: one.name,
            round,
            mode: self.mode.name(),
            threads: cell.threads,
            partitions: cell.scenario.partitions,
            record_bytes: cell.scenario.record_bytes,
            seconds: run.elapsed.as_secs_f64(),
            ops: run.ops,
            ops_per_s: run.ops_per_s(),
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            p9999_ns: at(0.9999),
            max_ns: run.latency.max(),
            open_p99_ns: open_at(0.99),
            open_p9999_ns: open_at(0.9999),
            cpu_s: run.cpu.as_secs_f64(),
            extra: run.extra,
        }
    }
}

/// Nothing where it lies beyond the samples.
fn quantile_of(samples: &Histogram<u64>, quantile: f64) -> Option<u64> {
    let beyond = samples.len() as f64 * (1.0 - quantile);
    (beyond > 1.0 - 1e-9).then(|| samples.value_at_quantile(quantile))
}

/// What one run has brought, as a line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The cell.
    pub suite: &'static str,
    /// The cell.
    pub scenario: &'static str,
    /// Who was run.
    #[serde(rename = "impl")]
    pub name: &'static str,
    /// From 1.
    pub round: u32,
    /// `quick` or `full`.
    pub mode: &'static str,
    /// The cell.
    pub threads: usize,
    /// The cell.
    pub partitions: Option<usize>,
    /// The cell.
    pub record_bytes: Option<usize>,
    /// From the first operation's start to the last one's end.
    pub seconds: f64,
    /// Of all threads.
    pub ops: u64,
    /// Operations a second.
    pub ops_per_s: f64,
    /// Of the timed operations of the closed loop.
    pub p50_ns: Option<u64>,
    /// The same.
    pub p99_ns: Option<u64>,
    /// The same.
    pub p999_ns: Option<u64>,
    /// The same.
    pub p9999_ns: Option<u64>,
    /// The same.
    pub max_ns: u64,
    /// From the intended start, on a schedule.
    pub open_p99_ns: Option<u64>,
    /// The same.
    pub open_p9999_ns: Option<u64>,
    /// CPU time of the process during the closed loop.
    pub cpu_s: f64,
    /// What the scenario adds.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}
