//! The work that benches do, written once for every implementation.
//!
//! A [`Row`] is one implementation of one scenario: given threads and operations per thread it does them, and says how long it took from the first
//! operation's start to the last one's end.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, missing_docs, dead_code, unreachable_pub)]

pub mod append;
pub mod bare;
pub mod pool;
pub mod rows;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Each how manieth operation is timed on its own. A clock reading costs as much as an operation.
pub const TIMED_EACH: u64 = 32;

/// What one run of a row brought.
pub struct Run {
    /// From the start of the first operation to the end of the last.
    pub elapsed: Duration,
    /// Operations of all threads.
    pub ops: u64,
    /// Nanoseconds of each timed operation.
    pub latency: Histogram<u64>,
}

impl Run {
    pub fn ops_per_s(&self) -> f64 {
        self.ops as f64 / self.elapsed.as_secs_f64()
    }
}

/// One implementation of one scenario.
pub struct Row {
    pub name: &'static str,
    pub run: Box<dyn Fn(usize, u64) -> Run>,
}

/// Runs `op` `ops` times on each of `threads` threads, which start together. `op` gets its thread's number and its own count.
pub fn on_threads(threads: usize, ops: u64, op: impl Fn(usize, u64) + Sync) -> Run {
    let barrier = Barrier::new(threads);
    let measured: Vec<(Instant, Instant, Histogram<u64>)> = std::thread::scope(|scope| {
        let (barrier, op) = (&barrier, &op);
        let started: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut latency = Histogram::new(3).expect("three digits are a valid precision");
                    barrier.wait();
                    let start = Instant::now();
                    for count in 0..ops {
                        if count % TIMED_EACH == 0 {
                            let before = Instant::now();
                            op(thread, count);
                            latency += before.elapsed().as_nanos() as u64;
                        } else {
                            op(thread, count);
                        }
                    }
                    (start, Instant::now(), latency)
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().expect("a bench thread panicked")).collect()
    });
    let start = measured.iter().map(|one| one.0).min().expect("at least one thread");
    let end = measured.iter().map(|one| one.1).max().expect("at least one thread");
    let mut latency = Histogram::new(3).expect("three digits are a valid precision");
    for (_, _, one) in &measured {
        latency.add(one).expect("histograms that resize themselves take anything");
    }
    Run { elapsed: end - start, ops: ops * threads as u64, latency }
}
