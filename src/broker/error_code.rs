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
    KafkaStorageError,
    UnknownProducerId,
    FencedLeaderEpoch,
    UnknownLeaderEpoch,
    UnsupportedCompressionType,
    InvalidRecord,
    UnknownTopicId,
    Other(i16),
}

use ErrorCode as E;

/// Code, number, name, retriable, "also refresh the metadata" (SEND-16, SEND-20).
const TABLE: &[(ErrorCode, i16, &str, bool, bool)] = &[
    (E::None, 0, "NONE", false, false),
    (E::UnknownServerError, -1, "UNKNOWN_SERVER_ERROR", false, false),
    (E::CorruptMessage, 2, "CORRUPT_MESSAGE", true, false),
    (E::UnknownTopicOrPartition, 3, "UNKNOWN_TOPIC_OR_PARTITION", true, true),
    (E::LeaderNotAvailable, 5, "LEADER_NOT_AVAILABLE", true, true),
    (E::NotLeaderOrFollower, 6, "NOT_LEADER_OR_FOLLOWER", true, true),
    (E::RequestTimedOut, 7, "REQUEST_TIMED_OUT", true, false),
    (E::MessageTooLarge, 10, "MESSAGE_TOO_LARGE", false, false),
    (E::NetworkException, 13, "NETWORK_EXCEPTION", true, true),
    (E::InvalidTopicException, 17, "INVALID_TOPIC_EXCEPTION", false, false),
    (E::RecordListTooLarge, 18, "RECORD_LIST_TOO_LARGE", false, false),
    (E::NotEnoughReplicas, 19, "NOT_ENOUGH_REPLICAS", true, false),
    (E::NotEnoughReplicasAfterAppend, 20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", true, false),
    (E::InvalidRequiredAcks, 21, "INVALID_REQUIRED_ACKS", false, false),
    (E::TopicAuthorizationFailed, 29, "TOPIC_AUTHORIZATION_FAILED", false, false),
    (E::ClusterAuthorizationFailed, 31, "CLUSTER_AUTHORIZATION_FAILED", false, false),
    (E::InvalidTimestamp, 32, "INVALID_TIMESTAMP", false, false),
    (E::UnsupportedVersion, 35, "UNSUPPORTED_VERSION", false, false),
    (E::UnsupportedForMessageFormat, 43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", false, false),
    (E::PolicyViolation, 44, "POLICY_VIOLATION", false, false),
    (E::OutOfOrderSequenceNumber, 45, "OUT_OF_ORDER_SEQUENCE_NUMBER", false, false),
    (E::DuplicateSequenceNumber, 46, "DUPLICATE_SEQUENCE_NUMBER", false, false),
    (E::InvalidProducerEpoch, 47, "INVALID_PRODUCER_EPOCH", false, false),
    (E::KafkaStorageError, 56, "KAFKA_STORAGE_ERROR", true, true),
    (E::UnknownProducerId, 59, "UNKNOWN_PRODUCER_ID", false, false),
    (E::FencedLeaderEpoch, 74, "FENCED_LEADER_EPOCH", true, true),
    (E::UnknownLeaderEpoch, 75, "UNKNOWN_LEADER_EPOCH", true, false),
    (E::UnsupportedCompressionType, 76, "UNSUPPORTED_COMPRESSION_TYPE", false, false),
    (E::InvalidRecord, 87, "INVALID_RECORD", false, false),
    (E::UnknownTopicId, 100, "UNKNOWN_TOPIC_ID", true, true),
];

impl ErrorCode {
    /// Every code with a name here.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> Option<&'static (Self, i16, &'static str, bool, bool)> {
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
