//! How batches leave the accumulator other than by success: expiry, flush, abort, close. ACC-38 to ACC-42, ACC-44 to ACC-46, GAP-15,
//! GAP-20, GAP-21.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, Appender, ReadyCheck, SenderView};
use unlatched::batch::{RecordFuture, RecordResult, Reply, SealedBatch};
use unlatched::error::{AppendError, FlushError, SendError};
use unlatched::pool::PoolError;
use unlatched::primitive::clock::SystemClock;

use crate::batch::{at, millis, tp, value};
use crate::deviations::{Behaviour, keeps};
use crate::pool::assert_at_rest;
use crate::rig::{BATCH, PARTITIONS, Rig, config, largest, led_by, partitions, values};
use crate::support::{Core, GLANCE, LONG, SOON, Stopwatch, WatchedClock, Worker, eventually, lock, on_every_core};

on_every_core![
    acc_38_expired_batches_leave_at_their_time,
    acc_38_muted_or_not_leader_or_not,
    acc_38_a_live_head_before_an_expired_batch,
    acc_38_expiry_counts_from_the_creation_also_in_a_retry,
    acc_39_next_expiry_is_recomputed_each_time,
    acc_39_a_timeout_beyond_the_clock_is_none,
    acc_40_deallocating_strikes_out_and_refunds_once,
    acc_40_asking_for_unfinished_batches_ends_none,
    acc_41_await_flush_waits_for_what_was_there,
    acc_41_await_flush_with_nothing_to_wait_for,
    acc_41_a_flush_that_times_out_is_over,
    acc_41_flushes_overlap,
    acc_41_a_flush_ends_with_failed_batches_too,
    acc_42_abort_all_ends_every_unfinished_batch,
    acc_42_batches_are_aborted_in_the_order_of_their_opening,
    acc_42_what_was_settled_before_is_struck_out_too,
    acc_42_callbacks_run_outside_of_every_lock,
    acc_42_what_comes_during_an_abort_is_whole,
    acc_44_forced_close_ends_queued_batches_and_empties_the_map,
    acc_44_blocked_appenders_get_the_closed_error,
    acc_45_close_refuses_hurries_and_is_idempotent,
    acc_45_close_closes_the_pool,
    acc_46_undrained_and_incomplete,
    gap_15_memory_returns_when_the_transport_lets_go,
    gap_20_flush_inside_a_callback_is_refused_at_once,
    gap_20_appending_inside_a_callback_is_allowed,
    gap_20_appending_inside_a_callback_never_waits_for_memory,
    gap_21_the_end_of_the_sender_ends_the_accumulator,
];

const GIVEN_UP: SendError = SendError::Aborted { reason: "on purpose" };

fn timed_out() -> SendError {
    SendError::DeliveryTimeout { topic_partition: tp(0), records: 1, age: millis(1), timeout: millis(1) }
}

/// What a sender does with expired batches.
#[track_caller]
fn fail<C: Core>(rig: &mut Rig<C>, batches: Vec<SealedBatch>) {
    for batch in batches {
        assert_eq!(batch.completion().fail(timed_out(), None), Ok(true));
        rig.view.deallocate(batch).expect("it is in the books");
    }
}

type Results = Arc<Mutex<Vec<(&'static str, RecordResult)>>>;

/// A record whose result is noted under its name.
fn push_noted<C: Core>(rig: &Rig<C>, partition: i32, name: &'static str, results: &Results) {
    let results = results.clone();
    rig.push_callback(partition, name.as_bytes(), move |result| lock(&results).push((name, result)));
}

/// The names noted so far, in alphabetical order.
fn names(results: &Results) -> Vec<&'static str> {
    let mut names: Vec<_> = lock(results).iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names
}

