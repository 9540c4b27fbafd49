//! Completion: one result per batch, a future per record, no allocation per record.
//!
//! A batch's records share one [`Completion`]. A [`RecordFuture`] is a pointer to it and the record's index; waiting needs a node only
//! if the result is not there yet. The result is settled once, by whoever comes first: the sender with the broker's answer, the
//! expiry of the delivery timeout, or an abort.
//!
//! Source: Kafka's `ProduceRequestResult`, `FutureRecordMetadata` and `ProducerBatch.completeFutureAndFireCallbacks`; behaviour
//! BATCH-10 to BATCH-18, promises GAP-20 and GAP-21. The reference count in a block per batch is ours.
//!
//! # State
//!
//! Word `state`:
//!
//! | state | means | left by |
//! |---|---|---|
//! | `OPEN` | the batch still takes records; it cannot be settled | the completer's exchange for `PENDING`: at its close, or early, when a batch is given up while a record is still being copied into it |
//! | `PENDING` | nobody has decided | one CAS to `CLAIMED` + kind |
//! | `CLAIMED` + kind | the winner of that CAS is writing the outcome; the kind (succeeded, failed, aborted) is final | the winner's store of `READABLE` + kind |
//! | `READABLE` + kind | the outcome can be read and never changes | never |
//!
//! Word `waiters`: head of a stack of waiting nodes, or `DONE`. `DONE` is final; the swap that sets it comes after the callbacks have
//! run, so inside a callback a future is readable but not yet done (BATCH-13).
//!
//! Word `references`: how many may still reach the allocation. It starts at `BLOCK`, of which the [`Completer`] of the open batch is the only
//! holder; a future takes one out of that block by a plain count, without touching the word: in the completer, or beside it, told at the end. Closing the completer returns
//! what is left of the block in one subtraction. Who has nowhere to count makes a future by one addition.
//!
//! # Invariants
//! - **COMP-1** `state` leaves `PENDING` once. Whoever made it leave is the only one to write `outcome` and to take `callbacks`.
//! - **COMP-2** `outcome` is written before `READABLE` and never after: whoever has seen `READABLE` may read it.
//! - **COMP-3** `callbacks` is written by one thread only, which has the completer or has been chosen to end it, while the state is `OPEN`; settling starts
//!   from `PENDING`, which that thread sets after its last write. So the writer's last access precedes the settler's first.
//! - **COMP-4** The allocation lives while `references` > 0. A `Completion`, a `Watch` and a `RecordFuture` hold one each, a thread those that it keeps of futures that were dropped (BACK-A), an open completer `BLOCK` minus
//!   the futures that were issued by a plain count; a batch has fewer than `BLOCK` records.
//! - **COMP-5** A node on the stack is owned by the stack. The swap to `DONE`, or the last reference, takes the whole chain and frees each node once.
//!
//! # The race that looks dangerous
//! A waiter registers while the result is being settled. Both meet in `waiters`: if the waiter's CAS comes first, the swap to `DONE` finds the
//! node and wakes it; if the swap comes first, the CAS sees `DONE` and the waiter does not sleep.
//!
//! # Progress
//! `complete`, `fail`, `abort`: wait-free but for the callbacks and wakers they run, which are the caller's code. `poll`: lock-free (a CAS lost
//! to another waiter of the same batch is tried again). `wait`: blocks until the batch is settled.

mod given_back;

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use self::given_back::Lasting;
use super::foreign::{contain, in_callback, run_callback};
use crate::error::{IllegalState, SendError, TopicPartition};
use crate::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::primitive::atomic::{AtomicPtr, AtomicU8, AtomicUsize, fence};
use crate::primitive::cell::UnsafeCell;
use crate::primitive::clock::Clock;
use crate::primitive::parker::{Parker, ThreadParker};
use crate::primitive::step;

/// References that an open completer starts with: more than a batch can have records.
const BLOCK: usize = 1 << (usize::BITS - 2);

