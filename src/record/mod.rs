//! Record batches as they lie on the wire: Kafka's format v2.
//!
//! This module knows bytes and nothing else. It takes no locks, reads no clock, and neither the encoder nor the decoder of
//! records allocates. Compressing and decompressing, which do, are in [`codec`].
//!
//! # Layout
//!
//! All fixed-width fields are big-endian. A batch is a header of [`BATCH_OVERHEAD`] bytes with
//! records right behind it:
//!
//! ```text
//!   0               8       12      16 17      21    23      27              35
//!   +---------------+-------+-------+--+-------+-----+-------+---------------+
//!   | base offset   | batch |leader |m | CRC   |attr.| last  | base timestamp|
//!   |               | length| epoch |  | 32C   |     | offset|               |
//!   |               |       |       |  |       |     | delta |               |
//!   +---------------+-------+-------+--+-------+-----+-------+---------------+
//!   35              43              51    53      57      61
//!   +---------------+---------------+-----+-------+-------+------------------+
//!   | max timestamp | producer id   |prod.| base  | record| records ...      |
//!   |               |               |epoch| seq.  | count |                  |
//!   +---------------+---------------+-----+-------+-------+------------------+
//!
//!   batch length counts the bytes behind itself: total - 12
//!   m            is the magic byte: 2
//!   CRC-32C      covers everything from the attributes (byte 21) to the end, so a broker may set
//!                base offset and leader epoch without touching it
//!   attributes   15......7   6         5        4          3           2..0
//!                   unused   delete    control  transact-  timestamp   codec
//!                            horizon            ional      type
//! ```
//!
//! One record:
//!
//! ```text
//!   +--------+------+-----------+--------+-----------+-------------+---------+-----------
//!   | body   | 0x00 | timestamp | offset | key length| value length| header  | headers
//!   | length |      | delta     | delta  | + key     | + value     | count   | ...
//!   +--------+------+-----------+--------+-----------+-------------+---------+-----------
//!     varint  1 byte   varlong    varint   varint ..   varint ..     varint
//!            |<------------------------- body length bytes --------------------------->|
//!
//!   a header: varint key length + UTF-8 key, varint value length + value
//!   length -1 is null (key, value and header value may be null; a header key may not)
//! ```
//!
//! Varints are zig-zag numbers in groups of seven bits, lowest first; see [`varint`].
//!
//! The first byte of an encoded record is never zero, because a body has at least six bytes. So a
//! zero byte in zeroed memory means "nothing written here yet".
//!
//! # Where things are
//!
//! | to do this | use | Kafka's counterpart |
//! |---|---|---|
//! | bound the buffer for one record | [`batch_size_upper_bound`] | `AbstractRecords.estimateSizeInBytesUpperBound` |
//! | check a record before anything else | [`validate_record`] | `MemoryRecordsBuilder.appendWithOffset` |
//! | know a record's exact size | [`record_size`], or [`Record::payload_size`] once, then [`body_size`] | `DefaultRecord.sizeInBytes`, `.sizeOfBodyInBytes` |
//! | write a record | [`encode_record`], [`encode_record_sized`] | `DefaultRecord.writeTo` |
//! | write the header | [`write_batch_header`] | `MemoryRecordsBuilder.writeDefaultBatchHeader` |
//! | give a batch its offset | [`assign_offset`] | `DefaultRecordBatch.setLastOffset`, `.setPartitionLeaderEpoch` |
//! | stamp log-append time | [`set_log_append_time`] | `DefaultRecordBatch.setMaxTimestamp` |
//! | read | [`RecordBatch::parse`], [`batches`] | `DefaultRecordBatch.ensureValid`, `.iterator` |
//! | compress; read what is compressed | [`codec::Encoder`]; [`RecordBatch::decompress`] | `Compression.wrapForOutput`; `.wrapForInput` |
//! | count sequences | [`increment_sequence`], [`decrement_sequence`], [`sequence_is_after`] | `DefaultRecordBatch.incrementSequence`, `.decrementSequence` |
//!
//! # Where the decoder is stricter than Kafka's
//!
//! Kafka's reader accepts these, no known writer makes them, and here they are typed errors: a
//! length below -1, a varint whose last group has bits that do not fit, a header key that is not
//! UTF-8, and offset deltas that are negative, do not rise, or lie behind the header's last one.
//!
//! # Example
//!
//! ```
//! use unlatched::record::{
//!     BATCH_OVERHEAD, HeaderSpec, Record, RecordBatch, encode_record, record_size,
//!     write_batch_header,
//! };
//!
//! let records = [
//!     Record { timestamp: 1_000, key: Some(b"k"), value: Some(b"hello"), headers: &[] },
//!     Record { timestamp: 1_003, key: None, value: Some(b""), headers: &[] },
//! ];
//! let base_timestamp = records[0].timestamp;
//!
//! let mut buf = vec![0; BATCH_OVERHEAD];
//! for (index, record) in (0..).zip(&records) {
//!     let delta = record.timestamp - base_timestamp;
//!     let at = buf.len();
//!     buf.resize(at + record_size(index, delta, record), 0);
//!     encode_record(&mut buf[at..], index, delta, record);
//! }
//! let spec = HeaderSpec { base_timestamp, max_timestamp: 1_003, records_count: 2, ..HeaderSpec::default() };
//! write_batch_header(&mut buf, &spec)?;
//!
//! let (batch, rest) = RecordBatch::parse(&buf)?;
//! assert!(rest.is_empty());
//! for (sent, read) in records.iter().zip(batch.records()) {
//!     let read = read?;
//!     assert_eq!((read.timestamp, read.key, read.value), (sent.timestamp, sent.key, sent.value));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod codec;
mod crc;
mod decode;
mod encode;
mod entry;
mod error;
mod header;
mod sequence;
mod size;
pub mod varint;

pub use crc::crc32c;
pub(crate) use decode::PausedRecords;
pub use decode::{Batches, DecodedRecord, HeaderIter, Headers, RecordBatch, Records, batches};
pub use encode::{assign_offset, encode_record, encode_record_sized, set_log_append_time, write_batch_header};
pub(crate) use entry::valid_payload_size;
pub use entry::{Header, Record, validate_record};
pub use error::{DecodeError, Field, ProducerStateError, RecordError};
pub use header::{
    Attributes, BATCH_OVERHEAD, BatchHeader, Codec, HeaderSpec, LENGTH_END, MAGIC, NO_PARTITION_LEADER_EPOCH,
    NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, ProducerState, TimestampType,
};
pub use sequence::{decrement_sequence, increment_sequence, sequence_is_after};
pub use size::{MAX_RECORD_OVERHEAD, batch_size_upper_bound, body_size, record_size, record_size_for_body};
