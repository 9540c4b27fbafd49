//! Threads under load: the closed loop, and the pass on a schedule.

use std::cell::Cell;
use std::sync::{Barrier, OnceLock};
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
    /// Threads that run beside those with states.
    pub(super) helpers: usize,
    /// Each how manieth operation is timed in the closed loop.
    pub(super) timed_each: u64,
    /// Operations a second, of all threads together, of the pass on a schedule.
    pub(super) rate: u64,
}

impl<S: Send, F: Fn(&mut S, u64) -> Done + Sync> Load<'_, S, F> {
    /// Both passes. The states come back as the last operation has left them.
    pub(super) fn run(self, task: &Task) -> (Run, Vec<S>) {
        let halt = AtomicBool::new(false);
        let Self { clock, states, op, helpers, timed_each, rate } = self;
        let (mut run, states) = closed(clock, states, &op, timed_each, task, &halt);
        let Some(time) = task.open else { return (run, states) };
        let (open, states) = on_schedule(clock, states, &op, helpers, rate, time);
        run.open = Some(open);
        (run, states)
    }

    /// The closed loop alone, until `halt` at the latest.
    pub(super) fn closed_until(self, task: &Task, halt: &AtomicBool) -> (Run, Vec<S>) {
        closed(self.clock, self.states, &self.op, self.timed_each, task, halt)
    }
}

