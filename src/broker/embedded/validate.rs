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
//! | a codec that is known and can be read | `UNSUPPORTED_COMPRESSION_TYPE` |
//! | at least one record, last offset delta = records - 1 | `INVALID_RECORD` |
//! | no control bit; a producer id comes with a sequence, a transaction with a producer id | `INVALID_RECORD` |
//! | create time, as producers send it | `INVALID_TIMESTAMP` |
//! | every record can be decoded, as many as the header says, no byte left | `INVALID_RECORD` with the record's index |
//! | the header's largest timestamp is that of its records | `INVALID_TIMESTAMP` |
//!
//! Source: Kafka's `ProduceRequest.validateRecords`, `UnifiedLog.analyzeAndValidateRecords`, `LogValidator`. Three deliberate
//! differences: Kafka answers an unknown codec with `UNKNOWN_SERVER_ERROR`; it corrects a wrong largest timestamp without a word,
//! which would hide a faulty producer; and its limit on timestamps in the future is not built.

use std::sync::Arc;

use crate::broker::{ErrorCode, PartitionResponse};
use crate::error::TopicPartition;
use crate::record::{DecodeError, MAGIC, NO_PRODUCER_ID, RecordBatch, TimestampType};

/// Where the magic byte lies, whatever the format.
const MAGIC_AT: usize = 16;

/// What a topic allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// `max.message.bytes`: largest batch, header included.
    pub(super) max_message_bytes: usize,
    /// `message.timestamp.type`.
    pub(super) timestamp_type: TimestampType,
}

/// Why a batch is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
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
            DecodeError::UnsupportedMagic { .. } | DecodeError::NegativeRecordsCount { .. } => ErrorCode::InvalidRecord,
            DecodeError::UnknownCodec { .. } | DecodeError::UnsupportedCodec { .. } => {
                ErrorCode::UnsupportedCompressionType
            }
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
pub(super) fn check(bytes: &[u8], limits: Limits) -> Result<RecordBatch<'_>, Refusal> {
    let batch = check_frame(bytes, limits.max_message_bytes)?;
    check_header(&batch, limits.timestamp_type)?;
    let max_timestamp = check_records(&batch)?;
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
    if header.producer_id != NO_PRODUCER_ID && header.base_sequence < 0 {
        let (id, sequence) = (header.producer_id, header.base_sequence);
        return Err(Refusal::invalid(format!("producer id {id} comes with base sequence {sequence}")));
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
fn check_records(batch: &RecordBatch<'_>) -> Result<i64, Refusal> {
    let mut max_timestamp = i64::MIN;
    for (index, record) in (0..).zip(batch.records()) {
        match record {
            Ok(record) => max_timestamp = max_timestamp.max(record.timestamp),
            Err(error @ DecodeError::UnsupportedCodec { .. }) => return Err(Refusal::undecodable(error)),
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
