//! Ctrl-C and a termination signal: what was accepted is finished and counted, and nothing waits for input that does
//! not come.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use serde_json::Value;

use crate::support::{Dir, Ended, Running, numbered, program, terminal, wait_for};

/// `produce` to the topic `t` of `logs`, as a command.
fn produce(dir: &Dir, args: &[&str]) -> Command {
    program(&[&["produce", "--topic", "t", "--log-dir", &dir.text("logs")], args].concat())
}

/// Whether a signal would be caught by now: before that it just kills.
#[cfg(target_os = "linux")]
fn catches(running: &Running, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal as i32 - 1) & 1 == 1
}

/// A process that waits without data ends with 130 and leaves nothing behind.
#[cfg(target_os = "linux")]
fn ends_without_data(dir: &Dir, running: Running, signal: Signal) {
    wait_for("the handler", || catches(&running, signal));
    running.signal(signal);
    let ended = running.ended();
    assert_eq!(ended.code(), Some(130), "{}", ended.err);
    assert_eq!(ended.err, "interrupted before anything was read\n");
    assert!(dir.tree().is_empty(), "{:?}", dir.tree().keys());
}

#[test]
#[cfg(target_os = "linux")]
fn a_pipe_on_which_nothing_comes_does_not_keep_produce_from_ending() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // The second reads its first line while it opens the input, the third opens the pipe as a file.
        for args in [&[][..], &["--key-column", "name"], &["/dev/stdin"]] {
            let dir = Dir::new();
            let mut running = Running::start(produce(&dir, args).stdin(Stdio::piped()));
            let stdin = running.stdin();
            ends_without_data(&dir, running, signal);
            drop(stdin);
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_terminal_at_which_nobody_types_does_not_keep_produce_from_ending() {
    let dir = Dir::new();
    let (keyboard, slave) = terminal();
    let running = Running::start(produce(&dir, &[]).stdin(slave));
    ends_without_data(&dir, running, Signal::SIGINT);
    drop(keyboard);
}

/// Asserts that `lines` were counted, and are what is read back.
#[track_caller]
fn interrupted_after(dir: &Dir, ended: &Ended, lines: &[u8]) {
    assert_eq!(ended.code(), Some(130), "{}", ended.err);
    let count = lines.iter().filter(|byte| **byte == b'\n').count();
    let said = ended.err.lines().next().unwrap_or_default().replace(' ', "");
    assert!(said.starts_with(&format!("{count}of{count}recordsacknowledgedbyt")), "{}", ended.err);
    assert!(ended.err.ends_with("\ninterrupted: what was read until then is acknowledged\n"), "{}", ended.err);
    assert!(dir.consume(&[]).ok().out == lines);
}

#[test]
fn what_was_read_is_acknowledged_and_half_a_line_is_no_record() {
    for (signal, args) in [(Signal::SIGINT, &[][..]), (Signal::SIGTERM, &["--key-column", "1"])] {
        let dir = Dir::new();
        let mut running = Running::start(produce(&dir, args).stdin(Stdio::piped()));
        let mut stdin = running.stdin();
        stdin.write_all(b"one\ntwo\nthree\nhalf a li").unwrap();
        wait_for("the first batch", || dir.log_len("t", 0) > 0);
        running.signal(signal);
        interrupted_after(&dir, &running.ended(), b"one\ntwo\nthree\n");
        drop(stdin);
    }
}

#[test]
fn what_lingers_is_sent_at_the_end() {
    let dir = Dir::new();
    // Two batches: the full one goes at once, the open one would wait for an hour.
    let args = ["--linger-ms", "3600000", "--batch-size", "1000"];
    let lines = numbered("some line ", 100);
    let mut running = Running::start(produce(&dir, &args).stdin(Stdio::piped()));
    let mut stdin = running.stdin();
    stdin.write_all(&lines).unwrap();
    wait_for("the first batch", || dir.log_len("t", 0) > 0);
    running.signal(Signal::SIGINT);
    interrupted_after(&dir, &running.ended(), &lines);
    drop(stdin);
    let dir = Dir::new();
    dir.produce(&lines, &args).ok();
    assert!(dir.consume(&[]).ok().out == lines, "the input's own end, too");
}

#[test]
fn a_long_file_is_left_where_it_is() {
    let dir = Dir::new();
    // As long as it takes: lines come until the program has ended.
    let mut running = Running::start(produce(&dir, &[]).stdin(Stdio::piped()));
    let mut stdin = running.stdin();
    let piece = numbered("", 1000);
    let writer = std::thread::spawn(move || while stdin.write_all(&piece).is_ok() {});
    wait_for("some records", || dir.log_len("t", 0) > 1 << 20);
    running.signal(Signal::SIGINT);
    let ended = running.ended();
    writer.join().unwrap();
    let read = dir.consume(&[]).ok().out;
    interrupted_after(&dir, &ended, &read);
    let pieces = numbered("", 1000).repeat(read.len() / numbered("", 1000).len() + 1);
    assert!(pieces.starts_with(&read) && read.len() > 100_000);
}

/// Starts a comparison that would take hours, and waits until its first core has written something.
fn long_comparison(dir: &Dir, group: bool) -> Running {
    let (json, logs) = (dir.text("out.json"), dir.text("logs"));
    let mut command = program(&["compare", "--seconds", "3600", "--rounds", "2", "--json", &json, "--log-dir", &logs]);
    if group {
        command.process_group(0);
    }
    let running = Running::start(&mut command);
    wait_for("records", || dir.log_len("compare-lockfree-1", 0) > 0);
    running
}

#[test]
fn an_interrupted_comparison_counts_what_was_accepted() {
    // To the program alone, as `kill` does; and to all of them, as a terminal does: a race, so several times.
    for (signal, group) in std::iter::once((Signal::SIGTERM, false)).chain([(Signal::SIGINT, true); 8]) {
        let dir = Dir::new();
        let running = long_comparison(&dir, group);
        if group {
            killpg(running.pid(), signal).unwrap();
        } else {
            running.signal(signal);
        }
        let ended = running.ended();
        assert_eq!(ended.code(), Some(130), "{}", ended.err);
        assert_eq!(ended.err, "interrupted: the figures are of what was run until then\n");
        let object: Value = serde_json::from_slice(&fs::read(dir.path("out.json")).unwrap()).unwrap();
        let records = object["records_in"].as_u64().unwrap();
        assert!(records > 0 && object["records_read_back"].as_u64() == Some(records), "{object}");
        assert_eq!(object["cores"].as_array().unwrap().len(), 1, "no further core was begun");
        assert_eq!(object["rounds"].as_u64(), Some(1));
        let verdict = ended.text().lines().last().unwrap().replace(|c: char| !c.is_ascii_digit() && c != ',', "");
        assert_eq!(verdict, format!("{records}{records},0,0,0"));
        let logs = dir.text("logs");
        let read = crate::support::run(&["consume", "--topic", "compare-lockfree-1", "--log-dir", &logs]).ok().out;
        assert_eq!(read.iter().filter(|byte| **byte == b'\n').count() as u64, records);
    }
}

/// Whether a process has ended; it may still wait for somebody to ask for its status.
#[cfg(target_os = "linux")]
fn is_gone(pid: nix::unistd::Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

#[test]
#[cfg(target_os = "linux")]
fn a_second_ctrl_c_ends_at_once() {
    use nix::sys::signal::kill;

    let dir = Dir::new();
    let running = long_comparison(&dir, false);
    let children = running.children();
    assert_eq!(children.len(), 1);
    // A core that does not come to its end, so that the first signal alone ends nothing.
    kill(children[0], Signal::SIGSTOP).unwrap();
    running.signal(Signal::SIGINT);
    // Another signal, because two of the same may be delivered as one.
    running.signal(Signal::SIGTERM);
    wait_for("the end of the program", || is_gone(running.pid()));
    // It holds the program's standard error open.
    kill(children[0], Signal::SIGKILL).unwrap();
    let ended = running.ended();
    assert_eq!(ended.code(), Some(130), "{}", ended.err);
    assert!(ended.out.is_empty() && !dir.path("out.json").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_core_whose_parent_was_killed_ends() {
    let dir = Dir::new();
    let running = long_comparison(&dir, false);
    let child = running.children()[0];
    running.signal(Signal::SIGKILL);
    let ends = crate::support::holds_in_the_end(|| is_gone(child));
    // Otherwise it would run for an hour.
    let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
    assert!(ends, "the core ends by itself");
    running.ended();
    let logs = dir.text("logs");
    crate::support::run(&["consume", "--topic", "compare-lockfree-1", "--log-dir", &logs]).ok();
}

#[test]
fn without_a_command_the_sample_is_compared() {
    let (screen, slave) = terminal();
    let mut command = program(&[]);
    let running = Running::start_with(command.stdout(Stdio::piped()).stderr(slave));
    drop(command);
    // Every core would have two seconds and three rounds; the first is enough here.
    let (mut screen, mut shown) = (screen, Vec::new());
    while !String::from_utf8_lossy(&shown).contains("lockfree, round 1 of 3") {
        let mut piece = [0; 4096];
        let len = std::io::Read::read(&mut screen, &mut piece).expect("it still runs");
        shown.extend_from_slice(&piece[..len]);
    }
    running.signal(Signal::SIGINT);
    let reader = std::thread::spawn(move || std::io::copy(&mut screen, &mut std::io::sink()));
    let ended = running.ended();
    let _ = reader.join().unwrap();
    assert_eq!(ended.code(), Some(130));
    let text = ended.text();
    assert!(text.ends_with(", lost 0, duplicated 0, out of order 0\n"), "{text}");
}
