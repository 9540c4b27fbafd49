//! The programs that are asked: how each is found, started and understood.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use unlatched::record::Codec;

use crate::make::TOPIC;
use crate::matrix::Case;
use crate::text::{Line, Shown, bytes, headers};

/// What kafka-python's classes show: not a record's sequence, and its size without the length in front.
const KAFKA_PYTHON: Shown = Shown {
    batch: &[
        "base_offset",
        "last_offset",
        "bytes",
        "leader_epoch",
        "magic",
        "crc",
        "valid",
        "attributes",
        "codec",
        "transactional",
        "control",
        "timestamp_type",
        "base_timestamp",
        "max_timestamp",
        "producer_id",
        "producer_epoch",
        "base_sequence",
        "last_sequence",
        "count",
    ],
    record: &["offset", "timestamp", "key", "key_size", "value", "value_size", "headers", "header_names"],
};

/// What Kafka's classes show: not the attributes as a number.
const KAFKA_CLIENTS: Shown = Shown {
    batch: &[
        "base_offset",
        "last_offset",
        "bytes",
        "leader_epoch",
        "magic",
        "crc",
        "valid",
        "codec",
        "transactional",
        "control",
        "delete_horizon",
        "timestamp_type",
        "base_timestamp",
        "max_timestamp",
        "producer_id",
        "producer_epoch",
        "base_sequence",
        "last_sequence",
        "count",
    ],
    record: &[
        "offset",
        "timestamp",
        "sequence",
        "bytes",
        "key",
        "key_size",
        "value",
        "value_size",
        "headers",
        "header_names",
    ],
};

/// What Kafka's dump-log tool prints: of keys and values the sizes.
const DUMP_LOG: Shown = Shown {
    batch: &[
        "base_offset",
        "last_offset",
        "bytes",
        "leader_epoch",
        "magic",
        "crc",
        "valid",
        "codec",
        "transactional",
        "control",
        "delete_horizon",
        "max_timestamp",
        "producer_id",
        "producer_epoch",
        "base_sequence",
        "last_sequence",
        "count",
    ],
    record: &["offset", "timestamp", "sequence", "key_size", "value_size", "header_names"],
};

/// The same with `--print-data-log`: values as texts. For logs whose values are lines, since it does not say where a text ends.
const DUMP_LOG_TEXTS: Shown = Shown {
    record: &["offset", "timestamp", "sequence", "key_size", "value", "value_size", "header_names"],
    ..DUMP_LOG
};

/// What librdkafka's consumer shows: records, whatever batch they came in.
pub(crate) const LIBRDKAFKA: Shown = Shown {
    batch: &[],
    record: &["offset", "timestamp", "key", "key_size", "value", "value_size", "headers", "header_names"],
};

/// What a writer is to write: for each case a line `batch`, and a line `record` for each row.
pub(crate) fn order(cases: &[Case]) -> String {
    let mut text = String::new();
    for case in cases {
        let producer = case.producer;
        let (codec, transactional) = (case.codec(), u8::from(producer.transactional));
        let _ = writeln!(
            text,
            "batch codec={codec} producer_id={} producer_epoch={} base_sequence={} transactional={transactional} count={}",
            producer.id,
            producer.epoch,
            producer.base_sequence,
            case.rows.len()
        );
        for row in &case.rows {
            let (key, value) = (bytes(row.key.as_deref()), bytes(row.value.as_deref()));
            let _ =
                writeln!(text, "record timestamp={} key={key} value={value} headers={}", row.timestamp, headers(row));
        }
    }
    text
}

/// Reads a line that a program printed.
fn parse(line: &str) -> Result<Line, String> {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let kind = words.next().unwrap_or_default().to_owned();
    let field = |word: &str| {
        let (name, value) = word.split_once('=').ok_or_else(|| line.chars().take(200).collect::<String>())?;
        Ok((name.to_owned(), value.to_owned()))
    };
    Ok(Line { kind, fields: words.map(field).collect::<Result<_, String>>()? })
}

/// A program that reads a log, and may write one.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) shown: Shown,
    pub(crate) writes: bool,
    /// Whether it understands lines as values only.
    pub(crate) lines_only: bool,
    command: Vec<PathBuf>,
    understand: fn(&str) -> Result<Vec<Line>, String>,
}

impl Program {
    /// The lines of the log in `path`.
    pub(crate) fn read(&self, path: &Path) -> Result<Vec<Line>, String> {
        let read = if self.writes { Some("read") } else { None };
        let printed = output(self.start().args(read).arg(path))?;
        (self.understand)(&String::from_utf8_lossy(&printed))
    }

    /// Has it write `order` to `path`.
    pub(crate) fn write(&self, order: &Path, path: &Path) -> Result<Vec<u8>, String> {
        output(self.start().arg("write").args([order, path]))?;
        std::fs::read(path).map_err(|error| error.to_string())
    }

