//! The embedded broker: a broker inside this process, to be the producer's peer in tests, examples, simulations and benchmarks.
//!
//! It checks every batch as a real broker does, answers with Kafka's error codes, assigns offsets, and keeps, drops or
//! writes to files what it has accepted. It can be told to be slow, to fail, to lose answers, to break off and to fall silent, repeatably from a
//! seed. It speaks no protocol and opens no socket.
//!
//! | part | what it does |
//! |---|---|
//! | [`EmbeddedBroker`] | the handle: topics, leaders, reading back, faults, figures |
//! | [`EmbeddedClient`] | a sender's side, implements [`Broker`](crate::broker::Broker); one thread per client |
//! | [`Connection`] | the same without a thread, with time as an argument: for simulations |
//! | [`Faults`], [`Fault`] | what is to go wrong |
//! | [`Storage`], [`Directory`] | where batches go |
//! | [`Consumer`], [`Batches`], [`Records`] | reading back, everything checked again |
//! | [`RecoveryReport`], [`Cut`] | what opening a directory found, and cut |
//!
//! # Guarantees
//! - A batch that is answered without an error was checked whole, record by record, before, and its offsets are the next of its partition.
//! - Requests of one client to one node are handled in the order of their submission, and answered in it, but for answers that a fault delays or loses.
//! - Every submitted request comes back once: answered, timed out at its own timeout, or disconnected.
//! - A batch's memory is not held beyond its request's return: what is kept is a copy.
//! - What a directory promises after a kill or a full disk, see [`Fsync`], [`Corruption`] and [`RecoveryReport`].
//!
//! - Of an idempotent producer each partition remembers the last five batches: what comes again is answered with the offset that it has, and written once; what does not
//!   follow is refused. A directory that is opened again remembers them too.
//!
//! # What is not built
//! There are no transactions. There are no replicas, so every
//! `acks` but none means the same. Batches are stored as they come: a topic has no codec of its own. Logs have one segment and no
//! retention. After a timeout the connection stays, where Kafka's client would close it.
//!
//! # Example
//! ```
//! use unlatched::broker::embedded::{EmbeddedBroker, Storage};
//! use unlatched::broker::{Broker, ErrorCode, NodeId};
//! use unlatched::error::TopicPartition;
//!
//! let broker = EmbeddedBroker::builder().storage(Storage::Memory).open()?;
//! broker.create_topic("clicks", 2)?;
//!
//! let client = broker.connect()?;
//! assert_eq!(client.cluster().partitions("clicks"), Some(2));
//!
//! let partition = TopicPartition::new("clicks", 0);
//! let answer = broker.produce(NodeId(0), &partition, b"these bytes are no batch");
//! assert_eq!(answer.error, ErrorCode::InvalidRecord);
//! assert_eq!(broker.read(&partition, 0)?.count(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source of the behaviour: Kafka's `ReplicaManager.appendRecords`, `UnifiedLog`, `LogManager`, and for the connection `NetworkClient`.

mod bell;
mod client;
mod connection;
mod consumer;
mod directory;
mod error;
mod fault;
mod log;
mod producers;
mod server;
#[cfg(test)]
mod test_support;
mod validate;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use client::EmbeddedClient;
pub use connection::Connection;
pub use consumer::{Batches, ConsumedRecord, Consumer, Records};
pub use directory::{Directory, RecoveryReport};
pub use error::{BatchFault, EmbeddedError, ReadError, StorageError};
pub use fault::{Fault, Faults, Struck};
pub use log::{Corruption, Cut, Fsync};
#[cfg(feature = "testing")]
pub(crate) use producers::Producers;
pub use server::{Observer, Stats};

use crate::broker::{Cluster, NodeId, PartitionResponse};
use crate::error::TopicPartition;
use crate::primitive::clock::{SharedClock, SystemClock};
use crate::record::TimestampType;
use crate::record::codec::DEFAULT_LIMIT;
use directory::OpenDirectory;
use server::{Server, Settings, Store};

/// Kafka's default `max.message.bytes`: 1 MiB and the 12 bytes before a batch's length begins to count.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;

/// Where accepted batches go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Storage {
    /// Into memory, all of them, until the broker goes.
    #[default]
    Memory,
    /// Nowhere: verified, given an offset, shown to the observer, dropped.
    Drop,
    /// Into files.
    Directory(Directory),
}

impl Storage {
    /// Files in the log directory `path`, with [`Directory::new`]'s settings.
    pub fn directory(path: impl Into<std::path::PathBuf>) -> Self {
        Self::Directory(Directory::new(path))
    }
}

