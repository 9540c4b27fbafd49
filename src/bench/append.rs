//! Suite `append`: threads append while one thread drains, checksums and completes.
//!
//! Batches have 16 KiB, `linger.ms` is 5; records have 10, 100 and 1 024 bytes, with `--quick` 100; threads: 1, 2, 4, 8, 16.
//!
//! | scenario | partitions | which one a record goes to | memory |
//! |---|---|---|---|
//! | `hot` | 1 | that one | 32 MiB |
//! | `spread` | 16 | each thread goes round, and begins at another | 32 MiB |
//! | `keyed` | 16 | [`partition_for_key`] of the record's key, murmur2: the tail numbers of the bundled flights, in their order, each thread from another row | 32 MiB |
//! | `wide` | 100 000, with `--quick` 4 000, in topics of a hundred | drawn by Zipf's law, exponent 1: the k-th most frequent one k times as seldom as the first; all are known, and the draws made, before the time runs | 2 GiB |
//! | `fill` | 1 | see [`fill`](super::fill): at fixed rates, for what the batches hold | 32 MiB |
//!
//! # Implementations
//! - `NAME`: all threads append to the shared lanes; `NAME-appender`: each has an appender; `+future` (in `hot`): each append asks for a future and drops it.
//! - `bare-parking-lot` (in `hot`): copies into a vector under a lock, [`super::bare`]: what it costs at the very least.
//!
//! In `wide` each implementation has one accumulator for all its runs, since to make known takes longer than a run; what a run leaves open is drained by the next. Memory never runs out there, so a drainer that does not keep up would hold up nobody: `seconds` and `cpu_s` are those until
//! it has taken all that was ready when the last append had returned.
//!
//! # What is expected
//! In `hot`, with futures and without: the shared lane 1.1 times as fast as the strongest twin, its p99.99 a tenth of the best twin's from four threads on; an appender 1.5 times as fast on one thread, 2.5 times with more, and 1.3 times the twin's appenders, its p99.99 a fiftieth.
//! In `spread` and `keyed`: the shared lane as fast as the strongest twin, an appender 1.2 times as fast on one thread and 1.5 times with more; in `wide` both 1.1 times.

use std::cell::{OnceCell, RefCell};
use std::hint::black_box;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::bare::{BATCH, BareAppend};
use super::load::{Done, Load, cpu_time, with_helper};
use super::verdict::{Comparison, Who};
use super::{Impl, Mode, Run, Scenario, THREADS, Task, fill};
use crate::accumulator::{Accumulator, AccumulatorConfig, Appender, LockFreeAccumulator, SenderView};
use crate::batch::Reply;
use crate::broker::{Cluster, NodeId};
use crate::cli::input::SAMPLE;
use crate::mutex::{ParkingLotAccumulator, StdAccumulator};
use crate::primitive::clock::{Clock, SharedClock, SystemClock};
use crate::primitive::random::Random;
use crate::primitive::thread;
use crate::producer::partition_for_key;
use crate::record::{Record, crc32c};

/// Each how manieth append is timed.
const TIMED_EACH: u64 = 32;
/// How long an append waits for memory.
pub(super) const MAX_BLOCK: Duration = Duration::from_secs(60);
/// Appends a second on the schedule.
const RATE: u64 = 1_000_000;
/// Partitions of `spread` and `keyed`.
const SOME: usize = 16;
/// Partitions of `wide`, and of one of its topics.
const WIDE: usize = if cfg!(test) { 2_000 } else { 100_000 };
const WIDE_QUICK: usize = if cfg!(test) { 2_000 } else { 4_000 };
const OF_TOPIC: usize = 100;
/// Draws that a thread of `wide` goes through, again and again.
const DRAWS: usize = 1 << 16;

