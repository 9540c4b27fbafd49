//! Batches with a codec: BATCH-03, BATCH-05 to BATCH-08, FMT-20, POOL-15. The twin compresses while it appends, as Kafka does, and judges room by an estimate; the lock-free core compresses what is
//! sealed, and its batches are bounded uncompressed (GAP-34 in `papers/scope.md`).

use unlatched::accumulator::{Accumulator, AccumulatorConfig, SenderView};
use unlatched::batch::{Compressor, OffPool, OpenBatch, Reply, SealedBatch};
use unlatched::error::TopicPartition;
use unlatched::primitive::random::Random;
use unlatched::record::codec::{DEFAULT_LIMIT, Decoder};
use unlatched::record::{BATCH_OVERHEAD, Codec, RecordBatch, record_size};

use crate::batch::{open, push, tp, value};
use crate::deviations::{Behaviour, keeps};
use crate::rig::{NODE, PARTITIONS, Rig, config};
use crate::support::{Core, LONG, on_every_core};

on_every_core![
    batch_03_room_is_judged_by_the_estimated_ratio,
    batch_05_the_estimate_follows_what_closed_batches_had,
    batch_05_partitions_of_a_topic_share_an_estimate_and_topics_do_not,
    batch_06_the_ratio_is_of_record_bytes_without_the_header,
    batch_06_what_a_codec_makes_larger,
    batch_07_what_outgrows_its_lease_lies_outside_of_the_pool_and_is_counted,
    batch_07_a_codecs_memory_does_not_grow_with_the_number_of_batches,
    batch_08_a_retry_sends_the_same_bytes,
    batch_08_a_closed_batch_is_not_compressed,
    fmt_20_what_was_appended_is_what_is_read_with_every_codec,
    pool_15_a_stream_that_outgrew_its_lease_credits_the_lease,
    acc_28_the_request_size_bounds_compressed_bytes,
    gap_34_an_estimate_belongs_to_one_accumulator,
];

/// Bytes of a batch here.
const LIMIT: usize = 4096;
/// Bytes of a value here.
const VALUE: usize = 100;

fn rig<C: Core>(compression: &str) -> Rig<C> {
    Rig::with(AccumulatorConfig {
        buffer_memory: 64 * LIMIT as u64,
        batch_size: LIMIT,
        linger: LONG,
        compression: compression.parse().unwrap(),
        ..config()
    })
}

/// A value that compresses well.
const PLAIN: [u8; VALUE] = [b'x'; VALUE];

/// Values that do not compress.
fn noise(random: &mut Random) -> Vec<u8> {
    (0..VALUE).map(|_| random.below(256) as u8).collect()
}

/// Bytes of the records of a batch of `count` values of [`VALUE`] bytes.
fn uncompressed(count: u32) -> usize {
    (0..count).map(|index| record_size(index, 0, &value(&PLAIN))).sum()
}

/// How many such records find room in a batch opened with the estimate `ratio` (BATCH-02, BATCH-03).
fn room<C: Core>(ratio: f32) -> u32 {
    let mut count = 0;
    loop {
        let (records, next) = (uncompressed(count), record_size(count, 0, &value(&PLAIN)));
        let estimated = match keeps::<C>("GAP-34") {
            Behaviour::Kafka => BATCH_OVERHEAD + (records as f32 * ratio * 1.05) as usize,
            Behaviour::Promise => BATCH_OVERHEAD + records,
        };
        if count > 0 && estimated + next > LIMIT {
            return count;
        }
        count += 1;
    }
}

/// What BATCH-05 makes of an estimate.
fn observed(estimate: f32, ratio: f32) -> f32 {
    if ratio > estimate { (estimate + 0.05).max(ratio) } else { (estimate - 0.005).max(ratio) }
}

/// One partition that is filled batch by batch, and the estimates that it should have.
struct Filling {
    partition: i32,
    /// When the open batch was opened.
    ratio: f32,
    /// Records in the open batch.
    open: u32,
}

impl Filling {
    fn new(partition: i32, estimate: f32) -> Self {
        Self { partition, ratio: estimate, open: 0 }
    }

