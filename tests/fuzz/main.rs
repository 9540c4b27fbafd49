//! What the fuzz targets do (`fuzz/run`), with all their seeds: batches of the shipping encoder, bytes that lie, and streams that become large.

mod compression_name;
mod decode;
mod log_recovery;
mod memory;
mod seeds;
mod varint;

use unlatched::record::Codec;
use unlatched::record::codec::{Decoder, Fault};

// One test: what is allocated is counted for the whole process.
#[test]
fn fmt_22_the_decoder_takes_every_seed_within_its_stated_memory() {
    let mut peaks = Vec::new();
    for codec in Codec::ALL {
        let mut most = 0;
        for (name, bytes) in seeds::decode(codec) {
            // Each cut and each flipped byte of the short ones, too.
            decode::run(codec, &bytes);
            if bytes.len() < 200 {
                for at in 0..bytes.len() {
                    decode::run(codec, &bytes[..at]);
                    let mut other = bytes.clone();
                    other[at] ^= 0x55;
                    decode::run(codec, &other);
                }
            }
            let stream = bytes.get(61..).unwrap_or_default();
            let (result, peak) =
                memory::peak(|| Decoder::default().decompress(codec, stream, decode::LIMIT, &mut Vec::new()));
            if name == "lie zeroes" {
                assert_eq!(result, Err(Fault::TooLarge { limit: decode::LIMIT }), "{codec}");
                assert!(!memory::COUNTS || peak > decode::LIMIT / 2, "{codec}: {peak}: it is counted");
            }
            most = most.max(peak);
        }
        assert!(most <= decode::LIMIT + Decoder::CONTEXT, "{codec}: {most} bytes");
        peaks.push((codec, most));
    }
    // Blocks of 4 MiB are what the stated memory is for.
    assert!(!memory::COUNTS || peaks[3].1 > 8 << 20, "{peaks:?}");

    seeds::log_recovery().iter().for_each(|(_, bytes)| log_recovery::run(bytes));
    log_recovery::clean();
    seeds::varint().iter().for_each(|(_, bytes)| varint::run(bytes));
    seeds::compression_name().iter().for_each(|(_, bytes)| compression_name::run(bytes));
}
