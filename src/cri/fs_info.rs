//! Disk usage of a tree.

use crate::error::{Error, Result};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The disk usage of a directory.
#[derive(Clone, Debug)]
pub(super) struct FsUsage {
    /// When it was counted, in nanoseconds since the Unix epoch.
    pub(super) timestamp: i64,
    /// The mount point of the directory's file system.
    pub(super) mount_point: String,
    /// The bytes allocated for its files and directories.
    pub(super) bytes: u64,
    /// The number of files and directories.
    pub(super) inodes: u64,
}

/// Counts everything below `dir`, partial downloads included. A file with several hard links counts once; file systems that are
/// mounted below do not count. Files that disappear meanwhile are ignored.
///
/// # Errors
/// `Storage` when a directory or file cannot be read.
pub(super) fn usage(dir: &Path) -> Result<FsUsage> {
    let failed = |path: &Path, error| Error::storage(path.display(), "read the metadata of", error);
    let dir = dir.canonicalize().map_err(|error| failed(dir, error))?;
    let root = dir.symlink_metadata().map_err(|error| failed(&dir, error))?;
    let (mut bytes, mut inodes) = (root.blocks() * 512, 1);
    let mut linked = HashSet::new();
    let mut open = vec![dir.clone()];
    let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    while let Some(path) = open.pop() {
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(failed(&path, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| failed(&path, error))?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if gone(&error) => continue,
                Err(error) => return Err(failed(&entry.path(), error)),
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
    Ok(FsUsage { timestamp, mount_point: mount_point(&dir).display().to_string(), bytes, inodes })
}

/// The mount point of the file system that the absolute path `dir` is on, or `dir` itself if it is unknown.
fn mount_point(dir: &Path) -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc(5): the fifth field is the mount point, with octal escapes. A later mount hides an earlier one.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let above = points.filter(|point| dir.starts_with(point));
    above.max_by_key(|point| point.components().count()).unwrap_or_else(|| dir.to_owned())
}

fn unescape(text: &str) -> PathBuf {
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
    fn usage_equals_du() {
        let dir = tempfile::tempdir().unwrap();
        let before = usage(dir.path()).unwrap();
        assert_eq!(before.inodes, 1);
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(dir.path().join("a/b"), dir.path().join("c")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("d")).unwrap();
        let after = usage(dir.path()).unwrap();
        assert_eq!(after.inodes, 4);
        let output = std::process::Command::new("du").args(["-s", "--block-size=1"]).arg(dir.path()).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        assert_eq!(after.bytes, text.split_whitespace().next().unwrap().parse::<u64>().unwrap());
        assert!(after.timestamp > before.timestamp);
        assert!(dir.path().canonicalize().unwrap().starts_with(&after.mount_point));
        assert!(usage(&dir.path().join("none")).is_err());
    }

    #[test]
    fn mount_point_is_unescaped() {
        assert_eq!(unescape("/a\\040b"), Path::new("/a b"));
        assert_eq!(mount_point(Path::new("/proc/self")), Path::new("/proc"));
    }
}
