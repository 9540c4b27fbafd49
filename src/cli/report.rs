//! What `compare` prints, and what it writes as JSON.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::child::RunResult;
use super::faults::Counts;

/// All runs of a comparison.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    runs: Vec<RunResult>,
}

/// One core's figures over all its rounds: medians, but for the worst of maxima.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct CoreReport {
    core: String,
    records_per_s: f64,
    cpu_s_per_m: f64,
    p50_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    p9999_ns: u64,
    max_ns: u64,
    batches: u64,
    fill: f64,
    compression_rate: f64,
    off_pool_peak_bytes: u64,
    peak_rss_bytes: u64,
    /// With `--faults`: what the broker did wrong, by kind, over all rounds.
    #[serde(skip_serializing_if = "Counts::is_empty")]
    faults: Counts,
    /// Records sent again because of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    retried: Option<u64>,
}

/// The object that `--json` writes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// Records that each core got in each round; null where that differed, as it does with a limit in time.
    records_in: Option<u64>,
    records_in_total: u64,
    records_read_back: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    rounds: u32,
    bytes: u64,
    cores: Vec<CoreReport>,
    /// With `--faults`: what the broker did wrong, by kind, to all cores.
    #[serde(skip_serializing_if = "Counts::is_empty")]
    faults: Counts,
    /// Median over the rounds of the lock-free core's rate by the strongest mutex's; null where only one kind of core was run.
    ratio_records_per_s: Option<f64>,
}

impl Report {
    pub(super) fn is_clean(&self) -> bool {
        (self.lost, self.duplicated, self.reordered) == (0, 0, 0) && self.records_read_back == self.records_in_total
    }
}

fn median<T: Copy>(values: impl IntoIterator<Item = T>, order: impl Fn(&T, &T) -> std::cmp::Ordering) -> Option<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_by(order);
    values.get(values.len() / 2).copied()
}

/// What the broker did wrong in all of `runs`.
fn injected<'a>(runs: impl Iterator<Item = &'a RunResult>) -> Counts {
    let mut sum = Counts::new();
    for (kind, count) in runs.flat_map(|run| &run.faults) {
        *sum.entry(kind.clone()).or_default() += count;
    }
    sum
}

fn rate(run: &RunResult) -> f64 {
    run.records_in as f64 / run.seconds.max(f64::MIN_POSITIVE)
}

