//! Reclamation: the stand-in that other models use, and crossbeam-epoch's own under the same source.

use unlatched::primitive::Arc;
use unlatched::primitive::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use unlatched::primitive::epoch::{Atomic, Owned, Shared, pin, unprotected};

use crate::runner::{Bound, Check, Model, model};

pub(crate) fn models() -> Vec<Check> {
    vec![
        swap_against_read("epoch_stand_in_swap_against_read", Bound::Full, Retire::Once)
            .keeps_retired()
            .expect(|_, results| results[0].to_string(), &["1", "2"]),
        swap_against_read("epoch_collector_swap_against_read", Bound::Preemptions(2), Retire::Once)
            .expect(|_, results| results[0].to_string(), &["1", "2"]),
        swap_against_read("epoch_stand_in_retired_twice_is_seen", Bound::Full, Retire::Twice)
            .keeps_retired()
            .expect_failure("retired twice"),
        swap_against_read("epoch_stand_in_leak_is_seen", Bound::Full, Retire::Never)
            .keeps_retired()
            .weak_memory()
            .expect_failure("leak"),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Retire {
    Never,
    Once,
    Twice,
}

/// A pointer to a counted value, which loom tracks.
struct Slot(Atomic<Arc<u32>>);

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: nobody else is left.
        let guard = unsafe { unprotected() };
        let last = self.0.swap(Shared::null(), Relaxed, guard);
        // SAFETY: nobody else is left, and `last` was in the slot, hence not retired.
        drop(unsafe { last.into_owned() });
    }
}

fn swap_against_read(name: &str, bound: Bound, retire: Retire) -> Model<Slot, u32> {
    let shared = || Slot(Atomic::new(Arc::new(1)));
    model(name, "who reads a pointer reads a live value, before or after the swap", bound, shared)
        .role("reader", |slot: &Slot| {
            let guard = pin();
            let seen = slot.0.load(Acquire, &guard);
            // SAFETY: never null while roles run, and retired values live while we are pinned.
            **unsafe { seen.deref() }
        })
        .role("swapper", move |slot| {
            let guard = pin();
            let former = slot.0.swap(Owned::new(Arc::new(2)), AcqRel, &guard);
            if retire != Retire::Never {
                // SAFETY: the swap took it out of reach.
                unsafe { guard.defer_destroy(former) };
            }
            if retire == Retire::Twice {
                // SAFETY: broken on purpose: the stand-in must panic here.
                unsafe { guard.defer_destroy(former) };
            }
            guard.flush();
            0
        })
}
