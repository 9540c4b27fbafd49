//! Laws that only the lock-free core keeps, since the twin locks: L7 and L9 of `papers/laws.md`. A thread is stopped at each of its shared steps, for as long as the others need.

use std::sync::Arc;

use unlatched::accumulator::{
    Accumulator, AccumulatorConfig, Appended, Appender, LockFreeAccumulator, LockFreeAppender, SenderView,
};
use unlatched::batch::{RecordFuture, Reply, SealedBatch};
use unlatched::error::{AppendError, SendError};
use unlatched::primitive::atomic::AtomicUsize;
use unlatched::primitive::atomic::Ordering::SeqCst;
use unlatched::primitive::clock::{Clock, Instant, SharedClock};
use unlatched::primitive::sim::{Sim, pause_at};
use unlatched::record::Record;

use crate::appenders::{ample, with_a_lane};
use crate::batch::{millis, value};
use crate::order::numbered;
use crate::progress::stopped_at;
use crate::rig::{BATCH, Rig, config, largest, values};
use crate::support::{GLANCE, LONG, LockFree, Worker, eventually};

const GIVEN_UP: SendError = SendError::Aborted { reason: "on purpose" };

/// What stands in the partition before the append that is stopped.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    Room,
    NoRoom,
}

/// The shared steps of an append, each with what makes it pass there, and whether a forced close has to wait for it: it may have memory in hand.
const STEPS: &[(&str, Before, bool)] = &[
    ("lane.announced", Before::Room, false),
    ("batch.reserve", Before::Room, false),
    ("batch.copy", Before::Room, false),
    ("callbacks.push", Before::Room, false),
    ("batch.commit", Before::Room, false),
    ("batch.seal", Before::NoRoom, false),
    ("ready.push", Before::NoRoom, false),
    ("accumulator.allocate", Before::Nothing, true),
    ("accumulator.second-look", Before::Nothing, true),
    ("books.enter", Before::Nothing, false),
    ("lane.open", Before::Nothing, false),
    ("books.opened", Before::Nothing, false),
];

fn rig_with(before: Before) -> Rig<LockFree> {
    let rig = Rig::<LockFree>::with(AccumulatorConfig { linger: millis(0), ..config() });
    match before {
        Before::Nothing => {}
        Before::Room => rig.push(0, b"before"),
        Before::NoRoom => rig.push(0, &largest()),
    }
    rig
}

/// An append to partition 0 with a callback and a future, stopped at `step`. Whether it was accepted, with the future, and how often it was called.
#[allow(clippy::type_complexity)]
fn stopped_append(
    rig: &Rig<LockFree>,
    step: &'static str,
) -> (Worker<Option<RecordFuture>>, unlatched::primitive::Stop, Arc<std::sync::Mutex<u32>>) {
    let called = Arc::new(std::sync::Mutex::new(0));
    let (accumulator, partition, calls) = (rig.accumulator.clone(), rig.partition(0), called.clone());
    let (worker, stop) = stopped_at(step, move || {
        let reply = Reply { future: true, ..Reply::callback(move |_| *calls.lock().unwrap() += 1) };
        let appended = accumulator.append(&partition, &value(b"slow, and of some bytes"), reply, LONG);
        appended.ok().and_then(|appended| appended.future)
    });
    (worker, stop, called)
}

#[track_caller]
fn at_rest(rig: &Rig<LockFree>, step: &str) {
    let pool = rig.accumulator.pool();
    assert_eq!((pool.available(), pool.queued), (pool.total, 0), "{step}: {pool:?}");
    assert!(!rig.accumulator.has_undrained() && !rig.accumulator.has_incomplete(), "{step}");
}

/// Completes what was drained.
fn acknowledge(rig: &mut Rig<LockFree>, batches: Vec<SealedBatch>) {
    batches.into_iter().for_each(|batch| rig.acknowledge(batch));
}

