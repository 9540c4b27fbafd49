//! One run of one core, in a process of its own so that peak memory and CPU time are its own.
//!
//! The parent starts this program with [`ARGUMENT`] and writes a [`Spec`] as one line of JSON to its standard input; the end of that input asks the child
//! to end gracefully, as Ctrl-C does. The child writes lines of JSON to its standard output: [`Message::Progress`] now and then, one [`Message::Done`] or
//! [`Message::Failed`] at the end.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use crc_fast::{CrcAlgorithm, Digest};
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use super::args::{Amount, Broker, CompareArgs, Core};
use super::check::{Checker, Claimer, Verdict};
use super::faults::{self, Counts, Injected};
use super::input::{Block, BlockReader, Line};
use super::log_dir::{self, Made};
use super::stop::Stop;
use super::with_core;
use crate::accumulator::Accumulator;
use crate::batch::RecordFuture;
use crate::broker::embedded::{EmbeddedBroker, Storage};
use crate::error::TopicPartition;
use crate::primitive::atomic::AtomicU64;
use crate::primitive::atomic::Ordering::Relaxed;
use crate::primitive::clock::{Clock, SystemClock};
use crate::producer::{Producer, RoundRobin, partition_for_key};
use crate::record::{NO_TIMESTAMP, Record};

/// First argument of a child.
pub(super) const ARGUMENT: &str = "__run-one-core";

/// Each how manieth append is timed. A clock reading costs about as much as an append.
const TIMED_EACH: u64 = 16;
/// Records that a thread may have unacknowledged before it waits for the oldest.
const WINDOW: usize = 1 << 13;
/// The same in bytes of keys and values. The check holds them twice, as sent and as arrived.
const WINDOW_BYTES: usize = 1 << 21;
/// Appends between looks at the acknowledged.
const SETTLE_EACH: u64 = 64;
/// Bytes of keys and values to be claimed, from which on every append is followed by a look: long records need no more
/// memory than short ones.
const SETTLE_BYTES: usize = 1 << 20;
/// How long a close may take before what is left counts as lost.
const CLOSE: Duration = Duration::from_secs(150);

/// What a child is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) args: CompareArgs,
    pub(super) core: Core,
    pub(super) round: u32,
}

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// Records appended so far.
    Progress(u64),
    /// The run's figures.
    Done(Box<RunResult>),
    /// Why there are none.
    Failed(String),
}

/// The figures of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct RunResult {
    pub(super) core: String,
    pub(super) round: u32,
    /// Records accepted.
    pub(super) records_in: u64,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
    pub(super) found: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) read_back: u64,
    /// From the first append to the last acknowledgement.
    pub(super) seconds: f64,
    /// CPU time of the process meanwhile: appenders, sender, broker and check.
    pub(super) cpu_s: f64,
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) p999_ns: u64,
    pub(super) p9999_ns: u64,
    pub(super) max_ns: u64,
    pub(super) batches: u64,
    pub(super) fill: f64,
    /// Mean over batches of the bytes of their records as sent by those uncompressed.
    pub(super) compression_rate: f64,
    /// The most memory that batches took outside of the pool.
    pub(super) off_pool_peak_bytes: u64,
    pub(super) peak_rss_bytes: u64,
    /// Rows with too few fields for a key.
    pub(super) short_rows: u64,
    /// Whether it was asked to end early.
    pub(super) interrupted: bool,
    /// Records sent again.
    pub(super) retried: u64,
    /// What the broker did wrong.
    pub(super) faults: Counts,
    /// The first failure of a record, if one failed.
    pub(super) first_error: Option<String>,
}

/// Runs as a child if the arguments say so.
pub(super) fn main_if_child() -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != ARGUMENT {
        return None;
    }
    super::log_to_standard_error(tracing::Level::WARN);
    let (message, status) = match read_and_run() {
        Ok(result) => (Message::Done(Box::new(result)), ExitCode::SUCCESS),
        Err(error) => (Message::Failed(super::told(&error)), ExitCode::FAILURE),
    };
    say(&message);
    Some(status)
}

