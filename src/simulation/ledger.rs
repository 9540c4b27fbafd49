//! What appenders were told, and the oracles that hold it against the logs.
//!
//! # The oracles, and why each is not too strong
//! - **Once** (L5). An accepted record completes once, by its future and by its callback, and both say the same; one that was refused not at all. When a close that waited has returned, all that was accepted before it
//!   has completed (GAP-18); when a flush has returned without an error, all that was accepted before it began (ACC-41).
//! - **Written** (L5). What was acknowledged with an offset stands there, byte for byte; what was acknowledged without one (a duplicate) stands somewhere. Not with acks=0, where nobody answers for anything. Nothing is said of
//!   records that failed: their outcome may be unknown.
//! - **Nothing else.** Every record in a log was accepted. One that was refused left no trace, and a batch that cannot be read was never sent (its memory was somebody else's meanwhile: L2).
//! - **Order** (L6). If an append has returned before another to the same partition began, and both went to the shared lane or are one appender's, then the first stands first. With idempotence in the log itself. Without it, but with one request in
//!   flight per partition, among what was acknowledged, by the acknowledged offsets: a request that was given up may be done late, and then a record that failed, or a second copy, stands anywhere. With several in flight and no
//!   idempotence nothing is promised. When a broker forgets a producer the promise stands: it refuses what it does not know until that begins again.
//! - **No duplicates, no gaps.** With idempotence a record stands in the log once, and of each id and epoch the sequences begin with 0 and follow each other.
//! - **Liveness.** Once nothing goes wrong any more, nobody is stopped, and the last append has returned, what is left goes out: no callback says long after ([`Setup::settles`]) that a record has expired. A partition that stays muted shows
//!   so, or a batch whose turn never comes. Not where a broker has forgotten a producer: as long as it does not say where its log starts, the batch comes again and again, as Kafka's does (IDEM-10).
//! - **Memory** (L1, L2). At the end, every request having come back, every byte is in the pool, nothing is in the books, and nothing is counted outside of the pool.

use std::collections::{BTreeMap, HashMap};

use super::broker::Stored;
use super::plan::{Hears, Setup};
use crate::batch::{RecordFuture, RecordResult};
use crate::broker::Acks;
use crate::error::SendError;
use crate::primitive::clock::Instant;
use crate::record::{NO_PRODUCER_ID, increment_sequence};

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Append {
    Running,
    Refused,
    Accepted,
}

/// A record that somebody wanted to append.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) appender: usize,
    /// Whether it went through an owner of lanes.
    owned: bool,
    pub(super) partition: i32,
    pub(super) timestamp: i64,
    pub(super) value: Vec<u8>,
    hears: Hears,
    pub(super) append: Append,
    /// When the append began and returned, in the order of such moments.
    began: u64,
    ended: u64,
    results: Vec<RecordResult>,
    /// When the callback came.
    heard: Instant,
    future: Option<RecordFuture>,
}

impl Entry {
    fn is_done(&self) -> bool {
        !self.results.is_empty() || self.future.as_ref().is_some_and(RecordFuture::is_done)
    }

    fn hears(&self) -> bool {
        self.hears != Hears::Nobody
    }

    fn result(&self) -> Option<RecordResult> {
        self.results.first().cloned().or_else(|| self.future.as_ref()?.try_result())
    }
}

/// All records of a history.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) entries: Vec<Entry>,
    moment: u64,
    /// Closes in callbacks.
    pub(super) closes: u64,
    pub(super) wrong: Vec<String>,
}

