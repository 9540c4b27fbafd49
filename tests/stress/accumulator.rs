//! The accumulator: whatever sender, transport, flushes and closes do, every accepted record ends once, as it says it did, and every byte comes back
//! (ACC-40 to ACC-48, POOL-26, GAP-21).
//!
//! A record is told by the thread that appended it and by its number there. What is acknowledged is written down by partition and offset, so at the end each result can be held
//! against that log: an offset has the record that it was reported for, and a record that failed stands nowhere.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, Appender as _, Backoff, LockFreeAccumulator, SenderView};
use unlatched::batch::{RecordFuture, RecordResult, Reply, SealedBatch, Watch};
use unlatched::broker::{Cluster, ErrorCode, NodeId};
use unlatched::error::{AppendError, SendError, TopicPartition};
use unlatched::mutex::{ParkingLotAccumulator, StdAccumulator};
use unlatched::pool::PoolError;
use unlatched::primitive::clock::SharedClock;
use unlatched::primitive::random::Random;
use unlatched::record::codec::{DEFAULT_LIMIT, Decoder};
use unlatched::record::{Record, RecordBatch};

use crate::threads::{LONG, PATIENCE, Stopwatch, Worker, eventually, lock};
use crate::{assert_let_go, micros, on_each, rounds, witness};

on_each![
    [every_accepted_record_ends_once_as_it_says],
    lockfree: LockFreeAccumulator,
    mutex: StdAccumulator,
    mutex_parking_lot: ParkingLotAccumulator,
];

const APPENDERS: u8 = 4;
const PARTITIONS: i32 = 3;
const BATCH: usize = 256;
const NODE: NodeId = NodeId(0);

/// Thread and number.
type Name = (u8, u32);

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("t", number)
}

fn write(name: Name, extra: usize) -> Vec<u8> {
    let mut content = vec![name.0; 5 + extra];
    content[1..5].copy_from_slice(&name.1.to_be_bytes());
    content
}

#[track_caller]
fn read(content: &[u8]) -> Name {
    let (thread, number) = (content[0], u32::from_be_bytes(content[1..5].try_into().expect("four bytes")));
    assert!(content[5..].iter().all(|byte| *byte == thread), "torn: {content:?}");
    (thread, number)
}

/// The records of a batch, which must be whole.
#[track_caller]
fn names(batch: &SealedBatch) -> Vec<Name> {
    let (parsed, rest) = RecordBatch::parse(batch.as_bytes()).expect("a whole batch with a good checksum");
    assert!(rest.is_empty());
    let mut space = Vec::new();
    let records = parsed.decompress(&mut Decoder::default(), DEFAULT_LIMIT, &mut space).expect("a good stream");
    let names: Vec<_> = records.map(|record| read(record.expect("a good record").value.expect("a value"))).collect();
    assert_eq!(names.len(), batch.record_count() as usize);
    names
}

/// What was acknowledged.
#[derive(Default)]
struct Log {
    ends: HashMap<i32, i64>,
    at: HashMap<(i32, i64), Name>,
    written: HashSet<Name>,
}

impl Log {
    /// Acknowledges `batch`, unless it has ended before. Callbacks run in here.
    fn acknowledge(&mut self, batch: &SealedBatch) -> bool {
        let names = names(batch);
        let number = batch.topic_partition().partition;
        let end = self.ends.entry(number).or_default();
        let acknowledged = batch.completion().complete(*end, None).expect("nobody acknowledges twice");
        if acknowledged {
            for name in names {
                assert!(self.written.insert(name), "written twice: {name:?}");
                self.at.insert((number, *end), name);
                *end += 1;
            }
        }
        acknowledged
    }
}

fn refused(batch: &SealedBatch) -> SendError {
    let topic_partition = batch.topic_partition().clone();
    SendError::Broker { topic_partition, code: ErrorCode::InvalidRecord, message: Some("on purpose".into()) }
}

fn aborted() -> SendError {
    SendError::Aborted { reason: "on purpose" }
}

