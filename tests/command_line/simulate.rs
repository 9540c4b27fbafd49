//! `simulate`: what it counts, its JSON, what it refuses, Ctrl-C. That a history can fail is shown by `tests/sim-faults/run`.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Dir, Running, program, run, terminal};

/// Runs `simulate` with `args`, all of which must go well, and gives back what it printed and the object that it wrote.
#[track_caller]
fn simulate(args: &[&str]) -> (String, Value) {
    let dir = Dir::new();
    let json = dir.text("out.json");
    let ended = run(&[&["simulate", "--json", &json], args].concat()).ok();
    assert_eq!(ended.err, "", "nothing to tell");
    assert_eq!(dir.tree().len(), 1, "nothing else is left");
    (ended.text(), serde_json::from_slice(&fs::read(&json).unwrap()).unwrap())
}

fn number(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or_else(|| panic!("{name} is no number: {object}"))
}

#[test]
fn histories_are_counted_with_all_that_they_met() {
    let (text, object) = simulate(&["--seeds", "0..60"]);
    let mut names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let want = [
        "acked",
        "cores",
        "error_codes",
        "failed",
        "failed_records",
        "faults",
        "histories",
        "histories_per_s",
        "records",
        "seeds",
    ];
    assert_eq!(names, want);
    assert_eq!((&object["seeds"], &object["cores"]), (&"0..60".into(), &serde_json::json!(["lockfree", "mutex"])));
    assert_eq!((number(&object, "histories"), &object["failed"]), (120, &serde_json::json!([])));
    let (records, acked, failed) =
        (number(&object, "records"), number(&object, "acked"), number(&object, "failed_records"));
    assert!(acked > 0 && failed > 0 && acked + failed <= records, "some have nobody who hears of them: {object}");
    assert!(object["histories_per_s"].as_f64().unwrap() > 0.0);
    for kind in ["lost-request", "leader-move", "stopped-in-copy"] {
        assert!(number(&object["faults"], kind) > 0, "{kind}");
    }
    assert!(object["error_codes"].as_object().unwrap().values().all(|count| count.as_u64() > Some(0)));
    assert!(text.starts_with("120 histories of seeds 0..60 on lockfree, mutex: 0 failed\n"), "{text}");
    assert!(text.contains(&format!("lost-request {}", object["faults"]["lost-request"])), "{text}");
    assert!(text.lines().last().is_some_and(|line| line.ends_with(" histories/s")), "{text}");
}

#[test]
fn a_core_is_run_alone_and_by_any_number_of_threads_with_the_same_figures() {
    let figures = |args: &[&str]| {
        let (_, mut object) = simulate(&[&["--seeds", "7..37"], args].concat());
        object.as_object_mut().unwrap().remove("histories_per_s");
        object
    };
    let all = figures(&["--threads", "1"]);
    assert_eq!(figures(&["--threads", "5"]), all);
    let [lockfree, mutex] = ["lockfree", "mutex"].map(|core| figures(&["--core", core]));
    assert_eq!(
        (&lockfree["cores"], &mutex["cores"]),
        (&serde_json::json!(["lockfree"]), &serde_json::json!(["mutex"]))
    );
    for name in ["histories", "records", "acked", "failed_records"] {
        assert_eq!(number(&lockfree, name) + number(&mutex, name), number(&all, name), "{name}");
    }
}

#[test]
fn what_is_left_out_does_not_happen() {
    let records = |without| number(&simulate(&["--seeds", "3..13", "--without", without]).1, "records");
    let [all, fewer, none] = ["", "0-2,5", "0-9999"].map(records);
    assert!(all > fewer && fewer > 0, "{all}, {fewer}");
    assert_eq!(none, 0);
}

