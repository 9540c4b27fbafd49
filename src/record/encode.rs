//! Writing records and headers into memory that the caller owns.
//!
//! Nothing here allocates. The record writer is on the path of every append: it makes one pass,
//! with slice copies, and takes sizes that were computed before the place was reserved.

use super::crc::crc32c;
use super::entry::Record;
use super::error::ProducerStateError;
use super::header::{
    ATTRIBUTES, Attributes, BASE_OFFSET, BATCH_OVERHEAD, BatchHeader, CRC, HeaderSpec, LENGTH_END, MAGIC,
    MAX_TIMESTAMP, NO_PARTITION_LEADER_EPOCH, PARTITION_LEADER_EPOCH, TimestampType, field,
};
use super::size::body_size;
use super::varint::{write_unsigned, write_varlong};

/// Writes `record` at the front of `buf` and returns the bytes written, which is
/// [`record_size`](super::record_size) of the same arguments.
///
/// `offset_delta` is the record's index in its batch, at most `i32::MAX`. `timestamp_delta` is its
/// timestamp less the batch's base timestamp, in milliseconds; `record.timestamp` itself is not
/// looked at. Readers add with wrap-around, so `wrapping_sub` is the difference to take. The record
/// must have passed [`validate_record`](super::validate_record); otherwise
/// readers may reject what is written here.
///
/// Bytes of `buf` behind the record are not touched. Kafka: `DefaultRecord.writeTo`.
///
/// # Panics
///
/// Only if `buf` is shorter than the record.
///
/// ```
/// use unlatched::record::{Record, encode_record};
/// let record = Record { key: Some(b"key"), value: Some(b"value"), ..Record::default() };
/// let mut buf = [0xff; 16];
/// assert_eq!(encode_record(&mut buf, 0, 0, &record), 15);
/// assert_eq!(&buf, b"\x1c\0\0\0\x06key\x0avalue\0\xff");
/// ```
#[inline]
pub fn encode_record(buf: &mut [u8], offset_delta: u32, timestamp_delta: i64, record: &Record<'_>) -> usize {
    let body_size = body_size(offset_delta, timestamp_delta, record.payload_size());
    encode_record_sized(buf, body_size, offset_delta, timestamp_delta, record)
}

/// As [`encode_record`], for a caller that has the [`body_size`](super::body_size) already.
///
/// `body_size` must be exactly that of the other arguments. If it is not, the record written is
/// malformed; debug builds panic.
///
/// # Panics
///
/// Only if `buf` is shorter than the record (and, in debug builds, if `body_size` is wrong).
#[inline]
pub fn encode_record_sized(
    buf: &mut [u8],
    body_size: usize,
    offset_delta: u32,
    timestamp_delta: i64,
    record: &Record<'_>,
) -> usize {
    let mut out = Writer { buf, at: 0 };
    out.length(body_size);
    let body_start = out.at;
    out.byte(0);
    out.varlong(timestamp_delta);
    out.length(offset_delta as usize);
    out.nullable(record.key);
    out.nullable(record.value);
    out.length(record.headers.len());
    for header in record.headers {
        out.bytes(header.key.as_bytes());
        out.nullable(header.value);
    }
    debug_assert_eq!(out.at - body_start, body_size, "the body size given is not the record's");
    out.at
}

/// A place in a buffer. Each method writes one field and moves on.
struct Writer<'b> {
    buf: &'b mut [u8],
    at: usize,
}

