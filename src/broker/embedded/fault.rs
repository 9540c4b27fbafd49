//! Faults on demand: slow, failing, losing, breaking off, falling silent.
//!
//! What is drawn is drawn from one seeded generator, in the order in which requests are handled. One client, or several whose requests come in a
//! fixed order (a simulation), therefore meet the same faults for the same seed.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::bell::Bells;
use crate::broker::{ErrorCode, NodeId, ProduceRequest};
use crate::error::TopicPartition;
use crate::primitive::atomic::AtomicU64;
use crate::primitive::atomic::Ordering::Relaxed;
use crate::primitive::clock::{Instant, SharedClock};
use crate::primitive::random::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Without a code, the answer leaves the batch out.
    Fail {
        code: Option<ErrorCode>,
        written: bool,
    },
    Lose {
        written: bool,
    },
    Disconnect {
        written: bool,
    },
    Delay(Duration),
    UnsupportedVersion,
    MoveLeader,
    Restart(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Occurrence {
    Next(u64),
    Rate(f64),
}

/// One thing that is to go wrong, once unless told otherwise, anywhere unless told where.
///
/// ```
/// use unlatched::broker::{ErrorCode, NodeId};
/// use unlatched::broker::embedded::{EmbeddedBroker, Fault};
///
/// let broker = EmbeddedBroker::builder().seed(7).open()?;
/// let faults = broker.faults();
/// // The next two batches fail without having been written,
/// faults.inject(Fault::fail(ErrorCode::NotEnoughReplicas).next(2));
/// // the answer to one request in a hundred is lost,
/// faults.inject(Fault::lose_response().rate(0.01));
/// // and one request breaks the connection to node 0 after its batches were written.
/// faults.inject(Fault::disconnect().after_writing().at_node(NodeId(0)));
/// # Ok::<(), unlatched::broker::embedded::EmbeddedError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    effect: Effect,
    occurrence: Occurrence,
    node: Option<NodeId>,
    topic_partition: Option<TopicPartition>,
}

impl Fault {
    fn new(effect: Effect) -> Self {
        Self { effect, occurrence: Occurrence::Next(1), node: None, topic_partition: None }
    }

    /// A batch is answered with `code` and not written. Counted per batch, and only batches that would have been written; but with `DUPLICATE_SEQUENCE_NUMBER` only those that
    /// were written before.
    pub fn fail(code: ErrorCode) -> Self {
        Self::new(Effect::Fail { code: Some(code), written: false })
    }

    /// The answer does not mention a batch, which is not written. Counted as [`Fault::fail`].
    pub fn omit() -> Self {
        Self::new(Effect::Fail { code: None, written: false })
    }

    /// A request never arrives: nothing is written, no answer comes, it times out. Counted per request, as all that follow.
    pub fn lose_request() -> Self {
        Self::new(Effect::Lose { written: false })
    }

    /// A request is handled, but its answer is lost: it times out.
    pub fn lose_response() -> Self {
        Self::new(Effect::Lose { written: true })
    }

    /// The connection breaks as a request comes in, and takes with it everything in flight to that node.
    pub fn disconnect() -> Self {
        Self::new(Effect::Disconnect { written: false })
    }

    /// The node does not know this version of the request: nothing is written.
    pub fn unsupported_version() -> Self {
        Self::new(Effect::UnsupportedVersion)
    }

    /// As a request comes in, the lead of one of its partitions, drawn evenly, moves to the node with the next number, the first after the last: the batch is answered
    /// `NOT_LEADER_OR_FOLLOWER`. With one node nothing moves.
    pub fn move_leader() -> Self {
        Self::new(Effect::MoveLeader)
    }

    /// The node is restarted as a request comes in, which is not written: see [`Faults::restart`].
    pub fn restart(downtime: Duration) -> Self {
        Self::new(Effect::Restart(downtime))
    }

