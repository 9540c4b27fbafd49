//! Waiting as a task: order, what a dropped future leaves behind, and whom a wake reaches.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::{PATIENCE, ended, eventually, stopped_at};
use crate::pool::waker::TaskWaker;
use crate::pool::{Allocate, AtomicPool, AtomicPoolCore, BufferPool, Lease, PoolError, PoolOptions};
use crate::primitive::clock::SystemClock;
use crate::primitive::random::Random;

type Answer = Result<Lease<AtomicPoolCore>, PoolError>;
type Waiting<'a> = Pin<Box<Allocate<'a>>>;

/// Whom the wakers of an executor woke, in their order.
#[derive(Clone, Default)]
struct Woken(Arc<Mutex<VecDeque<usize>>>);

struct Number(usize, Woken);

impl Wake for Number {
    fn wake(self: Arc<Self>) {
        self.1.0.lock().unwrap().push_back(self.0);
    }
}

impl Woken {
    fn waker(&self, number: usize) -> Waker {
        Waker::from(Arc::new(Number(number, self.clone())))
    }

    fn next(&self) -> Option<usize> {
        self.0.lock().unwrap().pop_front()
    }

    fn poll(&self, number: usize, future: &mut Waiting<'_>) -> Poll<Answer> {
        future.as_mut().poll(&mut Context::from_waker(&self.waker(number)))
    }

    fn all(&self) -> Vec<usize> {
        self.0.lock().unwrap().drain(..).collect()
    }
}

fn pool(total: u64, overtaking: u32) -> AtomicPool {
    let options = PoolOptions { overtaking, ..PoolOptions::default() };
    AtomicPool::with_options(total, 1, SystemClock::shared(), options)
}

/// Futures for these sizes, in line in this order.
fn line_up<'a>(pool: &'a AtomicPool, woken: &Woken, sizes: &[usize]) -> Vec<Option<Waiting<'a>>> {
    let mut line = Vec::with_capacity(sizes.len());
    for (number, size) in sizes.iter().enumerate() {
        let mut future = Box::pin(pool.allocate_async(*size));
        assert!(woken.poll(number, &mut future).is_pending());
        line.push(Some(future));
    }
    line
}

