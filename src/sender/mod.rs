//! The sender: one thread that owns everything behind the accumulator.
//!
//! A pass asks which nodes have something to take, drains them, submits requests, settles what has expired, sleeps in the broker's
//! [`Broker::poll`] - its only sleeping place - and handles the answers. In-flight batches, mutes and timers are plain collections: `&mut` shows
//! that nobody shares them. Clock, broker and randomness are injected, so a simulation can run the same code on virtual time.
//!
//! Source: Kafka's `Sender` (`runOnce`, `sendProducerData`, `completeBatch`, `canRetry`); SEND-01 to SEND-31 as far as they hold without
//! transactions. What becomes of an answer: [`decision`]. Ids, epochs and sequences: [`idempotence`].
//!
//! # Every drained batch has one place
//! In the request, which belongs to the broker until it comes back; or with the sender, which re-queues or settles it. What it owes the
//! records is in the accumulator's books meanwhile, so an expiry in flight settles the records at once while their memory stays with the
//! request (GAP-15). If the sender ends for whatever reason, a panic included, dropping its view closes the accumulator and aborts what is in
//! the books (GAP-21).
//!
//! Records are counted before they are settled, and nobody but the sender settles what it holds: whoever knows a record's result, a callback say, finds it
//! counted (SEND-24).

mod config;
mod decision;
mod handle;
mod idempotence;
mod stats;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use config::{IdempotenceConflict, SenderConfig};
pub use decision::{Decision, Facts, decide};
pub use handle::{CloseError, SenderHandle, StartError};
pub use idempotence::{Idempotence, WINDOW};
pub use stats::{SenderSnapshot, SenderStats};

use self::handle::{Control, Mode};
use crate::accumulator::{Accumulator, DrainGate, Drained, NoGate, SenderView};
use crate::batch::{RecordErrors, SealedBatch, Watch, Whole};
use crate::broker::{
    Broker, ErrorCode, Fate, NodeId, Outcome, PartitionResponse, ProduceRequest, ProduceResponse, ProducerIdAndEpoch,
    Response,
};
use crate::error::{IllegalState, SendError, TopicPartition};
use crate::primitive::clock::{Instant, SharedClock};

/// A batch that is with the broker.
#[derive(Debug)]
struct InFlight {
    topic_partition: TopicPartition,
    created: Instant,
    records: u32,
    watch: Watch,
    whole: Option<Whole>,
}

/// A request that is with the broker.
#[derive(Debug)]
struct Sent {
    node: NodeId,
    at: Instant,
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
    requests: BTreeMap<u64, Sent>,
    next_request: u64,
    idempotence: Option<Idempotence>,
    /// When a producer id is asked for again, after a refusal.
    ask_again: Instant,
    responses: Vec<Response>,
    stats: Arc<SenderStats>,
}