/// What the sender and the transport do to a batch that nobody else has.
fn answer(random: &mut Random, log: &Mutex<Log>, batch: &SealedBatch) -> bool {
    match random.below(4) {
        0 => {
            let error = refused(batch);
            let own = error.clone();
            let record_errors = (random.below(2) == 0).then(|| Box::new(move |_| own.clone()) as _);
            batch.completion().fail(error, record_errors).expect("nobody acknowledges it before")
        }
        _ => lock(log).acknowledge(batch),
    }
}

/// What became of one thread's appends.
#[derive(Default)]
struct Account {
    accepted: BTreeSet<u32>,
    refused: usize,
    called_back: Vec<u32>,
    futures: Vec<(u32, RecordFuture)>,
}

type Results = Arc<Mutex<Vec<(u32, RecordResult)>>>;

struct Appender<A: Accumulator> {
    accumulator: Arc<A>,
    /// With lanes of its own, if it has any.
    owner: Option<A::Appender>,
    clock: SharedClock,
    random: Random,
    thread: u8,
    handles: Vec<A::Partition>,
    results: Results,
    account: Account,
    /// One step in so many is a flush.
    flushes: Option<u64>,
}

impl<A: Accumulator> Appender<A> {
    fn reply(&mut self, number: u32) -> Reply {
        let results = self.results.clone();
        let callback = (self.random.below(3) == 0)
            .then(|| Box::new(move |result| lock(&results).push((number, result))) as Box<dyn FnOnce(_) + Send>);
        Reply { future: self.random.below(3) == 0, callback }
    }

