//! Reading streams that may come from anywhere.

use std::fmt;
use std::io::{ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;
use zstd_safe::DCtx;
use zstd_safe::zstd_sys::ZSTD_ErrorCode;

use super::{Codec, SNAPPY_HEAD};

/// Bytes that are made room for at least.
const LEAST_ROOM: usize = 4 << 10;
/// The most that a byte of raw snappy can become: a copy takes three bytes for 64.
const SNAPPY_RATIO: usize = 22;
/// The most bytes that a block of zstd can become; the block takes four itself.
const ZSTD_BLOCK: u64 = 128 << 10;

/// Why a stream cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// More comes out than the caller takes.
    #[error("it has more than {limit} bytes uncompressed: allow more, or have it sent in smaller batches")]
    TooLarge {
        /// The most that the caller takes, in bytes.
        limit: usize,
    },
    /// It ends too early.
    #[error("the stream ends too early")]
    Truncated,
    /// It is no stream of this codec, or was damaged.
    #[error("the stream is damaged, or none of this codec")]
    Corrupt,
    /// Something follows its end.
    #[error("{extra} bytes follow the end of the stream")]
    Trailing {
        /// How many there are.
        extra: usize,
    },
}

/// Decompresses streams with contexts that it keeps.
///
/// ```
/// use unlatched::record::Codec;
/// use unlatched::record::codec::{Compression, Decoder, Encoder, Fault};
/// let zeros = vec![0; 1 << 20];
/// let mut stream = vec![0; 1 << 20];
/// let len = Encoder::new(Compression::new(Codec::Zstd)).unwrap().compress(&zeros, &mut stream).unwrap();
///
/// let (mut decoder, mut out) = (Decoder::default(), Vec::new());
/// decoder.decompress(Codec::Zstd, &stream[..len], 1 << 20, &mut out)?;
/// assert_eq!(out, zeros);
/// let refused = decoder.decompress(Codec::Zstd, &stream[..len], 1_000_000, &mut Vec::new());
/// assert_eq!(refused, Err(Fault::TooLarge { limit: 1_000_000 }));
/// # Ok::<(), Fault>(())
/// ```
#[derive(Default)]
pub struct Decoder {
    zstd: Option<DCtx<'static>>,
}

impl Decoder {
    /// The most bytes that it holds besides the output, whatever it is given: lz4's, whose frames may have blocks of 4 MiB and then take one to collect a block
    /// and one, with a window, to unpack it. The others take less.
    pub const CONTEXT: usize = (8 << 20) + (512 << 10);

    /// Appends what `bytes`, one stream of `codec`, has uncompressed to `out`, whose capacity comes to its length and `limit` more at most.
    ///
    /// Concatenated streams of gzip and of zstd are one, as everywhere. Snappy without xerial's framing is read, too, as Kafka does.
    ///
    /// # Errors
    /// [`Fault`]; `out` then holds what had come so far.
    pub fn decompress(&mut self, codec: Codec, bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        let mut sink = Sink { end: out.len().saturating_add(limit), limit, out };
        match codec {
            Codec::None => {
                sink.room(bytes.len())?;
                sink.out.extend_from_slice(bytes);
                Ok(())
            }
            Codec::Gzip => sink.read(MultiGzDecoder::new(bytes), bytes.len()),
            Codec::Snappy => snappy(bytes, &mut sink),
            Codec::Lz4 => lz4(bytes, &mut sink),
            Codec::Zstd => zstd(self.zstd.get_or_insert_with(DCtx::create), bytes, &mut sink),
        }
    }
}

/// The output and how far it may go.
struct Sink<'a> {
    out: &'a mut Vec<u8>,
    /// Length that it must not exceed.
    end: usize,
    limit: usize,
}

impl Sink<'_> {
    fn left(&self) -> usize {
        self.end - self.out.len()
    }

    /// Room for `bytes` more, if they are allowed.
    fn room(&mut self, bytes: usize) -> Result<(), Fault> {
        if bytes > self.left() {
            return Err(Fault::TooLarge { limit: self.limit });
        }
        self.out.reserve_exact(bytes);
        Ok(())
    }

    /// All that `from` has; it reads of `source` bytes. Room doubles as bytes come.
    fn read(&mut self, mut from: impl Read, source: usize) -> Result<(), Fault> {
        let start = self.out.len();
        loop {
            let had = self.out.len();
            let room = (had - start).max(source.saturating_mul(4)).max(LEAST_ROOM).min(self.left());
            if room == 0 {
                return match from.read(&mut [0]).map_err(|error| fault(error.kind()))? {
                    0 => Ok(()),
                    _ => Err(Fault::TooLarge { limit: self.limit }),
                };
            }
            self.out.reserve_exact(room);
            let read = from.by_ref().take(room as u64).read_to_end(self.out).map_err(|error| fault(error.kind()))?;
            if read < room {
                return Ok(());
            }
        }
    }
}

