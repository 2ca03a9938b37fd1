//! What a tree takes of its file system.

use crate::error::{Error, Result};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What was counted, and when.
#[derive(Clone, Debug)]
pub(super) struct Usage {
    /// When, in nanoseconds since 1970.
    pub(super) timestamp: i64,
    /// Where the tree's file system is mounted.
    pub(super) mount_point: String,
    /// The bytes that its files and directories have been allotted.
    pub(super) bytes: u64,
    /// How many files and directories.
    pub(super) inodes: u64,
}

/// Counts everything in `dir`, what is being received included. A file of several names counts once; other file systems
/// that are mounted below don't count.
///
/// # Errors
/// `Storage` when something can't be looked at. What goes away meanwhile is no error.
pub(super) fn of(dir: &Path) -> Result<Usage> {
    let refuse = |path: &Path, error| Error::storage(path.display(), "look at", error);
    let dir = dir.canonicalize().map_err(|error| refuse(dir, error))?;
    let root = dir.symlink_metadata().map_err(|error| refuse(&dir, error))?;
    let (mut bytes, mut inodes) = (root.blocks() * 512, 1);
    let mut linked = HashSet::new();
    let mut open = vec![dir.clone()];
    let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    while let Some(path) = open.pop() {
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(refuse(&path, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| refuse(&path, error))?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if gone(&error) => continue,
                Err(error) => return Err(refuse(&entry.path(), error)),
            };
            let counted = metadata.is_dir() || metadata.nlink() < 2 || linked.insert(metadata.ino());
            if metadata.dev() != root.dev() || !counted {
                continue;
            }
            bytes += metadata.blocks() * 512;
            inodes += 1;
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let timestamp = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
    Ok(Usage { timestamp, mount_point: mount_point(&dir).display().to_string(), bytes, inodes })
}

/// Where the file system of `dir`, an absolute path, is mounted; the directory itself where the kernel does not tell.
fn mount_point(dir: &Path) -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc(5): the fifth field is the mount point, with blanks and such in octal. A later mount covers an earlier one.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped);
    let above = points.filter(|point| dir.starts_with(point));
    above.max_by_key(|point| point.components().count()).unwrap_or_else(|| dir.to_owned())
}

fn unescaped(text: &str) -> PathBuf {
    let mut plain = text.to_owned();
    for (escape, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(escape, character);
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let before = of(dir.path()).unwrap();
        assert_eq!(before.inodes, 1);
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(dir.path().join("a/b"), dir.path().join("c")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("d")).unwrap();
        let after = of(dir.path()).unwrap();
        assert_eq!(after.inodes, 4);
        let output = std::process::Command::new("du").args(["-s", "--block-size=1"]).arg(dir.path()).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        assert_eq!(after.bytes, text.split_whitespace().next().unwrap().parse::<u64>().unwrap());
        assert!(after.timestamp > before.timestamp);
        assert!(dir.path().canonicalize().unwrap().starts_with(&after.mount_point));
        assert!(of(&dir.path().join("none")).is_err());
    }

    #[test]
    fn mount_points_are_read() {
        assert_eq!(unescaped("/a\\040b"), Path::new("/a b"));
        assert_eq!(mount_point(Path::new("/proc/self")), Path::new("/proc"));
    }
}
