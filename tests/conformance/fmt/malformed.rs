//! Malformed input: FMT-22. Each has a typed error, and nothing panics or allocates for what is not there.

use super::*;

tests! {
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
}
