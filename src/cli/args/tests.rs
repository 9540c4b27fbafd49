use super::super::input::{Block, BlockReader};
use super::*;

fn run(line: &str) -> Result<Command, Exit> {
    parse(std::iter::once("unlatched").chain(line.split_whitespace()))
}

fn compare(line: &str) -> CompareArgs {
    match run(&format!("compare {line}")) {
        Ok(Command::Compare(args)) => args,
        other => panic!("{line}: {other:?}"),
    }
}

fn produce(line: &str) -> ProduceArgs {
    match run(&format!("produce {line}")) {
        Ok(Command::Produce(args)) => args,
        other => panic!("{line}: {other:?}"),
    }
}

/// What is said to a wrong command line: always one line, always status 2.
fn refused(line: &str) -> String {
    let exit = run(line).expect_err(line);
    assert_eq!(exit.status, 2, "{line}");
    assert!(exit.text.starts_with("error: ") && !exit.text.contains('\n'), "{:?}", exit.text);
    assert!(exit.text.len() < 250, "{:?}", exit.text);
    exit.text
}

#[test]
fn the_definition_is_sound() {
    definition().debug_assert();
}

#[test]
fn nothing_means_compare_on_the_sample() {
    let Ok(Command::Compare(args)) = run("") else { panic!("compare is the default") };
    assert_eq!(args, compare(""));
    assert_eq!(args.file, None);
    assert_eq!(args.amount(), Amount::Time(Duration::from_secs(2)));
    assert_eq!(args.core, CoreChoice::All);
    assert_eq!((args.partitions, args.rounds, args.broker()), (6, 3, Broker::Drop));
    let (batch_size, linger_ms, buffer_memory, compression_type) = (16_384, 5, 33_554_432, Compression::NONE);
    let tuning = Tuning { batch_size, linger_ms, buffer_memory, compression_type };
    assert_eq!(args.tuning, tuning, "Kafka's defaults");
    assert!(args.threads() >= 1);
}

#[test]
fn cfg_15_a_codec_is_a_name_and_perhaps_a_level() {
    for (line, expected) in [("zstd:-7", "zstd:-7"), ("lz4", "lz4"), ("gzip:9", "gzip:9"), ("zstd:3", "zstd")] {
        let args = compare(&format!("--compression-type {line}"));
        assert_eq!(args.tuning.compression_type.to_string(), expected);
        assert_eq!(produce(&format!("--topic t --compression-type {line}")).tuning, args.tuning);
        let json = serde_json::to_string(&args.tuning).unwrap();
        assert_eq!(serde_json::from_str::<Tuning>(&json).unwrap(), args.tuning, "as a child is told: {json}");
    }
    assert!(refused("compare --compression-type gzip:0").ends_with("gzip has no level 0: give 1 to 9, or -1"));
    assert!(refused("compare --compression-type brotli").contains("give none, gzip, snappy, lz4 or zstd"));
}

#[test]
fn compare_takes_everything_that_it_promises() {
    let args = compare(
        "f.csv --records 10M --threads 4 --partitions 12 --key-column origin --core mutex --rounds 5 --json out.json \
         --batch-size 64KiB --linger-ms 0 --buffer-memory 64MiB --log-dir logs --broker dir",
    );
    assert_eq!(args.file.as_deref(), Some(Path::new("f.csv")));
    assert_eq!(args.amount(), Amount::Records(10_000_000));
    assert_eq!((args.threads(), args.partitions, args.rounds), (4, 12, 5));
    assert_eq!(args.key_column, Some(Column::Name("origin".into())));
    assert_eq!(args.core.cores().collect::<Vec<_>>(), [Core::Mutex]);
    assert_eq!(args.json.as_deref(), Some(Path::new("out.json")));
    let (batch_size, linger_ms, buffer_memory, compression_type) = (65_536, 0, 64 << 20, Compression::NONE);
    assert_eq!(args.tuning, Tuning { batch_size, linger_ms, buffer_memory, compression_type });
    assert_eq!((args.broker(), args.log_dir.as_deref()), (Broker::Dir, Some(Path::new("logs"))));
    assert_eq!(compare("--log-dir d").broker(), Broker::Dir);
    assert_eq!(compare("--broker drop").broker(), Broker::Drop);
}

