//! `compare`: the table, the verdict, the JSON, and what a record is.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Dir, Running, SAMPLE, kafka_partition, numbered, program, run, terminal};

const CORES: [&str; 3] = ["lockfree", "mutex", "mutex-parking-lot"];

/// Runs `compare` with `args`, and gives back what it printed and the object that it wrote.
fn compare(args: &[&str]) -> (String, Value) {
    let dir = Dir::new();
    let json = dir.text("out.json");
    let text = run(&[&["compare", "--json", &json], args].concat()).ok().text();
    let object = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(dir.tree().len(), 1, "nothing else is left");
    (text, object)
}

/// The verdict for `records`, all of them in order.
fn clean(records: &str) -> String {
    format!("found again {records} of {records}, lost 0, duplicated 0, out of order 0\n")
}

fn number(object: &Value, name: &str) -> f64 {
    object[name].as_f64().unwrap_or_else(|| panic!("{name} is no number: {object}"))
}

/// The lengths of all lines of the sample behind its header, without their ends.
fn lengths() -> Vec<u64> {
    std::str::from_utf8(SAMPLE).unwrap().lines().skip(1).map(|line| line.len() as u64).collect()
}

#[test]
fn the_sample_is_repeated_through_every_core_and_the_verdict_is_clean() {
    let (text, object) = compare(&["--records", "5000", "--rounds", "3", "--threads", "3"]);
    assert!(text.ends_with(&clean("45 000")), "{text}");
    for core in CORES {
        let row = text.lines().find(|line| line.contains(&format!("{core} "))).unwrap();
        assert!(row.contains("15 000"), "{row}");
    }
    let once: u64 = lengths().iter().sum::<u64>() + lengths()[..1000].iter().sum::<u64>();
    let mut names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.retain(|name| *name != "records_in_total");
    names.sort_unstable();
    let want = [
        "bytes",
        "cores",
        "duplicated",
        "lost",
        "ratio_records_per_s",
        "records_in",
        "records_read_back",
        "reordered",
        "rounds",
    ];
    assert_eq!(names, want);
    for (name, want) in [
        ("records_in", 5000),
        ("records_read_back", 45_000),
        ("lost", 0),
        ("duplicated", 0),
        ("reordered", 0),
        ("rounds", 3),
        ("bytes", 9 * once),
    ] {
        assert_eq!(object[name].as_u64(), Some(want), "{name}");
    }
    let ratio = format!("lockfree by the strongest mutex: {:.2} x", number(&object, "ratio_records_per_s"));
    assert!(text.contains(&ratio), "{text}");
    let cores = object["cores"].as_array().unwrap();
    assert_eq!(cores.iter().map(|core| core["core"].as_str().unwrap()).collect::<Vec<_>>(), CORES);
    for core in cores {
        assert_eq!(core.as_object().unwrap().len(), 13, "{core}");
        assert_eq!((number(core, "compression_rate"), core["off_pool_peak_bytes"].as_u64()), (1.0, Some(0)), "{core}");
        assert!(number(core, "records_per_s") > 0.0 && number(core, "cpu_s_per_m") > 0.0, "{core}");
        let latencies = ["p50_ns", "p99_ns", "p999_ns", "p9999_ns", "max_ns"].map(|name| core[name].as_u64().unwrap());
        assert!(latencies[0] > 0 && latencies.is_sorted(), "{core}");
        assert!(core["batches"].as_u64().unwrap() > 0, "{core}");
        let fill = number(core, "fill");
        assert!(fill > 0.0 && fill <= 1.0, "{core}");
        assert!(core["peak_rss_bytes"].as_u64().unwrap() > 1 << 20, "{core}");
    }
}

#[test]
fn one_core_runs_alone_and_one_that_does_not_exist_is_refused() {
    for core in CORES {
        let (text, object) = compare(&["--records", "100", "--rounds", "2", "--core", core]);
        assert!(text.ends_with(&clean("200")), "{text}");
        assert_eq!(object["cores"].as_array().unwrap().len(), 1);
        assert_eq!((&object["cores"][0]["core"], &object["ratio_records_per_s"]), (&Value::from(core), &Value::Null));
    }
    let dir = Dir::new();
    for command in [&["compare"][..], &["produce", "--topic", "t"]] {
        let said = run(&[command, &["--core", "fast", &dir.text("none")]].concat()).refused(2);
        assert!(said.contains("no such core; there are lockfree, mutex, mutex-parking-lot"), "{said}");
    }
}

