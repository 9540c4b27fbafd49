//! What the pool is made of, piece by piece: stacks of slots, and a task's waker. The shipping types.

use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Duration;

use unlatched::pool::{ChainInHand, HandOnWaker, InHand, Stacks};
use unlatched::primitive::atomic::AtomicBool;
use unlatched::primitive::atomic::Ordering::Relaxed;
use unlatched::primitive::model::fail_one_weak_exchange;
use unlatched::primitive::parker::{Parker, ThreadParker};
use unlatched::primitive::thread;

use crate::runner::{Bound, Check, model};

pub(crate) fn models() -> Vec<Check> {
    vec![
        takes_and_gives(),
        weak_exchange_fails(),
        several_against_one_weak_exchange_fails(),
        shut_against_push(),
        shut_against_pop(),
        several_against_each(),
        stalled_chain(),
        chain_against_pops(),
        make_against_break_up(),
        register_against_wake(),
        register_against_two_wakes(),
        registers_again(),
        replaced_against_wakes(),
        woken_while_registering(),
    ]
}

/// Stack 0 with three slots on it, stack 1 with none; and what came off them in the end.
struct Scene {
    kept: Mutex<Vec<InHand>>,
    chain: Mutex<Option<ChainInHand>>,
    stacks: Stacks,
}

fn scene(on_each: [usize; 2], in_hand: usize) -> impl Fn() -> Scene + Send + Sync + 'static {
    move || {
        let slots = on_each.iter().sum::<usize>() + in_hand;
        let stacks = Stacks::new(slots as u64, 2);
        for (stack, count) in on_each.into_iter().enumerate() {
            (0..count).for_each(|_| assert!(stacks.push(stack, &stacks.make())));
        }
        let kept = (0..in_hand).map(|_| stacks.make()).collect();
        Scene { kept: Mutex::new(kept), chain: Mutex::new(None), stacks }
    }
}

impl Scene {
    fn keep(&self, slots: impl IntoIterator<Item = InHand>) {
        self.kept.lock().unwrap().extend(slots);
    }

    fn kept(&self) -> InHand {
        self.kept.lock().unwrap().pop().expect("one for each who asks")
    }

    /// Takes one, looks into it, and puts it back.
    fn take_and_give(&self) {
        let slot = self.stacks.pop(0).expect("there is one for each");
        self.stacks.touch(&slot);
        assert!(self.stacks.push(0, &slot), "nobody shuts it");
    }

    /// Every slot is in one place, and the depths are right. How many are on either stack, and in hands.
    fn count(&self) -> String {
        let mut kept = std::mem::take(&mut *self.kept.lock().unwrap());
        kept.extend(self.chain.lock().unwrap().take().into_iter().flat_map(|chain| self.stacks.slots(chain)));
        let mut counts = vec![kept.len()];
        for stack in 0..2 {
            let all = self.stacks.empty(stack);
            counts.push(all.len());
            kept.extend(all);
        }
        let mut numbers: Vec<usize> = kept.iter().map(|slot| self.stacks.touch(slot)).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "each slot once");
        kept.into_iter().for_each(|slot| {
            self.stacks.break_up(slot);
        });
        format!("{} in hand, {} and {}", counts[0], counts[1], counts[2])
    }
}

fn takes_and_gives() -> Check {
    model(
        "stack_takes_and_gives",
        "a head that was seen does not come back: no ABA",
        Bound::Preemptions(3),
        scene([3, 0], 0),
    )
    .role("one", Scene::take_and_give)
    .role("two", |scene| {
        // The second below the first, so that a stale link shows.
        let (upper, lower) = (scene.stacks.pop(0), scene.stacks.pop(0));
        upper.into_iter().for_each(|slot| assert!(scene.stacks.push(0, &slot)));
        scene.keep(lower);
    })
    .expect(|scene, _| scene.count(), &["1 in hand, 2 and 0"])
}

fn weak_exchange_fails() -> Check {
    model(
        "stack_weak_exchange_fails",
        "an exchange that fails for no reason is tried again",
        Bound::Full,
        scene([2, 0], 0),
    )
    .weak_exchange_may_fail()
    .role("one", Scene::take_and_give)
    .role("failure", |_| fail_one_weak_exchange())
    .expect(|scene, _| scene.count(), &["0 in hand, 2 and 0"])
}

