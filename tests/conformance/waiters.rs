//! The pool's waiters: order, gathering, time, close. POOL-06 to POOL-12, POOL-16, POOL-19, POOL-20, POOL-22 to POOL-25.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use unlatched::pool::{BufferPool, PoolError};
use unlatched::primitive::clock::ManualClock;
use unlatched::primitive::random::Random;
use unlatched::primitive::{Stop, stop_here};

use crate::deviations::{Behaviour, keeps};
use crate::pool::{assert_at_rest, assert_books, pool, take, take_marked};
use crate::support::{
    Core, GLANCE, Gate, LONG, LeaseOf, PATIENCE, SOON, Stopwatch, WatchedClock, Worker, eventually, on_every_core,
};

on_every_core![
    pool_06_waiters_are_served_first_come_first_served,
    pool_06_waiters_of_different_sizes_keep_their_order,
    pool_07_a_waiter_takes_a_returned_buffer_whole,
    pool_07_what_a_waiter_holds_while_it_waits_for_the_rest,
    pool_07_a_waiter_that_holds_a_part_gathers_the_rest,
    pool_07_no_more_buffers_are_broken_up_than_needed,
    pool_08_partial_progress_does_not_reset_the_time,
    pool_09_the_wait_ends_not_before_max_block_and_soon_after,
    pool_09_memory_there_when_the_time_is_over,
    pool_10_timeout_returns_partial_grant,
    pool_10_timeout_passes_the_wake_up_on,
    pool_10_close_returns_partial_grant,
    pool_10_a_timed_out_waiter_in_the_middle_leaves_the_others_alone,
    pool_11_one_release_serves_all_that_it_can_satisfy,
    pool_11_wake_ups_chain_past_sizes,
    pool_11_wake_ups_chain_while_only_buffers_are_left,
    pool_11_nobody_is_woken_for_nothing,
    pool_12_a_satisfied_waiter_has_left_when_its_successor_wakes,
    pool_16_whom_a_release_wakes,
    pool_19_close_fails_waiters_and_later_requests,
    pool_19_leases_come_back_after_close,
    pool_20_close_wins_a_tie_with_the_timeout,
    pool_22_queued_counts_the_callers_blocked_now,
    pool_23_stress_conserves_every_byte,
    pool_23_stress_with_close_leaves_nothing_behind,
    pool_24_small_releases_add_up_to_a_large_grant,
    pool_25_wait_time_counts_granted_and_failed_waits,
    pool_25_wait_time_counts_each_slice,
];

type Granted<C> = Result<LeaseOf<C>, PoolError>;

/// A thread that allocates, once it waits.
#[track_caller]
fn wait_for<C: Core>(pool: &Arc<C::Pool>, size: usize, max_block: Duration) -> Worker<Granted<C>> {
    let before = pool.queued();
    let waiter = Worker::start({
        let pool = pool.clone();
        move || pool.allocate(size, max_block)
    });
    eventually("the caller waits", || pool.queued() == before + 1);
    waiter
}

/// The same on a watched clock, once the waiter has read it: from here on, time that passes is time that it has waited.
#[track_caller]
fn wait_watched<C: Core>(
    pool: &Arc<C::Pool>,
    clock: &WatchedClock,
    size: usize,
    max_block: Duration,
) -> Worker<Granted<C>> {
    let waiter = wait_for::<C>(pool, size, max_block);
    eventually("the caller reads the clock", || clock.reads_of(waiter.id()) > 0);
    waiter
}

fn watched_pool<C: Core>(total: u64, poolable: usize, clock: &Arc<WatchedClock>) -> Arc<C::Pool> {
    Arc::new(C::Pool::new(total, poolable, clock.clone()))
}

/// A pool whose waiter will time out soon after its first progress, or soon at all where there is no progress to be seen.
struct ShortOfTime<C: Core> {
    pool: Arc<C::Pool>,
    clock: Arc<WatchedClock>,
    time: Option<Arc<ManualClock>>,
    max_block: Duration,
}

