//! The lock-free accumulator: one open batch a lane, order, nothing after the close, flushes, aborts. The shipping type, whole: lanes, books, ready stack, pool, sender's view.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use unlatched::accumulator::{
    Accumulator, AccumulatorConfig, LaneHandle, LockFreeAccumulator, LockFreeView, SenderView,
};
use unlatched::batch::{RecordFuture, Reply, SealedBatch};
use unlatched::broker::{Cluster, NodeId};
use unlatched::error::{SendError, TopicPartition};
use unlatched::primitive::clock::{Instant, ManualClock};
use unlatched::primitive::thread;
use unlatched::record::{Record, RecordBatch};

use crate::runner::{Bound, Check, Model, model};

pub(crate) fn models() -> Vec<Check> {
    vec![
        double_open(),
        append_against_close(),
        new_partition_against_close(),
        flush_against_append(),
        flush_sees_what_was_appended_before(),
        drain_against_append(),
        order_over_two_batches(),
        opener_is_not_waited_for(),
        forced_close_against_append(),
        forced_close_against_opener(),
        expiry_against_append(),
        walk_against_sweep(),
        emptied_against_open(),
        emptied_against_close(),
        sweep_under_the_collector(),
    ]
}

pub(crate) const NODE: NodeId = NodeId(0);

/// Ten bytes: of its bound, which is what the pool is asked for, two such records take all.
pub(crate) fn named(name: &str) -> String {
    format!("{name:.<10}")
}

pub(crate) struct Scene {
    pub(crate) accumulator: Arc<LockFreeAccumulator>,
    pub(crate) lane: LaneHandle,
    view: Mutex<Option<LockFreeView>>,
    pub(crate) cluster: Cluster,
    pub(crate) called: Mutex<Vec<&'static str>>,
    pub(crate) kept: Mutex<Vec<RecordFuture>>,
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

impl Scene {
    pub(crate) fn new() -> Arc<Self> {
        Self::of_batches(1)
    }

    /// With a record in a batch that has room for `records`.
    pub(crate) fn new_with_room(records: usize) -> Arc<Self> {
        let scene = Self::of_batches(61 + 18 * records);
        assert_eq!(scene.append("a"), "in");
        scene
    }

    fn of_batches(batch_size: usize) -> Arc<Self> {
        let config = AccumulatorConfig {
            buffer_memory: 1 << 10,
            batch_size,
            linger: Duration::ZERO,
            delivery_timeout: Duration::from_secs(1),
            ..AccumulatorConfig::default()
        };
        let (accumulator, view) = LockFreeAccumulator::new(config, ManualClock::at(0));
        let lane = accumulator.partition(&tp(0));
        Arc::new(Self {
            accumulator,
            lane,
            view: Mutex::new(Some(view)),
            cluster: Cluster::single_node(NODE, [("t", 2)]),
            called: Mutex::default(),
            kept: Mutex::default(),
        })
    }

    pub(crate) fn with(names: &[&str]) -> Arc<Self> {
        let scene = Self::new();
        names.iter().for_each(|name| assert_eq!(scene.append(name), "in"));
        scene
    }

    /// Whether it was accepted, and whether the sender is to be woken.
    fn append_all(&self, lane: &LaneHandle, name: &str, reply: Reply) -> (&'static str, bool) {
        let value = named(name);
        let record = Record { timestamp: 7, value: Some(value.as_bytes()), ..Record::default() };
        match self.accumulator.append(lane, &record, reply, Duration::ZERO) {
            Ok(appended) => {
                let wakes = appended.must_wake_sender();
                self.kept.lock().unwrap().extend(appended.future);
                ("in", wakes)
            }
            Err(_) => ("refused", false),
        }
    }

    pub(crate) fn append_to(&self, lane: &LaneHandle, name: &str, reply: Reply) -> &'static str {
        self.append_all(lane, name, reply).0
    }

    pub(crate) fn append_and_wake(&self, name: &str) -> (&'static str, bool) {
        self.append_all(&self.lane, name, Reply::IGNORE)
    }

