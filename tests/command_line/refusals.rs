//! What cannot be done is said in one line, with a status that is not 0, and leaves nothing half done.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::support::{Dir, Running, program, run, run_with};

/// Asserts that the program refuses `args` with `code` and a line that contains each of `says`, and changes nothing in
/// `dir`.
#[track_caller]
fn refuses(dir: &Dir, code: i32, args: &[&str], says: &[&str]) {
    let before = dir.tree();
    let said = run(args).refused(code);
    for says in says {
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let after = dir.tree();
    assert!(after == before, "{args:?} left {:?}", after.keys());
}

/// Files to go wrong with.
struct Files {
    dir: Dir,
    logs: String,
    json: String,
    csv: String,
}

impl Files {
    fn new() -> Self {
        let dir = Dir::new();
        // Two levels, neither of which is there.
        let logs = dir.path("new").join("logs").to_str().unwrap().to_owned();
        let (json, csv) = (dir.text("out.json"), dir.file("f.csv", "a,b,a\n1,2,3\n4,5,6\n"));
        Self { dir, logs, json, csv }
    }

    /// `compare`, one core, one round, and `args`.
    #[track_caller]
    fn compare(&self, code: i32, args: &[&str], says: &[&str]) {
        let fixed = ["compare", "--json", &self.json, "--log-dir", &self.logs];
        refuses(&self.dir, code, &[&fixed[..], args].concat(), says);
    }

    /// `produce` to a topic, and `args`.
    #[track_caller]
    fn produce(&self, code: i32, args: &[&str], says: &[&str]) {
        let fixed = ["produce", "--topic", "t", "--log-dir", &self.logs];
        refuses(&self.dir, code, &[&fixed[..], args].concat(), says);
    }

    /// Both.
    #[track_caller]
    fn both(&self, code: i32, args: &[&str], says: &[&str]) {
        self.compare(code, args, says);
        self.produce(code, args, says);
    }
}

#[test]
fn an_input_that_is_not_there_or_no_file() {
    let files = Files::new();
    files.both(1, &[&files.dir.text("absent.csv")], &["error: cannot read ", "absent.csv: No such file"]);
    files.both(1, &[&files.dir.text("")], &["error: cannot read ", "irectory"]);
    files.compare(1, &[&files.dir.file("empty.csv", "")], &["empty.csv holds no records"]);
    files.compare(1, &[&files.dir.file("header.csv", "a,b,c\n")], &["header.csv holds no records"]);
    files.compare(1, &[&files.dir.text("header.csv"), "--records", "9"], &["header.csv holds no records"]);
    files.compare(2, &["-"], &["'-'", "it must be a file, not standard input"]);
}

#[test]
fn a_column_that_is_not_there() {
    let files = Files::new();
    let csv = files.csv.as_str();
    files.both(1, &[csv, "--key-column", "c"], &["f.csv has no column \"c\"; its columns are a, b, a"]);
    files.both(1, &[csv, "--key-column", "B"], &["f.csv has no column \"B\""]);
    files.both(1, &[csv, "--key-column", "4"], &["f.csv has no column 4; its columns are a, b, a"]);
    files.both(1, &[csv, "--key-column", "a"], &["f.csv has 2 columns named \"a\": give the column's number"]);
    files.both(2, &[csv, "--key-column", "0"], &["columns are numbered from 1"]);
    files.compare(
        1,
        &["--key-column", "origine"],
        &["the bundled sample has no column \"origine\"; its columns are year"],
    );
    files.compare(2, &[csv, "--no-header", "--key-column", "a"], &["give a number"]);
}

#[test]
fn a_first_record_that_cannot_be_sent() {
    let files = Files::new();
    let long = files.dir.file("long.csv", [b"a,b\n1,".to_vec(), vec![b'x'; 2 << 20], b"\n".to_vec()].concat());
    files.compare(1, &[&long], &["long.csv, line 2: 2097154 bytes long, and a record has room for "]);
    files.produce(1, &["--skip-header", &long], &["long.csv, line 2: 2097154 bytes long, and a record has room for "]);
    let header = files.dir.file("header.csv", vec![b'x'; 2 << 20]);
    files.both(1, &[&header, "--key-column", "1"], &["header.csv, line 1: 2097152 bytes long"]);
    let text = files.dir.file("text.csv", b"a,b\n\xff,1\n");
    let says = "text.csv, line 2: the key in column 1 is not UTF-8";
    files.compare(1, &[&text, "--key-column", "a"], &[says]);
    files.produce(1, &[&text, "--key-column", "a", "--skip-header"], &[says]);
    let small = ["--buffer-memory", "94", "--batch-size", "50"];
    files.both(1, &[&[files.csv.as_str()][..], &small].concat(), &["f.csv, line ", "and a record has room for "]);
    let small = ["--buffer-memory", "1KiB"];
    files.both(
        1,
        &[&[files.csv.as_str()][..], &small].concat(),
        &["buffer.memory (1024 bytes) is smaller than batch.size"],
    );
}

#[test]
fn a_bad_record_in_the_middle_of_a_comparison_leaves_no_json() {
    let files = Files::new();
    // Behind the first block, so that it is met by the core.
    let lines = [b"a,b\n".to_vec(), b"key,value\n".repeat(60_000), b"\xff,1\n".to_vec()].concat();
    let text = files.dir.file("text.csv", lines);
    let old = files.dir.file("old.json", "the old figures");
    for json in [&files.json, &old] {
        let args = ["compare", &text, "--key-column", "a", "--core", "mutex", "--json", json];
        refuses(&files.dir, 1, &args, &["error: mutex, round 1: ", "text.csv, line 60002: the key in column 1"]);
    }
}

#[test]
fn a_place_that_cannot_be_written() {
    let files = Files::new();
    let (dir, csv) = (&files.dir, files.csv.as_str());
    let below = dir.path("f.csv").join("logs").to_str().unwrap().to_owned();
    let compare = ["compare", "--records", "9", "--rounds", "1", "--core", "mutex"];
    let produce = ["produce", "--topic", "t", csv];
    for command in [&compare[..], &produce] {
        refuses(dir, 1, &[command, &["--log-dir", &below]].concat(), &["cannot create log directory", "f.csv/logs"]);
        refuses(dir, 1, &[command, &["--log-dir", csv]].concat(), &["cannot create log directory", "f.csv"]);
    }
    let compare = [&compare[..], &["--json"]].concat();
    refuses(dir, 1, &[&compare[..], &[&below]].concat(), &["cannot write ", "f.csv/logs"]);
    refuses(dir, 1, &[&compare[..], &[&dir.text("no/out.json")]].concat(), &["cannot write ", "No such file"]);
    refuses(dir, 1, &[&compare[..], &[&dir.text("")]].concat(), &["cannot write ", "it is a directory"]);
    // A directory where the log would be.
    fs::create_dir_all(dir.log("t", 0)).unwrap();
    let logs = dir.text("logs");
    fs::write(dir.path("logs").join(".lock"), "").unwrap();
    refuses(dir, 1, &["produce", "--topic", "t", "--log-dir", &logs, csv], &["cannot open log", "irectory"]);
}

#[test]
fn a_directory_without_permission() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new();
    let closed = files.dir.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("probe"), "").is_ok() {
        // Whoever may do everything cannot be refused.
        return;
    }
    let (logs, json) = (files.dir.text("closed/logs"), files.dir.text("closed/out.json"));
    refuses(&files.dir, 1, &["produce", "--topic", "t", "--log-dir", &logs, &files.csv], &["Permission denied"]);
    refuses(&files.dir, 1, &["compare", "--records", "9", "--json", &json], &["cannot write ", "Permission denied"]);
}

