//! What a sender talks to.
//!
//! [`Broker`] is the seam between the memory path and the world: requests go in without blocking, responses come out of
//! [`Broker::poll`], which is the sender's only sleeping place. The embedded broker ([`embedded`]) is the default; a client of a
//! real cluster will stand behind the same trait.
//!
//! # What a transport promises
//! - **One way in, one way out.** What [`Broker::submit`] or [`Broker::init_producer_id`] has taken comes back exactly once from [`Broker::poll`], within its timeout and a little,
//!   whatever happens to the connection. Nothing else comes out.
//! - **Order per node.** Requests go to a node in the order in which they were submitted. Nothing is promised between nodes, nor about the order of answers.
//! - **Memory.** A request owns its batches until it comes back; a batch's bytes ([`SealedBatch::as_bytes`]) may go to the socket from where they lie.
//! - **Refusals at the door.** A node that is not connected, throttled, or at its limit of requests is not [`Broker::ready`], and says when to ask again.
//! - **Honest outcomes.** [`Outcome::Answered`] only with what the node said. If it is not known whether a request was handled, it is [`Outcome::Disconnected`] or [`Outcome::TimedOut`].

mod cluster;
pub mod embedded;
mod error_code;

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

pub use cluster::{Cluster, Leader, NodeId};
pub use error_code::{ErrorCode, Fate};

use crate::batch::SealedBatch;
use crate::error::TopicPartition;
use crate::primitive::clock::Instant;

/// How many replicas must have a batch before the broker answers (CFG-10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// The broker does not answer at all: a batch completes when it is written to the connection, its offset unknown (SEND-11).
    None,
    /// The leader has it.
    Leader,
    /// Every in-sync replica has it.
    #[default]
    All,
}

/// Batches for one node. The batches' memory belongs to the request until it comes back (L2).
#[derive(Debug)]
pub struct ProduceRequest {
    /// The sender's number for it.
    pub id: u64,
    /// Where it goes.
    pub node: NodeId,
    /// How many replicas must have it.
    pub acks: Acks,
    /// `request.timeout.ms`: when the transport gives up waiting for the answer.
    pub timeout: Duration,
    /// Closed batches, at most one per partition (SEND-06).
    pub batches: Vec<SealedBatch>,
}

/// What a broker says of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionResponse {
    /// Which partition's batch.
    pub topic_partition: TopicPartition,
    /// What became of it.
    pub error: ErrorCode,
    /// Offset of its first record, -1 if unknown.
    pub base_offset: i64,
    /// The broker's time of the append, where the topic is set so.
    pub log_append_time: Option<i64>,
    /// Records at fault, by index in the batch, with the broker's words (SEND-22).
    pub record_errors: Vec<(u32, Option<Arc<str>>)>,
    /// The broker's words on the whole batch.
    pub message: Option<Arc<str>>,
    /// First offset that the partition still has, -1 if the answer does not say: with [`ErrorCode::UnknownProducerId`] it tells whether there is anything to learn (IDEM-10).
    pub log_start_offset: i64,
    /// Who leads the partition, if the node knew and said so, with [`ErrorCode::NotLeaderOrFollower`] or [`ErrorCode::FencedLeaderEpoch`] (SEND-16).
    pub current_leader: Option<Leader>,
}

impl PartitionResponse {
    /// A batch that was written at `base_offset`.
    pub fn written(topic_partition: TopicPartition, base_offset: i64) -> Self {
        Self { base_offset, ..Self::refused(topic_partition, ErrorCode::None) }
    }

    /// A batch that was not written because of `error`.
    pub fn refused(topic_partition: TopicPartition, error: ErrorCode) -> Self {
        Self {
            topic_partition,
            error,
            base_offset: -1,
            log_append_time: None,
            record_errors: Vec::new(),
            message: None,
            log_start_offset: -1,
            current_leader: None,
        }
    }
}

/// How a request ended (SEND-10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The broker answered. A batch that it does not mention counts as not answered.
    Answered(Vec<PartitionResponse>),
    /// Written to the connection with [`Acks::None`]: no answer will come.
    Written,
    /// No answer within the request's timeout; whether it was written is not known.
    TimedOut,
    /// The connection was lost; whether it was written is not known.
    Disconnected,
    /// The broker does not know this version of the request.
    UnsupportedVersion,
}

