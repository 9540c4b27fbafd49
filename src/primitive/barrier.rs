//! A full barrier between two sides of which one passes it for every record, and the other a few times a second, or once for some batches.
//!
//! Where two threads each announce themselves and then look at the other's announcement, one of them must see the other's: between the store and the load each needs a full fence. [`Barrier`] lets the
//! frequent side pay next to nothing: its [`light`](Barrier::light) barrier only keeps the compiler from moving accesses, and the rare side's [`heavy`](Barrier::heavy) one has the kernel run a full fence on every processor
//! that runs a thread of this process.
//!
//! | build or system | light | heavy |
//! |---|---|---|
//! | Linux whose kernel has `membarrier`'s private expedited command | compiler fence | that command |
//! | any other; loom; shuttle | `fence(SeqCst)` | `fence(SeqCst)` |
//!
//! # What is trusted
//! With `membarrier`, and only there, we rely on the kernel: *the command returns after every running thread of the process has passed a full fence that lies between the start of the call and its return; a thread that is not running
//! passes one before it runs again.* So of every light barrier, the accesses before it are visible to whoever comes out of the call, or the accesses after it come behind the call. No checker sees this. What a checker sees is the other
//! row of the table, from which this one differs in nothing but the two barriers.
//!
//! The kernel is asked once, at the first use in a process.

#[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
use std::sync::OnceLock;
#[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
use std::sync::atomic::compiler_fence;

use super::atomic::Ordering::SeqCst;
use super::atomic::fence;

/// Both sides of the barrier, of the kind that there is.
#[derive(Debug, Clone, Copy)]
pub struct Barrier {
    /// Whether the kernel does the rare side's work. One answer for a process: both sides must use the same row of the table.
    #[cfg_attr(any(crossbeam_loom, unlatched_shuttle), allow(dead_code, reason = "a checker knows no kernel"))]
    by_kernel: bool,
}

impl Barrier {
    /// The kind that there is in this process.
    #[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
    pub fn get() -> Self {
        static KIND: OnceLock<Barrier> = OnceLock::new();
        *KIND.get_or_init(|| Self { by_kernel: kernel::register() })
    }

    /// The kind that there is in this process.
    #[cfg(any(crossbeam_loom, unlatched_shuttle))]
    pub fn get() -> Self {
        Self { by_kernel: false }
    }

    /// Whether the light barrier costs nothing.
    pub fn is_asymmetric(self) -> bool {
        self.by_kernel
    }

    /// The frequent side's.
    #[inline(always)]
    pub fn light(self) {
        #[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
        if self.by_kernel {
            // SeqCst: nothing is moved across it by the compiler; what the processor moves is the heavy side's affair.
            compiler_fence(SeqCst);
            return;
        }
        // SeqCst: pairs with the same fence in `heavy`: one of the two sides sees what the other has stored before its own.
        fence(SeqCst);
    }

    /// The rare side's. Costs an interruption of every processor that runs a thread of this process.
    ///
    /// # Panics
    /// If the kernel refuses what it has promised.
    pub fn heavy(self) {
        // SeqCst: pairs with the fence in `light`; where that is the compiler's alone, it keeps our own accesses in their places, and the kernel does the rest.
        fence(SeqCst);
        #[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
        if self.by_kernel {
            kernel::fence_all();
        }
    }
}

#[cfg(all(target_os = "linux", not(any(crossbeam_loom, unlatched_shuttle))))]
mod kernel {
    use rustix::thread::{MembarrierCommand, membarrier, membarrier_query};

    /// Whether every processor can be made to pass a fence; if so, it has been asked for.
    pub(super) fn register() -> bool {
        membarrier_query().contains_command(MembarrierCommand::PrivateExpedited)
            && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
    }

    pub(super) fn fence_all() {
        if membarrier(MembarrierCommand::PrivateExpedited).is_err() {
            // Only if this process is a copy of the one that has registered.
            assert!(register(), "the kernel has fenced before and does not any more");
            membarrier(MembarrierCommand::PrivateExpedited).expect("registered a moment ago");
        }
    }
}

#[cfg(all(not(target_os = "linux"), not(any(crossbeam_loom, unlatched_shuttle))))]
mod kernel {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn fence_all() {}
}

#[cfg(all(test, not(any(crossbeam_loom, unlatched_shuttle))))]
mod tests {
    use std::sync::Barrier as Start;

    use super::*;
    use crate::primitive::atomic::AtomicU64;
    use crate::primitive::atomic::Ordering::Relaxed;

    /// Each announces the number of the round and looks at the other's: never do both miss each other.
    #[test]
    fn one_of_two_sees_the_other() {
        const ROUNDS: u64 = 20_000;
        let barrier = Barrier::get();
        let (light, heavy) = (AtomicU64::new(0), AtomicU64::new(0));
        let start = Start::new(2);
        let side = |own: &AtomicU64, other: &AtomicU64, fence: &dyn Fn()| {
            let mut missed = Vec::new();
            for round in 1..=ROUNDS {
                start.wait();
                // Relaxed, both: the fence between them is what is tried.
                own.store(round, Relaxed);
                fence();
                if other.load(Relaxed) < round {
                    missed.push(round);
                }
            }
            missed
        };
        let (by_light, by_heavy) = std::thread::scope(|scope| {
            let rare = scope.spawn(|| side(&heavy, &light, &|| barrier.heavy()));
            let frequent = side(&light, &heavy, &|| barrier.light());
            (frequent, rare.join().expect("it does not panic"))
        });
        assert!(by_light.iter().all(|round| by_heavy.binary_search(round).is_err()), "both missed each other");
    }
}
