use std::collections::HashMap;
use std::io::{Cursor, Write};

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;

const LIMIT: usize = 1 << 20;

/// Line number, value, key.
type Record = (u64, Vec<u8>, Option<Vec<u8>>);

fn read_all(reader: &BlockReader) -> (Vec<Record>, Option<InputError>) {
    let mut block = Block::new();
    let mut records = Vec::new();
    loop {
        match reader.next_block(&mut block) {
            Ok(true) => {}
            Ok(false) => return (records, None),
            Err(error) => return (records, Some(error)),
        }
        let promised = block.records();
        let before = records.len();
        for line in block.lines() {
            match line {
                Ok(line) => records.push((line.number, line.bytes.to_vec(), line.key.map(|key| key.into_owned()))),
                Err(error) => return (records, Some(error)),
            }
        }
        assert_eq!((records.len() - before) as u64, promised, "a block delivers what it promises");
        assert!(promised > 0, "a block that was announced is not empty");
    }
}

fn records(source: Source, options: Options) -> Vec<Record> {
    let (records, error) = read_all(&BlockReader::open(source, options).unwrap());
    assert!(error.is_none(), "{error:?}");
    records
}

fn values(source: Source, options: Options) -> Vec<String> {
    records(source, options).into_iter().map(|(_, value, _)| String::from_utf8(value).unwrap()).collect()
}

fn keys(source: Source, options: Options) -> Vec<Option<String>> {
    records(source, options).into_iter().map(|(_, _, key)| key.map(|key| String::from_utf8(key).unwrap())).collect()
}

fn text(text: &'static str) -> Source {
    Source::bytes("t.csv", text.as_bytes())
}

fn csv() -> Options {
    Options::csv(LIMIT)
}

fn keyed(options: Options, column: &str) -> Options {
    Options { key: Some(column.parse().unwrap()), ..options }
}

fn exactly(options: Options, records: u64) -> Options {
    Options { records: Records::Exactly(records), ..options }
}

/// Gives out its bytes in pieces of odd lengths, as a pipe does.
struct Dribble(Cursor<Vec<u8>>, usize);

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1 * 7 % 4093 + 1;
        let room = buffer.len().min(self.1);
        self.0.read(&mut buffer[..room])
    }
}

/// The same bytes from everywhere that bytes can come from; the file is kept until its source has been read.
fn everywhere(bytes: &[u8]) -> Vec<(Source, Option<NamedTempFile>)> {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    vec![
        (Source::bytes("bytes", bytes.to_vec().leak()), None),
        (Source::reader("pipe", Box::new(Cursor::new(bytes.to_vec()))), None),
        (Source::reader("dribble", Box::new(Dribble(Cursor::new(bytes.to_vec()), 1))), None),
        (Source::file(file.path()), Some(file)),
    ]
}

#[test]
fn a_line_is_a_record_and_its_end_is_not_part_of_it() {
    assert_eq!(values(text("h\na\r\nb\n\nc\rd\n\r\ne"), csv()), ["a", "b", "", "c\rd", "", "e"]);
    let kept = values(text("h\na\r\nb\n\nc\rd\n\r\ne"), Options::lines(LIMIT));
    assert_eq!(kept, ["h", "a\r", "b", "", "c\rd", "\r", "e"]);
    assert_eq!(values(text("h\na\r"), csv()), ["a\r"], "no newline, so the return is no part of one");
    assert_eq!(values(text("h\n\n"), csv()), [""]);
    assert_eq!(values(text("h\n\"a\nb\"\n"), csv()), ["\"a", "b\""], "a quoted newline joins nothing");
}

#[test]
fn lines_are_numbered_as_an_editor_numbers_them() {
    let numbers = |options| records(text("h\na\n\nb"), options).into_iter().map(|r| r.0).collect::<Vec<_>>();
    assert_eq!(numbers(csv()), [2, 3, 4]);
    assert_eq!(numbers(Options::lines(LIMIT)), [1, 2, 3, 4]);
    assert_eq!(numbers(exactly(csv(), 5)), [2, 3, 4, 2, 3]);
}

