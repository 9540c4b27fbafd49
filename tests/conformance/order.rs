//! Many threads at once: order within a partition (ACC-47), the last look of a close (ACC-48), forced close under load (ACC-44), memory given back
//! once whatever happens (POOL-26), the books of the whole accumulator (POOL-23).

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, Appended, Backoff, SenderView};
use unlatched::batch::{Reply, SealedBatch};
use unlatched::broker::{Cluster, ErrorCode};
use unlatched::error::{AppendError, SendError};
use unlatched::pool::PoolError;
use unlatched::primitive::atomic::Ordering::SeqCst;
use unlatched::primitive::atomic::{AtomicBool, AtomicUsize};
use unlatched::primitive::clock::{SharedClock, SystemClock};
use unlatched::primitive::random::Random;
use unlatched::record::Record;

use crate::batch::{TOPIC, millis, read, tp, value};
use crate::pool::assert_at_rest;
use crate::rig::{NODE, View, config};
use crate::support::{Core, LONG, PATIENCE, Stopwatch, Worker, lock, on_every_core};

on_every_core![
    acc_47_each_appenders_records_keep_their_order,
    acc_47_an_append_after_another_stands_behind_it,
    acc_47_order_holds_over_retries_one_at_a_time,
    acc_48_nothing_slips_in_after_the_last_look,
    acc_44_forced_close_under_load_ends_every_record,
    acc_41_every_flush_under_load_ends,
    pool_26_memory_is_given_back_once_whatever_happens,
];

/// An accumulator on real time, with its sender's side.
pub(crate) struct Line<C: Core> {
    pub(crate) accumulator: Arc<C::Accumulator>,
    pub(crate) view: View<C>,
    pub(crate) clock: SharedClock,
    pub(crate) cluster: Cluster,
}

impl<C: Core> Line<C> {
    pub(crate) fn new(config: AccumulatorConfig, partitions: i32) -> Self {
        let clock = SystemClock::shared();
        let (accumulator, view) = C::Accumulator::new(config, clock.clone());
        Self { accumulator, view, clock, cluster: Cluster::single_node(NODE, [(TOPIC, partitions)]) }
    }

    pub(crate) fn drain(&mut self) -> Vec<SealedBatch> {
        self.view.drain(&self.cluster, &[NODE], usize::MAX, self.clock.now()).remove(0).batches
    }

    /// Takes what there is, as a sender would, and gives it to `take`. Everything is acknowledged.
    pub(crate) fn pass(&mut self, mut take: impl FnMut(&SealedBatch)) {
        for batch in self.drain() {
            take(&batch);
            assert_eq!(batch.completion().complete(0, None), Ok(true));
            self.view.deallocate(batch).expect("it is in the books");
        }
        if C::SNAPSHOT_IS_ONE_INSTANT {
            let now = self.accumulator.pool();
            assert!(now.is_conserved(), "{now:?}");
        }
    }
}

pub(crate) fn numbered(thread: usize, number: u32) -> [u8; 8] {
    let mut content = [thread as u8; 8];
    content[4..].copy_from_slice(&number.to_be_bytes());
    content
}

/// Thread and number of each record of a batch.
fn numbers(batch: &SealedBatch) -> Vec<(usize, u32)> {
    let number = |content: &[u8]| {
        let content: [u8; 8] = content.try_into().expect("eight bytes");
        assert!(content[..4].iter().all(|byte| *byte == content[0]), "torn: {content:?}");
        (content[0] as usize, u32::from_be_bytes([content[4], content[5], content[6], content[7]]))
    };
    read(batch.as_bytes()).iter().map(|record| number(record.value.expect("a value"))).collect()
}

/// What came out of one partition, in order: each thread's records, none missing, none twice. So the batches came in the order in which they were made
/// as well; their dates say nothing about that, since a date is read before the queue is locked.
#[derive(Default)]
pub(crate) struct Log {
    by_thread: BTreeMap<usize, u32>,
    pub(crate) records: usize,
}