    fn start(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        command
    }
}

fn lines(text: &str) -> Result<Vec<Line>, String> {
    text.lines().map(parse).collect()
}

/// What `command` prints; an error with its last words if it fails.
fn output(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    Err(format!("{}: {}", output.status, last.into_iter().rev().collect::<Vec<_>>().join(" | ")))
}

/// What there is to ask.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    pub(crate) readers: Vec<Program>,
    pub(crate) librdkafka: Option<Librdkafka>,
    /// Programs and versions.
    pub(crate) found: Vec<String>,
    /// Programs that are not there, and why.
    pub(crate) missing: Vec<String>,
}

impl Programs {
    /// Looks what the script has installed in `tools`.
    pub(crate) fn find(tools: &Path) -> Self {
        let mut programs =
            Self { found: vec!["kafka-protocol, the crate, of Cargo.lock".to_owned()], ..Self::default() };
        let python = tools.join("venv/bin/python");
        let jars = format!("{0}/jars/*:{0}/classes", tools.display());
        let java = |main: &str| ["java", "-cp", &jars, main].map(PathBuf::from).to_vec();
        let script = |name: &str| vec![python.clone(), PathBuf::from("tests/readers").join(name)];

        if let Some(mut command) = programs.ask(script("kafka_python.py"), "kafka-python") {
            command.truncate(2);
            programs.readers.push(Program {
                name: "kafka-python",
                shown: KAFKA_PYTHON,
                writes: true,
                lines_only: false,
                command,
                understand: lines,
            });
        }
        if let Some(command) =
            programs.ask(java("Kafka"), "Kafka's record classes and its dump-log tool (Java 17 and Maven)")
        {
            programs.readers.push(Program {
                name: "Kafka's classes",
                shown: KAFKA_CLIENTS,
                writes: true,
                lines_only: false,
                command,
                understand: lines,
            });
            for (name, shown, lines_only) in
                [("Kafka's dump-log", DUMP_LOG, false), ("dump-log, texts", DUMP_LOG_TEXTS, true)]
            {
                let mut command = java("kafka.tools.DumpLogSegments");
                command.extend(lines_only.then(|| PathBuf::from("--print-data-log")));
                command.extend(["--deep-iteration", "--max-message-size", "10000000", "--files"].map(PathBuf::from));
                programs.readers.push(Program {
                    name,
                    shown,
                    writes: false,
                    lines_only,
                    command,
                    understand: dump_log,
                });
            }
        }
        if let Some(command) = programs.ask(script("librdkafka.py"), "librdkafka") {
            programs.librdkafka = Some(Librdkafka { command });
        }
        programs
    }

    /// The command, if it says what it is.
    fn ask(&mut self, command: Vec<PathBuf>, what: &str) -> Option<Vec<PathBuf>> {
        match output(Command::new(&command[0]).args(&command[1..]).arg("versions")) {
            Ok(versions) => {
                self.found.push(String::from_utf8_lossy(&versions).trim().to_owned());
                Some(command)
            }
            Err(error) => {
                self.missing.push(format!("{what}: {error}"));
                None
            }
        }
    }
}

/// Understands `kafka.tools.DumpLogSegments --deep-iteration`: a line for each batch, `name: value` over and over, and for each record a line
/// that begins with a bar.
fn dump_log(text: &str) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let (kind, rest) = match line.strip_prefix("| ") {
            Some(rest) => ("record", rest),
            None if line.starts_with("baseOffset: ") => ("batch", line),
            None if line.starts_with("Dumping ") || line.starts_with("Log starting offset: ") => continue,
            None => return Err(format!("not understood: {line}")),
        };
        let mut out = Line { kind: kind.to_owned(), ..Line::default() };
        let (rest, text) = match rest.split_once(" payload: ") {
            Some((rest, text)) => (rest, Some(text)),
            None => (rest, None),
        };
        let (rest, names) = match rest.split_once(" headerKeys: [") {
            Some((rest, names)) => (rest, names.trim_end_matches(']')),
            None => (rest, ""),
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        for pair in words.chunks(2) {
            let [name, value] = pair else { return Err(format!("not understood: {line}")) };
            if let Some((name, value)) = dump_log_field(kind, name.trim_end_matches(':'), value)? {
                out.fields.insert(name.to_owned(), value);
            }
        }
        if kind == "record" {
            let names = if names.is_empty() {
                String::new()
            } else {
                names.split(',').map(|name| bytes(Some(name.as_bytes()))).collect::<Vec<_>>().join(",")
            };
            out.fields.insert("header_names".to_owned(), names);
            out.fields.extend(text.map(|text| ("value".to_owned(), bytes(Some(text.as_bytes())))));
        }
        lines.push(out);
    }
    Ok(lines)
}

