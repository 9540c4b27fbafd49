//! The batch: room, sizes, sealing, closing, times. BATCH-01 to BATCH-04, BATCH-08 to BATCH-10, BATCH-19 to BATCH-21.

use std::sync::mpsc;
use std::time::Duration;

use unlatched::batch::{OpenBatch, Reply, SealedBatch};
use unlatched::error::{SendError, TopicPartition};
use unlatched::pool::{BufferPool, Lease};
use unlatched::primitive::clock::Instant;
use unlatched::primitive::random::Random;
use unlatched::record::{
    BATCH_OVERHEAD, DecodedRecord, Header, NO_TIMESTAMP, ProducerState, ProducerStateError, Record, RecordBatch,
    batch_size_upper_bound, record_size,
};

use crate::pool::{pool, take};
use crate::support::{Core, on_every_core};

on_every_core![
    batch_01_records_begin_at_61_and_the_limit_is_the_lease,
    batch_01_a_first_record_that_fits_lies_in_the_lease,
    batch_01_the_memory_behind_the_records_is_nobodys,
    batch_02_the_first_record_always_fits,
    batch_02_later_records_fit_to_the_byte,
    batch_02_random_records_fit_as_computed,
    batch_03_the_estimate_is_exact_without_a_codec,
    batch_04_full_is_at_least_one_record_and_the_limit_reached,
    batch_08_closing_is_idempotent_and_seals_the_header,
    batch_08_the_header_is_writable_until_the_close,
    batch_08_aborting_an_open_batch_ends_its_records,
    batch_09_zero_records_are_zero_bytes,
    batch_10_no_room_changes_nothing_and_gives_the_reply_back,
    batch_10_the_largest_record_is_an_upper_bound,
    batch_10_what_was_appended_is_what_is_read,
    batch_19_expired_iff_the_timeout_has_passed_since_creation,
    batch_20_reenqueueing_counts_and_moves_the_last_attempt,
    batch_21_queue_time_ends_at_the_latest_drain,
];

pub(crate) const TOPIC: &str = "topic";

pub(crate) fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn at(milliseconds: u64) -> Instant {
    Instant::ZERO.saturating_add(millis(milliseconds))
}

/// A record with this value, no key, at time 0.
pub(crate) fn value(value: &[u8]) -> Record<'_> {
    Record { value: Some(value), ..Record::default() }
}

/// A lease of a pool of its own.
pub(crate) fn lease<C: Core>(size: usize) -> Lease {
    take::<C>(&pool::<C>(size as u64, size), size).erase()
}

pub(crate) fn open<C: Core>(limit: usize) -> C::Batch {
    C::Batch::open(tp(0), 0, lease::<C>(limit), Instant::ZERO)
}

#[track_caller]
pub(crate) fn push<B: OpenBatch>(batch: &mut B, record: &Record<'_>) -> usize {
    batch.try_append(record, Reply::IGNORE).expect("there is room").bytes
}

/// A sealed batch of `count` records of one byte.
pub(crate) fn sealed<C: Core>(count: u32) -> SealedBatch {
    let mut batch = open::<C>(4096);
    for number in 0..count {
        push(&mut batch, &value(&[number as u8]));
    }
    batch.seal()
}

/// The records of a closed batch.
#[track_caller]
pub(crate) fn read(bytes: &[u8]) -> Vec<DecodedRecord<'_>> {
    let (batch, rest) = RecordBatch::parse(bytes).expect("a whole batch with a good checksum");
    assert!(rest.is_empty());
    batch.records().map(|record| record.expect("a good record")).collect()
}

fn batch_01_records_begin_at_61_and_the_limit_is_the_lease<C: Core>() {
    let record = value(b"0123456789");
    let size = record_size(0, 0, &record);
    let mut batch = open::<C>(BATCH_OVERHEAD + 3 * size);
    assert_eq!((batch.record_count(), batch.estimated_size(), batch.is_full()), (0, 61, false));
    for count in 1..=3 {
        assert_eq!(push(&mut batch, &record), size);
        assert_eq!((batch.record_count() as usize, batch.estimated_size()), (count, 61 + count * size));
    }
    assert!(!batch.has_room_for(&record), "the lease is the limit");
    let mut batch = batch.seal();
    assert_eq!((batch.record_count(), batch.size(), batch.records_size()), (3, 61 + 3 * size, 3 * size));
    batch.close().unwrap();
    assert_eq!(batch.as_bytes().len(), 61 + 3 * size);
    let (parsed, _) = RecordBatch::parse(batch.as_bytes()).unwrap();
    assert_eq!(parsed.records_bytes(), &batch.as_bytes()[61..]);
    assert_eq!(read(batch.as_bytes()).len(), 3);
    assert_eq!(batch.topic_partition(), &tp(0));
}