impl<C: Core> ShortOfTime<C> {
    fn new(total: u64, poolable: usize) -> Self {
        // A waiter that takes parts looks at the clock when it wakes. So a clock that jumps tells it then that little is left, however slow the
        // machine is. A waiter that takes nothing is not woken, and needs real time.
        let (clock, time, max_block) = match keeps::<C>("GAP-04") {
            Behaviour::Kafka => {
                let (clock, time) = WatchedClock::manual();
                (clock, Some(time), LONG)
            }
            Behaviour::Promise => (WatchedClock::system(), None, Duration::from_millis(200)),
        };
        Self { pool: watched_pool::<C>(total, poolable, &clock), clock, time, max_block }
    }

    fn waiter(&self, size: usize) -> Worker<Granted<C>> {
        wait_watched::<C>(&self.pool, &self.clock, size, self.max_block)
    }

    /// To be called before the release that makes the progress.
    fn nearly_over(&self) {
        if let Some(time) = &self.time {
            time.advance(self.max_block - Duration::from_millis(50));
        }
    }
}

/// Waiters 0, 1, ... of these sizes, in this order; each sends its number and its lease.
fn line_up<C: Core>(pool: &Arc<C::Pool>, sizes: &[usize]) -> Receiver<(usize, LeaseOf<C>)> {
    let (granted, grants) = mpsc::channel();
    for (number, size) in sizes.iter().copied().enumerate() {
        let (pool, granted) = (pool.clone(), granted.clone());
        let waiting = pool.queued();
        std::thread::spawn({
            let pool = pool.clone();
            move || granted.send((number, pool.allocate(size, LONG).expect("granted in the end")))
        });
        eventually("the next one waits", || pool.queued() == waiting + 1);
    }
    grants
}

#[track_caller]
fn next_grant<C: Core>(grants: &Receiver<(usize, LeaseOf<C>)>) -> (usize, LeaseOf<C>) {
    grants.recv_timeout(PATIENCE).expect("a waiter is served")
}

#[track_caller]
fn assert_no_grant<C: Core>(grants: &Receiver<(usize, LeaseOf<C>)>) {
    if let Ok((number, _)) = grants.recv_timeout(GLANCE) {
        panic!("waiter {number} was served out of turn")
    }
}

fn pool_06_waiters_are_served_first_come_first_served<C: Core>() {
    for size in [64, 63] {
        let pool = pool::<C>(4 * size as u64, 64);
        let mut held: Vec<_> = (0..4).map(|_| take::<C>(&pool, size)).collect();
        let grants = line_up::<C>(&pool, &[size; 8]);
        for expected in 0..8 {
            // One release, one grant: the first in the line gets it.
            held.remove(0);
            let (number, lease) = next_grant::<C>(&grants);
            assert_eq!(number, expected, "{size} bytes");
            assert_eq!(pool.queued(), 7 - expected);
            held.push(lease);
        }
        drop(held);
        assert_at_rest(&pool.snapshot());
    }
}

fn pool_06_waiters_of_different_sizes_keep_their_order<C: Core>() {
    let pool = pool::<C>(256, 64);
    let held = take::<C>(&pool, 256);
    let sizes = [200, 64, 250, 10, 64];
    let grants = line_up::<C>(&pool, &sizes);
    drop(held);
    // 200 first. What is left cannot be used by anyone before the next in line, who needs 64.
    let first = next_grant::<C>(&grants);
    assert_eq!(first.0, 0);
    assert_no_grant::<C>(&grants);
    drop(first);
    let second = next_grant::<C>(&grants);
    assert_eq!(second.0, 1);
    drop(second);
    let third = next_grant::<C>(&grants);
    assert_eq!(third.0, 2);
    drop(third);
    // The last two need not wait for each other.
    let rest = [next_grant::<C>(&grants).0, next_grant::<C>(&grants).0];
    assert!(rest == [3, 4] || rest == [4, 3], "{rest:?}");
    assert_at_rest(&pool.snapshot());
}

fn pool_07_a_waiter_takes_a_returned_buffer_whole<C: Core>() {
    let pool = pool::<C>(64, 64);
    let lease = take_marked::<C>(&pool, 0x42);
    let address = lease.as_ptr();
    let waiter = wait_for::<C>(&pool, 64, LONG);
    drop(lease);
    let got = waiter.result().unwrap();
    assert!(got.as_ptr() == address && got.iter().all(|byte| *byte == 0x42), "the buffer itself, not fresh memory");
    assert_books(&*pool, [0, 0, 64, 0]);
    drop(got);
    assert_books(&*pool, [0, 64, 0, 0]);
}

