//! The header of a batch: its fields, attribute bits and the producer state stamped into it.

use std::ops::Range;

use super::error::ProducerStateError;

/// Bytes of the batch header; records follow at this position.
/// Kafka: `DefaultRecordBatch.RECORD_BATCH_OVERHEAD`.
pub const BATCH_OVERHEAD: usize = 61;

/// The length field ends here; what it counts begins here. Kafka: `Records.LOG_OVERHEAD`.
pub const LENGTH_END: usize = 12;

/// The only value of the magic byte that this module reads and writes.
pub const MAGIC: i8 = 2;

/// The timestamp of a record that has none.
pub const NO_TIMESTAMP: i64 = -1;

/// The producer id of a batch from a producer that is not idempotent.
pub const NO_PRODUCER_ID: i64 = -1;

/// The epoch that goes with [`NO_PRODUCER_ID`].
pub const NO_PRODUCER_EPOCH: i16 = -1;

/// The sequence that goes with [`NO_PRODUCER_ID`].
pub const NO_SEQUENCE: i32 = -1;

/// The leader epoch before a broker has set one.
pub const NO_PARTITION_LEADER_EPOCH: i32 = -1;

pub(super) const BASE_OFFSET: Range<usize> = 0..8;
pub(super) const BATCH_LENGTH: Range<usize> = 8..LENGTH_END;
pub(super) const PARTITION_LEADER_EPOCH: Range<usize> = 12..16;
pub(super) const MAGIC_AT: usize = 16;
pub(super) const CRC: Range<usize> = 17..21;
pub(super) const ATTRIBUTES: Range<usize> = 21..23;
const LAST_OFFSET_DELTA: Range<usize> = 23..27;
const BASE_TIMESTAMP: Range<usize> = 27..35;
pub(super) const MAX_TIMESTAMP: Range<usize> = 35..43;
const PRODUCER_ID: Range<usize> = 43..51;
const PRODUCER_EPOCH: Range<usize> = 51..53;
const BASE_SEQUENCE: Range<usize> = 53..57;
const RECORDS_COUNT: Range<usize> = 57..BATCH_OVERHEAD;

/// The `N` bytes of `bytes` from `at` on; panics if they are not there.
#[inline]
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..][..N]);
    out
}

/// How the records of a batch are compressed. The header never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy, in xerial's block framing.
    Snappy,
    /// LZ4, in its frame format.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// The number in the attributes. Kafka: `CompressionType.id`.
    #[inline]
    pub const fn id(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Gzip => 1,
            Codec::Snappy => 2,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        }
    }

    /// The codec with this number, if there is one. Kafka: `CompressionType.forId`.
    #[inline]
    pub const fn from_id(id: u8) -> Option<Codec> {
        match id {
            0 => Some(Codec::None),
            1 => Some(Codec::Gzip),
            2 => Some(Codec::Snappy),
            3 => Some(Codec::Lz4),
            4 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// Where the timestamps of a batch's records come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// From the producer; each record has its own.
    #[default]
    CreateTime,
    /// From the broker; every record has the batch's max timestamp.
    LogAppendTime,
}

/// The attribute bits of a batch. Bits without a meaning are kept and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Attributes(u16);

impl Attributes {
    const CODEC: u16 = 0b0000_0111;
    const LOG_APPEND_TIME: u16 = 1 << 3;
    const TRANSACTIONAL: u16 = 1 << 4;
    const CONTROL: u16 = 1 << 5;
    const DELETE_HORIZON: u16 = 1 << 6;

    /// The attributes with exactly these bits.
    #[inline]
    pub const fn from_bits(bits: u16) -> Self {
        Attributes(bits)
    }

    /// All bits.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The number in the codec bits, which may name no codec.
    #[inline]
    pub const fn codec_id(self) -> u8 {
        (self.0 & Self::CODEC) as u8
    }

    /// The codec, if the codec bits name one.
    #[inline]
    pub const fn codec(self) -> Option<Codec> {
        Codec::from_id(self.codec_id())
    }

    /// Where the records' timestamps come from.
    #[inline]
    pub const fn timestamp_type(self) -> TimestampType {
        if self.has(Self::LOG_APPEND_TIME) { TimestampType::LogAppendTime } else { TimestampType::CreateTime }
    }

    /// Whether the batch is part of a transaction.
    #[inline]
    pub const fn is_transactional(self) -> bool {
        self.has(Self::TRANSACTIONAL)
    }

    /// Whether the batch holds a broker's marker (commit, abort, leader change) instead of data.
    #[inline]
    pub const fn is_control(self) -> bool {
        self.has(Self::CONTROL)
    }

    /// Whether the base timestamp is the time at which a compacting broker may drop tombstones.
    #[inline]
    pub const fn has_delete_horizon(self) -> bool {
        self.has(Self::DELETE_HORIZON)
    }

    /// The same attributes with the transactional bit as given.
    #[inline]
    #[must_use]
    pub const fn with_transactional(self, transactional: bool) -> Self {
        self.with(Self::TRANSACTIONAL, transactional)
    }

    /// The same attributes with the timestamp type as given.
    #[inline]
    #[must_use]
    pub const fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        self.with(Self::LOG_APPEND_TIME, matches!(timestamp_type, TimestampType::LogAppendTime))
    }

    const fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }

    const fn with(self, bit: u16, set: bool) -> Self {
        Attributes(if set { self.0 | bit } else { self.0 & !bit })
    }
}

