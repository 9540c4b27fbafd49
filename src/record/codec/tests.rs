use std::io::Write;

use proptest::prelude::*;

use super::*;

/// A sink that takes so many bytes.
struct Room(usize);

impl Write for Room {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Every codec at its default level and at both ends.
fn compressions() -> Vec<Compression> {
    let texts = "gzip gzip:1 gzip:9 snappy lz4 lz4:1 lz4:12 lz4:17 zstd zstd:-131072 zstd:-1 zstd:19";
    texts.split(' ').map(|text| text.parse().unwrap()).collect()
}

fn encoder(compression: Compression) -> Encoder {
    Encoder::new(compression).unwrap()
}

fn streamed(encoder: &mut Encoder, pieces: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    pieces.iter().for_each(|piece| encoder.write(piece, &mut out).unwrap());
    encoder.finish(&mut out).unwrap();
    out
}

fn decoded(codec: Codec, bytes: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    Decoder::default().decompress(codec, bytes, limit, &mut out).map(|()| out)
}

fn incompressible(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..len).map(|_| random.u8(..)).collect()
}

/// Nothing, little, text, noise, zeros; more than one block of each codec.
fn inputs() -> Vec<Vec<u8>> {
    let text: Vec<u8> =
        (0..20_000).flat_map(|line| format!("{line},2013-01-01,EWR,IAH,{}\n", line * 7 % 300).into_bytes()).collect();
    let mut inputs = vec![vec![], vec![0], b"one record".to_vec(), incompressible(1_000), vec![0; 300_000]];
    inputs.extend([&text[..16_000], &text[..32 << 10], &text[..(64 << 10) + 1], &text[..]].map(<[u8]>::to_vec));
    inputs.extend([32 << 10, 64 << 10, 200_001].map(incompressible));
    inputs
}

#[test]
fn fmt_20_what_was_compressed_comes_back_from_every_codec_level_and_size() {
    for compression in compressions() {
        let mut encoder = encoder(compression);
        for input in inputs() {
            let about = format!("{compression}, {} bytes", input.len());
            let whole = streamed(&mut encoder, &[&input]);
            assert_eq!(decoded(compression.codec(), &whole, input.len()).as_ref(), Ok(&input), "{about}");
            let pieces: Vec<&[u8]> = input.chunks(1_111).collect();
            let stream = streamed(&mut encoder, &pieces);
            assert_eq!(decoded(compression.codec(), &stream, input.len()).as_ref(), Ok(&input), "{about} in pieces");
            // gzip's level 1 makes noise larger by an eighth.
            let mut at_once = vec![0; input.len() * 8 / 7 + 1_000];
            let len = encoder.compress(&input, &mut at_once).unwrap();
            assert_eq!(
                decoded(compression.codec(), &at_once[..len], input.len()).as_ref(),
                Ok(&input),
                "{about} at once"
            );
        }
    }
}

#[test]
fn fmt_20_output_is_appended_behind_what_is_there() {
    for compression in compressions() {
        let stream = streamed(&mut encoder(compression), &[b"behind"]);
        let mut out = b"before ".to_vec();
        Decoder::default().decompress(compression.codec(), &stream, 6, &mut out).unwrap();
        assert_eq!(out, b"before behind", "{compression}");
    }
}

