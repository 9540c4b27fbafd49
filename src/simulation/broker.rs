//! The cluster of a simulation: several nodes, their logs, and a transport to them, on virtual time.
//!
//! All that happens is an event with a time. Events are handled when the sender looks - in [`Broker::poll`], or before any other answer - in the order of their times, so whatever
//! the sender can see is as if each had been handled at its time.
//!
//! # What is true of it
//! - Requests to a node arrive in the order of their submission, and its answers come back so, unless one is late by a fault.
//! - When a connection breaks, what has not arrived is done up to somewhere and not behind that: nobody knows. A request that times out breaks its connection, as Kafka's client does it.
//! - A partition's log is its replicas': a leader that takes over has it all, with what it knows of producers.
//! - A node answers for what it leads. Codes that speak of sequences come from [`Producers`] alone, so they are true; of a partition that has forgotten the producers any sequence but 0 is
//!   UNKNOWN_PRODUCER_ID, as brokers before 2.5 have it. It forgets only while nothing is in doubt: what was written and not yet answered is not deleted by retention.
//! - Other codes come by the plan, and what they say of the batch ([`ErrorCode::fate`]) is true.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use super::plan::{Effect, Item, Setup};
use super::tally::Tally;
use crate::batch::{FinalState, SealedBatch};
use crate::broker::embedded::Producers;
use crate::broker::{
    Acks, Broker, Cluster, ErrorCode, Leader, NodeId, Outcome, PartitionResponse, ProduceRequest, ProduceResponse,
    ProducerIdAndEpoch, Response,
};
use crate::error::TopicPartition;
use crate::primitive::clock::{Instant, SharedClock};
use crate::primitive::lock::{Mutex, StdMutex};
use crate::primitive::parker::Parker;
use crate::primitive::random::Random;
use crate::primitive::sim::SimParker;
use crate::record::{ProducerState, RecordBatch};

/// The topic of every simulation.
const TOPIC: &str = "t";

/// A batch in a log.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) base_offset: i64,
    pub(super) producer: ProducerState,
    /// Timestamp and value of each record.
    pub(super) records: Vec<(i64, Vec<u8>)>,
}

#[derive(Debug)]
struct Partition {
    /// Who leads, and since which epoch.
    leader: Option<NodeId>,
    epoch: i32,
    log: Vec<Stored>,
    end: i64,
    producers: Producers,
    /// What was written, by id, epoch and sequence, and not acknowledged to the client yet.
    unheard: BTreeSet<(i64, i16, i32)>,
    forgot: bool,
}

#[derive(Debug, Default)]
struct Node {
    /// How often its connection was broken: what is under way belongs to one of them.
    breaks: u64,
    /// When it is connected to, if somebody tries; `None` before that.
    connected: Option<Instant>,
    /// Until when nobody can connect.
    down: Instant,
    throttled: Instant,
    last_arrival: Instant,
    last_answer: Instant,
}

/// A request between its submission and its end.
#[derive(Debug)]
struct Flying {
    request: ProduceRequest,
    arrived: bool,
    answer: Option<(Outcome, Duration)>,
}

#[derive(Debug)]
enum Event {
    Arrive(u64),
    Answer(u64),
    TimeOut(u64),
    /// Bytes that nobody waits for: without acks, or given up by the client. On this connection, if that must stand.
    Bytes {
        node: NodeId,
        breaks: Option<u64>,
        partition: usize,
        bytes: Vec<u8>,
    },
    Move {
        partition: usize,
        to: Option<NodeId>,
    },
    Restart {
        node: NodeId,
        downtime: Duration,
    },
    Forget {
        partition: usize,
    },
    Metadata,
    Id(Result<(), ErrorCode>),
}

/// What a cluster is at an instant.
pub(super) struct World {
    setup: Setup,
    seed: u64,
    effects: HashMap<u64, Effect>,
    ids: HashMap<u64, ErrorCode>,
    partitions: Vec<Partition>,
    nodes: Vec<Node>,
    topic_partitions: Vec<TopicPartition>,
    metadata: Arc<Cluster>,
    /// Whether fresh metadata are under way.
    updating: bool,
    events: BTreeMap<(Instant, u64), Event>,
    next_event: u64,
    flying: BTreeMap<u64, Flying>,
    responses: Vec<Response>,
    /// Something has changed that ends a poll.
    news: bool,
    ids_asked: u64,
    /// When something has gone wrong the last time; what that does may last longer only by what is stated in `ledger`.
    pub(super) trouble: Instant,
    pub(super) tally: Tally,
    /// What is wrong with what came.
    pub(super) wrong: Vec<String>,
}