fn acc_38_expired_batches_leave_at_their_time<C: Core>() {
    let mut rig = Rig::<C>::new();
    let first = rig.push_future(0, b"a record of some bytes");
    rig.pass(30);
    let other = rig.push_future(1, b"30");
    rig.pass(20);
    rig.fill(0); // At 50; it closes the first, and is full itself.
    rig.pass(949);
    assert!(rig.expired().is_empty(), "at 999 ms");
    rig.pass(1);
    let expired = rig.expired();
    assert_eq!((expired.len(), expired[0].created()), (1, at(0)));
    assert!(!first.is_done(), "it is the caller who ends them");
    fail(&mut rig, expired);
    assert_eq!(first.wait(), Err(timed_out()));
    assert!(rig.expired().is_empty());
    rig.pass(50);
    let mut expired = rig.expired();
    if keeps::<C>("GAP-28") == Behaviour::Promise {
        let created: Vec<_> = expired.iter().map(SealedBatch::created).collect();
        assert_eq!(created, [at(30), at(50)], "in the order of their deadlines");
    }
    expired.sort_by_key(SealedBatch::created);
    assert_eq!(partitions(&expired), [1, 0], "an open tail as well as a full one");
    assert!(!rig.accumulator.has_undrained() && rig.accumulator.has_incomplete());
    fail(&mut rig, expired);
    assert!(other.is_done() && !rig.accumulator.has_incomplete());
    assert_eq!(rig.accumulator.pool().leased, 0);
}

fn acc_38_muted_or_not_leader_or_not<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.push(0, b"muted");
    rig.push(1, b"plain");
    rig.push(2, b"without a leader");
    rig.view.mute(&tp(0));
    rig.cluster = led_by(&[Some(0), Some(0), None]);
    rig.pass(1_000);
    let mut expired = partitions(&rig.expired());
    expired.sort_unstable();
    assert_eq!(expired, [0, 1, 2]);
}

fn acc_38_a_live_head_before_an_expired_batch<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.push(0, b"0");
    let older = rig.drain_one();
    rig.pass(300);
    rig.push(0, b"300");
    let younger = rig.drain_one();
    // Put back in the wrong order: the younger one stands first.
    rig.reenqueue(older);
    rig.reenqueue(younger);
    rig.pass(700);
    let expired = rig.expired();
    match keeps::<C>("GAP-28") {
        Behaviour::Kafka => assert!(expired.is_empty(), "the check ends at the first live one: {expired:?}"),
        Behaviour::Promise => {
            assert_eq!(expired.iter().map(SealedBatch::created).collect::<Vec<_>>(), [at(0)]);
            return;
        }
    }
    rig.pass(300);
    let created: Vec<_> = rig.expired().iter().map(SealedBatch::created).collect();
    assert_eq!(created, [at(300), at(0)], "in the order of the queue");
}

fn acc_38_expiry_counts_from_the_creation_also_in_a_retry<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.push(0, b"x");
    for _ in 0..3 {
        rig.pass(300);
        let batch = rig.drain_one();
        rig.reenqueue(batch);
        rig.pass(0);
        // Its backoff is over before the next round.
        rig.cluster = crate::rig::led_since(&[Some(0)], Some(rig.now().as_nanos() as i32 >> 20));
    }
    rig.pass(99);
    assert!(rig.expired().is_empty());
    rig.pass(1);
    assert_eq!(rig.expired().len(), 1);
}

fn acc_39_next_expiry_is_recomputed_each_time<C: Core>() {
    let mut rig = Rig::<C>::new();
    assert!(rig.expired().is_empty());
    assert_eq!(rig.view.next_expiry(), None);
    rig.push(0, b"0");
    rig.pass(200);
    rig.push(1, b"200");
    rig.push(0, &[0; 200]);
    rig.expired();
    assert_eq!(rig.view.next_expiry(), Some(at(1_000)), "the earliest head's");
    rig.cluster = led_by(&[Some(0), None]);
    let head = rig.drain_one();
    assert_eq!(rig.view.next_expiry(), Some(at(1_000)), "as of the last look");
    rig.expired();
    assert_eq!(rig.view.next_expiry(), Some(at(1_200)), "what is drained is not queued");
    rig.reenqueue(head);
    rig.expired();
    assert_eq!(rig.view.next_expiry(), Some(at(1_000)));
    rig.pass(900);
    assert_eq!(rig.expired().len(), 1);
    assert_eq!(rig.view.next_expiry(), Some(at(1_200)));
    rig.pass(100);
    assert_eq!(rig.expired().len(), 2);
    assert_eq!(rig.view.next_expiry(), None);
}

