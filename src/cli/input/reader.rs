//! The reader that threads share: blocks of whole lines, each record handed to one thread.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memchr::{memchr, memchr_iter, memrchr};
use parking_lot::Mutex;

use super::block::{Block, Data, Shape, without_bom};
use super::cancel::{Cancel, Cancellable};
use super::{Header, InputError, Kind, Options, Records, Source, key};

/// The length of a block, in bytes, where the input is long enough.
const BLOCK: usize = 256 << 10;
/// The length of a block of a short input that many threads share.
const SMALL_BLOCK: usize = 16 << 10;
/// How many blocks a thread should get at least, so that none is idle while another has a whole one left.
const BLOCKS_A_THREAD: u64 = 8;
/// A file of up to this many bytes is read once and kept, however often it is repeated.
const KEPT: u64 = 1 << 20;
/// How far the end of a line that is too long is looked for, in bytes.
const COUNTED: u64 = 64 << 20;
/// How much is read to see the first line.
const PEEK: usize = 64 << 10;

/// Reads an input for several threads, each record for one of them.
///
/// Share it by reference. See the [module](super) for what a record is, and for an example.
pub struct BlockReader {
    shape: Arc<Shape>,
    cancel: Cancel,
    /// Held while a block is read, which may take for ever: what must not wait does without.
    state: Mutex<State>,
}

struct State {
    origin: Origin,
    target: usize,
    /// Whether the first line of each pass is to be skipped.
    skips_header: bool,
    skip_now: bool,
    /// The number of the next line, from 1.
    line: u64,
    /// How many more records are wanted; `None` if there is no limit.
    left: Option<u64>,
    repeat: bool,
    allow_empty: bool,
    pass_records: u64,
    delivered: u64,
    short_rows: u64,
    end: Option<End>,
}

enum End {
    Done,
    Failed(InputError),
}

impl BlockReader {
    /// Opens `source` and reads its first line, if the options need it.
    ///
    /// # Errors
    ///
    /// If the source cannot be read, the first line is too long, or the key's column is not in it.
    pub fn open(source: Source, options: Options) -> Result<Self, InputError> {
        let name = source.name;
        let failed = |source| InputError::Read { name: name.clone(), source: Arc::new(source) };
        let mut origin = match source.kind {
            Kind::File(path) => Origin::open(&path, &options.cancel).map_err(failed)?,
            Kind::Bytes(bytes) => Origin::Memory { data: Bytes::from_static(bytes), at: 0 },
            Kind::Reader(reader) => Origin::once(reader, &options.cancel),
        };
        // A file is looked at to guess the length of its lines; a terminal only if its first line is needed.
        if options.header != Header::Absent || !matches!(origin, Origin::Stream { stream: Stream::Once(_), .. }) {
            origin
                .peek(options.max_line)
                .or_else(|error| if options.cancel.is_cancelled() { Ok(()) } else { Err(failed(error)) })?;
        }
        let peeked = origin.peeked();
        let first = peeked.split(|&b| b == b'\n').next().unwrap_or_default();
        let mut shape = Shape { name: name.clone(), strip_cr: options.strip_cr, key: None, max_line: options.max_line };
        // Where the first line is missing or too long, the first block says so: better than that it lacks the column.
        // After a cancel there is no first block, and maybe half a line.
        let seen = !peeked.is_empty() && first.len() <= options.max_line.saturating_add(1);
        let usable = options.header == Header::Absent || seen && !options.cancel.is_cancelled();
        if let Some(column) = options.key.as_ref().filter(|_| usable) {
            let names = without_bom(first.strip_suffix(b"\r").unwrap_or(first));
            let names = (options.header != Header::Absent).then_some(names);
            shape.key = Some(key::resolve(column, names, &name)?);
        }
        let (left, repeat) = match options.records {
            Records::Once => (None, false),
            Records::Exactly(records) => (Some(records), true),
            Records::Endless => (None, true),
        };
        let expected = match options.records {
            Records::Once => origin.length(),
            Records::Exactly(records) => records.saturating_mul(mean_line(peeked)),
            Records::Endless => u64::MAX,
        };
        let skips_header = options.header == Header::Skipped;
        let state = State {
            target: block_length(expected, options.threads),
            origin,
            skips_header,
            skip_now: skips_header,
            line: 1,
            left,
            repeat,
            allow_empty: options.allow_empty,
            pass_records: 0,
            delivered: 0,
            short_rows: 0,
            end: None,
        };
        Ok(Self { shape: Arc::new(shape), cancel: options.cancel, state: Mutex::new(state) })
    }

