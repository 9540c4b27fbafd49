//! Time that runs out: what expires, in the queue and in flight, what late answers change, and when memory comes back. SEND-08, 09, GAP-15.

use unlatched::accumulator::{Accumulator, SenderView};
use unlatched::batch::{RecordResult, Reply};
use unlatched::broker::{ErrorCode, Outcome, ProduceRequest};
use unlatched::error::SendError;

use crate::rig::{BATCH, Rig, alone, assert_whole, in_order, led_by, memory, partitions, push};
use crate::support::{millis, on_every_core, tp};

on_every_core![
    gap_28_what_is_late_ends_by_its_deadline_in_the_lock_free_core,
    gap_30_a_record_fails_once_and_passes_without_a_request_are_no_request,
    send_07_a_batch_is_in_flight_until_it_is_answered_put_back_or_expired,
    send_08_queued_batches_expire_then_those_in_flight,
    send_08_expiry_is_to_the_millisecond,
    send_08_the_error_says_what_and_when,
    send_08_a_batch_whose_time_is_up_when_it_is_drained_is_not_sent,
    send_08_a_retry_expires_by_its_creation,
    send_09_late_success_after_expiry_is_ignored,
    send_09_a_late_error_after_expiry_neither_fails_again_nor_retries,
    send_09_a_late_answer_touches_its_own_batch_alone,
    gap_15_memory_of_an_expired_batch_returns_with_its_request,
    gap_15_memory_of_an_aborted_batch_returns_with_its_request,
    gap_15_memory_of_what_a_broker_drops_returns_at_once,
];

/// What a record ends with that expired at `age` in a batch of `records`.
fn expired(partition: i32, records: u32, age: u64) -> RecordResult {
    let (topic_partition, age, timeout) = (tp(partition), millis(age), millis(1_000));
    Err(SendError::DeliveryTimeout { topic_partition, records, age, timeout })
}

fn send_08_queued_batches_expire_then_those_in_flight<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "in flight");
    let request = rig.send();
    rig.script.set_cluster(led_by(&[None]));
    rig.push_noted(0, "queued");
    rig.advance(1_000);
    rig.log.take();
    rig.send_nothing();
    let steps = rig.log.take_only(&["drain", "expired", "callback", "submit"]);
    if A::View::BY_DEADLINE {
        // Wherever they are: the older one first (GAP-28).
        assert_eq!(steps, ["drain []", "expired", "callback in flight", "callback queued"]);
    } else {
        // What is queued is given up with its memory, before what is in flight, as Kafka does.
        assert_eq!(steps, ["drain []", "expired", "callback queued", "callback in flight"]);
    }
    assert_eq!(rig.stats().failed, 2);
    assert_eq!(rig.accumulator.pool().leased, BATCH as u64);
    rig.acknowledge(request);
    assert_eq!(rig.stats().completed, 0);
    rig.assert_at_rest();
}

fn send_08_expiry_is_to_the_millisecond<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "in flight");
    let request = rig.send();
    rig.script.set_cluster(led_by(&[None, None]));
    rig.push_noted(1, "queued");
    rig.advance(999);
    rig.send_nothing();
    assert!(rig.results.names().is_empty());
    rig.advance(1);
    rig.send_nothing();
    assert_eq!(rig.results.take().len(), 2);
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn send_08_the_error_says_what_and_when<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let in_flight = [rig.push(0, "a"), rig.push(0, "b"), rig.push(0, "c")];
    let request = rig.send();
    rig.script.set_cluster(led_by(&[None, None]));
    let queued = [rig.push(1, "d"), rig.push(1, "e")];
    rig.advance(1_234);
    rig.pass();
    for future in in_flight {
        assert_eq!(future.wait(), expired(0, 3, 1_234));
    }
    for future in queued {
        assert_eq!(future.wait(), expired(1, 2, 1_234));
    }
    assert_eq!(rig.stats().failed, 5);
    rig.acknowledge(request);
    rig.assert_at_rest();
}

fn send_08_a_batch_whose_time_is_up_when_it_is_drained_is_not_sent<A: Accumulator>() {
    for order in [false, true] {
        let mut rig = if order { Rig::<A>::with(memory(), in_order()) } else { Rig::<A>::new() };
        rig.push_noted(0, "late");
        rig.advance(500);
        rig.push_noted(2, "in time");
        rig.advance(500);
        let request = rig.send();
        assert_eq!(partitions(&request), [2]);
        assert_eq!(rig.results.take(), [("late".into(), expired(0, 1, 1_000))]);
        assert_eq!(rig.accumulator.pool().leased, BATCH as u64, "its memory was never with the transport");
        assert_eq!(rig.stats().batches, 1);
        // Nor is its partition muted.
        rig.push_noted(0, "next");
        let next = rig.send();
        assert_eq!(partitions(&next), [0]);
        rig.script.acknowledge(request);
        rig.acknowledge(next);
        assert!(rig.results.take().iter().all(|(_, result)| result.is_ok()));
        rig.assert_at_rest();
        // Were it the only one, there would be no request.
        rig.push_noted(0, "late");
        rig.advance(1_000);
        let requests = rig.stats().requests;
        rig.send_nothing();
        assert_eq!(rig.stats().requests, requests);
        rig.assert_at_rest();
    }
}

