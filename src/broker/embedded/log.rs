//! One log: consecutive batches in a file, each with its assigned offset.
//!
//! # What survives what
//! - A batch is acknowledged once `write` has returned. It then survives the end of this process, also a kill. It survives the end of the
//!   *machine* once it is on the disk: at the latest when the broker is closed or told to sync, or with [`Fsync::EveryBatch`] before it is acknowledged.
//! - A kill in the middle of a write leaves a torn batch at the end. The next open cuts it.
//! - A write that fails (disk full) is cut back at once, and the batch answered `KAFKA_STORAGE_ERROR`. If even that fails, or a sync does, the
//!   log goes offline: it takes nothing until the broker is opened again.
//!
//! Source: Kafka's `LogSegment.append`, `LogSegment.recover`, `FileRecords`. One segment per log; no index files, because this broker's readers
//! go through a log from its start.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::error::{BatchFault, StorageError};
use super::producers::Producers;
use crate::record::{BATCH_OVERHEAD, LENGTH_END, RecordBatch, TimestampType};

/// The only segment of a log: named by its first offset, as Kafka does.
pub(super) const SEGMENT: &str = "00000000000000000000.log";

/// How far behind a damaged batch a whole one is looked for, in bytes.
const RESYNC_WINDOW: u64 = 8 << 20;

/// When what was written is forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// When the broker is closed or told to sync; until then the operating system decides, as Kafka does by default.
    #[default]
    OnClose,
    /// Before each batch is acknowledged. Slow: a disk round trip per batch.
    EveryBatch,
}

/// What to do with a log that has a damaged batch and whole ones behind it. (A torn batch at the very end is always cut.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Corruption {
    /// Cut the log at the damaged batch, as Kafka does, and report what is known of the loss.
    #[default]
    Truncate,
    /// Refuse to open, and touch nothing.
    Refuse,
}

/// Bytes cut from the end of a log when it was opened.
#[derive(Debug)]
pub struct Cut {
    /// The log's file.
    pub file: PathBuf,
    /// Its length before, in bytes.
    pub length: u64,
    /// Bytes cut: the log now ends `bytes` earlier.
    pub bytes: u64,
    /// The offset that the next batch will get.
    pub offset: i64,
    /// What was wrong there.
    pub cause: BatchFault,
    /// Offset of the first whole batch found behind the damage: it is lost, with all that follow. `None` for a torn tail. Looked for within
    /// 8 MiB.
    pub lost_from: Option<i64>,
}

/// What a log was found to hold.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) batches: u64,
    pub(super) records: u64,
    /// Good bytes.
    pub(super) bytes: u64,
    pub(super) next_offset: i64,
    /// Leader epoch of the last batch.
    pub(super) epoch: Option<i32>,
    /// The last batches of each idempotent producer.
    pub(super) producers: Producers,
    pub(super) cut: Option<Cut>,
}

/// Where a log's bytes go: a file, or in tests one that fails.
pub(super) trait Medium: fmt::Debug + Send {
    /// Writes all of `bytes` at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts it to `len` bytes and puts the end there.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Forces what was written to the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl Medium for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.seek(SeekFrom::Start(len)).map(drop)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// The writing end of a log.
#[derive(Debug)]
pub(super) struct LogFile<M: Medium = File> {
    medium: M,
    path: PathBuf,
    len: u64,
    fsync: Fsync,
    unsynced: bool,
    offline: bool,
}

impl LogFile {
    /// Opens the log in `path`, creating it if it is not there, checks all of it, and cuts what is no whole batch.
    pub(super) fn open(path: PathBuf, fsync: Fsync, corruption: Corruption) -> Result<(Self, Found), StorageError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StorageError::io("open log", &path))?;
        let found = scan(&file, &path)?;
        if corruption == Corruption::Refuse
            && let Some(Cut { lost_from: Some(next), cause, .. }) = found.cut
        {
            return Err(StorageError::Corrupt { path, position: found.bytes, offset: found.next_offset, next, cause });
        }
        if let Some(cut) = &found.cut {
            file.truncate(found.bytes)
                .and_then(|()| file.sync_all())
                .map_err(StorageError::io("cut the end of log", &path))?;
            tracing::warn!(
                file = %path.display(), bytes = cut.bytes, offset = cut.offset, cause = %cut.cause,
                "the end of a log was no whole batch and has been cut"
            );
        }
        file.seek(SeekFrom::Start(found.bytes)).map_err(StorageError::io("seek in log", &path))?;
        Ok((Self::new(file, path, found.bytes, fsync), found))
    }
}

