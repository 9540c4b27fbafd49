//! What becomes of a request that came back: outcomes, retries, errors, and answers that are not what they should be. SEND-10, 13 to 22,
//! 24, GAP-23, 27.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, Backoff};
use unlatched::batch::RecordResult;
use unlatched::broker::{ErrorCode, Outcome, PartitionResponse, ProduceRequest};
use unlatched::error::{SendError, TopicPartition};
use unlatched::record::NO_TIMESTAMP;
use unlatched::sender::SenderConfig;

use crate::rig::{BATCH, Rig, in_order, memory, partitions, refused, requests};
use crate::support::{millis, on_every_core, tp};

on_every_core![
    send_10_transport_outcomes_stand_for_every_batch,
    send_13_a_retriable_error_puts_the_batch_back,
    send_13_a_batch_is_not_sent_again_before_its_backoff,
    gap_23_the_backoff_is_drawn_once_for_each_attempt,
    send_14_a_duplicate_counts_as_success,
    send_15_another_error_fails_every_record,
    send_16_errors_of_stale_metadata_ask_for_fresh_ones,
    send_17_success_gives_each_record_its_place,
    send_19_retries_are_counted,
    send_19_no_retry_once_the_delivery_timeout_has_passed,
    send_20_what_is_retriable_is_sent_again_and_nothing_else,
    send_21_the_error_names_partition_code_and_the_brokers_words,
    send_22_one_record_at_fault_gets_the_batchs_error,
    send_22_several_records_at_fault_are_invalid_each,
    send_22_the_default_message_is_the_batchs_error,
    send_22_record_errors_of_a_retry_are_forgotten,
    send_24_success_is_callbacks_then_books_then_memory,
    send_24_failure_is_metric_then_callbacks_then_books_then_memory,
    send_24_a_retry_is_back_in_the_queue_before_the_partition_is_unmuted,
    gap_27_a_batch_that_the_answer_leaves_out_is_sent_again,
    gap_27_the_first_of_two_answers_counts,
    gap_27_answers_for_unknown_partitions_are_ignored,
    gap_27_an_empty_answer_is_no_answer,
    gap_27_a_request_that_the_broker_gives_back_goes_again,
    gap_27_a_batch_that_its_transport_has_settled_is_struck_out,
];

fn written(partition: i32, offset: i64) -> PartitionResponse {
    PartitionResponse::written(tp(partition), offset)
}

fn with_code(partition: i32, code: ErrorCode) -> PartitionResponse {
    PartitionResponse::refused(tp(partition), code)
}

fn offset(result: &RecordResult) -> i64 {
    result.as_ref().expect("it was written").offset
}

fn send_10_transport_outcomes_stand_for_every_batch<A: Accumulator>() {
    for (outcome, code) in [
        (Outcome::TimedOut, ErrorCode::RequestTimedOut),
        (Outcome::Disconnected, ErrorCode::NetworkException),
        (Outcome::UnsupportedVersion, ErrorCode::UnsupportedVersion),
    ] {
        // Without a retry the code is what the records end with.
        let mut rig = Rig::<A>::with(memory(), SenderConfig { retries: 0, ..requests() });
        rig.push_noted(0, "a");
        rig.push_noted(2, "b");
        let request = rig.send();
        rig.script.end(request, outcome.clone());
        rig.pass();
        let results = rig.results.take();
        assert_eq!(results, [("a".into(), refused(0, code)), ("b".into(), refused(2, code))]);
        rig.assert_at_rest();

        // With retries it is sent again, unless the broker will never understand it.
        let mut rig = Rig::<A>::new();
        rig.push_noted(0, "a");
        let request = rig.send();
        rig.script.end(request, outcome.clone());
        rig.pass();
        rig.advance(100);
        rig.pass();
        let again = rig.script.requests();
        assert_eq!(again.len(), usize::from(outcome != Outcome::UnsupportedVersion), "{outcome:?}");
        again.into_iter().for_each(|request| rig.acknowledge(request));
        assert_eq!(rig.results.take().len(), 1);
        rig.assert_at_rest();
    }
}