#[test]
fn what_was_read_as_lines_can_be_written_back() {
    // Lines of all lengths up to several small blocks, with returns here and there.
    let mut bytes = Vec::new();
    let mut length = 1_usize;
    while bytes.len() as u64 <= KEPT {
        length = length * 31 % 50_021;
        bytes.extend(std::iter::repeat_n(b'a' + (length % 26) as u8, length / (1 + length % 40)));
        bytes.extend_from_slice(if length.is_multiple_of(5) { b"\r\n" } else { b"\n" });
    }
    for unfinished in [&b""[..], b"end", b"\r"] {
        bytes.extend_from_slice(unfinished);
        for threads in [1, 64] {
            for (source, _file) in everywhere(&bytes) {
                let name = source.name.clone();
                let mut back = Vec::new();
                for (i, (number, value, _)) in
                    records(source, Options { threads, ..Options::lines(LIMIT) }).iter().enumerate()
                {
                    assert_eq!(*number, i as u64 + 1);
                    back.extend_from_slice(value);
                    back.push(b'\n');
                }
                let ended = if unfinished.is_empty() { bytes.clone() } else { [&bytes[..], b"\n"].concat() };
                assert!(back == ended, "{name}, {threads} threads, at the end {unfinished:?}");
            }
        }
        bytes.truncate(bytes.len() - unfinished.len());
    }
}

proptest! {
    // Each case makes a file.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_come_back_as_they_were(bytes in proptest::collection::vec(
        prop_oneof![3 => Just(b'\n'), 1 => Just(b'\r'), 4 => any::<u8>()], 0..200)) {
        let mut ended = bytes.clone();
        if ended.last().is_some_and(|&last| last != b'\n') {
            ended.push(b'\n');
        }
        for (source, _file) in everywhere(&bytes) {
            let back: Vec<u8> =
                records(source, Options::lines(LIMIT)).into_iter().flat_map(|(_, v, _)| [v, vec![b'\n']].concat()).collect();
            prop_assert_eq!(&back, &ended);
        }
    }

    #[test]
    fn a_limit_is_kept_wherever_the_long_line_stands(
        lengths in proptest::collection::vec(0_usize..40, 1..30),
        limit in 1_usize..40,
        crlf: bool,
        strip_cr: bool,
    ) {
        let end: &[u8] = if crlf { b"\r\n" } else { b"\n" };
        let bytes: Vec<u8> = lengths.iter().flat_map(|&n| [&vec![b'x'; n], end].concat()).collect();
        let value = |n: usize| n + usize::from(crlf && !strip_cr);
        let good = lengths.iter().position(|&n| value(n) > limit);
        for (source, _file) in everywhere(&bytes) {
            let options = Options { strip_cr, ..Options::lines(limit) };
            let (records, error) = read_all(&BlockReader::open(source, options).unwrap());
            prop_assert_eq!(records.len(), good.unwrap_or(lengths.len()));
            match (good, error) {
                (None, None) => {}
                (Some(at), Some(InputError::LineTooLong { line, length, exact, .. })) => {
                    prop_assert_eq!((line, length, exact), (at as u64 + 1, value(lengths[at]) as u64, true));
                }
                (good, error) => prop_assert!(false, "{good:?} {error:?}"),
            }
        }
    }
}

#[test]
fn a_line_at_the_limit_passes_and_one_above_it_is_named() {
    for limit in [100, SMALL_BLOCK, BLOCK - 1, BLOCK, 3 * BLOCK] {
        for end in ["\n", "\r\n", ""] {
            let at = [b"h\nshort\n", &vec![b'x'; limit][..], end.as_bytes()].concat();
            let above = [b"h\nshort\n", &vec![b'x'; limit + 1][..], end.as_bytes(), b"behind\n"].concat();
            let above = &above[..above.len() - if end.is_empty() { 7 } else { 0 }];
            for (source, _file) in everywhere(&at) {
                let lengths: Vec<usize> = records(source, Options::csv(limit)).iter().map(|r| r.1.len()).collect();
                assert_eq!(lengths, [5, limit], "limit {limit}, end {end:?}");
            }
            for (source, _file) in everywhere(above) {
                let name = source.name.clone();
                let reader = BlockReader::open(source, Options::csv(limit)).unwrap();
                let (before, error) = read_all(&reader);
                assert_eq!(before.len(), 1, "what stands in front is delivered, nothing behind");
                let want = format!("{name}, line 3: {} bytes long, and a record has room for {limit}", limit + 1);
                assert_eq!(error.unwrap().to_string(), want);
                let again = read_all(&reader);
                assert!(again.0.is_empty() && again.1.unwrap().to_string() == want, "every thread gets the error");
            }
        }
    }
}

