//! Arithmetic on sequence numbers.
//!
//! Sequences are never negative. They count from 0 to 2^31 - 1, and 0 follows.

/// The sequence `count` records after `sequence`.
///
/// `sequence` must not be negative: [`NO_SEQUENCE`](super::NO_SEQUENCE) is not a number to count
/// from. The result is never negative. Kafka: `DefaultRecordBatch.incrementSequence`.
///
/// ```
/// use unlatched::record::increment_sequence;
/// assert_eq!(increment_sequence(7, 3), 10);
/// assert_eq!(increment_sequence(i32::MAX, 1), 0);
/// ```
#[inline]
pub const fn increment_sequence(sequence: i32, count: u32) -> i32 {
    (sequence as u32).wrapping_add(count) as i32 & i32::MAX
}

/// The sequence `count` records before `sequence`: the inverse of [`increment_sequence`].
///
/// Kafka: `DefaultRecordBatch.decrementSequence`.
///
/// ```
/// use unlatched::record::decrement_sequence;
/// assert_eq!(decrement_sequence(0, 1), i32::MAX);
/// ```
#[inline]
pub const fn decrement_sequence(sequence: i32, count: u32) -> i32 {
    (sequence as u32).wrapping_sub(count) as i32 & i32::MAX
}

/// Whether `sequence` comes after `other` and not before it, by serial arithmetic: the shorter way round counts (GAP-26).
///
/// ```
/// use unlatched::record::sequence_is_after;
/// assert!(sequence_is_after(1, i32::MAX) && !sequence_is_after(i32::MAX, 1) && !sequence_is_after(7, 7));
/// ```
#[inline]
pub const fn sequence_is_after(sequence: i32, other: i32) -> bool {
    let ahead = decrement_sequence(sequence, other as u32);
    ahead != 0 && ahead < 1 << 30
}
