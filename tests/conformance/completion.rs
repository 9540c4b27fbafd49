//! How records end: once, with their own result, callbacks first. BATCH-11 to BATCH-18, GAP-20 and GAP-21 as far as they concern a batch.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use unlatched::batch::{
    Completion, FinalState, OpenBatch, RecordFuture, RecordMetadata, Reply, SealedBatch, in_callback,
};
use unlatched::broker::ErrorCode;
use unlatched::error::{FlushError, SendError};
use unlatched::primitive::atomic::AtomicUsize;
use unlatched::primitive::atomic::Ordering::SeqCst;
use unlatched::primitive::clock::SystemClock;
use unlatched::primitive::parker::{Parker, ThreadParker};
use unlatched::record::Record;

use crate::batch::{millis, open, tp, value};
use crate::support::{Core, Gate, LONG, SOON, Stopwatch, Worker, lock, on_every_core};

on_every_core![
    batch_11_the_first_end_is_the_only_one,
    batch_11_racing_ends_have_one_winner,
    batch_12_ending_a_succeeded_batch_or_aborting_a_finished_one_is_illegal,
    batch_13_result_then_callbacks_in_order_then_waiters,
    batch_13_inside_a_callback_the_future_is_readable_and_not_done,
    batch_14_a_panicking_callback_harms_nobody_else,
    batch_15_callbacks_get_metadata_or_an_error,
    batch_16_offset_and_timestamp_of_each_record,
    batch_16_offsets_at_the_end_of_their_range,
    batch_17_each_record_its_own_error,
    batch_17_an_error_that_panics_leaves_the_batchs_own,
    batch_18_a_dropped_future_cancels_nothing,
    batch_18_timed_waits,
    batch_18_a_blocked_wait_ends_with_the_result,
    batch_18_the_future_wakes_its_task,
    batch_18_a_future_polled_by_another_task_wakes_that_one,
    batch_18_many_waiters_of_all_kinds,
    batch_18_waiting_again_registers_nothing_again,
    batch_18_a_future_that_is_done_keeps_no_task,
    gap_20_waiting_inside_a_callback_is_refused_at_once,
    gap_20_waiting_inside_a_waker_is_refused_likewise,
    gap_21_a_panic_in_a_waker_or_a_payload_is_contained,
];

type Heard = Arc<Mutex<Vec<String>>>;

/// A sealed batch of `count` records with a future each; their timestamps are 100, 101, ...
pub(crate) fn with_futures<C: Core>(count: u32) -> (SealedBatch, Vec<RecordFuture>) {
    let mut batch = open::<C>(4096);
    let futures = (0..count)
        .map(|number| {
            let record = Record { timestamp: 100 + i64::from(number), ..value(b"x") };
            batch.try_append(&record, Reply::FUTURE).unwrap().future.unwrap()
        })
        .collect();
    (batch.seal(), futures)
}

fn refused(code: ErrorCode) -> SendError {
    SendError::Broker { topic_partition: tp(0), code, message: None }
}

const GIVEN_UP: SendError = SendError::Aborted { reason: "on purpose" };

fn batch_11_the_first_end_is_the_only_one<C: Core>() {
    type End = fn(&Completion) -> bool;
    let ends: [(FinalState, End); 3] = [
        (FinalState::Succeeded, |completion| completion.complete(5, None).unwrap()),
        (FinalState::Failed, |completion| completion.fail(refused(ErrorCode::InvalidRecord), None).unwrap()),
        (FinalState::Aborted, |completion| completion.abort(GIVEN_UP).is_ok()),
    ];
    for (state, end) in ends {
        let (told, calls) = mpsc::channel();
        let mut batch = open::<C>(100);
        let reply = Reply { future: true, ..Reply::callback(move |result| told.send(result).unwrap()) };
        let future = batch.try_append(&value(b"x"), reply).unwrap().future.unwrap();
        let batch = batch.seal();
        let completion = batch.completion();
        assert_eq!(completion.final_state(), None);
        assert!(end(completion));
        assert_eq!(completion.final_state(), Some(state));
        let result = future.try_result().unwrap();
        assert_eq!(result.is_ok(), state == FinalState::Succeeded);
        if state != FinalState::Succeeded {
            // A late answer, of either kind, is told that it is late, and changes nothing.
            assert_eq!(completion.complete(99, None), Ok(false));
            assert_eq!(completion.fail(refused(ErrorCode::MessageTooLarge), None), Ok(false));
        }
        let watch = completion.watch();
        assert!(!watch.abort(GIVEN_UP) && !watch.fail(GIVEN_UP) && watch.is_done());
        assert_eq!((completion.final_state(), future.try_result()), (Some(state), Some(result.clone())));
        drop(batch);
        assert_eq!(calls.try_iter().collect::<Vec<_>>(), [result], "called once");
    }
}

