//! Log directories that a command writes to.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use crate::broker::embedded::{Corruption, Directory, EmbeddedError, Storage, StorageError};

/// The file by which brokers keep each other out of a directory.
const LOCK: &str = ".lock";

/// The storage of a broker on the log directory `path`. A torn tail is cut, but whole batches behind damage are not
/// thrown away unasked.
pub(super) fn storage(path: &Path) -> Storage {
    Storage::Directory(Directory { corruption: Corruption::Refuse, ..Directory::new(path) })
}

/// An error of a broker, in words for who runs the program and not for who calls the library.
pub(super) fn explain(error: EmbeddedError) -> anyhow::Error {
    match error {
        EmbeddedError::Storage(StorageError::Corrupt { path, position, offset, next, cause }) => anyhow!(
            "{}: {cause} at byte {position}, where offset {offset} should begin, and whole batches from offset {next} \
             on behind it: restore the file, or cut it to {position} bytes",
            path.display()
        ),
        other => other.into(),
    }
}

/// The directories that a command is about to make. Unless they are kept, they go again when this is dropped: where a
/// command ends before it has written anything, it leaves nothing behind. Drop the broker first.
#[derive(Debug)]
pub(super) struct Made {
    log_dir: PathBuf,
    /// Deepest first.
    dirs: Vec<PathBuf>,
}

impl Made {
    /// Looks which of `log_dir` and its parents are not there yet.
    pub(super) fn before(log_dir: &Path) -> Self {
        let absent = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
        let dirs = log_dir.ancestors().take_while(absent).map(Path::to_owned).collect();
        Self { log_dir: log_dir.to_owned(), dirs }
    }

    /// They stay.
    pub(super) fn keep(mut self) {
        self.dirs.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.dirs.is_empty() {
            return;
        }
        // What was not made, or holds something by now, cannot be removed and need not be.
        let _ = fs::remove_file(self.log_dir.join(LOCK));
        for dir in &self.dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::embedded::EmbeddedBroker;

    #[test]
    fn what_was_made_goes_again_unless_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("a").join("b");
        for keep in [false, true] {
            let made = Made::before(&logs);
            drop(EmbeddedBroker::builder().storage(storage(&logs)).open().unwrap());
            assert!(logs.join(LOCK).exists());
            if keep {
                made.keep();
            } else {
                drop(made);
            }
            assert_eq!(dir.path().join("a").exists(), keep);
        }
    }

    #[test]
    fn what_was_there_before_or_holds_something_stays() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        fs::create_dir(&there).unwrap();
        fs::write(there.join(LOCK), "").unwrap();
        drop(Made::before(&there));
        assert!(there.join(LOCK).exists());
        let made = Made::before(&there.join("new"));
        fs::create_dir(there.join("new")).unwrap();
        fs::write(there.join("new").join("file"), "").unwrap();
        drop(made);
        assert!(there.join("new").join("file").exists());
    }
}
