//! Seeded histories of accumulator and sender against a cluster that goes wrong; see `unlatched::simulation`.

use std::collections::BTreeSet;

use unlatched::simulation::{Core, Tally, run, shrink};

fn all_is_well(core: Core) {
    let mut tally = Tally::default();
    for seed in 0..300 {
        let outcome = run(core, seed, &BTreeSet::new());
        tally.add(&outcome.tally);
        if !outcome.wrong.is_empty() {
            panic!("{}", shrink(core, seed).map_or_else(|| format!("{:?}", outcome.wrong), |failure| failure.to_string()));
        }
    }
    println!("{tally:#?}");
}

#[test]
fn lockfree() {
    all_is_well(Core::Lockfree);
}

#[test]
fn mutex() {
    all_is_well(Core::Mutex);
}
