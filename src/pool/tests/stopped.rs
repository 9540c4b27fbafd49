//! L9: a thread is stopped at each shared step of the pool, for as long as the others need, and they go on with all that it has not in hand (POOL-A).

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{PATIENCE, ended, eventually, stopped_at};
use crate::pool::{AtomicPool, AtomicPoolCore, BufferPool, Lease, PoolError, PoolOptions};
use crate::primitive::clock::SystemClock;
use crate::primitive::parker::{Parker, ThreadParker};
use crate::primitive::{Stop, step as pause, stop_here};

const POOLABLE: usize = 64;
const TOTAL: u64 = 512;
const ODD: usize = 100;
/// So many that no two threads of a test share one.
const MANY_STRIPES: usize = 1 << 10;

type Held = Vec<Lease<AtomicPoolCore>>;

/// Has a thread stop at a step.
type Act = fn(&'static str) -> Scene;

/// Where a thread is stopped, what makes it pass there, and how many bytes it has in hand, or has once the others have served it.
const STEPS: &[(&str, Act, u64)] = &[
    ("pool.reserve", takes_fresh, 0),
    ("slots.take-idle", takes_fresh, 64),
    ("pool.pop", takes_again, 0),
    // The lease that it is about to give back.
    ("pool.release", gives_back, 64),
    ("pool.take", takes_anothers, 0),
    // Two buffers taken off another's stripe at once: its own, and one that was to come onto its stripe.
    ("pool.put", takes_anothers, 128),
    ("pool.gather", takes_odd, 0),
    // Two buffers off the stripes, not in the word yet.
    ("slots.keep", takes_odd, 128),
    ("pool.give", takes_odd, 128),
    ("pool.credit", serves, 64),
    // What it has debited, and makes memory for.
    ("slots.looked", takes_odd, 100),
    ("slots.take-warm", takes_odd, 100),
    ("slots.give-idle", takes_odd, 100),
    ("pool.looked", fails, 0),
    ("pool.link", waits, 0),
    // From here on it stands in line, and the others serve it.
    ("pool.join", waits, 64),
    ("stack.shut", waits, 64),
    ("pool.joined", waits, 64),
    ("pool.look", waits, 64),
    ("pool.help", waits, 64),
    ("pool.wait", waits, 64),
    ("pool.cancel", gives_up, 64),
    ("pool.cancelled", gives_up, 0),
    ("pool.skip", gives_up, 0),
    ("pool.pass", gives_up, 0),
    ("pool.rest", gives_up, 0),
    ("pool.help", serves, 0),
    ("pool.set-grant", serves, 0),
    ("pool.grant", serves, 0),
    ("pool.wake", serves, 0),
    ("pool.end-turn", serves_a_late_one, 0),
    ("pool.pass", serves_a_late_one, 0),
    ("pool.rest", serves_a_late_one, 0),
    ("pool.wake", calls, 0),
    ("pool.call", calls, 0),
    ("pool.overtake", overtakes, 0),
    ("pool.open", opens, 64),
    ("stack.open", opens, 64),
    ("pool.close", closes, 0),
    ("stack.shut", closes, 0),
    ("pool.register", polls, 0),
    ("pool.registered", polls, 0),
    ("pool.register", polls_again, 64),
    ("pool.registered", polls_again, 64),
    // The waker of a task that has its memory and does not know.
    ("pool.woken", wakes_a_task, 64),
];

/// A thread that stands at a step, and what is about it.
struct Scene {
    pool: Arc<AtomicPool>,
    stopped: JoinHandle<()>,
    stop: Stop,
    /// What others hold, and let go of while it stands there.
    held: Held,
    /// Others who wait, for what they then get.
    waiting: Vec<JoinHandle<()>>,
    /// Others whose wake-up the stopped one has in hand.
    unheard: Vec<JoinHandle<()>>,
}

impl Scene {
    fn of(
        pool: &Arc<AtomicPool>,
        step: &'static str,
        held: Held,
        work: impl FnOnce(&AtomicPool) + Send + 'static,
    ) -> Self {
        let (stopped, stop) = stopped_at(step, {
            let pool = pool.clone();
            move || work(&pool)
        });
        Self { pool: pool.clone(), stopped, stop, held, waiting: Vec::new(), unheard: Vec::new() }
    }
}

fn pool(overtaking: u32, stripes: usize) -> Arc<AtomicPool> {
    let options = PoolOptions { overtaking, stripes };
    Arc::new(AtomicPool::with_options(TOTAL, POOLABLE, SystemClock::shared(), options))
}

/// All that can be had at once.
fn take_all(pool: &AtomicPool) -> Held {
    std::iter::from_fn(|| pool.try_allocate(POOLABLE).ok()).collect()
}

/// Takes, and gives back.
fn use_some(pool: &AtomicPool, size: usize, max_block: Duration) {
    let _ = pool.allocate(size, max_block);
}

/// One who waits, seen at `step`, behind its last look at the line: what comes back from now on is for others to grant. Not by the figure, which is too low by one whose turn has ended before it has arrived.
fn waiter_at(
    step: &'static str,
    pool: &Arc<AtomicPool>,
    work: impl FnOnce(&AtomicPool) + Send + 'static,
) -> JoinHandle<()> {
    let (thread, go_on) = stopped_at(step, {
        let pool = pool.clone();
        move || work(&pool)
    });
    go_on.release();
    thread
}

fn waiter(pool: &Arc<AtomicPool>, work: impl FnOnce(&AtomicPool) + Send + 'static) -> JoinHandle<()> {
    waiter_at("pool.wait", pool, work)
}

fn must_have(pool: &AtomicPool, size: usize) {
    assert_eq!(pool.allocate(size, PATIENCE).map(drop), Ok(()));
}

fn takes_fresh(step: &'static str) -> Scene {
    Scene::of(&pool(0, 1), step, Vec::new(), |pool| use_some(pool, POOLABLE, Duration::ZERO))
}

fn takes_again(step: &'static str) -> Scene {
    let pool = pool(0, 1);
    use_some(&pool, POOLABLE, Duration::ZERO);
    Scene::of(&pool, step, Vec::new(), |pool| use_some(pool, POOLABLE, Duration::ZERO))
}

fn gives_back(step: &'static str) -> Scene {
    Scene::of(&pool(0, 1), step, Vec::new(), |pool| use_some(pool, POOLABLE, Duration::ZERO))
}

fn takes_anothers(step: &'static str) -> Scene {
    let pool = pool(0, MANY_STRIPES);
    drop([(); 4].map(|()| pool.try_allocate(POOLABLE).unwrap()));
    Scene::of(&pool, step, Vec::new(), |pool| use_some(pool, POOLABLE, Duration::ZERO))
}

fn takes_odd(step: &'static str) -> Scene {
    let pool = pool(0, 1);
    // All on the stripe.
    drop(take_all(&pool));
    Scene::of(&pool, step, Vec::new(), |pool| {
        // Three buffers are gathered for them in all, and what is warm is more than what is left.
        use_some(pool, ODD, Duration::ZERO);
    })
}

fn fails(step: &'static str) -> Scene {
    let pool = pool(0, 1);
    let held = take_all(&pool);
    Scene::of(&pool, step, held, |pool| use_some(pool, POOLABLE, Duration::ZERO))
}

fn waits(step: &'static str) -> Scene {
    let pool = pool(0, 1);
    let held = take_all(&pool);
    Scene::of(&pool, step, held, |pool| use_some(pool, POOLABLE, PATIENCE))
}

fn gives_up(step: &'static str) -> Scene {
    let pool = pool(0, 1);
    let held = take_all(&pool);
    Scene::of(&pool, step, held, |pool| use_some(pool, POOLABLE, Duration::from_nanos(1)))
}

/// One who gives back what two wait for.
fn release_among_waiters(overtaking: u32, step: &'static str) -> Scene {
    let pool = pool(overtaking, 1);
    let mut held = take_all(&pool);
    let waiting = vec![waiter(&pool, |pool| must_have(pool, POOLABLE)), waiter(&pool, |pool| must_have(pool, ODD))];
    let own = held.pop();
    Scene { waiting, ..Scene::of(&pool, step, held, move |_| drop(own)) }
}

fn serves(step: &'static str) -> Scene {
    release_among_waiters(0, step)
}

/// One who is served and has not come to see to it itself before the other stands at its step.
fn serves_a_late_one(step: &'static str) -> Scene {
    let pool = pool(0, 1);
    let mut held = take_all(&pool);
    let (late, go_on) = stopped_at("pool.wait", {
        let pool = pool.clone();
        move || must_have(&pool, POOLABLE)
    });
    let own = held.pop();
    let scene = Scene::of(&pool, step, held, move |_| drop(own));
    go_on.release();
    Scene { waiting: vec![late], ..scene }
}

fn calls(step: &'static str) -> Scene {
    release_among_waiters(1, step)
}

fn overtakes(step: &'static str) -> Scene {
    let pool = pool(1, 1);
    let mut held = take_all(&pool);
    let waiting = vec![waiter(&pool, |pool| must_have(pool, 2 * POOLABLE))];
    // Too little for the first in line.
    held.pop();
    Scene { waiting, ..Scene::of(&pool, step, held, |pool| use_some(pool, POOLABLE, Duration::ZERO)) }
}

fn opens(step: &'static str) -> Scene {
    let pool = pool(0, 1);
    let mut held = take_all(&pool);
    // Nobody waits any more, and the stripe is shut.
    use_some(&pool, POOLABLE, Duration::from_nanos(1));
    let own = held.pop();
    Scene::of(&pool, step, held, move |_| drop(own))
}

fn closes(step: &'static str) -> Scene {
    Scene::of(&pool(0, 1), step, Vec::new(), AtomicPool::close)
}

fn polls(step: &'static str) -> Scene {
    let pool = pool(0, 1);
    let held = take_all(&pool);
    Scene::of(&pool, step, held, |pool| {
        let mut future = pin!(pool.allocate_async(POOLABLE));
        let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    })
}

fn polls_again(step: &'static str) -> Scene {
    let pool = pool(0, 1);
    let held = take_all(&pool);
    let stop = Stop::new();
    let stopped = std::thread::spawn({
        let (pool, stop) = (pool.clone(), stop.clone());
        move || {
            let mut future = pin!(pool.allocate_async(POOLABLE));
            let mut context = Context::from_waker(Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_pending());
            stop_here(step, &stop);
            let _ = future.as_mut().poll(&mut context);
        }
    });
    assert!(stop.await_stopped(PATIENCE), "nobody came to {step}");
    Scene { pool, stopped, stop, held, waiting: Vec::new(), unheard: Vec::new() }
}

struct Unpark(Arc<ThreadParker>);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wakes_a_task(step: &'static str) -> Scene {
    let pool = pool(0, 1);
    let mut held = take_all(&pool);
    let task = waiter_at("task.pends", &pool, |pool| {
        let parker = Arc::new(ThreadParker::new());
        let waker = Waker::from(Arc::new(Unpark(Arc::clone(&parker))));
        let mut future = pin!(pool.allocate_async(POOLABLE));
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(lease) => return assert!(lease.is_ok(), "{lease:?}"),
                Poll::Pending => {
                    pause("task.pends");
                    parker.park();
                }
            }
        }
    });
    let own = held.pop();
    Scene { unheard: vec![task], ..Scene::of(&pool, step, held, move |_| drop(own)) }
}

