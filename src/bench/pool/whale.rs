//! Scenario `whale`: eight threads take and give back small buffers as fast as they can, and one more takes the whole pool, holds it for no longer than it takes to write to it, gives it back, and rests
//! for 100 us. A row says what that does to the small ones (`ops`, `p*_ns`), and adds:
//!
//! - `tries`, `served`: whole-pool requests, and those that were served within two seconds. The first that is not ends the run.
//! - `longest_wait_ns`, `wait_p50_ns`: of the whole-pool requests.
//! - `max_overtakes`: the most small allocations, of one request, that *began after it stood in line* and were served before it. `bound`: how many the pool allows, so many for each that is first in line until the request is served, itself and at most the eight small ones before it; null where it makes no promise.
//! - `max_overtakes_since_call`: the same, of those that began after the request's *call*: from above what `max_overtakes` is from below.
//!
//! # How overtakes are counted
//! One word says which request is under way and whether it stands in line. A small allocation reads it before it begins and after it is served; one that finds the same request both times, standing in line the first time, has
//! overtaken it.
//! - When it stands in line, its own thread tells: pools read their clock when they go to sleep, after they have taken their place in line and never before, so the first reading of the clock by that thread sets the mark.
//! - The count is never too high: what began after the mark began after the place was taken. It is too low by what began between the place in line and the mark - some ten nanoseconds, unless the whale lost its processor
//!   just there - and by those that lost theirs between the look at the mark and the call: one for each small thread, eight at most.
//! - `max_overtakes_since_call` is too low by those eight alone, as the call comes before the place. The truth lies between the two.
//! - The end is exact. Whoever is served before the request holds its buffer while it looks, so the request cannot have been served; whoever is served after it was given memory that the request had given back, and the
//!   mark is taken away before that.

use std::cell::Cell;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use serde_json::json;

use super::impls::{Pool, lockfree_bound};
use super::{BATCH, PATIENCE, TOTAL, touch};
use crate::bench::load::{Done, Load, histogram, nanos};
use crate::bench::verdict::{Comparison, Who};
use crate::bench::{Impl, Run, Task};
use crate::primitive::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicBool, AtomicU64};
use crate::primitive::clock::{Clock, Instant, SharedClock, SystemClock};
use crate::primitive::{Arc, thread, thread_local};

/// Threads that take small buffers.
pub(super) const SMALL: usize = 8;
/// How long a whole-pool request may take.
const WAIT: Duration = Duration::from_secs(2);
/// Rest between two of them.
const REST: Duration = Duration::from_micros(100);

/// Has the rows say what each pool promises.
pub(super) fn with_bounds(impls: Vec<Impl>) -> Vec<Impl> {
    let with_bound = |Impl { name, run }| {
        let bound = match name {
            // Before its own turn, those of the small ones that stood before it.
            "lockfree" => json!(lockfree_bound() * (1 + SMALL as u64)),
            "lockfree-strict" => json!(0),
            _ => json!(null),
        };
        let run = move |task: &Task| {
            let mut done = run(task);
            done.extra.insert("bound".to_owned(), bound.clone());
            done
        };
        Impl { name, run: Box::new(run) }
    };
    impls.into_iter().map(with_bound).collect()
}

pub(super) fn comparisons() -> Vec<Comparison> {
    vec![
        Comparison::overtakes("lockfree"),
        Comparison::overtakes("lockfree-strict"),
        Comparison::rate("lockfree", Who::StrongestTwin),
        Comparison::rate("lockfree-strict", Who::StrongestTwin),
    ]
}

/// Which request is under way: twice its number from 1, and one more once it stands in line; 0 for none.
#[derive(Debug)]
struct Mark(CachePadded<AtomicU64>);

thread_local! {
    static WHALE: Cell<bool> = const { Cell::new(false) };
}

/// The machine's clock, which takes a reading by the whale's thread for its having taken its place in line.
#[derive(Debug)]
struct LineClock {
    clock: SystemClock,
    mark: Arc<Mark>,
}

impl Clock for LineClock {
    fn now(&self) -> Instant {
        if WHALE.get() {
            // Release pairs with the Acquire load before a small allocation: whoever sees the mark begins after the place in line was taken; whoever does not is not counted. Only this thread writes.
            self.mark.0.fetch_or(1, Release);
        }
        self.clock.now()
    }