pub(super) fn scenarios(mode: Mode) -> Vec<Scenario> {
    let sizes: &[usize] = match mode {
        Mode::Quick => &[100],
        Mode::Full => &[10, 100, 1_024],
    };
    let of_each = |scenario: fn(usize) -> Scenario| sizes.iter().map(move |bytes| scenario(*bytes));
    let wide_partitions = if mode == Mode::Quick { WIDE_QUICK } else { WIDE };
    let fill_sizes: &[usize] = if mode == Mode::Quick { &[100] } else { &[10, 100] };
    of_each(hot)
        .chain(of_each(|bytes| scenario("spread", SOME, bytes, [1.0, 1.2, 1.5], spread())))
        .chain(of_each(|bytes| scenario("keyed", SOME, bytes, [1.0, 1.2, 1.5], keyed())))
        .chain(sizes.iter().map(|bytes| scenario("wide", wide_partitions, *bytes, [1.1; 3], wide(wide_partitions))))
        .chain(fill_sizes.iter().map(|bytes| fill::scenario(*bytes)))
        .collect()
}

fn hot(bytes: usize) -> Scenario {
    let at =
        |future| At { bytes, future, ways: Ways { partitions: 1, memory: 32 << 20, kept: false, next: Next::One } };
    Scenario {
        impls: vec![
            row::<LockFreeAccumulator>("lockfree", at(false)),
            row::<LockFreeAccumulator>("lockfree+future", at(true)),
            appender_row::<LockFreeAccumulator>("lockfree-appender", at(false)),
            appender_row::<LockFreeAccumulator>("lockfree-appender+future", at(true)),
            row::<StdAccumulator>("mutex", at(false)),
            row::<ParkingLotAccumulator>("mutex-parking-lot", at(false)),
            row::<ParkingLotAccumulator>("mutex-parking-lot+future", at(true)),
            appender_row::<ParkingLotAccumulator>("mutex-parking-lot-appender", at(false)),
            appender_row::<ParkingLotAccumulator>("mutex-parking-lot-appender+future", at(true)),
            Impl { name: "bare-parking-lot", run: Box::new(move |task| bare(bytes, task)) },
        ],
        comparisons: vec![
            Comparison::rate("lockfree", Who::StrongestTwin).at_least(1.1, 1.1),
            Comparison::tail("lockfree", Who::BestTail).at_most(1.0 / 10.0).from(4),
            Comparison::rate("lockfree+future", Who::Named("mutex-parking-lot+future")).at_least(1.1, 1.1),
            Comparison::rate("lockfree-appender", Who::StrongestTwin).at_least(1.5, 2.5),
            Comparison::tail("lockfree-appender", Who::BestTail).at_most(1.0 / 50.0).from(4),
            Comparison::rate("lockfree-appender+future", Who::Named("mutex-parking-lot+future")).at_least(1.5, 2.5),
            Comparison::rate("lockfree-appender", Who::Named("mutex-parking-lot-appender")).at_least(1.3, 1.3),
            Comparison::rate("lockfree-appender+future", Who::Named("mutex-parking-lot-appender+future"))
                .at_least(1.3, 1.3),
            Comparison::rate("lockfree", Who::Named("bare-parking-lot")),
            Comparison::rate(Who::StrongestTwin, Who::Named("bare-parking-lot")),
        ],
        ..empty("hot", 1, bytes)
    }
}

fn empty(name: &'static str, partitions: usize, bytes: usize) -> Scenario {
    Scenario {
        name,
        threads: THREADS,
        any_threads: true,
        partitions: Some(partitions),
        record_bytes: Some(bytes),
        once: false,
        impls: Vec::new(),
        comparisons: Vec::new(),
    }
}

/// A scenario with many partitions; what is expected of the shared lanes, of appenders on one thread, and of appenders on more.
fn scenario(name: &'static str, partitions: usize, bytes: usize, floors: [f64; 3], ways: Ways) -> Scenario {
    let at = || At { bytes, future: false, ways: ways.clone() };
    let [shared, single, many] = floors;
    Scenario {
        impls: vec![
            row::<LockFreeAccumulator>("lockfree", at()),
            appender_row::<LockFreeAccumulator>("lockfree-appender", at()),
            row::<StdAccumulator>("mutex", at()),
            row::<ParkingLotAccumulator>("mutex-parking-lot", at()),
            appender_row::<ParkingLotAccumulator>("mutex-parking-lot-appender", at()),
        ],
        comparisons: vec![
            Comparison::rate("lockfree", Who::StrongestTwin).at_least(shared, shared),
            Comparison::rate("lockfree-appender", Who::StrongestTwin).at_least(single, many),
            Comparison::rate("lockfree-appender", Who::Named("mutex-parking-lot-appender")),
            Comparison::tail("lockfree", Who::BestTail),
            Comparison::tail("lockfree-appender", Who::BestTail),
        ],
        ..empty(name, partitions, bytes)
    }
}

