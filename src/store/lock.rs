//! The store-wide lock: many may add to a tree at once, but nobody while something is taken away.
//!
//! It is an `flock(2)` on one file, so it ends with the process that holds it, however that ends. A holder that is alone
//! writes into the file who it is; for those that share it nothing is written, and the kernel's own list
//! (`/proc/locks`) is asked who they are.
//!
//! Readers take no lock: every change is one atomic rename.

use super::{Store, path, storage};
use crate::error::{Error, ErrorKind, Result, Side};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::SystemTime;

/// The longest note that is read from a lock file in bytes.
const MAX_NOTE: usize = 512;

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct StoreLock {
    file: Option<File>,
    noted: bool,
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        if let (Some(file), true) = (&self.file, self.noted) {
            // A note that stays does no harm: it counts only while its process holds the lock.
            let _ = file.set_len(0);
        }
    }
}

impl Store {
    /// Takes the lock for adding to the tree, together with others who do.
    ///
    /// With `wait` it blocks the thread until whoever takes something away is done.
    ///
    /// # Errors
    /// `Storage`; without `wait` also when somebody has the lock alone, and who.
    pub fn lock_shared(&self, wait: bool) -> Result<StoreLock> {
        let file = self.take_lock(false, wait)?;
        Ok(StoreLock { file, noted: false })
    }

    /// Takes the lock alone, for taking something away; `command` is what others are told, like "prune".
    ///
    /// With `wait` it blocks the thread until everybody else is done.
    ///
    /// # Errors
    /// `Storage`; without `wait` also when anybody else has the lock, and who.
    pub fn lock_exclusive(&self, command: &str, wait: bool) -> Result<StoreLock> {
        let file = self.take_lock(true, wait)?;
        if let Some(file) = &file {
            let since = httpdate::fmt_http_date(SystemTime::now());
            let note = format!("{}\n{command}\n{since}\n", std::process::id());
            let written = file.set_len(0).and_then(|()| file.write_all_at(note.as_bytes(), 0));
            written.map_err(|error| storage(&*self.inner.driver, path::LOCK, "write", error))?;
        }
        Ok(StoreLock { noted: file.is_some(), file })
    }

    fn take_lock(&self, alone: bool, wait: bool) -> Result<Option<File>> {
        let driver = &*self.inner.driver;
        let file = driver.lock_file(path::LOCK);
        let Some(file) = file.map_err(|error| storage(driver, path::LOCK, "open the lock", error))? else {
            return Ok(None);
        };
        let operation = match (alone, wait) {
            (true, true) => FlockOperation::LockExclusive,
            (true, false) => FlockOperation::NonBlockingLockExclusive,
            (false, true) => FlockOperation::LockShared,
            (false, false) => FlockOperation::NonBlockingLockShared,
        };
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(Some(file)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    let message = format!("the directory is locked by {}", holders(&file));
                    return Err(Error::new(ErrorKind::Storage, driver.location(path::LOCK), message)
                        .with_hint("wait until it has ended and run the same command again")
                        .with_source(std::io::Error::from(Errno::WOULDBLOCK))
                        .on(Side::Sink));
                }
                Err(error) => return Err(storage(driver, path::LOCK, "lock", error.into())),
            }
        }
    }
}

/// Who has the lock, for a person.
fn holders(file: &File) -> String {
    let processes = processes(file);
    if let Some((process, text)) = note(file)
        && (processes.is_empty() || processes.contains(&process))
    {
        return text;
    }
    match processes.as_slice() {
        [] => "another process".to_owned(),
        some => some.iter().map(|process| named(*process)).collect::<Vec<_>>().join(", "),
    }
}

/// What the holder, if it is alone, wrote of itself.
fn note(file: &File) -> Option<(u32, String)> {
    let mut content = [0; MAX_NOTE];
    let length = file.read_at(&mut content, 0).ok()?;
    let text = std::str::from_utf8(&content[..length]).ok()?;
    let mut lines = text.lines();
    let (process, command, since) = (lines.next()?.parse().ok()?, lines.next()?, lines.next()?);
    let printable = |line: &str| !line.is_empty() && line.chars().all(|character| !character.is_control());
    (printable(command) && printable(since))
        .then(|| (process, format!("saver {command} (process {process}, since {since})")))
}

/// The processes that hold `file`'s lock, as far as the kernel tells (proc(5), `/proc/locks`).
fn processes(file: &File) -> Vec<u32> {
    let Ok(inode) = file.metadata().map(|metadata| metadata.ino().to_string()) else { return Vec::new() };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let held = locks.lines().filter_map(|line| {
        // "1: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF"; who waits has "->" after the number.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, process, on, ..] = fields.as_slice() else { return None };
        on.ends_with(&format!(":{inode}")).then(|| process.parse().ok()).flatten()
    });
    held.filter(|process| *process > 0).collect()
}

fn named(process: u32) -> String {
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

    fn store(dir: &std::path::Path) -> Store {
        Store::open(dir, StoreOptions::default()).unwrap()
    }

    #[test]
    fn many_add_or_one_takes_away() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (store(dir.path()), store(dir.path()));
        let first = one.lock_shared(false).unwrap();
        let second = other.lock_shared(false).unwrap();
        let me = format!("process {}", std::process::id());
        let error = other.lock_exclusive("prune", false).unwrap_err();
        assert!(error.message().contains(&me), "{error}");
        drop((first, second));
        let alone = other.lock_exclusive("prune", false).unwrap();
        let error = one.lock_shared(false).unwrap_err();
        assert!(error.message().contains(&format!("saver prune ({me}, since ")), "{error}");
        assert!(one.lock_exclusive("rm", false).is_err());
        drop(alone);
        one.lock_exclusive("rm", true).unwrap();
    }

    #[test]
    fn a_note_that_its_writer_left_behind_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let held = store.lock_shared(false).unwrap();
        std::fs::write(dir.path().join(path::LOCK), "999999999\nprune\nlong ago\n").unwrap();
        let error = store.lock_exclusive("rm", false).unwrap_err();
        assert!(!error.message().contains("prune"), "{error}");
        drop(held);
    }
}
