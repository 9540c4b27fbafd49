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
use crate::record::{BATCH_OVERHEAD, LENGTH_END, RecordBatch};

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
        let mut found = scan(&file, &path)?;
        if let Some(cut) = &found.cut {
            if let (Some(next), Corruption::Refuse) = (cut.lost_from, corruption) {
                let cut = found.cut.take().expect("just seen");
                let (position, offset) = (found.bytes, found.next_offset);
                return Err(StorageError::Corrupt { path, position, offset, next, cause: cut.cause });
            }
            file.truncate(found.bytes)
                .and_then(|()| file.sync_all())
                .map_err(StorageError::io("cut the end of log", &path))?;
            tracing::warn!(
                file = %path.display(), bytes = cut.bytes, offset = cut.offset, cause = %cut.cause, lost_from = ?cut.lost_from,
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