const OPEN: u8 = 0b1_0000;
const PENDING: u8 = 0;
const CLAIMED: u8 = 0b0100;
const READABLE: u8 = 0b1000;
const KIND: u8 = 0b0011;

/// How a batch ended. Final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FinalState {
    /// Acknowledged by the broker.
    Succeeded = 1,
    /// Refused by the broker, or expired.
    Failed = 2,
    /// Given up by the producer.
    Aborted = 3,
}

impl FinalState {
    fn of(state: u8) -> Option<Self> {
        match state & KIND {
            1 => Some(Self::Succeeded),
            2 => Some(Self::Failed),
            3 => Some(Self::Aborted),
            _ => None,
        }
    }
}

/// Where an acknowledged record stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The partition it was written to.
    pub topic_partition: TopicPartition,
    /// Its offset there, or -1 if the broker did not say (acks=0, duplicate): BATCH-16.
    pub offset: i64,
    /// Its timestamp: the broker's append time if the topic is set so, else its create time. Milliseconds since 1970.
    pub timestamp: i64,
}

/// What a record ends with.
pub type RecordResult = Result<RecordMetadata, SendError>;

/// Called once with the record's result, on the thread that settles it. It must not block; [`RecordFuture::wait`] and flush refuse
/// to wait inside it (an executor's own way of waiting for a future, its `block_on`, cannot be refused). A panic in it harms nobody else (GAP-21).
pub type Callback = Box<dyn FnOnce(RecordResult) + Send>;

/// Each record's own error, by its index in the batch (BATCH-17, SEND-22).
pub type RecordErrors = Box<dyn Fn(u32) -> SendError + Send + Sync>;

enum Outcome {
    Written {
        base_offset: i64,
        log_append_time: Option<i64>,
    },
    Lost {
        error: SendError,
        record_errors: Option<RecordErrors>,
    },
    /// It was split: each part's result, by the index of its first record; 0 comes first.
    Parts(Vec<(u32, Watch)>),
}

struct Registered {
    index: u32,
    timestamp: i64,
    callback: Callback,
}

struct Node {
    next: *mut Node,
    waker: Waker,
}

struct Shared {
    references: AtomicUsize,
    state: AtomicU8,
    waiters: AtomicPtr<Node>,
    outcome: UnsafeCell<Option<Outcome>>,
    callbacks: UnsafeCell<Vec<Registered>>,
    topic_partition: TopicPartition,
}

// SAFETY: COMP-1 to COMP-3 say who accesses the two cells and when; the rest is atomic or immutable. What the cells hold is `Send`,
// and the outcome, which many may read, is `Sync`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The mark in `waiters` after which nobody waits.
fn done() -> *mut Node {
    ptr::without_provenance_mut(1)
}

/// A reference to a shared result. Counted in `references`; what may be done with it is up to the wrapper.
struct Reference(NonNull<Shared>);

// SAFETY: `Shared` is `Send` and `Sync`; the count is atomic.
unsafe impl Send for Reference {}
// SAFETY: as above.
unsafe impl Sync for Reference {}

impl Reference {
    #[inline]
    fn shared(&self) -> &Shared {
        // SAFETY: COMP-4: we hold a reference.
        unsafe { self.0.as_ref() }
    }

    /// Gives back `count` references of those we hold. Whether no other is left.
    ///
    /// # Safety
    /// The caller holds `count` references and uses none of them again (COMP-4).
    unsafe fn give_back(shared: NonNull<Shared>, count: usize) -> bool {
        // SAFETY: COMP-4: until the subtraction we hold what we give back.
        let references = unsafe { &shared.as_ref().references };
        // Release pairs with the fence below in whoever comes last: our accesses to the allocation come before its end. If we are
        // last ourselves, the fence takes in everybody else's.
        let last = references.fetch_sub(count, Release) == count;
        if last {
            // Acquire pairs with every other holder's Release subtraction, which the load part of ours read from.
            fence(Acquire);
            // SAFETY: COMP-4: no reference is left, so no other thread reaches it; it came from `Box::into_raw`.
            drop(unsafe { Box::from_raw(shared.as_ptr()) });
        }
        last
    }
}

