//! The lock-free pool as a whole: nobody sleeps on while there is memory for it, grants and cancels have one winner, every byte comes back. The shipping type.
//!
//! Totals of one to four bytes, so that a granule is a byte. A role has the stripe of its number: 0 unless it says otherwise. Pools are strict unless the model is about overtaking.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use unlatched::pool::{AtomicPool, AtomicPoolCore, BufferPool, Hand, Lease, PoolError, PoolOptions};
use unlatched::primitive::clock::{Clock, Instant, ManualClock};
use unlatched::primitive::epoch::pin;
use unlatched::primitive::model::{be_numbered, let_time_run_out};
use unlatched::primitive::parker::{Parker, ThreadParker};

use super::pool_parts::Woken;
use crate::runner::{Bound, Check, Model, model};

const LONG: Duration = Duration::from_secs(3600);

/// In the buffers that a scene begins with; a new one holds zeroes.
const USED: u8 = 42;

pub(crate) fn models() -> Vec<Check> {
    vec![
        common_road(),
        recycles_what_came_back(),
        release_against_waiter(),
        timeout_against_grant(),
        close_against_grant(),
        close_alone(),
        close_against_common_road(),
        newcomer_against_waiter(),
        odd_size_against_poolable(),
        takes_from_anothers_stripe_against_waiter(),
        try_among_stripes_is_true(),
        release_against_a_new_buffer(),
        two_stripes_against_a_new_buffer(),
        release_against_task(),
        close_against_task(),
        future_dropped_against_release("pool_future_dropped_against_release", 1),
        future_dropped_against_release("pool_future_dropped_later_against_release", 2),
        handle_against_last_lease(),
        handle_against_last_lease_of_another(),
        core_is_freed("pool_core_is_freed_by_handle", true),
        core_is_freed("pool_core_is_freed_by_lease", false),
    ]
}

/// A pool, and leases that roles take.
struct Scene {
    held: Mutex<Vec<Lease<AtomicPoolCore>>>,
    hand: Hand,
}

impl Scene {
    fn try_for(&self, size: usize) -> Result<Lease<AtomicPoolCore>, PoolError> {
        self.hand.pool().allocate(size, Duration::ZERO)
    }

    /// Keeps it until the end.
    fn keep(&self, lease: Lease<AtomicPoolCore>) {
        self.held.lock().unwrap().push(lease);
    }

    fn drop_one(&self) -> &'static str {
        let lease = self.held.lock().unwrap().pop();
        drop(lease.expect("one for each who drops"));
        ""
    }

    fn wait(&self, size: usize) -> &'static str {
        said(self.hand.pool().allocate(size, LONG))
    }
}

/// What a wait has come to. A lease is dropped.
fn said(found: Result<Lease<AtomicPoolCore>, PoolError>) -> &'static str {
    match found {
        Ok(lease) => {
            drop(lease);
            "granted"
        }
        Err(PoolError::Exhausted { .. }) => "timed out",
        Err(PoolError::Closed) => "closed",
        Err(_) => "other",
    }
}

fn strict(stripes: usize) -> PoolOptions {
    PoolOptions { overtaking: 0, stripes }
}

/// `held` leases of one byte, which are the last; the other bytes that were leased before are on stripe 0.
fn scene(total: u64, options: PoolOptions, held: usize) -> impl Fn() -> Scene + Send + Sync + 'static {
    move || {
        let hand = Hand::new(total, 1, options, ManualClock::at(0));
        let mut all: Vec<_> = (0..total)
            .map(|_| {
                let mut lease = hand.pool().allocate(1, Duration::ZERO).expect("there is enough");
                lease.fill(USED);
                lease
            })
            .collect();
        all.truncate(held);
        Scene { held: Mutex::new(all), hand }
    }
}