impl Comparison {
    pub(super) fn add(&mut self, run: RunResult) {
        self.runs.push(run);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Cores in the order in which they first ran.
    fn cores(&self) -> Vec<&str> {
        let mut cores: Vec<&str> = Vec::new();
        for run in &self.runs {
            if !cores.contains(&run.core.as_str()) {
                cores.push(&run.core);
            }
        }
        cores
    }

    fn runs_of<'a>(&'a self, core: &'a str) -> impl Iterator<Item = &'a RunResult> {
        self.runs.iter().filter(move |run| run.core == core)
    }

    fn core(&self, core: &str) -> CoreReport {
        let real = |of: fn(&RunResult) -> f64| median(self.runs_of(core).map(of), f64::total_cmp).unwrap_or(0.0);
        let whole = |of: fn(&RunResult) -> u64| median(self.runs_of(core).map(of), u64::cmp).unwrap_or(0);
        let faults = injected(self.runs_of(core));
        CoreReport {
            core: core.to_owned(),
            records_per_s: real(rate),
            cpu_s_per_m: real(|run| run.cpu_s / (run.records_in.max(1) as f64 / 1e6)),
            p50_ns: whole(|run| run.p50_ns),
            p99_ns: whole(|run| run.p99_ns),
            p999_ns: whole(|run| run.p999_ns),
            p9999_ns: whole(|run| run.p9999_ns),
            max_ns: self.runs_of(core).map(|run| run.max_ns).max().unwrap_or(0),
            batches: whole(|run| run.batches),
            fill: real(|run| run.fill),
            compression_rate: real(|run| run.compression_rate),
            off_pool_peak_bytes: self.runs_of(core).map(|run| run.off_pool_peak_bytes).max().unwrap_or(0),
            peak_rss_bytes: self.runs_of(core).map(|run| run.peak_rss_bytes).max().unwrap_or(0),
            retried: (!faults.is_empty()).then(|| self.runs_of(core).map(|run| run.retried).sum()),
            faults,
        }
    }

    /// Median over the rounds of the lock-free core's rate by the fastest mutex's of that round.
    fn ratio(&self) -> Option<f64> {
        let of_round = |round: u32| {
            let runs = self.runs.iter().filter(move |run| run.round == round);
            let (lockfree, mutex): (Vec<_>, Vec<_>) = runs.partition(|run| run.core.starts_with("lockfree"));
            let best = |runs: Vec<&RunResult>| runs.into_iter().map(rate).max_by(f64::total_cmp);
            Some(best(lockfree)? / best(mutex)?)
        };
        let rounds = self.runs.iter().map(|run| run.round).max().unwrap_or(0);
        median((1..=rounds).filter_map(of_round), f64::total_cmp)
    }

    pub(super) fn report(&self) -> Report {
        let sum = |of: fn(&RunResult) -> u64| self.runs.iter().map(of).sum();
        let first = self.runs.first().map(|run| run.records_in);
        Report {
            records_in: first.filter(|first| self.runs.iter().all(|run| run.records_in == *first)),
            records_in_total: sum(|run| run.records_in),
            records_read_back: sum(|run| run.read_back),
            lost: sum(|run| run.lost),
            duplicated: sum(|run| run.duplicated),
            reordered: sum(|run| run.reordered),
            rounds: self.runs.iter().map(|run| run.round).max().unwrap_or(0),
            bytes: sum(|run| run.bytes),
            cores: self.cores().into_iter().map(|core| self.core(core)).collect(),
            faults: injected(self.runs.iter()),
            ratio_records_per_s: self.ratio(),
        }
    }

    /// The table, the verdict, and what else a reader should know.
    pub(super) fn text(&self) -> String {
        let report = self.report();
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        // Without a codec these say nothing.
        let packed = report.cores.iter().any(|core| core.off_pool_peak_bytes > 0);
        let only_if = |packed: bool, cells: &[String]| if packed { cells.to_vec() } else { Vec::new() };
        let header = ["core", "records", "MB", "batches", "fill"].map(str::to_owned).to_vec();
        let codec = only_if(packed, &["ratio", "off-pool KiB"].map(str::to_owned));
        let rest = ["records/s", "CPU s/M", "p50", "p99", "p99.9", "p99.99", "max", "peak MiB"].map(str::to_owned);
        table.set_header([header, codec, rest.to_vec()].concat());
        for core in &report.cores {
            let records: u64 = self.runs_of(&core.core).map(|run| run.records_in).sum();
            let bytes: u64 = self.runs_of(&core.core).map(|run| run.bytes).sum();
            let head = [
                core.core.clone(),
                grouped(records),
                format!("{:.1}", bytes as f64 / 1e6),
                grouped(core.batches),
                format!("{:.1} %", core.fill * 100.0),
            ];
            let codec = [format!("{:.3}", core.compression_rate), grouped(core.off_pool_peak_bytes >> 10)];
            let rest = [
                grouped(core.records_per_s as u64),
                format!("{:.3}", core.cpu_s_per_m),
                nanos(core.p50_ns),
                nanos(core.p99_ns),
                nanos(core.p999_ns),
                nanos(core.p9999_ns),
                nanos(core.max_ns),
                format!("{:.1}", core.peak_rss_bytes as f64 / f64::from(1 << 20)),
            ];
            table.add_row([head.to_vec(), only_if(packed, &codec), rest.to_vec()].concat());
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        let mut text = format!("{table}\n");
        text += "records and MB: all rounds. Rates, batches, fill and latencies of one append: median of the rounds; max and peak memory: the worst.\n";
        text += "fill: bytes of batches by bytes of their buffers. CPU s/M: CPU seconds for a million records; time and CPU include sender, broker and check.\n";
        if packed {
            text += "ratio: bytes of a batch's records as sent by those uncompressed, mean of the batches. off-pool: most memory that codecs took outside of the pool.\n";
        }
        if let Some(ratio) = report.ratio_records_per_s {
            text += &format!(
                "lockfree by the strongest mutex: {ratio:.2} x the records/s (median of {} rounds)\n",
                report.rounds
            );
        }
        for core in &report.cores {
            let Some(retried) = core.retried else { continue };
            let kinds: Vec<_> = core.faults.iter().map(|(kind, count)| format!("{kind} {}", grouped(*count))).collect();
            text += &format!("{} met {}; records sent again: {}\n", core.core, kinds.join(", "), grouped(retried));
        }
        let short: u64 = self.runs.iter().map(|run| run.short_rows).sum();
        if short > 0 {
            text += &format!("{} rows have too few fields for a key and were sent without one\n", grouped(short));
        }
        if let Some(error) = self.runs.iter().find_map(|run| run.first_error.as_ref()) {
            text += &format!("first failure: {error}\n");
        }
        let found: u64 = self.runs.iter().map(|run| run.found).sum();
        text += &format!(
            "found again {} of {}, lost {}, duplicated {}, out of order {}\n",
            grouped(found),
            grouped(report.records_in_total),
            grouped(report.lost),
            grouped(report.duplicated),
            grouped(report.reordered),
        );
        text
    }
}

/// A number with its thousands set apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A time with a unit that leaves it three digits or so.
pub(super) fn nanos(nanos: u64) -> String {
    match nanos {
        0..10_000 => format!("{nanos} ns"),
        10_000..10_000_000 => format!("{:.1} us", nanos as f64 / 1e3),
        _ => format!("{:.1} ms", nanos as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(core: &str, round: u32, records_in: u64, seconds: f64) -> RunResult {
        let core = core.to_owned();
        RunResult { core, round, records_in, seconds, read_back: records_in, found: records_in, ..RunResult::default() }
    }

    fn comparison(runs: impl IntoIterator<Item = RunResult>) -> Comparison {
        Comparison { runs: runs.into_iter().collect() }
    }

    #[test]
    fn ratio_is_the_median_over_rounds_against_the_strongest_mutex() {
        let all = comparison((1..=3).flat_map(|round| {
            [
                run("lockfree", round, 100 * u64::from(round), 1.0),
                run("mutex", round, 10, 1.0),
                run("mutex-parking-lot", round, 50, 1.0),
            ]
        }));
        assert_eq!(all.report().ratio_records_per_s, Some(4.0));
        assert_eq!(comparison([run("mutex", 1, 5, 1.0)]).report().ratio_records_per_s, None);
    }

    #[test]
    fn records_in_is_a_number_only_where_all_runs_agree() {
        assert_eq!(comparison([run("a", 1, 5, 1.0), run("b", 1, 5, 1.0)]).report().records_in, Some(5));
        assert_eq!(comparison([run("a", 1, 5, 1.0), run("b", 1, 6, 1.0)]).report().records_in, None);
    }

    #[test]
    fn clean_needs_every_record_read_back_and_nothing_wrong() {
        assert!(comparison([run("a", 1, 5, 1.0)]).report().is_clean());
        for spoil in [
            |run: &mut RunResult| run.read_back = 4,
            |run: &mut RunResult| run.lost = 1,
            |run: &mut RunResult| run.duplicated = 1,
            |run: &mut RunResult| run.reordered = 1,
        ] {
            let mut run = run("a", 1, 5, 1.0);
            spoil(&mut run);
            assert!(!comparison([run]).report().is_clean());
        }
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
    }

    #[test]
    fn text_ends_with_the_verdict() {
        let text = comparison([run("mutex", 1, 1_000, 1.0)]).text();
        assert!(text.ends_with("found again 1 000 of 1 000, lost 0, duplicated 0, out of order 0\n"), "{text}");
    }
}
