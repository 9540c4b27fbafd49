//! A deterministic scheduler: many tasks on one thread, virtual time, and one seed that replays it all.
//!
//! A [`Sim`] runs *tasks* (closures, each with a stack of its own) one at a time on the calling thread. A task runs until
//! it comes to a *scheduling point*; then the seed's random numbers choose who goes on. Scheduling points are
//! [`super::step`], [`super::hint::spin_loop`], [`super::thread::yield_now`] (which takes 100 microseconds), and what [`Simulated`]'s mutex and
//! parker do. Between two of them nothing else runs, so a simulation explores the orders of *steps*, not of machine
//! instructions, and no weak memory: those are for loom.
//!
//! Time stands still while any task can run. When none can, it jumps to the earliest deadline that a task sleeps for; when there is no
//! deadline either, the run ends with [`Stuck`], which names every task and what it waits for. So who spins without end keeps time standing still, and must not wait for one that sleeps or yields.
//!
//! Equal seeds give equal runs, if the tasks take time from [`Sim::clock`], randomness from [`Sim::random`], and keep
//! clear of addresses and of hash maps with random states. [`Report::trace`] is a hash of all that was chosen, so a test can assert it.
//!
//! ```
//! use std::time::Duration;
//! use unlatched::primitive::clock::Instant;
//! use unlatched::primitive::lock::LockFamily;
//! use unlatched::primitive::parker::Parker;
//! use unlatched::primitive::sim::{Sim, Simulated};
//!
//! type SimParker = <Simulated as LockFamily>::Parker;
//!
//! let mut sim = Sim::new(7);
//! sim.spawn("patient", || {
//!     let parker = SimParker::new();
//!     assert!(!parker.park_timeout(Duration::from_secs(3_600)));
//! });
//! let report = sim.run()?;
//! assert_eq!(report.ended.saturating_since(Instant::ZERO), Duration::from_secs(3_600));
//! # Ok::<(), unlatched::primitive::sim::Stuck>(())
//! ```
//!
//! # Invariants
//!
//! - **Y1** A task's `yielder` is set by its own coroutine before that runs the task's closure, and points to what lives until
//!   the coroutine returns.
//! - **Y2** It is dereferenced only by code that runs on that coroutine: by [`Kernel::suspend`], for the task that is `current`.
//!   A `Sim` and its coroutines stay on the thread that made them (neither is `Send`).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::Step;
use super::clock::{Clock, Instant, SharedClock};
use super::random::Random;

mod sync;

pub use sync::{SimGuard, SimMutex, SimParker, Simulated};

/// What the wall clock shows at the start of every simulation: 2026-01-01 00:00:00 UTC.
pub const WALL_START_MILLIS: i64 = 1_767_225_600_000;

/// How many of the last steps a failure shows.
const RECENT: usize = 24;

thread_local! {
    /// The simulation that this thread runs.
    static RUNNING: RefCell<Option<Rc<Kernel>>> = const { RefCell::new(None) };
}

/// A simulation: spawn tasks, then run.
pub struct Sim {
    kernel: Rc<Kernel>,
}

/// A run that came to its end: every task returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What the run replays from.
    pub seed: u64,
    /// Scheduling decisions.
    pub steps: u64,
    /// Virtual time at the end.
    pub ended: Instant,
    /// A hash of who ran when, and from which step: equal for equal seeds, different for different runs.
    pub trace: u64,
}

/// Why a run ended before its tasks did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StuckBy {
    /// No task can run, and no deadline will change that.
    Deadlock,
    /// The limit of steps was reached: a task spins for what only time can bring, or the limit is too low.
    StepLimit,
}

/// A run that did not come to its end. Run the seed again to see it again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Stuck {
    /// What the run replays from.
    pub seed: u64,
    /// Why.
    pub by: StuckBy,
    /// Scheduling decisions until then.
    pub steps: u64,
    /// Virtual time then.
    pub at: Instant,
    /// The tasks that had not returned, and where each stood.
    pub tasks: Vec<(String, Step)>,
    /// The last steps, oldest first: who went on, from where, when.
    pub recent: Vec<(String, Step, Instant)>,
}

impl Stuck {
    fn describe(&self) -> String {
        let why = match self.by {
            StuckBy::Deadlock => "no task can run (deadlock)",
            StuckBy::StepLimit => "the limit of steps is reached",
        };
        let tasks: String = self.tasks.iter().map(|(task, at)| format!("\n  `{task}` stands at {at}")).collect();
        let Self { seed, steps, .. } = self;
        format!(
            "the simulation with seed {seed} is stuck after {steps} steps, {:?}: {why}{tasks}{}",
            self.at.saturating_since(Instant::ZERO),
            describe_recent(&self.recent)
        )
    }
}

