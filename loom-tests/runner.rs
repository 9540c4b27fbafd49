//! Runs one model: every spawn order, every outcome, and a line of what was visited.
//!
//! A model is a set of roles around shared state. Under loom 0.7.2 a single order of spawns is not enough: a thread's own load
//! just before its store hides another thread's earlier load from the search, so some outcomes are never
//! seen. So each model runs once for **every** order in which its roles can be spawned (the main thread only
//! spawns, joins and judges), the outcomes of all executions are collected where loom does not see it, and the set is
//! compared with the expected one: a missing outcome fails like an additional one, and so does a model of
//! which each order had a single execution.
//!
//! Under shuttle the same model runs by depth-first search (complete, unless the line says otherwise), then by random priorities.
//!
//! A model has its place in a file of its protocol's name; its `models()` is chained in `models.rs`, and both roots count.
//!
//! A model that must fail runs in a process of its own: a checker that is stopped in the middle of an execution may abort.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use unlatched::primitive::clock::{Clock, SystemClock};
use unlatched::primitive::epoch::keep_until_model_ends;
use unlatched::primitive::model::{Open, enter};
use unlatched::primitive::thread;

/// Names the model that this process is to run, and to fail at.
const CHILD: &str = "UNLATCHED_MODEL_THAT_MUST_FAIL";

/// How far loom searches the schedules of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// All of them.
    Full,
    /// Those with at most this many preemptions.
    #[cfg_attr(not(crossbeam_loom), allow(dead_code, reason = "shuttle has no such bound"))]
    Preemptions(usize),
}

/// A model that can be run.
pub(crate) struct Check {
    name: String,
    run: Box<dyn Fn() + Send + Sync>,
    /// What the panic of a model that must fail says.
    must_say: Option<&'static str>,
    /// Whether only a checker of weak memory, loom, can tell.
    weak_memory: bool,
}

#[cfg(not(crossbeam_loom))]
impl Check {
    /// A check of another kind, that `run` makes.
    pub(crate) fn new(name: String, run: impl Fn() + Send + Sync + 'static) -> Self {
        Self { name, run: Box::new(run), must_say: None, weak_memory: false }
    }

    /// Expects it to fail, and to say `text`.
    pub(crate) fn that_fails(self, text: &'static str) -> Self {
        Self { must_say: Some(text), ..self }
    }
}

