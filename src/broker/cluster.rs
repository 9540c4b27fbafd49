//! What a producer knows of a cluster: a snapshot of topics, partitions and leaders.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::error::TopicPartition;
use crate::primitive::table::Table;

/// A broker's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub i32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// A partition's leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Who leads.
    pub node: NodeId,
    /// Since which epoch, if known.
    pub epoch: Option<i32>,
}

/// One snapshot of the metadata. Immutable: an update makes a new one. Source: Kafka's `Cluster` and `MetadataSnapshot`.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// Of each partition, by its number, the leader, and the partition's place among those that it leads.
    topics: Table<Arc<str>, Vec<Option<(Leader, usize)>>>,
    led: BTreeMap<NodeId, Vec<TopicPartition>>,
}

impl Cluster {
    /// A cluster of `topics`, each with the leader of each of its partitions in order of number, `None` where there is none now.
    pub fn new(topics: impl IntoIterator<Item = (Arc<str>, Vec<Option<Leader>>)>) -> Self {
        let mut cluster = Self::default();
        for (topic, leaders) in topics {
            let place = |(partition, leader): (i32, Option<Leader>)| {
                let leader = leader?;
                let led = cluster.led.entry(leader.node).or_default();
                led.push(TopicPartition { topic: topic.clone(), partition });
                Some((leader, led.len() - 1))
            };
            let placed = (0..).zip(leaders).map(place).collect();
            cluster.topics.insert(topic, placed);
        }
        cluster
    }

    /// One node that leads every partition of `topics`, given as name and number of partitions.
    pub fn single_node<'a>(node: NodeId, topics: impl IntoIterator<Item = (&'a str, i32)>) -> Self {
        let leader = Leader { node, epoch: Some(0) };
        Self::new(topics.into_iter().map(|(topic, partitions)| {
            (Arc::from(topic), vec![Some(leader); usize::try_from(partitions).unwrap_or(0)])
        }))
    }

    /// The same with `leader` for `topic_partition`; `None` if the partition is unknown, or its leader is known as of that epoch or a newer one.
    pub fn with_leader(&self, topic_partition: &TopicPartition, leader: Leader) -> Option<Self> {
        let at = usize::try_from(topic_partition.partition).ok()?;
        let known = self.topics.get(&topic_partition.topic)?.get(at)?.map(|(leader, _)| leader);
        if known.is_some_and(|known| leader.epoch <= known.epoch) {
            return None;
        }
        let mut topics: Vec<(Arc<str>, Vec<Option<Leader>>)> = self
            .topics
            .iter()
            .map(|(topic, placed)| {
                (topic.clone(), placed.iter().map(|placed| placed.map(|(leader, _)| leader)).collect())
            })
            .collect();
        // Places follow the names, so that a snapshot does not depend on the table's order.
        topics.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        topics.iter_mut().find(|(topic, _)| *topic == topic_partition.topic)?.1[at] = Some(leader);
        Some(Self::new(topics))
    }

    /// The leader of a partition, if it is known and there is one.
    pub fn leader(&self, topic_partition: &TopicPartition) -> Option<Leader> {
        self.place(topic_partition).map(|(leader, _)| leader)
    }

    /// The leader of a partition, if it is known and there is one, and the partition's place among [`Cluster::led_by`] that.
    pub fn place(&self, topic_partition: &TopicPartition) -> Option<(Leader, usize)> {
        let leaders = self.topics.get(&topic_partition.topic)?;
        *leaders.get(usize::try_from(topic_partition.partition).ok()?)?
    }

    /// Partitions of a topic, if it is known.
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        self.topics.get(topic).and_then(|leaders| i32::try_from(leaders.len()).ok())
    }

    /// The partitions that `node` leads, always in the same order within a snapshot.
    pub fn led_by(&self, node: NodeId) -> &[TopicPartition] {
        self.led.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Nodes that lead anything, in the order of their numbers: what goes through them goes the same way in each run.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.led.keys().copied()
    }

    /// Topics known.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> + '_ {
        self.topics.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_come_in_the_order_of_their_numbers() {
        let leader = |node| Some(Leader { node: NodeId(node), epoch: None });
        let leaders = [7, 3, -1, 9, 3, 12, 0, 5, 8].map(leader).to_vec();
        let cluster = Cluster::new([("t".into(), leaders)]);
        assert_eq!(cluster.nodes().map(|node| node.0).collect::<Vec<_>>(), [-1, 0, 3, 5, 7, 8, 9, 12]);
        assert_eq!(cluster.led_by(NodeId(3)), [1, 4].map(|partition| TopicPartition::new("t", partition)));
        assert_eq!(cluster.led_by(NodeId(1)), []);
        for node in cluster.nodes() {
            for (place, one) in cluster.led_by(node).iter().enumerate() {
                assert_eq!(cluster.place(one), Some((Leader { node, epoch: None }, place)), "{one}");
            }
        }
    }

    #[test]
    fn send_16_a_newer_leader_is_taken_and_an_older_one_is_not() {
        let leader = |node, epoch| Leader { node: NodeId(node), epoch };
        let cluster = Cluster::new([("t".into(), vec![Some(leader(1, Some(4))), None])]);
        let at = |partition| TopicPartition::new("t", partition);
        assert!(cluster.with_leader(&at(0), leader(2, Some(4))).is_none());
        assert!(cluster.with_leader(&at(0), leader(2, None)).is_none());
        assert!(cluster.with_leader(&at(2), leader(2, Some(9))).is_none());
        let newer = cluster.with_leader(&at(0), leader(2, Some(5))).unwrap();
        assert_eq!(newer.leader(&at(0)), Some(leader(2, Some(5))));
        assert_eq!((newer.led_by(NodeId(1)).len(), newer.led_by(NodeId(2))), (0, &[at(0)][..]));
        assert_eq!(cluster.with_leader(&at(1), leader(2, None)).unwrap().leader(&at(1)), Some(leader(2, None)));
        // Whatever the order of a table: places follow the names.
        let names = ["q", "t", "b", "z", "k"].map(Arc::<str>::from);
        let cluster = Cluster::new(names.map(|name| (name, vec![Some(leader(1, Some(4)))])));
        let led = cluster.with_leader(&at(0), leader(1, Some(5))).unwrap();
        let led: Vec<&str> = led.led_by(NodeId(1)).iter().map(|one| &*one.topic).collect();
        assert_eq!(led, ["b", "k", "q", "t", "z"]);
    }
}