    /// Fills `block` with the next lines. Returns whether there were any; if not, the block is empty.
    ///
    /// Each record goes into one block only. Blocks are in the order of the input, but threads finish them in any order.
    ///
    /// # Errors
    ///
    /// The first error ends the input: every thread gets it from its next call. Lines in front of it have been handed out.
    pub fn next_block(&self, block: &mut Block) -> Result<bool, InputError> {
        if !block.shape.as_ref().is_some_and(|shape| Arc::ptr_eq(shape, &self.shape)) {
            // A new block, or one that another reader filled.
            block.shape = Some(self.shape.clone());
            block.short_rows = 0;
        }
        let mut state = self.state.lock();
        state.short_rows += std::mem::take(&mut block.short_rows);
        block.records = 0;
        loop {
            match &state.end {
                Some(End::Done) => return Ok(false),
                Some(End::Failed(error)) => return Err(error.clone()),
                None if self.cancel.is_cancelled() => return Ok(false),
                None => {}
            }
            match state.fill(block, &self.shape) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                // It ends the reading with an error.
                Err(_) if self.cancel.is_cancelled() => return Ok(false),
                Err(error) => state.end = Some(End::Failed(error)),
            }
        }
    }

    /// Ends the input: from now on [`next_block`](Self::next_block) finds nothing, also where it waits for data. For a
    /// run that has a time, not a number.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Ends the input with an error that a thread met in its block, so that the other threads stop, too.
    pub fn fail(&self, error: InputError) {
        self.state.lock().end.get_or_insert(End::Failed(error));
    }

    /// How many records have been handed out.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.state.lock().delivered
    }

    /// How many lines had too few fields for the key's column, and so no key. Empty lines do not count. Complete when
    /// every thread has seen the end.
    #[must_use]
    pub fn short_rows(&self) -> u64 {
        self.state.lock().short_rows
    }

    /// What messages call the input.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shape.name
    }
}

impl fmt::Debug for BlockReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockReader").field("name", &self.shape.name).finish_non_exhaustive()
    }
}

impl State {
    /// Puts the next lines into `block`; or makes one step towards them, or towards the end, and returns false.
    fn fill(&mut self, block: &mut Block, shape: &Shape) -> Result<bool, InputError> {
        if self.left == Some(0) {
            self.end = Some(End::Done);
            return Ok(false);
        }
        let io = |source| InputError::Read { name: shape.name.clone(), source: Arc::new(source) };
        match self.origin.fetch(block, self.target, shape).map_err(io)? {
            Fetched::Lines => {}
            Fetched::TooLong { length, exact } => {
                return Err(self.too_long(shape, 0, length, exact));
            }
            Fetched::End => {
                self.pass_ended(shape)?;
                return Ok(false);
            }
        }
        let data = block.bytes();
        let mut skipped = 0;
        let mut first_line = self.line;
        if self.skip_now {
            self.skip_now = false;
            skipped = memchr(b'\n', data).map_or(data.len(), |end| end + 1);
            first_line += 1;
        }
        // A header that is too long is as bad as any line.
        let long = first_long_line(data, shape);
        let end = long.as_ref().map_or(data.len(), |long| long.start);
        let lines = count_lines(&data[skipped.min(end)..end]);
        let failed = long.map(|long| {
            let before = if end < skipped { 0 } else { lines + first_line - self.line };
            self.too_long(shape, before, long.length, true)
        });
        self.line = first_line + lines;
        if lines == 0 {
            return failed.map_or(Ok(false), Err);
        }
        let rounds =
            if self.repeat && self.origin.is_whole(end) { (self.target / (end - skipped)).max(1) as u64 } else { 1 };
        self.end = failed.map(End::Failed);
        block.narrow(skipped, end);
        block.first_line = first_line;
        block.records = (lines * rounds).min(self.left.unwrap_or(u64::MAX));
        if let Some(left) = &mut self.left {
            *left -= block.records;
        }
        if self.left == Some(0) {
            // Whatever is wrong behind the last record that is wanted does not matter.
            self.end = Some(End::Done);
        }
        self.pass_records += block.records;
        self.delivered += block.records;
        Ok(true)
    }

    fn too_long(&self, shape: &Shape, lines_before: u64, length: u64, exact: bool) -> InputError {
        let line = self.line + lines_before;
        InputError::LineTooLong { name: shape.name.clone(), line, length, exact, limit: shape.max_line }
    }