#[test]
fn more_partitions_than_files_may_be_open() {
    let files = Files::new();
    let csv = files.csv.as_str();
    let program = env!("CARGO_BIN_EXE_unlatched");
    for command in [
        &["produce", "--topic", "t", csv][..],
        &["compare", csv, "--core", "mutex", "--rounds", "1", "--threads", "1", "--json", &files.json],
    ] {
        let before = files.dir.tree();
        let script = r#"ulimit -n 60; exec "$0" "$@""#;
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", script, program]).args(command).args(["--partitions", "200", "--log-dir", &files.logs]);
        let said = Running::start(shell.stdin(Stdio::null())).ended().refused(1);
        assert!(said.contains("Too many open files"), "{said}");
        assert!(files.dir.tree() == before, "{command:?} left {:?}", files.dir.tree().keys());
    }
}

#[test]
fn a_topic_that_cannot_be_read() {
    let files = Files::new();
    let dir = &files.dir;
    dir.produce(b"a\n", &["--partitions", "2"]).ok();
    let logs = dir.text("logs");
    let consume = |args: &[&str], says: &[&str]| refuses(dir, 1, &[&["consume"][..], args].concat(), says);
    consume(&["--topic", "u", "--log-dir", &logs], &["no partition u-0 to read"]);
    consume(&["--topic", "t", "--log-dir", &files.logs], &["cannot read log directory", "No such file"]);
    consume(&["--topic", "t", "--log-dir", &files.csv], &["cannot read log directory", "f.csv"]);
    consume(&["--topic", "t", "--log-dir", &logs, "--partition", "2"], &["t has partitions 0 to 1, and no 2"]);
    fs::remove_file(dir.log("t", 1)).unwrap();
    consume(&["--topic", "t", "--log-dir", &logs, "--partition", "1"], &["cannot read log", "No such file"]);
    fs::remove_dir_all(dir.path("logs").join("t-0")).unwrap();
    consume(&["--topic", "t", "--log-dir", &logs], &["no partition t-0 to read"]);
    // Nor is it written to.
    let produce = ["produce", "--topic", "t", "--log-dir", &logs, &files.csv];
    refuses(dir, 1, &produce, &["has no partition t-0, but a later one"]);
}