impl Clone for Reference {
    fn clone(&self) -> Self {
        // Relaxed: we hold a reference, so the count cannot reach zero meanwhile; nothing is read through the new one that the old
        // one could not read.
        self.shared().references.fetch_add(1, Relaxed);
        Self(self.0)
    }
}

impl Drop for Reference {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: one reference is ours, and this is its end.
        unsafe { Self::give_back(self.0, 1) };
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Foreign code, on whatever thread comes last, perhaps at its end: its panic is not to end there (GAP-21).
        // SAFETY: COMP-4: `&mut self`: no reference is left.
        let outcome = self.outcome.with_mut(|outcome| unsafe { (*outcome).take() });
        contain("the end of what a batch was settled with", || drop(outcome));
        // Relaxed: `&mut self`: the last reference is gone and its fence has ordered every other access before.
        let head = self.waiters.load(Relaxed);
        if head != done() {
            // SAFETY: COMP-5: never settled, so the stack still owns its nodes, and nobody else reaches them.
            unsafe { Node::take_all(head, |waker| run_callback("the waker of a record's future", || drop(waker))) }
        }
    }
}

impl Node {
    /// Frees a chain, giving each waker to `with`.
    ///
    /// # Safety
    /// The caller owns the chain (COMP-5).
    unsafe fn take_all(mut head: *mut Self, with: impl Fn(Waker)) {
        while !head.is_null() {
            // SAFETY: COMP-5: a node comes from `Box::into_raw` in `register`, and the chain is ours.
            let node = unsafe { Box::from_raw(head) };
            head = node.next;
            with(node.waker);
        }
    }
}

impl Shared {
    /// BATCH-13, BATCH-16: what the record `index` ended with, once readable.
    fn result(&self, index: u32, timestamp: i64) -> Option<RecordResult> {
        // Acquire pairs with the winner's Release store of READABLE: seen, and the outcome is there; not seen, and it is not read.
        if self.state.load(Acquire) & READABLE == 0 {
            return None;
        }
        // SAFETY: COMP-2: READABLE was seen.
        let outcome = self.outcome.with(|outcome| unsafe { &*outcome });
        Some(match outcome.as_ref()? {
            Outcome::Written { base_offset, log_append_time } => Ok(RecordMetadata {
                topic_partition: self.topic_partition.clone(),
                offset: if *base_offset < 0 { -1 } else { base_offset.saturating_add(i64::from(index)) },
                timestamp: log_append_time.unwrap_or(timestamp),
            }),
            Outcome::Lost { error, record_errors } => {
                let own = record_errors.as_ref().and_then(|of| contain("a record's error", || of(index)));
                Err(own.unwrap_or_else(|| error.clone()))
            }
            Outcome::Parts(parts) => {
                let at = parts.partition_point(|(first, _)| *first <= index).checked_sub(1)?;
                let (first, part) = &parts[at];
                // Each part had ended when this was published. As deep as parts were split again: 31 at most.
                part.0.shared().result(index - first, timestamp)?
            }
        })
    }

    fn is_done(&self) -> bool {
        // Acquire pairs with the swap to DONE: seen, and everything before it - outcome, callbacks - has happened.
        self.waiters.load(Acquire) == done()
    }

