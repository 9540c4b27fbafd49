//! How much memory codecs take, by an allocator that counts: an encoder no more than it says, a decoder no more than its limit and its context, whatever it is given.
//!
//! libzstd and liblz4 allocate by themselves: libzstd says how much, and what liblz4's frames take is bounded by their largest block, which `Decoder::CONTEXT` has room for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use unlatched::primitive::atomic::AtomicUsize;
use unlatched::primitive::atomic::Ordering::SeqCst;
use unlatched::record::Codec;
use unlatched::record::codec::{Compression, Decoder, Encoder, Fault};

struct Counting;

/// Bytes that the test's thread has, beyond what it may give back of others'.
static NOW: AtomicUsize = AtomicUsize::new(1 << 40);
static PEAK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this is the test's thread: the harness allocates beside it.
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is the system allocator's. Growing is the trait's own way, which has both allocations at once.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTS.get() {
            let now = NOW.fetch_add(layout.size(), SeqCst) + layout.size();
            PEAK.fetch_max(now, SeqCst);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if COUNTS.get() {
            NOW.fetch_sub(layout.size(), SeqCst);
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// What `work` has and the most bytes that there were at once meanwhile, beyond those before.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(SeqCst);
    PEAK.store(before, SeqCst);
    let result = work();
    (result, PEAK.load(SeqCst) - before)
}

fn encoder(compression: &str) -> Encoder {
    Encoder::new(compression.parse().unwrap()).unwrap()
}

/// One test, since there is one count.
#[test]
fn batch_07_fmt_22_codecs_take_what_they_say() {
    COUNTS.set(true);
    let noise: Vec<u8> = {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..300_000).map(|_| next()).collect()
    };

    // What an encoder says is what it has, within a twentieth and a few hundred bytes. Of lz4 its blocks only.
    for compression in ["gzip:1", "gzip", "gzip:9", "snappy", "lz4"] {
        let mut out = vec![0; 400_000];
        let before = NOW.load(SeqCst);
        let mut encoder = encoder(compression);
        let mut rest = &mut out[..];
        noise.chunks(99).for_each(|piece| encoder.write(piece, &mut rest).unwrap());
        encoder.finish(&mut rest).unwrap();
        let (said, has) = (encoder.memory(), NOW.load(SeqCst) - before);
        assert!(has <= said && said - has <= has / 20, "{compression}: says {said}, has {has}");
    }

    // A bomb costs the limit, and while the output grows what it had before.
    const LIMIT: usize = 2 << 20;
    for codec in &Codec::ALL[1..] {
        let (zeros, mut bomb) = (vec![0; 1 << 20], Vec::new());
        let mut encoder = Encoder::new(Compression::new(*codec)).unwrap();
        (0..32).for_each(|_| encoder.write(&zeros, &mut bomb).unwrap());
        encoder.finish(&mut bomb).unwrap();
        let (fault, took) = measured(|| Decoder::default().decompress(*codec, &bomb, LIMIT, &mut Vec::new()));
        assert_eq!(fault, Err(Fault::TooLarge { limit: LIMIT }), "{codec}");
        assert!(took <= 2 * LIMIT + Decoder::CONTEXT, "{codec}: {took} bytes for a limit of {LIMIT}");
    }

    // Few bytes cost little, whatever they claim: half a gigabyte, in the head of a frame of zstd, and of raw snappy.
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &(512_u32 << 20).to_le_bytes(), &[1, 0, 0]].concat();
    let snappy = vec![0x80, 0x80, 0x80, 0x80, 0x02, 0, b'a'];
    for (codec, bytes) in [(Codec::Zstd, zstd), (Codec::Snappy, snappy)] {
        let (fault, took) = measured(|| Decoder::default().decompress(codec, &bytes, 1 << 30, &mut Vec::new()));
        assert_eq!(fault, Err(Fault::Corrupt), "{codec}");
        assert!(took < 1 << 20, "{codec}: {took} bytes for {}", bytes.len());
    }
}
