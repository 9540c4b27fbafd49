//! A running sender, and the ways in which it ends. SEND-26 to SEND-29, GAP-18, GAP-21.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig};
use unlatched::batch::{RecordFuture, RecordResult, Reply};
use unlatched::broker::{ErrorCode, ProduceRequest};
use unlatched::error::{AppendError, SendError};
use unlatched::pool::PoolError;
use unlatched::primitive::clock::{ManualClock, SystemClock};
use unlatched::record::Record;
use unlatched::sender::CloseError::{Forced, SenderDied};
use unlatched::sender::{CloseError, SenderConfig, SenderHandle};

use crate::rig::{Results, Rig, alone, assert_whole, in_order, memory, partitions, push, requests};
use crate::script::{Polls, Script};
use crate::spy::Spy;
use crate::support::{Gate, LONG, Worker, eventually, lock, millis, on_every_core, tp};

on_every_core![
    send_26_graceful_close_sends_what_is_queued_and_awaits_what_is_in_flight,
    send_26_graceful_close_of_a_sender_that_sleeps,
    send_26_graceful_close_goes_on_retrying,
    send_26_graceful_close_ends_when_all_have_expired,
    send_26_the_broker_goes_last,
    send_27_forced_close_aborts_what_is_queued_and_what_is_in_flight,
    send_27_forced_close_aborts_what_waits_for_another_attempt,
    send_28_a_close_whose_time_is_up_is_forced,
    send_28_closing_again_hears_the_same,
    send_28_a_patient_closer_hears_that_another_forced,
    send_28_force_that_finds_nothing_to_abort_is_no_force,
    send_28_time_that_is_up_while_the_sender_ends_is_no_force,
    send_28_the_first_to_force_is_named,
    send_28_close_in_a_callback_is_forced_and_not_waited_for,
    send_28_close_in_a_callback_after_the_end_hears_how_it_ended,
    send_28_close_in_another_senders_callback_ends_a_sender_that_sleeps,
    send_28_closing_from_many_threads,
    send_28_a_handle_that_is_dropped_closes_by_force,
    send_28_a_handle_may_be_dropped_in_a_callback,
    send_29_after_close_appends_are_refused,
    gap_18_after_a_graceful_close_every_accepted_record_has_completed,
    gap_18_after_a_forced_close_every_accepted_record_has_completed,
    gap_18_who_waits_for_memory_is_refused_by_a_close,
    gap_21_a_sender_that_dies_leaves_nothing_open,
    gap_21_whoever_waits_for_the_end_hears_of_the_death,
    gap_21_a_death_with_nothing_open_is_one_all_the_same,
    gap_21_callbacks_of_a_dying_sender_may_do_anything,
];

type Handle<A> = Arc<SenderHandle<Spy<A>>>;

/// A sender on its thread.
struct Running<A: Accumulator> {
    handle: Handle<A>,
    accumulator: Arc<Spy<A>>,
    script: Script,
    clock: Arc<ManualClock>,
    results: Results,
}

fn start<A: Accumulator>() -> Running<A> {
    start_with(memory(), requests())
}

fn start_with<A: Accumulator>(memory: AccumulatorConfig, requests: SenderConfig) -> Running<A> {
    let Rig { sender, accumulator, script, clock, results, .. } = Rig::<A>::with(memory, requests);
    script.set_polls(Polls::Sleeping);
    let handle = Arc::new(SenderHandle::spawn(sender).expect("there is a thread"));
    Running { handle, accumulator, script, clock, results }
}

impl<A: Accumulator> Running<A> {
    /// Appends a record whose result is noted, in a batch of its own, and wakes the sender.
    #[track_caller]
    fn push_noted(&self, partition: i32, name: &str) {
        let (results, note) = (self.results.clone(), name.to_owned());
        self.push_with(partition, name, move |result| results.note(&note, result));
    }

