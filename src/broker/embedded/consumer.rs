//! Reading back: batches and records, from a broker or from its directory, each batch checked again.
//!
//! Checked are length, CRC and that offsets follow each other without a gap from 0, and, where records are asked for, every record. A fault
//! ends the reading with a typed error; nothing behind it is guessed. One batch is held at a time, so a log may be of any size.

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
use crate::record::codec::{DEFAULT_LIMIT, Decoder};
use crate::record::{Codec, PausedRecords, RecordBatch};

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
    max_uncompressed_bytes: usize,
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
                let first = partition.with_log(|log, _| first_batch(log, from, end));
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
        Ok(Self {
            topic_partition,
            source,
            from,
            next_offset: 0,
            end,
            max_uncompressed_bytes: DEFAULT_LIMIT,
            done: false,
        })
    }

    /// The offset after the last batch read.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Most bytes of one batch's records that [`Batches::records`] decompresses; more is an error. Default: [`DEFAULT_LIMIT`].
    #[must_use]
    pub fn max_uncompressed_bytes(mut self, bytes: usize) -> Self {
        self.max_uncompressed_bytes = bytes;
        self
    }

    /// The records in these batches, from the offset on with which the reading began.
    pub fn records(self) -> Records {
        Records { batches: self, decoder: Decoder::default(), present: None }
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

/// Index, position in bytes, and base offset of the batch in memory that has `from`; of the one to come if `from` is the `end`.
fn first_batch(log: &Log, from: i64, end: i64) -> (usize, u64, i64) {
    let Log::Memory(batches) = log else { return (0, 0, 0) };
    let base = |batch: &Bytes| batch.first_chunk().map_or(0, |field| i64::from_be_bytes(*field));
    let index = if from == end {
        batches.partition_point(|batch| base(batch) < end)
    } else {
        batches.partition_point(|batch| base(batch) <= from).saturating_sub(1)
    };
    let position = batches[..index].iter().map(|batch| batch.len() as u64).sum();
    (index, position, batches.get(index).map_or(end, base))
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
///
/// Of the batch that is being read it holds the bytes, decompressed, and nothing for each record: a batch may have a record for each seven of its bytes.
#[derive(Debug)]
pub struct Records {
    batches: Batches,
    decoder: Decoder,
    /// Where the records of the present batch lie - in the batch itself, or in what it was decompressed to - and how far they have been read. They have been judged.
    present: Option<(Bytes, PausedRecords)>,
}

impl Records {
    /// Judges all records of a batch before the first of them is given away.
    fn open(&mut self, bytes: Bytes) -> Result<(), BatchFault> {
        let (batch, _) = RecordBatch::parse(&bytes)?;
        let mut space = Vec::new();
        batch.decompress(&mut self.decoder, self.batches.max_uncompressed_bytes, &mut space)?;
        let image = if batch.codec() == Codec::None { bytes.clone() } else { Bytes::from(space) };
        let records = batch.records_in(&image);
        records.clone().try_for_each(|record| record.map(drop))?;
        let start = records.pause();
        self.present = Some((image, start));
        Ok(())
    }

    /// The next record of the present batch.
    fn step(&mut self) -> Option<ConsumedRecord> {
        let (image, at) = self.present.take()?;
        let mut records = at.resume(&image);
        let record = records.next()?.ok()?;
        let owned = |field: Option<&[u8]>| field.map(|field| image.slice_ref(field));
        let record = ConsumedRecord {
            offset: record.offset,
            timestamp: record.timestamp,
            key: owned(record.key),
            value: owned(record.value),
            headers: record.headers.iter().map(|header| (header.key.to_owned(), owned(header.value))).collect(),
        };
        let at = records.pause();
        self.present = Some((image, at));
        Some(record)
    }
}

impl Iterator for Records {
    type Item = Result<ConsumedRecord, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some(record) = self.step() {
                if record.offset >= self.batches.from {
                    return Some(Ok(record));
                }
            }
            let bytes = match self.batches.next()? {
                Ok(bytes) => bytes,
                Err(error) => return Some(Err(error)),
            };
            let len = bytes.len();
            let offset = bytes.first_chunk().map_or(0, |field| i64::from_be_bytes(*field));
            if let Err(cause) = self.open(bytes) {
                self.batches.done = true;
                let position = self.batches.position().saturating_sub(len as u64);
                let topic_partition = self.batches.topic_partition.clone();
                return Some(Err(ReadError::Damaged { topic_partition, position, offset, cause }));
            }
        }
    }
}

