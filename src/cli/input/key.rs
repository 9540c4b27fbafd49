//! One column of a line: which one it is, and how to cut it out.
//!
//! A line without a quote up to the end of the column is cut by looking for commas, eight bytes at a time. Only a line
//! with a quote goes to `csv-core`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use csv_core::{ReadFieldResult, Reader, ReaderBuilder, Terminator};
use memchr::memchr2;
use serde::{Deserialize, Serialize};

use super::InputError;

/// A column, by its name in the header or by its number from 1.
///
/// Digits alone are a number; anything else is a name. A column whose name is digits must be given by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Column {
    /// The name, exactly as the header has it.
    Name(String),
    /// The number, from 1.
    Number(usize),
}

/// A text that names no column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnError {
    /// The text is empty.
    #[error("give a column's name, or its number from 1")]
    Empty,
    /// The number is 0.
    #[error("columns are numbered from 1")]
    Zero,
    /// The number is beyond all sense.
    #[error("no line has that many columns")]
    TooLarge,
}

impl FromStr for Column {
    type Err = ColumnError;

    fn from_str(text: &str) -> Result<Self, ColumnError> {
        if text.is_empty() {
            return Err(ColumnError::Empty);
        }
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self::Name(text.to_owned()));
        }
        match text.parse() {
            Ok(0) => Err(ColumnError::Zero),
            Ok(number) => Ok(Self::Number(number)),
            Err(_) => Err(ColumnError::TooLarge),
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// The index of `column`, from 0. `header` is the first line without its end, if there is a header.
pub(super) fn resolve(column: &Column, header: Option<&[u8]>, input: &Arc<str>) -> Result<usize, InputError> {
    let Some(header) = header else {
        return match column {
            Column::Number(number) => Ok(number - 1),
            Column::Name(name) => Err(InputError::NoHeader { name: input.clone(), column: name.clone() }),
        };
    };
    let names = Quoted::default().fields(header);
    let found: Vec<usize> = match column {
        Column::Number(number) => (*number <= names.len()).then_some(number - 1).into_iter().collect(),
        Column::Name(name) => (0..names.len()).filter(|&i| names[i] == name.as_bytes()).collect(),
    };
    let (name, column) = (input.clone(), column.clone());
    match found[..] {
        [index] => Ok(index),
        [] => Err(InputError::UnknownColumn { name, column, columns: listing(&names) }),
        _ => Err(InputError::AmbiguousColumn { name, column, count: found.len(), columns: listing(&names) }),
    }
}

/// The names for a message: one line, and not a screenful even if the file is no CSV at all.
fn listing(names: &[Vec<u8>]) -> String {
    const SHOWN: usize = 40;
    const CHARS: usize = 40;
    let mut shown: Vec<String> = Vec::new();
    for name in names.iter().take(SHOWN) {
        let name = String::from_utf8_lossy(name);
        let mut short: String = name.chars().take(CHARS).collect::<String>().escape_debug().to_string();
        if name.chars().nth(CHARS).is_some() {
            short.push_str("...");
        }
        shown.push(short);
    }
    if names.is_empty() {
        shown.push("none at all".to_owned());
    }
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    shown.join(", ")
}

/// The field at `index` (from 0) of `line`; `None` if the line has fewer fields.
///
/// Allocates only if there is a quote in front of the end of the field, or close behind it.
pub(super) fn field<'l>(line: &'l [u8], index: usize, quoted: &mut Option<Box<Quoted>>) -> Option<Cow<'l, [u8]>> {
    match plain_field(line, index) {
        Plain::Field(field) => Some(Cow::Borrowed(field)),
        Plain::Missing => None,
        Plain::Quote => quoted.get_or_insert_default().field(line, index).map(Cow::Owned),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Plain<'l> {
    Field(&'l [u8]),
    Missing,
    /// There is a quote, so commas alone do not tell.
    Quote,
}

fn plain_field(line: &[u8], index: usize) -> Plain<'_> {
    let start = match behind_comma(line, index) {
        Ok(Some(start)) => start,
        Ok(None) => return Plain::Missing,
        Err(Quote) => return Plain::Quote,
    };
    let rest = &line[start..];
    match memchr2(b',', b'"', rest) {
        Some(end) if rest[end] == b'"' => Plain::Quote,
        Some(end) => Plain::Field(&rest[..end]),
        None => Plain::Field(rest),
    }
}

/// A quote was met.
struct Quote;