    pub(crate) fn append(&self, name: &str) -> &'static str {
        self.append_to(&self.lane, name, Reply::IGNORE)
    }

    /// The sender's view; no other role may use it meanwhile.
    pub(crate) fn view<R>(&self, with: impl FnOnce(&mut LockFreeView) -> R) -> R {
        let mut view = self.view.lock().unwrap().take().expect("one role has it");
        let result = with(&mut view);
        *self.view.lock().unwrap() = Some(view);
        result
    }

    pub(crate) fn drain(&self) -> Vec<SealedBatch> {
        self.view(|view| {
            let mut drained = view.drain(&self.cluster, &[NODE], usize::MAX, Instant::ZERO);
            drained.remove(0).batches
        })
    }

    /// Completes batches; the names in them, batches apart.
    pub(crate) fn complete(&self, batches: Vec<SealedBatch>) -> String {
        let mut names = String::new();
        for batch in batches {
            names += &names_in(&batch);
            names.push('|');
            assert_eq!(batch.completion().complete(0, None), Ok(true));
            self.view(|view| view.deallocate(batch)).expect("in the books");
        }
        names
    }

    /// Drains until nothing is queued, nobody else being about.
    pub(crate) fn rest(&self) -> String {
        let mut log = String::new();
        while self.accumulator.has_undrained() {
            let before = log.len();
            log += &self.complete(self.drain());
            assert!(log.len() > before, "what is queued can be drained");
        }
        log
    }

    /// That nothing is left, and every byte is back.
    pub(crate) fn whole(&self) {
        assert!(!self.accumulator.has_undrained() && !self.accumulator.has_incomplete());
        let pool = self.accumulator.pool();
        assert_eq!(pool.available(), pool.total);
    }
}

fn names_in(batch: &SealedBatch) -> String {
    let (parsed, _) = RecordBatch::parse(batch.as_bytes()).expect("a whole batch with a good checksum");
    let name = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('.').to_owned();
    let names: Vec<_> =
        parsed.records().map(|record| name(record.expect("a good record").value.expect("a value"))).collect();
    names.join(" ")
}

pub(crate) fn lanes(
    name: &str,
    law: &'static str,
    bound: Bound,
    scene: impl Fn() -> Arc<Scene> + Send + Sync + 'static,
) -> Model<Arc<Scene>, String> {
    model(name, law, bound, scene).keeps_retired()
}

fn double_open() -> Check {
    opening("lane_double_open", |_| ())
}

/// Two open a lane, each of them first what `be` makes of him.
pub(crate) fn opening(name: &str, be: fn(usize)) -> Check {
    let append = move |slot, name| {
        move |scene: &Arc<Scene>| {
            be(slot);
            // With a future: so the batch's content is looked at.
            scene.append_to(&scene.lane, name, Reply::FUTURE).into()
        }
    };
    lanes(
        name,
        "of two who open, one wins; the other's memory goes back, its record does not get lost",
        Bound::Preemptions(2),
        Scene::new,
    )
    .role("a", append(0, "a"))
    .role("b", append(1, "b"))
    .expect(
        |scene, results| {
            assert_eq!(results, ["in", "in"]);
            assert_eq!(scene.accumulator.pool().leased, 95, "one batch");
            let log = scene.rest();
            scene.whole();
            log
        },
        &["a b|", "b a|"],
    )
}

/// A close, and whether a look begun after it finds anything.
fn close_and_look(scene: &Arc<Scene>) -> String {
    scene.accumulator.close();
    if scene.accumulator.has_undrained() { "seen" } else { "nothing" }.into()
}

/// What the first role brought, and what can still be drained.
fn what_is_left(scene: &Arc<Scene>, results: &[String]) -> String {
    let log = scene.rest();
    scene.whole();
    format!("{}: {log}", results[0])
}

fn accepted_is_seen(scene: &Arc<Scene>, results: &[String]) -> String {
    let log = scene.rest();
    scene.whole();
    format!("{}, {}: {log}", results[0], results[1])
}

