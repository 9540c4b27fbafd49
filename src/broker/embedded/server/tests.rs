//! What the server promises, one call at a time.

use super::*;
use crate::broker::embedded::test_support::{bytes, request, with_header};
use crate::broker::embedded::{EmbeddedBroker, Fault, Storage};
use crate::primitive::clock::ManualClock;
use std::time::Duration;

const NODE: NodeId = NodeId(0);

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn broker(partitions: i32) -> EmbeddedBroker {
    let broker = EmbeddedBroker::builder().open().unwrap();
    broker.create_topic("t", partitions).unwrap();
    broker
}

#[test]
fn broker_gives_each_partition_offsets_of_its_own_without_a_gap() {
    let broker = broker(2);
    for (partition, values, base) in
        [(0, &["a", "b"][..], 0), (1, &["c"], 0), (0, &["d"], 2), (1, &["e", "f", "g"], 1), (0, &["h"], 3)]
    {
        let answer = broker.produce(NODE, &at(partition), &bytes(values));
        assert_eq!(answer, PartitionResponse::written(at(partition), base));
    }
    assert_eq!((broker.end_offset(&at(0)), broker.end_offset(&at(1))), (Some(4), Some(4)));
    let stats = broker.stats();
    assert_eq!((stats.batches, stats.records), (5, 8));
}

#[test]
fn broker_refusal_takes_no_offset_and_shows_nothing_to_the_observer() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let broker = EmbeddedBroker::builder()
        .storage(Storage::Drop)
        .observer({
            let seen = seen.clone();
            move |at, base, bytes| seen.lock().push((at.clone(), base, bytes.to_vec()))
        })
        .open()
        .unwrap();
    broker.create_topic("t", 1).unwrap();
    let good = bytes(&["a", "b"]);
    let mut bad = good.clone();
    bad[70] ^= 1;
    assert_eq!(broker.produce(NODE, &at(0), &bad).error, ErrorCode::CorruptMessage);
    assert_eq!(broker.produce(NODE, &at(0), &good).base_offset, 0);
    assert_eq!(broker.produce(NODE, &at(0), &good).base_offset, 2);
    let mut stored = good.clone();
    assign_offset(&mut stored, 2, 0);
    let seen = seen.lock();
    assert_eq!(seen.iter().map(|(_, base, _)| *base).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(seen[1], (at(0), 2, stored), "with its offset, as a log would have it");
}

#[test]
fn broker_survives_an_observer_that_panics() {
    let broker = EmbeddedBroker::builder().observer(|_, _, _| panic!("an observer's own fault")).open().unwrap();
    broker.create_topic("t", 1).unwrap();
    for base in 0..2 {
        assert_eq!(broker.produce(NODE, &at(0), &bytes(&["a"])).base_offset, base);
    }
}

#[test]
fn send_16_broker_answers_what_it_does_not_lead_or_does_not_have() {
    let broker = EmbeddedBroker::builder().nodes(2).open().unwrap();
    broker.create_topic("t", 3).unwrap();
    let batch = bytes(&["a"]);
    let code = |node, at: &TopicPartition| broker.produce(NodeId(node), at, &batch).error;
    assert_eq!(code(0, &at(0)), ErrorCode::None);
    assert_eq!(code(1, &at(1)), ErrorCode::None);
    assert_eq!(code(0, &at(2)), ErrorCode::None);
    assert_eq!(code(1, &at(0)), ErrorCode::NotLeaderOrFollower);
    for unknown in [at(3), at(-1), TopicPartition::new("u", 0)] {
        assert_eq!(code(0, &unknown), ErrorCode::UnknownTopicOrPartition);
    }
    broker.set_leader(&at(0), Some(NodeId(1))).unwrap();
    assert_eq!((code(0, &at(0)), code(1, &at(0))), (ErrorCode::NotLeaderOrFollower, ErrorCode::None));
    broker.set_leader(&at(0), None).unwrap();
    assert_eq!(code(1, &at(0)), ErrorCode::NotLeaderOrFollower);
    assert!(matches!(broker.set_leader(&at(0), Some(NodeId(2))), Err(EmbeddedError::UnknownNode { .. })));
    assert!(matches!(broker.set_leader(&at(9), None), Err(EmbeddedError::UnknownPartition { .. })));
}

#[test]
fn send_16_broker_takes_no_batch_whose_leader_moved_while_it_was_checked() {
    let broker = EmbeddedBroker::builder().nodes(2).open().unwrap();
    broker.create_topic("t", 1).unwrap();
    let moved = broker.server.decide(NODE, &at(0), &bytes(&["a"]), |_| {
        broker.set_leader(&at(0), Some(NodeId(1))).unwrap();
        None
    });
    assert_eq!(moved.unwrap_err().code, ErrorCode::NotLeaderOrFollower);
    assert_eq!(broker.end_offset(&at(0)), Some(0));
}

