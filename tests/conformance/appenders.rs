//! Appenders: order within each over every change of lane (L6, ACC-47), flush, abort and close with appenders at work (ACC-41 to ACC-48), what is left when one is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, Appender, SenderView};
use unlatched::batch::Reply;
use unlatched::error::{AppendError, SendError};
use unlatched::primitive::atomic::{AtomicBool, AtomicUsize};
use unlatched::primitive::random::Random;

use crate::batch::{millis, tp, value};
use crate::order::{Line, Log, numbered, until_closed};
use crate::pool::assert_at_rest;
use crate::rig::{BATCH, NODE, Rig, config};
use crate::support::{Core, LONG, Stopwatch, Worker, on_every_core};

on_every_core![
    acc_47_an_appenders_order_holds_over_every_change_of_lane,
    acc_47_an_appender_goes_from_thread_to_thread,
    acc_48_nothing_slips_in_from_an_appender,
    acc_45_an_appender_is_refused_once_it_is_closed,
    acc_44_forced_close_ends_every_appenders_record,
    acc_42_an_abort_ends_what_lies_in_owned_lanes,
    acc_41_a_flush_waits_for_what_lies_in_owned_lanes,
    acc_38_what_lies_in_an_owned_lane_expires,
    acc_21_a_batch_in_an_owned_lane_lingers_no_longer_than_another,
    acc_21_each_batch_in_an_owned_lane_lingers_from_its_own_beginning,
    acc_33_what_lies_in_an_owned_lane_goes_as_soon_as_its_partition_is_not_muted,
    acc_19_what_lies_in_an_owned_lane_goes_as_soon_as_its_leader_is_known,
    acc_21_little_traffic_by_an_appender_looks_like_one_lane,
    gap_21_a_dropped_appender_loses_nothing,
    gap_21_an_appender_outlives_its_sender,
];

pub(crate) type AppenderOf<C> = <<C as Core>::Accumulator as Accumulator>::Appender;

/// Room for many batches, a linger that is over soon.
pub(crate) fn ample() -> AccumulatorConfig {
    AccumulatorConfig { buffer_memory: 64 * BATCH as u64, linger: millis(1), delivery_timeout: LONG, ..config() }
}

/// Appends until the appender has a lane of its own; how many records that took.
#[track_caller]
fn earn_a_lane<C: Core>(rig: &mut Rig<C>, appender: &mut AppenderOf<C>) -> u32 {
    let partition = rig.partition(0);
    for number in 0..200 {
        if appender.lanes() > 0 && number > 0 {
            return number;
        }
        let appended = appender.append(&partition, &value(&numbered(0, number)), Reply::IGNORE, Duration::ZERO);
        assert!(appended.is_ok(), "{appended:?}");
        if rig.ready().nodes == [NODE] {
            rig.acknowledge_all();
        }
    }
    panic!("two hundred records in no time earn a lane");
}

/// With linger that does not end by itself, and an appender that has a lane with a record in it.
pub(crate) fn with_a_lane<C: Core>(config: AccumulatorConfig) -> (Rig<C>, AppenderOf<C>) {
    let mut rig = Rig::<C>::with(config);
    let mut appender = rig.accumulator.appender();
    earn_a_lane(&mut rig, &mut appender);
    // What went to the shared lane before.
    rig.accumulator.begin_flush();
    while rig.is_ready() {
        rig.acknowledge_all();
    }
    rig.accumulator.await_flush(Some(Duration::ZERO)).expect("all was acknowledged");
    let partition = rig.partition(0);
    let appended = appender.append(&partition, &value(b"mine"), Reply::IGNORE, Duration::ZERO).expect("there is room");
    assert!(appended.new_batch);
    (rig, appender)
}

