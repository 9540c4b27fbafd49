//! The matrix: what goes into the batches that others are to read, and that others are to write.
//!
//! One [`Case`] is one batch. The rows are what is put in; whatever comes back is compared with them, never with what our decoder made of a batch.

use unlatched::primitive::random::Random;
use unlatched::record::codec::Compression;
use unlatched::record::{Codec, Header, NO_TIMESTAMP, ProducerState, Record};

/// A record, owned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Row {
    /// Calls `body` with the row as a record.
    pub(crate) fn with_record<T>(&self, body: impl FnOnce(&Record<'_>) -> T) -> T {
        let headers: Vec<Header<'_>> =
            self.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
        let (key, value) = (self.key.as_deref(), self.value.as_deref());
        body(&Record { timestamp: self.timestamp, key, value, headers: &headers })
    }
}

/// A batch.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// What is special about it.
    pub(crate) name: &'static str,
    pub(crate) compression: Compression,
    pub(crate) producer: ProducerState,
    pub(crate) rows: Vec<Row>,
}

impl Case {
    pub(crate) fn codec(&self) -> Codec {
        self.compression.codec()
    }

    /// Whether every codec makes it smaller. What it does not make smaller, some writers send as it is.
    pub(crate) fn shrinks(&self) -> bool {
        ["many small records", "one large record", "zeroes"].contains(&self.name)
    }
}

/// A time, in milliseconds.
const NOON: i64 = 1_764_000_000_000;

/// Each shape with each codec, each codec's together.
pub(crate) fn cases() -> Vec<Case> {
    let with = |codec| shapes().into_iter().map(move |shape| Case { compression: Compression::new(codec), ..shape });
    Codec::ALL.into_iter().flat_map(with).collect()
}

fn shapes() -> Vec<Case> {
    let shape = |name, rows| Case { name, compression: Compression::NONE, producer: ProducerState::NONE, rows };
    let stamped = |name, id, epoch, base_sequence, transactional, rows| Case {
        producer: ProducerState { id, epoch, base_sequence, transactional },
        ..shape(name, rows)
    };
    vec![
        shape("one unkeyed record", vec![row(1, None, Some(b"value"))]),
        shape("one keyed record", vec![row(1, Some(b"key"), Some(b"value"))]),
        shape("keyed and unkeyed", keyed_and_unkeyed()),
        shape("null and empty", null_and_empty()),
        shape("headers", headers()),
        shape("time runs back", time_runs_back()),
        shape("no time", vec![row(NO_TIMESTAMP - NOON, Some(b"k"), Some(b"v")); 3]),
        shape("times zero and far apart", far_apart()),
        stamped("idempotent", 12_345, 5, 7, false, many(10)),
        stamped("sequence wraps", i64::MAX, i16::MAX, i32::MAX - 2, false, many(10)),
        stamped("sequence ends at the largest", 1, 0, i32::MAX - 9, false, many(10)),
        stamped("transactional", 7, 0, 0, true, many(3)),
        shape("many small records", many(5_000)),
        shape("one large record", vec![row(2, Some(b"large"), Some(&prose(400_000)))]),
        shape("noise", noise(300)),
        shape("zeroes", vec![row(3, None, Some(&[0; 300_000])); 2]),
    ]
}

fn row(after_noon: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Row {
    let owned = |field: Option<&[u8]>| field.map(<[u8]>::to_vec);
    Row { timestamp: NOON + after_noon, key: owned(key), value: owned(value), headers: Vec::new() }
}

fn keyed_and_unkeyed() -> Vec<Row> {
    let key = |number: i64| format!("key {}", number % 5).into_bytes();
    (0..40).map(|number| row(number, (number % 2 == 0).then(|| key(number)).as_deref(), Some(b"a value"))).collect()
}

fn null_and_empty() -> Vec<Row> {
    let fields: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"something")];
    fields.into_iter().flat_map(|key| fields.map(|value| row(0, key, value))).collect()
}

fn headers() -> Vec<Row> {
    let named = |headers: &[(&str, Option<&[u8]>)]| Row {
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec))).collect(),
        ..row(0, Some(b"k"), Some(b"v"))
    };
    let long = "name ".repeat(60);
    vec![
        named(&[("name", Some(b"value"))]),
        named(&[("null", None), ("empty", Some(b""))]),
        named(&[("", Some(b"an empty name")), ("", None)]),
        named(&[
            ("twice", Some(b"first")),
            ("between", Some(b"x")),
            ("twice", Some(b"second")),
            ("twice", Some(b"first")),
        ]),
        named(&[("grüße-日本語-🦀", Some("wörter".as_bytes())), ("bytes", Some(&[0, 0xff, 0x80, b'\n', b'\t']))]),
        named(&[]),
        named(&[(&long, Some(&[7; 5_000]))]),
        Row { value: None, ..named(&vec![("h", Some(b"v".as_slice())); 200]) },
    ]
}

/// The first record's time is not the least, so deltas are negative; nor is the last one's the largest.
fn time_runs_back() -> Vec<Row> {
    [0, -1, -64, -65, -8_192, 500, -86_400_000, 3].map(|after| row(after, None, Some(b"tick"))).to_vec()
}

fn far_apart() -> Vec<Row> {
    [NOON, 0, i64::MAX, 1, NOON].map(|timestamp| Row { timestamp, ..row(0, None, Some(b"far")) }).to_vec()
}

fn many(count: i64) -> Vec<Row> {
    let value = |number: i64| {
        format!("{number}: flight {} from {} to {}", number * 37 % 9_973, number % 31, number % 29).into_bytes()
    };
    (0..count)
        .map(|number| Row {
            headers: if number % 7 == 0 {
                vec![("trace".to_owned(), Some(number.to_be_bytes().to_vec()))]
            } else {
                vec![]
            },
            ..row(number / 3, (number % 3 > 0).then(|| value(number % 10)).as_deref(), Some(&value(number)))
        })
        .collect()
}

/// Text that repeats itself a little, as text does.
fn prose(len: usize) -> Vec<u8> {
    let words = ["buffer", "lease", "batch", "record", "sender", "a", "the", "of", "waits", "for", "comes", "back"];
    let mut random = Random::seeded(7);
    let mut text = Vec::with_capacity(len + 16);
    while text.len() < len {
        text.extend_from_slice(words[random.below(words.len() as u64) as usize].as_bytes());
        text.push(b' ');
    }
    text.truncate(len);
    text
}

fn noise(count: i64) -> Vec<Row> {
    let mut random = Random::seeded(11);
    let mut bytes = |len: u64| (0..len).map(|_| random.below(256) as u8).collect::<Vec<u8>>();
    (0..count).map(|number| row(number, Some(&bytes(16)), Some(&bytes(number as u64 * 11)))).collect()
}
