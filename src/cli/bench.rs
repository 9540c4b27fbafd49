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

    let bar = progress_bar(cells.iter().map(|cell| cell.impls.len() as u64 * u64::from(plan.rounds + 1)).sum());
    let mut failed = None;
    let mut measured: Vec<Vec<Row>> = Vec::new();
    for cell in &cells {
        let mut rows = Vec::new();
        let go_on = |name: &str, round: u32| {
            bar.set_message(format!(
                "{} {}, {} threads: {name}, round {round}",
                cell.suite, cell.scenario.name, cell.threads
            ));
            bar.inc(1);
            !stop.asked()
        };
        plan.measure(cell, go_on, |row| {
            failed = failed.take().or(lines.write(&row).err());
            rows.push(row);
        });
        measured.push(rows);
        if stop.asked() || failed.is_some() {
            break;
        }
    }
    bar.finish_and_clear();
    if let Some(error) = failed {
        return Err(error);
    }
    let mut summaries = Vec::new();
    for (cell, rows) in cells.iter().zip(&measured) {
        summaries.extend(cell.scenario.comparisons.iter().filter_map(|comparison| comparison.of(rows)));
    }
    summaries.iter().try_for_each(|summary| lines.write(summary))?;
    let text = text(&machine, &plan, &measured, &summaries);
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

/// A table of rates for each scenario, and the verdicts.
fn text(machine: &Machine, plan: &Plan, measured: &[Vec<Row>], summaries: &[Summary]) -> String {
    let mut text = format!(
        "{}, {} cores, {}; idle loop p99.99 {}, max {}; two threads do {:.2} x one's arithmetic{}\n",
        machine.machine.as_deref().unwrap_or(machine.arch),
        machine.cores,
        machine.kernel,
        nanos(machine.idle_p9999_ns),
        nanos(machine.idle_max_ns),
        machine.two_threads,
        if machine.busy { ": busy" } else { "" },
    );
    let mut done: Vec<(&str, &str, Option<usize>)> = Vec::new();
    for first in measured.iter().filter_map(|rows| rows.first()) {
        let scenario = (first.suite, first.scenario, first.record_bytes);
        if done.contains(&scenario) {
            continue;
        }
        done.push(scenario);
        let cells: Vec<&[Row]> = measured
            .iter()
            .filter(|rows| rows.first().is_some_and(|row| (row.suite, row.scenario, row.record_bytes) == scenario))
            .map(Vec::as_slice)
            .collect();
        let bytes = first.record_bytes.map_or_else(String::new, |bytes| format!(", {bytes} bytes"));
        text += &format!("\n{} {}{bytes}: operations a second and p99.99 by threads\n", first.suite, first.scenario);
        text += &format!("{}\n", rates(&cells));
    }
    if !summaries.is_empty() {
        text += "\nratios of a round, the median over the rounds; floors are read by people and gate nothing\n";
        text += &format!("{}\n", verdicts(summaries));
        let judged: Vec<bool> = summaries.iter().filter_map(|summary| summary.met).collect();
        let met = judged.iter().filter(|met| **met).count();
        text += &format!("{met} of {} floors met, {} rounds, {}\n", judged.len(), plan.rounds, plan.mode.name());
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

/// One scenario: implementations down, threads across.
fn rates(cells: &[&[Row]]) -> Table {
    let threads = cells.iter().filter_map(|rows| rows.first()).map(|row| format!("{} threads", row.threads));
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
            format!("{}{tail}{waits}", rate_text(rate))
        };
        table.add_row(std::iter::once(name.to_owned()).chain(cells.iter().map(cell)).collect::<Vec<_>>());
    }
    right(&mut table, 1);
    table
}

fn rate_text(rate: f64) -> String {
    if rate >= 1e6 { format!("{:.1} M", rate / 1e6) } else { format!("{:.1} k", rate / 1e3) }
}

fn verdicts(summaries: &[Summary]) -> Table {
    let header = ["scenario", "threads", "of", "what", "by", "median", "q1", "min", "max", "floor", ""];
    let mut table = table(header.map(str::to_owned));
    for summary in summaries {
        let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
        let bytes = summary.record_bytes.map_or_else(String::new, |bytes| format!(" {bytes} B"));
        let (what, sign) = match summary.metric {
            Metric::OpsPerS => ("rate", "≥"),
            Metric::P9999Ns => ("p99.99", "≤"),
            Metric::MaxOvertakes => ("overtakes", "≤"),
        };
        table.add_row([
            format!("{} {}{bytes}", summary.suite, summary.scenario),
            summary.threads.to_string(),
            summary.name.to_owned(),
            what.to_owned(),
            summary.ratio_to.unwrap_or_default().to_owned(),
            summary.worst.map_or_else(|| ratio(summary.ratio_median), |worst| worst.to_string()),
            ratio(summary.ratio_q1),
            ratio(summary.ratio_min),
            ratio(summary.ratio_max),
            summary.floor.map_or_else(String::new, |floor| format!("{sign} {floor}")),
            summary.met.map_or("", |met| if met { "met" } else { "missed" }).to_owned(),
        ]);
    }
    right(&mut table, 5);
    table
}