    #[track_caller]
    fn push_with(&self, partition: i32, name: &str, callback: impl FnOnce(RecordResult) + Send + 'static) {
        push(&*self.accumulator, partition, &alone(name), Reply::callback(callback)).expect("it is accepted");
        self.handle.wake();
    }

    /// Appends it and takes the request with it.
    #[track_caller]
    fn send(&self, partition: i32, name: &str) -> ProduceRequest {
        self.push_noted(partition, name);
        let request = self.script.await_request();
        assert_eq!(partitions(&request), [partition]);
        request
    }

    fn closer(&self, timeout: Duration) -> Worker<Result<(), CloseError>> {
        let handle = self.handle.clone();
        Worker::start(move || handle.close(timeout))
    }

    /// The last close, in a thread, as all of them: one that never ends is a failure and not a hang.
    #[track_caller]
    fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        self.closer(timeout).result()
    }

    /// Moves the clock and has the sender look at it.
    fn advance(&self, milliseconds: u64) {
        self.clock.advance(millis(milliseconds));
        self.handle.wake();
    }

    /// Waits until `closer` has closed the accumulator.
    #[track_caller]
    fn await_closed(&self) {
        eventually("it is closed", || self.accumulator.is_closed());
    }

    /// The sender has ended, every record has completed, and every byte is back.
    #[track_caller]
    fn assert_ended(&self) {
        assert!(self.handle.has_ended());
        assert!(!self.accumulator.has_undrained() && !self.accumulator.has_incomplete());
        assert_whole(&*self.accumulator);
        assert_eq!(push(&*self.accumulator, 0, "late", Reply::IGNORE).err(), Some(refused_as_closed()));
    }
}

/// What an append ends with that would need memory after the close.
fn refused_as_closed() -> AppendError {
    AppendError::Closed
}

fn is_aborted(result: &RecordResult) -> bool {
    matches!(result, Err(SendError::Aborted { .. }))
}

#[track_caller]
fn assert_all(results: &Results, expected: usize, is: impl Fn(&RecordResult) -> bool) {
    let results = results.take();
    assert!(results.len() == expected && results.iter().all(|(_, result)| is(result)), "{results:?}");
}

fn send_26_graceful_close_sends_what_is_queued_and_awaits_what_is_in_flight<A: Accumulator>() {
    // Nothing but the close hurries what is queued.
    let running = start_with::<A>(AccumulatorConfig { linger: millis(900), ..memory() }, requests());
    running.push_noted(0, "in flight");
    running.advance(900);
    let in_flight = running.script.await_request();
    running.push_noted(0, "queued");
    running.push_noted(1, "of another node");
    running.script.await_asleep();
    assert!(running.script.requests().is_empty());
    let closer = running.closer(LONG);
    let mut queued = vec![running.script.await_request(), running.script.await_request()];
    queued.sort_by_key(|request| request.node);
    closer.assert_stays_blocked("nothing was answered yet");
    running.script.acknowledge(in_flight);
    running.script.acknowledge(queued.remove(0));
    closer.assert_stays_blocked("one is not answered yet");
    assert!(!running.handle.has_ended());
    running.script.acknowledge(queued.remove(0));
    assert_eq!(closer.result(), Ok(()));
    assert_all(&running.results, 3, Result::is_ok);
    assert_eq!(running.accumulator.left_in_the_books(), [0u64; 0]);
    running.assert_ended();
}

fn send_26_graceful_close_of_a_sender_that_sleeps<A: Accumulator>() {
    let running = start::<A>();
    running.script.await_asleep();
    // Only a wake ends that sleep.
    assert_eq!(running.close(LONG), Ok(()));
    running.assert_ended();
}

fn send_26_graceful_close_goes_on_retrying<A: Accumulator>() {
    let running = start_with::<A>(memory(), in_order());
    let request = running.send(0, "a");
    running.push_noted(0, "b");
    let closer = running.closer(LONG);
    running.await_closed();
    running.script.refuse(request, ErrorCode::NotEnoughReplicas);
    running.script.await_asleep();
    closer.assert_stays_blocked("a batch waits for another attempt");
    running.advance(100);
    let request = running.script.await_request();
    assert_eq!(request.batches[0].attempts(), 1);
    running.script.acknowledge(request);
    let request = running.script.await_request();
    running.script.acknowledge(request);
    assert_eq!(closer.result(), Ok(()));
    assert_eq!(running.results.names(), ["a", "b"]);
    assert_all(&running.results, 2, Result::is_ok);
    running.assert_ended();
}

