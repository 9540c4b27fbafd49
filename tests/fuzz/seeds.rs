//! Where a fuzzer begins: batches of the shipping encoder, and bytes that lie.
//!
//! They are made anew for each run; nothing is committed.

use unlatched::record::codec::{Compression, Encoder};
use unlatched::record::varint::{write_varint, write_varlong};
use unlatched::record::{
    BATCH_OVERHEAD, Codec, Header, HeaderSpec, ProducerState, Record, encode_record, record_size, write_batch_header,
};

use crate::decode::{LIMIT, mend};

/// Inputs, by name.
pub(crate) type Seeds = Vec<(String, Vec<u8>)>;

/// `records` behind a header.
fn batch(codec: Codec, records: &[u8], count: u32, producer: ProducerState) -> Vec<u8> {
    let mut batch = vec![0; BATCH_OVERHEAD];
    match Encoder::new(Compression::new(codec)) {
        None => batch.extend_from_slice(records),
        Some(mut encoder) => {
            encoder.write(records, &mut batch).expect("a vector takes all");
            encoder.finish(&mut batch).expect("a vector takes all");
        }
    }
    let spec = HeaderSpec { base_timestamp: 1_000, max_timestamp: 1_000, records_count: count, producer, codec };
    write_batch_header(&mut batch, &spec).expect("a good producer state");
    batch
}

fn encoded(records: &[Record<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, record) in (0..).zip(records) {
        let (at, delta) = (out.len(), record.timestamp - 1_000);
        out.resize(at + record_size(index, delta, record), 0);
        encode_record(&mut out[at..], index, delta, record);
    }
    out
}

/// A batch of three records that any broker takes.
pub(crate) fn plain_batch() -> Vec<u8> {
    let record = Record { timestamp: 1_000, key: Some(b"k"), value: Some(b"value"), headers: &[] };
    batch(Codec::None, &encoded(&[record; 3]), 3, ProducerState::NONE)
}

/// A batch of `count` records that are as small as records are, and its bytes uncompressed.
pub(crate) fn of_many(codec: Codec, count: u32) -> (Vec<u8>, usize) {
    let records = encoded(&vec![Record { timestamp: 1_000, ..Record::default() }; count as usize]);
    (batch(codec, &records, count, ProducerState::NONE), BATCH_OVERHEAD + records.len())
}

/// Good batches of `codec`, by name.
fn good(codec: Codec) -> Seeds {
    let headers = [
        Header { key: "name", value: Some(b"v") },
        Header { key: "", value: None },
        Header { key: "name", value: Some(b"") },
    ];
    let record = Record { timestamp: 1_000, key: Some(b"key"), value: Some(b"value"), headers: &[] };
    let mixed = [
        record,
        Record { key: None, value: Some(b""), ..record },
        Record { timestamp: 5, key: Some(b""), value: None, headers: &headers },
        Record { timestamp: i64::MAX, headers: &headers[..1], ..record },
    ];
    let large = vec![b'z'; 70_000];
    let idempotent = ProducerState { id: 12_345, epoch: 5, base_sequence: i32::MAX - 1, transactional: true };
    vec![
        ("one".to_owned(), batch(codec, &encoded(&[record]), 1, ProducerState::NONE)),
        ("mixed".to_owned(), batch(codec, &encoded(&mixed), 4, idempotent)),
        ("many".to_owned(), batch(codec, &encoded(&[record; 200]), 200, ProducerState::NONE)),
        (
            "large".to_owned(),
            batch(codec, &encoded(&[Record { value: Some(&large), ..record }]), 1, ProducerState::NONE),
        ),
    ]
}

/// A record whose numbers are these and whose body says so.
fn record_of(length: i32, fields: &[i64]) -> Vec<u8> {
    let mut body = vec![0];
    for &field in fields {
        let mut buf = [0; 10];
        let len = write_varlong(&mut buf, field);
        body.extend_from_slice(&buf[..len]);
    }
    let mut buf = [0; 5];
    let len = write_varint(&mut buf, if length == 0 { body.len() as i32 } else { length });
    [&buf[..len], &body].concat()
}