fn pool_07_what_a_waiter_holds_while_it_waits_for_the_rest<C: Core>() {
    let pool = pool::<C>(192, 64);
    let (a, b, _c) = (take::<C>(&pool, 64), take::<C>(&pool, 64), take::<C>(&pool, 64));
    let waiter = wait_for::<C>(&pool, 128, LONG);
    drop(a);
    match keeps::<C>("GAP-04") {
        Behaviour::Kafka => {
            // The buffer is broken up (GAP-05), the part is held, and it is of no use to others.
            eventually("the waiter holds a part", || pool.snapshot().reserved == 64);
            assert_books(&*pool, [0, 0, 128, 64]);
            let error = pool.allocate(64, Duration::ZERO).unwrap_err();
            assert!(matches!(error, PoolError::Exhausted { available: 0, .. }), "{error}");
        }
        Behaviour::Promise => {
            std::thread::sleep(GLANCE);
            assert_books(&*pool, [0, 64, 128, 0]);
        }
    }
    assert_eq!(pool.queued(), 1);
    drop(b);
    let lease = waiter.result().unwrap();
    assert_eq!(lease.len(), 128);
    assert_books(&*pool, [0, 0, 192, 0]);
    drop(lease);
    assert_books(&*pool, [128, 0, 64, 0]);
}

fn pool_07_a_waiter_that_holds_a_part_gathers_the_rest<C: Core>() {
    // A waiter for the poolable size that holds a part already breaks the returned buffer up as well: the rest stays unallocated.
    let pool = pool::<C>(96, 64);
    let (odd, pooled) = (take::<C>(&pool, 32), take_marked::<C>(&pool, 0x42));
    let waiter = wait_for::<C>(&pool, 64, LONG);
    drop(odd);
    match keeps::<C>("GAP-04") {
        Behaviour::Kafka => eventually("the waiter holds a part", || pool.snapshot().reserved == 32),
        Behaviour::Promise => {
            std::thread::sleep(GLANCE);
            assert_books(&*pool, [32, 0, 64, 0]);
        }
    }
    drop(pooled);
    let lease = waiter.result().unwrap();
    assert_books(&*pool, [32, 0, 64, 0]);
    match keeps::<C>("GAP-05") {
        Behaviour::Kafka => assert_eq!(lease[0], 0, "fresh memory: the pooled buffer was broken up"),
        Behaviour::Promise => assert_eq!(lease[0], 0x42, "the buffer that came back"),
    }
    drop(lease);
    assert_books(&*pool, [32, 64, 0, 0]);
}

fn pool_07_no_more_buffers_are_broken_up_than_needed<C: Core>() {
    let clock = WatchedClock::system();
    let pool = watched_pool::<C>(164, 64, &clock);
    let (odd, one, two) = (take::<C>(&pool, 36), take::<C>(&pool, 64), take::<C>(&pool, 64));
    let gate = Gate::default();
    let waiter = Worker::start({
        let (pool, clock, gate) = (pool.clone(), clock.clone(), gate.clone());
        move || {
            // After the first look that the odd bytes bring, it stands before its second sleep - if it sleeps in between at all.
            clock.at_my_read(3, move || gate.pass());
            pool.allocate(100, LONG)
        }
    });
    eventually("it waits", || pool.queued() == 1 && clock.reads_of(waiter.id()) > 0);
    drop(odd);
    if keeps::<C>("GAP-04") == Behaviour::Kafka {
        eventually("it holds the odd bytes", || pool.snapshot().reserved == 36);
        gate.await_reached();
    }
    drop((one, two));
    gate.open();
    let granted = waiter.result().unwrap();
    assert_books(&*pool, [0, 64, 100, 0]);
    drop(granted);
    assert_at_rest(&pool.snapshot());
}

