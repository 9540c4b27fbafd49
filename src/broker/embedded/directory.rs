//! The log directory: Kafka's layout, `<topic>-<partition>/00000000000000000000.log`.
//!
//! Topics and partitions are known by the directories' names alone; nothing else is stored. A file `.lock` at the top, locked as long as the
//! broker lives, keeps a second broker out; the operating system unlocks it when a process ends, however it ends.
//!
//! Every partition keeps its log open, so a directory needs as many file descriptors as it has partitions.
//!
//! Source: Kafka's `LogManager.loadLogs`, `UnifiedLog.parseTopicPartitionName`, `FileLock`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::StorageError;
use super::log::{Corruption, Cut, Found, Fsync, LogFile, SEGMENT};
use crate::error::TopicPartition;

/// The name of the lock file, Kafka's.
const LOCK: &str = ".lock";

/// A log directory, and how it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where. Created if it is not there, its parents too.
    pub path: PathBuf,
    /// When what was written is forced to the disk.
    pub fsync: Fsync,
    /// What to do with a log damaged in its middle.
    pub corruption: Corruption,
}

impl Directory {
    /// The directory `path`, synced on close, logs cut at the first damaged batch.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), fsync: Fsync::default(), corruption: Corruption::default() }
    }
}

/// What a directory was found to hold when it was opened.
#[derive(Debug, Default)]
pub struct RecoveryReport {
    /// Logs in it.
    pub logs: usize,
    /// Whole batches in them.
    pub batches: u64,
    /// Records in those.
    pub records: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// What was cut, at most one per log.
    pub cuts: Vec<Cut>,
}

impl RecoveryReport {
    fn add(&mut self, found: &mut Found) {
        self.logs += 1;
        self.batches += found.batches;
        self.records += found.records;
        self.bytes += found.bytes;
        self.cuts.extend(found.cut.take());
    }
}

/// A topic's name and its logs in order of partition.
pub(super) type FoundTopic = (Arc<str>, Vec<(LogFile, Found)>);

/// A log directory that is ours to write.
#[derive(Debug)]
pub(super) struct OpenDirectory {
    config: Directory,
    /// Locked until dropped.
    _lock: File,
}

impl OpenDirectory {
    /// Opens and locks it, and every log in it. On error nothing is left that was not there before.
    pub(super) fn open(config: Directory) -> Result<(Self, Vec<FoundTopic>, RecoveryReport), StorageError> {
        let path = config.path.clone();
        let created = !path.exists();
        fs::create_dir_all(&path).map_err(StorageError::io("create log directory", &path))?;
        let opened = lock(&path).and_then(|lock| {
            let (topics, report) = load(&config)?;
            Ok((Self { config, _lock: lock }, topics, report))
        });
        if opened.is_err() && created {
            // It is empty but for our lock file; what cannot be removed stays.
            let _ = fs::remove_file(path.join(LOCK));
            let _ = fs::remove_dir(&path);
        }
        opened
    }

    /// Makes the log of a new partition. On error nothing of it is left.
    pub(super) fn create(&self, topic: &str, partition: i32) -> Result<LogFile, StorageError> {
        let dir = self.partition(topic, partition);
        fs::create_dir(&dir).map_err(StorageError::io("create", &dir))?;
        LogFile::open(dir.join(SEGMENT), self.config.fsync, self.config.corruption).map(|(log, _)| log).inspect_err(
            |_| {
                let _ = fs::remove_dir(&dir);
            },
        )
    }

    /// Removes a partition's log, as far as that can be done.
    pub(super) fn discard(&self, topic: &str, partition: i32) {
        let dir = self.partition(topic, partition);
        if let Err(error) = fs::remove_file(dir.join(SEGMENT)).and_then(|()| fs::remove_dir(&dir)) {
            tracing::warn!(directory = %dir.display(), %error, "a partition that could not be created whole was left behind");
        }
    }

    fn partition(&self, topic: &str, partition: i32) -> PathBuf {
        self.config.path.join(format!("{topic}-{partition}"))
    }

    /// Forces the directories' own entries to the disk.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        if cfg!(not(unix)) {
            // A directory cannot be opened there; its entries are the file system's business.
            return Ok(());
        }
        let path = &self.config.path;
        File::open(path).and_then(|dir| dir.sync_all()).map_err(StorageError::io("sync log directory", path))
    }
}

fn lock(path: &Path) -> Result<File, StorageError> {
    let path = path.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(StorageError::io("create lock file", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StorageError::Locked { path }),
        Err(TryLockError::Error(error)) => Err(StorageError::io("lock", &path)(error)),
    }
}

fn load(config: &Directory) -> Result<(Vec<FoundTopic>, RecoveryReport), StorageError> {
    let mut topics = Vec::new();
    let mut report = RecoveryReport::default();
    for (topic, partitions) in list(&config.path)? {
        let mut logs = Vec::with_capacity(partitions.len());
        for (number, dir) in (0..).zip(&partitions) {
            let Some(dir) = dir else {
                let topic_partition = TopicPartition::new(topic.clone(), number);
                return Err(StorageError::MissingPartition { path: config.path.clone(), topic_partition });
            };
            refuse_other_segments(dir)?;
            let (log, mut found) = LogFile::open(dir.join(SEGMENT), config.fsync, config.corruption)?;
            report.add(&mut found);
            logs.push((log, found));
        }
        topics.push((topic, logs));
    }
    Ok((topics, report))
}

