//! Reading back: batches and records, from a broker or from its directory, each batch checked again.
//!
//! Checked are length, CRC and that offsets follow each other without a gap from 0, and, where records are asked for, every record. A fault
//! ends the reading with a typed error; nothing behind it is guessed. One batch is held at a time, so a log may be of any size.

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufReader;
use std::iter::FusedIterator;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::directory::list;
use super::error::{BatchFault, ReadError, StorageError};
use super::log::{BatchReader, SEGMENT};
use super::server::{Log, Partition};
use crate::error::TopicPartition;
use crate::record::RecordBatch;

/// A topic in a log directory, to be read.
///
/// Reads files only and takes no lock, so it works beside a broker in another process; it may then see a batch half written, which is
/// [`BatchFault::Torn`]. In the same process, [`EmbeddedBroker::read`](super::EmbeddedBroker::read) never does.
#[derive(Debug)]
pub struct Consumer {
    topic: Arc<str>,
    partitions: Vec<PathBuf>,
}

impl Consumer {
    /// The topic `topic` in the log directory `dir`.
    ///
    /// # Errors
    /// [`ReadError::Storage`] if the directory cannot be read; [`ReadError::UnknownPartition`] if it has no partition 0 of the topic, or lacks one
    /// before the last.
    pub fn open(dir: impl AsRef<Path>, topic: &str) -> Result<Self, ReadError> {
        let found = list(dir.as_ref())?.remove(topic).unwrap_or_default();
        let topic: Arc<str> = topic.into();
        let mut partitions = Vec::with_capacity(found.len());
        for path in found {
            let missing = || unknown(&topic, partitions.len());
            partitions.push(path.ok_or_else(missing)?);
        }
        if partitions.is_empty() { Err(unknown(&topic, 0)) } else { Ok(Self { topic, partitions }) }
    }

    /// Partitions that the topic has.
    pub fn partitions(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// The batches of a partition, beginning with the one that has the offset `from`, to the end that the file has now.
    ///
    /// # Errors
    /// [`ReadError`], if the partition is not there or its log cannot be opened. What is wrong inside, the iterator says.
    pub fn batches(&self, partition: i32, from: i64) -> Result<Batches, ReadError> {
        let topic_partition = TopicPartition { topic: self.topic.clone(), partition };
        let dir = usize::try_from(partition).ok().and_then(|index| self.partitions.get(index));
        let Some(dir) = dir else { return Err(ReadError::UnknownPartition { topic_partition }) };
        let path = dir.join(SEGMENT);
        let len = std::fs::metadata(&path).map_err(StorageError::io("read log", &path))?.len();
        Batches::of_file(topic_partition, &path, len, from)
    }

    /// The records of a partition from the offset `from` on, to the end that the file has now.
    ///
    /// # Errors
    /// As [`Consumer::batches`].
    pub fn records(&self, partition: i32, from: i64) -> Result<Records, ReadError> {
        self.batches(partition, from).map(Batches::records)
    }
}

fn unknown(topic: &Arc<str>, partition: usize) -> ReadError {
    let partition = i32::try_from(partition).unwrap_or(i32::MAX);
    ReadError::UnknownPartition { topic_partition: TopicPartition { topic: topic.clone(), partition } }
}

#[derive(Debug)]
enum Source {
    File(Box<BatchReader<BufReader<File>>>),
    Memory { partition: Arc<Partition>, index: usize, position: u64 },
}

/// The batches of one partition, whole and checked: [`RecordBatch::parse`] will not fail on one of them.
///
/// Ends after the first error. It ends at the log's end as it was when the reading began; what comes later is for another reading from
/// [`Batches::next_offset`].
#[derive(Debug)]
pub struct Batches {
    topic_partition: TopicPartition,
    source: Source,
    from: i64,
    next_offset: i64,
    /// Where the log ended, if that is known beforehand.
    end: Option<i64>,
    done: bool,
}

impl Batches {
    fn of_file(topic_partition: TopicPartition, path: &Path, len: u64, from: i64) -> Result<Self, ReadError> {
        let file = File::open(path).map_err(StorageError::io("open log", path))?;
        let reader = BatchReader::new(BufReader::with_capacity(1 << 16, file), len);
        Self::new(topic_partition, Source::File(Box::new(reader)), from, None)
    }

    /// From a running broker, whatever it keeps its logs in.
    pub(super) fn of_partition(partition: Arc<Partition>, from: i64) -> Result<Self, ReadError> {
        let topic_partition = partition.topic_partition().clone();
        let file = partition.with_log(|log, end| match log {
            Log::Drop => Err(ReadError::NotKept { topic_partition: topic_partition.clone() }),
            Log::Memory(_) => Ok((None, end)),
            Log::File(file) => Ok((Some((file.path().to_owned(), file.len())), end)),
        })?;
        let (file, end) = file;
        if from > end {
            return Err(ReadError::OffsetOutOfRange { topic_partition, from, end });
        }
        match file {
            Some((path, len)) => Self::of_file(topic_partition, &path, len, from),
            None => {
                let first = partition.with_log(|log, _| first_batch(log, from));
                let source = Source::Memory { partition, index: first.0, position: first.1 };
                let mut batches = Self::new(topic_partition, source, from, Some(end))?;
                batches.next_offset = first.2;
                Ok(batches)
            }
        }
    }