fn pool_08_partial_progress_does_not_reset_the_time<C: Core>() {
    // A piece comes back every 20 ms, for four seconds. A waiter whose time began anew with each would never end before they do.
    let max_block = Duration::from_millis(200);
    let pool = pool::<C>(300, 64);
    let mut pieces: Vec<_> = (0..200).map(|_| take::<C>(&pool, 1)).collect();
    let rest = take::<C>(&pool, 100);
    let watch = Stopwatch::start();
    let waiter = wait_for::<C>(&pool, 300, max_block);
    while !waiter.is_finished() && pieces.pop().is_some() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!pieces.is_empty(), "the time began anew with each piece");
    assert!(matches!(waiter.result(), Err(PoolError::Exhausted { .. })));
    assert!(watch.elapsed() >= max_block);
    drop((pieces, rest));
    assert_at_rest(&pool.snapshot());

    // Each slice is subtracted as it was measured: of ten minutes, 50 ms are left when the piece comes.
    let short = ShortOfTime::<C>::new(128, 64);
    let (piece, _rest) = (take::<C>(&short.pool, 28), take::<C>(&short.pool, 100));
    let waiter = short.waiter(128);
    short.nearly_over();
    drop(piece);
    assert!(matches!(waiter.result(), Err(PoolError::Exhausted { .. })));
}

fn pool_09_the_wait_ends_not_before_max_block_and_soon_after<C: Core>() {
    let pool = pool::<C>(256, 64);
    let held = take::<C>(&pool, 200);
    for (failed, millis) in (1..).zip([1, 30, 150]) {
        let max_block = Duration::from_millis(millis);
        for size in [64, 100] {
            let watch = Stopwatch::start();
            let error = pool.allocate(size, max_block).unwrap_err();
            let took = watch.elapsed();
            assert_eq!(error, PoolError::Exhausted { requested: size, available: 56, max_block });
            assert!(took >= max_block, "{took:?} is before {max_block:?}");
            assert!(took < max_block + SOON, "{took:?} is long after {max_block:?}");
        }
        assert_eq!(pool.snapshot().exhausted, 2 * failed);
    }
    // A grant is no exhaustion, neither at once nor after a wait.
    drop(take::<C>(&pool, 56));
    let waiter = wait_for::<C>(&pool, 64, LONG);
    drop(held);
    assert!(waiter.result().is_ok());
    assert_eq!(pool.snapshot().exhausted, 6);
    assert_at_rest(&pool.snapshot());
}

fn pool_09_memory_there_when_the_time_is_over<C: Core>() {
    // The memory comes back between the end of the waiter's sleep and its next step: when it reads the clock.
    let clock = WatchedClock::system();
    let pool = watched_pool::<C>(64, 64, &clock);
    let held = take::<C>(&pool, 64);
    let max_block = Duration::from_millis(20);
    clock.at_time(clock.look().saturating_add(max_block), move || drop(held));
    let outcome = pool.allocate(64, max_block);
    match keeps::<C>("GAP-06") {
        Behaviour::Kafka => {
            assert_eq!(outcome.unwrap_err(), PoolError::Exhausted { requested: 64, available: 64, max_block });
        }
        Behaviour::Promise => assert_eq!(outcome.expect("it looks a last time").len(), 64),
    }
    assert_at_rest(&pool.snapshot());
}

fn pool_10_timeout_returns_partial_grant<C: Core>() {
    let short = ShortOfTime::<C>::new(256, 64);
    let pool = &short.pool;
    let (part, odd, rest) = (take::<C>(pool, 64), take::<C>(pool, 32), take::<C>(pool, 160));
    let waiter = short.waiter(256);
    drop(odd);
    match keeps::<C>("GAP-04") {
        Behaviour::Kafka => eventually("the waiter holds a part", || pool.snapshot().reserved == 32),
        Behaviour::Promise => assert_eq!(pool.snapshot().reserved, 0),
    }
    short.nearly_over();
    drop(part);
    let error = waiter.result().unwrap_err();
    assert_eq!(error, PoolError::Exhausted { requested: 256, available: 96, max_block: short.max_block });
    match keeps::<C>("GAP-05") {
        Behaviour::Kafka => assert_books(&**pool, [96, 0, 160, 0]),
        Behaviour::Promise => assert_books(&**pool, [32, 64, 160, 0]),
    }
    assert_eq!(pool.queued(), 0);
    // And it is of use again.
    drop(take::<C>(pool, 96));
    drop(rest);
    assert_at_rest(&pool.snapshot());
}

