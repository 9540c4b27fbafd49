//! Which partition a record goes to.
//!
//! A record with a key goes where the hash of its key says: [`partition_for_key`]. The same key then always
//! lands in the same partition, as long as the number of partitions stays, and it is the partition that every
//! other Kafka client with the default partitioner would choose. A record without a key may go anywhere;
//! [`RoundRobin`] deals such records out one by one.
//!
//! Everything here is plain arithmetic: nothing is shared, nothing blocks, nothing allocates.
//!
//! Source: Kafka's `Utils.murmur2`, `Utils.toPositive`, `BuiltInPartitioner.partitionForKey`,
//! `RoundRobinPartitioner.partition`.

/// The seed that Kafka's clients agreed on.
const SEED: u32 = 0x9747_b28c;
/// The multiplier of MurmurHash 2.
const M: u32 = 0x5bd1_e995;
/// The shift of MurmurHash 2, in bits.
const R: u32 = 24;

/// Hashes `data` with 32-bit MurmurHash 2 and the seed that Kafka uses.
///
/// The result is signed, because Kafka's is, and every bit of it matters: clients in other languages must
/// compute the same number. Lengths count modulo 2^32.
///
/// Source: Kafka's `Utils.murmur2`.
///
/// ```
/// use unlatched::producer::murmur2;
///
/// assert_eq!(murmur2(b"foobar"), -790_332_482);
/// ```
#[must_use]
pub fn murmur2(data: &[u8]) -> i32 {
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ (hash >> 15)) as i32
}

/// The partition, from 0 to `partitions - 1`, of a record with this key.
///
/// `partitions` is the number of **all** partitions of the topic, those without a leader included: a partition
/// that is down for a while must not move the keys of the others. The sign bit of the hash is masked off, not
/// negated. An empty key is a key; only an absent one is not.
///
/// Source: Kafka's `BuiltInPartitioner.partitionForKey`.
///
/// # Panics
///
/// If `partitions` is less than 1.
///
/// ```
/// use unlatched::producer::partition_for_key;
///
/// assert_eq!(partition_for_key(b"foobar", 10), 6);
/// ```
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    check(partitions);
    (murmur2(key) & i32::MAX) % partitions
}

/// Deals records without a key out over the partitions: 0, 1, 2, ... and round again.
///
/// One value belongs to one thread and one topic. It is a plain counter, so threads never meet in it, and a
/// record costs one addition and one comparison. Threads that all begin at partition 0 would march in step;
/// [`starting_at`](Self::starting_at) spreads them.
///
/// Source: Kafka's `RoundRobinPartitioner`, which counts per topic for all threads together.
///
/// ```
/// use unlatched::producer::RoundRobin;
///
/// let mut deal = RoundRobin::starting_at(1);
/// let dealt: Vec<i32> = (0..4).map(|_| deal.next(3)).collect();
/// assert_eq!(dealt, [1, 2, 0, 1]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    next: u32,
}

impl RoundRobin {
    /// Begins at partition 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins at partition `first`, modulo the number of partitions. The number of the thread is a good choice.
    #[must_use]
    pub fn starting_at(first: u32) -> Self {
        Self { next: first }
    }

    /// The next of `partitions` partitions.
    ///
    /// The number may differ from call to call: where it shrinks, the count begins again inside the new range.
    ///
    /// # Panics
    ///
    /// If `partitions` is less than 1.
    #[must_use]
    pub fn next(&mut self, partitions: i32) -> i32 {
        check(partitions);
        self.step(partitions as u32) as i32
    }

    /// The next of the partitions that have a leader; if there is none, the next of all `partitions`.
    ///
    /// # Panics
    ///
    /// If `available` is empty and `partitions` is less than 1, or if `available` has 2^32 entries or more.
    #[must_use]
    pub fn next_available(&mut self, available: &[i32], partitions: i32) -> i32 {
        if available.is_empty() {
            return self.next(partitions);
        }
        let count = u32::try_from(available.len()).expect("fewer than 2^32 partitions");
        available[self.step(count) as usize]
    }

    /// An index below `count`, which is at least 1. Divides only when the counter is out of range.
    fn step(&mut self, count: u32) -> u32 {
        let here = if self.next < count { self.next } else { self.next % count };
        self.next = here + 1;
        here
    }
}

