//! Ids, epochs, sequences: what goes out with which, and when. IDEM-01 to IDEM-17 without transactions, GAP-25, 26, 33, 36.

use std::time::Duration;

use unlatched::accumulator::{Accumulator, DrainGate};
use unlatched::batch::SealedBatch;
use unlatched::broker::{Acks, ErrorCode, Outcome, PartitionResponse, ProduceRequest, ProducerIdAndEpoch};
use unlatched::error::SendError;
use unlatched::record::ProducerState;
use unlatched::sender::{IdempotenceConflict, SenderConfig};

use crate::rig::{Rig, assert_whole, contents, idempotent, led_by, memory, partitions, refused, requests};
use crate::support::{millis, on_every_core, tp};

on_every_core![
    acc_29_a_refused_partition_is_skipped_by_the_lock_free_core_alone,
    acc_35_retries_go_back_in_the_order_of_their_sequences,
    gap_25_a_batch_that_expires_at_its_first_attempt_leaves_its_partition_unresolved,
    gap_26_sequences_go_round_without_a_mark,
    gap_33_five_of_a_partition_are_five_also_over_two_nodes,
    gap_36_what_waits_for_a_new_id_is_stamped_with_it,
    gap_33_a_window_of_five_is_not_slid_past_a_batch_that_keeps_being_lost,
    idem_01_what_is_wished_and_cannot_be_is_an_error,
    idem_02_nothing_goes_before_there_is_an_id,
    idem_02_an_id_that_is_not_given_is_asked_for_again,
    idem_02_an_id_that_nobody_waits_for_is_not_taken,
    idem_03_the_first_batch_of_an_epoch_goes_alone,
    idem_04_a_retry_keeps_its_stamp,
    idem_04_a_batch_that_expires_before_it_is_sent_gives_its_sequences_back,
    idem_04_a_retry_that_is_drained_too_late_gives_no_sequences_back,
    idem_10_what_was_never_submitted_is_not_in_doubt,
    idem_12_what_is_with_the_broker_keeps_its_stamp,
    idem_12_a_gap_that_an_expiry_leaves_is_closed_at_once,
    idem_17_a_fatal_answer_to_the_request_for_an_id_ends_the_producer,
    idem_17_the_first_fatal_error_stands,
    met_05_latency_throttling_and_requests_in_flight,
    send_16_a_leader_that_the_answer_names_is_told_to_the_transport,
    send_04_no_more_requests_to_a_node_than_may_be_in_flight,
    idem_05_sequences_count_records,
    idem_06_answers_out_of_order_never_lower_what_was_acknowledged,
    idem_07_five_batches_of_a_partition_are_with_the_broker_and_no_more,
    idem_08_while_a_batch_is_tried_again_it_goes_alone,
    idem_09_a_new_batch_waits_for_those_of_an_older_epoch,
    idem_13_what_expires_between_its_attempts_leaves_its_partition_unresolved,
    idem_10_out_of_order_of_the_next_batch_raises_the_epoch,
    idem_10_out_of_order_of_a_later_batch_is_waited_out,
    idem_10_a_forgotten_producer_begins_again,
    idem_12_after_a_fatal_failure_the_later_ones_begin_at_0,
    idem_12_what_may_have_been_written_keeps_its_stamp_until_that_is_known,
    idem_14_a_later_success_resolves_what_expired,
    idem_15_other_partitions_keep_their_epoch_until_nothing_of_theirs_is_in_flight,
    idem_15_gaps_of_one_epoch_raise_it_once,
    idem_15_after_the_last_epoch_a_new_id_is_asked_for,
    idem_16_a_late_answer_does_not_disturb_the_new_epoch,
    idem_17_some_errors_end_the_producer,
    send_02_without_leave_to_have_an_id_what_waits_is_aborted,
];

/// The stamps of a request's batches.
fn stamps(request: &ProduceRequest) -> Vec<(i64, i16, i32)> {
    let stamp = |ProducerState { id, epoch, base_sequence, .. }| (id, epoch, base_sequence);
    request.batches.iter().map(|batch| stamp(batch.producer_state())).collect()
}

/// The answer of a broker that does not know the producer any more.
fn forgotten(batch: &SealedBatch) -> PartitionResponse {
    let refused = PartitionResponse::refused(batch.topic_partition().clone(), ErrorCode::UnknownProducerId);
    PartitionResponse { log_start_offset: 0, ..refused }
}

/// The name of the one record in a request.
#[track_caller]
fn name(request: &ProduceRequest) -> String {
    let contents = contents(request);
    assert_eq!((contents.len(), contents[0].1.len()), (1, 1), "{contents:?}");
    contents[0].1[0].trim_end_matches('.').to_owned()
}

impl<A: Accumulator> Rig<A> {
    /// Sends one request for each of `names`, all to partition 0.
    fn send_each(&mut self, names: &[&str]) -> Vec<ProduceRequest> {
        names.iter().for_each(|name| self.push_noted(0, name));
        names.iter().map(|_| self.send()).collect()
    }

