//! One client's connections to the broker's nodes: what has arrived, what is on its way back, and when. No threads: time is an argument.
//!
//! Per node, requests are handled in the order in which they came, as soon as the node reads. Answers come back in the same order, each not before
//! the latency drawn for it. Out of order are only answers that a fault delays on their own, and requests whose answer does not come
//! within their timeout: they end then, and hold nobody up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::fault::Fate;
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
            link.breaks = self.server.faults().state(node, now).0;
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
        let (breaks, silent) = server.faults().state(node, now);
        if breaks != self.breaks || !server.has_node(node) {
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
        ended.extend(requests.map(|request| ProduceResponse { request, outcome: Outcome::Disconnected }));
        self.latest = Instant::ZERO;
    }

    /// Requests whose time was up before the node read them.
    fn expire(&mut self, now: Instant, ended: &mut Vec<ProduceResponse>) {
        for _ in 0..self.arrived.len() {
            match self.arrived.pop_front() {
                Some(Arrived { request, deadline }) if deadline <= now => {
                    ended.push(ProduceResponse { request, outcome: Outcome::TimedOut });
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
            (Fate::Answered, Some(delay)) => Some(now.saturating_add(plan.latency).saturating_add(delay)),
            (Fate::Answered, None) => {
                self.latest = self.latest.max(now.saturating_add(plan.latency));
                Some(self.latest)
            }
        };
        self.handled.push_back(match due.filter(|due| *due <= deadline) {
            Some(at) => InFlight { request, outcome: Outcome::Answered(answer), at },
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
        ended.extend(due.into_iter().map(|InFlight { request, outcome, .. }| ProduceResponse { request, outcome }));
    }
}
