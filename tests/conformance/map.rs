//! The partition map: MAP-01 to MAP-08.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};

use unlatched::error::TopicPartition;
use unlatched::partition_map::PartitionMap;
use unlatched::primitive::atomic::Ordering::SeqCst;
use unlatched::primitive::atomic::{AtomicBool, AtomicUsize};

use crate::deviations::{Behaviour, keeps};
use crate::support::{Core, Gate, SOON, Stopwatch, Worker, eventually, on_every_core};

on_every_core![
    map_01_reads_find_what_is_there,
    map_01_reads_go_on_while_a_writer_stands_still,
    map_01_a_reader_may_use_the_map_while_it_reads,
    map_02_concurrent_inserts_are_all_there,
    map_02_the_cost_of_an_insert,
    map_03_racers_agree_on_one_winner,
    map_04_the_factory_and_its_losers,
    map_04_a_factory_that_panics_leaves_no_trace,
    map_05_topics_and_partitions_are_two_levels,
    map_06_an_entry_never_moves_and_never_vanishes,
    map_06_clear_empties_the_map_and_leaves_handles_whole,
    map_06_what_was_cleared_goes_with_the_map_at_the_latest,
    map_07_iteration_does_not_see_what_is_inserted_meanwhile,
    map_07_iteration_walks_one_snapshot,
    map_08_a_reader_sees_a_whole_entry,
];

fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn map<C: Core, V: Send + Sync + 'static>() -> Arc<C::Map<V>> {
    Arc::default()
}

fn map_01_reads_find_what_is_there<C: Core>() {
    let map = map::<C, String>();
    assert!(map.is_empty());
    assert_eq!((map.len(), map.with("t", 0, String::len)), (0, None));
    assert!(map.get("t", 0).is_none());
    let made = map.get_or_create(&tp("t", 3), || "three".into());
    assert_eq!((&**made, map.len(), map.is_empty()), ("three", 1, false));
    assert_eq!(map.with("t", 3, Clone::clone).as_deref(), Some("three"));
    assert_eq!(map.get("t", 3).as_deref().map(String::as_str), Some("three"));
    for (topic, partition) in [("t", 0), ("t", 4), ("u", 3), ("", 3), ("tt", 3)] {
        assert!(map.get(topic, partition).is_none() && map.with(topic, partition, |_| ()).is_none());
    }
}

fn map_01_reads_go_on_while_a_writer_stands_still<C: Core>() {
    let map = map::<C, i32>();
    map.get_or_create(&tp("t", 0), || 7);
    let gate = Gate::default();
    let writer = Worker::start({
        let (map, gate) = (map.clone(), gate.clone());
        move || {
            let make = || {
                gate.pass();
                8
            };
            *map.get_or_create(&tp("t", 1), make)
        }
    });
    gate.await_reached();
    let reader = Worker::start({
        let map = map.clone();
        move || {
            let mut visited = 0;
            map.for_each(|_, _| visited += 1);
            // And so do other writers.
            let other = *map.get_or_create(&tp("u", 1), || 9);
            (map.with("t", 0, |value| *value), map.get("t", 1).map(|entry| *entry), visited, other)
        }
    });
    assert_eq!(reader.result(), (Some(7), None, 1, 9));
    assert!(!writer.is_finished());
    gate.open();
    assert_eq!(writer.result(), 8);
    assert_eq!(map.with("t", 1, |value| *value), Some(8));
}

fn map_01_a_reader_may_use_the_map_while_it_reads<C: Core>() {
    // A read that held a lock could not do this.
    let done = Worker::start(|| {
        let map = map::<C, i32>();
        map.get_or_create(&tp("t", 0), || 1);
        map.with("t", 0, |outer| {
            map.get_or_create(&tp("t", 1), || outer + 1);
            map.with("t", 1, |inner| assert_eq!((*outer, *inner), (1, 2)));
        });
        map.for_each(|_, value| {
            map.get_or_create(&tp("u", *value), || 5);
        });
        map.len()
    });
    assert_eq!(done.result(), 4);
}