/// The bell that ends a poll.
#[derive(Debug)]
struct Bell(SimParker);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The transport.
pub(super) struct SimBroker {
    world: Arc<StdMutex<World>>,
    bell: Arc<Bell>,
    clock: SharedClock,
}

impl World {
    pub(super) fn new(seed: u64, setup: &Setup, items: impl Iterator<Item = Item>) -> Self {
        let leader = |partition: i32| NodeId(partition % setup.nodes);
        let mut world = Self {
            setup: setup.clone(),
            seed,
            effects: HashMap::new(),
            ids: HashMap::new(),
            partitions: (0..setup.partitions)
                .map(|partition| Partition {
                    leader: Some(leader(partition)),
                    epoch: 0,
                    log: Vec::new(),
                    end: 0,
                    producers: Producers::default(),
                    unheard: BTreeSet::new(),
                    forgot: false,
                })
                .collect(),
            nodes: (0..setup.nodes).map(|_| Node::default()).collect(),
            topic_partitions: (0..setup.partitions).map(|partition| TopicPartition::new(TOPIC, partition)).collect(),
            metadata: Arc::default(),
            updating: false,
            events: BTreeMap::new(),
            next_event: 0,
            flying: BTreeMap::new(),
            responses: Vec::new(),
            news: false,
            ids_asked: 0,
            trouble: Instant::ZERO,
            tally: Tally::default(),
            wrong: Vec::new(),
        };
        world.metadata = world.true_metadata();
        for item in items {
            let at = |at: Duration| Instant::ZERO.saturating_add(at);
            match item {
                Item::Move { at: when, partition, to, without } => {
                    let partition = partition as usize;
                    if !without.is_zero() {
                        world.schedule(at(when), Event::Move { partition, to: None });
                    }
                    world.schedule(at(when + without), Event::Move { partition, to: Some(NodeId(to)) });
                }
                Item::Restart { at: when, node, downtime } => {
                    world.schedule(at(when), Event::Restart { node: NodeId(node), downtime });
                }
                Item::Forget { at: when, partition } => {
                    world.schedule(at(when), Event::Forget { partition: partition as usize });
                }
                Item::Request { number, effect } => drop(world.effects.insert(number, effect)),
                Item::Id { number, code } => drop(world.ids.insert(number, code)),
                Item::Append { .. } | Item::Flush { .. } | Item::Close { .. } => {}
            }
        }
        world
    }

    /// The partitions' names.
    pub(super) fn topic_partition(&self, partition: i32) -> TopicPartition {
        self.topic_partitions[partition as usize].clone()
    }

    /// The log of each partition.
    pub(super) fn logs(&self) -> impl Iterator<Item = &[Stored]> {
        self.partitions.iter().map(|partition| partition.log.as_slice())
    }

    fn true_metadata(&self) -> Arc<Cluster> {
        let leaders = self.partitions.iter().map(|of| of.leader.map(|node| Leader { node, epoch: Some(of.epoch) }));
        Arc::new(Cluster::new([(TOPIC.into(), leaders.collect())]))
    }

    /// Numbers for one purpose, the same whatever else is drawn.
    fn random(&self, what: u64, number: u64) -> Random {
        let mixed = (self.seed ^ what.rotate_left(40)).wrapping_add(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Random::seeded(mixed ^ (mixed >> 29))
    }

    fn latency(&self, what: u64, number: u64) -> Duration {
        Duration::from_micros(1 + self.random(what, number).below(2 * self.setup.latency))
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.events.insert((at, self.next_event), event);
        self.next_event += 1;
    }

    /// Something goes wrong, until then.
    fn trouble(&mut self, until: Instant) {
        self.trouble = self.trouble.max(until);
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.0 as usize]
    }

    /// Handles what has happened until `now`.
    fn advance(&mut self, now: Instant) {
        while let Some(first) = self.events.first_entry().filter(|event| event.key().0 <= now) {
            let ((at, _), event) = first.remove_entry();
            self.happen(at, event);
        }
    }