fn batch_11_racing_ends_have_one_winner<C: Core>() {
    for round in 0..200 {
        let called = Arc::new(AtomicUsize::new(0));
        let mut batch = open::<C>(100);
        let counter = called.clone();
        let reply = Reply {
            future: true,
            ..Reply::callback(move |_| {
                counter.fetch_add(1, SeqCst);
            })
        };
        let future = batch.try_append(&value(b"x"), reply).unwrap().future.unwrap();
        let batch = Arc::new(batch.seal());
        let start = Arc::new(Barrier::new(4));
        let racers: Vec<_> = (0..4)
            .map(|racer| {
                let (batch, start) = (batch.clone(), start.clone());
                Worker::start(move || {
                    start.wait();
                    match racer {
                        0 => batch.completion().complete(round, None) == Ok(true),
                        1 => batch.completion().fail(refused(ErrorCode::CorruptMessage), None) == Ok(true),
                        2 => batch.completion().abort(GIVEN_UP).is_ok(),
                        _ => batch.completion().watch().abort(GIVEN_UP),
                    }
                })
            })
            .collect();
        let won: Vec<bool> = racers.into_iter().map(Worker::result).collect();
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
        assert_eq!(called.load(SeqCst), 1);
        let state = batch.completion().final_state();
        match future.wait() {
            Ok(metadata) => assert!(won[0] && metadata.offset == round && state == Some(FinalState::Succeeded)),
            Err(SendError::Broker { .. }) => assert!(won[1] && state == Some(FinalState::Failed)),
            Err(_) => assert!((won[2] || won[3]) && state == Some(FinalState::Aborted)),
        }
    }
}

fn batch_12_ending_a_succeeded_batch_or_aborting_a_finished_one_is_illegal<C: Core>() {
    let (batch, futures) = with_futures::<C>(1);
    let completion = batch.completion();
    assert_eq!(completion.complete(5, None), Ok(true));
    assert!(completion.complete(5, None).is_err());
    assert!(completion.fail(refused(ErrorCode::InvalidRecord), None).is_err());
    assert!(completion.abort(GIVEN_UP).is_err());
    assert_eq!(futures[0].try_result().unwrap().unwrap().offset, 5);

    let (batch, _failed) = with_futures::<C>(1);
    assert_eq!(batch.completion().fail(refused(ErrorCode::InvalidRecord), None), Ok(true));
    assert!(batch.completion().abort(GIVEN_UP).is_err());

    let (batch, _aborted) = with_futures::<C>(1);
    assert_eq!(batch.completion().abort(GIVEN_UP), Ok(()));
    assert!(batch.completion().abort(GIVEN_UP).is_err());
}

fn batch_13_result_then_callbacks_in_order_then_waiters<C: Core>() {
    let heard = Heard::default();
    let gate = Gate::default();
    let mut batch = open::<C>(4096);
    let mut futures = Vec::new();
    for number in 0..5i64 {
        let (heard, gate) = (heard.clone(), gate.clone());
        let reply = Reply {
            future: true,
            ..Reply::callback(move |result| {
                assert_eq!(result.unwrap().offset, 40 + number);
                if number == 3 {
                    gate.pass();
                }
                lock(&heard).push(format!("callback {number}"));
            })
        };
        futures.push(batch.try_append(&value(b"x"), reply).unwrap().future.unwrap());
    }
    let batch = batch.seal();
    let first = futures.remove(0);
    let waiter = Worker::start({
        let heard = heard.clone();
        move || {
            let result = first.wait();
            lock(&heard).push("waiter".into());
            result
        }
    });
    let settler = Worker::start(move || batch.completion().complete(40, None));
    gate.await_reached();
    // Three callbacks have run, and one is running: the results can be read, and nobody is released.
    assert_eq!(*lock(&heard), ["callback 0", "callback 1", "callback 2"]);
    for (future, offset) in futures.iter().zip(41..) {
        assert_eq!(future.try_result().unwrap().unwrap().offset, offset);
        assert!(!future.is_done());
    }
    waiter.assert_stays_blocked("a callback is still running");
    gate.open();
    assert_eq!(waiter.result().unwrap().offset, 40);
    assert_eq!(settler.result(), Ok(true));
    assert!(futures.iter().all(RecordFuture::is_done));
    assert_eq!(lock(&heard)[3..], ["callback 3", "callback 4", "waiter"]);
}

