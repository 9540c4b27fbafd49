//! Appending to the accumulator: ACC-01 to ACC-06, and the exits of an append (POOL-17).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, Appender, SenderView};
use unlatched::batch::Reply;
use unlatched::broker::Cluster;
use unlatched::error::{AppendError, SendError};
use unlatched::pool::PoolError;
use unlatched::primitive::clock::Instant;
use unlatched::primitive::sim::Sim;
use unlatched::record::{BATCH_OVERHEAD, Record, RecordError, batch_size_upper_bound, record_size};

use crate::batch::{TOPIC, at, tp, value};
use crate::rig::{BATCH, NODE, NOTHING, Rig, config, largest, values};
use crate::support::{Core, Gate, LONG, Worker, eventually, lock, on_every_core};

on_every_core![
    acc_01_a_handle_of_another_accumulator_is_refused,
    acc_01_a_forced_close_waits_for_an_append_in_progress,
    acc_01_every_exit_counts_the_append_out,
    acc_02_a_closed_accumulator_refuses,
    acc_02_the_tail_is_tried_first,
    acc_02_a_tail_without_room_is_closed_there_and_then,
    acc_03_memory_is_a_batch_or_the_records_bound,
    acc_03_memory_is_waited_for_without_the_lock,
    acc_03_batch_size_zero_gives_each_record_its_own_batch,
    acc_03_what_is_still_filled_does_not_count_as_behind,
    acc_03_inside_a_callback_nobody_lets_the_sender_catch_up,
    acc_03_who_opens_a_batch_lets_a_sender_catch_up_that_is_far_behind,
    acc_04_the_second_look_finds_what_another_appender_made,
    acc_04_the_second_look_finds_the_close,
    acc_05_a_batch_is_dated_after_the_wait_for_its_memory,
    acc_06_what_an_append_tells_its_caller,
    pool_17_no_exit_of_an_append_keeps_a_lease,
    gap_15_a_record_that_is_refused_leaves_no_trace,
];

const GIVEN_UP: SendError = SendError::Aborted { reason: "on purpose" };

/// An append that has its memory and is stopped before it goes on: where it reads the clock.
fn stopped_append<C: Core>(rig: &Rig<C>, gate: &Gate) -> Worker<Result<(), AppendError>> {
    let (accumulator, partition, clock) = (rig.accumulator.clone(), rig.partition(0), rig.clock.clone());
    let at_gate = gate.clone();
    let appender = Worker::start(move || {
        clock.at_my_read(1, move || at_gate.pass());
        accumulator.append(&partition, &value(b"late"), Reply::IGNORE, LONG).map(drop)
    });
    gate.await_reached();
    appender
}

fn acc_01_a_handle_of_another_accumulator_is_refused<C: Core>() {
    // Its record would go to the one and be counted in the books of the other.
    let (mine, mut other) = (Rig::<C>::new(), Rig::<C>::new());
    let foreign = other.partition(0);
    let append = || drop(mine.accumulator.append(&foreign, &value(b"x"), Reply::IGNORE, Duration::ZERO));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(append)).is_err());
    assert!(!mine.accumulator.has_incomplete() && !other.accumulator.has_undrained());
    // Nothing is held by that.
    other.push(0, b"own");
    assert_eq!(values(&other.drain()), ["own"]);
}

fn acc_01_a_forced_close_waits_for_an_append_in_progress<C: Core>() {
    let rig = Rig::<C>::new();
    let gate = Gate::default();
    let appender = stopped_append(&rig, &gate);
    assert_eq!(rig.accumulator.pool().leased, BATCH as u64, "it stands there with its memory");
    let Rig { accumulator, mut view, .. } = rig;
    accumulator.close();
    let closer = Worker::start({
        let accumulator = accumulator.clone();
        move || {
            view.abort_incomplete(&GIVEN_UP);
            // Counted out only after the unused memory is back.
            (accumulator.pool().leased, view)
        }
    });
    closer.assert_stays_blocked("an append is in progress");
    gate.open();
    assert_eq!(appender.result(), Err(AppendError::Closed));
    assert_eq!(closer.result().0, 0);
}