fn several_against_one_weak_exchange_fails() -> Check {
    model(
        "stack_weak_exchange_fails_for_several",
        "an exchange that fails for no reason is tried again, on what is there then",
        Bound::Preemptions(3),
        scene([3, 0], 0),
    )
    .weak_exchange_may_fail()
    .role("several", |scene: &Scene| {
        *scene.chain.lock().unwrap() = scene.stacks.pop_some(0, 2, 0);
    })
    .role("one", |scene| {
        fail_one_weak_exchange();
        scene.keep(scene.stacks.pop(0));
    })
    // Half of three, or of two.
    .expect(|scene, _| scene.count(), &["2 in hand, 1 and 0", "3 in hand, 0 and 0"])
}

fn shut_against_push() -> Check {
    model(
        "stack_shut_against_push",
        "who shuts it has all that was pushed, and nothing is pushed after that (SLOT-D)",
        Bound::Full,
        scene([1, 0], 1),
    )
    .role("push", |scene: &Scene| {
        let slot = scene.kept();
        if scene.stacks.push(0, &slot) {
            return "pushed";
        }
        scene.keep([slot]);
        "shut"
    })
    .role("shut", |scene| {
        let chain = scene.stacks.shut(0).expect("one was on it");
        let slots = scene.stacks.slots(chain);
        let came = if slots.len() == 2 { "two" } else { "one" };
        slots.iter().for_each(|slot| _ = scene.stacks.touch(slot));
        scene.keep(slots);
        came
    })
    .expect(
        |scene, said| format!("{}, {}: {}", said[0], said[1], scene.count()),
        &["pushed, two: 2 in hand, 0 and 0", "shut, one: 2 in hand, 0 and 0"],
    )
}

fn shut_against_pop() -> Check {
    model("stack_shut_against_pop", "of who pops and who shuts one has the slot", Bound::Full, scene([2, 0], 0))
        .role("pop", |scene: &Scene| {
            scene.keep(scene.stacks.pop(0));
            scene.keep(scene.stacks.pop(0));
        })
        .role("shut", |scene| {
            *scene.chain.lock().unwrap() = scene.stacks.shut(0);
        })
        .expect(|scene, _| scene.count(), &["2 in hand, 0 and 0"])
}

fn several_against_each() -> Check {
    model(
        "stack_several_against_one_by_one",
        "what was read of links under a head is so, if the head still is (SLOT-E)",
        Bound::Preemptions(3),
        scene([3, 0], 0),
    )
    .role("several", |scene: &Scene| {
        if let Some(chain) = scene.stacks.pop_some(0, 2, 1) {
            assert!(scene.stacks.push_chain(1, chain).is_ok(), "nobody shuts it");
        }
    })
    .role("one by one", |scene| {
        let (upper, lower) = (scene.stacks.pop(0), scene.stacks.pop(0));
        lower.into_iter().for_each(|slot| assert!(scene.stacks.push(0, &slot)));
        scene.keep(upper);
    })
    .expect(
        |scene, _| scene.count(),
        // Half of three, of two, of the two that are left or are again; or one was to be left.
        &["1 in hand, 0 and 2", "1 in hand, 1 and 1", "1 in hand, 2 and 0"],
    )
}

/// A chain that was shut off one stack goes onto another, whose last slot goes meanwhile.
fn stalled_chain() -> Check {
    model(
        "stack_chain_onto_one_that_empties",
        "a chain takes along no slot that was below it when its links were written",
        Bound::Full,
        scene([2, 1], 0),
    )
    .role("chain", |scene: &Scene| {
        let chain = scene.stacks.shut(0).expect("two are on it");
        assert!(scene.stacks.push_chain(1, chain).is_ok(), "nobody shuts it");
    })
    .role("pop", |scene| scene.keep(scene.stacks.pop(1)))
    .expect(|scene, _| scene.count(), &["1 in hand, 0 and 2"])
}

/// A chain of two comes onto a stack of one, from which two are taken meanwhile.
fn chain_against_pops() -> Check {
    model(
        "stack_chain_against_pops",
        "who takes off what a chain brought sees the chain's links",
        Bound::Preemptions(3),
        scene([2, 1], 0),
    )
    .role("chain", |scene: &Scene| {
        let chain = scene.stacks.shut(0).expect("two are on it");
        assert!(scene.stacks.push_chain(1, chain).is_ok(), "nobody shuts it");
    })
    .role("pops", |scene| {
        scene.keep(scene.stacks.pop(1));
        scene.keep(scene.stacks.pop(1));
    })
    .expect(|scene, _| scene.count(), &["1 in hand, 0 and 2", "2 in hand, 0 and 1"])
}

