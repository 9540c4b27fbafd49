//! The lock-free pool: nobody sleeps on while there is memory for it, grants and cancels have one winner, every byte comes back. The shipping type.
//!
//! Totals of one to three bytes, so that a granule is a byte and a lease is one.

use std::sync::Mutex;
use std::time::Duration;

use unlatched::pool::{AtomicPool, AtomicPoolCore, BufferPool, Hand, Lease, PoolError};
use unlatched::primitive::Arc;
use unlatched::primitive::clock::{Clock, Instant, ManualClock};
use unlatched::primitive::epoch::pin;
use unlatched::primitive::model::let_time_run_out;

use crate::runner::{Bound, Check, Model, model};

const LONG: Duration = Duration::from_secs(3600);

/// No time ends such a wait.
const FOR_EVER: Duration = Duration::MAX;

/// In the buffers that a scene begins with; a new one holds zeroes.
const USED: u8 = 42;

pub(crate) fn models() -> Vec<Check> {
    vec![
        takes_and_returns(),
        recycles_what_came_back(),
        release_against_waiter(),
        two_releases_for_one(),
        timeout_against_grant(),
        close_against_grant(),
        close_alone(),
        waits_again(),
        newcomer_against_waiter(),
        two_give_up(),
        cancelled_head(),
        release_against_cancel_at_the_front(),
        two_releases_two_waiters(),
        release_against_a_new_buffer(),
        handle_against_last_lease(),
        core_is_freed("pool_core_is_freed_by_handle", true),
        core_is_freed("pool_core_is_freed_by_lease", false),
    ]
}

/// A pool, and leases that roles take.
struct Scene {
    pool: AtomicPool,
    held: Mutex<Vec<Lease<AtomicPoolCore>>>,
}

impl Scene {
    fn drop_one(&self) -> &'static str {
        let lease = self.held.lock().unwrap().pop();
        drop(lease.expect("one for each who drops"));
        ""
    }

    /// Waits, and keeps what it gets until the end.
    fn wait_and_keep(&self, size: usize) -> &'static str {
        let lease = self.pool.allocate(size, LONG);
        let granted = lease.is_ok();
        self.held.lock().unwrap().extend(lease);
        if granted { "granted" } else { "refused" }
    }

    fn wait(&self, size: usize) -> &'static str {
        match self.pool.allocate(size, LONG) {
            Ok(lease) => {
                drop(lease);
                "granted"
            }
            Err(PoolError::Exhausted { .. }) => "timed out",
            Err(PoolError::Closed) => "closed",
            Err(_) => "other",
        }
    }
}

fn scene(total: u64, poolable: usize, held: usize) -> impl Fn() -> Scene + Send + Sync + 'static {
    move || {
        let pool = AtomicPool::new(total, poolable, ManualClock::at(0));
        let held = (0..held).map(|_| {
            let mut lease = pool.allocate(1, Duration::ZERO).expect("there is enough");
            lease.fill(USED);
            lease
        });
        let held = held.collect();
        Scene { pool, held: Mutex::new(held) }
    }
}

