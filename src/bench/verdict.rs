//! What is compared, and what came of it.
//!
//! A ratio is of one round: what an implementation had by what another had in the same round. What counts is the median over the rounds; `ratio_q1`, `ratio_min` and `ratio_max` are its spread. Floors are read by people: a
//! missed one fails nothing.

use serde::Serialize;

use super::rows::Row;

/// The twins, of which the strongest is the opponent.
const TWINS: [&str; 2] = ["mutex", "mutex-parking-lot"];

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The implementation of this name.
    Named(&'static str),
    /// The twin with the highest median rate in the cell.
    StrongestTwin,
    /// The twin with the lowest median p99.99 in the cell.
    BestTail,
    /// Of these, the one with the highest median rate in the cell.
    Fastest(&'static [&'static str]),
}

impl Who {
    /// For a reader.
    fn label(self) -> &'static str {
        match self {
            Self::Named(name) => name,
            Self::StrongestTwin => "strongest twin",
            Self::BestTail => "twin with the best tail",
            Self::Fastest(_) => "fastest of the others",
        }
    }
}

impl From<&'static str> for Who {
    fn from(name: &'static str) -> Self {
        Self::Named(name)
    }
}

/// What of them is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Operations a second.
    OpsPerS,
    /// p99.99 of the closed loop.
    P9999Ns,
    /// Records of a batch.
    RecordsPerBatch,
    /// Bytes of batches by those of their buffers.
    Fill,
    /// Requests by records.
    RequestsPerRecord,
    /// Small allocations that overtook a whole-pool request, and whether all requests were served: no ratio, but the worst of all rounds by the pool's own bound.
    MaxOvertakes,
}

impl Metric {
    /// What `row` has of it, where that is a figure for a ratio.
    fn of(self, row: &Row) -> Option<f64> {
        let extra = |key| row.extra.get(key).and_then(serde_json::Value::as_f64);
        match self {
            Self::OpsPerS => Some(row.ops_per_s),
            Self::P9999Ns => row.p9999_ns.map(|nanos| nanos as f64),
            Self::RecordsPerBatch => extra("records_per_batch"),
            Self::Fill => extra("fill"),
            Self::RequestsPerRecord => extra("requests_per_record"),
            Self::MaxOvertakes => None,
        }
    }
}

/// What is expected of a ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Floor {
    None,
    /// At one thread, and with more.
    AtLeast(f64, f64),
    AtMost(f64),
    /// No further from 1.
    Within(f64),
}

/// Two implementations, and what one is expected to have by the other's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    own: Who,
    to: Who,
    metric: Metric,
    floor: Floor,
    floor_from: usize,
}

impl Comparison {
    fn new(own: Who, to: Who, metric: Metric) -> Self {
        Self { own, to, metric, floor: Floor::None, floor_from: 1 }
    }

    /// Compares rates.
    pub(super) fn rate(own: impl Into<Who>, to: Who) -> Self {
        Self::new(own.into(), to, Metric::OpsPerS)
    }

    /// Compares p99.99.
    pub(super) fn tail(own: &'static str, to: Who) -> Self {
        Self::new(own.into(), to, Metric::P9999Ns)
    }

    /// Compares what the scenario adds to its rows.
    pub(super) fn figure(own: &'static str, to: &'static str, metric: Metric) -> Self {
        Self::new(own.into(), to.into(), metric)
    }

    /// Expects a ratio that is 1 within `off`.
    pub(super) fn within(self, off: f64) -> Self {
        Self { floor: Floor::Within(off), ..self }
    }

    /// Looks whether whole-pool requests were served within the pool's bound.
    pub(super) fn overtakes(own: &'static str) -> Self {
        Self::new(own.into(), own.into(), Metric::MaxOvertakes)
    }

    /// Expects a ratio of at least `single` at one thread, `many` with more.
    pub(super) fn at_least(self, single: f64, many: f64) -> Self {
        Self { floor: Floor::AtLeast(single, many), ..self }
    }

    /// Expects a ratio of at most `most`.
    pub(super) fn at_most(self, most: f64) -> Self {
        Self { floor: Floor::AtMost(most), ..self }
    }

    /// Expects so from this number of threads on.
    pub(super) fn from(self, threads: usize) -> Self {
        Self { floor_from: threads, ..self }
    }

