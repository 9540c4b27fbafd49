//! Order: the ordering mode, the order of callbacks, and what callbacks may do. SEND-18, 23, 25, 31, GAP-21.

use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use unlatched::accumulator::Accumulator;
use unlatched::batch::Reply;
use unlatched::broker::{ErrorCode, NodeId, Outcome, PartitionResponse};
use unlatched::sender::SenderConfig;

use crate::rig::{Rig, alone, contents, in_order, led_by, memory, partitions, push, requests};
use crate::support::{lock, on_every_core, tp};

on_every_core![
    send_18_unmuting_comes_last_whatever_the_answer,
    send_23_one_batch_of_a_partition_at_a_time,
    send_23_without_ordering_a_partition_is_never_muted,
    send_23_a_retry_goes_before_what_came_later,
    send_23_a_partition_stays_muted_after_expiry_until_its_request_is_back,
    send_25_a_callback_may_append_when_its_batch_expires,
    send_25_a_callback_may_append_when_its_batch_is_answered,
    send_25_a_callback_may_append_until_memory_is_used_up,
    send_31_callbacks_run_in_the_order_of_sending,
    send_31_batches_in_flight_expire_in_the_order_opened,
    send_31_queued_batches_expire_in_the_order_opened,
    send_31_callbacks_run_on_the_senders_thread,
    gap_21_a_callback_that_panics_harms_nobody,
];

fn send_18_unmuting_comes_last_whatever_the_answer<A: Accumulator>() {
    let answer = |code| Outcome::Answered(vec![PartitionResponse::refused(tp(0), code)]);
    for (outcome, steps) in [
        (answer(ErrorCode::None), &["callback a", "strike out", "unmute 0"][..]),
        (answer(ErrorCode::DuplicateSequenceNumber), &["callback a", "strike out", "unmute 0"]),
        (answer(ErrorCode::PolicyViolation), &["callback a", "strike out", "unmute 0"]),
        (answer(ErrorCode::NotLeaderOrFollower), &["update", "reenqueue 0", "unmute 0"]),
        (Outcome::Answered(Vec::new()), &["update", "reenqueue 0", "unmute 0"]),
        (Outcome::Disconnected, &["update", "reenqueue 0", "unmute 0"]),
        (Outcome::TimedOut, &["reenqueue 0", "unmute 0"]),
        (Outcome::UnsupportedVersion, &["callback a", "strike out", "unmute 0"]),
    ] {
        let mut rig = Rig::<A>::with(memory(), in_order());
        rig.push_noted(0, "a");
        let request = rig.send();
        rig.log.take();
        rig.script.end(request, outcome.clone());
        rig.pass();
        let seen = rig.log.take();
        let end = seen.iter().position(|step| step == "poll").expect("there was a poll") + 1;
        assert_eq!(seen[end..], *steps, "{outcome:?}");
    }
}

fn send_23_one_batch_of_a_partition_at_a_time<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), in_order());
    for name in ["a", "b", "c"] {
        rig.push_noted(0, name);
    }
    let mut sent = Vec::new();
    for _ in 0..3 {
        let request = rig.send();
        assert_eq!(rig.log.take_only(&["mute", "submit"]), ["mute 0", "submit 0"], "muted before it goes");
        rig.send_nothing();
        // The other partitions of the node go on.
        rig.push_noted(2, "other");
        let other = rig.send();
        assert_eq!(partitions(&other), [2]);
        rig.acknowledge(other);
        sent.extend(contents(&request));
        rig.script.acknowledge(request);
        rig.pass();
        rig.log.take();
    }
    assert_eq!(sent, ["a", "b", "c"].map(|name| (0, vec![alone(name)])));
    rig.assert_at_rest();
}

fn send_23_without_ordering_a_partition_is_never_muted<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), SenderConfig { max_in_flight: 64, ..requests() });
    for name in ["a", "b", "c", "d", "e", "f"] {
        rig.push_noted(0, name);
    }
    let requests: Vec<_> = (0..6).map(|_| rig.send()).collect();
    assert_eq!(rig.sender.in_flight(), 6, "a request each");
    requests.into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.pass();
    assert_eq!(rig.log.take_only(&["mute", "unmute"]), [] as [&str; 0]);
    assert_eq!(rig.results.names(), ["a", "b", "c", "d", "e", "f"]);
    rig.assert_at_rest();
}