fn acc_39_a_timeout_beyond_the_clock_is_none<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { delivery_timeout: Duration::MAX, ..config() });
    rig.pass(5);
    rig.push(0, b"x");
    rig.time.advance(Duration::from_secs(1 << 33));
    assert!(rig.expired().is_empty());
    assert_eq!(rig.view.next_expiry(), None);
    rig.push(1, b"y");
    assert!(rig.expired().is_empty());
    assert_eq!(rig.drain().len(), 2);
}

fn acc_40_deallocating_strikes_out_and_refunds_once<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.fill(0);
    rig.fill(1);
    let mut batches = rig.drain();
    let (one, other) = (batches.remove(0), batches.remove(0));
    assert_ne!(one.id(), other.id());
    let id = one.id();
    assert_eq!(one.completion().complete(0, None), Ok(true));
    assert_eq!(rig.accumulator.pool().leased, 2 * BATCH as u64);
    assert_eq!(rig.view.deallocate(one), Ok(()));
    assert_eq!(rig.accumulator.pool().leased, BATCH as u64);
    assert!(rig.view.strike_out(id).is_err(), "absence is an illegal state");
    assert!(rig.accumulator.has_incomplete());
    // Struck out before: told so, and refunded all the same.
    assert_eq!(other.completion().complete(0, None), Ok(true));
    assert_eq!(rig.view.strike_out(other.id()), Ok(()));
    assert!(!rig.accumulator.has_incomplete());
    assert!(rig.view.deallocate(other).is_err());
    let now = rig.accumulator.pool();
    assert_eq!((now.leased, now.available()), (0, now.total));
}

fn acc_40_asking_for_unfinished_batches_ends_none<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.fill(0);
    let batch = rig.drain_one();
    assert!(rig.accumulator.has_incomplete());
    assert_eq!(batch.completion().complete(0, None), Ok(true));
    // Any thread may ask now, and may flush: the batch is still the sender's to strike out.
    rig.accumulator.has_incomplete();
    rig.accumulator.begin_flush();
    rig.accumulator.await_flush(None).unwrap();
    assert_eq!(rig.view.deallocate(batch), Ok(()));
    assert!(!rig.accumulator.has_incomplete());
}

/// A thread in a flush that waits for what is there now.
#[track_caller]
fn flusher<C: Core>(rig: &Rig<C>) -> Worker<Result<(), FlushError>> {
    let accumulator = rig.accumulator.clone();
    let flusher = Worker::start(move || {
        accumulator.begin_flush();
        // With a limit, so that it reads the clock once it knows what it waits for.
        accumulator.await_flush(Some(LONG))
    });
    eventually("the flush has begun to wait", || rig.clock.reads_of(flusher.id()) > 0);
    std::thread::sleep(GLANCE);
    flusher
}

fn acc_41_await_flush_waits_for_what_was_there<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { linger: LONG, ..config() });
    rig.fill(3);
    let in_flight = rig.drain_one();
    rig.push(0, b"queued");
    let flusher = flusher(&rig);
    assert!(rig.is_ready(), "sendable at once");
    // Comes later, is not waited for.
    let later = rig.push_future(1, b"later");
    rig.cluster = led_by(&[Some(0), None]);
    let queued = rig.drain_one();
    rig.acknowledge(queued);
    flusher.assert_stays_blocked("one was in flight when the flush began");
    rig.acknowledge(in_flight);
    assert_eq!(flusher.result(), Ok(()));
    assert!(!later.is_done() && rig.accumulator.has_undrained());
    assert!(!rig.accumulator.flush_in_progress());
    rig.cluster = led_by(&[Some(0), Some(0)]);
    assert!(!rig.is_ready(), "and lingers again");
}

