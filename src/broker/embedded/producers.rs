//! What a partition knows of idempotent producers: which batch it has already, and which must come next.
//!
//! Source: Kafka's `ProducerStateManager`, `ProducerStateEntry`, `ProducerAppendInfo.maybeValidateDataBatch`.
//!
//! # What is decided, in this order
//! | the batch | answer |
//! |---|---|
//! | has no producer id | written |
//! | has an older epoch than the last one written | `INVALID_PRODUCER_EPOCH` |
//! | has id, epoch, first and last sequence of one of the last five | success with that one's offset: written once (IDEM-04, IDEM-07) |
//! | of an id not known here | written, whatever its sequence is |
//! | of a newer epoch: begins at sequence 0; otherwise | written; `OUT_OF_ORDER_SEQUENCE_NUMBER` |
//! | begins with the sequence after the last one written; otherwise | written; `OUT_OF_ORDER_SEQUENCE_NUMBER` |
//!
//! Sequences go from 2^31 - 1 to 0, so the next one is never compared by size. A batch older than the last five is out of order.
//!
//! As brokers since 2.5 do: one that has forgotten a producer takes its next batch; earlier ones refused it with `UNKNOWN_PRODUCER_ID`. So nothing stops a producer's second batch from being written
//! before its first, but the producer: it has its first batch of an epoch alone in flight. State is not forgotten with time (`producer.id.expiration.ms`).

use std::collections::{HashMap, VecDeque};

use super::validate::Refusal;
use crate::broker::ErrorCode;
use crate::record::{BatchHeader, NO_PRODUCER_ID, increment_sequence};

/// Batches remembered per producer: as many as it may have in flight.
const KEPT: usize = 5;

/// A batch that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    first: i32,
    last: i32,
    /// Where it begins.
    pub(crate) base_offset: i64,
    /// The broker's time, where the topic is set so.
    pub(crate) log_append_time: Option<i64>,
}

#[derive(Debug)]
struct Producer {
    epoch: i16,
    /// Of this epoch; never empty.
    batches: VecDeque<Written>,
}

/// The producers of one partition.
#[derive(Debug, Default)]
pub(crate) struct Producers(HashMap<i64, Producer>);

/// The sequence of a batch's last record.
fn last_sequence(header: &BatchHeader) -> i32 {
    increment_sequence(header.base_sequence, header.records_count.max(1).unsigned_abs() - 1)
}

impl Producers {
    /// What is to become of a batch with this header: `None` to be written, else what it was written as before.
    pub(crate) fn judge(&self, header: &BatchHeader) -> Result<Option<Written>, Refusal> {
        let BatchHeader { producer_id, producer_epoch, base_sequence, .. } = *header;
        if producer_id == NO_PRODUCER_ID {
            return Ok(None);
        }
        let refuse = |code, why: &str| {
            let whose = format!("producer {producer_id}, epoch {producer_epoch}, sequence {base_sequence}");
            Err(Refusal::new(code, format!("{whose}: {why}")))
        };
        let Some(producer) = self.0.get(&producer_id) else { return Ok(None) };
        if producer_epoch < producer.epoch {
            return refuse(ErrorCode::InvalidProducerEpoch, &format!("epoch {} has written", producer.epoch));
        }
        if producer_epoch > producer.epoch {
            return match base_sequence {
                0 => Ok(None),
                _ => refuse(ErrorCode::OutOfOrderSequenceNumber, "a new epoch begins at 0"),
            };
        }
        let last = last_sequence(header);
        if let Some(same) = producer.batches.iter().find(|batch| (batch.first, batch.last) == (base_sequence, last)) {
            return Ok(Some(*same));
        }
        let next = producer.batches.back().map_or(0, |batch| increment_sequence(batch.last, 1));
        if base_sequence == next {
            Ok(None)
        } else {
            refuse(ErrorCode::OutOfOrderSequenceNumber, &format!("{next} is next"))
        }
    }

    /// A batch with this header, judged to be written, was.
    pub(crate) fn written(&mut self, header: &BatchHeader, base_offset: i64, log_append_time: Option<i64>) {
        if header.producer_id == NO_PRODUCER_ID {
            return;
        }
        let first = header.base_sequence;
        let batch = Written { first, last: last_sequence(header), base_offset, log_append_time };
        let fresh = || Producer { epoch: header.producer_epoch, batches: VecDeque::with_capacity(KEPT) };
        let producer = self.0.entry(header.producer_id).or_insert_with(fresh);
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == KEPT {
            producer.batches.pop_front();
        }
        producer.batches.push_back(batch);
    }

    /// Whether a producer has written here, and was not forgotten.
    #[cfg(feature = "testing")]
    pub(crate) fn knows(&self, producer_id: i64) -> bool {
        self.0.contains_key(&producer_id)
    }

