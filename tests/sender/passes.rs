//! The pass: its steps and their order, how long it sleeps, what goes into a request, when fresh metadata are asked for. SEND-01, 03, 05, 06,
//! 11, 30, and MET-03's compression rate.

use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, SenderView};
use unlatched::broker::{Acks, ErrorCode, NodeId, Outcome};
use unlatched::error::SendError;
use unlatched::sender::SenderConfig;

use crate::rig::{Rig, alone, cluster, contents, in_order, led_by, memory, partitions, requests};
use crate::support::{LONG, millis, on_every_core, tp};

on_every_core![
    send_01_a_pass_produces_then_polls_then_handles,
    send_01_a_pass_without_anything_to_do,
    send_01_a_pass_sleeps_at_most_as_long_as_it_is_told,
    send_03_the_order_of_the_steps,
    send_03_a_node_that_is_not_ready_is_left_out_and_its_delay_kept,
    send_03_a_partition_without_a_leader_waits_and_the_others_go,
    send_05_sleeps_until_linger_ends,
    send_05_does_not_sleep_while_a_node_may_have_more,
    send_05_sleeps_until_a_queued_batch_expires,
    send_05_sleeps_until_a_batch_in_flight_expires,
    send_05_the_earliest_of_all_counts,
    send_05_a_timeout_beyond_the_clock_is_no_deadline,
    send_05_never_spins_while_nothing_can_go,
    send_06_one_request_per_node_and_one_batch_per_partition,
    send_06_requests_go_in_the_order_of_the_nodes_numbers,
    send_06_a_request_carries_what_the_broker_needs,
    send_06_max_request_size_bounds_a_request_but_one_batch_always_goes,
    send_11_acks_0_completes_when_written_without_an_offset,
    send_11_acks_1_and_all_differ_in_the_field_alone,
    send_30_an_unknown_leader_asks_for_metadata_in_each_pass,
    met_03_the_compression_rate_is_the_mean_of_the_batches,
];

fn send_01_a_pass_produces_then_polls_then_handles<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "a");
    let first = rig.send();
    rig.push_noted(0, "b");
    rig.script.acknowledge(first);
    rig.log.take();
    let second = rig.send();
    assert_eq!(rig.log.take_only(&["submit", "poll", "callback"]), ["submit 0", "poll", "callback a"]);
    rig.acknowledge(second);
    assert_eq!(rig.results.names(), ["a", "b"]);
    assert!(rig.results.take().iter().all(|(_, result)| result.is_ok()));
    rig.assert_at_rest();
}

fn send_01_a_pass_without_anything_to_do<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.send_nothing();
    assert_eq!(rig.log.take_only(&["poll", "submit", "update", "node", "mute"]), ["poll"]);
    assert_eq!(rig.script.slept(), LONG);
    assert_eq!(rig.stats(), Default::default());
    rig.assert_at_rest();
}

fn send_01_a_pass_sleeps_at_most_as_long_as_it_is_told<A: Accumulator>() {
    let mut rig = Rig::<A>::with(AccumulatorConfig { linger: millis(10), ..memory() }, requests());
    let _future = rig.push(0, "a");
    for (told, slept) in [(3, 3), (10, 10), (11, 10), (0, 0)] {
        rig.sender.run_once(millis(told));
        assert_eq!(rig.script.slept(), millis(slept), "told {told}");
    }
}

