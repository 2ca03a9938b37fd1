//! Files with one writer at a time.

use super::super::parent;
use super::{FILE_MODE, FsDriver};
use rustix::fs::{AtFlags, FileType, FlockOperation, OFlags, Stat};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;

impl FsDriver {
    /// Opens or creates the file at `path` and locks it. Returns `None` if another writer has the lock.
    pub(super) fn open_locked(&self, path: &str) -> io::Result<Option<(OwnedFd, Stat)>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        loop {
            let fd = self.with_directories(|| {
                self.ensure(parent(path), true)?;
                Ok(self.confined.open(path, flags, FILE_MODE)?)
            })?;
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let found = rustix::fs::fstat(&fd)?;
            // The previous holder of the lock may have published or discarded this file; then it must not be written to.
            match rustix::fs::statat(self.confined.root(), path, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if (named.st_dev, named.st_ino) == (found.st_dev, found.st_ino) => {
                    return Ok(Some((fd, found)));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether only this name leads to the file: writes to a file with a second hard link would be visible under that name.
pub(super) fn is_own_file(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_nlink == 1
}
