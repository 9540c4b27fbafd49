//! The file that `--json` names: put in place whole, or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Whether there is something at `path` that can be written to but not replaced, such as a pipe or a terminal.
pub(super) fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|at| !at.is_file() && !at.is_dir())
}

/// What is replaced: not a link, but what it points to.
fn target(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Beside the target, so that a rename puts it in place.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

/// That a file can be put at `path`, so that a path that cannot be written costs no run. Nothing is overwritten yet.
pub(super) fn probe_writable(path: &Path) -> Result<()> {
    if path.as_os_str() == "-" {
        bail!("--json takes a file: standard output has the table");
    }
    if path.is_dir() {
        bail!("cannot write {}: it is a directory", path.display());
    }
    if is_device(path) {
        return Ok(());
    }
    let part = beside(&target(path));
    File::create(&part).with_context(|| format!("cannot write {}", path.display()))?;
    fs::remove_file(&part).with_context(|| format!("cannot write {}", path.display()))
}

/// Whole or not at all. A device is written to as it is.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let written = if is_device(path) {
        fs::write(path, text)
    } else {
        let target = target(path);
        let part = beside(&target);
        // What could not be put in place is not left lying beside it.
        fs::write(&part, text).and_then(|()| fs::rename(&part, &target)).inspect_err(|_| drop(fs::remove_file(&part)))
    };
    written.with_context(|| format!("cannot write {}", path.display()))
}