fn acc_47_an_appenders_order_holds_over_every_change_of_lane<C: Core>() {
    const THREADS: usize = 3;
    const PARTITIONS: i32 = 2;
    let mut line = Line::<C>::new(AccumulatorConfig { buffer_memory: 24 * BATCH as u64, ..ample() }, PARTITIONS);
    let changes = Arc::new(AtomicUsize::new(0));
    let appenders: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (accumulator, changes) = (line.accumulator.clone(), changes.clone());
            Worker::start(move || {
                let mut random = Random::seeded(thread as u64);
                let handles: Vec<_> = (0..PARTITIONS).map(|partition| accumulator.partition(&tp(partition))).collect();
                let mut appender = accumulator.appender();
                let watch = Stopwatch::start();
                let (mut number, mut lanes) = (0, 0);
                while watch.elapsed() < millis(600) {
                    // Bursts, which earn a lane, and pauses, which lose it.
                    for _ in 0..random.below(120) {
                        for handle in &handles {
                            let content = numbered(thread, number);
                            assert!(appender.append(handle, &value(&content), Reply::IGNORE, LONG).is_ok());
                        }
                        number += 1;
                        changes.fetch_add(usize::from(appender.lanes() != lanes), SeqCst);
                        lanes = appender.lanes();
                    }
                    if random.below(3) == 0 {
                        std::thread::sleep(millis(random.below(6)));
                    }
                }
                number as usize
            })
        })
        .collect();
    let mut logs = BTreeMap::<i32, Log>::new();
    loop {
        let over = appenders.iter().all(Worker::is_finished);
        line.view.ready(&line.cluster, line.clock.now());
        line.pass(|batch| logs.entry(batch.topic_partition().partition).or_default().take(batch));
        if over && !line.accumulator.has_undrained() {
            break;
        }
    }
    let appended: usize = appenders.into_iter().map(Worker::result).sum();
    assert_eq!(logs.values().map(|log| log.records).collect::<Vec<_>>(), vec![appended; PARTITIONS as usize]);
    let changes = changes.load(SeqCst);
    assert!(changes >= THREADS, "{changes} changes of lane");
    assert_at_rest(&line.accumulator.pool());
}

fn acc_47_an_appender_goes_from_thread_to_thread<C: Core>() {
    let mut line = Line::<C>::new(ample(), 1);
    let accumulator = line.accumulator.clone();
    let mut log = Log::default();
    let mut appender = accumulator.appender();
    let mut number = 0;
    for _ in 0..40 {
        let accumulator = accumulator.clone();
        // Each on a thread of its own, one after the other.
        let worker = Worker::start(move || {
            let partition = accumulator.partition(&tp(0));
            for more in 0..60 {
                let content = numbered(0, number + more);
                assert!(appender.append(&partition, &value(&content), Reply::IGNORE, LONG).is_ok());
            }
            appender
        });
        while !worker.is_finished() {
            line.view.ready(&line.cluster, line.clock.now());
            line.pass(|batch| log.take(batch));
        }
        (appender, number) = (worker.result(), number + 60);
    }
    drop(appender);
    while line.accumulator.has_undrained() {
        line.view.ready(&line.cluster, line.clock.now());
        line.pass(|batch| log.take(batch));
    }
    assert_eq!(log.records, number as usize);
    assert_at_rest(&line.accumulator.pool());
}

/// Threads whose appenders append to one partition until they are refused, and how many of their records were accepted.
fn append_until_closed<C: Core>(line: &Line<C>, threads: usize, called: &Arc<AtomicUsize>) -> Vec<Worker<usize>> {
    until_closed(line, threads, called, |accumulator| {
        let (mut appender, handle) = (accumulator.appender(), accumulator.partition(&tp(0)));
        move |record, reply| appender.append(&handle, record, reply, LONG)
    })
}

fn acc_48_nothing_slips_in_from_an_appender<C: Core>() {
    for round in 0..40 {
        let mut line = Line::<C>::new(ample(), 1);
        let called = Arc::new(AtomicUsize::new(0));
        let appenders = append_until_closed(&line, 3, &called);
        let mut log = Log::default();
        let watch = Stopwatch::start();
        while watch.elapsed() < millis(round % 8) {
            line.view.ready(&line.cluster, line.clock.now());
            line.pass(|batch| log.take(batch));
        }
        line.accumulator.close();
        while line.accumulator.has_undrained() {
            line.view.ready(&line.cluster, line.clock.now());
            line.pass(|batch| log.take(batch));
        }
        // That was the last look.
        let seen = log.records;
        let accepted: usize = appenders.into_iter().map(Worker::result).sum();
        assert_eq!(accepted, seen, "round {round}");
        assert_eq!(called.load(SeqCst), accepted);
        assert!(!line.accumulator.has_incomplete());
        assert_at_rest(&line.accumulator.pool());
    }
}