fn pool_10_timeout_passes_the_wake_up_on<C: Core>() {
    let short = ShortOfTime::<C>::new(256, 64);
    let pool = &short.pool;
    let (part, rest) = (take::<C>(pool, 64), take::<C>(pool, 192));
    let large = short.waiter(256);
    let small = wait_for::<C>(pool, 64, LONG);
    short.nearly_over();
    // The one at the head takes it, or keeps it from others; when its time is over, the next one gets it without another release.
    drop(part);
    assert!(matches!(large.result(), Err(PoolError::Exhausted { .. })));
    drop(small.result().unwrap());
    drop(rest);
    assert_at_rest(&pool.snapshot());
}

fn pool_10_close_returns_partial_grant<C: Core>() {
    let pool = pool::<C>(256, 64);
    let (part, rest) = (take::<C>(&pool, 64), take::<C>(&pool, 192));
    let waiter = wait_for::<C>(&pool, 256, LONG);
    drop(part);
    if keeps::<C>("GAP-04") == Behaviour::Kafka {
        eventually("the waiter holds a part", || pool.snapshot().reserved == 64);
    }
    pool.close();
    assert_eq!(waiter.result().unwrap_err(), PoolError::Closed);
    match keeps::<C>("GAP-05") {
        Behaviour::Kafka => assert_books(&*pool, [64, 0, 192, 0]),
        Behaviour::Promise => assert_books(&*pool, [0, 64, 192, 0]),
    }
    drop(rest);
    assert_at_rest(&pool.snapshot());
}

fn pool_10_a_timed_out_waiter_in_the_middle_leaves_the_others_alone<C: Core>() {
    let pool = pool::<C>(128, 64);
    let held = take::<C>(&pool, 128);
    let first = wait_for::<C>(&pool, 64, LONG);
    let middle = wait_for::<C>(&pool, 64, Duration::from_millis(20));
    let last = wait_for::<C>(&pool, 64, LONG);
    assert!(matches!(middle.result(), Err(PoolError::Exhausted { available: 0, .. })));
    assert_eq!(pool.queued(), 2);
    assert!(!first.is_finished() && !last.is_finished());
    drop(held);
    drop((first.result().unwrap(), last.result().unwrap()));
    assert_at_rest(&pool.snapshot());
}

fn pool_11_one_release_serves_all_that_it_can_satisfy<C: Core>() {
    // One release, eight waiters: whoever is served wakes the next, or the release wakes all (GAP-03). Nothing else will.
    for size in [64, 100] {
        let pool = pool::<C>(8 * size as u64, 64);
        let held = take::<C>(&pool, 8 * size);
        let grants = line_up::<C>(&pool, &[size; 8]);
        drop(held);
        let all: Vec<_> = (0..8).map(|_| next_grant::<C>(&grants)).collect();
        assert_books(&*pool, [0, 0, 8 * size as u64, 0]);
        assert_eq!(pool.queued(), 0);
        drop(all);
        assert_at_rest(&pool.snapshot());
    }
}

fn pool_11_wake_ups_chain_past_sizes<C: Core>() {
    let pool = pool::<C>(300, 64);
    let held = take::<C>(&pool, 300);
    let grants = line_up::<C>(&pool, &[10, 64, 100, 64, 1]);
    drop(held);
    let all: Vec<_> = (0..5).map(|_| next_grant::<C>(&grants)).collect();
    assert_books(&*pool, [61, 0, 239, 0]);
    drop(all);
    assert_at_rest(&pool.snapshot());
}

fn pool_11_wake_ups_chain_while_only_buffers_are_left<C: Core>() {
    // Both buffers come back before the first waiter looks, so that the second hears of them from the first only.
    let pool = pool::<C>(128, 64);
    let held = (take::<C>(&pool, 64), take::<C>(&pool, 64));
    let stop = Stop::new();
    let first = Worker::start({
        let (pool, stop) = (pool.clone(), stop.clone());
        move || {
            stop_here("pool.wait", &stop);
            pool.allocate(64, LONG)
        }
    });
    assert!(stop.await_stopped(PATIENCE));
    let second = wait_for::<C>(&pool, 64, LONG);
    drop(held);
    stop.release();
    let grants = (first.result().unwrap(), second.result().unwrap());
    assert_books(&*pool, [0, 0, 128, 0]);
    drop(grants);
    assert_at_rest(&pool.snapshot());
}