    fn pass_ended(&mut self, shape: &Shape) -> Result<(), InputError> {
        let name = shape.name.clone();
        if self.pass_records == 0 && (self.repeat || !self.allow_empty) {
            // Repeating it would never end.
            return Err(InputError::NoRecords { name });
        }
        if !self.repeat {
            self.end = Some(End::Done);
            return Ok(());
        }
        let again = self.origin.rewind().map_err(|source| InputError::Read { name, source: Arc::new(source) })?;
        if !again {
            return Err(InputError::CannotRepeat { name: shape.name.clone(), delivered: self.delivered });
        }
        self.line = 1;
        self.skip_now = self.skips_header;
        self.pass_records = 0;
        Ok(())
    }
}

impl Block {
    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Own(start, end) => &self.buffer[*start..*end],
            Data::Shared(bytes) => bytes,
        }
    }

    fn narrow(&mut self, from: usize, to: usize) {
        match &mut self.data {
            Data::Own(start, end) => (*start, *end) = (*start + from, *start + to),
            Data::Shared(bytes) => *bytes = bytes.slice(from..to),
        }
    }
}

enum Origin {
    /// All of it, and how far it has been handed out.
    Memory { data: Bytes, at: usize },
    Stream {
        stream: Stream,
        /// What was read behind the last whole line.
        carry: Vec<u8>,
        /// Whether there is nothing left to read in this pass.
        ended: bool,
    },
}

enum Stream {
    File(File),
    Once(Cancellable),
}

enum Fetched {
    Lines,
    /// The next line has at least `length` bytes, and that is more than the limit.
    TooLong {
        length: u64,
        exact: bool,
    },
    End,
}

impl Origin {
    fn open(path: &Path, cancel: &Cancel) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !metadata.is_file() {
            return Ok(Self::once(Box::new(file), cancel));
        }
        if metadata.len() <= KEPT {
            let mut data = Vec::new();
            // The length in the metadata is a guess: a file may grow, and some of the kernel's say 0.
            (&mut file).take(KEPT + 1).read_to_end(&mut data)?;
            if data.len() as u64 <= KEPT {
                return Ok(Self::Memory { data: data.into(), at: 0 });
            }
            file.rewind()?;
        }
        Ok(Self::stream(Stream::File(file)))
    }

    fn once(reader: Box<dyn Read + Send>, cancel: &Cancel) -> Self {
        Self::stream(Stream::Once(Cancellable::new(reader, cancel.clone())))
    }

    fn stream(stream: Stream) -> Self {
        Self::Stream { stream, carry: Vec::new(), ended: false }
    }

    /// Reads until the first line, or more than a line may have, can be [`peeked`](Self::peeked).
    fn peek(&mut self, max_line: usize) -> io::Result<()> {
        let Self::Stream { stream, carry, ended } = self else { return Ok(()) };
        while !*ended && memchr(b'\n', carry).is_none() && carry.len() <= max_line.saturating_add(1) {
            let old = carry.len();
            carry.resize(old + PEEK, 0);
            let read = stream.read(&mut carry[old..])?;
            carry.truncate(old + read);
            *ended = read == 0;
        }
        Ok(())
    }

    fn peeked(&self) -> &[u8] {
        match self {
            Self::Memory { data, .. } => data,
            Self::Stream { carry, .. } => carry,
        }
    }

    fn length(&self) -> u64 {
        match self {
            Self::Memory { data, .. } => data.len() as u64,
            Self::Stream { stream: Stream::File(file), .. } => file.metadata().map_or(u64::MAX, |data| data.len()),
            Self::Stream { stream: Stream::Once(_), .. } => u64::MAX,
        }
    }

    /// Whether the `length` bytes that were fetched last are all that a pass has, and stay in memory.
    fn is_whole(&self, length: usize) -> bool {
        matches!(self, Self::Memory { data, .. } if data.len() == length)
    }

    /// Goes back to the start; false if there is no way back.
    fn rewind(&mut self) -> io::Result<bool> {
        match self {
            Self::Memory { at, .. } => *at = 0,
            Self::Stream { stream: Stream::Once(_), .. } => return Ok(false),
            Self::Stream { stream: Stream::File(file), carry, ended } => {
                file.rewind()?;
                carry.clear();
                *ended = false;
            }
        }
        Ok(true)
    }

    /// Puts about `target` bytes of whole lines into `block`.
    fn fetch(&mut self, block: &mut Block, target: usize, shape: &Shape) -> io::Result<Fetched> {
        match self {
            Self::Memory { data, at } => {
                let start = *at;
                let rest = &data[start..];
                if rest.is_empty() {
                    return Ok(Fetched::End);
                }
                let end = if rest.len() <= target {
                    rest.len()
                } else if let Some(end) = memrchr(b'\n', &rest[..target]) {
                    end + 1
                } else {
                    memchr(b'\n', &rest[target..]).map_or(rest.len(), |end| target + end + 1)
                };
                *at += end;
                block.data = Data::Shared(data.slice(start..start + end));
                Ok(Fetched::Lines)
            }
            Self::Stream { stream, carry, ended } => fetch_stream(stream, carry, ended, block, target, shape),
        }
    }
}

