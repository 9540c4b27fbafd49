//! Histories that break the pool and the map. Each of these is expected to FAIL as long as the fault is there.

use unlatched::error::TopicPartition;
use unlatched::partition_map::{PartitionMap, SegmentedMap};

use crate::runner::{Bound, Check, model};

pub(crate) fn models() -> Vec<Check> {
    vec![walks_disagree(), walk_against_clear()]
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn walk(map: &SegmentedMap<()>) -> String {
    let mut seen = Vec::new();
    map.for_each(|at, ()| seen.push(at.partition));
    format!("{seen:?}")
}

/// Two inserts, two walks. One instant each: not the one walk with the first insert alone and the other with the second alone.
fn walks_disagree() -> Check {
    model(
        "adv_walks_disagree",
        "two walks that show one instant each agree on the order of inserts",
        Bound::Preemptions(1),
        || {
            let map = SegmentedMap::<()>::default();
            // Both segments are there.
            map.get_or_create(&tp(2), || ());
            map
        },
    )
    .keeps_retired()
    .role("insert 0", |map: &SegmentedMap<()>| {
        map.get_or_create(&tp(0), || ());
        String::new()
    })
    .role("insert 1", |map| {
        map.get_or_create(&tp(1), || ());
        String::new()
    })
    .role("walk one", walk)
    .role("walk two", walk)
    .expect(
        |_, results| {
            let mut two: Vec<_> = results.iter().filter(|said| !said.is_empty()).cloned().collect();
            two.sort();
            assert!(two != ["[0, 2]", "[1, 2]"], "one walk saw only 0, the other only 1");
            "agree".into()
        },
        &["agree"],
    )
}

fn walk_against_clear() -> Check {
    model(
        "adv_walk_against_clear",
        "a walk shows one instant, also while the map is emptied",
        Bound::Preemptions(3),
        || {
            let map = SegmentedMap::<()>::default();
            map.get_or_create(&tp(0), || ());
            map.get_or_create(&tp(1), || ());
            map
        },
    )
    .keeps_retired()
    .role("walker", walk)
    .role("writer", |map: &SegmentedMap<()>| {
        map.clear();
        for number in 0..3 {
            map.get_or_create(&tp(number), || ());
        }
        String::new()
    })
    .expect(
        |_, results| {
            assert!(!results.iter().any(|said| said == "[0, 2]"), "0 and 2 without 1 was never there");
            "whole".into()
        },
        &["whole"],
    )
}
