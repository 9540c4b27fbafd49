//! Batches are right when other people's programs read them: the crate `kafka-protocol`, both ways, on each core. The other programs - Kafka's own Java
//! classes, librdkafka, kafka-python - are asked by `tests/readers/run`, with the same matrix (`matrix.rs`) and the same text (`text.rs`).

mod kafka_protocol;
mod make;
mod matrix;
mod ours;
mod text;

use unlatched::broker::embedded::EmbeddedBroker;
use unlatched::broker::{ErrorCode, NodeId};
use unlatched::error::TopicPartition;
use unlatched::record::{BATCH_OVERHEAD, Codec, assign_offset};

use make::{Core, LockFree, Mutex};
use matrix::{Case, cases};
use text::{Compared, Line, Shown, compare, cut, expected};

/// The lines that `log` should give, if it holds `cases`.
fn expected_of(cases: &[Case], log: &[u8]) -> Vec<Line> {
    let batches = cut(log).expect("whole batches");
    assert_eq!(batches.len(), cases.len());
    let mut offset = 0;
    let mut lines = Vec::new();
    for (case, batch) in cases.iter().zip(batches) {
        lines.extend(expected(case, batch, offset));
        offset += case.rows.len() as i64;
    }
    lines
}

#[track_caller]
fn assert_same(cases: &[Case], log: &[u8], printed: &[Line], shown: Shown) {
    let compared =
        compare(&expected_of(cases, log), printed, shown).unwrap_or_else(|difference| panic!("{difference}"));
    let records: usize = cases.iter().map(|case| case.rows.len()).sum();
    assert_eq!((compared.batches, compared.records), (cases.len(), records));
}

fn log_of<C: Core>(cases: &[Case]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    make::log::<C>(directory.path(), cases)
}

/// The lock-free core `leaves_plain` what a codec would not shorten.
fn others_read_what_a_core_writes<C: Core>(leaves_plain: bool) {
    let cases = cases();
    let log = log_of::<C>(&cases);
    assert_same(&cases, &log, &ours::read(&log).unwrap(), ours::SHOWN);
    let kept: Vec<Case> = cases.iter().map(kafka_protocol::as_kept).collect();
    assert_same(&kept, &log, &kafka_protocol::read(&log).unwrap(), kafka_protocol::SHOWN);
    for (case, batch) in cases.iter().zip(cut(&log).unwrap()) {
        let codec = Codec::from_id(batch[22] & 7);
        let plain = leaves_plain && !case.shrinks() && codec == Some(Codec::None);
        assert!(plain || codec == Some(case.codec()), "{}, {}: {codec:?}", case.name, case.compression);
    }
}

#[test]
fn readers_kafka_protocol_reads_what_the_lock_free_core_writes() {
    others_read_what_a_core_writes::<LockFree>(true);
}

#[test]
fn readers_kafka_protocol_reads_what_the_twin_writes() {
    others_read_what_a_core_writes::<Mutex>(false);
}

#[test]
fn readers_both_cores_write_the_same_bytes_without_a_codec() {
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.codec() == Codec::None).collect();
    for case in &cases {
        assert!(make::batch::<LockFree>(case) == make::batch::<Mutex>(case), "{}: the cores differ", case.name);
    }
}

#[test]
fn readers_what_kafka_protocol_writes_is_read() {
    // Its base timestamp is the least, and so its records' sizes are others.
    let batch: Vec<_> = ours::SHOWN.batch.iter().copied().filter(|name| *name != "base_timestamp").collect();
    let record: Vec<_> = ours::SHOWN.record.iter().copied().filter(|name| *name != "bytes").collect();
    let shown = Shown { batch: batch.leak(), record: record.leak() };
    let cases: Vec<Case> = cases().iter().map(kafka_protocol::as_kept).collect();
    let (mut log, mut offset) = (Vec::new(), 0);
    for case in &cases {
        log.extend(kafka_protocol::write(case, offset).unwrap());
        offset += case.rows.len() as i64;
    }
    let mut read = ours::read(&log).unwrap();
    for line in &mut read {
        line.fields.remove(if line.kind == "batch" { "base_timestamp" } else { "bytes" });
    }
    assert_same(&cases, &log, &read, shown);

    let broker = EmbeddedBroker::builder().open().unwrap();
    broker.create_topic(make::TOPIC, 1).unwrap();
    for (case, batch) in cases.iter().zip(cut(&log).unwrap()) {
        let mut batch = batch.to_vec();
        assign_offset(&mut batch, 0, -1);
        let answer = broker.produce(NodeId(0), &TopicPartition::new(make::TOPIC, 0), &batch);
        assert_eq!(answer.error, ErrorCode::None, "{}, {}: {:?}", case.name, case.compression, answer.message);
    }
}

#[test]
fn readers_kafka_protocol_writes_the_same_bytes_without_a_codec() {
    let mut same = 0;
    for case in cases().iter().filter(|case| case.codec() == Codec::None) {
        let kept = kafka_protocol::as_kept(case);
        let first = case.rows[0].timestamp;
        if kept.rows != case.rows || case.rows.iter().any(|row| row.timestamp < first) {
            continue;
        }
        let mut ours = make::batch::<LockFree>(case);
        assign_offset(&mut ours, 0, 0);
        assert!(ours == kafka_protocol::write(case, 0).unwrap(), "{}", case.name);
        same += 1;
    }
    assert_eq!(same, 13, "all cases but for time that runs back, and two headers of one name");
}

#[test]
fn readers_the_comparison_sees_a_difference_in_every_field() {
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.name == "headers").take(1).collect();
    let log = log_of::<Mutex>(&cases);
    let want = expected_of(&cases, &log);
    let good = ours::read(&log).unwrap();
    let all = Compared { batches: 1, records: 8, fields: ours::SHOWN.batch.len() + 8 * ours::SHOWN.record.len() };
    assert_eq!(compare(&want, &good, ours::SHOWN), Ok(all));
    for line in 0..good.len() {
        for name in good[line].fields.keys() {
            let mut changed = good.clone();
            changed[line].fields.get_mut(name).unwrap().push('0');
            let difference = compare(&want, &changed, ours::SHOWN).unwrap_err();
            assert!(
                difference.contains(&format!("line {}", line + 1)) && difference.contains(name.as_str()),
                "{difference}"
            );
            changed[line].fields.remove(name);
            assert!(compare(&want, &changed, ours::SHOWN).is_err(), "{name} is not missed");
        }
        let mut lost = good.clone();
        lost.remove(line);
        assert!(compare(&want, &lost, ours::SHOWN).is_err(), "a line too few");
        lost.clone_from(&good);
        lost.push(good[line].clone());
        assert!(compare(&want, &lost, ours::SHOWN).is_err(), "a line too many");
    }
    // And one level below: a byte of the log is no other byte.
    let mut log = log;
    log[BATCH_OVERHEAD + 9] ^= 1;
    assert!(ours::read(&log).is_err() && kafka_protocol::read(&log).is_err(), "the checksum is looked at");
}