#[track_caller]
fn assert_served(
    pool: &AtomicPool,
    woken: &Woken,
    number: usize,
    line: &mut [Option<Waiting<'_>>],
) -> Lease<AtomicPoolCore> {
    let mut future = line[number].take().expect("it was not served before");
    match woken.poll(number, &mut future) {
        Poll::Ready(Ok(lease)) => {
            // One whose poll ends its own turn is woken once more (POOL-D), to no harm.
            woken.0.lock().unwrap().retain(|other| *other != number);
            lease
        }
        other => panic!("{number}: {other:?} of {:?}", pool.snapshot()),
    }
}

#[track_caller]
fn assert_at_rest(pool: &AtomicPool) {
    let now = pool.snapshot();
    assert!(now.is_conserved() && now.available() == now.total && now.queued == 0, "{now:?}");
}

#[test]
fn pool_06_a_hundred_thousand_tasks_are_served_in_the_order_of_their_joining() {
    const TASKS: usize = 100_000;
    for overtaking in [0, 256] {
        let (pool, woken) = (pool(1, overtaking), Woken::default());
        let mut random = Random::seeded(1);
        let held = pool.try_allocate(1).unwrap();
        let mut line = line_up(&pool, &woken, &[1; TASKS]);
        assert_eq!((pool.queued(), woken.next()), (TASKS, None));
        drop(held);
        for next in 0..TASKS {
            // One that was polled without being woken is not served before its time.
            let other = random.below(TASKS as u64) as usize;
            if let Some(future) = line[other].as_mut().filter(|_| other > next) {
                assert!(woken.poll(other, future).is_pending(), "{other} before {next}");
            }
            while line[next].is_some() {
                let number = woken.next().unwrap_or_else(|| panic!("nobody was woken for {next}"));
                assert!(number <= next || line[number].is_none() || number == other, "{number} woken before {next}");
                if number == next {
                    drop(assert_served(&pool, &woken, number, &mut line));
                }
            }
        }
        assert_at_rest(&pool);
    }
}

#[test]
fn gap_03_one_release_wakes_all_tasks_that_it_can_serve_and_no_more() {
    for overtaking in [0, 256] {
        let (pool, woken) = (pool(10, overtaking), Woken::default());
        let held = pool.try_allocate(10).unwrap();
        let mut line = line_up(&pool, &woken, &[3, 3, 3, 3]);
        drop(held);
        assert_eq!(woken.all(), [0, 1, 2]);
        // Whichever is polled first: those before it have theirs.
        let leases = [2, 0, 1].map(|number| assert_served(&pool, &woken, number, &mut line));
        assert_eq!((pool.available(), woken.next()), (1, None));
        drop(leases);
        assert_eq!(woken.next(), Some(3));
        drop(assert_served(&pool, &woken, 3, &mut line));
        assert_at_rest(&pool);
    }
}

#[test]
fn gap_03_who_gives_up_in_the_middle_was_called_for_nobody() {
    let (pool, woken) = (pool(2, 256), Woken::default());
    let held = pool.try_allocate(2).unwrap();
    let mut line = line_up(&pool, &woken, &[1, 1, 1]);
    drop(held);
    assert_eq!(woken.all(), [0, 1]);
    let held = pool.try_allocate(2).expect("past them");
    // Called and not polled yet; with what it was called for the third can be served.
    line[1] = None;
    drop(held);
    // The first was woken before.
    assert_eq!(woken.all(), [2]);
    for number in [0, 2] {
        drop(assert_served(&pool, &woken, number, &mut line));
    }
    assert_at_rest(&pool);
}

#[test]
fn gap_35_a_task_that_is_dropped_takes_nothing_along_and_the_next_is_woken() {
    const LINE: usize = 5;
    for overtaking in [0, 256] {
        for gone in 0..LINE {
            let (pool, woken) = (pool(4, overtaking), Woken::default());
            let held = pool.try_allocate(4).unwrap();
            let mut line = line_up(&pool, &woken, &[4; LINE]);
            line[gone] = None;
            assert_eq!((pool.queued(), woken.next()), (LINE - 1, None));
            drop(held);
            for number in (0..LINE).filter(|number| *number != gone) {
                assert_eq!(woken.next(), Some(number), "{gone} is gone");
                drop(assert_served(&pool, &woken, number, &mut line));
            }
            assert_at_rest(&pool);
        }
    }
}

#[test]
fn gap_35_a_task_that_gives_up_makes_room_for_the_next() {
    for overtaking in [0, 256] {
        let (pool, woken) = (pool(4, overtaking), Woken::default());
        let held = pool.try_allocate(2).unwrap();
        // As many as may have passed it already.
        let mut line = line_up(&pool, &woken, &[4]);
        while pool.try_allocate(1).is_ok() {}
        for number in [1, 2] {
            let mut future = Box::pin(pool.allocate_async(1));
            assert!(woken.poll(number, &mut future).is_pending());
            line.push(Some(future));
        }
        // Nothing comes back: that the first does not want it any more is all that happens.
        line[0] = None;
        assert_eq!(woken.all(), [1, 2]);
        drop([1, 2].map(|number| assert_served(&pool, &woken, number, &mut line)));
        drop(held);
        assert_at_rest(&pool);
    }
}

#[test]
fn gap_35_a_task_that_is_dropped_with_its_grant_hands_it_on() {
    for overtaking in [0, 256] {
        let (pool, woken) = (pool(4, overtaking), Woken::default());
        let held = pool.try_allocate(4).unwrap();
        let mut line = line_up(&pool, &woken, &[4, 4, 2]);
        drop(held);
        // Woken, and granted where nobody may be let past it; it never looks.
        assert_eq!(woken.all(), [0]);
        line[0] = None;
        assert_eq!(woken.all(), [1]);
        line[1] = None;
        assert_eq!(woken.all(), [2]);
        drop(assert_served(&pool, &woken, 2, &mut line));
        assert_at_rest(&pool);
    }
}

#[test]
fn gap_35_a_task_that_was_never_polled_or_is_over_leaves_nothing() {
    let (pool, woken) = (pool(4, 0), Woken::default());
    drop(pool.allocate_async(4));
    assert_eq!((pool.queued(), pool.available()), (0, 4));
    let mut future = Box::pin(pool.allocate_async(4));
    let lease = woken.poll(0, &mut future);
    // One that is over has nothing to give back twice.
    drop(future);
    assert_eq!(pool.available(), 0);
    let never = pool.allocate_async(4);
    drop(lease);
    drop(never);
    assert_at_rest(&pool);
    assert_eq!(woken.next(), None);
}

#[test]
fn gap_35_the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    let (pool, woken) = (pool(1, 0), Woken::default());
    let held = pool.try_allocate(1).unwrap();
    let mut line = line_up(&pool, &woken, &[1]);
    assert!(woken.poll(7, line[0].as_mut().unwrap()).is_pending());
    drop(held);
    assert_eq!(woken.all(), [7]);
    drop(assert_served(&pool, &woken, 0, &mut line));
    assert_at_rest(&pool);
}

