//! The pool without waiting: budget, free list, leases, books. POOL-01 to POOL-05, POOL-13 to POOL-18, POOL-21, GAP-07, GAP-08.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use unlatched::batch::{OpenBatch, Reply};
use unlatched::error::TopicPartition;
use unlatched::pool::{BufferPool, PoolError, PoolSnapshot};
use unlatched::primitive::clock::{Instant, SystemClock};
use unlatched::primitive::random::Random;
use unlatched::record::Record;

use crate::deviations::{Behaviour, keeps};
use crate::support::{Core, GLANCE, LONG, LeaseOf, Marked, SOON, Stopwatch, Worker, eventually, on_every_core};

on_every_core![
    gap_08_the_pool_goes_with_the_last_of_its_handle_and_its_leases,
    pool_04_broken_up_buffers_go_back_to_the_machine,
    pool_01_starts_unallocated_and_empty,
    pool_01_budgets_that_are_no_multiple_of_the_poolable_size,
    pool_02_more_than_total_fails_at_once_and_total_is_legal,
    pool_02_more_than_total_fails_before_the_closed_check,
    pool_02_more_than_total_does_not_wait_behind_waiters,
    pool_03_reuse_order_and_the_unallocated_counter,
    pool_04_fresh_memory_while_the_budget_lasts,
    pool_04_odd_sizes_break_up_only_what_they_need,
    pool_05_a_recycled_buffer_is_whole_and_not_zeroed,
    pool_05_fresh_memory_is_zero,
    pool_13_max_block_zero_tries_once,
    pool_13_a_try_and_a_deadline,
    pool_01_totals_and_poolable_sizes_at_their_bounds,
    pool_23_memory_stays_within_the_total_beside_odd_sizes,
    pool_14_poolable_buffers_are_pooled_and_others_dropped,
    pool_15_the_credit_is_what_was_charged,
    pool_17_a_failed_allocation_leaves_nothing_behind,
    pool_18_failing_to_make_the_memory_gives_the_reservation_back,
    pool_21_available_is_unallocated_and_pooled,
    pool_21_what_is_available_can_be_had,
    pool_23_the_books_of_random_sequences,
    gap_07_sums_of_the_pool_have_64_bits,
    gap_08_a_lease_goes_back_once_and_home,
    gap_08_a_lease_as_shared_bytes_goes_back_with_the_last_of_them,
    gap_08_leases_outlive_the_pools_handle,
];

pub(crate) fn pool<C: Core>(total: u64, poolable: usize) -> Arc<C::Pool> {
    Arc::new(C::Pool::new(total, poolable, SystemClock::shared()))
}

/// A lease that must be there at once.
#[track_caller]
pub(crate) fn take<C: Core>(pool: &C::Pool, size: usize) -> LeaseOf<C> {
    let lease = pool.allocate(size, Duration::ZERO).expect("memory is there");
    assert_eq!((lease.len(), lease.charged()), (size, size));
    lease
}

/// A lease of the poolable size whose bytes are all `mark`.
#[track_caller]
pub(crate) fn take_marked<C: Core>(pool: &C::Pool, mark: u8) -> LeaseOf<C> {
    let mut lease = take::<C>(pool, pool.poolable());
    lease.fill(mark);
    lease
}

/// That the pool's bytes are `[unallocated, pooled, leased, reserved]`.
#[track_caller]
pub(crate) fn assert_books<P: BufferPool>(pool: &P, books: [u64; 4]) {
    let now = pool.snapshot();
    assert_eq!([now.unallocated, now.pooled, now.leased, now.reserved], books, "{now:?}");
    assert!(now.is_conserved(), "{now:?}");
}

/// That all bytes are back and nobody waits.
#[track_caller]
pub(crate) fn assert_at_rest(now: &PoolSnapshot) {
    assert!(now.is_conserved(), "{now:?}");
    assert_eq!((now.available(), now.leased, now.reserved, now.queued), (now.total, 0, 0, 0), "{now:?}");
}