fn acc_41_await_flush_with_nothing_to_wait_for<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.accumulator.begin_flush();
    assert_eq!(rig.accumulator.await_flush(None), Ok(()));
    rig.push(0, b"x");
    rig.acknowledge_all();
    rig.accumulator.begin_flush();
    assert_eq!(rig.accumulator.await_flush(None), Ok(()));
    assert!(!rig.accumulator.flush_in_progress());
}

fn acc_41_a_flush_that_times_out_is_over<C: Core>() {
    // Real time, since this one is waited for.
    let clock = WatchedClock::system();
    let (accumulator, mut view) = C::Accumulator::new(config(), clock);
    let partition = accumulator.partition(&tp(0));
    let appended = accumulator.append(&partition, &value(b"x"), Reply::FUTURE, LONG).unwrap();
    for timeout in [0, 1, 40] {
        let watch = Stopwatch::start();
        accumulator.begin_flush();
        assert_eq!(accumulator.await_flush(Some(millis(timeout))), Err(FlushError::TimedOut(millis(timeout))));
        assert!(watch.elapsed() >= millis(timeout) && watch.elapsed() < millis(timeout) + SOON);
        assert!(!accumulator.flush_in_progress());
    }
    // The record goes on.
    assert!(accumulator.has_undrained() && !appended.future.unwrap().is_done());
    view.abort_all(&GIVEN_UP);
}

fn acc_41_flushes_overlap<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { linger: LONG, ..config() });
    rig.push(0, b"a");
    let one = flusher(&rig);
    rig.push(1, b"b");
    let two = flusher(&rig);
    rig.cluster = led_by(&[Some(0), None]);
    rig.acknowledge_all();
    assert_eq!(one.result(), Ok(()));
    two.assert_stays_blocked("it waits for more than the first one");
    assert!(rig.accumulator.flush_in_progress(), "one has ended, the other has not");
    rig.cluster = led_by(&[None, Some(0)]);
    assert!(rig.is_ready());
    rig.acknowledge_all();
    assert_eq!(two.result(), Ok(()));
    assert!(!rig.accumulator.flush_in_progress());
}

fn acc_41_a_flush_ends_with_failed_batches_too<C: Core>() {
    let mut rig = Rig::<C>::new();
    for partition in 0..4 {
        rig.fill(partition);
    }
    let flusher = flusher(&rig);
    let mut batches = rig.drain();
    let (failed, dropped, retried, acknowledged) =
        (batches.remove(0), batches.remove(0), batches.remove(0), batches.remove(0));
    fail(&mut rig, vec![failed]);
    drop(dropped);
    rig.acknowledge(acknowledged);
    rig.reenqueue(retried);
    flusher.assert_stays_blocked("a batch in a retry is not finished");
    rig.view.abort_all(&GIVEN_UP);
    assert_eq!(flusher.result(), Ok(()));
}

fn acc_42_abort_all_ends_every_unfinished_batch<C: Core>() {
    let mut rig = Rig::<C>::new();
    let results = Results::default();
    push_noted(&rig, 0, "in flight", &results);
    let in_flight = rig.drain_one();
    push_noted(&rig, 0, "open", &results);
    push_noted(&rig, 1, "closed by the next", &results);
    rig.fill(1);
    push_noted(&rig, 2, "finished", &results);
    rig.cluster = led_by(&[None, None, Some(0)]);
    rig.acknowledge_all();
    rig.cluster = led_by(&[None, None, None, Some(0)]);
    push_noted(&rig, 3, "retried", &results);
    let retried = rig.drain_one();
    rig.reenqueue(retried);
    assert_eq!(rig.accumulator.pool().leased, 5 * BATCH as u64);

    rig.view.abort_all(&GIVEN_UP);
    assert_eq!(names(&results), ["closed by the next", "finished", "in flight", "open", "retried"], "each once");
    for (name, result) in lock(&results).iter() {
        assert_eq!(result.is_ok(), *name == "finished");
        assert!(result.is_ok() || *result == Err(GIVEN_UP), "{name}: {result:?}");
    }
    assert!(!rig.accumulator.has_undrained() && !rig.accumulator.has_incomplete());
    // The memory of what is out comes back when the transport lets go; its late answer changes nothing.
    assert_eq!(rig.accumulator.pool().leased, BATCH as u64);
    assert_eq!(in_flight.completion().complete(0, None), Ok(false));
    assert!(rig.view.deallocate(in_flight).is_err(), "the abort has struck it out");
    assert_eq!(rig.accumulator.pool().leased, 0);
    assert_eq!(lock(&results).len(), 5);
    // The accumulator is not closed by this.
    rig.push(0, b"new");
    rig.cluster = led_by(&[Some(0)]);
    rig.acknowledge_all();
    assert!(!rig.accumulator.has_incomplete());
}