fn batch_13_inside_a_callback_the_future_is_readable_and_not_done<C: Core>() {
    let ends: [fn(&Completion); 3] = [
        |completion| assert_eq!(completion.complete(7, Some(1234)), Ok(true)),
        |completion| assert_eq!(completion.fail(refused(ErrorCode::InvalidRecord), None), Ok(true)),
        |completion| assert_eq!(completion.abort(GIVEN_UP), Ok(())),
    ];
    for end in ends {
        let futures = Arc::new(Mutex::new(Vec::<RecordFuture>::new()));
        let (told, results) = mpsc::channel();
        let mut batch = open::<C>(4096);
        for number in 0..3 {
            let (seen, told) = (futures.clone(), told.clone());
            let reply = Reply {
                future: true,
                ..Reply::callback(move |result| {
                    assert!(in_callback());
                    let futures = lock(&seen);
                    assert_eq!(futures[number].try_result(), Some(result.clone()), "its own");
                    for future in futures.iter() {
                        assert!(future.try_result().is_some() && !future.is_done(), "and those of its batch");
                    }
                    told.send((number, result)).unwrap();
                })
            };
            let future = batch.try_append(&value(b"x"), reply).unwrap().future.unwrap();
            lock(&futures).push(future);
        }
        let batch = batch.seal();
        assert!(lock(&futures).iter().all(|future| future.try_result().is_none()));
        end(batch.completion());
        assert!(!in_callback());
        assert!(lock(&futures).iter().all(RecordFuture::is_done));
        // A callback whose assertion failed has panicked, which harms nobody: so count those that came through.
        assert_eq!(results.try_iter().map(|(number, _)| number).collect::<Vec<_>>(), [0, 1, 2]);
    }
}

fn batch_14_a_panicking_callback_harms_nobody_else<C: Core>() {
    let heard = Heard::default();
    let mut batch = open::<C>(4096);
    let mut futures = Vec::new();
    for number in 0..5 {
        let heard = heard.clone();
        let reply = Reply {
            future: true,
            ..Reply::callback(move |_| {
                lock(&heard).push(format!("callback {number}"));
                assert!(number % 2 == 1, "on purpose: callback {number} panics");
            })
        };
        futures.push(batch.try_append(&value(b"x"), reply).unwrap().future.unwrap());
    }
    let batch = batch.seal();
    assert_eq!(batch.completion().complete(0, None), Ok(true), "the settler hears nothing of it");
    assert!(!in_callback(), "the mark of a running callback is taken away by the panic too");
    let expected: Vec<_> = (0..5).map(|number| format!("callback {number}")).collect();
    assert_eq!(*lock(&heard), expected, "each ran once, in order");
    for (future, offset) in futures.into_iter().zip(0..) {
        assert_eq!(future.wait().unwrap().offset, offset);
    }
}

fn batch_15_callbacks_get_metadata_or_an_error<C: Core>() {
    let call = |end: fn(&Completion) -> bool| {
        let (told, results) = mpsc::channel();
        let mut batch = open::<C>(100);
        let record = Record { timestamp: 55, ..value(b"x") };
        batch.try_append(&record, Reply::callback(move |result| told.send(result).unwrap())).unwrap();
        assert!(end(batch.seal().completion()));
        results.try_iter().collect::<Vec<_>>()
    };
    let written = RecordMetadata { topic_partition: tp(0), offset: 9, timestamp: 55 };
    assert_eq!(call(|completion| completion.complete(9, None) == Ok(true)), [Ok(written)]);
    let error = refused(ErrorCode::TopicAuthorizationFailed);
    assert_eq!(
        call(|completion| completion.fail(refused(ErrorCode::TopicAuthorizationFailed), None) == Ok(true)),
        [Err(error)]
    );
    assert_eq!(call(|completion| completion.abort(GIVEN_UP).is_ok()), [Err(GIVEN_UP)]);
}