fn map_02_concurrent_inserts_are_all_there<C: Core>() {
    const EACH: i32 = 150;
    let map = map::<C, (String, i32)>();
    let start = Arc::new(Barrier::new(4));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (map, start) = (map.clone(), start.clone());
            Worker::start(move || {
                start.wait();
                for number in 0..EACH {
                    // Topics of its own and one of all, partitions of its own.
                    for topic in [format!("own-{writer}-{}", number % 7), "shared".into()] {
                        let partition = writer * EACH + number;
                        let made = map.get_or_create(&tp(&topic, partition), || (topic.as_str().to_owned(), partition));
                        assert_eq!(*made, (topic, partition));
                    }
                }
            })
        })
        .collect();
    writers.into_iter().for_each(Worker::result);
    assert_eq!(map.len(), 4 * 2 * EACH as usize);
    for partition in 0..4 * EACH {
        assert_eq!(map.with("shared", partition, Clone::clone), Some(("shared".into(), partition)));
        let own = format!("own-{}-{}", partition / EACH, partition % EACH % 7);
        assert_eq!(map.with(&own, partition, Clone::clone), Some((own.clone(), partition)));
    }
}

fn map_02_the_cost_of_an_insert<C: Core>() {
    // Copying the whole map for each insert is allowed (Kafka), so that only a modest number can be asked for; where the cost does not
    // depend on the number, sixty times as many take no longer.
    let many = match keeps::<C>("GAP-11") {
        Behaviour::Kafka => 1_000,
        Behaviour::Promise => 60_000,
    };
    let map = map::<C, i32>();
    let watch = Stopwatch::start();
    for partition in 0..many {
        map.get_or_create(&tp("t", partition), || partition);
    }
    assert!(watch.elapsed() < SOON, "{many} inserts took {:?}", watch.elapsed());
    assert_eq!(map.len(), many as usize);
    assert!((0..many).all(|partition| map.with("t", partition, |value| *value) == Some(partition)));
}

fn map_03_racers_agree_on_one_winner<C: Core>() {
    const RACERS: usize = 4;
    const ROUNDS: i32 = 300;
    let map = map::<C, usize>();
    let start = Arc::new(Barrier::new(RACERS));
    let racers: Vec<_> = (0..RACERS)
        .map(|racer| {
            let (map, start) = (map.clone(), start.clone());
            Worker::start(move || {
                let race = |round| {
                    start.wait();
                    let handle = map.get_or_create(&tp("t", round), || racer);
                    (*handle, &raw const *handle as usize)
                };
                (0..ROUNDS).map(race).collect::<Vec<_>>()
            })
        })
        .collect();
    let results: Vec<_> = racers.into_iter().map(Worker::result).collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "racers hold different entries");
    assert_eq!(map.len(), ROUNDS as usize);
    for (round, (winner, address)) in (0..).zip(&results[0]) {
        assert_eq!(map.with("t", round, |value| (*value, &raw const *value as usize)), Some((*winner, *address)));
    }
    // Who comes later gets what is there, and nothing is made.
    assert_eq!(*map.get_or_create(&tp("t", 0), || unreachable!("it is there")), results[0][0].0);
}

/// Counts how many of its kind were dropped.
struct Counted(usize, Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_add(1, SeqCst);
    }
}

