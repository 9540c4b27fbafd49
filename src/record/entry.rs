//! A record as an appender hands it over.

use super::error::RecordError;
use super::header::{BATCH_OVERHEAD, NO_TIMESTAMP};
use super::size::{MAX_RECORD_OVERHEAD, batch_size_upper_bound};

/// A record header: a name and optional bytes. Order and repeated names are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name. It may be empty, never null.
    pub key: &'a str,
    /// The value; `None` (null) and `Some(&[])` (empty) are different.
    pub value: Option<&'a [u8]>,
}

/// A record to be appended: borrowed, never copied before its place in a batch is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Milliseconds since 1970, or [`NO_TIMESTAMP`].
    pub timestamp: i64,
    /// The key; `None` (null) and `Some(&[])` (empty) are different.
    pub key: Option<&'a [u8]>,
    /// The value; `None` (null) and `Some(&[])` (empty) are different.
    pub value: Option<&'a [u8]>,
    /// The headers, in order.
    pub headers: &'a [Header<'a>],
}

impl Default for Record<'_> {
    /// Nothing, at no time: a producer puts its own time in.
    fn default() -> Self {
        Self { timestamp: NO_TIMESTAMP, key: None, value: None, headers: &[] }
    }
}

/// Checks that the format can hold `record`.
///
/// Call it once, before the record's place is reserved: the encoder relies on it.
///
/// One bound covers every length. If a batch with the record alone surely fits a 32-bit length,
/// so do its key, its value, each header's parts and the header count.
///
/// # Errors
///
/// [`RecordError::InvalidTimestamp`] for a timestamp below zero other than [`NO_TIMESTAMP`];
/// [`RecordError::TooLarge`] if [`batch_size_upper_bound`] is above `i32::MAX`.
///
/// Kafka: `MemoryRecordsBuilder.appendWithOffset` (timestamp).
///
/// ```
/// use unlatched::record::{Record, RecordError, validate_record};
/// let record = Record { timestamp: -2, ..Record::default() };
/// assert_eq!(validate_record(&record), Err(RecordError::InvalidTimestamp { timestamp: -2 }));
/// ```
#[inline]
pub fn validate_record(record: &Record<'_>) -> Result<(), RecordError> {
    valid_payload_size(record).map(drop)
}

/// [`Record::payload_size`] of a record that the format can hold: for whoever needs both, and walks it once.
#[inline]
pub(crate) fn valid_payload_size(record: &Record<'_>) -> Result<usize, RecordError> {
    // No timestamp is -1, so everything from there upwards is valid.
    if record.timestamp < NO_TIMESTAMP {
        return Err(RecordError::InvalidTimestamp { timestamp: record.timestamp });
    }
    let payload = record.payload_size();
    if payload > i32::MAX as usize - (BATCH_OVERHEAD + MAX_RECORD_OVERHEAD) {
        return Err(RecordError::TooLarge { bound: batch_size_upper_bound(record) });
    }
    Ok(payload)
}
