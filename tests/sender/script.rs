//! A broker that does what a test tells it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use unlatched::batch::SealedBatch;
use unlatched::broker::{
    Broker, Cluster, ErrorCode, Leader, NodeId, Outcome, PartitionResponse, ProduceRequest, ProduceResponse,
    ProducerIdAndEpoch, Response,
};
use unlatched::error::TopicPartition;
use unlatched::primitive::clock::Instant;

use crate::support::{Log, eventually, lock};

/// What a broker does in [`Broker::poll`] once what is due has been handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Polls {
    /// Notes how long it may sleep, and does not.
    #[default]
    Noted,
    /// Sleeps until it is woken or something is due, however long that takes: a wake that is owed and not given is not made up for by the end of
    /// the time.
    Sleeping,
    /// Panics.
    Panicking,
}

/// Something to do once.
#[derive(Default)]
struct Hook(Option<Box<dyn FnOnce() + Send>>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").field(&self.0.is_some()).finish()
    }
}

#[derive(Debug, Default)]
struct State {
    cluster: Arc<Cluster>,
    updates: usize,
    not_ready: HashMap<NodeId, Duration>,
    refuses: bool,
    /// Answers each request at once, its batches written from offset 0.
    acknowledges: bool,
    polls: Polls,
    in_poll: Hook,
    in_drop: Hook,
    requests: Vec<ProduceRequest>,
    /// What the next requests for a producer id are answered with, the first one first; when it is empty, each gets an id of its own at once.
    ids: VecDeque<Option<Result<ProducerIdAndEpoch, ErrorCode>>>,
    /// When to ask again for a producer id, if it is not taken now.
    no_ids: Option<Duration>,
    ids_asked: i64,
    due: Vec<Response>,
    slept: Vec<Duration>,
    asleep: bool,
    woken: bool,
}

impl State {
    /// Whether a sleeping poll has a reason to end.
    fn has_news(&self) -> bool {
        self.woken || !self.due.is_empty()
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The test's hand on a [`Scripted`] broker.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    shared: Arc<Shared>,
    log: Log,
}

impl Script {
    pub(crate) fn new(cluster: Cluster, log: Log) -> Self {
        let state = State { cluster: Arc::new(cluster), ..State::default() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }), log }
    }

    pub(crate) fn broker(&self) -> Scripted {
        Scripted(self.clone())
    }

    fn tell<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        let told = what(&mut lock(&self.shared.state));
        self.shared.changed.notify_all();
        told
    }

    pub(crate) fn set_cluster(&self, cluster: Cluster) {
        self.tell(|state| state.cluster = Arc::new(cluster));
    }

    /// Whether `node` takes requests; if not, when to ask again.
    pub(crate) fn set_ready(&self, node: i32, ready: Result<(), Duration>) {
        self.tell(|state| match ready {
            Ok(()) => state.not_ready.remove(&NodeId(node)),
            Err(delay) => state.not_ready.insert(NodeId(node), delay),
        });
    }

    /// Whether it gives each request back at the submission.
    pub(crate) fn set_refuses(&self, refuses: bool) {
        self.tell(|state| state.refuses = refuses);
    }

    /// What the next request for a producer id is answered with; `None`: nothing, before [`Script::give_id`].
    pub(crate) fn next_id(&self, answer: Option<Result<ProducerIdAndEpoch, ErrorCode>>) {
        self.tell(|state| state.ids.push_back(answer));
    }

    /// Answers a request for a producer id.
    pub(crate) fn give_id(&self, answer: Result<ProducerIdAndEpoch, ErrorCode>) {
        self.tell(|state| state.due.push(Response::InitProducerId(answer)));
    }

    pub(crate) fn set_acknowledges(&self) {
        self.tell(|state| state.acknowledges = true);
    }

    pub(crate) fn set_polls(&self, polls: Polls) {
        self.tell(|state| state.polls = polls);
    }

    /// Does this in the next poll, before anything else.
    pub(crate) fn in_next_poll(&self, action: impl FnOnce() + Send + 'static) {
        self.tell(|state| state.in_poll = Hook(Some(Box::new(action))));
    }

    /// Does this when the broker is dropped, before anything else.
    pub(crate) fn in_drop(&self, action: impl FnOnce() + Send + 'static) {
        self.tell(|state| state.in_drop = Hook(Some(Box::new(action))));
    }

    /// How often fresh metadata were asked for since the last time.
    pub(crate) fn updates(&self) -> usize {
        self.tell(|state| std::mem::take(&mut state.updates))
    }

    /// How long the latest poll was allowed to sleep.
    pub(crate) fn slept(&self) -> Duration {
        *lock(&self.shared.state).slept.last().expect("there was a poll")
    }

    /// The requests that came since the last time. Their memory is the test's until they are given back.
    pub(crate) fn requests(&self) -> Vec<ProduceRequest> {
        self.tell(|state| std::mem::take(&mut state.requests))
    }

    /// The one request that came.
    #[track_caller]
    pub(crate) fn request(&self) -> ProduceRequest {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// Waits for a request of a running sender.
    #[track_caller]
    pub(crate) fn await_request(&self) -> ProduceRequest {
        eventually("a request comes", || !lock(&self.shared.state).requests.is_empty());
        self.tell(|state| state.requests.remove(0))
    }

    /// Waits until a running sender sleeps in its poll, and nothing has come meanwhile that will wake it.
    #[track_caller]
    pub(crate) fn await_asleep(&self) {
        eventually("the sender sleeps", || {
            let state = lock(&self.shared.state);
            state.asleep && !state.has_news()
        });
    }

    /// Has the next poll take this request back and then panic with it in its hands.
    pub(crate) fn die_with(&self, request: ProduceRequest) {
        self.tell(|state| {
            state.due.push(ProduceResponse::new(request, Outcome::Written).into());
            state.polls = Polls::Panicking;
        });
    }

    /// Has the next poll hand this over.
    pub(crate) fn end(&self, request: ProduceRequest, outcome: Outcome) {
        self.tell(|state| state.due.push(ProduceResponse::new(request, outcome).into()));
    }

    /// Ends `request` with an answer for each of its batches.
    pub(crate) fn answer(&self, request: ProduceRequest, mut answer: impl FnMut(&SealedBatch) -> PartitionResponse) {
        let answers = request.batches.iter().map(&mut answer).collect();
        self.end(request, Outcome::Answered(answers));
    }

    /// Ends `request`, each batch written from offset 0.
    pub(crate) fn acknowledge(&self, request: ProduceRequest) {
        self.answer(request, |batch| PartitionResponse::written(batch.topic_partition().clone(), 0));
    }

    /// Ends `request`, each batch written from offset 0, by a node that wants no more for a while.
    pub(crate) fn throttle(&self, request: ProduceRequest, throttle: Duration) {
        let written = |batch: &SealedBatch| PartitionResponse::written(batch.topic_partition().clone(), 0);
        let outcome = Outcome::Answered(request.batches.iter().map(written).collect());
        self.tell(|state| {
            state.due.push(ProduceResponse { throttle, ..ProduceResponse::new(request, outcome) }.into())
        });
    }

    /// Ends `request`, each batch refused.
    pub(crate) fn refuse(&self, request: ProduceRequest, code: ErrorCode) {
        self.answer(request, |batch| PartitionResponse::refused(batch.topic_partition().clone(), code));
    }
}