fn make_against_break_up() -> Check {
    model(
        "slots_make_against_break_up",
        "who takes a slot for a new buffer finds it without one (SLOT-C)",
        Bound::Full,
        scene([0, 0], 2),
    )
    .role("break up", |scene: &Scene| {
        let slots = [scene.kept(), scene.kept()];
        slots.into_iter().for_each(|slot| _ = scene.stacks.break_up(slot));
    })
    .role("make", |scene| scene.keep(scene.stacks.try_make()))
    .expect(
        |scene, _| {
            let made = scene.kept.lock().unwrap().pop().map(|slot| scene.stacks.break_up(slot));
            made.map_or("none".into(), |number| number.to_string())
        },
        &["1", "2", "none"],
    )
}

/// A task: what wakes it, and what it looks for. The latter orders nothing: what orders is the waker.
struct Waits {
    waker: HandOnWaker,
    parker: Arc<Woken>,
    here: [AtomicBool; 2],
}

/// A thread that polls.
pub(crate) struct Woken(pub(crate) ThreadParker);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn waits() -> Waits {
    Waits {
        waker: HandOnWaker::new(),
        parker: Arc::new(Woken(ThreadParker::new())),
        here: [false, false].map(AtomicBool::new),
    }
}

impl Waits {
    fn poll_until(&self, all: usize) {
        loop {
            self.waker.register(Waker::from(self.parker.clone()));
            // Relaxed: see `Waits`.
            if self.here[..all].iter().all(|here| here.load(Relaxed)) {
                return;
            }
            self.parker.0.park();
            // A task that finds somebody at its waker is polled until that one is done.
            thread::yield_now();
        }
    }

    fn bring(&self, which: usize) {
        // Relaxed: see `Waits`.
        self.here[which].store(true, Relaxed);
        self.waker.wake();
    }
}

fn register_against_wake() -> Check {
    model("waker_register_against_wake", "a wake that comes while a task registers reaches it", Bound::Full, waits)
        .role("task", |waits: &Waits| waits.poll_until(1))
        .role("brings", |waits| waits.bring(0))
        .expect(|_, _| "found".into(), &["found"])
}

fn register_against_two_wakes() -> Check {
    model("waker_register_against_two_wakes", "of two wakes at once none is lost", Bound::Preemptions(2), waits)
        .role("task", |waits: &Waits| waits.poll_until(2))
        .role("one", |waits| waits.bring(0))
        .role("two", |waits| waits.bring(1))
        .expect(|_, _| "found".into(), &["found"])
}

/// A task that is polled though nobody woke it replaces its waker, while that is being taken out.
fn registers_again() -> Check {
    model("waker_registers_again_against_wake", "a waker is its task's or its waking thread's", Bound::Full, waits)
        .role("task", |waits: &Waits| {
            waits.waker.register(Waker::from(waits.parker.clone()));
            waits.poll_until(1);
        })
        .role("brings", |waits| waits.bring(0))
        .expect(|_, _| "found".into(), &["found"])
}

/// A task is polled with another waker than before, while the former one is being taken out; and waits for what comes after that.
fn replaced_against_wakes() -> Check {
    model("waker_replaced_against_wakes", "wakes reach the waker of the last poll", Bound::Full, waits)
        .role("task", |waits: &Waits| {
            waits.waker.register(Waker::noop().clone());
            waits.poll_until(2);
        })
        .role("brings", |waits| {
            waits.bring(0);
            waits.bring(1);
        })
        .expect(|_, _| "found".into(), &["found"])
}

/// A task registers once, and looks if it was woken by then.
fn woken_while_registering() -> Check {
    model("waker_woken_while_registering", "who is woken sees what for", Bound::Full, waits)
        .role("task", |waits: &Waits| {
            waits.waker.register(Waker::from(waits.parker.clone()));
            let woken = waits.parker.0.park_timeout(Duration::ZERO);
            // Relaxed: see `Waits`.
            assert!(!woken || waits.here[0].load(Relaxed), "woken, and nothing is here");
            woken
        })
        .role("brings", |waits| {
            waits.bring(0);
            true
        })
        .expect(|_, woken| if woken[0] { "woken" } else { "not yet" }.into(), &["not yet", "woken"])
}
