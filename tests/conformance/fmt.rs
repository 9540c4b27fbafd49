//! The record batch format, byte for byte: behaviours FMT-01 to FMT-29.

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

tests! {
    fn fmt_01_base_offset_is_eight_bytes_at_0_and_zero_from_a_producer() {
        let mut bytes = encode_batch(&[KEY_VALUE], IDEMPOTENT);
        assert_eq!(bytes[0..8], [0; 8]);
        bytes[0..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let batch = parse(&bytes);
        assert_eq!(batch.header().base_offset, 0x0102_0304_0506_0708);
        assert_eq!(batch.base_offset(), 0x0102_0304_0506_0708);
    }

    fn fmt_01_assign_offset_moves_the_records_and_keeps_the_crc() {
        let mut bytes = encode_batch(&[KEY_VALUE, KEY_VALUE, KEY_VALUE], IDEMPOTENT);
        let before = bytes.clone();
        assign_offset(&mut bytes, 1_000_000_007, 42);
        assert_eq!(bytes[8..12], before[8..12]);
        assert_eq!(bytes[16..], before[16..]);
        let batch = parse(&bytes);
        assert_eq!((batch.base_offset(), batch.last_offset()), (1_000_000_007, 1_000_000_009));
        let offsets: Vec<i64> = read_all(&batch).iter().map(|record| record.offset).collect();
        assert_eq!(offsets, [1_000_000_007, 1_000_000_008, 1_000_000_009]);
    }

    fn fmt_02_batch_length_is_four_bytes_at_8_and_counts_what_is_behind_it() {
        let bytes = encode_batch(&[KEY_VALUE], ProducerState::NONE);
        assert_eq!(bytes[8..12], ((bytes.len() - 12) as i32).to_be_bytes());
        let batch = parse(&bytes);
        assert_eq!(batch.header().batch_length, 64);
        assert_eq!(batch.size(), 76);
        assert_eq!(batch.as_bytes(), bytes);
        assert_eq!(batch.records_bytes(), &bytes[61..]);
    }

    fn fmt_02_peek_len_needs_twelve_bytes_and_nothing_more() {
        let bytes = golden_a();
        for len in 0..12 {
            assert_eq!(RecordBatch::peek_len(&bytes[..len]), Ok(None));
        }
        assert_eq!(RecordBatch::peek_len(&bytes[..12]), Ok(Some(76)));
        assert_eq!(RecordBatch::peek_len(&bytes), Ok(Some(76)));
        let peek = |batch_length: i32| {
            let mut bytes = [0; 12];
            bytes[8..].copy_from_slice(&batch_length.to_be_bytes());
            RecordBatch::peek_len(&bytes)
        };
        assert_eq!(peek(49), Ok(Some(61)));
        assert_eq!(peek(i32::MAX), Ok(Some(i32::MAX as usize + 12)));
        for batch_length in [48, 0, -1, -12, i32::MIN] {
            assert_eq!(peek(batch_length), Err(DecodeError::BatchTooSmall { batch_length }));
        }
    }

    fn fmt_02_batches_lie_one_behind_the_other() {
        let mut log = golden_a();
        log.extend(golden_b());
        log.extend(golden_a());
        let sizes: Vec<usize> = batches(&log).map(|batch| batch.unwrap().size()).collect();
        assert_eq!(sizes, [76, 88, 76]);
        let (first, rest) = RecordBatch::parse(&log).unwrap();
        assert_eq!((first.as_bytes(), rest), (&golden_a()[..], &log[76..]));

        // A tail that is cut off is reported once, after the whole batches.
        let cut = &log[..log.len() - 1];
        let mut walk = batches(cut);
        assert_eq!(walk.next().unwrap().unwrap().as_bytes(), golden_a());
        assert_eq!(walk.next().unwrap().unwrap().as_bytes(), golden_b());
        let error = DecodeError::Truncated { needed: 76, available: 75 };
        assert_eq!(walk.next(), Some(Err(error)));
        assert_eq!(walk.next(), None);
    }

    fn fmt_03_leader_epoch_is_four_bytes_at_12_minus_one_from_a_producer_outside_the_crc() {
        let mut bytes = encode_batch(&[KEY_VALUE], IDEMPOTENT);
        assert_eq!(bytes[12..16], [0xff; 4]);
        assert_eq!(parse(&bytes).header().partition_leader_epoch, -1);
        assign_offset(&mut bytes, 0, 0x0102_0304);
        assert_eq!(bytes[12..16], [1, 2, 3, 4]);
        assert_eq!(parse(&bytes).header().partition_leader_epoch, 0x0102_0304);
    }

    fn fmt_04_magic_is_2_at_16_and_nothing_else_is_read() {
        let mut bytes = encode_batch(&[KEY_VALUE], IDEMPOTENT);
        assert_eq!(bytes[16], 2);
        for magic in [0, 1, 3, -1] {
            bytes[16] = magic as u8;
            assert_eq!(RecordBatch::parse(&bytes), Err(DecodeError::UnsupportedMagic { magic }));
        }
        // Older formats have other lengths: the magic byte is judged first, once it is there.
        bytes[8..12].fill(0);
        assert_eq!(RecordBatch::parse(&bytes[..17]), Err(DecodeError::UnsupportedMagic { magic: -1 }));
        assert_eq!(RecordBatch::parse(&bytes[..16]), Err(DecodeError::BatchTooSmall { batch_length: 0 }));
    }

    fn fmt_05_crc_is_crc32c_from_byte_21_to_the_end() {
        let bytes = encode_batch(&GOLDEN_B_RECORDS, IDEMPOTENT);
        assert_eq!(bytes[17..21], crc32c(&bytes[21..]).to_be_bytes());
        assert_eq!(parse(&bytes).header().crc, crc32c(&bytes[21..]));
    }

    fn fmt_05_crc_covers_each_byte_from_21_on_and_none_before_17() {
        let good = golden_b();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let result = RecordBatch::parse(&bytes);
                match at {
                    0..8 | 12..16 => assert!(result.is_ok(), "byte {at}: {result:?}"),
                    8..12 => assert!(result.is_err(), "byte {at}: {result:?}"),
                    16 => assert_eq!(result, Err(DecodeError::UnsupportedMagic { magic: bytes[16] as i8 })),
                    _ => {
                        let stored = u32::from_be_bytes(bytes[17..21].try_into().unwrap());
                        let computed = crc32c(&bytes[21..]);
                        assert_eq!(result, Err(DecodeError::CrcMismatch { stored, computed }), "byte {at}");
                    }
                }
            }
        }
    }

    fn fmt_06_attributes_are_two_bytes_at_21() {
        let write = |codec, producer| {
            let mut bytes = encode_batch(&[KEY_VALUE], ProducerState::NONE);
            let spec = HeaderSpec { records_count: 1, codec, producer, ..HeaderSpec::default() };
            write_batch_header(&mut bytes, &spec).unwrap();
            assert_eq!(parse(&bytes).codec(), codec);
            [bytes[21], bytes[22]]
        };
        let transactional = ProducerState { transactional: true, ..IDEMPOTENT };
        assert_eq!(write(Codec::None, IDEMPOTENT), [0, 0]);
        assert_eq!(write(Codec::None, transactional), [0, 0x10]);
        assert_eq!(write(Codec::Zstd, ProducerState::NONE), [0, 4]);
        assert_eq!(write(Codec::Lz4, transactional), [0, 0x13]);
    }

    fn fmt_06_each_attribute_bit_has_one_meaning() {
        type Seen = (u8, TimestampType, bool, bool, bool);
        let seen = |bits| -> Seen {
            let bytes = patched(&golden_a(), 21, &u16::to_be_bytes(bits));
            let attributes = parse(&bytes).header().attributes;
            assert_eq!(attributes, Attributes::from_bits(bits));
            assert_eq!(attributes.bits(), bits);
            (
                attributes.codec_id(),
                attributes.timestamp_type(),
                attributes.is_transactional(),
                attributes.is_control(),
                attributes.has_delete_horizon(),
            )
        };
        let create = TimestampType::CreateTime;
        let append = TimestampType::LogAppendTime;
        assert_eq!(seen(0), (0, create, false, false, false));
        assert_eq!(seen(1), (1, create, false, false, false));
        assert_eq!(seen(2), (2, create, false, false, false));
        assert_eq!(seen(4), (4, create, false, false, false));
        assert_eq!(seen(1 << 3), (0, append, false, false, false));
        assert_eq!(seen(1 << 4), (0, create, true, false, false));
        assert_eq!(seen(1 << 5), (0, create, false, true, false));
        assert_eq!(seen(1 << 6), (0, create, false, false, true));
        // Bits without a meaning are kept and ignored.
        assert_eq!(seen(0xff80), (0, create, false, false, false));
        assert_eq!(seen(0xfffc), (4, append, true, true, true));
    }

    fn fmt_06_setting_an_attribute_changes_its_bit_only_and_twice_is_once() {
        for bits in [0, 0xffff, 0x0010, 0x0008, 0xffef, 0xfff7] {
            let attributes = Attributes::from_bits(bits);
            assert_eq!(attributes.with_transactional(true).bits(), bits | 0x10);
            assert_eq!(attributes.with_transactional(false).bits(), bits & !0x10);
            assert_eq!(attributes.with_timestamp_type(TimestampType::LogAppendTime).bits(), bits | 8);
            assert_eq!(attributes.with_timestamp_type(TimestampType::CreateTime).bits(), bits & !8);
        }
    }

    fn fmt_06_a_delete_horizon_is_the_base_timestamp() {
        let plain = golden_b();
        assert_eq!(parse(&plain).delete_horizon(), None);
        let bytes = patched(&plain, 21, &[0, 0x50]);
        assert_eq!(parse(&bytes).delete_horizon(), Some(GOLDEN_B_TIMESTAMP));
    }

    fn fmt_07_last_offset_delta_is_four_bytes_at_23_and_count_less_one() {
        for count in [1, 2, 300] {
            let bytes = encode_batch(&vec![KEY_VALUE; count], IDEMPOTENT);
            assert_eq!(bytes[23..27], (count as i32 - 1).to_be_bytes());
            let batch = parse(&bytes);
            assert_eq!(batch.header().last_offset_delta, count as i32 - 1);
            assert_eq!(batch.last_offset(), count as i64 - 1);
            assert_eq!(batch.last_sequence(), 7 + count as i32 - 1);
        }
        assert_eq!(parse(&golden_a()).last_sequence(), NO_SEQUENCE);
    }

    fn fmt_08_base_timestamp_is_eight_bytes_at_27_and_the_first_records_not_the_smallest() {
        let at = |timestamp| Record { timestamp, ..KEY_VALUE };
        let bytes = encode_batch(&[at(0x0102_0304_0506), at(5), at(0x7fff_ffff_ffff)], IDEMPOTENT);
        assert_eq!(bytes[27..35], [0, 0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(parse(&bytes).header().base_timestamp, 0x0102_0304_0506);
    }

    fn fmt_09_max_timestamp_is_eight_bytes_at_35_and_the_largest() {
        let at = |timestamp| Record { timestamp, ..KEY_VALUE };
        let bytes = encode_batch(&[at(0x0102_0304_0506), at(0x0102_0304_0507), at(5)], IDEMPOTENT);
        assert_eq!(bytes[35..43], [0, 0, 1, 2, 3, 4, 5, 7]);
        assert_eq!(parse(&bytes).header().max_timestamp, 0x0102_0304_0507);
    }

    fn fmt_10_producer_id_is_eight_bytes_at_43_minus_one_without() {
        assert_eq!(encode_batch(&[KEY_VALUE], ProducerState::NONE)[43..51], [0xff; 8]);
        let producer = ProducerState { id: 0x0102_0304_0506_0708, ..IDEMPOTENT };
        let bytes = encode_batch(&[KEY_VALUE], producer);
        assert_eq!(bytes[43..51], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(parse(&bytes).header().producer_id, producer.id);
    }

    fn fmt_11_producer_epoch_is_two_bytes_at_51_minus_one_without() {
        assert_eq!(encode_batch(&[KEY_VALUE], ProducerState::NONE)[51..53], [0xff; 2]);
        let bytes = encode_batch(&[KEY_VALUE], ProducerState { epoch: 0x0102, ..IDEMPOTENT });
        assert_eq!(bytes[51..53], [1, 2]);
        assert_eq!(parse(&bytes).header().producer_epoch, 0x0102);
    }

    fn fmt_12_base_sequence_is_four_bytes_at_53_minus_one_without() {
        let bytes = encode_batch(&[KEY_VALUE], ProducerState::NONE);
        assert_eq!(bytes[53..57], [0xff; 4]);
        assert_eq!(read_all(&parse(&bytes))[0].sequence, NO_SEQUENCE);
        let bytes = encode_batch(&[KEY_VALUE], ProducerState { base_sequence: 0x0102_0304, ..IDEMPOTENT });
        assert_eq!(bytes[53..57], [1, 2, 3, 4]);
        assert_eq!(parse(&bytes).header().base_sequence, 0x0102_0304);
    }

    fn fmt_13_records_count_is_four_bytes_at_57_and_records_follow_at_61() {
        assert_eq!(BATCH_OVERHEAD, 61);
        let records = vec![KEY_VALUE; 300];
        let bytes = encode_batch(&records, IDEMPOTENT);
        assert_eq!(bytes[57..61], [0, 0, 1, 44]);
        assert_eq!(bytes[61..], encode_records(&records));
        assert_eq!(parse(&bytes).header().records_count, 300);
        assert_eq!(read_all(&parse(&bytes)).len(), 300);
    }

    fn fmt_13_header_bytes_and_fields_are_inverse() {
        let bytes: [u8; 61] = std::array::from_fn(|index| (index * 37 + 129) as u8);
        assert_eq!(BatchHeader::from_bytes(&bytes).to_bytes(), bytes);
    }

    fn fmt_13_writing_the_header_again_replaces_it_whole() {
        let mut bytes = encode_batch(&[KEY_VALUE], ProducerState { transactional: true, ..IDEMPOTENT });
        assign_offset(&mut bytes, 99, 9);
        let spec = HeaderSpec { records_count: 1, ..HeaderSpec::default() };
        write_batch_header(&mut bytes, &spec).unwrap();
        assert_eq!(bytes, golden_a());
    }

    fn fmt_14_record_fields_in_order() {
        let headers = [Header { key: "hk", value: Some(b"hv") }];
        let record = Record { timestamp: 0, key: Some(b"key"), value: Some(b"value"), headers: &headers };
        let mut buf = [0xee; 40];
        let written = encode_record(&mut buf, 100, -300, &record);
        let want = [
            &[22 << 1, 0][..],              // body length, attributes
            &[0xd7, 0x04, 0xc8, 0x01],      // timestamp delta -300, offset delta 100
            b"\x06key\x0avalue\x02",        // key, value, one header
            b"\x04hk\x04hv",
        ]
        .concat();
        assert_eq!(buf[..written], want);
        assert!(buf[written..].iter().all(|&byte| byte == 0xee), "bytes behind the record are kept");
        assert_eq!(record_size(100, -300, &record), written);
    }

    fn fmt_14_the_body_length_excludes_itself() {
        // A body of 63 bytes has a length of one byte, a body of 64 one of two.
        for (len, body, total) in [(56, 62, 63), (57, 63, 64), (58, 64, 66), (59, 65, 67)] {
            let value = vec![9; len];
            let record = Record { value: Some(&value), ..Record::default() };
            assert_eq!(body_size(0, 0, record.payload_size()), body);
            assert_eq!(record_size_for_body(body), total);
            assert_eq!(record_size(0, 0, &record), total);
            let mut buf = vec![0; total];
            assert_eq!(encode_record(&mut buf, 0, 0, &record), total);
            assert_eq!(read_varint(&buf).unwrap(), (body as i32, total - body));
        }
    }

    fn fmt_14_a_precomputed_body_size_writes_the_same_bytes() {
        let records = GOLDEN_B_RECORDS;
        for (index, delta) in [(0, 0), (63, 64), (64, -65), (70_000, i64::MIN)] {
            for record in &records {
                let body = body_size(index, delta, record.payload_size());
                let size = record_size_for_body(body);
                let (mut one, mut other) = (vec![0; size], vec![0; size]);
                assert_eq!(encode_record(&mut one, index, delta, record), size);
                assert_eq!(encode_record_sized(&mut other, body, index, delta, record), size);
                assert_eq!(one, other);
            }
        }
    }

    fn fmt_14_the_attribute_byte_is_zero_when_written_and_kept_when_read() {
        let bytes = golden_a();
        assert_eq!(read_all(&parse(&bytes))[0].attributes, 0);
        let bytes = patched(&bytes, 62, &[0x81]);
        assert_eq!(read_all(&parse(&bytes))[0].attributes, 0x81);
    }

    fn fmt_15_headers_keep_order_duplicates_nulls_and_empties() {
        let headers = [
            Header { key: "b", value: Some(b"1") },
            Header { key: "a", value: None },
            Header { key: "b", value: Some(b"2") },
            Header { key: "", value: Some(b"") },
            Header { key: "gr\u{fc}\u{df} \u{1f980}", value: Some(b"\xff\x00") },
        ];
        let bytes = encode_batch(&[Record { headers: &headers, ..KEY_VALUE }], IDEMPOTENT);
        let records = read_all(&parse(&bytes));
        let read = records[0].headers;
        assert_eq!((read.len(), read.is_empty()), (5, false));
        assert_eq!(read.iter().collect::<Vec<_>>(), headers);
        assert_eq!(read.into_iter().count(), 5);
        assert_eq!((&read).into_iter().last(), Some(headers[4]));
        let mut walk = read.iter();
        assert_eq!(walk.len(), 5);
        walk.next();
        assert_eq!(walk.size_hint(), (4, Some(4)));
        assert_eq!(walk.nth(3), Some(headers[4]));
        assert_eq!(walk.next(), None);
        assert_eq!(walk.next(), None);
    }

    fn fmt_15_header_bytes() {
        let headers = [Header { key: "h", value: Some(b"v") }, Header { key: "", value: None }];
        let record = Record { headers: &headers, ..Record::default() };
        let mut buf = [0; 13];
        assert_eq!(encode_record(&mut buf, 0, 0, &record), 13);
        assert_eq!(buf, [12 << 1, 0, 0, 0, 1, 1, 4, 2, b'h', 2, b'v', 0, 1]);
    }

    fn fmt_15_a_null_or_non_utf8_header_key_is_rejected() {
        assert_eq!(
            record_error(&[8 << 1, 0, 0, 0, 1, 1, 2, 1, 1]),
            DecodeError::InvalidLength { field: Field::HeaderKey, position: 68, length: -1 }
        );
        assert_eq!(
            record_error(&[9 << 1, 0, 0, 0, 1, 1, 2, 2, 0xff, 1]),
            DecodeError::InvalidHeaderKey { position: 69 }
        );
    }

    fn fmt_15_no_headers_is_a_count_of_zero() {
        let bytes = golden_a();
        assert_eq!(bytes.last(), Some(&0));
        let records = read_all(&parse(&bytes));
        assert!(records[0].headers.is_empty());
        assert_eq!(records[0].headers.iter().next(), None);
    }

    fn fmt_16_varints_take_at_most_five_bytes_and_varlongs_ten() {
        assert_eq!((MAX_VARINT_LEN, MAX_VARLONG_LEN), (5, 10));
        for value in [i32::MAX, i32::MIN] {
            assert_eq!(varint_len(value), 5);
        }
        for value in [i64::MAX, i64::MIN] {
            assert_eq!(varlong_len(value), 10);
        }
    }

    fn fmt_16_longer_input_is_an_error() {
        let too_long = Err(VarintError::TooLong);
        assert_eq!(read_varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), too_long);
        assert_eq!(read_varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), too_long);
        assert_eq!(read_varint(&[0x80, 0x80, 0x80, 0x80, 0x80]), too_long);
        let mut bytes = [0xff; 11];
        bytes[10] = 0x01;
        assert_eq!(read_varlong(&bytes), Err(VarintError::TooLong));
        bytes = [0x80; 11];
        bytes[10] = 0x00;
        assert_eq!(read_varlong(&bytes), Err(VarintError::TooLong));
    }

    fn fmt_16_bits_that_do_not_fit_are_an_error() {
        assert_eq!(read_varint(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok((i32::MIN, 5)));
        assert_eq!(read_varint(&[0xff, 0xff, 0xff, 0xff, 0x10]), Err(VarintError::TooLong));
        let mut bytes = [0xff; 10];
        bytes[9] = 0x01;
        assert_eq!(read_varlong(&bytes), Ok((i64::MIN, 10)));
        bytes[9] = 0x02;
        assert_eq!(read_varlong(&bytes), Err(VarintError::TooLong));
    }

    fn fmt_16_an_unterminated_varint_is_truncated() {
        for len in 0..5 {
            assert_eq!(read_varint(&[0x80; 5][..len]), Err(VarintError::Truncated));
        }
        for len in 0..10 {
            assert_eq!(read_varlong(&[0x80; 10][..len]), Err(VarintError::Truncated));
        }
    }

    fn fmt_16_padded_encodings_are_read() {
        assert_eq!(read_varint(&[0x80, 0x00]), Ok((0, 2)));
        assert_eq!(read_varint(&[0x81, 0x80, 0x80, 0x80, 0x00]), Ok((-1, 5)));
        assert_eq!(read_varlong(&[0x82, 0x80, 0x80, 0x80, 0x80, 0x00]), Ok((1, 6)));
    }

    fn fmt_16_varint_round_trips() {
        proptest!(|(value: i64, shift in 0..64_u32, tail: u8)| {
            let value = value >> shift;
            let mut buf = [tail; 11];
            let len = write_varlong(&mut buf, value);
            prop_assert_eq!(len, varlong_len(value));
            prop_assert_eq!(buf[len], tail);
            prop_assert_eq!(read_varlong(&buf), Ok((value, len)));
            for cut in 0..len {
                prop_assert_eq!(read_varlong(&buf[..cut]), Err(VarintError::Truncated));
            }
            if let Ok(int) = i32::try_from(value) {
                let mut other = [tail; 11];
                prop_assert_eq!(write_varint(&mut other, int), len);
                prop_assert_eq!(varint_len(int), len);
                prop_assert_eq!(other, buf);
                prop_assert_eq!(read_varint(&buf), Ok((int, len)));
            } else if value.unsigned_abs() > 1 << 32 {
                prop_assert_eq!(read_varint(&buf), Err(VarintError::TooLong));
            }
        });
    }

    fn fmt_17_null_is_01_and_empty_is_00() {
        for (key, value, want) in [
            (None, None, [1, 1]),
            (None, Some(&b""[..]), [1, 0]),
            (Some(&b""[..]), None, [0, 1]),
            (Some(&b""[..]), Some(&b""[..]), [0, 0]),
        ] {
            let bytes = encode_batch(&[Record { key, value, ..Record::default() }], IDEMPOTENT);
            assert_eq!(bytes[61..], [6 << 1, 0, 0, 0, want[0], want[1], 0]);
            let records = read_all(&parse(&bytes));
            assert_eq!((records[0].key, records[0].value), (key, value));
        }
    }

    fn fmt_18_a_record_older_than_the_first_has_a_negative_delta() {
        let at = |timestamp| Record { timestamp, ..Record::default() };
        let bytes = encode_batch(&[at(1_000), at(999), at(0), at(NO_TIMESTAMP), at(5_000)], IDEMPOTENT);
        assert_eq!(bytes[61 + 7..][..7], [6 << 1, 0, 1, 2, 1, 1, 0], "delta -1, offset 1");
        let timestamps: Vec<i64> = read_all(&parse(&bytes)).iter().map(|r| r.timestamp).collect();
        assert_eq!(timestamps, [1_000, 999, 0, NO_TIMESTAMP, 5_000]);
    }

    fn fmt_18_offset_deltas_are_the_index_and_never_negative() {
        let bytes = encode_batch(&vec![Record::default(); 200], IDEMPOTENT);
        let offsets: Vec<i64> = read_all(&parse(&bytes)).iter().map(|r| r.offset).collect();
        assert_eq!(offsets, (0..200).collect::<Vec<_>>());
        let delta = |zigzag| [6 << 1, 0, 0, zigzag, 1, 1, 0];
        assert_eq!(
            record_error(&delta(1)),
            DecodeError::OffsetDeltaOutOfRange { position: 64, delta: -1, least: 0, most: 0 }
        );
        assert_eq!(
            record_error(&delta(2)),
            DecodeError::OffsetDeltaOutOfRange { position: 64, delta: 1, least: 0, most: 0 }
        );
        let twice = parse(&batch_around(&[delta(2), delta(2)].concat(), 2, 5)).validate();
        assert_eq!(
            twice,
            Err(DecodeError::OffsetDeltaOutOfRange { position: 71, delta: 1, least: 2, most: 5 })
        );
    }

    fn fmt_18_gaps_in_the_offsets_are_read() {
        // What compaction leaves: records 1 and 4 of a batch of six.
        let delta = |index: u8| [6 << 1, 0, 0, index << 1, 1, 1, 0];
        let mut bytes = batch_around(&[delta(1), delta(4)].concat(), 2, 5);
        assign_offset(&mut bytes, 10, 0);
        let batch = parse(&bytes);
        assert_eq!(batch.last_offset(), 15);
        let offsets: Vec<i64> = read_all(&batch).iter().map(|r| r.offset).collect();
        assert_eq!(offsets, [11, 14]);
        // And none at all, with the last offset kept.
        let empty = batch_around(&[], 0, 5);
        assert_eq!(parse(&empty).validate(), Ok(()));
        assert_eq!(parse(&empty).records().next(), None);
    }

    fn fmt_18_the_largest_offset_delta_is_read() {
        let record = [&[10 << 1, 0, 0][..], &[0xfe, 0xff, 0xff, 0xff, 0x0f], &[1, 1, 0]].concat();
        let mut bytes = batch_around(&record, 1, i32::MAX);
        assert_eq!(read_all(&parse(&bytes))[0].offset, i64::from(i32::MAX));
        // A base offset near the end of the range wraps and does not panic.
        assign_offset(&mut bytes, i64::MAX, 0);
        let batch = parse(&bytes);
        assert_eq!(batch.last_offset(), i64::MIN + i64::from(i32::MAX) - 1);
        assert_eq!(read_all(&batch)[0].offset, batch.last_offset());
    }

    fn fmt_19_a_timestamp_is_zero_or_more_or_minus_one() {
        let at = |timestamp| validate_record(&Record { timestamp, ..KEY_VALUE });
        for timestamp in [0, 1, NO_TIMESTAMP, i64::MAX] {
            assert_eq!(at(timestamp), Ok(()));
        }
        for timestamp in [-2, i64::MIN] {
            assert_eq!(at(timestamp), Err(RecordError::InvalidTimestamp { timestamp }));
        }
    }

    #[cfg(target_pointer_width = "64")]
    fn fmt_19_lengths_fit_32_bits() {
        // Zeroed memory that is never touched costs no memory.
        let zeros = vec![0_u8; i32::MAX as usize + 1];
        let check = |key: usize, value: usize| {
            let record = Record { key: Some(&zeros[..key]), value: Some(&zeros[..value]), ..Record::default() };
            validate_record(&record)
        };
        // 61 + 21 + two lengths (5 and 1) and the header count.
        let largest = i32::MAX as usize - 61 - 21 - 5 - 1 - 1;
        let bound = i32::MAX as usize + 1;
        assert_eq!(check(largest, 0), Ok(()));
        assert_eq!(check(0, largest), Ok(()));
        assert_eq!(check(largest + 1, 0), Err(RecordError::TooLarge { bound }));
        assert_eq!(check(0, largest + 1), Err(RecordError::TooLarge { bound }));
        assert_eq!(check(1, largest), Err(RecordError::TooLarge { bound }));
        assert!(check(zeros.len(), 0).is_err());

        let name = str::from_utf8(&zeros).unwrap();
        let headers = |header| {
            let headers = [header];
            validate_record(&Record { headers: &headers, ..Record::default() })
        };
        // Null key and value; lengths of the header's key (5) and value (1); the count.
        let largest = i32::MAX as usize - 61 - 21 - 2 - 1 - 5 - 1;
        assert_eq!(headers(Header { key: &name[..largest], value: None }), Ok(()));
        assert_eq!(
            headers(Header { key: &name[..largest + 1], value: None }),
            Err(RecordError::TooLarge { bound })
        );
        assert_eq!(headers(Header { key: "", value: Some(&zeros[..largest]) }), Ok(()));
        assert_eq!(
            headers(Header { key: "", value: Some(&zeros[..largest + 1]) }),
            Err(RecordError::TooLarge { bound })
        );
    }

    fn fmt_20_codec_ids() {
        let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
        for (id, codec) in (0..).zip(codecs) {
            assert_eq!(codec.id(), id);
            assert_eq!(Codec::from_id(id), Some(codec));
            assert_eq!(Attributes::from(codec).codec(), Some(codec));
            let bytes = patched(&golden_a(), 21, &[0, id]);
            assert_eq!(parse(&bytes).codec(), codec);
        }
        for id in 5..8 {
            assert_eq!(Codec::from_id(id), None);
            let bytes = patched(&golden_a(), 21, &[0, id]);
            assert_eq!(RecordBatch::parse(&bytes), Err(DecodeError::UnknownCodec { id }));
        }
    }

    fn fmt_20_records_of_an_unsupported_codec_are_one_typed_error() {
        let bytes = patched(&golden_b(), 21, &[0, 0x14]);
        let batch = parse(&bytes);
        let error = DecodeError::UnsupportedCodec { codec: Codec::Zstd };
        let mut records = batch.records();
        assert_eq!(records.next(), Some(Err(error)));
        assert_eq!(records.next(), None);
        assert_eq!(batch.validate(), Err(error));
    }

    fn fmt_21_create_time_is_each_records_own() {
        let bytes = golden_b();
        assert_eq!(parse(&bytes).header().attributes.timestamp_type(), TimestampType::CreateTime);
        let timestamps: Vec<i64> = read_all(&parse(&bytes)).iter().map(|r| r.timestamp).collect();
        assert_eq!(timestamps, [GOLDEN_B_TIMESTAMP, GOLDEN_B_TIMESTAMP - 3]);
    }

    fn fmt_21_log_append_time_is_the_max_timestamp_for_all_records() {
        let mut bytes = golden_b();
        bytes.extend_from_slice(b"behind");
        set_log_append_time(&mut bytes, 1_600_000_000_000);
        let (batch, rest) = RecordBatch::parse(&bytes).unwrap();
        assert_eq!(rest, b"behind");
        assert_eq!(batch.header().attributes.bits(), 0x18);
        assert_eq!(batch.header().max_timestamp, 1_600_000_000_000);
        assert_eq!(batch.header().base_timestamp, GOLDEN_B_TIMESTAMP);
        let timestamps: Vec<i64> = read_all(&batch).iter().map(|r| r.timestamp).collect();
        assert_eq!(timestamps, [1_600_000_000_000; 2]);
    }

    fn fmt_22_size_below_61_is_rejected() {
        let mut bytes = golden_a();
        for batch_length in [48, 0, -1, i32::MIN] {
            bytes[8..12].copy_from_slice(&batch_length.to_be_bytes());
            assert_eq!(RecordBatch::parse(&bytes), Err(DecodeError::BatchTooSmall { batch_length }));
        }
        // A header alone is a batch, if an empty one.
        assert_eq!(parse(&batch_around(&[], 0, -1)).size(), 61);
    }

    fn fmt_22_a_shorter_length_than_the_crc_saw_is_rejected() {
        let mut bytes = golden_a();
        bytes[8..12].copy_from_slice(&49_i32.to_be_bytes());
        let computed = crc32c(&bytes[21..61]);
        assert_eq!(
            RecordBatch::parse(&bytes),
            Err(DecodeError::CrcMismatch { stored: 0x1c07_7701, computed })
        );
    }

    fn fmt_22_every_truncation_of_a_batch_is_rejected() {
        let bytes = golden_b();
        for available in 0..bytes.len() {
            let needed = if available < 12 { 61 } else { bytes.len() };
            assert_eq!(
                RecordBatch::parse(&bytes[..available]),
                Err(DecodeError::Truncated { needed, available })
            );
        }
    }

    fn fmt_22_negative_counts_are_rejected() {
        for count in [-1, i32::MIN] {
            let bytes = patched(&golden_a(), 57, &count.to_be_bytes());
            assert_eq!(RecordBatch::parse(&bytes), Err(DecodeError::NegativeRecordsCount { count }));
        }
        assert_eq!(
            record_error(&[6 << 1, 0, 0, 0, 1, 1, 1]),
            DecodeError::InvalidHeaderCount { position: 67, count: -1, available: 0 }
        );
    }

    fn fmt_22_a_header_count_above_what_the_bytes_can_hold_is_rejected() {
        // Two headers of two bytes fit four bytes; three do not.
        let good = [10 << 1, 0, 0, 0, 1, 1, 4, 0, 1, 0, 1];
        assert_eq!(parse(&batch_around(&good, 1, 0)).validate(), Ok(()));
        let mut bad = good;
        bad[6] = 6;
        assert_eq!(
            record_error(&bad),
            DecodeError::InvalidHeaderCount { position: 67, count: 3, available: 4 }
        );
        let huge = [&[10 << 1, 0, 0, 0, 1, 1][..], &[0xfe, 0xff, 0xff, 0xff, 0x0f]].concat();
        assert_eq!(
            record_error(&huge),
            DecodeError::InvalidHeaderCount { position: 67, count: i32::MAX, available: 0 }
        );
    }

    fn fmt_22_bytes_left_in_a_body_are_rejected() {
        assert_eq!(
            record_error(&[8 << 1, 0, 0, 0, 1, 1, 0, 7, 7]),
            DecodeError::BodyLengthMismatch { position: 62, declared: 8, consumed: 6 }
        );
    }

    fn fmt_22_fields_that_leave_their_body_are_rejected() {
        let too_long = |field, position, needed, available| DecodeError::FieldTooLong {
            field,
            position,
            needed,
            available,
        };
        // A body cut short anywhere; the bytes behind it must not be read as its own.
        for (body, field, position) in [
            (0, Field::Attributes, 62),
            (1, Field::TimestampDelta, 63),
            (2, Field::OffsetDelta, 64),
            (3, Field::Key, 65),
            (4, Field::Key, 66),
            (5, Field::Value, 67),
            (6, Field::Value, 68),
            (7, Field::HeaderCount, 69),
            (10, Field::HeaderValue, 72),
        ] {
            let record = [body << 1, 0, 0, 0, 2, b'k', 2, b'v', 2, 2, b'h', 0];
            assert_eq!(record_error(&record), too_long(field, position, 1, 0), "body of {body}");
        }
        // A header key longer than what is left.
        assert_eq!(
            record_error(&[8 << 1, 0, 0, 0, 1, 1, 2, 4, b'h']),
            too_long(Field::HeaderKey, 69, 2, 1)
        );
        // A header value longer than what is left.
        assert_eq!(
            record_error(&[8 << 1, 0, 0, 0, 1, 1, 2, 0, 2]),
            too_long(Field::HeaderValue, 70, 1, 0)
        );
        assert_eq!(record_error(&[6 << 1, 0, 0, 0, 41 << 1, 1, 0]), too_long(Field::Key, 66, 41, 2));
    }

    fn fmt_22_a_body_that_leaves_the_batch_is_rejected() {
        assert_eq!(
            record_error(&[7 << 1, 0, 0, 0, 1, 1, 0]),
            DecodeError::FieldTooLong { field: Field::Body, position: 62, needed: 7, available: 6 }
        );
        let huge = [0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0];
        assert_eq!(
            record_error(&huge),
            DecodeError::FieldTooLong {
                field: Field::Body,
                position: 66,
                needed: i32::MAX as usize,
                available: 2
            }
        );
    }

    fn fmt_22_lengths_below_null_are_rejected() {
        let invalid = |field, position, length| DecodeError::InvalidLength { field, position, length };
        assert_eq!(record_error(&[1]), invalid(Field::Body, 61, -1));
        assert_eq!(record_error(&[3]), invalid(Field::Body, 61, -2));
        assert_eq!(record_error(&[6 << 1, 0, 0, 0, 3, 1, 0]), invalid(Field::Key, 65, -2));
        assert_eq!(record_error(&[6 << 1, 0, 0, 0, 1, 5, 0]), invalid(Field::Value, 66, -3));
        assert_eq!(record_error(&[8 << 1, 0, 0, 0, 1, 1, 2, 3, 1]), invalid(Field::HeaderKey, 68, -2));
        assert_eq!(record_error(&[8 << 1, 0, 0, 0, 1, 1, 2, 0, 3]), invalid(Field::HeaderValue, 69, -2));
    }

    fn fmt_22_unterminated_varints_are_rejected() {
        let overlong = [0x80; 5];
        assert_eq!(
            record_error(&overlong),
            DecodeError::InvalidVarint { field: Field::Body, position: 61 }
        );
        assert_eq!(
            record_error(&overlong[..4]),
            DecodeError::FieldTooLong { field: Field::Body, position: 61, needed: 5, available: 4 }
        );
        let varlong = [&[14 << 1, 0][..], &[0xff; 10], &[0, 1, 1, 0]].concat();
        assert_eq!(
            record_error(&varlong),
            DecodeError::InvalidVarint { field: Field::TimestampDelta, position: 63 }
        );
    }

    fn fmt_22_fewer_or_more_records_than_the_count_are_rejected() {
        let records = [Record::default(); 3];
        let good = encode_batch(&records, IDEMPOTENT);
        let walk = |count: i32| {
            let bytes = patched(&good, 57, &count.to_be_bytes());
            let batch = parse(&bytes);
            let seen = batch.records().filter(Result::is_ok).count();
            (seen, batch.validate())
        };
        assert_eq!(walk(3), (3, Ok(())));
        assert_eq!(walk(4), (3, Err(DecodeError::MissingRecords { declared: 4, found: 3 })));
        assert_eq!(walk(i32::MAX), (3, Err(DecodeError::MissingRecords { declared: i32::MAX, found: 3 })));
        assert_eq!(walk(2), (2, Err(DecodeError::ExcessBytes { declared: 2, position: 75, extra: 7 })));
        assert_eq!(walk(0), (0, Err(DecodeError::ExcessBytes { declared: 0, position: 61, extra: 21 })));
    }

    fn fmt_22_the_walk_ends_after_an_error() {
        let bytes = batch_around(&[[6 << 1, 0, 0, 0, 1, 1, 0], [5 << 1, 0, 0, 2, 1, 1, 0]].concat(), 2, 1);
        let mut records = parse(&bytes).records();
        assert!(matches!(records.next(), Some(Ok(_))));
        assert!(matches!(records.next(), Some(Err(DecodeError::FieldTooLong { .. }))));
        assert_eq!(records.next(), None);
        assert_eq!(records.next(), None);
    }

    fn fmt_22_errors_say_where_and_what() {
        let text = |error: DecodeError| error.to_string();
        assert_eq!(
            text(DecodeError::BatchTooSmall { batch_length: 48 }),
            "batch length 48 is too small: a header alone has 49"
        );
        assert_eq!(
            text(DecodeError::CrcMismatch { stored: 1, computed: 0xe306_9283 }),
            "corrupt batch: CRC is 00000001 in the header, e3069283 by the bytes"
        );
        let fields = [
            (Field::Body, "record body"),
            (Field::Attributes, "record attributes"),
            (Field::TimestampDelta, "timestamp delta"),
            (Field::OffsetDelta, "offset delta"),
            (Field::Key, "key"),
            (Field::Value, "value"),
            (Field::HeaderCount, "header count"),
            (Field::HeaderKey, "header key"),
            (Field::HeaderValue, "header value"),
        ];
        for (field, name) in fields {
            assert_eq!(
                text(DecodeError::FieldTooLong { field, position: 66, needed: 9, available: 2 }),
                format!("{name} at byte 66 needs 9 bytes, 2 are left")
            );
        }
    }

    fn fmt_22_random_bytes_are_a_typed_error() {
        proptest!(|(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), magic: bool)| {
            if magic && bytes.len() > 16 {
                bytes[16] = 2;
            }
            prop_assert!(RecordBatch::parse(&bytes).is_err());
            prop_assert_eq!(batches(&bytes).count(), usize::from(!bytes.is_empty()));
        });
    }

    fn fmt_22_random_records_behind_a_good_header_never_panic() {
        // Small numbers make plausible lengths, so that the walk gets deep.
        let byte = prop_oneof![3 => 0_u8..32, 1 => any::<u8>()];
        let config = ProptestConfig::with_cases(2_000);
        let tail = proptest::collection::vec(byte, 0..60);
        proptest!(config, |(tail in tail, count in 0..4_i32, last in -1..6_i32)| {
            let bytes = batch_around(&tail, count, last);
            let batch = parse(&bytes);
            if batch.validate().is_ok() {
                let sizes: usize = read_all(&batch).iter().map(|record| record.size).sum();
                prop_assert_eq!(sizes, tail.len());
            }
        });
    }

    fn fmt_22_single_byte_damage_and_truncation_are_typed_errors() {
        proptest!(|(
            owned in owned_records(),
            producer in producer(),
            at in any::<prop::sample::Index>(),
            flip in 1..=u8::MAX,
        )| {
            let good = with_records(&owned, |records| encode_batch(records, producer));
            let at = at.index(good.len());
            let mut bad = good.clone();
            bad[at] ^= flip;
            let result = RecordBatch::parse(&bad);
            match at {
                0..8 | 12..16 => prop_assert!(result.is_ok()),
                8..12 | 16 => prop_assert!(result.is_err()),
                _ => prop_assert!(matches!(result, Err(DecodeError::CrcMismatch { .. })), "{:?}", result),
            }
            prop_assert!(
                matches!(RecordBatch::parse(&good[..at]), Err(DecodeError::Truncated { .. })),
                "cut at {}", at
            );
            if at >= 21 {
                // The checksum no longer helps. The walk must still end in an answer.
                repair_crc(&mut bad);
                if let Ok((batch, _)) = RecordBatch::parse(&bad) {
                    let walked = batch.records().count();
                    match batch.validate() {
                        Ok(()) => prop_assert_eq!(walked, batch.header().records_count as usize),
                        Err(_) => prop_assert!(walked >= 1),
                    }
                }
            }
        });
    }

    fn fmt_22_every_one_byte_change_of_a_golden_batch_gets_an_answer() {
        let good = golden_b();
        let mut errors = 0;
        for at in 21..good.len() {
            for flip in 1..=u8::MAX {
                let bytes = patched(&good, at, &[good[at] ^ flip]);
                errors += match RecordBatch::parse(&bytes) {
                    Ok((batch, _)) => u32::from(batch.validate().is_err()),
                    Err(_) => 1,
                };
            }
        }
        // Keys, values, timestamps and producer fields may have any content, structure may not.
        assert!((3_000..12_000).contains(&errors), "{errors}");
    }

    fn fmt_23_sequences_wrap_to_zero_within_a_batch() {
        let producer = ProducerState { base_sequence: i32::MAX - 1, ..IDEMPOTENT };
        let bytes = encode_batch(&[KEY_VALUE; 4], producer);
        let batch = parse(&bytes);
        let sequences: Vec<i32> = read_all(&batch).iter().map(|r| r.sequence).collect();
        assert_eq!(sequences, [i32::MAX - 1, i32::MAX, 0, 1]);
        assert_eq!(batch.last_sequence(), 1);
    }

    fn fmt_23_a_base_sequence_of_zero_counts_up() {
        let bytes = encode_batch(&[KEY_VALUE; 3], ProducerState { base_sequence: 0, ..IDEMPOTENT });
        let sequences: Vec<i32> = read_all(&parse(&bytes)).iter().map(|r| r.sequence).collect();
        assert_eq!(sequences, [0, 1, 2]);
    }

    fn fmt_23_increment_and_decrement() {
        for (from, count, to) in [
            (0, 0, 0),
            (0, 5, 5),
            (i32::MAX, 0, i32::MAX),
            (i32::MAX, 1, 0),
            (i32::MAX, 2, 1),
            (i32::MAX - 5, 10, 4),
            (i32::MAX, i32::MAX as u32, i32::MAX - 1),
            (0, i32::MAX as u32, i32::MAX),
        ] {
            assert_eq!(increment_sequence(from, count), to, "{from} + {count}");
            assert_eq!(decrement_sequence(to, count), from, "{to} - {count}");
        }
        proptest!(|(sequence in 0..=i32::MAX, count in 0..=i32::MAX as u32)| {
            let wide = (i64::from(sequence) + i64::from(count)) % (1 << 31);
            let next = increment_sequence(sequence, count);
            prop_assert_eq!(i64::from(next), wide);
            prop_assert_eq!(decrement_sequence(next, count), sequence);
        });
    }

    fn fmt_24_producer_state_is_validated() {
        let check = |id, epoch, base_sequence, transactional| {
            ProducerState { id, epoch, base_sequence, transactional }.validate()
        };
        assert_eq!(ProducerState::NONE.validate(), Ok(()));
        assert_eq!(ProducerState::default(), ProducerState::NONE);
        assert_eq!(check(0, 0, 0, false), Ok(()));
        assert_eq!(check(0, 0, 0, true), Ok(()));
        assert_eq!(check(i64::MAX, i16::MAX, i32::MAX, true), Ok(()));
        // Without an id nothing else is looked at, except that a transaction needs one.
        assert_eq!(check(-1, 3, 5, false), Ok(()));
        assert_eq!(check(-1, -1, -1, true), Err(ProducerStateError::TransactionalWithoutId));
        assert_eq!(check(-2, 0, 0, false), Err(ProducerStateError::InvalidId { id: -2 }));
        assert_eq!(check(9, -1, 0, false), Err(ProducerStateError::InvalidEpoch { id: 9, epoch: -1 }));
        assert_eq!(
            check(9, 0, -1, true),
            Err(ProducerStateError::InvalidBaseSequence { id: 9, base_sequence: -1 })
        );
    }

    fn fmt_24_an_invalid_producer_state_writes_nothing() {
        let mut bytes = golden_a();
        let producer = ProducerState { transactional: true, ..ProducerState::NONE };
        let spec = HeaderSpec { records_count: 1, producer, base_timestamp: 7, ..HeaderSpec::default() };
        assert_eq!(
            write_batch_header(&mut bytes, &spec),
            Err(ProducerStateError::TransactionalWithoutId)
        );
        assert_eq!(bytes, golden_a());
    }

    fn fmt_25_a_control_batch_is_recognised_and_read_and_never_written() {
        assert!(!parse(&golden_a()).header().attributes.is_control());
        let bytes = patched(&golden_b(), 21, &[0, 0x30]);
        let batch = parse(&bytes);
        assert!(batch.header().attributes.is_control());
        assert!(batch.header().attributes.is_transactional());
        assert_eq!(read_all(&batch).len(), 2);
        // Whatever a producer may stamp, the bit stays clear.
        proptest!(|(producer in producer(), id in 0..5_u8)| {
            let mut bytes = golden_a();
            let codec = Codec::from_id(id).unwrap();
            let spec = HeaderSpec { records_count: 1, producer, codec, ..HeaderSpec::default() };
            write_batch_header(&mut bytes, &spec).unwrap();
            prop_assert_eq!(bytes[21..23].to_vec(), [0, id | u8::from(producer.transactional) << 4]);
        });
    }

    fn fmt_26_upper_bounds() {
        assert_eq!(MAX_RECORD_OVERHEAD, 21);
        assert_eq!(KEY_VALUE.payload_size(), 11);
        assert_eq!(KEY_VALUE.body_upper_bound(), 27);
        assert_eq!(KEY_VALUE.size_upper_bound(), 32);
        assert_eq!(batch_size_upper_bound(&KEY_VALUE), 93);
        assert_eq!(record_size(0, 0, &KEY_VALUE), 15);
        assert_eq!(encode_batch(&[KEY_VALUE], ProducerState::NONE).len(), 76);
        // Null parts take one byte; headers count with their lengths.
        assert_eq!(batch_size_upper_bound(&Record::default()), 61 + 21 + 3);
        let value = [0; 64];
        let headers = [Header { key: "ab", value: Some(&value) }, Header { key: "", value: None }];
        let record = Record { value: Some(&value), headers: &headers, ..Record::default() };
        assert_eq!(batch_size_upper_bound(&record), 61 + 21 + 1 + 66 + 1 + (3 + 66) + 2);
    }

    fn fmt_26_bounds_hold_wherever_a_record_lands() {
        proptest!(|(owned in owned_record(), index in 0..=i32::MAX as u32, delta: i64)| {
            with_records(&[owned], |records| {
                let record = &records[0];
                let size = record_size(index, delta, record);
                let body = body_size(index, delta, record.payload_size());
                prop_assert!(body <= record.body_upper_bound());
                prop_assert!(size <= record.size_upper_bound());
                prop_assert_eq!(record.size_upper_bound() + 61, batch_size_upper_bound(record));
                let mut buf = vec![0; size];
                prop_assert_eq!(encode_record(&mut buf, index, delta, record), size);
                Ok(())
            })?;
        });
        // The overhead is reached exactly: five length bytes, ten for time, five for the index.
        let record = Record::default();
        let body = body_size(i32::MAX as u32, i64::MIN, record.payload_size());
        assert_eq!(body, record.body_upper_bound());
        assert_eq!(record_size_for_body(i32::MAX as usize), i32::MAX as usize + 5);
    }

    fn fmt_27_golden_a_both_ways() {
        let bytes = encode_batch(&[KEY_VALUE], ProducerState::NONE);
        assert_eq!(bytes, golden_a());
        let golden = golden_a();
        let batch = parse(&golden);
        assert_eq!(batch.header(), &BatchHeader {
            base_offset: 0,
            batch_length: 64,
            partition_leader_epoch: -1,
            magic: 2,
            crc: 0x1c07_7701,
            attributes: Attributes::default(),
            last_offset_delta: 0,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            records_count: 1,
        });
        let records = read_all(&batch);
        assert_eq!(records.len(), 1);
        let DecodedRecord { offset, timestamp, sequence, attributes, key, value, headers, size } = records[0];
        assert_eq!((offset, timestamp, sequence, attributes, size), (0, 0, NO_SEQUENCE, 0, 15));
        assert_eq!((key, value, headers.len()), (Some(&b"key"[..]), Some(&b"value"[..]), 0));
    }

    fn fmt_28_golden_b_both_ways() {
        let producer = ProducerState { transactional: true, ..IDEMPOTENT };
        let bytes = encode_batch(&GOLDEN_B_RECORDS, producer);
        assert_eq!(bytes, golden_b());
        let golden = golden_b();
        let batch = parse(&golden);
        assert_eq!(batch.header(), &BatchHeader {
            base_offset: 0,
            batch_length: 76,
            partition_leader_epoch: -1,
            magic: 2,
            crc: 0x9e03_7c38,
            attributes: Attributes::from_bits(0x10),
            last_offset_delta: 1,
            base_timestamp: GOLDEN_B_TIMESTAMP,
            max_timestamp: GOLDEN_B_TIMESTAMP,
            producer_id: 12345,
            producer_epoch: 5,
            base_sequence: 7,
            records_count: 2,
        });
        let records = read_all(&batch);
        assert_eq!(records.iter().map(|r| (r.offset, r.sequence, r.size)).collect::<Vec<_>>(), [(0, 7, 19), (1, 8, 8)]);
        for (read, sent) in records.iter().zip(&GOLDEN_B_RECORDS) {
            assert_eq!((read.timestamp, read.key, read.value), (sent.timestamp, sent.key, sent.value));
            assert_eq!(read.headers.iter().collect::<Vec<_>>(), sent.headers);
        }
    }

    fn fmt_29_vectors() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        for (value, want) in [
            (0, "00"),
            (-1, "01"),
            (1, "02"),
            (63, "7e"),
            (-64, "7f"),
            (64, "8001"),
            (-65, "8101"),
            (8191, "fe7f"),
            (8192, "808001"),
            (i32::MAX, "feffffff0f"),
            (i32::MIN, "ffffffff0f"),
        ] {
            let want = hex(want);
            let mut buf = [0; 5];
            let len = write_varint(&mut buf, value);
            assert_eq!(buf[..len], want, "{value}");
            assert_eq!(varint_len(value), len, "{value}");
            assert_eq!(read_varint(&want), Ok((value, len)));
            let mut buf = [0; 10];
            let len = write_varlong(&mut buf, i64::from(value));
            assert_eq!(buf[..len], want, "{value}");
            assert_eq!(read_varlong(&want), Ok((i64::from(value), len)));
        }
        for (value, want) in [(i64::MAX, "feffffffffffffffff01"), (i64::MIN, "ffffffffffffffffff01")] {
            let want = hex(want);
            let mut buf = [0; 10];
            assert_eq!(write_varlong(&mut buf, value), 10);
            assert_eq!(buf[..], want);
            assert_eq!(read_varlong(&want), Ok((value, 10)));
        }
    }

    fn fmt_14_arbitrary_batches_round_trip() {
        proptest!(|(owned in owned_records(), producer in producer(), base_offset in 0..i64::MAX >> 1)| {
            with_records(&owned, |records| {
                let mut bytes = encode_batch(records, producer);
                assign_offset(&mut bytes, base_offset, 3);
                let batch = parse(&bytes);
                prop_assert_eq!(batch.validate(), Ok(()));
                prop_assert_eq!(batch.header().to_bytes().to_vec(), &bytes[..61]);
                let read = read_all(&batch);
                prop_assert_eq!(read.len(), records.len());
                for (index, (read, sent)) in read.iter().zip(records).enumerate() {
                    prop_assert_eq!(read.offset, base_offset + index as i64);
                    prop_assert_eq!(read.timestamp, sent.timestamp);
                    let sequence = if producer.id < 0 {
                        NO_SEQUENCE
                    } else {
                        increment_sequence(producer.base_sequence, index as u32)
                    };
                    prop_assert_eq!(read.sequence, sequence);
                    prop_assert_eq!(read.key, sent.key);
                    prop_assert_eq!(read.value, sent.value);
                    prop_assert_eq!(&read.headers.iter().collect::<Vec<_>>(), sent.headers);
                    let delta = sent.timestamp.wrapping_sub(records[0].timestamp);
                    prop_assert_eq!(read.size, record_size(index as u32, delta, sent));
                }
                // What was read encodes to the same bytes.
                let headers: Vec<Vec<Header<'_>>> = read.iter().map(|r| r.headers.iter().collect()).collect();
                let again: Vec<Record<'_>> = read
                    .iter()
                    .zip(&headers)
                    .map(|(r, headers)| Record { timestamp: r.timestamp, key: r.key, value: r.value, headers })
                    .collect();
                prop_assert_eq!(encode_records(&again), batch.records_bytes());
                Ok(())
            })?;
        });
    }
}
