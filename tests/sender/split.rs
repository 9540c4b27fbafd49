//! A batch that is too large for its broker: SEND-12, ACC-36, 37, BATCH-23 to 25, GAP-16, 17.

use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig};
use unlatched::batch::{RecordFuture, RecordResult};
use unlatched::broker::{ErrorCode, Outcome, PartitionResponse, ProduceRequest};
use unlatched::error::{FlushError, SendError};
use unlatched::record::RecordBatch;
use unlatched::record::codec::Compression;
use unlatched::sender::SenderConfig;

use crate::rig::{Rig, assert_whole, contents, idempotent, memory, refused, requests};
use crate::support::{on_every_core, tp};

on_every_core![
    acc_36_parts_stand_before_what_came_later_and_are_no_attempt,
    acc_37_the_memory_of_what_was_split_goes_back_at_once,
    batch_23_parts_keep_time_headers_and_codec,
    batch_24_parts_take_the_sequences_of_their_whole,
    batch_24_parts_of_a_batch_that_lost_its_stamp_begin_anew,
    batch_24_parts_behind_one_in_doubt_begin_anew_if_nothing_was_acknowledged,
    batch_25_one_record_is_not_split,
    gap_16_a_flush_waits_for_all_parts,
    gap_17_a_limit_below_every_record_ends_in_single_records,
    met_04_a_split_is_counted_once_and_is_no_retry,
    send_08_a_part_expires_and_the_others_do_not,
    send_12_each_record_ends_with_its_own_place_and_callbacks_run_once_in_order,
    send_12_a_part_that_is_too_large_is_split_again,
    send_12_what_may_have_been_written_is_not_split,
    send_27_an_abort_ends_the_parts_with_their_whole,
];

/// Eight records in one batch, their callbacks noted.
fn eight<A: Accumulator>(rig: &mut Rig<A>) -> Vec<RecordFuture> {
    (0..8).map(|number| rig.push(0, &format!("record number {number}"))).collect()
}

fn values(request: &ProduceRequest) -> Vec<String> {
    contents(request).into_iter().flat_map(|(_, values)| values).collect()
}

/// Answers until nothing more comes: `limit` records and fewer are written, from the offset that follows; more are too many. How many requests that took.
fn serve<A: Accumulator>(rig: &mut Rig<A>, limit: usize, mut next: i64) -> usize {
    let mut requests = 0;
    for _ in 0..200 {
        rig.pass();
        for request in rig.script.requests() {
            requests += 1;
            rig.script.answer(request, |batch| {
                let (at, records) = (batch.topic_partition().clone(), batch.record_count() as usize);
                if records > limit {
                    return PartitionResponse::refused(at, ErrorCode::MessageTooLarge);
                }
                next += records as i64;
                PartitionResponse::written(at, next - records as i64)
            });
        }
    }
    requests
}

/// Acknowledges until nothing more comes: epoch, base sequence and records of each batch, in the order of their going.
fn sequences<A: Accumulator>(rig: &mut Rig<A>) -> Vec<(i16, i32, u32)> {
    let mut sequences = Vec::new();
    for _ in 0..20 {
        for request in rig.script.requests() {
            let batch = &request.batches[0];
            let state = batch.producer_state();
            sequences.push((state.epoch, state.base_sequence, batch.record_count()));
            rig.script.acknowledge(request);
        }
        rig.pass();
    }
    sequences
}

fn too_large<A: Accumulator>(rig: &mut Rig<A>) {
    let request = rig.send();
    rig.refuse(request, ErrorCode::MessageTooLarge);
}

/// What a record has ended with by now.
#[track_caller]
fn result(future: RecordFuture) -> RecordResult {
    assert!(future.is_done());
    future.wait()
}

fn offsets(futures: Vec<RecordFuture>) -> Vec<i64> {
    futures.into_iter().map(|future| result(future).expect("it was written").offset).collect()
}