    /// Sends and acknowledges until nothing is left: names and stamps in the order of their going.
    fn drain_all(&mut self) -> Vec<(String, (i64, i16, i32))> {
        let mut sent = Vec::new();
        for _ in 0..100 {
            self.pass();
            for request in self.script.requests() {
                sent.push((name(&request), stamps(&request)[0]));
                self.script.acknowledge(request);
            }
            self.advance(20);
        }
        sent
    }
}

fn idem_01_what_is_wished_and_cannot_be_is_an_error<A: Accumulator>() {
    let base = || SenderConfig { enable_idempotence: Some(true), ..SenderConfig::default() };
    assert_eq!(base().idempotence(), Ok(true));
    assert_eq!(SenderConfig::default().idempotence(), Ok(true), "not wished and not refused");
    let cases = [
        (SenderConfig { acks: Acks::Leader, ..base() }, IdempotenceConflict::Acks(Acks::Leader)),
        (SenderConfig { retries: 0, ..base() }, IdempotenceConflict::Retries),
        (SenderConfig { max_in_flight: 6, ..base() }, IdempotenceConflict::InFlight(6)),
    ];
    for (config, conflict) in cases {
        assert_eq!(config.idempotence(), Err(conflict));
        // Not wished, it is off in silence, and nobody asks for an id.
        let quiet = SenderConfig { enable_idempotence: None, ..config };
        assert_eq!(quiet.idempotence(), Ok(false));
        let mut rig = Rig::<A>::with(memory(), quiet);
        rig.push_noted(0, "a");
        let request = rig.send();
        assert_eq!(stamps(&request), [(-1, -1, -1)]);
        assert_eq!(rig.log.take_only(&["init"]), [] as [&str; 0]);
        rig.acknowledge(request);
    }
}

fn idem_02_nothing_goes_before_there_is_an_id<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), idempotent());
    rig.script.next_id(None);
    rig.push_noted(0, "a");
    rig.send_nothing();
    rig.send_nothing();
    assert_eq!(rig.log.take_only(&["init"]), ["init producer id"], "it is asked for once");
    assert!(rig.script.slept() > millis(500), "and waited for in sleep");
    rig.script.give_id(Ok(ProducerIdAndEpoch { id: 7, epoch: 3 }));
    rig.pass();
    let request = rig.send();
    assert_eq!(stamps(&request), [(7, 3, 0)]);
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn idem_02_an_id_that_is_not_given_is_asked_for_again<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), idempotent());
    rig.script.next_id(Some(Err(ErrorCode::NetworkException)));
    rig.push_noted(0, "a");
    rig.send_nothing();
    rig.log.take();
    rig.send_nothing();
    assert!(rig.script.slept() <= millis(100));
    assert_eq!(rig.log.take_only(&["init"]), [] as [&str; 0], "not before its backoff");
    rig.advance(100);
    rig.send_nothing();
    let request = rig.send();
    assert_eq!(rig.log.take_only(&["init"]), ["init producer id"]);
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn idem_02_an_id_that_nobody_waits_for_is_not_taken<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    rig.script.give_id(Ok(ProducerIdAndEpoch::new(99)));
    rig.pass();
    let request = rig.send_each(&["a"]).remove(0);
    assert_eq!(stamps(&request), [(1, 0, 1)]);
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn idem_03_the_first_batch_of_an_epoch_goes_alone<A: Accumulator>() {
    let mut rig = Rig::<A>::idempotent();
    for name in ["a", "b", "c"] {
        rig.push_noted(0, name);
    }
    let first = rig.send();
    rig.send_nothing();
    assert!(rig.script.slept() > millis(500), "it sleeps, and does not spin");
    rig.acknowledge(first);
    let second = rig.send();
    let third = rig.send();
    assert_eq!((stamps(&second), stamps(&third)), (vec![(1, 0, 1)], vec![(1, 0, 2)]));
    rig.acknowledge(second);
    rig.acknowledge(third);
    rig.assert_at_rest();
}

fn idem_04_a_retry_keeps_its_stamp<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let request = rig.send_each(&["a"]).remove(0);
    let bytes = request.batches[0].as_bytes().to_vec();
    rig.script.end(request, Outcome::Disconnected);
    rig.pass();
    rig.advance(100);
    let again = rig.send();
    assert_eq!(again.batches[0].as_bytes(), bytes);
    rig.refuse(again, ErrorCode::DuplicateSequenceNumber);
    assert!(rig.results.take()[0].1.is_ok());
    rig.assert_at_rest();
}

fn idem_05_sequences_count_records<A: Accumulator>() {
    let mut rig = Rig::<A>::idempotent();
    let futures = [rig.push(0, "a"), rig.push(0, "b"), rig.push(0, "c")];
    let request = rig.send();
    rig.acknowledge(request);
    assert_eq!(rig.sender.idempotence().unwrap().next_sequence(&tp(0)), 3);
    assert_eq!(rig.sender.idempotence().unwrap().last_acked_sequence(&tp(0)), Some(2));
    let request = rig.send_each(&["d"]).remove(0);
    assert_eq!(stamps(&request), [(1, 0, 3)]);
    rig.acknowledge(request);
    assert!(futures.into_iter().all(|future| future.is_done()));
}

