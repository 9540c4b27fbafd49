//! Lanes that an appender owns: its plain stores against who asks, takes, gives up and closes; order over a change of lane. The shipping type, whole, as in `accumulator`.
//!
//! Batches hold two records. An appender has earned a lane with its first record, fills up the batch in the shared tail, and opens its own lane with the next.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use unlatched::accumulator::{Accumulator, Appender, LockFreeAppender, SenderView};
use unlatched::batch::{Reply, SealedBatch};
use unlatched::error::SendError;
use unlatched::primitive::clock::Instant;
use unlatched::record::Record;

use super::accumulator::{Scene, named};
use crate::runner::{Bound, Check, Model, model};

pub(crate) fn models() -> Vec<Check> {
    vec![
        append_against_ask(),
        last_append_against_ask(),
        full_batches_against_asks(),
        append_against_flush(),
        full_batch_against_flush(),
        append_against_close(),
        opening_against_close(),
        birth_against_close(),
        retire_against_open(),
        shared_to_owned(),
        owned_to_shared(),
        drop_against_ask(),
        forced_close_against_append(),
        expiry_against_append(),
        abort_against_open(),
    ]
}

struct Owned {
    scene: Arc<Scene>,
    appender: Mutex<Option<LockFreeAppender>>,
}

impl Owned {
    /// An appender that has appended these.
    fn with(names: &[&str]) -> Arc<Self> {
        let scene = Scene::new();
        let appender = Mutex::new(Some(scene.accumulator.appender()));
        let owned = Arc::new(Self { scene, appender });
        names.iter().for_each(|name| assert_eq!(owned.append(name), "in"));
        owned
    }

    /// With a lane in which `c` is open, and nothing else queued.
    fn with_lane() -> Arc<Self> {
        let owned = Self::with(&["a", "b", "c"]);
        assert_eq!(owned.lanes(), 1);
        assert_eq!(owned.scene.complete(owned.scene.drain()), "a b|");
        owned
    }

    fn lanes(&self) -> usize {
        self.appender.lock().unwrap().as_ref().map_or(0, Appender::lanes)
    }

    fn append_with(&self, name: &str, reply: Reply) -> &'static str {
        self.append_value(&named(name), reply)
    }

    fn append_value(&self, value: &str, reply: Reply) -> &'static str {
        let record = Record { timestamp: 7, value: Some(value.as_bytes()), ..Record::default() };
        // Out of the mutex meanwhile: other roles look.
        let mut appender = self.appender.lock().unwrap().take().expect("one role has it");
        let appended = appender.append(&self.scene.lane, &record, reply, Duration::ZERO);
        *self.appender.lock().unwrap() = Some(appender);
        match appended {
            Ok(appended) => {
                self.scene.kept.lock().unwrap().extend(appended.future);
                "in"
            }
            Err(_) => "refused",
        }
    }

    fn append(&self, name: &str) -> &'static str {
        self.append_with(name, Reply::IGNORE)
    }

    fn drop_appender(&self) {
        let appender = self.appender.lock().unwrap().take();
        drop(appender);
    }

    /// One round of the sender: asks for what is due, which is all, drains, completes.
    fn pass(&self) -> String {
        self.scene.view(|view| view.ready(&self.scene.cluster, Instant::ZERO));
        self.scene.complete(self.scene.drain())
    }

    /// Rounds until nothing is queued, nobody else being about.
    fn rest(&self) -> String {
        let mut log = String::new();
        while self.scene.accumulator.has_undrained() {
            let before = log.len();
            // The timer of a lane that was asked a moment ago.
            let later = Instant::ZERO.saturating_add(Duration::from_millis(900));
            self.scene.view(|view| view.ready(&self.scene.cluster, later));
            log += &self.scene.complete(self.scene.drain());
            assert!(log.len() > before, "what is queued can be drained");
        }
        log
    }
}

fn owned(
    name: &str,
    law: &'static str,
    bound: usize,
    scene: impl Fn() -> Arc<Owned> + Send + Sync + 'static,
) -> Model<Arc<Owned>, String> {
    model(name, law, Bound::Preemptions(bound), scene).keeps_retired()
}

/// The appender's records of a log, in its order, and all that was accepted are there.
fn in_order(log: &str, names: &[&str]) {
    let places: Vec<_> = names.iter().map(|name| log.find(name).unwrap_or_else(|| panic!("{name} in {log}"))).collect();
    assert!(places.is_sorted(), "{names:?} in {log}");
}

/// Outcomes with few preemptions, which is what loom can afford here, and with any number, as shuttle has them.
fn by_checker(loom: &'static [&'static str], shuttle: &'static [&'static str]) -> &'static [&'static str] {
    if cfg!(crossbeam_loom) { loom } else { shuttle }
}

