//! Kafka's error codes, as far as a producer meets them.

use std::fmt;

/// A code of Kafka's protocol. Those that no produce request is answered with are kept as [`ErrorCode::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names are Kafka's own and say it")]
pub enum ErrorCode {
    None,
    UnknownServerError,
    CorruptMessage,
    UnknownTopicOrPartition,
    LeaderNotAvailable,
    NotLeaderOrFollower,
    RequestTimedOut,
    MessageTooLarge,
    NetworkException,
    InvalidTopicException,
    RecordListTooLarge,
    NotEnoughReplicas,
    NotEnoughReplicasAfterAppend,
    InvalidRequiredAcks,
    TopicAuthorizationFailed,
    ClusterAuthorizationFailed,
    InvalidTimestamp,
    UnsupportedVersion,
    UnsupportedForMessageFormat,
    PolicyViolation,
    OutOfOrderSequenceNumber,
    DuplicateSequenceNumber,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    TransactionalIdAuthorizationFailed,
    KafkaStorageError,
    UnknownProducerId,
    FencedLeaderEpoch,
    UnknownLeaderEpoch,
    UnsupportedCompressionType,
    InvalidRecord,
    ProducerFenced,
    UnknownTopicId,
    Other(i16),
}

/// What an answer says of the batch that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It is in the log.
    Written,
    /// This attempt has not brought it there.
    NotWritten,
    /// It may be there, or not.
    Unknown,
}

use ErrorCode as E;
use Fate::{NotWritten, Unknown, Written};