    fn happen(&mut self, at: Instant, event: Event) {
        match event {
            Event::Arrive(id) => self.arrive(id, at),
            Event::Answer(id) => {
                let Some(Flying { request, answer: Some((outcome, throttle)), .. }) = self.flying.remove(&id) else {
                    return;
                };
                if !throttle.is_zero() {
                    let until = at.saturating_add(throttle);
                    self.trouble(until);
                    let node = self.node(request.node);
                    node.throttled = node.throttled.max(until);
                }
                if let Outcome::Answered(answers) = &outcome {
                    for answer in answers {
                        self.tally.code(answer.error);
                        let heard = matches!(answer.error, ErrorCode::None | ErrorCode::DuplicateSequenceNumber);
                        let batch = |batch: &&SealedBatch| *batch.topic_partition() == answer.topic_partition;
                        if let Some(batch) = request.batches.iter().find(batch).filter(|_| heard) {
                            let state = batch.producer_state();
                            let unheard = &mut self.partitions[answer.topic_partition.partition as usize].unheard;
                            unheard.remove(&(state.id, state.epoch, state.base_sequence));
                        }
                    }
                    self.tally.answers += answers.len() as u64;
                } else if outcome == Outcome::UnsupportedVersion {
                    self.tally.code(ErrorCode::UnsupportedVersion);
                }
                let response = ProduceResponse { throttle, ..ProduceResponse::new(request, outcome) };
                self.responses.push(response.into());
            }
            Event::TimeOut(id) => {
                let Some(flying) = self.flying.remove(&id) else { return };
                self.tally.fault("request-timeout");
                let node = flying.request.node;
                if !flying.arrived {
                    self.ghost(&flying.request, at);
                }
                self.responses.push(ProduceResponse::new(flying.request, Outcome::TimedOut).into());
                self.break_connection(node, at, true);
            }
            Event::Bytes { node, breaks, partition, bytes } => {
                if breaks.is_none_or(|breaks| breaks == self.node(node).breaks) {
                    if breaks.is_none() {
                        self.tally.fault("applied-late");
                    }
                    self.apply(node, partition, &bytes);
                }
            }
            Event::Move { partition, to } => {
                self.trouble(at);
                let of = &mut self.partitions[partition];
                if of.leader != to {
                    (of.leader, of.epoch) = (to, of.epoch + 1);
                    self.tally.fault(if to.is_none() { "no-leader" } else { "leader-move" });
                }
            }
            Event::Restart { node, downtime } => {
                self.tally.fault("restart");
                let until = at.saturating_add(downtime);
                self.trouble(until);
                self.node(node).down = until;
                self.break_connection(node, at, true);
            }
            Event::Forget { partition } => {
                if self.setup.idempotent && self.partitions[partition].unheard.is_empty() {
                    let of = &mut self.partitions[partition];
                    of.producers.forget(None);
                    of.forgot = true;
                    self.tally.fault("producer-forgotten");
                }
            }
            Event::Metadata => {
                self.updating = false;
                self.metadata = self.true_metadata();
                self.news = true;
            }
            Event::Id(answer) => {
                if let Err(code) = answer {
                    self.trouble(at);
                    self.tally.fault("no-producer-id");
                    self.tally.code(code);
                }
                let id = ProducerIdAndEpoch::new(1_000 + self.ids_asked as i64);
                self.responses.push(Response::InitProducerId(answer.map(|()| id)));
            }
        }
    }