/// Runs `body` on a thread for each state; all start together, at the instant that each is told. What each brings, and the CPU time of all.
fn on_threads<S: Send, R: Send>(
    clock: &SystemClock,
    states: Vec<S>,
    body: impl Fn(usize, &mut S, Instant) -> R + Sync,
) -> (Vec<R>, Vec<S>, Duration) {
    let (barrier, start) = (Barrier::new(states.len() + 1), OnceLock::new());
    std::thread::scope(|scope| {
        let (barrier, start, body) = (&barrier, &start, &body);
        let spawn = |(thread, mut state)| {
            scope.spawn(move || {
                THREAD.set(thread);
                barrier.wait();
                (body(thread, &mut state, *start.wait()), state)
            })
        };
        let started: Vec<_> = states.into_iter().enumerate().map(spawn).collect();
        let before = cpu_time();
        start.get_or_init(|| clock.now());
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
    let (measured, states, cpu) = on_threads(clock, states, |_, state, start| {
        let deadline = start.saturating_add(task.time);
        let mut latency = histogram();
        let begin = clock.now();
        let (mut count, mut untimed, mut yields) = (0, 0, 0_u64);
        loop {
            let before = (untimed == 0).then(|| clock.now());
            // Relaxed, here and below: a flag that is polled. A thread that comes too late does one operation all the same.
            if let Some(before) = before
                && count > 0
                && (halt.load(Relaxed) || before >= deadline || count >= task.ops)
            {
                break;
            }
            let end = match op(state, count) {
                Done::Part => continue,
                // Relaxed: it only ends a loop, and the threads are joined.
                Done::NotYet if halt.load(Relaxed) || clock.now() >= deadline => break,
                Done::NotYet => {
                    yields += 1;
                    thread::yield_now();
                    continue;
                }
                Done::Now => None,
                Done::At(end) => Some(end),
            };
            count += 1;
            match before {
                Some(before) => {
                    latency += nanos(end.unwrap_or_else(|| clock.now()).saturating_since(before));
                    untimed = timed_each - 1;
                }
                None => untimed -= 1,
            }
        }
        // Relaxed: as its load.
        halt.store(true, Relaxed);
        (begin, clock.now(), count, yields, latency)
    });
    let begin = measured.iter().map(|one| one.0).min().unwrap_or_default();
    let end = measured.iter().map(|one| one.1).max().unwrap_or_default();
    let mut latency = histogram();
    for (.., one) in &measured {
        latency += one;
    }
    let (elapsed, ops) = (end.saturating_since(begin), measured.iter().map(|one| one.2).sum());
    let mut extra = serde_json::Map::new();
    let yields: u64 = measured.iter().map(|one| one.3).sum();
    if yields > 0 {
        extra.insert("yields_per_op".to_owned(), (yields as f64 / ops as f64).into());
    }
    (Run { elapsed, ops, cpu, latency, open: None, extra }, states)
}

/// Each thread does an operation each so and so many nanoseconds, and counts from the instant at which it should have begun. One that falls behind by as much as the pass is long gives up; what it
/// has not begun counts as being as late as it was then.
fn on_schedule<S: Send>(
    clock: &SystemClock,
    states: Vec<S>,
    op: &(impl Fn(&mut S, u64) -> Done + Sync),
    helpers: usize,
    rate: u64,
    time: Duration,
) -> (Histogram<u64>, Vec<S>) {
    let threads = states.len();
    // A spin would keep others from the processor that they need.
    let crowded = threads + helpers > std::thread::available_parallelism().map_or(1, usize::from);
    let interval = 1_000_000_000 * threads as u64 / rate;
    let (measured, states, _) = on_threads(clock, states, |thread, state, start| {
        let deadline = start.saturating_add(time);
        let patience = deadline.saturating_add(time);
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
        // Relaxed: it only ends the helper, which is joined.
        done.store(true, Relaxed);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(threads: usize, ops: u64) -> Task {
        Task { open: Some(Duration::from_millis(20)), ..Task::of_ops(threads, ops) }
    }

    #[test]
    fn operations_are_counted_timed_each_kth_and_the_rest_is_not() {
        let load = Load {
            clock: &SystemClock::new(),
            // Calls, and operations that were done.
            states: vec![(0_u64, 0_u64)],
            op: |(calls, done): &mut (u64, u64), count| {
                assert_eq!(count, *done, "the thread's own count");
                *calls += 1;
                match *calls % 3 {
                    0 => Done::NotYet,
                    1 => Done::Part,
                    _ => {
                        *done += 1;
                        Done::Now
                    }
                }
            },
            helpers: 0,
            timed_each: 4,
            rate: 1,
        };
        let (run, states) = load.run(&Task::of_ops(1, 1_000));
        assert_eq!(run.ops, 1_000);
        assert_eq!(states[0].1, 1_000, "none was done that is not counted");
        assert_eq!(run.latency.len(), 250);
        assert_eq!(run.extra["yields_per_op"], 1.0 - 1.0 / 1_000.0);
        assert!(run.open.is_none());
    }

    #[test]
    fn what_an_operation_says_of_its_end_is_what_is_timed() {
        let clock = SystemClock::new();
        let load = Load {
            clock: &clock,
            states: vec![()],
            op: |_: &mut (), _| {
                let end = clock.now();
                thread::sleep(Duration::from_millis(2));
                Done::At(end)
            },
            helpers: 0,
            timed_each: 1,
            rate: 1,
        };
        let (run, _) = load.run(&Task::of_ops(1, 5));
        assert!(run.elapsed >= Duration::from_millis(10));
        assert!(run.latency.min() < 2_000_000, "{}", run.latency.min());
    }

    #[test]
    fn on_a_schedule_waiting_counts_from_the_intended_start_and_what_was_missed_counts() {
        let load = Load {
            clock: &SystemClock::new(),
            states: vec![0],
            op: |calls: &mut u64, _| {
                *calls += 1;
                // Each takes ten times its place in the schedule.
                thread::sleep(Duration::from_millis(10));
                Done::Now
            },
            helpers: 0,
            timed_each: 1,
            rate: 1_000,
        };
        let (run, states) = load.run(&task(1, 1));
        let open = run.open.expect("it was asked for");
        assert_eq!(open.len(), 20, "one each millisecond of twenty, done or missed");
        assert!(states[0] < 10, "it has given up: {}", states[0]);
        // The last that was begun ends 40 ms after the schedule's begin at the earliest: what is still missed then was to begin 20 ms before, or later.
        assert!(open.max() >= 20_000_000, "{}", open.max());
        assert!(open.value_at_quantile(0.5) >= 15_000_000, "lateness adds up: {}", open.value_at_quantile(0.5));
        assert!(open.min() >= 9_000_000, "the first took ten: {}", open.min());
        assert!(
            open.value_at_quantile(0.1) >= 15_000_000,
            "the second was late before it began: {}",
            open.value_at_quantile(0.1)
        );
    }

    #[test]
    fn threads_know_their_numbers_and_their_states_come_back() {
        let load = Load {
            clock: &SystemClock::new(),
            states: vec![0, 10, 20],
            op: |state: &mut usize, _| {
                *state = *state / 10 * 10 + this_thread();
                Done::Now
            },
            helpers: 0,
            timed_each: 1,
            rate: 1_000,
        };
        let (_, states) = load.run(&task(3, 50));
        assert_eq!(states, [0, 11, 22]);
    }

    #[test]
    fn a_helper_helps_until_there_is_nothing_left() {
        let mut left = 1_000;
        let helped = with_helper(
            || 7,
            || {
                left -= i32::from(left > 0);
                left > 0
            },
            thread::yield_now,
        );
        assert_eq!((helped, left), (7, 0));
    }
}
