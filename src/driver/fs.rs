//! A local directory.
//!
//! Modes follow the umask, as for any program: files are created with 0666 and directories with 0777 less the umask's bits.
//! A registry that runs as another user needs read access to the tree, which the common umask 022 grants. Only directories directly
//! below the root whose name starts with a dot are always private (0700).
//!
//! A barrier is one `syncfs(2)`. Where that can't be relied on (network and FUSE file systems), each file and directory
//! changed since the last barrier is synced by itself.
//!
//! The directory itself may be a symbolic link, and file systems may be mounted below it as long as `docker` and `.saver` are on
//! the same one. Symbolic links below it are rejected for writing and treated as absent for reading.

mod locked;

use super::confined::ConfinedRoot;
use super::dirty::{DirtyPaths, syncfs_is_trusted};
use super::fs_partial::{FsPartial, read_full};
use super::parent;
use super::{DirectoryEntry, Driver, EntryKind, FreeSpace, Partial, Stamp};
use locked::is_own_file;
use parking_lot::Mutex;
use rustix::fs::{Access, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Mode of new files, before the umask is applied.
const FILE_MODE: u32 = 0o666;
/// Mode of new directories, before the umask is applied.
const DIRECTORY_MODE: u32 = 0o777;
/// Mode of the directories that hold a program's own files.
const PRIVATE_MODE: u32 = 0o700;
/// How often an operation is retried when another process removes its directories concurrently.
const MAX_DIRECTORY_ATTEMPTS: usize = 8;
/// Maximum number of directories that are cached as existing.
const MAX_KNOWN_DIRECTORIES: usize = 1 << 16;

/// A directory of the local machine.
pub struct FsDriver {
    confined: ConfinedRoot,
    path: PathBuf,
    /// Directories that were seen to exist and not to be symbolic links.
    known: Mutex<HashSet<String>>,
    /// The stage area, locked for the lifetime of this driver.
    area: Mutex<Option<(OwnedFd, String)>>,
    /// What a barrier has to sync, if `syncfs` can't be relied on.
    dirty: Option<DirtyPaths>,
    /// Whether file attributes are always current. Network file systems cache them.
    has_current_attributes: bool,
}

/// Whether the error means that there is no regular file.
fn is_absent(error: Errno) -> bool {
    // LOOP and NOTDIR: a symbolic link or file in place of a directory; NXIO: a socket.
    matches!(
        error,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::NAMETOOLONG
    )
}

impl FsDriver {
    /// Opens the directory at `path`, creating it and its missing ancestors.
    ///
    /// # Errors
    /// The file system's error.
    pub fn create(path: &Path) -> io::Result<Self> {
        if let Err(error) = std::fs::metadata(path) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            std::fs::create_dir_all(path)?;
        }
        Self::open(path)
    }

    /// Opens the existing directory at `path`.
    ///
    /// # Errors
    /// The file system's error.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let is_local = syncfs_is_trusted(rustix::fs::fstatfs(&root)?.f_type as u64);
        Ok(Self {
            confined: ConfinedRoot::new(root),
            path: path.to_owned(),
            known: Mutex::default(),
            area: Mutex::default(),
            dirty: (!is_local).then(DirtyPaths::default),
            has_current_attributes: is_local,
        })
    }

    /// Makes barriers sync every file and directory by itself, as on a network file system.
    #[must_use]
    pub fn syncing_each_file(mut self) -> Self {
        self.dirty = Some(DirtyPaths::default());
        self
    }

    fn mark_file_dirty(&self, path: &str) {
        if let Some(dirty) = &self.dirty {
            dirty.file(path);
        }
    }

    fn mark_directory_dirty(&self, path: &str) {
        if let Some(dirty) = &self.dirty {
            dirty.directory(path);
        }
    }

    /// Creates the directory at `path` and its ancestors unless they exist. `remember` caches a directory that will be needed again.
    fn ensure(&self, path: &str, remember: bool) -> io::Result<()> {
        if path.is_empty() || self.known.lock().contains(path) {
            return Ok(());
        }
        self.ensure(parent(path), true)?;
        let mode = if is_private(path) { PRIVATE_MODE } else { DIRECTORY_MODE };
        match rustix::fs::mkdirat(self.confined.root(), path, Mode::from_raw_mode(mode)) {
            Ok(()) => self.mark_directory_dirty(parent(path)),
            Err(Errno::EXIST) => {
                match self.confined.open(path, OFlags::PATH | OFlags::DIRECTORY, 0) {
                    Ok(directory) if is_private(path) => self.make_private(&directory, path)?,
                    Ok(_) => {}
                    // The kernel reports a symbolic link as "not a directory"; the message should say which it is.
                    Err(Errno::NOTDIR) if self.is_symlink(path) => return Err(Errno::LOOP.into()),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
        if remember {
            let mut known = self.known.lock();
            if known.len() >= MAX_KNOWN_DIRECTORIES {
                known.clear();
            }
            known.insert(path.to_owned());
        }
        Ok(())
    }

    /// Takes away other users' access to a directory of internal files, which versions up to 0.1 created world-readable.
    fn make_private(&self, directory: &OwnedFd, path: &str) -> io::Result<()> {
        let found = rustix::fs::fstat(directory)?;
        if found.st_mode & 0o077 != 0 {
            let mode = Mode::from_raw_mode(found.st_mode & 0o7700);
            match rustix::fs::chmodat(self.confined.root(), path, mode, AtFlags::empty()) {
                // Only the owner may change it, and a read-only file system cannot be changed.
                Ok(()) | Err(Errno::PERM | Errno::ROFS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Creates the missing directories on the way to a file inside the stage area, which is private and so has no planted links.
    fn make_staged_directories(&self, path: &str) -> Result<(), Errno> {
        match rustix::fs::mkdirat(self.confined.root(), path, Mode::from_raw_mode(DIRECTORY_MODE)) {
            Ok(()) => self.mark_directory_dirty(parent(path)),
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) if !parent(path).is_empty() => {
                self.make_staged_directories(parent(path))?;
                return self.make_staged_directories(path);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn is_symlink(&self, path: &str) -> bool {
        let found = rustix::fs::statat(self.confined.root(), path, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink)
    }

    /// Runs `operation`, which creates directories that it needs. Retries it with an empty cache if another process removed one of
    /// them: several times, because that can happen between any two steps.
    fn with_directories<T>(&self, operation: impl Fn() -> io::Result<T>) -> io::Result<T> {
        for _ in 0..MAX_DIRECTORY_ATTEMPTS {
            match operation() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.known.lock().clear(),
                result => return result,
            }
        }
        operation()
    }

    /// The directory that contains `path` (`None` for the root) and the name of `path` in it.
    fn above<'p>(&self, path: &'p str) -> Result<(Option<OwnedFd>, &'p str), Errno> {
        let name = path.rsplit('/').next().unwrap_or(path);
        match parent(path) {
            "" => Ok((None, name)),
            above => Ok((Some(self.confined.open(above, OFlags::PATH | OFlags::DIRECTORY, 0)?), name)),
        }
    }

    fn open_file(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        // NONBLOCK: opening a planted FIFO must not hang.
        match self.confined.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, 0) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if is_absent(error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn new_file(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.confined.root(), path, flags, Mode::from_raw_mode(FILE_MODE))?.into())
    }
}

fn entry_kind(kind: FileType) -> EntryKind {
    match kind {
        FileType::Directory => EntryKind::Directory,
        FileType::RegularFile => EntryKind::File,
        _ => EntryKind::Other,
    }
}

/// Whether `path` is a directory of internal files: one directly below the root whose name starts with a dot.
fn is_private(path: &str) -> bool {
    path.starts_with('.') && path.len() > 1 && !path.contains('/')
}

impl Driver for FsDriver {
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(fd) = self.open_file(path)? else { return Ok(None) };
        let found = rustix::fs::fstat(&fd)?;
        let length = u64::try_from(found.st_size).unwrap_or(u64::MAX);
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || length > limit {
            return Ok(None);
        }
        let mut content = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let file = File::from(fd);
        let filled = read_full(&file, 0, &mut content)?;
        content.truncate(filled);
        Ok(Some(content))
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        let fd = match self.confined.open(path, OFlags::PATH, 0) {
            Ok(fd) => fd,
            Err(error) if is_absent(error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let found = rustix::fs::fstat(&fd)?;
        let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        Ok(regular.then_some(u64::try_from(found.st_size).unwrap_or(0)))
    }

    fn open(&self, path: &str) -> io::Result<Option<(File, u64)>> {
        let Some(fd) = self.open_file(path)? else { return Ok(None) };
        let found = rustix::fs::fstat(&fd)?;
        let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        Ok(regular.then(|| (File::from(fd), u64::try_from(found.st_size).unwrap_or(0))))
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirectoryEntry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = match path {
            "" => rustix::fs::openat(self.confined.root(), ".", flags | OFlags::CLOEXEC, Mode::empty()),
            path => self.confined.open(path, flags, 0),
        };
        let fd = match opened {
            Ok(fd) => fd,
            Err(error) if is_absent(error) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd)? {
            let entry = match entry {
                // The directory was removed after it was opened, so it was empty.
                Err(Errno::NOENT) => break,
                entry => entry?,
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not report the type.
                FileType::Unknown => match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(found) => FileType::from_raw_mode(found.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
                kind => kind,
            };
            entries
                .push(DirectoryEntry { name: name.to_string_lossy().into_owned(), kind: entry_kind(kind) });
        }
        Ok(entries)
    }

    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>> {
        let found = self.above(path).and_then(|(above, name)| {
            let above = above.as_ref().unwrap_or(self.confined.root());
            rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)
        });
        match found {
            Ok(found) => Ok(Some(entry_kind(FileType::from_raw_mode(found.st_mode)))),
            Err(error) if is_absent(error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn stamp(&self, path: &str) -> io::Result<Stamp> {
        if !self.has_current_attributes {
            return Ok(Stamp::Unknown);
        }
        let path = if path.is_empty() { "." } else { path };
        match rustix::fs::statat(self.confined.root(), path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Stamp::Present {
                file: (found.st_dev, found.st_ino),
                changed: (found.st_ctime, found.st_ctime_nsec.try_into().unwrap_or_default()),
                size: found.st_size,
            }),
            Err(error) if is_absent(error) => Ok(Stamp::Absent),
            Err(error) => Err(error.into()),
        }
    }

    fn is_remote(&self) -> bool {
        !self.has_current_attributes
    }

    fn owner(&self, path: &str) -> io::Result<Option<u32>> {
        let path = if path.is_empty() { "." } else { path };
        match rustix::fs::statat(self.confined.root(), path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found.st_uid)),
            Err(error) if is_absent(error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn check_writable(&self, path: &str) -> io::Result<()> {
        let path = if path.is_empty() { "." } else { path };
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        match rustix::fs::accessat(self.confined.root(), path, wanted, AtFlags::EACCESS) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.with_directories(|| self.ensure(path, true))
    }

    fn stage_area(&self, parent: &str) -> io::Result<String> {
        let mut area = self.area.lock();
        if let Some((_, path)) = &*area {
            return Ok(path.clone());
        }
        self.create_dir(parent)?;
        self.remove_dead_areas(parent)?;
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = format!("{parent}/{}-{count}-{:08x}", std::process::id(), fastrand::u32(..));
            // Another process that ends may remove the parent while it is empty.
            let fd = self.with_directories(|| {
                self.ensure(&path, true)?;
                Ok(self.confined.open(&path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?)
            })?;
            // Another process may have removed the area before it was locked.
            let is_locked = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok();
            if is_locked && self.confined.open(&path, OFlags::PATH | OFlags::DIRECTORY, 0).is_ok() {
                *area = Some((fd, path.clone()));
                return Ok(path);
            }
            self.known.lock().remove(&path);
        }
    }

    fn stage(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let file = match self.new_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_staged_directories(parent(path))?;
                // The new entry has to survive if the whole directory is published.
                self.mark_directory_dirty(parent(path));
                self.new_file(path)?
            }
            opened => opened?,
        };
        file.write_all_at(content, 0)?;
        self.mark_file_dirty(path);
        Ok(())
    }

    fn publish(&self, staged: &str, path: &str) -> io::Result<()> {
        let root = self.confined.root();
        self.with_directories(|| {
            self.ensure(parent(path), false)?;
            Ok(rustix::fs::renameat(root, staged, root, path)?)
        })?;
        self.mark_directory_dirty(parent(path));
        Ok(())
    }

    fn publish_dir(&self, staged: &str, path: &str) -> io::Result<()> {
        let root = self.confined.root();
        self.with_directories(|| {
            self.ensure(parent(path), true)?;
            match rustix::fs::renameat(root, staged, root, path) {
                Err(Errno::NOTDIR) if self.is_symlink(path) => Err(Errno::LOOP.into()),
                renamed => Ok(renamed?),
            }
        })?;
        self.mark_directory_dirty(parent(path));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let (directory, name) = match self.above(path) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let directory = directory.as_ref().unwrap_or(self.confined.root());
        let removed = match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                // Forget this directory and those below it.
                self.known.lock().clear();
                rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
            }
            answer => answer,
        };
        self.mark_directory_dirty(parent(path));
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn set_aside(&self, path: &str, to: &str) -> io::Result<()> {
        self.with_directories(|| self.ensure(parent(to), false))?;
        let (from, name) = self.above(path)?;
        let (into, new) = self.above(to)?;
        let root = self.confined.root();
        rustix::fs::renameat(from.as_ref().unwrap_or(root), name, into.as_ref().unwrap_or(root), new)?;
        self.known.lock().clear();
        self.mark_directory_dirty(parent(path));
        self.mark_directory_dirty(parent(to));
        Ok(())
    }

    fn partial(&self, path: &str, size: u64) -> io::Result<Option<Box<dyn Partial>>> {
        loop {
            let Some((fd, found)) = self.open_locked(path)? else { return Ok(None) };
            let length = u64::try_from(found.st_size).unwrap_or(0);
            if length > size || !is_own_file(&found) {
                self.remove(path)?;
                continue;
            }
            let partial = FsPartial::new(fd.into(), path.to_owned(), length, size, self.dirty.clone());
            return Ok(Some(Box::new(partial)));
        }
    }

    fn log(&self, path: &str) -> io::Result<Option<Box<dyn Partial>>> {
        let Some((fd, found)) = self.open_locked(path)?.filter(|(_, found)| is_own_file(found)) else {
            return Ok(None);
        };
        let length = u64::try_from(found.st_size).unwrap_or(0);
        if let Some(dirty) = &self.dirty {
            dirty.directory(parent(path));
        }
        Ok(Some(Box::new(FsPartial::growing(fd.into(), path.to_owned(), length, self.dirty.clone()))))
    }

    fn barrier(&self) -> io::Result<()> {
        match &self.dirty {
            None => Ok(rustix::fs::syncfs(self.confined.root())?),
            Some(dirty) => dirty.sync(&self.confined),
        }
    }

    fn lock_file(&self, path: &str) -> io::Result<Option<File>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.with_directories(|| {
            self.ensure(parent(path), true)?;
            Ok(self.confined.open(path, flags, FILE_MODE)?)
        })?;
        Ok(Some(fd.into()))
    }

    fn free_space(&self) -> io::Result<Option<FreeSpace>> {
        let found = rustix::fs::fstatvfs(self.confined.root())?;
        let inodes = (found.f_files, found.f_favail);
        Ok(FreeSpace::from_counts(found.f_blocks, found.f_bavail, found.f_frsize, inodes))
    }

    fn location(&self, path: &str) -> String {
        self.path.join(path).display().to_string()
    }
}

impl FsDriver {
    /// Removes stage areas of terminated processes, which are those that can be locked.
    fn remove_dead_areas(&self, parent: &str) -> io::Result<()> {
        for entry in self.list(parent)? {
            let area = format!("{parent}/{}", entry.name);
            if entry.kind != EntryKind::Directory {
                continue;
            }
            let Ok(fd) = self.confined.open(&area, OFlags::RDONLY | OFlags::DIRECTORY, 0) else { continue };
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            self.remove_all(&area)?;
        }
        Ok(())
    }
}

impl Drop for FsDriver {
    fn drop(&mut self) {
        if let Some((_, path)) = self.area.lock().take() {
            // If this fails, the next process removes the area.
            let _ = rustix::fs::unlinkat(self.confined.root(), path, AtFlags::REMOVEDIR);
        }
    }
}