    /// What came of it in a cell whose rows are `rows`, and in which others had that share of the processors; nothing where one of the two was not run, or has no such figure.
    #[must_use]
    pub fn of(&self, rows: &[Row], others: Option<f64>) -> Option<Summary> {
        let first = rows.first()?;
        let own = resolve(self.own, rows)?;
        let to = resolve(self.to, rows)?;
        let mut summary = Summary {
            suite: first.suite,
            scenario: first.scenario,
            threads: first.threads,
            partitions: first.partitions,
            record_bytes: first.record_bytes,
            name: own,
            of: self.own.label(),
            by: if self.metric == Metric::MaxOvertakes { "" } else { self.to.label() },
            metric: self.metric,
            ratio_to: (self.metric != Metric::MaxOvertakes).then_some(to),
            ratio_median: None,
            ratio_q1: None,
            ratio_min: None,
            ratio_max: None,
            worst: None,
            floor: None,
            met: None,
            cpu_s_per_m: cpu_per_million(rows, own),
            cpu_s_per_m_to: (self.metric != Metric::MaxOvertakes).then(|| cpu_per_million(rows, to)).flatten(),
            others,
        };
        if self.metric == Metric::MaxOvertakes {
            let own: Vec<&Row> = rows.iter().filter(|row| row.name == own).collect();
            let figure = |row: &Row, key| row.extra.get(key).and_then(serde_json::Value::as_u64);
            let worst = own.iter().filter_map(|row| figure(row, "max_overtakes")).max()?;
            let all_served = own.iter().all(|row| figure(row, "served") == figure(row, "tries"));
            summary.worst = Some(worst);
            summary.floor = own.first().and_then(|row| figure(row, "bound")).map(|bound| bound as f64);
            summary.met = summary.floor.map(|bound| all_served && worst as f64 <= bound);
            return Some(summary);
        }
        let figure = |name, round| {
            let row = rows.iter().find(|row| row.name == name && row.round == round)?;
            self.metric.of(row)
        };
        let rounds = rows.iter().map(|row| row.round).max()?;
        let mut ratios: Vec<f64> = (1..=rounds)
            .filter_map(|round| Some(figure(own, round)? / figure(to, round)?.max(f64::MIN_POSITIVE)))
            .collect();
        ratios.sort_by(f64::total_cmp);
        let median = *ratios.get(ratios.len() / 2)?;
        summary.ratio_median = Some(median);
        summary.ratio_q1 = ratios.get(ratios.len() / 4).copied();
        summary.ratio_min = ratios.first().copied();
        summary.ratio_max = ratios.last().copied();
        if first.threads >= self.floor_from {
            (summary.floor, summary.met) = match self.floor {
                Floor::None => (None, None),
                Floor::AtMost(most) => (Some(most), Some(median <= most)),
                Floor::Within(off) => (Some(off), Some((median - 1.0).abs() <= off)),
                Floor::AtLeast(single, many) => {
                    let least = if first.threads == 1 { single } else { many };
                    (Some(least), Some(median >= least))
                }
            };
        }
        Some(summary)
    }
}

/// The name behind `who` in these rows.
fn resolve(who: Who, rows: &[Row]) -> Option<&'static str> {
    let twins = || TWINS.into_iter().filter(|name| rows.iter().any(|row| row.name == *name));
    let median_of = |name: &str, figure: fn(&Row) -> Option<f64>| {
        let mut figures: Vec<f64> = rows.iter().filter(|row| row.name == name).filter_map(figure).collect();
        median(&mut figures)
    };
    match who {
        Who::Named(name) => rows.iter().any(|row| row.name == name).then_some(name),
        Who::StrongestTwin => resolve(Who::Fastest(&TWINS), rows),
        Who::Fastest(names) => {
            let rate = |name: &str| median_of(name, |row| Some(row.ops_per_s));
            let rates = names.iter().filter_map(|name| Some((*name, rate(name)?)));
            rates.max_by(|one, other| one.1.total_cmp(&other.1)).map(|fastest| fastest.0)
        }
        Who::BestTail => {
            let tail = |name: &str| median_of(name, |row| row.p9999_ns.map(|nanos| nanos as f64)).unwrap_or(f64::MAX);
            twins().min_by(|one, other| tail(one).total_cmp(&tail(other)))
        }
    }
}