    fn new(topic_partition: TopicPartition, source: Source, from: i64, end: Option<i64>) -> Result<Self, ReadError> {
        if from < 0 {
            return Err(ReadError::OffsetOutOfRange { topic_partition, from, end: end.unwrap_or(i64::MAX) });
        }
        Ok(Self { topic_partition, source, from, next_offset: 0, end, done: false })
    }

    /// The offset after the last batch read.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The records in these batches, from the offset on with which the reading began.
    pub fn records(self) -> Records {
        Records { batches: self, decoded: VecDeque::new() }
    }

    /// Where the next batch begins, in bytes.
    fn position(&self) -> u64 {
        match &self.source {
            Source::File(reader) => reader.position(),
            Source::Memory { position, .. } => *position,
        }
    }

    fn step(&mut self) -> Result<Option<Bytes>, ReadError> {
        match &mut self.source {
            Source::File(reader) => loop {
                let offset = reader.next_offset();
                let batch = match reader.next() {
                    Ok(Some(batch)) if batch.last_offset() < self.from => continue,
                    Ok(batch) => batch.map(|batch| Bytes::copy_from_slice(batch.as_bytes())),
                    Err(cause) => {
                        let (topic_partition, position) = (self.topic_partition.clone(), reader.position());
                        return Err(ReadError::Damaged { topic_partition, position, offset, cause });
                    }
                };
                self.next_offset = reader.next_offset();
                if batch.is_none() && self.from > self.next_offset {
                    let (topic_partition, from) = (self.topic_partition.clone(), self.from);
                    return Err(ReadError::OffsetOutOfRange { topic_partition, from, end: self.next_offset });
                }
                return Ok(batch);
            },
            Source::Memory { partition, index, position } => {
                if self.end.is_some_and(|end| self.next_offset >= end) {
                    return Ok(None);
                }
                let batch = partition.with_log(|log, _| match log {
                    Log::Memory(batches) => batches.get(*index).cloned(),
                    Log::Drop | Log::File(_) => None,
                });
                let Some(bytes) = batch else { return Ok(None) };
                // The same reader as for files, so that memory is checked by the same rules.
                let mut reader = BatchReader::from_offset(&*bytes, bytes.len() as u64, self.next_offset);
                match reader.next() {
                    Ok(_) => {
                        *index += 1;
                        *position += bytes.len() as u64;
                        self.next_offset = reader.next_offset();
                        Ok(Some(bytes))
                    }
                    Err(cause) => Err(ReadError::Damaged {
                        topic_partition: self.topic_partition.clone(),
                        position: *position,
                        offset: self.next_offset,
                        cause,
                    }),
                }
            }
        }
    }
}

/// Index, position in bytes, and base offset of the batch in memory that has `from`.
fn first_batch(log: &Log, from: i64) -> (usize, u64, i64) {
    let Log::Memory(batches) = log else { return (0, 0, 0) };
    let base = |batch: &Bytes| batch.first_chunk().map_or(0, |field| i64::from_be_bytes(*field));
    let index = batches.partition_point(|batch| base(batch) <= from).saturating_sub(1);
    let position = batches[..index].iter().map(|batch| batch.len() as u64).sum();
    (index, position, batches.get(index).map_or(0, base))
}

impl Iterator for Batches {
    type Item = Result<Bytes, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.step().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

impl FusedIterator for Batches {}

/// A record read back. Key, value and headers are views into its batch, which lives as long as one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970, as [`DecodedRecord::timestamp`](crate::record::DecodedRecord::timestamp).
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// The records of one partition in order of offset. Ends after the first error.
#[derive(Debug)]
pub struct Records {
    batches: Batches,
    decoded: VecDeque<ConsumedRecord>,
}

impl Records {
    fn decode(&mut self, bytes: &Bytes) -> Result<(), BatchFault> {
        let (batch, _) = RecordBatch::parse(bytes)?;
        for record in batch.records() {
            let record = record?;
            if record.offset < self.batches.from {
                continue;
            }
            let owned = |field: Option<&[u8]>| field.map(|field| bytes.slice_ref(field));
            self.decoded.push_back(ConsumedRecord {
                offset: record.offset,
                timestamp: record.timestamp,
                key: owned(record.key),
                value: owned(record.value),
                headers: record.headers.iter().map(|header| (header.key.to_owned(), owned(header.value))).collect(),
            });
        }
        Ok(())
    }
}

impl Iterator for Records {
    type Item = Result<ConsumedRecord, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.decoded.pop_front() {
                return Some(Ok(record));
            }
            let bytes = match self.batches.next()? {
                Ok(bytes) => bytes,
                Err(error) => return Some(Err(error)),
            };
            if let Err(cause) = self.decode(&bytes) {
                self.decoded.clear();
                self.batches.done = true;
                let offset = bytes.first_chunk().map_or(0, |field| i64::from_be_bytes(*field));
                let position = self.batches.position().saturating_sub(bytes.len() as u64);
                let topic_partition = self.batches.topic_partition.clone();
                return Some(Err(ReadError::Damaged { topic_partition, position, offset, cause }));
            }
        }
    }
}

impl FusedIterator for Records {}