impl Ledger {
    fn now(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// An append begins. Its number.
    pub(super) fn begin(
        &mut self,
        appender: usize,
        owned: bool,
        partition: i32,
        len: usize,
        hears: Hears,
        timestamp: i64,
    ) -> usize {
        let number = self.entries.len();
        // The name of the record, and what shows if bytes of another come into it.
        let mut value = (number as u64).to_be_bytes().to_vec();
        value.resize(len.max(8), number as u8);
        let began = self.now();
        self.entries.push(Entry {
            appender,
            owned,
            partition,
            timestamp,
            value,
            hears,
            append: Append::Running,
            began,
            ended: u64::MAX,
            results: Vec::new(),
            heard: Instant::ZERO,
            future: None,
        });
        number
    }

    /// It returned.
    pub(super) fn end(&mut self, number: usize, accepted: Option<Option<RecordFuture>>) {
        let now = self.now();
        let entry = &mut self.entries[number];
        entry.ended = now;
        match accepted {
            Some(future) => {
                if future.is_some() != (entry.hears == Hears::Future) {
                    self.wrong.push(format!("record {number} was given a future, or none, as it was not asked for"));
                }
                (entry.append, entry.future) = (Append::Accepted, future);
            }
            None => entry.append = Append::Refused,
        }
    }

    /// A callback came.
    pub(super) fn complete(&mut self, number: usize, result: RecordResult, now: Instant) {
        let entry = &mut self.entries[number];
        entry.results.push(result);
        entry.heard = now;
    }

    /// The records accepted until now.
    pub(super) fn accepted(&self) -> Vec<usize> {
        let accepted = self.entries.iter().enumerate().filter(|(_, entry)| entry.append == Append::Accepted);
        accepted.map(|(number, _)| number).collect()
    }

    /// That these have completed, now that `what` has returned.
    pub(super) fn check_done(&mut self, records: &[usize], what: &str) {
        for number in records {
            let entry = &self.entries[*number];
            if entry.hears() && !entry.is_done() {
                self.wrong.push(format!("{what} returned, and record {number}, accepted before it, has not completed"));
            }
        }
    }

    /// Accepted, acknowledged, failed, as told.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let accepted = self.entries.iter().filter(|entry| entry.append == Append::Accepted);
        accepted.fold((0, 0, 0), |(all, acked, failed), entry| match entry.result() {
            None => (all + 1, acked, failed),
            Some(Ok(_)) => (all + 1, acked + 1, failed),
            Some(Err(_)) => (all + 1, acked, failed + 1),
        })
    }

    /// Records that ended by their delivery timeout.
    pub(super) fn expired(&self) -> usize {
        let expired = |entry: &&Entry| matches!(entry.result(), Some(Err(SendError::DeliveryTimeout { .. })));
        self.entries.iter().filter(expired).count()
    }