#[test]
fn nonsense() {
    let files = Files::new();
    let csv = files.csv.as_str();
    for (args, says) in [
        (&["compare", "--nonsense"][..], "'--nonsense'"),
        (&["compare", csv, csv], "unexpected argument"),
        (&["compare", "--core", "fast"], "no such core"),
        (&["compare", "--records", "0"], "above 0"),
        (&["compare", "--rounds", "x"], "from 1 to 1000"),
        (&["compare", "--broker", "dir"], "--broker dir needs --log-dir"),
        (&["produce", csv], "--topic <T>"),
        (&["produce", "--topic", "a/b", csv], "a topic's name has only"),
        (&["produce", "--topic", "t", "--core", "all", csv], "no such core"),
        (&["consume", "--topic", "t"], "--log-dir <DIR>"),
        (&["nonsense"], "'nonsense'"),
        (&[csv], "for a file: unlatched compare"),
    ] {
        refuses(&files.dir, 2, args, &[says]);
    }
}

#[test]
fn a_pipe_is_compared_once_or_not_at_all() {
    let files = Files::new();
    let input = b"a\n1\n2\n3\n";
    let said = run_with(input, &["compare", "/dev/stdin", "--json", &files.json]).refused(1);
    assert!(said.contains("cannot read /dev/stdin for each core and round anew"), "{said}");
    assert!(!files.dir.path("out.json").exists());
    // A named one, because a core has a standard input of its own.
    let pipe = files.dir.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let args = ["compare", pipe.to_str().unwrap(), "--core", "mutex", "--rounds", "1"];
    let running = Running::start(&mut program(&args));
    fs::OpenOptions::new().write(true).open(&pipe).unwrap().write_all(input).unwrap();
    let text = running.ended().ok().text();
    assert!(text.ends_with("found again 3 of 3, lost 0, duplicated 0, out of order 0\n"), "{text}");
}

#[test]
fn help_and_version_are_printed_and_may_be_cut_short() {
    for args in [&["--help"][..], &["compare", "--help"], &["produce", "-h"], &["help", "consume"], &["--version"]] {
        let ended = run(args).ok();
        assert!(ended.text().contains("nlatched") && ended.err.is_empty(), "{args:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = program(args);
        let ended = Running::start_with(command.stdout(writer).stderr(Stdio::piped())).ended().ok();
        assert_eq!(ended.err, "");
    }
}