#[test]
fn gap_35_a_wake_while_the_waker_is_replaced_reaches_the_new_one() {
    let woken = Woken::default();
    // The wake comes while the task writes.
    let waker = Arc::new(TaskWaker::new());
    waker.register(woken.waker(0));
    let register = |number| {
        let (waker, woken) = (waker.clone(), woken.clone());
        move || waker.register(woken.waker(number))
    };
    let (task, go_on) = stopped_at("pool.registered", register(1));
    waker.wake();
    assert_eq!(woken.next(), None, "whom to wake is known to the task alone");
    go_on.release();
    ended("the task has registered", task);
    assert_eq!(woken.all(), [1]);
    // The task writes while the wake has the former one in hand.
    waker.register(woken.waker(2));
    let (wakes, go_on) = stopped_at("pool.woken", {
        let waker = waker.clone();
        move || waker.wake()
    });
    ended("the task registers", std::thread::spawn(register(3)));
    assert_eq!(woken.all(), [3]);
    go_on.release();
    ended("the wake", wakes);
    assert_eq!(woken.all(), [2]);
    // And it is as it was.
    waker.register(woken.waker(4));
    waker.wake();
    waker.wake();
    assert_eq!(woken.all(), [4]);
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("on purpose: a waker");
    }
}

#[test]
fn gap_35_a_waker_that_panics_is_contained_and_costs_nobody_else_anything() {
    for overtaking in [0, 256] {
        let (pool, woken) = (pool(2, overtaking), Woken::default());
        let held = pool.try_allocate(2).unwrap();
        let mut first = Box::pin(pool.allocate_async(1));
        assert!(first.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::new(Panics)))).is_pending());
        let mut line = line_up(&pool, &woken, &[1]);
        // Does not panic.
        drop(held);
        assert_eq!(woken.all(), [0]);
        drop(assert_served(&pool, &woken, 0, &mut line));
        assert!(matches!(woken.poll(1, &mut first), Poll::Ready(Ok(_))));
        drop(first);
        assert_at_rest(&pool);
    }
}

#[test]
fn pool_19_close_fails_all_tasks_and_wakes_them() {
    let (pool, woken) = (pool(4, 256), Woken::default());
    let held = pool.try_allocate(4).unwrap();
    let mut line = line_up(&pool, &woken, &[1, 2, 4]);
    let mut never = Box::pin(pool.allocate_async(1));
    pool.close();
    assert_eq!(woken.all(), [0, 1, 2]);
    for (number, future) in line.iter_mut().enumerate() {
        let mut future = future.take().unwrap();
        assert!(matches!(woken.poll(number, &mut future), Poll::Ready(Err(PoolError::Closed))), "{number}");
    }
    assert!(matches!(woken.poll(3, &mut never), Poll::Ready(Err(PoolError::Closed))));
    drop(held);
    assert_at_rest(&pool);
}

