//! Suite `map`: partitions are looked up, and created.
//!
//! Partitions stand in topics of at most a thousand; who looks one up has its topic and number, and reads eight bytes of the entry where it lies, in every implementation. Maps are built before the time runs.
//!
//! | scenario | an operation |
//! |---|---|
//! | `get` | look up one of 10, 1 000 or 100 000 partitions, drawn at random |
//! | `mixed` | the same among 1 000, but each hundredth operation creates a partition in a topic of the thread's own, up to 8 000 there and then again from the first |
//! | `insert` | create a partition of one topic, until there are 10 000, or 100 000 in the full mode, there once and by one thread; every run begins with an empty map |
//!
//! # Implementations
//! - `lockfree`: [`SegmentedMap`]. `copy-on-write`: [`CopyOnWriteMap`], which is Kafka's, its writers' lock `parking_lot`'s.
//! - `dashmap`, `papaya`: those crates' maps from a [`TopicPartition`], with the hash that the other two use for the topic's name.

use std::fmt;
use std::hint::black_box;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustc_hash::FxBuildHasher;

use super::load::{Done, Load, this_thread};
use super::verdict::{Comparison, Who};
use super::{Impl, Mode, Run, Scenario, THREADS, Task};
use crate::error::TopicPartition;
use crate::mutex::CopyOnWriteMap;
use crate::partition_map::{PartitionMap, SegmentedMap};
use crate::primitive::atomic::AtomicBool;
use crate::primitive::atomic::Ordering::Relaxed;
use crate::primitive::clock::SystemClock;
use crate::primitive::epoch;
use crate::primitive::lock::ParkingLot;
use crate::primitive::random::Random;

/// Each how manieth operation is timed.
const TIMED_EACH: u64 = 32;
/// Operations a second on the schedule.
const RATE: u64 = 1_000_000;
/// Partitions of a topic.
const OF_TOPIC: usize = 1_000;
/// Each how manieth operation of `mixed` creates a partition, and how many of them a thread's topic has.
const CREATES_EACH: u64 = 100;
const CREATED: u64 = 8_000;
/// Partitions that are created.
const INSERTS: usize = if cfg!(test) { 300 } else { 10_000 };
const ALL_INSERTS: usize = 100_000;
/// Who is compared with.
const OTHERS: Who = Who::Fastest(&["copy-on-write", "dashmap", "papaya"]);

pub(super) fn scenarios(mode: Mode) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = [10, 1_000, 100_000].map(get).into();
    scenarios.push(scenario("mixed", OF_TOPIC, |map| Box::new(move |task| mixed(map, task))));
    scenarios.push(scenario("insert", INSERTS, |map| Box::new(move |task| inserts(map, INSERTS, task))));
    if mode == Mode::Full {
        let all = scenario("insert", ALL_INSERTS, |map| Box::new(move |task| inserts(map, ALL_INSERTS, task)));
        let faster = Comparison::rate("lockfree", Who::Named("copy-on-write")).at_least(50.0, 50.0);
        scenarios.push(Scenario { threads: &[1], once: true, comparisons: vec![faster], ..all });
    }
    scenarios
}

fn get(partitions: usize) -> Scenario {
    let own = scenario("get", partitions, |map| {
        // Built by the first run.
        let built = OnceLock::new();
        Box::new(move |task| gets(built.get_or_init(|| filled(map, partitions)), task))
    });
    let comparisons = vec![Comparison::rate("lockfree", OTHERS).at_least(1.0, 1.0)];
    Scenario { comparisons, ..own }
}

type RunFn = Box<dyn Fn(&Task) -> Run>;

fn scenario(name: &'static str, partitions: usize, run: impl Fn(Make) -> RunFn) -> Scenario {
    let implementation = |name, make| Impl { name, run: run(make) };
    Scenario {
        name,
        threads: THREADS,
        any_threads: true,
        partitions: Some(partitions),
        record_bytes: None,
        once: false,
        impls: vec![
            implementation("lockfree", || Box::new(SegmentedMap::<u64>::default())),
            implementation("copy-on-write", || Box::new(CopyOnWriteMap::<u64, ParkingLot>::default())),
            implementation("dashmap", || Box::new(Dash::default())),
            implementation("papaya", || Box::new(Papaya::default())),
        ],
        comparisons: vec![
            Comparison::rate("lockfree", OTHERS),
            Comparison::rate("lockfree", Who::Named("copy-on-write")),
        ],
    }
}

/// A map as the bench sees it.
trait Map: fmt::Debug + Send + Sync {
    /// What the partition's entry says.
    fn get(&self, key: &TopicPartition) -> Option<u64>;

    /// Creates its entry, if there is none.
    fn create(&self, key: &TopicPartition, value: u64);
}

type Make = fn() -> Box<dyn Map>;

impl<M: PartitionMap<u64>> Map for M {
    #[inline]
    fn get(&self, key: &TopicPartition) -> Option<u64> {
        self.with(&key.topic, key.partition, |value| *value)
    }

    #[inline]
    fn create(&self, key: &TopicPartition, value: u64) {
        black_box(self.get_or_create(key, || value));
    }
}

#[derive(Debug, Default)]
struct Dash(dashmap::DashMap<TopicPartition, Arc<u64>, FxBuildHasher>);

impl Map for Dash {
    fn get(&self, key: &TopicPartition) -> Option<u64> {
        self.0.get(key).map(|value| **value)
    }

