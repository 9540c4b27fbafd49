//! The pool's word and line, their waiters preset where they need not run: turns, cancels, calls, overtaking, stripes that open. The shipping types.
//!
//! Totals of a few bytes, so that a granule is a byte.

use std::sync::Mutex;
use std::time::Duration;

use unlatched::pool::{AtomicPoolCore, BufferPool, Hand, Lease, PoolOptions, Stander};
use unlatched::primitive::clock::ManualClock;

use crate::runner::{Bound, Check, Model, model};

pub(crate) fn models() -> Vec<Check> {
    vec![
        two_releases_for_one(),
        two_releases_two_waiters(),
        release_against_cancel_at_the_front(),
        release_against_cancel_of_the_second(),
        release_against_cancel_of_the_first(),
        two_give_up(),
        look_against_cancel(),
        rests_against_arrival(),
        stripe_opens_against_arrival(),
        one_is_overtaken_so_often(),
        overtaking_that_fails_is_not_counted(),
        overtaking_against_the_end_of_a_turn(),
        overtaking_against_release(),
        called_says_woken(),
        called_against_look(),
        called_for_the_second(),
        called_says_woken_since_the_look(),
        called_by_a_late_note(),
        called_against_cancel_in_the_middle(),
        cancel_in_the_middle_against_grant(),
        look_against_grant(),
        turn_dropped_against_release(),
    ]
}

/// A word, a line, and who stands there.
pub(super) struct Scene {
    pub(super) held: Mutex<Vec<Lease<AtomicPoolCore>>>,
    pub(super) line: Mutex<Vec<Stander>>,
    first: Option<Stander>,
    second: Option<Stander>,
    pub(super) hand: Hand,
}

impl Scene {
    fn first(&self) -> &Stander {
        self.first.as_ref().expect("somebody stands there")
    }

    fn second(&self) -> &Stander {
        self.second.as_ref().expect("two stand there")
    }

    /// Joins, besides who stands there at first.
    pub(super) fn join(&self, need: u64) {
        let stander = self.hand.join(need);
        self.line.lock().unwrap().push(stander);
    }

    /// Where each wait has come to, and how many bytes are in the word. Nothing stays behind.
    fn came_to(&self) -> String {
        let line = std::mem::take(&mut *self.line.lock().unwrap());
        let all = [&self.first, &self.second].into_iter().flatten().chain(&line);
        let waits: Vec<_> = all.map(|stander| format!("{stander:?}")).collect();
        let came_to = format!("{}, {} left", waits.join(" "), self.hand.in_word());
        self.held.lock().unwrap().clear();
        self.hand.give_all_back();
        came_to
    }

    /// POOL-I, and that nobody sleeps who could be served.
    fn assert_first_is_awake(&self) {
        let (_, called) = self.hand.says();
        let first = self.first();
        if self.hand.is_waiting(first) && (called || self.hand.in_word() > 0) {
            assert!(self.hand.was_woken(first), "the first in line sleeps on; called: {called}");
        }
    }
}

/// A pool of `total` bytes, all charged, whose buffers are of one byte, with waiters in line for `needs`.
pub(super) fn line(total: u64, needs: &'static [u64], overtaking: u32) -> impl Fn() -> Scene + Send + Sync + 'static {
    move || {
        let hand = Hand::new(total, usize::MAX, PoolOptions { overtaking, stripes: 1 }, ManualClock::at(0));
        hand.charge(total);
        let mut standers = needs.iter().map(|need| hand.join(*need));
        let (first, second, further) = (standers.next(), standers.next(), standers.collect());
        Scene { held: Mutex::default(), line: Mutex::new(further), first, second, hand }
    }
}

fn of<R: Send + 'static>(
    name: &str,
    law: &'static str,
    bound: Bound,
    scene: impl Fn() -> Scene + Send + Sync + 'static,
) -> Model<Scene, R> {
    model(name, law, bound, scene).keeps_retired()
}

fn two_releases_for_one() -> Check {
    of(
        "pool_two_releases_for_one",
        "small releases add up to a large grant, whoever finishes it",
        Bound::Preemptions(3),
        line(2, &[2], 0),
    )
    .role("one", |scene: &Scene| scene.hand.credit(1))
    .role("two", |scene| scene.hand.credit(1))
    .expect(|scene, _| scene.came_to(), &["Granted, 0 left"])
}