fn check(partitions: i32) {
    assert!(partitions >= 1, "a topic has at least one partition, not {partitions}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key, signed hash, partition of 3, partition of 10.
    const VECTORS: &[(&[u8], i32, i32, i32)] = &[
        (b"", 275_646_681, 0, 1),
        (b"a", -1_563_381_124, 1, 4),
        (b"ab", 316_155_434, 2, 4),
        (b"abc", 479_470_107, 0, 7),
        (b"key", -1_079_937_367, 1, 1),
        (b"test", 716_234_879, 2, 9),
        (b"21", -973_932_308, 0, 0),
        (b"foobar", -790_332_482, 0, 6),
        (b"a-little-bit-long-string", -985_981_536, 2, 2),
        (b"a-little-bit-longer-string", -1_486_304_829, 2, 9),
        (&[0], 375_494_588, 2, 8),
        (&[0xff; 5], -363_838_622, 0, 6),
    ];

    #[test]
    fn prep_12_murmur2_of_every_known_vector() {
        for &(key, hash, ..) in VECTORS {
            assert_eq!(murmur2(key), hash, "{key:?}");
        }
    }

    #[test]
    fn prep_12_partition_of_every_known_vector() {
        for &(key, _, of_three, of_ten) in VECTORS {
            assert_eq!(partition_for_key(key, 3), of_three, "{key:?}");
            assert_eq!(partition_for_key(key, 10), of_ten, "{key:?}");
        }
    }

    /// The byte-by-byte form of the definition, to check the form with words against.
    fn murmur2_by_bytes(data: &[u8]) -> i32 {
        let byte = |i: usize| u32::from(data[i]);
        let mut h = 0x9747_b28c_u32 ^ data.len() as u32;
        let whole = data.len() / 4 * 4;
        for i in (0..whole).step_by(4) {
            let mut k = byte(i) | byte(i + 1) << 8 | byte(i + 2) << 16 | byte(i + 3) << 24;
            k = k.wrapping_mul(0x5bd1_e995);
            k ^= k >> 24;
            k = k.wrapping_mul(0x5bd1_e995);
            h = h.wrapping_mul(0x5bd1_e995);
            h ^= k;
        }
        for i in (whole..data.len()).rev() {
            h ^= byte(i) << (8 * (i - whole));
            if i == whole {
                h = h.wrapping_mul(0x5bd1_e995);
            }
        }
        h ^= h >> 13;
        h = h.wrapping_mul(0x5bd1_e995);
        (h ^ h >> 15) as i32
    }

    #[test]
    fn prep_11_tail_bytes_are_unsigned_and_little_endian() {
        // High bytes in every tail position, for every tail length.
        let data: Vec<u8> = (0..64_u32).map(|i| (0xff - i * 37 % 128) as u8).collect();
        for len in 0..data.len() {
            assert_eq!(murmur2(&data[..len]), murmur2_by_bytes(&data[..len]), "{len} bytes");
        }
    }

    #[test]
    fn prep_11_does_not_depend_on_alignment() {
        let data = b"xxxxa-little-bit-longer-string";
        for at in 0..4 {
            let mut moved = vec![0; at];
            moved.extend_from_slice(&data[4..]);
            assert_eq!(murmur2(&moved[at..]), -1_486_304_829, "offset {at}");
        }
    }

    #[test]
    fn prep_10_masks_the_sign_and_stays_in_range() {
        // "a" hashes to a negative number: masking gives 4 of 10, negating would give another partition.
        assert_eq!(partition_for_key(b"a", 10), (-1_563_381_124_i32 & i32::MAX) % 10);
        assert_ne!(partition_for_key(b"a", 7), 1_563_381_124 % 7);
        for partitions in [1, 2, 3, 7, 100, i32::MAX] {
            for n in 0..1000_u32 {
                let p = partition_for_key(&n.to_be_bytes(), partitions);
                assert!((0..partitions).contains(&p), "{n} of {partitions} gives {p}");
            }
        }
    }

    #[test]
    fn prep_10_uses_all_partitions_and_is_stable() {
        let mut seen = [0_u32; 16];
        for n in 0..4096_u32 {
            let p = partition_for_key(&n.to_le_bytes(), 16);
            assert_eq!(p, partition_for_key(&n.to_le_bytes(), 16));
            seen[p as usize] += 1;
        }
        assert!(seen.iter().all(|&n| n > 128), "a partition is starved: {seen:?}");
    }

    #[test]
    #[should_panic(expected = "at least one partition, not 0")]
    fn prep_10_no_partitions_is_a_caller_error() {
        let _ = partition_for_key(b"a", 0);
    }

    #[test]
    fn prep_17_round_robin_visits_every_partition_in_turn() {
        let mut deal = RoundRobin::new();
        let dealt: Vec<i32> = (0..7).map(|_| deal.next(3)).collect();
        assert_eq!(dealt, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn prep_17_round_robin_follows_a_changing_number_of_partitions() {
        let mut deal = RoundRobin::starting_at(7);
        assert_eq!(deal.next(5), 2);
        assert_eq!(deal.next(5), 3);
        assert_eq!(deal.next(2), 0);
        assert_eq!(deal.next(4), 1);
        let mut late = RoundRobin::starting_at(u32::MAX);
        assert!((0..10).contains(&late.next(10)));
    }

    #[test]
    fn prep_17_round_robin_prefers_available_partitions() {
        let mut deal = RoundRobin::new();
        let dealt: Vec<i32> = (0..4).map(|_| deal.next_available(&[1, 4], 5)).collect();
        assert_eq!(dealt, [1, 4, 1, 4]);
        let mut none = RoundRobin::new();
        let dealt: Vec<i32> = (0..3).map(|_| none.next_available(&[], 2)).collect();
        assert_eq!(dealt, [0, 1, 0]);
    }
}
