//! `unlatched produce`: each line of a file or of standard input to the embedded broker, as one record.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::ProduceArgs;
use super::input::{Block, BlockReader, Line};
use super::log_dir::{self, Made};
use super::report::grouped;
use super::stop::Stop;
use super::with_core;
use crate::accumulator::Accumulator;
use crate::batch::RecordFuture;
use crate::broker::embedded::{EmbeddedBroker, Storage};
use crate::error::TopicPartition;
use crate::producer::{Producer, RoundRobin, partition_for_key};
use crate::record::{NO_TIMESTAMP, Record};

/// Records that may be unacknowledged before the oldest is waited for.
const WINDOW: usize = 1 << 16;
/// Records between two looks at the progress bar.
const SHOW_EACH: u64 = 1 << 12;
/// How long a close may take before what is left counts as lost.
const CLOSE: Duration = Duration::from_secs(150);

/// Sends the lines, prints a summary.
pub(super) fn run(args: &ProduceArgs) -> Result<ExitCode> {
    with_core!(args.core, produce(args))
}

fn produce<A: Accumulator>(args: &ProduceArgs) -> Result<ExitCode> {
    let mut config = super::producer_config(&args.tuning)?;
    // A file's lines keep their order within a partition also where a batch has to be sent again.
    config.sender.guarantee_order = true;
    let options = args.options(super::max_line(&config));
    let stop = Stop::on_signal();
    let cancel = options.cancel.clone();
    stop.then(move || cancel.cancel());
    let reader = BlockReader::open(args.source(), options)?;
    // Whoever waits for the first line has been told before of a directory that cannot be used.
    let made = args.log_dir.as_deref().map(Made::before);
    let storage = args.log_dir.as_deref().map_or(Storage::Drop, log_dir::storage);
    let limit = super::max_uncompressed_bytes(&args.tuning);
    let broker = EmbeddedBroker::builder().storage(storage).max_uncompressed_bytes(limit);
    let broker = broker.open().map_err(log_dir::explain)?;
    let mut block = Block::new();
    let more = reader.next_block(&mut block)?;
    block.check_first()?;
    if !more && stop.asked() {
        super::note(format_args!("interrupted before anything was read"));
        return Ok(ExitCode::from(super::INTERRUPTED));
    }
    broker.ensure_topic(&args.topic, args.partitions)?;
    // A topic that has more partitions keeps them, and its keys their places.
    let partitions = broker.partitions(&args.topic).unwrap_or(args.partitions);

    let producer = Producer::<A>::start(config, broker.connect()?)?;
    made.into_iter().for_each(Made::keep);
    let mut sending = Sending {
        producer: &producer,
        partitions: (0..partitions)
            .map(|number| producer.partition(&TopicPartition::new(args.topic.as_str(), number)))
            .collect(),
        round_robin: RoundRobin::new(),
        pending: VecDeque::new(),
        sent: 0,
        bytes: 0,
        acknowledged: 0,
        failure: None,
    };
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} records sent, {per_sec}, {elapsed}") {
        bar.set_style(style);
    }
    let read = sending.read(&reader, block, more, &bar);
    // What waits for more records gets none; it need not linger.
    producer.flush(None)?;
    while sending.settle_oldest(true) {}
    bar.finish_and_clear();
    let Sending { sent, bytes, acknowledged, failure, .. } = sending;
    let closed = producer.close(CLOSE);
    drop(producer);
    broker.sync()?;
    super::note(format_args!(
        "{} of {} records acknowledged by {}, {} partition(s), {} bytes of values{}",
        grouped(acknowledged),
        grouped(sent),
        args.topic,
        partitions,
        grouped(bytes),
        if reader.short_rows() > 0 {
            format!("; {} rows had too few fields for a key", grouped(reader.short_rows()))
        } else {
            String::new()
        },
    ));
    read?;
    closed?;
    if let Some(failure) = failure {
        anyhow::bail!("{} records were lost; the first: {failure}", grouped(sent - acknowledged));
    }
    if stop.asked() {
        super::note(format_args!("interrupted: what was read until then is acknowledged"));
        return Ok(ExitCode::from(super::INTERRUPTED));
    }
    Ok(ExitCode::SUCCESS)
}

struct Sending<'a, A: Accumulator> {
    producer: &'a Producer<A>,
    partitions: Vec<A::Partition>,
    round_robin: RoundRobin,
    pending: VecDeque<RecordFuture>,
    sent: u64,
    bytes: u64,
    acknowledged: u64,
    failure: Option<String>,
}

impl<A: Accumulator> Sending<'_, A> {
    /// Sends what `block` holds, if there are `more` lines, and what follows it.
    fn read(&mut self, reader: &BlockReader, mut block: Block, mut more: bool, bar: &ProgressBar) -> Result<()> {
        while more {
            for line in block.lines() {
                self.send(&line?)?;
                if self.sent.is_multiple_of(SHOW_EACH) {
                    bar.set_position(self.sent);
                    while self.settle_oldest(self.pending.len() > WINDOW) {}
                }
            }
            bar.set_position(self.sent);
            more = reader.next_block(&mut block)?;
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
        let future = self.producer.send(&self.partitions[partition as usize], record);
        self.pending.push_back(future.with_context(|| format!("line {}", line.number))?);
        self.sent += 1;
        self.bytes += line.bytes.len() as u64;
        Ok(())
    }

    /// Counts the oldest record if it is done, or once it is if `wait`. Whether there may be more to count.
    fn settle_oldest(&mut self, wait: bool) -> bool {
        let Some(oldest) = self.pending.front() else { return false };
        if !wait && !oldest.is_done() {
            return false;
        }
        let Some(future) = self.pending.pop_front() else { return false };
        match future.wait() {
            Ok(_) => self.acknowledged += 1,
            Err(error) => {
                self.failure.get_or_insert_with(|| error.to_string());
            }
        }
        true
    }
}
