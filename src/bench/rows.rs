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

impl Cell<'_> {
    /// How many runs it takes, those that warm up included.
    #[must_use]
    pub fn runs(&self, plan: &Plan) -> u64 {
        let rounds = if self.scenario.once { 1 } else { plan.rounds + 1 };
        self.impls.len() as u64 * u64::from(rounds)
    }
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
        let (first, last) = if cell.scenario.once { (1, 1) } else { (0, self.rounds) };
        for round in first..=last {
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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{SUITES, suite};

    #[test]
    fn a_percentile_beyond_the_samples_is_none() {
        let mut samples = crate::bench::load::histogram();
        samples += 7;
        assert_eq!(quantile_of(&samples, 0.5), None, "half a sample lies beyond");
        (1..10_000).for_each(|_| samples += 7);
        assert_eq!([0.5, 0.99, 0.999, 0.9999].map(|quantile| quantile_of(&samples, quantile)), [Some(7); 4]);
        assert_eq!(quantile_of(&samples, 0.99999), None);
    }

    #[test]
    fn a_plan_takes_what_it_names_and_all_where_it_names_nothing() {
        let pool = suite("pool").unwrap();
        let scenarios = (pool.scenarios)(Mode::Quick);
        let plan = |names: &[&str], threads: &[usize], impls: &[&str]| Plan {
            mode: Mode::Quick,
            rounds: 1,
            run: Duration::ZERO,
            scenarios: names.iter().map(ToString::to_string).collect(),
            threads: threads.to_vec(),
            impls: impls.iter().map(ToString::to_string).collect(),
        };
        let cells = |plan: Plan| {
            let of = |cell: &Cell<'_>| (cell.scenario.name, cell.threads, cell.impls.len());
            plan.cells(pool, &scenarios).iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(cells(plan(&[], &[], &[])).len(), 6 * 5 + 1);
        assert_eq!(cells(plan(&["ample"], &[3], &[])), [("ample", 3, 6)]);
        assert_eq!(cells(plan(&["whale"], &[3], &[])), [], "eight threads or none");
        assert_eq!(cells(plan(&["whale"], &[3, 8], &[])), [("whale", 8, 4)]);
        assert_eq!(cells(plan(&["flow", "mixed"], &[1], &["mutex-stripes"])), [("mixed", 1, 1)]);
    }

    #[test]
    fn every_implementation_of_every_scenario_runs_both_passes() {
        for suite in SUITES {
            let scenarios = (suite.scenarios)(Mode::Quick);
            let run = Duration::from_millis(3);
            let (scenario, threads, impls) = (Vec::new(), vec![8], Vec::new());
            let plan = Plan { mode: Mode::Quick, rounds: 2, run, scenarios: scenario, threads, impls };
            for cell in plan.cells(suite, &scenarios) {
                let (mut rows, mut asked) = (Vec::new(), 0);
                let go_on = |_: &str, _| {
                    asked += 1;
                    true
                };
                plan.measure(&cell, go_on, |row| rows.push(row));
                assert_eq!((rows.len(), asked), (2 * cell.impls.len(), 3 * cell.impls.len()));
                let order: Vec<_> = rows.iter().map(|row| (row.round, row.name)).collect();
                let names = || cell.impls.iter().map(|one| one.name);
                let want: Vec<_> = (1..=2).flat_map(|round| names().map(move |name| (round, name))).collect();
                assert_eq!(order, want, "A B A B");
                for row in rows {
                    assert!(row.ops > 0 && row.ops_per_s > 0.0 && row.seconds > 0.0, "{row:?}");
                    assert!(row.max_ns > 0, "{row:?}");
                }
            }
        }
    }
}