fn send_08_a_retry_expires_by_its_creation<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "a");
    for _ in 0..3 {
        rig.advance(300);
        let request = rig.send();
        rig.refuse(request, ErrorCode::RequestTimedOut);
    }
    // Back in the queue, in its backoff.
    rig.advance(99);
    rig.send_nothing();
    assert!(rig.results.names().is_empty());
    rig.advance(1);
    rig.send_nothing();
    assert_eq!(rig.results.take(), [("a".into(), expired(0, 1, 1_000))]);
    assert_eq!((rig.stats().retried, rig.stats().failed), (3, 1));
    rig.assert_at_rest();
}

fn send_09_late_success_after_expiry_is_ignored<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "a");
    let request = rig.send();
    rig.advance(1_000);
    rig.pass();
    assert_eq!(rig.sender.in_flight(), 0);
    assert!(!rig.accumulator.has_incomplete());
    rig.acknowledge(request);
    assert_eq!(rig.results.take(), [("a".into(), expired(0, 1, 1_000))], "once");
    assert_eq!((rig.stats().completed, rig.stats().failed), (0, 1));
    rig.assert_at_rest();
}

fn send_09_a_late_error_after_expiry_neither_fails_again_nor_retries<A: Accumulator>() {
    for code in [ErrorCode::RequestTimedOut, ErrorCode::PolicyViolation, ErrorCode::MessageTooLarge] {
        let mut rig = Rig::<A>::new();
        rig.push_noted(0, "a");
        let request = rig.send();
        rig.advance(1_000);
        rig.pass();
        rig.refuse(request, code);
        assert!(!rig.accumulator.has_undrained(), "{code}");
        rig.advance(100);
        rig.send_nothing();
        assert_eq!(rig.results.take(), [("a".into(), expired(0, 1, 1_000))], "{code}");
        assert_eq!((rig.stats().retried, rig.stats().failed), (0, 1), "{code}");
        rig.assert_at_rest();
    }
}

/// The next batch of the partition is in flight when the answer to the one before it comes.
fn send_09_a_late_answer_touches_its_own_batch_alone<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "a");
    let first = rig.send();
    rig.advance(1_000);
    rig.push_noted(0, "b");
    let second = rig.send();
    assert_eq!(rig.results.names(), ["a"]);
    rig.refuse(first, ErrorCode::PolicyViolation);
    assert_eq!((rig.results.names().len(), rig.sender.in_flight()), (1, 1));
    rig.acknowledge(second);
    let results = rig.results.take();
    assert!(results[0].1.is_err() && results[1].1.is_ok(), "{results:?}");
    rig.assert_at_rest();
}

fn gap_15_memory_of_an_expired_batch_returns_with_its_request<A: Accumulator>() {
    let outcomes = [Outcome::Written, Outcome::TimedOut, Outcome::Disconnected, Outcome::Answered(Vec::new())];
    for outcome in outcomes {
        let mut rig = Rig::<A>::new();
        let future = rig.push(0, "a");
        rig.push_noted(2, "b");
        let request = rig.send();
        let before: Vec<_> = request.batches.iter().map(|batch| batch.as_bytes().to_vec()).collect();
        rig.advance(1_000);
        rig.pass();
        assert!(future.is_done() && !rig.accumulator.has_incomplete());
        assert_eq!(rig.accumulator.pool().leased, 2 * BATCH as u64, "the transport may still read it");
        // Nobody gets these bytes meanwhile.
        let room = (rig.accumulator.pool().available() / BATCH as u64) as usize;
        let others: Vec<_> = (0..room).map(|_| push(&*rig.accumulator, 1, &alone("x"), Reply::FUTURE)).collect();
        assert!(others.iter().all(Result::is_ok));
        assert!(push(&*rig.accumulator, 3, "no room", Reply::IGNORE).is_err());
        let now: Vec<_> = request.batches.iter().map(|batch| batch.as_bytes().to_vec()).collect();
        assert_eq!(now, before);
        rig.script.end(request, outcome);
        rig.pass();
        assert_eq!(rig.accumulator.pool().available(), 2 * BATCH as u64);
        rig.advance(1_000);
        rig.pass();
        let requests = rig.script.requests();
        requests.into_iter().for_each(|request| rig.script.acknowledge(request));
        rig.pass();
        rig.assert_at_rest();
    }
}