/// The place behind comma number `count`, or the start of the line if `count` is 0.
///
/// Counts the commas of eight bytes at once, so short fields cost no more than long ones.
fn behind_comma(line: &[u8], count: usize) -> Result<Option<usize>, Quote> {
    if count == 0 {
        return Ok(Some(0));
    }
    let mut left = count;
    let (words, tail) = line.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        if mark(word, b'"') != 0 {
            return Err(Quote);
        }
        let mut commas = mark(word, b',');
        // The multiplication sums the marks, moved to the low bits, in the top byte: 8 at most.
        let here = ((commas >> 7).wrapping_mul(LOW_BITS) >> 56) as usize;
        if here >= left {
            for _ in 1..left {
                commas &= commas - 1;
            }
            return Ok(Some(8 * i + commas.trailing_zeros() as usize / 8 + 1));
        }
        left -= here;
    }
    for (i, &byte) in tail.iter().enumerate() {
        match byte {
            b'"' => return Err(Quote),
            b',' if left == 1 => return Ok(Some(8 * words.len() + i + 1)),
            b',' => left -= 1,
            _ => {}
        }
    }
    Ok(None)
}

const LOW_BITS: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGH_BITS: u64 = LOW_BITS << 7;

/// The high bit of every byte of `word` that equals `byte`; all other bits are 0.
///
/// Exact for each byte: the sum of two numbers below 128 carries nothing into the next one.
fn mark(word: u64, byte: u8) -> u64 {
    let zero = word ^ (LOW_BITS * u64::from(byte));
    !(((zero & !HIGH_BITS) + !HIGH_BITS) | zero) & HIGH_BITS
}

/// Cuts lines that hold quotes, by the rules of CSV.
#[derive(Clone, Debug)]
pub(super) struct Quoted {
    csv: Reader,
    out: Vec<u8>,
}

impl Default for Quoted {
    fn default() -> Self {
        // Only `\n` ends a record, and a line has none: a `\r` is data.
        let csv = ReaderBuilder::new().terminator(Terminator::Any(b'\n')).build();
        Self { csv, out: Vec::new() }
    }
}

impl Quoted {
    fn field(&mut self, line: &[u8], index: usize) -> Option<Vec<u8>> {
        let mut at = 0;
        let mut found = None;
        self.each(line, |field| {
            if at == index {
                found = Some(field.to_vec());
            }
            at += 1;
            found.is_none()
        });
        found
    }

    fn fields(&mut self, line: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        self.each(line, |field| {
            all.push(field.to_vec());
            true
        });
        all
    }