#[test]
fn a_file_is_read_once_unless_more_is_asked_for() {
    assert_eq!(compare("f.csv").amount(), Amount::Once);
    assert_eq!(compare("f.csv --seconds 0.5").amount(), Amount::Time(Duration::from_millis(500)));
    assert_eq!(compare("--records 7").amount(), Amount::Records(7));
    assert_eq!(compare("f.csv").options(99).records, Records::Once);
    assert_eq!(compare("--records 7").options(99).records, Records::Exactly(7));
    assert_eq!(compare("").options(99).records, Records::Endless);
    assert!(refused("compare --records 7 --seconds 1").contains("cannot be used with '--seconds <S>'"));
}

#[test]
fn what_compare_is_told_reaches_the_reader() {
    let args = compare("--records 9 --key-column 13 --threads 2");
    let reader = BlockReader::open(args.source(), args.options(1 << 20)).unwrap();
    let mut block = Block::new();
    assert!(reader.next_block(&mut block).unwrap());
    let keys: Vec<_> = block.lines().map(|line| line.unwrap().key.unwrap().into_owned()).collect();
    assert_eq!(keys[..3], [b"EWR", b"LGA", b"JFK"]);
    assert_eq!(keys.len(), 9);
    let options = args.options(77);
    assert_eq!((options.max_line, options.threads, options.strip_cr, options.header), (77, 2, true, Header::Skipped));
    assert_eq!(compare("--no-header").options(77).header, Header::Absent);
}

#[test]
fn compare_goes_through_json_and_back() {
    for line in ["", "f.csv --seconds 2 --key-column 3 --core mutex-parking-lot --log-dir d", "--key-column origin"] {
        let args = compare(line);
        let json = serde_json::to_string(&args).unwrap();
        assert_eq!(serde_json::from_str::<CompareArgs>(&json).unwrap(), args, "{json}");
    }
}

#[test]
fn bench_takes_suites_and_filters() {
    let bench = |line: &str| match run(&format!("bench {line}")) {
        Ok(Command::Bench(args)) => args,
        other => panic!("{line}: {other:?}"),
    };
    let args =
        bench("--suite append --suite pool --suite append --quick --json o --threads 2 8 --rounds 7 --run-seconds 0.5");
    assert_eq!(args.suites().map(|suite| suite.name).collect::<Vec<_>>(), ["append", "pool"], "each once");
    assert!(args.quick && args.threads == [2, 8] && args.rounds == Some(7) && args.run_seconds == Some(0.5));
    let args = bench("--suite pool --scenario ample flow --scenario whale --impl lockfree mutex");
    assert_eq!((args.scenario.len(), args.implementation.len(), args.threads.len(), args.rounds), (3, 2, 0, None));
    assert!(refused("bench --suite pool --scenario hot").contains("there are ample, "));
    bench("--suite pool --suite append --scenario hot");
}

#[test]
fn produce_sends_lines_as_they_are() {
    let args = produce("--topic flights");
    assert_eq!((args.file.as_path(), args.partitions, args.core), (Path::new("-"), 1, values::first_core()));
    assert!(format!("{:?}", args.source()).contains("standard input"));
    let options = args.options(5);
    assert_eq!((options.header, options.strip_cr, options.max_line), (Header::Absent, false, 5));
    let header = |line: &str| produce(&format!("--topic t f.csv {line}")).options(5).header;
    assert_eq!(header(""), Header::Absent);
    assert_eq!(header("--key-column 2"), Header::Kept);
    assert_eq!(header("--key-column name"), Header::Kept);
    assert_eq!(header("--key-column name --skip-header"), Header::Skipped);
    assert_eq!(header("--skip-header"), Header::Skipped);
    assert!(format!("{:?}", produce("--topic t f.csv").source()).contains("f.csv"));
}