fn pool(name: &str, law: &'static str, bound: Bound, total: u64, held: usize) -> Model<Scene, &'static str> {
    model(name, law, bound, scene(total, strict(1), held)).keeps_retired()
}

/// What the roles came to, and that the pool is whole.
fn whole(scene: &Scene, results: &[&'static str]) -> String {
    scene.held.lock().unwrap().clear();
    let now = scene.hand.pool().snapshot();
    assert_eq!((now.available(), now.leased, now.queued), (now.total, 0, 0), "at rest");
    let (warm, on_stripes) = scene.hand.buffers();
    assert!(warm + on_stripes <= now.total, "L10: {warm} and {on_stripes}");
    let mut said: Vec<_> = results.iter().filter(|said| !said.is_empty()).copied().collect();
    said.sort_unstable();
    said.join(", ")
}

fn common_road() -> Check {
    fn once(scene: &Scene) {
        let lease = scene.try_for(1).expect("enough for two");
        assert_eq!(*lease, [USED], "off the stripe");
    }
    pool("pool_common_road", "who never waits shares a stripe with others", Bound::Preemptions(3), 2, 0)
        .role("one", |scene: &Scene| {
            once(scene);
            "served"
        })
        .role("two", |scene| {
            once(scene);
            once(scene);
            "served"
        })
        .expect(whole, &["served, served"])
}

/// One waits for two bytes, a lease of one comes back, and who comes takes it past the one who waits.
fn recycles_what_came_back() -> Check {
    model("pool_recycles_what_came_back", "whose bytes are free, that buffer is kept", Bound::Preemptions(3), || {
        let hand = Hand::new(2, 1, PoolOptions { overtaking: 9, stripes: 1 }, ManualClock::at(0));
        // The other byte is somebody's for good: who waits never has two.
        hand.charge(1);
        let mut lease = hand.pool().allocate(1, Duration::ZERO).expect("there is enough");
        lease.fill(USED);
        hand.join(2);
        Scene { held: Mutex::new(vec![lease]), hand }
    })
    .keeps_retired()
    .role("releaser", Scene::drop_one)
    .role("taker", |scene| {
        let Ok(lease) = scene.try_for(1) else { return "refused" };
        let found = recycled(&lease);
        scene.keep(lease);
        found
    })
    .expect(
        |scene, results| {
            scene.held.lock().unwrap().clear();
            scene.hand.give_all_back();
            results[1].into()
        },
        &["recycled", "refused"],
    )
}

fn recycled(lease: &[u8]) -> &'static str {
    if lease == [USED] { "recycled" } else { "new" }
}

fn release_against_waiter() -> Check {
    pool(
        "pool_release_against_waiter",
        "a release is not lost on a waiter that is about to sleep",
        Bound::Preemptions(2),
        1,
        1,
    )
    .role("releaser", Scene::drop_one)
    .role("waiter", |scene| {
        let lease = scene.hand.pool().allocate(1, LONG).expect("its release is under way");
        // Charged before it is had.
        assert_eq!(scene.hand.pool().available(), 0);
        recycled(&lease)
    })
    .expect(whole, &["recycled"])
}

fn timeout_against_grant() -> Check {
    pool("pool_timeout_against_grant", "a wait ends once, and nothing of it is lost", Bound::Preemptions(1), 1, 1)
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
        Bound::Preemptions(2),
        1,
        1,
    )
    .role("waiter", |scene: &Scene| scene.wait(1))
    .role("end", |scene| {
        scene.hand.pool().close();
        scene.drop_one()
    })
    .expect(whole, &["closed", "granted"])
}

fn close_alone() -> Check {
    pool("pool_close_alone", "close wakes whoever waits, though nothing comes back", Bound::Preemptions(3), 1, 1)
        .role("waiter", |scene: &Scene| scene.wait(1))
        .role("end", |scene| {
            scene.hand.pool().close();
            ""
        })
        .expect(whole, &["closed"])
}