/// To expire is a result: nobody has to be aborted.
fn send_26_graceful_close_ends_when_all_have_expired<A: Accumulator>() {
    let running = start_with::<A>(memory(), in_order());
    let request = running.send(0, "in flight");
    running.push_noted(0, "queued, and muted");
    let closer = running.closer(LONG);
    closer.assert_stays_blocked("one is in flight, one is queued");
    running.advance(1_000);
    assert_eq!(closer.result(), Ok(()));
    assert_all(&running.results, 2, |result| matches!(result, Err(SendError::DeliveryTimeout { .. })));
    // The request is not awaited, and its memory is its own.
    assert!(running.accumulator.pool().leased > 0);
    drop(request);
    running.assert_ended();
}

/// The end of a close means that nothing of the sender runs any more, its broker included.
fn send_26_the_broker_goes_last<A: Accumulator>() {
    let running = start::<A>();
    let gate = Gate::default();
    running.script.in_drop({
        let gate = gate.clone();
        move || gate.pass()
    });
    let closer = running.closer(LONG);
    gate.await_reached();
    closer.assert_stays_blocked("the broker is still there");
    assert!(!running.handle.has_ended());
    gate.open();
    assert_eq!(closer.result(), Ok(()));
    running.assert_ended();
}

fn send_27_forced_close_aborts_what_is_queued_and_what_is_in_flight<A: Accumulator>() {
    let running = start_with::<A>(memory(), in_order());
    let request = running.send(0, "in flight");
    running.push_noted(0, "queued behind it");
    running.script.set_ready(1, Err(LONG));
    running.push_noted(1, "queued");
    assert_eq!(running.close(Duration::ZERO), Err(Forced(Duration::ZERO)));
    assert_all(&running.results, 3, is_aborted);
    assert!(running.script.requests().is_empty(), "nothing more was sent");
    drop(request);
    running.assert_ended();
}

fn send_27_forced_close_aborts_what_waits_for_another_attempt<A: Accumulator>() {
    let running = start::<A>();
    let request = running.send(0, "a");
    running.script.refuse(request, ErrorCode::RequestTimedOut);
    eventually("it is put back", || running.accumulator.has_undrained());
    assert_eq!(running.close(Duration::ZERO), Err(Forced(Duration::ZERO)));
    assert_all(&running.results, 1, is_aborted);
    running.assert_ended();
}

fn send_28_a_close_whose_time_is_up_is_forced<A: Accumulator>() {
    let running = start::<A>();
    let request = running.send(0, "in flight");
    let clock = SystemClock::shared();
    let began = clock.now();
    assert_eq!(running.close(millis(50)), Err(Forced(millis(50))));
    assert!(clock.now().saturating_since(began) >= millis(50), "it had its time");
    assert_all(&running.results, 1, is_aborted);
    drop(request);
    running.assert_ended();
}

fn send_28_closing_again_hears_the_same<A: Accumulator>() {
    let forced = start::<A>();
    let request = forced.send(0, "a");
    assert_eq!(forced.close(millis(20)), Err(Forced(millis(20))));
    for timeout in [LONG, Duration::ZERO, millis(1)] {
        assert_eq!(forced.close(timeout), Err(Forced(millis(20))), "records were aborted, whoever asks");
    }
    drop(request);
    forced.assert_ended();

    let graceful = start::<A>();
    let request = graceful.send(0, "a");
    graceful.script.acknowledge(request);
    assert_eq!(graceful.close(LONG), Ok(()));
    for timeout in [LONG, Duration::ZERO, millis(1)] {
        assert_eq!(graceful.close(timeout), Ok(()), "none was aborted, whoever asks");
    }
    graceful.assert_ended();
}

