//! Codecs: FMT-20 with what FMT-05 and FMT-22 say of compressed batches; CFG-15, CFG-16. The codecs' own tests, streams and bounds, stand beside them in the source.

use unlatched::record::codec::{Compression, CompressionError, DEFAULT_LIMIT, Decoder, Encoder, Fault};

use super::*;

/// One record at least, null and empty values, and more than one block of every codec.
fn batches_of_records() -> Vec<Vec<Record<'static>>> {
    const TEXT: &[u8] = &[b'a'; 900];
    let small =
        Record { timestamp: 5, key: Some(b"k"), value: Some(b"v"), headers: &[Header { key: "h", value: None }] };
    let values = [Some(TEXT), None, Some(&[][..]), Some(&TEXT[..7])];
    let many =
        (0..400).map(|number| Record { timestamp: number, value: values[number as usize % 4], ..Record::default() });
    vec![vec![small], vec![Record { timestamp: 0, ..Record::default() }], many.collect()]
}

/// A batch of `records` behind one another, compressed.
fn compressed(records: &[Record<'_>], compression: Compression) -> Vec<u8> {
    let mut batch = vec![0; BATCH_OVERHEAD];
    let mut encoder = Encoder::new(compression).expect("a codec");
    encoder.write(&encode_records(records), &mut batch).and_then(|()| encoder.finish(&mut batch)).expect("a vector");
    let spec = HeaderSpec {
        base_timestamp: records[0].timestamp,
        max_timestamp: records.iter().map(|record| record.timestamp).max().unwrap(),
        records_count: records.len() as u32,
        producer: IDEMPOTENT,
        codec: compression.codec(),
    };
    write_batch_header(&mut batch, &spec).unwrap();
    batch
}

fn codecs() -> impl Iterator<Item = Codec> {
    Codec::ALL.into_iter().skip(1)
}

fn counted(mut batch: Vec<u8>, count: i32) -> Vec<u8> {
    batch = patched(&batch, 23, &(count - 1).to_be_bytes());
    patched(&batch, 57, &count.to_be_bytes())
}

fn decompress_error(bytes: &[u8]) -> DecodeError {
    let (mut decoder, mut space) = (Decoder::default(), Vec::new());
    match parse(bytes).decompress(&mut decoder, DEFAULT_LIMIT, &mut space) {
        Err(error) => error,
        Ok(mut records) => records.find_map(Result::err).expect("an error"),
    }
}

tests! {
    fn fmt_20_the_stream_is_everything_behind_the_header_and_the_header_is_as_it_is() {
        for codec in codecs() {
            for records in batches_of_records() {
                let bytes = compressed(&records, Compression::new(codec));
                let batch = parse(&bytes);
                let header = batch.header();
                assert_eq!((batch.codec(), header.attributes.bits()), (codec, u16::from(codec.id())));
                assert_eq!((header.records_count as usize, header.producer_id), (records.len(), IDEMPOTENT.id));
                let mut stream = Vec::new();
                Decoder::default().decompress(codec, &bytes[61..], DEFAULT_LIMIT, &mut stream).unwrap();
                assert_eq!(stream, encode_records(&records), "{codec}");
            }
        }
    }

    fn fmt_20_a_compressed_batch_is_read_as_the_same_uncompressed() {
        for codec in codecs() {
            for records in batches_of_records() {
                let plain = encode_batch(&records, IDEMPOTENT);
                let bytes = compressed(&records, Compression::new(codec));
                let (mut decoder, mut space) = (Decoder::default(), vec![7; 100]);
                let read: Vec<_> = parse(&bytes).decompress(&mut decoder, DEFAULT_LIMIT, &mut space).unwrap().collect();
                let expected: Vec<_> = parse(&plain).records().collect();
                assert_eq!(read, expected, "{codec}");
                assert_eq!(parse(&bytes).records_in(&space).collect::<Vec<_>>(), expected, "{codec}");
                // What is not compressed needs no space.
                let mut none = Vec::new();
                assert_eq!(parse(&plain).decompress(&mut decoder, 0, &mut none).unwrap().collect::<Vec<_>>(), expected);
                assert_eq!(none.capacity(), 0);
            }
        }
    }

    fn fmt_05_the_crc_covers_the_compressed_form() {
        for codec in codecs() {
            let good = compressed(&batches_of_records()[0], Compression::new(codec));
            for at in 61..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert!(matches!(RecordBatch::parse(&bad), Err(DecodeError::CrcMismatch { .. })), "{codec}, byte {at}");
            }
        }
    }

    fn fmt_22_a_compressed_batch_with_a_wrong_count_is_rejected() {
        for codec in codecs() {
            let records = &batches_of_records()[2];
            let good = compressed(records, Compression::new(codec));
            let (count, size) = (records.len() as i32, 61 + encode_records(records).len());
            assert_eq!(
                decompress_error(&counted(good.clone(), count + 1)),
                DecodeError::MissingRecords { declared: count + 1, found: count }
            );
            let last = record_size(count as u32 - 1, 0, &Record { timestamp: 0, ..records[399] }) + 1;
            assert_eq!(
                decompress_error(&counted(good, count - 1)),
                DecodeError::ExcessBytes { declared: count - 1, position: size - last, extra: last },
                "positions are those of the batch uncompressed"
            );
        }
    }

    fn fmt_22_a_stream_that_is_none_is_rejected() {
        for codec in codecs() {
            let mut bytes = encode_batch(&batches_of_records()[0], IDEMPOTENT);
            bytes[21..23].copy_from_slice(&u16::from(codec.id()).to_be_bytes());
            let bytes = patched(&bytes, 0, &[]);
            let error = decompress_error(&bytes);
            assert!(matches!(error, DecodeError::Stream { codec: of, .. } if of == codec), "{error:?}");
        }
    }

    fn fmt_22_records_above_the_limit_are_rejected_and_take_no_more_memory() {
        let zeros = vec![0; 100_000];
        let records = vec![Record { timestamp: 0, value: Some(&zeros), ..Record::default() }; 30];
        let size = encode_records(&records).len();
        for codec in codecs() {
            let bytes = compressed(&records, Compression::new(codec));
            let batch = parse(&bytes);
            let (mut decoder, mut space) = (Decoder::default(), Vec::new());
            assert!(batch.decompress(&mut decoder, size, &mut space).unwrap().all(|record| record.is_ok()));
            let mut space = Vec::new();
            let fault = Fault::TooLarge { limit: 200_000 };
            assert_eq!(
                batch.decompress(&mut decoder, 200_000, &mut space).map(drop),
                Err(DecodeError::Stream { codec, fault })
            );
            assert!(space.capacity() <= 200_000 + 61 + 61, "{codec}: {}", space.capacity());
        }
    }

    fn cfg_15_the_types_are_kafkas() {
        for (codec, name) in Codec::ALL.into_iter().zip(["none", "gzip", "snappy", "lz4", "zstd"]) {
            assert_eq!(name.parse::<Compression>().map(Compression::codec), Ok(codec));
        }
        for no_type in ["", "None", "GZIP", "deflate", "uncompressed", "producer"] {
            assert!(matches!(no_type.parse::<Compression>(), Err(CompressionError::Unknown { .. })), "{no_type}");
        }
    }

    fn cfg_16_the_levels_are_kafkas() {
        let has = |codec, level| Compression::with_level(codec, level).is_ok();
        for level in -200..200 {
            assert_eq!(has(Codec::Gzip, level), level == -1 || (1..=9).contains(&level), "gzip {level}");
            assert_eq!(has(Codec::Lz4, level), (1..=17).contains(&level), "lz4 {level}");
            assert_eq!(has(Codec::Zstd, level), level <= 22, "zstd {level}");
            assert!(!has(Codec::Snappy, level) && !has(Codec::None, level));
        }
        assert!(has(Codec::Zstd, -131_072) && !has(Codec::Zstd, -131_073));
        let default = |codec| Compression::new(codec).level();
        assert_eq!([Codec::Gzip, Codec::Lz4, Codec::Zstd].map(default), [Some(-1), Some(9), Some(3)]);
    }
}
