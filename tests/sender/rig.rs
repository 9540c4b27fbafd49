//! A sender by hand: its clock, its core, its script, and what tests do with them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, Backoff};
use unlatched::batch::{RecordFuture, RecordResult, Reply};
use unlatched::broker::{Cluster, ErrorCode, Leader, NodeId, ProduceRequest};
use unlatched::error::{AppendError, SendError};
use unlatched::primitive::clock::{ManualClock, SharedClock};
use unlatched::record::{Record, RecordBatch};
use unlatched::sender::{Sender, SenderConfig, SenderSnapshot};

use crate::script::{Script, Scripted};
use crate::spy::Spy;
use crate::support::{LONG, Log, TOPIC, lock, millis, tp};

/// `batch.size` of these tests.
pub(crate) const BATCH: usize = 256;

/// Two nodes that lead every other partition of eight.
pub(crate) fn cluster() -> Cluster {
    led_by(&[Some(0), Some(1), Some(0), Some(1), Some(0), Some(1), Some(0), Some(1)])
}

/// A cluster whose partitions have these leaders.
pub(crate) fn led_by(nodes: &[Option<i32>]) -> Cluster {
    let leader = |node: &Option<i32>| node.map(|node| Leader { node: NodeId(node), epoch: Some(0) });
    Cluster::new([(TOPIC.into(), nodes.iter().map(leader).collect())])
}

/// Room for 64 batches; no linger; a backoff of a tenth of a second without jitter; a second to deliver.
pub(crate) fn memory() -> AccumulatorConfig {
    AccumulatorConfig {
        buffer_memory: 64 * BATCH as u64,
        batch_size: BATCH,
        linger: Duration::ZERO,
        backoff: Backoff { initial: millis(100), max: millis(100) },
        delivery_timeout: millis(1_000),
        seed: 1,
        ..AccumulatorConfig::default()
    }
}

/// Without idempotence.
pub(crate) fn requests() -> SenderConfig {
    SenderConfig { delivery_timeout: millis(1_000), enable_idempotence: Some(false), ..SenderConfig::default() }
}

/// With it.
pub(crate) fn idempotent() -> SenderConfig {
    SenderConfig { enable_idempotence: Some(true), ..requests() }
}

/// One batch of a partition at a time.
pub(crate) fn in_order() -> SenderConfig {
    SenderConfig { guarantee_order: true, ..requests() }
}

/// Results in the order in which callbacks brought them, each with its record's name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Results(Arc<Mutex<Vec<(String, RecordResult)>>>);

impl Results {
    pub(crate) fn note(&self, name: &str, result: RecordResult) {
        lock(&self.0).push((name.into(), result));
    }

    /// The names so far.
    pub(crate) fn names(&self) -> Vec<String> {
        lock(&self.0).iter().map(|(name, _)| name.clone()).collect()
    }

    /// What there is so far, from now on forgotten.
    pub(crate) fn take(&self) -> Vec<(String, RecordResult)> {
        std::mem::take(&mut *lock(&self.0))
    }
}

pub(crate) struct Rig<A: Accumulator> {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) accumulator: Arc<Spy<A>>,
    pub(crate) sender: Sender<Spy<A>, Scripted>,
    pub(crate) script: Script,
    pub(crate) log: Log,
    pub(crate) results: Results,
}

impl<A: Accumulator> Rig<A> {
    pub(crate) fn new() -> Self {
        Self::with(memory(), requests())
    }

    pub(crate) fn with(memory: AccumulatorConfig, requests: SenderConfig) -> Self {
        let clock = ManualClock::at(0);
        let (accumulator, view) = Spy::<A>::new(memory, clock.clone() as SharedClock);
        let log = accumulator.log();
        let script = Script::new(cluster(), log.clone());
        let sender = Sender::new(accumulator.clone(), view, script.broker(), clock.clone(), requests);
        Self { clock, accumulator, sender, script, log, results: Results::default() }
    }

    /// An idempotent sender that has its id.
    pub(crate) fn idempotent() -> Self {
        let mut rig = Self::with(memory(), idempotent());
        rig.send_nothing();
        rig
    }

    /// One that has its first batch of partition 0 acknowledged, so that it sends more at once.
    pub(crate) fn known() -> Self {
        let mut rig = Self::idempotent();
        rig.push_noted(0, "first");
        let request = rig.send();
        rig.acknowledge(request);
        rig.results.take();
        rig
    }