fn idem_06_answers_out_of_order_never_lower_what_was_acknowledged<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let mut requests = rig.send_each(&["a", "b", "c"]);
    let acked = |rig: &Rig<A>| rig.sender.idempotence().unwrap().last_acked_sequence(&tp(0));
    rig.acknowledge(requests.pop().unwrap());
    assert_eq!(acked(&rig), Some(3));
    rig.acknowledge(requests.remove(0));
    assert_eq!(acked(&rig), Some(3));
    rig.acknowledge(requests.remove(0));
    assert_eq!((acked(&rig), rig.sender.idempotence().unwrap().unfinished(&tp(0))), (Some(3), 0));
    rig.assert_at_rest();
}

fn idem_08_while_a_batch_is_tried_again_it_goes_alone<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    for request in rig.send_each(&["a", "b", "c"]) {
        rig.script.refuse(request, ErrorCode::NotEnoughReplicas);
    }
    rig.pass();
    rig.advance(100);
    for expected in ["a", "b", "c"] {
        let request = rig.send();
        assert_eq!(name(&request), expected);
        rig.send_nothing();
        rig.script.acknowledge(request);
        rig.pass();
    }
    assert_eq!(rig.results.names(), ["a", "b", "c"]);
    rig.assert_at_rest();
}

fn acc_35_retries_go_back_in_the_order_of_their_sequences<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let mut requests = rig.send_each(&["a", "b", "c"]);
    for at in [1, 0, 0] {
        rig.script.refuse(requests.remove(at), ErrorCode::NotEnoughReplicas);
    }
    rig.pass();
    rig.push_noted(0, "d");
    rig.advance(100);
    let sent = rig.drain_all();
    let expected = [("a", 1), ("b", 2), ("c", 3), ("d", 4)].map(|(name, base)| (name.to_owned(), (1, 0, base)));
    assert_eq!(sent, expected);
    rig.assert_at_rest();
}

fn acc_29_a_refused_partition_is_skipped_by_the_lock_free_core_alone<A: Accumulator>() {
    let mut rig = Rig::<A>::idempotent();
    // The first of a partition goes alone, so one behind it is refused.
    rig.push_noted(0, "a");
    let first = rig.send();
    for (partition, name) in [(0, "b"), (2, "c"), (4, "d")] {
        rig.push_noted(partition, name);
    }
    let slept = rig.pass();
    let sent = rig.script.requests();
    let expected: &[i32] = if A::NAME == "lockfree" { &[2, 4] } else { &[] };
    assert!(slept <= millis(1), "a node that is ready and gives nothing is looked at again soon: {slept:?}");
    assert_eq!(sent.iter().flat_map(partitions).collect::<Vec<_>>(), expected, "GAP-22");
    sent.into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.acknowledge(first);
    for _ in 0..4 {
        rig.script.requests().into_iter().for_each(|request| rig.script.acknowledge(request));
        rig.pass();
    }
    rig.assert_at_rest();
}

fn gap_33_a_window_of_five_is_not_slid_past_a_batch_that_keeps_being_lost<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let mut requests = rig.send_each(&["a", "b", "c", "d", "e"]);
    for name in ["f", "g"] {
        rig.push_noted(0, name);
    }
    rig.send_nothing();
    let lost = requests.remove(0);
    requests.into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.script.end(lost, Outcome::TimedOut);
    rig.pass();
    for _ in 0..3 {
        rig.advance(100);
        let again = rig.send();
        assert_eq!((name(&again), stamps(&again)), ("a".into(), vec![(1, 0, 1)]));
        // The broker has a to e among its five, and must not be given a sixth before it was asked for the first.
        rig.send_nothing();
        rig.script.end(again, Outcome::TimedOut);
        rig.pass();
    }
    rig.advance(100);
    let sent: Vec<String> = rig.drain_all().into_iter().map(|(name, _)| name).collect();
    assert_eq!(sent, ["a", "f", "g"]);
    rig.assert_at_rest();
}

fn idem_10_out_of_order_of_the_next_batch_raises_the_epoch<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let requests = rig.send_each(&["a", "b"]);
    requests.into_iter().for_each(|request| rig.script.refuse(request, ErrorCode::OutOfOrderSequenceNumber));
    rig.pass();
    rig.advance(100);
    let expected = [("a".to_owned(), (1, 1, 0)), ("b".to_owned(), (1, 1, 1))];
    assert_eq!(rig.drain_all(), expected);
    assert_eq!(rig.results.names(), ["a", "b"]);
    rig.assert_at_rest();
}

fn idem_10_out_of_order_of_a_later_batch_is_waited_out<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let mut requests = rig.send_each(&["a", "b"]);
    rig.refuse(requests.pop().unwrap(), ErrorCode::OutOfOrderSequenceNumber);
    rig.advance(100);
    rig.send_nothing();
    rig.refuse(requests.pop().unwrap(), ErrorCode::NotEnoughReplicas);
    rig.advance(100);
    assert_eq!(rig.drain_all(), [("a".to_owned(), (1, 0, 1)), ("b".to_owned(), (1, 0, 2))], "no other epoch");
    rig.assert_at_rest();
}