fn acc_42_batches_are_aborted_in_the_order_of_their_opening<C: Core>() {
    // In flight or queued, whatever the partition: what an abort does can be replayed, and a partition's callbacks run in its order.
    const FLYING: usize = 6;
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: 64 * BATCH as u64, ..config() });
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |number: usize| {
        let order = order.clone();
        move |_| lock(&order).push(number)
    };
    let mut flying = Vec::new();
    for number in 0..FLYING {
        rig.push_callback(number as i32 % 2, b"in flight", note(number));
        flying.push(rig.drain_one());
    }
    for number in FLYING..FLYING + PARTITIONS as usize {
        rig.push_callback(number as i32 % PARTITIONS, b"queued", note(number));
    }
    rig.view.abort_all(&GIVEN_UP);
    assert_eq!(*lock(&order), (0..FLYING + PARTITIONS as usize).collect::<Vec<_>>());
    drop(flying);
    assert_eq!(rig.accumulator.pool().leased, 0);
}

fn acc_42_what_was_settled_before_is_struck_out_too<C: Core>() {
    // A transport that drops a batch settles it; nobody else will come to strike it out.
    let mut rig = Rig::<C>::new();
    rig.push(0, b"x");
    let batch = rig.drain_one();
    assert_eq!(batch.completion().complete(0, None), Ok(true));
    rig.view.abort_all(&GIVEN_UP);
    assert!(rig.view.deallocate(batch).is_err(), "the abort has struck it out");
    assert_eq!(rig.accumulator.pool().leased, 0);
}

fn acc_42_callbacks_run_outside_of_every_lock<C: Core>() {
    let rig = Rig::<C>::new();
    let (told, appended) = mpsc::channel();
    for partition in [0, 1] {
        let accumulator = rig.accumulator.clone();
        let told = told.clone();
        rig.push_callback(partition, b"x", move |_| {
            // Every operation that takes a lock, on its own partition and another.
            for partition in [0, 1, 2] {
                let handle = accumulator.partition(&tp(partition));
                let outcome = accumulator.append(&handle, &value(b"again"), Reply::IGNORE, Duration::ZERO);
                told.send(outcome.is_ok()).unwrap();
            }
            accumulator.has_undrained();
            accumulator.has_incomplete();
            accumulator.pool();
        });
    }
    let aborter = Worker::start(move || {
        let mut rig = rig;
        rig.view.abort_all(&GIVEN_UP);
        rig
    });
    let _rig = aborter.result();
    assert_eq!(appended.try_iter().collect::<Vec<_>>(), [true; 6]);
}

fn acc_42_what_comes_during_an_abort_is_whole<C: Core>() {
    // A callback of the abort appends so much that a batch is closed behind the abort's back. Either it is aborted and gone from its queue, or it is
    // left alone; never both queued and ended.
    let mut rig = Rig::<C>::new();
    let new = Arc::new(Mutex::new(Vec::<RecordFuture>::new()));
    {
        let (accumulator, new) = (rig.accumulator.clone(), new.clone());
        rig.push_callback(0, b"x", move |_| {
            let handle = accumulator.partition(&tp(0));
            for _ in 0..3 {
                let appended = accumulator.append(&handle, &value(&largest()), Reply::FUTURE, Duration::ZERO);
                lock(&new).extend(appended.unwrap().future);
            }
        });
    }
    rig.view.abort_all(&GIVEN_UP);
    assert_eq!(lock(&new).len(), 3);
    let ended = lock(&new).iter().filter(|future| future.is_done()).count();
    let mut sent = 0;
    while rig.accumulator.has_undrained() {
        let batch = rig.drain_one();
        assert_eq!(batch.completion().final_state(), None, "an aborted batch is sent");
        rig.acknowledge(batch);
        sent += 1;
    }
    assert_eq!(ended + sent, 3);
    assert!(lock(&new).iter().all(RecordFuture::is_done));
    assert!(!rig.accumulator.has_incomplete());
    assert_eq!(rig.accumulator.pool().leased, 0);
}

