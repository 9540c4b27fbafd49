//! Suite `pool`: allocate and free.
//!
//! Buffers have 16 KiB and the pool 32 MiB, unless a scenario says otherwise; threads: 1, 2, 4, 8, 16. Whoever gets a buffer writes eight bytes to its front. Pools begin empty in each run and make their buffers as they
//! are asked for them.
//!
//! | scenario | an operation | what is timed, each | a second on the schedule |
//! |---|---|---|---|
//! | `ample` | take a buffer, give it back; nobody ever waits | the whole, 32nd | 1 000 000 |
//! | `ample-cross` | take a buffer and push it to the next thread's ring; give back one that the thread before has pushed, if there is one | the whole, 32nd | 1 000 000 |
//! | `flow` | an appender takes a buffer and pushes it to its ring; one more thread takes the buffers out of all rings and gives them back | the appender's part, 32nd | 1 000 000 |
//! | `mixed` | as `ample`, but each fifth buffer is of an odd size: 17 000, 20 000 or 24 000 bytes in turn, as for a record that is larger than a batch | the whole, 32nd | 500 000 |
//! | `scarce` | four buffers in all: take one, waiting for it, hold it for 2 us, give it back | the taking, each | 200 000 |
//! | `scarce-50us` | the same, held for 50 us | the taking, each | 8 000 |
//! | `whale` | eight threads take and give back small buffers; one more takes the whole pool, again and again | the small ones, each fourth | none |
//!
//! # Rings
//! `ample-cross` and `flow` hand leases over by single-producer rings (`rtrb`), the same for every implementation; a lease is written into its slot and dropped there, never moved. All rings together hold three quarters of the pool,
//! so the pool itself never makes anybody wait. Who finds its ring full takes no more before it is half empty, so that threads take long turns; meanwhile it gives back what it has to, and yields when there is nothing. That is
//! not timed, and no operation; `yields_per_op` says how often. With more threads than processors a thread can do no more than a ring's length before the next thread must run, so the scheduler's part is in these rows, alike for all.
//!
//! # `scarce`
//! A buffer is held by a thread that reads the clock until the time is over: by work, that is, not by sleep. `waits_per_op` is the share of allocations that slept. No hook in the pools tells: both read their
//! clock around a sleep and at no other time, so an allocation has slept if its thread has read the pool's clock meanwhile. With no more threads than buffers none waits.
//!
//! # `whale`
//! See [`whale`].
//!
//! # Implementations
//! - `lockfree`: as it comes. `lockfree-strict`: no newcomer ever overtakes one who waits.
//! - `mutex`, `mutex-parking-lot`: the twin, Kafka's algorithm.
//! - `mutex-stripes`: what sharding alone brings, see [`stripes`]; where nobody waits and no budget needs to be common.
//! - `bare-parking-lot`: a lock around a deque of vectors, [`super::bare`].

mod impls;
mod stripes;
#[cfg(test)]
mod tests;
mod whale;

use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};
use serde_json::json;

use super::bare::{BATCH, BarePool};
use super::load::{Done, Load, with_helper};
use super::verdict::{Comparison, Who};
use super::{Impl, Mode, Run, Scenario, THREADS, Task};
use crate::primitive::clock::{Clock, Instant, SharedClock, SystemClock};
use crate::primitive::{hint, thread};
use impls::{Pool, SleepClock, lockfree, lockfree_strict, twin_parking_lot, twin_std};
use stripes::StripedPool;

/// Bytes of the pool, unless a scenario says otherwise.
const TOTAL: u64 = 32 << 20;
/// Each how manieth operation is timed where one takes some nanoseconds.
const TIMED_EACH: u64 = 32;
/// Operations a second on the schedule, likewise.
const RATE: u64 = 1_000_000;
/// Odd sizes in bytes, in turn.
const ODD: [usize; 3] = [17_000, 20_000, 24_000];
/// One in so many is of an odd size.
const ODD_EACH: u64 = 5;
/// Longer than any wait for memory; one that is over fails the run.
const PATIENCE: Duration = Duration::from_secs(60);

/// The implementations that do everything, on `$run`, a function of how to make a pool and of the task.
macro_rules! everywhere {
    ($run:expr $(, $name:literal => $make:expr)*) => {
        vec![
            Impl { name: "lockfree", run: Box::new(move |task| $run(lockfree, task)) },
            Impl { name: "lockfree-strict", run: Box::new(move |task| $run(lockfree_strict, task)) },
            Impl { name: "mutex", run: Box::new(move |task| $run(twin_std, task)) },
            Impl { name: "mutex-parking-lot", run: Box::new(move |task| $run(twin_parking_lot, task)) },
            $(Impl { name: $name, run: Box::new(move |task| $run($make, task)) },)*
        ]
    };
}