fn map_04_the_factory_and_its_losers<C: Core>() {
    let map = map::<C, Counted>();
    let (made, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let gate = Gate::default();
    let slow = Worker::start({
        let (map, made, dropped, gate) = (map.clone(), made.clone(), dropped.clone(), gate.clone());
        move || {
            let handle = map.get_or_create(&tp("t", 0), || {
                made.fetch_add(1, SeqCst);
                gate.pass();
                Counted(1, dropped)
            });
            (handle.0, &raw const *handle as usize)
        }
    });
    gate.await_reached();
    let quick = Worker::start({
        let (map, made, dropped) = (map.clone(), made.clone(), dropped.clone());
        move || {
            let handle = map.get_or_create(&tp("t", 0), || {
                made.fetch_add(1, SeqCst);
                Counted(2, dropped)
            });
            (handle.0, &raw const *handle as usize)
        }
    });
    match keeps::<C>("GAP-12") {
        Behaviour::Kafka => {
            // The factory runs outside of any lock: the second caller builds its own, and wins.
            let quick = quick.result();
            assert_eq!(quick.0, 2);
            gate.open();
            assert_eq!(slow.result(), quick, "both get the same object");
            assert_eq!((made.load(SeqCst), dropped.load(SeqCst)), (2, 1), "the loser is thrown away");
        }
        Behaviour::Promise => {
            std::thread::sleep(crate::support::GLANCE);
            gate.open();
            assert_eq!(slow.result(), quick.result(), "both get the same object");
            assert_eq!(made.load(SeqCst) - dropped.load(SeqCst), 1);
        }
    }
    assert_eq!(map.len(), 1);
    let made = made.load(SeqCst);
    drop(map);
    assert_eq!(dropped.load(SeqCst), made, "the map lets go of what it holds");
}

fn map_04_a_factory_that_panics_leaves_no_trace<C: Core>() {
    let map = map::<C, i32>();
    map.get_or_create(&tp("t", 0), || 1);
    for topic in ["t", "new"] {
        let panicked = Worker::start({
            let map = map.clone();
            move || {
                let make = || panic!("on purpose: a factory fails");
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| *map.get_or_create(&tp(topic, 1), make)))
            }
        });
        assert!(panicked.result().is_err());
        assert!(map.get(topic, 1).is_none());
        assert_eq!(*map.get_or_create(&tp(topic, 1), || 2), 2);
    }
    assert_eq!(map.len(), 3);
}

fn map_05_topics_and_partitions_are_two_levels<C: Core>() {
    let map = map::<C, String>();
    let mut expected = BTreeSet::new();
    for topic in ["a", "b", "a-1", "", "a topic of many characters, not all of them ascii: äöü"] {
        for partition in [0, 1, 11, 1000] {
            let key = tp(topic, partition);
            assert_eq!(**map.get_or_create(&key, || key.to_string()), key.to_string());
            expected.insert(key);
        }
    }
    assert_eq!(map.len(), expected.len());
    let mut visited = BTreeSet::new();
    map.for_each(|key, value| {
        assert_eq!(*value, key.to_string());
        assert!(visited.insert(key.clone()), "{key} was visited twice");
    });
    assert_eq!(visited, expected);
    assert_eq!(map.with("a", 11, Clone::clone).as_deref(), Some("a-11"));
    assert_eq!(map.with("a-1", 1, Clone::clone).as_deref(), Some("a-1-1"));
}

fn map_06_an_entry_never_moves_and_never_vanishes<C: Core>() {
    let map = map::<C, i32>();
    let first = map.get_or_create(&tp("t", 5), || 5);
    let address = &raw const *first;
    for partition in (0..300).filter(|partition| *partition != 5) {
        map.get_or_create(&tp("t", partition), || partition);
        map.get_or_create(&tp(&format!("u{partition}"), 0), || partition);
        assert_eq!(map.with("t", 5, |entry| std::ptr::eq(entry, address)), Some(true));
    }
    let again = map.get("t", 5).unwrap();
    assert!(std::ptr::eq(&*again, address) && std::ptr::eq(&*again.clone(), address));
    let created_again = map.get_or_create(&tp("t", 5), || unreachable!("it is there"));
    assert!(std::ptr::eq(&*created_again, address));
}

