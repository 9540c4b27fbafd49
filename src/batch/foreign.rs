//! Calling foreign code: callbacks, wakers, observers.
//!
//! Whatever such code does - panic, panic with a payload whose drop panics - reaches neither those who come after it nor the thread it runs on
//! (BATCH-14, GAP-21). While it runs on a thread that settles records, waiting there would be waiting for oneself, and is refused (GAP-20).

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::error::FlushError;

crate::primitive::thread_local! {
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's thread_local has no const form")]
    static RUNNING: Cell<u32> = Cell::new(0);
}

/// Whether the calling thread is running a record's callback, or the waker of a record's future, now.
pub fn in_callback() -> bool {
    RUNNING.with(|running| running.get() > 0)
}

/// Sets how many callbacks the calling thread is in; how many it was in. For a scheduler whose tasks share a thread.
#[cfg(feature = "testing")]
pub(crate) fn swap_callbacks(to: u32) -> u32 {
    RUNNING.with(|running| running.replace(to))
}

/// Refuses a flush from inside a callback or a waker, at once (GAP-20).
///
/// # Errors
/// [`FlushError::InCallback`].
pub fn refuse_in_callback() -> Result<(), FlushError> {
    if in_callback() { Err(FlushError::InCallback) } else { Ok(()) }
}

/// How long one who may wait for memory `at_most` so long does: inside a callback or a waker not at all, since what it waits for may come from the thread it runs on (GAP-20).
pub(crate) fn may_wait(at_most: Duration) -> Duration {
    if in_callback() { Duration::ZERO } else { at_most }
}

/// Runs `code` of a settled record, as a callback: inside it, waiting is refused.
pub(super) fn run_callback(what: &'static str, code: impl FnOnce()) {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            RUNNING.with(|running| running.set(running.get() - 1));
        }
    }
    contain(what, || {
        RUNNING.with(|running| running.set(running.get() + 1));
        let _leave = Leave;
        code();
    });
}

/// Runs `code`; its value, or `None` if it panicked. The panic goes to the log and no further, nor does what its payload's drop does.
pub(crate) fn contain<T>(what: &'static str, code: impl FnOnce() -> T) -> Option<T> {
    let payload = match catch_unwind(AssertUnwindSafe(code)) {
        Ok(value) => return Some(value),
        Err(payload) => payload,
    };
    // The log's subscriber and the payload's drop are foreign code too.
    let report = move || {
        tracing::error!(panic = message(&*payload), "{what} panicked; the others go on");
        drop(payload);
    };
    if let Err(again) = catch_unwind(AssertUnwindSafe(report)) {
        std::mem::forget(again);
    }
    None
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}