fn acc_01_every_exit_counts_the_append_out<C: Core>() {
    let mut rig = Rig::<C>::new();
    let large = vec![0; 11 * BATCH];
    let invalid = Record { timestamp: -7, ..NOTHING };
    let partition = rig.partition(0);
    let append = |record: &Record<'_>| rig.accumulator.append(&partition, record, Reply::IGNORE, Duration::ZERO);
    assert!(matches!(append(&invalid), Err(AppendError::Invalid(_))));
    assert!(matches!(append(&value(&large)), Err(AppendError::Pool(PoolError::TooLarge { .. }))));
    for _ in 0..10 {
        assert!(append(&value(&largest())).unwrap().new_batch);
    }
    assert!(matches!(append(&value(&[0; 20])), Err(AppendError::Pool(PoolError::Exhausted { .. }))));
    let waiter = rig.appender(1, b"x");
    eventually("it waits", || rig.accumulator.pool().queued == 1);
    rig.accumulator.close();
    assert!(matches!(waiter.result(), Err(AppendError::Pool(PoolError::Closed) | AppendError::Closed)));
    assert_eq!(append(&NOTHING).unwrap_err(), AppendError::Closed);
    // Were one still counted in, this would not end.
    let closer = Worker::start(move || rig.view.abort_incomplete(&GIVEN_UP));
    closer.result();
}

fn acc_02_a_closed_accumulator_refuses<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.push(0, b"before");
    rig.accumulator.close();
    assert!(rig.accumulator.is_closed());
    // There is room in the tail of 0, and memory for 1.
    for partition in [0, 1] {
        assert_eq!(rig.try_push(partition, b"after", Reply::IGNORE).unwrap_err(), AppendError::Closed);
    }
    assert_eq!(values(&rig.drain()), ["before"]);
}

fn acc_02_the_tail_is_tried_first<C: Core>() {
    let mut rig = Rig::<C>::new();
    assert!(rig.append(0, b"a").new_batch);
    for content in [&b"b"[..], b"c"] {
        assert!(!rig.append(0, content).new_batch);
    }
    assert_eq!(rig.accumulator.pool().leased, BATCH as u64, "one batch");
    assert!(rig.append(1, b"d").new_batch, "another partition, another batch");
    let drained = rig.drain();
    assert_eq!(values(&drained), ["a", "b", "c", "d"]);
    // What was drained takes no more.
    assert!(rig.append(0, b"e").new_batch);
    assert_eq!(values(&rig.drain()), ["e"]);
}

fn acc_02_a_tail_without_room_is_closed_there_and_then<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: BATCH as u64, linger: LONG, ..config() });
    rig.push(0, b"the first record, of some bytes");
    assert!(!rig.is_ready());
    // It does not fit, and there is no memory for another batch.
    let refused = rig.try_push(0, &largest(), Reply::IGNORE).unwrap_err();
    assert!(matches!(refused, AppendError::Pool(PoolError::Exhausted { .. })), "{refused}");
    // The tail is closed all the same: it counts as full, and what would have fitted has to go elsewhere.
    assert!(rig.is_ready());
    assert!(rig.try_push(0, b"small", Reply::IGNORE).is_err());
    let batch = rig.drain_one();
    assert_eq!(values([&batch]), ["the first record, of some bytes"]);
    rig.acknowledge(batch);
    assert!(rig.append(0, b"small").new_batch);
}

