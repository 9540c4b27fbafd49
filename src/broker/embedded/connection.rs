//! One client's connections to the broker's nodes: what has arrived, what is on its way back, and when. No threads: time is an argument.
//!
//! Per node, requests are handled in the order in which they came, as soon as the node reads. Answers come back in the same order, each not before
//! the latency drawn for it. Out of order are only answers that a fault delays on their own, and requests whose answer does not come
//! within their timeout: they end then, and hold nobody up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::fault::{Fate, NodeState};
use super::server::{Handled, Server};
use crate::broker::{Acks, NodeId, Outcome, ProduceRequest, ProduceResponse};
use crate::primitive::clock::Instant;

/// One client's connections, driven by hand: for a simulation, which has no threads. [`EmbeddedClient`](super::EmbeddedClient) is one of these
/// and a thread.
///
/// ```
/// use unlatched::broker::embedded::EmbeddedBroker;
/// use unlatched::primitive::clock::Instant;
///
/// let broker = EmbeddedBroker::builder().open()?;
/// let mut connection = broker.connection();
/// let mut ended = Vec::new();
/// assert_eq!(connection.advance(Instant::ZERO, &mut ended), None, "nothing is in flight");
/// # Ok::<(), unlatched::broker::embedded::EmbeddedError>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    server: Arc<Server>,
    links: BTreeMap<NodeId, Link>,
}

#[derive(Debug, Default)]
struct Link {
    /// Not handled yet.
    arrived: VecDeque<Arrived>,
    /// Handled, in that order.
    handled: VecDeque<InFlight>,
    /// When the latest answer that keeps the order comes.
    latest: Instant,
    /// How often connections to the node had been broken when ours was made.
    breaks: u64,
}

#[derive(Debug)]
struct Arrived {
    request: ProduceRequest,
    deadline: Instant,
}

#[derive(Debug)]
struct InFlight {
    request: ProduceRequest,
    outcome: Outcome,
    /// When it ends.
    at: Instant,
}

impl Connection {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self { server, links: BTreeMap::new() }
    }

    /// A request arrives. It is handled by the next [`Connection::advance`].
    pub fn submit(&mut self, request: ProduceRequest, now: Instant) {
        let node = request.node;
        let link = self.links.entry(node).or_default();
        if link.is_idle() {
            // What was broken before this request is no matter of its.
            link.breaks = self.server.faults().state(node, now).breaks;
        }
        let deadline = now.saturating_add(request.timeout);
        link.arrived.push_back(Arrived { request, deadline });
    }

    /// Requests that have not ended.
    pub fn in_flight(&self) -> usize {
        self.links.values().map(|link| link.arrived.len() + link.handled.len()).sum()
    }

    /// Handles what can be handled at `now`, and moves what has ended by then to `ended`. Returns when it wants to be called again, if nothing
    /// else happens before: `None` means not at all.
    pub fn advance(&mut self, now: Instant, ended: &mut Vec<ProduceResponse>) -> Option<Instant> {
        let server = &self.server;
        self.links.iter_mut().filter_map(|(node, link)| link.advance(server, *node, now, ended)).min()
    }
}

impl Link {
    fn is_idle(&self) -> bool {
        self.arrived.is_empty() && self.handled.is_empty()
    }

    fn advance(
        &mut self,
        server: &Server,
        node: NodeId,
        now: Instant,
        ended: &mut Vec<ProduceResponse>,
    ) -> Option<Instant> {
        if self.is_idle() {
            return None;
        }
        let NodeState { breaks, down, silent } = server.faults().state(node, now);
        if breaks != self.breaks || down || !server.has_node(node) {
            self.breaks = breaks;
            self.disconnect(ended);
            return None;
        }
        self.expire(now, ended);
        if silent.is_none() {
            while let Some(arrived) = self.arrived.pop_front() {
                self.handle(server, arrived, now, ended);
            }
        }
        self.deliver(now, ended);
        let first_end = self.handled.iter().map(|in_flight| in_flight.at).min();
        let first_deadline = self.arrived.iter().map(|arrived| arrived.deadline).min();
        let resumed = silent.flatten().filter(|_| !self.arrived.is_empty());
        first_end.into_iter().chain(first_deadline).chain(resumed).min()
    }

