//! Crowds around an accumulator: three who append, one who flushes, a sender, a transport, and a close that comes at last or in the middle.
//!
//! A record is told by its thread and its number there. What is acknowledged is written down, so a result can be held against it.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use shuttle::sync::mpsc;
use unlatched::accumulator::{Accumulator, AccumulatorConfig, Appender, Backoff, SenderView};
use unlatched::batch::{RecordFuture, RecordResult, Reply, SealedBatch};
use unlatched::broker::{Cluster, ErrorCode, NodeId};
use unlatched::error::{AppendError, SendError, TopicPartition};
use unlatched::pool::PoolError;
use unlatched::primitive::atomic::AtomicBool;
use unlatched::primitive::atomic::Ordering::SeqCst;
use unlatched::primitive::clock::{Clock, ManualClock};
use unlatched::primitive::model::be_alone_at;
use unlatched::primitive::thread;
use unlatched::record::{Record, RecordBatch};

use super::{Ended, crowd, linger, lot};
use crate::runner::Check;

const LONG: Duration = Duration::from_secs(3600);
const APPENDERS: u8 = 3;
const RECORDS: u8 = 4;
const PARTITIONS: i32 = 2;
/// One or two records.
const BATCH: usize = 100;
const NODE: NodeId = NodeId(0);
const DELIVERY: Duration = Duration::from_secs(1);

pub(super) fn crowds<A: Accumulator>(of: &str) -> Vec<Check>
where
    A::Partition: 'static,
{
    vec![
        crowd(
            format!("crowd_accumulator_{of}_accepts_all"),
            "while nobody closes, every append is accepted and every flush ends, if not every record well",
            false,
            &["accepted", "flushed", "lost", "written"],
            || scene::<A>(false),
        ),
        crowd(
            format!("crowd_accumulator_{of}_close"),
            "whatever ends it, every accepted record ends once, as it says it did, and every byte comes back",
            true,
            &["accepted", "closed", "flushed", "lost", "no room", "written"],
            || scene::<A>(true),
        ),
    ]
}

/// Thread and number.
type Name = [u8; 2];
type Names = Arc<Mutex<BTreeSet<Name>>>;
type Results = Arc<Mutex<Vec<(Name, RecordResult)>>>;

fn partition(number: u32) -> TopicPartition {
    TopicPartition::new("t", i32::try_from(number).expect("small"))
}

/// What became of one thread's appends.
#[derive(Default)]
struct Account {
    accepted: BTreeSet<Name>,
    called_back: Vec<Name>,
    futures: Vec<(Name, RecordFuture)>,
    results: Results,
    seen: BTreeSet<&'static str>,
}

impl Account {
    /// `false` once it is closed.
    fn append<A: Accumulator>(&mut self, accumulator: &A, owner: Option<&mut A::Appender>, name: Name) -> bool {
        let (results, kind) = (self.results.clone(), lot(4));
        let reply = match kind {
            0 => Reply::callback(move |result| results.lock().expect("no panic in there").push((name, result))),
            1 => Reply::IGNORE,
            _ => Reply::FUTURE,
        };
        let record = Record { value: Some(&name), ..Record::default() };
        let handle = accumulator.partition(&partition(lot(PARTITIONS as u32)));
        let appended = match owner {
            Some(owner) => owner.append(&handle, &record, reply, LONG),
            None => accumulator.append(&handle, &record, reply, LONG),
        };
        match appended {
            Ok(appended) => {
                self.seen.insert("accepted");
                self.accepted.insert(name);
                self.called_back.extend((kind == 0).then_some(name));
                match appended.future {
                    // Of those who asked for one, some keep it.
                    Some(mut future) if kind == 2 => {
                        let _ = Future::poll(Pin::new(&mut future), &mut Context::from_waker(Waker::noop()));
                        self.futures.push((name, future));
                    }
                    future => drop(future),
                }
            }
            Err(AppendError::Pool(PoolError::Exhausted { .. })) => drop(self.seen.insert("no room")),
            Err(AppendError::Closed | AppendError::Pool(PoolError::Closed)) => {
                self.seen.insert("closed");
                return false;
            }
            Err(error) => panic!("{error}"),
        }
        true
    }

    fn flush<A: Accumulator>(&mut self, accumulator: &A) {
        accumulator.begin_flush();
        if accumulator.await_flush(None).is_ok() {
            self.seen.insert("flushed");
            assert!(self.futures.iter().all(|(_, future)| future.is_done()), "flushed before its records had ended");
        }
    }

