//! The idioms that every protocol here is made of, and the checker's own traps.

use unlatched::primitive::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};
use unlatched::primitive::atomic::{AtomicU32, fence};
use unlatched::primitive::cell::UnsafeCell;
use unlatched::primitive::model::fail_one_weak_exchange;

use crate::runner::{Bound, Check, Model, model};

pub(crate) fn models() -> Vec<Check> {
    vec![
        message_passing("litmus_message_passing", Release, Acquire)
            .expect(|_, results| format!("{:?}", results[1]), &["None", "Some(42)"]),
        message_passing("litmus_relaxed_store_publishes_nothing", Relaxed, Acquire)
            .weak_memory()
            .expect_failure("Causality violation"),
        message_passing("litmus_relaxed_load_receives_nothing", Release, Relaxed)
            .weak_memory()
            .expect_failure("Causality violation"),
        store_buffering("litmus_store_buffering_with_fences", true)
            .expect(|_, seen| format!("{seen:?}"), &["[0, 1]", "[1, 0]", "[1, 1]"]),
        store_buffering("litmus_store_buffering_without_fences", false)
            .weak_memory()
            .expect(|_, seen| format!("{seen:?}"), &["[0, 0]", "[0, 1]", "[1, 0]", "[1, 1]"]),
        spawn_orders(),
        weak_exchange_once(),
        weak_exchange_loop(),
    ]
}

struct Message {
    data: UnsafeCell<u32>,
    ready: AtomicU32,
}

// SAFETY: `data` is written before `ready` is set and read after `ready` was seen; the checker checks just that.
unsafe impl Sync for Message {}

fn message_passing(name: &str, store: Ordering, load: Ordering) -> Model<Message, Option<u32>> {
    let shared = || Message { data: UnsafeCell::new(0), ready: AtomicU32::new(0) };
    model(
        name,
        "what is written before a release store is seen after the acquire load that reads it",
        Bound::Full,
        shared,
    )
    .role("writer", move |message: &Message| {
        // SAFETY: nobody reads before `ready` is set.
        message.data.with_mut(|data| unsafe { *data = 42 });
        message.ready.store(1, store);
        None
    })
    .role("reader", move |message| {
        // SAFETY: `ready` was set after the only write.
        (message.ready.load(load) == 1).then(|| message.data.with(|data| unsafe { *data }))
    })
}

fn store_buffering(name: &str, fenced: bool) -> Model<[AtomicU32; 2], u32> {
    let side = move |mine: usize| {
        move |words: &[AtomicU32; 2]| {
            words[mine].store(1, Relaxed);
            if fenced {
                fence(SeqCst);
            }
            words[1 - mine].load(Relaxed)
        }
    };
    let shared = || [AtomicU32::new(0), AtomicU32::new(0)];
    model(
        name,
        "of two threads that store, fence and load the other's word, one sees the other's store",
        Bound::Full,
        shared,
    )
    .role("left", side(0))
    .role("right", side(1))
}

/// Loom 0.7.2 finds one of these outcomes in one spawn order only: with the reader spawned first it sees 0 alone.
fn spawn_orders() -> Check {
    model(
        "runner_every_spawn_order_is_visited",
        "a load against a load and compare-exchange reads both values",
        Bound::Full,
        || AtomicU32::new(0),
    )
    .role("reader", |word: &AtomicU32| word.load(Relaxed))
    .role("exchanger", |word| {
        let seen = word.load(Relaxed);
        word.compare_exchange(seen, 1, Relaxed, Relaxed).unwrap_or_else(|found| found)
    })
    .expect(|_, results| results[0].to_string(), &["0", "1"])
}

fn weak_exchange_once() -> Check {
    model(
        "runner_weak_exchange_fails_without_reason",
        "a weak compare-exchange that nobody races can fail",
        Bound::Full,
        || AtomicU32::new(0),
    )
    .weak_exchange_may_fail()
    .role("exchanger", |word: &AtomicU32| format!("{:?}", word.compare_exchange_weak(0, 1, Relaxed, Relaxed)))
    .role("chance", |_| {
        fail_one_weak_exchange();
        String::new()
    })
    .expect(
        |word, results| format!("{}, then {}", results[0], word.load(Relaxed)),
        &["Ok(0), then 1", "Err(0), then 0"],
    )
}

fn weak_exchange_loop() -> Check {
    let add = |word: &AtomicU32| {
        let (mut seen, mut tries) = (word.load(Relaxed), 1);
        while let Err(found) = word.compare_exchange_weak(seen, seen + 1, Relaxed, Relaxed) {
            (seen, tries) = (found, tries + 1);
        }
        tries
    };
    model("runner_weak_exchange_loop_retries", "a retry loop adds once, whatever fails", Bound::Full, || {
        AtomicU32::new(0)
    })
    .weak_exchange_may_fail()
    .role("left", add)
    .role("right", add)
    .role("chance", |_| {
        fail_one_weak_exchange();
        0
    })
    .expect(
        |word, tries| format!("{} after {} tries", word.load(Relaxed), tries[0] + tries[1]),
        &["2 after 2 tries", "2 after 3 tries", "2 after 4 tries"],
    )
}