/// Code, number, name, retriable, "also refresh the metadata" (SEND-16, SEND-20), and what became of the batch. A leader that is deposed while it waits for its followers, say, has written it, and
/// answers NOT_LEADER_OR_FOLLOWER.
const TABLE: &[(ErrorCode, i16, &str, bool, bool, Fate)] = &[
    (E::None, 0, "NONE", false, false, Written),
    (E::UnknownServerError, -1, "UNKNOWN_SERVER_ERROR", false, false, Unknown),
    (E::CorruptMessage, 2, "CORRUPT_MESSAGE", true, false, NotWritten),
    (E::UnknownTopicOrPartition, 3, "UNKNOWN_TOPIC_OR_PARTITION", true, true, NotWritten),
    (E::LeaderNotAvailable, 5, "LEADER_NOT_AVAILABLE", true, true, NotWritten),
    (E::NotLeaderOrFollower, 6, "NOT_LEADER_OR_FOLLOWER", true, true, Unknown),
    (E::RequestTimedOut, 7, "REQUEST_TIMED_OUT", true, false, Unknown),
    (E::MessageTooLarge, 10, "MESSAGE_TOO_LARGE", false, false, NotWritten),
    (E::NetworkException, 13, "NETWORK_EXCEPTION", true, true, Unknown),
    (E::InvalidTopicException, 17, "INVALID_TOPIC_EXCEPTION", false, false, NotWritten),
    (E::RecordListTooLarge, 18, "RECORD_LIST_TOO_LARGE", false, false, NotWritten),
    (E::NotEnoughReplicas, 19, "NOT_ENOUGH_REPLICAS", true, false, NotWritten),
    (E::NotEnoughReplicasAfterAppend, 20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", true, false, Unknown),
    (E::InvalidRequiredAcks, 21, "INVALID_REQUIRED_ACKS", false, false, NotWritten),
    (E::TopicAuthorizationFailed, 29, "TOPIC_AUTHORIZATION_FAILED", false, false, NotWritten),
    (E::ClusterAuthorizationFailed, 31, "CLUSTER_AUTHORIZATION_FAILED", false, false, NotWritten),
    (E::InvalidTimestamp, 32, "INVALID_TIMESTAMP", false, false, NotWritten),
    (E::UnsupportedVersion, 35, "UNSUPPORTED_VERSION", false, false, NotWritten),
    (E::UnsupportedForMessageFormat, 43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", false, false, NotWritten),
    (E::PolicyViolation, 44, "POLICY_VIOLATION", false, false, NotWritten),
    (E::OutOfOrderSequenceNumber, 45, "OUT_OF_ORDER_SEQUENCE_NUMBER", false, false, NotWritten),
    (E::DuplicateSequenceNumber, 46, "DUPLICATE_SEQUENCE_NUMBER", false, false, Written),
    (E::InvalidProducerEpoch, 47, "INVALID_PRODUCER_EPOCH", false, false, NotWritten),
    (E::InvalidProducerIdMapping, 49, "INVALID_PRODUCER_ID_MAPPING", false, false, NotWritten),
    (E::TransactionalIdAuthorizationFailed, 53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", false, false, NotWritten),
    (E::KafkaStorageError, 56, "KAFKA_STORAGE_ERROR", true, true, Unknown),
    (E::UnknownProducerId, 59, "UNKNOWN_PRODUCER_ID", false, false, NotWritten),
    (E::FencedLeaderEpoch, 74, "FENCED_LEADER_EPOCH", true, true, NotWritten),
    (E::UnknownLeaderEpoch, 75, "UNKNOWN_LEADER_EPOCH", true, false, NotWritten),
    (E::UnsupportedCompressionType, 76, "UNSUPPORTED_COMPRESSION_TYPE", false, false, NotWritten),
    (E::InvalidRecord, 87, "INVALID_RECORD", false, false, NotWritten),
    (E::ProducerFenced, 90, "PRODUCER_FENCED", false, false, NotWritten),
    (E::UnknownTopicId, 100, "UNKNOWN_TOPIC_ID", true, true, NotWritten),
];

impl ErrorCode {
    /// Every code with a name here.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> Option<&'static (Self, i16, &'static str, bool, bool, Fate)> {
        TABLE.iter().find(|row| row.0 == self)
    }

    /// The number on the wire.
    pub fn code(self) -> i16 {
        match self {
            Self::Other(code) => code,
            known => known.row().map_or(-1, |row| row.1),
        }
    }

    /// The code of a number on the wire.
    pub fn from_code(code: i16) -> Self {
        TABLE.iter().find(|row| row.1 == code).map_or(Self::Other(code), |row| row.0)
    }

    /// Whether the same batch may be sent again (SEND-20).
    pub fn is_retriable(self) -> bool {
        self.row().is_some_and(|row| row.3)
    }

    /// What became of a batch that was answered so. Of a code that has no name here nothing is known.
    pub fn fate(self) -> Fate {
        self.row().map_or(Unknown, |row| row.5)
    }

    /// Whether an idempotent producer cannot go on after it (IDEM-17).
    pub fn is_fatal_for_producer(self) -> bool {
        matches!(
            self,
            E::ClusterAuthorizationFailed
                | E::TransactionalIdAuthorizationFailed
                | E::ProducerFenced
                | E::UnsupportedVersion
                | E::InvalidProducerIdMapping
        )
    }

    /// Whether the metadata must be refreshed as well (SEND-16).
    pub fn needs_metadata(self) -> bool {
        self.row().is_some_and(|row| row.4)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some(row) => f.write_str(row.2),
            None => write!(f, "error code {}", self.code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn send_20_codes_are_distinct_and_come_back() {
        for code in ErrorCode::all() {
            assert_eq!(ErrorCode::from_code(code.code()), code);
        }
        assert_eq!(ErrorCode::from_code(4321), ErrorCode::Other(4321));
        assert_eq!(ErrorCode::Other(4321).code(), 4321);
        assert!(!ErrorCode::Other(4321).is_retriable());
    }

    #[test]
    fn send_20_what_is_retriable_and_what_needs_metadata() {
        let retriable = |code: &ErrorCode| code.is_retriable();
        assert_eq!(
            ErrorCode::all().filter(retriable).map(ErrorCode::code).collect::<Vec<_>>(),
            [2, 3, 5, 6, 7, 13, 19, 20, 56, 74, 75, 100]
        );
        let metadata = ErrorCode::all().filter(|code| code.needs_metadata());
        assert_eq!(metadata.map(ErrorCode::code).collect::<Vec<_>>(), [3, 5, 6, 13, 56, 74, 100]);
    }
}
