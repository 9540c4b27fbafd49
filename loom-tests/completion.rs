//! The completion of a batch: settled once, waiters released, memory freed once, callbacks run once. The shipping types.

use std::sync::Mutex;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use unlatched::batch::{Completer, Completion, RecordFuture, RecordResult, Watch};
use unlatched::error::{SendError, TopicPartition};
use unlatched::primitive::atomic::AtomicU32;
use unlatched::primitive::atomic::Ordering::Relaxed;
use unlatched::primitive::cell::UnsafeCell;
use unlatched::primitive::clock::ManualClock;
use unlatched::primitive::model::let_time_run_out;

use crate::runner::{Bound, Check, model};

pub(crate) fn models() -> Vec<Check> {
    vec![
        wait_against_complete(),
        two_settlers(),
        poll_against_complete(),
        two_waiters(),
        last_reference(),
        timed_wait(),
        close_against_abort(),
        callback_sees_what_the_appender_wrote(),
        unclosed_is_not_settled(),
    ]
}

/// A value that one role takes. A std lock, which the checker does not see: the hand-over before the roles start orders nothing more.
struct Slot<T>(Mutex<Option<T>>);

impl<T> Slot<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(Some(value)))
    }

    fn take(&self) -> T {
        self.0.lock().unwrap().take().expect("one role takes it")
    }
}

fn completer() -> Completer {
    Completer::new(TopicPartition::new("t", 0))
}

fn told(result: RecordResult) -> String {
    match result {
        Ok(place) => format!("offset {}", place.offset),
        Err(SendError::Aborted { reason }) => format!("aborted: {reason}"),
        Err(error) => error.to_string(),
    }
}

fn aborted() -> SendError {
    SendError::Aborted { reason: "by a model" }
}

struct Pair {
    completion: Slot<Completion>,
    one: Slot<RecordFuture>,
    two: Slot<RecordFuture>,
}

fn pair() -> Pair {
    let mut completer = completer();
    let (one, two) = (completer.future(0, 7), completer.future(1, 7));
    Pair { completion: Slot::new(completer.close()), one: Slot::new(one), two: Slot::new(two) }
}

fn wait_against_complete() -> Check {
    model("completion_wait_against_complete", "who waits is released, and reads the result", Bound::Full, pair)
        .role("waiter", |pair: &Pair| told(pair.two.take().wait()))
        .role("sender", |pair| {
            drop(pair.one.take());
            let completion = pair.completion.take();
            format!("{:?}", completion.complete(40, None))
        })
        .expect(|_, results| results.join("; "), &["offset 41; Ok(true)"])
}

fn two_settlers() -> Check {
    struct Settled {
        completion: Slot<Completion>,
        watch: Slot<Watch>,
        future: Slot<RecordFuture>,
        calls: &'static Calls,
    }
    model("completion_two_settlers", "one settles, the callback runs once, all agree", Bound::Full, || {
        let calls = Calls::new();
        let mut completer = completer();
        let watch = completer.watch();
        let future = completer.future(0, 7);
        completer.on_completion(0, 7, Box::new(move |result| calls.call(result.is_ok())));
        Settled { completion: Slot::new(completer.close()), watch: Slot::new(watch), future: Slot::new(future), calls }
    })
    .role("sender", |shared: &Settled| format!("{:?}", shared.completion.take().complete(40, None)))
    .role("abort", |shared| format!("{}", shared.watch.take().abort(aborted())))
    .expect(
        |shared, results| {
            let future = told(shared.future.take().wait());
            format!("sender {}, abort {}: {future}; {}", results[0], results[1], shared.calls.told())
        },
        &[
            "sender Ok(false), abort true: aborted: by a model; 1 call, lost",
            "sender Ok(true), abort false: offset 40; 1 call, written",
        ],
    )
}

/// Counts calls, each in a cell: two at once would be a race.
struct Calls {
    count: UnsafeCell<u32>,
    written: UnsafeCell<bool>,
}

// SAFETY: that calls do not overlap is what the checker checks.
unsafe impl Sync for Calls {}

impl Calls {
    fn new() -> &'static Self {
        Box::leak(Box::new(Self { count: UnsafeCell::new(0), written: UnsafeCell::new(false) }))
    }

    fn call(&self, written: bool) {
        // SAFETY: see above.
        self.count.with_mut(|count| unsafe { *count += 1 });
        // SAFETY: see above.
        self.written.with_mut(|cell| unsafe { *cell = written });
    }

    fn told(&self) -> String {
        // SAFETY: all roles have ended.
        let (count, written) = (self.count.with(|count| unsafe { *count }), self.written.with(|cell| unsafe { *cell }));
        format!("{count} call, {}", if written { "written" } else { "lost" })
    }
}

/// A waker that counts. `std`'s own `Arc` and atomics, unseen by the checker.
#[derive(Default)]
struct Rung(Mutex<u32>);

impl Wake for Rung {
    fn wake(self: std::sync::Arc<Self>) {
        *self.0.lock().unwrap() += 1;
    }
}

fn poll_against_complete() -> Check {
    struct Polled {
        completion: Slot<Completion>,
        future: Slot<RecordFuture>,
        rung: std::sync::Arc<Rung>,
        pending: AtomicU32,
    }
    model("completion_poll_against_complete", "a future that was pending is woken once", Bound::Full, || {
        let mut completer = completer();
        let future = completer.future(0, 7);
        Polled {
            completion: Slot::new(completer.close()),
            future: Slot::new(future),
            rung: std::sync::Arc::default(),
            pending: AtomicU32::new(0),
        }
    })
    .role("task", |shared: &Polled| {
        let waker = Waker::from(shared.rung.clone());
        let mut future = pin!(shared.future.take());
        for _ in 0..2 {
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                shared.pending.fetch_add(1, Relaxed);
            }
        }
    })
    .role("sender", |shared| {
        shared.completion.take().complete(40, None).expect("settled once");
    })
    .expect(
        |shared, _| format!("pending {}, woken {}", shared.pending.load(Relaxed), *shared.rung.0.lock().unwrap()),
        // Woken once however often it was polled with the same waker.
        &["pending 0, woken 0", "pending 1, woken 1", "pending 2, woken 1"],
    )
}