fn describe_recent(recent: &[(String, Step, Instant)]) -> String {
    let line = |(task, at, now): &(String, Step, Instant)| {
        format!("\n  {:?} `{task}` from {at}", now.saturating_since(Instant::ZERO))
    };
    format!("\nlast steps:{}", recent.iter().map(line).collect::<String>())
}

/// One task, as its place in `Inner::tasks`, of the simulation with that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TaskId {
    sim: u64,
    index: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Listed in `Inner::ready`, or running.
    Ready,
    /// Sleeps until it is woken or `until` comes.
    Asleep {
        until: Option<Instant>,
    },
    Done,
}

type Body = Coroutine<(), (), Option<Box<dyn Any + Send>>>;

struct Task {
    name: String,
    state: State,
    /// Where it stands.
    at: Step,
    /// The next pass of this step is to take so long.
    pause: Option<(Step, Duration)>,
    /// See Y1; null before the task first runs.
    yielder: *const Yielder<(), ()>,
    /// `None` while it runs, and when it has returned.
    body: Option<Body>,
}

impl Drop for Task {
    fn drop(&mut self) {
        // Unwinding a stack that stands in the middle of something would run destructors that may need the scheduler. A run that
        // failed leaks such stacks.
        if let Some(body) = self.body.take()
            && body.started()
            && !body.done()
        {
            std::mem::forget(body);
        }
    }
}

struct Inner {
    random: Random,
    tasks: Vec<Task>,
    ready: Vec<usize>,
    steps: u64,
    step_limit: u64,
    trace: u64,
    recent: VecDeque<(usize, Step, Instant)>,
}

struct Kernel {
    number: u64,
    seed: u64,
    clock: Arc<VirtualClock>,
    current: Cell<Option<usize>>,
    inner: RefCell<Inner>,
}

/// Virtual time: moved by the scheduler alone.
#[derive(Debug, Default)]
struct VirtualClock {
    nanos: AtomicU64,
}

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        // Relaxed: written and read on the simulation's one thread; the atomic only makes the clock shareable.
        Instant::from_nanos(self.nanos.load(Relaxed))
    }

    fn unix_millis(&self) -> i64 {
        let millis = i64::try_from(self.now().as_nanos() / 1_000_000).unwrap_or(i64::MAX);
        WALL_START_MILLIS.saturating_add(millis)
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("seed", &self.kernel.seed).field("now", &self.kernel.clock.now()).finish()
    }
}

impl Sim {
    /// Steps after which a run counts as stuck, unless [`Sim::step_limit`] says otherwise.
    pub const STEP_LIMIT: u64 = 10_000_000;

    /// A simulation without tasks, at time zero.
    pub fn new(seed: u64) -> Self {
        /// Tells simulations apart, so that a task of one is never taken for a task of another.
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let inner = Inner {
            random: Random::seeded(seed),
            tasks: Vec::new(),
            ready: Vec::new(),
            steps: 0,
            step_limit: Self::STEP_LIMIT,
            trace: 0xCBF2_9CE4_8422_2325,
            recent: VecDeque::with_capacity(RECENT),
        };
        let kernel = Kernel {
            // Relaxed: only the numbers' difference counts.
            number: NUMBERS.fetch_add(1, Relaxed),
            seed,
            clock: Arc::default(),
            current: Cell::new(None),
            inner: RefCell::new(inner),
        };
        Self { kernel: Rc::new(kernel) }
    }

    /// Changes after how many steps in all a run counts as stuck.
    pub fn step_limit(&mut self, steps: u64) {
        self.kernel.inner.borrow_mut().step_limit = steps;
    }

    /// The simulation's clock: virtual, monotonic and wall, moved by [`Sim::run`] alone.
    pub fn clock(&self) -> SharedClock {
        Arc::clone(&self.kernel.clock) as SharedClock
    }

    /// A generator drawn from the simulation's seed; each call gives another.
    pub fn random(&self) -> Random {
        Random::seeded(self.kernel.inner.borrow_mut().random.below(u64::MAX))
    }

    /// Adds a task. It first runs within [`Sim::run`].
    pub fn spawn(&self, name: impl Into<String>, task: impl FnOnce() + 'static) {
        self.kernel.spawn(name.into(), task);
    }

