//! Announcements: copies that are not counted, and batches that are kept without a pin. The shipping types: slots, batch and settling by themselves, then the accumulator whole, its threads having slots.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use unlatched::batch::{Announcements, AtomicBatch, Publish, RecordFuture, Refusal, SealedBatch};
use unlatched::error::TopicPartition;
use unlatched::pool::{AtomicPool, BufferPool};
use unlatched::primitive::clock::{Instant, ManualClock};
use unlatched::primitive::model::be_alone_at;
use unlatched::record::{BATCH_OVERHEAD, Record, record_size};

use super::accumulator::{
    Scene as Lanes, append_with_callback, close_by_force, expiry, lanes, opening, sweep, with_one_to_empty,
};
use crate::runner::{Bound, Check, Model, model};

pub(crate) fn models() -> Vec<Check> {
    vec![
        copies_against_seal(),
        copy_beside_a_counted_one(),
        counted_copy_in_a_batch_that_an_announced_one_fills(),
        copies_that_fill(),
        futures_against_seal(),
        future_beside_a_counted_one(),
        panic_in_the_copy(),
        run_against_seal(),
        next_announcement_against_ask(),
        same_announcement_against_next_look(),
        drain_against_append(),
        append_against_sweep(),
        forced_close_against_append(),
        two_who_let_go(),
        expiry_against_append(),
        opening("announced_double_open", be_alone_at),
    ]
}

const RECORD: Record<'static> = Record { timestamp: 7, key: None, value: Some(b"x"), headers: &[] };

type Batch = AtomicBatch<()>;

/// Batches with one record in them, and what they came to.
struct Scene {
    announcements: Announcements,
    batches: [Batch; 2],
    settled: Settled,
    /// Each batch's result counts one.
    topic: Arc<str>,
    futures: Mutex<Vec<RecordFuture>>,
}

/// Whoever publishes settles as the sender does: takes at once, or asks and goes away.
#[derive(Default)]
struct Settled(Mutex<Vec<Came>>);

#[derive(Debug)]
enum Came {
    Taken(Box<(SealedBatch, bool)>),
    Asked(usize, u64),
}

/// A thread's way to publish. Whether it was asked to tell, and whether a place that was dropped has said that something came of it.
struct Publisher<'s>(&'s Scene, Cell<bool>, Cell<bool>);

impl Publish<()> for Publisher<'_> {
    fn publish(&self, batch: NonNull<Batch>) {
        // SAFETY: published to us, and the scene keeps it.
        let batch = unsafe { batch.as_ref() };
        let number = self.0.batches.iter().position(|one| std::ptr::eq(one, batch)).expect("one of ours");
        let asked = self.0.announcements.ask(batch);
        let came = if asked != 0 {
            Came::Asked(number, asked)
        } else {
            // SAFETY: BATCH-D: published, and in nobody's announcement (ANN-B).
            Came::Taken(Box::new(unsafe { batch.take(TopicPartition::new("t", 0), 1) }))
        };
        self.0.settled.0.lock().unwrap().push(came);
    }

    fn withdrawn(&self) {
        self.1.set(true);
    }

    fn abandoned(&self) {
        self.2.set(true);
    }
}

impl Scene {
    /// Room for `records` records in each.
    fn new(records: u32) -> Self {
        let sizes: usize = (0..records).map(|index| record_size(index, 0, &RECORD)).sum();
        let pool = AtomicPool::new(1 << 10, 1 << 10, ManualClock::at(0));
        let topic = Arc::<str>::from("t");
        let batches = [(); 2].map(|()| {
            let lease = pool.allocate(BATCH_OVERHEAD + sizes, Duration::ZERO).expect("there is enough").erase();
            let mut batch = AtomicBatch::new(TopicPartition::new(Arc::clone(&topic), 0), lease, Instant::ZERO, |_| ());
            batch.begin(&RECORD, None);
            batch
        });
        let (settled, futures) = Default::default();
        Self { announcements: Announcements::default(), batches, settled, topic, futures }
    }