/// Two stripes. A lease comes back to one and is asked for again there while both are being shut.
fn close_against_common_road() -> Check {
    model(
        "pool_close_against_common_road",
        "once it is closed nobody is served, and no byte is left on a stripe",
        Bound::Preemptions(3),
        scene(2, strict(2), 1),
    )
    .keeps_retired()
    .role("end", |scene: &Scene| {
        scene.hand.pool().close();
        assert!(matches!(scene.try_for(1), Err(PoolError::Closed)), "closed, and served");
        ""
    })
    .role("road", |scene| {
        be_numbered(1);
        scene.drop_one();
        match scene.try_for(1) {
            Ok(lease) => {
                scene.keep(lease);
                "served"
            }
            Err(PoolError::Closed) => "closed",
            Err(_) => "other",
        }
    })
    .expect(
        |scene, results| {
            let said = whole(scene, results);
            assert!(scene.hand.is_shut() && scene.hand.buffers().1 == 0, "something is on a stripe");
            said
        },
        &["closed", "served"],
    )
}

fn newcomer_against_waiter() -> Check {
    pool(
        "pool_newcomer_against_waiter",
        "who comes while somebody waits goes without; the grant's bytes are nobody else's",
        Bound::Preemptions(2),
        1,
        1,
    )
    .role("newcomer", |scene: &Scene| {
        scene.drop_one();
        if scene.try_for(1).is_ok() { "served" } else { "refused" }
    })
    .role("waiter", |scene| scene.wait(1))
    .expect(whole, &["granted, refused", "granted, served"])
}

/// Both buffers are on the stripe. One wants both bytes at once, another one buffer.
fn odd_size_against_poolable() -> Check {
    pool(
        "pool_odd_size_against_poolable",
        "buffers on stripes are bytes for any size; a try that fails was true (L4)",
        Bound::Preemptions(3),
        2,
        0,
    )
    .role("both", |scene: &Scene| match scene.try_for(2) {
        Ok(lease) => {
            scene.keep(lease);
            "both"
        }
        Err(_) => "not both",
    })
    .role("one", |scene| match scene.try_for(1) {
        Ok(lease) => {
            scene.keep(lease);
            "one"
        }
        Err(_) => "none",
    })
    .expect(whole, &["both, none", "not both, one"])
}

/// Three buffers on stripe 0; one takes off it from stripe 1, some for its own, another waits for all.
fn takes_from_anothers_stripe_against_waiter() -> Check {
    model(
        "pool_takes_from_anothers_stripe_against_waiter",
        "what is in hand between stripes comes to who waits (POOL-A, POOL-H)",
        Bound::Preemptions(1),
        scene(3, strict(2), 0),
    )
    .keeps_retired()
    .role("takes", |scene: &Scene| {
        be_numbered(1);
        match scene.try_for(1) {
            Ok(lease) => {
                drop(lease);
                "served"
            }
            Err(_) => "refused",
        }
    })
    .role("waits", |scene| scene.wait(3))
    .expect(whole, &["granted, refused", "granted, served"])
}

/// One buffer, that goes from stripe 0 to stripe 1 while another looks for it from there.
fn try_among_stripes_is_true() -> Check {
    model(
        "pool_try_among_stripes_is_true",
        "who finds nothing has seen all stripes and the word of one instant (L4)",
        Bound::Preemptions(2),
        scene(2, strict(2), 1),
    )
    .keeps_retired()
    // There always is one: one is on stripe 0 at first, the other comes to stripe 1 before that is taken.
    .role("moves", |scene: &Scene| {
        be_numbered(1);
        scene.drop_one();
        be_numbered(0);
        scene.keep(scene.try_for(1).expect("two are there, and only one is taken by the other"));
        ""
    })
    .role("looks", |scene| {
        scene.keep(scene.try_for(1).expect("there always is one"));
        "served"
    })
    .expect(whole, &["served"])
}

