//! Seeded histories of accumulator and sender against a cluster that goes wrong; see `unlatched::simulation`. Some hundred here; `unlatched simulate` runs as many as one likes.

use std::collections::BTreeSet;

use unlatched::simulation::{Core, Tally, run, shrink};

#[track_caller]
fn all_is_well(core: Core) {
    let mut tally = Tally::default();
    for seed in 0..300 {
        let outcome = run(core, seed, &BTreeSet::new());
        tally.add(&outcome.tally);
        if !outcome.wrong.is_empty() {
            let small = shrink(core, seed).map(|failure| failure.to_string());
            panic!("{}", small.unwrap_or_else(|| format!("seed {seed}: {:?}", outcome.wrong)));
        }
    }
    assert_eq!(tally.histories, 300);
    assert!(tally.acked > 0 && tally.failed_records > 0, "{tally:?}");
    for kind in ["request-timeout", "leader-move", "restart", "delivery-timeout", "split", "stopped-in-copy"] {
        assert!(tally.faults.contains_key(kind), "{kind} did not occur: {tally:?}");
    }
}

#[test]
fn histories_of_the_lock_free_core_end_well() {
    all_is_well(Core::Lockfree);
}

#[test]
fn histories_of_the_twin_end_well() {
    all_is_well(Core::Mutex);
}

#[test]
fn a_seed_replays_to_the_last_decision_whatever_was_run_before() {
    for core in Core::ALL {
        let trace = |seed| run(core, seed, &BTreeSet::new()).trace;
        let first: Vec<u64> = (0..40).map(trace).collect();
        let again: Vec<u64> = (0..40).rev().map(trace).collect();
        assert_eq!(first, again.into_iter().rev().collect::<Vec<_>>(), "{}", core.name());
        assert!(first.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
