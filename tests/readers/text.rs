//! Batches as text: what the programs of this folder tell each other, one line for a batch and one for each of its records.
//!
//! A field is `name=value`, fields are parted by spaces. Bytes are hexadecimal behind an `x`; `-` is null; headers are `name:value`, parted by commas.
//!
//! ```text
//! batch base_offset=0 bytes=79 leader_epoch=0 magic=2 crc=55be4a5d codec=none ... count=1
//! record offset=0 timestamp=1764000000001 sequence=-1 key=- value=x76616c7565 headers=x6e616d65:x76616c7565
//! ```
//!
//! A reader prints the fields that it shows its user, in any order; [`compare`] has the list of those that it must print. What a writer is to write is told in
//! the same words.

use std::collections::BTreeMap;
use std::fmt::Write;

use unlatched::record::{Codec, record_size};

use crate::matrix::{Case, Row};

/// A line: its first word, and its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) kind: String,
    pub(crate) fields: BTreeMap<String, String>,
}

impl Line {
    pub(crate) fn new<const N: usize>(kind: &str, fields: [(&str, String); N]) -> Self {
        Self { kind: kind.to_owned(), fields: fields.map(|(name, value)| (name.to_owned(), value)).into() }
    }
}

pub(crate) fn bytes(field: Option<&[u8]>) -> String {
    let Some(bytes) = field else { return "-".to_owned() };
    let mut text = String::with_capacity(1 + 2 * bytes.len());
    text.push('x');
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub(crate) fn headers(row: &Row) -> String {
    let header = |(name, value): &(String, Option<Vec<u8>>)| {
        format!("{}:{}", bytes(Some(name.as_bytes())), bytes(value.as_deref()))
    };
    row.headers.iter().map(header).collect::<Vec<_>>().join(",")
}

/// Whole batches that lie one behind the other, cut by their length fields alone.
pub(crate) fn cut(mut log: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut batches = Vec::new();
    while !log.is_empty() {
        let length = log.get(8..12).and_then(|field| field.try_into().ok()).map(i32::from_be_bytes);
        let size = length.and_then(|length| usize::try_from(length).ok()).ok_or("no length field")? + 12;
        let (batch, rest) = log.split_at_checked(size).ok_or("the last batch is torn")?;
        batches.push(batch);
        log = rest;
    }
    Ok(batches)
}

/// The lines of `batch`, which holds `case`, its first record at `base_offset`: everything from what was put in, but for the batch's size and its checksum. With the
/// codec that its header names, since a writer may leave out compression that does not shorten anything.
pub(crate) fn expected(case: &Case, batch: &[u8], base_offset: i64) -> Vec<Line> {
    let codec = batch.get(22).and_then(|low| Codec::from_id(low & 7)).unwrap_or(case.codec());
    let transactional = case.producer.transactional;
    let attributes = u16::from(codec.id()) | u16::from(transactional) << 4;
    let count = case.rows.len() as i32;
    let base_timestamp = case.rows[0].timestamp;
    // They count to 2^31 - 1, and 0 follows.
    let sequence = |index: i32| match i64::from(case.producer.base_sequence) {
        -1 => -1,
        base => (base + i64::from(index)) % (1 << 31),
    };
    let crc = batch.get(17..21).map_or_else(String::new, |crc| crc.iter().map(|byte| format!("{byte:02x}")).collect());
    let mut lines = vec![Line::new(
        "batch",
        [
            ("base_offset", base_offset.to_string()),
            ("last_offset", (base_offset + i64::from(count) - 1).to_string()),
            ("bytes", batch.len().to_string()),
            ("leader_epoch", "0".to_owned()),
            ("magic", "2".to_owned()),
            ("crc", crc),
            ("valid", "1".to_owned()),
            ("attributes", attributes.to_string()),
            ("codec", codec.name().to_owned()),
            ("transactional", u8::from(transactional).to_string()),
            ("control", "0".to_owned()),
            ("delete_horizon", "-".to_owned()),
            ("timestamp_type", "create".to_owned()),
            ("base_timestamp", base_timestamp.to_string()),
            ("max_timestamp", case.rows.iter().map(|row| row.timestamp).max().unwrap_or_default().to_string()),
            ("producer_id", case.producer.id.to_string()),
            ("producer_epoch", case.producer.epoch.to_string()),
            ("base_sequence", sequence(0).to_string()),
            ("last_sequence", sequence(count - 1).to_string()),
            ("count", count.to_string()),
        ],
    )];
    lines.extend((0..).zip(&case.rows).map(|(index, row)| {
        let size =
            row.with_record(|record| record_size(index as u32, row.timestamp.wrapping_sub(base_timestamp), record));
        record(row, base_offset + i64::from(index), sequence(index), size)
    }));
    lines
}

/// The line of a record that takes `size` bytes.
pub(crate) fn record(row: &Row, offset: i64, sequence: i64, size: usize) -> Line {
    let len = |field: &Option<Vec<u8>>| field.as_ref().map_or(-1, |bytes| bytes.len() as i64).to_string();
    let names: Vec<String> = row.headers.iter().map(|(name, _)| bytes(Some(name.as_bytes()))).collect();
    Line::new(
        "record",
        [
            ("offset", offset.to_string()),
            ("timestamp", row.timestamp.to_string()),
            ("sequence", sequence.to_string()),
            ("bytes", size.to_string()),
            ("key", bytes(row.key.as_deref())),
            ("key_size", len(&row.key)),
            ("value", bytes(row.value.as_deref())),
            ("value_size", len(&row.value)),
            ("headers", headers(row)),
            ("header_names", names.join(",")),
        ],
    )
}

/// What was compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) batches: usize,
    pub(crate) records: usize,
    pub(crate) fields: usize,
}

