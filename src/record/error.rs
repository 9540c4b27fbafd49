//! The errors of this module. Positions count bytes from the start of the batch; in a compressed one, as if its records stood there uncompressed.

use std::fmt;

use thiserror::Error;

use super::codec::Fault;
use super::header::{BATCH_OVERHEAD, Codec, LENGTH_END};

/// Why the format cannot hold a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The timestamp is neither zero or more nor -1.
    #[error("invalid timestamp {timestamp}: give milliseconds since 1970, or -1 for none")]
    InvalidTimestamp {
        /// The timestamp given.
        timestamp: i64,
    },
    /// Key, value and headers together do not surely fit 32-bit lengths.
    #[error(
        "record too large: a batch with it alone may take {bound} bytes, but lengths on the wire \
         are 32-bit; keep key, value and headers below {max} bytes together", max = i32::MAX
    )]
    TooLarge {
        /// The upper bound computed, in bytes.
        bound: usize,
    },
}

/// Why a producer state must not be stamped into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProducerStateError {
    /// Part of a transaction, but no producer id.
    #[error("a transactional batch needs a producer id: initialise the transactions first")]
    TransactionalWithoutId,
    /// A negative id that is not the absent one.
    #[error("invalid producer id {id}: give zero or more, or -1 for none")]
    InvalidId {
        /// The producer id.
        id: i64,
    },
    /// An id without an epoch.
    #[error("producer id {id} comes with epoch {epoch}: an id needs an epoch of zero or more")]
    InvalidEpoch {
        /// The producer id.
        id: i64,
        /// The epoch.
        epoch: i16,
    },
    /// An id without a sequence.
    #[error(
        "producer id {id} comes with base sequence {base_sequence}: an id needs a sequence of \
         zero or more"
    )]
    InvalidBaseSequence {
        /// The producer id.
        id: i64,
        /// The base sequence.
        base_sequence: i32,
    },
}

/// The parts of a record, to say where decoding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// The record's body, counted by its length.
    Body,
    /// The attribute byte.
    Attributes,
    /// The timestamp delta.
    TimestampDelta,
    /// The offset delta.
    OffsetDelta,
    /// The key or its length.
    Key,
    /// The value or its length.
    Value,
    /// The number of headers.
    HeaderCount,
    /// A header's key or its length.
    HeaderKey,
    /// A header's value or its length.
    HeaderValue,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Body => "record body",
            Field::Attributes => "record attributes",
            Field::TimestampDelta => "timestamp delta",
            Field::OffsetDelta => "offset delta",
            Field::Key => "key",
            Field::Value => "value",
            Field::HeaderCount => "header count",
            Field::HeaderKey => "header key",
            Field::HeaderValue => "header value",
        })
    }
}

/// Why bytes are not a record batch.
///
/// Except for [`Truncated`](DecodeError::Truncated), where reading more may help, [`Compressed`](DecodeError::Compressed), and
/// [`Stream`](DecodeError::Stream) where the caller allows too little, an error means that the bytes are damaged or were made by a faulty writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the batch does. Read on and try again.
    #[error("truncated batch: {available} bytes are there, at least {needed} are needed")]
    Truncated {
        /// Bytes needed, as far as is known.
        needed: usize,
        /// Bytes there.
        available: usize,
    },
    /// Another format version.
    #[error("unsupported batch format (magic {magic}): only 2 is read")]
    UnsupportedMagic {
        /// The magic byte.
        magic: i8,
    },
    /// The length field is negative or too small for a header.
    #[error(
        "batch length {batch_length} is too small: a header alone has {least}",
        least = BATCH_OVERHEAD - LENGTH_END
    )]
    BatchTooSmall {
        /// The length field.
        batch_length: i32,
    },
    /// The checksum does not match: the batch was damaged on its way. Read it again.
    #[error("corrupt batch: CRC is {stored:08x} in the header, {computed:08x} by the bytes")]
    CrcMismatch {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The header's record count is negative.
    #[error("negative record count {count}")]
    NegativeRecordsCount {
        /// The count.
        count: i32,
    },
    /// The codec bits name no codec.
    #[error("unknown codec {id}: 0 to 4 are defined")]
    UnknownCodec {
        /// The number in the codec bits.
        id: u8,
    },
    /// The records are compressed, and were asked for as they lie.
    #[error("the records are compressed with {codec}: have the batch decompressed")]
    Compressed {
        /// The codec.
        codec: Codec,
    },
    /// The records cannot be decompressed, or are not allowed to be so large.
    #[error("records compressed with {codec}: {fault}")]
    Stream {
        /// The codec.
        codec: Codec,
        /// What is wrong.
        fault: Fault,
    },
    /// The header promises more records than there are bytes for.
    #[error("batch ends after {found} of {declared} records")]
    MissingRecords {
        /// The header's count.
        declared: i32,
        /// Records read.
        found: i32,
    },
    /// Bytes follow the last record that the header promises.
    #[error("{extra} bytes follow the last of {declared} records, from byte {position}")]
    ExcessBytes {
        /// The header's count.
        declared: i32,
        /// Where the bytes begin.
        position: usize,
        /// How many there are.
        extra: usize,
    },
    /// A field reaches over the end of its record, or the record over the end of the batch.
    #[error("{field} at byte {position} needs {needed} bytes, {available} are left")]
    FieldTooLong {
        /// The field.
        field: Field,
        /// Where its bytes begin.
        position: usize,
        /// Bytes needed: at least so many.
        needed: usize,
        /// Bytes left.
        available: usize,
    },
    /// A variable-length integer without end, or wider than its type.
    #[error("{field}: the variable-length integer at byte {position} does not fit its type")]
    InvalidVarint {
        /// The field.
        field: Field,
        /// Where the integer begins.
        position: usize,
    },
    /// A negative length that is not an allowed null.
    #[error("{field}: invalid length {length} at byte {position}")]
    InvalidLength {
        /// The field.
        field: Field,
        /// Where the length begins.
        position: usize,
        /// The length.
        length: i32,
    },
    /// An offset delta that does not rise, or lies behind the header's last one.
    #[error("offset delta {delta} at byte {position} is not within {least}..={most}")]
    OffsetDeltaOutOfRange {
        /// Where the delta begins.
        position: usize,
        /// The delta.
        delta: i32,
        /// The smallest one allowed here.
        least: i64,
        /// The largest one allowed: the header's last offset delta.
        most: i32,
    },
    /// The header count is negative, or larger than the bytes left could hold.
    #[error("header count {count} at byte {position} is impossible: {available} bytes are left")]
    InvalidHeaderCount {
        /// Where the count begins.
        position: usize,
        /// The count.
        count: i32,
        /// Bytes left in the record behind it.
        available: usize,
    },
    /// A header key that is not UTF-8.
    #[error("the header key at byte {position} is not UTF-8")]
    InvalidHeaderKey {
        /// Where the key's bytes begin.
        position: usize,
    },
    /// A record's fields end before its body does.
    #[error(
        "record body at byte {position}: its length says {declared} bytes, its fields take \
         {consumed}"
    )]
    BodyLengthMismatch {
        /// Where the body begins.
        position: usize,
        /// The record's length field.
        declared: usize,
        /// Bytes its fields take.
        consumed: usize,
    },
}