#[test]
fn l7_an_append_that_is_stopped_holds_up_its_own_batch_alone() {
    for (step, before, _) in STEPS {
        let rig = rig_with(*before);
        let (slow, stop, called) = stopped_append(&rig, step);
        let others = Worker::start(move || {
            let mut rig = rig;
            // Others append, to the same partition as well; the sender serves another partition, and its looks say nothing that would make it spin.
            let beside = rig.push_future(0, b"beside");
            rig.push(1, b"elsewhere");
            rig.ready();
            let drained = rig.drain();
            assert!(values(&drained).contains(&"elsewhere".to_owned()), "{step}");
            acknowledge(&mut rig, drained);
            // What is left waits for the one that is stopped; the sender, asked again and again, is not told to be quick about it.
            rig.ready();
            acknowledge_all(&mut rig);
            let check = rig.ready();
            assert!(check.nodes.is_empty(), "{step}: it would spin: {check:?}");
            // Their time is up all the same.
            rig.pass(1_000);
            for batch in rig.expired() {
                assert_eq!(batch.completion().fail(GIVEN_UP, None), Ok(true), "{step}");
                rig.view.deallocate(batch).unwrap();
            }
            assert!(beside.is_done(), "{step}: another's record waits for it");
            rig.accumulator.begin_flush();
            let _ = rig.accumulator.await_flush(Some(millis(1)));
            rig
        });
        let mut rig = others.result();
        stop.release();
        let future = slow.result().expect("it was accepted");
        rig.ready();
        acknowledge_all(&mut rig);
        assert!(future.is_done(), "{step}");
        assert_eq!(*called.lock().unwrap(), 1, "{step}");
        at_rest(&rig, step);
    }
}

fn acknowledge_all(rig: &mut Rig<LockFree>) {
    while {
        let drained = rig.drain();
        let any = !drained.is_empty();
        acknowledge(rig, drained);
        any
    } {}
}

#[test]
fn l7_a_forced_close_waits_for_memory_in_hand_and_for_no_copy() {
    for (step, before, waits) in STEPS {
        let rig = rig_with(*before);
        let (slow, stop, called) = stopped_append(&rig, step);
        forced_close(rig, slow, &stop, &called, step, *waits);
    }
}

/// A forced close while an append is stopped, for which it has to wait or not.
fn forced_close(
    rig: Rig<LockFree>,
    slow: Worker<Option<RecordFuture>>,
    stop: &unlatched::primitive::Stop,
    called: &std::sync::Mutex<u32>,
    step: &str,
    waits: bool,
) {
    let Rig { accumulator, mut view, clock, time, cluster } = rig;
    let closer = Worker::start({
        let accumulator = accumulator.clone();
        move || {
            accumulator.close();
            view.abort_incomplete(&GIVEN_UP);
            view
        }
    });
    if waits {
        std::thread::sleep(GLANCE);
        assert!(!closer.is_finished(), "{step}: memory may be in hand");
        stop.release();
    }
    let view = closer.result();
    let before = *called.lock().unwrap();
    stop.release();
    let future = slow.result();
    // Accepted before the close, and ended by it; or refused.
    let accepted = u32::from(future.is_some());
    assert_eq!(*called.lock().unwrap(), accepted, "{step}: each accepted record ends once");
    assert_eq!(before, accepted, "{step}: and before the forced close returns");
    assert!(future.is_none_or(|future| future.is_done()), "{step}");
    at_rest(&Rig { accumulator, view, clock, time, cluster }, step);
}

/// The shared steps of an append to a lane of one's own in which a batch is open: whether the record has room there, and whether a forced close has to wait for it.
const OWNER_STEPS: &[(&str, bool, bool)] = &[
    ("owned.begin", true, false),
    ("batch.fill", true, false),
    ("callbacks.push", true, false),
    ("owned.end", true, false),
    ("owned.hand-over", false, false),
    ("ready.push", false, false),
    ("appender.allocate", false, true),
    ("books.enter", false, false),
    ("owned.open", false, false),
    ("books.opened", false, false),
];

/// An append by an appender that has a lane with a record in it, stopped at `step`, as in [`stopped_append`].
#[allow(clippy::type_complexity)]
fn stopped_owner(
    step: &'static str,
    fits: bool,
) -> (Rig<LockFree>, Worker<Option<RecordFuture>>, unlatched::primitive::Stop, Arc<std::sync::Mutex<u32>>) {
    let (rig, mut appender) = with_a_lane::<LockFree>(AccumulatorConfig { linger: LONG, ..ample() });
    let called = Arc::new(std::sync::Mutex::new(0));
    let (partition, calls) = (rig.partition(0), called.clone());
    if !fits {
        assert!(
            appender
                .append(&partition, &value(&largest()), Reply::IGNORE, LONG)
                .is_ok_and(|appended| !appended.batch_is_full)
        );
    }
    let (worker, stop) = stopped_at(step, move || {
        let reply = Reply { future: true, ..Reply::callback(move |_| *calls.lock().unwrap() += 1) };
        let appended = appender.append(&partition, &value(b"slow, and of some bytes"), reply, LONG);
        appended.ok().and_then(|appended| appended.future)
    });
    (rig, worker, stop, called)
}

