//! The macro that runs a test on each core, and threads that may get stuck.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use unlatched::error::TopicPartition;
use unlatched::primitive::clock::{Clock, Instant, SystemClock};

/// Makes of each generic function `fn name<A: Accumulator>()` a test per core, `<core>::<name>`. A new core is one more line here.
macro_rules! on_every_core {
    ($($name:ident,)*) => {
        on_every_core!(@core mutex, StdAccumulator: $($name)*);
        on_every_core!(@core mutex_parking_lot, ParkingLotAccumulator: $($name)*);
    };
    (@core $module:ident, $core:ident: $($name:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$name::<unlatched::mutex::$core>();
                }
            )*
        }
    };
}
pub(crate) use on_every_core;

/// How long a test waits for what must happen before it says that it does not. Nothing waits so long where all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Longer than any test takes.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// How long a test watches for what must not happen. A fault may slip through when the machine is busy; a false alarm cannot.
pub(crate) const GLANCE: Duration = Duration::from_millis(30);

pub(crate) const TOPIC: &str = "t";

pub(crate) fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `happened`, which must come to pass.
#[track_caller]
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let clock = SystemClock::new();
    while !happened() {
        assert!(clock.now() < Instant::ZERO.saturating_add(PATIENCE), "did not happen within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// A thread that may block for good if the code is wrong: then its test fails, and does not hang.
pub(crate) struct Worker<T>(JoinHandle<T>);

impl<T: Send + 'static> Worker<T> {
    pub(crate) fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(std::thread::spawn(work))
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
        assert!(!self.0.is_finished(), "went on: {why}");
    }
}

/// What happened, in order: steps of the sender, of the broker, and callbacks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, step: impl Into<String>) {
        lock(&self.0).push(step.into());
    }

    /// What was noted since the last time.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.0))
    }

    /// The same, of the steps that begin with one of `words` alone.
    pub(crate) fn take_only(&self, words: &[&str]) -> Vec<String> {
        let mut steps = self.take();
        steps.retain(|step| words.iter().any(|word| step.starts_with(word)));
        steps
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