type Verdict<S, R> = Arc<dyn Fn(&S, &[R]) -> String + Send + Sync>;
type Role<S, R> = (&'static str, Arc<dyn Fn(&S) -> R + Send + Sync>);

/// A model under construction.
pub(crate) struct Model<S, R> {
    name: String,
    law: &'static str,
    bound: Bound,
    open: Open,
    keeps_retired: bool,
    weak_memory: bool,
    shared: Arc<dyn Fn() -> S + Send + Sync>,
    roles: Vec<Role<S, R>>,
}

/// A model called `name` that shows `law`, around what `shared` makes for each execution.
pub(crate) fn model<S: Send + Sync + 'static, R: Send + 'static>(
    name: impl Into<String>,
    law: &'static str,
    bound: Bound,
    shared: impl Fn() -> S + Send + Sync + 'static,
) -> Model<S, R> {
    Model {
        name: name.into(),
        law,
        bound,
        open: Open::default(),
        keeps_retired: false,
        weak_memory: false,
        shared: Arc::new(shared),
        roles: Vec::new(),
    }
}

impl<S: Send + Sync + 'static, R: Send + 'static> Model<S, R> {
    /// Adds a thread.
    pub(crate) fn role(mut self, name: &'static str, role: impl Fn(&S) -> R + Send + Sync + 'static) -> Self {
        self.roles.push((name, Arc::new(role)));
        self
    }

    /// Lets one weak compare-exchange fail, where a role calls `fail_one_weak_exchange`.
    pub(crate) fn weak_exchange_may_fail(mut self) -> Self {
        self.open.weak_exchange = true;
        self
    }

    /// Under shuttle's random priorities, lets each timed sleep draw whether it ends at once, beside a role's `let_time_run_out`.
    pub(crate) fn timeouts_by_lot(mut self) -> Self {
        self.open.random_timeouts = true;
        self
    }

    /// Keeps what is retired until the execution ends.
    pub(crate) fn keeps_retired(mut self) -> Self {
        self.keeps_retired = true;
        self
    }

    /// Leaves the model out under shuttle, which knows no weak memory, no races on cells and no leaks.
    pub(crate) fn weak_memory(mut self) -> Self {
        self.weak_memory = true;
        self
    }

    /// Judges each execution by the roles' results, in the order in which they were added, and expects exactly this set of
    /// verdicts.
    pub(crate) fn expect(
        self,
        verdict: impl Fn(&S, &[R]) -> String + Send + Sync + 'static,
        expected: &[&str],
    ) -> Check {
        let mut expected: Vec<String> = expected.iter().map(|&verdict| verdict.to_owned()).collect();
        expected.sort();
        let (name, weak_memory) = (self.name.clone(), self.weak_memory);
        let verdict: Verdict<S, R> = Arc::new(verdict);
        let run = move || self.check(&verdict, &expected);
        Check { name, run: Box::new(run), must_say: None, weak_memory }
    }

    /// Expects a failure whose message has `text` in it: the model is a planted bug, and shows that the checker would see it.
    pub(crate) fn expect_failure(self, text: &'static str) -> Check {
        let check = self.expect(|_, _| "no failure".into(), &["no failure"]);
        Check { must_say: Some(text), ..check }
    }

    fn check(&self, verdict: &Verdict<S, R>, expected: &[String]) {
        let clock = SystemClock::new();
        let mut total = Visited::default();
        let (mut most, mut how) = (0, String::new());
        let mut orders = orders(self.roles.len());
        if !cfg!(crossbeam_loom) {
            // Shuttle's search does not depend on the order.
            orders.truncate(1);
        }
        for order in &orders {
            let names: Vec<_> = order.iter().map(|&role| self.roles[role].0).collect();
            let context = format!("model {}, spawned in the order {names:?}", self.name);
            let visited = Arc::new(Mutex::new(Visited::default()));
            let execution = |by_lot| {
                let open = Open { random_timeouts: by_lot && self.open.random_timeouts, ..self.open };
                self.execution(open, order.clone(), Arc::clone(verdict), Arc::clone(&visited))
            };
            how = say_on_panic(&context, || explore(self.bound, self.roles.len() + 1, execution));
            let visited = std::mem::take(&mut *visited.lock().unwrap_or_else(PoisonError::into_inner));
            most = most.max(visited.executions);
            total.add(visited);
        }
        let outcomes: Vec<_> = total.outcomes.keys().cloned().collect();
        println!(
            "{}: {}\n    {} threads with main, {how}, {} spawn orders, {} executions, {:.2} s; outcomes {outcomes:?}",
            self.name,
            self.law,
            self.roles.len() + 1,
            orders.len(),
            total.executions,
            clock.now().as_nanos() as f64 / 1e9,
        );
        assert_eq!(outcomes, expected, "{}: found on the left, expected on the right", self.name);
        assert!(most > 1, "{}: one execution per order: nothing was interleaved", self.name);
    }

    /// One execution, to be run as often as the checker likes.
    fn execution(
        &self,
        open: Open,
        order: Vec<usize>,
        verdict: Verdict<S, R>,
        visited: Arc<Mutex<Visited>>,
    ) -> impl Fn() + Send + Sync + 'static {
        let keeps_retired = self.keeps_retired;
        let (shared, roles) = (Arc::clone(&self.shared), self.roles.clone());
        move || {
            let entered = enter(open);
            let keeper = keeps_retired.then(keep_until_model_ends);
            // Counted by `std`, unseen: the model's state must order nothing by itself.
            let state = Arc::new(shared());
            let handles: Vec<_> = order
                .iter()
                .map(|&index| {
                    let (state, role) = (Arc::clone(&state), Arc::clone(&roles[index].1));
                    (index, thread::spawn(move || role(&state)))
                })
                .collect();
            let mut results: Vec<_> =
                handles.into_iter().map(|(index, handle)| (index, handle.join().expect("a role panicked"))).collect();
            results.sort_by_key(|&(index, _)| index);
            let results: Vec<R> = results.into_iter().map(|(_, result)| result).collect();
            let outcome = verdict(&state, &results);
            drop(results);
            drop(Arc::into_inner(state).expect("a role kept the model's state"));
            drop(keeper);
            drop(entered);
            visited.lock().unwrap_or_else(PoisonError::into_inner).count(outcome);
        }
    }
}

