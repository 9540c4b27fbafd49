//! Writing streams.

use std::fmt;
use std::io::{self, Write};

use flate2::{Compress, FlushCompress, Status};
use lz4::block::{CompressionMode, compress_bound, compress_to_buffer};
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ResetDirective};

use super::{Codec, Compression, LZ4_BLOCK, LZ4_DEFAULT, LZ4_HEAD, SNAPPY_BLOCK, SNAPPY_HEAD};

/// Bytes that are collected before gzip and zstd get them: a call for each small record costs more than compressing it. As Kafka's buffer in front of them.
const FEED: usize = 16 << 10;
/// Bytes that go from gzip or zstd to the output at a time.
const STAGE: usize = 8 << 10;
/// Bytes that deflate takes, at any level: window, hash chains, symbols.
const GZIP_STATE: usize = 372 << 10;
/// Bytes of a table of snappy's.
const SNAPPY_TABLE: usize = 35 << 10;
/// Bytes that liblz4's thorough compressor takes while it packs a block.
const LZ4_THOROUGH: usize = 256 << 10;
/// Bit of a block's size that says that it is not compressed.
const LZ4_PLAIN: u32 = 1 << 31;

/// Compresses streams, one after the other, with one context.
///
/// A stream begins with the first [`write`](Self::write) and ends with [`finish`](Self::finish), or is given up by [`reset`](Self::reset). [`compress`](Self::compress) is a whole stream at once.
///
/// ```
/// use unlatched::record::codec::{Compression, Encoder};
/// let mut encoder = Encoder::new("gzip".parse::<Compression>()?).expect("gzip is a codec");
/// let mut stream = Vec::new();
/// encoder.write(b"EWR to IAH, ", &mut stream)?;
/// encoder.write(b"IAH to EWR", &mut stream)?;
/// encoder.finish(&mut stream)?;
/// assert_eq!(stream[..2], [0x1f, 0x8b]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Encoder {
    compression: Compression,
    codec: Stream,
    /// Whether a stream has begun.
    begun: bool,
}

enum Stream {
    Gzip { deflate: Box<Compress>, blocks: Blocks },
    Snappy { encoder: Box<snap::raw::Encoder>, blocks: Blocks },
    Lz4 { mode: CompressionMode, blocks: Blocks },
    Zstd { context: CCtx<'static>, blocks: Blocks },
}

/// What is collected until it makes a block, and where a block is packed, or goes through on its way out.
#[derive(Default)]
struct Blocks {
    open: Vec<u8>,
    packed: Vec<u8>,
}

impl Encoder {
    /// An encoder; `None` for [`Codec::None`], which needs none.
    ///
    /// # Panics
    /// If the machine has no memory left for the context.
    pub fn new(compression: Compression) -> Option<Self> {
        let blocks = Blocks::default();
        let codec = match (compression.codec(), compression.level) {
            (Codec::None, _) => return None,
            (Codec::Gzip, level) => Stream::Gzip { deflate: Box::new(deflate(level)), blocks },
            (Codec::Snappy, _) => Stream::Snappy { encoder: Box::new(snap::raw::Encoder::new()), blocks },
            (Codec::Lz4, LZ4_DEFAULT) => Stream::Lz4 { mode: CompressionMode::DEFAULT, blocks },
            (Codec::Lz4, level) => Stream::Lz4 { mode: CompressionMode::HIGHCOMPRESSION(level), blocks },
            (Codec::Zstd, level) => {
                let mut context = CCtx::create();
                context.set_parameter(CParameter::CompressionLevel(level)).unwrap_or_else(broken);
                Stream::Zstd { context, blocks }
            }
        };
        Some(Self { compression, codec, begun: false })
    }