fn two_releases_two_waiters() -> Check {
    of(
        "pool_two_releases_two_waiters",
        "each release serves one of two, none is forgotten (GAP-03)",
        Bound::Preemptions(1),
        line(2, &[1, 1], 0),
    )
    .role("one", |scene: &Scene| scene.hand.credit(1))
    .role("two", |scene| scene.hand.credit(1))
    .expect(
        |scene, _| {
            let woken = [scene.first(), scene.second()].map(|stander| scene.hand.was_woken(stander));
            format!("woken {woken:?}, {}", scene.came_to())
        },
        &["woken [true, true], Granted Granted, 0 left"],
    )
}

/// In line for 2 bytes and 1; a release of 1 finds the first too large, which gives up meanwhile.
fn release_against_cancel_at_the_front() -> Check {
    of(
        "pool_release_against_cancel_at_the_front",
        "who releases and who gives up: one of them serves the one behind (L3)",
        Bound::Preemptions(2),
        line(2, &[2, 1], 0),
    )
    .role("release", |scene: &Scene| scene.hand.credit(1))
    .role("gives up", |scene| assert!(scene.hand.give_up(scene.first()), "there is never enough for it"))
    .expect(|scene, _| scene.came_to(), &["Cancelled Granted, 0 left"])
}

fn release_against_cancel_of_the_second() -> Check {
    of(
        "pool_release_against_cancel_of_the_second",
        "who gives up behind the first is granted before or skipped, and nothing of it is lost",
        Bound::Preemptions(1),
        line(2, &[1, 1], 0),
    )
    .role("release", |scene: &Scene| scene.hand.credit(2))
    .role("gives up", |scene| _ = scene.hand.give_up(scene.second()))
    .expect(|scene, _| scene.came_to(), &["Granted Cancelled, 1 left", "Granted Granted, 0 left"])
}

fn release_against_cancel_of_the_first() -> Check {
    of(
        "pool_release_against_cancel_of_the_first",
        "of grant and cancel one stands, and the bytes go to just one",
        Bound::Preemptions(1),
        line(1, &[1, 1], 0),
    )
    .role("release", |scene: &Scene| scene.hand.credit(1))
    .role("gives up", |scene| _ = scene.hand.give_up(scene.first()))
    .expect(|scene, _| scene.came_to(), &["Cancelled Granted, 0 left", "Granted Waiting, 0 left"])
}

fn two_give_up() -> Check {
    of("pool_two_give_up", "two join the line at once, and leave it", Bound::Preemptions(1), line(1, &[], 0))
        .role("one", |scene: &Scene| assert!(scene.hand.give_up(&scene.hand.join(1)), "all is charged"))
        .role("two", |scene| assert!(scene.hand.give_up(&scene.hand.join(1)), "all is charged"))
        .expect(
            |scene, _| {
                assert_eq!((scene.hand.says().0, scene.hand.pool().queued()), (false, 0), "nobody stands there");
                scene.came_to()
            },
            &[", 0 left"],
        )
}

/// With overtaking, the bytes are left to the first in line, who was woken; it looks, or its time is up.
fn look_against_cancel() -> Check {
    of(
        "pool_look_against_cancel_of_the_first",
        "who is behind finds the bytes that the first was woken for and did not take",
        Bound::Preemptions(2),
        || {
            let scene = line(1, &[1, 1], 9)();
            scene.hand.credit(1);
            scene
        },
    )
    .role("looks", |scene: &Scene| {
        scene.hand.was_woken(scene.second());
        scene.hand.look(scene.second());
    })
    .role("gives up", |scene| _ = scene.hand.give_up(scene.first()))
    .expect(
        |scene, _| {
            let second = scene.second();
            assert!(!scene.hand.is_waiting(second) || scene.hand.was_woken(second), "the second sleeps on");
            scene.came_to()
        },
        // Woken, and not run yet.
        &["Cancelled Granted, 0 left", "Cancelled Waiting, 1 left"],
    )
}

fn rests_against_arrival() -> Check {
    of(
        "pool_rests_against_arrival",
        "the word says that somebody waits, if somebody does",
        Bound::Preemptions(3),
        line(1, &[1], 0),
    )
    .role("gives up", |scene: &Scene| assert!(scene.hand.give_up(scene.first()), "all is charged"))
    .role("arrives", |scene| scene.join(1))
    .expect(
        |scene, _| {
            assert!(scene.hand.says().0, "it stands there, and the word does not say so");
            scene.came_to()
        },
        &["Cancelled Waiting, 0 left"],
    )
}

