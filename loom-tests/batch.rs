//! The open batch of the lock-free core: places, copies, one publisher, a copy that panics, an end that comes early. The shipping type.

use std::ptr::NonNull;
use std::sync::Mutex;
use std::time::Duration;

use unlatched::batch::{AtomicBatch, FinalState, Publish, SealedBatch};
use unlatched::error::{SendError, TopicPartition};
use unlatched::pool::{AtomicPool, BufferPool};
use unlatched::primitive::clock::{Instant, ManualClock};
use unlatched::record::{BATCH_OVERHEAD, Record, record_size};

use crate::runner::{Bound, Check, Model, model};

pub(crate) fn models() -> Vec<Check> {
    vec![
        reserve_commit_seal_publish(),
        filled_to_the_byte(),
        three_for_two_places(),
        two_sealers(),
        panic_in_the_copy(),
        early_end_against_a_callback(),
        weak_exchange_fails(),
        run_commit_seal_publish(),
        run_for_the_last_places(),
    ]
}

const RECORD: Record<'static> = Record { timestamp: 7, key: None, value: Some(b"x"), headers: &[] };

type Batch = AtomicBatch<()>;

/// A batch with one record in it, and what it came to.
struct Scene {
    batch: Batch,
    published: Outbox,
    later: Later,
    called: Mutex<u32>,
}

/// Whoever publishes takes at once: so what it reads must be ordered behind every copy.
#[derive(Default)]
struct Outbox(Mutex<Vec<(SealedBatch, bool)>>);

impl Publish<()> for Outbox {
    fn publish(&self, batch: NonNull<Batch>) {
        // SAFETY: BATCH-B: published to us, and the scene keeps it.
        let taken = unsafe { take(batch.as_ref()) };
        self.0.lock().unwrap().push(taken);
    }
}

/// As the sender does: it takes when it comes to it.
#[derive(Default)]
struct Later(Mutex<u32>);

impl Publish<()> for Later {
    fn publish(&self, _: NonNull<Batch>) {
        *self.0.lock().unwrap() += 1;
    }
}

/// # Safety
/// As [`AtomicBatch::take`].
unsafe fn take(batch: &Batch) -> (SealedBatch, bool) {
    // SAFETY: the caller's promise.
    unsafe { batch.take(TopicPartition::new("t", 0), 1) }
}

impl Scene {
    /// Room for `records` records.
    fn new(records: u32) -> Self {
        let sizes: usize = (0..records).map(|index| record_size(index, 0, &RECORD)).sum();
        let pool = AtomicPool::new(1 << 10, 1 << 10, ManualClock::at(0));
        let lease = pool.allocate(BATCH_OVERHEAD + sizes, Duration::ZERO).expect("there is enough").erase();
        let mut batch = AtomicBatch::new(TopicPartition::new("t", 0), lease, Instant::ZERO, |_| ());
        batch.begin(&RECORD, None);
        Self { batch, published: Outbox::default(), later: Later::default(), called: Mutex::new(0) }
    }

    fn append(&self) -> &'static str {
        match self.batch.reserve(&RECORD, RECORD.payload_size(), &self.published) {
            Ok(mut place) => {
                place.write(&RECORD);
                place.commit();
                "in"
            }
            Err(full) => {
                if full.finished {
                    self.published.publish(NonNull::from(&self.batch));
                }
                "out"
            }
        }
    }

    /// Two at once, or as many as there is room for.
    fn append_two(&self) -> &'static str {
        match self.batch.reserve_run(&[RECORD, RECORD], &self.published) {
            Ok(mut run) => {
                let records = run.records();
                run.write(&[RECORD, RECORD][..records], None);
                run.commit();
                ["one of two", "two"][records - 1]
            }
            Err(full) => {
                if full.finished {
                    self.published.publish(NonNull::from(&self.batch));
                }
                "out"
            }
        }
    }

    fn seal(&self) -> &'static str {
        if self.batch.seal() {
            self.published.publish(NonNull::from(&self.batch));
        }
        ""
    }

    /// What the roles came to, and what was published, once: `two in, 3 records`.
    fn verdict(&self, results: &[&'static str]) -> String {
        let mut published = self.published.0.lock().unwrap();
        assert_eq!(published.len(), 1, "published once");
        let (batch, failed) = published.pop().expect("one");
        let records = |said: &&'static str| match *said {
            "in" | "panicked" | "one of two" => 1,
            "two" => 2,
            _ => 0,
        };
        let accepted: u32 = results.iter().map(records).sum();
        assert_eq!(batch.record_count(), 1 + accepted, "every accepted record is in it");
        let mut said: Vec<_> = results.iter().filter(|said| !said.is_empty()).copied().collect();
        said.sort_unstable();
        format!("{}{}", said.join(" "), if failed { ", failed" } else { "" })
    }
}