fn say(message: &Message) {
    let mut out = io::stdout().lock();
    // A parent that is gone has asked us to end by that; there is nobody else to tell.
    let _ = serde_json::to_writer(&mut out, message).map_err(io::Error::from).and_then(|()| writeln!(out));
}

fn read_and_run() -> Result<RunResult> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let spec: Spec = serde_json::from_str(&line).context("a child is started by `unlatched compare` only")?;
    let stop = Stop::on_signal();
    let parent = stop.clone();
    std::thread::spawn(move || {
        // Whatever ends it: the parent has nothing more to say, or is gone.
        let _ = io::stdin().lock().read(&mut [0]);
        parent.ask();
    });
    with_core!(spec.core, run(&spec, &stop))
}

/// Runs `spec` on the core `A`.
pub(super) fn run<A: Accumulator>(spec: &Spec, stop: &Stop) -> Result<RunResult> {
    let Spec { args, core, round } = spec;
    let topic = format!("compare-{core}-{round}");
    let mut config = super::producer_config(&args.tuning)?;
    config.sender.acks = args.acks;
    if !args.faults.is_empty() {
        config.sender.request_timeout = faults::REQUEST_TIMEOUT;
    }
    let options = args.options(super::max_line(&config));
    let cancel = options.cancel.clone();
    stop.then(move || cancel.cancel());
    // The input first: one that cannot be read leaves no directory behind.
    let reader = BlockReader::open(args.source(), options)?;

    let stored = args.broker() != Broker::Drop;
    let checker = Arc::new(Checker::new(args.partitions, stored));
    let made = args.log_dir.as_deref().map(Made::before);
    let broker = open_broker(args, *round, Arc::clone(&checker))?;
    let injected = Injected::new(broker.faults(), &args.faults);
    broker.ensure_topic(&topic, args.partitions)?;
    let targets: Vec<_> = (0..args.partitions).map(|number| TopicPartition::new(topic.as_str(), number)).collect();
    // A directory may hold an earlier comparison's records.
    let starts: Vec<i64> = targets.iter().map(|target| broker.end_offset(target).unwrap_or(0)).collect();

    let producer = Producer::<A>::start(config, broker.connect()?)?;
    made.into_iter().for_each(Made::keep);
    let clock = SystemClock::new();
    let appended = AtomicU64::new(0);
    let (start, cpu_before) = (clock.now(), cpu_time()?);
    let outcome: Result<Vec<Sent>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads())
            .map(|thread| {
                let (producer, reader, targets, appended, clock) = (&producer, &reader, &targets, &appended, &clock);
                let claimer = checker.claimer();
                scope.spawn(move || {
                    let sent = Appender::new(producer, targets, thread, claimer, clock).run(reader, appended);
                    if sent.is_err() {
                        reader.cancel();
                    }
                    sent
                })
            })
            .collect();
        let limit = match args.amount() {
            Amount::Time(time) => Some(time),
            Amount::Once | Amount::Records(_) => None,
        };
        while !threads.iter().all(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            if limit.is_some_and(|limit| clock.now().saturating_since(start) >= limit) {
                reader.cancel();
            }
            // Relaxed: a number to look at.
            say(&Message::Progress(appended.load(Relaxed)));
        }
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Sent>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("an appending thread panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    let (seconds, cpu_s) = (clock.now().saturating_since(start).as_secs_f64(), cpu_time()? - cpu_before);
    let sent = outcome?;
    producer.close(CLOSE)?;
    let (stats, off_pool) = (producer.stats(), producer.off_pool());
    drop(producer);

    let mut result = RunResult {
        core: core.name().to_owned(),
        round: *round,
        seconds,
        cpu_s,
        batches: stats.batches,
        fill: stats.fill(),
        compression_rate: stats.compression_rate(),
        off_pool_peak_bytes: off_pool.peak,
        short_rows: reader.short_rows(),
        interrupted: stop.asked(),
        retried: stats.retried,
        faults: injected.counts(),
        ..RunResult::default()
    };
    let mut verdict = checker.verdict();
    let mut latency = Histogram::<u64>::new(3)?;
    for sent in sent {
        verdict.add(&sent.verdict);
        latency.add(&sent.latency)?;
        result.records_in += sent.records;
        result.bytes += sent.bytes;
        result.first_error = result.first_error.or(sent.first_error);
    }
    if stored {
        compare_stored(&broker, &checker, &targets, &starts)?;
    }
    let Verdict { found, lost, duplicated, reordered, read_back } = verdict;
    let at = |percentile| latency.value_at_percentile(percentile);
    Ok(RunResult {
        found,
        lost,
        duplicated,
        reordered,
        read_back,
        p50_ns: at(50.0),
        p99_ns: at(99.0),
        p999_ns: at(99.9),
        p9999_ns: at(99.99),
        max_ns: latency.max(),
        peak_rss_bytes: peak_rss_bytes()?,
        ..result
    })
}