fn idem_10_a_forgotten_producer_begins_again<A: Accumulator>() {
    for (log_start_offset, stamp) in [(-1, (1, 0, 1)), (0, (1, 1, 0))] {
        let mut rig = Rig::<A>::known();
        let request = rig.send_each(&["a"]).remove(0);
        rig.script.answer(request, |batch| PartitionResponse { log_start_offset, ..forgotten(batch) });
        rig.pass();
        rig.advance(100);
        assert_eq!(rig.drain_all(), [("a".to_owned(), stamp)], "{log_start_offset}");
        rig.assert_at_rest();
    }
    // Nothing can tell any more whether the first attempt was written.
    let mut rig = Rig::<A>::known();
    let request = rig.send_each(&["a"]).remove(0);
    rig.script.end(request, Outcome::Disconnected);
    rig.pass();
    rig.advance(100);
    let again = rig.send();
    rig.script.answer(again, forgotten);
    rig.pass();
    assert_eq!(rig.results.take(), [("a".into(), refused(0, ErrorCode::UnknownProducerId))]);
    rig.assert_at_rest();
}

fn idem_12_after_a_fatal_failure_the_later_ones_begin_at_0<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let mut requests = rig.send_each(&["a", "b", "c"]);
    rig.refuse(requests.remove(0), ErrorCode::InvalidRecord);
    rig.push_noted(0, "d");
    rig.send_nothing();
    for request in requests {
        rig.refuse(request, ErrorCode::OutOfOrderSequenceNumber);
        rig.send_nothing();
    }
    rig.advance(100);
    let expected = [("b", 0), ("c", 1), ("d", 2)].map(|(name, base)| (name.to_owned(), (1, 1, base)));
    assert_eq!(rig.drain_all(), expected);
    assert_eq!(rig.results.names(), ["a", "b", "c", "d"]);
    rig.assert_at_rest();
}

fn idem_12_what_may_have_been_written_keeps_its_stamp_until_that_is_known<A: Accumulator>() {
    for written in [false, true] {
        let mut rig = Rig::<A>::known();
        let mut requests = rig.send_each(&["a", "b", "c"]);
        rig.refuse(requests.remove(0), ErrorCode::InvalidRecord);
        rig.refuse(requests.remove(0), ErrorCode::OutOfOrderSequenceNumber);
        rig.script.end(requests.remove(0), Outcome::Disconnected);
        rig.pass();
        rig.advance(100);
        // With another stamp c could be written twice.
        let again = rig.send();
        assert_eq!((name(&again), stamps(&again)), ("c".into(), vec![(1, 0, 3)]));
        rig.send_nothing();
        if written {
            rig.acknowledge(again);
        } else {
            rig.refuse(again, ErrorCode::OutOfOrderSequenceNumber);
        }
        rig.advance(100);
        let sent = rig.script.requests().into_iter().map(|request| (name(&request), stamps(&request)[0], request));
        let mut names: Vec<_> = Vec::new();
        for (name, stamp, request) in sent {
            names.push((name, stamp));
            rig.script.acknowledge(request);
        }
        names.extend(rig.drain_all());
        let b = ("b".to_owned(), (1, 1, 0));
        let c = ("c".to_owned(), (1, 1, 1));
        assert_eq!(names, if written { vec![b] } else { vec![b, c] });
        rig.assert_at_rest();
    }
}

/// The requests of `a`, which has expired at its first attempt, and of `b`; `c` waits.
fn expired_before_another<A: Accumulator>() -> (Rig<A>, [ProduceRequest; 2]) {
    let mut rig = Rig::<A>::known();
    let first = rig.send_each(&["a"]).remove(0);
    rig.advance(500);
    let second = rig.send_each(&["b"]).remove(0);
    rig.advance(500);
    rig.send_nothing();
    assert_eq!(rig.results.names(), ["a"], "it expired");
    rig.push_noted(0, "c");
    rig.send_nothing();
    (rig, [first, second])
}

fn gap_25_a_batch_that_expires_at_its_first_attempt_leaves_its_partition_unresolved<A: Accumulator>() {
    let (mut rig, [first, second]) = expired_before_another::<A>();
    assert!(rig.sender.idempotence().unwrap().is_unresolved(&tp(0)));
    rig.refuse(second, ErrorCode::OutOfOrderSequenceNumber);
    rig.advance(100);
    let expected = [("b".to_owned(), (1, 1, 0)), ("c".to_owned(), (1, 1, 1))];
    assert_eq!(rig.drain_all(), expected, "a was not written, so something is missing");
    rig.script.end(first, Outcome::Disconnected);
    rig.pass();
    rig.assert_at_rest();
}