    /// An answer comes `by` later, and later ones may overtake it.
    pub fn delay(by: Duration) -> Self {
        Self::new(Effect::Delay(by))
    }

    /// It happens after the batches have been written, and not before. Changes nothing for a delay, an unsupported version, a moved leader or a restart.
    pub fn after_writing(mut self) -> Self {
        match &mut self.effect {
            Effect::Fail { written, .. } | Effect::Lose { written } | Effect::Disconnect { written } => *written = true,
            Effect::Delay(_) | Effect::UnsupportedVersion | Effect::MoveLeader | Effect::Restart(_) => {}
        }
        self
    }

    /// It happens to the next `n` that it fits.
    pub fn next(mut self, n: u64) -> Self {
        self.occurrence = Occurrence::Next(n);
        self
    }

    /// It happens to each that it fits with probability `rate`, until the faults are cleared. Taken as 0 below 0 or if not a number, as 1 above 1.
    pub fn rate(mut self, rate: f64) -> Self {
        self.occurrence = Occurrence::Rate(rate);
        self
    }

    /// It happens at `node` only.
    pub fn at_node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// It happens to batches of `topic_partition`, or requests that have one, only.
    pub fn at_partition(mut self, topic_partition: TopicPartition) -> Self {
        self.topic_partition = Some(topic_partition);
        self
    }

    fn fits(&self, node: NodeId, topic_partition: &TopicPartition) -> bool {
        self.node.is_none_or(|at| at == node) && self.topic_partition.as_ref().is_none_or(|at| at == topic_partition)
    }

    fn fits_request(&self, request: &ProduceRequest) -> bool {
        self.node.is_none_or(|at| at == request.node)
            && self
                .topic_partition
                .as_ref()
                .is_none_or(|at| request.batches.iter().any(|batch| batch.topic_partition() == at))
    }

    /// Whether it happens now to something that it fits.
    fn strikes(&mut self, random: &mut Random) -> bool {
        match &mut self.occurrence {
            Occurrence::Next(0) => false,
            Occurrence::Next(left) => {
                *left -= 1;
                true
            }
            Occurrence::Rate(rate) => random.unit() < *rate,
        }
    }
}

/// What happens to a request as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fate {
    #[default]
    Answered,
    Lost {
        written: bool,
    },
    Disconnected {
        written: bool,
    },
    UnsupportedVersion,
}

/// What was drawn for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Plan {
    pub(super) fate: Fate,
    /// How much later the answer comes, in order.
    pub(super) latency: Duration,
    /// How much later still, out of order.
    pub(super) delay: Option<Duration>,
    /// The batch whose partition gets another leader first.
    pub(super) moved: Option<usize>,
}

/// A failure drawn for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// Without one, the answer leaves the batch out.
    pub(super) code: Option<ErrorCode>,
    pub(super) written: bool,
}

#[derive(Debug, Default)]
struct Node {
    /// `Some(None)`: silent until resumed.
    silent_until: Option<Option<Instant>>,
    /// Counts the times that every connection to it was broken.
    breaks: u64,
    /// Until when nobody can connect to it.
    down_until: Instant,
}

/// How a node is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct NodeState {
    /// How often connections to it were broken.
    pub(super) breaks: u64,
    /// Whether nobody can connect to it.
    pub(super) down: bool,
    /// Until when it is silent, if it is; `Some(None)`: until resumed.
    pub(super) silent: Option<Option<Instant>>,
}

/// How often an injected fault has struck. Cheap to clone; it goes on counting when the faults are cleared and others injected.
#[derive(Debug, Clone)]
pub struct Struck(Arc<AtomicU64>);

impl Struck {
    /// So often until now.
    pub fn count(&self) -> u64 {
        // Relaxed: a number to look at. Nothing is read through it.
        self.0.load(Relaxed)
    }

    fn add(&self) {
        // Relaxed: see `count`.
        self.0.fetch_add(1, Relaxed);
    }
}