fn send_03_the_order_of_the_steps<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), in_order());
    rig.script.set_cluster(led_by(&[Some(0), None, Some(0)]));
    rig.push_noted(0, "a");
    rig.push_noted(1, "without a leader");
    rig.push_noted(2, "b");
    rig.log.take();
    let request = rig.send();
    let steps = ["ready", "update", "node 0", "drain [0]", "expired", "mute 0", "mute 2", "submit 0", "poll"];
    assert_eq!(rig.log.take(), steps);
    // What expires fails before anything is sent, though that was drained before.
    rig.advance(1_000);
    rig.push_noted(4, "c");
    rig.script.set_cluster(led_by(&[Some(0), None, Some(0), None, Some(0)]));
    rig.log.take();
    let other = rig.send();
    assert_eq!(partitions(&other), [4]);
    let mut steps = rig.log.take_only(&["drain", "callback", "submit"]);
    // Where the batch without a leader stood, a queue, comes first, unless the core goes by deadlines.
    let at = if A::View::BY_DEADLINE { 2 } else { 1 };
    assert_eq!(steps.remove(at), "callback without a leader");
    assert_eq!(steps, ["drain [0]", "callback a", "callback b", "submit 0"]);
    rig.script.acknowledge(request);
    rig.acknowledge(other);
    rig.assert_at_rest();
}

fn send_03_a_node_that_is_not_ready_is_left_out_and_its_delay_kept<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.script.set_ready(0, Err(millis(7)));
    rig.push_noted(0, "a");
    rig.push_noted(1, "b");
    let request = rig.send();
    assert_eq!((request.node, partitions(&request)), (NodeId(1), vec![1]));
    assert_eq!(rig.script.slept(), Duration::ZERO, "one node was ready");
    for _ in 0..3 {
        rig.send_nothing();
        assert_eq!(rig.script.slept(), millis(7), "the one that is left is not");
    }
    rig.script.set_ready(0, Ok(()));
    let other = rig.send();
    assert_eq!((other.node, partitions(&other)), (NodeId(0), vec![0]));
    rig.script.acknowledge(request);
    rig.acknowledge(other);
    rig.assert_at_rest();
}

fn send_03_a_partition_without_a_leader_waits_and_the_others_go<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.script.set_cluster(led_by(&[None, Some(1)]));
    rig.push_noted(0, "a");
    rig.push_noted(1, "b");
    let request = rig.send();
    assert_eq!(partitions(&request), [1]);
    rig.acknowledge(request);
    rig.script.set_cluster(cluster());
    let request = rig.send();
    assert_eq!(partitions(&request), [0]);
    rig.acknowledge(request);
    assert_eq!(rig.results.names(), ["b", "a"]);
    rig.assert_at_rest();
}

fn send_05_sleeps_until_linger_ends<A: Accumulator>() {
    let mut rig = Rig::<A>::with(AccumulatorConfig { linger: millis(10), ..memory() }, requests());
    let future = rig.push(0, "a");
    assert_eq!(rig.pass(), millis(10));
    rig.advance(4);
    assert_eq!(rig.pass(), millis(6));
    let other = rig.push(2, "b");
    assert_eq!(rig.pass(), millis(6), "the earlier one counts");
    rig.advance(6);
    let request = rig.send();
    // What is drained takes the whole node along.
    assert_eq!(partitions(&request), [0, 2]);
    rig.acknowledge(request);
    assert!(future.is_done() && other.is_done());
    assert_eq!(rig.pass(), LONG);
    rig.assert_at_rest();
}

fn send_05_does_not_sleep_while_a_node_may_have_more<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "a");
    rig.push_noted(0, "b");
    let mut requests = Vec::new();
    for slept in [Duration::ZERO, Duration::ZERO, millis(1_000)] {
        assert_eq!(rig.pass(), slept);
        requests.extend(rig.script.requests());
    }
    assert_eq!(requests.len(), 2);
    requests.into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.pass();
    rig.assert_at_rest();
}

fn send_05_sleeps_until_a_queued_batch_expires<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.script.set_cluster(led_by(&[None]));
    rig.push_noted(0, "a");
    assert_eq!(rig.pass(), millis(1_000));
    rig.advance(400);
    rig.push_noted(0, "b");
    assert_eq!(rig.pass(), millis(600));
    rig.advance(600);
    assert_eq!(rig.pass(), millis(400));
    assert_eq!(rig.results.names(), ["a"]);
    rig.advance(400);
    assert_eq!(rig.pass(), LONG);
    rig.assert_at_rest();
}