#[test]
fn l7_an_owner_that_is_stopped_holds_up_its_own_lane_alone() {
    for (step, fits, _) in OWNER_STEPS {
        let (rig, slow, stop, called) = stopped_owner(step, *fits);
        let others = Worker::start(move || {
            let mut rig = rig;
            // A flush makes everything due: the sender asks for what the owner has open.
            rig.accumulator.begin_flush();
            let beside = rig.push_future(0, b"beside");
            rig.push(1, b"elsewhere");
            rig.ready();
            let drained = rig.drain();
            assert!(values(&drained).contains(&"elsewhere".to_owned()), "{step}");
            acknowledge(&mut rig, drained);
            // One batch of a partition in each pass.
            acknowledge_all(&mut rig);
            assert!(beside.is_done(), "{step}: another's record waits for it");
            rig.ready();
            acknowledge_all(&mut rig);
            let check = rig.ready();
            assert!(check.nodes.is_empty(), "{step}: it would spin: {check:?}");
            let _ = rig.accumulator.await_flush(Some(millis(1)));
            rig
        });
        let mut rig = others.result();
        stop.release();
        let future = slow.result().expect("it was accepted");
        rig.accumulator.begin_flush();
        rig.ready();
        acknowledge_all(&mut rig);
        rig.accumulator.await_flush(Some(millis(0))).expect("all was acknowledged");
        assert!(future.is_done(), "{step}");
        assert_eq!(*called.lock().unwrap(), 1, "{step}");
        at_rest(&rig, step);
    }
}

#[test]
fn l7_a_forced_close_waits_for_no_owner_but_one_with_memory_in_hand() {
    for (step, fits, waits) in OWNER_STEPS {
        let (rig, slow, stop, called) = stopped_owner(step, *fits);
        forced_close(rig, slow, &stop, &called, step, *waits);
    }
}

#[test]
fn l9_a_close_that_is_stopped_holds_up_nobody() {
    for step in ["books.close", "lane.close"] {
        let rig = rig_with(Before::Room);
        let (closer, stop) = stopped_at(step, {
            let accumulator = rig.accumulator.clone();
            move || accumulator.close()
        });
        let others = Worker::start(move || {
            let mut rig = rig;
            // Accepted or refused, but at once.
            let accepted = usize::from(rig.try_push(0, b"beside", Reply::IGNORE).is_ok());
            let drained = rig.drain();
            assert_eq!(values(&drained).len(), 1 + accepted, "{step}");
            acknowledge(&mut rig, drained);
            rig
        });
        let mut rig = others.result();
        stop.release();
        closer.result();
        acknowledge_all(&mut rig);
        at_rest(&rig, step);
    }
}