    /// Holds what this thread was told against what was written.
    fn check(&self, thread: u8, written: &BTreeSet<Name>) -> BTreeSet<&'static str> {
        let results = std::mem::take(&mut *self.results.lock().expect("no panic in there"));
        let mut called: Vec<_> = results.iter().map(|(name, _)| *name).collect();
        called.sort_unstable();
        assert_eq!(called, self.called_back, "callbacks of accepted records, each once, and no other");
        for name in written.iter().filter(|name| name[0] == thread) {
            assert!(self.accepted.contains(name), "{name:?} was written and not accepted");
        }
        let of_futures = self.futures.iter().map(|(name, future)| {
            assert!(future.is_done(), "{name:?} has not ended");
            (*name, future.try_result().expect("it is done"))
        });
        let mut seen = self.seen.clone();
        for (name, result) in results.into_iter().chain(of_futures) {
            assert_eq!(result.is_ok(), written.contains(&name), "{name:?}: {result:?}");
            seen.insert(if result.is_ok() { "written" } else { "lost" });
        }
        seen
    }
}

/// Acknowledges or refuses, unless it has ended before. Nobody else has the batch.
fn answer(batch: &SealedBatch, written: &Names) {
    if lot(4) == 0 {
        let topic_partition = batch.topic_partition().clone();
        let error = SendError::Broker { topic_partition, code: ErrorCode::InvalidRecord, message: None };
        batch.completion().fail(error, None).expect("nobody acknowledges it before");
        return;
    }
    let (parsed, _) = RecordBatch::parse(batch.as_bytes()).expect("a whole batch with a good checksum");
    let name = |value: Option<&[u8]>| Name::try_from(value.expect("a value")).expect("two bytes");
    let names: Vec<_> = parsed.records().map(|record| name(record.expect("a good record").value)).collect();
    if batch.completion().complete(0, None).expect("nobody acknowledges twice") {
        let mut written = written.lock().expect("no panic in there");
        for name in names {
            assert!(written.insert(name), "written twice: {name:?}");
        }
    }
}

struct Sender<A: Accumulator> {
    accumulator: Arc<A>,
    view: A::View,
    clock: Arc<ManualClock>,
    cluster: Cluster,
    written: Names,
    /// To the transport, which answers and drops, or only drops.
    requests: mpsc::Sender<SealedBatch>,
}

impl<A: Accumulator> Sender<A> {
    fn aborted() -> SendError {
        SendError::Aborted { reason: "on purpose" }
    }

    fn end(&mut self, batch: SealedBatch) {
        answer(&batch, &self.written);
        // It may have been struck out by an abort of all.
        let _ = self.view.deallocate(batch);
    }

    fn drain(&mut self, nodes: &[NodeId]) -> Vec<SealedBatch> {
        let drained = self.view.drain(&self.cluster, nodes, usize::MAX, self.clock.now());
        drained.into_iter().flat_map(|drained| drained.batches).collect()
    }

    fn take(&mut self, batch: SealedBatch) {
        match lot(8) {
            0 => drop(batch),
            1 if batch.completion().final_state().is_none() => self.view.reenqueue(batch, self.clock.now()),
            2 | 3 => self.requests.send(batch).expect("the transport listens"),
            _ => self.end(batch),
        }
    }

    fn pass(&mut self) {
        let which = partition(lot(PARTITIONS as u32));
        match lot(16) {
            0 => self.view.mute(&which),
            1 | 2 => self.view.unmute(&which),
            3 => self.view.abort_all(&Self::aborted()),
            4 => {
                self.clock.advance(DELIVERY * lot(2));
                for batch in self.view.expired(self.clock.now()) {
                    assert_eq!(
                        batch.completion().fail(Self::aborted(), None),
                        Ok(true),
                        "what is queued has not ended"
                    );
                    assert_eq!(self.view.deallocate(batch), Ok(()));
                }
            }
            5 => drop(self.drain(&[NODE])),
            _ => {
                let nodes = self.view.ready(&self.cluster, self.clock.now()).nodes;
                self.drain(&nodes).into_iter().for_each(|batch| self.take(batch));
            }
        }
    }