#[test]
fn broker_gives_equal_histories_equal_snapshots() {
    let snapshot = || {
        let broker = EmbeddedBroker::builder().open().unwrap();
        (0..50).for_each(|topic| broker.create_topic(&format!("t{}", topic * 7 % 50), 2).unwrap());
        broker.cluster().led_by(NODE).to_vec()
    };
    let led = snapshot();
    assert!(led.is_sorted() && led.len() == 100);
    assert_eq!(led, snapshot());
}

#[test]
fn batch_22_broker_raises_the_leader_epoch_with_each_move_and_stamps_it() {
    let broker = EmbeddedBroker::builder().nodes(2).open().unwrap();
    broker.create_topic("t", 2).unwrap();
    let before = broker.cluster();
    let batch = bytes(&["a"]);
    broker.produce(NODE, &at(0), &batch);
    broker.set_leader(&at(0), Some(NodeId(1))).unwrap();
    broker.set_leader(&at(0), Some(NodeId(1))).unwrap();
    broker.produce(NodeId(1), &at(0), &batch);
    let epochs = broker.read(&at(0), 0).unwrap().map(|batch| {
        let batch = batch.unwrap();
        RecordBatch::parse(&batch).unwrap().0.header().partition_leader_epoch
    });
    assert_eq!(epochs.collect::<Vec<_>>(), [0, 1]);
    let leader = |cluster: &Cluster| cluster.leader(&at(0)).unwrap();
    assert_eq!(leader(&before), Leader { node: NODE, epoch: Some(0) }, "a snapshot does not change");
    assert_eq!(leader(&broker.cluster()), Leader { node: NodeId(1), epoch: Some(1) });
}

#[test]
fn fmt_09_broker_stamps_its_own_time_where_the_topic_says_so() {
    let clock = ManualClock::at(5_000_000);
    let broker = EmbeddedBroker::builder().clock(clock.clone()).open().unwrap();
    broker.create_topic("t", 1).unwrap();
    broker.set_timestamp_type("t", TimestampType::LogAppendTime).unwrap();
    clock.advance(Duration::from_millis(7));
    let answer = broker.produce(NODE, &at(0), &bytes(&["a", "b"]));
    assert_eq!(answer.log_append_time, Some(5_000_007));
    let records = broker.read(&at(0), 0).unwrap().records();
    assert_eq!(records.map(|record| record.unwrap().timestamp).collect::<Vec<_>>(), [5_000_007; 2]);
    broker.set_timestamp_type("t", TimestampType::CreateTime).unwrap();
    assert_eq!(broker.produce(NODE, &at(0), &bytes(&["a"])).log_append_time, None);
}

#[test]
fn send_06_broker_takes_one_batch_per_partition_and_request() {
    let broker = broker(2);
    let answer = broker.server.handle(&request(0, &[&at(0), &at(1), &at(0)])).answer;
    let codes = answer.iter().map(|answer| answer.error).collect::<Vec<_>>();
    assert_eq!(codes, [ErrorCode::None, ErrorCode::None, ErrorCode::InvalidRecord]);
    assert_eq!(broker.end_offset(&at(0)), Some(1));
}

#[test]
fn broker_fails_batches_before_or_after_writing_as_told() {
    let broker = broker(1);
    let request = request(0, &[&at(0)]);
    let code = || broker.server.handle(&request).answer[0].error;
    broker.faults().inject(Fault::fail(ErrorCode::NotEnoughReplicas));
    assert_eq!((code(), broker.end_offset(&at(0))), (ErrorCode::NotEnoughReplicas, Some(0)));
    broker.faults().inject(Fault::fail(ErrorCode::NotEnoughReplicasAfterAppend).after_writing());
    assert_eq!((code(), broker.end_offset(&at(0))), (ErrorCode::NotEnoughReplicasAfterAppend, Some(1)));
    assert_eq!((code(), broker.end_offset(&at(0))), (ErrorCode::None, Some(2)));
}

#[test]
fn gap_27_broker_leaves_a_batch_out_of_its_answer_as_told() {
    let broker = broker(2);
    broker.faults().inject(Fault::omit().at_partition(at(0)));
    let answer = broker.server.handle(&request(0, &[&at(0), &at(1)])).answer;
    assert_eq!(answer, [PartitionResponse::written(at(1), 0)]);
    broker.faults().inject(Fault::omit().after_writing());
    assert_eq!(broker.server.handle(&request(0, &[&at(0)])).answer, []);
    assert_eq!(broker.end_offset(&at(0)), Some(1), "the second one was written");
}