fn acc_03_memory_is_a_batch_or_the_records_bound<C: Core>() {
    let record = Record { key: Some(b"key"), value: Some(b"value"), ..NOTHING };
    let large = vec![0; 1000];
    let with_large = Record { value: Some(&large), ..record };
    for (batch_size, record, charged) in [
        (92, &record, 93),
        (93, &record, 93),
        (94, &record, 94),
        (BATCH, &record, BATCH),
        (BATCH, &with_large, batch_size_upper_bound(&with_large)),
    ] {
        let mut rig = Rig::<C>::with(AccumulatorConfig { batch_size, ..config() });
        let partition = rig.partition(0);
        let appended = rig.accumulator.append(&partition, record, Reply::IGNORE, Duration::ZERO).unwrap();
        assert!(appended.new_batch);
        assert_eq!(rig.accumulator.pool().leased, charged as u64, "batch.size {batch_size}");
        let batch = rig.drain_one();
        assert_eq!((batch.charged(), batch.size()), (charged, BATCH_OVERHEAD + record_size(0, 0, record)));
        rig.acknowledge(batch);
        // Only what has the poolable size is pooled.
        let pooled = if charged == batch_size { charged as u64 } else { 0 };
        assert_eq!(rig.accumulator.pool().pooled, pooled);
    }
}

fn acc_03_memory_is_waited_for_without_the_lock<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: 2 * BATCH as u64, ..config() });
    rig.push(0, b"the tail of 0, some bytes");
    rig.push(1, b"tail of 1");
    let blocked = rig.appender(0, &largest());
    eventually("it waits for memory", || rig.accumulator.pool().queued == 1);
    // Its partition and the others can be used by all: were its lock held, this would block.
    let others = Worker::start(move || {
        rig.push(1, b"more for 1");
        assert!(rig.accumulator.has_undrained() && rig.is_ready());
        assert!(rig.expired().is_empty());
        let drained = rig.drain();
        assert_eq!(values(&drained), ["the tail of 0, some bytes", "tail of 1", "more for 1"]);
        (rig, drained)
    });
    let (mut rig, drained) = others.result();
    assert!(!blocked.is_finished());
    drained.into_iter().for_each(|batch| rig.acknowledge(batch));
    assert!(blocked.result().unwrap().new_batch);
}

fn acc_03_batch_size_zero_gives_each_record_its_own_batch<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { batch_size: 0, linger: LONG, ..config() });
    // The memory is the record's bound, which leaves room for no other but a tiny one.
    let contents = ["one record of its size", "another record of its size", "a third record of its size"];
    for (content, before) in contents.into_iter().zip(0..) {
        let appended = rig.append(0, content.as_bytes());
        assert!(appended.new_batch && appended.batch_is_full == (before > 0));
    }
    rig.accumulator.begin_flush();
    for content in contents {
        assert!(rig.is_ready());
        let batch = rig.drain_one();
        assert_eq!(values([&batch]), [content]);
        assert_eq!(batch.charged(), batch_size_upper_bound(&value(content.as_bytes())));
    }
}

