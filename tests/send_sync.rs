//! Which public types go from thread to thread, and which are shared: asserted while this file is compiled.
//!
//! A type that loses `Send` or `Sync` by a private field breaks its users, and nothing in its own file says so. One that is not to be shared - an appender, whose lanes have one owner - must not become `Sync` by accident either.

use std::path::Path;

use unlatched::accumulator::{
    AccumulatorConfig, Appended, AppendedMany, Backoff, Drained, Lane, LaneHandle, LockFreeAccumulator,
    LockFreeAppender, LockFreeView, NoGate, ReadyCheck,
};
use unlatched::batch::{
    Callback, Completer, Completion, Compressor, Contents, FinalState, Grown, Held, OffPool, OffPoolSnapshot,
    OwnedBatch, Placed, Rank, RecordErrors, RecordFuture, RecordMetadata, RecordResult, Reply, SealedBatch, Watch,
    Whole,
};
use unlatched::broker::embedded::{
    BatchFault, Builder, Connection, ConsumedRecord, Consumer, Corruption, Cut, Directory, EmbeddedBroker,
    EmbeddedClient, EmbeddedError, Fault, Faults, Fsync, Observer, ReadError, RecoveryReport, Stats, Storage,
    StorageError, Struck,
};
use unlatched::broker::{
    Acks, Cluster, ErrorCode, Fate, Leader, NodeId, Outcome, PartitionResponse, ProduceRequest, ProduceResponse,
    ProducerIdAndEpoch, Response,
};
use unlatched::error::{AppendError, FlushError, IllegalState, SendError, TopicPartition};
use unlatched::mutex::{
    CopyOnWriteMap, MutexAccumulator, MutexAppender, MutexBatch, MutexPartition, MutexPool, MutexView,
    ParkingLotAccumulator, ParkingLotPool, PoolCore, StdAccumulator, StdPool,
};
use unlatched::partition_map::{PartitionHandle, SegmentedMap};
use unlatched::pool::{
    Allocate, AtomicPool, AtomicPoolCore, Buffer, Lease, PoolError, PoolOptions, PoolSnapshot, Released,
};
use unlatched::primitive::barrier::Barrier;
use unlatched::primitive::clock::{Instant, ManualClock, SharedClock, SystemClock, TickingClock};
use unlatched::primitive::lock::{ParkingLot, StdLock, StdMutex};
use unlatched::primitive::parker::{ThreadParker, WordParker};
use unlatched::primitive::random::Random;
use unlatched::primitive::table::{Set, Table};
use unlatched::primitive::witness::Witness;
use unlatched::producer::{ConfigError, Producer, ProducerConfig, ProducerError, RoundRobin, SendRefused};
use unlatched::record::codec::{Compression, CompressionError, Decoder, Encoder};
use unlatched::record::varint::VarintError;
use unlatched::record::{
    Attributes, BatchHeader, Batches, Codec, DecodeError, DecodedRecord, Field, Header, HeaderIter, HeaderSpec,
    Headers, ProducerState, ProducerStateError, Record, RecordBatch, RecordError, Records, TimestampType,
};
use unlatched::sender::{
    CloseError, Decision, Facts, Idempotence, IdempotenceConflict, Sender, SenderConfig, SenderHandle, SenderSnapshot,
    SenderStats, StartError,
};
use unlatched::simulation::{self, Failure, Tally};

macro_rules! threads {
    ($($list:ident: $check:ident [$($type:ty),* $(,)?];)*) => {
        $(const $list: &[&str] = {
            $($check!($type);)*
            &[$(stringify!($type)),*]
        };)*
    };
}

macro_rules! shared {
    ($type:ty) => {{
        const fn is<T: Send + Sync + ?Sized>() {}
        is::<$type>();
    }};
}

/// `Send`, and surely not `Sync`: of a type that is, two candidates for `IS` are found, which is an error.
macro_rules! given {
    ($type:ty) => {{
        const fn is<T: Send + ?Sized>() {}
        is::<$type>();
        trait Unshared<Whether> {
            const IS: () = ();
        }
        struct Shared;
        impl<T: ?Sized> Unshared<()> for T {}
        impl<T: Sync + ?Sized> Unshared<Shared> for T {}
        <$type as Unshared<_>>::IS
    }};
}