fn batch(name: &str, law: &'static str, bound: Bound, records: u32) -> Model<Scene, &'static str> {
    model(name, law, bound, move || Scene::new(records)).keeps_retired()
}

fn reserve_commit_seal_publish() -> Check {
    batch(
        "batch_reserve_commit_seal_publish",
        "every record that got a place is in the batch that is published, once, and its copy is seen",
        Bound::Preemptions(3),
        4,
    )
    .role("one", Scene::append)
    .role("two", Scene::append)
    .role("sealer", Scene::seal)
    .expect(Scene::verdict, &["in in", "in out", "out out"])
}

fn run_commit_seal_publish() -> Check {
    batch(
        "batch_run_commit_seal_publish",
        "several that got their places at once are in the batch that is published, all of them or none, and their copies are seen",
        Bound::Preemptions(3),
        5,
    )
    .role("two", Scene::append_two)
    .role("one", Scene::append)
    .role("sealer", Scene::seal)
    .expect(Scene::verdict, &["in out", "in two", "out out", "out two"])
}

fn run_for_the_last_places() -> Check {
    batch(
        "batch_run_for_the_last_places",
        "of several, those that fit are in; who takes the last place seals, and the last who commits publishes",
        Bound::Full,
        3,
    )
    .role("two", Scene::append_two)
    .role("one", Scene::append)
    .expect(Scene::verdict, &["in one of two", "out two"])
}

fn filled_to_the_byte() -> Check {
    batch(
        "batch_filled_to_the_byte",
        "who takes the last place seals, and the last who commits publishes",
        Bound::Full,
        3,
    )
    .role("one", Scene::append)
    .role("two", Scene::append)
    .expect(Scene::verdict, &["in in"])
}

fn three_for_two_places() -> Check {
    batch("batch_three_for_two_places", "who finds no room goes elsewhere", Bound::Preemptions(3), 3)
        .role("one", Scene::append)
        .role("two", Scene::append)
        .role("three", Scene::append)
        .expect(Scene::verdict, &["in in out"])
}

fn two_sealers() -> Check {
    batch("batch_two_sealers", "sealed twice, published once", Bound::Full, 4)
        .role("appender", Scene::append)
        .role("one", Scene::seal)
        .role("two", Scene::seal)
        .expect(Scene::verdict, &["in", "out"])
}

fn panic_in_the_copy() -> Check {
    batch(
        "batch_panic_in_the_copy",
        "a copy that panics keeps nobody waiting, and fails the batch",
        Bound::Preemptions(3),
        4,
    )
    .role("panics", |scene: &Scene| match scene.batch.reserve(&RECORD, RECORD.payload_size(), &scene.published) {
        // What unwinding does.
        Ok(place) => {
            drop(place);
            "panicked"
        }
        Err(_) => "out",
    })
    .role("appender", Scene::append)
    .role("sealer", Scene::seal)
    .expect(
        |scene, results| {
            let said = scene.verdict(results);
            assert_eq!(said.contains("failed"), results.contains(&"panicked"));
            said
        },
        &["in out", "in panicked, failed", "out out", "out panicked, failed"],
    )
}

fn early_end_against_a_callback() -> Check {
    model(
        "batch_early_end_against_a_callback",
        "a batch that is ended while somebody copies: a callback is called once, or given back",
        Bound::Full,
        || std::sync::Arc::new(Scene::new(4)),
    )
    .keeps_retired()
    .role("appender", |scene: &std::sync::Arc<Scene>| {
        let Ok(mut place) = scene.batch.reserve(&RECORD, RECORD.payload_size(), &scene.later) else { return "out" };
        place.write(&RECORD);
        let called = std::sync::Arc::downgrade(scene);
        let callback = Box::new(move |_| *called.upgrade().expect("it lives").called.lock().unwrap() += 1);
        let kept = place.on_completion(7, callback).is_ok();
        place.commit();
        if kept { "kept" } else { "given back" }
    })
    .role("ends", |scene| {
        if scene.batch.seal() {
            scene.later.publish(NonNull::from(&scene.batch));
            return "finished";
        }
        // SAFETY: it is sealed and not finished by us, and nobody else ends it.
        unsafe { scene.batch.end_early(FinalState::Aborted, SendError::Aborted { reason: "on purpose" }) }
        "early"
    })
    .expect(
        |scene, results| {
            assert_eq!(*scene.later.0.lock().unwrap(), 1, "published once");
            // SAFETY: published, and nobody else is left. Its drop aborts what was not ended early.
            drop(unsafe { take(&scene.batch) });
            let called = *scene.called.lock().unwrap();
            assert_eq!(called, u32::from(results[0] == "kept"), "each kept callback once, no other");
            format!("{}, {}", results[0], results[1])
        },
        &["given back, early", "kept, early", "kept, finished", "out, finished"],
    )
}

fn weak_exchange_fails() -> Check {
    batch(
        "batch_weak_exchange_fails",
        "a place is reserved also where the exchange fails without a reason",
        Bound::Full,
        4,
    )
    .weak_exchange_may_fail()
    .role("one", |scene: &Scene| {
        unlatched::primitive::model::fail_one_weak_exchange();
        scene.append()
    })
    .role("two", Scene::append)
    .expect(
        |scene, results| {
            scene.seal();
            scene.verdict(results)
        },
        &["in in"],
    )
}