/// How an embedded broker is to be. Made by [`EmbeddedBroker::builder`].
#[must_use]
pub struct Builder {
    settings: Settings,
    storage: Storage,
}

impl Builder {
    /// Where accepted batches go. Default: [`Storage::Memory`].
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// How many nodes it plays, numbered from 0. A partition is led by the node of its number modulo `nodes`. Default: 1.
    pub fn nodes(mut self, nodes: i32) -> Self {
        self.settings.nodes = nodes;
        self
    }

    /// `max.in.flight.requests.per.connection`: unanswered requests that a client may have per node. Default: 5.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.settings.max_in_flight = requests;
        self
    }

    /// `max.message.bytes` of new topics: the largest batch accepted, header included. Default: [`DEFAULT_MAX_MESSAGE_BYTES`].
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes;
        self
    }

    /// Most bytes of a batch's records, uncompressed: a batch that has more is refused with `MESSAGE_TOO_LARGE`, and never decompressed further. What
    /// [`EmbeddedBroker::read`] takes, too. Kafka has no such limit. Default: [`DEFAULT_LIMIT`].
    pub fn max_uncompressed_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_uncompressed_bytes = bytes;
        self
    }

    /// `reconnect.backoff.ms`: how long a client's node is not ready after a lost connection. Default: 50 ms, as Kafka's.
    pub fn reconnect_backoff(mut self, backoff: Duration) -> Self {
        self.settings.reconnect_backoff = backoff;
        self
    }

    /// The seed of everything that the broker draws. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Where time comes from. A client's thread sleeps in real time, so a clock that does not run is for [`Connection`] only. Default: the machine's.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Who sees each accepted batch, see [`Observer`]. Default: nobody.
    pub fn observer(mut self, observer: impl Fn(&TopicPartition, i64, &[u8]) + Send + Sync + 'static) -> Self {
        self.settings.observer = Some(Arc::new(observer));
        self
    }

    /// Opens the broker. Topics found in a directory are there at once.
    ///
    /// # Errors
    /// [`EmbeddedError::InvalidConfig`]; [`EmbeddedError::Storage`] if the directory cannot be opened, written or locked, or holds what
    /// this broker may not continue.
    pub fn open(self) -> Result<EmbeddedBroker, EmbeddedError> {
        let Self { settings, storage } = self;
        let at_least_one = |setting, value: &dyn fmt::Display| EmbeddedError::InvalidConfig {
            setting,
            value: value.to_string(),
            rule: "at least 1 is needed",
        };
        if settings.nodes < 1 {
            return Err(at_least_one("nodes", &settings.nodes));
        }
        if settings.max_in_flight < 1 {
            return Err(at_least_one("max.in.flight.requests.per.connection", &settings.max_in_flight));
        }
        let (store, found, recovery) = match storage {
            Storage::Memory => (Store::Memory, Vec::new(), None),
            Storage::Drop => (Store::Drop, Vec::new(), None),
            Storage::Directory(directory) => {
                let (directory, found, report) = OpenDirectory::open(directory)?;
                (Store::Directory(directory), found, Some(Arc::new(report)))
            }
        };
        Ok(EmbeddedBroker { server: Server::new(settings, store, found), recovery })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("storage", &self.storage)
            .field("nodes", &self.settings.nodes)
            .field("max_in_flight", &self.settings.max_in_flight)
            .field("max_message_bytes", &self.settings.max_message_bytes)
            .field("seed", &self.settings.seed)
            .finish_non_exhaustive()
    }
}

/// A handle to an embedded broker. Cheap to clone; the broker lives as long as a handle, a client or a connection does.
///
/// When the last of them goes, its logs are flushed to the disk and its directory is unlocked.
#[derive(Debug, Clone)]
pub struct EmbeddedBroker {
    server: Arc<Server>,
    recovery: Option<Arc<RecoveryReport>>,
}

impl EmbeddedBroker {
    /// A broker with Kafka's defaults, one node, in memory.
    pub fn builder() -> Builder {
        let settings = Settings {
            nodes: 1,
            max_in_flight: 5,
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            max_uncompressed_bytes: DEFAULT_LIMIT,
            reconnect_backoff: Duration::from_millis(50),
            observer: None,
            clock: SystemClock::shared(),
            seed: 0,
        };
        Builder { settings, storage: Storage::default() }
    }

    /// A new client, with a thread of its own.
    ///
    /// # Errors
    /// [`EmbeddedError::Thread`] if the operating system has none to give.
    pub fn connect(&self) -> Result<EmbeddedClient, EmbeddedError> {
        EmbeddedClient::start(self.server.clone()).map_err(EmbeddedError::Thread)
    }

