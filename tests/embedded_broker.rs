//! The embedded broker from outside: clients with their threads, directories across restarts, and a whole producer in front of it.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::{ProptestConfig, proptest};
use unlatched::accumulator::{Accumulator, LockFreeAccumulator};
use unlatched::batch::{OpenBatch, RecordFuture, Reply, SealedBatch};
use unlatched::broker::embedded::{Consumer, EmbeddedBroker, EmbeddedClient, Fault, Faults, ReadError, Storage};
use unlatched::broker::{Acks, Broker, ErrorCode, NodeId, Outcome, ProduceRequest, ProduceResponse, Response};
use unlatched::error::{SendError, TopicPartition};
use unlatched::mutex::{MutexBatch, StdAccumulator, StdPool};
use unlatched::pool::BufferPool;
use unlatched::primitive::clock::{Clock, Instant, ManualClock, SystemClock};
use unlatched::producer::{Producer, ProducerConfig};
use unlatched::record::Record;

const MS: Duration = Duration::from_millis(1);
/// Longer than any test takes, unless something hangs.
const LONG: Duration = Duration::from_secs(60);

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn pool() -> StdPool {
    StdPool::new(1 << 20, 1 << 14, SystemClock::shared())
}

fn batch(pool: &StdPool, at: &TopicPartition, values: &[String]) -> (SealedBatch, Vec<RecordFuture>) {
    let lease = pool.allocate(1 << 14, LONG).unwrap().erase();
    let mut batch = MutexBatch::open(at.clone(), 0, lease, Instant::ZERO);
    let mut futures = Vec::new();
    for value in values {
        let record = Record { timestamp: 1_000, value: Some(value.as_bytes()), ..Record::default() };
        futures.extend(batch.try_append(&record, Reply::FUTURE).unwrap().future);
    }
    let mut batch = batch.seal();
    batch.close().unwrap();
    (batch, futures)
}

fn request(id: u64, at: &TopicPartition) -> ProduceRequest {
    let batches = vec![batch(&pool(), at, &[id.to_string()]).0];
    ProduceRequest { id, node: NodeId(0), acks: Acks::All, timeout: LONG, batches }
}

struct World {
    clock: SystemClock,
    broker: EmbeddedBroker,
    client: EmbeddedClient,
}

impl World {
    fn new(nodes: i32) -> Self {
        let backoff = 20 * MS;
        let broker = EmbeddedBroker::builder().nodes(nodes).reconnect_backoff(backoff).seed(11).open().unwrap();
        broker.create_topic("t", nodes).unwrap();
        let client = broker.connect().unwrap();
        Self { clock: SystemClock::new(), broker, client }
    }

    fn submit(&mut self, request: ProduceRequest) {
        self.client.submit(request, self.clock.now()).expect("the node takes it");
    }

    fn ready(&mut self, node: i32) -> bool {
        self.client.ready(NodeId(node), self.clock.now()).is_ok()
    }

    /// Polls until `count` requests have come back.
    fn responses(&mut self, count: usize) -> Vec<ProduceResponse> {
        let start = self.clock.now();
        let mut responses = Vec::new();
        while responses.len() < count {
            assert!(self.clock.now().saturating_since(start) < LONG, "{} of {count} came back", responses.len());
            let mut ended = Vec::new();
            self.client.poll(LONG, &mut ended);
            responses.extend(ended.into_iter().filter_map(Response::produce));
        }
        responses
    }

    fn response(&mut self) -> ProduceResponse {
        self.responses(1).remove(0)
    }
}

fn offset(response: &ProduceResponse) -> i64 {
    match &response.outcome {
        Outcome::Answered(answer) => {
            assert_eq!(answer[0].error, ErrorCode::None, "{answer:?}");
            answer[0].base_offset
        }
        other => panic!("{other:?}"),
    }
}

fn values(
    records: impl Iterator<Item = Result<unlatched::broker::embedded::ConsumedRecord, ReadError>>,
) -> Vec<String> {
    records.map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap()).collect()
}

#[test]
fn gap_15_batches_come_back_and_their_memory_only_with_them() {
    let mut world = World::new(1);
    let pool = pool();
    let (batch, _futures) = batch(&pool, &at(0), &["a".into(), "b".into()]);
    world.broker.faults().silence_until_resumed(NodeId(0));
    world.submit(ProduceRequest { id: 5, node: NodeId(0), acks: Acks::All, timeout: LONG, batches: vec![batch] });
    let mut none = Vec::new();
    world.client.poll(20 * MS, &mut none);
    assert!(none.is_empty() && pool.available() < pool.total());
    world.broker.faults().resume(NodeId(0));
    let response = world.response();
    assert_eq!((response.request.id, offset(&response), pool.available()), (5, 0, pool.total() - (1 << 14)));
    drop(response);
    assert_eq!(pool.available(), pool.total());
    assert_eq!(values(world.broker.read(&at(0), 0).unwrap().records()), ["a", "b"], "the broker has its own copy");
}