fn send_12_each_record_ends_with_its_own_place_and_callbacks_run_once_in_order<A: Accumulator>() {
    for config in [requests(), idempotent()] {
        let mut rig = Rig::<A>::with(memory(), config);
        rig.pass();
        for number in 0..8 {
            let (results, name) = (rig.results.clone(), format!("{number}"));
            rig.push_with(0, &format!("record number {number}"), move |result| results.note(&name, result));
        }
        too_large(&mut rig);
        serve(&mut rig, 4, 100);
        let results = rig.results.take();
        let offset = |result: &RecordResult| result.as_ref().expect("it was written").offset;
        assert_eq!(
            results.iter().map(|(_, result)| offset(result)).collect::<Vec<_>>(),
            (100..108).collect::<Vec<_>>()
        );
        assert_eq!(results.iter().map(|(name, _)| name.as_str()).collect::<String>(), "01234567");
        assert_eq!(rig.stats().completed, 8);
        rig.assert_at_rest();
        assert_eq!(rig.accumulator.off_pool().bytes, 0);
    }
}

fn send_12_a_part_that_is_too_large_is_split_again<A: Accumulator>() {
    for config in [requests(), idempotent()] {
        let mut rig = Rig::<A>::with(memory(), config);
        rig.pass();
        let futures = eight(&mut rig);
        serve(&mut rig, 1, 0);
        assert_eq!(offsets(futures), (0..8).collect::<Vec<_>>());
        rig.assert_at_rest();
    }
}

fn gap_17_a_limit_below_every_record_ends_in_single_records<A: Accumulator>() {
    for config in [requests(), idempotent()] {
        let mut rig = Rig::<A>::with(memory(), config);
        rig.pass();
        let futures = eight(&mut rig);
        let served = serve(&mut rig, 0, 0);
        assert!(served <= 8 + 7, "{served}: each refusal halves what it refuses");
        for future in futures {
            assert_eq!(result(future), refused(0, ErrorCode::MessageTooLarge));
        }
        assert_eq!(rig.stats().failed, 8);
        rig.assert_at_rest();
    }
}

fn batch_25_one_record_is_not_split<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let future = rig.push(0, "a");
    too_large(&mut rig);
    assert_eq!(result(future), refused(0, ErrorCode::MessageTooLarge));
    assert_eq!(rig.stats().splits, 0);
    rig.assert_at_rest();
}

fn acc_36_parts_stand_before_what_came_later_and_are_no_attempt<A: Accumulator>() {
    for config in [requests(), idempotent()] {
        let mut rig = Rig::<A>::with(memory(), config);
        rig.pass();
        let futures = eight(&mut rig);
        too_large(&mut rig);
        let later = rig.push(0, "later");
        let mut sent = Vec::new();
        for _ in 0..20 {
            rig.pass();
            for request in rig.script.requests() {
                sent.extend(values(&request));
                assert_eq!((request.batches[0].attempts(), request.batches[0].in_retry()), (0, false));
                rig.script.acknowledge(request);
            }
        }
        let expected = (0..8).map(|number| format!("record number {number}")).chain(["later".into()]);
        assert_eq!(sent, expected.collect::<Vec<_>>(), "and no backoff passed");
        assert!(futures.into_iter().chain([later]).all(|future| future.is_done()));
        rig.assert_at_rest();
    }
}

fn acc_37_the_memory_of_what_was_split_goes_back_at_once<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let futures = eight(&mut rig);
    too_large(&mut rig);
    assert_whole(&*rig.accumulator);
    assert!(rig.accumulator.has_undrained() && rig.accumulator.has_incomplete());
    assert!(rig.accumulator.off_pool().bytes > 0, "it is counted elsewhere");
    serve(&mut rig, 8, 0);
    assert_eq!(rig.accumulator.off_pool().bytes, 0);
    assert_eq!(futures.len(), 8);
    rig.assert_at_rest();
}