/// CPU seconds of the process for a million operations, helpers included: the median over the rounds.
fn cpu_per_million(rows: &[Row], name: &str) -> Option<f64> {
    let own = rows.iter().filter(|row| row.name == name && row.ops > 0);
    median(&mut own.map(|row| row.cpu_s * 1e6 / row.ops as f64).collect::<Vec<_>>())
}

/// The middle one; the upper of two.
pub(super) fn median(figures: &mut [f64]) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

/// What came of a comparison, as a line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The cell.
    pub suite: &'static str,
    /// The cell.
    pub scenario: &'static str,
    /// The cell.
    pub threads: usize,
    /// The cell.
    pub partitions: Option<usize>,
    /// The cell.
    pub record_bytes: Option<usize>,
    /// Whose figure it is.
    #[serde(rename = "impl")]
    pub name: &'static str,
    /// Whose, as it was asked for.
    #[serde(skip)]
    pub of: &'static str,
    /// By whose it is divided, as it was asked for.
    #[serde(skip)]
    pub by: &'static str,
    /// Which.
    pub metric: Metric,
    /// By whose it is divided.
    pub ratio_to: Option<&'static str>,
    /// The median over the rounds.
    pub ratio_median: Option<f64>,
    /// A quarter of the rounds had less.
    pub ratio_q1: Option<f64>,
    /// The least.
    pub ratio_min: Option<f64>,
    /// The most.
    pub ratio_max: Option<f64>,
    /// Where it is no ratio: the highest of all rounds.
    pub worst: Option<u64>,
    /// What is expected: of a rate, at least this; of a p99.99 or a number of overtakes, at most; of what batches hold, 1 but for this.
    pub floor: Option<f64>,
    /// Whether it came true.
    pub met: Option<bool>,
    /// CPU seconds of the whole process for a million operations of `impl`, helpers as the drainer included: the median over the rounds.
    pub cpu_s_per_m: Option<f64>,
    /// The same of `ratio_to`.
    pub cpu_s_per_m_to: Option<f64>,
    /// The share of the processors that other programs had while the cell was measured, from 0 to 1. More than some hundredths spoil the figures.
    pub others: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of a cell with this many threads.
    fn row(name: &'static str, round: u32, threads: usize, ops_per_s: f64, p9999_ns: Option<u64>) -> Row {
        let row = Row { name, round, threads, ops_per_s, p9999_ns, ..Row::default() };
        Row { suite: "pool", scenario: "ample", mode: "full", ..row }
    }

    /// Five rounds: the lock-free pool has 2, 3, 4, 5, 9 times what parking_lot has, which is stronger than std and has the worse tail.
    fn cell(threads: usize) -> Vec<Row> {
        let rounds = [(1, 4.0), (2, 9.0), (3, 2.0), (4, 5.0), (5, 3.0)];
        let rows = rounds.into_iter().flat_map(|(round, ratio)| {
            let drift = 100.0 * f64::from(round);
            [
                row("lockfree", round, threads, ratio * drift, Some(10)),
                row("mutex", round, threads, 0.5 * drift, Some(200)),
                row("mutex-parking-lot", round, threads, drift, Some(400)),
            ]
        });
        rows.collect()
    }

    #[test]
    fn a_ratio_is_the_median_over_rounds_against_the_strongest_twin() {
        let summary = Comparison::rate("lockfree", Who::StrongestTwin).at_least(3.0, 5.0).of(&cell(2), None).unwrap();
        assert_eq!(summary.ratio_to, Some("mutex-parking-lot"));
        let spread = [summary.ratio_median, summary.ratio_q1, summary.ratio_min, summary.ratio_max];
        assert_eq!(spread, [4.0, 3.0, 2.0, 9.0].map(Some));
        assert_eq!((summary.floor, summary.met), (Some(5.0), Some(false)));
        let single = Comparison::rate("lockfree", Who::StrongestTwin).at_least(3.0, 5.0).of(&cell(1), None).unwrap();
        assert_eq!((single.floor, single.met), (Some(3.0), Some(true)));
    }

    #[test]
    fn a_tail_is_compared_with_the_best_twins_and_less_is_better() {
        let tail = Comparison::tail("lockfree", Who::BestTail).at_most(0.05).from(4);
        let summary = tail.of(&cell(4), None).unwrap();
        assert_eq!((summary.ratio_to, summary.ratio_median, summary.met), (Some("mutex"), Some(0.05), Some(true)));
        let summary = tail.of(&cell(2), None).unwrap();
        assert_eq!((summary.ratio_median, summary.floor, summary.met), (Some(0.05), None, None), "no floor below four");
        assert_eq!(
            Comparison::tail("lockfree", Who::BestTail).at_most(0.04).of(&cell(4), None).unwrap().met,
            Some(false)
        );
    }

    #[test]
    fn what_batches_hold_is_to_be_equal() {
        let batch = |name, round, held: f64| {
            let mut row = row(name, round, 8, 1_000.0, None);
            (row.ops, row.cpu_s) = (4_000_000, 0.5 * f64::from(round));
            row.extra.insert("records_per_batch".to_owned(), held.into());
            row
        };
        let of = |held: [f64; 3]| {
            let rows =
                (1..=3).flat_map(|round| [batch("own", round, held[round as usize - 1]), batch("twin", round, 0.5)]);
            Comparison::figure("own", "twin", Metric::RecordsPerBatch)
                .within(0.02)
                .of(&rows.collect::<Vec<_>>(), None)
                .unwrap()
        };
        let summary = of([0.45, 0.509, 0.8]);
        assert_eq!((summary.floor, summary.met, summary.ratio_median), (Some(0.02), Some(true), Some(0.509 / 0.5)));
        assert_eq!(
            (summary.cpu_s_per_m, summary.cpu_s_per_m_to),
            (Some(0.25), Some(0.25)),
            "of the round in the middle"
        );
        assert_eq!(of([0.489, 0.489, 0.5]).met, Some(false), "fewer");
        assert_eq!(of([0.5, 0.511, 0.511]).met, Some(false), "more");
    }

    #[test]
    fn who_was_not_run_or_has_no_such_figure_is_not_compared() {
        assert_eq!(Comparison::rate("lockfree", Who::Named("mutex-stripes")).of(&cell(1), None), None);
        assert_eq!(Comparison::rate("lockfree", Who::StrongestTwin).of(&cell(1)[..1], None), None);
        assert_eq!(Comparison::rate("lockfree", Who::StrongestTwin).of(&[], None), None);
        let rows = [row("lockfree", 1, 1, 1.0, None), row("mutex", 1, 1, 1.0, Some(9))];
        assert_eq!(Comparison::tail("lockfree", Who::BestTail).of(&rows, None), None);
    }

    #[test]
    fn an_interrupted_round_counts_for_those_that_were_run_in_it() {
        let mut rows = cell(2);
        // The last round has the lock-free pool alone: 4, 9, 2, 5 are left.
        rows.truncate(13);
        let summary = Comparison::rate("lockfree", Who::StrongestTwin).of(&rows, None).unwrap();
        assert_eq!((summary.ratio_median, summary.ratio_min), (Some(5.0), Some(2.0)));
    }

    #[test]
    fn overtakes_are_the_worst_of_all_rounds_and_every_request_is_served() {
        let whale = |round, tries: u64, served: u64, overtakes: u64, bound: Option<u64>| {
            let mut row = row("lockfree", round, 8, 1.0, None);
            let figures = [("tries", tries), ("served", served), ("max_overtakes", overtakes)];
            row.extra.extend(figures.map(|(key, figure)| (key.to_owned(), figure.into())));
            row.extra.insert("bound".to_owned(), bound.into());
            row
        };
        let of = |rows: &[Row]| Comparison::overtakes("lockfree").of(rows, None).unwrap();
        let summary = of(&[whale(1, 9, 9, 3, Some(4)), whale(2, 9, 9, 4, Some(4))]);
        assert_eq!((summary.worst, summary.floor, summary.met), (Some(4), Some(4.0), Some(true)));
        assert_eq!(of(&[whale(1, 9, 9, 5, Some(4)), whale(2, 9, 9, 0, Some(4))]).met, Some(false));
        assert_eq!(
            of(&[whale(1, 9, 8, 0, Some(4)), whale(2, 9, 9, 0, Some(4))]).met,
            Some(false),
            "one was not served"
        );
        assert_eq!(of(&[whale(1, 9, 9, 7, None)]).met, None, "no promise, no verdict");
    }
}