    /// Breaks the connection to a node. What has not arrived there was done up to somewhere, if `some`.
    fn break_connection(&mut self, node: NodeId, at: Instant, some: bool) {
        self.trouble(at);
        self.node(node).breaks += 1;
        let breaks = self.node(node).breaks;
        let ids: Vec<u64> =
            self.flying.iter().filter(|(_, flying)| flying.request.node == node).map(|(id, _)| *id).collect();
        let unread: Vec<u64> = ids.iter().copied().filter(|id| !self.flying[id].arrived).collect();
        let read =
            if some { self.random(1, breaks << 8 | node.0 as u64).below(unread.len() as u64 + 1) as usize } else { 0 };
        for (nth, id) in unread.into_iter().enumerate() {
            if nth < read && !matches!(self.effects.get(&id), Some(Effect::LoseRequest)) {
                let flying = self.flying.remove(&id).expect("it is under way");
                for batch in &flying.request.batches {
                    let partition = batch.topic_partition().partition as usize;
                    self.apply(node, partition, batch.as_bytes());
                }
                self.flying.insert(id, flying);
            } else {
                let request = self.flying.remove(&id).expect("it is under way");
                self.ghost(&request.request, at);
                self.flying.insert(id, request);
            }
        }
        for id in ids {
            let Flying { request, .. } = self.flying.remove(&id).expect("it is under way");
            self.responses.push(ProduceResponse::new(request, Outcome::Disconnected).into());
        }
        let backoff = self.latency(2, breaks << 8 | node.0 as u64);
        let state = self.node(node);
        state.connected = Some(state.down.max(at).saturating_add(backoff));
        (state.last_arrival, state.last_answer) = (at, at);
    }

    /// What a client has given up may be done all the same, some time later.
    fn ghost(&mut self, request: &ProduceRequest, at: Instant) {
        let mut random = self.random(3, request.id);
        if !self.setup.ghosts || random.below(2) == 0 {
            return;
        }
        let later = at.saturating_add(Duration::from_micros(random.below(100_000)));
        for batch in &request.batches {
            let partition = batch.topic_partition().partition as usize;
            let (node, bytes) = (request.node, batch.as_bytes().to_vec());
            self.schedule(later, Event::Bytes { node, breaks: None, partition, bytes });
        }
    }

    /// A request arrives at its node.
    fn arrive(&mut self, id: u64, at: Instant) {
        let Some(mut flying) = self.flying.remove(&id) else { return };
        let node = flying.request.node;
        let effect = self.effects.get(&id).copied();
        if let Some(effect) = effect {
            self.trouble(at);
            self.tally.fault(effect.kind());
        }
        let mut throttle = Duration::ZERO;
        let struck = self.random(4, id).below(flying.request.batches.len().max(1) as u64) as usize;
        let outcome = match effect {
            Some(Effect::LoseRequest) => {
                flying.arrived = true;
                self.flying.insert(id, flying);
                return;
            }
            Some(Effect::DisconnectBefore) => {
                self.flying.insert(id, flying);
                return self.break_connection(node, at, false);
            }
            Some(Effect::UnsupportedVersion) => Outcome::UnsupportedVersion,
            _ => {
                let mut answers = Vec::new();
                for (nth, batch) in flying.request.batches.iter().enumerate() {
                    let partition = batch.topic_partition().partition as usize;
                    let effect = effect.filter(|_| nth == struck);
                    let written = match effect {
                        Some(Effect::Error { written, .. } | Effect::Unmentioned { written }) => written,
                        Some(Effect::InvalidRecords) => false,
                        _ => true,
                    };
                    let leads = self.partitions[partition].leader == Some(node);
                    let answer = if written || !leads {
                        self.apply(node, partition, batch.as_bytes())
                    } else {
                        PartitionResponse::refused(batch.topic_partition().clone(), ErrorCode::None)
                    };
                    let failed = written && answer.error != ErrorCode::None || !leads;
                    match effect {
                        Some(Effect::Unmentioned { .. }) => continue,
                        Some(Effect::Error { code, .. }) if !failed => {
                            answers.push(PartitionResponse::refused(answer.topic_partition, code));
                        }
                        Some(Effect::InvalidRecords) if !failed => {
                            let mut refused =
                                PartitionResponse::refused(answer.topic_partition, ErrorCode::InvalidRecord);
                            let last = batch.record_count().saturating_sub(1);
                            refused.record_errors.push((last, Some("this one".into())));
                            answers.push(refused);
                        }
                        _ => answers.push(answer),
                    }
                }
                Outcome::Answered(answers)
            }
        };
        flying.arrived = true;
        match effect {
            Some(Effect::DisconnectAfter) => {
                self.flying.insert(id, flying);
                return self.break_connection(node, at, true);
            }
            Some(Effect::Throttle(by)) => throttle = by,
            _ => {}
        }
        flying.answer = Some((outcome, throttle));
        self.flying.insert(id, flying);
        if effect == Some(Effect::LoseResponse) {
            return;
        }
        let mut back = at.saturating_add(self.latency(5, id));
        let state = self.node(node);
        if let Some(Effect::Late(by)) = effect {
            back = back.saturating_add(by);
            self.trouble(back);
        } else {
            back = back.max(state.last_answer);
            state.last_answer = back;
        }
        self.schedule(back, Event::Answer(id));
    }