/// The broker itself. Dropped, it drops what it holds, as [`Broker`] says.
#[derive(Debug)]
pub(crate) struct Scripted(Script);

impl Drop for Scripted {
    fn drop(&mut self) {
        if let Some(action) = self.0.tell(|state| state.in_drop.0.take()) {
            action();
        }
        let held = self.0.tell(|state| (std::mem::take(&mut state.requests), std::mem::take(&mut state.due)));
        drop(held);
        self.0.log.note("broker dropped");
    }
}

impl Broker for Scripted {
    fn cluster(&self) -> Arc<Cluster> {
        lock(&self.0.shared.state).cluster.clone()
    }

    fn request_update(&mut self) {
        self.0.log.note("update");
        self.0.tell(|state| state.updates += 1);
    }

    fn update_leader(&mut self, topic_partition: &TopicPartition, leader: Leader) {
        self.0.log.note(format!("leader of {} is {}", topic_partition.partition, leader.node.0));
        self.0.tell(|state| {
            if let Some(cluster) = state.cluster.with_leader(topic_partition, leader) {
                state.cluster = Arc::new(cluster);
            }
        });
    }

    fn init_producer_id(&mut self, _timeout: Duration, _now: Instant) -> Result<(), Duration> {
        self.0.log.note("init producer id");
        self.0.tell(|state| {
            if let Some(delay) = state.no_ids {
                return Err(delay);
            }
            state.ids_asked += 1;
            let own = Some(Ok(ProducerIdAndEpoch::new(state.ids_asked)));
            let answer = state.ids.pop_front().unwrap_or(own);
            state.due.extend(answer.map(Response::InitProducerId));
            Ok(())
        })
    }

    fn ready(&mut self, node: NodeId, _now: Instant) -> Result<(), Duration> {
        self.0.log.note(format!("node {}", node.0));
        lock(&self.0.shared.state).not_ready.get(&node).map_or(Ok(()), |delay| Err(*delay))
    }

    fn submit(&mut self, request: ProduceRequest, _now: Instant) -> Result<(), ProduceRequest> {
        self.0.log.note(format!("submit {}", request.node.0));
        let refused = self.0.tell(|state| {
            if state.refuses {
                return Some(request);
            }
            state.requests.push(request);
            None
        });
        if let Some(request) = refused {
            return Err(request);
        }
        if lock(&self.0.shared.state).acknowledges {
            self.0.requests().into_iter().for_each(|request| self.0.acknowledge(request));
        }
        Ok(())
    }

    fn poll(&mut self, timeout: Duration, responses: &mut Vec<Response>) {
        self.0.log.note("poll");
        if let Some(action) = self.0.tell(|state| state.in_poll.0.take()) {
            action();
        }
        let mut state = lock(&self.0.shared.state);
        state.slept.push(timeout);
        if state.polls == Polls::Sleeping && !timeout.is_zero() {
            state.asleep = true;
            let must_sleep = |state: &mut State| state.polls == Polls::Sleeping && !state.has_news();
            let slept = self.0.shared.changed.wait_while(state, must_sleep);
            state = slept.unwrap_or_else(PoisonError::into_inner);
            state.asleep = false;
        }
        state.woken = false;
        let panics = state.polls == Polls::Panicking;
        responses.append(&mut state.due);
        drop(state);
        assert!(!panics, "on purpose");
    }

    fn waker(&self) -> Waker {
        Waker::from(self.0.shared.clone())
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        lock(&self.state).woken = true;
        self.changed.notify_all();
    }
}
