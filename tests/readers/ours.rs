//! Our decoder as one more reader: it prints all there is.

use unlatched::record::codec::{DEFAULT_LIMIT, Decoder};
use unlatched::record::{TimestampType, batches};

use crate::matrix::Row;
use crate::text::{self, Line, Shown};

/// All that the decoder shows.
pub(crate) const SHOWN: Shown = Shown {
    batch: &[
        "base_offset",
        "last_offset",
        "bytes",
        "leader_epoch",
        "magic",
        "crc",
        "attributes",
        "codec",
        "transactional",
        "control",
        "delete_horizon",
        "timestamp_type",
        "base_timestamp",
        "max_timestamp",
        "producer_id",
        "producer_epoch",
        "base_sequence",
        "last_sequence",
        "count",
    ],
    record: &[
        "offset",
        "timestamp",
        "sequence",
        "bytes",
        "key",
        "key_size",
        "value",
        "value_size",
        "headers",
        "header_names",
    ],
};

/// The lines of a log. The checksums are checked on the way.
///
/// # Errors
/// The decoder's.
pub(crate) fn read(log: &[u8]) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    let (mut decoder, mut space) = (Decoder::default(), Vec::new());
    for batch in batches(log) {
        let batch = batch.map_err(|error| error.to_string())?;
        let header = batch.header();
        lines.push(Line::new(
            "batch",
            [
                ("base_offset", batch.base_offset().to_string()),
                ("last_offset", batch.last_offset().to_string()),
                ("bytes", batch.size().to_string()),
                ("leader_epoch", header.partition_leader_epoch.to_string()),
                ("magic", header.magic.to_string()),
                ("crc", format!("{:08x}", header.crc)),
                ("attributes", header.attributes.bits().to_string()),
                ("codec", batch.codec().name().to_owned()),
                ("transactional", u8::from(header.attributes.is_transactional()).to_string()),
                ("control", u8::from(header.attributes.is_control()).to_string()),
                ("delete_horizon", batch.delete_horizon().map_or("-".to_owned(), |time| time.to_string())),
                (
                    "timestamp_type",
                    match header.attributes.timestamp_type() {
                        TimestampType::CreateTime => "create",
                        TimestampType::LogAppendTime => "append",
                    }
                    .to_owned(),
                ),
                ("base_timestamp", header.base_timestamp.to_string()),
                ("max_timestamp", header.max_timestamp.to_string()),
                ("producer_id", header.producer_id.to_string()),
                ("producer_epoch", header.producer_epoch.to_string()),
                ("base_sequence", header.base_sequence.to_string()),
                ("last_sequence", batch.last_sequence().to_string()),
                ("count", header.records_count.to_string()),
            ],
        ));
        let of_batch = |error| format!("batch at offset {}: {error}", batch.base_offset());
        for record in batch.decompress(&mut decoder, DEFAULT_LIMIT, &mut space).map_err(of_batch)? {
            let record = record.map_err(of_batch)?;
            let row = Row {
                timestamp: record.timestamp,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: record
                    .headers
                    .iter()
                    .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                    .collect(),
            };
            lines.push(text::record(&row, record.offset, i64::from(record.sequence), record.size));
        }
    }
    Ok(lines)
}