    /// Puts `waker` on the stack; `false` if the result is done, and nothing was registered.
    fn register(&self, waker: Waker) -> bool {
        // Acquire: should this already be DONE, the outcome must be visible to the caller; see `is_done`.
        let mut head = self.waiters.load(Acquire);
        if head == done() {
            return false;
        }
        let node = Box::into_raw(Box::new(Node { next: head, waker }));
        loop {
            step("completion.register");
            // Release on success pairs with the Acquire half of the swap to DONE: if ours is first, the settler sees the node whole and wakes
            // it. Acquire on failure: if the swap is first, we read DONE and the outcome with it.
            match self.waiters.compare_exchange_weak(head, node, Release, Acquire) {
                Ok(_) => return true,
                Err(now) if now == done() => {
                    // SAFETY: COMP-5: the CAS failed, so the node never came onto the stack and is ours.
                    drop(unsafe { Box::from_raw(node) });
                    return false;
                }
                Err(now) => {
                    head = now;
                    // SAFETY: not on the stack yet, so ours alone.
                    unsafe { (*node).next = head }
                }
            }
        }
    }

    /// Settles the result if nobody has, runs the callbacks, releases the waiters. Otherwise the state found: `None` if still open.
    fn settle(&self, kind: FinalState, outcome: Outcome) -> Result<(), Option<FinalState>> {
        step("completion.claim");
        // Acquire on success pairs with the completer's Release store of PENDING: the callbacks are visible to us; had we come before that
        // store, we would have found OPEN and taken nothing. It needs no Release: the claim publishes nothing. Relaxed on failure: only the
        // kind is read, which is in the word itself.
        if let Err(found) = self.state.compare_exchange(PENDING, CLAIMED | kind as u8, Acquire, Relaxed) {
            return Err(FinalState::of(found));
        }
        // SAFETY: COMP-1: the CAS was ours, so we alone write the outcome, and nobody reads it before READABLE.
        self.outcome.with_mut(|cell| unsafe { *cell = Some(outcome) });
        step("completion.publish");
        // Release pairs with the Acquire loads in `result`: whoever sees READABLE sees the outcome.
        self.state.store(READABLE | kind as u8, Release);
        // SAFETY: COMP-1 and COMP-3: the completer is closed, and we alone take the callbacks.
        let callbacks = self.callbacks.with_mut(|cell| unsafe { std::mem::take(&mut *cell) });
        for Registered { index, timestamp, callback } in callbacks {
            let Some(result) = self.result(index, timestamp) else { continue };
            run_callback("a record's callback", || callback(result));
        }
        step("completion.done");
        // Release pairs with the Acquire in `is_done` and `register`: whoever sees DONE sees outcome and callbacks done. Acquire pairs with the
        // Release CAS of every registered waiter: its node is visible to us.
        let head = self.waiters.swap(done(), AcqRel);
        // SAFETY: COMP-5: the swap took the chain, and only the claim's winner swaps.
        unsafe {
            // A waker is foreign code: it must not keep the others asleep, and an executor that polls inside of it must not wait there.
            Node::take_all(head, |waker| run_callback("the waker of a record's future", || waker.wake()));
        }
        Ok(())
    }
}

/// The open batch's side: issues futures, keeps callbacks. Not shared.
pub struct Completer {
    shared: NonNull<Shared>,
    issued: usize,
    _not_sync: PhantomData<Cell<()>>,
}

// SAFETY: the completer is the only writer of what it writes (COMP-3) and moves with the batch; the count is atomic.
unsafe impl Send for Completer {}

impl Completer {
    /// The result of a new batch for `topic_partition`. One allocation, for all its records.
    pub fn new(topic_partition: TopicPartition) -> Self {
        let shared = Box::new(Shared {
            references: AtomicUsize::new(BLOCK),
            state: AtomicU8::new(OPEN),
            waiters: AtomicPtr::new(ptr::null_mut()),
            outcome: UnsafeCell::new(None),
            callbacks: UnsafeCell::new(Vec::new()),
            topic_partition,
        });
        Self { shared: NonNull::from(Box::leak(shared)), issued: 0, _not_sync: PhantomData }
    }

    fn shared(&self) -> &Shared {
        // SAFETY: COMP-4: the block, less what was issued, is ours and not empty.
        unsafe { self.shared.as_ref() }
    }