    /// Calls `go_on` with one field after the other, until it returns false.
    fn each(&mut self, line: &[u8], mut go_on: impl FnMut(&[u8]) -> bool) {
        self.csv.reset();
        // No field is longer than its line; a byte more, because `csv-core` takes no empty buffer.
        self.out.resize(line.len() + 1, 0);
        let mut rest = line;
        loop {
            let mut len = 0;
            let last = loop {
                let (result, read, written) = self.csv.read_field(rest, &mut self.out[len..]);
                rest = &rest[read..];
                len += written;
                match result {
                    // The next call, with nothing left, says where the field ends.
                    ReadFieldResult::InputEmpty => {}
                    ReadFieldResult::OutputFull => self.out.resize(self.out.len() * 2, 0),
                    ReadFieldResult::Field { record_end } => break record_end,
                    ReadFieldResult::End => return,
                }
            };
            if !go_on(&self.out[..len]) || last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(line: &str, index: usize) -> Option<String> {
        let field = field(line.as_bytes(), index, &mut None)?;
        Some(String::from_utf8(field.into_owned()).unwrap())
    }

    #[test]
    fn a_plain_line_is_cut_at_commas_without_a_copy() {
        let line = b"2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH";
        let mut quoted = None;
        for (index, want) in line.split(|&b| b == b',').enumerate() {
            let got = field(line, index, &mut quoted).unwrap();
            assert!(matches!(got, Cow::Borrowed(got) if got == want), "column {index}");
        }
        assert_eq!(field(line, 14, &mut quoted), None);
        assert!(quoted.is_none());
    }

    #[test]
    fn quoted_commas_and_doubled_quotes() {
        let line = r#"1,"Smith, John","said ""no"" twice",plain,"""""#;
        assert_eq!(cut(line, 0).unwrap(), "1");
        assert_eq!(cut(line, 1).unwrap(), "Smith, John");
        assert_eq!(cut(line, 2).unwrap(), r#"said "no" twice"#);
        assert_eq!(cut(line, 3).unwrap(), "plain");
        assert_eq!(cut(line, 4).unwrap(), "\"");
        assert_eq!(cut(line, 5), None);
    }

    #[test]
    fn a_quote_that_is_not_closed_ends_with_its_line() {
        assert_eq!(cut("a,\"b,c", 1).unwrap(), "b,c");
        assert_eq!(cut("a,\"b,c", 2), None);
    }

    #[test]
    fn empty_fields_are_fields() {
        assert_eq!(cut("", 0).unwrap(), "");
        assert_eq!(cut("", 1), None);
        assert_eq!(cut(",,", 2).unwrap(), "");
        assert_eq!(cut(",,", 3), None);
        assert_eq!(cut("\"\",x,", 0).unwrap(), "");
        assert_eq!(cut("\"\",x,", 2).unwrap(), "");
    }

    #[test]
    fn a_carriage_return_inside_is_data() {
        assert_eq!(cut("a\rb,c", 0).unwrap(), "a\rb");
        assert_eq!(cut("\"a\rb\",c\r,d", 0).unwrap(), "a\rb");
        assert_eq!(cut("\"a\rb\",c\r,d", 1).unwrap(), "c\r");
    }

    #[test]
    fn marks_are_exact_in_every_byte() {
        // 0x2b and 0x2d stand beside the comma 0x2c, 0xac differs from it in the high bit only.
        let word = u64::from_le_bytes([b',', 0x2d, 0x2b, b',', 0xac, b',', 0x00, 0xff]);
        assert_eq!(mark(word, b',').to_le_bytes(), [0x80, 0, 0, 0x80, 0, 0x80, 0, 0]);
        assert_eq!(mark(u64::from_le_bytes([b','; 8]), b','), HIGH_BITS);
    }

    proptest! {
        #[test]
        fn without_quotes_a_field_is_what_split_says(line in "[,a-c\u{80}-\u{90}]{0,60}", index in 0_usize..30) {
            prop_assert_eq!(cut(&line, index), line.split(',').nth(index).map(str::to_owned));
        }

        #[test]
        fn the_short_way_and_the_csv_reader_agree(line in "[,\"a]{0,40}", index in 0_usize..12) {
            // A line of its own is empty, not without a field; the reader knows no such line.
            prop_assume!(!line.is_empty());
            let slow = Quoted::default().field(line.as_bytes(), index);
            prop_assert_eq!(field(line.as_bytes(), index, &mut None).map(Cow::into_owned), slow);
        }
    }

    #[test]
    fn columns_are_names_or_numbers_from_1() {
        assert_eq!("origin".parse(), Ok(Column::Name("origin".into())));
        assert_eq!("13".parse(), Ok(Column::Number(13)));
        assert_eq!("-1".parse(), Ok(Column::Name("-1".into())));
        assert_eq!("0".parse::<Column>(), Err(ColumnError::Zero));
        assert_eq!("".parse::<Column>(), Err(ColumnError::Empty));
        assert_eq!("99999999999999999999999".parse::<Column>(), Err(ColumnError::TooLarge));
    }

    fn resolved(column: &str, header: Option<&str>) -> Result<usize, String> {
        resolve(&column.parse().unwrap(), header.map(str::as_bytes), &"f.csv".into()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_column_is_found_by_name_and_by_number() {
        assert_eq!(resolved("b", Some("a,b,c")), Ok(1));
        assert_eq!(resolved("b, too", Some("a,\"b, too\",c")), Ok(1));
        assert_eq!(resolved("3", Some("a,b,c")), Ok(2));
        assert_eq!(resolved("7", None), Ok(6));
    }

    #[test]
    fn a_column_that_is_not_there_is_answered_with_those_that_are() {
        let none = "f.csv has no column \"x\"; its columns are a, b, c";
        assert_eq!(resolved("x", Some("a,b,c")), Err(none.into()));
        assert_eq!(resolved("4", Some("a,b,c")), Err("f.csv has no column 4; its columns are a, b, c".into()));
        assert!(resolved("B", Some("a,b,c")).is_err(), "names differ in case");
        let twice = "f.csv has 2 columns named \"a\": give the column's number; its columns are a, b, a";
        assert_eq!(resolved("a", Some("a,b,a")), Err(twice.into()));
        let nameless = "f.csv has no header line that could name the column \"x\": give the column's number, from 1";
        assert_eq!(resolved("x", None), Err(nameless.into()));
    }

    #[test]
    fn the_listing_of_columns_stays_one_short_line() {
        let header = format!("{}\u{1b}[2J\rx,{}", "y".repeat(100), vec!["c"; 100].join(","));
        let said = resolved("x", Some(&header)).unwrap_err();
        assert!(said.len() < 300 && said.ends_with("c, and 61 more"), "{said}");
        assert!(!said.contains(['\n', '\r', '\u{1b}']), "{said}");
    }
}
