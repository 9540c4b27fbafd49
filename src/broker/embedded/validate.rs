//! What a broker checks before it takes a batch.
//!
//! The checks, in order, and what a batch that fails one is answered with:
//!
//! | check | answer |
//! |---|---|
//! | there is a batch | `INVALID_RECORD` |
//! | magic 2 | `INVALID_RECORD` |
//! | the length field is that of a batch, and the batch is there whole | `CORRUPT_MESSAGE` |
//! | nothing follows it: one batch per partition entry | `INVALID_RECORD` |
//! | base offset 0 | `INVALID_RECORD` |
//! | size within `max.message.bytes` | `MESSAGE_TOO_LARGE` |
//! | CRC | `CORRUPT_MESSAGE` |
//! | a codec that is known | `UNSUPPORTED_COMPRESSION_TYPE` |
//! | at least one record, last offset delta = records - 1 | `INVALID_RECORD` |
//! | no control bit; a producer id comes with a sequence, a transaction with a producer id | `INVALID_RECORD` |
//! | create time, as producers send it | `INVALID_TIMESTAMP` |
//! | records can be decompressed | `INVALID_RECORD` |
//! | ... to no more than the broker's limit | `MESSAGE_TOO_LARGE` |
//! | every record can be decoded, as many as the header says, no byte left | `INVALID_RECORD` with the record's index |
//! | the header's largest timestamp is that of its records | `INVALID_TIMESTAMP` |
//!
//! Source: Kafka's `ProduceRequest.validateRecords`, `UnifiedLog.analyzeAndValidateRecords`, `LogValidator`. Four deliberate
//! differences: Kafka answers an unknown codec, and a stream that it cannot decompress, with `UNKNOWN_SERVER_ERROR`; it has no limit on what is decompressed, since it reads
//! that as a stream; it corrects a wrong largest timestamp without a word,
//! which would hide a faulty producer; and its limit on timestamps in the future is not built.

use std::sync::Arc;

use crate::broker::{ErrorCode, PartitionResponse};
use crate::error::TopicPartition;
use crate::record::codec::{Decoder, Fault};
use crate::record::{DecodeError, MAGIC, NO_PRODUCER_ID, RecordBatch, TimestampType};

/// Where the magic byte lies, whatever the format.
const MAGIC_AT: usize = 16;

/// What a topic allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// `max.message.bytes`: largest batch, header included.
    pub(super) max_message_bytes: usize,
    /// Most bytes of a batch's records, uncompressed.
    pub(super) max_uncompressed_bytes: usize,
    /// `message.timestamp.type`.
    pub(super) timestamp_type: TimestampType,
}

/// What checking compressed batches takes, kept for the next one.
#[derive(Debug, Default)]
pub(super) struct Space {
    decoder: Decoder,
    records: Vec<u8>,
}

impl Space {
    /// Lets go of what only a large batch needed.
    pub(super) fn shrink(&mut self) {
        const KEPT: usize = 1 << 20;
        self.records.clear();
        self.records.shrink_to(KEPT);
    }
}

/// Why a batch is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(super) message: Arc<str>,
    pub(super) record_errors: Vec<(u32, Option<Arc<str>>)>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<Arc<str>>) -> Self {
        Self { code, message: message.into(), record_errors: Vec::new() }
    }

    fn invalid(message: impl Into<Arc<str>>) -> Self {
        Self::new(ErrorCode::InvalidRecord, message)
    }

    fn undecodable(error: DecodeError) -> Self {
        let code = match error {
            DecodeError::Stream { fault: Fault::TooLarge { .. }, .. } => ErrorCode::MessageTooLarge,
            DecodeError::UnsupportedMagic { .. }
            | DecodeError::NegativeRecordsCount { .. }
            | DecodeError::Stream { .. } => ErrorCode::InvalidRecord,
            DecodeError::UnknownCodec { .. } => ErrorCode::UnsupportedCompressionType,
            _ => ErrorCode::CorruptMessage,
        };
        Self::new(code, error.to_string())
    }

    /// The answer to the producer.
    pub(super) fn answer(self, topic_partition: TopicPartition) -> PartitionResponse {
        PartitionResponse {
            record_errors: self.record_errors,
            message: Some(self.message),
            ..PartitionResponse::refused(topic_partition, self.code)
        }
    }
}