fn pool_01_starts_unallocated_and_empty<C: Core>() {
    // A budget beyond any machine: so nothing is allocated in advance.
    let pool = pool::<C>(1 << 50, 1 << 14);
    let empty = PoolSnapshot { total: 1 << 50, unallocated: 1 << 50, ..PoolSnapshot::default() };
    assert_eq!(pool.snapshot(), empty);
    assert_eq!((pool.total(), pool.poolable(), pool.queued(), pool.available()), (1 << 50, 1 << 14, 0, 1 << 50));
}

fn pool_01_budgets_that_are_no_multiple_of_the_poolable_size<C: Core>() {
    let uneven = pool::<C>(150, 64);
    let leases = (take::<C>(&uneven, 64), take::<C>(&uneven, 64), take::<C>(&uneven, 22));
    assert_books(&*uneven, [0, 0, 150, 0]);
    drop(leases);
    assert_books(&*uneven, [22, 128, 0, 0]);

    let less_than_one = pool::<C>(50, 64);
    assert_eq!(less_than_one.allocate(64, LONG).unwrap_err(), PoolError::TooLarge { requested: 64, total: 50 });
    drop(take::<C>(&less_than_one, 50));
    assert_books(&*less_than_one, [50, 0, 0, 0]);

    let none = pool::<C>(0, 64);
    assert_eq!(none.allocate(1, LONG).unwrap_err(), PoolError::TooLarge { requested: 1, total: 0 });
    // An empty lease of it outlives its handle as any other does.
    let empty = take::<C>(&none, 0);
    drop(none);
    assert_eq!(empty.len(), 0);
    drop(empty);
}

fn pool_02_more_than_total_fails_at_once_and_total_is_legal<C: Core>() {
    let pool = pool::<C>(256, 64);
    let held = take::<C>(&pool, 256);
    assert_books(&*pool, [0, 0, 256, 0]);
    let watch = Stopwatch::start();
    for size in [257, usize::MAX] {
        // The budget is used up too, but that is not what is wrong with this request.
        assert_eq!(pool.allocate(size, LONG).unwrap_err(), PoolError::TooLarge { requested: size, total: 256 });
    }
    assert!(watch.elapsed() < SOON);
    assert_eq!(pool.snapshot().exhausted, 0);
    drop(held);
    assert_books(&*pool, [256, 0, 0, 0]);
}

fn pool_02_more_than_total_fails_before_the_closed_check<C: Core>() {
    let pool = pool::<C>(256, 64);
    pool.close();
    assert_eq!(pool.allocate(257, LONG).unwrap_err(), PoolError::TooLarge { requested: 257, total: 256 });
    assert_eq!(pool.allocate(256, LONG).unwrap_err(), PoolError::Closed);
}

fn pool_02_more_than_total_does_not_wait_behind_waiters<C: Core>() {
    let pool = pool::<C>(256, 64);
    let held = take::<C>(&pool, 256);
    let waiter = Worker::start({
        let pool = pool.clone();
        move || pool.allocate(64, LONG).map(drop)
    });
    eventually("it waits", || pool.queued() == 1);
    assert!(matches!(pool.allocate(257, LONG), Err(PoolError::TooLarge { .. })));
    assert_eq!(pool.queued(), 1);
    drop(held);
    assert_eq!(waiter.result(), Ok(()));
}

fn pool_03_reuse_order_and_the_unallocated_counter<C: Core>() {
    let pool = pool::<C>(1000, 64);
    let leases: Vec<_> = (1..=4).map(|mark| take_marked::<C>(&pool, mark)).collect();
    let addresses: BTreeSet<_> = leases.iter().map(|lease| lease.as_ptr()).collect();
    drop(leases); // A vector drops its elements in order.
    assert_books(&*pool, [744, 256, 0, 0]);
    let again: Vec<_> = (1..=4u64)
        .map(|taken| {
            let lease = take::<C>(&pool, 64);
            assert_books(&*pool, [744, 256 - 64 * taken, 64 * taken, 0]);
            lease
        })
        .collect();
    let marks: Vec<u8> = again.iter().map(|lease| lease[0]).collect();
    match keeps::<C>("GAP-09") {
        Behaviour::Kafka => assert_eq!(marks, [1, 2, 3, 4], "first returned, first reused"),
        Behaviour::Promise => assert_eq!(marks[0], 4, "last returned, first reused"),
    }
    assert_eq!(marks.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3, 4]));
    assert_eq!(again.iter().map(|lease| lease.as_ptr()).collect::<BTreeSet<_>>(), addresses);
    // None left: the next one comes out of the unallocated bytes.
    let fresh = take::<C>(&pool, 64);
    assert!(!addresses.contains(&fresh.as_ptr()));
    assert_books(&*pool, [680, 0, 320, 0]);
}

