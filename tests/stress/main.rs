//! Many real threads for a while, at random: what no model is large enough for, and what the sanitizers are to watch.
//!
//! Each test runs rounds until its time is over: a second, or as long as `UNLATCHED_STRESS_SECONDS` says. A round makes what it tests, lets threads loose on it,
//! takes it down again in one of several orders, and looks whether everything is where it belongs. What the threads choose comes from the round's seed, which a failure
//! prints; the interleaving is the machine's, so a seed brings the choices back and not the run.
//!
//! There is no allocator of the suite's own here: under `.ci/sanitize` the allocator is the sanitizer's.

// A test that is missing from its file's list would be dead code, and never run.
#![deny(dead_code)]

mod accumulator;
mod map;
mod pool;
#[path = "../common/threads.rs"]
#[allow(dead_code, reason = "other suites use more of it")]
mod threads;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use unlatched::primitive::clock::SharedClock;
use unlatched::primitive::epoch;
use unlatched::primitive::random::Random;

use threads::{Stopwatch, eventually};

/// Makes of each generic function `fn name<T>()` a test per implementation. A new one is one more line.
macro_rules! on_each {
    ($functions:tt $(, $module:ident: $type:ty)+ $(,)?) => {
        $(on_each!(@one $functions, $module: $type);)+
    };
    (@one [$($name:ident),+ $(,)?], $module:ident: $type:ty) => {
        mod $module {
            #[allow(unused_imports, reason = "not every type is one of the file's own")]
            use super::*;
            $(
                #[test]
                fn $name() {
                    super::$name::<$type>();
                }
            )+
        }
    };
}
pub(crate) use on_each;

/// How long a test runs.
const SECONDS: &str = "UNLATCHED_STRESS_SECONDS";
/// The seed of the first round; that of the next is one more.
const SEED: &str = "UNLATCHED_STRESS_SEED";

fn from_environment<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")))
}

/// Says which round failed, as that unwinds.
struct Round {
    number: u64,
    seed: u64,
}

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in round {}; to have its choices again: {SEED}={}", self.number, self.seed);
        }
    }
}

/// Runs `round` with one seed after the other until the time is over.
fn rounds(mut round: impl FnMut(&mut Random)) {
    let time = Duration::from_secs_f64(from_environment(SECONDS).unwrap_or(1.0));
    let first = from_environment(SEED).unwrap_or_else(|| Random::from_entropy().below(1 << 32));
    let watch = Stopwatch::start();
    for number in 0.. {
        let round_of = Round { number, seed: first + number };
        round(&mut Random::seeded(round_of.seed));
        if watch.elapsed() >= time {
            println!("{} rounds from seed {first}", number + 1);
            return;
        }
    }
}

fn micros(random: &mut Random, below: u64) -> Duration {
    Duration::from_micros(random.below(below))
}

/// Waits until nobody has `what` but the caller, whatever is retired and not yet freed.
#[track_caller]
fn assert_let_go<T: ?Sized>(name: &str, what: &Arc<T>) {
    eventually(name, || {
        // What the test's threads have retired is freed by whoever collects: that is us, if nobody else does.
        epoch::pin().flush();
        Arc::strong_count(what) == 1
    });
}

/// A clock for one object, which tells by its count whether that was freed.
fn witness() -> SharedClock {
    unlatched::primitive::clock::SystemClock::shared()
}