#[test]
fn fmt_20_snappy_has_xerials_framing() {
    let input = incompressible((32 << 10) + 5);
    let stream = streamed(&mut encoder("snappy".parse().unwrap()), &[&input[..10], &input[10..]]);
    assert_eq!(stream[..16], [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    // Noise stays noise: length, tag and literal of 32 KiB, then five bytes in one literal.
    let first = u32::from_be_bytes(*stream[16..].first_chunk().unwrap()) as usize;
    assert_eq!(snap::raw::decompress_len(&stream[20..20 + first]), Ok(32 << 10));
    let second = &stream[20 + first..];
    assert_eq!(second[..4], [0, 0, 0, 7], "big-endian");
    assert_eq!(second[4..6], [5, 4 << 2], "five bytes, a literal of five");
    assert_eq!(second[6..], input[32 << 10..]);
}

#[test]
fn fmt_20_lz4_has_the_frame_that_kafka_writes() {
    let input = [&vec![b'a'; 64 << 10][..], &incompressible(100)].concat();
    let stream = streamed(&mut encoder("lz4".parse().unwrap()), &[&input]);
    assert_eq!(stream[..7], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
    let first = u32::from_le_bytes(*stream[7..].first_chunk().unwrap()) as usize;
    assert!(first < 1_000, "a block of 64 KiB of one letter is small: {first}");
    let second = &stream[11 + first..];
    assert_eq!(second[..4], (100_u32 | 1 << 31).to_le_bytes(), "what does not get smaller stays as it is");
    assert_eq!(second[4..104], input[64 << 10..]);
    assert_eq!(second[104..], [0; 4], "the end mark, and no checksum");
}

#[test]
fn fmt_20_gzip_and_zstd_begin_with_their_magic() {
    let head = |text: &str| streamed(&mut encoder(text.parse().unwrap()), &[b"x"])[..4].to_vec();
    assert_eq!(head("gzip"), [0x1f, 0x8b, 8, 0], "deflate, no name, no comment");
    assert_eq!(head("zstd"), [0x28, 0xb5, 0x2f, 0xfd]);
}

/// One batch of Kafka's Java client each, of the value `a` 100 times: taken from no run of ours, but built by the rules of each format, byte by byte.
#[test]
fn fmt_20_streams_made_by_hand_are_read() {
    // Raw snappy: 100 bytes, literal `a`, copies with one byte of offset: 60 and 39 bytes from 1 before.
    let raw = [100, 0, b'a', (60 - 1) << 2 | 2, 1, 0, (39 - 1) << 2 | 2, 1, 0];
    let framed = [&SNAPPY_HEAD[..], &(raw.len() as u32).to_be_bytes(), &raw].concat();
    let expected = vec![b'a'; 100];
    assert_eq!(decoded(Codec::Snappy, &framed, 100).as_ref(), Ok(&expected));
    assert_eq!(decoded(Codec::Snappy, &raw, 100).as_ref(), Ok(&expected), "without xerial's framing");
    // lz4: literal `a`, match of 94 from 1 before, then the last five as literals.
    let block = [0x1f, b'a', 1, 0, 94 - 4 - 15, 0x50, b'a', b'a', b'a', b'a', b'a'];
    let frame = [&LZ4_HEAD[..], &(block.len() as u32).to_le_bytes(), &block, &[0; 4]].concat();
    assert_eq!(decoded(Codec::Lz4, &frame, 100).as_ref(), Ok(&expected));
    // zstd: single segment, size 100 in one byte; last block, RLE of 100.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 100, (1 | 1 << 1 | (100 << 3 & 0xff)) as u8, 100 >> 5, 0, b'a'];
    assert_eq!(decoded(Codec::Zstd, &frame, 100).as_ref(), Ok(&expected));
}

#[test]
fn fmt_20_an_output_that_is_too_short_is_no_stream_and_the_encoder_goes_on() {
    for compression in compressions() {
        let mut encoder = encoder(compression);
        let input = incompressible(50_000);
        assert_eq!(encoder.compress(&input, &mut vec![0; 40_000]), None, "{compression}");
        assert!(
            encoder.write(&input, &mut Room(3)).and_then(|()| encoder.finish(&mut Room(3))).is_err(),
            "{compression}"
        );
        encoder.reset();
        let stream = streamed(&mut encoder, &[b"after"]);
        assert_eq!(decoded(compression.codec(), &stream, 5).as_deref(), Ok(&b"after"[..]), "{compression}");
    }
}

#[test]
fn fmt_20_a_level_changes_what_is_written() {
    let text: Vec<u8> = inputs().remove(8);
    for (low, high) in [("gzip:1", "gzip:9"), ("lz4", "lz4:12"), ("zstd:-5", "zstd:19")] {
        let [low, high] = [low, high].map(|text| encoder(text.parse().unwrap()));
        let [low, high] = [low, high].map(|mut encoder| streamed(&mut encoder, &[&text]).len());
        assert!(high * 10 < low * 9, "{low} and {high}");
    }
    let default = |text: &str, same: &str| {
        let [one, other] =
            [text, same].map(|name| streamed(&mut encoder(name.parse().unwrap()), &[&text.repeat(99).into_bytes()]));
        assert_eq!(one, other);
    };
    default("gzip", "gzip:-1");
    default("lz4", "lz4:9");
    default("zstd", "zstd:3");
}

#[test]
fn cfg_15_cfg_16_names_and_levels_are_kafkas() {
    let level = |text: &str| text.parse::<Compression>().map(Compression::level);
    for (text, expected) in [
        ("none", None),
        ("gzip", Some(-1)),
        ("gzip:-1", Some(-1)),
        ("gzip:1", Some(1)),
        ("gzip:9", Some(9)),
        ("snappy", None),
        ("lz4", Some(9)),
        ("lz4:1", Some(1)),
        ("lz4:17", Some(17)),
        ("zstd", Some(3)),
        ("zstd:-131072", Some(-131_072)),
        ("zstd:0", Some(0)),
        ("zstd:22", Some(22)),
    ] {
        assert_eq!(level(text), Ok(expected), "{text}");
    }
    for text in ["gzip:0", "gzip:10", "gzip:-2", "lz4:0", "lz4:18", "lz4:-1", "zstd:23", "zstd:-131073"] {
        assert!(matches!(level(text), Err(CompressionError::Level { .. })), "{text}");
    }
    let told = |text: &str| level(text).unwrap_err().to_string();
    assert_eq!(told("gzip:0"), "gzip has no level 0: give 1 to 9, or -1");
    assert_eq!(told("lz4:18"), "lz4 has no level 18: give 1 to 17");
    assert_eq!(told("zstd:fast"), "\"fast\" is no level: give -131072 to 22");
    assert_eq!(told("snappy:1"), "snappy has no levels: write snappy");
    assert_eq!(told("GZIP"), "no codec is called \"GZIP\": give none, gzip, snappy, lz4 or zstd");
    for text in ["none", "gzip", "gzip:9", "snappy", "lz4", "lz4:17", "zstd", "zstd:-7"] {
        assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
    }
    assert_eq!(Compression::default(), Compression::NONE);
    assert!(Encoder::new(Compression::NONE).is_none());
}

/// What `len` zeros are in `codec`, without ever having them in memory.
fn bomb(compression: &str, len: usize) -> Vec<u8> {
    let (mut encoder, mut out, zeros) = (encoder(compression.parse().unwrap()), Vec::new(), vec![0; 1 << 20]);
    for _ in 0..len >> 20 {
        encoder.write(&zeros, &mut out).unwrap();
    }
    encoder.finish(&mut out).unwrap();
    out
}

#[test]
fn fmt_22_a_bomb_is_refused_at_the_limit_whatever_it_says_of_its_size() {
    const LIMIT: usize = 1 << 20;
    for (name, size) in
        [("gzip:9", 64 << 20), ("zstd", 1 << 30), ("zstd:9", 64 << 20), ("lz4", 64 << 20), ("snappy", 64 << 20)]
    {
        let codec = name.parse::<Compression>().unwrap().codec();
        let bomb = bomb(name, size);
        let mut out = b"head".to_vec();
        let refused = Decoder::default().decompress(codec, &bomb, LIMIT, &mut out);
        assert_eq!(refused, Err(Fault::TooLarge { limit: LIMIT }), "{name}, {} bytes", bomb.len());
        assert!(out.capacity() <= LIMIT + 64, "{name}: {} bytes were taken", out.capacity());
    }
    // The same with its size in the head.
    let mut stream = vec![0; 1 << 20];
    let len = encoder("zstd".parse().unwrap()).compress(&vec![0; 16 << 20], &mut stream).unwrap();
    let mut out = Vec::new();
    let refused = Decoder::default().decompress(Codec::Zstd, &stream[..len], LIMIT, &mut out);
    assert_eq!((refused, out.capacity()), (Err(Fault::TooLarge { limit: LIMIT }), 0));
}

#[test]
fn fmt_22_memory_follows_the_bytes_that_are_there_and_no_length_field() {
    const LIMIT: usize = 1 << 30;
    // zstd: 512 MiB in the head of a frame of one empty block. Snappy: 512 MiB, raw and framed; a block that is not there.
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &(512_u32 << 20).to_le_bytes(), &[1, 0, 0]].concat();
    let raw = [0x80, 0x80, 0x80, 0x80, 0x02, 0, b'a'];
    let framed = [&SNAPPY_HEAD[..], &[0, 0, 0, 7], &raw].concat();
    let absent = [&SNAPPY_HEAD[..], &[0x7f, 0xff, 0xff, 0xff], &raw].concat();
    for (codec, bytes, expected) in [
        (Codec::Zstd, zstd, Fault::Corrupt),
        (Codec::Snappy, raw.to_vec(), Fault::Corrupt),
        (Codec::Snappy, framed, Fault::Corrupt),
        (Codec::Snappy, absent, Fault::Truncated),
    ] {
        let mut out = Vec::new();
        assert_eq!(Decoder::default().decompress(codec, &bytes, LIMIT, &mut out), Err(expected), "{codec}");
        assert!(out.capacity() <= 1 << 20, "{codec}: {} bytes for {}", out.capacity(), bytes.len());
    }
}

#[test]
fn fmt_22_a_stream_cut_anywhere_is_refused() {
    for compression in compressions() {
        let input = inputs().remove(5);
        let stream = streamed(&mut encoder(compression), &[&input]);
        for len in (0..stream.len()).step_by(7).chain(stream.len() - 9..stream.len()) {
            match decoded(compression.codec(), &stream[..len], 1 << 20) {
                Err(Fault::Truncated | Fault::Corrupt) => {}
                // Xerial's framing has no end: at a border of its blocks it ends as if it were whole. So does nothing at all.
                Ok(out) => assert!(input.starts_with(&out) && out.len() < input.len(), "{compression} cut to {len}"),
                other => panic!("{compression} cut to {len}: {other:?}"),
            }
        }
    }
}

#[test]
fn fmt_22_what_follows_the_end_is_refused() {
    for compression in compressions().into_iter().filter(|compression| compression.codec() != Codec::Snappy) {
        let mut stream = streamed(&mut encoder(compression), &[b"a stream"]);
        stream.extend_from_slice(b"more");
        let read = decoded(compression.codec(), &stream, 1_000);
        assert!(
            matches!(read, Err(Fault::Trailing { extra: 4 } | Fault::Corrupt | Fault::Truncated)),
            "{compression}: {read:?}"
        );
    }
}

fn codecs() -> impl Strategy<Value = Codec> {
    prop::sample::select(&Codec::ALL[1..])
}

/// Whatever the decoder says, it has kept to its limit.
fn bounded(codec: Codec, bytes: &[u8], limit: usize) {
    let mut out = Vec::new();
    let _ = Decoder::default().decompress(codec, bytes, limit, &mut out);
    assert!(out.len() <= limit && out.capacity() <= limit.max(64), "{} of {limit}", out.capacity());
}

proptest! {
    #[test]
    fn fmt_22_any_bytes_are_read_within_the_limit(codec in codecs(), bytes in prop::collection::vec(any::<u8>(), 0..600), limit in 0..5_000_usize) {
        bounded(codec, &bytes, limit);
        // Behind a good head, where the parsers are.
        let head: &[u8] = match codec {
            Codec::Gzip => &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
            Codec::Snappy => &SNAPPY_HEAD,
            Codec::Lz4 => &LZ4_HEAD,
            _ => &[0x28, 0xb5, 0x2f, 0xfd],
        };
        bounded(codec, &[head, &bytes].concat(), limit);
    }

    #[test]
    fn fmt_22_flipped_bits_are_read_within_the_limit(
        codec in codecs(), text in "[a-f]{0,3000}", flips in prop::collection::vec(any::<prop::sample::Index>(), 1..4), bit in 0..8_u32,
    ) {
        let mut stream = streamed(&mut encoder(Compression::new(codec)), &[text.as_bytes()]);
        for flip in flips {
            let at = flip.index(stream.len());
            stream[at] ^= 1_u8 << bit;
        }
        bounded(codec, &stream, 4_000);
    }

    #[test]
    fn fmt_20_any_bytes_in_any_pieces_come_back(codec in codecs(), pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3_000), 0..30)) {
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let input = pieces.concat();
        let stream = streamed(&mut encoder(Compression::new(codec)), &pieces);
        prop_assert_eq!(decoded(codec, &stream, input.len()), Ok(input));
    }
}