/// Does `work` on another thread, which comes to its end.
#[track_caller]
fn on_another<T: Send + 'static>(
    what: &str,
    pool: &Arc<AtomicPool>,
    work: impl FnOnce(&AtomicPool) -> T + Send + 'static,
) -> T {
    let pool = pool.clone();
    ended(what, std::thread::spawn(move || work(&pool)))
}

/// That the others go on, and that nothing is lost when the stopped one has gone on as well.
fn others_go_on(step: &'static str, act: Act, in_hand: u64) {
    let Scene { pool, stopped, stop, held, waiting, unheard } = act(step);
    let at = |what: &str| format!("{what}, while one is stopped at {step}");
    on_another(&at("gives back"), &pool, move |_| drop(held));
    // Who comes finishes what the stopped one has begun. If that is a close, it may have taken effect.
    let open = on_another(&at("takes and gives back"), &pool, |pool| {
        eventually("memory, or closed", || !matches!(pool.try_allocate(POOLABLE), Err(PoolError::Exhausted { .. })));
        let other = pool.allocate(ODD, PATIENCE).map(drop);
        assert!(matches!(other, Ok(()) | Err(PoolError::Closed)), "{other:?}");
        other.is_ok()
    });
    for waiter in waiting {
        ended(&at("one who waited before"), waiter);
    }
    if open {
        let all = on_another(&at("takes all"), &pool, take_all);
        assert!(all.len() as u64 >= (TOTAL - in_hand) / POOLABLE as u64, "{} buffers, {}", all.len(), at("in hand"));
        let waiting = [POOLABLE, ODD].map(|size| waiter(&pool, move |pool| must_have(pool, size)));
        on_another(&at("gives all back"), &pool, move |_| drop(all));
        let _ = waiting.map(|waiter| ended(&at("one who waits"), waiter));
    }
    let now = on_another(&at("reads the figures"), &pool, AtomicPool::snapshot);
    assert!(now.available() >= TOTAL - in_hand && now.queued <= 1, "{now:?}, {}", at("in hand"));
    on_another(&at("closes"), &pool, AtomicPool::close);
    let late = on_another(&at("comes late"), &pool, |pool| pool.allocate(POOLABLE, PATIENCE).map(drop));
    assert_eq!((late, open), (Err(PoolError::Closed), step != "stack.shut" || in_hand > 0), "{}", at("closed"));
    stop.release();
    ended(&at("the stopped one"), stopped);
    for waiter in unheard {
        ended(&at("whom the stopped one was to wake"), waiter);
    }
    let now = pool.snapshot();
    assert!(now.is_conserved() && now.available() == TOTAL && now.queued == 0, "{now:?} after {step}");
}

