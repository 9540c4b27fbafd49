//! A sender on a thread of its own, and the ways to end it.
//!
//! Source: Kafka's `KafkaProducer.close`, `Sender.initiateClose` and `Sender.forceClose`; SEND-26 to SEND-28.
//!
//! # What a closer hears
//! How the sender ended. That is one fact, decided on the sender's thread, and every closer hears the same, whenever it comes, whatever time it gives, and
//! whoever else closes:
//!
//! | the sender | each closer hears |
//! |---|---|
//! | found nothing left to send or to wait for, so aborted nothing | `Ok` |
//! | was forced while something was left, and aborted that | [`CloseError::Forced`] with the time of the closer that was the first to force |
//! | panicked, wherever | [`CloseError::SenderDied`] |
//!
//! So force that finds nothing to abort is none: a close whose time is up just as the sender ends by itself, or a close with no time at all of a sender that
//! has nothing to do, hears `Ok`. A closer in a callback is the only one that does not wait for the end: it hears how the sender has ended or, if it has not yet,
//! that the close is forced.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::{Sender, SenderStats};
use crate::accumulator::Accumulator;
use crate::batch::in_callback;
use crate::broker::Broker;
use crate::primitive::atomic::AtomicU8;
use crate::primitive::atomic::Ordering::{AcqRel, Acquire};
use crate::primitive::clock::SharedClock;
use crate::primitive::lock::{Mutex, StdMutex};
use crate::primitive::parker::{Parker, ThreadParker};
use crate::primitive::thread;

/// Why a sender did not start.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no thread for the sender: {0}")]
pub struct StartError(#[from] std::io::Error);

/// Why a close was not graceful to the end. Every accepted record has completed all the same, some of them aborted. Every closer of a sender hears
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// This time was up, of the closer that was the first to force: what was not acknowledged by then was aborted.
    #[error("close was forced after {0:?}: records that were not acknowledged by then were aborted")]
    Forced(Duration),
    /// The sender had died of a panic: what was not acknowledged by then was aborted.
    #[error("the sender had died of a panic: records that were not acknowledged by then were aborted")]
    SenderDied,
}

/// What a sender is to do, or has done. Only ever raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Mode {
    Running = 0,
    /// Send what is queued, wait for what is in flight, end.
    Closing = 1,
    /// Abort everything, end.
    Forced = 2,
    /// It has ended with nothing left.
    Ended = 3,
    /// It has ended by force, and aborted what was left.
    Aborted = 4,
    /// It has ended by a panic.
    Died = 5,
}

/// What the sender's thread and its handle share.
pub(super) struct Control {
    mode: AtomicU8,
    closers: StdMutex<Closers>,
}

#[derive(Default)]
struct Closers {
    /// Who waits for the end.
    waiting: Vec<Arc<ThreadParker>>,
    /// The time of the closer that was the first to force.
    forced_after: Option<Duration>,
}

impl Control {
    pub(super) fn mode(&self) -> Mode {
        // Acquire pairs with the raise: an end seen, everything that the sender did before it is visible to whoever closes; a wish seen, the
        // closing of the accumulator before it is visible to the sender. Not seen: the wake that follows each raise brings another look.
        match self.mode.load(Acquire) {
            0 => Mode::Running,
            1 => Mode::Closing,
            2 => Mode::Forced,
            3 => Mode::Ended,
            4 => Mode::Aborted,
            _ => Mode::Died,
        }
    }

    fn raise(&self, mode: Mode) {
        // AcqRel: see `mode`. A maximum: a forced close is not taken back by a graceful one, nor an end by either.
        self.mode.fetch_max(mode as u8, AcqRel);
    }

    /// Forces, on behalf of a closer that gave `timeout`. The time of whoever came first.
    fn force(&self, timeout: Duration) -> Duration {
        // Before the raise, so that an end by force always finds it.
        let first = *self.closers.lock().forced_after.get_or_insert(timeout);
        self.raise(Mode::Forced);
        first
    }

    /// How the sender ended, if it has.
    fn end(&self) -> Option<Result<(), CloseError>> {
        match self.mode() {
            Mode::Running | Mode::Closing | Mode::Forced => None,
            Mode::Ended => Some(Ok(())),
            Mode::Aborted => Some(Err(CloseError::Forced(self.closers.lock().forced_after.unwrap_or_default()))),
            Mode::Died => Some(Err(CloseError::SenderDied)),
        }
    }
}

/// Says how the sender's thread ended, whatever ended it.
struct Ending {
    control: Arc<Control>,
    /// [`Mode::Died`] until the sender has come to another end.
    how: Mode,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.control.raise(self.how);
        // A closer that comes to this list later looks at the mode after that, and the lock shows it our raise.
        let waiting = std::mem::take(&mut self.control.closers.lock().waiting);
        waiting.into_iter().for_each(|closer| closer.unpark());
    }
}

