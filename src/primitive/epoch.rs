//! Epoch-based reclamation: crossbeam-epoch, with a stand-in for models.
//!
//! The plain build re-exports crossbeam-epoch. Under loom and shuttle the same names are thin wrappers, so that one source
//! (`atomic.load(Acquire, &guard)`, `guard.defer_destroy(shared)`) serves two kinds of model:
//!
//! - by default `pin` is crossbeam-epoch's own. Under loom its atomics are loom's, and a model shows that nothing is
//!   freed under a reader; but two pins cost thousands of executions;
//! - while a `keep_until_model_ends` guard lives, `pin` does nothing, and what is retired is kept until that guard
//!   is dropped, then destroyed. So a model of *our* protocol does not pay for the collector's. It still shows what is retired
//!   twice (a panic), what is never retired (a leak, if the value holds a tracked object), and what is unordered: this `pin` has no
//!   fence that could order something by chance.
//!
//! Shuttle does not see crossbeam-epoch's atomics, so here each access to an `Atomic` is first a scheduling point of its
//! own. All threads of a shuttle model are one participant to the collector: use the stand-in there.

#[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
pub use crossbeam_epoch::{Atomic, Guard, Owned, Shared, pin, unprotected};

#[cfg(any(crossbeam_loom, unlatched_shuttle))]
pub use self::{
    atomic::Atomic,
    guard::{Guard, KeepUntilModelEnds, keep_until_model_ends, pin, unprotected},
};
#[cfg(any(crossbeam_loom, unlatched_shuttle))]
pub use crossbeam_epoch::{Owned, Shared};

/// Hands over what the calling thread has retired, and destroys what can be: for what is too large, or too much its owner's, to lie with a thread
/// that may never pin again.
///
/// If nobody else is pinned, everything that was retired before this call is destroyed by it. Otherwise it is any thread's to destroy, in one of its next
/// pins.
///
/// In a model it only unpins: one that is about the collector says itself when that is to look.
pub fn settle(guard: Guard) {
    if cfg!(any(crossbeam_loom, unlatched_shuttle)) {
        return;
    }
    guard.flush();
    drop(guard);
    // Being pinned, we have let the epoch move on by one. It takes two.
    pin().flush();
}

#[cfg(any(crossbeam_loom, unlatched_shuttle))]
mod guard {
    //! # Invariants
    //!
    //! - **E1** While a [`KeepUntilModelEnds`] lives, nothing retired through [`Guard::defer_destroy`] or
    //!   [`Guard::defer_unchecked`] is destroyed; it is dropped after every guard that `pin` gave under it (asserted).
    //! - **E2** A retired closure or object may be run or destroyed at any later time by the contract of crossbeam-epoch's methods of
    //!   the same name; we only choose that time.

    use std::cell::{Cell, RefCell};
    use std::collections::HashSet;
    use std::fmt;
    use std::marker::PhantomData;
    use std::ops::Deref;

    use crossbeam_epoch::{Pointable, Pointer, Shared};

    thread_local! {
        static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
        static PINNED: Cell<usize> = const { Cell::new(0) };
    }

    #[derive(Default)]
    struct Kept {
        retired: Vec<Box<dyn FnOnce()>>,
        addresses: HashSet<usize>,
    }

    /// Keeps what is retired until it is dropped: hold it from before the model's first spawn until after its last join.
    #[derive(Debug)]
    pub struct KeepUntilModelEnds(PhantomData<*const ()>);

    /// Replaces the collector by the stand-in for this execution of a model.
    ///
    /// What an execution that ended in a panic had kept is forgotten, not destroyed.
    pub fn keep_until_model_ends() -> KeepUntilModelEnds {
        std::mem::forget(KEPT.with(|kept| kept.borrow_mut().replace(Kept::default())));
        PINNED.set(0);
        KeepUntilModelEnds(PhantomData)
    }

    impl Drop for KeepUntilModelEnds {
        fn drop(&mut self) {
            if std::thread::panicking() {
                std::mem::forget(KEPT.with(|kept| kept.borrow_mut().take()));
                return;
            }
            assert_eq!(PINNED.get(), 0, "a guard outlives its model");
            // A destructor may retire more, so the stand-in stays until nothing is left.
            while let Some(destroy) = KEPT.with(|kept| kept.borrow_mut().as_mut().and_then(|kept| kept.retired.pop())) {
                destroy();
            }
            KEPT.with(|kept| *kept.borrow_mut() = None);
        }
    }

    enum Kind {
        Real(crossbeam_epoch::Guard),
        Kept,
        Unprotected,
    }