    /// Appends until a batch is full, which must be where it is expected, and drains it; updates `estimate`.
    #[track_caller]
    fn batch<C: Core>(
        &mut self,
        rig: &mut Rig<C>,
        estimate: &mut f32,
        mut content: impl FnMut() -> Vec<u8>,
    ) -> SealedBatch {
        let expected = room::<C>(self.ratio);
        let mut count = self.open;
        while !rig.append(self.partition, &content()).new_batch || count == 0 {
            count += 1;
        }
        assert_eq!(count, expected, "records in a batch of an estimated ratio of {}", self.ratio);
        (self.open, self.ratio) = (1, *estimate);
        let batch = rig.drain_one();
        assert_eq!(batch.record_count(), expected);
        *estimate = observed(*estimate, batch.compression_ratio() as f32);
        batch
    }
}

fn batch_03_room_is_judged_by_the_estimated_ratio<C: Core>() {
    for compression in ["gzip", "snappy", "lz4", "zstd"] {
        let mut rig = rig::<C>(compression);
        // Nothing observed yet: the estimate is 1, and a codec costs room, since 5 % are added.
        let (mut filling, mut estimate) = (Filling::new(0, 1.0), 1.0);
        let batch = filling.batch(&mut rig, &mut estimate, || PLAIN.to_vec());
        assert!(batch.compression_ratio() < 0.2, "{compression}: {}", batch.compression_ratio());
        assert_eq!(batch.size(), batch.as_bytes().len(), "exact once it is closed");
        rig.acknowledge(batch);
    }
}

fn batch_05_the_estimate_follows_what_closed_batches_had<C: Core>() {
    let mut rig = rig::<C>("lz4");
    let (mut filling, mut estimate) = (Filling::new(0, 1.0), 1.0);
    let mut counts = Vec::new();
    for _ in 0..120 {
        let batch = filling.batch(&mut rig, &mut estimate, || PLAIN.to_vec());
        counts.push(batch.record_count());
        rig.acknowledge(batch);
    }
    // Better: by half a percent a batch.
    assert!((estimate - 0.4).abs() < 0.01, "{estimate}");
    match keeps::<C>("GAP-34") {
        Behaviour::Kafka => assert!(counts[119] > 2 * counts[0], "{counts:?}"),
        Behaviour::Promise => assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}"),
    }
    // A little worse and a little better by turns: up by five percent at least.
    let mut random = Random::seeded(1);
    for _ in 0..20 {
        let batch = filling.batch(&mut rig, &mut estimate, || {
            if random.below(100) < 42 { noise(&mut random) } else { PLAIN.to_vec() }
        });
        rig.acknowledge(batch);
    }
    // Much worse: at once.
    for _ in 0..3 {
        let batch = filling.batch(&mut rig, &mut estimate, || noise(&mut random));
        rig.acknowledge(batch);
    }
    assert!(estimate > 0.9, "{estimate}");
}

fn batch_05_partitions_of_a_topic_share_an_estimate_and_topics_do_not<C: Core>() {
    let mut rig = rig::<C>("zstd");
    let (mut first, mut estimate) = (Filling::new(0, 1.0), 1.0);
    for _ in 0..40 {
        let batch = first.batch(&mut rig, &mut estimate, || PLAIN.to_vec());
        rig.acknowledge(batch);
    }
    assert!(estimate < 0.81, "{estimate}");
    // Another partition of the topic begins where this one is; another topic does not.
    let full = |topic_partition: TopicPartition| {
        let partition = rig.accumulator.partition(&topic_partition);
        let append = || rig.accumulator.append(&partition, &value(&PLAIN), Reply::IGNORE, LONG).unwrap().new_batch;
        assert!(append());
        (1..).take_while(|_| !append()).count() as u32 + 1
    };
    assert_eq!(full(tp(1)), room::<C>(estimate));
    assert_eq!(full(TopicPartition::new("another", 0)), room::<C>(1.0));
}

fn batch_06_the_ratio_is_of_record_bytes_without_the_header<C: Core>() {
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let mut rig = rig::<C>(compression);
        (0..20).for_each(|_| rig.push(0, &PLAIN));
        let batch = rig.drain_one();
        let (sent, records) = (batch.as_bytes().len() - 61, uncompressed(20));
        assert_eq!(batch.uncompressed_size(), 61 + records, "{compression}");
        assert_eq!(batch.compression_ratio(), sent as f64 / records as f64, "{compression}");
        assert_eq!(batch.compression_ratio() < 1.0, compression != "none");
        assert_eq!(RecordBatch::parse(batch.as_bytes()).unwrap().0.codec(), batch.codec());
        assert_eq!(batch.codec().name(), compression);
        rig.acknowledge(batch);
    }
}

