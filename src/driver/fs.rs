//! A local directory.
//!
//! Files get mode 0644 and directories 0755 whatever the umask is, so that a registry running as another user can read
//! the tree: each is looked at when it is made, and changed where the umask (or a default ACL) took bits away.
//!
//! Barriers are one `syncfs(2)`. Where that can't be relied on (network and FUSE file systems) each
//! file and directory touched since the last barrier is synced by itself.
//!
//! The directory itself may be a symbolic link, and file systems may be mounted below it (as long as `docker` and
//! `.saver` share one); symbolic links below it are refused on writing and read as absent.

use super::confined::Beneath;
use super::dirty::{Touched, syncfs_is_trusted};
use super::fs_partial::{FsPartial, read_full};
use super::parent;
use super::{Driver, Entry, EntryKind, FreeSpace, Partial, Stamp};
use rustix::fs::{Access, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
/// How often directories that others remove meanwhile are made again.
const DIRECTORY_TRIES: usize = 8;
/// How many directories are remembered as known to exist.
const KNOWN_DIRECTORIES: usize = 1 << 16;

/// A directory of the local machine.
pub struct FsDriver {
    beneath: Beneath,
    path: PathBuf,
    /// Directories seen to be there, and to be no symbolic links.
    known: Mutex<HashSet<String>>,
    /// Kept locked as long as this process lives: its stage area.
    area: Mutex<Option<(OwnedFd, String)>>,
    /// What a barrier has to sync, where `syncfs` is not to be relied on.
    touched: Option<Touched>,
    /// Whether what the kernel says of a file is never older than the file: not where it asks a server and keeps the answer.
    local: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the error says that no regular file is there to be read.
fn is_absent(error: Errno) -> bool {
    // LOOP and NOTDIR: a symbolic link or file stands where a directory should; NXIO: a socket.
    matches!(
        error,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::NAMETOOLONG
    )
}

impl FsDriver {
    /// Opens `path`, making the directory and those above it where they are missing.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(path: &Path) -> io::Result<Self> {
        if let Err(error) = std::fs::metadata(path) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            std::fs::create_dir_all(path)?;
            let found = rustix::fs::stat(path)?;
            if found.st_mode & 0o777 != DIRECTORY_MODE {
                rustix::fs::chmod(path, Mode::from_raw_mode((found.st_mode & 0o7000) | DIRECTORY_MODE))?;
            }
        }
        Self::open(path)
    }

    /// Opens `path`, which must be there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let trusted = syncfs_is_trusted(rustix::fs::fstatfs(&root)?.f_type as u64);
        Ok(Self {
            beneath: Beneath::new(root),
            path: path.to_owned(),
            known: Mutex::default(),
            area: Mutex::default(),
            touched: (!trusted).then(Touched::default),
            local: trusted,
        })
    }

    /// The same directory with every file and directory synced by itself.
    #[must_use]
    pub fn syncing_each_file(mut self) -> Self {
        self.touched = Some(Touched::default());
        self
    }

    fn touch_file(&self, path: &str) {
        if let Some(touched) = &self.touched {
            touched.file(path);
        }
    }

    fn touch_directory(&self, path: &str) {
        if let Some(touched) = &self.touched {
            touched.directory(path);
        }
    }

    /// Sees to it that `path` is a directory; `remember` it if it will be asked for again.
    fn ensure(&self, path: &str, remember: bool) -> io::Result<()> {
        if path.is_empty() || lock(&self.known).contains(path) {
            return Ok(());
        }
        self.ensure(parent(path), true)?;
        let root = self.beneath.root();
        match rustix::fs::mkdirat(root, path, Mode::from_raw_mode(DIRECTORY_MODE)) {
            Ok(()) => {
                let found = rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW)?;
                if found.st_mode & 0o777 != DIRECTORY_MODE {
                    let mode = (found.st_mode & 0o7000) | DIRECTORY_MODE;
                    rustix::fs::chmodat(root, path, Mode::from_raw_mode(mode), AtFlags::empty())?;
                }
                self.touch_directory(parent(path));
            }
            Err(Errno::EXIST) => {
                match self.beneath.open(path, OFlags::PATH | OFlags::DIRECTORY, 0) {
                    Ok(_) => {}
                    // The kernel calls a symbolic link no directory too; a person wants to know which it is.
                    Err(Errno::NOTDIR) if self.is_symlink(path) => return Err(Errno::LOOP.into()),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
        if remember {
            let mut known = lock(&self.known);
            if known.len() >= KNOWN_DIRECTORIES {
                known.clear();
            }
            known.insert(path.to_owned());
        }
        Ok(())
    }

    fn is_symlink(&self, path: &str) -> bool {
        let found = rustix::fs::statat(self.beneath.root(), path, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink)
    }

    /// Runs `act`, which needs directories to be there; again after forgetting what was known, should another process have
    /// removed one since, and a few times, for it can do so between two steps of `act`.
    fn with_directories<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        for _ in 0..DIRECTORY_TRIES {
            match act() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => lock(&self.known).clear(),
                answer => return answer,
            }
        }
        act()
    }

    /// The directory that `path` stands in (none is the root) and its name there.
    fn above<'p>(&self, path: &'p str) -> Result<(Option<OwnedFd>, &'p str), Errno> {
        let name = path.rsplit('/').next().unwrap_or(path);
        match parent(path) {
            "" => Ok((None, name)),
            above => Ok((Some(self.beneath.open(above, OFlags::PATH | OFlags::DIRECTORY, 0)?), name)),
        }
    }

    fn open_file(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        // NONBLOCK: opening a planted pipe must not hang.
        match self.beneath.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, 0) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if is_absent(error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn new_file(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.beneath.root(), path, flags, Mode::from_raw_mode(FILE_MODE))?;
        set_file_mode(&fd, rustix::fs::fstat(&fd)?.st_mode)?;
        Ok(fd.into())
    }
}