    /// crossbeam-epoch's guard, or the stand-in's. Dereferences to the former, which loads take.
    pub struct Guard(Kind);

    impl fmt::Debug for Guard {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self.0 {
                Kind::Real(_) => "Guard",
                Kind::Kept => "Guard (until the model ends)",
                Kind::Unprotected => "Guard (unprotected)",
            })
        }
    }

    impl Deref for Guard {
        type Target = crossbeam_epoch::Guard;

        fn deref(&self) -> &Self::Target {
            match &self.0 {
                Kind::Real(guard) => guard,
                // SAFETY: what is loaded through it is not freed while it is used: by E1 for the stand-in, by the promise made
                // to `unprotected` otherwise. Nothing is retired through it: our methods of that name shadow its own.
                Kind::Kept | Kind::Unprotected => unsafe { crossbeam_epoch::unprotected() },
            }
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            if let Kind::Kept = self.0 {
                PINNED.set(PINNED.get().saturating_sub(1));
            }
        }
    }

    /// Pins the calling thread: what is loaded under the guard is not freed while it lives.
    pub fn pin() -> Guard {
        if KEPT.with(|kept| kept.borrow().is_some()) {
            PINNED.set(PINNED.get() + 1);
            return Guard(Kind::Kept);
        }
        Guard(Kind::Real(crossbeam_epoch::pin()))
    }

    /// A guard that protects nothing, for constructors and destructors.
    ///
    /// # Safety
    /// As crossbeam-epoch's: what is loaded under it must not be retired by another thread meanwhile; what is retired
    /// through it is destroyed at once.
    pub unsafe fn unprotected() -> &'static Guard {
        struct Shareable(Guard);
        // SAFETY: this one value is `Kind::Unprotected`, which holds no data.
        unsafe impl Sync for Shareable {}
        static UNPROTECTED: Shareable = Shareable(Guard(Kind::Unprotected));
        &UNPROTECTED.0
    }

    impl Guard {
        /// Runs `f` once no thread is pinned that is pinned now.
        pub fn defer<F, R>(&self, f: F)
        where
            F: FnOnce() -> R + Send + 'static,
        {
            // SAFETY: `f` is `Send` and `'static`.
            unsafe { self.defer_unchecked(f) }
        }

        /// Like [`Guard::defer`], without the bounds on `f`.
        ///
        /// # Safety
        /// As crossbeam-epoch's: `f` may run at any later time, on any thread.
        pub unsafe fn defer_unchecked<F, R>(&self, f: F)
        where
            F: FnOnce() -> R,
        {
            match &self.0 {
                // SAFETY: the caller's promise.
                Kind::Real(guard) => unsafe { guard.defer_unchecked(f) },
                Kind::Unprotected => drop(f()),
                Kind::Kept => {
                    let run: Box<dyn FnOnce() + '_> = Box::new(move || drop(f()));
                    // SAFETY: only the lifetime changes; by E2 the caller promised that `f` may run at any later time.
                    let run = unsafe { std::mem::transmute::<Box<dyn FnOnce() + '_>, Box<dyn FnOnce()>>(run) };
                    KEPT.with(|kept| {
                        kept.borrow_mut().as_mut().expect("a guard outlives its model").retired.push(run);
                    });
                }
            }
        }

        /// Destroys what `ptr` points to once no thread is pinned that is pinned now.
        ///
        /// # Safety
        /// As crossbeam-epoch's: the object is out of reach for threads that pin from now on, and is retired once.
        ///
        /// # Panics
        /// Under the stand-in, if it was retired before.
        pub unsafe fn defer_destroy<T: ?Sized + Pointable>(&self, ptr: Shared<'_, T>) {
            if let Kind::Kept = self.0 {
                let address = ptr.with_tag(0).into_usize();
                let first = KEPT.with(|kept| {
                    kept.borrow_mut().as_mut().expect("a guard outlives its model").addresses.insert(address)
                });
                assert!(first, "retired twice: the object at {address:#x}");
            }
            // SAFETY: the caller's promise: whoever runs this is the object's only owner.
            unsafe { self.defer_unchecked(move || ptr.into_owned()) }
        }

        /// Hands this thread's retired objects to the collector.
        pub fn flush(&self) {
            if let Kind::Real(guard) = &self.0 {
                guard.flush();
            }
        }

        /// Unpins and pins again.
        pub fn repin(&mut self) {
            if let Kind::Real(guard) = &mut self.0 {
                guard.repin();
            }
        }
    }
}

