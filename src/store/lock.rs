//! The store-wide lock: any number of processes may add to a tree, but removing something requires exclusive access.
//!
//! It is an `flock(2)` on one file, so it ends with the process that holds it. An exclusive holder writes to the file who it is.
//! Shared holders write nothing; they are looked up in the kernel's list (`/proc/locks`).
//!
//! Readers take no lock, since every change is one atomic rename.

use super::{Store, path, storage};
use crate::error::{Error, ErrorKind, Result, Side};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant, SystemTime};

/// The longest note that is read from a lock file, in bytes.
const MAX_NOTE: usize = 512;
/// Pause between two attempts to take the lock.
const POLL: Duration = Duration::from_millis(20);

/// The store-wide lock, held until this is dropped.
#[derive(Debug)]
pub struct StoreLock {
    file: Option<File>,
    has_note: bool,
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        if let (Some(file), true) = (&self.file, self.has_note) {
            // A note that stays is harmless: it counts only while its process holds the lock.
            let _ = file.set_len(0);
        }
    }
}

impl Store {
    /// Takes the lock for adding to the tree, shared with others that do. Blocks the thread for up to `timeout` while
    /// another process has exclusive access.
    ///
    /// # Errors
    /// `Storage`; if the lock is still taken after `timeout`, the error names the holder.
    pub fn lock_shared(&self, timeout: Duration) -> Result<StoreLock> {
        let file = self.take_lock(false, timeout)?;
        Ok(StoreLock { file, has_note: false })
    }

    /// Takes the lock exclusively, for removing something. `command` tells other processes who has it, such as "prune".
    /// Blocks the thread for up to `timeout` while another process has the lock.
    ///
    /// # Errors
    /// `Storage`; if the lock is still taken after `timeout`, the error names the holders.
    pub fn lock_exclusive(&self, command: &str, timeout: Duration) -> Result<StoreLock> {
        let file = self.take_lock(true, timeout)?;
        if let Some(file) = &file {
            let since = httpdate::fmt_http_date(SystemTime::now());
            let note = format!("{}\n{command}\n{since}\n", std::process::id());
            let written = file.set_len(0).and_then(|()| file.write_all_at(note.as_bytes(), 0));
            written.map_err(|error| storage(&*self.inner.driver, path::LOCK, "write", error))?;
        }
        Ok(StoreLock { has_note: file.is_some(), file })
    }

    /// Keeps other processes from removing anything until the returned lock is dropped. For readers: creates nothing, and returns
    /// `None` if the lock does not exist, can't be opened, or is still held exclusively after `timeout`.
    pub(crate) fn hold_off_removals(&self, timeout: Duration) -> Option<StoreLock> {
        let (file, _) = self.inner.driver.open(path::LOCK).ok()??;
        let file = take(&file, false, timeout).ok()?.then_some(file);
        file.map(|file| StoreLock { file: Some(file), has_note: false })
    }

    fn take_lock(&self, exclusive: bool, timeout: Duration) -> Result<Option<File>> {
        let driver = &*self.inner.driver;
        let file = driver.lock_file(path::LOCK).map_err(|error| self.cannot_open_lock(error))?;
        let Some(file) = file else { return Ok(None) };
        match take(&file, exclusive, timeout) {
            Ok(true) => Ok(Some(file)),
            Ok(false) => {
                let message = format!("the directory is locked by {}", holders(&file));
                Err(Error::new(ErrorKind::Storage, driver.location(path::LOCK), message)
                    .with_hint("wait until it has ended and run the same command again")
                    .with_source(io::Error::from(Errno::WOULDBLOCK))
                    .on(Side::Sink))
            }
            Err(error) => Err(storage(driver, path::LOCK, "lock", error)),
        }
    }

    /// The error for a lock that can't be opened. If permission is denied, it names the owner of the internal directory.
    fn cannot_open_lock(&self, error: io::Error) -> Error {
        let driver = &*self.inner.driver;
        let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
        let error = storage(driver, path::LOCK, "open the lock", error);
        let owner = [path::LOCK, path::INTERNAL, ""].iter().find_map(|path| driver.owner(path).ok()?);
        match owner.filter(|_| is_denied) {
            Some(owner) => {
                let directory = driver.location(path::INTERNAL);
                error.with_hint(format!(
                    "{directory} belongs to {}: run saver as that user, or change the owner of the whole directory",
                    user_name(owner)
                ))
            }
            None => error,
        }
    }
}

