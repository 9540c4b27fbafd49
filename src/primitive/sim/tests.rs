use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{Sim, SimMutex, SimParker, StuckBy, WALL_START_MILLIS, pause_at, sleep, spawn};
use crate::primitive::clock::Instant;
use crate::primitive::lock::Mutex;
use crate::primitive::parker::Parker;
use crate::primitive::{hint, step};

const SECOND: Duration = Duration::from_secs(1);

/// Three tasks that contend, sleep and time out; the order in which they got the lock, and the trace.
fn contend(seed: u64) -> (Vec<(usize, u64)>, u64) {
    let mut sim = Sim::new(seed);
    let order = Rc::new(RefCell::new(Vec::new()));
    let lock = Arc::new(SimMutex::new(()));
    for task in 0..3 {
        let (order, lock, clock, mut random) = (order.clone(), lock.clone(), sim.clock(), sim.random());
        sim.spawn(format!("task {task}"), move || {
            for _ in 0..20 {
                let held = lock.lock();
                order.borrow_mut().push((task, clock.now().as_nanos()));
                step("test.held");
                drop(held);
                sleep(Duration::from_nanos(random.below(3)));
            }
        });
    }
    let report = sim.run().unwrap();
    (order.take(), report.trace)
}

#[test]
fn equal_seeds_replay_and_unequal_ones_differ() {
    let mut traces = std::collections::HashSet::new();
    for seed in 0..50 {
        let run = contend(seed);
        assert_eq!(run, contend(seed), "seed {seed}");
        traces.insert(run.1);
    }
    assert_eq!(traces.len(), 50);
}

#[test]
fn virtual_timeouts_are_exact_and_take_no_time() {
    let mut sim = Sim::new(1);
    let clock = sim.clock();
    sim.spawn("sleeper", move || {
        let parker = SimParker::new();
        assert!(!parker.park_timeout(86_400 * SECOND));
        assert_eq!(clock.now(), Instant::ZERO.saturating_add(86_400 * SECOND));
        assert_eq!(clock.unix_millis(), WALL_START_MILLIS + 86_400_000);
        sleep(Duration::from_nanos(1));
        assert_eq!(clock.now(), Instant::ZERO.saturating_add(86_400 * SECOND + Duration::from_nanos(1)));
        assert!(!parker.park_timeout(Duration::ZERO));
    });
    let report = sim.run().unwrap();
    assert_eq!(report.ended.as_nanos(), 86_400_000_000_001);
}

#[test]
fn sleepers_wake_in_the_order_of_their_deadlines() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        let woken = Rc::new(RefCell::new(Vec::new()));
        for millis in [30, 10, 20, 10] {
            let woken = woken.clone();
            sim.spawn(format!("{millis} ms"), move || {
                sleep(Duration::from_millis(millis));
                woken.borrow_mut().push(millis);
            });
        }
        sim.run().unwrap();
        assert_eq!(woken.take(), [10, 10, 20, 30]);
    }
}

#[test]
fn holders_exclude_each_other_and_no_order_is_assumed() {
    let mut firsts = [0; 3];
    for seed in 0..60 {
        let mut sim = Sim::new(seed);
        let lock = Arc::new(SimMutex::new(0));
        let inside = Rc::new(Cell::new(false));
        let first = Rc::new(Cell::new(None));
        for task in 0..3 {
            let (lock, inside, first) = (lock.clone(), inside.clone(), first.clone());
            sim.spawn(format!("task {task}"), move || {
                for _ in 0..10 {
                    let mut held = lock.lock();
                    assert!(!inside.replace(true), "two hold the lock");
                    first.set(first.get().or(Some(task)));
                    let before = *held;
                    step("test.inside");
                    *held = before + 1;
                    inside.set(false);
                }
            });
        }
        sim.run().unwrap();
        assert_eq!(*lock.lock(), 30);
        firsts[first.get().unwrap()] += 1;
    }
    assert!(firsts.iter().all(|&times| times > 0), "always the same is first: {firsts:?}");
}

#[test]
fn token_that_comes_with_the_end_of_the_timeout_is_taken_or_kept() {
    let (mut taken, mut kept) = (0, 0);
    for seed in 0..60 {
        let mut sim = Sim::new(seed);
        let (parker, got) = (Arc::new(SimParker::new()), Rc::new(Cell::new(false)));
        sim.spawn("sleeper", {
            let (parker, got) = (parker.clone(), got.clone());
            move || got.set(parker.park_timeout(SECOND))
        });
        sim.spawn("waker", {
            let parker = parker.clone();
            move || {
                sleep(SECOND);
                parker.unpark();
            }
        });
        assert_eq!(sim.run().unwrap().ended, Instant::ZERO.saturating_add(SECOND));
        if got.get() {
            taken += 1
        } else {
            kept += 1
        }
        assert_eq!(parker.park_timeout(Duration::ZERO), !got.get(), "the token is taken once");
    }
    assert!(taken > 0 && kept > 0, "one order only: {taken} taken, {kept} kept");
}

#[test]
fn tokens_are_handed_there_and_back() {
    let mut sim = Sim::new(3);
    let (there, back) = (Arc::new(SimParker::new()), Arc::new(SimParker::new()));
    sim.spawn("there", {
        let (there, back) = (there.clone(), back.clone());
        move || {
            for _ in 0..500 {
                there.unpark();
                back.park();
            }
        }
    });
    sim.spawn("back", move || {
        for _ in 0..500 {
            there.park();
            back.unpark();
        }
    });
    assert_eq!(sim.run().unwrap().ended, Instant::ZERO);
}

