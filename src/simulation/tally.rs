//! What happened, counted: so that a run can show that it met what it is for.

use std::collections::BTreeMap;

use crate::broker::ErrorCode;

/// Every kind of fault, and of other things that a run of some length must have met.
pub(super) const KINDS: &[&str] = &[
    "slow",
    "late-response",
    "lost-request",
    "lost-response",
    "disconnect-before",
    "disconnect-after",
    "refused-at-the-door",
    "throttle",
    "error",
    "error-after-write",
    "unmentioned",
    "record-errors",
    "unsupported-version",
    "request-timeout",
    "applied-late",
    "leader-move",
    "no-leader",
    "restart",
    "producer-forgotten",
    "no-producer-id",
    "pool-exhausted",
    "tiny-pool",
    "delivery-timeout",
    "expired-in-flight",
    "split",
    "flush",
    "flush-timeout",
    "close-graceful",
    "close-forced",
    "close-in-callback",
    "stopped-appender",
    "stopped-in-copy",
    "several-at-once",
];

/// What was counted. See [`crate::simulation::Tally`] for what is what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Histories that were run.
    pub histories: u64,
    /// Records accepted.
    pub records: u64,
    /// Records acknowledged.
    pub acked: u64,
    /// Records failed or aborted.
    pub failed_records: u64,
    /// Batches answered.
    pub answers: u64,
    /// Scheduling decisions.
    pub steps: u64,
    /// By kind, how often.
    pub faults: BTreeMap<&'static str, u64>,
    /// By name, how often a batch was answered with it, or a request for a producer id.
    pub error_codes: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    pub(super) fn code(&mut self, code: ErrorCode) {
        if code != ErrorCode::None {
            *self.error_codes.entry(code.to_string()).or_default() += 1;
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        self.records += other.records;
        self.acked += other.acked;
        self.failed_records += other.failed_records;
        self.answers += other.answers;
        self.steps += other.steps;
        other.faults.iter().for_each(|(kind, count)| *self.faults.entry(kind).or_default() += count);
        other.error_codes.iter().for_each(|(code, count)| *self.error_codes.entry(code.clone()).or_default() += count);
    }

    /// Kinds of faults, and codes of SEND-20, that never occurred.
    pub fn missing(&self) -> Vec<String> {
        let kinds = KINDS.iter().filter(|kind| !self.faults.contains_key(*kind)).map(|kind| (*kind).to_owned());
        let codes = ErrorCode::all().filter(|code| *code != ErrorCode::None).map(|code| code.to_string());
        kinds.chain(codes.filter(|code| !self.error_codes.contains_key(code))).collect()
    }
}
