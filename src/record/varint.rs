//! Variable-length integers.
//!
//! A signed number is zig-zagged first (0, -1, 1, -2 become 0, 1, 2, 3), so that small numbers of
//! either sign stay short. Then it is cut into groups of seven bits, lowest group first; the high
//! bit of a byte says that more follow. An `i32` takes 1 to [`MAX_VARINT_LEN`] bytes, an `i64`
//! 1 to [`MAX_VARLONG_LEN`].
//!
//! An `i32` and the same number as an `i64` have the same bytes, so one writer serves both.
//! Kafka: `ByteUtils.writeVarint`, `.writeVarlong`, `.readVarint`, `.readVarlong`,
//! `.sizeOfVarint`, `.sizeOfVarlong`.

use thiserror::Error;

/// The longest encoding of an `i32`, in bytes.
pub const MAX_VARINT_LEN: usize = 5;

/// The longest encoding of an `i64`, in bytes.
pub const MAX_VARLONG_LEN: usize = 10;

/// The last group of a five-byte varint holds bits 28..32.
const VARINT_LAST_MAX: u8 = 0x0f;

/// The last group of a ten-byte varlong holds bit 63.
const VARLONG_LAST_MAX: u8 = 0x01;

/// Why a variable-length integer could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VarintError {
    /// The input ended while the last byte still announced more.
    #[error("the input ends inside a variable-length integer")]
    Truncated,
    /// The number has no end within the allowed bytes, or is wider than its type.
    #[error("the variable-length integer does not fit its type")]
    TooLong,
}

/// Maps a signed number to an unsigned one with the sign in the lowest bit.
#[inline]
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline]
pub const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Bytes that `value` takes as unsigned groups of seven bits: 1 to 10.
///
/// A closed form, no loop: `ceil(bits / 7)`, zero counting as one bit. One or two bytes are found by the branches that [`write_unsigned`] has as well: a guess that is right keeps the sum of lengths, on which the
/// next record's place depends, off the computation.
#[inline]
pub(super) const fn unsigned_len(value: u64) -> usize {
    if value < 1 << 7 {
        return 1;
    }
    if value < 1 << 14 {
        return 2;
    }
    let bits = (u64::BITS - (value | 1).leading_zeros()) as usize;
    (bits * 9 + 64) / 64
}

/// Bytes that [`write_varint`] uses for `value`: 1 to 5.
#[inline]
pub const fn varint_len(value: i32) -> usize {
    varlong_len(value as i64)
}

/// Bytes that [`write_varlong`] uses for `value`: 1 to 10.
#[inline]
pub const fn varlong_len(value: i64) -> usize {
    unsigned_len(zigzag(value))
}

/// Writes `value` at the front of `buf` and returns the bytes used.
///
/// # Panics
///
/// If `buf` is shorter than [`varint_len`]`(value)`.
#[inline]
pub fn write_varint(buf: &mut [u8], value: i32) -> usize {
    write_varlong(buf, i64::from(value))
}

/// Writes `value` at the front of `buf` and returns the bytes used.
///
/// # Panics
///
/// If `buf` is shorter than [`varlong_len`]`(value)`.
#[inline]
pub fn write_varlong(buf: &mut [u8], value: i64) -> usize {
    write_unsigned(buf, zigzag(value))
}

/// Writes `value` in groups of seven bits and returns the bytes used.
///
/// Almost every number in a record takes one or two bytes, so these two lengths are straight code.
#[inline]
pub(super) fn write_unsigned(buf: &mut [u8], value: u64) -> usize {
    if value < 1 << 7 {
        buf[0] = value as u8;
        1
    } else if value < 1 << 14 {
        buf[..2].copy_from_slice(&[value as u8 | 0x80, (value >> 7) as u8]);
        2
    } else {
        write_unsigned_long(buf, value)
    }
}

fn write_unsigned_long(buf: &mut [u8], mut value: u64) -> usize {
    let mut at = 0;
    while value >= 1 << 7 {
        buf[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    buf[at] = value as u8;
    at + 1
}

/// Reads an `i32` from the front of `bytes`; returns it with the bytes used.
///
/// Longer encodings than needed (`80 00` for 0) are read like the short ones, as Kafka does.
///
/// # Errors
///
/// [`VarintError::Truncated`] if `bytes` ends first; [`VarintError::TooLong`] if the fifth byte
/// has its high bit set or does not fit 32 bits.
#[inline]
pub fn read_varint(bytes: &[u8]) -> Result<(i32, usize), VarintError> {
    let (value, len) = read_unsigned::<MAX_VARINT_LEN, VARINT_LAST_MAX>(bytes)?;
    // At most 32 bits were read, so the signed value fits.
    Ok((unzigzag(value) as i32, len))
}

/// Reads an `i64` from the front of `bytes`; returns it with the bytes used.
///
/// # Errors
///
/// [`VarintError::Truncated`] if `bytes` ends first; [`VarintError::TooLong`] if the tenth byte
/// has its high bit set or does not fit 64 bits.
#[inline]
pub fn read_varlong(bytes: &[u8]) -> Result<(i64, usize), VarintError> {
    let (value, len) = read_unsigned::<MAX_VARLONG_LEN, VARLONG_LAST_MAX>(bytes)?;
    Ok((unzigzag(value), len))
}

/// Reads up to `MAX` groups; the last possible one must not exceed `LAST`.
#[inline]
fn read_unsigned<const MAX: usize, const LAST: u8>(bytes: &[u8]) -> Result<(u64, usize), VarintError> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(MAX).enumerate() {
        if index + 1 == MAX && byte > LAST {
            return Err(VarintError::TooLong);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok((value, index + 1));
        }
    }
    // `MAX` bytes always end in one of the two returns above.
    Err(VarintError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fmt_16_unsigned_len_is_the_ceiling_of_bits_over_seven() {
        assert_eq!(unsigned_len(0), 1);
        for bits in 1..=64_u32 {
            let largest = u64::MAX >> (64 - bits);
            let smallest = 1_u64 << (bits - 1);
            let want = bits.div_ceil(7) as usize;
            assert_eq!(unsigned_len(largest), want, "{bits} bits");
            assert_eq!(unsigned_len(smallest), want, "{bits} bits");
        }
    }

    #[test]
    fn fmt_16_written_length_equals_the_closed_form_at_every_group_boundary() {
        for bits in 0..64 {
            let edge = 1_u64 << bits;
            for value in [edge - 1, edge, edge + 1] {
                let mut buf = [0xaa; 11];
                let len = write_unsigned(&mut buf, value);
                assert_eq!(len, unsigned_len(value), "{value}");
                assert!(buf[..len - 1].iter().all(|byte| byte & 0x80 != 0), "{value}");
                assert_eq!(buf[len - 1] & 0x80, 0, "{value}");
                assert!(buf[len..].iter().all(|&byte| byte == 0xaa), "{value}");
            }
        }
    }

    #[test]
    fn fmt_16_zigzag_puts_the_sign_in_the_lowest_bit() {
        for (signed, unsigned) in [(0, 0), (-1, 1), (1, 2), (-2, 3), (i64::MAX, u64::MAX - 1), (i64::MIN, u64::MAX)] {
            assert_eq!(zigzag(signed), unsigned);
            assert_eq!(unzigzag(unsigned), signed);
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn fmt_16_a_short_buffer_panics_for_two_bytes() {
        write_varint(&mut [0; 1], 64);
    }
}