/// A sender that is stopped at `step` over partition 0, while somebody appends to that.
fn stopped_sender(
    rig: Rig<LockFree>,
    step: &'static str,
    mut append: impl FnMut(&Record<'_>) -> Result<Appended, AppendError> + Send + 'static,
) {
    let (sender, stop) = stopped_at(step, move || {
        let mut rig = rig;
        rig.accumulator.begin_flush();
        rig.ready();
        let drained = rig.drain();
        (rig, drained)
    });
    let appender = Worker::start(move || {
        for _ in 0..3 * BATCH / 70 {
            assert!(append(&value(b"beside")).is_ok(), "{step}");
        }
    });
    appender.result();
    stop.release();
    let (mut rig, drained) = sender.result();
    acknowledge(&mut rig, drained);
    rig.ready();
    acknowledge_all(&mut rig);
    at_rest(&rig, step);
}

#[test]
fn l9_a_sender_that_is_stopped_holds_up_no_appender() {
    for step in ["batch.seal", "view.look"] {
        let rig = rig_with(Before::Room);
        let (accumulator, partition) = (rig.accumulator.clone(), rig.partition(0));
        stopped_sender(rig, step, move |record| accumulator.append(&partition, record, Reply::IGNORE, LONG));
    }
}

/// It is about to take the last batch of a lane out of that: another comes into it first.
#[test]
fn l9_a_sender_that_is_stopped_over_an_idle_lane_holds_up_no_appender() {
    let mut rig = rig_with(Before::Room);
    acknowledge_all(&mut rig);
    let (accumulator, partition) = (rig.accumulator.clone(), rig.partition(0));
    let (sender, stop) = stopped_at("lane.empty", move || {
        empty_lanes(&mut rig);
        rig
    });
    let appender = Worker::start(move || {
        for _ in 0..3 * BATCH / 70 {
            assert!(accumulator.append(&partition, &value(b"beside"), Reply::IGNORE, LONG).is_ok());
        }
    });
    appender.result();
    stop.release();
    let mut rig = sender.result();
    acknowledge_all(&mut rig);
    at_rest(&rig, "lane.empty");
}

/// Batches elsewhere, until the sender has taken the last batch of every other lane out of that.
fn empty_lanes(rig: &mut Rig<LockFree>) {
    for _ in 0..400 {
        rig.push(1, b"elsewhere");
        acknowledge_all(rig);
    }
}

/// It is about to open a batch in an emptied lane when others do, whose batch is sent, and the lane emptied once more: the tail that it finds is not the one that it has seen.
#[test]
fn l6_an_opener_that_is_stopped_over_an_emptied_lane_does_not_take_another_emptying_for_the_same() {
    let mut rig = rig_with(Before::Room);
    acknowledge_all(&mut rig);
    empty_lanes(&mut rig);
    let (slow, stop, _) = stopped_append(&rig, "lane.open");
    rig.push(0, b"beside");
    acknowledge_all(&mut rig);
    empty_lanes(&mut rig);
    stop.release();
    assert!(slow.result().is_some(), "accepted");
    // Numbers rise along a lane: asserted where they are taken.
    acknowledge_all(&mut rig);
    at_rest(&rig, "lane.open");
}

/// A waker that counts.
#[derive(Default)]
struct Counting(std::sync::Mutex<u32>);

impl std::task::Wake for Counting {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() += 1;
    }
}

#[test]
fn acc_21_who_begins_to_wait_for_memory_wakes_the_sender() {
    let mut rig = Rig::<LockFree>::with(AccumulatorConfig { buffer_memory: BATCH as u64, linger: LONG, ..config() });
    let wakes = Arc::new(Counting::default());
    rig.accumulator.wake_sender_by(wakes.clone().into());
    rig.push(0, b"it lingers");
    assert!(!rig.is_ready());
    assert!(rig.try_push(1, b"it may not wait", Reply::IGNORE).is_err());
    assert_eq!(*wakes.0.lock().unwrap(), 0, "nobody waits");
    let waiter = rig.appender(1, b"it waits");
    eventually("the sender is woken", || *wakes.0.lock().unwrap() == 1);
    // By then the waiter stands in line, so that the sender's look finds it.
    assert!(rig.is_ready(), "what lingers goes at once");
    rig.acknowledge_all();
    assert!(waiter.result().is_ok());
}

/// It had announced a batch that is sealed meanwhile, and has no place there: it says that it has gone from it before it does anything else, since it may be stopped in the next one.
#[test]
fn l7_who_was_asked_of_a_batch_tells_before_it_goes_to_the_next() {
    let rig = rig_with(Before::Room);
    let wakes = Arc::new(Counting::default());
    rig.accumulator.wake_sender_by(wakes.clone().into());
    let (slow, stop, _) = stopped_append(&rig, "lane.announced");
    let mut rig = rig;
    rig.ready();
    assert!(rig.drain().is_empty(), "somebody is, or may be, at work on it");
    assert_eq!(*wakes.0.lock().unwrap(), 0);
    stop.release();
    let future = slow.result().expect("it was accepted, in the next batch");
    assert_eq!(*wakes.0.lock().unwrap(), 1, "nobody waited for memory: this is what it told");
    let drained = rig.drain();
    assert_eq!(values(&drained), ["before"]);
    acknowledge(&mut rig, drained);
    acknowledge_all(&mut rig);
    assert!(future.is_done());
    at_rest(&rig, "lane.announced");
}

