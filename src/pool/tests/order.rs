//! Who is served before whom: bounded overtaking, and what a sleeper that does not run costs the others.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{PATIENCE, ended, eventually, stopped_at};
use crate::pool::{AtomicPool, BufferPool, PoolError, PoolOptions};
use crate::primitive::clock::SystemClock;

const BOUNDS: [u32; 4] = [0, 1, 5, 256];

fn pool(total: u64, overtaking: u32) -> Arc<AtomicPool> {
    let options = PoolOptions { overtaking, ..PoolOptions::default() };
    Arc::new(AtomicPool::with_options(total, 1, SystemClock::shared(), options))
}

/// One who waits, says when it is served, and lets go when it is told.
struct Waiter {
    thread: JoinHandle<()>,
    served: Receiver<()>,
    let_go: Sender<()>,
}

impl Waiter {
    #[track_caller]
    fn line_up(pool: &Arc<AtomicPool>, size: usize) -> Self {
        let before = pool.queued();
        let ((says, served), (let_go, told)) = (channel(), channel());
        let thread = std::thread::spawn({
            let pool = pool.clone();
            move || {
                let lease = pool.allocate(size, PATIENCE).expect("served in the end");
                says.send(()).unwrap();
                told.recv().unwrap();
                drop(lease);
            }
        });
        eventually("it waits", || pool.queued() == before + 1);
        Self { thread, served, let_go }
    }

    #[track_caller]
    fn assert_served(&self) {
        self.served.recv_timeout(PATIENCE).expect("it is served");
    }

    fn is_served(&self) -> bool {
        self.served.try_recv().is_ok()
    }

    #[track_caller]
    fn let_go(self) {
        self.let_go.send(()).unwrap();
        ended("it lets go", self.thread);
    }
}

/// Newcomers that are let past until one is not.
fn passed(pool: &AtomicPool) -> u32 {
    (0..=u32::MAX).find(|_| pool.try_allocate(1).is_err()).expect("there is a bound")
}

#[test]
fn gap_01_so_many_newcomers_pass_the_first_in_line_and_no_more() {
    for overtaking in BOUNDS {
        let pool = pool(4, overtaking);
        let held = pool.try_allocate(3).unwrap();
        let (first, second) = (Waiter::line_up(&pool, 2), Waiter::line_up(&pool, 4));
        assert_eq!(passed(&pool), overtaking);
        // One who may wait does so, behind them; one who may not fails, with a byte there.
        assert_eq!((passed(&pool), pool.available()), (0, 1));
        drop(held);
        first.assert_served();
        // Counted anew.
        assert_eq!(passed(&pool), overtaking, "past the second");
        assert_eq!((pool.available(), second.is_served()), (2, false));
        first.let_go();
        second.assert_served();
        assert!(matches!(pool.try_allocate(1), Err(PoolError::Exhausted { available: 0, .. })));
        second.let_go();
        assert_eq!((pool.available(), pool.queued()), (4, 0));
    }
}

#[test]
fn gap_01_who_waits_is_passed_so_often_while_it_does_not_run_and_then_has_its_memory() {
    for overtaking in BOUNDS {
        let pool = pool(2, overtaking);
        let held = pool.try_allocate(2).unwrap();
        let (first, go_on) = stopped_at("pool.wait", {
            let pool = pool.clone();
            move || pool.allocate(2, PATIENCE).map(drop)
        });
        drop(held);
        assert_eq!(passed(&pool), overtaking);
        // It has not run, and what it wanted is nobody else's any more.
        assert_eq!((passed(&pool), pool.available()), (0, 0));
        go_on.release();
        assert_eq!(ended("it goes on", first), Ok(()));
        assert_eq!((pool.available(), pool.queued()), (2, 0));
    }
}

#[test]
fn gap_01_a_newcomer_that_gets_nothing_has_not_passed() {
    let pool = pool(4, 3);
    let held = pool.try_allocate(3).unwrap();
    let first = Waiter::line_up(&pool, 4);
    for _ in 0..100 {
        // More than there is.
        assert!(matches!(pool.try_allocate(2), Err(PoolError::Exhausted { .. })));
    }
    assert_eq!(passed(&pool), 3);
    drop(held);
    first.assert_served();
    first.let_go();
    assert_eq!((pool.available(), pool.queued()), (4, 0));
}