fn open_broker(args: &CompareArgs, round: u32, checker: Arc<Checker>) -> Result<EmbeddedBroker> {
    let storage = match (args.broker(), &args.log_dir) {
        (Broker::Memory, _) => Storage::Memory,
        (Broker::Drop, _) => Storage::Drop,
        (Broker::Dir, Some(path)) => log_dir::storage(path),
        (Broker::Dir, None) => bail!("--broker dir needs --log-dir DIR"),
    };
    let observer =
        move |target: &TopicPartition, offset: i64, batch: &[u8]| checker.show(target.partition, offset, batch);
    let limit = super::max_uncompressed_bytes(&args.tuning);
    let mut broker = EmbeddedBroker::builder().storage(storage).max_uncompressed_bytes(limit).observer(observer);
    if !args.faults.is_empty() {
        broker = broker.nodes(faults::NODES).seed(args.seed.wrapping_add(u64::from(round) - 1));
    }
    broker.open().map_err(log_dir::explain)
}

/// Reads everything back from where the broker keeps it: it must be what the checker was shown, to the byte.
fn compare_stored(
    broker: &EmbeddedBroker,
    checker: &Checker,
    targets: &[TopicPartition],
    starts: &[i64],
) -> Result<()> {
    for (target, start) in targets.iter().zip(starts) {
        let mut stored = Digest::new(CrcAlgorithm::Crc64Nvme);
        for batch in broker.read(target, *start)? {
            stored.update(&batch?);
        }
        if Some(stored.finalize()) != checker.digest(target.partition) {
            bail!("{target}: what the broker has stored is not what it acknowledged");
        }
    }
    Ok(())
}

/// CPU seconds of this process.
fn cpu_time() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Most memory that this process ever had. Linux says it for the program itself; elsewhere the most that the process had, before it became this
/// program included.
fn peak_rss_bytes() -> Result<u64> {
    let of_status = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let kib = match std::fs::read_to_string("/proc/self/status").ok().and_then(of_status) {
        Some(kib) => kib,
        None => u64::try_from(getrusage(UsageWho::RUSAGE_SELF)?.max_rss())?,
    };
    Ok(kib * 1024)
}

/// What one thread has done.
struct Sent {
    records: u64,
    bytes: u64,
    verdict: Verdict,
    latency: Histogram<u64>,
    first_error: Option<String>,
}

/// A record that was accepted and not yet acknowledged.
struct Pending {
    future: RecordFuture,
    partition: i32,
    /// `None` for a null key.
    key_len: Option<usize>,
    value_len: usize,
}

/// One appending thread: reads lines, sends them, claims what was acknowledged.
struct Appender<'a, A: Accumulator> {
    producer: &'a Producer<A>,
    partitions: Vec<A::Partition>,
    round_robin: RoundRobin,
    claimer: Claimer,
    clock: &'a SystemClock,
    pending: VecDeque<Pending>,
    /// Keys and values of what is pending, in order.
    bytes: VecDeque<u8>,
    sent: Sent,
}