    /// Runs until every task has returned. More can be spawned and run after that; time goes on from there.
    ///
    /// # Errors
    /// [`Stuck`] if no task can run any more, or the limit of steps is reached. The tasks' stacks are leaked then.
    ///
    /// # Panics
    /// If a task panics: with its name, the seed and the last steps. If this thread runs a simulation already.
    pub fn run(&mut self) -> Result<Report, Stuck> {
        let _running = Running::new(&self.kernel);
        let kernel = &self.kernel;
        while let Some(index) = kernel.choose()? {
            let mut body = kernel.inner.borrow_mut().tasks[index].body.take().expect("a ready task has a body");
            kernel.current.set(Some(index));
            let result = body.resume(());
            kernel.current.set(None);
            let mut inner = kernel.inner.borrow_mut();
            let task = &mut inner.tasks[index];
            match result {
                CoroutineResult::Yield(()) => task.body = Some(body),
                CoroutineResult::Return(None) => task.state = State::Done,
                CoroutineResult::Return(Some(payload)) => {
                    task.state = State::Done;
                    let (name, steps) = (task.name.clone(), inner.steps);
                    let recent = describe_recent(&inner.recent());
                    drop(inner);
                    let said = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
                    let said = said.or_else(|| payload.downcast_ref::<String>().cloned());
                    panic!(
                        "task `{name}` of the simulation with seed {} panicked in step {steps}: {}{recent}",
                        kernel.seed,
                        said.unwrap_or_else(|| "(not a text)".into()),
                    );
                }
            }
        }
        let inner = kernel.inner.borrow();
        Ok(Report { seed: kernel.seed, steps: inner.steps, ended: kernel.clock.now(), trace: inner.trace })
    }
}

/// The number of the calling task among those of its simulation, from 0; `None` if the caller is no task.
pub(crate) fn task() -> Option<usize> {
    here().map(|(_, index)| index)
}

/// Whether the caller is a task of a simulation.
pub(crate) fn is_task() -> bool {
    task().is_some()
}

/// Adds a task to the simulation that the calling task belongs to.
///
/// # Panics
/// Outside of a task.
pub fn spawn(name: impl Into<String>, task: impl FnOnce() + 'static) {
    let (kernel, _) = here().expect("sim::spawn outside of a simulation's task: use Sim::spawn");
    kernel.spawn(name.into(), task);
}

/// Sleeps for exactly `duration` of virtual time.
///
/// # Panics
/// Outside of a task.
pub fn sleep(duration: Duration) {
    let (kernel, index) = here().expect("sim::sleep outside of a simulation's task");
    kernel.sleep(index, "sleep", duration);
}

/// Lets all others run, and a little time pass; `false` if the caller is no task, and nothing was done.
pub(crate) fn give_way() -> bool {
    const LITTLE: Duration = Duration::from_micros(100);
    let Some((kernel, index)) = here() else { return false };
    if !std::thread::panicking() {
        kernel.sleep(index, "yield", LITTLE);
    }
    true
}

/// Makes the calling task's next pass of `step` take `duration` of virtual time, once: a thread that was stopped there.
///
/// # Panics
/// Outside of a task.
pub fn pause_at(step: Step, duration: Duration) {
    let (kernel, index) = here().expect("sim::pause_at outside of a simulation's task");
    kernel.inner.borrow_mut().tasks[index].pause = Some((step, duration));
}

/// Passes a scheduling point; `false` if the caller is no task, and nothing was done.
pub(crate) fn pass(step: Step) -> bool {
    let Some((kernel, index)) = here() else { return false };
    // A task that unwinds goes on alone as long as it can.
    if !std::thread::panicking() {
        let pause = kernel.inner.borrow_mut().tasks[index].pause.take_if(|(at, _)| *at == step);
        match pause {
            Some((_, duration)) => kernel.sleep(index, step, duration),
            None => kernel.suspend(index, State::Ready, step),
        }
    }
    true
}

/// The simulation and the task that the caller runs in.
fn here() -> Option<(Rc<Kernel>, usize)> {
    // A destructor of another thread-local may come here when this one is gone: no task runs then.
    let found = RUNNING.try_with(|running| {
        let running = running.borrow();
        let kernel = running.as_ref()?;
        Some((Rc::clone(kernel), kernel.current.get()?))
    });
    found.ok().flatten()
}

/// Marks the thread as running a simulation.
struct Running;

impl Running {
    fn new(kernel: &Rc<Kernel>) -> Self {
        RUNNING.with(|running| {
            let mut running = running.borrow_mut();
            assert!(running.is_none(), "this thread runs a simulation already: a task cannot run another");
            *running = Some(Rc::clone(kernel));
        });
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.with(|running| *running.borrow_mut() = None);
    }
}