fn batch_06_what_a_codec_makes_larger<C: Core>() {
    let mut random = Random::seeded(2);
    for compression in ["gzip", "snappy", "lz4", "zstd"] {
        let mut rig = rig::<C>(compression);
        let contents: Vec<_> = (0..5).map(|_| noise(&mut random)).collect();
        contents.iter().for_each(|content| rig.push(0, content));
        let batch = rig.drain_one();
        match keeps::<C>("GAP-34") {
            Behaviour::Kafka => assert_eq!(batch.codec().name(), compression),
            Behaviour::Promise => {
                assert_eq!((batch.codec(), batch.compression_ratio()), (Codec::None, 1.0), "{compression}");
                assert_eq!(batch.size(), 61 + uncompressed(5));
            }
        }
        assert_eq!(read(&batch), contents, "{compression}");
        rig.acknowledge(batch);
    }
}

/// Batches of a topic whose estimate has become far too good: noise where one letter was before.
fn surprised<C: Core>(rig: &mut Rig<C>) -> SealedBatch {
    let (mut filling, mut estimate) = (Filling::new(0, 1.0), 1.0);
    for _ in 0..120 {
        let batch = filling.batch(rig, &mut estimate, || PLAIN.to_vec());
        rig.acknowledge(batch);
    }
    let mut random = Random::seeded(3);
    filling.batch(rig, &mut estimate, || noise(&mut random))
}

fn batch_07_what_outgrows_its_lease_lies_outside_of_the_pool_and_is_counted<C: Core>() {
    let mut rig = rig::<C>("lz4");
    let batch = surprised(&mut rig);
    let with = rig.accumulator.off_pool();
    assert_eq!(batch.charged(), LIMIT);
    match keeps::<C>("GAP-34") {
        Behaviour::Kafka => {
            assert!(batch.size() > 2 * LIMIT, "{} bytes in a lease of {LIMIT}", batch.size());
            let size = batch.size() as u64;
            rig.acknowledge(batch);
            let given_back = with.bytes - rig.accumulator.off_pool().bytes;
            // By a tenth at a time.
            assert!((size..=size * 11 / 10 + 1).contains(&given_back), "{given_back} for {size}");
        }
        Behaviour::Promise => {
            assert!(batch.size() <= LIMIT);
            rig.acknowledge(batch);
            assert_eq!(rig.accumulator.off_pool(), with, "one scratch and one context, and no batch's");
        }
    }
    assert!(rig.accumulator.off_pool().peak >= with.bytes);
}

fn batch_07_a_codecs_memory_does_not_grow_with_the_number_of_batches<C: Core>() {
    for compression in ["gzip", "snappy", "lz4", "zstd"] {
        let mut rig = rig::<C>(compression);
        let round = |rig: &mut Rig<C>| {
            for partition in 0..PARTITIONS {
                (0..room::<C>(1.0)).for_each(|_| rig.push(partition, &PLAIN));
            }
            rig.acknowledge_all();
            rig.accumulator.off_pool()
        };
        let after_one = round(&mut rig);
        assert!(after_one.bytes > 1_000 && after_one.peak >= after_one.bytes, "{compression}: {after_one:?}");
        for _ in 0..20 {
            let after = round(&mut rig);
            assert_eq!((after.bytes, after.peak), (after_one.bytes, after_one.peak), "{compression}");
        }
    }
    let mut none = rig::<C>("none");
    none.push(0, &PLAIN);
    none.acknowledge_all();
    assert_eq!(none.accumulator.off_pool().peak, 0, "without a codec there is none");
}

fn batch_08_a_retry_sends_the_same_bytes<C: Core>() {
    for compression in ["gzip", "snappy", "lz4", "zstd"] {
        let mut rig = rig::<C>(compression);
        (0..10).for_each(|_| rig.push(0, &PLAIN));
        let batch = rig.drain_one();
        let (sent, ratio) = (batch.as_bytes().to_vec(), batch.compression_ratio());
        rig.reenqueue(batch);
        rig.pass(10_000);
        let batch = rig.drain_one();
        assert_eq!((batch.as_bytes(), batch.compression_ratio()), (&*sent, ratio), "{compression}");
        rig.acknowledge(batch);
    }
}