fn send_28_a_patient_closer_hears_that_another_forced<A: Accumulator>() {
    let running = start::<A>();
    let request = running.send(0, "a");
    let patient = running.closer(LONG);
    running.await_closed();
    patient.assert_stays_blocked("it is in flight");
    assert_eq!(running.close(Duration::ZERO), Err(Forced(Duration::ZERO)));
    assert_eq!(patient.result(), Err(Forced(Duration::ZERO)));
    assert_all(&running.results, 1, is_aborted);
    drop(request);
    running.assert_ended();
}

fn send_28_force_that_finds_nothing_to_abort_is_no_force<A: Accumulator>() {
    let running = start::<A>();
    let request = running.send(0, "a");
    running.script.acknowledge(request);
    eventually("it is answered", || !running.results.names().is_empty());
    running.script.await_asleep();
    assert_eq!(running.close(Duration::ZERO), Ok(()));
    assert_all(&running.results, 1, Result::is_ok);
    running.assert_ended();
}

/// The closer's time is up when everything is answered already, and only the broker's end is not over yet.
fn send_28_time_that_is_up_while_the_sender_ends_is_no_force<A: Accumulator>() {
    let running = start::<A>();
    let gate = Gate::default();
    running.script.in_drop({
        let gate = gate.clone();
        move || gate.pass()
    });
    let request = running.send(0, "a");
    running.script.acknowledge(request);
    let patient = running.closer(LONG);
    gate.await_reached();
    let hasty = running.closer(millis(1));
    hasty.assert_stays_blocked("there is still something of the sender");
    gate.open();
    assert_eq!(hasty.result(), Ok(()));
    assert_eq!(patient.result(), Ok(()));
    assert_all(&running.results, 1, Result::is_ok);
    running.assert_ended();
}

fn send_28_the_first_to_force_is_named<A: Accumulator>() {
    let running = start::<A>();
    let gate = Gate::default();
    // While the first one's force has its effect, a second one's time is up.
    running.push_with(0, "a", {
        let gate = gate.clone();
        move |_| gate.pass()
    });
    let request = running.script.await_request();
    let first = running.closer(millis(5));
    gate.await_reached();
    let second = running.closer(Duration::ZERO);
    second.assert_stays_blocked("a callback runs");
    gate.open();
    assert_eq!(first.result(), Err(Forced(millis(5))));
    assert_eq!(second.result(), Err(Forced(millis(5))));
    drop(request);
    running.assert_ended();
}

fn send_28_close_in_a_callback_is_forced_and_not_waited_for<A: Accumulator>() {
    let running = start::<A>();
    let heard: Arc<Mutex<Vec<Result<(), CloseError>>>> = Arc::default();
    running.push_with(0, "closes", {
        let (handle, heard) = (running.handle.clone(), heard.clone());
        move |_| {
            let first = handle.close(LONG);
            lock(&heard).extend([first, handle.close(Duration::ZERO)]);
        }
    });
    let closing = running.script.await_request();
    let in_flight = running.send(2, "in flight");
    running.script.acknowledge(closing);
    eventually("the sender ends", || running.handle.has_ended());
    assert_eq!(*lock(&heard), [Err(Forced(Duration::ZERO)); 2], "at once, and as often as it likes");
    assert_all(&running.results, 1, is_aborted);
    assert_eq!(running.close(LONG), Err(Forced(Duration::ZERO)), "what it has heard was true");
    drop(in_flight);
    running.assert_ended();
}