impl FusedIterator for Records {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::embedded::test_support::{bytes, mend};
    use crate::broker::embedded::{EmbeddedBroker, Storage};
    use crate::broker::{ErrorCode, NodeId};

    fn at(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    /// Batches of 1, 2 and 3 records in partition 0; partition 1 is empty.
    fn filled(storage: Storage) -> EmbeddedBroker {
        let broker = EmbeddedBroker::builder().storage(storage).open().unwrap();
        broker.create_topic("t", 2).unwrap();
        for values in [&["0"][..], &["1", "2"], &["3", "4", "5"]] {
            assert_eq!(broker.produce(NodeId(0), &at(0), &bytes(values)).error, ErrorCode::None);
        }
        broker
    }

    fn offsets_and_values(records: Records) -> Vec<(i64, String)> {
        records
            .map(|record| record.unwrap())
            .map(|record| (record.offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap()))
            .collect()
    }

    #[test]
    fn consumer_reads_the_same_from_memory_from_a_live_directory_and_from_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, files) = (filled(Storage::Memory), filled(Storage::directory(dir.path())));
        let consumer = Consumer::open(dir.path(), "t").unwrap();
        assert_eq!(consumer.partitions(), 2);
        for from in 0..=6 {
            let expected = (from..6).map(|offset| (offset, offset.to_string())).collect::<Vec<_>>();
            for records in [
                memory.read(&at(0), from).unwrap().records(),
                files.read(&at(0), from).unwrap().records(),
                consumer.records(0, from).unwrap(),
            ] {
                assert_eq!(offsets_and_values(records), expected, "from {from}");
            }
            let batches = |batches: Batches| batches.map(|batch| batch.unwrap()).collect::<Vec<_>>();
            let from_memory = batches(memory.read(&at(0), from).unwrap());
            assert_eq!(from_memory, batches(consumer.batches(0, from).unwrap()));
            assert_eq!(from_memory.len(), [3, 2, 2, 1, 1, 1, 0][usize::try_from(from).unwrap()], "from {from}");
        }
        assert_eq!(consumer.records(1, 0).unwrap().count(), 0);
    }

    #[test]
    fn consumer_knows_offsets_and_partitions_that_are_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, files) = (filled(Storage::Memory), filled(Storage::directory(dir.path())));
        for broker in [&memory, &files] {
            for from in [-1, 7] {
                assert!(matches!(broker.read(&at(0), from), Err(ReadError::OffsetOutOfRange { .. })), "from {from}");
            }
            assert!(matches!(broker.read(&at(2), 0), Err(ReadError::UnknownPartition { .. })));
        }
        let consumer = Consumer::open(dir.path(), "t").unwrap();
        assert!(matches!(consumer.batches(2, 0), Err(ReadError::UnknownPartition { .. })));
        assert!(matches!(consumer.batches(-1, 0), Err(ReadError::UnknownPartition { .. })));
        assert!(matches!(consumer.batches(0, -1), Err(ReadError::OffsetOutOfRange { .. })));
        let beyond = consumer.batches(0, 7).unwrap().next().unwrap();
        assert!(matches!(beyond, Err(ReadError::OffsetOutOfRange { from: 7, end: 6, .. })), "{beyond:?}");
        assert!(matches!(Consumer::open(dir.path(), "u"), Err(ReadError::UnknownPartition { .. })));
        assert!(matches!(Consumer::open(dir.path().join("none"), "t"), Err(ReadError::Storage(_))));
        let dropping = filled(Storage::Drop);
        assert!(matches!(dropping.read(&at(0), 0), Err(ReadError::NotKept { .. })));
    }

    #[test]
    fn consumer_reading_ends_where_the_log_ended_when_it_began() {
        let dir = tempfile::tempdir().unwrap();
        for broker in [filled(Storage::Memory), filled(Storage::directory(dir.path()))] {
            let mut batches = broker.read(&at(0), 0).unwrap();
            broker.produce(NodeId(0), &at(0), &bytes(&["6"]));
            assert_eq!(batches.by_ref().count(), 3);
            let next = broker.read(&at(0), batches.next_offset()).unwrap().records();
            assert_eq!(offsets_and_values(next), [(6, "6".into())]);
        }
    }

    #[test]
    fn consumer_detects_every_damaged_byte_and_says_where() {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(Storage::directory(dir.path())));
        let path = dir.path().join("t-0").join(SEGMENT);
        let good = std::fs::read(&path).unwrap();
        let consumer = Consumer::open(dir.path(), "t").unwrap();
        let second = RecordBatch::peek_len(&good).unwrap().unwrap();
        let end = second + RecordBatch::peek_len(&good[second..]).unwrap().unwrap();
        for byte in second..end {
            let mut bad = good.clone();
            bad[byte] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let mut records = consumer.records(0, 0).unwrap();
            assert_eq!(records.next().unwrap().unwrap().offset, 0);
            let fault = records.find_map(Result::err);
            if (12..16).contains(&(byte - second)) {
                assert!(fault.is_none(), "the leader epoch is under no CRC");
                continue;
            }
            let Some(ReadError::Damaged { position, offset: 1, cause, .. }) = fault else { panic!("{fault:?}") };
            assert_eq!(position, second as u64, "byte {byte}: {cause}");
            assert!(records.next().is_none(), "nothing behind a fault is read");
        }
    }

    #[test]
    fn consumer_detects_a_missing_batch_a_torn_one_and_a_bad_record_under_a_good_crc() {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(Storage::directory(dir.path())));
        let path = dir.path().join("t-0").join(SEGMENT);
        let good = std::fs::read(&path).unwrap();
        let consumer = Consumer::open(dir.path(), "t").unwrap();
        let fault = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            match consumer.records(0, 0).unwrap().find_map(Result::err) {
                Some(ReadError::Damaged { position, offset, cause, .. }) => (position, offset, cause),
                other => panic!("{other:?}"),
            }
        };
        let second = RecordBatch::peek_len(&good).unwrap().unwrap();
        let third = second + RecordBatch::peek_len(&good[second..]).unwrap().unwrap();
        let missing = [&good[..second], &good[third..]].concat();
        assert!(matches!(fault(&missing), (_, 1, BatchFault::Gap { expected: 1, found: 3 })));
        assert!(matches!(fault(&good[second..]), (0, 0, BatchFault::Gap { expected: 0, found: 1 })));
        assert!(matches!(fault(&good[..good.len() - 1]), (at, 3, BatchFault::Torn { .. }) if at == third as u64));
        let mut bad = good[..second].to_vec();
        *bad.last_mut().unwrap() = 9;
        assert!(matches!(fault(&mend(bad)), (0, 0, BatchFault::Corrupt(_))));
    }

    #[test]
    fn consumer_gives_key_value_headers_and_time_as_they_were() {
        use crate::record::{
            BATCH_OVERHEAD, Header, HeaderSpec, Record, encode_record, record_size, write_batch_header,
        };
        let headers = [Header { key: "h", value: Some(b"v") }, Header { key: "h", value: None }];
        let record = Record { timestamp: 77, key: Some(b"key"), value: None, headers: &headers };
        let mut batch = vec![0; BATCH_OVERHEAD + record_size(0, 0, &record)];
        encode_record(&mut batch[BATCH_OVERHEAD..], 0, 0, &record);
        let spec = HeaderSpec { base_timestamp: 77, max_timestamp: 77, records_count: 1, ..HeaderSpec::default() };
        write_batch_header(&mut batch, &spec).unwrap();
        let broker = filled(Storage::Memory);
        assert_eq!(broker.produce(NodeId(0), &at(1), &batch).error, ErrorCode::None);
        let expected = ConsumedRecord {
            offset: 0,
            timestamp: 77,
            key: Some(Bytes::from_static(b"key")),
            value: None,
            headers: vec![("h".into(), Some(Bytes::from_static(b"v"))), ("h".into(), None)],
        };
        assert_eq!(broker.read(&at(1), 0).unwrap().records().map(Result::unwrap).collect::<Vec<_>>(), [expected]);
    }
}
