//! Threads that may get stuck, and waiting for what must happen: shared by the suites that block on purpose.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread, ThreadId};
use std::time::Duration;

use unlatched::primitive::clock::{Clock, Instant, SystemClock};

/// How long a test waits for what must happen before it says that it does not. Nothing waits so long where all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A max-block that no test sees the end of: longer than the patience.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// How long a test watches for what must not happen. A fault may slip through when the machine is busy; a false alarm cannot.
pub(crate) const GLANCE: Duration = Duration::from_millis(30);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `happened`, which must come to pass.
#[track_caller]
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while !happened() {
        assert!(watch.elapsed() < PATIENCE, "did not happen within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Real time since a start.
pub(crate) struct Stopwatch(SystemClock);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(SystemClock::new())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.now().saturating_since(Instant::ZERO)
    }
}

/// A thread that may block for good if the code is wrong: then its test fails, and does not hang.
pub(crate) struct Worker<T>(JoinHandle<T>);

impl<T: Send + 'static> Worker<T> {
    pub(crate) fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(std::thread::spawn(work))
    }

    pub(crate) fn id(&self) -> ThreadId {
        self.thread().id()
    }

    fn thread(&self) -> &Thread {
        self.0.thread()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// What the thread came to; its panic is passed on.
    #[track_caller]
    pub(crate) fn result(self) -> T {
        eventually("the thread ends", || self.0.is_finished());
        match self.0.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// That the thread does not end for a [`GLANCE`].
    #[track_caller]
    pub(crate) fn assert_stays_blocked(&self, why: &str) {
        std::thread::sleep(GLANCE);
        assert!(!self.is_finished(), "went on: {why}");
    }
}

/// A point that a thread does not pass before it is let through.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<(bool, bool)>, Condvar)>);

impl Gate {
    /// Stands here until [`Gate::open`].
    pub(crate) fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = lock(state);
        state.0 = true;
        drop(changed.wait_timeout_while(state, LONG, |(_, open)| !*open).unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until a thread stands here.
    #[track_caller]
    pub(crate) fn await_reached(&self) {
        eventually("a thread comes to the gate", || lock(&self.0.0).0);
    }

    pub(crate) fn open(&self) {
        lock(&self.0.0).1 = true;
        self.0.1.notify_all();
    }
}