#[test]
fn a_line_without_end_is_not_kept_and_not_read_for_ever() {
    let endless = Source::reader("zeros", Box::new(io::repeat(0)));
    let reader = BlockReader::open(endless, Options::lines(1000)).unwrap();
    let mut block = Block::new();
    let error = reader.next_block(&mut block).unwrap_err().to_string();
    assert!(error.starts_with("zeros, line 1: more than 67"), "{error}");
    assert!(block.buffer.len() <= BLOCK);
    let endless = Source::reader("zeros", Box::new(io::repeat(0)));
    let reader = BlockReader::open(endless, keyed(Options::csv(1000), "origin")).unwrap();
    let error = reader.next_block(&mut block).unwrap_err().to_string();
    assert!(error.starts_with("zeros, line 1: more than 67"), "a header, too: {error}");
    let endless = Source::reader("zeros", Box::new(io::repeat(0)));
    let reader = BlockReader::open(endless, Options::lines(BLOCK + 1)).unwrap();
    assert!(reader.next_block(&mut block).is_err());
    assert_eq!(block.buffer.len(), BLOCK + 3, "no more than it takes to see that the line is too long");
}

#[test]
fn a_wanted_record_is_not_spoilt_by_what_stands_behind_it() {
    let long = || Source::bytes("t", b"a\nb\nvery long\n");
    assert_eq!(values(long(), exactly(Options::lines(5), 2)), ["a", "b"]);
    let (before, error) = read_all(&BlockReader::open(long(), exactly(Options::lines(5), 3)).unwrap());
    assert!(before.len() == 2 && error.is_some());
}

#[test]
fn a_line_longer_than_a_block_is_one_record() {
    let long = vec![b'x'; 2 * BLOCK + 77];
    let bytes = [b"first\n", &long[..], b"\nlast\n"].concat().repeat(3);
    for (source, _file) in everywhere(&bytes) {
        let lengths: Vec<usize> = records(source, Options::lines(LIMIT)).iter().map(|r| r.1.len()).collect();
        assert_eq!(lengths, [5, long.len(), 4].repeat(3));
    }
}

/// `lines` lines of about `width` bytes that tell their number, under a header.
fn numbered(lines: usize, width: usize) -> Vec<u8> {
    let mut bytes = b"number,rest\n".to_vec();
    for n in 0..lines {
        bytes.extend_from_slice(format!("{n},{:.>width$}\n", "").as_bytes());
    }
    bytes
}

#[test]
fn the_number_of_records_is_exact_however_often_the_file_goes_into_it() {
    // One that goes round within a block, one of a few blocks in memory, one too large to be kept.
    for (lines, width) in [(7, 3), (9_000, 60), (12_000, 100)] {
        let bytes = numbered(lines, width);
        assert_eq!(lines == 12_000, bytes.len() as u64 > KEPT);
        for (unfinished, threads) in [(0, 1), (1, 16)] {
            let mut file = NamedTempFile::new().unwrap();
            file.write_all(&bytes[..bytes.len() - unfinished]).unwrap();
            let lines = lines as u64;
            for wanted in [1, lines - 1, lines, lines + 1, 2 * lines, 3 * lines + 5] {
                let options = Options { threads, ..exactly(keyed(csv(), "number"), wanted) };
                let reader = BlockReader::open(Source::file(file.path()), options).unwrap();
                let (got, error) = read_all(&reader);
                assert!(error.is_none() && got.len() as u64 == wanted && reader.delivered() == wanted);
                for (i, (number, _, key)) in got.into_iter().enumerate() {
                    let line = i as u64 % lines;
                    assert_eq!((number, key), (line + 2, Some(line.to_string().into_bytes())));
                }
            }
        }
    }
}

