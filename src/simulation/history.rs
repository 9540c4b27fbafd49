//! One history: its tasks, run to the end.
//!
//! | task | does |
//! |---|---|
//! | the sender | [`SenderHandle::prepare`]'s: the sender's own loop, [`Broker::poll`](crate::broker::Broker::poll) being the cluster |
//! | each appender | its appends, one after the other, as an application would: waits for memory, wakes the sender when told so. It may be stopped in the midst of one |
//! | each flush, each close | itself, at its time |
//! | the last close | waits until all of those have ended, then closes gracefully |

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::broker::{SimBroker, World};
use super::ledger::Ledger;
use super::plan::{Hears, Item, Plan};
use super::tally::Tally;
use crate::accumulator::{Accumulator, AppendedMany, Appender};
use crate::batch::{RecordResult, Reply};
use crate::error::{AppendError, FlushError};
use crate::pool::PoolError;
use crate::primitive::clock::{Instant, SharedClock};
use crate::primitive::lock::{Mutex, StdMutex};
use crate::primitive::parker::Parker;
use crate::primitive::sim::{self, Sim, SimParker};
use crate::record::Record;
use crate::sender::{CloseError, Sender, SenderHandle};

/// Scheduling decisions after which a history does not come to its end any more.
const STEPS: u64 = 400_000;

/// What all tasks share.
struct Scene<A: Accumulator> {
    accumulator: Arc<A>,
    sender: Arc<SenderHandle<A>>,
    ledger: Arc<StdMutex<Ledger>>,
    tally: Rc<StdMutex<Tally>>,
    partitions: Vec<A::Partition>,
    clock: SharedClock,
    /// Tasks that have not ended, but for the sender's and the last close's.
    running: Cell<usize>,
    all_ended: SimParker,
    /// When an append returned the last time.
    last_append: Cell<Instant>,
}