fn acc_44_forced_close_ends_queued_batches_and_empties_the_map<C: Core>() {
    let mut rig = Rig::<C>::new();
    let results = Results::default();
    push_noted(&rig, 0, "in flight", &results);
    let in_flight = rig.drain_one();
    for (partition, name) in [(0, "a"), (1, "b"), (2, "c")] {
        push_noted(&rig, partition, name, &results);
        rig.fill(partition);
    }
    let kept = rig.partition(0);
    rig.accumulator.close();
    rig.view.abort_incomplete(&GIVEN_UP);
    assert_eq!(names(&results), ["a", "b", "c", "in flight"]);
    assert!(lock(&results).iter().all(|(_, result)| *result == Err(GIVEN_UP)));
    assert!(!rig.accumulator.has_undrained() && !rig.accumulator.has_incomplete());
    assert_eq!(rig.ready(), ReadyCheck::default());
    assert!(rig.drain().is_empty() && rig.expired().is_empty());
    // A handle that someone has kept opens no way around.
    let refused = rig.accumulator.append(&kept, &value(b"late"), Reply::IGNORE, LONG).unwrap_err();
    assert_eq!(refused, AppendError::Closed);
    assert_eq!(rig.accumulator.pool().leased, BATCH as u64);
    drop(in_flight);
    assert_eq!(rig.accumulator.pool().leased, 0);
    // Again, with nothing left to do.
    rig.view.abort_incomplete(&GIVEN_UP);
    assert_eq!(lock(&results).len(), 4);
}

fn acc_44_blocked_appenders_get_the_closed_error<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: 2 * BATCH as u64, ..config() });
    rig.fill(0);
    rig.fill(1);
    let blocked: Vec<_> = [0, 1, 2, 2].map(|partition| rig.appender(partition, b"x")).into();
    eventually("all wait for memory", || rig.accumulator.pool().queued == 4);
    rig.accumulator.close();
    let Rig { accumulator, .. } = {
        let closer = Worker::start(move || {
            rig.view.abort_incomplete(&GIVEN_UP);
            rig
        });
        closer.result()
    };
    for appender in blocked {
        let error = appender.result().unwrap_err();
        assert!(matches!(error, AppendError::Closed | AppendError::Pool(PoolError::Closed)), "{error}");
    }
    let now = accumulator.pool();
    assert_eq!((now.available(), now.queued, now.reserved), (now.total, 0, 0));
    assert!(!accumulator.has_undrained() && !accumulator.has_incomplete());
}

fn acc_45_close_refuses_hurries_and_is_idempotent<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { linger: LONG, ..config() });
    let future = rig.push_future(0, b"x");
    rig.push(1, b"y");
    assert!(!rig.accumulator.is_closed() && !rig.is_ready());
    for _ in 0..2 {
        rig.accumulator.close();
        assert!(rig.accumulator.is_closed());
        assert_eq!(rig.try_push(0, b"z", Reply::IGNORE).unwrap_err(), AppendError::Closed);
        assert!(rig.is_ready(), "what is queued goes");
    }
    let drained = rig.drain();
    assert_eq!(drained.len(), 2);
    drained.into_iter().for_each(|batch| rig.acknowledge(batch));
    assert!(future.wait().is_ok(), "and ends well");
    assert!(!rig.accumulator.has_undrained() && !rig.accumulator.has_incomplete());
}

