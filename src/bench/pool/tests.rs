//! What the suite takes for granted of the pools, and that it counts rightly.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

use super::stripes::StripedPool;
use super::*;
use crate::bench::load::this_thread;
use crate::pool::BufferPool;

/// That a pool reads its clock where an allocation sleeps, and at no other time: what `waits_per_op` and `max_overtakes` are counted by.
fn reads_its_clock_to_sleep_only<P: BufferPool>(make: fn(u64, SharedClock) -> P) {
    let pool = make(2 * BATCH as u64, SleepClock::shared());
    let readings = |size, wait| {
        let before = SleepClock::readings();
        let taken = pool.take(size, wait);
        (SleepClock::readings() - before, taken)
    };
    let (none, first) = readings(BATCH, PATIENCE);
    let (still_none, second) = readings(100, PATIENCE);
    assert_eq!((none, still_none), (0, 0));
    assert!(first.is_ok() && second.is_ok());
    let (slept, refused) = readings(BATCH, Duration::from_millis(1));
    assert!(slept > 0 && refused.is_err());
    drop((first, second));
    let (none, whole) = readings(2 * BATCH, PATIENCE);
    assert!(none == 0 && whole.is_ok());
}

#[test]
fn pools_read_their_clock_to_sleep_only() {
    reads_its_clock_to_sleep_only(lockfree);
    reads_its_clock_to_sleep_only(lockfree_strict);
    reads_its_clock_to_sleep_only(twin_std);
    reads_its_clock_to_sleep_only(twin_parking_lot);
}

#[test]
fn scarce_memory_makes_threads_wait_and_ample_memory_does_not() {
    let waits = |threads| {
        let task = Task { time: Duration::from_millis(200), ..Task::of_ops(threads, u64::MAX) };
        // Longer than a slice of any scheduler, so that others come while it is held.
        let run = scarce(lockfree_strict, &task, Duration::from_millis(5), 100);
        run.extra["waits_per_op"].as_f64().unwrap()
    };
    assert_eq!(waits(4), 0.0);
    assert!(waits(8) > 0.1);
}

/// A pool that serves a whole-pool request after so many small ones that began behind it, and counts them itself.
struct Barging {
    after: u64,
    state: Mutex<State>,
    changed: Condvar,
    clock: SharedClock,
}

#[derive(Default)]
struct State {
    /// A whole-pool request stands in line, the how manieth.
    line: Option<u64>,
    requests: u64,
    /// Small ones out now.
    out: u64,
    whole_out: bool,
    /// Small ones that began behind the request and were served.
    overtakes: u64,
    most: u64,
}

struct Taken<'p> {
    pool: &'p Barging,
    bytes: Vec<u8>,
}

impl Pool for Barging {
    type Taken<'p> = Taken<'p>;

    fn take(&self, size: usize, _: Duration) -> Taken<'_> {
        if size == TOTAL as usize {
            // On its way to the line: who begins meanwhile began after the call, and not behind it.
            thread::sleep(Duration::from_millis(1));
        }
        let mut state = self.state.lock().unwrap();
        if size == TOTAL as usize {
            state.requests += 1;
            state.line = Some(state.requests);
            state.overtakes = 0;
            // Nobody can come between the place in line and the mark.
            self.clock.now();
            let wait = |state: &mut State| state.overtakes < self.after;
            let mut state = self.changed.wait_while(state, wait).unwrap();
            // As a pool that is strict from then on: new ones wait, those that are out come back.
            state.whole_out = true;
            let mut state = self.changed.wait_while(state, |state| state.out > 0).unwrap();
            state.most = state.most.max(state.overtakes);
            state.line = None;
        } else {
            let behind = state.line;
            // Others may run between the begin and the end of an allocation.
            drop(state);
            thread::yield_now();
            let state = self.state.lock().unwrap();
            let mut state = self.changed.wait_while(state, |state| state.whole_out).unwrap();
            state.out += 1;
            if behind.is_some() && state.line == behind {
                state.overtakes += 1;
                self.changed.notify_all();
            }
        }
        Taken { pool: self, bytes: vec![0; size.min(BATCH)] }
    }

    fn is_there(_: &Taken<'_>) -> bool {
        true
    }

    fn bytes<'a>(taken: &'a mut Taken<'_>) -> &'a mut [u8] {
        &mut taken.bytes
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock().unwrap();
        if state.line.is_none() && state.out == 0 && state.whole_out {
            state.whole_out = false;
        } else {
            state.out -= 1;
        }
        self.pool.changed.notify_all();
    }
}

