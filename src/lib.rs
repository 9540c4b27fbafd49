//! The memory path of Apache Kafka's producer - buffer pool, partition map, record accumulator, sender - as a library that is meant to be
//! checked, measured and read.
//!
//! # The path of a record
//!
//! ```text
//!   Producer::send                        many threads
//!      |  date it, check its size
//!      v
//!   Accumulator::append  <--- PartitionMap: topic, partition -> queue
//!      |  room in the partition's open batch? encode it there
//!      |  no room: seal that batch, then BufferPool::allocate -> Lease -> a new one
//!      |  out: a RecordFuture
//!      v
//!   OpenBatch --- full, linger over, memory scarce, flush, close ---> SealedBatch (owns its Lease and its Completion)
//!      |
//!      |  one thread: the Sender
//!      v
//!   SenderView::ready, drain  ->  ProduceRequest (owns its batches)  ->  Broker::submit
//!      ^                                                                   |
//!      |  retriable error: SenderView::reenqueue                           v
//!      +------------------------------------------  ProduceResponse, the batches in it
//!                                                                          |
//!   RecordFuture, callbacks  <--- Completion::complete | fail | abort -----+
//!   BufferPool               <--- the Lease's drop, with the batch's last owner
//! ```
//!
//! A record flows one way, memory flows back. Memory is owned by values: a [`pool::Lease`] moves with its batch into the request and returns to
//! the pool when the last owner drops it, so it cannot be returned twice, nor while a transport still reads it.
//!
//! # Two cores behind one set of traits
//!
//! [`accumulator::Accumulator`] and [`accumulator::SenderView`], [`pool::BufferPool`], [`partition_map::PartitionMap`] and [`batch::OpenBatch`] say what each part
//! must do. [`mutex`] is the twin: Kafka's own algorithm on mutexes, complete and without handicap, the oracle and the opponent. The lock-free
//! core, [`accumulator::LockFreeAccumulator`], stands behind the same traits; tests, benches and the command line are written once and run on every core.
//!
//! # A producer
//!
//! ```
//! use std::time::Duration;
//! use unlatched::broker::embedded::EmbeddedBroker;
//! use unlatched::error::TopicPartition;
//! use unlatched::accumulator::LockFreeAccumulator;
//! use unlatched::producer::{Producer, ProducerConfig};
//! use unlatched::record::{NO_TIMESTAMP, Record};
//!
//! let broker = EmbeddedBroker::builder().open()?;
//! broker.create_topic("flights", 1)?;
//! let producer = Producer::<LockFreeAccumulator>::start(ProducerConfig::default(), broker.connect()?)?;
//! let partition = producer.partition(&TopicPartition::new("flights", 0));
//!
//! let record = Record { timestamp: NO_TIMESTAMP, value: Some(b"EWR to IAH"), ..Record::default() };
//! let place = producer.send(&partition, record)?.wait()?;
//! assert_eq!(place.offset, 0);
//! producer.close(Duration::from_secs(10))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where it runs
//!
//! On targets with 64-bit atomics; others are refused by the compiler. Where the kernel has no `membarrier`, an append pays for two full fences, on owned lanes and on shared ones ([`primitive::barrier`]).
//!
//! # Where to read on
//!
//! What each part must do, by id: `papers/catalogue.md`. Which Kafka class became which module: `papers/kafka-map.md`. How atomics, locks and time are
//! switched for model checking: [`primitive`].

#[cfg(not(target_has_atomic = "64"))]
compile_error!(
    "unlatched needs a target with 64-bit atomics (target_has_atomic = \"64\"): the words of its pool, its batches and its lanes are 64 bits wide"
);

pub mod accumulator;
pub mod batch;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod bench;
pub mod broker;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod error;
pub mod mutex;
pub mod partition_map;
pub mod pool;
pub mod primitive;
#[cfg(not(any(crossbeam_loom, unlatched_shuttle)))]
pub mod producer;
pub mod record;
pub mod sender;
#[cfg(all(feature = "testing", not(any(crossbeam_loom, unlatched_shuttle))))]
pub mod simulation;