fn entry_kind(kind: FileType) -> EntryKind {
    match kind {
        FileType::Directory => EntryKind::Directory,
        FileType::RegularFile => EntryKind::File,
        _ => EntryKind::Other,
    }
}

fn set_file_mode(fd: impl AsFd, found: u32) -> io::Result<()> {
    if found & 0o777 != FILE_MODE {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(FILE_MODE))?;
    }
    Ok(())
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
        let fd = match self.beneath.open(path, OFlags::PATH, 0) {
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

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = match path {
            "" => rustix::fs::openat(self.beneath.root(), ".", flags | OFlags::CLOEXEC, Mode::empty()),
            path => self.beneath.open(path, flags, 0),
        };
        let fd = match opened {
            Ok(fd) => fd,
            Err(error) if is_absent(error) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd)? {
            let entry = match entry {
                // It was taken away after it was opened, so it was empty.
                Err(Errno::NOENT) => break,
                entry => entry?,
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems leave the type out.
                FileType::Unknown => match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(found) => FileType::from_raw_mode(found.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
                kind => kind,
            };
            entries.push(Entry { name: name.to_string_lossy().into_owned(), kind: entry_kind(kind) });
        }
        Ok(entries)
    }

    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>> {
        let found = self.above(path).and_then(|(above, name)| {
            let above = above.as_ref().unwrap_or(self.beneath.root());
            rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)
        });
        match found {
            Ok(found) => Ok(Some(entry_kind(FileType::from_raw_mode(found.st_mode)))),
            Err(error) if is_absent(error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn stamp(&self, path: &str) -> io::Result<Stamp> {
        if !self.local {
            return Ok(Stamp::Unknown);
        }
        let path = if path.is_empty() { "." } else { path };
        match rustix::fs::statat(self.beneath.root(), path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Stamp::Seen {
                file: (found.st_dev, found.st_ino),
                changed: (found.st_ctime, found.st_ctime_nsec.try_into().unwrap_or_default()),
                size: found.st_size,
            }),
            Err(error) if is_absent(error) => Ok(Stamp::Absent),
            Err(error) => Err(error.into()),
        }
    }

    fn check_writable(&self, path: &str) -> io::Result<()> {
        let path = if path.is_empty() { "." } else { path };
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        match rustix::fs::accessat(self.beneath.root(), path, wanted, AtFlags::EACCESS) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.with_directories(|| self.ensure(path, true))
    }

    fn stage_area(&self, parent: &str) -> io::Result<String> {
        let mut area = lock(&self.area);
        if let Some((_, path)) = &*area {
            return Ok(path.clone());
        }
        self.create_dir(parent)?;
        self.remove_dead_areas(parent)?;
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = format!("{parent}/{}-{count}-{:08x}", std::process::id(), fastrand::u32(..));
            // Whoever ends just now may take the parent away, which is empty until then.
            let fd = self.with_directories(|| {
                self.ensure(&path, true)?;
                Ok(self.beneath.open(&path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?)
            })?;
            // A process that cleans up may have taken it away before it was locked.
            let held = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok();
            if held && self.beneath.open(&path, OFlags::PATH | OFlags::DIRECTORY, 0).is_ok() {
                *area = Some((fd, path.clone()));
                return Ok(path);
            }
            lock(&self.known).remove(&path);
        }
    }

    fn stage(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let file = self.new_file(path)?;
        file.write_all_at(content, 0)?;
        self.touch_file(path);
        Ok(())
    }

    fn publish(&self, staged: &str, path: &str) -> io::Result<()> {
        let root = self.beneath.root();
        self.with_directories(|| {
            self.ensure(parent(path), false)?;
            Ok(rustix::fs::renameat(root, staged, root, path)?)
        })?;
        self.touch_directory(parent(path));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let (directory, name) = match self.above(path) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let directory = directory.as_ref().unwrap_or(self.beneath.root());
        let removed = match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                // This directory, and what was known of those below it.
                lock(&self.known).clear();
                rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
            }
            answer => answer,
        };
        self.touch_directory(parent(path));
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn set_aside(&self, path: &str, to: &str) -> io::Result<()> {
        self.with_directories(|| self.ensure(parent(to), false))?;
        let (from, name) = self.above(path)?;
        let (into, new) = self.above(to)?;
        let root = self.beneath.root();
        rustix::fs::renameat(from.as_ref().unwrap_or(root), name, into.as_ref().unwrap_or(root), new)?;
        lock(&self.known).clear();
        self.touch_directory(parent(path));
        self.touch_directory(parent(to));
        Ok(())
    }

    fn partial(&self, path: &str, size: u64) -> io::Result<Option<Box<dyn Partial>>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        loop {
            let fd = self.with_directories(|| {
                self.ensure(parent(path), true)?;
                Ok(self.beneath.open(path, flags, FILE_MODE)?)
            })?;
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let found = rustix::fs::fstat(&fd)?;
            // Whoever held the lock may have published or discarded this very file, and it must not be written to any more.
            let named = match rustix::fs::statat(self.beneath.root(), path, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) => (named.st_dev, named.st_ino) == (found.st_dev, found.st_ino),
                Err(Errno::NOENT) => false,
                Err(error) => return Err(error.into()),
            };
            if !named {
                continue;
            }
            let length = u64::try_from(found.st_size).unwrap_or(0);
            // A second name would make what is written here visible elsewhere.
            if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile
                || length > size
                || found.st_nlink != 1
            {
                self.remove(path)?;
                continue;
            }
            set_file_mode(&fd, found.st_mode)?;
            let touched = self.touched.clone();
            return Ok(Some(Box::new(FsPartial::new(fd.into(), path.to_owned(), length, size, touched))));
        }
    }

    fn barrier(&self) -> io::Result<()> {
        match &self.touched {
            None => Ok(rustix::fs::syncfs(self.beneath.root())?),
            Some(touched) => touched.sync(&self.beneath),
        }
    }

    fn lock_file(&self, path: &str) -> io::Result<Option<File>> {
        // A reader's file system may be read-only: then an existing lock is opened, and none made.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.with_directories(|| {
            self.ensure(parent(path), true)?;
            Ok(self.beneath.open(path, flags, FILE_MODE)?)
        })?;
        set_file_mode(&fd, rustix::fs::fstat(&fd)?.st_mode)?;
        Ok(Some(fd.into()))
    }

    fn free_space(&self) -> io::Result<FreeSpace> {
        let found = rustix::fs::fstatvfs(self.beneath.root())?;
        Ok(FreeSpace {
            bytes: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
            inodes: (found.f_files > 0).then_some(found.f_favail),
        })
    }

    fn location(&self, path: &str) -> String {
        self.path.join(path).display().to_string()
    }
}

impl FsDriver {
    /// Removes stage areas whose process is gone: their lock can be had.
    fn remove_dead_areas(&self, parent: &str) -> io::Result<()> {
        for entry in self.list(parent)? {
            let area = format!("{parent}/{}", entry.name);
            if entry.kind != EntryKind::Directory {
                continue;
            }
            let Ok(fd) = self.beneath.open(&area, OFlags::RDONLY | OFlags::DIRECTORY, 0) else { continue };
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            for leftover in self.list(&area)? {
                self.remove(&format!("{area}/{}", leftover.name))?;
            }
            self.remove(&area)?;
        }
        Ok(())
    }
}

impl Drop for FsDriver {
    fn drop(&mut self) {
        if let Some((_, path)) = lock(&self.area).take() {
            // What is left in it, if anything, the next process removes.
            let _ = rustix::fs::unlinkat(self.beneath.root(), path, AtFlags::REMOVEDIR);
        }
    }
}