fn batch_08_a_closed_batch_is_not_compressed<C: Core>() {
    let mut compressor = Compressor::new("zstd".parse().unwrap(), &OffPool::new()).unwrap();
    for closed in [false, true] {
        let mut batch = open::<C>(LIMIT);
        (0..9).for_each(|_| assert!(push(&mut batch, &value(&PLAIN)) > VALUE));
        let mut batch = batch.seal();
        if closed {
            batch.close().unwrap();
        }
        batch.compress(&mut compressor);
        batch.close().unwrap();
        assert_eq!(batch.codec(), if closed { Codec::None } else { Codec::Zstd });
        assert_eq!(read(&batch), [PLAIN; 9]);
    }
}

/// The values in a batch, compressed or not.
fn read(batch: &SealedBatch) -> Vec<Vec<u8>> {
    let (parsed, rest) = RecordBatch::parse(batch.as_bytes()).expect("a whole batch with a good checksum");
    assert!(rest.is_empty());
    let mut space = Vec::new();
    let records = parsed.decompress(&mut Decoder::default(), DEFAULT_LIMIT, &mut space).expect("a good stream");
    records.map(|record| record.expect("a good record").value.unwrap_or_default().to_vec()).collect()
}

fn fmt_20_what_was_appended_is_what_is_read_with_every_codec<C: Core>() {
    for compression in ["none", "gzip", "gzip:1", "snappy", "lz4", "lz4:3", "zstd", "zstd:-7", "zstd:12"] {
        let mut rig = rig::<C>(compression);
        let mut random = Random::seeded(4);
        let mut sent: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 3];
        let mut got = sent.clone();
        for number in 0..900_u64 {
            let partition = random.below(3) as usize;
            // Empty ones, text, noise, and every now and then one that is larger than a batch.
            let content = match random.below(40) {
                0 => Vec::new(),
                1 => (0..9_000).map(|_| random.below(256) as u8).collect(),
                2 => vec![b'z'; 70_000],
                3..10 => noise(&mut random),
                _ => format!("{number},2013-01-01,EWR,IAH,{}", number * 7 % 300).into_bytes(),
            };
            rig.push(partition as i32, &content);
            sent[partition].push(content);
            if number % 50 == 49 {
                while rig.accumulator.has_undrained() {
                    for batch in rig.drain() {
                        got[batch.topic_partition().partition as usize].extend(read(&batch));
                        rig.acknowledge(batch);
                    }
                }
            }
        }
        assert!(sent == got, "{compression}");
        let pool = rig.accumulator.pool();
        assert_eq!(pool.available(), pool.total, "{compression}");
    }
}

fn pool_15_a_stream_that_outgrew_its_lease_credits_the_lease<C: Core>() {
    let mut rig = rig::<C>("lz4");
    let batch = surprised(&mut rig);
    // That batch, and the open one with a record behind it.
    let pool = rig.accumulator.pool();
    assert_eq!(pool.available(), pool.total - 2 * LIMIT as u64);
    rig.acknowledge(batch);
    assert_eq!(rig.accumulator.pool().available(), pool.total - LIMIT as u64, "what was charged, and no more");
    rig.acknowledge_all();
    assert_eq!(rig.accumulator.pool().available(), pool.total);
}

fn acc_28_the_request_size_bounds_compressed_bytes<C: Core>() {
    let mut rig = rig::<C>("zstd");
    for partition in 0..PARTITIONS {
        (0..room::<C>(1.0)).for_each(|_| rig.push(partition, &PLAIN));
        // A batch behind it, so that its size is known for sure.
        rig.push(partition, &PLAIN);
    }
    // All of them together are smaller than one of them uncompressed.
    let drained = rig.view.drain(&rig.cluster, &[NODE], LIMIT, rig.clock.look()).remove(0).batches;
    assert_eq!(drained.len(), PARTITIONS as usize);
    assert!(drained.iter().map(SealedBatch::size).sum::<usize>() <= LIMIT);
    drained.into_iter().for_each(|batch| rig.acknowledge(batch));
}

fn gap_34_an_estimate_belongs_to_one_accumulator<C: Core>() {
    let mut one = rig::<C>("lz4");
    let (mut filling, mut estimate) = (Filling::new(0, 1.0), 1.0);
    for _ in 0..40 {
        let batch = filling.batch(&mut one, &mut estimate, || PLAIN.to_vec());
        one.acknowledge(batch);
    }
    // What another has seen of the same topic is nothing to this one.
    let mut other = rig::<C>("lz4");
    let batch = Filling::new(0, 1.0).batch(&mut other, &mut 1.0, || PLAIN.to_vec());
    other.acknowledge(batch);
}
