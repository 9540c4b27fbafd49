//! What an accepted record, or one that was refused, can end with.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::ErrorCode;
use crate::pool::PoolError;

/// Why an accepted record was not acknowledged. Cheap to clone: every record of a batch gets one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The delivery timeout passed (SEND-08). Whether the record was written is not known if it was ever sent.
    #[error(
        "{records} record(s) for {topic_partition} expired: {age:?} passed since batch creation, delivery.timeout.ms is {timeout:?}"
    )]
    DeliveryTimeout {
        /// Where the batch was to go.
        topic_partition: TopicPartition,
        /// Records in the batch.
        records: u32,
        /// Age of the batch.
        age: Duration,
        /// The limit.
        timeout: Duration,
    },
    /// The broker refused the batch, or the retries of a retriable error are used up.
    #[error("{topic_partition}: {code}{}", message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
    Broker {
        /// Where the batch was to go.
        topic_partition: TopicPartition,
        /// The broker's answer.
        code: ErrorCode,
        /// The broker's own words.
        message: Option<Arc<str>>,
    },
    /// The broker refused this record (SEND-22).
    #[error("invalid record{}", message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
    InvalidRecord {
        /// The broker's own words.
        message: Option<Arc<str>>,
    },
    /// The producer was closed without waiting for the record, or its sender died.
    #[error("the record was aborted: {reason}")]
    Aborted {
        /// What happened.
        reason: &'static str,
    },
    /// An idempotent producer cannot go on, or may not have a producer id (IDEM-17, SEND-02).
    #[error("the idempotent producer cannot send: {code}")]
    ProducerFailed {
        /// What the broker said.
        code: ErrorCode,
    },
    /// A callback waited for a future that is not done: that would stop the thread which is to complete it (GAP-20).
    #[error(
        "a callback may not wait for a record: it runs on the thread that completes records; use another callback, or wait elsewhere"
    )]
    WaitInCallback,
}

/// Why a record was not accepted. No trace of it is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// No memory.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The producer is closed.
    #[error("the producer is closed")]
    Closed,
    /// The record breaks a rule of the format.
    #[error(transparent)]
    Invalid(#[from] crate::record::RecordError),
}

/// Why a flush did not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// Called inside a callback, which runs on the thread that has to complete what flush waits for (GAP-20).
    #[error("flush may not be called from a callback: it would wait for the thread it runs on")]
    InCallback,
    /// Some records had not completed when the time was up. They go on.
    #[error("flush did not end within {0:?}")]
    TimedOut(Duration),
}

/// A call that the state of the object does not allow: a bug in the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("illegal state: {0}")]
pub struct IllegalState(pub &'static str);

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// The partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}
