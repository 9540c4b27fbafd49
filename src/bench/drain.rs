//! Suite `drain`: what the sender's side of the accumulator costs for a batch, where few of many known partitions have data.
//!
//! - `active-16`: in turn, untimed, each of 16 partitions gets a batch that is full (`linger.ms` is an hour: no other goes); then, timed, one thread asks what is ready, drains it, completes and returns it. An operation is a batch, `seconds` is the time inside of
//!   `ready`, `drain`, completion and return, and `p*_ns` is that of a whole turn. `NAME of N`: the accumulator and the cluster know N partitions, in topics of a hundred; those with data are spread evenly over them.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::bare::BATCH;
use super::load::{cpu_time, histogram, nanos};
use super::verdict::{Comparison, Who};
use super::{Impl, Mode, Run, Scenario, Task};
use crate::accumulator::{Accumulator, AccumulatorConfig, LockFreeAccumulator, SenderView};
use crate::batch::Reply;
use crate::broker::{Cluster, NodeId};
use crate::mutex::{ParkingLotAccumulator, StdAccumulator};
use crate::primitive::clock::{Clock, SystemClock};
use crate::record::Record;

/// Partitions with data.
pub(super) const ACTIVE: usize = 16;
/// Partitions of a topic.
const OF_TOPIC: usize = 100;

pub(super) fn scenarios(_: Mode) -> Vec<Scenario> {
    vec![active_16::<Drain<LockFreeAccumulator>, Drain<StdAccumulator>, Drain<ParkingLotAccumulator>>(None)]
}

/// What is done, turn for turn, on an accumulator that knows many partitions.
pub(super) trait Turns: 'static {
    type Accumulator: Accumulator;

    fn new(known: usize) -> Self;

    fn known(&self) -> &Known<Self::Accumulator>;

    /// Takes the full batches of all active partitions. How many batches it took.
    fn turn(&mut self) -> u64;
}

/// The scenario: what the lock-free core and the two twins do in a turn. For `floor` see [`comparisons`].
pub(super) fn active_16<L: Turns, S: Turns, P: Turns>(floor: Option<f64>) -> Scenario {
    let most = if cfg!(test) { 2_000 } else { 100_000 };
    Scenario {
        name: "active-16",
        threads: &[1],
        any_threads: false,
        partitions: Some(ACTIVE),
        record_bytes: Some(100),
        once: false,
        impls: vec![
            row::<L>("lockfree of 16", 16),
            row::<L>("lockfree of 1000", 1_000),
            row::<L>("lockfree of 100000", most),
            row::<S>("mutex of 16", 16),
            row::<S>("mutex of 1000", 1_000),
            row::<S>("mutex of 100000", most),
            row::<P>("mutex-parking-lot of 16", 16),
            row::<P>("mutex-parking-lot of 1000", 1_000),
            row::<P>("mutex-parking-lot of 100000", most),
        ],
        comparisons: comparisons(floor),
    }
}

/// That cost follows no known partitions, and what it is by the twins': a rate of at least `floor` of theirs, if one is expected.
fn comparisons(floor: Option<f64>) -> Vec<Comparison> {
    let flat = |name| Comparison::rate(name, Who::Named("lockfree of 16")).at_least(1.0 / 1.3, 1.0 / 1.3);
    let by_twins = |name, twins| {
        let rate = Comparison::rate(name, Who::Fastest(twins));
        floor.map_or(rate, |floor| rate.at_least(floor, floor))
    };
    vec![
        flat("lockfree of 1000"),
        flat("lockfree of 100000"),
        by_twins("lockfree of 16", &["mutex of 16", "mutex-parking-lot of 16"]),
        by_twins("lockfree of 1000", &["mutex of 1000", "mutex-parking-lot of 1000"]),
        by_twins("lockfree of 100000", &["mutex of 100000", "mutex-parking-lot of 100000"]),
        Comparison::rate("mutex-parking-lot of 100000", Who::Named("mutex-parking-lot of 16")),
    ]
}

fn row<T: Turns>(name: &'static str, known: usize) -> Impl {
    // Known partitions take a while to make: one accumulator for all runs.
    let turns = OnceCell::new();
    Impl {
        name,
        run: Box::new(move |task| run(&mut *turns.get_or_init(|| RefCell::new(T::new(known))).borrow_mut(), task)),
    }
}