impl Kernel {
    fn spawn(self: &Rc<Self>, name: String, task: impl FnOnce() + 'static) {
        // Weak, so that a simulation which is dropped before it ran is no cycle.
        let kernel = Rc::downgrade(self);
        let index = self.inner.borrow().tasks.len();
        let body = Body::new(move |yielder, ()| {
            let kernel = kernel.upgrade()?;
            kernel.inner.borrow_mut().tasks[index].yielder = ptr::from_ref(yielder);
            drop(kernel);
            catch_unwind(AssertUnwindSafe(task)).err()
        });
        let mut inner = self.inner.borrow_mut();
        let body = Some(body);
        inner.tasks.push(Task { name, state: State::Ready, at: "start", pause: None, yielder: ptr::null(), body });
        inner.ready.push(index);
    }

    fn clock_now(&self) -> Instant {
        self.clock.now()
    }

    /// Who runs next; `None` if all have returned.
    fn choose(&self) -> Result<Option<usize>, Stuck> {
        let mut inner = self.inner.borrow_mut();
        if inner.ready.is_empty() {
            let until = |task: &Task| if let State::Asleep { until } = task.state { until } else { None };
            if let Some(next) = inner.tasks.iter().filter_map(until).min() {
                // Relaxed: see `VirtualClock::now`. A deadline may have passed already, time never goes back.
                self.clock.nanos.fetch_max(next.as_nanos(), Relaxed);
                let now = self.clock.now();
                for index in 0..inner.tasks.len() {
                    if until(&inner.tasks[index]).is_some_and(|until| until <= now) {
                        inner.wake(index);
                    }
                }
            } else if inner.tasks.iter().all(|task| task.state == State::Done) {
                return Ok(None);
            } else {
                return Err(self.stuck(&inner, StuckBy::Deadlock));
            }
        }
        if inner.steps >= inner.step_limit {
            return Err(self.stuck(&inner, StuckBy::StepLimit));
        }
        let among = inner.ready.len() as u64;
        let chosen = inner.random.below(among) as usize;
        let index = inner.ready.swap_remove(chosen);
        inner.record(index, self.clock.now());
        Ok(Some(index))
    }

    fn stuck(&self, inner: &Inner, by: StuckBy) -> Stuck {
        let alive = inner.tasks.iter().filter(|task| task.state != State::Done);
        Stuck {
            seed: self.seed,
            by,
            steps: inner.steps,
            at: self.clock.now(),
            tasks: alive.map(|task| (task.name.clone(), task.at)).collect(),
            recent: inner.recent(),
        }
    }

    /// Gives the thread back to the scheduler; returns when the task is chosen again.
    fn suspend(&self, index: usize, state: State, at: Step) {
        debug_assert_eq!(self.current.get(), Some(index), "only the running task suspends itself");
        let yielder = {
            let mut inner = self.inner.borrow_mut();
            let task = &mut inner.tasks[index];
            (task.state, task.at) = (state, at);
            let yielder = task.yielder;
            if state == State::Ready {
                inner.ready.push(index);
            }
            yielder
        };
        // What a thread keeps of itself is the task's, and goes with it.
        let in_callbacks = crate::batch::swap_callbacks(0);
        // SAFETY: Y1: set before the task's closure, whose code this is; Y2: `index` is the current task, so we run on its coroutine.
        unsafe { (*yielder).suspend(()) };
        crate::batch::swap_callbacks(in_callbacks);
    }

    fn sleep(&self, index: usize, at: Step, duration: Duration) {
        let deadline = self.clock.now().saturating_add(duration);
        while self.clock.now() < deadline {
            self.suspend(index, State::Asleep { until: Some(deadline) }, at);
        }
    }
}

impl Inner {
    /// Makes a sleeping task ready.
    fn wake(&mut self, index: usize) {
        if let State::Asleep { .. } = self.tasks[index].state {
            self.tasks[index].state = State::Ready;
            self.ready.push(index);
        }
    }

    fn record(&mut self, index: usize, now: Instant) {
        let at = self.tasks[index].at;
        self.steps += 1;
        let words = [index as u64, now.as_nanos()].map(u64::to_le_bytes);
        for byte in words.as_flattened().iter().chain(at.as_bytes()) {
            // FNV-1a.
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((index, at, now));
    }

    fn recent(&self) -> Vec<(String, Step, Instant)> {
        self.recent.iter().map(|&(index, at, now)| (self.tasks[index].name.clone(), at, now)).collect()
    }
}

#[cfg(test)]
mod tests;
