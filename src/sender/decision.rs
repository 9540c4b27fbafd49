//! What becomes of a batch that came back: one table (SEND-12 to SEND-17, SEND-19, IDEM-10).
//!
//! | # | the answer | and | then |
//! |---|---|---|---|
//! | 1 | no error, or DUPLICATE_SEQUENCE_NUMBER | | acknowledge |
//! | 2 | anything else | its records are over | let it go |
//! | 3 | MESSAGE_TOO_LARGE | it has more than one record, and no earlier attempt may have been written | split |
//! | 4 | anything else | its time is up, or its retries are | fail |
//! | 5 | OUT_OF_ORDER_SEQUENCE_NUMBER | it has a sequence | retry |
//! | 6 | UNKNOWN_PRODUCER_ID | it has a sequence, and the answer does not say where the log starts, or no earlier attempt may have been written | retry |
//! | 7 | a retriable error | | retry |
//! | 8 | anything else | | fail |
//!
//! The first row that fits counts. Row 6 is where Kafka always tries again: to a broker that has forgotten the producer, what may have been written once would be new, and be written twice.

use crate::broker::ErrorCode;

/// What is to be done with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Complete its records (SEND-14, SEND-17).
    Acknowledge,
    /// Nothing but to return its memory (SEND-09).
    LetGo,
    /// Send it in parts (SEND-12).
    Split,
    /// Send it again (SEND-13).
    Retry,
    /// Fail its records (SEND-15).
    Fail,
}

/// What the decision depends on beside the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Its records are over: it expired, or was aborted.
    pub settled: bool,
    /// Its delivery timeout has passed, or it has used up its retries (SEND-19).
    pub last_attempt: bool,
    /// Records in it.
    pub records: u32,
    /// It has a sequence.
    pub sequenced: bool,
    /// An earlier attempt may have been written.
    pub in_doubt: bool,
    /// The answer says where the partition's log starts.
    pub log_start_known: bool,
}

/// The table.
pub fn decide(code: ErrorCode, facts: Facts) -> Decision {
    match code {
        ErrorCode::None | ErrorCode::DuplicateSequenceNumber => Decision::Acknowledge,
        _ if facts.settled => Decision::LetGo,
        ErrorCode::MessageTooLarge if facts.records > 1 && !facts.in_doubt => Decision::Split,
        _ if facts.last_attempt => Decision::Fail,
        ErrorCode::OutOfOrderSequenceNumber if facts.sequenced => Decision::Retry,
        ErrorCode::UnknownProducerId if facts.sequenced && !(facts.log_start_known && facts.in_doubt) => {
            Decision::Retry
        }
        code if code.is_retriable() => Decision::Retry,
        _ => Decision::Fail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorCode as E;

    const PLAIN: Facts = Facts {
        settled: false,
        last_attempt: false,
        records: 1,
        sequenced: false,
        in_doubt: false,
        log_start_known: false,
    };

    /// All combinations of the facts.
    fn all() -> impl Iterator<Item = Facts> {
        (0..64u32).map(|bits| {
            let bit = |at: u32| bits >> at & 1 == 1;
            Facts {
                settled: bit(0),
                last_attempt: bit(1),
                records: 1 + u32::from(bit(2)),
                sequenced: bit(3),
                in_doubt: bit(4),
                log_start_known: bit(5),
            }
        })
    }

    #[test]
    fn send_17_row_1_what_was_written_is_acknowledged_whatever_else() {
        for facts in all() {
            assert_eq!(decide(E::None, facts), Decision::Acknowledge);
            assert_eq!(decide(E::DuplicateSequenceNumber, facts), Decision::Acknowledge);
        }
    }

    #[test]
    fn send_09_row_2_what_is_over_is_neither_tried_again_nor_split() {
        let errors = || E::all().filter(|code| !matches!(code, E::None | E::DuplicateSequenceNumber));
        for (facts, code) in
            all().filter(|facts| facts.settled).flat_map(|facts| errors().map(move |code| (facts, code)))
        {
            assert_eq!(decide(code, facts), Decision::LetGo, "{code} {facts:?}");
        }
    }

    #[test]
    fn send_12_row_3_too_large_is_split_if_it_can_be() {
        for facts in all().filter(|facts| !facts.settled) {
            let split = facts.records > 1 && !facts.in_doubt;
            let expected = if split { Decision::Split } else { Decision::Fail };
            assert_eq!(decide(E::MessageTooLarge, facts), expected, "{facts:?}");
        }
        assert_eq!(decide(E::RecordListTooLarge, Facts { records: 2, ..PLAIN }), Decision::Fail);
    }

    #[test]
    fn send_19_row_4_the_last_attempt_is_the_last() {
        let facts = Facts { last_attempt: true, sequenced: true, ..PLAIN };
        for code in [E::OutOfOrderSequenceNumber, E::UnknownProducerId, E::RequestTimedOut, E::NotLeaderOrFollower] {
            assert_eq!(decide(code, facts), Decision::Fail, "{code}");
        }
    }

    #[test]
    fn idem_10_row_5_out_of_order_is_tried_again_by_who_has_sequences() {
        assert_eq!(decide(E::OutOfOrderSequenceNumber, Facts { sequenced: true, ..PLAIN }), Decision::Retry);
        let doubt = Facts { sequenced: true, in_doubt: true, log_start_known: true, ..PLAIN };
        assert_eq!(decide(E::OutOfOrderSequenceNumber, doubt), Decision::Retry);
        assert_eq!(decide(E::OutOfOrderSequenceNumber, PLAIN), Decision::Fail);
    }

    #[test]
    fn idem_10_row_6_a_forgotten_producer_tries_again_what_was_surely_not_written() {
        let of = |sequenced, in_doubt, log_start_known| {
            decide(E::UnknownProducerId, Facts { sequenced, in_doubt, log_start_known, ..PLAIN })
        };
        assert_eq!(of(true, false, false), Decision::Retry);
        assert_eq!(of(true, false, true), Decision::Retry);
        assert_eq!(of(true, true, false), Decision::Retry, "the next answer may say more");
        assert_eq!(of(true, true, true), Decision::Fail);
        assert_eq!(of(false, false, true), Decision::Fail);
    }

    #[test]
    fn send_20_rows_7_and_8_retriable_errors_are_tried_again_and_nothing_else() {
        let special = [E::None, E::DuplicateSequenceNumber, E::OutOfOrderSequenceNumber, E::UnknownProducerId];
        for code in E::all().chain([E::Other(4_321)]).filter(|code| !special.contains(code)) {
            for sequenced in [false, true] {
                let expected = if code.is_retriable() { Decision::Retry } else { Decision::Fail };
                assert_eq!(decide(code, Facts { sequenced, ..PLAIN }), expected, "{code}");
            }
        }
    }
}
