//! The batch: open while it takes records, sealed when it goes to the sender, settled once.
//!
//! [`OpenBatch`] is what each core implements: reserve room, encode, issue a future. Sealing it gives a [`SealedBatch`], which both
//! cores share, and whose records' results are settled through a [`Completion`].
//!
//! Source: Kafka's `MemoryRecordsBuilder` and `ProducerBatch`; BATCH-01 to BATCH-21.

mod announced;
mod atomic;
mod callbacks;
mod completion;
mod compressor;
mod foreign;
mod off_pool;
mod sealed;
mod split;
mod word;

pub use atomic::OwnedBatch;
// Their users keep invariants that types cannot say: they are the crate's own, and its models'.
#[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
pub(crate) use announced::{Announced, Announcements, Slot};
#[cfg(any(crossbeam_loom, unlatched_shuttle))]
#[doc(hidden)]
pub use announced::{Announced, Announcements, Slot};
#[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
pub(crate) use atomic::{AtomicBatch, Claim, Filled, Full, Publish, Refusal, Run};
#[cfg(any(crossbeam_loom, unlatched_shuttle))]
pub use atomic::{AtomicBatch, Claim, Filled, Full, Publish, Refusal, Run};
pub use completion::{
    Callback, Completer, Completion, FinalState, RecordErrors, RecordFuture, RecordMetadata, RecordResult, Watch,
};
pub use compressor::Compressor;
#[cfg(feature = "testing")]
pub(crate) use foreign::swap_callbacks;
pub(crate) use foreign::{contain, may_wait};
pub use foreign::{in_callback, refuse_in_callback};
pub use off_pool::{Held, OffPool, OffPoolSnapshot};
pub use sealed::{Contents, Grown, Rank, SealedBatch};
pub(crate) use sealed::{insert, reset_some};
pub use split::Whole;
pub(crate) use split::split;

use crate::error::{SendError, TopicPartition};
use crate::pool::Lease;
use crate::primitive::clock::Instant;
use crate::record::Record;

/// How the caller of an append wants to hear of its record. Nothing asked, nothing paid.
#[derive(Default)]
pub struct Reply {
    /// Give a future back.
    pub future: bool,
    /// Call this with the result.
    pub callback: Option<Callback>,
}

impl Reply {
    /// The record is fired and forgotten: no future, no callback, no shared word touched for it.
    pub const IGNORE: Self = Self { future: false, callback: None };

    /// A future.
    pub const FUTURE: Self = Self { future: true, callback: None };

    /// A callback, no future.
    pub fn callback(callback: impl FnOnce(RecordResult) + Send + 'static) -> Self {
        Self { future: false, callback: Some(Box::new(callback)) }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("future", &self.future).field("callback", &self.callback.is_some()).finish()
    }
}

/// A record that found room.
#[derive(Debug)]
pub struct Placed {
    /// Its future, if one was asked for.
    pub future: Option<RecordFuture>,
    /// Bytes that it takes in the batch.
    pub bytes: usize,
}

/// A batch that takes records.
///
/// Its write limit is the lease's size at the opening (BATCH-01). The first record always fits (BATCH-02): if it outgrows the lease it goes into
/// memory outside of the pool, and the lease stands for the charge (BATCH-07).
pub trait OpenBatch: Sized + Send {
    /// An empty batch in `lease`, numbered `id` in the books.
    fn open(topic_partition: TopicPartition, id: u64, lease: Lease, created: Instant) -> Self;

    /// Appends `record`, or gives `reply` back and changes nothing if there is no room (BATCH-10).
    ///
    /// # Errors
    /// `reply`, untouched, if there is no room.
    fn try_append(&mut self, record: &Record<'_>, reply: Reply) -> Result<Placed, Reply>;

    /// Whether `record` would find room (BATCH-02).
    fn has_room_for(&self, record: &Record<'_>) -> bool;

    /// Whether it takes no more: at least one record, and the write limit is reached (BATCH-04).
    fn is_full(&self) -> bool;

    /// Bytes that it will have on the wire (BATCH-03); exact without a codec that compresses while records are appended.
    fn estimated_size(&self) -> usize;

    /// Records in it.
    fn record_count(&self) -> u32;

    /// When it was opened.
    fn created(&self) -> Instant;

    /// A reference to its result for the books of unfinished batches.
    fn watch(&mut self) -> Watch;

    /// Ends appending (BATCH-08).
    fn seal(self) -> SealedBatch;

    /// Ends it and aborts its records.
    fn abort(self, error: SendError) {
        // Nobody else can have settled it: it was open until now.
        let _ = self.seal().completion().abort(error);
    }
}
