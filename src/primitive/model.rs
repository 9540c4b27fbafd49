//! Choices that a model leaves to the checker, and the parker built on them (loom and shuttle builds only).
//!
//! Neither checker has a timeout, and neither lets a weak compare-exchange fail without a reason. Both are
//! *races* here: a thread of the model says when time is up or when a compare-exchange fails, by a relaxed store
//! that orders nothing, and the checker runs that thread at every point where it could run.
//!
//! Each execution of a model opens with [`enter`], before it spawns, and holds the result until its threads are joined. The
//! state lies in a thread-local of `std`, which every thread of an execution shares (they are coroutines of one OS thread)
//! and which, unlike a lazily initialised static of the checker, orders nothing between them.
//!
//! # What a timeout is
//!
//! A timed sleep ends at once, or when its token comes, or when time runs out while it sleeps. Time runs out once per
//! execution, for all sleeps after it as well, when a thread calls [`let_time_run_out`]; a model that has no such thread
//! has no timeouts, so there a lost wake-up is a deadlock and is reported. So it is for a sleep of `Duration::MAX`, which no time ends. The call should be the first thing that its thread
//! does: a sleeper that it wakes is ordered behind it.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use super::imp::atomic::AtomicBool;
use super::imp::sync::Notify;
use super::parker::Parker;

thread_local! {
    static CHOICES: RefCell<Option<Rc<Choices>>> = const { RefCell::new(None) };
}

super::imp::thread_local! {
    static ORDINAL: Cell<usize> = Cell::new(0);
    static SLOT: Cell<Option<usize>> = Cell::new(None);
}

/// Gives the calling thread a number of its own for [`slot`]. In a model no thread has one unless it says so.
pub fn be_alone_at(number: usize) {
    SLOT.with(|own| own.set(Some(number)));
}

/// A number that the calling thread has alone.
pub fn slot() -> Option<usize> {
    SLOT.try_with(Cell::get).unwrap_or(None)
}

/// Numbers the calling thread for [`ordinal`]. In a model every thread has the number 0 until it says otherwise, so that the numbers are those of the roles, whatever the order of spawns.
pub fn be_numbered(ordinal: usize) {
    ORDINAL.with(|own| own.set(ordinal));
}

/// The calling thread's number.
pub fn ordinal() -> usize {
    ORDINAL.try_with(Cell::get).unwrap_or(0)
}

/// How many threads can run at once: one, so that a model has no more of anything than it asks for.
pub fn parallelism() -> usize {
    1
}

/// What of a model is left to the checker, per execution.
#[derive(Debug)]
struct Choices {
    /// Set by the model's own time: read by who is about to sleep. The checker sees this race.
    time_is_up: AtomicBool,
    /// Whether `sleepers` has been woken; changes together with `time_is_up` (nothing runs in between).
    time_ran_out: Cell<bool>,
    /// Who sleeps with a timeout, to be woken when time runs out. May name sleepers that are awake again.
    sleepers: RefCell<Vec<std::sync::Arc<Notify>>>,
    /// Whether each timed sleep draws lots.
    random_timeouts: bool,
    /// Whether weak compare-exchanges look at `weak_fails`: off in most models, since each look is a branch.
    weak_may_fail: Cell<bool>,
    /// Set by the model: the weak compare-exchange that takes it fails.
    weak_fails: AtomicBool,
}

/// Which choices an execution leaves open.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open {
    /// One weak compare-exchange may fail without a reason: the first that runs after [`fail_one_weak_exchange`].
    pub weak_exchange: bool,
    /// Under shuttle with a random scheduler, each timed sleep also draws whether it ends at once. Loom has no random
    /// numbers, and shuttle's depth-first search refuses them.
    pub random_timeouts: bool,
}

/// An execution of a model, from before its first spawn until after its last join.
#[derive(Debug)]
pub struct Entered(PhantomData<*const ()>);

/// Opens an execution. A former one that ended in a panic is forgotten.
pub fn enter(open: Open) -> Entered {
    let choices = Choices {
        time_is_up: AtomicBool::new(false),
        time_ran_out: Cell::new(false),
        sleepers: RefCell::new(Vec::new()),
        random_timeouts: open.random_timeouts,
        weak_may_fail: Cell::new(open.weak_exchange),
        weak_fails: AtomicBool::new(false),
    };
    std::mem::forget(CHOICES.with(|current| current.borrow_mut().replace(Rc::new(choices))));
    Entered(PhantomData)
}

impl Drop for Entered {
    fn drop(&mut self) {
        CHOICES.with(|current| *current.borrow_mut() = None);
    }
}

fn choices() -> Rc<Choices> {
    CHOICES
        .with(|current| current.borrow().clone())
        .expect("no model is running: open each execution with primitive::model::enter, before it spawns")
}

/// Ends every timed sleep, now or when it begins.
///
/// # Panics
/// Outside of an execution opened by [`enter`].
pub fn let_time_run_out() {
    let choices = choices();
    // Relaxed: time orders nothing. Who reads `false` sleeps and is woken below, or finds `time_ran_out` set.
    choices.time_is_up.store(true, Relaxed);
    choices.time_ran_out.set(true);
    let sleepers = choices.sleepers.take();
    for sleeper in sleepers {
        sleeper.notify();
    }
}

