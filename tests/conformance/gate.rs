//! What a gate lets be drained, stamps, and batches that were split: ACC-29, 31, 35 to 37, BATCH-22 to 26, GAP-16.

use std::collections::BTreeSet;
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, DrainGate, SenderView};
use unlatched::batch::{FinalState, RecordFuture, SealedBatch};
use unlatched::error::{FlushError, SendError, TopicPartition};
use unlatched::record::{ProducerState, RecordBatch, crc32c};

use crate::appenders::{self, AppenderOf, with_a_lane};
use crate::batch::{millis, tp};
use crate::deviations::{Behaviour, keeps};
use crate::rig::{NODE, Rig, config, led_since, partitions, values};
use crate::support::{Core, LONG, on_every_core};

on_every_core![
    acc_29_a_refused_head_ends_its_nodes_turn_or_is_skipped,
    acc_23_what_an_appender_has_behind_a_retry_that_waits_makes_no_node_ready,
    acc_29_a_refused_partition_makes_no_node_ready,
    acc_29_what_an_appender_has_behind_a_refused_head_makes_no_node_ready,
    acc_31_a_batch_is_stamped_at_its_first_drain_under_its_checksum,
    acc_35_what_has_a_sequence_goes_back_in_order,
    acc_35_what_was_opened_first_and_drained_last_goes_back_last,
    acc_36_parts_stand_in_their_places,
    acc_37_parts_are_outside_of_the_pool,
    batch_22_a_newer_leader_ends_the_backoff_of_the_attempt_it_was_seen_at,
    batch_23_records_are_read_again_into_smaller_batches,
    batch_23_a_whole_ends_as_the_worst_of_its_parts,
    batch_23_parts_are_no_larger_than_a_batch_whatever_the_codec,
    batch_24_parts_have_no_attempts_and_the_age_of_their_whole,
    batch_25_what_cannot_be_split_comes_back_untouched,
    batch_26_a_closed_batch_is_stamped_anew_only_after_a_reset,
    gap_16_a_flush_waits_for_all_parts_of_what_was_split,
];

/// Stamps with rising sequences, and refuses some partitions.
#[derive(Default)]
struct Stamps {
    next: i32,
    refused: BTreeSet<i32>,
    asked: Vec<(i32, bool)>,
}

impl DrainGate for Stamps {
    fn admits(&mut self, topic_partition: &TopicPartition, head: Option<&SealedBatch>) -> bool {
        self.asked.push((topic_partition.partition, head.is_some_and(SealedBatch::has_sequence)));
        !self.refused.contains(&topic_partition.partition)
    }

    fn drained(&mut self, batch: &mut SealedBatch) {
        if !batch.has_sequence() {
            let state = ProducerState { id: 9, epoch: 2, base_sequence: self.next, transactional: false };
            batch.set_producer_state(state).expect("it is not closed");
            self.next += batch.record_count() as i32;
        }
    }
}

/// Lets nothing be sent again, as while a batch before it is away.
struct OnlyNew(Stamps);

impl DrainGate for OnlyNew {
    fn admits(&mut self, _: &TopicPartition, head: Option<&SealedBatch>) -> bool {
        !head.is_some_and(SealedBatch::has_sequence)
    }

    fn drained(&mut self, batch: &mut SealedBatch) {
        self.0.drained(batch);
    }
}

fn drain<C: Core>(rig: &mut Rig<C>, gate: &mut impl DrainGate) -> Vec<SealedBatch> {
    let now = rig.clock.look();
    rig.view.drain_through(&rig.cluster, &[NODE], usize::MAX, now, gate).remove(0).batches
}

fn ample<C: Core>() -> Rig<C> {
    Rig::<C>::with(AccumulatorConfig { buffer_memory: 1 << 20, batch_size: 512, ..config() })
}

/// A closed batch of eight records, and their futures.
fn eight<C: Core>(rig: &mut Rig<C>) -> (SealedBatch, Vec<RecordFuture>) {
    let futures = (0..8).map(|number| rig.push_future(0, format!("record {number}").as_bytes())).collect();
    (rig.drain_one(), futures)
}