fn map_06_clear_empties_the_map_and_leaves_handles_whole<C: Core>() {
    let map = map::<C, Counted>();
    let dropped = Arc::new(AtomicUsize::new(0));
    for partition in 0..3 {
        map.get_or_create(&tp("t", partition), || Counted(partition as usize, dropped.clone()));
    }
    let kept = map.get("t", 1).unwrap();
    map.clear();
    assert!(map.is_empty());
    assert!(map.get("t", 1).is_none() && map.with("t", 0, |_| ()).is_none());
    map.for_each(|key, _| panic!("{key} is still there"));
    assert_eq!(kept.0, 1, "a handle keeps its entry reachable");
    let new = map.get_or_create(&tp("t", 1), || Counted(9, dropped.clone()));
    assert_eq!((kept.0, new.0, map.len()), (1, 9, 1));
}

fn map_06_what_was_cleared_goes_with_the_map_at_the_latest<C: Core>() {
    let map = map::<C, Counted>();
    let dropped = Arc::new(AtomicUsize::new(0));
    map.get_or_create(&tp("t", 0), || Counted(0, dropped.clone()));
    map.clear();
    // Tests beside this one may be pinned just now. Then it is for those who come next, readers among them.
    let goes = |find: &dyn Fn() -> bool| {
        eventually("the entry is dropped", || {
            (0..1_000).for_each(|_| assert!(!find()));
            dropped.load(SeqCst) == 1
        });
    };
    match keeps::<C>("GAP-11") {
        Behaviour::Kafka => goes(&|| map.get("t", 0).is_some()),
        // A reader that leaves no trace may be at it.
        Behaviour::Promise => {
            assert!(map.get("t", 0).is_none());
            assert_eq!(dropped.load(SeqCst), 0);
            drop(map);
            goes(&|| false);
        }
    }
}

fn map_07_iteration_does_not_see_what_is_inserted_meanwhile<C: Core>() {
    let map = map::<C, i32>();
    for partition in 0..10 {
        map.get_or_create(&tp("t", partition), || partition);
    }
    let mut visited = BTreeSet::new();
    map.for_each(|key, value| {
        assert_eq!(key.partition, *value);
        assert!(visited.insert(*value), "{key} twice");
        map.get_or_create(&tp("t", 100 + value), || 100 + value);
        map.get_or_create(&tp("new", *value), || 200 + value);
    });
    assert_eq!(visited, (0..10).collect());
    assert_eq!(map.len(), 30);
}

fn map_07_iteration_walks_one_snapshot<C: Core>() {
    // One writer inserts 0, 1, 2, ...: a snapshot has no gaps.
    let map = map::<C, i32>();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = Worker::start({
        let (map, stop) = (map.clone(), stop.clone());
        move || {
            let mut partition = 0;
            while !stop.load(SeqCst) && partition < 2_000 {
                map.get_or_create(&tp("t", partition), || partition);
                partition += 1;
            }
            partition
        }
    });
    let mut before = 0;
    for _ in 0..300 {
        let mut seen = BTreeSet::new();
        map.for_each(|_, value| assert!(seen.insert(*value)));
        assert_eq!(seen, (0..seen.len() as i32).collect(), "a torn snapshot");
        assert!(seen.len() >= before, "entries vanished");
        before = seen.len();
    }
    stop.store(true, SeqCst);
    let inserted = writer.result();
    assert_eq!(map.len(), inserted as usize);
}

fn map_08_a_reader_sees_a_whole_entry<C: Core>() {
    const ENTRIES: i32 = 1_000;
    let map = map::<C, Vec<i32>>();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let map = map.clone();
            Worker::start(move || {
                for partition in 0..ENTRIES {
                    let content = loop {
                        if let Some(content) = map.with("t", partition, Clone::clone) {
                            break content;
                        }
                        std::thread::yield_now();
                    };
                    assert_eq!(content, vec![partition; 50]);
                    assert_eq!(*map.get("t", partition).expect("it stays"), content);
                }
            })
        })
        .collect();
    for partition in 0..ENTRIES {
        map.get_or_create(&tp("t", partition), || vec![partition; 50]);
    }
    readers.into_iter().for_each(Worker::result);
}