    fn unix_millis(&self) -> i64 {
        self.clock.unix_millis()
    }
}

/// A small thread's overtakes: of requests that stood in line, and of requests that had been called.
type Overtakes = CachePadded<[AtomicU64; 2]>;

/// What the whale has seen.
#[derive(Default)]
struct Seen {
    tries: u32,
    served: u32,
    overtakes: [u64; 2],
    longest: Duration,
    median: u64,
}

pub(super) fn run<P: Pool>(make: impl Fn(u64, SharedClock) -> P, task: &Task) -> Run {
    let mark = Arc::new(Mark(CachePadded::new(AtomicU64::new(0))));
    let pool = make(TOTAL, Arc::new(LineClock { clock: SystemClock::new(), mark: Arc::clone(&mark) }));
    let overtakes: [Overtakes; SMALL] = std::array::from_fn(|_| CachePadded::new([0, 0].map(AtomicU64::new)));
    let clock = SystemClock::new();
    let load = Load {
        clock: &clock,
        states: overtakes.iter().collect(),
        op: |overtakes: &mut &Overtakes, count| {
            // Acquire: see `LineClock::now`.
            let before = mark.0.load(Acquire);
            let mut taken = pool.take(BATCH, PATIENCE);
            touch(P::bytes(&mut taken), count);
            // Acquire: no earlier than what was taken. While we hold it the request is not served, so what is counted here is seen by who is.
            if before != 0 && mark.0.load(Acquire) / 2 == before / 2 {
                // Relaxed: a figure, handed over with the buffer that is given back after it.
                overtakes[1].fetch_add(1, Relaxed);
                if before % 2 == 1 {
                    overtakes[0].fetch_add(1, Relaxed);
                }
            }
            Done::Now
        },
        helpers: 0,
        timed_each: 4,
        rate: 1,
    };
    let halt = AtomicBool::new(false);
    let (mut run, seen) = std::thread::scope(|scope| {
        let whale = scope.spawn(|| {
            let seen = requests(&pool, &clock, &mark, &overtakes, task.tries);
            // Relaxed: a flag that is polled.
            halt.store(true, Relaxed);
            seen
        });
        let all = Task { ops: u64::MAX, time: Duration::MAX, ..*task };
        let (run, _) = load.closed_until(&all, &halt);
        (run, whale.join().expect("the whale panicked"))
    });
    let add = [
        ("tries", json!(seen.tries)),
        ("served", json!(seen.served)),
        ("max_overtakes", json!(seen.overtakes[0])),
        ("max_overtakes_since_call", json!(seen.overtakes[1])),
        ("longest_wait_ns", json!(nanos(seen.longest))),
        ("wait_p50_ns", json!(seen.median)),
    ];
    run.extra.extend(add.map(|(key, value)| (key.to_owned(), value)));
    run
}

fn requests<P: Pool>(pool: &P, clock: &SystemClock, mark: &Mark, overtakes: &[Overtakes], tries: u32) -> Seen {
    WHALE.set(true);
    // Relaxed: what was counted before we were served is seen, since its buffer was given back to us.
    let sum = || [0, 1].map(|kind| overtakes.iter().map(|small| small[kind].load(Relaxed)).sum::<u64>());
    let (mut seen, mut waits) = (Seen::default(), histogram());
    for number in 1..=tries {
        thread::sleep(REST);
        let before = sum();
        let called = clock.now();
        // Release: whoever sees it begins after the call.
        mark.0.store(2 * u64::from(number), Release);
        let mut taken = pool.take(TOTAL as usize, WAIT);
        let waited = clock.now().saturating_since(called);
        let after = sum();
        let served = P::is_there(&taken);
        if served {
            touch(P::bytes(&mut taken), u64::from(number));
        }
        // Release, and before the memory is given back: whoever is served by it sees that nobody stands in line.
        mark.0.store(0, Release);
        drop(taken);
        seen.tries += 1;
        seen.longest = seen.longest.max(waited);
        waits += nanos(waited);
        seen.overtakes = [0, 1].map(|kind| seen.overtakes[kind].max(after[kind] - before[kind]));
        if !served {
            break;
        }
        seen.served += 1;
    }
    seen.median = waits.value_at_quantile(0.5);
    seen
}