fn pool(name: &str, law: &'static str, bound: Bound, total: u64, held: usize) -> Model<Scene, &'static str> {
    model(name, law, bound, scene(total, 1, held)).keeps_retired()
}

/// What the roles came to, and that the pool is whole.
fn whole(scene: &Scene, results: &[&'static str]) -> String {
    let now = scene.pool.snapshot();
    assert_eq!((now.available(), now.queued), (now.total, 0), "at rest");
    let mut said: Vec<_> = results.iter().filter(|said| !said.is_empty()).copied().collect();
    said.sort_unstable();
    said.join(", ")
}

fn takes_and_returns() -> Check {
    pool(
        "pool_takes_and_returns",
        "who never waits shares the word and the free list with others",
        Bound::Preemptions(2),
        2,
        0,
    )
    .role("one", |scene: &Scene| {
        drop(scene.pool.allocate(1, Duration::ZERO).expect("enough for two"));
        "served"
    })
    .role("two", |scene| {
        drop(scene.pool.allocate(1, Duration::ZERO).expect("enough for two"));
        drop(scene.pool.allocate(1, Duration::ZERO).expect("enough for two"));
        "served"
    })
    .expect(whole, &["served, served"])
}

fn recycles_what_came_back() -> Check {
    pool("pool_recycles_what_came_back", "whose bytes are free, that buffer is on the list", Bound::Full, 1, 1)
        .role("releaser", |scene: &Scene| {
            scene.drop_one();
            // Taken and returned, so that the word is what it was.
            drop(scene.pool.allocate(1, Duration::ZERO));
            ""
        })
        .role("taker", |scene| match scene.pool.allocate(1, Duration::ZERO) {
            Ok(lease) => recycled(&lease),
            Err(_) => "refused",
        })
        .expect(whole, &["recycled", "refused"])
}

fn recycled(lease: &[u8]) -> &'static str {
    if lease == [USED] { "recycled" } else { "new" }
}

fn release_against_waiter() -> Check {
    pool(
        "pool_release_against_waiter",
        "a release is not lost on a waiter that is about to sleep",
        Bound::Preemptions(3),
        1,
        1,
    )
    .role("releaser", Scene::drop_one)
    .role("waiter", |scene| {
        let lease = scene.pool.allocate(1, LONG).expect("its release is under way");
        // Charged before it is had.
        assert_eq!(scene.pool.available(), 0);
        recycled(&lease)
    })
    .expect(whole, &["recycled"])
}

fn two_releases_for_one() -> Check {
    pool(
        "pool_two_releases_for_one",
        "small releases add up to a large grant, whoever finishes it",
        Bound::Preemptions(1),
        2,
        2,
    )
    .role("one", Scene::drop_one)
    .role("two", Scene::drop_one)
    .role("waiter", |scene| scene.wait(2))
    .expect(whole, &["granted"])
}

fn timeout_against_grant() -> Check {
    pool("pool_timeout_against_grant", "a wait ends once, and nothing of it is lost", Bound::Preemptions(2), 1, 1)
        .role("releaser", Scene::drop_one)
        .role("waiter", |scene| scene.wait(1))
        .role("time", |_| {
            let_time_run_out();
            ""
        })
        .expect(whole, &["granted", "timed out"])
}

fn close_against_grant() -> Check {
    pool(
        "pool_close_against_grant",
        "close wakes whoever waits; what was granted stays so",
        Bound::Preemptions(3),
        1,
        1,
    )
    .role("waiter", |scene: &Scene| scene.wait(1))
    .role("end", |scene| {
        scene.pool.close();
        scene.drop_one()
    })
    .expect(whole, &["closed", "granted"])
}

fn close_alone() -> Check {
    pool("pool_close_alone", "close wakes whoever waits, though nothing comes back", Bound::Full, 1, 1)
        .role("waiter", |scene: &Scene| scene.wait(1))
        .role("end", |scene| {
            scene.pool.close();
            ""
        })
        .expect(
            |scene, results| {
                scene.drop_one();
                whole(scene, results)
            },
            &["closed"],
        )
}

fn waits_again() -> Check {
    pool("pool_waits_again", "the front follows the turn, and what it has left goes once", Bound::Preemptions(1), 2, 2)
        .role("releaser", |scene: &Scene| {
            scene.drop_one();
            scene.drop_one()
        })
        .role("waiter", |scene| {
            let (one, two) = (scene.pool.allocate(1, LONG), scene.pool.allocate(1, LONG));
            if one.is_ok() && two.is_ok() { "granted" } else { "refused" }
        })
        .expect(whole, &["granted"])
}

fn newcomer_against_waiter() -> Check {
    pool(
        "pool_newcomer_against_waiter",
        "who comes while somebody waits goes without; the grant's bytes are nobody else's",
        Bound::Preemptions(3),
        1,
        1,
    )
    .role("newcomer", |scene: &Scene| {
        scene.drop_one();
        if scene.pool.allocate(1, Duration::ZERO).is_ok() { "served" } else { "refused" }
    })
    .role("waiter", |scene| scene.wait(1))
    .expect(whole, &["granted, refused", "granted, served"])
}

fn two_give_up() -> Check {
    pool("pool_two_give_up", "two join the line at once, and leave it", Bound::Preemptions(2), 1, 1)
        .role("one", |scene: &Scene| scene.wait(1))
        .role("two", |scene| {
            let_time_run_out();
            scene.wait(1)
        })
        .expect(
            |scene, results| {
                scene.drop_one();
                whole(scene, results)
            },
            &["timed out, timed out"],
        )
}

fn cancelled_head() -> Check {
    pool(
        "pool_cancelled_head",
        "who gives up at the front does not hide the one behind, whom there is memory for",
        Bound::Preemptions(2),
        2,
        1,
    )
    .role("gives up", |scene: &Scene| {
        let_time_run_out();
        match scene.pool.allocate(2, Duration::from_nanos(1)) {
            Ok(lease) => {
                drop(lease);
                "large"
            }
            Err(_) => "gave up",
        }
    })
    .role("stays", |scene| match scene.pool.allocate(1, FOR_EVER) {
        Ok(_) => "served",
        Err(_) => "refused",
    })
    .expect(
        |scene, results| {
            scene.drop_one();
            whole(scene, results)
        },
        &["gave up, served"],
    )
}

/// In line for 1, 3 and 1 bytes; a release of 2 serves the first and finds the second too large, which gives up meanwhile.
fn release_against_cancel_at_the_front() -> Check {
    model(
        "pool_release_against_cancel_at_the_front",
        "who releases and who gives up: one of them serves the one behind (L3)",
        Bound::Preemptions(2),
        || Hand::new(3, &[1, 3, 1], ManualClock::at(0)),
    )
    .keeps_retired()
    .weak_memory()
    .role("release", |hand: &Hand| hand.credit(2))
    .role("gives up", |hand| assert!(hand.give_up(1), "there is never enough for it"))
    .expect(
        |hand, _| {
            let (available, counted, waits) = hand.look();
            hand.give_all_back();
            assert_eq!((available, counted), (0, 0), "nobody is inside, and {waits}");
            waits
        },
        &["Granted Cancelled Granted"],
    )
}

fn two_releases_two_waiters() -> Check {
    pool(
        "pool_two_releases_two_waiters",
        "each release serves one of two, none is forgotten",
        Bound::Preemptions(0),
        2,
        2,
    )
    .role("releaser", |scene: &Scene| {
        let leases: Vec<_> = scene.held.lock().unwrap().drain(..).collect();
        drop(leases);
        ""
    })
    .role("waiter one", |scene| scene.wait_and_keep(1))
    .role("waiter two", |scene| scene.wait_and_keep(1))
    .expect(
        |scene, results| {
            scene.held.lock().unwrap().clear();
            whole(scene, results)
        },
        &["granted, granted"],
    )
}

/// Of 4 bytes a buffer of 2 is pooled and one is leased. One asks for a single byte, which must be made, while the lease comes back.
fn release_against_a_new_buffer() -> Check {
    model(
        "pool_release_against_a_new_buffer",
        "what is pooled and leased never exceeds the total (L10)",
        Bound::Preemptions(2),
        || {
            let pool = AtomicPool::new(4, 2, ManualClock::at(0));
            let take = || pool.allocate(2, Duration::ZERO).expect("there is enough");
            let (pooled, held) = (take(), take());
            drop(pooled);
            Scene { pool, held: Mutex::new(vec![held]) }
        },
    )
    .keeps_retired()
    .role("releaser", |scene: &Scene| {
        scene.drop_one();
        None
    })
    .role("one byte", |scene| Some(scene.pool.allocate(1, Duration::ZERO).expect("there is enough")))
    .expect(
        |scene, leases| {
            let leased: usize = leases.iter().flatten().map(|lease| lease.len()).sum();
            let now = scene.pool.snapshot();
            // The snapshot says no more than is available: a second buffer would show as 3.
            assert_eq!((leased, now.pooled % 2), (1, 0), "{now:?}");
            format!("{} pooled", now.pooled)
        },
        &["0 pooled", "2 pooled"],
    )
}

/// A clock that the checker misses if the pool that owns it is never freed, and finds dead if it is freed twice.
#[derive(Debug)]
struct Tracked(#[allow(dead_code, reason = "held, not read")] Arc<()>);

impl Clock for Tracked {
    fn now(&self) -> Instant {
        Instant::ZERO
    }

    fn unix_millis(&self) -> i64 {
        0
    }
}

struct Ends {
    pool: Mutex<Option<AtomicPool>>,
    lease: Mutex<Option<Lease<AtomicPoolCore>>>,
}

fn ends() -> Ends {
    let pool = AtomicPool::new(1, 1, std::sync::Arc::new(Tracked(Arc::new(()))));
    let lease = pool.allocate(1, Duration::ZERO).expect("there is enough");
    Ends { pool: Mutex::new(Some(pool)), lease: Mutex::new(Some(lease)) }
}

/// With the collector, not its stand-in, so for loom alone. One role collects: whoever does has pinned, and that orders more than the protocol does.
fn core_is_freed(name: &str, by_handle: bool) -> Check {
    /// Enough for the collector to free what was retired before, if nobody is pinned.
    fn collect() {
        for _ in 0..3 {
            pin().flush();
        }
    }
    model(name, "whoever frees the core does so after all that was done to it", Bound::Preemptions(1), ends)
        .role("handle", move |ends: &Ends| {
            drop(ends.pool.lock().unwrap().take());
            if by_handle {
                collect();
            }
        })
        .role("lease", move |ends| {
            drop(ends.lease.lock().unwrap().take());
            if !by_handle {
                collect();
            }
        })
        .weak_memory()
        .expect(|_, _| "gone".into(), &["gone"])
}

fn handle_against_last_lease() -> Check {
    model("pool_handle_against_last_lease", "the core goes with the last of handle and leases, once", Bound::Full, ends)
        .keeps_retired()
        .role("handle", |ends: &Ends| drop(ends.pool.lock().unwrap().take()))
        .role("lease", |ends| drop(ends.lease.lock().unwrap().take()))
        .expect(|_, _| "gone".into(), &["gone"])
}
