//! Crowds around a pool: four who ask for mixed sizes, two who drop what those hand over, and perhaps one who closes it.
//!
//! Who asks holds nothing while it waits, so whatever is out comes back in the end, and a waiter that sleeps on is a lost wake-up.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use shuttle::sync::mpsc;
use unlatched::pool::{AtomicPool, BufferPool, Lease, PoolError, PoolOptions};
use unlatched::primitive::clock::{ManualClock, SharedClock};
use unlatched::primitive::model::be_numbered;
use unlatched::primitive::parker::{Parker, ThreadParker};
use unlatched::primitive::thread;

use super::{Ended, crowd, linger, lot};
use crate::models::Woken;
use crate::runner::Check;

const LONG: Duration = Duration::from_secs(3600);
const ASKERS: u8 = 4;
const DROPPERS: usize = 2;
const STEPS: usize = 3;
const TOTAL: u64 = 7;
const POOLABLE: usize = 2;

#[derive(Clone, Copy)]
enum Close {
    Never,
    Sometime,
}

/// How a pool is made, and how somebody asks it for so many bytes.
pub(super) struct Way<P: BufferPool> {
    pub(super) make: fn(u64, usize, SharedClock) -> P,
    pub(super) ask: fn(&P, usize, Duration) -> Result<LeaseOf<P>, PoolError>,
}

impl<P: BufferPool> Clone for Way<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: BufferPool> Copy for Way<P> {}

/// The trait's own.
pub(super) fn plain<P: BufferPool>() -> Way<P> {
    Way { make: P::new, ask: P::allocate }
}

/// The lock-free pool with two stripes: first come, first served to the letter; threads and tasks in one line.
pub(super) fn strict() -> Way<AtomicPool> {
    let make = |total, poolable, clock| {
        AtomicPool::with_options(total, poolable, clock, PoolOptions { overtaking: 0, stripes: 2 })
    };
    Way { make, ask: as_thread_or_task }
}

/// The same, where each may be passed once while it is the first.
pub(super) fn overtaking() -> Way<AtomicPool> {
    let make = |total, poolable, clock| {
        AtomicPool::with_options(total, poolable, clock, PoolOptions { overtaking: 1, stripes: 2 })
    };
    Way { make, ask: as_thread_or_task }
}

/// By lot as a thread, or as a task, which may drop its future somewhere on the way and ask anew as a thread.
fn as_thread_or_task(pool: &AtomicPool, size: usize, max_block: Duration) -> Result<LeaseOf<AtomicPool>, PoolError> {
    if max_block.is_zero() || lot(2) == 0 {
        return pool.allocate(size, max_block);
    }
    let task = Arc::new(Woken(ThreadParker::new()));
    let waker = Waker::from(task.clone());
    let mut future = pool.allocate_async(size);
    loop {
        if let Poll::Ready(found) = Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            return found;
        }
        if lot(4) == 0 {
            drop(future);
            return pool.allocate(size, max_block);
        }
        if !task.0.park_timeout(max_block) {
            return Err(PoolError::Exhausted { requested: size, available: 0, max_block });
        }
    }
}

pub(super) fn crowds<P: BufferPool>(of: &str, way: Way<P>) -> Vec<Check> {
    vec![
        crowd(
            format!("crowd_pool_{of}_serves_all"),
            "where all comes back and nobody gives up, everybody is served",
            false,
            &["granted", "no room"],
            move || scene(way, Close::Never),
        ),
        crowd(
            format!("crowd_pool_{of}_timeouts"),
            "who gives up hides nobody behind it, and takes nothing along",
            true,
            &["granted", "no room", "timed out"],
            move || scene(way, Close::Never),
        ),
        crowd(
            format!("crowd_pool_{of}_close"),
            "a close ends every wait; what was granted comes back after it",
            true,
            &["closed", "granted", "no room", "timed out"],
            move || scene(way, Close::Sometime),
        ),
    ]
}

type LeaseOf<P> = Lease<<P as BufferPool>::Owner>;

/// Asks a few times; what it gets it writes full, looks at again later, and lets go of here or there.
fn ask<P: BufferPool>(
    way: Way<P>,
    pool: &P,
    mark: u8,
    to: &[mpsc::Sender<(LeaseOf<P>, u8)>],
) -> BTreeSet<&'static str> {
    let mut seen = BTreeSet::new();
    for _ in 0..STEPS {
        let size = [1, POOLABLE, POOLABLE, 3, TOTAL as usize][lot(5) as usize];
        let patient = lot(4) > 0;
        let asked = (way.ask)(pool, size, if patient { LONG } else { Duration::ZERO });
        seen.insert(match &asked {
            Ok(_) => "granted",
            Err(PoolError::Exhausted { .. }) if patient => "timed out",
            Err(PoolError::Exhausted { .. }) => "no room",
            Err(PoolError::Closed) => "closed",
            Err(error) => panic!("{error}"),
        });
        let Ok(mut lease) = asked else { continue };
        assert_eq!((lease.len(), lease.charged()), (size, size));
        lease.fill(mark);
        thread::yield_now();
        match to.get(lot(3) as usize) {
            Some(to) => to.send((lease, mark)).expect("it listens until the last asker is gone"),
            None => let_go::<P>((lease, mark)),
        }
    }
    seen
}

fn let_go<P: BufferPool>((lease, mark): (LeaseOf<P>, u8)) {
    assert!(lease.iter().all(|byte| *byte == mark), "somebody else wrote into a lease: {:?}", &*lease);
}

fn scene<P: BufferPool>(way: Way<P>, close: Close) -> Ended {
    let clock = ManualClock::at(0);
    let pool = Arc::new((way.make)(TOTAL, POOLABLE, clock.clone()));
    let (to, inboxes): (Vec<_>, Vec<_>) = (0..DROPPERS).map(|_| mpsc::channel()).unzip();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let mut threads: Vec<_> = (1..=ASKERS)
        .map(|mark| {
            let (pool, to, seen) = (pool.clone(), to.clone(), seen.clone());
            thread::spawn(move || {
                be_numbered(usize::from(mark));
                let found = ask(way, &*pool, mark, &to);
                // Its handle goes before what it has handed over.
                drop(pool);
                seen.lock().expect("nobody panics in there").extend(found);
            })
        })
        .collect();
    threads.extend(inboxes.into_iter().enumerate().map(|(number, inbox)| {
        thread::spawn(move || {
            be_numbered(number);
            inbox.iter().for_each(let_go::<P>);
        })
    }));
    drop(to);
    if let Close::Sometime = close {
        let pool = pool.clone();
        threads.push(thread::spawn(move || {
            linger();
            pool.close();
            pool.close();
        }));
    }
    // With a handle the books can be looked at; without, the pool goes by itself when the last lease is back, or is found alive.
    let handle = (lot(2) == 0).then(|| pool.clone());
    drop(pool);
    threads.into_iter().for_each(|thread| thread.join().expect("no thread panics"));
    if let Some(pool) = handle {
        let now = pool.snapshot();
        assert!(now.is_conserved(), "{now:?}");
        assert_eq!((now.available(), now.leased, now.reserved, now.queued), (TOTAL, 0, 0, 0), "{now:?}");
    }
    let seen = std::mem::take(&mut *seen.lock().expect("nobody panics in there"));
    Ended { seen, alive: clock }
}
