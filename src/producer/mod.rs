//! The front: what an application holds.
//!
//! A [`Producer`] puts accumulator, sender and broker together, dates records, checks their size, and wakes the sender when an append says so. Serialisers,
//! interceptors and metadata are not built yet: the caller names the partition, with [`partition_for_key`] or a [`RoundRobin`] if it likes.
//!
//! Source: Kafka's `KafkaProducer` (`doSend`, `flush`, `close`); PREP-10 to PREP-15, SEND-28, SEND-29.

mod partitioner;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use partitioner::{RoundRobin, murmur2, partition_for_key};

use crate::accumulator::{Accumulator, AccumulatorConfig};
use crate::batch::{OffPoolSnapshot, RecordFuture, RecordResult, Reply, refuse_in_callback};
use crate::broker::Broker;
use crate::error::{AppendError, FlushError, TopicPartition};
use crate::pool::PoolSnapshot;
use crate::primitive::clock::{SharedClock, SystemClock, TickingClock};
use crate::record::{NO_TIMESTAMP, Record, batch_size_upper_bound};
use crate::sender::{CloseError, IdempotenceConflict, Sender, SenderConfig, SenderHandle, SenderSnapshot, StartError};

/// What a producer needs to know. Names and defaults are Kafka's.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// Memory, batches, linger, backoff.
    pub accumulator: AccumulatorConfig,
    /// Requests, retries, timeouts.
    pub sender: SenderConfig,
    /// `max.block.ms`: how long a send may wait for memory (CFG-04).
    pub max_block: Duration,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            accumulator: AccumulatorConfig::default(),
            sender: SenderConfig::default(),
            max_block: Duration::from_secs(60),
        }
    }
}

/// Why a configuration cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// CFG-06.
    #[error("delivery.timeout.ms ({delivery:?}) must be at least linger.ms + request.timeout.ms ({least:?})")]
    DeliveryTimeout {
        /// As configured.
        delivery: Duration,
        /// The least that works.
        least: Duration,
    },
    /// No batch could ever be had.
    #[error(
        "buffer.memory ({buffer_memory} bytes) is smaller than batch.size ({batch_size} bytes): no batch could ever be opened"
    )]
    BufferTooSmall {
        /// As configured, in bytes.
        buffer_memory: u64,
        /// As configured, in bytes.
        batch_size: usize,
    },
    /// IDEM-01.
    #[error(transparent)]
    Idempotence(#[from] IdempotenceConflict),
}

impl ProducerConfig {
    /// Checks what depends on more than one value.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (delivery, least) =
            (self.sender.delivery_timeout, self.accumulator.linger.saturating_add(self.sender.request_timeout));
        if delivery < least {
            return Err(ConfigError::DeliveryTimeout { delivery, least });
        }
        let (buffer_memory, batch_size) = (self.accumulator.buffer_memory, self.accumulator.batch_size);
        if buffer_memory < batch_size.max(1) as u64 {
            return Err(ConfigError::BufferTooSmall { buffer_memory, batch_size });
        }
        self.sender.idempotence()?;
        Ok(())
    }
}

/// Why a producer did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProducerError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No thread for the sender.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No thread for the clock.
    #[error("the operating system gave no thread for the clock: {0}")]
    Clock(std::io::Error),
}

/// Why a record was not accepted. No trace of it is left, and its callback is not called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendRefused {
    /// PREP-13.
    #[error(
        "the record takes up to {size} bytes on the wire, but {name} allows {limit}: raise it or send a smaller record"
    )]
    RecordTooLarge {
        /// Its upper bound in bytes, batch header included (FMT-26).
        size: usize,
        /// The limit in bytes.
        limit: u64,
        /// The limit's name.
        name: &'static str,
    },
    /// The accumulator did not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// A working producer on the memory path `A`. Shared by reference between any number of threads.
///
/// Dropping it without [`Producer::close`] closes it by force, as a close with no time at all does: what was not acknowledged is aborted, whether it was sent or not, and every future and callback of an accepted record has its
/// result when the drop returns. The drop waits for the sender's thread to end, and in a callback, which runs on that thread, it does not. To have sent what was accepted, close it with some time, or flush it before.
pub struct Producer<A: Accumulator> {
    // Dropped first: it ends the sender.
    sender: SenderHandle<A>,
    accumulator: Arc<A>,
    config: ProducerConfig,
    time: TickingClock,
}

impl<A: Accumulator> Producer<A> {
    /// Starts a producer that talks to `broker`.
    ///
    /// # Errors
    /// [`ProducerError`].
    pub fn start<B: Broker>(config: ProducerConfig, broker: B) -> Result<Self, ProducerError> {
        Self::start_with_clock(config, broker, SystemClock::shared())
    }