fn send_13_a_retriable_error_puts_the_batch_back<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let futures = [rig.push(0, "a"), rig.push(0, "b")];
    let request = rig.send();
    let bytes = request.batches[0].as_bytes().to_vec();
    assert_eq!(rig.sender.in_flight(), 1);
    rig.script.refuse(request, ErrorCode::NotEnoughReplicas);
    rig.pass();
    assert_eq!(rig.sender.in_flight(), 0, "it is in the queue");
    assert!(rig.accumulator.has_undrained() && rig.accumulator.has_incomplete());
    assert_eq!(rig.accumulator.pool().leased, BATCH as u64, "its memory stays its own");
    assert_eq!((rig.stats().retried, rig.stats().failed), (2, 0));
    assert!(futures.iter().all(|future| !future.is_done()));
    // It goes before what came after it.
    let later = rig.push(0, "c");
    rig.advance(100);
    let again = rig.send();
    let batch = &again.batches[0];
    assert_eq!((batch.attempts(), batch.in_retry(), batch.as_bytes()), (1, true, &bytes[..]));
    rig.acknowledge(again);
    assert!(futures.iter().all(|future| future.is_done()) && !later.is_done());
    let last = rig.script.request();
    rig.acknowledge(last);
    assert!(later.is_done());
    assert_eq!((rig.stats().batches, rig.stats().completed), (3, 3), "a retry is sent, and counted, again");
    rig.assert_at_rest();
}

fn send_13_a_batch_is_not_sent_again_before_its_backoff<A: Accumulator>() {
    let mut memory = memory();
    memory.backoff = Backoff { initial: millis(100), max: millis(10_000) };
    let mut rig = Rig::<A>::with(memory, requests());
    rig.push_noted(0, "a");
    for initial in [100, 200] {
        let request = rig.send();
        rig.refuse(request, ErrorCode::RequestTimedOut);
        rig.advance(initial * 4 / 5 - 1);
        rig.send_nothing();
        let left = rig.script.slept();
        assert!(left > millis(0) && left <= millis(initial * 2 / 5 + 1), "a jitter of a fifth either way: {left:?}");
        rig.advance(initial * 2 / 5 + 1);
    }
    let request = rig.send();
    assert_eq!(request.batches[0].attempts(), 2);
    rig.acknowledge(request);
    rig.assert_at_rest();
}

/// By the lock-free core. Kafka, and so the twin, draws at each look: how long it is depends on how often one looks.
fn gap_23_the_backoff_is_drawn_once_for_each_attempt<A: Accumulator>() {
    let memory = AccumulatorConfig { backoff: Backoff { initial: millis(100), max: millis(10_000) }, ..memory() };
    let mut rig = Rig::<A>::with(memory, requests());
    rig.push_noted(0, "a");
    let mut drawn = Vec::new();
    for initial in [100, 200] {
        let request = rig.send();
        rig.refuse(request, ErrorCode::RequestTimedOut);
        let looks: BTreeSet<Duration> = (0..40).map(|_| rig.pass()).collect();
        let (shortest, longest) = (*looks.first().unwrap(), *looks.last().unwrap());
        assert!(millis(initial * 4 / 5) <= shortest && longest <= millis(initial * 6 / 5), "{looks:?}");
        if A::NAME != "lockfree" {
            assert!(looks.len() > 10, "{looks:?}");
            rig.advance(initial * 6 / 5);
            continue;
        }
        assert_eq!(looks.len(), 1, "{looks:?}");
        // To the nanosecond, however often it is looked at on the way.
        for part in [shortest / 2, shortest - shortest / 2 - Duration::from_nanos(1)] {
            rig.clock.advance(part);
            (0..20).for_each(|_| rig.send_nothing());
        }
        rig.clock.advance(Duration::from_nanos(1));
        drawn.push(shortest);
    }
    let request = rig.send();
    rig.acknowledge(request);
    assert!(drawn.is_empty() || drawn[1] != 2 * drawn[0], "each attempt draws for itself: {drawn:?}");
    rig.assert_at_rest();
}

