//! Crowds: scenes of six to eight threads, too large for a search of all their schedules. Some thousands of those are drawn. Shuttle only.
//!
//! Two schedulers draw: one takes any thread at each point; the other (PCT: Burckhardt et al., ASPLOS 2010) gives each thread a random priority and changes a few of them on the way, which
//! finds orders that the first hardly ever draws. What a thread chooses, and whether a timed sleep ends at once, comes from the same numbers.
//!
//! Each run prints the seed that it began with, and a failure that of its run and the schedule; with `SHUTTLE_RANDOM_SEED` set to it, `cargo shuttle <name>` is the same run again.
//!
//! A scene ends with every byte, every record and the pool itself accounted for. A sleeper that nobody wakes is a deadlock, and reported as such, where nothing else could wake it: so each
//! kind of scene is also there without timeouts, and with a close that comes only when all have what they wait for.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use unlatched::accumulator::LockFreeAccumulator;
use unlatched::mutex::{StdAccumulator, StdPool};
use unlatched::primitive::atomic::AtomicU32;
use unlatched::primitive::atomic::Ordering::SeqCst;
use unlatched::primitive::clock::{Clock, SystemClock};
use unlatched::primitive::epoch::keep_until_model_ends;
use unlatched::primitive::model::{Open, enter};
use unlatched::primitive::random::Random;
use unlatched::primitive::thread;

use crate::runner::{Check, say_on_panic};

#[path = "crowd_accumulator.rs"]
mod accumulator;
#[path = "crowd_pool.rs"]
mod pool;

/// Every crowd. A core or a pool more is a line more.
pub(crate) fn models() -> Vec<Check> {
    [
        vec![a_lost_update_is_found()],
        pool::crowds("lockfree", pool::strict()),
        pool::crowds("lockfree_overtaking", pool::overtaking()),
        pool::crowds::<StdPool>("mutex", pool::plain()),
        accumulator::crowds::<LockFreeAccumulator>("lockfree"),
        accumulator::crowds::<StdAccumulator>("mutex"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Schedules that each scheduler draws, unless `UNLATCHED_CROWD_SCHEDULES` says otherwise.
const SCHEDULES: usize = 4_000;
/// Changes of priority in a schedule of the second, and one.
const DEPTH: usize = 4;
/// shuttle's own, and ours: where a run begins.
const SEED: &str = "SHUTTLE_RANDOM_SEED";

/// What became of one schedule.
struct Ended {
    /// What happened in it, of what can.
    seen: BTreeSet<&'static str>,
    /// What the scene's objects kept of this, they let go of when they are freed.
    alive: Arc<dyn Clock>,
}

/// The crowd `name` around `scene`, in which just `expected` is seen, over all schedules of each scheduler.
fn crowd(
    name: String,
    law: &'static str,
    timeouts_by_lot: bool,
    expected: &'static [&'static str],
    scene: impl Fn() -> Ended + Send + Sync + 'static,
) -> Check {
    let scene = Arc::new(scene);
    let of = name.clone();
    Check::new(name, move || {
        let open = Open { random_timeouts: timeouts_by_lot, ..Open::default() };
        println!("{of}: {law}");
        let seed = from_environment(SEED).unwrap_or_else(|| Random::from_entropy().below(1 << 48));
        let schedules = from_environment("UNLATCHED_CROWD_SCHEDULES").unwrap_or(SCHEDULES);
        let any = RandomScheduler::new_from_seed(seed, schedules);
        draw(&of, "any thread at each point", seed, any, open, expected, &scene);
        let by_priority = PctScheduler::new_from_seed(seed, DEPTH, schedules);
        draw(&of, "by priorities", seed, by_priority, open, expected, &scene);
    })
}

fn from_environment<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no such number: {text:?}")))
}

fn draw<S: Scheduler + 'static>(
    name: &str,
    how: &str,
    seed: u64,
    scheduler: S,
    open: Open,
    expected: &[&'static str],
    scene: &Arc<impl Fn() -> Ended + Send + Sync + 'static>,
) {
    /// Schedules begun, and what was seen in those that ended.
    type Visited = Mutex<(usize, BTreeSet<&'static str>)>;
    let visited = Arc::<Visited>::default();
    let execution = {
        let (visited, scene) = (visited.clone(), scene.clone());
        move || {
            visited.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
            let entered = enter(open);
            let keeper = keep_until_model_ends();
            let Ended { seen, alive } = scene();
            drop(keeper);
            drop(entered);
            assert_eq!(Arc::strong_count(&alive), 1, "something is not freed");
            visited.lock().unwrap_or_else(PoisonError::into_inner).1.extend(seen);
        }
    };
    let mut config = shuttle::Config::new();
    config.silence_warnings = true;
    // Encoding, decoding and hashing go deeper than the other models.
    config.stack_size = 1 << 17;
    let context = format!("crowd {name}, {how}: {SEED}={seed} runs it again");
    let clock = SystemClock::new();
    let run = || say_on_panic(&context, || shuttle::Runner::new(scheduler, config).run(execution));
    let ran = catch_unwind(AssertUnwindSafe(run));
    let (begun, seen) = std::mem::take(&mut *visited.lock().unwrap_or_else(PoisonError::into_inner));
    if let Err(panic) = ran {
        eprintln!("{context}: failed in schedule {begun}");
        resume_unwind(panic);
    }
    let seconds = clock.now().as_nanos() as f64 / 1e9;
    println!("    {how}: {begun} schedules from seed {seed}, {seconds:.2} s; seen {seen:?}");
    assert_eq!(seen, expected.iter().copied().collect(), "{name}: seen on the left, expected on the right");
}

/// A number below `below`, of the schedule's own.
fn lot(below: u32) -> u32 {
    thread_rng().gen_range(0..below)
}

/// Lets the others go on for a while, long or short.
fn linger() {
    for _ in 0..lot(60) {
        thread::yield_now();
    }
}

/// Shows that a failure is found, and says how to run it again.
fn a_lost_update_is_found() -> Check {
    crowd("crowd_lost_update_is_found".into(), "a failure says where its run began", false, &[], || {
        let sum = Arc::new(AtomicU32::new(0));
        let adders: Vec<_> = (0..6)
            .map(|_| {
                let sum = sum.clone();
                thread::spawn(move || sum.store(sum.load(SeqCst) + 1, SeqCst))
            })
            .collect();
        adders.into_iter().for_each(|adder| adder.join().expect("it adds"));
        assert_eq!(sum.load(SeqCst), 6, "an update was lost");
        Ended { seen: BTreeSet::new(), alive: SystemClock::shared() }
    })
    .that_fails("SHUTTLE_RANDOM_SEED=")
}
