//! What the conformance suite cannot ask of every core: stops at each step, order under options, tasks, and what the pool's memory does.

mod order;
mod stopped;
mod tasks;

use std::cell::Cell;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::atomic::MAX_WAITERS;
use super::{AtomicPool, BufferPool, PoolError, PoolOptions};
use crate::primitive::clock::{Clock, SystemClock};
use crate::primitive::epoch;
use crate::primitive::{Stop, stop_here};

/// How a thread's pins are made to destroy what waits for that: more of them than the collector lets pass without a look.
const MANY: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// Until it is so.
#[track_caller]
fn eventually(what: &str, so: impl Fn() -> bool) {
    let clock = SystemClock::new();
    while !so() {
        assert!(clock.now().as_nanos() < PATIENCE.as_nanos() as u64, "{what}");
        std::thread::yield_now();
    }
}

/// A thread that does `work` and stops at `step`, seen to stand there.
#[track_caller]
fn stopped_at<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> (JoinHandle<T>, Stop) {
    let stop = Stop::new();
    let thread = std::thread::spawn({
        let stop = stop.clone();
        move || {
            stop_here(step, &stop);
            work()
        }
    });
    assert!(stop.await_stopped(PATIENCE), "nobody came to {step}");
    (thread, stop)
}

/// What a thread came to, which must end.
#[track_caller]
fn ended<T>(what: &str, thread: JoinHandle<T>) -> T {
    eventually(what, || thread.is_finished());
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// One who gives bytes back is stopped in `help`, between its look at the line and its look at the word; so many turns pass, and then another waits.
fn stopped_in_help_for(turns: usize) {
    let pool = Arc::new(AtomicPool::new(2, 1, SystemClock::shared()));
    let one = || pool.allocate(1, Duration::ZERO).unwrap();
    let (held, other) = (one(), one());
    let gives_up = |pool: &AtomicPool| pool.allocate(2, Duration::from_nanos(1)).map(drop).unwrap_err();
    let (first, go_on) = stopped_at("pool.wait", {
        let pool = pool.clone();
        move || gives_up(&pool)
    });
    let (helper, stop) = stopped_at("pool.help", move || drop(other));
    go_on.release();
    assert!(matches!(first.join().unwrap(), PoolError::Exhausted { .. }));
    for _ in 1..turns {
        assert!(matches!(gives_up(&pool), PoolError::Exhausted { .. }));
    }
    let waiter = std::thread::spawn({
        let pool = pool.clone();
        move || pool.allocate(2, PATIENCE).map(drop)
    });
    eventually("it waits", || pool.queued() > 0);
    stop.release();
    helper.join().unwrap();
    drop(held);
    assert_eq!(waiter.join().unwrap(), Ok(()), "after {turns} turns");
    assert_eq!((pool.available(), pool.queued()), (2, 0));
}

#[test]
fn a_helper_that_is_stopped_for_half_a_round_of_turns_passes_nobody_over() {
    stopped_in_help_for(1 << 16);
}

#[test]
fn a_helper_that_is_stopped_for_a_round_of_turns_ends_nobody_elses() {
    // The word names the turn again that the one had whom it found, and another waits in it.
    // Each wait changes it three times: who joins, who is skipped, nobody is left.
    stopped_in_help_for((1 << 20) / 3 + 1);
}

#[test]
fn gap_06_a_wait_that_ends_looks_for_bytes_whose_bringer_is_stopped() {
    let pool = Arc::new(AtomicPool::new(1, 1, SystemClock::shared()));
    let held = pool.allocate(1, Duration::ZERO).unwrap();
    // In line, and about to sleep for a moment.
    let (waiter, go_on) = stopped_at("pool.wait", {
        let pool = pool.clone();
        move || pool.allocate(1, Duration::from_nanos(1)).map(drop)
    });
    // The byte is back; who brought it does not get round to the line.
    let (releaser, stop) = stopped_at("pool.help", move || drop(held));
    assert_eq!(pool.available(), 1);
    go_on.release();
    assert_eq!(waiter.join().unwrap(), Ok(()));
    stop.release();
    releaser.join().unwrap();
    assert_eq!((pool.available(), pool.queued()), (1, 0));
}

#[test]
fn pool_13_a_try_is_not_stopped_by_one_who_has_given_up() {
    let pool = Arc::new(AtomicPool::new(2, 1, SystemClock::shared()));
    let held = pool.allocate(1, Duration::ZERO).unwrap();
    // It wanted two, and does not any more; that it is still counted is for it to end, or for whoever comes.
    let (gave_up, stop) = stopped_at("pool.cancelled", {
        let pool = pool.clone();
        move || pool.allocate(2, Duration::from_nanos(1)).map(drop)
    });
    assert_eq!((pool.available(), pool.queued()), (1, 0));
    assert_eq!(pool.allocate(1, Duration::ZERO).map(drop), Ok(()));
    stop.release();
    assert!(matches!(gave_up.join().unwrap(), Err(PoolError::Exhausted { .. })));
    drop(held);
    assert_eq!((pool.available(), pool.queued()), (2, 0));
}

#[test]
fn places_of_those_who_gave_up_are_free_again_when_their_turns_have_come() {
    let pool = Arc::new(AtomicPool::with_options(2, 1, SystemClock::shared(), PoolOptions::strict()));
    let held = pool.allocate(1, Duration::ZERO).unwrap();
    let head = std::thread::spawn({
        let pool = pool.clone();
        move || pool.allocate(2, PATIENCE).map(drop)
    });
    eventually("it waits", || pool.queued() == 1);
    let short = || pool.allocate(1, Duration::from_nanos(1)).map(drop).unwrap_err();
    for _ in 1..MAX_WAITERS {
        assert!(matches!(short(), PoolError::Exhausted { .. }));
    }
    assert_eq!((short(), pool.queued()), (PoolError::TooManyWaiters { limit: MAX_WAITERS }, 1));
    drop(held);
    assert_eq!(head.join().unwrap(), Ok(()));
    eventually("every turn is over", || pool.allocate(2, Duration::from_nanos(1)).is_ok());
    assert_eq!((pool.available(), pool.queued()), (2, 0));
}

thread_local! {
    static PANICS: Cell<bool> = const { Cell::new(false) };
}

/// Retires things whose destructor panics, where a thread comes to it that is told to: other tests pin too.
fn retire_panics() {
    let guard = epoch::pin();
    for _ in 0..MANY {
        guard.defer(|| assert!(!PANICS.get(), "on purpose: a destructor that waited for an epoch to end"));
    }
    guard.flush();
}

#[test]
fn l1_a_foreign_destructor_in_a_pin_of_the_pool_loses_nothing() {
    let pool = AtomicPool::new(10, 1, SystemClock::shared());
    let held = pool.allocate(10, Duration::ZERO).unwrap();
    PANICS.set(true);
    // A wait pins at each of its looks.
    retire_panics();
    for _ in 0..MANY {
        assert!(matches!(pool.allocate(1, Duration::from_nanos(1)), Err(PoolError::Exhausted { .. })));
    }
    // A release pins if somebody waits.
    std::thread::scope(|threads| {
        let wait = || {
            PANICS.set(true);
            pool.allocate(5, PATIENCE).map(drop)
        };
        let waiters: Vec<_> = (0..10).map(|_| threads.spawn(wait)).collect();
        eventually("they wait", || pool.queued() == 10);
        retire_panics();
        drop(held);
        waiters.into_iter().for_each(|waiter| assert_eq!(waiter.join().unwrap(), Ok(())));
    });
    assert_eq!((pool.available(), pool.queued()), (10, 0));
}
