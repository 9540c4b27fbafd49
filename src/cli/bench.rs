//! `unlatched bench`: suites of scenarios, each implementation beside the others, as a table and as lines of JSON.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::BenchArgs;
use super::report::nanos;
use super::stop::Stop;
use crate::bench::machine::Machine;
use crate::bench::rows::{Cell, Plan, Row};
use crate::bench::verdict::{Metric, Summary};
use crate::bench::{Mode, Scenario, Suite};
use crate::primitive::clock::{Clock, SystemClock};

/// Runs the suites, prints their tables, writes rows as they come.
pub(super) fn run(args: &BenchArgs) -> Result<ExitCode> {
    let mode = if args.quick { Mode::Quick } else { Mode::Full };
    let plan = Plan {
        mode,
        rounds: args.rounds.unwrap_or(mode.rounds()),
        run: args.run_seconds.map_or(mode.run(), Duration::from_secs_f64),
        scenarios: args.scenario.clone(),
        threads: args.threads.clone(),
        impls: args.implementation.clone(),
    };
    let suites: Vec<(&Suite, Vec<Scenario>)> = args.suites().map(|suite| (suite, (suite.scenarios)(mode))).collect();
    let cells: Vec<Cell<'_>> = suites.iter().flat_map(|(suite, scenarios)| plan.cells(suite, scenarios)).collect();
    if cells.is_empty() {
        bail!("nothing to measure: --scenario, --threads and --impl leave no cell; leave one of them away");
    }
    let mut lines = Lines::create(args)?;
    let stop = Stop::on_signal();
    let clock = SystemClock::new();
    let machine = Machine::look();
    lines.write(&machine)?;
    if machine.busy {
        super::note(format_args!(
            "busy: two threads do {:.2} times one's arithmetic here, where a quiet machine has 1.6 or more: end what else runs, or \
             take the figures with care",
            machine.two_threads
        ));
    }
    if !machine.release {
        super::note(format_args!(
            "built without optimisation or with test hooks: figures mean little; use cargo run --release"
        ));
    }

    let bar = progress_bar(cells.iter().map(|cell| cell.runs(&plan)).sum());
    let mut failed = None;
    let begin = clock.now();
    let mut measured: Vec<Measured> = Vec::new();
    for cell in &cells {
        let mut rows = Vec::new();
        let go_on = |name: &str, round: u32| {
            bar.set_message(format!(
                "{} {}, {}: {name}, round {round}",
                cell.suite,
                cell.scenario.name,
                counted(cell.threads, "thread")
            ));
            bar.inc(1);
            !stop.asked()
        };
        let others = plan.measure(cell, go_on, |row| {
            failed = failed.take().or(lines.write(&row).err());
            rows.push(row);
        });
        measured.push(Measured { rows, others });
        if stop.asked() || failed.is_some() {
            break;
        }
    }
    bar.finish_and_clear();
    if let Some(error) = failed {
        return Err(error);
    }
    let mut summaries = Vec::new();
    for (cell, Measured { rows, others }) in cells.iter().zip(&measured) {
        summaries.extend(cell.scenario.comparisons.iter().filter_map(|comparison| comparison.of(rows, *others)));
    }
    summaries.iter().try_for_each(|summary| lines.write(summary))?;
    let took = clock.now().saturating_since(begin);
    let text = text(&machine, &measured, &summaries)
        + &format!("{} mode, {}, {:.0} s\n", mode.name(), counted(plan.rounds as usize, "round"), took.as_secs_f64());
    let printed = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
    super::has_reader(printed).context("cannot write to standard output")?;
    Ok(if stop.asked() {
        super::note(format_args!("interrupted: the figures are of what was run until then"));
        ExitCode::from(super::INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Lines of JSON, each written as soon as it is there.
struct Lines<'a>(Option<(File, &'a std::path::Path)>);

impl<'a> Lines<'a> {
    /// Before anything is measured, so that a path that cannot be written costs no run.
    fn create(args: &'a BenchArgs) -> Result<Self> {
        let Some(path) = args.json.as_deref() else { return Ok(Self(None)) };
        if path.as_os_str() == "-" {
            bail!("--json takes a file: standard output has the table");
        }
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(Some((file, path))))
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let Some((file, path)) = &mut self.0 else { return Ok(()) };
        let line = serde_json::to_string(line)? + "\n";
        file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn progress_bar(runs: u64) -> ProgressBar {
    let bar = ProgressBar::new(runs);
    let style = ProgressStyle::with_template("[{bar:30}] {pos} of {len} runs, {eta} left; {msg}");
    // Nothing ticks in between: what is measured is not to share the machine with a progress bar.
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// A cell, measured.
struct Measured {
    rows: Vec<Row>,
    /// The share of the processors that others had.
    others: Option<f64>,
}

/// Others' share from which on a cell's figures are named as spoilt.
const SPOILT: f64 = 0.05;

/// A table of rates for each scenario, and the verdicts.
fn text(machine: &Machine, measured: &[Measured], summaries: &[Summary]) -> String {
    let mut text = format!(
        "{}, {} cores, {}; idle loop p99.99 {}, max {}; two threads do {:.2} x one's arithmetic{}, and hand a line over in {}\n",
        machine.machine.as_deref().unwrap_or(machine.arch),
        machine.cores,
        machine.kernel,
        nanos(machine.idle_p9999_ns),
        nanos(machine.idle_max_ns),
        machine.two_threads,
        if machine.busy { " (busy)" } else { "" },
        machine.handover_ns.map_or_else(|| "unknown time".to_owned(), nanos),
    );
    let scenario = |row: &Row| (row.suite, row.scenario, row.partitions, row.record_bytes);
    let rows: Vec<&[Row]> = measured.iter().map(|cell| &cell.rows[..]).filter(|rows| !rows.is_empty()).collect();
    for cells in rows.chunk_by(|one, next| scenario(&one[0]) == scenario(&next[0])) {
        let (suite, name, partitions, bytes) = scenario(&cells[0][0]);
        let partitions = partitions.map_or_else(String::new, |partitions| format!(", {partitions} partitions"));
        let bytes = bytes.map_or_else(String::new, |bytes| format!(", {bytes} bytes"));
        text += &format!(
            "\n{suite} {name}{partitions}{bytes}: operations a second and p99.99 by threads\n{}\n",
            rates(cells)
        );
    }
    if !summaries.is_empty() {
        text += "\nRatios of a round by threads: the median over the rounds, and the spread; ? where the floor lies within it; then CPU seconds of the process for a million operations, of both sides, with what drains or frees beside them. Floors are read by people and gate nothing.\n";
        text += &format!("{}\n", verdicts(summaries));
        let judged: Vec<bool> = summaries.iter().filter_map(|summary| summary.met).collect();
        text += &format!("{} of {} floors met\n", judged.iter().filter(|met| **met).count(), judged.len());
    }
    let spoilt: Vec<String> = measured
        .iter()
        .filter_map(|cell| Some((cell.rows.first()?, cell.others.filter(|others| *others > SPOILT)?)))
        .map(|(row, others)| format!("{} {}/{} ({:.0} %)", row.suite, row.scenario, row.threads, others * 100.0))
        .collect();
    if !spoilt.is_empty() {
        text += &format!(
            "spoilt by what else ran, with its share of the processors; take them again: {}\n",
            spoilt.join(", ")
        );
    }
    text
}

fn table(header: impl IntoIterator<Item = String>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header.into_iter().collect::<Vec<_>>());
    table
}

fn right(table: &mut Table, from: usize) {
    table.column_iter_mut().skip(from).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
}

/// "1 thread", "2 threads".
fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// One scenario: implementations down, threads across.
fn rates(cells: &[&[Row]]) -> Table {
    let threads = cells.iter().filter_map(|rows| rows.first()).map(|row| counted(row.threads, "thread"));
    let mut table = table(std::iter::once(String::new()).chain(threads));
    let mut names: Vec<&str> = Vec::new();
    for row in cells.iter().copied().flatten() {
        if !names.contains(&row.name) {
            names.push(row.name);
        }
    }
    for name in names {
        let cell = |rows: &&[Row]| {
            let of = |figure: fn(&Row) -> Option<f64>| {
                let mut figures: Vec<f64> = rows.iter().filter(|row| row.name == name).filter_map(figure).collect();
                figures.sort_by(f64::total_cmp);
                figures.get(figures.len() / 2).copied()
            };
            let Some(rate) = of(|row| Some(row.ops_per_s)) else { return String::new() };
            let tail = of(|row| row.p9999_ns.map(|tail| tail as f64));
            let waits = of(|row| row.extra.get("waits_per_op").and_then(serde_json::Value::as_f64));
            let tail = tail.map_or_else(String::new, |tail| format!(", {}", nanos(tail as u64)));
            let waits = waits.map_or_else(String::new, |waits| format!(", {waits:.2} waits"));
            format!("{}{tail}{waits}{}", rate_text(rate), whales(rows, name))
        };
        table.add_row(std::iter::once(name.to_owned()).chain(cells.iter().map(cell)).collect::<Vec<_>>());
    }
    right(&mut table, 1);
    table
}

/// What became of whole-pool requests, over all rounds.
fn whales(rows: &[Row], name: &str) -> String {
    let figures = |key: &str| {
        let own = rows.iter().filter(|row| row.name == name);
        own.filter_map(|row| row.extra.get(key).and_then(serde_json::Value::as_u64)).collect::<Vec<_>>()
    };
    let Some(longest) = figures("longest_wait_ns").into_iter().max() else { return String::new() };
    let [served, tries] = ["served", "tries"].map(|key| figures(key).iter().sum::<u64>());
    let overtakes = figures("max_overtakes").into_iter().max().unwrap_or(0);
    format!("; whole pool: {served} of {tries} served, {} at most, {overtakes} overtakes at most", nanos(longest))
}

fn rate_text(rate: f64) -> String {
    if rate >= 1e6 { format!("{:.1} M", rate / 1e6) } else { format!("{:.1} k", rate / 1e3) }
}

/// Comparisons down, threads across.
fn verdicts(summaries: &[Summary]) -> Table {
    let mut threads: Vec<usize> = summaries.iter().map(|summary| summary.threads).collect();
    threads.sort_unstable();
    threads.dedup();
    let mut table = table(
        ["scenario", "of", "what", "by", "floor"]
            .map(str::to_owned)
            .into_iter()
            .chain(threads.iter().map(ToString::to_string)),
    );
    let key = |one: &Summary| (one.suite, one.scenario, one.partitions, one.record_bytes, one.of, one.metric, one.by);
    let mut keys: Vec<_> = Vec::new();
    for summary in summaries {
        if !keys.contains(&key(summary)) {
            keys.push(key(summary));
        }
    }
    for row in keys {
        let (suite, scenario, partitions, bytes, of, metric, by) = row;
        let own: Vec<&Summary> = summaries.iter().filter(|summary| key(summary) == row).collect();
        let partitions = partitions.map_or_else(String::new, |partitions| format!(" /{partitions}"));
        let bytes = bytes.map_or_else(String::new, |bytes| format!(" {bytes} B"));
        let (what, sign) = match metric {
            Metric::OpsPerS => ("rate", "≥"),
            Metric::P9999Ns => ("p99.99", "≤"),
            Metric::RecordsPerBatch => ("records a batch", "1 ±"),
            Metric::Fill => ("fill", "1 ±"),
            Metric::RequestsPerRecord => ("requests a record", "1 ±"),
            Metric::MaxOvertakes => ("overtakes", "≤"),
        };
        let mut floors: Vec<String> =
            own.iter().filter_map(|summary| summary.floor).map(|floor| floor.to_string()).collect();
        floors.dedup();
        let floor = if floors.is_empty() { String::new() } else { format!("{sign} {}", floors.join(", ")) };
        let cell = |threads: &usize| {
            own.iter().find(|summary| summary.threads == *threads).map_or_else(String::new, |summary| verdict(summary))
        };
        let fixed =
            [format!("{suite} {scenario}{partitions}{bytes}"), of.to_owned(), what.to_owned(), by.to_owned(), floor];
        table.add_row(fixed.into_iter().chain(threads.iter().map(cell)));
    }
    right(&mut table, 5);
    table
}

fn verdict(summary: &Summary) -> String {
    let ratio = |ratio: f64| if ratio < 10.0 { format!("{ratio:.2}") } else { format!("{ratio:.0}") };
    let figure = match (summary.worst, summary.ratio_median, summary.ratio_min, summary.ratio_max) {
        (Some(worst), ..) => worst.to_string(),
        (_, Some(median), Some(least), Some(most)) => {
            format!("{} ({} to {})", ratio(median), ratio(least), ratio(most))
        }
        _ => String::new(),
    };
    let mark = summary.met.map_or("", |met| if met { " met" } else { " MISSED" });
    let off = matches!(summary.metric, Metric::RecordsPerBatch | Metric::Fill | Metric::RequestsPerRecord);
    let spread = summary.floor.filter(|_| !off).zip(summary.ratio_min.zip(summary.ratio_max));
    let open = spread.is_some_and(|(floor, (least, most))| least < floor && floor < most);
    // As many digits as tell two of them apart, however little an operation takes.
    let cpu = |cpu: f64| if cpu < 1.0 { format!("{cpu:.3}") } else { format!("{cpu:.1}") };
    let cpu = match (summary.cpu_s_per_m, summary.cpu_s_per_m_to) {
        (Some(own), Some(to)) => format!("; {} by {}", cpu(own), cpu(to)),
        (Some(own), None) => format!("; {}", cpu(own)),
        _ => String::new(),
    };
    format!("{figure}{mark}{}{cpu}", if open { "?" } else { "" })
}