fn acc_45_an_appender_is_refused_once_it_is_closed<C: Core>() {
    let (mut rig, mut appender) = with_a_lane::<C>(AccumulatorConfig { linger: LONG, ..ample() });
    assert!(!rig.is_ready(), "it lingers");
    rig.accumulator.close();
    let refused = appender.append(&rig.partition(0), &value(b"late"), Reply::IGNORE, Duration::ZERO);
    assert!(matches!(refused, Err(AppendError::Closed)), "{refused:?}");
    assert!(rig.accumulator.has_undrained());
    assert!(rig.is_ready(), "what was accepted goes at once");
    assert_eq!(crate::rig::values(&[rig.drain_one()]), ["mine"]);
}

fn acc_44_forced_close_ends_every_appenders_record<C: Core>() {
    for round in 0..40 {
        let mut line = Line::<C>::new(ample(), 1);
        let called = Arc::new(AtomicUsize::new(0));
        let appenders = append_until_closed(&line, 3, &called);
        let watch = Stopwatch::start();
        while watch.elapsed() < millis(round % 8) {
            line.view.ready(&line.cluster, line.clock.now());
            line.pass(|_| ());
        }
        line.accumulator.close();
        line.view.abort_incomplete(&SendError::Aborted { reason: "on purpose" });
        assert!(!line.accumulator.has_incomplete());
        let accepted: usize = appenders.into_iter().map(Worker::result).sum();
        assert_eq!(called.load(SeqCst), accepted, "round {round}");
        assert_at_rest(&line.accumulator.pool());
    }
}

fn acc_42_an_abort_ends_what_lies_in_owned_lanes<C: Core>() {
    let (mut rig, mut appender) = with_a_lane::<C>(AccumulatorConfig { linger: LONG, ..ample() });
    let partition = rig.partition(0);
    let future = appender.append(&partition, &value(b"too"), Reply::FUTURE, Duration::ZERO).unwrap().future.unwrap();
    rig.ready();
    rig.view.abort_all(&SendError::Aborted { reason: "on purpose" });
    assert!(matches!(future.wait(), Err(SendError::Aborted { reason: "on purpose" })));
    assert_at_rest(&rig.accumulator.pool());
    // It goes on.
    let appended = appender.append(&partition, &value(b"next"), Reply::IGNORE, Duration::ZERO).unwrap();
    assert!(appended.new_batch);
    drop(appender);
    assert!(rig.is_ready());
    assert_eq!(crate::rig::values(&[rig.drain_one()]), ["next"]);
}

fn acc_41_a_flush_waits_for_what_lies_in_owned_lanes<C: Core>() {
    const THREADS: usize = 3;
    let mut line = Line::<C>::new(AccumulatorConfig { linger: LONG, ..ample() }, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let flushers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (accumulator, stop) = (line.accumulator.clone(), stop.clone());
            Worker::start(move || {
                let partition = accumulator.partition(&tp(0));
                let mut appender = accumulator.appender();
                let (mut number, mut flushes) = (0, 0);
                // However busy the machine is, a few times.
                while flushes < 4 || !stop.load(SeqCst) {
                    let mut futures = Vec::new();
                    for _ in 0..30 + 40 * (flushes % 2) {
                        let content = numbered(thread, number);
                        let appended = appender.append(&partition, &value(&content), Reply::FUTURE, LONG);
                        futures.extend(appended.expect("it is accepted").future);
                        number += 1;
                    }
                    accumulator.begin_flush();
                    accumulator.await_flush(Some(LONG)).expect("in time");
                    assert!(futures.iter().all(|future| future.is_done()), "flushed and not done");
                    flushes += 1;
                }
            })
        })
        .collect();
    let mut log = Log::default();
    let watch = Stopwatch::start();
    while !flushers.iter().all(Worker::is_finished) {
        stop.store(watch.elapsed() > millis(300), SeqCst);
        if !line.view.ready(&line.cluster, line.clock.now()).nodes.is_empty() {
            line.pass(|batch| log.take(batch));
        }
    }
    flushers.into_iter().for_each(Worker::result);
    assert_at_rest(&line.accumulator.pool());
}

