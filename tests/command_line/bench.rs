//! `bench`: rows as they come, verdicts, what is chosen by name, and an interrupt that keeps what was measured.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Dir, Running, program, run, terminal, wait_for};

/// The lines of JSON in `path`.
fn lines(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "whole lines: {text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A quick run with the shortest runs that there are, and `args`.
fn quick(json: &str, args: &[&str]) -> (String, Vec<Value>) {
    let fixed = ["bench", "--quick", "--run-seconds", "0.001", "--json", json];
    let ended = run(&[&fixed[..], args].concat()).ok();
    (ended.text(), lines(json))
}

/// The keys of every row, in order.
const KEYS: &str = "suite scenario impl round mode threads partitions record_bytes seconds ops ops_per_s p50_ns p99_ns p999_ns p9999_ns max_ns \
                    open_p99_ns open_p9999_ns cpu_s";

#[test]
fn rows_have_the_promised_keys_and_rounds_take_turns() {
    let dir = Dir::new();
    let args = [
        "--suite",
        "pool",
        "--scenario",
        "ample",
        "--threads",
        "1",
        "3",
        "--impl",
        "lockfree",
        "mutex",
        "--rounds",
        "2",
    ];
    let (text, lines) = quick(&dir.text("out.jsonl"), &args);
    let keys = [
        "machine",
        "kernel",
        "arch",
        "cores",
        "idle_p9999_ns",
        "idle_max_ns",
        "two_threads",
        "handover_ns",
        "busy",
        "release",
    ];
    assert!(keys.iter().all(|key| lines[0].get(*key).is_some()), "{}", lines[0]);
    assert!(lines[0]["two_threads"].as_f64().unwrap() > 0.0 && lines[0]["cores"].as_u64().unwrap() > 0);

    let (rows, verdicts): (Vec<&Value>, Vec<&Value>) = lines[1..].iter().partition(|line| line.get("round").is_some());
    let of = |row: &&Value| {
        (row["threads"].as_u64().unwrap(), row["round"].as_u64().unwrap(), row["impl"].as_str().unwrap().to_owned())
    };
    let want = [1, 3].into_iter().flat_map(|threads| {
        (1..=2).flat_map(move |round| ["lockfree", "mutex"].map(|name| (threads, round, name.to_owned())))
    });
    assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), want.collect::<Vec<_>>());
    let text_of_rows = fs::read_to_string(dir.path("out.jsonl")).unwrap();
    for (row, line) in rows.iter().zip(text_of_rows.lines().skip(1)) {
        let places: Vec<_> = KEYS
            .split_whitespace()
            .map(|key| line.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("{key}: {line}")))
            .collect();
        assert!(places.is_sorted(), "{line}");
        assert_eq!((row["suite"].as_str(), row["mode"].as_str()), (Some("pool"), Some("quick")));
        assert!(row["partitions"].is_null() && row["record_bytes"].is_null(), "they make no sense here: {row}");
        let (ops, seconds, rate) =
            (row["ops"].as_f64().unwrap(), row["seconds"].as_f64().unwrap(), row["ops_per_s"].as_f64().unwrap());
        assert!(ops >= 1.0 && (ops / seconds / rate - 1.0).abs() < 1e-6, "{row}");
    }

    let own: Vec<&&Value> =
        verdicts.iter().filter(|verdict| verdict["impl"] == "lockfree" && verdict["metric"] == "ops_per_s").collect();
    assert_eq!(own.len(), 2, "{verdicts:?}");
    for (verdict, (threads, floor)) in own.iter().zip([(1, 1.5), (3, 3.0)]) {
        assert_eq!((verdict["threads"].as_u64(), verdict["floor"].as_f64()), (Some(threads), Some(floor)));
        assert_eq!(verdict["ratio_to"], "mutex", "the only twin that was run");
        let rate = |round: u64, name: &str| {
            let row = rows.iter().find(|row| of(row) == (threads, round, name.to_owned())).unwrap();
            row["ops_per_s"].as_f64().unwrap()
        };
        let mut ratios = [1, 2].map(|round| rate(round, "lockfree") / rate(round, "mutex"));
        ratios.sort_by(f64::total_cmp);
        let figure = |key: &str| verdict[key].as_f64().unwrap();
        let shown = [figure("ratio_min"), figure("ratio_median"), figure("ratio_max")];
        let wanted = [ratios[0], ratios[1], ratios[1]];
        assert!(shown.iter().zip(wanted).all(|(shown, wanted)| (shown / wanted - 1.0).abs() < 1e-9), "{shown:?}");
        assert_eq!(verdict["met"].as_bool(), Some(ratios[1] >= floor));
    }
    assert!(text.contains("pool ample: operations a second") && text.contains(" of 2 floors met\n"), "{text}");
    assert!(text.contains("quick mode, 2 rounds"), "{text}");
}