    /// Everything in flight comes back; whether it was written is not known to the client.
    fn disconnect(&mut self, ended: &mut Vec<ProduceResponse>) {
        let handled = self.handled.drain(..).map(|in_flight| in_flight.request);
        let requests = handled.chain(self.arrived.drain(..).map(|arrived| arrived.request));
        ended.extend(requests.map(|request| ProduceResponse::new(request, Outcome::Disconnected)));
        self.latest = Instant::ZERO;
    }

    /// Requests whose time was up before the node read them.
    fn expire(&mut self, now: Instant, ended: &mut Vec<ProduceResponse>) {
        for _ in 0..self.arrived.len() {
            match self.arrived.pop_front() {
                Some(Arrived { request, deadline }) if deadline <= now => {
                    ended.push(ProduceResponse::new(request, Outcome::TimedOut));
                }
                Some(live) => self.arrived.push_back(live),
                None => {}
            }
        }
    }

    fn handle(&mut self, server: &Server, arrived: Arrived, now: Instant, ended: &mut Vec<ProduceResponse>) {
        let Arrived { request, deadline } = arrived;
        let Handled { answer, plan } = server.handle(&request);
        if matches!(plan.fate, Fate::Disconnected { .. }) {
            // It was the last to be handled, so it goes behind those before it and in front of those after it.
            self.handled.push_back(InFlight { request, outcome: Outcome::Disconnected, at: now });
            self.disconnect(ended);
            return;
        }
        if request.acks == Acks::None {
            // It ended when it was written to the connection; nobody waits for an answer that could be late or lost.
            self.handled.push_back(InFlight { request, outcome: Outcome::Written, at: now });
            return;
        }
        let due = match (plan.fate, plan.delay) {
            (Fate::Lost { .. } | Fate::Disconnected { .. }, _) => None,
            (Fate::Answered | Fate::UnsupportedVersion, Some(delay)) => {
                Some(now.saturating_add(plan.latency).saturating_add(delay))
            }
            (Fate::Answered | Fate::UnsupportedVersion, None) => {
                self.latest = self.latest.max(now.saturating_add(plan.latency));
                Some(self.latest)
            }
        };
        let outcome = match plan.fate {
            Fate::UnsupportedVersion => Outcome::UnsupportedVersion,
            _ => Outcome::Answered(answer),
        };
        self.handled.push_back(match due.filter(|due| *due <= deadline) {
            Some(at) => InFlight { request, outcome, at },
            None => InFlight { request, outcome: Outcome::TimedOut, at: deadline },
        });
    }