#[test]
fn a_time_is_a_time_and_the_counts_of_its_runs_may_differ() {
    let (text, object) = compare(&["--seconds", "0.05", "--rounds", "2"]);
    let total = object["records_read_back"].as_u64().unwrap();
    assert!(total >= 4000, "the sample was repeated: {total}");
    assert_eq!(object["records_in_total"].as_u64(), Some(total));
    assert!(text.ends_with("lost 0, duplicated 0, out of order 0\n"), "{text}");
}

#[test]
fn a_key_column_is_its_name_or_its_number_and_is_sent_beside_the_value() {
    let keys: usize = std::str::from_utf8(SAMPLE).unwrap().lines().skip(1).map(|line| field(line, 11).len()).sum();
    let values: u64 = lengths().iter().sum();
    for column in ["tailnum", "12"] {
        let (text, object) =
            compare(&["--records", "4000", "--rounds", "1", "--core", "mutex", "--key-column", column]);
        assert!(text.ends_with(&clean("4 000")), "{text}");
        assert_eq!(object["bytes"].as_u64(), Some(values + keys as u64), "{column}");
    }
}

fn field(line: &str, index: usize) -> &str {
    line.split(',').nth(index).unwrap()
}

/// Runs one core on `args` with a log directory, and gives back the lines of each partition.
fn partitions(args: &[&str], count: usize) -> Vec<Vec<String>> {
    let dir = Dir::new();
    let (logs, partitions) = (dir.text("logs"), count.to_string());
    let fixed = ["compare", "--core", "mutex", "--rounds", "1", "--log-dir", &logs, "--partitions", &partitions];
    run(&[&fixed[..], args].concat()).ok();
    let consume = ["consume", "--topic", "compare-mutex-1", "--log-dir", &logs, "--partition"];
    (0..count)
        .map(|partition| run(&[&consume[..], &[&partition.to_string()]].concat()).ok().text())
        .map(|text| text.split_terminator('\n').map(str::to_owned).collect())
        .collect()
}

fn sorted<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut lines: Vec<&str> = lines.into_iter().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn keyed_records_go_where_kafka_puts_them() {
    let found = partitions(&["--records", "4000", "--threads", "4", "--key-column", "dest"], 7);
    for (partition, lines) in (0..).zip(&found) {
        assert!(lines.iter().all(|line| kafka_partition(field(line, 13).as_bytes(), 7) == partition));
    }
    let sample = std::str::from_utf8(SAMPLE).unwrap();
    assert_eq!(sorted(found.iter().flatten().map(String::as_str)), sorted(sample.lines().skip(1)));
}

#[test]
fn records_without_a_key_go_round() {
    let found = partitions(&["--records", "4000", "--threads", "1"], 7);
    let counts: Vec<usize> = found.iter().map(Vec::len).collect();
    assert_eq!(counts.iter().sum::<usize>(), 4000);
    assert!(counts.iter().all(|count| (571..=572).contains(count)), "{counts:?}");
}

#[test]
fn a_line_is_a_record_and_its_end_is_no_part_of_it() {
    let dir = Dir::new();
    // A header, then: CR LF, a quoted comma, a newline in quotes, an empty line, a CR within, no UTF-8 outside of the
    // key, no end.
    let file =
        dir.file("f.csv", b"key,value\r\na,1\r\nb,\"x,y\"\nc,\"open\nclosed\"\n\n\"q,r\",2\rb\r\na,\xff\r\nlast,3");
    let want: [&[u8]; 8] = [b"a,1", b"b,\"x,y\"", b"c,\"open", b"closed\"", b"", b"\"q,r\",2\rb", b"a,\xff", b"last,3"];
    let values: usize = want.iter().map(|line| line.len()).sum();
    for (args, records, bytes) in [
        (&[][..], 8, values),
        // `closed"` is a key: it stands in the first column. The empty line has none.
        (&["--key-column", "key"], 8, values + "abcclosed\"q,ralast".len()),
        (&["--no-header"], 9, values + "key,value".len()),
        (&["--records", "20"], 20, 2 * values + want[..4].iter().map(|line| line.len()).sum::<usize>()),
        (&["--records", "3"], 3, want[..3].iter().map(|line| line.len()).sum()),
    ] {
        let (text, object) = compare(&[&[file.as_str(), "--core", "mutex", "--rounds", "1"], args].concat());
        assert!(text.ends_with(&clean(&records.to_string())), "{args:?}: {text}");
        assert_eq!(object["records_in"].as_u64(), Some(records), "{args:?}");
        assert_eq!(object["bytes"].as_u64(), Some(bytes as u64), "{args:?}");
    }
    let logs = dir.text("logs");
    let fixed = ["compare", &file, "--core", "mutex", "--rounds", "1", "--threads", "1", "--partitions", "1"];
    run(&[&fixed[..], &["--log-dir", &logs]].concat()).ok();
    let read = run(&["consume", "--topic", "compare-mutex-1", "--log-dir", &logs]).ok();
    assert_eq!(read.out, [want.join(&b'\n'), b"\n".to_vec()].concat());
}