fn send_23_a_retry_goes_before_what_came_later<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), in_order());
    for name in ["a", "b"] {
        rig.push_noted(0, name);
    }
    for _ in 0..2 {
        let request = rig.send();
        assert_eq!(contents(&request), [(0, vec![alone("a")])]);
        rig.refuse(request, ErrorCode::NotEnoughReplicas);
        rig.send_nothing();
        rig.advance(100);
    }
    let request = rig.send();
    rig.acknowledge(request);
    let request = rig.send();
    rig.acknowledge(request);
    assert_eq!(rig.results.names(), ["a", "b"]);
    rig.assert_at_rest();
}

/// The broker may still be writing the expired batch: what follows it has to wait for its request, however that ends.
fn send_23_a_partition_stays_muted_after_expiry_until_its_request_is_back<A: Accumulator>() {
    let answer = |code| Outcome::Answered(vec![PartitionResponse::refused(tp(0), code)]);
    for outcome in [
        answer(ErrorCode::None),
        answer(ErrorCode::PolicyViolation),
        answer(ErrorCode::RequestTimedOut),
        Outcome::Answered(Vec::new()),
        Outcome::TimedOut,
        Outcome::Disconnected,
        Outcome::UnsupportedVersion,
    ] {
        let mut rig = Rig::<A>::with(memory(), in_order());
        rig.push_noted(0, "a");
        let request = rig.send();
        rig.advance(500);
        rig.push_noted(0, "b");
        rig.advance(500);
        rig.send_nothing();
        assert_eq!(rig.results.names(), ["a"]);
        assert_eq!(rig.sender.in_flight(), 0);
        for _ in 0..3 {
            rig.advance(100);
            rig.send_nothing();
        }
        assert!(!rig.script.slept().is_zero(), "and it does not spin until then");
        rig.script.end(request, outcome.clone());
        rig.send_nothing();
        let request = rig.send();
        assert_eq!(contents(&request), [(0, vec![alone("b")])], "{outcome:?}");
        rig.acknowledge(request);
        assert!(rig.results.take().remove(1).1.is_ok());
        rig.assert_at_rest();
    }
}

/// A record whose callback appends another one, the one of which is noted.
fn push_twice<A: Accumulator>(rig: &Rig<A>, partition: i32, name: &str) {
    let (accumulator, results) = (rig.accumulator.clone(), rig.results.clone());
    let name = name.to_owned();
    rig.push_with(partition, &alone(&name), move |_| {
        let note = Reply::callback(move |result| results.note(&name, result));
        push(&*accumulator, partition, "from a callback", note).expect("there is memory");
    });
}

fn send_25_a_callback_may_append_when_its_batch_expires<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    push_twice(&rig, 0, "in flight");
    let request = rig.send();
    push_twice(&rig, 2, "drained late");
    rig.script.set_cluster(led_by(&[Some(0), None, Some(0), None]));
    push_twice(&rig, 1, "queued");
    push_twice(&rig, 0, "in flight's successor");
    rig.advance(1_000);
    // What the callbacks append comes after this pass's drain.
    rig.send_nothing();
    assert_eq!(rig.stats().failed, 4);
    rig.script.set_cluster(crate::rig::cluster());
    rig.pass();
    let requests = rig.script.requests();
    let mut sent: Vec<_> = requests.iter().flat_map(contents).collect();
    sent.sort();
    let value = || "from a callback".to_owned();
    assert_eq!(sent, [(0, vec![value(), value()]), (1, vec![value()]), (2, vec![value()])]);
    requests.into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.acknowledge(request);
    assert_eq!(rig.results.take().iter().filter(|(_, result)| result.is_ok()).count(), 4);
    rig.assert_at_rest();
}

fn send_25_a_callback_may_append_when_its_batch_is_answered<A: Accumulator>() {
    for code in [ErrorCode::None, ErrorCode::PolicyViolation] {
        let mut rig = Rig::<A>::with(memory(), in_order());
        push_twice(&rig, 0, "a");
        let request = rig.send();
        rig.refuse(request, code);
        assert!(rig.accumulator.has_undrained());
        // The partition is free for it: the callback ran while it was muted.
        let request = rig.send();
        assert_eq!(contents(&request), [(0, vec!["from a callback".into()])]);
        rig.acknowledge(request);
        assert!(rig.results.take().remove(0).1.is_ok());
        rig.assert_at_rest();
    }
}

