//! Other people's programs read our batches, and we theirs: the part of `tests/readers/run` that makes, asks and compares. The script installs the
//! programs and starts this one with the folder that holds them.
//!
//! The matrix (`matrix.rs`) is written by each core, and by each program that can write; each program reads it, and so do we, and what comes back is
//! compared field by field with what was put in. What `unlatched produce --log-dir` writes is read by each program too, and what they write by
//! `unlatched consume`. It ends with status 1 on any difference; a program that is not there is named and left out.

mod kafka_protocol;
mod make;
mod matrix;
mod ours;
mod programs;
mod text;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use unlatched::broker::embedded::EmbeddedBroker;
use unlatched::broker::{ErrorCode, NodeId};
use unlatched::error::TopicPartition;
use unlatched::record::codec::Compression;
use unlatched::record::{Codec, assign_offset};

use make::{LockFree, Mutex};
use matrix::{Case, Row, cases};
use programs::{Librdkafka, Program, Programs, Serving, consume, produce};
use text::{Compared, Line, Shown, compare, cut, expected};
use wire::Wire;

/// The sample that `produce` sends.
const SAMPLE: &str = "data/flights-sample.csv";
/// The cores, as the command line calls them.
const CORES: [&str; 2] = ["lockfree", "mutex"];

type Outcome<T> = Result<T, String>;

/// A log directory of ours, and what stands in it. Those of one name are reported together.
struct Written {
    what: String,
    log: PathBuf,
    lines: Vec<Line>,
}

impl std::ops::Add for Compared {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let Self { batches, records, fields } = other;
        Self { batches: self.batches + batches, records: self.records + records, fields: self.fields + fields }
    }
}

/// What was done, to be printed.
#[derive(Default)]
struct Report {
    compared: Compared,
    differences: usize,
}

impl Report {
    fn row(&mut self, program: &str, what: &str, outcome: Outcome<Compared>) {
        match outcome {
            Ok(Compared { batches, records, fields }) => {
                println!(
                    "  {program:<18} {what:<46} {batches:>5} batches {records:>7} records {fields:>8} fields   the same"
                );
                self.compared = self.compared + Compared { batches, records, fields };
            }
            Err(difference) => {
                println!("  {program:<18} {what:<46} DIFFERS: {difference}");
                self.differences += 1;
            }
        }
    }

    /// A row for each name in `written`: all there is to it, or its first difference.
    fn rows(&mut self, program: &str, does: &str, written: &[Written], outcomes: Vec<Outcome<Compared>>) {
        let mut all: Vec<(&str, Outcome<Compared>)> = Vec::new();
        for (Written { what, log, .. }, outcome) in written.iter().zip(outcomes) {
            let outcome = outcome.map_err(|difference| format!("{}: {difference}", log.display()));
            match all.last_mut() {
                Some((last, before)) if last == what => {
                    *before = before.clone().and_then(|before| outcome.map(|more| before + more));
                }
                _ => all.push((what, outcome)),
            }
        }
        for (what, outcome) in all {
            self.row(program, &format!("{does} {what}"), outcome);
        }
    }
}