impl<M: Medium> LogFile<M> {
    fn new(medium: M, path: PathBuf, len: u64, fsync: Fsync) -> Self {
        Self { medium, path, len, fsync, unsynced: false, offline: false }
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of whole batches in it.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Writes one batch. All of it is there afterwards, or, on error, nothing.
    pub(super) fn append(&mut self, batch: &[u8]) -> Result<(), StorageError> {
        if self.offline {
            return Err(StorageError::Offline { path: self.path.clone() });
        }
        if let Err(error) = self.medium.append(batch) {
            self.cut_back();
            return Err(StorageError::io("write to log", &self.path)(error));
        }
        self.unsynced = true;
        if self.fsync == Fsync::EveryBatch
            && let Err(error) = self.sync()
        {
            self.cut_back();
            return Err(error);
        }
        self.len += batch.len() as u64;
        Ok(())
    }

    fn cut_back(&mut self) {
        if let Err(error) = self.medium.truncate(self.len) {
            self.offline = true;
            tracing::error!(file = %self.path.display(), %error, "a half-written batch could not be cut: the log is offline");
        }
    }

    /// Forces what was written to the disk. An error takes the log offline: what the disk has is not known any more.
    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        if !self.unsynced {
            return Ok(());
        }
        self.medium.sync().map_err(|error| {
            self.offline = true;
            StorageError::io("sync log", &self.path)(error)
        })?;
        self.unsynced = false;
        Ok(())
    }
}

/// Reads a log batch by batch, checking each one's CRC and that offsets follow each other. Holds one batch at a time.
#[derive(Debug)]
pub(super) struct BatchReader<R> {
    reader: R,
    position: u64,
    left: u64,
    next_offset: i64,
    batch: Vec<u8>,
}

impl<R: Read> BatchReader<R> {
    /// Reads `len` bytes of batches, the first of which has offset 0.
    pub(super) fn new(reader: R, len: u64) -> Self {
        Self::from_offset(reader, len, 0)
    }

    /// Reads `len` bytes of batches, the first of which has the offset `next_offset`.
    pub(super) fn from_offset(reader: R, len: u64, next_offset: i64) -> Self {
        Self { reader, position: 0, left: len, next_offset, batch: Vec::new() }
    }

    /// Where the next batch begins, in bytes; after an error, where the fault does.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The offset that the next batch must have.
    pub(super) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The next batch, `None` at the end. After an error the reader is of no more use.
    pub(super) fn next(&mut self) -> Result<Option<RecordBatch<'_>>, BatchFault> {
        if self.left == 0 {
            return Ok(None);
        }
        let torn = |needed: usize, available| BatchFault::Torn { needed: needed as u64, available };
        if self.left < LENGTH_END as u64 {
            return Err(torn(BATCH_OVERHEAD, self.left));
        }
        self.batch.resize(LENGTH_END, 0);
        self.reader.read_exact(&mut self.batch)?;
        let size = RecordBatch::peek_len(&self.batch)?.unwrap_or(BATCH_OVERHEAD);
        // Before the allocation: a damaged length must not cost memory.
        if size as u64 > self.left {
            return Err(torn(size, self.left));
        }
        self.batch.resize(size, 0);
        self.reader.read_exact(&mut self.batch[LENGTH_END..])?;
        let (batch, _) = RecordBatch::parse(&self.batch)?;
        if batch.base_offset() != self.next_offset {
            return Err(BatchFault::Gap { expected: self.next_offset, found: batch.base_offset() });
        }
        let after = batch.last_offset().checked_add(1).unwrap_or(i64::MIN);
        if after <= self.next_offset {
            return Err(BatchFault::Gap { expected: self.next_offset + 1, found: after });
        }
        self.next_offset = after;
        self.position += size as u64;
        self.left -= size as u64;
        Ok(Some(batch))
    }
}

