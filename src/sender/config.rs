//! What a sender needs to know.

use std::time::Duration;

use super::idempotence::WINDOW;
use crate::broker::Acks;

/// What a sender needs to know. Names and defaults are Kafka's (CFG-05 to CFG-12).
#[derive(Debug, Clone)]
pub struct SenderConfig {
    /// `acks`.
    pub acks: Acks,
    /// `enable.idempotence`: nothing is written twice or out of order, whatever is sent again. `None`: if the other values allow it, see [`SenderConfig::idempotence`].
    pub enable_idempotence: Option<bool>,
    /// `max.in.flight.requests.per.connection`. With 1, [`SenderConfig::guarantee_order`] as well.
    pub max_in_flight: usize,
    /// `max.request.size`: bytes of batches in one request; one batch always goes.
    pub max_request_size: usize,
    /// `request.timeout.ms`: how long the transport waits for an answer.
    pub request_timeout: Duration,
    /// `delivery.timeout.ms`: from a batch's creation to its result.
    pub delivery_timeout: Duration,
    /// `retries`: attempts after the first.
    pub retries: u32,
    /// `retry.backoff.ms` between requests for a producer id. Batches have the accumulator's.
    pub retry_backoff: Duration,
    /// One batch of a partition in flight at a time, so that a retry cannot overtake. Kafka does so where
    /// `max.in.flight.requests.per.connection` is 1 (SEND-23).
    pub guarantee_order: bool,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            enable_idempotence: None,
            max_in_flight: WINDOW,
            max_request_size: 1 << 20,
            request_timeout: Duration::from_secs(30),
            delivery_timeout: Duration::from_secs(120),
            retries: i32::MAX as u32,
            retry_backoff: Duration::from_millis(100),
            guarantee_order: false,
        }
    }
}

/// Why a producer that is to be idempotent cannot be (IDEM-01).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdempotenceConflict {
    /// What the leader alone has may be lost, and what nobody answers for cannot be sent again.
    #[error("enable.idempotence needs acks=all, but acks is {0:?}")]
    Acks(Acks),
    /// It is about sending again.
    #[error("enable.idempotence needs retries above 0")]
    Retries,
    /// More than a broker remembers.
    #[error("enable.idempotence needs max.in.flight.requests.per.connection of at most {WINDOW}, but it is {0}")]
    InFlight(usize),
}

impl SenderConfig {
    /// Whether the producer is idempotent (IDEM-01): as wished; if nothing is wished, whether it can be.
    ///
    /// # Errors
    /// [`IdempotenceConflict`] if it is wished and cannot be.
    ///
    /// ```
    /// use unlatched::sender::SenderConfig;
    /// let config = SenderConfig { retries: 0, ..SenderConfig::default() };
    /// assert_eq!(SenderConfig::default().idempotence(), Ok(true));
    /// assert_eq!(config.idempotence(), Ok(false));
    /// assert!(SenderConfig { enable_idempotence: Some(true), ..config }.idempotence().is_err());
    /// ```
    pub fn idempotence(&self) -> Result<bool, IdempotenceConflict> {
        let conflict = if self.acks != Acks::All {
            Some(IdempotenceConflict::Acks(self.acks))
        } else if self.retries == 0 {
            Some(IdempotenceConflict::Retries)
        } else if self.max_in_flight > WINDOW {
            Some(IdempotenceConflict::InFlight(self.max_in_flight))
        } else {
            None
        };
        match (self.enable_idempotence, conflict) {
            (Some(true), Some(conflict)) => Err(conflict),
            (wish, conflict) => Ok(wish.unwrap_or(true) && conflict.is_none()),
        }
    }

    /// Whether a partition has one batch in flight at a time (SEND-23).
    pub(super) fn keeps_order(&self) -> bool {
        self.guarantee_order || self.max_in_flight <= 1
    }
}
