//! Logs that are not what was written: torn by a kill, damaged, or in use.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::support::{Dir, Running, numbered, program, run, wait_for};

/// Where the batches of a log end, in bytes, and how many records there are up to there; from Kafka's format.
fn ends(log: &[u8]) -> Vec<(usize, usize)> {
    let int = |at: usize| u32::from_be_bytes(*log[at..].first_chunk().unwrap()) as usize;
    let (mut at, mut records, mut ends) = (0, 0, Vec::new());
    while at < log.len() {
        records += int(at + 57);
        at += 12 + int(at + 8);
        ends.push((at, records));
    }
    ends
}

/// A log directory with 100 lines in small batches, and the log's bytes.
fn small_batches(args: &[&str]) -> (Dir, Vec<u8>) {
    let dir = Dir::new();
    dir.produce(&numbered("line", 100), &[&["--batch-size", "150"], args].concat()).ok();
    let log = fs::read(dir.log("t", 0)).unwrap();
    assert!(ends(&log).len() > 5);
    (dir, log)
}

#[test]
fn a_torn_tail_is_cut_at_the_last_whole_batch_and_said() {
    torn_tail(&[]);
    // The twin compresses what does not become smaller, too.
    torn_tail(&["--core", "mutex", "--compression-type", "zstd"]);
}

fn torn_tail(args: &[&str]) {
    let (dir, log) = small_batches(args);
    assert_eq!(log[22], if args.is_empty() { 0 } else { 4 }, "the codec of the first batch");
    let ends = ends(&log);
    let (whole, records) = ends[ends.len() - 3];
    let (next, _) = ends[ends.len() - 2];
    for torn in [whole + 1, whole + 11, whole + 60, next - 1] {
        fs::write(dir.log("t", 0), &log[..torn]).unwrap();
        // Read before anybody has cut it: what is whole, and a word for the rest.
        let read = dir.consume(&[]);
        assert_eq!(read.code(), Some(1));
        assert!(read.out == numbered("line", records), "{torn}");
        let says = format!("error: t-0: at byte {whole} of the log, where offset {records} should begin: torn batch");
        assert!(read.err.starts_with(&says) && read.err.lines().count() == 1, "{}", read.err);
        // The next run cuts it, says so, and goes on behind.
        let said = dir.produce(b"after\n", &[]).ok().err;
        let (cut, bytes) = (format!("offset={records}"), format!("bytes={}", torn - whole));
        let warning = said.lines().next().unwrap();
        assert!(warning.contains("WARN") && warning.contains("has been cut"), "{said}");
        assert!(warning.contains(&cut) && warning.contains(&bytes), "{said}");
        assert!(!said.contains('\u{1b}'), "no colours where there is no terminal: {said:?}");
        let read = dir.consume(&[]).ok();
        assert!(read.out == [numbered("line", records), b"after\n".to_vec()].concat(), "{torn}");
        assert_eq!(read.err, "");
    }
    // Nothing is cut from a log that is whole.
    fs::write(dir.log("t", 0), &log[..whole]).unwrap();
    assert_eq!(dir.produce(b"after\n", &[]).ok().err.lines().count(), 1);
}