    /// `false` once it is closed.
    fn append(&mut self, number: u32) -> bool {
        let extra = if self.random.below(24) == 0 { 2 * BATCH as u64 } else { 40 };
        let content = write((self.thread, number), self.random.below(extra) as usize);
        let record = Record { value: Some(&content), ..Record::default() };
        let reply = self.reply(number);
        let called_back = reply.callback.is_some();
        let wants_future = reply.future;
        let max_block = match self.random.below(3) {
            0 => Duration::ZERO,
            1 => micros(&mut self.random, 500),
            _ => LONG,
        };
        let to = self.random.below(PARTITIONS as u64) as usize;
        let looked_up;
        let handle = if self.random.below(2) == 0 {
            &self.handles[to]
        } else {
            looked_up = self.accumulator.partition(&partition(to as i32));
            &looked_up
        };
        let appended = match &mut self.owner {
            Some(owner) => owner.append(handle, &record, reply, max_block),
            None => self.accumulator.append(handle, &record, reply, max_block),
        };
        match appended {
            Ok(appended) => {
                assert_eq!(appended.future.is_some(), wants_future);
                self.account.accepted.insert(number);
                self.account.called_back.extend(called_back.then_some(number));
                if let Some(future) = appended.future {
                    self.use_future(number, future);
                }
                true
            }
            Err(AppendError::Pool(PoolError::Exhausted { .. })) => {
                assert!(max_block < LONG);
                self.account.refused += 1;
                true
            }
            Err(AppendError::Closed | AppendError::Pool(PoolError::Closed)) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Kept, waited for, polled, or dropped.
    fn use_future(&mut self, number: u32, mut future: RecordFuture) {
        match self.random.below(8) {
            0 => return drop(future),
            1 => {
                let _ = future.wait_timeout(micros(&mut self.random, 100), &*self.clock);
            }
            2 => {
                let _ = Future::poll(Pin::new(&mut future), &mut Context::from_waker(Waker::noop()));
            }
            _ => {}
        }
        self.account.futures.push((number, future));
    }

    fn flush(&mut self) {
        self.accumulator.begin_flush();
        let flushed = self.accumulator.await_flush(Some(micros(&mut self.random, 2_000)));
        if flushed.is_ok() {
            let late = self.account.futures.iter().find(|(_, future)| !future.is_done());
            assert!(late.is_none(), "a flush has ended before {late:?}");
        }
    }

    /// The handles outlive the thread, and the accumulator.
    fn run(mut self) -> (Account, Results, Vec<A::Partition>) {
        for number in 0.. {
            let flushes = self.flushes.is_some_and(|of| self.random.below(of) == 0);
            if flushes {
                self.flush();
            }
            if !self.append(number) {
                break;
            }
            if self.owner.is_some() && self.random.below(64) == 0 {
                // What the former one had open goes.
                self.owner = Some(self.accumulator.appender());
            }
        }
        (self.account, self.results, self.handles)
    }
}

/// Gives some batches back, answered or not, and drops the others, answered or not.
fn transport(
    mut random: Random,
    log: Arc<Mutex<Log>>,
    requests: mpsc::Receiver<SealedBatch>,
    back: mpsc::Sender<SealedBatch>,
) {
    for batch in requests {
        if random.below(8) == 0 {
            std::thread::sleep(micros(&mut random, 300));
        }
        names(&batch);
        if random.below(2) == 0 {
            answer(&mut random, &log, &batch);
        }
        if random.below(4) > 0 {
            // A sender that has gone drops it.
            let _ = back.send(batch);
        }
    }
}

struct Sender<A: Accumulator> {
    accumulator: Arc<A>,
    view: A::View,
    clock: SharedClock,
    cluster: Cluster,
    random: Random,
    log: Arc<Mutex<Log>>,
    /// Held for a while, as if their answer were late.
    held: Vec<SealedBatch>,
    /// With the transport.
    out: Vec<(u64, Watch)>,
    requests: mpsc::Sender<SealedBatch>,
    back: mpsc::Receiver<SealedBatch>,
}

impl<A: Accumulator> Sender<A> {
    fn drain(&mut self, nodes: &[NodeId]) -> Vec<SealedBatch> {
        let max_size = if self.random.below(2) == 0 { usize::MAX } else { BATCH };
        let drained = self.view.drain(&self.cluster, nodes, max_size, self.clock.now());
        drained.into_iter().flat_map(|drained| drained.batches).collect()
    }

    /// Settles a batch and strikes it out, in the books or not any more.
    fn end(&mut self, batch: SealedBatch) {
        let fresh = batch.completion().final_state().is_none();
        if fresh {
            assert!(answer(&mut self.random, &self.log, &batch), "nobody else has it");
        }
        let struck = self.view.deallocate(batch);
        assert!(!fresh || struck.is_ok(), "{struck:?}: it had not ended, so it was in the books");
    }

    fn take(&mut self, batch: SealedBatch) {
        match self.random.below(10) {
            0 => drop(batch),
            1 => self.held.push(batch),
            2..5 => {
                self.out.push((batch.id(), batch.completion().watch()));
                self.requests.send(batch).expect("the transport listens");
            }
            5 if batch.completion().final_state().is_none() => self.view.reenqueue(batch, self.clock.now()),
            _ => self.end(batch),
        }
    }

    fn expire(&mut self) {
        for batch in self.view.expired(self.clock.now()) {
            let (topic_partition, records) = (batch.topic_partition().clone(), batch.record_count());
            let (age, timeout) = (Duration::ZERO, Duration::ZERO);
            let error = SendError::DeliveryTimeout { topic_partition, records, age, timeout };
            assert_eq!(batch.completion().fail(error, None), Ok(true), "what is queued has not ended");
            assert_eq!(self.view.deallocate(batch), Ok(()));
        }
    }

    fn receive(&mut self) {
        while let Ok(batch) = self.back.try_recv() {
            // What is back in its queue does not expire as one that is out.
            self.out.retain(|(id, _)| *id != batch.id());
            match batch.completion().final_state() {
                None if self.random.below(2) == 0 => self.view.reenqueue(batch, self.clock.now()),
                _ => self.end(batch),
            }
        }
    }

    fn pass(&mut self) {
        let number = self.random.below(PARTITIONS as u64) as i32;
        match self.random.below(24) {
            0 => self.view.mute(&partition(number)),
            1 | 2 => self.view.unmute(&partition(number)),
            3 => self.view.abort_all(&aborted()),
            4 => {
                // Those that are out expire: their records end, their memory stays out.
                for (id, watch) in std::mem::take(&mut self.out) {
                    if watch.fail(aborted()) {
                        let _ = self.view.strike_out(id);
                    }
                }
            }
            5 => {
                let held = std::mem::take(&mut self.held);
                held.into_iter().for_each(|batch| self.take(batch));
            }
            6 | 7 => self.expire(),
            8 => std::thread::sleep(micros(&mut self.random, 200)),
            _ => {
                let nodes = if self.random.below(2) == 0 {
                    self.view.ready(&self.cluster, self.clock.now()).nodes
                } else {
                    vec![NODE]
                };
                for batch in self.drain(&nodes) {
                    self.take(batch);
                }
            }
        }
        self.receive();
    }

    /// The rest of a graceful close: everything goes, until a look finds nothing, which is then the last one (ACC-48).
    fn finish(&mut self) {
        (0..PARTITIONS).for_each(|number| self.view.unmute(&partition(number)));
        eventually("everything is sent", || {
            self.view.ready(&self.cluster, self.clock.now());
            for batch in self.drain(&[NODE]) {
                self.end(batch);
            }
            for batch in std::mem::take(&mut self.held) {
                self.end(batch);
            }
            while let Ok(batch) = self.back.try_recv() {
                self.end(batch);
            }
            self.out.retain(|(_, watch)| !watch.is_done());
            !self.accumulator.has_undrained() && self.out.is_empty()
        });
    }
}

/// How a round ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Graceful,
    Forced,
    /// The sender ends without a close.
    SenderGone,
}

fn config(random: &mut Random) -> AccumulatorConfig {
    let backoff = Duration::from_micros([0, 200][random.below(2) as usize]);
    AccumulatorConfig {
        // Eight batches: appenders wait every now and then.
        buffer_memory: 8 * BATCH as u64,
        batch_size: BATCH,
        linger: [Duration::ZERO, Duration::from_micros(300), LONG][random.below(3) as usize],
        backoff: Backoff { initial: backoff, max: 4 * backoff },
        delivery_timeout: [Duration::from_millis(1), Duration::from_millis(4), LONG][random.below(3) as usize],
        seed: random.below(u64::MAX),
        compression: ["none", "lz4", "gzip:1", "zstd:1", "snappy"][random.below(5) as usize].parse().expect("a codec"),
    }
}

fn every_accepted_record_ends_once_as_it_says<A: Accumulator>()
where
    A::Partition: 'static,
{
    let (mut written, mut lost, mut refused) = (0, 0, 0);
    rounds(|random| {
        let round = round::<A>(random);
        written += round.0;
        lost += round.1;
        refused += round.2;
    });
    println!("{written} records written, {lost} lost, {refused} not accepted");
    assert!(written > 0 && lost > 0, "{written} written, {lost} lost: nothing much was tried");
}

/// Records written, lost, and not accepted.
fn round<A: Accumulator>(random: &mut Random) -> (usize, usize, usize)
where
    A::Partition: 'static,
{
    let clock = witness();
    let (accumulator, view) = A::new(config(random), clock.clone());
    let log = Arc::new(Mutex::new(Log::default()));
    let appenders: Vec<_> = (0..=APPENDERS)
        .map(|thread| {
            let appender = Appender {
                owner: (random.below(2) == 0).then(|| accumulator.appender()),
                accumulator: accumulator.clone(),
                clock: clock.clone(),
                random: Random::seeded(random.below(u64::MAX)),
                thread,
                handles: (0..PARTITIONS).map(|number| accumulator.partition(&partition(number))).collect(),
                results: Results::default(),
                account: Account::default(),
                flushes: (thread == APPENDERS).then_some(3),
            };
            Worker::start(move || appender.run())
        })
        .collect();
    let (requests, received) = mpsc::channel();
    let (answered, back) = mpsc::channel();
    let transport = {
        let (random, log) = (Random::seeded(random.below(u64::MAX)), log.clone());
        Worker::start(move || transport(random, log, received, answered))
    };
    let mut sender = Sender {
        accumulator: accumulator.clone(),
        view,
        clock: clock.clone(),
        cluster: Cluster::single_node(NODE, [("t", PARTITIONS)]),
        random: Random::seeded(random.below(u64::MAX)),
        log: log.clone(),
        held: Vec::new(),
        out: Vec::new(),
        requests,
        back,
    };

    let end = [End::Graceful, End::Forced, End::SenderGone][random.below(3) as usize];
    let (watch, length) = (Stopwatch::start(), micros(random, 5_000));
    while watch.elapsed() < length {
        sender.pass();
    }
    if !matches!(end, End::SenderGone) {
        let closer = Worker::start({
            let accumulator = accumulator.clone();
            move || accumulator.close()
        });
        while !closer.is_finished() {
            sender.pass();
        }
        closer.result();
    }
    match end {
        End::Graceful => sender.finish(),
        End::Forced => sender.view.abort_incomplete(&aborted()),
        End::SenderGone => {}
    }
    let Sender { view, held, requests, back, accumulator: of_sender, clock: clock_of_sender, .. } = sender;
    // A view that has not ended anything does so when it goes; one that has is kept, so that nothing else can end what an append leaves behind.
    let view = (!matches!(end, End::SenderGone)).then_some(view);
    let accounts: Vec<_> = appenders.into_iter().map(Worker::result).collect();
    assert!(accumulator.is_closed() && !accumulator.has_undrained(), "{end:?}: an append came after the end");
    drop((held, requests));
    transport.result();
    // Now also those have ended that the transport was just answering.
    assert!(!accumulator.has_incomplete(), "{end:?}");
    accumulator.begin_flush();
    accumulator.await_flush(Some(PATIENCE)).expect("there is nothing to wait for");
    drop((view, of_sender, clock_of_sender));
    drop(back);
    let now = accumulator.pool();
    assert!(now.is_conserved(), "{now:?}");
    assert_eq!((now.available(), now.leased, now.reserved, now.queued), (now.total, 0, 0, 0), "{end:?}: {now:?}");

    // Results, futures and handles outlive the accumulator.
    drop(accumulator);
    let log = std::mem::take(&mut *lock(&log));
    let (mut accepted, mut refused) = (0, 0);
    for ((account, results, handles), thread) in accounts.into_iter().zip(0..) {
        accepted += account.accepted.len();
        refused += account.refused;
        check(thread, &account, &lock(&results), &log);
        drop(handles);
    }
    assert_let_go("accumulator and pool are freed", &clock);
    (log.written.len(), accepted - log.written.len(), refused)
}

/// Holds what a thread was told against the log.
fn check(thread: u8, account: &Account, results: &[(u32, RecordResult)], log: &Log) {
    let mut called: Vec<_> = results.iter().map(|(number, _)| *number).collect();
    called.sort_unstable();
    assert_eq!(called, account.called_back, "thread {thread}: callbacks of accepted records, each once, and no other");
    for name in log.written.iter().filter(|name| name.0 == thread) {
        assert!(account.accepted.contains(&name.1), "{name:?} was written and not accepted");
    }
    let of_futures = account.futures.iter().map(|(number, future)| {
        assert!(future.is_done(), "{:?} has not ended", (thread, *number));
        (*number, future.try_result().expect("it is done"))
    });
    for (number, result) in results.iter().cloned().chain(of_futures) {
        let name = (thread, number);
        match result {
            Ok(place) => {
                let found = log.at.get(&(place.topic_partition.partition, place.offset));
                assert_eq!(found, Some(&name), "what stands at {place:?}");
            }
            Err(error) => assert!(!log.written.contains(&name), "{name:?} was written, and yet {error}"),
        }
    }
}
