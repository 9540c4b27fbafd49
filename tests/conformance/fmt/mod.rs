//! The record batch format, byte for byte: behaviours FMT-01 to FMT-29.

mod codecs;
mod header;
mod malformed;
mod records;

use proptest::prelude::*;
use unlatched::record::varint::{
    MAX_VARINT_LEN, MAX_VARLONG_LEN, VarintError, read_varint, read_varlong, varint_len, varlong_len, write_varint,
    write_varlong,
};
use unlatched::record::{
    Attributes, BATCH_OVERHEAD, BatchHeader, Codec, DecodeError, DecodedRecord, Field, Header, HeaderSpec,
    MAX_RECORD_OVERHEAD, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, ProducerState,
    ProducerStateError, Record, RecordBatch, RecordError, TimestampType, assign_offset, batch_size_upper_bound,
    batches, body_size, crc32c, decrement_sequence, encode_record, encode_record_sized, increment_sequence,
    record_size, record_size_for_body, set_log_append_time, validate_record, write_batch_header,
};

/// Makes tests of functions, and a list of their names.
macro_rules! tests {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)*) => {
        /// The names of the tests in this file.
        pub(crate) const TESTS: &[&str] = &[$(stringify!($name)),*];
        $($(#[$meta])* #[test] fn $name() $body)*
    };
}
use tests;

pub(crate) use codecs::TESTS as CODECS;
pub(crate) use header::TESTS as HEADER;
pub(crate) use malformed::TESTS as MALFORMED;
pub(crate) use records::TESTS as RECORDS;

const IDEMPOTENT: ProducerState = ProducerState { id: 12345, epoch: 5, base_sequence: 7, transactional: false };

/// Encodes `records` the way a batch does: deltas against the first, index as offset delta.
fn encode_records(records: &[Record<'_>]) -> Vec<u8> {
    let base = records[0].timestamp;
    let mut out = Vec::new();
    for (index, record) in (0..).zip(records) {
        let delta = record.timestamp.wrapping_sub(base);
        let at = out.len();
        out.resize(at + record_size(index, delta, record), 0);
        let written = encode_record(&mut out[at..], index, delta, record);
        assert_eq!(at + written, out.len());
    }
    out
}

/// A whole batch of `records`.
fn encode_batch(records: &[Record<'_>], producer: ProducerState) -> Vec<u8> {
    let mut batch = vec![0; BATCH_OVERHEAD];
    batch.extend(encode_records(records));
    let spec = HeaderSpec {
        base_timestamp: records[0].timestamp,
        max_timestamp: records.iter().map(|record| record.timestamp).max().unwrap(),
        records_count: records.len() as u32,
        producer,
        codec: Codec::None,
    };
    write_batch_header(&mut batch, &spec).unwrap();
    batch
}

/// A batch with a good CRC around arbitrary bytes.
fn batch_around(records: &[u8], records_count: i32, last_offset_delta: i32) -> Vec<u8> {
    let header = BatchHeader {
        base_offset: 0,
        batch_length: (BATCH_OVERHEAD - 12 + records.len()) as i32,
        partition_leader_epoch: -1,
        magic: 2,
        crc: 0,
        attributes: Attributes::default(),
        last_offset_delta,
        base_timestamp: 0,
        max_timestamp: 0,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        base_sequence: NO_SEQUENCE,
        records_count,
    };
    let mut batch = header.to_bytes().to_vec();
    batch.extend_from_slice(records);
    repair_crc(&mut batch);
    batch
}

fn repair_crc(batch: &mut [u8]) {
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Sets bytes behind the CRC and repairs it.
fn patched(batch: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    repair_crc(&mut batch);
    batch
}

fn parse(bytes: &[u8]) -> RecordBatch<'_> {
    let (batch, rest) = RecordBatch::parse(bytes).unwrap();
    assert!(rest.is_empty());
    batch
}

fn read_all<'a>(batch: &RecordBatch<'a>) -> Vec<DecodedRecord<'a>> {
    batch.records().collect::<Result<_, _>>().unwrap()
}

/// The error of walking a batch with one record of these bytes.
fn record_error(record: &[u8]) -> DecodeError {
    parse(&batch_around(record, 1, 0)).validate().unwrap_err()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

const KEY_VALUE: Record<'static> = Record { timestamp: 0, key: Some(b"key"), value: Some(b"value"), headers: &[] };

/// FMT-27.
fn golden_a() -> Vec<u8> {
    hex("0000000000000000 00000040 ffffffff 02 1c077701 0000 00000000 0000000000000000
         0000000000000000 ffffffffffffffff ffff ffffffff 00000001 1c000000066b65790a76616c756500")
}

/// FMT-28.
fn golden_b() -> Vec<u8> {
    hex("0000000000000000 0000004c ffffffff 02 9e037c38 0010 00000001 0000015aa050fe25
         0000015aa050fe25 0000000000003039 0005 00000007 00000002
         24000000010a68656c6c6f0402680276026e01 0e000502026b0100")
}

const GOLDEN_B_TIMESTAMP: i64 = 1_488_748_346_917;

const GOLDEN_B_RECORDS: [Record<'static>; 2] = [
    Record {
        timestamp: GOLDEN_B_TIMESTAMP,
        key: None,
        value: Some(b"hello"),
        headers: &[Header { key: "h", value: Some(b"v") }, Header { key: "n", value: None }],
    },
    Record { timestamp: GOLDEN_B_TIMESTAMP - 3, key: Some(b"k"), value: None, headers: &[] },
];

/// An owned record, for generated input.
#[derive(Clone, Debug)]
struct Owned {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Owned {
    fn headers(&self) -> Vec<Header<'_>> {
        let header = |(key, value): &'_ (String, Option<Vec<u8>>)| (key.as_str().len(), value.is_some());
        let _ = header;
        self.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect()
    }
}

/// Calls `body` with `owned` as borrowed records.
fn with_records<T>(owned: &[Owned], body: impl FnOnce(&[Record<'_>]) -> T) -> T {
    let headers: Vec<Vec<Header<'_>>> = owned.iter().map(Owned::headers).collect();
    let records: Vec<Record<'_>> = owned
        .iter()
        .zip(&headers)
        .map(|(owned, headers)| Record {
            timestamp: owned.timestamp,
            key: owned.key.as_deref(),
            value: owned.value.as_deref(),
            headers,
        })
        .collect();
    body(&records)
}

fn bytes(up_to: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..up_to))
}

fn timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(NO_TIMESTAMP),
        Just(0),
        Just(i64::MAX),
        GOLDEN_B_TIMESTAMP..GOLDEN_B_TIMESTAMP + 20_000,
        0..=i64::MAX,
    ]
}

fn owned_record() -> impl Strategy<Value = Owned> {
    let headers = proptest::collection::vec((".{0,12}", bytes(80)), 0..4);
    (timestamp(), bytes(200), bytes(20_000).prop_map(shorten), headers)
        .prop_map(|(timestamp, key, value, headers)| Owned { timestamp, key, value, headers })
}

/// Keeps most values small and a few large enough for three-byte lengths.
fn shorten(value: Option<Vec<u8>>) -> Option<Vec<u8>> {
    value.map(|mut value| {
        if value.first().is_some_and(|byte| byte % 8 != 0) {
            value.truncate(value.len() % 150);
        }
        value
    })
}

fn owned_records() -> impl Strategy<Value = Vec<Owned>> {
    prop_oneof![
        9 => proptest::collection::vec(owned_record(), 1..8),
        // Enough records for offset deltas of two bytes.
        1 => owned_record().prop_map(|mut record| {
            record.value = None;
            vec![record; 80]
        }),
    ]
}

fn producer() -> impl Strategy<Value = ProducerState> {
    prop_oneof![
        Just(ProducerState::NONE),
        (0..=i64::MAX, 0..=i16::MAX, 0..=i32::MAX, any::<bool>()).prop_map(
            |(id, epoch, base_sequence, transactional)| ProducerState { id, epoch, base_sequence, transactional }
        ),
    ]
}