/// Here the callback runs on another sender's thread, and this sender's end can be told at once.
fn send_28_close_in_a_callback_after_the_end_hears_how_it_ended<A: Accumulator>() {
    let graceful = start::<A>();
    assert_eq!(graceful.close(LONG), Ok(()));
    let forced = start::<A>();
    let request = forced.send(0, "a");
    assert_eq!(forced.close(millis(3)), Err(Forced(millis(3))));
    drop(request);
    let dead = start::<A>();
    dead.script.set_polls(Polls::Panicking);
    eventually("it dies", || dead.handle.has_ended());
    let heard: Arc<Mutex<Vec<Result<(), CloseError>>>> = Arc::default();
    let mut other = Rig::<A>::new();
    other.push_with(0, "a", {
        let heard = heard.clone();
        let handles = [&graceful, &forced, &dead].map(|running| running.handle.clone());
        move |_| lock(&heard).extend(handles.map(|handle| handle.close(LONG)))
    });
    let request = other.send();
    other.acknowledge(request);
    assert_eq!(*lock(&heard), [Ok(()), Err(Forced(millis(3))), Err(SenderDied)]);
}

/// There nobody waits, and the sender has to hear of it all the same.
fn send_28_close_in_another_senders_callback_ends_a_sender_that_sleeps<A: Accumulator>() {
    let running = start::<A>();
    let in_flight = running.send(0, "in flight");
    running.script.await_asleep();
    let mut other = Rig::<A>::new();
    let handle = running.handle.clone();
    other.push_with(0, "a", move |_| {
        let _ = handle.close(LONG);
    });
    let request = other.send();
    other.acknowledge(request);
    eventually("the sender ends", || running.handle.has_ended());
    assert_all(&running.results, 1, is_aborted);
    drop(in_flight);
    running.assert_ended();
}

fn send_28_closing_from_many_threads<A: Accumulator>() {
    for forced in [false, true] {
        let running = start::<A>();
        let request = running.send(0, "a");
        running.push_noted(2, "b");
        let closers: Vec<_> = (0..6).map(|_| running.closer(LONG)).collect();
        running.await_closed();
        let expected = if forced {
            let hasty: Vec<_> = (0..2).map(|_| running.closer(Duration::ZERO)).collect();
            assert!(hasty.into_iter().all(|closer| closer.result() == Err(Forced(Duration::ZERO))));
            Err(Forced(Duration::ZERO))
        } else {
            let other = running.script.await_request();
            running.script.acknowledge(other);
            running.script.acknowledge(request);
            Ok(())
        };
        for closer in closers {
            assert_eq!(closer.result(), expected);
        }
        assert_all(&running.results, 2, |result| result.is_ok() != forced);
        drop(running.script.requests());
    }
}

fn send_28_a_handle_that_is_dropped_closes_by_force<A: Accumulator>() {
    let Running { handle, accumulator, script, results, .. } = {
        let running = start::<A>();
        running.script.set_ready(0, Err(LONG));
        running.push_noted(0, "a");
        running
    };
    Worker::start(move || drop(handle)).result();
    assert_all(&results, 1, is_aborted);
    assert!(script.requests().is_empty());
    assert_whole(&*accumulator);
    assert_eq!(push(&*accumulator, 0, "late", Reply::IGNORE).err(), Some(refused_as_closed()));
}

fn send_28_a_handle_may_be_dropped_in_a_callback<A: Accumulator>() {
    let running = start::<A>();
    let kept: Arc<Mutex<Option<Handle<A>>>> = Arc::default();
    running.push_with(0, "a", {
        let kept = kept.clone();
        // The last one.
        move |_| drop(lock(&kept).take())
    });
    let request = running.script.await_request();
    running.push_noted(2, "in flight");
    let other = running.script.await_request();
    let Running { handle, accumulator, script, results, .. } = running;
    assert_eq!(Arc::strong_count(&handle), 1);
    *lock(&kept) = Some(handle);
    script.acknowledge(request);
    eventually("the other record ends", || !results.names().is_empty());
    assert_all(&results, 1, is_aborted);
    drop(other);
    eventually("every byte is back", || accumulator.pool().leased == 0);
    assert_whole(&*accumulator);
}