fn send_05_sleeps_until_a_batch_in_flight_expires<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "a");
    let request = rig.send();
    assert_eq!(rig.pass(), millis(1_000));
    rig.advance(999);
    assert_eq!(rig.pass(), millis(1));
    assert_eq!(rig.sender.in_flight(), 1);
    rig.advance(1);
    assert_eq!(rig.pass(), LONG, "it has expired, and there is nothing to wait for but the answer");
    assert_eq!(rig.sender.in_flight(), 0);
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn send_05_the_earliest_of_all_counts<A: Accumulator>() {
    let mut rig = Rig::<A>::with(AccumulatorConfig { linger: millis(50), ..memory() }, requests());
    rig.push_noted(0, "in flight");
    rig.advance(50);
    let request = rig.send();
    rig.script.set_ready(1, Err(millis(30)));
    rig.push_noted(1, "node not ready");
    rig.advance(50);
    rig.push_noted(2, "lingering");
    assert_eq!(rig.pass(), millis(30), "of 50 and 30, and 900");
    rig.advance(25);
    rig.script.set_ready(1, Err(millis(200)));
    assert_eq!(rig.pass(), millis(25), "of 25 and 200, and 875");
    rig.advance(25);
    let other = rig.send();
    rig.script.set_ready(1, Err(LONG));
    assert_eq!(rig.pass(), millis(850), "until the first in flight expires");
    rig.acknowledge(request);
    assert_eq!(rig.pass(), millis(900), "until the one that its node does not take expires");
    rig.script.set_ready(1, Ok(()));
    let last = rig.send();
    rig.script.acknowledge(last);
    rig.acknowledge(other);
    rig.assert_at_rest();
}

fn send_05_a_timeout_beyond_the_clock_is_no_deadline<A: Accumulator>() {
    let mut rig = Rig::<A>::with(
        AccumulatorConfig { delivery_timeout: Duration::MAX, ..memory() },
        SenderConfig { delivery_timeout: Duration::MAX, ..requests() },
    );
    rig.advance(5);
    rig.push_noted(0, "a");
    let request = rig.send();
    rig.advance(1 << 40);
    assert_eq!(rig.pass(), LONG);
    rig.acknowledge(request);
    assert!(rig.results.take()[0].1.is_ok());
    rig.assert_at_rest();
}

/// Whatever keeps a batch from going, the sender sleeps until that can have changed.
fn send_05_never_spins_while_nothing_can_go<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), in_order());
    // Its partition is muted.
    rig.push_noted(0, "a");
    let request = rig.send();
    rig.push_noted(0, "b");
    rig.send_nothing();
    assert_eq!(rig.pass(), millis(1_000), "until it expires");
    // It waits for its next attempt.
    rig.refuse(request, ErrorCode::RequestTimedOut);
    rig.advance(40);
    rig.send_nothing();
    assert_eq!(rig.script.slept(), millis(60));
    // Its node takes no request, though the sender is in a hurry.
    rig.advance(60);
    rig.script.set_ready(0, Err(millis(33)));
    rig.accumulator.begin_flush();
    rig.send_nothing();
    assert_eq!(rig.script.slept(), millis(33));
    // Its leader is not known.
    rig.script.set_cluster(led_by(&[None]));
    rig.send_nothing();
    assert_eq!(rig.script.slept(), millis(900));
    // Its node gives the request back though it had said that it would take it: no request is tried twice in the same instant.
    rig.script.set_cluster(cluster());
    rig.script.set_ready(0, Ok(()));
    rig.script.set_refuses(true);
    assert_eq!(rig.pass(), Duration::ZERO);
    assert_eq!(rig.pass(), millis(100));
    rig.accumulator.close();
    assert_eq!(rig.pass(), millis(100), "not even at the end");
    rig.script.set_refuses(false);
    rig.advance(100);
    let first = rig.send();
    rig.acknowledge(first);
    let second = rig.send();
    rig.acknowledge(second);
    assert_eq!(rig.results.names(), ["a", "b"]);
    rig.assert_at_rest();
}