impl<'a, A: Accumulator> Appender<'a, A> {
    fn new(
        producer: &'a Producer<A>,
        targets: &[TopicPartition],
        thread: usize,
        claimer: Claimer,
        clock: &'a SystemClock,
    ) -> Self {
        let latency = Histogram::new(3).expect("three digits are a precision that a histogram takes");
        Self {
            producer,
            partitions: targets.iter().map(|target| producer.partition(target)).collect(),
            round_robin: RoundRobin::starting_at(thread as u32),
            claimer,
            clock,
            pending: VecDeque::new(),
            bytes: VecDeque::new(),
            sent: Sent { records: 0, bytes: 0, verdict: Verdict::default(), latency, first_error: None },
        }
    }

    fn run(mut self, reader: &BlockReader, appended: &AtomicU64) -> Result<Sent> {
        let mut block = Block::new();
        let read = self.read(reader, &mut block, appended);
        // What was accepted is counted, whatever ended the reading. It gets no company any more, so it need not linger.
        self.producer.flush(None)?;
        while self.settle_oldest(true) {}
        read?;
        self.sent.verdict = self.claimer.verdict();
        Ok(self.sent)
    }

    fn read(&mut self, reader: &BlockReader, block: &mut Block, appended: &AtomicU64) -> Result<()> {
        while reader.next_block(block)? {
            let before = self.sent.records;
            for line in block.lines() {
                let line = line.inspect_err(|error| reader.fail(error.clone()))?;
                self.send(&line)?;
                if self.sent.records.is_multiple_of(SETTLE_EACH) || self.bytes.len() >= SETTLE_BYTES {
                    while self.settle_oldest(self.pending.len() > WINDOW || self.bytes.len() > WINDOW_BYTES) {}
                }
            }
            // Relaxed: a number to look at.
            appended.fetch_add(self.sent.records - before, Relaxed);
        }
        Ok(())
    }

    fn send(&mut self, line: &Line<'_>) -> Result<()> {
        let partitions = self.partitions.len() as i32;
        let key = line.key.as_deref();
        let partition = match key {
            Some(key) => partition_for_key(key, partitions),
            None => self.round_robin.next(partitions),
        };
        let record = Record { timestamp: NO_TIMESTAMP, key, value: Some(line.bytes), ..Record::default() };
        let handle = &self.partitions[partition as usize];
        let future = if self.sent.records.is_multiple_of(TIMED_EACH) {
            let before = self.clock.now();
            let future = self.producer.send(handle, record);
            let took = self.clock.now().saturating_since(before);
            // Three digits up to an hour and more: it resizes itself and takes any time.
            self.sent.latency += took.as_nanos() as u64;
            future
        } else {
            self.producer.send(handle, record)
        };
        let future = future.with_context(|| format!("line {}", line.number))?;
        self.bytes.extend(key.unwrap_or_default());
        self.bytes.extend(line.bytes);
        let (key_len, value_len) = (key.map(<[u8]>::len), line.bytes.len());
        self.pending.push_back(Pending { future, partition, key_len, value_len });
        self.sent.records += 1;
        self.sent.bytes += (key_len.unwrap_or(0) + value_len) as u64;
        Ok(())
    }

    /// Claims the oldest record if it is done, or once it is if `wait`. Whether there may be more to claim.
    fn settle_oldest(&mut self, wait: bool) -> bool {
        let Some(oldest) = self.pending.front() else { return false };
        if !wait && !oldest.future.is_done() {
            return false;
        }
        let Some(Pending { future, partition, key_len, value_len }) = self.pending.pop_front() else { return false };
        let result = future.wait();
        let len = key_len.unwrap_or(0) + value_len;
        let (front, _) = self.bytes.as_slices();
        let sent = if front.len() >= len { &front[..len] } else { &self.bytes.make_contiguous()[..len] };
        let (key, value) = sent.split_at(key_len.unwrap_or(0));
        match result {
            Ok(place) => self.claimer.claim(partition, place.offset, key_len.map(|_| key), Some(value)),
            Err(error) => {
                self.claimer.failed();
                self.sent.first_error.get_or_insert_with(|| error.to_string());
            }
        }
        self.bytes.drain(..len);
        true
    }
}