fn pool_11_nobody_is_woken_for_nothing<C: Core>() {
    let clock = WatchedClock::system();
    let pool = watched_pool::<C>(128, 64, &clock);
    let held = take::<C>(&pool, 128);
    let waiter = wait_watched::<C>(&pool, &clock, 64, LONG);
    // Each leaves the pool as empty as it was.
    for _ in 0..20 {
        assert!(pool.allocate(64, Duration::ZERO).is_err());
    }
    waiter.assert_stays_blocked("nothing came back");
    assert_eq!(clock.reads_of(waiter.id()), 1, "it slept on");
    drop(held);
    drop(waiter.result().unwrap());
    assert_at_rest(&pool.snapshot());
}

fn pool_12_a_satisfied_waiter_has_left_when_its_successor_wakes<C: Core>() {
    let clock = WatchedClock::system();
    let pool = watched_pool::<C>(128, 64, &clock);
    let held = take::<C>(&pool, 128);
    let first = wait_watched::<C>(&pool, &clock, 64, LONG);
    let (seen, sight) = mpsc::channel();
    let second = Worker::start({
        let (pool, clock) = (pool.clone(), clock.clone());
        move || {
            let looker = pool.clone();
            // The first reading begins the wait; at the second the waiter has been woken.
            clock.at_my_read(2, move || seen.send(looker.queued()).expect("the test listens"));
            pool.allocate(64, LONG)
        }
    });
    eventually("both wait", || pool.queued() == 2 && clock.reads_of(second.id()) > 0);
    drop(held);
    let (first, second) = (first.result().unwrap(), second.result().unwrap());
    match sight.try_recv() {
        // One return wakes both, so the successor may run first: then it is still to serve the one before it.
        Ok(queued) => {
            let most = if keeps::<C>("GAP-03") == Behaviour::Kafka { 1 } else { 2 };
            assert!(queued <= most, "the successor sees {queued} waiters, itself included");
        }
        // A core that does not read the clock there has nothing to show.
        Err(_) => assert_eq!(keeps::<C>("GAP-03"), Behaviour::Promise),
    }
    drop((first, second));
    assert_at_rest(&pool.snapshot());
}

fn pool_16_whom_a_release_wakes<C: Core>() {
    let clock = WatchedClock::system();
    let pool = watched_pool::<C>(128, 64, &clock);
    let held = take::<C>(&pool, 128);
    // The head is stopped where it wakes up, before it looks at the pool.
    let gate = Gate::default();
    let head = Worker::start({
        let (pool, clock, gate) = (pool.clone(), clock.clone(), gate.clone());
        move || {
            clock.at_my_read(2, move || gate.pass());
            pool.allocate(64, LONG)
        }
    });
    eventually("the head waits", || pool.queued() == 1 && clock.reads_of(head.id()) > 0);
    let next = wait_watched::<C>(&pool, &clock, 64, LONG);
    // One return, enough for both.
    drop(held);
    match keeps::<C>("GAP-03") {
        Behaviour::Kafka => {
            gate.await_reached();
            next.assert_stays_blocked("only the head is woken");
            assert_eq!(clock.reads_of(next.id()), 1, "the second waiter was woken");
            gate.open();
            drop((head.result().unwrap(), next.result().unwrap()));
        }
        Behaviour::Promise => {
            let next = next.result().unwrap();
            gate.open();
            drop((head.result().unwrap(), next));
        }
    }
    assert_at_rest(&pool.snapshot());
}

fn pool_19_close_fails_waiters_and_later_requests<C: Core>() {
    let pool = pool::<C>(256, 64);
    drop(take::<C>(&pool, 64));
    let held = take::<C>(&pool, 250);
    let waiters: Vec<_> = [64, 200, 7, 256, 64].map(|size| wait_for::<C>(&pool, size, LONG)).into();
    pool.close();
    for waiter in waiters {
        assert_eq!(waiter.result().unwrap_err(), PoolError::Closed);
    }
    assert_eq!((pool.queued(), pool.snapshot().exhausted), (0, 0));
    // With memory there as well as without; and closing again changes nothing.
    for size in [1, 64, 256] {
        assert_eq!(pool.allocate(size, LONG).unwrap_err(), PoolError::Closed);
    }
    pool.close();
    drop(held);
    for size in [1, 64, 256] {
        assert_eq!(pool.allocate(size, Duration::ZERO).unwrap_err(), PoolError::Closed);
    }
    assert_at_rest(&pool.snapshot());
}