/// The sender is gone, and what it had sent is still with the transport.
fn gap_15_memory_of_an_aborted_batch_returns_with_its_request<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "in flight");
    let request = rig.send();
    rig.push_noted(0, "queued");
    let Rig { sender, accumulator, results, .. } = rig;
    drop(sender);
    assert_eq!(results.names().len(), 2);
    assert!(results.take().iter().all(|(_, result)| matches!(result, Err(SendError::Aborted { .. }))));
    assert_eq!(accumulator.pool().leased, BATCH as u64);
    assert_eq!(request.batches[0].record_count(), 1);
    drop(request);
    assert_whole(&*accumulator);
}

/// A broker that is dropped drops what it holds: the records of that are aborted.
fn gap_15_memory_of_what_a_broker_drops_returns_at_once<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.push_noted(0, "in flight");
    rig.push_noted(2, "answered, but not handled");
    let mut request = rig.send();
    let batches = request.batches.split_off(1);
    rig.script.acknowledge(ProduceRequest { batches, ..request });
    drop(request.batches);
    assert_eq!(rig.results.names(), ["in flight"]);
    let Rig { sender, accumulator, results, .. } = rig;
    drop(sender);
    let results = results.take();
    assert_eq!(results.len(), 2);
    assert!(results.iter().all(|(_, result)| matches!(result, Err(SendError::Aborted { .. }))), "{results:?}");
    assert_whole(&*accumulator);
}

fn gap_28_what_is_late_ends_by_its_deadline_in_the_lock_free_core<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.script.set_ready(1, Err(millis(5_000)));
    rig.push_noted(0, "a in flight");
    let first = rig.send();
    rig.advance(10);
    rig.push_noted(1, "b queued");
    rig.send_nothing();
    rig.advance(10);
    rig.push_noted(0, "c in flight");
    let third = rig.send();
    rig.advance(1_000);
    rig.pass();
    let by_deadline = ["a in flight", "b queued", "c in flight"];
    let queued_first = ["b queued", "a in flight", "c in flight"];
    assert_eq!(rig.results.names(), if A::NAME == "lockfree" { by_deadline } else { queued_first });
    [first, third].into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.pass();
    rig.assert_at_rest();
}

fn gap_30_a_record_fails_once_and_passes_without_a_request_are_no_request<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let futures = [rig.push(0, "a"), rig.push(0, "b")];
    let request = rig.send();
    (0..5).for_each(|_| rig.send_nothing());
    rig.advance(1_000);
    rig.send_nothing();
    assert!(futures.iter().all(|future| future.is_done()));
    rig.refuse(request, ErrorCode::PolicyViolation);
    rig.send_nothing();
    let stats = rig.stats();
    assert_eq!((stats.failed, stats.completed, stats.requests, stats.records), (2, 0, 1, 2));
    assert!((stats.records_per_request() - 2.0).abs() < f64::EPSILON, "{stats:?}");
    rig.assert_at_rest();
}

fn send_07_a_batch_is_in_flight_until_it_is_answered_put_back_or_expired<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    for (code, again) in [
        (ErrorCode::None, 0),
        (ErrorCode::PolicyViolation, 0),
        (ErrorCode::NotEnoughReplicas, 1),
        // In parts, each a batch of its own.
        (ErrorCode::MessageTooLarge, 2),
    ] {
        let futures = [rig.push(0, "a"), rig.push(0, "b")];
        let request = rig.send();
        assert_eq!(rig.sender.in_flight(), 1, "{code}");
        rig.refuse(request, code);
        assert_eq!(rig.sender.in_flight(), 0, "{code}");
        rig.advance(100);
        for left in (0..again).rev() {
            let request = rig.send();
            assert_eq!(rig.sender.in_flight(), 1, "{code}");
            rig.acknowledge(request);
            assert_eq!(futures.iter().all(|future| future.is_done()), left == 0, "{code}");
        }
        rig.assert_at_rest();
    }
    // In the order of their drains, and by themselves.
    rig.push_noted(0, "first");
    let first = rig.send();
    rig.advance(500);
    rig.push_noted(0, "second");
    let second = rig.send();
    assert_eq!(rig.sender.in_flight(), 2);
    rig.advance(500);
    rig.pass();
    assert_eq!((rig.sender.in_flight(), rig.results.names()), (1, vec!["first".to_owned()]));
    [first, second].into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.pass();
    rig.assert_at_rest();
}