fn batch_01_a_first_record_that_fits_lies_in_the_lease<C: Core>() {
    let record = value(b"0123456789");
    let exact = BATCH_OVERHEAD + record_size(0, 0, &record);
    for (size, inside) in [(exact + 1, true), (exact, true), (exact - 1, false)] {
        let lease = lease::<C>(size);
        let address = lease.as_ptr();
        let mut batch = C::Batch::open(tp(0), 0, lease, Instant::ZERO);
        push(&mut batch, &record);
        let mut batch = batch.seal();
        batch.close().unwrap();
        assert_eq!(batch.as_bytes().as_ptr() == address.as_ptr(), inside, "{size} for {exact}");
    }
}

fn batch_01_the_memory_behind_the_records_is_nobodys<C: Core>() {
    // A recycled buffer full of old bytes: nothing of them is in the batch.
    let pool = pool::<C>(1024, 1024);
    take::<C>(&pool, 1024).fill(0xee);
    let mut fresh = open::<C>(1024);
    let mut recycled = C::Batch::open(tp(0), 0, take::<C>(&pool, 1024).erase(), Instant::ZERO);
    for batch in [&mut fresh, &mut recycled] {
        push(batch, &Record { timestamp: 5, key: Some(b"k"), value: None, headers: &[] });
        push(batch, &Record { timestamp: 7, key: None, value: Some(b""), headers: &[] });
    }
    let (mut fresh, mut recycled) = (fresh.seal(), recycled.seal());
    fresh.close().unwrap();
    recycled.close().unwrap();
    assert_eq!(fresh.as_bytes(), recycled.as_bytes());
}

fn batch_02_the_first_record_always_fits<C: Core>() {
    let large = vec![1; 5000];
    for limit in [0, 1, 60, 61, 62, 5000] {
        for content in [&large[..], &large[..1], &[]] {
            let mut batch = open::<C>(limit);
            let record = value(content);
            assert!(batch.has_room_for(&record));
            assert_eq!(push(&mut batch, &record), record_size(0, 0, &record));
            let fits = 61 + record_size(0, 0, &record) < limit;
            assert_eq!(batch.is_full(), !fits, "limit {limit}, {} bytes", content.len());
            assert_eq!(batch.has_room_for(&value(&[])), fits, "then there is no exception any more");
            let mut batch = batch.seal();
            batch.close().unwrap();
            assert_eq!(read(batch.as_bytes())[0].value, Some(content));
            assert_eq!(batch.charged(), limit);
        }
    }
}

fn batch_02_later_records_fit_to_the_byte<C: Core>() {
    let (first, second) = (value(b"first"), value(b"second"));
    let exact = 61 + record_size(0, 0, &first) + record_size(1, 0, &second);
    for (limit, fits) in [(exact - 1, false), (exact, true), (exact + 1, true)] {
        let mut batch = open::<C>(limit);
        push(&mut batch, &first);
        assert_eq!(batch.has_room_for(&second), fits, "{limit} for {exact}");
        assert_eq!(batch.try_append(&second, Reply::IGNORE).is_ok(), fits, "{limit} for {exact}");
    }
    // The distance in time is part of the size: against the first record, not the one before.
    let late = Record { timestamp: 1 << 40, ..second };
    let later = Record { timestamp: (1 << 40) + 1, ..second };
    let exact = 61 + record_size(0, 0, &first) + record_size(1, 1 << 40, &late) + record_size(2, (1 << 40) + 1, &later);
    for (limit, fits) in [(exact - 1, false), (exact, true)] {
        let mut batch = open::<C>(limit);
        push(&mut batch, &first);
        push(&mut batch, &late);
        assert_eq!(batch.try_append(&later, Reply::IGNORE).is_ok(), fits, "{limit} for {exact}");
    }
}

