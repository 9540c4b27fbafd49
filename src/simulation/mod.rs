//! The simulation: real accumulators and the real sender against a cluster that goes wrong, on virtual time, one seed per history.
//!
//! A history is drawn from its seed ([`plan`]): a configuration, appenders and what they append, flushes, closes, and all that goes wrong. Its tasks ([`history`]) run on the deterministic scheduler
//! ([`crate::primitive::sim`]), so appenders, sender, flushes and closes interleave at every numbered step of both cores - reserve, copy and commit are steps of their own - and a run replays from its seed.
//! What the sender talks to is a cluster on the same virtual time ([`broker`]). At the end the oracles ([`ledger`]) hold what appenders were told against the logs. [`tally`] counts what occurred, so that a run can
//! show that it met every fault.
//!
//! The twin runs on the simulated family of locks. The lock-free core runs as it is: its parkers know when they are in a simulation.
//!
//! # What is not explored
//! Weak memory, and interleavings between two numbered steps: those are loom's. Codecs. A cluster that loses what it has acknowledged. With idempotence, a broker that does a request after the client has given up its connection
//! *and* sent it elsewhere (see "What is not settled" in `papers/sender.md`); without it, that is explored.

mod broker;
mod history;
mod ledger;
mod plan;
mod tally;

use std::collections::BTreeSet;
use std::fmt;

use self::history::Ran;
use self::plan::Plan;
pub use self::tally::Tally;
use crate::accumulator::LockFreeAccumulator;
use crate::mutex::MutexAccumulator;
use crate::primitive::sim::Simulated;

/// A core that is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// The lock-free one.
    Lockfree,
    /// The twin, on simulated locks.
    Mutex,
}

impl Core {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Lockfree, Self::Mutex];

    /// What the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lockfree => "lockfree",
            Self::Mutex => "mutex",
        }
    }

    fn run(self, plan: &Plan, without: &BTreeSet<usize>) -> Ran {
        let leaves_out = |place| without.contains(&place);
        match self {
            Self::Lockfree => history::run::<LockFreeAccumulator>(plan, &leaves_out),
            Self::Mutex => history::run::<MutexAccumulator<Simulated>>(plan, &leaves_out),
        }
    }
}

/// What came out of one history.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What occurred.
    pub tally: Tally,
    /// What is wrong; empty if all is well.
    pub wrong: Vec<String>,
    /// A hash of every scheduling decision.
    pub trace: u64,
}

/// Runs the history of `seed` without those of its items.
pub fn run(core: Core, seed: u64, without: &BTreeSet<usize>) -> Outcome {
    let Ran { tally, wrong, trace } = core.run(&Plan::draw(seed), without);
    Outcome { tally, wrong, trace }
}

/// A history that fails, made as small as it gets.
#[derive(Debug, Clone)]
pub struct Failure {
    /// On which core.
    pub core: Core,
    /// Of which seed.
    pub seed: u64,
    /// What is wrong with the small one.
    pub wrong: Vec<String>,
    /// What was left out.
    pub without: BTreeSet<usize>,
    /// How many items there were.
    pub items: usize,
    setup: String,
    left: Vec<String>,
}

/// Leaves out of a failing history what it fails without: halves first, then ever smaller parts. `None` if it does not fail.
pub fn shrink(core: Core, seed: u64) -> Option<Failure> {
    /// Histories that it may cost, and scheduling decisions: one that does not come to its end takes as many as a thousand others.
    const RUNS: usize = 400;
    const STEPS: u64 = 4_000_000;
    let plan = Plan::draw(seed);
    let items = plan.items.len();
    let mut without = BTreeSet::new();
    let mut wrong = core.run(&plan, &without).wrong;
    if wrong.is_empty() {
        return None;
    }
    let (mut runs, mut steps) = (0, 0);
    let mut part = items.div_ceil(2);
    while part > 0 && runs < RUNS && steps < STEPS {
        let before = without.len();
        for begin in (0..items).step_by(part) {
            let mut fewer = without.clone();
            fewer.extend(begin..items.min(begin + part));
            if fewer.len() == without.len() || runs == RUNS || steps >= STEPS {
                continue;
            }
            runs += 1;
            let Ran { wrong: again, tally, .. } = core.run(&plan, &fewer);
            steps += tally.steps;
            if !again.is_empty() {
                (without, wrong) = (fewer, again);
            }
        }
        // As long as single ones go, others may follow.
        part = if part == 1 && without.len() > before { 1 } else { part / 2 };
    }
    let left = plan.items.iter().enumerate().filter(|(place, _)| !without.contains(place));
    let left = left.map(|(place, item)| format!("{place}: {item:?}")).collect();
    Some(Failure { core, seed, wrong, without, items, setup: format!("{:?}", plan.setup), left })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { core, seed, wrong, without, items, setup, left } = self;
        writeln!(f, "seed {seed} fails on {}; {} of its {items} items are enough:", core.name(), left.len())?;
        left.iter().try_for_each(|item| writeln!(f, "  {item}"))?;
        writeln!(f, "of {setup}")?;
        wrong.iter().try_for_each(|wrong| writeln!(f, "  ! {wrong}"))?;
        write!(f, "again: unlatched simulate --core {} --seeds {seed}..{}", core.name(), seed + 1)?;
        if !without.is_empty() {
            write!(f, " --without {}", ranges(without))?;
        }
        Ok(())
    }
}

/// Numbers as `0-3,7`.
fn ranges(numbers: &BTreeSet<usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let text = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}