#[test]
fn gap_02_the_common_road_is_free_while_one_is_stopped_in_the_pool() {
    // Each thread has a stripe of its own: whoever stands between two steps there is in nobody's way, and figures can be read.
    for step in ["pool.pop", "pool.release"] {
        let pool = pool(1_000, 0);
        drop(pool.try_allocate(1).unwrap());
        let (stopped, go_on) = stopped_at(step, {
            let pool = pool.clone();
            move || {
                drop(pool.try_allocate(1));
                drop(pool.try_allocate(1));
            }
        });
        let others = [(); 4].map(|()| {
            let pool = pool.clone();
            std::thread::spawn(move || {
                for _ in 0..1_000 {
                    drop(pool.try_allocate(1).unwrap());
                    assert!(pool.snapshot().is_conserved() && pool.queued() == 0);
                }
            })
        });
        let _ = others.map(|other| ended("the others go on", other));
        go_on.release();
        ended("the stopped one", stopped);
        assert_eq!(pool.available(), 1_000);
    }
}

#[test]
fn gap_03_one_release_serves_all_it_can_though_the_first_does_not_run() {
    for overtaking in [0, 256] {
        // More than are woken at once, and fewer.
        for others in [2, 20] {
            let pool = pool(others as u64 + 1, overtaking);
            let held = pool.try_allocate(others + 1).unwrap();
            let (first, go_on) = stopped_at("pool.wait", {
                let pool = pool.clone();
                move || pool.allocate(1, PATIENCE).map(drop)
            });
            let line: Vec<_> = (0..others).map(|_| Waiter::line_up(&pool, 1)).collect();
            drop(held);
            line.iter().for_each(Waiter::assert_served);
            assert!(!first.is_finished());
            go_on.release();
            assert_eq!(ended("the first", first), Ok(()));
            line.into_iter().for_each(Waiter::let_go);
            assert_eq!((pool.available(), pool.queued()), (others as u64 + 1, 0));
        }
    }
}

#[test]
fn gap_04_a_large_one_at_the_head_hoards_nothing() {
    for overtaking in BOUNDS {
        let pool = pool(100, overtaking);
        let mut held: Vec<_> = (0..100).map(|_| pool.try_allocate(1).unwrap()).collect();
        let large = Waiter::line_up(&pool, 100);
        for back in 1..=50 {
            held.pop();
            let now = pool.snapshot();
            assert_eq!((now.available(), now.reserved, now.queued), (back, 0, 1), "what is back is there for all");
        }
        // Small ones go on within the bound, each with what the one before gave back.
        assert_eq!(passed(&pool), overtaking);
        drop(held);
        large.assert_served();
        large.let_go();
        assert_eq!((pool.available(), pool.queued()), (100, 0));
    }
}

/// Buffers of 64 bytes, four of them.
fn pool_of_four(overtaking: u32) -> Arc<AtomicPool> {
    let options = PoolOptions { overtaking, stripes: 1 };
    Arc::new(AtomicPool::with_options(256, 64, SystemClock::shared(), options))
}

#[test]
fn gap_05_a_wait_that_fails_leaves_buffers_whole() {
    for overtaking in BOUNDS {
        let pool = pool_of_four(overtaking);
        let mut held: Vec<_> = (0..4).map(|_| pool.try_allocate(64).unwrap()).collect();
        drop(held.split_off(2));
        let before = pool.snapshot();
        assert_eq!((before.pooled, before.unallocated), (128, 0));
        let failed = pool.allocate(200, Duration::from_millis(1)).map(drop);
        assert!(matches!(failed, Err(PoolError::Exhausted { available: 128, .. })), "{failed:?}");
        assert_eq!((pool.snapshot().pooled, pool.snapshot().unallocated), (128, 0));
    }
}

#[test]
fn gap_09_what_came_back_last_is_reused_first_and_not_zeroed() {
    for overtaking in BOUNDS {
        let pool = pool_of_four(overtaking);
        let mut held: Vec<_> = (0..4).map(|_| pool.try_allocate(64).unwrap()).collect();
        for (lease, mark) in held.iter_mut().zip(1..) {
            lease.fill(mark);
        }
        drop(held);
        let again: Vec<_> = (0..4).map(|_| pool.try_allocate(64).unwrap()).collect();
        assert_eq!(again.iter().map(|lease| lease[0]).collect::<Vec<_>>(), [4, 3, 2, 1]);
    }
}

#[test]
fn gap_10_what_is_leased_and_what_is_kept_never_exceed_the_total() {
    for overtaking in BOUNDS {
        let pool = pool_of_four(overtaking);
        let kept = |pool: &AtomicPool| pool.buffers_kept() * 64;
        let mut held: Vec<_> = (0..4).map(|_| pool.try_allocate(64).unwrap()).collect();
        // What comes back beside one who waits is kept warm: memory, and not budget.
        let large = Waiter::line_up(&pool, 256);
        drop(held.split_off(1));
        assert_eq!(kept(&pool), 192);
        for size in [100, 64, 1, 192] {
            if let Ok(odd) = pool.try_allocate(size) {
                assert!(kept(&pool) + (odd.len() + 64) as u64 <= 256, "{size}: {} kept", kept(&pool));
            }
        }
        drop(held);
        large.assert_served();
        assert_eq!(kept(&pool), 0, "one has all of it");
        large.let_go();
        assert_eq!((pool.available(), pool.queued()), (256, 0));
    }
}