fn send_06_one_request_per_node_and_one_batch_per_partition<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    for name in ["a", "b"] {
        for partition in 0..4 {
            rig.push_noted(partition, &format!("{name}{partition}"));
        }
    }
    let named = |name: &str, partition: i32| (partition, vec![alone(&format!("{name}{partition}"))]);
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        rig.pass();
        let mut requests = rig.script.requests();
        ids.extend(requests.iter().map(|request| request.id));
        requests.sort_by_key(|request| request.node);
        assert_eq!(requests.iter().map(|request| request.node.0).collect::<Vec<_>>(), [0, 1]);
        for (request, first) in requests.iter().zip([0, 1]) {
            let mut contents = contents(request);
            contents.sort();
            assert_eq!(contents, [named(name, first), named(name, first + 2)]);
        }
        requests.into_iter().for_each(|request| rig.script.acknowledge(request));
    }
    assert_eq!(ids, [0, 1, 2, 3], "numbered in the order sent");
    rig.send_nothing();
    let stats = rig.stats();
    assert_eq!((stats.requests, stats.batches, stats.records, stats.completed), (4, 8, 8, 8));
    assert_eq!(stats.charged, 8 * crate::rig::BATCH as u64);
    assert!(0.5 < stats.fill() && stats.fill() < 1.0, "{stats:?}");
    rig.assert_at_rest();
}

/// In whatever order their partitions were found, so that a simulation replays.
fn send_06_requests_go_in_the_order_of_the_nodes_numbers<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let nodes = [5, 2, 7, 0, 3, 6, 1, 4];
    rig.script.set_cluster(led_by(&nodes.map(Some)));
    for partition in 0..8 {
        rig.push_noted(partition, "a");
    }
    rig.pass();
    let requests = rig.script.requests();
    let sent: Vec<_> = requests.iter().map(|request| (request.node.0, request.id)).collect();
    assert_eq!(sent, [0, 1, 2, 3, 4, 5, 6, 7].map(|node| (node, node as u64)));
    requests.into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.pass();
    rig.assert_at_rest();
}

fn send_06_a_request_carries_what_the_broker_needs<A: Accumulator>() {
    for acks in [Acks::None, Acks::Leader, Acks::All] {
        let mut rig = Rig::<A>::with(memory(), SenderConfig { acks, request_timeout: millis(77), ..requests() });
        let future = rig.push(5, "a");
        let other = rig.push(5, "b");
        let request = rig.send();
        assert_eq!((request.node, request.acks, request.timeout), (NodeId(1), acks, millis(77)));
        assert_eq!(contents(&request), [(5, vec!["a".into(), "b".into()])]);
        assert!(request.batches[0].is_closed());
        rig.acknowledge(request);
        assert_eq!(future.wait().map(|place| place.offset), Ok(0));
        assert_eq!(other.wait().map(|place| (place.topic_partition, place.offset)), Ok((tp(5), 1)));
        rig.assert_at_rest();
    }
}

fn send_06_max_request_size_bounds_a_request_but_one_batch_always_goes<A: Accumulator>() {
    let one = {
        let mut rig = Rig::<A>::new();
        rig.push_noted(0, "a");
        rig.send().batches[0].size()
    };
    for (max_request_size, batches) in [(0, 1), (one, 1), (2 * one - 1, 1), (2 * one, 2), (usize::MAX, 4)] {
        let mut rig = Rig::<A>::with(memory(), SenderConfig { max_request_size, ..requests() });
        for partition in [0, 2, 4, 6] {
            rig.push_noted(partition, "a");
        }
        let mut sent = 0;
        while sent < 4 {
            let request = rig.send();
            assert_eq!(request.batches.len(), batches, "at most {max_request_size} bytes");
            sent += request.batches.len();
            rig.script.acknowledge(request);
        }
        rig.send_nothing();
        rig.assert_at_rest();
    }
}

