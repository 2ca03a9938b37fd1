//! The storage medium below a tree or an image layout.
//!
//! A driver stores files under relative paths. Every caller relies on four guarantees:
//!
//! - *A name is complete or absent.* [`Driver::publish`] atomically moves a staged file to its final path and replaces what
//!   was there; [`Driver::publish_dir`] does the same for a directory. Nothing else ever writes to a final path.
//! - *A barrier separates before from after.* When [`Driver::barrier`] returns, everything written, staged and published before the
//!   call is on stable storage. Between two barriers, a power loss may keep any subset of the changes, in any order.
//! - *No path leaves the directory.* Anything below the root may have been planted, so no symbolic link below it is followed,
//!   neither for reading nor for writing.
//! - *Internal files are private.* A directory directly below the root whose name starts with a dot is accessible to its owner
//!   only, where the medium has permissions. Other users could otherwise lock the files in it.
//!
//! Methods block for about as long as a local file system does; only [`Driver::barrier`] may take seconds. Errors are those of
//! the operating system; the caller adds what it was doing.

mod confined;
mod dirty;
mod extents;
mod free_space;
pub mod fs;
mod fs_partial;
pub mod memory;
pub(crate) mod resumable;

use std::fs::File;
use std::io;
use std::ops::Range;

pub use free_space::FreeSpace;
pub use fs::FsDriver;
pub use memory::MemoryDriver;

/// A storage medium. The module documentation is the contract.
pub trait Driver: Send + Sync + 'static {
    /// Reads the file at `path`. Returns `None` if there is no regular file or if it is longer than `limit` bytes.
    ///
    /// # Errors
    /// Any failure except absence.
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>>;

    /// The length of the file at `path` in bytes, or `None` if there is no regular file.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn size(&self, path: &str) -> io::Result<Option<u64>>;

    /// Opens the file at `path` for reading and returns it with its length, or `None` if there is no regular file.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn open(&self, path: &str) -> io::Result<Option<(File, u64)>>;

    /// The entries of the directory at `path`, unordered. Empty if there is no such directory.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn list(&self, path: &str) -> io::Result<Vec<DirectoryEntry>>;

    /// The type of the entry at `path`, or `None` if there is none or a symbolic link is on the way to it.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>>;

    /// The state of the entry at `path`, to be compared with its state at another time. May follow symbolic links on the way.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn stamp(&self, _path: &str) -> io::Result<Stamp> {
        Ok(Stamp::Unknown)
    }

    /// Whether operations go over a network, so that even a look-up may block for long.
    fn is_remote(&self) -> bool {
        false
    }

    /// The user ID that owns the entry at `path`, or `None` if that is unknown.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn owner(&self, _path: &str) -> io::Result<Option<u32>> {
        Ok(None)
    }

    /// Checks that entries can be created in the directory at `path`, without creating one. A missing directory is not an error.
    ///
    /// # Errors
    /// The error that creating an entry would return, as far as that can be known.
    fn check_writable(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    /// Creates the directory at `path` and its missing ancestors.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// Creates a directory below `parent` for files that this driver stages. Areas of terminated processes are removed.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn stage_area(&self, parent: &str) -> io::Result<String>;

    /// Writes a new small file at `path`, which is inside this driver's stage area. Creates missing directories.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn stage(&self, path: &str, content: &[u8]) -> io::Result<()>;

    /// Atomically moves the file at `staged` to `path` and replaces a file there. Creates missing directories.
    ///
    /// # Errors
    /// As for [`read`](Self::read); `NotFound` if `staged` does not exist (any more).
    fn publish(&self, staged: &str, path: &str) -> io::Result<()>;

    /// Atomically moves the directory at `staged` to `path`, where nothing or an empty directory may be. Creates missing directories.
    ///
    /// # Errors
    /// As for [`read`](Self::read); `DirectoryNotEmpty` or `AlreadyExists` if there is a directory with entries at `path`, and
    /// `NotFound` if `staged` does not exist.
    fn publish_dir(&self, staged: &str, path: &str) -> io::Result<()>;

    /// Removes the file or empty directory at `path`. Its absence is not an error.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Removes the entry at `path` and everything below it. Its absence is not an error.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn remove_all(&self, path: &str) -> io::Result<()> {
        // An explicit stack, since the depth of a planted directory is not bounded.
        let mut pending = vec![(path.to_owned(), false)];
        while let Some((path, is_empty)) = pending.pop() {
            if is_empty {
                self.remove(&path)?;
                continue;
            }
            let entries = self.list(&path)?;
            pending.push((path.clone(), true));
            for entry in entries {
                let child = format!("{path}/{}", entry.name);
                if entry.kind == EntryKind::Directory {
                    pending.push((child, false));
                } else {
                    self.remove(&child)?;
                }
            }
        }
        Ok(())
    }

    /// Moves the entry at `path`, whatever its type, to `to`. Creates missing directories.
    ///
    /// # Errors
    /// As for [`read`](Self::read); `NotFound` if there is nothing at `path`.
    fn set_aside(&self, path: &str, to: &str) -> io::Result<()>;

    /// Opens or creates the file at `path` that receives a blob of `size` bytes, exclusively. Returns `None` while another writer,
    /// in this process or another, has it open.
    ///
    /// # Errors
    /// As for [`read`](Self::read). A medium that already knows that `size` bytes do not fit says so here.
    fn partial(&self, path: &str, size: u64) -> io::Result<Option<Box<dyn Partial>>>;

    /// Opens or creates the file at `path`, exclusively, for adding to its end. What it holds stays. Returns `None` while another
    /// writer has it open, and for a file that must not be written to.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn log(&self, path: &str) -> io::Result<Option<Box<dyn Partial>>> {
        self.partial(path, u64::MAX)
    }

    /// Waits until everything done before is on stable storage.
    ///
    /// # Errors
    /// As for [`read`](Self::read). After an error, nothing done since the last successful barrier can be relied on.
    fn barrier(&self) -> io::Result<()>;

    /// Opens the lock file at `path` and creates it if it is missing. Returns `None` if no other process can access this medium.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn lock_file(&self, path: &str) -> io::Result<Option<File>>;

    /// The space left on the medium, or `None` if it does not say.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn free_space(&self) -> io::Result<Option<FreeSpace>>;

    /// The name of the entry at `path` for messages.
    fn location(&self, path: &str) -> String;
}