/// More threads than there are slots, all of them alive: the others are counted, in the same batches.
#[test]
fn acc_10_more_threads_than_slots_append_all_the_same() {
    const THREADS: usize = 100;
    const RECORDS: usize = 30;
    let mut rig = Rig::<LockFree>::with(AccumulatorConfig { buffer_memory: 1 << 20, linger: millis(0), ..config() });
    let together = Arc::new(std::sync::Barrier::new(THREADS));
    let workers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (accumulator, partition, together) = (rig.accumulator.clone(), rig.partition(0), together.clone());
            Worker::start(move || {
                let append = |number| {
                    let content = format!("{thread} {number}");
                    accumulator.append(&partition, &value(content.as_bytes()), Reply::FUTURE, LONG)
                };
                let first = append(0);
                // All have a number by now, and keep it.
                together.wait();
                let others: Vec<_> = (1..RECORDS).map(append).collect();
                together.wait();
                let all = std::iter::once(first).chain(others);
                all.map(|appended| appended.expect("accepted").future.expect("asked for")).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut seen = Vec::new();
    eventually("all was sent", || {
        let drained = rig.drain();
        seen.extend(values(&drained));
        acknowledge(&mut rig, drained);
        seen.len() == THREADS * RECORDS
    });
    for future in workers.into_iter().flat_map(Worker::result) {
        assert!(future.is_done() && future.try_result().is_some_and(|ended| ended.is_ok()));
    }
    let numbers = |thread: usize| {
        let of = format!("{thread} ");
        seen.iter().filter_map(|name| name.strip_prefix(&of)?.parse::<usize>().ok()).collect::<Vec<_>>()
    };
    (0..THREADS)
        .for_each(|thread| assert!(numbers(thread).into_iter().eq(0..RECORDS), "thread {thread}, in its order"));
    at_rest(&rig, "crowd");
}

#[test]
fn l6_a_batch_waits_for_one_that_the_sender_has_not_heard_of() {
    // No room for it beside the largest.
    const LATE: &[u8] = b"late, and of some bytes more than are left";
    let rig = rig_with(Before::Nothing);
    let (accumulator, partition, other) = (rig.accumulator.clone(), rig.partition(0), rig.partition(0));
    let append = move |content: &[u8]| accumulator.append(&partition, &value(content), Reply::IGNORE, LONG).unwrap();
    // Its batch is in the books, and not open.
    let (late, opens) = stopped_at("lane.open", {
        let accumulator = rig.accumulator.clone();
        move || drop(accumulator.append(&other, &value(LATE), Reply::IGNORE, LONG).unwrap())
    });
    // The sender has walked through the books, and looks next which batches are open.
    let (sender, looks) = stopped_at("view.look", move || {
        let mut rig = rig;
        let drained = rig.drain();
        (rig, drained)
    });
    // A batch comes behind the walk and is filled; the one that was in the books is opened behind it.
    drop(append(&largest()));
    opens.release();
    late.result();
    drop(append(b"third"));
    looks.release();
    let (mut rig, drained) = sender.result();
    assert!(drained.is_empty(), "out of turn: {:?}", values(&drained));
    let drained: Vec<SealedBatch> = [rig.drain(), rig.drain()].into_iter().flatten().collect();
    assert_eq!(values(&drained)[1..], [LATE, b"third"].map(|name| String::from_utf8_lossy(name).into_owned()));
    acknowledge(&mut rig, drained);
    at_rest(&rig, "view.look");
}

#[test]
fn l9_a_sender_that_is_stopped_over_an_owned_lane_holds_up_no_owner() {
    for step in ["owned.ask", "owned.is-writing", "owned.hand-over"] {
        let (rig, mut appender) = with_a_lane::<LockFree>(AccumulatorConfig { linger: LONG, ..ample() });
        let partition = rig.partition(0);
        stopped_sender(rig, step, move |record| appender.append(&partition, record, Reply::IGNORE, LONG));
    }
}

#[test]
fn l9_a_close_that_is_stopped_at_an_owned_lane_holds_up_nobody() {
    let (rig, mut appender) = with_a_lane::<LockFree>(AccumulatorConfig { linger: LONG, ..ample() });
    let (closer, stop) = stopped_at("owned.close", {
        let accumulator = rig.accumulator.clone();
        move || accumulator.close()
    });
    let others = Worker::start(move || {
        let mut rig = rig;
        // Accepted or refused, but at once.
        let accepted = usize::from(appender.append(&rig.partition(0), &value(b"beside"), Reply::IGNORE, LONG).is_ok());
        rig.ready();
        let drained = rig.drain();
        assert_eq!(values(&drained).len(), 1 + accepted);
        acknowledge(&mut rig, drained);
        rig
    });
    let mut rig = others.result();
    stop.release();
    closer.result();
    acknowledge_all(&mut rig);
    at_rest(&rig, "owned.close");
}

#[test]
fn l7_many_appended_at_once_hold_up_their_own_batch_alone() {
    for step in ["lane.announced", "batch.reserve", "batch.copy", "batch.commit"] {
        let rig = rig_with(Before::Room);
        let (accumulator, partition) = (rig.accumulator.clone(), rig.partition(0));
        let (slow, stop) = stopped_at(step, move || {
            let records = [value(b"slow"), value(b"and of"), value(b"some bytes")];
            accumulator.append_many(&partition, &records, true, LONG)
        });
        let others = Worker::start(move || {
            let mut rig = rig;
            let beside = rig.push_future(0, b"beside");
            rig.push(1, b"elsewhere");
            rig.ready();
            let drained = rig.drain();
            assert!(values(&drained).contains(&"elsewhere".to_owned()), "{step}");
            acknowledge(&mut rig, drained);
            rig.pass(1_000);
            for batch in rig.expired() {
                assert_eq!(batch.completion().fail(GIVEN_UP, None), Ok(true), "{step}");
                rig.view.deallocate(batch).unwrap();
            }
            assert!(beside.is_done(), "{step}: another's record waits for it");
            rig
        });
        let mut rig = others.result();
        stop.release();
        let done = slow.result();
        assert_eq!((done.accepted, done.refused), (3, None), "{step}");
        rig.ready();
        acknowledge_all(&mut rig);
        assert!(done.futures.iter().all(RecordFuture::is_done), "{step}");
        at_rest(&rig, step);
    }
}

#[test]
fn acc_06_many_appended_at_once_stand_side_by_side() {
    let mut rig = rig_with(Before::Room);
    let (accumulator, partition) = (rig.accumulator.clone(), rig.partition(0));
    let (slow, stop) = stopped_at("batch.copy", move || {
        let records = [value(b"slow"), value(b"and of"), value(b"some bytes")];
        accumulator.append_many(&partition, &records, false, LONG).accepted
    });
    rig.push(0, b"beside");
    stop.release();
    assert_eq!(slow.result(), 3);
    let drained = rig.drain();
    assert_eq!(values(&drained), ["before", "slow", "and of", "some bytes", "beside"]);
    acknowledge(&mut rig, drained);
}

#[test]
fn l6_an_owners_first_batch_waits_for_what_is_copied_into_the_shared_one() {
    let config = || AccumulatorConfig { linger: LONG, ..ample() };
    let append = |rig: &Rig<LockFree>, appender: &mut LockFreeAppender, number| {
        let content = numbered(0, number);
        appender.append(&rig.partition(0), &value(&content), Reply::IGNORE, millis(0)).expect("room")
    };
    // With which record the last shared batch begins before there is a lane.
    let rig = Rig::<LockFree>::with(config());
    let (mut appender, mut begins) = (rig.accumulator.appender(), vec![]);
    for number in 0.. {
        if append(&rig, &mut appender, number).new_batch {
            begins.push(number);
        }
        if appender.lanes() > 0 {
            break;
        }
    }
    let [.., last_shared, _] = begins[..] else { panic!("{begins:?}") };

    let mut rig = Rig::<LockFree>::with(config());
    let mut appender = rig.accumulator.appender();
    (0..=last_shared).for_each(|number| drop(append(&rig, &mut appender, number)));
    let (accumulator, partition) = (rig.accumulator.clone(), rig.partition(0));
    let (slow, stop) =
        stopped_at("batch.copy", move || accumulator.append(&partition, &value(b"slow"), Reply::IGNORE, LONG).is_ok());
    let mut number = last_shared;
    let is_full = |appended: Appended, appender: &LockFreeAppender| appended.batch_is_full && appender.lanes() > 0;
    // Its own batch is filled, and handed over.
    while {
        number += 1;
        let appended = append(&rig, &mut appender, number);
        !is_full(appended, &appender)
    } {}
    let mut seen = Vec::new();
    let mut take = |rig: &mut Rig<LockFree>| {
        loop {
            let drained = rig.drain();
            if drained.is_empty() {
                break;
            }
            seen.extend(values(&drained));
            acknowledge(rig, drained);
        }
        seen.len()
    };
    assert_eq!(take(&mut rig), last_shared as usize, "what stands before the batch that is copied into");
    stop.release();
    assert!(slow.result());
    take(&mut rig);
    seen.retain(|content| content != "slow");
    let all: Vec<String> =
        (0..=number).map(|number| String::from_utf8_lossy(&numbered(0, number)).into_owned()).collect();
    assert_eq!(seen, all[..seen.len()]);
    assert!(seen.len() > last_shared as usize + 1, "the owner's own among them");
}

#[test]
fn l7_a_batch_that_was_asked_for_while_many_were_appended_is_handed_over() {
    let (mut rig, mut appender) = with_a_lane::<LockFree>(AccumulatorConfig { linger: LONG, ..ample() });
    let partition = rig.partition(0);
    let (owner, stop) = stopped_at("batch.fill", move || {
        let records = [value(b"slow"), value(b"and of"), value(b"some bytes")];
        (appender.append_many(&partition, &records, false, LONG), appender)
    });
    rig.accumulator.begin_flush();
    rig.ready();
    assert!(rig.drain().is_empty(), "its owner is at work on it");
    stop.release();
    let (done, _appender) = owner.result();
    assert_eq!((done.accepted, done.must_wake_sender()), (3, true));
    // Not asked for again.
    assert!(rig.accumulator.await_flush(Some(millis(0))).is_err());
    let drained = rig.drain();
    assert_eq!(values(&drained), ["mine", "slow", "and of", "some bytes"]);
    acknowledge(&mut rig, drained);
    at_rest(&rig, "batch.fill");
}

/// Counts its readings: an append makes one for each batch's worth of memory that it takes, and no other.
#[derive(Debug)]
struct Readings {
    clock: SharedClock,
    readings: AtomicUsize,
}

impl Clock for Readings {
    fn now(&self) -> Instant {
        self.readings.fetch_add(1, SeqCst);
        self.clock.now()
    }

    fn unix_millis(&self) -> i64 {
        self.clock.unix_millis()
    }
}

/// Eight tasks that fill batches of one partition, for which there is memory without end, in an order that the seed chooses at each shared step; one of them may stand still at `stopped` until the others are done. How often
/// memory was taken for a batch, and how many batches were opened.
fn fill_together(seed: u64, stopped: Option<&'static str>) -> (usize, usize) {
    let mut sim = Sim::new(seed);
    let clock = Arc::new(Readings { clock: sim.clock(), readings: AtomicUsize::new(0) });
    let config = AccumulatorConfig { buffer_memory: 1_000 * BATCH as u64, ..config() };
    let (accumulator, view) = LockFreeAccumulator::new(config, clock.clone());
    let before = clock.readings.load(SeqCst);
    let opened = Arc::new(AtomicUsize::new(0));
    for task in 0..8 {
        let (accumulator, opened) = (accumulator.clone(), opened.clone());
        sim.spawn(format!("filler {task}"), move || {
            if let Some(step) = stopped.filter(|_| task == 0) {
                pause_at(step, LONG);
            }
            let partition = accumulator.partition(&crate::batch::tp(0));
            for _ in 0..40 {
                let appended = accumulator.append(&partition, &value(&[7; 20]), Reply::IGNORE, LONG).expect("memory");
                opened.fetch_add(usize::from(appended.new_batch), SeqCst);
            }
        });
    }
    sim.run().expect("nobody waits for anybody");
    let (taken, opened) = (clock.readings.load(SeqCst) - before, opened.load(SeqCst));
    assert_eq!(accumulator.pool().leased, (opened * BATCH) as u64, "what was taken for nothing is given back");
    drop(view);
    (taken, opened)
}

#[test]
fn gap_13_one_at_a_time_takes_memory_for_the_next_batch() {
    for seed in 0..8 {
        let (taken, opened) = fill_together(seed, None);
        assert!(opened > 40, "{opened} batches");
        assert_eq!(taken, opened, "seed {seed}");
    }
}

#[test]
fn gap_13_an_opener_that_is_stopped_costs_one_reservation_and_waits_for_nobody() {
    for step in ["accumulator.allocate", "accumulator.second-look", "books.enter", "lane.open"] {
        for seed in 0..4 {
            let (taken, opened) = fill_together(seed, Some(step));
            assert!(opened > 40, "{opened} batches");
            assert!(taken <= opened + 1, "{step}, seed {seed}: {taken} taken for {opened} batches");
        }
    }
}