    /// What it was made for.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Compresses `bytes` on; hands what comes out to `out`, which may be nothing yet.
    ///
    /// # Errors
    /// Those of `out` only; then [`reset`](Self::reset).
    ///
    /// # Panics
    /// If the machine has no memory left for the context.
    pub fn write(&mut self, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        self.begin(out)?;
        match &mut self.codec {
            Stream::Gzip { deflate, blocks } => {
                blocks.collect(bytes, FEED, |bytes, stage| gzip(deflate, stage, bytes, FlushCompress::None, out))
            }
            Stream::Zstd { context, blocks } => {
                let go_on = ZSTD_EndDirective::ZSTD_e_continue;
                blocks.collect(bytes, FEED, |bytes, stage| zstd(context, stage, bytes, go_on, out))
            }
            Stream::Snappy { encoder, blocks } => {
                blocks.collect(bytes, SNAPPY_BLOCK, |block, packed| snappy(encoder, block, packed, out))
            }
            Stream::Lz4 { mode, blocks } => {
                blocks.collect(bytes, LZ4_BLOCK, |block, packed| lz4(*mode, block, packed, out))
            }
        }
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// Those of `out` only; then [`reset`](Self::reset).
    ///
    /// # Panics
    /// As [`write`](Self::write).
    pub fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.begin(out)?;
        match &mut self.codec {
            Stream::Gzip { deflate, blocks: Blocks { open, packed } } => {
                gzip(deflate, packed, open, FlushCompress::Finish, out)?;
            }
            Stream::Zstd { context, blocks: Blocks { open, packed } } => {
                zstd(context, packed, open, ZSTD_EndDirective::ZSTD_e_end, out)?;
            }
            Stream::Snappy { encoder, blocks } => {
                blocks.flush(|block, packed| snappy(encoder, block, packed, out))?;
            }
            Stream::Lz4 { mode, blocks } => {
                blocks.flush(|block, packed| lz4(*mode, block, packed, out))?;
                out.write_all(&[0; 4])?;
            }
        }
        self.begun = false;
        Ok(())
    }

    /// Compresses `bytes`, a whole stream, to the front of `out`: the bytes that it takes there. `None` if `out` is too short, whose content then means nothing.
    ///
    /// # Panics
    /// As [`write`](Self::write).
    pub fn compress(&mut self, bytes: &[u8], out: &mut [u8]) -> Option<usize> {
        self.reset();
        let room = out.len();
        if let Stream::Zstd { context, .. } = &mut self.codec {
            // It knows the size beforehand, so it takes smaller tables and no window of its own.
            return context.compress2(out, bytes).ok();
        }
        let mut rest = out;
        let written = self.write(bytes, &mut rest).and_then(|()| self.finish(&mut rest));
        let left = rest.len();
        if written.is_err() {
            self.reset();
            return None;
        }
        Some(room - left)
    }

    /// Gives the present stream up. What it has written is of no use.
    pub fn reset(&mut self) {
        let given_up = std::mem::take(&mut self.begun);
        if let Stream::Gzip { deflate: context, .. } = &mut self.codec
            && given_up
        {
            // zlib-rs 0.6.8 forgets, at its level 1, that a block is open when it resets in the midst of a stream: the next one would be damaged.
            **context = deflate(self.compression.level);
        }
    }

    /// Bytes of memory that it holds: context and block. As large as it ever was, so an upper bound within a few hundred bytes; for lz4's thorough levels what a block takes is in it.
    pub fn memory(&self) -> usize {
        match &self.codec {
            Stream::Gzip { blocks, .. } => GZIP_STATE + blocks.memory(),
            Stream::Zstd { context, blocks } => context.sizeof() + blocks.memory(),
            Stream::Snappy { blocks, .. } => SNAPPY_TABLE + blocks.memory(),
            Stream::Lz4 { mode: CompressionMode::HIGHCOMPRESSION(_), blocks } => LZ4_THOROUGH + blocks.memory(),
            Stream::Lz4 { blocks, .. } => blocks.memory(),
        }
    }

