//! What is ready, and when to look again: ACC-18, ACC-20 to ACC-24, ACC-33.

use std::collections::BTreeSet;
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, Backoff, ReadyCheck, SenderView};
use unlatched::broker::{Cluster, NodeId};
use unlatched::error::TopicPartition;
use unlatched::primitive::clock::{Clock, Instant};
use unlatched::primitive::random::Random;

use crate::batch::{at, millis, tp};
use crate::deviations::{Behaviour, keeps};
use crate::rig::{BATCH, NODE, Rig, config, led_by, led_since};
use crate::support::{Core, LONG, eventually, on_every_core};

on_every_core![
    acc_18_partitions_without_data_are_ignored,
    acc_18_full_is_a_full_head_or_more_than_one_batch,
    acc_18_the_leader_is_looked_up_each_time,
    acc_20_a_node_is_ready_once,
    acc_20_a_muted_partition_is_skipped,
    acc_21_linger,
    acc_21_a_full_batch_does_not_linger,
    acc_21_a_waiter_for_memory_hurries_all,
    acc_21_close_hurries_all,
    acc_21_a_flush_hurries_all,
    acc_21_nothing_overrides_the_backoff,
    acc_22_the_next_check_is_the_shortest_wait,
    acc_22_backoff_counts_instead_of_linger,
    acc_23_backing_off_after_a_failed_attempt,
    acc_23_without_a_backoff_a_retry_goes_at_once,
    acc_23_a_newer_leader_ends_the_backoff,
    acc_24_backoff_doubles_up_to_its_maximum,
    acc_24_when_the_jitter_is_drawn,
    acc_33_muting_keeps_from_ready_and_drain_only,
];

/// A batch of partition 0 that came back with a retriable error at the present time.
fn with_a_retry<C: Core>() -> Rig<C> {
    let mut rig = Rig::<C>::new();
    rig.fill(0);
    assert!(rig.is_ready());
    let batch = rig.drain_one();
    rig.reenqueue(batch);
    rig
}

fn acc_18_partitions_without_data_are_ignored<C: Core>() {
    let mut rig = Rig::<C>::new();
    assert_eq!(rig.ready(), ReadyCheck::default());
    rig.partition(0);
    rig.accumulator.partition(&TopicPartition::new("unknown", 0));
    rig.pass(100_000);
    assert_eq!(rig.ready(), ReadyCheck::default(), "seen, but without data");
    rig.accumulator.begin_flush();
    assert_eq!(rig.ready(), ReadyCheck::default(), "not even in a hurry");
    rig.push(0, b"x");
    assert!(rig.is_ready());
    rig.acknowledge_all();
    assert_eq!(rig.ready(), ReadyCheck::default(), "drained");
}

fn acc_18_full_is_a_full_head_or_more_than_one_batch<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { linger: LONG, ..config() });
    rig.push(0, b"x");
    assert!(!rig.is_ready(), "one batch, not full");
    rig.push(0, &[0; 200]);
    assert!(rig.is_ready(), "two batches, neither full");
    assert_eq!(rig.drain_one().record_count(), 1);
    assert!(!rig.is_ready(), "one batch again");
    rig.fill(1);
    assert!(rig.is_ready(), "a full head");
}

fn acc_18_the_leader_is_looked_up_each_time<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.fill(0);
    for node in [3, 1] {
        rig.cluster = led_by(&[Some(node)]);
        assert_eq!(rig.ready().nodes, [NodeId(node)]);
    }
    for nobody in [led_by(&[None]), led_by(&[]), Cluster::default()] {
        rig.cluster = nobody;
        let check = rig.ready();
        assert_eq!((check.nodes, check.next_check), (vec![], None));
        assert_eq!(check.unknown_leader_topics, [tp(0).topic]);
    }
}

fn acc_20_a_node_is_ready_once<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.cluster = led_by(&[Some(1), Some(2), Some(1), Some(2), Some(3), Some(1)]);
    for partition in [0, 1, 2, 3, 5] {
        rig.fill(partition);
    }
    let nodes = rig.ready().nodes;
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    assert_eq!(nodes.into_iter().collect::<BTreeSet<_>>(), [NodeId(1), NodeId(2)].into());
}

