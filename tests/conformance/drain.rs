//! Draining and putting back: ACC-25 to ACC-28, ACC-30, ACC-32, ACC-34.

use unlatched::accumulator::{Accumulator, AccumulatorConfig, SenderView};
use unlatched::broker::NodeId;
use unlatched::record::RecordBatch;

use crate::batch::{at, millis, tp};
use crate::rig::{BATCH, NODE, Rig, config, led_by, partitions, values};
use crate::support::{Core, LONG, on_every_core};

on_every_core![
    acc_25_one_batch_per_partition_and_pass,
    acc_25_only_the_nodes_own_partitions,
    acc_25_what_is_drained_is_closed_and_checksummed,
    acc_26_the_next_pass_begins_where_the_last_one_stopped,
    acc_26_a_full_round_leaves_the_last_partition_examined,
    acc_26_the_index_counts_partitions_that_had_nothing,
    acc_26_each_node_has_its_own_index,
    acc_27_skips_what_may_not_go_and_goes_on,
    acc_28_stops_at_the_request_size,
    acc_28_an_oversize_batch_goes_alone,
    acc_30_drain_ignores_linger,
    acc_32_nodes_without_partitions_and_no_nodes,
    acc_34_a_batch_put_back_stands_first,
];

/// Ample memory, and `n` full batches in each of these partitions.
fn filled<C: Core>(n: usize, of: &[i32]) -> Rig<C> {
    let rig = Rig::<C>::with(AccumulatorConfig { buffer_memory: 1 << 20, ..config() });
    for _ in 0..n {
        for partition in of {
            rig.fill(*partition);
        }
    }
    rig
}

fn acc_25_one_batch_per_partition_and_pass<C: Core>() {
    let mut rig = filled::<C>(3, &[0, 1, 2]);
    for pass in 0..3 {
        let drained = rig.drain();
        assert_eq!(drained.len(), 3, "pass {pass}");
        let mut drained = partitions(&drained);
        drained.sort_unstable();
        assert_eq!(drained, [0, 1, 2]);
    }
    assert!(rig.drain().is_empty() && !rig.accumulator.has_undrained());
}

fn acc_25_only_the_nodes_own_partitions<C: Core>() {
    let mut rig = filled::<C>(1, &[0, 1, 2, 3, 4, 5]);
    rig.cluster = led_by(&[Some(1), Some(2), None, Some(1), Some(2), Some(1)]);
    let drained = rig.view.drain(&rig.cluster, &[NodeId(2), NodeId(1)], usize::MAX, at(5));
    let of_node: Vec<_> = drained.iter().map(|drained| (drained.node, partitions(&drained.batches))).collect();
    assert_eq!(of_node, [(NodeId(2), vec![1, 4]), (NodeId(1), vec![0, 3, 5])], "in the order of the metadata");
    assert!(rig.accumulator.has_undrained(), "the one without a leader stays");
}

fn acc_25_what_is_drained_is_closed_and_checksummed<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.push(0, b"a");
    rig.pass(3);
    rig.push(0, b"b");
    rig.pass(4);
    let batch = rig.drain_one();
    assert!(batch.is_closed());
    let (parsed, rest) = RecordBatch::parse(batch.as_bytes()).expect("a good checksum");
    assert!(rest.is_empty());
    assert_eq!(parsed.header().records_count, 2);
    assert_eq!((batch.topic_partition(), batch.record_count(), batch.created()), (&tp(0), 2, at(0)));
    assert_eq!((batch.attempts(), batch.queue_time()), (0, Some(millis(7))));
}

fn acc_26_the_next_pass_begins_where_the_last_one_stopped<C: Core>() {
    let mut rig = filled::<C>(6, &[0, 1, 2, 3]);
    rig.cluster = led_by(&[Some(0); 4]);
    // Two fit. The third is examined, does not fit, and is the first next time.
    for expected in [[0, 1], [2, 3], [0, 1], [2, 3]] {
        assert_eq!(partitions(&rig.drain_up_to(2 * BATCH)), expected);
    }
    for expected in [[0, 1, 2], [3, 0, 1], [2, 3, 0], [1, 2, 3]] {
        assert_eq!(partitions(&rig.drain_up_to(3 * BATCH + 1)), expected);
    }
}

fn acc_26_a_full_round_leaves_the_last_partition_examined<C: Core>() {
    let mut rig = filled::<C>(4, &[0, 1, 2, 3]);
    rig.cluster = led_by(&[Some(0); 4]);
    for expected in [[0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1], [1, 2, 3, 0]] {
        assert_eq!(partitions(&rig.drain()), expected);
    }
    // The index is taken modulo the number of partitions, which may change.
    let mut rig = filled::<C>(2, &[0, 1, 2, 3]);
    rig.cluster = led_by(&[Some(0); 4]);
    assert_eq!(partitions(&rig.drain()), [0, 1, 2, 3]);
    rig.cluster = led_by(&[Some(0), Some(0)]);
    assert_eq!(partitions(&rig.drain()), [1, 0], "3 modulo 2");
}

fn acc_26_the_index_counts_partitions_that_had_nothing<C: Core>() {
    let mut rig = filled::<C>(1, &[1]);
    rig.cluster = led_by(&[Some(0); 4]);
    // A round over all four, whatever they have: it ends at 3, the next at 2.
    assert_eq!(partitions(&rig.drain()), [1]);
    assert!(rig.drain().is_empty());
    for partition in 0..4 {
        rig.fill(partition);
    }
    assert_eq!(partitions(&rig.drain()), [2, 3, 0, 1]);
}