/// One has waited and given up: the stripe is shut, the word says that nobody waits, a lease comes back.
pub(super) fn shut_and_nobody_waits(stripes: usize, overtaking: u32) -> Scene {
    let hand = Hand::new(1, 1, PoolOptions { overtaking, stripes }, ManualClock::at(0));
    let lease = hand.pool().allocate(1, Duration::ZERO).expect("there is enough");
    assert!(hand.give_up(&hand.join(1)));
    assert_eq!((hand.is_shut(), hand.says().0), (true, false));
    Scene { held: Mutex::new(vec![lease]), line: Mutex::default(), first: None, second: None, hand }
}

fn stripe_opens_against_arrival() -> Check {
    of(
        "pool_stripe_opens_against_arrival",
        "once one has arrived every stripe is shut, and what came back is its own (POOL-H)",
        Bound::Preemptions(3),
        || shut_and_nobody_waits(1, 0),
    )
    .role("release", |scene: &Scene| drop(scene.held.lock().unwrap().pop()))
    .role("arrives", |scene| scene.join(1))
    .expect(
        |scene, _| {
            assert!(scene.hand.is_shut(), "a stripe was opened after somebody had arrived");
            scene.came_to()
        },
        &["Granted, 0 left"],
    )
}

/// Two come while one waits that may be passed once.
fn one_is_overtaken_so_often() -> Check {
    of(
        "pool_overtaken_so_often",
        "the first in line is passed as often as is allowed, and then granted what comes",
        Bound::Preemptions(3),
        || {
            let scene = line(3, &[3], 1)();
            scene.hand.credit(2);
            scene
        },
    )
    .role("one", |scene: &Scene| scene.hand.overtake(1))
    .role("two", |scene| scene.hand.overtake(1))
    .expect(
        |scene, passed| {
            let passed = passed.iter().filter(|passed| **passed).count();
            assert_eq!(scene.hand.passes(scene.first()), 1);
            // Its turn: no word to it, no wait for it to run.
            scene.hand.credit(2);
            format!("{passed} passed, {}", scene.came_to())
        },
        &["1 passed, Granted, 0 left"],
    )
}

/// Two may pass, and there is enough for one.
fn overtaking_that_fails_is_not_counted() -> Check {
    of("pool_overtaking_that_fails", "who did not pass is not counted", Bound::Preemptions(3), || {
        let scene = line(3, &[3], 2)();
        scene.hand.credit(1);
        scene
    })
    .role("one", |scene: &Scene| scene.hand.overtake(1))
    .role("two", |scene| scene.hand.overtake(1))
    .expect(
        |scene, passed| {
            let passed = passed.iter().filter(|passed| **passed).count();
            format!("{passed} passed, {} counted, {}", scene.hand.passes(scene.first()), scene.came_to())
        },
        &["1 passed, 1 counted, Waiting, 0 left"],
    )
}

/// The first, that may be passed, has its turn; the second, that may not, is the first then.
fn overtaking_against_the_end_of_a_turn() -> Check {
    of(
        "pool_overtaking_against_the_end_of_a_turn",
        "who is counted as having passed one has passed that one",
        Bound::Preemptions(3),
        || {
            let scene = line(4, &[2, 4], 1)();
            scene.hand.count_pass(scene.second());
            scene.hand.credit(2);
            scene
        },
    )
    .role("first", |scene: &Scene| {
        let at_once = scene.hand.look(scene.first());
        scene.hand.credit(1);
        at_once
    })
    .role("comes", |scene| scene.hand.overtake(1))
    .expect(
        |scene, said| format!("served at once: {}, passed: {}, {}", said[0], said[1], scene.came_to()),
        &[
            "served at once: false, passed: true, Granted Waiting, 0 left",
            "served at once: true, passed: false, Granted Waiting, 1 left",
        ],
    )
}