fn append_against_close() -> Check {
    lanes(
        "lane_append_against_close",
        "what is accepted is seen by a look after the close, whether it went to an open batch or opened one (ACC-48)",
        Bound::Preemptions(2),
        Scene::new,
    )
    .role("appender", |scene: &Arc<Scene>| format!("{} {}", scene.append("a"), scene.append("b")))
    .role("closer", close_and_look)
    .expect(accepted_is_seen, &["in in, seen: a b|", "in refused, seen: a|", "refused refused, nothing: "])
}

fn new_partition_against_close() -> Check {
    lanes(
        "lane_new_partition_against_close",
        "also where the partition appears during the close",
        Bound::Preemptions(2),
        Scene::new,
    )
    .role("appender", |scene: &Arc<Scene>| {
        let lane = scene.accumulator.partition(&tp(1));
        scene.append_to(&lane, "a", Reply::IGNORE).into()
    })
    .role("closer", close_and_look)
    .expect(accepted_is_seen, &["in, seen: a|", "refused, nothing: "])
}

/// Drains until two records have come, and completes them.
fn drain_two(scene: &Arc<Scene>) -> String {
    let mut log = String::new();
    loop {
        log += &scene.complete(scene.drain());
        if log.contains('a') && log.contains('b') {
            return log;
        }
        thread::yield_now();
    }
}

fn flush_against_append() -> Check {
    lanes(
        "lane_flush_against_append",
        "a flush ends when what was there has completed, whatever is appended meanwhile",
        Bound::Preemptions(1),
        || Scene::with(&["a"]),
    )
    // The sender looks until it has what it waits for: a search of all schedules of that does not end, and shuttle has a crowd for flushes.
    .weak_memory()
    .role("flusher", |scene: &Arc<Scene>| {
        scene.accumulator.begin_flush();
        format!("{:?}", scene.accumulator.await_flush(None).is_ok())
    })
    .role("appender", |scene| scene.append("b").into())
    .role("sender", drain_two)
    .expect(
        |scene, results| {
            scene.whole();
            results.join(" ")
        },
        &["true in a b|", "true in a|b|"],
    )
}

fn flush_sees_what_was_appended_before() -> Check {
    lanes(
        "lane_flush_sees_what_was_appended_before",
        "a flush waits for each record whose append had returned, also where another has opened its batch and is not done with that",
        Bound::Preemptions(2),
        Scene::new,
    )
    .role("opener", |scene: &Arc<Scene>| scene.append("a").into())
    .role("appender", |scene| {
        scene.append_to(&scene.lane, "b", Reply::FUTURE);
        scene.accumulator.begin_flush();
        // Nobody sends: a flush that waits for anything times out.
        match scene.accumulator.await_flush(Some(Duration::ZERO)) {
            Ok(()) => "flushed unsent".into(),
            Err(_) => "waits".into(),
        }
    })
    .expect(
        |scene, results| {
            let log = scene.rest();
            scene.whole();
            format!("{}: {log}", results[1])
        },
        &["waits: a b|", "waits: b a|"],
    )
}

fn drain_against_append() -> Check {
    lanes(
        "lane_drain_against_append",
        "the sender seals what is being filled: each record is drained once, in its order",
        Bound::Preemptions(2),
        || Scene::with(&["a"]),
    )
    .role("appender", |scene: &Arc<Scene>| format!("{} {}", scene.append("b"), scene.append("c")))
    .role("sender", |scene| scene.complete(scene.drain()))
    .expect(
        |scene, results| {
            assert_eq!(results[0], "in in");
            let log = format!("{}{}", results[1], scene.rest());
            scene.whole();
            log
        },
        &["a b|c|", "a|b c|"],
    )
}

fn order_over_two_batches() -> Check {
    lanes(
        "lane_order_over_two_batches",
        "a batch that is finished before an earlier one waits for that one (L6), and the sender for nobody",
        Bound::Preemptions(1),
        || Scene::with(&["a"]),
    )
    // Takes the last place beside a, or opens the next batch.
    .role("slow", |scene: &Arc<Scene>| scene.append("z").into())
    .role("appender", |scene| scene.append("b").into())
    .role("sender", |scene| scene.complete(scene.drain()))
    .expect(
        |scene, results| {
            let log = format!("{}{}", results[2], scene.rest());
            scene.whole();
            log
        },
        &["a b|z|", "a z|b|", "a|b z|", "a|z b|"],
    )
}