impl Log {
    pub(crate) fn take(&mut self, batch: &SealedBatch) {
        for (thread, number) in numbers(batch) {
            let expected = self.by_thread.entry(thread).or_default();
            assert_eq!(number, *expected, "thread {thread}: a record is missing, doubled or out of order");
            *expected += 1;
            self.records += 1;
        }
    }
}

/// Memory for eight batches, so that appenders wait for it every now and then.
fn scarce() -> AccumulatorConfig {
    AccumulatorConfig { buffer_memory: 8 * 256, linger: Duration::ZERO, delivery_timeout: LONG, ..config() }
}

fn acc_47_each_appenders_records_keep_their_order<C: Core>() {
    const THREADS: usize = 4;
    const PARTITIONS: i32 = 2;
    let mut line = Line::<C>::new(scarce(), PARTITIONS);
    let appenders: Vec<_> = (0..THREADS)
        .map(|thread| {
            let accumulator = line.accumulator.clone();
            Worker::start(move || {
                let handles: Vec<_> = (0..PARTITIONS).map(|partition| accumulator.partition(&tp(partition))).collect();
                let watch = Stopwatch::start();
                let mut number = 0;
                while watch.elapsed() < millis(400) {
                    for handle in &handles {
                        let content = numbered(thread, number);
                        assert!(accumulator.append(handle, &value(&content), Reply::IGNORE, LONG).is_ok());
                    }
                    number += 1;
                }
                number as usize
            })
        })
        .collect();
    let mut logs = BTreeMap::<i32, Log>::new();
    loop {
        let over = appenders.iter().all(Worker::is_finished);
        line.pass(|batch| logs.entry(batch.topic_partition().partition).or_default().take(batch));
        if over && !line.accumulator.has_undrained() {
            break;
        }
    }
    let appended: Vec<usize> = appenders.into_iter().map(Worker::result).collect();
    assert_eq!(logs.len(), PARTITIONS as usize);
    for log in logs.values() {
        assert_eq!(log.by_thread.values().map(|count| *count as usize).collect::<Vec<_>>(), appended);
        assert_eq!(log.records, appended.iter().sum::<usize>());
    }
    assert_at_rest(&line.accumulator.pool());
}

fn acc_47_an_append_after_another_stands_behind_it<C: Core>() {
    // Threads take turns: each append begins after the one before has returned, on whichever thread.
    const THREADS: usize = 4;
    const RECORDS: u32 = 2_000;
    let mut line = Line::<C>::new(scarce(), 1);
    let turn = Arc::new(Mutex::new(0u32));
    let appenders: Vec<_> = (0..THREADS)
        .map(|_| {
            let (accumulator, turn) = (line.accumulator.clone(), turn.clone());
            Worker::start(move || {
                let handle = accumulator.partition(&tp(0));
                loop {
                    let mut number = lock(&turn);
                    if *number == RECORDS {
                        break;
                    }
                    // Thread 0 for all: one sequence.
                    let content = numbered(0, *number);
                    assert!(accumulator.append(&handle, &value(&content), Reply::IGNORE, LONG).is_ok());
                    *number += 1;
                    drop(number);
                    std::thread::yield_now();
                }
            })
        })
        .collect();
    let mut log = Log::default();
    loop {
        let over = appenders.iter().all(Worker::is_finished);
        line.pass(|batch| log.take(batch));
        if over && !line.accumulator.has_undrained() {
            break;
        }
    }
    appenders.into_iter().for_each(Worker::result);
    assert_eq!(log.records, RECORDS as usize);
}