#[test]
fn behind_the_last_seed_there_is_none() {
    // More threads than seeds: each looks for one more.
    let (_, object) = simulate(&["--seeds", "18446744073709551612..18446744073709551615", "--threads", "9"]);
    assert_eq!(number(&object, "histories"), 6);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_does() {
    let dir = Dir::new();
    let json = dir.text("out.json");
    let refuses = |args: &[&str], says: &str| {
        let said = run(&[&["simulate", "--json", &json], args].concat()).refused(2);
        assert!(said.contains(says), "{args:?}: {said}");
        assert!(dir.tree().is_empty(), "{args:?}");
    };
    for seeds in ["5", "5..5", "9..3", "one..two", "-4..4", "1...4", "0..18446744073709551616", ""] {
        refuses(&[&format!("--seeds={seeds}")], "seeds are A..B, with A below B, as in 0..10000");
    }
    refuses(&["--core", "fast"], "'fast' for '--core <CORE>' [possible values: lockfree, mutex, all]");
    for without in ["x", "7-3", "10000", "-1", "3,,x"] {
        refuses(&[&format!("--without={without}")], "numbers are N or N-M below 10000, N not above M");
    }
    refuses(&["--threads", "0"], "give a whole number from 1 to 1024");
}

#[test]
fn a_path_that_cannot_be_written_costs_no_run() {
    let dir = Dir::new();
    for (path, says) in [
        (dir.text("absent/out.json"), "No such file"),
        (dir.text(""), "is a directory"),
        ("-".to_owned(), "takes a file"),
    ] {
        // Hours, if they were run.
        let said = run(&["simulate", "--seeds", "0..1000000000", "--json", &path]).refused(1);
        assert!(said.contains(says), "{said}");
    }
    assert!(dir.tree().is_empty());
}

#[test]
fn json_that_cannot_be_written_is_an_error_after_the_figures() {
    let ended = run(&["simulate", "--seeds", "0..2", "--json", "/dev/full"]);
    assert_eq!(ended.code(), Some(1));
    assert!(ended.err.starts_with("error: cannot write /dev/full: "), "{}", ended.err);
    assert!(ended.text().starts_with("4 histories of seeds 0..2 on "), "{}", ended.text());
}

#[test]
fn a_closed_standard_output_costs_no_json() {
    let dir = Dir::new();
    let json = dir.text("out.json");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program(&["simulate", "--seeds", "0..2", "--json", &json]);
    let ended = Running::start_with(command.stdout(writer).stderr(Stdio::piped())).ended().ok();
    assert_eq!(ended.err, "");
    assert!(fs::read(&json).unwrap().ends_with(b"}\n"));
}

/// A run that would take for ever; comes back when its progress bar has shown some histories, with what else it shows.
fn long_run(json: &str) -> (Running, std::thread::JoinHandle<String>) {
    let (mut screen, slave) = terminal();
    let mut command = program(&["simulate", "--seeds", "1..18446744073709551615", "--json", json]);
    let running = Running::start_with(command.stdout(Stdio::piped()).stderr(slave));
    drop(command);
    let mut shown = Vec::new();
    let mut piece = [0; 4096];
    let has_some = |shown: &[u8]| {
        let shown = String::from_utf8_lossy(shown).into_owned();
        shown.split("] ").skip(1).any(|behind| behind.starts_with(|first| ('1'..='9').contains(&first)))
    };
    while !has_some(&shown) {
        let len = screen.read(&mut piece).expect("it still runs");
        shown.extend_from_slice(&piece[..len]);
    }
    assert!(String::from_utf8_lossy(&shown).contains("lockfree"), "the bar says which core");
    let reader = std::thread::spawn(move || {
        let mut shown = Vec::new();
        // The terminal's last user has closed it: an error.
        while let Ok(len @ 1..) = screen.read(&mut piece) {
            shown.extend_from_slice(&piece[..len]);
        }
        String::from_utf8_lossy(&shown).into_owned()
    });
    (running, reader)
}

#[test]
fn an_interrupt_ends_it_with_the_figures_of_what_was_done() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = Dir::new();
        let (running, screen) = long_run(&dir.text("out.json"));
        assert!(dir.tree().is_empty(), "nothing before the end");
        running.signal(signal);
        let ended = running.ended();
        let shown = screen.join().unwrap();
        assert_eq!(ended.code(), Some(130), "{shown}");
        assert!(shown.ends_with("interrupted: the figures are of what was run until then\r\n"), "{shown:?}");
        let object: Value = serde_json::from_slice(&fs::read(dir.path("out.json")).unwrap()).unwrap();
        assert!(number(&object, "histories") > 0);
        assert_eq!(object["cores"], serde_json::json!(["lockfree"]), "no further core was begun");
        let text = ended.text();
        assert!(text.contains(" histories of seeds 1..18446744073709551615 on lockfree: 0 failed\n"), "{text}");
        assert_eq!(dir.tree().len(), 1);
    }
}

#[test]
fn a_run_that_is_killed_leaves_an_older_file_as_it_was() {
    let dir = Dir::new();
    let json = dir.file("out.json", "{\"old\": 1}\n");
    let (running, screen) = long_run(&json);
    running.signal(Signal::SIGKILL);
    running.ended();
    screen.join().unwrap();
    assert_eq!(dir.tree().into_values().collect::<Vec<_>>(), [Some(b"{\"old\": 1}\n".to_vec())]);
    run(&["simulate", "--seeds", "0..2", "--json", &json]).ok();
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(&json).unwrap()).unwrap()["histories"], 4);
}