#[test]
fn send_04_a_node_takes_five_requests_and_then_gives_the_sixth_back() {
    let mut world = World::new(2);
    world.broker.faults().silence_until_resumed(NodeId(0));
    for id in 0..5 {
        assert!(world.ready(0));
        world.submit(request(id, &at(0)));
    }
    assert!(!world.ready(0));
    let refused = world.client.submit(request(5, &at(0)), world.clock.now()).unwrap_err();
    assert_eq!(refused.id, 5);
    assert!(world.ready(1), "the limit is per node");
    world.broker.faults().resume(NodeId(0));
    let ids = world.responses(5).iter().map(|response| response.request.id).collect::<Vec<_>>();
    assert_eq!(ids, [0, 1, 2, 3, 4]);
    assert!(world.ready(0));
    assert!(!world.ready(2), "there is no such node");
}

#[test]
fn poll_sleeps_its_timeout_and_a_wake_ends_it_at_once_or_beforehand() {
    let mut world = World::new(1);
    let mut none = Vec::new();
    let slept = |world: &mut World, timeout, none: &mut Vec<_>| {
        let start = world.clock.now();
        world.client.poll(timeout, none);
        world.clock.now().saturating_since(start)
    };
    assert!(slept(&mut world, 30 * MS, &mut none) >= 30 * MS);
    world.client.waker().wake();
    assert!(slept(&mut world, LONG, &mut none) < LONG, "a wake beforehand is kept");
    let waker = world.client.waker();
    let waking = std::thread::spawn(move || {
        std::thread::sleep(20 * MS);
        waker.wake_by_ref();
    });
    assert!(slept(&mut world, LONG, &mut none) < LONG);
    waking.join().unwrap();
    assert!(slept(&mut world, 30 * MS, &mut none) >= 30 * MS, "a wake is used up");
    assert!(none.is_empty());
}

#[test]
fn send_10_a_lost_answer_comes_back_as_a_timeout_and_the_batch_is_there() {
    let mut world = World::new(1);
    world.broker.faults().inject(Fault::lose_response());
    let start = world.clock.now();
    world.submit(ProduceRequest { timeout: 50 * MS, ..request(0, &at(0)) });
    world.submit(request(1, &at(0)));
    let ends = world.responses(2);
    assert!(world.clock.now().saturating_since(start) >= 50 * MS);
    assert_eq!((ends[0].request.id, offset(&ends[0])), (1, 1));
    assert_eq!((ends[1].request.id, &ends[1].outcome), (0, &Outcome::TimedOut));
    assert_eq!(values(world.broker.read(&at(0), 0).unwrap().records()), ["0", "1"]);
}

#[test]
fn send_11_without_acks_a_request_comes_back_written() {
    let mut world = World::new(1);
    world.submit(ProduceRequest { acks: Acks::None, ..request(0, &at(0)) });
    assert_eq!(world.response().outcome, Outcome::Written);
    assert_eq!(world.broker.end_offset(&at(0)), Some(1));
}

#[test]
fn a_slow_broker_is_slow_and_keeps_the_order_of_each_node() {
    let mut world = World::new(2);
    world.broker.faults().set_latency(2 * MS, 8 * MS);
    let (mut sent, mut ended) = ([0_u64; 2], [0_u64; 2]);
    let start = world.clock.now();
    let mut responses = Vec::new();
    while ended != [40, 40] {
        assert!(world.clock.now().saturating_since(start) < LONG);
        for (node, sent) in (0..).zip(&mut sent) {
            while *sent < 40 && world.client.ready(NodeId(node), world.clock.now()).is_ok() {
                let request = ProduceRequest { node: NodeId(node), ..request(*sent, &at(node)) };
                world.client.submit(request, world.clock.now()).unwrap();
                *sent += 1;
            }
        }
        world.client.poll(LONG, &mut responses);
        for response in responses.drain(..).filter_map(Response::produce) {
            let next = &mut ended[usize::try_from(response.request.node.0).unwrap()];
            assert_eq!((response.request.id, offset(&response)), (*next, *next as i64));
            *next += 1;
        }
    }
    // Five in flight: forty take eight rounds.
    assert!(world.clock.now().saturating_since(start) >= 16 * MS);
}