/// Not by waiting: the append goes on though the sender does nothing at all. In a simulation, who gives the processor away takes time by it, and nothing else that an append does.
fn acc_03_who_opens_a_batch_lets_a_sender_catch_up_that_is_far_behind<C: Core>() {
    /// A sixteenth of the pool.
    const FAR: usize = 16;
    let taken = Arc::new(Mutex::new(Vec::new()));
    let mut sim = Sim::new(1);
    let (clock, notes) = (sim.clock(), taken.clone());
    sim.spawn("one who appends and sends", move || {
        let config = AccumulatorConfig { buffer_memory: (16 * FAR * BATCH) as u64, linger: LONG, ..config() };
        let (accumulator, mut view) = C::Accumulator::new(config, clock.clone());
        let cluster = Cluster::single_node(NODE, [(TOPIC, 2)]);
        let [hot, slow] = [0, 1].map(|partition| accumulator.partition(&tp(partition)));
        let mut appender = accumulator.appender();
        // Each in a batch of its own, every other one by an appender.
        let mut append = |n: usize, max_block| {
            let (content, before) = (largest(), clock.now());
            let appended = if n.is_multiple_of(2) {
                appender.append(&hot, &value(&content), Reply::IGNORE, max_block)
            } else {
                accumulator.append(&slow, &value(&content), Reply::IGNORE, max_block)
            };
            assert!(appended.expect("there is memory").new_batch);
            lock(&notes).push(clock.now() > before);
        };
        // Two of them are open, and a look of the sender would say so.
        (0..FAR + 5).for_each(|n| append(n, LONG));
        (0..3).for_each(|n| append(n, LONG));
        append(3, Duration::ZERO);
        // Two of each time: then it is not far behind, but would be but for the last ones.
        for _ in 0..4 {
            for batch in view.drain(&cluster, &[NODE], usize::MAX, clock.now()).remove(0).batches {
                assert_eq!(batch.completion().complete(0, None), Ok(true));
                view.deallocate(batch).expect("it is in the books");
            }
        }
        append(0, LONG);
        // And what was aborted stands nowhere.
        view.abort_all(&GIVEN_UP);
        append(0, LONG);
    });
    sim.run().expect("nobody waits");
    let taken = lock(&taken).clone();
    let (early, late) = taken.split_at(FAR);
    assert_eq!(early, [false; FAR], "no more than that");
    let [.., behind, again, once_more, may_not, caught_up, aborted] = late else { unreachable!("{late:?}") };
    assert_eq!([behind, again, once_more], [&true; 3], "more than that");
    assert!(!may_not, "who may not wait at all does not give way either");
    assert!(!caught_up, "the sender has caught up");
    assert!(!aborted, "nothing is left");
}

/// Each time that somebody gives the processor away takes time in a simulation.
fn acc_03_what_is_still_filled_does_not_count_as_behind<C: Core>() {
    const MANY: i32 = 40;
    let mut sim = Sim::new(1);
    let clock = sim.clock();
    sim.spawn("one who appends and sends", move || {
        // Eight may stand ready.
        let config = AccumulatorConfig { buffer_memory: MANY as u64 * BATCH as u64, linger: LONG, ..config() };
        let (accumulator, mut view) = C::Accumulator::new(config, clock.clone());
        let cluster = Cluster::single_node(NODE, [(TOPIC, MANY)]);
        for partition in 0..MANY {
            let partition = accumulator.partition(&tp(partition));
            drop(accumulator.append(&partition, &value(b"alone"), Reply::IGNORE, LONG).expect("there is memory"));
            let before = clock.now();
            let ready = view.ready(&cluster, before);
            assert!(ready.nodes.is_empty(), "all of it lingers");
            assert_eq!(clock.now(), before);
        }
        assert_eq!(clock.now(), Instant::ZERO, "nobody has given way");
    });
    sim.run().expect("nobody waits");
}

/// A callback may run on the sender's own thread.
fn acc_03_inside_a_callback_nobody_lets_the_sender_catch_up<C: Core>() {
    let took = Arc::new(Mutex::new(None));
    let mut sim = Sim::new(1);
    let (clock, note) = (sim.clock(), took.clone());
    sim.spawn("one who appends and sends", move || {
        let config = AccumulatorConfig { buffer_memory: 40 * BATCH as u64, linger: LONG, ..config() };
        let (accumulator, mut view) = C::Accumulator::new(config, clock.clone());
        let cluster = Cluster::single_node(NODE, [(TOPIC, 1)]);
        let partition = accumulator.partition(&tp(0));
        let (again, time) = (accumulator.clone(), clock.clone());
        let callback = move |_| {
            let before = time.now();
            let appended = again.append(&again.partition(&tp(0)), &value(&largest()), Reply::IGNORE, LONG);
            assert!(appended.expect("there is memory").new_batch);
            *lock(&note) = Some((before > Instant::ZERO, time.now() > before));
        };
        let first = Reply::callback(callback);
        drop(accumulator.append(&partition, &value(&largest()), first, LONG).expect("there is memory"));
        for _ in 0..30 {
            drop(accumulator.append(&partition, &value(&largest()), Reply::IGNORE, LONG).expect("there is memory"));
        }
        for batch in view.drain(&cluster, &[NODE], 1, clock.now()).remove(0).batches {
            assert_eq!(batch.completion().complete(0, None), Ok(true));
            view.deallocate(batch).expect("it is in the books");
        }
    });
    sim.run().expect("nobody waits");
    assert_eq!(*lock(&took), Some((true, false)), "who appended before it gave way, and it did not");
}