fn append_against_ask() -> Check {
    owned(
        "owned_append_against_ask",
        "what the sender asks for comes once and whole: taken, or handed over by the owner after the record that was under way",
        2,
        Owned::with_lane,
    )
    .role("owner", |owned: &Arc<Owned>| owned.append("d").into())
    .role("sender", |owned| owned.pass())
    .expect(
        |owned, results| {
            assert_eq!(results[0], "in");
            let log = format!("{}{}", results[1], owned.rest());
            in_order(&log, &["c", "d"]);
            owned.scene.whole();
            format!("{}: {log}", if results[1].is_empty() { "later" } else { "taken" })
        },
        // Where it was asked for as the owner announced d, that opens the next.
        &["later: c d|", "later: c|d|", "taken: c d|", "taken: c|d|"],
    )
}

fn last_append_against_ask() -> Check {
    owned(
        "owned_last_append_against_ask",
        "what was asked for comes though it is not full, its owner appends no more, and nobody asks again",
        2,
        Owned::with_lane,
    )
    // Short: it leaves room.
    .role("owner", |owned: &Arc<Owned>| owned.append_value("d", Reply::IGNORE).into())
    .role("sender", |owned| owned.pass())
    .expect(
        |owned, results| {
            assert_eq!(results[0], "in");
            // Without asking.
            let log = format!("{}{}", results[1], owned.scene.complete(owned.scene.drain()));
            assert!(log.contains('c'), "nobody has handed it over");
            let log = log + &owned.rest();
            in_order(&log, &["c", "d"]);
            owned.scene.whole();
            log
        },
        &["c d|", "c|d|"],
    )
}

fn full_batches_against_asks() -> Check {
    owned(
        "owned_full_batches_against_asks",
        "a batch that is sealed for being full, while it is asked for, is handed over once; the next one is not taken for it",
        1,
        Owned::with_lane,
    )
    .role("owner", |owned: &Arc<Owned>| format!("{} {} {}", owned.append("d"), owned.append("e"), owned.append("f")))
    .role("sender", |owned| owned.pass() + &owned.pass())
    .expect(
        |owned, results| {
            assert_eq!(results[0], "in in in");
            let log = format!("{}{}", results[1], owned.rest());
            in_order(&log, &["c", "d", "e", "f"]);
            owned.scene.whole();
            log
        },
        by_checker(
            &["c d|e f|", "c d|e|f|", "c|d e|f|"],
            // The sender comes in between twice.
            &["c d|e f|", "c d|e|f|", "c|d e|f|", "c|d|e f|"],
        ),
    )
}

/// Whether a flush ends at once; if so, the record whose future was kept is done.
fn flush(owned: &Arc<Owned>) -> String {
    owned.scene.accumulator.begin_flush();
    let flushed = owned.scene.accumulator.await_flush(Some(Duration::ZERO)).is_ok();
    let done = owned.scene.kept.lock().unwrap().pop().expect("a future").is_done();
    assert!(done || !flushed, "flushed, and not done");
    if flushed { "flushed" } else { "waits" }.into()
}

fn append_against_flush() -> Check {
    owned(
        "owned_append_against_flush",
        "a flush waits for what its appender has put into its lane",
        1,
        Owned::with_lane,
    )
    .role("owner", |owned: &Arc<Owned>| {
        assert_eq!(owned.append_with("d", Reply::FUTURE), "in");
        flush(owned)
    })
    .role("sender", |owned| owned.pass())
    .expect(
        |owned, results| {
            let log = format!("{}{}", results[1], owned.rest());
            in_order(&log, &["c", "d"]);
            owned.scene.whole();
            format!("{}: {log}", results[0])
        },
        &["flushed: c d|", "waits: c d|", "waits: c|d|"],
    )
}

fn full_batch_against_flush() -> Check {
    owned(
        "owned_full_batch_against_flush",
        "a flush waits for a batch that was opened, filled and handed over before it",
        1,
        with_idle_lane,
    )
    .role("owner", |owned: &Arc<Owned>| {
        assert_eq!([owned.append("e"), owned.append_with("f", Reply::FUTURE)], ["in"; 2]);
        flush(owned)
    })
    .role("sender", |owned| owned.pass())
    .expect(
        |owned, results| {
            let log = format!("{}{}", results[1], owned.rest());
            in_order(&log, &["e", "f"]);
            owned.scene.whole();
            format!("{}: {log}", results[0])
        },
        &["flushed: e f|", "waits: e f|", "waits: e|f|"],
    )
}