/// A running sender.
pub struct SenderHandle<A: Accumulator> {
    accumulator: Arc<A>,
    control: Arc<Control>,
    waker: Waker,
    stats: Arc<SenderStats>,
    clock: SharedClock,
}

impl<A: Accumulator> SenderHandle<A> {
    /// Starts `sender` on a thread of its own.
    ///
    /// # Errors
    /// [`StartError`] if the operating system has no thread to give.
    pub fn spawn<B: Broker>(sender: Sender<A, B>) -> Result<Self, StartError> {
        let (handle, run) = Self::prepare(sender);
        if let Err(error) = thread::Builder::new().name("unlatched-sender".into()).spawn(run) {
            // A handle's drop waits for the end of a sender, and there is none.
            handle.control.raise(Mode::Died);
            return Err(error.into());
        }
        Ok(handle)
    }

    /// A handle, and what the sender's thread is to run: somebody must, since the handle's drop waits for its end.
    pub(crate) fn prepare<B: Broker>(sender: Sender<A, B>) -> (Self, impl FnOnce() + Send + 'static) {
        let control = Control { mode: AtomicU8::new(Mode::Running as u8), closers: Mutex::new(Closers::default()) };
        let control = Arc::new(control);
        let (accumulator, stats, clock) = (Arc::clone(&sender.accumulator), sender.stats(), sender.clock.clone());
        let waker = sender.broker.waker();
        let seen = Arc::clone(&control);
        let run = move || {
            // Dropped after the sender, whose own end aborts what a panic left behind. That end is not a part of the panic: it waits for appends under way and calls back, and what
            // panics there is to be caught as ever.
            let mut ending = Ending { control: seen, how: Mode::Died };
            let mut sender = sender;
            let ran = catch_unwind(AssertUnwindSafe(|| sender.run(&ending.control)));
            let ended = catch_unwind(AssertUnwindSafe(|| drop(sender)));
            match (ran, ended) {
                (Ok(how), Ok(())) => ending.how = how,
                (Ok(_), Err(payload)) | (Err(payload), Ok(())) => resume_unwind(payload),
                (Err(payload), Err(second)) => {
                    // Its drop might panic as well.
                    std::mem::forget(second);
                    resume_unwind(payload);
                }
            }
        };
        (Self { accumulator, control, waker, stats, clock }, run)
    }

    /// Ends the sender's sleep: there is something to do.
    #[inline]
    pub fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// What the sender has done so far.
    pub fn stats(&self) -> &SenderStats {
        &self.stats
    }

    /// Whether the sender has ended: records are no longer accepted.
    pub fn has_ended(&self) -> bool {
        self.control.mode() >= Mode::Ended
    }

    /// Closes: no more records are accepted, what was accepted is sent, and the sender ends. After `timeout` what is left is aborted. When this
    /// returns, every accepted record has completed (GAP-18). Any number of threads may close, any number of times, and all hear how the sender ended; see the
    /// module's head.
    ///
    /// From a callback, which runs on the sender's thread, the wait would never end: there the close is forced, and not waited for (SEND-28).
    ///
    /// # Errors
    /// [`CloseError`] if the sender was forced and records were aborted, or if it died; in a callback also if it has not ended yet.
    pub fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        self.accumulator.close();
        if in_callback() {
            let first = self.control.force(Duration::ZERO);
            self.wake();
            return self.control.end().unwrap_or(Err(CloseError::Forced(first)));
        }
        let mut forced = timeout.is_zero();
        if forced {
            self.control.force(timeout);
        } else {
            self.control.raise(Mode::Closing);
        }
        self.wake();
        let parker = Arc::new(ThreadParker::new());
        self.control.closers.lock().waiting.push(Arc::clone(&parker));
        let deadline = self.clock.now().saturating_add(timeout);
        loop {
            if let Some(end) = self.control.end() {
                return end;
            }
            let left = deadline.saturating_since(self.clock.now());
            if forced {
                parker.park();
            } else if left.is_zero() || !parker.park_timeout(left) {
                forced = true;
                self.control.force(timeout);
                self.wake();
            }
        }
    }
}

impl<A: Accumulator> Drop for SenderHandle<A> {
    /// A handle that is dropped without a close closes by force: a sender must not outlive everybody who could end it.
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.close(Duration::ZERO);
        }
    }
}

impl<A: Accumulator> fmt::Debug for SenderHandle<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SenderHandle").field("mode", &self.control.mode()).finish_non_exhaustive()
    }
}
