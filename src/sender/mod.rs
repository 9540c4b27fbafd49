//! The sender: one thread that owns everything behind the accumulator.
//!
//! A pass asks which nodes have something to take, drains them, submits requests, settles what has expired, sleeps in the broker's
//! [`Broker::poll`] - its only sleeping place - and handles the answers. In-flight batches, mutes and timers are plain collections: `&mut` shows
//! that nobody shares them. Clock, broker and randomness are injected, so a simulation can run the same code on virtual time.
//!
//! Source: Kafka's `Sender` (`runOnce`, `sendProducerData`, `completeBatch`, `canRetry`); SEND-01 to SEND-31 as far as they hold without
//! idempotence, transactions and splitting.
//!
//! # Every drained batch has one place
//! In the request, which belongs to the broker until it comes back; or with the sender, which re-queues or settles it. What it owes the
//! records is in the accumulator's books meanwhile, so an expiry in flight settles the records at once while their memory stays with the
//! request (GAP-15). If the sender ends for whatever reason, a panic included, dropping its view closes the accumulator and aborts what is in
//! the books (GAP-21).
//!
//! Records are counted before they are settled, and nobody but the sender settles what it holds: whoever knows a record's result, a callback say, finds it
//! counted (SEND-24).

mod handle;
mod stats;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use handle::{CloseError, SenderHandle, StartError};
pub use stats::{SenderSnapshot, SenderStats};

use self::handle::{Control, Mode};
use crate::accumulator::{Accumulator, SenderView};
use crate::batch::{RecordErrors, SealedBatch, Watch};
use crate::broker::{Acks, Broker, ErrorCode, NodeId, Outcome, PartitionResponse, ProduceRequest, ProduceResponse};
use crate::error::{IllegalState, SendError, TopicPartition};
use crate::primitive::clock::{Instant, SharedClock};

/// What a sender needs to know. Names and defaults are Kafka's (CFG-05 to CFG-12).
#[derive(Debug, Clone)]
pub struct SenderConfig {
    /// `acks`.
    pub acks: Acks,
    /// `max.request.size`: bytes of batches in one request; one batch always goes.
    pub max_request_size: usize,
    /// `request.timeout.ms`: how long the transport waits for an answer.
    pub request_timeout: Duration,
    /// `delivery.timeout.ms`: from a batch's creation to its result.
    pub delivery_timeout: Duration,
    /// `retries`: attempts after the first.
    pub retries: u32,
    /// One batch of a partition in flight at a time, so that a retry cannot overtake. Kafka does so where
    /// `max.in.flight.requests.per.connection` is 1 (SEND-23).
    pub guarantee_order: bool,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            max_request_size: 1 << 20,
            request_timeout: Duration::from_secs(30),
            delivery_timeout: Duration::from_secs(120),
            retries: i32::MAX as u32,
            guarantee_order: false,
        }
    }
}

/// A batch that is with the broker.
#[derive(Debug)]
struct InFlight {
    topic_partition: TopicPartition,
    created: Instant,
    records: u32,
    watch: Watch,
}

/// The sender: owns the accumulator's view and the broker.
pub struct Sender<A: Accumulator, B: Broker> {
    accumulator: Arc<A>,
    view: A::View,
    broker: B,
    clock: SharedClock,
    config: SenderConfig,
    /// By number, which is the order in which they were opened: they expire in that order, and a run replays.
    in_flight: BTreeMap<u64, InFlight>,
    next_request: u64,
    responses: Vec<ProduceResponse>,
    stats: Arc<SenderStats>,
}

impl<A: Accumulator, B: Broker> Sender<A, B> {
    /// A sender that nobody runs yet: [`Sender::run_once`] by hand, or [`SenderHandle::spawn`].
    pub fn new(accumulator: Arc<A>, view: A::View, broker: B, clock: SharedClock, config: SenderConfig) -> Self {
        accumulator.wake_when_short(broker.waker());
        Self {
            accumulator,
            view,
            broker,
            clock,
            config,
            in_flight: BTreeMap::new(),
            next_request: 0,
            responses: Vec::new(),
            stats: Arc::default(),
        }
    }

