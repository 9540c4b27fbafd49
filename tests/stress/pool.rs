//! The pool: nobody writes into another's memory, everything comes back, whoever waits is told, and the pool goes with the last of handle and leases (POOL-19, POOL-23, POOL-26).

use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use unlatched::mutex::{ParkingLotPool, StdPool};
use unlatched::pool::{AtomicPool, BufferPool, Lease, PoolError, PoolOptions};
use unlatched::primitive::clock::Clock;
use unlatched::primitive::parker::{Parker, ThreadParker};
use unlatched::primitive::random::Random;

use crate::threads::{LONG, Worker};
use crate::{assert_let_go, micros, on_each, rounds, witness};

on_each![[leases_are_nobody_elses_and_come_back], mutex: StdPool, mutex_parking_lot: ParkingLotPool, lockfree: AtomicPool];

const THREADS: usize = 4;
const POOLABLE: usize = 256;
/// Not a multiple: the odd bytes must not get lost either.
const TOTAL: u64 = 5 * POOLABLE as u64 + 77;
const STEPS: usize = 60;

/// A lease, written full with its holder's mark.
struct Marked<P: BufferPool> {
    lease: Lease<P::Owner>,
    mark: u8,
}

impl<P: BufferPool> Marked<P> {
    fn write(mut lease: Lease<P::Owner>, size: usize, mark: u8) -> Self {
        assert_eq!((lease.len(), lease.charged()), (size, size));
        lease.fill(mark);
        Self { lease, mark }
    }
}

impl<P: BufferPool> Drop for Marked<P> {
    fn drop(&mut self) {
        let strange = self.lease.iter().find(|byte| **byte != self.mark);
        assert!(
            strange.is_none() || std::thread::panicking(),
            "somebody else wrote into a lease: {strange:?} for {}",
            self.mark
        );
    }
}

/// One of the threads, with what it holds.
struct Holder<P: BufferPool> {
    pool: Arc<P>,
    random: Random,
    mark: u8,
    held: Vec<Marked<P>>,
    inbox: mpsc::Receiver<Marked<P>>,
    others: Vec<mpsc::Sender<Marked<P>>>,
    /// Whether somebody will close, so that a wait without end has one.
    closes: bool,
}

impl<P: BufferPool> Holder<P> {
    fn size(&mut self) -> usize {
        match self.random.below(8) {
            0..4 => POOLABLE,
            4 => 1 + self.random.below(32) as usize,
            5 => TOTAL as usize,
            _ => 1 + self.random.below(3 * POOLABLE as u64) as usize,
        }
    }

    /// `false` once the pool is closed.
    fn ask(&mut self) -> bool {
        let size = self.size();
        let max_block = match self.random.below(4) {
            0 => Duration::ZERO,
            1 if self.closes => LONG,
            _ => micros(&mut self.random, 300),
        };
        self.mark = self.mark.wrapping_add(THREADS as u8);
        match self.pool.allocate(size, max_block) {
            Ok(lease) => self.held.push(Marked::write(lease, size, self.mark)),
            Err(PoolError::Exhausted { .. }) => assert!(max_block < LONG),
            Err(PoolError::Closed) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }

    /// Lets go of one lease: here, or on another thread.
    fn let_go(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.random.below(self.held.len() as u64) as usize;
        let marked = self.held.swap_remove(at);
        let to = self.random.below(2 * THREADS as u64) as usize;
        if let Some(other) = self.others.get(to) {
            // One that has ended gives it back, and it is dropped here.
            let _ = other.send(marked);
        }
    }

    fn run(mut self) -> Vec<Marked<P>> {
        for _ in 0..if self.closes { usize::MAX } else { STEPS } {
            match self.random.below(5) {
                0 | 1 => {
                    if !self.ask() {
                        break;
                    }
                }
                2 if self.held.len() < 3 => std::thread::yield_now(),
                _ => self.let_go(),
            }
            for marked in self.inbox.try_iter() {
                drop(marked);
            }
        }
        // The handle goes before some of the leases.
        let Self { pool, mut random, mut held, inbox, .. } = self;
        held.extend(inbox.try_iter());
        let stay = random.below(held.len() as u64 + 1) as usize;
        drop(pool);
        held.drain(stay..);
        held
    }
}

fn leases_are_nobody_elses_and_come_back<P: BufferPool>() {
    rounds(|random| {
        let clock = witness();
        let pool = Arc::new(P::new(TOTAL, POOLABLE, clock.clone()));
        let (closes, keeps_handle) = (random.below(2) == 0, random.below(2) == 0);
        let (others, inboxes): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel()).unzip();
        let holders: Vec<_> = inboxes
            .into_iter()
            .zip(1..)
            .map(|(inbox, mark)| {
                let (pool, others) = (pool.clone(), others.clone());
                let random = Random::seeded(random.below(u64::MAX));
                let holder = Holder { pool, random, mark, held: Vec::new(), inbox, others, closes };
                Worker::start(move || holder.run())
            })
            .collect();
        drop(others);
        if closes {
            std::thread::sleep(micros(random, 2_000));
            pool.close();
        }
        let handle = keeps_handle.then(|| pool.clone());
        drop(pool);
        let outliving: Vec<_> = holders.into_iter().map(Worker::result).collect();
        // The last leases, and perhaps the handle with them, go on several threads at once.
        let last: Vec<_> = outliving.into_iter().map(|held| Worker::start(move || drop(held))).collect();
        last.into_iter().for_each(Worker::result);
        if let Some(pool) = handle {
            assert_at_rest(&*pool);
        }
        assert_freed(&clock);
    });
}