fn pool_04_fresh_memory_while_the_budget_lasts<C: Core>() {
    let pool = pool::<C>(256, 64);
    drop(take_marked::<C>(&pool, 1));
    assert_books(&*pool, [192, 64, 0, 0]);
    // Enough is unallocated: the pooled buffer stays whole.
    let odd = take::<C>(&pool, 192);
    assert_books(&*pool, [0, 64, 192, 0]);
    let pooled = take::<C>(&pool, 64);
    assert_eq!(pooled[0], 1);
    assert_books(&*pool, [0, 0, 256, 0]);
    drop((odd, pooled));
    assert_books(&*pool, [192, 64, 0, 0]);
}

fn pool_04_odd_sizes_break_up_only_what_they_need<C: Core>() {
    let pool = pool::<C>(300, 64);
    let leases: Vec<_> = (1..=4).map(|mark| take_marked::<C>(&pool, mark)).collect();
    drop(leases);
    assert_books(&*pool, [44, 256, 0, 0]);
    // 100 bytes: 44 and one buffer of 64.
    let odd = take::<C>(&pool, 100);
    assert_books(&*pool, [8, 192, 100, 0]);
    // 72 bytes: 8 and exactly one more buffer.
    let exact = take::<C>(&pool, 72);
    assert_books(&*pool, [0, 128, 172, 0]);
    let left: BTreeSet<u8> = [take::<C>(&pool, 64), take::<C>(&pool, 64)].iter().map(|lease| lease[0]).collect();
    if keeps::<C>("GAP-09") == Behaviour::Kafka {
        assert_eq!(left, BTreeSet::from([1, 2]), "broken up from the tail: the buffers returned last");
    } else {
        assert_eq!(left.len(), 2);
    }
    // Both are back in the pool by now. All of it, at once:
    assert_books(&*pool, [0, 128, 172, 0]);
    drop((odd, exact));
    let all = take::<C>(&pool, 300);
    assert_books(&*pool, [0, 0, 300, 0]);
    drop(all);
    assert_books(&*pool, [300, 0, 0, 0]);
}

fn pool_05_a_recycled_buffer_is_whole_and_not_zeroed<C: Core>() {
    let pool = pool::<C>(64, 64);
    let mut lease = take_marked::<C>(&pool, 0xa5);
    lease[3] = 0x5a;
    let address = lease.as_ptr();
    drop(lease.erase());
    let again = take::<C>(&pool, 64);
    assert_eq!((again.len(), again.as_ptr()), (64, address));
    assert!(again.iter().enumerate().all(|(at, byte)| *byte == if at == 3 { 0x5a } else { 0xa5 }));
}

fn pool_05_fresh_memory_is_zero<C: Core>() {
    let pool = pool::<C>(1 << 20, 4096);
    drop((take_marked::<C>(&pool, 0xff), take_marked::<C>(&pool, 0xff)));
    // An odd size never sees what was in a buffer before.
    for size in [1, 4095, 4097, (1 << 20) - 1] {
        assert!(take::<C>(&pool, size).iter().all(|byte| *byte == 0), "{size}");
    }
}

