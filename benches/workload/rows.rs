//! Rows as JSON lines, rounds interleaved (A B A B), and the ratio of each implementation to a baseline: the median over rounds.

use std::io::Write;

use serde_json::json;

use super::Row;

/// Runs every row `rounds` times, interleaved, and prints a JSON line for each run, then one for each ratio to `baseline`.
pub fn print(suite: &str, scenario: &str, rows: &[Row], threads: &[usize], rounds: usize, ops: u64, baseline: &str) {
    let mut out = std::io::stdout().lock();
    for &threads in threads {
        let each = (ops / threads as u64).max(1);
        let mut rates = vec![Vec::new(); rows.len()];
        for round in 0..=rounds {
            for (row, rates) in rows.iter().zip(&mut rates) {
                let run = (row.run)(threads, each);
                // Round 0 warms up.
                if round == 0 {
                    continue;
                }
                rates.push(run.ops_per_s());
                let at = |percentile| run.latency.value_at_percentile(percentile);
                let line = json!({
                    "suite": suite, "scenario": scenario, "impl": row.name, "round": round, "threads": threads,
                    "seconds": run.elapsed.as_secs_f64(), "ops": run.ops, "ops_per_s": run.ops_per_s(),
                    "p50_ns": at(50.0), "p99_ns": at(99.0), "p999_ns": at(99.9), "p9999_ns": at(99.99), "max_ns": run.latency.max(),
                });
                writeln!(out, "{line}").expect("standard output takes a line");
            }
        }
        let base = rows.iter().position(|row| row.name == baseline).expect("the baseline is a row");
        for (row, own) in rows.iter().zip(&rates) {
            let mut ratios: Vec<f64> = own.iter().zip(&rates[base]).map(|(own, base)| own / base).collect();
            ratios.sort_by(f64::total_cmp);
            let line = json!({
                "suite": suite, "scenario": scenario, "impl": row.name, "threads": threads, "ratio_to": baseline,
                "ratio_median": ratios[ratios.len() / 2], "ratio_min": ratios[0], "ratio_max": ratios[ratios.len() - 1],
            });
            writeln!(out, "{line}").expect("standard output takes a line");
        }
    }
}

/// Whether the command line asks for rows: `cargo bench --bench NAME -- --rows [ROUNDS]`. The number of rounds if so.
pub fn wanted() -> Option<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--rows");
    arguments.next()?;
    Some(arguments.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(5))
}