/// The memory of its own batch is not back yet while a callback runs; an append that would have to wait is refused.
fn send_25_a_callback_may_append_until_memory_is_used_up<A: Accumulator>() {
    let mut config = memory();
    config.buffer_memory = config.batch_size as u64;
    let mut rig = Rig::<A>::with(config, in_order());
    let (accumulator, log) = (rig.accumulator.clone(), rig.log.clone());
    rig.push_with(0, "a", move |_| {
        let appended = push(&*accumulator, 0, "b", Reply::IGNORE);
        log.note(format!("callback: accepted {}", appended.is_ok()));
    });
    let request = rig.send();
    rig.acknowledge(request);
    assert_eq!(rig.log.take_only(&["callback"]), ["callback: accepted false"]);
    rig.assert_at_rest();
}

fn send_31_callbacks_run_in_the_order_of_sending<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let names: Vec<String> = (0..12).map(|number| format!("{number}")).collect();
    // Three records in a batch, four batches.
    for (number, name) in names.iter().enumerate() {
        let (results, note) = (rig.results.clone(), name.clone());
        let value = if number % 3 == 2 { alone(name) } else { name.clone() };
        rig.push_with(0, &value, move |result| results.note(&note, result));
    }
    let mut requests = Vec::new();
    while rig.accumulator.has_undrained() {
        requests.push(rig.send());
    }
    assert!(requests.len() >= 4);
    requests.into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.pass();
    assert_eq!(rig.results.names(), names);
    rig.assert_at_rest();
}

/// Those of one partition, as callbacks run in that order; and all of them, as a simulation has to replay.
fn send_31_batches_in_flight_expire_in_the_order_opened<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), SenderConfig { max_in_flight: 64, ..requests() });
    let names: Vec<String> = (0..32).map(|number| format!("{number}")).collect();
    let mut requests = Vec::new();
    for (number, name) in names.iter().enumerate() {
        rig.push_noted(if number % 4 == 3 { 2 } else { 0 }, name);
        requests.push(rig.send());
        rig.advance(1);
    }
    rig.advance(1_000);
    rig.pass();
    assert_eq!(rig.results.names(), names);
    requests.into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.pass();
    rig.assert_at_rest();
}

/// Wherever they are queued, so that a simulation replays.
fn send_31_queued_batches_expire_in_the_order_opened<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    rig.script.set_cluster(led_by(&[]));
    let names: Vec<String> = (0..32).map(|number| format!("{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        rig.push_noted(number as i32 % 8, name);
    }
    rig.advance(1_000);
    rig.pass();
    assert_eq!(rig.results.names(), names);
    rig.assert_at_rest();
}

fn send_31_callbacks_run_on_the_senders_thread<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let seen: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
    let append = |rig: &Rig<A>| {
        let (accumulator, seen) = (rig.accumulator.clone(), seen.clone());
        std::thread::spawn(move || {
            let note = Reply::callback(move |_| lock(&seen).push(std::thread::current().id()));
            push(&*accumulator, 0, &alone("a"), note).expect("there is memory");
        })
        .join()
        .expect("it is accepted");
    };
    append(&rig);
    let request = rig.send();
    rig.acknowledge(request);
    append(&rig);
    let request = rig.send();
    rig.refuse(request, ErrorCode::PolicyViolation);
    append(&rig);
    let request = rig.send();
    rig.script.set_ready(0, Err(crate::support::LONG));
    append(&rig);
    rig.advance(1_000);
    rig.pass();
    rig.acknowledge(request);
    assert_eq!(*lock(&seen), [std::thread::current().id(); 4]);
    rig.assert_at_rest();
}

fn gap_21_a_callback_that_panics_harms_nobody<A: Accumulator>() {
    for code in [Some(ErrorCode::None), Some(ErrorCode::PolicyViolation), None] {
        let mut rig = Rig::<A>::with(memory(), in_order());
        let first = rig.push(0, "before");
        rig.push_with(0, "panics", |_| panic!("on purpose"));
        rig.push_with(0, "panics with something else", |_| std::panic::panic_any(NodeId(3)));
        rig.push_with(2, "panics in another batch", |_| panic!("on purpose"));
        let last = rig.push(0, "after");
        let request = rig.send();
        match code {
            Some(code) => rig.refuse(request, code),
            None => {
                rig.advance(1_000);
                rig.pass();
                rig.acknowledge(request);
            }
        }
        assert!(first.is_done() && last.is_done());
        let stats = rig.stats();
        let expected = if code == Some(ErrorCode::None) { (5, 0) } else { (0, 5) };
        assert_eq!((stats.completed, stats.failed), expected);
        // The sender goes on, and the partitions are free.
        rig.push_noted(0, "next");
        rig.push_noted(2, "next");
        let request = rig.send();
        rig.acknowledge(request);
        assert_eq!(rig.results.names(), ["next", "next"]);
        rig.assert_at_rest();
    }
}