/// The batch that `bytes` are, if a broker may take it.
pub(super) fn check<'b>(bytes: &'b [u8], limits: Limits, space: &mut Space) -> Result<RecordBatch<'b>, Refusal> {
    let batch = check_frame(bytes, limits.max_message_bytes)?;
    check_header(&batch, limits.timestamp_type)?;
    let max_timestamp = check_records(&batch, limits.max_uncompressed_bytes, space)?;
    if limits.timestamp_type == TimestampType::CreateTime && max_timestamp != batch.header().max_timestamp {
        let declared = batch.header().max_timestamp;
        let message = format!("the header's largest timestamp is {declared}, its records' is {max_timestamp}");
        return Err(Refusal::new(ErrorCode::InvalidTimestamp, message));
    }
    Ok(batch)
}

fn check_frame(bytes: &[u8], max_message_bytes: usize) -> Result<RecordBatch<'_>, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::invalid("there is no record batch: one per partition is needed"));
    }
    if let Some(&magic) = bytes.get(MAGIC_AT)
        && magic as i8 != MAGIC
    {
        return Err(Refusal::undecodable(DecodeError::UnsupportedMagic { magic: magic as i8 }));
    }
    let size = RecordBatch::peek_len(bytes).map_err(Refusal::undecodable)?;
    let size = size.filter(|size| *size <= bytes.len()).ok_or_else(|| {
        let needed = size.unwrap_or(crate::record::BATCH_OVERHEAD);
        Refusal::undecodable(DecodeError::Truncated { needed, available: bytes.len() })
    })?;
    if size < bytes.len() {
        let extra = bytes.len() - size;
        return Err(Refusal::invalid(format!("{extra} bytes follow the batch: exactly one per partition is allowed")));
    }
    if let Some(base) = bytes.first_chunk().map(|field| i64::from_be_bytes(*field))
        && base != 0
    {
        return Err(Refusal::invalid(format!("the batch's base offset is {base}: a producer sends 0")));
    }
    if size > max_message_bytes {
        let message = format!("the batch has {size} bytes, max.message.bytes is {max_message_bytes}");
        return Err(Refusal::new(ErrorCode::MessageTooLarge, message));
    }
    RecordBatch::parse(bytes).map(|(batch, _)| batch).map_err(Refusal::undecodable)
}

fn check_header(batch: &RecordBatch<'_>, timestamp_type: TimestampType) -> Result<(), Refusal> {
    let header = batch.header();
    let (count, last) = (header.records_count, header.last_offset_delta);
    if count < 1 || i64::from(last) + 1 != i64::from(count) {
        return Err(Refusal::invalid(format!("{count} records do not go with a last offset delta of {last}")));
    }
    if header.attributes.is_control() {
        return Err(Refusal::invalid("producers may not write control batches"));
    }
    if header.producer_id != NO_PRODUCER_ID && (header.base_sequence < 0 || header.producer_epoch < 0) {
        let (id, epoch, sequence) = (header.producer_id, header.producer_epoch, header.base_sequence);
        return Err(Refusal::invalid(format!("producer id {id} comes with epoch {epoch}, base sequence {sequence}")));
    }
    if header.attributes.is_transactional() && header.producer_id == NO_PRODUCER_ID {
        return Err(Refusal::invalid("a transactional batch needs a producer id"));
    }
    if timestamp_type == TimestampType::CreateTime && header.attributes.timestamp_type() == TimestampType::LogAppendTime
    {
        return Err(Refusal::new(ErrorCode::InvalidTimestamp, "producers may not set the log-append-time bit"));
    }
    Ok(())
}