    /// A future for the record `index`, whose own time is `timestamp`. Touches no shared word.
    #[inline]
    pub fn future(&mut self, index: u32, timestamp: i64) -> RecordFuture {
        RecordFuture { reference: Lasting::of(self.issue()), index, timestamp, registered: None }
    }

    /// A reference out of the block.
    ///
    /// # Panics
    /// If the block is used up: that takes more than a batch has records.
    #[inline]
    fn issue(&mut self) -> Reference {
        self.issued += 1;
        assert!(self.issued < BLOCK, "a batch has fewer records than this has given out futures (COMP-4)");
        Reference(self.shared)
    }

    /// Has `callback` called with the result of the record `index`. Callbacks run in the order given (BATCH-10, BATCH-13).
    pub fn on_completion(&mut self, index: u32, timestamp: i64, callback: Callback) {
        // SAFETY: COMP-3: the completer is open and not shared, and nobody settles before it is closed.
        self.shared().callbacks.with_mut(|cell| unsafe { (*cell).push(Registered { index, timestamp, callback }) });
    }

    /// A further reference, for whoever keeps the books of unfinished batches. It cannot settle before the completer is closed.
    pub fn watch(&mut self) -> Watch {
        Watch(self.issue())
    }

    /// A future for the record `index` by one who has nowhere to count it: one addition to the reference count.
    #[inline]
    pub(super) fn future_of_many(&self, index: u32, timestamp: i64) -> RecordFuture {
        // Relaxed: as in `Reference::clone`: the block is held meanwhile.
        self.shared().references.fetch_add(1, Relaxed);
        RecordFuture { reference: Lasting::of(Reference(self.shared)), index, timestamp, registered: None }
    }

    /// A future for the record `index`, made by one who keeps the count himself.
    ///
    /// # Safety
    /// COMP-4: it is told by [`Completer::issued_beside`] before the completer is closed or dropped, and there are fewer than the block has.
    #[inline]
    pub(super) unsafe fn future_beside(&self, index: u32, timestamp: i64) -> RecordFuture {
        RecordFuture { reference: Lasting::of(Reference(self.shared)), index, timestamp, registered: None }
    }

    /// Takes note of `count` futures that were made by [`Completer::future_beside`].
    pub(super) fn issued_beside(&mut self, count: usize) {
        self.issued += count;
    }

    /// Fails the records of a batch that cannot be closed yet, because somebody still copies into it. Callbacks run here, in the order given; no
    /// later one will be kept.
    ///
    /// # Safety
    /// COMP-3: the caller is the one who ends this batch, and nobody else adds callbacks or ends it meanwhile.
    pub(super) unsafe fn end_early(
        &self,
        kind: FinalState,
        error: SendError,
        callbacks: impl IntoIterator<Item = (u32, i64, Callback)>,
    ) {
        let callbacks =
            callbacks.into_iter().map(|(index, timestamp, callback)| Registered { index, timestamp, callback });
        // SAFETY: COMP-3, by the caller's promise.
        self.shared().callbacks.with_mut(|cell| unsafe { (*cell).extend(callbacks) });
        self.open_no_more();
        // Nobody else settles before the batch is closed.
        let _ = self.shared().settle(kind, Outcome::Lost { error, record_errors: None });
    }

    /// From here on it can be settled.
    fn open_no_more(&self) {
        // Release pairs with the Acquire of the CAS in `settle`: whoever settles sees the callbacks; who comes before this finds OPEN. An exchange and not a
        // store, since it may have been ended early: then it stays as it was settled. Relaxed on failure: the thread that ended it early has handed it over.
        let _ = self.shared().state.compare_exchange(OPEN, PENDING, Release, Relaxed);
    }

    /// Ends issuing; returns what is left of the block but one, which is the result's.
    pub fn close(self) -> Completion {
        std::mem::ManuallyDrop::new(self).finish()
    }

