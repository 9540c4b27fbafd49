//! The broker itself: topics, leaders, logs, and what is decided about a batch. No threads, no queues, no sleeping.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};

use super::bell::Bells;
use super::directory::{FoundTopic, OpenDirectory, is_topic_name};
use super::error::{EmbeddedError, StorageError};
use super::fault::{Failure, Fate, Faults, Plan};
use super::log::{Found, LogFile};
use super::producers::{Producers, Written};
use super::validate::{Limits, Refusal, Space, check};
use crate::batch::contain;
use crate::broker::{Cluster, ErrorCode, Leader, NodeId, PartitionResponse, ProduceRequest};
use crate::error::TopicPartition;
use crate::primitive::clock::SharedClock;
use crate::record::{RecordBatch, TimestampType, assign_offset, set_log_append_time};

/// Called with each accepted batch as the log has it: partition, base offset, bytes with the offset assigned.
///
/// It runs after the offset is assigned and before the producer is answered, on the thread that handles the request, with the partition
/// locked: batches of a partition come in order, and it may not call the broker. A panic in it is reported and harms nobody.
pub type Observer = Arc<dyn Fn(&TopicPartition, i64, &[u8]) + Send + Sync>;

/// What the broker has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them, headers included.
    pub bytes: u64,
}

/// Where one partition's batches go.
#[derive(Debug)]
pub(super) enum Log {
    Memory(Vec<Bytes>),
    Drop,
    File(LogFile),
}

#[derive(Debug)]
pub(super) struct PartitionState {
    leader: Option<NodeId>,
    epoch: i32,
    next_offset: i64,
    log: Log,
    producers: Producers,
    /// The batch as the log gets it, where the log does not keep it; its memory is used again.
    image: Vec<u8>,
    stats: Stats,
}

/// One partition.
#[derive(Debug)]
pub(super) struct Partition {
    topic_partition: TopicPartition,
    state: Mutex<PartitionState>,
}

impl Partition {
    /// A partition with nothing in it.
    fn empty(topic_partition: TopicPartition, leader: NodeId, log: Log) -> Arc<Self> {
        Self::new(topic_partition, leader, log, &mut Found::default())
    }

    /// A partition whose log holds what was `found`.
    fn new(topic_partition: TopicPartition, leader: NodeId, log: Log, found: &mut Found) -> Arc<Self> {
        let state = PartitionState {
            leader: Some(leader),
            epoch: found.epoch.unwrap_or(0).max(0),
            next_offset: found.next_offset,
            log,
            producers: std::mem::take(&mut found.producers),
            image: Vec::new(),
            stats: Stats::default(),
        };
        Arc::new(Self { topic_partition, state: Mutex::new(state) })
    }

    pub(super) fn topic_partition(&self) -> &TopicPartition {
        &self.topic_partition
    }

    /// Runs `read` with the log and the offset after its last.
    pub(super) fn with_log<R>(&self, read: impl FnOnce(&Log, i64) -> R) -> R {
        let state = self.state.lock();
        read(&state.log, state.next_offset)
    }

    pub(super) fn forget_producers(&self) {
        self.state.lock().producers.forget(None);
    }

    /// What was written before, if the batch comes again.
    fn judge(&self, batch: &RecordBatch<'_>, node: NodeId) -> Result<Option<Written>, Refusal> {
        let state = self.state.lock();
        if state.leader != Some(node) {
            return Err(not_leader(&self.topic_partition, node));
        }
        state.producers.judge(batch.header())
    }