fn opener_is_not_waited_for() -> Check {
    lanes(
        "lane_opener_is_not_waited_for",
        "who has opened a batch and does no more delays nobody: what others put into it and behind it is drained",
        Bound::Preemptions(1),
        Scene::new,
    )
    .role("opener", |scene: &Arc<Scene>| scene.append("a").into())
    .role("appender", |scene| {
        // With a in it, the batch is full with b, and c opens the next.
        assert_eq!((scene.append("b"), scene.append("c")), ("in", "in"));
        scene.complete(scene.drain())
    })
    .expect(
        |scene, results| {
            let log = format!("{}{}", results[1], scene.rest());
            // Unless a was being copied into b's batch then.
            assert!(results[1].contains('b') || log.starts_with("b a"), "drained at once {}, in all {log}", results[1]);
            scene.whole();
            log
        },
        &["a b|c|", "b a|c|", "b c|a|"],
    )
}

pub(crate) fn append_with_callback(scene: &Arc<Scene>) -> String {
    let called = Arc::downgrade(scene);
    let reply = Reply::callback(move |_| called.upgrade().expect("it lives").called.lock().unwrap().push("b"));
    scene.append_to(&scene.lane, "b", reply).into()
}

pub(crate) fn close_by_force(scene: &Arc<Scene>) -> String {
    scene.accumulator.close();
    scene.view(|view| view.abort_incomplete(&SendError::Aborted { reason: "on purpose" }));
    format!("{} called", scene.called.lock().unwrap().len())
}

fn forced_close_against_append() -> Check {
    lanes(
        "lane_forced_close_against_append",
        "every accepted record has ended when a forced close returns, once; memory comes back",
        Bound::Preemptions(2),
        || Scene::with(&["a"]),
    )
    .role("appender", append_with_callback)
    .role("sender", close_by_force)
    .expect(
        |scene, results| {
            assert_eq!(scene.called.lock().unwrap().len(), usize::from(results[0] == "in"));
            scene.whole();
            format!("{}, {}", results[0], results[1])
        },
        &["in, 1 called", "refused, 0 called"],
    )
}

fn forced_close_against_opener() -> Check {
    lanes(
        "lane_forced_close_against_opener",
        "a forced close sleeps until no append has memory in hand without a batch, and is woken (GAP-19)",
        Bound::Preemptions(2),
        Scene::new,
    )
    .role("appender", |scene: &Arc<Scene>| scene.append("a").into())
    .role("sender", |scene| {
        scene.accumulator.close();
        scene.view(|view| view.abort_incomplete(&SendError::Aborted { reason: "on purpose" }));
        String::new()
    })
    .expect(
        |scene, results| {
            scene.whole();
            results[0].clone()
        },
        &["in", "refused"],
    )
}

fn expiry_against_append() -> Check {
    let scene = || Scene::with(&["a"]);
    let outcomes = &["in 0 taken, ended: ", "in 1 taken, goes on: b|", "in 2 taken, ended: "];
    expiry("lane_expiry_against_append", scene, || (), outcomes)
}

/// A batch's time is up while somebody, who is first what `be` makes of him, appends to it.
pub(crate) fn expiry(
    name: &str,
    scene: impl Fn() -> Arc<Scene> + Send + Sync + 'static,
    be: fn(),
    outcomes: &'static [&'static str],
) -> Check {
    lanes(
        name,
        "a batch whose time is up ends although somebody copies into it, and takes no more after that (L7)",
        Bound::Preemptions(2),
        scene,
    )
    .role("appender", move |scene: &Arc<Scene>| {
        be();
        scene.append_to(&scene.lane, "b", Reply::FUTURE).into()
    })
    .role("sender", |scene| {
        let late = Instant::ZERO.saturating_add(Duration::from_secs(1));
        let expired = scene.view(|view| view.expired(late));
        let records: u32 = expired.iter().map(SealedBatch::record_count).sum();
        for batch in expired {
            assert_eq!(batch.completion().fail(SendError::Aborted { reason: "late" }, None), Ok(true));
            scene.view(|view| view.deallocate(batch)).expect("in the books");
        }
        format!("{records} taken")
    })
    .expect(
        |scene, results| {
            let future = scene.kept.lock().unwrap().pop().expect("it was accepted");
            let ended = future.is_done();
            // Of a batch that was ended early, the content comes now.
            let log = scene.complete(scene.drain()) + &scene.rest();
            assert!(future.is_done(), "it ends in the end");
            scene.whole();
            format!("{} {}, {}: {log}", results[0], results[1], if ended { "ended" } else { "goes on" })
        },
        outcomes,
    )
}