fn batch_02_random_records_fit_as_computed<C: Core>() {
    let bytes = [9; 300];
    for seed in 0..30 {
        let mut random = Random::seeded(seed);
        let limit = random.below(1500) as usize;
        let mut batch = open::<C>(limit);
        let (mut size, mut base, mut count) = (61, 0, 0u32);
        for _ in 0..60 {
            let key = (random.below(3) > 0).then(|| &bytes[..random.below(80) as usize]);
            let headers = [Header { key: "name", value: key }];
            let record = Record {
                timestamp: random.below(1 << 20) as i64 - 1,
                key,
                value: (random.below(9) > 0).then(|| &bytes[..random.below(300) as usize]),
                headers: if random.below(4) == 0 { &headers } else { &[] },
            };
            let needed = record_size(count, if count == 0 { 0 } else { record.timestamp - base }, &record);
            let fits = count == 0 || size + needed <= limit;
            assert_eq!(batch.has_room_for(&record), fits, "seed {seed}");
            match batch.try_append(&record, Reply::IGNORE) {
                Ok(placed) => {
                    assert!(fits && placed.bytes == needed, "seed {seed}");
                    if count == 0 {
                        base = record.timestamp;
                    }
                    size += needed;
                    count += 1;
                }
                Err(_) => assert!(!fits, "seed {seed}"),
            }
            assert_eq!((batch.estimated_size(), batch.record_count()), (size, count), "seed {seed}");
            assert_eq!(batch.is_full(), count > 0 && limit <= size, "seed {seed}");
        }
        let mut batch = batch.seal();
        batch.close().unwrap();
        assert_eq!(batch.as_bytes().len(), size);
        assert_eq!(read(batch.as_bytes()).len(), count as usize);
    }
}

fn batch_03_the_estimate_is_exact_without_a_codec<C: Core>() {
    let mut batch = open::<C>(1000);
    let mut sum = 61;
    for (timestamp, content) in [(10, &b"a"[..]), (3, b"older"), (NO_TIMESTAMP, b""), (i64::MAX, b"far")] {
        sum += push(&mut batch, &Record { timestamp, ..value(content) });
        assert_eq!(batch.estimated_size(), sum);
    }
    let mut batch = batch.seal();
    assert_eq!(batch.size(), sum, "exact before the close");
    batch.close().unwrap();
    assert_eq!((batch.size(), batch.as_bytes().len()), (sum, sum), "and after it");
}

fn batch_04_full_is_at_least_one_record_and_the_limit_reached<C: Core>() {
    let record = value(b"x");
    let one = 61 + record_size(0, 0, &record);
    for (limit, full) in [(0, true), (one - 1, true), (one, true), (one + 1, false)] {
        let mut batch = open::<C>(limit);
        assert!(!batch.is_full(), "no record, not full, whatever the limit");
        push(&mut batch, &record);
        assert_eq!(batch.is_full(), full, "{limit} for {one}");
    }
    // What does not fit makes it no fuller: the rest may still take something smaller.
    let mut batch = open::<C>(one + 20);
    push(&mut batch, &record);
    assert!(batch.try_append(&value(&[0; 30]), Reply::IGNORE).is_err());
    assert!(!batch.is_full() && batch.has_room_for(&record));
}

fn batch_08_closing_is_idempotent_and_seals_the_header<C: Core>() {
    let mut batch = sealed::<C>(2);
    assert!(!batch.is_closed());
    let unwritten = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batch.as_bytes().len()));
    assert!(unwritten.is_err(), "no bytes before the close");
    batch.close().unwrap();
    assert!(batch.is_closed());
    let once = batch.as_bytes().to_vec();
    batch.close().unwrap();
    assert_eq!(batch.as_bytes(), once);
    assert_eq!(batch.as_ref() as &[u8], once);
    let producer = ProducerState { id: 1, epoch: 0, base_sequence: 0, transactional: false };
    assert!(batch.set_producer_state(producer).is_err(), "the state is under the checksum");
    assert_eq!(batch.as_bytes(), once);
}

fn batch_08_the_header_is_writable_until_the_close<C: Core>() {
    let mut batch = sealed::<C>(3);
    let bad = ProducerState { id: 7, epoch: -1, base_sequence: 0, transactional: false };
    batch.set_producer_state(bad).unwrap();
    assert_eq!(batch.close(), Err(ProducerStateError::InvalidEpoch { id: 7, epoch: -1 }));
    assert!(!batch.is_closed());
    batch.set_producer_state(ProducerState { id: 7, epoch: 2, base_sequence: 40, transactional: true }).unwrap();
    batch.close().unwrap();
    let (parsed, _) = RecordBatch::parse(batch.as_bytes()).unwrap();
    let header = parsed.header();
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (7, 2, 40));
    assert!(header.attributes.is_transactional());
    assert_eq!(read(batch.as_bytes()).iter().map(|record| record.sequence).collect::<Vec<_>>(), [40, 41, 42]);
}