/// Where records go.
#[derive(Clone)]
pub(super) struct Ways {
    pub(super) partitions: usize,
    /// Of the pool, in bytes.
    pub(super) memory: u64,
    /// Whether the accumulator is kept for the next run.
    pub(super) kept: bool,
    pub(super) next: Next,
}

/// How a thread chooses.
#[derive(Clone)]
pub(super) enum Next {
    One,
    Round,
    Keys(Arc<Vec<Vec<u8>>>),
    Drawn(Arc<Vec<f64>>),
}

fn spread() -> Ways {
    Ways { partitions: SOME, memory: 32 << 20, kept: false, next: Next::Round }
}

fn keyed() -> Ways {
    static KEYS: OnceLock<Arc<Vec<Vec<u8>>>> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        const TAIL_NUMBER: usize = 11;
        let rows = SAMPLE.split(|byte| *byte == b'\n').skip(1);
        let keys = rows.filter_map(|row| row.split(|byte| *byte == b',').nth(TAIL_NUMBER));
        Arc::new(keys.map(<[u8]>::to_vec).collect())
    });
    Ways { partitions: SOME, memory: 32 << 20, kept: false, next: Next::Keys(Arc::clone(keys)) }
}

fn wide(partitions: usize) -> Ways {
    let mut sum = 0.0;
    let add = |rank: usize| {
        sum += 1.0 / rank as f64;
        sum
    };
    // Up to the k-th, the sum of 1, 1/2, .. 1/k.
    let sums = (1..=partitions).map(add).collect();
    Ways { partitions, memory: 2 << 30, kept: true, next: Next::Drawn(Arc::new(sums)) }
}

/// What a thread goes through: for each record its partition, and its key.
type Course = Vec<u32>;

impl Ways {
    /// Of thread `thread`. Of keys their numbers are given, since their partitions are a record's own work.
    fn course(&self, thread: usize) -> Course {
        match &self.next {
            Next::One => vec![0],
            Next::Round => (0..SOME).map(|at| ((at + thread * 5) % SOME) as u32).collect(),
            Next::Keys(keys) => (0..keys.len()).map(|at| ((at + thread * 251) % keys.len()) as u32).collect(),
            Next::Drawn(sums) => {
                let mut random = Random::seeded(thread as u64);
                let all = sums.last().copied().unwrap_or_default();
                let draw = |_| {
                    let drawn = random.unit() * all;
                    let rank = sums.partition_point(|sum| *sum < drawn).min(sums.len() - 1);
                    // The frequent ones lie far from each other.
                    (rank * 7_919 % sums.len()) as u32
                };
                (0..DRAWS).map(draw).collect()
            }
        }
    }
}

/// What a row does.
struct At {
    bytes: usize,
    future: bool,
    ways: Ways,
}

/// An accumulator with its sender's side.
pub(super) struct Bench<A: Accumulator> {
    pub(super) accumulator: Arc<A>,
    view: A::View,
    cluster: Cluster,
    clock: SharedClock,
    pub(super) partitions: Vec<A::Partition>,
}

