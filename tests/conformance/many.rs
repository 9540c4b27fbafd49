//! Several records at once (`append_many`): as one after another, what is not accepted is told, order kept. ACC-02, ACC-06, ACC-47.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, AppendedMany, Appender, SenderView};
use unlatched::batch::{RecordFuture, Reply};
use unlatched::error::AppendError;
use unlatched::pool::PoolError;
use unlatched::primitive::random::Random;
use unlatched::record::Record;

use crate::appenders::{ample, with_a_lane};
use crate::batch::{millis, tp, value};
use crate::order::{Line, Log, numbered};
use crate::pool::assert_at_rest;
use crate::rig::{BATCH, NOTHING, Rig, config, largest, rest, values};
use crate::support::{Core, LONG, Stopwatch, Worker, on_every_core};

on_every_core![
    acc_06_many_at_once_make_the_batches_of_one_after_another,
    acc_06_each_of_many_has_its_own_place,
    acc_06_many_that_fill_a_batch_to_the_last_byte_close_it,
    acc_06_none_of_many_is_nothing,
    acc_02_what_of_many_is_not_accepted_is_told,
    acc_01_many_for_another_accumulator_are_refused,
    acc_47_many_at_once_keep_their_order,
    acc_47_many_at_once_keep_an_appenders_order_over_every_change_of_lane,
    acc_47_many_at_once_earn_a_lane_as_one_after_another,
    acc_47_many_by_an_owner_fill_its_batches_as_one_after_another,
];

/// All batches of partition 0, as bytes.
fn drain_all<C: Core>(rig: &mut Rig<C>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let batches = rig.drain();
        if batches.is_empty() {
            return all;
        }
        for batch in batches {
            all.push(batch.as_bytes().to_vec());
            rig.acknowledge(batch);
        }
    }
}

/// Records of many sizes, now and then one that is larger than a batch, each with a time of its own.
fn contents(random: &mut Random, count: usize) -> Vec<(i64, Vec<u8>)> {
    let content = |number| {
        let most = if random.below(40) == 0 { 2 * BATCH } else { 60 };
        (random.below(1_000) as i64, vec![number as u8; random.below(most as u64) as usize])
    };
    (0..count).map(content).collect()
}

fn acc_06_many_at_once_make_the_batches_of_one_after_another<C: Core>() {
    let ample = || AccumulatorConfig { buffer_memory: 4_000 * BATCH as u64, ..config() };
    for seed in 0..20 {
        let mut random = Random::seeded(seed);
        let contents = contents(&mut random, 400);
        let records: Vec<Record<'_>> =
            contents.iter().map(|(timestamp, content)| Record { timestamp: *timestamp, ..value(content) }).collect();
        let (mut one, mut many) = (Rig::<C>::with(ample()), Rig::<C>::with(ample()));
        let (partition, mut rest) = (many.partition(0), &records[..]);
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(rest.len().min(1 + random.below(90) as usize));
            rest = behind;
            let mut expected = AppendedMany::default();
            for record in chunk {
                let appended =
                    one.accumulator.append(&one.partition(0), record, Reply::IGNORE, Duration::ZERO).expect("room");
                expected.new_batch |= appended.new_batch;
                expected.batch_is_full |= appended.batch_is_full;
                expected.bytes += appended.bytes;
            }
            let done = many.accumulator.append_many(&partition, chunk, false, Duration::ZERO);
            assert_eq!((done.accepted, done.futures.len(), done.refused), (chunk.len(), 0, None));
            assert_eq!(
                (done.new_batch, done.batch_is_full, done.bytes),
                (expected.new_batch, expected.batch_is_full, expected.bytes)
            );
        }
        let made = drain_all(&mut many);
        assert!(made.len() > 20, "{} batches", made.len());
        assert_eq!(made, drain_all(&mut one), "seed {seed}");
        assert_at_rest(&many.accumulator.pool());
    }
}

fn acc_06_each_of_many_has_its_own_place<C: Core>() {
    let mut rig = Rig::<C>::new();
    let contents: Vec<Vec<u8>> = (0..12).map(|number| vec![number; 20]).collect();
    let records: Vec<_> =
        (0..).zip(&contents).map(|(timestamp, content)| Record { timestamp, ..value(content) }).collect();
    let done = rig.accumulator.append_many(&rig.partition(0), &records, true, Duration::ZERO);
    assert!(done.must_wake_sender());
    assert_eq!((done.accepted, done.futures.len()), (12, 12));
    let mut offset = 100;
    loop {
        let drained = rig.drain();
        if drained.is_empty() {
            break;
        }
        for batch in drained {
            assert_eq!(batch.completion().complete(offset, None), Ok(true));
            offset += i64::from(batch.record_count());
            rig.view.deallocate(batch).expect("in the books");
        }
    }
    let places = done.futures.iter().map(|future| future.try_result().expect("ended").expect("acknowledged"));
    let places: Vec<(i64, i64)> = places.map(|place| (place.offset, place.timestamp)).collect();
    assert_eq!(places, (100..112).zip(0..).collect::<Vec<_>>());
}