fn batch_16_offset_and_timestamp_of_each_record<C: Core>() {
    // (base offset, log-append time) and what record 2, created at 102, makes of it.
    let cases = [
        (1_000, None, 1_002, 102),
        (1_000, Some(77), 1_002, 77),
        (0, Some(0), 2, 0),
        (-1, None, -1, 102),
        (-1, Some(77), -1, 77),
        ((1 << 40) - 1, None, (1 << 40) + 1, 102),
    ];
    for (base, log_append_time, offset, timestamp) in cases {
        let (batch, mut futures) = with_futures::<C>(4);
        assert_eq!(batch.completion().complete(base, log_append_time), Ok(true));
        let metadata = futures.remove(2).wait().unwrap();
        assert_eq!(metadata, RecordMetadata { topic_partition: tp(0), offset, timestamp });
        let first = futures.remove(0).wait().unwrap();
        assert_eq!((first.offset, first.timestamp), (base, log_append_time.unwrap_or(100)));
    }
}

fn batch_17_each_record_its_own_error<C: Core>() {
    let (batch, futures) = with_futures::<C>(4);
    let whole = refused(ErrorCode::InvalidRecord);
    let of_record = {
        let whole = whole.clone();
        Box::new(move |index: u32| match index {
            1 => SendError::InvalidRecord { message: Some("the second".into()) },
            3 => SendError::InvalidRecord { message: Some("the fourth".into()) },
            _ => whole.clone(),
        })
    };
    assert_eq!(batch.completion().fail(whole.clone(), Some(of_record)), Ok(true));
    let invalid = |text: &str| SendError::InvalidRecord { message: Some(text.into()) };
    let errors: Vec<_> = futures.into_iter().map(|future| future.wait().unwrap_err()).collect();
    assert_eq!(errors, [whole.clone(), invalid("the second"), whole.clone(), invalid("the fourth")]);

    let (batch, futures) = with_futures::<C>(3);
    assert_eq!(batch.completion().fail(whole.clone(), None), Ok(true));
    assert!(
        futures.into_iter().all(|future| future.wait() == Err(whole.clone())),
        "the batch's, where none is its own"
    );
}

fn batch_16_offsets_at_the_end_of_their_range<C: Core>() {
    let (batch, futures) = with_futures::<C>(2);
    assert_eq!(batch.completion().complete(i64::MAX, None), Ok(true));
    let offsets: Vec<_> = futures.into_iter().map(|future| future.wait().unwrap().offset).collect();
    assert_eq!(offsets, [i64::MAX; 2], "a broker's nonsense panics nobody");
}

fn batch_17_an_error_that_panics_leaves_the_batchs_own<C: Core>() {
    let (told, results) = mpsc::channel();
    let mut batch = open::<C>(4096);
    let reply = Reply { future: true, ..Reply::callback(move |result| told.send(result).unwrap()) };
    let future = batch.try_append(&value(b"a"), reply).unwrap().future.unwrap();
    let error = refused(ErrorCode::InvalidRecord);
    let own = Box::new(|_| panic!("on purpose: a record's error panics"));
    assert_eq!(batch.seal().completion().fail(error.clone(), Some(own)), Ok(true));
    assert_eq!(results.try_recv().expect("the callback ran"), Err(error.clone()));
    assert_eq!(future.wait(), Err(error));
}

fn batch_18_a_dropped_future_cancels_nothing<C: Core>() {
    let (told, results) = mpsc::channel();
    let mut batch = open::<C>(4096);
    let reply = Reply { future: true, ..Reply::callback(move |result| told.send(result).unwrap()) };
    drop(batch.try_append(&value(b"a"), reply).unwrap().future);
    let mut polled = batch.try_append(&value(b"b"), Reply::FUTURE).unwrap().future.unwrap();
    assert_eq!(polled.wait_timeout(millis(1), &SystemClock::new()), None);
    drop(polled);
    let kept = batch.try_append(&value(b"c"), Reply::FUTURE).unwrap().future.unwrap();
    let mut batch = batch.seal();
    batch.close().unwrap();
    assert_eq!(crate::batch::read(batch.as_bytes()).len(), 3);
    assert_eq!(batch.completion().complete(0, None), Ok(true));
    assert_eq!(results.try_recv().unwrap().unwrap().offset, 0);
    // The result outlives its batch.
    drop(batch);
    assert_eq!(kept.wait().unwrap().offset, 2);
}

