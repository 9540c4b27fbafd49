//! `produce` and `consume`: what goes in comes out.

use std::fs;
use std::process::Stdio;

use crate::support::{Dir, Running, SAMPLE, kafka_partition, numbered, program, run};

/// All that a line may hold, without a newline at its end.
fn nasty() -> Vec<u8> {
    let long = vec![b'x'; 300 << 10];
    let parts: [&[u8]; 16] = [
        b"\xef\xbb\xbfheader,\"with, comma\"\n",
        b"1,\"quoted, comma\",\"and \"\"quotes\"\"\"\n",
        b"2,\"a quote that is open\n",
        b"and closed on the next line\"\n",
        b"3,ends in CR LF\r\n",
        b"\n",
        b"\r\n",
        b"\n",
        b"4,a\rlone\rCR,\t tabs \n",
        b"5,\0NUL\0\n",
        b"6,\xff\xfe\x80 no UTF-8\n",
        b"twice\ntwice\n",
        &long,
        b"\n",
        "ä€😀\u{2028}\u{85}\u{b}\u{c}\n".as_bytes(),
        b"the last line has no newline",
    ];
    parts.concat()
}

#[test]
fn any_file_comes_back_line_by_line_and_its_last_line_gains_a_newline() {
    let want = [nasty(), b"\n".to_vec()].concat();
    for core in ["lockfree", "mutex", "mutex-parking-lot"] {
        let dir = Dir::new();
        let (file, logs) = (dir.file("nasty", nasty()), dir.text("logs"));
        run(&["produce", "--topic", "t", "--log-dir", &logs, "--core", core, &file]).ok();
        assert!(dir.consume(&[]).ok().out == want, "{core}");
    }
    let dir = Dir::new();
    dir.produce(&nasty(), &["-"]).ok();
    assert!(dir.consume(&[]).ok().out == want, "standard input, by its name");
    let dir = Dir::new();
    dir.produce(&want, &[]).ok();
    assert!(dir.consume(&[]).ok().out == want, "standard input without a name; a newline at the end is not doubled");
}

#[test]
fn fmt_20_any_file_comes_back_through_every_codec_also_in_one_log() {
    let want = [nasty(), b"\n".to_vec()].concat();
    for core in ["lockfree", "mutex"] {
        let dir = Dir::new();
        let (file, logs) = (dir.file("nasty", nasty()), dir.text("logs"));
        let codecs = ["gzip:9", "none", "snappy", "lz4:12", "zstd:-1"];
        for (runs, codec) in (1..).zip(codecs) {
            let args = ["--log-dir", &logs, "--core", core, "--compression-type", codec, &file];
            run(&[&["produce", "--topic", "t"], &args[..]].concat()).ok();
            assert!(dir.consume(&[]).ok().out == want.repeat(runs), "{core}, {codec}");
        }
        // 300 KiB of one letter each time, but once as they are.
        let len = dir.log_len("t", 0);
        assert!((300 << 10..400 << 10).contains(&len), "{core}: {len} bytes");
    }
}

#[test]
fn the_header_is_a_line_and_a_key_changes_nothing_of_the_value() {
    for args in [&[][..], &["--key-column", "tailnum"], &["--key-column", "12"]] {
        let dir = Dir::new();
        let said = dir.produce(SAMPLE, args).ok().err;
        let bytes = SAMPLE.len() - 4001;
        let want = format!(
            "4 001 of 4 001 records acknowledged by t, 1 partition(s), {} {} bytes of values",
            bytes / 1000,
            bytes % 1000
        );
        assert_eq!(said.trim_end(), want);
        assert!(dir.consume(&[]).ok().out == SAMPLE, "{args:?}");
    }
    let dir = Dir::new();
    dir.produce(b"header\na\nb\n", &["--skip-header"]).ok();
    assert_eq!(dir.consume(&[]).ok().text(), "a\nb\n");
}