fn idem_14_a_later_success_resolves_what_expired<A: Accumulator>() {
    let (mut rig, [first, second]) = expired_before_another::<A>();
    rig.acknowledge(second);
    assert!(!rig.sender.idempotence().unwrap().is_unresolved(&tp(0)));
    let third = rig.send();
    assert_eq!(stamps(&third), [(1, 0, 3)], "the same epoch");
    rig.acknowledge(third);
    rig.script.end(first, Outcome::Disconnected);
    rig.pass();
    rig.assert_at_rest();
}

fn idem_15_other_partitions_keep_their_epoch_until_nothing_of_theirs_is_in_flight<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    rig.push_noted(2, "x");
    let other = rig.send();
    let request = rig.send_each(&["a"]).remove(0);
    rig.refuse(request, ErrorCode::InvalidRecord);
    rig.send_nothing();
    assert_eq!(rig.sender.idempotence().unwrap().producer(), Some(ProducerIdAndEpoch { id: 1, epoch: 1 }));
    rig.push_noted(2, "y");
    rig.send_nothing();
    rig.refuse(other, ErrorCode::NotEnoughReplicas);
    rig.advance(100);
    let expected = [("x".to_owned(), (1, 0, 0)), ("y".to_owned(), (1, 1, 0))];
    assert_eq!(rig.drain_all(), expected);
    rig.assert_at_rest();
}

fn idem_15_gaps_of_one_epoch_raise_it_once<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    rig.push_noted(2, "x");
    let mut requests = vec![rig.send()];
    requests.extend(rig.send_each(&["a"]));
    for request in requests {
        rig.refuse(request, ErrorCode::InvalidRecord);
        rig.send_nothing();
    }
    assert_eq!(rig.sender.idempotence().unwrap().producer(), Some(ProducerIdAndEpoch { id: 1, epoch: 1 }));
    assert_eq!(rig.sender.idempotence().unwrap().gaps(), []);
    for (partition, name) in [(0, "b"), (2, "y")] {
        rig.push_noted(partition, name);
        let request = rig.send();
        assert_eq!(stamps(&request), [(1, 1, 0)]);
        rig.acknowledge(request);
    }
    rig.assert_at_rest();
}

/// GAP-36: what waits is stamped when there is an id.
fn idem_15_after_the_last_epoch_a_new_id_is_asked_for<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), idempotent());
    rig.script.next_id(Some(Ok(ProducerIdAndEpoch { id: 9, epoch: i16::MAX })));
    rig.send_nothing();
    let request = rig.send_each(&["a"]).remove(0);
    assert_eq!(stamps(&request), [(9, i16::MAX, 0)]);
    rig.acknowledge(request);
    let requests = rig.send_each(&["b", "c"]);
    requests.into_iter().for_each(|request| rig.script.refuse(request, ErrorCode::OutOfOrderSequenceNumber));
    rig.pass();
    rig.advance(100);
    let expected = [("b".to_owned(), (2, 0, 0)), ("c".to_owned(), (2, 0, 1))];
    assert_eq!(rig.drain_all(), expected);
    rig.assert_at_rest();
}

fn idem_16_a_late_answer_does_not_disturb_the_new_epoch<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let late = rig.send_each(&["a"]).remove(0);
    rig.advance(1_000);
    rig.send_nothing();
    rig.send_nothing();
    let state = |rig: &Rig<A>| {
        let state = rig.sender.idempotence().unwrap();
        (state.producer().unwrap().epoch, state.next_sequence(&tp(0)), state.last_acked_sequence(&tp(0)))
    };
    let request = rig.send_each(&["b"]).remove(0);
    assert_eq!(stamps(&request), [(1, 1, 0)]);
    let before = state(&rig);
    rig.acknowledge(late);
    assert_eq!(state(&rig), before);
    rig.acknowledge(request);
    assert_eq!(state(&rig), (1, 1, Some(0)));
    rig.assert_at_rest();
}