#[test]
fn l9_one_who_is_stopped_at_any_step_holds_up_nobody() {
    for (step, act, in_hand) in STEPS {
        others_go_on(step, *act, *in_hand);
    }
}

#[test]
fn l9_every_shared_step_is_in_the_table() {
    const SOURCES: [&str; 6] = [
        include_str!("../atomic.rs"),
        include_str!("../atomic/wait.rs"),
        include_str!("../atomic/future.rs"),
        include_str!("../line.rs"),
        include_str!("../stack.rs"),
        include_str!("../waker.rs"),
    ];
    let is_step = |text: &&str| {
        text.split_once('.').is_some_and(|(part, step)| {
            ["pool", "stack", "slots"].contains(&part) && step.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        })
    };
    let passed: BTreeSet<&str> = SOURCES.iter().flat_map(|source| source.split('"')).filter(is_step).collect();
    let listed: BTreeSet<&str> = STEPS.iter().map(|(step, ..)| *step).collect();
    assert_eq!(passed, listed, "the steps of the sources, and those of the table");
}

/// One who joins is stopped before it has shut the stripe; what the others held comes onto that.
fn joiner_before_it_has_shut() -> Scene {
    waits("stack.shut")
}

#[test]
fn l9_a_try_is_not_refused_for_one_who_is_stopped_while_it_joins() {
    let Scene { pool, stopped, stop, held, .. } = joiner_before_it_has_shut();
    drop(held);
    let had = pool.try_allocate(ODD).map(drop);
    stop.release();
    ended("the stopped one", stopped);
    assert_eq!(had, Ok(()), "there was enough for both");
}

#[test]
fn l9_one_who_is_stopped_while_it_joins_hides_no_other_from_the_figure() {
    let Scene { pool, stopped, stop, held, .. } = joiner_before_it_has_shut();
    drop(held);
    // Its turn is over before it has arrived.
    let all = on_another("takes all", &pool, |pool| {
        assert_eq!(pool.allocate(ODD, PATIENCE).map(drop), Ok(()));
        take_all(pool)
    });
    let other = waiter(&pool, |pool| must_have(pool, POOLABLE));
    std::thread::sleep(Duration::from_millis(10));
    let queued = pool.queued();
    drop(all);
    stop.release();
    ended("the stopped one", stopped);
    ended("the other", other);
    assert_eq!(queued, 1, "the sender goes by it (ACC-21)");
}

#[test]
fn l1_empty_buffers_that_are_pooled_leave_the_figures_right() {
    let pool = AtomicPool::new(10, 0, SystemClock::shared());
    drop(pool.try_allocate(0).unwrap());
    let now = pool.snapshot();
    assert_eq!((now.available(), now.leased), (10, 0), "{now:?}");
}