#[test]
fn scenarios_add_what_they_have_to_say() {
    let dir = Dir::new();
    let args = [
        "--suite",
        "pool",
        "--suite",
        "append",
        "--impl",
        "lockfree-strict",
        "lockfree",
        "--rounds",
        "1",
        "--threads",
        "8",
    ];
    let (text, lines) = quick(&dir.text("out.jsonl"), &args);
    let rows = |scenario: &str| {
        lines.iter().filter(|line| line.get("round").is_some() && line["scenario"] == scenario).collect::<Vec<_>>()
    };
    for scenario in ["ample", "ample-cross", "flow", "scarce", "scarce-50us", "mixed", "whale"] {
        assert_eq!(rows(scenario).len(), 2, "{scenario}");
    }
    for scarce in rows("scarce") {
        assert!((0.0..=1.0).contains(&scarce["waits_per_op"].as_f64().unwrap()), "{scarce}");
    }
    assert_eq!(rows("mixed")[0]["odd_sizes"].as_array().unwrap().len(), 3);
    for whale in rows("whale") {
        assert_eq!(whale["tries"], whale["served"], "{whale}");
        let figure = |key: &str| whale[key].as_u64().unwrap();
        assert!(figure("max_overtakes") <= figure("bound"), "{whale}");
        assert!(figure("tries") == 90 && figure("longest_wait_ns") >= figure("wait_p50_ns"), "{whale}");
    }
    let verdict = lines.iter().find(|line| line["metric"] == "max_overtakes" && line["impl"] == "lockfree").unwrap();
    assert_eq!((&verdict["met"], &verdict["ratio_median"]), (&Value::Bool(true), &Value::Null));
    let hot = rows("hot");
    assert_eq!((hot.len(), hot[0]["record_bytes"].as_u64(), hot[0]["partitions"].as_u64()), (1, Some(100), Some(1)));
    assert!(text.contains("whole pool: 90 of 90 served"), "{text}");
}

#[test]
fn what_is_not_there_is_an_error_that_lists_what_is() {
    let dir = Dir::new();
    let json = dir.text("out.jsonl");
    let refuses = |code: i32, args: &[&str], says: &[&str]| {
        let said = run(&[&["bench", "--json", &json], args].concat()).refused(code);
        assert!(says.iter().all(|says| said.contains(says)), "{args:?}: {said}");
        assert!(dir.tree().is_empty(), "{args:?}");
    };
    refuses(2, &["--suite", "pools"], &["'pools'", "[possible values: pool, append, map, drain, sender]"]);
    refuses(2, &[], &["--suite <NAME>"]);
    refuses(
        2,
        &["--suite", "pool", "--scenario", "ample", "plenty"],
        &["no scenario \"plenty\" in pool; there are ample, ample-cross, flow, scarce"],
    );
    refuses(
        2,
        &["--suite", "append", "--scenario", "ample"],
        &["no scenario \"ample\" in append; there are hot, spread, keyed, wide, fill"],
    );
    refuses(2, &["--suite", "pool", "--impl", "mutex-strips"], &["\"mutex-strips\"", "mutex-stripes"]);
    refuses(2, &["--suite", "pool", "--threads", "0"], &["give a whole number from 1 to 1024"]);
    refuses(2, &["--suite", "pool", "--rounds", "0"], &["give a whole number from 1 to 1000"]);
    refuses(2, &["--suite", "pool", "--run-seconds", "0"], &["give a number of seconds"]);
    refuses(
        1,
        &["--suite", "pool", "--scenario", "whale", "--threads", "4"],
        &["nothing to measure", "leave one of them away"],
    );
    refuses(1, &["--suite", "pool", "--scenario", "flow", "--impl", "mutex-stripes"], &["nothing to measure"]);
}

#[test]
fn a_path_that_cannot_be_written_costs_no_run() {
    let dir = Dir::new();
    for (path, says) in
        [(dir.text("absent/out.jsonl"), "No such file"), (dir.text(""), "irectory"), ("-".to_owned(), "takes a file")]
    {
        let said = run(&["bench", "--suite", "pool", "--json", &path]).refused(1);
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_file_that_is_there_is_begun_anew() {
    let dir = Dir::new();
    let json = dir.file("out.jsonl", "{\"old\": 1}\n".repeat(9_999));
    let args = ["--suite", "pool", "--scenario", "ample", "--threads", "1", "--impl", "mutex", "--rounds", "1"];
    let (_, lines) = quick(&json, &args);
    assert_eq!(lines.len(), 2, "the machine and one row: {lines:?}");
}

#[test]
fn an_interrupt_keeps_the_rows_and_tells_what_they_say() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = Dir::new();
        let json = dir.text("out.jsonl");
        // Hours, if nobody ended it.
        let args = [
            "bench",
            "--suite",
            "pool",
            "--rounds",
            "1000",
            "--run-seconds",
            "0.01",
            "--threads",
            "2",
            "--json",
            &json,
        ];
        let running = Running::start(&mut program(&args));
        let enough = || fs::read_to_string(&json).is_ok_and(|text| text.lines().count() > 20);
        wait_for("some rows", enough);
        running.signal(signal);
        let ended = running.ended();
        assert_eq!(ended.code(), Some(130), "{}", ended.err);
        assert!(ended.err.ends_with("interrupted: the figures are of what was run until then\n"), "{}", ended.err);
        let lines = lines(&json);
        let rows = lines.iter().filter(|line| line.get("round").is_some()).count();
        assert!((20..5_000).contains(&rows), "{rows}");
        assert!(lines.last().unwrap()["ratio_median"].is_f64(), "and the verdicts: {:?}", lines.last());
        assert!(ended.text().contains("pool ample: operations a second"), "{}", ended.text());
    }
}

#[test]
fn progress_is_shown_at_a_terminal_only() {
    let args =
        ["bench", "--suite", "pool", "--quick", "--run-seconds", "0.05", "--scenario", "ample", "--threads", "1"];
    let silent = run(&args).ok();
    assert!(!silent.err.contains(" of 24 runs"), "{}", silent.err);
    let (mut screen, slave) = terminal();
    let mut command = program(&args);
    let running = Running::start_with(command.stdout(std::process::Stdio::piped()).stderr(slave));
    drop(command);
    let mut shown = Vec::new();
    // A terminal whose other end is gone ends with an error.
    let _ = std::io::Read::read_to_end(&mut screen, &mut shown);
    assert_eq!(running.ended().code(), Some(0));
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("of 24 runs") && shown.contains("pool ample, 1 thread: mutex-stripes, round"), "{shown}");
}
