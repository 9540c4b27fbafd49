//! Histories that break the pool and the map, on real threads. Each is expected to FAIL as long as the fault is there.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant as Std};

use unlatched::error::TopicPartition;
use unlatched::partition_map::{PartitionMap, SegmentedMap};
use unlatched::pool::{AtomicPool, BufferPool, PoolError};
use unlatched::primitive::clock::{Clock, Instant, SystemClock};
use unlatched::primitive::{Stop, stop_here};

const LONG: Duration = Duration::from_secs(3600);

fn churn_epochs() {
    for _ in 0..100_000 {
        drop(crossbeam_epoch::pin());
    }
    crossbeam_epoch::pin().flush();
    for _ in 0..100_000 {
        drop(crossbeam_epoch::pin());
    }
}

#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);
impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}
impl Clock for Counted {
    fn now(&self) -> Instant {
        Instant::ZERO
    }
    fn unix_millis(&self) -> i64 {
        0
    }
}

/// A pool of nothing gives an empty lease that takes no granule: the pool goes before it.
#[test]
fn a_total_zero_lease_outlives_the_core() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let pool = AtomicPool::new(0, 0, Arc::new(Counted(dropped.clone())));
    let lease = pool.allocate(0, Duration::ZERO).unwrap();
    drop(pool);
    churn_epochs();
    assert_eq!(dropped.load(SeqCst), 0, "the core was freed while a lease is out");
    drop(lease);
}

/// The same, carried on into the use after free.
#[test]
#[ignore = "use after free: run alone, under ASan or valgrind"]
fn a_total_zero_use_after_free() {
    let pool = AtomicPool::new(0, 0, SystemClock::shared());
    let lease = pool.allocate(0, Duration::ZERO).unwrap();
    drop(pool);
    churn_epochs();
    drop(lease);
    churn_epochs();
}

thread_local! {
    static ARM: std::cell::RefCell<Option<(usize, Stop)>> = const { std::cell::RefCell::new(None) };
}

/// Tells its thread to stop in `help` after the n-th reading.
#[derive(Debug)]
struct Arming(SystemClock);
impl Clock for Arming {
    fn now(&self) -> Instant {
        ARM.with(|arm| {
            let mut arm = arm.borrow_mut();
            if let Some((left, stop)) = arm.as_mut() {
                *left -= 1;
                if *left == 0 {
                    stop_here("adv.help-loaded", stop);
                    *arm = None;
                }
            }
        });
        self.0.now()
    }
    fn unix_millis(&self) -> i64 {
        0
    }
}

fn stall(turns: usize) {
    let pool = Arc::new(AtomicPool::new(1, 1, Arc::new(Arming(SystemClock::new()))));
    let lease = pool.allocate(1, Duration::ZERO).unwrap();
    let stop = Stop::new();
    // Its time is up, it has cancelled, its `help` has loaded the word (turn 0) and not the line.
    let stalled = std::thread::spawn({
        let (pool, stop) = (pool.clone(), stop.clone());
        move || {
            ARM.with(|arm| *arm.borrow_mut() = Some((2, stop)));
            assert!(pool.allocate(1, Duration::from_nanos(1)).is_err());
        }
    });
    assert!(stop.await_stopped(Duration::from_secs(30)));
    let start = Std::now();
    for _ in 0..turns {
        assert!(matches!(pool.allocate(1, Duration::from_nanos(1)), Err(PoolError::Exhausted { .. })));
    }
    println!("{turns} turns took {:?}", start.elapsed());
    let victim = std::thread::spawn({
        let pool = pool.clone();
        move || pool.allocate(1, Duration::from_secs(5)).map(drop)
    });
    while pool.queued() < 1 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(200));
    stop.release();
    stalled.join().unwrap();
    drop(lease);
    let result = victim.join().unwrap();
    let now = pool.snapshot();
    let try_later = pool.allocate(1, Duration::ZERO).map(drop);
    assert!(result.is_ok(), "the victim: {result:?}; then, at rest: {now:?}; a try: {try_later:?}");
}

