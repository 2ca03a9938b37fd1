//! Syncing file by file, where one `syncfs(2)` for all can't be relied on.

use super::confined::Beneath;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Threads that sync at the same time, at most: the medium is far away, and many requests under way hide that.
const THREADS: usize = 16;

/// Whether `syncfs` on a file system of this type (statfs(2), `f_type`) puts everything on stable storage and reports errors.
pub(super) fn syncfs_is_trusted(kind: u64) -> bool {
    const NFS: u64 = 0x6969;
    const FUSE: u64 = 0x6573_5546;
    const CIFS: u64 = 0xff53_4d42;
    const SMB2: u64 = 0xfe53_4d42;
    const NINE_P: u64 = 0x0102_1997;
    !matches!(kind & 0xffff_ffff, NFS | FUSE | CIFS | SMB2 | NINE_P)
}

/// What was written since the last barrier. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Touched(Arc<Mutex<Paths>>);

#[derive(Default)]
struct Paths {
    files: Vec<String>,
    /// Those in which names came or went.
    directories: BTreeSet<String>,
}

impl Touched {
    fn lock(&self) -> MutexGuard<'_, Paths> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a file's content changed.
    pub(super) fn file(&self, path: &str) {
        self.lock().files.push(path.to_owned());
    }

    /// Notes that a directory's names changed.
    pub(super) fn directory(&self, path: &str) {
        self.lock().directories.insert(path.to_owned());
    }

    /// Syncs everything noted until now.
    pub(super) fn sync(&self, beneath: &Beneath) -> io::Result<()> {
        let Paths { files, directories } = std::mem::take(&mut *self.lock());
        let work: Vec<&String> = files.iter().chain(&directories).collect();
        let share = work.len().div_ceil(THREADS).max(16);
        std::thread::scope(|scope| {
            let sync = |paths: &[&String]| paths.iter().try_for_each(|path| sync_one(beneath, path));
            let running: Vec<_> = work.chunks(share).map(|paths| scope.spawn(move || sync(paths))).collect();
            running.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a syncing thread ended early")))
            })
        })
    }
}

fn sync_one(beneath: &Beneath, path: &str) -> io::Result<()> {
    let opened = match path {
        "" => rustix::fs::openat(beneath.root(), ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()),
        path => beneath.open(path, OFlags::RDONLY, 0),
    };
    match opened {
        Ok(fd) => Ok(rustix::fs::fsync(&fd)?),
        // Discarded meanwhile, or a directory that another process took away.
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_gone_is_no_failure_and_what_cannot_be_synced_is() {
        let dir = tempfile::tempdir().unwrap();
        let beneath = Beneath::new(fs::File::open(dir.path()).unwrap().into());
        fs::create_dir(dir.path().join("a")).unwrap();
        let touched = Touched::default();
        for number in 0..100 {
            let path = format!("a/{number}");
            fs::write(dir.path().join(&path), "x").unwrap();
            touched.file(&path);
        }
        touched.file("a/gone");
        touched.directory("a");
        touched.directory("");
        touched.sync(&beneath).unwrap();
        // A file where a directory was: that names below it are safe can't be said any more.
        touched.file("a/7/below");
        assert!(touched.sync(&beneath).is_err());
        touched.sync(&beneath).unwrap();
    }
}