fn idem_17_some_errors_end_the_producer<A: Accumulator>() {
    for code in [ErrorCode::ClusterAuthorizationFailed, ErrorCode::ProducerFenced, ErrorCode::UnsupportedVersion] {
        let mut rig = Rig::<A>::known();
        let mut requests = rig.send_each(&["a", "b"]);
        rig.refuse(requests.remove(0), code);
        rig.push_noted(2, "c");
        rig.send_nothing();
        let dead = || Err(SendError::ProducerFailed { code });
        let results = rig.results.take();
        assert_eq!(results, [("a".into(), refused(0, code)), ("b".into(), dead()), ("c".into(), dead())], "{code}");
        rig.push_noted(4, "d");
        rig.send_nothing();
        assert_eq!(rig.results.take(), [("d".into(), dead())]);
        requests.into_iter().for_each(|request| rig.script.acknowledge(request));
        rig.pass();
        assert!(!rig.accumulator.has_incomplete() && rig.sender.in_flight() == 0);
        assert_whole(&*rig.accumulator);
    }
    // Without idempotence they are the batch's alone.
    let mut rig = Rig::<A>::with(memory(), requests());
    let request = rig.send_each(&["a"]).remove(0);
    rig.refuse(request, ErrorCode::ClusterAuthorizationFailed);
    let request = rig.send_each(&["b"]).remove(0);
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn send_02_without_leave_to_have_an_id_what_waits_is_aborted<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), idempotent());
    let code = ErrorCode::ClusterAuthorizationFailed;
    rig.script.next_id(Some(Err(code)));
    rig.push_noted(0, "a");
    rig.send_nothing();
    assert_eq!(rig.results.take(), [("a".into(), Err(SendError::ProducerFailed { code }))]);
    rig.advance(100);
    rig.push_noted(0, "b");
    rig.send_nothing();
    let request = rig.send();
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn idem_04_a_batch_that_expires_before_it_is_sent_gives_its_sequences_back<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    rig.push_noted(0, "late");
    rig.advance(1_000);
    rig.send_nothing();
    assert!(matches!(rig.results.take()[..], [(_, Err(SendError::DeliveryTimeout { .. }))]));
    let request = rig.send_each(&["a"]).remove(0);
    assert_eq!(stamps(&request), [(1, 0, 1)], "nothing is missing");
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn idem_04_a_retry_that_is_drained_too_late_gives_no_sequences_back<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let request = rig.send_each(&["late"]).remove(0);
    rig.script.end(request, Outcome::Disconnected);
    rig.pass();
    // No pass between the end of the backoff and that of its time: it is drained again, and not sent.
    rig.advance(1_000);
    rig.send_nothing();
    assert!(matches!(rig.results.take()[..], [(_, Err(SendError::DeliveryTimeout { .. }))]));
    let request = rig.send_each(&["a"]).remove(0);
    assert_eq!(stamps(&request), [(1, 1, 0)], "it may have been written with 1");
    rig.acknowledge(request);
    rig.assert_at_rest();
}

/// Known to the sender, so what would have to fail after a lost answer can be sent again.
fn idem_10_what_was_never_submitted_is_not_in_doubt<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    rig.script.set_refuses(true);
    rig.push_noted(0, "a");
    rig.send_nothing();
    rig.script.set_refuses(false);
    rig.advance(100);
    let request = rig.send();
    rig.script.answer(request, forgotten);
    rig.pass();
    rig.advance(100);
    assert_eq!(rig.drain_all(), [("a".to_owned(), (1, 1, 0))]);
    assert!(rig.results.take()[0].1.is_ok());
    rig.assert_at_rest();
}

/// IDEM-A, which nothing but the sender's own order keeps otherwise: it asks for batches in their queues alone.
fn idem_12_what_is_with_the_broker_keeps_its_stamp<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let [first, second] = rig.send_each(&["a", "b"]).try_into().unwrap();
    rig.script.refuse(second, ErrorCode::NotEnoughReplicas);
    rig.acknowledge(first);
    rig.advance(100);
    let second = rig.send();
    let [third, fourth] = rig.send_each(&["c", "d"]).try_into().unwrap();
    rig.refuse(third, ErrorCode::InvalidRecord);
    for request in [&second, &fourth] {
        assert!(!rig.sender.idempotence_mut().unwrap().may_lose_stamp(&request.batches[0]), "{request:?}");
    }
    rig.acknowledge(second);
    rig.refuse(fourth, ErrorCode::OutOfOrderSequenceNumber);
    rig.advance(100);
    assert_eq!(rig.drain_all(), [("d".to_owned(), (1, 1, 0))]);
    rig.assert_at_rest();
}

fn idem_12_a_gap_that_an_expiry_leaves_is_closed_at_once<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let first = rig.send_each(&["a"]).remove(0);
    rig.advance(300);
    let second = rig.send_each(&["b"]).remove(0);
    rig.refuse(second, ErrorCode::NotEnoughReplicas);
    rig.advance(650);
    rig.refuse(first, ErrorCode::NotEnoughReplicas);
    // In its backoff, so what is behind it need not wait for that.
    rig.advance(50);
    assert_eq!(rig.pass(), Duration::ZERO);
    assert_eq!(rig.results.names(), ["a"], "it expired, and was surely not written");
    let request = rig.send();
    assert_eq!((name(&request), stamps(&request)), ("b".into(), vec![(1, 1, 0)]));
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn idem_17_a_fatal_answer_to_the_request_for_an_id_ends_the_producer<A: Accumulator>() {
    let code = ErrorCode::UnsupportedVersion;
    let mut rig = Rig::<A>::with(memory(), idempotent());
    rig.script.next_id(Some(Err(code)));
    for name in ["a", "b"] {
        rig.push_noted(0, name);
        rig.send_nothing();
        rig.advance(200);
        rig.send_nothing();
        assert_eq!(rig.results.take(), [(name.into(), Err(SendError::ProducerFailed { code }))]);
    }
    assert_eq!(rig.log.take_only(&["init"]), ["init producer id"], "nobody asks again");
    rig.assert_at_rest();
}