fn pool_13_max_block_zero_tries_once<C: Core>() {
    let pool = pool::<C>(128, 64);
    let held = take::<C>(&pool, 100);
    let watch = Stopwatch::start();
    for (tries, size) in [(1, 29), (2, 64), (3, 128)] {
        let error = pool.allocate(size, Duration::ZERO).unwrap_err();
        assert_eq!(error, PoolError::Exhausted { requested: size, available: 28, max_block: Duration::ZERO });
        let now = pool.snapshot();
        assert_eq!((now.exhausted, now.queued, now.reserved, now.unallocated), (tries, 0, 0, 28));
    }
    assert!(watch.elapsed() < SOON);
    drop(take::<C>(&pool, 28));
    drop(held);
    drop(take::<C>(&pool, 128));
    assert_eq!(pool.snapshot().exhausted, 3);
}

fn pool_13_a_try_and_a_deadline<C: Core>() {
    let pool = pool::<C>(128, 64);
    let held = take::<C>(&pool, 100);
    let none = |error| matches!(error, PoolError::Exhausted { requested: 64, available: 28, .. });
    // No time left, also long ago: a try.
    assert!(none(pool.try_allocate(64).unwrap_err()));
    for over in [Instant::ZERO, pool.now()] {
        let watch = Stopwatch::start();
        assert!(none(pool.allocate_until(64, over).unwrap_err()));
        assert!(watch.elapsed() < SOON);
        drop(pool.allocate_until(28, over).unwrap());
    }
    drop(pool.try_allocate(28).unwrap());
    // Not before it.
    let deadline = pool.now().saturating_add(GLANCE);
    assert!(none(pool.allocate_until(64, deadline).unwrap_err()));
    assert!(pool.now() >= deadline);
    // And served within it.
    let waiter = Worker::start({
        let pool = pool.clone();
        move || pool.allocate_until(64, pool.now().saturating_add(LONG)).map(drop)
    });
    eventually("it waits", || pool.queued() == 1);
    drop(held);
    assert_eq!(waiter.result(), Ok(()));
    assert_at_rest(&pool.snapshot());
}

fn pool_01_totals_and_poolable_sizes_at_their_bounds<C: Core>() {
    for total in [1 << 20, (1 << 39) - 1, 1 << 39, 1 << 50, u64::MAX] {
        for poolable in [0, 1, 64] {
            let pool = pool::<C>(total, poolable);
            drop((take::<C>(&pool, 1), take::<C>(&pool, 64), take::<C>(&pool, 100)));
            // All of it is there again: what fails is the machine.
            let all = usize::try_from(total).unwrap();
            let had = pool.try_allocate(all).map(drop);
            assert!(matches!(had, Ok(()) | Err(PoolError::OutOfMemory { .. })), "{had:?} of {total}, {poolable}");
            if total < 1 << 39 {
                assert_at_rest(&pool.snapshot());
                let held = take::<C>(&pool, 77);
                assert_eq!(pool.available(), total - 77, "to the byte");
                drop(held);
            }
        }
    }
}

fn pool_23_memory_stays_within_the_total_beside_odd_sizes<C: Core>() {
    // As above, and another than there. GAP-10.
    let poolable = Marked::size(C::NAME) + 2;
    let total = 5 * poolable as u64 + 1_000;
    let pool = pool::<C>(total, poolable);
    let mut random = Random::seeded(10);
    let mut held = Vec::new();
    for _ in 0..2_000 {
        let size = if random.below(2) == 0 { poolable } else { 1 + random.below(2 * poolable as u64) as usize };
        if random.below(2) == 0 && !held.is_empty() {
            drop(held.swap_remove(random.below(held.len() as u64) as usize));
        } else if let Ok(lease) = pool.try_allocate(size) {
            held.push(lease);
        }
        let odd: usize = held.iter().map(|lease| lease.len()).filter(|size| *size != poolable).sum();
        let live = (Marked::live(poolable) * poolable + odd) as u64;
        assert!(live <= total, "{live} bytes of {total} are live: {:?}", pool.snapshot());
    }
    drop(held);
    assert_at_rest(&pool.snapshot());
}