#[test]
fn met_01_time_waited_and_waits_that_failed_are_read_beside_one_who_is_stopped() {
    const WAIT: Duration = Duration::from_millis(2);
    for step in ["pool.help", "pool.look", "stack.shut"] {
        let pool = pool(2, 0);
        let held = pool.try_allocate(2).unwrap();
        let (stopped, go_on) = stopped_at(step, {
            let pool = pool.clone();
            move || pool.allocate(2, PATIENCE).map(drop)
        });
        for failed in 1..=3 {
            assert!(pool.allocate(1, WAIT).is_err());
            let now = pool.snapshot();
            assert_eq!(now.exhausted, failed);
            assert!(now.wait_time >= WAIT * failed as u32, "{now:?}");
        }
        drop(held);
        go_on.release();
        assert_eq!(ended("the stopped one", stopped), Ok(()));
    }
}

#[test]
fn met_02_who_waits_and_what_is_available_are_read_beside_one_who_is_stopped() {
    for step in ["pool.wait", "pool.looked"] {
        let pool = pool(10, 0);
        let held = pool.try_allocate(6).unwrap();
        let first = Waiter::line_up(&pool, 8);
        let (stopped, go_on) = stopped_at(step, {
            let pool = pool.clone();
            move || {
                let own = pool.allocate(9, if step == "pool.wait" { PATIENCE } else { Duration::ZERO });
                let _ = pool.snapshot();
                drop(own);
            }
        });
        let now = pool.snapshot();
        assert_eq!((now.total, now.available(), now.leased), (10, 4, 6), "{step}");
        assert_eq!((now.queued, pool.queued()), (1 + usize::from(step == "pool.wait"), now.queued), "{step}");
        drop(held);
        go_on.release();
        first.assert_served();
        first.let_go();
        ended("the stopped one", stopped);
    }
}

#[test]
fn gap_35_a_wake_up_for_nothing_takes_nothing() {
    for overtaking in BOUNDS {
        let pool = pool(3, overtaking);
        let held = pool.try_allocate(2).unwrap();
        let first = Waiter::line_up(&pool, 3);
        assert_eq!(passed(&pool), overtaking);
        let line = [first, Waiter::line_up(&pool, 1)];
        // There is enough for the second, whose turn it is not.
        for _ in 0..100 {
            line.iter().for_each(|waiter| waiter.thread.thread().unpark());
            std::thread::sleep(Duration::from_micros(50));
        }
        assert_eq!((pool.available(), pool.queued()), (1, 2));
        assert!(!line.iter().any(Waiter::is_served));
        let [first, second] = line;
        drop(held);
        first.assert_served();
        assert_eq!((pool.available(), second.is_served()), (0, false));
        first.let_go();
        second.assert_served();
        second.let_go();
        assert_eq!((pool.available(), pool.queued()), (3, 0));
    }
}

#[test]
fn l1_a_turn_is_granted_once_though_a_helper_knew_its_waiter_before() {
    let pool = Arc::new(AtomicPool::with_options(2, 1, SystemClock::shared(), PoolOptions::strict()));
    let (one, other) = (pool.try_allocate(1).unwrap(), pool.try_allocate(1).unwrap());
    let wait = |step| {
        stopped_at(step, {
            let pool = pool.clone();
            move || pool.allocate(1, PATIENCE)
        })
    };
    // The first in line does not come to look for itself; the second sleeps.
    let (first, first_goes_on) = wait("pool.wait");
    let (second, second_goes_on) = wait("pool.wait");
    second_goes_on.release();
    // A helper has seen the first wait, and not the word.
    let (late, late_goes_on) = stopped_at("pool.help", move || drop(one));
    // Another ends its turn, and does not move the front.
    let (served, served_goes_on) = stopped_at("pool.pass", {
        let pool = pool.clone();
        move || pool.try_allocate(1).map(drop)
    });
    drop(other);
    late_goes_on.release();
    late.join().unwrap();
    let second = ended("the second is served though the first sleeps", second).unwrap();
    first_goes_on.release();
    let first = ended("the first", first).unwrap();
    served_goes_on.release();
    let _ = served.join().unwrap();
    assert_eq!(pool.available(), 0);
    drop((first, second));
    assert_eq!((pool.available(), pool.queued()), (2, 0));
}
