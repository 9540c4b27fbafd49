//! The crate `kafka-protocol`: reads our batches, writes batches for us.
//!
//! It keeps a record's headers in a map, so of equal names the last value is left, at the place of the first: it is asked for rows like that, and its
//! reading is held against rows like that ([`as_kept`]). It counts sequences on beyond 2^31 - 1, and from -1; they are brought back here.
//! As base timestamp it writes the least, not the first.

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use unlatched::record::{Codec, NO_SEQUENCE};

use crate::matrix::{Case, Row};
use crate::text::{self, Line, Shown};

/// What it shows.
pub(crate) const SHOWN: Shown = Shown {
    batch: &[
        "base_offset",
        "leader_epoch",
        "magic",
        "codec",
        "transactional",
        "control",
        "delete_horizon",
        "timestamp_type",
        "base_timestamp",
        "producer_id",
        "producer_epoch",
        "base_sequence",
        "count",
    ],
    record: &["offset", "timestamp", "sequence", "key", "key_size", "value", "value_size", "headers", "header_names"],
};

/// `case` with its headers as a map keeps them.
pub(crate) fn as_kept(case: &Case) -> Case {
    let kept = |row: &Row| {
        let map: IndexMap<_, _> = row.headers.iter().cloned().collect();
        Row { headers: map.into_iter().collect(), ..row.clone() }
    };
    Case { rows: case.rows.iter().map(kept).collect(), ..case.clone() }
}

/// The lines of a log.
///
/// # Errors
/// The crate's.
pub(crate) fn read(log: &[u8]) -> Result<Vec<Line>, String> {
    let mut log = Bytes::copy_from_slice(log);
    let infos = RecordBatchDecoder::decode_batch_info(&mut log.clone()).map_err(|error| error.to_string())?;
    let sets = RecordBatchDecoder::decode_all(&mut log).map_err(|error| format!("{error:#}"))?;
    let mut lines = Vec::new();
    for (info, set) in infos.iter().zip(&sets) {
        let compression = match set.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        };
        lines.push(Line::new(
            "batch",
            [
                ("base_offset", info.min_offset.to_string()),
                ("leader_epoch", info.partition_leader_epoch.to_string()),
                ("magic", set.version.to_string()),
                ("codec", compression.to_owned()),
                ("transactional", u8::from(info.transactional).to_string()),
                ("control", u8::from(info.control).to_string()),
                ("delete_horizon", if info.delete_horizon { "?" } else { "-" }.to_owned()),
                (
                    "timestamp_type",
                    if info.timestamp_type == TimestampType::Creation { "create" } else { "append" }.to_owned(),
                ),
                ("base_timestamp", info.min_timestamp.to_string()),
                ("producer_id", info.producer_id.to_string()),
                ("producer_epoch", info.producer_epoch.to_string()),
                ("base_sequence", info.base_sequence.to_string()),
                ("count", info.record_count.to_string()),
            ],
        ));
        lines.extend(set.records.iter().map(|record| {
            let owned = |field: &Option<Bytes>| field.as_ref().map(|bytes| bytes.to_vec());
            let row = Row {
                timestamp: record.timestamp,
                key: owned(&record.key),
                value: owned(&record.value),
                headers: record.headers.iter().map(|(name, value)| (name.to_string(), owned(value))).collect(),
            };
            let sequence = if info.base_sequence == NO_SEQUENCE { NO_SEQUENCE } else { record.sequence & i32::MAX };
            let mut line = text::record(&row, record.offset, i64::from(sequence), 0);
            line.fields.remove("bytes");
            line
        }));
    }
    Ok(lines)
}

/// The batch of `case`, its first record at `base_offset`, as the crate writes it.
///
/// # Errors
/// The crate's.
pub(crate) fn write(case: &Case, base_offset: i64) -> Result<Vec<u8>, String> {
    let records: Vec<Record> = (0..)
        .zip(&case.rows)
        .map(|(index, row)| Record {
            transactional: case.producer.transactional,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 0,
            producer_id: case.producer.id,
            producer_epoch: case.producer.epoch,
            timestamp_type: TimestampType::Creation,
            offset: base_offset + i64::from(index),
            sequence: case.producer.base_sequence.wrapping_add(index),
            timestamp: row.timestamp,
            key: row.key.clone().map(Bytes::from),
            value: row.value.clone().map(Bytes::from),
            headers: row
                .headers
                .iter()
                .map(|(name, value)| (StrBytes::from(name.clone()), value.clone().map(Bytes::from)))
                .collect(),
        })
        .collect();
    let compression = match case.codec() {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    };
    let mut out = BytesMut::new();
    RecordBatchEncoder::encode(&mut out, &records, &RecordEncodeOptions { version: 2, compression })
        .map_err(|error| format!("{error:#}"))?;
    Ok(out.to_vec())
}