fn acc_20_a_muted_partition_is_skipped<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.cluster = led_by(&[Some(1), Some(2)]);
    rig.fill(0);
    rig.push(1, b"x");
    rig.view.mute(&tp(0));
    let check = rig.ready();
    assert_eq!((check.nodes, check.next_check), (vec![], Some(millis(10))));
    rig.view.mute(&tp(1));
    assert_eq!(rig.ready(), ReadyCheck::default(), "it says nothing about when to look again either");
    rig.view.unmute(&tp(0));
    assert_eq!(rig.ready().nodes, [NodeId(1)]);
}

fn acc_21_linger<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.push(0, b"x");
    assert!(!rig.is_ready());
    rig.pass(9);
    assert!(!rig.is_ready());
    // From the creation of the batch, not from its last append.
    rig.push(0, b"y");
    rig.pass(1);
    assert!(rig.is_ready());
    assert_eq!(rig.drain_one().record_count(), 2);
    // Without linger nothing waits.
    let mut rig = Rig::<C>::with(AccumulatorConfig { linger: Duration::ZERO, ..config() });
    rig.push(0, b"x");
    assert!(rig.is_ready());
}

fn acc_21_a_full_batch_does_not_linger<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { linger: LONG, ..config() });
    rig.push(0, b"x");
    assert!(!rig.is_ready());
    rig.fill(1);
    assert!(rig.is_ready());
}

fn acc_21_a_waiter_for_memory_hurries_all<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: 2 * BATCH as u64, linger: LONG, ..config() });
    rig.push(0, b"x");
    rig.push(1, b"y");
    assert!(!rig.is_ready());
    let waiter = rig.appender(2, b"z");
    eventually("it waits for memory", || rig.accumulator.pool().queued == 1);
    assert!(rig.is_ready());
    let mut batches = rig.drain();
    rig.acknowledge(batches.remove(0));
    assert!(waiter.result().is_ok());
    assert!(!rig.is_ready(), "nobody waits any more");
}

fn acc_21_close_hurries_all<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { linger: LONG, ..config() });
    rig.push(0, b"x");
    assert!(!rig.is_ready());
    rig.accumulator.close();
    assert!(rig.is_ready());
}

fn acc_21_a_flush_hurries_all<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { linger: LONG, ..config() });
    rig.push(0, b"x");
    assert!(!rig.is_ready() && !rig.accumulator.flush_in_progress());
    rig.accumulator.begin_flush();
    assert!(rig.is_ready() && rig.accumulator.flush_in_progress());
    // What comes during the flush as well.
    rig.acknowledge_all();
    rig.push(1, b"y");
    assert!(rig.is_ready());
    rig.acknowledge_all();
    rig.accumulator.await_flush(None).unwrap();
    rig.push(2, b"z");
    assert!(!rig.is_ready() && !rig.accumulator.flush_in_progress());
}

fn acc_21_nothing_overrides_the_backoff<C: Core>() {
    // Room for two batches, so that a third has to wait for memory.
    let mut rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: 2 * BATCH as u64, ..config() });
    rig.cluster = led_by(&[Some(0), None, None]);
    rig.fill(0);
    rig.fill(1);
    let batch = rig.drain_one();
    rig.reenqueue(batch);
    let waiter = rig.appender(2, b"x");
    eventually("it waits for memory", || rig.accumulator.pool().queued == 1);
    rig.accumulator.begin_flush();
    // Full, older than linger, flushed, and memory is short.
    rig.pass(79);
    assert!(!rig.is_ready() && rig.drain().is_empty());
    rig.accumulator.close();
    assert!(!rig.is_ready() && rig.drain().is_empty(), "and closed");
    rig.pass(41);
    assert!(rig.is_ready());
    assert_eq!(rig.drain_one().attempts(), 1);
    assert!(waiter.result().is_err());
}

