//! Codecs: how the records of a batch are compressed and read back.
//!
//! What is compressed is everything behind the header of [`BATCH_OVERHEAD`](super::BATCH_OVERHEAD) bytes, as one stream; the header never is (FMT-20). [`Compression`] says which codec
//! and how hard, [`Encoder`] writes streams, [`Decoder`] reads them.
//!
//! | codec | stream, as Kafka's Java client writes it | levels, default | through |
//! |---|---|---|---|
//! | gzip | one gzip member | 1 to 9, or -1 for zlib's own choice; -1 | `flate2` on zlib-rs |
//! | snappy | xerial's framing: a header of 16 bytes, then raw snappy of 32 KiB each behind its length, big-endian | none | `snap`; the framing is here |
//! | lz4 | LZ4 frame: independent blocks of 64 KiB, no checksum but the header's | 1 to 17; 9 | `lz4` (liblz4); the framing is here |
//! | zstd | one zstd frame without checksum | -131072 to 22; 3 | `zstd-safe` (libzstd) |
//!
//! As in Kafka, lz4's default level means the fast compressor, and every other level the thorough one; liblz4 takes levels above 12 as 12.
//!
//! # Bounds
//! An [`Encoder`] keeps its context and one block from stream to stream; [`Encoder::memory`] says how many bytes. What it writes it hands on at once, so nothing grows with the stream.
//!
//! A [`Decoder`] trusts nothing. The caller gives the most bytes that it will take; what is larger is refused when that many have been decompressed, or before, if the stream says its size. Memory follows the
//! bytes that come out, never a length field: it doubles as they come, a size that a frame claims is taken only as far as the bytes there could make it. So a decoder never holds more than the limit and
//! [`Decoder::CONTEXT`] bytes, whatever it is given; while the output moves to larger room, what it had before comes on top, once.
//!
//! Source: Kafka's `CompressionType`, `GzipCompression`, `SnappyCompression`, `Lz4BlockOutputStream`, `ZstdCompression`; CFG-15, CFG-16.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

pub use decode::{Decoder, Fault};
pub use encode::Encoder;

use super::Codec;

/// Most bytes of records that are decompressed for one batch unless the caller says otherwise: 64 MiB.
pub const DEFAULT_LIMIT: usize = 64 << 20;

/// Bytes of a block of snappy. Kafka: `SnappyOutputStream`'s default.
const SNAPPY_BLOCK: usize = 32 << 10;
/// Head of a stream of snappy: magic, version 1, compatible with version 1.
const SNAPPY_HEAD: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Bytes of a block of lz4.
const LZ4_BLOCK: usize = 64 << 10;
/// Head of a frame of lz4: magic; version 1, blocks independent, no checksums, no size; blocks of 64 KiB; second byte of the xxHash of these two.
const LZ4_HEAD: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];

impl Codec {
    /// All of them, by their ids.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// As Kafka's configuration calls it. Kafka: `CompressionType.name`.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// Its levels and the one that is meant where none is given, if it has any.
    const fn levels(self) -> Option<(RangeInclusive<i32>, i32)> {
        match self {
            Codec::None | Codec::Snappy => None,
            Codec::Gzip => Some((1..=9, GZIP_DEFAULT)),
            Codec::Lz4 => Some((1..=17, LZ4_DEFAULT)),
            Codec::Zstd => Some((-131_072..=22, 3)),
        }
    }
}

/// gzip's level outside of its range: zlib decides.
const GZIP_DEFAULT: i32 = -1;
/// The level of lz4 that means its fast compressor.
const LZ4_DEFAULT: i32 = 9;

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A codec and its level: `compression.type` and `compression.<type>.level` (CFG-15, CFG-16). Only levels that the codec has can be made.
///
/// ```
/// use unlatched::record::{Codec, codec::Compression};
/// let zstd: Compression = "zstd:19".parse()?;
/// assert_eq!((zstd.codec(), zstd.level()), (Codec::Zstd, Some(19)));
/// assert_eq!(zstd.to_string(), "zstd:19");
/// assert_eq!("lz4".parse::<Compression>()?.level(), Some(9));
/// assert_eq!("snappy:1".parse::<Compression>().unwrap_err().to_string(), "snappy has no levels: write snappy");
/// # Ok::<(), unlatched::record::codec::CompressionError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Compression {
    codec: Codec,
    level: i32,
}