/// A blob that is being received. Its one writer holds it until it is dropped; bytes may be written at any offset, from several threads.
pub trait Partial: Send + Sync {
    /// The length of the file when it was opened.
    fn length(&self) -> u64;

    /// The ranges that had been written when the file was opened, as far as the medium can tell: in order, disjoint and
    /// complete, but off by a few blocks at the borders of holes. A medium without holes returns the whole length.
    ///
    /// # Errors
    /// The medium's error.
    fn extents(&self) -> io::Result<Vec<Range<u64>>> {
        Ok(std::iter::once(0..self.length()).collect())
    }

    /// Turns `range` into a hole, which [`extents`](Self::extents) leaves out the next time. For files that will not be published.
    ///
    /// # Errors
    /// `Unsupported` if the medium has no holes.
    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let _ = range;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The medium's error.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads into `buffer` from `offset` until it is full or the file ends. Returns the number of bytes read.
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at).
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Marks the file as complete: the next barrier covers it.
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at).
    fn finish(&self) -> io::Result<()>;

    /// Truncates the file to `length` bytes. For files that will not be published.
    ///
    /// # Errors
    /// As for [`write_at`](Self::write_at).
    fn truncate(&self, length: u64) -> io::Result<()>;
}

/// The state of an entry at one moment. Two equal stamps mean that it did not change, unless they are `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stamp {
    /// The medium cannot tell; the entry has to be read again.
    Unknown,
    /// There is no entry.
    Absent,
    /// There is an entry.
    Present {
        /// Device and inode.
        file: (u64, u64),
        /// Time of the last change of any kind (ctime), which no program can set: seconds and nanoseconds since 1970.
        changed: (i64, i64),
        /// Length in bytes.
        size: i64,
    },
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectoryEntry {
    /// The name. Names that are not UTF-8 contain replacement characters.
    pub name: String,
    /// The type.
    pub kind: EntryKind,
}

/// The type of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Anything else, such as a symbolic link or a FIFO. None of these belongs in a tree.
    Other,
}

/// The path without its last component; empty for a single component.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_types_and_can_be_set_aside() {
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
    fn stage_area_survives_concurrent_removal_of_its_parent() {
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

    #[test]
    fn staged_directory_is_published_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let fs = FsDriver::create(dir.path()).unwrap();
        let memory = MemoryDriver::new();
        let drivers: [&dyn Driver; 2] = [&fs, &memory];
        for driver in drivers {
            let area = driver.stage_area(".own/stage").unwrap();
            let stage = |number: u8, content: &[u8]| {
                let staged = format!("{area}/{number}");
                driver.stage(&format!("{staged}/deep/er/file"), content).unwrap();
                driver.stage(&format!("{staged}/file"), content).unwrap();
                staged
            };
            driver.publish_dir(&stage(1, b"one"), "a/b/tag").unwrap();
            assert_eq!(driver.read("a/b/tag/deep/er/file", 9).unwrap().as_deref(), Some(&b"one"[..]));
            let second = stage(2, b"two");
            let error = driver.publish_dir(&second, "a/b/tag").unwrap_err();
            let is_taken =
                matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists);
            assert!(is_taken, "{error}");
            assert_eq!(driver.read("a/b/tag/file", 9).unwrap().as_deref(), Some(&b"one"[..]));
            driver.create_dir("a/b/empty").unwrap();
            driver.publish_dir(&second, "a/b/empty").unwrap();
            assert_eq!(driver.read("a/b/empty/file", 9).unwrap().as_deref(), Some(&b"two"[..]));
            let missing = driver.publish_dir(&second, "a/b/other").unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
            driver.remove_all("a").unwrap();
            assert_eq!(driver.kind("a").unwrap(), None);
        }
        std::os::unix::fs::symlink("elsewhere", dir.path().join("link")).unwrap();
        fs.stage(&format!("{}/3/file", fs.stage_area(".own/stage").unwrap()), b"x").unwrap();
        let staged = format!("{}/3", fs.stage_area(".own/stage").unwrap());
        let error = fs.publish_dir(&staged, "link").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{error}");
    }

    #[test]
    fn internal_directory_is_private_to_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join(".own");
        let mode = || own.metadata().unwrap().permissions().mode() & 0o777;
        for existing_mode in [None, Some(0o755), Some(0o700)] {
            if let Some(existing_mode) = existing_mode {
                std::fs::set_permissions(&own, std::fs::Permissions::from_mode(existing_mode)).unwrap();
            }
            FsDriver::create(dir.path()).unwrap().create_dir(".own/stage").unwrap();
            assert_eq!(mode(), 0o700, "from {existing_mode:?}");
        }
    }
}
