//! A sender on a thread of its own, and the ways to end it.
//!
//! Source: Kafka's `KafkaProducer.close`, `Sender.initiateClose` and `Sender.forceClose`; SEND-26 to SEND-28.

use std::fmt;
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

/// Why a close was not graceful to the end. Every accepted record has completed all the same, some of them aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The time was up: what was not acknowledged by then was aborted.
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
    /// It has ended, and aborted what was left.
    Ended = 3,
    /// It has ended by a panic.
    Died = 4,
}

/// What the sender's thread and its handle share.
pub(super) struct Control {
    mode: AtomicU8,
    /// Who waits for the end.
    closers: StdMutex<Vec<Arc<ThreadParker>>>,
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
            _ => Mode::Died,
        }
    }

    fn raise(&self, mode: Mode) {
        // AcqRel: see `mode`. A maximum: a forced close is not taken back by a graceful one, nor an end by either.
        self.mode.fetch_max(mode as u8, AcqRel);
    }
}

/// Says how the sender's thread ended, whatever ended it.
struct Ending(Arc<Control>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.raise(if thread::panicking() { Mode::Died } else { Mode::Ended });
        // A closer that comes to this list later looks at the mode after that, and the lock shows it our raise.
        let closers = std::mem::take(&mut *self.0.closers.lock());
        closers.into_iter().for_each(|closer| closer.unpark());
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
        let control = Control { mode: AtomicU8::new(Mode::Running as u8), closers: Mutex::new(Vec::new()) };
        let handle = Self {
            accumulator: Arc::clone(&sender.accumulator),
            control: Arc::new(control),
            waker: sender.broker.waker(),
            stats: sender.stats(),
            clock: sender.clock.clone(),
        };
        let control = Arc::clone(&handle.control);
        thread::Builder::new().name("unlatched-sender".into()).spawn(move || {
            // Dropped after the sender, whose own end aborts what a panic left behind.
            let ending = Ending(control);
            sender.run(&ending.0);
        })?;
        Ok(handle)
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
    /// returns, every accepted record has completed (GAP-18). Any number of threads may close, any number of times.
    ///
    /// From a callback, which runs on the sender's thread, the wait would never end: there the close is forced, and not waited for (SEND-28).
    ///
    /// # Errors
    /// [`CloseError`] if records were aborted, or may have been.
    pub fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        let mut forced = timeout.is_zero() || in_callback();
        self.accumulator.close();
        self.control.raise(if forced { Mode::Forced } else { Mode::Closing });
        self.wake();
        if in_callback() {
            return Err(CloseError::Forced(Duration::ZERO));
        }
        let parker = Arc::new(ThreadParker::new());
        self.control.closers.lock().push(Arc::clone(&parker));
        let deadline = self.clock.now().saturating_add(timeout);
        while !self.has_ended() {
            let left = deadline.saturating_since(self.clock.now());
            if forced {
                parker.park();
            } else if left.is_zero() || !parker.park_timeout(left) {
                forced = true;
                self.control.raise(Mode::Forced);
                self.wake();
            }
        }
        match self.control.mode() {
            Mode::Died => Err(CloseError::SenderDied),
            _ if forced => Err(CloseError::Forced(timeout)),
            _ => Ok(()),
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