#[test]
fn threads_together_deliver_every_record_once() {
    for (lines, wanted) in [(20_000_u64, None), (20_000, Some(50_001)), (5, Some(40_000)), (3_000, Some(2_999))] {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&numbered(lines as usize, 80)).unwrap();
        let threads = 8;
        let records = wanted.map_or(Records::Once, Records::Exactly);
        let options = Options { threads, records, ..keyed(csv(), "1") };
        let reader = BlockReader::open(Source::file(file.path()), options).unwrap();
        let counts: Vec<HashMap<Vec<u8>, u64>> = std::thread::scope(|scope| {
            let work = || {
                let mut block = Block::new();
                let mut seen = HashMap::new();
                while reader.next_block(&mut block).unwrap() {
                    for line in block.lines() {
                        let line = line.unwrap();
                        assert_eq!(line.bytes.split(|&b| b == b',').next(), line.key.as_deref());
                        *seen.entry(line.key.unwrap().into_owned()).or_default() += 1;
                    }
                }
                seen
            };
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        let wanted = wanted.unwrap_or(lines);
        for n in 0..lines {
            let key = n.to_string().into_bytes();
            let seen: u64 = counts.iter().filter_map(|count| count.get(&key)).sum();
            assert_eq!(seen, wanted / lines + u64::from(n < wanted % lines), "record {n} of {lines}");
        }
        assert_eq!(reader.delivered(), wanted);
    }
}

#[test]
fn a_short_input_gives_every_thread_several_blocks() {
    let blocks = |threads, records| {
        let options = Options { threads, records, ..csv() };
        let reader = BlockReader::open(Source::sample(), options).unwrap();
        let mut block = Block::new();
        std::iter::from_fn(|| reader.next_block(&mut block).unwrap().then_some(())).count()
    };
    assert!(blocks(1, Records::Once) <= 10);
    assert!(blocks(4, Records::Once) >= 20);
    assert!(blocks(16, Records::Exactly(40_000)) >= 100);
    assert_eq!(block_length(u64::MAX, 1), BLOCK);
    assert_eq!(block_length(0, 0), SMALL_BLOCK);
}

#[test]
fn memory_stays_at_a_block_however_large_the_file_is() {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&numbered(100_000, 90)).unwrap();
    let reader = BlockReader::open(Source::file(file.path()), csv()).unwrap();
    let mut block = Block::new();
    while reader.next_block(&mut block).unwrap() {
        assert_eq!(block.buffer.len(), BLOCK);
        let Origin::Stream { carry, .. } = &reader.state.lock().origin else { panic!("the file was kept") };
        assert!(carry.capacity() <= BLOCK);
    }
    assert_eq!(reader.delivered(), 100_000);
}

/// Gives one piece a read, the last one first, and counts the reads.
struct Terminal(Vec<&'static [u8]>, Arc<Mutex<usize>>);

impl Read for Terminal {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        *self.1.lock() += 1;
        let Some(typed) = self.0.pop() else { return Ok(0) };
        buffer[..typed.len()].copy_from_slice(typed);
        Ok(typed.len())
    }
}

#[test]
fn what_is_typed_does_not_wait_for_a_full_block() {
    let reads = Arc::new(Mutex::new(0));
    let terminal = Terminal(vec![b"three", b"two\n", b"one\n"], reads.clone());
    let reader = BlockReader::open(Source::reader("terminal", Box::new(terminal)), Options::lines(LIMIT)).unwrap();
    assert_eq!(*reads.lock(), 0, "nothing is read before it is asked for");
    let mut block = Block::new();
    for (want, reads_by_then) in [("one", 1), ("two", 2), ("three", 4)] {
        assert!(reader.next_block(&mut block).unwrap());
        let lines: Vec<_> = block.lines().map(|line| line.unwrap().bytes.to_vec()).collect();
        assert_eq!(lines, [want.as_bytes()]);
        assert_eq!(*reads.lock(), reads_by_then);
    }
    assert!(!reader.next_block(&mut block).unwrap());
}

#[test]
fn keys_come_from_the_named_column() {
    let file = "id,\"name, first\"\r\n1,\"Smith, John\"\r\n2,\"a \"\"b\"\"\"\r\n3,plain\r\n4,\"\"\r\n5,\r\n";
    let names = [Some("Smith, John"), Some("a \"b\""), Some("plain"), None, None];
    assert_eq!(keys(text(file), keyed(csv(), "name, first")), names.map(|n| n.map(str::to_owned)));
    assert_eq!(keys(text(file), keyed(csv(), "2")), names.map(|n| n.map(str::to_owned)));
    // A return that stays in the value is still no part of the key.
    let kept = Options { header: Header::Kept, ..Options::lines(LIMIT) };
    let got = records(text(file), keyed(kept, "name, first"));
    assert_eq!(got[0].2.as_deref(), Some(&b"name, first"[..]), "a header that is sent has a key as well");
    assert_eq!((&got[3].1[..], got[3].2.as_deref()), (&b"3,plain\r"[..], Some(&b"plain"[..])));
    assert_eq!(got.len(), 6);
}

#[test]
fn a_byte_order_mark_belongs_to_the_value_only() {
    let marked = "\u{feff}id,name\n1,x\n";
    assert_eq!(keys(text(marked), keyed(csv(), "id")), [Some("1".to_owned())]);
    let got = records(text(marked), keyed(Options::lines(LIMIT), "1"));
    assert_eq!((&got[0].1[..], got[0].2.as_deref()), ("\u{feff}id,name".as_bytes(), Some(&b"id"[..])));
}