/// A fault, and how often it has struck.
#[derive(Debug)]
struct Rule {
    fault: Fault,
    struck: Struck,
}

struct Inner {
    random: Random,
    latency: Duration,
    jitter: Duration,
    rules: VecDeque<Rule>,
    nodes: HashMap<NodeId, Node>,
}

/// The broker's faults, told at any time, by any thread. They concern every client.
#[derive(Clone)]
pub struct Faults {
    inner: Arc<Mutex<Inner>>,
    clock: SharedClock,
    bells: Bells,
}

impl Faults {
    pub(super) fn new(seed: u64, clock: SharedClock, bells: Bells) -> Self {
        let inner = Inner {
            random: Random::seeded(seed),
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            rules: VecDeque::new(),
            nodes: HashMap::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), clock, bells }
    }

    /// Every answer comes at least `fixed` after its request, plus a part of `jitter` drawn evenly. Answers of a node stay in order.
    pub fn set_latency(&self, fixed: Duration, jitter: Duration) {
        let mut inner = self.inner.lock();
        (inner.latency, inner.jitter) = (fixed, jitter);
    }

    /// Adds a fault. Of several that fit, the one added first strikes. What is returned counts how often it does.
    pub fn inject(&self, fault: Fault) -> Struck {
        let struck = Struck(Arc::new(AtomicU64::new(0)));
        self.inner.lock().rules.push_back(Rule { fault, struck: struck.clone() });
        struck
    }

    /// Ends latency, silence and downtimes, and takes back every fault not used up.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        (inner.latency, inner.jitter) = (Duration::ZERO, Duration::ZERO);
        inner.rules.clear();
        for node in inner.nodes.values_mut() {
            (node.silent_until, node.down_until) = (None, Instant::ZERO);
        }
        drop(inner);
        self.bells.ring();
    }

    /// `node` reads no request for `pause`. Those that time out meanwhile were not written.
    pub fn silence(&self, node: NodeId, pause: Duration) {
        let until = self.clock.now().saturating_add(pause);
        self.inner.lock().nodes.entry(node).or_default().silent_until = Some(Some(until));
        self.bells.ring();
    }

    /// `node` reads no request until it is [resumed](Self::resume).
    pub fn silence_until_resumed(&self, node: NodeId) {
        self.inner.lock().nodes.entry(node).or_default().silent_until = Some(None);
    }

    /// Ends `node`'s silence.
    pub fn resume(&self, node: NodeId) {
        self.inner.lock().nodes.entry(node).or_default().silent_until = None;
        self.bells.ring();
    }

    /// Breaks every connection to `node` now: what is in flight there comes back as disconnected, answers on their way included.
    pub fn break_connections(&self, node: NodeId) {
        self.inner.lock().nodes.entry(node).or_default().breaks += 1;
        self.bells.ring();
    }

    /// `node` is restarted: its connections break as by [`Faults::break_connections`], and for `downtime` whoever connects is disconnected at once. Its logs and what it
    /// knows of producers are as before.
    pub fn restart(&self, node: NodeId, downtime: Duration) {
        self.inner.lock().restart(node, self.clock.now().saturating_add(downtime));
        self.bells.ring();
    }

    /// How `node` is at `now`.
    pub(super) fn state(&self, node: NodeId, now: Instant) -> NodeState {
        let inner = self.inner.lock();
        let Some(node) = inner.nodes.get(&node) else { return NodeState::default() };
        let silent = node.silent_until.filter(|until| until.is_none_or(|until| now < until));
        NodeState { breaks: node.breaks, down: now < node.down_until, silent }
    }

    /// Draws what happens to a request.
    pub(super) fn plan(&self, request: &ProduceRequest) -> Plan {
        let inner = &mut *self.inner.lock();
        let mut plan = Plan { latency: inner.latency, ..Plan::default() };
        if let Ok(jitter @ 1..) = u64::try_from(inner.jitter.as_nanos()) {
            plan.latency = plan.latency.saturating_add(Duration::from_nanos(inner.random.below(jitter)));
        }
        let of_request = |effect| !matches!(effect, Effect::Fail { .. });
        match inner.strike(|fault| of_request(fault.effect) && fault.fits_request(request)) {
            Some(Effect::Lose { written }) => plan.fate = Fate::Lost { written },
            Some(Effect::Disconnect { written }) => plan.fate = Fate::Disconnected { written },
            Some(Effect::Delay(by)) => plan.delay = Some(by),
            Some(Effect::UnsupportedVersion) => plan.fate = Fate::UnsupportedVersion,
            Some(Effect::MoveLeader) => {
                let batches = request.batches.len() as u64;
                plan.moved = (batches > 0).then(|| inner.random.below(batches) as usize);
            }
            Some(Effect::Restart(downtime)) => {
                plan.fate = Fate::Disconnected { written: false };
                inner.restart(request.node, self.clock.now().saturating_add(downtime));
                // Other clients' connections break, too.
                self.bells.ring();
            }
            Some(Effect::Fail { .. }) | None => {}
        }
        plan
    }

    /// Draws whether a batch that would be accepted, as one that was written before if `again`, fails.
    pub(super) fn failure(&self, node: NodeId, topic_partition: &TopicPartition, again: bool) -> Option<Failure> {
        let fits = |fault: &Fault| match fault.effect {
            Effect::Fail { code, .. } => {
                let of_duplicates = code == Some(ErrorCode::DuplicateSequenceNumber);
                of_duplicates == again && fault.fits(node, topic_partition)
            }
            _ => false,
        };
        match self.inner.lock().strike(fits)? {
            Effect::Fail { code, written } => Some(Failure { code, written }),
            _ => None,
        }
    }
}