fn batch_23_parts_keep_time_headers_and_codec<A: Accumulator>() {
    use unlatched::batch::Reply;
    use unlatched::record::{Codec, Header, Record, batch_size_upper_bound};

    // Neither rising nor falling.
    let time = |number: i64| 1_000 + 5 * number % 8;
    let compression: Compression = "lz4".parse().unwrap();
    let memory = || AccumulatorConfig { batch_size: 2_048, buffer_memory: 1 << 16, ..memory() };
    for compression in [Compression::NONE, compression] {
        let mut rig = Rig::<A>::with(AccumulatorConfig { compression, ..memory() }, requests());
        rig.advance(3);
        let partition = rig.accumulator.partition(&tp(0));
        let headers = [Header { key: "h", value: Some(b"v") }, Header { key: "n", value: None }];
        let value = [b'z'; 150];
        for number in 0..8i64 {
            let key = [number as u8];
            let record = Record {
                timestamp: time(number),
                key: (number % 2 == 0).then_some(&key),
                value: Some(&value),
                headers: &headers,
            };
            let _ = rig.accumulator.append(&partition, &record, Reply::IGNORE, Duration::ZERO).expect("there is room");
        }
        let request = rig.send();
        let created = request.batches[0].created();
        rig.advance(10);
        rig.refuse(request, ErrorCode::MessageTooLarge);
        let mut number = 0;
        let mut space = Vec::new();
        for _ in 0..10 {
            rig.pass();
            for request in rig.script.requests() {
                let batch = &request.batches[0];
                assert_eq!(batch.created(), created);
                let (read, _) = RecordBatch::parse(batch.as_bytes()).unwrap();
                assert_eq!(read.codec(), if compression.is_none() { Codec::None } else { Codec::Lz4 });
                let first = number;
                let mut largest = 0;
                let decoder = &mut unlatched::record::codec::Decoder::default();
                for record in read.decompress(decoder, 1 << 20, &mut space).unwrap() {
                    let record = record.unwrap();
                    let key = [number as u8];
                    assert_eq!((record.timestamp, record.value), (time(number), Some(&value[..])));
                    assert_eq!(record.key, (number % 2 == 0).then_some(&key[..]));
                    assert!(record.headers.iter().eq(headers));
                    let (timestamp, key, value) = (record.timestamp, record.key, record.value);
                    largest = largest.max(batch_size_upper_bound(&Record { timestamp, key, value, headers: &headers }));
                    number += 1;
                }
                let (latest, header) = ((first..number).map(time).max(), read.header());
                assert_eq!((header.base_timestamp, Some(header.max_timestamp)), (time(first), latest));
                assert_eq!(batch.max_record_size(), largest);
                rig.script.acknowledge(request);
            }
        }
        assert_eq!((number, rig.stats().splits), (8, 1));
        rig.assert_at_rest();
    }
}

fn batch_24_parts_take_the_sequences_of_their_whole<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let futures = eight(&mut rig);
    let request = rig.send();
    assert_eq!(request.batches[0].producer_state().base_sequence, 1);
    let behind = rig.push(0, "behind");
    let behind_request = rig.send();
    rig.refuse(request, ErrorCode::MessageTooLarge);
    rig.refuse(behind_request, ErrorCode::OutOfOrderSequenceNumber);
    rig.advance(100);
    let sequences = sequences(&mut rig);
    let covered: Vec<i32> = sequences.iter().flat_map(|(_, base, records)| *base..*base + *records as i32).collect();
    assert_eq!(covered, (1..10).collect::<Vec<_>>(), "{sequences:?}");
    assert!(sequences.iter().all(|(epoch, ..)| *epoch == 0) && sequences.len() >= 3);
    assert!(futures.into_iter().chain([behind]).all(|future| future.is_done()));
    rig.assert_at_rest();
}

fn batch_24_parts_of_a_batch_that_lost_its_stamp_begin_anew<A: Accumulator>() {
    let mut rig = Rig::<A>::known();
    let doomed = rig.push(0, "doomed");
    let doomed_request = rig.send();
    let futures = eight(&mut rig);
    let request = rig.send();
    rig.refuse(doomed_request, ErrorCode::InvalidTimestamp);
    rig.refuse(request, ErrorCode::MessageTooLarge);
    let sequences = sequences(&mut rig);
    assert!(matches!(sequences[..], [(1, 0, _), _, ..]), "{sequences:?}");
    assert!(sequences.iter().all(|(epoch, ..)| *epoch == 1));
    assert!(futures.into_iter().chain([doomed]).all(|future| future.is_done()));
    rig.assert_at_rest();
}