pub(super) fn scenarios(_: Mode) -> Vec<Scenario> {
    let striped = |total, _| StripedPool::new(total);
    let bare = |_, _| BarePool::default();
    let scenario = |name, impls, comparisons| Scenario {
        name,
        threads: THREADS,
        any_threads: true,
        partitions: None,
        record_bytes: None,
        once: false,
        impls,
        comparisons,
    };
    vec![
        scenario("ample", everywhere!(ample, "mutex-stripes" => striped, "bare-parking-lot" => bare), never_waiting()),
        scenario(
            "ample-cross",
            everywhere!(cross, "mutex-stripes" => striped, "bare-parking-lot" => bare),
            never_waiting(),
        ),
        scenario("flow", everywhere!(flow), by_twin(1.2)),
        scenario(
            "scarce",
            everywhere!(|make, task| scarce(make, task, Duration::from_micros(2), 200_000)),
            by_twin(1.0),
        ),
        scenario(
            "scarce-50us",
            everywhere!(|make, task| scarce(make, task, Duration::from_micros(50), 8_000)),
            by_twin(1.0),
        ),
        scenario("mixed", everywhere!(mixed, "mutex-stripes" => striped), {
            let stripes = Who::Named("mutex-stripes");
            let mut comparisons = by_twin(1.2);
            comparisons.push(Comparison::rate("lockfree", stripes));
            comparisons.push(Comparison::rate("lockfree-strict", stripes));
            comparisons
        }),
        Scenario {
            threads: &[whale::SMALL],
            any_threads: false,
            ..scenario("whale", whale::with_bounds(everywhere!(whale::run)), whale::comparisons())
        },
    ]
}

/// What is expected where nobody waits.
fn never_waiting() -> Vec<Comparison> {
    let (stripes, bare) = (Who::Named("mutex-stripes"), Who::Named("bare-parking-lot"));
    vec![
        Comparison::rate("lockfree", Who::StrongestTwin).at_least(1.5, 3.0),
        Comparison::tail("lockfree", Who::BestTail).at_most(1.0 / 20.0).from(4),
        Comparison::rate("lockfree", stripes).at_least(1.2, 1.2).from(2),
        Comparison::rate("lockfree-strict", Who::StrongestTwin),
        Comparison::rate("lockfree-strict", stripes),
        Comparison::rate(Who::StrongestTwin, bare).at_least(0.8, 0.8),
    ]
}

/// That the pool as it comes has at least so many times the rate of the strongest twin, at every number of threads.
fn by_twin(least: f64) -> Vec<Comparison> {
    vec![
        Comparison::rate("lockfree", Who::StrongestTwin).at_least(least, least),
        Comparison::tail("lockfree", Who::BestTail),
        Comparison::rate("lockfree-strict", Who::StrongestTwin),
    ]
}

/// The work on a buffer, the same everywhere.
#[inline]
fn touch(bytes: &mut [u8], count: u64) {
    bytes[..8].copy_from_slice(&count.to_ne_bytes());
}

fn ample<P: Pool>(make: impl Fn(u64, SharedClock) -> P, task: &Task) -> Run {
    let pool = make(TOTAL, SystemClock::shared());
    let load = Load {
        clock: &SystemClock::new(),
        states: vec![(); task.threads],
        op: |_: &mut (), count| {
            // It stays where it is written: a move of what was written a moment ago in smaller pieces stalls for longer than an allocation takes.
            let mut taken = pool.take(BATCH, Duration::ZERO);
            touch(P::bytes(&mut taken), count);
            Done::Now
        },
        helpers: 0,
        timed_each: TIMED_EACH,
        rate: RATE,
    };
    load.run(task).0
}

fn mixed<P: Pool>(make: impl Fn(u64, SharedClock) -> P, task: &Task) -> Run {
    let pool = make(TOTAL, SystemClock::shared());
    let load = Load {
        clock: &SystemClock::new(),
        states: vec![(); task.threads],
        op: |_: &mut (), count| {
            let odd = (count / ODD_EACH) as usize % ODD.len();
            let size = if count % ODD_EACH == ODD_EACH - 1 { ODD[odd] } else { BATCH };
            let mut taken = pool.take(size, Duration::ZERO);
            touch(P::bytes(&mut taken), count);
            Done::Now
        },
        helpers: 0,
        timed_each: TIMED_EACH,
        rate: RATE / 2,
    };
    let mut run = load.run(task).0;
    run.extra.insert("odd_sizes".to_owned(), json!(ODD));
    run
}

/// A ring's end for whoever takes buffers.
struct Out<T> {
    ring: Producer<T>,
    /// It was found full, and is not half empty yet.
    full: bool,
}