/// What came out.
pub(super) struct Ran {
    pub(super) tally: Tally,
    pub(super) wrong: Vec<String>,
    /// A hash of every scheduling decision.
    pub(super) trace: u64,
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

/// Runs `plan` but for the items for whose places `leaves_out` says so. A panic outside of its tasks, while what is left is dropped, is wrong like one in a task.
pub(super) fn run<A: Accumulator>(plan: &Plan, leaves_out: &dyn Fn(usize) -> bool) -> Ran {
    catch_unwind(AssertUnwindSafe(|| run_tasks::<A>(plan, leaves_out))).unwrap_or_else(|payload| Ran {
        tally: Tally { histories: 1, ..Tally::default() },
        wrong: vec![text(&*payload)],
        trace: 0,
    })
}

fn run_tasks<A: Accumulator>(plan: &Plan, leaves_out: &dyn Fn(usize) -> bool) -> Ran {
    let setup = &plan.setup;
    let items: Vec<Item> =
        plan.items.iter().enumerate().filter(|(at, _)| !leaves_out(*at)).map(|(_, item)| item.clone()).collect();
    let mut sim = Sim::new(plan.seed);
    sim.step_limit(STEPS);
    let clock = sim.clock();
    let world = Arc::new(StdMutex::new(World::new(plan.seed, setup, items.iter().cloned())));
    let (accumulator, view) = A::new(setup.accumulator.clone(), clock.clone());
    let broker = SimBroker::new(Arc::clone(&world), clock.clone());
    let sender = Sender::new(Arc::clone(&accumulator), view, broker, clock.clone(), setup.sender.clone());
    let (handle, run) = SenderHandle::prepare(sender);
    sim.spawn("sender", run);
    let partition = |partition| accumulator.partition(&world.lock().topic_partition(partition));
    let scene = Rc::new(Scene {
        partitions: (0..setup.partitions).map(partition).collect(),
        accumulator: Arc::clone(&accumulator),
        sender: Arc::new(handle),
        ledger: Arc::new(StdMutex::new(Ledger::default())),
        tally: Rc::new(StdMutex::new(Tally::default())),
        clock,
        running: Cell::new(0),
        all_ended: SimParker::new(),
        last_append: Cell::new(Instant::ZERO),
    });
    if setup.accumulator.buffer_memory <= 2 * setup.accumulator.batch_size as u64 {
        scene.tally.lock().fault("tiny-pool");
    }
    for (appender, owns) in setup.appenders.iter().enumerate() {
        let of_appender = |item: &&Item| matches!(item, Item::Append { appender: by, .. } if *by == appender);
        let items: Vec<Item> = items.iter().filter(of_appender).cloned().collect();
        let owns = *owns;
        scene.spawn(&sim, format!("appender {appender}"), move |scene| scene.append_all(items, owns));
    }
    for item in &items {
        match *item {
            Item::Flush { at, timeout } => scene.spawn(&sim, "flush", move |scene| scene.flush(at, timeout)),
            Item::Close { at, timeout } => scene.spawn(&sim, "close", move |scene| scene.close(at, timeout)),
            _ => {}
        }
    }
    let last = Rc::clone(&scene);
    sim.spawn("the last close", move || {
        while last.running.get() > 0 {
            last.all_ended.park();
        }
        last.close(Duration::ZERO, Duration::from_secs(100_000));
    });
    let ended = catch_unwind(AssertUnwindSafe(|| sim.run()));
    let mut ledger = scene.ledger.lock();
    let world = world.lock();
    let mut tally = scene.tally.lock().clone();
    tally.add(&world.tally);
    let mut wrong = world.wrong.clone();
    let mut trace = 0;
    match ended {
        Err(payload) => {
            wrong.push(text(&*payload));
            // As below.
            std::mem::forget(Rc::clone(&scene));
        }
        Ok(Err(stuck)) => {
            tally.steps = stuck.steps;
            wrong.push(stuck.to_string());
            // What does not come to its end keeps everything; nor may a handle wait for its sender.
            std::mem::forget(Rc::clone(&scene));
        }
        Ok(Ok(report)) => {
            trace = report.trace;
            tally.steps = report.steps;
            ledger.check(setup, world.logs());
            if !items.iter().any(Item::may_go_on) {
                ledger.check_liveness(setup, world.trouble.max(scene.last_append.get()));
            }
            let (pool, off_pool) = (accumulator.pool(), accumulator.off_pool());
            if !pool.is_conserved() || pool.available() != pool.total || pool.leased != 0 {
                wrong.push(format!("the pool is not whole: {pool:?}"));
            }
            if off_pool.bytes != 0 {
                wrong.push(format!("{} bytes are counted outside of the pool", off_pool.bytes));
            }
            if accumulator.has_incomplete() || accumulator.has_undrained() {
                wrong.push("the books are not empty".to_owned());
            }
        }
    }
    wrong.append(&mut ledger.wrong);
    (tally.records, tally.acked, tally.failed_records) = ledger.counts();
    tally.histories = 1;
    if ledger.closes > 0 {
        tally.fault("close-in-callback");
    }
    if ledger.expired() > 0 {
        tally.fault("delivery-timeout");
    }
    if scene.sender.stats().snapshot().splits > 0 {
        tally.fault("split");
    }
    Ran { tally, wrong, trace }
}

impl<A: Accumulator> Scene<A> {
    /// Adds a task that the last close waits for.
    fn spawn(self: &Rc<Self>, sim: &Sim, name: impl Into<String>, task: impl FnOnce(&Self) + 'static) {
        self.running.set(self.running.get() + 1);
        let scene = Rc::clone(self);
        sim.spawn(name, move || {
            task(&scene);
            scene.running.set(scene.running.get() - 1);
            scene.all_ended.unpark();
        });
    }