fn acc_45_close_closes_the_pool<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: BATCH as u64, ..config() });
    rig.fill(0);
    let blocked = rig.appender(1, b"x");
    eventually("it waits for memory", || rig.accumulator.pool().queued == 1);
    rig.accumulator.close();
    let error = blocked.result().unwrap_err();
    assert!(matches!(error, AppendError::Pool(PoolError::Closed) | AppendError::Closed), "{error}");
    rig.acknowledge_all();
    let now = rig.accumulator.pool();
    assert_eq!((now.available(), now.exhausted), (now.total, 0));
}

fn acc_46_undrained_and_incomplete<C: Core>() {
    let mut rig = Rig::<C>::new();
    let state = |rig: &Rig<C>| (rig.accumulator.has_undrained(), rig.accumulator.has_incomplete());
    assert_eq!(state(&rig), (false, false));
    rig.partition(3);
    assert_eq!(state(&rig), (false, false), "a partition without a batch");
    rig.push(0, b"x");
    assert_eq!(state(&rig), (true, true));
    let batch = rig.drain_one();
    assert_eq!(state(&rig), (false, true), "in flight");
    rig.reenqueue(batch);
    assert_eq!(state(&rig), (true, true));
    rig.pass(120);
    let batch = rig.drain_one();
    rig.push(0, b"y");
    assert_eq!(state(&rig), (true, true));
    rig.acknowledge(batch);
    assert_eq!(state(&rig), (true, true), "the next one");
    rig.acknowledge_all();
    assert_eq!(state(&rig), (false, false));
    // A transport that drops a batch has finished it.
    rig.push(0, b"z");
    let batch = rig.drain_one();
    drop(batch);
    assert_eq!(state(&rig), (false, false));
}

fn gap_15_memory_returns_when_the_transport_lets_go<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: BATCH as u64, ..config() });
    // However the records end while the batch is out: by expiry, abort, forced close.
    for end in 0..3 {
        let future = rig.push_future(0, b"payload");
        let batch = rig.drain_one();
        let written = bytes::Bytes::from_owner(batch);
        let socket = written.clone();
        drop(written);
        match end {
            0 => {
                rig.pass(2_000);
                assert!(rig.expired().is_empty(), "what is out is the sender's to expire");
                rig.view.abort_all(&timed_out());
            }
            1 => rig.view.abort_all(&GIVEN_UP),
            _ => {
                rig.accumulator.close();
                rig.view.abort_incomplete(&GIVEN_UP);
            }
        }
        assert!(future.wait().is_err(), "its records have ended");
        assert_eq!(rig.accumulator.pool().leased, BATCH as u64, "and its memory is still out");
        assert!(rig.try_push(0, b"other data", Reply::IGNORE).is_err(), "so nothing can be written over it");
        let sent = crate::batch::read(&socket);
        assert_eq!(sent[0].value, Some(&b"payload"[..]), "what goes over the wire is whole");
        drop(sent);
        drop(socket);
        assert_eq!(rig.accumulator.pool().leased, 0);
    }
    // Acknowledged early, by a transport that keeps the bytes a little longer.
    let pool = crate::pool::pool::<C>(BATCH as u64, BATCH);
    let lease = crate::pool::take::<C>(&pool, BATCH).erase();
    let mut open = <C::Batch as unlatched::batch::OpenBatch>::open(tp(0), 0, lease, at(0));
    crate::batch::push(&mut open, &value(b"x"));
    let mut sealed = unlatched::batch::OpenBatch::seal(open);
    sealed.close().unwrap();
    assert_eq!(sealed.completion().complete(0, None), Ok(true));
    let bytes = bytes::Bytes::from_owner(sealed);
    assert_eq!(unlatched::pool::BufferPool::available(&*pool), 0);
    drop(bytes);
    assert_eq!(unlatched::pool::BufferPool::available(&*pool), BATCH as u64);
}

