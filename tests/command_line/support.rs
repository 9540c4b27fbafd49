//! Running the program, and looking at what it leaves behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The bundled sample: a header and 4,000 records.
pub(crate) const SAMPLE: &[u8] = include_bytes!("../../data/flights-sample.csv");

/// The program, with nothing to read.
pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unlatched"));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }

    /// Asserts that all went well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code(), Some(0), "{}", self.err);
        self
    }

    /// Asserts that the program refused with `code` and one line, which it gives back, and printed nothing.
    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!(self.code(), Some(code), "{}", self.err);
        assert!(self.out.is_empty(), "{}", self.text());
        let lines: Vec<&str> = self.err.lines().collect();
        assert!(matches!(lines[..], [line] if line.starts_with("error: ") && line.len() < 500), "{:?}", self.err);
        self.err.trim_end().to_owned()
    }
}

/// Runs the program to its end.
pub(crate) fn run(args: &[&str]) -> Ended {
    Running::start(&mut program(args)).ended()
}

/// Runs the program with `input` on its standard input.
pub(crate) fn run_with(input: &[u8], args: &[&str]) -> Ended {
    let mut running = Running::start(program(args).stdin(Stdio::piped()));
    let mut stdin = running.stdin();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that refuses does not read to the end.
        let _ = stdin.write_all(&input);
    });
    let ended = running.ended();
    writer.join().unwrap();
    ended
}

/// A program that runs; it is killed if the test fails.
pub(crate) struct Running {
    child: Child,
    /// Read as it comes, so that the program never waits for us.
    out: Option<JoinHandle<Vec<u8>>>,
    err: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts `command`; standard output and error are piped, unless they are [taken](Running::start_with) elsewhere.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_with(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Starts `command` with the outputs that it has.
    pub(crate) fn start_with(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (out, err) = (child.stdout.take().map(drain), child.stderr.take().map(drain));
        Self { child, out, err }
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for the end.
    pub(crate) fn ended(mut self) -> Ended {
        let mut status = None;
        wait_for("the program's end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let text = |pipe: Option<JoinHandle<Vec<u8>>>| pipe.map_or_else(Vec::new, |pipe| pipe.join().unwrap());
        let (out, err) = (text(self.out.take()), text(self.err.take()));
        Ended { status: status.unwrap(), out, err: String::from_utf8(err).unwrap() }
    }

    /// The processes that the program has started, as far as the system tells.
    #[cfg(target_os = "linux")]
    pub(crate) fn children(&self) -> Vec<Pid> {
        let mut children = Vec::new();
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid())) else { return children };
        for thread in threads.flatten() {
            let of_thread = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            children.extend(of_thread.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())));
        }
        children
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        pipe.read_to_end(&mut all).unwrap();
        all
    })
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_in_the_end(condition), "waited in vain for {what}");
}

/// Whether `condition` holds after a while. The deadline is for a program that hangs, not for one on a busy machine.
pub(crate) fn holds_in_the_end(mut condition: impl FnMut() -> bool) -> bool {
    (0..12_000).any(|_| {
        let holds = condition();
        if !holds {
            std::thread::sleep(Duration::from_millis(5));
        }
        holds
    })
}

/// A terminal: our end, and the program's.
pub(crate) fn terminal() -> (File, OwnedFd) {
    let pair = nix::pty::openpty(None, None).unwrap();
    (File::from(pair.master), pair.slave)
}

/// A directory for one test, with words for what lies in it.
pub(crate) struct Dir(tempfile::TempDir);

impl Dir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file, and gives its path back.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }

    /// All that lies in it, with the bytes of files.
    pub(crate) fn tree(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                }
                let bytes = path.is_file().then(|| fs::read(&path).unwrap());
                found.insert(path, bytes);
            }
        }
        let mut found = BTreeMap::new();
        walk(self.0.path(), &mut found);
        found
    }

    /// The log file of a partition in the log directory `logs`.
    pub(crate) fn log(&self, topic: &str, partition: i32) -> PathBuf {
        self.path("logs").join(format!("{topic}-{partition}")).join("00000000000000000000.log")
    }

    /// The length of that file, 0 if there is none.
    pub(crate) fn log_len(&self, topic: &str, partition: i32) -> u64 {
        fs::metadata(self.log(topic, partition)).map_or(0, |at| at.len())
    }

    /// Produces `input` to the topic `t` in the log directory `logs`.
    pub(crate) fn produce(&self, input: &[u8], args: &[&str]) -> Ended {
        let logs = self.text("logs");
        run_with(input, &[&["produce", "--topic", "t", "--log-dir", &logs], args].concat())
    }

    /// Consumes the topic `t` of the log directory `logs`.
    pub(crate) fn consume(&self, args: &[&str]) -> Ended {
        let logs = self.text("logs");
        run(&[&["consume", "--topic", "t", "--log-dir", &logs], args].concat())
    }
}

/// `"{prefix}0\n{prefix}1\n..."`
pub(crate) fn numbered(prefix: &str, lines: usize) -> Vec<u8> {
    (0..lines).flat_map(|line| format!("{prefix}{line}\n").into_bytes()).collect()
}

/// Kafka's partition of a key, written again from its definition.
pub(crate) fn kafka_partition(key: &[u8], partitions: u32) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !tail.is_empty() {
        hash ^= tail.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^= hash >> 15;
    (hash & 0x7fff_ffff) % partitions
}

#[test]
fn kafka_partition_is_kafkas() {
    // Vectors of Kafka's own UtilsTest, as positive numbers.
    let hash = |key: &[u8]| kafka_partition(key, u32::MAX);
    let of_kafka = |hash: i32| hash.cast_unsigned() & 0x7fff_ffff;
    assert_eq!(hash(b"21"), of_kafka(-973_932_308));
    assert_eq!(hash(b"foobar"), of_kafka(-790_332_482));
    assert_eq!(hash(b"a-little-bit-long-string"), of_kafka(-985_981_536));
    assert_eq!(hash(b"abc"), of_kafka(479_470_107));
}
