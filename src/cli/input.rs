//! Where the records of `compare` and `produce` come from: the lines of a file, of standard input, or of the sample
//! that is compiled into the program.
//!
//! # What a record is
//!
//! - One line is one record. A line ends at `\n`; the last line need not end at all. An empty line is a record with an
//!   empty value and no key.
//! - A quoted newline does **not** join two lines, although CSV allows it: every `\n` ends a record.
//! - [`Options::csv`] (for `compare`) takes `\n` and `\r\n` off the line. [`Options::lines`] (for `produce`) takes off
//!   the `\n` only, so that what was read can be written back exactly. A `\r` anywhere else belongs to the line.
//! - Produced to one partition and consumed again, a file comes back byte for byte, except that a last line without
//!   `\n` gains one.
//! - A line longer than [`Options::max_line`] is an error. The lines in front of it are delivered, none behind it.
//!
//! # What a key is
//!
//! - One column of the line, as CSV reads it: fields between commas; a field in double quotes may hold commas, and a
//!   doubled quote in it is one quote. A quote that is not closed ends with its line. The key never holds the `\r` of
//!   `\r\n`, nor a byte-order mark in front of the first line.
//! - An empty field, and an empty line, give a record without a key. So does a line with too few fields, and it is
//!   counted: [`BlockReader::short_rows`].
//! - A key that is not UTF-8 is an error that names its line. The value may be any bytes.
//!
//! # How it is read
//!
//! Threads share one [`BlockReader`] and own a [`Block`] each. Reading a block of about 256 KiB, which ends at the end
//! of a line, happens under a lock; taking it apart happens outside, in parallel. A thread holds one block, however
//! large the file is; a block is larger than 256 KiB only where a single line is. What can be read once only, such as
//! standard input, may have nothing to read for as long as it likes: [`Options::cancel`] ends the input all the same.
//!
//! ```
//! use unlatched::cli::input::{Block, BlockReader, Options, Records, Source};
//!
//! let mut options = Options::csv(1 << 20);
//! options.key = Some("origin".parse()?);
//! options.records = Records::Exactly(10_000); // the sample has 4,000: it is read two and a half times
//! let reader = BlockReader::open(Source::sample(), options)?;
//! let mut block = Block::new();
//! let mut records = 0;
//! while reader.next_block(&mut block)? {
//!     for line in block.lines() {
//!         let line = line?;
//!         assert!(!line.bytes.is_empty() && line.key.is_some());
//!         records += 1;
//!     }
//! }
//! assert_eq!(records, 10_000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod block;
mod cancel;
mod key;
mod reader;

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use block::{Block, Line, Lines};
pub use cancel::Cancel;
pub use key::{Column, ColumnError};
pub use reader::BlockReader;

/// The bundled sample: a header and 4,000 flights; see `data/README.md`.
pub const SAMPLE: &[u8] = include_bytes!("../../data/flights-sample.csv");

/// Something to read lines from, and the name that messages give it.
pub struct Source {
    name: Arc<str>,
    kind: Kind,
}

enum Kind {
    File(PathBuf),
    Bytes(&'static [u8]),
    Reader(Box<dyn Read + Send>),
}

impl Source {
    /// A file. It is opened by [`BlockReader::open`]; a pipe or a terminal is read once, a regular file as often as it takes.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self { name: path.display().to_string().into(), kind: Kind::File(path.to_owned()) }
    }

    /// Standard input. It can be read once.
    #[must_use]
    pub fn stdin() -> Self {
        Self::reader("standard input", Box::new(io::stdin()))
    }

    /// The bundled sample, [`SAMPLE`].
    #[must_use]
    pub fn sample() -> Self {
        Self::bytes("the bundled sample", SAMPLE)
    }

    /// Bytes of the program itself. They are read in place, never copied.
    #[must_use]
    pub fn bytes(name: &str, bytes: &'static [u8]) -> Self {
        Self { name: name.into(), kind: Kind::Bytes(bytes) }
    }

    /// Anything else that can be read once. A block is handed out as soon as it holds a line, so that what is typed
    /// on a terminal does not wait for 256 KiB more.
    #[must_use]
    pub fn reader(name: &str, reader: Box<dyn Read + Send>) -> Self {
        Self { name: name.into(), kind: Kind::Reader(reader) }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How many records are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// As many as the source has.
    Once,
    /// This many. The source is read again from its start as often as it takes.
    Exactly(u64),
    /// As many as are asked for, until [`BlockReader::cancel`].
    Endless,
}

/// What the first line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A record like any other. Columns have numbers, but no names.
    Absent,
    /// The names of the columns, and no record. It is skipped each time the source is read.
    Skipped,
    /// The names of the columns, and a record as well.
    Kept,
}