/// Rings for so many threads that hold three quarters of the pool between them.
fn rings<T>(threads: usize) -> (Vec<Out<T>>, Vec<Consumer<T>>) {
    let slots = TOTAL as usize / BATCH * 3 / 4 / threads;
    let ring = |_| {
        let (ring, consumer) = RingBuffer::new(slots.max(1));
        (Out { ring, full: false }, consumer)
    };
    (0..threads).map(ring).unzip()
}

/// Takes a buffer into the ring, if there is room for it.
#[inline]
fn push<'p, P: Pool>(pool: &'p P, out: &mut Out<P::Taken<'p>>, count: u64) -> bool {
    if out.full && out.ring.slots() < out.ring.buffer().capacity() / 2 {
        return false;
    }
    let Ok(mut chunk) = out.ring.write_chunk_uninit(1) else {
        out.full = true;
        return false;
    };
    let (slots, _) = chunk.as_mut_slices();
    touch(P::bytes(slots[0].write(pool.take(BATCH, Duration::ZERO))), count);
    // SAFETY: the chunk's only slot has just been written.
    unsafe { chunk.commit_all() };
    out.full = false;
    true
}

/// Gives back what is next in the ring, where it lies.
#[inline]
fn pop<T>(ring: &mut Consumer<T>) -> bool {
    ring.read_chunk(1).map(|chunk| chunk.commit_all()).is_ok()
}

fn cross<P: Pool>(make: impl Fn(u64, SharedClock) -> P, task: &Task) -> Run {
    cross_on(&make(TOTAL, SystemClock::shared()), task)
}

fn cross_on<'p, P: Pool>(pool: &'p P, task: &Task) -> Run {
    let (to_next, mut from_before) = rings(task.threads);
    // Each reads what the one before it writes; the first, what the last does.
    from_before.rotate_right(1);
    let load = Load {
        clock: &SystemClock::new(),
        states: to_next.into_iter().zip(from_before).collect(),
        op: |(to_next, from_before): &mut (Out<P::Taken<'p>>, Consumer<P::Taken<'p>>), count| {
            let pushed = push(pool, to_next, count);
            let popped = pop(from_before);
            match (pushed, popped) {
                (true, _) => Done::Now,
                (false, true) => Done::Part,
                (false, false) => Done::NotYet,
            }
        },
        helpers: 0,
        timed_each: TIMED_EACH,
        rate: RATE,
    };
    load.run(task).0
}

fn flow<P: Pool>(make: impl Fn(u64, SharedClock) -> P, task: &Task) -> Run {
    flow_on(&make(TOTAL, SystemClock::shared()), task)
}

fn flow_on<'p, P: Pool>(pool: &'p P, task: &Task) -> Run {
    /// What the freeing thread takes from a ring before it looks at the next.
    const AT_ONCE: usize = 16;
    let (producers, mut consumers) = rings(task.threads);
    let load = Load {
        clock: &SystemClock::new(),
        states: producers,
        op: |out: &mut Out<P::Taken<'p>>, count| {
            if push(pool, out, count) { Done::Now } else { Done::NotYet }
        },
        helpers: 1,
        timed_each: TIMED_EACH,
        rate: RATE,
    };
    let free = || {
        let of_ring = |ring: &mut Consumer<_>| (0..AT_ONCE).take_while(|_| pop(ring)).count();
        consumers.iter_mut().map(of_ring).sum::<usize>() > 0
    };
    with_helper(|| load.run(task), free, thread::yield_now).0
}

fn scarce<P: Pool>(make: impl Fn(u64, SharedClock) -> P, task: &Task, hold: Duration, rate: u64) -> Run {
    const BUFFERS: u64 = 4;
    let pool = make(BUFFERS * BATCH as u64, SleepClock::shared());
    let clock = SystemClock::new();
    let load = Load {
        clock: &clock,
        // Allocations, and those that slept.
        states: vec![(0, 0); task.threads],
        op: |(all, slept): &mut (u64, u64), count| {
            let before = SleepClock::readings();
            let mut taken = pool.take(BATCH, PATIENCE);
            let got = clock.now();
            touch(P::bytes(&mut taken), count);
            *all += 1;
            *slept += u64::from(SleepClock::readings() != before);
            let over: Instant = got.saturating_add(hold);
            while clock.now() < over {
                hint::spin_loop();
            }
            Done::At(got)
        },
        helpers: 0,
        timed_each: 1,
        rate,
    };
    let (mut run, states) = load.run(task);
    let (all, slept) = states.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    run.extra.insert("waits_per_op".to_owned(), json!(slept as f64 / (all as f64).max(1.0)));
    run
}