/// The fields that a reader shows, of a batch and of a record. It must print each of them on every line of the kind, and no other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    pub(crate) batch: &'static [&'static str],
    pub(crate) record: &'static [&'static str],
}

/// Holds what a reader printed against what was put in: line by line, the fields that it must print.
///
/// # Errors
/// The first difference, in words.
pub(crate) fn compare(expected: &[Line], printed: &[Line], shown: Shown) -> Result<Compared, String> {
    let mut compared = Compared::default();
    // A reader that shows nothing of the batch prints no line for it.
    let expected: Vec<&Line> = expected.iter().filter(|line| line.kind != "batch" || !shown.batch.is_empty()).collect();
    for (number, want) in expected.iter().enumerate() {
        let Some(got) = printed.get(number) else {
            return Err(format!(
                "{} lines of {}: the next should be {}",
                printed.len(),
                expected.len(),
                describe(want)
            ));
        };
        if got.kind != want.kind {
            return Err(format!("line {}: {} where {} should be", number + 1, describe(got), describe(want)));
        }
        let names = if want.kind == "batch" { shown.batch } else { shown.record };
        for &name in names {
            let (want_field, got_field) = (want.fields.get(name), got.fields.get(name));
            if want_field.is_none() || want_field != got_field {
                return Err(format!(
                    "line {}, {}: {name} is {}, should be {}",
                    number + 1,
                    describe(want),
                    got_field.map_or("missing", |field| short(field)),
                    want_field.map_or("unknown", |field| short(field)),
                ));
            }
        }
        if let Some(other) = got.fields.keys().find(|name| !names.contains(&name.as_str())) {
            return Err(format!("line {}: {other} is printed and nobody compares it", number + 1));
        }
        compared.fields += names.len();
        if want.kind == "batch" { compared.batches += 1 } else { compared.records += 1 }
    }
    if printed.len() > expected.len() {
        return Err(format!("{} lines, {} should be", printed.len(), expected.len()));
    }
    Ok(compared)
}

fn describe(line: &Line) -> String {
    let field = |name: &str| line.fields.get(name).map_or("?", |field| short(field));
    match &*line.kind {
        "batch" => format!("batch at offset {}, {}", field("base_offset"), field("codec")),
        kind => format!("{kind} at offset {}", field("offset")),
    }
}

fn short(field: &str) -> &str {
    &field[..field.len().min(80)]
}