#[test]
fn keyed_lines_go_where_kafka_puts_them_in_the_order_of_the_file() {
    let dir = Dir::new();
    dir.produce(SAMPLE, &["--key-column", "dest", "--partitions", "5", "--skip-header"]).ok();
    let lines: Vec<&str> = std::str::from_utf8(SAMPLE).unwrap().lines().skip(1).collect();
    let mut found = 0;
    for partition in 0..5 {
        let want: Vec<&&str> = lines
            .iter()
            .filter(|line| kafka_partition(line.split(',').nth(13).unwrap().as_bytes(), 5) == partition)
            .collect();
        let got = dir.consume(&["--partition", &partition.to_string()]).ok().text();
        assert!(got.lines().eq(want.iter().map(|line| **line)), "partition {partition}");
        found += want.len();
    }
    assert_eq!(found, 4000);
    let all = dir.consume(&[]).ok().text();
    assert_eq!(all.lines().count(), 4000, "without a partition, all of them");
}

#[test]
fn a_key_is_read_as_csv_and_null_keys_go_round() {
    let dir = Dir::new();
    // A key with a comma, a key in quotes that it does not need, and keys that are empty, missing, or in quotes and
    // empty.
    let input = b"v,\"a,b\"\r\nv,c\nv,\"c\"\r\nv,\nv\nv,\"\"\n\nv,\n";
    let said = dir.produce(input, &["--key-column", "2", "--partitions", "4"]).ok().err;
    assert!(said.contains("; 1 rows had too few fields for a key"), "an empty line is not counted: {said}");
    let mut nulls = Vec::new();
    for partition in 0..4 {
        let got = dir.consume(&["--partition", &partition.to_string()]).ok().text();
        let (keyed, null): (Vec<&str>, Vec<&str>) =
            got.split_terminator('\n').partition(|line| line.contains(",\"a") || line.contains('c'));
        for line in keyed {
            let key = if line.contains("a,b") { "a,b" } else { "c" };
            assert_eq!(kafka_partition(key.as_bytes(), 4), partition, "{line:?}");
        }
        nulls.push(null.len());
    }
    nulls.sort_unstable();
    assert_eq!(nulls, [1, 1, 1, 2], "five records without a key over four partitions");
}

#[test]
fn a_second_run_appends_and_topics_do_not_mix() {
    let dir = Dir::new();
    dir.produce(&numbered("a", 500), &[]).ok();
    dir.produce(&numbered("b", 300), &["--core", "mutex-parking-lot"]).ok();
    let logs = dir.text("logs");
    let other = dir.file("other", "other\n");
    run(&["produce", "--topic", "t-0", "--log-dir", &logs, &other]).ok();
    assert!(dir.consume(&[]).ok().out == [numbered("a", 500), numbered("b", 300)].concat());
    assert_eq!(run(&["consume", "--topic", "t-0", "--log-dir", &logs]).ok().text(), "other\n");
}

#[test]
fn a_topic_keeps_the_partitions_that_it_has_and_may_get_more() {
    let dir = Dir::new();
    let keys: Vec<u8> = (0..64).flat_map(|key| format!("key{key}\n").into_bytes()).collect();
    let keyed = ["--key-column", "1"];
    dir.produce(&keys, &[&keyed[..], &["--partitions", "3"]].concat()).ok();
    let said = dir.produce(&keys, &keyed).ok().err;
    assert!(said.contains(" 3 partition(s)"), "{said}");
    for partition in 0..3 {
        let got = dir.consume(&["--partition", &partition.to_string()]).ok().text();
        let of_keys = |key: &&str| kafka_partition(key.as_bytes(), 3) == partition;
        let want: Vec<&str> = std::str::from_utf8(&keys).unwrap().lines().filter(of_keys).collect();
        assert!(got.lines().eq(want.iter().chain(&want).copied()), "the second run puts keys where the first one did");
    }
    assert!(dir.produce(&keys, &["--partitions", "4"]).ok().err.contains(" 4 partition(s)"));
    assert_eq!(dir.consume(&[]).ok().text().lines().count(), 3 * 64);
}

#[test]
fn an_empty_input_makes_an_empty_topic() {
    let dir = Dir::new();
    let said = dir.produce(b"", &[]).ok().err;
    assert!(said.starts_with("0 of 0 records acknowledged by t"), "{said}");
    assert!(dir.consume(&[]).ok().out.is_empty());
    let dir = Dir::new();
    dir.produce(b"\n", &[]).ok();
    assert_eq!(dir.consume(&[]).ok().text(), "\n", "an empty line is a record");
}

#[test]
fn without_a_directory_the_records_are_acknowledged_and_dropped() {
    let dir = Dir::new();
    let file = dir.file("lines", numbered("x", 1234));
    let ended = run(&["produce", "--topic", "t", &file]).ok();
    assert!(ended.err.starts_with("1 234 of 1 234 records acknowledged"), "{}", ended.err);
    assert!(ended.out.is_empty());
    assert_eq!(dir.tree().len(), 1);
}