fn pool_14_poolable_buffers_are_pooled_and_others_dropped<C: Core>() {
    let pool = pool::<C>(256, 64);
    for (size, books) in [(63, [256, 0, 0, 0]), (65, [256, 0, 0, 0]), (64, [192, 64, 0, 0])] {
        drop(take::<C>(&pool, size));
        assert_books(&*pool, books);
    }
    // One that has been pooled is pooled again, whoever drops it.
    let lease = take::<C>(&pool, 64).erase();
    std::thread::spawn(move || drop(lease)).join().unwrap();
    assert_books(&*pool, [192, 64, 0, 0]);
}

fn pool_15_the_credit_is_what_was_charged<C: Core>() {
    // A record that outgrows its batch's memory: what comes back is what was charged, and no larger buffer is pooled.
    let large = vec![7; 1000];
    let record = Record { value: Some(&large), ..Record::default() };
    for (charged, returned) in [(100, [356, 0, 0, 0]), (128, [228, 128, 0, 0])] {
        let pool = pool::<C>(356, 128);
        let lease = take::<C>(&pool, charged).erase();
        let mut batch = C::Batch::open(TopicPartition::new("t", 0), 0, lease, Instant::ZERO);
        batch.try_append(&record, Reply::IGNORE).expect("the first record always fits");
        let mut batch = batch.seal();
        batch.close().unwrap();
        assert!(batch.as_bytes().len() > 1000);
        assert_eq!(batch.charged(), charged);
        assert_books(&*pool, [356 - charged as u64, 0, charged as u64, 0]);
        drop(batch);
        assert_books(&*pool, returned);
        drop((take::<C>(&pool, 128), take::<C>(&pool, 228)));
    }
}

fn gap_08_the_pool_goes_with_the_last_of_its_handle_and_its_leases<C: Core>() {
    // What is kept alive by the pool's memory: its clock.
    for lease_last in [false, true] {
        let clock = Arc::new(SystemClock::new());
        let pool = C::Pool::new(256, 64, clock.clone());
        let leases: Vec<_> =
            [64, 64, 10].into_iter().map(|size| pool.allocate(size, Duration::ZERO).unwrap()).collect();
        if lease_last {
            drop(pool);
            let mut leases = leases;
            while leases.len() > 1 {
                leases.pop();
                settle();
                assert_eq!(Arc::strong_count(&clock), 2, "a lease is out");
            }
        } else {
            drop(leases);
            settle();
            assert_eq!(Arc::strong_count(&clock), 2, "the handle is there");
            drop(pool);
        }
        eventually("the pool is gone", || {
            settle();
            Arc::strong_count(&clock) == 1
        });
    }
}

/// Lets go of what waits for an epoch to end.
fn settle() {
    for _ in 0..8 {
        unlatched::primitive::epoch::pin().flush();
    }
}

fn pool_04_broken_up_buffers_go_back_to_the_machine<C: Core>() {
    // A size that nobody else in this process asks for, one for each core.
    let poolable = Marked::size(C::NAME);
    let pool = pool::<C>(2 * poolable as u64, poolable);
    drop((take::<C>(&pool, poolable), take::<C>(&pool, poolable)));
    assert_eq!((pool.snapshot().pooled, Marked::live(poolable)), (2 * poolable as u64, 2));
    drop(take::<C>(&pool, poolable + 1));
    assert_eq!((pool.snapshot().pooled, Marked::live(poolable)), (0, 0), "both were in the way");
    drop((take::<C>(&pool, poolable), take::<C>(&pool, poolable)));
    assert_eq!(Marked::live(poolable), 2);
    drop(pool);
    assert_eq!(Marked::live(poolable), 0, "what was pooled goes with the pool, not some time after (L10)");
}

fn pool_17_a_failed_allocation_leaves_nothing_behind<C: Core>() {
    let pool = pool::<C>(256, 64);
    drop(take::<C>(&pool, 64));
    let held = take::<C>(&pool, 100);
    let before = pool.snapshot();
    assert!(matches!(pool.allocate(200, Duration::ZERO), Err(PoolError::Exhausted { .. })));
    assert!(matches!(pool.allocate(1000, Duration::ZERO), Err(PoolError::TooLarge { .. })));
    let after = pool.snapshot();
    assert_eq!(after, PoolSnapshot { exhausted: 1, wait_time: after.wait_time, ..before });
    drop(held);
    assert_at_rest(&pool.snapshot());
}