/// Takes the lock on `file`; returns whether that succeeded within `timeout`. Polls, since `flock` can't wait with a time limit.
fn take(file: &File, exclusive: bool, timeout: Duration) -> io::Result<bool> {
    let operation = if exclusive {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    let start = Instant::now();
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if start.elapsed() >= timeout => return Ok(false),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(POLL),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The user's name and ID, from `/etc/passwd`: users of directory services are shown by their ID.
fn user_name(id: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == id).then(|| name.to_owned())
    });
    match name {
        Some(name) => format!("user {name}"),
        None => format!("the user with ID {id}"),
    }
}

/// The processes that hold the lock on `file`, for messages.
pub(super) fn holders(file: &File) -> String {
    let processes = processes(file);
    if let Some((process, text)) = note(file)
        && (processes.is_empty() || processes.contains(&process))
    {
        return text;
    }
    match processes.as_slice() {
        [] => "another process".to_owned(),
        some => some.iter().map(|process| process_name(*process)).collect::<Vec<_>>().join(", "),
    }
}

/// The note of an exclusive holder.
fn note(file: &File) -> Option<(u32, String)> {
    let mut content = [0; MAX_NOTE];
    let length = file.read_at(&mut content, 0).ok()?;
    let text = std::str::from_utf8(&content[..length]).ok()?;
    let mut lines = text.lines();
    let process = lines.next()?.parse().ok()?;
    let command = lines.next()?;
    let since = lines.next()?;
    let is_printable = |line: &str| !line.is_empty() && line.chars().all(|character| !character.is_control());
    (is_printable(command) && is_printable(since))
        .then(|| (process, format!("saver {command} (process {process}, since {since})")))
}

/// The processes that hold the lock on `file`, as far as the kernel tells (proc(5), `/proc/locks`).
fn processes(file: &File) -> Vec<u32> {
    let Ok(inode) = file.metadata().map(|metadata| metadata.ino().to_string()) else { return Vec::new() };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let held = locks.lines().filter_map(|line| {
        // "1: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF"; a waiting process has "->" after the number.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, process, on, ..] = fields.as_slice() else { return None };
        on.ends_with(&format!(":{inode}")).then(|| process.parse().ok()).flatten()
    });
    held.filter(|process| *process > 0).collect()
}

fn process_name(process: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{process}/comm")) {
        Ok(name) => {
            let name: String = name.trim().chars().filter(|character| !character.is_control()).collect();
            format!("{name} (process {process})")
        }
        Err(_) => format!("process {process}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Store, StoreOptions};
    use super::*;

    const NO_WAIT: Duration = Duration::ZERO;

    fn store(dir: &std::path::Path) -> Store {
        Store::open(dir, StoreOptions::default()).unwrap()
    }

    #[test]
    fn lock_is_shared_by_writers_and_exclusive_for_removal() {
        let dir = tempfile::tempdir().unwrap();
        let one = store(dir.path());
        let other = store(dir.path());
        assert!(one.hold_off_removals(NO_WAIT).is_none(), "a reader created the lock");
        let first = one.lock_shared(NO_WAIT).unwrap();
        let second = other.lock_shared(NO_WAIT).unwrap();
        let me = format!("process {}", std::process::id());
        let error = other.lock_exclusive("prune", NO_WAIT).unwrap_err();
        assert!(error.message().contains(&me), "{error}");
        drop((first, second));
        let alone = other.lock_exclusive("prune", NO_WAIT).unwrap();
        let error = one.lock_shared(NO_WAIT).unwrap_err();
        assert!(error.message().contains(&format!("saver prune ({me}, since ")), "{error}");
        assert!(one.lock_exclusive("rm", NO_WAIT).is_err());
        assert!(one.hold_off_removals(NO_WAIT).is_none());
        drop(alone);
        let reader = one.hold_off_removals(NO_WAIT).unwrap();
        assert!(other.lock_exclusive("rm", NO_WAIT).is_err());
        drop(reader);
        one.lock_exclusive("rm", NO_WAIT).unwrap();
    }

    #[test]
    fn stale_note_in_the_lock_file_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let held = store.lock_shared(NO_WAIT).unwrap();
        std::fs::write(dir.path().join(path::LOCK), "999999999\nprune\nlong ago\n").unwrap();
        let error = store.lock_exclusive("rm", NO_WAIT).unwrap_err();
        assert!(!error.message().contains("prune"), "{error}");
        drop(held);
    }

    #[test]
    fn user_is_shown_by_name_or_id() {
        assert_eq!(user_name(0), "user root");
        assert_eq!(user_name(3_999_999_999), "the user with ID 3999999999");
    }
}