/// Reads all of a log.
fn scan(file: &File, path: &Path) -> Result<Found, StorageError> {
    let read = |error| StorageError::io("read log", path)(error);
    let length = file.metadata().map_err(read)?.len();
    let mut found = Found::default();
    let mut reader = BatchReader::new(BufReader::with_capacity(1 << 16, file), length);
    let cause = loop {
        match reader.next() {
            Ok(None) => break None,
            Ok(Some(batch)) => {
                found.batches += 1;
                found.records += u64::try_from(batch.header().records_count).unwrap_or(0);
                found.epoch = Some(batch.header().partition_leader_epoch);
                let header = batch.header();
                let stamped = header.attributes.timestamp_type() == TimestampType::LogAppendTime;
                let log_append_time = stamped.then_some(header.max_timestamp);
                found.producers.written(header, batch.base_offset(), log_append_time);
            }
            Err(BatchFault::Io(error)) => return Err(StorageError::io("read log", path)(error)),
            Err(cause) => break Some(cause),
        }
    };
    found.bytes = reader.position();
    found.next_offset = reader.next_offset();
    if let Some(cause) = cause {
        let lost_from = whole_batch_behind(file, &found, length).map_err(StorageError::io("read log", path))?;
        found.cut = Some(Cut {
            file: path.to_owned(),
            length,
            bytes: length - found.bytes,
            offset: found.next_offset,
            cause,
            lost_from,
        });
    }
    Ok(found)
}