/// Batches of `codec` whose lengths and counts lie, or that are small and become large.
fn lies(codec: Codec) -> Seeds {
    let max = i64::from(i32::MAX);
    let mut records = vec![
        ("body", record_of(i32::MAX, &[0, 0, -1, -1, 0])),
        ("body negative", record_of(-2, &[0, 0, -1, -1, 0])),
        ("key", record_of(0, &[0, 0, max, -1, 0])),
        ("value", record_of(0, &[0, 0, -1, max, 0])),
        ("headers", record_of(0, &[0, 0, -1, -1, max])),
        ("headers negative", record_of(0, &[0, 0, -1, -1, -5])),
        ("header key", record_of(0, &[0, 0, -1, -1, 1, max])),
        ("header value", record_of(0, &[0, 0, -1, -1, 1, 0, max])),
        ("offset", record_of(0, &[0, max, -1, -1, 0])),
        ("time", record_of(0, &[i64::MIN, 0, -1, -1, 0])),
        ("zeroes", vec![0; 4 * LIMIT]),
    ];
    if codec == Codec::None {
        records.pop();
    }
    let mut all: Vec<_> = records
        .into_iter()
        .map(|(name, bytes)| (format!("lie {name}"), batch(codec, &bytes, 1, ProducerState::NONE)))
        .collect();
    for (name, count) in [("many", i32::MAX), ("none", 0), ("negative", -1)] {
        let mut bytes = good(codec).swap_remove(0).1;
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        mend(&mut bytes, codec);
        all.push((format!("lie count {name}"), bytes));
    }
    let streams: &[(&str, &[u8])] = match codec {
        Codec::None => &[],
        // A name that never ends; extra bytes that are not there.
        Codec::Gzip => &[
            ("name", &[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3, b'n', b'n']),
            ("extra", &[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 3, 0xff, 0xff]),
        ],
        // Raw, and in a block: 4 GiB promised; a block of 2 GiB.
        Codec::Snappy => &[
            ("raw", &[0xff, 0xff, 0xff, 0xff, 0x0f, 0]),
            ("in a block", b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x06\xff\xff\xff\xff\x0f\0"),
            ("block", b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\x7f\xff\xff\xff\0"),
            ("block negative", b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff\0"),
        ],
        // Blocks of 4 MiB, linked, with all checksums; a block longer than blocks are.
        Codec::Lz4 => &[
            ("large blocks", &[0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73, 0, 0, 0x40, 0x80, 1, 2, 3]),
            ("block", &[0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82, 0xff, 0xff, 0xff, 0x7f, 0]),
            ("skippable", &[0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff, 0]),
        ],
        // A window of 2 GiB and more; 2^62 bytes promised.
        Codec::Zstd => &[
            ("window", &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0x01, 0, 0]),
            ("size", &[0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x01, 0, 0]),
            ("skippable", &[0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff, 0]),
        ],
    };
    for (name, stream) in streams {
        let mut bytes = good(codec).swap_remove(0).1;
        bytes.truncate(BATCH_OVERHEAD);
        bytes.extend_from_slice(stream);
        mend(&mut bytes, codec);
        all.push((format!("lie stream {name}"), bytes));
    }
    all
}

/// Those of a decoder's target.
pub(crate) fn decode(codec: Codec) -> Seeds {
    good(codec).into_iter().chain(lies(codec)).collect()
}

/// Those of log recovery: a mode, and batches one behind the other.
pub(crate) fn log_recovery() -> Seeds {
    let mut log = Vec::new();
    for codec in Codec::ALL {
        log.extend(good(codec).into_iter().filter(|(name, _)| name != "large").flat_map(|(_, batch)| batch));
    }
    let mut seeds = Vec::new();
    for mode in 0..3 {
        let with_mode = |bytes: &[u8]| [&[mode], bytes].concat();
        seeds.push((format!("{mode} whole"), with_mode(&log)));
        seeds.push((format!("{mode} torn"), with_mode(&log[..log.len() - 7])));
        seeds.push((format!("{mode} empty"), with_mode(&[])));
        seeds.push((format!("{mode} short"), with_mode(&plain_batch())));
        let mut damaged = [plain_batch(), plain_batch(), plain_batch()].concat();
        damaged[70] ^= 1;
        seeds.push((format!("{mode} damaged"), with_mode(&damaged)));
        for (name, batch) in lies(Codec::None) {
            seeds.push((format!("{mode} {name}"), with_mode(&[plain_batch(), batch].concat())));
        }
    }
    seeds
}

/// Those of the numbers.
pub(crate) fn varint() -> Seeds {
    let number = |number: i64| {
        let mut buf = [0; 10];
        let len = write_varlong(&mut buf, number);
        (number.to_string(), buf[..len].to_vec())
    };
    [0, 1, -1, 63, -64, 64, 8_191, -8_192, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX, i64::MIN]
        .map(number)
        .to_vec()
}

/// Those of the names.
pub(crate) fn compression_name() -> Seeds {
    let names = [
        "none",
        "gzip",
        "gzip:-1",
        "gzip:9",
        "snappy",
        "snappy:1",
        "lz4:17",
        "zstd:-131072",
        "zstd:22",
        "zstd:+3",
        ":",
    ];
    names.map(|name| (name.replace(':', "_"), name.as_bytes().to_vec())).to_vec()
}