/// How a source is to be read.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the first line is.
    pub header: Header,
    /// Whether a `\r` in front of `\n` is taken off the line together with it.
    pub strip_cr: bool,
    /// The column that holds the key, if records are to have keys.
    pub key: Option<Column>,
    /// How many records are wanted.
    pub records: Records,
    /// The longest record that is accepted, in bytes: of the line without its end, and of the line and its key
    /// together (a key is sent twice: as a part of the value, and as the key).
    pub max_line: usize,
    /// How many threads will share the reader. A short input is cut into smaller blocks (16 KiB at least), so that each
    /// thread gets several.
    pub threads: usize,
    /// Whether a source without a single record is fine. Where the source is to be repeated, it never is.
    pub allow_empty: bool,
    /// Ends the input from outside, from the moment on that it is being opened.
    pub cancel: Cancel,
}

impl Options {
    /// A CSV file with a header: the header is skipped, `\r\n` ends a line as well as `\n`, no key, read once by one
    /// thread, at least one record.
    #[must_use]
    pub fn csv(max_line: usize) -> Self {
        Self {
            header: Header::Skipped,
            strip_cr: true,
            key: None,
            records: Records::Once,
            max_line,
            threads: 1,
            allow_empty: false,
            cancel: Cancel::default(),
        }
    }

    /// Lines as they are: each one is a record, a `\r` stays, no key, read once by one thread, none is fine.
    #[must_use]
    pub fn lines(max_line: usize) -> Self {
        Self { header: Header::Absent, strip_cr: false, allow_empty: true, ..Self::csv(max_line) }
    }
}

/// Why an input cannot be used. Every message is one line and names the input.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The operating system said no.
    #[error("cannot read {name}: {source}")]
    Read {
        /// The input.
        name: Arc<str>,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// A line is longer than a record may be.
    #[error(
        "{name}, line {line}: {}{length} bytes long, and a record has room for {limit}",
        if *exact { "" } else { "more than " }
    )]
    LineTooLong {
        /// The input.
        name: Arc<str>,
        /// The number of the line, from 1.
        line: u64,
        /// Its length in bytes, without its end.
        length: u64,
        /// Whether `length` is all of it: counting stops after 64 MiB.
        exact: bool,
        /// The limit in bytes.
        limit: usize,
    },
    /// A line fits, but not together with its key.
    #[error("{name}, line {line}: {value} bytes and a key of {key} bytes, and a record has room for {limit} together")]
    KeyTooLong {
        /// The input.
        name: Arc<str>,
        /// The number of the line, from 1.
        line: u64,
        /// The length of the line in bytes.
        value: usize,
        /// The length of the key in bytes.
        key: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A key is not text.
    #[error("{name}, line {line}: the key in column {column} is not UTF-8")]
    KeyNotUtf8 {
        /// The input.
        name: Arc<str>,
        /// The number of the line, from 1.
        line: u64,
        /// The number of the column, from 1.
        column: usize,
    },
    /// There is nothing to send, or to repeat.
    #[error("{name} holds no records")]
    NoRecords {
        /// The input.
        name: Arc<str>,
    },
    /// More records are wanted than an input has that can be read only once.
    #[error("{name} ended after {delivered} records, more are wanted, and it cannot be read again: use a file")]
    CannotRepeat {
        /// The input.
        name: Arc<str>,
        /// The records that it had.
        delivered: u64,
    },
    /// A key column is given by name, and there are no names.
    #[error("{name} has no header line that could name the column {column:?}: give the column's number, from 1")]
    NoHeader {
        /// The input.
        name: Arc<str>,
        /// The column that was asked for.
        column: String,
    },
    /// No column has this name or number.
    #[error("{name} has no column {column}; its columns are {columns}")]
    UnknownColumn {
        /// The input.
        name: Arc<str>,
        /// The column that was asked for.
        column: Column,
        /// The columns that there are.
        columns: String,
    },
    /// Two columns have this name.
    #[error("{name} has {count} columns named {column}: give the column's number; its columns are {columns}")]
    AmbiguousColumn {
        /// The input.
        name: Arc<str>,
        /// The column that was asked for.
        column: Column,
        /// How many columns have the name.
        count: usize,
        /// The columns that there are.
        columns: String,
    },
}