#[test]
fn send_16_a_moved_leader_is_seen_after_an_update_which_ends_the_poll() {
    let mut world = World::new(2);
    world.broker.set_leader(&at(0), Some(NodeId(1))).unwrap();
    assert_eq!(world.client.cluster().leader(&at(0)).unwrap().node, NodeId(0), "old news until asked");
    world.submit(request(0, &at(0)));
    let Outcome::Answered(answer) = world.response().outcome else { panic!("no answer") };
    assert_eq!(answer[0].error, ErrorCode::NotLeaderOrFollower);
    world.client.request_update();
    assert_eq!(world.client.cluster().leader(&at(0)).unwrap().node, NodeId(1));
    let (start, mut none) = (world.clock.now(), Vec::new());
    world.client.poll(LONG, &mut none);
    assert!(none.is_empty() && world.clock.now().saturating_since(start) < LONG);
    world.submit(ProduceRequest { node: NodeId(1), ..request(1, &at(0)) });
    assert_eq!(offset(&world.response()), 0);
}

#[test]
fn send_30_a_change_of_topics_or_leaders_ends_the_poll_under_way() {
    let mut world = World::new(2);
    let broker = world.broker.clone();
    let start = world.clock.now();
    let changing = std::thread::spawn(move || {
        std::thread::sleep(20 * MS);
        broker.create_topic("new", 1).unwrap();
    });
    let mut none = Vec::new();
    world.client.poll(LONG, &mut none);
    changing.join().unwrap();
    assert_eq!(world.client.cluster().partitions("new"), None, "not asked yet");
    world.client.request_update();
    assert_eq!(world.client.cluster().partitions("new"), Some(1));
    world.client.poll(LONG, &mut none);
    world.broker.set_leader(&at(0), None).unwrap();
    world.client.poll(LONG, &mut none);
    assert!(none.is_empty() && world.clock.now().saturating_since(start) < LONG);
}

#[test]
fn send_10_a_lost_connection_gives_everything_back_and_is_there_again_after_the_backoff() {
    let mut world = World::new(1);
    world.broker.faults().silence_until_resumed(NodeId(0));
    (0..3).for_each(|id| world.submit(request(id, &at(0))));
    let mut none = Vec::new();
    // So that the requests have arrived.
    world.client.poll(20 * MS, &mut none);
    world.broker.faults().break_connections(NodeId(0));
    let ends = world.responses(3);
    assert!(ends.iter().all(|response| response.outcome == Outcome::Disconnected));
    world.broker.faults().resume(NodeId(0));
    let Err(backoff) = world.client.ready(NodeId(0), world.clock.now()) else { panic!("ready at once") };
    assert!(backoff <= 20 * MS);
    std::thread::sleep(backoff);
    assert!(world.ready(0));
    world.submit(request(3, &at(0)));
    assert_eq!(offset(&world.response()), 0);
}

#[test]
fn l5_a_dropped_client_aborts_the_records_it_held_on_the_dropping_thread() {
    let mut world = World::new(1);
    let pool = pool();
    let (batch, futures) = batch(&pool, &at(0), &["a".into(), "b".into()]);
    world.broker.faults().silence_until_resumed(NodeId(0));
    world.submit(ProduceRequest { id: 0, node: NodeId(0), acks: Acks::All, timeout: LONG, batches: vec![batch] });
    drop(world.client);
    for future in futures {
        assert!(matches!(future.try_result(), Some(Err(SendError::Aborted { .. }))));
    }
    assert_eq!(pool.available(), pool.total());
    assert_eq!(world.broker.end_offset(&at(0)), Some(0));
}

#[test]
fn many_clients_share_a_partition_without_gap_or_overlap() {
    let seen = Mutex::new(Vec::new());
    let (send, observed) = mpsc::channel();
    let broker = EmbeddedBroker::builder()
        .observer(move |_, base, bytes| send.send((base, bytes.len())).unwrap())
        .open()
        .unwrap();
    broker.create_topic("t", 1).unwrap();
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (broker, seen) = (&broker, &seen);
            scope.spawn(move || {
                let mut world =
                    World { clock: SystemClock::new(), broker: broker.clone(), client: broker.connect().unwrap() };
                for id in 0..50 {
                    let value = client * 1_000 + id;
                    world.submit(request(value, &at(0)));
                    let offset = offset(&world.response());
                    seen.lock().unwrap().push((offset, value.to_string()));
                }
            });
        }
    });
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!(seen.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
    let stored = values(broker.read(&at(0), 0).unwrap().records());
    assert_eq!(stored, seen.into_iter().map(|(_, value)| value).collect::<Vec<_>>());
    let observed = observed.try_iter().map(|(base, _)| base).collect::<Vec<_>>();
    assert_eq!(observed, (0..200).collect::<Vec<_>>(), "the observer sees a partition's batches in order");
}