fn dump_log_field(kind: &str, name: &str, value: &str) -> Result<Option<(&'static str, String)>, String> {
    let same = |name| Ok(Some((name, value.to_owned())));
    let bit = |name| match value {
        "true" => Ok(Some((name, "1".to_owned()))),
        "false" => Ok(Some((name, "0".to_owned()))),
        _ => Err(format!("not understood: {name} {value}")),
    };
    match (kind, name) {
        ("batch", "baseOffset") => same("base_offset"),
        ("batch", "lastOffset") => same("last_offset"),
        ("batch", "count") => same("count"),
        ("batch", "baseSequence") => same("base_sequence"),
        ("batch", "lastSequence") => same("last_sequence"),
        ("batch", "producerId") => same("producer_id"),
        ("batch", "producerEpoch") => same("producer_epoch"),
        ("batch", "partitionLeaderEpoch") => same("leader_epoch"),
        ("batch", "isTransactional") => bit("transactional"),
        ("batch", "isControl") => bit("control"),
        ("batch", "deleteHorizonMs") => {
            Ok(Some(("delete_horizon", if value == "OptionalLong.empty" { "-" } else { value }.to_owned())))
        }
        ("batch", "CreateTime") => same("max_timestamp"),
        ("batch", "size") => same("bytes"),
        ("batch", "magic") => same("magic"),
        ("batch", "compresscodec") => same("codec"),
        ("batch", "crc") => {
            let crc: u32 = value.parse().map_err(|_| format!("not understood: crc {value}"))?;
            Ok(Some(("crc", format!("{crc:08x}"))))
        }
        ("batch", "isvalid") => bit("valid"),
        // Where it lies in the file: that follows from the sizes.
        ("batch", "position") => Ok(None),
        ("record", "offset") => same("offset"),
        ("record", "CreateTime") => same("timestamp"),
        ("record", "keySize") => same("key_size"),
        ("record", "valueSize") => same("value_size"),
        ("record", "sequence") => same("sequence"),
        _ => Err(format!("not understood: {kind} {name} {value}")),
    }
}

/// The script that speaks for librdkafka.
#[derive(Debug)]
pub(crate) struct Librdkafka {
    command: Vec<PathBuf>,
}

impl Librdkafka {
    /// Starts the mock broker, with `topics`, and has the batches of `order` sent to it.
    pub(crate) fn serve(&self, order: &Path, topics: &[String]) -> Result<Serving, String> {
        let mut child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .arg("serve")
            .arg(order)
            .args(topics)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let out = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut serving = Serving { child, out, bootstrap: String::new() };
        let line = serving.line()?;
        line.strip_prefix("bootstrap ")
            .ok_or_else(|| format!("librdkafka: {line}"))?
            .clone_into(&mut serving.bootstrap);
        Ok(serving)
    }
}

/// A mock broker that runs, and a consumer that can be asked. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    child: Child,
    out: BufReader<ChildStdout>,
    /// Host and port.
    pub(crate) bootstrap: String,
}

impl Serving {
    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.out.read_line(&mut line) {
            Ok(0) => Err("librdkafka's script ended".to_owned()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the consumer reads: `count` records of `topic`, from the one at `offset` on.
    pub(crate) fn consume(&mut self, topic: &str, offset: i64, count: usize) -> Result<Vec<Line>, String> {
        let stdin = self.child.stdin.as_mut().ok_or("no input")?;
        writeln!(stdin, "{topic} {offset} {count}").map_err(|error| error.to_string())?;
        let mut lines = Vec::with_capacity(count);
        loop {
            match &*self.line()? {
                "end" => return Ok(lines),
                line => lines.push(parse(line)?),
            }
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program under test, built beside this one.
fn unlatched() -> Result<Command, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let directory = me.parent().and_then(Path::parent).ok_or("no folder")?;
    Ok(Command::new(directory.join("unlatched")))
}

/// `unlatched produce` of a file to the only partition of a topic.
pub(crate) fn produce(directory: &Path, core: &str, codec: Codec, file: &str) -> Result<(), String> {
    let mut command = unlatched()?;
    command
        .args(["produce", "--topic", TOPIC, "--partitions", "1", "--core", core])
        .args(["--compression-type", codec.name(), "--log-dir"])
        .arg(directory)
        .arg(file);
    output(&mut command).map(drop)
}

/// What `unlatched consume` prints of the topic whose log is `log`.
pub(crate) fn consume(log: &Path) -> Result<Vec<u8>, String> {
    let directory = log.parent().and_then(Path::parent).ok_or("no folder")?;
    output(unlatched()?.args(["consume", "--topic", TOPIC, "--log-dir"]).arg(directory))
}
