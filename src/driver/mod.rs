//! The medium that holds files: what a tree and a layout need of it.
//!
//! A driver stores files under relative paths. Three promises make the tree safe:
//!
//! - *A name is whole or absent.* [`Driver::publish`] makes a staged file appear under its final path
//!   at once, in place of what was there; nothing else ever writes a final path.
//! - *A barrier divides time.* When [`Driver::barrier`] returns, everything written, staged and published before it was
//!   called is on stable storage. Between two barriers nothing is promised about what a power loss keeps, nor about the order.
//! - *No path leaves the directory.* What stands under a driver's directory may have been planted: no symbolic link below it
//!   is followed, whether reading or writing.
//!
//! Methods block, but only as long as a local file system takes; [`Driver::barrier`] may take seconds and is
//! called from a thread that may wait. Errors are the operating system's; the caller adds what it was doing.

mod confined;
mod dirty;
mod extents;
pub mod fs;
mod fs_partial;
pub mod memory;
pub(crate) mod resumable;

use std::fs::File;
use std::io;
use std::ops::Range;

pub use fs::FsDriver;
pub use memory::MemoryDriver;

/// A medium. The module's documentation is the contract.
pub trait Driver: Send + Sync + 'static {
    /// The whole content of the file at `path`. None when there is no regular file or it has more than `limit` bytes.
    ///
    /// # Errors
    /// What the medium says, but for absence.
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>>;

    /// The length of the file at `path`; none when there is no regular file.
    ///
    /// # Errors
    /// As `read`.
    fn size(&self, path: &str) -> io::Result<Option<u64>>;

    /// Opens the file at `path` for reading, with its length; none when there is no regular file.
    ///
    /// # Errors
    /// As `read`.
    fn open(&self, path: &str) -> io::Result<Option<(File, u64)>>;

    /// What stands in the directory at `path`, in no order; nothing when there is no such directory.
    ///
    /// # Errors
    /// As `read`.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>>;

    /// What stands at `path`; none when nothing does, or a symbolic link is on the way there.
    ///
    /// # Errors
    /// As `read`.
    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>>;

    /// What tells whether the file or directory at `path` is as it was: taken before reading it, and compared with one taken later. Only
    /// compared, so symbolic links on the way may be followed.
    ///
    /// # Errors
    /// As `read`.
    fn stamp(&self, _path: &str) -> io::Result<Stamp> {
        Ok(Stamp::Unknown)
    }

    /// Whether names may be made in the directory at `path`, as far as that is known without making one; that there is none is no error.
    ///
    /// # Errors
    /// As `read`; what the medium would say.
    fn check_writable(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    /// Makes the directory at `path` and those above it, where they are missing.
    ///
    /// # Errors
    /// As `read`.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// A directory under `parent` for this driver's staged files alone; areas that dead processes left are removed.
    ///
    /// # Errors
    /// As `read`.
    fn stage_area(&self, parent: &str) -> io::Result<String>;

    /// Writes a small file at `path`, which is in this driver's stage area and names nothing yet.
    ///
    /// # Errors
    /// As `read`.
    fn stage(&self, path: &str, content: &[u8]) -> io::Result<()>;

    /// Gives the file at `staged` the name `path` instead, whole or not at all, replacing a file there; makes missing directories.
    ///
    /// # Errors
    /// As `read`; `NotFound` when `staged` names nothing (any more).
    fn publish(&self, staged: &str, path: &str) -> io::Result<()>;

    /// Removes the file or empty directory at `path`; that there is none is no error.
    ///
    /// # Errors
    /// As `read`.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Gives whatever stands at `path`, a symbolic link itself included, the name `to` instead; makes missing directories.
    ///
    /// # Errors
    /// As `read`; `NotFound` when nothing stands at `path`.
    fn set_aside(&self, path: &str, to: &str) -> io::Result<()>;

    /// Opens, or begins, the file at `path` that takes a blob of `size` bytes, for one writer alone. None while another
    /// writer has it, in this process or another.
    ///
    /// # Errors
    /// As `read`; a medium that knows that `size` bytes will not fit says so now.
    fn partial(&self, path: &str, size: u64) -> io::Result<Option<Box<dyn Partial>>>;

    /// Waits until everything done before is on stable storage.
    ///
    /// # Errors
    /// As `read`. After an error nothing may be believed of what was not behind an earlier barrier.
    fn barrier(&self) -> io::Result<()>;

    /// Opens the file that processes lock, made if missing; none when no other process can reach this medium.
    ///
    /// # Errors
    /// As `read`.
    fn lock_file(&self, path: &str) -> io::Result<Option<File>>;

    /// How much more fits.
    ///
    /// # Errors
    /// As `read`.
    fn free_space(&self) -> io::Result<FreeSpace>;

    /// How messages call the file at `path`.
    fn location(&self, path: &str) -> String;
}