    /// Called once: by `close`, or by the drop.
    fn finish(&mut self) -> Completion {
        self.open_no_more();
        // SAFETY: COMP-4: of the block, `issued` were handed out, one stays for the result, the rest is ours to give back.
        let last = unsafe { Reference::give_back(self.shared, BLOCK - self.issued - 1) };
        debug_assert!(!last, "more were handed out than are known of (COMP-4)");
        Completion(Reference(self.shared))
    }
}

impl Drop for Completer {
    /// An open batch that is dropped aborts its records: each accepted record completes (L5).
    fn drop(&mut self) {
        drop(self.finish());
    }
}

impl fmt::Debug for Completer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completer").field("issued", &self.issued).finish_non_exhaustive()
    }
}

fn illegal(found: FinalState) -> IllegalState {
    IllegalState(match found {
        FinalState::Succeeded => "the batch has already succeeded",
        FinalState::Failed => "the batch has already failed",
        FinalState::Aborted => "the batch was already aborted",
    })
}

/// The closed batch's side: whoever sends the batch settles its result with this. Dropping it unsettled aborts the records.
pub struct Completion(Reference);

impl Completion {
    /// The broker has written the batch at `base_offset` (-1 if it did not say). `false`, and nothing happens, if it was failed or aborted before
    /// (BATCH-11): a late answer.
    ///
    /// # Errors
    /// [`IllegalState`] if it has succeeded before (BATCH-12).
    pub fn complete(&self, base_offset: i64, log_append_time: Option<i64>) -> Result<bool, IllegalState> {
        self.decide(FinalState::Succeeded, Outcome::Written { base_offset, log_append_time })
    }

    /// The batch is lost, with `error`, and each record with its own error where `record_errors` is given (BATCH-17). `false`, and nothing
    /// happens, if it was failed or aborted before (BATCH-11).
    ///
    /// # Errors
    /// [`IllegalState`] if it has succeeded before (BATCH-12).
    pub fn fail(&self, error: SendError, record_errors: Option<RecordErrors>) -> Result<bool, IllegalState> {
        self.decide(FinalState::Failed, Outcome::Lost { error, record_errors })
    }

    fn decide(&self, kind: FinalState, outcome: Outcome) -> Result<bool, IllegalState> {
        match self.0.shared().settle(kind, outcome) {
            Ok(()) => Ok(true),
            Err(Some(FinalState::Succeeded)) => Err(illegal(FinalState::Succeeded)),
            Err(_) => Ok(false),
        }
    }

    /// The batch was split, and its parts have ended, `kind` of them all: each record ends with what its part has. `false` if it was failed or aborted before.
    ///
    /// # Errors
    /// [`IllegalState`] if it has succeeded before (BATCH-12).
    pub(super) fn complete_by_parts(&self, kind: FinalState, parts: Vec<(u32, Watch)>) -> Result<bool, IllegalState> {
        self.decide(kind, Outcome::Parts(parts))
    }

    /// The producer gives the batch up.
    ///
    /// # Errors
    /// [`IllegalState`] if it is settled already, however (BATCH-12).
    pub fn abort(&self, error: SendError) -> Result<(), IllegalState> {
        self.0
            .shared()
            .settle(FinalState::Aborted, Outcome::Lost { error, record_errors: None })
            .map_err(|found| illegal(found.unwrap_or(FinalState::Aborted)))
    }

    /// A further reference for whoever keeps the books of unfinished batches.
    pub fn watch(&self) -> Watch {
        Watch(self.0.clone())
    }

    /// How the batch ended, if it has.
    pub fn final_state(&self) -> Option<FinalState> {
        final_state(&self.0)
    }
}

fn final_state(reference: &Reference) -> Option<FinalState> {
    // Relaxed: the kind is in the word itself and never changes; nothing else is read.
    FinalState::of(reference.shared().state.load(Relaxed))
}

