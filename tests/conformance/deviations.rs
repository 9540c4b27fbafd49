//! Which core keeps Kafka's behaviour and which keeps the promise that stands against it in `papers/scope.md`, *Deviations*.
//!
//! There is one test per behaviour. Where the page allows a difference, the test asks here which expectation holds.

use crate::support::Core;

/// What a core does where `papers/scope.md` allows a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// What Kafka does.
    Kafka,
    /// What is promised instead.
    Promise,
}

/// The pairs that the page may name, and no other.
pub(crate) const ALLOWED: &[(&str, &str)] = &[
    ("POOL-03", "GAP-09"),
    ("POOL-07", "GAP-04"),
    ("POOL-07", "GAP-05"),
    ("POOL-10", "GAP-04"),
    ("POOL-10", "GAP-05"),
    ("POOL-09", "GAP-06"),
    ("POOL-12", "GAP-03"),
    ("POOL-16", "GAP-03"),
    ("MAP-02", "GAP-11"),
    ("MAP-06", "GAP-11"),
    ("MAP-04", "GAP-12"),
    ("BATCH-03", "GAP-34"),
    ("BATCH-05", "GAP-34"),
    ("BATCH-06", "GAP-34"),
    ("BATCH-07", "GAP-34"),
    ("ACC-24", "GAP-23"),
    ("ACC-29", "GAP-22"),
    ("ACC-38", "GAP-28"),
    ("ACC-44", "GAP-19"),
];

/// Each core with the promises that it keeps.
pub(crate) const PROMISES: &[(&str, &[&str])] = &[
    ("mutex", &[]),
    ("mutex-parking-lot", &[]),
    (
        "lockfree",
        &[
            "GAP-03", "GAP-04", "GAP-05", "GAP-06", "GAP-09", "GAP-11", "GAP-12", "GAP-19", "GAP-22", "GAP-23",
            "GAP-28", "GAP-34",
        ],
    ),
];

/// What core `C` does where `gap` allows a difference.
pub(crate) fn keeps<C: Core>(gap: &str) -> Behaviour {
    assert!(ALLOWED.iter().any(|(_, allowed)| *allowed == gap), "no difference is allowed by {gap}");
    let Some((_, promises)) = PROMISES.iter().find(|(core, _)| *core == C::NAME) else {
        panic!("say in deviations.rs which promises the core {} keeps", C::NAME)
    };
    if promises.contains(&gap) { Behaviour::Promise } else { Behaviour::Kafka }
}