fn acc_29_a_refused_head_ends_its_nodes_turn_or_is_skipped<C: Core>() {
    let mut rig = ample::<C>();
    [0, 1, 2].into_iter().for_each(|partition| rig.push(partition, b"a"));
    let mut gate = Stamps { refused: BTreeSet::from([1]), ..Stamps::default() };
    let first = drain(&mut rig, &mut gate);
    let expected: &[i32] = match keeps::<C>("GAP-22") {
        Behaviour::Promise => &[0, 2],
        Behaviour::Kafka => &[0],
    };
    assert_eq!(partitions(&first), expected);
    let second = drain(&mut rig, &mut gate);
    assert!(second.is_empty(), "Kafka begins at the one that is refused");
    gate.refused.clear();
    let third = drain(&mut rig, &mut gate);
    assert_eq!(first.len() + third.len(), 3);
    first.into_iter().chain(third).for_each(|batch| rig.acknowledge(batch));
}

fn acc_29_a_refused_partition_makes_no_node_ready<C: Core>() {
    let mut rig = ample::<C>();
    rig.fill(0);
    let mut gate = Stamps { refused: BTreeSet::from([0]), ..Stamps::default() };
    let now = rig.clock.look();
    let check = rig.view.ready_through(&rig.cluster, now, &mut gate);
    assert!(check.nodes.is_empty() && gate.asked.contains(&(0, false)), "{check:?}");
    rig.push(1, b"a");
    rig.pass(10);
    let now = rig.clock.look();
    assert_eq!(rig.view.ready_through(&rig.cluster, now, &mut gate).nodes, [NODE]);
}

fn acc_31_a_batch_is_stamped_at_its_first_drain_under_its_checksum<C: Core>() {
    let mut rig = ample::<C>();
    let mut gate = Stamps { next: 7, ..Stamps::default() };
    rig.push(0, b"a");
    rig.push(0, b"b");
    let batch = drain(&mut rig, &mut gate).remove(0);
    let header = *RecordBatch::parse(batch.as_bytes()).expect("a good checksum").0.header();
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (9, 2, 7));
    assert_eq!((batch.last_sequence(), gate.next), (Some(8), 9));
    let bytes = batch.as_bytes().to_vec();
    rig.reenqueue(batch);
    rig.pass(1_000);
    let again = drain(&mut rig, &mut gate).remove(0);
    assert_eq!((again.as_bytes(), gate.next), (&bytes[..], 9), "once");
    assert_eq!(gate.asked.last(), Some(&(0, true)));
    rig.acknowledge(again);
}

fn acc_35_what_has_a_sequence_goes_back_in_order<C: Core>() {
    let mut rig = ample::<C>();
    let mut gate = Stamps::default();
    let mut batches = Vec::new();
    for name in ["a", "b", "c"] {
        rig.push(0, name.as_bytes());
        batches.extend(drain(&mut rig, &mut gate));
    }
    rig.push(0, b"d");
    for at in [1, 0, 0] {
        rig.reenqueue(batches.remove(at));
    }
    rig.pass(1_000);
    for _ in 0..4 {
        batches.extend(drain(&mut rig, &mut gate));
    }
    assert_eq!(values(&batches), ["a", "b", "c", "d"]);
    // The stamp of one that is queued can be taken away; it then stands behind those that have theirs.
    batches.drain(..3).for_each(|batch| rig.reenqueue(batch));
    rig.view.reset_producer_state(&tp(0), &mut |batch| batch.producer_state().base_sequence == 1);
    rig.pass(1_000);
    let mut again = Vec::new();
    for _ in 0..3 {
        again.extend(drain(&mut rig, &mut gate));
    }
    assert_eq!(values(&again), ["a", "c", "b"]);
    assert_eq!(again[2].producer_state().base_sequence, 4, "a new one");
    again.into_iter().chain(batches).for_each(|batch| rig.acknowledge(batch));
}

