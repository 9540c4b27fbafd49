//! The header of a batch, and what it says of the records: FMT-01 to FMT-13, FMT-20, 21, 23 to 25.

use super::*;

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

    fn fmt_20_compressed_records_read_as_they_lie_are_one_typed_error() {
        let bytes = patched(&golden_b(), 21, &[0, 0x14]);
        let batch = parse(&bytes);
        let error = DecodeError::Compressed { codec: Codec::Zstd };
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
}
