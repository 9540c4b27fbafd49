//! Ctrl-C: the first asks everything to end gracefully, the second ends the program.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::primitive::atomic::AtomicBool;
use crate::primitive::atomic::Ordering::Relaxed;

type Action = Box<dyn FnMut() + Send>;

/// Whether the program was asked to end, and what is to happen then.
#[derive(Clone)]
pub(super) struct Stop(Arc<Shared>);

struct Shared {
    asked: AtomicBool,
    actions: Mutex<Vec<Action>>,
}

impl Stop {
    /// The program's own, which Ctrl-C and a termination signal ask.
    pub(super) fn on_signal() -> Self {
        static STOP: OnceLock<Stop> = OnceLock::new();
        STOP.get_or_init(|| {
            let stop = Self(Arc::new(Shared { asked: AtomicBool::new(false), actions: Mutex::new(Vec::new()) }));
            let handler = stop.clone();
            // Signals alone are counted: a child is asked by its parent as well, and that must not make its first signal
            // the second.
            let mut signalled = false;
            let set = ctrlc::set_handler(move || {
                if std::mem::replace(&mut signalled, true) {
                    std::process::exit(super::INTERRUPTED.into());
                }
                handler.ask();
            });
            if let Err(error) = set {
                tracing::warn!(%error, "Ctrl-C will not end this gracefully");
            }
            stop
        })
        .clone()
    }

    /// Asks.
    pub(super) fn ask(&self) {
        // Relaxed: the flag is polled, and orders nothing.
        self.0.asked.store(true, Relaxed);
        self.0.actions.lock().iter_mut().for_each(|action| action());
    }

    /// Whether it was asked.
    pub(super) fn asked(&self) -> bool {
        // Relaxed: see `ask`.
        self.0.asked.load(Relaxed)
    }

    /// Has `action` called when it is asked; at once if it was.
    pub(super) fn then(&self, mut action: impl FnMut() + Send + 'static) {
        let mut actions = self.0.actions.lock();
        if self.asked() {
            action();
        }
        actions.push(Box::new(action));
    }
}