/// Found by the simulation: of several lanes the batch opened first need not be the one drained first, so numbers say nothing about sequences.
fn acc_35_what_was_opened_first_and_drained_last_goes_back_last<C: Core>() {
    for order in [[0, 0], [1, 0]] {
        let (mut rig, _appender) = with_a_lane::<C>(lingering());
        let mut gate = Stamps::default();
        rig.push(0, b"later");
        let mut batches = drain(&mut rig, &mut gate);
        rig.accumulator.begin_flush();
        assert!(rig.is_ready());
        batches.extend(drain(&mut rig, &mut gate));
        assert_eq!(values(&batches), ["later", "mine"]);
        assert!(batches[0].id() > batches[1].id());
        for at in order {
            rig.reenqueue(batches.remove(at));
        }
        rig.pass(200);
        for _ in 0..2 {
            batches.extend(drain(&mut rig, &mut gate));
        }
        assert_eq!((values(&batches), gate.next), (vec!["later".to_owned(), "mine".to_owned()], 2));
        batches.into_iter().for_each(|batch| rig.acknowledge(batch));
    }
}

fn lingering() -> AccumulatorConfig {
    AccumulatorConfig { linger: LONG, ..appenders::ample() }
}

/// A retry with a sequence, and behind it what an appender has, which is due.
fn with_a_retry_before_a_lane<C: Core>() -> (Rig<C>, Stamps, AppenderOf<C>) {
    let (mut rig, appender) = with_a_lane::<C>(lingering());
    let mut gate = Stamps::default();
    rig.push(0, b"first");
    let batch = drain(&mut rig, &mut gate).remove(0);
    rig.reenqueue(batch);
    rig.accumulator.begin_flush();
    (rig, gate, appender)
}

/// Found by the simulation, in the twin: a pass without a sleep for as long as the backoff is.
fn acc_23_what_an_appender_has_behind_a_retry_that_waits_makes_no_node_ready<C: Core>() {
    let (mut rig, mut gate, _appender) = with_a_retry_before_a_lane::<C>();
    let check = rig.ready();
    let left = check.next_check.expect("the rest of the backoff");
    assert!(check.nodes.is_empty() && (millis(80)..=millis(120)).contains(&left), "{check:?}");
    assert!(drain(&mut rig, &mut gate).is_empty());
    rig.pass(120);
    let mut sent = Vec::new();
    while rig.is_ready() {
        sent.extend(drain(&mut rig, &mut gate));
    }
    assert_eq!(values(&sent), ["first", "mine"]);
    sent.into_iter().for_each(|batch| rig.acknowledge(batch));
}

fn acc_29_what_an_appender_has_behind_a_refused_head_makes_no_node_ready<C: Core>() {
    let (mut rig, gate, _appender) = with_a_retry_before_a_lane::<C>();
    let mut gate = OnlyNew(gate);
    rig.pass(120);
    let now = rig.clock.look();
    let check = rig.view.ready_through(&rig.cluster, now, &mut gate);
    assert!(check.nodes.is_empty() && check.next_check.is_none_or(|left| left > millis(1_000)), "{check:?}");
    assert!(drain(&mut rig, &mut gate).is_empty());
    let mut sent = Vec::new();
    while rig.is_ready() {
        sent.extend(drain(&mut rig, &mut gate.0));
    }
    assert_eq!(values(&sent), ["first", "mine"]);
    sent.into_iter().for_each(|batch| rig.acknowledge(batch));
}

fn batch_22_a_newer_leader_ends_the_backoff_of_the_attempt_it_was_seen_at<C: Core>() {
    let mut rig = ample::<C>();
    rig.cluster = led_since(&[Some(0)], Some(3));
    rig.push(0, b"a");
    let batch = rig.drain_one();
    rig.reenqueue(batch);
    rig.cluster = led_since(&[Some(0)], None);
    assert!(rig.drain().is_empty(), "an epoch that is not known is not newer");
    rig.cluster = led_since(&[Some(0)], Some(4));
    let batch = rig.drain_one();
    rig.reenqueue(batch);
    assert!(rig.drain().is_empty(), "it was for the attempt before");
    rig.pass(1_000);
    let batch = rig.drain_one();
    rig.acknowledge(batch);
}