fn send_29_after_close_appends_are_refused<A: Accumulator>() {
    let running = start::<A>();
    let partition = running.accumulator.partition(&tp(0));
    let from_callback: Arc<Mutex<Vec<bool>>> = Arc::default();
    running.push_with(0, "a", {
        let (accumulator, accepted) = (running.accumulator.clone(), from_callback.clone());
        move |_| lock(&accepted).push(push(&*accumulator, 0, "from a callback", Reply::IGNORE).is_ok())
    });
    let request = running.script.await_request();
    let closer = running.closer(LONG);
    running.await_closed();
    let record = Record { value: Some(b"late"), ..Record::default() };
    let append = || running.accumulator.append(&partition, &record, Reply::FUTURE, LONG);
    assert_eq!(append().err(), Some(refused_as_closed()), "while it closes");
    running.script.acknowledge(request);
    assert_eq!(closer.result(), Ok(()));
    assert_eq!(append().err(), Some(refused_as_closed()), "after that");
    assert_eq!(*lock(&from_callback), [false], "and in a callback");
    running.assert_ended();
}

/// Four threads append until they are refused; the futures of what was accepted.
fn appenders<A: Accumulator>(running: &Running<A>) -> Vec<Worker<Vec<RecordFuture>>> {
    (0..4)
        .map(|partition| {
            let (accumulator, handle) = (running.accumulator.clone(), running.handle.clone());
            Worker::start(move || {
                let partition = accumulator.partition(&tp(partition));
                let record = Record { value: Some(b"a record of some bytes"), ..Record::default() };
                let mut accepted = Vec::new();
                loop {
                    match accumulator.append(&partition, &record, Reply::FUTURE, LONG) {
                        Ok(appended) => {
                            if appended.must_wake_sender() {
                                handle.wake();
                            }
                            accepted.extend(appended.future);
                        }
                        Err(AppendError::Closed | AppendError::Pool(PoolError::Closed)) => return accepted,
                        Err(other) => panic!("{other}"),
                    }
                }
            })
        })
        .collect()
}

fn gap_18_after_a_graceful_close_every_accepted_record_has_completed<A: Accumulator>() {
    for _ in 0..10 {
        let running = start::<A>();
        running.script.set_acknowledges();
        let appenders = appenders(&running);
        eventually("some are acknowledged", || running.handle.stats().snapshot().completed > 100);
        assert_eq!(running.close(LONG), Ok(()));
        let accepted: Vec<_> = appenders.into_iter().flat_map(Worker::result).collect();
        assert!(accepted.iter().all(|future| matches!(future.try_result(), Some(Ok(_))) && future.is_done()));
        let stats = running.handle.stats().snapshot();
        assert_eq!((stats.completed, stats.failed), (accepted.len() as u64, 0));
        assert_eq!(running.accumulator.left_in_the_books(), [0u64; 0]);
        running.assert_ended();
    }
}

fn gap_18_after_a_forced_close_every_accepted_record_has_completed<A: Accumulator>() {
    for _ in 0..10 {
        let running = start::<A>();
        running.script.set_acknowledges();
        let appenders = appenders(&running);
        eventually("some are acknowledged", || running.handle.stats().snapshot().completed > 100);
        let closed = running.close(Duration::ZERO);
        let accepted: Vec<_> = appenders.into_iter().flat_map(Worker::result).collect();
        assert!(accepted.iter().all(RecordFuture::is_done));
        let aborted = accepted.iter().filter(|future| future.try_result().is_some_and(|result| is_aborted(&result)));
        assert_eq!(closed.is_err(), aborted.count() > 0, "{closed:?}: an error says that records were aborted");
        running.assert_ended();
    }
}

fn gap_18_who_waits_for_memory_is_refused_by_a_close<A: Accumulator>() {
    let config = memory();
    let running = start_with::<A>(AccumulatorConfig { buffer_memory: config.batch_size as u64, ..config }, requests());
    let request = running.send(0, "all of it");
    let accumulator = running.accumulator.clone();
    let appender = Worker::start(move || {
        let record = Record { value: Some(b"waits"), ..Record::default() };
        accumulator.append(&accumulator.partition(&tp(1)), &record, Reply::FUTURE, LONG).map(drop)
    });
    eventually("it waits", || running.accumulator.pool().queued == 1);
    let closer = running.closer(LONG);
    assert_eq!(appender.result(), Err(AppendError::Pool(PoolError::Closed)));
    running.script.acknowledge(request);
    assert_eq!(closer.result(), Ok(()));
    assert_all(&running.results, 1, Result::is_ok);
    running.assert_ended();
}

