//! What can go wrong outside of a produce request, which is answered with an [`ErrorCode`](crate::broker::ErrorCode) instead.

use std::io;
use std::path::{Path, PathBuf};

use crate::broker::NodeId;
use crate::error::TopicPartition;
use crate::record::DecodeError;

/// Why the embedded broker could not be opened, or refused to be told something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// A number in the configuration makes no sense.
    #[error("embedded broker: {setting} is {value}: {rule}")]
    InvalidConfig {
        /// Which.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        rule: &'static str,
    },
    /// Kafka's rule for topic names is broken.
    #[error(
        "invalid topic name {name:?}: use 1 to 249 of the characters a-z A-Z 0-9 . _ - and neither \".\" nor \"..\""
    )]
    InvalidTopic {
        /// The name.
        name: Box<str>,
    },
    /// A topic of that name exists. Kafka's `TOPIC_ALREADY_EXISTS`.
    #[error("topic {name} exists already, with {partitions} partition(s): choose another name, or ensure_topic")]
    TopicExists {
        /// The name.
        name: Box<str>,
        /// Partitions that it has.
        partitions: i32,
    },
    /// There is no such topic.
    #[error("there is no topic {name}: create it first")]
    UnknownTopic {
        /// The name.
        name: Box<str>,
    },
    /// There is no such partition.
    #[error("there is no partition {topic_partition}")]
    UnknownPartition {
        /// The partition.
        topic_partition: TopicPartition,
    },
    /// There is no such node.
    #[error("there is no {node}: this broker has nodes 0 to {last}")]
    UnknownNode {
        /// The node.
        node: NodeId,
        /// The last one that there is.
        last: i32,
    },
    /// The log directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The operating system has no thread for a client.
    #[error("no thread for the embedded broker's client: {0}")]
    Thread(#[source] io::Error),
}

/// What a log directory does not allow.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// Another broker has the directory open.
    #[error("log directory {} is in use by another broker: close that one, or choose another directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A log of several segments, which this broker does not write and so does not continue.
    #[error("{} is a log segment that the embedded broker did not write: give it a directory of its own", path.display())]
    OtherSegment {
        /// The segment's file.
        path: PathBuf,
    },
    /// Partitions of a topic are not numbered without a gap.
    #[error("log directory {} has no partition {topic_partition}, but a later one: put it back, or remove the later ones", path.display())]
    MissingPartition {
        /// The log directory.
        path: PathBuf,
        /// The first partition missing.
        topic_partition: TopicPartition,
    },
    /// A damaged batch with whole ones behind it, and [`Corruption::Refuse`](super::Corruption::Refuse).
    #[error(
        "{}: {cause} at byte {position}, where offset {offset} should begin, and a whole batch at offset {next} behind it: restore \
         the file, or open it with Corruption::Truncate, which cuts everything from there on",
        path.display()
    )]
    Corrupt {
        /// The log's file.
        path: PathBuf,
        /// Where the damaged batch begins, in bytes.
        position: u64,
        /// The offset that should be there.
        offset: i64,
        /// Offset of the first whole batch found behind it.
        next: i64,
        /// What is wrong.
        cause: BatchFault,
    },
    /// An earlier write error could not be undone, so nothing more is written to this log.
    #[error("{} is offline after an earlier error: open the broker again, which cuts what is half written", path.display())]
    Offline {
        /// The log's file.
        path: PathBuf,
    },
}

impl StorageError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Why the bytes of a log are not the batch that should be there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchFault {
    /// The log ends inside a batch.
    #[error("torn batch: {needed} bytes are needed, {available} are there")]
    Torn {
        /// Bytes that the batch needs, as far as is known.
        needed: u64,
        /// Bytes there.
        available: u64,
    },
    /// Not a batch, or a damaged one.
    #[error(transparent)]
    Corrupt(#[from] DecodeError),
    /// Offsets do not follow each other.
    #[error("offset {found} where {expected} should be")]
    Gap {
        /// The offset that should be there.
        expected: i64,
        /// The offset that is there.
        found: i64,
    },
    /// The operating system could not read.
    #[error("read error: {0}")]
    Io(#[from] io::Error),
}

/// Why a log could not be read back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There is no such partition.
    #[error("there is no partition {topic_partition} to read")]
    UnknownPartition {
        /// The partition.
        topic_partition: TopicPartition,
    },
    /// The broker verifies and drops ([`Storage::Drop`](super::Storage::Drop)): there is nothing to read.
    #[error(
        "{topic_partition} cannot be read: the broker drops what it has verified; open it with Storage::Memory or a directory"
    )]
    NotKept {
        /// The partition.
        topic_partition: TopicPartition,
    },
    /// The offset to start from is not in the log. Kafka's `OFFSET_OUT_OF_RANGE`.
    #[error("{topic_partition} cannot be read from offset {from}: it has offsets 0 to {end}, the last excluded")]
    OffsetOutOfRange {
        /// The partition.
        topic_partition: TopicPartition,
        /// The offset asked for.
        from: i64,
        /// One more than the last offset.
        end: i64,
    },
    /// The log is not what was written.
    #[error("{topic_partition}: at byte {position} of the log, where offset {offset} should begin: {cause}")]
    Damaged {
        /// The partition.
        topic_partition: TopicPartition,
        /// Where the fault begins, in bytes from the log's start.
        position: u64,
        /// The offset that should be there.
        offset: i64,
        /// What is wrong.
        cause: BatchFault,
    },
    /// The directory or a file cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