/// What is granted is nobody else's: one byte for one who may not be passed any more.
fn overtaking_against_release() -> Check {
    of(
        "pool_overtaking_against_release",
        "bytes are taken past the first in line, or granted to it (POOL-B)",
        Bound::Preemptions(3),
        || {
            let scene = line(3, &[2], 1)();
            scene.hand.credit(1);
            scene
        },
    )
    .role("release", |scene: &Scene| {
        scene.hand.credit(1);
        false
    })
    .role("comes", |scene| scene.hand.overtake(1))
    .expect(
        |scene, said| format!("passed: {}, {}", said[1], scene.came_to()),
        &["passed: false, Granted, 0 left", "passed: true, Waiting, 1 left"],
    )
}

/// The first in line does not run. One brings a byte, another takes it past it and brings it back.
fn called_says_woken() -> Check {
    of(
        "pool_called_says_woken",
        "who leaves it at CALLED leaves one who was woken (POOL-I)",
        Bound::Preemptions(3),
        line(1, &[1], 9),
    )
    .role("release", |scene: &Scene| {
        scene.hand.credit(1);
        false
    })
    .role("comes", |scene| {
        let passed = scene.hand.overtake(1);
        if passed {
            scene.hand.credit(1);
            // Whoever else is stopped now: it is not to be waited for.
            scene.assert_first_is_awake();
        }
        passed
    })
    .expect(
        |scene, passed| {
            if !passed[1] {
                scene.assert_first_is_awake();
            }
            format!("passed: {}, {}", passed[1], scene.came_to())
        },
        &["passed: false, Waiting, 1 left", "passed: true, Waiting, 1 left"],
    )
}

/// The first in line runs and sleeps.
fn called_against_look() -> Check {
    of(
        "pool_called_against_look",
        "a release that calls nobody, since somebody was called, is found by the look of that one",
        Bound::Preemptions(2),
        line(1, &[1], 9),
    )
    .role("waits", |scene: &Scene| {
        scene.hand.wait(scene.first());
        false
    })
    .role("releases", |scene| {
        scene.hand.credit(1);
        let passed = scene.hand.overtake(1);
        if passed {
            scene.hand.credit(1);
        }
        passed
    })
    .expect(
        |scene, said| format!("passed: {}, {}", said[1], scene.came_to()),
        &["passed: false, Granted, 0 left", "passed: true, Granted, 0 left"],
    )
}

/// Both were woken for two bytes, which others took past them; they have looked, and sleep.
fn called_for_the_second() -> Check {
    of(
        "pool_called_for_the_second",
        "who was called for less than there is, is not all who is to be called",
        Bound::Preemptions(2),
        || {
            let scene = line(2, &[1, 1], 9)();
            scene.hand.credit(2);
            assert!(scene.hand.overtake(1) && scene.hand.overtake(1));
            assert!(!scene.hand.look(scene.first()) && !scene.hand.look(scene.second()));
            assert!(scene.hand.was_woken(scene.first()) && scene.hand.was_woken(scene.second()));
            scene
        },
    )
    .role("one", |scene: &Scene| scene.hand.credit(1))
    .role("two", |scene| scene.hand.credit(1))
    .expect(
        |scene, _| {
            let woken = [scene.first(), scene.second()].map(|stander| scene.hand.was_woken(stander));
            format!("{woken:?}, {}", scene.came_to())
        },
        &["[true, true], Waiting Waiting, 2 left"],
    )
}

/// Who wakes the first is stopped before it says CALLED; another takes the byte, the first looks and sleeps, the byte is back.
fn called_says_woken_since_the_look() -> Check {
    of(
        "pool_called_says_woken_since_the_look",
        "a look takes back that who looks was called (POOL-I)",
        Bound::Preemptions(3),
        line(1, &[1], 9),
    )
    .role("one", |scene: &Scene| {
        scene.hand.credit(1);
        if scene.hand.overtake(1) {
            scene.hand.credit(1);
        }
    })
    .role("other", |scene| {
        if scene.hand.overtake(1) {
            // As the first in line when it runs.
            scene.hand.was_woken(scene.first());
            scene.hand.look(scene.first());
            scene.hand.credit(1);
        }
    })
    .expect(
        |scene, _| {
            scene.assert_first_is_awake();
            scene.came_to()
        },
        &["Waiting, 1 left"],
    )
}