fn batch_18_timed_waits<C: Core>() {
    let (batch, mut futures) = with_futures::<C>(1);
    let mut future = futures.remove(0);
    let clock = SystemClock::new();
    for timeout in [0, 1, 40] {
        let watch = Stopwatch::start();
        assert_eq!(future.wait_timeout(millis(timeout), &clock), None);
        assert!(watch.elapsed() >= millis(timeout) && watch.elapsed() < millis(timeout) + SOON);
    }
    assert!(!future.is_done());
    let waiter = Worker::start(move || (future.wait_timeout(LONG, &SystemClock::new()), future));
    waiter.assert_stays_blocked("nothing has ended");
    assert_eq!(batch.completion().complete(3, None), Ok(true));
    let (result, mut future) = waiter.result();
    assert_eq!(result.unwrap().unwrap().offset, 3);
    // Asked again, without time, it answers again.
    assert_eq!(future.wait_timeout(millis(0), &clock).unwrap().unwrap().offset, 3);
    assert_eq!(future.wait().unwrap().offset, 3);
}

fn batch_18_a_blocked_wait_ends_with_the_result<C: Core>() {
    for error in [None, Some(refused(ErrorCode::NotEnoughReplicas)), Some(GIVEN_UP)] {
        let (batch, mut futures) = with_futures::<C>(2);
        let (first, second) = (futures.remove(0), futures.remove(0));
        let plain = Worker::start(move || first.wait());
        let on_a_parker = Worker::start(move || second.wait_on::<ThreadParker>());
        plain.assert_stays_blocked("nothing has ended");
        match error.clone() {
            None => assert_eq!(batch.completion().complete(0, None), Ok(true)),
            Some(GIVEN_UP) => assert_eq!(batch.completion().abort(GIVEN_UP), Ok(())),
            Some(error) => assert_eq!(batch.completion().fail(error, None), Ok(true)),
        }
        assert_eq!(plain.result().err(), error);
        assert_eq!(on_a_parker.result().err(), error);
    }
}

/// A hand-made task: counts how often it was woken.
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Task {
    fn new() -> (Arc<Self>, Waker) {
        let task = Arc::new(Self(AtomicUsize::new(0)));
        (task.clone(), Waker::from(task))
    }

    fn woken(&self) -> usize {
        self.0.load(SeqCst)
    }
}

fn batch_18_the_future_wakes_its_task<C: Core>() {
    let (batch, futures) = with_futures::<C>(2);
    let [first, second] = <[_; 2]>::try_from(futures).unwrap();
    let (mut first, mut second) = (pin!(first), pin!(second));
    let ((one, one_waker), (two, two_waker)) = (Task::new(), Task::new());
    for _ in 0..3 {
        // Asking again with the same waker is asking once.
        assert!(first.as_mut().poll(&mut Context::from_waker(&one_waker)).is_pending());
    }
    assert!(second.as_mut().poll(&mut Context::from_waker(&two_waker)).is_pending());
    assert_eq!((one.woken(), two.woken()), (0, 0));
    assert_eq!(batch.completion().complete(20, None), Ok(true));
    assert_eq!((one.woken(), two.woken()), (1, 1), "each task once");
    let ready = |poll: Poll<_>| match poll {
        Poll::Ready(Ok(RecordMetadata { offset, .. })) => offset,
        other => panic!("{other:?}"),
    };
    assert_eq!(ready(first.as_mut().poll(&mut Context::from_waker(&one_waker))), 20);
    assert_eq!(ready(second.as_mut().poll(&mut Context::from_waker(&one_waker))), 21);
    assert_eq!((one.woken(), two.woken()), (1, 1), "a ready future wakes nobody");
}

