//! What is queued, by partition. A partition that has something has a place here, written into its lane, so that a batch finds its queue without a look-up; it keeps that place until it has nothing.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};
use std::ptr::NonNull;

use super::super::books::Node;
use super::super::lane::LaneHandle;
use crate::batch::SealedBatch;
use crate::broker::{Cluster, Leader};

/// What is queued of a partition.
pub(super) struct Queue {
    pub(super) lane: LaneHandle,
    /// Put back, then taken, in the order in which they are to be drained.
    pub(super) ready: VecDeque<SealedBatch>,
    /// Not taken yet, by their numbers.
    pub(super) line: VecDeque<NonNull<Node>>,
    /// Batches in the lines of lanes that appenders own.
    pub(super) owned: usize,
}

/// A queue that can be drained, and where its partition stands in the cluster.
pub(super) struct Place {
    /// Among the partitions that its leader leads.
    pub(super) index: usize,
    pub(super) leader: Leader,
    /// Among the queues.
    pub(super) at: usize,
}

/// The queues, by their places.
#[derive(Default)]
pub(super) struct Queues {
    places: Vec<Option<Queue>>,
    free: Vec<usize>,
    /// Places that are not free.
    used: Vec<usize>,
}

impl Queues {
    /// The place of a lane's queue, which it is given if it has none.
    pub(super) fn of(&mut self, lane: &LaneHandle) -> usize {
        lane.kept_at().unwrap_or_else(|| {
            let at = self.free.pop().unwrap_or_else(|| {
                self.places.push(None);
                self.places.len() - 1
            });
            lane.keep_at(Some(at));
            self.places[at] =
                Some(Queue { lane: lane.clone(), ready: VecDeque::new(), line: VecDeque::new(), owned: 0 });
            self.used.push(at);
            at
        })
    }

    /// All of them, with their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Queue)> {
        self.used.iter().map(|at| (*at, &self[*at]))
    }

    /// Looks at each that has something; the others lose their places.
    pub(super) fn retain_used(&mut self, mut look: impl FnMut(&mut Queue)) {
        let Self { places, free, used } = self;
        used.retain(|at| {
            let place = &mut places[*at];
            let has_any = |queue: &&mut Queue| !(queue.ready.is_empty() && queue.line.is_empty() && queue.owned == 0);
            if let Some(queue) = place.as_mut().filter(has_any) {
                look(queue);
                return true;
            }
            if let Some(queue) = place.take() {
                queue.lane.keep_at(None);
            }
            free.push(*at);
            false
        });
    }

    /// Those that can be drained to some node, in the order of the partitions that it leads (GAP-31: nothing else is looked at).
    pub(super) fn places(&self, cluster: &Cluster) -> Vec<Place> {
        let queued = self.iter().filter(|(_, queue)| !(queue.ready.is_empty() && queue.line.is_empty()));
        let place = |(at, queue): (usize, &Queue)| {
            let (leader, index) = cluster.place(queue.lane.topic_partition())?;
            Some(Place { index, leader, at })
        };
        let mut places = Vec::with_capacity(self.used.len());
        places.extend(queued.filter_map(place));
        places.sort_unstable_by_key(|place| (place.leader.node, place.index));
        places
    }
}

impl Index<usize> for Queues {
    type Output = Queue;

    fn index(&self, at: usize) -> &Queue {
        self.places[at].as_ref().expect("a queue keeps its place while it has anything")
    }
}

impl IndexMut<usize> for Queues {
    fn index_mut(&mut self, at: usize) -> &mut Queue {
        self.places[at].as_mut().expect("a queue keeps its place while it has anything")
    }
}