    fn create(&self, key: &TopicPartition, value: u64) {
        black_box(Arc::clone(&self.0.entry(key.clone()).or_insert_with(|| Arc::new(value))));
    }
}

#[derive(Debug, Default)]
struct Papaya(papaya::HashMap<TopicPartition, Arc<u64>, FxBuildHasher>);

impl Map for Papaya {
    fn get(&self, key: &TopicPartition) -> Option<u64> {
        self.0.pin().get(key).map(|value| **value)
    }

    fn create(&self, key: &TopicPartition, value: u64) {
        black_box(Arc::clone(self.0.pin().get_or_insert_with(key.clone(), || Arc::new(value))));
    }
}

/// Partitions in topics of a thousand.
fn keys(partitions: usize) -> Vec<TopicPartition> {
    let topics: Vec<Arc<str>> =
        (0..partitions.div_ceil(OF_TOPIC)).map(|topic| format!("topic-{topic}").into()).collect();
    let key = |at: usize| TopicPartition::new(Arc::clone(&topics[at / OF_TOPIC]), (at % OF_TOPIC) as i32);
    (0..partitions).map(key).collect()
}

/// A map and what is in it.
type Filled = (Box<dyn Map>, Vec<TopicPartition>);

fn filled(make: Make, partitions: usize) -> Filled {
    let (map, keys) = (make(), keys(partitions));
    for (value, key) in (0..).zip(&keys) {
        map.create(key, value);
    }
    (map, keys)
}

/// Destroys all that was retired so far, so that nobody's run pays for another's: a copy-on-write map leaves a table for each partition that was created.
fn collect_garbage() {
    let collected = Arc::new(AtomicBool::new(false));
    {
        let collected = Arc::clone(&collected);
        let guard = epoch::pin();
        // Relaxed, here and below: a flag that this thread alone writes or reads, or polls.
        guard.defer(move || collected.store(true, Relaxed));
        guard.flush();
    }
    // What was handed over before comes before it.
    while !collected.load(Relaxed) {
        epoch::pin().flush();
    }
}

/// Which partition is next, for each thread.
fn draws(threads: usize) -> Vec<Random> {
    (0..threads as u64).map(Random::seeded).collect()
}

/// Looks one of them up, and that it is the right one.
#[inline]
fn look_up((map, keys): &Filled, random: &mut Random) {
    let at = random.below(keys.len() as u64);
    assert_eq!(black_box(map.get(&keys[at as usize])), Some(at));
}

fn gets(filled: &Filled, task: &Task) -> Run {
    collect_garbage();
    let load = Load {
        clock: &SystemClock::new(),
        states: draws(task.threads),
        op: |random: &mut Random, _| {
            look_up(filled, random);
            Done::Now
        },
        helpers: 0,
        timed_each: TIMED_EACH,
        rate: RATE,
    };
    load.run(task).0
}

fn mixed(make: Make, task: &Task) -> Run {
    let filled = filled(make, OF_TOPIC);
    collect_garbage();
    let own: Vec<Arc<str>> = (0..task.threads).map(|thread| format!("own-{thread}").into()).collect();
    let load = Load {
        clock: &SystemClock::new(),
        states: draws(task.threads),
        op: |random: &mut Random, count| {
            if count % CREATES_EACH == CREATES_EACH - 1 {
                let partition = count / CREATES_EACH % CREATED;
                filled.0.create(&TopicPartition::new(Arc::clone(&own[this_thread()]), partition as i32), partition);
            } else {
                look_up(&filled, random);
            }
            Done::Now
        },
        helpers: 0,
        timed_each: TIMED_EACH,
        rate: RATE,
    };
    load.run(task).0
}

/// Threads share the numbers out among them; the run ends when one has created its share.
fn inserts(make: Make, partitions: usize, task: &Task) -> Run {
    collect_garbage();
    let (map, topic, threads) = (make(), Arc::<str>::from("topic"), task.threads as u64);
    let load = Load {
        clock: &SystemClock::new(),
        states: vec![(); task.threads],
        op: |_: &mut (), count| {
            let partition = count * threads + this_thread() as u64;
            map.create(&TopicPartition::new(Arc::clone(&topic), partition as i32), partition);
            Done::Now
        },
        helpers: 0,
        // One in four, so that ten thousand have a p99.9.
        timed_each: 4,
        rate: RATE,
    };
    let share = partitions as u64 / threads;
    load.run(&Task { ops: share, time: Duration::MAX, open: None, ..*task }).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_finds_what_was_created_and_nothing_else() {
        let makes: [Make; 4] = [
            || Box::new(SegmentedMap::<u64>::default()),
            || Box::new(CopyOnWriteMap::<u64, ParkingLot>::default()),
            || Box::new(Dash::default()),
            || Box::new(Papaya::default()),
        ];
        for implementation in makes {
            let (map, keys) = filled(implementation, OF_TOPIC + 7);
            assert_eq!(keys.len(), 1_007);
            assert_eq!(keys[1_006], TopicPartition::new("topic-1", 6));
            for (value, key) in (0..).zip(&keys) {
                map.create(key, 9);
                assert_eq!(map.get(key), Some(value), "{map:?}");
            }
            assert_eq!(map.get(&TopicPartition::new("topic-1", 7)), None);
        }
    }

    #[test]
    fn inserts_count_what_was_created() {
        let run = inserts(|| Box::new(SegmentedMap::<u64>::default()), 400, &Task::of_ops(1, u64::MAX));
        assert_eq!(run.ops, 400);
    }
}