    /// What a node says to a batch, and does with it.
    fn apply(&mut self, node: NodeId, at: usize, bytes: &[u8]) -> PartitionResponse {
        let topic_partition = self.topic_partitions[at].clone();
        let partition = &mut self.partitions[at];
        let refused = |code| PartitionResponse::refused(topic_partition.clone(), code);
        if partition.leader != Some(node) {
            let hint = partition.leader.map(|node| Leader { node, epoch: Some(partition.epoch) });
            let current_leader = hint.filter(|_| partition.epoch % 2 == 0);
            return PartitionResponse { current_leader, ..refused(ErrorCode::NotLeaderOrFollower) };
        }
        let batch = match RecordBatch::parse(bytes) {
            Ok((batch, [])) => batch,
            Ok(_) => {
                self.wrong.push(format!("{topic_partition}: bytes follow a batch"));
                return refused(ErrorCode::InvalidRecord);
            }
            // The memory of a request was touched while the request had it, or a batch was sent that is not whole.
            Err(error) => {
                self.wrong.push(format!("{topic_partition}: a batch that cannot be read was sent: {error}"));
                return refused(ErrorCode::CorruptMessage);
            }
        };
        if bytes.len() > self.setup.max_message_bytes {
            return refused(ErrorCode::MessageTooLarge);
        }
        let header = batch.header();
        let producer = ProducerState {
            id: header.producer_id,
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            transactional: false,
        };
        if partition.forgot && header.base_sequence > 0 && !partition.producers.knows(header.producer_id) {
            let log_start_offset = if partition.epoch % 2 == 0 { partition.end } else { -1 };
            return PartitionResponse { log_start_offset, ..refused(ErrorCode::UnknownProducerId) };
        }
        match partition.producers.judge(header) {
            Err(refusal) => refused(refusal.code),
            Ok(Some(_)) if self.setup.says_duplicate => refused(ErrorCode::DuplicateSequenceNumber),
            Ok(Some(before)) => PartitionResponse::written(topic_partition, before.base_offset),
            Ok(None) => {
                let mut records = Vec::new();
                for record in batch.records() {
                    match record {
                        Ok(record) => records.push((record.timestamp, record.value.unwrap_or_default().to_vec())),
                        Err(error) => self.wrong.push(format!("{topic_partition}: a record cannot be read: {error}")),
                    }
                }
                let base_offset = partition.end;
                partition.producers.written(header, base_offset, None);
                partition.end += records.len() as i64;
                partition.unheard.insert((producer.id, producer.epoch, producer.base_sequence));
                partition.log.push(Stored { base_offset, producer, records });
                PartitionResponse::written(topic_partition, base_offset)
            }
        }
    }

    fn submit(&mut self, request: ProduceRequest, now: Instant) -> Result<(), ProduceRequest> {
        let (id, node) = (request.id, request.node);
        let effect = self.effects.get(&id).copied();
        if self.is_ready(node, now).is_err() {
            return Err(request);
        }
        if effect == Some(Effect::Refuse) {
            self.trouble(now);
            self.tally.fault("refused-at-the-door");
            return Err(request);
        }
        let named: BTreeSet<_> = request.batches.iter().map(|batch| batch.topic_partition().clone()).collect();
        if named.len() < request.batches.len() {
            self.wrong.push(format!("request {id} has two batches of one partition"));
        }
        let slow = if let Some(Effect::Slow(by)) = effect { by } else { Duration::ZERO };
        let arrival = now.saturating_add(self.latency(6, id)).saturating_add(slow);
        let state = self.node(node);
        let arrival = arrival.max(state.last_arrival);
        state.last_arrival = arrival;
        if request.acks == Acks::None {
            let breaks = Some(state.breaks);
            for batch in &request.batches {
                let partition = batch.topic_partition().partition as usize;
                if effect != Some(Effect::LoseRequest) {
                    let bytes = batch.as_bytes().to_vec();
                    self.schedule(arrival, Event::Bytes { node, breaks, partition, bytes });
                }
            }
            self.responses.push(ProduceResponse::new(request, Outcome::Written).into());
            return Ok(());
        }
        let gives_up = now.saturating_add(request.timeout);
        self.flying.insert(id, Flying { request, arrived: false, answer: None });
        self.schedule(arrival, Event::Arrive(id));
        self.schedule(gives_up, Event::TimeOut(id));
        Ok(())
    }