/// Makes one weak compare-exchange fail: the first that runs from now on, in whatever thread.
///
/// # Panics
/// Outside of an execution opened by [`enter`] with [`Open::weak_exchange`].
pub fn fail_one_weak_exchange() {
    let choices = choices();
    assert!(choices.weak_may_fail.get(), "open the execution with `weak_exchange`");
    // Relaxed: the choice orders nothing; the swap in `weak_exchange_fails` comes before it or after it.
    choices.weak_fails.store(true, Relaxed);
}

/// Whether the weak compare-exchange that asks fails.
pub(super) fn weak_exchange_fails() -> bool {
    let Some(choices) = CHOICES.with(|current| current.borrow().clone()) else { return false };
    if !choices.weak_may_fail.get() {
        return false;
    }
    // Relaxed: see `fail_one_weak_exchange`. A swap, so that the failure is taken once and the loop around ends.
    let fails = choices.weak_fails.swap(false, Relaxed);
    if fails {
        choices.weak_may_fail.set(false);
    }
    fails
}

/// Whether a timed sleep that begins now is over at once.
fn time_is_up(choices: &Choices) -> bool {
    // Relaxed: see `let_time_run_out`; both values are explored where both are possible.
    choices.time_is_up.load(Relaxed) || choices.time_ran_out.get() || (choices.random_timeouts && super::imp::coin())
}

/// The end of a timed sleep of [`super::parker::WordParker`]: over once time ran out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline;

impl Deadline {
    #[expect(clippy::unnecessary_wraps, reason = "the shape of the plain half")]
    pub(super) fn after(_: Duration) -> Option<Self> {
        Some(Self)
    }

    pub(super) fn left(self) -> Option<Duration> {
        (!time_is_up(&choices())).then_some(Duration::MAX)
    }
}

/// The parker of a model: a token that the checker sees, and a wait of the checker's own.
///
/// Under loom the wait is `loom::sync::Notify`: a tracked operation, where `loom::thread::unpark` is none. The token is an
/// atomic beside it, so that the wait may wake without a reason (loom explores one such wake) while `park` may not.
#[derive(Debug)]
pub struct ThreadParker {
    token: AtomicBool,
    wake: std::sync::Arc<Notify>,
    /// A parker that is never dropped, and so whatever holds one, is a leak that loom reports.
    _track: super::imp::Track,
}

impl ThreadParker {
    fn take(&self) -> bool {
        // Acquire pairs with the Release swap in `unpark`, as in the parker of real threads.
        self.token.swap(false, Acquire)
    }
}

impl Parker for ThreadParker {
    fn new() -> Self {
        Self { token: AtomicBool::new(false), wake: std::sync::Arc::new(Notify::new()), _track: super::imp::track() }
    }

    fn park(&self) {
        // Waiting first saves a branch: whoever sets the token notifies after it, so a token never lies unannounced.
        loop {
            self.wake.wait();
            if self.take() {
                return;
            }
        }
    }

    fn park_timeout(&self, timeout: Duration) -> bool {
        if timeout.is_zero() {
            return self.take();
        }
        if timeout == Duration::MAX {
            self.park();
            return true;
        }
        let choices = choices();
        loop {
            if time_is_up(&choices) {
                return self.take();
            }
            // Nothing runs between the look at `time_ran_out` and this: the sleeper is named before time runs out.
            choices.sleepers.borrow_mut().push(std::sync::Arc::clone(&self.wake));
            self.wake.wait();
            if self.take() {
                return true;
            }
        }
    }

    fn unpark(&self) {
        // Release pairs with the Acquire in `take`. A swap: each unpark is a release that the taker reads.
        self.token.swap(true, Release);
        self.wake.notify();
    }
}

/// The crate's atomics on a checker's, with weak compare-exchanges that can fail without a reason.
macro_rules! checked_atomics {
    ($raw:path) => {
        use $raw as raw;
        crate::primitive::model::checked_atomics!(@integers raw:
            AtomicBool(bool), AtomicI64(i64), AtomicU8(u8), AtomicU32(u32), AtomicU64(u64), AtomicUsize(usize));
        crate::primitive::model::checked_atomics!(@one raw: [T] AtomicPtr(*mut T));
    };
    (@integers $raw:ident: $($name:ident($value:ty)),*) => {
        $(
            crate::primitive::model::checked_atomics!(@one $raw: [] $name($value));

            impl Default for $name {
                fn default() -> Self {
                    Self::new(Default::default())
                }
            }
        )*
    };
    (@one $raw:ident: [$($param:ident)?] $name:ident($value:ty)) => {
        #[doc = concat!("The checker's `", stringify!($name), "`, whose weak compare-exchange can fail.")]
        #[derive(Debug)]
        pub struct $name$(<$param>)?($raw::$name$(<$param>)?);

        impl$(<$param>)? $name$(<$param>)? {
            /// An atomic holding `value`.
            #[track_caller]
            pub fn new(value: $value) -> Self {
                Self($raw::$name::new(value))
            }

            /// `compare_exchange` that may fail though the value is `current`: once, where the model says so.
            ///
            /// # Errors
            /// The value found, which can be `current`.
            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                if crate::primitive::model::weak_exchange_fails() {
                    return Err(self.0.load(failure));
                }
                self.0.compare_exchange(current, new, success, failure)
            }
        }

        impl$(<$param>)? std::ops::Deref for $name$(<$param>)? {
            type Target = $raw::$name$(<$param>)?;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }

        impl$(<$param>)? std::ops::DerefMut for $name$(<$param>)? {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.0
            }
        }
    };
}
pub(crate) use checked_atomics;
