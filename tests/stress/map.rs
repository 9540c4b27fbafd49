//! The partition map: racing callers get one entry and the same, a walk sees it once, and it lives until the last handle lets go (MAP-03, MAP-06 to MAP-08).

use std::collections::HashMap;
use std::sync::Arc;

use unlatched::error::TopicPartition;
use unlatched::mutex::CopyOnWriteMap;
use unlatched::partition_map::{PartitionMap, SegmentedMap};
use unlatched::primitive::lock::ParkingLot;
use unlatched::primitive::random::Random;

use crate::threads::Worker;
use crate::{assert_let_go, on_each, rounds};

on_each![
    [entries_are_one_for_all_and_outlive_the_map],
    mutex_parking_lot: CopyOnWriteMap<Value, ParkingLot>,
    lockfree: SegmentedMap<Value>,
];

const THREADS: usize = 4;
const STEPS: usize = 150;
/// As many as make their table grow.
const TOPICS: [&str; 16] =
    ["flights", "airports", "carriers", "planes", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

/// What an entry holds: what it was made for, on the heap, so that a sanitizer sees who reads it too late.
struct Value {
    made_for: Box<(String, i32)>,
    _alive: Arc<()>,
}

impl Value {
    fn assert_is(&self, topic: &str, partition: i32) {
        assert_eq!((self.made_for.0.as_str(), self.made_for.1), (topic, partition));
    }

    /// Entries are told apart by where they are: they never move (MAP-06).
    fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

type Place = (&'static str, i32);

/// Which entry stood for a partition.
type Seen = HashMap<Place, usize>;

struct Walker<M: PartitionMap<Value>> {
    map: Arc<M>,
    random: Random,
    alive: Arc<()>,
    /// Whether the map may be emptied: then an entry can be another the next time.
    clears: bool,
    handles: Vec<(Place, M::Handle)>,
    seen: Seen,
}

impl<M: PartitionMap<Value>> Walker<M> {
    /// Few partitions, so that threads meet; some without a slot of their own.
    fn place(&mut self) -> Place {
        // Most of it in few topics, so that threads meet.
        let topics = if self.random.below(4) == 0 { TOPICS.len() as u64 } else { 3 };
        let topic = TOPICS[self.random.below(topics) as usize];
        let partition = match self.random.below(8) {
            // Sixteen of them, so that their table grows.
            0 => [-1, i32::MAX, i32::MIN, 1 << 20][self.random.below(4) as usize] ^ self.random.below(4) as i32,
            // Of a later segment.
            1 => 200 + self.random.below(4) as i32,
            _ => self.random.below(24) as i32,
        };
        (topic, partition)
    }

    fn see(&mut self, topic: &'static str, partition: i32, value: &Value) {
        value.assert_is(topic, partition);
        let before = self.seen.insert((topic, partition), value.identity());
        assert!(
            self.clears || before.is_none_or(|before| before == value.identity()),
            "{topic}-{partition} has two entries"
        );
    }

    fn walk(&mut self) {
        let mut met = HashMap::new();
        self.map.for_each(|place, value| {
            value.assert_is(&place.topic, place.partition);
            assert!(met.insert(place.clone(), value.identity()).is_none(), "{place} comes twice in a walk");
        });
        if !self.clears {
            for ((topic, partition), identity) in &self.seen {
                let found = met.get(&TopicPartition::new(*topic, *partition));
                assert_eq!(found, Some(identity), "{topic}-{partition} was there and a walk did not meet it");
            }
        }
    }

    fn step(&mut self) {
        let (topic, partition) = self.place();
        match self.random.below(100) {
            0..40 => {
                let made_for = Box::new((topic.to_owned(), partition));
                let alive = self.alive.clone();
                let place = TopicPartition::new(topic, partition);
                let handle = self.map.get_or_create(&place, || Value { made_for, _alive: alive });
                self.see(topic, partition, &handle);
                self.handles.push(((topic, partition), handle));
            }
            40..60 => {
                if let Some(handle) = self.map.get(topic, partition) {
                    self.see(topic, partition, &handle);
                    self.handles.push(((topic, partition), handle));
                }
            }
            60..80 => {
                let read = |value: &Value| {
                    value.assert_is(topic, partition);
                    value.identity()
                };
                let found = self.map.with(topic, partition, read);
                let known = self.seen.get(&(topic, partition)).copied();
                assert!(self.clears || known.is_none() || found == known, "{topic}-{partition} has vanished");
            }
            80..90 => {
                // Those that are kept are read now and then, whatever has become of the map.
                for ((topic, partition), handle) in &self.handles {
                    handle.assert_is(topic, *partition);
                }
                let keep = self.random.below(self.handles.len() as u64 + 1) as usize;
                self.handles.truncate(keep);
            }
            90..98 => self.walk(),
            _ if self.clears => self.map.clear(),
            _ => drop(self.map.len()),
        }
    }

    fn run(mut self) -> (Seen, Vec<(Place, M::Handle)>) {
        for _ in 0..STEPS {
            self.step();
        }
        // The map goes with the last of the threads, before the handles.
        (self.seen, self.handles)
    }
}

fn entries_are_one_for_all_and_outlive_the_map<M: PartitionMap<Value>>()
where
    M::Handle: 'static,
{
    rounds(|random| {
        let alive = Arc::new(());
        let clears = random.below(2) == 0;
        let map = Arc::new(M::default());
        let walkers: Vec<_> = (0..THREADS)
            .map(|_| {
                let (map, alive) = (map.clone(), alive.clone());
                let random = Random::seeded(random.below(u64::MAX));
                let walker = Walker { map, random, alive, clears, handles: Vec::new(), seen: Seen::new() };
                Worker::start(move || walker.run())
            })
            .collect();
        drop(map);
        let mut all = Seen::new();
        let mut outliving = Vec::new();
        for (seen, handles) in walkers.into_iter().map(Worker::result) {
            for (place, identity) in seen {
                let other = all.insert(place, identity);
                assert!(clears || other.is_none_or(|other| other == identity), "{place:?}: not the same for all");
            }
            outliving.push(handles);
        }
        let last: Vec<_> = outliving
            .into_iter()
            .map(|handles| {
                Worker::start(move || {
                    for ((topic, partition), handle) in handles {
                        handle.assert_is(topic, partition);
                    }
                })
            })
            .collect();
        last.into_iter().for_each(Worker::result);
        assert_let_go("every entry is freed", &alive);
    });
}