#[test]
fn b_control_60_000_turns() {
    stall(60_000);
}

#[test]
fn b_stall_of_66_000_turns_loses_a_waiter_for_good() {
    stall(66_000);
}

/// A thread that stands between its count and its link: nothing is held by anybody, all tries fail.
#[test]
fn c_stopped_before_link_fails_every_try() {
    let pool = Arc::new(AtomicPool::new(100, 1, SystemClock::shared()));
    let lease = pool.allocate(100, Duration::ZERO).unwrap();
    let stop = Stop::new();
    let stopped = std::thread::spawn({
        let (pool, stop) = (pool.clone(), stop.clone());
        move || {
            stop_here("pool.link", &stop);
            pool.allocate(1, LONG).map(drop)
        }
    });
    assert!(stop.await_stopped(Duration::from_secs(30)));
    drop(lease);
    let failed: Vec<_> = (0..1000).filter_map(|_| pool.allocate(1, Duration::ZERO).map(drop).err()).collect();
    stop.release();
    stopped.join().unwrap().unwrap();
    assert!(failed.is_empty(), "{} of 1000 tries failed with all 100 bytes there: {}", failed.len(), failed[0]);
}

/// A head that waits long for much, and short waits behind it: one thread fills the line.
#[test]
fn d_cancelled_behind_a_stuck_head() {
    let pool = Arc::new(AtomicPool::new(100, 1, SystemClock::shared()));
    let lease = pool.allocate(50, Duration::ZERO).unwrap();
    let head = std::thread::spawn({
        let pool = pool.clone();
        move || pool.allocate(100, LONG).map(drop)
    });
    while pool.queued() < 1 {
        std::thread::yield_now();
    }
    let start = Std::now();
    let mut odd = None;
    for n in 0..20_000 {
        match pool.allocate(1, Duration::from_nanos(1)) {
            Err(PoolError::Exhausted { .. }) => {}
            Err(other) => {
                odd = Some((n, other, pool.queued()));
                break;
            }
            Ok(_) => unreachable!(),
        }
    }
    let took = start.elapsed();
    drop(lease);
    head.join().unwrap().unwrap();
    assert!(odd.is_none(), "{odd:?} after {took:?}");
}

fn rss_mib() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096 >> 20
}

/// "The pool's memory goes when the handle and every lease are gone."
#[test]
#[ignore = "run alone: looks at the process's memory"]
fn e_dropped_pools_keep_their_buffers() {
    let before = rss_mib();
    for _ in 0..40 {
        let pool = AtomicPool::new(16 << 20, 1 << 20, SystemClock::shared());
        let mut leases: Vec<_> = (0..16).map(|_| pool.allocate(1 << 20, Duration::ZERO).unwrap()).collect();
        for lease in &mut leases {
            lease.fill(1);
        }
        drop(leases);
        drop(pool);
    }
    std::thread::sleep(Duration::from_secs(1));
    let grown = rss_mib() - before;
    assert!(grown < 100, "40 pools of 16 MiB, all gone for a second: {grown} MiB resident");
}

/// Values of a cleared map, not dropped for as long as nobody pins.
#[test]
fn f_cleared_values_stay() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let map = SegmentedMap::<Counted>::default();
    map.get_or_create(&TopicPartition::new("t", 0), || Counted(dropped.clone()));
    map.clear();
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..1000 {
        drop(map.get("t", 0));
    }
    let now = dropped.load(SeqCst);
    drop(map);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((now, dropped.load(SeqCst)), (1, 1), "cleared, walked by a thousand gets, the map itself dropped");
}

static BAD: AtomicBool = AtomicBool::new(false);
#[derive(Debug)]
struct Bad;
impl Drop for Bad {
    fn drop(&mut self) {
        if BAD.swap(false, SeqCst) {
            panic!("foreign drop");
        }
    }
}