#[test]
fn deadlock_names_its_tasks() {
    // Some seed must find the crossed order, and none may hang.
    let stuck: Vec<_> = (0..40)
        .filter_map(|seed| {
            let mut sim = Sim::new(seed);
            let (left, right) = (Arc::new(SimMutex::new(())), Arc::new(SimMutex::new(())));
            for (name, first, second) in [("one", left.clone(), right.clone()), ("two", right, left)] {
                sim.spawn(name, move || {
                    let _first = first.lock();
                    let _second = second.lock();
                });
            }
            sim.run().err()
        })
        .collect();
    assert!(!stuck.is_empty() && stuck.len() < 40, "{} of 40", stuck.len());
    let said = stuck[0].to_string();
    assert_eq!(stuck[0].by, StuckBy::Deadlock);
    assert!(said.contains("`one` stands at mutex.wait") && said.contains("`two` stands at mutex.wait"), "{said}");
}

#[test]
fn lost_wake_up_is_a_deadlock() {
    let mut sim = Sim::new(5);
    sim.spawn("sleeper", || SimParker::new().park());
    sim.spawn("other", || sleep(SECOND));
    let stuck = sim.run().unwrap_err();
    assert_eq!((stuck.by, stuck.tasks), (StuckBy::Deadlock, vec![("sleeper".to_owned(), "parker.park")]));
    assert_eq!(stuck.at, Instant::ZERO.saturating_add(SECOND));
}

#[test]
fn spinning_lets_others_run_and_is_limited() {
    let mut sim = Sim::new(6);
    let done = Rc::new(Cell::new(false));
    sim.spawn("spinner", {
        let done = done.clone();
        move || {
            while !done.get() {
                hint::spin_loop();
            }
        }
    });
    sim.spawn("worker", move || {
        step("worker");
        done.set(true);
    });
    sim.run().unwrap();

    let mut sim = Sim::new(6);
    sim.step_limit(100);
    sim.spawn("for ever", || {
        loop {
            hint::spin_loop();
        }
    });
    let stuck = sim.run().unwrap_err();
    assert_eq!((stuck.by, stuck.steps), (StuckBy::StepLimit, 100));
}

#[test]
fn panic_of_a_task_says_its_name_and_the_seed() {
    let mut sim = Sim::new(77);
    let lock = Arc::new(SimMutex::new(()));
    sim.spawn("bystander", {
        let lock = lock.clone();
        move || {
            let _held = lock.lock();
            sleep(60 * SECOND);
        }
    });
    sim.spawn("culprit", || {
        sleep(SECOND);
        panic!("thing {}", 9);
    });
    let payload = catch_unwind(AssertUnwindSafe(|| sim.run())).unwrap_err();
    let said = payload.downcast_ref::<String>().unwrap();
    assert!(said.contains("`culprit`") && said.contains("seed 77") && said.contains("thing 9"), "{said}");
    drop(sim);
    // The thread is free for another.
    assert!(Sim::new(1).run().is_ok());
}

#[test]
fn locks_are_given_back_while_a_task_unwinds() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        let lock = Arc::new(SimMutex::new(0));
        for task in 0..2 {
            let lock = lock.clone();
            sim.spawn(format!("task {task}"), move || {
                let caught = catch_unwind(AssertUnwindSafe(|| {
                    let mut held = lock.lock();
                    *held += 1;
                    std::panic::resume_unwind(Box::new(()));
                }));
                assert!(caught.is_err());
            });
        }
        sim.run().unwrap();
        assert_eq!(*lock.lock(), 2);
    }
}

#[test]
fn tasks_spawn_tasks_and_runs_go_on() {
    let mut sim = Sim::new(8);
    let count = Rc::new(Cell::new(0));
    let (counter, clock) = (count.clone(), sim.clock());
    sim.spawn("parent", move || {
        for child in 0..3 {
            let counter = counter.clone();
            spawn(format!("child {child}"), move || {
                sleep(SECOND);
                counter.set(counter.get() + 1);
            });
        }
    });
    sim.run().unwrap();
    assert_eq!((count.get(), clock.now()), (3, Instant::ZERO.saturating_add(SECOND)));
    sim.spawn("later", || sleep(SECOND));
    assert_eq!(sim.run().unwrap().ended, Instant::ZERO.saturating_add(2 * SECOND));
}

#[test]
fn a_task_paused_at_a_step_lets_the_others_go_on() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed);
        let log = Rc::new(RefCell::new(Vec::new()));
        let (slow, fast, clock) = (log.clone(), log.clone(), sim.clock());
        sim.spawn("paused", move || {
            pause_at("b", 10 * SECOND);
            step("a");
            step("b");
            step("b");
            slow.borrow_mut().push(("paused", clock.now()));
        });
        sim.spawn("other", move || {
            sleep(SECOND);
            fast.borrow_mut().push(("other", Instant::ZERO));
        });
        sim.run().unwrap();
        assert_eq!(log.take(), [("other", Instant::ZERO), ("paused", Instant::ZERO.saturating_add(10 * SECOND))]);
    }
}

#[test]
fn outside_of_a_task_nobody_waits() {
    let lock = SimMutex::new(1);
    let parker = SimParker::new();
    // Where nobody has to wait it works.
    *lock.lock() += 1;
    parker.unpark();
    parker.park();
    assert!(!parker.park_timeout(Duration::ZERO));
    // Where one has to, it says so.
    let said = |result: std::thread::Result<()>| *result.unwrap_err().downcast::<String>().unwrap();
    let panicked = said(catch_unwind(AssertUnwindSafe(|| parker.park())));
    assert!(panicked.contains("outside of a simulation's task"), "{panicked}");
    let held = lock.lock();
    let panicked = said(catch_unwind(AssertUnwindSafe(|| drop(lock.lock()))));
    assert!(panicked.contains("nobody to wait for"), "{panicked}");
    assert_eq!(*held, 2);
}