fn acc_22_the_next_check_is_the_shortest_wait<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.cluster = led_by(&[Some(0), Some(1), Some(2)]);
    assert_eq!(rig.ready().next_check, None, "never");
    rig.push(0, b"x");
    assert_eq!(rig.ready().next_check, Some(millis(10)));
    rig.pass(4);
    rig.push(1, b"y");
    assert_eq!(rig.ready().next_check, Some(millis(6)), "the older one's");
    rig.pass(5);
    assert_eq!(rig.ready().next_check, Some(millis(1)));
    rig.pass(1);
    let check = rig.ready();
    assert_eq!((check.nodes, check.next_check), (vec![NodeId(0)], Some(millis(4))), "the one that still lingers");
    rig.fill(2);
    assert_eq!(rig.ready().next_check, Some(millis(4)), "what is ready is not waited for");
    rig.view.mute(&tp(1));
    assert_eq!(rig.ready().next_check, None);
    // A clock that steps back makes no wait longer than linger.
    let mut rig = Rig::<C>::new();
    rig.pass(50);
    rig.push(0, b"x");
    assert_eq!(rig.view.ready(&rig.cluster, at(20)).next_check, Some(millis(10)));
}

fn acc_22_backoff_counts_instead_of_linger<C: Core>() {
    let mut rig = with_a_retry::<C>();
    let next = |rig: &mut Rig<C>| rig.ready().next_check.unwrap();
    let left = next(&mut rig);
    assert!(millis(80) <= left && left <= millis(120), "{left:?}");
    rig.pass(60);
    let left = next(&mut rig);
    assert!(millis(20) <= left && left <= millis(60), "{left:?}");
    // Also where it could go but for the backoff.
    rig.accumulator.begin_flush();
    let left = next(&mut rig);
    assert!(millis(20) <= left && left <= millis(60), "{left:?}");
    // The shorter one counts, whatever it is.
    rig.cluster = led_by(&[Some(0), Some(1)]);
    rig.accumulator.await_flush(Some(Duration::ZERO)).unwrap_err();
    rig.push(1, b"y");
    assert_eq!(next(&mut rig), millis(10));
}

fn acc_23_backing_off_after_a_failed_attempt<C: Core>() {
    let mut rig = with_a_retry::<C>();
    // 100 ms, give or take a fifth.
    for (passed, sure) in [(0, Some(false)), (79, Some(false)), (41, Some(true))] {
        rig.pass(passed);
        assert_eq!(Some(rig.is_ready()), sure);
        assert_eq!(rig.view.ready(&rig.cluster, rig.clock.look()).nodes.is_empty(), sure == Some(false));
    }
    // The second time 200 ms, the third 400, each from its own failure.
    for (least, most) in [(159, 81), (319, 161), (639, 321), (799, 401), (799, 401)] {
        let batch = rig.drain_one();
        rig.reenqueue(batch);
        rig.pass(least);
        assert!(!rig.is_ready() && rig.drain().is_empty(), "after {least} ms");
        rig.pass(most);
        assert!(rig.is_ready(), "after {} ms", least + most);
    }
    // Others are not held up, nor what was never tried: a batch behind it has to wait for it, though.
    let batch = rig.drain_one();
    rig.reenqueue(batch);
    rig.push(0, b"behind");
    assert!(!rig.is_ready());
    rig.fill(1);
    assert!(rig.is_ready());
}

fn acc_23_without_a_backoff_a_retry_goes_at_once<C: Core>() {
    let backoff = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
    let mut rig = Rig::<C>::with(AccumulatorConfig { backoff, ..config() });
    rig.fill(0);
    let batch = rig.drain_one();
    rig.reenqueue(batch);
    // No time has passed: a wait of nothing is over.
    assert!(rig.is_ready());
    assert_eq!(rig.drain().len(), 1);
}

fn acc_23_a_newer_leader_ends_the_backoff<C: Core>() {
    let led = |epoch| led_since(&[Some(0)], epoch);
    let mut rig = with_a_retry::<C>();
    for not_newer in [led(Some(0)), led(None), led_since(&[Some(5)], Some(0))] {
        rig.cluster = not_newer;
        assert!(rig.ready().nodes.is_empty());
    }
    rig.cluster = led(Some(1));
    assert!(rig.is_ready(), "a newer leader: there is nothing to back off from");
    let batch = rig.drain_one();
    // It fails there too: now it backs off from that one.
    rig.reenqueue(batch);
    assert!(!rig.is_ready() && rig.drain().is_empty());
    // The drain sees the newer leader by itself.
    rig.cluster = led(Some(7));
    assert_eq!(rig.drain().len(), 1);
}