fn acc_38_what_lies_in_an_owned_lane_expires<C: Core>() {
    let config = AccumulatorConfig { linger: LONG, delivery_timeout: millis(500), ..ample() };
    let (mut rig, mut appender) = with_a_lane::<C>(config);
    assert_eq!(rig.expired().len(), 0);
    rig.pass(500);
    let expired = rig.expired();
    assert_eq!(expired.iter().map(|batch| batch.record_count()).collect::<Vec<_>>(), [1]);
    for batch in expired {
        rig.acknowledge(batch);
    }
    assert!(!rig.accumulator.has_undrained());
    let next = appender.append(&rig.partition(0), &value(b"next"), Reply::IGNORE, Duration::ZERO).unwrap();
    assert!(next.new_batch, "nothing joins what has expired");
}

fn acc_21_a_batch_in_an_owned_lane_lingers_no_longer_than_another<C: Core>() {
    let (mut rig, mut appender) = with_a_lane::<C>(AccumulatorConfig { linger: millis(10), ..ample() });
    let check = rig.ready();
    assert_eq!((check.nodes, check.next_check), (vec![], Some(millis(10))));
    rig.pass(9);
    drop(appender.append(&rig.partition(0), &value(b"too"), Reply::IGNORE, Duration::ZERO));
    assert_eq!(rig.ready().next_check, Some(millis(1)));
    rig.pass(1);
    assert!(rig.is_ready());
    assert_eq!(crate::rig::values(&[rig.drain_one()]), ["mine", "too"]);
    // It was not filled in its time: that costs the lane, but for the twin's, whose appenders keep theirs.
    drop(appender.append(&rig.partition(0), &value(b"after"), Reply::IGNORE, Duration::ZERO));
    assert_eq!(appender.lanes(), usize::from(C::NAME != "lockfree"));
}

fn acc_21_each_batch_in_an_owned_lane_lingers_from_its_own_beginning<C: Core>() {
    let (mut rig, mut appender) = with_a_lane::<C>(AccumulatorConfig { linger: millis(10), ..ample() });
    rig.ready();
    // The first one is full after two milliseconds, and goes; the second begins after three.
    rig.pass(2);
    while !rig.is_ready() {
        drop(appender.append(&rig.partition(0), &value(&[b'x'; 60]), Reply::IGNORE, Duration::ZERO));
    }
    rig.acknowledge_all();
    rig.accumulator.begin_flush();
    while rig.is_ready() {
        rig.acknowledge_all();
    }
    rig.accumulator.await_flush(Some(Duration::ZERO)).expect("all was acknowledged");
    rig.pass(1);
    assert!(appender.append(&rig.partition(0), &value(b"second"), Reply::IGNORE, Duration::ZERO).unwrap().new_batch);
    for at in 3..13 {
        assert!(!rig.is_ready(), "at {at} ms");
        rig.pass(1);
    }
    assert!(rig.is_ready(), "ten milliseconds after it began");
    assert_eq!(crate::rig::values(&[rig.drain_one()]), ["second"]);
}

/// What cannot be sent yet is not asked for: more of it finds room there.
#[track_caller]
fn joins<C: Core>(rig: &Rig<C>, appender: &mut AppenderOf<C>) {
    let appended = appender.append(&rig.partition(0), &value(b"too"), Reply::IGNORE, Duration::ZERO).expect("room");
    assert!(!appended.new_batch && !appended.batch_is_full, "{appended:?}");
}

fn acc_33_what_lies_in_an_owned_lane_goes_as_soon_as_its_partition_is_not_muted<C: Core>() {
    let (mut rig, mut appender) = with_a_lane::<C>(AccumulatorConfig { linger: millis(10), ..ample() });
    rig.view.mute(&tp(0));
    for _ in 0..3 {
        rig.pass(10);
        let check = rig.ready();
        assert_eq!((check.nodes, check.next_check), (vec![], None), "nothing to be done until it is not muted");
    }
    joins(&rig, &mut appender);
    rig.view.unmute(&tp(0));
    assert!(rig.is_ready(), "its linger was over long before");
    assert_eq!(crate::rig::values(&[rig.drain_one()]), ["mine", "too"]);
}