fn gap_21_a_sender_that_dies_leaves_nothing_open<A: Accumulator>() {
    let running = start_with::<A>(AccumulatorConfig { linger: millis(10), ..memory() }, in_order());
    running.push_noted(0, "in flight");
    running.advance(10);
    let request = running.script.await_request();
    running.push_noted(0, "muted");
    running.push_noted(1, "open");
    // It has something in its hands besides: what came back and was not handled yet.
    running.push_noted(2, "answered");
    running.advance(10);
    let mut answered = running.script.await_request();
    if partitions(&answered) == [1] {
        answered = running.script.await_request();
    }
    running.script.die_with(answered);
    eventually("it dies", || running.handle.has_ended());
    assert_all(&running.results, 4, is_aborted);
    for timeout in [LONG, Duration::ZERO] {
        assert_eq!(running.close(timeout), Err(SenderDied));
    }
    assert!(running.accumulator.is_closed());
    drop(request);
    running.assert_ended();
}

fn gap_21_whoever_waits_for_the_end_hears_of_the_death<A: Accumulator>() {
    let running = start::<A>();
    let request = running.send(0, "a");
    let closers: Vec<_> = (0..3).map(|_| running.closer(LONG)).collect();
    running.await_closed();
    running.script.await_asleep();
    running.script.set_polls(Polls::Panicking);
    for closer in closers {
        assert_eq!(closer.result(), Err(SenderDied));
    }
    assert_all(&running.results, 1, is_aborted);
    drop(request);
    running.assert_ended();
}

/// Also where it was to end by force, and where it is its broker's end that panics.
fn gap_21_a_death_with_nothing_open_is_one_all_the_same<A: Accumulator>() {
    let running = start::<A>();
    running.script.set_polls(Polls::Panicking);
    eventually("it dies", || running.handle.has_ended());
    assert_eq!(running.close(Duration::ZERO), Err(SenderDied));
    running.assert_ended();

    let running = start::<A>();
    running.script.in_drop(|| panic!("on purpose"));
    assert_eq!(running.close(Duration::ZERO), Err(SenderDied));
    assert_eq!(running.close(LONG), Err(SenderDied));
    running.assert_ended();
}

fn gap_21_callbacks_of_a_dying_sender_may_do_anything<A: Accumulator>() {
    let running = start::<A>();
    let heard: Arc<Mutex<Vec<bool>>> = Arc::default();
    running.push_with(0, "panics", |_| panic!("on purpose"));
    let panicking = running.script.await_request();
    running.push_with(0, "appends and closes", {
        let (heard, accumulator) = (heard.clone(), running.accumulator.clone());
        let handle = Arc::downgrade(&running.handle);
        move |_| {
            let appended = push(&*accumulator, 5, "from a callback", Reply::IGNORE).is_ok();
            let closed = handle.upgrade().is_some_and(|handle| handle.close(LONG).is_ok());
            // Its end is no part of its panic: else one of a callback would be the program's.
            lock(&heard).extend([appended, closed, std::thread::panicking()]);
        }
    });
    let closing = running.script.await_request();
    running.push_noted(2, "after them");
    let last = running.script.await_request();
    running.script.set_polls(Polls::Panicking);
    eventually("it dies", || running.handle.has_ended());
    assert_eq!(*lock(&heard), [false, false, false]);
    assert_all(&running.results, 1, is_aborted);
    assert_eq!(running.close(LONG), Err(SenderDied), "whatever a callback had asked for");
    drop((panicking, closing, last));
    running.assert_ended();
}