fn send_11_acks_0_completes_when_written_without_an_offset<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), SenderConfig { acks: Acks::None, ..requests() });
    let futures = [rig.push(0, "a"), rig.push(0, "b"), rig.push(2, "c")];
    let request = rig.send();
    assert!(futures.iter().all(|future| !future.is_done()), "not before it is written");
    rig.script.end(request, Outcome::Written);
    rig.pass();
    for future in futures {
        assert_eq!(future.wait().map(|place| place.offset), Ok(-1));
    }
    assert_eq!((rig.stats().completed, rig.stats().failed), (3, 0));
    rig.assert_at_rest();
}

/// Likewise a lost connection: whatever the acks, the batch is sent again.
fn send_11_acks_1_and_all_differ_in_the_field_alone<A: Accumulator>() {
    for acks in [Acks::None, Acks::Leader, Acks::All] {
        let mut rig = Rig::<A>::with(memory(), SenderConfig { acks, ..requests() });
        rig.push_noted(0, "a");
        let request = rig.send();
        rig.script.end(request, Outcome::Disconnected);
        rig.pass();
        rig.advance(100);
        let request = rig.send();
        assert_eq!((request.acks, request.batches[0].attempts()), (acks, 1));
        rig.acknowledge(request);
        assert_eq!(rig.results.take().remove(0).1.map(|place| place.offset), Ok(0));
        rig.assert_at_rest();
    }
}

fn send_30_an_unknown_leader_asks_for_metadata_in_each_pass<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.send_nothing();
    assert_eq!(rig.script.updates(), 0, "nothing is queued");
    rig.script.set_cluster(led_by(&[None, Some(0)]));
    rig.push_noted(0, "a");
    rig.push_noted(100, "of a partition that is not there");
    for _ in 0..3 {
        rig.send_nothing();
        assert_eq!(rig.script.updates(), 1, "once for each pass");
    }
    rig.script.set_cluster(cluster());
    let request = rig.send();
    assert_eq!(rig.script.updates(), 1, "for the partition that is not there");
    rig.acknowledge(request);
    rig.advance(1_000);
    rig.pass();
    let (name, result) = rig.results.take().remove(1);
    assert_eq!(name, "of a partition that is not there");
    assert!(matches!(result, Err(SendError::DeliveryTimeout { .. })), "{result:?}");
    rig.script.updates();
    rig.send_nothing();
    assert_eq!(rig.script.updates(), 0);
    rig.assert_at_rest();
}

fn met_03_the_compression_rate_is_the_mean_of_the_batches<A: Accumulator>() {
    let mut rig = Rig::<A>::with(AccumulatorConfig { compression: "lz4".parse().unwrap(), ..memory() }, requests());
    assert_eq!(rig.stats().compression_rate(), 1.0, "nothing was sent");
    let mut ratios = Vec::new();
    for (partition, value) in [(0, "a".repeat(120)), (0, "b".repeat(60)), (2, "cdefghijklmnopqrstuv".repeat(6))] {
        rig.push_with(partition, &value, drop);
        let request = rig.send();
        ratios.push(request.batches[0].compression_ratio());
        rig.acknowledge(request);
    }
    assert!(ratios[0] < 0.5 && ratios[0] < ratios[1] && ratios[0] < ratios[2], "{ratios:?}");
    let mean = ratios.iter().sum::<f64>() / 3.0;
    assert!((rig.stats().compression_rate() - mean).abs() < 1e-5, "{ratios:?}");
    // A batch that is sent again counts again (MET-03).
    rig.push_with(0, &"a".repeat(120), drop);
    for _ in 0..2 {
        let request = rig.send();
        ratios.push(request.batches[0].compression_ratio());
        rig.refuse(request, ErrorCode::NotLeaderOrFollower);
        rig.advance(100);
    }
    let mean = ratios.iter().sum::<f64>() / 5.0;
    assert!((rig.stats().compression_rate() - mean).abs() < 1e-5, "{ratios:?}");
    let request = rig.send();
    rig.acknowledge(request);
    rig.assert_at_rest();
}
