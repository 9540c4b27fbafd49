//! The lock-free partition map: one winner, whole entries, walks that are snapshots, tables that grow. The shipping type.

use unlatched::error::TopicPartition;
use unlatched::partition_map::{PartitionMap, SegmentedMap};
use unlatched::primitive::Arc;
use unlatched::primitive::cell::UnsafeCell;

use crate::runner::{Bound, Check, model};

pub(crate) fn models() -> Vec<Check> {
    vec![
        insert_race(),
        insert_race_of_topics(),
        insert_race_beyond_the_slots(),
        growth_race(),
        growth_against_insert(),
        read_against_growth(),
        walk_against_growth(),
        read_against_insert(),
        read_against_insert_beyond_the_slots(),
        walk_against_two_inserts(),
        two_walks_against_two_inserts(),
        walk_against_clear(),
        clear_against_insert(),
        clear_against_growth(),
    ]
}

/// What an entry holds: written in a cell, so that whoever reads it unordered is caught, or after its end; and counted, so that a leak is.
struct Content(UnsafeCell<u32>, #[allow(dead_code, reason = "held, not read")] Arc<()>);

// SAFETY: written before it is shared, read after; the checker sees each access and fails where that is not so.
unsafe impl Sync for Content {}

impl Content {
    fn new(number: u32) -> Self {
        let content = Self(UnsafeCell::new(0), Arc::new(()));
        // SAFETY: not shared yet.
        content.0.with_mut(|cell| unsafe { *cell = number });
        content
    }

    fn read(&self) -> u32 {
        // SAFETY: nobody writes once it is shared.
        let number = self.0.with(|cell| unsafe { *cell });
        assert_ne!(number, 0, "read after its end");
        number
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        // SAFETY: this is its end: nobody reads it any more, or the checker or `read` says so.
        self.0.with_mut(|cell| unsafe { *cell = 0 });
    }
}

type Map = SegmentedMap<Content>;

fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn create(map: &Map, topic: &str, partition: i32, number: u32) -> u32 {
    map.get_or_create(&tp(topic, partition), || Content::new(number)).read()
}

fn with_topic() -> Map {
    let map = Map::default();
    map.get_or_create(&tp("t", 0), || Content::new(7));
    map
}

fn race(name: &str, law: &'static str, bound: Bound, map: fn() -> Map, partition: i32) -> Check {
    model(name, law, bound, map)
        .role("one", move |map: &Map| create(map, "t", partition, 1))
        .role("two", move |map| create(map, "t", partition, 2))
        .expect(
            move |map, results| {
                let stays = map.get("t", partition).expect("it is there").read();
                format!("{} and {}, then {stays}", results[0], results[1])
            },
            &["1 and 1, then 1", "2 and 2, then 2"],
        )
}

fn insert_race() -> Check {
    race("map_insert_race", "two inserts of one partition agree on one entry, and it stays", Bound::Full, with_topic, 1)
}

fn insert_race_of_topics() -> Check {
    race(
        "map_insert_race_of_topics",
        "likewise where the topic has to be made first",
        Bound::Preemptions(3),
        Map::default,
        0,
    )
}

fn insert_race_beyond_the_slots() -> Check {
    race("map_insert_race_beyond_the_slots", "likewise for a number without a slot", Bound::Full, with_topic, -5)
}

/// A first array of two slots, one of them taken: the next insert makes a larger one.
fn with_odd() -> Map {
    let map = Map::default();
    create(&map, "t", -1, 7);
    map
}

/// What the map has for negative numbers, -1 first.
fn odd(map: &Map, numbers: i32) -> String {
    (1..=numbers)
        .map(|number| map.with("t", -number, Content::read).map_or("none".to_owned(), |content| content.to_string()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn growth_race() -> Check {
    model("map_growth_race", "of two that make a larger array one is taken, and it has all", Bound::Full, with_odd)
        .role("one", |map: &Map| create(map, "t", -2, 2))
        .role("two", |map| create(map, "t", -3, 3))
        .expect(|map, results| format!("{} {}, then {}", results[0], results[1], odd(map, 3)), &["2 3, then 7 2 3"])
}

fn growth_against_insert() -> Check {
    model(
        "map_growth_against_insert",
        "an insert beside growth is in the larger array, whichever array it began with",
        Bound::Preemptions(3),
        || {
            let map = Map::default();
            // The topic is there, and nothing without a slot.
            create(&map, "t", 0, 7);
            map
        },
    )
    // Its second makes a larger array.
    .role("grower", |map: &Map| format!("{} {}", create(map, "t", -1, 1), create(map, "t", -2, 2)))
    // And what it has copied it can read.
    .role("writer", |map| format!("{} {}", create(map, "t", -3, 3), odd(map, 1)))
    .expect(
        |map, results| format!("{}, {}, then {}", results[0], results[1], odd(map, 3)),
        &["1 2, 3 1, then 1 2 3", "1 2, 3 none, then 1 2 3"],
    )
}

fn read_against_growth() -> Check {
    model("map_read_against_growth", "what was there is found at every instant", Bound::Full, with_odd)
        .role("reader", |map: &Map| format!("{}, {}", odd(map, 2), odd(map, 2)))
        .role("writer", |map| create(map, "t", -2, 2).to_string())
        .expect(|_, results| results[0].clone(), &["7 2, 7 2", "7 none, 7 2", "7 none, 7 none"])
}

fn walk_against_growth() -> Check {
    model(
        "map_walk_against_growth",
        "a walk sees what one instant had, by whichever array",
        Bound::Preemptions(3),
        with_odd,
    )
    .role("walker", walk)
    .role("writer", |map| {
        create(map, "t", -2, 2);
        create(map, "t", -3, 3);
        String::new()
    })
    .expect(|_, results| results[0].clone(), &["[-1]", "[-2, -1]", "[-3, -2, -1]"])
}

fn read_against(name: &str, law: &'static str, map: fn() -> Map, partition: i32) -> Check {
    let read =
        move |map: &Map| map.with("t", partition, Content::read).map_or("none".to_owned(), |number| number.to_string());
    model(name, law, Bound::Full, map)
        .role("reader", move |map: &Map| format!("{} {}", read(map), read(map)))
        .role("writer", move |map| create(map, "t", partition, 1).to_string())
        .expect(|_, results| results[0].clone(), &["1 1", "none 1", "none none"])
}

fn read_against_insert() -> Check {
    read_against("map_read_against_insert", "a reader finds nothing, or a whole entry", with_topic, 1)
}

fn read_against_insert_beyond_the_slots() -> Check {
    let map = || {
        // The second has made an array that has room for a third.
        let map = with_odd();
        create(&map, "t", -2, 7);
        map
    };
    read_against("map_read_against_insert_beyond_the_slots", "likewise for a number without a slot", map, -3)
}

/// The numbers that a walk visits.
fn walk(map: &Map) -> String {
    let mut seen = Vec::new();
    map.for_each(|topic_partition, _| seen.push(topic_partition.partition));
    format!("{seen:?}")
}

/// With what is in them.
fn walk_whole(map: &Map) -> String {
    let mut seen = Vec::new();
    map.for_each(|topic_partition, content| seen.push((topic_partition.partition, content.read())));
    format!("{seen:?}")
}

fn walk_against_two_inserts() -> Check {
    // The later insert has the later slot: a single pass could be past the first by then.
    model(
        "map_walk_against_two_inserts",
        "a walk sees what one instant had: never the second insert without the first",
        Bound::Preemptions(3),
        with_topic,
    )
    .role("walker", walk_whole)
    .role("writer", |map| {
        create(map, "t", 1, 1);
        create(map, "t", 2, 2);
        String::new()
    })
    .expect(|_, results| results[0].clone(), &["[(0, 7)]", "[(0, 7), (1, 1)]", "[(0, 7), (1, 1), (2, 2)]"])
}

fn two_walks_against_two_inserts() -> Check {
    let insert = |partition| {
        move |map: &Map| {
            create(map, "t", partition, 1);
            String::new()
        }
    };
    model(
        "map_two_walks_against_two_inserts",
        "two walks agree on which of two inserts was first",
        Bound::Preemptions(1),
        || {
            let map = Map::default();
            // Both segments are there.
            create(&map, "t", 2, 7);
            map
        },
    )
    .weak_memory()
    .role("insert 0", insert(0))
    .role("insert 1", insert(1))
    .role("walk one", walk)
    .role("walk two", walk)
    .expect(
        |_, results| {
            let mut seen = [results[2].as_str(), results[3].as_str()];
            seen.sort_unstable();
            assert_ne!(seen, ["[0, 2]", "[1, 2]"], "each saw another one first");
            "agreed".into()
        },
        &["agreed"],
    )
}

fn walk_against_clear() -> Check {
    model(
        "map_walk_against_clear",
        "a walk sees what one instant had, also if all goes and others come",
        Bound::Preemptions(3),
        || {
            let map = Map::default();
            // Not those that come first again: the same keys are not the same entries.
            create(&map, "t", 0, 7);
            create(&map, "t", 2, 7);
            map
        },
    )
    .role("walker", walk_whole)
    .role("writer", |map| {
        map.clear();
        for partition in 0..3 {
            create(map, "t", partition, 1);
        }
        String::new()
    })
    .expect(
        |_, results| results[0].clone(),
        &["[(0, 1), (1, 1), (2, 1)]", "[(0, 1), (1, 1)]", "[(0, 1)]", "[(0, 7), (2, 7)]", "[]"],
    )
}

fn clear_against(name: &str, law: &'static str, map: fn() -> Map) -> Check {
    model(name, law, Bound::Full, map)
        .role("writer", |map: &Map| create(map, "u", 0, 3))
        .role("end", |map| {
            map.clear();
            0
        })
        .expect(
            |map, results| {
                let left = map.with("u", 0, Content::read);
                format!("{} then {left:?}, {} in all", results[0], map.len())
            },
            &["3 then None, 0 in all", "3 then Some(3), 1 in all"],
        )
}

fn clear_against_insert() -> Check {
    clear_against(
        "map_clear_against_insert",
        "who inserts has a whole entry, cleared or not; what was cleared is freed once, with the map",
        || {
            // The second has made an array that has room for a third.
            let map = with_topic();
            create(&map, "s", 0, 7);
            map
        },
    )
}

fn clear_against_growth() -> Check {
    clear_against("map_clear_against_growth", "likewise where the insert makes a larger array", with_topic)
}