fn acc_06_many_that_fill_a_batch_to_the_last_byte_close_it<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.push(0, &largest());
    let done = rig.accumulator.append_many(&rig.partition(0), &[value(&rest())], false, Duration::ZERO);
    assert_eq!((done.accepted, done.batch_is_full, done.new_batch), (1, true, false));
    assert!(rig.is_ready(), "before its linger is over");
    assert_eq!(drain_all(&mut rig)[0].len(), BATCH);
}

fn acc_06_none_of_many_is_nothing<C: Core>() {
    let rig = Rig::<C>::new();
    let mut appender = rig.accumulator.appender();
    for done in [
        rig.accumulator.append_many(&rig.partition(0), &[], true, LONG),
        appender.append_many(&rig.partition(0), &[], true, LONG),
    ] {
        assert_eq!((done.accepted, done.refused.is_none(), done.must_wake_sender()), (0, true, false));
    }
    assert_eq!(rig.accumulator.pool().leased, 0);
    assert_eq!(appender.lanes(), 0, "nor a lane for nothing");
}

fn acc_02_what_of_many_is_not_accepted_is_told<C: Core>() {
    let mut rig = Rig::<C>::new();
    let partition = rig.partition(0);
    let push =
        |rig: &Rig<C>, records: &[Record<'_>]| rig.accumulator.append_many(&partition, records, true, Duration::ZERO);
    // Memory for ten batches, each of which has room for one of these.
    let contents: Vec<Vec<u8>> =
        (0..14).map(|number| [vec![b'a' + number], largest()[1..].to_vec()].concat()).collect();
    let records: Vec<_> = contents.iter().map(|content| value(content)).collect();
    let done = push(&rig, &records);
    assert_eq!((done.accepted, done.futures.len()), (10, 10));
    assert!(matches!(done.refused, Some(AppendError::Pool(PoolError::Exhausted { .. }))), "{:?}", done.refused);
    assert!(done.must_wake_sender());
    let mut seen = String::new();
    let mut take = |rig: &mut Rig<C>| {
        for batch in std::iter::from_fn(|| rig.drain().pop()).collect::<Vec<_>>() {
            seen.extend(values([&batch]).iter().filter_map(|value| value.chars().next()));
            rig.acknowledge(batch);
        }
    };
    take(&mut rig);
    // The rest, given again.
    let done = push(&rig, &records[done.accepted..]);
    assert_eq!((done.accepted, done.refused), (4, None));
    take(&mut rig);
    assert_eq!(seen, "abcdefghijklmn");
    // One for which the open batch has no room, nor the pool: that batch goes now, and somebody must say so.
    (0..9).for_each(|_| rig.push(1, &largest()));
    rig.push(0, b"before, and of some bytes");
    let done = push(&rig, &records[..1]);
    assert_eq!((done.accepted, done.new_batch, done.refused.is_some()), (0, false, true));
    assert!(done.must_wake_sender() || C::NAME != "lockfree", "Kafka's sender is not woken for it, nor the twin's");
    assert_eq!(drain_all(&mut rig).len(), 10);
    // One that is invalid ends it there: those before it are in, those behind it are not.
    let invalid = Record { timestamp: -7, ..NOTHING };
    let done = push(&rig, &[value(b"1"), value(b"2"), invalid, value(b"3")]);
    assert_eq!((done.accepted, done.futures.len()), (2, 2));
    assert!(matches!(done.refused, Some(AppendError::Invalid(_))));
    let done = push(&rig, &[invalid, value(b"3")]);
    assert!(done.accepted == 0 && matches!(done.refused, Some(AppendError::Invalid(_))));
    rig.accumulator.close();
    let done = push(&rig, &[value(b"late"), value(b"later")]);
    assert_eq!((done.accepted, done.futures.len(), done.refused), (0, 0, Some(AppendError::Closed)));
    assert_eq!(values(&rig.drain()), ["1", "2"]);
}

fn acc_01_many_for_another_accumulator_are_refused<C: Core>() {
    let (mut mine, other) = (Rig::<C>::new(), Rig::<C>::new());
    let theirs = mine.partition(0);
    // There is room in what is open.
    mine.push(0, b"mine");
    let append = || drop(other.accumulator.append_many(&theirs, &[value(b"x")], false, Duration::ZERO));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(append)).is_err());
    // Nor by an appender; the second time it has the partition's address in its notes.
    let mut appender = other.accumulator.appender();
    for _ in 0..2 {
        let append = || drop(appender.append_many(&theirs, &[value(b"x")], false, Duration::ZERO));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(append)).is_err());
    }
    assert_eq!(values(&mine.drain()), ["mine"]);
}

