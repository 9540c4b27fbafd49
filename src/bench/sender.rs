//! Suite `sender`: what the whole sender costs for a batch, where few of many known partitions have data.
//!
//! - `active-16`: in turn, untimed, each of 16 partitions gets a batch that is full, as in suite `drain`; then, timed, one thread runs passes of an idempotent [`Sender`] until all of them have been acknowledged: what is ready, drain, stamp,
//!   submission, answer, completion, memory back. The broker is a mirror: it answers at once, in the same poll, and does nothing else. An operation is a batch, `seconds` is the time inside of passes, and `p*_ns` is that of a whole turn. `NAME of N`: as in suite `drain`.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::drain::{ACTIVE, Known, Turns, active_16};
use super::{Mode, Scenario};
use crate::accumulator::{Accumulator, LockFreeAccumulator};
use crate::broker::{
    Broker, Cluster, Leader, NodeId, Outcome, PartitionResponse, ProduceRequest, ProduceResponse, ProducerIdAndEpoch,
    Response,
};
use crate::error::TopicPartition;
use crate::mutex::{ParkingLotAccumulator, StdAccumulator};
use crate::primitive::clock::Instant;
use crate::sender::{Sender, SenderConfig};

pub(super) fn scenarios(_: Mode) -> Vec<Scenario> {
    vec![active_16::<Bench<LockFreeAccumulator>, Bench<StdAccumulator>, Bench<ParkingLotAccumulator>>(Some(1.0))]
}

/// A broker that answers in the poll that follows.
#[derive(Debug)]
struct Mirror {
    cluster: Arc<Cluster>,
    responses: Vec<Response>,
    /// Batches acknowledged.
    batches: u64,
}

impl Broker for Mirror {
    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.cluster)
    }

    fn request_update(&mut self) {}

    fn update_leader(&mut self, _: &TopicPartition, _: Leader) {}

    fn ready(&mut self, _: NodeId, _: Instant) -> Result<(), Duration> {
        Ok(())
    }

    fn submit(&mut self, request: ProduceRequest, _: Instant) -> Result<(), ProduceRequest> {
        self.batches += request.batches.len() as u64;
        let written =
            request.batches.iter().map(|batch| PartitionResponse::written(batch.topic_partition().clone(), 0));
        let answer = Outcome::Answered(written.collect());
        self.responses.push(ProduceResponse::new(request, answer).into());
        Ok(())
    }

    fn init_producer_id(&mut self, _: Duration, _: Instant) -> Result<(), Duration> {
        self.responses.push(Response::InitProducerId(Ok(ProducerIdAndEpoch::new(1))));
        Ok(())
    }

    fn poll(&mut self, _: Duration, responses: &mut Vec<Response>) {
        responses.append(&mut self.responses);
    }

    fn waker(&self) -> Waker {
        Waker::noop().clone()
    }
}

struct Bench<A: Accumulator> {
    known: Known<A>,
    sender: Sender<A, Mirror>,
}

impl<A: Accumulator> Turns for Bench<A> {
    type Accumulator = A;

    fn new(known: usize) -> Self {
        let (known, view) = Known::new(known);
        let mirror = Mirror { cluster: Arc::clone(&known.cluster), responses: Vec::new(), batches: 0 };
        let (accumulator, clock) = (Arc::clone(&known.accumulator), known.clock.clone());
        Self { known, sender: Sender::new(accumulator, view, mirror, clock, SenderConfig::default()) }
    }

    fn known(&self) -> &Known<A> {
        &self.known
    }

    /// Passes until all were acknowledged.
    fn turn(&mut self) -> u64 {
        let before = self.sender.broker().batches;
        loop {
            self.sender.run_once(Duration::ZERO);
            let batches = self.sender.broker().batches - before;
            if batches >= ACTIVE as u64 {
                return batches;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Task;
    use super::super::drain::run;
    use super::*;

    fn a_turn_acknowledges_all<A: Accumulator>() {
        let mut bench = Bench::<A>::new(1_600);
        let run = run(&mut bench, &Task::of_ops(1, 64));
        assert_eq!((run.ops, run.latency.len()), (64, 4));
        assert_eq!((bench.sender.in_flight(), bench.sender.broker().responses.len()), (0, 0), "all were answered");
        let stats = bench.sender.stats().snapshot();
        assert_eq!((stats.batches, stats.completed), (64, stats.records));
        assert!(stats.completed > 64 * 50, "full ones: {stats:?}");
        let first = TopicPartition::new("topic-0", 0);
        assert!(bench.sender.idempotence().is_some_and(|state| state.next_sequence(&first) > 0), "stamped");
        bench.sender.run_once(Duration::ZERO);
        assert_eq!(bench.sender.broker().batches, 64, "what was begun behind a full batch waits for company");
    }

    #[test]
    fn a_turn_acknowledges_a_full_batch_of_each_active_partition() {
        a_turn_acknowledges_all::<LockFreeAccumulator>();
        a_turn_acknowledges_all::<ParkingLotAccumulator>();
    }
}