/// Topics in a directory, by name, with each partition's directory; `None` for a number that is missing.
pub(super) fn list(path: &Path) -> Result<BTreeMap<Arc<str>, Vec<Option<PathBuf>>>, StorageError> {
    let read = || StorageError::io("read log directory", path);
    let mut found: BTreeMap<Arc<str>, BTreeMap<usize, PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(path).map_err(read())? {
        let entry = entry.map_err(read())?;
        let name = entry.file_name();
        let Some((topic, partition)) = name.to_str().and_then(parse_name) else { continue };
        if entry.path().is_dir() {
            found.entry(topic.into()).or_default().insert(partition, entry.path());
        }
    }
    Ok(found
        .into_iter()
        .map(|(topic, mut partitions)| {
            // Up to the first gap, and one `None` where numbers go on behind it: names come from outside, so their size buys no memory.
            let mut dirs = Vec::new();
            while let Some(dir) = partitions.remove(&dirs.len()) {
                dirs.push(Some(dir));
            }
            if !partitions.is_empty() {
                dirs.push(None);
            }
            (topic, dirs)
        })
        .collect())
}

fn refuse_other_segments(dir: &Path) -> Result<(), StorageError> {
    for entry in fs::read_dir(dir).map_err(StorageError::io("read", dir))? {
        let path = entry.map_err(StorageError::io("read", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "log") && path.file_name() != Some(SEGMENT.as_ref()) {
            return Err(StorageError::OtherSegment { path });
        }
    }
    Ok(())
}

/// Kafka's rule for topic names. Source: `Topic.validate`.
pub(super) fn is_topic_name(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Topic and partition of a directory's name.
fn parse_name(name: &str) -> Option<(&str, usize)> {
    let (topic, partition) = name.rsplit_once('-')?;
    let number: i32 = partition.parse().ok()?;
    // One spelling per number, so that no two directories are the same partition.
    (is_topic_name(topic) && number.to_string() == partition).then_some((topic, usize::try_from(number).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::embedded::error::EmbeddedError;
    use crate::broker::embedded::{EmbeddedBroker, Storage};

    fn open(path: &Path) -> Result<EmbeddedBroker, EmbeddedError> {
        EmbeddedBroker::builder().storage(Storage::directory(path)).open()
    }

    fn storage_error(path: &Path) -> StorageError {
        match open(path) {
            Err(EmbeddedError::Storage(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn broker_knows_partitions_by_kafkas_directory_names() {
        assert_eq!(parse_name("clicks-0"), Some(("clicks", 0)));
        assert_eq!(parse_name("a-b.c_d-12"), Some(("a-b.c_d", 12)));
        assert_eq!(parse_name("clicks--1"), Some(("clicks-", 1)), "a topic's name may end with a hyphen");
        for no in ["clicks", "clicks-", "clicks-00", "clicks-+1", "-0", ".-0", "cl icks-0", "x-2147483648"] {
            assert_eq!(parse_name(no), None, "{no}");
        }
    }

    #[test]
    fn broker_takes_kafkas_topic_names_only() {
        for yes in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert!(is_topic_name(yes), "{yes}");
        }
        for no in ["", ".", "..", "a b", "a/b", "ä", "a\0", &"x".repeat(250)] {
            assert!(!is_topic_name(no), "{no}");
        }
    }

    #[test]
    fn broker_keeps_a_second_one_out_of_its_directory_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        assert!(matches!(storage_error(dir.path()), StorageError::Locked { .. }));
        let client = first.connect().unwrap();
        drop(first);
        assert!(matches!(storage_error(dir.path()), StorageError::Locked { .. }), "a client keeps it open");
        drop(client);
        open(dir.path()).unwrap();
    }

    #[test]
    fn broker_says_where_it_cannot_write_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = storage_error(&file.join("logs"));
        assert!(error.to_string().contains("file/logs"), "{error}");
        let blocked = dir.path().join("blocked");
        fs::create_dir_all(blocked.join(LOCK)).unwrap();
        assert!(matches!(storage_error(&blocked), StorageError::Io { .. }));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing new");
    }

    #[test]
    fn broker_creates_a_topic_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let broker = open(dir.path()).unwrap();
        fs::write(dir.path().join("clicks-2"), "in the way").unwrap();
        let error = broker.create_topic("clicks", 4).unwrap_err();
        assert!(matches!(error, EmbeddedError::Storage(StorageError::Io { .. })), "{error}");
        assert_eq!(broker.partitions("clicks"), None);
        assert!(!dir.path().join("clicks-0").exists() && !dir.path().join("clicks-1").exists());
        fs::remove_file(dir.path().join("clicks-2")).unwrap();
        broker.create_topic("clicks", 4).unwrap();
        fs::write(dir.path().join("clicks-5"), "in the way").unwrap();
        assert!(broker.ensure_topic("clicks", 6).is_err());
        assert_eq!(broker.partitions("clicks"), Some(4), "those that were there stay");
        assert!(dir.path().join("clicks-3").exists() && !dir.path().join("clicks-4").exists());
    }

    #[test]
    fn broker_opens_no_directory_that_lacks_a_partition_or_has_other_segments() {
        let dir = tempfile::tempdir().unwrap();
        for partition in [0, 1, 3, 2_000_000_000] {
            fs::create_dir(dir.path().join(format!("clicks-{partition}"))).unwrap();
        }
        let error = storage_error(dir.path());
        let missing = TopicPartition::new("clicks", 2);
        assert!(
            matches!(&error, StorageError::MissingPartition { topic_partition, .. } if *topic_partition == missing)
        );
        fs::remove_dir(dir.path().join("clicks-3")).unwrap();
        fs::remove_dir(dir.path().join("clicks-2000000000")).unwrap();
        let other = dir.path().join("clicks-1").join("00000000000000000170.log");
        fs::write(&other, "").unwrap();
        assert!(matches!(storage_error(dir.path()), StorageError::OtherSegment { path } if path == other));
        fs::remove_file(other).unwrap();
        assert_eq!(open(dir.path()).unwrap().partitions("clicks"), Some(2), "an empty directory is an empty log");
    }
}