/// Offset of the first whole batch behind the place where the good ones end.
fn whole_batch_behind(mut file: &File, found: &Found, length: u64) -> io::Result<Option<i64>> {
    let mut window = Vec::new();
    file.seek(SeekFrom::Start(found.bytes))?;
    file.take(RESYNC_WINDOW.min(length - found.bytes)).read_to_end(&mut window)?;
    Ok((1..window.len()).find_map(|at| {
        let rest = &window[at..];
        let base = i64::from_be_bytes(*rest.first_chunk()?);
        // Cheap first: most places fail here, and only the rest pay for a CRC.
        if base <= found.next_offset || base - found.next_offset > i64::from(u32::MAX) {
            return None;
        }
        RecordBatch::parse(rest).ok().map(|(batch, _)| batch.base_offset())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::embedded::test_support::bytes;
    use crate::record::assign_offset;

    /// Batches of 1, 2, 3, ... records, as a log has them; and where each begins, with the end behind.
    fn log_of(batches: usize) -> (Vec<u8>, Vec<usize>) {
        let (mut log, mut starts, mut offset) = (Vec::new(), vec![0], 0);
        for records in 1..=batches {
            let mut batch = bytes(&vec!["some value"; records]);
            assign_offset(&mut batch, offset, 0);
            offset += i64::try_from(records).unwrap();
            log.extend_from_slice(&batch);
            starts.push(log.len());
        }
        (log, starts)
    }

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join(SEGMENT)
        }

        fn open(&self, bytes: &[u8], corruption: Corruption) -> Result<(LogFile, Found), StorageError> {
            std::fs::write(self.path(), bytes).unwrap();
            LogFile::open(self.path(), Fsync::OnClose, corruption)
        }
    }

    #[test]
    fn broker_cuts_a_torn_tail_of_every_length_at_the_last_whole_batch() {
        let (log, starts) = log_of(3);
        let dir = Dir::new();
        for len in starts[2]..log.len() {
            for corruption in [Corruption::Truncate, Corruption::Refuse] {
                let (mut file, found) = dir.open(&log[..len], corruption).unwrap();
                assert_eq!((found.batches, found.records, found.next_offset), (2, 3, 3), "{len} bytes");
                assert_eq!(std::fs::read(dir.path()).unwrap(), log[..starts[2]]);
                match found.cut {
                    None => assert_eq!(len, starts[2]),
                    Some(cut) => {
                        assert!(matches!(cut.cause, BatchFault::Torn { .. }), "{:?}", cut.cause);
                        let expected = (len as u64, (len - starts[2]) as u64, 3, None);
                        assert_eq!((cut.length, cut.bytes, cut.offset, cut.lost_from), expected);
                    }
                }
                file.append(&log[starts[2]..]).unwrap();
                assert_eq!(std::fs::read(dir.path()).unwrap(), log, "the next write goes where the cut was");
            }
        }
    }

    #[test]
    fn broker_cuts_zeros_behind_the_last_batch() {
        let (mut log, starts) = log_of(2);
        log.resize(log.len() + 4_096, 0);
        let (_, found) = Dir::new().open(&log, Corruption::Refuse).unwrap();
        assert_eq!((found.bytes, found.next_offset), (starts[2] as u64, 3));
        assert_eq!(found.cut.unwrap().bytes, 4_096);
    }

    #[test]
    fn broker_cuts_or_refuses_a_log_damaged_in_its_middle_and_says_what_is_lost() {
        let (log, starts) = log_of(4);
        // In the second batch: its CRC'd body, its length (which then reaches over the end), its offset.
        for (at, flip) in [(starts[1] + 70, 1), (starts[1] + 8, 0x40), (starts[1] + 7, 2)] {
            let mut bad = log.clone();
            bad[at] ^= flip;
            let dir = Dir::new();
            let error = dir.open(&bad, Corruption::Refuse).unwrap_err();
            assert!(
                matches!(error, StorageError::Corrupt { position, offset: 1, next: 3, .. } if position == starts[1] as u64),
                "{error}"
            );
            assert_eq!(std::fs::read(dir.path()).unwrap(), bad, "a refused log is not touched");
            let (_, found) = dir.open(&bad, Corruption::Truncate).unwrap();
            let cut = found.cut.unwrap();
            assert_eq!((cut.offset, cut.bytes, cut.lost_from), (1, (log.len() - starts[1]) as u64, Some(3)));
            assert_eq!(std::fs::read(dir.path()).unwrap(), log[..starts[1]]);
        }
    }

    #[test]
    fn broker_reads_no_log_whose_offsets_have_a_gap() {
        let (log, starts) = log_of(3);
        let without_second = [&log[..starts[1]], &log[starts[2]..]].concat();
        let mut reader = BatchReader::new(&*without_second, without_second.len() as u64);
        assert!(reader.next().unwrap().is_some());
        let error = reader.next().unwrap_err();
        assert!(matches!(error, BatchFault::Gap { expected: 1, found: 3 }), "{error}");
        assert_eq!(reader.position(), starts[1] as u64);
    }

    #[test]
    fn broker_allocates_nothing_for_a_length_that_is_not_there() {
        let mut bad = bytes(&["v"]);
        bad[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        let mut reader = BatchReader::new(&*bad, bad.len() as u64);
        assert!(matches!(reader.next(), Err(BatchFault::Torn { .. })));
        assert!(reader.batch.capacity() < 1_000);
    }

    /// A disk that is full after so many bytes.
    #[derive(Debug, Default)]
    struct Disk {
        bytes: Vec<u8>,
        room: usize,
        cannot_truncate: bool,
        cannot_sync: bool,
    }

    impl Medium for Disk {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            let fits = bytes.len().min(self.room - self.bytes.len());
            self.bytes.extend_from_slice(&bytes[..fits]);
            if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn truncate(&mut self, len: u64) -> io::Result<()> {
            if self.cannot_truncate {
                return Err(io::ErrorKind::ReadOnlyFilesystem.into());
            }
            self.bytes.truncate(usize::try_from(len).unwrap());
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            if self.cannot_sync { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }
    }

    #[test]
    fn broker_cuts_back_what_a_full_disk_did_not_take_whole() {
        let (log, starts) = log_of(2);
        for room in starts[1]..log.len() {
            let mut file = LogFile::new(Disk { room, ..Disk::default() }, PathBuf::from("a log"), 0, Fsync::OnClose);
            file.append(&log[..starts[1]]).unwrap();
            let error = file.append(&log[starts[1]..]).unwrap_err();
            assert!(error.to_string().contains("a log"), "{error}");
            assert_eq!(file.medium.bytes, log[..starts[1]]);
            file.medium.room = usize::MAX;
            file.append(&log[starts[1]..]).unwrap();
            assert_eq!((&file.medium.bytes, file.len()), (&log, log.len() as u64), "room again: it goes on");
        }
    }

    #[test]
    fn broker_takes_a_log_offline_if_it_cannot_cut_back_or_sync() {
        let disks = [
            (Disk { room: 10, cannot_truncate: true, ..Disk::default() }, Fsync::OnClose),
            (Disk { room: usize::MAX, cannot_sync: true, ..Disk::default() }, Fsync::EveryBatch),
        ];
        for (disk, fsync) in disks {
            let mut file = LogFile::new(disk, PathBuf::from("a log"), 0, fsync);
            let batch = bytes(&["v"]);
            assert!(matches!(file.append(&batch), Err(StorageError::Io { .. })));
            file.medium = Disk { room: usize::MAX, ..Disk::default() };
            assert!(matches!(file.append(&batch), Err(StorageError::Offline { .. })));
            assert!(file.medium.bytes.is_empty());
        }
    }
}
