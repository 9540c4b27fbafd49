//! Suite `append`: threads append to one partition while one thread drains, checksums and completes.
//!
//! - `hot`: one partition, batches of 16 KiB, `linger.ms` 5, records of 10, 100 and 1 024 bytes without key; `+future` asks for a future and drops it, with `-appender` each thread has one. `bare-parking-lot` copies into a vector
//!   under a lock: what it costs at the very least.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use super::bare::{BATCH, BareAppend};
use super::load::{Done, Load, with_helper};
use super::verdict::{Comparison, Who};
use super::{Impl, Mode, Run, Scenario, THREADS, Task};
use crate::accumulator::{Accumulator, AccumulatorConfig, Appender, LockFreeAccumulator, SenderView};
use crate::batch::Reply;
use crate::broker::{Cluster, NodeId};
use crate::error::TopicPartition;
use crate::mutex::{ParkingLotAccumulator, StdAccumulator};
use crate::primitive::clock::SystemClock;
use crate::primitive::thread;
use crate::record::{Record, crc32c};

/// Each how manieth append is timed.
const TIMED_EACH: u64 = 32;
/// How long an append waits for memory.
const MAX_BLOCK: Duration = Duration::from_secs(60);
/// Appends a second on the schedule.
const RATE: u64 = 1_000_000;

pub(super) fn scenarios(mode: Mode) -> Vec<Scenario> {
    let sizes: &[usize] = match mode {
        Mode::Quick => &[100],
        Mode::Full => &[10, 100, 1_024],
    };
    sizes.iter().map(|bytes| hot(*bytes)).collect()
}

fn hot(bytes: usize) -> Scenario {
    Scenario {
        name: "hot",
        threads: THREADS,
        any_threads: true,
        partitions: Some(1),
        record_bytes: Some(bytes),
        once: false,
        impls: vec![
            row::<LockFreeAccumulator>("lockfree", bytes, false),
            row::<LockFreeAccumulator>("lockfree+future", bytes, true),
            appender_row::<LockFreeAccumulator>("lockfree-appender", bytes, false),
            appender_row::<LockFreeAccumulator>("lockfree-appender+future", bytes, true),
            row::<StdAccumulator>("mutex", bytes, false),
            row::<ParkingLotAccumulator>("mutex-parking-lot", bytes, false),
            row::<ParkingLotAccumulator>("mutex-parking-lot+future", bytes, true),
            appender_row::<ParkingLotAccumulator>("mutex-parking-lot-appender", bytes, false),
            appender_row::<ParkingLotAccumulator>("mutex-parking-lot-appender+future", bytes, true),
            Impl { name: "bare-parking-lot", run: Box::new(move |task| bare(bytes, task)) },
        ],
        comparisons: vec![
            Comparison::rate("lockfree", Who::StrongestTwin),
            Comparison::tail("lockfree", Who::BestTail),
            Comparison::rate("lockfree+future", Who::Named("mutex-parking-lot+future")),
            Comparison::rate("lockfree-appender", Who::StrongestTwin),
            Comparison::tail("lockfree-appender", Who::BestTail),
            Comparison::rate("lockfree-appender+future", Who::Named("mutex-parking-lot+future")),
            Comparison::rate("lockfree-appender", Who::Named("mutex-parking-lot-appender")),
            Comparison::rate("lockfree-appender+future", Who::Named("mutex-parking-lot-appender+future")),
            Comparison::rate("lockfree", Who::Named("bare-parking-lot")),
            Comparison::rate(Who::StrongestTwin, Who::Named("bare-parking-lot")),
        ],
    }
}

fn row<A: Accumulator>(name: &'static str, bytes: usize, future: bool) -> Impl {
    let value = vec![b'x'; bytes];
    let state = |_: &Arc<A>| ();
    let append = |accumulator: &A, (): &mut (), partition: &A::Partition, record: &Record<'_>, reply| {
        let appended = accumulator.append(partition, record, reply, MAX_BLOCK);
        // Looked at where it lies: a move of what was written a moment ago in smaller pieces stalls for longer than an append takes.
        assert!(black_box(&appended).is_ok(), "memory comes free");
    };
    Impl { name, run: Box::new(move |task| appends(&value, future, task, state, append)) }
}

/// Each thread has an appender.
fn appender_row<A: Accumulator>(name: &'static str, bytes: usize, future: bool) -> Impl {
    let value = vec![b'x'; bytes];
    let append = |_: &A, appender: &mut A::Appender, partition: &A::Partition, record: &Record<'_>, reply| {
        let appended = appender.append(partition, record, reply, MAX_BLOCK);
        // As above.
        assert!(black_box(&appended).is_ok(), "memory comes free");
    };
    Impl { name, run: Box::new(move |task| appends(&value, future, task, A::appender, append)) }
}

fn appends<A: Accumulator, S: Send>(
    value: &[u8],
    future: bool,
    task: &Task,
    state: impl Fn(&Arc<A>) -> S,
    append: impl Fn(&A, &mut S, &A::Partition, &Record<'_>, Reply) + Sync,
) -> Run {
    let config = AccumulatorConfig { linger: Duration::from_millis(5), ..AccumulatorConfig::default() };
    let clock = SystemClock::shared();
    let (accumulator, mut view) = A::new(config, clock.clone());
    let node = NodeId(0);
    let cluster = Cluster::single_node(node, [("bench", 1)]);
    let partition = accumulator.partition(&TopicPartition::new("bench", 0));
    let record = Record { timestamp: 1_700_000_000_000, value: Some(value), ..Record::default() };
    let load = Load {
        clock: &SystemClock::new(),
        states: (0..task.threads).map(|_| state(&accumulator)).collect(),
        op: |state: &mut S, _| {
            let reply = if future { Reply::FUTURE } else { Reply::IGNORE };
            append(&accumulator, state, &partition, &record, reply);
            Done::Now
        },
        helpers: 1,
        timed_each: TIMED_EACH,
        rate: RATE,
    };
    let drain = || {
        let now = clock.now();
        let ready = view.ready(&cluster, now);
        let mut any = false;
        for drained in view.drain(&cluster, &ready.nodes, 1 << 20, now) {
            for batch in drained.batches {
                any = true;
                batch.completion().complete(0, None).expect("completed once");
                view.deallocate(batch).expect("in the books");
            }
        }
        any
    };
    let (run, _) = with_helper(|| load.run(task), drain, nap);
    accumulator.close();
    run
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