    /// Forgets a producer, or all: what retention does to one that has nothing left in the log.
    pub(crate) fn forget(&mut self, producer_id: Option<i64>) {
        match producer_id {
            Some(id) => drop(self.0.remove(&id)),
            None => self.0.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::embedded::test_support::{bytes, with_header};
    use crate::record::RecordBatch;

    const ID: i64 = 7;

    fn header(epoch: i16, base_sequence: i32, records: i32) -> BatchHeader {
        let bytes = with_header(bytes(&["a"]), |header| {
            (header.producer_id, header.producer_epoch, header.base_sequence) = (ID, epoch, base_sequence);
        });
        let header = *RecordBatch::parse(&bytes).unwrap().0.header();
        BatchHeader { records_count: records, ..header }
    }

    struct Log {
        producers: Producers,
        end: i64,
    }

    impl Log {
        fn new() -> Self {
            Self { producers: Producers::default(), end: 0 }
        }

        /// The offset that the batch has, or why it has none.
        fn send(&mut self, epoch: i16, sequence: i32, records: i32) -> Result<i64, ErrorCode> {
            let header = header(epoch, sequence, records);
            match self.producers.judge(&header) {
                Ok(Some(before)) => Ok(before.base_offset),
                Ok(None) => {
                    let base = self.end;
                    self.producers.written(&header, base, None);
                    self.end += i64::from(records);
                    Ok(base)
                }
                Err(refusal) => Err(refusal.code),
            }
        }
    }

    #[test]
    fn idem_04_each_of_the_last_five_batches_is_written_once_and_answered_with_its_offset() {
        let mut log = Log::new();
        let bases: Vec<_> = (0..6).map(|batch| log.send(0, batch * 10, 10).unwrap()).collect();
        assert_eq!(bases, [0, 10, 20, 30, 40, 50]);
        for batch in 1..6 {
            assert_eq!(log.send(0, batch * 10, 10), Ok(i64::from(batch) * 10));
        }
        assert_eq!(log.end, 60, "nothing was written again");
        assert_eq!(log.send(0, 0, 10), Err(ErrorCode::OutOfOrderSequenceNumber), "five are remembered");
        assert_eq!(log.send(0, 50, 5), Err(ErrorCode::OutOfOrderSequenceNumber), "the same start, another end");
    }

    #[test]
    fn idem_10_a_gap_is_out_of_order_and_a_producer_that_is_not_known_begins_anywhere() {
        let mut log = Log::new();
        assert_eq!(log.send(0, 3, 2), Ok(0));
        assert_eq!(log.send(0, 0, 3), Err(ErrorCode::OutOfOrderSequenceNumber), "what was before is a gap as well");
        assert_eq!(log.send(0, 6, 1), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(log.send(0, 5, 1), Ok(2), "what is next is still taken");
        log.producers.forget(Some(ID));
        assert_eq!(log.send(0, 9, 1), Ok(3));
        assert_eq!(
            log.send(0, 5, 1),
            Err(ErrorCode::OutOfOrderSequenceNumber),
            "nor are its duplicates known any more"
        );
    }

    #[test]
    fn idem_15_a_new_epoch_begins_at_zero_and_ends_the_old_one() {
        let mut log = Log::new();
        assert_eq!(log.send(0, 0, 2), Ok(0));
        assert_eq!(log.send(1, 2, 1), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(log.send(0, 2, 1), Ok(2), "an epoch that wrote nothing ends nothing");
        assert_eq!(log.send(1, 0, 2), Ok(3), "the old epoch's first batch is not this one");
        assert_eq!(log.send(0, 3, 1), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(log.send(0, 0, 2), Err(ErrorCode::InvalidProducerEpoch), "nor are its duplicates known any more");
        assert_eq!(log.send(1, 0, 2), Ok(3));
    }

    #[test]
    fn gap_26_sequences_go_round() {
        let mut log = Log::new();
        assert_eq!(log.send(0, 0, 1), Ok(0));
        log.producers.written(&header(0, i32::MAX - 5, 4), 1, None);
        log.end = 5;
        assert_eq!(log.send(0, i32::MAX - 1, 3), Ok(5), "its last one is 0");
        assert_eq!(log.send(0, i32::MAX - 1, 3), Ok(5), "and it is known again");
        assert_eq!(log.send(0, 0, 2), Err(ErrorCode::OutOfOrderSequenceNumber), "0 is taken");
        assert_eq!(log.send(0, 1, 1), Ok(8));
        log.producers.written(&header(0, i32::MAX, 1), 9, None);
        log.end = 10;
        assert_eq!(log.send(0, 0, 2), Ok(10), "0 follows 2^31 - 1");
    }
}