impl Drop for Completion {
    /// A closed batch that is dropped unsettled aborts its records: each accepted record completes (L5).
    fn drop(&mut self) {
        if self.final_state().is_none() {
            // Losing the race to another settler is as good.
            let _ = self.abort(SendError::Aborted { reason: "its batch was dropped before the broker answered" });
        }
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Completion").field(&self.final_state()).finish()
    }
}

/// A reference for the books: waits for a batch, or aborts it. Kafka's entry in `IncompleteBatches`.
#[derive(Clone)]
pub struct Watch(Reference);

impl Watch {
    /// Whether the result is there, callbacks run, waiters released.
    pub fn is_done(&self) -> bool {
        self.0.shared().is_done()
    }

    /// How the batch ended, if it has.
    pub fn final_state(&self) -> Option<FinalState> {
        final_state(&self.0)
    }

    /// Aborts the batch if it is closed and not settled; whether it did.
    pub fn abort(&self, error: SendError) -> bool {
        self.0.shared().settle(FinalState::Aborted, Outcome::Lost { error, record_errors: None }).is_ok()
    }

    /// Fails the batch if it is closed and not settled; whether it did. For a batch that is not at hand: it is with the transport.
    pub fn fail(&self, error: SendError) -> bool {
        self.0.shared().settle(FinalState::Failed, Outcome::Lost { error, record_errors: None }).is_ok()
    }

    /// Sleeps until the batch is done, or until `timeout` has passed; whether it is done.
    pub fn wait<P: Parker>(&self, timeout: Option<(Duration, &dyn Clock)>) -> bool {
        let mut registered = None;
        wait_done::<P>(self.0.shared(), &mut registered, timeout)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&final_state(&self.0)).finish()
    }
}

/// A parker that a waker can wake.
struct Parked<P>(P);

impl<P: Parker> Wake for Parked<P> {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Sleeps until `shared` is done; `false` if the time is up before. `registered` keeps who was put on the stack for it, so that the next wait of the same
/// future pushes nothing (L10).
fn wait_done<P: Parker>(
    shared: &Shared,
    registered: &mut Option<Box<Registrant>>,
    timeout: Option<(Duration, &dyn Clock)>,
) -> bool {
    if shared.is_done() {
        return true;
    }
    if timeout.is_some_and(|(timeout, _)| timeout.is_zero()) {
        return false;
    }
    let deadline = timeout.map(|(timeout, clock)| (clock.now().saturating_add(timeout), clock));
    let known = match registered.as_deref() {
        Some(Registrant::Thread(parked)) => Arc::clone(parked).downcast::<Parked<P>>().ok(),
        _ => None,
    };
    let parked = match known {
        Some(parked) => parked,
        None => {
            let parked = Arc::new(Parked(P::new()));
            if !shared.register(Waker::from(Arc::clone(&parked))) {
                return true;
            }
            *registered = Some(Box::new(Registrant::Thread(Arc::clone(&parked) as _)));
            parked
        }
    };
    while !shared.is_done() {
        match deadline {
            None => parked.0.park(),
            Some((deadline, clock)) => {
                let left = deadline.saturating_since(clock.now());
                if left.is_zero() || !parked.0.park_timeout(left) {
                    // One last look: the result may have come with the end of the time.
                    return shared.is_done();
                }
            }
        }
    }
    true
}

/// A record's result, to come. Kafka's `FutureRecordMetadata`; it cannot be cancelled (BATCH-18). Dropping it does not take the record
/// back: it only means that nobody asks. A thread that drops futures keeps the result of the batch that the last one was of, and what that was settled with, until it drops one of another batch, or ends: futures that are dropped one after another then cost one exchange for a batch.
///
/// It is a [`Future`], and has blocking forms for threads.
#[must_use = "a record whose future is dropped may be lost unnoticed; to ignore it, append without a future"]
pub struct RecordFuture {
    reference: Lasting,
    index: u32,
    timestamp: i64,
    /// Who stands on the stack for us, if anybody: waiting again as the same one pushes nothing.
    registered: Option<Box<Registrant>>,
}

/// Who was put on the stack for a future, to be known again.
enum Registrant {
    /// A task, by its waker's data and table. The clone on the stack keeps both from being used for another as long as it matters: until the batch is done. A
    /// clone here would keep the task alive for ever if the task keeps the future.
    Task(usize, usize),
    /// A thread that waited with a timeout: its parker, of the kind it was.
    Thread(Arc<dyn Any + Send + Sync>),
}

impl Registrant {
    fn task(waker: &Waker) -> Self {
        Self::Task(waker.data().addr(), ptr::from_ref(waker.vtable()).addr())
    }