fn pool_19_leases_come_back_after_close<C: Core>() {
    let pool = pool::<C>(256, 64);
    let (poolable, mut odd) = (take::<C>(&pool, 64), take::<C>(&pool, 100));
    pool.close();
    odd.fill(1);
    assert_books(&*pool, [92, 0, 164, 0]);
    drop(odd);
    assert_eq!(pool.available(), 192);
    drop(poolable);
    assert_at_rest(&pool.snapshot());
}

fn pool_20_close_wins_a_tie_with_the_timeout<C: Core>() {
    // The pool is closed between the end of the waiter's sleep and its next step: when it reads the clock.
    let clock = WatchedClock::system();
    let pool = watched_pool::<C>(64, 64, &clock);
    let held = take::<C>(&pool, 64);
    let max_block = Duration::from_millis(20);
    let closer = pool.clone();
    clock.at_time(clock.look().saturating_add(max_block), move || closer.close());
    assert_eq!(pool.allocate(64, max_block).unwrap_err(), PoolError::Closed);
    assert_eq!(pool.snapshot().exhausted, 0);
    drop(held);
    assert_at_rest(&pool.snapshot());
}

fn pool_22_queued_counts_the_callers_blocked_now<C: Core>() {
    let pool = pool::<C>(100, 64);
    let held = take::<C>(&pool, 100);
    assert_eq!(pool.queued(), 0);
    let mut waiters = Vec::new();
    for number in 1..=5 {
        waiters.push(wait_for::<C>(&pool, 100, LONG));
        assert_eq!((pool.queued(), pool.snapshot().queued), (number, number));
    }
    // One who does not wait is not counted.
    assert!(pool.allocate(1, Duration::ZERO).is_err());
    assert_eq!(pool.queued(), 5);
    drop(held);
    for (waiter, left) in waiters.into_iter().zip((0..5).rev()) {
        let lease = waiter.result().unwrap();
        assert_eq!(pool.queued(), left);
        drop(lease);
    }
    assert_at_rest(&pool.snapshot());
}