    /// Takes a checked batch, or finds that it has it; its base offset and the broker's time.
    fn append(
        &self,
        batch: &RecordBatch<'_>,
        log_append_time: Option<i64>,
        node: NodeId,
        observer: Option<&Observer>,
    ) -> Result<(i64, Option<i64>), Refusal> {
        let state = &mut *self.state.lock();
        // Again, now under the lock that it is written under: the leader may have moved meanwhile, or the batch have come by another connection.
        if state.leader != Some(node) {
            return Err(not_leader(&self.topic_partition, node));
        }
        if let Some(before) = state.producers.judge(batch.header())? {
            return Ok((before.base_offset, before.log_append_time));
        }
        let base_offset = state.next_offset;
        let count = i64::from(batch.header().records_count);
        let next_offset = base_offset
            .checked_add(count)
            .ok_or_else(|| Refusal::new(ErrorCode::UnknownServerError, "the partition has no offsets left"))?;

        if observer.is_some() || !matches!(state.log, Log::Drop) {
            let image = &mut state.image;
            image.clear();
            image.extend_from_slice(batch.as_bytes());
            assign_offset(image, base_offset, state.epoch);
            if let Some(time) = log_append_time {
                set_log_append_time(image, time);
            }
        }
        match &mut state.log {
            Log::Drop => {}
            Log::Memory(batches) => batches.push(Bytes::copy_from_slice(&state.image)),
            Log::File(file) => file.append(&state.image).map_err(|error| {
                tracing::error!(partition = %self.topic_partition, %error, "a batch could not be written");
                Refusal::new(ErrorCode::KafkaStorageError, error.to_string())
            })?,
        }
        state.next_offset = next_offset;
        state.producers.written(batch.header(), base_offset, log_append_time);
        state.stats.batches += 1;
        state.stats.records += count.unsigned_abs();
        state.stats.bytes += batch.size() as u64;
        if let Some(observer) = observer {
            let observe = || observer(&self.topic_partition, base_offset, &state.image);
            // The batch stays written, whatever the observer does.
            contain("an observer of written batches", observe);
        }
        Ok((base_offset, log_append_time))
    }
}

fn not_leader(topic_partition: &TopicPartition, node: NodeId) -> Refusal {
    let message = format!("{node} does not lead {topic_partition}");
    Refusal::new(ErrorCode::NotLeaderOrFollower, message)
}

/// A topic. Immutable: a change replaces it in the registry.
#[derive(Debug, Clone)]
struct Topic {
    partitions: Vec<Arc<Partition>>,
    limits: Limits,
}

/// How new logs are made.
#[derive(Debug)]
pub(super) enum Store {
    Memory,
    Drop,
    Directory(OpenDirectory),
}

pub(super) struct Settings {
    pub(super) nodes: i32,
    pub(super) max_in_flight: usize,
    pub(super) max_message_bytes: usize,
    pub(super) max_uncompressed_bytes: usize,
    pub(super) reconnect_backoff: std::time::Duration,
    pub(super) observer: Option<Observer>,
    pub(super) clock: SharedClock,
    pub(super) seed: u64,
}

/// What became of a request.
#[derive(Debug)]
pub(super) struct Handled {
    pub(super) answer: Vec<PartitionResponse>,
    pub(super) plan: Plan,
}

/// The broker's state, shared by everybody who has a handle or a connection.
pub(super) struct Server {
    settings: Settings,
    topics: DashMap<Arc<str>, Arc<Topic>>,
    cluster: RwLock<Arc<Cluster>>,
    faults: Faults,
    bells: Bells,
    watchers: Bells,
    store: Store,
    /// What checking takes, while nobody checks: so many as ever checked at once.
    spaces: Mutex<Vec<Space>>,
    /// Held by whoever changes topics or leaders.
    admin: Mutex<()>,
    /// The producer id given out next. From the time of the opening, in units that a broker does not use up: a directory that is opened again gives no id a second time.
    producer_id: Mutex<i64>,
}