    pub(crate) fn advance(&self, milliseconds: u64) {
        self.clock.advance(millis(milliseconds));
    }

    /// One pass. How long the broker was allowed to sleep in it.
    pub(crate) fn pass(&mut self) -> Duration {
        self.sender.run_once(LONG);
        self.script.slept()
    }

    /// A pass that sends one request.
    #[track_caller]
    pub(crate) fn send(&mut self) -> ProduceRequest {
        self.pass();
        self.script.request()
    }

    /// A pass that sends nothing.
    #[track_caller]
    pub(crate) fn send_nothing(&mut self) {
        self.pass();
        let requests = self.script.requests();
        assert!(requests.is_empty(), "{requests:?}");
    }

    pub(crate) fn acknowledge(&mut self, request: ProduceRequest) {
        self.script.acknowledge(request);
        self.sender.run_once(LONG);
    }

    pub(crate) fn refuse(&mut self, request: ProduceRequest, code: ErrorCode) {
        self.script.refuse(request, code);
        self.sender.run_once(LONG);
    }

    pub(crate) fn stats(&self) -> SenderSnapshot {
        self.sender.stats().snapshot()
    }

    #[track_caller]
    pub(crate) fn push(&self, partition: i32, value: &str) -> RecordFuture {
        let appended = push(&*self.accumulator, partition, value, Reply::FUTURE).expect("it is accepted");
        appended.expect("it was asked for")
    }

    #[track_caller]
    pub(crate) fn push_with(&self, partition: i32, value: &str, callback: impl FnOnce(RecordResult) + Send + 'static) {
        let future = push(&*self.accumulator, partition, value, Reply::callback(callback)).expect("it is accepted");
        assert!(future.is_none());
    }

    /// A record in a batch of its own whose result is noted in log and results.
    #[track_caller]
    pub(crate) fn push_noted(&self, partition: i32, name: &str) {
        let (log, results) = (self.log.clone(), self.results.clone());
        let name = name.to_owned();
        self.push_with(partition, &alone(&name), move |result| {
            log.note(format!("callback {name}"));
            results.note(&name, result);
        });
    }

    /// The scenario is over: nothing is queued, in flight, muted or in the books, and the pool is whole.
    #[track_caller]
    pub(crate) fn assert_at_rest(&self) {
        assert!(!self.accumulator.has_undrained(), "something is queued");
        assert!(!self.accumulator.has_incomplete(), "something has not completed");
        assert_eq!(self.sender.in_flight(), 0);
        assert_eq!(self.accumulator.left_in_the_books(), [0u64; 0]);
        assert_whole(&*self.accumulator);
    }
}

/// A value that begins with `name` and leaves no room for another of its kind in its batch.
pub(crate) fn alone(name: &str) -> String {
    format!("{name:.<130}")
}

/// Every byte is back.
#[track_caller]
pub(crate) fn assert_whole(accumulator: &impl Accumulator) {
    let pool = accumulator.pool();
    assert!(pool.is_conserved() && pool.available() == pool.total && pool.leased == 0, "{pool:?}");
}

/// Appends without waiting for memory.
pub(crate) fn push<A: Accumulator>(
    accumulator: &A,
    partition: i32,
    value: &str,
    reply: Reply,
) -> Result<Option<RecordFuture>, AppendError> {
    let record = Record { value: Some(value.as_bytes()), ..Record::default() };
    let partition = accumulator.partition(&tp(partition));
    accumulator.append(&partition, &record, reply, Duration::ZERO).map(|appended| appended.future)
}

/// Partitions and values of the batches in a request, in order.
#[track_caller]
pub(crate) fn contents(request: &ProduceRequest) -> Vec<(i32, Vec<String>)> {
    let values = |bytes| {
        let (batch, rest) = RecordBatch::parse(bytes).expect("a whole batch with a good checksum");
        assert!(rest.is_empty());
        let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        batch.records().map(|record| text(record.expect("a good record").value)).collect()
    };
    request.batches.iter().map(|batch| (batch.topic_partition().partition, values(batch.as_bytes()))).collect()
}

/// The partitions in a request, in order.
pub(crate) fn partitions(request: &ProduceRequest) -> Vec<i32> {
    request.batches.iter().map(|batch| batch.topic_partition().partition).collect()
}

/// What a record of partition `partition` ends with when its batch was refused.
pub(crate) fn refused(partition: i32, code: ErrorCode) -> RecordResult {
    Err(SendError::Broker { topic_partition: tp(partition), code, message: None })
}