fn acc_04_the_second_look_finds_what_another_appender_made<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: 2 * BATCH as u64, ..config() });
    rig.fill(1);
    rig.fill(2);
    let mut in_flight = rig.drain();
    // Neither finds a batch in partition 0, and each waits for memory for one.
    let first = rig.appender(0, b"first");
    eventually("one waits", || rig.accumulator.pool().queued == 1);
    let second = rig.appender(0, b"second");
    eventually("two wait", || rig.accumulator.pool().queued == 2);
    let one = in_flight.remove(0);
    rig.acknowledge(one);
    assert!(first.result().unwrap().new_batch);
    assert_eq!(rig.accumulator.pool().queued, 1);
    let other = in_flight.remove(0);
    rig.acknowledge(other);
    let second = second.result().unwrap();
    assert!(!second.new_batch, "it uses the other's batch");
    assert_eq!(rig.accumulator.pool().leased, BATCH as u64, "and gives its own memory back");
    assert_eq!(second.bytes, record_size(1, 0, &value(b"second")));
    let batch = rig.drain_one();
    assert_eq!(values([&batch]), ["first", "second"]);
    rig.acknowledge(batch);
    assert!(!rig.accumulator.has_incomplete(), "no batch was booked and not used");
}

fn acc_04_the_second_look_finds_the_close<C: Core>() {
    let mut rig = Rig::<C>::new();
    let gate = Gate::default();
    let appender = stopped_append(&rig, &gate);
    rig.accumulator.close();
    assert!(!rig.accumulator.has_undrained(), "the sender's last look");
    gate.open();
    assert_eq!(appender.result(), Err(AppendError::Closed));
    assert!(!rig.accumulator.has_undrained() && !rig.accumulator.has_incomplete());
    assert_eq!(rig.accumulator.pool().leased, 0);
    assert!(rig.drain().is_empty());
}

fn acc_05_a_batch_is_dated_after_the_wait_for_its_memory<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: BATCH as u64, ..config() });
    rig.fill(1);
    let in_flight = rig.drain_one();
    assert_eq!(in_flight.created(), Instant::ZERO);
    let appender = rig.appender(0, b"x");
    eventually("it waits for memory", || rig.accumulator.pool().queued == 1);
    rig.pass(7_000);
    rig.acknowledge(in_flight);
    assert!(appender.result().unwrap().new_batch);
    // Seven seconds are more than its delivery timeout; but it was not born then.
    assert!(rig.expired().is_empty());
    rig.pass(5);
    assert_eq!(rig.ready().next_check, Some(crate::batch::millis(5)), "its linger has just begun");
    assert_eq!(rig.drain_one().created(), at(7_000));
}

