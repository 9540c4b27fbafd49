//! What is dropped without a close: an accumulator by its owners, its view, an appender, a producer. On every core.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use unlatched::accumulator::{Accumulator, AccumulatorConfig, Appender, LockFreeAccumulator, SenderView};
use unlatched::batch::{RecordFuture, Reply};
use unlatched::broker::embedded::EmbeddedBroker;
use unlatched::broker::{Cluster, NodeId};
use unlatched::error::{SendError, TopicPartition};
use unlatched::mutex::{ParkingLotAccumulator, StdAccumulator};
use unlatched::primitive::clock::{SharedClock, SystemClock};
use unlatched::primitive::epoch;
use unlatched::producer::{Producer, ProducerConfig};
use unlatched::record::Record;

const HOUR: Duration = Duration::from_secs(3_600);

/// Nothing goes by itself.
fn config() -> AccumulatorConfig {
    AccumulatorConfig { linger: HOUR, delivery_timeout: 2 * HOUR, ..AccumulatorConfig::default() }
}

fn record(value: &[u8]) -> Record<'_> {
    Record { timestamp: 7, value: Some(value), ..Record::default() }
}

fn push<A: Accumulator>(accumulator: &A, partition: &A::Partition) -> RecordFuture {
    let appended = accumulator.append(partition, &record(b"x"), Reply::FUTURE, Duration::ZERO).expect("there is room");
    appended.future.expect("it was asked for")
}

/// Until nobody has it but the caller, whatever is retired and not freed yet.
fn await_let_go(clock: &SharedClock) {
    let end = clock.now().saturating_add(Duration::from_secs(30));
    while Arc::strong_count(clock) > 1 {
        assert!(clock.now() < end, "something is kept for good");
        epoch::pin().flush();
        std::thread::yield_now();
    }
}

fn an_accumulator_that_its_owners_drop_is_drained_as_ever<A: Accumulator>() {
    let clock = SystemClock::shared();
    let (accumulator, mut view) = A::new(config(), clock.clone());
    let partition = accumulator.partition(&TopicPartition::new("t", 0));
    let mut appender = accumulator.appender();
    let future = push(&*accumulator, &partition);
    drop(accumulator);
    let more = appender.append(&partition, &record(b"y"), Reply::FUTURE, Duration::ZERO).expect("it goes on");
    let more = more.future.expect("it was asked for");
    drop(appender);
    assert!(!future.is_done() && !more.is_done(), "nothing is ended by that");
    let cluster = Cluster::single_node(NodeId(0), [("t", 1)]);
    let mut records = 0;
    // The shared lane's batch and the appender's: one in each pass.
    for _ in 0..2 {
        let drained = view.drain(&cluster, &[NodeId(0)], 1 << 20, clock.now());
        for batch in drained.into_iter().flat_map(|drained| drained.batches) {
            records += batch.record_count();
            batch.completion().complete(3, None).expect("completed once");
            view.deallocate(batch).expect("in the books");
        }
    }
    assert_eq!(records, 2);
    assert!([future, more].iter().all(|future| future.try_result().is_some_and(|ended| ended.is_ok())));
    drop(view);
    // A handle may be kept for longer than all of it.
    drop(partition);
    await_let_go(&clock);
}

fn a_view_that_is_dropped_aborts_what_is_open<A: Accumulator>() {
    let clock = SystemClock::shared();
    let (accumulator, mut view) = A::new(config(), clock.clone());
    let (partition, elsewhere) =
        (accumulator.partition(&TopicPartition::new("t", 0)), accumulator.partition(&TopicPartition::new("t", 1)));
    let (called, calls) = channel();
    let reply = Reply::callback(move |result| called.send(result).expect("it is listened to"));
    drop(accumulator.append(&partition, &record(b"z"), reply, Duration::ZERO).expect("there is room"));
    // One is with a transport, which lets go of it later.
    let in_flight = push(&*accumulator, &elsewhere);
    let cluster = Cluster::single_node(NodeId(0), [("t", 2)]);
    let drained = view.drain(&cluster, &[NodeId(0)], 1 << 20, clock.now());
    let again = push(&*accumulator, &partition);
    drop(accumulator);
    drop(view);
    for ended in [in_flight.try_result(), again.try_result(), calls.try_recv().ok()] {
        assert!(matches!(ended, Some(Err(SendError::Aborted { .. }))), "{ended:?}");
    }
    assert!(calls.recv().is_err(), "once");
    drop(drained);
    drop((partition, elsewhere));
    await_let_go(&clock);
}

fn a_producer_that_is_dropped_is_closed_by_force<A: Accumulator>() {
    let broker = EmbeddedBroker::builder().open().expect("in memory");
    broker.create_topic("t", 1).expect("a new one");
    let clock = SystemClock::shared();
    let mut config = ProducerConfig { accumulator: config(), ..ProducerConfig::default() };
    config.sender.delivery_timeout = 2 * HOUR;
    let start =
        || Producer::<A>::start_with_clock(config.clone(), broker.connect().expect("it is open"), clock.clone());
    let producer = start().expect("there are threads");
    let partition = producer.partition(&TopicPartition::new("t", 0));
    let future = producer.send(&partition, record(b"lost")).expect("there is room");
    let (called, calls) = channel();
    producer
        .send_with(&partition, record(b"lost too"), move |result| drop(called.send(result)))
        .expect("there is room");
    assert!(!future.is_done(), "it lingers");
    drop(producer);
    assert!(future.is_done(), "when the drop returns");
    for ended in [future.wait(), calls.try_recv().expect("when the drop returns")] {
        assert!(matches!(ended, Err(SendError::Aborted { .. })), "{ended:?}");
    }
    drop(partition);
    // What was flushed before is kept.
    let producer = start().expect("there are threads");
    let partition = producer.partition(&TopicPartition::new("t", 0));
    let future = producer.send(&partition, record(b"kept")).expect("there is room");
    producer.flush(Some(HOUR)).expect("the broker answers");
    drop(producer);
    assert_eq!(future.wait().expect("it was acknowledged").offset, 0, "nothing of the first one was written");
    drop(partition);
    await_let_go(&clock);
}

macro_rules! on_every_core {
    ($($name:ident),* $(,)?) => {
        on_every_core!(@core lockfree, LockFreeAccumulator: $($name)*);
        on_every_core!(@core mutex, StdAccumulator: $($name)*);
        on_every_core!(@core mutex_parking_lot, ParkingLotAccumulator: $($name)*);
    };
    (@core $module:ident, $core:ident: $($name:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$name::<super::$core>();
                }
            )*
        }
    };
}

on_every_core![
    an_accumulator_that_its_owners_drop_is_drained_as_ever,
    a_view_that_is_dropped_aborts_what_is_open,
    a_producer_that_is_dropped_is_closed_by_force,
];