impl From<Codec> for Attributes {
    /// The attributes of a plain data batch with this codec.
    #[inline]
    fn from(codec: Codec) -> Self {
        Attributes(u16::from(codec.id()))
    }
}

/// The fields of a batch header, in wire order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; 0 until a broker assigns it.
    pub base_offset: i64,
    /// Bytes behind this field: the batch's size less 12.
    pub batch_length: i32,
    /// Epoch of the leader that wrote the batch to its log; -1 before.
    pub partition_leader_epoch: i32,
    /// Format version: 2.
    pub magic: i8,
    /// CRC-32C of everything behind this field.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control and delete-horizon bits.
    pub attributes: Attributes,
    /// Offset of the last record less the base offset. After compaction it may exceed the record
    /// count less one, because the original last offset is kept.
    pub last_offset_delta: i32,
    /// Timestamp of the first record appended, in milliseconds: not the smallest one.
    pub base_timestamp: i64,
    /// Largest timestamp of the batch, in milliseconds.
    pub max_timestamp: i64,
    /// Producer id, or -1.
    pub producer_id: i64,
    /// Producer epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Number of records.
    pub records_count: i32,
}

impl BatchHeader {
    /// Reads the fields as they are. Nothing is checked: that is
    /// [`RecordBatch::parse`](super::RecordBatch::parse)'s work.
    pub fn from_bytes(bytes: &[u8; BATCH_OVERHEAD]) -> Self {
        BatchHeader {
            base_offset: i64::from_be_bytes(field(bytes, BASE_OFFSET.start)),
            batch_length: i32::from_be_bytes(field(bytes, BATCH_LENGTH.start)),
            partition_leader_epoch: i32::from_be_bytes(field(bytes, PARTITION_LEADER_EPOCH.start)),
            magic: i8::from_be_bytes(field(bytes, MAGIC_AT)),
            crc: u32::from_be_bytes(field(bytes, CRC.start)),
            attributes: Attributes(u16::from_be_bytes(field(bytes, ATTRIBUTES.start))),
            last_offset_delta: i32::from_be_bytes(field(bytes, LAST_OFFSET_DELTA.start)),
            base_timestamp: i64::from_be_bytes(field(bytes, BASE_TIMESTAMP.start)),
            max_timestamp: i64::from_be_bytes(field(bytes, MAX_TIMESTAMP.start)),
            producer_id: i64::from_be_bytes(field(bytes, PRODUCER_ID.start)),
            producer_epoch: i16::from_be_bytes(field(bytes, PRODUCER_EPOCH.start)),
            base_sequence: i32::from_be_bytes(field(bytes, BASE_SEQUENCE.start)),
            records_count: i32::from_be_bytes(field(bytes, RECORDS_COUNT.start)),
        }
    }

