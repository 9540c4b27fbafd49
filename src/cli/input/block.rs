//! A block of whole lines, owned by one thread, and the iterator that takes it apart.

use std::borrow::Cow;
use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use bytes::Bytes;
use memchr::memchr;

use super::InputError;
use super::key::{self, Quoted};

/// What every block of one input has in common.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) name: Arc<str>,
    pub(super) strip_cr: bool,
    /// The index of the key's column, from 0.
    pub(super) key: Option<usize>,
    pub(super) max_line: usize,
}

/// Whole lines, to be taken apart by one thread.
///
/// Make one a thread and pass it to [`BlockReader::next_block`](super::BlockReader::next_block) again and again: its
/// buffer is used again.
pub struct Block {
    pub(super) data: Data,
    /// The number of the first line, from 1.
    pub(super) first_line: u64,
    /// How many records to deliver. More than there are lines means: go round. Fewer: stop early.
    pub(super) records: u64,
    /// Lines that were too short for the key's column, since the last harvest.
    pub(super) short_rows: u64,
    pub(super) shape: Option<Arc<Shape>>,
    quoted: Option<Box<Quoted>>,
    /// The buffer of a stream's block; kept while the block is one of memory.
    pub(super) buffer: Vec<u8>,
}

/// Where the lines are.
pub(super) enum Data {
    /// In the block's own buffer, from the first place to the second.
    Own(usize, usize),
    /// In memory that is shared with other blocks.
    Shared(Bytes),
}

impl Block {
    /// An empty block.
    #[must_use]
    pub fn new() -> Self {
        Self {
            data: Data::Own(0, 0),
            first_line: 1,
            records: 0,
            short_rows: 0,
            shape: None,
            quoted: None,
            buffer: Vec::new(),
        }
    }

    /// How many records the block holds.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Whether the first record can be had. Counts nothing.
    ///
    /// # Errors
    ///
    /// What [`Block::lines`] says of it.
    pub fn check_first(&mut self) -> Result<(), InputError> {
        let short_rows = self.short_rows;
        let first = self.lines().next().transpose().map(drop);
        self.short_rows = short_rows;
        first
    }

    /// Takes the block apart, from its first line. A second call does it all again, and counts short rows again.
    pub fn lines(&mut self) -> Lines<'_> {
        let data = match &self.data {
            Data::Own(start, end) => &self.buffer[*start..*end],
            Data::Shared(bytes) => &bytes[..],
        };
        Lines {
            data,
            at: 0,
            number: self.first_line,
            first_line: self.first_line,
            left: self.records,
            shape: self.shape.as_deref(),
            quoted: &mut self.quoted,
            short_rows: &mut self.short_rows,
        }
    }
}

impl Default for Block {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("first_line", &self.first_line)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'b> {
    /// The number of the line in its file, from 1; the header counts.
    pub number: u64,
    /// The record's value.
    pub bytes: &'b [u8],
    /// The record's key. Borrowed unless the line holds quotes.
    pub key: Option<Cow<'b, [u8]>>,
}

/// The records of a [`Block`], in order.
///
/// An error belongs to one line; the iterator goes on behind it.
pub struct Lines<'b> {
    data: &'b [u8],
    at: usize,
    number: u64,
    first_line: u64,
    left: u64,
    shape: Option<&'b Shape>,
    quoted: &'b mut Option<Box<Quoted>>,
    short_rows: &'b mut u64,
}

impl<'b> Iterator for Lines<'b> {
    type Item = Result<Line<'b>, InputError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let shape = self.shape?;
        self.left -= 1;
        if self.at == self.data.len() {
            self.at = 0;
            self.number = self.first_line;
        }
        let number = self.number;
        self.number += 1;
        let rest = &self.data[self.at..];
        let whole = match memchr(b'\n', rest) {
            Some(end) => {
                self.at += end + 1;
                &rest[..end]
            }
            None => {
                self.at = self.data.len();
                // Nothing ends this line, so a `\r` that it ends with is its own.
                return Some(self.line(shape, number, rest, rest));
            }
        };
        let without_cr = whole.strip_suffix(b"\r").unwrap_or(whole);
        let bytes = if shape.strip_cr { without_cr } else { whole };
        Some(self.line(shape, number, bytes, without_cr))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Lines<'_> {}
impl FusedIterator for Lines<'_> {}

impl<'b> Lines<'b> {
    /// `columns` is what the key is cut from.
    #[inline]
    fn line(&mut self, shape: &Shape, number: u64, bytes: &'b [u8], columns: &'b [u8]) -> Result<Line<'b>, InputError> {
        let key = match shape.key {
            Some(index) if !columns.is_empty() => self.key(shape, number, index, bytes, columns)?,
            _ => None,
        };
        Ok(Line { number, bytes, key })
    }

    fn key(
        &mut self,
        shape: &Shape,
        number: u64,
        index: usize,
        bytes: &[u8],
        columns: &'b [u8],
    ) -> Result<Option<Cow<'b, [u8]>>, InputError> {
        let columns = if number == 1 { without_bom(columns) } else { columns };
        let Some(key) = key::field(columns, index, self.quoted) else {
            *self.short_rows += 1;
            return Ok(None);
        };
        if key.is_empty() {
            return Ok(None);
        }
        if std::str::from_utf8(&key).is_err() {
            return Err(InputError::KeyNotUtf8 { name: shape.name.clone(), line: number, column: index + 1 });
        }
        if key.len() + bytes.len() > shape.max_line {
            return Err(InputError::KeyTooLong {
                name: shape.name.clone(),
                line: number,
                value: bytes.len(),
                key: key.len(),
                limit: shape.max_line,
            });
        }
        Ok(Some(key))
    }
}

impl fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("number", &self.number).field("left", &self.left).finish_non_exhaustive()
    }
}

/// `line` without the byte-order mark that some programs put in front of a file.
pub(super) fn without_bom(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}