    /// A new client to be driven by hand.
    pub fn connection(&self) -> Connection {
        Connection::new(self.server.clone())
    }

    /// Creates a topic with `partitions` partitions.
    ///
    /// # Errors
    /// [`EmbeddedError::InvalidTopic`], [`EmbeddedError::TopicExists`], [`EmbeddedError::InvalidConfig`] for fewer than one partition,
    /// [`EmbeddedError::Storage`]. Nothing is left of it then.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), EmbeddedError> {
        self.server.create_topic(name, partitions)
    }

    /// Sees to it that a topic is there and has `partitions` partitions or more, say after opening a directory again.
    ///
    /// # Errors
    /// As [`EmbeddedBroker::create_topic`], but for the topic's being there.
    pub fn ensure_topic(&self, name: &str, partitions: i32) -> Result<(), EmbeddedError> {
        self.server.ensure_topic(name, partitions)
    }

    /// Partitions of a topic, if there is one of that name.
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        self.server.partition_count(topic)
    }

    /// `message.timestamp.type` of a topic: with [`TimestampType::LogAppendTime`] batches get the broker's time. Not kept in a directory.
    ///
    /// # Errors
    /// [`EmbeddedError::UnknownTopic`].
    pub fn set_timestamp_type(&self, topic: &str, timestamp_type: TimestampType) -> Result<(), EmbeddedError> {
        self.server.set_limits(topic, |limits| limits.timestamp_type = timestamp_type)
    }

    /// `max.message.bytes` of a topic. Not kept in a directory.
    ///
    /// # Errors
    /// [`EmbeddedError::UnknownTopic`].
    pub fn set_max_message_bytes(&self, topic: &str, bytes: usize) -> Result<(), EmbeddedError> {
        self.server.set_limits(topic, |limits| limits.max_message_bytes = bytes)
    }

    /// Moves a partition to another leader, or leaves it without one. Clients see it when they ask for an update; until then the old node answers
    /// `NOT_LEADER_OR_FOLLOWER`. A change begins a new leader epoch.
    ///
    /// # Errors
    /// [`EmbeddedError::UnknownPartition`], [`EmbeddedError::UnknownNode`].
    pub fn set_leader(&self, topic_partition: &TopicPartition, leader: Option<NodeId>) -> Result<(), EmbeddedError> {
        self.server.set_leader(topic_partition, leader)
    }

    /// Topics, partitions and leaders as they are now.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.server.cluster()
    }

    /// What is to go wrong.
    pub fn faults(&self) -> &Faults {
        self.server.faults()
    }

    /// What is decided about one batch, at once and without faults: the core of the broker, for those who need no requests. `batch` is a
    /// whole batch as it goes over the wire.
    pub fn produce(&self, node: NodeId, topic_partition: &TopicPartition, batch: &[u8]) -> PartitionResponse {
        self.server.produce(node, topic_partition, batch)
    }

    /// Makes a partition forget what it knows of idempotent producers, as retention does once it has removed all that they wrote: a batch that comes
    /// again is not recognised.
    ///
    /// # Errors
    /// [`EmbeddedError::UnknownPartition`].
    pub fn forget_producers(&self, topic_partition: &TopicPartition) -> Result<(), EmbeddedError> {
        let unknown = || EmbeddedError::UnknownPartition { topic_partition: topic_partition.clone() };
        self.server.partition(topic_partition).ok_or_else(unknown)?.forget_producers();
        Ok(())
    }

    /// The offset that the next record of a partition will get.
    pub fn end_offset(&self, topic_partition: &TopicPartition) -> Option<i64> {
        self.server.partition(topic_partition).map(|partition| partition.with_log(|_, end| end))
    }

    /// The batches of a partition, beginning with the one that has the offset `from`, to the log's end as it is now. [`Batches::records`] makes
    /// records of them.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, topic_partition: &TopicPartition, from: i64) -> Result<Batches, ReadError> {
        let unknown = || ReadError::UnknownPartition { topic_partition: topic_partition.clone() };
        let limit = self.server.settings().max_uncompressed_bytes;
        let batches = Batches::of_partition(self.server.partition(topic_partition).ok_or_else(unknown)?, from)?;
        Ok(batches.max_uncompressed_bytes(limit))
    }

    /// What this broker has accepted since it was opened.
    pub fn stats(&self) -> Stats {
        self.server.stats()
    }

    /// What opening the directory found and cut. `None` without a directory.
    pub fn recovery(&self) -> Option<&RecoveryReport> {
        self.recovery.as_deref()
    }

    /// Forces every log to the disk. Without a directory there is nothing to do.
    ///
    /// # Errors
    /// The first one; every log was tried.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.server.sync()
    }
}
