//! `unlatched compare`: the same records through several cores, each in a process of its own.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use super::args::{Amount, CompareArgs, Core};
use super::child::{ARGUMENT, Message, RunResult, Spec};
use super::input::{Block, BlockReader};
use super::report::Comparison;
use super::stop::Stop;
use super::whole_file::{is_device, probe_writable, write_whole};

/// Runs the comparison, prints its table, writes its JSON.
pub(super) fn run(args: &CompareArgs) -> Result<ExitCode> {
    // Before the work, so that a path that cannot be written costs no run. Nothing is overwritten yet.
    if let Some(path) = &args.json {
        probe_writable(path)?;
    }
    check_input(args)?;
    let stop = Stop::on_signal();
    let cores: Vec<Core> = args.core.cores().collect();
    let mut comparison = Comparison::default();
    'rounds: for round in 1..=args.rounds {
        for core in &cores {
            if stop.asked() {
                break 'rounds;
            }
            let run = run_child(args, *core, round, &stop).with_context(|| format!("{core}, round {round}"))?;
            comparison.add(run);
        }
    }
    if comparison.is_empty() {
        super::note(format_args!("interrupted before anything was run"));
        return Ok(ExitCode::from(super::INTERRUPTED));
    }
    let printed = io::stdout().write_all(comparison.text().as_bytes()).and_then(|()| io::stdout().flush());
    let report = comparison.report();
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)? + "\n";
        write_whole(path, &json)?;
    }
    super::has_reader(printed).context("cannot write to standard output")?;
    Ok(if !report.is_clean() {
        ExitCode::FAILURE
    } else if stop.asked() {
        super::note(format_args!("interrupted: the figures are of what was run until then"));
        ExitCode::from(super::INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Looks at the first lines, so that what is wrong with them costs no run.
fn check_input(args: &CompareArgs) -> Result<()> {
    let options = args.options(super::max_line(&super::producer_config(&args.tuning)?));
    if let Some(path) = args.file.as_deref().filter(|path| is_device(path)) {
        // Whoever reads it takes it from the others.
        if args.rounds as usize * args.core.cores().count() > 1 {
            bail!(
                "cannot read {} for each core and round anew: give a file, or one core and --rounds 1",
                path.display()
            );
        }
        return Ok(());
    }
    let reader = BlockReader::open(args.source(), options)?;
    let mut block = Block::new();
    reader.next_block(&mut block)?;
    Ok(block.check_first()?)
}

/// Ends a child that is not needed any more, whatever ended us.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_child(args: &CompareArgs, core: Core, round: u32, stop: &Stop) -> Result<RunResult> {
    let program = std::env::current_exe().context("cannot find this program to run it again")?;
    let mut command = Command::new(program);
    command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Reaped(command.spawn().context("cannot start a process for the core")?);
    let mut input = child.0.stdin.take().context("a child without standard input")?;
    let output = child.0.stdout.take().context("a child without standard output")?;
    let spec = Spec { args: args.clone(), core, round };
    writeln!(input, "{}", serde_json::to_string(&spec)?)?;
    // Its end asks the child to end. Ctrl-C reaches the child by itself, a signal to this process alone does not.
    let input: Arc<Mutex<Option<ChildStdin>>> = Arc::new(Mutex::new(Some(input)));
    let ending = Arc::clone(&input);
    stop.then(move || drop(ending.lock().take()));

    let bar = progress_bar(args, core, round);
    let mut ended = None;
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line?)? {
            Message::Progress(records) => match args.amount() {
                Amount::Records(_) => bar.set_position(records),
                Amount::Once | Amount::Time(_) => {
                    bar.set_position(bar.elapsed().as_millis() as u64);
                    bar.set_message(format!("{} records", super::report::grouped(records)));
                }
            },
            Message::Done(result) => ended = Some(Ok(*result)),
            Message::Failed(error) => ended = Some(Err(anyhow!(error))),
        }
    }
    bar.finish_and_clear();
    let status = child.0.wait()?;
    ended.unwrap_or_else(|| Err(anyhow!("its process ended without a result: {status}")))
}

fn progress_bar(args: &CompareArgs, core: Core, round: u32) -> ProgressBar {
    let prefix = format!("{core}, round {round} of {}", args.rounds);
    let (bar, template) = match args.amount() {
        Amount::Records(records) => (
            ProgressBar::new(records),
            "{prefix:32} [{bar:30}] {human_pos} of {human_len} records, {per_sec}, {eta} left",
        ),
        Amount::Time(time) => {
            (ProgressBar::new(time.as_millis() as u64), "{prefix:32} [{bar:30}] {msg}, {elapsed} of the time")
        }
        Amount::Once => (ProgressBar::no_length(), "{prefix:32} {spinner} {msg} in {elapsed}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_prefix(prefix);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