fn fault(kind: ErrorKind) -> Fault {
    if kind == ErrorKind::UnexpectedEof { Fault::Truncated } else { Fault::Corrupt }
}

fn snappy(bytes: &[u8], sink: &mut Sink<'_>) -> Result<(), Fault> {
    // Version and compatible version are for the reader of old: any are read.
    let Some(rest) = bytes.strip_prefix(&SNAPPY_HEAD[..8]) else { return raw_snappy(bytes, sink) };
    let mut rest = rest.get(8..).ok_or(Fault::Truncated)?;
    while !rest.is_empty() {
        let (len, behind) = rest.split_first_chunk().ok_or(Fault::Truncated)?;
        let len = usize::try_from(i32::from_be_bytes(*len)).map_err(|_| Fault::Corrupt)?;
        let (block, behind) = behind.split_at_checked(len).ok_or(Fault::Truncated)?;
        raw_snappy(block, sink)?;
        rest = behind;
    }
    Ok(())
}

fn raw_snappy(block: &[u8], sink: &mut Sink<'_>) -> Result<(), Fault> {
    let len = snap::raw::decompress_len(block).map_err(|_| Fault::Corrupt)?;
    // The bytes that are there could not become so many.
    if len > block.len().saturating_mul(SNAPPY_RATIO) {
        return Err(Fault::Corrupt);
    }
    if len > sink.left() {
        return Err(Fault::TooLarge { limit: sink.limit });
    }
    let at = sink.out.len();
    // Many blocks make one vector: it doubles, and does not pass the end.
    if sink.out.capacity() - at < len {
        let room = len.max(at).min(sink.left());
        sink.out.reserve_exact(room);
    }
    sink.out.resize(at + len, 0);
    let read = snap::raw::Decoder::new().decompress(block, &mut sink.out[at..]);
    if read.is_err() {
        sink.out.truncate(at);
        return Err(Fault::Corrupt);
    }
    Ok(())
}

fn lz4(bytes: &[u8], sink: &mut Sink<'_>) -> Result<(), Fault> {
    let mut decoder = lz4::Decoder::new(bytes).expect("the machine has no memory left");
    sink.read(&mut decoder, bytes.len())?;
    match decoder.finish() {
        (_, Err(_)) => Err(Fault::Truncated),
        ([], Ok(())) => Ok(()),
        (rest, Ok(())) => Err(Fault::Trailing { extra: rest.len() }),
    }
}

/// Whole frames to memory at a time: there is no window of its own then, and a frame that claims a huge one costs nothing. If they do not fit, room doubles, and it begins anew.
fn zstd(context: &mut DCtx<'static>, bytes: &[u8], sink: &mut Sink<'_>) -> Result<(), Fault> {
    let too_large = Fault::TooLarge { limit: sink.limit };
    let claimed = zstd_safe::get_frame_content_size(bytes).map_err(|_| match bytes.len() {
        // A header has 18 bytes at most: more cannot be missing.
        0..18 => Fault::Truncated,
        _ => Fault::Corrupt,
    })?;
    let mut room = match claimed {
        Some(claimed) if claimed > sink.left() as u64 => return Err(too_large),
        // As far as the bytes that are there could make it.
        Some(claimed) => claimed.min((bytes.len() as u64).saturating_mul(ZSTD_BLOCK / 4)) as usize,
        None => bytes.len().saturating_mul(4).max(LEAST_ROOM).min(sink.left()),
    };
    let at = sink.out.len();
    loop {
        sink.out.reserve_exact(room);
        let end = at.saturating_add(room);
        sink.out.resize(end, 0);
        let read = context.decompress(&mut sink.out[at..], bytes);
        match read {
            Ok(read) => {
                sink.out.truncate(at + read);
                return Ok(());
            }
            Err(code) => {
                sink.out.truncate(at);
                let is = |kind| zstd_safe::is_error_kind(code, kind);
                if !is(ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall) {
                    let truncated = is(ZSTD_ErrorCode::ZSTD_error_srcSize_wrong);
                    return Err(if truncated { Fault::Truncated } else { Fault::Corrupt });
                }
                if room >= sink.left() {
                    return Err(too_large);
                }
                room = room.saturating_mul(2).max(LEAST_ROOM).min(sink.left());
            }
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}