#[test]
fn short_rows_have_no_key_and_are_counted() {
    let reader = BlockReader::open(text("a,b,c\n1,2,3\n1,2\n\n,,\n1\n1,2,3,4\n"), keyed(csv(), "c")).unwrap();
    let (records, error) = read_all(&reader);
    assert!(error.is_none());
    let keys: Vec<Option<&[u8]>> = records.iter().map(|r| r.2.as_deref()).collect();
    assert_eq!(keys, [Some(&b"3"[..]), None, None, None, None, Some(b"3")]);
    assert_eq!(reader.short_rows(), 2, "an empty line and an empty field are not short");
    let reader = BlockReader::open(text("a,b\n1,2\n"), keyed(Options::lines(LIMIT), "3")).unwrap();
    assert_eq!(read_all(&reader).0.len(), 2);
    assert_eq!(reader.short_rows(), 2, "without a header, a number that is too large shows only here");
}

#[test]
fn a_block_may_go_from_one_reader_to_another() {
    let mut block = Block::new();
    let first = BlockReader::open(text("a,b\n1\n"), keyed(csv(), "b")).unwrap();
    assert!(first.next_block(&mut block).unwrap());
    assert_eq!(block.lines().count(), 1);
    let second = BlockReader::open(text("a,b\n1,2\r\n"), keyed(csv(), "a")).unwrap();
    assert!(second.next_block(&mut block).unwrap());
    let keys: Vec<_> = block.lines().map(|line| line.unwrap().key.unwrap().into_owned()).collect();
    assert_eq!(keys, [b"1"]);
    assert!(!second.next_block(&mut block).unwrap());
    assert_eq!(second.short_rows(), 0);
}

#[test]
fn a_key_that_is_not_text_is_named_by_its_line() {
    let latin = || Source::bytes("t.csv", b"a,b\n1,\xe9\n2,x\n\xe9,y\n");
    let reader = BlockReader::open(latin(), keyed(csv(), "a")).unwrap();
    let (before, error) = read_all(&reader);
    assert_eq!(before.len(), 2, "the value of line 2 may be any bytes");
    assert_eq!(error.unwrap().to_string(), "t.csv, line 4: the key in column 1 is not UTF-8");
    let reader = BlockReader::open(latin(), keyed(csv(), "b")).unwrap();
    let error = read_all(&reader).1.unwrap();
    assert_eq!(error.to_string(), "t.csv, line 2: the key in column 2 is not UTF-8");
    reader.fail(error.clone());
    let other = reader.next_block(&mut Block::new()).unwrap_err();
    assert_eq!(other.to_string(), error.to_string(), "the other threads stop with the same error");
}

#[test]
fn a_line_must_have_room_beside_its_key() {
    let options = |limit| keyed(Options::lines(limit), "1");
    assert_eq!(records(Source::bytes("t", b"abc,d\n"), options(8)).len(), 1);
    let error = read_all(&BlockReader::open(Source::bytes("t", b"abc,d\n"), options(7)).unwrap()).1.unwrap();
    assert_eq!(error.to_string(), "t, line 1: 5 bytes and a key of 3 bytes, and a record has room for 7 together");
}

#[test]
fn a_column_that_is_not_there_is_found_out_at_once() {
    let open = |options, column| BlockReader::open(text("a,b\n1,2\n"), keyed(options, column)).unwrap_err().to_string();
    assert_eq!(open(csv(), "c"), "t.csv has no column \"c\"; its columns are a, b");
    assert_eq!(open(csv(), "3"), "t.csv has no column 3; its columns are a, b");
    assert!(open(Options::lines(LIMIT), "a").starts_with("t.csv has no header line that could name the column"));
    let error = BlockReader::open(text("\n1,2\n"), keyed(csv(), "a")).unwrap_err().to_string();
    assert_eq!(error, "t.csv has no column \"a\"; its columns are none at all");
}

#[test]
fn an_empty_input_is_an_error_where_it_would_never_end_or_show_nothing() {
    let endless = |options| Options { records: Records::Endless, ..options };
    for empty in ["", "h\n", "h"] {
        for options in [csv(), keyed(csv(), "h"), exactly(csv(), 3), endless(csv())] {
            let (got, error) = read_all(&BlockReader::open(text(empty), options).unwrap());
            assert!(got.is_empty());
            assert_eq!(error.unwrap().to_string(), "t.csv holds no records");
        }
    }
    assert!(values(text(""), Options::lines(LIMIT)).is_empty());
    assert!(values(text(""), keyed(Options { header: Header::Kept, ..Options::lines(LIMIT) }, "a")).is_empty());
    for options in [exactly(Options::lines(LIMIT), 3), endless(Options::lines(LIMIT))] {
        assert!(matches!(
            read_all(&BlockReader::open(text(""), options).unwrap()).1,
            Some(InputError::NoRecords { .. })
        ));
    }
}