fn pool_18_failing_to_make_the_memory_gives_the_reservation_back<C: Core>() {
    // Within the budget, but no machine has it.
    let size = isize::MAX as usize - 64;
    let pool = pool::<C>(size as u64, 64);
    assert_eq!(pool.allocate(size, Duration::ZERO).unwrap_err(), PoolError::OutOfMemory { requested: size });
    assert_books(&*pool, [size as u64, 0, 0, 0]);

    // Now it takes everything away from one who waits behind it, who must get it when it is given back.
    let held = take::<C>(&pool, 1000);
    let impossible = Worker::start({
        let pool = pool.clone();
        move || pool.allocate(size, LONG).map(drop)
    });
    eventually("the impossible request waits", || pool.queued() == 1);
    // It needs one byte more than there is. No machine has that either, so its error shows that it was woken and granted.
    let behind = Worker::start({
        let pool = pool.clone();
        move || pool.allocate(size - 999, LONG).map(drop)
    });
    eventually("another waits behind it", || pool.queued() == 2);
    behind.assert_stays_blocked("nothing was returned");
    drop(held);
    assert_eq!(impossible.result(), Err(PoolError::OutOfMemory { requested: size }));
    assert_eq!(behind.result(), Err(PoolError::OutOfMemory { requested: size - 999 }));
    assert_at_rest(&pool.snapshot());
}

fn pool_21_available_is_unallocated_and_pooled<C: Core>() {
    let pool = pool::<C>(1000, 64);
    let (a, b, c) = (take::<C>(&pool, 64), take::<C>(&pool, 64), take::<C>(&pool, 100));
    assert_eq!((pool.available(), pool.snapshot().unallocated), (772, 772));
    drop(a);
    assert_eq!((pool.available(), pool.snapshot().unallocated), (836, 772));
    drop(c);
    assert_eq!((pool.available(), pool.snapshot().unallocated), (936, 872));
    drop(b);
    assert_eq!((pool.available(), pool.snapshot().unallocated), (1000, 872));
}

fn pool_23_the_books_of_random_sequences<C: Core>() {
    const POOLABLE: usize = 64;
    for seed in 0..20 {
        let mut random = Random::seeded(seed);
        let total = 64 + random.below(1000);
        let pool = pool::<C>(total, POOLABLE);
        let (mut unallocated, mut pooled) = (total, 0u64);
        let mut leases = Vec::new();
        for step in 0..400 {
            if random.below(5) < 2 && !leases.is_empty() {
                let lease: LeaseOf<C> = leases.swap_remove(random.below(leases.len() as u64) as usize);
                let size = lease.charged();
                drop(lease);
                *(if size == POOLABLE { &mut pooled } else { &mut unallocated }) += size as u64;
            } else {
                let size = if random.below(2) == 0 { POOLABLE } else { 1 + random.below(total) as usize };
                let fits = size as u64 <= unallocated + pooled;
                // Only where memory is there, so that no wait breaks buffers up.
                if fits {
                    leases.push(take::<C>(&pool, size));
                    if size == POOLABLE && pooled > 0 {
                        pooled -= POOLABLE as u64;
                    } else {
                        while unallocated < size as u64 {
                            unallocated += POOLABLE as u64;
                            pooled -= POOLABLE as u64;
                        }
                        unallocated -= size as u64;
                    }
                }
            }
            let leased: usize = leases.iter().map(|lease| lease.charged()).sum();
            let now = pool.snapshot();
            assert!(now.is_conserved(), "seed {seed}, step {step}: {now:?}");
            assert_eq!(
                [now.unallocated, now.pooled, now.leased, now.reserved],
                [unallocated, pooled, leased as u64, 0],
                "seed {seed}, step {step}"
            );
        }
        drop(leases);
        assert_at_rest(&pool.snapshot());
    }
}

