//! Syncs changed files and directories one by one, for file systems on which `syncfs(2)` can't be relied on.

use super::confined::ConfinedRoot;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// Maximum number of threads that sync at the same time. Concurrency hides the latency of network file systems.
const THREADS: usize = 16;

/// Whether `syncfs` on this type of file system (statfs(2), `f_type`) flushes everything to stable storage and reports errors.
pub(super) fn syncfs_is_trusted(kind: u64) -> bool {
    const NFS: u64 = 0x6969;
    const FUSE: u64 = 0x6573_5546;
    const CIFS: u64 = 0xff53_4d42;
    const SMB2: u64 = 0xfe53_4d42;
    const NINE_P: u64 = 0x0102_1997;
    !matches!(kind & 0xffff_ffff, NFS | FUSE | CIFS | SMB2 | NINE_P)
}

/// Paths changed since the last barrier. Clones share one set.
#[derive(Clone, Default)]
pub(super) struct DirtyPaths(Arc<Mutex<PathSets>>);

#[derive(Default)]
struct PathSets {
    files: Vec<String>,
    /// Directories in which entries were added or removed.
    directories: BTreeSet<String>,
}

impl DirtyPaths {
    /// Records that the content of a file changed.
    pub(super) fn file(&self, path: &str) {
        self.0.lock().files.push(path.to_owned());
    }

    /// Records that the entries of a directory changed.
    pub(super) fn directory(&self, path: &str) {
        self.0.lock().directories.insert(path.to_owned());
    }

    /// Syncs every path recorded so far.
    pub(super) fn sync(&self, confined: &ConfinedRoot) -> io::Result<()> {
        let PathSets { files, directories } = std::mem::take(&mut *self.0.lock());
        let work: Vec<&String> = files.iter().chain(&directories).collect();
        let share = work.len().div_ceil(THREADS).max(16);
        std::thread::scope(|scope| {
            let sync = |paths: &[&String]| paths.iter().try_for_each(|path| sync_one(confined, path));
            let running: Vec<_> = work.chunks(share).map(|paths| scope.spawn(move || sync(paths))).collect();
            running.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a sync thread panicked")))
            })
        })
    }
}

fn sync_one(confined: &ConfinedRoot, path: &str) -> io::Result<()> {
    let opened = match path {
        "" => rustix::fs::openat(confined.root(), ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()),
        path => confined.open(path, OFlags::RDONLY, 0),
    };
    match opened {
        Ok(fd) => Ok(rustix::fs::fsync(&fd)?),
        // The file was discarded or the directory was removed in the meantime.
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn sync_ignores_missing_paths_and_reports_failures() {
        let dir = tempfile::tempdir().unwrap();
        let confined = ConfinedRoot::new(fs::File::open(dir.path()).unwrap().into());
        fs::create_dir(dir.path().join("a")).unwrap();
        let dirty = DirtyPaths::default();
        for number in 0..100 {
            let path = format!("a/{number}");
            fs::write(dir.path().join(&path), "x").unwrap();
            dirty.file(&path);
        }
        dirty.file("a/gone");
        dirty.directory("a");
        dirty.directory("");
        dirty.sync(&confined).unwrap();
        // A file replaced a directory: entries below it can no longer be synced.
        dirty.file("a/7/below");
        assert!(dirty.sync(&confined).is_err());
        dirty.sync(&confined).unwrap();
    }
}