/// What a drain has taken.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) requests: u64,
    pub(super) batches: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl<A: Accumulator> Bench<A> {
    pub(super) fn new(ways: &Ways) -> Self {
        let config = AccumulatorConfig {
            linger: Duration::from_millis(5),
            buffer_memory: ways.memory,
            batch_size: BATCH,
            ..AccumulatorConfig::default()
        };
        let clock = SystemClock::shared();
        let (accumulator, view) = A::new(config, clock.clone());
        let of_topic = ways.partitions.min(OF_TOPIC);
        let topics: Vec<String> = (0..ways.partitions / of_topic).map(|topic| format!("bench-{topic}")).collect();
        let cluster = Cluster::single_node(NodeId(0), topics.iter().map(|topic| (&**topic, of_topic as i32)));
        let partitions = cluster.led_by(NodeId(0)).iter().map(|one| accumulator.partition(one)).collect();
        Self { accumulator, view, cluster, clock, partitions }
    }

    /// Runs `work` while one more thread drains.
    pub(super) fn drained<R>(&mut self, work: impl FnOnce(&Arc<A>, &[A::Partition]) -> R) -> (R, Taken) {
        let Self { accumulator, view, cluster, clock, partitions } = self;
        let mut taken = Taken::default();
        let drain = || {
            let now = clock.now();
            let ready = view.ready(cluster, now);
            let before = taken.batches;
            for drained in view.drain(cluster, &ready.nodes, 1 << 20, now) {
                taken.requests += u64::from(!drained.batches.is_empty());
                for batch in drained.batches {
                    taken.batches += 1;
                    taken.records += u64::from(batch.record_count());
                    taken.bytes += batch.size() as u64;
                    batch.completion().complete(0, None).expect("completed once");
                    view.deallocate(batch).expect("in the books");
                }
            }
            taken.batches > before
        };
        let result = with_helper(|| work(accumulator, partitions), drain, nap);
        (result, taken)
    }
}

fn row<A: Accumulator>(name: &'static str, at: At) -> Impl {
    let state = |_: &Arc<A>| ();
    let append = |accumulator: &A, (): &mut (), partition: &A::Partition, record: &Record<'_>, reply| {
        let appended = accumulator.append(partition, record, reply, MAX_BLOCK);
        // Looked at where it lies: a move of what was written a moment ago in smaller pieces stalls for longer than an append takes.
        assert!(black_box(&appended).is_ok(), "memory comes free");
    };
    appends(name, at, state, append)
}

/// Each thread has an appender.
fn appender_row<A: Accumulator>(name: &'static str, at: At) -> Impl {
    let append = |_: &A, appender: &mut A::Appender, partition: &A::Partition, record: &Record<'_>, reply| {
        let appended = appender.append(partition, record, reply, MAX_BLOCK);
        // As above.
        assert!(black_box(&appended).is_ok(), "memory comes free");
    };
    appends(name, at, A::appender, append)
}

fn appends<A: Accumulator, S: Send + 'static>(
    name: &'static str,
    at: At,
    state: impl Fn(&Arc<A>) -> S + 'static,
    append: impl Fn(&A, &mut S, &A::Partition, &Record<'_>, Reply) + Sync + 'static,
) -> Impl {
    let kept = OnceCell::new();
    let run = move |task: &Task| {
        if at.ways.kept {
            let mut bench = kept.get_or_init(|| RefCell::new(Bench::<A>::new(&at.ways))).borrow_mut();
            return one_run(&mut bench, &at, task, &state, &append);
        }
        let mut bench = Bench::<A>::new(&at.ways);
        let run = one_run(&mut bench, &at, task, &state, &append);
        bench.accumulator.close();
        run
    };
    Impl { name, run: Box::new(run) }
}

/// What a thread has: its own of the implementation, and its course with the place that it has come to.
struct Thread<S> {
    own: S,
    course: Course,
    at: usize,
}

impl<S> Thread<S> {
    #[inline(always)]
    fn next(&mut self) -> usize {
        let next = self.course[self.at] as usize;
        self.at += 1;
        if self.at == self.course.len() {
            self.at = 0;
        }
        next
    }
}