fn acc_19_what_lies_in_an_owned_lane_goes_as_soon_as_its_leader_is_known<C: Core>() {
    let (mut rig, mut appender) = with_a_lane::<C>(AccumulatorConfig { linger: millis(10), ..ample() });
    let known = std::mem::replace(&mut rig.cluster, crate::rig::led_by(&[None]));
    for _ in 0..3 {
        rig.pass(10);
        let check = rig.ready();
        assert_eq!((check.nodes, check.next_check, check.unknown_leader_topics.len()), (vec![], None, 1));
    }
    joins(&rig, &mut appender);
    rig.cluster = known;
    assert!(rig.is_ready(), "its linger was over long before");
    assert_eq!(crate::rig::values(&[rig.drain_one()]), ["mine", "too"]);
}

/// The batches, with the milliseconds at which they were drained, and the memory in use after each record, of a record in each of these pauses.
fn by_and_by<C: Core>(
    pauses: &[u64],
    mut append: impl FnMut(&C::Accumulator, &unlatched::record::Record<'_>, &Rig<C>),
    rig: &mut Rig<C>,
) -> (Vec<(usize, Vec<String>)>, Vec<u64>) {
    let (mut batches, mut in_use) = (Vec::new(), Vec::new());
    for (number, pause) in pauses.iter().enumerate() {
        let accumulator = rig.accumulator.clone();
        append(&accumulator, &value(&numbered(0, number as u32)), rig);
        in_use.push(accumulator.pool().leased);
        for _ in 0..*pause {
            rig.pass(1);
            if rig.is_ready() {
                let batch = rig.drain_one();
                batches.push((number, crate::rig::values([&batch])));
                rig.acknowledge(batch);
            }
        }
    }
    (batches, in_use)
}

fn acc_21_little_traffic_by_an_appender_looks_like_one_lane<C: Core>() {
    let config = || AccumulatorConfig { linger: millis(5), ..ample() };
    // Two in each linger, bursts of three, pauses; never two batches in two lingers.
    let mut random = Random::seeded(7);
    let pauses: Vec<u64> = (0..300).map(|_| [0, 2, 3, 9][random.below(4) as usize]).collect();
    let mut rig = Rig::<C>::with(config());
    let shared = by_and_by(
        &pauses,
        |accumulator, record, rig| {
            assert!(accumulator.append(&rig.partition(0), record, Reply::IGNORE, Duration::ZERO).is_ok());
        },
        &mut rig,
    );
    let mut rig = Rig::<C>::with(config());
    let (mut appender, mut most) = (rig.accumulator.appender(), 0);
    let own = by_and_by(
        &pauses,
        |_, record, rig| {
            assert!(appender.append(&rig.partition(0), record, Reply::IGNORE, Duration::ZERO).is_ok());
            most = most.max(appender.lanes());
        },
        &mut rig,
    );
    assert!(shared.0.len() > 50, "{} batches", shared.0.len());
    assert_eq!(own, shared);
    // The twin's appenders have a deque of their own from the first record on.
    assert_eq!(most, usize::from(C::NAME != "lockfree"));
}

fn gap_21_a_dropped_appender_loses_nothing<C: Core>() {
    let (mut rig, appender) = with_a_lane::<C>(AccumulatorConfig { linger: LONG, ..ample() });
    assert!(!rig.is_ready(), "it lingers");
    drop(appender);
    assert!(rig.is_ready(), "it goes like a full one");
    let batch = rig.drain_one();
    assert_eq!(crate::rig::values([&batch]), ["mine"]);
    rig.acknowledge(batch);
    assert_at_rest(&rig.accumulator.pool());
}

fn gap_21_an_appender_outlives_its_sender<C: Core>() {
    let (rig, mut appender) = with_a_lane::<C>(AccumulatorConfig { linger: LONG, ..ample() });
    let partition = rig.partition(0);
    let future = appender.append(&partition, &value(b"too"), Reply::FUTURE, Duration::ZERO).unwrap().future.unwrap();
    let Rig { view, accumulator, .. } = rig;
    drop(view);
    assert!(matches!(future.wait(), Err(SendError::Aborted { .. })));
    assert_at_rest(&accumulator.pool());
    let refused = appender.append(&partition, &value(b"late"), Reply::IGNORE, Duration::ZERO);
    assert!(matches!(refused, Err(AppendError::Closed)), "{refused:?}");
    drop((accumulator, partition));
    drop(appender);
}