/// Foreign destructors run inside `epoch::pin()`, also in that of a pool's operation; one that panics takes the waiter's count along, or a lease's bytes.
#[test]
#[ignore = "alone"]
fn g_foreign_drop_runs_inside_the_pool() {
    let map = SegmentedMap::<Bad>::default();
    map.get_or_create(&TopicPartition::new("t", 0), || Bad);
    let pool = AtomicPool::new(10, 1, SystemClock::shared());
    let lease = pool.allocate(10, Duration::ZERO).unwrap();
    BAD.store(true, SeqCst);
    map.clear();
    crossbeam_epoch::pin().flush();
    let mut panicked = false;
    for _ in 0..10_000 {
        let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.allocate(1, Duration::from_nanos(1)).map(drop)
        }));
        if got.is_err() {
            panicked = true;
            break;
        }
    }
    drop(lease);
    let now = pool.snapshot();
    let then = pool.allocate(1, Duration::ZERO).map(drop);
    assert!(panicked, "did not reach it");
    assert!(then.is_ok(), "a foreign drop panicked inside allocate; for good from now on: {then:?}, {now:?}");
}

/// Above 1 GiB: a try for just what is available fails.
#[test]
fn h_available_cannot_be_had() {
    let total = (1 << 31) + 3;
    let pool = AtomicPool::new(total, 1, SystemClock::shared());
    let _lease = pool.allocate(4, Duration::ZERO).unwrap();
    let available = pool.available();
    let got = pool.allocate(available as usize, Duration::ZERO).map(drop);
    assert!(!matches!(got, Err(PoolError::Exhausted { .. })), "{}", got.unwrap_err());
}

/// A releaser stopped after its credit; the waiter, alone in line, wakes by its timeout with all bytes there.
#[test]
fn i_timeout_does_not_look() {
    let pool = Arc::new(AtomicPool::new(1, 1, SystemClock::shared()));
    let lease = pool.allocate(1, Duration::ZERO).unwrap();
    let waiter = std::thread::spawn({
        let pool = pool.clone();
        move || pool.allocate(1, Duration::from_millis(700)).map(drop)
    });
    while pool.queued() < 1 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(200));
    let stop = Stop::new();
    let releaser = std::thread::spawn({
        let stop = stop.clone();
        move || {
            stop_here("adv.help-loaded", &stop);
            drop(lease);
        }
    });
    assert!(stop.await_stopped(Duration::from_secs(30)));
    let available = pool.available();
    let result = waiter.join().unwrap();
    stop.release();
    releaser.join().unwrap();
    assert!(
        result.is_ok(),
        "{available} available half a second before the end, nobody before it: {}",
        result.unwrap_err()
    );
}

/// `b` without a stop: only more threads than cores.
#[test]
#[ignore = "alone, a minute"]
fn k_stall_by_the_scheduler() {
    let pool = Arc::new(AtomicPool::new(1, 1, SystemClock::shared()));
    let lease = pool.allocate(1, Duration::ZERO).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    for _ in 0..32 {
        let (pool, count) = (pool.clone(), count.clone());
        std::thread::spawn(move || {
            loop {
                if let Err(PoolError::TooManyWaiters { .. }) = pool.allocate(1, Duration::from_nanos(1)) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                count.fetch_add(1, SeqCst);
            }
        });
    }
    let start = Std::now();
    while start.elapsed() < Duration::from_secs(60) {
        let before = count.load(SeqCst);
        std::thread::sleep(Duration::from_secs(3));
        let after = count.load(SeqCst);
        if after - before < 1000 {
            println!(
                "{after} waits in {:?}, {} of them in the last 3 s; {:?}",
                start.elapsed(),
                after - before,
                pool.snapshot()
            );
            std::mem::forget(lease);
            std::process::exit(9);
        }
    }
    println!("{} waits, {:?}", count.load(SeqCst), pool.snapshot());
    std::process::exit(0);
}