impl Writer<'_> {
    #[inline]
    fn byte(&mut self, byte: u8) {
        self.buf[self.at] = byte;
        self.at += 1;
    }

    #[inline]
    fn varlong(&mut self, value: i64) {
        self.at += write_varlong(&mut self.buf[self.at..], value);
    }

    /// A length, count or index: never negative, so zig-zag is a shift.
    #[inline]
    fn length(&mut self, length: usize) {
        self.at += write_unsigned(&mut self.buf[self.at..], (length as u64) << 1);
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.buf[self.at..][..bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    #[inline]
    fn nullable(&mut self, field: Option<&[u8]>) {
        match field {
            Some(bytes) => self.bytes(bytes),
            // -1 in zig-zag.
            None => self.byte(1),
        }
    }
}

/// Writes the header of the batch that fills `buf`, with its CRC.
///
/// The records must already lie at `buf[BATCH_OVERHEAD..]`, in their final (compressed) form, and
/// fill it. Base offset becomes 0 and the leader epoch -1, as every producer sends them. Calling
/// it again, say to stamp a new producer state before a retry, rewrites the header whole.
///
/// Kafka: `MemoryRecordsBuilder.writeDefaultBatchHeader`, `DefaultRecordBatch.writeHeader`.
///
/// # Errors
///
/// [`ProducerStateError`] if `spec.producer` is not [valid](super::ProducerState::validate);
/// `buf` is then left as it was.
///
/// # Panics
///
/// If `buf` is shorter than a header or longer than a 32-bit length can say, or if
/// `spec.records_count` is not in `1..=i32::MAX`.
pub fn write_batch_header(buf: &mut [u8], spec: &HeaderSpec) -> Result<(), ProducerStateError> {
    spec.producer.validate()?;
    assert!(buf.len() >= BATCH_OVERHEAD, "a batch header needs {BATCH_OVERHEAD} bytes");
    let batch_length = i32::try_from(buf.len() - LENGTH_END).expect("batch longer than 2 GiB");
    let records_count = i32::try_from(spec.records_count).expect("more than 2^31 - 1 records");
    assert!(records_count > 0, "a batch without records is never written");
    let header = BatchHeader {
        base_offset: 0,
        batch_length,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        magic: MAGIC,
        crc: 0,
        attributes: Attributes::from(spec.codec).with_transactional(spec.producer.transactional),
        last_offset_delta: records_count - 1,
        base_timestamp: spec.base_timestamp,
        max_timestamp: spec.max_timestamp,
        producer_id: spec.producer.id,
        producer_epoch: spec.producer.epoch,
        base_sequence: spec.producer.base_sequence,
        records_count,
    };
    buf[..BATCH_OVERHEAD].copy_from_slice(&header.to_bytes());
    write_crc(buf);
    Ok(())
}

/// Sets base offset and partition leader epoch of the batch at the front of `buf`, as a broker does
/// when it appends the batch to its log. Both lie outside the CRC, which stays as it is.
///
/// Kafka: `DefaultRecordBatch.setLastOffset`, `.setPartitionLeaderEpoch`.
///
/// # Panics
///
/// If `buf` is shorter than a header.
pub fn assign_offset(buf: &mut [u8], base_offset: i64, leader_epoch: i32) {
    let header = &mut buf[..BATCH_OVERHEAD];
    header[BASE_OFFSET].copy_from_slice(&base_offset.to_be_bytes());
    header[PARTITION_LEADER_EPOCH].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Turns the batch at the front of `buf` into one of log-append time: every record then has
/// `timestamp` (milliseconds since 1970). Rewrites the CRC. Bytes behind the batch are not touched.
///
/// Kafka: `DefaultRecordBatch.setMaxTimestamp`.
///
/// # Panics
///
/// If `buf` does not start with a whole batch; call [`RecordBatch::parse`](super::RecordBatch::parse)
/// first on bytes from elsewhere.
pub fn set_log_append_time(buf: &mut [u8], timestamp: i64) {
    let batch_length = BatchHeader::from_bytes(&field(buf, 0)).batch_length;
    let size = usize::try_from(batch_length).expect("negative batch length") + LENGTH_END;
    let batch = &mut buf[..size];
    let attributes = Attributes::from_bits(u16::from_be_bytes(field(batch, ATTRIBUTES.start)))
        .with_timestamp_type(TimestampType::LogAppendTime);
    batch[ATTRIBUTES].copy_from_slice(&attributes.bits().to_be_bytes());
    batch[MAX_TIMESTAMP].copy_from_slice(&timestamp.to_be_bytes());
    write_crc(batch);
}

/// Computes and writes the CRC of the batch that fills `batch`.
fn write_crc(batch: &mut [u8]) {
    let crc = crc32c(&batch[ATTRIBUTES.start..]);
    batch[CRC].copy_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Header, record_size};

    #[test]
    fn fmt_14_first_byte_of_a_record_is_never_zero() {
        let value = vec![7; 70_000];
        for len in (0..300).chain([8_190, 16_370, 16_383, 16_384, 65_536, 70_000]) {
            let record = Record { value: Some(&value[..len]), ..Record::default() };
            for index in [0, 64, 8_192] {
                let mut buf = vec![0; record_size(index, 0, &record)];
                encode_record(&mut buf, index, 0, &record);
                assert_ne!(buf[0], 0, "value of {len} bytes at {index}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "body size given")]
    #[cfg(debug_assertions)]
    fn fmt_14_a_wrong_body_size_is_caught_in_debug_builds() {
        encode_record_sized(&mut [0; 32], 7, 0, 0, &Record::default());
    }

    #[test]
    fn fmt_14_a_buffer_one_byte_short_panics_and_an_exact_one_does_not() {
        let headers = [Header { key: "h", value: Some(b"v") }];
        let records = [
            Record { key: Some(b"k"), value: Some(b"v"), headers: &headers, ..Record::default() },
            Record { headers: &[Header { key: "h", value: None }], ..Record::default() },
            Record::default(),
        ];
        for record in &records {
            let size = record_size(0, 0, record);
            assert_eq!(encode_record(&mut vec![0; size], 0, 0, record), size);
            let mut short = vec![0; size - 1];
            let panicked =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| encode_record(&mut short, 0, 0, record)));
            assert!(panicked.is_err(), "{record:?}");
        }
    }

    #[test]
    #[should_panic(expected = "without records")]
    fn fmt_13_a_header_for_no_records_panics() {
        let _ = write_batch_header(&mut [0; BATCH_OVERHEAD], &HeaderSpec::default());
    }

    #[test]
    #[should_panic(expected = "2^31 - 1 records")]
    fn fmt_13_a_count_above_the_32_bit_range_panics() {
        let spec = HeaderSpec { records_count: 1 << 31, ..HeaderSpec::default() };
        let _ = write_batch_header(&mut [0; BATCH_OVERHEAD], &spec);
    }

    #[test]
    #[should_panic(expected = "needs 61 bytes")]
    fn fmt_13_a_buffer_shorter_than_the_header_panics() {
        let spec = HeaderSpec { records_count: 1, ..HeaderSpec::default() };
        let _ = write_batch_header(&mut [0; BATCH_OVERHEAD - 1], &spec);
    }
}