impl Compression {
    /// No compression.
    pub const NONE: Self = Self { codec: Codec::None, level: 0 };

    /// `codec` at its default level.
    pub const fn new(codec: Codec) -> Self {
        let level = match codec.levels() {
            Some((_, default)) => default,
            None => 0,
        };
        Self { codec, level }
    }

    /// `codec` at `level`.
    ///
    /// # Errors
    /// [`CompressionError::Level`] if it has no such level, [`CompressionError::NoLevels`] if it has none at all.
    pub fn with_level(codec: Codec, level: i32) -> Result<Self, CompressionError> {
        let Some((levels, default)) = codec.levels() else { return Err(CompressionError::NoLevels { codec }) };
        if !levels.contains(&level) && level != default {
            return Err(CompressionError::Level { codec, level });
        }
        Ok(Self { codec, level })
    }

    /// The codec.
    pub const fn codec(self) -> Codec {
        self.codec
    }

    /// Its level, if the codec has levels.
    pub const fn level(self) -> Option<i32> {
        match self.codec.levels() {
            Some(_) => Some(self.level),
            None => None,
        }
    }

    /// Whether records stay as they are.
    pub const fn is_none(self) -> bool {
        matches!(self.codec, Codec::None)
    }
}

impl fmt::Display for Compression {
    /// The codec, and its level where that is not the default one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.codec.levels() {
            Some((_, default)) if default != self.level => f.pad(&format!("{}:{}", self.codec, self.level)),
            _ => f.pad(self.codec.name()),
        }
    }
}

impl FromStr for Compression {
    type Err = CompressionError;

    /// `none`, `gzip`, `snappy`, `lz4` or `zstd`, and `:level` behind it where the codec has levels.
    fn from_str(text: &str) -> Result<Self, CompressionError> {
        let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
        let codec = Codec::ALL.into_iter().find(|codec| codec.name() == name);
        let codec = codec.ok_or_else(|| CompressionError::Unknown { name: name.to_owned() })?;
        let Some(level) = level else { return Ok(Self::new(codec)) };
        match level.parse() {
            Ok(level) => Self::with_level(codec, level),
            Err(_) => Err(CompressionError::NotALevel { codec, text: level.to_owned() }),
        }
    }
}

/// Why there is no such compression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompressionError {
    /// No codec of this name.
    #[error("no codec is called {name:?}: give none, gzip, snappy, lz4 or zstd")]
    Unknown {
        /// The name given.
        name: String,
    },
    /// The codec has levels, and this is none of them.
    #[error("{codec} has no level {level}: give {}", levels(*codec))]
    Level {
        /// The codec.
        codec: Codec,
        /// The level given.
        level: i32,
    },
    /// The level is no number.
    #[error("{text:?} is no level: {}", advice(*codec))]
    NotALevel {
        /// The codec.
        codec: Codec,
        /// What was given as its level.
        text: String,
    },
    /// The codec has no levels.
    #[error("{codec} has no levels: write {codec}")]
    NoLevels {
        /// The codec.
        codec: Codec,
    },
}

/// The levels of `codec` in words.
fn levels(codec: Codec) -> String {
    match codec.levels() {
        None => "none".to_owned(),
        Some((levels, default)) if levels.contains(&default) => format!("{} to {}", levels.start(), levels.end()),
        Some((levels, default)) => format!("{} to {}, or {default}", levels.start(), levels.end()),
    }
}

fn advice(codec: Codec) -> String {
    match codec.levels() {
        None => format!("{codec} has none, write {codec}"),
        Some(_) => format!("give {}", levels(codec)),
    }
}
