//! Scenario `fill` of suite `append`: what batches hold at fixed rates. More lanes must not mean more batches where there is little to put into them.
//!
//! Eight threads append 1 000, 10 000 or 100 000 records a second together (`NAME at RATE`) to one partition, each at its own instants, and sleep in between; `linger.ms` is 5. A run has five times a run's time, since what counts comes
//! a few hundred times a second; with `--quick` that is too little for 2 % at the lowest rate. `ops` are the records; a row adds `batches`, `records_per_batch`, `fill` (bytes of batches by those of their buffers), `requests_per_record` (a request: what a drain had to send). Expected is that each
//! of these is that of the twin within 2 %, also where each thread has an appender.

use std::time::Duration;

use serde_json::Map;

use super::append::{Bench, MAX_BLOCK, Next, Taken, Ways};
use super::bare::BATCH;
use super::load::{cpu_time, histogram, nanos};
use super::verdict::{Comparison, Metric};
use super::{Impl, Run, Scenario, Task};
use crate::accumulator::{Accumulator, Appender, LockFreeAccumulator};
use crate::batch::Reply;
use crate::mutex::ParkingLotAccumulator;
use crate::primitive::clock::{Clock, Instant, SystemClock};
use crate::primitive::thread;
use crate::record::Record;

const WAYS: Ways = Ways { partitions: 1, memory: 32 << 20, kept: false, next: Next::One };
/// By how much figures may differ.
const WITHIN: f64 = 0.02;
/// A run's time by that of other scenarios'.
const LONGER: u32 = 5;

/// Records a second, and the names of those that send so many.
const RATES: [(u64, [&str; 3]); 3] = [
    (1_000, ["lockfree at 1000", "lockfree-appender at 1000", "mutex-parking-lot at 1000"]),
    (10_000, ["lockfree at 10000", "lockfree-appender at 10000", "mutex-parking-lot at 10000"]),
    (100_000, ["lockfree at 100000", "lockfree-appender at 100000", "mutex-parking-lot at 100000"]),
];

pub(super) fn scenario(bytes: usize) -> Scenario {
    let (mut impls, mut comparisons) = (Vec::new(), Vec::new());
    for (rate, [shared, owned, twin]) in RATES {
        impls.push(row::<LockFreeAccumulator>(shared, bytes, rate, false));
        impls.push(row::<LockFreeAccumulator>(owned, bytes, rate, true));
        impls.push(row::<ParkingLotAccumulator>(twin, bytes, rate, false));
        for own in [shared, owned] {
            for metric in [Metric::RecordsPerBatch, Metric::Fill, Metric::RequestsPerRecord] {
                comparisons.push(Comparison::figure(own, twin, metric).within(WITHIN));
            }
        }
    }
    Scenario {
        name: "fill",
        threads: &[8],
        any_threads: false,
        partitions: Some(WAYS.partitions),
        record_bytes: Some(bytes),
        once: false,
        impls,
        comparisons,
    }
}

fn row<A: Accumulator>(name: &'static str, bytes: usize, rate: u64, appenders: bool) -> Impl {
    let run = move |task: &Task| {
        let mut bench = Bench::<A>::new(&WAYS);
        let (run, taken) = bench.drained(|accumulator, partitions| {
            let run = paced(task, rate, || {
                let (accumulator, partition) = (accumulator.clone(), partitions[0].clone());
                let (mut appender, value) = (appenders.then(|| accumulator.appender()), vec![b'x'; bytes]);
                move || {
                    let record = Record { timestamp: 1_700_000_000_000, value: Some(&value), ..Record::default() };
                    let appended = match &mut appender {
                        Some(appender) => appender.append(&partition, &record, Reply::IGNORE, MAX_BLOCK),
                        None => accumulator.append(&partition, &record, Reply::IGNORE, MAX_BLOCK),
                    };
                    assert!(appended.is_ok(), "memory comes free");
                }
            });
            // What is left has its linger out, so that it is seen.
            while accumulator.has_undrained() {
                thread::sleep(Duration::from_micros(100));
            }
            run
        });
        Run { extra: figures(&taken, rate), ..run }
    };
    Impl { name, run: Box::new(run) }
}

fn figures(taken: &Taken, rate: u64) -> Map<String, serde_json::Value> {
    let (batches, records) = (taken.batches as f64, taken.records as f64);
    let figures = [
        ("rate", rate.into()),
        ("batches", taken.batches.into()),
        ("records_per_batch", (records / batches).into()),
        ("fill", (taken.bytes as f64 / (batches * BATCH as f64)).into()),
        ("requests_per_record", (taken.requests as f64 / records).into()),
    ];
    figures.into_iter().map(|(key, figure)| (key.to_owned(), figure)).collect()
}

/// Has threads do what `work` gives each of them, `rate` times a second together.
fn paced<W: FnMut() + Send>(task: &Task, rate: u64, work: impl Fn() -> W) -> Run {
    let clock = SystemClock::new();
    let interval = 1_000_000_000 * task.threads as u64 / rate;
    let time = task.time.saturating_mul(LONGER);
    let (start, cpu) = (clock.now(), cpu_time());
    let measured: Vec<_> = std::thread::scope(|scope| {
        let clock = &clock;
        let one = |thread: usize| {
            let mut work = work();
            scope.spawn(move || {
                let (mut latency, mut count) = (histogram(), 0);
                let first = start.as_nanos() + interval * thread as u64 / task.threads as u64;
                loop {
                    let intended = Instant::from_nanos(first + count * interval);
                    if count > 0 && (intended.saturating_since(start) >= time || count >= task.ops) {
                        return (latency, count);
                    }
                    let early = intended.saturating_since(clock.now());
                    if !early.is_zero() {
                        thread::sleep(early);
                    }
                    let before = clock.now();
                    work();
                    latency += nanos(clock.now().saturating_since(before));
                    count += 1;
                }
            })
        };
        let threads: Vec<_> = (0..task.threads).map(one).collect();
        threads.into_iter().map(|thread| thread.join().expect("a bench thread panicked")).collect()
    });
    let mut latency = histogram();
    measured.iter().for_each(|(one, _)| latency += one);
    let ops = measured.iter().map(|(_, count)| count).sum();
    let elapsed = clock.now().saturating_since(start);
    Run { elapsed, ops, cpu: cpu_time().saturating_sub(cpu), latency, open: None, extra: Map::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_every_record_is_in_a_batch_that_is_counted() {
        let scenario = scenario(100);
        let task = Task { time: Duration::from_millis(20), ..Task::of_ops(8, u64::MAX) };
        for one in &scenario.impls {
            let run = (one.run)(&task);
            let rate = run.extra["rate"].as_u64().expect("a rate");
            // 100 ms of it.
            assert!(run.ops.abs_diff(rate / 10) <= 8, "{}: {} records", one.name, run.ops);
            let (batches, each) =
                (run.extra["batches"].as_u64().unwrap(), run.extra["records_per_batch"].as_f64().unwrap());
            assert!((batches as f64 * each - run.ops as f64).abs() < 0.5, "{}: {:?}", one.name, run.extra);
            assert!(run.extra["fill"].as_f64().is_some_and(|fill| fill > 0.0 && fill <= 1.0));
        }
    }
}