    fn is_ready(&mut self, node: NodeId, now: Instant) -> Result<(), Duration> {
        let connect = self.latency(7, node.0 as u64);
        let state = self.node(node);
        let connected = *state.connected.get_or_insert(state.down.max(now).saturating_add(connect));
        let from = connected.max(state.throttled);
        if now < from { Err(from.saturating_since(now)) } else { Ok(()) }
    }
}

impl SimBroker {
    pub(super) fn new(world: Arc<StdMutex<World>>, clock: SharedClock) -> Self {
        Self { world, bell: Arc::new(Bell(SimParker::new())), clock }
    }

    /// The world as it is now.
    fn look<T>(&self, what: impl FnOnce(&mut World, Instant) -> T) -> T {
        let now = self.clock.now();
        let mut world = self.world.lock();
        world.advance(now);
        what(&mut world, now)
    }
}

impl Broker for SimBroker {
    fn cluster(&self) -> Arc<Cluster> {
        self.look(|world, _| Arc::clone(&world.metadata))
    }

    fn request_update(&mut self) {
        self.look(|world, now| {
            if !std::mem::replace(&mut world.updating, true) {
                let at = now.saturating_add(world.latency(8, now.as_nanos()));
                world.schedule(at, Event::Metadata);
            }
        });
    }

    fn update_leader(&mut self, topic_partition: &TopicPartition, leader: Leader) {
        self.look(|world, _| {
            if let Some(newer) = world.metadata.with_leader(topic_partition, leader) {
                world.metadata = Arc::new(newer);
                world.news = true;
            }
        });
    }

    fn ready(&mut self, node: NodeId, _: Instant) -> Result<(), Duration> {
        self.look(|world, now| world.is_ready(node, now))
    }

    fn submit(&mut self, request: ProduceRequest, _: Instant) -> Result<(), ProduceRequest> {
        self.look(|world, now| world.submit(request, now))
    }

    fn init_producer_id(&mut self, _: Duration, _: Instant) -> Result<(), Duration> {
        self.look(|world, now| {
            let number = world.ids_asked;
            world.ids_asked += 1;
            let at = now.saturating_add(world.latency(9, number));
            let answer = world.ids.get(&number).map_or(Ok(()), |code| Err(*code));
            world.schedule(at, Event::Id(answer));
            Ok(())
        })
    }

    fn poll(&mut self, timeout: Duration, responses: &mut Vec<Response>) {
        let deadline = self.clock.now().saturating_add(timeout);
        loop {
            let left = self.look(|world, now| {
                let failed = |batch: &SealedBatch| batch.completion().final_state() == Some(FinalState::Failed);
                let expired = |response: &Response| match response {
                    Response::Produce(response) => response.request.batches.iter().any(failed),
                    Response::InitProducerId(_) => false,
                };
                if world.responses.iter().any(expired) {
                    world.tally.fault("expired-in-flight");
                }
                responses.append(&mut world.responses);
                if std::mem::take(&mut world.news) || !responses.is_empty() || now >= deadline {
                    return None;
                }
                let next = world.events.first_key_value().map_or(deadline, |((at, _), _)| deadline.min(*at));
                Some(next.saturating_since(now))
            });
            // With nothing to wait for, a scheduling point all the same.
            if self.bell.0.park_timeout(left.unwrap_or_default()) || left.is_none() {
                return;
            }
        }
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }
}

impl Drop for SimBroker {
    /// What is under way is dropped, which aborts those records.
    fn drop(&mut self) {
        let (flying, responses) = {
            let mut world = self.world.lock();
            world.events.clear();
            (std::mem::take(&mut world.flying), std::mem::take(&mut world.responses))
        };
        drop((flying, responses));
    }
}

impl fmt::Debug for SimBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimBroker").finish_non_exhaustive()
    }
}