    /// What it has done so far; readable from other threads.
    pub fn stats(&self) -> Arc<SenderStats> {
        Arc::clone(&self.stats)
    }

    /// The broker it talks to.
    pub fn broker(&mut self) -> &mut B {
        &mut self.broker
    }

    /// Batches with the broker now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// One pass (SEND-01): produce, then poll at most `longest`.
    pub fn run_once(&mut self, longest: Duration) {
        let now = self.clock.now();
        let timeout = self.send_producer_data(now);
        self.poll(timeout.min(longest));
    }

    fn poll(&mut self, timeout: Duration) {
        let mut responses = std::mem::take(&mut self.responses);
        self.broker.poll(timeout, &mut responses);
        for response in responses.drain(..) {
            self.handle(response);
        }
        self.responses = responses;
    }

    /// The produce step (SEND-03). How long to sleep after it (SEND-05).
    fn send_producer_data(&mut self, now: Instant) -> Duration {
        let cluster = self.broker.cluster();
        let mut check = self.view.ready(&cluster, now);
        if !check.unknown_leader_topics.is_empty() {
            self.broker.request_update();
        }
        let mut timeout = check.next_check.unwrap_or(Duration::MAX);
        check.nodes.retain(|node| match self.broker.ready(*node, now) {
            Ok(()) => true,
            Err(delay) => {
                timeout = timeout.min(delay);
                false
            }
        });
        // Not as found, which is the order of a hash map: a run replays.
        check.nodes.sort_unstable();
        let drained = self.view.drain(&cluster, &check.nodes, self.config.max_request_size, now);
        self.expire(now);
        for drained in drained {
            self.submit(drained.node, drained.batches, now);
        }
        if !check.nodes.is_empty() {
            // There may be more behind what was drained.
            return Duration::ZERO;
        }
        let delivery_timeout = self.config.delivery_timeout;
        let in_flight = self.in_flight.values().filter_map(|batch| batch.created.checked_add(delivery_timeout));
        let next_expiry = in_flight.chain(self.view.next_expiry()).min();
        timeout.min(next_expiry.map_or(Duration::MAX, |at| at.saturating_since(now)))
    }

    /// Sends one request (SEND-06), its batches registered and, in ordering mode, their partitions muted first.
    fn submit(&mut self, node: NodeId, batches: Vec<SealedBatch>, now: Instant) {
        // A batch whose time was up when it was drained is not worth sending.
        let expired = |batch: &SealedBatch| batch.has_expired(self.config.delivery_timeout, now);
        let (late, batches): (Vec<_>, Vec<_>) = batches.into_iter().partition(expired);
        late.into_iter().for_each(|batch| self.fail_expired(batch, now));
        if batches.is_empty() {
            return;
        }
        for batch in &batches {
            if self.config.guarantee_order {
                self.view.mute(batch.topic_partition());
            }
            let in_flight = InFlight {
                topic_partition: batch.topic_partition().clone(),
                created: batch.created(),
                records: batch.record_count(),
                watch: batch.completion().watch(),
            };
            self.in_flight.insert(batch.id(), in_flight);
        }
        self.stats.sent(&batches);
        let id = self.next_request;
        self.next_request += 1;
        let (acks, timeout) = (self.config.acks, self.config.request_timeout);
        let request = ProduceRequest { id, node, acks, timeout, batches };
        if let Err(request) = self.broker.submit(request, now) {
            // It was ready a moment ago: as if the connection had been lost.
            self.handle(ProduceResponse { request, outcome: Outcome::Disconnected });
        }
    }