fn acc_26_each_node_has_its_own_index<C: Core>() {
    let mut rig = filled::<C>(4, &[0, 1, 2, 3]);
    rig.cluster = led_by(&[Some(7), Some(8), Some(7), Some(8)]);
    assert_eq!(partitions(&rig.drain_node(NodeId(7), usize::MAX)), [0, 2]);
    assert_eq!(partitions(&rig.drain_node(NodeId(7), usize::MAX)), [2, 0]);
    assert_eq!(partitions(&rig.drain_node(NodeId(8), usize::MAX)), [1, 3]);
    assert_eq!(partitions(&rig.drain_node(NodeId(7), BATCH)), [0]);
    assert_eq!(partitions(&rig.drain_node(NodeId(8), BATCH)), [3]);
    assert_eq!(partitions(&rig.drain_node(NodeId(7), BATCH)), [2]);
}

fn acc_27_skips_what_may_not_go_and_goes_on<C: Core>() {
    // Of partitions 0 to 5: muted, never seen, emptied, backing off; and two that may go.
    let mut rig = filled::<C>(1, &[0, 2, 3]);
    rig.view.mute(&tp(0));
    for batch in rig.drain() {
        match batch.topic_partition().partition {
            3 => rig.reenqueue(batch),
            _ => rig.acknowledge(batch),
        }
    }
    rig.fill(4);
    rig.fill(5);
    let mut drained = partitions(&rig.drain());
    drained.sort_unstable();
    assert_eq!(drained, [4, 5]);
    rig.view.unmute(&tp(0));
    assert_eq!(partitions(&rig.drain()), [0]);
    rig.pass(120);
    assert_eq!(partitions(&rig.drain()), [3]);
}

fn acc_28_stops_at_the_request_size<C: Core>() {
    let drained = |max_size| {
        let mut rig = filled::<C>(1, &[0, 1, 2]);
        // A small batch behind them.
        rig.push(3, b"small");
        rig.cluster = led_by(&[Some(0); 4]);
        partitions(&rig.drain_up_to(max_size))
    };
    assert_eq!(drained(2 * BATCH - 1), [0]);
    assert_eq!(drained(2 * BATCH), [0, 1]);
    // Stopped, not skipped: the small one behind would fit.
    assert_eq!(drained(3 * BATCH - 1), [0, 1]);
    assert_eq!(drained(3 * BATCH), [0, 1, 2]);
    assert_eq!(drained(4 * BATCH), [0, 1, 2, 3]);
}

fn acc_28_an_oversize_batch_goes_alone<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.push(0, &[0; 1000]);
    rig.fill(1);
    rig.cluster = led_by(&[Some(0); 2]);
    for (partition, more_than) in [(0, 1000), (1, 0)] {
        let batch = rig.drain_up_to(100);
        assert_eq!(partitions(&batch), [partition]);
        assert!(batch[0].size() > more_than);
    }
    // Nothing at all fits, and still one goes.
    rig.fill(0);
    assert_eq!(rig.drain_up_to(0).len(), 1);
    // But not behind another.
    rig.fill(0);
    rig.push(1, &[0; 1000]);
    let first = partitions(&rig.drain_up_to(BATCH + 100));
    let second = partitions(&rig.drain_up_to(BATCH + 100));
    assert_eq!((first.len(), second.len()), (1, 1), "{first:?}, {second:?}");
}

fn acc_30_drain_ignores_linger<C: Core>() {
    let mut rig = Rig::<C>::with(AccumulatorConfig { linger: LONG, ..config() });
    rig.fill(0);
    rig.push(1, b"x");
    rig.push(2, b"y");
    assert!(rig.is_ready());
    let drained = rig.drain();
    assert_eq!(drained.len(), 3, "no time has passed, one was full, all go");
    assert!(drained.iter().all(|batch| batch.queue_time() == Some(millis(0))));
}

fn acc_32_nodes_without_partitions_and_no_nodes<C: Core>() {
    let mut rig = filled::<C>(1, &[0]);
    assert!(rig.view.drain(&rig.cluster, &[], usize::MAX, at(0)).is_empty());
    let drained = rig.view.drain(&rig.cluster, &[NodeId(9), NODE], usize::MAX, at(0));
    let of_node: Vec<_> = drained.iter().map(|drained| (drained.node, drained.batches.len())).collect();
    assert_eq!(of_node, [(NodeId(9), 0), (NODE, 1)]);
}

fn acc_34_a_batch_put_back_stands_first<C: Core>() {
    let mut rig = Rig::<C>::new();
    rig.push(0, b"1");
    let first = rig.drain_one();
    rig.push(0, b"2");
    let second = rig.drain_one();
    rig.push(0, b"3");
    // The later one first, as its response came first; then the former before it.
    rig.pass(5);
    rig.reenqueue(second);
    rig.reenqueue(first);
    rig.push(0, b"3 too");
    rig.pass(120);
    let mut order = Vec::new();
    for (attempts, created) in [(1, 0), (1, 0), (0, 0)] {
        let batch = rig.drain_one();
        assert_eq!((batch.attempts(), batch.in_retry(), batch.created()), (attempts, attempts > 0, at(created)));
        assert_eq!(batch.queue_time(), Some(millis(125)), "the drain counts again");
        order.extend(values([&batch]));
    }
    assert_eq!(order, ["1", "2", "3", "3 too"]);
    // A batch put back takes no more records, though it has room.
    rig.push(1, b"a");
    let batch = rig.drain_one();
    rig.reenqueue(batch);
    assert!(rig.append(1, b"b").new_batch);
}