impl Server {
    pub(super) fn new(settings: Settings, store: Store, found: Vec<FoundTopic>) -> Arc<Self> {
        let bells = Bells::default();
        let server = Self {
            faults: Faults::new(settings.seed, settings.clock.clone(), bells.clone()),
            producer_id: Mutex::new(settings.clock.unix_millis() << 16),
            settings,
            topics: DashMap::new(),
            cluster: RwLock::default(),
            bells,
            watchers: Bells::default(),
            store,
            spaces: Mutex::default(),
            admin: Mutex::new(()),
        };
        for (name, logs) in found {
            let partitions = (0..).zip(logs).map(|(number, (file, mut found))| {
                let at = TopicPartition { topic: name.clone(), partition: number };
                Partition::new(at, server.first_leader(number), Log::File(file), &mut found)
            });
            let topic = Topic { partitions: partitions.collect(), limits: server.default_limits() };
            server.topics.insert(name, Arc::new(topic));
        }
        server.publish_cluster();
        Arc::new(server)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Whom to wake when something happens to connections.
    pub(super) fn bells(&self) -> &Bells {
        &self.bells
    }

    /// Whom to wake when topics or leaders change.
    pub(super) fn watchers(&self) -> &Bells {
        &self.watchers
    }

    pub(super) fn cluster(&self) -> Arc<Cluster> {
        self.cluster.read().clone()
    }

    pub(super) fn has_node(&self, node: NodeId) -> bool {
        (0..self.settings.nodes).contains(&node.0)
    }

    fn default_limits(&self) -> Limits {
        let Settings { max_message_bytes, max_uncompressed_bytes, .. } = self.settings;
        Limits { max_message_bytes, max_uncompressed_bytes, timestamp_type: TimestampType::CreateTime }
    }

    fn first_leader(&self, partition: i32) -> NodeId {
        NodeId(partition.rem_euclid(self.settings.nodes))
    }

    /// The partitions of a topic that exist.
    pub(super) fn partition_count(&self, name: &str) -> Option<i32> {
        self.topics.get(name).map(|topic| i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))
    }

    /// Creates a topic, or fails without a trace.
    pub(super) fn create_topic(&self, name: &str, partitions: i32) -> Result<(), EmbeddedError> {
        let _admin = self.admin.lock();
        if let Some(partitions) = self.partition_count(name) {
            return Err(EmbeddedError::TopicExists { name: name.into(), partitions });
        }
        self.grow(name, partitions)
    }

    /// Creates a topic or the partitions that it lacks.
    pub(super) fn ensure_topic(&self, name: &str, partitions: i32) -> Result<(), EmbeddedError> {
        let _admin = self.admin.lock();
        if self.partition_count(name).is_some_and(|there| there >= partitions) {
            Ok(())
        } else {
            self.grow(name, partitions)
        }
    }

    /// Gives a topic partitions up to `total`. With `admin` held.
    fn grow(&self, name: &str, total: i32) -> Result<(), EmbeddedError> {
        if !is_topic_name(name) {
            return Err(EmbeddedError::InvalidTopic { name: name.into() });
        }
        if total < 1 {
            let rule = "a topic has at least one";
            return Err(EmbeddedError::InvalidConfig { setting: "partitions", value: total.to_string(), rule });
        }
        let (name, topic) = match self.topics.get(name) {
            Some(entry) => (entry.key().clone(), Topic::clone(entry.value())),
            None => (Arc::from(name), Topic { partitions: Vec::new(), limits: self.default_limits() }),
        };
        let mut topic = topic;
        let first = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        for number in first..total {
            let log = self.new_log(&name, number).inspect_err(|_| {
                // A later open wants partitions without a gap, so the last ones go first.
                if let Store::Directory(directory) = &self.store {
                    (first..number).rev().for_each(|made| directory.discard(&name, made));
                }
            })?;
            let at = TopicPartition { topic: name.clone(), partition: number };
            topic.partitions.push(Partition::empty(at, self.first_leader(number), log));
        }
        self.topics.insert(name, Arc::new(topic));
        self.publish_cluster();
        Ok(())
    }

    fn new_log(&self, topic: &str, partition: i32) -> Result<Log, StorageError> {
        Ok(match &self.store {
            Store::Memory => Log::Memory(Vec::new()),
            Store::Drop => Log::Drop,
            Store::Directory(directory) => Log::File(directory.create(topic, partition)?),
        })
    }