fn send_14_a_duplicate_counts_as_success<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "a");
    rig.push_noted(2, "b");
    let request = rig.send();
    let duplicate = ErrorCode::DuplicateSequenceNumber;
    let known = PartitionResponse { base_offset: 41, ..with_code(2, duplicate) };
    rig.script.end(request, Outcome::Answered(vec![with_code(0, duplicate), known]));
    rig.pass();
    let offsets: Vec<_> = rig.results.take().iter().map(|(_, result)| offset(result)).collect();
    assert_eq!(offsets, [-1, 41], "the broker says where it stands, or does not");
    assert_eq!((rig.stats().completed, rig.stats().failed, rig.stats().retried), (2, 0, 0));
    rig.assert_at_rest();
}

fn send_15_another_error_fails_every_record<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let failed = [rig.push(0, "a"), rig.push(0, "b")];
    let other = rig.push(2, "c");
    let request = rig.send();
    let answers = vec![with_code(0, ErrorCode::InvalidTimestamp), written(2, 7)];
    rig.script.end(request, Outcome::Answered(answers));
    rig.pass();
    for future in failed {
        assert_eq!(future.wait(), refused(0, ErrorCode::InvalidTimestamp));
    }
    assert_eq!(other.wait().map(|place| place.offset), Ok(7), "a batch of the same request");
    assert_eq!((rig.stats().failed, rig.stats().completed, rig.stats().retried), (2, 1, 0));
    rig.advance(1_000);
    rig.send_nothing();
    rig.assert_at_rest();
}

fn send_16_errors_of_stale_metadata_ask_for_fresh_ones<A: Accumulator>() {
    // SEND-20 has the list; here is how often, and that it does not matter what becomes of the batch.
    let mut rig = Rig::<A>::with(memory(), SenderConfig { retries: 1, ..requests() });
    rig.push_noted(0, "a");
    let request = rig.send();
    rig.refuse(request, ErrorCode::NotLeaderOrFollower);
    assert_eq!((rig.script.updates(), rig.stats().retried), (1, 1));
    rig.advance(100);
    let request = rig.send();
    rig.refuse(request, ErrorCode::NotLeaderOrFollower);
    assert_eq!((rig.script.updates(), rig.stats().failed), (1, 1));
    rig.push_noted(0, "b");
    let request = rig.send();
    rig.advance(1_000);
    rig.pass();
    rig.refuse(request, ErrorCode::FencedLeaderEpoch);
    assert_eq!((rig.script.updates(), rig.stats().failed), (1, 2), "a late answer says it all the same");
    rig.assert_at_rest();
}

fn send_17_success_gives_each_record_its_place<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let futures = [rig.push(0, "a"), rig.push(0, "b"), rig.push(2, "c")];
    let request = rig.send();
    let dated = PartitionResponse { log_append_time: Some(1_234), ..written(2, 0) };
    rig.script.end(request, Outcome::Answered(vec![dated, written(0, 10)]));
    assert_eq!(rig.accumulator.pool().leased, 2 * BATCH as u64);
    rig.pass();
    let places = futures.map(|future| future.wait().map(|place| (place.offset, place.timestamp)).unwrap());
    assert_eq!(places, [(10, NO_TIMESTAMP), (11, NO_TIMESTAMP), (0, 1_234)]);
    assert_eq!((rig.stats().completed, rig.stats().failed), (3, 0));
    rig.assert_at_rest();
}

fn send_19_retries_are_counted<A: Accumulator>() {
    for retries in 0..3 {
        let mut rig = Rig::<A>::with(memory(), SenderConfig { retries, ..requests() });
        rig.push_noted(0, "a");
        for attempt in 0..=retries {
            assert!(rig.results.names().is_empty());
            let request = rig.send();
            assert_eq!(request.batches[0].attempts(), attempt);
            rig.refuse(request, ErrorCode::CorruptMessage);
            rig.advance(100);
        }
        assert_eq!(rig.results.take(), [("a".into(), refused(0, ErrorCode::CorruptMessage))]);
        assert_eq!((rig.stats().retried, rig.stats().failed), (u64::from(retries), 1));
        rig.send_nothing();
        rig.assert_at_rest();
    }
}