fn batch_23_records_are_read_again_into_smaller_batches<C: Core>() {
    let mut rig = ample::<C>();
    let (batch, futures) = eight(&mut rig);
    let size = batch.size();
    let parts = rig.view.split(batch).expect("it can be split");
    assert!(parts.len() >= 2 && parts.iter().all(|part| part.size() < size));
    let names: Vec<String> = (0..8).map(|number| format!("record {number}")).collect();
    parts.into_iter().for_each(|part| rig.view.enqueue(part));
    let mut sent = Vec::new();
    while rig.accumulator.has_undrained() {
        sent.extend(rig.drain());
    }
    assert_eq!(values(&sent), names);
    for (number, part) in (0..).zip(sent) {
        assert_eq!(part.completion().complete(number * 100, None), Ok(true));
        rig.view.deallocate(part).unwrap();
    }
    let offsets: Vec<i64> = futures.into_iter().map(|future| future.wait().unwrap().offset).collect();
    assert_eq!((offsets[0], offsets.is_sorted(), offsets[7] >= 100), (0, true, true), "{offsets:?}");
    assert!(!rig.accumulator.has_incomplete());
}

fn batch_23_a_whole_ends_as_the_worst_of_its_parts<C: Core>() {
    for failed in [false, true] {
        let mut rig = ample::<C>();
        let (batch, _futures) = eight(&mut rig);
        let watch = batch.completion().watch();
        let mut parts = rig.view.split(batch).unwrap();
        let last = parts.pop().unwrap();
        parts.into_iter().for_each(|part| rig.acknowledge(part));
        assert_eq!(watch.final_state(), None);
        if failed {
            assert_eq!(last.completion().fail(SendError::Aborted { reason: "it failed" }, None), Ok(true));
        } else {
            drop(last);
        }
        let expected = if failed { FinalState::Failed } else { FinalState::Aborted };
        assert_eq!(watch.final_state(), Some(expected), "the others have succeeded");
    }
}

/// What a codec has packed into one batch would go again as it is, were half of it still more than a batch may have uncompressed.
fn batch_23_parts_are_no_larger_than_a_batch_whatever_the_codec<C: Core>() {
    let compression = "lz4".parse().unwrap();
    let mut rig = Rig::<C>::with(AccumulatorConfig { batch_size: 512, compression, ..appenders::ample() });
    let full = |rig: &mut Rig<C>| {
        while !rig.append(0, &[b'z'; 60]).batch_is_full {}
        rig.drain_one()
    };
    let mut batch = full(&mut rig);
    // The twin learns from each batch how much more the next may take.
    for _ in 0..200 {
        rig.acknowledge(batch);
        batch = full(&mut rig);
    }
    match keeps::<C>("GAP-34") {
        Behaviour::Promise => assert!(batch.uncompressed_size() <= 512),
        Behaviour::Kafka => assert!(batch.uncompressed_size() > 1_024 && batch.size() <= 512, "{batch:?}"),
    }
    for part in rig.view.split(batch).unwrap() {
        assert!(part.uncompressed_size() <= 512, "{part:?}");
        rig.acknowledge(part);
    }
    // One may have been opened before.
    let before = full(&mut rig);
    let next = full(&mut rig);
    assert!(next.uncompressed_size() <= 512, "ACC-36: it had learned too much: {next:?}");
    rig.acknowledge(before);
    rig.acknowledge(next);
}

fn batch_24_parts_have_no_attempts_and_the_age_of_their_whole<C: Core>() {
    let mut rig = ample::<C>();
    let (batch, _futures) = eight(&mut rig);
    rig.reenqueue(batch);
    rig.pass(900);
    let batch = rig.drain_one();
    let (id, created) = (batch.id(), batch.created());
    let parts = rig.view.split(batch).unwrap();
    let ids: BTreeSet<u64> = parts.iter().map(SealedBatch::id).collect();
    assert_eq!((ids.len(), ids.contains(&id)), (parts.len(), false));
    for part in &parts {
        assert_eq!((part.attempts(), part.in_retry(), part.has_sequence(), part.created()), (0, false, false, created));
    }
    parts.into_iter().for_each(|part| rig.view.enqueue(part));
    rig.pass(100);
    assert!(rig.expired().len() >= 2, "BATCH-19: their time is that of the whole");
}