fn idem_17_the_first_fatal_error_stands<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let [first, second] = rig.send_each(&["a", "b"]).try_into().unwrap();
    rig.script.refuse(first, ErrorCode::ProducerFenced);
    rig.script.refuse(second, ErrorCode::UnsupportedVersion);
    rig.pass();
    rig.push_noted(0, "c");
    // Also for who comes between the abort and the drain of one pass.
    let admitted = rig.sender.idempotence_mut().unwrap().admits(&tp(7), None);
    assert!(!admitted);
    rig.send_nothing();
    let dead = Err(SendError::ProducerFailed { code: ErrorCode::ProducerFenced });
    assert_eq!(rig.results.take().pop(), Some(("c".into(), dead)));
    rig.assert_at_rest();
}

fn met_05_latency_throttling_and_requests_in_flight<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    rig.advance(5);
    rig.push_noted(0, "a");
    rig.advance(7);
    let request = rig.send();
    assert_eq!(rig.stats().requests_in_flight, 1);
    rig.advance(30);
    rig.script.throttle(request, millis(40));
    rig.pass();
    let stats = rig.stats();
    assert_eq!((stats.requests_in_flight, stats.answers, stats.records_per_request()), (0, 2, 1.0));
    assert_eq!((stats.latency_ns, stats.latency_max_ns), (30_000_000, 30_000_000));
    assert_eq!((stats.throttle_ns, stats.throttle_max_ns), (40_000_000, 40_000_000));
    assert_eq!((stats.queue_time_ns, stats.queue_time_max_ns), (7_000_000, 7_000_000), "MET-03");
    rig.assert_at_rest();
}

fn send_16_a_leader_that_the_answer_names_is_told_to_the_transport<A: Accumulator>() {
    use unlatched::broker::{Leader, NodeId};

    for code in [ErrorCode::NotLeaderOrFollower, ErrorCode::FencedLeaderEpoch] {
        let mut rig = Rig::<A>::known();
        let request = rig.send_each(&["a"]).remove(0);
        let leader = Some(Leader { node: NodeId(1), epoch: Some(1) });
        rig.script.answer(request, |batch| PartitionResponse {
            current_leader: leader,
            ..PartitionResponse::refused(batch.topic_partition().clone(), code)
        });
        rig.pass();
        // A newer leader, so nothing is waited for (ACC-23).
        let again = rig.send();
        assert_eq!((again.node, stamps(&again)), (NodeId(1), vec![(1, 0, 1)]));
        rig.acknowledge(again);
        rig.assert_at_rest();
    }
}

fn send_04_no_more_requests_to_a_node_than_may_be_in_flight<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), SenderConfig { max_in_flight: 2, ..idempotent() });
    rig.send_nothing();
    let mut sent = Vec::new();
    for partition in [0, 2, 4] {
        rig.push_noted(partition, "x");
        rig.pass();
        sent.extend(rig.script.requests());
    }
    assert_eq!(sent.len(), 2);
    rig.push_noted(1, "y");
    let other = rig.send();
    rig.acknowledge(sent.remove(0));
    let third = rig.send();
    assert_eq!(partitions(&third), [4], "an answer makes room");
    [sent.remove(0), other, third].into_iter().for_each(|request| rig.acknowledge(request));
    rig.assert_at_rest();
}

fn idem_07_five_batches_of_a_partition_are_with_the_broker_and_no_more<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let mut requests = rig.send_each(&["a", "b", "c", "d", "e"]);
    rig.push_noted(0, "f");
    rig.send_nothing();
    // Now there is room in the connection, but none in the window: the others stay there until the first one has ended.
    let first = requests.remove(0);
    requests.into_iter().for_each(|request| rig.acknowledge(request));
    rig.send_nothing();
    assert_eq!((rig.sender.in_flight(), rig.sender.idempotence().unwrap().unfinished(&tp(0))), (1, 1));
    rig.acknowledge(first);
    let sixth = rig.send();
    assert_eq!((name(&sixth), stamps(&sixth)), ("f".into(), vec![(1, 0, 6)]));
    rig.acknowledge(sixth);
    rig.assert_at_rest();
    // More than a broker remembers is no configuration of an idempotent producer.
    let six = SenderConfig { max_in_flight: 6, ..idempotent() };
    assert_eq!(six.idempotence(), Err(IdempotenceConflict::InFlight(6)));
}

fn gap_33_five_of_a_partition_are_five_also_over_two_nodes<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let mut requests = rig.send_each(&["a", "b", "c"]);
    rig.script.set_cluster(led_by(&[Some(1)]));
    requests.extend(rig.send_each(&["d", "e"]));
    assert_eq!(requests.iter().map(|request| request.node.0).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
    rig.push_noted(0, "f");
    rig.send_nothing();
    requests.into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.pass();
    assert_eq!(rig.drain_all(), [("f".to_owned(), (1, 0, 6))]);
    rig.assert_at_rest();
}

fn idem_09_a_new_batch_waits_for_those_of_an_older_epoch<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    rig.push_noted(2, "x");
    let request = rig.send();
    rig.acknowledge(request);
    rig.push_noted(2, "y");
    let old = rig.send();
    // A gap in partition 0 raises the epoch.
    let request = rig.send_each(&["a"]).remove(0);
    rig.refuse(request, ErrorCode::InvalidRecord);
    rig.send_nothing();
    rig.push_noted(2, "z");
    rig.send_nothing();
    assert_eq!(stamps(&old), [(1, 0, 1)]);
    rig.acknowledge(old);
    assert_eq!(rig.drain_all(), [("z".to_owned(), (1, 1, 0))]);
    rig.assert_at_rest();
}

