//! The list of models. Each root counts it, so that none is lost.

use crate::runner::Check;

#[path = "accumulator.rs"]
mod accumulator;
#[path = "announced.rs"]
mod announced;
#[path = "batch.rs"]
mod batch;
#[path = "completion.rs"]
mod completion;
#[path = "epoch.rs"]
mod epoch;
#[path = "litmus.rs"]
mod litmus;
#[path = "lock.rs"]
mod lock;
#[path = "map.rs"]
mod map;
#[path = "owned.rs"]
mod owned;
#[path = "parker.rs"]
mod parker;
#[path = "pool.rs"]
mod pool;
#[path = "pool_line.rs"]
mod pool_line;
#[path = "pool_parts.rs"]
mod pool_parts;

#[cfg(not(crossbeam_loom))]
pub(crate) use pool_parts::Woken;

/// Every model.
pub(crate) fn models() -> Vec<Check> {
    [
        litmus::models(),
        parker::models(),
        lock::models(),
        epoch::models(),
        completion::models(),
        map::models(),
        pool_parts::models(),
        pool_line::models(),
        pool::models(),
        announced::models(),
        batch::models(),
        accumulator::models(),
        owned::models(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
