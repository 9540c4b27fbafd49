//! The records: their fields, bounds, and vectors: FMT-14 to FMT-19, FMT-26 to FMT-29.

use super::*;

tests! {
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