fn one_run<A: Accumulator, S: Send>(
    bench: &mut Bench<A>,
    at: &At,
    task: &Task,
    state: &impl Fn(&Arc<A>) -> S,
    append: &(impl Fn(&A, &mut S, &A::Partition, &Record<'_>, Reply) + Sync),
) -> Run {
    let thread = |thread| Thread { own: state(&bench.accumulator), course: at.ways.course(thread), at: 0 };
    let threads: Vec<_> = (0..task.threads).map(thread).collect();
    if !at.ways.kept {
        return one_pass(bench, at, task, threads, append).0;
    }
    // The pass on a schedule by itself, so that the closed loop's end is seen.
    let (mut run, threads) = one_pass(bench, at, &Task { open: None, ..*task }, threads, append);
    if task.open.is_some() {
        run.open = one_pass(bench, at, &Task { ops: 1, ..*task }, threads, append).0.open;
    }
    run
}

fn one_pass<A: Accumulator, S: Send>(
    bench: &mut Bench<A>,
    at: &At,
    task: &Task,
    states: Vec<Thread<S>>,
    append: &(impl Fn(&A, &mut S, &A::Partition, &Record<'_>, Reply) + Sync),
) -> (Run, Vec<Thread<S>>) {
    let value = vec![b'x'; at.bytes];
    let record = Record { timestamp: 1_700_000_000_000, value: Some(&value), ..Record::default() };
    let reply = || if at.future { Reply::FUTURE } else { Reply::IGNORE };
    let clock = &SystemClock::new();
    let ((mut run, states, ended, cpu), _) = bench.drained(|accumulator, partitions| {
        let (timed_each, rate, helpers) = (TIMED_EACH, RATE, 1);
        // One closure for each kind, so that none pays for another's choice.
        let (run, states) = match &at.ways.next {
            Next::One => {
                let partition = &partitions[0];
                let op = |thread: &mut Thread<S>, _| {
                    append(accumulator, &mut thread.own, partition, &record, reply());
                    Done::Now
                };
                Load { clock, states, op, helpers, timed_each, rate }.run(task)
            }
            Next::Round | Next::Drawn(_) => {
                let op = |thread: &mut Thread<S>, _| {
                    let partition = &partitions[thread.next()];
                    append(accumulator, &mut thread.own, partition, &record, reply());
                    Done::Now
                };
                Load { clock, states, op, helpers, timed_each, rate }.run(task)
            }
            Next::Keys(keys) => {
                let op = |thread: &mut Thread<S>, _| {
                    let key = &*keys[thread.next()];
                    let partition = &partitions[partition_for_key(key, SOME as i32) as usize];
                    let record = Record { key: Some(key), ..record };
                    append(accumulator, &mut thread.own, partition, &record, reply());
                    Done::Now
                };
                Load { clock, states, op, helpers, timed_each, rate }.run(task)
            }
        };
        (run, states, clock.now(), cpu_time())
    });
    if at.ways.kept {
        run.elapsed += clock.now().saturating_since(ended);
        run.cpu += cpu_time().saturating_sub(cpu);
    }
    (run, states)
}

fn bare(bytes: usize, task: &Task) -> Run {
    let value = vec![b'x'; bytes];
    debug_assert!(bytes <= BATCH);
    let queue = BareAppend::default();
    let load = Load {
        clock: &SystemClock::new(),
        states: vec![(); task.threads],
        op: |_: &mut (), _| {
            queue.append(&value);
            Done::Now
        },
        helpers: 1,
        timed_each: TIMED_EACH,
        rate: RATE,
    };
    let drain = || {
        let Some(full) = queue.pop() else { return false };
        black_box(crc32c(&full));
        queue.give_back(full);
        true
    };
    with_helper(|| load.run(task), drain, nap).0
}

/// What the drainer does when there was nothing.
fn nap() {
    thread::sleep(Duration::from_micros(50));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn courses_are_what_they_say() {
        assert_eq!(spread().course(1)[..3], [5, 6, 7]);
        let Ways { next: Next::Keys(keys), .. } = keyed() else { panic!("keys") };
        assert_eq!(keys.len(), 4_000);
        assert_eq!(keys[0], b"N14228");
        let mut hit = [0; SOME];
        keys.iter().for_each(|key| hit[partition_for_key(key, SOME as i32) as usize] += 1);
        assert!(hit.iter().all(|hit| *hit > 0), "{hit:?}");
        let mut drawn = vec![0_u32; WIDE];
        wide(WIDE).course(0).iter().for_each(|partition| drawn[*partition as usize] += 1);
        let most = *drawn.iter().max().expect("some");
        assert_eq!(drawn[0], most, "the first is the most frequent");
        let second = drawn[7_919 % WIDE];
        assert!((f64::from(most) / f64::from(second) - 2.0).abs() < 0.2, "{most} by {second}");
        assert_ne!(wide(WIDE).course(1), wide(WIDE).course(0));
    }
}
