//! Threads under load: the closed loop, and the pass on a schedule.

use std::cell::Cell;
use std::sync::Barrier;
use std::time::Duration;

use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};

use super::{Run, Task};
use crate::primitive::atomic::AtomicBool;
use crate::primitive::atomic::Ordering::Relaxed;
use crate::primitive::clock::{Clock, Instant, SystemClock};
use crate::primitive::{hint, thread, thread_local};

thread_local! {
    static THREAD: Cell<usize> = const { Cell::new(0) };
}

/// The number of this thread among those that a run has started; 0 for others.
#[inline]
pub(super) fn this_thread() -> usize {
    THREAD.get()
}

/// What came of an operation.
pub(super) enum Done {
    /// Nothing: others have to do something first. It is not counted, and the thread yields.
    NotYet,
    /// A part of it, while the rest has to wait for others. It is not counted, and the thread goes on.
    Part,
    /// It is done.
    Now,
    /// It is done, and what is timed of it ended then.
    At(Instant),
}

/// The load of a run: what each thread owns, and what it does over and over.
pub(super) struct Load<'a, S, F> {
    pub(super) clock: &'a SystemClock,
    /// One for each thread; moved to its stack, so that threads share no line by accident.
    pub(super) states: Vec<S>,
    /// Gets the state and the thread's own count of operations.
    pub(super) op: F,
    /// Each how manieth operation is timed in the closed loop.
    pub(super) timed_each: u64,
    /// Operations a second, of all threads together, of the pass on a schedule.
    pub(super) rate: u64,
}

impl<S: Send, F: Fn(&mut S, u64) -> Done + Sync> Load<'_, S, F> {
    /// Both passes. The states come back as the last operation has left them.
    pub(super) fn run(self, task: &Task) -> (Run, Vec<S>) {
        let halt = AtomicBool::new(false);
        let Self { clock, states, op, timed_each, rate } = self;
        let (mut run, states) = closed(clock, states, &op, timed_each, task, &halt);
        let Some(time) = task.open else { return (run, states) };
        let (open, states) = on_schedule(clock, states, &op, rate, time);
        run.open = Some(open);
        (run, states)
    }

    /// The closed loop alone, until `halt` at the latest.
    pub(super) fn closed_until(self, task: &Task, halt: &AtomicBool) -> (Run, Vec<S>) {
        closed(self.clock, self.states, &self.op, self.timed_each, task, halt)
    }
}

/// Runs `body` on a thread for each state; all start together. What each brings, and the CPU time of all.
fn on_threads<S: Send, R: Send>(
    states: Vec<S>,
    body: impl Fn(usize, &mut S) -> R + Sync,
) -> (Vec<R>, Vec<S>, Duration) {
    let barrier = Barrier::new(states.len() + 1);
    std::thread::scope(|scope| {
        let (barrier, body) = (&barrier, &body);
        let start = |(thread, mut state)| {
            scope.spawn(move || {
                THREAD.set(thread);
                barrier.wait();
                (body(thread, &mut state), state)
            })
        };
        let started: Vec<_> = states.into_iter().enumerate().map(start).collect();
        let before = cpu_time();
        barrier.wait();
        let ended: Vec<_> = started.into_iter().map(|thread| thread.join().expect("a bench thread panicked")).collect();
        let cpu = cpu_time().saturating_sub(before);
        let (brought, states) = ended.into_iter().unzip();
        (brought, states, cpu)
    })
}