fn main() -> ExitCode {
    let Some(tools) = std::env::args_os().nth(1) else {
        eprintln!("start it with tests/readers/run");
        return ExitCode::from(2);
    };
    match run(Path::new(&tools), std::env::args().nth(2).is_some()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(differences) => {
            println!("{differences} comparisons DIFFER");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What differs; without the unusual levels if `quick`.
fn run(tools: &Path, quick: bool) -> Outcome<usize> {
    let work = tools.join("work");
    if work.exists() {
        fs::remove_dir_all(&work).map_err(|error| error.to_string())?;
    }
    fs::create_dir_all(&work).map_err(|error| error.to_string())?;
    let programs = Programs::find(tools);
    for line in &programs.found {
        println!("found: {line}");
    }
    for line in &programs.missing {
        println!("left out: {line}");
    }
    let cases: Vec<Case> = cases().into_iter().chain(levels().filter(|_| !quick)).collect();
    let mut report = Report::default();

    println!("\nours, read by others");
    let written = write_ours(&work, &cases)?;
    report.rows("unlatched", "reads", &written, written.iter().map(read_ours).collect());
    let matrix: Vec<&Written> = written.iter().filter(|written| written.what.starts_with("the matrix")).collect();
    for written in matrix {
        report.row("kafka-protocol", &format!("reads {}", written.what), read_by_kafka_protocol(written, &cases));
    }
    for program in &programs.readers {
        let written = if program.lines_only { &written[CORES.len()..] } else { &written[..] };
        report.rows(program.name, "reads", written, written.iter().map(|written| read_by(program, written)).collect());
    }

    println!("\ntheirs, read by us");
    let kept: Vec<Case> = cases.iter().map(kafka_protocol::as_kept).collect();
    let log = write_by_kafka_protocol(&kept)?;
    theirs(&mut report, &work, "kafka-protocol", &kept, &log, &["base_timestamp"], &["bytes"]);
    for program in programs.readers.iter().filter(|program| program.writes) {
        let order = work.join("order.txt");
        fs::write(&order, programs::order(&cases)).map_err(|error| error.to_string())?;
        let path = work.join(format!("{}.bytes", program.name));
        match program.write(&order, &path) {
            Ok(log) => theirs(&mut report, &work, program.name, &cases, &log, &[], &[]),
            Err(error) => report.row(program.name, "writes the matrix", Err(error)),
        }
    }
    if let Some(python) = &programs.librdkafka {
        through_librdkafka(&mut report, &work, python, &cases, &written)?;
    }

    let Compared { batches, records, fields } = report.compared;
    println!(
        "\ncompared {batches} batches, {records} records, {fields} fields; {} differences; {} left out",
        report.differences,
        programs.missing.len()
    );
    Ok(report.differences)
}

/// The larger shapes at levels far from the usual. To others only their streams look different.
fn levels() -> impl Iterator<Item = Case> {
    let levels = ["gzip:1", "gzip:9", "lz4:1", "lz4:17", "zstd:-50", "zstd:19", "zstd:22"];
    levels.into_iter().flat_map(|level| {
        let compression: Compression = level.parse().expect("a level that there is");
        cases()
            .into_iter()
            .filter(move |case| case.shrinks() && case.compression == Compression::new(compression.codec()))
            .map(move |case| Case { compression, ..case })
    })
}

/// The lines that `log` should give, if it holds `cases`.
fn expected_of(cases: &[Case], log: &[u8]) -> Outcome<Vec<Line>> {
    let batches = cut(log)?;
    if batches.len() != cases.len() {
        return Err(format!("{} batches, {} should be", batches.len(), cases.len()));
    }
    let mut offset = 0;
    let mut lines = Vec::new();
    for (case, batch) in cases.iter().zip(batches) {
        lines.extend(expected(case, batch, offset));
        offset += case.rows.len() as i64;
    }
    Ok(lines)
}

/// Everything of ours that others are to read: the matrix by each core, then what `produce` makes of the sample, with each core and codec.
fn write_ours(work: &Path, cases: &[Case]) -> Outcome<Vec<Written>> {
    let mut all = Vec::new();
    for core in CORES {
        let directory = work.join(format!("matrix-{core}"));
        let log = if core == "lockfree" {
            make::log::<LockFree>(&directory, cases)
        } else {
            make::log::<Mutex>(&directory, cases)
        };
        let (what, lines) = (format!("the matrix, {core}"), expected_of(cases, &log)?);
        all.push(Written { what, log: directory.join(make::LOG), lines });
    }
    let sample = fs::read(SAMPLE).map_err(|error| error.to_string())?;
    let rows: Vec<&[u8]> = sample.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    for core in CORES {
        for codec in Codec::ALL {
            let directory = work.join(format!("produced-{core}-{}", codec.name()));
            produce(&directory, core, codec, SAMPLE)?;
            let log = directory.join(make::LOG);
            let bytes = fs::read(&log).map_err(|error| error.to_string())?;
            // Times and batches are its own; the rest is the file's.
            let mut lines = ours::read(&bytes)?;
            let records: Vec<&Line> = lines.iter().filter(|line| line.kind == "record").collect();
            if records.len() != rows.len() {
                return Err(format!("{core}, {}: {} records of {} lines", codec.name(), records.len(), rows.len()));
            }
            for (offset, (row, record)) in rows.iter().zip(records).enumerate() {
                let want = [
                    ("offset", offset.to_string()),
                    ("key", "-".to_owned()),
                    ("value", text::bytes(Some(row))),
                    ("headers", String::new()),
                ];
                for (field, want) in want {
                    if record.fields.get(field) != Some(&want) {
                        return Err(format!("{core}, {}: line {}: {field} differs", codec.name(), offset + 1));
                    }
                }
            }
            for line in lines.iter_mut().filter(|line| line.kind == "batch") {
                if line.fields.get("codec").map(String::as_str) != Some(codec.name()) {
                    return Err(format!("{core}: a batch is not compressed with {}", codec.name()));
                }
                line.fields.insert("valid".to_owned(), "1".to_owned());
            }
            all.push(Written { what: format!("what produce writes, {core}, each codec"), log, lines });
        }
    }
    Ok(all)
}

fn read_ours(written: &Written) -> Outcome<Compared> {
    let log = fs::read(&written.log).map_err(|error| error.to_string())?;
    let compared = compare(&written.lines, &ours::read(&log)?, ours::SHOWN)?;
    consumed(&written.log, &log)?;
    Ok(compared)
}

fn read_by(program: &Program, written: &Written) -> Outcome<Compared> {
    compare(&written.lines, &program.read(&written.log)?, program.shown)
}

fn read_by_kafka_protocol(written: &Written, cases: &[Case]) -> Outcome<Compared> {
    let log = fs::read(&written.log).map_err(|error| error.to_string())?;
    let kept: Vec<Case> = cases.iter().map(kafka_protocol::as_kept).collect();
    compare(&expected_of(&kept, &log)?, &kafka_protocol::read(&log)?, kafka_protocol::SHOWN)
}

fn write_by_kafka_protocol(cases: &[Case]) -> Outcome<Vec<u8>> {
    let (mut log, mut offset) = (Vec::new(), 0);
    for case in cases {
        log.extend(kafka_protocol::write(case, offset)?);
        offset += case.rows.len() as i64;
    }
    Ok(log)
}

/// Reads what `program` wrote: with our decoder, with `unlatched consume`, and with the broker that checks what a producer sends.
fn theirs(
    report: &mut Report,
    work: &Path,
    program: &str,
    cases: &[Case],
    log: &[u8],
    other_batch: &[&str],
    other_record: &[&str],
) {
    let read = || {
        let left = |all: &[&'static str], out: &[&str]| {
            all.iter().copied().filter(|name| !out.contains(name)).collect::<Vec<_>>()
        };
        let shown = Shown {
            batch: left(ours::SHOWN.batch, other_batch).leak(),
            record: left(ours::SHOWN.record, other_record).leak(),
        };
        let mut lines = ours::read(log)?;
        for line in &mut lines {
            let out = if line.kind == "batch" { other_batch } else { other_record };
            out.iter().for_each(|name| drop(line.fields.remove(*name)));
        }
        compare(&expected_of(cases, log)?, &lines, shown)
    };
    report.row("unlatched", &format!("reads the matrix by {program}"), read());
    report.row("unlatched", &format!("compression used by {program}"), compression(cases, log));
    report.row(
        "unlatched consume",
        &format!("reads the matrix by {program}"),
        kept_and_consumed(work, program, cases, log),
    );
    report.row("unlatched's broker", &format!("takes the matrix by {program}"), taken(log));
    report.row("unlatched", &format!("bytes without a codec, {program}"), same_bytes(program, cases, log));
}

/// That what can be shortened is compressed as asked. Some programs send the rest as it is.
fn compression(cases: &[Case], log: &[u8]) -> Outcome<Compared> {
    let mut compared = Compared::default();
    for (case, batch) in cases.iter().zip(cut(log)?) {
        let codec = Codec::from_id(batch[22] & 7);
        if codec != Some(case.codec()) && (case.shrinks() || codec != Some(Codec::None)) {
            return Err(format!("{}: {codec:?} where {} was asked for", case.name, case.compression));
        }
        compared = compared + Compared { batches: 1, records: 0, fields: 1 };
    }
    Ok(compared)
}

/// Writes `log` into a log directory and has `unlatched consume` read it.
fn kept_and_consumed(work: &Path, program: &str, cases: &[Case], log: &[u8]) -> Outcome<Compared> {
    let path = work.join(format!("by-{program}")).join(make::LOG);
    fs::create_dir_all(path.parent().ok_or("no folder")?).map_err(|error| error.to_string())?;
    fs::write(&path, log).map_err(|error| error.to_string())?;
    let want = values(cases.iter().flat_map(|case| &case.rows));
    let got = consume(&path)?;
    if want != got {
        return Err(format!("{} bytes printed, {} should be; or others", got.len(), want.len()));
    }
    let records = cases.iter().map(|case| case.rows.len()).sum();
    Ok(Compared { batches: cases.len(), records, fields: records })
}

/// What `unlatched consume` prints of these rows: a value a line.
fn values<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<u8> {
    let mut out = Vec::new();
    for row in rows {
        out.extend_from_slice(row.value.as_deref().unwrap_or_default());
        out.push(b'\n');
    }
    out
}

/// That `unlatched consume` prints what the decoder reads.
fn consumed(path: &Path, log: &[u8]) -> Outcome<()> {
    let mut want = Vec::new();
    for line in ours::read(log)?.iter().filter(|line| line.kind == "record") {
        want.extend(value(line));
        want.push(b'\n');
    }
    if consume(path)? == want { Ok(()) } else { Err("consume prints other values".to_owned()) }
}

/// The value in a record's line.
fn value(line: &Line) -> Vec<u8> {
    let digits = line.fields.get("value").and_then(|field| field.strip_prefix('x')).unwrap_or_default().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Hands each batch to the embedded broker, as a producer would.
fn taken(log: &[u8]) -> Outcome<Compared> {
    let broker = EmbeddedBroker::builder().open().map_err(|error| error.to_string())?;
    broker.create_topic(make::TOPIC, 1).map_err(|error| error.to_string())?;
    let mut compared = Compared::default();
    for batch in cut(log)? {
        let mut batch = batch.to_vec();
        assign_offset(&mut batch, 0, -1);
        let answer = broker.produce(NodeId(0), &TopicPartition::new(make::TOPIC, 0), &batch);
        if answer.error != ErrorCode::None {
            return Err(format!("batch {}: {}, {:?}", compared.batches, answer.error, answer.message));
        }
        compared = compared + Compared { batches: 1, records: 0, fields: 0 };
    }
    Ok(compared)
}

/// Without a codec there is one way to write a batch: theirs has our bytes.
fn same_bytes(program: &str, cases: &[Case], log: &[u8]) -> Outcome<Compared> {
    let (mut compared, mut offset) = (Compared::default(), 0);
    for (case, theirs) in cases.iter().zip(cut(log)?) {
        let back = case.rows.iter().any(|row| row.timestamp < case.rows[0].timestamp);
        // See kafka_protocol.rs.
        let other_base = program == "kafka-protocol" && back;
        if case.codec() == Codec::None && !other_base {
            let mut ours = make::batch::<LockFree>(case);
            assign_offset(&mut ours, offset, 0);
            if ours != theirs {
                let at = ours.iter().zip(theirs).position(|(left, right)| left != right);
                return Err(format!("{}: byte {at:?} is another", case.name));
            }
            compared = compared + Compared { batches: 1, records: case.rows.len(), fields: 0 };
        }
        offset += case.rows.len() as i64;
    }
    Ok(compared)
}

/// Both ways through librdkafka's mock broker: its consumer reads our batches, and we read the batches of its producer.
fn through_librdkafka(
    report: &mut Report,
    work: &Path,
    python: &Librdkafka,
    cases: &[Case],
    written: &[Written],
) -> Outcome<()> {
    // It takes no time but one behind 1970's first millisecond.
    let cases: Vec<Case> = cases.iter().filter(|case| case.rows.iter().all(|row| row.timestamp > 0)).cloned().collect();
    let order = work.join("order-librdkafka.txt");
    fs::write(&order, programs::order(&cases)).map_err(|error| error.to_string())?;
    let topics: Vec<String> = (0..written.len()).map(|number| format!("ours-{number}")).collect();
    let mut serving = python.serve(&order, &topics)?;
    let mut wire = Wire::connect(&serving.bootstrap).map_err(|error| error.to_string())?;
    for codec in Codec::ALL {
        let cases: Vec<Case> = cases.iter().filter(|case| case.codec() == codec).cloned().collect();
        let log = wire.fetch(&format!("theirs-{}", codec.name())).map_err(|error| error.to_string())?;
        report.row(
            "unlatched",
            &format!("reads librdkafka's, {}", codec.name()),
            read_librdkafka(work, codec, &cases, &log),
        );
    }
    let outcomes = written.iter().zip(&topics).map(|(written, topic)| {
        let lines = consume_by_librdkafka(&mut wire, &mut serving, topic, &written.log)?;
        compare(&written.lines, &lines, programs::LIBRDKAFKA)
    });
    let outcomes: Vec<_> = outcomes.collect();
    report.rows("librdkafka", "consumes", written, outcomes);
    Ok(())
}

/// Hands the batches of a log to the mock broker, as a producer sends them, and has them consumed: piece by piece, since the broker keeps 5 MiB of a partition and no more.
fn consume_by_librdkafka(wire: &mut Wire, serving: &mut Serving, topic: &str, log: &Path) -> Outcome<Vec<Line>> {
    const PIECE: usize = 2 << 20;
    let log = fs::read(log).map_err(|error| error.to_string())?;
    let batches = cut(&log)?;
    let mut lines = Vec::new();
    let (mut size, mut next) = (0, 0);
    for (index, batch) in batches.iter().enumerate() {
        let base = batch.first_chunk().map(|field| i64::from_be_bytes(*field));
        let mut sent = batch.to_vec();
        assign_offset(&mut sent, 0, -1);
        let offset = wire.produce(topic, &sent).map_err(|error| error.to_string())?;
        if Some(offset) != base {
            return Err(format!("the broker put the batch at {offset}"));
        }
        size += batch.len();
        if size >= PIECE || index + 1 == batches.len() {
            let last = batch.get(23..27).and_then(|field| field.try_into().ok()).map(i32::from_be_bytes);
            let end = offset + i64::from(last.ok_or("no header")?) + 1;
            lines.extend(serving.consume(
                topic,
                next,
                usize::try_from(end - next).map_err(|error| error.to_string())?,
            )?);
            (size, next) = (0, end);
        }
    }
    Ok(lines)
}

/// Where a batch of librdkafka's ends is its own affair; its records, in order, are the rows of all cases.
fn read_librdkafka(work: &Path, codec: Codec, cases: &[Case], log: &[u8]) -> Outcome<Compared> {
    let rows = || cases.iter().flat_map(|case| &case.rows);
    let want: Vec<Line> = (0..).zip(rows()).map(|(offset, row)| text::record(row, offset, -1, 0)).collect();
    let mut lines = ours::read(log)?;
    let compressed =
        lines.iter().filter(|line| line.fields.get("codec").is_some_and(|used| used == codec.name())).count();
    if compressed == 0 {
        return Err(format!("no batch is compressed with {}", codec.name()));
    }
    let batches = lines.iter().filter(|line| line.kind == "batch").count();
    lines.retain(|line| line.kind == "record");
    for line in &mut lines {
        line.fields.retain(|name, _| programs::LIBRDKAFKA.record.contains(&name.as_str()));
    }
    let compared = compare(&want, &lines, programs::LIBRDKAFKA)?;
    let path = work.join(format!("by-librdkafka-{}", codec.name())).join(make::LOG);
    fs::create_dir_all(path.parent().ok_or("no folder")?).map_err(|error| error.to_string())?;
    fs::write(&path, log).map_err(|error| error.to_string())?;
    if consume(&path)? != values(rows()) {
        return Err("consume prints other values".to_owned());
    }
    Ok(Compared { batches, ..compared })
}
