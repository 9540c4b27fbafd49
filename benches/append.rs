//! Appends to one partition while one thread drains. `cargo bench --bench append`: criterion, with plots in `target/criterion`.
//! `cargo bench --bench append -- --rows [ROUNDS]`: JSON lines and the ratio of each core to the bare minimum, rounds interleaved.

#![allow(missing_docs, clippy::disallowed_types)]

mod workload;

use criterion::{BenchmarkId, Criterion, Throughput};

fn main() {
    if let Some(rounds) = workload::rows::wanted() {
        workload::rows::print(
            "append",
            "hot",
            &workload::append::hot(100),
            &[1, 2, 4, 8],
            rounds,
            4_000_000,
            "bare-parking-lot",
        );
        return;
    }
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let mut group = criterion.benchmark_group("append/hot/100B");
    group.throughput(Throughput::Elements(1));
    for row in workload::append::hot(100) {
        for threads in [1, 2, 4, 8] {
            group.bench_function(BenchmarkId::new(row.name, threads), |bencher| {
                // Criterion asks for an elapsed time for `iterations` operations in all.
                bencher.iter_custom(|iterations| {
                    let run = (row.run)(threads, iterations.div_ceil(threads as u64));
                    run.elapsed.mul_f64(iterations as f64 / run.ops as f64)
                });
            });
        }
    }
    group.finish();
    criterion.final_summary();
}