/// A request that has ended, its batches handed back.
#[derive(Debug)]
pub struct ProduceResponse {
    /// The request as submitted.
    pub request: ProduceRequest,
    /// How it ended.
    pub outcome: Outcome,
    /// `throttle_time_ms`: for how long the node wants no more of us. The transport sees to it, by [`Broker::ready`]; the sender counts it (MET-05).
    pub throttle: Duration,
}

impl ProduceResponse {
    /// `request` ended with `outcome`, unthrottled.
    pub fn new(request: ProduceRequest, outcome: Outcome) -> Self {
        Self { request, outcome, throttle: Duration::ZERO }
    }
}

/// What makes an idempotent producer's batches known to a broker: with its epoch, for fencing. Kafka's `ProducerIdAndEpoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerIdAndEpoch {
    /// Given by the cluster, never twice.
    pub id: i64,
    /// From 0; the producer raises it by itself (IDEM-15).
    pub epoch: i16,
}

impl ProducerIdAndEpoch {
    /// `id` at its first epoch.
    pub const fn new(id: i64) -> Self {
        Self { id, epoch: 0 }
    }
}

impl fmt::Display for ProducerIdAndEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "producer {} epoch {}", self.id, self.epoch)
    }
}

/// What comes out of [`Broker::poll`].
#[derive(Debug)]
pub enum Response {
    /// A request of [`Broker::submit`] has ended.
    Produce(ProduceResponse),
    /// [`Broker::init_producer_id`] has: an id, or why there is none. A lost connection is [`ErrorCode::NetworkException`], no answer in time [`ErrorCode::RequestTimedOut`].
    InitProducerId(Result<ProducerIdAndEpoch, ErrorCode>),
}

impl From<ProduceResponse> for Response {
    fn from(response: ProduceResponse) -> Self {
        Self::Produce(response)
    }
}

impl Response {
    /// The produce response, if it is one.
    pub fn produce(self) -> Option<ProduceResponse> {
        match self {
            Self::Produce(response) => Some(response),
            Self::InitProducerId(_) => None,
        }
    }
}

/// What a sender talks to.
///
/// What it promises stands at the module's head. A broker that is dropped drops what it still holds, which aborts those records.
///
/// Its methods run on the sender's thread: they must not wait for what the sender has to do, so no flush, no wait for a record, no close.
pub trait Broker: fmt::Debug + Send + 'static {
    /// What is known of topics, partitions and their leaders now. Cheap: a snapshot.
    fn cluster(&self) -> Arc<Cluster>;

    /// Asks for fresh metadata; a later [`Broker::cluster`] shows it. Does not block.
    fn request_update(&mut self);

    /// A node said that `leader` leads `topic_partition`: a later [`Broker::cluster`] shows it, unless a leader of that epoch or a newer one is known (SEND-16).
    fn update_leader(&mut self, topic_partition: &TopicPartition, leader: Leader);

    /// Whether `node` takes a request now; if not, when to ask again (SEND-04).
    ///
    /// # Errors
    /// The time after which to ask again: not connected, throttled, or too many requests in flight.
    fn ready(&mut self, node: NodeId, now: Instant) -> Result<(), Duration>;

    /// Takes a request for sending. Never blocks.
    ///
    /// # Errors
    /// The request, if its node does not take it now.
    fn submit(&mut self, request: ProduceRequest, now: Instant) -> Result<(), ProduceRequest>;

    /// Asks any node for a producer id (`InitProducerId` without a transactional id). The answer comes out of [`Broker::poll`] within `timeout` and a little. Never blocks.
    ///
    /// # Errors
    /// The time after which to ask again: no node takes the request now. No answer will come then.
    fn init_producer_id(&mut self, timeout: Duration, now: Instant) -> Result<(), Duration>;

    /// Appends what has ended to `responses`, sleeping at most `timeout` if there is nothing. Returns early when woken.
    fn poll(&mut self, timeout: Duration, responses: &mut Vec<Response>);

    /// A handle that ends a [`Broker::poll`] from any thread. A wake while nobody polls ends the next poll at once.
    fn waker(&self) -> Waker;
}