#[test]
fn overtakes_are_counted_from_below_and_from_above() {
    for after in [1, 100] {
        let most = std::sync::Arc::new(Mutex::new(0));
        let told = most.clone();
        let make =
            |_, clock| Told(Barging { after, state: Mutex::default(), changed: Condvar::new(), clock }, told.clone());
        let run = whale::run(make, &Task { tries: 20, ..Task::of_ops(whale::SMALL, u64::MAX) });
        let figure = |key: &str| run.extra[key].as_u64().unwrap();
        let most = *most.lock().unwrap();
        assert_eq!((figure("tries"), figure("served")), (20, 20));
        assert!(most >= after);
        let (stood, since_call) = (figure("max_overtakes"), figure("max_overtakes_since_call"));
        assert!(stood <= most, "{stood} > {most}");
        // A small thread that had looked before, and asked after.
        let missed = whale::SMALL as u64;
        assert!(stood + missed >= most, "{stood} < {most}");
        assert!(since_call >= stood, "{since_call} < {stood}");
    }
}

/// [`Barging`], which tells its count when it goes.
struct Told(Barging, std::sync::Arc<Mutex<u64>>);

impl Pool for Told {
    type Taken<'p> = Taken<'p>;

    fn take(&self, size: usize, wait: Duration) -> Taken<'_> {
        self.0.take(size, wait)
    }

    fn is_there(taken: &Taken<'_>) -> bool {
        Barging::is_there(taken)
    }

    fn bytes<'a>(taken: &'a mut Taken<'_>) -> &'a mut [u8] {
        Barging::bytes(taken)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        *self.1.lock().unwrap() = self.0.state.lock().unwrap().most;
    }
}

#[test]
fn strict_pools_are_not_overtaken() {
    let run = whale::run(lockfree_strict, &Task { tries: 20, ..Task::of_ops(whale::SMALL, u64::MAX) });
    assert_eq!((&run.extra["served"], &run.extra["max_overtakes"]), (&json!(20), &json!(0)));
}

#[test]
fn rings_go_round_and_hold_less_than_the_pool() {
    for threads in [1, 2, 16] {
        let (out, consumers) = rings::<u8>(threads);
        let slots: usize = out.iter().map(|out| out.ring.buffer().capacity()).sum();
        assert!(slots + threads <= TOTAL as usize / BATCH);
        assert_eq!((out.len(), consumers.len()), (threads, threads));
    }
}

#[test]
fn a_full_ring_takes_no_more_until_it_is_half_empty() {
    let pool = BarePool::default();
    let (mut out, mut consumers) = rings(16);
    let slots = out[0].ring.buffer().capacity();
    let pushed = (0..).take_while(|count| push(&pool, &mut out[0], *count)).count();
    assert_eq!(pushed, slots);
    for popped in 1..slots / 2 {
        assert!(pop(&mut consumers[0]));
        assert!(!push(&pool, &mut out[0], 0), "{popped}");
    }
    assert!(pop(&mut consumers[0]) && push(&pool, &mut out[0], 0) && push(&pool, &mut out[0], 0));
}

#[test]
fn stripes_give_what_each_has_and_take_it_back() {
    let pool = StripedPool::new(TOTAL);
    assert_eq!(this_thread(), 0);
    let buffers = TOTAL as usize / BATCH;
    let mut taken: VecDeque<_> = (0..buffers).map(|_| pool.take(BATCH, Duration::ZERO)).collect();
    // Everything is out; what comes back goes to this thread's stripe, whoever it was taken from.
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(pool.take(BATCH, Duration::ZERO))));
    assert!(refused.is_err());
    taken.truncate(buffers - 2);
    // Two buffers' bytes suffice for one of an odd size, which breaks both up, and for one more of what is left.
    drop((pool.take(24_000, Duration::ZERO), pool.take(8_000, Duration::ZERO)));
    taken.clear();
    let all: Vec<_> = (0..buffers).map(|_| pool.take(BATCH, Duration::ZERO)).collect();
    assert_eq!(all.len(), buffers, "none is lost");
}