fn close_and_look(owned: &Arc<Owned>) -> String {
    owned.scene.accumulator.close();
    if owned.scene.accumulator.has_undrained() { "seen" } else { "nothing" }.into()
}

fn append_against_close() -> Check {
    owned(
        "owned_append_against_close",
        "what an owner's append accepts is seen by a look after the close; nothing is opened after it (ACC-48)",
        2,
        Owned::with_lane,
    )
    .role("owner", |owned: &Arc<Owned>| format!("{} {}", owned.append("d"), owned.append("e")))
    .role("closer", close_and_look)
    .expect(
        |owned, results| {
            let log = owned.rest();
            owned.scene.whole();
            assert_eq!(results[0].matches("in").count() + 1, log.matches(char::is_alphabetic).count());
            format!("{}, {}: {log}", results[0], results[1])
        },
        &["in in, seen: c d|e|", "in refused, seen: c d|", "refused refused, seen: c|"],
    )
}

fn opening_against_close() -> Check {
    owned(
        "owned_opening_against_close",
        "a batch that was entered before the close and not opened is refused, or seen by a look after the close (ACC-48)",
        2,
        with_idle_lane,
    )
    .role("owner", |owned: &Arc<Owned>| owned.append("e").into())
    .role("closer", close_and_look)
    .expect(
        |owned, results| {
            let log = owned.rest();
            owned.scene.whole();
            format!("{}, {}: {log}", results[0], results[1])
        },
        &["in, seen: e|", "refused, nothing: "],
    )
}

fn birth_against_close() -> Check {
    owned("owned_birth_against_close", "also where the lane is born during the close", 1, || Owned::with(&["a", "b"]))
        .role("owner", |owned: &Arc<Owned>| format!("{} {}", owned.append("c"), owned.append("d")))
        .role("closer", close_and_look)
        .expect(
            |owned, results| {
                let log = owned.rest();
                owned.scene.whole();
                format!("{}, {}: {log}", results[0], results[1])
            },
            &["in in, seen: a b|c d|", "in refused, seen: a b|c|", "refused refused, seen: a b|"],
        )
}

/// With a lane that has nothing open, of which the sender has seen as much once.
fn with_idle_lane() -> Arc<Owned> {
    let owned = Owned::with_lane();
    assert_eq!(owned.append("d"), "in");
    assert_eq!(owned.pass(), "c d|");
    owned
}

fn retire_against_open() -> Check {
    owned(
        "owned_retire_against_open",
        "a lane is given up, or a batch is opened in it: not both, and no record is lost",
        2,
        with_idle_lane,
    )
    .role("owner", |owned: &Arc<Owned>| owned.append("e").into())
    .role("sender", |owned| {
        let later = Instant::ZERO.saturating_add(Duration::from_millis(20));
        owned.scene.view(|view| view.ready(&owned.scene.cluster, later));
        owned.scene.complete(owned.scene.drain())
    })
    .expect(
        |owned, results| {
            assert_eq!(results[0], "in");
            let log = format!("{}{}", results[1], owned.rest());
            owned.scene.whole();
            format!("{}: {log}", if owned.lanes() == 1 { "kept" } else { "given up" })
        },
        &["given up: e|", "kept: e|"],
    )
}

fn shared_to_owned() -> Check {
    owned(
        "owned_after_shared",
        "the first batch of a lane stands behind the shared batch that its owner has appended to, though somebody else still copies into that one",
        1,
        || Owned::with(&["a"]),
    )
    .role("other", |owned: &Arc<Owned>| owned.scene.append("z").into())
    // The sender's part is its own: what matters is where the other one is stopped.
    .role("owner", |owned| {
        assert_eq!([owned.append("b"), owned.append("c")], ["in"; 2]);
        owned.pass()
    })
    .expect(
        |owned, results| {
            let log = format!("{}{}", results[1], owned.rest());
            in_order(&log, &["a", "b", "c"]);
            assert!(log.contains('z'));
            owned.scene.whole();
            log
        },
        &["a b|c|z|", "a b|z c|", "a z|b c|"],
    )
}