    /// Changes what a topic allows.
    pub(super) fn set_limits(&self, name: &str, change: impl FnOnce(&mut Limits)) -> Result<(), EmbeddedError> {
        let _admin = self.admin.lock();
        let mut entry = self.topics.get_mut(name).ok_or_else(|| EmbeddedError::UnknownTopic { name: name.into() })?;
        let mut topic = Topic::clone(&entry);
        change(&mut topic.limits);
        *entry = Arc::new(topic);
        Ok(())
    }

    /// Moves a partition to another leader, or to none. Each move is a new leader epoch.
    pub(super) fn set_leader(&self, at: &TopicPartition, leader: Option<NodeId>) -> Result<(), EmbeddedError> {
        let _admin = self.admin.lock();
        if let Some(node) = leader.filter(|node| !self.has_node(*node)) {
            return Err(EmbeddedError::UnknownNode { node, last: self.settings.nodes - 1 });
        }
        let unknown = || EmbeddedError::UnknownPartition { topic_partition: at.clone() };
        let partition = self.partition(at).ok_or_else(unknown)?;
        let mut state = partition.state.lock();
        if state.leader != leader {
            state.leader = leader;
            state.epoch = state.epoch.saturating_add(1);
        }
        drop(state);
        self.publish_cluster();
        Ok(())
    }

    /// Moves a partition to the node with the next number, if it has a leader.
    fn move_leader(&self, at: &TopicPartition) {
        let Some(partition) = self.partition(at) else { return };
        let Some(NodeId(leader)) = partition.state.lock().leader else { return };
        let next = NodeId((leader + 1) % self.settings.nodes);
        // Node and partition are there: nothing to refuse.
        let _ = self.set_leader(at, Some(next));
    }

    /// Makes a new snapshot. Topics by name, so that equal histories give equal snapshots. With `admin` held, or before anybody else is there.
    fn publish_cluster(&self) {
        let mut topics: Vec<_> = self.topics.iter().map(|entry| (entry.key().clone(), entry.value().clone())).collect();
        topics.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let cluster = Cluster::new(topics.into_iter().map(|(name, topic)| {
            let leader = |partition: &Arc<Partition>| {
                let state = partition.state.lock();
                state.leader.map(|node| Leader { node, epoch: Some(state.epoch) })
            };
            (name, topic.partitions.iter().map(leader).collect())
        }));
        *self.cluster.write() = Arc::new(cluster);
        self.watchers.ring();
    }

    fn lookup(&self, at: &TopicPartition) -> Option<(Arc<Partition>, Limits)> {
        let topic = self.topics.get(&*at.topic)?;
        let partition = topic.partitions.get(usize::try_from(at.partition).ok()?)?;
        Some((partition.clone(), topic.limits))
    }

    /// A producer id that nobody has.
    pub(super) fn next_producer_id(&self) -> i64 {
        let mut next = self.producer_id.lock();
        *next += 1;
        *next
    }

    pub(super) fn partition(&self, at: &TopicPartition) -> Option<Arc<Partition>> {
        self.lookup(at).map(|(partition, _)| partition)
    }

    /// Decides about one batch as the node `node`, without faults.
    pub(super) fn produce(&self, node: NodeId, at: &TopicPartition, bytes: &[u8]) -> PartitionResponse {
        let answer = self.decide(node, at, bytes, |_| None);
        let unanswered = || PartitionResponse::refused(at.clone(), ErrorCode::UnknownServerError);
        answer.map_or_else(|refusal| refusal.answer(at.clone()), |answer| answer.unwrap_or_else(unanswered))
    }

