//! Append scenarios: threads append to one partition while one thread drains, checksums and completes.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, LockFreeAccumulator, SenderView};
use unlatched::batch::Reply;
use unlatched::broker::{Cluster, NodeId};
use unlatched::error::TopicPartition;
use unlatched::mutex::{ParkingLotAccumulator, StdAccumulator};
use unlatched::primitive::clock::SystemClock;
use unlatched::record::{Record, crc32c};

use super::bare::BareAppend;
use super::{Row, Run, on_threads};

/// `hot`: one partition, records of `bytes` bytes. With `future`, each append asks for a future and drops it.
pub fn hot(bytes: usize) -> Vec<Row> {
    vec![
        row::<LockFreeAccumulator>("lockfree", bytes, false),
        row::<LockFreeAccumulator>("lockfree+future", bytes, true),
        row::<StdAccumulator>("mutex", bytes, false),
        row::<ParkingLotAccumulator>("mutex-parking-lot", bytes, false),
        row::<ParkingLotAccumulator>("mutex-parking-lot+future", bytes, true),
        bare(bytes),
    ]
}

fn row<A: Accumulator>(name: &'static str, bytes: usize, future: bool) -> Row {
    let value = vec![b'x'; bytes];
    Row {
        name,
        run: Box::new(move |threads, ops| {
            let config = AccumulatorConfig { linger: Duration::from_millis(5), ..AccumulatorConfig::default() };
            let clock = SystemClock::shared();
            let (accumulator, mut view) = A::new(config, clock.clone());
            let node = NodeId(0);
            let cluster = Cluster::single_node(node, [("bench", 1)]);
            let partition = accumulator.partition(&TopicPartition::new("bench", 0));
            let record = Record { timestamp: 1_700_000_000_000, value: Some(&value), ..Record::default() };
            let run = with_drainer(
                || {
                    on_threads(threads, ops, |_, _| {
                        let reply = if future { Reply::FUTURE } else { Reply::IGNORE };
                        let appended = accumulator.append(&partition, &record, reply, Duration::from_secs(60));
                        // Looked at where it lies: a move of what was written a moment ago in smaller pieces stalls for longer than an append takes.
                        assert!(black_box(&appended).is_ok(), "memory comes free");
                    })
                },
                || {
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
                },
            );
            accumulator.close();
            run
        }),
    }
}

fn bare(bytes: usize) -> Row {
    let value = vec![b'x'; bytes];
    Row {
        name: "bare-parking-lot",
        run: Box::new(move |threads, ops| {
            let queue = Arc::new(BareAppend::default());
            with_drainer(
                || on_threads(threads, ops, |_, _| queue.append(&value)),
                || {
                    let Some(full) = queue.pop() else { return false };
                    black_box(crc32c(&full));
                    queue.give_back(full);
                    true
                },
            )
        }),
    }
}

/// Runs `work` while one more thread calls `drain` over and over; it naps when there was nothing.
fn with_drainer(work: impl FnOnce() -> Run, mut drain: impl FnMut() -> bool + Send) -> Run {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                if !drain() {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        });
        let run = work();
        done.store(true, Ordering::Relaxed);
        run
    })
}