/// Of 4 bytes a buffer of 2 is kept warm and one is leased, and one waits for all. Who may pass asks for a single byte, which must be made, while the lease comes back.
fn release_against_a_new_buffer() -> Check {
    model(
        "pool_release_against_a_new_buffer",
        "what is kept and leased never exceeds the total (L10, POOL-G)",
        Bound::Preemptions(2),
        || {
            let hand = Hand::new(4, 2, PoolOptions { overtaking: 9, stripes: 1 }, ManualClock::at(0));
            let take = || hand.pool().allocate(2, Duration::ZERO).expect("there is enough");
            let (warm, held) = (take(), take());
            hand.join(4);
            drop(warm);
            assert_eq!(hand.buffers(), (1, 0));
            Scene { held: Mutex::new(vec![held]), hand }
        },
    )
    .keeps_retired()
    .role("releaser", Scene::drop_one)
    .role("one byte", |scene| {
        scene.keep(scene.try_for(1).expect("there is enough, and few have passed"));
        ""
    })
    .expect(
        |scene, _| {
            let (warm, on_stripes) = scene.hand.buffers();
            assert!(warm * 2 < 4 && on_stripes == 0, "a byte is leased, and {warm} buffers are kept warm");
            scene.held.lock().unwrap().clear();
            scene.hand.give_all_back();
            format!("{warm} kept")
        },
        &["0 kept", "1 kept"],
    )
}

/// The same with two stripes: a buffer is kept warm on the one, and who has brought another to the other takes the first past the one who waits.
fn two_stripes_against_a_new_buffer() -> Check {
    model(
        "pool_two_stripes_against_a_new_buffer",
        "buffers kept warm are counted at one instant, those of every stripe (L10, POOL-G)",
        Bound::Preemptions(1),
        || {
            let hand = Hand::new(4, 2, PoolOptions { overtaking: 9, stripes: 2 }, ManualClock::at(0));
            let take = || hand.pool().allocate(2, Duration::ZERO).expect("there is enough");
            let (warm, held) = (take(), take());
            hand.join(4);
            be_numbered(1);
            drop(warm);
            be_numbered(0);
            assert_eq!(hand.buffers(), (1, 0));
            Scene { held: Mutex::new(vec![held]), hand }
        },
    )
    .keeps_retired()
    .role("gives and takes", |scene: &Scene| {
        scene.drop_one();
        be_numbered(1);
        match scene.try_for(2) {
            Ok(lease) => {
                scene.keep(lease);
                "took"
            }
            Err(_) => "refused",
        }
    })
    .role("one byte", |scene| {
        scene.keep(scene.try_for(1).expect("there is enough, and few have passed"));
        ""
    })
    .expect(
        |scene, said| {
            let (warm, on_stripes) = scene.hand.buffers();
            let leased: usize = scene.held.lock().unwrap().iter().map(|lease| lease.len()).sum();
            assert!(leased as u64 + 2 * (warm + on_stripes) <= 4, "{leased} bytes leased, {warm} buffers kept warm");
            scene.held.lock().unwrap().clear();
            scene.hand.give_all_back();
            format!("{}, {warm} kept", said[0])
        },
        &["took, 0 kept"],
    )
}

/// Polls until it is ready, sleeping in between.
fn block_on(mut future: impl Future<Output = Result<Lease<AtomicPoolCore>, PoolError>> + Unpin) -> &'static str {
    let task = Arc::new(Woken(ThreadParker::new()));
    let waker = Waker::from(task.clone());
    loop {
        if let Poll::Ready(found) = Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            return said(found);
        }
        task.0.park();
    }
}

fn release_against_task() -> Check {
    pool(
        "pool_release_against_task",
        "a release is not lost on a task that is about to be pending",
        Bound::Preemptions(2),
        1,
        1,
    )
    .role("releaser", Scene::drop_one)
    .role("task", |scene| block_on(scene.hand.pool().allocate_async(1)))
    .expect(whole, &["granted"])
}

fn close_against_task() -> Check {
    pool("pool_close_against_task", "close wakes a task, though nothing comes back", Bound::Preemptions(2), 1, 1)
        .role("end", |scene: &Scene| {
            scene.hand.pool().close();
            ""
        })
        .role("task", |scene| block_on(scene.hand.pool().allocate_async(1)))
        .expect(whole, &["closed"])
}

