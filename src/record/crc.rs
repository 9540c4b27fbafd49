//! The checksum of a batch.

/// CRC-32C (Castagnoli; also called CRC-32/ISCSI) of `bytes`.
///
/// In a batch it covers everything from the attributes to the end.
/// Kafka: `Crc32C.compute`.
///
/// ```
/// assert_eq!(unlatched::record::crc32c(b"123456789"), 0xe306_9283);
/// ```
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    /// One bit at a time, reflected polynomial 0x1edc6f41.
    fn bitwise(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0_u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
        })
    }

    #[test]
    fn fmt_05_equals_the_bitwise_definition_at_every_length_and_alignment() {
        let bytes: Vec<u8> = (0..1200_u32).map(|i| (i * 167 + 13) as u8).collect();
        for start in 0..17 {
            for len in (0..300).chain([511, 512, 513, 1024, 1100]) {
                let slice = &bytes[start..start + len];
                assert_eq!(crc32c(slice), bitwise(slice), "{start}+{len}");
            }
        }
    }
}