fn two_waiters() -> Check {
    model("completion_two_waiters", "every waiter of a batch is released", Bound::Preemptions(2), pair)
        .role("one", |pair: &Pair| told(pair.one.take().wait()))
        .role("two", |pair| told(pair.two.take().wait()))
        .role("sender", |pair| format!("{:?}", pair.completion.take().complete(40, None)))
        .expect(|_, results| results.join("; "), &["offset 40; offset 41; Ok(true)"])
}

fn last_reference() -> Check {
    model(
        "completion_last_reference",
        "futures, watch and completion let go in any order, the memory goes once, the callback is not forgotten",
        Bound::Preemptions(3),
        || {
            let calls = Calls::new();
            let mut completer = completer();
            let watch = completer.watch();
            let future = completer.future(0, 7);
            completer.on_completion(0, 7, Box::new(move |result| calls.call(result.is_ok())));
            (Slot::new(completer.close()), Slot::new(watch), Slot::new(future), calls)
        },
    )
    .role("sender", |shared: &(Slot<Completion>, Slot<Watch>, Slot<RecordFuture>, &'static Calls)| {
        drop(shared.0.take());
        String::new()
    })
    .role("books", |shared| format!("done {}", shared.1.take().is_done()))
    .role("user", |shared| told(shared.2.take().try_result().unwrap_or(Err(SendError::WaitInCallback))))
    .expect(
        |shared, results| {
            let read = if results[2].starts_with("aborted") { "read" } else { "not yet" };
            format!("{}, {read}, {}", results[1], shared.3.told())
        },
        &[
            "done false, not yet, 1 call, lost",
            "done false, read, 1 call, lost",
            "done true, not yet, 1 call, lost",
            "done true, read, 1 call, lost",
        ],
    )
}

fn timed_wait() -> Check {
    model(
        "completion_timed_wait",
        "a wait that timed out lost nothing: the next one gets the result",
        Bound::Preemptions(3),
        pair,
    )
    .role("waiter", |pair: &Pair| {
        let clock = ManualClock::default();
        let mut future = pair.one.take();
        match future.wait_timeout(Duration::from_millis(1), &clock) {
            Some(result) => told(result),
            None => format!("timed out, then {}", told(future.wait())),
        }
    })
    .role("sender", |pair| {
        pair.completion.take().complete(40, None).expect("settled once");
        String::new()
    })
    .role("time", |_| {
        let_time_run_out();
        String::new()
    })
    .expect(|_, results| results[0].clone(), &["offset 40", "timed out, then offset 40"])
}

fn close_against_abort() -> Check {
    struct Open {
        completer: Slot<Completer>,
        watch: Slot<Watch>,
        calls: &'static Calls,
    }
    model(
        "completion_close_against_abort",
        "an open batch is not settled; a closed one sees its callbacks",
        Bound::Full,
        || {
            let mut completer = completer();
            let watch = completer.watch();
            Open { completer: Slot::new(completer), watch: Slot::new(watch), calls: Calls::new() }
        },
    )
    .role("appender", |open: &Open| {
        let mut completer = open.completer.take();
        let calls = open.calls;
        completer.on_completion(0, 7, Box::new(move |result| calls.call(result.is_ok())));
        format!("{:?}", completer.close().complete(40, None))
    })
    .role("abort", |open| format!("{}", open.watch.take().abort(aborted())))
    .expect(
        |open, results| format!("{}, abort {}, {}", results[0], results[1], open.calls.told()),
        &["Ok(false), abort true, 1 call, lost", "Ok(true), abort false, 1 call, written"],
    )
}

fn callback_sees_what_the_appender_wrote() -> Check {
    struct Handed {
        completer: Slot<Completer>,
        watch: Slot<Watch>,
        data: &'static Calls,
    }
    model(
        "completion_callback_sees_the_append",
        "what was written before the batch was closed is seen by the callback, whoever runs it",
        Bound::Full,
        || {
            let mut completer = completer();
            let watch = completer.watch();
            let data = Calls::new();
            Handed { completer: Slot::new(completer), watch: Slot::new(watch), data }
        },
    )
    .role("appender", |shared: &Handed| {
        let mut completer = shared.completer.take();
        let data = shared.data;
        data.call(true);
        completer.on_completion(0, 7, Box::new(move |_| data.call(false)));
        drop(completer);
    })
    .role("abort", |shared| {
        shared.watch.take().abort(aborted());
    })
    .expect(|shared, _| shared.data.told(), &["2 call, lost"])
}

fn unclosed_is_not_settled() -> Check {
    model("completion_dropped_open_is_aborted", "a batch dropped while open releases its waiters", Bound::Full, || {
        let mut completer = completer();
        let future = completer.future(0, 7);
        (Slot::new(completer), Slot::new(future))
    })
    .role("appender", |shared: &(Slot<Completer>, Slot<RecordFuture>)| {
        drop(shared.0.take());
        String::new()
    })
    .role("waiter", |shared| told(shared.1.take().wait()))
    .expect(|_, results| results[1].clone(), &["aborted: its batch was dropped before the broker answered"])
}