    /// The oracles, at the end.
    pub(super) fn check<'l>(&mut self, setup: &Setup, logs: impl Iterator<Item = &'l [Stored]>) {
        self.check_once();
        for (partition, log) in (0..).zip(logs) {
            let places = self.check_log(partition, log, setup);
            self.check_acknowledged(partition, &places, setup);
            if setup.idempotent {
                self.check_sequences(partition, log);
            }
            if setup.keeps_order() {
                self.check_order(partition, &places, setup);
            }
        }
    }

    /// That nothing expired long after all had settled; that was at `calm`.
    pub(super) fn check_liveness(&mut self, setup: &Setup, calm: Instant) {
        let Some(settles) = setup.settles() else { return };
        let latest = calm.saturating_add(settles);
        for (number, entry) in self.entries.iter().enumerate() {
            if matches!(entry.results.first(), Some(Err(SendError::DeliveryTimeout { .. }))) && entry.heard > latest {
                let late = entry.heard.saturating_since(calm);
                self.wrong.push(format!("record {number} expired {late:?} after the last thing that went wrong"));
            }
        }
    }

    fn check_once(&mut self) {
        for (number, entry) in self.entries.iter_mut().enumerate() {
            let futures = entry.future.as_ref().and_then(RecordFuture::try_result);
            let told = entry.results.len() + usize::from(futures.is_some());
            let expected = usize::from(entry.append == Append::Accepted && entry.hears());
            if told != expected {
                let Entry { append, hears, results, .. } = entry;
                self.wrong.push(format!("record {number} ({append:?}, {hears:?}) completed {told} times: {results:?}"));
            }
        }
    }

    /// The offsets of each record of a log.
    fn check_log(&mut self, partition: i32, log: &[Stored], setup: &Setup) -> HashMap<usize, Vec<i64>> {
        let mut places: HashMap<usize, Vec<i64>> = HashMap::new();
        for batch in log {
            for (offset, (timestamp, value)) in (batch.base_offset..).zip(&batch.records) {
                let name = value.first_chunk().map(|name| u64::from_be_bytes(*name) as usize);
                let Some(entry) = name.and_then(|name| self.entries.get(name)) else {
                    self.wrong.push(format!("partition {partition}, offset {offset}: a record that nobody appended"));
                    continue;
                };
                let number = name.unwrap_or_default();
                if (&entry.value, entry.timestamp, entry.partition) != (value, *timestamp, partition) {
                    self.wrong
                        .push(format!("partition {partition}, offset {offset}: record {number} is not as it was"));
                }
                if entry.append == Append::Refused {
                    self.wrong.push(format!("partition {partition}, offset {offset}: record {number} was refused"));
                }
                places.entry(number).or_default().push(offset);
            }
        }
        let twice = places.iter().filter(|(_, places)| setup.idempotent && places.len() > 1);
        let mut twice: Vec<_> = twice.map(|(number, places)| format!("record {number} stands at {places:?}")).collect();
        twice.sort();
        self.wrong.append(&mut twice);
        places
    }

    fn check_acknowledged(&mut self, partition: i32, places: &HashMap<usize, Vec<i64>>, setup: &Setup) {
        if setup.sender.acks == Acks::None {
            return;
        }
        for (number, entry) in self.entries.iter().enumerate().filter(|(_, entry)| entry.partition == partition) {
            let Some(Ok(metadata)) = entry.result() else { continue };
            let places = places.get(&number).map_or(&[][..], Vec::as_slice);
            if places.is_empty() || metadata.offset >= 0 && !places.contains(&metadata.offset) {
                let told = metadata.offset;
                self.wrong.push(format!("record {number} was acknowledged at {told}, and stands at {places:?}"));
            }
        }
    }

    fn check_sequences(&mut self, partition: i32, log: &[Stored]) {
        let mut next: BTreeMap<(i64, i16), i32> = BTreeMap::new();
        for batch in log {
            let state = batch.producer;
            if state.id == NO_PRODUCER_ID {
                self.wrong.push(format!("partition {partition}, offset {}: no producer id", batch.base_offset));
            }
            let next = next.entry((state.id, state.epoch)).or_default();
            if state.base_sequence != *next {
                self.wrong.push(format!("partition {partition}: after a gap, {state:?}, and {next} was next"));
            }
            *next = increment_sequence(state.base_sequence, batch.records.len() as u32);
        }
    }

    fn check_order(&mut self, partition: i32, places: &HashMap<usize, Vec<i64>>, setup: &Setup) {
        let place = |number: usize, entry: &Entry| {
            if setup.idempotent {
                return places.get(&number).and_then(|places| places.first().copied());
            }
            entry.result().and_then(Result::ok).map(|metadata| metadata.offset).filter(|offset| *offset >= 0)
        };
        let of_partition = self.entries.iter().enumerate().filter(|(_, entry)| entry.partition == partition);
        let mut log: Vec<(i64, usize)> =
            of_partition.filter_map(|(number, entry)| Some((place(number, entry)?, number))).collect();
        log.sort_unstable();
        // Of each lane's users, the append that began last among those that stand before.
        let mut last: HashMap<Option<usize>, (u64, usize)> = HashMap::new();
        for (_, number) in log {
            let entry = &self.entries[number];
            let lane = last.entry(entry.owned.then_some(entry.appender)).or_default();
            if entry.ended < lane.0 {
                let before = lane.1;
                self.wrong.push(format!(
                    "record {number} had been appended before record {before} was, and stands behind it"
                ));
            }
            *lane = (*lane).max((entry.began, number));
        }
    }
}