fn batch_18_a_future_polled_by_another_task_wakes_that_one<C: Core>() {
    let (batch, mut futures) = with_futures::<C>(1);
    let mut future = pin!(futures.remove(0));
    let ((_, former_waker), (latter, latter_waker)) = (Task::new(), Task::new());
    assert!(future.as_mut().poll(&mut Context::from_waker(&former_waker)).is_pending());
    assert!(future.as_mut().poll(&mut Context::from_waker(&latter_waker)).is_pending());
    assert_eq!(batch.completion().abort(GIVEN_UP), Ok(()));
    assert!(latter.woken() >= 1, "the latest waker counts");
    assert!(matches!(future.poll(&mut Context::from_waker(&latter_waker)), Poll::Ready(Err(GIVEN_UP))));

    // A timed wait in between does not make the future forget its task.
    let (batch, mut futures) = with_futures::<C>(1);
    let mut future = futures.remove(0);
    let (task, waker) = Task::new();
    assert!(pin!(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(future.wait_timeout(millis(1), &SystemClock::new()), None);
    assert!(pin!(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(batch.completion().complete(0, None), Ok(true));
    assert!(task.woken() >= 1);
}

fn batch_18_many_waiters_of_all_kinds<C: Core>() {
    // Waiters come while the result comes: none is forgotten.
    for round in 0..100 {
        let (batch, futures) = with_futures::<C>(6);
        let start = Arc::new(Barrier::new(7));
        let waiters: Vec<_> = (0..)
            .zip(futures)
            .map(|(kind, mut future)| {
                let start = start.clone();
                Worker::start(move || {
                    start.wait();
                    match kind % 3 {
                        0 => future.wait(),
                        1 => future.wait_timeout(LONG, &SystemClock::new()).expect("in time"),
                        _ => loop {
                            let (task, waker) = Task::new();
                            match pin!(&mut future).poll(&mut Context::from_waker(&waker)) {
                                Poll::Ready(result) => break result,
                                Poll::Pending => crate::support::eventually("the task is woken", || task.woken() > 0),
                            }
                        },
                    }
                })
            })
            .collect();
        start.wait();
        assert_eq!(batch.completion().complete(round, None), Ok(true));
        let offsets: Vec<_> = waiters.into_iter().map(|waiter| waiter.result().unwrap().offset).collect();
        assert_eq!(offsets, (round..round + 6).collect::<Vec<_>>());
    }
}

fn batch_18_waiting_again_registers_nothing_again<C: Core>() {
    // Whoever waits a little, again and again, until the broker answers, must not gather memory meanwhile.
    static MADE: AtomicUsize = AtomicUsize::new(0);
    struct Counted(ThreadParker);
    impl Parker for Counted {
        fn new() -> Self {
            MADE.fetch_add(1, SeqCst);
            Self(ThreadParker::new())
        }
        fn park(&self) {
            self.0.park();
        }
        fn park_timeout(&self, timeout: Duration) -> bool {
            self.0.park_timeout(timeout)
        }
        fn unpark(&self) {
            self.0.unpark();
        }
    }
    let (batch, mut futures) = with_futures::<C>(1);
    let (mut future, clock) = (futures.remove(0), SystemClock::new());
    let before = MADE.load(SeqCst);
    for _ in 0..1_000 {
        assert_eq!(future.wait_timeout_on::<Counted>(Duration::ZERO, &clock), None);
    }
    assert_eq!(MADE.load(SeqCst), before, "no time, no wait");
    for _ in 0..20 {
        assert_eq!(future.wait_timeout_on::<Counted>(Duration::from_micros(50), &clock), None);
    }
    // The other core's test may run beside this one.
    assert!(MADE.load(SeqCst) <= before + 2, "one waits as the same again");
    // Also on another thread, which the end still wakes.
    let sleeper = Worker::start(move || future.wait_on::<Counted>());
    sleeper.assert_stays_blocked("nothing has ended");
    assert_eq!(batch.completion().complete(0, None), Ok(true));
    assert_eq!(sleeper.result().unwrap().offset, 0);
}

fn batch_18_a_future_that_is_done_keeps_no_task<C: Core>() {
    // A task that keeps the future that keeps its waker would never be freed.
    let (batch, mut futures) = with_futures::<C>(1);
    let (task, waker) = Task::new();
    assert!(pin!(&mut futures[0]).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    assert_eq!(Arc::strong_count(&task), 2, "the batch keeps it, to wake it");
    assert_eq!(batch.completion().complete(0, None), Ok(true));
    assert_eq!(Arc::strong_count(&task), 1);
    drop(futures);
}

fn gap_20_waiting_inside_a_waker_is_refused_likewise<C: Core>() {
    // An executor may poll inside of `wake`: on the thread that settles.
    struct Inline(Mutex<Option<RecordFuture>>, mpsc::Sender<String>);
    impl Wake for Inline {
        fn wake(self: Arc<Self>) {
            let other = lock(&self.0).take().unwrap();
            let said = format!("{} {:?}", other.wait().is_err(), unlatched::batch::refuse_in_callback());
            self.1.send(said).unwrap();
        }
    }
    let (batch, mut futures) = with_futures::<C>(1);
    let (other_batch, mut other) = with_futures::<C>(1);
    let (told, results) = mpsc::channel();
    let waker = Waker::from(Arc::new(Inline(Mutex::new(Some(other.remove(0))), told)));
    assert!(pin!(&mut futures[0]).poll(&mut Context::from_waker(&waker)).is_pending());
    let settler = Worker::start(move || batch.completion().complete(0, None));
    assert_eq!(settler.result(), Ok(true));
    assert_eq!(results.try_recv().unwrap(), "true Err(InCallback)");
    drop(other_batch);
}

fn gap_20_waiting_inside_a_callback_is_refused_at_once<C: Core>() {
    let (told, results) = mpsc::channel();
    let done_before = {
        let (batch, mut futures) = with_futures::<C>(1);
        assert_eq!(batch.completion().complete(77, None), Ok(true));
        futures.remove(0)
    };
    let (pending_batch, pending) = with_futures::<C>(3);
    let own = Arc::new(Mutex::new(None::<RecordFuture>));
    let mut batch = open::<C>(100);
    let reply = Reply {
        future: true,
        ..Reply::callback({
            let own = own.clone();
            move |_| {
                let [first, second, mut third] = <[_; 3]>::try_from(pending).unwrap();
                let mut seen = vec![first.wait(), second.wait_on::<ThreadParker>()];
                seen.extend(third.wait_timeout(LONG, &SystemClock::new()));
                // Not even for itself: it is done only after this callback.
                seen.push(lock(&own).take().unwrap().wait());
                seen.push(done_before.wait());
                told.send((seen, unlatched::batch::refuse_in_callback())).unwrap();
            }
        })
    };
    *lock(&own) = batch.try_append(&value(b"x"), reply).unwrap().future;
    let watch = Stopwatch::start();
    let settler = Worker::start(move || batch.seal().completion().complete(0, None));
    assert_eq!(settler.result(), Ok(true));
    assert!(watch.elapsed() < SOON, "at once");
    let (seen, flush) = results.try_recv().expect("the callback came through");
    assert!(seen[..4].iter().all(|result| *result == Err(SendError::WaitInCallback)), "{seen:?}");
    assert_eq!(seen[4].as_ref().unwrap().offset, 77, "a record that is done needs no waiting");
    assert_eq!(flush, Err(FlushError::InCallback));
    // Outside, all is as before; and what was refused has ended nothing.
    assert_eq!(unlatched::batch::refuse_in_callback(), Ok(()));
    assert_eq!(pending_batch.completion().complete(0, None), Ok(true));
}

fn gap_21_a_panic_in_a_waker_or_a_payload_is_contained<C: Core>() {
    struct PanickingTask;
    impl Wake for PanickingTask {
        fn wake(self: Arc<Self>) {
            std::panic::panic_any(PanickingPayload)
        }
    }
    struct PanickingPayload;
    impl Drop for PanickingPayload {
        fn drop(&mut self) {
            panic!("on purpose: a panic's payload panics when it is dropped")
        }
    }

    let mut batch = open::<C>(4096);
    let reply = Reply { future: true, ..Reply::callback(|_| std::panic::panic_any(PanickingPayload)) };
    let mut first = pin!(batch.try_append(&value(b"a"), reply).unwrap().future.unwrap());
    let mut others: Vec<_> =
        (0..3).map(|_| batch.try_append(&value(b"b"), Reply::FUTURE).unwrap().future.unwrap()).collect();
    let (before, before_waker) = Task::new();
    let (after, after_waker) = Task::new();
    let panicking = Waker::from(Arc::new(PanickingTask));
    assert!(pin!(&mut others[0]).poll(&mut Context::from_waker(&before_waker)).is_pending());
    assert!(first.as_mut().poll(&mut Context::from_waker(&panicking)).is_pending());
    assert!(pin!(&mut others[1]).poll(&mut Context::from_waker(&after_waker)).is_pending());
    let third = others.remove(2);
    let sleeper = Worker::start(move || third.wait());
    sleeper.assert_stays_blocked("nothing has ended");
    let batch = batch.seal();
    assert_eq!(batch.completion().complete(0, None), Ok(true));
    assert_eq!((before.woken(), after.woken()), (1, 1));
    assert_eq!(sleeper.result().unwrap().offset, 3);
    assert!(first.is_done());
}