fn pool_21_what_is_available_can_be_had<C: Core>() {
    // Above 1 GiB the lock-free pool counts in larger steps than bytes, and none of these is a multiple.
    for total in [1_000, (1 << 30) + 1, (1 << 31) + 3] {
        for taken in [0, 1, 4, 5] {
            let pool = pool::<C>(total, 1);
            let _held = (taken > 0).then(|| take::<C>(&pool, taken));
            let available = pool.available();
            assert!(available <= total - taken as u64 && available + 2 * 8 > total - taken as u64);
            let all = pool.allocate(available as usize, Duration::ZERO);
            // The machine need not have it.
            assert!(matches!(all, Ok(_) | Err(PoolError::OutOfMemory { .. })), "{all:?} of {total}, {taken} taken");
        }
    }
}

fn gap_07_sums_of_the_pool_have_64_bits<C: Core>() {
    const GIB: usize = 1 << 30;
    assert_eq!(pool::<C>(1 << 40, GIB).available(), 1 << 40);
    // Three GiB pooled, in 32 bits a negative number. The memory is never touched, so the machine need not have it.
    let pool = pool::<C>(3 * GIB as u64, GIB);
    drop([(); 3].map(|()| take::<C>(&pool, GIB)));
    assert_books(&*pool, [0, 3 << 30, 0, 0]);
    assert_eq!(pool.available(), 3 << 30);
    let odd = take::<C>(&pool, 1000);
    assert_books(&*pool, [(1 << 30) - 1000, 2 << 30, 1000, 0]);
    drop(odd);
}

fn gap_08_a_lease_goes_back_once_and_home<C: Core>() {
    let (one, other) = (pool::<C>(256, 64), pool::<C>(256, 64));
    let (a, b, c) = (take::<C>(&one, 64), take::<C>(&other, 64), take::<C>(&one, 70));
    let mut mixed = vec![b.erase(), c.erase(), a.erase()];
    assert_books(&*one, [122, 0, 134, 0]);
    assert_books(&*other, [192, 0, 64, 0]);
    drop(mixed.remove(0));
    assert_books(&*one, [122, 0, 134, 0]);
    assert_books(&*other, [192, 64, 0, 0]);
    drop(mixed);
    assert_books(&*one, [192, 64, 0, 0]);
    assert_books(&*other, [192, 64, 0, 0]);
    // Also when the thread that holds it panics.
    let lease = take::<C>(&one, 100);
    let died = std::thread::spawn(move || {
        let _held = lease;
        panic!("on purpose: a lease is dropped by unwinding");
    });
    assert!(died.join().is_err());
    assert_at_rest(&one.snapshot());
}

fn gap_08_a_lease_as_shared_bytes_goes_back_with_the_last_of_them<C: Core>() {
    let pool = pool::<C>(256, 64);
    let mut lease = take::<C>(&pool, 64);
    lease[..5].copy_from_slice(b"hello");
    let bytes = bytes::Bytes::from_owner(lease);
    let (head, tail) = (bytes.slice(..5), bytes.slice(5..));
    drop(bytes);
    let reader = std::thread::spawn(move || head.to_vec());
    assert_eq!(reader.join().unwrap(), b"hello");
    assert_books(&*pool, [192, 0, 64, 0]);
    drop(tail);
    assert_books(&*pool, [192, 64, 0, 0]);
    // An erased one as well.
    drop(bytes::Bytes::from_owner(take::<C>(&pool, 64).erase()).slice(1..));
    assert_books(&*pool, [192, 64, 0, 0]);
}

fn gap_08_leases_outlive_the_pools_handle<C: Core>() {
    let pool = C::Pool::new(1 << 20, 4096, SystemClock::shared());
    let mut leases: Vec<_> = [4096, 10_000, 4096].map(|size| take::<C>(&pool, size)).into();
    drop(pool);
    let writers: Vec<_> = leases
        .drain(..)
        .map(|mut lease| {
            Worker::start(move || {
                std::thread::sleep(GLANCE / 10);
                lease.fill(9);
                assert!(lease.iter().all(|byte| *byte == 9));
            })
        })
        .collect();
    writers.into_iter().for_each(Worker::result);
}