impl Inner {
    /// The first fault that fits and strikes now.
    fn strike(&mut self, fits: impl Fn(&Fault) -> bool) -> Option<Effect> {
        let Self { rules, random, .. } = self;
        let at = rules.iter_mut().position(|rule| fits(&rule.fault) && rule.fault.strikes(random))?;
        let Rule { fault, struck } = &rules[at];
        struck.add();
        let effect = fault.effect;
        if fault.occurrence == Occurrence::Next(0) {
            rules.remove(at);
        }
        Some(effect)
    }

    fn restart(&mut self, node: NodeId, until: Instant) {
        let node = self.nodes.entry(node).or_default();
        (node.breaks, node.down_until) = (node.breaks + 1, until);
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.lock();
        f.debug_struct("Faults")
            .field("latency", &inner.latency)
            .field("jitter", &inner.jitter)
            .field("rules", &inner.rules)
            .field("nodes", &inner.nodes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::embedded::test_support::request;
    use crate::primitive::clock::ManualClock;

    fn faults(seed: u64) -> Faults {
        Faults::new(seed, ManualClock::at(0), Bells::default())
    }

    fn at(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    #[test]
    fn faults_of_one_seed_repeat_and_those_of_another_differ() {
        let draw = |seed| {
            let faults = faults(seed);
            faults.set_latency(Duration::from_millis(1), Duration::from_millis(1));
            faults.inject(Fault::lose_response().rate(0.5));
            faults.inject(Fault::fail(ErrorCode::CorruptMessage).rate(0.5));
            let request = request(0, &[&at(0)]);
            (0..32).map(|_| (faults.plan(&request), faults.failure(NodeId(0), &at(0), false))).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let latencies = draw(1).iter().map(|(plan, _)| plan.latency).collect::<Vec<_>>();
        let (low, high) = (Duration::from_millis(1), Duration::from_millis(2));
        assert!(latencies.iter().all(|latency| (low..high).contains(latency)));
        assert!(latencies.windows(2).any(|pair| pair[0] != pair[1]), "jitter");
    }

    #[test]
    fn faults_strike_as_often_as_told_and_where_told() {
        let faults = faults(0);
        let (here, there) = (request(0, &[&at(0), &at(1)]), request(1, &[&at(2)]));
        faults.inject(Fault::lose_request().next(2).at_partition(at(1)));
        let lost = Fate::Lost { written: false };
        let fates = [&there, &here, &there, &here, &here].map(|request| faults.plan(request).fate);
        assert_eq!(fates, [Fate::Answered, lost, Fate::Answered, lost, Fate::Answered]);

        faults.inject(Fault::fail(ErrorCode::NotEnoughReplicas).after_writing().at_node(NodeId(1)));
        assert_eq!(faults.failure(NodeId(0), &at(0), false), None);
        let failure = Failure { code: Some(ErrorCode::NotEnoughReplicas), written: true };
        assert_eq!(faults.failure(NodeId(1), &at(0), false), Some(failure));
        assert_eq!(faults.failure(NodeId(1), &at(0), false), None, "once");
    }

    #[test]
    fn fault_rates_zero_and_one_are_never_and_always_until_cleared() {
        let faults = faults(0);
        let request = request(0, &[&at(0)]);
        faults.inject(Fault::disconnect().rate(0.0));
        faults.inject(Fault::lose_request().rate(f64::NAN));
        faults.inject(Fault::delay(Duration::from_secs(1)).rate(1.0));
        for _ in 0..100 {
            let plan = faults.plan(&request);
            assert_eq!((plan.fate, plan.delay), (Fate::Answered, Some(Duration::from_secs(1))));
        }
        faults.clear();
        assert_eq!(faults.plan(&request), Plan::default());
    }

    #[test]
    fn fault_added_first_strikes_first_and_uses_up_no_other() {
        let faults = faults(0);
        let request = request(0, &[&at(0)]);
        faults.inject(Fault::lose_response());
        faults.inject(Fault::disconnect().after_writing());
        let fates = [(); 3].map(|()| faults.plan(&request).fate);
        assert_eq!(fates, [Fate::Lost { written: true }, Fate::Disconnected { written: true }, Fate::Answered]);
    }

    #[test]
    fn fault_strikes_are_counted_one_by_one_also_after_the_faults_are_cleared() {
        let faults = faults(0);
        let request = request(0, &[&at(0)]);
        let (lost, slow) =
            (faults.inject(Fault::lose_response()), faults.inject(Fault::delay(Duration::from_secs(1)).rate(1.0)));
        let failed = faults.inject(Fault::fail(ErrorCode::CorruptMessage).rate(1.0));
        for _ in 0..3 {
            faults.plan(&request);
        }
        faults.failure(NodeId(0), &at(0), false);
        faults.clear();
        faults.plan(&request);
        assert_eq!((lost.count(), slow.count(), failed.count()), (1, 2, 1));
    }

    #[test]
    fn fault_restart_takes_its_node_away_and_a_move_is_of_a_partition_in_the_request() {
        let clock = ManualClock::at(0);
        let faults = Faults::new(0, clock.clone(), Bells::default());
        let request = request(0, &[&at(0), &at(1)]);
        faults.inject(Fault::restart(Duration::from_millis(5)));
        assert_eq!(faults.plan(&request).fate, Fate::Disconnected { written: false });
        let away = |faults: &Faults| faults.state(NodeId(0), crate::primitive::clock::Clock::now(&*clock));
        assert_eq!(away(&faults), NodeState { breaks: 1, down: true, silent: None });
        clock.advance(Duration::from_millis(5));
        assert!(!away(&faults).down);
        faults.inject(Fault::move_leader().rate(1.0));
        let moved: Vec<_> = (0..32).map(|_| faults.plan(&request).moved.unwrap()).collect();
        assert!(moved.contains(&0) && moved.contains(&1) && moved.iter().all(|at| *at < 2), "{moved:?}");
    }
}