    /// What came of an append, and whether its withdrawal says that somebody has asked.
    fn said(came: &'static str, told: bool) -> &'static str {
        match (came, told) {
            ("in", true) => "in, told",
            ("two", true) => "two, told",
            ("panicked", true) => "panicked, told",
            ("out", true) => "out, told",
            _ => came,
        }
    }

    /// Appends to batch `number` by announcement, in the slot that the thread has; `copies` what it has got a place for, or panics.
    fn append_to(&self, number: usize, copies: bool) -> &'static str {
        self.append_and(number, copies, |_| ())
    }

    /// [`Scene::append_to`]; before what was copied is committed `then` may make a future.
    fn append_and(&self, number: usize, copies: bool, then: impl Fn(&dyn Fn() -> RecordFuture)) -> &'static str {
        let (batch, publisher) = (&self.batches[number], Publisher(self, Cell::default(), Cell::default()));
        let slot = self.announcements.own().expect("the model gave it one, and it is free");
        loop {
            slot.announce(std::ptr::from_ref(batch).addr());
            // SAFETY: ANN-A: just announced, in the thread's slot.
            match unsafe { batch.reserve_announced(&RECORD, RECORD.payload_size(), slot) } {
                Ok(claim) => {
                    let mut place = claim.hold(&publisher);
                    if !copies {
                        // What unwinding does.
                        drop(place);
                        assert_eq!(publisher.2.get(), publisher.1.get(), "who is asked and panics says so");
                        return Self::said("panicked", publisher.1.get());
                    }
                    place.write(&RECORD);
                    then(&|| place.future(7));
                    place.commit();
                    return Self::said("in", publisher.1.get());
                }
                Err(refusal) => {
                    publisher.1.set(publisher.1.get() | slot.withdraw());
                    if let Refusal::Full(full) = refusal {
                        if full.finished {
                            publisher.publish(NonNull::from(batch));
                        }
                        return Self::said("out", publisher.1.get());
                    }
                }
            }
        }
    }

    fn append(&self) -> &'static str {
        self.append_to(0, true)
    }

    /// Two at once, or as many as there is room for.
    fn append_two(&self) -> &'static str {
        let (batch, publisher) = (&self.batches[0], Publisher(self, Cell::default(), Cell::default()));
        let slot = self.announcements.own().expect("the model gave it one, and it is free");
        loop {
            slot.announce(std::ptr::from_ref(batch).addr());
            // SAFETY: as above.
            match unsafe { batch.reserve_run_announced(&[RECORD, RECORD], slot, &publisher) } {
                Ok(mut run) => {
                    assert_eq!(run.records(), 2);
                    run.write(&[RECORD, RECORD], None);
                    run.commit();
                    return Self::said("two", publisher.1.get());
                }
                Err(refusal) => {
                    publisher.1.set(publisher.1.get() | slot.withdraw());
                    if let Refusal::Full(full) = refusal {
                        assert!(!full.finished, "there is room, so another has sealed it");
                        return Self::said("out", publisher.1.get());
                    }
                }
            }
        }
    }

    fn append_counted(&self) -> &'static str {
        self.append_counted_and(|_| ())
    }

    /// As [`Scene::append_and`].
    fn append_counted_and(&self, then: impl Fn(&dyn Fn() -> RecordFuture)) -> &'static str {
        let publisher = Publisher(self, Cell::default(), Cell::default());
        match self.batches[0].reserve(&RECORD, RECORD.payload_size(), &publisher) {
            Ok(mut place) => {
                place.write(&RECORD);
                then(&|| place.future(7));
                place.commit();
                "in"
            }
            Err(full) => {
                if full.finished {
                    publisher.publish(NonNull::from(&self.batches[0]));
                }
                "out"
            }
        }
    }

    fn seal(&self, number: usize) -> &'static str {
        if self.batches[number].seal() {
            Publisher(self, Cell::default(), Cell::default()).publish(NonNull::from(&self.batches[number]));
        }
        ""
    }

    fn keep(&self, future: RecordFuture) {
        self.futures.lock().unwrap().push(future);
    }

    /// What the first two roles came to, the first of whom keeps a future. The result lives until that is dropped.
    fn futures(&self, results: &[&'static str]) -> String {
        let batch = self.taken(results);
        assert_eq!(batch.completion().complete(40, None), Ok(true));
        drop(batch);
        let kept = std::mem::take(&mut *self.futures.lock().unwrap());
        assert_eq!(kept.len(), usize::from(results[0].starts_with("in")));
        // That of the batch which is open still, and ours.
        let lives = || Arc::strong_count(&self.topic) > 2;
        assert_eq!(lives(), !kept.is_empty());
        for future in kept {
            let offset = future.try_result().expect("it is done").expect("it was written").offset;
            assert!((41..=42).contains(&offset), "{offset}");
        }
        assert!(!lives());
        let of = |said: &str| said.split(',').next().unwrap_or_default().to_owned();
        format!("{} {}", of(results[0]), of(results[1]))
    }

    /// What the roles came to, see [`Scene::taken`].
    fn verdict(&self, results: &[&'static str]) -> String {
        self.taken(results);
        let mut said: Vec<_> = results.iter().filter(|said| !said.is_empty()).copied().collect();
        said.sort_unstable();
        said.join(" ")
    }

    /// The batch that was sealed: published once, with all that was accepted for it; where it was asked for, somebody was told.
    fn taken(&self, results: &[&'static str]) -> SealedBatch {
        let mut settled = self.settled.0.lock().unwrap();
        assert_eq!(settled.len(), 1, "published once: {settled:?}");
        let (batch, failed) = match settled.pop().expect("one") {
            Came::Taken(taken) => *taken,
            Came::Asked(number, _) => {
                assert!(results.iter().any(|said| said.contains("told")), "nobody was told: {results:?}");
                assert!(!self.announcements.is_announced(&self.batches[number]), "who is done has withdrawn");
                // SAFETY: published, and nobody else is left.
                unsafe { self.batches[number].take(TopicPartition::new("t", 0), 1) }
            }
        };
        let records = |said: &&str| match said.split(',').next() {
            Some("in" | "panicked") => 1,
            Some("two") => 2,
            _ => 0,
        };
        let accepted: u32 = results.iter().map(records).sum();
        assert_eq!(batch.record_count(), 1 + accepted, "every accepted record is in it");
        assert_eq!(failed, results.iter().any(|said| said.starts_with("panicked")));
        batch
    }
}

fn announced(name: &str, law: &'static str, bound: Bound, records: u32) -> Model<Scene, &'static str> {
    model(name, law, bound, move || Scene::new(records)).keeps_retired()
}

fn at<S, R>(slot: usize, act: impl Fn(&S) -> R) -> impl Fn(&S) -> R {
    move |scene| {
        be_alone_at(slot);
        act(scene)
    }
}

fn copies_against_seal() -> Check {
    announced(
        "announced_copies_against_seal",
        "what was reserved by announcement is in the batch that is taken, and its copy is seen; who is still at work when it is looked for is asked, and tells",
        Bound::Preemptions(2),
        4,
    )
    .role("one", at(0, Scene::append))
    .role("two", at(1, Scene::append))
    .role("sealer", |scene| scene.seal(0))
    .expect(
        Scene::verdict,
        &["in in", "in in, told", "in out", "in out, told", "in, told in, told", "in, told out", "in, told out, told", "out out", "out out, told", "out, told out, told"],
    )
}

fn copy_beside_a_counted_one() -> Check {
    announced(
        "announced_copy_beside_a_counted_one",
        "both kinds in one batch: the last who is counted publishes, and whoever is announced is looked for then",
        Bound::Preemptions(2),
        4,
    )
    .role("announced", at(0, Scene::append))
    .role("counted", Scene::append_counted)
    .role("sealer", |scene| scene.seal(0))
    .expect(
        Scene::verdict,
        &["in in", "in in, told", "in out", "in out, told", "in, told out", "out out", "out out, told"],
    )
}

fn counted_copy_in_a_batch_that_an_announced_one_fills() -> Check {
    announced(
        "announced_copy_fills_beside_a_counted_one",
        "who takes the last place by announcement publishes, unless somebody is counted: then the last of those does",
        Bound::Full,
        3,
    )
    .role("announced", at(0, Scene::append))
    .role("counted", Scene::append_counted)
    .expect(Scene::verdict, &["in in", "in in, told"])
}

fn copies_that_fill() -> Check {
    announced(
        "announced_copies_that_fill",
        "who takes the last place seals and publishes it when his copy is over, and looks for the others",
        Bound::Preemptions(3),
        3,
    )
    .role("one", at(0, Scene::append))
    .role("two", at(1, Scene::append))
    .expect(Scene::verdict, &["in in", "in in, told"])
}

fn futures_against_seal() -> Check {
    announced(
        "announced_futures_against_seal",
        "whoever takes a batch knows of each future that was made without an exchange, and of each that was made by one: its result lives as long as the last of them, and no longer",
        Bound::Preemptions(2),
        4,
    )
    .role("keeps", at(0, |scene: &Scene| scene.append_and(0, true, |future| scene.keep(future()))))
    // In models only the first slot has a cell.
    .role("drops", at(1, |scene: &Scene| scene.append_and(0, true, |future| drop(future()))))
    .role("sealer", |scene| scene.seal(0))
    .expect(Scene::futures, &["in in", "in out", "out in", "out out"])
}

fn future_beside_a_counted_one() -> Check {
    announced(
        "announced_future_beside_a_counted_one",
        "who is counted has no cell for a future",
        Bound::Preemptions(2),
        4,
    )
    .role("keeps", at(0, |scene: &Scene| scene.append_and(0, true, |future| scene.keep(future()))))
    .role("counted", |scene: &Scene| scene.append_counted_and(|future| drop(future())))
    .role("sealer", |scene| scene.seal(0))
    .expect(Scene::futures, &["in in", "in out", "out in", "out out"])
}

fn panic_in_the_copy() -> Check {
    announced(
        "announced_panic_in_the_copy",
        "a copy that panics keeps nobody waiting, and fails the batch",
        Bound::Preemptions(2),
        4,
    )
    .role("panics", at(0, |scene: &Scene| scene.append_to(0, false)))
    .role("appender", at(1, Scene::append))
    .role("sealer", |scene| scene.seal(0))
    .expect(
        // Who was told is left out: some of it is rare.
        |scene, results| scene.verdict(results).replace(", told", ""),
        &["in out", "in panicked", "out out", "out panicked"],
    )
}

fn run_against_seal() -> Check {
    announced(
        "announced_run_against_seal",
        "several that got their places at once by announcement are in the batch that is taken, all of them or none",
        Bound::Preemptions(3),
        5,
    )
    .role("two", at(0, Scene::append_two))
    .role("sealer", |scene| scene.seal(0))
    .expect(Scene::verdict, &["out", "out, told", "two", "two, told"])
}

fn next_announcement_against_ask() -> Check {
    announced(
        "announced_next_against_ask",
        "who was asked of one batch and has told, and goes on to the next, is asked of that anew",
        Bound::Preemptions(3),
        4,
    )
    .role(
        "appender",
        at(0, |scene: &Scene| {
            let first = scene.append_to(0, true);
            let second = scene.append_to(1, true);
            let told = |said: &str| said.ends_with("told");
            if told(second) {
                "second told"
            } else if told(first) {
                "first told"
            } else {
                ""
            }
        }),
    )
    .role("sender", |scene| {
        scene.seal(0);
        scene.seal(1);
        ""
    })
    .expect(
        |scene, results| {
            let settled = scene.settled.0.lock().unwrap();
            let asked = |number| settled.iter().any(|came| matches!(came, Came::Asked(asked, _) if *asked == number));
            assert!(!asked(1) || results[0] == "second told", "asked of the second, and not told");
            assert!(!asked(0) || results[0] != "", "asked of the first, and not told");
            if asked(0) || asked(1) { "asked" } else { "taken at once" }.into()
        },
        &["asked", "taken at once"],
    )
}

fn same_announcement_against_next_look() -> Check {
    announced(
        "announced_again_against_next_look",
        "who was asked, has told, and announces the same batch once more, is not waited for: he has no place; and what he had copied is seen",
        Bound::Preemptions(3),
        4,
    )
    .role(
        "appender",
        at(0, |scene: &Scene| match [scene.append_to(0, true), scene.append_to(0, true)] {
            ["in", "in"] => "two",
            ["in", "out"] => "in",
            ["out", "out"] => "out",
            _ => "told",
        }),
    )
    .role("sender", |scene| {
        scene.seal(0);
        let mut settled = scene.settled.0.lock().unwrap();
        let Some(Came::Asked(number, asked)) = settled.first() else { return "" };
        let batch = &scene.batches[*number];
        if scene.announcements.asked(batch, *asked) != 0 {
            return "waits";
        }
        // SAFETY: BATCH-D: published, and in nobody's announcement (ANN-C).
        let taken = unsafe { batch.take(TopicPartition::new("t", 0), 1) };
        *settled = vec![Came::Taken(Box::new(taken))];
        ""
    })
    .expect(
        |_, results| {
            assert!(results[1] != "waits" || results[0] == "told", "{results:?}");
            results.join(" ").trim().into()
        },
        &["in", "out", "told", "told waits", "two"],
    )
}

fn drain_against_append() -> Check {
    lanes(
        "announced_drain_against_append",
        "the sender seals what is being filled: each record is drained once, in its order; what it does not get for an announcement comes with a wake",
        Bound::Preemptions(2),
        || Lanes::new_with_room(4),
    )
    .role("appender", at(0, |scene: &Arc<Lanes>| {
        let wakes = ["b", "c"].map(|name| scene.append_and_wake(name).1);
            if wakes.contains(&true) { "wakes" } else { "" }.into()
    }))
    .role("sender", |scene| scene.complete(scene.drain()))
    .expect(
        |scene, results| {
            let rest = scene.rest();
            let log = format!("{}{rest}", results[1]);
            assert!(results[1] != "" || results[0] == "wakes", "nothing was drained, and nobody wakes the sender");
            scene.whole();
            log
        },
        &["a b c|", "a b|c|", "a|b c|"],
    )
}

fn append_against_sweep() -> Check {
    lanes(
        "announced_append_against_sweep",
        "no batch is let go of while somebody has announced it and found it in the tail",
        Bound::Preemptions(2),
        with_one_to_empty,
    )
    .role("appender", at(0, |scene: &Arc<Lanes>| scene.append("d").into()))
    .role("sender", |scene| sweep(scene))
    .expect(
        |scene, results| {
            let log = scene.rest();
            scene.whole();
            format!("{}: {log}", results[0])
        },
        &["in: d|"],
    )
}

fn forced_close_against_append() -> Check {
    lanes(
        "announced_forced_close_against_append",
        "every accepted record has ended when a forced close returns, once; memory comes back when whoever was at work has withdrawn",
        Bound::Preemptions(2),
        || Lanes::new_with_room(3),
    )
    .role(
        "appender",
        at(0, |scene: &Arc<Lanes>| {
            let first = append_with_callback(scene);
            // Announces the same batch once more, though nothing can come of it but where it is open still.
            scene.append("c");
            first
        }),
    )
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

fn two_who_let_go() -> Check {
    lanes(
        "announced_two_let_go",
        "what was left when the sender went is let go of once, by one of those who were at work on it",
        Bound::Preemptions(1),
        || Lanes::new_with_room(3),
    )
    .role("one", at(0, |scene: &Arc<Lanes>| scene.append("b").into()))
    .role("two", at(1, |scene: &Arc<Lanes>| scene.append("c").into()))
    .role("sender", close_by_force)
    .expect(
        |scene, results| {
            scene.whole();
            format!("{} {}", results[0], results[1])
        },
        &["in in", "in refused", "refused in", "refused refused"],
    )
}

fn expiry_against_append() -> Check {
    let outcomes =
        &["in 0 taken, ended: ", "in 0 taken, goes on: b|", "in 1 taken, goes on: b|", "in 2 taken, ended: "];
    expiry("announced_expiry_against_append", || Lanes::new_with_room(3), || be_alone_at(0), outcomes)
}