/// Two batches that are over and one that is open.
fn with_two_over() -> Arc<Scene> {
    let scene = Scene::with(&["a", "b", "c", "d"]);
    assert_eq!(scene.rest(), "a b|c d|");
    assert_eq!(scene.append("e"), "in");
    scene
}

fn look(scene: &Arc<Scene>) -> String {
    format!("{} {}", scene.accumulator.has_undrained(), scene.accumulator.has_incomplete())
}

fn walk_against_sweep() -> Check {
    lanes(
        "lane_walk_against_sweep",
        "whoever walks the books sees what is unfinished, whatever is entered and struck out meanwhile",
        Bound::Preemptions(1),
        with_two_over,
    )
    .role("walker", look)
    .role("sender", sweep)
    .role("opener", |scene| {
        let lane = scene.accumulator.partition(&tp(1));
        scene.append_to(&lane, "f", Reply::IGNORE).into()
    })
    .expect(what_is_left, &["true true: e|f|"])
}

/// A lane whose last batch is over and was passed by once: the next sweep empties its tail, unless another batch is opened there.
pub(crate) fn with_one_to_empty() -> Arc<Scene> {
    let scene = Scene::with(&["a"]);
    let log = scene.rest();
    assert_eq!(log, "a|");
    let other = scene.accumulator.partition(&tp(1));
    for name in ["b", "c"] {
        assert_eq!(scene.append_to(&other, name, Reply::IGNORE), "in");
        scene.rest();
        if name == "b" {
            scene.view(|view| view.ready(&scene.cluster, Instant::ZERO));
        }
    }
    scene
}

pub(crate) fn sweep(scene: &Arc<Scene>) -> String {
    scene.view(|view| view.ready(&scene.cluster, Instant::ZERO));
    String::new()
}

fn emptied_against_open() -> Check {
    lanes(
        "lane_emptied_against_open",
        "a tail is emptied, or another batch comes into it: no record is lost, and the batch that was there is let go of once",
        Bound::Preemptions(2),
        with_one_to_empty,
    )
    .role("appender", |scene: &Arc<Scene>| format!("{} {}", scene.append("d"), scene.append("e")))
    .role("sender", sweep)
    .expect(
        what_is_left,
        &["in in: d e|"],
    )
}

fn emptied_against_close() -> Check {
    lanes(
        "lane_emptied_against_close",
        "what is accepted is seen by a look after the close, though the tail is emptied meanwhile (ACC-48)",
        Bound::Preemptions(1),
        with_one_to_empty,
    )
    .role("appender", |scene: &Arc<Scene>| scene.append("d").into())
    .role("closer", close_and_look)
    .role("sender", sweep)
    .expect(accepted_is_seen, &["in, seen: d|", "refused, nothing: "])
}

fn sweep_under_the_collector() -> Check {
    model(
        "lane_sweep_under_the_collector",
        "no batch is freed under a walker: crossbeam-epoch's own pins",
        Bound::Preemptions(1),
        with_two_over,
    )
    .weak_memory()
    .role("walker", |scene: &Arc<Scene>| scene.accumulator.has_incomplete().to_string())
    .role("sender", sweep)
    .expect(
        |scene, results| {
            let log = scene.rest();
            format!("{}: {log}", results[0])
        },
        &["true: e|"],
    )
}