#[test]
fn a_pipe_is_read_once() {
    let pipe = || Source::reader("standard input", Box::new(Cursor::new(b"a\nb\nc")));
    assert_eq!(values(pipe(), exactly(Options::lines(LIMIT), 2)), ["a", "b"]);
    assert_eq!(values(pipe(), exactly(Options::lines(LIMIT), 3)), ["a", "b", "c"]);
    let (got, error) = read_all(&BlockReader::open(pipe(), exactly(Options::lines(LIMIT), 4)).unwrap());
    assert_eq!(got.len(), 3);
    let want = "standard input ended after 3 records, more are wanted, and it cannot be read again: use a file";
    assert_eq!(error.unwrap().to_string(), want);
}

#[test]
fn an_endless_input_ends_when_it_is_cancelled() {
    let reader = BlockReader::open(text("h\na\nb\n"), Options { records: Records::Endless, ..csv() }).unwrap();
    let mut block = Block::new();
    for _ in 0..3 {
        assert!(reader.next_block(&mut block).unwrap());
        assert!(block.records() > 1000, "a tiny input goes round within a block");
    }
    reader.cancel();
    assert!(!reader.next_block(&mut block).unwrap());
    assert_eq!(block.lines().count(), 0);
}

#[test]
fn what_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| BlockReader::open(Source::file(path), csv()).unwrap_err().to_string();
    let said = open(&folder.path().join("absent.csv"));
    assert!(said.contains("absent.csv: No such file") && !said.contains('\n'), "{said}");
    let said = open(folder.path());
    assert!(said.starts_with("cannot read ") && said.to_lowercase().contains("is a directory"), "{said}");
}

#[test]
fn the_sample_is_four_thousand_flights() {
    let got = records(Source::sample(), keyed(csv(), "origin"));
    assert_eq!(got.len(), 4000);
    let of = |origin: &[u8]| got.iter().filter(|r| r.2.as_deref() == Some(origin)).count();
    assert_eq!(of(b"EWR") + of(b"JFK") + of(b"LGA"), 4000);
    assert!(got[0].1.starts_with(b"2013,1,1,517,515,2,") && got[3999].1.starts_with(b"2013,1,5,"));
}

/// Gives some bytes, says so, and then nothing until it is dropped.
struct Stalled(&'static [u8], std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>);

impl Read for Stalled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            self.1.send(()).unwrap();
            let _ = self.2.recv();
        }
        let piece = std::mem::take(&mut self.0);
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

#[test]
fn an_input_without_data_ends_when_it_is_cancelled_and_half_a_line_is_no_record() {
    let (stalls, stalled) = std::sync::mpsc::channel();
    let (go_on, wait) = std::sync::mpsc::channel();
    let source = Source::reader("pipe", Box::new(Stalled(b"one\nha", stalls, wait)));
    let reader = BlockReader::open(source, Options::lines(LIMIT)).unwrap();
    let mut block = Block::new();
    assert!(reader.next_block(&mut block).unwrap());
    assert_eq!(block.lines().map(|line| line.unwrap().bytes.to_vec()).collect::<Vec<_>>(), [b"one"]);
    std::thread::scope(|scope| {
        let next = scope.spawn(|| reader.next_block(&mut Block::new()).unwrap());
        stalled.recv().unwrap();
        reader.cancel();
        assert!(!next.join().unwrap(), "neither a block nor an error");
    });
    drop(go_on);
}

#[test]
fn an_input_is_cancelled_while_it_is_opened() {
    let (stalls, stalled) = std::sync::mpsc::channel();
    let (go_on, wait) = std::sync::mpsc::channel();
    let source = Source::reader("pipe", Box::new(Stalled(b"orig", stalls, wait)));
    let options = keyed(Options { header: Header::Kept, ..Options::lines(LIMIT) }, "origin");
    let cancel = options.cancel.clone();
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| BlockReader::open(source, options).unwrap());
        stalled.recv().unwrap();
        cancel.cancel();
        assert!(!opened.join().unwrap().next_block(&mut Block::new()).unwrap());
    });
    drop(go_on);
}
