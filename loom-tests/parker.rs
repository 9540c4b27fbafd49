//! The parkers: the one that models use, and the shipping one, word, mutex and condition variable.

use std::time::Duration;

use unlatched::primitive::atomic::AtomicU32;
use unlatched::primitive::atomic::Ordering::Relaxed;
use unlatched::primitive::cell::UnsafeCell;
use unlatched::primitive::model::let_time_run_out;
use unlatched::primitive::parker::{Parker, ThreadParker, WordParker};

use crate::runner::{Bound, Check, model};

const A_WHILE: Duration = Duration::from_millis(1);

pub(crate) fn models() -> Vec<Check> {
    vec![
        token_is_not_lost::<ThreadParker>("parker_model_token_is_not_lost"),
        token_is_not_lost::<WordParker>("parker_word_token_is_not_lost"),
        timeout_against_unpark::<ThreadParker>("parker_model_timeout_against_unpark"),
        timeout_against_unpark::<WordParker>("parker_word_timeout_against_unpark"),
        hand_over_there_and_back::<ThreadParker>("parker_model_hand_over_there_and_back"),
        hand_over_there_and_back::<WordParker>("parker_word_hand_over_there_and_back"),
        nobody_unparks(),
        written_after_unpark(),
    ]
}

struct Post<P> {
    data: UnsafeCell<u32>,
    parker: P,
    back: P,
    turns: AtomicU32,
}

// SAFETY: `data` is written before `unpark` and read after the `park` that took that token; the checker checks just that.
unsafe impl<P: Parker> Sync for Post<P> {}

impl<P: Parker> Post<P> {
    fn new() -> Self {
        Self { data: UnsafeCell::new(0), parker: P::new(), back: P::new(), turns: AtomicU32::new(0) }
    }

    fn write(&self, value: u32) {
        // SAFETY: the reader waits for a token that is given after this.
        self.data.with_mut(|data| unsafe { *data = value });
    }

    fn read(&self) -> u32 {
        // SAFETY: the token taken before was given after the write.
        self.data.with(|data| unsafe { *data })
    }
}

fn token_is_not_lost<P: Parker>(name: &str) -> Check {
    model(name, "a token given is taken, and what was written before it is seen", Bound::Full, Post::<P>::new)
        .role("sleeper", |post: &Post<P>| {
            post.parker.park();
            post.read()
        })
        .role("waker", |post| {
            post.write(42);
            post.parker.unpark();
            0
        })
        .expect(|_, results| results[0].to_string(), &["42"])
}

/// The sleeper takes the token, or it times out and the token is there for the next.
fn timeout_against_unpark<P: Parker>(name: &str) -> Check {
    model(name, "a token is taken or still there, whenever time runs out", Bound::Full, Post::<P>::new)
        .timeouts_by_lot()
        .role("sleeper", |post: &Post<P>| {
            if post.parker.park_timeout(A_WHILE) {
                return format!("taken, {}", post.read());
            }
            post.parker.park();
            format!("timed out, then taken, {}", post.read())
        })
        .role("waker", |post| {
            post.write(42);
            post.parker.unpark();
            String::new()
        })
        .role("time", |_| {
            let_time_run_out();
            String::new()
        })
        .expect(|_, results| results[0].clone(), &["taken, 42", "timed out, then taken, 42"])
}

fn hand_over_there_and_back<P: Parker>(name: &str) -> Check {
    model(name, "tokens go there and back, and each is taken once", Bound::Full, Post::<P>::new)
        .role("there", |post: &Post<P>| {
            post.write(1);
            post.parker.unpark();
            post.back.park();
            let answer = post.read();
            post.write(answer + 1);
            post.parker.unpark();
            post.turns.fetch_add(1, Relaxed);
        })
        .role("back", |post| {
            post.parker.park();
            let question = post.read();
            post.write(question + 1);
            post.back.unpark();
            post.parker.park();
            post.turns.fetch_add(post.read(), Relaxed);
        })
        .expect(|post, _| format!("{} turns", post.turns.load(Relaxed)), &["4 turns"])
}

fn nobody_unparks() -> Check {
    model("parker_model_lost_wake_up_is_seen", "who sleeps for a lost token sleeps for ever", Bound::Full, || {
        (ThreadParker::new(), AtomicU32::new(0))
    })
    .role("sleeper", |(parker, asleep): &(ThreadParker, AtomicU32)| {
        asleep.store(1, Relaxed);
        parker.park_timeout(A_WHILE);
    })
    .role("waker", |(parker, asleep)| {
        // The bug: whoever is not seen asleep is not woken.
        if asleep.load(Relaxed) == 1 {
            parker.unpark();
        }
    })
    .expect_failure("deadlock")
}

fn written_after_unpark() -> Check {
    model(
        "parker_model_token_carries_nothing_written_later",
        "what is written after unpark is not ordered",
        Bound::Full,
        Post::<ThreadParker>::new,
    )
    .weak_memory()
    .role("sleeper", |post: &Post<ThreadParker>| {
        post.parker.park();
        post.read()
    })
    .role("waker", |post| {
        post.parker.unpark();
        post.write(42);
        0
    })
    .expect_failure("Causality violation")
}