fn acc_06_what_an_append_tells_its_caller<C: Core>() {
    let rig = Rig::<C>::new();
    let small = value(b"a record of some bytes");
    let (first_size, later_size) = (record_size(0, 0, &small), record_size(1, 0, &small));

    let first = rig.append(0, b"a record of some bytes");
    assert_eq!((first.new_batch, first.batch_is_full, first.bytes), (true, false, BATCH_OVERHEAD + first_size));
    assert!(first.must_wake_sender() && first.future.is_none());

    let second = rig.try_push(0, b"a record of some bytes", Reply::FUTURE).unwrap();
    assert_eq!((second.new_batch, second.batch_is_full, second.bytes), (false, false, later_size));
    assert!(!second.must_wake_sender() && second.future.is_some());

    // It does not fit: a second batch in the queue.
    let third = rig.append(0, &largest());
    let bytes = BATCH_OVERHEAD + record_size(0, 0, &value(&largest()));
    assert_eq!((third.new_batch, third.batch_is_full, third.bytes), (true, true, bytes));
    assert!(third.must_wake_sender());

    // A third one, far from full; but there are others before it.
    let fourth = rig.append(0, b"a record of some bytes");
    assert_eq!((fourth.new_batch, fourth.batch_is_full), (true, true));
    let fifth = rig.append(0, b"a record of some bytes");
    assert_eq!((fifth.new_batch, fifth.batch_is_full, fifth.bytes), (false, true, later_size));
    assert!(fifth.must_wake_sender());

    // The record that fills its batch to the byte.
    let rest = BATCH - BATCH_OVERHEAD - first_size;
    let mut filler = vec![0; rest];
    while record_size(1, 0, &value(&filler)) > rest {
        filler.pop();
    }
    assert!(!rig.append(1, b"a record of some bytes").batch_is_full);
    let last = rig.append(1, &filler);
    assert_eq!((last.new_batch, last.batch_is_full, last.bytes), (false, true, rest));
}

fn pool_17_no_exit_of_an_append_keeps_a_lease<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: 3 * BATCH as u64, ..config() });
    let check = |rig: &Rig<C>, leased: u64| {
        let now = rig.accumulator.pool();
        assert!(now.is_conserved());
        assert_eq!((now.leased, now.reserved, now.queued), (leased, 0, 0), "{now:?}");
    };
    rig.push(0, b"x");
    check(&rig, BATCH as u64);
    // Found room; refused for the record; for its size; for want of memory.
    rig.push(0, b"y");
    let partition = rig.partition(1);
    let append = |record: &Record<'_>| rig.accumulator.append(&partition, record, Reply::FUTURE, Duration::ZERO);
    assert!(append(&Record { timestamp: -2, ..NOTHING }).is_err());
    assert!(append(&value(&[0; 3 * BATCH])).is_err());
    assert!(append(&value(&[0; 2 * BATCH])).is_err());
    check(&rig, BATCH as u64);
    // Closed while it had its memory and was not back under the lock; closed before.
    let gate = Gate::default();
    let blocked = Worker::start({
        let (accumulator, partition, clock, gate) =
            (rig.accumulator.clone(), partition.clone(), rig.clock.clone(), gate.clone());
        move || {
            clock.at_my_read(1, move || gate.pass());
            accumulator.append(&partition, &value(b"late"), Reply::FUTURE, LONG).map(drop)
        }
    });
    gate.await_reached();
    assert_eq!(rig.accumulator.pool().leased, 2 * BATCH as u64);
    rig.accumulator.close();
    gate.open();
    assert_eq!(blocked.result(), Err(AppendError::Closed));
    assert!(append(&NOTHING).is_err());
    check(&rig, BATCH as u64);
    rig.acknowledge_all();
    check(&rig, 0);
}

fn gap_15_a_record_that_is_refused_leaves_no_trace<C: Core>() {
    let rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: BATCH as u64, ..config() });
    let called = Arc::new(Mutex::new(0));
    let reply = || {
        let called = called.clone();
        Reply { future: true, ..Reply::callback(move |_| *lock(&called) += 1) }
    };
    rig.push(0, b"a record of some bytes");
    let refused = rig.try_push(0, &largest(), reply()).unwrap_err();
    assert!(matches!(refused, AppendError::Pool(PoolError::Exhausted { .. })));
    let partition = rig.partition(0);
    let invalid = Record { timestamp: i64::MIN, ..NOTHING };
    let refused = rig.accumulator.append(&partition, &invalid, reply(), LONG).unwrap_err();
    assert_eq!(refused, AppendError::Invalid(RecordError::InvalidTimestamp { timestamp: i64::MIN }));
    rig.accumulator.close();
    assert!(rig.try_push(0, b"y", reply()).is_err());
    drop(rig);
    assert_eq!(*lock(&called), 0, "an error is the only answer that a refused record gets");
}