fn batch_25_what_cannot_be_split_comes_back_untouched<C: Core>() {
    let mut rig = ample::<C>();
    let future = rig.push_future(0, b"alone");
    let batch = rig.drain_one();
    let bytes = batch.as_bytes().to_vec();
    let batch = rig.view.split(batch).expect_err("one record");
    assert_eq!(batch.as_bytes(), bytes);
    rig.acknowledge(*batch);
    assert!(future.wait().is_ok());
}

fn batch_26_a_closed_batch_is_stamped_anew_only_after_a_reset<C: Core>() {
    let mut rig = ample::<C>();
    let mut gate = Stamps::default();
    rig.push(0, b"a");
    let mut batch = drain(&mut rig, &mut gate).remove(0);
    let state = ProducerState { id: 9, epoch: 3, base_sequence: 0, transactional: false };
    assert!(batch.set_producer_state(state).is_err());
    batch.reset_producer_state();
    assert!(batch.sequence_was_reset() && !batch.is_closed() && !batch.has_sequence());
    batch.set_producer_state(state).unwrap();
    batch.close().unwrap();
    assert!(!batch.sequence_was_reset());
    let bytes = batch.as_bytes();
    let header = *RecordBatch::parse(bytes).expect("a good checksum").0.header();
    assert_eq!((header.producer_epoch, bytes[17..21] == crc32c(&bytes[21..]).to_be_bytes()), (3, true));
    rig.acknowledge(batch);
}

fn acc_36_parts_stand_in_their_places<C: Core>() {
    let mut rig = ample::<C>();
    let (batch, _futures) = eight(&mut rig);
    rig.push(0, b"later");
    let mut parts = rig.view.split(batch).unwrap();
    parts.reverse();
    parts.into_iter().for_each(|part| rig.view.enqueue(part));
    assert!(rig.append(0, b"after").batch_is_full, "ACC-05: there is something to send");
    let mut sent = Vec::new();
    while rig.accumulator.has_undrained() {
        sent.extend(rig.drain());
    }
    let expected: Vec<String> =
        (0..8).map(|number| format!("record {number}")).chain(["later", "after"].map(String::from)).collect();
    assert_eq!(values(&sent), expected);
    assert!(sent.iter().all(|batch| batch.queue_time() == Some(Duration::ZERO)), "nothing was waited for");
    sent.into_iter().for_each(|batch| rig.acknowledge(batch));
    assert!(!rig.accumulator.has_incomplete());
    assert!(!rig.append(0, b"alone").batch_is_full, "nothing is left of them");
}

fn acc_37_parts_are_outside_of_the_pool<C: Core>() {
    let mut rig = ample::<C>();
    let (batch, _futures) = eight(&mut rig);
    let charged = batch.charged();
    assert_eq!(rig.accumulator.pool().leased, charged as u64);
    let parts = rig.view.split(batch).unwrap();
    assert_eq!(rig.accumulator.pool().leased, 0);
    let bytes: usize = parts.iter().map(SealedBatch::size).sum();
    assert_eq!((rig.accumulator.off_pool().bytes, parts[0].charged()), (bytes as u64, 0));
    parts.into_iter().for_each(|part| rig.acknowledge(part));
    assert_eq!(rig.accumulator.off_pool().bytes, 0);
    let pool = rig.accumulator.pool();
    assert!(pool.is_conserved() && pool.available() == pool.total);
}

fn gap_16_a_flush_waits_for_all_parts_of_what_was_split<C: Core>() {
    let mut rig = ample::<C>();
    let (batch, futures) = eight(&mut rig);
    let mut parts = rig.view.split(batch).unwrap();
    let last = parts.pop().unwrap();
    parts.into_iter().for_each(|part| rig.acknowledge(part));
    rig.accumulator.begin_flush();
    assert_eq!(rig.accumulator.await_flush(Some(Duration::ZERO)), Err(FlushError::TimedOut(Duration::ZERO)));
    assert!(rig.accumulator.has_incomplete() && futures.iter().all(|future| !future.is_done()));
    // A part may be split again.
    let again = rig.view.split(last).unwrap_or_else(|last| vec![*last]);
    again.into_iter().for_each(|part| rig.acknowledge(part));
    rig.accumulator.begin_flush();
    assert_eq!(rig.accumulator.await_flush(Some(Duration::ZERO)), Ok(()));
    assert!(futures.iter().all(RecordFuture::is_done));
}