#[cfg(any(crossbeam_loom, unlatched_shuttle))]
mod atomic {
    use std::sync::atomic::Ordering;

    use crossbeam_epoch::{CompareExchangeError, Owned, Pointable, Pointer, Shared};

    use super::guard::Guard;
    use crate::primitive::imp::{Track, scheduling_point, track};
    use crate::primitive::model::weak_exchange_fails;

    /// crossbeam-epoch's pointer, each access to which the checker sees.
    #[derive(Debug)]
    ///
    /// Tracked: whatever holds one and is never dropped is a leak that loom reports.
    pub struct Atomic<T: ?Sized + Pointable>(
        crossbeam_epoch::Atomic<T>,
        #[allow(dead_code, reason = "held, not read")] Track,
    );

    impl<T> Atomic<T> {
        /// Allocates `value` and points to it.
        pub fn new(value: T) -> Self {
            Self(crossbeam_epoch::Atomic::new(value), track())
        }
    }

    impl<T: ?Sized + Pointable> Atomic<T> {
        /// Points to nothing.
        pub fn null() -> Self {
            Self(crossbeam_epoch::Atomic::null(), track())
        }

        /// Loads the pointer.
        #[track_caller]
        pub fn load<'g>(&self, order: Ordering, guard: &'g Guard) -> Shared<'g, T> {
            scheduling_point();
            self.0.load(order, guard)
        }

        /// Stores a pointer.
        #[track_caller]
        pub fn store<P: Pointer<T>>(&self, new: P, order: Ordering) {
            scheduling_point();
            self.0.store(new, order);
        }

        /// Stores a pointer and gives the former.
        #[track_caller]
        pub fn swap<'g, P: Pointer<T>>(&self, new: P, order: Ordering, guard: &'g Guard) -> Shared<'g, T> {
            scheduling_point();
            self.0.swap(new, order, guard)
        }

        /// Stores `new` if the pointer, tag included, is `current`.
        ///
        /// # Errors
        /// The pointer found, and `new` back.
        #[track_caller]
        pub fn compare_exchange<'g, P: Pointer<T>>(
            &self,
            current: Shared<'_, T>,
            new: P,
            success: Ordering,
            failure: Ordering,
            guard: &'g Guard,
        ) -> Result<Shared<'g, T>, CompareExchangeError<'g, T, P>> {
            scheduling_point();
            self.0.compare_exchange(current, new, success, failure, guard)
        }

        /// [`Atomic::compare_exchange`] that may fail though the pointer is `current`: once, where the model says so.
        ///
        /// # Errors
        /// The pointer found, which can be `current`, and `new` back.
        #[track_caller]
        pub fn compare_exchange_weak<'g, P: Pointer<T>>(
            &self,
            current: Shared<'_, T>,
            new: P,
            success: Ordering,
            failure: Ordering,
            guard: &'g Guard,
        ) -> Result<Shared<'g, T>, CompareExchangeError<'g, T, P>> {
            if weak_exchange_fails() {
                return Err(CompareExchangeError { current: self.load(failure, guard), new });
            }
            self.compare_exchange(current, new, success, failure, guard)
        }

        /// Sets bits of the tag and gives the former pointer.
        #[track_caller]
        pub fn fetch_or<'g>(&self, tag: usize, order: Ordering, guard: &'g Guard) -> Shared<'g, T> {
            scheduling_point();
            self.0.fetch_or(tag, order, guard)
        }

        /// The object, owned.
        ///
        /// # Safety
        /// The pointer is not null and nobody else uses the object.
        pub unsafe fn into_owned(self) -> Owned<T> {
            // SAFETY: the caller's promise.
            unsafe { self.0.into_owned() }
        }

        /// The object, owned, or `None` for null.
        ///
        /// # Safety
        /// Nobody else uses the object.
        pub unsafe fn try_into_owned(self) -> Option<Owned<T>> {
            // SAFETY: the caller's promise.
            unsafe { self.0.try_into_owned() }
        }
    }

    impl<T: ?Sized + Pointable> Default for Atomic<T> {
        fn default() -> Self {
            Self(crossbeam_epoch::Atomic::default(), track())
        }
    }

    impl<T: ?Sized + Pointable> From<Owned<T>> for Atomic<T> {
        fn from(owned: Owned<T>) -> Self {
            Self(owned.into(), track())
        }
    }

    impl<'g, T: ?Sized + Pointable> From<Shared<'g, T>> for Atomic<T> {
        fn from(shared: Shared<'g, T>) -> Self {
            Self(shared.into(), track())
        }
    }
}
