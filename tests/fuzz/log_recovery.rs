//! Any bytes as the log of a directory: the broker opens it, cuts what is no whole batch, and goes on; the consumer ends where it does.
//!
//! The first byte says what is mended before: 1, the checksums of what looks like batches; 2, their offsets too.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use unlatched::broker::embedded::{
    Batches, Consumer, Corruption, Directory, EmbeddedBroker, EmbeddedError, ReadError, Storage, StorageError,
};
use unlatched::broker::{ErrorCode, NodeId};
use unlatched::error::TopicPartition;
use unlatched::record::{BATCH_OVERHEAD, RecordBatch};

use crate::decode::mend_checksum;
use crate::seeds;

/// The log directory, this process's own.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("unlatched-log-recovery-{}", std::process::id()));
    fs::create_dir_all(path.join("t-0")).expect("a place for a log");
    path
});

fn mend(log: &mut [u8], offsets: bool) {
    let (mut at, mut offset) = (0, 0_i64);
    while let Some(rest) = log.get_mut(at..)
        && let Ok(Some(size)) = RecordBatch::peek_len(rest)
        && let Some(batch) = rest.get_mut(..size)
    {
        if offsets {
            batch[..8].copy_from_slice(&offset.to_be_bytes());
            let last = i32::from_be_bytes(batch[23..27].try_into().expect("four bytes"));
            offset = offset.wrapping_add(i64::from(last)).wrapping_add(1);
        }
        if batch.len() >= BATCH_OVERHEAD {
            mend_checksum(batch);
        }
        at += size;
    }
}

fn broker(corruption: Corruption) -> Result<EmbeddedBroker, EmbeddedError> {
    let directory = Directory { corruption, ..Directory::new(&*DIRECTORY) };
    EmbeddedBroker::builder().storage(Storage::Directory(directory)).open()
}

/// Bytes of the whole batches in front of the first damage, and whether there is none.
fn read(batches: Batches) -> (usize, bool) {
    let mut bytes = 0;
    for batch in batches {
        match batch {
            Ok(batch) => bytes += batch.len(),
            Err(ReadError::Damaged { position, .. }) => {
                assert_eq!(position, bytes as u64);
                return (bytes, false);
            }
            Err(other) => panic!("{other}"),
        }
    }
    (bytes, true)
}

pub(crate) fn run(data: &[u8]) {
    let Some((&mode, log)) = data.split_first() else { return };
    let mut log = log.to_vec();
    if mode % 3 > 0 {
        mend(&mut log, mode % 3 == 2);
    }
    let path = DIRECTORY.join("t-0/00000000000000000000.log");
    fs::write(&path, &log).expect("a place for a log");
    let partition = TopicPartition::new("t", 0);

    let consumer = Consumer::open(&*DIRECTORY, "t").expect("a directory with a topic");
    let (good, whole) = read(consumer.batches(0, 0).expect("a log"));
    assert_eq!(whole, good == log.len());
    // A reader reads what stands in front of the damage. Records may be bad in a batch whose checksum is good: then it says so, and ends.
    let _ = consumer.records(0, 0).expect("a log").by_ref().take(100_000).take_while(Result::is_ok).count();

    // To refuse is to touch nothing.
    match broker(Corruption::Refuse) {
        Ok(broker) => drop(broker),
        Err(EmbeddedError::Storage(StorageError::Corrupt { position, next, .. })) => {
            assert_eq!(position, good as u64);
            assert!(next > 0);
            assert_eq!(fs::read(&path).expect("its log"), log);
        }
        Err(other) => panic!("{other}"),
    }
    fs::write(&path, &log).expect("a place for a log");

    // To cut is to lose what is behind the whole batches, and nothing else.
    let opened = broker(Corruption::Truncate).expect("any log can be opened");
    let report = opened.recovery().expect("a directory");
    assert_eq!(report.bytes, good as u64);
    assert_eq!(report.cuts.iter().map(|cut| cut.bytes).sum::<u64>(), (log.len() - good) as u64);
    assert_eq!(fs::read(&path).expect("its log"), log[..good]);
    // And it goes on, unless the offsets are used up.
    let end = opened.end_offset(&partition).expect("its partition");
    let batch = seeds::plain_batch();
    if end < i64::MAX - 1_000 {
        let answer = opened.produce(NodeId(0), &partition, &batch);
        assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, end));
        assert_eq!(read(opened.read(&partition, 0).expect("its partition")), (good + batch.len(), true));
    }
    drop(opened);
    let again = broker(Corruption::Refuse).expect("a log that was cut is whole");
    assert!(again.recovery().expect("a directory").cuts.is_empty());
}

/// Removes what [`run`] has left.
pub(crate) fn clean() {
    let _ = fs::remove_dir_all(&*DIRECTORY);
}