/// A blob being received. One writer has it until it is dropped; bytes go to any offset, from several threads.
pub trait Partial: Send + Sync {
    /// The file's length when it was opened.
    fn length(&self) -> u64;

    /// What had been written to the file when it was opened, as far as the medium can tell: in order, disjoint, and nothing left
    /// out in between. May be wrong by some blocks at the borders of holes. A medium that knows of no holes answers the whole length.
    ///
    /// # Errors
    /// What the medium says.
    fn extents(&self) -> io::Result<Vec<Range<u64>>> {
        Ok(std::iter::once(0..self.length()).collect())
    }

    /// Makes a hole of `range`, which [`extents`](Self::extents) will not count the next time. Only for a file that is not to be published.
    ///
    /// # Errors
    /// `Unsupported` where the medium knows of no holes.
    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let _ = range;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the medium says.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads into `buffer` from `offset` until it is full or the file ends; answers how many bytes there were.
    ///
    /// # Errors
    /// As `write_at`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Says that all is written: the next barrier covers it.
    ///
    /// # Errors
    /// As `write_at`.
    fn finish(&self) -> io::Result<()>;

    /// Cuts the file to `length` bytes. Only for a file that is not to be published.
    ///
    /// # Errors
    /// As `write_at`.
    fn truncate(&self, length: u64) -> io::Result<()>;
}

/// What a file or directory was like at one moment, as far as it shows whether it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stamp {
    /// The medium can't tell: what was read is to be read again.
    Unknown,
    /// Nothing stands there.
    Absent,
    /// Something does.
    Seen {
        /// Which file system and file it is.
        file: (u64, u64),
        /// When it was last changed in any way, its name included: seconds and nanoseconds since 1970. No program can set it.
        changed: (i64, i64),
        /// Its length in bytes.
        size: i64,
    },
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name. Names that are not UTF-8 are shown with replacement characters.
    pub name: String,
    /// What it names.
    pub kind: EntryKind,
}

/// What a name in a directory names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Anything else: a symbolic link, a pipe. Nothing that belongs in the tree.
    Other,
}

/// The path without its last component; empty for a single component.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Room that is left on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes that an unprivileged writer may still use.
    pub bytes: u64,
    /// Bytes of the whole file system.
    pub total: u64,
    /// Files that may still be made; none where the file system has no such bound.
    pub inodes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_there_is_known_and_can_be_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join("below")).unwrap();
        let fs = FsDriver::create(dir.path()).unwrap();
        let memory = MemoryDriver::new();
        let drivers: [&dyn Driver; 2] = [&fs, &memory];
        for driver in drivers {
            let area = driver.stage_area("stage").unwrap();
            driver.stage(&format!("{area}/1"), b"x").unwrap();
            driver.publish(&format!("{area}/1"), "a/b/c").unwrap();
            for (path, kind) in [
                ("a", Some(EntryKind::Directory)),
                ("a/b", Some(EntryKind::Directory)),
                ("a/b/c", Some(EntryKind::File)),
                ("a/b/d", None),
                ("a/b/c/d", None),
            ] {
                assert_eq!(driver.kind(path).unwrap(), kind, "{path}");
            }
            driver.set_aside("a/b", "away/a/b").unwrap();
            assert_eq!(driver.read("away/a/b/c", 9).unwrap().as_deref(), Some(&b"x"[..]));
            assert_eq!(driver.kind("a/b").unwrap(), None);
            assert_eq!(driver.set_aside("a/b", "x").unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        assert_eq!(fs.kind("link").unwrap(), Some(EntryKind::Other));
        assert_eq!(fs.kind("link/below").unwrap(), None);
        assert!(fs.set_aside("link/below", "taken").is_err());
        fs.set_aside("link", "away/link").unwrap();
        assert!(outside.path().join("below").exists());
        assert_eq!(fs.kind("away/link").unwrap(), Some(EntryKind::Other));
    }

    #[test]
    fn a_stage_area_is_made_though_whoever_ends_takes_the_empty_parent_away() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = std::fs::remove_dir(dir.path().join("stage"));
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            let made = (0..2000)
                .try_for_each(|_| FsDriver::create(dir.path()).unwrap().stage_area("stage").map(drop));
            over.store(true, Ordering::Relaxed);
            made.unwrap();
        });
    }
}