/// Found by the simulation (seed 110): to a broker that does not know the producer whatever comes first is the first, so the second part would be taken in the first one's place, and show
/// nothing about it.
fn batch_24_parts_behind_one_in_doubt_begin_anew_if_nothing_was_acknowledged<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), SenderConfig { retries: 1, ..idempotent() });
    rig.pass();
    let futures = eight(&mut rig);
    too_large(&mut rig);
    let mut sent = Vec::new();
    for attempt in 0..2 {
        rig.pass();
        let request = rig.script.request();
        sent.push(request.batches[0].producer_state());
        assert_eq!(sent[0], sent[attempt], "the first part alone, twice");
        rig.script.end(request, Outcome::Disconnected);
        rig.pass();
        rig.advance(100);
    }
    let sequences = sequences(&mut rig);
    assert_eq!((sent[0].epoch, sent[0].base_sequence), (0, 0));
    assert!(matches!(sequences[..], [(1, 0, _), ..]), "{sequences:?}");
    assert!(futures.into_iter().all(|future| future.is_done()));
    rig.assert_at_rest();
}

fn gap_16_a_flush_waits_for_all_parts<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let futures = eight(&mut rig);
    too_large(&mut rig);
    let flush = |rig: &Rig<A>| {
        rig.accumulator.begin_flush();
        rig.accumulator.await_flush(Some(Duration::ZERO))
    };
    let mut waited = 0;
    for _ in 0..10 {
        rig.pass();
        for request in rig.script.requests() {
            assert_eq!(flush(&rig), Err(FlushError::TimedOut(Duration::ZERO)));
            waited += 1;
            rig.acknowledge(request);
        }
    }
    assert!(waited >= 2);
    assert_eq!(flush(&rig), Ok(()));
    assert!(futures.into_iter().all(|future| future.is_done()));
    rig.assert_at_rest();
}

fn met_04_a_split_is_counted_once_and_is_no_retry<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let futures = eight(&mut rig);
    too_large(&mut rig);
    serve(&mut rig, 8, 0);
    let stats = rig.stats();
    assert_eq!((stats.splits, stats.retried, stats.failed, stats.completed), (1, 0, 0, 8));
    assert!(futures.into_iter().all(|future| future.is_done()));
}

fn send_08_a_part_expires_and_the_others_do_not<A: Accumulator>() {
    let mut rig = Rig::<A>::new();
    let futures = eight(&mut rig);
    rig.advance(10);
    too_large(&mut rig);
    let first = rig.send();
    let written = first.batches[0].record_count() as usize;
    rig.acknowledge(first);
    let rest = rig.script.requests();
    assert!(futures.iter().all(|future| !future.is_done()), "they complete together");
    rig.advance(990);
    rig.pass();
    assert_eq!(rig.accumulator.left_in_the_books(), [0u64; 0], "nothing is owed, whenever the requests come back");
    let results: Vec<_> = futures.into_iter().map(result).collect();
    assert!(results[..written].iter().all(Result::is_ok) && written < 8);
    assert!(results[written..].iter().all(|result| matches!(result, Err(SendError::DeliveryTimeout { .. }))));
    rest.into_iter().for_each(|request| rig.script.acknowledge(request));
    rig.pass();
    assert_eq!((rig.stats().completed, rig.stats().failed), (written as u64, 8 - written as u64));
    rig.assert_at_rest();
}

fn send_12_what_may_have_been_written_is_not_split<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), idempotent());
    rig.pass();
    let futures = eight(&mut rig);
    let request = rig.send();
    rig.script.end(request, Outcome::Disconnected);
    rig.pass();
    rig.advance(100);
    too_large(&mut rig);
    for future in futures {
        assert_eq!(result(future), refused(0, ErrorCode::MessageTooLarge));
    }
    assert_eq!(rig.stats().splits, 0);
    rig.assert_at_rest();
}

fn send_27_an_abort_ends_the_parts_with_their_whole<A: Accumulator>() {
    let mut rig = Rig::<A>::with(memory(), idempotent());
    rig.pass();
    let futures = eight(&mut rig);
    too_large(&mut rig);
    let in_flight = rig.send();
    let code = ErrorCode::ProducerFenced;
    let other = rig.push(1, "x");
    let request = rig.send();
    rig.refuse(request, code);
    rig.send_nothing();
    for future in futures {
        assert_eq!(result(future), Err(SendError::ProducerFailed { code }));
    }
    assert!(other.is_done());
    rig.acknowledge(in_flight);
    rig.advance(2_000);
    rig.send_nothing();
    assert!(!rig.accumulator.has_undrained() && !rig.accumulator.has_incomplete() && rig.sender.in_flight() == 0);
    assert_whole(&*rig.accumulator);
    assert_eq!(rig.stats().completed, 0, "a late answer counts for nobody");
}