/// Threads that allocate sizes of all kinds with little patience, while a watcher reads the books. Each lease is filled with its holder's
/// mark, which must still be there when it goes back.
fn hammer<C: Core>(pool: &Arc<C::Pool>, threads: u64, time: Duration) -> Vec<Worker<(u64, u64)>> {
    (0..threads)
        .map(|thread| {
            let pool = pool.clone();
            Worker::start(move || {
                let mut random = Random::seeded(thread);
                let watch = Stopwatch::start();
                let (mut granted, mut refused) = (0, 0);
                while watch.elapsed() < time {
                    let size = match random.below(8) {
                        0 => 1 + random.below(pool.total()) as usize,
                        1 | 2 => 1 + random.below(100) as usize,
                        _ => pool.poolable(),
                    };
                    let max_block = Duration::from_micros([0, 50, 2_000, 20_000][random.below(4) as usize]);
                    match pool.allocate(size, max_block) {
                        Ok(mut lease) => {
                            granted += 1;
                            lease.fill(thread as u8);
                            if random.below(4) == 0 {
                                std::thread::yield_now();
                            }
                            assert!(lease.iter().all(|byte| *byte == thread as u8), "a lease has two holders");
                        }
                        Err(PoolError::Exhausted { .. }) => refused += 1,
                        Err(PoolError::Closed) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                (granted, refused)
            })
        })
        .collect()
}

/// Reads the books until all threads have ended.
fn watch_the_books<C: Core>(pool: &C::Pool, threads: &[Worker<(u64, u64)>]) {
    while !threads.iter().all(Worker::is_finished) {
        let now = pool.snapshot();
        assert!(!C::SNAPSHOT_IS_ONE_INSTANT || now.is_conserved(), "{now:?}");
        assert!(now.available() <= now.total && now.leased <= now.total, "{now:?}");
        std::thread::yield_now();
    }
}

fn pool_23_stress_conserves_every_byte<C: Core>() {
    let pool = pool::<C>(5 * 64 + 17, 64);
    let threads = hammer::<C>(&pool, 6, Duration::from_millis(700));
    watch_the_books::<C>(&pool, &threads);
    let sums: Vec<_> = threads.into_iter().map(Worker::result).collect();
    assert!(sums.iter().all(|(granted, _)| *granted > 0), "a thread got nothing: {sums:?}");
    assert!(sums.iter().any(|(_, refused)| *refused > 0), "memory was never short: {sums:?}");
    let now = pool.snapshot();
    assert_at_rest(&now);
    assert_eq!(now.exhausted, sums.iter().map(|(_, refused)| refused).sum::<u64>());
    drop(take::<C>(&pool, 5 * 64 + 17));
}

fn pool_23_stress_with_close_leaves_nothing_behind<C: Core>() {
    for round in 0..20 {
        let pool = pool::<C>(3 * 64, 64);
        let threads = hammer::<C>(&pool, 4, LONG);
        std::thread::sleep(Duration::from_millis(1 + round % 5));
        pool.close();
        watch_the_books::<C>(&pool, &threads);
        for thread in threads {
            thread.result();
        }
        assert_at_rest(&pool.snapshot());
    }
}

fn pool_24_small_releases_add_up_to_a_large_grant<C: Core>() {
    for piece in [16, 64] {
        let total = 10 * piece;
        let pool = pool::<C>(total as u64, 64);
        let mut pieces: Vec<_> = (0..10).map(|_| take::<C>(&pool, piece)).collect();
        let waiter = wait_for::<C>(&pool, total, LONG);
        while pieces.pop().is_some() {
            assert!(pieces.is_empty() || !waiter.is_finished());
        }
        let lease = waiter.result().unwrap();
        assert_eq!(lease.len(), total);
        assert_books(&*pool, [0, 0, total as u64, 0]);
        drop(lease);
        assert_at_rest(&pool.snapshot());
    }
}

fn pool_25_wait_time_counts_granted_and_failed_waits<C: Core>() {
    let (clock, time) = WatchedClock::manual();
    let pool = watched_pool::<C>(64, 64, &clock);
    let held = take::<C>(&pool, 64);
    assert_eq!(pool.snapshot().wait_time, Duration::ZERO, "a grant at once is no wait");

    let granted = wait_watched::<C>(&pool, &clock, 64, LONG);
    time.advance(Duration::from_nanos(3_000_000_001));
    drop(held);
    let held = granted.result().unwrap();
    assert_eq!(pool.snapshot().wait_time, Duration::from_nanos(3_000_000_001));

    let (one, two) = (wait_watched::<C>(&pool, &clock, 64, LONG), wait_watched::<C>(&pool, &clock, 1, LONG));
    time.advance(Duration::from_secs(5));
    pool.close();
    assert!(one.result().is_err() && two.result().is_err());
    assert_eq!(pool.snapshot().wait_time, Duration::from_nanos(13_000_000_001), "both, and failed ones too");
    drop(held);

    // A real timeout.
    let pool = crate::pool::pool::<C>(64, 64);
    let held = take::<C>(&pool, 64);
    let max_block = Duration::from_millis(40);
    let watch = Stopwatch::start();
    assert!(pool.allocate(64, max_block).is_err());
    let waited = pool.snapshot().wait_time;
    assert!(max_block <= waited && waited <= watch.elapsed(), "{waited:?}");
    drop(held);
}

fn pool_25_wait_time_counts_each_slice<C: Core>() {
    let (clock, time) = WatchedClock::manual();
    let pool = watched_pool::<C>(128, 64, &clock);
    let (odd, rest) = (take::<C>(&pool, 28), take::<C>(&pool, 100));
    let waiter = wait_watched::<C>(&pool, &clock, 128, LONG);
    time.advance(Duration::from_secs(2));
    drop(odd);
    if keeps::<C>("GAP-04") == Behaviour::Kafka {
        // The waiter wakes to take a part: that slice is recorded now, not when it ends.
        eventually("the waiter holds a part", || pool.snapshot().reserved == 28);
        assert_eq!(pool.snapshot().wait_time, Duration::from_secs(2));
        eventually("it begins the next slice", || clock.reads_of(waiter.id()) == 3);
    }
    time.advance(Duration::from_secs(4));
    drop(rest);
    drop(waiter.result().unwrap());
    assert_eq!(pool.snapshot().wait_time, Duration::from_secs(6));
}