    fn append_all(&self, items: Vec<Item>, owns: bool) {
        let mut appender = owns.then(|| self.accumulator.appender());
        let mut items = items.into_iter().peekable();
        while let Some(item) = items.next() {
            let Item::Append { appender: by, partition, len, hears, max_block, before, stop } = item else { continue };
            if !before.is_zero() {
                sim::sleep(before);
            }
            if let Some((step, duration)) = stop {
                sim::pause_at(step, duration);
            }
            let timestamp = self.clock.unix_millis();
            let begin = |len| {
                let number = self.ledger.lock().begin(by, owns, partition, len, hears, timestamp);
                (number, self.ledger.lock().entries[number].value.clone())
            };
            let (number, value) = begin(len);
            // Those that follow at once and can go with it are appended by the same call.
            let mut run = vec![(number, value)];
            if matches!(hears, Hears::Nobody | Hears::Future) {
                while let Some(Item::Append { len, .. }) = items.next_if(|next| next.goes_with(partition, hears)) {
                    run.push(begin(len));
                }
            }
            let records: Vec<_> =
                run.iter().map(|(_, value)| Record { timestamp, value: Some(value), ..Record::default() }).collect();
            let partition = &self.partitions[partition as usize];
            let began = self.clock.now();
            let appended = match (&mut appender, &*records) {
                (Some(own), [record]) => own.append(partition, record, self.reply(number, hears), max_block),
                (None, [record]) => self.accumulator.append(partition, record, self.reply(number, hears), max_block),
                (_, records) => {
                    let futures = hears == Hears::Future;
                    let done = match &mut appender {
                        Some(own) => own.append_many(partition, records, futures, max_block),
                        None => self.accumulator.append_many(partition, records, futures, max_block),
                    };
                    self.tally.lock().fault("several-at-once");
                    self.end_many(&run, done);
                    self.last_append.set(self.clock.now());
                    continue;
                }
            };
            self.last_append.set(self.clock.now());
            if let Some((step, duration)) = stop
                && self.clock.now().saturating_since(began) >= duration
            {
                let in_copy = matches!(step, "batch.copy" | "batch.commit" | "batch.fill" | "callbacks.push");
                self.tally.lock().fault(if in_copy { "stopped-in-copy" } else { "stopped-appender" });
            }
            match appended {
                Ok(appended) => {
                    let wake = appended.must_wake_sender();
                    self.ledger.lock().end(number, Some(appended.future));
                    if wake {
                        self.sender.wake();
                    }
                }
                Err(error) => {
                    self.ledger.lock().end(number, None);
                    if matches!(error, AppendError::Pool(PoolError::Exhausted { .. })) {
                        self.tally.lock().fault("pool-exhausted");
                    }
                }
            }
        }
    }

    /// What came of several that were appended at once.
    fn end_many(&self, run: &[(usize, Vec<u8>)], done: AppendedMany) {
        let wake = done.must_wake_sender();
        let mut futures = done.futures.into_iter();
        for (at, (number, _)) in run.iter().enumerate() {
            self.ledger.lock().end(*number, (at < done.accepted).then(|| futures.next()));
        }
        if matches!(done.refused, Some(AppendError::Pool(PoolError::Exhausted { .. }))) {
            self.tally.lock().fault("pool-exhausted");
        }
        if wake {
            self.sender.wake();
        }
    }

    fn reply(&self, number: usize, hears: Hears) -> Reply {
        let (ledger, clock) = (Arc::clone(&self.ledger), self.clock.clone());
        let note = move |result: RecordResult| ledger.lock().complete(number, result, clock.now());
        match hears {
            Hears::Nobody => Reply::IGNORE,
            Hears::Future => Reply::FUTURE,
            Hears::Callback => Reply::callback(note),
            Hears::CallbackCloses => {
                let sender: Weak<SenderHandle<A>> = Arc::downgrade(&self.sender);
                let closes = Arc::clone(&self.ledger);
                Reply::callback(move |result| {
                    note(result);
                    closes.lock().closes += 1;
                    if let Some(sender) = sender.upgrade() {
                        let _ = sender.close(Duration::from_secs(1));
                    }
                })
            }
        }
    }

    fn flush(&self, at: Duration, timeout: Option<Duration>) {
        sim::sleep(at);
        let accepted = self.ledger.lock().accepted();
        self.accumulator.begin_flush();
        self.sender.wake();
        match self.accumulator.await_flush(timeout) {
            Ok(()) => {
                self.tally.lock().fault("flush");
                self.ledger.lock().check_done(&accepted, "a flush");
            }
            Err(FlushError::TimedOut(_)) => self.tally.lock().fault("flush-timeout"),
            Err(error) => self.ledger.lock().wrong.push(format!("a flush ended with: {error}")),
        }
    }

    fn close(&self, at: Duration, timeout: Duration) {
        sim::sleep(at);
        let accepted = self.ledger.lock().accepted();
        let closed = self.sender.close(timeout);
        self.tally.lock().fault(match closed {
            Ok(()) => "close-graceful",
            Err(CloseError::Forced(_)) => "close-forced",
            Err(CloseError::SenderDied) => {
                self.ledger.lock().wrong.push("the sender has died".to_owned());
                "close-forced"
            }
        });
        self.ledger.lock().check_done(&accepted, "a close");
    }
}