    /// [`Producer::start`] with a clock of the caller's.
    ///
    /// # Errors
    /// [`ProducerError`].
    pub fn start_with_clock<B: Broker>(
        mut config: ProducerConfig,
        broker: B,
        clock: SharedClock,
    ) -> Result<Self, ProducerError> {
        config.validate()?;
        config.accumulator.delivery_timeout = config.sender.delivery_timeout;
        let time = TickingClock::start(clock.clone()).map_err(ProducerError::Clock)?;
        let (accumulator, view) = A::new(config.accumulator.clone(), clock.clone());
        let sender = Sender::new(Arc::clone(&accumulator), view, broker, clock, config.sender.clone());
        Ok(Self { sender: SenderHandle::spawn(sender)?, accumulator, config, time })
    }

    /// The handle of a partition, to be looked up once and kept.
    pub fn partition(&self, topic_partition: &TopicPartition) -> A::Partition {
        self.accumulator.partition(topic_partition)
    }

    /// Sends `record` and gives its future back. A record without a timestamp gets the time of a clock that ticks each millisecond (PREP-15).
    ///
    /// Blocks while there is no memory, at most `max.block.ms`; not at all inside a callback, which must not stop the sender it runs on (GAP-20).
    ///
    /// # Errors
    /// [`SendRefused`].
    ///
    /// # Panics
    /// If `partition` is another producer's.
    pub fn send(&self, partition: &A::Partition, record: Record<'_>) -> Result<RecordFuture, SendRefused> {
        let future = self.append(partition, record, Reply::FUTURE)?;
        // Asked for, so given.
        Ok(future.expect("an append that was asked for a future gives one"))
    }

    /// Sends `record` and has `callback` called with its result, on the sender's thread. It must not block.
    ///
    /// # Errors
    /// [`SendRefused`]; `callback` is then dropped uncalled.
    ///
    /// # Panics
    /// If `partition` is another producer's.
    pub fn send_with(
        &self,
        partition: &A::Partition,
        record: Record<'_>,
        callback: impl FnOnce(RecordResult) + Send + 'static,
    ) -> Result<(), SendRefused> {
        self.append(partition, record, Reply::callback(callback)).map(drop)
    }

    /// Sends `record` and asks no more: nothing is paid for a result that nobody reads. Whether it was lost shows in [`Producer::stats`] only.
    ///
    /// # Errors
    /// [`SendRefused`].
    ///
    /// # Panics
    /// If `partition` is another producer's.
    pub fn send_and_forget(&self, partition: &A::Partition, record: Record<'_>) -> Result<(), SendRefused> {
        self.append(partition, record, Reply::IGNORE).map(drop)
    }

    fn append(
        &self,
        partition: &A::Partition,
        mut record: Record<'_>,
        reply: Reply,
    ) -> Result<Option<RecordFuture>, SendRefused> {
        if record.timestamp == NO_TIMESTAMP {
            record.timestamp = self.time.unix_millis();
        }
        let size = batch_size_upper_bound(&record);
        if size > self.config.sender.max_request_size {
            let limit = self.config.sender.max_request_size as u64;
            return Err(SendRefused::RecordTooLarge { size, limit, name: "max.request.size" });
        }
        if size as u64 > self.config.accumulator.buffer_memory {
            let limit = self.config.accumulator.buffer_memory;
            return Err(SendRefused::RecordTooLarge { size, limit, name: "buffer.memory" });
        }
        let appended = self.accumulator.append(partition, &record, reply, self.config.max_block)?;
        if appended.must_wake_sender() {
            self.sender.wake();
        }
        Ok(appended.future)
    }

    /// Sends what was accepted without waiting for linger, and waits until it has completed. Records that others send meanwhile are not awaited
    /// (ACC-41).
    ///
    /// # Errors
    /// [`FlushError`].
    pub fn flush(&self, timeout: Option<Duration>) -> Result<(), FlushError> {
        refuse_in_callback()?;
        self.accumulator.begin_flush();
        self.sender.wake();
        self.accumulator.await_flush(timeout)
    }

    /// Closes: refuses further records, sends what was accepted, waits for it at most `timeout`, aborts what is left. When this returns, every accepted
    /// record has completed. Idempotent; see [`SenderHandle::close`].
    ///
    /// # Errors
    /// [`CloseError`] if records were aborted, or may have been.
    pub fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        self.sender.close(timeout)
    }

    /// What the sender has done so far.
    pub fn stats(&self) -> SenderSnapshot {
        self.sender.stats().snapshot()
    }

    /// The pool's figures.
    pub fn pool(&self) -> PoolSnapshot {
        self.accumulator.pool()
    }

    /// Memory that batches take outside of the pool: a codec's.
    pub fn off_pool(&self) -> OffPoolSnapshot {
        self.accumulator.off_pool()
    }
}

impl<A: Accumulator> fmt::Debug for Producer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("accumulator", &self.accumulator)
            .field("sender", &self.sender)
            .finish_non_exhaustive()
    }
}