/// The answer comes in the very poll during which the time ends, so the batch has not been seen to expire yet.
fn send_19_no_retry_once_the_delivery_timeout_has_passed<A: Accumulator>() {
    for (age, retried) in [(999, 1), (1_000, 0)] {
        let mut rig = Rig::<A>::new();
        rig.push_noted(0, "a");
        let request = rig.send();
        let clock = rig.clock.clone();
        rig.script.in_next_poll(move || clock.advance(millis(age)));
        rig.refuse(request, ErrorCode::RequestTimedOut);
        assert_eq!((rig.stats().retried, rig.stats().failed), (retried, 1 - retried), "at the age of {age} ms");
        if retried == 0 {
            assert_eq!(rig.results.take(), [("a".into(), refused(0, ErrorCode::RequestTimedOut))]);
            rig.assert_at_rest();
        }
    }
}

fn send_20_what_is_retriable_is_sent_again_and_nothing_else<A: Accumulator>() {
    use ErrorCode as E;
    const WITH_METADATA: [ErrorCode; 7] = [
        E::UnknownTopicOrPartition,
        E::LeaderNotAvailable,
        E::NotLeaderOrFollower,
        E::NetworkException,
        E::KafkaStorageError,
        E::FencedLeaderEpoch,
        E::UnknownTopicId,
    ];
    const ALONE: [ErrorCode; 5] = [
        E::CorruptMessage,
        E::RequestTimedOut,
        E::NotEnoughReplicas,
        E::NotEnoughReplicasAfterAppend,
        E::UnknownLeaderEpoch,
    ];
    let successes = [E::None, E::DuplicateSequenceNumber];
    for code in ErrorCode::all().chain([E::Other(999)]).filter(|code| !successes.contains(code)) {
        let mut rig = Rig::<A>::new();
        rig.push_noted(0, "a");
        let request = rig.send();
        rig.refuse(request, code);
        let again = WITH_METADATA.contains(&code) || ALONE.contains(&code);
        assert_eq!(rig.accumulator.has_undrained(), again, "{code}");
        assert_eq!(rig.script.updates(), usize::from(WITH_METADATA.contains(&code)), "{code}");
        if again {
            rig.advance(100);
            let request = rig.send();
            rig.acknowledge(request);
            assert!(rig.results.take().remove(0).1.is_ok());
        } else {
            assert_eq!(rig.results.take(), [("a".into(), refused(0, code))]);
        }
        rig.assert_at_rest();
    }
}

fn send_21_the_error_names_partition_code_and_the_brokers_words<A: Accumulator>() {
    for (code, message, text) in [
        (ErrorCode::TopicAuthorizationFailed, None, "t-0: TOPIC_AUTHORIZATION_FAILED"),
        (ErrorCode::ClusterAuthorizationFailed, None, "t-0: CLUSTER_AUTHORIZATION_FAILED"),
        (ErrorCode::PolicyViolation, Some("not on a Sunday"), "t-0: POLICY_VIOLATION: not on a Sunday"),
        (ErrorCode::Other(999), None, "t-0: error code 999"),
    ] {
        let mut rig = Rig::<A>::new();
        let future = rig.push(0, "a");
        let request = rig.send();
        let answer = PartitionResponse { message: message.map(Arc::from), ..with_code(0, code) };
        rig.script.end(request, Outcome::Answered(vec![answer]));
        rig.pass();
        let error = future.wait().unwrap_err();
        assert_eq!(error, SendError::Broker { topic_partition: tp(0), code, message: message.map(Arc::from) });
        assert_eq!(error.to_string(), text);
        rig.assert_at_rest();
    }
}