fn owned_to_shared() -> Check {
    owned(
        "owned_before_shared",
        "an owner goes back to the shared lane behind all that was in its own, though that waits behind a batch which somebody still copies into",
        1,
        || Owned::with(&["a"]),
    )
    .role("other", |owned: &Arc<Owned>| owned.scene.append("z").into())
    .role("owner", |owned| {
        assert_eq!([owned.append("b"), owned.append("c")], ["in"; 2]);
        let mut log = String::new();
        // Looks at a lane that has nothing open, so that it may be given up.
        for milliseconds in [20, 40] {
            let later = Instant::ZERO.saturating_add(Duration::from_millis(milliseconds));
            owned.scene.view(|view| view.ready(&owned.scene.cluster, later));
            log += &owned.scene.complete(owned.scene.drain());
        }
        assert_eq!([owned.append("d"), owned.append("e")], ["in"; 2]);
        log
    })
    .expect(
        |owned, results| {
            let log = format!("{}{}", results[1], owned.rest());
            in_order(&log, &["a", "b", "c", "d", "e"]);
            assert!(log.contains('z'));
            owned.scene.whole();
            log
        },
        &["a b|c|d e|z|", "a b|c|d z|e|", "a b|c|z d|e|", "a b|z c|d e|", "a z|b c|d e|"],
    )
}

fn drop_against_ask() -> Check {
    owned(
        "owned_drop_against_ask",
        "what a dropped appender has open is handed over once, with all that is in it",
        2,
        Owned::with_lane,
    )
    .role("owner", |owned: &Arc<Owned>| {
        let appended = owned.append("d");
        owned.drop_appender();
        appended.into()
    })
    .role("sender", |owned| owned.pass())
    .expect(
        |owned, results| {
            let log = format!("{}{}", results[1], owned.rest());
            in_order(&log, &["c", "d"]);
            owned.scene.whole();
            log
        },
        &["c d|", "c|d|"],
    )
}

fn forced_close_against_append() -> Check {
    owned(
        "owned_forced_close_against_append",
        "every record that an owner's append accepts has ended, once, when both are over; memory comes back",
        1,
        Owned::with_lane,
    )
    .role("owner", |owned: &Arc<Owned>| {
        let called = Arc::downgrade(&owned.scene);
        let reply = Reply::callback(move |_| called.upgrade().expect("it lives").called.lock().unwrap().push("d"));
        owned.append_with("d", reply).into()
    })
    .role("sender", |owned| {
        owned.scene.accumulator.close();
        owned.scene.view(|view| view.abort_incomplete(&SendError::Aborted { reason: "on purpose" }));
        String::new()
    })
    .expect(
        |owned, results| {
            assert_eq!(owned.scene.called.lock().unwrap().len(), usize::from(results[0] == "in"));
            owned.scene.whole();
            results[0].clone()
        },
        &["in", "refused"],
    )
}

fn expiry_against_append() -> Check {
    owned(
        "owned_expiry_against_append",
        "a batch whose time is up ends although its owner copies into it, and takes no more after that (L7)",
        1,
        Owned::with_lane,
    )
    .role("owner", |owned: &Arc<Owned>| owned.append_with("d", Reply::FUTURE).into())
    .role("sender", |owned| {
        let late = Instant::ZERO.saturating_add(Duration::from_secs(1));
        let expired = owned.scene.view(|view| view.expired(late));
        let records: u32 = expired.iter().map(SealedBatch::record_count).sum();
        for batch in expired {
            assert_eq!(batch.completion().fail(SendError::Aborted { reason: "late" }, None), Ok(true));
            owned.scene.view(|view| view.deallocate(batch)).expect("in the books");
        }
        format!("{records} taken")
    })
    .expect(
        |owned, results| {
            let future = owned.scene.kept.lock().unwrap().pop().expect("it was accepted");
            let ended = future.is_done();
            let log = owned.pass() + &owned.rest();
            assert!(future.is_done(), "it ends in the end");
            owned.scene.whole();
            format!("{} {}, {}: {log}", results[0], results[1], if ended { "ended" } else { "goes on" })
        },
        &[
            "in 0 taken, ended: ",
            // Asked for in the moment at which the owner had announced d and not looked yet.
            "in 0 taken, goes on: d|",
            "in 1 taken, goes on: d|",
            "in 2 taken, ended: ",
        ],
    )
}

fn abort_against_open() -> Check {
    owned("owned_abort_against_open", "an abort ends what is open, or leaves it whole; memory comes back", 1, || {
        let owned = Owned::with_lane();
        assert_eq!(owned.append("d"), "in");
        owned
    })
    .role("owner", |owned: &Arc<Owned>| owned.append_with("e", Reply::FUTURE).into())
    .role("sender", |owned| {
        owned.scene.view(|view| view.abort_all(&SendError::Aborted { reason: "on purpose" }));
        String::new()
    })
    .expect(
        |owned, results| {
            let future = owned.scene.kept.lock().unwrap().pop().expect("it was accepted");
            // Of a batch that was ended early, the content comes now.
            let log = owned.pass() + &owned.rest();
            assert!(future.is_done(), "it ends in the end");
            owned.scene.whole();
            format!("{}: {log}", results[0])
        },
        &["in: ", "in: e|"],
    )
}