#[track_caller]
fn assert_at_rest<P: BufferPool>(pool: &P) {
    let now = pool.snapshot();
    assert!(now.is_conserved(), "{now:?}");
    assert_eq!((now.available(), now.leased, now.reserved, now.queued), (TOTAL, 0, 0, 0), "{now:?}");
}

/// A pool is freed when all that it gave has come back: so this tells of a lease that is lost, too.
#[track_caller]
fn assert_freed(clock: &Arc<dyn Clock>) {
    assert_let_go("the pool is freed", clock);
}

/// Threads of the crowd.
const CROWD: u64 = 16;

/// Wakes by unparking, which is all that an executor for one future needs.
struct Unpark(Arc<ThreadParker>);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits as a task, and drops the future when its time is up.
fn as_a_task(
    pool: &AtomicPool,
    size: usize,
    patience: Duration,
) -> Result<Lease<<AtomicPool as BufferPool>::Owner>, PoolError> {
    let parker = Arc::new(ThreadParker::new());
    let waker = Waker::from(Arc::new(Unpark(Arc::clone(&parker))));
    let mut future = pin!(pool.allocate_async(size));
    let until = pool.now().saturating_add(patience);
    loop {
        if let Poll::Ready(lease) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return lease;
        }
        let left = until.saturating_since(pool.now());
        if left.is_zero() {
            return Err(PoolError::Exhausted { requested: size, available: 0, max_block: patience });
        }
        parker.park_timeout(left);
    }
}

#[test]
fn threads_and_tasks_in_one_line_lose_nothing() {
    rounds(|random| {
        let clock = witness();
        let options = PoolOptions { overtaking: [0, 1, 256][random.below(3) as usize], stripes: 1 << random.below(4) };
        let pool = Arc::new(AtomicPool::with_options(TOTAL, POOLABLE, clock.clone(), options));
        let closes = random.below(2) == 0;
        // A round has points at which nobody holds anything.
        for last in [false, true] {
            let crowd: Vec<_> = (0..CROWD)
                .map(|_| {
                    let (pool, mut random) = (pool.clone(), Random::seeded(random.below(u64::MAX)));
                    Worker::start(move || {
                        for step in 0..STEPS {
                            let size = match random.below(4) {
                                0 => 1 + random.below(TOTAL) as usize,
                                1 => 1 + random.below(2 * POOLABLE as u64) as usize,
                                _ => POOLABLE,
                            };
                            let patience = micros(&mut random, 300);
                            let lease = match random.below(3) {
                                0 => pool.try_allocate(size),
                                1 => pool.allocate(size, patience),
                                _ => as_a_task(&pool, size, patience),
                            };
                            match lease {
                                Ok(lease) => drop(Marked::<AtomicPool>::write(lease, size, step as u8)),
                                Err(PoolError::Exhausted { .. }) => {}
                                Err(PoolError::Closed) if last && closes => break,
                                Err(error) => panic!("{error}"),
                            }
                        }
                    })
                })
                .collect();
            if last && closes {
                std::thread::sleep(micros(random, 2_000));
                pool.close();
            }
            crowd.into_iter().for_each(Worker::result);
            assert_at_rest(&*pool);
        }
        drop(pool);
        assert_freed(&clock);
    });
}