threads! {
    SHARED: shared [
        AccumulatorConfig, Appended, AppendedMany, Backoff, Drained, Lane, LaneHandle, LockFreeAccumulator, NoGate, ReadyCheck,
        Completion, Compressor, Contents, FinalState, Grown, Held, OffPool, OffPoolSnapshot, OwnedBatch, Placed,
        Rank, RecordErrors, RecordFuture, RecordMetadata, RecordResult, SealedBatch, Watch, Whole,
        BatchFault, Builder, Connection, ConsumedRecord, Consumer, Corruption, Cut, Directory, EmbeddedBroker,
        EmbeddedClient, EmbeddedError, Fault, Faults, Fsync, Observer, ReadError, RecoveryReport, Stats, Storage, StorageError, Struck,
        unlatched::broker::embedded::Batches, unlatched::broker::embedded::Records,
        Acks, Cluster, ErrorCode, Fate, Leader, NodeId, Outcome, PartitionResponse, ProduceRequest, ProduceResponse,
        ProducerIdAndEpoch, Response,
        AppendError, FlushError, IllegalState, SendError, TopicPartition,
        CopyOnWriteMap<u8, StdLock>, MutexAccumulator<StdLock>, MutexAppender<StdLock>, MutexPartition<StdLock>,
        MutexPool<StdLock>, MutexView<StdLock>, ParkingLotAccumulator, ParkingLotPool, PoolCore<StdLock>, StdAccumulator, StdPool,
        MutexAppender<ParkingLot>, MutexView<ParkingLot>,
        PartitionHandle<u8>, SegmentedMap<u8>,
        Allocate<'static>, AtomicPool, AtomicPoolCore, Buffer, Lease<AtomicPoolCore>, Lease, PoolError, PoolOptions, PoolSnapshot, Released,
        Barrier, Instant, ManualClock, SharedClock, SystemClock, TickingClock, ParkingLot, StdLock, StdMutex<u8>,
        ThreadParker, WordParker, Random, Set<u8>, Table<u8, u8>, Witness,
        ConfigError, Producer<LockFreeAccumulator>, Producer<StdAccumulator>, Producer<ParkingLotAccumulator>, ProducerConfig, ProducerError,
        RoundRobin, SendRefused,
        Compression, CompressionError, Decoder, Encoder, unlatched::record::codec::Fault, VarintError,
        Attributes, BatchHeader, Batches<'static>, Codec, DecodeError, DecodedRecord<'static>, Field, Header<'static>, HeaderIter<'static>,
        HeaderSpec, Headers<'static>, ProducerState, ProducerStateError, Record<'static>, RecordBatch<'static>, RecordError,
        Records<'static>, TimestampType,
        CloseError, Sender<StdAccumulator, EmbeddedClient>, SenderConfig, SenderHandle<LockFreeAccumulator>, SenderSnapshot,
        SenderStats, StartError, Decision, Facts, Idempotence, IdempotenceConflict,
        simulation::Core, simulation::Outcome, Failure, Tally,
    ];
    GIVEN: given [
        LockFreeAppender, LockFreeView, Sender<LockFreeAccumulator, EmbeddedClient>, Callback, Completer, MutexBatch, Reply,
    ];
}

/// The types of the public modules, as their files have them; those of the checkers' builds and of the program are no part of the library.
fn public_types(of: &Path, found: &mut Vec<String>) {
    const NOT: [&str; 9] =
        ["bench", "cli", "loom.rs", "shuttle.rs", "model.rs", "counted.rs", "std.rs", "sim", "sim.rs"];
    for entry in std::fs::read_dir(of).expect("a directory of src").map(|entry| entry.expect("an entry of it").path()) {
        let name = entry.file_name().expect("it has a name").to_string_lossy().into_owned();
        if NOT.contains(&&*name) {
            continue;
        }
        if entry.is_dir() {
            public_types(&entry, found);
            continue;
        }
        let text = std::fs::read_to_string(&entry).expect("a file of src");
        let types = text.lines().filter_map(|line| {
            ["pub struct ", "pub enum ", "pub type "].iter().find_map(|start| line.strip_prefix(start))
        });
        found.extend(types.map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or(rest).to_owned()));
    }
}

#[test]
fn every_public_type_is_asserted() {
    // What the library keeps to itself and opens to its models only; what stands behind `MutexPartition`; `UnsafeCell`, which is no more than std's; a name for a `fn` and one for a `str`.
    const CLOSED: [&str; 19] = [
        "Announced",
        "Announcements",
        "AtomicBatch",
        "Claim",
        "Filled",
        "Full",
        "Refusal",
        "Reservation",
        "Run",
        "Slot",
        "ChainInHand",
        "Hand",
        "HandOnWaker",
        "InHand",
        "Stacks",
        "Stander",
        "UnsafeCell",
        "Partition",
        "EntryHandle",
    ];
    const NAMES: [&str; 2] = ["WayBack", "Step"];
    let mut found = Vec::new();
    public_types(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 100, "{found:?}");
    let last = |name: &str| {
        let plain = name.split('<').next().unwrap_or(name);
        plain.rsplit("::").next().unwrap_or(plain).trim().to_owned()
    };
    let asserted: Vec<String> = SHARED.iter().chain(GIVEN).map(|name| last(name)).collect();
    let missing: Vec<&String> = found
        .iter()
        .filter(|name| !asserted.contains(name) && !CLOSED.contains(&&***name) && !NAMES.contains(&&***name))
        .collect();
    assert!(missing.is_empty(), "say above whether these are shared: {missing:?}");
}