fn fetch_stream(
    stream: &mut Stream,
    carry: &mut Vec<u8>,
    ended: &mut bool,
    block: &mut Block,
    target: usize,
    shape: &Shape,
) -> io::Result<Fetched> {
    let buffer = &mut block.buffer;
    let room = target.max(carry.len());
    if buffer.len() < room {
        buffer.resize(room, 0);
    }
    buffer[..carry.len()].copy_from_slice(carry);
    let mut filled = carry.len();
    carry.clear();
    let mut last = memrchr(b'\n', &buffer[..filled]);
    while !*ended {
        if last.is_some() && (filled >= target || matches!(stream, Stream::Once(_))) {
            break;
        }
        if last.is_none() && filled > shape.max_line.saturating_add(1) {
            // Longer than the limit even if it ends in `\r\n`.
            return count_long_line(stream, buffer, filled, shape.strip_cr);
        }
        if filled == buffer.len() {
            // Doubled, but no further than it takes to see that a line is too long.
            let room = (2 * filled).min(shape.max_line.saturating_add(2));
            buffer.resize(room, 0);
        }
        let read = stream.read(&mut buffer[filled..])?;
        *ended = read == 0;
        last = memrchr(b'\n', &buffer[filled..filled + read]).map(|at| filled + at).or(last);
        filled += read;
    }
    if filled == 0 {
        return Ok(Fetched::End);
    }
    let end = if *ended { filled } else { last.map_or(filled, |at| at + 1) };
    carry.extend_from_slice(&buffer[end..filled]);
    block.data = Data::Own(0, end);
    Ok(Fetched::Lines)
}

/// Reads on to the end of a line that is too long, to say how long; keeps nothing of it.
fn count_long_line(stream: &mut Stream, buffer: &mut [u8], filled: usize, strip_cr: bool) -> io::Result<Fetched> {
    let mut length = filled as u64;
    let mut last = buffer[filled - 1];
    while length < COUNTED {
        let read = stream.read(buffer)?;
        let end = memchr(b'\n', &buffer[..read]);
        let part = &buffer[..end.unwrap_or(read)];
        last = part.last().copied().unwrap_or(last);
        length += part.len() as u64;
        if end.is_some() && strip_cr && last == b'\r' {
            length -= 1;
        }
        if read == 0 || end.is_some() {
            return Ok(Fetched::TooLong { length, exact: true });
        }
    }
    Ok(Fetched::TooLong { length, exact: false })
}

impl Stream {
    /// Reads once; 0 means the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::File(file) => file.read(buffer),
                Self::Once(reader) => reader.read(buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

struct LongLine {
    start: usize,
    length: u64,
}

/// The first line that is longer than the limit.
///
/// Jumps from line to line by the length of the limit, so a block that is no longer than the limit costs nothing.
fn first_long_line(data: &[u8], shape: &Shape) -> Option<LongLine> {
    let mut start = 0;
    while data.len() - start > shape.max_line {
        // A line that begins here and fits has its `\n` in here.
        let window = &data[start..data.len().min(start.saturating_add(shape.max_line).saturating_add(1))];
        if let Some(end) = memrchr(b'\n', window) {
            start += end + 1;
            continue;
        }
        let rest = &data[start..];
        let end = memchr(b'\n', rest);
        let mut length = end.unwrap_or(rest.len());
        if shape.strip_cr && end.is_some() && rest[..length].ends_with(b"\r") {
            length -= 1;
        }
        if length > shape.max_line {
            return Some(LongLine { start, length: length as u64 });
        }
        start += end.map_or(rest.len(), |end| end + 1);
    }
    None
}

/// How many lines `data` has; the last one may lack its `\n`.
fn count_lines(data: &[u8]) -> u64 {
    let ends = memchr_iter(b'\n', data).count() as u64;
    ends + u64::from(data.last().is_some_and(|&last| last != b'\n'))
}

/// The mean length of the lines that are seen, in bytes, their ends included.
fn mean_line(seen: &[u8]) -> u64 {
    (seen.len() as u64 / count_lines(seen).max(1)).max(1)
}

/// The length of a block such that each thread gets several, within limits.
fn block_length(expected: u64, threads: usize) -> usize {
    let share = expected / BLOCKS_A_THREAD / threads.max(1) as u64;
    share.clamp(SMALL_BLOCK as u64, BLOCK as u64) as usize
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
