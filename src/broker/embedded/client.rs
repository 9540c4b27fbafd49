//! A client: [`Connection`]s and the thread that drives them.
//!
//! ```text
//!   sender's thread                                          broker's I/O thread, one per client
//!   submit --> submitted queue --> ring the I/O bell  ~~~~>  Connection::submit, Connection::advance
//!   poll   <-- ended queue     <-- ring the poll bell <~~~~  what has ended
//! ```
//!
//! Both queues are unbounded, but hold at most what is in flight. Whoever sleeps does so on a bell, which keeps a ring that came too early.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crossbeam_queue::SegQueue;

use super::bell::Bell;
use super::connection::Connection;
use super::server::Server;
use crate::broker::{
    Broker, Cluster, Leader, NodeId, Outcome, ProduceRequest, ProduceResponse, ProducerIdAndEpoch, Response,
};
use crate::error::TopicPartition;
use crate::primitive::atomic::AtomicBool;
use crate::primitive::atomic::Ordering::{Acquire, Release};
use crate::primitive::clock::Instant;
use crate::primitive::thread;

/// When to ask again whether a node takes requests that has its limit in flight: not before an answer, which ends the poll anyway.
const FULL: Duration = Duration::from_millis(100);

/// A connection of one sender to the embedded broker, with a thread of its own.
///
/// Its metadata is a copy of the broker's as of [`Broker::request_update`], or the connecting: as with a real cluster, what changes there is not seen
/// here before it is asked for; but a change ends the poll under way, so that a sender which
/// waits for a topic or a leader asks again. Time is measured on the broker's own clock; the `now` that the trait's methods are given is not
/// looked at.
///
/// Dropping it ends the thread. Requests that have not come back are dropped with it, which aborts their records.
pub struct EmbeddedClient {
    server: Arc<Server>,
    cluster: Arc<Cluster>,
    nodes: HashMap<NodeId, Node>,
    line: Arc<Line>,
    thread: Option<thread::JoinHandle<Connection>>,
}

#[derive(Debug, Default)]
struct Node {
    in_flight: usize,
    /// After a lost connection: when it is there again.
    down_until: Instant,
}

/// What the client and its thread share.
struct Line {
    submitted: SegQueue<(ProduceRequest, Instant)>,
    ended: SegQueue<Response>,
    io: Arc<Bell>,
    poller: Arc<Bell>,
    stop: AtomicBool,
}

impl EmbeddedClient {
    pub(super) fn start(server: Arc<Server>) -> io::Result<Self> {
        let line = Arc::new(Line {
            submitted: SegQueue::new(),
            ended: SegQueue::new(),
            io: Bell::new(),
            poller: Bell::new(),
            stop: AtomicBool::new(false),
        });
        server.bells().add(&line.io);
        server.watchers().add(&line.poller);
        let thread = thread::Builder::new().name("unlatched-broker".into()).spawn({
            let (server, line) = (server.clone(), line.clone());
            move || line.run(server)
        })?;
        let cluster = server.cluster();
        Ok(Self { server, cluster, nodes: HashMap::new(), line, thread: Some(thread) })
    }

    fn now(&self) -> Instant {
        self.server.settings().clock.now()
    }

    fn take_ended(&mut self, responses: &mut Vec<Response>) {
        while let Some(response) = self.line.ended.pop() {
            let Response::Produce(response) = response else {
                responses.push(response);
                continue;
            };
            let lost = response.outcome == Outcome::Disconnected;
            let down_until = lost.then(|| self.now().saturating_add(self.server.settings().reconnect_backoff));
            let node = self.nodes.entry(response.request.node).or_default();
            node.in_flight = node.in_flight.saturating_sub(1);
            node.down_until = down_until.unwrap_or(node.down_until);
            responses.push(response.into());
        }
    }
}

impl Line {
    fn run(&self, server: Arc<Server>) -> Connection {
        let clock = server.settings().clock.clone();
        let mut connection = Connection::new(server);
        let mut ended = Vec::new();
        // Acquire pairs with the Release store in `EmbeddedClient::drop`. Nothing is read through it; a store that comes after this load is
        // followed by a ring, so the sleep below ends and the next load sees it.
        while !self.stop.load(Acquire) {
            while let Some((request, at)) = self.submitted.pop() {
                connection.submit(request, at);
            }
            let now = clock.now();
            let next = connection.advance(now, &mut ended);
            if !ended.is_empty() {
                ended.drain(..).for_each(|response: ProduceResponse| self.ended.push(response.into()));
                self.poller.ring();
            }
            self.io.sleep(next.map(|next| next.saturating_since(clock.now())));
        }
        connection
    }
}

impl Broker for EmbeddedClient {
    fn cluster(&self) -> Arc<Cluster> {
        self.cluster.clone()
    }

    /// The answer is there at once. If it is news, the next poll ends at once, as if it had just come in.
    fn request_update(&mut self) {
        let cluster = self.server.cluster();
        if !Arc::ptr_eq(&cluster, &self.cluster) {
            self.cluster = cluster;
            self.line.poller.ring();
        }
    }

    fn update_leader(&mut self, topic_partition: &TopicPartition, leader: Leader) {
        if let Some(cluster) = self.cluster.with_leader(topic_partition, leader) {
            self.cluster = Arc::new(cluster);
            self.line.poller.ring();
        }
    }

    fn ready(&mut self, node: NodeId, _now: Instant) -> Result<(), Duration> {
        let settings = self.server.settings();
        if !self.server.has_node(node) {
            return Err(settings.reconnect_backoff);
        }
        let Some(state) = self.nodes.get(&node) else { return Ok(()) };
        let down = state.down_until.saturating_since(settings.clock.now());
        if !down.is_zero() {
            return Err(down);
        }
        if state.in_flight < settings.max_in_flight { Ok(()) } else { Err(FULL) }
    }

    fn submit(&mut self, request: ProduceRequest, now: Instant) -> Result<(), ProduceRequest> {
        if self.ready(request.node, now).is_err() {
            return Err(request);
        }
        self.nodes.entry(request.node).or_default().in_flight += 1;
        self.line.submitted.push((request, self.now()));
        self.line.io.ring();
        Ok(())
    }

    /// The answer is there at once, as in [`Broker::request_update`].
    fn init_producer_id(&mut self, _timeout: Duration, _now: Instant) -> Result<(), Duration> {
        let id = ProducerIdAndEpoch::new(self.server.next_producer_id());
        self.line.ended.push(Response::InitProducerId(Ok(id)));
        self.line.poller.ring();
        Ok(())
    }

    /// Returns early also, without need, if the I/O thread's ring for something already delivered comes late.
    fn poll(&mut self, timeout: Duration, responses: &mut Vec<Response>) {
        let before = responses.len();
        // The ring is taken before the queue is looked at: whatever is pushed after the look is rung for again.
        let rung = self.line.poller.sleep(Some(Duration::ZERO));
        self.take_ended(responses);
        if rung || responses.len() > before {
            return;
        }
        self.line.poller.sleep(Some(timeout));
        self.take_ended(responses);
    }

    fn waker(&self) -> Waker {
        self.line.poller.waker()
    }
}

impl Drop for EmbeddedClient {
    fn drop(&mut self) {
        // Release: see `Line::run`.
        self.line.stop.store(true, Release);
        self.line.io.ring();
        if let Some(thread) = self.thread.take() {
            // What was in flight is dropped here and not on that thread, so that the records' callbacks run where the client is dropped. The thread
            // runs no foreign code; its panic, were there one, was printed by the panic hook.
            drop(thread.join());
        }
    }
}

impl fmt::Debug for EmbeddedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedClient").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}
