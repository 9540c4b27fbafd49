//! A suite of `unlatched bench` under criterion.

use criterion::{BenchmarkId, Criterion, Throughput};
use unlatched::bench::{Mode, Task, suite};

/// Runs the suite of this name.
pub(crate) fn run(name: &str) {
    let suite = suite(name).expect("a suite of this name");
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    for scenario in (suite.scenarios)(Mode::Quick) {
        let bytes = scenario.record_bytes.map_or_else(String::new, |bytes| format!("/{bytes}B"));
        let mut group = criterion.benchmark_group(format!("{name}/{}{bytes}", scenario.name));
        group.throughput(Throughput::Elements(1));
        for one in &scenario.impls {
            for &threads in scenario.threads {
                group.bench_function(BenchmarkId::new(one.name, threads), |bencher| {
                    // Criterion asks for the time that `iterations` operations take in all.
                    bencher.iter_custom(|iterations| {
                        let run = (one.run)(&Task::of_ops(threads, iterations.div_ceil(threads as u64)));
                        run.elapsed.mul_f64(iterations as f64 / run.ops as f64)
                    });
                });
            }
        }
        group.finish();
    }
    criterion.final_summary();
}