fn batch_08_aborting_an_open_batch_ends_its_records<C: Core>() {
    let error = SendError::Aborted { reason: "on purpose" };
    let (told, results) = mpsc::channel();
    let pool = pool::<C>(512, 512);
    let batch = |told: mpsc::Sender<_>| {
        let mut batch = C::Batch::open(tp(0), 0, take::<C>(&pool, 512).erase(), Instant::ZERO);
        let reply = Reply { future: true, ..Reply::callback(move |result| told.send(result).unwrap()) };
        let future = batch.try_append(&value(b"x"), reply).unwrap().future.unwrap();
        assert!(!future.is_done() && future.try_result().is_none());
        (batch, future)
    };
    let (aborted, future) = batch(told.clone());
    aborted.abort(error.clone());
    assert_eq!(results.try_recv().unwrap(), Err(error.clone()));
    assert_eq!(future.wait(), Err(error));
    // Dropped on the way, open or sealed: no record is left without an end.
    let (dropped, future) = batch(told.clone());
    drop(dropped);
    assert!(matches!(results.try_recv().unwrap(), Err(SendError::Aborted { .. })));
    assert!(matches!(future.wait(), Err(SendError::Aborted { .. })));
    let (sealed, future) = batch(told);
    drop(sealed.seal());
    assert!(matches!(results.try_recv().unwrap(), Err(SendError::Aborted { .. })));
    assert!(matches!(future.wait(), Err(SendError::Aborted { .. })));
    assert!(results.try_recv().is_err(), "once each");
    assert_eq!(pool.available(), 512);
}

fn batch_09_zero_records_are_zero_bytes<C: Core>() {
    let batch = open::<C>(100);
    assert_eq!((batch.record_count(), batch.is_full()), (0, false));
    let mut batch = batch.seal();
    assert_eq!((batch.size(), batch.record_count(), batch.max_record_size()), (0, 0, 0));
    batch.close().unwrap();
    assert!(batch.as_bytes().is_empty());
    assert_eq!(batch.charged(), 100);
}

fn batch_10_no_room_changes_nothing_and_gives_the_reply_back<C: Core>() {
    let (told, results) = mpsc::channel();
    let mut batch = open::<C>(100);
    push(&mut batch, &Record { timestamp: 50, ..value(b"first") });
    let before = (batch.record_count(), batch.estimated_size(), batch.is_full());
    let large = Record { timestamp: 1_000_000, ..value(&[3; 60]) };
    let reply = Reply { future: true, ..Reply::callback(move |result| told.send(result).unwrap()) };
    let reply = batch.try_append(&large, reply).unwrap_err();
    assert!(reply.future && reply.callback.is_some(), "untouched");
    assert_eq!((batch.record_count(), batch.estimated_size(), batch.is_full()), before);
    // The same reply serves a record that fits, whose index is the next one.
    let future = batch.try_append(&Record { timestamp: 60, ..value(b"2") }, reply).unwrap().future.unwrap();
    let mut batch = batch.seal();
    assert_eq!(batch.max_timestamp(), 60, "the refused record has left no trace");
    assert_eq!(batch.max_record_size(), batch_size_upper_bound(&value(b"first")));
    batch.close().unwrap();
    assert_eq!(read(batch.as_bytes()).iter().map(|record| record.timestamp).collect::<Vec<_>>(), [50, 60]);
    assert!(results.try_recv().is_err(), "not called yet");
    assert_eq!(batch.completion().complete(10, None), Ok(true));
    assert_eq!(future.wait().unwrap().offset, 11);
    assert_eq!(results.try_iter().map(|result| result.unwrap().offset).collect::<Vec<_>>(), [11]);
}

fn batch_10_the_largest_record_is_an_upper_bound<C: Core>() {
    let mut batch = open::<C>(1000);
    let headers = [Header { key: "some", value: Some(b"header") }];
    let largest = Record { key: Some(b"key"), headers: &headers, ..value(b"the largest of them") };
    for record in [value(b"a"), largest, value(b"in between")] {
        push(&mut batch, &record);
    }
    // As the size of a batch with that record alone, compression ignored.
    assert_eq!(batch.seal().max_record_size(), batch_size_upper_bound(&largest));
}

