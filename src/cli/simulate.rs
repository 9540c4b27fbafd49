//! `unlatched simulate`: seeded histories of accumulator and sender against a cluster that goes wrong.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use serde::Serialize;

use super::args::SimulateArgs;
use super::report::grouped;
use super::stop::Stop;
use super::whole_file::{probe_writable, write_whole};
use crate::primitive::atomic::AtomicU64;
use crate::primitive::atomic::Ordering::Relaxed;
use crate::primitive::clock::{Clock, SystemClock};
use crate::primitive::thread;
use crate::simulation::{Core, Tally, run as history, shrink};

/// A run of so many histories of a core must have met everything.
const ENOUGH: u64 = 5_000;

/// Failing seeds that are made small and printed, of each core.
const SHOWN: usize = 3;

/// The figures of a run, as they go to the JSON.
#[derive(Debug, Serialize)]
struct Figures {
    seeds: String,
    histories: u64,
    cores: Vec<&'static str>,
    failed: Vec<u64>,
    records: u64,
    acked: u64,
    failed_records: u64,
    faults: BTreeMap<&'static str, u64>,
    error_codes: BTreeMap<String, u64>,
    histories_per_s: f64,
}

/// Runs the histories, prints what came out, writes the JSON.
pub(super) fn run(args: &SimulateArgs) -> Result<ExitCode> {
    let mut cores: Vec<Core> =
        Core::ALL.into_iter().filter(|core| args.core == "all" || args.core == core.name()).collect();
    // Before the work, so that a path that cannot be written costs no run.
    if let Some(path) = &args.json {
        probe_writable(path)?;
    }
    let stop = Stop::on_signal();
    let seeds = args.seeds.clone();
    let bar = progress_bar((seeds.end - seeds.start).saturating_mul(cores.len() as u64));
    let clock = SystemClock::new();
    let begin = clock.now();
    let mut tally = Tally::default();
    let mut failed: Vec<(u64, Core)> = Vec::new();
    // Those are left of which some history was run.
    cores.retain(|core| {
        bar.set_prefix(core.name());
        let (of_core, seeds) = run_core(*core, args, &bar, &stop);
        tally.add(&of_core);
        failed.extend(seeds.into_iter().map(|seed| (seed, *core)));
        of_core.histories > 0
    });
    let seconds = clock.now().saturating_since(begin).as_secs_f64();
    bar.finish_and_clear();
    if tally.histories == 0 {
        super::note(format_args!("interrupted before anything was run"));
        return Ok(ExitCode::from(super::INTERRUPTED));
    }
    for core in &cores {
        for (seed, _) in failed.iter().filter(|(_, of)| of == core).take(SHOWN) {
            match shrink(*core, *seed).filter(|_| args.without.is_empty()) {
                Some(failure) => super::note(format_args!("{failure}\n")),
                None => history(*core, *seed, &args.without)
                    .wrong
                    .iter()
                    .for_each(|wrong| super::note(format_args!("seed {seed} fails on {}: {wrong}", core.name()))),
            }
        }
    }
    let mut failed: Vec<u64> = failed.into_iter().map(|(seed, _)| seed).collect();
    failed.sort_unstable();
    failed.dedup();
    let figures = Figures {
        seeds: format!("{}..{}", seeds.start, seeds.end),
        histories: tally.histories,
        cores: cores.iter().map(|core| core.name()).collect(),
        failed,
        records: tally.records,
        acked: tally.acked,
        failed_records: tally.failed_records,
        faults: tally.faults.clone(),
        error_codes: tally.error_codes.clone(),
        histories_per_s: tally.histories as f64 / seconds.max(1e-9),
    };
    let printed = print(&figures, &tally);
    if let Some(path) = &args.json {
        write_whole(path, &(serde_json::to_string_pretty(&figures)? + "\n"))?;
    }
    super::has_reader(printed).context("cannot write to standard output")?;
    let missing = if tally.histories >= ENOUGH && args.without.is_empty() { tally.missing() } else { Vec::new() };
    if !missing.is_empty() && !stop.asked() {
        super::note(format_args!("error: never occurred: {}", missing.join(", ")));
    }
    Ok(if !figures.failed.is_empty() || !missing.is_empty() && !stop.asked() {
        ExitCode::FAILURE
    } else if stop.asked() {
        super::note(format_args!("interrupted: the figures are of what was run until then"));
        ExitCode::from(super::INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    })
}

/// All seeds of one core. What occurred, and the seeds that failed.
fn run_core(core: Core, args: &SimulateArgs, bar: &ProgressBar, stop: &Stop) -> (Tally, Vec<u64>) {
    let threads = args.threads.unwrap_or_else(thread::parallelism);
    // Counted from 0: behind the last seed there may be no number left.
    let next = AtomicU64::new(0);
    let all = Mutex::new((Tally::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let (mut tally, mut failed) = (Tally::default(), Vec::new());
                while !stop.asked() {
                    // Relaxed: each seed is to be taken once.
                    let nth = next.fetch_add(1, Relaxed);
                    if nth >= args.seeds.end - args.seeds.start {
                        break;
                    }
                    let seed = args.seeds.start + nth;
                    let outcome = history(core, seed, &args.without);
                    tally.add(&outcome.tally);
                    if !outcome.wrong.is_empty() {
                        failed.push(seed);
                    }
                    bar.inc(1);
                }
                let mut all = all.lock();
                all.0.add(&tally);
                all.1.append(&mut failed);
            });
        }
    });
    let (tally, mut failed) = all.into_inner();
    failed.sort_unstable();
    (tally, failed)
}

fn print(figures: &Figures, tally: &Tally) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let Figures { seeds, histories, cores, failed, records, acked, failed_records, .. } = figures;
    writeln!(
        out,
        "{} histories of seeds {seeds} on {}: {} failed",
        grouped(*histories),
        cores.join(", "),
        failed.len()
    )?;
    writeln!(
        out,
        "{} records accepted, {} acknowledged, {} failed; {} batches answered; {} scheduling decisions",
        grouped(*records),
        grouped(*acked),
        grouped(*failed_records),
        grouped(tally.answers),
        grouped(tally.steps)
    )?;
    let list = |counts: &mut dyn Iterator<Item = (String, u64)>| {
        counts.map(|(name, count)| format!("{name} {}", grouped(count))).collect::<Vec<_>>().join(", ")
    };
    writeln!(out, "faults: {}", list(&mut figures.faults.iter().map(|(kind, count)| ((*kind).to_owned(), *count))))?;
    writeln!(out, "codes: {}", list(&mut figures.error_codes.iter().map(|(code, count)| (code.clone(), *count))))?;
    if !failed.is_empty() {
        let seeds: Vec<String> = failed.iter().take(20).map(u64::to_string).collect();
        writeln!(out, "failed seeds: {}{}", seeds.join(", "), if failed.len() > 20 { ", ..." } else { "" })?;
    }
    writeln!(out, "{:.0} histories/s", figures.histories_per_s)?;
    out.flush()
}

fn progress_bar(histories: u64) -> ProgressBar {
    let bar = ProgressBar::new(histories);
    let template = "{prefix:10} [{bar:30}] {human_pos} of {human_len} histories, {per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