/// What three records of one batch end with when the broker answers with these errors, by index, and these words on the whole.
fn errors_of_three<A: Accumulator>(errors: &[(u32, Option<&str>)], message: Option<&str>) -> [SendError; 3] {
    let mut rig = Rig::<A>::new();
    let futures = ["a", "b", "c"].map(|value| rig.push(0, value));
    let request = rig.send();
    let answer = PartitionResponse {
        record_errors: errors.iter().map(|(index, words)| (*index, words.map(Arc::from))).collect(),
        message: message.map(Arc::from),
        ..with_code(0, ErrorCode::InvalidTimestamp)
    };
    rig.script.end(request, Outcome::Answered(vec![answer]));
    rig.pass();
    assert_eq!((rig.stats().failed, rig.stats().completed), (3, 0));
    rig.assert_at_rest();
    futures.map(|future| future.wait().unwrap_err())
}

fn of_batch(message: Option<&str>) -> SendError {
    let (topic_partition, message) = (tp(0), message.map(Arc::from));
    SendError::Broker { topic_partition, code: ErrorCode::InvalidTimestamp, message }
}

fn invalid(message: &str) -> SendError {
    SendError::InvalidRecord { message: Some(message.into()) }
}

fn bystander() -> SendError {
    invalid("it was in a batch with invalid records, so it was not written")
}

fn send_22_one_record_at_fault_gets_the_batchs_error<A: Accumulator>() {
    let [a, b, c] = errors_of_three::<A>(&[(1, Some("too old"))], Some("bad batch"));
    assert_eq!([a, b, c], [bystander(), of_batch(Some("too old")), bystander()]);
    let [a, b, c] = errors_of_three::<A>(&[(2, None)], Some("bad batch"));
    assert_eq!([a, b, c], [bystander(), bystander(), of_batch(Some("bad batch"))]);
    let [_, b, c] = errors_of_three::<A>(&[(0, None)], None);
    assert_eq!([b, c], [bystander(), bystander()]);
    // None of them is at fault that is in the batch.
    let errors = errors_of_three::<A>(&[(3, Some("?"))], None);
    assert_eq!(errors, [bystander(), bystander(), bystander()]);
    let errors = errors_of_three::<A>(&[], Some("bad batch"));
    assert_eq!(errors, [0; 3].map(|_| of_batch(Some("bad batch"))), "nobody is named: all alike");
}

fn send_22_several_records_at_fault_are_invalid_each<A: Accumulator>() {
    let [a, b, c] = errors_of_three::<A>(&[(2, Some("too old")), (0, None)], Some("bad batch"));
    assert_eq!([a, b, c], [invalid("bad batch"), bystander(), invalid("too old")]);
}

fn send_22_the_default_message_is_the_batchs_error<A: Accumulator>() {
    let [a, b, c] = errors_of_three::<A>(&[(0, None), (1, None)], None);
    assert_eq!([a, b, c], [invalid("t-0: INVALID_TIMESTAMP"), invalid("t-0: INVALID_TIMESTAMP"), bystander()]);
}

fn send_22_record_errors_of_a_retry_are_forgotten<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let future = rig.push(0, "a");
    let request = rig.send();
    let answer =
        PartitionResponse { record_errors: vec![(0, Some("?".into()))], ..with_code(0, ErrorCode::CorruptMessage) };
    rig.script.end(request, Outcome::Answered(vec![answer]));
    rig.pass();
    rig.advance(100);
    let request = rig.send();
    rig.refuse(request, ErrorCode::PolicyViolation);
    assert_eq!(future.wait(), refused(0, ErrorCode::PolicyViolation));
    rig.assert_at_rest();
}

/// Appends a record whose callback notes what the sender's counters and the pool say while it runs.
fn push_looking<A: Accumulator>(rig: &Rig<A>) {
    let (accumulator, log) = (rig.accumulator.clone(), rig.log.clone());
    let stats = rig.sender.stats();
    rig.push_with(0, "a", move |_| {
        let (stats, leased) = (stats.snapshot(), accumulator.pool().leased);
        log.note(format!("callback: {} completed, {} failed, {leased} leased", stats.completed, stats.failed));
    });
}

