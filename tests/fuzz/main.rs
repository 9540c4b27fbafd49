//! What the fuzz targets do (`fuzz/run`), with all their seeds: batches of the shipping encoder, bytes that lie, and streams that become large.

mod compression_name;
mod decode;
mod log_recovery;
mod memory;
mod seeds;
mod varint;

use std::sync::{Mutex, PoisonError};

use unlatched::broker::embedded::EmbeddedBroker;
use unlatched::broker::{ErrorCode, NodeId};
use unlatched::error::TopicPartition;
use unlatched::record::Codec;
use unlatched::record::codec::{Decoder, Fault};

/// What is allocated is counted for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn fmt_22_the_decoder_takes_every_seed_within_its_stated_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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

#[test]
fn broker_reads_back_a_batch_of_many_small_records_without_memory_for_each() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let partition = TopicPartition::new("t", 0);
    for codec in Codec::ALL {
        let broker = EmbeddedBroker::builder().max_message_bytes(4 << 20).open().unwrap();
        broker.create_topic("t", 1).unwrap();
        let (batch, uncompressed) = seeds::of_many(codec, 200_000);
        assert_eq!(broker.produce(NodeId(0), &partition, &batch).error, ErrorCode::None, "{codec}");
        let (count, peak) = memory::peak(|| broker.read(&partition, 0).unwrap().records().map(Result::unwrap).count());
        assert_eq!(count, 200_000);
        // Decompressed it may lie in a vector twice as large, and the contexts come on top.
        let bound = 2 * uncompressed + Decoder::CONTEXT;
        assert!(peak <= bound, "{codec}: {peak} bytes for {uncompressed} of records");
    }
}