/// Walks every record; the largest timestamp of them.
///
/// Offset deltas need no look of their own: the decoder lets them only rise within the header's last, and there are as many.
fn check_records(batch: &RecordBatch<'_>, max_bytes: usize, space: &mut Space) -> Result<i64, Refusal> {
    let Space { decoder, records } = space;
    let records = batch.decompress(decoder, max_bytes, records).map_err(Refusal::undecodable)?;
    let mut max_timestamp = i64::MIN;
    for (index, record) in (0..).zip(records) {
        match record {
            Ok(record) => max_timestamp = max_timestamp.max(record.timestamp),
            Err(error) => {
                let message: Arc<str> = error.to_string().into();
                // Too few or too many bytes for the count is the batch's fault, not a record's.
                let of_batch = matches!(error, DecodeError::MissingRecords { .. } | DecodeError::ExcessBytes { .. });
                let record_errors = if of_batch { Vec::new() } else { vec![(index, Some(message.clone()))] };
                return Err(Refusal { code: ErrorCode::InvalidRecord, message, record_errors });
            }
        }
    }
    Ok(max_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::embedded::test_support::{bytes, compressed, mend, with_bit, with_header, with_length};
    use crate::record::{BATCH_OVERHEAD, Codec};

    const LIMITS: Limits =
        Limits { max_message_bytes: 10_000, max_uncompressed_bytes: 20_000, timestamp_type: TimestampType::CreateTime };

    fn check(bytes: &[u8], limits: Limits) -> Result<RecordBatch<'_>, Refusal> {
        super::check(bytes, limits, &mut Space::default())
    }

    fn code(bytes: &[u8]) -> ErrorCode {
        check(bytes, LIMITS).map_or_else(|refusal| refusal.code, |_| ErrorCode::None)
    }

    fn good() -> Vec<u8> {
        bytes(&["one", "two", "three"])
    }

    #[test]
    fn broker_takes_a_good_batch_and_no_other_number_of_them() {
        assert_eq!(code(&good()), ErrorCode::None);
        assert_eq!(code(&[]), ErrorCode::InvalidRecord);
        assert_eq!(code(&[good(), good()].concat()), ErrorCode::InvalidRecord);
        assert_eq!(code(&[good(), vec![0]].concat()), ErrorCode::InvalidRecord);
    }

    #[test]
    fn broker_answers_every_cut_and_every_flipped_bit_with_an_error() {
        let good = good();
        for len in 1..good.len() {
            assert_eq!(code(&good[..len]), ErrorCode::CorruptMessage, "{len} bytes");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit / 8 {
                // Base offset and magic are looked at before the CRC.
                0..8 | 16 => ErrorCode::InvalidRecord,
                // A length that is too short leaves bytes behind the batch.
                8..12 if bad[8..12] < good[8..12] && bad[8] < 128 && bad[11] >= 49 => ErrorCode::InvalidRecord,
                // The leader epoch is the broker's, and under no CRC.
                12..16 => ErrorCode::None,
                _ => ErrorCode::CorruptMessage,
            };
            assert_eq!(code(&bad), expected, "bit {bit}");
        }
    }

    #[test]
    fn broker_refuses_what_a_header_may_not_say() {
        type Change = fn(&mut crate::record::BatchHeader);
        let cases: &[(&str, Change, ErrorCode)] = &[
            ("base offset", |h| h.base_offset = 1, ErrorCode::InvalidRecord),
            ("negative count", |h| h.records_count = -1, ErrorCode::InvalidRecord),
            ("no records", |h| (h.records_count, h.last_offset_delta) = (0, -1), ErrorCode::InvalidRecord),
            ("count above offsets", |h| h.records_count = 4, ErrorCode::InvalidRecord),
            ("offsets above count", |h| h.last_offset_delta = 3, ErrorCode::InvalidRecord),
            ("last offset delta", |h| h.last_offset_delta = i32::MAX, ErrorCode::InvalidRecord),
            ("too few records", |h| (h.records_count, h.last_offset_delta) = (4, 3), ErrorCode::InvalidRecord),
            ("too many records", |h| (h.records_count, h.last_offset_delta) = (2, 1), ErrorCode::InvalidRecord),
            ("control", |h| h.attributes = with_bit(h.attributes, 1 << 5), ErrorCode::InvalidRecord),
            ("transaction without id", |h| h.attributes = with_bit(h.attributes, 1 << 4), ErrorCode::InvalidRecord),
            ("id without sequence", |h| (h.producer_id, h.producer_epoch) = (7, 0), ErrorCode::InvalidRecord),
            ("id without epoch", |h| (h.producer_id, h.base_sequence) = (7, 0), ErrorCode::InvalidRecord),
            ("log append time", |h| h.attributes = with_bit(h.attributes, 1 << 3), ErrorCode::InvalidTimestamp),
            ("largest timestamp", |h| h.max_timestamp += 1, ErrorCode::InvalidTimestamp),
            ("no gzip", |h| h.attributes = with_bit(h.attributes, 1), ErrorCode::InvalidRecord),
            ("no such codec", |h| h.attributes = with_bit(h.attributes, 7), ErrorCode::UnsupportedCompressionType),
        ];
        for (what, change, expected) in cases {
            assert_eq!(code(&with_header(good(), change)), *expected, "{what}");
        }
        let idempotent = |h: &mut crate::record::BatchHeader| {
            (h.producer_id, h.producer_epoch, h.base_sequence) = (7, 0, 0);
        };
        assert_eq!(code(&with_header(good(), idempotent)), ErrorCode::None, "producer ids are taken");
    }

    #[test]
    fn send_22_broker_names_the_record_that_cannot_be_read() {
        // The second record's attribute byte is followed by its timestamp delta; its offset delta is two bytes behind.
        let mut bad = good();
        let second = BATCH_OVERHEAD + 1 + usize::from(bad[BATCH_OVERHEAD] >> 1);
        assert_eq!(bad[second + 3], 2, "offset delta 1, zig-zag");
        bad[second + 3] = 0;
        let refusal = check(&mend(bad), LIMITS).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidRecord);
        assert_eq!(refusal.record_errors, [(1, Some(refusal.message.clone()))]);
        assert!(refusal.message.contains("offset delta 0"), "{}", refusal.message);
        // A count that is wrong is no single record's fault.
        let bad = with_header(good(), |h| (h.records_count, h.last_offset_delta) = (2, 1));
        assert_eq!(check(&bad, LIMITS).unwrap_err().record_errors, []);
    }

    #[test]
    fn send_12_broker_measures_the_whole_batch_against_max_message_bytes() {
        let good = good();
        let limit = |max_message_bytes| Limits { max_message_bytes, ..LIMITS };
        assert!(check(&good, limit(good.len())).is_ok());
        assert_eq!(check(&good, limit(good.len() - 1)).unwrap_err().code, ErrorCode::MessageTooLarge);
    }

    #[test]
    fn fmt_22_broker_checks_compressed_batches_as_others_and_within_its_limit() {
        let large = "0123456789".repeat(100);
        let values = [large.as_str(); 15];
        for codec in &Codec::ALL[1..] {
            let good = compressed(*codec, bytes(&values));
            assert!(good.len() < 2_000, "{codec}: {} bytes", good.len());
            assert_eq!(code(&good), ErrorCode::None, "{codec}");
            let refusal = |change: fn(&mut crate::record::BatchHeader)| code(&with_header(good.clone(), change));
            assert_eq!(refusal(|h| (h.records_count, h.last_offset_delta) = (14, 13)), ErrorCode::InvalidRecord);
            assert_eq!(refusal(|h| (h.records_count, h.last_offset_delta) = (16, 15)), ErrorCode::InvalidRecord);
            assert_eq!(refusal(|h| h.max_timestamp += 1), ErrorCode::InvalidTimestamp);
            let half = |bytes: &[u8]| [&bytes[..bytes.len() / 2], &[0xff; 9]].concat();
            assert_eq!(code(&with_length(half(&good))), ErrorCode::InvalidRecord, "{codec}: no stream");
            let limit = |max_uncompressed_bytes| Limits { max_uncompressed_bytes, ..LIMITS };
            let records = bytes(&values).len() - BATCH_OVERHEAD;
            assert!(check(&good, limit(records)).is_ok(), "{codec}");
            let refusal = check(&good, limit(records - 1)).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::MessageTooLarge, "{codec}: {}", refusal.message);
        }
    }

    #[test]
    fn fmt_09_a_topic_of_log_append_time_does_not_look_at_the_producers_time() {
        let limits = Limits { timestamp_type: TimestampType::LogAppendTime, ..LIMITS };
        assert!(check(&with_header(good(), |h| h.max_timestamp += 1), limits).is_ok());
        assert!(check(&with_header(good(), |h| h.attributes = with_bit(h.attributes, 1 << 3)), limits).is_ok());
    }
}