    fn is_task(&self, waker: &Waker) -> bool {
        let Self::Task(data, table) = *self else { return false };
        (data, table) == (waker.data().addr(), ptr::from_ref(waker.vtable()).addr())
    }
}

impl RecordFuture {
    /// Whether the record has completed: its result is there and its batch's callbacks have run.
    pub fn is_done(&self) -> bool {
        self.reference.shared().is_done()
    }

    /// The result, if it can be read already. Inside a callback it can, though the future is not yet done (BATCH-13).
    pub fn try_result(&self) -> Option<RecordResult> {
        self.reference.shared().result(self.index, self.timestamp)
    }

    /// Sleeps until the record has completed.
    ///
    /// # Errors
    /// The record's own [`SendError`]; [`SendError::WaitInCallback`], at once, if called inside a callback before the record is done
    /// (GAP-20).
    pub fn wait(self) -> RecordResult {
        self.wait_on::<ThreadParker>()
    }

    /// [`RecordFuture::wait`] on another kind of parker.
    ///
    /// # Errors
    /// As [`RecordFuture::wait`].
    pub fn wait_on<P: Parker>(mut self) -> RecordResult {
        if !self.is_done() && in_callback() {
            return Err(SendError::WaitInCallback);
        }
        wait_done::<P>(self.reference.shared(), &mut self.registered, None);
        self.settled()
    }

    /// Sleeps until the record has completed, at most `timeout` by `clock`; `None` if it has not. The record goes on, and the future can be
    /// asked again.
    ///
    /// # Errors
    /// Inside, as [`RecordFuture::wait`].
    pub fn wait_timeout(&mut self, timeout: Duration, clock: &dyn Clock) -> Option<RecordResult> {
        self.wait_timeout_on::<ThreadParker>(timeout, clock)
    }

    /// [`RecordFuture::wait_timeout`] on another kind of parker.
    ///
    /// # Errors
    /// Inside, as [`RecordFuture::wait`].
    pub fn wait_timeout_on<P: Parker>(&mut self, timeout: Duration, clock: &dyn Clock) -> Option<RecordResult> {
        if !self.is_done() && in_callback() {
            return Some(Err(SendError::WaitInCallback));
        }
        wait_done::<P>(self.reference.shared(), &mut self.registered, Some((timeout, clock))).then(|| self.settled())
    }

    /// The result of a record that is done.
    fn settled(&self) -> RecordResult {
        self.try_result().unwrap_or(Err(SendError::Aborted { reason: "its batch ended without a result" }))
    }
}

impl Future for RecordFuture {
    type Output = RecordResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RecordResult> {
        let this = &mut *self;
        let shared = this.reference.shared();
        let known = this.registered.as_ref().is_some_and(|registrant| registrant.is_task(cx.waker()));
        if !known && !shared.is_done() && shared.register(cx.waker().clone()) {
            this.registered = Some(Box::new(Registrant::task(cx.waker())));
            return Poll::Pending;
        }
        if this.is_done() { Poll::Ready(this.settled()) } else { Poll::Pending }
    }
}

impl fmt::Debug for RecordFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordFuture")
            .field("index", &self.index)
            .field("result", &self.try_result())
            .finish_non_exhaustive()
    }
}