fn closed<S: Send>(
    clock: &SystemClock,
    states: Vec<S>,
    op: &(impl Fn(&mut S, u64) -> Done + Sync),
    timed_each: u64,
    task: &Task,
    halt: &AtomicBool,
) -> (Run, Vec<S>) {
    let start = clock.now();
    let deadline = start.saturating_add(task.time);
    let (measured, states, cpu) = on_threads(states, |_, state| {
        let mut latency = histogram();
        let begin = clock.now();
        let (mut count, mut untimed) = (0, 0);
        loop {
            // Relaxed, here and below: a flag that is polled.
            if untimed > 0 {
                match op(state, count) {
                    Done::Part => (),
                    Done::NotYet if halt.load(Relaxed) || clock.now() >= deadline => break,
                    Done::NotYet => thread::yield_now(),
                    Done::Now | Done::At(_) => (count, untimed) = (count + 1, untimed - 1),
                }
                continue;
            }
            let before = clock.now();
            if halt.load(Relaxed) || before >= deadline || count >= task.ops {
                break;
            }
            let end = match op(state, count) {
                Done::Part => continue,
                Done::NotYet => {
                    thread::yield_now();
                    continue;
                }
                Done::Now => clock.now(),
                Done::At(end) => end,
            };
            latency += nanos(end.saturating_since(before));
            (count, untimed) = (count + 1, timed_each - 1);
        }
        halt.store(true, Relaxed);
        (begin, clock.now(), count, latency)
    });
    let begin = measured.iter().map(|one| one.0).min().unwrap_or_default();
    let end = measured.iter().map(|one| one.1).max().unwrap_or_default();
    let mut latency = histogram();
    for (.., one) in &measured {
        latency += one;
    }
    let (elapsed, ops) = (end.saturating_since(begin), measured.iter().map(|one| one.2).sum());
    (Run { elapsed, ops, cpu, latency, open: None, extra: serde_json::Map::new() }, states)
}

/// Each thread does an operation each so and so many nanoseconds, and counts from the instant at which it should have begun. One that falls behind by as much as the pass is long gives up; what it
/// has not begun counts as being as late as it was then.
fn on_schedule<S: Send>(
    clock: &SystemClock,
    states: Vec<S>,
    op: &(impl Fn(&mut S, u64) -> Done + Sync),
    rate: u64,
    time: Duration,
) -> (Histogram<u64>, Vec<S>) {
    let threads = states.len();
    // A spin would keep others from the processor that they need.
    let crowded = threads >= std::thread::available_parallelism().map_or(1, usize::from);
    let interval = 1_000_000_000 * threads as u64 / rate;
    let start = clock.now().saturating_add(Duration::from_millis(1));
    let deadline = start.saturating_add(time);
    let patience = deadline.saturating_add(time);
    let (measured, states, _) = on_threads(states, |thread, state| {
        let mut latency = histogram();
        let first = start.as_nanos() + interval * thread as u64 / threads as u64;
        'schedule: for count in 0.. {
            let intended = Instant::from_nanos(first + count * interval);
            if intended >= deadline {
                break;
            }
            while clock.now() < intended {
                if crowded { thread::yield_now() } else { hint::spin_loop() }
            }
            let end = loop {
                match op(state, count) {
                    Done::Now => break clock.now(),
                    Done::At(end) => break end,
                    Done::Part => (),
                    Done::NotYet if clock.now() >= patience => break 'schedule,
                    Done::NotYet => thread::yield_now(),
                }
            };
            latency += nanos(end.saturating_since(intended));
            if end >= patience {
                let missed = (intended.as_nanos()..deadline.as_nanos()).step_by(interval as usize).skip(1);
                missed.for_each(|intended| latency += end.as_nanos() - intended);
                break;
            }
        }
        latency
    });
    let mut latency = histogram();
    for one in &measured {
        latency += one;
    }
    (latency, states)
}

/// Three digits, up to whatever comes: it resizes itself.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are a precision that a histogram takes")
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// CPU time of this process.
pub(super) fn cpu_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = |time: nix::sys::time::TimeVal| (time.tv_sec() * 1_000_000 + time.tv_usec()).cast_unsigned();
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// Runs `work` while one more thread calls `help` over and over; `help` says whether it found something to do, and where it did not the thread calls `nap`. Once more after the work's end, until there is
/// nothing left.
pub(super) fn with_helper<R>(work: impl FnOnce() -> R, mut help: impl FnMut() -> bool + Send, nap: fn()) -> R {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            loop {
                // Before the look, so that what was there when the work ended is found. Relaxed: what was done meanwhile is found by its own means.
                let over = done.load(Relaxed);
                if !help() {
                    if over {
                        return;
                    }
                    nap();
                }
            }
        });
        let result = work();
        done.store(true, Relaxed);
        result
    })
}