fn gap_20_flush_inside_a_callback_is_refused_at_once<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { linger: LONG, ..config() });
    let (told, outcomes) = mpsc::channel();
    let accumulator = rig.accumulator.clone();
    rig.push_callback(0, b"x", move |_| {
        for timeout in [None, Some(LONG)] {
            accumulator.begin_flush();
            let outcome = accumulator.await_flush(timeout);
            told.send((outcome, accumulator.flush_in_progress())).unwrap();
        }
    });
    rig.push(1, b"unfinished");
    rig.cluster = led_by(&[Some(0), None]);
    let batch = rig.drain_one();
    let settler = Worker::start(move || (batch.completion().complete(0, None), batch));
    assert_eq!(settler.result().0, Ok(true));
    let refused = (Err(FlushError::InCallback), false);
    assert_eq!(outcomes.try_iter().collect::<Vec<_>>(), [refused, refused]);
    assert!(rig.accumulator.has_undrained());
}

fn gap_20_appending_inside_a_callback_is_allowed<C: Core>() {
    let mut rig = Rig::<C>::new();
    let (told, appended) = mpsc::channel();
    let accumulator = rig.accumulator.clone();
    rig.push_callback(0, b"first", move |result| {
        assert!(result.is_ok());
        let handle = accumulator.partition(&tp(0));
        told.send(accumulator.append(&handle, &value(b"second"), Reply::FUTURE, Duration::ZERO).unwrap()).unwrap();
    });
    rig.acknowledge_all();
    let second = appended.try_recv().expect("the callback came through");
    assert!(second.new_batch);
    let batch = rig.drain_one();
    assert_eq!(values([&batch]), ["second"]);
    rig.acknowledge(batch);
    assert!(second.future.unwrap().wait().is_ok());
}

fn gap_20_appending_inside_a_callback_never_waits_for_memory<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: BATCH as u64, ..config() });
    let (told, refused) = mpsc::channel();
    let accumulator = rig.accumulator.clone();
    let mut appender = rig.accumulator.appender();
    rig.push_callback(0, b"all there is", move |_| {
        let handle = accumulator.partition(&tp(1));
        // The memory comes back from this very thread.
        let result = accumulator.append(&handle, &value(b"x"), Reply::IGNORE, LONG);
        told.send(result.map(drop)).unwrap();
        told.send(appender.append(&handle, &value(b"x"), Reply::IGNORE, LONG).map(drop)).unwrap();
    });
    let watch = Stopwatch::start();
    rig.acknowledge_all();
    assert!(watch.elapsed() < LONG / 2, "{:?}", watch.elapsed());
    let refused: Vec<_> = refused.try_iter().collect();
    let exhausted = |result: &_| matches!(result, Err(AppendError::Pool(PoolError::Exhausted { .. })));
    assert!(refused.len() == 2 && refused.iter().all(exhausted), "{refused:?}");
    assert_at_rest(&rig.accumulator.pool());
}

fn gap_21_the_end_of_the_sender_ends_the_accumulator<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: 2 * BATCH as u64, ..config() });
    let in_flight_future = rig.push_future(0, b"in flight");
    let in_flight = rig.drain_one();
    let mut queued = rig.push_future(1, b"queued");
    let blocked = rig.appender(2, b"blocked");
    eventually("it waits for memory", || rig.accumulator.pool().queued == 1);
    let sleeper = Worker::start(move || in_flight_future.wait());
    let Rig { accumulator, view, clock, .. } = rig;
    // Its thread panics.
    let sender = std::thread::spawn(move || {
        let _view = view;
        panic!("on purpose: the sender dies")
    });
    assert!(sender.join().is_err());
    assert!(matches!(sleeper.result(), Err(SendError::Aborted { .. })));
    assert!(matches!(queued.wait_timeout(LONG, &SystemClock::new()), Some(Err(SendError::Aborted { .. }))));
    assert!(blocked.result().is_err());
    let handle = accumulator.partition(&tp(0));
    let refused = accumulator.append(&handle, &value(b"late"), Reply::IGNORE, LONG).unwrap_err();
    assert_eq!(refused, AppendError::Closed);
    assert!(accumulator.is_closed() && !accumulator.has_undrained() && !accumulator.has_incomplete());
    accumulator.begin_flush();
    assert_eq!(accumulator.await_flush(None), Ok(()));
    drop(in_flight);
    assert_eq!(accumulator.pool().available(), 2 * BATCH as u64);
    drop(clock);
}