    /// Makes the context ready for a new stream, and writes the head, if none has begun.
    #[inline]
    fn begin(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.begun {
            return Ok(());
        }
        let (head, blocks): (&[u8], _) = match &mut self.codec {
            // They write their own heads.
            Stream::Gzip { deflate, blocks } => {
                deflate.reset();
                (&[], blocks)
            }
            Stream::Zstd { context, blocks } => {
                context.reset(ResetDirective::SessionOnly).unwrap_or_else(broken);
                (&[], blocks)
            }
            Stream::Snappy { blocks, .. } => (&SNAPPY_HEAD, blocks),
            Stream::Lz4 { blocks, .. } => (&LZ4_HEAD, blocks),
        };
        blocks.open.clear();
        out.write_all(head)?;
        self.begun = true;
        Ok(())
    }
}

fn deflate(level: i32) -> Compress {
    let level = match u32::try_from(level) {
        Ok(level) => flate2::Compression::new(level),
        // -1.
        Err(_) => flate2::Compression::default(),
    };
    Compress::new_gzip(level, 15)
}

/// The one thing that can go wrong in there with a parameter that was checked and buffers that are there.
fn broken(code: usize) -> usize {
    panic!("libzstd: {}", zstd_safe::get_error_name(code))
}

fn gzip(
    deflate: &mut Compress,
    stage: &mut Vec<u8>,
    mut bytes: &[u8],
    flush: FlushCompress,
    out: &mut impl Write,
) -> io::Result<()> {
    let finish = matches!(flush, FlushCompress::Finish);
    stage.resize(STAGE, 0);
    loop {
        let (read, written) = (deflate.total_in(), deflate.total_out());
        let status = deflate.compress(bytes, stage, flush).expect("deflate takes any bytes");
        let (read, written) = (deflate.total_in() - read, (deflate.total_out() - written) as usize);
        bytes = &bytes[read as usize..];
        out.write_all(&stage[..written])?;
        let done = if finish { status == Status::StreamEnd } else { bytes.is_empty() && written < stage.len() };
        if done {
            return Ok(());
        }
    }
}

fn zstd(
    context: &mut CCtx<'static>,
    stage: &mut Vec<u8>,
    bytes: &[u8],
    end: ZSTD_EndDirective,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut input = InBuffer::around(bytes);
    stage.resize(STAGE, 0);
    let finish = end == ZSTD_EndDirective::ZSTD_e_end;
    loop {
        let (left, written) = {
            let mut output = OutBuffer::around(&mut stage[..]);
            let left = context.compress_stream2(&mut output, &mut input, end).unwrap_or_else(broken);
            (left, output.pos())
        };
        out.write_all(&stage[..written])?;
        let done = if finish { left == 0 } else { input.pos() == bytes.len() };
        if done {
            return Ok(());
        }
    }
}

fn snappy(
    encoder: &mut snap::raw::Encoder,
    block: &[u8],
    packed: &mut Vec<u8>,
    out: &mut impl Write,
) -> io::Result<()> {
    packed.resize(snap::raw::max_compress_len(block.len()), 0);
    let len =
        encoder.compress(block, packed).expect("a block fits 32 bits, and there is room for the longest form of it");
    out.write_all(&(len as u32).to_be_bytes())?;
    out.write_all(&packed[..len])
}

fn lz4(mode: CompressionMode, block: &[u8], packed: &mut Vec<u8>, out: &mut impl Write) -> io::Result<()> {
    packed.resize(compress_bound(block.len()).expect("a block fits 31 bits"), 0);
    // It fails if the machine has no memory left for its tables; the block is then not compressed, which is as good a block.
    let len = compress_to_buffer(block, Some(mode), false, packed).unwrap_or(usize::MAX);
    let (size, bytes) =
        if len < block.len() { (len as u32, &packed[..len]) } else { (block.len() as u32 | LZ4_PLAIN, block) };
    out.write_all(&size.to_le_bytes())?;
    out.write_all(bytes)
}

impl Blocks {
    /// Has `pack` pack whole blocks of `size` bytes; keeps the rest.
    #[inline]
    fn collect(
        &mut self,
        mut bytes: &[u8],
        size: usize,
        mut pack: impl FnMut(&[u8], &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        while self.open.len() + bytes.len() >= size {
            let (head, rest) = bytes.split_at(size - self.open.len());
            if self.open.is_empty() {
                pack(head, &mut self.packed)?;
            } else {
                self.open.extend_from_slice(head);
                pack(&self.open, &mut self.packed)?;
                self.open.clear();
            }
            bytes = rest;
        }
        self.open.extend_from_slice(bytes);
        Ok(())
    }

    /// Has `pack` pack what is left.
    fn flush(&mut self, mut pack: impl FnMut(&[u8], &mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        if !self.open.is_empty() {
            pack(&self.open, &mut self.packed)?;
            self.open.clear();
        }
        Ok(())
    }

    fn memory(&self) -> usize {
        self.open.capacity() + self.packed.capacity()
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("compression", &self.compression)
            .field("begun", &self.begun)
            .finish_non_exhaustive()
    }
}