/// One who has woken both is stopped before he notes it; others take both bytes, both in line look and sleep, the bytes come back one by one.
fn called_by_a_late_note() -> Check {
    of(
        "pool_called_by_a_late_note",
        "a note that is of another line says nothing of this one (GAP-03, POOL-I)",
        Bound::Preemptions(2),
        line(2, &[1, 1], 9),
    )
    .role("late", |scene: &Scene| {
        scene.hand.credit(2);
        false
    })
    .role("others", |scene| {
        if !scene.hand.overtake(1) {
            return false;
        }
        assert!(scene.hand.overtake(1), "two came at once");
        for stander in [scene.first(), scene.second()] {
            scene.hand.was_woken(stander);
            assert!(!scene.hand.look(stander), "nothing is there");
        }
        scene.hand.credit(1);
        scene.hand.credit(1);
        // Whoever else is stopped now.
        assert!(scene.hand.was_woken(scene.second()), "there is enough for both");
        true
    })
    .expect(
        |scene, passed| {
            assert!(scene.hand.was_woken(scene.first()), "there is enough");
            format!("passed: {}, {}", passed[1], scene.came_to())
        },
        &["passed: false, Waiting Waiting, 2 left", "passed: true, Waiting Waiting, 2 left"],
    )
}

/// Two of three were woken for two bytes, which others took past them; none has run. The second gives up, the bytes come back: they suffice for the third.
fn called_against_cancel_in_the_middle() -> Check {
    of(
        "pool_called_against_cancel_in_the_middle",
        "what is called for one who gives up is called for the one behind him (GAP-03)",
        Bound::Preemptions(2),
        || {
            let scene = line(2, &[1, 1, 1], 9)();
            scene.hand.credit(2);
            assert!(scene.hand.overtake(1) && scene.hand.overtake(1));
            scene
        },
    )
    .role("release", |scene: &Scene| scene.hand.credit(2))
    .role("gives up", |scene| assert!(scene.hand.give_up(scene.second()), "nobody is granted anything"))
    .expect(
        |scene, _| {
            let third = scene.hand.was_woken(&scene.line.lock().unwrap()[0]);
            format!("woken: {third}, {}", scene.came_to())
        },
        &["woken: true, Waiting Cancelled Waiting, 2 left"],
    )
}

/// Three in line for a byte each. Two bytes come back, and who stands between two others gives up.
fn cancel_in_the_middle_against_grant() -> Check {
    of(
        "pool_cancel_in_the_middle_against_grant",
        "who gives up between two others takes nothing along and hides nobody (L3)",
        Bound::Preemptions(1),
        line(3, &[1, 1, 1], 0),
    )
    .role("release", |scene: &Scene| scene.hand.credit(2))
    .role("gives up", |scene| _ = scene.hand.give_up(scene.second()))
    .expect(
        |scene, _| {
            let third = scene.hand.was_woken(&scene.line.lock().unwrap()[0]);
            format!("woken: {third}, {}", scene.came_to())
        },
        &["woken: false, Granted Granted Waiting, 0 left", "woken: true, Granted Cancelled Granted, 0 left"],
    )
}

/// The first in line runs while another grants it its byte; what it has it gives back.
fn look_against_grant() -> Check {
    of(
        "pool_look_against_grant",
        "who finds itself granted is charged before it has anything",
        Bound::Preemptions(3),
        line(1, &[1], 0),
    )
    .role("release", |scene: &Scene| {
        scene.hand.credit(1);
        false
    })
    .role("looks", |scene| {
        let served = scene.hand.look(scene.first());
        if served {
            scene.hand.credit(1);
        }
        served
    })
    .expect(
        |scene, served| format!("served at once: {}, {}", served[1], scene.came_to()),
        &["served at once: false, Granted, 0 left", "served at once: true, Granted, 1 left"],
    )
}

/// A task drops its future while it waits, or is granted what it waits for and does not know.
fn turn_dropped_against_release() -> Check {
    of(
        "pool_turn_dropped_against_release",
        "what a place in line was granted goes to the next, when it is dropped",
        Bound::Preemptions(1),
        line(1, &[1, 1], 0),
    )
    .role("release", |scene: &Scene| scene.hand.credit(1))
    .role("drops", |scene| scene.hand.drop_turn(scene.first()))
    .expect(
        |scene, _| {
            assert!(scene.hand.was_woken(scene.second()), "POOL-D");
            scene.came_to()
        },
        &["Cancelled Granted, 0 left", "Granted Granted, 0 left"],
    )
}