    /// The answer for one batch, or `None` where a fault leaves it out.
    fn decide(
        &self,
        node: NodeId,
        at: &TopicPartition,
        bytes: &[u8],
        failure: impl FnOnce(bool) -> Option<Failure>,
    ) -> Result<Option<PartitionResponse>, Refusal> {
        let (partition, limits) = self.lookup(at).ok_or_else(|| {
            let message = format!("{node} has no partition {at}");
            Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
        })?;
        if partition.state.lock().leader != Some(node) {
            return Err(not_leader(at, node));
        }
        let mut space = self.spaces.lock().pop().unwrap_or_default();
        let batch = check(bytes, limits, &mut space);
        space.shrink();
        self.spaces.lock().push(space);
        let batch = batch?;
        let before = partition.judge(&batch, node)?;
        let failure = failure(before.is_some());
        let told = |failure: Failure| {
            let refusal = |code| Refusal::new(code, "the broker was told to answer so");
            failure.code.map(|code| refusal(code).answer(at.clone()))
        };
        if let Some(failure) = failure.filter(|failure| !failure.written) {
            return Ok(told(failure));
        }
        let log_append_time =
            (limits.timestamp_type == TimestampType::LogAppendTime).then(|| self.settings.clock.unix_millis());
        let observer = self.settings.observer.as_ref();
        let (base_offset, log_append_time) = partition.append(&batch, log_append_time, node, observer)?;
        match failure {
            Some(failure) => Ok(told(failure)),
            None => {
                let written = PartitionResponse::written(at.clone(), base_offset);
                Ok(Some(PartitionResponse { log_append_time, ..written }))
            }
        }
    }

    /// Decides about a whole request, with the faults that are due.
    pub(super) fn handle(&self, request: &ProduceRequest) -> Handled {
        let plan = self.faults.plan(request);
        if let Some(batch) = plan.moved.and_then(|at| request.batches.get(at)) {
            self.move_leader(batch.topic_partition());
        }
        let unwritten = matches!(
            plan.fate,
            Fate::Lost { written: false } | Fate::Disconnected { written: false } | Fate::UnsupportedVersion
        );
        if unwritten {
            return Handled { answer: Vec::new(), plan };
        }
        let mut seen = std::collections::HashSet::new();
        let several = request.batches.len() > 1;
        let answer = request
            .batches
            .iter()
            .filter_map(|batch| {
                let at = batch.topic_partition();
                let refuse = |message: String| Some(Refusal::new(ErrorCode::InvalidRecord, message).answer(at.clone()));
                if several && !seen.insert(at) {
                    return refuse(format!("the request has more than one batch for {at}"));
                }
                if !batch.is_closed() {
                    return refuse("the batch was not closed before it was sent".into());
                }
                let failure = |again| self.faults.failure(request.node, at, again);
                self.decide(request.node, at, batch.as_bytes(), failure)
                    .unwrap_or_else(|refusal| Some(refusal.answer(at.clone())))
            })
            .collect();
        Handled { answer, plan }
    }

    pub(super) fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for topic in &self.topics {
            for partition in &topic.partitions {
                let Stats { batches, records, bytes } = partition.state.lock().stats;
                sum.batches += batches;
                sum.records += records;
                sum.bytes += bytes;
            }
        }
        sum
    }

    /// Forces every log to the disk; the first error, after all were tried.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        let Store::Directory(directory) = &self.store else { return Ok(()) };
        let topics: Vec<_> = self.topics.iter().map(|entry| entry.value().clone()).collect();
        let mut result = Ok(());
        for partition in topics.iter().flat_map(|topic| &topic.partitions) {
            if let Log::File(file) = &mut partition.state.lock().log {
                result = result.and(file.sync());
            }
        }
        result.and(directory.sync())
    }
}

impl Drop for Server {
    /// The flush at the close. Its error can only be reported here: call `sync` to hear of it.
    fn drop(&mut self) {
        if let Err(error) = self.sync() {
            tracing::error!(%error, "what the embedded broker wrote may not be on the disk");
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("nodes", &self.settings.nodes)
            .field("topics", &self.topics.len())
            .field("store", &self.store)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