fn acc_24_backoff_doubles_up_to_its_maximum<C: Core>() {
    let mut random = Random::seeded(3);
    let backoff = Backoff { initial: millis(100), max: millis(1_000) };
    for attempts in 0..40u32 {
        let mean = if attempts < 4 { 100.0 * f64::from(1 << attempts) } else { 1_000.0 };
        let draws: Vec<f64> = (0..500).map(|_| backoff.after(attempts, &mut random).as_secs_f64() * 1e3).collect();
        let (low, high) = draws.iter().fold((f64::MAX, 0f64), |(low, high), draw| (low.min(*draw), high.max(*draw)));
        assert!(0.8 * mean - 1e-3 <= low && low < 0.84 * mean, "attempt {attempts}: {low}");
        let most = (1.2 * mean).min(1_000.0);
        assert!(0.96 * most < high && high <= most + 1e-3, "attempt {attempts}: {high}");
    }
    for (initial, max) in [(100, 100), (100, 20), (0, 50)] {
        let constant = Backoff { initial: millis(initial), max: millis(max) };
        for attempts in 0..10 {
            assert_eq!(constant.after(attempts, &mut random), millis(initial.min(max)), "no growth and no jitter");
        }
    }
}

fn acc_24_when_the_jitter_is_drawn<C: Core>() {
    let mut rig = with_a_retry::<C>();
    let seen: BTreeSet<Duration> = (0..50).map(|_| rig.ready().next_check.unwrap()).collect();
    assert!(seen.iter().all(|left| millis(80) <= *left && *left <= millis(120)), "{seen:?}");
    match keeps::<C>("GAP-23") {
        Behaviour::Kafka => assert!(seen.len() > 10, "drawn anew at each check: {seen:?}"),
        Behaviour::Promise => {
            // Once per attempt: how often one looks makes no difference.
            assert_eq!(seen.len(), 1, "{seen:?}");
            let drawn = *seen.first().unwrap();
            rig.time.advance(drawn - Duration::from_nanos(1));
            assert!(!rig.is_ready());
            rig.time.advance(Duration::from_nanos(1));
            assert!(rig.is_ready());
            let batch = rig.drain_one();
            rig.reenqueue(batch);
            assert_ne!(rig.ready().next_check.unwrap(), 2 * drawn, "the next attempt draws for itself");
        }
    }
    // A core's own seed gives its own draws, and the same seed the same.
    let draws = |seed| {
        let mut rig = Rig::<C>::with(AccumulatorConfig { seed, ..config() });
        rig.fill(0);
        let batch = rig.drain_one();
        rig.reenqueue(batch);
        rig.ready().next_check
    };
    assert_eq!(draws(7), draws(7));
    assert_ne!(draws(7), draws(8));
}

fn acc_33_muting_keeps_from_ready_and_drain_only<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.fill(0);
    assert!(!rig.view.is_muted(&tp(0)));
    rig.view.mute(&tp(0));
    rig.view.mute(&tp(0));
    assert!(rig.view.is_muted(&tp(0)) && !rig.view.is_muted(&tp(1)));
    assert!(!rig.is_ready() && rig.drain().is_empty());
    // The partition is muted, not its node.
    rig.fill(1);
    assert!(rig.is_ready());
    assert_eq!(rig.view.drain(&rig.cluster, &[NODE], usize::MAX, rig.clock.now())[0].batches.len(), 1);
    // Appending and expiry go on.
    rig.push(0, b"more");
    rig.pass(1_000);
    assert_eq!(rig.expired().len(), 2);
    // Once is enough to end it, and another partition's muting is not touched by that.
    rig.fill(0);
    rig.fill(2);
    rig.view.mute(&tp(2));
    rig.view.unmute(&tp(0));
    assert!(rig.is_ready() && rig.view.is_muted(&tp(2)));
    assert_eq!(crate::rig::partitions(&rig.drain()), [0]);
    rig.view.unmute(&tp(2));
    assert_eq!(crate::rig::partitions(&rig.drain()), [2]);
    assert_eq!(rig.now(), Instant::ZERO.saturating_add(millis(1_000)));
}