fn directory(path: &Path) -> EmbeddedBroker {
    EmbeddedBroker::builder().storage(Storage::directory(path)).open().unwrap()
}

/// Writes batches of these sizes through a client; the records' values are their offsets.
fn write(broker: &EmbeddedBroker, first: i64, sizes: &[usize]) {
    let mut world = World { clock: SystemClock::new(), broker: broker.clone(), client: broker.connect().unwrap() };
    let pool = pool();
    let mut next = first;
    for (id, size) in (0..).zip(sizes) {
        let end = next + i64::try_from(*size).unwrap();
        let values = (next..end).map(|value| value.to_string()).collect::<Vec<_>>();
        let batches = vec![batch(&pool, &at(0), &values).0];
        world.submit(ProduceRequest { id, node: NodeId(0), acks: Acks::All, timeout: LONG, batches });
        assert_eq!(offset(&world.response()), next);
        next = end;
    }
}

#[test]
fn a_directory_goes_on_where_it_ended_when_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made").join("on the way");
    for (run, sizes) in (0..).zip([[1, 2, 3], [4, 5, 6], [7, 8, 9]]) {
        let broker = directory(&path);
        broker.ensure_topic("t", 2).unwrap();
        let report = broker.recovery().unwrap();
        let before = [0, 6, 21][run];
        assert_eq!((report.records, report.cuts.len()), (before, 0));
        assert_eq!(report.logs, if run == 0 { 0 } else { 2 });
        write(&broker, before as i64, &sizes);
        broker.sync().unwrap();
    }
    let consumer = Consumer::open(&path, "t").unwrap();
    let expected = (0..45).map(|value| value.to_string()).collect::<Vec<_>>();
    assert_eq!(values(consumer.records(0, 0).unwrap()), expected);
    assert_eq!(values(consumer.records(1, 0).unwrap()), [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// A kill leaves some first part of what was written. Every acknowledged batch in it survives, the half one is cut and reported, and the
    /// next run goes on without a gap.
    #[test]
    fn a_directory_survives_a_kill_at_any_byte(
        sizes in proptest::collection::vec(1_usize..20, 1..8),
        cut in 0.0_f64..1.0,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let broker = directory(dir.path());
        broker.create_topic("t", 1).unwrap();
        let file = dir.path().join("t-0/00000000000000000000.log");
        let mut ends = vec![(0_u64, 0_i64)];
        for size in &sizes {
            let first = ends[ends.len() - 1].1;
            write(&broker, first, &[*size]);
            ends.push((fs::metadata(&file).unwrap().len(), first + i64::try_from(*size).unwrap()));
        }
        drop(broker);
        let full = ends[ends.len() - 1].0;
        let left = (full as f64 * cut) as u64;
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(left).unwrap();

        let (good, next) = *ends.iter().rev().find(|(len, _)| *len <= left).unwrap();
        let broker = directory(dir.path());
        let report = broker.recovery().unwrap();
        assert_eq!((report.bytes, report.records), (good, next as u64));
        match report.cuts.as_slice() {
            [] => assert_eq!(good, left),
            [cut] => assert_eq!((&cut.file, cut.bytes, cut.offset, cut.lost_from), (&file, left - good, next, None)),
            more => panic!("{more:?}"),
        }
        write(&broker, next, &[3]);
        drop(broker);
        let records = values(Consumer::open(dir.path(), "t").unwrap().records(0, 0).unwrap());
        assert_eq!(records, (0..next + 3).map(|value| value.to_string()).collect::<Vec<_>>());
    }
}

/// Partition, offset, value.
type Line = (i32, i64, String);

/// Sends 2 000 records to four partitions, one of which moves meanwhile; what the log then has, and what the futures told.
fn deliver<A: Accumulator>(idempotent: bool, inject: fn(&Faults)) -> (Vec<Line>, HashSet<Line>) {
    let dir = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::builder().nodes(2).storage(Storage::directory(dir.path())).seed(5).open().unwrap();
    broker.create_topic("t", 4).unwrap();
    broker.faults().set_latency(MS, MS);
    inject(broker.faults());
    let mut config = ProducerConfig::default();
    config.accumulator.batch_size = 512;
    config.accumulator.linger = MS;
    config.sender.request_timeout = 200 * MS;
    config.sender.enable_idempotence = Some(idempotent);
    let producer = Producer::<A>::start(config, broker.connect().unwrap()).unwrap();
    let partitions = (0..4).map(|partition| producer.partition(&at(partition))).collect::<Vec<_>>();
    let futures = (0..2_000_usize)
        .map(|id| {
            let value = id.to_string();
            let record = Record { value: Some(value.as_bytes()), ..Record::default() };
            producer.send(&partitions[id % 4], record).unwrap()
        })
        .collect::<Vec<_>>();
    broker.set_leader(&at(0), Some(NodeId(1))).unwrap();
    producer.flush(Some(LONG)).unwrap();
    let told = futures.into_iter().enumerate().map(|(id, future)| {
        let metadata = future.wait().unwrap();
        (metadata.topic_partition.partition, metadata.offset, id.to_string())
    });
    let told = told.collect();
    producer.close(LONG).unwrap();
    drop((producer, broker));
    let consumer = Consumer::open(dir.path(), "t").unwrap();
    let read = (0..4).flat_map(|partition| {
        consumer.records(partition, 0).unwrap().map(move |record| {
            let record = record.unwrap();
            (partition, record.offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap())
        })
    });
    (read.collect(), told)
}

/// What is written, and answered with an error or not at all.
fn hide_what_was_written(faults: &Faults) {
    faults.inject(Fault::lose_response().next(3));
    faults.inject(Fault::disconnect().after_writing().rate(0.05));
    faults.inject(Fault::fail(ErrorCode::NotEnoughReplicasAfterAppend).after_writing().rate(0.1));
}

fn delivers_once<A: Accumulator>(idempotent: bool, inject: fn(&Faults)) {
    let (read, told) = deliver::<A>(idempotent, inject);
    assert_eq!(read.len(), 2_000);
    assert_eq!(read.into_iter().collect::<HashSet<_>>(), told, "each future tells the true offset");
}

#[test]
fn a_producer_delivers_once_through_faults_that_leave_nothing_written() {
    let leave_nothing = |faults: &Faults| {
        faults.inject(Fault::fail(ErrorCode::NotEnoughReplicas).rate(0.2));
        faults.inject(Fault::lose_request().next(3));
    };
    delivers_once::<StdAccumulator>(false, leave_nothing);
    delivers_once::<LockFreeAccumulator>(false, leave_nothing);
}

#[test]
fn idem_02_each_producer_has_an_id_of_its_own_also_where_a_directory_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(0);
    let mut ids = HashSet::new();
    for _ in 0..2 {
        let open = EmbeddedBroker::builder().storage(Storage::directory(dir.path())).clock(clock.clone());
        let broker = open.open().unwrap();
        for _ in 0..3 {
            let mut client = broker.connect().unwrap();
            client.init_producer_id(LONG, clock.now()).unwrap();
            let mut responses = Vec::new();
            client.poll(LONG, &mut responses);
            let [Response::InitProducerId(Ok(producer))] = responses[..] else { panic!("{responses:?}") };
            assert!(producer.epoch == 0 && ids.insert(producer.id), "{producer:?} is not among {ids:?}");
        }
        clock.advance(MS);
    }
}