#[test]
fn damage_in_the_middle_is_refused_and_nothing_behind_it_is_thrown_away() {
    let (dir, mut log) = small_batches(&[]);
    let (end, records) = ends(&log)[1];
    // The last byte of the third batch's header, so its checksum.
    log[end + 20] ^= 1;
    fs::write(dir.log("t", 0), &log).unwrap();
    let before = dir.tree();
    let said = dir.produce(b"after\n", &[]).refused(1);
    assert!(said.contains(&format!("at byte {end}, where offset {records} should begin")), "{said}");
    assert!(said.ends_with(&format!("restore the file, or cut it to {end} bytes")), "{said}");
    assert!(dir.tree() == before, "nothing was touched");
    let read = dir.consume(&[]);
    assert_eq!(read.code(), Some(1));
    assert!(read.out == numbered("line", records));
    assert!(read.err.starts_with("error: t-0: at byte ") && read.err.lines().count() == 1, "{}", read.err);
    // A comparison on the same directory does not touch it either.
    let logs = dir.text("logs");
    run(&["compare", "--records", "10", "--core", "mutex", "--log-dir", &logs]).refused(1);
    assert!(dir.tree() == before);
    // The advice works.
    fs::File::options().write(true).open(dir.log("t", 0)).unwrap().set_len(end as u64).unwrap();
    dir.produce(b"after\n", &[]).ok();
    assert!(dir.consume(&[]).ok().out == [numbered("line", records), b"after\n".to_vec()].concat());
}

#[test]
fn damage_in_one_partition_does_not_hide_the_others() {
    let dir = Dir::new();
    dir.produce(&numbered("line", 9), &["--partitions", "3"]).ok();
    let log = fs::read(dir.log("t", 1)).unwrap();
    fs::write(dir.log("t", 1), &log[..log.len() - 1]).unwrap();
    fs::remove_file(dir.log("t", 0)).unwrap();
    let read = dir.consume(&[]);
    assert_eq!(read.code(), Some(1));
    assert_eq!(read.text(), "line2\nline5\nline8\n");
    let said: Vec<&str> = read.err.lines().collect();
    assert!(said.len() == 2 && said[0].contains("t-0") && said[1].contains("t-1"), "{said:?}");
    assert_eq!(dir.consume(&["--partition", "2"]).ok().text(), "line2\nline5\nline8\n");
}

#[test]
fn a_file_that_is_no_log_is_refused_by_consume() {
    let dir = Dir::new();
    dir.produce(b"a\n", &[]).ok();
    fs::write(dir.log("t", 0), "this is a text, long enough to be taken for the header of a batch of records").unwrap();
    let said = dir.consume(&[]).refused(1);
    assert!(said.starts_with("error: t-0: at byte 0 of the log"), "{said}");
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let dir = Dir::new();
    let logs = dir.text("logs");
    let mut command = program(&["produce", "--topic", "t", "--log-dir", &logs, "--linger-ms", "0"]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let mut stdin = running.stdin();
    let writer = std::thread::spawn(move || {
        // Until the pipe breaks, by the kill.
        let mut line = 0;
        while stdin.write_all(format!("line{line}\n").as_bytes()).is_ok() {
            line += 1;
        }
        line
    });
    wait_for("a log of some length", || dir.log_len("t", 0) > 100_000);
    running.signal(Signal::SIGKILL);
    let ended = running.ended();
    assert_eq!(ended.code(), None, "killed: {}", ended.err);
    let written: usize = writer.join().unwrap();
    // The lock went with the process.
    dir.produce(b"after\n", &[]).ok();
    let read = dir.consume(&[]).ok().out;
    let records = read.iter().filter(|byte| **byte == b'\n').count() - 1;
    assert!((1000..=written).contains(&records), "{records} of {written}");
    assert!(read == [numbered("line", records), b"after\n".to_vec()].concat(), "a prefix, whole");
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = Dir::new();
    let logs = dir.text("logs");
    let mut command = program(&["produce", "--topic", "t", "--log-dir", &logs]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let mut stdin = running.stdin();
    stdin.write_all(b"first\n").unwrap();
    wait_for("the first record", || dir.log_len("t", 0) > 0);
    let said = dir.produce(b"second\n", &[]).refused(1);
    assert!(said.contains("in use by another broker"), "{said}");
    assert_eq!(dir.consume(&[]).ok().text(), "first\n", "reading takes no lock");
    drop(stdin);
    running.ended().ok();
    dir.produce(b"second\n", &[]).ok();
    assert_eq!(dir.consume(&[]).ok().text(), "first\nsecond\n");
}