#[test]
fn consume_needs_a_topic_and_a_directory() {
    let Ok(Command::Consume(args)) = run("consume --topic t --log-dir d --partition 3") else { panic!("it parses") };
    let want = ConsumeArgs { topic: "t".into(), log_dir: "d".into(), partition: Some(3) };
    assert_eq!(args, want);
    assert!(refused("consume --topic t").contains("--log-dir <DIR>"));
    assert!(refused("consume --log-dir d").contains("--topic <T>"));
    assert!(refused("consume --topic t --log-dir d --partition -1").contains("whole number from 0"));
}

#[test]
fn a_core_that_does_not_exist_is_refused_with_those_that_do() {
    assert_eq!(find_core("mutex"), Ok(Core::Mutex));
    let unknown = find_core("fast").unwrap_err().to_string();
    assert_eq!(unknown, "no such core; there are lockfree, mutex, mutex-parking-lot");
    assert!(refused("compare --core fast").contains("'--core <CORE>': no such core; there are"));
    assert!(refused("compare --core fast").ends_with(", all"));
    assert!(refused("produce --topic t --core all").contains("no such core"));
    for info in CORES {
        assert!(run(&format!("compare --core {}", info.name)).is_ok());
        assert_eq!(info.core.to_string(), info.name);
    }
    let all: Vec<Core> = CoreChoice::All.cores().collect();
    assert_eq!(all, CORES.iter().map(|info| info.core).collect::<Vec<_>>(), "in the order of the list");
}

#[test]
fn topics_are_named_by_kafkas_rule() {
    for good in ["t", "a.b_c-D9", "...", &"x".repeat(249)] {
        assert_eq!(validate_topic(good), Ok(()), "{good}");
    }
    assert_eq!(validate_topic(""), Err(TopicError::Empty));
    assert_eq!(validate_topic("."), Err(TopicError::Dots));
    assert_eq!(validate_topic(".."), Err(TopicError::Dots));
    assert_eq!(validate_topic(&"x".repeat(250)), Err(TopicError::TooLong(250)));
    for (name, wrong) in [("a b", ' '), ("a/b", '/'), ("ä", 'ä'), ("a\nb", '\n'), ("a\0", '\0')] {
        assert_eq!(validate_topic(name), Err(TopicError::Character(wrong)));
    }
    assert!(refused("produce --topic a/b").contains("'--topic <T>': a topic's name has only the characters"));
    assert!(refused("consume --topic .. --log-dir d").contains("cannot be named"));
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    for (line, says) in [
        ("--threads 0", "'--threads <T>': give a whole number from 1 to 1024"),
        ("--threads 1025", "from 1 to 1024"),
        ("--threads two", "from 1 to 1024"),
        ("--threads +2", "from 1 to 1024"),
        ("--threads=-2", "from 1 to 1024"),
        ("--partitions 0", "from 1 to 100000"),
        ("--partitions 100001", "from 1 to 100000"),
        ("--rounds 0", "from 1 to 1000"),
        ("--linger-ms 1.5", "in milliseconds"),
        ("--linger-ms 2147483648", "from 0 to 2147483647"),
        ("--records 0", "above 0"),
        ("--records -5", "above 0"),
        ("--records 1e6", "above 0"),
        ("--records 5x", "above 0"),
        ("--records 99999999999999999999", "too large"),
        ("--records 99999999999G", "too large"),
        ("--seconds 0", "from 0.001 to 86400"),
        ("--seconds NaN", "from 0.001 to 86400"),
        ("--seconds inf", "from 0.001 to 86400"),
        ("--batch-size 16K", "KiB, MiB, GiB (1024) or kB, MB, GB (1000)"),
        ("--batch-size 2GiB", "from 0 to 2147483647 bytes"),
        ("--buffer-memory 0", "from 1 to"),
        ("--buffer-memory 1.5MiB", "whole number of bytes"),
        ("--buffer-memory 99999999999GiB", "from 1 to"),
        ("--key-column 0", "columns are numbered from 1"),
        ("--key-column=", "'--key-column <C>'"),
        ("--broker disk", "memory, drop, dir"),
        ("-", "not standard input"),
    ] {
        let said = refused(&format!("compare {line}"));
        assert!(said.contains(says), "{line}: {said}");
    }
}