fn send_24_success_is_callbacks_then_books_then_memory<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), in_order());
    push_looking(&rig);
    let request = rig.send();
    rig.acknowledge(request);
    let steps = rig.log.take_only(&["callback", "strike", "unmute"]);
    assert_eq!(steps, ["callback: 1 completed, 0 failed, 256 leased", "strike out", "unmute 0"]);
    rig.assert_at_rest();
}

fn send_24_failure_is_metric_then_callbacks_then_books_then_memory<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), in_order());
    push_looking(&rig);
    let request = rig.send();
    rig.refuse(request, ErrorCode::PolicyViolation);
    let steps = rig.log.take_only(&["callback", "strike", "unmute"]);
    assert_eq!(steps, ["callback: 0 completed, 1 failed, 256 leased", "strike out", "unmute 0"]);
    // Also where the time was up, in flight or before it was sent.
    push_looking(&rig);
    let request = rig.send();
    rig.log.take();
    rig.advance(1_000);
    rig.pass();
    let steps = rig.log.take_only(&["callback", "strike"]);
    assert_eq!(steps, ["callback: 0 completed, 2 failed, 256 leased", "strike out"]);
    push_looking(&rig);
    rig.acknowledge(request);
    rig.log.take();
    rig.advance(1_000);
    rig.pass();
    let steps = rig.log.take_only(&["callback", "strike"]);
    assert_eq!(steps, ["callback: 0 completed, 3 failed, 256 leased", "strike out"]);
    rig.assert_at_rest();
}

fn send_24_a_retry_is_back_in_the_queue_before_the_partition_is_unmuted<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), in_order());
    rig.push_noted(0, "a");
    let request = rig.send();
    rig.refuse(request, ErrorCode::RequestTimedOut);
    assert_eq!(rig.log.take_only(&["reenqueue", "unmute", "strike"]), ["reenqueue 0", "unmute 0"]);
    rig.advance(100);
    let request = rig.send();
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn gap_27_a_batch_that_the_answer_leaves_out_is_sent_again<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), in_order());
    for partition in [0, 2, 4] {
        rig.push_noted(partition, &partition.to_string());
    }
    let request = rig.send();
    rig.script.end(request, Outcome::Answered(vec![written(2, 5)]));
    rig.pass();
    assert_eq!(rig.results.names(), ["2"]);
    assert_eq!((rig.stats().retried, rig.script.updates()), (2, 2), "as if the connection had been lost");
    rig.advance(100);
    let again = rig.send();
    let mut left_out = partitions(&again);
    left_out.sort_unstable();
    assert_eq!(left_out, [0, 4]);
    rig.acknowledge(again);
    assert_eq!(rig.results.take().len(), 3);
    // Nobody is muted for good.
    for partition in [0, 2, 4] {
        rig.push_noted(partition, "more");
    }
    let request = rig.send();
    assert_eq!(request.batches.len(), 3);
    rig.acknowledge(request);
    rig.assert_at_rest();
}

/// Wherever the second one stands, and however many others come between.
fn gap_27_the_first_of_two_answers_counts<A: Accumulator>() {
    let first = [written(0, 1), written(2, 2), written(4, 3)];
    let second = [with_code(0, ErrorCode::PolicyViolation), written(2, 20), written(4, 30)];
    let [a1, b1, c1] = first;
    let [a2, b2, c2] = second;
    for answers in [
        vec![a1.clone(), a2.clone(), b1.clone(), c1.clone()],
        vec![b1.clone(), a1.clone(), c1.clone(), a2.clone()],
        vec![c1.clone(), b1.clone(), a1.clone(), c2.clone(), b2.clone(), a2.clone()],
        vec![a1.clone(), b1.clone(), b2, c1.clone(), c2, a2],
        vec![a1.clone(), b1.clone(), c1.clone(), a1.clone(), b1, c1],
    ] {
        let mut rig = Rig::<A>::with(memory(), in_order());
        for partition in [0, 2, 4] {
            rig.push_noted(partition, &partition.to_string());
        }
        let request = rig.send();
        rig.script.end(request, Outcome::Answered(answers.clone()));
        rig.pass();
        let mut results = rig.results.take();
        results.sort_by(|one, other| one.0.cmp(&other.0));
        let offsets: Vec<_> = results.iter().map(|(_, result)| offset(result)).collect();
        assert_eq!(offsets, [1, 2, 3], "{answers:?}");
        assert_eq!((rig.stats().completed, rig.stats().failed, rig.stats().retried), (3, 0, 0));
        rig.send_nothing();
        rig.assert_at_rest();
    }
}