#[test]
fn short_rows_have_no_key_and_are_counted() {
    let dir = Dir::new();
    let file = dir.file("f.csv", "a,b\n1,2\n3\n4,\n\n5\n");
    let (text, _) = compare(&[&file, "--key-column", "b", "--rounds", "1", "--core", "mutex"]);
    assert!(text.contains("\n2 rows have too few fields for a key and were sent without one\n"), "{text}");
    assert!(text.ends_with(&clean("5")), "{text}");
}

#[test]
fn odd_sizes_lose_nothing() {
    for args in [
        &["--threads", "7", "--partitions", "1", "--batch-size", "0"][..],
        &["--threads", "2", "--partitions", "100", "--batch-size", "200", "--linger-ms", "0"],
        // Less memory than the threads want at once.
        &["--threads", "4", "--partitions", "3", "--batch-size", "1kB", "--buffer-memory", "4kB"],
        &["--threads", "2", "--broker", "memory"],
    ] {
        let (text, _) = compare(&[&["--records", "2000", "--rounds", "1"], args].concat());
        assert!(text.ends_with(&clean("6 000")), "{args:?}: {text}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_input() {
    let dir = Dir::new();
    // 64 MB in all, through 4 MiB of buffer; what is in flight for the check comes on top.
    let line = [vec![b'x'; 250_000], b"\n".to_vec()].concat();
    let file = dir.file("f.csv", line.repeat(17));
    let fixed = ["--rounds", "1", "--buffer-memory", "4MiB", "--threads", "2"];
    for (core, codec) in [("mutex", "none"), ("mutex", "zstd"), ("lockfree", "zstd")] {
        let peak = |records: &str| {
            let core_and_codec = ["--core", core, "--compression-type", codec];
            let (text, object) =
                compare(&[&[file.as_str(), "--records", records][..], &fixed, &core_and_codec].concat());
            assert!(text.ends_with(&clean(records)), "{text}");
            number(&object["cores"][0], "peak_rss_bytes") / 1e6
        };
        let (few, many) = (peak("64"), peak("256"));
        assert!(many < few + 24.0, "{core}, {codec}: {few} MB for 16 MB of records, {many} MB for 64 MB");
    }
}

#[test]
fn batch_06_every_codec_loses_nothing_and_shows_its_ratio_and_what_it_takes() {
    for codec in ["gzip", "snappy", "lz4", "zstd:1"] {
        let (text, object) = compare(&["--records", "4000", "--rounds", "1", "--compression-type", codec]);
        assert!(text.ends_with(&clean("12 000")), "{codec}: {text}");
        assert!(text.contains(" ratio ") && text.contains(" off-pool KiB "), "{text}");
        for core in object["cores"].as_array().unwrap() {
            let (rate, fill) = (number(core, "compression_rate"), number(core, "fill"));
            assert!(rate > 0.2 && rate < 0.7 && fill > 0.0, "{codec}: {core}");
            // The twin's batches may have outgrown their buffers, which are what counts here.
            assert!(core["core"] != "lockfree" || fill < rate + 0.05, "{codec}: {core}");
            assert!((32 << 10..64 << 20).contains(&core["off_pool_peak_bytes"].as_u64().unwrap()), "{codec}: {core}");
        }
    }
    // Through files, and checked there again.
    let dir = Dir::new();
    let logs = dir.text("logs");
    let args = ["--records", "4000", "--rounds", "1", "--compression-type", "lz4", "--log-dir", &logs];
    let (text, _) = compare(&args);
    assert!(text.ends_with(&clean("12 000")), "{text}");
    let text = run(&["consume", "--topic", "compare-lockfree-1", "--log-dir", &logs]).ok().text();
    assert_eq!(text.lines().count(), 4000);
}

#[test]
fn a_directory_may_hold_an_earlier_comparison() {
    let dir = Dir::new();
    let logs = dir.text("logs");
    for _ in 0..2 {
        let args = ["compare", "--records", "300", "--rounds", "1", "--core", "mutex", "--log-dir", &logs];
        assert!(run(&args).ok().text().ends_with(&clean("300")));
    }
    let read = run(&["consume", "--topic", "compare-mutex-1", "--log-dir", &logs]).ok().text();
    let mut counts = BTreeMap::new();
    read.lines().for_each(|line| *counts.entry(line).or_insert(0) += 1);
    assert_eq!(counts.len(), 300);
    assert!(counts.values().all(|count| *count == 2));
}

#[test]
fn json_goes_through_links_and_into_devices_and_replaces_an_old_file() {
    let dir = Dir::new();
    let target = dir.file("target.json", "what was there before is longer than nothing");
    let link = dir.path("link.json");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let compare = ["compare", "--records", "10", "--rounds", "1", "--core", "mutex", "--json"];
    run(&[&compare[..], &[link.to_str().unwrap()]].concat()).ok();
    assert!(link.is_symlink());
    let object: Value = serde_json::from_slice(&fs::read(&target).unwrap()).unwrap();
    assert_eq!(object["records_in"], 10);
    assert_eq!(dir.tree().len(), 2);
    // Standard output is a pipe here.
    let text = run(&[&compare[..], &["/dev/stdout"]].concat()).ok().text();
    let (table, json) = text.split_at(text.find("{\n").unwrap());
    assert!(table.ends_with(&clean("10")), "{table}");
    assert_eq!(serde_json::from_str::<Value>(json).unwrap()["records_in"], 10);
}

#[test]
fn a_closed_standard_output_costs_no_json() {
    let dir = Dir::new();
    let json = dir.text("out.json");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program(&["compare", "--records", "10", "--rounds", "1", "--json", &json]);
    let ended = Running::start_with(command.stdout(writer).stderr(Stdio::piped())).ended().ok();
    assert_eq!(ended.err, "");
    assert!(fs::read(&json).unwrap().ends_with(b"}\n"));
}

#[test]
fn progress_is_shown_on_a_terminal_and_only_there() {
    let (screen, slave) = terminal();
    let mut command = program(&["compare", "--seconds", "0.3", "--rounds", "1", "--core", "mutex"]);
    let running = Running::start_with(command.stdout(Stdio::piped()).stderr(slave));
    drop(command);
    let shown = read_terminal(screen);
    assert!(running.ended().ok().text().ends_with("out of order 0\n"));
    assert!(shown.contains("mutex, round 1 of 1") && shown.contains(" records"), "{shown:?}");
    let dir = Dir::new();
    let (screen, slave) = terminal();
    let mut command = program(&["produce", "--topic", "t", &dir.file("lines", numbered("line ", 50_000))]);
    let running = Running::start_with(command.stdout(Stdio::piped()).stderr(slave));
    drop(command);
    let shown = read_terminal(screen);
    running.ended().ok();
    assert!(shown.contains(" records sent, ") && shown.contains("50 000 of 50 000 records acknowledged"), "{shown:?}");
    let ended = run(&["compare", "--records", "100", "--rounds", "1"]).ok();
    assert_eq!(ended.err, "");
}

/// What was written to a terminal until its last user closed it, which shows as an error.
fn read_terminal(mut screen: fs::File) -> String {
    let (mut shown, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(len @ 1..) = std::io::Read::read(&mut screen, &mut piece) {
        shown.extend_from_slice(&piece[..len]);
    }
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
#[cfg(target_os = "linux")]
fn a_core_that_dies_is_an_error_and_leaves_no_json() {
    use nix::sys::signal::{Signal, kill};

    let dir = Dir::new();
    let (json, logs) = (dir.text("out.json"), dir.text("logs"));
    let args = ["compare", "--seconds", "3600", "--core", "mutex", "--json", &json, "--log-dir", &logs];
    let running = Running::start(&mut program(&args));
    crate::support::wait_for("records", || dir.log_len("compare-mutex-1", 0) > 0);
    let children = running.children();
    assert_eq!(children.len(), 1, "the core runs in a process of its own");
    kill(children[0], Signal::SIGKILL).unwrap();
    let said = running.ended().refused(1);
    assert!(said.starts_with("error: mutex, round 1: its process ended without a result: signal: 9"), "{said}");
    assert!(!dir.path("out.json").exists());
}