/// The limit as the program says it, from a line that is over it.
fn limit() -> usize {
    let dir = Dir::new();
    let said = dir.produce(&vec![b'x'; 1 << 20], &[]).refused(1);
    assert!(said.contains("standard input, line 1: 1048576 bytes long, and a record has room for "), "{said}");
    let limit = said.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((1_040_000..1 << 20).contains(&limit), "a MiB, less what the format needs around it: {limit}");
    limit
}

#[test]
fn a_line_of_a_mebibyte_is_refused_and_one_at_the_limit_comes_back() {
    let limit = limit();
    let dir = Dir::new();
    let longest = [vec![b'y'; limit], b"\nshort\n".to_vec()].concat();
    dir.produce(&longest, &[]).ok();
    assert!(dir.consume(&[]).ok().out == longest);
    // A `\r` belongs to the line, so with it the line is too long.
    let over = [vec![b'y'; limit], b"\r\n".to_vec()].concat();
    let dir = Dir::new();
    let said = dir.produce(&over, &[]).refused(1);
    assert!(said.contains(&format!("line 1: {} bytes long", limit + 1)), "{said}");
    let keyed = [b"k,".to_vec(), vec![b'y'; limit - 2]].concat();
    let said = dir.produce(&keyed, &["--key-column", "1"]).refused(1);
    assert!(said.contains(&format!("line 1: {limit} bytes and a key of 1 bytes")), "{said}");
}

#[test]
fn what_stands_in_front_of_a_bad_line_is_sent_and_nothing_behind_it() {
    let long = [numbered("before", 50), vec![b'x'; 2 << 20], b"\nbehind\n".to_vec()].concat();
    let key = [numbered("before", 50), b"\xff\nbehind\n".to_vec()].concat();
    for (input, args, says) in [
        (&long, &[][..], "line 51: 2097152 bytes long"),
        (&key, &["--key-column", "1"][..], "line 51: the key in column 1 is not UTF-8"),
    ] {
        let dir = Dir::new();
        let ended = dir.produce(input, args);
        assert_eq!(ended.code(), Some(1));
        let lines: Vec<&str> = ended.err.lines().collect();
        assert_eq!(lines.len(), 2, "the summary, and what was wrong: {}", ended.err);
        assert!(lines[0].starts_with("50 of 50 records acknowledged"), "{}", ended.err);
        assert!(lines[1].starts_with("error: standard input, ") && lines[1].contains(says), "{}", ended.err);
        assert!(dir.consume(&[]).ok().out == numbered("before", 50));
    }
}

#[test]
fn a_reader_that_has_seen_enough_ends_consume_quietly() {
    let dir = Dir::new();
    // More than pipe and buffers hold, so that the program meets the closed end.
    dir.produce(&numbered("some words to make the line longer ", 20_000), &[]).ok();
    let logs = dir.text("logs");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = program(&["consume", "--topic", "t", "--log-dir", &logs]);
    let running = Running::start_with(command.stdout(writer).stderr(Stdio::piped()));
    drop(command);
    let mut first = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::with_capacity(64, reader), &mut first).unwrap();
    assert_eq!(first, "some words to make the line longer 0\n");
    let ended = running.ended().ok();
    assert_eq!(ended.err, "");
}

#[test]
fn a_closed_standard_error_costs_no_record() {
    let dir = Dir::new();
    let (logs, file) = (dir.text("logs"), dir.file("lines", "a\nb\n"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program(&["produce", "--topic", "t", "--log-dir", &logs, &file]);
    Running::start_with(command.stdout(Stdio::piped()).stderr(writer)).ended().ok();
    assert_eq!(dir.consume(&[]).ok().text(), "a\nb\n");
}

#[test]
#[cfg(target_os = "linux")]
fn a_standard_output_that_cannot_be_written_is_an_error() {
    let dir = Dir::new();
    dir.produce(b"a\n", &[]).ok();
    let logs = dir.text("logs");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = program(&["consume", "--topic", "t", "--log-dir", &logs]);
    let said = Running::start_with(command.stdout(full).stderr(Stdio::piped())).ended().refused(1);
    assert!(said.starts_with("error: cannot write to standard output: No space left"), "{said}");
}