fn acc_47_order_holds_over_retries_one_at_a_time<C: Core>() {
    // The ordering mode: a partition is muted while a batch of it is out. Half of the batches come back for another attempt.
    let backoff = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
    let mut line = Line::<C>::new(AccumulatorConfig { backoff, ..scarce() }, 1);
    let accumulator = line.accumulator.clone();
    let appender = Worker::start(move || {
        let handle = accumulator.partition(&tp(0));
        for number in 0..3_000 {
            assert!(accumulator.append(&handle, &value(&numbered(0, number)), Reply::IGNORE, LONG).is_ok());
        }
    });
    let mut random = Random::seeded(5);
    let mut log = Log::default();
    let mut retried = 0;
    while log.records < 3_000 {
        assert!(!appender.is_finished() || line.accumulator.has_undrained(), "records are lost");
        for batch in line.drain() {
            line.view.mute(&tp(0));
            assert!(line.drain().is_empty(), "one at a time");
            if random.below(2) == 0 {
                retried += 1;
                let now = line.clock.now();
                line.view.reenqueue(batch, now);
            } else {
                log.take(&batch);
                assert_eq!(batch.completion().complete(0, None), Ok(true));
                line.view.deallocate(batch).expect("it is in the books");
            }
            line.view.unmute(&tp(0));
        }
    }
    appender.result();
    assert!(retried > 10, "{retried} retries");
    assert_at_rest(&line.accumulator.pool());
}

/// Threads that append to one partition until they are refused, and how many of their records were accepted.
fn append_until_closed<C: Core>(line: &Line<C>, threads: usize, callbacks: &Arc<AtomicUsize>) -> Vec<Worker<usize>> {
    until_closed(line, threads, callbacks, |accumulator| {
        let (accumulator, handle) = (accumulator.clone(), accumulator.partition(&tp(0)));
        move |record, reply| accumulator.append(&handle, record, reply, LONG)
    })
}