#[cfg(unix)]
#[test]
fn a_file_may_have_any_name() {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.csv");
    let Ok(Command::Compare(args)) = parse(["unlatched".as_ref(), "compare".as_ref(), name]) else {
        panic!("it parses")
    };
    assert_eq!(args.file.as_deref(), Some(Path::new(name)));
    assert!(format!("{:?}", args.source()).contains("caf"));
}

#[test]
fn sizes_and_counts_have_units() {
    for (text, want) in [
        ("0", 0),
        ("512", 512),
        ("1_000", 1000),
        ("3B", 3),
        ("4KiB", 4096),
        ("2MiB", 2 << 20),
        ("1kB", 1000),
        ("1GB", 1_000_000_000),
    ] {
        assert_eq!(values::batch_size(text), Ok(want), "{text}");
    }
    assert_eq!(values::buffer_memory("4 GiB"), Ok(4 << 30));
    for (text, want) in
        [("1", 1), ("250k", 250_000), ("10M", 10_000_000), ("1_000_000", 1_000_000), ("2G", 2_000_000_000)]
    {
        assert_eq!(values::count(text).unwrap().get(), want, "{text}");
    }
    for text in ["", "_1", "1_", "k", "1m", "1KiB", "٣"] {
        assert!(values::count(text).is_err(), "{text}");
    }
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    assert_eq!(refused("compare --broker dir"), "error: --broker dir needs --log-dir DIR");
    assert!(refused("compare --broker memory --log-dir d").contains("leave one of the two away"));
    assert!(refused("compare --broker drop --log-dir d").contains("leave one of the two away"));
    assert!(refused("compare --no-header --key-column origin").contains("give a number"));
    assert!(run("compare --no-header --key-column 3").is_ok());
}

#[test]
fn what_is_unknown_is_named() {
    assert!(refused("compare --thread 4").contains("'--thread'"));
    assert!(refused("compare a.csv b.csv").contains("'b.csv'"));
    let said = refused("flights.csv");
    #[cfg(not(feature = "testing"))]
    assert!(refused("simulate").ends_with("(it is there when built with --features testing)"));
    assert!(said.contains("'flights.csv'") && said.ends_with("(for a file: unlatched compare flights.csv)"), "{said}");
    assert!(refused("--threads 4").contains("'--threads' found in front of a command (unlatched compare takes"));
    assert!(refused("produce f.csv").contains("--topic <T>"));
    assert!(refused("compare --thread 4").contains("; a similar argument exists: '--threads'"));
    let odd = parse(["unlatched", "compare", "--threads", "4\n\u{1b}[2J"]).unwrap_err();
    assert!(!odd.text.contains(['\n', '\u{1b}']), "{:?}", odd.text);
}

#[test]
fn help_and_version_are_no_errors() {
    for line in ["--help", "-h", "compare --help", "compare -h", "produce --help", "consume --help", "help compare"] {
        let exit = run(line).expect_err(line);
        assert_eq!(exit.status, 0, "{line}");
        assert!(exit.text.contains("Usage: unlatched"), "{line}");
    }
    let version = run("--version").expect_err("the version");
    assert_eq!((version.status, version.text.trim()), (0, concat!("unlatched ", env!("CARGO_PKG_VERSION"))));
    let help = run("compare --help").expect_err("help").text;
    for core in CORES {
        assert!(help.contains(&format!("- {}: ", core.name)), "{help}");
    }
    for said in ["in milliseconds", "in seconds", "KiB, MiB, GiB", "[default: 16KiB]", "[default: 6]", "from 1"] {
        assert!(help.contains(said), "{said:?} is missing:\n{help}");
    }
}