fn gap_27_answers_for_unknown_partitions_are_ignored<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), in_order());
    rig.push_noted(0, "a");
    rig.push_noted(2, "b");
    let request = rig.send();
    let unknown = PartitionResponse::written(TopicPartition::new("u", 0), 9);
    let stale = with_code(4, ErrorCode::NotLeaderOrFollower);
    rig.script.end(request, Outcome::Answered(vec![unknown, written(0, 1), stale, written(2, 2)]));
    rig.pass();
    let offsets: Vec<_> = rig.results.take().iter().map(|(_, result)| offset(result)).collect();
    assert_eq!(offsets, [1, 2]);
    assert_eq!(rig.script.updates(), 0);
    rig.assert_at_rest();
}

fn gap_27_an_empty_answer_is_no_answer<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "a");
    let request = rig.send();
    rig.script.end(request, Outcome::Answered(Vec::new()));
    rig.pass();
    assert!(rig.results.names().is_empty());
    rig.advance(100);
    let request = rig.send();
    // Nor is one to a request without batches anything.
    let ProduceRequest { id, node, acks, timeout, .. } = request;
    let empty = ProduceRequest { id, node, acks, timeout, batches: Vec::new() };
    rig.script.end(empty, Outcome::Answered(vec![written(0, 5)]));
    rig.pass();
    assert!(rig.results.names().is_empty());
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn gap_27_a_request_that_the_broker_gives_back_goes_again<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), in_order());
    rig.push_noted(0, "a");
    rig.push_noted(2, "b");
    rig.push_noted(1, "of another node");
    rig.script.set_refuses(true);
    rig.send_nothing();
    assert_eq!((rig.sender.in_flight(), rig.stats().retried), (0, 3));
    assert_eq!(rig.script.updates(), 3);
    rig.script.set_refuses(false);
    rig.send_nothing();
    rig.advance(100);
    rig.pass();
    let requests = rig.script.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert!(request.batches.iter().all(|batch| batch.attempts() == 1));
        rig.script.acknowledge(request);
    }
    rig.pass();
    assert_eq!(rig.results.take().len(), 3);
    rig.assert_at_rest();
}

/// A transport can reach a batch's result. If it uses that, the sender's part is the books and the memory.
fn gap_27_a_batch_that_its_transport_has_settled_is_struck_out<A: Accumulator>() {
    let aborted = SendError::Aborted { reason: "by the transport" };
    for code in [ErrorCode::None, ErrorCode::PolicyViolation, ErrorCode::RequestTimedOut] {
        for how in 0..3 {
            let mut rig = Rig::<A>::with(memory(), in_order());
            rig.push_noted(0, "a");
            let request = rig.send();
            let completion = request.batches[0].completion();
            match how {
                0 => assert_eq!(completion.complete(3, None), Ok(true)),
                1 => assert_eq!(completion.fail(aborted.clone(), None), Ok(true)),
                _ => assert_eq!(completion.abort(aborted.clone()), Ok(())),
            }
            rig.refuse(request, code);
            assert_eq!(rig.results.take().len(), 1, "{code} for a batch that had ended");
            assert_eq!((rig.stats().completed, rig.stats().failed, rig.stats().retried), (0, 0, 0));
            rig.push_noted(0, "b");
            let request = rig.send();
            rig.acknowledge(request);
            rig.assert_at_rest();
        }
    }
}