    /// Passes until somebody says that it is closed; then a graceful end, a forced one, or none: it goes. If it does not go by itself it is kept, so that nothing else can end what an
    /// append leaves behind.
    fn run(mut self, closed: &AtomicBool) -> Option<A::View> {
        while !closed.load(SeqCst) {
            self.pass();
            thread::yield_now();
        }
        match lot(4) {
            0 | 1 => {
                (0..PARTITIONS as u32).for_each(|number| self.view.unmute(&partition(number)));
                while self.accumulator.has_undrained() {
                    self.view.ready(&self.cluster, self.clock.now());
                    let batches = self.drain(&[NODE]);
                    batches.into_iter().for_each(|batch| self.end(batch));
                    // What is left is in the middle of a copy: by priorities nobody else runs unless this lets them.
                    thread::yield_now();
                }
            }
            2 => {
                self.view.abort_incomplete(&Self::aborted());
                // Of what is out the transport may be in the middle of an answer: that has ended once the transport has.
                assert!(!self.accumulator.has_undrained(), "all is aborted");
            }
            _ => return None,
        }
        Some(self.view)
    }
}

/// `early`: the close comes when it comes; else when all have appended and flushed, and then none of them is refused.
fn scene<A: Accumulator>(early: bool) -> Ended
where
    A::Partition: 'static,
{
    let clock = ManualClock::at(0);
    let config = AccumulatorConfig {
        // Two batches and a half: appenders wait.
        buffer_memory: 5 * BATCH as u64 / 2,
        batch_size: BATCH,
        linger: [Duration::ZERO, LONG][lot(2) as usize],
        backoff: Backoff { initial: Duration::ZERO, max: Duration::ZERO },
        delivery_timeout: DELIVERY,
        seed: 1,
        ..AccumulatorConfig::default()
    };
    let (accumulator, view) = A::new(config, clock.clone());
    let (closed, written) = (Arc::new(AtomicBool::new(false)), Names::default());
    let appenders: Vec<_> = (0..=APPENDERS)
        .map(|thread| {
            let accumulator = accumulator.clone();
            thread::spawn(move || {
                // The first two have slots, the others are counted.
                be_alone_at(usize::from(thread));
                let mut account = Account::default();
                let mut owner = (lot(2) == 0).then(|| accumulator.appender());
                for number in 0..RECORDS {
                    if !account.append(&*accumulator, owner.as_mut(), [thread, number]) {
                        break;
                    }
                    if thread == APPENDERS {
                        account.flush(&*accumulator);
                    }
                }
                account
            })
        })
        .collect();
    let (requests, received) = mpsc::channel::<SealedBatch>();
    let transport = {
        let written = written.clone();
        thread::spawn(move || {
            for batch in received.iter() {
                if lot(2) == 0 {
                    answer(&batch, &written);
                }
            }
        })
    };
    let sender = {
        let cluster = Cluster::single_node(NODE, [("t", PARTITIONS)]);
        let (accumulator, clock, written, closed) =
            (accumulator.clone(), clock.clone(), written.clone(), closed.clone());
        let sender = Sender { accumulator, view, clock, cluster, written, requests };
        thread::spawn(move || sender.run(&closed))
    };
    let close = {
        let accumulator = accumulator.clone();
        move || {
            accumulator.close();
            closed.store(true, SeqCst);
        }
    };
    let (accounts, closer): (Vec<_>, _) = if early {
        let closer = thread::spawn(move || {
            linger();
            close();
        });
        (appenders.into_iter().map(|appender| appender.join().expect("it appends")).collect(), Some(closer))
    } else {
        let accounts = appenders.into_iter().map(|appender| appender.join().expect("it appends")).collect();
        close();
        (accounts, None)
    };
    let view = sender.join().expect("it sends");
    for thread in [Some(transport), closer].into_iter().flatten() {
        thread.join().expect("no thread panics");
    }

    assert!(accumulator.is_closed());
    assert!(!accumulator.has_undrained() && !accumulator.has_incomplete(), "an append came after the end");
    drop(view);
    let now = accumulator.pool();
    assert!(now.is_conserved(), "{now:?}");
    assert_eq!((now.available(), now.leased, now.reserved, now.queued), (now.total, 0, 0, 0), "{now:?}");
    drop(accumulator);
    let written = written.lock().expect("no panic in there");
    let seen = accounts.iter().zip(0..).flat_map(|(account, thread)| account.check(thread, &written)).collect();
    Ended { seen, alive: clock }
}
