//! Any bytes as a batch of a codec: read or refused, within the stated memory, and what was read can be written and read again.

use unlatched::record::codec::{Compression, Decoder, Encoder};
use unlatched::record::{
    BATCH_OVERHEAD, Codec, DecodedRecord, Header, LENGTH_END, Record, RecordBatch, batches, crc32c, encode_record,
    record_size,
};

use crate::memory;

/// The most that is decompressed.
pub(crate) const LIMIT: usize = 256 << 10;
/// What may be allocated besides: the errors of flate2, and the vector's own.
const SLACK: usize = 16 << 10;

/// Gives the bytes the magic, length, codec and checksum of a batch: a fuzzer does not guess a checksum.
pub(crate) fn mend(batch: &mut [u8], codec: Codec) {
    if batch.len() < BATCH_OVERHEAD {
        return;
    }
    let length = i32::try_from(batch.len() - LENGTH_END).expect("a short input");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[22] = batch[22] & !7 | codec.id();
    mend_checksum(batch);
}

/// Gives the batch that fills `batch` its checksum.
pub(crate) fn mend_checksum(batch: &mut [u8]) {
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

pub(crate) fn run(codec: Codec, data: &[u8]) {
    // As they are.
    for batch in batches(data).flatten() {
        let _ = batch.validate();
    }
    // And as a batch.
    let mut bytes = data.to_vec();
    mend(&mut bytes, codec);
    let Ok((batch, rest)) = RecordBatch::parse(&bytes) else { return };
    assert!(rest.is_empty() && batch.codec() == codec);

    let (decompressed, peak) = memory::peak(|| {
        let (mut decoder, mut space) = (Decoder::default(), Vec::new());
        let read = batch.decompress(&mut decoder, LIMIT, &mut space).map(|records| {
            // All that a walk does, without keeping what it finds.
            let mut found = 0;
            let mut walk = records;
            let whole = loop {
                match walk.next() {
                    None => break true,
                    Some(Err(_)) => break false,
                    Some(Ok(record)) => {
                        assert_eq!(record.headers.iter().count(), record.headers.len());
                        found += 1;
                    }
                }
            };
            assert!(walk.next().is_none(), "it ends after an error, and at the end");
            assert!(found <= batch.header().records_count);
            assert!(!whole || found == batch.header().records_count);
            whole
        });
        (read, space)
    });
    let (read, space) = decompressed;
    assert!(space.len() <= BATCH_OVERHEAD + LIMIT, "{} bytes out", space.len());
    let bound = BATCH_OVERHEAD + LIMIT + Decoder::CONTEXT + SLACK;
    assert!(peak <= bound, "{peak} bytes allocated, {bound} are stated");
    if read != Ok(true) {
        return;
    }

    let mut space = Vec::new();
    let records = batch.decompress(&mut Decoder::default(), LIMIT, &mut space).expect("as before");
    let read: Vec<_> = records.collect::<Result<_, _>>().expect("as before");
    again(codec, &batch, &read);
}

/// Writes what was read, compresses it, and reads it again.
fn again(codec: Codec, batch: &RecordBatch<'_>, read: &[DecodedRecord<'_>]) {
    if batch.header().attributes.timestamp_type() != unlatched::record::TimestampType::CreateTime || read.is_empty() {
        return;
    }
    let mut bytes = batch.as_bytes()[..BATCH_OVERHEAD].to_vec();
    let mut plain = Vec::new();
    for record in read {
        let headers: Vec<Header<'_>> = record.headers.iter().collect();
        let (delta, offset) = (
            record.timestamp.wrapping_sub(batch.header().base_timestamp),
            u32::try_from(record.offset.wrapping_sub(batch.base_offset())).expect("deltas do not fall"),
        );
        let record_again =
            Record { timestamp: record.timestamp, key: record.key, value: record.value, headers: &headers };
        let (at, size) = (plain.len(), record_size(offset, delta, &record_again));
        assert!(size <= record.size, "numbers may have been written longer, never shorter");
        plain.resize(at + size, 0);
        assert_eq!(encode_record(&mut plain[at..], offset, delta, &record_again), size);
    }
    match Encoder::new(Compression::new(codec)) {
        None => bytes.extend_from_slice(&plain),
        Some(mut encoder) => {
            encoder.write(&plain, &mut bytes).expect("a vector takes all");
            encoder.finish(&mut bytes).expect("a vector takes all");
        }
    }
    mend(&mut bytes, codec);
    let (batch, _) = RecordBatch::parse(&bytes).expect("it was mended");
    let mut space = Vec::new();
    let mut count = 0;
    for (was, is) in
        read.iter().zip(batch.decompress(&mut Decoder::default(), plain.len(), &mut space).expect("its own stream"))
    {
        let is = is.expect("its own record");
        assert_eq!(
            (was.offset, was.timestamp, was.sequence, was.key, was.value),
            (is.offset, is.timestamp, is.sequence, is.key, is.value)
        );
        assert!(was.headers.iter().eq(is.headers.iter()));
        count += 1;
    }
    assert_eq!(count, read.len());
}
