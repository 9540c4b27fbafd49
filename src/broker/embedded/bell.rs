//! Who wakes whom: a bell is a parker that can be a [`Waker`].

use std::fmt;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::primitive::parker::{Parker, ThreadParker};

/// One sleeper's bell. Rung while nobody sleeps, it ends the next sleep at once.
pub(super) struct Bell(ThreadParker);

impl Bell {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(ThreadParker::new()))
    }

    pub(super) fn ring(&self) {
        self.0.unpark();
    }

    /// Sleeps until rung, at most `timeout` if there is one; whether it was rung.
    pub(super) fn sleep(&self, timeout: Option<Duration>) -> bool {
        match timeout {
            Some(timeout) => self.0.park_timeout(timeout),
            None => {
                self.0.park();
                true
            }
        }
    }

    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(self.clone())
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bell")
    }
}

/// The bells of every client's thread, rung when something changes that no request announces.
#[derive(Debug, Clone, Default)]
pub(super) struct Bells(Arc<Mutex<Vec<Weak<Bell>>>>);

impl Bells {
    pub(super) fn add(&self, bell: &Arc<Bell>) {
        let mut bells = self.0.lock();
        bells.retain(|bell| bell.strong_count() > 0);
        bells.push(Arc::downgrade(bell));
    }

    pub(super) fn ring(&self) {
        for bell in self.0.lock().iter().filter_map(Weak::upgrade) {
            bell.ring();
        }
    }
}