#[test]
fn pool_02_a_task_that_asks_for_more_than_total_hears_it_at_once() {
    let (pool, woken) = (pool(4, 0), Woken::default());
    let held = pool.try_allocate(4).unwrap();
    let mut future = Box::pin(pool.allocate_async(5));
    let answer = woken.poll(0, &mut future);
    assert!(matches!(answer, Poll::Ready(Err(PoolError::TooLarge { requested: 5, total: 4 }))), "{answer:?}");
    assert_eq!(pool.queued(), 0);
    drop(held);
    assert_at_rest(&pool);
}

#[test]
fn pool_06_threads_and_tasks_stand_in_one_line() {
    for overtaking in [0, 256] {
        let (pool, woken) = (Arc::new(pool(1, overtaking)), Woken::default());
        let held = pool.try_allocate(1).unwrap();
        let (served, inbox) = std::sync::mpsc::channel();
        let mut tasks = Vec::new();
        let mut threads = Vec::new();
        for number in 0..8 {
            if number % 2 == 0 {
                let mut future = Box::pin(pool.allocate_async(1));
                assert!(woken.poll(number, &mut future).is_pending());
                tasks.push(future);
            } else {
                let (pool, served) = (pool.clone(), served.clone());
                threads.push(std::thread::spawn(move || {
                    let lease = pool.allocate(1, PATIENCE).unwrap();
                    served.send(number).unwrap();
                    drop(lease);
                }));
            }
            eventually("it stands in line", || pool.queued() == number + 1);
        }
        drop(held);
        let mut order = Vec::new();
        for (turn, mut task) in tasks.into_iter().enumerate() {
            let mut next = None;
            eventually("a task is woken", || {
                let mut woken = woken.0.lock().unwrap();
                woken.contains(&(2 * turn)).then(|| woken.clear()).is_some()
            });
            while next.is_none() {
                next = match woken.poll(2 * turn, &mut task) {
                    Poll::Ready(lease) => Some(lease.unwrap()),
                    Poll::Pending => None,
                };
            }
            order.extend(inbox.try_iter());
            order.push(2 * turn);
        }
        threads.into_iter().for_each(|thread| ended("a thread is served", thread));
        order.extend(inbox.try_iter());
        assert_eq!(order, (0..8).collect::<Vec<_>>(), "overtaking {overtaking}");
        assert_at_rest(&pool);
    }
}

#[test]
fn gap_35_the_future_may_be_sent() {
    fn sent<T: Send>(value: T) -> T {
        value
    }
    let pool = Arc::new(pool(1, 0));
    let held = pool.try_allocate(1).unwrap();
    std::thread::scope(|threads| {
        let woken = Woken::default();
        let mut future = sent(Box::pin(pool.allocate_async(1)));
        assert!(woken.poll(0, &mut future).is_pending());
        // Polled on another thread than the one that it joined on.
        threads.spawn(move || {
            drop(held);
            assert_eq!(woken.next(), Some(0));
            assert!(matches!(woken.poll(0, &mut future), Poll::Ready(Ok(_))));
        });
    });
    assert_at_rest(&pool);
    assert_eq!(pool.allocate(1, Duration::ZERO).map(drop), Ok(()));
}

/// A waker that says whether it was called, or dropped, in a pin.
struct InPins(Arc<std::sync::Mutex<Vec<bool>>>);

impl Wake for InPins {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap().push(crossbeam_epoch::is_pinned());
    }
}

impl Drop for InPins {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(crossbeam_epoch::is_pinned());
    }
}

#[test]
fn l8_wakers_are_called_and_dropped_in_no_pin() {
    for served in [true, false] {
        let pool = AtomicPool::new(64, 64, SystemClock::shared());
        let held = pool.try_allocate(64).unwrap();
        let seen = Arc::default();
        let waker = Waker::from(Arc::new(InPins(Arc::clone(&seen))));
        let mut future = Box::pin(pool.allocate_async(64));
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        if served {
            drop(held);
            assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        }
        drop(future);
        // Nothing of it is left to the collector.
        assert_eq!(*seen.lock().unwrap(), vec![false; if served { 2 } else { 1 }]);
    }
}