#[test]
fn broker_fault_is_not_used_up_by_a_batch_that_is_refused_anyway() {
    let broker = broker(1);
    broker.faults().inject(Fault::fail(ErrorCode::NotEnoughReplicas));
    let answer = |at: &TopicPartition| broker.server.handle(&request(0, &[at])).answer[0].error;
    assert_eq!(answer(&at(7)), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(answer(&at(0)), ErrorCode::NotEnoughReplicas);
}

#[test]
fn broker_topics_are_created_once_and_grow() {
    let broker = broker(2);
    assert!(matches!(broker.create_topic("t", 2), Err(EmbeddedError::TopicExists { partitions: 2, .. })));
    assert!(matches!(broker.create_topic("no good", 1), Err(EmbeddedError::InvalidTopic { .. })));
    assert!(matches!(broker.create_topic("u", 0), Err(EmbeddedError::InvalidConfig { .. })));
    broker.produce(NODE, &at(1), &bytes(&["a"]));
    broker.set_max_message_bytes("t", 10).unwrap();
    broker.ensure_topic("t", 1).unwrap();
    assert_eq!(broker.partitions("t"), Some(2), "topics do not shrink");
    broker.ensure_topic("t", 5).unwrap();
    assert_eq!((broker.cluster().partitions("t"), broker.end_offset(&at(1))), (Some(5), Some(1)));
    assert_eq!(broker.produce(NODE, &at(4), &bytes(&["a"])).error, ErrorCode::MessageTooLarge, "limits stay");
    assert!(matches!(broker.set_max_message_bytes("u", 10), Err(EmbeddedError::UnknownTopic { .. })));
}

#[test]
fn broker_leaves_no_offset_beyond_the_last_one() {
    let broker = broker(1);
    broker.server.partition(&at(0)).unwrap().state.lock().next_offset = i64::MAX - 1;
    assert_eq!(broker.produce(NODE, &at(0), &bytes(&["a", "b"])).error, ErrorCode::UnknownServerError);
    assert_eq!(broker.produce(NODE, &at(0), &bytes(&["a"])).base_offset, i64::MAX - 1);
}

fn sequenced(values: &[&str], sequence: i32) -> Vec<u8> {
    with_header(bytes(values), |header| {
        (header.producer_id, header.producer_epoch, header.base_sequence) = (9, 0, sequence);
    })
}

#[test]
fn idem_04_broker_writes_a_batch_once_and_answers_it_again_as_before() {
    let clock = ManualClock::at(5_000_000);
    let broker = EmbeddedBroker::builder().clock(clock.clone()).open().unwrap();
    broker.create_topic("t", 2).unwrap();
    broker.set_timestamp_type("t", TimestampType::LogAppendTime).unwrap();
    let batch = sequenced(&["a", "b"], 0);
    let first = broker.produce(NODE, &at(0), &batch);
    clock.advance(Duration::from_millis(9));
    assert_eq!(broker.produce(NODE, &at(0), &batch), first, "its offset, its time");
    assert_eq!((first.base_offset, broker.end_offset(&at(0)), broker.stats().batches), (0, Some(2), 1));
    assert_eq!(broker.produce(NODE, &at(0), &sequenced(&["c"], 3)).error, ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(broker.produce(NODE, &at(1), &sequenced(&["c"], 7)).base_offset, 0, "each partition has its own");
    assert_eq!(broker.produce(NODE, &at(0), &sequenced(&["c"], 2)).base_offset, 2);
    broker.forget_producers(&at(0)).unwrap();
    assert_eq!(broker.produce(NODE, &at(0), &batch).base_offset, 3, "and written again");
    assert!(matches!(broker.forget_producers(&at(7)), Err(EmbeddedError::UnknownPartition { .. })));
}

#[test]
fn idem_04_broker_knows_its_producers_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || EmbeddedBroker::builder().storage(Storage::directory(dir.path())).open().unwrap();
    let broker = open();
    broker.create_topic("t", 1).unwrap();
    assert_eq!(broker.produce(NODE, &at(0), &sequenced(&["a", "b"], 0)).base_offset, 0);
    assert_eq!(broker.produce(NODE, &at(0), &sequenced(&["c"], 2)).base_offset, 2);
    drop(broker);
    let broker = open();
    assert_eq!(broker.produce(NODE, &at(0), &sequenced(&["a", "b"], 0)).base_offset, 0);
    assert_eq!(broker.produce(NODE, &at(0), &sequenced(&["e"], 4)).error, ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(broker.produce(NODE, &at(0), &sequenced(&["d"], 3)).base_offset, 3);
}

#[test]
fn send_14_broker_fails_no_batch_that_it_has_but_with_the_duplicates_own_code() {
    let broker = broker(1);
    let (first, second) = (sequenced(&["a"], 0), sequenced(&["b"], 1));
    let code = |batch: &[u8]| {
        let answer = broker.server.decide(NODE, &at(0), batch, |again| broker.faults().failure(NODE, &at(0), again));
        answer.unwrap().unwrap().error
    };
    broker.faults().inject(Fault::fail(ErrorCode::DuplicateSequenceNumber));
    assert_eq!(code(&first), ErrorCode::None);
    broker.faults().inject(Fault::fail(ErrorCode::PolicyViolation));
    assert_eq!(code(&first), ErrorCode::DuplicateSequenceNumber);
    assert_eq!(code(&first), ErrorCode::None);
    assert_eq!(code(&second), ErrorCode::PolicyViolation);
    assert_eq!((code(&second), broker.end_offset(&at(0))), (ErrorCode::None, Some(2)));
}