    /// The fields on the wire, exactly as they are; the CRC is not computed.
    pub fn to_bytes(&self) -> [u8; BATCH_OVERHEAD] {
        let mut bytes = [0; BATCH_OVERHEAD];
        bytes[BASE_OFFSET].copy_from_slice(&self.base_offset.to_be_bytes());
        bytes[BATCH_LENGTH].copy_from_slice(&self.batch_length.to_be_bytes());
        bytes[PARTITION_LEADER_EPOCH].copy_from_slice(&self.partition_leader_epoch.to_be_bytes());
        bytes[MAGIC_AT] = self.magic as u8;
        bytes[CRC].copy_from_slice(&self.crc.to_be_bytes());
        bytes[ATTRIBUTES].copy_from_slice(&self.attributes.0.to_be_bytes());
        bytes[LAST_OFFSET_DELTA].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        bytes[BASE_TIMESTAMP].copy_from_slice(&self.base_timestamp.to_be_bytes());
        bytes[MAX_TIMESTAMP].copy_from_slice(&self.max_timestamp.to_be_bytes());
        bytes[PRODUCER_ID].copy_from_slice(&self.producer_id.to_be_bytes());
        bytes[PRODUCER_EPOCH].copy_from_slice(&self.producer_epoch.to_be_bytes());
        bytes[BASE_SEQUENCE].copy_from_slice(&self.base_sequence.to_be_bytes());
        bytes[RECORDS_COUNT].copy_from_slice(&self.records_count.to_be_bytes());
        bytes
    }
}

/// What identifies a batch to the broker's duplicate check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// Producer id, or [`NO_PRODUCER_ID`].
    pub id: i64,
    /// Producer epoch, or [`NO_PRODUCER_EPOCH`].
    pub epoch: i16,
    /// Sequence of the batch's first record, or [`NO_SEQUENCE`].
    pub base_sequence: i32,
    /// Whether the batch is part of a transaction.
    pub transactional: bool,
}

impl ProducerState {
    /// The state of a producer that is not idempotent.
    pub const NONE: ProducerState = ProducerState {
        id: NO_PRODUCER_ID,
        epoch: NO_PRODUCER_EPOCH,
        base_sequence: NO_SEQUENCE,
        transactional: false,
    };

    /// Checks that the state may be stamped into a batch.
    ///
    /// Without an id, epoch and sequence are not looked at.
    ///
    /// # Errors
    ///
    /// [`ProducerStateError`]: transactional without an id, an id below -1, or an id with a
    /// negative epoch or a negative base sequence.
    ///
    /// Kafka: `MemoryRecordsBuilder.validateProducerState`.
    pub const fn validate(&self) -> Result<(), ProducerStateError> {
        let ProducerState { id, epoch, base_sequence, transactional } = *self;
        if id == NO_PRODUCER_ID {
            return if transactional { Err(ProducerStateError::TransactionalWithoutId) } else { Ok(()) };
        }
        if id < 0 {
            Err(ProducerStateError::InvalidId { id })
        } else if epoch < 0 {
            Err(ProducerStateError::InvalidEpoch { id, epoch })
        } else if base_sequence < 0 {
            Err(ProducerStateError::InvalidBaseSequence { id, base_sequence })
        } else {
            Ok(())
        }
    }
}

impl Default for ProducerState {
    /// [`ProducerState::NONE`].
    fn default() -> Self {
        ProducerState::NONE
    }
}

/// What [`write_batch_header`](super::write_batch_header) cannot read off the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HeaderSpec {
    /// Timestamp of the first record appended, in milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp of the batch, in milliseconds.
    pub max_timestamp: i64,
    /// Number of records: 1 to `i32::MAX`.
    pub records_count: u32,
    /// Producer id, epoch, first sequence and transactional bit.
    pub producer: ProducerState,
    /// How the records behind the header are compressed already.
    pub codec: Codec,
}