#[test]
fn idem_04_an_idempotent_producer_delivers_once_through_faults_that_hide_what_was_written() {
    delivers_once::<StdAccumulator>(true, hide_what_was_written);
    delivers_once::<LockFreeAccumulator>(true, hide_what_was_written);
}

fn delivers_at_least_once<A: Accumulator>() {
    let (read, told) = deliver::<A>(false, hide_what_was_written);
    assert!(read.len() > 2_000, "without sequences there are duplicates: {}", read.len());
    assert_eq!(read.iter().map(|(_, _, value)| value).collect::<HashSet<_>>().len(), 2_000);
    assert!(told.is_subset(&read.into_iter().collect()), "each future tells a true offset");
}

#[test]
fn a_producer_without_sequences_delivers_at_least_once_through_faults_that_hide_what_was_written() {
    delivers_at_least_once::<StdAccumulator>();
    delivers_at_least_once::<LockFreeAccumulator>();
}

#[test]
fn send_30_a_topic_created_after_the_first_send_is_found() {
    let broker = EmbeddedBroker::builder().open().unwrap();
    let producer = Producer::<StdAccumulator>::start(ProducerConfig::default(), broker.connect().unwrap()).unwrap();
    let record = Record { value: Some(b"early"), ..Record::default() };
    let mut future = producer.send(&producer.partition(&at(0)), record).unwrap();
    std::thread::sleep(20 * MS);
    assert!(future.try_result().is_none());
    broker.create_topic("t", 1).unwrap();
    let clock = SystemClock::new();
    assert_eq!(future.wait_timeout(LONG, &clock).expect("the producer sleeps on").unwrap().offset, 0);
}