    /// The expiry pass (SEND-08): queued batches first, then those in flight, each in the order in which they were opened (SEND-31); or all by their deadlines, where
    /// the core promises that (GAP-28).
    fn expire(&mut self, now: Instant) {
        let mut queued = self.view.expired(now);
        queued.sort_by_key(SealedBatch::id);
        let timeout = self.config.delivery_timeout;
        let is_late = |batch: &InFlight| now.saturating_since(batch.created) >= timeout;
        let in_flight = self.in_flight.iter().filter(|(_, batch)| is_late(batch));
        let in_flight: Vec<_> = in_flight.map(|(id, batch)| ((batch.created, *id), None)).collect();
        let mut late: Vec<_> = queued.into_iter().map(|batch| ((batch.created(), batch.id()), Some(batch))).collect();
        late.extend(in_flight);
        if A::View::BY_DEADLINE {
            late.sort_by_key(|(deadline, _)| *deadline);
        }
        for ((_, id), queued) in late {
            if let Some(batch) = queued {
                self.fail_expired(batch, now);
                continue;
            }
            let Some(batch) = self.in_flight.remove(&id) else { continue };
            let error = self.expiry(&batch.topic_partition, batch.records, batch.created, now);
            // The records end now, the memory when the request comes back (SEND-09, GAP-15). In ordering mode the partition stays muted until
            // then (SEND-23).
            if !batch.watch.is_done() {
                self.stats.failed(batch.records);
            }
            batch.watch.fail(error);
            // Not in the books if it was aborted before: as good.
            let _ = self.view.strike_out(id);
        }
    }

    fn expiry(&self, topic_partition: &TopicPartition, records: u32, created: Instant, now: Instant) -> SendError {
        SendError::DeliveryTimeout {
            topic_partition: topic_partition.clone(),
            records,
            age: now.saturating_since(created),
            timeout: self.config.delivery_timeout,
        }
    }

    fn fail_expired(&mut self, batch: SealedBatch, now: Instant) {
        let error = self.expiry(batch.topic_partition(), batch.record_count(), batch.created(), now);
        self.fail(batch, error, None);
    }

    /// Handles a request that came back: every batch of it is settled, put back, or was settled before (GAP-27).
    fn handle(&mut self, response: ProduceResponse) {
        let ProduceResponse { request, outcome } = response;
        let now = self.clock.now();
        let (mut answers, unmentioned) = match outcome {
            // Of a batch that the answer does not mention it is not known whether it was written, as after a lost connection.
            Outcome::Answered(answers) => (answers, ErrorCode::NetworkException),
            Outcome::Written => (Vec::new(), ErrorCode::None),
            Outcome::TimedOut => (Vec::new(), ErrorCode::RequestTimedOut),
            Outcome::Disconnected => (Vec::new(), ErrorCode::NetworkException),
            Outcome::UnsupportedVersion => (Vec::new(), ErrorCode::UnsupportedVersion),
        };
        for batch in request.batches {
            let topic_partition = batch.topic_partition();
            let answer = match answers.iter().position(|answer| answer.topic_partition == *topic_partition) {
                // Not a swap: should there be two answers, the first one counts, wherever they stand.
                Some(at) => answers.remove(at),
                None => PartitionResponse::refused(topic_partition.clone(), unmentioned),
            };
            self.complete(batch, answer, now);
        }
        for PartitionResponse { topic_partition, .. } in answers {
            tracing::warn!(%topic_partition, "the broker answered for a batch that was not in the request");
        }
    }

    /// SEND-13 to SEND-18 for one batch. Kafka's `completeBatch`.
    fn complete(&mut self, batch: SealedBatch, answer: PartitionResponse, now: Instant) {
        self.in_flight.remove(&batch.id());
        let topic_partition = answer.topic_partition.clone();
        if answer.error.needs_metadata() {
            self.broker.request_update();
        }
        match answer.error {
            ErrorCode::None | ErrorCode::DuplicateSequenceNumber => {
                if batch.completion().final_state().is_none() {
                    self.stats.completed(batch.record_count());
                }
                let settled = batch.completion().complete(answer.base_offset, answer.log_append_time);
                self.end(batch, settled);
            }
            error if error.is_retriable() && self.can_retry(&batch, now) => {
                self.stats.retried(batch.record_count());
                tracing::debug!(%topic_partition, %error, attempts = batch.attempts(), "will send again");
                self.view.reenqueue(batch, now);
            }
            code => {
                let topic_partition = topic_partition.clone();
                let error = SendError::Broker { topic_partition, code, message: answer.message.clone() };
                self.fail(batch, error, Some(answer));
            }
        }
        if self.config.guarantee_order {
            self.view.unmute(&topic_partition);
        }
    }