fn batch_10_what_was_appended_is_what_is_read<C: Core>() {
    let headers = [Header { key: "h", value: Some(b"1") }, Header { key: "h", value: None }];
    let records = [
        Record { timestamp: 1_000, key: Some(b"k1"), value: Some(b"v1"), headers: &[] },
        Record { timestamp: 990, key: None, value: Some(b""), headers: &headers },
        Record { timestamp: NO_TIMESTAMP, key: Some(b""), value: None, headers: &[] },
        Record { timestamp: 2_000, key: None, value: None, headers: &headers[1..] },
    ];
    let mut batch = open::<C>(1000);
    for record in &records {
        push(&mut batch, record);
    }
    let mut batch = batch.seal();
    assert_eq!((batch.record_count(), batch.max_timestamp()), (4, 2_000));
    batch.close().unwrap();
    let (parsed, _) = RecordBatch::parse(batch.as_bytes()).unwrap();
    assert_eq!((parsed.header().base_timestamp, parsed.header().max_timestamp), (1_000, 2_000));
    for (index, (read, sent)) in read(batch.as_bytes()).iter().zip(&records).enumerate() {
        assert_eq!(
            (read.offset, read.timestamp, read.key, read.value),
            (index as i64, sent.timestamp, sent.key, sent.value)
        );
        assert_eq!(read.headers.iter().collect::<Vec<_>>(), sent.headers);
    }
}

fn batch_19_expired_iff_the_timeout_has_passed_since_creation<C: Core>() {
    let mut batch = C::Batch::open(tp(0), 0, lease::<C>(100), at(1_000));
    push(&mut batch, &value(b"x"));
    assert_eq!(batch.created(), at(1_000));
    let mut batch = batch.seal();
    let timeout = millis(500);
    let check = |batch: &SealedBatch| {
        assert!(!batch.has_expired(timeout, at(0)), "a clock before the creation is no expiry");
        assert!(!batch.has_expired(timeout, at(1_000)));
        assert!(!batch.has_expired(timeout, Instant::from_nanos(at(1_500).as_nanos() - 1)));
        assert!(batch.has_expired(timeout, at(1_500)));
        assert!(batch.has_expired(Duration::ZERO, at(1_000)));
        assert!(!batch.has_expired(Duration::MAX, Instant::from_nanos(u64::MAX)));
    };
    check(&batch);
    // A retry does not make it younger.
    batch.drained(at(1_100));
    batch.reenqueued(at(1_400), millis(100));
    assert_eq!(batch.created(), at(1_000));
    check(&batch);
}

fn batch_20_reenqueueing_counts_and_moves_the_last_attempt<C: Core>() {
    let mut batch = C::Batch::open(tp(0), 0, lease::<C>(200), at(100));
    push(&mut batch, &value(b"x"));
    let mut batch = batch.seal();
    assert_eq!((batch.attempts(), batch.in_retry()), (0, false));
    // Before the first attempt, the wait counts from the creation.
    assert_eq!(
        (batch.waited(at(130)), batch.waited(at(100)), batch.waited(at(50))),
        (millis(30), millis(0), millis(0))
    );
    batch.reenqueued(at(200), millis(7));
    assert_eq!((batch.attempts(), batch.in_retry(), batch.backoff()), (1, true, millis(7)));
    assert_eq!((batch.waited(at(230)), batch.waited(at(150))), (millis(30), millis(0)));
    // A clock that steps back does not move the last attempt back.
    batch.reenqueued(at(150), millis(9));
    assert_eq!((batch.attempts(), batch.in_retry(), batch.backoff()), (2, true, millis(9)));
    assert_eq!(batch.waited(at(230)), millis(30));
    batch.drained(at(300));
    batch.reenqueued(at(400), millis(9));
    assert_eq!((batch.attempts(), batch.in_retry(), batch.waited(at(401))), (3, true, millis(1)));
}

fn batch_21_queue_time_ends_at_the_latest_drain<C: Core>() {
    let mut batch = C::Batch::open(tp(0), 0, lease::<C>(100), at(100));
    push(&mut batch, &value(b"x"));
    let mut batch = batch.seal();
    assert_eq!(batch.queue_time(), None);
    for (drained, queue_time) in [(150, 50), (400, 300), (300, 300)] {
        batch.drained(at(drained));
        assert_eq!(batch.queue_time(), Some(millis(queue_time)));
    }
}