/// The same by what `means` gives each thread.
pub(crate) fn until_closed<C: Core, F>(
    line: &Line<C>,
    threads: usize,
    callbacks: &Arc<AtomicUsize>,
    means: impl Fn(&Arc<C::Accumulator>) -> F + Send + Clone + 'static,
) -> Vec<Worker<usize>>
where
    F: FnMut(&Record<'_>, Reply) -> Result<Appended, AppendError>,
{
    let start = Arc::new(Barrier::new(threads + 1));
    let appenders = (0..threads)
        .map(|thread| {
            let (accumulator, start, callbacks) = (line.accumulator.clone(), start.clone(), callbacks.clone());
            let means = means.clone();
            Worker::start(move || {
                let mut append = means(&accumulator);
                start.wait();
                for number in 0.. {
                    let called = callbacks.clone();
                    let reply = Reply::callback(move |_| {
                        called.fetch_add(1, SeqCst);
                    });
                    match append(&value(&numbered(thread, number)), reply) {
                        Ok(_) => {}
                        Err(AppendError::Closed | AppendError::Pool(PoolError::Closed)) => return number as usize,
                        Err(error) => panic!("{error}"),
                    }
                }
                unreachable!("it is closed some day")
            })
        })
        .collect();
    start.wait();
    appenders
}

fn acc_48_nothing_slips_in_after_the_last_look<C: Core>() {
    let watch = Stopwatch::start();
    let mut random = Random::seeded(8);
    let mut rounds = 0;
    // However little of the machine there is for it.
    while rounds < 4 || watch.elapsed() < millis(900) {
        let mut line = Line::<C>::new(AccumulatorConfig { buffer_memory: 1 << 20, ..scarce() }, 1);
        let callbacks = Arc::new(AtomicUsize::new(0));
        let appenders = append_until_closed(&line, 3, &callbacks);
        let mut log = Log::default();
        let close_at = random.below(1_500);
        let until = Stopwatch::start();
        while until.elapsed() < Duration::from_micros(close_at) {
            line.pass(|batch| log.take(batch));
        }
        line.accumulator.close();
        // A graceful close: everything goes, until a look finds nothing. That look is the last one.
        while line.accumulator.has_undrained() {
            line.pass(|batch| log.take(batch));
        }
        let accepted: usize = appenders.into_iter().map(Worker::result).sum();
        assert!(!line.accumulator.has_undrained(), "a record slipped in after the last look");
        assert_eq!((log.records, callbacks.load(SeqCst)), (accepted, accepted));
        assert!(!line.accumulator.has_incomplete());
        assert_at_rest(&line.accumulator.pool());
        rounds += 1;
    }
}

fn acc_44_forced_close_under_load_ends_every_record<C: Core>() {
    let aborted = SendError::Aborted { reason: "on purpose" };
    let watch = Stopwatch::start();
    let mut random = Random::seeded(44);
    while watch.elapsed() < millis(700) {
        // Little memory, so that some wait for it when the close comes.
        let mut line = Line::<C>::new(scarce(), 1);
        let callbacks = Arc::new(AtomicUsize::new(0));
        let appenders = append_until_closed(&line, 3, &callbacks);
        let until = Stopwatch::start();
        let close_at = Duration::from_micros(random.below(1_500));
        while until.elapsed() < close_at {
            line.pass(|_| ());
        }
        // One batch is out.
        let out = line.drain();
        line.accumulator.close();
        line.view.abort_incomplete(&aborted);
        let ended = callbacks.load(SeqCst);
        let accepted: usize = appenders.into_iter().map(Worker::result).sum();
        assert_eq!(ended, accepted, "all have ended when the forced close returns, and no other is accepted");
        assert_eq!(callbacks.load(SeqCst), accepted, "each once");
        assert!(!line.accumulator.has_undrained() && !line.accumulator.has_incomplete());
        let leased: usize = out.iter().map(SealedBatch::charged).sum();
        assert_eq!(line.accumulator.pool().leased, leased as u64);
        drop(out);
        assert_at_rest(&line.accumulator.pool());
    }
}

fn acc_41_every_flush_under_load_ends<C: Core>() {
    // What was accepted before a flush began has ended when it returns, while others append and flush as well.
    let mut line = Line::<C>::new(AccumulatorConfig { linger: LONG, ..scarce() }, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let flushers: Vec<_> = (0..3)
        .map(|_| {
            let (accumulator, stop) = (line.accumulator.clone(), stop.clone());
            Worker::start(move || {
                let handle = accumulator.partition(&tp(0));
                let mut flushes = 0;
                while !stop.load(SeqCst) {
                    let mut futures = Vec::new();
                    for _ in 0..5 {
                        let appended = accumulator.append(&handle, &value(b"x"), Reply::FUTURE, LONG);
                        futures.extend(appended.expect("there is time").future);
                    }
                    accumulator.begin_flush();
                    accumulator.await_flush(Some(PATIENCE)).expect("it ends");
                    assert!(futures.iter().all(|future| future.is_done()), "flushed before its records had ended");
                    flushes += 1;
                }
                flushes
            })
        })
        .collect();
    let watch = Stopwatch::start();
    while !flushers.iter().all(Worker::is_finished) {
        stop.store(watch.elapsed() > millis(300), SeqCst);
        // Linger is long: only what a flush makes sendable goes.
        if !line.view.ready(&line.cluster, line.clock.now()).nodes.is_empty() {
            line.pass(|_| ());
        }
    }
    let flushes: Vec<i32> = flushers.into_iter().map(Worker::result).collect();
    assert!(flushes.iter().all(|flushes| *flushes > 0), "{flushes:?}");
    assert!(!line.accumulator.flush_in_progress());
    assert_at_rest(&line.accumulator.pool());
}

/// What a transport does with a batch before it gives it back, if it does.
fn transport(random: &mut Random, batch: SealedBatch) -> Option<SealedBatch> {
    let refused = SendError::Broker { topic_partition: tp(0), code: ErrorCode::InvalidRecord, message: None };
    if random.below(4) == 0 {
        std::thread::sleep(Duration::from_micros(random.below(800)));
    }
    // Read what is in it: it must be whole, whatever the others do.
    assert_eq!(numbers(&batch).len(), batch.record_count() as usize);
    match random.below(5) {
        0 => drop(batch),
        1 => return Some(batch),
        2 => {
            // Twice, to be told off.
            let _ = batch.completion().fail(refused.clone(), None);
            assert!(batch.completion().abort(refused).is_err());
            return Some(batch);
        }
        _ => {
            let _ = batch.completion().complete(7, None);
            return Some(batch);
        }
    }
    None
}

fn pool_26_memory_is_given_back_once_whatever_happens<C: Core>() {
    let backoff = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
    // Expiry comes soon, so that it meets batches that are queued, out, and back.
    let mut line = Line::<C>::new(AccumulatorConfig { backoff, delivery_timeout: millis(1), ..scarce() }, 1);
    let callbacks = Arc::new(AtomicUsize::new(0));
    let appenders = append_until_closed(&line, 3, &callbacks);
    let (back, answers) = mpsc::channel();
    let transports: Vec<_> = (0..2)
        .map(|seed| {
            let (out, requests) = mpsc::channel::<SealedBatch>();
            let back = back.clone();
            let worker = Worker::start(move || {
                let mut random = Random::seeded(seed);
                for batch in requests {
                    if let Some(batch) = transport(&mut random, batch) {
                        back.send(batch).expect("the sender listens");
                    }
                }
            });
            (out, worker)
        })
        .collect();
    drop(back);
    let expired = SendError::DeliveryTimeout { topic_partition: tp(0), records: 1, age: millis(1), timeout: millis(1) };
    let aborted = SendError::Aborted { reason: "on purpose" };
    let mut random = Random::seeded(26);
    let mut in_flight = Vec::new();
    let watch = Stopwatch::start();
    let (mut expiries, mut aborts, mut late) = (0, 0, 0);
    // What comes back is settled, tried again, or was ended meanwhile; the books may know it or not any more.
    let mut receive = |line: &mut Line<C>, random: &mut Random, batch: SealedBatch| {
        match batch.completion().final_state() {
            None if random.below(2) == 0 => {
                let now = line.clock.now();
                line.view.reenqueue(batch, now);
            }
            None => {
                // Nobody else has it: this is the end of it.
                assert_eq!(batch.completion().complete(0, None), Ok(true));
                assert_eq!(line.view.deallocate(batch), Ok(()));
            }
            Some(_) => late += usize::from(line.view.deallocate(batch).is_err()),
        }
    };
    // A busy machine may let nothing expire for a while.
    while watch.elapsed() < millis(700) || expiries == 0 && watch.elapsed() < PATIENCE {
        for batch in line.drain() {
            in_flight.push((batch.id(), batch.completion().watch()));
            transports[random.below(2) as usize].0.send(batch).expect("the transport listens");
        }
        for batch in line.view.expired(line.clock.now()) {
            expiries += 1;
            assert_eq!(batch.completion().fail(expired.clone(), None), Ok(true));
            assert_eq!(line.view.deallocate(batch), Ok(()));
        }
        if random.below(20) == 0 {
            // Those in flight expire too: their records end, their memory stays out.
            for (id, watch) in in_flight.drain(..) {
                if watch.fail(expired.clone()) {
                    let _ = line.view.strike_out(id);
                }
            }
        }
        if random.below(50) == 0 {
            aborts += 1;
            line.view.abort_all(&aborted);
        }
        while let Ok(batch) = answers.try_recv() {
            receive(&mut line, &mut random, batch);
        }
        let now = line.accumulator.pool();
        assert!(!C::SNAPSHOT_IS_ONE_INSTANT || now.is_conserved(), "{now:?}");
        assert!(now.available() <= now.total, "given back twice: {now:?}");
    }
    line.accumulator.close();
    line.view.abort_incomplete(&aborted);
    let accepted: usize = appenders.into_iter().map(Worker::result).sum();
    for (out, worker) in transports {
        drop(out);
        worker.result();
    }
    answers.iter().for_each(drop);
    assert_eq!(callbacks.load(SeqCst), accepted, "every accepted record ends once");
    assert!(!line.accumulator.has_undrained() && !line.accumulator.has_incomplete());
    assert_at_rest(&line.accumulator.pool());
    assert!(accepted > 100 && expiries > 0 && aborts > 0 && late > 0, "{accepted} {expiries} {aborts} {late}");
}