    /// SEND-19 without idempotence, the error being retriable. Kafka's `canRetry`.
    fn can_retry(&self, batch: &SealedBatch, now: Instant) -> bool {
        batch.attempts() < self.config.retries
            && !batch.has_expired(self.config.delivery_timeout, now)
            && batch.completion().final_state().is_none()
    }

    /// Fails every record (SEND-15), then returns the memory (SEND-24).
    fn fail(&mut self, batch: SealedBatch, error: SendError, answer: Option<PartitionResponse>) {
        let record_errors = answer.and_then(|answer| record_errors(answer, &error));
        if batch.completion().final_state().is_none() {
            self.stats.failed(batch.record_count());
        }
        let settled = batch.completion().fail(error, record_errors);
        self.end(batch, settled);
    }

    /// Strikes a batch out of the books and returns its memory, whoever has `settled` it (GAP-27).
    fn end(&mut self, batch: SealedBatch, settled: Result<bool, IllegalState>) {
        let topic_partition = batch.topic_partition().clone();
        let struck_out = self.view.deallocate(batch);
        match settled {
            Ok(true) => {
                if let Err(error) = struck_out {
                    tracing::error!(%error, %topic_partition, "a batch was ended twice");
                }
            }
            // A late answer is ignored (SEND-09): the batch has expired, and was struck out then. Or its transport has settled it.
            Ok(false) => {}
            Err(error) => tracing::error!(%error, %topic_partition, "a batch was answered after it had succeeded"),
        }
    }

    /// Runs until `control` says to end (SEND-26, SEND-27). How it ended.
    fn run(mut self, control: &Control) -> Mode {
        /// Between looks at `control` when nothing else is due. Every change of it comes with a wake as well.
        const LONGEST: Duration = Duration::from_secs(1);
        while control.mode() == Mode::Running {
            self.run_once(LONGEST);
        }
        while self.has_unfinished() {
            if control.mode() == Mode::Forced {
                let reason = "the producer was closed before the record was acknowledged";
                self.view.abort_incomplete(&SendError::Aborted { reason });
                return Mode::Aborted;
            }
            let timeout = self.send_producer_data(self.clock.now());
            // The last ones may just have expired: then there is nothing to sleep for.
            if self.has_unfinished() {
                self.poll(timeout.min(LONGEST));
            }
        }
        Mode::Ended
    }

    /// Whether a record has not completed; of a closed accumulator, for good. First the queues, whose locks make sure that no append is under way (ACC-48),
    /// then the books.
    fn has_unfinished(&self) -> bool {
        self.accumulator.has_undrained() || self.accumulator.has_incomplete()
    }
}

/// Each record's own error where the broker has named records at fault (SEND-22).
fn record_errors(answer: PartitionResponse, whole: &SendError) -> Option<RecordErrors> {
    let at_fault: HashMap<u32, Option<Arc<str>>> = answer.record_errors.into_iter().collect();
    if at_fault.is_empty() {
        return None;
    }
    let code = answer.error;
    let (topic_partition, whole_message) = (answer.topic_partition, answer.message);
    let fallback: Arc<str> = Arc::from(whole.to_string());
    let bystander: Arc<str> = Arc::from("it was in a batch with invalid records, so it was not written");
    Some(Box::new(move |index| match at_fault.get(&index) {
        None => SendError::InvalidRecord { message: Some(Arc::clone(&bystander)) },
        Some(message) => {
            let message = message.clone().or_else(|| whole_message.clone());
            if at_fault.len() == 1 {
                SendError::Broker { topic_partition: topic_partition.clone(), code, message }
            } else {
                SendError::InvalidRecord { message: message.or_else(|| Some(Arc::clone(&fallback))) }
            }
        }
    }))
}

impl<A: Accumulator, B: Broker> fmt::Debug for Sender<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("broker", &self.broker)
            .field("in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}