/// Polled so often, then dropped: before the release, between its grant and a further poll, or ready; and somebody stands behind it.
fn future_dropped_against_release(name: &str, polls: usize) -> Check {
    model(
        name,
        "a dropped future takes nothing along: the next in line has it",
        Bound::Preemptions(1),
        super::pool_line::line(1, &[], 0),
    )
    .keeps_retired()
    .role("release", |scene: &super::pool_line::Scene| {
        scene.hand.credit(1);
        ""
    })
    .role("task", move |scene| {
        let task = Arc::new(Woken(ThreadParker::new()));
        // Never polled: nothing.
        drop(scene.hand.pool().allocate_async(1));
        let mut future = scene.hand.pool().allocate_async(1);
        let waker = Waker::from(task.clone());
        let mut poll = || Pin::new(&mut future).poll(&mut Context::from_waker(&waker));
        let mut found = poll();
        for _ in 1..polls {
            if found.is_pending() {
                found = poll();
            }
        }
        scene.join(1);
        drop(future);
        // A wake before the drop is one for the grant.
        let woken = task.0.park_timeout(Duration::ZERO);
        match found {
            Poll::Ready(found) => said(found),
            Poll::Pending if woken => "woken and dropped",
            Poll::Pending => "dropped",
        }
    })
    .expect(
        |scene, said| {
            let line = scene.line.lock().unwrap().pop().expect("it stands there");
            let came_to = format!("{}: {line:?}, {} left", said[1], scene.hand.in_word());
            scene.hand.give_all_back();
            came_to
        },
        &["dropped: Granted, 0 left", "granted: Granted, 0 left", "woken and dropped: Granted, 0 left"],
    )
}

/// A clock that the checker misses if the pool that owns it is never freed, and finds dead if it is freed twice.
#[derive(Debug)]
struct Tracked(#[allow(dead_code, reason = "held, not read")] unlatched::primitive::Arc<()>);

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

/// One lease is out, and the other buffers, if there are any, are on stripe 0.
fn ends(total: u64, stripes: usize) -> impl Fn() -> Ends + Send + Sync + 'static {
    move || {
        let clock = Arc::new(Tracked(unlatched::primitive::Arc::new(())));
        let pool = AtomicPool::with_options(total, 1, clock, strict(stripes));
        let mut all: Vec<_> = (0..total).map(|_| pool.allocate(1, Duration::ZERO).expect("there is enough")).collect();
        let lease = all.pop();
        drop(all);
        Ends { pool: Mutex::new(Some(pool)), lease: Mutex::new(lease) }
    }
}

/// With the collector, not its stand-in, so for loom alone. One role collects: whoever does has pinned, and that orders more than the protocol does.
fn core_is_freed(name: &str, by_handle: bool) -> Check {
    /// Enough for the collector to free what was retired before, if nobody is pinned.
    fn collect() {
        for _ in 0..3 {
            pin().flush();
        }
    }
    model(name, "whoever frees the core does so after all that was done to it", Bound::Preemptions(1), ends(1, 1))
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
    model(
        "pool_handle_against_last_lease",
        "the core goes with the last of handle and leases, once",
        Bound::Full,
        ends(1, 1),
    )
    .keeps_retired()
    .role("handle", |ends: &Ends| drop(ends.pool.lock().unwrap().take()))
    .role("lease", |ends| drop(ends.lease.lock().unwrap().take()))
    .expect(|_, _| "gone".into(), &["gone"])
}

/// Two stripes, with a buffer on the other one than that to which the lease comes back.
fn handle_against_last_lease_of_another() -> Check {
    model(
        "pool_handle_against_last_lease_among_stripes",
        "the handle that goes brings every stripe's bytes to the word, once",
        Bound::Preemptions(3),
        ends(2, 2),
    )
    .keeps_retired()
    .role("handle", |ends: &Ends| drop(ends.pool.lock().unwrap().take()))
    .role("lease", |ends| {
        be_numbered(1);
        drop(ends.lease.lock().unwrap().take());
    })
    .expect(|_, _| "gone".into(), &["gone"])
}
