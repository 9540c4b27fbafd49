//! How many bytes things take.
//!
//! A record's size has two parts. Key, value and headers with their lengths, the *payload*, do
//! not depend on where the record lands; [`Record::payload_size`] walks them once. The rest depends on
//! its index and on the batch's first timestamp; [`body_size`] and [`record_size_for_body`] add
//! it by closed forms, so that an appender can try several places at the cost of a few
//! instructions each.
//!
//! All sums saturate at `usize::MAX` instead of wrapping.

use super::entry::Record;
use super::header::BATCH_OVERHEAD;
use super::varint::{MAX_VARINT_LEN, MAX_VARLONG_LEN, unsigned_len, varlong_len};

/// The most bytes a record takes besides its payload: body length 5, attributes 1, timestamp
/// delta 10, offset delta 5. Kafka: `DefaultRecord.MAX_RECORD_OVERHEAD`.
pub const MAX_RECORD_OVERHEAD: usize = MAX_VARINT_LEN + 1 + MAX_VARLONG_LEN + MAX_VARINT_LEN;

/// Bytes of the varint for a length or a count, neither of which is ever negative here.
#[inline]
pub(super) const fn length_len(length: usize) -> usize {
    unsigned_len((length as u64) << 1)
}

/// Bytes of a nullable field with its length.
#[inline]
const fn nullable_size(field: Option<&[u8]>) -> usize {
    match field {
        Some(bytes) => length_len(bytes.len()).saturating_add(bytes.len()),
        None => 1,
    }
}

/// Exact bytes of a record's body (what its length varint counts).
///
/// `timestamp_delta` is in milliseconds against the batch's first record and may be negative;
/// `offset_delta` is the record's index in the batch, at most `i32::MAX`; `payload_size` is what
/// [`Record::payload_size`] returned. Kafka: `DefaultRecord.sizeOfBodyInBytes`.
#[inline]
pub const fn body_size(offset_delta: u32, timestamp_delta: i64, payload_size: usize) -> usize {
    let place = 1 + varlong_len(timestamp_delta) + length_len(offset_delta as usize);
    payload_size.saturating_add(place)
}

/// Exact bytes of a record whose body has `body_size` bytes: the body and its length varint.
#[inline]
pub const fn record_size_for_body(body_size: usize) -> usize {
    length_len(body_size).saturating_add(body_size)
}

/// Exact bytes of `record` on the wire, with its length varint.
///
/// Units and limits as in [`body_size`]. Kafka: `DefaultRecord.sizeInBytes`.
///
/// ```
/// use unlatched::record::{Record, record_size};
/// let record = Record { key: Some(b"key"), value: Some(b"value"), ..Record::default() };
/// assert_eq!(record_size(0, 0, &record), 15);
/// ```
#[inline]
pub fn record_size(offset_delta: u32, timestamp_delta: i64, record: &Record<'_>) -> usize {
    record_size_for_body(body_size(offset_delta, timestamp_delta, record.payload_size()))
}

/// The most bytes that a batch with `record` alone can take, uncompressed.
///
/// Header, [`MAX_RECORD_OVERHEAD`] and payload. Buffers are sized by it, and it is what the
/// request-size and memory limits are compared with.
/// Kafka: `AbstractRecords.estimateSizeInBytesUpperBound`.
///
/// ```
/// use unlatched::record::{Record, batch_size_upper_bound};
/// let record = Record { key: Some(b"key"), value: Some(b"value"), ..Record::default() };
/// assert_eq!(batch_size_upper_bound(&record), 93);
/// ```
#[inline]
pub fn batch_size_upper_bound(record: &Record<'_>) -> usize {
    record.size_upper_bound().saturating_add(BATCH_OVERHEAD)
}

impl Record<'_> {
    /// Bytes of key, value and headers with their lengths and the header count.
    ///
    /// Independent of the record's place in a batch. Kafka: `DefaultRecord.sizeOf`.
    #[inline]
    pub fn payload_size(&self) -> usize {
        let fields = nullable_size(self.key)
            .saturating_add(nullable_size(self.value))
            .saturating_add(length_len(self.headers.len()));
        self.headers.iter().fold(fields, |sum, header| {
            sum.saturating_add(nullable_size(Some(header.key.as_bytes()))).saturating_add(nullable_size(header.value))
        })
    }

    /// The most bytes the record can take on the wire, wherever it lands.
    ///
    /// Kafka: `DefaultRecord.recordSizeUpperBound`. The record-size metrics report [`batch_size_upper_bound`] instead.
    #[inline]
    pub fn size_upper_bound(&self) -> usize {
        self.payload_size().saturating_add(MAX_RECORD_OVERHEAD)
    }

    /// The most bytes the record's body can take, wherever it lands: as
    /// [`size_upper_bound`](Self::size_upper_bound), without the length varint.
    #[inline]
    pub fn body_upper_bound(&self) -> usize {
        self.payload_size().saturating_add(MAX_RECORD_OVERHEAD - MAX_VARINT_LEN)
    }
}