/// Turns, before each of which, untimed, each active partition gets a full batch.
pub(super) fn run<T: Turns>(turns: &mut T, task: &Task) -> Run {
    let (mut latency, mut elapsed, mut cpu, mut batches) = (histogram(), Duration::ZERO, Duration::ZERO, 0);
    while elapsed < task.time && batches < task.ops {
        turns.known().fill();
        let (before, cpu_before) = (turns.known().clock.now(), cpu_time());
        batches += turns.turn();
        let turn = turns.known().clock.now().saturating_since(before);
        cpu += cpu_time().saturating_sub(cpu_before);
        latency += nanos(turn);
        elapsed += turn;
    }
    Run { elapsed, ops: batches, cpu, latency, open: None, extra: turns.known().extra(elapsed, batches) }
}

/// An accumulator and a cluster that know many partitions, of which [`ACTIVE`] get data.
pub(super) struct Known<A: Accumulator> {
    known: usize,
    pub(super) clock: Arc<SystemClock>,
    pub(super) accumulator: Arc<A>,
    pub(super) cluster: Arc<Cluster>,
    active: Vec<A::Partition>,
}

impl<A: Accumulator> Known<A> {
    pub(super) fn new(known: usize) -> (Self, A::View) {
        let clock = Arc::new(SystemClock::new());
        let config = AccumulatorConfig { linger: Duration::from_secs(3_600), ..AccumulatorConfig::default() };
        let (accumulator, view) = A::new(config, clock.clone());
        let of_topic = known.min(OF_TOPIC);
        let topics: Vec<String> = (0..known / of_topic).map(|topic| format!("topic-{topic}")).collect();
        let cluster = Cluster::single_node(NodeId(0), topics.iter().map(|topic| (&**topic, of_topic as i32)));
        let partitions: Vec<_> = cluster.led_by(NodeId(0)).iter().map(|one| accumulator.partition(one)).collect();
        let active = partitions.into_iter().step_by(known / ACTIVE).take(ACTIVE).collect();
        (Self { known, clock, accumulator, cluster: Arc::new(cluster), active }, view)
    }

    /// Gives each active partition a full batch.
    fn fill(&self) {
        let value = [b'x'; 100];
        let record = Record { timestamp: 1_700_000_000_000, value: Some(&value), ..Record::default() };
        for partition in &self.active {
            let mut full = false;
            while !full {
                let appended = self.accumulator.append(partition, &record, Reply::IGNORE, Duration::ZERO);
                full = appended.expect("there is memory for all of them").batch_is_full;
            }
        }
    }

    /// What a row has beside the common figures.
    fn extra(&self, elapsed: Duration, batches: u64) -> Map<String, Value> {
        let per_batch = elapsed.as_nanos() as f64 / batches as f64;
        [("known", self.known.into()), ("ns_per_batch", per_batch.into())]
            .map(|(key, is)| (key.to_owned(), is))
            .into_iter()
            .collect()
    }
}

struct Drain<A: Accumulator> {
    known: Known<A>,
    view: A::View,
}

impl<A: Accumulator> Turns for Drain<A> {
    type Accumulator = A;

    fn new(known: usize) -> Self {
        let (known, view) = Known::new(known);
        Self { known, view }
    }

    fn known(&self) -> &Known<A> {
        &self.known
    }

    fn turn(&mut self) -> u64 {
        let mut batches = 0;
        while batches < ACTIVE as u64 {
            batches += self.pass();
        }
        batches
    }
}

impl<A: Accumulator> Drain<A> {
    /// Batches drained, completed and returned.
    fn pass(&mut self) -> u64 {
        let now = self.known.clock.now();
        let ready = self.view.ready(&self.known.cluster, now);
        let mut batches = 0;
        for drained in self.view.drain(&self.known.cluster, &ready.nodes, 1 << 20, now) {
            for batch in drained.batches {
                debug_assert!(batch.size() > BATCH / 2, "it is about full");
                batch.completion().complete(0, None).expect("completed once");
                self.view.deallocate(batch).expect("in the books");
                batches += 1;
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::TopicPartition;

    #[test]
    fn a_turn_takes_a_full_batch_of_each_active_partition_and_no_more() {
        let mut drain = Drain::<LockFreeAccumulator>::new(1_600);
        assert_eq!(drain.known.active.len(), ACTIVE);
        let run = run(&mut drain, &Task::of_ops(1, 64));
        assert_eq!((run.ops, run.latency.len()), (64, 4));
        assert_eq!(drain.pass(), 0, "what was begun behind a full batch waits for company");
        let expected: &TopicPartition = &drain.known.cluster.led_by(NodeId(0))[1_500];
        assert_eq!(*expected, TopicPartition::new("topic-15", 0));
    }
}
