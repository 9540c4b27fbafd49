//! Numbered shared steps, at which a test can stop a thread.
//!
//! A lock-free operation is a sequence of shared steps. [`step`] names each of them, so that a progress test can stop a
//! thread right there, for as long as it likes, and show that the others go on. In a build without tests the call is
//! empty and the number is gone.

/// The name of a shared step: protocol and position, as in `"pool.release.push"`.
pub type Step = &'static str;

/// Passes the step: nothing, unless this thread was told to stop here.
#[cfg(not(any(test, feature = "testing")))]
#[inline(always)]
pub fn step(_: Step) {}

#[cfg(any(test, feature = "testing"))]
pub use armed::{Stop, step, stop_here};

#[cfg(any(test, feature = "testing"))]
mod armed {
    use std::cell::RefCell;
    use std::sync::{Arc, Condvar, Mutex, PoisonError};
    use std::time::Duration;

    use super::Step;

    thread_local! {
        static ARMED: RefCell<Option<(Step, Stop)>> = const { RefCell::new(None) };
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
    enum Phase {
        Running,
        Stopped,
        Released,
    }

    /// Where a thread is to stop, seen from the test that stops it.
    #[derive(Debug, Clone)]
    pub struct Stop(Arc<(Mutex<Phase>, Condvar)>);

    impl Stop {
        /// Not reached yet.
        pub fn new() -> Self {
            Self(Arc::new((Mutex::new(Phase::Running), Condvar::new())))
        }

        /// Waits until the thread stands at its step; `false` if it does not come within `timeout`.
        pub fn await_stopped(&self, timeout: Duration) -> bool {
            let guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (guard, _) = self
                .0
                .1
                .wait_timeout_while(guard, timeout, |phase| *phase == Phase::Running)
                .unwrap_or_else(PoisonError::into_inner);
            *guard != Phase::Running
        }

        /// Lets the thread go on.
        pub fn release(&self) {
            self.set(Phase::Released);
        }

        fn set(&self, phase: Phase) {
            *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
            self.0.1.notify_all();
        }

        fn stand(&self) {
            let mut guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
            if *guard == Phase::Running {
                *guard = Phase::Stopped;
                self.0.1.notify_all();
            }
            drop(self.0.1.wait_while(guard, |phase| *phase != Phase::Released).unwrap_or_else(PoisonError::into_inner));
        }
    }

    impl Default for Stop {
        fn default() -> Self {
            Self::new()
        }
    }

    /// Tells the calling thread to stop the next time it passes `step`, once. A task of a simulation has
    /// `sim::pause_at` instead: stopping its thread would stop them all.
    pub fn stop_here(step: Step, stop: &Stop) {
        ARMED.with(|armed| *armed.borrow_mut() = Some((step, stop.clone())));
    }

    /// Passes the step: nothing, unless this thread was told to stop here. In a simulation, a scheduling point.
    pub fn step(at: Step) {
        #[cfg(feature = "testing")]
        if crate::primitive::sim::pass(at) {
            return;
        }
        // A destructor of another thread-local may come here when this one is gone.
        let stop = ARMED.try_with(|armed| {
            let mut armed = armed.borrow_mut();
            if armed.as_ref().is_some_and(|(step, _)| *step == at) { armed.take() } else { None }
        });
        if let Ok(Some((_, stop))) = stop {
            stop.stand();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_thread_stops_at_its_step_and_only_there() {
            let stop = Stop::new();
            let thread = std::thread::spawn({
                let stop = stop.clone();
                move || {
                    stop_here("b", &stop);
                    step("a");
                    step("b");
                    step("b");
                }
            });
            assert!(stop.await_stopped(Duration::from_secs(30)));
            assert!(!thread.is_finished());
            stop.release();
            thread.join().unwrap();
        }
    }
}
