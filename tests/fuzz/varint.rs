//! Any bytes as a number of variable length, against a reading group by group.

use unlatched::record::varint::{
    MAX_VARINT_LEN, MAX_VARLONG_LEN, VarintError, read_varint, read_varlong, varint_len, varlong_len, write_varint,
    write_varlong,
};

/// Up to `most` groups of seven bits into a number of `bits` bits.
fn read(bytes: &[u8], most: usize, bits: u32) -> Result<(i128, usize), VarintError> {
    let mut value = 0_i128;
    for index in 0..most {
        let Some(&byte) = bytes.get(index) else { return Err(VarintError::Truncated) };
        value += i128::from(byte & 0x7f) * (1 << (7 * index));
        if value >= 1 << bits {
            return Err(VarintError::TooLong);
        }
        if byte < 0x80 {
            let half = value / 2;
            return Ok((if value % 2 == 0 { half } else { -half - 1 }, index + 1));
        }
    }
    Err(VarintError::TooLong)
}

pub(crate) fn run(data: &[u8]) {
    // Where both bounds are broken at once, which one is reported is nobody's business; a last group that is too large may also be named before the input's end.
    assert_eq!(
        read_varint(data).map(|(value, len)| (i128::from(value), len)).ok(),
        read(data, MAX_VARINT_LEN, 32).ok()
    );
    assert_eq!(
        read_varlong(data).map(|(value, len)| (i128::from(value), len)).ok(),
        read(data, MAX_VARLONG_LEN, 64).ok()
    );

    let mut buf = [0xaa; MAX_VARLONG_LEN];
    if let Ok((value, read)) = read_varint(data) {
        let len = write_varint(&mut buf, value);
        assert!(len == varint_len(value) && len <= read, "the shortest form");
        assert_eq!(read_varint(&buf[..len]), Ok((value, len)));
        for short in 0..len {
            assert_eq!(read_varint(&buf[..short]), Err(VarintError::Truncated));
        }
    }
    if let Ok((value, read)) = read_varlong(data) {
        let len = write_varlong(&mut buf, value);
        assert!(len == varlong_len(value) && len <= read, "the shortest form");
        assert_eq!(read_varlong(&buf[..len]), Ok((value, len)));
        for short in 0..len {
            assert_eq!(read_varlong(&buf[..short]), Err(VarintError::Truncated));
        }
    }
}