    /// What has ended by `now`, in order of its end, then of its request.
    fn deliver(&mut self, now: Instant, ended: &mut Vec<ProduceResponse>) {
        let mut due = Vec::new();
        for _ in 0..self.handled.len() {
            match self.handled.pop_front() {
                Some(in_flight) if in_flight.at <= now => due.push(in_flight),
                Some(live) => self.handled.push_back(live),
                None => {}
            }
        }
        due.sort_by_key(|in_flight| in_flight.at);
        ended.extend(due.into_iter().map(|InFlight { request, outcome, .. }| ProduceResponse::new(request, outcome)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::ErrorCode;
    use crate::broker::embedded::test_support::request;
    use crate::broker::embedded::{EmbeddedBroker, Fault};
    use crate::error::TopicPartition;
    use crate::primitive::clock::{Clock, ManualClock};

    const MS: Duration = Duration::from_millis(1);

    struct World {
        clock: Arc<ManualClock>,
        broker: EmbeddedBroker,
        connection: Connection,
        at: TopicPartition,
    }

    /// How a request ended.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum End {
        Offset(i64),
        Refused(ErrorCode),
        Written,
        TimedOut,
        Disconnected,
        UnsupportedVersion,
    }
    use End::{Disconnected, Offset, Refused, TimedOut, UnsupportedVersion, Written};

    impl World {
        fn new(nodes: i32) -> Self {
            let clock = ManualClock::at(0);
            let broker = EmbeddedBroker::builder().nodes(nodes).clock(clock.clone()).seed(3).open().unwrap();
            broker.create_topic("t", nodes).unwrap();
            let connection = broker.connection();
            Self { clock, broker, connection, at: TopicPartition::new("t", 0) }
        }

        fn submit(&mut self, id: u64) {
            self.submit_with(id, |_| ());
        }

        fn submit_with(&mut self, id: u64, change: impl FnOnce(&mut ProduceRequest)) {
            let mut request = request(id, &[&self.at]);
            change(&mut request);
            self.connection.submit(request, self.clock.now());
        }

        /// Lets `by` pass; what has ended then, and how long the connection would sleep.
        fn after(&mut self, by: Duration) -> (Vec<(u64, End)>, Option<Duration>) {
            self.clock.advance(by);
            let mut ended = Vec::new();
            let now = self.clock.now();
            let next = self.connection.advance(now, &mut ended);
            let end = |response: ProduceResponse| {
                let end = match response.outcome {
                    Outcome::Answered(answer) if answer[0].error == ErrorCode::None => Offset(answer[0].base_offset),
                    Outcome::Answered(answer) => Refused(answer[0].error),
                    Outcome::Written => Written,
                    Outcome::TimedOut => TimedOut,
                    Outcome::Disconnected => Disconnected,
                    Outcome::UnsupportedVersion => UnsupportedVersion,
                };
                (response.request.id, end)
            };
            (ended.into_iter().map(end).collect(), next.map(|next| next.saturating_since(now)))
        }

        fn written(&self) -> i64 {
            self.broker.end_offset(&self.at).unwrap()
        }
    }

    #[test]
    fn link_answers_at_once_and_in_order_without_faults() {
        let mut world = World::new(1);
        (0..5).for_each(|id| world.submit(id));
        assert_eq!(world.connection.in_flight(), 5);
        let ends = (0..5).map(|id| (id, Offset(id as i64))).collect();
        assert_eq!(world.after(Duration::ZERO), (ends, None));
        assert_eq!(world.connection.in_flight(), 0);
    }

    #[test]
    fn link_keeps_the_order_of_answers_under_jitter() {
        let mut world = World::new(1);
        world.broker.faults().set_latency(10 * MS, 90 * MS);
        let mut ended = Vec::new();
        for id in 0..50 {
            world.submit(id);
            ended.extend(world.after(7 * MS).0);
        }
        while let Some(sleep) = world.after(Duration::ZERO).1 {
            let (ends, _) = world.after(sleep);
            assert!(!ends.is_empty(), "the time to be called again is that of an end");
            ended.extend(ends);
        }
        assert_eq!(ended, (0..50).map(|id| (id, Offset(id as i64))).collect::<Vec<_>>());
    }

    #[test]
    fn link_latency_is_neither_early_nor_late() {
        let mut world = World::new(1);
        world.broker.faults().set_latency(10 * MS, Duration::ZERO);
        world.submit(0);
        assert_eq!(world.after(Duration::ZERO), (vec![], Some(10 * MS)));
        assert_eq!(world.written(), 1, "handled on arrival");
        assert_eq!(world.after(9 * MS), (vec![], Some(MS)));
        assert_eq!(world.after(MS), (vec![(0, Offset(0))], None));
    }

    #[test]
    fn send_10_a_lost_answer_times_out_written_and_holds_nobody_up() {
        let mut world = World::new(1);
        world.broker.faults().inject(Fault::lose_response());
        world.submit(0);
        world.submit(1);
        assert_eq!(world.after(Duration::ZERO), (vec![(1, Offset(1))], Some(30_000 * MS)));
        assert_eq!(world.after(29_999 * MS).0, []);
        assert_eq!(world.after(MS), (vec![(0, TimedOut)], None));
        assert_eq!(world.written(), 2);
    }

    #[test]
    fn send_10_a_lost_request_times_out_unwritten() {
        let mut world = World::new(1);
        world.broker.faults().inject(Fault::lose_request());
        world.submit(0);
        assert_eq!(world.after(Duration::ZERO), (vec![], Some(30_000 * MS)));
        assert_eq!(world.after(30_000 * MS), (vec![(0, TimedOut)], None));
        assert_eq!(world.written(), 0);
    }

    #[test]
    fn send_10_an_answer_later_than_the_timeout_is_a_timeout() {
        let mut world = World::new(1);
        world.broker.faults().set_latency(30_000 * MS, Duration::ZERO);
        world.submit(0);
        world.submit_with(1, |request| request.timeout = 29_999 * MS);
        assert_eq!(world.after(Duration::ZERO), (vec![], Some(29_999 * MS)));
        assert_eq!(world.after(29_998 * MS).0, []);
        assert_eq!(world.after(MS).0, [(1, TimedOut)]);
        assert_eq!(world.after(MS).0, [(0, Offset(0))], "at its timeout is in time");
    }

    #[test]
    fn link_delayed_answer_is_overtaken() {
        let mut world = World::new(1);
        world.broker.faults().inject(Fault::delay(20 * MS));
        world.submit(0);
        world.submit(1);
        assert_eq!(world.after(Duration::ZERO), (vec![(1, Offset(1))], Some(20 * MS)));
        assert_eq!(world.after(20 * MS), (vec![(0, Offset(0))], None));
    }

    #[test]
    fn link_delivers_in_order_of_ends_also_when_called_late() {
        let mut world = World::new(1);
        world.broker.faults().inject(Fault::delay(20 * MS));
        world.broker.faults().inject(Fault::lose_response());
        (0..3).for_each(|id| world.submit_with(id, |request| request.timeout = 30 * MS));
        world.broker.faults().set_latency(10 * MS, Duration::ZERO);
        assert_eq!(world.after(Duration::ZERO), (vec![], Some(10 * MS)));
        assert_eq!(world.after(100 * MS), (vec![(2, Offset(2)), (0, Offset(0)), (1, TimedOut)], None));
    }

    #[test]
    fn send_11_without_acks_nothing_is_waited_for() {
        let mut world = World::new(1);
        let faults = world.broker.faults().clone();
        faults.set_latency(10 * MS, Duration::ZERO);
        faults.inject(Fault::lose_response());
        faults.inject(Fault::fail(ErrorCode::NotEnoughReplicas));
        world.submit_with(0, |request| request.acks = Acks::None);
        world.submit_with(1, |request| request.acks = Acks::None);
        assert_eq!(world.after(Duration::ZERO), (vec![(0, Written), (1, Written)], None));
        assert_eq!(world.written(), 1, "one was refused, which nobody hears of");
    }

    #[test]
    fn send_10_a_disconnect_takes_everything_in_flight_with_it_in_order() {
        let mut world = World::new(1);
        let faults = world.broker.faults().clone();
        faults.inject(Fault::delay(MS));
        world.submit(0);
        assert_eq!(world.after(Duration::ZERO).0, []);
        faults.inject(Fault::disconnect());
        (1..4).for_each(|id| world.submit(id));
        let lost = (0..4).map(|id| (id, Disconnected)).collect();
        assert_eq!(world.after(Duration::ZERO), (lost, None));
        assert_eq!(world.written(), 1);
        faults.inject(Fault::disconnect().after_writing());
        world.submit(4);
        assert_eq!(world.after(Duration::ZERO).0, [(4, Disconnected)]);
        assert_eq!(world.written(), 2);
        world.submit(5);
        assert_eq!(world.after(Duration::ZERO).0, [(5, Offset(2))], "a new connection");
    }

    #[test]
    fn send_10_breaking_connections_takes_answers_on_their_way_of_that_node_only() {
        let mut world = World::new(2);
        let faults = world.broker.faults().clone();
        faults.break_connections(NodeId(0));
        faults.set_latency(MS, Duration::ZERO);
        world.submit(0);
        world.submit_with(1, |request| request.node = NodeId(1));
        assert_eq!(world.after(Duration::ZERO).0, [], "a break before the request is no matter of its");
        faults.break_connections(NodeId(0));
        assert_eq!(world.after(Duration::ZERO), (vec![(0, Disconnected)], Some(MS)));
        assert_eq!(world.after(MS).0, [(1, Refused(ErrorCode::NotLeaderOrFollower))]);
    }

    #[test]
    fn send_10_a_node_that_is_restarted_breaks_off_and_lets_nobody_in_until_it_is_back() {
        let mut world = World::new(1);
        let faults = world.broker.faults().clone();
        faults.set_latency(MS, Duration::ZERO);
        world.submit(0);
        assert_eq!(world.after(Duration::ZERO).0, []);
        faults.restart(NodeId(0), 10 * MS);
        assert_eq!(world.after(Duration::ZERO).0, [(0, Disconnected)], "written, and its answer lost");
        world.submit(1);
        assert_eq!(world.after(9 * MS).0, [(1, Disconnected)]);
        world.submit(2);
        assert_eq!((world.after(MS).0, world.written()), (vec![], 2), "back, with the log that it had");
        assert_eq!(world.after(MS).0, [(2, Offset(1))]);
        faults.restart(NodeId(0), 10 * MS);
        faults.clear();
        world.submit(3);
        assert_eq!(world.after(Duration::ZERO).0, [(3, Offset(2))], "cleared");
    }

    #[test]
    fn send_10_an_unsupported_version_is_answered_in_order_and_writes_nothing() {
        let mut world = World::new(1);
        world.broker.faults().set_latency(MS, Duration::ZERO);
        world.broker.faults().inject(Fault::unsupported_version());
        world.submit(0);
        world.submit(1);
        assert_eq!(world.after(Duration::ZERO).0, []);
        assert_eq!(world.after(MS).0, [(0, UnsupportedVersion), (1, Offset(0))]);
    }

    #[test]
    fn link_silent_node_reads_later_what_has_not_timed_out() {
        let mut world = World::new(1);
        world.broker.faults().silence(NodeId(0), 50 * MS);
        world.submit_with(0, |request| request.timeout = 20 * MS);
        world.submit(1);
        assert_eq!(world.after(Duration::ZERO), (vec![], Some(20 * MS)));
        assert_eq!(world.after(20 * MS), (vec![(0, TimedOut)], Some(30 * MS)));
        assert_eq!(world.written(), 0);
        assert_eq!(world.after(30 * MS), (vec![(1, Offset(0))], None));
    }

    #[test]
    fn link_node_silenced_for_good_reads_when_resumed() {
        let mut world = World::new(1);
        let faults = world.broker.faults().clone();
        faults.silence_until_resumed(NodeId(0));
        world.submit(0);
        assert_eq!(world.after(1_000 * MS), (vec![], Some(29_000 * MS)));
        faults.resume(NodeId(0));
        assert_eq!(world.after(Duration::ZERO).0, [(0, Offset(0))]);
    }

    #[test]
    fn link_to_a_node_that_is_not_there_is_lost_at_once() {
        let mut world = World::new(1);
        world.submit_with(0, |request| request.node = NodeId(9));
        assert_eq!(world.after(Duration::ZERO), (vec![(0, Disconnected)], None));
    }
}