/// The executions of a model.
#[derive(Debug, Default)]
struct Visited {
    executions: u64,
    outcomes: BTreeMap<String, u64>,
}

impl Visited {
    fn count(&mut self, outcome: String) {
        self.executions += 1;
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.executions += other.executions;
        for (outcome, times) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += times;
        }
    }
}

/// All orders of `0..len`.
fn orders(len: usize) -> Vec<Vec<usize>> {
    let Some(last) = len.checked_sub(1) else { return vec![Vec::new()] };
    let place = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, last);
        order
    };
    orders(last).iter().flat_map(|order| (0..len).map(|at| place(order, at)).collect::<Vec<_>>()).collect()
}

/// Explores; says how, where the checker has several ways. `execution` makes an execution, with timeouts by lot or not.
#[cfg(crossbeam_loom)]
fn explore<E: Fn() + Send + Sync + 'static>(bound: Bound, threads: usize, execution: impl Fn(bool) -> E) -> String {
    let mut builder = loom::model::Builder::new();
    builder.max_threads = threads;
    builder.max_branches = 10_000;
    // Not from the environment: these end a search early and call it success.
    builder.max_permutations = None;
    builder.max_duration = None;
    builder.preemption_bound = match bound {
        Bound::Full => None,
        Bound::Preemptions(most) => Some(most),
    };
    builder.check(execution(false));
    match bound {
        Bound::Full => "no bound".into(),
        Bound::Preemptions(most) => format!("{most} preemptions"),
    }
}

#[cfg(all(unlatched_shuttle, not(crossbeam_loom)))]
fn explore<E: Fn() + Send + Sync + 'static>(_: Bound, _: usize, execution: impl Fn(bool) -> E) -> String {
    use shuttle::scheduler::{DfsScheduler, PctScheduler};
    /// Schedules of the depth-first search, and of the one by random priorities.
    const MOST: usize = 100_000;
    const RANDOM: usize = 2_000;

    let mut config = shuttle::Config::new();
    config.silence_warnings = true;
    let visited = shuttle::Runner::new(DfsScheduler::new(Some(MOST), false), config.clone()).run(execution(false));
    shuttle::Runner::new(PctScheduler::new(3, RANDOM), config).run(execution(true));
    let depth_first = if visited == MOST { "depth-first search cut short" } else { "depth-first search complete" };
    format!("{depth_first}, {RANDOM} by random priorities")
}

/// Runs `work`; should it panic, says in which context first.
pub(crate) fn say_on_panic<T>(context: &str, work: impl FnOnce() -> T) -> T {
    thread_local! {
        static CONTEXT: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
    }
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            CONTEXT.with(|context| eprintln!("{}", context.borrow()));
            default(info);
        }));
    });
    CONTEXT.with(|current| context.clone_into(&mut current.borrow_mut()));
    work()
}

/// Runs the models that the command line asks for; all `count` of them unless it names some.
pub(crate) fn main(models: Vec<Check>, count: usize) -> ExitCode {
    let models: Vec<_> = models.into_iter().filter(|model| cfg!(crossbeam_loom) || !model.weak_memory).collect();
    assert_eq!(models.len(), count, "models found on the left, expected on the right: was one lost?");
    if let Ok(name) = std::env::var(CHILD) {
        let model = models.iter().find(|model| model.name == name).expect("a model of that name");
        (model.run)();
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    let all = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list && !arguments.ignored;
    let trials = models.into_iter().map(|model| {
        let name = model.name.clone();
        Trial::test(name, move || match model.must_say {
            None => std::panic::catch_unwind(std::panic::AssertUnwindSafe(&model.run))
                .map_err(|_| Failed::without_message()),
            Some(text) => fails_in_a_process_of_its_own(&model.name, text).map_err(Failed::from),
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let visited = conclusion.num_passed + conclusion.num_failed;
    if !arguments.list && (visited == 0 || all && visited != count as u64) {
        eprintln!("{visited} of {count} models were run: nothing is shown by that");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn fails_in_a_process_of_its_own(name: &str, text: &str) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program).env(CHILD, name).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Err("the planted bug was not found".into());
    }
    if !said.contains(text) {
        return Err(format!("failed without saying {text:?}:\n{said}"));
    }
    println!("{name}: the planted bug was found: {text:?}");
    Ok(())
}