impl<A: Accumulator, B: Broker> Sender<A, B> {
    /// A sender that nobody runs yet: [`Sender::run_once`] by hand, or [`SenderHandle::spawn`].
    ///
    /// # Panics
    /// If `config` wishes for an idempotence that it does not allow: see [`SenderConfig::idempotence`].
    pub fn new(accumulator: Arc<A>, view: A::View, broker: B, clock: SharedClock, config: SenderConfig) -> Self {
        let is_idempotent = config.idempotence().unwrap_or_else(|conflict| panic!("{conflict}"));
        accumulator.wake_sender_by(broker.waker());
        Self {
            accumulator,
            view,
            broker,
            clock,
            config,
            in_flight: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            idempotence: is_idempotent.then(Idempotence::default),
            ask_again: Instant::ZERO,
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

    /// Its state as an idempotent producer, if it is one.
    pub fn idempotence(&self) -> Option<&Idempotence> {
        self.idempotence.as_ref()
    }

    /// The same for tests that need what takes too long to reach.
    #[doc(hidden)]
    pub fn idempotence_mut(&mut self) -> Option<&mut Idempotence> {
        self.idempotence.as_mut()
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
            match response {
                Response::Produce(response) => self.handle(response),
                Response::InitProducerId(answer) => self.receive_id(answer),
            }
        }
        self.responses = responses;
    }

    /// What comes before the produce step (SEND-02): the end of a producer that cannot go on, gaps, the producer id.
    fn prepare(&mut self, now: Instant) {
        let Some(idempotence) = &mut self.idempotence else { return };
        if let Some(code) = idempotence.fatal() {
            self.view.abort_all(&SendError::ProducerFailed { code });
        }
        self.close_gaps();
        let Some(idempotence) = self.idempotence.as_mut().filter(|state| state.needs_id()) else { return };
        if now < self.ask_again {
            return;
        }
        match self.broker.init_producer_id(self.config.request_timeout, now) {
            Ok(()) => idempotence.asked(),
            Err(delay) => self.ask_again = now.saturating_add(delay),
        }
    }

    /// Takes the stamps away that cannot stay, and raises the epoch where that lets a partition begin again (IDEM-12, IDEM-15). Whether there was anything to do.
    fn close_gaps(&mut self) -> bool {
        let Some(idempotence) = &mut self.idempotence else { return false };
        let gaps = idempotence.gaps().to_vec();
        for topic_partition in &gaps {
            self.view.reset_producer_state(topic_partition, &mut |batch| idempotence.may_lose_stamp(batch));
        }
        idempotence.bump();
        idempotence.gaps().len() < gaps.len()
    }

    /// A producer id came, or did not (IDEM-02).
    fn receive_id(&mut self, answer: Result<ProducerIdAndEpoch, ErrorCode>) {
        let now = self.clock.now();
        let Some(idempotence) = &mut self.idempotence else { return };
        idempotence.received(answer);
        let Err(code) = answer else { return };
        tracing::warn!(%code, "no producer id");
        self.ask_again = now.saturating_add(self.config.retry_backoff);
        match code {
            // Not for good: it may be granted, and new records find out (SEND-02).
            ErrorCode::ClusterAuthorizationFailed | ErrorCode::TransactionalIdAuthorizationFailed => {
                self.view.abort_all(&SendError::ProducerFailed { code });
            }
            code if code.is_fatal_for_producer() => idempotence.fail(code),
            _ => {}
        }
    }

    /// The produce step (SEND-03). How long to sleep after it (SEND-05).
    fn send_producer_data(&mut self, now: Instant) -> Duration {
        /// Between looks at a node that is ready and gives nothing: the twin's, one of whose partitions is refused (GAP-22); an appender's copy that is under way.
        const STALLED: Duration = Duration::from_millis(1);
        self.prepare(now);
        let cluster = self.broker.cluster();
        let mut no_gate = NoGate;
        let gate: &mut dyn DrainGate = match &mut self.idempotence {
            Some(idempotence) => idempotence,
            None => &mut no_gate,
        };
        let mut check = self.view.ready_through(&cluster, now, gate);
        if !check.unknown_leader_topics.is_empty() {
            self.broker.request_update();
        }
        let mut timeout = check.next_check.unwrap_or(Duration::MAX);
        let full = |node| self.requests.values().filter(|sent| sent.node == node).count() >= self.config.max_in_flight;
        check.nodes.retain(|node| match self.broker.ready(*node, now) {
            // An answer makes room for more (SEND-04).
            Ok(()) => !full(*node),
            Err(delay) => {
                timeout = timeout.min(delay);
                false
            }
        });
        // Not as found, which is the order of a hash map: a run replays.
        check.nodes.sort_unstable();
        let drained = self.view.drain_through(&cluster, &check.nodes, self.config.max_request_size, now, gate);
        self.expire(now);
        let mut any = false;
        for Drained { node, batches } in drained {
            any |= !batches.is_empty();
            self.submit(node, batches, now);
        }
        if any || self.close_gaps() {
            // There may be more behind what was drained, or what was refused may go now.
            return Duration::ZERO;
        }
        if !check.nodes.is_empty() {
            timeout = timeout.min(STALLED);
        }
        if self.idempotence.as_ref().is_some_and(Idempotence::needs_id) {
            timeout = timeout.min(self.ask_again.saturating_since(now));
        }
        let delivery_timeout = self.config.delivery_timeout;
        let in_flight = self.in_flight.values().filter_map(|batch| batch.created.checked_add(delivery_timeout));
        let next_expiry = in_flight.chain(self.view.next_expiry()).min();
        timeout.min(next_expiry.map_or(Duration::MAX, |at| at.saturating_since(now)))
    }

    /// Sends one request (SEND-06), its batches registered and, in ordering mode, their partitions muted first.
    fn submit(&mut self, node: NodeId, mut batches: Vec<SealedBatch>, now: Instant) {
        // A batch whose time was up when it was drained is not worth sending.
        let expired = |batch: &SealedBatch| batch.has_expired(self.config.delivery_timeout, now);
        let late: Vec<_> = batches.extract_if(.., |batch| expired(batch)).collect();
        for batch in late {
            if let Some(idempotence) = &mut self.idempotence {
                idempotence.not_sent(&batch);
            }
            self.fail_expired(batch, now);
        }
        if batches.is_empty() {
            return;
        }
        for batch in &batches {
            if self.config.keeps_order() {
                self.view.mute(batch.topic_partition());
            }
            let in_flight = InFlight {
                topic_partition: batch.topic_partition().clone(),
                created: batch.created(),
                records: batch.record_count(),
                watch: batch.completion().watch(),
                whole: batch.whole().cloned(),
            };
            self.in_flight.insert(batch.id(), in_flight);
        }
        self.stats.sent(&batches);
        let id = self.next_request;
        self.next_request += 1;
        let (acks, timeout) = (self.config.acks, self.config.request_timeout);
        let request = ProduceRequest { id, node, acks, timeout, batches };
        match self.broker.submit(request, now) {
            Ok(()) => {
                self.requests.insert(id, Sent { node, at: now });
                self.stats.in_flight(self.requests.len());
            }
            // It was ready a moment ago: as if the connection had been lost, but it is known that nothing was written.
            Err(request) => {
                self.settle(request.batches, Vec::new(), ErrorCode::NetworkException, Some(Fate::NotWritten), now)
            }
        }
    }

    /// The expiry pass (SEND-08): queued batches first, then those in flight, each in the order in which they were opened (SEND-31); or all by their deadlines, where
    /// the core promises that (GAP-28).
    fn expire(&mut self, now: Instant) {
        let mut queued = self.view.expired(now);
        self.stats.failed(self.view.expired_early());
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
            // If another is just settling it, the books keep it until its request comes back. Not in the books if it was aborted before: as good.
            if batch.watch.fail(error) || batch.watch.is_done() {
                let _ = self.view.strike_out_with(id, batch.whole.as_ref());
            }
            // It was sent, be it for the first time: nobody knows (GAP-25).
            if let Some(idempotence) = &mut self.idempotence {
                idempotence.ended(&batch.topic_partition, id, Fate::Unknown);
            }
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
        self.fail(batch, error, None, Fate::NotWritten);
    }

    /// Handles a request that came back.
    fn handle(&mut self, response: ProduceResponse) {
        let ProduceResponse { request, outcome, throttle } = response;
        let now = self.clock.now();
        let sent = self.requests.remove(&request.id);
        self.stats.in_flight(self.requests.len());
        self.stats.throttled(throttle);
        let (answers, unmentioned) = match outcome {
            // Of a batch that the answer does not mention it is not known whether it was written, as after a lost connection.
            Outcome::Answered(answers) => {
                self.stats.answered(sent.map_or(Duration::ZERO, |sent| now.saturating_since(sent.at)));
                (answers, ErrorCode::NetworkException)
            }
            Outcome::Written => (Vec::new(), ErrorCode::None),
            Outcome::TimedOut => (Vec::new(), ErrorCode::RequestTimedOut),
            Outcome::Disconnected => (Vec::new(), ErrorCode::NetworkException),
            Outcome::UnsupportedVersion => (Vec::new(), ErrorCode::UnsupportedVersion),
        };
        self.settle(request.batches, answers, unmentioned, None, now);
    }

    /// Every batch of a request that is over is settled, put back, or was settled before (GAP-27). `fate` is what is known of all of them, if more than the answers say.
    fn settle(
        &mut self,
        batches: Vec<SealedBatch>,
        mut answers: Vec<PartitionResponse>,
        unmentioned: ErrorCode,
        fate: Option<Fate>,
        now: Instant,
    ) {
        for batch in batches {
            let topic_partition = batch.topic_partition();
            let answer = match answers.iter().position(|answer| answer.topic_partition == *topic_partition) {
                // Not a swap: should there be two answers, the first one counts, wherever they stand.
                Some(at) => answers.remove(at),
                None => PartitionResponse::refused(topic_partition.clone(), unmentioned),
            };
            let fate = fate.unwrap_or(answer.error.fate());
            self.complete(batch, answer, fate, now);
        }
        for PartitionResponse { topic_partition, .. } in answers {
            tracing::warn!(%topic_partition, "the broker answered for a batch that was not in the request");
        }
    }

    /// SEND-12 to SEND-18 for one batch: Kafka's `completeBatch`. What is decided stands in [`decision`].
    fn complete(&mut self, batch: SealedBatch, answer: PartitionResponse, fate: Fate, now: Instant) {
        self.in_flight.remove(&batch.id());
        let (topic_partition, code) = (answer.topic_partition.clone(), answer.error);
        if code.needs_metadata() {
            self.broker.request_update();
            if let Some(leader) = answer.current_leader {
                self.broker.update_leader(&topic_partition, leader);
            }
        }
        let facts = Facts {
            settled: is_settled(&batch),
            last_attempt: batch.attempts() >= self.config.retries
                || batch.has_expired(self.config.delivery_timeout, now),
            records: batch.record_count(),
            sequenced: batch.has_sequence(),
            in_doubt: self.idempotence.as_mut().is_some_and(|state| state.is_in_doubt(&batch)),
            log_start_known: answer.log_start_offset >= 0,
        };
        let is_known = || self.idempotence.as_ref().is_none_or(|state| state.knows(&batch));
        debug_assert!(facts.settled || !facts.sequenced || is_known(), "IDEM-E: a batch that no window knows");
        match decide(code, facts) {
            Decision::Acknowledge => {
                if let Some(idempotence) = &mut self.idempotence {
                    idempotence.ended(&topic_partition, batch.id(), Fate::Written);
                }
                if !facts.settled {
                    self.stats.completed(batch.record_count());
                }
                let settled = batch.completion().complete(answer.base_offset, answer.log_append_time);
                self.end(batch, settled);
            }
            Decision::Split => self.split(batch, answer, fate),
            Decision::Retry => {
                self.stats.retried(batch.record_count());
                tracing::debug!(%topic_partition, error = %code, attempts = batch.attempts(), "will send again");
                if let Some(idempotence) = &mut self.idempotence {
                    idempotence.requeue(&batch, code, fate, answer.log_start_offset);
                }
                self.view.reenqueue(batch, now);
            }
            Decision::LetGo | Decision::Fail => {
                let error = SendError::Broker {
                    topic_partition: topic_partition.clone(),
                    code,
                    message: answer.message.clone(),
                };
                if code.is_fatal_for_producer() {
                    self.idempotence.iter_mut().for_each(|state| state.fail(code));
                }
                self.fail(batch, error, Some(answer), fate);
            }
        }
        if self.config.keeps_order() {
            self.view.unmute(&topic_partition);
        }
    }

    /// Sends a batch in parts (SEND-12). Its attempts are not counted, and nothing is waited for.
    fn split(&mut self, batch: SealedBatch, answer: PartitionResponse, fate: Fate) {
        let (id, topic_partition) = (batch.id(), batch.topic_partition().clone());
        let mut parts = match self.view.split(batch) {
            Ok(parts) => parts,
            Err(batch) => {
                let (code, message) = (answer.error, answer.message.clone());
                let error = SendError::Broker { topic_partition, code, message };
                return self.fail(*batch, error, Some(answer), fate);
            }
        };
        tracing::warn!(%topic_partition, parts = parts.len(), "a batch was too large for its broker, and is sent in parts");
        self.stats.split();
        if let Some(idempotence) = &mut self.idempotence {
            idempotence.split(&topic_partition, id, &mut parts);
        }
        parts.into_iter().for_each(|part| self.view.enqueue(part));
    }

    /// Fails every record (SEND-15), then returns the memory (SEND-24).
    fn fail(&mut self, batch: SealedBatch, error: SendError, answer: Option<PartitionResponse>, fate: Fate) {
        let record_errors = answer.and_then(|answer| record_errors(answer, &error));
        if !is_settled(&batch) {
            self.stats.failed(batch.record_count());
        }
        let settled = batch.completion().fail(error, record_errors);
        if let Some(idempotence) = &mut self.idempotence {
            idempotence.ended(batch.topic_partition(), batch.id(), fate);
        }
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
    fn run(&mut self, control: &Control) -> Mode {
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

/// Whether the records of `batch` are over: expired or aborted, or those of the batch that it is a part of.
fn is_settled(batch: &SealedBatch) -> bool {
    batch.completion().final_state().is_some() || batch.whole().is_some_and(Whole::is_done)
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
