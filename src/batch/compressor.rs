//! Compressing a batch that is sealed, in its own memory.
//!
//! The lock-free core's way. Its appenders copy side by side, each to a place that was reserved beforehand, so records lie there uncompressed, and only when the last of them has left can a codec - one
//! stream through all records - begin. The sender does that for each batch that it drains: from the lease to a scratch buffer, and back if that is smaller. Memory outside of the pool is one scratch and
//! one context, whatever the number of batches; the time is the sender's. See `papers/codecs.md`.

use std::sync::Arc;

use super::off_pool::{Held, OffPool};
use crate::record::Codec;
use crate::record::codec::{Compression, Encoder};

/// One context and one scratch buffer, for one batch after the other.
#[derive(Debug)]
pub struct Compressor {
    encoder: Encoder,
    /// As large as the largest records that came, less one byte.
    scratch: Vec<u8>,
    held: Held,
}

impl Compressor {
    /// For `compression`, if there is one; its memory is counted by `off_pool`.
    pub fn new(compression: Compression, off_pool: &Arc<OffPool>) -> Option<Self> {
        let encoder = Encoder::new(compression)?;
        let held = off_pool.hold(encoder.memory());
        Some(Self { encoder, scratch: Vec::new(), held })
    }

    /// Compresses `records` in their place; the bytes that they take then, and how. `None` if they would not become smaller.
    pub(super) fn compress(&mut self, records: &mut [u8]) -> Option<(usize, Codec)> {
        // What does not fit here is not smaller: so the codec need not come to its end to know.
        let room = records.len().checked_sub(1)?;
        if self.scratch.len() < room {
            self.scratch.resize(room, 0);
        }
        let len = self.encoder.compress(records, &mut self.scratch[..room]);
        self.held.set(self.encoder.memory() + self.scratch.capacity());
        let len = len?;
        records[..len].copy_from_slice(&self.scratch[..len]);
        Some((len, self.encoder.compression().codec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_06_what_does_not_become_smaller_stays_as_it_is() {
        let compression: Compression = "snappy".parse().unwrap();
        let mut compressor = Compressor::new(compression, &OffPool::new()).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = (0..400).map(|_| random.u8(..)).collect();
        // Noise behind a run of one byte that grows by one: larger, as large, smaller.
        let (mut larger, mut equal, mut smaller) = (0, 0, 0);
        for run in 0..60 {
            let records = [&vec![7; run][..], &noise].concat();
            let stream = Encoder::new(compression).unwrap().compress(&records, &mut [0; 600]).unwrap();
            let mut place = records.clone();
            match compressor.compress(&mut place) {
                None => {
                    assert!(stream >= records.len() && place == records, "{run}");
                    larger += usize::from(stream > records.len());
                    equal += usize::from(stream == records.len());
                }
                Some((len, codec)) => {
                    assert_eq!((len, codec), (stream, Codec::Snappy), "{run}");
                    assert!(len < records.len());
                    smaller += 1;
                }
            }
        }
        assert!(larger > 0 && equal > 0 && smaller > 0, "{larger} {equal} {smaller}");
        assert!(compressor.compress(&mut []).is_none());
    }
}
