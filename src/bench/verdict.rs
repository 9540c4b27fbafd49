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
}

impl Who {
    /// For a reader.
    fn label(self) -> &'static str {
        match self {
            Self::Named(name) => name,
            Self::StrongestTwin => "strongest twin",
            Self::BestTail => "twin with the best tail",
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
    /// Small allocations that overtook a whole-pool request, and whether all requests were served: no ratio, but the worst of all rounds by the pool's own bound.
    MaxOvertakes,
}

/// What is expected of a ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Floor {
    None,
    /// At one thread, and with more.
    AtLeast(f64, f64),
    AtMost(f64),
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
            match self.metric {
                Metric::P9999Ns => row.p9999_ns.map(|nanos| nanos as f64),
                Metric::OpsPerS | Metric::MaxOvertakes => Some(row.ops_per_s),
            }
        };
        let rounds = rows.iter().map(|row| row.round).max()?;
        let mut ratios: Vec<f64> =
            (1..=rounds).filter_map(|round| Some(figure(own, round)? / figure(to, round)?.max(1.0))).collect();
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
        Who::StrongestTwin => {
            let rate = |name: &str| median_of(name, |row| Some(row.ops_per_s)).unwrap_or(0.0);
            twins().max_by(|one, other| rate(one).total_cmp(&rate(other)))
        }
        Who::BestTail => {
            let tail = |name: &str| median_of(name, |row| row.p9999_ns.map(|nanos| nanos as f64)).unwrap_or(f64::MAX);
            twins().min_by(|one, other| tail(one).total_cmp(&tail(other)))
        }
    }
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
    /// What is expected: of a rate, at least this; of a p99.99 or a number of overtakes, at most.
    pub floor: Option<f64>,
    /// Whether it came true.
    pub met: Option<bool>,
    /// The share of the processors that other programs had while the cell was measured, from 0 to 1. More than some hundredths spoil the figures.
    pub others: Option<f64>,
}