/// Threads that append runs of records; each thread's must come out in order.
fn in_order<C: Core>(with_appenders: bool) {
    const THREADS: usize = 4;
    let memory = if with_appenders { 24 } else { 8 };
    let mut line = Line::<C>::new(AccumulatorConfig { buffer_memory: memory * BATCH as u64, ..ample() }, 1);
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let accumulator: Arc<C::Accumulator> = line.accumulator.clone();
            Worker::start(move || {
                let mut random = Random::seeded(thread as u64);
                let partition = accumulator.partition(&tp(0));
                let mut appender = with_appenders.then(|| accumulator.appender());
                let watch = Stopwatch::start();
                let (mut number, mut lanes) = (0, 0);
                while watch.elapsed() < millis(400) {
                    let count = 1 + random.below(40) as u32;
                    let contents: Vec<_> = (number..number + count).map(|number| numbered(thread, number)).collect();
                    let records: Vec<_> = contents.iter().map(|content| value(content)).collect();
                    // Between them one by itself, too.
                    let (first, rest) = records.split_first().expect("one at least");
                    let done = match &mut appender {
                        Some(appender) => {
                            assert!(appender.append(&partition, first, Reply::IGNORE, LONG).is_ok());
                            appender.append_many(&partition, rest, false, LONG)
                        }
                        None => {
                            assert!(accumulator.append(&partition, first, Reply::IGNORE, LONG).is_ok());
                            accumulator.append_many(&partition, rest, false, LONG)
                        }
                    };
                    assert_eq!((done.accepted, done.refused), (rest.len(), None));
                    number += count;
                    lanes = appender.as_ref().map_or(0, |appender| lanes.max(appender.lanes()));
                    if random.below(12) == 0 {
                        std::thread::sleep(millis(random.below(5)));
                    }
                }
                (number as usize, lanes)
            })
        })
        .collect();
    let mut logs = BTreeMap::<i32, Log>::new();
    loop {
        let over = threads.iter().all(Worker::is_finished);
        line.view.ready(&line.cluster, line.clock.now());
        line.pass(|batch| logs.entry(batch.topic_partition().partition).or_default().take(batch));
        if over && !line.accumulator.has_undrained() {
            break;
        }
    }
    let (appended, lanes): (Vec<usize>, Vec<usize>) = threads.into_iter().map(Worker::result).unzip();
    assert_eq!(logs[&0].records, appended.iter().sum::<usize>());
    assert_eq!(lanes.iter().any(|lanes| *lanes > 0), with_appenders, "{lanes:?}");
    assert_at_rest(&line.accumulator.pool());
}

fn acc_47_many_at_once_keep_their_order<C: Core>() {
    in_order::<C>(false);
}

fn acc_47_many_at_once_keep_an_appenders_order_over_every_change_of_lane<C: Core>() {
    in_order::<C>(true);
}

fn acc_47_many_at_once_earn_a_lane_as_one_after_another<C: Core>() {
    // Records until there is a lane, in calls of two each.
    let until_lane = |at_once: bool| {
        let mut rig = Rig::<C>::with(ample());
        let (partition, mut appender) = (rig.partition(0), rig.accumulator.appender());
        let records = [value(b"one record"), value(b"another")];
        for pair in 1..200 {
            if at_once {
                assert_eq!(appender.append_many(&partition, &records, false, Duration::ZERO).accepted, 2);
            } else {
                assert!(
                    records
                        .iter()
                        .all(|record| { appender.append(&partition, record, Reply::IGNORE, Duration::ZERO).is_ok() })
                );
            }
            if appender.lanes() > 0 {
                return pair;
            }
            if rig.is_ready() {
                rig.acknowledge_all();
            }
        }
        panic!("four hundred records in no time earn a lane");
    };
    assert_eq!(until_lane(true), until_lane(false));
}

fn acc_47_many_by_an_owner_fill_its_batches_as_one_after_another<C: Core>() {
    let mut random = Random::seeded(3);
    let contents: Vec<Vec<u8>> = (0..200).map(|number| vec![number; random.below(60) as usize]).collect();
    let records: Vec<_> = contents.iter().map(|content| value(content)).collect();
    let lasting = || AccumulatorConfig { linger: LONG, ..ample() };
    let (mut one, mut by_one) = with_a_lane::<C>(lasting());
    let (mut many, mut by_many) = with_a_lane::<C>(lasting());
    let mut futures: Vec<RecordFuture> = Vec::new();
    for chunk in records.chunks(17) {
        let mut expected = AppendedMany::default();
        for record in chunk {
            let appended = by_one.append(&one.partition(0), record, Reply::IGNORE, Duration::ZERO).expect("room");
            expected.new_batch |= appended.new_batch;
            expected.batch_is_full |= appended.batch_is_full;
            expected.bytes += appended.bytes;
        }
        let done = by_many.append_many(&many.partition(0), chunk, true, Duration::ZERO);
        assert_eq!((done.accepted, done.futures.len(), done.refused), (chunk.len(), chunk.len(), None));
        assert_eq!((done.new_batch, done.bytes), (expected.new_batch, expected.bytes));
        assert!(done.batch_is_full || !expected.batch_is_full && !done.new_batch, "a batch was filled");
        futures.extend(done.futures);
    }
    assert_eq!((by_one.lanes(), by_many.lanes()), (1, 1), "all of it in the owner's own");
    drop((by_one, by_many));
    assert_eq!(drain_all(&mut many), drain_all(&mut one));
    assert!(futures.into_iter().all(|future| future.wait().is_ok()));
}
