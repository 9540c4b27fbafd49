//! Suite `sender`: what the whole sender costs for a batch, where few of many known partitions have data.
//!
//! - `active-16`: in turn, untimed, each of 16 partitions gets a batch that is full, as in suite `drain`; then, timed, one thread runs passes of an idempotent [`Sender`] until all of them have been acknowledged: what is ready, drain, stamp,
//!   submission, answer, completion, memory back. The broker is a mirror: it answers at once, in the same poll, and does nothing else. An operation is a batch, `seconds` is the time inside of passes, and `p*_ns` is that of a whole turn. `NAME of N`: as in suite `drain`.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::drain::{ACTIVE, Known, comparisons};
use super::load::{cpu_time, histogram, nanos};
use super::{Impl, Mode, Run, Scenario, Task};
use crate::accumulator::{Accumulator, LockFreeAccumulator};
use crate::broker::{
    Broker, Cluster, Leader, NodeId, Outcome, PartitionResponse, ProduceRequest, ProduceResponse, ProducerIdAndEpoch,
    Response,
};
use crate::error::TopicPartition;
use crate::mutex::{ParkingLotAccumulator, StdAccumulator};
use crate::primitive::clock::{Clock, Instant};
use crate::sender::{Sender, SenderConfig};

pub(super) fn scenarios(_: Mode) -> Vec<Scenario> {
    let most = if cfg!(test) { 2_000 } else { 100_000 };
    vec![Scenario {
        name: "active-16",
        threads: &[1],
        any_threads: false,
        partitions: Some(ACTIVE),
        record_bytes: Some(100),
        once: false,
        impls: vec![
            row::<LockFreeAccumulator>("lockfree of 16", 16),
            row::<LockFreeAccumulator>("lockfree of 1000", 1_000),
            row::<LockFreeAccumulator>("lockfree of 100000", most),
            row::<StdAccumulator>("mutex of 16", 16),
            row::<StdAccumulator>("mutex of 1000", 1_000),
            row::<StdAccumulator>("mutex of 100000", most),
            row::<ParkingLotAccumulator>("mutex-parking-lot of 16", 16),
            row::<ParkingLotAccumulator>("mutex-parking-lot of 1000", 1_000),
            row::<ParkingLotAccumulator>("mutex-parking-lot of 100000", most),
        ],
        comparisons: comparisons(Some(1.0)),
    }]
}

fn row<A: Accumulator>(name: &'static str, known: usize) -> Impl {
    // Known partitions take a while to make: one sender for all runs.
    let bench = std::cell::OnceCell::new();
    Impl {
        name,
        run: Box::new(move |task| {
            bench.get_or_init(|| std::cell::RefCell::new(Bench::<A>::new(known))).borrow_mut().run(task)
        }),
    }
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

impl<A: Accumulator> Bench<A> {
    fn new(known: usize) -> Self {
        let (known, view) = Known::new(known);
        let mirror = Mirror { cluster: Arc::clone(&known.cluster), responses: Vec::new(), batches: 0 };
        let (accumulator, clock) = (Arc::clone(&known.accumulator), known.clock.clone());
        Self { known, sender: Sender::new(accumulator, view, mirror, clock, SenderConfig::default()) }
    }

    fn run(&mut self, task: &Task) -> Run {
        let (mut latency, mut elapsed, mut cpu, mut batches) = (histogram(), Duration::ZERO, Duration::ZERO, 0);
        while elapsed < task.time && batches < task.ops {
            self.known.fill();
            let (before, cpu_before) = (self.known.clock.now(), cpu_time());
            let turn = self.turn();
            let took = self.known.clock.now().saturating_since(before);
            cpu += cpu_time().saturating_sub(cpu_before);
            latency += nanos(took);
            elapsed += took;
            batches += turn;
        }
        Run { elapsed, ops: batches, cpu, latency, open: None, extra: self.known.extra(elapsed, batches) }
    }

    /// Passes until every full batch was acknowledged. How many batches.
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
    use super::*;

    fn a_turn_acknowledges_all<A: Accumulator>() {
        let mut bench = Bench::<A>::new(1_600);
        let run = bench.run(&Task::of_ops(1, 64));
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