fn idem_13_what_expires_between_its_attempts_leaves_its_partition_unresolved<A: Accumulator>() {
    for written in [true, false] {
        let mut rig = Rig::<A>::known();
        let first = rig.send_each(&["a"]).remove(0);
        rig.advance(500);
        let second = rig.send_each(&["b"]).remove(0);
        rig.advance(450);
        rig.script.end(first, Outcome::Disconnected);
        rig.pass();
        rig.advance(50);
        rig.send_nothing();
        assert_eq!(rig.results.names(), ["a"], "it expired in the queue, and may have been written");
        assert!(rig.sender.idempotence().unwrap().is_unresolved(&tp(0)));
        rig.push_noted(0, "c");
        rig.send_nothing();
        if written {
            rig.acknowledge(second);
            assert_eq!(rig.drain_all(), [("c".to_owned(), (1, 0, 3))], "the next one shows that it was");
        } else {
            rig.refuse(second, ErrorCode::OutOfOrderSequenceNumber);
            rig.advance(100);
            let expected = [("b".to_owned(), (1, 1, 0)), ("c".to_owned(), (1, 1, 1))];
            assert_eq!(rig.drain_all(), expected, "the next one shows that it was not");
        }
        assert!(!rig.sender.idempotence().unwrap().is_unresolved(&tp(0)));
        rig.assert_at_rest();
    }
}

fn gap_26_sequences_go_round_without_a_mark<A: Accumulator>() {
    const MAX: i32 = i32::MAX;
    let mut rig = Rig::<A>::known();
    rig.sender.idempotence_mut().unwrap().skip_to(&tp(0), MAX - 1);
    let requests = rig.send_each(&["a", "b", "c", "d"]);
    let sent: Vec<_> = requests.iter().flat_map(stamps).collect();
    assert_eq!(sent, [MAX - 1, MAX, 0, 1].map(|base| (1, 0, base)));
    let acked = |rig: &Rig<A>| rig.sender.idempotence().unwrap().last_acked_sequence(&tp(0));
    let [first, second, third, fourth] = requests.try_into().unwrap();
    rig.acknowledge(fourth);
    assert_eq!(acked(&rig), Some(1), "1 comes after {MAX}");
    // The later ones come back first: all go again in their order, before what is new.
    for request in [third, second, first] {
        rig.script.refuse(request, ErrorCode::NotEnoughReplicas);
    }
    rig.pass();
    rig.push_noted(0, "e");
    rig.advance(100);
    let expected = [("a", MAX - 1), ("b", MAX), ("c", 0), ("e", 2)].map(|(name, base)| (name.to_owned(), (1, 0, base)));
    assert_eq!(rig.drain_all(), expected);
    assert_eq!(acked(&rig), Some(2), "and what was acknowledged is never lowered");
    // A batch that has the turn in its midst.
    rig.sender.idempotence_mut().unwrap().skip_to(&tp(0), MAX);
    let futures = [rig.push(0, "f"), rig.push(0, "g"), rig.push(0, "h")];
    let request = rig.send();
    assert_eq!(stamps(&request), [(1, 0, MAX)]);
    rig.acknowledge(request);
    assert_eq!((acked(&rig), rig.sender.idempotence().unwrap().next_sequence(&tp(0))), (Some(1), 2));
    assert!(futures.iter().all(|future| future.is_done()));
    rig.assert_at_rest();
}

/// Kafka gives what is in flight no id then, and sends it so.
fn gap_36_what_waits_for_a_new_id_is_stamped_with_it<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), idempotent());
    rig.script.next_id(Some(Ok(ProducerIdAndEpoch { id: 9, epoch: i16::MAX })));
    rig.script.next_id(None);
    rig.send_nothing();
    let request = rig.send_each(&["first"]).remove(0);
    rig.acknowledge(request);
    let mut requests = rig.send_each(&["a", "b"]);
    rig.refuse(requests.remove(0), ErrorCode::OutOfOrderSequenceNumber);
    rig.advance(100);
    rig.send_nothing();
    assert_eq!(rig.sender.idempotence().unwrap().producer().unwrap().id, 9, "b is still with the broker");
    rig.refuse(requests.remove(0), ErrorCode::OutOfOrderSequenceNumber);
    rig.push_noted(0, "c");
    rig.advance(100);
    rig.send_nothing();
    assert_eq!(rig.sender.idempotence().unwrap().producer(), None);
    rig.script.give_id(Ok(ProducerIdAndEpoch::new(10)));
    rig.pass();
    let expected = [("a", 0), ("b", 1), ("c", 2)].map(|(name, base)| (name.to_owned(), (10, 0, base)));
    assert_eq!(rig.drain_all(), expected);
    rig.assert_at_rest();
}
